//! Spends the time: every core runs every target in turn, keeps what reached something new, and writes down what fails.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::mutate::mutate;
use super::{Target, regressions, targets};
use crate::rng::Rng;

/// An execution that takes longer has hung.
const HUNG: Duration = Duration::from_secs(20);
/// Memory of the whole process that no input explains, in bytes.
const TOO_LARGE: u64 = 2 << 30;
/// Inputs kept of a target at most.
const CORPUS: usize = 4000;
/// Time slices of each target: all are reached early, also in a short run.
const SLICES: u32 = 4;

thread_local! {
    static PANICKED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Order {
    /// How long.
    pub time: Duration,
    /// What everything is drawn from.
    pub seed: u64,
    /// Only this target.
    pub target: Option<String>,
    /// How many threads.
    pub threads: usize,
    /// Where failing inputs go.
    pub folder: PathBuf,
}

/// What came of a target.
#[derive(Default, Debug)]
pub struct Tally {
    /// Inputs run.
    pub runs: u64,
    /// Time taken, of all threads.
    pub spent: Duration,
    /// Classes of results.
    pub classes: BTreeSet<u64>,
    /// The first input that failed, and how.
    pub failed: Option<(Vec<u8>, String)>,
}

/// By target.
type Tallies = BTreeMap<&'static str, Tally>;
/// What each thread runs now, for whoever looks whether it hangs.
type Running = Mutex<Option<(Instant, &'static str, Vec<u8>)>>;

/// Runs all that was ordered. Failing inputs are written to the folder.
///
/// # Errors
/// When there is no such target, or an input cannot be written.
pub fn run(order: &Order) -> anyhow::Result<Tallies> {
    std::panic::set_hook(Box::new(|what| PANICKED.with_borrow_mut(|last| *last = what.to_string())));
    let running: Vec<Running> = (0..order.threads).map(|_| Mutex::new(None)).collect();
    let tallies = Mutex::new(Tallies::new());
    let failures: Vec<anyhow::Error> = std::thread::scope(|scope| {
        let work = |thread| {
            let (running, tallies) = (&running[thread], &tallies);
            scope.spawn(move || spend(order, thread as u64, running, tallies))
        };
        let threads: Vec<_> = (0..order.threads).map(work).collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::park_timeout(Duration::from_millis(100));
            look_for_hangs(order, &running);
        }
        let ended = threads.into_iter().filter_map(|thread| match thread.join() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(anyhow::anyhow!("the fuzzer itself has failed")),
        });
        ended.collect()
    });
    if let Some(error) = failures.into_iter().next() {
        return Err(error);
    }
    let tallies = tallies.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (name, tally) in &tallies {
        if let Some((input, what)) = &tally.failed {
            write_down(&order.folder, name, input, what)?;
        }
    }
    Ok(tallies)
}

fn look_for_hangs(order: &Order, running: &[Running]) {
    let resident = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = resident.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    for slot in running {
        let now = slot.lock().map(|now| now.clone()).unwrap_or_default();
        let Some((since, name, input)) = now else { continue };
        let (slow, large) = (since.elapsed() > HUNG, pages * 4096 > TOO_LARGE);
        if slow || large {
            let what = if slow { "it has hung" } else { "it takes more memory than any input explains" };
            let _ = write_down(&order.folder, name, &input, what);
            std::process::exit(1);
        }
    }
}

