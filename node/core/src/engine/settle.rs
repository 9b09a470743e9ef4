//! What a receipt means at the source: endings that stand, sub-states after them, copies freed (promise P3; rule
//! RECEIPT-4). Every valid receipt is proof by itself, in whatever order they come.

use waypost_proto::hop::{self};
use waypost_proto::stored::{self, envelope::State};

use super::alarm::Alarm;
use super::submit::damaged;
use super::{Engine, Round, notice};
use crate::flow::{Ending, OutFlow};
use crate::id::Incarnation;
use crate::limits;
use crate::planted::{self, Bug};
use crate::store::keys::Key as _;
use crate::store::kv::{StoreError, Table};
use crate::store::tables::{EnvelopeKey, FlowHandle, first_of};
use crate::store::tx::Tx;

/// A word that only raises a mark goes alone after this time (rule WORD-3).
pub(super) const MARK_MS: u64 = 60_000;
/// Sub-states alone are told at most this often.
pub(super) const SUBSTATES_MS: u64 = 50;
/// Envelopes looked at in one scan.
const PAGE: usize = 256;

/// The state an envelope's numbers get, beside the endings of `flow::Ending`, in its row: sub-states after `delivered`.
pub(super) const CONSUMED: u32 = 16;
pub(super) const REFUSED: u32 = 17;
pub(super) const DEAD: u32 = 18;

impl Engine {
    // ---- the source listens ----

    /// What a receipt means at the source (rule RECEIPT-4). It is proof by itself, in whatever order it comes.
    pub(super) fn settle_own(
        &mut self,
        round: Round,
        handle: FlowHandle,
        content: &hop::ReceiptContent,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
        let (last, floor) = (flow.last(), flow.floor);
        let word_is_ours = Incarnation::from_slice(&content.word_incarnation) == Some(self.own.incarnation);
        if word_is_ours {
            flow.echoed_version = flow.echoed_version.max(content.word_seen.min(flow.word_version));
        }
        if content.floor >= flow.owed_floor {
            flow.owed_floor = 0;
        }
        self.look_beyond(round, handle, content, tx)?;
        for range in &content.delivered {
            // Beyond the last number it proves nothing, and of an earlier start it may be a disk that was rolled back.
            if range.first == 0 || range.last < range.first || range.last > last {
                continue;
            }
            match self.proves(handle, range, tx)? {
                Some(true) => self.end_numbers(round, handle, (range.first, range.last), Ending::Delivered, 0, tx)?,
                Some(false) => self.doubt(round, handle, (range.first, range.last), tx)?,
                None => {}
            }
        }
        for range in &content.untagged {
            self.end_numbers(round, handle, (range.first, range.last.min(last)), Ending::Delivered, 0, tx)?;
        }
        for range in &content.rejected {
            self.end_numbers(round, handle, (range.first, range.last.min(last)), Ending::Rejected, range.reason, tx)?;
        }
        for range in &content.skipped {
            self.settle_skipped(round, handle, (range.first, range.last.min(last)), tx)?;
        }
        if content.floor > floor {
            // Only this node's own word raises that floor: the disk here was rolled back (rule RECEIPT-4).
            self.end_numbers(round, handle, (floor, content.floor.min(last + 1) - 1), Ending::Damaged, 2, tx)?;
        }
        self.take_substates(round, handle, content, tx)?;
        self.after_settling(round, handle, floor, tx)
    }

    /// Whether a delivered range speaks of what was sent; `None` when a tag is lacking: then it proves nothing.
    pub(super) fn proves(
        &mut self,
        handle: FlowHandle,
        range: &hop::DeliveredRange,
        tx: &Tx<'_>,
    ) -> Result<Option<bool>, StoreError> {
        let Some(flow) = self.flows.out.get(handle, tx)? else { return Ok(None) };
        if flow.settled.missing(range.first.max(flow.floor), range.last).is_empty() {
            return Ok(None);
        }
        let before = if range.first == 1 { Some(0) } else { Self::tags_up_to(handle, range.first - 1, tx)? };
        let through = Self::tags_up_to(handle, range.last, tx)?;
        Ok(before
            .zip(through)
            .map(|(before, through)| planted::is(Bug::TagsNotCompared) || before ^ through == range.tags))
    }

    /// XOR of the tags of numbers 1 to `number`; `None` when the row is forgotten.
    pub(super) fn tags_up_to(handle: FlowHandle, number: u64, tx: &Tx<'_>) -> Result<Option<u64>, StoreError> {
        let from = (handle, number).encode();
        let rows = tx.scan::<stored::Contents>(&from, &(handle, u64::MAX).encode(), 1)?;
        let Some((key, contents)) = rows.into_iter().next() else { return Ok(None) };
        let Some(first) = (key.1 + 1).checked_sub(contents.messages.len() as u64) else { return Ok(None) };
        if number + 1 == first {
            return Ok(Some(contents.tags_before));
        }
        let Some(count) = number.checked_sub(first) else { return Ok(None) };
        let counted = contents.messages.iter().take(usize::try_from(count + 1).unwrap_or(usize::MAX));
        Ok(Some(counted.fold(contents.tags_before, |sum, sent| sum ^ sent.tag)))
    }

