//! Acceptance: what applications hand over gets an id, a number and a place on disk (promise P1). Messages that arrive
//! in one round for one destination and class share an envelope; nothing waits for company (rules ENV-1, ENV-2).

use bytes::Bytes;
use prost::Message as _;
use rand_core::Rng as _;
use waypost_proto::{hop, stored};

use super::effect::{Accepted, Effect, Refusal, Reply};
use super::input::RequestId;
use super::{Engine, Round};
use crate::envelope::Name;
use crate::flow::{OutFlow, Sealing};
use crate::id::{Class, FlowId, MessageId, NodeId};
use crate::limits;
use crate::message::{Recipient, Submission};
use crate::planted::{self, Bug};
use crate::store::keys::Key as _;
use crate::store::kv::{StoreError, Table};
use crate::store::tables::FlowHandle;
use crate::store::tx::Tx;
use crate::time::NodeTime;
use crate::trust::seal::message_tag;
use crate::trust::{Encapsulation, VerifyKey};

/// An envelope that grows during a round.
pub(super) struct Group {
    handle: FlowHandle,
    first: u64,
    plain: Vec<u8>,
    sent: Vec<stored::Sent>,
    bucket: u32,
    lifetime_ms: u64,
    shortest_ms: u64,
    tags_before: u64,
}

/// A message with its id, on its way to a number.
#[derive(Clone, Copy)]
pub(super) struct Letter<'a> {
    pub uid: u32,
    pub id: MessageId,
    pub to: NodeId,
    /// Unix milliseconds.
    pub accepted_ms: u64,
    pub message: &'a Submission,
}

/// What a submission turned out to be.
pub(super) enum Standing {
    New(NodeId),
    Repeated(Accepted),
}

impl Engine {
    /// Accepts a batch, or refuses it whole.
    pub(super) fn submit(
        &mut self,
        round: Round,
        request: RequestId,
        uid: u32,
        messages: &[Submission],
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let reply = match self.examine_batch(uid, messages, tx)? {
            Err(refusal) => Reply::Refused(refusal),
            Ok(()) => {
                let mut accepted = Vec::with_capacity(messages.len());
                for message in messages {
                    accepted.push(self.accept(round, uid, message, tx)?);
                }
                Reply::Accepted(accepted)
            }
        };
        tx.claim(Effect::Reply { request, reply });
        Ok(())
    }

    pub(super) fn examine_batch(
        &mut self,
        uid: u32,
        messages: &[Submission],
        tx: &Tx<'_>,
    ) -> Result<Result<(), Refusal>, StoreError> {
        if messages.len() > limits::BATCH_MESSAGES {
            return Ok(Err(crate::message::Invalid::Batch(messages.len()).into()));
        }
        let mut bytes = 0;
        let mut new = 0;
        for message in messages {
            match self.examine(uid, message, None, tx)? {
                Err(refusal) => return Ok(Err(refusal)),
                Ok(Standing::New(_)) => {
                    new += 1;
                    bytes += message.body.len() as u64;
                }
                Ok(Standing::Repeated(_)) => {}
            }
        }
        Ok(self.room_in_outbox(new, bytes))
    }

