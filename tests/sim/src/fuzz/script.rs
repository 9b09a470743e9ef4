//! An input as a script: what a lying neighbour, time, the supervisor and applications do to an engine, one field of a
//! protobuf message a step. Whatever they do, honest mail arrives afterwards.

use prost::Message as _;
use waypost_core::engine::effect::{Reply, Stream};
use waypost_core::engine::input::{ConsumerId, Input, PeerHello, RequestId};
use waypost_core::envelope::{Header, Name};
use waypost_core::id::{Class, FlowId, Incarnation, MessageId};
use waypost_core::limits;
use waypost_core::message::{Recipient, Submission};
use waypost_core::store::mem::MemKv;
use waypost_proto::hop::{self, frame::Kind};

use super::bench::{Bench, Ended};
use super::neighbours::all_is_well;
use super::seeds::{self, LIAR};
use super::town::{HONEST, ITS_INCARNATION, MEMBERS, NODE, Town};
use super::wire::{self, Field, Value};
use super::{Target, class_of};

/// Steps of a script at most.
const STEPS: usize = 96;
/// Consumer of what liars send.
const CONSUMER: ConsumerId = ConsumerId(1);

/// Fields of a script.
pub mod step {
    /// A frame of the liar's.
    pub const FRAME: u32 = 1;
    /// An envelope that a liar sealed well; fields as in `Mail`.
    pub const MAIL: u32 = 2;
    /// Milliseconds pass.
    pub const TIME: u32 = 3;
    /// The process starts again; odd: the host too.
    pub const RESTART: u32 = 4;
    /// The liar connects anew; fields as in `hello_of`.
    pub const HELLO: u32 = 5;
    /// An application sends; fields as in `submit`.
    pub const SUBMIT: u32 = 6;
    /// An application takes what there is: 0 acknowledges, 1 fails it, 2 refuses it, 3 goes away.
    pub const CONSUME: u32 = 7;
    /// What was sent is cancelled.
    pub const CANCEL: u32 = 8;
    /// The last frame comes again, so often.
    pub const AGAIN: u32 = 9;
}

/// An engine with one lying neighbour: any sequence of steps.
pub struct Streams {
    town: Town,
}

impl Streams {
    /// Knows some members.
    ///
    /// # Errors
    /// When they cannot be made: a defect.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { town: Town::new()? })
    }
}

impl Target for Streams {
    fn name(&self) -> &'static str {
        "streams"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let Ok(mut town) = Town::new() else { return Vec::new() };
        let frames = seeds::encoded(seeds::frames(&mut town));
        let submit = Field::bytes(step::SUBMIT, wire::encode(&[Field::number(1, 1), Field::number(2, 3)]));
        let frame = |of: &Vec<u8>| Field::bytes(step::FRAME, of.clone());
        let mut seeds: Vec<Vec<u8>> = frames.iter().map(|of| wire::encode(&[submit.clone(), frame(of)])).collect();
        seeds.extend(mails().into_iter().map(|mail| wire::encode(&[Field::bytes(step::MAIL, mail)])));
        let all: Vec<Field> = [submit].into_iter().chain(frames.iter().map(frame)).collect();
        seeds.push(wire::encode(&all));
        let others =
            [(step::TIME, 60_000), (step::RESTART, 0), (step::RESTART, 1), (step::CONSUME, 0), (step::AGAIN, 5)];
        seeds.extend(others.map(|(number, value)| wire::encode(&[Field::number(number, value)])));
        seeds.push(wire::encode(&[Field::bytes(step::HELLO, wire::encode(&[Field::number(1, 2)]))]));
        seeds
    }

    fn run(&mut self, input: &[u8]) -> Result<Vec<u64>, String> {
        play(&mut self.town, &wire::fields_that_are(input), is_judged(input))
    }
}

/// Sealed bodies that a valid member made: one envelope.
pub struct Bodies {
    town: Town,
}

impl Bodies {
    /// Knows some members.
    ///
    /// # Errors
    /// When they cannot be made: a defect.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { town: Town::new()? })
    }
}

impl Target for Bodies {
    fn name(&self) -> &'static str {
        "bodies"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        mails()
    }

    fn run(&mut self, input: &[u8]) -> Result<Vec<u64>, String> {
        play(&mut self.town, &[Field::bytes(step::MAIL, input)], true)
    }
}

