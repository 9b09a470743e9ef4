//! What ends a flow's rows when nobody needs them any more: on a relay when nothing of the flow is held and nothing was
//! heard of it for a while (rule FLOW-7), at the source when its last word was echoed (rule FLOW-4). A relay may always
//! forget: the duplicate filter is at the destination, and the source sends again.

use prost::Message as _;
use waypost_proto::{hop, stored};

use super::expire::FLOW;
use super::receipts::{numbers_of, pages_of, substates_of};
use super::state::TransitFlow;
use super::{Engine, Round};
use crate::flow::OutFlow;
use crate::id::FlowId;
use crate::limits;
use crate::store::keys::Key as _;
use crate::store::kv::{StoreError, Table};
use crate::store::tables::{FlowHandle, ReceiptRow, WordRow};
use crate::store::tx::Tx;
use crate::time::NodeTime;

/// A relay that holds nothing untold of a flow forgets it so long after it last heard of it.
const IDLE_MS: u64 = 60 * 60 * 1000;
/// A receipt that the source's word has not passed, and an ending no receipt has echoed, are kept as long as mail usually
/// lives: the two ends may never be up together.
const UNTOLD_MS: u64 = limits::LIFETIME_MS;

impl Engine {
    /// Mail, a word or a receipt of others' flow came: it has a row, and its end moves on.
    pub(super) fn hear_transit(
        &mut self,
        round: Round,
        handle: FlowHandle,
        flow: FlowId,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let new = self.flows.transit.get(handle, tx)?.is_none();
        self.counters.transit_flows += u64::from(new);
        let row = self.flows.transit.change_or(handle, tx, || TransitFlow::open(flow))?;
        row.heard = round.at.0;
        self.watch_idle(round.at.plus(IDLE_MS), handle, tx)
    }

    /// Flows of others that were stored before they had a timer get one.
    pub(super) fn watch_idle_since_start(
        &mut self,
        round: Round,
        handle: FlowHandle,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        self.watch_idle(round.at.plus(IDLE_MS), handle, tx)
    }

    /// Sets when to look whether a flow of others is idle, unless that is set.
    fn watch_idle(&mut self, at: NodeTime, handle: FlowHandle, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        if let Some(flow) = self.flows.transit.change(handle, tx)?.filter(|flow| flow.timer == 0) {
            flow.timer = at.0;
            self.watch_flow(at, handle, tx);
        }
        Ok(())
    }

    /// Whether a relay has no room for one more flow of others (rule FLOW-7).
    pub(super) fn is_full_of_flows(&self) -> bool {
        self.counters.transit_flows >= limits::TRANSIT_FLOWS
    }

    /// The time of a flow has come.
    pub(super) fn ring_flow(&mut self, round: Round, handle: FlowHandle, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        if let Some(flow) = self.flows.out.change(handle, tx)? {
            flow.timer = 0;
            // Told for as long as a ladder is kept and never echoed: the destination is gone, or has forgotten too.
            return self.forget_own(handle, |_| true, tx);
        }
        let Some(flow) = self.flows.transit.change(handle, tx)? else { return Ok(()) };
        flow.timer = 0;
        let (id, heard, held) = (flow.id, NodeTime(flow.heard), flow.envelopes > 0);
        let records = tx.scan_raw(Table::Taken, &(handle, 0u64).encode(), &(handle, u64::MAX).encode(), 1)?;
        let keep_ms = if Self::is_untold(handle, id, tx)? { UNTOLD_MS } else { IDLE_MS };
        if held || !records.is_empty() {
            return self.watch_idle(round.at.plus(IDLE_MS), handle, tx);
        }
        let until = heard.plus(keep_ms);
        if round.at < until {
            return self.watch_idle(until, handle, tx);
        }
        self.forget_transit(handle, id, tx)
    }

