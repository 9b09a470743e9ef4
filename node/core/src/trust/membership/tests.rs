//! One network in a test, and every way a certificate, an invitation or a token can be false.

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::*;

mod chains;
mod joining;
mod tokens;

pub(crate) const NOW_MS: u64 = 1_800_000_000_000;
pub(crate) const HOUR_MS: u64 = 3_600_000;
pub(crate) const CLOCK: AdmissionClock =
    AdmissionClock { now_ms: NOW_MS, build_ms: NOW_MS - HOUR_MS, highest_stored_ms: NOW_MS - 1 };
pub(crate) const TERMS: Terms = Terms { once: false, lifetime_ms: HOUR_MS };

/// The key of node `n`.
pub(crate) fn key(n: u8) -> NodeKey {
    NodeKey::from_seed(&[n; 32])
}

/// A clock that has come `ms` further.
pub(crate) fn later(ms: u64) -> AdmissionClock {
    AdmissionClock { now_ms: NOW_MS + ms, ..CLOCK }
}

/// A network with its founder, and a roster that knows the founder.
pub(crate) struct World {
    pub(crate) founder: NodeKey,
    pub(crate) founding: Founding,
    pub(crate) roster: Roster,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::seeded(0)
    }

    pub(crate) fn seeded(seed: u8) -> Self {
        let founder = key(100);
        let founding = found(&mut ChaCha20Rng::from_seed([seed; 32]), founder.id(), NOW_MS - 1);
        let mut roster = Roster::new(founding.network);
        roster.admit_chain(founder.id(), std::slice::from_ref(&founding.certificate)).unwrap();
        Self { founder, founding, roster }
    }

    pub(crate) fn network(&self) -> NetworkId {
        self.founding.network
    }

    pub(crate) fn founder_member(&self) -> Member {
        self.roster.member(&self.founder.id()).unwrap().clone()
    }

    /// The founder's token with the invitation key `n`.
    pub(crate) fn token(&self, terms: Terms, n: u8) -> Token {
        Token::issue(&self.founder, &self.founder_member(), terms, CLOCK, key(n ^ 0x80), &[]).unwrap()
    }

    /// The chain by which the founder admits `subject`, as it would be sent.
    pub(crate) fn admit(&self, n: u8, subject: &NodeKey) -> Vec<hop::Signed> {
        self.admit_by(&self.founder, &self.founder_member(), n, subject)
    }

    /// The chain by which `issuer` invites and admits `subject`.
    pub(crate) fn admit_by(&self, key_of: &NodeKey, issuer: &Member, n: u8, subject: &NodeKey) -> Vec<hop::Signed> {
        let token = Token::issue(key_of, issuer, TERMS, CLOCK, key(n ^ 0x80), &[]).unwrap();
        let join = token.join(subject);
        let admissible = examine(issuer, &self.roster, &join, subject.id(), CLOCK).unwrap();
        admissible.certify(key_of, None).unwrap().chain
    }

    /// Admits `subject` and makes it known.
    pub(crate) fn enrol(&mut self, n: u8, subject: &NodeKey) -> Member {
        let chain = self.admit(n, subject);
        self.roster.admit_chain(subject.id(), &chain).unwrap()
    }

    /// A line of members, each admitted by the one before, down to `depth`.
    pub(crate) fn line(&self, depth: u32) -> (NodeKey, Member) {
        let mut last = (self.founder.clone(), self.founder_member());
        for n in 1..=depth as u8 {
            let chain = self.admit_by(&last.0, &last.1, n, &key(n));
            last = (key(n), verify_chain(self.network(), key(n).id(), &chain).unwrap());
        }
        last
    }
}
