//! Applications: senders that hand over what was planned and try again under their idempotency key; receivers that
//! consume, think, crash, send back and refuse. They talk to the engine as the socket does, and to nobody else.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use waypost_core::engine::effect::{Delivery, Effect, Refusal, Reply};
use waypost_core::engine::input::{ConsumerId, Input, RequestId, StreamId};
use waypost_core::id::MessageId;
use waypost_core::limits;
use waypost_core::message::{Recipient, Submission};

use crate::plan::{Manners, Send};
use crate::world::{Event, World};

/// The channel everybody uses, and where its dead letters go.
pub const CHANNELS: [&str; 2] = ["orders", "dead.orders"];

/// The header by which the oracle knows a message again: which call, which message of it.
pub const MARK: &str = "mark";

/// A call of an application, not yet answered for.
#[derive(Clone, Debug)]
pub struct Call {
    /// The request that waits for an answer from the process of today.
    pub request: Option<RequestId>,
    /// It was handed to a process at least once: whether it was accepted is open.
    pub tried: bool,
}

/// What a receiver does with a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Acknowledges it.
    Acknowledge,
    /// Sends it back.
    Nack,
    /// Refuses it for good.
    Refuse,
    /// Crashes, with all it holds.
    Crash,
}

/// A delivery whose body comes in parts.
#[derive(Clone, Debug)]
struct Gathering {
    delivery: Delivery,
    body: Vec<u8>,
}

/// The applications of a host.
#[derive(Default)]
pub struct Apps {
    /// Calls by their place in the plan.
    pub calls: BTreeMap<usize, Call>,
    /// Their requests.
    requests: BTreeMap<RequestId, usize>,
    /// Calls made again with another body under the same key.
    impostors: BTreeMap<RequestId, usize>,
    /// Questions about messages.
    pub questions: BTreeMap<RequestId, MessageId>,
    /// Open consumers with their channels.
    consumers: BTreeMap<ConsumerId, usize>,
    gathering: BTreeMap<(ConsumerId, u64), Gathering>,
    /// Deliveries the oracle was told of: which message they are.
    held: BTreeMap<(ConsumerId, u64), MessageId>,
    /// Acknowledged or refused, and not yet settled.
    settling: BTreeMap<(ConsumerId, u64), (MessageId, Fate)>,
    /// Messages asked to be cancelled.
    pub cancelled: BTreeSet<MessageId>,
    names: u64,
}

impl Apps {
    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    /// The process has ended: streams are broken, answers will not come.
    pub fn disconnect(&mut self) {
        for call in self.calls.values_mut() {
            call.request = None;
        }
        self.requests.clear();
        self.impostors.clear();
        self.questions.clear();
        self.consumers.clear();
        self.gathering.clear();
        self.held.clear();
        self.settling.clear();
    }
}

/// The bytes of a planned message, the same whenever they are asked for.
#[must_use]
pub fn body_of(call: usize, place: usize, size: usize) -> Bytes {
    let mut body = vec![0; size];
    let mut reader = blake3::Hasher::new().update(mark_of(call, place).as_bytes()).finalize_xof();
    reader.fill(&mut body);
    body.into()
}

/// The mark of a planned message.
#[must_use]
pub fn mark_of(call: usize, place: usize) -> String {
    format!("{call}.{place}")
}

impl World {
    /// An application makes a planned call, for the first time or again.
    pub fn call(&mut self, call: usize) {
        let (at_ms, send) = self.plan.work[call].clone();
        if at_ms > self.closes_ms {
            return;
        }
        let host = send.from;
        let to = self.hosts[send.to].id();
        let entry = self.hosts[host].apps.calls.entry(call).or_insert(Call { request: None, tried: false });
        if entry.request.is_some() || self.oracle.is_answered(call) {
            return;
        }
        if !self.hosts[host].is_awake(self.now_us) {
            // The socket is not there: who has a key tries again, who has none gives up unless nothing was tried.
            let tried = self.hosts[host].apps.calls[&call].tried;
            if send.keyed || !tried {
                self.after_ms(1000, Event::Call { call });
            }
            return;
        }
        let apps = &mut self.hosts[host].apps;
        let request = RequestId(apps.name());
        apps.requests.insert(request, call);
        apps.calls.insert(call, Call { request: Some(request), tried: true });
        self.oracle.tried(call, &send);
        let submissions: Vec<Submission> = (0..send.count).map(|place| submission(&send, call, place, to)).collect();
        if send.size > limits::FRAGMENT {
            self.stream_body(host, request, submissions);
        } else {
            self.input(host, Input::Submitted { request, uid: 0, messages: submissions });
        }
    }

