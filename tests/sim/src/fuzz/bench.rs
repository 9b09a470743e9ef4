//! One engine over a store in memory, and the neighbours that are connected to it. Does what a script says, keeps what
//! the engine sends, and holds it to what it may keep and send for what it was given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex;

use prost::Message as _;
use waypost_core::engine::effect::{Delivery, Effect, Reply, Stream};
use waypost_core::engine::input::{ConsumerId, Input, PeerHello, RequestId, SessionId};
use waypost_core::engine::{Engine, Identity};
use waypost_core::hop::decode::Decoder;
use waypost_core::id::Incarnation;
use waypost_core::policy::Policy;
use waypost_core::store::kv::StoreError;
use waypost_core::store::mem::MemKv;
use waypost_core::store::tx::{Tx, commit};
use waypost_core::time::Now;
use waypost_core::trust::{Roots, Roster};
use waypost_proto::hop;

use super::town::{FOUNDED_MS, NODE, Town};
use super::{class_of, promise};

/// Bytes that the store may grow by with a frame, whatever is in it: a flow of each kind, receipts, timers.
const ROW_BYTES: u64 = 16 * 1024;
/// Bytes that the store may grow by for each byte of a frame.
const GROWTH: u64 = 24;
/// Rows that one frame may leave, and one more for every so many bytes of it.
const ROWS: (u64, u64) = (32, 8);
/// Bytes that may be sent because of one frame, whatever is in it: 256 wanted envelopes are the most an answer asks for.
const SENT_BYTES: u64 = 256 * 1024;
/// Times that what came in may go out because of one frame: on to others, and back in receipts.
const ECHO: u64 = 32;

/// Why a script ends.
#[derive(Debug)]
pub enum Ended {
    /// The store says that it is damaged: right, if it is.
    Store(StoreError),
    /// A promise is broken.
    Broken(String),
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What of the engine's doing concerns a neighbour or an application.
#[derive(Default)]
pub struct Seen {
    /// Frames sent: to whom, on which stream.
    pub sent: Vec<(usize, Stream, hop::Frame)>,
    /// Deliveries, by consumer.
    pub delivered: BTreeMap<ConsumerId, Vec<Delivery>>,
    /// Answers.
    pub replies: BTreeMap<RequestId, Reply>,
}

/// The engine under trial.
pub struct Bench<'a> {
    /// Its network.
    pub town: &'a mut Town,
    /// Its disk.
    pub kv: MemKv,
    /// The engine.
    pub engine: Engine,
    /// Its clocks.
    pub now: Now,
    /// What it did since somebody looked.
    pub seen: Seen,
    /// Classes of what it did.
    pub classes: BTreeSet<u64>,
    /// Who is connected, by member.
    pub sessions: BTreeMap<usize, SessionId>,
    roster: Mutex<Roster>,
    roots: Mutex<Roots>,
    starts: u8,
    drawn: u64,
    /// Bytes that came in, from neighbours and applications.
    given: u64,
    /// What the store may hold at most.
    allowed: (u64, u64),
}

