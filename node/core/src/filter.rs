//! The destination's side of a flow: the permanent duplicate filter and the receipt that speaks from it. Pure values;
//! the engine stores them and signs the receipts (rules FILTER-1 to FILTER-3, RECEIPT-1 to RECEIPT-5).

use bytes::Bytes;
use waypost_proto::{hop, stored};

use crate::envelope::flow_to_wire;
use crate::flow::{VERSION_END, is_range, spans_from_row, spans_to_row};
use crate::id::{FlowId, Incarnation};
use crate::limits;
use crate::numbers::Numbers;
use crate::planted::{self, Bug};
use crate::store::kv::{StoreError, Table};

/// Why a destination rejects for good. Codes of the wire (rule RECEIPT-2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Rejection {
    /// Does not open, or is not what it says.
    Malformed = 1,
    /// Larger than the inbox may ever hold.
    TooLarge = 2,
    /// A body whose other fragments never came.
    Incomplete = 3,
    /// An application refused it after delivery.
    Refused = 4,
    /// Delivered too often without success.
    Deliveries = 5,
    /// For a channel more than a node may have.
    Channels = 6,
    /// Sealed to a key or in a suite that is not known here (rule SEAL-7).
    Sealing = 7,
    /// Its body cannot be read back from the destination's disk (rule DAMAGE-2).
    Damaged = 8,
}

impl Rejection {
    /// For people.
    #[must_use]
    pub fn describe(code: u32) -> &'static str {
        match code {
            1 => "malformed",
            2 => "too large for the inbox",
            3 => "incomplete",
            4 => "refused by the application",
            5 => "delivered too often",
            6 => "too many channels there",
            7 => "sealed to a key or in a suite unknown there",
            8 => "damaged on the destination's disk",
            _ => "an unknown reason",
        }
    }
}

/// Ends of a flow remembered at most.
const ENDS: usize = 16;

/// A run of delivered numbers and the XOR of their tags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivered {
    /// First number.
    pub first: u64,
    /// Last number.
    pub last: u64,
    /// XOR of the tags of all of them.
    pub tags: u64,
}

/// A run of numbers with a reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Coded {
    /// First number.
    pub first: u64,
    /// Last number.
    pub last: u64,
    /// Of [`Rejection`].
    pub reason: u32,
}

/// The destination's state of a flow.
#[derive(Clone, Debug)]
pub struct InFlow {
    /// Which.
    pub id: FlowId,
    /// The source's floor as last heard: nothing below is ever accepted.
    pub floor: u64,
    /// In the inbox, or once there. Ascending, with gaps or tags between them.
    pub delivered: Vec<Delivered>,
    /// Refused for good before they entered.
    pub rejected: Vec<Coded>,
    /// Ended by the source before they came; can never enter.
    pub skipped: Numbers,
    /// Acknowledged by applications.
    pub consumed: Numbers,
    /// Refused by applications.
    pub refused: Vec<Coded>,
    /// Dead-lettered here.
    pub dead: Vec<Coded>,
    /// Sub-states are wanted from here up.
    pub second_mark: u64,
    /// Raised with every change.
    pub version: u64,
    /// The newest word seen.
    pub word_version: u64,
    /// Who signed it.
    pub word_incarnation: Incarnation,
    /// No number above `end` will come.
    pub closed: bool,
    /// See `closed`.
    pub end: u64,
    /// The ends of words that closed the flow; twins close it twice. No delivered range crosses one (rule RECEIPT-6).
    pub ends: Vec<u64>,
    /// Delivered before the disk was lost or rolled back: no tags are known (rule RECOVER-3).
    pub untagged: Numbers,
    /// All of delivered, untagged, rejected and skipped; derived.
    recorded: Numbers,
}

impl InFlow {
    /// A flow nothing has come of.
    #[must_use]
    pub fn open(id: FlowId) -> Self {
        Self {
            id,
            floor: 1,
            delivered: Vec::new(),
            rejected: Vec::new(),
            skipped: Numbers::new(),
            consumed: Numbers::new(),
            refused: Vec::new(),
            dead: Vec::new(),
            second_mark: 1,
            version: 0,
            word_version: 0,
            word_incarnation: Incarnation::default(),
            closed: false,
            end: 0,
            ends: Vec::new(),
            untagged: Numbers::new(),
            recorded: Numbers::new(),
        }
    }

