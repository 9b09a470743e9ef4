//! The source's side of a flow: numbers given out, what has ended, and the word that says so. Pure values; the engine
//! stores them and sends the words.

use bytes::Bytes;
use waypost_proto::{hop, stored};

use crate::envelope::flow_to_wire;
use crate::id::{FlowId, Incarnation};
use crate::limits;
use crate::numbers::Numbers;
use crate::planted::{self, Bug};
use crate::store::kv::{StoreError, Table};
use crate::time::NodeTime;
use crate::trust::Encapsulation;

/// Unconfirmed endings this near in time share a range.
const UNCONFIRMED_MS: u64 = 60 * 60 * 1000;

/// How a message ended. On the wire and on disk as these numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Ending {
    /// Its lifetime ran out at the source.
    Expired = 1,
    /// The sender asked for it.
    Cancelled = 2,
    /// Signed for by the destination.
    Delivered = 3,
    /// Refused for good by the destination, signed.
    Rejected = 4,
    /// Unreadable or in doubt here; reported, never silent.
    Damaged = 5,
}

impl Ending {
    /// From its number.
    #[must_use]
    pub fn from_wire(number: u32) -> Option<Self> {
        [Self::Expired, Self::Cancelled, Self::Delivered, Self::Rejected, Self::Damaged]
            .into_iter()
            .find(|ending| *ending as u32 == number)
    }

    /// Its name on the ladder.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Delivered => "delivered",
            Self::Rejected => "rejected",
            Self::Damaged => "damaged",
        }
    }
}

/// An ending that the destination has not confirmed: it may have received the message all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unconfirmed {
    /// First number.
    pub first: u64,
    /// Last number.
    pub last: u64,
    /// Expired, or asked to be cancelled.
    pub ending: Ending,
    /// Since when.
    pub at: NodeTime,
}

/// What seals the numbers from `first` up, until the next one.
#[derive(Clone, Debug)]
pub struct Sealing {
    /// The first number it serves.
    pub first: u64,
    /// When it was drawn.
    pub drawn_at: NodeTime,
    /// The encapsulated key and its root.
    pub encapsulation: Encapsulation,
}

/// No row of this software has a version as high: it would not have come to count so far.
pub const VERSION_END: u64 = 1 << 62;

/// The source's state of a flow (rules FLOW-1 to FLOW-5, WORD-1 to WORD-5).
#[derive(Clone, Debug)]
pub struct OutFlow {
    /// Which.
    pub id: FlowId,
    /// The next number to give out; the first is 1.
    pub next: u64,
    /// Everything below has ended and is settled.
    pub floor: u64,
    /// Numbers at or above the floor with an ending that stands: by receipt, or because they never left.
    pub settled: Numbers,
    /// Endings the destination has not confirmed.
    pub unconfirmed: Vec<Unconfirmed>,
    /// Of the newest word.
    pub word_version: u64,
    /// The newest word a receipt has echoed.
    pub echoed_version: u64,
    /// The wave of all numbers below `waved_below`; those above are on wave 1.
    pub wave: u32,
    /// See `wave`.
    pub waved_below: u64,
    /// Sub-states are wanted from here up.
    pub second_mark: u64,
    /// No number will follow: the incarnation is over.
    pub closed: bool,
    /// Keys the messages' tags; sealed into every body.
    pub tag_key: [u8; 32],
    /// Newest last.
    pub sealings: Vec<Sealing>,
    /// XOR of the tags of all numbers given out.
    pub tags: u64,
    /// Numbers below may have left this node (rule CANCEL-1).
    pub left_below: u64,
    /// Numbers at or above the second mark with a sub-state.
    pub consumed: Numbers,
    /// Node time of the timer row that ends the flow unechoed; 0: none.
    pub timer: u64,
    /// The destination must hear of a floor as high as this, because numbers below never left and what follows under
    /// their order key waits there for them (rule WORD-3); 0: of none.
    pub owed_floor: u64,
}

