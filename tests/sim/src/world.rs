//! The world: hosts, links and applications on one queue of events in true time. It carries what engines send, runs
//! what they ask for, and judges nothing; the oracle does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex};

use prost::Message as _;
use waypost_core::engine::effect::{Effect, Stream};
use waypost_core::engine::input::{ConsumerId, Input, SessionId, StreamId};
use waypost_core::id::{MessageId, NetworkId};
use waypost_core::store::kv::StoreError;
use waypost_core::trust::{NodeKey, Proofs, Roots, Roster};
use waypost_proto::hop;

use crate::apps::{Apps, CHANNELS, Fate};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::founding::members;
use crate::host::{Host, Process};
use crate::hostile::Hostile;
use crate::net::{Flying, Link, Net, Side};
use crate::oracle::Oracle;
use crate::plan::{Fault, HostPlan, Plan};
use crate::rng::Rng;
use crate::seen::Seen;
use crate::story::Story;

/// Longer than any plan: an owner comes when the fault is over.
const OWNER_MS: u64 = 100 * 365 * 24 * 3_600_000;

/// What happens next.
#[derive(Debug)]
#[expect(missing_docs, reason = "the variants say it; hosts, links and calls are places in the plan")]
pub enum Event {
    /// A process takes what has queued.
    Round { host: usize, life: u64 },
    /// Its sync has returned.
    Synced { host: usize, life: u64 },
    /// Its engine wants to be called.
    Wake { host: usize, life: u64 },
    /// Its supervisor starts it.
    Start { host: usize },
    /// It goes on after standing still.
    Thaw { host: usize },
    /// A frame comes.
    Arrive(Box<Flying>),
    /// A side of a connection is told that it is up.
    Told { session: SessionId, side: usize },
    /// A side of a connection notices its end, or silence.
    Noticed { session: SessionId, side: usize, silence: bool },
    /// Somebody dials.
    Dial { link: usize },
    /// A fault begins.
    Fault { fault: usize },
    /// A part of one begins or ends.
    Undo(Undo),
    /// An application makes a call of the plan.
    Call { call: usize },
    /// An application makes a call again that was answered.
    Repeat { call: usize },
    /// An application goes on streaming a body.
    BodyGrows { host: usize, life: u64, stream: StreamId, rest: bytes::Bytes },
    /// One asks to cancel.
    Cancel { host: usize, ids: Vec<MessageId> },
    /// A receiver comes.
    Consume { host: usize, life: u64, channel: usize },
    /// A receiver has made up its mind.
    Thought { host: usize, life: u64, consumer: ConsumerId, delivery: u64, fate: Fate },
    /// Senders ask where their messages are.
    Ask { host: usize },
    /// A liar has an idea.
    Mischief { host: usize },
}

/// The end of something that lasts, or a step of it.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the variants say it")]
pub enum Undo {
    Stop { link: usize, towards: usize },
    Go { link: usize, towards: usize },
    Slow { link: usize },
    Lossy { link: usize },
    DiskFull { host: usize },
    DiskSlow { host: usize },
    Clone { host: usize },
    Resume { host: usize, record: usize },
    Restore { host: usize },
}

/// All there is.
pub struct World {
    /// What was planned.
    pub plan: Plan,
    /// True time.
    pub now_us: u64,
    /// The hosts; copies of hosts come after those of the plan.
    pub hosts: Vec<Host>,
    /// The links and what is on them.
    pub net: Net,
    /// Who judges.
    pub oracle: Oracle,
    /// Rare paths that were taken.
    pub seen: Seen,
    /// What happened.
    pub story: Story,
    /// Nothing goes wrong any more.
    pub healed: bool,
    /// What the plan wants after this does not happen.
    pub closes_ms: u64,
    /// What liars remember.
    pub hostile: Hostile,
    /// Memories of machines that will be resumed.
    pub records: Vec<Option<crate::host::Record>>,
    /// Events handled.
    pub steps: u64,
    /// Processes that ended without being asked to.
    pub crashes: u64,
    /// Faults that took effect, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    /// Whoever verifies a signature in this world would find what another found: one memory saves most of the time.
    proofs: Arc<Proofs>,
}

struct Queued {
    at_us: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at_us, self.order) == (other.at_us, other.order)
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.order).cmp(&(other.at_us, other.order))
    }
}