    /// Whether a number may still enter (rule FILTER-1): from the floor up and without a record.
    #[must_use]
    pub fn is_new(&self, number: u64) -> bool {
        number >= self.floor && (planted::is(Bug::FilterSkipped) || !self.recorded.contains(number))
    }

    /// How many of `first ..= last` may still enter.
    #[must_use]
    pub fn open_in(&self, first: u64, last: u64) -> u64 {
        self.recorded.missing(first.max(self.floor), last).iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether all of `first ..= last` have a record or lie below the floor.
    #[must_use]
    pub fn knows(&self, first: u64, last: u64) -> bool {
        let is_recorded = self.recorded.covers(first.max(self.floor), last);
        last < self.floor || (is_recorded && !planted::is(Bug::FilterSkipped))
    }

    /// Whether the source may not yet know of everything recorded here, sub-states included.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        let coded = self.refused.iter().chain(&self.dead).any(|range| range.last >= self.second_mark);
        coded || !self.consumed.is_empty() || self.recorded.last().is_some_and(|last| last >= self.floor)
    }

    /// Records a number as delivered. The caller has asked [`InFlow::is_new`].
    pub fn deliver(&mut self, number: u64, tag: u64) {
        debug_assert!(self.is_new(number), "FILTER-1: {number} entered twice");
        self.recorded.insert(number, number);
        self.version += 1;
        let place = self.delivered.partition_point(|range| range.first < number);
        let gap = if planted::is(Bug::ReceiptSpansGap) { 2 } else { 1 };
        let joins_before =
            place > 0 && self.delivered[place - 1].last + gap >= number && !self.ends.contains(&(number - 1));
        let joins_after =
            self.delivered.get(place).is_some_and(|range| range.first == number + 1) && !self.ends.contains(&number);
        match (joins_before, joins_after) {
            (true, true) => {
                let after = self.delivered.remove(place);
                let before = &mut self.delivered[place - 1];
                before.last = after.last;
                before.tags ^= after.tags ^ tag;
            }
            (true, false) => {
                let before = &mut self.delivered[place - 1];
                before.last = number;
                before.tags ^= tag;
            }
            (false, true) => {
                let after = &mut self.delivered[place];
                after.first = number;
                after.tags ^= tag;
            }
            (false, false) => self.delivered.insert(place, Delivered { first: number, last: number, tags: tag }),
        }
    }

    /// Records what is new of a range as rejected. Returns whether anything was.
    pub fn reject(&mut self, first: u64, last: u64, reason: Rejection) -> bool {
        let fresh = self.recorded.missing(first.max(self.floor), last);
        for (first, last) in &fresh {
            self.recorded.insert(*first, *last);
            insert_coded(&mut self.rejected, Coded { first: *first, last: *last, reason: reason as u32 });
            self.version += 1;
        }
        !fresh.is_empty()
    }

    /// Records a sub-state: consumed by an application.
    pub fn consume(&mut self, number: u64) {
        if number >= self.second_mark {
            self.consumed.insert(number, number);
        }
        self.version += 1;
    }

    /// Records a sub-state: refused or dead-lettered.
    pub fn bury(&mut self, number: u64, reason: Rejection) {
        self.version += 1;
        if number < self.second_mark {
            return;
        }
        let coded = Coded { first: number, last: number, reason: reason as u32 };
        match reason {
            Rejection::Refused => insert_coded(&mut self.refused, coded),
            _ => insert_coded(&mut self.dead, coded),
        }
    }

    /// Takes the source's word in (rules WORD-1, FILTER-2). `tags_of` gives the XOR of the tags of delivered numbers
    /// in a range that the new floor cuts off. Returns whether anything changed.
    ///
    /// # Errors
    /// What `tags_of` says.
    pub fn apply<E>(
        &mut self,
        word: &hop::WordContent,
        signed_by: Incarnation,
        tags_of: impl Fn(u64, u64) -> Result<u64, E>,
    ) -> Result<bool, E> {
        if signed_by == self.word_incarnation && word.version <= self.word_version {
            return Ok(false);
        }
        for range in &word.ended {
            for (first, last) in self.recorded.missing(range.first.max(self.floor), range.last) {
                if !planted::is(Bug::SkippedEnters) {
                    self.recorded.insert(first, last);
                }
                self.skipped.insert(first, last);
            }
        }
        if word.floor > self.floor {
            self.raise_floor(word.floor, &tags_of)?;
        }
        self.second_mark = self.second_mark.max(word.second_mark);
        self.forget_substates();
        if word.closed {
            self.closed = true;
            self.end = word.end;
            self.split_at(word.end, tags_of)?;
        }
        self.word_version = word.version;
        self.word_incarnation = signed_by;
        self.version += 1;
        Ok(true)
    }

