//! Mail of others, on a relay: taken once a wave, kept until a receipt or a word has ended it, given up by its age
//! (rules WAVE-2, WAVE-3, RECEIPT-3).

use bytes::Bytes;
use prost::Message as _;
use waypost_proto::hop;
use waypost_proto::stored::{self, envelope::State};

use super::inbound::Verdict;
use super::receipts::pages_of;
use super::{Engine, Event, Round};
use crate::envelope::Name;
use crate::hop::Arrived;
use crate::id::NodeId;
use crate::numbers::Numbers;
use crate::planted::{self, Bug};
use crate::store::keys::Key as _;
use crate::store::kv::{StoreError, Table};
use crate::store::tables::{EnvelopeKey, FlowHandle, ReceiptRow, WordRow, first_of};
use crate::store::tx::Tx;

/// Envelopes looked at in one scan.
const PAGE: usize = 256;

impl Engine {
    pub(super) fn take(
        &mut self,
        round: Round,
        peer: NodeId,
        name: Name,
        arrived: Arrived,
        tx: &mut Tx<'_>,
    ) -> Result<Verdict, StoreError> {
        let (wave, known) = match self.flows.handle(&name.flow, tx)? {
            Some(handle) => {
                let wave = self.believed_wave(name, handle, arrived.wave, tx)?;
                (wave, self.known_in_transit(round, peer, name, handle, wave, tx)?)
            }
            None => (1, None),
        };
        if let Some(verdict) = known {
            return Ok(verdict);
        }
        let lifetime_ms = arrived.envelope.header().lifetime_ms;
        // Rule AGE-4: as old as this it would be dropped at once.
        if arrived.age_ms >= lifetime_ms {
            return Ok(Verdict::Gone);
        }
        let sealed = arrived.envelope.envelope().sealed.clone();
        if let Some(refusal) = self.make_room(name.flow, sealed.len() as u64, tx)? {
            return Ok(refusal);
        }
        // Not before: what is refused leaves no row behind (rule HOP-6).
        let handle = self.flows.handle_or_new(&name.flow, &mut self.counters, tx)?;
        self.hear_transit(round, handle, name.flow, tx)?;
        self.counters.next_body += 1;
        self.clock.recorded();
        let mut row = stored::Envelope {
            count: name.count,
            bytes: sealed.len() as u64,
            lifetime_ms,
            body: self.counters.next_body,
            arrived: round.at.0,
            age_ms: if planted::is(Bug::AgeNotCarried) { 0 } else { arrived.age_ms },
            hops: arrived.hops,
            wave,
            accepted_wall_ms: round.now.wall_ms,
            header: arrived.envelope.envelope().header_bytes.clone(),
            signature: Bytes::copy_from_slice(&arrived.envelope.envelope().signature),
            from: Bytes::copy_from_slice(&peer.0),
            ..Default::default()
        };
        let key = (handle, name.last());
        tx.put_raw(Table::Body, (row.body, 0u32).encode(), sealed);
        Self::log(&mut row, Event::TakenFrom, Some(peer), round);
        self.dropped_passed.remove(&(name.flow, name.last()));
        self.forget_taken(key, tx)?;
        self.set_expiry(key, &mut row, round.at.plus(lifetime_ms - arrived.age_ms), tx);
        tx.put(&key, &stored::Wave { wave, count: name.count, timer: row.timer, from: row.from.clone() });
        self.make_due(name.flow, key, &mut row, tx);
        tx.put(&key, &row);
        self.counters.transit_envelopes += 1;
        self.counters.transit_bytes += row.bytes;
        self.kept_in_transit(key, name.flow);
        if let Some(flow) = self.flows.transit.change(handle, tx)? {
            flow.envelopes += 1;
        }
        Ok(Verdict::Held)
    }

    /// What this relay knows of an envelope already; `None`: nothing (rule WAVE-2).
    pub(super) fn known_in_transit(
        &mut self,
        round: Round,
        peer: NodeId,
        name: Name,
        handle: FlowHandle,
        wave: u32,
        tx: &mut Tx<'_>,
    ) -> Result<Option<Verdict>, StoreError> {
        let settled = self.flows.transit.get(handle, tx)?.is_some_and(|flow| flow.is_settled(name.first, name.last()));
        if settled {
            self.show_receipt(handle, name.flow, peer, tx)?;
            return Ok(Some(Verdict::Gone));
        }
        let key = (handle, name.last());
        let Some(taken) = tx.get::<stored::Wave>(&key)? else { return Ok(None) };
        match tx.get::<stored::Envelope>(&key)? {
            Some(mut row) => {
                if wave > taken.wave {
                    tx.put(&key, &stored::Wave { wave, ..taken });
                    row.wave = wave;
                    self.revive(round, name.flow, key, row, tx);
                }
                self.had.insert(key);
                Ok(Some(Verdict::Held))
            }
            None if wave > taken.wave || planted::is(Bug::TakenTwiceInAWave) => Ok(None),
            None if planted::is(Bug::HaveForATombstone) => Ok(Some(Verdict::Held)),
            None => Ok(Some(Verdict::Gone)),
        }
    }

