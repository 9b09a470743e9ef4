//! P3: one ending and only one, never a false one.

use waypost_core::engine::effect::Trace;
use waypost_core::id::MessageId;
use waypost_core::limits;

use super::{Oracle, Told};
use crate::seen::Seen;

/// The endings there are.
const ENDINGS: [&str; 5] = ["delivered", "expired", "rejected", "cancelled", "damaged"];

/// The ending a rung is, if it is one.
pub(super) fn ending_of(state: &str) -> Option<&'static str> {
    ENDINGS.into_iter().find(|ending| state.split(':').next() == Some(ending))
}

impl Oracle {
    /// A sender was told where its message is.
    pub fn ladder(&mut self, at_us: u64, _host: usize, id: MessageId, trace: &Trace, seen: &mut Seen) {
        let Some(mark) = self.by_id.get(&id).copied() else { return };
        let Some(told) = self.messages.get(&mark) else { return };
        let states: Vec<String> = trace.ladder.iter().map(|rung| rung.state.clone()).collect();
        note_rare(&states, seen);
        let endings: Vec<&'static str> = states.iter().filter_map(|state| ending_of(state)).collect();
        if endings.len() > 1 {
            let what = format!("{} has {} endings: {states:?}", Self::name(told), endings.len());
            return self.breaks("ending", at_us, what);
        }
        let ending = endings.first().map(|ending| (*ending).to_owned());
        if let Some(before) = &told.ending
            && ending.as_ref() != Some(before)
            && self.vouches(told.send.from, told)
        {
            let what = format!("{} ended {before} and is now {states:?}", Self::name(told));
            return self.breaks("ending", at_us, what);
        }
        if let Some(false_one) = self.is_false(at_us, told, ending.as_deref(), &states) {
            let what = format!("{} {false_one}: {states:?}", Self::name(told));
            return self.breaks("ending", at_us, what);
        }
        if let Some(told) = self.messages.get_mut(&mark) {
            told.ladder = states;
            told.ending = ending.or(told.ending.take());
        }
    }

    /// What is wrong with an ending, if it cannot be.
    fn is_false(&self, at_us: u64, told: &Told, ending: Option<&str>, states: &[String]) -> Option<String> {
        let source = self.doubt(told.send.from);
        let (source_lost, strict) = (!self.vouches(told.send.from, told), self.is_strict(told));
        match ending {
            Some("expired") => self.too_early(at_us, told),
            Some("cancelled") if !told.cancel_asked && !source_lost => {
                Some("was cancelled and nobody asked".to_owned())
            }
            Some("damaged") if strict && !source.rot => Some("is damaged and nothing was lost".to_owned()),
            Some("rejected") if !self.may_be_rejected(told) => Some("was rejected without a reason".to_owned()),
            Some("delivered") if states.iter().any(|state| state == "arrived late") => {
                Some("was delivered and arrived late".to_owned())
            }
            _ => None,
        }
    }

    fn may_be_rejected(&self, told: &Told) -> bool {
        let to = told.send.to;
        if self.doubt(told.send.from).lies || self.doubt(to).lies {
            // What a liar garbles may be what its own application gave it.
            return true;
        }
        // A body in fragments may be given up when nothing comes for its lifetime.
        told.send.size > limits::FRAGMENT
            || told.send.size as u64 + 1024 > self.inbox_bytes[to]
            || self.doubt(told.send.from).rot
            || !self.is_strict(told)
    }
}

fn note_rare(states: &[String], seen: &mut Seen) {
    for state in states {
        match state.split(':').next().unwrap_or(state) {
            "expired" => seen.see("expired"),
            "cancelled" => seen.see("cancelled"),
            "rejected" => seen.see("rejected"),
            "arrived late" => seen.see("unconfirmed expiry corrected"),
            "damaged" => seen.see("damaged"),
            "dead-lettered" => seen.see("dead-lettered"),
            "refused" => seen.see("refused by an application"),
            _ => {}
        }
    }
}
