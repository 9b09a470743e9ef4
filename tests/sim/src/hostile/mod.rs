//! Members that lie: real engines with real keys whose frames are changed, held back, invented and repeated on the way
//! out. Safety must hold whatever they do; delivery between honest nodes once they stop. One way to lie a file; what
//! they share is here: what they remember, whom they reach, how they sign.

mod black_hole;
mod floods;
mod forges;
mod garbles;
mod mail;
mod replays;
mod routes;

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use waypost_core::engine::effect::Stream;
use waypost_core::engine::input::{Input, SessionId};
use waypost_core::envelope::{Header, flow_from_wire};
use waypost_core::hop::PeerFrame;
use waypost_core::id::{FlowId, Incarnation, NodeId};
use waypost_core::trust::Label;
use waypost_proto::hop::{self, frame::Kind, twin::Step};

use crate::host::Process;
use crate::net::Side;
use crate::plan::Malice;
use crate::rng::Rng;
use crate::world::{Event, World};

/// Frames, flows, facts and challenges a liar remembers, each.
const MEMORY: usize = 64;

/// What a liar really sends: frames with their streams.
type Lies = Vec<(Stream, Box<hop::Frame>)>;

/// What liars remember.
pub struct Hostile {
    /// Their branch of the random tree.
    pub rng: Rng,
    liars: BTreeMap<usize, Liar>,
}

/// What one remembers, over its restarts.
#[derive(Default)]
struct Liar {
    /// Frames of all kinds that came, or that its engine sent.
    frames: Vec<(Stream, hop::Frame)>,
    /// Flows of which something came.
    flows: Vec<hop::Flow>,
    /// Others' facts, old ones too.
    facts: Vec<hop::Frame>,
    /// Challenges that were drawn, and signatures over some.
    drawn: Vec<Bytes>,
    signed: Vec<hop::Signed>,
    /// The next idea comes then; one that comes earlier belongs to an earlier life.
    due_us: u64,
    /// Names given out: requests, numbers of invented flows, facts.
    names: u64,
}

impl Hostile {
    /// They know nothing yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::of(seed, "hostile", 0), liars: BTreeMap::new() }
    }

    fn name(&mut self, host: usize) -> u64 {
        let liar = self.liars.entry(host).or_default();
        liar.names += 1;
        liar.names
    }

    /// Keeps something, at the cost of anything else when memory is full.
    fn keep<T>(rng: &mut Rng, of: &mut Vec<T>, it: T) {
        if of.len() < MEMORY {
            of.push(it);
        } else {
            let place = rng.index(MEMORY);
            of[place] = it;
        }
    }

    fn remember(&mut self, host: usize, stream: Stream, frame: &hop::Frame) {
        let Self { rng, liars } = self;
        let liar = liars.entry(host).or_default();
        match &frame.kind {
            Some(Kind::Fact(_)) => Self::keep(rng, &mut liar.facts, frame.clone()),
            Some(Kind::Twin(hop::Twin { step: Some(Step::Drawn(challenge)) })) => {
                Self::keep(rng, &mut liar.drawn, challenge.clone());
            }
            Some(Kind::Twin(hop::Twin { step: Some(Step::Signed(signed) | Step::Proof(signed)) })) => {
                Self::keep(rng, &mut liar.signed, signed.clone());
            }
            _ => {}
        }
        if let Some(flow) = flow_of(frame) {
            Self::keep(rng, &mut liar.flows, flow);
        }
        if !matches!(frame.kind, Some(Kind::Credit(_))) {
            Self::keep(rng, &mut liar.frames, (stream, frame.clone()));
        }
    }

    /// One of what a liar remembers.
    fn recall<T: Clone>(&mut self, host: usize, of: impl Fn(&Liar) -> &Vec<T>) -> Option<T> {
        let kept = of(self.liars.get(&host)?);
        if kept.is_empty() { None } else { Some(self.rng.pick(kept).clone()) }
    }

    /// A number somebody might trip over.
    fn odd_number(&mut self) -> u64 {
        let any = self.rng.bits();
        let small = self.rng.below(40);
        *self.rng.pick(&[0, 1, 2, small, small, 1 << 20, (1 << 48) - 1, 1 << 48, u64::MAX - 1, u64::MAX, any])
    }

    /// A version with room above it: who signs the highest there is can never say anything newer.
    fn odd_version(&mut self) -> u64 {
        self.odd_number().min(1 << 47)
    }

    /// A range of numbers, maybe one that cannot be.
    fn odd_range(&mut self) -> (u64, u64) {
        (self.odd_number(), self.odd_number())
    }
}

impl World {
    /// What a node really sends where its engine wants to send this.
    pub fn lie(&mut self, host: usize, session: SessionId, stream: Stream, frame: Box<hop::Frame>) -> Lies {
        let Some(malice) = self.hosts[host].malice else { return vec![(stream, frame)] };
        self.hostile.remember(host, stream, &frame);
        match malice {
            Malice::BlackHole => self.swallow(host, session, stream, frame),
            Malice::Garbles => self.garble(host, stream, frame),
            Malice::LiesAboutRoutes => self.misguide(host, stream, frame),
            Malice::Forges => self.forge_answer(stream, frame),
            Malice::Replays | Malice::Floods => vec![(stream, frame)],
        }
    }

    /// A frame comes to a host; a liar remembers it.
    pub fn overheard(&mut self, host: usize, _from: usize, stream: Stream, frame: &hop::Frame) {
        if self.hosts[host].malice.is_some() {
            self.hostile.remember(host, stream, frame);
        }
    }

