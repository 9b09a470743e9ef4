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
    messages: BTreeMap<Id, Entry>,
    /// Answered OK, and not come: kept beside, because it is asked for all the time.
    missing: usize,
    /// How each consumer's session ended; the last one is still going on.
    sessions: Vec<SessionEnd>,
    violations: Vec<String>,
}

/// What is known of one message. Small, for there are millions in a long run.
#[derive(Default)]
struct Entry {
    /// What was sent under its id, once that was answered OK.
    accepted: Option<Sum>,
    /// What came last, and to which session.
    received: Option<(Sum, u32)>,
}

impl Entry {
    fn is_missing(&self) -> bool {
        self.accepted.is_some() && self.received.is_none()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum SessionEnd {
    /// All that it printed is acknowledged, or will be.
    Clean,
    /// The node went away under it: what it printed may come again.
    Cut,
}

/// A message's id as the number it is, shown as the UUID it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Id(u128);

impl Id {
    fn of(text: &str) -> Self {
        Self(u128::from_str_radix(&text.replace('-', ""), 16).unwrap())
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = format!("{:032x}", self.0);
        let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
        write!(out, "{}", parts.join("-"))
    }
}

/// Half of a body's checksum, which is plenty for bodies nobody chose to collide.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Sum(u128);

impl Sum {
    fn of(body: &Checksum) -> Self {
        Self(u128::from_str_radix(&body.0[..32], 16).unwrap())
    }
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message was answered OK.
    pub fn was_accepted(&self, id: &str, body: &Checksum) {
        let (id, body) = (Id::of(id), Sum::of(body));
        let mut books = self.books();
        let entry = books.messages.entry(id).or_default();
        let before = entry.accepted.replace(body);
        let is_missing = before.is_none() && entry.is_missing();
        books.missing += usize::from(is_missing);
        if let Some(before) = before.filter(|before| *before != body) {
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
    pub fn was_received(&self, id: &str, body: &Checksum) {
        let (id, body) = (Id::of(id), Sum::of(body));
        let mut books = self.books();
        let session = books.sessions.len() - 1;
        let entry = books.messages.entry(id).or_default();
        let was_missing = entry.is_missing();
        let before = entry.received.replace((body, u32::try_from(session).unwrap()));
        books.missing -= usize::from(was_missing);
        let Some((first, earlier)) = before else { return };
        if first != body {
            books.violations.push(format!("{id} came with {first:?} and with {body:?}"));
        }
        // Again is right only if the acknowledgement may have been lost with the node.
        let earlier = earlier as usize;
        if earlier == session || books.sessions[earlier] == SessionEnd::Clean {
            books.violations.push(format!("{id} came again though it was acknowledged"));
        }
    }

    /// How many were answered OK.
    pub fn accepted(&self) -> usize {
        self.books().messages.values().filter(|entry| entry.accepted.is_some()).count()
    }

    /// How many different ids came.
    pub fn received(&self) -> usize {
        self.books().messages.values().filter(|entry| entry.received.is_some()).count()
    }

    /// How many were answered OK and have not come.
    pub fn missing(&self) -> usize {
        self.books().missing
    }

    /// Everything that contradicts the promise, at the end.
    pub fn findings(&self) -> Vec<String> {
        let books = self.books();
        let mut findings = books.violations.clone();
        let mut bodies = BTreeSet::new();
        for (id, entry) in &books.messages {
            match (entry.accepted, entry.received) {
                (Some(_), None) => findings.push(format!("{id} was accepted and never came")),
                (None, Some(_)) => findings.push(format!("{id} came and nobody sent it")),
                (Some(sent), Some((came, _))) if sent != came => findings.push(format!("{id} came with other bytes")),
                _ => {}
            }
            if entry.accepted.is_some_and(|body| !bodies.insert(body)) {
                findings.push(format!("{id} is a body that was accepted before under another id"));
            }
        }
        findings
    }
}

#[test]
fn the_ledger_finds_loss_damage_doubles_and_inventions() {
    let sum = |text: &str| Checksum::of(text.as_bytes());
    let ledger = Ledger::default();
    let [lost, damaged, good, twice, again] = ["105", "da", "900d", "22", "a6a1"];
    for id in [lost, damaged, good, twice, again, good] {
        ledger.was_accepted(id, &sum(id));
    }
    ledger.session_began();
    ledger.was_received(again, &sum(again));
    ledger.session_was_cut();
    ledger.session_began();
    for (id, body) in [(again, again), (damaged, "other"), (good, good), (twice, twice)] {
        ledger.was_received(id, &sum(body));
    }
    assert_eq!((ledger.missing(), ledger.findings().len()), (1, 2), "{:?}", ledger.findings());
    ledger.session_began();
    ledger.was_received(twice, &sum(twice));
    ledger.was_received("4e3", &sum("new"));
    ledger.was_accepted("2900d", &sum(good));
    assert_eq!((ledger.missing(), ledger.accepted(), ledger.received()), (2, 6, 5));
    // Came again, invented, and one body accepted twice, which then never came.
    assert_eq!(ledger.findings().len(), 6, "{:?}", ledger.findings());
    let early = Ledger::default();
    early.session_began();
    early.was_received("e", &sum("early"));
    early.was_accepted("e", &sum("early"));
    assert_eq!((early.missing(), early.findings()), (0, vec![]));
    assert_eq!(Id::of("0192d7a0-0000-7000-8000-000000000001").to_string(), "0192d7a0-0000-7000-8000-000000000001");
}
