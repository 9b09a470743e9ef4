//! The envelope as bytes: its header's fixed layout, its name, its bounds. Neither seals, nor signs, nor believes.

use std::fmt;

use bytes::Bytes;
use waypost_proto::hop;

use crate::id::{Class, FlowId, Incarnation, NodeId};

/// The layout that this code writes and reads (rule SEAL-1).
pub const VERSION: u8 = 1;
/// Messages in one envelope, at most.
pub const MAX_COUNT: u32 = 4096;
/// `first + count` of an envelope is at most this (rule SEAL-2).
pub const NUMBER_END: u64 = 1 << 48;
/// The longest lifetime, in milliseconds: 365 days.
pub const MAX_LIFETIME_MS: u64 = 365 * 24 * 60 * 60 * 1000;
/// The longest sealed body, in bytes: one fragment of content, and room for headers and framing.
pub const MAX_SEALED: usize = 384 * 1024;

/// Which numbers of which flow: what an envelope is known by between nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name {
    /// Whose numbers.
    pub flow: FlowId,
    /// The first number carried, from 1.
    pub first: u64,
    /// How many, 1 to [`MAX_COUNT`].
    pub count: u32,
}

impl Name {
    /// The last number carried.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.first.saturating_add(u64::from(self.count)).saturating_sub(1)
    }

    /// Whether the numbers keep the bounds (rule SEAL-2).
    ///
    /// # Errors
    /// Which bound is broken.
    pub fn check(&self) -> Result<(), HeaderError> {
        if self.count == 0 || self.count > MAX_COUNT {
            return Err(HeaderError::Count(self.count));
        }
        let end = self.first.checked_add(u64::from(self.count));
        if self.first == 0 || end.is_none_or(|end| end > NUMBER_END) {
            return Err(HeaderError::Numbers(self.first));
        }
        check_ends(&self.flow)
    }

    /// From its frame; `None` when a part is missing, malformed or out of bounds.
    #[must_use]
    pub fn from_wire(name: &hop::EnvelopeName) -> Option<Self> {
        let name = Self { flow: flow_from_wire(name.flow.as_ref()?)?, first: name.first, count: name.count };
        name.check().is_ok().then_some(name)
    }

    /// For a frame.
    #[must_use]
    pub fn to_wire(&self) -> hop::EnvelopeName {
        hop::EnvelopeName { flow: Some(flow_to_wire(&self.flow)), first: self.first, count: self.count }
    }
}

/// A flow from its frame; `None` when a part is malformed.
#[must_use]
pub fn flow_from_wire(flow: &hop::Flow) -> Option<FlowId> {
    Some(FlowId {
        source: NodeId::from_slice(&flow.source)?,
        destination: NodeId::from_slice(&flow.destination)?,
        class: Class::from_wire(flow.class)?,
        incarnation: Incarnation::from_slice(&flow.incarnation)?,
    })
}

/// A flow for a frame.
#[must_use]
pub fn flow_to_wire(flow: &FlowId) -> hop::Flow {
    hop::Flow {
        source: Bytes::copy_from_slice(&flow.source.0),
        destination: Bytes::copy_from_slice(&flow.destination.0),
        class: flow.class.to_wire(),
        incarnation: Bytes::copy_from_slice(&flow.incarnation.to_bytes()),
    }
}

/// The signed, readable part of an envelope (rule SEAL-1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Which numbers of which flow are inside.
    pub name: Name,
    /// How long the envelope may be kept, in milliseconds; the messages' own lifetimes are inside.
    pub lifetime_ms: u64,
    /// How the body is sealed. A relay carries suites that it does not know.
    pub suite: u8,
    /// Which key of the destination it is sealed to; 0 is the address itself.
    pub recipient_key_id: u32,
    /// The public half of the flow's encapsulation.
    pub encapsulated: [u8; 32],
    /// The keyed hash that binds header and body to each other (rule SEAL-4).
    pub s: [u8; 32],
}

/// Why bytes are not a header that any honest node would send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not the length of the layout.
    #[error("an envelope's header has {len} bytes, not {0}", len = Header::LEN)]
    Length(usize),
    /// A layout of another version.
    #[error("an envelope of layout version {0} came; this node reads version {VERSION}")]
    Version(u8),
    /// Suite 0 does not exist.
    #[error("an envelope names no seal suite")]
    Suite,
    /// No such class.
    #[error("an envelope names class {0}, which does not exist")]
    Class(u8),
    /// Source or destination is all zeros.
    #[error("an envelope lacks its source or destination")]
    Ends,
    /// The first number is 0, or the numbers run past the limit.
    #[error("an envelope's numbers from {0} are out of bounds")]
    Numbers(u64),
    /// No message, or too many.
    #[error("an envelope says it carries {0} messages; 1 to {MAX_COUNT} are allowed")]
    Count(u32),
    /// No lifetime, or one over the limit.
    #[error("an envelope's lifetime of {0} ms is out of bounds")]
    Lifetime(u64),
}

