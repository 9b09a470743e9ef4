//! Delivery to applications: channels in order of arrival, competing consumers with credit, leases, delivery counts and
//! settlements (rules CONSUME-1 to CONSUME-4). A delivery is counted on disk before it leaves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use waypost_proto::stored;

use super::alarm::Alarm;
use super::effect::{Delivery, Effect, Refusal};
use super::input::ConsumerId;
use super::settle::SUBSTATES_MS;
use super::submit::damaged;
use super::{Engine, Round};
use crate::filter::Rejection;
use crate::id::{Class, MessageId};
use crate::limits;
use crate::message::ChannelName;
use crate::store::keys::{Key as _, after_prefix};
use crate::store::kv::{StoreError, Table};
use crate::store::tables::{FlowHandle, QueueKey};
use crate::store::tx::Tx;

/// Rows of a queue read at a time.
const PAGE: usize = 64;
/// Deliveries to one consumer in one effect: bodies together stay near this size.
const BATCH_BYTES: usize = 1 << 20;

/// A channel with mail or consumers.
#[derive(Default)]
pub(super) struct Channel {
    handle: u64,
    name: String,
    messages: u64,
    bytes: u64,
    /// Everything below has been looked at, by class.
    cursors: [u64; 3],
    /// In a consumer's hands.
    leased: BTreeSet<QueueKey>,
    /// Came back; to be delivered before what is at the cursor.
    returned: BTreeSet<QueueKey>,
    /// Not before a node time.
    delayed: BTreeSet<(u64, QueueKey)>,
    consumers: VecDeque<ConsumerId>,
    changed: bool,
}

/// An application's stream.
pub(super) struct Consumer {
    channel: u64,
    credit: u64,
    lease_ms: u64,
    max_deliveries: u32,
    next_delivery: u64,
    held: BTreeMap<u64, Lease>,
}

/// A delivery that is not settled.
struct Lease {
    key: QueueKey,
    place: (FlowHandle, u64),
    /// Boot milliseconds.
    until: u64,
}

/// How a delivery ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Settlement {
    Consumed,
    Refused,
}

/// All channels, by handle and by name.
#[derive(Default)]
pub(super) struct Channels {
    by_handle: BTreeMap<u64, Channel>,
    by_name: BTreeMap<String, u64>,
    /// With mail and consumers that may now meet.
    ready: BTreeSet<u64>,
}

impl Channels {
    /// Takes in a row at start.
    pub(super) fn load(&mut self, name: &str, row: &stored::Channel) {
        self.by_name.insert(name.to_owned(), row.handle);
        let channel = Channel {
            handle: row.handle,
            name: name.to_owned(),
            messages: row.messages,
            bytes: row.bytes,
            ..Channel::default()
        };
        self.by_handle.insert(row.handle, channel);
    }

    fn open(&mut self, name: &str, counters: &mut stored::Counters) -> Option<&mut Channel> {
        let handle = match self.by_name.get(name) {
            Some(handle) => *handle,
            None if self.by_name.len() >= limits::CHANNELS => return None,
            None => {
                counters.next_handle += 1;
                let handle = counters.next_handle;
                self.load(name, &stored::Channel { handle, ..Default::default() });
                handle
            }
        };
        self.by_handle.get_mut(&handle)
    }

    /// Whether a channel is to be looked at again.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether a channel of this name is there or can be made; of too many, an idle one gives way
    /// (rule QUOTA-4).
    pub(super) fn make_room(&mut self, name: &str, tx: &mut Tx<'_>) -> bool {
        if self.by_name.contains_key(name) || self.by_name.len() < limits::CHANNELS {
            return true;
        }
        let idle = |channel: &&Channel| channel.messages == 0 && channel.consumers.is_empty();
        let Some((handle, name)) = self.by_handle.values().find(idle).map(|idle| (idle.handle, idle.name.clone()))
        else {
            return false;
        };
        self.by_handle.remove(&handle);
        self.by_name.remove(&name);
        tx.delete::<stored::Channel>(&name);
        true
    }

