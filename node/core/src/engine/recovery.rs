//! A destination that lost its disk, or went back to an older one, asks its neighbours for the receipts it has signed
//! before it takes mail, and takes what they say into its filter (rules RECOVER-1 to RECOVER-3).

use std::collections::BTreeMap;

use waypost_proto::{hop, stored};

use super::effect::{Effect, Stream};
use super::receipts::pages_of;
use super::words::tags_between;
use super::{Engine, Round};
use crate::filter::InFlow;
use crate::hop::encode;
use crate::id::{FlowId, Incarnation, NodeId};
use crate::limits;
use crate::store::keys::{Key as _, end_of_table};
use crate::store::kv::StoreError;
use crate::store::tables::ReceiptRow;
use crate::store::tx::Tx;
use crate::time::NodeTime;

/// How long mail is refused for the sake of one neighbour's answer.
const ANSWER_MS: u64 = 10_000;
/// Receipts looked at for one answer.
const SCANNED: usize = 1024;
/// Pages told in one answer, more or less: they share a connection's queue with everything else.
const TOLD: usize = 1024;

/// Who was asked and has not answered: until when mail waits for it. Who has told all is noted in its row.
pub(super) type Asked = BTreeMap<NodeId, NodeTime>;

impl Engine {
    /// Whether mail for this node must wait for what its neighbours know of it (rule RECOVER-1).
    pub(super) fn is_recovering(&self, round: Round) -> bool {
        self.asked.values().any(|until| *until > round.at)
    }

    /// Asks a neighbour that has not told all since the loss, as long as that is not too long ago.
    pub(super) fn ask_for_receipts(&mut self, round: Round, peer: NodeId, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let told = tx.get::<stored::Peer>(&(peer,))?.map_or(0, |row| row.told_receipts);
        if round.at < self.recovers_until && told != self.recovers_until.0 {
            self.asked.insert(peer, round.at.plus(ANSWER_MS));
            self.want_receipts(peer, &[], tx);
        }
        Ok(())
    }

    fn want_receipts(&self, peer: NodeId, above: &[u8], tx: &mut Tx<'_>) {
        if let Some(link) = self.links.get(&peer) {
            let frame = encode::receipts_wanted(above);
            tx.hint(Effect::Send { peer, session: link.session, stream: Stream::Control, frame });
        }
    }

    /// The disk here is not the newest: whoever is or comes near is asked.
    pub(super) fn recover_from_peers(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        if round.at < self.recovers_until {
            return Ok(());
        }
        self.recovers_until = round.at.plus(limits::LADDER_MS);
        self.put_start(self.own.incarnation, tx);
        for peer in self.links.keys().copied().collect::<Vec<_>>() {
            self.ask_for_receipts(round, peer, tx)?;
        }
        Ok(())
    }

    /// Whom nobody can ask any more, nobody waits for.
    pub(super) fn stop_asking(&mut self, peer: NodeId) {
        self.asked.remove(&peer);
    }

    /// A neighbour has told what it holds, or a part of it.
    pub(super) fn shown(
        &mut self,
        round: Round,
        peer: NodeId,
        last: &[u8],
        all: bool,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        if !all {
            if round.at < self.recovers_until {
                self.asked.entry(peer).or_insert(round.at.plus(ANSWER_MS));
            }
            self.want_receipts(peer, last, tx);
            return Ok(());
        }
        if self.asked.remove(&peer).is_some()
            && let Some(mut row) = tx.get::<stored::Peer>(&(peer,))?
        {
            row.told_receipts = self.recovers_until.0;
            tx.put(&(peer,), &row);
        }
        Ok(())
    }

    /// Tells a neighbour the receipts of its own that are held here, from `above` on, and how far that was (rule
    /// RECOVER-2).
    pub(super) fn show_own_receipts(&mut self, peer: NodeId, above: &[u8], tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let from = if above.is_empty() { Vec::new() } else { [above, &[0]].concat() };
        let rows = tx.scan::<ReceiptRow>(&from, &end_of_table(), SCANNED)?;
        let mut all = rows.len() < SCANNED;
        let (mut last, mut told) = (Vec::new(), 0);
        for (key, ReceiptRow(row)) in rows {
            if told >= TOLD {
                all = false;
                break;
            }
            last = key.encode();
            if self.flow_of(key.1, tx)?.is_some_and(|flow| flow.destination == peer) {
                let pages = pages_of(&row);
                told += pages.len();
                self.tell_pages(peer, Some(peer), &pages, hop::frame::Kind::Receipt, tx);
            }
        }
        if let Some(link) = self.links.get(&peer) {
            let frame = encode::shown(&last, all);
            tx.claim(Effect::Send { peer, session: link.session, stream: Stream::Control, frame });
        }
        Ok(())
    }

    /// A receipt of this node came back: what it names and the disk does not know goes into the filter (rule RECOVER-3).
    pub(super) fn met_own_receipt(
        &mut self,
        (round, peer): (Round, NodeId),
        flow: FlowId,
        content: &hop::ReceiptContent,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(by) = Incarnation::from_slice(&content.signing_incarnation).filter(|_| flow.source != self.me) else {
            return Ok(());
        };
        let handle = self.flows.handle_or_new(&flow, &mut self.counters, tx)?;
        let filter = self.flows.inn.change_or(handle, tx, || InFlow::open(flow))?;
        let (is_above, old_floor) = (content.version > filter.version, filter.floor);
        let changed = filter.recover(content, |first, last| tags_between(handle, first, last, tx))?;
        let floor = filter.floor;
        if changed {
            let ended: Vec<_> = content.skipped.iter().map(|range| (range.first, range.last)).collect();
            self.after_filter(handle, (old_floor, floor), &ended, tx)?;
            // The neighbour may be the only way to the source that is known yet.
            self.owe_receipt(handle, Some(peer));
        }
        self.met_own(round, by, is_above, tx)
    }
}
