//! Who and what is named: nodes, incarnations, flows, messages. Values with their invariants, nothing else.

use std::fmt;
use std::str::FromStr;

/// A node's address: its Ed25519 public key. Shown and read as a libp2p `PeerId` (base58, `12D3KooW…`).
///
/// The 32 bytes are only a name; `trust::keys` decides whether they are a key worth verifying with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

/// Multihash `identity`, 36 bytes of a protobuf public key of type Ed25519 with 32 bytes of data (libp2p peer-id spec).
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// Why a text is not a node's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not base58 of the right length.
    #[error("{0:?} is not a node address: an address looks like 12D3KooW… (52 characters)")]
    Malformed(String),
    /// A PeerId, but not of an Ed25519 key.
    #[error("{0:?} is a PeerId of another kind: only Ed25519 keys (12D3KooW…) are node addresses")]
    OtherKind(String),
}

impl NodeId {
    /// The address as bytes of a libp2p PeerId.
    #[must_use]
    pub fn to_peer_id_bytes(self) -> Vec<u8> {
        [PEER_ID_PREFIX.as_slice(), &self.0].concat()
    }

    /// From the bytes of a libp2p PeerId; `None` when it is not of an Ed25519 key.
    #[must_use]
    pub fn from_peer_id_bytes(bytes: &[u8]) -> Option<Self> {
        let key = bytes.strip_prefix(PEER_ID_PREFIX.as_slice())?;
        Some(Self(key.try_into().ok()?))
    }

    /// From 32 bytes; `None` for any other length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    /// The bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_peer_id_bytes()).into_string())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_string();
        write!(f, "…{}", &text[text.len().saturating_sub(6)..])
    }
}

impl FromStr for NodeId {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let malformed = || AddressError::Malformed(text.to_owned());
        if text.len() > 64 {
            return Err(malformed());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| malformed())?;
        match Self::from_peer_id_bytes(&bytes) {
            Some(node) => Ok(node),
            None if bytes.len() > 32 => Err(AddressError::OtherKind(text.to_owned())),
            None => Err(malformed()),
        }
    }
}

/// The name of a network: the public key that certified its founder (rule TRUST-1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub [u8; 32]);

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.0).into_string())
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One start of a node: a durable start counter and 8 random bytes (rule FLOW-2).
///
/// Two starts never share one, also after a rollback: the random part differs. Only display looks at the counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation {
    /// How many starts the data directory has seen, this one included.
    pub counter: u64,
    /// Drawn at the start.
    pub random: [u8; 8],
}

impl Incarnation {
    /// Sixteen bytes: the counter, big endian, then the random part.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.counter.to_be_bytes());
        bytes[8..].copy_from_slice(&self.random);
        bytes
    }

    /// From sixteen bytes; `None` for any other length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 16] = bytes.try_into().ok()?;
        let (counter, random) = bytes.split_at(8);
        Some(Self { counter: u64::from_be_bytes(counter.try_into().ok()?), random: random.try_into().ok()? })
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02x}{:02x}", self.counter, self.random[0], self.random[1])
    }
}

/// How urgent a message is. Classes are flows of their own and never wait for one another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Class {
    /// Overtakes everything else.
    Urgent = 1,
    /// The default.
    Normal = 2,
    /// Yields to everything else.
    Bulk = 3,
}

impl Class {
    /// All of them, most urgent first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Bulk];

    /// The class of a wire number; `None` when there is no such class.
    #[must_use]
    pub fn from_wire(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.to_wire() == number)
    }

    /// Its number on the wire and on disk: 1, 2 or 3.
    #[must_use]
    pub fn to_wire(self) -> u32 {
        self as u32
    }

    /// Its place in arrays of three.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize - 1
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }
}

/// The numbered sequence of messages from one source to one destination in one class and incarnation (rule FLOW-1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowId {
    /// Who accepted the messages.
    pub source: NodeId,
    /// For whom.
    pub destination: NodeId,
    /// At which priority.
    pub class: Class,
    /// The start of the source that opened the flow.
    pub incarnation: Incarnation,
}

impl FlowId {
    /// Length of [`FlowId::to_bytes`].
    pub const LEN: usize = 32 + 32 + 1 + 16;

    /// A fixed layout: source, destination, class, incarnation.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..32].copy_from_slice(&self.source.0);
        bytes[32..64].copy_from_slice(&self.destination.0);
        bytes[64] = self.class as u8;
        bytes[65..].copy_from_slice(&self.incarnation.to_bytes());
        bytes
    }

    /// From the fixed layout; `None` when it is not one.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        Some(Self {
            source: NodeId::from_slice(&bytes[..32])?,
            destination: NodeId::from_slice(&bytes[32..64])?,
            class: Class::from_wire(u32::from(bytes[64]))?,
            incarnation: Incarnation::from_slice(&bytes[65..])?,
        })
    }
}

/// A message's id for applications and `trace`: a UUIDv7 drawn at acceptance, never changed (rule FLOW-6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub [u8; 16]);

impl MessageId {
    /// From the wall clock in unix milliseconds and ten random bytes (RFC 9562 §5.7).
    #[must_use]
    pub fn new(unix_ms: u64, random: [u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid().into_bytes())
    }

    /// From 16 bytes; `None` for any other length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&uuid::Uuid::from_bytes(self.0), f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MessageId {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        uuid::Uuid::try_parse(text)
            .map(|id| Self(id.into_bytes()))
            .map_err(|_| AddressError::Malformed(text.to_owned()))
    }
}