impl World {
    /// A world as planned, at true time 0. `told`: its story is printed.
    ///
    /// # Errors
    /// When its members cannot be admitted to one network: a defect.
    pub fn new(plan: Plan, told: bool) -> anyhow::Result<Self> {
        let (network, members) = members(&plan)?;
        let mut world = Self {
            now_us: 0,
            hosts: Vec::new(),
            net: Net::default(),
            oracle: Oracle::new(&plan),
            seen: Seen::default(),
            story: Story::new(told),
            healed: false,
            closes_ms: u64::MAX,
            hostile: Hostile::new(plan.seed),
            records: Vec::new(),
            steps: 0,
            crashes: 0,
            faults: BTreeMap::new(),
            queue: BinaryHeap::new(),
            order: 0,
            proofs: Arc::default(),
            plan,
        };
        for (place, (key, chain)) in members.into_iter().enumerate() {
            let plan = world.plan.hosts[place].clone();
            let recording =
                world.plan.faults.iter().any(|(_, it)| matches!(it, Fault::Resume { host, .. } if *host == place));
            world.add_host(plan, key, chain, network, recording);
        }
        world.oracle.meet(world.hosts.iter().map(Host::id).collect());
        for (place, link) in world.plan.links.clone().into_iter().enumerate() {
            let rng = Rng::of(world.plan.seed, "link", place as u64);
            world.net.links.push(Link::new(link, rng));
        }
        let liars = world.hosts.iter().filter(|host| host.malice.is_some()).map(Host::id).collect();
        world.oracle.liars_are(liars);
        world.schedule();
        Ok(world)
    }

    fn schedule(&mut self) {
        for host in 0..self.hosts.len() {
            let born_ms = self.plan.hosts[host].born_ms;
            self.hosts[host].down_until_us = born_ms * 1000;
            self.at_ms(born_ms, Event::Start { host });
            for look in 1..=6 {
                self.at_ms(self.plan.faults_end_ms * look / 6, Event::Ask { host });
            }
        }
        for fault in 0..self.plan.faults.len() {
            self.at_ms(self.plan.faults[fault].0, Event::Fault { fault });
        }
        for call in 0..self.plan.work.len() {
            self.at_ms(self.plan.work[call].0, Event::Call { call });
        }
    }

    /// Adds a host that does not run yet.
    pub fn add_host(
        &mut self,
        plan: HostPlan,
        key: NodeKey,
        chain: Vec<hop::Signed>,
        network: NetworkId,
        recording: bool,
    ) -> usize {
        let place = self.hosts.len();
        self.hosts.push(Host {
            clock: Clock::new(plan.drift_ppm, plan.wall_offset_ms),
            malice: plan.malice,
            plan,
            key,
            chain,
            network,
            roster: Mutex::new(Roster::trusting(network, Arc::clone(&self.proofs))),
            proofs: Arc::clone(&self.proofs),
            roots: Mutex::new(Roots::default()),
            disk: Disk::default(),
            process: Process::Off,
            life: 0,
            queue: std::collections::VecDeque::new(),
            round_planned: false,
            wake_us: u64::MAX,
            frozen_until_us: 0,
            down_until_us: 0,
            pause_ms: 0,
            slow_commit_us: None,
            low_on_space: false,
            left: false,
            doomed_starts: 0,
            apps: Apps::default(),
            snapshot: None,
            record: None,
            recording,
            rounds: 0,
            rng: Rng::of(self.plan.seed, "host", place as u64),
        });
        place
    }

    // ---- time ----

    /// Plans an event at a true time.
    pub fn at_us(&mut self, at_us: u64, event: Event) {
        self.order += 1;
        let at_us = at_us.max(self.now_us);
        self.queue.push(Reverse(Queued { at_us, order: self.order, event }));
    }

    /// Plans an event, in milliseconds since the world began.
    pub fn at_ms(&mut self, at_ms: u64, event: Event) {
        self.at_us(at_ms.saturating_mul(1000), event);
    }

    /// Plans an event so long from now.
    pub fn after_ms(&mut self, ms: u64, event: Event) {
        self.at_us(self.now_us.saturating_add(ms.saturating_mul(1000)), event);
    }

