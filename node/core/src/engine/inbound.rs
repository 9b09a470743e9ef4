//! Taking over: an envelope for this node enters the inbox once; one for another node is kept and becomes due. What is
//! refused is refused before anything of it is kept (promise P2; rules FILTER-1, WAVE-2, QUOTA-2, QUOTA-3, DISK-3).

use std::collections::BTreeMap;

use bytes::Bytes;
use waypost_proto::hop::{self, retry_later::Reason};
use waypost_proto::stored::{self, envelope::State};

use super::effect::{Effect, Stream};
use super::items::{fragment_value, headers_to_row, headers_within, items_of, predecessor_to_row, with_first};
use super::link::Incoming;
use super::outbound::FRAME_OVERHEAD;
use super::submit::damaged;
use super::{Engine, Round};
use crate::envelope::Name;
use crate::filter::{InFlow, Rejection};
use crate::hop::{Answer, Arrived, Offered, encode};
use crate::id::{Class, MessageId, NodeId};
use crate::limits;
use crate::message::ChannelName;
use crate::planted::{self, Bug};
use crate::store::keys::Key as _;
use crate::store::kv::{StoreError, Table};
use crate::store::tables::{EnvelopeKey, FlowHandle};
use crate::store::tx::Tx;
use crate::trust::{OpenError, hash, seal::message_tag};

/// What this node says to an envelope.
pub(super) enum Verdict {
    /// It is in the log, or nobody needs it any more.
    Held,
    /// Had in this wave, not here any more.
    Gone,
    /// Not now.
    Refused(Reason, Option<NodeId>),
    /// Not known; only offers get this.
    Wanted,
}

/// When to come again after a refusal.
const RETRY_AFTER_MS: u64 = 1000;
/// When to come again while neighbours are asked: they answer at once (rule RECOVER-1).
const RECOVERING_MS: u64 = 100;

/// A message that came whole, or a fragment of one.
struct Entering<'a> {
    handle: FlowHandle,
    number: u64,
    class: Class,
    item: &'a hop::Item,
    id: MessageId,
}

impl Engine {
    /// An envelope came.
    pub(super) fn envelope_arrived(
        &mut self,
        round: Round,
        peer: NodeId,
        arrived: Arrived,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let name = arrived.envelope.header().name;
        let class = name.flow.class;
        let bytes = arrived.envelope.envelope().sealed.len() as u64 + FRAME_OVERHEAD;
        let transfer = arrived.transfer;
        let Some(link) = self.links.get_mut(&peer) else { return Ok(()) };
        link.inc[class.index()].arrive(bytes);
        let verdict = if name.flow.source == self.me {
            self.came_back(round, peer, name, tx)?
        } else if name.flow.destination == self.me {
            self.receive(round, peer, name, arrived, tx)?
        } else {
            self.take(round, peer, name, arrived, tx)?
        };
        let after_ms = self.retry_after_ms(round);
        let Some(link) = self.links.get_mut(&peer) else { return Ok(()) };
        let session = link.session;
        let incoming: &mut Incoming = &mut link.inc[class.index()];
        match verdict {
            Verdict::Held | Verdict::Wanted => {
                incoming.held.insert(transfer, transfer);
                self.mail_written(bytes);
            }
            Verdict::Gone => incoming.gone.push(transfer),
            Verdict::Refused(reason, source) => {
                let answer = Answer::Transfers { class, transfers: vec![transfer] };
                let frame = encode::retry_later(&answer, reason, after_ms, source);
                tx.claim(Effect::Send { peer, session, stream: Stream::Control, frame });
            }
        }
        self.acknowledging.insert(peer);
        Ok(())
    }

    /// Tells custody, gone and new credit, once a round (rules CUSTODY-1, CREDIT-2).
    pub(super) fn acknowledge(&mut self, tx: &mut Tx<'_>) {
        // A round that wrote nothing is no commit: what it acknowledges was in the last one (rule HELLO-2).
        let sequence = self.counters.commit_sequence + u64::from(!tx.is_empty());
        for peer in std::mem::take(&mut self.acknowledging) {
            let Some(link) = self.links.get_mut(&peer) else { continue };
            for class in Class::ALL {
                let incoming = &mut link.inc[class.index()];
                let mut send = |frame| {
                    tx.claim(Effect::Send { peer, session: link.session, stream: Stream::Control, frame });
                };
                if !incoming.gone.is_empty() {
                    let transfers = std::mem::take(&mut incoming.gone);
                    send(encode::gone(&Answer::Transfers { class, transfers }));
                }
                let held = incoming.take_custody();
                if !held.is_empty() {
                    send(encode::custody(link.incarnation, class, &held, self.own.incarnation, sequence));
                }
                let window = (self.policy.credit_bytes, self.policy.credit_envelopes);
                if let Some((bytes, envelopes)) = incoming.replenish(window.0, window.1) {
                    send(encode::credit(class, bytes, envelopes));
                }
            }
        }
    }