    fn stream_body(&mut self, host: usize, request: RequestId, submissions: Vec<Submission>) {
        // A call with a large body carries one message.
        let Some(mut message) = submissions.into_iter().next() else { return };
        let body = std::mem::take(&mut message.body);
        let stream = StreamId(self.hosts[host].apps.name());
        self.input(host, Input::BodyBegun { stream, request, uid: 0, message });
        self.grow(host, stream, body);
    }

    /// An application streams the next part of a body: as fast as it can, or with pauses.
    pub fn grow(&mut self, host: usize, stream: StreamId, mut rest: Bytes) {
        while !rest.is_empty() {
            let bytes = rest.split_to(rest.len().min(limits::FRAGMENT));
            self.input(host, Input::BodyGrew { stream, bytes });
            if stream.0.is_multiple_of(2) {
                let life = self.hosts[host].life;
                let pause_ms = self.hosts[host].rng.spread(1, 60_000);
                return self.after_ms(pause_ms, Event::BodyGrows { host, life, stream, rest });
            }
        }
        self.input(host, Input::BodyEnded { stream });
    }

    /// The engine answers an application.
    pub fn replied(&mut self, host: usize, request: RequestId, reply: Reply) {
        let apps = &mut self.hosts[host].apps;
        if let Some(call) = apps.requests.remove(&request) {
            if let Some(entry) = apps.calls.get_mut(&call) {
                entry.request = None;
            }
            match reply {
                Reply::Accepted(accepted) => {
                    self.accepted(host, call, &accepted.iter().map(|it| it.id).collect::<Vec<_>>())
                }
                Reply::Refused(refusal) => self.refused(call, &refusal),
                _ => {}
            }
        } else if let Some(call) = apps.impostors.remove(&request) {
            if let Reply::Accepted(accepted) = reply {
                self.oracle.impostor(self.now_us, host, call, &accepted.iter().map(|it| it.id).collect::<Vec<_>>());
            }
        } else if let (Some(id), Reply::Trace(trace)) = (apps.questions.remove(&request), &reply) {
            self.oracle.ladder(self.now_us, host, id, trace, &mut self.seen);
        } else if let Reply::Refused(Refusal::UnknownMessage(id)) = reply {
            self.oracle.unknown(self.now_us, host, id);
        }
    }

    fn accepted(&mut self, host: usize, call: usize, ids: &[MessageId]) {
        let send = self.plan.work[call].1.clone();
        if send.keyed && send.size <= limits::FRAGMENT && call % 4 == 1 && !self.oracle.is_answered(call) {
            let after_ms = self.hosts[host].rng.spread(100, 600_000);
            self.after_ms(after_ms, Event::Repeat { call });
        }
        self.story.tell(format_args!("{host} accepted call {call} for {}: {ids:?}", send.to));
        self.oracle.accepted(self.now_us, call, &send, ids, &self.hosts[host].disk);
        if send.keyed && send.count == 1 && send.size <= limits::FRAGMENT && call.is_multiple_of(4) {
            self.reuse_key(host, call, &send);
        }
        if let Some(after_ms) = send.cancel_after_ms {
            self.after_ms(after_ms, Event::Cancel { host, ids: ids.to_vec() });
        }
    }

    /// An application that did not see its answer makes the same call again under the same key.
    pub fn repeat(&mut self, call: usize) {
        let send = self.plan.work[call].1.clone();
        let to = self.hosts[send.to].id();
        if self.hosts[send.from].is_awake(self.now_us) {
            let apps = &mut self.hosts[send.from].apps;
            let request = RequestId(apps.name());
            apps.requests.insert(request, call);
            let messages = (0..send.count).map(|place| submission(&send, call, place, to)).collect();
            self.input(send.from, Input::Submitted { request, uid: 0, messages });
        }
    }

    /// An application errs: another request under a key that was used.
    fn reuse_key(&mut self, host: usize, call: usize, send: &Send) {
        let to = self.hosts[send.to].id();
        let mut message = submission(send, call, 0, to);
        message.body = Bytes::from_static(b"something else under the same key");
        let apps = &mut self.hosts[host].apps;
        let request = RequestId(apps.name());
        apps.impostors.insert(request, call);
        self.input(host, Input::Submitted { request, uid: 0, messages: vec![message] });
    }

