//! A post office of one host in memory, behind the real socket: answers inputs the way the engine promises to, and
//! remembers what it was told. Delivers to itself, whoever a message is for.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use waypost::api::wire::waypost_client::WaypostClient;
use waypost::api::{self, Api, NodeInfo};
use waypost::config::SocketConfig;
use waypost::inputs::Inputs;
use waypost_core::engine::effect::{Accepted, Delivery, Effect, Peer, Refusal, Reply, Route, Rung, Status, Trace};
use waypost_core::engine::input::{ConsumerId, Input, Level, RequestId, StreamId};
use waypost_core::id::{Class, MessageId, NodeId};
use waypost_core::limits::FRAGMENT;
use waypost_core::message::{NodeName, Recipient, Submission};

/// This host's address.
pub const HERE: NodeId = NodeId([7; 32]);

/// A running socket with the pretended engine behind it.
pub struct Office {
    pub api: Api,
    pub socket: PathBuf,
    /// Every input in short, in order.
    pub told: Arc<Mutex<Vec<String>>>,
    _dir: tempfile::TempDir,
}

impl Office {
    /// Opens it in a directory of its own.
    pub fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("w.sock");
        let (inputs, queue) = Inputs::new();
        let info = NodeInfo {
            version: "9.9.9".to_owned(),
            started: Instant::now(),
            space: Arc::new(|| (1 << 20, 2 << 20)),
            damage: None,
        };
        let at = SocketConfig { path: socket.clone(), mode: 0o600, gid: None };
        let api = api::start(&at, inputs.clone(), info).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let engine = Engine { inputs, api: api.clone(), told: told.clone(), state: State::default() };
        tokio::spawn(engine.run(queue));
        Self { api, socket, told, _dir: dir }
    }

    /// A client of it.
    pub async fn client(&self) -> WaypostClient<Channel> {
        let socket = self.socket.clone();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connect).await.unwrap();
        WaypostClient::new(channel).max_decoding_message_size(8 << 20).max_encoding_message_size(8 << 20)
    }

    /// How many inputs began like this.
    pub fn count(&self, beginning: &str) -> usize {
        self.told.lock().unwrap().iter().filter(|told| told.starts_with(beginning)).count()
    }

    /// Waits until an input began like this.
    pub async fn until_told(&self, beginning: &str) {
        self.until_told_times(beginning, 1).await;
    }

    /// Waits until so many inputs began like this.
    pub async fn until_told_times(&self, beginning: &str, times: usize) {
        for _ in 0..1000 {
            if self.count(beginning) >= times {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("not told {beginning} {times} times: {:?}", self.told.lock().unwrap());
    }
}

#[derive(Clone)]
struct Mail {
    id: MessageId,
    channel: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    deliveries: u32,
}

struct Consumer {
    channel: String,
    credit: u32,
    max_deliveries: u32,
    held: BTreeMap<u64, Mail>,
}

struct Engine {
    inputs: Inputs,
    api: Api,
    told: Arc<Mutex<Vec<String>>>,
    state: State,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Mail>,
    consumers: BTreeMap<ConsumerId, Consumer>,
    bodies: BTreeMap<StreamId, (RequestId, Submission, Vec<u8>)>,
    waiters: BTreeMap<RequestId, MessageId>,
    keys: BTreeMap<String, MessageId>,
    drawn: u64,
}

impl Engine {
    async fn run(mut self, mut queue: mpsc::Receiver<Input>) {
        while let Some(input) = queue.recv().await {
            let short = match &input {
                Input::BodyGrew { bytes, .. } => format!("BodyGrew {}", bytes.len()),
                Input::Nacked { delay_ms, .. } => format!("Nacked {delay_ms}"),
                other => format!("{other:?}").chars().take(200).collect(),
            };
            self.told.lock().unwrap().push(short);
            self.step(input);
            self.deliver();
        }
    }

    fn step(&mut self, input: Input) {
        match input {
            Input::Submitted { request, messages, .. } => self.submitted(request, messages),
            Input::BodyBegun { stream, request, message, .. } => self.begun(stream, request, message),
            Input::BodyGrew { stream, bytes } => {
                if let Some((.., body)) = self.state.bodies.get_mut(&stream) {
                    body.extend_from_slice(&bytes);
                    self.api.carry_out(Effect::Staged { stream });
                }
            }
            Input::BodyEnded { stream } => {
                let (request, message, body) = self.state.bodies.remove(&stream).unwrap();
                self.submitted(request, vec![Submission { body: body.into(), ..message }]);
            }
            Input::BodyAbandoned { stream } => drop(self.state.bodies.remove(&stream)),
            Input::ConsumerOpened { consumer, channel, max_deliveries, .. } => {
                let held = BTreeMap::new();
                let open = Consumer { channel: channel.to_string(), credit: 0, max_deliveries, held };
                self.state.consumers.insert(consumer, open);
            }
            Input::CreditGranted { consumer, messages } => {
                self.state.consumers.get_mut(&consumer).unwrap().credit += messages;
            }
            Input::Acknowledged { consumer, deliveries } => self.settle(consumer, deliveries, false),
            Input::Nacked { consumer, delivery, .. } => self.settle(consumer, vec![delivery], true),
            Input::Refused { consumer, delivery, .. } => self.settle(consumer, vec![delivery], false),
            Input::BodyPartWanted { consumer, delivery, index } => self.part(consumer, delivery, index),
            Input::ConsumerClosed { consumer } => {
                let closed = self.state.consumers.remove(&consumer);
                self.state.waiting.extend(closed.into_iter().flat_map(|closed| closed.held.into_values()));
            }
            other => self.asked(other),
        }
    }

    fn submitted(&mut self, request: RequestId, messages: Vec<Submission>) {
        let refusal = messages.iter().find_map(|message| match &message.to {
            Recipient::Named(name) => refusal_of(name),
            Recipient::Node(_) => None,
        });
        if let Some(refusal) = refusal {
            return self.inputs.answer(request, Reply::Refused(refusal));
        }
        let accepted = messages.into_iter().map(|message| self.accept(message)).collect();
        self.inputs.answer(request, Reply::Accepted(accepted));
    }

    fn accept(&mut self, message: Submission) -> Accepted {
        let known = message.idempotency_key.as_ref().and_then(|key| self.state.keys.get(key).copied());
        if let Some(id) = known {
            return Accepted { id, to: HERE, repeated: true };
        }
        self.state.drawn += 1;
        let id = MessageId::new(1_764_000_000_000, u128::from(self.state.drawn).to_be_bytes()[6..].try_into().unwrap());
        self.state.keys.extend(message.idempotency_key.map(|key| (key, id)));
        let (channel, headers, body) = (message.channel.to_string(), message.headers, message.body);
        self.state.waiting.push_back(Mail { id, channel, headers, body, deliveries: 0 });
        Accepted { id, to: HERE, repeated: false }
    }

    fn begun(&mut self, stream: StreamId, request: RequestId, message: Submission) {
        match &message.to {
            Recipient::Named(name) if refusal_of(name).is_some() => self.submitted(request, vec![message]),
            _ => drop(self.state.bodies.insert(stream, (request, message, Vec::new()))),
        }
    }

    fn settle(&mut self, consumer: ConsumerId, deliveries: Vec<u64>, again: bool) {
        let open = self.state.consumers.get_mut(&consumer).unwrap();
        for delivery in &deliveries {
            let Some(mail) = open.held.remove(delivery) else { continue };
            let dead = open.max_deliveries > 0 && mail.deliveries >= open.max_deliveries;
            if again && !dead {
                self.state.waiting.push_back(mail);
            }
        }
        self.api.carry_out(Effect::Settled { consumer, deliveries });
    }

    fn part(&mut self, consumer: ConsumerId, delivery: u64, index: u32) {
        let held = &self.state.consumers[&consumer].held;
        let from = index as usize * FRAGMENT;
        let bytes = held.get(&delivery).map(|mail| mail.body.slice(from..mail.body.len().min(from + FRAGMENT)));
        self.api.carry_out(Effect::BodyPart { consumer, delivery, index, bytes });
    }

    fn deliver(&mut self) {
        for (name, consumer) in &mut self.state.consumers {
            let mut deliveries = Vec::new();
            while consumer.credit > 0 {
                let wanted = |mail: &Mail| mail.channel == consumer.channel;
                let Some(at) = self.state.waiting.iter().position(wanted) else { break };
                let mut mail = self.state.waiting.remove(at).unwrap();
                mail.deliveries += 1;
                consumer.credit -= 1;
                self.state.drawn += 1;
                deliveries.push(delivery(self.state.drawn, &mail));
                consumer.held.insert(self.state.drawn, mail);
            }
            if !deliveries.is_empty() {
                self.api.carry_out(Effect::Deliver { consumer: *name, deliveries });
            }
        }
    }

    fn asked(&mut self, input: Input) {
        let (request, reply) = match input {
            Input::TraceAsked { request, id, wait: Some(Level::Consumed) } => {
                self.state.waiters.insert(request, id);
                return;
            }
            Input::TraceAsked { request, id, wait } => (request, Reply::Trace(Box::new(trace(id, wait.is_some())))),
            Input::WaitEnded { request } => match self.state.waiters.remove(&request) {
                Some(id) => (request, Reply::Trace(Box::new(trace(id, false)))),
                None => return,
            },
            Input::CancelAsked { request, ids } => {
                (request, Reply::Cancelled(ids.into_iter().map(|id| (id, "cancelled".to_owned())).collect()))
            }
            Input::StatusAsked { request } => (request, Reply::Status(Box::new(status()))),
            Input::PeersAsked { request } => {
                let peer = Peer { node: HERE, name: "b".into(), connected: true, transport: "quic", rtt_us: 1500 };
                (request, Reply::Peers(vec![peer]))
            }
            Input::RoutesAsked { request, .. } => {
                let route = Route { to: HERE, name: String::new(), next: None, expected_delay_ms: None, waiting: 3 };
                (request, Reply::Routes(vec![route]))
            }
            Input::InviteAsked { request, .. } => (request, Reply::Refused(Refusal::NotAdmitted)),
            _ => return,
        };
        self.inputs.answer(request, reply);
    }
}

fn refusal_of(name: &NodeName) -> Option<Refusal> {
    match name.as_str() {
        "nobody" => Some(Refusal::UnknownName("nobody".into())),
        "full" => Some(Refusal::OutboxFull { used: 2, limit: 1, unit: "bytes", retry_after_ms: 300 }),
        "reused" => Some(Refusal::KeyReused("k".into())),
        _ => None,
    }
}

fn delivery(delivery: u64, mail: &Mail) -> Delivery {
    let fragments = u32::try_from(mail.body.len().div_ceil(FRAGMENT)).unwrap();
    Delivery {
        delivery,
        id: mail.id,
        from: HERE,
        deliveries: mail.deliveries,
        sent_at_ms: 1_764_000_000_007,
        headers: mail.headers.clone(),
        body: if fragments > 1 { Bytes::new() } else { mail.body.clone() },
        size: mail.body.len() as u64,
        fragments,
    }
}

fn trace(id: MessageId, reached: bool) -> Trace {
    let rung = |state: &str| Rung { state: state.to_owned(), at_ms: 1_764_000_000_007, by: Some(HERE) };
    let mut ladder = vec![rung("accepted")];
    ladder.extend(reached.then(|| rung("delivered")));
    Trace {
        id,
        from: HERE,
        to: HERE,
        channel: "jobs".into(),
        class: Class::Normal,
        state: if reached { "delivered" } else { "accepted" }.into(),
        ladder,
        custody: Vec::new(),
        reached,
        ended: reached,
    }
}

fn status() -> Status {
    Status {
        address: HERE,
        name: "here".into(),
        network: "net".into(),
        listen: vec!["/ip4/127.0.0.1/tcp/1".into()],
        outbox: (1, 2),
        inbox: (3, 4),
        transit: (5, 6),
        standby: 1,
        peers: 1,
        durable_sequence: 17,
        disk_full: false,
        alarms: Vec::new(),
    }
}
