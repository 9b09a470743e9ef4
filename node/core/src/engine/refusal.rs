//! Refusals by neighbours: until when each store of each takes nothing, and how long to wait when it refuses again (rules
//! HOP-6, RETRY-3). They outlive a connection: only silence is forgiven by a new one.

use std::collections::BTreeMap;

use rand_core::Rng as _;

use super::alarm::Alarm;
use super::link::{InHand, Refusing};
use super::{Engine, Round};
use crate::hop::Answer;
use crate::id::NodeId;
use crate::planted::{self, Bug};
use crate::store::kv::StoreError;
use crate::store::tx::Tx;

/// The longest wait this node makes of its own accord; a neighbour may ask for more.
const WAIT_MAX_MS: u64 = 60_000;
/// A neighbour that refused is offered first for so long after its refusal has run out, if it takes nothing before.
const MEMORY_MS: u64 = 2 * WAIT_MAX_MS;
/// Refusals of single sources remembered at most; beyond, a refusal counts for all sources.
const SOURCES: usize = 4096;

/// One refusal.
struct Refusal {
    /// Boot milliseconds.
    until: u64,
    wait_ms: u64,
}

/// Who refuses what, of a source or (`None`) of anybody.
#[derive(Default)]
pub(super) struct Refusals(BTreeMap<(NodeId, Refusing, Option<NodeId>), Refusal>);

impl Refusals {
    fn of(&self, peer: NodeId, what: Refusing, source: NodeId) -> impl Iterator<Item = &Refusal> {
        [None, Some(source)].into_iter().filter_map(move |source| self.0.get(&(peer, what, source)))
    }

    /// Whether a store of a neighbour takes nothing of a source now.
    pub(super) fn blocks(&self, peer: NodeId, what: Refusing, source: NodeId, boot_ms: u64) -> bool {
        self.of(peer, what, source).any(|refusal| refusal.until > boot_ms)
    }

    /// Whether it refused and has taken nothing since: it is asked before anything is sent (rule HOP-3).
    pub(super) fn must_ask(&self, peer: NodeId, what: Refusing, source: NodeId) -> bool {
        self.of(peer, what, source).next().is_some()
    }

    /// It takes mail of a source again.
    fn end(&mut self, peer: NodeId, what: Refusing, source: NodeId) {
        self.0.remove(&(peer, what, None));
        self.0.remove(&(peer, what, Some(source)));
    }

    /// It has started anew.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.0.retain(|(refuser, ..), _| *refuser != peer);
    }
}

impl Engine {
    /// The neighbour takes nothing now: it is asked again when it said, and ever later while it refuses (rule RETRY-3).
    pub(super) fn refused(
        &mut self,
        round: Round,
        peer: NodeId,
        answer: &Answer,
        after_ms: u64,
        source: Option<NodeId>,
    ) {
        let known = source.is_none_or(|_| self.refusals.0.len() < SOURCES);
        let source = source.filter(|_| known);
        for (class, in_hand) in self.answered(round, peer, answer) {
            if !planted::is(Bug::RefusedForgotten) {
                self.lanes.put_back(class, in_hand.due.0, in_hand.due.2);
            }
            self.await_room(round, (peer, Refusing::of(peer, in_hand.due.0), source), after_ms.max(100));
        }
    }

    fn await_room(&mut self, round: Round, key: (NodeId, Refusing, Option<NodeId>), after_ms: u64) {
        let now = round.now.boot_ms;
        let before = self.refusals.0.get(&key);
        let wait_ms = match before {
            // What was under way with it is refused with it.
            Some(refusal) if refusal.until > now => return,
            Some(refusal) => (refusal.wait_ms * 2).min(WAIT_MAX_MS).max(after_ms),
            None => after_ms,
        };
        let until = now + wait_ms + self.rng.next_u64() % (wait_ms / 8 + 1);
        self.refusals.0.insert(key, Refusal { until, wait_ms });
        self.alarms.set_earlier(Alarm::Unblock, until);
    }

    /// The neighbour took something: what it refused before it may take as well.
    pub(super) fn taken_by(&mut self, peer: NodeId, in_hand: InHand, tx: &Tx<'_>) -> Result<(), StoreError> {
        if !self.refusals.0.is_empty()
            && let Some(flow) = self.flow_of(in_hand.key.0, tx)?
        {
            self.refusals.end(peer, Refusing::of(peer, in_hand.due.0), flow.source);
        }
        Ok(())
    }

    /// Neighbours that refused are asked again.
    pub(super) fn unblock(&mut self, round: Round) {
        let now = round.now.boot_ms;
        self.lanes.look_back();
        self.refusals.0.retain(|_, refusal| refusal.until + MEMORY_MS > now);
        if let Some(until) = self.refusals.0.values().map(|refusal| refusal.until).filter(|until| *until > now).min() {
            self.alarms.set_earlier(Alarm::Unblock, until);
        }
    }
}
