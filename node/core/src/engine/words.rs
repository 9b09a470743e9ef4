//! The source's word on a flow: written, told, repeated until it is echoed, and heard at the other end (rules WORD-1 to
//! WORD-5). Relays keep the newest and forward it.

use std::collections::BTreeSet;

use prost::Message as _;
use waypost_proto::hop::{self, frame::Kind};
use waypost_proto::stored;

use super::idle::{echoes, says_more_than};
use super::receipts::pages_of;
use super::statements::{self, Taken, stamp};
use super::{Engine, Round};
use crate::envelope::flow_from_wire;
use crate::id::{FlowId, Incarnation, NodeId};
use crate::store::keys::Key as _;
use crate::store::kv::StoreError;
use crate::store::tables::{EnvelopeKey, FlowHandle, ReceiptRow, WordRow};
use crate::store::tx::Tx;
use crate::time::NodeTime;
use crate::trust::{Label, Verified};

/// Rows looked at in one scan.
const PAGE: usize = 256;
/// A word that came before is passed on again so long after it was last heard: a source repeats it once a minute.
const REPEAT_MS: u64 = 10_000;

impl Engine {
    /// The current word of an own flow, signed.
    pub(super) fn word_of(
        &mut self,
        handle: FlowHandle,
        tx: &Tx<'_>,
    ) -> Result<Option<(u64, hop::Signed)>, StoreError> {
        let incarnation = self.own.incarnation;
        let Some(flow) = self.flows.out.get(handle, tx)? else { return Ok(None) };
        if flow.word_version == 0 {
            return Ok(None);
        }
        let (version, content) = (flow.word_version, flow.word(incarnation));
        Ok(Some((version, self.sign(Label::Word, &content))))
    }

    /// Lets the words of flows ride with their mail, once a connection and version (rule WORD-3).
    pub(super) fn tell_words(&mut self, peer: NodeId, flows: &[(FlowHandle, FlowId)], tx: &mut Tx<'_>) {
        let mut seen = BTreeSet::new();
        for (handle, flow) in flows {
            if !seen.insert(*handle) {
                continue;
            }
            // A word that cannot be read now is told with the next envelope.
            let _ = self.tell_word(peer, *handle, *flow, tx);
        }
    }

    pub(super) fn tell_word(
        &mut self,
        peer: NodeId,
        handle: FlowHandle,
        flow: FlowId,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let told = self.links.get(&peer).and_then(|link| link.words.get(&handle)).copied().unwrap_or(0);
        let (version, pages) = if flow.source == self.me {
            let newest = self.flows.out.get(handle, tx)?.map_or(0, |flow| flow.word_version);
            if newest <= told {
                return Ok(());
            }
            let Some((version, page)) = self.word_of(handle, tx)? else { return Ok(()) };
            (version, vec![page])
        } else {
            let Some(WordRow(row)) = tx.get::<WordRow>(&(flow.destination, handle))? else { return Ok(()) };
            (stamp(&row), pages_of(&row))
        };
        if version != told {
            self.tell_pages(peer, Some(flow.source), &pages, Kind::Word, tx);
            if let Some(link) = self.links.get_mut(&peer) {
                link.words.insert(handle, version);
            }
        }
        Ok(())
    }

    /// Sends a flow's word alone, towards its destination (rule WORD-3).
    pub(super) fn send_word(&mut self, handle: FlowHandle, tx: &Tx<'_>) -> Result<(), StoreError> {
        let Some(flow) = self.flows.out.get(handle, tx)?.map(|flow| flow.id) else { return Ok(()) };
        let Some(peer) = self.directory.next(self.me, &self.own_links, flow.destination).give else { return Ok(()) };
        if let Some(link) = self.links.get_mut(&peer) {
            link.telling.words.insert(handle);
        }
        Ok(())
    }