    /// Whether one message can be accepted, and whether it was before. `whole` is the hash of a body in fragments.
    pub(super) fn examine(
        &self,
        uid: u32,
        message: &Submission,
        whole: Option<[u8; 32]>,
        tx: &Tx<'_>,
    ) -> Result<Result<Standing, Refusal>, StoreError> {
        if let Err(invalid) = message.check() {
            return Ok(Err(invalid.into()));
        }
        if message.body.len() > limits::FRAGMENT {
            return Ok(Err(crate::message::Invalid::Body { bytes: message.body.len() as u64 }.into()));
        }
        let to = match self.resolve(&message.to) {
            Ok(to) => to,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Some(key) = &message.idempotency_key else { return Ok(Ok(Standing::New(to))) };
        let Some(row) = tx.get::<stored::Idempotency>(&(uid, key.clone()))? else { return Ok(Ok(Standing::New(to))) };
        if row.request != request_hash(message, whole).as_slice() && !planted::is(Bug::KeyNotBound) {
            return Ok(Err(Refusal::KeyReused(key.clone())));
        }
        let id = MessageId::from_slice(&row.id).ok_or_else(|| damaged(Table::Idempotency))?;
        let to = NodeId::from_slice(&row.to).ok_or_else(|| damaged(Table::Idempotency))?;
        Ok(Ok(Standing::Repeated(Accepted { id, to, repeated: true })))
    }

    /// The node a recipient names, if something can be sealed to it.
    pub(super) fn resolve(&self, recipient: &Recipient) -> Result<NodeId, Refusal> {
        let node = match recipient {
            Recipient::Node(node) => *node,
            Recipient::Named(name) if name.as_str() == self.policy.name => self.me,
            Recipient::Named(name) => match self.directory.named(name.as_str()).as_slice() {
                [] => return Err(Refusal::UnknownName(name.to_string())),
                [node] => *node,
                several => return Err(Refusal::AmbiguousName { name: name.to_string(), count: several.len() }),
            },
        };
        // A member's key has been checked; a stranger's check costs more than the rest of an acceptance.
        let checked = self.roster.is_member(&node) || self.sealable.contains(&node);
        if checked || VerifyKey::parse(node).is_ok() { Ok(node) } else { Err(Refusal::BadKey(node)) }
    }

    /// Whether the outbox and the disk take so much more (rules QUOTA-1, DISK-3).
    pub(super) fn room_in_outbox(&self, messages: u64, bytes: u64) -> Result<(), Refusal> {
        let full = |used, limit, unit| Refusal::OutboxFull { used, limit, unit, retry_after_ms: 1000 };
        let limit = self.policy.outbox_bytes;
        for (amount, limit, unit) in [(messages, self.policy.outbox_messages, "messages"), (bytes, limit, "bytes")] {
            if amount > limit {
                return Err(Refusal::LargerThanOutbox { amount, limit, unit });
            }
        }
        let used = self.counters.outbox_bytes + self.counters.staged_bytes;
        if self.counters.outbox_messages + messages > self.policy.outbox_messages {
            return Err(full(self.counters.outbox_messages, self.policy.outbox_messages, "messages"));
        }
        if used.saturating_add(bytes) > limit {
            return Err(full(used, limit, "bytes"));
        }
        // What was accepted before is only named again.
        if messages == 0 && bytes == 0 { Ok(()) } else { self.room_on_disk(bytes) }
    }

    /// Accepts one message that was examined: it gets its number (rule FLOW-3).
    pub(super) fn accept(
        &mut self,
        round: Round,
        uid: u32,
        message: &Submission,
        tx: &mut Tx<'_>,
    ) -> Result<Accepted, StoreError> {
        let to = match self.examine(uid, message, None, tx)? {
            Ok(Standing::Repeated(accepted)) => return Ok(accepted),
            Ok(Standing::New(to)) => to,
            Err(_) => return Err(StoreError::Failed("a batch changed between its examination and acceptance".into())),
        };
        let id = self.draw_id(round);
        let letter = Letter { uid, id, to, accepted_ms: round.now.wall_ms, message };
        self.mail_written(message.body.len() as u64);
        self.remember_key(&letter, None, tx);
        if message.delay_ms > 0 {
            self.keep_for_later(round, &letter, None, tx);
        } else {
            self.number(round, &letter, tx)?;
        }
        Ok(Accepted { id, to, repeated: false })
    }

    /// Gives a message its number and its place in the envelope that grows (rule FLOW-3).
    pub(super) fn number(&mut self, round: Round, letter: &Letter<'_>, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Letter { id, to, message, .. } = *letter;
        let item = item_of(letter, message.body.clone());
        let handle = self.room_in_group(round, (to, message.class), message.lifetime_ms, item.encoded_len(), tx)?;
        let flow = self.flows.out.change(handle, tx)?.ok_or_else(|| damaged(Table::OutFlow))?;
        let number = flow.next;
        flow.next += 1;
        let tag = message_tag(&flow.tag_key, number, id, 0, &message.body);
        flow.tags ^= tag;
        let after = self.follow(to, message, (id, number), tx)?;
        let item = hop::Item { after, ..item };
        let group = self.groups.get_mut(&(to, message.class)).ok_or_else(|| damaged(Table::OutFlow))?;
        group.add(&item, id, tag, message);
        self.counters.outbox_messages += 1;
        tx.put(&(id,), &message_row(letter, (handle, number)));
        Ok(())
    }

    /// The same key with the same request will be this message. Only with a key is a request worth its hash.
    pub(super) fn remember_key(&self, letter: &Letter<'_>, whole: Option<[u8; 32]>, tx: &mut Tx<'_>) {
        if let Some(key) = letter.message.idempotency_key.clone() {
            let id = Bytes::copy_from_slice(&letter.id.0);
            let (request, to) =
                (request_hash(letter.message, whole).to_vec().into(), Bytes::copy_from_slice(&letter.to.0));
            tx.put(&(letter.uid, key), &stored::Idempotency { id, request, to });
        }
    }

    pub(super) fn draw_id(&mut self, round: Round) -> MessageId {
        let mut random = [0; 10];
        self.rng.fill_bytes(&mut random);
        MessageId::new(round.now.wall_ms, random)
    }

    /// This incarnation's flow to a node, opened with its first message (rule FLOW-2).
    pub(super) fn open_flow(&mut self, to: NodeId, class: Class, tx: &mut Tx<'_>) -> Result<FlowHandle, StoreError> {
        if let Some(handle) = self.open.get(&(to, class)) {
            return Ok(*handle);
        }
        let before = self.own.continues.filter(|_| planted::is(Bug::ClosedFlowReopened));
        let incarnation = before.unwrap_or(self.own.incarnation);
        let id = FlowId { source: self.me, destination: to, class, incarnation };
        let handle = self.flows.handle_or_new(&id, &mut self.counters, tx)?;
        let mut tag_key = [0; 32];
        self.rng.fill_bytes(&mut tag_key);
        self.flows.out.change_or(handle, tx, || OutFlow::open(id, tag_key))?;
        self.open.insert((to, class), handle);
        self.sealable.insert(to);
        Ok(handle)
    }

    /// The flow of a message, with an open group that has room for it (rule ENV-2).
    pub(super) fn room_in_group(
        &mut self,
        round: Round,
        key: (NodeId, Class),
        lifetime_ms: u64,
        bytes: usize,
        tx: &mut Tx<'_>,
    ) -> Result<FlowHandle, StoreError> {
        let bucket = lifetime_bucket(lifetime_ms);
        if self.groups.get(&key).is_some_and(|group| !group.takes(bucket, bytes)) {
            self.close_group(round, key, tx)?;
        }
        let handle = self.open_flow(key.0, key.1, tx)?;
        if !self.groups.contains_key(&key) {
            let flow = self.flows.out.get(handle, tx)?.ok_or_else(|| damaged(Table::OutFlow))?;
            self.groups.insert(key, Group::begin(handle, flow, bucket, lifetime_ms));
        }
        Ok(handle)
    }

    /// Closes all groups of the round: each becomes an envelope.
    pub(super) fn close_groups(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        while let Some(key) = self.groups.keys().next().copied() {
            self.close_group(round, key, tx)?;
        }
        Ok(())
    }

    pub(super) fn close_group(
        &mut self,
        round: Round,
        key: (NodeId, Class),
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(group) = self.groups.remove(&key) else { return Ok(()) };
        let count = u32::try_from(group.sent.len()).unwrap_or(u32::MAX);
        self.counters.next_body += 1;
        let body = self.counters.next_body;
        self.counters.outbox_bytes += group.plain.len() as u64;
        let row = stored::Envelope {
            count,
            bytes: group.plain.len() as u64,
            lifetime_ms: group.lifetime_ms,
            body,
            ..Default::default()
        };
        let contents = stored::Contents { messages: group.sent, tags_before: group.tags_before };
        tx.put_raw(Table::Body, (body, 0u32).encode(), group.plain.into());
        self.ensure_sealing(round, group.handle, group.first, tx)?;
        self.put_envelope(round, (group.handle, group.first), row, &contents, group.shortest_ms, tx)
    }

    /// Writes an own envelope's rows and makes it due.
    pub(super) fn put_envelope(
        &mut self,
        round: Round,
        (handle, first): (FlowHandle, u64),
        mut row: stored::Envelope,
        contents: &stored::Contents,
        shortest_ms: u64,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        self.clock.recorded();
        let flow = self.flows.out.get(handle, tx)?.ok_or_else(|| damaged(Table::OutFlow))?;
        let name = Name { flow: flow.id, first, count: row.count };
        let key = (handle, name.last());
        tx.put(&key, contents);
        row.arrived = round.at.0;
        row.wave = 1;
        row.accepted_wall_ms = round.now.wall_ms;
        self.set_expiry(key, &mut row, round.at.plus(shortest_ms), tx);
        if name.flow.destination == self.me && !self.cancelling {
            self.deliver_to_self(round, name, key, row, tx)
        } else {
            self.make_due(name.flow, key, &mut row, tx);
            tx.put(&key, &row);
            Ok(())
        }
    }

    /// Draws a new encapsulation for a flow when the last is worn (rule SEAL-3).
    pub(super) fn ensure_sealing(
        &mut self,
        round: Round,
        handle: FlowHandle,
        first: u64,
        tx: &Tx<'_>,
    ) -> Result<(), StoreError> {
        let (me, network) = (self.me, self.network);
        let mut before = None;
        if planted::is(Bug::EncapsulationReused)
            && let Some(incarnation) = self.own.continues
            && let Some(id) = self.flows.out.get(handle, tx)?.map(|flow| FlowId { incarnation, ..flow.id })
            && let Some(handle) = self.flows.handle(&id, tx)?
        {
            before = self.flows.out.get(handle, tx)?.and_then(|flow| flow.sealings.last().cloned());
        }
        let flow = self.flows.out.change(handle, tx)?.ok_or_else(|| damaged(Table::OutFlow))?;
        let fresh = flow.sealings.last().is_some_and(|sealing| {
            !Encapsulation::is_worn(round.at.since(sealing.drawn_at), first.saturating_sub(sealing.first))
        });
        if fresh || flow.id.destination == me {
            return Ok(());
        }
        if let Some(before) = before {
            flow.sealings.push(Sealing { first, drawn_at: round.at, ..before });
            return Ok(());
        }
        let drawn = Encapsulation::draw(&mut self.rng, network, me, flow.id.destination);
        let encapsulation = drawn.map_err(|error| StoreError::Failed(error.to_string()))?;
        flow.sealings.push(Sealing { first, drawn_at: round.at, encapsulation });
        flow.trim_sealings();
        Ok(())
    }
}

impl Group {
    pub(super) fn begin(handle: FlowHandle, flow: &OutFlow, bucket: u32, lifetime_ms: u64) -> Self {
        Self {
            handle,
            first: flow.next,
            plain: flow.tag_key.to_vec(),
            sent: Vec::new(),
            bucket,
            lifetime_ms,
            shortest_ms: lifetime_ms,
            tags_before: flow.tags,
        }
    }

