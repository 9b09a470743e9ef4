//! Handing on: what is due goes to the neighbour that brings it nearer, against credit; what was sent before, or is
//! large, is offered first; custody turns the copy here into a standby (rules HOP-1 to HOP-6, HOP-10, CUSTODY-1,
//! CUSTODY-3).

use bytes::Bytes;
use waypost_proto::hop::{self, frame::Kind};
use waypost_proto::stored::{self, envelope::State};

use super::alarm::Alarm;
use super::effect::{Effect, Stream};
use super::input::SessionId;
use super::link::{InHand, Refusing};
use super::submit::damaged;
use super::{Engine, Event, Round};
use crate::envelope::Name;
use crate::hop::{Answer, Span, encode};
use crate::id::{Class, FlowId, Incarnation, NodeId};
use crate::limits;
use crate::planted::{self, Bug};
use crate::store::keys::{Key as _, after_prefix};
use crate::store::kv::{StoreError, Table};
use crate::store::tables::{EnvelopeKey, first_of};
use crate::store::tx::Tx;
use crate::trust::seal;

/// Envelopes looked at in one destination's lane at a time.
const PAGE: usize = 64;
/// Envelopes handed on in one round at most; the rest follows in the next.
const ROUND: usize = 1024;
/// What is larger is offered before it is sent.
const OFFER_ABOVE: u64 = 64 * 1024;
/// What an envelope's frame adds to its body, for credit.
pub(super) const FRAME_OVERHEAD: u64 = 512;
/// Items in unanswered offers to one neighbour in one class at most.
const OFFERED: usize = 1024;

/// What became of looking at a lane.
enum Pumped {
    /// So many envelopes left or were offered.
    Moved(usize),
    /// Nothing can move now; an event will wake the lane.
    Stuck,
}

impl Engine {
    /// Makes an envelope due: it waits for a neighbour that brings it nearer.
    pub(super) fn make_due(&mut self, flow: FlowId, key: EnvelopeKey, row: &mut stored::Envelope, tx: &mut Tx<'_>) {
        self.counters.next_due += 1;
        let due = self.counters.next_due;
        row.due = due;
        row.set_state(State::Active);
        tx.put(&(flow.destination, flow.class as u8, due), &stored::Place { handle: key.0, last: key.1 });
        self.lanes.note(flow.class, flow.destination, due);
    }

    /// Takes an envelope off the due.
    pub(super) fn unmake_due(&mut self, flow: FlowId, row: &stored::Envelope, tx: &mut Tx<'_>) {
        if row.state() == State::Active {
            tx.delete::<stored::Place>(&(flow.destination, flow.class as u8, row.due));
            self.lanes.done(flow.class, flow.destination, row.due);
        }
    }

    /// Hands on what can go, most urgent first; what could not go is looked at in every round (rules HOP-10, ROUTE-4).
    pub(super) fn pump(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let mut left = ROUND;
        for class in Class::ALL {
            for peer in self.links.keys().copied().collect::<Vec<_>>() {
                self.send_wanted(round, peer, class, tx)?;
            }
            let mut waiting = self.lanes.waiting(class);
            while !waiting.is_empty() && left > 0 {
                let mut moving = Vec::with_capacity(waiting.len());
                for destination in waiting {
                    if let Pumped::Moved(count) = self.pump_lane(round, class, destination, tx)? {
                        left = left.saturating_sub(count);
                        moving.push(destination);
                    }
                }
                waiting = moving;
            }
        }
        if left == 0 {
            self.alarms.set(Alarm::Continue, round.now.boot_ms);
        }
        self.await_answers(round);
        Ok(())
    }