    /// Lets no delivered range cross the end of a closed flow: beyond it the source has nothing to compare (rule
    /// RECEIPT-6).
    fn split_at<E>(&mut self, end: u64, tags_of: impl Fn(u64, u64) -> Result<u64, E>) -> Result<(), E> {
        if self.ends.contains(&end) {
            return Ok(());
        }
        self.ends.push(end);
        if self.ends.len() > ENDS {
            self.ends.remove(0);
        }
        let Some(place) = self.delivered.iter().position(|range| range.first <= end && end < range.last) else {
            return Ok(());
        };
        let whole = self.delivered[place];
        let tags = tags_of(whole.first, end)?;
        self.delivered[place] = Delivered { last: end, tags, ..whole };
        self.delivered.insert(place + 1, Delivered { first: end + 1, last: whole.last, tags: whole.tags ^ tags });
        Ok(())
    }

    /// Takes in an own receipt that the disk does not know (rule RECOVER-3): what it names can never enter again.
    /// Returns whether anything changed; the version is above the receipt's in any case.
    ///
    /// # Errors
    /// What `tags_of` says.
    pub fn recover<E>(
        &mut self,
        receipt: &hop::ReceiptContent,
        tags_of: impl Fn(u64, u64) -> Result<u64, E>,
    ) -> Result<bool, E> {
        let mut changed = false;
        if receipt.floor > self.floor && receipt.floor < limits::NUMBER_MAX {
            self.raise_floor(receipt.floor, &tags_of)?;
            changed = true;
        }
        for range in &receipt.rejected {
            for (first, last) in self.record_new(range.first, range.last) {
                insert_coded(&mut self.rejected, Coded { first, last, reason: range.reason });
                changed = true;
            }
        }
        for range in &receipt.skipped {
            for (first, last) in self.record_new(range.first, range.last) {
                self.skipped.insert(first, last);
                changed = true;
            }
        }
        let delivered = receipt.delivered.iter().map(|range| (range.first, range.last));
        for (first, last) in delivered.chain(receipt.untagged.iter().map(|range| (range.first, range.last))) {
            for (first, last) in self.record_new(first, last) {
                self.untagged.insert(first, last);
                changed = true;
            }
        }
        changed |= self.recover_substates(receipt);
        self.version = self.version.max(receipt.version) + u64::from(changed);
        Ok(changed)
    }

    /// Records what is new of a range. Returns it.
    fn record_new(&mut self, first: u64, last: u64) -> Vec<(u64, u64)> {
        if first > last || last >= limits::NUMBER_MAX {
            return Vec::new();
        }
        let fresh = self.recorded.missing(first.max(self.floor), last);
        fresh.iter().for_each(|(first, last)| self.recorded.insert(*first, *last));
        fresh
    }

    fn recover_substates(&mut self, receipt: &hop::ReceiptContent) -> bool {
        let coded = |ranges: &[Coded]| ranges.iter().map(|range| (range.first, range.last)).collect::<Numbers>();
        let mut known = self.consumed.clone();
        known.union(&coded(&self.refused));
        known.union(&coded(&self.dead));
        let mark = self.second_mark;
        let fresh = |first: u64, last: u64| {
            let sane = first <= last && last < limits::NUMBER_MAX;
            if sane { known.missing(first.max(mark), last) } else { Vec::new() }
        };
        let mut changed = false;
        for (first, last) in receipt.consumed.iter().flat_map(|range| fresh(range.first, range.last)) {
            self.consumed.insert(first, last);
            changed = true;
        }
        for (ranges, said) in [(&mut self.refused, &receipt.refused), (&mut self.dead, &receipt.dead)] {
            for range in said {
                for (first, last) in fresh(range.first, range.last) {
                    insert_coded(ranges, Coded { first, last, reason: range.reason });
                    changed = true;
                }
            }
        }
        changed
    }

