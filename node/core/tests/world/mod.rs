//! A few engines in one thread: real stores in memory, real seals and signatures, frames carried by hand in order.
//! Connections are made and cut, nodes are killed and started again; nothing here decides what they do.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a harness of tests: each file uses its part, and what fails fails the test"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use waypost_core::engine::effect::{Accepted, Delivery, Effect, Reply, Status, Stream, Trace};
use waypost_core::engine::input::{ConsumerId, Input, Level, PeerHello, RequestId, SessionId, StreamId};
use waypost_core::engine::{Engine, Identity};
use waypost_core::hop::decode::{Decoded, Decoder, FrameError};
use waypost_core::id::{Class, MessageId, NetworkId, NodeId};
use waypost_core::limits;
use waypost_core::message::{Recipient, Submission};
use waypost_core::policy::Policy;
use waypost_core::store::kv::{Batch, Kv, Pair, StoreError, Table};
use waypost_core::store::mem::MemKv;
use waypost_core::store::tx::{Tx, commit};
use waypost_core::time::Now;
use waypost_core::trust::{NodeKey, Roots, Roster, found, membership};
use waypost_proto::hop;

/// A node: its disk, and its engine while it runs.
pub struct Host {
    pub key: NodeKey,
    pub kv: MemKv,
    /// Rows that cannot be read: their blocks' checksums do not match.
    pub rotten: BTreeSet<(Table, Vec<u8>)>,
    pub engine: Option<Engine>,
    pub policy: Policy,
    chain: Vec<hop::Signed>,
    roster: Mutex<Roster>,
    roots: Mutex<Roots>,
    /// What applications here were handed, by consumer.
    pub deliveries: BTreeMap<ConsumerId, Vec<Delivery>>,
    pub parts: Vec<(u64, u32, Option<Bytes>)>,
    pub settled: BTreeSet<u64>,
    pub replies: BTreeMap<RequestId, Reply>,
    /// Why it stopped for good, by itself.
    pub stopped: Option<String>,
    /// What its owner was told.
    pub alarms: Vec<String>,
    /// The disk, and the seed of its randomness, at its last start: for a twin.
    born: (MemKv, [u8; 32]),
}

/// What an engine reads: a disk with bad blocks. Deleting a row needs no reading.
struct Disk<'a> {
    kv: &'a MemKv,
    rotten: &'a BTreeSet<(Table, Vec<u8>)>,
}

impl Disk<'_> {
    fn check(&self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        if self.rotten.contains(&(table, key.to_vec())) && self.kv.get(table, key)?.is_some() {
            return Err(StoreError::Damaged { table, why: "its block's checksum does not match".to_owned() });
        }
        Ok(())
    }
}

impl Kv for Disk<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.check(table, key)?;
        self.kv.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        let found = self.kv.scan(table, from, to, limit)?;
        found.iter().try_for_each(|(key, _)| self.check(table, key))?;
        Ok(found)
    }

    fn commit(&mut self, _: Batch) -> Result<(), StoreError> {
        Err(StoreError::Failed("this is for reading".to_owned()))
    }
}