    /// Envelopes are offered: say which to send (rule HOP-4).
    pub(super) fn offered(
        &mut self,
        round: Round,
        peer: NodeId,
        offer: u64,
        items: &[Offered],
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let mut have = Vec::new();
        let mut gone = Vec::new();
        let mut want = Vec::new();
        let mut refused: BTreeMap<(i32, Option<NodeId>), Vec<u32>> = BTreeMap::new();
        for (index, item) in (0u32..).zip(items) {
            match self.consider(round, peer, item, tx)? {
                Verdict::Held => have.push(index),
                Verdict::Gone => gone.push(index),
                Verdict::Wanted => want.push(index),
                Verdict::Refused(reason, source) => refused.entry((reason.into(), source)).or_default().push(index),
            }
        }
        let after_ms = self.retry_after_ms(round);
        let Some(session) = self.links.get(&peer).map(|link| link.session) else { return Ok(()) };
        let mut send = |frame| tx.claim(Effect::Send { peer, session, stream: Stream::Control, frame });
        let answer = |items: Vec<u32>| Answer::Items { offer, items };
        if !have.is_empty() {
            send(encode::have(&answer(have)));
        }
        if !gone.is_empty() {
            send(encode::gone(&answer(gone)));
        }
        if !want.is_empty() {
            send(encode::want(&answer(want)));
        }
        for ((reason, source), items) in refused {
            let reason = Reason::try_from(reason).unwrap_or(Reason::Unspecified);
            send(encode::retry_later(&answer(items), reason, after_ms, source));
        }
        Ok(())
    }

    fn retry_after_ms(&self, round: Round) -> u64 {
        if self.is_recovering(round) { RECOVERING_MS } else { RETRY_AFTER_MS }
    }

    fn consider(&mut self, round: Round, peer: NodeId, item: &Offered, tx: &mut Tx<'_>) -> Result<Verdict, StoreError> {
        let name = item.name;
        if name.flow.source == self.me {
            return self.came_back(round, peer, name, tx);
        }
        let handle = self.flows.handle(&name.flow, tx)?;
        if name.flow.destination == self.me {
            let known = match handle {
                Some(handle) => self.flows.inn.get(handle, tx)?.is_some_and(|flow| flow.knows(name.first, name.last())),
                None => false,
            };
            if let (true, Some(handle)) = (known, handle) {
                self.owe_receipt(handle, Some(peer));
                return Ok(Verdict::Held);
            }
            if self.is_recovering(round) {
                return Ok(Verdict::Refused(Reason::Unspecified, None));
            }
            let refusal = self.room_in_inbox(name, item.bytes);
            return match (refusal, handle) {
                // A fragment's room was reserved with the first of its body: it takes no more.
                (Some(_), Some(handle)) if self.has_disk_for(item.bytes) && Self::is_reserved(handle, name, tx)? => {
                    Ok(Verdict::Wanted)
                }
                (refusal, _) => Ok(refusal.unwrap_or(Verdict::Wanted)),
            };
        }
        let Some(handle) = handle else {
            return Ok(self.room_in_transit(name.flow, item.bytes).unwrap_or(Verdict::Wanted));
        };
        let wave = self.believed_wave(name, handle, item.wave, tx)?;
        match self.known_in_transit(round, peer, name, handle, wave, tx)? {
            Some(verdict) => Ok(verdict),
            None => Ok(self.room_in_transit(name.flow, item.bytes).unwrap_or(Verdict::Wanted)),
        }
    }

