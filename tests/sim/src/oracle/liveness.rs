//! P6: with all faults over, every message that can arrive has arrived and its sender knows, every outbox has drained.

use super::{Oracle, Told};

impl Oracle {
    /// Whether nothing more is to come.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.messages.values().filter(|told| told.accepted_us.is_some()).all(|told| self.open(told).is_none())
    }

    /// When the last of all delayed messages that were accepted is due.
    #[must_use]
    pub fn last_due_us(&self) -> u64 {
        let due = |told: &Told| Some(told.accepted_us? + told.send.delay_ms * 1000);
        self.messages.values().filter_map(due).max().unwrap_or(0)
    }

    /// The end of everything: what has not happened never will.
    pub fn finish(&mut self, at_us: u64) {
        let missing: Vec<String> = self
            .messages
            .values()
            .filter(|told| told.accepted_us.is_some())
            .filter_map(|told| Some(format!("{} {}", Self::name(told), self.open(told)?)))
            .collect();
        for what in missing {
            self.breaks("liveness", at_us, what);
        }
    }

    /// What a message still lacks.
    fn open(&self, told: &Told) -> Option<String> {
        let (from, to) = (self.doubt(told.send.from), self.doubt(told.send.to));
        if let Some(never) = self.was_never_delivered(told) {
            return Some(never);
        }
        let source_knows = !from.gone && self.vouches(told.send.from, told);
        if !source_knows || to.gone || to.twins {
            return None;
        }
        let Some(ending) = &told.ending else {
            // What rotted at its source after it left, and was lost on its way, ends with its lifetime (rule DAMAGE-1).
            return (!from.rot).then(|| format!("has no ending: {:?}", told.ladder));
        };
        let strict = self.is_strict(told);
        match ending.as_str() {
            "delivered" if !strict => None,
            // Of what rotted on the destination's disk only the reason is left to read (rule DAMAGE-1).
            "delivered" if to.rot && is_dead(told) => None,
            // What the predecessor is lost of waits for it as long as it lives (rule ORDER-4).
            "delivered" if told.entries.is_empty() && self.waits_for_a_lost_one(told) => None,
            "delivered" if told.entries.is_empty() => Some("was delivered and no application got it".to_owned()),
            "delivered" if !told.is_settled() && !is_over(told) => Some("was delivered and never settled".to_owned()),
            "delivered" if !is_over(told) => Some("was settled and its sender does not know".to_owned()),
            "delivered" if is_dead(told) && !told.entries.contains_key(&1) => {
                Some("is a dead letter that nobody can read".to_owned())
            }
            // A later receipt stands beside an unconfirmed ending (rule RECEIPT-4).
            "expired" | "cancelled" if strict && !told.entries.is_empty() && !is_late(told) => {
                Some(format!("was handed out and its sender was told for good that it {ending}"))
            }
            _ => None,
        }
    }

    /// No ending is ever false, not even with a clone of the source: what the source was shown a receipt for is here.
    fn was_never_delivered(&self, told: &Told) -> Option<String> {
        let (from, to) = (self.doubt(told.send.from), self.doubt(told.send.to));
        let never = told.ending.as_deref() == Some("delivered") && told.entries.is_empty();
        let sound = from.twins && !to.gone && !to.twins && !to.lies && to.disk_us.is_none();
        (never && sound && !self.waits_for_a_lost_one(told))
            .then(|| "was told as delivered and no application got it".to_owned())
    }

    fn waits_for_a_lost_one(&self, told: &Told) -> bool {
        let (from, to) = (told.send.from, told.send.to);
        let mut before = self.messages.values().filter(|other| (other.send.from, other.send.to) == (from, to));
        told.send.ordered && before.any(|other| other.send.ordered && !self.is_strict(other))
    }
}

/// The sender was told that it was consumed, refused or dead-lettered: the receiver's confirmation may have been lost
/// with its process.
fn is_over(told: &Told) -> bool {
    let ends = ["consumed", "refused", "dead-lettered"];
    told.ladder.iter().any(|state| ends.contains(&state.split(':').next().unwrap_or(state)))
}

fn is_dead(told: &Told) -> bool {
    told.ladder.iter().any(|state| ["refused", "dead-lettered"].contains(&state.split(':').next().unwrap_or(state)))
}

fn is_late(told: &Told) -> bool {
    told.ladder.iter().any(|state| state == "arrived late")
}
