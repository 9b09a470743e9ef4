//! Frames as they are sent: one function a kind.

use bytes::Bytes;
use waypost_proto::hop::{self, frame::Kind, twin::Step};

use super::{Answer, FactId, Span, TwinStep};
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
    ranges: &[Span],
    taker: Incarnation,
    durable_sequence: u64,
) -> Box<hop::Frame> {
    frame(Kind::Custody(hop::Custody {
        incarnation: Bytes::copy_from_slice(&giver.to_bytes()),
        class: class.to_wire(),
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
        random: id.random.map(|random| Bytes::copy_from_slice(&random)).unwrap_or_default(),
    });
    frame(Kind::Ids(hop::Ids { facts: facts.collect() }))
}

/// Facts wanted.
#[must_use]
pub fn get(nodes: &[NodeId]) -> Box<hop::Frame> {
    let facts = nodes.iter().map(|node| Bytes::copy_from_slice(&node.0)).collect();
    frame(Kind::Get(hop::Get { facts, receipts: None }))
}

/// Own receipts wanted.
#[must_use]
pub fn receipts_wanted(above: &[u8]) -> Box<hop::Frame> {
    let receipts = Some(hop::ReceiptsWanted { above: Bytes::copy_from_slice(above) });
    frame(Kind::Get(hop::Get { facts: Vec::new(), receipts }))
}

/// A step in telling twins apart.
#[must_use]
pub fn twin(step: TwinStep) -> Box<hop::Frame> {
    let step = match step {
        TwinStep::Draw => Step::Draw(true),
        TwinStep::Drawn(challenge) => Step::Drawn(Bytes::copy_from_slice(&challenge)),
        TwinStep::Sign(challenge) => Step::Sign(Bytes::copy_from_slice(&challenge)),
        TwinStep::Signed(signed) => Step::Signed(signed),
        TwinStep::Proof(signed) => Step::Proof(signed),
    };
    frame(Kind::Twin(hop::Twin { step: Some(step) }))
}

/// Those were all, or all for now.
#[must_use]
pub fn shown(last: &[u8], all: bool) -> Box<hop::Frame> {
    frame(Kind::Shown(hop::Shown { last: Bytes::copy_from_slice(last), all }))
}

/// Standby copies given up: at most `limits::OFFER_ITEMS`.
#[must_use]
pub fn dropped(names: &[Name]) -> Box<hop::Frame> {
    frame(Kind::Dropped(hop::Dropped { names: names.iter().map(Name::to_wire).collect() }))
}
