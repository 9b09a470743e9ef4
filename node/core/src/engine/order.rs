//! Order of one sender's messages in one channel under one key (rules ORDER-1 to ORDER-4). The source names each
//! message's predecessor; the destination holds a message back until its predecessor has been dealt with, or the
//! message's lifetime has run out. No key waits for another, and what waits may fill half of the inbox.

use bytes::Bytes;
use waypost_proto::{hop, stored};

use super::submit::damaged;
use super::{Engine, Round};
use crate::id::{Class, FlowId, Incarnation, MessageId, NodeId};
use crate::message::Submission;
use crate::planted::{self, Bug};
use crate::store::keys::{Key as _, after_prefix};
use crate::store::kv::{StoreError, Table};
use crate::store::tables::{FlowHandle, OrderKey, WaitingKey};
use crate::store::tx::Tx;

/// Messages released in one scan.
const PAGE: usize = 256;
/// Tells a consumer that a message was released without its predecessor.
pub const UNPROVEN: (&str, &str) = ("waypost-order", "unproven");

impl Engine {
    // ---- the source names predecessors ----

    /// The message before this one under its key, and this one as the one before the next.
    pub(super) fn follow(
        &mut self,
        to: NodeId,
        message: &Submission,
        (id, number): (MessageId, u64),
        tx: &mut Tx<'_>,
    ) -> Result<Option<hop::Predecessor>, StoreError> {
        let Some(key) = order_key(to, message) else { return Ok(None) };
        let before = tx.get::<stored::Predecessor>(&key)?;
        let row = stored::Predecessor {
            id: Bytes::copy_from_slice(&id.0),
            class: message.class.to_wire(),
            incarnation: Bytes::copy_from_slice(&self.own.incarnation.to_bytes()),
            number,
        };
        tx.put(&key, &row);
        let stored::Predecessor { id, class, incarnation, number } = match before {
            Some(before) => before,
            None => return Ok(None),
        };
        Ok(Some(hop::Predecessor { id, class, incarnation, number }))
    }

    // ---- the destination keeps the order ----

    /// Whether an arriving message must wait, and for which number of which flow (rule ORDER-2).
    pub(super) fn must_wait_for(
        &mut self,
        handle: FlowHandle,
        after: Option<&stored::Predecessor>,
        tx: &mut Tx<'_>,
    ) -> Result<Option<(FlowHandle, u64)>, StoreError> {
        let Some(after) = after.filter(|_| !planted::is(Bug::PredecessorIgnored)) else { return Ok(None) };
        let Some(flow) = self.flows.inn.get(handle, tx)?.map(|flow| flow.id) else { return Ok(None) };
        let Some(named) = flow_of_predecessor(flow, after) else { return Ok(None) };
        let before = self.flows.handle_or_new(&named, &mut self.counters, tx)?;
        let dealt_with = self.is_dealt_with((before, after.number), &after.id, tx)?;
        Ok((!dealt_with).then_some((before, after.number)))
    }

    /// A predecessor is dealt with when its number is recorded or below the floor, and it is not in the inbox.
    pub(super) fn is_dealt_with(
        &mut self,
        (handle, number): (FlowHandle, u64),
        id: &[u8],
        tx: &Tx<'_>,
    ) -> Result<bool, StoreError> {
        let recorded = self.flows.inn.get(handle, tx)?.is_some_and(|flow| !flow.is_new(number));
        if !recorded {
            return Ok(false);
        }
        let partial = tx.get::<stored::Partial>(&(handle, number, 0))?.is_some();
        let inbox = tx.get::<stored::Inbox>(&(handle, number))?;
        Ok(!partial && inbox.is_none_or(|row| row.id != id || row.channel.starts_with("dead.")))
    }

    /// Lets a message in the inbox wait for its predecessor, at the latest until its lifetime has run out.
    pub(super) fn hold_back(
        &mut self,
        round: Round,
        before: (FlowHandle, u64),
        (handle, number): (FlowHandle, u64),
        mut row: stored::Inbox,
        tx: &mut Tx<'_>,
    ) {
        let until = round.at.plus(row.lifetime_ms);
        let after = row.predecessor.as_ref().map(|before| before.id.clone()).unwrap_or_default();
        row.waits_until = until.0;
        self.counters.waiting_bytes += row.size;
        self.counters.waiting_messages += 1;
        self.counters.inbox_messages += 1;
        self.counters.inbox_bytes += row.size;
        tx.put(&(before.0, before.1, handle, number), &stored::Waiting { after });
        tx.put(&(handle, number), &row);
        self.watch_order(until, (handle, number), tx);
    }