    pub(super) fn takes(&self, bucket: u32, bytes: usize) -> bool {
        self.bucket == bucket
            && self.sent.len() < limits::ENVELOPE_MESSAGES
            && (self.sent.is_empty() || self.plain.len() + bytes <= limits::FRAGMENT)
    }

    pub(super) fn add(&mut self, item: &hop::Item, id: MessageId, tag: u64, message: &Submission) {
        let before = self.plain.len();
        append(&mut self.plain, item);
        self.sent.push(stored::Sent {
            id: Bytes::copy_from_slice(&id.0),
            size: (self.plain.len() - before) as u64,
            lifetime_ms: message.lifetime_ms,
            tag,
        });
        self.lifetime_ms = self.lifetime_ms.max(message.lifetime_ms);
        self.shortest_ms = self.shortest_ms.min(message.lifetime_ms);
    }
}

/// Appends a length and the item; a `Vec` takes whatever is written.
pub(super) fn append(plain: &mut Vec<u8>, item: &hop::Item) {
    plain.extend_from_slice(&item.encode_length_delimited_to_vec());
}

/// The row by which a message is known.
pub(super) fn message_row(letter: &Letter<'_>, (handle, number): (FlowHandle, u64)) -> stored::Message {
    let message = letter.message;
    stored::Message {
        handle,
        number,
        channel: message.channel.to_string(),
        accepted_ms: letter.accepted_ms,
        lifetime_ms: message.lifetime_ms,
        uid: letter.uid,
        idempotency_key: message.idempotency_key.clone().unwrap_or_default(),
        order_key: message.order_key.clone().unwrap_or_default(),
        ..Default::default()
    }
}

fn item_of(letter: &Letter<'_>, body: Bytes) -> hop::Item {
    let message = letter.message;
    let header = |(name, value): &(String, String)| hop::Header { name: name.clone(), value: value.clone() };
    hop::Item {
        id: Bytes::copy_from_slice(&letter.id.0),
        channel: message.channel.to_string(),
        sent_at_ms: letter.accepted_ms,
        lifetime_ms: message.lifetime_ms,
        headers: message.headers.iter().map(header).collect(),
        size: body.len() as u64,
        body,
        key: message.order_key.clone().unwrap_or_default(),
        ..Default::default()
    }
}

pub(super) fn headers_to_row(headers: &[(String, String)]) -> Vec<stored::Header> {
    headers.iter().map(|(name, value)| stored::Header { name: name.clone(), value: value.clone() }).collect()
}

/// Lifetimes that differ by less than an eighth share an envelope: the bit length and the next three bits.
fn lifetime_bucket(lifetime_ms: u64) -> u32 {
    let bits = u64::BITS - lifetime_ms.leading_zeros();
    let next = if bits > 4 { (lifetime_ms >> (bits - 4)) & 7 } else { lifetime_ms & 7 };
    bits * 8 + u32::try_from(next).unwrap_or(0)
}

/// What makes two requests the same: everything but the key (rule IDEM-1).
fn request_hash(message: &Submission, whole: Option<[u8; 32]>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("waypost/request/1");
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    match &message.to {
        Recipient::Node(node) => part(&node.0),
        Recipient::Named(name) => part(name.as_str().as_bytes()),
    }
    part(message.channel.as_str().as_bytes());
    for (name, value) in &message.headers {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    part(&[message.class as u8]);
    part(&message.lifetime_ms.to_be_bytes());
    part(message.order_key.as_deref().unwrap_or_default().as_bytes());
    part(&whole.unwrap_or_else(|| *blake3::hash(&message.body).as_bytes()));
    *hasher.finalize().as_bytes()
}

pub(super) fn damaged(table: Table) -> StoreError {
    StoreError::Damaged { table, why: "a row that another names is missing or not what it should be".to_owned() }
}

/// Node time until which a message of an envelope may live.
pub(super) fn expiry_of(row: &stored::Envelope, sent: &stored::Sent) -> NodeTime {
    NodeTime(row.arrived).plus(sent.lifetime_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ENV-1: lifetimes in one envelope differ by less than an eighth.
    #[test]
    pub(super) fn a_bucket_is_narrow() {
        for lifetime in [1u64, 7, 16, 1000, 86_400_000, limits::LIFETIME_MAX_MS] {
            let top = lifetime + lifetime / 7 + 2;
            assert_ne!(lifetime_bucket(lifetime), lifetime_bucket(top), "{lifetime}");
        }
    }
}
