//! P4: a message enters an inbox once; applications get it at least once, with a count that goes up, and never again
//! after its acknowledgement was confirmed.

use waypost_core::engine::effect::Delivery;
use waypost_core::id::MessageId;

use super::{Entry, Oracle};
use crate::apps::MARK;
use crate::seen::Seen;

impl Oracle {
    /// An application was handed a message.
    pub fn delivered(&mut self, at_us: u64, host: usize, channel: usize, delivery: &Delivery, seen: &mut Seen) {
        if let Some(wrong) = self.wrong_content(host, delivery) {
            return self.breaks("content", at_us, wrong);
        }
        let mark = delivery.headers.iter().find(|(name, _)| name == MARK).and_then(|(_, mark)| self.marks.get(mark));
        let Some(mark) = mark.copied() else { return };
        if delivery.headers.iter().any(|(name, _)| name == "waypost-order") {
            seen.see("order unproven");
        }
        if delivery.fragments > 1 {
            seen.see("a body in fragments arrived");
        }
        let Some(told) = self.messages.get(&mark) else { return };
        let strict = self.is_strict(told) && self.doubt(host).disk_us.is_none();
        let name = Self::name(told);
        if told.id.is_some_and(|id| id != delivery.id) && strict {
            return self.breaks("once", at_us, format!("{name} came as {}", delivery.id));
        }
        let before = told.entries.get(&channel).cloned();
        if let Some(before) = &before {
            seen.see("handed out again");
            if before.settled && strict {
                return self.breaks("once", at_us, format!("{name} was handed out after it was settled"));
            }
            if delivery.deliveries <= before.deliveries && strict {
                let what =
                    format!("{name} entered twice: delivery {} after {}", delivery.deliveries, before.deliveries);
                return self.breaks("once", at_us, what);
            }
        }
        let Some(told) = self.messages.get_mut(&mark) else { return };
        told.id.get_or_insert(delivery.id);
        let entry = told.entries.entry(channel).or_insert_with(|| Entry { first_us: at_us, ..Entry::default() });
        entry.deliveries = delivery.deliveries;
        self.by_id.insert(delivery.id, mark);
    }

    /// An application's settlement was confirmed.
    pub fn settled(&mut self, _at_us: u64, _host: usize, id: MessageId, refused: bool) {
        let Some(told) = self.by_id.get(&id).copied().and_then(|mark| self.messages.get_mut(&mark)) else { return };
        // The last channel it was handed out on is the one that was settled.
        if let Some(entry) = told.entries.values_mut().max_by_key(|entry| entry.first_us) {
            entry.settled = true;
            entry.refused = refused;
        }
    }
}
