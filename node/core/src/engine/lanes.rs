//! What waits to be handed on, by class and destination: a window onto the table of due envelopes. A lane remembers
//! how far it has looked and what of it is in a neighbour's hands; the order itself is on disk.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Class, NodeId};

/// What waits for one destination in one class.
#[derive(Default, Debug)]
pub(super) struct Lane {
    /// Everything below is in somebody's hands or gone.
    pub cursor: u64,
    /// There may be something at or behind the cursor.
    pub waiting: bool,
    /// Offered or sent, unanswered.
    pub in_hand: BTreeSet<u64>,
    /// The first that was passed over because its source is refused, and how many were.
    skipped: Option<(u64, usize)>,
}

/// Due envelopes of refused sources that a lane passes over before it waits.
const SKIPPED: usize = 4096;

/// All lanes. One for each destination with due mail.
#[derive(Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<(Class, NodeId), Lane>,
}

impl Lanes {
    /// Something became due.
    pub(super) fn note(&mut self, class: Class, destination: NodeId, due: u64) {
        let lane = self.lanes.entry((class, destination)).or_insert_with(|| Lane { cursor: due, ..Lane::default() });
        lane.waiting = true;
        lane.cursor = lane.cursor.min(due);
    }

    /// A neighbour no longer has this in hand and it is still due.
    pub(super) fn put_back(&mut self, class: Class, destination: NodeId, due: u64) {
        if let Some(lane) = self.lanes.get_mut(&(class, destination)) {
            lane.in_hand.remove(&due);
            lane.cursor = lane.cursor.min(due);
            lane.waiting = true;
        }
    }

    /// This is due no more.
    pub(super) fn done(&mut self, class: Class, destination: NodeId, due: u64) {
        if let Some(lane) = self.lanes.get_mut(&(class, destination)) {
            lane.in_hand.remove(&due);
            if lane.in_hand.is_empty() && !lane.waiting && lane.skipped.is_none() {
                self.lanes.remove(&(class, destination));
            }
        }
    }

    /// Passes over what a refused source has here; `false` when it has been too much.
    pub(super) fn skip(&mut self, class: Class, destination: NodeId, due: u64) -> bool {
        let Some(lane) = self.lanes.get_mut(&(class, destination)) else { return false };
        let (first, count) = lane.skipped.map_or((due, 1), |(first, count)| (first.min(due), count + 1));
        lane.skipped = Some((first, count));
        count < SKIPPED
    }

    /// Refusals have ended: what was passed over is looked at again.
    pub(super) fn look_back(&mut self) {
        for lane in self.lanes.values_mut() {
            if let Some((first, _)) = lane.skipped.take() {
                lane.cursor = lane.cursor.min(first);
                lane.waiting = true;
            }
        }
    }

    /// The lane of a destination.
    pub(super) fn get(&mut self, class: Class, destination: NodeId) -> Option<&mut Lane> {
        self.lanes.get_mut(&(class, destination))
    }

    /// Destinations for which something waits or is in hand.
    pub(super) fn destinations(&self) -> impl Iterator<Item = NodeId> {
        self.lanes.keys().map(|(_, node)| *node)
    }

    /// Destinations for which something waits, in a class.
    pub(super) fn waiting(&self, class: Class) -> Vec<NodeId> {
        let of_class = (class, NodeId([0; 32]))..=(class, NodeId([u8::MAX; 32]));
        self.lanes.range(of_class).filter(|(_, lane)| lane.waiting).map(|((_, node), _)| *node).collect()
    }
}
