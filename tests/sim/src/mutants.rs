//! Plants bugs in the engine, one at a time, and looks for the first seed on which the oracle sees each. A bug that no
//! seed shows is a hole in the simulator: a promise that is not checked, or a case that never comes up.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use waypost_core::planted::{Bug, plant};

use crate::plan::Length;
use crate::run::run_seed;

/// How a bug showed.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The seed that showed it.
    pub seed: u64,
    /// The promise that was broken, by the name of its file in `oracle`; `assertion` when the engine itself noticed.
    pub promise: &'static str,
    /// What was seen.
    pub what: String,
}

/// What came of the search for one bug.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// Which.
    pub bug: Bug,
    /// `None`: no seed showed it.
    pub finding: Option<Finding>,
    /// Seeds run with the bug on.
    pub seeds: u64,
}

/// Looks for bugs over many seeds, on all cores.
#[derive(Debug, Default)]
pub struct Hunter {
    /// Seeds that fail with no bug switched on: they are no evidence.
    unsound: BTreeSet<u64>,
    /// Seeds that pass without one.
    sound: BTreeSet<u64>,
    /// The search ends then, wherever it is.
    pub until: Option<Instant>,
}

impl Hunter {
    /// Runs seeds in their order with a bug on until one shows it that is clean without.
    pub fn hunt(&mut self, bug: Bug, seeds: &[u64]) -> Hunt {
        let mut hunt = Hunt { bug, finding: None, seeds: 0 };
        let mut rest = seeds;
        while hunt.finding.is_none() && !rest.is_empty() && !self.is_late() {
            let (found, place) = self.first_broken(bug, rest);
            hunt.seeds += place as u64;
            rest = &rest[place..];
            hunt.finding = found.filter(|found| self.is_sound(found.seed));
        }
        hunt
    }

    fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// The first of the seeds that fails, and how many that took.
    fn first_broken(&self, bug: Bug, seeds: &[u64]) -> (Option<Finding>, usize) {
        plant(Some(bug));
        let next = AtomicU64::new(0);
        let first: Mutex<Option<(usize, Finding)>> = Mutex::new(None);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    loop {
                        let place = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
                        let done = first.lock().is_ok_and(|first| first.as_ref().is_some_and(|(at, _)| *at < place));
                        let Some(seed) = seeds.get(place).filter(|_| !done && !self.is_late()) else { return };
                        let Some(finding) = look(*seed) else { continue };
                        if let Ok(mut first) = first.lock()
                            && first.as_ref().is_none_or(|(at, _)| place < *at)
                        {
                            *first = Some((place, finding));
                        }
                    }
                });
            }
        });
        plant(None);
        let found = first.into_inner().ok().flatten();
        let tried = usize::try_from(next.into_inner()).unwrap_or(usize::MAX).min(seeds.len());
        found.map_or((None, tried), |(place, finding)| (Some(finding), place + 1))
    }

    /// Whether a seed passes with no bug switched on.
    fn is_sound(&mut self, seed: u64) -> bool {
        if !self.sound.contains(&seed) && !self.unsound.contains(&seed) {
            plant(None);
            let set = if look(seed).is_none() { &mut self.sound } else { &mut self.unsound };
            set.insert(seed);
        }
        self.sound.contains(&seed)
    }

    /// Seeds that failed with no bug on.
    #[must_use]
    pub fn unsound(&self) -> &BTreeSet<u64> {
        &self.unsound
    }
}

/// Runs a seed; `None`: all promises were kept.
fn look(seed: u64) -> Option<Finding> {
    match catch_unwind(AssertUnwindSafe(|| run_seed(seed, Length::Short, false))) {
        Ok(Ok(verdict)) => verdict.broken.map(|broken| Finding { seed, promise: broken.promise, what: broken.what }),
        Ok(Err(error)) => Some(Finding { seed, promise: "no world", what: error.to_string() }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let what = text.or_else(|| panic.downcast_ref().copied()).unwrap_or("a panic").to_owned();
            Some(Finding { seed, promise: "assertion", what })
        }
    }
}

/// A line of the table.
#[must_use]
pub fn row(hunt: &Hunt) -> String {
    let Hunt { bug, finding, seeds } = hunt;
    let (name, what, rules) = (bug.name(), bug.what(), bug.rules());
    match finding {
        Some(found) => format!("| {name} | {what} | {rules} | {} | {} | {seeds} |", found.promise, found.seed),
        None => format!("| {name} | {what} | {rules} | **not found** | | {seeds} |"),
    }
}

/// The table's first lines.
pub const HEAD: &str = "| bug | what it does | rules | found by | seed | after seeds |\n|---|---|---|---|---|---|";

/// The whole table.
#[must_use]
pub fn table(hunts: &[Hunt]) -> String {
    let mut text = format!("{HEAD}\n");
    for hunt in hunts {
        let _ = writeln!(text, "{}", row(hunt));
    }
    let found = hunts.iter().filter(|hunt| hunt.finding.is_some()).count();
    let _ = writeln!(text, "\n{found} of {} found.", hunts.len());
    text
}

/// Where each bug showed when this was last written down. Worlds change with the code; the search mends the rest.
pub const RECORDED: &[(Bug, u64)] = &[
    (Bug::ClaimsLeaveAsHints, 0),
    (Bug::CountersSavedNowAndThen, 0),
    (Bug::DueForgottenAtStart, 9),
    (Bug::IncarnationReused, 0),
    (Bug::LeftForgotten, 0),
    (Bug::StagesKept, 99),
    (Bug::SubstatesNotToldAgain, 63),
    (Bug::FilterSkipped, 14),
    (Bug::FloorNotStored, 2),
    (Bug::SkippedEnters, 129),
    (Bug::RangeKeepsCutTags, 55),
    (Bug::ReceiptSpansGap, 206),
    (Bug::TagsNotCompared, 14),
    (Bug::EndingOverwritten, 272),
    (Bug::FreedByHighest, 4),
    (Bug::FloorPassesOpen, 4),
    (Bug::SecondMarkPassesUnconsumed, 0),
    (Bug::WordNotRepeated, 40),
    (Bug::ClosedFlowReopened, 0),
    (Bug::EncapsulationReused, 0),
    (Bug::KeysForgottenAtStart, 0),
    (Bug::KeyNotBound, 0),
    (Bug::CancelledAfterItLeft, 2),
    (Bug::AgesByWallClock, 7),
    (Bug::AgeCountedTwice, 3),
    (Bug::AgeNotCarried, 0),
    (Bug::DelayedTooEarly, 7),
    (Bug::FreedAtCustody, 4),
    (Bug::StandbyDropped, 4),
    (Bug::StandbyNotRevived, 18),
    (Bug::DroppedIgnored, 193),
    (Bug::CustodyOfAnyClass, 245),
    (Bug::WaveNeverRaised, 17),
    (Bug::TakenTwiceInAWave, 780),
    (Bug::HaveForATombstone, 780),
    (Bug::CreditNeverReturned, 35),
    (Bug::RefusedForgotten, 4),
    (Bug::InHandLost, 1),
    (Bug::RefusedAfterRecording, 9),
    (Bug::OutboxNotCountedOff, 0),
    (Bug::BodyNotFreed, 0),
    (Bug::PredecessorIgnored, 4),
    (Bug::SuccessorNotReleased, 4),
    (Bug::SettledStays, 0),
    (Bug::DeliveryCountLost, 1),
    (Bug::LeaseLost, 10),
    (Bug::DeadLetterLost, 8),
];
