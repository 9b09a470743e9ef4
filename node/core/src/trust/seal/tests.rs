//! What a seal must withstand: change, another reader, another network, a relay that signs in the source's place.

use std::cell::Cell;

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;
use crate::id::{Class, FlowId, Incarnation};

const NETWORK: NetworkId = NetworkId([7; 32]);
const OTHER_NETWORK: NetworkId = NetworkId([8; 32]);
const DAY_MS: u64 = 86_400_000;

fn alice() -> NodeKey {
    NodeKey::from_seed(&[1; 32])
}

fn bob() -> NodeKey {
    NodeKey::from_seed(&[2; 32])
}

fn mallory() -> NodeKey {
    NodeKey::from_seed(&[3; 32])
}

fn name() -> Name {
    let incarnation = Incarnation { counter: 1, random: [9; 8] };
    let flow = FlowId { source: alice().id(), destination: bob().id(), class: Class::Normal, incarnation };
    Name { flow, first: 1, count: 3 }
}

fn drawn() -> Encapsulation {
    Encapsulation::draw(&mut ChaCha20Rng::from_seed([4; 32]), NETWORK, alice().id(), bob().id()).unwrap()
}

fn sealed(body: &[u8]) -> SealedEnvelope {
    seal(&drawn(), NETWORK, &alice(), name(), DAY_MS, body).unwrap()
}

fn verified(envelope: SealedEnvelope) -> Result<VerifiedEnvelope, TrustError> {
    verify(NETWORK, envelope.header_bytes, envelope.sealed, &envelope.signature)
}

/// Signs an envelope anew after a change, as its own source could.
fn signed_again(key: &NodeKey, header: Header, sealed: Bytes) -> SealedEnvelope {
    let header_bytes = header.encode();
    let signature = key.sign(Label::Envelope, NETWORK, &signed_part(&header_bytes, &blake3::hash(&sealed)));
    SealedEnvelope { header, header_bytes: Bytes::copy_from_slice(&header_bytes), sealed, signature }
}

fn flipped(bytes: &[u8], at: usize, bit: u8) -> Bytes {
    let mut changed = bytes.to_vec();
    changed[at % bytes.len()] ^= 1 << (bit % 8);
    changed.into()
}

/// SEAL-3: both ends derive one root; another network, source or destination derives another.
#[test]
fn the_root_belongs_to_network_source_and_destination() {
    let drawn = drawn();
    let recover = |key: &NodeKey, network, source| Encapsulation::recover(key, network, source, drawn.encapsulated);
    assert_eq!(recover(&bob(), NETWORK, alice().id()).unwrap(), drawn);
    assert_ne!(recover(&bob(), OTHER_NETWORK, alice().id()).unwrap().root, drawn.root);
    assert_ne!(recover(&bob(), NETWORK, mallory().id()).unwrap().root, drawn.root);
    assert_ne!(recover(&mallory(), NETWORK, alice().id()).unwrap().root, drawn.root);
    assert!(!format!("{drawn:?}").contains(&format!("{:?}", drawn.root)));
}

/// SEAL-3: an encapsulation serves an hour or 65,536 numbers.
#[test]
fn an_encapsulation_wears_out() {
    assert!(!Encapsulation::is_worn(3_599_999, 65_535));
    assert!(Encapsulation::is_worn(3_600_000, 0));
    assert!(Encapsulation::is_worn(0, 65_536));
}

/// SEAL-3: keys of low order are refused at both ends.
#[test]
fn low_order_keys_are_refused() {
    let low = [0, 1].map(|first| {
        let mut key = [0; 32];
        key[0] = first;
        key
    });
    for key in low {
        assert!(Encapsulation::recover(&bob(), NETWORK, alice().id(), key).is_err());
        let mut rng = ChaCha20Rng::from_seed([5; 32]);
        assert!(Encapsulation::draw(&mut rng, NETWORK, alice().id(), NodeId(key)).is_err());
    }
    let header = Header { encapsulated: low[0], ..sealed(b"body").header };
    let envelope = signed_again(&alice(), header, sealed(b"body").sealed);
    assert_eq!(open(&bob(), NETWORK, &verified(envelope).unwrap()), Err(OpenError::Malformed));
}