    /// A word came: at the destination it moves the filter, on a relay it frees and is forwarded.
    pub(super) fn word_arrived(
        &mut self,
        round: Round,
        peer: NodeId,
        word: Verified<hop::WordContent>,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let (content, signed) = word.into_parts();
        let Some(flow) = content.flow.as_ref().and_then(flow_from_wire) else { return Ok(()) };
        let Some(by) = Incarnation::from_slice(&content.signing_incarnation) else { return Ok(()) };
        if flow.source == self.me {
            return self.met_own_word(round, &flow, &content, by, tx);
        }
        if flow.destination == self.me {
            let handle = self.flows.handle_or_new(&flow, &mut self.counters, tx)?;
            self.flows.inn.change_or(handle, tx, || crate::filter::InFlow::open(flow))?;
            // What ends something is repeated until it is echoed: the receipt that echoed it may have been lost.
            let repeated = content.closed || !content.ended.is_empty() || content.floor > 1;
            if self.hear_word(handle, &content, by, tx)? || repeated {
                self.owe_receipt(handle, Some(peer));
            }
            return Ok(());
        }
        if self.flows.handle(&flow, tx)?.is_none() && self.is_full_of_flows() {
            self.pass_on(peer, flow.destination, (flow.source, &signed), Kind::Word, tx);
            return Ok(());
        }
        let handle = self.flows.handle_or_new(&flow, &mut self.counters, tx)?;
        let row = tx.get::<WordRow>(&(flow.destination, handle))?.map(|row| row.0);
        let newest = row.as_ref().filter(|row| row.incarnation == content.signing_incarnation).map(|row| row.version);
        let row = match statements::take(row, &content, &signed) {
            Taken::Kept(row) => row,
            Taken::Known if newest == Some(content.version) => {
                return self.word_repeated(round, peer, (handle, flow), &content, tx);
            }
            Taken::Known | Taken::Passing => return Ok(()),
        };
        self.hear_transit(round, handle, flow, tx)?;
        tx.put(&(flow.destination, handle), &WordRow(row));
        let ended = content.ended.iter().map(|range| (range.first, range.last)).collect();
        self.settle_transit(handle, content.floor, &ended, tx)?;
        self.forget_told_receipt(handle, flow, (content.floor, content.second_mark), tx)?;
        if let Some(next) = self.directory.next(self.me, &self.own_links, flow.destination).give
            && next != peer
        {
            self.tell_word(next, handle, flow, tx)?;
        }
        self.drop_idle_transit(handle, tx)
    }

    /// A word held here came again: its source lacks the echo. It gets the receipt that echoes it, or the word goes on
    /// once more (rule WORD-3). Not faster than words are repeated, however neighbours see the way.
    fn word_repeated(
        &mut self,
        round: Round,
        peer: NodeId,
        (handle, flow): (FlowHandle, FlowId),
        content: &hop::WordContent,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(row) = self.flows.transit.change(handle, tx)? else { return Ok(()) };
        if round.at.since(NodeTime(row.heard)) < REPEAT_MS {
            return Ok(());
        }
        row.heard = round.at.0;
        let held = tx.get::<ReceiptRow>(&(flow.source, handle))?.map(|row| pages_of(&row.0)).unwrap_or_default();
        let echoed = held
            .iter()
            .filter_map(|page| hop::ReceiptContent::decode(page.content.clone()).ok())
            .any(|page| echoes(&page, content));
        if echoed {
            self.tell_pages(peer, Some(flow.destination), &held, Kind::Receipt, tx);
            return Ok(());
        }
        if let Some(next) = self.directory.next(self.me, &self.own_links, flow.destination).give
            && next != peer
        {
            if let Some(link) = self.links.get_mut(&next) {
                link.words.remove(&handle);
            }
            self.tell_word(next, handle, flow, tx)?;
        }
        Ok(())
    }

    /// Hands on a statement that there is no room to keep (rule FLOW-7).
    pub(super) fn pass_on(
        &mut self,
        from: NodeId,
        towards: NodeId,
        (signer, signed): (NodeId, &hop::Signed),
        kind: fn(hop::Attested) -> Kind,
        tx: &mut Tx<'_>,
    ) {
        let next = self.directory.next(self.me, &self.own_links, towards).give;
        if let Some(next) = next.filter(|next| *next != from) {
            self.tell_pages(next, Some(signer), std::slice::from_ref(signed), kind, tx);
        }
    }

    /// The source's floor and second mark have passed all that a held receipt says: the source knows.
    pub(super) fn forget_told_receipt(
        &mut self,
        handle: FlowHandle,
        flow: FlowId,
        (floor, second_mark): (u64, u64),
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(ReceiptRow(row)) = tx.get::<ReceiptRow>(&(flow.source, handle))? else { return Ok(()) };
        let untold = pages_of(&row)
            .iter()
            .filter_map(|page| hop::ReceiptContent::decode(page.content.clone()).ok())
            .any(|content| says_more_than(&content, floor, second_mark));
        if !untold {
            tx.delete::<ReceiptRow>(&(flow.source, handle));
        }
        Ok(())
    }

