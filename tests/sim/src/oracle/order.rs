//! When a message may be handed out: not before its predecessor has been dealt with, not before it is due (rules ORDER-2,
//! DELAY-1).

use waypost_core::engine::effect::Delivery;
use waypost_core::id::{Class, FlowId, Incarnation};
use waypost_core::store::kv::Table;
use waypost_core::store::tables::Record as _;
use waypost_proto::stored;

use super::Oracle;
use super::held::{filter, row};
use crate::apps::MARK;
use crate::disk::Disk;

/// What boot clocks may run fast, and a little for rounding.
const DRIFT_PPM: u64 = 250;
const ROUNDING_US: u64 = 50_000;

impl Oracle {
    /// A message is handed out whole: was it its turn?
    pub fn in_turn(&mut self, at_us: u64, host: usize, delivery: &Delivery, disk: &Disk) {
        let mark = delivery.headers.iter().find(|(name, _)| name == MARK).and_then(|(_, mark)| self.marks.get(mark));
        let Some(told) = mark.and_then(|mark| self.messages.get(mark)) else { return };
        if !self.is_strict(told) || self.doubt(host).disk_us.is_some() {
            return;
        }
        let name = Self::name(told);
        let due_us = self.planned_us.get(told.call).copied().unwrap_or(0) + told.send.delay_ms * 1000;
        let is_due = told.send.delay_ms == 0;
        if !is_due && at_us + at_us / 1_000_000 * DRIFT_PPM + ROUNDING_US < due_us {
            let early_ms = (due_us - at_us) / 1000;
            return self.breaks("order", at_us, format!("{name} was handed out {early_ms} ms before it was due"));
        }
        let unproven = delivery.headers.iter().any(|(name, _)| name == "waypost-order");
        if told.send.ordered && !unproven && comes_too_soon(disk, delivery) == Some(true) {
            self.breaks("order", at_us, format!("{name} was handed out before its predecessor was dealt with"));
        }
    }
}

/// Whether the predecessor that a message names is still to come, or in the inbox.
fn comes_too_soon(disk: &Disk, delivery: &Delivery) -> Option<bool> {
    let inbox = || {
        let rows = disk.table(Table::Inbox);
        rows.filter_map(|(key, value)| {
            Some((stored::Inbox::decode_key(key).ok()?, <stored::Inbox as prost::Message>::decode(value.clone()).ok()?))
        })
    };
    let ((handle, _), mail) = inbox().find(|(_, mail)| mail.id == delivery.id.0.as_slice())?;
    let before = mail.predecessor.filter(|_| !mail.channel.starts_with("dead."))?;
    let flow = FlowId::from_slice(&row::<stored::InFlow>(disk, &(handle,))?.flow)?;
    let class = Class::from_wire(before.class)?;
    let flow = FlowId { class, incarnation: Incarnation::from_slice(&before.incarnation)?, ..flow };
    let recorded = filter(disk, flow).is_some_and(|filter| !filter.is_new(before.number));
    let waits = inbox().any(|(_, other)| other.id == before.id && !other.channel.starts_with("dead."));
    Some(!recorded || waits)
}
