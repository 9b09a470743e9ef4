//! Delivery to applications: channels in order of arrival, competing consumers with credit, leases, delivery counts and
//! settlements (rules CONSUME-1 to CONSUME-4). A delivery is counted on disk before it leaves.

use std::collections::BTreeMap;

use waypost_proto::stored;

use super::alarm::Alarm;
use super::channels::{Consumer, Lease};
use super::dead::{DEAD, dead_channel};
use super::effect::{Delivery, Effect, Refusal};
use super::input::ConsumerId;
use super::partial::FRAGMENTS_MAX;
use super::settle::SUBSTATES_MS;
use super::submit::damaged;
use super::{Engine, Round};
use crate::filter::Rejection;
use crate::id::{Class, MessageId};
use crate::limits;
use crate::message::ChannelName;
use crate::planted::{self, Bug};
use crate::store::keys::{Key as _, after_prefix};
use crate::store::kv::{StoreError, Table};
use crate::store::tables::{FlowHandle, QueueKey};
use crate::store::tx::Tx;

/// Rows of a queue read at a time at most.
const PAGE: usize = 64;
/// Deliveries to one consumer in one effect: bodies together stay near this size.
const BATCH_BYTES: usize = 1 << 20;

/// How a delivery ends.
#[derive(PartialEq, Eq)]
pub(super) enum Settlement {
    Consumed,
    /// With the application's words.
    Refused(String),
}

impl Engine {
    /// Puts a message into a channel's queue, behind what is there.
    pub(super) fn queue(
        &mut self,
        handle: FlowHandle,
        number: u64,
        class: Class,
        mut row: stored::Inbox,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(channel) = self.channels.open(&row.channel, &mut self.counters) else {
            return Err(StoreError::Failed("too many channels".to_owned()));
        };
        self.counters.next_arrival += 1;
        row.arrival = self.counters.next_arrival;
        channel.messages += 1;
        channel.bytes += row.size;
        channel.changed = true;
        let channel = channel.handle;
        self.channels.ready.insert(channel);
        self.counters.inbox_messages += 1;
        self.counters.inbox_bytes += row.size;
        let place = stored::Queue { handle, number, deliveries: 0, ready_at: 0 };
        tx.put(&(channel, class as u8, row.arrival), &place);
        tx.put(&(handle, number), &row);
        Ok(())
    }

    /// A consumer came.
    pub(super) fn open_consumer(
        &mut self,
        consumer: ConsumerId,
        name: &ChannelName,
        lease_ms: u64,
        max_deliveries: u32,
        tx: &mut Tx<'_>,
    ) {
        let too_many = |what, limit| Refusal::TooMany { what, limit, retry_after_ms: 1000 };
        if self.consumers.len() >= limits::CONSUMERS {
            let refusal = too_many("consumers", limits::CONSUMERS);
            return tx.hint(Effect::EndConsumer { consumer, refusal });
        }
        self.channels.make_room(name.as_str(), tx);
        let Some(channel) = self.channels.open(name.as_str(), &mut self.counters) else {
            let refusal = too_many("channels", limits::CHANNELS);
            return tx.hint(Effect::EndConsumer { consumer, refusal });
        };
        channel.changed = true;
        channel.consumers.push_back(consumer);
        let lease_ms = if lease_ms == 0 { limits::LEASE_MS } else { lease_ms };
        let held = BTreeMap::new();
        let consumer_state =
            Consumer { channel: channel.handle, credit: 0, lease_ms, max_deliveries, next_delivery: 1, held };
        self.consumers.insert(consumer, consumer_state);
    }

    /// A consumer has room.
    pub(super) fn grant(&mut self, consumer: ConsumerId, messages: u32) {
        if let Some(state) = self.consumers.get_mut(&consumer) {
            state.credit = state.credit.saturating_add(u64::from(messages));
            self.channels.ready.insert(state.channel);
        }
    }

    /// Hands out what channels have to whom has room (rule CONSUME-1).
    pub(super) fn hand_out(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        for handle in std::mem::take(&mut self.channels.ready) {
            self.hand_out_channel(round, handle, tx)?;
        }
        Ok(())
    }