    /// The destination skipped what this node ended; what it never ended is lost (a restored backup).
    pub(super) fn settle_skipped(
        &mut self,
        round: Round,
        handle: FlowHandle,
        (first, last): (u64, u64),
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(flow) = self.flows.out.get(handle, tx)? else { return Ok(()) };
        let ours: Vec<_> = flow
            .unconfirmed
            .iter()
            .filter(|range| range.first <= last && first <= range.last)
            .map(|range| (range.first.max(first), range.last.min(last), range.ending))
            .collect();
        for (first, last, ending) in ours {
            self.end_numbers(round, handle, (first, last), ending, 0, tx)?;
        }
        self.end_numbers(round, handle, (first, last), Ending::Damaged, 2, tx)
    }

    /// Gives numbers an ending that stands; the first one does (promise P3).
    pub(super) fn end_numbers(
        &mut self,
        round: Round,
        handle: FlowHandle,
        (first, last): (u64, u64),
        ending: Ending,
        reason: u32,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
        let before = flow.clone();
        let fresh = flow.settle(first, last.min(flow.last()));
        if ending != Ending::Delivered {
            // What never was delivered gets no sub-state: the second mark need not wait for one.
            fresh.iter().for_each(|(first, last)| flow.consumed.insert((*first).max(flow.second_mark), *last));
        }
        for span in fresh {
            self.end_envelopes(round, handle, span, &before, (ending, reason), tx)?;
        }
        Ok(())
    }

    /// Writes endings into the rows of the envelopes they touch.
    pub(super) fn end_envelopes(
        &mut self,
        round: Round,
        handle: FlowHandle,
        (first, last): (u64, u64),
        before: &OutFlow,
        (ending, reason): (Ending, u32),
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let mut from = first;
        while from <= last {
            let page = tx.scan::<stored::Envelope>(&(handle, from).encode(), &(handle, u64::MAX).encode(), PAGE)?;
            if page.is_empty() {
                return Ok(());
            }
            for (key, mut row) in page {
                let row_first = first_of(key, row.count)?;
                if row_first > last {
                    return Ok(());
                }
                let (begin, end) = (first.max(row_first), last.min(key.1));
                let at_ms = round.now.wall_ms;
                for (first, last, late) in before.by_confirmation(begin, end) {
                    // The first ending stands (promise P3); beside an unconfirmed one only a late arrival does.
                    if late && ending != Ending::Delivered && !planted::is(Bug::EndingOverwritten) {
                        continue;
                    }
                    let given = stored::Ending { first, last, ending: ending as u32, reason, at_ms, late };
                    if row.fragment && ending != Ending::Delivered {
                        Self::note_first_ending(key, &given, tx)?;
                    }
                    let notice = notice::beside(&given, &row, round.at);
                    row.endings.extend(notice);
                    row.endings.push(given);
                }
                let newly = (begin..=end).filter(|number| !before.has_ended(*number)).count() as u64;
                self.end_row(round, key, row, newly, tx)?;
                from = key.1 + 1;
            }
        }
        Ok(())
    }

    /// After some numbers of an envelope have ended: counts them off, and frees its body when all have.
    pub(super) fn end_row(
        &mut self,
        round: Round,
        key: EnvelopeKey,
        mut row: stored::Envelope,
        newly: u64,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        if newly > 0 && !planted::is(Bug::OutboxNotCountedOff) {
            self.count_off(round, key, &row, newly, tx)?;
        }
        let row_first = first_of(key, row.count)?;
        let flow = self.flows.out.get(key.0, tx)?.ok_or_else(|| damaged(Table::OutFlow))?;
        let (id, over) = (flow.id, (row_first..=key.1).all(|number| flow.has_ended(number)));
        if over && row.state() != State::Ended {
            self.unmake_due(id, &row, tx);
            row.set_state(State::Ended);
            if !planted::is(Bug::BodyNotFreed) {
                tx.delete_raw(Table::Body, (row.body, row.body_index).encode());
            }
            self.clear_expiry(key, &row, tx);
            self.counters.outbox_bytes = self.counters.outbox_bytes.saturating_sub(row.bytes);
            self.set_forgetting(key, &mut row, round.at.plus(limits::LADDER_MS), tx);
        }
        tx.put(&key, &row);
        Ok(())
    }

    pub(super) fn count_off(
        &mut self,
        round: Round,
        key: EnvelopeKey,
        row: &stored::Envelope,
        newly: u64,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let messages = if row.fragment { self.fragment_ended(round, key, tx)? } else { newly };
        self.counters.outbox_messages = self.counters.outbox_messages.saturating_sub(messages);
        Ok(())
    }