    /// Forgets what is below a new floor; a range that is cut keeps the tags of the rest (rule FILTER-3).
    fn raise_floor<E>(&mut self, floor: u64, tags_of: impl FnOnce(u64, u64) -> Result<u64, E>) -> Result<(), E> {
        if let Some(cut) = self.delivered.iter_mut().find(|range| range.first < floor && floor <= range.last) {
            if !planted::is(Bug::RangeKeepsCutTags) {
                cut.tags ^= tags_of(cut.first, floor - 1)?;
            }
            cut.first = floor;
        }
        self.delivered.retain(|range| range.last >= floor);
        cut_coded(&mut self.rejected, floor);
        self.skipped.remove_below(floor);
        self.untagged.remove_below(floor);
        self.recorded.remove_below(floor);
        self.floor = floor;
        Ok(())
    }

    /// Nobody wants sub-states below the mark (rule WORD-5).
    fn forget_substates(&mut self) {
        self.consumed.remove_below(self.second_mark);
        cut_coded(&mut self.refused, self.second_mark);
        cut_coded(&mut self.dead, self.second_mark);
    }

    /// The receipt as of now, in pages that hold each by itself (rule RECEIPT-2).
    #[must_use]
    pub fn receipt(&self, signing: Incarnation) -> Vec<hop::ReceiptContent> {
        let empty = hop::ReceiptContent {
            flow: Some(flow_to_wire(&self.id)),
            signing_incarnation: Bytes::copy_from_slice(&signing.to_bytes()),
            version: self.version,
            word_seen: self.word_version,
            word_incarnation: Bytes::copy_from_slice(&self.word_incarnation.to_bytes()),
            floor: self.floor,
            ..Default::default()
        };
        let mut pages = vec![empty.clone()];
        let mut page = |fill: &mut dyn FnMut(&mut hop::ReceiptContent)| {
            if pages.last().is_none_or(|page| ranges_in(page) >= limits::PAGE_RANGES) {
                let next = u32::try_from(pages.len()).unwrap_or(u32::MAX);
                pages.push(hop::ReceiptContent { page: next, ..empty.clone() });
            }
            if let Some(last) = pages.last_mut() {
                fill(last);
            }
        };
        for range in &self.delivered {
            let range = hop::DeliveredRange { first: range.first, last: range.last, tags: range.tags };
            page(&mut |content| content.delivered.push(range));
        }
        for range in &self.rejected {
            page(&mut |content| content.rejected.push(coded_to_wire(range)));
        }
        for (first, last) in self.skipped.spans() {
            page(&mut |content| content.skipped.push(hop::Range { first: *first, last: *last }));
        }
        for (first, last) in self.untagged.spans() {
            page(&mut |content| content.untagged.push(hop::Range { first: *first, last: *last }));
        }
        for (first, last) in self.consumed.spans() {
            page(&mut |content| content.consumed.push(hop::Range { first: *first, last: *last }));
        }
        for range in &self.refused {
            page(&mut |content| content.refused.push(coded_to_wire(range)));
        }
        for range in &self.dead {
            page(&mut |content| content.dead.push(coded_to_wire(range)));
        }
        pages
    }

    /// As a row: about 50 bytes for a flow that is through, flow included.
    #[must_use]
    pub fn to_row(&self) -> stored::InFlow {
        stored::InFlow {
            flow: Bytes::copy_from_slice(&self.id.to_bytes()),
            floor: if planted::is(Bug::FloorNotStored) { 1 } else { self.floor },
            delivered: self
                .delivered
                .iter()
                .map(|range| stored::Delivered { first: range.first, last: range.last, tags: range.tags })
                .collect(),
            rejected: coded_to_row(&self.rejected),
            skipped: spans_to_row(&self.skipped),
            consumed: spans_to_row(&self.consumed),
            refused: coded_to_row(&self.refused),
            dead: coded_to_row(&self.dead),
            second_mark: self.second_mark,
            version: self.version,
            word_version: self.word_version,
            word_incarnation: Bytes::copy_from_slice(&self.word_incarnation.to_bytes()),
            closed: self.closed,
            end: self.end,
            untagged: spans_to_row(&self.untagged),
            ends: self.ends.clone(),
        }
    }

