//! The simulator's worlds over real stores: every row lies in RocksDB besides the model, every read must give what the
//! model has, and when a process ends another opens what its files hold at that moment (rules STORE-1, STORE-3).
//! Promises are judged by the simulator's oracle, as ever.

#![expect(clippy::unwrap_used, reason = "a test fails where it finds what should not be")]

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::{fs, io};

use bytes::Bytes;
use tempfile::TempDir;
use waypost::disk::Terms;
use waypost::quarantine;
use waypost::store::RocksKv;
use waypost_core::id::Class;
use waypost_core::store::kv::{Batch, Kv, Pair, StoreError, Table};
use waypost_sim::disk::{Disk, Real};
use waypost_sim::plan::{Fault, Length, LinkPlan, Plan, Send};
use waypost_sim::run::{Verdict, run_plan, run_world};
use waypost_sim::world::World;

/// Worlds that are run over real stores, as many as take some ten seconds.
const WORLDS: u64 = 10;
/// Of the walk: a world that ends without its month of oblivion.
const SEED: u64 = 2;

/// Names of a directory's files, below it too, with their sizes.
type Listing = Vec<(PathBuf, u64)>;

/// A store in a directory of its own.
struct Store {
    dir: TempDir,
    kv: RocksKv,
    /// How often a process has begun on one of a world's stores.
    starts: Rc<Cell<usize>>,
}

impl Store {
    fn open(dir: TempDir, starts: Rc<Cell<usize>>) -> Result<Self, StoreError> {
        let terms = Terms { force: true, accept_loss: false };
        let kv = RocksKv::open(dir.path(), terms).map_err(|error| StoreError::Failed(error.to_string()))?;
        assert!(quarantine::last_loss(dir.path()).is_none(), "the store lost writes");
        Ok(Self { dir, kv, starts })
    }
}

/// In memory where there is some: what is proved here is what files hold, not that a disk keeps them.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Real for Store {
    /// As `kill -9` leaves it: the files as they are, of a database that nobody closed.
    fn crash(&mut self) -> Result<(), StoreError> {
        let left = loop {
            let (left, before) = (directory(), listing(self.dir.path()));
            // RocksDB's own threads tidy up: a copy across that is of no moment.
            let copied = copy(self.dir.path(), left.path());
            if copied.is_ok() && before == listing(self.dir.path()) {
                break left;
            }
        };
        self.starts.set(self.starts.get() + 1);
        *self = Self::open(left, Rc::clone(&self.starts))?;
        Ok(())
    }
}

impl Kv for Store {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.kv.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        self.kv.scan(table, from, to, limit)
    }

    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.kv.commit(batch)
    }
}

fn listing(dir: &Path) -> Listing {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(found) if found.is_dir() => all.extend(listing(&entry.path())),
            found => all.push((entry.path(), found.map_or(0, |found| found.len()))),
        }
    }
    all.sort();
    all
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if entry.is_dir() {
            fs::create_dir(to.join(&name))?;
            copy(&entry, &to.join(name))?;
        } else if name != "ballast" {
            fs::copy(&entry, to.join(name))?;
        }
    }
    Ok(())
}

/// Runs a plan over real stores; tells how often a process began besides.
fn run(plan: Plan, prepare: impl FnOnce(&mut World)) -> (Verdict, usize) {
    let mut world = World::new(plan, false).unwrap();
    let starts = Rc::new(Cell::new(0));
    for host in &mut world.hosts {
        host.disk = Disk::over(Box::new(Store::open(directory(), Rc::clone(&starts)).unwrap()));
    }
    prepare(&mut world);
    (run_world(world), starts.get())
}

/// Every fault of a drawn world but those that put another disk in the place of one, and the story is the model's to the
/// last byte.
#[test]
fn worlds_over_real_stores_are_the_worlds_over_the_model() {
    let mut starts = 0;
    for seed in 0..WORLDS {
        let mut plan = Plan::draw(seed, Length::Short);
        plan.faults.retain(|(_, fault)| {
            !matches!(
                fault,
                Fault::RotLog { .. }
                    | Fault::Snapshot { .. }
                    | Fault::Restore { .. }
                    | Fault::Wipe { .. }
                    | Fault::Clone { .. }
                    | Fault::Resume { .. }
            )
        });
        let model = run_plan(plan.clone(), false).unwrap();
        let (verdict, begun) = run(plan, |_| {});
        assert!(verdict.broken.is_none(), "seed {seed}: {:?}", verdict.broken);
        assert_eq!(verdict.hash, model.hash, "seed {seed}: another story than over the model");
        starts += begun;
    }
    println!("{WORLDS} worlds, {starts} starts on what a crash left");
}

/// A, B and C in a row; mail of every class both ways, under keys and in order, cancelled, put off, expired and streamed.
fn walk() -> Plan {
    let mut plan = Plan::draw(SEED, Length::Steady);
    plan.hosts.truncate(3);
    plan.links = [(0, 1), (1, 2)].map(|(a, b)| LinkPlan { a, b, latency_us: (500, 500), bytes_per_ms: 1000 }).into();
    let send = Send {
        from: 0,
        to: 2,
        count: 1,
        size: 100,
        class: Class::Normal,
        lifetime_ms: 600_000,
        keyed: true,
        ordered: false,
        delay_ms: 0,
        cancel_after_ms: None,
    };
    plan.work = vec![
        (1000, Send { count: 3, ordered: true, ..send.clone() }),
        (1001, Send { from: 2, to: 0, class: Class::Urgent, ..send.clone() }),
        (2000, Send { size: 300_000, class: Class::Bulk, ..send.clone() }),
        (3000, Send { from: 1, to: 1, ..send.clone() }),
        (4000, Send { delay_ms: 60_000, cancel_after_ms: Some(2000), ..send.clone() }),
        (5000, Send { delay_ms: 3000, ..send.clone() }),
        (6000, Send { lifetime_ms: 1, ..send }),
    ];
    (plan.faults, plan.faults_end_ms) = (Vec::new(), 10_000);
    plan
}

/// One world for each commit of the walk on each host, in which the process ends there, as often as there are commits.
fn crash_at_every_commit(written: bool) {
    for host in 0..walk().hosts.len() {
        for commits in 0.. {
            let (verdict, starts) = run(walk(), |world| world.hosts[host].disk.break_at(commits, written));
            assert!(verdict.broken.is_none(), "host {host}, commit {commits}: {:?}", verdict.broken);
            if starts == walk().hosts.len() {
                println!("host {host}: {commits} commits");
                assert!(commits > 20, "host {host} has little to do");
                break;
            }
        }
    }
}

#[test]
fn a_crash_before_any_commit_breaks_no_promise() {
    crash_at_every_commit(false);
}

/// What was written is there, though nobody was told.
#[test]
fn a_crash_after_any_commit_breaks_no_promise() {
    crash_at_every_commit(true);
}