    /// A standby copy becomes active again.
    pub(super) fn revive(
        &mut self,
        _round: Round,
        flow: crate::id::FlowId,
        key: EnvelopeKey,
        mut row: stored::Envelope,
        tx: &mut Tx<'_>,
    ) {
        if row.state() == State::Standby {
            self.leave_standby(&row, tx);
            self.make_due(flow, key, &mut row, tx);
            // It has left before: it is offered, not sent.
            self.fresh_above = self.counters.next_due;
        }
        tx.put(&key, &row);
    }

    /// A wave above 1 is believed only when the source's word names it (rule WAVE-3).
    pub(super) fn believed_wave(
        &self,
        name: Name,
        handle: FlowHandle,
        wave: u32,
        tx: &Tx<'_>,
    ) -> Result<u32, StoreError> {
        if wave <= 1 {
            return Ok(wave);
        }
        let Some(WordRow(row)) = tx.get::<WordRow>(&(name.flow.destination, handle))? else { return Ok(1) };
        let named = pages_of(&row)
            .iter()
            .filter_map(|page| hop::WordContent::decode(page.content.clone()).ok())
            .flat_map(|word| word.waves)
            // From the floor up: the first messages of an envelope may have ended alone.
            .filter(|range| range.first <= name.last() && name.last() <= range.last)
            .map(|range| range.wave)
            .max();
        Ok(wave.min(named.unwrap_or(1)))
    }

    /// A relay frees what a receipt or word has ended, by numbers alone (rule RECEIPT-3).
    pub(super) fn settle_transit(
        &mut self,
        handle: FlowHandle,
        floor: u64,
        ended: &Numbers,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(flow) = self.flows.transit.change(handle, tx)? else { return Ok(()) };
        let old_floor = flow.floor;
        let mut fresh: Vec<(u64, u64)> = Vec::new();
        if floor > old_floor {
            fresh.extend(flow.settled.missing(old_floor, floor - 1));
        }
        for (first, last) in ended.spans() {
            fresh.extend(flow.settled.missing((*first).max(floor.max(old_floor)), *last));
        }
        flow.settled.union(ended);
        flow.floor = floor.max(old_floor);
        let new_floor = flow.floor;
        flow.settled.remove_below(new_floor);
        for (first, last) in fresh {
            self.free_transit(handle, first, last, tx)?;
        }
        Ok(())
    }

    /// Frees the envelopes of others that touch a range and are settled whole.
    pub(super) fn free_transit(
        &mut self,
        handle: FlowHandle,
        first: u64,
        last: u64,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let mut from = first;
        loop {
            let page = tx.scan::<stored::Wave>(&(handle, from).encode(), &(handle, u64::MAX).encode(), PAGE)?;
            let full = page.len() == PAGE;
            for (key, taken) in page {
                let row = tx.get::<stored::Envelope>(&key)?;
                let count = row.as_ref().map_or(taken.count, |row| row.count);
                let row_first = first_of(key, count.max(1))?;
                if row_first > last {
                    return Ok(());
                }
                let settled = self.flows.transit.get(handle, tx)?.is_some_and(|flow| flow.is_settled(row_first, key.1));
                if settled {
                    if let Some(row) = row {
                        self.drop_transit(key, &row, tx)?;
                        self.clear_expiry(key, &row, tx);
                    }
                    self.forget_taken(key, tx)?;
                }
                from = key.1 + 1;
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// Removes the record of a wave taken, and what would have ended it.
    pub(super) fn forget_taken(&mut self, key: EnvelopeKey, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        if let Some(taken) = tx.get::<stored::Wave>(&key)? {
            let timer = stored::Envelope { timer: taken.timer, ..Default::default() };
            self.clear_expiry(key, &timer, tx);
            tx.delete::<stored::Wave>(&key);
        }
        Ok(())
    }

    /// Removes another node's envelope; the record of its wave stays, and the timer that ends both.
    pub(super) fn drop_transit(
        &mut self,
        key: EnvelopeKey,
        row: &stored::Envelope,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(flow) = self.flows.transit.change(key.0, tx)? else { return Ok(()) };
        flow.envelopes = flow.envelopes.saturating_sub(1);
        let id = flow.id;
        self.unmake_due(id, row, tx);
        self.leave_standby(row, tx);
        self.on_top.remove(key);
        tx.delete_raw(Table::Body, (row.body, 0u32).encode());
        tx.delete::<stored::Envelope>(&key);
        self.counters.transit_envelopes = self.counters.transit_envelopes.saturating_sub(1);
        self.counters.transit_bytes = self.counters.transit_bytes.saturating_sub(row.bytes);
        Ok(())
    }

    /// A flow whose word says that all of it has ended is forgotten at once when nothing of it is held (rule FLOW-7).
    pub(super) fn drop_idle_transit(&mut self, handle: FlowHandle, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Some(flow) = self.flows.transit.get(handle, tx)? else { return Ok(()) };
        let (id, floor, envelopes) = (flow.id, flow.floor, flow.envelopes);
        let Some(WordRow(row)) = tx.get::<WordRow>(&(id.destination, handle))? else { return Ok(()) };
        let pages = pages_of(&row);
        let mut words = pages.iter().filter_map(|page| hop::WordContent::decode(page.content.clone()).ok());
        let over = words.any(|word| word.closed && word.floor > word.end && floor > word.end);
        if over && envelopes == 0 && tx.get::<ReceiptRow>(&(id.source, handle))?.is_none() {
            self.forget_transit(handle, id, tx)?;
        }
        Ok(())
    }
}
