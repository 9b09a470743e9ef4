//! Frames as they are sent: one function a kind.

use bytes::Bytes;
use waypost_proto::hop::{self, frame::Kind};

use super::{Answer, FactId, Span};
use crate::envelope::Name;
use crate::id::{Class, Incarnation, NodeId};

/// A frame of a kind.
#[must_use]
pub fn frame(kind: Kind) -> Box<hop::Frame> {
    Box::new(hop::Frame { kind: Some(kind) })
}

/// Room in one class, cumulative since the hello.
#[must_use]
pub fn credit(class: Class, bytes: u64, envelopes: u64) -> Box<hop::Frame> {
    frame(Kind::Credit(hop::Credit { class: class.to_wire(), bytes, envelopes }))
}

/// Envelopes to be had: name, wave, bytes.
#[must_use]
pub fn offer(offer: u64, items: &[(Name, u32, u64)]) -> Box<hop::Frame> {
    let items =
        items.iter().map(|(name, wave, bytes)| hop::Offered { name: Some(name.to_wire()), wave: *wave, bytes: *bytes });
    frame(Kind::Offer(hop::Offer { offer, items: items.collect() }))
}

fn answer(answer: &Answer) -> hop::Answer {
    match answer {
        Answer::Items { offer, items } => hop::Answer { offer: *offer, items: items.clone(), ..Default::default() },
        Answer::Transfers { class, transfers } => {
            hop::Answer { class: class.to_wire(), transfers: transfers.clone(), ..Default::default() }
        }
    }
}

/// Send these.
#[must_use]
pub fn want(items: &Answer) -> Box<hop::Frame> {
    frame(Kind::Want(answer(items)))
}

/// In our synced log, active.
#[must_use]
pub fn have(items: &Answer) -> Box<hop::Frame> {
    frame(Kind::Have(answer(items)))
}

/// Taken in this wave before, not here any more.
#[must_use]
pub fn gone(items: &Answer) -> Box<hop::Frame> {
    frame(Kind::Gone(answer(items)))
}

/// Not now.
#[must_use]
pub fn retry_later(
    items: &Answer,
    reason: hop::retry_later::Reason,
    after_ms: u64,
    source: Option<NodeId>,
) -> Box<hop::Frame> {
    let hop::Answer { offer, items, class, transfers } = answer(items);
    let source = source.map(|node| Bytes::copy_from_slice(&node.0)).unwrap_or_default();
    let reason = reason.into();
    frame(Kind::RetryLater(hop::RetryLater { offer, items, class, transfers, reason, after_ms, source }))
}

/// In our synced log as of `durable_sequence`.
#[must_use]
pub fn custody(
    giver: Incarnation,
    class: Class,
    up_to: u64,
    ranges: &[Span],
    taker: Incarnation,
    durable_sequence: u64,
) -> Box<hop::Frame> {
    frame(Kind::Custody(hop::Custody {
        incarnation: Bytes::copy_from_slice(&giver.to_bytes()),
        class: class.to_wire(),
        up_to,
        ranges: ranges.iter().map(|(first, last)| hop::Range { first: *first, last: *last }).collect(),
        taker_incarnation: Bytes::copy_from_slice(&taker.to_bytes()),
        durable_sequence,
    }))
}

/// Facts to be had.
#[must_use]
pub fn ids(facts: &[FactId]) -> Box<hop::Frame> {
    let facts = facts.iter().map(|id| hop::FactId {
        node: Bytes::copy_from_slice(&id.node.0),
        counter: id.counter,
        sequence: id.sequence,
    });
    frame(Kind::Ids(hop::Ids { facts: facts.collect() }))
}

/// Facts wanted.
#[must_use]
pub fn get(nodes: &[NodeId]) -> Box<hop::Frame> {
    let facts = nodes.iter().map(|node| Bytes::copy_from_slice(&node.0)).collect();
    frame(Kind::Get(hop::Get { facts }))
}
