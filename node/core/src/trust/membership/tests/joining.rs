//! A node joins: what the issuer checks before it signs, and what it tells the caller to store.

use super::*;

fn examined(world: &World, join: &hop::Join, subject: NodeId, clock: AdmissionClock) -> Result<Admissible, AdmitError> {
    examine(&world.founder_member(), &world.roster, join, subject, clock)
}

/// TRUST-3, TRUST-4: invited, joined, consented, certified: a member for all to check.
#[test]
fn an_invited_node_becomes_a_member() {
    let world = World::new();
    let token = world.token(TERMS, 1);
    let admissible = examined(&world, &token.join(&key(1)), key(1).id(), CLOCK).unwrap();
    assert_eq!((admissible.once(), admissible.invitation_hash()), (false, token.invitation().hash));
    let admission = admissible.certify(&world.founder, None).unwrap();
    assert_eq!(admission.subject, key(1).id());
    let member = verify_chain(world.network(), key(1).id(), &admission.chain).unwrap();
    assert_eq!((member.depth(), member.admitted_ms()), (1, NOW_MS));
}

/// TRUST-6: a clock that cannot be right admits nobody, and the joiner is told to ask another.
#[test]
fn a_clock_behind_admits_nobody() {
    let world = World::new();
    let join = world.token(TERMS, 1).join(&key(1));
    let at = |clock| examined(&world, &join, key(1).id(), clock).map(|_| ());
    let early = AdmissionClock { now_ms: NOW_MS - 2, build_ms: 0, highest_stored_ms: 0 };
    assert_eq!(at(early), Err(AdmitError::ClockBehind));
    assert_eq!(at(AdmissionClock { now_ms: NOW_MS - 1, ..early }), Err(AdmitError::NotYetIssued));
    assert_eq!(at(AdmissionClock { build_ms: NOW_MS + 1, ..CLOCK }), Err(AdmitError::ClockBehind));
    assert_eq!(at(AdmissionClock { highest_stored_ms: NOW_MS + 1, ..CLOCK }), Err(AdmitError::ClockBehind));
    assert_eq!(at(CLOCK), Ok(()));
    assert_eq!(at(later(HOUR_MS - 1)), Ok(()));
    assert_eq!(at(later(HOUR_MS)), Err(AdmitError::Expired));
    assert!(AdmitError::ClockBehind.ask_another() && AdmitError::NotYetIssued.ask_another());
    assert!(!AdmitError::Expired.ask_another());
}

/// TRUST-6: nor does such a clock invite.
#[test]
fn a_clock_behind_invites_nobody() {
    let world = World::new();
    let issue = |key_of: &NodeKey, clock| {
        Token::issue(key_of, &world.founder_member(), TERMS, clock, key(0x99), &[]).map(|token| token.network())
    };
    let behind = AdmissionClock { highest_stored_ms: NOW_MS + 1, ..CLOCK };
    assert_eq!(issue(&world.founder, behind), Err(AdmitError::ClockBehind));
    assert_eq!(issue(&key(9), CLOCK), Err(AdmitError::NotTheIssuer));
    assert_eq!(issue(&world.founder, CLOCK), Ok(world.network()));
}

/// TRUST-3: the peer that is connected is the one that is admitted.
#[test]
fn a_join_is_for_who_brings_it() {
    let world = World::new();
    let join = world.token(TERMS, 1).join(&key(1));
    let refused = |join: &hop::Join, n| examined(&world, join, key(n).id(), CLOCK).map(|_| ()).unwrap_err();
    let swapped = refused(&join, 2);
    assert!(matches!(swapped, AdmitError::Untrusted(TrustError::BadSignature { label: Label::Join, .. })));
    let unconsented = hop::Join { consent: world.token(TERMS, 1).join(&key(2)).consent, ..join.clone() };
    let unconsented = refused(&unconsented, 1);
    assert!(matches!(unconsented, AdmitError::Untrusted(TrustError::BadSignature { label: Label::Consent, .. })));
    let uninvited = refused(&hop::Join { invitation: None, ..join.clone() }, 1);
    assert_eq!(uninvited, AdmitError::Untrusted(TrustError::Malformed("join")));
    let other_invitation = world.token(TERMS, 2).join(&key(1)).invitation;
    assert!(matches!(refused(&hop::Join { invitation: other_invitation, ..join }, 1), AdmitError::Untrusted(_)));
}