    fn hand_out_channel(&mut self, round: Round, handle: u64, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let mut batches: BTreeMap<ConsumerId, Vec<Delivery>> = BTreeMap::new();
        let mut bytes = 0;
        while let Some(consumer) = self.next_consumer(handle) {
            if bytes >= BATCH_BYTES {
                self.channels.ready.insert(handle);
                self.alarms.set(Alarm::Continue, round.now.boot_ms);
                break;
            }
            let Some((key, place)) = self.next_message(round, handle, tx)? else { break };
            if let Some(delivery) = self.lease(round, consumer, key, place, tx)? {
                bytes += delivery.body.len() + 256;
                batches.entry(consumer).or_default().push(delivery);
            }
        }
        for (consumer, deliveries) in batches {
            tx.claim(Effect::Deliver { consumer, deliveries });
        }
        Ok(())
    }

    /// The consumer whose turn it is among those with credit.
    fn next_consumer(&mut self, handle: u64) -> Option<ConsumerId> {
        let channel = self.channels.by_handle.get_mut(&handle)?;
        for _ in 0..channel.consumers.len() {
            let consumer = channel.consumers.pop_front()?;
            channel.consumers.push_back(consumer);
            if self.consumers.get(&consumer).is_some_and(|state| state.credit > 0) {
                return Some(consumer);
            }
        }
        None
    }

    /// The next message of a channel that nobody has: what came back first, then by class and arrival.
    fn next_message(
        &mut self,
        round: Round,
        handle: u64,
        tx: &Tx<'_>,
    ) -> Result<Option<(QueueKey, stored::Queue)>, StoreError> {
        let Some(channel) = self.channels.by_handle.get_mut(&handle) else { return Ok(None) };
        while let Some((ready_at, key)) = channel.delayed.first().copied().filter(|(at, _)| *at <= round.at.0) {
            channel.delayed.remove(&(ready_at, key));
            channel.returned.insert(key);
        }
        while let Some(key) = channel.returned.pop_first() {
            if let Some(row) = tx.get::<stored::Queue>(&key)? {
                return Ok(Some((key, row)));
            }
        }
        for class in Class::ALL {
            let end = after_prefix(&(handle, class as u8).encode());
            // Mostly the first row is the one: what is read behind it is read again for the next message.
            let mut rows = 1;
            loop {
                let from = (handle, class as u8, channel.cursors[class.index()]).encode();
                let page = tx.scan::<stored::Queue>(&from, &end, rows)?;
                let full = page.len() == rows;
                rows = (2 * rows).min(PAGE);
                for (key, row) in page {
                    channel.cursors[class.index()] = key.2 + 1;
                    if channel.leased.contains(&key) {
                        continue;
                    }
                    if row.ready_at > round.at.0 {
                        channel.delayed.insert((row.ready_at, key));
                        continue;
                    }
                    return Ok(Some((key, row)));
                }
                if !full {
                    break;
                }
            }
        }
        if let Some((at, _)) = channel.delayed.first() {
            let at = crate::time::NodeTime(*at);
            let boot_ms = self.boot_ms_of(at);
            self.alarms.set(Alarm::Channel(handle), boot_ms);
        }
        Ok(None)
    }

