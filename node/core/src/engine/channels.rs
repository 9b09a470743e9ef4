//! The channels of the inbox as they stand in memory: what waits, what is leased, who consumes. `consume` moves mail
//! through them (rules CONSUME-1, QUOTA-4).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use waypost_proto::stored;

use super::dead::dead_channel;
use super::input::ConsumerId;
use crate::limits;
use crate::message::ChannelName;
use crate::store::tables::{FlowHandle, QueueKey};
use crate::store::tx::Tx;

/// A channel with mail or consumers.
#[derive(Default)]
pub(super) struct Channel {
    pub(super) handle: u64,
    pub(super) name: String,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Everything below has been looked at, by class.
    pub(super) cursors: [u64; 3],
    /// In a consumer's hands.
    pub(super) leased: BTreeSet<QueueKey>,
    /// Came back; to be delivered before what is at the cursor.
    pub(super) returned: BTreeSet<QueueKey>,
    /// Not before a node time.
    pub(super) delayed: BTreeSet<(u64, QueueKey)>,
    pub(super) consumers: VecDeque<ConsumerId>,
    pub(super) changed: bool,
}

/// An application's stream.
pub(super) struct Consumer {
    pub(super) channel: u64,
    pub(super) credit: u64,
    pub(super) lease_ms: u64,
    pub(super) max_deliveries: u32,
    pub(super) next_delivery: u64,
    pub(super) held: BTreeMap<u64, Lease>,
}

/// A delivery that is not settled.
pub(super) struct Lease {
    pub(super) key: QueueKey,
    pub(super) place: (FlowHandle, u64),
    /// Boot milliseconds.
    pub(super) until: u64,
}

/// All channels, by handle and by name.
#[derive(Default)]
pub(super) struct Channels {
    pub(super) by_handle: BTreeMap<u64, Channel>,
    pub(super) by_name: BTreeMap<String, u64>,
    /// With mail and consumers that may now meet.
    pub(super) ready: BTreeSet<u64>,
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

    pub(super) fn open(&mut self, name: &str, counters: &mut stored::Counters) -> Option<&mut Channel> {
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

    /// The channels that hold the dead letters of one channel, or of all.
    pub(super) fn dead(&self, channel: Option<&ChannelName>) -> BTreeSet<u64> {
        let one = channel.map(|channel| dead_channel(channel.as_str()));
        let from = one.clone().unwrap_or_else(|| "dead.".to_owned());
        let named = self.by_name.range(from..).take_while(|(name, _)| name.starts_with("dead."));
        named.filter(|(name, _)| one.as_ref().is_none_or(|one| one == *name)).map(|(_, handle)| *handle).collect()
    }

    /// Whether a message is in a consumer's hands.
    pub(super) fn is_leased(&self, key: QueueKey) -> bool {
        self.by_handle.get(&key.0).is_some_and(|channel| channel.leased.contains(&key))
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