impl OutFlow {
    /// A new flow without numbers.
    #[must_use]
    pub fn open(id: FlowId, tag_key: [u8; 32]) -> Self {
        Self {
            id,
            next: 1,
            floor: 1,
            settled: Numbers::new(),
            unconfirmed: Vec::new(),
            word_version: 0,
            echoed_version: 0,
            wave: 1,
            waved_below: 1,
            second_mark: 1,
            closed: false,
            tag_key,
            sealings: Vec::new(),
            tags: 0,
            left_below: 1,
            consumed: Numbers::new(),
            timer: 0,
            owed_floor: 0,
        }
    }

    /// The highest number given out; 0 when none was.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// Whether the sender knows how `number` ended.
    #[must_use]
    pub fn has_ended(&self, number: u64) -> bool {
        number < self.floor
            || self.settled.contains(number)
            || self.unconfirmed.iter().any(|range| range.first <= number && number <= range.last)
    }

    /// Whether every number has ended for good and the flow will get no more (rule FLOW-4).
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.closed && self.floor == self.next
    }

    /// Whether `number` may be sent now (rule FLOW-5).
    #[must_use]
    pub fn in_window(&self, number: u64) -> bool {
        number < self.floor.saturating_add(limits::WINDOW)
    }

    /// The wave `number` travels on (rule WAVE-1).
    #[must_use]
    pub fn wave_of(&self, number: u64) -> u32 {
        if number < self.waved_below { self.wave } else { 1 }
    }

    /// Settles a range: its ending stands. Returns the parts that were not settled before.
    pub fn settle(&mut self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let fresh = self.settled.missing(first.max(self.floor), last);
        self.settled.insert(first.max(self.floor), last);
        for (first, last) in &fresh {
            self.confirm(*first, *last);
        }
        let mut floor = self.settled.first_missing(self.floor);
        if planted::is(Bug::FloorPassesOpen) {
            floor = self.settled.last().map_or(floor, |last| floor.max(last + 1));
        }
        if floor > self.floor {
            self.floor = floor;
            self.settled.remove_below(floor);
            self.word_version += 1;
        }
        fresh
    }

    /// Takes numbers off the list of unconfirmed endings.
    fn confirm(&mut self, first: u64, last: u64) {
        let mut kept = Vec::with_capacity(self.unconfirmed.len());
        for range in self.unconfirmed.drain(..) {
            if range.last < first || last < range.first {
                kept.push(range);
                continue;
            }
            if range.first < first {
                kept.push(Unconfirmed { last: first - 1, ..range });
            }
            if range.last > last {
                kept.push(Unconfirmed { first: last + 1, ..range });
            }
        }
        self.unconfirmed = kept;
    }

    /// Ends numbers that may have left, by the source's own word: `expired`, or `cancel asked` (rule WORD-2).
    pub fn end_unconfirmed(&mut self, range: Unconfirmed) {
        match self.unconfirmed.last_mut() {
            // Of about the same time: the first one's decides when the floor may pass them.
            Some(end)
                if end.ending == range.ending
                    && end.last + 1 == range.first
                    && range.at.since(end.at) < UNCONFIRMED_MS =>
            {
                end.last = range.last;
            }
            _ => self.unconfirmed.push(range),
        }
        self.word_version += 1;
    }

    /// Lets the floor pass unconfirmed endings older than the ladder is kept (rule WORD-4). Returns what was settled.
    pub fn forget_unconfirmed(&mut self, now: NodeTime) -> Vec<(u64, u64)> {
        let old = |range: &&Unconfirmed| now.since(range.at) >= limits::LADDER_MS;
        let old: Vec<_> = self.unconfirmed.iter().filter(old).map(|range| (range.first, range.last)).collect();
        old.into_iter().flat_map(|(first, last)| self.settle(first, last)).collect()
    }

    /// Raises the wave of everything given out so far (rule WAVE-3). At the highest wave it stays.
    pub fn raise_wave(&mut self) {
        if planted::is(Bug::WaveNeverRaised) {
            return;
        }
        self.wave = (self.wave + 1).min(limits::WAVE_MAX);
        self.waved_below = self.next;
        self.word_version += 1;
    }

    /// Marks numbers below `number` as having possibly left. Returns whether that was news.
    pub fn leave(&mut self, number: u64) -> bool {
        let news = number > self.left_below;
        self.left_below = self.left_below.max(number);
        news
    }

    /// What seals `number`.
    #[must_use]
    pub fn sealing_of(&self, number: u64) -> Option<&Sealing> {
        self.sealings.iter().rev().find(|sealing| sealing.first <= number)
    }

    /// Drops encapsulations that no number from the floor up needs (rule SEAL-3).
    pub fn trim_sealings(&mut self) {
        let needed = self.sealings.iter().rposition(|sealing| sealing.first <= self.floor).unwrap_or(0);
        self.sealings.drain(..needed);
    }

    /// The numbers of a range in runs, each with whether the source ended them and nobody confirmed it.
    #[must_use]
    pub fn by_confirmation(&self, first: u64, last: u64) -> Vec<(u64, u64, bool)> {
        let unconfirmed = |number| self.unconfirmed.iter().any(|range| (range.first..=range.last).contains(&number));
        let mut runs: Vec<(u64, u64, bool)> = Vec::new();
        for number in first..=last {
            let late = unconfirmed(number);
            match runs.last_mut() {
                Some(run) if run.2 == late => run.1 = number,
                _ => runs.push((number, number, late)),
            }
        }
        runs
    }

    /// Whether the word says something that the destination must hear even when no mail follows (rule WORD-3).
    #[must_use]
    pub fn word_ends_something(&self) -> bool {
        let owes_floor = self.owed_floor > 0 && self.floor >= self.owed_floor;
        !self.unconfirmed.is_empty() || owes_floor || (self.closed && self.floor == self.next && self.next > 1)
    }

    /// The word as of now, in one page; ranges beyond the page's limit wait for the next version.
    #[must_use]
    pub fn word(&self, signing: Incarnation) -> hop::WordContent {
        let ended = self.unconfirmed.iter().take(limits::PAGE_RANGES).map(|range| hop::EndedRange {
            first: range.first,
            last: range.last,
            ending: range.ending as u32,
        });
        let waved = self.wave > 1 && self.floor < self.waved_below;
        let wave = hop::WaveRange { first: self.floor, last: self.waved_below.saturating_sub(1), wave: self.wave };
        hop::WordContent {
            flow: Some(flow_to_wire(&self.id)),
            signing_incarnation: Bytes::copy_from_slice(&signing.to_bytes()),
            version: self.word_version,
            page: 0,
            floor: self.floor,
            ended: ended.collect(),
            waves: waved.then_some(wave).into_iter().collect(),
            second_mark: self.second_mark,
            end: if self.closed { self.last() } else { 0 },
            closed: self.closed,
        }
    }

    /// As a row.
    #[must_use]
    pub fn to_row(&self) -> stored::OutFlow {
        stored::OutFlow {
            flow: Bytes::copy_from_slice(&self.id.to_bytes()),
            next_number: self.next,
            floor: self.floor,
            ended: spans_to_row(&self.settled),
            unconfirmed: self.unconfirmed.iter().map(unconfirmed_to_row).collect(),
            word_version: self.word_version,
            echoed_version: self.echoed_version,
            wave: self.wave,
            waved_below: self.waved_below,
            second_mark: self.second_mark,
            closed: self.closed,
            tag_key: Bytes::copy_from_slice(&self.tag_key),
            encapsulations: self.sealings.iter().map(sealing_to_row).collect(),
            tags: self.tags,
            left_below: if planted::is(Bug::LeftForgotten) { 1 } else { self.left_below },
            consumed: spans_to_row(&self.consumed),
            timer: self.timer,
            owed_floor: self.owed_floor,
        }
    }

    /// From a row.
    ///
    /// # Errors
    /// When the row is damaged.
    pub fn from_row(row: &stored::OutFlow) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged { table: Table::OutFlow, why: "a field cannot hold that".to_owned() };
        let given = (1..=limits::NUMBER_MAX).contains(&row.next_number) && row.floor <= limits::NUMBER_MAX;
        let sane = given && row.wave <= limits::WAVE_MAX && row.word_version < VERSION_END;
        Ok(Self {
            id: FlowId::from_slice(&row.flow).filter(|_| sane).ok_or_else(damaged)?,
            next: row.next_number,
            floor: row.floor,
            settled: spans_from_row(&row.ended).ok_or_else(damaged)?,
            unconfirmed: row
                .unconfirmed
                .iter()
                .map(|range| unconfirmed_from_row(range).ok_or_else(damaged))
                .collect::<Result<_, _>>()?,
            word_version: row.word_version,
            echoed_version: row.echoed_version,
            wave: row.wave,
            waved_below: row.waved_below,
            second_mark: row.second_mark,
            closed: row.closed,
            tag_key: row.tag_key.as_ref().try_into().map_err(|_| damaged())?,
            sealings: row
                .encapsulations
                .iter()
                .map(|e| sealing_from_row(e).ok_or_else(damaged))
                .collect::<Result<_, _>>()?,
            tags: row.tags,
            left_below: row.left_below,
            consumed: spans_from_row(&row.consumed).ok_or_else(damaged)?,
            timer: row.timer,
            owed_floor: row.owed_floor,
        })
    }
}

