//! Walks over all flows, a page a round: what a start and a neighbour's lost disk ask for, however many flows there are
//! (rules START-2, START-3, FLOW-4, HELLO-2). A walk that a crash cut short begins anew and does nothing twice.

use bytes::Bytes;
use waypost_proto::stored;

use super::alarm::Alarm;
use super::{Engine, Job, Round};
use crate::flow::OutFlow;
use crate::id::{FlowId, Incarnation, NodeId};
use crate::planted::{self, Bug};
use crate::store::keys::{Key as _, end_of_table};
use crate::store::kv::{StoreError, Table};
use crate::store::tables::FlowHandle;
use crate::store::tx::Tx;
use crate::time::NodeTime;

/// Flows looked at in one round.
const PAGE: usize = 256;
/// Parts of bodies thrown away in one round.
const PARTS: u32 = 1024;

/// A walk and how far it has come.
pub(super) enum Sweep {
    /// Own flows of earlier incarnations are closed.
    CloseOld(FlowHandle),
    /// Others' mail is watched again.
    WatchTransit(FlowHandle),
    /// Sub-states that nobody has confirmed are told again.
    TellSubstates(FlowHandle),
    /// Bodies that were streaming in, with keys up to this, are thrown away.
    Stages(u64),
    /// What stands by because a neighbour has custody becomes active: first of own flows, then of others'.
    OfferAgain {
        peer: NodeId,
        /// What to remember of the neighbour when all is done: until then its loss is not dealt with.
        incarnation: Incarnation,
        durable_sequence: u64,
        own: bool,
        from: FlowHandle,
    },
}

impl Engine {
    /// A start begins its walks.
    pub(super) fn begin_sweeps(&mut self) {
        let stages = Sweep::Stages(self.counters.next_body);
        self.sweeps.extend([Sweep::CloseOld(0), Sweep::WatchTransit(0), Sweep::TellSubstates(0), stages]);
    }

    /// The incarnation is another: the flows of those before get no more numbers (rule EVIDENCE-2).
    pub(super) fn close_flows(&mut self, round: Round) {
        self.sweeps.push_back(Sweep::CloseOld(0));
        self.alarms.set(Alarm::Continue, round.now.boot_ms);
    }

    /// A neighbour lost or rolled back its disk (rule HELLO-2).
    pub(super) fn offer_again(&mut self, round: Round, peer: NodeId, incarnation: Incarnation, durable_sequence: u64) {
        let of_peer = |sweep: &Sweep| matches!(sweep, Sweep::OfferAgain { peer: other, .. } if *other == peer);
        self.sweeps.retain(|sweep| !of_peer(sweep));
        self.sweeps.push_back(Sweep::OfferAgain { peer, incarnation, durable_sequence, own: true, from: 0 });
        self.alarms.set(Alarm::Continue, round.now.boot_ms);
    }

    /// Takes a page of the first walk that has not ended, when the jobs of the page before are done.
    pub(super) fn sweep(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        while self.jobs.is_empty()
            && let Some(sweep) = self.sweeps.pop_front()
        {
            let rest = match sweep {
                Sweep::CloseOld(from) => self.close_old_flows(round, from, tx)?.map(Sweep::CloseOld),
                Sweep::WatchTransit(from) => self.watch_transit(round, from, tx)?.map(Sweep::WatchTransit),
                Sweep::TellSubstates(from) => self.tell_substates(from, tx)?.map(Sweep::TellSubstates),
                Sweep::Stages(_) if planted::is(Bug::StagesKept) => None,
                Sweep::Stages(up_to) => Self::throw_away_stages(up_to, tx)?.then_some(sweep),
                Sweep::OfferAgain { .. } => self.offer_page(sweep, tx)?,
            };
            if let Some(rest) = rest {
                self.sweeps.push_front(rest);
                break;
            }
        }
        if !self.sweeps.is_empty() || !self.jobs.is_empty() {
            self.alarms.set(Alarm::Continue, round.now.boot_ms);
        }
        Ok(())
    }

    /// Flows of earlier incarnations get no more numbers; everything un-ended counts as having left (rules START-2,
    /// FLOW-4). Returns where to go on.
    fn close_old_flows(
        &mut self,
        round: Round,
        from: FlowHandle,
        tx: &mut Tx<'_>,
    ) -> Result<Option<FlowHandle>, StoreError> {
        let page = tx.scan::<stored::OutFlow>(&(from,).encode(), &end_of_table(), PAGE)?;
        let next = next_of(page.last().map(|((handle,), _)| *handle), page.len());
        for ((handle,), row) in page {
            if OutFlow::from_row(&row)?.id.incarnation != self.own.incarnation {
                self.close_old_flow(round, handle, &row, tx)?;
            }
        }
        Ok(next)
    }

    fn close_old_flow(
        &mut self,
        round: Round,
        handle: FlowHandle,
        row: &stored::OutFlow,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(flow) = self.flows.out.change(handle, tx)? else { return Ok(()) };
        let open = flow.floor < flow.next;
        if !flow.closed || flow.left_below < flow.next {
            flow.closed = true;
            if !planted::is(Bug::LeftForgotten) {
                flow.left_below = flow.next;
            }
            flow.word_version += 1;
        }
        // Versions count within an incarnation: the new one has echoed nothing.
        let untold = flow.word_ends_something() && row.echoed_version < row.word_version;
        if open || !row.closed || untold {
            flow.echoed_version = 0;
            let destination = flow.id.destination;
            self.expect_receipt(round, handle, destination);
            self.alarms.set_if_unset(Alarm::Word(handle), round.now.boot_ms + 1000);
        }
        self.watch_own_end(round, handle, tx)
    }