/// Hosts and the frames between them.
pub struct World {
    pub network: NetworkId,
    pub hosts: Vec<Host>,
    pub now: Now,
    rng: ChaCha20Rng,
    next: u64,
    sessions: BTreeMap<(usize, usize), SessionId>,
    wire: VecDeque<(usize, usize, SessionId, Stream, Box<hop::Frame>)>,
    /// Frames carried, by kind, for tests that count.
    pub carried: BTreeMap<&'static str, u64>,
    /// Frames carried: from, to, what; for tests that read them.
    pub log: Vec<(usize, usize, hop::Frame)>,
    /// Whether a frame that does not decode is dropped, as a connection would be, and not the end of the test.
    pub tolerant: bool,
    /// Connections a host ended of its own accord, and why.
    pub disconnects: Vec<(usize, &'static str)>,
}

impl World {
    /// `count` members of one network, not connected; the first founded it and certified the others.
    pub fn new(count: usize, seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let keys: Vec<NodeKey> = (0..count).map(|_| NodeKey::draw(&mut rng)).collect();
        let founding = found(&mut rng, keys[0].id(), 1_000_000);
        let mut world = Self {
            network: founding.network,
            hosts: Vec::new(),
            now: Now { boot_ms: 1000, boot_id: [1; 16], wall_ms: 2_000_000 },
            rng,
            next: 1,
            sessions: BTreeMap::new(),
            wire: VecDeque::new(),
            carried: BTreeMap::new(),
            log: Vec::new(),
            tolerant: false,
            disconnects: Vec::new(),
        };
        let mut founder = Roster::new(founding.network);
        founder.admit_chain(keys[0].id(), std::slice::from_ref(&founding.certificate)).unwrap();
        for key in keys {
            let chain =
                if world.hosts.is_empty() { vec![founding.certificate.clone()] } else { world.admit(&founder, &key) };
            let host = Host {
                chain,
                kv: MemKv::default(),
                rotten: BTreeSet::new(),
                engine: None,
                policy: Policy::default(),
                roster: Mutex::new(Roster::new(founding.network)),
                roots: Mutex::new(Roots::default()),
                deliveries: BTreeMap::new(),
                parts: Vec::new(),
                settled: BTreeSet::new(),
                replies: BTreeMap::new(),
                alarms: Vec::new(),
                stopped: None,
                born: Default::default(),
                key,
            };
            world.hosts.push(host);
        }
        for host in 0..count {
            world.start(host);
        }
        world
    }

    fn admit(&mut self, roster: &Roster, key: &NodeKey) -> Vec<hop::Signed> {
        let clock = membership::AdmissionClock { now_ms: 1_500_000, build_ms: 0, highest_stored_ms: 0 };
        let founder = &self.hosts[0];
        let member = roster.member(&founder.key.id()).unwrap();
        let terms = membership::Terms { once: false, lifetime_ms: 1_000_000 };
        let secret = NodeKey::draw(&mut self.rng);
        let token = membership::Token::issue(&founder.key, member, terms, clock, secret, &[]).unwrap();
        let admissible = membership::examine(member, roster, &token.join(key), key.id(), clock).unwrap();
        admissible.certify(&founder.key, None).unwrap().chain
    }

    pub fn id(&self, host: usize) -> NodeId {
        self.hosts[host].key.id()
    }

    pub fn chain(&self, host: usize) -> Vec<hop::Signed> {
        self.hosts[host].chain.clone()
    }

    /// Starts a host over what its disk holds.
    pub fn start(&mut self, host: usize) {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        self.start_with(host, seed);
    }

    fn start_with(&mut self, host: usize, seed: [u8; 32]) {
        let this = &mut self.hosts[host];
        this.born = (this.kv.clone(), seed);
        let key = NodeKey::from_seed(&this.key.seed());
        let identity = Identity { key, network: self.network, chain: this.chain.clone(), proofs: Arc::default(), seed };
        let disk = Disk { kv: &this.kv, rotten: &this.rotten };
        let (engine, outcome) = Engine::recover(identity, this.policy.clone(), &disk, self.now).unwrap();
        commit(&mut this.kv, outcome).unwrap();
        this.engine = Some(engine);
        this.roster = Mutex::new(Roster::new(self.network));
        this.roots = Mutex::new(Roots::default());
        this.deliveries.clear();
    }

    /// Another machine resumed from a snapshot of a host taken right after its last start: same key, same disk, same
    /// incarnation, same randomness. Returns its number.
    pub fn clone_of(&mut self, host: usize) -> usize {
        let (kv, seed) = self.hosts[host].born.clone();
        let twin = self.copy_of(host, kv);
        self.start_with(twin, seed);
        twin
    }

    /// A host with the same key on another disk, not started.
    pub fn copy_of(&mut self, host: usize, kv: MemKv) -> usize {
        let this = &self.hosts[host];
        let copy = Host {
            key: NodeKey::from_seed(&this.key.seed()),
            kv,
            rotten: BTreeSet::new(),
            engine: None,
            policy: this.policy.clone(),
            chain: this.chain.clone(),
            roster: Mutex::new(Roster::new(self.network)),
            roots: Mutex::new(Roots::default()),
            deliveries: BTreeMap::new(),
            parts: Vec::new(),
            settled: BTreeSet::new(),
            replies: BTreeMap::new(),
            alarms: Vec::new(),
            stopped: None,
            born: Default::default(),
        };
        self.hosts.push(copy);
        self.hosts.len() - 1
    }

