//! Every rule of a chain, broken by somebody who can sign with the keys it takes.

use super::*;

/// The content of the nearest certificate of a chain.
fn content(chain: &[hop::Signed]) -> hop::CertificateContent {
    hop::CertificateContent::decode(chain[0].content.clone()).unwrap()
}

/// The chain with its nearest certificate changed, and signed again by `issuer`.
fn changed(
    world: &World,
    issuer: &NodeKey,
    chain: &[hop::Signed],
    change: impl FnOnce(&mut hop::CertificateContent),
) -> Vec<hop::Signed> {
    let mut content = content(chain);
    change(&mut content);
    let mut chain = chain.to_vec();
    chain[0] = sign_message(issuer, Label::Certificate, world.network(), &content);
    chain
}

fn field(node: NodeId) -> Bytes {
    Bytes::copy_from_slice(&node.0)
}

/// Node 1, admitted by the founder, with its certificate changed and signed again by the founder.
fn refused(change: impl FnOnce(&World, &mut hop::CertificateContent)) -> TrustError {
    let world = World::new();
    let chain = world.admit(1, &key(1));
    let chain = changed(&world, &world.founder, &chain, |content| change(&world, content));
    verify_chain(world.network(), key(1).id(), &chain).unwrap_err()
}

/// An invitation of the world's network by `inviter`, changed, signed by `signer`; with join and consent for `subject`.
fn admission_on(
    world: &World,
    signer: &NodeKey,
    subject: &NodeKey,
    change: impl FnOnce(&mut hop::InvitationContent),
) -> (hop::Signed, Bytes, Bytes) {
    let secret = key(0x81);
    let mut content = hop::InvitationContent {
        network: Bytes::copy_from_slice(&world.network().0),
        invitation_key: field(secret.id()),
        inviter: field(signer.id()),
        once: false,
        issued_ms: NOW_MS,
        expires_ms: NOW_MS + HOUR_MS,
    };
    change(&mut content);
    let invitation = sign_message(signer, Label::Invitation, world.network(), &content);
    let accepted = acceptance(&invitation_hash(&invitation), subject.id());
    let by = |key: &NodeKey, label| Bytes::copy_from_slice(&key.sign(label, world.network(), &accepted));
    (invitation, by(&secret, Label::Join), by(subject, Label::Consent))
}

/// TRUST-1: the founder's certificate is the network key's, and only at depth 0.
#[test]
fn a_network_is_founded() {
    let world = World::new();
    let chain = [world.founding.certificate.clone()];
    let founder = verify_chain(world.network(), world.founder.id(), &chain).unwrap();
    assert_eq!((founder.depth(), founder.admitted_ms(), founder.issuer()), (0, NOW_MS - 1, None));
    assert_eq!(founder.chain(), chain);
    assert_ne!(World::seeded(1).network(), world.network());
}

/// TRUST-1: nobody else founds it, and a founder brings no invitation.
#[test]
fn a_founder_needs_the_network_key() {
    let world = World::new();
    let chain = [world.founding.certificate.clone()];
    let verify = |chain: &[hop::Signed]| verify_chain(world.network(), world.founder.id(), chain).unwrap_err();
    let by_itself = changed(&world, &world.founder, &chain, |_| ());
    assert!(matches!(verify(&by_itself), TrustError::BadSignature { label: Label::Certificate, .. }));
    let own_issuer = changed(&world, &world.founder, &chain, |content| content.issuer = field(world.founder.id()));
    assert_eq!(verify(&own_issuer), TrustError::BrokenChain(world.founder.id()));
    let invited = changed(&world, &world.founder, &chain, |content| content.consent = Bytes::from_static(b"x"));
    assert_eq!(verify(&invited), TrustError::Malformed("founder's certificate"));
    let other = World::seeded(1);
    assert_eq!(verify_chain(other.network(), world.founder.id(), &chain), Err(TrustError::OtherNetwork("certificate")));
}