    /// Whether the relay holds something that one of the two ends may not know.
    fn is_untold(handle: FlowHandle, flow: FlowId, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let word = tx.get::<WordRow>(&(flow.destination, handle))?;
        let word = word.and_then(|WordRow(row)| hop::WordContent::decode(row.pages.first()?.content.clone()).ok());
        let receipt = tx.get::<ReceiptRow>(&(flow.source, handle))?.map(|row| pages_of(&row.0)).unwrap_or_default();
        let receipt: Vec<_> =
            receipt.iter().filter_map(|page| hop::ReceiptContent::decode(page.content.clone()).ok()).collect();
        let (floor, mark) = word.as_ref().map_or((0, 0), |word| (word.floor, word.second_mark));
        let receipt_untold = receipt.iter().any(|page| says_more_than(page, floor, mark));
        let ends = word.filter(|word| word.closed || !word.ended.is_empty());
        let word_untold = ends.is_some_and(|word| !receipt.iter().any(|page| echoes(page, &word)));
        Ok(receipt_untold || word_untold)
    }

    /// Forgets a flow of others altogether.
    pub(super) fn forget_transit(
        &mut self,
        handle: FlowHandle,
        flow: FlowId,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let timer = self.flows.transit.get(handle, tx)?.map_or(0, |flow| flow.timer);
        self.clear_flow_watch(timer, handle, tx);
        tx.delete::<WordRow>(&(flow.destination, handle));
        tx.delete::<ReceiptRow>(&(flow.source, handle));
        self.stop_expecting(handle);
        self.counters.transit_flows = self.counters.transit_flows.saturating_sub(1);
        self.flows.forget(handle, &flow, self.me, tx);
        Ok(())
    }

    // ---- own flows ----

    /// An own flow whose last word may have been echoed: it is forgotten then (rule FLOW-4).
    pub(super) fn forget_echoed(&mut self, handle: FlowHandle, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        self.forget_own(handle, |flow| flow.echoed_version >= flow.word_version, tx)
    }

    /// Forgets an own flow that is over and has no ladder left, if `told` says that its end was told.
    fn forget_own(
        &mut self,
        handle: FlowHandle,
        told: impl FnOnce(&OutFlow) -> bool,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(flow) = self.flows.out.get(handle, tx)?.filter(|flow| flow.is_over()) else { return Ok(()) };
        let (id, timer, told) = (flow.id, flow.timer, told(flow));
        if !told || Self::has_ladders(handle, tx)? {
            return Ok(());
        }
        self.clear_flow_watch(timer, handle, tx);
        tx.delete::<ReceiptRow>(&(id.source, handle));
        self.stop_expecting(handle);
        self.flows.forget(handle, &id, self.me, tx);
        Ok(())
    }

    /// A flow of an earlier incarnation without ladders: it ends with the echo of its last word, at the latest when that
    /// has been told for as long as a ladder is kept.
    pub(super) fn watch_own_end(
        &mut self,
        round: Round,
        handle: FlowHandle,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let over = self.flows.out.get(handle, tx)?.is_some_and(|flow| flow.is_over() && flow.timer == 0);
        if !over || Self::has_ladders(handle, tx)? {
            return Ok(());
        }
        let at = round.at.plus(limits::LADDER_MS);
        if let Some(flow) = self.flows.out.change(handle, tx)? {
            flow.timer = at.0;
        }
        self.watch_flow(at, handle, tx);
        self.forget_echoed(handle, tx)
    }

    fn has_ladders(handle: FlowHandle, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let rows = tx.scan_raw(Table::Envelope, &(handle, 0u64).encode(), &(handle, u64::MAX).encode(), 1)?;
        Ok(!rows.is_empty())
    }

    fn watch_flow(&mut self, at: NodeTime, handle: FlowHandle, tx: &mut Tx<'_>) {
        tx.put(&(at, FLOW, handle, 0), &stored::Empty {});
        self.watch_timers(at);
    }

    fn clear_flow_watch(&self, timer: u64, handle: FlowHandle, tx: &mut Tx<'_>) {
        if timer > 0 {
            tx.delete::<stored::Empty>(&(NodeTime(timer), FLOW, handle, 0));
        }
    }
}

/// Whether a receipt says more than a source knows whose word has this floor and second mark.
pub(super) fn says_more_than(receipt: &hop::ReceiptContent, floor: u64, second_mark: u64) -> bool {
    let ended = numbers_of(receipt).last().is_some_and(|last| last >= floor);
    ended || substates_of(receipt).last().is_some_and(|last| last >= second_mark)
}

/// Whether a receipt shows that the destination has heard a word.
pub(super) fn echoes(receipt: &hop::ReceiptContent, word: &hop::WordContent) -> bool {
    receipt.word_incarnation == word.signing_incarnation && receipt.word_seen >= word.version
}
