//! One connection to a neighbour: credit, transfers in flight, offers, what it has been told. Gone with the connection;
//! everything in it can be derived again from disk and from the next hello.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::effect::Stream;
use super::input::SessionId;
use super::pace::Telling;
use crate::hop::Span;
use crate::id::{Class, Incarnation, NodeId};
use crate::numbers::Numbers;
use crate::planted::{self, Bug};
use crate::store::tables::{DueKey, EnvelopeKey, FlowHandle};

/// A neighbour that takes anything at all answers within this (rule HOP-11).
const ANSWER_MS: u64 = 60_000;
/// No link that carries mail is slower.
const SLOWEST_BYTES_PER_S: u64 = 512;

/// An envelope that was offered or sent and not answered for.
#[derive(Clone, Copy, Debug)]
pub(super) struct InHand {
    /// Its place among the due.
    pub due: DueKey,
    /// Its row.
    pub key: EnvelopeKey,
    /// Its size on the wire.
    pub bytes: u64,
}

/// What goes out in one class.
#[derive(Default, Debug)]
pub(super) struct Outgoing {
    pub granted_bytes: u64,
    pub granted_envelopes: u64,
    pub sent_bytes: u64,
    pub sent_envelopes: u64,
    /// By transfer number.
    pub in_flight: BTreeMap<u64, InHand>,
    /// Offered, wanted, waiting for credit.
    pub wanted: VecDeque<InHand>,
    /// Items in unanswered offers.
    pub offered: usize,
}

impl Outgoing {
    /// Whether an envelope of this size may be sent (rule CREDIT-1).
    pub(super) fn has_credit(&self, bytes: u64) -> bool {
        self.sent_envelopes < self.granted_envelopes && self.sent_bytes.saturating_add(bytes) <= self.granted_bytes
    }

    /// Notes an envelope as sent.
    pub(super) fn send(&mut self, transfer: u64, envelope: InHand) {
        self.sent_bytes += envelope.bytes;
        self.sent_envelopes += 1;
        self.in_flight.insert(transfer, envelope);
    }
}

/// What comes in in one class.
#[derive(Default, Debug)]
pub(super) struct Incoming {
    pub taken_bytes: u64,
    pub taken_envelopes: u64,
    pub granted_bytes: u64,
    pub granted_envelopes: u64,
    /// Held since the last custody was told.
    pub held: Numbers,
    /// Gone, to be told.
    pub gone: Vec<u64>,
}

impl Incoming {
    /// Counts an envelope that came.
    pub(super) fn arrive(&mut self, bytes: u64) {
        self.taken_bytes += bytes;
        self.taken_envelopes += 1;
    }

    /// What custody to tell, and forgets it (rule CUSTODY-2).
    pub(super) fn take_custody(&mut self) -> Vec<Span> {
        std::mem::take(&mut self.held).spans().to_vec()
    }

    /// New totals of credit when half of the window is used (rule CREDIT-2).
    pub(super) fn replenish(&mut self, window_bytes: u64, window_envelopes: u64) -> Option<(u64, u64)> {
        if planted::is(Bug::CreditNeverReturned) && self.granted_envelopes > 0 {
            return None;
        }
        let bytes_left = self.granted_bytes.saturating_sub(self.taken_bytes);
        let envelopes_left = self.granted_envelopes.saturating_sub(self.taken_envelopes);
        if self.granted_envelopes > 0 && bytes_left > window_bytes / 2 && envelopes_left > window_envelopes / 2 {
            return None;
        }
        self.granted_bytes = self.taken_bytes + window_bytes;
        self.granted_envelopes = self.taken_envelopes + window_envelopes;
        Some((self.granted_bytes, self.granted_envelopes))
    }
}

/// Which store of a neighbour refuses: its inbox may be full while it carries on for others, and the other way round.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Refusing {
    Inbox,
    Transit,
}

impl Refusing {
    /// What mail for `destination` needs at `peer`.
    pub(super) fn of(peer: NodeId, destination: NodeId) -> Self {
        if peer == destination { Self::Inbox } else { Self::Transit }
    }
}

/// A connected neighbour.
#[derive(Debug)]
pub(super) struct Link {
    pub session: SessionId,
    pub transport: &'static str,
    pub incarnation: Incarnation,
    pub rtt_us: u64,
    pub out: [Outgoing; 3],
    pub inc: [Incoming; 3],
    pub next_offer: u64,
    /// Unanswered offers: class, and what the items were; `None` when answered.
    pub offers: BTreeMap<u64, (Class, Vec<Option<InHand>>)>,
    /// Versions of words and receipts this connection has carried, either way.
    pub words: BTreeMap<FlowHandle, u64>,
    pub receipts: BTreeMap<FlowHandle, u64>,
    pub telling: Telling,
    /// Boot milliseconds of the last answer, or of when something was first awaited since (rule HOP-11).
    pub heard_ms: u64,
    /// Signers whose chains were given on each stream.
    chains: BTreeSet<(Stream, NodeId)>,
}

impl Link {
    pub(super) fn new(session: SessionId, transport: &'static str, incarnation: Incarnation) -> Self {
        Self {
            session,
            transport,
            incarnation,
            rtt_us: 0,
            out: Default::default(),
            inc: Default::default(),
            next_offer: 1,
            offers: BTreeMap::new(),
            words: BTreeMap::new(),
            receipts: BTreeMap::new(),
            telling: Telling::default(),
            heard_ms: 0,
            chains: BTreeSet::new(),
        }
    }

    /// Whether a signer's chain must be given with the next frame of its on a stream; notes it as given (rule SIGN-6).
    pub(super) fn must_show(&mut self, stream: Stream, signer: NodeId) -> bool {
        if self.chains.len() > 65_536 {
            self.chains.clear();
        }
        self.chains.insert((stream, signer))
    }

    /// How long to wait for the next answer: a minute, and what the bytes sent take on the slowest link there is
    /// (rule HOP-11).
    pub(super) fn patience_ms(&self) -> u64 {
        let bytes: u64 = self.out.iter().flat_map(|out| out.in_flight.values()).map(|sent| sent.bytes).sum();
        ANSWER_MS + bytes * 1000 / SLOWEST_BYTES_PER_S
    }

    /// Everything offered or sent and not answered.
    pub(super) fn in_hand(&self) -> impl Iterator<Item = &InHand> {
        let out = self.out.iter().flat_map(|out| out.in_flight.values().chain(&out.wanted));
        out.chain(self.offers.values().flat_map(|(_, items)| items.iter().flatten()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CREDIT-1 and CREDIT-2: nothing is sent beyond the credit, and credit comes back before it runs dry.
    #[test]
    fn credit_bounds_what_is_sent() {
        let mut incoming = Incoming::default();
        assert_eq!(incoming.replenish(1000, 4), Some((1000, 4)));
        let mut outgoing = Outgoing { granted_bytes: 1000, granted_envelopes: 4, ..Default::default() };
        let key = (NodeId([1; 32]), 2, 1);
        assert!(outgoing.has_credit(1000) && !outgoing.has_credit(1001));
        outgoing.send(1, InHand { due: key, key: (1, 1), bytes: 600 });
        assert!(!outgoing.has_credit(401));
        incoming.arrive(600);
        assert_eq!(incoming.replenish(1000, 4), Some((1600, 5)));
        assert_eq!(incoming.replenish(1000, 4), None);
    }
}