    fn pump_lane(
        &mut self,
        round: Round,
        class: Class,
        destination: NodeId,
        tx: &mut Tx<'_>,
    ) -> Result<Pumped, StoreError> {
        let Some(peer) = self.directory.next(self.me, &self.own_links, destination).give else {
            return Ok(Pumped::Stuck);
        };
        let Some(lane) = self.lanes.get(class, destination) else { return Ok(Pumped::Stuck) };
        let cursor = lane.cursor;
        let from = (destination, class as u8, cursor).encode();
        let to = after_prefix(&(destination, class as u8).encode());
        let page = tx.scan::<stored::Place>(&from, &to, PAGE)?;
        let whole_page = page.len() == PAGE;
        let mut offers = Vec::new();
        let mut moved = 0;
        let mut stuck = false;
        for (due, place) in page {
            if self.lanes.get(class, destination).is_some_and(|lane| lane.in_hand.contains(&due.2)) {
                self.advance(class, destination, due.2 + 1);
                continue;
            }
            let in_hand = InHand { due, key: (place.handle, place.last), bytes: 0 };
            match self.hand_on(round, peer, class, in_hand, &mut offers, tx)? {
                Handed::Stop => {
                    stuck = true;
                    break;
                }
                Handed::Blocked => {
                    // Another source's mail behind it may go (rule HOP-6); this is looked at again when the refusal ends.
                    stuck = !self.lanes.skip(class, destination, due.2);
                    if stuck {
                        break;
                    }
                }
                Handed::Skipped => {}
                Handed::InHand => {
                    moved += 1;
                    if let Some(lane) = self.lanes.get(class, destination) {
                        lane.in_hand.insert(due.2);
                    }
                }
            }
            self.advance(class, destination, due.2 + 1);
        }
        self.send_offer(peer, class, offers, tx);
        if !stuck && !whole_page {
            if let Some(lane) = self.lanes.get(class, destination) {
                lane.waiting = false;
            }
            return Ok(Pumped::Stuck);
        }
        Ok(if stuck { Pumped::Stuck } else { Pumped::Moved(moved.max(1)) })
    }

    fn advance(&mut self, class: Class, destination: NodeId, cursor: u64) {
        if let Some(lane) = self.lanes.get(class, destination) {
            lane.cursor = cursor;
        }
    }

    /// Sends or offers one due envelope (rule HOP-3).
    fn hand_on(
        &mut self,
        round: Round,
        peer: NodeId,
        class: Class,
        mut in_hand: InHand,
        offers: &mut Vec<(InHand, Name, u32)>,
        tx: &mut Tx<'_>,
    ) -> Result<Handed, StoreError> {
        // It may have ended in this round, with another part of its body.
        let is_due = |row: &stored::Envelope| row.state() == State::Active && row.due == in_hand.due.2;
        let Some(row) = tx.get::<stored::Envelope>(&in_hand.key)?.filter(is_due) else {
            tx.delete::<stored::Place>(&in_hand.due);
            return Ok(Handed::Skipped);
        };
        let Some(name) = self.name_of(in_hand.key, row.count, tx)? else { return Ok(Handed::Skipped) };
        if name.flow.source == self.me && !self.may_leave(in_hand.key.0, name.last(), tx)? {
            return Ok(Handed::Stop);
        }
        in_hand.bytes = row.bytes + FRAME_OVERHEAD;
        let wave = self.wave_of(name, &row, tx)?;
        let refusing = Refusing::of(peer, name.flow.destination);
        if self.refusals.blocks(peer, refusing, name.flow.source, round.now.boot_ms) {
            return Ok(Handed::Blocked);
        }
        let ask = self.refusals.must_ask(peer, refusing, name.flow.source);
        let fresh = in_hand.due.2 > self.fresh_above && row.bytes <= OFFER_ABOVE && !ask;
        let Some(link) = self.links.get_mut(&peer) else { return Ok(Handed::Stop) };
        let out = &link.out[class.index()];
        if fresh {
            if !out.has_credit(in_hand.bytes) {
                return Ok(Handed::Stop);
            }
            let sent = self.transmit(round, peer, in_hand, name, &row, tx)?;
            return Ok(if sent { Handed::InHand } else { Handed::Skipped });
        } else if out.offered + out.wanted.len() + offers.len() >= OFFERED {
            return Ok(Handed::Stop);
        } else {
            offers.push((in_hand, name, wave));
        }
        Ok(Handed::InHand)
    }

    /// Whether an own number is inside the window (rule FLOW-5).
    fn may_leave(&mut self, handle: u64, last: u64, tx: &Tx<'_>) -> Result<bool, StoreError> {
        Ok(self.flows.out.get(handle, tx)?.is_some_and(|flow| flow.in_window(last)))
    }

    fn wave_of(&mut self, name: Name, row: &stored::Envelope, tx: &Tx<'_>) -> Result<u32, StoreError> {
        if name.flow.source != self.me {
            return Ok(row.wave.max(1));
        }
        let handle = self.flows.handle(&name.flow, tx)?.unwrap_or_default();
        Ok(self.flows.out.get(handle, tx)?.map_or(1, |flow| flow.wave_of(name.first)))
    }

