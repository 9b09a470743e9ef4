//! What time does: lifetimes end by age, ladders are forgotten, mail without a receipt goes again on a new wave
//! (rules AGE-1, AGE-4, IDEM-2, WAVE-3, RETRY-1, RETRY-2). Retries are spaced, never counted out.

use waypost_proto::stored::{self, envelope::State};

use super::alarm::Alarm;
use super::effect::{Effect, Refusal, Reply};
use super::input::RequestId;
use super::settle::MARK_MS;
use super::submit::expiry_of;
use super::{Engine, Event, Job, Retry, Round};
use crate::flow::{Ending, Unconfirmed};
use crate::id::{MessageId, NodeId};
use crate::limits;
use crate::numbers::Numbers;
use crate::planted::{self, Bug};
use crate::store::keys::Key as _;
use crate::store::kv::{StoreError, Table};
use crate::store::tables::{EnvelopeKey, FlowHandle, first_of};
use crate::store::tx::Tx;
use crate::time::NodeTime;

/// Kinds of rows in the timer table.
const EXPIRE: u8 = 1;
const FORGET: u8 = 2;
const ORDER: u8 = 3;
const PARTIAL: u8 = 4;
pub(super) const FLOW: u8 = 5;
/// Timer rows carried out in one round.
const TIMERS: usize = 256;
/// Envelopes a job looks at in one round.
const JOB: usize = 256;
/// The longest time between two waves.
const WAVE_MAX_MS: u64 = 60 * 60 * 1000;

impl Engine {
    /// Sets when an envelope's first message, or the envelope of another, expires here.
    pub(super) fn set_expiry(&mut self, key: EnvelopeKey, row: &mut stored::Envelope, at: NodeTime, tx: &mut Tx<'_>) {
        row.timer = at.0;
        tx.put(&(at, EXPIRE, key.0, key.1), &stored::Empty {});
        self.watch_timers(at);
    }

    pub(super) fn clear_expiry(&mut self, key: EnvelopeKey, row: &stored::Envelope, tx: &mut Tx<'_>) {
        if row.timer > 0 {
            tx.delete::<stored::Empty>(&(NodeTime(row.timer), EXPIRE, key.0, key.1));
        }
    }

    pub(super) fn set_forgetting(
        &mut self,
        key: EnvelopeKey,
        row: &mut stored::Envelope,
        at: NodeTime,
        tx: &mut Tx<'_>,
    ) {
        row.timer = 0;
        tx.put(&(at, FORGET, key.0, key.1), &stored::Empty {});
        self.watch_timers(at);
    }

    /// Sets when a message that waits for its predecessor is released without it.
    pub(super) fn watch_order(&mut self, at: NodeTime, place: (FlowHandle, u64), tx: &mut Tx<'_>) {
        tx.put(&(at, ORDER, place.0, place.1), &stored::Empty {});
        self.watch_timers(at);
    }

    pub(super) fn clear_order_watch(&self, at: u64, place: (FlowHandle, u64), tx: &mut Tx<'_>) {
        tx.delete::<stored::Empty>(&(NodeTime(at), ORDER, place.0, place.1));
    }

    /// Sets when to look whether a partial body is to be given up.
    pub(super) fn watch_partial(&mut self, key: (FlowHandle, u64), at: NodeTime, tx: &mut Tx<'_>) {
        tx.put(&(at, PARTIAL, key.0, key.1), &stored::Empty {});
        self.watch_timers(at);
    }

    /// Rings when the first row of the timer table is due.
    pub(super) fn watch_timers(&mut self, at: NodeTime) {
        self.alarms.set_earlier(Alarm::Rows, self.boot_ms_of(at));
    }

