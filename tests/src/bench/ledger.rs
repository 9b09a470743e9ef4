//! The books: what was accepted and when it was handed in, what arrived and when. They must agree to the last message.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use blake3::Hash;

use super::stats::Times;

/// A message seen at one end.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Of its body.
    pub sum: Hash,
    /// When it was handed in, or when it had arrived.
    pub at: Instant,
}

/// What both ends saw.
#[derive(Debug, Default)]
pub struct Ledger {
    accepted: BTreeMap<String, Seen>,
    received: BTreeMap<String, Seen>,
}

impl Ledger {
    /// A says that it answers for a message.
    ///
    /// # Errors
    /// When two messages were given one id.
    pub fn was_accepted(&mut self, id: String, seen: Seen) -> Result<()> {
        ensure!(self.accepted.insert(id.clone(), seen).is_none(), "{id} was given to two messages");
        Ok(())
    }

    /// C handed a message over.
    ///
    /// # Errors
    /// When it did so before.
    pub fn was_received(&mut self, id: String, seen: Seen) -> Result<()> {
        ensure!(self.received.insert(id.clone(), seen).is_none(), "{id} was delivered twice");
        Ok(())
    }

    /// From handing in to arrival, for every message; every one must have come, with its body, and no other.
    ///
    /// # Errors
    /// What is missing, changed or too many.
    pub fn delivered(&self) -> Result<Times> {
        if let Some(id) = self.received.keys().find(|id| !self.accepted.contains_key(*id)) {
            bail!("{id} was delivered and never accepted");
        }
        let took = |(id, sent): (&String, &Seen)| -> Result<Duration> {
            let Some(came) = self.received.get(id) else { bail!("{id} was accepted and never delivered") };
            ensure!(came.sum == sent.sum, "{id} was delivered with another body");
            Ok(came.at.saturating_duration_since(sent.at))
        };
        self.accepted.iter().map(took).collect()
    }

    /// When the last message had arrived.
    #[must_use]
    pub fn last_arrival(&self) -> Option<Instant> {
        self.received.values().map(|seen| seen.at).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(body: &str) -> Seen {
        Seen { sum: blake3::hash(body.as_bytes()), at: Instant::now() }
    }

    fn books(accepted: &[(&str, &str)], received: &[(&str, &str)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (id, body) in accepted {
            ledger.was_accepted((*id).to_owned(), seen(body)).unwrap();
        }
        for (id, body) in received {
            ledger.was_received((*id).to_owned(), seen(body)).unwrap();
        }
        ledger
    }

    #[test]
    fn books_that_agree_give_a_time_for_each_message() {
        let times = books(&[("a", "x"), ("b", "y")], &[("b", "y"), ("a", "x")]).delivered();
        assert_eq!(times.unwrap().count(), 2);
    }

    #[test]
    fn what_is_missing_changed_foreign_or_twice_is_found() {
        let why = |ledger: Ledger| ledger.delivered().unwrap_err().to_string();
        assert!(why(books(&[("a", "x"), ("b", "y")], &[("a", "x")])).contains("b was accepted and never"));
        assert!(why(books(&[("a", "x")], &[("a", "z")])).contains("another body"));
        assert!(why(books(&[("a", "x")], &[("a", "x"), ("c", "x")])).contains("c was delivered and never"));
        let mut twice = books(&[("a", "x")], &[("a", "x")]);
        assert!(twice.was_received("a".to_owned(), seen("x")).is_err());
        assert!(twice.was_accepted("a".to_owned(), seen("x")).is_err());
    }
}
