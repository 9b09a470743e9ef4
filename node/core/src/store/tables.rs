//! The rows of every table and the keys they stand under: the same over every store.

use bytes::Bytes;
use prost::Message as _;
use waypost_proto::stored;

use super::keys::Key;
use super::kv::{StoreError, Table};
use crate::id::{FlowId, MessageId, NodeId};
use crate::time::NodeTime;

/// A row with its table and the kind of its key.
pub trait Record: Sized {
    /// What it stands under.
    type Key;
    /// Where.
    const TABLE: Table;
    /// The key as bytes.
    fn encode_key(key: &Self::Key) -> Vec<u8>;
    /// The key from bytes.
    ///
    /// # Errors
    /// When they are not such a key.
    fn decode_key(bytes: &[u8]) -> Result<Self::Key, StoreError>;
    /// The row as bytes.
    fn encode(&self) -> Bytes;
    /// The row from bytes.
    ///
    /// # Errors
    /// When they are not such a row.
    fn decode(bytes: &Bytes) -> Result<Self, StoreError>;
}

macro_rules! record {
    ($row:ty, $table:ident, $key:ty) => {
        impl Record for $row {
            type Key = $key;
            const TABLE: Table = Table::$table;
            fn encode_key(key: &$key) -> Vec<u8> {
                Key::encode(key)
            }
            fn decode_key(bytes: &[u8]) -> Result<$key, StoreError> {
                Key::decode(bytes)
                    .ok_or_else(|| StoreError::Damaged { table: Table::$table, why: format!("a key is {bytes:02x?}") })
            }
            fn encode(&self) -> Bytes {
                self.encode_to_vec().into()
            }
            fn decode(bytes: &Bytes) -> Result<Self, StoreError> {
                prost::Message::decode(bytes.clone())
                    .map_err(|error| StoreError::Damaged { table: Table::$table, why: error.to_string() })
            }
        }
    };
}

/// The newtype of a row whose shape another table has as well.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $row:ty, $table:ident, $key:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name(pub $row);

        impl Record for $name {
            type Key = $key;
            const TABLE: Table = Table::$table;
            fn encode_key(key: &$key) -> Vec<u8> {
                Key::encode(key)
            }
            fn decode_key(bytes: &[u8]) -> Result<$key, StoreError> {
                Key::decode(bytes)
                    .ok_or_else(|| StoreError::Damaged { table: Table::$table, why: format!("a key is {bytes:02x?}") })
            }
            fn encode(&self) -> Bytes {
                self.0.encode_to_vec().into()
            }
            fn decode(bytes: &Bytes) -> Result<Self, StoreError> {
                <$row as prost::Message>::decode(bytes.clone())
                    .map(Self)
                    .map_err(|error| StoreError::Damaged { table: Table::$table, why: error.to_string() })
            }
        }
    };
}

/// A flow's local number.
pub type FlowHandle = u64;
/// A flow and the last number of one of its envelopes: a scan from (flow, n) finds the envelope that carries n.
pub type EnvelopeKey = (FlowHandle, u64);
/// Destination, class, place in the order of becoming due.
pub type DueKey = (NodeId, u8, u64);
/// A channel's handle, class, place in the order of arrival.
pub type QueueKey = (u64, u8, u64);
/// When, what, and on which envelope.
pub type TimerKey = (NodeTime, u8, FlowHandle, u64);
/// Destination, then channel and order key with a zero byte between.
pub type OrderKey = (NodeId, String);
/// The predecessor's flow and number, then the waiting message's.
pub type WaitingKey = (FlowHandle, u64, FlowHandle, u64);
/// A body and the place of a part in it.
pub type BodyKey = (u64, u32);

/// The first number of the envelope that stands under a key and carries `count`.
///
/// # Errors
/// When it cannot carry so many: its row is damaged.
pub fn first_of((_, last): EnvelopeKey, count: u32) -> Result<u64, StoreError> {
    let first = last.saturating_add(1).checked_sub(u64::from(count)).filter(|first| *first > 0);
    first.ok_or_else(|| StoreError::Damaged {
        table: Table::Envelope,
        why: format!("{count} numbers cannot end with {last}"),
    })
}

/// Names of single rows.
pub mod meta {
    /// [`super::stored::Counters`].
    pub const COUNTERS: &str = "counters";
    /// [`super::stored::Start`].
    pub const START: &str = "start";
    /// [`super::stored::Alarms`].
    pub const ALARMS: &str = "alarms";
}

record!(stored::Counters, Meta, String);
record!(stored::Alarms, Meta, String);
record!(stored::Handle, FlowIndex, (FlowId,));
record!(stored::OutFlow, OutFlow, (FlowHandle,));
record!(stored::InFlow, InFlow, (FlowHandle,));
record!(stored::TransitFlow, TransitFlow, (FlowHandle,));
record!(stored::Envelope, Envelope, EnvelopeKey);
record!(stored::Place, Due, DueKey);
record!(stored::Message, Message, (MessageId,));
record!(stored::Idempotency, Idempotency, (u32, String));
record!(stored::Contents, Contents, EnvelopeKey);
record!(stored::Empty, Timer, TimerKey);
record!(stored::Inbox, Inbox, (FlowHandle, u64));
record!(stored::Queue, Queue, QueueKey);
record!(stored::Tags, Tags, EnvelopeKey);
record!(stored::Partial, Partial, (FlowHandle, u64, u32));
record!(stored::Wave, Taken, EnvelopeKey);
record!(stored::Chain, Chain, (NodeId,));
record!(stored::Peer, Peer, (NodeId,));
record!(stored::Admission, Admission, ([u8; 32],));
record!(stored::Stage, Stage, (u64,));
record!(stored::Channel, Channel, String);
record!(stored::Predecessor, Order, OrderKey);
record!(stored::Waiting, Waiting, WaitingKey);
record!(stored::Delayed, Delayed, (NodeTime, MessageId));

named!(
    /// This start.
    StartRow, stored::Start, Meta, String
);
named!(
    /// The newest receipt of a flow, by source.
    ReceiptRow, stored::Pages, Receipt, (NodeId, FlowHandle)
);
named!(
    /// The newest word of a flow, by destination.
    WordRow, stored::Pages, Word, (NodeId, FlowHandle)
);
named!(
    /// A standby copy of another node's envelope.
    StandbyRow, stored::Place, Standby, (u64,)
);
named!(
    /// The newest fact of a node.
    FactRow, stored::Signed, Fact, (NodeId,)
);
