//! P1: what was answered OK is there, under one id, whatever happens to the process; a key names one message.

use waypost_core::id::MessageId;
use waypost_core::store::kv::Table;

use super::{Oracle, Told};
use crate::apps::mark_of;
use crate::disk::Disk;
use crate::plan::Send;

impl Oracle {
    /// A call is handed to a process.
    pub fn tried(&mut self, call: usize, send: &Send) {
        for place in 0..send.count {
            self.marks.insert(mark_of(call, place), (call, place));
            self.messages.entry((call, place)).or_insert_with(|| Told {
                call,
                place,
                send: send.clone(),
                id: None,
                accepted_us: None,
                cancel_asked: false,
                ladder: Vec::new(),
                ending: None,
                entries: std::collections::BTreeMap::new(),
            });
        }
    }

    /// Whether a call needs no other try.
    #[must_use]
    pub fn is_answered(&self, call: usize) -> bool {
        self.answered.contains(&call)
    }

    /// A call was refused: nothing changed, and without a key nothing more will come of it.
    pub fn not_accepted(&mut self, _call: usize) {}

    /// A call was answered OK. Its messages must be on the disk already (rule CLAIM-1).
    pub fn accepted(&mut self, at_us: u64, call: usize, send: &Send, ids: &[MessageId], disk: &Disk) {
        self.answered.insert(call);
        if ids.len() != send.count {
            let what = format!("call {call} of {} messages got {} ids", send.count, ids.len());
            return self.breaks("accept", at_us, what);
        }
        for (place, id) in ids.iter().enumerate() {
            if !disk.rows().rows().any(|(table, key, _)| table == Table::Message && key == id.0) {
                self.breaks("accept", at_us, format!("{id} was accepted and is not on the disk"));
            }
            let Some(told) = self.messages.get_mut(&(call, place)) else { continue };
            let before = *told.id.get_or_insert(*id);
            // When an earlier try was accepted and its answer lost, the time of acceptance was earlier: the first try's
            // time is not known here, so age is judged from an earlier answer only if there was one.
            told.accepted_us.get_or_insert(at_us);
            let strict = self.messages.get(&(call, place)).is_some_and(|told| self.is_strict(told));
            if before != *id && strict {
                self.breaks("accept", at_us, format!("call {call}.{place} was accepted as {before} and again as {id}"));
            }
            self.by_id.insert(*id, (call, place));
        }
    }

    /// Another request under the key of an accepted call was accepted too (rule IDEM-1).
    pub fn impostor(&mut self, at_us: u64, host: usize, call: usize, ids: &[MessageId]) {
        if self.doubt(host).disk_us.is_none() {
            self.breaks("accept", at_us, format!("another request under the key of call {call} is {ids:?}"));
        }
    }

    /// Cancelling was asked for.
    pub fn cancel_asked(&mut self, ids: &[MessageId]) {
        for id in ids {
            if let Some(told) = self.by_id.get(id).copied().and_then(|mark| self.messages.get_mut(&mark)) {
                told.cancel_asked = true;
            }
        }
    }

    /// A node does not know a message it accepted.
    pub fn unknown(&mut self, at_us: u64, host: usize, id: MessageId) {
        let Some(told) = self.by_id.get(&id).and_then(|mark| self.messages.get(mark)) else { return };
        // A ladder may be forgotten a week after its ending.
        if told.ending.is_none() && self.vouches(host, told) {
            let what = format!("{} is no longer known to its source", Self::name(told));
            self.breaks("accept", at_us, what);
        }
    }

    /// The messages a host's senders ask about.
    #[must_use]
    pub fn asked_about(&self, host: usize) -> Vec<MessageId> {
        let ended = |told: &Told| told.ending.is_some() && told.ladder.iter().any(|state| state == "consumed");
        let of_host = self.messages.values().filter(|told| told.send.from == host && !ended(told));
        of_host.filter(|told| told.accepted_us.is_some()).filter_map(|told| told.id).collect()
    }
}