    /// Carries out a page of timer rows that are due. Returns whether more are.
    pub(super) fn ring_rows(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<bool, StoreError> {
        let end = (round.at.plus(1), 0u8, 0u64, 0u64).encode();
        let rows = tx.scan::<stored::Empty>(&[], &end, TIMERS)?;
        for (key, row) in rows {
            tx.delete::<stored::Empty>(&key);
            let _: stored::Empty = row;
            let (_, kind, handle, last) = key;
            match kind {
                EXPIRE => self.expire(round, (handle, last), tx)?,
                ORDER => self.release_unproven((handle, last), tx)?,
                PARTIAL => self.ring_partial(round, (handle, last), tx)?,
                FLOW => self.ring_flow(round, handle, tx)?,
                _ => self.forget(round, (handle, last), tx)?,
            }
        }
        let all = crate::store::keys::end_of_table();
        let Some(((at, ..), _)) = tx.scan::<stored::Empty>(&[], &all, 1)?.into_iter().next() else { return Ok(false) };
        if at > round.at {
            self.watch_timers(at);
        }
        Ok(at <= round.at)
    }

    fn expire(&mut self, round: Round, key: EnvelopeKey, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Some(row) = tx.get::<stored::Envelope>(&key)? else {
            // Its copy was given up before; now the record of its wave ends too (rule WAVE-2).
            tx.delete::<stored::Wave>(&key);
            return Ok(());
        };
        if row.state() == State::Ended {
            return Ok(());
        }
        if !row.header.is_empty() {
            // A relay lets go by its own count; it ends nothing (rule AGE-4).
            self.drop_transit(key, &row, tx)?;
            tx.delete::<stored::Wave>(&key);
            return Ok(());
        }
        self.expire_own(round, key, row, tx)
    }

    /// Ends the messages of an own envelope whose time has come; only the source's clock does.
    fn expire_own(
        &mut self,
        round: Round,
        key: EnvelopeKey,
        row: stored::Envelope,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        // Without its contents row the envelope's own lifetime ends them all: later, never not at all.
        let contents = tx.get::<stored::Contents>(&key)?.unwrap_or_else(|| lifetimes_of(&row));
        let first = first_of(key, row.count)?;
        let mut next: Option<NodeTime> = None;
        let mut over = Numbers::new();
        for (number, sent) in (first..).zip(&contents.messages) {
            let at = expiry_of(&row, sent);
            if at > round.at {
                next = Some(next.map_or(at, |next| next.min(at)));
            } else {
                over.insert(number, number);
            }
        }
        for (first, last) in over.spans() {
            self.end_by_source(round, key.0, (*first, *last), Ending::Expired, tx)?;
        }
        if let (Some(at), Some(mut row)) = (next, tx.get::<stored::Envelope>(&key)?)
            && row.state() != State::Ended
        {
            self.set_expiry(key, &mut row, at, tx);
            tx.put(&key, &row);
        }
        Ok(())
    }

    /// The source ends numbers of one envelope: for good when they never left, else until the destination has a say
    /// (rule WORD-2).
    pub(super) fn end_by_source(
        &mut self,
        round: Round,
        handle: FlowHandle,
        (first, last): (u64, u64),
        ending: Ending,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
        let open: Numbers =
            (first..=last).filter(|number| !flow.has_ended(*number)).map(|number| (number, number)).collect();
        let (left_below, destination) = (flow.left_below, flow.id.destination);
        let of_this_start = flow.id.incarnation == self.own.incarnation;
        for (first, last) in open.spans() {
            // Of an earlier incarnation everything counts as having left, also before its flow was closed (rule START-2).
            let this_start = of_this_start || planted::is(Bug::LeftForgotten);
            let may_not_have_left = this_start && (*first >= left_below || planted::is(Bug::CancelledAfterItLeft));
            if may_not_have_left && self.ends_whole(handle, (*first, *last), tx)? {
                self.end_numbers(round, handle, (*first, *last), ending, 0, tx)?;
                self.owe_floor(round, handle, *last, tx)?;
                continue;
            }
            let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
            let before = flow.clone();
            flow.end_unconfirmed(Unconfirmed { first: *first, last: *last, ending, at: round.at });
            self.end_envelopes(round, handle, (*first, *last), &before, (ending, 0), tx)?;
            self.words_due.insert(handle);
            // The word is repeated until it is echoed, also when no copy was ever acknowledged.
            self.expect_receipt(round, handle, destination);
        }
        self.wake_waiters(handle);
        Ok(())
    }

    /// The destination never heard of these numbers, but what follows under their order key may wait there for the floor
    /// to pass them (rules ORDER-2, WORD-3): the word is told until it has been heard.
    fn owe_floor(&mut self, round: Round, handle: FlowHandle, last: u64, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
        flow.owed_floor = flow.owed_floor.max(last + 1);
        let (destination, tells) = (flow.id.destination, flow.word_ends_something());
        if tells && destination == self.me {
            self.hear_own_word(round, handle, tx)?;
        } else if tells {
            self.alarms.set_if_unset(Alarm::Word(handle), round.now.boot_ms + MARK_MS);
            self.expect_receipt(round, handle, destination);
        }
        Ok(())
    }

    /// Whether nothing else of the envelope is open: it will not leave any more. Otherwise these leave with the rest.
    fn ends_whole(&mut self, handle: FlowHandle, (first, last): (u64, u64), tx: &Tx<'_>) -> Result<bool, StoreError> {
        let rows = tx.scan::<stored::Envelope>(&(handle, first).encode(), &(handle, u64::MAX).encode(), 1)?;
        let Some((key, row)) = rows.into_iter().next() else { return Ok(true) };
        let Some(flow) = self.flows.out.get(handle, tx)? else { return Ok(true) };
        let row_first = first_of(key, row.count)?;
        Ok((row_first..=key.1).all(|number| (first..=last).contains(&number) || flow.has_ended(number)))
    }

    /// The sender asks to end messages before delivery (rule CANCEL-1).
    pub(super) fn cancel(
        &mut self,
        round: Round,
        request: RequestId,
        ids: &[MessageId],
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        // Before anything is ended: what is refused has changed nothing.
        for id in ids {
            if tx.get::<stored::Message>(&(*id,))?.is_none() {
                let reply = Reply::Refused(Refusal::UnknownMessage(*id));
                tx.claim(Effect::Reply { request, reply });
                return Ok(());
            }
        }
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            self.undelay(round, *id, tx)?;
            let Some(message) = tx.get::<stored::Message>(&(*id,))? else { continue };
            for number in message.number..message.number + u64::from(message.fragments.max(1)) {
                self.end_by_source(round, message.handle, (number, number), Ending::Cancelled, tx)?;
            }
            outcomes.push((*id, self.state_of(round, *id, tx)?));
        }
        tx.claim(Effect::Reply { request, reply: Reply::Cancelled(outcomes) });
        Ok(())
    }