/// TRUST-5: thirty-two steps are a chain, and the member at the end of them admits nobody.
#[test]
fn a_chain_has_at_most_thirty_two_steps() {
    let world = World::new();
    let (last_key, last) = world.line(MAX_DEPTH);
    assert_eq!(verify_chain(world.network(), last.id(), &last.chain()).unwrap(), last);
    assert_eq!((last.depth(), last.chain().len()), (32, 33));
    let join = Token::issue(&last_key, &last, TERMS, CLOCK, key(0x99), &[]).unwrap().join(&key(70));
    let refused = examine(&last, &world.roster, &join, key(70).id(), CLOCK).unwrap_err();
    assert_eq!(refused, AdmitError::TooDeep);
    let (invitation, join, consent) = admission_on(&world, &last_key, &key(70), |_| ());
    let mut content = content(&last.chain());
    content.subject = field(key(70).id());
    content.issuer = field(last.id());
    content.depth = 33;
    (content.invitation, content.join, content.consent) = (Some(invitation), join, consent);
    let too_deep = sign_message(&last_key, Label::Certificate, world.network(), &content);
    let mut chain = vec![too_deep.clone()];
    chain.extend(last.chain());
    let long = verify_chain(world.network(), key(70).id(), &chain);
    assert_eq!(long, Err(TrustError::TooLarge("chain of certificates")));
    let mut roster = world.roster.clone();
    roster.admit_chain(last.id(), &last.chain()).unwrap();
    let known_issuer = roster.admit_chain(key(70).id(), &[too_deep, last.certificate().clone()]);
    assert_eq!(known_issuer, Err(TrustError::Depth(key(70).id())));
}

/// TRUST-5: depth is the issuer's and one; a step left out, doubled or swapped breaks the chain.
#[test]
fn a_chain_has_every_step() {
    let world = World::new();
    let (_, last) = world.line(3);
    let chain = last.chain();
    let verify = |chain: &[&hop::Signed]| {
        let chain: Vec<hop::Signed> = chain.iter().map(|one| (*one).clone()).collect();
        verify_chain(world.network(), last.id(), &chain).unwrap_err()
    };
    let [c3, c2, c1, c0] = [0, 1, 2, 3].map(|i| &chain[i]);
    assert_eq!(verify(&[]), TrustError::NotAMember(last.id()));
    assert_eq!(verify(&[c3, c2, c0]), TrustError::Depth(key(2).id()));
    assert_eq!(verify(&[c3, c2, c1]), TrustError::Depth(key(1).id()));
    assert_eq!(verify(&[c3, c1, c2, c0]), TrustError::Depth(key(2).id()));
    assert_eq!(verify(&[c3, c2, c1, c0, c0]), TrustError::Depth(world.founder.id()));
    let other = TrustError::OtherSubject { wanted: last.id(), found: key(2).id() };
    assert_eq!(verify(&[c2, c1, c0]), other);
    assert_eq!(refused(|_, content| content.depth = 2), TrustError::Depth(key(1).id()));
    assert_eq!(refused(|_, content| content.depth = 0), TrustError::Depth(key(1).id()));
}

/// TRUST-4: only the member named as issuer can have signed.
#[test]
fn a_certificate_is_its_issuers() {
    let world = World::new();
    let chain = world.admit(1, &key(1));
    let verify = |chain: &[hop::Signed]| verify_chain(world.network(), key(1).id(), chain).unwrap_err();
    let forged = changed(&world, &key(9), &chain, |_| ());
    assert!(matches!(verify(&forged), TrustError::BadSignature { label: Label::Certificate, .. }));
    let stranger = changed(&world, &key(9), &chain, |content| content.issuer = field(key(9).id()));
    assert_eq!(verify(&stranger), TrustError::BrokenChain(key(1).id()));
}

/// TRUST-3: invitation key and subject each signed for this subject; nobody can be put in their place.
#[test]
fn a_certificate_is_for_who_consented() {
    let swapped = refused(|_, content| content.subject = field(key(2).id()));
    assert!(matches!(swapped, TrustError::BadSignature { label: Label::Join, .. }));
    let no_consent = refused(|_, content| content.consent = content.join.clone());
    assert!(matches!(no_consent, TrustError::BadSignature { label: Label::Consent, .. }));
    let no_join = refused(|_, content| content.join = content.consent.clone());
    assert!(matches!(no_join, TrustError::BadSignature { label: Label::Join, .. }));
    let weak = refused(|_, content| content.subject = Bytes::from(vec![0; 32]));
    assert!(matches!(weak, TrustError::BadSignature { label: Label::Join, .. }));
    let other_invitation = refused(|world, content| {
        content.invitation = Some(admission_on(world, &world.founder, &key(1), |c| c.issued_ms -= 1).0);
    });
    assert!(matches!(other_invitation, TrustError::BadSignature { label: Label::Join, .. }));
}

