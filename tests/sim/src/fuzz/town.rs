//! Members of one network with keys that every run has alike, so that an input means the same whenever it is replayed.
//! Signs and seals for those of them that lie.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use anyhow::Context as _;
use bytes::Bytes;
use prost::Message as _;
use waypost_core::envelope::{Name, SealedEnvelope};
use waypost_core::id::{Class, FlowId, Incarnation, NetworkId, NodeId};
use waypost_core::trust::{
    AdmissionClock, Encapsulation, Label, NodeKey, Roster, Statement, Terms, Token, examine, found, seal,
};
use waypost_proto::hop::{self, frame::Kind};

use crate::rng::Rng;

/// When the network was founded, unix milliseconds.
pub const FOUNDED_MS: u64 = 1_700_000_000_000;
/// How many members there are.
pub const MEMBERS: usize = 6;
/// The node that is tried.
pub const NODE: usize = 0;
/// Members that keep to the protocol; the others lie.
pub const HONEST: [usize; 3] = [NODE, 2, 3];
/// Sixteen bytes that stand for the tried node's incarnation, which an input cannot know.
pub const ITS_INCARNATION: [u8; 16] = [0xee; 16];

/// A member.
pub struct Resident {
    /// Its key.
    pub key: NodeKey,
    /// Its certificates.
    pub chain: Vec<hop::Signed>,
}

/// All of them.
pub struct Town {
    /// Their network.
    pub network: NetworkId,
    /// The first founded it and admitted the others.
    pub members: Vec<Resident>,
    /// A token of the first, as a person would carry it.
    pub token: String,
    /// What a stranger with that token asks with.
    pub join: hop::Join,
    drawn: BTreeMap<(usize, NodeId), Encapsulation>,
}

impl Town {
    /// The same members every time.
    ///
    /// # Errors
    /// When they cannot be admitted to one network: a defect.
    pub fn new() -> anyhow::Result<Self> {
        let mut rng = Rng::of(0, "fuzz town", 0);
        let keys: Vec<NodeKey> = (0..MEMBERS).map(|_| NodeKey::draw(rng.source())).collect();
        let founding = found(rng.source(), keys[0].id(), FOUNDED_MS);
        let mut roster = Roster::new(founding.network);
        roster.admit_chain(keys[0].id(), std::slice::from_ref(&founding.certificate))?;
        let founder = roster.member(&keys[0].id()).context("the founder is no member")?;
        let terms = Terms { once: false, lifetime_ms: 10_000_000_000 };
        let addresses = ["/ip4/192.0.2.1/tcp/4001".to_owned()];
        let token = Token::issue(&keys[0], founder, terms, clock(), NodeKey::draw(rng.source()), &addresses)?;
        let mut members = vec![Resident { key: keys[0].clone(), chain: vec![founding.certificate.clone()] }];
        for key in keys.iter().skip(1) {
            let admissible = examine(founder, &roster, &token.join(key), key.id(), clock())?;
            members.push(Resident { key: key.clone(), chain: admissible.certify(&keys[0], None)?.chain });
        }
        let join = token.join(&stranger());
        let token = token.to_text().to_string();
        Ok(Self { network: founding.network, members, token, join, drawn: BTreeMap::new() })
    }

    /// A member's address.
    #[must_use]
    pub fn id(&self, member: usize) -> NodeId {
        self.members[member % MEMBERS].key.id()
    }

    /// A roster of one that knows the founder.
    ///
    /// # Errors
    /// When the founder is no member: a defect.
    pub fn roster(&self) -> anyhow::Result<Roster> {
        let mut roster = Roster::new(self.network);
        roster.admit_chain(self.id(0), &self.members[0].chain)?;
        Ok(roster)
    }

    fn key_of(&self, node: &[u8], may: &[usize]) -> Option<&NodeKey> {
        may.iter().map(|member| &self.members[*member].key).find(|key| key.id().0.as_slice() == node)
    }

    /// A statement, signed by a member.
    #[must_use]
    pub fn sign<T: Statement>(&self, member: usize, content: &T) -> hop::Signed {
        let content = Bytes::from(content.encode_to_vec());
        let signature = self.members[member].key.sign(T::LABEL, self.network, &content);
        hop::Signed { content, signature: Bytes::copy_from_slice(&signature) }
    }