    /// Own mail comes back: its way leads through here. What is still open goes on from here; of what has ended the
    /// giver is shown why, or it would keep its copy until the lifetime is over.
    fn came_back(&mut self, round: Round, peer: NodeId, name: Name, tx: &mut Tx<'_>) -> Result<Verdict, StoreError> {
        let Some(handle) = self.flows.handle(&name.flow, tx)? else { return Ok(Verdict::Gone) };
        let key = (handle, name.last());
        let row = tx.get::<stored::Envelope>(&key)?.filter(|row| row.state() != State::Ended);
        let Some(row) = row else {
            self.tell_words(peer, &[(handle, name.flow)], tx);
            self.show_receipt(handle, name.flow, peer, tx)?;
            return Ok(Verdict::Gone);
        };
        if row.state() == State::Standby && row.standby_at == peer.0.as_slice() {
            self.revive(round, name.flow, key, row, tx);
        }
        Ok(Verdict::Held)
    }

    // ---- mail for this node ----

    fn receive(
        &mut self,
        round: Round,
        peer: NodeId,
        name: Name,
        arrived: Arrived,
        tx: &mut Tx<'_>,
    ) -> Result<Verdict, StoreError> {
        let handle = self.flows.handle(&name.flow, tx)?;
        if let Some(handle) = handle
            && self.flows.inn.get(handle, tx)?.is_some_and(|flow| flow.knows(name.first, name.last()))
        {
            self.owe_receipt(handle, Some(peer));
            return Ok(Verdict::Held);
        }
        if self.is_recovering(round) {
            return Ok(Verdict::Refused(Reason::Unspecified, None));
        }
        let plain = match arrived.opened {
            Some(Ok(plain)) => plain,
            // Rule SEAL-7: asked again it would say the same.
            Some(Err(OpenError::UnknownKey(_) | OpenError::UnknownSuite(_))) => {
                return self.reject(name, Rejection::Sealing, peer, tx);
            }
            Some(Err(_)) | None => return self.reject(name, Rejection::Malformed, peer, tx),
        };
        let Some((tag_key, items)) = items_of(&plain, name.count) else {
            return self.reject(name, Rejection::Malformed, peer, tx);
        };
        if let Some(refusal) = self.room_for(name, handle, &items, tx)? {
            if planted::is(Bug::RefusedAfterRecording) {
                let handle = self.open_in_flow(name, tx)?;
                let flow = self.flows.inn.change(handle, tx)?.filter(|flow| flow.is_new(name.first));
                flow.into_iter().for_each(|flow| flow.deliver(name.first, 0));
            }
            return Ok(refusal);
        }
        // Not before: what is refused leaves no row behind (rule QUOTA-2).
        let handle = self.open_in_flow(name, tx)?;
        self.enter(round, name, handle, tag_key, &items, tx)?;
        self.owe_receipt(handle, Some(peer));
        Ok(Verdict::Held)
    }

    fn reject(&mut self, name: Name, why: Rejection, peer: NodeId, tx: &mut Tx<'_>) -> Result<Verdict, StoreError> {
        let handle = self.open_in_flow(name, tx)?;
        if let Some(flow) = self.flows.inn.change(handle, tx)? {
            flow.reject(name.first, name.last(), why);
        }
        self.release_after(handle, (name.first, name.last()), tx)?;
        self.owe_receipt(handle, Some(peer));
        Ok(Verdict::Held)
    }

    /// The filter of a flow that ends here, made when there is none: it stays for good (rule FILTER-3).
    fn open_in_flow(&mut self, name: Name, tx: &mut Tx<'_>) -> Result<FlowHandle, StoreError> {
        let handle = self.flows.handle_or_new(&name.flow, &mut self.counters, tx)?;
        self.flows.inn.change_or(handle, tx, || InFlow::open(name.flow))?;
        Ok(handle)
    }