/// One thread: every target in turn, over and over.
fn spend(order: &Order, thread: u64, running: &Running, tallies: &Mutex<Tallies>) -> anyhow::Result<()> {
    let mut all = targets()?;
    if let Some(wanted) = &order.target {
        let names: Vec<&str> = all.iter().map(|target| target.name()).collect();
        anyhow::ensure!(names.contains(&wanted.as_str()), "there is no target {wanted:?}: one of {}", names.join(", "));
        all.retain(|target| target.name() == wanted);
    }
    let share = order.time / (all.len() as u32 * SLICES);
    let mut corpora: Vec<Corpus> = all.iter().map(|target| Corpus::new(target.as_ref(), order.seed, thread)).collect();
    for _ in 0..SLICES {
        for (target, corpus) in all.iter_mut().zip(&mut corpora) {
            let begun = Instant::now();
            while begun.elapsed() < share && corpus.tally.failed.is_none() {
                corpus.step(target.as_mut(), running);
            }
            corpus.tally.spent += begun.elapsed();
        }
    }
    let mut sums = tallies.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (target, corpus) in all.iter().zip(corpora) {
        let sum = sums.entry(target.name()).or_default();
        sum.runs += corpus.tally.runs;
        sum.spent += corpus.tally.spent;
        sum.classes.extend(corpus.tally.classes);
        sum.failed = sum.failed.take().or(corpus.tally.failed);
    }
    Ok(())
}

/// The inputs of one target in one thread.
struct Corpus {
    kept: Vec<Vec<u8>>,
    /// Not run yet.
    first: Vec<Vec<u8>>,
    rng: Rng,
    tally: Tally,
}

impl Corpus {
    fn new(target: &dyn Target, seed: u64, thread: u64) -> Self {
        let mut first = target.seeds();
        // Last in, first out: what was found once is run before anything else.
        first.extend(regressions::of(target.name()));
        let rng = Rng::of(seed, target.name(), thread);
        Self { kept: Vec::new(), first, rng, tally: Tally::default() }
    }

    fn step(&mut self, target: &mut dyn Target, running: &Running) {
        let (input, is_first) = match self.first.pop() {
            Some(input) => (input, true),
            None => (self.draw(), false),
        };
        if let Ok(mut now) = running.lock() {
            *now = Some((Instant::now(), target.name(), input.clone()));
        }
        let result = execute(target, &input);
        if let Ok(mut now) = running.lock() {
            *now = None;
        }
        self.tally.runs += 1;
        match result {
            Err(what) => self.tally.failed = Some((input, what)),
            Ok(classes) => {
                let before = self.tally.classes.len();
                self.tally.classes.extend(classes);
                let is_new = self.tally.classes.len() > before;
                if (is_first || is_new) && self.kept.len() < CORPUS {
                    self.kept.push(input);
                }
            }
        }
    }

    fn draw(&mut self) -> Vec<u8> {
        if self.kept.is_empty() {
            return Vec::new();
        }
        // What was kept last is as likely as all else: that is where something is new.
        let recent = self.kept.len() - 1 - self.rng.index(self.kept.len().min(16));
        let at = if self.rng.chance(300) { recent } else { self.rng.index(self.kept.len()) };
        let donor = self.rng.index(self.kept.len());
        mutate(&mut self.rng, &self.kept[at], &self.kept[donor])
    }
}

/// One execution: a panic is a failure with its words.
///
/// # Errors
/// How it failed.
pub fn execute(target: &mut dyn Target, input: &[u8]) -> Result<Vec<u64>, String> {
    match catch_unwind(AssertUnwindSafe(|| target.run(input))) {
        Ok(result) => result,
        Err(_) => Err(PANICKED.with_borrow(Clone::clone)),
    }
}

fn write_down(folder: &Path, name: &str, input: &[u8], what: &str) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let path = folder.join(format!("{name}-{}", &blake3::hash(input).to_hex()[..12]));
    std::fs::write(&path, input).with_context(|| format!("{} cannot be written", path.display()))?;
    eprintln!("{name} FAILED: {what}\n  again: fuzz --replay {}", path.display());
    Ok(())
}

/// Runs a written input once more. The file's name begins with the target's.
///
/// # Errors
/// How it fails, or why it cannot be run.
pub fn replay(path: &Path) -> anyhow::Result<()> {
    let input = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut all = targets()?;
    let target = all.iter_mut().find(|target| file.starts_with(&format!("{}-", target.name())));
    let target = target.with_context(|| format!("{file:?} does not begin with the name of a target and a dash"))?;
    let classes = target.run(&input).map_err(|what| anyhow::anyhow!("{what}"))?;
    println!("{}: {} bytes, {} classes of results, nothing broken", target.name(), input.len(), classes.len());
    Ok(())
}