    fn send_offer(&mut self, peer: NodeId, class: Class, offers: Vec<(InHand, Name, u32)>, tx: &mut Tx<'_>) {
        if offers.is_empty() {
            return;
        }
        for page in offers.chunks(limits::OFFER_ITEMS) {
            let flows: Vec<_> = page.iter().map(|(in_hand, name, _)| (in_hand.key.0, name.flow)).collect();
            self.tell_words(peer, &flows, tx);
            let Some(link) = self.links.get_mut(&peer) else { return };
            let offer = link.next_offer;
            link.next_offer += 1;
            link.out[class.index()].offered += page.len();
            link.offers.insert(offer, (class, page.iter().map(|(in_hand, ..)| Some(*in_hand)).collect()));
            let items: Vec<_> = page.iter().map(|(in_hand, name, wave)| (*name, *wave, in_hand.bytes)).collect();
            let session = link.session;
            tx.hint(Effect::Send { peer, session, stream: Stream::Control, frame: encode::offer(offer, &items) });
        }
    }

    /// Sends an envelope: its bytes as signed, its age as of now (rules HOP-1, AGE-3). `false`: its body is damaged, and
    /// what follows from that is done.
    fn transmit(
        &mut self,
        round: Round,
        peer: NodeId,
        in_hand: InHand,
        name: Name,
        row: &stored::Envelope,
        tx: &mut Tx<'_>,
    ) -> Result<bool, StoreError> {
        let wave = self.wave_of(name, row, tx)?;
        let Some((header, sealed, signature)) = self.sealed_bytes(in_hand.key, name, row, tx)? else {
            self.body_is_damaged(round, in_hand.key, name, row, tx)?;
            return Ok(false);
        };
        if name.flow.source == self.me
            && let Some(flow) = self.flows.out.change(in_hand.key.0, tx)?
        {
            flow.leave(name.last() + 1);
        }
        self.tell_words(peer, &[(in_hand.key.0, name.flow)], tx);
        let stream = Stream::Class(name.flow.class);
        let Some(link) = self.links.get_mut(&peer) else { return Ok(false) };
        let next = self.transfers.entry((peer, name.flow.class)).or_insert(0);
        *next += 1;
        let transfer = *next;
        // As the taker counts it: own mail is longer sealed than stored.
        let in_hand = InHand { bytes: sealed.len() as u64 + FRAME_OVERHEAD, ..in_hand };
        link.out[name.flow.class.index()].send(transfer, in_hand);
        let show = link.must_show(stream, name.flow.source);
        let chain = if show { self.roster.chain_of(&name.flow.source).unwrap_or_default() } else { Vec::new() };
        // Within what a receiver takes: a confirmed gap may be of years, and its expiry still ahead.
        let times = if planted::is(Bug::AgeCountedTwice) { 2 } else { 1 };
        let age_ms = (row.age_ms + round.at.0.saturating_sub(row.arrived) * times).min(2 * limits::LIFETIME_MAX_MS);
        let envelope = hop::Envelope {
            transfer,
            header,
            sealed,
            signature,
            age_ms,
            hops: (row.hops + 1).min(limits::HOPS_MAX),
            tickets: 1,
            wave,
            chain,
        };
        let session = link.session;
        tx.claim(Effect::Send { peer, session, stream, frame: encode::frame(Kind::Envelope(envelope)) });
        Ok(true)
    }

    /// Header, sealed body and signature: sealed again from what is stored, or as they came (rules SEAL-4, SIGN-2);
    /// `None` when what is stored is not all there.
    fn sealed_bytes(
        &mut self,
        key: EnvelopeKey,
        name: Name,
        row: &stored::Envelope,
        tx: &Tx<'_>,
    ) -> Result<Option<(Bytes, Bytes, Bytes)>, StoreError> {
        if name.flow.source != self.me {
            let sealed = tx.body((row.body, 0))?;
            let whole = sealed.filter(|sealed| sealed.len() as u64 == row.bytes);
            return Ok(whole.map(|sealed| (row.header.clone(), sealed, row.signature.clone())));
        }
        let flow = self.flows.out.get(key.0, tx)?.ok_or_else(|| damaged(Table::OutFlow))?;
        let Some(sealing) = flow.sealing_of(name.first).map(|sealing| sealing.encapsulation.clone()) else {
            return Ok(None);
        };
        let tag_key = flow.tag_key;
        let Some(plain) = self.plain_of(&tag_key, row, || tx.get::<stored::Contents>(&key), tx)? else {
            return Ok(None);
        };
        let sealed = seal::seal(&sealing, self.network, &self.key, name, row.lifetime_ms, &plain).ok();
        Ok(sealed.map(|sealed| (sealed.header_bytes, sealed.sealed, Bytes::copy_from_slice(&sealed.signature))))
    }