    /// A liar does something of its own accord, and will again.
    pub fn mischief(&mut self, host: usize) {
        let Some(malice) = self.hosts[host].malice else { return };
        let due_us = self.hostile.liars.entry(host).or_default().due_us;
        if matches!(self.hosts[host].process, Process::Off) || self.now_us < due_us {
            return;
        }
        // About a hundred ideas in a life, however long that is.
        let wait_ms = self.hostile.rng.spread(200, self.plan.faults_end_ms / 20 + 1000);
        self.hostile.liars.entry(host).or_default().due_us = self.now_us + wait_ms * 1000;
        self.after_ms(wait_ms, Event::Mischief { host });
        if self.hosts[host].is_awake(self.now_us) {
            match malice {
                Malice::BlackHole => self.boast(host),
                Malice::Replays => self.replay(host),
                Malice::Forges => self.forge(host),
                Malice::LiesAboutRoutes => self.invent_routes(host),
                Malice::Floods => self.flood(host),
                Malice::Garbles => self.garble_mail(host),
            }
        }
    }

    // ---- whom a liar reaches ----

    /// A connection of a liar, and who is at its other end.
    fn victim(&mut self, host: usize) -> Option<(SessionId, usize)> {
        let all: Vec<(SessionId, usize)> = self
            .net
            .sessions
            .iter()
            .filter_map(|(name, session)| {
                let side = session.ends.iter().position(|end| *end == host)?;
                (session.sides[side] == Side::Up).then_some((*name, session.ends[1 - side]))
            })
            .collect();
        if all.is_empty() { None } else { Some(*self.hostile.rng.pick(&all)) }
    }

    /// Any member but the liar.
    fn anybody_else(&mut self, host: usize) -> usize {
        let other = self.hostile.rng.index(self.plan.hosts.len() - 1);
        if other >= host { other + 1 } else { other }
    }

    fn tell(&mut self, host: usize, session: SessionId, kind: Kind) {
        self.fly(host, session, Stream::Control, Box::new(hop::Frame { kind: Some(kind) }));
    }

    /// A liar's own engine is told that a neighbour said this.
    fn pretend(&mut self, host: usize, session: SessionId, frame: PeerFrame) {
        let ends = self.net.sessions.get(&session).map(|session| session.ends);
        if let Some(other) = ends.and_then(|ends| ends.into_iter().find(|end| *end != host)) {
            let peer = self.hosts[other].id();
            self.input(host, Input::FrameArrived { peer, session, frame: Box::new(frame) });
        }
    }

    // ---- what a liar knows and can sign ----

    /// The incarnation of a member, which its fact tells.
    fn incarnation_of(&self, host: usize) -> Incarnation {
        self.hosts[host].engine().map(|engine| engine.own_hello().incarnation).unwrap_or_default()
    }

    /// An incarnation that may or may not be somebody's.
    fn some_incarnation(&mut self, of: usize) -> Incarnation {
        let known = self.incarnation_of(of);
        let mut random = [0; 8];
        random.copy_from_slice(&self.hostile.rng.seed()[..8]);
        let counter = known.counter + self.hostile.rng.below(3);
        *self.hostile.rng.pick(&[known, known, Incarnation { counter, random }, Incarnation { counter: 1, random }])
    }

    fn sign_as(&self, host: usize, label: Label, content: &impl Message) -> hop::Signed {
        self.sign_bytes(host, label, content.encode_to_vec().into())
    }

    fn sign_bytes(&self, host: usize, label: Label, content: Bytes) -> hop::Signed {
        let this = &self.hosts[host];
        let signature = Bytes::copy_from_slice(&this.key.sign(label, this.network, &content));
        hop::Signed { content, signature }
    }

    /// With a liar's own certificates.
    fn attest(&self, host: usize, label: Label, content: &impl Message) -> hop::Attested {
        hop::Attested { object: Some(self.sign_as(host, label, content)), chain: self.hosts[host].chain.clone() }
    }

    /// The certificates of any member: every member has seen them.
    fn chain_of(&self, node: NodeId) -> Vec<hop::Signed> {
        self.hosts.iter().find(|host| host.id() == node).map(|host| host.chain.clone()).unwrap_or_default()
    }
}

/// The flow that a frame speaks of.
fn flow_of(frame: &hop::Frame) -> Option<hop::Flow> {
    match frame.kind.as_ref()? {
        Kind::Envelope(it) => Header::decode(&it.header).ok().map(|it| it.name.to_wire()).and_then(|it| it.flow),
        Kind::Offer(it) => it.items.first()?.name.as_ref()?.flow.clone(),
        Kind::Word(it) => hop::WordContent::decode(it.object.as_ref()?.content.clone()).ok()?.flow,
        Kind::Receipt(it) => hop::ReceiptContent::decode(it.object.as_ref()?.content.clone()).ok()?.flow,
        _ => None,
    }
}

/// Who must have signed a frame for it to be believed.
fn signer_of(frame: &hop::Frame) -> Option<NodeId> {
    let flow = || flow_of(frame).as_ref().and_then(flow_from_wire);
    match frame.kind.as_ref()? {
        Kind::Envelope(_) | Kind::Word(_) => flow().map(|flow: FlowId| flow.source),
        Kind::Receipt(_) => flow().map(|flow| flow.destination),
        Kind::Fact(it) => {
            let content = hop::FactContent::decode(it.object.as_ref()?.content.clone()).ok()?;
            NodeId::from_slice(&content.node)
        }
        _ => None,
    }
}
