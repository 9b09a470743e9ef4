//! What was handed in, what was answered, what came out: the oracle outside of all nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use waypost_tests::harness::bodies::Checksum;

/// The books of one run. Shared by the applications.
#[derive(Default)]
pub struct Ledger {
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    /// Id → what was sent under it: answered OK.
    accepted: BTreeMap<String, Checksum>,
    /// Id → what came.
    received: BTreeMap<String, Receipt>,
    /// How each consumer's session ended; the last one is still going on.
    sessions: Vec<SessionEnd>,
    violations: Vec<String>,
}

struct Receipt {
    body: Checksum,
    session: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum SessionEnd {
    /// All that it printed is acknowledged, or will be.
    Clean,
    /// The node went away under it: what it printed may come again.
    Cut,
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message was answered OK.
    pub fn was_accepted(&self, id: String, body: Checksum) {
        let mut books = self.books();
        if let Some(before) = books.accepted.insert(id.clone(), body.clone()).filter(|before| *before != body) {
            books.violations.push(format!("{id} was given to two messages, {before:?} and {body:?}"));
        }
    }

    /// A consumer begins.
    pub fn session_began(&self) {
        self.books().sessions.push(SessionEnd::Clean);
    }

    /// The consumer's node went away.
    pub fn session_was_cut(&self) {
        if let Some(session) = self.books().sessions.last_mut() {
            *session = SessionEnd::Cut;
        }
    }

    /// A message came.
    pub fn was_received(&self, id: String, body: Checksum) {
        let mut books = self.books();
        let session = books.sessions.len() - 1;
        let Some(before) = books.received.insert(id.clone(), Receipt { body: body.clone(), session }) else { return };
        if before.body != body {
            books.violations.push(format!("{id} came with {:?} and with {body:?}", before.body));
        }
        // Again is right only if the acknowledgement may have been lost with the node.
        if before.session == session || books.sessions[before.session] == SessionEnd::Clean {
            books.violations.push(format!("{id} came again though it was acknowledged"));
        }
    }

    /// How many were answered OK.
    pub fn accepted(&self) -> usize {
        self.books().accepted.len()
    }

    /// How many different ids came.
    pub fn received(&self) -> usize {
        self.books().received.len()
    }

    /// How many were answered OK and have not come.
    pub fn missing(&self) -> usize {
        let books = self.books();
        books.accepted.keys().filter(|id| !books.received.contains_key(*id)).count()
    }

    /// Everything that contradicts the promise, at the end.
    pub fn findings(&self) -> Vec<String> {
        let books = self.books();
        let mut findings = books.violations.clone();
        for (id, body) in &books.accepted {
            match books.received.get(id) {
                None => findings.push(format!("{id} was accepted and never came")),
                Some(receipt) if receipt.body != *body => findings.push(format!("{id} came with other bytes")),
                Some(_) => {}
            }
        }
        let invented = books.received.keys().filter(|id| !books.accepted.contains_key(*id));
        findings.extend(invented.map(|id| format!("{id} came and nobody sent it")));
        let bodies: BTreeSet<&Checksum> = books.accepted.values().collect();
        if bodies.len() != books.accepted.len() {
            findings.push(format!("{} bodies were accepted as {} messages", bodies.len(), books.accepted.len()));
        }
        findings
    }
}

#[test]
fn the_ledger_finds_loss_damage_doubles_and_inventions() {
    let sum = |text: &str| Checksum::of(text.as_bytes());
    let ledger = Ledger::default();
    let [lost, damaged, good, twice, again] = ["lost", "damaged", "good", "twice", "again"];
    for id in [lost, damaged, good, twice, again, good] {
        ledger.was_accepted(id.into(), sum(id));
    }
    ledger.session_began();
    ledger.was_received(again.into(), sum(again));
    ledger.session_was_cut();
    ledger.session_began();
    for (id, body) in [(again, again), (damaged, "other"), (good, good), (twice, twice)] {
        ledger.was_received(id.into(), sum(body));
    }
    assert_eq!((ledger.missing(), ledger.findings().len()), (1, 2), "{:?}", ledger.findings());
    ledger.session_began();
    ledger.was_received(twice.into(), sum(twice));
    ledger.was_received("new".into(), sum("new"));
    ledger.was_accepted("good-2".into(), sum(good));
    // Came again, invented, and one body accepted twice, which then never came.
    assert_eq!(ledger.findings().len(), 6, "{:?}", ledger.findings());
}
