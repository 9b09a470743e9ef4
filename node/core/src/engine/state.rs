//! Flows in memory: a window onto their rows. Loaded when touched, written at the end of a round when changed,
//! dropped when there are too many. Nothing lives here alone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use waypost_proto::stored;

use crate::filter::InFlow;
use crate::flow::{OutFlow, spans_from_row, spans_to_row};
use crate::id::{FlowId, NodeId};
use crate::numbers::Numbers;
use crate::planted::{self, Bug};
use crate::store::kv::{StoreError, Table};
use crate::store::tables::{FlowHandle, Record};
use crate::store::tx::Tx;

/// Flows of one kind kept in memory at most, between rounds.
const WINDOW: usize = 4096;

/// A flow of others, on a relay.
#[derive(Clone, Debug)]
pub struct TransitFlow {
    /// Which.
    pub id: FlowId,
    /// Everything below has ended at the source.
    pub floor: u64,
    /// Numbers a receipt or the source's word has ended.
    pub settled: Numbers,
    /// Envelopes held.
    pub envelopes: u64,
    /// Node time of the last mail, word or receipt of it.
    pub heard: u64,
    /// Node time of the timer row that looks whether it is idle; 0: none.
    pub timer: u64,
}

impl TransitFlow {
    pub(super) fn open(id: FlowId) -> Self {
        Self { id, floor: 1, settled: Numbers::new(), envelopes: 0, heard: 0, timer: 0 }
    }

    /// Whether nobody needs a copy of `first ..= last` any more (rule RECEIPT-3).
    pub(super) fn is_settled(&self, first: u64, last: u64) -> bool {
        let below = self.settled.last().is_some_and(|highest| last <= highest) && planted::is(Bug::FreedByHighest);
        last < self.floor || below || self.settled.covers(first.max(self.floor), last)
    }
}

/// A flow that has a row.
pub(super) trait Stored: Sized {
    type Row: Record<Key = (FlowHandle,)>;
    fn to_row(&self) -> Self::Row;
    fn from_row(row: &Self::Row) -> Result<Self, StoreError>;
}

impl Stored for OutFlow {
    type Row = stored::OutFlow;
    fn to_row(&self) -> stored::OutFlow {
        Self::to_row(self)
    }
    fn from_row(row: &stored::OutFlow) -> Result<Self, StoreError> {
        Self::from_row(row)
    }
}

impl Stored for InFlow {
    type Row = stored::InFlow;
    fn to_row(&self) -> stored::InFlow {
        Self::to_row(self)
    }
    fn from_row(row: &stored::InFlow) -> Result<Self, StoreError> {
        Self::from_row(row)
    }
}

impl Stored for TransitFlow {
    type Row = stored::TransitFlow;
    fn to_row(&self) -> stored::TransitFlow {
        stored::TransitFlow {
            flow: Bytes::copy_from_slice(&self.id.to_bytes()),
            floor: self.floor,
            settled: spans_to_row(&self.settled),
            envelopes: self.envelopes,
            heard: self.heard,
            timer: self.timer,
        }
    }
    fn from_row(row: &stored::TransitFlow) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged { table: Table::TransitFlow, why: "a field cannot hold that".to_owned() };
        let id = FlowId::from_slice(&row.flow).ok_or_else(damaged)?;
        let settled = spans_from_row(&row.settled).ok_or_else(damaged)?;
        let stored::TransitFlow { floor, envelopes, heard, timer, .. } = *row;
        Ok(Self { id, floor, settled, envelopes, heard, timer })
    }
}

/// Flows of one kind.
pub(super) struct Window<F> {
    flows: BTreeMap<FlowHandle, F>,
    changed: BTreeSet<FlowHandle>,
}

impl<F> Default for Window<F> {
    fn default() -> Self {
        Self { flows: BTreeMap::new(), changed: BTreeSet::new() }
    }
}