    fn refused(&mut self, call: usize, refusal: &Refusal) {
        self.story.tell(format_args!("call {call} refused: {refusal}"));
        match refusal {
            Refusal::OutboxFull { retry_after_ms, .. }
            | Refusal::TooMany { retry_after_ms, .. }
            | Refusal::DiskFull { retry_after_ms, .. } => {
                let disk = matches!(refusal, Refusal::DiskFull { .. });
                self.seen.see(if disk { "refused: no space for new mail" } else { "outbox full" });
                self.oracle.not_accepted(call);
                self.after_ms((*retry_after_ms).clamp(1000, 60_000), Event::Call { call });
            }
            _ => self.oracle.not_accepted(call),
        }
    }

    /// Applications ask to cancel.
    pub fn cancel(&mut self, host: usize, ids: Vec<MessageId>) {
        let now_us = self.now_us;
        let this = &mut self.hosts[host];
        if !this.is_awake(now_us) {
            return;
        }
        let request = RequestId(this.apps.name());
        this.apps.cancelled.extend(&ids);
        self.oracle.cancel_asked(&ids);
        self.input(host, Input::CancelAsked { request, ids });
    }

    /// Senders ask for every message that has not come to its end.
    pub fn ask(&mut self, host: usize) {
        let now_us = self.now_us;
        if !self.hosts[host].is_awake(now_us) {
            return;
        }
        for id in self.oracle.asked_about(host) {
            let apps = &mut self.hosts[host].apps;
            let request = RequestId(apps.name());
            apps.questions.insert(request, id);
            self.input(host, Input::TraceAsked { request, id, wait: None });
        }
    }

    /// Receivers come.
    pub fn consume(&mut self, host: usize, channel: usize) {
        let manners = self.manners();
        let apps = &mut self.hosts[host].apps;
        if apps.consumers.values().any(|of| *of == channel) {
            return;
        }
        let consumer = ConsumerId(apps.name());
        let Ok(name) = CHANNELS[channel].parse() else { return };
        apps.consumers.insert(consumer, channel);
        let max_deliveries = if channel == 0 { manners.max_deliveries } else { 0 };
        let opened =
            Input::ConsumerOpened { consumer, uid: 0, channel: name, lease_ms: limits::LEASE_MS, max_deliveries };
        self.input(host, opened);
        self.input(host, Input::CreditGranted { consumer, messages: manners.credit });
    }

    /// How receivers behave now: kindly, once nothing goes wrong any more.
    pub fn manners(&self) -> Manners {
        let manners = self.plan.manners;
        if self.healed {
            let think_ms = (0, manners.think_ms.1.min(1000));
            return Manners {
                think_ms,
                crash_per_mille: 0,
                nack_per_mille: 0,
                refuse_per_mille: 0,
                max_deliveries: 0,
                ..manners
            };
        }
        manners
    }

    /// Messages are handed to a receiver.
    pub fn handed(&mut self, host: usize, consumer: ConsumerId, deliveries: Vec<Delivery>) {
        if !self.hosts[host].apps.consumers.contains_key(&consumer) {
            return;
        }
        for delivery in deliveries {
            if delivery.fragments > 1 {
                let name = delivery.delivery;
                let gathering = Gathering { delivery, body: Vec::new() };
                self.hosts[host].apps.gathering.insert((consumer, name), gathering);
                self.input(host, Input::BodyPartWanted { consumer, delivery: name, index: 0 });
            } else {
                self.has_whole(host, consumer, delivery);
            }
        }
    }

    /// A part of a body is handed to a receiver.
    pub fn part(&mut self, host: usize, consumer: ConsumerId, name: u64, index: u32, bytes: Option<Bytes>) {
        let apps = &mut self.hosts[host].apps;
        let Some(mut gathering) = apps.gathering.remove(&(consumer, name)) else { return };
        // No bytes: the delivery is no longer this receiver's.
        let Some(bytes) = bytes else { return };
        gathering.body.extend_from_slice(&bytes);
        if index + 1 < gathering.delivery.fragments {
            apps.gathering.insert((consumer, name), gathering);
            self.input(host, Input::BodyPartWanted { consumer, delivery: name, index: index + 1 });
        } else {
            let mut delivery = gathering.delivery;
            delivery.body = gathering.body.into();
            self.has_whole(host, consumer, delivery);
        }
    }