    /// Lets things go wrong for as long as planned, and not for more events than that.
    pub fn go_wrong(&mut self) {
        let until_us = self.plan.faults_end_ms * 1000;
        self.run_within(until_us, self.plan.most_steps);
        if self.now_us < until_us {
            self.closes_ms = self.now_us / 1000;
        }
    }

    /// Lets things happen until a true time, or until a promise is broken.
    pub fn run_until(&mut self, until_us: u64) {
        self.run_within(until_us, u64::MAX);
    }

    fn run_within(&mut self, until_us: u64, most_steps: u64) {
        while !self.oracle.is_broken() {
            if self.steps >= most_steps {
                return;
            }
            match self.queue.peek() {
                Some(Reverse(next)) if next.at_us <= until_us => {}
                _ => break,
            }
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.now_us = next.at_us;
            self.story.at(self.now_us);
            self.steps += 1;
            self.happen(next.event);
        }
        if !self.oracle.is_broken() {
            self.now_us = self.now_us.max(until_us);
            self.story.at(self.now_us);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Round { host, life } => self.if_alive(host, life, Self::round),
            Event::Synced { host, life } => self.if_alive(host, life, Self::synced),
            Event::Wake { host, life } => self.if_alive(host, life, Self::wake),
            Event::Start { host } => self.start(host),
            Event::Thaw { host } => self.thaw(host),
            Event::Arrive(flying) => self.arrive(*flying),
            Event::Told { session, side } => self.told_and_released(session, side),
            Event::Noticed { session, side, silence } => self.noticed(session, side, silence),
            Event::Dial { link } => self.dial(link),
            Event::Fault { fault } => self.inject(fault),
            Event::Undo(undo) => self.undo(undo),
            Event::Call { call } => self.call(call),
            Event::Repeat { call } => self.repeat(call),
            Event::BodyGrows { host, life, stream, rest } => {
                self.if_alive(host, life, |world, host| world.grow(host, stream, rest));
            }
            Event::Cancel { host, ids } => self.cancel(host, ids),
            Event::Consume { host, life, channel } => {
                self.if_alive(host, life, |world, host| world.consume(host, channel))
            }
            Event::Thought { host, life, consumer, delivery, fate } => {
                self.if_alive(host, life, |world, host| world.thought(host, consumer, delivery, fate));
            }
            Event::Ask { host } => {
                self.ask(host);
                self.oracle.look_at_copies(self.now_us, host, &self.hosts);
            }
            Event::Mischief { host } => self.mischief(host),
        }
    }

    fn if_alive(&mut self, host: usize, life: u64, then: impl FnOnce(&mut Self, usize)) {
        if self.hosts[host].life == life {
            then(self, host);
        }
    }

    // ---- processes ----

    /// Something has happened to a process: it takes it up in its next round.
    pub fn input(&mut self, host: usize, input: Input) {
        if matches!(self.hosts[host].process, Process::Off) {
            return;
        }
        self.hosts[host].queue.push_back(input);
        self.plan_round(host);
    }

    fn plan_round(&mut self, host: usize) {
        let this = &mut self.hosts[host];
        if this.round_planned || !matches!(this.process, Process::Idle(_)) {
            return;
        }
        this.round_planned = true;
        let (life, delay_us) = (this.life, this.rng.below(300));
        self.at_us(self.now_us + delay_us, Event::Round { host, life });
    }

    fn wake(&mut self, host: usize) {
        self.hosts[host].wake_us = u64::MAX;
        self.plan_round(host);
    }

    fn round(&mut self, host: usize) {
        let this = &mut self.hosts[host];
        this.round_planned = false;
        if this.frozen_until_us > self.now_us {
            let (life, at_us) = (this.life, this.frozen_until_us);
            this.round_planned = true;
            self.at_us(at_us, Event::Round { host, life });
            return;
        }
        let now = this.clock.read(self.now_us);
        self.story.note(1, [host as u64, this.queue.len() as u64, now.boot_ms], &[]);
        match this.begin_round(now) {
            Ok(None) => {}
            Ok(Some(hints)) => self.after_steps(host, hints),
            Err(error) => self.store_failed(host, &error),
        }
    }

    fn after_steps(&mut self, host: usize, hints: Vec<Effect>) {
        for effect in hints {
            self.carry_out(host, effect);
        }
        let this = &mut self.hosts[host];
        if !this.has_to_sync() {
            return self.synced(host);
        }
        let (low, high) = this.plan.commit_us;
        let took_us = this.slow_commit_us.unwrap_or_else(|| this.rng.range(low, high));
        let life = this.life;
        self.at_us(self.now_us + took_us, Event::Synced { host, life });
    }