    /// Puts a message into a consumer's hands.
    fn lease(
        &mut self,
        round: Round,
        consumer: ConsumerId,
        key: QueueKey,
        mut row: stored::Queue,
        tx: &mut Tx<'_>,
    ) -> Result<Option<Delivery>, StoreError> {
        let place = (row.handle, row.number);
        let Some(message) = tx.get::<stored::Inbox>(&place)? else {
            tx.delete::<stored::Queue>(&key);
            return Ok(None);
        };
        if u64::from(message.fragments) > FRAGMENTS_MAX {
            // Settling it would walk them all.
            return Err(damaged(Table::Inbox));
        }
        let Some(state) = self.consumers.get_mut(&consumer) else { return Ok(None) };
        if state.max_deliveries > 0 && row.deliveries >= state.max_deliveries {
            self.bury(round, key, place, &message, (Rejection::Deliveries, ""), tx)?;
            return Ok(None);
        }
        row.deliveries += 1;
        row.ready_at = 0;
        if !planted::is(Bug::DeliveryCountLost) {
            tx.put(&key, &row);
        }
        let delivery = state.next_delivery;
        state.next_delivery += 1;
        state.credit -= 1;
        let until = round.now.boot_ms.saturating_add(state.lease_ms);
        state.held.insert(delivery, Lease { key, place, until });
        self.alarms.set_earlier(Alarm::Lease(consumer), until);
        if let Some(channel) = self.channels.by_handle.get_mut(&state.channel) {
            channel.leased.insert(key);
        }
        let from = self.flow_of(place.0, tx)?.ok_or_else(|| damaged(Table::InFlow))?.source;
        let id = MessageId::from_slice(&message.id).ok_or_else(|| damaged(Table::Inbox))?;
        Ok(Some(Delivery {
            delivery,
            id,
            from,
            deliveries: row.deliveries,
            sent_at_ms: message.sent_at_ms,
            headers: message.headers.into_iter().map(|header| (header.name, header.value)).collect(),
            size: message.size,
            fragments: message.fragments,
            body: message.body,
        }))
    }

    /// Deliveries are settled: their messages leave the inbox (rule CONSUME-2). Unknown names are settled already.
    pub(super) fn settle_deliveries(
        &mut self,
        round: Round,
        consumer: ConsumerId,
        deliveries: Vec<u64>,
        how: &Settlement,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        for delivery in &deliveries {
            let Some(lease) = self.consumers.get_mut(&consumer).and_then(|state| state.held.remove(delivery)) else {
                continue;
            };
            let Some(message) = tx.get::<stored::Inbox>(&lease.place)? else { continue };
            match how {
                Settlement::Consumed => self.consume(round, lease.key, lease.place, &message, tx)?,
                Settlement::Refused(words) => {
                    self.bury(round, lease.key, lease.place, &message, (Rejection::Refused, words), tx)?;
                }
            }
        }
        tx.claim(Effect::Settled { consumer, deliveries });
        Ok(())
    }

    fn consume(
        &mut self,
        round: Round,
        key: QueueKey,
        (handle, number): (FlowHandle, u64),
        message: &stored::Inbox,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        if let Some(flow) = self.flows.inn.change(handle, tx)? {
            for number in number..number + u64::from(message.fragments.max(1)) {
                flow.consume(number);
            }
        }
        self.owe_substates(round, handle);
        self.remove_delivered(key, (handle, number), message, tx)
    }

    /// Removes a message from its channel and the inbox.
    pub(super) fn remove_delivered(
        &mut self,
        key: QueueKey,
        place: (FlowHandle, u64),
        message: &stored::Inbox,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        self.take_out(key, message.size, tx);
        Self::delete_message(place, message, tx);
        if planted::is(Bug::SuccessorNotReleased) {
            return Ok(());
        }
        self.release_after(place.0, (place.1, place.1), tx)
    }

    /// Takes a message out of its channel's queue.
    pub(super) fn take_out(&mut self, key: QueueKey, size: u64, tx: &mut Tx<'_>) {
        self.leave_channel(key, size);
        self.counters.inbox_messages = self.counters.inbox_messages.saturating_sub(1);
        self.counters.inbox_bytes = self.counters.inbox_bytes.saturating_sub(size);
        if !planted::is(Bug::SettledStays) {
            tx.delete::<stored::Queue>(&key);
        }
    }

    /// Deletes a message that was taken out.
    pub(super) fn delete_message(place: (FlowHandle, u64), message: &stored::Inbox, tx: &mut Tx<'_>) {
        if !planted::is(Bug::SettledStays) {
            tx.delete::<stored::Inbox>(&place);
        }
        if message.fragments > 1 {
            for index in 0..message.fragments {
                tx.delete_raw(Table::Body, (message.body_key, index).encode());
            }
        }
    }