    /// The ladder of an envelope's messages has been kept long enough (rules IDEM-2, FLOW-4).
    fn forget(&mut self, round: Round, key: EnvelopeKey, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        if self.is_still_compared(round, key, tx)? || self.is_part_of_more(round, key, tx)? {
            return Ok(());
        }
        let contents = tx.get::<stored::Contents>(&key)?.unwrap_or_default();
        for id in contents.messages.iter().filter_map(|sent| MessageId::from_slice(&sent.id)) {
            if let Some(message) = tx.get::<stored::Message>(&(id,))?
                && message.open_fragments == 0
            {
                self.forget_order(key.0, id, &message, tx)?;
                tx.delete::<stored::Message>(&(id,));
                if !message.idempotency_key.is_empty() {
                    tx.delete::<stored::Idempotency>(&(message.uid, message.idempotency_key));
                }
            }
        }
        tx.delete::<stored::Contents>(&key);
        tx.delete::<stored::Envelope>(&key);
        let rest = tx.scan_raw(Table::Envelope, &(key.0, 0u64).encode(), &(key.0, u64::MAX).encode(), 1)?;
        if rest.is_empty() {
            // Rule FLOW-4: with its last ladder; what its destination has not echoed is told a while longer.
            self.forget_echoed(key.0, tx)?;
            self.watch_own_end(round, key.0, tx)?;
        }
        Ok(())
    }

    /// Lets the floor pass unconfirmed endings that are old enough (rule WORD-4). What stays above an open number is
    /// kept another day: a receipt for that number may speak of both, and proves nothing without all their tags.
    fn is_still_compared(&mut self, round: Round, key: EnvelopeKey, tx: &mut Tx<'_>) -> Result<bool, StoreError> {
        let Some(flow) = self.flows.out.change(key.0, tx)? else { return Ok(false) };
        let old_floor = flow.floor;
        for (first, last) in flow.forget_unconfirmed(round.at) {
            flow.consumed.insert(first.max(flow.second_mark), last);
        }
        let floor = flow.floor;
        if floor > old_floor {
            self.alarms.set_if_unset(Alarm::Word(key.0), round.now.boot_ms);
        }
        if floor > key.1 {
            return Ok(false);
        }
        if let Some(mut row) = tx.get::<stored::Envelope>(&key)? {
            self.set_forgetting(key, &mut row, round.at.plus(limits::DAY_MS), tx);
            tx.put(&key, &row);
        }
        Ok(true)
    }

    /// The rows of a body in fragments are kept until its ladder is: the last fragment to end may do so long after this one.
    fn is_part_of_more(&mut self, round: Round, key: EnvelopeKey, tx: &mut Tx<'_>) -> Result<bool, StoreError> {
        let Some(id) = Self::fragment_id(key, tx)? else { return Ok(false) };
        let message = tx.get::<stored::Message>(&(id,))?.filter(|message| message.fragments > 0);
        let (Some(message), Some(flow)) = (message, self.flows.out.get(key.0, tx)?) else { return Ok(false) };
        let all_ended = flow.floor >= message.number + u64::from(message.fragments);
        let ended_at = if all_ended { NodeTime(message.ended_at) } else { round.at };
        let until = ended_at.plus(limits::LADDER_MS);
        let Some(mut row) = tx.get::<stored::Envelope>(&key)?.filter(|_| until > round.at) else { return Ok(false) };
        self.set_forgetting(key, &mut row, until, tx);
        tx.put(&key, &row);
        Ok(true)
    }