    /// A crash may have come between a settlement and its receipt, and a source that has its proof of delivery asks no
    /// more (rule RECEIPT-7).
    fn tell_substates(&mut self, from: FlowHandle, tx: &Tx<'_>) -> Result<Option<FlowHandle>, StoreError> {
        let page = tx.scan::<stored::InFlow>(&(from,).encode(), &end_of_table(), PAGE)?;
        let next = next_of(page.last().map(|((handle,), _)| *handle), page.len());
        for ((handle,), row) in page {
            let told = row.consumed.is_empty() && row.refused.is_empty() && row.dead.is_empty();
            if !told && !planted::is(Bug::SubstatesNotToldAgain) {
                self.owe_receipt(handle, None);
            }
        }
        Ok(next)
    }

    /// Mail of others that stands by is looked at again when no receipt comes.
    fn watch_transit(
        &mut self,
        round: Round,
        from: FlowHandle,
        tx: &mut Tx<'_>,
    ) -> Result<Option<FlowHandle>, StoreError> {
        let page = tx.scan::<stored::TransitFlow>(&(from,).encode(), &end_of_table(), PAGE)?;
        let next = next_of(page.last().map(|((handle,), _)| *handle), page.len());
        for ((handle,), row) in page {
            let destination = FlowId::from_slice(&row.flow).map(|flow| flow.destination);
            if let (true, Some(destination)) = (row.envelopes > 0, destination) {
                self.expect_receipt(round, handle, destination);
            }
            if row.timer == 0 {
                self.watch_idle_since_start(round, handle, tx)?;
            }
        }
        Ok(next)
    }

    /// Bodies that were streaming in were never accepted (rule START-3). Returns whether there are more.
    fn throw_away_stages(up_to: u64, tx: &mut Tx<'_>) -> Result<bool, StoreError> {
        let end = (up_to.saturating_add(1),).encode();
        let Some(((body,), mut stage)) = tx.scan::<stored::Stage>(&[], &end, 1)?.into_iter().next() else {
            return Ok(false);
        };
        // By their keys: a part that cannot be read can be thrown away.
        let left = stage.fragments.saturating_sub(PARTS);
        for index in left..stage.fragments {
            tx.delete_raw(Table::Body, (body, index).encode());
        }
        stage.fragments = left;
        if left > 0 {
            tx.put(&(body,), &stage);
        } else {
            tx.delete::<stored::Stage>(&(body,));
        }
        Ok(true)
    }

    /// A page of the flows with mail becomes jobs; after the last one the neighbour's new disk is the one that is known.
    fn offer_page(&mut self, sweep: Sweep, tx: &mut Tx<'_>) -> Result<Option<Sweep>, StoreError> {
        let Sweep::OfferAgain { peer, incarnation, durable_sequence, own, from } = sweep else { return Ok(None) };
        let (handles, next) = if own { own_mail(from, tx)? } else { others_mail(from, tx)? };
        let older_than = NodeTime(u64::MAX);
        let job = |handle| Job { handle, at: Some(peer), older_than, cursor: 0 };
        self.jobs.extend(handles.into_iter().map(job));
        let (own, from) = match (next, own) {
            (Some(from), own) => (own, from),
            (None, true) => (false, 0),
            (None, false) if !self.jobs.is_empty() => (false, FlowHandle::MAX),
            (None, false) => {
                let mut row = tx.get::<stored::Peer>(&(peer,))?.unwrap_or_default();
                row.incarnation = Bytes::copy_from_slice(&incarnation.to_bytes());
                row.durable_sequence = durable_sequence;
                tx.put(&(peer,), &row);
                return Ok(None);
            }
        };
        Ok(Some(Sweep::OfferAgain { peer, incarnation, durable_sequence, own, from }))
    }
}

/// Where a walk goes on behind a page; `None`: it was the last.
fn next_of(last: Option<FlowHandle>, rows: usize) -> Option<FlowHandle> {
    last.filter(|_| rows == PAGE).map(|last| last + 1)
}

type Page = (Vec<FlowHandle>, Option<FlowHandle>);

fn own_mail(from: FlowHandle, tx: &Tx<'_>) -> Result<Page, StoreError> {
    let page = tx.scan::<stored::OutFlow>(&(from,).encode(), &end_of_table(), PAGE)?;
    let next = next_of(page.last().map(|((handle,), _)| *handle), page.len());
    let open = page.into_iter().filter(|(_, row)| row.floor < row.next_number).map(|((handle,), _)| handle);
    Ok((open.collect(), next))
}

fn others_mail(from: FlowHandle, tx: &Tx<'_>) -> Result<Page, StoreError> {
    let page = tx.scan::<stored::TransitFlow>(&(from,).encode(), &end_of_table(), PAGE)?;
    let next = next_of(page.last().map(|((handle,), _)| *handle), page.len());
    let held = page.into_iter().filter(|(_, row)| row.envelopes > 0).map(|((handle,), _)| handle);
    Ok((held.collect(), next))
}