    /// Writes what changed.
    pub(super) fn save(&mut self, tx: &mut Tx<'_>) {
        for channel in self.by_handle.values_mut().filter(|channel| channel.changed) {
            channel.changed = false;
            let Channel { handle, messages, bytes, .. } = *channel;
            tx.put(&channel.name, &stored::Channel { handle, messages, bytes });
        }
    }
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
            loop {
                let from = (handle, class as u8, channel.cursors[class.index()]).encode();
                let page = tx.scan::<stored::Queue>(&from, &end, PAGE)?;
                let full = page.len() == PAGE;
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
        let Some(state) = self.consumers.get_mut(&consumer) else { return Ok(None) };
        if state.max_deliveries > 0 && row.deliveries >= state.max_deliveries {
            self.bury(round, key, place, &message, Rejection::Deliveries, tx)?;
            return Ok(None);
        }
        row.deliveries += 1;
        row.ready_at = 0;
        tx.put(&key, &row);
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
        how: Settlement,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        for delivery in &deliveries {
            let Some(lease) = self.consumers.get_mut(&consumer).and_then(|state| state.held.remove(delivery)) else {
                continue;
            };
            let Some(message) = tx.get::<stored::Inbox>(&lease.place)? else { continue };
            match how {
                Settlement::Consumed => self.consume(round, lease.key, lease.place, &message, tx)?,
                Settlement::Refused => self.bury(round, lease.key, lease.place, &message, Rejection::Refused, tx)?,
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
        self.leave_channel(key, message.size);
        self.counters.inbox_messages = self.counters.inbox_messages.saturating_sub(1);
        self.counters.inbox_bytes = self.counters.inbox_bytes.saturating_sub(message.size);
        tx.delete::<stored::Queue>(&key);
        tx.delete::<stored::Inbox>(&(handle, number));
        if message.fragments > 1 {
            for index in 0..message.fragments {
                tx.delete_raw(Table::Body, (message.body_key, index).encode());
            }
        }
        self.release_after(handle, (number, number), tx)
    }

    /// Moves a message to the channel `dead.NAME`, where it can still be read; the sender learns why (rule CONSUME-4).
    fn bury(
        &mut self,
        round: Round,
        key: QueueKey,
        (handle, number): (FlowHandle, u64),
        message: &stored::Inbox,
        why: Rejection,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let mut channel = format!("dead.{}", message.channel);
        channel.truncate(128);
        if !self.channels.make_room(&channel, tx) {
            return self.put_off(round, key, tx);
        }
        if let Some(flow) = self.flows.inn.change(handle, tx)? {
            for number in number..number + u64::from(message.fragments.max(1)) {
                flow.bury(number, why);
            }
        }
        self.owe_substates(round, handle);
        self.leave_channel(key, message.size);
        self.counters.inbox_messages = self.counters.inbox_messages.saturating_sub(1);
        self.counters.inbox_bytes = self.counters.inbox_bytes.saturating_sub(message.size);
        tx.delete::<stored::Queue>(&key);
        let row = stored::Inbox { channel, ..message.clone() };
        self.queue(handle, number, Class::from_wire(message.class).unwrap_or(Class::Normal), row, tx)?;
        self.release_after(handle, (number, number), tx)
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

    /// A consumer failed with a message: it is delivered again after the delay (rule CONSUME-3).
    pub(super) fn nack(
        &mut self,
        round: Round,
        consumer: ConsumerId,
        delivery: u64,
        delay_ms: u64,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        if let Some(lease) = self.consumers.get_mut(&consumer).and_then(|state| state.held.remove(&delivery)) {
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
        for lease in state.held.into_values() {
            self.give_back(lease.key, 0);
        }
    }

    /// A delayed message may be ready.
    pub(super) fn wake_channel(&mut self, handle: u64) {
        self.channels.ready.insert(handle);
    }

    /// A part of a body in fragments.
    pub(super) fn hand_body_part(
        &mut self,
        consumer: ConsumerId,
        delivery: u64,
        index: u32,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let place = self.consumers.get(&consumer).and_then(|state| state.held.get(&delivery)).map(|lease| lease.place);
        let bytes = match place {
            None => None,
            Some(place) => match tx.get::<stored::Inbox>(&place)? {
                Some(message) => tx.get_raw(Table::Body, &(message.body_key, index).encode())?,
                None => None,
            },
        };
        tx.hint(Effect::BodyPart { consumer, delivery, index, bytes });
        Ok(())
    }
}
