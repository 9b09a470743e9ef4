//! The engine's thread: it takes what has queued up, steps the engine, syncs once, and only then lets claims out (rule
//! CLAIM-1). It decides nothing itself, and it never goes on after the store or the engine has failed (rule STORE-3).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{any::Any, io};

use tokio::runtime;
use tokio::sync::{Notify, mpsc};
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use waypost_core::engine::Engine;
use waypost_core::engine::effect::Effect;
use waypost_core::engine::input::Input;
use waypost_core::store::kv::{Kv, StoreError};
use waypost_core::store::tx::{self, Outcome, Tx};
use waypost_core::time::Now;

use crate::clock::Clock;

/// Inputs in one round at most: what a commit can hold up.
pub const ROUND_INPUTS: u64 = 1024;

/// Bytes of mail in one round at most, give or take the last input: what a round holds in memory.
pub const ROUND_BYTES: usize = 4 << 20;

/// With this the process ends after a failure; whoever started it is to start it again (`EX_TEMPFAIL`, sysexits.h).
pub const EXIT_FAILED: i32 = 75;

/// The clock of timeouts stands still while the host sleeps, boot time does not: so look at it this often.
const LONGEST_WAIT_MS: u64 = 5_000;

/// What is driven. Implemented by [`Engine`]; its contract is in the engine's own module.
pub trait Steps {
    /// Takes one input.
    ///
    /// # Errors
    /// When the store failed.
    fn step(&mut self, input: Input, now: Now, tx: &mut Tx<'_>) -> Result<(), StoreError>;

    /// Ends a round.
    ///
    /// # Errors
    /// When the store failed.
    fn flush(&mut self, now: Now, tx: &mut Tx<'_>) -> Result<(), StoreError>;

    /// Boot milliseconds at which `Ticked` is wanted.
    fn next_wake(&self) -> Option<u64>;
}

impl Steps for Engine {
    fn step(&mut self, input: Input, now: Now, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        Self::step(self, input, now, tx)
    }

    fn flush(&mut self, now: Now, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        Self::flush(self, now, tx)
    }

    fn next_wake(&self) -> Option<u64> {
        Self::next_wake(self)
    }
}

/// Where effects go.
pub trait Outlets {
    /// Does what the engine wants. Called on the engine's thread: it must not block, and may drop what has no room,
    /// because every effect can be derived again (rule CLAIM-2).
    fn carry_out(&self, effect: Effect);
}

/// Why the engine's thread ended before it was asked to. The process is to end with [`EXIT_FAILED`].
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// What was not acknowledged is indeterminate; the next start reads the disk and tells (rule STORE-3).
    #[error("{0}; the node ends and recovers from disk at its next start")]
    Store(#[from] StoreError),
    /// A defect: memory may contradict the disk.
    #[error("the engine broke off ({0}): this is a defect in waypost; the node ends and recovers at its next start")]
    Panicked(String),
    /// The system did not give what the thread needs.
    #[error("the engine's thread cannot run: {0}")]
    System(#[from] io::Error),
}

/// What the engine's thread has done so far, and since when it has been at it.
#[derive(Debug, Default)]
pub struct Counters {
    rounds: AtomicU64,
    inputs: AtomicU64,
    commits: AtomicU64,
    last_commit_us: AtomicU64,
    busy_since_ms: AtomicU64,
}

impl Counters {
    /// Rounds ended.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Inputs taken, ticks not counted.
    pub fn inputs(&self) -> u64 {
        self.inputs.load(Ordering::Relaxed)
    }

    /// Rounds that had something to sync, and synced it.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Microseconds the last commit took.
    pub fn last_commit_us(&self) -> u64 {
        self.last_commit_us.load(Ordering::Relaxed)
    }

    /// Boot milliseconds at which the running round began; `None` between rounds. A round that lasts means a disk that
    /// does not answer.
    pub fn busy_since_ms(&self) -> Option<u64> {
        Some(self.busy_since_ms.load(Ordering::Relaxed)).filter(|since| *since > 0)
    }
}

/// The running thread.
pub struct DriverHandle {
    thread: JoinHandle<()>,
    stop: Arc<Notify>,
    counters: Arc<Counters>,
}

impl DriverHandle {
    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Takes no new inputs; what is queued is still done and committed. Dropping all senders does the same.
    pub fn stop(&self) {
        self.stop.notify_one();
    }

    /// Whether the thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the thread to end, and with it the store to close. Blocks.
    pub fn join(self) {
        // The thread catches what panics in it; a panic of the `fatal` callback has been printed.
        let _ = self.thread.join();
    }
}

/// Starts the engine's thread. What the engine's recovery wanted must have been committed before.
///
/// After a failure no claim leaves any more, and `fatal` is called on the thread, once: it should end the process.
///
/// # Errors
/// When the system gives no thread.
pub fn spawn<S: Steps + Send + 'static>(
    engine: S,
    kv: Box<dyn Kv + Send>,
    inputs: mpsc::Receiver<Input>,
    outlets: impl Outlets + Send + 'static,
    clock: Clock,
    fatal: impl FnOnce(Fatal) + Send + 'static,
) -> io::Result<DriverHandle> {
    let (stop, counters) = (Arc::new(Notify::new()), Arc::new(Counters::default()));
    let mut driver =
        Driver { engine, kv, inputs, outlets, clock, stop: Arc::clone(&stop), counters: Arc::clone(&counters) };
    let thread = thread::Builder::new().name("engine".to_owned()).spawn(move || {
        let ended = catch_unwind(AssertUnwindSafe(|| driver.run()));
        if let Err(why) = ended.unwrap_or_else(|panic| Err(Fatal::Panicked(words_of(&*panic)))) {
            tracing::error!("{why}");
            fatal(why);
        }
    })?;
    Ok(DriverHandle { thread, stop, counters })
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".to_owned())
}

struct Driver<S, O> {
    engine: S,
    kv: Box<dyn Kv + Send>,
    inputs: mpsc::Receiver<Input>,
    outlets: O,
    clock: Clock,
    stop: Arc<Notify>,
    counters: Arc<Counters>,
}

impl<S: Steps, O: Outlets> Driver<S, O> {
    fn run(&mut self) -> Result<(), Fatal> {
        let runtime = runtime::Builder::new_current_thread().enable_time().build()?;
        loop {
            match runtime.block_on(self.wait()) {
                Ok(Some(input)) => self.round(Some(input))?,
                Ok(None) => return Ok(self.round(None)?),
                Err(_) if self.is_due(self.clock.now()) => self.round(None)?,
                Err(_) => {}
            }
        }
    }

    /// The next input, `None` when there will be no more; an error when it is time to look whether something is due.
    async fn wait(&mut self) -> Result<Option<Input>, Elapsed> {
        let now_ms = self.clock.now().boot_ms;
        let wait_ms = self.engine.next_wake().map_or(LONGEST_WAIT_MS, |wake| wake.saturating_sub(now_ms));
        let next = async {
            tokio::select! {
                biased;
                () = self.stop.notified() => self.inputs.close(),
                input = self.inputs.recv() => return input,
            }
            self.inputs.recv().await
        };
        timeout(Duration::from_millis(wait_ms.min(LONGEST_WAIT_MS)), next).await
    }

    fn is_due(&self, now: Now) -> bool {
        self.engine.next_wake().is_some_and(|wake| wake <= now.boot_ms)
    }

    /// One round: everything that is queued, one commit, then what the commit made true.
    fn round(&mut self, first: Option<Input>) -> Result<(), StoreError> {
        let now = self.clock.now();
        self.counters.busy_since_ms.store(now.boot_ms.max(1), Ordering::Relaxed);
        let mut outcome = self.step_all(first, now)?;
        self.carry_out(outcome.take_hints());
        let claims = self.commit(outcome)?;
        self.carry_out(claims);
        self.counters.rounds.fetch_add(1, Ordering::Relaxed);
        self.counters.busy_since_ms.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Steps through what has accumulated. Nothing is waited for: while one round syncs, the next one gathers.
    fn step_all(&mut self, first: Option<Input>, now: Now) -> Result<Outcome, StoreError> {
        let is_due = self.is_due(now);
        let mut tx = Tx::new(&*self.kv);
        if is_due {
            self.engine.step(Input::Ticked, now, &mut tx)?;
        }
        let (mut taken, mut bytes, mut next) = (0, 0, first);
        while let Some(input) = next {
            taken += 1;
            bytes += input.weight();
            self.engine.step(input, now, &mut tx)?;
            let is_full = taken >= ROUND_INPUTS || bytes >= ROUND_BYTES;
            next = if is_full { None } else { self.inputs.try_recv().ok() };
        }
        self.counters.inputs.fetch_add(taken, Ordering::Relaxed);
        self.engine.flush(now, &mut tx)?;
        Ok(tx.finish())
    }

    fn commit(&mut self, outcome: Outcome) -> Result<Vec<Effect>, StoreError> {
        if outcome.is_empty() {
            return tx::commit(&mut *self.kv, outcome);
        }
        let began_us = self.clock.boot_us();
        let claims = tx::commit(&mut *self.kv, outcome)?;
        let took_us = self.clock.boot_us().saturating_sub(began_us);
        self.counters.last_commit_us.store(took_us, Ordering::Relaxed);
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        Ok(claims)
    }

    fn carry_out(&self, effects: Vec<Effect>) {
        for effect in effects {
            self.outlets.carry_out(effect);
        }
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