impl<'a> Bench<'a> {
    /// Starts an engine over a store.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn start(town: &'a mut Town, kv: MemKv) -> Result<Self, Ended> {
        let now = Now { boot_ms: 1000, boot_id: [1; 16], wall_ms: FOUNDED_MS + 10_000 };
        let mut kv = kv;
        let engine = engine_over(town, &mut kv, now, 0)?;
        let (roster, roots) = (Mutex::new(Roster::new(town.network)), Mutex::new(Roots::default()));
        let mut bench = Self {
            engine,
            now,
            seen: Seen::default(),
            classes: BTreeSet::new(),
            sessions: BTreeMap::new(),
            roster,
            roots,
            starts: 0,
            drawn: 0,
            given: 0,
            allowed: (0, 0),
            kv,
            town,
        };
        bench.allow(0);
        Ok(bench)
    }

    /// A number not drawn before.
    pub fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    /// The process ends and starts again; `reboot`: so does the host.
    ///
    /// # Errors
    /// When the store is damaged.
    pub fn restart(&mut self, reboot: bool) -> Result<(), Ended> {
        self.starts = self.starts.wrapping_add(1);
        self.sessions.clear();
        if reboot {
            self.now.boot_id = [self.starts; 16];
            self.now.boot_ms = 1000;
        }
        self.engine = engine_over(self.town, &mut self.kv, self.now, self.starts)?;
        self.roster = Mutex::new(Roster::new(self.town.network));
        self.roots = Mutex::new(Roots::default());
        Ok(())
    }

    /// One round.
    ///
    /// # Errors
    /// When the store is damaged or a promise is broken.
    pub fn round(&mut self, inputs: Vec<Input>) -> Result<(), Ended> {
        let mut tx = Tx::new(&self.kv);
        for input in inputs {
            self.engine.step(input, self.now, &mut tx)?;
        }
        self.engine.flush(self.now, &mut tx)?;
        let mut outcome = tx.finish();
        let mut effects = outcome.take_hints();
        effects.extend(commit(&mut self.kv, outcome)?);
        effects.into_iter().try_for_each(|effect| self.carry_out(effect)).map_err(Ended::Broken)
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Send { session, stream, frame, .. } => {
                let to = self.sessions.iter().find(|(_, of)| **of == session).map(|(member, _)| *member);
                let kind = format!("{:?}", frame.kind);
                self.classes.insert(class_of(kind.split('(').take(2).collect::<String>().as_str()));
                if let Some(to) = to {
                    self.seen.sent.push((to, stream, *frame));
                }
            }
            Effect::Reply { request, reply } => {
                self.seen.replies.insert(request, reply);
            }
            Effect::Deliver { consumer, deliveries } => {
                self.classes.insert(class_of("deliver"));
                self.seen.delivered.entry(consumer).or_default().extend(deliveries);
            }
            Effect::Disconnect { session, why, .. } => {
                self.classes.insert(class_of(why));
                self.sessions.retain(|_, of| *of != session);
            }
            Effect::RaiseAlarm { why } => {
                self.classes.insert(class_of(&why));
            }
            Effect::Stop { why } => return Err(format!("a neighbour can stop the node: {why}")),
            Effect::EndConsumer { .. } => {
                self.classes.insert(class_of("end consumer"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets time pass, ringing what is due, in at most `rings` rounds.
    ///
    /// # Errors
    /// As [`Bench::round`].
    pub fn pass(&mut self, ms: u64, rings: usize) -> Result<(), Ended> {
        let end = self.now.boot_ms.saturating_add(ms);
        for _ in 0..rings {
            let next = self.engine.next_wake().filter(|at| *at <= end);
            let at = next.unwrap_or(end).max(self.now.boot_ms);
            self.now.wall_ms = self.now.wall_ms.saturating_add(at - self.now.boot_ms);
            self.now.boot_ms = at;
            self.round(vec![Input::Ticked])?;
            if next.is_none() {
                return Ok(());
            }
        }
        let left = end - self.now.boot_ms;
        self.now.boot_ms = end;
        self.now.wall_ms = self.now.wall_ms.saturating_add(left);
        Ok(())
    }

    /// A member connects, saying this.
    ///
    /// # Errors
    /// As [`Bench::round`].
    pub fn connect(&mut self, member: usize, hello: PeerHello) -> Result<(), Ended> {
        let session = SessionId(self.draw());
        let peer = self.town.id(member);
        self.disconnect(member)?;
        let chain = self.town.members[member].chain.clone();
        let roster = self.roster.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        roster.admit_chain(peer, &chain).map_err(|error| Ended::Broken(error.to_string()))?;
        self.sessions.insert(member, session);
        let (transport, address) = ("tcp", "/ip4/192.0.2.9/tcp/4001".to_owned());
        self.round(vec![
            Input::ChainLearned { subject: peer, chain },
            Input::PeerConnected { peer, session, hello, transport, address },
        ])
    }

    /// A connection ends.
    ///
    /// # Errors
    /// As [`Bench::round`].
    pub fn disconnect(&mut self, member: usize) -> Result<(), Ended> {
        let peer = self.town.id(member);
        match self.sessions.remove(&member) {
            Some(session) => self.round(vec![Input::PeerLost { peer, session }]),
            None => Ok(()),
        }
    }

    /// What an ordinary process says first.
    #[must_use]
    pub fn hello(&self, counter: u64) -> PeerHello {
        PeerHello {
            incarnation: Incarnation { counter, random: [counter as u8; 8] },
            continues: None,
            durable_sequence: 1,
            nonce: counter,
            wall_ms: self.now.wall_ms,
        }
    }

    /// A frame comes from a connected member, and is held to what it may cost.
    ///
    /// # Errors
    /// As [`Bench::round`].
    pub fn frame(&mut self, from: usize, stream: Stream, frame: hop::Frame) -> Result<(), Ended> {
        let Some(session) = self.sessions.get(&from).copied() else { return Ok(()) };
        let bytes = frame.encoded_len() as u64;
        let key = &self.town.members[NODE].key;
        let decoder = Decoder { key, network: self.town.network, roster: &self.roster, roots: &self.roots };
        let decoded = match decoder.decode(frame, stream) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.classes.insert(class_of(&format!("{error:?}")));
                return Ok(());
            }
        };
        let peer = self.town.id(from);
        let learned = decoded.learned.into_iter().map(|(subject, chain)| Input::ChainLearned { subject, chain });
        let mut inputs: Vec<Input> = learned.collect();
        inputs.extend(decoded.frame.map(|frame| Input::FrameArrived { peer, session, frame: Box::new(frame) }));
        self.allow(bytes);
        let before = self.seen.sent.len();
        self.round(inputs)?;
        self.check_cost(before, bytes).map_err(Ended::Broken)
    }

    /// So many bytes more came in: the store may grow for them.
    pub fn allow(&mut self, bytes: u64) {
        self.given += bytes;
        let rows = self.kv.rows().count() as u64;
        let grown = (self.kv.bytes() + ROW_BYTES + GROWTH * bytes, rows + ROWS.0 + bytes / ROWS.1);
        self.allowed = grown;
    }

    fn check_cost(&self, before: usize, bytes: u64) -> Result<(), String> {
        let (held, rows) = (self.kv.bytes(), self.kv.rows().count() as u64);
        promise(held <= self.allowed.0 && rows <= self.allowed.1, || {
            format!("a frame of {bytes} bytes makes the store {held} bytes, {rows} rows; allowed {:?}", self.allowed)
        })?;
        let sent: u64 = self.seen.sent[before..].iter().map(|(_, _, frame)| frame.encoded_len() as u64).sum();
        let may = SENT_BYTES + ECHO * self.given;
        promise(sent <= may, || format!("a frame of {bytes} bytes is answered with {sent}; {may} are allowed"))
    }
}

fn engine_over(town: &Town, kv: &mut MemKv, now: Now, starts: u8) -> Result<Engine, StoreError> {
    let key = town.members[NODE].key.clone();
    let identity = Identity {
        key,
        network: town.network,
        chain: town.members[NODE].chain.clone(),
        proofs: Arc::default(),
        seed: [starts; 32],
    };
    let policy = Policy { name: "tried".to_owned(), build_ms: 1, ..Policy::default() };
    let (engine, outcome) = Engine::recover(identity, policy, kv, now)?;
    commit(kv, outcome)?;
    Ok(engine)
}
