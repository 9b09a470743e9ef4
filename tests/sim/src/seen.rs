//! Sometimes-assertions: rare paths that must have been taken, or the runs prove nothing about them.

use std::collections::BTreeMap;

/// What a thousand seeds must have met, each at least once.
pub const REQUIRED: &[&str] = &[
    "torn tail dropped",
    "written and not acknowledged",
    "killed in a commit",
    "killed in recovery",
    "power cut in a commit",
    "store failure latched",
    "start refused by the disk",
    "disk full",
    "space ran low",
    "refused: disk full",
    "refused: no space for new mail",
    "dropped told",
    "alarm raised",
    "a receipt speaks of recovered numbers",
    "a silent connection closed",
    "a body rotted",
    "clock set back",
    "clock set forward",
    "a lossy link",
    "half-open connection",
    "links swizzled",
    "a clone started",
    "resumed from memory",
    "outbox full",
    "refused: inbox full",
    "refused: transit full",
    "a later wave",
    "gone answered an offer",
    "have answered an offer",
    "a receipt skipped a number",
    "a word ended something",
    "a word closed a flow",
    "handed out again",
    "dead-lettered",
    "refused by an application",
    "expired",
    "cancelled",
    "unconfirmed expiry corrected",
    "a body in fragments arrived",
    "order unproven",
    "a liar answered what nobody asked",
    "a liar brought back a fact",
    "a liar changed a field",
    "a liar changed a receipt",
    "a liar changed its fact",
    "a liar dropped what it never had",
    "a liar flipped bytes",
    "a liar flooded envelopes",
    "a liar flooded ids",
    "a liar flooded offers",
    "a liar flooded words",
    "a liar forged custody",
    "a liar gave odd credit",
    "a liar had what it never had",
    "a liar invented links",
    "a liar kept quiet about what it dropped",
    "a liar lied in its own receipt",
    "a liar lied in its own word",
    "a liar refused for an hour",
    "a liar replayed a statement",
    "a liar replayed an answer",
    "a liar replayed an envelope",
    "a liar replayed another frame",
    "a liar sealed nonsense",
    "a liar signed for others",
    "a liar signed garbage",
    "a liar submitted a flood",
    "a liar swallowed a statement",
    "a liar swallowed an envelope",
    "a liar swallowed an offer",
    "a liar told of twins",
    "a liar took custody of more than it got",
    "a liar took custody of what may come",
    "a liar took the wrong stream",
];

/// How often each was met.
#[derive(Clone, Debug, Default)]
pub struct Seen(pub BTreeMap<&'static str, u64>);

impl Seen {
    /// It was met.
    pub fn see(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Adds what another run met.
    pub fn add(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            *self.0.entry(what).or_default() += times;
        }
    }

    /// What should have been met and was not.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        REQUIRED.iter().filter(|what| !self.0.contains_key(*what)).copied().collect()
    }
}
