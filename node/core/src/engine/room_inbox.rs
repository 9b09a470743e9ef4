//! Room in the inbox: what it may hold, and what comes in all the same, so that what waits there for a predecessor does
//! not keep it out for ever (rules QUOTA-2, QUOTA-3, BODY-4, ORDER-4).

use waypost_proto::hop::{self, retry_later::Reason};
use waypost_proto::stored;

use super::Engine;
use super::inbound::Verdict;
use super::items::predecessor_to_row;
use super::order::flow_of_predecessor;
use crate::envelope::Name;
use crate::id::FlowId;
use crate::store::kv::StoreError;
use crate::store::tables::FlowHandle;
use crate::store::tx::Tx;

/// What an envelope's messages take.
#[derive(Default)]
struct Sizes {
    /// Of the inbox; a body in fragments takes all of its room with the first.
    bytes: u64,
    /// Of bodies in fragments.
    parted: u64,
    /// Of messages that name a predecessor.
    ordered: u64,
}

/// Which of an envelope's messages would wait for what is not here.
struct Waits {
    /// Their bytes.
    bytes: u64,
    /// Some would not: when they are consumed, the inbox has moved on.
    not_all: bool,
}

impl Engine {
    /// Whether the inbox has no room for so much, as far as an offer tells.
    pub(super) fn room_in_inbox(&self, name: Name, bytes: u64) -> Option<Verdict> {
        if !self.has_disk_for(bytes) {
            return Some(Verdict::Refused(Reason::DiskFull, None));
        }
        let takes = self.fits_inbox(bytes) || self.all_waits();
        (!takes).then(|| full(name))
    }

    /// Whether the inbox has room for all of an envelope.
    pub(super) fn room_for(
        &mut self,
        name: Name,
        handle: Option<FlowHandle>,
        items: &[hop::Item],
        tx: &mut Tx<'_>,
    ) -> Result<Option<Verdict>, StoreError> {
        let sizes = self.sizes_of(name, handle, items, tx)?;
        let reserved = self.counters.inbox_reserved;
        if sizes.parted > 0 && reserved > 0 && reserved.saturating_add(sizes.parted) > self.policy.inbox_bytes / 2 {
            // What is not whole, and may never be, must leave room for what is (rule BODY-4).
            return Ok(Some(full(name)));
        }
        // What takes no new room in the inbox is written all the same.
        let written = items.iter().map(|item| item.body.len() as u64).sum();
        if !self.has_disk_for(sizes.bytes.max(written)) {
            return Ok(Some(Verdict::Refused(Reason::DiskFull, None)));
        }
        let takes = (sizes.bytes == 0 || self.fits_inbox(sizes.bytes)) && self.may_wait(sizes.ordered)
            || self.takes_in_spite_of_order(name, items, &sizes, tx)?;
        Ok((!takes).then(|| full(name)))
    }

    fn sizes_of(
        &self,
        name: Name,
        handle: Option<FlowHandle>,
        items: &[hop::Item],
        tx: &Tx<'_>,
    ) -> Result<Sizes, StoreError> {
        let mut sizes = Sizes::default();
        for (number, item) in (name.first..).zip(items) {
            sizes.ordered = sizes.ordered.saturating_add(if item.after.is_some() { item.size } else { 0 });
            let base = number.saturating_sub(u64::from(item.index));
            let begun = match handle {
                Some(handle) if item.fragments > 1 => tx.get::<stored::Partial>(&(handle, base, 0))?.is_some(),
                _ => false,
            };
            let size = item.size.max(item.body.len() as u64);
            // What is larger than the inbox may ever hold is rejected and takes no room (rule QUOTA-3).
            if !begun && size <= self.policy.inbox_bytes {
                sizes.bytes = sizes.bytes.saturating_add(size);
                sizes.parted = sizes.parted.saturating_add(if item.fragments > 1 { item.size } else { 0 });
            }
        }
        Ok(sizes)
    }

    /// Into an empty inbox goes any envelope: what is together larger than the quota would else never come in.
    fn fits_inbox(&self, bytes: u64) -> bool {
        let used = self.counters.inbox_bytes + self.counters.inbox_reserved;
        used == 0 || used.saturating_add(bytes) <= self.policy.inbox_bytes
    }

    /// What waits for a predecessor must leave room for it (rule ORDER-4).
    fn may_wait(&self, bytes: u64) -> bool {
        let waiting = self.counters.waiting_bytes;
        bytes == 0 || waiting == 0 || waiting.saturating_add(bytes) <= self.policy.inbox_bytes / 2
    }

    /// Nothing in the inbox can be handed out: it would stay as it is for ever if nothing came in (rule ORDER-4).
    fn all_waits(&self) -> bool {
        self.counters.waiting_messages > 0 && self.counters.waiting_messages == self.counters.inbox_messages
    }

    /// Whether an envelope comes in beyond the quotas because what lies in the inbox may be waiting for it
    /// (rule ORDER-4).
    fn takes_in_spite_of_order(
        &mut self,
        name: Name,
        items: &[hop::Item],
        sizes: &Sizes,
        tx: &mut Tx<'_>,
    ) -> Result<bool, StoreError> {
        if self.counters.waiting_messages == 0 {
            return Ok(false);
        }
        let waits = self.waits_of(name, items, tx)?;
        if !self.all_waits() {
            // What follows something that is dealt with, or comes with it, fills no room for others.
            return Ok(self.fits_inbox(sizes.bytes) && self.may_wait(waits.bytes));
        }
        let most = self.policy.inbox_bytes.saturating_mul(2);
        let within = self.counters.inbox_bytes.saturating_add(sizes.bytes) <= most;
        Ok(waits.not_all && (waits.bytes == 0 || within))
    }

    fn waits_of(&mut self, name: Name, items: &[hop::Item], tx: &mut Tx<'_>) -> Result<Waits, StoreError> {
        let mut absent: Vec<bool> = Vec::with_capacity(items.len());
        let mut bytes = 0u64;
        for item in items {
            let waits = match item.after.clone().map(predecessor_to_row) {
                None => false,
                Some(after) => match place_in(name, &after) {
                    // It comes with its predecessor, and waits as that one does.
                    Some(place) => absent.get(place).copied().unwrap_or(true),
                    None => self.is_absent(name.flow, &after, tx)?,
                },
            };
            absent.push(waits);
            bytes = bytes.saturating_add(if waits { item.size } else { 0 });
        }
        Ok(Waits { bytes, not_all: absent.contains(&false) })
    }

    fn is_absent(&mut self, flow: FlowId, after: &stored::Predecessor, tx: &mut Tx<'_>) -> Result<bool, StoreError> {
        // What names nothing waits for nothing (rule ORDER-2).
        let Some(before) = flow_of_predecessor(flow, after) else { return Ok(false) };
        let Some(handle) = self.flows.handle(&before, tx)? else { return Ok(true) };
        Ok(!self.is_dealt_with((handle, after.number), &after.id, tx)?)
    }
}

fn full(name: Name) -> Verdict {
    Verdict::Refused(Reason::InboxFull, Some(name.flow.source))
}

/// Which of an envelope's messages is named as a predecessor.
fn place_in(name: Name, after: &stored::Predecessor) -> Option<usize> {
    let same = flow_of_predecessor(name.flow, after) == Some(name.flow);
    let place = after.number.checked_sub(name.first).filter(|_| same && after.number <= name.last())?;
    usize::try_from(place).ok()
}