/// A set as rows.
#[must_use]
pub fn spans_to_row(numbers: &Numbers) -> Vec<stored::Span> {
    numbers.spans().iter().map(|(first, last)| stored::Span { first: *first, last: *last }).collect()
}

/// A set from rows; `None` when one of them is no range of a flow's numbers.
#[must_use]
pub fn spans_from_row(spans: &[stored::Span]) -> Option<Numbers> {
    let range = |span: &stored::Span| is_range(span.first, span.last).then_some((span.first, span.last));
    spans.iter().map(range).collect()
}

/// Whether `first ..= last` can be numbers of a flow, so that one may count on from them.
#[must_use]
pub fn is_range(first: u64, last: u64) -> bool {
    first <= last && last < limits::NUMBER_MAX
}

fn unconfirmed_to_row(range: &Unconfirmed) -> stored::Unconfirmed {
    stored::Unconfirmed { first: range.first, last: range.last, ending: range.ending as u32, at: range.at.0 }
}

fn unconfirmed_from_row(row: &stored::Unconfirmed) -> Option<Unconfirmed> {
    let ending = Ending::from_wire(row.ending).filter(|_| is_range(row.first, row.last))?;
    Some(Unconfirmed { first: row.first, last: row.last, ending, at: NodeTime(row.at) })
}

