//! Bodies larger than a fragment at their source: streamed in, accepted whole at the last byte, sent as fragments with a
//! number each (rules BODY-1 to BODY-3).

use bytes::Bytes;
use waypost_proto::{hop, stored};

use super::effect::{Accepted, Effect, Refusal, Reply};
use super::input::{RequestId, StreamId};
use super::submit::{Letter, Standing, append, damaged, headers_to_row, message_row};
use super::{Engine, Round};
use crate::id::{MessageId, NodeId};
use crate::limits;
use crate::message::Submission;
use crate::store::keys::Key as _;
use crate::store::kv::{StoreError, Table};
use crate::store::tables::FlowHandle;
use crate::store::tx::Tx;
use crate::trust::hash;
use crate::trust::seal::message_tag;

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

/// A body in fragments, stored.
pub(super) struct Fragments {
    pub body: u64,
    pub size: u64,
    pub hash: [u8; 32],
    pub values: Vec<[u8; 32]>,
}

impl Engine {
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
            // What fits part by part, and not as a whole, is not to be tried again.
            let limit = self.policy.outbox_bytes;
            let room =
                if size > limit { Err(Refusal::LargerThanOutbox { amount: size, limit, unit: "bytes" }) } else { room };
            match (room, value) {
                (Ok(()), Some(value)) if size <= limits::BODY_BYTES => {
                    tx.put_raw(Table::Body, (streaming.body, u32::try_from(index).unwrap_or(u32::MAX)).encode(), bytes);
                    let grown = size - streaming.size;
                    self.counters.staged_bytes += grown;
                    streaming.size = size;
                    streaming.chaining_values.push(value);
                    let fragments = u32::try_from(streaming.chaining_values.len()).unwrap_or(u32::MAX);
                    tx.put(&(streaming.body,), &stored::Stage { bytes: size, fragments });
                    self.mail_written(grown);
                }
                (Err(refusal), _) => self.refuse_body(stream, refusal, tx),
                _ => self.refuse_body(stream, crate::message::Invalid::Body { bytes: size }.into(), tx),
            }
        }
        tx.claim(Effect::Staged { stream });
    }

    pub(super) fn refuse_body(&mut self, stream: StreamId, refusal: Refusal, tx: &mut Tx<'_>) {
        if let Some(streaming) = self.streams.get(&stream) {
            tx.hint(Effect::Reply { request: streaming.request, reply: Reply::Refused(refusal) });
        }
        self.abandon_body(stream, tx);
    }

    /// Deletes what was stored of a body that will not be accepted.
    pub(super) fn unstage(&mut self, stream: StreamId, tx: &mut Tx<'_>) {
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
            let (body, size) = (streaming.body, streaming.size);
            let stored = if size == 0 { Some(Bytes::new()) } else { tx.body((body, 0))? };
            let Some(stored) = stored.filter(|stored| stored.len() as u64 == size) else {
                // Not accepted yet: the sender still has it.
                self.refuse_body(stream, Refusal::StreamEnded, tx);
                return Ok(());
            };
            message.body = stored;
            self.abandon_body(stream, tx);
            return self.submit(round, request, uid, &[message], tx);
        }
        let hash = hash::whole_hash(&streaming.chaining_values);
        let examined = self.examine(streaming.uid, &streaming.message, Some(hash), tx)?;
        let reply = match examined {
            Err(refusal) => Reply::Refused(refusal),
            Ok(Standing::Repeated(accepted)) => Reply::Accepted(vec![accepted]),
            Ok(Standing::New(_)) => Reply::Accepted(vec![self.accept_fragments(round, stream, hash, tx)?]),
        };
        self.abandon_body(stream, tx);
        tx.claim(Effect::Reply { request, reply });
        Ok(())
    }

    pub(super) fn accept_fragments(
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
        self.remember_key(&letter, Some(hash), tx);
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
    pub(super) fn put_fragment(
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
        let stored = tx.body((row.body, row.body_index))?;
        let Some(bytes) = stored.filter(|bytes| bytes.len() as u64 == row.bytes) else { return Ok(None) };
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

pub(super) fn fragment_item(id: MessageId, message: &stored::Message, index: u32, body: Bytes) -> hop::Item {
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

pub(super) fn predecessor_to_row(after: hop::Predecessor) -> stored::Predecessor {
    let hop::Predecessor { id, class, incarnation, number } = after;
    stored::Predecessor { id, class, incarnation, number }
}

pub(super) fn predecessor_from_row(row: stored::Predecessor) -> hop::Predecessor {
    let stored::Predecessor { id, class, incarnation, number } = row;
    hop::Predecessor { id, class, incarnation, number }
}