/// SEAL-4, SEAL-6: the construction, taken apart with nothing of this module's.
#[test]
fn the_seal_is_as_written() {
    let encapsulation = Encapsulation { encapsulated: [6; 32], root: Zeroizing::new([5; 32]) };
    let envelope = seal(&encapsulation, NETWORK, &alice(), name(), DAY_MS, b"the body").unwrap();
    let (outline, s) = envelope.header_bytes.split_at(139);
    let k_siv = blake3::derive_key("waypost/siv/1", &[5; 32]);
    assert_eq!(*blake3::keyed_hash(&k_siv, &[outline, b"the body"].concat()).as_bytes(), s);
    let k_env = blake3::derive_key("waypost/env-key/1", &[5; 32]);
    let key = blake3::keyed_hash(&k_env, &envelope.header_bytes);
    let cipher = ChaCha20Poly1305::new(<&Key>::from(key.as_bytes()));
    let payload = Payload { msg: &envelope.sealed, aad: &envelope.header_bytes };
    assert_eq!(cipher.decrypt(&Nonce::default(), payload).unwrap(), b"the body");
    let signed = [
        b"waypost/envelope/1\0".as_slice(),
        &NETWORK.0,
        &envelope.header_bytes,
        blake3::hash(&envelope.sealed).as_bytes(),
    ]
    .concat();
    let signature = ed25519_dalek::Signature::from_bytes(&envelope.signature);
    assert!(VerifyKey::parse(alice().id()).unwrap().as_dalek().verify_strict(&signed, &signature).is_ok());
}

/// SEAL-1 to SEAL-6: the bytes of one envelope, pinned. A change here changes the protocol.
#[test]
fn known_bytes() {
    let encapsulation = Encapsulation { encapsulated: [6; 32], root: Zeroizing::new([5; 32]) };
    let envelope = seal(&encapsulation, NETWORK, &alice(), name(), DAY_MS, b"the body").unwrap();
    assert_eq!(envelope.id().to_string(), "adf37021f65345b04726d929f82d606d71fa53c66d12bff3d0878b0ffbf763ba");
    assert_eq!(
        blake3::hash(&envelope.signature).to_hex().as_str(),
        "df8268af2fb01c97866e52332e833dfb158e442094e408d23fc33c5d6ec32ce7"
    );
}

/// SEAL-3: the root for a fixed encapsulated key, also computed from RFC 9180 without this library.
#[test]
fn a_known_root_is_recovered() {
    let recovered = Encapsulation::recover(&bob(), NETWORK, alice().id(), [9; 32]).unwrap();
    assert_eq!(
        Hash::from_bytes(*recovered.root).to_hex().as_str(),
        "f92da3975e8b03b20ab9510045a90207b08006be4235339d5bf46ea1daae472c"
    );
}

/// SEAL-4: no body shares a key with another, and the largest fits.
#[test]
fn different_bodies_have_different_headers() {
    assert_ne!(sealed(b"a").header.s, sealed(b"b").header.s);
    assert_eq!(sealed(&vec![0; MAX_BODY]).sealed.len(), MAX_SEALED);
    let too_large = seal(&drawn(), NETWORK, &alice(), name(), DAY_MS, &vec![0; MAX_BODY + 1]);
    assert_eq!(too_large, Err(SealError::TooLarge(MAX_BODY + 1)));
}

/// SEAL-2: what would be refused on arrival is not sealed.
#[test]
fn only_the_source_seals_and_only_in_bounds() {
    let by = |key: &NodeKey, name, lifetime_ms| seal(&drawn(), NETWORK, key, name, lifetime_ms, b"").err();
    assert_eq!(by(&mallory(), name(), DAY_MS), Some(SealError::NotTheSource));
    assert_eq!(by(&alice(), Name { count: 0, ..name() }, DAY_MS), Some(HeaderError::Count(0).into()));
    assert_eq!(by(&alice(), name(), 0), Some(HeaderError::Lifetime(0).into()));
}

