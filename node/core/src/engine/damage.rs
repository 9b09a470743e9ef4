//! Bodies that should be here and are not: reported and ended, so that nothing waits for them for ever (promise P3; rules
//! DAMAGE-1, DAMAGE-2, CUSTODY-4). A disk that reports errors is another matter: it ends the process (rule STORE-3).

use bytes::Bytes;
use waypost_proto::stored::{self, envelope::State};

use super::input::ConsumerId;
use super::submit::{Letter, damaged, message_row};
use super::{Engine, Event, Round};
use crate::envelope::Name;
use crate::filter::Rejection;
use crate::flow::Ending;
use crate::id::NodeId;
use crate::store::kv::{StoreError, Table};
use crate::store::tables::EnvelopeKey;
use crate::store::tx::Tx;

/// Why a message ended `damaged`: its body here is missing or not what it was.
pub(super) const BODY: u32 = 3;

const ROT: &str = "a message's body cannot be read back from this node's disk. A message from here ended `damaged`, one \
                   carried for others is asked for again, one delivered here is among the dead letters; look after \
                   the disk";

impl Engine {
    /// An envelope's turn to leave has come and its body cannot be read.
    pub(super) fn body_is_damaged(
        &mut self,
        round: Round,
        key: EnvelopeKey,
        name: Name,
        row: &stored::Envelope,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        self.raise_alarm(round, ROT, tx);
        if name.flow.source == self.me {
            return self.end_damaged(round, key, name, row.clone(), tx);
        }
        self.drop_transit(key, row, tx)?;
        self.clear_expiry(key, row, tx);
        // Without the record of its wave it can be taken again at once, from whoever stands by.
        self.forget_taken(key, tx)?;
        self.owe_dropped(name, NodeId::from_slice(&row.from), None);
        Ok(())
    }

    /// What never was in anybody's custody has ended; of what was, a copy may still arrive: receipt or expiry end it.
    fn end_damaged(
        &mut self,
        round: Round,
        key: EnvelopeKey,
        name: Name,
        mut row: stored::Envelope,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let handed = [Event::HandedTo, Event::GoneAt].map(|event| event as u32);
        if row.custody.iter().any(|step| handed.contains(&step.event)) {
            self.unmake_due(name.flow, &row, tx);
            row.set_state(State::Standby);
            row.standby_since = round.at.0;
            tx.put(&key, &row);
            return Ok(());
        }
        let floor = self.flows.out.get(key.0, tx)?.map_or(1, |flow| flow.floor);
        let lost = self.all_that_is_lost(key, name, &row, tx)?;
        self.end_numbers(round, key.0, lost, Ending::Damaged, BODY, tx)?;
        self.after_settling(round, key.0, floor, tx)
    }

    /// With one fragment all of its body is lost: the others need not travel.
    fn all_that_is_lost(
        &self,
        key: EnvelopeKey,
        name: Name,
        row: &stored::Envelope,
        tx: &Tx<'_>,
    ) -> Result<(u64, u64), StoreError> {
        let alone = (name.first, name.last());
        if !row.fragment {
            return Ok(alone);
        }
        let Some(id) = Self::fragment_id(key, tx)? else { return Ok(alone) };
        let message = tx.get::<stored::Message>(&(id,))?;
        Ok(message.map_or(alone, |row| (row.number, row.number + u64::from(row.fragments.max(1)) - 1)))
    }

    /// A delayed message is due and its body cannot be read: it gets the number its ladder is kept under, and ends. What
    /// follows it under its order key names the one before it.
    pub(super) fn number_damaged(
        &mut self,
        round: Round,
        letter: &Letter<'_>,
        delayed: &stored::Delayed,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Letter { id, to, message, .. } = *letter;
        self.close_group(round, (to, message.class), tx)?;
        let handle = self.open_flow(to, message.class, tx)?;
        let flow = self.flows.out.change(handle, tx)?.ok_or_else(|| damaged(Table::OutFlow))?;
        let number = flow.next;
        flow.next += 1;
        let (flow, tags_before) = (flow.id, flow.tags);
        self.counters.outbox_messages += 1;
        self.counters.outbox_bytes += delayed.size;
        tx.put(&(id,), &message_row(letter, (handle, number)));
        // Nobody will ever compare its tag.
        let sent = stored::Sent {
            id: Bytes::copy_from_slice(&id.0),
            size: delayed.size,
            lifetime_ms: message.lifetime_ms,
            tag: 0,
        };
        let contents = stored::Contents { messages: vec![sent], tags_before };
        let row = stored::Envelope {
            count: 1,
            bytes: delayed.size,
            lifetime_ms: message.lifetime_ms,
            body: delayed.body,
            ..Default::default()
        };
        self.put_envelope(round, (handle, number), row, &contents, message.lifetime_ms, tx)?;
        let key = (handle, number);
        match tx.get::<stored::Envelope>(&key)?.filter(|row| row.state() != State::Ended) {
            Some(row) => self.body_is_damaged(round, key, Name { flow, first: number, count: 1 }, &row, tx),
            // Mail to this node itself looked for its body at once.
            None => Ok(()),
        }
    }

    /// An application asked for a part of a body in its hands, and the part cannot be read (rule DAMAGE-2): the message
    /// goes to the dead letters and the sender learns why. From the dead letters, or where they have no room, it goes for
    /// good: nobody is handed it again and again.
    pub(super) fn delivery_is_damaged(
        &mut self,
        round: Round,
        (consumer, delivery): (ConsumerId, u64),
        message: &stored::Inbox,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        self.raise_alarm(round, ROT, tx);
        let Some((key, place)) = self.end_delivery(consumer, delivery) else { return Ok(()) };
        if self.has_room_for_dead(message, tx) {
            return self.bury(round, key, place, message, (Rejection::Damaged, ROT), tx);
        }
        self.tell_buried(round, place, message, Rejection::Damaged, tx)?;
        self.remove_delivered(key, place, message, tx)
    }
}
