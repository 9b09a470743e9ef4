//! The border to the disk: a few synchronous calls. What is above it is the same everywhere; only this trait's
//! implementations differ (RocksDB in production, memory in tests and simulations).

use std::collections::BTreeMap;

use bytes::Bytes;

/// A table. Its number is the first byte of a key on disk and never changes meaning (rule STORE-2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Table {
    /// Single rows: incarnation, counters, totals, clock anchor. Cap: the names in `tables::MetaName`.
    Meta = 1,
    /// Flow to local handle. Cap and end: as the flow row it points to; of a flow that a predecessor names and nothing
    /// came of, as the `Waiting` rows that need it.
    FlowIndex = 2,
    /// Flows this node is the source of. Ends when all its messages' ladders are forgotten and its last word was echoed
    /// or told for long enough (rule FLOW-4).
    OutFlow = 3,
    /// The duplicate filter. The one table without an end: about 50 bytes for a flow that is through.
    InFlow = 4,
    /// Flows carried for others. Capped by `limits::TRANSIT_FLOWS`; ends when nothing of the flow is held and nothing
    /// was heard of it for a while (rule FLOW-7).
    TransitFlow = 5,
    /// Envelopes this node answers for, by flow and last number. Capped by the outbox and transit quotas.
    Envelope = 6,
    /// Bodies: unsealed at the source, sealed in transit, fragments at the destination. Capped as their owners.
    Body = 7,
    /// Envelopes waiting to be handed on, by destination and class. Ends with custody, receipt or expiry.
    Due = 8,
    /// A message's id to its place. Ends when its ladder is forgotten.
    Message = 9,
    /// (user, key) to (id, request hash). Ends 7 days after the message's ending.
    Idempotency = 10,
    /// Ids, tags and lifetimes of an own envelope's messages. Ends when the ladder is forgotten.
    Contents = 11,
    /// What happens at a node time: expiry, forgetting. At most a few rows an envelope.
    Timer = 12,
    /// Messages delivered here and not yet consumed, by flow and number. Capped by the inbox quota.
    Inbox = 13,
    /// The order in which a channel hands out its messages. One row an inbox row.
    Queue = 14,
    /// Tags of numbers above the echoed floor, at the destination. Ends when the floor passes.
    Tags = 15,
    /// Bodies of which fragments are missing. Ends with the last fragment or by idling.
    Partial = 16,
    /// The newest receipt of a flow, as signed. At the source and on relays. One row a flow; ends with the flow, on relays
    /// when the source's word has passed it.
    Receipt = 17,
    /// The newest word of a flow, as signed, on relays. One row a flow; ends with the flow.
    Word = 18,
    /// The highest wave taken of an envelope of others, also after its copy was given up. Ends with receipt, word or
    /// expiry: each has a row in `Timer`.
    Taken = 19,
    /// The newest fact of a node, as signed. Capped by `limits::FACTS`.
    Fact = 20,
    /// Certificates by subject. Capped by `limits::CHAINS`.
    Chain = 21,
    /// What is remembered of a neighbour: addresses, last contact, last durable sequence. Capped by `limits::PEERS`.
    Peer = 22,
    /// Invitations answered: (invitation, subject). Ends with the invitation's expiry.
    Admission = 23,
    /// Bodies being streamed in, not accepted. Ends with acceptance, abandonment or the next start.
    Stage = 24,
    /// Counts and bytes a channel holds. One row a channel.
    Channel = 25,
    /// The last message under an order key, by destination, channel and key. Ends with that message's ladder.
    Order = 26,
    /// Messages in the inbox by the predecessor they wait for. Ends with the predecessor or their lifetime.
    Waiting = 27,
    /// Messages accepted and not yet due. Capped by the outbox; ends when due.
    Delayed = 28,
    /// Others' standby copies in the order in which they became it. One row a standby copy.
    Standby = 29,
}

impl Table {
    /// All tables in the order of their numbers.
    pub const ALL: [Self; 29] = [
        Self::Meta,
        Self::FlowIndex,
        Self::OutFlow,
        Self::InFlow,
        Self::TransitFlow,
        Self::Envelope,
        Self::Body,
        Self::Due,
        Self::Message,
        Self::Idempotency,
        Self::Contents,
        Self::Timer,
        Self::Inbox,
        Self::Queue,
        Self::Tags,
        Self::Partial,
        Self::Receipt,
        Self::Word,
        Self::Taken,
        Self::Fact,
        Self::Chain,
        Self::Peer,
        Self::Admission,
        Self::Stage,
        Self::Channel,
        Self::Order,
        Self::Waiting,
        Self::Delayed,
        Self::Standby,
    ];
}

/// Why the store could not do what was asked. All but a damaged row of `Table::Body` (rule DAMAGE-1) end the process:
/// what was not acknowledged is indeterminate, and only reading the disk again tells (rule STORE-3).
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk or the database refused.
    #[error("the store failed: {0}")]
    Failed(String),
    /// A row is not what this software wrote.
    #[error("a row of table {table:?} is damaged: {why}")]
    Damaged {
        /// Where.
        table: Table,
        /// What was wrong with it.
        why: String,
    },
}

/// Keys with their new values; `None` deletes. Applied whole or not at all.
pub type Batch = BTreeMap<(Table, Vec<u8>), Option<Bytes>>;

/// A key and its value.
pub type Pair = (Vec<u8>, Bytes);

/// An ordered key-value store with atomic synced batches. Keys order as byte strings.
pub trait Kv {
    /// The value of a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// At most `limit` pairs with `from <= key < to`, in order.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError>;

    /// Applies a batch; returns only when it would survive a power cut (rule STORE-1).
    ///
    /// # Errors
    /// The batch is then indeterminate: nothing may be acknowledged any more.
    fn commit(&mut self, batch: Batch) -> Result<(), StoreError>;
}