/// SEAL-6: a relay that signs with its own key is not the source, whichever source it names.
#[test]
fn a_relay_cannot_pass_as_the_source() {
    let original = sealed(b"body");
    let signer = alice().id();
    let as_alice = signed_again(&mallory(), original.header, original.sealed.clone());
    assert_eq!(verified(as_alice), Err(TrustError::BadSignature { label: Label::Envelope, signer }));
    let mut header = original.header;
    header.name.flow.source = mallory().id();
    let as_itself = verified(signed_again(&mallory(), header, original.sealed)).unwrap();
    assert_eq!(open(&bob(), NETWORK, &as_itself), Err(OpenError::Malformed));
}

/// SEAL-6: a key handed in for another node verifies nothing.
#[test]
fn the_key_handed_in_must_be_the_sources() {
    let original = sealed(b"body");
    let envelope = signed_again(&mallory(), original.header, original.sealed);
    let key_of = |_| VerifyKey::parse(mallory().id());
    let result = verify_with(NETWORK, key_of, envelope.header_bytes, envelope.sealed, &envelope.signature);
    assert!(result.is_err());
}

/// SEAL-5: only the destination opens; SEAL-6: only its own network verifies.
#[test]
fn other_readers_and_networks_get_nothing() {
    let envelope = sealed(b"body");
    let other = verify(OTHER_NETWORK, envelope.header_bytes.clone(), envelope.sealed.clone(), &envelope.signature);
    assert!(other.is_err());
    let mut for_mallory = envelope.header;
    for_mallory.name.flow.destination = mallory().id();
    let redirected = verified(signed_again(&alice(), for_mallory, envelope.sealed.clone())).unwrap();
    assert_eq!(open(&mallory(), NETWORK, &redirected), Err(OpenError::Malformed));
    let envelope = verified(envelope).unwrap();
    assert_eq!(open(&mallory(), NETWORK, &envelope), Err(OpenError::NotOurs));
    assert_eq!(open(&bob(), OTHER_NETWORK, &envelope), Err(OpenError::Malformed));
}

/// SEAL-5: a source that seals correctly under a wrong `s` is caught after opening.
#[test]
fn a_changed_s_is_detected() {
    let encapsulation = drawn();
    let header = Header { s: [1; 32], ..sealed(b"body").header };
    let header_bytes = header.encode();
    let payload = Payload { msg: b"body".as_slice(), aad: &header_bytes };
    let forged = cipher(&encapsulation.root, &header_bytes).encrypt(&Nonce::default(), payload).unwrap();
    let envelope = verified(signed_again(&alice(), header, forged.into())).unwrap();
    assert_eq!(open(&bob(), NETWORK, &envelope), Err(OpenError::Malformed));
}

/// SEAL-7: what this node has no key or suite for is told apart from what is malformed.
#[test]
fn unknown_suites_and_keys_are_said() {
    let opened = |change: fn(&mut Header)| {
        let mut header = sealed(b"body").header;
        change(&mut header);
        open(&bob(), NETWORK, &verified(signed_again(&alice(), header, sealed(b"body").sealed)).unwrap())
    };
    assert_eq!(opened(|header| header.suite = 9), Err(OpenError::UnknownSuite(9)));
    assert_eq!(opened(|header| header.recipient_key_id = 4), Err(OpenError::UnknownKey(4)));
}

/// SIGN-6: sizes and bounds are looked at before anything is hashed or a key parsed.
#[test]
fn cheap_checks_come_first() {
    let asked = Cell::new(false);
    let key_of = |_| {
        asked.set(true);
        Err(TrustError::RosterFull)
    };
    let envelope = sealed(b"body");
    let check = |header: &Bytes, sealed: Vec<u8>, signature: &[u8]| {
        verify_with(NETWORK, key_of, header.clone(), sealed.into(), signature).unwrap_err()
    };
    assert_eq!(
        check(&envelope.header_bytes, vec![0; MAX_SEALED + 1], &[0; 64]),
        TrustError::SealedSize(MAX_SEALED + 1)
    );
    assert_eq!(check(&envelope.header_bytes, vec![0; 15], &[0; 64]), TrustError::SealedSize(15));
    assert!(matches!(check(&Bytes::new(), vec![0; 16], &[0; 64]), TrustError::Header(_)));
    assert!(matches!(check(&envelope.header_bytes, vec![0; 16], &[0; 63]), TrustError::BadSignature { .. }));
    assert!(!asked.get());
}

