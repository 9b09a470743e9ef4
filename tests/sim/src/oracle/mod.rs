//! Who knows what every application was told, and judges by that alone. Each file below holds one promise; this one
//! holds the record they read.

mod accept;
mod age;
mod bounds;
mod claims;
mod content;
mod ending;
mod held;
mod lies;
mod liveness;
mod once;
mod order;
mod recovery;

use std::collections::{BTreeMap, BTreeSet};

use waypost_core::id::{MessageId, NodeId};

use crate::apps::mark_of;
use crate::plan::{Fault, Plan, Send};

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Which, by the name of its file.
    pub promise: &'static str,
    /// True time in microseconds.
    pub at_us: u64,
    /// What was seen.
    pub what: String,
}

/// How often a message was handed out on a channel, and what came of it.
#[derive(Clone, Debug, Default)]
struct Entry {
    deliveries: u32,
    settled: bool,
    refused: bool,
    first_us: u64,
}

/// All that applications were told of a message.
#[derive(Clone, Debug)]
pub struct Told {
    call: usize,
    place: usize,
    send: Send,
    id: Option<MessageId>,
    accepted_us: Option<u64>,
    cancel_asked: bool,
    ladder: Vec<String>,
    ending: Option<String>,
    entries: BTreeMap<usize, Entry>,
}

impl Told {
    /// It was consumed or refused by an application, or dead-lettered and then consumed.
    fn is_settled(&self) -> bool {
        self.entries.values().any(|entry| entry.settled)
    }
}

/// What weakens the promise on a host.
#[derive(Clone, Debug, Default)]
struct Doubt {
    /// Its disk lost what it had synced, the last time then.
    disk_us: Option<u64>,
    /// There were two of it.
    twins: bool,
    /// Bits of a body rotted.
    rot: bool,
    /// It is gone for good.
    gone: bool,
    /// It lies.
    lies: bool,
}

/// The oracle.
pub struct Oracle {
    /// By call and place in it.
    messages: BTreeMap<(usize, usize), Told>,
    by_id: BTreeMap<MessageId, (usize, usize)>,
    marks: BTreeMap<String, (usize, usize)>,
    answered: BTreeSet<usize>,
    doubts: Vec<Doubt>,
    /// For copies of hosts, whose copy.
    originals: Vec<usize>,
    /// Ladders as they were when a process ended between two commits.
    before: BTreeMap<usize, BTreeMap<MessageId, Vec<String>>>,
    inbox_bytes: Vec<u64>,
    /// The addresses of members that lie.
    liars: Vec<NodeId>,
    /// Addresses of the hosts of the plan.
    nodes: Vec<NodeId>,
    /// When the calls of the plan are made.
    planned_us: Vec<u64>,
    /// What a frame may be older than when it leaves, because a disk is slow or a process stands still.
    held_up_us: u64,
    /// Some host boots again: ages may be off by what a peer's clock confirms.
    reboots: bool,
    said: held::Said,
    /// Every start has one of its own (rule START-1).
    incarnations: BTreeSet<[u8; 16]>,
    broken: Vec<Broken>,
}