    /// A number of a flow has been recorded, consumed or passed by the floor: what waited for it may come
    /// (rule ORDER-3).
    pub(super) fn release_after(
        &mut self,
        handle: FlowHandle,
        (first, last): (u64, u64),
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        if self.counters.waiting_messages == 0 || first > last {
            return Ok(());
        }
        let from = (handle, first).encode();
        let to = after_prefix(&(handle, last).encode());
        let mut from = from;
        loop {
            let page = tx.scan::<stored::Waiting>(&from, &to, PAGE)?;
            let full = page.len() == PAGE;
            for (key, row) in page {
                from = (key.0, key.1, key.2, key.3 + 1).encode();
                if self.is_dealt_with((key.0, key.1), &row.after, tx)? {
                    self.release(key, None, tx)?;
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// A message has waited for its whole lifetime: it comes without its predecessor, and says so (rule ORDER-4).
    pub(super) fn release_unproven(&mut self, place: (FlowHandle, u64), tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Some(row) = tx.get::<stored::Inbox>(&place)?.filter(|row| row.waits_until > 0) else { return Ok(()) };
        let flow = self.flows.inn.get(place.0, tx)?.ok_or_else(|| damaged(Table::InFlow))?.id;
        let after = row.predecessor.clone().unwrap_or_default();
        let incarnation = Incarnation::from_slice(&after.incarnation).unwrap_or_default();
        let class = Class::from_wire(after.class).unwrap_or(flow.class);
        let named = FlowId { class, incarnation, ..flow };
        let before = self.flows.handle(&named, tx)?.unwrap_or_default();
        self.release((before, after.number, place.0, place.1), Some(UNPROVEN), tx)?;
        self.forget_named(before, &named, tx)
    }

    /// A flow of which nothing came, only named by predecessors, goes with the last message that waited for it: a source
    /// may name as many as it likes (rule ORDER-4).
    fn forget_named(&mut self, handle: FlowHandle, flow: &FlowId, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let is_open = self.flows.inn.get(handle, tx)?.is_some() || self.flows.out.get(handle, tx)?.is_some();
        let from = (handle,).encode();
        let is_waited_for = !tx.scan_raw(Table::Waiting, &from, &after_prefix(&from), 1)?.is_empty();
        if handle != 0 && !is_open && !is_waited_for {
            self.flows.forget(handle, flow, self.me, tx);
        }
        Ok(())
    }

    /// The ladder of the last message under a key is forgotten: nothing follows it any more.
    pub(super) fn forget_order(
        &mut self,
        handle: FlowHandle,
        id: MessageId,
        message: &stored::Message,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(flow) = self.flows.out.get(handle, tx)?.map(|flow| flow.id) else { return Ok(()) };
        let key = (flow.destination, format!("{}\0{}", message.channel, message.order_key));
        if !message.order_key.is_empty()
            && tx.get::<stored::Predecessor>(&key)?.is_some_and(|last| last.id == id.0.as_slice())
        {
            tx.delete::<stored::Predecessor>(&key);
        }
        Ok(())
    }

    fn release(&mut self, key: WaitingKey, mark: Option<(&str, &str)>, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        tx.delete::<stored::Waiting>(&key);
        let place = (key.2, key.3);
        let Some(mut row) = tx.get::<stored::Inbox>(&place)?.filter(|row| row.waits_until > 0) else { return Ok(()) };
        self.clear_order_watch(row.waits_until, place, tx);
        row.waits_until = 0;
        if let Some((name, value)) = mark {
            row.headers.push(stored::Header { name: name.to_owned(), value: value.to_owned() });
        }
        self.counters.waiting_bytes = self.counters.waiting_bytes.saturating_sub(row.size);
        self.counters.waiting_messages = self.counters.waiting_messages.saturating_sub(1);
        self.counters.inbox_messages = self.counters.inbox_messages.saturating_sub(1);
        self.counters.inbox_bytes = self.counters.inbox_bytes.saturating_sub(row.size);
        let class = Class::from_wire(row.class).unwrap_or(Class::Normal);
        self.queue(place.0, place.1, class, row, tx)
    }
}

/// The flow that a predecessor is in, of the same source and destination; `None` when it names nothing.
pub(super) fn flow_of_predecessor(flow: FlowId, after: &stored::Predecessor) -> Option<FlowId> {
    let named = Class::from_wire(after.class).zip(Incarnation::from_slice(&after.incarnation));
    let (class, incarnation) = named.filter(|_| after.number > 0)?;
    Some(FlowId { class, incarnation, ..flow })
}

fn order_key(to: NodeId, message: &Submission) -> Option<OrderKey> {
    let key = message.order_key.as_ref()?;
    Some((to, format!("{}\0{key}", message.channel)))
}