impl Header {
    /// Bytes of H0, all but `s`.
    pub const OUTLINE_LEN: usize = 2 + FlowId::LEN + 8 + 4 + 8 + 4 + 32;
    /// Bytes of H, the whole header.
    pub const LEN: usize = Self::OUTLINE_LEN + 32;

    /// H: the fixed layout of rule SEAL-1, numbers big endian, `s` last. Its first [`Header::OUTLINE_LEN`] bytes are
    /// H0.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let fields: [&[u8]; 8] = [
            &[VERSION, self.suite],
            &self.name.flow.to_bytes(),
            &self.name.first.to_be_bytes(),
            &self.name.count.to_be_bytes(),
            &self.lifetime_ms.to_be_bytes(),
            &self.recipient_key_id.to_be_bytes(),
            &self.encapsulated,
            &self.s,
        ];
        let mut bytes = [0; Self::LEN];
        let mut at = 0;
        for field in fields {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        bytes
    }

    /// Reads H and checks every bound (rules SEAL-1 and SEAL-2).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        if bytes.len() != Self::LEN {
            return Err(HeaderError::Length(bytes.len()));
        }
        let mut rest = Fields(bytes);
        let [version, suite] = rest.take();
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let flow = rest.take::<{ FlowId::LEN }>();
        let flow = FlowId::from_slice(&flow).ok_or(HeaderError::Class(flow[64]))?;
        let header = Self {
            name: Name { flow, first: u64::from_be_bytes(rest.take()), count: u32::from_be_bytes(rest.take()) },
            lifetime_ms: u64::from_be_bytes(rest.take()),
            suite,
            recipient_key_id: u32::from_be_bytes(rest.take()),
            encapsulated: rest.take(),
            s: rest.take(),
        };
        header.check()?;
        Ok(header)
    }

    /// Whether every field keeps its bounds (rule SEAL-2).
    ///
    /// # Errors
    /// Which bound is broken.
    pub fn check(&self) -> Result<(), HeaderError> {
        if self.suite == 0 {
            return Err(HeaderError::Suite);
        }
        if self.lifetime_ms == 0 || self.lifetime_ms > MAX_LIFETIME_MS {
            return Err(HeaderError::Lifetime(self.lifetime_ms));
        }
        self.name.check()
    }
}

fn check_ends(flow: &FlowId) -> Result<(), HeaderError> {
    let nobody = NodeId([0; 32]);
    if flow.source == nobody || flow.destination == nobody { Err(HeaderError::Ends) } else { Ok(()) }
}

/// Takes fixed-size fields off the front of bytes whose length was checked; zeros where there is too little.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk() else { return [0; N] };
        self.0 = rest;
        *field
    }
}

/// Names an envelope to the byte, for `cannot_open` and custody logs (rule SEAL-6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvelopeId(pub [u8; 32]);

impl fmt::Display for EnvelopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for EnvelopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.12}…", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

/// An envelope as its source made it. Whether it is to be believed, `trust::seal::verify` tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedEnvelope {
    /// `header_bytes`, read.
    pub header: Header,
    /// H, as signed and sent.
    pub header_bytes: Bytes,
    /// The sealed body.
    pub sealed: Bytes,
    /// The source's, over H and the hash of `sealed` (rule SEAL-6).
    pub signature: [u8; 64],
}

impl SealedEnvelope {
    /// What names it to the byte (rule SEAL-6). Hashes the sealed body.
    #[must_use]
    pub fn id(&self) -> EnvelopeId {
        envelope_id(&self.header_bytes, &blake3::hash(&self.sealed))
    }
}

