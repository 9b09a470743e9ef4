//! Fixed limits of the protocol and of the engine's tables. What a user may change is in `policy`.

/// Bytes of body in one fragment (rule BODY-1). Every link must carry it.
pub const FRAGMENT: usize = 256 * 1024;
/// Messages in one envelope at most (rule ENV-2).
pub const ENVELOPE_MESSAGES: usize = 4096;
/// Header names and values of a message together, in bytes.
pub const HEADER_BYTES: usize = 64 * 1024;
/// Plain bytes of one envelope at most: a fragment, its headers and their framing.
pub const ENVELOPE_BYTES: usize = 384 * 1024;
/// Bytes of one message's body at most.
pub const BODY_BYTES: u64 = 16 << 30;
/// Messages in one `Send` at most.
pub const BATCH_MESSAGES: usize = 4096;
/// A lifetime nobody chose.
pub const LIFETIME_MS: u64 = 14 * DAY_MS;
/// The longest lifetime.
pub const LIFETIME_MAX_MS: u64 = 365 * DAY_MS;
/// A day in milliseconds.
pub const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// How long a message's ladder and idempotency key are kept after its ending (rules IDEM-2, WORD-4).
pub const LADDER_MS: u64 = 7 * DAY_MS;
/// A message that has not ended after this time has a notice of it on its ladder (rule TRACE-3).
pub const DELAY_NOTICE_MS: u64 = 4 * 60 * 60 * 1000;
/// How far above its lowest un-ended number a source sends (rule FLOW-5).
pub const WINDOW: u64 = 1 << 20;
/// Numbers stay below this, so that arithmetic on them cannot overflow (rule SEAL-2).
pub const NUMBER_MAX: u64 = 1 << 48;
/// Bytes of an idempotency key at most.
pub const IDEMPOTENCY_KEY_BYTES: usize = 255;
/// Bytes of an order key at most.
pub const ORDER_KEY_BYTES: usize = 255;
/// Facts kept at most (rule FACT-2).
pub const FACTS: usize = 4096;
/// Links in a fact at most.
pub const FACT_LINKS: usize = 16;
/// Certificates kept at most.
pub const CHAINS: usize = 65_536;
/// Flows of others a relay keeps at most (rule FLOW-7).
pub const TRANSIT_FLOWS: u64 = 1 << 20;
/// Neighbours remembered at most.
pub const PEERS: usize = 4096;
/// Channels on a node at most.
pub const CHANNELS: usize = 65_536;
/// Items in an offer at most (rule HOP-4).
pub const OFFER_ITEMS: usize = 256;
/// Ranges in one page of a word or a receipt at most (rules WORD-1, RECEIPT-2).
pub const PAGE_RANGES: usize = 1024;
/// Waves at most (rule WAVE-3).
pub const WAVE_MAX: u32 = u16::MAX as u32;
/// Hops an envelope may count at most; the count is for people, loops are ended by waves.
pub const HOPS_MAX: u32 = 255;
/// Steps kept in the custody log of one envelope (rule TRACE-2).
pub const CUSTODY_EVENTS: usize = 16;
/// A flow draws a new encapsulation after so many numbers (rule SEAL-3).
pub const ENCAPSULATION_NUMBERS: u64 = 65_536;
/// A flow draws a new encapsulation after this time (rule SEAL-3).
pub const ENCAPSULATION_MS: u64 = 60 * 60 * 1000;
/// How long a message delivered to a consumer stays its own before it is delivered again.
pub const LEASE_MS: u64 = 60_000;
/// Bodies streamed in at the same time at most.
pub const STREAMS: usize = 256;
/// Consumers at most.
pub const CONSUMERS: usize = 4096;
/// Kinds of alarms remembered at most.
pub const ALARMS: usize = 16;
/// Requests that wait for a level of the ladder at most.
pub const WAITERS: usize = 65_536;
