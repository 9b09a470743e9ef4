//! Endings: the destination's receipts and the source's words, written, told, taken in and acted on (promises P3, P5;
//! rules RECEIPT-1 to RECEIPT-5, WORD-1 to WORD-5). Relays keep and forward both, and free what they end.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use waypost_proto::hop::{self, frame::Kind};
use waypost_proto::stored::{self, envelope::State};

use super::alarm::Alarm;
use super::effect::{Effect, Stream};
use super::state::TransitFlow;
use super::submit::damaged;
use super::{Engine, Round};
use crate::envelope::flow_from_wire;
use crate::flow::{Ending, OutFlow};
use crate::hop::encode;
use crate::id::{FlowId, Incarnation, NodeId};
use crate::limits;
use crate::numbers::Numbers;
use crate::store::keys::Key as _;
use crate::store::kv::{StoreError, Table};
use crate::store::tables::{EnvelopeKey, FlowHandle, ReceiptRow, WordRow};
use crate::store::tx::Tx;
use crate::trust::{Label, Verified};

/// A word that only raises a mark goes alone after this time (rule WORD-3).
const MARK_MS: u64 = 60_000;
/// Sub-states alone are told at most this often.
pub(super) const SUBSTATES_MS: u64 = 50;
/// Receipts, and words, told to a new neighbour at most. All of them leave in one round, and a connection whose queue
/// for control frames (4096) overflows is ended; what is not told now is told when its mail is offered.
const HELD: usize = 1024;
/// Envelopes looked at in one scan.
const PAGE: usize = 256;

/// The state an envelope's numbers get, beside the endings of `flow::Ending`, in its row: sub-states after `delivered`.
pub(super) const CONSUMED: u32 = 16;
pub(super) const REFUSED: u32 = 17;
pub(super) const DEAD: u32 = 18;

impl Engine {
    // ---- the destination speaks ----

    /// A flow's receipt is to be signed at the end of the round, and told to this neighbour as well.
    pub(super) fn owe_receipt(&mut self, handle: FlowHandle, to: Option<NodeId>) {
        self.receipts_owed.entry(handle).or_default().extend(to);
    }

    /// Signs and tells the receipts owed (rule RECEIPT-1): they leave with the commit that makes them true.
    pub(super) fn issue_receipts(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        for (handle, to) in std::mem::take(&mut self.receipts_owed) {
            self.alarms.clear(Alarm::Substates(handle));
            let Some(flow) = self.flows.inn.get(handle, tx)? else { continue };
            let (id, version, unsettled) = (flow.id, flow.version, flow.is_unsettled());
            let contents = flow.receipt(self.own.incarnation);
            if id.source == self.me {
                for content in contents {
                    self.settle_own(round, handle, &content, tx)?;
                }
                continue;
            }
            let pages: Vec<hop::Signed> = contents.iter().map(|content| self.sign(Label::Receipt, content)).collect();
            let row = pages_row(&pages, version, self.own.incarnation, contents.first().map_or(0, |page| page.floor));
            if unsettled {
                tx.put(&(id.source, handle), &ReceiptRow(row));
            } else {
                tx.delete::<ReceiptRow>(&(id.source, handle));
            }
            self.tell_receipt(handle, id.source, version, &pages, to, None, tx);
        }
        Ok(())
    }

    pub(super) fn sign(&self, label: Label, content: &impl prost::Message) -> hop::Signed {
        let content = Bytes::from(content.encode_to_vec());
        let signature = Bytes::copy_from_slice(&self.key.sign(label, self.network, &content));
        hop::Signed { content, signature }
    }