    /// From a row.
    ///
    /// # Errors
    /// When the row is damaged.
    pub fn from_row(row: &stored::InFlow) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged { table: Table::InFlow, why: "a field cannot hold that".to_owned() };
        let spans = |spans| spans_from_row(spans).ok_or_else(damaged);
        let coded = |ranges: &[stored::Coded]| coded_from_row(ranges).ok_or_else(damaged);
        let sane = (1..=limits::NUMBER_MAX).contains(&row.floor)
            && row.second_mark <= limits::NUMBER_MAX
            && row.end < limits::NUMBER_MAX
            && row.ends.iter().all(|end| *end < limits::NUMBER_MAX)
            && row.version < VERSION_END
            && row.delivered.iter().all(|range| is_range(range.first, range.last))
            && row.delivered.windows(2).all(|pair| pair[0].last < pair[1].first);
        let mut flow = Self {
            id: FlowId::from_slice(&row.flow).filter(|_| sane).ok_or_else(damaged)?,
            floor: row.floor,
            delivered: row
                .delivered
                .iter()
                .map(|range| Delivered { first: range.first, last: range.last, tags: range.tags })
                .collect(),
            rejected: coded(&row.rejected)?,
            skipped: spans(&row.skipped)?,
            consumed: spans(&row.consumed)?,
            refused: coded(&row.refused)?,
            dead: coded(&row.dead)?,
            second_mark: row.second_mark,
            version: row.version,
            word_version: row.word_version,
            word_incarnation: Incarnation::from_slice(&row.word_incarnation).ok_or_else(damaged)?,
            closed: row.closed,
            end: row.end,
            ends: row.ends.clone(),
            untagged: spans(&row.untagged)?,
            recorded: Numbers::new(),
        };
        let delivered = flow.delivered.iter().map(|range| (range.first, range.last));
        let rejected = flow.rejected.iter().map(|range| (range.first, range.last));
        flow.recorded = delivered.chain(rejected).collect();
        flow.recorded.union(&flow.skipped);
        flow.recorded.union(&flow.untagged);
        Ok(flow)
    }
}

fn ranges_in(page: &hop::ReceiptContent) -> usize {
    page.delivered.len()
        + page.rejected.len()
        + page.skipped.len()
        + page.untagged.len()
        + page.consumed.len()
        + page.refused.len()
        + page.dead.len()
}

fn insert_coded(ranges: &mut Vec<Coded>, new: Coded) {
    match ranges.last_mut() {
        Some(end) if end.reason == new.reason && end.last + 1 == new.first => end.last = new.last,
        _ => ranges.push(new),
    }
}

fn cut_coded(ranges: &mut Vec<Coded>, floor: u64) {
    ranges.retain(|range| range.last >= floor);
    for range in ranges {
        range.first = range.first.max(floor);
    }
}

fn coded_to_wire(range: &Coded) -> hop::RejectedRange {
    hop::RejectedRange { first: range.first, last: range.last, reason: range.reason }
}

fn coded_to_row(ranges: &[Coded]) -> Vec<stored::Coded> {
    ranges.iter().map(|range| stored::Coded { first: range.first, last: range.last, reason: range.reason }).collect()
}