/// The id of the envelope with this header and this hash of its sealed body (rule SEAL-6).
#[must_use]
pub fn envelope_id(header_bytes: &[u8], sealed_hash: &blake3::Hash) -> EnvelopeId {
    let mut hasher = blake3::Hasher::new_derive_key("waypost/envelope-id/1");
    EnvelopeId(*hasher.update(header_bytes).update(sealed_hash.as_bytes()).finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Header {
        let flow = FlowId {
            source: NodeId([1; 32]),
            destination: NodeId([2; 32]),
            class: Class::Bulk,
            incarnation: Incarnation { counter: 0x0102, random: [3; 8] },
        };
        Header {
            name: Name { flow, first: 0x0405, count: 0x0607 },
            lifetime_ms: 0x08_090a,
            suite: 1,
            recipient_key_id: 0x0b0c,
            encapsulated: [4; 32],
            s: [5; 32],
        }
    }

    fn decoded(change: impl FnOnce(&mut Header)) -> Result<Header, HeaderError> {
        let mut header = sample();
        change(&mut header);
        Header::decode(&header.encode())
    }

    /// SEAL-1, byte by byte.
    #[test]
    fn the_layout_is_as_written() {
        let fields: [&[u8]; 11] = [
            &[1, 1],
            &[1; 32],
            &[2; 32],
            &[3],
            &[0, 0, 0, 0, 0, 0, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3],
            &[0, 0, 0, 0, 0, 0, 4, 5],
            &[0, 0, 6, 7],
            &[0, 0, 0, 0, 0, 8, 9, 10],
            &[0, 0, 11, 12],
            &[4; 32],
            &[5; 32],
        ];
        assert_eq!(sample().encode().as_slice(), fields.concat());
        assert_eq!((Header::OUTLINE_LEN, Header::LEN), (139, 171));
    }

    /// SEAL-2: every bound, from both sides.
    #[test]
    fn bounds_are_kept() {
        assert_eq!(decoded(|h| h.suite = 0), Err(HeaderError::Suite));
        assert!(decoded(|h| h.suite = 255).is_ok());
        assert_eq!(decoded(|h| h.name.count = 0), Err(HeaderError::Count(0)));
        assert!(decoded(|h| h.name.count = MAX_COUNT).is_ok());
        assert_eq!(decoded(|h| h.name.count = MAX_COUNT + 1), Err(HeaderError::Count(MAX_COUNT + 1)));
        assert_eq!(decoded(|h| h.name.first = 0), Err(HeaderError::Numbers(0)));
        assert_eq!(decoded(|h| h.name.first = u64::MAX), Err(HeaderError::Numbers(u64::MAX)));
        let last_room = NUMBER_END - u64::from(sample().name.count);
        assert!(decoded(|h| h.name.first = last_room).is_ok());
        assert_eq!(decoded(|h| h.name.first = last_room + 1), Err(HeaderError::Numbers(last_room + 1)));
        assert_eq!(decoded(|h| h.lifetime_ms = 0), Err(HeaderError::Lifetime(0)));
        assert!(decoded(|h| h.lifetime_ms = MAX_LIFETIME_MS).is_ok());
        assert!(decoded(|h| h.lifetime_ms = MAX_LIFETIME_MS + 1).is_err());
        assert_eq!(decoded(|h| h.name.flow.source = NodeId([0; 32])), Err(HeaderError::Ends));
        assert_eq!(decoded(|h| h.name.flow.destination = NodeId([0; 32])), Err(HeaderError::Ends));
    }

    /// SEAL-1: another length, version or class is no header.
    #[test]
    fn other_layouts_are_refused() {
        let bytes = sample().encode();
        assert_eq!(Header::decode(&bytes[1..]), Err(HeaderError::Length(170)));
        assert_eq!(Header::decode(&[bytes.as_slice(), &[0]].concat()), Err(HeaderError::Length(172)));
        let mut other = bytes;
        other[0] = 2;
        assert_eq!(Header::decode(&other), Err(HeaderError::Version(2)));
        let mut other = bytes;
        other[66] = 4;
        assert_eq!(Header::decode(&other), Err(HeaderError::Class(4)));
    }

    #[test]
    fn a_name_survives_its_frame_and_keeps_its_bounds() {
        let name = sample().name;
        assert_eq!(Name::from_wire(&name.to_wire()), Some(name));
        assert_eq!(name.last(), 0x0405 + 0x0607 - 1);
        assert_eq!(Name::from_wire(&hop::EnvelopeName { count: 0, ..name.to_wire() }), None);
        assert_eq!(Name::from_wire(&hop::EnvelopeName { flow: None, ..name.to_wire() }), None);
    }

    proptest! {
        /// SEAL-1: whatever decodes encodes to the same bytes.
        #[test]
        fn decoding_is_exact(noise in proptest::collection::vec(any::<u8>(), Header::LEN), keep in 0..Header::LEN) {
            let mut bytes = sample().encode();
            bytes[keep..].copy_from_slice(&noise[keep..]);
            if let Ok(header) = Header::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }
}
