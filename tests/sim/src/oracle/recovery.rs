//! Recovery is identity: a process that ends between two commits and starts again tells its senders what it told them
//! before, and knows every message it accepted.

use waypost_core::id::MessageId;
use waypost_core::time::Now;

use super::Oracle;
use crate::host::Host;

impl Oracle {
    /// A process is about to be killed, maybe between two commits.
    pub fn before_end(&mut self, place: usize, host: &mut Host, now: Now) {
        if self.originals[place] != place || self.doubts[place].twins {
            return;
        }
        let ladders = host.ladders(&self.known_to(place), now);
        if !ladders.is_empty() {
            self.before.insert(place, ladders);
        }
    }

    /// A process has recovered.
    pub fn recovered(&mut self, at_us: u64, place: usize, host: &mut Host, now: Now) {
        if self.originals[place] != place || self.doubts[place].twins {
            return;
        }
        let begun = host.engine().map(|engine| engine.own_hello().incarnation);
        if let Some(begun) = begun.filter(|begun| !self.incarnations.insert(begun.to_bytes())) {
            self.breaks("recovery", at_us, format!("{place} starts again under the incarnation {begun:?}"));
        }
        let ids = self.known_to(place);
        let ladders = host.ladders(&ids, now);
        for id in ids {
            let Some(told) = self.by_id.get(&id).and_then(|mark| self.messages.get(mark)) else { continue };
            if !ladders.contains_key(&id) && told.ending.is_none() && self.vouches(place, told) {
                let what = format!("{} is unknown after recovery", Self::name(told));
                return self.breaks("recovery", at_us, what);
            }
        }
        for (id, before) in self.before.remove(&place).unwrap_or_default() {
            // What time ended while the process was down is an ending more, never one less.
            if let Some(after) = ladders.get(&id)
                && !before.iter().all(|state| after.contains(state))
            {
                self.breaks("recovery", at_us, format!("{id} was {before:?} before the end and is {after:?} after it"));
            }
        }
    }

    fn known_to(&self, host: usize) -> Vec<MessageId> {
        let of_host = self.messages.values().filter(|told| told.send.from == host && told.accepted_us.is_some());
        of_host.filter_map(|told| told.id).collect()
    }
}
