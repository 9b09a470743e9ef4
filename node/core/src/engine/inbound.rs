//! Taking over: an envelope for this node enters the inbox once; one for another node is kept and becomes due. What is
//! refused is refused before anything of it is kept (promise P2; rules FILTER-1, WAVE-2, QUOTA-2, QUOTA-3).

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use waypost_proto::hop::{self, retry_later::Reason};
use waypost_proto::stored::{self, envelope::State};

use super::effect::{Effect, Stream};
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
        link.inc[class.index()].arrive(transfer, bytes);
        let verdict = if name.flow.source == self.me {
            self.came_back(round, peer, name, tx)?
        } else if name.flow.destination == self.me {
            self.receive(round, peer, name, arrived, tx)?
        } else {
            self.take(round, peer, name, arrived, tx)?
        };
        let Some(link) = self.links.get_mut(&peer) else { return Ok(()) };
        let session = link.session;
        let incoming: &mut Incoming = &mut link.inc[class.index()];
        incoming.answer(transfer);
        match verdict {
            Verdict::Held | Verdict::Wanted => incoming.held.insert(transfer, transfer),
            Verdict::Gone => incoming.gone.push(transfer),
            Verdict::Refused(reason, source) => {
                let answer = Answer::Transfers { class, transfers: vec![transfer] };
                let frame = encode::retry_later(&answer, reason, RETRY_AFTER_MS, source);
                tx.claim(Effect::Send { peer, session, stream: Stream::Control, frame });
            }
        }
        self.acknowledging.insert(peer);
        Ok(())
    }

    /// Tells custody, gone and new credit, once a round (rules CUSTODY-1, CREDIT-2).
    pub(super) fn acknowledge(&mut self, tx: &mut Tx<'_>) {
        let sequence = self.counters.commit_sequence + 1;
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
                if let Some((up_to, ranges)) = incoming.take_custody() {
                    let mine = self.own.incarnation;
                    send(encode::custody(link.incarnation, class, up_to, &ranges, mine, sequence));
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
            send(encode::retry_later(&answer(items), reason, RETRY_AFTER_MS, source));
        }
        Ok(())
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
            let refusal = self.room_in_inbox(name, item.bytes);
            return match (refusal, handle) {
                // A fragment's room was reserved with the first of its body: it takes no more.
                (Some(_), Some(handle)) if Self::is_reserved(handle, name, tx)? => Ok(Verdict::Wanted),
                (refusal, _) => Ok(refusal.unwrap_or(Verdict::Wanted)),
            };
        }
        let Some(handle) = handle else {
            return Ok(self.room_in_transit(item.bytes).map_or(Verdict::Wanted, |reason| reason));
        };
        let wave = self.believed_wave(name, handle, item.wave, tx)?;
        match self.known_in_transit(round, peer, name, handle, wave, tx)? {
            Some(verdict) => Ok(verdict),
            None => Ok(self.room_in_transit(item.bytes).map_or(Verdict::Wanted, |reason| reason)),
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

    fn room_in_inbox(&self, name: Name, bytes: u64) -> Option<Verdict> {
        let used = self.counters.inbox_bytes + self.counters.inbox_reserved;
        let full = used.saturating_add(bytes) > self.policy.inbox_bytes;
        full.then_some(Verdict::Refused(Reason::InboxFull, Some(name.flow.source)))
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
        let handle = self.flows.handle_or_new(&name.flow, &mut self.counters, tx)?;
        let flow = self.flows.inn.change_or(handle, tx, || InFlow::open(name.flow))?;
        if flow.knows(name.first, name.last()) {
            self.owe_receipt(handle, Some(peer));
            return Ok(Verdict::Held);
        }
        let plain = match arrived.opened {
            Some(Ok(plain)) => plain,
            Some(Err(OpenError::UnknownKey(_) | OpenError::UnknownSuite(_))) | None => {
                return Ok(Verdict::Refused(Reason::Unspecified, Some(name.flow.source)));
            }
            Some(Err(_)) => return self.reject(handle, name.first, name.last(), Rejection::Malformed, peer, tx),
        };
        let Some((tag_key, items)) = items_of(&plain, name.count) else {
            return self.reject(handle, name.first, name.last(), Rejection::Malformed, peer, tx);
        };
        if let Some(refusal) = self.room_for(name, handle, &items, tx)? {
            return Ok(refusal);
        }
        self.enter(round, name, handle, tag_key, &items, tx)?;
        self.owe_receipt(handle, Some(peer));
        Ok(Verdict::Held)
    }

    fn reject(
        &mut self,
        handle: FlowHandle,
        first: u64,
        last: u64,
        why: Rejection,
        peer: NodeId,
        tx: &Tx<'_>,
    ) -> Result<Verdict, StoreError> {
        if let Some(flow) = self.flows.inn.change(handle, tx)? {
            flow.reject(first, last, why);
        }
        self.owe_receipt(handle, Some(peer));
        Ok(Verdict::Held)
    }

    /// Whether the inbox has room for all of an envelope; a first fragment reserves its whole body (rule BODY-4).
    fn room_for(
        &self,
        name: Name,
        handle: FlowHandle,
        items: &[hop::Item],
        tx: &Tx<'_>,
    ) -> Result<Option<Verdict>, StoreError> {
        let mut bytes = 0u64;
        let mut ordered = 0u64;
        for (number, item) in (name.first..).zip(items) {
            ordered = ordered.saturating_add(if item.after.is_some() { item.size } else { 0 });
            let begun = item.fragments > 1
                && tx.get::<stored::Partial>(&(handle, number.saturating_sub(u64::from(item.index)), 0))?.is_some();
            if !begun {
                bytes = bytes.saturating_add(item.size.max(item.body.len() as u64));
            }
        }
        if ordered > 0 && self.counters.waiting_bytes.saturating_add(ordered) > self.policy.inbox_bytes / 2 {
            // What waits for a predecessor must leave room for it (rule ORDER-4).
            return Ok(Some(Verdict::Refused(Reason::InboxFull, Some(name.flow.source))));
        }
        Ok(if bytes > self.policy.inbox_bytes { None } else { self.room_in_inbox(name, bytes) })
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
        tx.put(&(handle, name.last()), &stored::Tags { tags });
        Ok(())
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
                self.watch_partial((handle, base), round.at.plus(item.lifetime_ms), tx);
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
        let give_up_at = round.at.plus(item.lifetime_ms).0;
        let head = stored::Partial { received: head.received + 1, give_up_at, ..head };
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
        let plain = self.plain_of(&tag_key, &row, || tx.get::<stored::Contents>(&key), tx)?;
        let plain = plain.ok_or_else(|| damaged(Table::Body))?;
        let (tag_key, items) = items_of(&plain, name.count).ok_or_else(|| damaged(Table::Body))?;
        self.flows.inn.change_or(key.0, tx, || InFlow::open(name.flow))?;
        self.enter(round, name, key.0, tag_key, &items, tx)?;
        self.owe_receipt(key.0, None);
        Ok(())
    }
}

