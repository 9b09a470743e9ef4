//! A host: its disk, its clocks, its key, and the process that runs the engine as the real driver does: take what has
//! queued, step, let hints out, sync, let claims out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use waypost_core::engine::effect::{Effect, Reply};
use waypost_core::engine::input::{Input, RequestId, SessionId};
use waypost_core::engine::{Engine, Identity};
use waypost_core::id::{MessageId, NetworkId, NodeId};
use waypost_core::policy::Policy;
use waypost_core::store::kv::StoreError;
use waypost_core::store::mem::MemKv;
use waypost_core::store::tx::{Outcome, Tx, commit};
use waypost_core::time::Now;
use waypost_core::trust::{NodeKey, Proofs, Roots, Roster};
use waypost_proto::hop;

use crate::apps::Apps;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::plan::{HostPlan, Malice};
use crate::rng::Rng;

/// Inputs a round takes at most, as the driver does.
const ROUND_INPUTS: usize = 1024;

/// What runs on a host.
pub enum Process {
    /// Nothing.
    Off,
    /// The engine, waiting for inputs.
    Idle(Box<Engine>),
    /// The engine, while a commit is being synced.
    Syncing(Box<Engine>, Outcome),
}

/// What a process has done since it started: enough to make its memory again.
pub struct Record {
    disk: Disk,
    seed: [u8; 32],
    started: Now,
    rounds: Vec<(Now, Vec<Input>)>,
}

impl Record {
    /// The same, up to here.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { disk: self.disk.clone(), seed: self.seed, started: self.started, rounds: self.rounds.clone() }
    }
}

/// A host.
pub struct Host {
    /// What it was planned as.
    pub plan: HostPlan,
    /// Its key.
    pub key: NodeKey,
    /// Its certificates.
    pub chain: Vec<hop::Signed>,
    /// Its network.
    pub network: NetworkId,
    /// Members its process has met.
    pub roster: Mutex<Roster>,
    /// Signatures that somebody in this world has verified.
    pub proofs: Arc<Proofs>,
    /// Encapsulations its process has opened.
    pub roots: Mutex<Roots>,
    /// Its disk.
    pub disk: Disk,
    /// Its clocks.
    pub clock: Clock,
    /// What runs.
    pub process: Process,
    /// Goes up with every start and end of the process: what was planned for another life does not happen.
    pub life: u64,
    /// Inputs that wait.
    pub queue: VecDeque<Input>,
    /// A round is planned.
    pub round_planned: bool,
    /// The wake that is planned, in true time.
    pub wake_us: u64,
    /// The process stands still until then.
    pub frozen_until_us: u64,
    /// The supervisor does not start it before.
    pub down_until_us: u64,
    /// The supervisor waits so long after the store has failed.
    pub pause_ms: u64,
    /// Commits take this long, instead of what was planned.
    pub slow_commit_us: Option<u64>,
    /// Its disk has little space left, and it knows.
    pub low_on_space: bool,
    /// It is gone for good.
    pub left: bool,
    /// How it lies now.
    pub malice: Option<Malice>,
    /// Recoveries that will be cut short.
    pub doomed_starts: u64,
    /// Its applications.
    pub apps: Apps,
    /// The copy a snapshot made.
    pub snapshot: Option<Disk>,
    /// What the process did, when its memory may be wanted back.
    pub record: Option<Record>,
    /// Its memory is to be recorded.
    pub recording: bool,
    /// Rounds done.
    pub rounds: u64,
    /// Its branch of the random tree.
    pub rng: Rng,
}