    /// Moves a message to the channel `dead.NAME`, where it can still be read; the sender learns why (rule CONSUME-4).
    pub(super) fn bury(
        &mut self,
        round: Round,
        key: QueueKey,
        (handle, number): (FlowHandle, u64),
        message: &stored::Inbox,
        (why, words): (Rejection, &str),
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let channel = dead_channel(&message.channel);
        if !self.channels.make_room(&channel, tx) {
            return self.put_off(round, key, tx);
        }
        self.tell_buried(round, (handle, number), message, why, tx)?;
        let death = Self::death_of(round, key, &message.channel, (why, words), tx)?;
        self.take_out(key, message.size, tx);
        let row = stored::Inbox { channel, death: Some(death), ..message.clone() };
        if planted::is(Bug::DeadLetterLost) {
            tx.delete::<stored::Inbox>(&(handle, number));
        } else {
            self.queue(handle, number, Class::from_wire(message.class).unwrap_or(Class::Normal), row, tx)?;
        }
        self.release_after(handle, (number, number), tx)
    }

    /// The sender learns what became of a message after its delivery.
    pub(super) fn tell_buried(
        &mut self,
        round: Round,
        (handle, number): (FlowHandle, u64),
        message: &stored::Inbox,
        why: Rejection,
        tx: &Tx<'_>,
    ) -> Result<(), StoreError> {
        if let Some(flow) = self.flows.inn.change(handle, tx)? {
            for number in number..number + u64::from(message.fragments.max(1)) {
                flow.bury(number, why);
            }
        }
        self.owe_substates(round, handle);
        Ok(())
    }

    /// Whether a message can move to the dead letters: it is none, and there is a channel for it.
    pub(super) fn has_room_for_dead(&mut self, message: &stored::Inbox, tx: &mut Tx<'_>) -> bool {
        !message.channel.starts_with(DEAD) && self.channels.make_room(&dead_channel(&message.channel), tx)
    }

    /// There is no room for another channel of dead letters: the message waits where it is.
    fn put_off(&mut self, round: Round, key: QueueKey, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let ready_at = round.at.plus(limits::LEASE_MS).0;
        if let Some(mut row) = tx.get::<stored::Queue>(&key)? {
            row.ready_at = ready_at;
            tx.put(&key, &row);
        }
        self.give_back(key, ready_at);
        Ok(())
    }

    fn leave_channel(&mut self, key: QueueKey, size: u64) {
        if let Some(channel) = self.channels.by_handle.get_mut(&key.0) {
            channel.leased.remove(&key);
            channel.messages = channel.messages.saturating_sub(1);
            channel.bytes = channel.bytes.saturating_sub(size);
            channel.changed = true;
        }
    }

    /// Sub-states are told soon, many at a time.
    fn owe_substates(&mut self, round: Round, handle: FlowHandle) {
        self.alarms.set_if_unset(Alarm::Substates(handle), round.now.boot_ms + SUBSTATES_MS);
    }

    /// A consumer failed with a message: it is delivered again after the delay (rule CONSUME-3), or, when that was the last
    /// time the consumer allows, is dead at once (rule CONSUME-4).
    pub(super) fn nack(
        &mut self,
        round: Round,
        consumer: ConsumerId,
        delivery: u64,
        delay_ms: u64,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let most = self.consumers.get(&consumer).map_or(0, |state| state.max_deliveries);
        if let Some(lease) = self.consumers.get_mut(&consumer).and_then(|state| state.held.remove(&delivery)) {
            let times = tx.get::<stored::Queue>(&lease.key)?.map_or(0, |row| row.deliveries);
            if let Some(message) = tx.get::<stored::Inbox>(&lease.place)?.filter(|_| most > 0 && times >= most) {
                self.bury(round, lease.key, lease.place, &message, (Rejection::Deliveries, ""), tx)?;
                tx.claim(Effect::Settled { consumer, deliveries: vec![delivery] });
                return Ok(());
            }
            let ready_at = if delay_ms == 0 { 0 } else { round.at.plus(delay_ms).0 };
            if let Some(mut row) = tx.get::<stored::Queue>(&lease.key)? {
                row.ready_at = ready_at;
                tx.put(&lease.key, &row);
            }
            self.give_back(lease.key, ready_at);
        }
        tx.claim(Effect::Settled { consumer, deliveries: vec![delivery] });
        Ok(())
    }

