//! The destination's receipts: signed at the end of a round, told towards the source, kept and forwarded on the way
//! (promise P5; rules RECEIPT-1 to RECEIPT-3, RECEIPT-5). What they mean at the source is in `settle`.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use waypost_proto::hop::{self, frame::Kind};
use waypost_proto::stored;

use super::alarm::Alarm;
use super::effect::{Effect, Stream};
use super::statements::{self, Taken, stamp};
use super::{Engine, Round};
use crate::envelope::flow_from_wire;
use crate::hop::encode;
use crate::id::{FlowId, Incarnation, NodeId};
use crate::limits;
use crate::numbers::Numbers;
use crate::store::kv::StoreError;
use crate::store::tables::{FlowHandle, ReceiptRow};
use crate::store::tx::Tx;
use crate::trust::{Label, Verified};

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
            let stamp = stamp(&row);
            if unsettled {
                tx.put(&(id.source, handle), &ReceiptRow(row));
            } else {
                tx.delete::<ReceiptRow>(&(id.source, handle));
            }
            self.tell_receipt(handle, id.source, stamp, &pages, to, None, tx);
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
        stamp: u64,
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
                link.receipts.insert(handle, stamp);
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
            let stamp = stamp(&row);
            if told != Some(stamp) {
                let pages = pages_of(&row);
                self.tell_pages(peer, Some(flow.destination), &pages, Kind::Receipt, tx);
                if let Some(link) = self.links.get_mut(&peer) {
                    link.receipts.insert(handle, stamp);
                }
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
            return self.met_own_receipt((round, peer), flow, &content, tx);
        }
        let handle = if flow.source == self.me {
            // A flow that was forgotten here owes nothing any more.
            let Some(handle) = self.flows.handle(&flow, tx)? else {
                self.met_unknown_flow(round, &flow, tx);
                return Ok(());
            };
            handle
        } else if self.is_full_of_flows() && self.flows.handle(&flow, tx)?.is_none() {
            self.pass_on(peer, flow.source, (flow.destination, &signed), Kind::Receipt, tx);
            return Ok(());
        } else {
            self.flows.handle_or_new(&flow, &mut self.counters, tx)?
        };
        let held = tx.get::<ReceiptRow>(&(flow.source, handle))?.map(|row| row.0);
        let taken = statements::take(held, &content, &signed);
        if flow.source == self.me {
            if let Taken::Kept(row) = taken {
                tx.put(&(flow.source, handle), &ReceiptRow(row));
            }
            // Also one seen before: it shows that the newest word has not arrived, and that a way is open.
            return self.settle_own(round, handle, &content, tx);
        }
        let (stamp, pages) = match taken {
            Taken::Known => return Ok(()),
            Taken::Passing => (0, vec![signed]),
            Taken::Kept(row) => {
                let told = (stamp(&row), pages_of(&row));
                tx.put(&(flow.source, handle), &ReceiptRow(row));
                told
            }
        };
        self.hear_transit(round, handle, flow, tx)?;
        self.settle_transit(handle, content.floor, &numbers_of(&content), tx)?;
        self.tell_receipt(handle, flow.source, stamp, &pages, BTreeSet::new(), Some(peer), tx);
        self.drop_idle_transit(handle, tx)
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

/// All numbers of which a receipt tells a sub-state.
pub(super) fn substates_of(content: &hop::ReceiptContent) -> Numbers {
    let coded = content.refused.iter().chain(&content.dead).map(|range| (range.first, range.last));
    let consumed = content.consumed.iter().map(|range| (range.first, range.last));
    consumed.chain(coded).filter(|(first, last)| first <= last && *last < limits::NUMBER_MAX).collect()
}

pub(super) fn pages_row(pages: &[hop::Signed], version: u64, by: Incarnation, floor: u64) -> stored::Pages {
    let page = |page: &hop::Signed| stored::Signed { content: page.content.clone(), signature: page.signature.clone() };
    let incarnation = Bytes::copy_from_slice(&by.to_bytes());
    stored::Pages { version, incarnation, pages: pages.iter().map(page).collect(), floor, others: Vec::new() }
}

/// All pages of all statements in a row, the newest last.
pub(super) fn pages_of(row: &stored::Pages) -> Vec<hop::Signed> {
    let page = |page: &stored::Signed| hop::Signed { content: page.content.clone(), signature: page.signature.clone() };
    row.others.iter().chain([row]).flat_map(|statement| &statement.pages).map(page).collect()
}
