//! The two applications: one sends keyed batches and tries again when its node is gone; the other consumes, and comes
//! back when its node does. Both write down what they saw.

use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use waypost_tests::harness::bodies::Checksum;
use waypost_tests::harness::client::{SOON, ids};
use waypost_tests::harness::words::Received;
use waypost_tests::harness::{Client, Random, exit, wait};

use crate::ledger::Ledger;

/// Messages in a batch.
const BATCH: usize = 1000;
/// Accepted and not yet received: above this the sender pauses, so that a run stays bounded.
const AHEAD: usize = 8000;
/// A consumer looks whether it is still wanted when nothing came for so long.
const IDLE: Duration = Duration::from_secs(2);
/// For a node to come back.
const BACK: Duration = Duration::from_secs(120);

/// What both applications work with.
#[derive(Clone)]
pub struct Apps {
    /// The sender's node.
    pub a: Client,
    /// The receiver's node.
    pub c: Client,
    /// Where to send to.
    pub to: String,
    /// The books.
    pub ledger: Arc<Ledger>,
    /// Whether to go on sending.
    pub sending: Arc<AtomicBool>,
    /// Whether to go on receiving.
    pub receiving: Arc<AtomicBool>,
}

fn await_node(client: &Client) {
    wait::until("the node to come back", BACK, &[], || {
        Ok((client.json(["status"], SOON)?.code == exit::OK).then_some(()))
    })
    .unwrap();
}

/// Sends until told to stop.
pub struct Sender {
    apps: Apps,
    random: Random,
    sent: usize,
    batches: usize,
}

impl Sender {
    /// A sender whose bodies are those of `seed`.
    pub fn new(apps: Apps, seed: u64) -> Self {
        Self { apps, random: Random::new(seed ^ 0x5e4d), sent: 0, batches: 0 }
    }

    /// Until told to stop.
    pub fn run(mut self) {
        while self.apps.sending.load(Ordering::Relaxed) {
            self.batch();
            let apps = &self.apps;
            wait::until("the receiver to catch up", BACK, &[], || {
                let go_on = apps.ledger.missing() < AHEAD || !apps.sending.load(Ordering::Relaxed);
                Ok(go_on.then_some(()))
            })
            .unwrap();
        }
    }

    fn body(&mut self) -> String {
        self.sent += 1;
        let length = self.random.below(400) as usize;
        format!("{} {}", self.sent, self.random.letters(length))
    }

    /// A thousand at once under idempotency keys, handed in until they are accepted, some once more: whatever happens to
    /// the node meanwhile, each is one message under one id.
    fn batch(&mut self) {
        self.batches += 1;
        let lines: Vec<String> = (0..BATCH).map(|_| self.body()).collect();
        let key = format!("batch-{}", self.batches);
        let again = self.random.below(10) == 0;
        while !self.hand_in(&lines, &key) {}
        if again {
            while !self.hand_in(&lines, &key) {}
        }
    }

    /// Whether all of it was accepted. What a failed attempt answered for counts too.
    fn hand_in(&self, lines: &[String], key: &str) -> bool {
        let apps = &self.apps;
        let finished = apps.a.send_lines(&apps.to, lines, &["--idempotency-key", key]).unwrap();
        let accepted = ids(&finished).unwrap();
        let done = finished.code == exit::OK;
        assert!(!done || accepted.len() == lines.len(), "send said OK and did not name every message");
        for (id, line) in accepted.into_iter().zip(lines) {
            apps.ledger.was_accepted(&id, &Checksum::of(line.as_bytes()));
        }
        if !done {
            assert!([exit::UNAVAILABLE, exit::TRY_AGAIN].contains(&finished.code), "{finished:?}");
            await_node(&apps.a);
        }
        done
    }
}

/// Receives until told to stop.
pub struct Receiver {
    apps: Apps,
}

impl Receiver {
    /// A receiver.
    pub fn new(apps: Apps) -> Self {
        Self { apps }
    }

    /// Until told to stop and nothing comes any more.
    pub fn run(self) {
        while self.session() || self.apps.receiving.load(Ordering::Relaxed) {
            await_node(&self.apps.c);
        }
    }

    /// One consumer from start to end; whether anything came.
    fn session(&self) -> bool {
        let ledger = &self.apps.ledger;
        ledger.session_began();
        let mut consumer = self.apps.c.follow("work", IDLE).unwrap();
        let mut any = false;
        for line in BufReader::new(consumer.stdout.take().unwrap()).lines() {
            // A consumer that was cut may leave half a line: that message was not acknowledged.
            let Ok(message) = serde_json::from_str::<Received>(&line.unwrap()) else { break };
            ledger.was_received(&message.id, &Checksum::of(&message.body().unwrap()));
            any = true;
        }
        if !consumer.wait().unwrap().success() {
            ledger.session_was_cut();
        }
        any
    }
}