    fn has_whole(&mut self, host: usize, consumer: ConsumerId, delivery: Delivery) {
        let channel = self.hosts[host].apps.consumers.get(&consumer).copied().unwrap_or_default();
        self.story.tell(format_args!("{host} hands out {} (time {})", delivery.id, delivery.deliveries));
        self.oracle.delivered(self.now_us, host, channel, &delivery, &mut self.seen);
        self.oracle.in_turn(self.now_us, host, &delivery, &self.hosts[host].disk);
        let manners = self.manners();
        let this = &mut self.hosts[host];
        this.apps.held.insert((consumer, delivery.delivery), delivery.id);
        let draw = this.rng.below(1000);
        let (nack, refuse) = (manners.crash_per_mille + manners.nack_per_mille, manners.refuse_per_mille);
        let fate = if draw < manners.crash_per_mille {
            Fate::Crash
        } else if draw < nack {
            Fate::Nack
        } else if draw < nack + refuse {
            Fate::Refuse
        } else {
            Fate::Acknowledge
        };
        let think_ms = this.rng.range(manners.think_ms.0, manners.think_ms.1);
        let life = this.life;
        self.after_ms(think_ms, Event::Thought { host, life, consumer, delivery: delivery.delivery, fate });
    }

    /// A receiver has made up its mind.
    pub fn thought(&mut self, host: usize, consumer: ConsumerId, name: u64, fate: Fate) {
        let apps = &mut self.hosts[host].apps;
        let (Some(channel), Some(id)) = (apps.consumers.get(&consumer).copied(), apps.held.remove(&(consumer, name)))
        else {
            return;
        };
        match fate {
            Fate::Acknowledge => {
                apps.settling.insert((consumer, name), (id, fate));
                self.input(host, Input::Acknowledged { consumer, deliveries: vec![name] });
            }
            Fate::Refuse => {
                apps.settling.insert((consumer, name), (id, fate));
                self.input(host, Input::Refused { consumer, delivery: name, reason: "no".to_owned() });
            }
            Fate::Nack => self.input(host, Input::Nacked { consumer, delivery: name, delay_ms: 500 }),
            Fate::Crash => {
                apps.consumers.remove(&consumer);
                apps.held.retain(|(of, _), _| *of != consumer);
                apps.gathering.retain(|(of, _), _| *of != consumer);
                self.input(host, Input::ConsumerClosed { consumer });
                let life = self.hosts[host].life;
                self.after_ms(700, Event::Consume { host, life, channel });
                return;
            }
        }
        self.input(host, Input::CreditGranted { consumer, messages: 1 });
    }

    /// Settlements are durable.
    pub fn settled(&mut self, host: usize, consumer: ConsumerId, deliveries: &[u64]) {
        for name in deliveries {
            if let Some((id, fate)) = self.hosts[host].apps.settling.remove(&(consumer, *name)) {
                self.oracle.settled(self.now_us, host, id, fate == Fate::Refuse);
            }
        }
    }

    /// Carries out what is for applications.
    pub fn for_applications(&mut self, host: usize, effect: Effect) {
        match effect {
            Effect::Reply { request, reply } => self.replied(host, request, reply),
            Effect::Deliver { consumer, deliveries } => self.handed(host, consumer, deliveries),
            Effect::BodyPart { consumer, delivery, index, bytes } => self.part(host, consumer, delivery, index, bytes),
            Effect::Settled { consumer, deliveries } => self.settled(host, consumer, &deliveries),
            Effect::EndConsumer { consumer, .. } => {
                self.hosts[host].apps.consumers.remove(&consumer);
            }
            _ => {}
        }
    }
}

fn submission(send: &Send, call: usize, place: usize, to: waypost_core::id::NodeId) -> Submission {
    // A channel's name that is a constant is one.
    let channel = CHANNELS[0].parse().unwrap_or_else(|_| unreachable!("a constant"));
    Submission {
        to: Recipient::Node(to),
        channel,
        headers: vec![(MARK.to_owned(), mark_of(call, place))],
        body: body_of(call, place, send.size),
        class: send.class,
        lifetime_ms: send.lifetime_ms,
        idempotency_key: send.keyed.then(|| format!("{call}.{place}")),
        order_key: send.ordered.then(|| "one".to_owned()),
        delay_ms: send.delay_ms,
    }
}
