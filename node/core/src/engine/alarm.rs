//! Timers in memory: each names what is to be looked at again and is derived from disk or from an event. One place for
//! each name; setting it again moves it. Boot milliseconds.

use std::collections::{BTreeMap, BTreeSet};

use super::input::ConsumerId;
use crate::id::NodeId;
use crate::store::tables::FlowHandle;

/// What to look at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Alarm {
    /// Rows of the timer table are due.
    Rows,
    /// Delayed messages are due.
    Delayed,
    /// Mail of a flow has gone without a receipt for too long.
    Retry(FlowHandle),
    /// A word that only raises a mark has waited for mail to ride with.
    Word(FlowHandle),
    /// Sub-states of a flow are to be told.
    Substates(FlowHandle),
    /// This node's fact has changed.
    Publish,
    /// A delivery's lease may have run out.
    Lease(ConsumerId),
    /// A channel has delayed messages.
    Channel(u64),
    /// A refusal by a neighbour has run out.
    Unblock,
    /// A new incarnation is to begin (rule EVIDENCE-2).
    Renew,
    /// A neighbour should have answered by now.
    Answer(NodeId),
    /// A neighbour is to be told more.
    Pace,
    /// More to do in the next round.
    Continue,
}

/// The timers.
#[derive(Default)]
pub(super) struct Alarms {
    at: BTreeMap<Alarm, u64>,
    order: BTreeSet<(u64, Alarm)>,
}

impl Alarms {
    /// Sets a timer, moving it when it is set.
    pub(super) fn set(&mut self, alarm: Alarm, boot_ms: u64) {
        self.clear(alarm);
        self.at.insert(alarm, boot_ms);
        self.order.insert((boot_ms, alarm));
    }

    /// Sets a timer unless it rings earlier already.
    pub(super) fn set_earlier(&mut self, alarm: Alarm, boot_ms: u64) {
        if self.at.get(&alarm).is_none_or(|at| *at > boot_ms) {
            self.set(alarm, boot_ms);
        }
    }

    /// Sets a timer unless it is set.
    pub(super) fn set_if_unset(&mut self, alarm: Alarm, boot_ms: u64) {
        if !self.is_set(alarm) {
            self.set(alarm, boot_ms);
        }
    }

    /// Whether a timer is set.
    pub(super) fn is_set(&self, alarm: Alarm) -> bool {
        self.at.contains_key(&alarm)
    }

    /// Takes a timer off.
    pub(super) fn clear(&mut self, alarm: Alarm) {
        if let Some(at) = self.at.remove(&alarm) {
            self.order.remove(&(at, alarm));
        }
    }

    /// The next timer that has rung by `boot_ms`; it is taken off.
    pub(super) fn ring(&mut self, boot_ms: u64) -> Option<Alarm> {
        let (at, alarm) = *self.order.first()?;
        if at > boot_ms {
            return None;
        }
        self.clear(alarm);
        Some(alarm)
    }

    /// When the next one rings.
    pub(super) fn next(&self) -> Option<u64> {
        self.order.first().map(|(at, _)| *at)
    }
}
