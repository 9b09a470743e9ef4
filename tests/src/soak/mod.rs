//! Many simulated worlds over all cores: which seeds, how they went, what they cost, and the table at the end.

mod table;

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use waypost_sim::plan::Length;
use waypost_sim::run::{Verdict, run_seed};
use waypost_sim::seen::Seen;

/// A seed and the length of its world.
pub type Job = (u64, Length);

/// How the seeds of one length went.
#[derive(Default)]
pub struct Group {
    /// CPU milliseconds a seed.
    pub cpu_ms: Vec<f64>,
    /// What the dearest cost, and which it was.
    pub dearest: (f64, u64),
    /// Events, faults, crashes, messages a seed.
    pub steps: Vec<u64>,
    /// Faults a seed.
    pub faults: Vec<u64>,
    /// Ends of processes a seed.
    pub crashes: Vec<u64>,
    /// Messages accepted a seed.
    pub messages: Vec<u64>,
}

/// How all of them went.
#[derive(Default)]
pub struct Summary {
    /// By length.
    pub short: Group,
    /// By length.
    pub long: Group,
    /// What failed: the seed, its length, and what was broken.
    pub failures: Vec<(Job, String)>,
    /// Microseconds of true time simulated.
    pub simulated_us: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Rare paths.
    pub seen: Seen,
    /// Frames carried.
    pub frames: u64,
    /// Messages handed to applications.
    pub delivered: u64,
    /// How long it took.
    pub took: Duration,
}

impl Summary {
    fn take(&mut self, (seed, length): Job, verdict: Verdict, cpu_ms: f64) {
        let group = if length == Length::Long { &mut self.long } else { &mut self.short };
        group.cpu_ms.push(cpu_ms);
        if cpu_ms > group.dearest.0 {
            group.dearest = (cpu_ms, seed);
        }
        group.steps.push(verdict.steps);
        group.faults.push(verdict.faults.values().sum());
        group.crashes.push(verdict.crashes);
        group.messages.push(verdict.messages.0);
        self.simulated_us += verdict.simulated_us;
        self.delivered += verdict.messages.1;
        self.frames += verdict.carried.values().sum::<u64>();
        self.seen.add(&verdict.seen);
        for (kind, times) in verdict.faults {
            *self.faults.entry(kind).or_default() += times;
        }
        if let Some(broken) = verdict.broken {
            let at_ms = broken.at_us / 1000;
            self.failures.push(((seed, length), format!("{} at {at_ms} ms: {}", broken.promise, broken.what)));
        }
    }

    /// Seeds run.
    #[must_use]
    pub fn seeds(&self) -> usize {
        self.short.steps.len() + self.long.steps.len()
    }
}

/// What to call a seed to see it again.
#[must_use]
pub fn replay((seed, length): Job) -> String {
    let long = if length == Length::Long { " --long" } else { "" };
    format!("cargo run --release -p waypost-tests --bin sim -- --seed {seed}{long} --trace")
}

/// Runs seeds over all cores. With `twice` each is run twice and the hashes of its stories are compared.
///
/// # Errors
/// When a world cannot be made: a defect of the simulator.
pub fn run(jobs: &[Job], twice: bool) -> anyhow::Result<Summary> {
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    let mut summary = Summary::default();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (done, results) = mpsc::sync_channel(cores * 4);
    thread::scope(|scope| {
        for _ in 0..cores {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // A panic is a failure of its seed, and the others still count.
                    let result = catch_unwind(|| run_one(*job, twice));
                    if done.send((*job, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut progress = Progress { of: jobs.len(), began, shown: began };
        for (job, result) in results {
            let before = summary.failures.len();
            match result {
                Ok(result) => {
                    let (verdict, cpu_ms, same) = result?;
                    summary.take(job, verdict, cpu_ms);
                    if !same {
                        summary.failures.push((job, "two runs told different stories".to_owned()));
                    }
                }
                Err(_) => summary.failures.push((job, "it panicked; its words are above".to_owned())),
            }
            summary.failures[before..].iter().for_each(|(job, what)| eprintln!("{what}\n  {}", replay(*job)));
            progress.show(&summary);
        }
        anyhow::Ok(())
    })?;
    summary.took = began.elapsed();
    Ok(summary)
}

fn run_one((seed, length): Job, twice: bool) -> anyhow::Result<(Verdict, f64, bool)> {
    let before = cpu_ms();
    let verdict = run_seed(seed, length, false)?;
    let took = cpu_ms() - before;
    let same = !twice || run_seed(seed, length, false)?.hash == verdict.hash;
    Ok((verdict, took, same))
}

/// CPU milliseconds of this thread.
fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1000.0 + time.tv_nsec as f64 / 1e6
}

struct Progress {
    of: usize,
    began: Instant,
    shown: Instant,
}

impl Progress {
    /// A line a second on a terminal, one in half a minute in a log.
    fn show(&mut self, summary: &Summary) {
        let terminal = std::io::stderr().is_terminal();
        let pause = Duration::from_secs(if terminal { 1 } else { 30 });
        if self.shown.elapsed() < pause {
            return;
        }
        self.shown = Instant::now();
        let seeds = summary.seeds();
        let rate = seeds as f64 / self.began.elapsed().as_secs_f64();
        let (begin, end) = if terminal { ("\r\x1b[2K", "") } else { ("", "\n") };
        eprint!("{begin}{seeds} of {} seeds, {rate:.1} a second, {} failures{end}", self.of, summary.failures.len());
        // A lost progress line is no failure.
        let _ = std::io::stderr().flush();
    }
}