    /// Ends a host at once, between two commits. Its neighbours notice.
    pub fn kill(&mut self, host: usize) {
        self.hosts[host].engine = None;
        for other in 0..self.hosts.len() {
            self.cut(host, other);
        }
    }

    pub fn connect(&mut self, a: usize, b: usize) {
        let session = SessionId(self.draw());
        self.sessions.insert((a.min(b), a.max(b)), session);
        for (one, other) in [(a, b), (b, a)] {
            let hello = self.hosts[other].engine.as_ref().unwrap().own_hello().clone();
            let chain = self.hosts[other].chain.clone();
            let peer = self.id(other);
            self.hosts[one].roster.lock().unwrap().admit_chain(peer, &chain).unwrap();
            self.input(one, Input::ChainLearned { subject: peer, chain });
            let hello = PeerHello {
                incarnation: hello.incarnation,
                continues: hello.continues,
                durable_sequence: hello.durable_sequence,
                nonce: hello.nonce,
                wall_ms: self.now.wall_ms,
            };
            let (transport, address) = ("tcp", String::new());
            self.input(one, Input::PeerConnected { peer, session, hello, transport, address });
        }
    }

    /// Cuts a connection: what was on the wire is lost.
    pub fn cut(&mut self, a: usize, b: usize) {
        let Some(session) = self.sessions.remove(&(a.min(b), a.max(b))) else { return };
        self.wire.retain(|(_, _, of, _, _)| *of != session);
        for (one, other) in [(a, b), (b, a)] {
            let peer = self.id(other);
            if self.hosts[one].engine.is_some() {
                self.input(one, Input::PeerLost { peer, session });
            }
        }
    }