    /// The envelope that a key names.
    pub(super) fn name_of(&mut self, key: EnvelopeKey, count: u32, tx: &Tx<'_>) -> Result<Option<Name>, StoreError> {
        let flow = match self.flows.out.get(key.0, tx)? {
            Some(flow) => Some(flow.id),
            None => self.flows.transit.get(key.0, tx)?.map(|flow| flow.id),
        };
        let Some(flow) = flow else { return Ok(None) };
        Ok(Some(Name { flow, first: first_of(key, count)?, count }))
    }

    // ---- answers ----

    /// The neighbour wants offered items: they go as credit allows.
    pub(super) fn wanted(
        &mut self,
        round: Round,
        peer: NodeId,
        answer: &Answer,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        for (class, in_hand) in self.answered(round, peer, answer) {
            if let Some(link) = self.links.get_mut(&peer) {
                link.out[class.index()].wanted.push_back(in_hand);
            }
        }
        for class in Class::ALL {
            self.send_wanted(round, peer, class, tx)?;
        }
        Ok(())
    }

    fn send_wanted(&mut self, round: Round, peer: NodeId, class: Class, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        loop {
            let Some(link) = self.links.get_mut(&peer) else { return Ok(()) };
            let out = &mut link.out[class.index()];
            let Some(in_hand) = out.wanted.front().copied() else { return Ok(()) };
            if !out.has_credit(in_hand.bytes) {
                return Ok(());
            }
            out.wanted.pop_front();
            let Some(row) = tx.get::<stored::Envelope>(&in_hand.key)? else { continue };
            if row.state() != State::Active || row.due != in_hand.due.2 {
                continue;
            }
            if let Some(name) = self.name_of(in_hand.key, row.count, tx)? {
                self.transmit(round, peer, in_hand, name, &row, tx)?;
            }
        }
    }

    /// Takes the items of an answer out of the offers or transfers they answer.
    pub(super) fn answered(&mut self, round: Round, peer: NodeId, answer: &Answer) -> Vec<(Class, InHand)> {
        let Some(link) = self.links.get_mut(&peer) else { return Vec::new() };
        link.heard_ms = round.now.boot_ms;
        match answer {
            Answer::Items { offer, items } => {
                let Some((class, offered)) = link.offers.get_mut(offer) else { return Vec::new() };
                let class = *class;
                let take = |item: &u32| Some((class, offered.get_mut(*item as usize)?.take()?));
                let taken: Vec<_> = items.iter().filter_map(take).collect();
                if offered.iter().all(Option::is_none) {
                    link.offers.remove(offer);
                }
                let out = &mut link.out[class.index()];
                out.offered = out.offered.saturating_sub(taken.len());
                taken
            }
            Answer::Transfers { class, transfers } => {
                let out = &mut link.out[class.index()];
                transfers.iter().filter_map(|transfer| Some((*class, out.in_flight.remove(transfer)?))).collect()
            }
        }
    }

    /// The neighbour has these, durable: as good as custody (rule HOP-5).
    pub(super) fn had(
        &mut self,
        round: Round,
        peer: NodeId,
        answer: &Answer,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        for (_, in_hand) in self.answered(round, peer, answer) {
            self.hand_over(round, peer, in_hand, Event::HandedTo, tx)?;
        }
        Ok(())
    }

    /// The neighbour had these in this wave and has passed them on or given them up: nothing more to do with it here
    /// until the wave is raised.
    pub(super) fn gone(
        &mut self,
        round: Round,
        peer: NodeId,
        answer: &Answer,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        for (_, in_hand) in self.answered(round, peer, answer) {
            self.hand_over(round, peer, in_hand, Event::GoneAt, tx)?;
        }
        Ok(())
    }