/// Envelopes as [`mail`] reads them: of one item each, of all, and of one that is none.
pub fn mails() -> Vec<Vec<u8>> {
    let items = seeds::items();
    let base = [Field::number(3, 1), Field::number(4, 1), Field::number(5, 9), Field::number(7, 1)];
    let of = |more: Vec<Field>| wire::encode(&[base.to_vec(), more].concat());
    let mut mails: Vec<Vec<u8>> = items.iter().map(|item| of(vec![Field::bytes(12, item.clone())])).collect();
    mails.push(of(items.iter().map(|item| Field::bytes(12, item.clone())).collect()));
    mails.push(of(vec![Field::bytes(12, items[1].clone()), Field::number(15, limits::FRAGMENT as u64)]));
    mails.push(of(vec![Field::number(6, 3), Field::bytes(14, vec![7; 40])]));
    mails.push(of(vec![Field::number(2, 2), Field::bytes(12, items[0].clone())]));
    mails
}

/// Whether honest mail follows a script. It costs many times what the script does: a fourth of all inputs get it, told
/// by themselves.
pub fn is_judged(input: &[u8]) -> bool {
    blake3::hash(input).as_bytes()[0].is_multiple_of(4)
}

/// Plays a script against an engine over an empty store; `judged`: honest mail must arrive afterwards.
fn play(town: &mut Town, script: &[Field], judged: bool) -> Result<Vec<u64>, String> {
    let bench = Bench::start(town, MemKv::default());
    let ended = bench.and_then(|mut bench| {
        play_on(&mut bench, script)?;
        let mut classes = std::mem::take(&mut bench.classes);
        classes.extend(tables_of(&bench));
        if judged {
            all_is_well(&mut bench)?;
        }
        Ok(classes)
    });
    match ended {
        Ok(classes) => Ok(classes.into_iter().collect()),
        Err(Ended::Broken(what)) => Err(what),
        Err(Ended::Store(error)) => Err(format!("frames alone have damaged the store: {error}")),
    }
}