    /// A message in fragments has ended when its last fragment has. Returns 1 then.
    pub(super) fn fragment_ended(
        &mut self,
        round: Round,
        key: EnvelopeKey,
        tx: &mut Tx<'_>,
    ) -> Result<u64, StoreError> {
        let Some(id) = Self::fragment_id(key, tx)? else { return Ok(0) };
        let Some(mut message) = tx.get::<stored::Message>(&(id,))? else { return Ok(0) };
        message.open_fragments = message.open_fragments.saturating_sub(1);
        message.ended_at = round.at.0;
        tx.put(&(id,), &message);
        Ok(u64::from(message.open_fragments == 0))
    }

    /// A message in fragments ends as the first of them did that was not delivered: what follows for the others is no
    /// ending of its own (promise P3).
    fn note_first_ending(key: EnvelopeKey, given: &stored::Ending, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Some(id) = Self::fragment_id(key, tx)? else { return Ok(()) };
        if let Some(mut message) = tx.get::<stored::Message>(&(id,))?
            && message.ending.is_none()
        {
            message.ending = Some(*given);
            tx.put(&(id,), &message);
        }
        Ok(())
    }

    pub(super) fn fragment_id(key: EnvelopeKey, tx: &Tx<'_>) -> Result<Option<crate::id::MessageId>, StoreError> {
        let contents = tx.get::<stored::Contents>(&key)?;
        Ok(contents.and_then(|contents| crate::id::MessageId::from_slice(&contents.messages.first()?.id)))
    }

    /// Sub-states after `delivered`: consumed, refused, dead-lettered (rule WORD-5).
    pub(super) fn take_substates(
        &mut self,
        round: Round,
        handle: FlowHandle,
        content: &hop::ReceiptContent,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let consumed = content.consumed.iter().map(|range| (range.first, range.last, CONSUMED, 0));
        let refused = content.refused.iter().map(|range| (range.first, range.last, REFUSED, range.reason));
        let dead = content.dead.iter().map(|range| (range.first, range.last, DEAD, range.reason));
        for (first, last, state, reason) in consumed.chain(refused).chain(dead).collect::<Vec<_>>() {
            let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
            let last = last.min(flow.last());
            let fresh = flow.consumed.missing(first.max(flow.second_mark), last);
            flow.consumed.insert(first.max(flow.second_mark), last);
            for (first, last) in fresh {
                Self::note_substate(round, handle, (first, last), (state, reason), tx)?;
            }
        }
        let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
        let mut next = flow.consumed.first_missing(flow.second_mark).min(flow.floor);
        if planted::is(Bug::SecondMarkPassesUnconsumed) {
            next = flow.floor;
        }
        if next > flow.second_mark {
            flow.second_mark = next;
            flow.consumed.remove_below(next);
            flow.word_version += 1;
        }
        Ok(())
    }

    pub(super) fn note_substate(
        round: Round,
        handle: FlowHandle,
        (first, last): (u64, u64),
        (ending, reason): (u32, u32),
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let mut from = first;
        while from <= last {
            let rows = tx.scan::<stored::Envelope>(&(handle, from).encode(), &(handle, u64::MAX).encode(), 1)?;
            let Some((key, mut row)) = rows.into_iter().next() else { return Ok(()) };
            let row_first = first_of(key, row.count)?;
            if row_first > last {
                return Ok(());
            }
            let (first, last) = (first.max(row_first), last.min(key.1));
            row.endings.push(stored::Ending { first, last, ending, reason, at_ms: round.now.wall_ms, late: false });
            tx.put(&key, &row);
            from = key.1 + 1;
        }
        Ok(())
    }

    /// What follows when something of a flow has been settled.
    pub(super) fn after_settling(
        &mut self,
        round: Round,
        handle: FlowHandle,
        old_floor: u64,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        self.wake_waiters(handle);
        let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
        flow.trim_sealings();
        let (destination, untold) = (flow.id.destination, flow.word_version > flow.echoed_version);
        let waits = flow.floor < flow.next || (untold && flow.word_ends_something());
        // The next wave is as far away as after the first send, unless the lowest open number is still the same: what
        // was lost must not wait until all other traffic has ceased (rule RETRY-2).
        if !waits || flow.floor > old_floor {
            self.retries.remove(&handle);
            self.alarms.clear(Alarm::Retry(handle));
        }
        if waits {
            self.expect_receipt(round, handle, destination);
        }
        if untold && destination == self.me {
            self.hear_own_word(round, handle, tx)?;
        } else if untold {
            self.alarms.set_if_unset(Alarm::Word(handle), round.now.boot_ms + MARK_MS);
        }
        if let Some(lane) = self.flows.out.get(handle, tx)?.map(|flow| flow.id) {
            // The window may have moved: what was held back may go.
            if let Some(lane) = self.lanes.get(lane.class, lane.destination) {
                lane.waiting = true;
            }
        }
        self.forget_echoed(handle, tx)
    }
}