    /// Signs what a frame carries anew, as whichever of the members `may` could have: what they say in it is then
    /// theirs. What is nobody's of them stays as it is.
    pub fn sign_anew(&self, frame: &mut hop::Frame, may: &[usize]) {
        match &mut frame.kind {
            Some(Kind::Word(attested)) => self.sign_statement::<hop::WordContent>(attested, may),
            Some(Kind::Receipt(attested)) => self.sign_statement::<hop::ReceiptContent>(attested, may),
            Some(Kind::Fact(attested)) => self.sign_statement::<hop::FactContent>(attested, may),
            Some(Kind::Envelope(envelope)) => {
                let signer = envelope.header.get(2..34).and_then(|source| self.key_of(source, may));
                if let Some(key) = signer {
                    let signed = [envelope.header.as_ref(), blake3::hash(&envelope.sealed).as_bytes()].concat();
                    envelope.signature = Bytes::copy_from_slice(&key.sign(Label::Envelope, self.network, &signed));
                }
            }
            Some(Kind::Twin(hop::Twin {
                step: Some(hop::twin::Step::Signed(signed) | hop::twin::Step::Proof(signed)),
            })) => {
                let content = hop::TwinContent::decode(signed.content.clone()).unwrap_or_default();
                self.sign_one(signed, Label::Twin, &content.node, may);
            }
            _ => {}
        }
    }

    fn sign_statement<T: Statement>(&self, attested: &mut hop::Attested, may: &[usize]) {
        let Some(signed) = &mut attested.object else { return };
        let signer = T::decode(signed.content.clone()).ok().and_then(|content| content.signer());
        if let Some(signer) = signer {
            self.sign_one(signed, T::LABEL, &signer.0, may);
        }
    }

    /// Signs content as the member at this address, if it is one of `may`.
    pub fn sign_one(&self, signed: &mut hop::Signed, label: Label, signer: &[u8], may: &[usize]) {
        if let Some(key) = self.key_of(signer, may) {
            signed.signature = Bytes::copy_from_slice(&key.sign(label, self.network, &signed.content));
        }
    }

    /// A body sealed by a member; `None` when the name or the lifetime is out of bounds.
    pub fn seal(&mut self, from: usize, name: Name, lifetime_ms: u64, body: &[u8]) -> Option<SealedEnvelope> {
        let to = name.flow.destination;
        let (network, key) = (self.network, &self.members[from].key);
        let drawn = match self.drawn.entry((from, to)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let mut rng = Rng::of(0, "fuzz seal", from as u64);
                place.insert(Encapsulation::draw(rng.source(), network, key.id(), to).ok()?)
            }
        };
        seal::seal(drawn, network, key, name, lifetime_ms, body).ok()
    }

    /// A frame with an envelope in it, with the source's chain.
    #[must_use]
    pub fn envelope_frame(&self, from: usize, sealed: SealedEnvelope, transfer: u64) -> hop::Envelope {
        hop::Envelope {
            transfer,
            header: sealed.header_bytes,
            sealed: sealed.sealed,
            signature: Bytes::copy_from_slice(&sealed.signature),
            age_ms: 5,
            hops: 1,
            tickets: 1,
            wave: 1,
            chain: self.members[from].chain.clone(),
        }
    }

    /// A flow between two members.
    #[must_use]
    pub fn flow(&self, from: usize, to: usize, class: Class, counter: u64) -> FlowId {
        let incarnation = Incarnation { counter, random: [counter as u8; 8] };
        FlowId { source: self.id(from), destination: self.id(to), class, incarnation }
    }
}

/// A key that is no member's.
#[must_use]
pub fn stranger() -> NodeKey {
    NodeKey::from_seed(&[0x55; 32])
}

/// A clock at which everything here is in its time.
#[must_use]
pub fn clock() -> AdmissionClock {
    AdmissionClock { now_ms: FOUNDED_MS + 1000, build_ms: 0, highest_stored_ms: 0 }
}

/// A plain body: the key of the tags, then messages.
#[must_use]
pub fn plain(items: &[hop::Item]) -> Vec<u8> {
    let mut body = vec![7; 32];
    items.iter().for_each(|item| body.extend(item.encode_length_delimited_to_vec()));
    body
}

/// A message that any destination takes.
#[must_use]
pub fn item(body: &[u8]) -> hop::Item {
    hop::Item {
        id: Bytes::from_static(&[1, 2, 3, 4, 5, 6, 0x70, 8, 0x80, 10, 11, 12, 13, 14, 15, 16]),
        channel: "orders".to_owned(),
        sent_at_ms: FOUNDED_MS,
        lifetime_ms: 86_400_000,
        size: body.len() as u64,
        body: Bytes::copy_from_slice(body),
        ..Default::default()
    }
}