    pub fn draw(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// One round of a host with one input.
    pub fn input(&mut self, host: usize, input: Input) {
        self.round(host, vec![input]);
    }

    /// One round of a host.
    pub fn round(&mut self, host: usize, inputs: Vec<Input>) {
        let now = self.now;
        let this = &mut self.hosts[host];
        let Some(engine) = this.engine.as_mut() else { return };
        let disk = Disk { kv: &this.kv, rotten: &this.rotten };
        let mut tx = Tx::new(&disk);
        for input in inputs {
            engine.step(input, now, &mut tx).unwrap();
        }
        engine.flush(now, &mut tx).unwrap();
        let mut outcome = tx.finish();
        let mut effects = outcome.take_hints();
        effects.extend(commit(&mut this.kv, outcome).unwrap());
        for effect in effects {
            self.carry_out(host, effect);
        }
    }

    fn carry_out(&mut self, host: usize, effect: Effect) {
        let this = &mut self.hosts[host];
        match effect {
            Effect::Send { peer, session, stream, frame } => {
                // By the session, not by the key: hosts may share one.
                let ends = self.sessions.iter().find(|(_, of)| **of == session).map(|(ends, _)| *ends);
                if let Some((a, b)) = ends {
                    let to = if a == host { b } else { a };
                    assert_eq!(self.hosts[to].key.id(), peer);
                    self.wire.push_back((host, to, session, stream, frame));
                }
            }
            Effect::Reply { request, reply } => {
                this.replies.insert(request, reply);
            }
            Effect::Deliver { consumer, deliveries } => this.deliveries.entry(consumer).or_default().extend(deliveries),
            Effect::BodyPart { delivery, index, bytes, .. } => this.parts.push((delivery, index, bytes)),
            Effect::Settled { deliveries, .. } => this.settled.extend(deliveries),
            Effect::Disconnect { why, .. } => self.disconnects.push((host, why)),
            Effect::Staged { .. } | Effect::Certify { .. } | Effect::Renew { .. } => {}
            Effect::RaiseAlarm { why } => this.alarms.push(why),
            Effect::EndConsumer { refusal, .. } => panic!("{refusal}"),
            Effect::Stop { why } => {
                this.engine = None;
                this.stopped = Some(why);
            }
        }
    }

    /// Carries one frame. Returns whether there was one.
    pub fn carry(&mut self) -> bool {
        let Some((from, to, session, stream, frame)) = self.wire.pop_front() else { return false };
        let kind = kind_of(&frame);
        *self.carried.entry(kind).or_default() += 1;
        self.log.push((from, to, (*frame).clone()));
        let decoded = match self.decode(to, *frame, stream) {
            Ok(decoded) => decoded,
            Err(_) if self.tolerant => return true,
            Err(error) => panic!("{kind} refused: {error}"),
        };
        let peer = self.id(from);
        let learned = decoded.learned.into_iter().map(|(subject, chain)| Input::ChainLearned { subject, chain });
        let mut inputs: Vec<Input> = learned.collect();
        inputs.extend(decoded.frame.map(|frame| Input::FrameArrived { peer, session, frame: Box::new(frame) }));
        self.round(to, inputs);
        true
    }

    /// Carries all frames on their way to a host in one round.
    pub fn carry_together(&mut self, to: usize) {
        let (here, others) = std::mem::take(&mut self.wire).into_iter().partition(|(_, at, ..)| *at == to);
        self.wire = others;
        let here: VecDeque<_> = here;
        let mut inputs = Vec::new();
        for (from, _, session, stream, frame) in here {
            let peer = self.id(from);
            let frame = self.decode(to, *frame, stream).unwrap().frame;
            inputs.extend(frame.map(|frame| Input::FrameArrived { peer, session, frame: Box::new(frame) }));
        }
        self.round(to, inputs);
    }

    /// What a host makes of a frame.
    pub fn decode(&self, host: usize, frame: hop::Frame, stream: Stream) -> Result<Decoded, FrameError> {
        let this = &self.hosts[host];
        let decoder = Decoder { key: &this.key, network: self.network, roster: &this.roster, roots: &this.roots };
        decoder.decode(frame, stream)
    }

    /// Frames not carried yet: from, to, what.
    pub fn on_wire(&self) -> impl Iterator<Item = (usize, usize, &hop::Frame)> {
        self.wire.iter().map(|(from, to, _, _, frame)| (*from, *to, &**frame))
    }

    /// Keeps of the frames on the wire those that `keep` says, changed as it likes: from, to, frame.
    pub fn tamper(&mut self, mut keep: impl FnMut(usize, usize, &mut hop::Frame) -> bool) {
        self.wire.retain_mut(|(from, to, _, _, frame)| keep(*from, *to, frame));
    }

    /// Puts a frame on the wire that no honest engine sent.
    pub fn inject(&mut self, from: usize, to: usize, stream: Stream, kind: hop::frame::Kind) {
        let session = self.sessions[&(from.min(to), from.max(to))];
        self.wire.push_back((from, to, session, stream, Box::new(hop::Frame { kind: Some(kind) })));
    }

    /// How many frames of a kind were carried.
    pub fn count(&self, kind: &str) -> u64 {
        self.carried.get(kind).copied().unwrap_or(0)
    }

    /// Carries frames and rings timers that are due now, until nothing moves.
    pub fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if self.carry() {
                continue;
            }
            let due = |host: &Host| host.engine.as_ref().and_then(Engine::next_wake);
            let ringing: Vec<usize> = (0..self.hosts.len())
                .filter(|host| due(&self.hosts[*host]).is_some_and(|at| at <= self.now.boot_ms))
                .collect();
            if ringing.is_empty() {
                return;
            }
            for host in ringing {
                self.input(host, Input::Ticked);
            }
        }
        panic!("the world does not come to rest");
    }