fn coded_from_row(ranges: &[stored::Coded]) -> Option<Vec<Coded>> {
    let coded = |range: &stored::Coded| {
        let stored::Coded { first, last, reason } = *range;
        is_range(first, last).then_some(Coded { first, last, reason })
    };
    ranges.iter().map(coded).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;
    use crate::id::{Class, NodeId};

    fn flow() -> InFlow {
        InFlow::open(FlowId {
            source: NodeId([1; 32]),
            destination: NodeId([2; 32]),
            class: Class::Normal,
            incarnation: Incarnation { counter: 1, random: [7; 8] },
        })
    }

    fn word(version: u64, floor: u64, ended: &[(u64, u64)]) -> hop::WordContent {
        let ended = ended.iter().map(|(first, last)| hop::EndedRange { first: *first, last: *last, ending: 1 });
        hop::WordContent { version, floor, ended: ended.collect(), second_mark: 1, ..Default::default() }
    }

    fn by() -> Incarnation {
        Incarnation { counter: 3, random: [1; 8] }
    }

    /// A row in which bits have changed is damaged; nothing counts on from what it says.
    #[test]
    fn a_row_that_cannot_be_is_damaged() {
        let mut flow = flow();
        flow.deliver(2, 5);
        let good = flow.to_row();
        let refused = |change: fn(&mut stored::InFlow)| {
            let mut row = good.clone();
            change(&mut row);
            InFlow::from_row(&row).is_err()
        };
        assert!(!refused(|_| {}));
        assert!(refused(|row| row.floor = 0));
        assert!(refused(|row| row.second_mark = u64::MAX));
        assert!(refused(|row| row.version = u64::MAX));
        assert!(refused(|row| row.end = u64::MAX));
        assert!(refused(|row| row.ends.push(u64::MAX)));
        assert!(refused(|row| row.delivered[0].last = u64::MAX));
        assert!(refused(|row| row.delivered.push(row.delivered[0])));
        assert!(refused(|row| row.rejected.push(stored::Coded { first: 3, last: u64::MAX, reason: 1 })));
        assert!(refused(|row| row.skipped.push(stored::Span { first: 9, last: 3 })));
    }

    /// FILTER-2: what the source ended before it came can never enter later.
    #[test]
    fn a_skipped_number_never_enters() {
        let mut flow = flow();
        flow.deliver(2, 5);
        let changed = flow.apply(&word(1, 1, &[(1, 3)]), by(), |_, _| Ok::<_, Infallible>(0)).unwrap();
        assert!(changed && !flow.is_new(1) && !flow.is_new(3) && flow.is_new(4));
        assert_eq!(flow.skipped.spans(), [(1, 1), (3, 3)], "2 was delivered, and stays so");
    }

    /// WORD-1: an older word changes nothing, whoever repeats it.
    #[test]
    fn an_older_word_is_ignored() {
        let mut flow = flow();
        let none = |_, _| Ok::<_, Infallible>(0);
        assert!(flow.apply(&word(4, 9, &[]), by(), none).unwrap());
        assert!(!flow.apply(&word(4, 20, &[]), by(), none).unwrap());
        assert_eq!(flow.floor, 9);
    }

    /// RECEIPT-2: what is too long for a page goes on in another of the same version.
    #[test]
    fn a_long_receipt_has_pages() {
        let mut flow = flow();
        (1..=1500u64).for_each(|number| flow.deliver(2 * number, number));
        let pages = flow.receipt(by());
        assert_eq!(pages.iter().map(|page| page.delivered.len()).collect::<Vec<_>>(), [1024, 476]);
        assert_eq!(pages.iter().map(|page| (page.page, page.version)).collect::<Vec<_>>(), [(0, 1500), (1, 1500)]);
        assert!(pages.iter().all(|page| page.floor == 1 && page.flow.is_some()));
    }

    proptest! {
        /// FILTER-1, FILTER-3 and RECEIPT-4: whatever order numbers come in and however often, each enters once, the receipt
        /// names exactly them, and its tags are the XOR of theirs, also behind a floor that cut a range.
        #[test]
        fn each_number_enters_once_and_is_tagged(
            arrivals in prop::collection::vec(1u64..60, 0..120),
            floor in 1u64..60,
            later in prop::collection::vec(1u64..60, 0..40),
        ) {
            let tag = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut flow = flow();
            let mut model = BTreeMap::new();
            for number in arrivals {
                prop_assert_eq!(flow.is_new(number), !model.contains_key(&number));
                if flow.is_new(number) {
                    flow.deliver(number, tag(number));
                    model.insert(number, tag(number));
                }
            }
            let cut = |first, last| Ok::<_, Infallible>(model.range(first..=last).fold(0, |sum, (_, tag)| sum ^ tag));
            flow.apply(&word(1, floor, &[]), by(), cut).unwrap();
            model.retain(|number, _| *number >= floor);
            let mut flow = InFlow::from_row(&flow.to_row()).unwrap();
            for number in later {
                prop_assert_eq!(flow.is_new(number), number >= floor && !model.contains_key(&number));
                if flow.is_new(number) {
                    flow.deliver(number, tag(number));
                    model.insert(number, tag(number));
                }
            }
            let pages = flow.receipt(by());
            let named: Vec<u64> = pages[0].delivered.iter().flat_map(|range| range.first..=range.last).collect();
            prop_assert_eq!(&named, &model.keys().copied().collect::<Vec<_>>());
            for range in &pages[0].delivered {
                let sum = model.range(range.first..=range.last).fold(0, |sum, (_, tag)| sum ^ tag);
                prop_assert_eq!(range.tags, sum);
            }
        }
    }
}
