//! Messages accepted now and sent later: kept with everything that makes them, and given their numbers when they are
//! due (rules DELAY-1, DELAY-2). Their lifetime begins then.

use bytes::Bytes;
use waypost_proto::stored;

use super::alarm::Alarm;
use super::bodies::Fragments;
use super::submit::{Letter, damaged, headers_to_row, message_row};
use super::{Engine, Round};
use crate::id::{Class, MessageId, NodeId};
use crate::message::{Recipient, Submission};
use crate::planted::{self, Bug};
use crate::store::keys::Key as _;
use crate::store::kv::{StoreError, Table};
use crate::store::tx::Tx;
use crate::time::NodeTime;

/// Messages released in one round at most.
const PAGE: usize = 64;

impl Engine {
    /// Stores an accepted message until it is due. A body in fragments lies where it was streamed to.
    pub(super) fn keep_for_later(
        &mut self,
        round: Round,
        letter: &Letter<'_>,
        fragments: Option<&Fragments>,
        tx: &mut Tx<'_>,
    ) {
        let Letter { uid, id, to, accepted_ms, message } = *letter;
        let due = round.at.plus(message.delay_ms);
        let body = match fragments {
            Some(fragments) => fragments.body,
            None => {
                self.counters.next_body += 1;
                tx.put_raw(Table::Body, (self.counters.next_body, 0u32).encode(), message.body.clone());
                self.counters.next_body
            }
        };
        let size = fragments.map_or(message.body.len() as u64, |fragments| fragments.size);
        let row = stored::Delayed {
            uid,
            to: Bytes::copy_from_slice(&to.0),
            channel: message.channel.to_string(),
            headers: headers_to_row(&message.headers),
            class: message.class.to_wire(),
            lifetime_ms: message.lifetime_ms,
            order_key: message.order_key.clone(),
            idempotency_key: message.idempotency_key.clone(),
            accepted_ms,
            body,
            size,
            hash: fragments.map(|fragments| Bytes::copy_from_slice(&fragments.hash)).unwrap_or_default(),
            chaining_values: fragments.map(|fragments| fragments.values.concat().into()).unwrap_or_default(),
        };
        tx.put(&(due, id), &row);
        self.clock.recorded();
        let known = stored::Message { delayed_until: due.0, ..message_row(letter, (0, 0)) };
        tx.put(&(id,), &known);
        self.counters.outbox_messages += 1;
        self.counters.outbox_bytes += size;
        self.alarms.set_earlier(Alarm::Delayed, self.boot_ms_of(due));
    }

    /// Gives numbers to the delayed messages that are due.
    pub(super) fn release_delayed(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let early_ms = if planted::is(Bug::DelayedTooEarly) { 600_000 } else { 0 };
        let end = (round.at.plus(1 + early_ms), MessageId([0; 16])).encode();
        for ((due, id), row) in tx.scan::<stored::Delayed>(&[], &end, PAGE)? {
            self.send_now(round, (due, id), &row, tx)?;
        }
        let next = tx.scan::<stored::Delayed>(&[], &crate::store::keys::end_of_table(), 1)?;
        if let Some(((due, _), _)) = next.into_iter().next() {
            self.alarms.set_earlier(Alarm::Delayed, self.boot_ms_of(due));
        }
        Ok(())
    }

    /// A message that somebody asks to cancel before it is due gets its number at once, and is cancelled as any other.
    pub(super) fn undelay(&mut self, round: Round, id: MessageId, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Some(message) = tx.get::<stored::Message>(&(id,))?.filter(|row| row.handle == 0) else { return Ok(()) };
        let key = (NodeTime(message.delayed_until), id);
        let Some(row) = tx.get::<stored::Delayed>(&key)? else { return Ok(()) };
        // What else has gathered in this round goes its own way first.
        self.close_groups(round, tx)?;
        self.cancelling = true;
        self.send_now(round, key, &row, tx)?;
        self.close_groups(round, tx)?;
        self.cancelling = false;
        Ok(())
    }

    fn send_now(
        &mut self,
        round: Round,
        key: (NodeTime, MessageId),
        row: &stored::Delayed,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        tx.delete::<stored::Delayed>(&key);
        self.counters.outbox_messages = self.counters.outbox_messages.saturating_sub(1);
        self.counters.outbox_bytes = self.counters.outbox_bytes.saturating_sub(row.size);
        let fragments = fragments_of(row)?;
        let mut message = submission_of(row)?;
        let Recipient::Node(to) = message.to else { return Err(damaged(Table::Delayed)) };
        let body = match fragments {
            Some(_) => None,
            None => tx.body((row.body, 0))?.filter(|body| body.len() as u64 == row.size),
        };
        let is_lost = fragments.is_none() && body.is_none();
        message.body = body.unwrap_or_default();
        let letter = Letter { uid: row.uid, id: key.1, to, accepted_ms: row.accepted_ms, message: &message };
        match fragments {
            Some(fragments) => self.number_fragments(round, &letter, &fragments, tx)?,
            None if is_lost => self.number_damaged(round, &letter, row, tx)?,
            None => {
                tx.delete_raw(Table::Body, (row.body, 0u32).encode());
                self.number(round, &letter, tx)?;
            }
        }
        self.follow_waiters(key.1, tx)
    }

    /// The destination and class of a message that has no number yet.
    pub(super) fn delayed_place(
        &self,
        id: MessageId,
        message: &stored::Message,
        tx: &Tx<'_>,
    ) -> Result<Option<(NodeId, Class)>, StoreError> {
        let Some(row) = tx.get::<stored::Delayed>(&(NodeTime(message.delayed_until), id))? else { return Ok(None) };
        Ok(NodeId::from_slice(&row.to).zip(Class::from_wire(row.class)))
    }
}

fn submission_of(row: &stored::Delayed) -> Result<Submission, StoreError> {
    let bad = || damaged(Table::Delayed);
    Ok(Submission {
        to: Recipient::Node(NodeId::from_slice(&row.to).ok_or_else(bad)?),
        channel: row.channel.parse().map_err(|_| bad())?,
        headers: row.headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect(),
        body: Bytes::new(),
        class: Class::from_wire(row.class).ok_or_else(bad)?,
        lifetime_ms: row.lifetime_ms,
        idempotency_key: row.idempotency_key.clone(),
        order_key: row.order_key.clone(),
        delay_ms: 0,
    })
}

fn fragments_of(row: &stored::Delayed) -> Result<Option<Fragments>, StoreError> {
    if row.chaining_values.is_empty() {
        return Ok(None);
    }
    let hash = row.hash.as_ref().try_into().map_err(|_| damaged(Table::Delayed))?;
    let values = row.chaining_values.as_chunks::<32>().0.to_vec();
    Ok(Some(Fragments { body: row.body, size: row.size, hash, values }))
}