impl<F: Stored> Window<F> {
    /// The flow, loaded when it is not in the window.
    pub(super) fn get(&mut self, handle: FlowHandle, tx: &Tx<'_>) -> Result<Option<&F>, StoreError> {
        self.load(handle, tx)?;
        Ok(self.flows.get(&handle))
    }

    /// The flow, to be changed: it is written at the end of the round.
    pub(super) fn change(&mut self, handle: FlowHandle, tx: &Tx<'_>) -> Result<Option<&mut F>, StoreError> {
        self.load(handle, tx)?;
        let flow = self.flows.get_mut(&handle);
        if flow.is_some() {
            self.changed.insert(handle);
        }
        Ok(flow)
    }

    /// The flow, made by `make` when there is none; to be changed.
    pub(super) fn change_or(
        &mut self,
        handle: FlowHandle,
        tx: &Tx<'_>,
        make: impl FnOnce() -> F,
    ) -> Result<&mut F, StoreError> {
        self.load(handle, tx)?;
        self.changed.insert(handle);
        Ok(self.flows.entry(handle).or_insert_with(make))
    }

    /// Removes a flow and its row.
    pub(super) fn remove(&mut self, handle: FlowHandle, tx: &mut Tx<'_>) {
        self.flows.remove(&handle);
        self.changed.remove(&handle);
        tx.delete::<F::Row>(&(handle,));
    }

    fn load(&mut self, handle: FlowHandle, tx: &Tx<'_>) -> Result<(), StoreError> {
        if !self.flows.contains_key(&handle)
            && let Some(row) = tx.get::<F::Row>(&(handle,))?
        {
            self.flows.insert(handle, F::from_row(&row)?);
        }
        Ok(())
    }

    fn save(&mut self, tx: &mut Tx<'_>) {
        for handle in std::mem::take(&mut self.changed) {
            if let Some(flow) = self.flows.get(&handle) {
                tx.put(&(handle,), &flow.to_row());
            }
        }
        if self.flows.len() > WINDOW {
            self.flows.clear();
        }
    }
}

/// All flows this node has to do with.
#[derive(Default)]
pub(super) struct Flows {
    handles: BTreeMap<FlowId, FlowHandle>,
    pub(super) out: Window<OutFlow>,
    pub(super) inn: Window<InFlow>,
    pub(super) transit: Window<TransitFlow>,
}

impl Flows {
    /// A flow's handle, if it has one.
    pub(super) fn handle(&mut self, flow: &FlowId, tx: &Tx<'_>) -> Result<Option<FlowHandle>, StoreError> {
        if let Some(handle) = self.handles.get(flow) {
            return Ok(Some(*handle));
        }
        let row = tx.get::<stored::Handle>(&(*flow,))?;
        if let Some(row) = &row {
            self.handles.insert(*flow, row.handle);
        }
        Ok(row.map(|row| row.handle))
    }

    /// A flow's handle, given out when it has none.
    pub(super) fn handle_or_new(
        &mut self,
        flow: &FlowId,
        counters: &mut stored::Counters,
        tx: &mut Tx<'_>,
    ) -> Result<FlowHandle, StoreError> {
        if let Some(handle) = self.handle(flow, tx)? {
            return Ok(handle);
        }
        counters.next_handle += 1;
        let handle = counters.next_handle;
        tx.put(&(*flow,), &stored::Handle { handle });
        self.handles.insert(*flow, handle);
        Ok(handle)
    }

    /// Forgets a flow of `me` or in transit altogether.
    pub(super) fn forget(&mut self, handle: FlowHandle, flow: &FlowId, me: NodeId, tx: &mut Tx<'_>) {
        self.handles.remove(flow);
        tx.delete::<stored::Handle>(&(*flow,));
        if flow.source == me { self.out.remove(handle, tx) } else { self.transit.remove(handle, tx) }
    }

    /// Writes what changed.
    pub(super) fn save(&mut self, tx: &mut Tx<'_>) {
        self.out.save(tx);
        self.inn.save(tx);
        self.transit.save(tx);
        if self.handles.len() > 4 * WINDOW {
            self.handles.clear();
        }
    }
}
