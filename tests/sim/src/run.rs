//! A seed from its beginning to its verdict: faults and work, then a heal, then the time in which everything must come
//! right, then an idle hour, then the week after which ladders are forgotten.

use std::collections::BTreeMap;

use crate::oracle::Broken;
use crate::plan::{Length, Plan};
use crate::seen::Seen;
use crate::world::{Event, World};

/// After the heal everything must have come right within this: two of the longest waits between waves (an hour each)
/// and an hour for what leases, refusals and thinking applications take.
const BOUND_US: u64 = 4 * 3_600_000_000;

/// How often it is looked whether it has.
const LOOK_US: u64 = 120_000_000;

const HOUR_US: u64 = 3_600_000_000;

/// A ladder is kept for seven days, and a relay's row of a flow for two weeks after its last sign of life.
const LADDER_US: u64 = 30 * 24 * HOUR_US;

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Which.
    pub seed: u64,
    /// What was broken first.
    pub broken: Option<Broken>,
    /// The hash of its story.
    pub hash: [u8; 32],
    /// Events handled until the heal was over.
    pub steps: u64,
    /// True time simulated, in microseconds.
    pub simulated_us: u64,
    /// Messages accepted, and handed out.
    pub messages: (u64, u64),
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Processes that ended.
    pub crashes: u64,
    /// Rare paths.
    pub seen: Seen,
    /// Frames carried, by kind.
    pub carried: BTreeMap<&'static str, u64>,
}

/// Runs a seed.
///
/// # Errors
/// When the world cannot be made: a defect.
pub fn run_seed(seed: u64, length: Length, told: bool) -> anyhow::Result<Verdict> {
    run_plan(Plan::draw(seed, length), told)
}

/// Runs what was planned.
///
/// # Errors
/// When the world cannot be made: a defect.
pub fn run_plan(plan: Plan, told: bool) -> anyhow::Result<Verdict> {
    Ok(run_world(World::new(plan, told)?))
}

/// Runs a world from its beginning to its verdict.
#[must_use]
pub fn run_world(mut world: World) -> Verdict {
    world.go_wrong();
    conclude(world)
}

/// What comes after the last fault: a heal, the time in which everything must come right, and the verdict.
#[must_use]
pub fn conclude(mut world: World) -> Verdict {
    let seed = world.plan.seed;
    let made = world.plan.work.iter().filter(|(at_ms, _)| *at_ms <= world.closes_ms);
    let last_due_ms = made.map(|(at, send)| at + send.delay_ms).max().unwrap_or(0);
    world.heal();
    world.come_right(last_due_ms * 1000);
    let steps = world.steps;
    if !world.oracle.is_broken() && world.oracle.is_plain() {
        world.idle();
        if seed.is_multiple_of(4) {
            world.forget();
        }
    }
    if !world.oracle.is_broken() && world.oracle.is_lied_to() && seed % 4 == 1 {
        world.outlive();
    }
    Verdict {
        seed,
        broken: world.oracle.broken().cloned(),
        hash: world.story.hash(),
        steps,
        simulated_us: world.now_us,
        messages: world.oracle.counts(),
        faults: world.faults,
        crashes: world.crashes,
        seen: world.seen,
        carried: world.net.carried,
    }
}

impl World {
    /// The liveness half: what can arrive arrives within the bound.
    fn come_right(&mut self, last_due_us: u64) {
        let from_us = self.now_us.max(last_due_us);
        // What is due later was accepted later than planned, when its host was up at last.
        while !self.oracle.is_broken() && self.now_us < from_us.max(self.oracle.last_due_us()) + BOUND_US {
            self.run_until(self.now_us + LOOK_US);
            self.ask_all();
            if self.oracle.is_done() && self.now_us > last_due_us {
                return;
            }
        }
        if !self.oracle.is_broken() {
            self.oracle.finish(self.now_us);
        }
    }

    fn ask_all(&mut self) {
        for host in 0..self.plan.hosts.len() {
            self.at_us(self.now_us, Event::Ask { host });
        }
        self.run_until(self.now_us + 2_000_000);
    }

    fn idle(&mut self) {
        // Words that only raise a mark go after a minute, standby copies after their receipt.
        self.run_until(self.now_us + HOUR_US);
        let before: Vec<u64> = self.hosts.iter().map(|host| host.rounds).collect();
        self.run_until(self.now_us + HOUR_US);
        for (host, before) in before.into_iter().enumerate() {
            let rounds = self.hosts[host].rounds - before;
            self.oracle.idled(self.now_us, host, rounds);
            self.oracle.drained(self.now_us, host, &self.hosts[host]);
        }
    }

    fn forget(&mut self) {
        self.run_until(self.now_us + LADDER_US);
        for host in 0..self.hosts.len() {
            self.oracle.forgotten(self.now_us, host, &self.hosts[host]);
        }
    }
    fn outlive(&mut self) {
        self.run_until(self.now_us + LADDER_US);
        for host in 0..self.hosts.len() {
            self.oracle.outlived(self.now_us, host, &self.hosts[host]);
        }
    }
}
