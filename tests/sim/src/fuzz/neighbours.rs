//! Honest neighbours, after all that: what they send through the engine must arrive.

use bytes::Bytes;
use waypost_core::engine::effect::Stream;
use waypost_core::engine::input::{ConsumerId, Input, RequestId};
use waypost_core::envelope::{Header, Name};
use waypost_core::id::{Class, Incarnation};
use waypost_core::limits;
use waypost_core::message::{Recipient, Submission};
use waypost_proto::hop::{self, frame::Kind};

use super::bench::{Bench, Ended};
use super::seeds::LIAR;
use super::town::{NODE, item, plain};

/// The honest source and the honest destination.
const FROM: usize = 2;
const TO: usize = 3;
/// Counter of honest starts: no input names it.
const COUNTER: u64 = 0x00ab_cdef;
/// Rounds of carrying, a second apart, until it must have arrived.
const ROUNDS: usize = 400;

/// What must come out of the engine.
struct Honest {
    consumer: ConsumerId,
    /// Transfers the source has used, by class.
    transfers: u64,
    /// The next turn gives both envelopes again.
    waits: bool,
    relayed: bool,
    delivered: bool,
    own: bool,
}

/// Two honest members connect. A message of one for the other, one for the node itself and one of the node's own must
/// all arrive.
///
/// # Errors
/// Which does not.
pub fn all_is_well(bench: &mut Bench<'_>) -> Result<(), Ended> {
    bench.seen = Default::default();
    let consumer = ConsumerId(u64::MAX);
    let channel = "honest".parse().map_err(|_| Ended::Broken("a channel has no name".to_owned()))?;
    bench.round(vec![
        Input::ConsumerOpened { consumer, uid: 0, channel, lease_ms: 3_600_000, max_deliveries: 0 },
        Input::CreditGranted { consumer, messages: 10 },
    ])?;
    for member in [FROM, TO] {
        let hello = bench.hello(COUNTER);
        bench.connect(member, hello)?;
        for class in Class::ALL {
            let credit = hop::Credit { class: class.to_wire(), bytes: 1 << 40, envelopes: 1 << 30 };
            bench.frame(member, Stream::Control, framed(Kind::Credit(credit)))?;
        }
    }
    submit(bench)?;
    let mut honest = Honest { consumer, transfers: 0, waits: true, relayed: false, delivered: false, own: false };
    for _ in 0..ROUNDS {
        if honest.waits {
            honest.waits = false;
            give(bench, &mut honest)?;
        }
        answer(bench, &mut honest)?;
        if honest.relayed && honest.delivered && honest.own {
            return Ok(());
        }
        bench.pass(1000, 16)?;
    }
    let Honest { relayed, delivered, own, .. } = honest;
    Err(Ended::Broken(format!(
        "honest mail does not arrive: through the node {relayed}, for it {delivered}, of its own {own}"
    )))
}

fn submit(bench: &mut Bench<'_>) -> Result<(), Ended> {
    let message = Submission {
        to: Recipient::Node(bench.town.id(TO)),
        channel: "honest".parse().map_err(|_| Ended::Broken("a channel has no name".to_owned()))?,
        headers: Vec::new(),
        body: Bytes::from_static(b"of its own"),
        class: Class::Urgent,
        lifetime_ms: limits::LIFETIME_MS,
        idempotency_key: None,
        order_key: None,
        delay_ms: 0,
    };
    bench.round(vec![Input::Submitted { request: RequestId(u64::MAX), uid: 0, messages: vec![message] }])
}

/// The honest source gives its two envelopes.
fn give(bench: &mut Bench<'_>, honest: &mut Honest) -> Result<(), Ended> {
    for to in [TO, NODE] {
        let flow = bench.town.flow(FROM, to, Class::Urgent, COUNTER);
        let message = hop::Item { channel: "honest".to_owned(), ..item(b"honest") };
        let name = Name { flow, first: 1, count: 1 };
        let sealed = bench.town.seal(FROM, name, 86_400_000, &plain(&[message]));
        let Some(sealed) = sealed else { return Err(Ended::Broken("an honest message cannot be sealed".to_owned())) };
        honest.transfers += 1;
        let envelope = bench.town.envelope_frame(FROM, sealed, honest.transfers);
        bench.frame(FROM, Stream::Class(Class::Urgent), framed(Kind::Envelope(envelope)))?;
    }
    Ok(())
}

/// The honest neighbours answer whatever they were sent, and what has arrived is noted.
fn answer(bench: &mut Bench<'_>, honest: &mut Honest) -> Result<(), Ended> {
    let seen = std::mem::take(&mut bench.seen);
    honest.delivered |=
        seen.delivered.get(&honest.consumer).is_some_and(|all| all.iter().any(|it| it.body == b"honest".as_slice()));
    for (to, _, frame) in seen.sent {
        if to == LIAR {
            continue;
        }
        let answer = match frame.kind {
            Some(Kind::Envelope(envelope)) => {
                note(bench, honest, &envelope);
                custody(bench, &envelope)
            }
            Some(Kind::Offer(offer)) => {
                let items = (0..offer.items.len() as u32).collect();
                Some(Kind::Want(hop::Answer { offer: offer.offer, items, ..Default::default() }))
            }
            Some(Kind::Get(hop::Get { receipts: Some(_), .. })) => {
                Some(Kind::Shown(hop::Shown { last: Bytes::new(), all: true }))
            }
            Some(Kind::RetryLater(_)) => {
                honest.waits |= to == FROM;
                None
            }
            _ => None,
        };
        if let Some(kind) = answer {
            bench.frame(to, Stream::Control, framed(kind))?;
        }
    }
    Ok(())
}

fn note(bench: &Bench<'_>, honest: &mut Honest, envelope: &hop::Envelope) {
    let Ok(header) = Header::decode(&envelope.header) else { return };
    let flow = header.name.flow;
    honest.relayed |= flow == bench.town.flow(FROM, TO, Class::Urgent, COUNTER);
    honest.own |= flow.source == bench.town.id(NODE) && flow.destination == bench.town.id(TO);
}

fn custody(bench: &Bench<'_>, envelope: &hop::Envelope) -> Option<Kind> {
    let class = Header::decode(&envelope.header).ok()?.name.flow.class;
    let ranges = vec![hop::Range { first: envelope.transfer, last: envelope.transfer }];
    let (its, taker) =
        (bench.engine.own_hello().incarnation, Incarnation { counter: COUNTER, random: [COUNTER as u8; 8] });
    Some(Kind::Custody(hop::Custody {
        incarnation: Bytes::copy_from_slice(&its.to_bytes()),
        class: class.to_wire(),
        ranges,
        taker_incarnation: Bytes::copy_from_slice(&taker.to_bytes()),
        durable_sequence: 1,
    }))
}

fn framed(kind: Kind) -> hop::Frame {
    hop::Frame { kind: Some(kind) }
}