    fn synced(&mut self, host: usize) {
        let claims = match self.hosts[host].end_round() {
            Ok(claims) => claims,
            Err(error) => return self.store_failed(host, &error),
        };
        let life = self.hosts[host].life;
        for effect in claims {
            if self.hosts[host].life == life {
                self.carry_out(host, effect);
            }
        }
        self.plan_wake(host);
        if !self.hosts[host].queue.is_empty() {
            self.plan_round(host);
        }
        self.oracle.has_dealt(self.now_us, host, &self.hosts[host]);
    }

    fn plan_wake(&mut self, host: usize) {
        let this = &mut self.hosts[host];
        let Some(wake) = this.engine().and_then(waypost_core::engine::Engine::next_wake) else { return };
        let at_us = this.clock.when(wake).max(self.now_us);
        if at_us < this.wake_us {
            this.wake_us = at_us;
            let life = this.life;
            self.at_us(at_us, Event::Wake { host, life });
        }
    }

    /// The store failed: the process ends, as the driver does, and its supervisor starts it again.
    pub fn store_failed(&mut self, host: usize, error: &StoreError) {
        self.story.tell(format_args!("{host} ends: {error}"));
        self.seen.see("store failure latched");
        let planned_ms = std::mem::take(&mut self.hosts[host].pause_ms);
        let pause_ms = planned_ms.max(if self.hosts[host].disk.full { 5000 } else { 1000 });
        self.end_process(host, pause_ms, true);
    }

    /// Ends a process; it is started again after a while. `noticed`: its neighbours are told by the system.
    pub fn end_process(&mut self, host: usize, down_ms: u64, noticed: bool) {
        self.crashes += 1;
        let this = &mut self.hosts[host];
        this.down_until_us = this.down_until_us.max(self.now_us + down_ms * 1000);
        this.end();
        this.apps.disconnect();
        let at_us = this.down_until_us;
        self.hang_up(host, noticed);
        self.at_us(at_us, Event::Start { host });
    }

    fn start(&mut self, host: usize) {
        let this = &mut self.hosts[host];
        if this.left || this.down_until_us > self.now_us || !matches!(this.process, Process::Off) {
            return;
        }
        let now = this.clock.read(self.now_us);
        let recovered = this.recover(now);
        if this.doomed_starts > 0 {
            return self.die_in_recovery(host, recovered.ok().map(|(_, outcome)| outcome));
        }
        let done = recovered.and_then(|(engine, outcome)| {
            let claims = waypost_core::store::tx::commit(&mut self.hosts[host].disk, outcome)?;
            Ok((engine, claims))
        });
        match done {
            Ok((engine, claims)) => self.started(host, engine, claims),
            Err(error) => {
                self.story.tell(format_args!("{host} does not start: {error}"));
                self.seen.see("start refused by the disk");
                self.hosts[host].down_until_us = self.now_us + 5_000_000;
                self.after_ms(5000, Event::Start { host });
            }
        }
    }

    fn die_in_recovery(&mut self, host: usize, outcome: Option<waypost_core::store::tx::Outcome>) {
        let this = &mut self.hosts[host];
        this.doomed_starts -= 1;
        if let Some(outcome) = outcome.filter(|_| this.rng.chance(500)) {
            let _ = waypost_core::store::tx::commit(&mut this.disk, outcome);
        }
        self.crashes += 1;
        self.seen.see("killed in recovery");
        self.story.tell(format_args!("{host} is killed in its recovery"));
        self.after_ms(20, Event::Start { host });
    }

    fn started(&mut self, host: usize, engine: Box<waypost_core::engine::Engine>, claims: Vec<Effect>) {
        self.hosts[host].started(engine);
        self.story.tell(format_args!("{host} starts"));
        for effect in claims {
            self.carry_out(host, effect);
        }
        let now = self.hosts[host].clock.read(self.now_us);
        self.oracle.recovered(self.now_us, host, &mut self.hosts[host], now);
        self.come_up(host);
    }