/// Plays the steps of a script.
///
/// # Errors
/// As the bench.
pub fn play_on(bench: &mut Bench<'_>, script: &[Field]) -> Result<(), Ended> {
    come(bench)?;
    let mut ids = Vec::new();
    let mut last = None;
    for Field { number, value } in script.iter().take(STEPS) {
        match (*number, value) {
            (step::FRAME, Value::Bytes(bytes)) => last = frame(bench, bytes)?,
            (step::MAIL, Value::Bytes(bytes)) => last = mail(bench, bytes)?,
            (step::TIME, Value::Varint(ms)) => bench.pass((*ms).min(400 * limits::DAY_MS), 24)?,
            (step::RESTART, Value::Varint(how)) => {
                bench.restart(how % 2 == 1)?;
                come(bench)?;
            }
            (step::HELLO, Value::Bytes(bytes)) => {
                let hello = hello_of(bench, &wire::fields_that_are(bytes));
                bench.connect(LIAR, hello)?;
            }
            (step::SUBMIT, Value::Bytes(bytes)) => ids.extend(submit(bench, &wire::fields_that_are(bytes))?),
            (step::CONSUME, Value::Varint(how)) => consume(bench, *how)?,
            (step::CANCEL, _) => {
                bench.round(vec![Input::CancelAsked { request: RequestId(5), ids: ids.clone() }])?;
            }
            (step::AGAIN, Value::Varint(times)) => {
                for (stream, frame) in std::iter::repeat_n(last.clone(), *times.min(&64) as usize).flatten() {
                    bench.frame(LIAR, stream, frame)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The liar connects and says that it holds none of the node's receipts: or its mail would be put off for an hour.
fn come(bench: &mut Bench<'_>) -> Result<(), Ended> {
    let hello = bench.hello(1);
    bench.connect(LIAR, hello)?;
    let shown = Kind::Shown(hop::Shown { last: Vec::new().into(), all: true });
    bench.frame(LIAR, Stream::Control, hop::Frame { kind: Some(shown) })
}

/// How much each table holds, roughly.
fn tables_of(bench: &Bench<'_>) -> Vec<u64> {
    let mut counts = std::collections::BTreeMap::<_, u64>::new();
    for (table, _, _) in bench.kv.rows() {
        *counts.entry(table).or_default() += 1;
    }
    let letters = |count: u64| "x".repeat(64 - count.leading_zeros() as usize);
    counts.iter().map(|(table, count)| class_of(&format!("{table:?}{}", letters(*count)))).collect()
}

type Sent = Option<(Stream, hop::Frame)>;

/// The liar's frame: what liars can sign in it is signed.
fn frame(bench: &mut Bench<'_>, bytes: &[u8]) -> Result<Sent, Ended> {
    let bytes = with_its_incarnation(bench, bytes);
    let Ok(mut frame) = hop::Frame::decode(bytes.as_slice()) else { return Ok(None) };
    let liars: Vec<usize> = (0..MEMBERS).filter(|member| !HONEST.contains(member)).collect();
    bench.town.sign_anew(&mut frame, &liars);
    let stream = match &frame.kind {
        Some(Kind::Envelope(envelope)) => match Header::decode(&envelope.header) {
            Ok(header) => Stream::Class(header.name.flow.class),
            Err(_) => Stream::Class(Class::Normal),
        },
        _ => Stream::Control,
    };
    bench.frame(LIAR, stream, frame.clone())?;
    Ok(Some((stream, frame)))
}

/// Puts the incarnation of the running process where an input can only say "its".
fn with_its_incarnation(bench: &Bench<'_>, bytes: &[u8]) -> Vec<u8> {
    let its = bench.engine.own_hello().incarnation.to_bytes();
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while let Some(window) = bytes.get(at..at + 16) {
        if window == ITS_INCARNATION {
            bytes[at..at + 16].copy_from_slice(&its);
            at += 15;
        }
        at += 1;
    }
    bytes
}

/// An envelope sealed by a liar: 1 which liar, 2 for whom, 3 class, 4 start counter, 5 first number, 6 how many it
/// says, 7 transfer, 8 wave, 9 age, 10 lifetime, 11 hops, 12 messages, 14 a body that is none, 15 the last message's
/// body is zeros to this length.
fn mail(bench: &mut Bench<'_>, bytes: &[u8]) -> Result<Sent, Ended> {
    let fields = wire::fields_that_are(bytes);
    let number = |of| wire::number_of(&fields, of);
    let or = |of, otherwise| if fields.iter().any(|field| field.number == of) { number(of) } else { otherwise };
    let from = *[LIAR, 4, 5].get(number(1) as usize % 3).unwrap_or(&LIAR);
    let to = number(2) as usize % MEMBERS;
    let class = Class::from_wire(number(3) as u32 % 3 + 1).unwrap_or(Class::Normal);
    let counter = number(4);
    let mut flow: FlowId = bench.town.flow(from, to, class, counter);
    flow.incarnation.random = [counter as u8; 8];
    let mut items: Vec<Vec<u8>> = wire::bytes_of(&fields, 12).map(<[u8]>::to_vec).collect();
    if let Some(length) = fields.iter().any(|field| field.number == 15).then(|| number(15).min(300 * 1024) as usize) {
        lengthen(items.last_mut(), length);
    }
    let body = match wire::bytes_of(&fields, 14).next() {
        Some(noise) => noise.to_vec(),
        None => items.iter().fold(vec![7; 32], |mut body, item| {
            wire::put_varint(&mut body, item.len() as u64);
            body.extend(item);
            body
        }),
    };
    let count = or(6, items.len() as u64) as u32;
    let name = Name { flow, first: or(5, 1), count };
    let Some(sealed) = bench.town.seal(from, name, or(10, 86_400_000), &body) else { return Ok(None) };
    let envelope = bench.town.envelope_frame(from, sealed, or(7, 1));
    let kind =
        Kind::Envelope(hop::Envelope { wave: or(8, 1) as u32, age_ms: number(9), hops: number(11) as u32, ..envelope });
    let frame = hop::Frame { kind: Some(kind) };
    bench.frame(LIAR, Stream::Class(class), frame.clone())?;
    Ok(Some((Stream::Class(class), frame)))
}

fn lengthen(item: Option<&mut Vec<u8>>, length: usize) {
    let Some(item) = item else { return };
    if let Ok(read) = hop::Item::decode(item.as_slice()) {
        let mut body = read.body.to_vec();
        body.resize(length, 0);
        *item = hop::Item { body: body.into(), ..read }.encode_to_vec();
    }
}

/// What the liar says first: 1 start counter, 2 the commit it recovered, 3 nonce, 5 its clock, 6 what it continues.
fn hello_of(bench: &Bench<'_>, fields: &[Field]) -> PeerHello {
    let number = |of| wire::number_of(fields, of);
    let of = |counter: u64| Incarnation { counter, random: [counter as u8; 8] };
    PeerHello {
        incarnation: of(number(1)),
        continues: fields.iter().any(|field| field.number == 6).then(|| of(number(6))),
        durable_sequence: number(2),
        nonce: number(3),
        wall_ms: if number(5) > 0 { number(5) } else { bench.now.wall_ms },
    }
}

/// An application sends: 1 to whom, 2 how many, 3 class, 4 with an order key, 5 delay, 6 lifetime, 7 bytes of body.
fn submit(bench: &mut Bench<'_>, fields: &[Field]) -> Result<Vec<MessageId>, Ended> {
    let number = |of| wire::number_of(fields, of);
    let to = Recipient::Node(bench.town.id(number(1) as usize));
    let Ok(channel) = "orders".parse() else { return Ok(Vec::new()) };
    let message = Submission {
        to,
        channel,
        headers: Vec::new(),
        body: vec![3; number(7).min(10_000) as usize].into(),
        class: Class::from_wire(number(3) as u32 % 3 + 1).unwrap_or(Class::Normal),
        lifetime_ms: if number(6) > 0 { number(6) } else { limits::LIFETIME_MS },
        idempotency_key: None,
        order_key: (number(4) > 0).then(|| "k".to_owned()),
        delay_ms: number(5),
    };
    if message.check().is_err() {
        return Ok(Vec::new());
    }
    let count = number(2).min(40) as usize;
    let request = RequestId(bench.draw());
    bench.allow(count as u64 * 20_000);
    bench.round(vec![Input::Submitted { request, uid: 0, messages: vec![message; count] }])?;
    match bench.seen.replies.remove(&request) {
        Some(Reply::Accepted(accepted)) => Ok(accepted.into_iter().map(|accepted| accepted.id).collect()),
        _ => Ok(Vec::new()),
    }
}

fn consume(bench: &mut Bench<'_>, how: u64) -> Result<(), Ended> {
    let Ok(channel) = "orders".parse() else { return Ok(()) };
    let consumer = CONSUMER;
    bench.round(vec![
        Input::ConsumerOpened { consumer, uid: 0, channel, lease_ms: 60_000, max_deliveries: 2 },
        Input::CreditGranted { consumer, messages: 100 },
    ])?;
    let held = bench.seen.delivered.remove(&consumer).unwrap_or_default();
    let deliveries: Vec<u64> = held.iter().map(|delivery| delivery.delivery).collect();
    let mut inputs: Vec<Input> = deliveries
        .iter()
        .map(|delivery| match how % 4 {
            1 => Input::Nacked { consumer, delivery: *delivery, delay_ms: how },
            2 => Input::Refused { consumer, delivery: *delivery, reason: "no".to_owned() },
            3 => Input::BodyPartWanted { consumer, delivery: *delivery, index: (how >> 2) as u32 },
            _ => Input::Extended { consumer, delivery: *delivery, lease_ms: 5000 },
        })
        .collect();
    if how.is_multiple_of(4) {
        inputs.push(Input::Acknowledged { consumer, deliveries });
    }
    inputs.push(Input::ConsumerClosed { consumer });
    bench.round(inputs)
}

/// A store in which there is something of everything.
///
/// # Errors
/// When the members cannot be made, or the engine breaks a promise.
pub fn a_full_store() -> anyhow::Result<MemKv> {
    let mut town = Town::new()?;
    let mut script = Vec::new();
    for (to, class) in [(1, 0), (2, 1), (3, 2), (NODE as u64, 1)] {
        let fields = [(1, to), (2, 2), (3, class), (4, 1), (7, 20)].map(|(number, value)| Field::number(number, value));
        script.push(Field::bytes(step::SUBMIT, wire::encode(&fields)));
    }
    let delayed = [(1, 3), (2, 1), (5, 600_000)].map(|(number, value)| Field::number(number, value));
    script.push(Field::bytes(step::SUBMIT, wire::encode(&delayed)));
    script.extend(mails().into_iter().map(|mail| Field::bytes(step::MAIL, mail)));
    let frames = seeds::encoded(seeds::frames(&mut town));
    script.extend(frames.into_iter().map(|frame| Field::bytes(step::FRAME, frame)));
    let mut bench = Bench::start(&mut town, MemKv::default()).map_err(|ended| anyhow::anyhow!("{ended:?}"))?;
    play_on(&mut bench, &script).map_err(|ended| anyhow::anyhow!("{ended:?}"))?;
    Ok(bench.kv)
}
