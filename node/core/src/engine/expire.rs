//! What time does: lifetimes end by age, ladders are forgotten, mail without a receipt goes again on a new wave
//! (rules AGE-1, AGE-4, IDEM-2, WAVE-3, RETRY-1, RETRY-2). Retries are spaced, never counted out.

use waypost_proto::stored::{self, envelope::State};

use super::alarm::Alarm;
use super::effect::{Effect, Refusal, Reply};
use super::input::RequestId;
use super::submit::{damaged, expiry_of};
use super::{Engine, Event, Job, Retry, Round};
use crate::flow::{Ending, Unconfirmed};
use crate::id::{MessageId, NodeId};
use crate::limits;
use crate::numbers::Numbers;
use crate::store::keys::Key as _;
use crate::store::kv::{StoreError, Table};
use crate::store::tables::{EnvelopeKey, FlowHandle, ReceiptRow};
use crate::store::tx::Tx;
use crate::time::NodeTime;

/// Kinds of rows in the timer table.
const EXPIRE: u8 = 1;
const FORGET: u8 = 2;
const ORDER: u8 = 3;
const PARTIAL: u8 = 4;
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
    fn watch_timers(&mut self, at: NodeTime) {
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
        let Some(row) = tx.get::<stored::Envelope>(&key)? else { return Ok(()) };
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
        let contents = tx.get::<stored::Contents>(&key)?.ok_or_else(|| damaged(Table::Contents))?;
        let first = key.1 + 1 - u64::from(row.count);
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
        for (first, last) in open.spans() {
            if *first >= left_below && self.ends_whole(handle, (*first, *last), tx)? {
                self.end_numbers(round, handle, (*first, *last), ending, 0, tx)?;
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

    /// Whether nothing else of the envelope is open: it will not leave any more. Otherwise these leave with the rest.
    fn ends_whole(&mut self, handle: FlowHandle, (first, last): (u64, u64), tx: &Tx<'_>) -> Result<bool, StoreError> {
        let rows = tx.scan::<stored::Envelope>(&(handle, first).encode(), &(handle, u64::MAX).encode(), 1)?;
        let Some((key, row)) = rows.into_iter().next() else { return Ok(true) };
        let Some(flow) = self.flows.out.get(handle, tx)? else { return Ok(true) };
        let row_first = key.1 + 1 - u64::from(row.count);
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
        let mut outcomes = Vec::with_capacity(ids.len());
        for id in ids {
            self.undelay(round, *id, tx)?;
            let Some(message) = tx.get::<stored::Message>(&(*id,))? else {
                let reply = Reply::Refused(Refusal::UnknownMessage(*id));
                tx.claim(Effect::Reply { request, reply });
                return Ok(());
            };
            for number in message.number..message.number + u64::from(message.fragments.max(1)) {
                self.end_by_source(round, message.handle, (number, number), Ending::Cancelled, tx)?;
            }
            outcomes.push((*id, self.state_of(*id, tx)?));
        }
        tx.claim(Effect::Reply { request, reply: Reply::Cancelled(outcomes) });
        Ok(())
    }

    /// The ladder of an envelope's messages has been kept long enough (rules IDEM-2, FLOW-4).
    fn forget(&mut self, round: Round, key: EnvelopeKey, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        if self.is_still_compared(round, key, tx)? {
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
        let over = self.flows.out.get(key.0, tx)?.filter(|flow| flow.is_over()).map(|flow| flow.id);
        if let (true, Some(flow)) = (rest.is_empty(), over) {
            tx.delete::<ReceiptRow>(&(flow.source, key.0));
            self.flows.forget(key.0, &flow, self.me, tx);
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
            if ends {
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

    /// A new connection clears the waits that silence caused: the next wave is at most the shortest wait away (RETRY-2).
    pub(super) fn hasten_retries(&mut self, round: Round) {
        let wait_ms = self.policy.wave_ms;
        for (handle, retry) in &mut self.retries {
            retry.wait_ms = retry.wait_ms.min(wait_ms);
            self.alarms.set_earlier(Alarm::Retry(*handle), round.now.boot_ms + wait_ms);
        }
    }

    /// Works on the first job: makes standby copies active again, a page a round.
    pub(super) fn work(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Some(mut job) = self.jobs.pop_front() else { return Ok(()) };
        let from = (job.handle, job.cursor).encode();
        let page = tx.scan::<stored::Envelope>(&from, &(job.handle, u64::MAX).encode(), JOB)?;
        let more = page.len() == JOB;
        let flow = self.flow_of(job.handle, tx)?;
        for (key, mut row) in page {
            job.cursor = key.1 + 1;
            let of_peer = job.at.is_none_or(|peer| row.standby_at == peer.0.as_slice());
            let old = row.standby_since <= job.older_than.0;
            if let Some(flow) = flow
                && row.state() == State::Standby
                && of_peer
                && old
                && flow.destination != self.me
            {
                Self::log(&mut row, Event::Again, None, round);
                self.revive(round, flow, key, row, tx);
            }
        }
        if more {
            self.jobs.push_back(job);
        }
        if !self.jobs.is_empty() {
            self.alarms.set(Alarm::Continue, round.now.boot_ms);
        }
        Ok(())
    }

    /// Neighbours that refused are asked again.
    pub(super) fn unblock(&mut self, round: Round) {
        self.lanes.look_back();
        for link in self.links.values_mut() {
            link.blocked.retain(|_, until| *until > round.now.boot_ms);
            if let Some(until) = link.blocked.values().min() {
                self.alarms.set_earlier(Alarm::Unblock, *until);
            }
        }
    }
}