    /// What comes to a process that has just begun: neighbours, applications, time.
    pub fn come_up(&mut self, host: usize) {
        self.measure_space(host);
        let life = self.hosts[host].life;
        self.after_ms(5, Event::Consume { host, life, channel: 0 });
        if self.healed {
            self.after_ms(9, Event::Consume { host, life, channel: 1 });
        }
        for link in self.net.links_of(host) {
            self.plan_dial(link);
        }
        if self.hosts[host].malice.is_some() {
            self.after_ms(1000, Event::Mischief { host });
        }
        self.plan_wake(host);
    }

    fn thaw(&mut self, host: usize) {
        if self.hosts[host].frozen_until_us > self.now_us {
            return;
        }
        self.plan_wake(host);
        self.plan_round(host);
        for link in self.net.links_of(host) {
            self.plan_dial(link);
        }
    }

    // ---- effects ----

    /// Does what an engine wants.
    pub fn carry_out(&mut self, host: usize, effect: Effect) {
        match effect {
            Effect::Send { session, stream, frame, .. } => self.send(host, session, stream, frame),
            Effect::Disconnect { session, why, .. } => {
                self.story.tell(format_args!("{host} closes a connection: {why}"));
                if why == "it answers nothing" {
                    self.seen.see("a silent connection closed");
                } else if !why.contains("newer connection") {
                    self.seen.see("connection closed for a breach");
                    let ends = self.net.sessions.get(&session).map(|session| session.ends);
                    let other = ends.and_then(|ends| ends.into_iter().find(|end| *end != host));
                    self.oracle.closed(self.now_us, (host, other), why);
                }
                self.close(session);
            }
            Effect::Stop { why } => {
                self.story.tell(format_args!("{host} stops: {why}"));
                self.oracle.stopped(self.now_us, host, &why);
                // Its owner starts it again when the other one is gone: with the heal, or soon if that is over.
                self.hosts[host].left = self.oracle.is_copy(host);
                self.end_process(host, if self.healed { 60_000 } else { OWNER_MS }, true);
            }
            Effect::RaiseAlarm { why } => {
                self.story.tell(format_args!("{host} raises an alarm: {why}"));
                self.seen.see("alarm raised");
                self.oracle.alarmed(self.now_us, host, &why);
            }
            other => self.for_applications(host, other),
        }
    }

    fn send(&mut self, host: usize, session: SessionId, stream: Stream, frame: Box<hop::Frame>) {
        let now_us = self.now_us;
        self.oracle.leaves(now_us, host, &frame, &self.hosts[host].disk, &mut self.seen);
        if let Some(kind) = &frame.kind
            && let Some(ends) = self.net.sessions.get(&session).map(|session| session.ends)
        {
            let other = if ends[0] == host { ends[1] } else { ends[0] };
            let me = self.hosts[host].id();
            self.oracle.says(now_us, (host, me), (session, other), kind, &self.hosts[host].disk);
        }
        let frames = self.lie(host, session, stream, frame);
        for (stream, frame) in frames {
            self.fly(host, session, stream, frame);
        }
    }

    /// Puts a frame on a connection.
    pub fn fly(&mut self, host: usize, name: SessionId, stream: Stream, frame: Box<hop::Frame>) {
        let Some(session) = self.net.sessions.get_mut(&name) else { return };
        let Some(side) = session.ends.iter().position(|end| *end == host) else { return };
        if session.sides[side] != Side::Up {
            return;
        }
        let to = 1 - side;
        let bytes = frame.encoded_len();
        let link = &mut self.net.links[session.link];
        let mut at_us = link.arrival_us(to, bytes, self.now_us);
        let copies = if link.lossy > 0 && link.rng.chance(link.lossy) { link.rng.below(3) } else { 1 };
        let overtaken = link.lossy > 0 && link.rng.chance(link.lossy);
        if overtaken {
            at_us += link.rng.spread(1000, 5_000_000);
        } else {
            let last = session.last_us[to].entry(stream).or_default();
            at_us = at_us.max(*last + 1);
            *last = at_us;
        }
        session.marred |= copies == 0 || overtaken;
        self.net.lost += u64::from(copies == 0);
        for _ in 0..copies {
            let flying = Flying { session: name, to, stream, frame: frame.clone(), bytes };
            self.at_us(at_us, Event::Arrive(Box::new(flying)));
        }
    }
}

impl World {
    /// The channels there are.
    #[must_use]
    pub fn channels() -> usize {
        CHANNELS.len()
    }
}