    /// Puts the messages of an envelope into the inbox: each number once (rule FILTER-1).
    fn enter(
        &mut self,
        round: Round,
        name: Name,
        handle: FlowHandle,
        tag_key: [u8; 32],
        items: &[hop::Item],
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        self.clock.recorded();
        let mut tags = Vec::with_capacity(items.len());
        for (number, item) in (name.first..).zip(items) {
            tags.push(0);
            let is_new = self.flows.inn.get(handle, tx)?.is_some_and(|flow| flow.is_new(number));
            if !is_new {
                continue;
            }
            let entered = match MessageId::from_slice(&item.id) {
                Some(id) => {
                    self.enter_one(round, &Entering { handle, number, class: name.flow.class, item, id }, tx)?
                }
                None => Err(Rejection::Malformed),
            };
            let flow = self.flows.inn.change(handle, tx)?.ok_or_else(|| damaged(Table::InFlow))?;
            match entered {
                Err(why) => {
                    flow.reject(number, number, why);
                    self.release_after(handle, (number, number), tx)?;
                }
                Ok(id) => {
                    let tag = match item.fragments {
                        0 | 1 => message_tag(&tag_key, number, id, 0, &item.body),
                        _ => {
                            let value = hash::fragment_cv(u64::from(item.index), &item.body, false).unwrap_or_default();
                            message_tag(&tag_key, number, id, item.index, &value)
                        }
                    };
                    flow.deliver(number, tag);
                    if let Some(last) = tags.last_mut() {
                        *last = tag;
                    }
                }
            }
        }
        super::words::put_tags((handle, name.last()), tags, tx)
    }

    fn enter_one(
        &mut self,
        round: Round,
        entering: &Entering<'_>,
        tx: &mut Tx<'_>,
    ) -> Result<Result<MessageId, Rejection>, StoreError> {
        let item = entering.item;
        // Rule QUOTA-3: no consuming would ever make room for it.
        if item.size.max(item.body.len() as u64) > self.policy.inbox_bytes {
            return Ok(Err(Rejection::TooLarge));
        }
        if item.fragments > 1 {
            return self.enter_fragment(round, entering, tx);
        }
        if item.channel.parse::<ChannelName>().is_err() || !headers_within(&item.headers) {
            return Ok(Err(Rejection::Malformed));
        }
        if !self.channels.make_room(&item.channel, tx) {
            return Ok(Err(Rejection::Channels));
        }
        let row = stored::Inbox {
            id: item.id.clone(),
            channel: item.channel.clone(),
            sent_at_ms: item.sent_at_ms,
            headers: headers_to_row(&item.headers),
            size: item.body.len() as u64,
            body: item.body.clone(),
            class: entering.class.to_wire(),
            lifetime_ms: item.lifetime_ms.min(limits::LIFETIME_MAX_MS),
            predecessor: item.after.clone().map(predecessor_to_row),
            ..Default::default()
        };
        self.admit_to_inbox(round, (entering.handle, entering.number), row, tx)?;
        Ok(Ok(entering.id))
    }

    /// Stores a fragment; the last one to come puts the message into the inbox (rules BODY-4, BODY-5).
    fn enter_fragment(
        &mut self,
        round: Round,
        entering: &Entering<'_>,
        tx: &mut Tx<'_>,
    ) -> Result<Result<MessageId, Rejection>, StoreError> {
        let Entering { handle, number, item, .. } = *entering;
        let Some(value) = fragment_value(item, number) else { return Ok(Err(Rejection::Malformed)) };
        let base = number - u64::from(item.index);
        // Who names no end of its time would keep the room it reserved for good.
        let give_up_at = round.at.plus(item.lifetime_ms.min(limits::LIFETIME_MAX_MS));
        let head = match tx.get::<stored::Partial>(&(handle, base, 0))? {
            Some(head) if head.id != item.id || head.fragments != item.fragments || head.size != item.size => {
                return Ok(Err(Rejection::Malformed));
            }
            Some(head) => head,
            None => {
                let last = base + u64::from(item.fragments) - 1;
                let open = self.flows.inn.get(handle, tx)?.map_or(0, |flow| flow.open_in(base, last));
                if open < u64::from(item.fragments) {
                    // The source has ended others of its fragments.
                    return Ok(Err(Rejection::Incomplete));
                }
                self.counters.next_body += 1;
                self.counters.inbox_reserved += item.size;
                self.watch_partial((handle, base), give_up_at, tx);
                stored::Partial {
                    id: item.id.clone(),
                    fragments: item.fragments,
                    size: item.size,
                    hash: item.hash.clone(),
                    body_key: self.counters.next_body,
                    reserved: item.size,
                    ..Default::default()
                }
            }
        };
        let head = stored::Partial { received: head.received + 1, give_up_at: give_up_at.0, ..head };
        let head = if item.index == 0 { with_first(head, item) } else { head };
        tx.put_raw(Table::Body, (head.body_key, item.index).encode(), item.body.clone());
        let chaining_value = Bytes::copy_from_slice(&value);
        tx.put(&(handle, base, item.index + 1), &stored::Partial { chaining_value, ..Default::default() });
        if head.received < head.fragments {
            tx.put(&(handle, base, 0), &head);
            return Ok(Ok(entering.id));
        }
        self.complete(round, entering, base, &head, tx)?;
        Ok(Ok(entering.id))
    }

