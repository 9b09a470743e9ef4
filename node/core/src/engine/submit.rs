//! Acceptance: what applications hand over gets an id, a number and a place on disk (promise P1). Messages that arrive
//! in one round for one destination and class share an envelope; nothing waits for company (rules ENV-1, ENV-2).

use bytes::Bytes;
use prost::Message as _;
use rand_core::Rng as _;
use waypost_proto::{hop, stored};

use super::effect::{Accepted, Effect, Refusal, Reply};
use super::input::{RequestId, StreamId};
use super::{Engine, Round};
use crate::envelope::Name;
use crate::flow::{OutFlow, Sealing};
use crate::id::{Class, FlowId, MessageId, NodeId};
use crate::limits;
use crate::message::{Recipient, Submission};
use crate::store::keys::Key as _;
use crate::store::kv::{StoreError, Table};
use crate::store::tables::FlowHandle;
use crate::store::tx::Tx;
use crate::time::NodeTime;
use crate::trust::seal::message_tag;
use crate::trust::{Encapsulation, VerifyKey, hash};

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

/// A body that streams in.
pub(super) struct Streaming {
    request: RequestId,
    uid: u32,
    to: NodeId,
    message: Submission,
    body: u64,
    size: u64,
    chaining_values: Vec<[u8; 32]>,
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

/// A body in fragments, stored.
pub(super) struct Fragments {
    pub body: u64,
    pub size: u64,
    pub hash: [u8; 32],
    pub values: Vec<[u8; 32]>,
}

/// What a submission turned out to be.
enum Standing {
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