fn sealing_to_row(sealing: &Sealing) -> stored::Encapsulation {
    stored::Encapsulation {
        first: sealing.first,
        drawn_at: sealing.drawn_at.0,
        encapsulated: Bytes::copy_from_slice(&sealing.encapsulation.encapsulated),
        root: Bytes::copy_from_slice(sealing.encapsulation.root.as_ref()),
    }
}

fn sealing_from_row(row: &stored::Encapsulation) -> Option<Sealing> {
    let root: [u8; 32] = row.root.as_ref().try_into().ok()?;
    let encapsulation = Encapsulation { encapsulated: row.encapsulated.as_ref().try_into().ok()?, root: root.into() };
    Some(Sealing { first: row.first, drawn_at: NodeTime(row.drawn_at), encapsulation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Class, NodeId};

    fn flow(given: u64) -> OutFlow {
        let id = FlowId {
            source: NodeId([1; 32]),
            destination: NodeId([2; 32]),
            class: Class::Normal,
            incarnation: Incarnation { counter: 1, random: [7; 8] },
        };
        OutFlow { next: given + 1, ..OutFlow::open(id, [3; 32]) }
    }

    fn expired(first: u64, last: u64) -> Unconfirmed {
        Unconfirmed { first, last, ending: Ending::Expired, at: NodeTime(5) }
    }

    /// WORD-1: the floor passes a number only when its ending stands.
    #[test]
    fn the_floor_waits_for_the_lowest_open_number() {
        let mut flow = flow(10);
        assert_eq!(flow.settle(3, 5), vec![(3, 5)]);
        assert_eq!(flow.floor, 1);
        assert_eq!(flow.settle(1, 4), vec![(1, 2)], "a number's first ending stands");
        assert_eq!(flow.floor, 6);
        assert!(flow.settled.is_empty());
    }

    /// WORD-2 and WORD-4: an unconfirmed expiry holds the floor until it is confirmed or older than the ladder.
    #[test]
    fn an_unconfirmed_ending_holds_the_floor() {
        let mut flow = flow(3);
        flow.end_unconfirmed(expired(1, 2));
        assert!(flow.has_ended(2) && !flow.has_ended(3));
        assert_eq!(flow.floor, 1);
        assert!(flow.forget_unconfirmed(NodeTime(limits::LADDER_MS)).is_empty());
        flow.settle(1, 1);
        assert_eq!((flow.floor, flow.unconfirmed.clone()), (2, vec![expired(2, 2)]));
        assert_eq!(flow.forget_unconfirmed(NodeTime(limits::LADDER_MS + 5)), vec![(2, 2)]);
        assert_eq!(flow.floor, 3);
    }

    /// FLOW-5: the window is as wide as it says, and moves with the floor.
    #[test]
    fn a_window_bounds_what_is_sent() {
        let mut flow = flow(2 * limits::WINDOW);
        assert!(flow.in_window(limits::WINDOW) && !flow.in_window(limits::WINDOW + 1));
        flow.settle(1, 1);
        assert!(flow.in_window(limits::WINDOW + 1) && !flow.in_window(limits::WINDOW + 2));
    }

    /// WAVE-1 and WAVE-3: a raise concerns what was given out before it.
    #[test]
    fn a_wave_covers_what_was_given_out() {
        let mut flow = flow(4);
        flow.raise_wave();
        flow.next = 8;
        assert_eq!((flow.wave_of(4), flow.wave_of(5)), (2, 1));
    }

    /// A row in which bits have changed is damaged; nothing counts on from what it says.
    #[test]
    fn a_row_that_cannot_be_is_damaged() {
        let good = flow(9).to_row();
        let refused = |change: fn(&mut stored::OutFlow)| {
            let mut row = good.clone();
            change(&mut row);
            OutFlow::from_row(&row).is_err()
        };
        assert!(!refused(|_| {}));
        assert!(refused(|row| row.next_number = 0));
        assert!(refused(|row| row.floor = u64::MAX));
        assert!(refused(|row| row.wave = u32::MAX));
        assert!(refused(|row| row.word_version = u64::MAX));
        assert!(refused(|row| row.ended.push(stored::Span { first: 1, last: u64::MAX })));
        assert!(refused(|row| row.consumed.push(stored::Span { first: 9, last: 1 })));
        let range = stored::Unconfirmed { first: 1, last: u64::MAX, ending: 1, at: 5 };
        assert!(OutFlow::from_row(&stored::OutFlow { unconfirmed: vec![range], ..good.clone() }).is_err());
    }

    #[test]
    fn a_row_comes_back() {
        let mut flow = flow(9);
        flow.settle(4, 5);
        flow.end_unconfirmed(expired(1, 1));
        flow.raise_wave();
        let back = OutFlow::from_row(&flow.to_row()).unwrap();
        assert_eq!(back.to_row(), flow.to_row());
    }
}
