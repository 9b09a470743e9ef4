//! Words and receipts as held for others: for each flow the newest statement of each incarnation that signed one, until
//! another says all of it (rules RECEIPT-5, WORD-1). Nobody can merge what another signed, so they stand side by side.

use prost::Message;
use waypost_proto::{hop, stored};

use super::receipts::{numbers_of, substates_of};
use crate::numbers::Numbers;

/// Pages of one statement kept at most.
const PAGES: usize = 64;
/// Statements of other incarnations kept at most.
const OTHERS: usize = 4;

/// A word or a receipt.
pub(super) trait Said: Message + Default {
    fn place(&self) -> Place<'_>;
    /// Whether the others say everything that this one does.
    fn is_covered_by(&self, others: &[Self]) -> bool;
}

/// Where a page stands among the statements on a flow.
pub(super) struct Place<'a> {
    pub signing: &'a [u8],
    pub version: u64,
    pub page: u32,
    pub floor: u64,
}

/// What became of a page.
pub(super) enum Taken {
    /// It says nothing new.
    Known,
    /// It holds by itself, but the rest of its statement is lacking and what is held says more.
    Passing,
    /// It is in this row.
    Kept(stored::Pages),
}

/// Takes a page into the row of its flow.
pub(super) fn take<S: Said>(row: Option<stored::Pages>, content: &S, signed: &hop::Signed) -> Taken {
    let place = content.place();
    let page = stored::Signed { content: signed.content.clone(), signature: signed.signature.clone() };
    let alone = || stored::Pages {
        version: place.version,
        incarnation: bytes::Bytes::copy_from_slice(place.signing),
        pages: vec![page.clone()],
        floor: place.floor,
        others: Vec::new(),
    };
    let mut held = row.map(apart).unwrap_or_default();
    let new = match held.iter().position(|of| of.incarnation == place.signing) {
        Some(at) if held[at].version > place.version => return Taken::Known,
        Some(at) if held[at].version == place.version => {
            let known = held[at].pages.iter().any(|known| known.content == page.content);
            if known || held[at].pages.len() >= PAGES {
                return Taken::Known;
            }
            let mut same = held.remove(at);
            same.pages.push(page);
            same
        }
        Some(_) if place.page > 0 => return Taken::Passing,
        Some(at) => {
            held.remove(at);
            alone()
        }
        None => {
            let said: Vec<S> = held.iter().flat_map(contents_of).collect();
            if !said.is_empty() && content.is_covered_by(&said) {
                return Taken::Known;
            }
            alone()
        }
    };
    let said: Vec<S> = contents_of(&new);
    held.retain(|of| !contents_of::<S>(of).iter().all(|page| page.is_covered_by(&said)));
    if held.len() > OTHERS {
        held.remove(0);
    }
    Taken::Kept(stored::Pages { others: held, ..new })
}

/// The statements of a row, the one taken last at the end.
fn apart(mut row: stored::Pages) -> Vec<stored::Pages> {
    let mut all = std::mem::take(&mut row.others);
    all.push(row);
    all
}

fn contents_of<S: Said>(statement: &stored::Pages) -> Vec<S> {
    statement.pages.iter().filter_map(|page| S::decode(page.content.clone()).ok()).collect()
}

/// Tells one state of a row from another: what a connection has carried.
pub(super) fn stamp(row: &stored::Pages) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for of in row.others.iter().chain([row]) {
        hasher.update(&of.incarnation).update(&of.version.to_be_bytes()).update(&(of.pages.len() as u64).to_be_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_be_bytes(first)
}

impl Said for hop::ReceiptContent {
    fn place(&self) -> Place<'_> {
        Place { signing: &self.signing_incarnation, version: self.version, page: self.page, floor: self.floor }
    }

    fn is_covered_by(&self, others: &[Self]) -> bool {
        let floor = others.iter().map(|other| other.floor).max().unwrap_or(0);
        let mut numbers = Numbers::new();
        let mut substates = Numbers::new();
        for other in others {
            numbers.union(&numbers_of(other));
            substates.union(&substates_of(other));
        }
        let ended = |(first, last): &(u64, u64)| *last < floor || numbers.covers((*first).max(floor), *last);
        let told = substates_of(self).spans().iter().all(|(first, last)| substates.covers(*first, *last));
        self.floor <= floor && told && numbers_of(self).spans().iter().all(ended)
    }
}

impl Said for hop::WordContent {
    fn place(&self) -> Place<'_> {
        Place { signing: &self.signing_incarnation, version: self.version, page: self.page, floor: self.floor }
    }

    fn is_covered_by(&self, others: &[Self]) -> bool {
        let floor = others.iter().map(|other| other.floor).max().unwrap_or(0);
        let mark = others.iter().map(|other| other.second_mark).max().unwrap_or(0);
        let ranges = others.iter().flat_map(|other| &other.ended).filter(|range| range.first <= range.last);
        let ended: Numbers = ranges.map(|range| (range.first, range.last)).collect();
        let ends = |range: &hop::EndedRange| range.last < floor || ended.covers(range.first.max(floor), range.last);
        let waves = |range: &hop::WaveRange| {
            let as_far = |other: &hop::WaveRange| {
                other.first <= range.first.max(floor) && range.last <= other.last && range.wave <= other.wave
            };
            range.last < floor || others.iter().flat_map(|other| &other.waves).any(as_far)
        };
        let closes = !self.closed || others.iter().any(|other| other.closed && other.end == self.end);
        let marks = self.floor <= floor && self.second_mark <= mark;
        marks && closes && self.ended.iter().all(ends) && self.waves.iter().all(waves)
    }
}