/// TRUST-2: an invitation of another network admits nobody here.
#[test]
fn other_networks_do_not_mix() {
    let (world, other) = (World::new(), World::seeded(1));
    let join = other.token(TERMS, 1).join(&key(1));
    let refused = examined(&world, &join, key(1).id(), CLOCK).map(|_| ()).unwrap_err();
    assert_eq!(refused, AdmitError::Untrusted(TrustError::OtherNetwork("invitation")));
}

/// TRUST-5: any member may honour another member's invitation, when it can see that the inviter is one.
#[test]
fn the_inviter_must_be_a_member() {
    let mut world = World::new();
    let (inviter_key, inviter) = world.line(2);
    let join = Token::issue(&inviter_key, &inviter, TERMS, CLOCK, key(0x99), &[]).unwrap().join(&key(5));
    let examined_by = |world: &World, join: &hop::Join| examined(world, join, key(5).id(), CLOCK).map(|_| ());
    assert_eq!(examined_by(&world, &join), Ok(()));
    let bare = hop::Join { chain: Vec::new(), ..join.clone() };
    assert_eq!(examined_by(&world, &bare), Err(AdmitError::InviterUnknown(inviter.id())));
    let another = hop::Join { chain: world.admit(1, &key(7)), ..join };
    assert_eq!(examined_by(&world, &another), Err(AdmitError::InviterUnknown(inviter.id())));
    world.roster.admit_chain(inviter.id(), &inviter.chain()).unwrap();
    assert_eq!(examined_by(&world, &bare), Ok(()));
}

/// TRUST-5: an inviter that no member admitted can invite nobody, however well it signs.
#[test]
fn a_stranger_cannot_invite() {
    let world = World::new();
    let elsewhere = World::seeded(1);
    let content = hop::InvitationContent {
        network: Bytes::copy_from_slice(&world.network().0),
        invitation_key: Bytes::copy_from_slice(&key(0x81).id().0),
        inviter: Bytes::copy_from_slice(&key(9).id().0),
        once: false,
        issued_ms: NOW_MS,
        expires_ms: NOW_MS + HOUR_MS,
    };
    let invitation = sign_message(&key(9), Label::Invitation, world.network(), &content);
    let accepted = acceptance(&invitation_hash(&invitation), key(1).id());
    let by = |key: NodeKey, label| Bytes::copy_from_slice(&key.sign(label, world.network(), &accepted));
    let join = hop::Join {
        join: by(key(0x81), Label::Join),
        consent: by(key(1), Label::Consent),
        invitation: Some(invitation),
        chain: elsewhere.admit(9, &key(9)),
    };
    let refused = examined(&world, &join, key(1).id(), CLOCK).map(|_| ());
    assert_eq!(refused, Err(AdmitError::InviterUnknown(key(9).id())));
}

/// TRUST-7: one subject, again and again, and no other; and by the inviter only.
#[test]
fn a_single_use_invitation_admits_one() {
    let world = World::new();
    let token = world.token(Terms { once: true, ..TERMS }, 1);
    let certify = |n: u8, used_by: Option<u8>| {
        let admissible = examined(&world, &token.join(&key(n)), key(n).id(), CLOCK).unwrap();
        admissible.certify(&world.founder, used_by.map(|n| key(n).id()))
    };
    let first = certify(1, None).unwrap();
    assert!(first.once);
    assert_eq!(first.invitation_hash, token.invitation().hash);
    assert_eq!(certify(1, Some(1)), Ok(first));
    assert_eq!(certify(2, Some(1)), Err(AdmitError::Used));
    let (_, other) = world.line(1);
    let elsewhere = examine(&other, &world.roster, &token.join(&key(3)), key(3).id(), CLOCK).map(|_| ());
    assert_eq!(elsewhere.unwrap_err(), AdmitError::OnceElsewhere(world.founder.id()));
}

/// TRUST-7: a reusable invitation asks nothing of the store.
#[test]
fn a_reusable_invitation_admits_many() {
    let world = World::new();
    let token = world.token(TERMS, 1);
    for n in 1..4 {
        let admissible = examined(&world, &token.join(&key(n)), key(n).id(), CLOCK).unwrap();
        assert!(admissible.certify(&world.founder, Some(key(1).id())).is_ok());
    }
}

/// TRUST-4: only the issuer's own key signs.
#[test]
fn only_the_issuer_certifies() {
    let world = World::new();
    let admissible = examined(&world, &world.token(TERMS, 1).join(&key(1)), key(1).id(), CLOCK).unwrap();
    assert_eq!(admissible.certify(&key(1), None), Err(AdmitError::NotTheIssuer));
}