    /// Sends a receipt towards its source and to those who asked, once a connection and version (rule RECEIPT-3).
    #[expect(clippy::too_many_arguments, reason = "one receipt, its place, and two sets of neighbours")]
    fn tell_receipt(
        &mut self,
        handle: FlowHandle,
        source: NodeId,
        version: u64,
        pages: &[hop::Signed],
        mut to: BTreeSet<NodeId>,
        from: Option<NodeId>,
        tx: &mut Tx<'_>,
    ) {
        to.extend(self.directory.next(self.me, &self.own_links, source).give);
        to.retain(|peer| Some(*peer) != from);
        let signer = pages.first().and_then(|page| hop::ReceiptContent::decode(page.content.clone()).ok());
        let signer = signer.and_then(|content| flow_from_wire(content.flow.as_ref()?)).map(|flow| flow.destination);
        for peer in to {
            self.tell_pages(peer, signer, pages, Kind::Receipt, tx);
            if let Some(link) = self.links.get_mut(&peer) {
                link.receipts.insert(handle, version);
            }
        }
    }

    fn tell_pages(
        &mut self,
        peer: NodeId,
        signer: Option<NodeId>,
        pages: &[hop::Signed],
        kind: fn(hop::Attested) -> Kind,
        tx: &mut Tx<'_>,
    ) {
        for page in pages {
            let Some(link) = self.links.get_mut(&peer) else { return };
            let session = link.session;
            let show = signer.is_some_and(|signer| link.must_show(Stream::Control, signer));
            let chain = match signer {
                Some(signer) if show => self.roster.chain_of(&signer).unwrap_or_default(),
                _ => Vec::new(),
            };
            let attested = hop::Attested { object: Some(page.clone()), chain };
            tx.claim(Effect::Send { peer, session, stream: Stream::Control, frame: encode::frame(kind(attested)) });
        }
    }

    /// Sends a neighbour the receipt held for a flow it offers mail of.
    pub(super) fn show_receipt(
        &mut self,
        handle: FlowHandle,
        flow: FlowId,
        peer: NodeId,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        if let Some(ReceiptRow(row)) = tx.get::<ReceiptRow>(&(flow.source, handle))? {
            let told = self.links.get(&peer).and_then(|link| link.receipts.get(&handle)).copied();
            if told != Some(row.version) {
                let pages = pages_of(&row);
                self.tell_pages(peer, Some(flow.destination), &pages, Kind::Receipt, tx);
                if let Some(link) = self.links.get_mut(&peer) {
                    link.receipts.insert(handle, row.version);
                }
            }
        }
        Ok(())
    }

    /// Sends a new neighbour the receipts and words that go its way.
    pub(super) fn tell_held(&mut self, peer: NodeId, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let end = crate::store::keys::end_of_table();
        for ((source, handle), ReceiptRow(row)) in tx.scan::<ReceiptRow>(&[], &end, HELD)? {
            let goes_there = source == peer || self.directory.next(self.me, &self.own_links, source).give == Some(peer);
            if source != self.me && goes_there {
                let signer = self.flow_of(handle, tx)?.map(|flow| flow.destination);
                self.tell_pages(peer, signer, &pages_of(&row), Kind::Receipt, tx);
            }
        }
        for ((destination, handle), WordRow(row)) in tx.scan::<WordRow>(&[], &end, HELD)? {
            let next = self.directory.next(self.me, &self.own_links, destination).give;
            if destination != self.me && (destination == peer || next == Some(peer)) {
                let signer = self.flow_of(handle, tx)?.map(|flow| flow.source);
                self.tell_pages(peer, signer, &pages_of(&row), Kind::Word, tx);
            }
        }
        Ok(())
    }

    pub(super) fn flow_of(&mut self, handle: FlowHandle, tx: &Tx<'_>) -> Result<Option<FlowId>, StoreError> {
        if let Some(flow) = self.flows.transit.get(handle, tx)? {
            return Ok(Some(flow.id));
        }
        if let Some(flow) = self.flows.inn.get(handle, tx)? {
            return Ok(Some(flow.id));
        }
        Ok(self.flows.out.get(handle, tx)?.map(|flow| flow.id))
    }

    // ---- a receipt arrives ----

