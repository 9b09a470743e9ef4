//! Sets of numbers as sorted disjoint ranges: what has ended, arrived, been consumed. Adjacent ranges are one.

use std::fmt;

/// A set of numbers.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Numbers {
    spans: Vec<(u64, u64)>,
}

impl Numbers {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { spans: Vec::new() }
    }

    /// Its ranges `first ..= last`, ascending, with a gap between any two.
    #[must_use]
    pub fn spans(&self) -> &[(u64, u64)] {
        &self.spans
    }

    /// Whether it has no numbers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How many numbers.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.spans.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// The highest number.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.spans.last().map(|span| span.1)
    }

    /// Whether a number is in it.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        self.covers(number, number)
    }

    /// Whether all of `first ..= last` are in it.
    #[must_use]
    pub fn covers(&self, first: u64, last: u64) -> bool {
        let place = self.spans.partition_point(|span| span.1 < first);
        self.spans.get(place).is_some_and(|span| span.0 <= first && last <= span.1)
    }

    /// Adds `first ..= last`; does nothing when `last < first`.
    pub fn insert(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        // The common case: at or right behind the end.
        match self.spans.last_mut() {
            Some(end) if first >= end.0 && first <= end.1.saturating_add(1) => {
                end.1 = end.1.max(last);
                return;
            }
            Some(end) if first > end.1 => {
                self.spans.push((first, last));
                return;
            }
            None => {
                self.spans.push((first, last));
                return;
            }
            Some(_) => {}
        }
        let from = self.spans.partition_point(|span| span.1.saturating_add(1) < first);
        let to = self.spans.partition_point(|span| span.0 <= last.saturating_add(1));
        let merged =
            self.spans[from..to].iter().fold((first, last), |sum, span| (sum.0.min(span.0), sum.1.max(span.1)));
        self.spans.splice(from..to, [merged]);
    }

    /// Adds all of another set.
    pub fn union(&mut self, other: &Self) {
        for (first, last) in &other.spans {
            self.insert(*first, *last);
        }
    }

    /// Removes every number below `floor`.
    pub fn remove_below(&mut self, floor: u64) {
        self.spans.retain(|span| span.1 >= floor);
        if let Some(span) = self.spans.first_mut() {
            span.0 = span.0.max(floor);
        }
    }

    /// The ranges of `first ..= last` that are not in it.
    #[must_use]
    pub fn missing(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut next = first;
        let place = self.spans.partition_point(|span| span.1 < first);
        for span in &self.spans[place..] {
            if span.0 > last {
                break;
            }
            if span.0 > next {
                gaps.push((next, span.0 - 1));
            }
            next = span.1 + 1;
        }
        if next <= last {
            gaps.push((next, last));
        }
        gaps
    }

    /// The lowest number from `from` up that is not in it.
    #[must_use]
    pub fn first_missing(&self, from: u64) -> u64 {
        let place = self.spans.partition_point(|span| span.1 < from);
        match self.spans.get(place) {
            Some(span) if span.0 <= from => span.1 + 1,
            _ => from,
        }
    }
}

impl FromIterator<(u64, u64)> for Numbers {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(spans: I) -> Self {
        let mut numbers = Self::new();
        for (first, last) in spans {
            numbers.insert(first, last);
        }
        numbers
    }
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.spans.iter().map(|(first, last)| format!("{first}-{last}"))).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_set_it_says(spans in prop::collection::vec((0u64..200, 0u64..12), 0..40), floor in 0u64..200) {
            let mut numbers = Numbers::new();
            let mut model = BTreeSet::new();
            for (first, more) in spans {
                numbers.insert(first, first + more);
                model.extend(first..=first + more);
            }
            prop_assert!(numbers.spans().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            prop_assert_eq!(numbers.len(), model.len() as u64);
            for number in 0..220 {
                prop_assert_eq!(numbers.contains(number), model.contains(&number));
                let missing = (number..).find(|n| !model.contains(n));
                prop_assert_eq!(Some(numbers.first_missing(number)), missing);
            }
            let gaps: BTreeSet<u64> = numbers.missing(5, 150).into_iter().flat_map(|(a, b)| a..=b).collect();
            prop_assert_eq!(gaps, (5..=150).filter(|n| !model.contains(n)).collect());
            numbers.remove_below(floor);
            model.retain(|n| *n >= floor);
            let left: BTreeSet<u64> = numbers.spans().iter().flat_map(|(a, b)| *a..=*b).collect();
            prop_assert_eq!(left, model);
        }
    }
}
