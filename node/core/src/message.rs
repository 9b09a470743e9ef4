//! What an application hands over, checked: names, headers, bodies and their limits.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::id::{Class, NodeId};
use crate::limits;

/// A channel's name: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChannelName(String);

/// A node's name: as a channel's, up to 63 characters, never `any`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeName(String);

/// Why something an application said cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not a channel name.
    #[error(
        "{0:?} is not a channel name: use 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or digit"
    )]
    Channel(String),
    /// Not a node name.
    #[error(
        "{0:?} is not a node name: use 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit, and not \"any\""
    )]
    Node(String),
    /// Begins like an address and is none.
    #[error(
        "{0:?} is a malformed address: it was cut or mistyped; copy it whole as `waypost id` prints it on that host"
    )]
    Address(String),
    /// Headers over the limit.
    #[error("the headers are {bytes} bytes; at most {} are allowed", limits::HEADER_BYTES)]
    Headers {
        /// Names and values together.
        bytes: usize,
    },
    /// A body over the limit.
    #[error("the body is {bytes} bytes; at most {} are allowed", limits::BODY_BYTES)]
    Body {
        /// Its size.
        bytes: u64,
    },
    /// A lifetime that cannot be.
    #[error("a lifetime of {0} ms is not possible: between 1 ms and 365 days")]
    Lifetime(u64),
    /// An idempotency key over the limit.
    #[error("the idempotency key is {0} bytes; at most {max} are allowed", max = limits::IDEMPOTENCY_KEY_BYTES)]
    IdempotencyKey(usize),
    /// An order key that cannot be.
    #[error("the order key is {0} bytes; between 1 and {max} are allowed", max = limits::ORDER_KEY_BYTES)]
    OrderKey(usize),
    /// A delay that cannot be.
    #[error("a delay of {0} ms is not possible: at most 365 days")]
    Delay(u64),
    /// Too many at once.
    #[error("{0} messages in one request; at most {max} are allowed", max = limits::BATCH_MESSAGES)]
    Batch(usize),
}

/// How the address of every node begins: base58 of the multihash of an Ed25519 key, type and length (libp2p peer-id).
const ADDRESS_BEGINS: &str = "12D3KooW";

fn is_name(text: &str, longest: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.len() <= longest
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(allowed)
}

impl ChannelName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ChannelName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if is_name(text, 128) { Ok(Self(text.to_owned())) } else { Err(Invalid::Channel(text.to_owned())) }
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl NodeName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if is_name(text, 63) && text != "any" { Ok(Self(text.to_owned())) } else { Err(Invalid::Node(text.to_owned())) }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// For whom a message is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recipient {
    /// A node by its address.
    Node(NodeId),
    /// A node by the name in its fact.
    Named(NodeName),
}

impl FromStr for Recipient {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.parse::<NodeId>() {
            Ok(node) => Ok(Self::Node(node)),
            // Every Ed25519 key's address begins so: who wrote this meant an address, not a name.
            Err(_) if text.starts_with(ADDRESS_BEGINS) => Err(Invalid::Address(text.to_owned())),
            Err(_) => Ok(Self::Named(text.parse()?)),
        }
    }
}

/// A message as an application hands it over. [`Submission::check`] before it enters the engine.
#[derive(Clone, Debug)]
pub struct Submission {
    /// For whom.
    pub to: Recipient,
    /// Into which of its channels.
    pub channel: ChannelName,
    /// Names and values, at most 64 KiB together.
    pub headers: Vec<(String, String)>,
    /// The body, at most one fragment; larger ones are streamed.
    pub body: Bytes,
    /// How urgent.
    pub class: Class,
    /// From acceptance to expiry.
    pub lifetime_ms: u64,
    /// The same key with the same request is the same message.
    pub idempotency_key: Option<String>,
    /// Messages of one sender, channel and key are released in order.
    pub order_key: Option<String>,
    /// Accepted now, sent after this time.
    pub delay_ms: u64,
}

impl Submission {
    /// Whether it keeps the limits.
    ///
    /// # Errors
    /// The first limit it breaks.
    pub fn check(&self) -> Result<(), Invalid> {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if headers > limits::HEADER_BYTES {
            return Err(Invalid::Headers { bytes: headers });
        }
        if self.body.len() as u64 > limits::BODY_BYTES {
            return Err(Invalid::Body { bytes: self.body.len() as u64 });
        }
        if self.lifetime_ms == 0 || self.lifetime_ms > limits::LIFETIME_MAX_MS {
            return Err(Invalid::Lifetime(self.lifetime_ms));
        }
        if self.delay_ms > limits::LIFETIME_MAX_MS {
            return Err(Invalid::Delay(self.delay_ms));
        }
        if let Some(key) = self.order_key.as_ref().filter(|key| key.is_empty() || key.len() > limits::ORDER_KEY_BYTES) {
            return Err(Invalid::OrderKey(key.len()));
        }
        match &self.idempotency_key {
            Some(key) if key.len() > limits::IDEMPOTENCY_KEY_BYTES => Err(Invalid::IdempotencyKey(key.len())),
            _ => Ok(()),
        }
    }
}