    /// Takes in a receipt, at the source or on the way (rules RECEIPT-3, RECEIPT-4).
    pub(super) fn receipt_arrived(
        &mut self,
        round: Round,
        peer: NodeId,
        receipt: Verified<hop::ReceiptContent>,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let (content, signed) = receipt.into_parts();
        let Some(flow) = content.flow.as_ref().and_then(flow_from_wire) else { return Ok(()) };
        if flow.destination == self.me {
            return Ok(());
        }
        let handle = if flow.source == self.me {
            // A flow that was forgotten here owes nothing any more.
            let Some(handle) = self.flows.handle(&flow, tx)? else { return Ok(()) };
            handle
        } else {
            self.flows.handle_or_new(&flow, &mut self.counters, tx)?
        };
        let held = tx.get::<ReceiptRow>(&(flow.source, handle))?.map(|row| row.0);
        let row = self.newer_pages(held, &content, signed);
        if flow.source == self.me {
            if let Some(row) = row {
                tx.put(&(flow.source, handle), &ReceiptRow(row));
            }
            // Also one seen before: it shows that the newest word has not arrived, and that a way is open.
            return self.settle_own(round, handle, &content, tx);
        }
        let Some(row) = row else { return Ok(()) };
        let (version, pages) = (row.version, pages_of(&row));
        tx.put(&(flow.source, handle), &ReceiptRow(row));
        self.flows.transit.change_or(handle, tx, || TransitFlow::open(flow))?;
        self.settle_transit(handle, content.floor, &numbers_of(&content), tx)?;
        self.tell_receipt(handle, flow.source, version, &pages, BTreeSet::new(), Some(peer), tx);
        self.drop_idle_transit(handle, tx)
    }

    /// The row with a page taken in; `None` when the page says nothing new. Versions count within the incarnation that
    /// signed them; a page of another incarnation replaces all (rule RECEIPT-5).
    fn newer_pages(
        &self,
        row: Option<stored::Pages>,
        content: &hop::ReceiptContent,
        signed: hop::Signed,
    ) -> Option<stored::Pages> {
        let page = content.page as usize;
        let stored_page = stored::Signed { content: signed.content, signature: signed.signature };
        match row {
            Some(row) if row.incarnation == content.signing_incarnation && row.version > content.version => None,
            Some(mut row) if row.incarnation == content.signing_incarnation && row.version == content.version => {
                if page != row.pages.len() || page >= 64 {
                    return None;
                }
                row.pages.push(stored_page);
                Some(row)
            }
            _ => Some(stored::Pages {
                version: content.version,
                incarnation: content.signing_incarnation.clone(),
                pages: vec![stored_page],
                floor: content.floor,
            }),
        }
    }

    /// A relay frees what a receipt or word has ended, by numbers alone (rule RECEIPT-3).
    fn settle_transit(
        &mut self,
        handle: FlowHandle,
        floor: u64,
        ended: &Numbers,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(flow) = self.flows.transit.change(handle, tx)? else { return Ok(()) };
        let old_floor = flow.floor;
        let mut fresh: Vec<(u64, u64)> = Vec::new();
        if floor > old_floor {
            fresh.extend(flow.settled.missing(old_floor, floor - 1));
        }
        for (first, last) in ended.spans() {
            fresh.extend(flow.settled.missing((*first).max(floor.max(old_floor)), *last));
        }
        flow.settled.union(ended);
        flow.floor = floor.max(old_floor);
        let new_floor = flow.floor;
        flow.settled.remove_below(new_floor);
        for (first, last) in fresh {
            self.free_transit(handle, first, last, tx)?;
        }
        Ok(())
    }