    /// The neighbour's synced log holds these transfers (rule CUSTODY-1). What is not in flight is ignored.
    pub(super) fn custody(
        &mut self,
        round: Round,
        peer: NodeId,
        incarnation: Incarnation,
        class: Class,
        ranges: &[Span],
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        // A connection goes on under the name it began with (rule EVIDENCE-2).
        if !self.names.contains(&incarnation) {
            return Ok(());
        }
        let Some(link) = self.links.get_mut(&peer) else { return Ok(()) };
        link.heard_ms = round.now.boot_ms;
        let mut taken = Vec::new();
        for of in Class::ALL.into_iter().filter(|of| *of == class || planted::is(Bug::CustodyOfAnyClass)) {
            let in_flight = &mut link.out[of.index()].in_flight;
            for (first, last) in ranges {
                let held: Vec<u64> = in_flight.range(*first..=*last).map(|(transfer, _)| *transfer).collect();
                taken.extend(held.iter().filter_map(|transfer| in_flight.remove(transfer)));
            }
        }
        for in_hand in taken {
            self.hand_over(round, peer, in_hand, Event::HandedTo, tx)?;
        }
        Ok(())
    }

    /// Remembers how far the neighbour's disk is: a rollback there shows against it (rule HELLO-2).
    pub(super) fn note_durable(&self, peer: NodeId, sequence: u64, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        if let Some(mut row) = tx.get::<stored::Peer>(&(peer,))?
            && sequence > row.durable_sequence
        {
            row.durable_sequence = sequence;
            tx.put(&(peer,), &row);
        }
        Ok(())
    }

    /// The copy here becomes a standby (rule CUSTODY-3).
    fn hand_over(
        &mut self,
        round: Round,
        peer: NodeId,
        in_hand: InHand,
        event: Event,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let class = Class::from_wire(u32::from(in_hand.due.1)).unwrap_or(Class::Normal);
        self.lanes.done(class, in_hand.due.0, in_hand.due.2);
        if event == Event::HandedTo {
            self.taken_by(peer, in_hand, tx)?;
        }
        let Some(mut row) = tx.get::<stored::Envelope>(&in_hand.key)? else { return Ok(()) };
        if row.state() != State::Active || row.due != in_hand.due.2 {
            return Ok(());
        }
        tx.delete::<stored::Place>(&in_hand.due);
        self.stand_by(in_hand.key, &mut row, tx);
        if planted::is(Bug::FreedAtCustody) && row.header.is_empty() {
            tx.delete_raw(Table::Body, (row.body, row.body_index).encode());
        }
        if planted::is(Bug::StandbyDropped) && !row.header.is_empty() {
            return self.drop_transit(in_hand.key, &row, tx);
        }
        row.standby_at = Bytes::copy_from_slice(&peer.0);
        row.standby_since = round.at.0;
        Self::log(&mut row, event, Some(peer), round);
        tx.put(&in_hand.key, &row);
        self.expect_receipt(round, in_hand.key.0, in_hand.due.0);
        self.wake_waiters(in_hand.key.0);
        Ok(())
    }

    /// A step in an envelope's custody log: the first and the latest are kept (rule TRACE-2).
    pub(super) fn log(row: &mut stored::Envelope, event: Event, peer: Option<NodeId>, round: Round) {
        if row.custody.len() >= limits::CUSTODY_EVENTS {
            row.custody.remove(1);
        }
        let peer = peer.map(|peer| Bytes::copy_from_slice(&peer.0)).unwrap_or_default();
        row.custody.push(stored::CustodyEvent { event: event as u32, at_ms: round.now.wall_ms, peer });
    }

    /// A connection is gone: what it had in hand is due again, and offered before it is sent (rule HOP-2).
    pub(super) fn link_lost(&mut self, peer: NodeId, session: SessionId) {
        if self.links.get(&peer).is_none_or(|link| link.session != session) {
            return;
        }
        if let Some(link) = self.links.remove(&peer) {
            let mut any = false;
            for in_hand in link.in_hand() {
                any = true;
                let class = Class::from_wire(u32::from(in_hand.due.1)).unwrap_or(Class::Normal);
                if !planted::is(Bug::InHandLost) {
                    self.lanes.put_back(class, in_hand.due.0, in_hand.due.2);
                }
            }
            if any {
                self.fresh_above = self.counters.next_due;
            }
        }
    }
}

/// What became of a due envelope.
enum Handed {
    /// Its source is refused for now; what is behind it may go.
    Blocked,
    /// Offered or sent.
    InHand,
    /// No longer there.
    Skipped,
    /// Not now, and nothing behind it either.
    Stop,
}