    fn examine_batch(
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
            match self.examine(uid, message, request_hash(message, None), tx)? {
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

    /// Whether one message can be accepted, and whether it was before.
    fn examine(
        &self,
        uid: u32,
        message: &Submission,
        hash: [u8; 32],
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
        if row.request != hash.as_slice() {
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

    /// Whether the outbox takes so much more (rule QUOTA-1).
    fn room_in_outbox(&self, messages: u64, bytes: u64) -> Result<(), Refusal> {
        let full = |used, limit, unit| Refusal::OutboxFull { used, limit, unit, retry_after_ms: 1000 };
        let used = self.counters.outbox_bytes + self.counters.staged_bytes;
        if self.counters.outbox_messages + messages > self.policy.outbox_messages {
            return Err(full(self.counters.outbox_messages, self.policy.outbox_messages, "messages"));
        }
        if used.saturating_add(bytes) > self.policy.outbox_bytes {
            return Err(full(used, self.policy.outbox_bytes, "bytes"));
        }
        Ok(())
    }

    /// Accepts one message that was examined: it gets its number (rule FLOW-3).
    fn accept(
        &mut self,
        round: Round,
        uid: u32,
        message: &Submission,
        tx: &mut Tx<'_>,
    ) -> Result<Accepted, StoreError> {
        let hash = request_hash(message, None);
        let to = match self.examine(uid, message, hash, tx)? {
            Ok(Standing::Repeated(accepted)) => return Ok(accepted),
            Ok(Standing::New(to)) => to,
            Err(_) => return Err(StoreError::Failed("a batch changed between its examination and acceptance".into())),
        };
        let id = self.draw_id(round);
        let letter = Letter { uid, id, to, accepted_ms: round.now.wall_ms, message };
        self.remember_key(&letter, hash, tx);
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

    /// The same key with the same request will be this message.
    fn remember_key(&self, letter: &Letter<'_>, hash: [u8; 32], tx: &mut Tx<'_>) {
        if let Some(key) = letter.message.idempotency_key.clone() {
            let id = Bytes::copy_from_slice(&letter.id.0);
            let (request, to) = (Bytes::copy_from_slice(&hash), Bytes::copy_from_slice(&letter.to.0));
            tx.put(&(letter.uid, key), &stored::Idempotency { id, request, to });
        }
    }

    pub(super) fn draw_id(&mut self, round: Round) -> MessageId {
        let mut random = [0; 10];
        self.rng.fill_bytes(&mut random);
        MessageId::new(round.now.wall_ms, random)
    }

    /// This incarnation's flow to a node, opened with its first message (rule FLOW-2).
    fn open_flow(&mut self, to: NodeId, class: Class, tx: &mut Tx<'_>) -> Result<FlowHandle, StoreError> {
        if let Some(handle) = self.open.get(&(to, class)) {
            return Ok(*handle);
        }
        let id = FlowId { source: self.me, destination: to, class, incarnation: self.own.incarnation };
        let handle = self.flows.handle_or_new(&id, &mut self.counters, tx)?;
        let mut tag_key = [0; 32];
        self.rng.fill_bytes(&mut tag_key);
        self.flows.out.change_or(handle, tx, || OutFlow::open(id, tag_key))?;
        self.open.insert((to, class), handle);
        self.sealable.insert(to);
        Ok(handle)
    }

    /// The flow of a message, with an open group that has room for it (rule ENV-2).
    fn room_in_group(
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

    fn close_group(&mut self, round: Round, key: (NodeId, Class), tx: &mut Tx<'_>) -> Result<(), StoreError> {
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
    fn put_envelope(
        &mut self,
        round: Round,
        (handle, first): (FlowHandle, u64),
        mut row: stored::Envelope,
        contents: &stored::Contents,
        shortest_ms: u64,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let flow = self.flows.out.get(handle, tx)?.ok_or_else(|| damaged(Table::OutFlow))?;
        let name = Name { flow: flow.id, first, count: row.count };
        let key = (handle, name.last());
        tx.put(&key, contents);
        row.arrived = round.at.0;
        row.wave = 1;
        row.accepted_wall_ms = round.now.wall_ms;
        self.set_expiry(key, &mut row, round.at.plus(shortest_ms), tx);
        if name.flow.destination == self.me {
            self.deliver_to_self(round, name, key, row, tx)
        } else {
            self.make_due(name.flow, key, &mut row, tx);
            tx.put(&key, &row);
            Ok(())
        }
    }

    /// Draws a new encapsulation for a flow when the last is worn (rule SEAL-3).
    fn ensure_sealing(&mut self, round: Round, handle: FlowHandle, first: u64, tx: &Tx<'_>) -> Result<(), StoreError> {
        let (me, network) = (self.me, self.network);
        let flow = self.flows.out.change(handle, tx)?.ok_or_else(|| damaged(Table::OutFlow))?;
        let fresh = flow.sealings.last().is_some_and(|sealing| {
            !Encapsulation::is_worn(round.at.since(sealing.drawn_at), first.saturating_sub(sealing.first))
        });
        if fresh || flow.id.destination == me {
            return Ok(());
        }
        let drawn = Encapsulation::draw(&mut self.rng, network, me, flow.id.destination);
        let encapsulation = drawn.map_err(|error| StoreError::Failed(error.to_string()))?;
        flow.sealings.push(Sealing { first, drawn_at: round.at, encapsulation });
        flow.trim_sealings();
        Ok(())
    }

    // ---- bodies that stream in ----

    /// Makes room for a body of unknown size, or refuses.
    pub(super) fn begin_body(
        &mut self,
        stream: StreamId,
        request: RequestId,
        uid: u32,
        message: Submission,
        tx: &mut Tx<'_>,
    ) {
        let checked = message.check().map_err(Refusal::from).and_then(|()| self.resolve(&message.to));
        let to = match checked.and_then(|to| self.room_in_outbox(1, 0).map(|()| to)) {
            Ok(to) => to,
            Err(refusal) => return tx.hint(Effect::Reply { request, reply: Reply::Refused(refusal) }),
        };
        if self.streams.len() >= limits::STREAMS {
            let refusal = Refusal::TooMany { what: "streamed bodies", limit: limits::STREAMS, retry_after_ms: 1000 };
            return tx.hint(Effect::Reply { request, reply: Reply::Refused(refusal) });
        }
        self.counters.next_body += 1;
        let body = self.counters.next_body;
        tx.put(&(body,), &stored::Stage { bytes: 0, fragments: 0 });
        let (size, chaining_values) = (0, Vec::new());
        self.streams.insert(stream, Streaming { request, uid, to, message, body, size, chaining_values });
    }

    /// Stores the next fragment of a body, not yet accepted. What comes after a refusal is thrown away.
    pub(super) fn grow_body(&mut self, stream: StreamId, bytes: Bytes, tx: &mut Tx<'_>) {
        let room = self.room_in_outbox(0, bytes.len() as u64);
        if let Some(streaming) = self.streams.get_mut(&stream) {
            let index = streaming.chaining_values.len() as u64;
            let size = streaming.size + bytes.len() as u64;
            let value = hash::fragment_cv(index, &bytes, false);
            match (room, value) {
                (Ok(()), Some(value)) if size <= limits::BODY_BYTES => {
                    tx.put_raw(Table::Body, (streaming.body, u32::try_from(index).unwrap_or(u32::MAX)).encode(), bytes);
                    self.counters.staged_bytes += size - streaming.size;
                    streaming.size = size;
                    streaming.chaining_values.push(value);
                }
                (Err(refusal), _) => self.refuse_body(stream, refusal, tx),
                _ => self.refuse_body(stream, crate::message::Invalid::Body { bytes: size }.into(), tx),
            }
        }
        tx.claim(Effect::Staged { stream });
    }

    fn refuse_body(&mut self, stream: StreamId, refusal: Refusal, tx: &mut Tx<'_>) {
        if let Some(streaming) = self.streams.get(&stream) {
            tx.hint(Effect::Reply { request: streaming.request, reply: Reply::Refused(refusal) });
        }
        self.abandon_body(stream, tx);
    }

    /// Deletes what was stored of a body that will not be accepted.
    fn unstage(&mut self, stream: StreamId, tx: &mut Tx<'_>) {
        let Some(streaming) = self.streams.get_mut(&stream) else { return };
        for index in 0..streaming.chaining_values.len() {
            tx.delete_raw(Table::Body, (streaming.body, u32::try_from(index).unwrap_or(u32::MAX)).encode());
        }
        tx.delete::<stored::Stage>(&(streaming.body,));
        self.counters.staged_bytes -= streaming.size;
        (streaming.size, streaming.chaining_values) = (0, Vec::new());
    }

    /// A body will never be whole.
    pub(super) fn abandon_body(&mut self, stream: StreamId, tx: &mut Tx<'_>) {
        self.unstage(stream, tx);
        self.streams.remove(&stream);
    }

    /// Accepts a streamed message at its last byte: its fragments get their numbers (rule BODY-2).
    pub(super) fn end_body(&mut self, round: Round, stream: StreamId, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Some(streaming) = self.streams.get(&stream) else { return Ok(()) };
        let request = streaming.request;
        if streaming.chaining_values.len() < 2 {
            // Small after all: as any other message.
            let (uid, mut message) = (streaming.uid, streaming.message.clone());
            message.body = tx.get_raw(Table::Body, &(streaming.body, 0u32).encode())?.unwrap_or_default();
            self.abandon_body(stream, tx);
            return self.submit(round, request, uid, &[message], tx);
        }
        let hash = hash::whole_hash(&streaming.chaining_values);
        let examined =
            self.examine(streaming.uid, &streaming.message, request_hash(&streaming.message, Some(hash)), tx)?;
        let reply = match examined {
            Err(refusal) => Reply::Refused(refusal),
            Ok(Standing::Repeated(accepted)) => Reply::Accepted(vec![accepted]),
            Ok(Standing::New(_)) => Reply::Accepted(vec![self.accept_fragments(round, stream, hash, tx)?]),
        };
        self.abandon_body(stream, tx);
        tx.claim(Effect::Reply { request, reply });
        Ok(())
    }

    fn accept_fragments(
        &mut self,
        round: Round,
        stream: StreamId,
        hash: [u8; 32],
        tx: &mut Tx<'_>,
    ) -> Result<Accepted, StoreError> {
        let gone = || StoreError::Failed("a stream vanished".to_owned());
        let id = self.draw_id(round);
        let streaming = self.streams.get_mut(&stream).ok_or_else(gone)?;
        let (to, uid) = (streaming.to, streaming.uid);
        let values = std::mem::take(&mut streaming.chaining_values);
        let fragments = Fragments { body: streaming.body, size: std::mem::take(&mut streaming.size), hash, values };
        let message = streaming.message.clone();
        tx.delete::<stored::Stage>(&(fragments.body,));
        self.counters.staged_bytes -= fragments.size;
        let letter = Letter { uid, id, to, accepted_ms: round.now.wall_ms, message: &message };
        self.remember_key(&letter, request_hash(&message, Some(hash)), tx);
        if message.delay_ms > 0 {
            self.keep_for_later(round, &letter, Some(&fragments), tx);
        } else {
            self.number_fragments(round, &letter, &fragments, tx)?;
        }
        Ok(Accepted { id, to, repeated: false })
    }

    /// Gives every fragment of a body its number (rule BODY-2).
    pub(super) fn number_fragments(
        &mut self,
        round: Round,
        letter: &Letter<'_>,
        fragments: &Fragments,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Letter { id, to, message, .. } = *letter;
        self.close_group(round, (to, message.class), tx)?;
        let handle = self.open_flow(to, message.class, tx)?;
        let flow = self.flows.out.change(handle, tx)?.ok_or_else(|| damaged(Table::OutFlow))?;
        let first = flow.next;
        self.ensure_sealing(round, handle, first, tx)?;
        let count = u32::try_from(fragments.values.len()).unwrap_or(u32::MAX);
        let row = stored::Message {
            fragments: count,
            open_fragments: count,
            size: fragments.size,
            hash: Bytes::copy_from_slice(&fragments.hash),
            headers: headers_to_row(&message.headers),
            predecessor: self.follow(to, message, (id, first), tx)?.map(predecessor_to_row),
            ..message_row(letter, (handle, first))
        };
        tx.put(&(id,), &row);
        self.counters.outbox_messages += 1;
        self.counters.outbox_bytes += fragments.size;
        for (index, value) in (0u32..).zip(&fragments.values) {
            let before = u64::from(index) * limits::FRAGMENT as u64;
            let bytes = (fragments.size - before).min(limits::FRAGMENT as u64);
            self.put_fragment(round, (handle, id), (fragments.body, index), bytes, value, message.lifetime_ms, tx)?;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of three rows, each of its own type")]
    fn put_fragment(
        &mut self,
        round: Round,
        (handle, id): (FlowHandle, MessageId),
        (body, index): (u64, u32),
        bytes: u64,
        chaining_value: &[u8; 32],
        lifetime_ms: u64,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let flow = self.flows.out.change(handle, tx)?.ok_or_else(|| damaged(Table::OutFlow))?;
        let number = flow.next;
        flow.next += 1;
        let tags_before = flow.tags;
        let tag = message_tag(&flow.tag_key, number, id, index, chaining_value);
        flow.tags ^= tag;
        let sent = stored::Sent { id: Bytes::copy_from_slice(&id.0), size: bytes, lifetime_ms, tag };
        let row = stored::Envelope {
            count: 1,
            bytes,
            lifetime_ms,
            body,
            body_index: index,
            fragment: true,
            ..Default::default()
        };
        let contents = stored::Contents { messages: vec![sent], tags_before };
        self.put_envelope(round, (handle, number), row, &contents, lifetime_ms, tx)
    }

    /// The plain bytes of an own envelope: what was stored, or a fragment in its item (rule BODY-3).
    pub(super) fn plain_of(
        &self,
        tag_key: &[u8; 32],
        row: &stored::Envelope,
        contents: impl FnOnce() -> Result<Option<stored::Contents>, StoreError>,
        tx: &Tx<'_>,
    ) -> Result<Option<Bytes>, StoreError> {
        let Some(bytes) = tx.get_raw(Table::Body, &(row.body, row.body_index).encode())? else { return Ok(None) };
        if !row.fragment {
            return Ok(Some(bytes));
        }
        let Some(id) = contents()?.and_then(|contents| MessageId::from_slice(&contents.messages.first()?.id)) else {
            return Ok(None);
        };
        let Some(message) = tx.get::<stored::Message>(&(id,))? else { return Ok(None) };
        let mut plain = Vec::with_capacity(bytes.len() + 1024);
        plain.extend_from_slice(tag_key);
        append(&mut plain, &fragment_item(id, &message, row.body_index, bytes));
        Ok(Some(plain.into()))
    }
}

impl Group {
    fn begin(handle: FlowHandle, flow: &OutFlow, bucket: u32, lifetime_ms: u64) -> Self {
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

    fn takes(&self, bucket: u32, bytes: usize) -> bool {
        self.bucket == bucket
            && self.sent.len() < limits::ENVELOPE_MESSAGES
            && (self.sent.is_empty() || self.plain.len() + bytes <= limits::FRAGMENT)
    }

    fn add(&mut self, item: &hop::Item, id: MessageId, tag: u64, message: &Submission) {
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
fn append(plain: &mut Vec<u8>, item: &hop::Item) {
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

fn fragment_item(id: MessageId, message: &stored::Message, index: u32, body: Bytes) -> hop::Item {
    let header = |header: &stored::Header| hop::Header { name: header.name.clone(), value: header.value.clone() };
    let first = index == 0;
    hop::Item {
        id: Bytes::copy_from_slice(&id.0),
        channel: if first { message.channel.clone() } else { String::new() },
        sent_at_ms: message.accepted_ms,
        lifetime_ms: message.lifetime_ms,
        headers: if first { message.headers.iter().map(header).collect() } else { Vec::new() },
        index,
        fragments: message.fragments,
        size: message.size,
        hash: message.hash.clone(),
        body,
        after: message.predecessor.clone().filter(|_| first).map(predecessor_from_row),
        ..Default::default()
    }
}

fn predecessor_to_row(after: hop::Predecessor) -> stored::Predecessor {
    let hop::Predecessor { id, class, incarnation, number } = after;
    stored::Predecessor { id, class, incarnation, number }
}

fn predecessor_from_row(row: stored::Predecessor) -> hop::Predecessor {
    let stored::Predecessor { id, class, incarnation, number } = row;
    hop::Predecessor { id, class, incarnation, number }
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
    fn a_bucket_is_narrow() {
        for lifetime in [1u64, 7, 16, 1000, 86_400_000, limits::LIFETIME_MAX_MS] {
            let top = lifetime + lifetime / 7 + 2;
            assert_ne!(lifetime_bucket(lifetime), lifetime_bucket(top), "{lifetime}");
        }
    }
}
