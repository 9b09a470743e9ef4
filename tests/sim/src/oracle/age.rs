//! Expiry by age and never by clock: late, never early, whatever wall clocks show (rules AGE-1 to AGE-4).

use super::{Oracle, Told};

/// What a boot clock may run fast, parts per million, and a little for rounding.
const DRIFT_PPM: u64 = 250;
const ROUNDING_US: u64 = 20_000;

impl Oracle {
    /// Why an expiry came too early, if it did. Judged from the first time its acceptance was answered: it was accepted
    /// before that, so only what is certainly early counts when the answer to an earlier try was lost.
    pub(super) fn too_early(&self, at_us: u64, told: &Told) -> Option<String> {
        let accepted_us = told.accepted_us?;
        if told.send.keyed || !self.vouches(told.send.from, told) {
            return None;
        }
        let lived_us = at_us - accepted_us;
        let lived_us = lived_us + lived_us / 1_000_000 * DRIFT_PPM + ROUNDING_US;
        let lifetime_us = told.send.lifetime_ms * 1000;
        // Replies take the time of a commit; acceptance is counted from the round before it.
        (lived_us + 30_000_000 < lifetime_us)
            .then(|| format!("expired after {} ms of {} ms", lived_us / 1000, told.send.lifetime_ms))
    }
}