    fn give_back(&mut self, key: QueueKey, ready_at: u64) {
        if let Some(channel) = self.channels.by_handle.get_mut(&key.0) {
            channel.leased.remove(&key);
            if ready_at == 0 {
                channel.returned.insert(key);
            } else {
                channel.delayed.insert((ready_at, key));
            }
            self.channels.ready.insert(key.0);
        }
    }

    /// A consumer needs longer.
    pub(super) fn extend(&mut self, round: Round, consumer: ConsumerId, delivery: u64, lease_ms: u64) {
        if let Some(lease) = self.consumers.get_mut(&consumer).and_then(|state| state.held.get_mut(&delivery)) {
            lease.until = round.now.boot_ms.saturating_add(lease_ms);
        }
    }

    /// Leases that have run out: the messages are anybody's.
    pub(super) fn end_leases(&mut self, round: Round, consumer: ConsumerId) {
        let Some(state) = self.consumers.get_mut(&consumer) else { return };
        let now = round.now.boot_ms;
        let over: Vec<u64> = state.held.iter().filter(|(_, lease)| lease.until <= now).map(|(name, _)| *name).collect();
        let over: Vec<Lease> = over.iter().filter_map(|name| state.held.remove(name)).collect();
        if let Some(next) = state.held.values().map(|lease| lease.until).min() {
            self.alarms.set(Alarm::Lease(consumer), next);
        }
        for lease in over {
            self.give_back(lease.key, 0);
        }
    }

    /// A consumer is gone: what it held goes back at once.
    pub(super) fn close_consumer(&mut self, consumer: ConsumerId) {
        let Some(state) = self.consumers.remove(&consumer) else { return };
        self.alarms.clear(Alarm::Lease(consumer));
        if let Some(channel) = self.channels.by_handle.get_mut(&state.channel) {
            channel.consumers.retain(|other| *other != consumer);
        }
        for lease in state.held.into_values().filter(|_| !planted::is(Bug::LeaseLost)) {
            self.give_back(lease.key, 0);
        }
    }

    /// A delayed message may be ready.
    pub(super) fn wake_channel(&mut self, handle: u64) {
        self.channels.ready.insert(handle);
    }

    /// Takes a delivery out of its consumer's hands.
    pub(super) fn end_delivery(
        &mut self,
        consumer: ConsumerId,
        delivery: u64,
    ) -> Option<(QueueKey, (FlowHandle, u64))> {
        let lease = self.consumers.get_mut(&consumer)?.held.remove(&delivery)?;
        Some((lease.key, lease.place))
    }

    /// A part of a body in fragments; none, and the end of the delivery, when it cannot be read (rule DAMAGE-2).
    pub(super) fn hand_body_part(
        &mut self,
        round: Round,
        consumer: ConsumerId,
        delivery: u64,
        index: u32,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let lease = self.consumers.get(&consumer).and_then(|state| state.held.get(&delivery));
        let message = match lease.map(|lease| lease.place) {
            Some(place) => tx.get::<stored::Inbox>(&place)?,
            None => None,
        };
        let mut bytes = None;
        if let Some(message) = message.filter(|message| message.fragments > 1 && index < message.fragments) {
            let before = u64::from(index) * limits::FRAGMENT as u64;
            let length = message.size.saturating_sub(before).min(limits::FRAGMENT as u64);
            bytes = tx.body((message.body_key, index))?.filter(|bytes| bytes.len() as u64 == length);
            if bytes.is_none() {
                self.delivery_is_damaged(round, (consumer, delivery), &message, tx)?;
                tx.claim(Effect::BodyPart { consumer, delivery, index, bytes });
                return Ok(());
            }
        }
        tx.hint(Effect::BodyPart { consumer, delivery, index, bytes });
        Ok(())
    }
}