    /// Lets time pass in steps, settling after each.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now.boot_ms + ms;
        while self.now.boot_ms < end {
            self.settle();
            let wakes = self.hosts.iter().filter_map(|host| host.engine.as_ref()?.next_wake());
            let next = wakes.filter(|at| *at > self.now.boot_ms).min().unwrap_or(end).min(end);
            self.now.wall_ms += next - self.now.boot_ms;
            self.now.boot_ms = next;
        }
        self.settle();
    }

    // ---- applications ----

    pub fn send(&mut self, host: usize, to: usize, bodies: &[&[u8]]) -> Vec<MessageId> {
        let messages = bodies.iter().map(|body| submission(self.id(to), body)).collect();
        self.submit(host, messages).into_iter().map(|accepted| accepted.id).collect()
    }

    pub fn submit(&mut self, host: usize, messages: Vec<Submission>) -> Vec<Accepted> {
        match self.try_submit(host, messages) {
            Reply::Accepted(accepted) => accepted,
            other => panic!("{other:?}"),
        }
    }

    pub fn try_submit(&mut self, host: usize, messages: Vec<Submission>) -> Reply {
        let request = RequestId(self.draw());
        self.input(host, Input::Submitted { request, uid: 0, messages });
        self.hosts[host].replies.remove(&request).unwrap()
    }

    pub fn send_large(&mut self, host: usize, to: usize, body: &[u8]) -> MessageId {
        let message = submission(self.id(to), b"");
        self.send_streamed(host, message, body)
    }

    pub fn send_streamed(&mut self, host: usize, message: Submission, body: &[u8]) -> MessageId {
        let request = RequestId(self.draw());
        let stream = StreamId(self.draw());
        self.input(host, Input::BodyBegun { stream, request, uid: 0, message });
        for part in body.chunks(limits::FRAGMENT) {
            self.input(host, Input::BodyGrew { stream, bytes: Bytes::copy_from_slice(part) });
        }
        self.input(host, Input::BodyEnded { stream });
        match self.hosts[host].replies.remove(&request).unwrap() {
            Reply::Accepted(accepted) => accepted[0].id,
            other => panic!("{other:?}"),
        }
    }

    pub fn open_consumer(&mut self, host: usize, channel: &str, credit: u32) -> ConsumerId {
        let consumer = ConsumerId(self.draw());
        let channel = channel.parse().unwrap();
        let (uid, lease_ms, max_deliveries) = (0, 3_600_000, 0);
        let opened = Input::ConsumerOpened { consumer, uid, channel, lease_ms, max_deliveries };
        self.round(host, vec![opened, Input::CreditGranted { consumer, messages: credit }]);
        consumer
    }

    pub fn acknowledge_all(&mut self, host: usize, consumer: ConsumerId) {
        let held = self.hosts[host].deliveries.get(&consumer).into_iter().flatten();
        let deliveries = held.map(|delivery| delivery.delivery).collect();
        self.input(host, Input::Acknowledged { consumer, deliveries });
    }

    pub fn received(&self, host: usize, consumer: ConsumerId) -> Vec<Bytes> {
        let held = self.hosts[host].deliveries.get(&consumer).into_iter().flatten();
        held.map(|delivery| delivery.body.clone()).collect()
    }

    pub fn trace(&mut self, host: usize, id: MessageId) -> Trace {
        match self.ask_trace(host, id, None) {
            Some(Reply::Trace(trace)) => *trace,
            other => panic!("{other:?}"),
        }
    }

    pub fn ask_trace(&mut self, host: usize, id: MessageId, wait: Option<Level>) -> Option<Reply> {
        let request = RequestId(self.draw());
        self.input(host, Input::TraceAsked { request, id, wait });
        self.hosts[host].replies.remove(&request)
    }

    pub fn state(&mut self, host: usize, id: MessageId) -> String {
        self.trace(host, id).state
    }

    /// Messages in the outbox, in the inbox, envelopes in transit.
    pub fn counts(&mut self, host: usize) -> (u64, u64, u64) {
        let status = self.status(host);
        (status.outbox.0, status.inbox.0, status.transit.0)
    }

    pub fn status(&mut self, host: usize) -> Status {
        let request = RequestId(self.draw());
        self.input(host, Input::StatusAsked { request });
        match self.hosts[host].replies.remove(&request).unwrap() {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }
}

pub fn submission(to: NodeId, body: &[u8]) -> Submission {
    Submission {
        to: Recipient::Node(to),
        channel: "orders".parse().unwrap(),
        headers: vec![("kind".to_owned(), "test".to_owned())],
        body: Bytes::copy_from_slice(body),
        class: Class::Normal,
        lifetime_ms: limits::LIFETIME_MS,
        idempotency_key: None,
        order_key: None,
        delay_ms: 0,
    }
}

fn kind_of(frame: &hop::Frame) -> &'static str {
    use hop::frame::Kind;
    match frame.kind.as_ref().unwrap() {
        Kind::Envelope(_) => "envelope",
        Kind::Offer(_) => "offer",
        Kind::Want(_) => "want",
        Kind::Have(_) => "have",
        Kind::Gone(_) => "gone",
        Kind::Word(_) => "word",
        Kind::Receipt(_) => "receipt",
        Kind::Custody(_) => "custody",
        Kind::RetryLater(_) => "retry_later",
        Kind::Credit(_) => "credit",
        Kind::Fact(_) => "fact",
        _ => "other",
    }
}