/// SIGN-4: a subject whose address is no key is no member, even when everything else is signed for it.
#[test]
fn a_weak_subject_key_is_refused() {
    let world = World::new();
    let mut content = content(std::slice::from_ref(&world.founding.certificate));
    content.subject = Bytes::from(vec![0; 32]);
    let mut network_key = ChaCha20Rng::from_seed([0; 32]);
    let signed = sign_message(&NodeKey::draw(&mut network_key), Label::Certificate, world.network(), &content);
    let weak = NodeId([0; 32]);
    assert_eq!(verify_chain(world.network(), weak, &[signed]), Err(TrustError::BadKey(weak)));
}

/// TRUST-2, TRUST-4: the invitation is whole, the inviter's own, and of this network.
#[test]
fn a_certificate_holds_a_true_invitation() {
    assert_eq!(refused(|_, content| content.invitation = None), TrustError::Malformed("certificate"));
    let forged = refused(|world, content| {
        let inviter = field(world.founder.id());
        let (invitation, join, consent) = admission_on(world, &key(9), &key(1), |c| c.inviter = inviter);
        (content.invitation, content.join, content.consent) = (Some(invitation), join, consent);
    });
    assert!(matches!(forged, TrustError::BadSignature { label: Label::Invitation, .. }));
    let elsewhere = refused(|world, content| {
        let network = Bytes::from_static(&[5; 32]);
        let (invitation, join, consent) = admission_on(world, &world.founder, &key(1), |c| c.network = network);
        (content.invitation, content.join, content.consent) = (Some(invitation), join, consent);
    });
    assert_eq!(elsewhere, TrustError::OtherNetwork("invitation"));
    let huge = refused(|_, content| content.consent = Bytes::from(vec![0; MAX_CERTIFICATE]));
    assert_eq!(huge, TrustError::TooLarge("certificate"));
    assert_eq!(refused(|_, content| content.issuer = Bytes::new()), TrustError::Malformed("certificate"));
    assert_eq!(refused(|_, content| content.network = Bytes::new()), TrustError::OtherNetwork("certificate"));
}

/// TRUST-4: issued ≤ admitted ≤ expires, by the certificate's own word.
#[test]
fn a_certificate_is_dated_in_the_invitations_time() {
    let world = World::new();
    let chain = world.admit(1, &key(1));
    let at = |admitted_ms| {
        let chain = changed(&world, &world.founder, &chain, |content| content.admitted_ms = admitted_ms);
        verify_chain(world.network(), key(1).id(), &chain).map(|member| member.admitted_ms())
    };
    let out = Err(TrustError::OutOfTime(key(1).id()));
    assert_eq!(at(NOW_MS - 1), out);
    assert_eq!(at(NOW_MS), Ok(NOW_MS));
    assert_eq!(at(NOW_MS + HOUR_MS), Ok(NOW_MS + HOUR_MS));
    assert_eq!(at(NOW_MS + HOUR_MS + 1), out);
}

/// TRUST-7: a single-use invitation is believed from the inviter's own hand only.
#[test]
fn once_is_for_the_inviter_alone() {
    let world = World::new();
    let (other_key, other) = world.line(1);
    let (invitation, join, consent) = admission_on(&world, &world.founder, &key(2), |c| c.once = true);
    let mut forged = content(&world.admit_by(&other_key, &other, 2, &key(2)));
    (forged.invitation, forged.join, forged.consent) = (Some(invitation), join, consent);
    let mut chain = vec![sign_message(&other_key, Label::Certificate, world.network(), &forged)];
    chain.extend(other.chain());
    let refused = verify_chain(world.network(), key(2).id(), &chain);
    assert_eq!(refused, Err(TrustError::OnceElsewhere(key(2).id())));
}

