//! The destination's receipts: signed at the end of a round, told towards the source, kept and forwarded on the way
//! (promise P5; rules RECEIPT-1 to RECEIPT-3, RECEIPT-5). What they mean at the source is in `settle`.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use waypost_proto::hop::{self, frame::Kind};
use waypost_proto::stored;

use super::alarm::Alarm;
use super::effect::{Effect, Stream};
use super::state::TransitFlow;
use super::{Engine, Round};
use crate::envelope::flow_from_wire;
use crate::hop::encode;
use crate::id::{FlowId, Incarnation, NodeId};
use crate::limits;
use crate::numbers::Numbers;
use crate::store::kv::StoreError;
use crate::store::tables::{FlowHandle, ReceiptRow, WordRow};
use crate::store::tx::Tx;
use crate::trust::{Label, Verified};

/// Receipts, and words, told to a new neighbour at most. All of them leave in one round, and a connection whose queue
/// for control frames (4096) overflows is ended; what is not told now is told when its mail is offered.
const HELD: usize = 1024;

impl Engine {
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
    pub(super) fn tell_receipt(
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

    pub(super) fn tell_pages(
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
    pub(super) fn newer_pages(
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
}

/// All numbers a receipt says something final of.
pub(super) fn numbers_of(content: &hop::ReceiptContent) -> Numbers {
    let sane = |first: u64, last: u64| (first <= last && last < limits::NUMBER_MAX).then_some((first, last));
    let delivered = content.delivered.iter().filter_map(|range| sane(range.first, range.last));
    let rejected = content.rejected.iter().filter_map(|range| sane(range.first, range.last));
    let skipped = content.skipped.iter().filter_map(|range| sane(range.first, range.last));
    let untagged = content.untagged.iter().filter_map(|range| sane(range.first, range.last));
    delivered.chain(rejected).chain(skipped).chain(untagged).collect()
}

/// The highest number of which a receipt tells a sub-state.
pub(super) fn last_substate(content: &hop::ReceiptContent) -> Option<u64> {
    let coded = content.refused.iter().chain(&content.dead).map(|range| range.last);
    content.consumed.iter().map(|range| range.last).chain(coded).max()
}

pub(super) fn pages_row(pages: &[hop::Signed], version: u64, by: Incarnation, floor: u64) -> stored::Pages {
    let page = |page: &hop::Signed| stored::Signed { content: page.content.clone(), signature: page.signature.clone() };
    let incarnation = Bytes::copy_from_slice(&by.to_bytes());
    stored::Pages { version, incarnation, pages: pages.iter().map(page).collect(), floor }
}

pub(super) fn pages_of(row: &stored::Pages) -> Vec<hop::Signed> {
    let page = |page: &stored::Signed| hop::Signed { content: page.content.clone(), signature: page.signature.clone() };
    row.pages.iter().map(page).collect()
}