impl Oracle {
    /// Nothing has been told yet.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let doubts = plan.hosts.iter().map(|host| Doubt { lies: host.malice.is_some(), ..Doubt::default() });
        Self {
            messages: BTreeMap::new(),
            by_id: BTreeMap::new(),
            marks: BTreeMap::new(),
            answered: BTreeSet::new(),
            doubts: doubts.collect(),
            originals: (0..plan.hosts.len()).collect(),
            before: BTreeMap::new(),
            inbox_bytes: plan.hosts.iter().map(|host| host.quotas.inbox_bytes).collect(),
            liars: Vec::new(),
            nodes: Vec::new(),
            planned_us: plan.work.iter().map(|(at_ms, _)| at_ms * 1000).collect(),
            held_up_us: plan.faults.iter().map(|(_, fault)| held_up_us(fault)).max().unwrap_or(0),
            reboots: plan.faults.iter().any(|(_, fault)| matches!(fault, Fault::PowerCut { .. })),
            said: held::Said::default(),
            incarnations: BTreeSet::new(),
            broken: Vec::new(),
        }
    }

    /// The hosts of the plan have these addresses.
    pub fn meet(&mut self, nodes: Vec<NodeId>) {
        self.nodes = nodes;
    }

    /// Whether a promise was broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    /// The first broken promise.
    #[must_use]
    pub fn broken(&self) -> Option<&Broken> {
        self.broken.first()
    }

    /// Messages accepted, and of them those that applications were handed.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let accepted = self.messages.values().filter(|told| told.accepted_us.is_some());
        (accepted.count() as u64, self.messages.values().filter(|told| !told.entries.is_empty()).count() as u64)
    }

    fn breaks(&mut self, promise: &'static str, at_us: u64, what: String) {
        self.broken.push(Broken { promise, at_us, what });
    }

    // ---- what weakens the promise ----

    /// A host's disk lost synced writes, or its memory went back.
    pub fn doubted(&mut self, at_us: u64, host: usize) {
        let host = self.originals[host];
        self.doubts[host].disk_us = Some(at_us);
        self.before.remove(&host);
    }

    /// A host got a twin.
    pub fn copied(&mut self, at_us: u64, host: usize, copy: usize) {
        self.doubted(at_us, host);
        self.doubts[host].twins = true;
        debug_assert_eq!(copy, self.originals.len(), "copies come in order");
        self.originals.push(host);
    }

    /// A machine was resumed from a snapshot of its memory: until its next start it gives numbers out a second time.
    pub fn resumed(&mut self, at_us: u64, host: usize) {
        self.doubted(at_us, host);
        self.doubts[host].twins = true;
    }

    /// A bit of a body flipped on a host.
    pub fn rotted(&mut self, _at_us: u64, host: usize) {
        let host = self.originals[host];
        self.doubts[host].rot = true;
    }

    /// A host will not come back.
    pub fn gone(&mut self, host: usize) {
        self.doubts[host].gone = true;
    }

    /// A node stopped for good, because it found its twin.
    pub fn stopped(&mut self, at_us: u64, host: usize, why: &str) {
        let original = self.originals[host];
        if !self.doubts[original].twins && !self.doubts[original].lies {
            self.breaks("claims", at_us, format!("{host} stopped though nobody copied it: {why}"));
        }
    }

    /// Whether a host is a copy of another.
    #[must_use]
    pub fn is_copy(&self, host: usize) -> bool {
        self.originals[host] != host
    }

    /// Whose copy a host is; its own place if it is none.
    #[must_use]
    pub fn original_of(&self, host: usize) -> usize {
        self.originals[host]
    }

    /// A node found evidence of a clone, a rollback or a lost disk: there must have been one.
    pub fn alarmed(&mut self, at_us: u64, host: usize, why: &str) {
        let doubt = self.doubt(host);
        if !doubt.twins && !doubt.rot && doubt.disk_us.is_none() && !self.doubts.iter().any(|doubt| doubt.lies) {
            self.breaks("claims", at_us, format!("{host} raises an alarm though nothing happened to it: {why}"));
        }
    }

    fn doubt(&self, host: usize) -> &Doubt {
        &self.doubts[self.originals[host]]
    }

    /// Whether a message's host still answers for it in full: no disk lost it, nobody spoke in its name.
    fn vouches(&self, host: usize, told: &Told) -> bool {
        let doubt = self.doubt(host);
        !doubt.twins && doubt.disk_us.is_none_or(|at_us| told.accepted_us.is_some_and(|accepted| accepted > at_us))
    }

    fn is_strict(&self, told: &Told) -> bool {
        self.vouches(told.send.from, told) && self.vouches(told.send.to, told)
    }

    fn name(told: &Told) -> String {
        let id = told.id.map_or_else(|| "an unanswered message".to_owned(), |id| id.to_string());
        format!("{id} (call {}, from {} to {})", mark_of(told.call, told.place), told.send.from, told.send.to)
    }
}

/// How long a fault may lie between the moment an engine decides and the moment its frame leaves.
fn held_up_us(fault: &Fault) -> u64 {
    match fault {
        Fault::DiskSlow { commit_ms, .. } => commit_ms * 1000,
        Fault::Freeze { ms, .. } => ms * 1000,
        _ => 0,
    }
}