    /// Moves the filter by the source's word. Returns whether it changed.
    pub(super) fn hear_word(
        &mut self,
        handle: FlowHandle,
        content: &hop::WordContent,
        by: Incarnation,
        tx: &mut Tx<'_>,
    ) -> Result<bool, StoreError> {
        let Some(flow) = self.flows.inn.change(handle, tx)? else { return Ok(false) };
        let old_floor = flow.floor;
        let changed = flow.apply(content, by, |first, last| tags_between(handle, first, last, tx))?;
        if changed {
            let ended: Vec<_> = content.ended.iter().map(|range| (range.first, range.last)).collect();
            self.after_filter(handle, (old_floor, content.floor), &ended, tx)?;
        }
        Ok(changed)
    }

    /// The filter's floor has moved, or numbers were ended: tags below are forgotten, and what waited for them goes on.
    pub(super) fn after_filter(
        &mut self,
        handle: FlowHandle,
        (old_floor, floor): (u64, u64),
        ended: &[(u64, u64)],
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        self.give_up_ended(handle, tx)?;
        let below = ((handle, old_floor).encode(), (handle, floor.max(old_floor)).encode());
        loop {
            let page = tx.scan::<stored::Tags>(&below.0, &below.1, PAGE)?;
            let full = page.len() == PAGE;
            for (key, _) in page {
                tx.delete::<stored::Tags>(&key);
            }
            if !full {
                break;
            }
        }
        self.release_after(handle, (old_floor, floor.saturating_sub(1)), tx)?;
        for (first, last) in ended.iter().filter(|(first, last)| first <= last) {
            self.release_after(handle, (*first, *last), tx)?;
        }
        Ok(())
    }

    /// Source and destination are this node: the word is heard at once.
    pub(super) fn hear_own_word(
        &mut self,
        _round: Round,
        handle: FlowHandle,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let incarnation = self.own.incarnation;
        let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
        let (id, word) = (flow.id, flow.word(incarnation));
        flow.echoed_version = flow.word_version;
        if word.floor >= flow.owed_floor {
            flow.owed_floor = 0;
        }
        // Of a message that ended before it came the filter knows nothing yet (rule ORDER-2).
        self.flows.inn.change_or(handle, tx, || crate::filter::InFlow::open(id))?;
        self.hear_word(handle, &word, incarnation, tx)?;
        Ok(())
    }
}

/// XOR of the tags of numbers `first ..= last` at the destination.
pub(super) fn tags_between(handle: FlowHandle, first: u64, last: u64, tx: &Tx<'_>) -> Result<u64, StoreError> {
    let mut sum = 0;
    let mut from = first;
    while from <= last {
        let page = tx.scan::<stored::Tags>(&(handle, from).encode(), &(handle, u64::MAX).encode(), 64)?;
        let Some(((_, page_last), _)) = page.last() else { return Ok(sum) };
        let next = page_last + 1;
        for (key, row) in page {
            let row_first = key.1 + 1 - row.tags.len() as u64;
            let within = (row_first..).zip(&row.tags).filter(|(number, _)| (first..=last).contains(number));
            sum = within.fold(sum, |sum, (_, tag)| sum ^ tag);
        }
        from = next;
    }
    Ok(sum)
}

/// Keeps the tags of an envelope's numbers at the destination; 0 stands for one that did not enter with it. A twin's
/// envelope may end on the same number and begin on another: what its numbers were counted with before stays.
pub(super) fn put_tags(key: EnvelopeKey, mut tags: Vec<u64>, tx: &mut Tx<'_>) -> Result<(), StoreError> {
    let mut known = tx.get::<stored::Tags>(&key)?.unwrap_or_default().tags;
    if known.len() > tags.len() {
        std::mem::swap(&mut known, &mut tags);
    }
    // Both end on the same number, and a number enters once.
    for (tag, known) in tags.iter_mut().rev().zip(known.iter().rev()) {
        *tag ^= known;
    }
    tx.put(&key, &stored::Tags { tags });
    Ok(())
}