    /// All fragments are here: the whole is checked against its hash and enters the inbox.
    fn complete(
        &mut self,
        round: Round,
        entering: &Entering<'_>,
        base: u64,
        head: &stored::Partial,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let handle = entering.handle;
        let mut values = Vec::with_capacity(head.fragments as usize);
        for index in 0..head.fragments {
            let row = tx.get::<stored::Partial>(&(handle, base, index + 1))?.ok_or_else(|| damaged(Table::Partial))?;
            values.push(<[u8; 32]>::try_from(row.chaining_value.as_ref()).map_err(|_| damaged(Table::Partial))?);
            tx.delete::<stored::Partial>(&(handle, base, index + 1));
        }
        tx.delete::<stored::Partial>(&(handle, base, 0));
        self.counters.inbox_reserved = self.counters.inbox_reserved.saturating_sub(head.reserved);
        let whole = hash::whole_hash(&values);
        let good = head.hash == whole.as_slice() && head.channel.parse::<ChannelName>().is_ok();
        if !good || !self.channels.make_room(&head.channel, tx) {
            for index in 0..head.fragments {
                tx.delete_raw(Table::Body, (head.body_key, index).encode());
            }
            return self.spoil(handle, base, head.fragments, tx);
        }
        let row = stored::Inbox {
            id: head.id.clone(),
            channel: head.channel.clone(),
            sent_at_ms: head.sent_at_ms,
            headers: head.headers.clone(),
            size: head.size,
            fragments: head.fragments,
            body_key: head.body_key,
            class: entering.class.to_wire(),
            lifetime_ms: head.lifetime_ms,
            predecessor: head.predecessor.clone(),
            ..Default::default()
        };
        self.admit_to_inbox(round, (handle, base), row, tx)
    }

    /// A whole message is in the inbox: handed out in its turn, or held back for its predecessor (rule ORDER-2).
    fn admit_to_inbox(
        &mut self,
        round: Round,
        (handle, number): (FlowHandle, u64),
        row: stored::Inbox,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let class = Class::from_wire(row.class).unwrap_or(Class::Normal);
        match self.must_wait_for(handle, row.predecessor.as_ref(), tx)? {
            Some(before) => {
                self.hold_back(round, before, (handle, number), row, tx);
                Ok(())
            }
            None => self.queue(handle, number, class, row, tx),
        }
    }

    /// A source signed fragments that do not make the body it named: the sender learns it as a refusal.
    fn spoil(&mut self, handle: FlowHandle, base: u64, fragments: u32, tx: &Tx<'_>) -> Result<(), StoreError> {
        let flow = self.flows.inn.change(handle, tx)?.ok_or_else(|| damaged(Table::InFlow))?;
        for number in base..base + u64::from(fragments) {
            flow.bury(number, Rejection::Refused);
        }
        Ok(())
    }

    /// Mail from this node to itself takes the same way in, without a seal.
    pub(super) fn deliver_to_self(
        &mut self,
        round: Round,
        name: Name,
        key: EnvelopeKey,
        mut row: stored::Envelope,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        row.set_state(State::Standby);
        row.standby_at = Bytes::copy_from_slice(&self.me.0);
        tx.put(&key, &row);
        let flow = self.flows.out.change(key.0, tx)?.ok_or_else(|| damaged(Table::OutFlow))?;
        flow.leave(name.last() + 1);
        let tag_key = flow.tag_key;
        self.flows.inn.change_or(key.0, tx, || InFlow::open(name.flow))?;
        let plain = self.plain_of(&tag_key, &row, || tx.get::<stored::Contents>(&key), tx)?;
        let Some((tag_key, items)) = plain.and_then(|plain| items_of(&plain, name.count)) else {
            return self.body_is_damaged(round, key, name, &row, tx);
        };
        self.enter(round, name, key.0, tag_key, &items, tx)?;
        self.owe_receipt(key.0, None);
        Ok(())
    }
}
