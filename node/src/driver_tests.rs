//! The order of commits and claims, what a round takes, and that nothing leaves after a failure.

use std::sync::mpsc as replies;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use waypost_core::engine::input::StreamId;
use waypost_core::store::kv::{Batch, Pair, Table};
use waypost_core::store::mem::MemKv;

use super::*;
use crate::testing::until;

/// What happened, in order.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn write(&self, line: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line.into());
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, word: &str) -> usize {
        self.lines().iter().filter(|line| *line == word).count()
    }
}

/// Stores in memory, notes each commit, and fails from the n-th on.
struct NotingKv(MemKv, Diary, usize);

impl Kv for NotingKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.0.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        self.0.scan(table, from, to, limit)
    }

    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        if self.1.count("commit") >= self.2 {
            self.1.write("failed");
            return Err(StoreError::Failed("no space".to_owned()));
        }
        self.1.write("commit");
        self.0.commit(batch)
    }
}

/// Writes a row, hints and claims for each end of a body; panics when one is abandoned; wants one tick.
struct Fake {
    diary: Diary,
    wake: Option<u64>,
}

impl Steps for Fake {
    fn step(&mut self, input: Input, _now: Now, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        match input {
            Input::BodyEnded { stream } => {
                tx.put_raw(Table::Meta, stream.0.to_be_bytes().to_vec(), Bytes::new());
                tx.hint(Effect::Stop { why: "hint".to_owned() });
                tx.claim(Effect::Stop { why: "claim".to_owned() });
            }
            Input::Ticked => {
                self.diary.write("tick");
                self.wake = None;
            }
            Input::BodyAbandoned { .. } => panic!("a defect"),
            _ => {}
        }
        Ok(())
    }

    fn flush(&mut self, _now: Now, _tx: &mut Tx<'_>) -> Result<(), StoreError> {
        self.diary.write("flush");
        Ok(())
    }

    fn next_wake(&self) -> Option<u64> {
        self.wake
    }
}

impl Outlets for Diary {
    fn carry_out(&self, effect: Effect) {
        if let Effect::Stop { why } = effect {
            self.write(why);
        }
    }
}

struct Rig {
    diary: Diary,
    sender: mpsc::Sender<Input>,
    handle: DriverHandle,
    fatal: replies::Receiver<String>,
}

fn ended(stream: u64) -> Input {
    Input::BodyEnded { stream: StreamId(stream) }
}

/// Queues inputs, then starts a driver whose store fails after so many commits.
fn start(queued: Vec<Input>, commits: usize, wake_in_ms: Option<u64>) -> Rig {
    let (diary, clock) = (Diary::default(), Clock::new().unwrap());
    let (sender, receiver) = mpsc::channel(8192);
    for input in queued {
        sender.try_send(input).unwrap();
    }
    let wake = wake_in_ms.map(|ms| clock.now().boot_ms + ms);
    let engine = Fake { diary: diary.clone(), wake };
    let kv = Box::new(NotingKv(MemKv::default(), diary.clone(), commits));
    let (tell, fatal) = replies::channel();
    let handle = spawn(engine, kv, receiver, diary.clone(), clock, move |why| tell.send(why.to_string()).unwrap());
    Rig { diary, sender, handle: handle.unwrap(), fatal }
}

impl Rig {
    /// Lets the driver finish what is queued and gives what happened, the last empty round left out.
    fn finish(self) -> (Vec<String>, Arc<Counters>) {
        let counters = self.handle.counters();
        drop(self.sender);
        self.handle.join();
        let mut lines = self.diary.lines();
        assert_eq!(lines.pop().as_deref(), Some("flush"), "the last round");
        (lines, counters)
    }
}

/// CLAIM-1: claims leave after the sync that makes them true; hints need not wait for it.
#[test]
fn claims_leave_after_the_commit() {
    let (lines, counters) = start(vec![ended(1)], usize::MAX, None).finish();
    assert_eq!(lines, ["flush", "hint", "commit", "claim"]);
    assert_eq!((counters.inputs(), counters.commits(), counters.rounds()), (1, 1, 2));
    assert_eq!(counters.busy_since_ms(), None);
}

#[test]
fn what_has_queued_up_is_one_commit() {
    let (lines, counters) = start((0..1000).map(ended).collect(), usize::MAX, None).finish();
    assert_eq!(lines.iter().filter(|line| *line == "commit").count(), 1);
    assert_eq!(lines.iter().filter(|line| *line == "claim").count(), 1000);
    assert_eq!(counters.inputs(), 1000);
}

#[test]
fn a_round_is_bounded_in_inputs() {
    let (_, counters) = start((0..2 * ROUND_INPUTS + 1).map(ended).collect(), usize::MAX, None).finish();
    assert_eq!((counters.commits(), counters.inputs()), (3, 2 * ROUND_INPUTS + 1));
}

#[test]
fn a_round_is_bounded_in_bytes() {
    let part = Bytes::from(vec![0; ROUND_BYTES / 4]);
    let parts = (0..12).map(|stream| Input::BodyGrew { stream: StreamId(stream), bytes: part.clone() });
    let (lines, counters) = start(parts.collect(), usize::MAX, None).finish();
    assert_eq!(lines, ["flush"; 3]);
    assert_eq!(counters.commits(), 0, "nothing was written, nothing is synced");
}

/// STORE-3, CLAIM-1: when the commit fails no claim leaves, nothing more is taken, and the process is told to end.
#[test]
fn nothing_is_claimed_after_a_failed_commit() {
    let rig = start(vec![ended(1)], 0, None);
    let why = rig.fatal.recv().unwrap();
    assert!(why.contains("no space"), "{why}");
    rig.handle.join();
    assert_eq!(rig.diary.lines(), ["flush", "hint", "failed"]);
    assert!(rig.sender.is_closed(), "whoever asks again is refused");
}

/// STORE-3: what was true before the failure stays said.
#[test]
fn claims_before_a_failure_have_left() {
    let rig = start((0..ROUND_INPUTS + 1).map(ended).collect(), 1, None);
    rig.fatal.recv().unwrap();
    rig.handle.join();
    assert_eq!(rig.diary.count("claim") as u64, ROUND_INPUTS);
}

#[test]
fn a_panic_ends_the_process_too() {
    let rig = start(vec![ended(1), Input::BodyAbandoned { stream: StreamId(1) }], usize::MAX, None);
    let why = rig.fatal.recv().unwrap();
    assert!(why.contains("a defect"), "{why}");
    rig.handle.join();
    assert_eq!(rig.diary.lines(), [""; 0], "the round left nothing behind");
}

#[test]
fn the_engine_is_woken_when_it_wants() {
    let rig = start(vec![], usize::MAX, Some(30));
    until("a tick", || rig.diary.count("tick") > 0);
    let (lines, _) = rig.finish();
    assert_eq!(lines, ["tick", "flush"]);
}

#[test]
fn a_tick_that_is_due_comes_before_queued_inputs() {
    let (lines, _) = start(vec![ended(1)], usize::MAX, Some(0)).finish();
    assert_eq!(lines, ["tick", "flush", "hint", "commit", "claim"]);
}

#[test]
fn a_stop_finishes_what_is_queued() {
    let rig = start((0..5).map(ended).collect(), usize::MAX, None);
    rig.handle.stop();
    rig.handle.join();
    assert_eq!(rig.diary.count("claim"), 5);
    assert!(rig.sender.is_closed());
    assert!(rig.fatal.recv().is_err(), "a stop is no failure");
}