/// TRUST-10: a chain makes all its members known; a broken one makes nobody known.
#[test]
fn the_roster_knows_everyone_on_a_chain() {
    let mut world = World::new();
    let (_, last) = world.line(3);
    let mut broken = last.chain();
    broken[0].signature = Bytes::from_static(&[0; 64]);
    assert!(world.roster.admit_chain(last.id(), &broken).is_err());
    assert_eq!(world.roster.len(), 1);
    assert_eq!(world.roster.admit_chain(last.id(), &last.chain()).unwrap(), last);
    assert_eq!(world.roster.len(), 4);
    assert!([1, 2, 3].iter().all(|n| world.roster.is_member(&key(*n).id())));
    assert_eq!(world.roster.chain_of(&last.id()), Some(last.chain()));
    assert_eq!(world.roster.chain_of(&key(9).id()), None);
    assert_eq!(world.roster.admit_chain(key(9).id(), &[]), Err(TrustError::NotAMember(key(9).id())));
    assert_eq!(world.roster.admit_chain(last.id(), &[]).unwrap(), last);
}

/// TRUST-10: what is above a known certificate is not looked at again.
#[test]
fn each_certificate_is_checked_once() {
    let mut world = World::new();
    let (_, middle) = world.line(2);
    let (_, last) = world.line(3);
    world.roster.admit_chain(middle.id(), &middle.chain()).unwrap();
    let short = &last.chain()[..2];
    assert!(verify_chain(world.network(), last.id(), short).is_err());
    assert_eq!(world.roster.admit_chain(last.id(), short).unwrap(), last);
}

/// TRUST-10: a full roster takes nobody new, not even a part of a chain, and loses nobody.
#[test]
fn the_roster_is_bounded() {
    let world = World::new();
    let (_, last) = world.line(3);
    let mut small = Roster::with_capacity(world.network(), 3);
    assert_eq!(small.admit_chain(last.id(), &last.chain()), Err(TrustError::RosterFull));
    assert!(small.is_empty());
    small.admit_chain(key(2).id(), &last.chain()[1..]).unwrap();
    assert_eq!(small.admit_chain(last.id(), &last.chain()), Err(TrustError::RosterFull));
    assert_eq!(small.members().count(), 3);
    assert!(small.admit_chain(key(1).id(), &last.chain()[2..]).is_ok());
}

/// TRUST-8: who is closer to the founder can shorten a chain, and the shorter chain is the one kept.
#[test]
fn a_shorter_chain_is_issued_and_kept() {
    let mut world = World::new();
    let founder = world.founder_member();
    let (last_key, last) = world.line(3);
    world.roster.admit_chain(last.id(), &last.chain()).unwrap();
    let below = world.admit_by(&last_key, &last, 4, &key(4));
    world.roster.admit_chain(key(4).id(), &below).unwrap();
    let shorter = reissue(&world.founder, &founder, &last).unwrap();
    let broken = [hop::Signed { signature: Bytes::new(), ..shorter[0].clone() }, shorter[1].clone()];
    assert_eq!(world.roster.admit_chain(last.id(), &broken).unwrap(), last);
    let member = world.roster.admit_chain(last.id(), &shorter).unwrap();
    assert_eq!((member.depth(), member.admitted_ms()), (1, last.admitted_ms()));
    assert_eq!(world.roster.chain_of(&last.id()), Some(shorter));
    assert_eq!(world.roster.admit_chain(last.id(), &last.chain()).unwrap(), member);
    assert_eq!(world.roster.chain_of(&key(4).id()), Some(below));
    assert_eq!(reissue(&world.founder, &founder, &member), None);
    assert_eq!(reissue(&key(1), &founder, &last), None);
    assert_eq!(reissue(&last_key, &last, &member), None);
}

/// TRUST-7, TRUST-8: what was admitted on a single-use invitation keeps its issuer.
#[test]
fn a_single_use_admission_is_not_shortened_by_others() {
    let world = World::new();
    let (issuer_key, issuer) = world.line(2);
    let terms = Terms { once: true, ..TERMS };
    let token = Token::issue(&issuer_key, &issuer, terms, CLOCK, key(0x99), &[]).unwrap();
    let admissible = examine(&issuer, &world.roster, &token.join(&key(3)), key(3).id(), CLOCK).unwrap();
    let chain = admissible.certify(&issuer_key, None).unwrap().chain;
    let member = verify_chain(world.network(), key(3).id(), &chain).unwrap();
    assert_eq!(reissue(&world.founder, &world.founder_member(), &member), None);
}
