//! What was handed in, what was answered, what came out: the oracle outside of all nodes.

use std::collections::BTreeMap;
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
    /// Body → how often it was handed in without an answer: each may or may not have been accepted.
    unanswered: BTreeMap<Checksum, u64>,
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

    /// A message was handed in and no answer came.
    pub fn was_unanswered(&self, body: Checksum) {
        *self.books().unanswered.entry(body).or_default() += 1;
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
        let mut unanswered = books.unanswered.clone();
        for (id, body) in &books.accepted {
            match books.received.get(id) {
                None => findings.push(format!("{id} was accepted and never came")),
                Some(receipt) if receipt.body != *body => findings.push(format!("{id} came with other bytes")),
                Some(_) => {}
            }
        }
        for (id, receipt) in books.received.iter().filter(|(id, _)| !books.accepted.contains_key(*id)) {
            match unanswered.get_mut(&receipt.body) {
                Some(left) if *left > 0 => *left -= 1,
                _ => findings.push(format!("{id} came and nobody sent it, or came once too often")),
            }
        }
        findings
    }
}

#[test]
fn the_ledger_finds_loss_damage_doubles_and_inventions() {
    let sum = |text: &str| Checksum::of(text.as_bytes());
    let ledger = Ledger::default();
    for id in ["lost", "damaged", "good", "twice", "again"] {
        ledger.was_accepted(id.into(), sum(id));
    }
    ledger.was_unanswered(sum("perhaps"));
    ledger.session_began();
    ledger.was_received("again".into(), sum("again"));
    ledger.session_was_cut();
    ledger.session_began();
    for (id, body) in [("again", "again"), ("damaged", "other"), ("good", "good"), ("twice", "twice"), ("p", "perhaps")]
    {
        ledger.was_received(id.into(), sum(body));
    }
    assert_eq!(ledger.missing(), 1);
    assert_eq!(ledger.findings().len(), 2, "{:?}", ledger.findings());
    ledger.session_began();
    ledger.was_received("twice".into(), sum("twice"));
    ledger.was_received("p2".into(), sum("perhaps"));
    ledger.was_received("new".into(), sum("new"));
    assert_eq!(ledger.findings().len(), 5, "{:?}", ledger.findings());
}