/// The tag key and the items of a plain body; `None` when it is not `count` of them (rule ENV-3).
fn items_of(plain: &Bytes, count: u32) -> Option<([u8; 32], Vec<hop::Item>)> {
    let mut rest = plain.clone();
    if rest.len() < 32 {
        return None;
    }
    let tag_key = rest.split_to(32).as_ref().try_into().ok()?;
    let mut items = Vec::with_capacity(count as usize);
    while !rest.is_empty() && items.len() < count as usize {
        items.push(hop::Item::decode_length_delimited(&mut rest).ok()?);
    }
    (rest.is_empty() && items.len() == count as usize).then_some((tag_key, items))
}

/// The chaining value of a fragment that can be one of its message (rule BODY-1).
fn fragment_value(item: &hop::Item, number: u64) -> Option<[u8; 32]> {
    let size = item.size;
    let fragments = size.div_ceil(limits::FRAGMENT as u64);
    let fits = size <= limits::BODY_BYTES && u64::from(item.fragments) == fragments && item.index < item.fragments;
    let begins = u64::from(item.index) * limits::FRAGMENT as u64;
    let length = size.checked_sub(begins)?.min(limits::FRAGMENT as u64);
    if !fits || u64::from(item.index) >= number || item.body.len() as u64 != length || !headers_within(&item.headers) {
        return None;
    }
    hash::fragment_cv(u64::from(item.index), &item.body, false)
}

fn with_first(head: stored::Partial, item: &hop::Item) -> stored::Partial {
    stored::Partial {
        channel: item.channel.clone(),
        sent_at_ms: item.sent_at_ms,
        headers: headers_to_row(&item.headers),
        lifetime_ms: item.lifetime_ms.min(limits::LIFETIME_MAX_MS),
        predecessor: item.after.clone().map(predecessor_to_row),
        ..head
    }
}

fn headers_within(headers: &[hop::Header]) -> bool {
    headers.iter().map(|header| header.name.len() + header.value.len()).sum::<usize>() <= limits::HEADER_BYTES
}

fn predecessor_to_row(after: hop::Predecessor) -> stored::Predecessor {
    let hop::Predecessor { id, class, incarnation, number } = after;
    stored::Predecessor { id, class, incarnation, number }
}

fn headers_to_row(headers: &[hop::Header]) -> Vec<stored::Header> {
    headers.iter().map(|header| stored::Header { name: header.name.clone(), value: header.value.clone() }).collect()
}