    /// Frees the envelopes of others that touch a range and are settled whole.
    fn free_transit(&mut self, handle: FlowHandle, first: u64, last: u64, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let mut from = first;
        loop {
            let page = tx.scan::<stored::Envelope>(&(handle, from).encode(), &(handle, u64::MAX).encode(), PAGE)?;
            let full = page.len() == PAGE;
            for (key, row) in page {
                let row_first = key.1 + 1 - u64::from(row.count);
                if row_first > last {
                    return Ok(());
                }
                let settled = self.flows.transit.get(handle, tx)?.is_some_and(|flow| flow.is_settled(row_first, key.1));
                if settled {
                    self.drop_transit(key, &row, tx)?;
                    tx.delete::<stored::Wave>(&key);
                }
                from = key.1 + 1;
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// Removes another node's envelope; the record of its wave stays.
    pub(super) fn drop_transit(
        &mut self,
        key: EnvelopeKey,
        row: &stored::Envelope,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(flow) = self.flows.transit.change(key.0, tx)? else { return Ok(()) };
        flow.envelopes = flow.envelopes.saturating_sub(1);
        let id = flow.id;
        self.unmake_due(id, row, tx);
        if row.state() == State::Standby {
            self.counters.standby = self.counters.standby.saturating_sub(1);
        }
        tx.delete_raw(Table::Body, (row.body, 0u32).encode());
        tx.delete::<stored::Envelope>(&key);
        self.clear_expiry(key, row, tx);
        self.counters.transit_envelopes = self.counters.transit_envelopes.saturating_sub(1);
        self.counters.transit_bytes = self.counters.transit_bytes.saturating_sub(row.bytes);
        Ok(())
    }

    // ---- the source listens ----

    /// What a receipt means at the source (rule RECEIPT-4). It is proof by itself, in whatever order it comes.
    pub(super) fn settle_own(
        &mut self,
        round: Round,
        handle: FlowHandle,
        content: &hop::ReceiptContent,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
        let (last, floor) = (flow.last(), flow.floor);
        let word_is_ours = Incarnation::from_slice(&content.word_incarnation) == Some(self.own.incarnation);
        if word_is_ours {
            flow.echoed_version = flow.echoed_version.max(content.word_seen.min(flow.word_version));
        }
        for range in &content.delivered {
            if range.first == 0 || range.last < range.first || range.last > last {
                continue;
            }
            match self.proves(handle, range, tx)? {
                Some(true) => self.end_numbers(round, handle, (range.first, range.last), Ending::Delivered, 0, tx)?,
                Some(false) => self.end_numbers(round, handle, (range.first, range.last), Ending::Damaged, 1, tx)?,
                None => {}
            }
        }
        for range in &content.untagged {
            self.end_numbers(round, handle, (range.first, range.last.min(last)), Ending::Delivered, 0, tx)?;
        }
        for range in &content.rejected {
            self.end_numbers(round, handle, (range.first, range.last.min(last)), Ending::Rejected, range.reason, tx)?;
        }
        for range in &content.skipped {
            self.settle_skipped(round, handle, (range.first, range.last.min(last)), tx)?;
        }
        if content.floor > floor {
            // Only this node's own word raises that floor: the disk here was rolled back (rule RECEIPT-4).
            self.end_numbers(round, handle, (floor, content.floor.min(last + 1) - 1), Ending::Damaged, 2, tx)?;
        }
        self.take_substates(round, handle, content, tx)?;
        self.after_settling(round, handle, floor, tx)
    }

    /// Whether a delivered range speaks of what was sent; `None` when a tag is lacking: then it proves nothing.
    fn proves(
        &mut self,
        handle: FlowHandle,
        range: &hop::DeliveredRange,
        tx: &Tx<'_>,
    ) -> Result<Option<bool>, StoreError> {
        let Some(flow) = self.flows.out.get(handle, tx)? else { return Ok(None) };
        if flow.settled.missing(range.first.max(flow.floor), range.last).is_empty() {
            return Ok(None);
        }
        let before = if range.first == 1 { Some(0) } else { Self::tags_up_to(handle, range.first - 1, tx)? };
        let through = Self::tags_up_to(handle, range.last, tx)?;
        Ok(before.zip(through).map(|(before, through)| before ^ through == range.tags))
    }

    /// XOR of the tags of numbers 1 to `number`; `None` when the row is forgotten.
    fn tags_up_to(handle: FlowHandle, number: u64, tx: &Tx<'_>) -> Result<Option<u64>, StoreError> {
        let from = (handle, number).encode();
        let rows = tx.scan::<stored::Contents>(&from, &(handle, u64::MAX).encode(), 1)?;
        let Some((key, contents)) = rows.into_iter().next() else { return Ok(None) };
        let Some(first) = (key.1 + 1).checked_sub(contents.messages.len() as u64) else { return Ok(None) };
        if number + 1 == first {
            return Ok(Some(contents.tags_before));
        }
        let Some(count) = number.checked_sub(first) else { return Ok(None) };
        let counted = contents.messages.iter().take(usize::try_from(count + 1).unwrap_or(usize::MAX));
        Ok(Some(counted.fold(contents.tags_before, |sum, sent| sum ^ sent.tag)))
    }

    /// The destination skipped what this node ended; what it never ended is lost (a restored backup).
    fn settle_skipped(
        &mut self,
        round: Round,
        handle: FlowHandle,
        (first, last): (u64, u64),
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(flow) = self.flows.out.get(handle, tx)? else { return Ok(()) };
        let ours: Vec<_> = flow
            .unconfirmed
            .iter()
            .filter(|range| range.first <= last && first <= range.last)
            .map(|range| (range.first.max(first), range.last.min(last), range.ending))
            .collect();
        for (first, last, ending) in ours {
            self.end_numbers(round, handle, (first, last), ending, 0, tx)?;
        }
        self.end_numbers(round, handle, (first, last), Ending::Damaged, 2, tx)
    }

    /// Gives numbers an ending that stands; the first one does (promise P3).
    pub(super) fn end_numbers(
        &mut self,
        round: Round,
        handle: FlowHandle,
        (first, last): (u64, u64),
        ending: Ending,
        reason: u32,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
        let before = flow.clone();
        let fresh = flow.settle(first, last.min(flow.last()));
        if ending != Ending::Delivered {
            // What never was delivered gets no sub-state: the second mark need not wait for one.
            fresh.iter().for_each(|(first, last)| flow.consumed.insert((*first).max(flow.second_mark), *last));
        }
        for span in fresh {
            self.end_envelopes(round, handle, span, &before, (ending, reason), tx)?;
        }
        Ok(())
    }

    /// Writes endings into the rows of the envelopes they touch.
    pub(super) fn end_envelopes(
        &mut self,
        round: Round,
        handle: FlowHandle,
        (first, last): (u64, u64),
        before: &OutFlow,
        (ending, reason): (Ending, u32),
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let mut from = first;
        while from <= last {
            let page = tx.scan::<stored::Envelope>(&(handle, from).encode(), &(handle, u64::MAX).encode(), PAGE)?;
            if page.is_empty() {
                return Ok(());
            }
            for (key, mut row) in page {
                let row_first = key.1 + 1 - u64::from(row.count);
                if row_first > last {
                    return Ok(());
                }
                let (begin, end) = (first.max(row_first), last.min(key.1));
                let at_ms = round.now.wall_ms;
                let late = before.unconfirmed.iter().any(|range| range.first <= end && begin <= range.last);
                // What the destination rejects has not entered either: the first ending stands (promise P3).
                let confirms = late && matches!(ending, Ending::Expired | Ending::Cancelled | Ending::Rejected);
                if !confirms {
                    let ending = ending as u32;
                    row.endings.push(stored::Ending { first: begin, last: end, ending, reason, at_ms, late });
                }
                let newly = (begin..=end).filter(|number| !before.has_ended(*number)).count() as u64;
                self.end_row(round, key, row, newly, tx)?;
                from = key.1 + 1;
            }
        }
        Ok(())
    }

    /// After some numbers of an envelope have ended: counts them off, and frees its body when all have.
    pub(super) fn end_row(
        &mut self,
        round: Round,
        key: EnvelopeKey,
        mut row: stored::Envelope,
        newly: u64,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        if newly > 0 {
            self.count_off(key, &row, newly, tx)?;
        }
        let row_first = key.1 + 1 - u64::from(row.count);
        let flow = self.flows.out.get(key.0, tx)?.ok_or_else(|| damaged(Table::OutFlow))?;
        let (id, over) = (flow.id, (row_first..=key.1).all(|number| flow.has_ended(number)));
        if over && row.state() != State::Ended {
            self.unmake_due(id, &row, tx);
            row.set_state(State::Ended);
            tx.delete_raw(Table::Body, (row.body, row.body_index).encode());
            self.clear_expiry(key, &row, tx);
            self.counters.outbox_bytes = self.counters.outbox_bytes.saturating_sub(row.bytes);
            self.set_forgetting(key, &mut row, round.at.plus(limits::LADDER_MS), tx);
        }
        tx.put(&key, &row);
        Ok(())
    }

    fn count_off(
        &mut self,
        key: EnvelopeKey,
        row: &stored::Envelope,
        newly: u64,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let messages = if row.fragment { self.fragment_ended(key, tx)? } else { newly };
        self.counters.outbox_messages = self.counters.outbox_messages.saturating_sub(messages);
        Ok(())
    }

    /// A message in fragments has ended when its last fragment has. Returns 1 then.
    fn fragment_ended(&mut self, key: EnvelopeKey, tx: &mut Tx<'_>) -> Result<u64, StoreError> {
        let Some(id) = Self::fragment_id(key, tx)? else { return Ok(0) };
        let Some(mut message) = tx.get::<stored::Message>(&(id,))? else { return Ok(0) };
        message.open_fragments = message.open_fragments.saturating_sub(1);
        tx.put(&(id,), &message);
        Ok(u64::from(message.open_fragments == 0))
    }

    pub(super) fn fragment_id(key: EnvelopeKey, tx: &Tx<'_>) -> Result<Option<crate::id::MessageId>, StoreError> {
        let contents = tx.get::<stored::Contents>(&key)?;
        Ok(contents.and_then(|contents| crate::id::MessageId::from_slice(&contents.messages.first()?.id)))
    }

    /// Sub-states after `delivered`: consumed, refused, dead-lettered (rule WORD-5).
    fn take_substates(
        &mut self,
        round: Round,
        handle: FlowHandle,
        content: &hop::ReceiptContent,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let consumed = content.consumed.iter().map(|range| (range.first, range.last, CONSUMED, 0));
        let refused = content.refused.iter().map(|range| (range.first, range.last, REFUSED, range.reason));
        let dead = content.dead.iter().map(|range| (range.first, range.last, DEAD, range.reason));
        for (first, last, state, reason) in consumed.chain(refused).chain(dead).collect::<Vec<_>>() {
            let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
            let last = last.min(flow.last());
            let fresh = flow.consumed.missing(first.max(flow.second_mark), last);
            flow.consumed.insert(first.max(flow.second_mark), last);
            for (first, last) in fresh {
                Self::note_substate(round, handle, (first, last), (state, reason), tx)?;
            }
        }
        let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
        let next = flow.consumed.first_missing(flow.second_mark).min(flow.floor);
        if next > flow.second_mark {
            flow.second_mark = next;
            flow.consumed.remove_below(next);
            flow.word_version += 1;
        }
        Ok(())
    }

    fn note_substate(
        round: Round,
        handle: FlowHandle,
        (first, last): (u64, u64),
        (ending, reason): (u32, u32),
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let mut from = first;
        while from <= last {
            let rows = tx.scan::<stored::Envelope>(&(handle, from).encode(), &(handle, u64::MAX).encode(), 1)?;
            let Some((key, mut row)) = rows.into_iter().next() else { return Ok(()) };
            let row_first = key.1 + 1 - u64::from(row.count);
            if row_first > last {
                return Ok(());
            }
            let (first, last) = (first.max(row_first), last.min(key.1));
            row.endings.push(stored::Ending { first, last, ending, reason, at_ms: round.now.wall_ms, late: false });
            tx.put(&key, &row);
            from = key.1 + 1;
        }
        Ok(())
    }

    /// What follows when something of a flow has been settled.
    fn after_settling(
        &mut self,
        round: Round,
        handle: FlowHandle,
        old_floor: u64,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        self.wake_waiters(handle);
        let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
        flow.trim_sealings();
        let (destination, untold) = (flow.id.destination, flow.word_version > flow.echoed_version);
        let waits = flow.floor < flow.next || (untold && flow.word_ends_something());
        // The next wave is as far away as after the first send, unless the lowest open number is still the same: what
        // was lost must not wait until all other traffic has ceased (rule RETRY-2).
        if !waits || flow.floor > old_floor {
            self.retries.remove(&handle);
            self.alarms.clear(Alarm::Retry(handle));
        }
        if waits {
            self.expect_receipt(round, handle, destination);
        }
        if untold && destination == self.me {
            self.hear_own_word(round, handle, tx)?;
        } else if untold {
            self.alarms.set_if_unset(Alarm::Word(handle), round.now.boot_ms + MARK_MS);
        }
        if let Some(lane) = self.flows.out.get(handle, tx)?.map(|flow| flow.id) {
            // The window may have moved: what was held back may go.
            if let Some(lane) = self.lanes.get(lane.class, lane.destination) {
                lane.waiting = true;
            }
        }
        Ok(())
    }

    // ---- words ----

    /// The current word of an own flow, signed.
    fn word_of(&mut self, handle: FlowHandle, tx: &Tx<'_>) -> Result<Option<(u64, hop::Signed)>, StoreError> {
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

    fn tell_word(&mut self, peer: NodeId, handle: FlowHandle, flow: FlowId, tx: &mut Tx<'_>) -> Result<(), StoreError> {
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
            (row.version, pages_of(&row))
        };
        if version > told {
            self.tell_pages(peer, Some(flow.source), &pages, Kind::Word, tx);
            if let Some(link) = self.links.get_mut(&peer) {
                link.words.insert(handle, version);
            }
        }
        Ok(())
    }

    /// Sends a flow's word alone, towards its destination (rule WORD-3).
    pub(super) fn send_word(&mut self, handle: FlowHandle, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Some(flow) = self.flows.out.get(handle, tx)?.map(|flow| flow.id) else { return Ok(()) };
        let Some(peer) = self.directory.next(self.me, &self.own_links, flow.destination).give else { return Ok(()) };
        if let Some(link) = self.links.get_mut(&peer) {
            link.words.remove(&handle);
        }
        self.tell_word(peer, handle, flow, tx)
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
            return Ok(());
        }
        let handle = self.flows.handle_or_new(&flow, &mut self.counters, tx)?;
        if flow.destination == self.me {
            self.flows.inn.change_or(handle, tx, || crate::filter::InFlow::open(flow))?;
            if self.hear_word(handle, &content, by, tx)? {
                self.owe_receipt(handle, Some(peer));
            }
            return Ok(());
        }
        let row = tx.get::<WordRow>(&(flow.destination, handle))?.map(|row| row.0);
        let old =
            row.is_some_and(|row| row.incarnation == content.signing_incarnation && row.version >= content.version);
        if old {
            return Ok(());
        }
        self.flows.transit.change_or(handle, tx, || TransitFlow::open(flow))?;
        let row = pages_row(&[signed], content.version, by, content.floor);
        tx.put(&(flow.destination, handle), &WordRow(row));
        let ended = content.ended.iter().map(|range| (range.first, range.last)).collect();
        self.settle_transit(handle, content.floor, &ended, tx)?;
        self.forget_told_receipt(handle, flow, (content.floor, content.second_mark), tx)?;
        if let Some(next) = self.directory.next(self.me, &self.own_links, flow.destination).give
            && next != peer
        {
            self.tell_word(next, handle, flow, tx)?;
        }
        let _ = round;
        self.drop_idle_transit(handle, tx)
    }

    /// The source's floor and second mark have passed all that a held receipt says: the source knows.
    fn forget_told_receipt(
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
            .any(|content| {
                let ended = numbers_of(&content).last().is_some_and(|last| last >= floor);
                ended || last_substate(&content).is_some_and(|last| last >= second_mark)
            });
        if !untold {
            tx.delete::<ReceiptRow>(&(flow.source, handle));
        }
        Ok(())
    }

    /// Moves the filter by the source's word. Returns whether it changed.
    fn hear_word(
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
            self.give_up_ended(handle, tx)?;
        }
        let below = ((handle, old_floor).encode(), (handle, content.floor.max(old_floor)).encode());
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
        if changed {
            self.release_after(handle, (old_floor, content.floor.saturating_sub(1)), tx)?;
            for range in content.ended.iter().filter(|range| range.first <= range.last) {
                self.release_after(handle, (range.first, range.last), tx)?;
            }
        }
        Ok(changed)
    }

    /// Source and destination are this node: the word is heard at once.
    fn hear_own_word(&mut self, _round: Round, handle: FlowHandle, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let incarnation = self.own.incarnation;
        let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
        let word = flow.word(incarnation);
        flow.echoed_version = flow.word_version;
        self.hear_word(handle, &word, incarnation, tx)?;
        Ok(())
    }

    /// A transit flow without envelopes, receipt and word is forgotten.
    fn drop_idle_transit(&mut self, handle: FlowHandle, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Some(flow) = self.flows.transit.get(handle, tx)? else { return Ok(()) };
        let (id, floor, envelopes) = (flow.id, flow.floor, flow.envelopes);
        let Some(WordRow(row)) = tx.get::<WordRow>(&(id.destination, handle))? else { return Ok(()) };
        let word = pages_of(&row).first().and_then(|page| hop::WordContent::decode(page.content.clone()).ok());
        let over = word.is_some_and(|word| word.closed && word.floor > word.end && floor > word.end);
        if over && envelopes == 0 && tx.get::<ReceiptRow>(&(id.source, handle))?.is_none() {
            tx.delete::<WordRow>(&(id.destination, handle));
            self.flows.forget(handle, &id, self.me, tx);
        }
        Ok(())
    }
}

/// XOR of the tags of numbers `first ..= last` at the destination.
fn tags_between(handle: FlowHandle, first: u64, last: u64, tx: &Tx<'_>) -> Result<u64, StoreError> {
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

/// All numbers a receipt says something final of.
fn numbers_of(content: &hop::ReceiptContent) -> Numbers {
    let sane = |first: u64, last: u64| (first <= last && last < limits::NUMBER_MAX).then_some((first, last));
    let delivered = content.delivered.iter().filter_map(|range| sane(range.first, range.last));
    let rejected = content.rejected.iter().filter_map(|range| sane(range.first, range.last));
    let skipped = content.skipped.iter().filter_map(|range| sane(range.first, range.last));
    let untagged = content.untagged.iter().filter_map(|range| sane(range.first, range.last));
    delivered.chain(rejected).chain(skipped).chain(untagged).collect()
}

/// The highest number of which a receipt tells a sub-state.
fn last_substate(content: &hop::ReceiptContent) -> Option<u64> {
    let coded = content.refused.iter().chain(&content.dead).map(|range| range.last);
    content.consumed.iter().map(|range| range.last).chain(coded).max()
}

fn pages_row(pages: &[hop::Signed], version: u64, by: Incarnation, floor: u64) -> stored::Pages {
    let page = |page: &hop::Signed| stored::Signed { content: page.content.clone(), signature: page.signature.clone() };
    let incarnation = Bytes::copy_from_slice(&by.to_bytes());
    stored::Pages { version, incarnation, pages: pages.iter().map(page).collect(), floor }
}

fn pages_of(row: &stored::Pages) -> Vec<hop::Signed> {
    let page = |page: &stored::Signed| hop::Signed { content: page.content.clone(), signature: page.signature.clone() };
    row.pages.iter().map(page).collect()
}