/// SEAL-3: the cache opens as without it, forgets the oldest, and keeps nothing that did not open.
#[test]
fn the_cache_of_roots_is_bounded() {
    let mut roots = Roots::new(2);
    for seed in 0..4 {
        let mut rng = ChaCha20Rng::from_seed([seed; 32]);
        let encapsulation = Encapsulation::draw(&mut rng, NETWORK, alice().id(), bob().id()).unwrap();
        let envelope = seal(&encapsulation, NETWORK, &alice(), name(), DAY_MS, &[seed]).unwrap();
        let envelope = verified(envelope).unwrap();
        for _ in 0..2 {
            assert_eq!(roots.open(&bob(), NETWORK, &envelope).unwrap(), [seed]);
        }
        assert_eq!(roots.open(&bob(), OTHER_NETWORK, &envelope), Err(OpenError::Malformed));
    }
    assert_eq!((roots.len(), roots.is_empty()), (2, false));
}

/// SEAL-8: the tag is over every part, in this layout.
#[test]
fn a_tag_speaks_of_number_id_index_and_body() {
    let id = MessageId([1; 16]);
    let tag = message_tag(&[2; 32], 3, id, 4, b"body");
    let layout = [b"waypost/tag/1".as_slice(), &[0, 0, 0, 0, 0, 0, 0, 3], &[1; 16], &[0, 0, 0, 4], b"body"].concat();
    assert_eq!(tag.to_be_bytes(), blake3::keyed_hash(&[2; 32], &layout).as_bytes()[..8]);
    let others = [
        message_tag(&[3; 32], 3, id, 4, b"body"),
        message_tag(&[2; 32], 4, id, 4, b"body"),
        message_tag(&[2; 32], 3, MessageId([2; 16]), 4, b"body"),
        message_tag(&[2; 32], 3, id, 5, b"body"),
        message_tag(&[2; 32], 3, id, 4, b"body."),
    ];
    assert!(!others.contains(&tag));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// SEAL-4, SEAL-5: sealing again gives the same bytes, and they open to what was sealed.
    #[test]
    fn what_is_sealed_opens(body in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(sealed(&body), sealed(&body));
        prop_assert_eq!(open(&bob(), NETWORK, &verified(sealed(&body)).unwrap()).unwrap(), body);
    }

    /// SEAL-6: no bit of header, sealed body or signature can change unnoticed.
    #[test]
    fn a_changed_bit_fails(part in 0..3, at in any::<usize>(), bit in any::<u8>()) {
        let mut envelope = sealed(b"some body");
        match part {
            0 => envelope.header_bytes = flipped(&envelope.header_bytes, at, bit),
            1 => envelope.sealed = flipped(&envelope.sealed, at, bit),
            _ => envelope.signature = flipped(&envelope.signature, at, bit)[..].try_into().unwrap(),
        }
        prop_assert!(verified(envelope).is_err());
    }

    /// SEAL-5: nor does a changed header or body open when the source itself signs the change.
    #[test]
    fn a_changed_bit_does_not_open(in_header in any::<bool>(), at in any::<usize>(), bit in any::<u8>()) {
        let original = sealed(b"some body");
        let (header, body) = if in_header {
            (flipped(&original.header_bytes, at, bit), original.sealed)
        } else {
            (original.header_bytes, flipped(&original.sealed, at, bit))
        };
        let Ok(header) = Header::decode(&header) else { return Ok(()) };
        let Ok(envelope) = verified(signed_again(&alice(), header, body)) else { return Ok(()) };
        prop_assert!(open(&bob(), NETWORK, &envelope).is_err());
    }
}
