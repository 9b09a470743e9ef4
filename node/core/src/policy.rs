//! What a node's owner may decide: quotas, names, timers. Set once at start.

/// Limits and habits of one node.
#[derive(Clone, Debug)]
pub struct Policy {
    /// This node's name in the directory; empty: none.
    pub name: String,
    /// Bytes that messages accepted here may fill until they have ended.
    pub outbox_bytes: u64,
    /// Messages accepted here and not ended at most.
    pub outbox_messages: u64,
    /// Bytes that messages delivered here may fill until they are consumed.
    pub inbox_bytes: u64,
    /// Bytes that other nodes' envelopes may fill.
    pub transit_bytes: u64,
    /// Credit granted to each neighbour in each class, bytes.
    pub credit_bytes: u64,
    /// Credit granted to each neighbour in each class, envelopes.
    pub credit_envelopes: u64,
    /// How long to wait for a receipt before the first new wave.
    pub wave_ms: u64,
    /// Unix milliseconds of this software's build: no credible clock shows less.
    pub build_ms: u64,
    /// Shown to peers and by `status`.
    pub version: String,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            name: String::new(),
            outbox_bytes: 64 << 30,
            outbox_messages: 100_000_000,
            inbox_bytes: 64 << 30,
            transit_bytes: 16 << 30,
            credit_bytes: 8 << 20,
            credit_envelopes: 2048,
            wave_ms: 60_000,
            build_ms: 0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}