    // ---- without a receipt ----

    /// Mail of a flow has left this node: it goes again when no receipt comes in the time the way should take.
    pub(super) fn expect_receipt(&mut self, round: Round, handle: FlowHandle, destination: NodeId) {
        if self.retries.contains_key(&handle) {
            return;
        }
        let predicted = self.directory.next(self.me, &self.own_links, destination).delay_us.unwrap_or(0) / 1000;
        let wait_ms = self.policy.wave_ms.max(predicted.saturating_mul(2)).min(WAVE_MAX_MS);
        self.retries.insert(handle, Retry { wait_ms });
        self.alarms.set(Alarm::Retry(handle), round.now.boot_ms + wait_ms);
    }

    /// No receipt came: the source raises the wave, and what stands by becomes active again (rules RETRY-1, WAVE-3).
    pub(super) fn retry(&mut self, round: Round, handle: FlowHandle, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Some(Retry { wait_ms }) = self.retries.get(&handle).copied() else { return Ok(()) };
        let me = self.me;
        if let Some(flow) = self.flows.out.change(handle, tx)? {
            let (id, ends) = (flow.id, flow.word_ends_something() && flow.word_version > flow.echoed_version);
            let open = flow.floor < flow.next;
            if open && id.destination != me {
                flow.raise_wave();
            }
            if !open && !ends {
                self.retries.remove(&handle);
                return Ok(());
            }
            if ends && !planted::is(Bug::WordNotRepeated) {
                self.words_due.insert(handle);
            }
        } else if self.flows.transit.get(handle, tx)?.is_none_or(|flow| flow.envelopes == 0) {
            self.retries.remove(&handle);
            return Ok(());
        }
        let older_than = NodeTime(round.at.0.saturating_sub(wait_ms / 2));
        self.jobs.push_back(Job { handle, at: None, older_than, cursor: 0 });
        let wait_ms = (wait_ms * 2).min(WAVE_MAX_MS);
        self.retries.insert(handle, Retry { wait_ms });
        self.alarms.set(Alarm::Retry(handle), round.now.boot_ms + wait_ms);
        self.alarms.set(Alarm::Continue, round.now.boot_ms);
        Ok(())
    }

    /// Nothing of a flow waits for a receipt any more.
    pub(super) fn stop_expecting(&mut self, handle: FlowHandle) {
        self.retries.remove(&handle);
        self.alarms.clear(Alarm::Retry(handle));
    }

    /// A new connection clears the waits that silence caused: the next wave is at most the shortest wait away (RETRY-2).
    pub(super) fn hasten_retries(&mut self, round: Round) {
        let wait_ms = self.policy.wave_ms;
        for (handle, retry) in &mut self.retries {
            retry.wait_ms = retry.wait_ms.min(wait_ms);
            self.alarms.set_earlier(Alarm::Retry(*handle), round.now.boot_ms + wait_ms);
        }
    }

    /// Works on the first jobs: makes standby copies active again, a page a round.
    pub(super) fn work(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let mut left = JOB;
        while left > 0
            && let Some(mut job) = self.jobs.pop_front()
        {
            let from = (job.handle, job.cursor).encode();
            let page = tx.scan::<stored::Envelope>(&from, &(job.handle, u64::MAX).encode(), left)?;
            let more = page.len() == left;
            left -= page.len().max(1);
            let Some(flow) = self.flow_of(job.handle, tx)?.filter(|flow| flow.destination != self.me) else { continue };
            for (key, mut row) in page {
                job.cursor = key.1 + 1;
                let of_peer = job.at.is_none_or(|peer| row.standby_at == peer.0.as_slice());
                let old = row.standby_since <= job.older_than.0;
                if row.state() == State::Standby && of_peer && old && !planted::is(Bug::StandbyNotRevived) {
                    Self::log(&mut row, Event::Again, None, round);
                    self.revive(round, flow, key, row, tx);
                }
            }
            if more {
                self.jobs.push_back(job);
            }
        }
        Ok(())
    }
}

/// What a lost contents row would have said of lifetimes at most.
fn lifetimes_of(row: &stored::Envelope) -> stored::Contents {
    let sent = stored::Sent { lifetime_ms: row.lifetime_ms, ..Default::default() };
    stored::Contents { messages: vec![sent; row.count as usize], tags_before: 0 }
}