impl Host {
    /// Its address.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.key.id()
    }

    /// Its engine, if it runs.
    #[must_use]
    pub fn engine(&self) -> Option<&Engine> {
        match &self.process {
            Process::Off => None,
            Process::Idle(engine) | Process::Syncing(engine, _) => Some(engine),
        }
    }

    /// Whether the process runs and does not stand still.
    #[must_use]
    pub fn is_awake(&self, now_us: u64) -> bool {
        !matches!(self.process, Process::Off) && self.frozen_until_us <= now_us
    }

    fn identity(&self, seed: [u8; 32]) -> Identity {
        let key = NodeKey::from_seed(&self.key.seed());
        Identity { key, network: self.network, chain: self.chain.clone(), proofs: Arc::clone(&self.proofs), seed }
    }

    fn policy(&self) -> Policy {
        let quotas = self.plan.quotas;
        Policy {
            outbox_bytes: quotas.outbox_bytes,
            outbox_messages: quotas.outbox_messages,
            inbox_bytes: quotas.inbox_bytes,
            transit_bytes: quotas.transit_bytes,
            credit_envelopes: quotas.credit_envelopes,
            wave_ms: self.plan.wave_ms,
            build_ms: 1,
            ..Policy::default()
        }
    }

    /// Begins to start: reads the disk. The outcome is not committed yet.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn recover(&mut self, now: Now) -> Result<(Box<Engine>, Outcome), StoreError> {
        self.disk.reopen();
        let seed = self.rng.seed();
        if self.recording {
            self.record = Some(Record { disk: self.disk.clone(), seed, started: now, rounds: Vec::new() });
        }
        let (engine, outcome) = Engine::recover(self.identity(seed), self.policy(), &self.disk, now)?;
        Ok((Box::new(engine), outcome))
    }

    /// The engine runs from here on.
    pub fn started(&mut self, engine: Box<Engine>) {
        self.process = Process::Idle(engine);
        self.life += 1;
        self.queue.clear();
        self.round_planned = false;
        self.wake_us = u64::MAX;
        self.roster = Mutex::new(Roster::trusting(self.network, Arc::clone(&self.proofs)));
        self.roots = Mutex::new(Roots::default());
    }

    /// The process ends at once. `power`: what its last commit comes to is what the disk was armed for.
    pub fn end(&mut self) {
        if let Process::Syncing(_, outcome) = std::mem::replace(&mut self.process, Process::Off) {
            // Nobody hears the answer: claims are lost with the process.
            let _ = commit(&mut self.disk, outcome);
        }
        self.life += 1;
        self.queue.clear();
        self.round_planned = false;
    }

    /// Steps through what has queued. Returns what may leave before the sync; `None` when nothing runs or a commit is
    /// under way.
    ///
    /// # Errors
    /// When the disk cannot be read: the process must end.
    pub fn begin_round(&mut self, now: Now) -> Result<Option<Vec<Effect>>, StoreError> {
        let mut engine = match std::mem::replace(&mut self.process, Process::Off) {
            Process::Idle(engine) => engine,
            other => {
                self.process = other;
                return Ok(None);
            }
        };
        let take = self.queue.len().min(ROUND_INPUTS);
        let mut inputs: Vec<Input> = self.queue.drain(..take).collect();
        if engine.next_wake().is_some_and(|wake| wake <= now.boot_ms) {
            inputs.insert(0, Input::Ticked);
        }
        if let Some(record) = &mut self.record {
            record.rounds.push((now, inputs.clone()));
        }
        let mut outcome = step_all(&mut engine, inputs, now, &self.disk)?;
        self.rounds += 1;
        let hints = outcome.take_hints();
        self.process = Process::Syncing(engine, outcome);
        Ok(Some(hints))
    }

    /// Whether the round has anything to sync.
    #[must_use]
    pub fn has_to_sync(&self) -> bool {
        matches!(&self.process, Process::Syncing(_, outcome) if !outcome.is_empty())
    }

    /// The sync has returned: what the commit made true.
    ///
    /// # Errors
    /// When the commit failed: the process must end.
    pub fn end_round(&mut self) -> Result<Vec<Effect>, StoreError> {
        match std::mem::replace(&mut self.process, Process::Off) {
            Process::Syncing(engine, outcome) => {
                let claims = commit(&mut self.disk, outcome)?;
                self.process = Process::Idle(engine);
                Ok(claims)
            }
            other => {
                self.process = other;
                Ok(Vec::new())
            }
        }
    }

    /// The memory of the process as it was when `record` ends, over the disk it had then.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn resume(&mut self, record: &Record) -> Result<(), StoreError> {
        let mut disk = record.disk.clone();
        let (mut engine, outcome) = Engine::recover(self.identity(record.seed), self.policy(), &disk, record.started)?;
        commit(&mut disk, outcome)?;
        for (now, inputs) in &record.rounds {
            let outcome = step_all(&mut engine, inputs.clone(), *now, &disk)?;
            commit(&mut disk, outcome)?;
        }
        self.disk = disk;
        self.started(Box::new(engine));
        Ok(())
    }

    /// The connections a process believed in when its record ends.
    #[must_use]
    pub fn connections_of(&self, record: &Record) -> Vec<(NodeId, SessionId)> {
        let mut open = BTreeMap::new();
        for input in record.rounds.iter().flat_map(|(_, inputs)| inputs) {
            match input {
                Input::PeerConnected { peer, session, .. } => {
                    open.insert(*peer, *session);
                }
                Input::PeerLost { peer, session } if open.get(peer) == Some(session) => {
                    open.remove(peer);
                }
                _ => {}
            }
        }
        open.into_iter().collect()
    }

    /// What the sender is told of these messages now, without the process noticing: the state and the rungs.
    #[must_use]
    pub fn ladders(&mut self, ids: &[MessageId], now: Now) -> BTreeMap<MessageId, Vec<String>> {
        let Process::Idle(engine) = &mut self.process else { return BTreeMap::new() };
        let mut ladders = BTreeMap::new();
        for (place, id) in ids.iter().enumerate() {
            let request = RequestId(u64::MAX - place as u64);
            let mut tx = Tx::new(&self.disk);
            if engine.step(Input::TraceAsked { request, id: *id, wait: None }, now, &mut tx).is_err() {
                continue;
            }
            let mut outcome = tx.finish();
            let mut effects = outcome.take_hints();
            // Into nowhere: only the answer is wanted.
            effects.extend(commit(&mut MemKv::default(), outcome).unwrap_or_default());
            if let Some(ladder) = effects.into_iter().find_map(ladder_of) {
                ladders.insert(*id, ladder);
            }
        }
        ladders
    }
}

fn ladder_of(effect: Effect) -> Option<Vec<String>> {
    match effect {
        Effect::Reply { reply: Reply::Trace(trace), .. } => {
            Some(trace.ladder.into_iter().map(|rung| rung.state).collect())
        }
        _ => None,
    }
}

fn step_all(engine: &mut Engine, inputs: Vec<Input>, now: Now, disk: &Disk) -> Result<Outcome, StoreError> {
    let mut tx = Tx::new(disk);
    for input in inputs {
        engine.step(input, now, &mut tx)?;
    }
    engine.flush(now, &mut tx)?;
    Ok(tx.finish())
}
