//! Standby copies on a relay: kept until the receipt, given up oldest first when transit is full, and then those who
//! might have to do something are told (rules CUSTODY-3, CUSTODY-4). Never an active copy, never the source's.

use waypost_proto::stored::{self, envelope::State};

use super::effect::{Effect, Stream};
use super::{Engine, Round};
use crate::envelope::Name;
use crate::hop::encode;
use crate::id::NodeId;
use crate::limits;
use crate::planted::{self, Bug};
use crate::store::kv::StoreError;
use crate::store::tables::{EnvelopeKey, StandbyRow};
use crate::store::tx::Tx;

/// Names of dropped copies remembered, so that none is passed on twice.
const PASSED: usize = 4096;

impl Engine {
    /// Custody of a copy has passed on: another's may be given up from now on, in its turn.
    pub(super) fn stand_by(&mut self, key: EnvelopeKey, row: &mut stored::Envelope, tx: &mut Tx<'_>) {
        row.set_state(State::Standby);
        self.on_top.remove(key);
        if row.header.is_empty() {
            return;
        }
        self.counters.next_due += 1;
        row.due = self.counters.next_due;
        tx.put(&(row.due,), &StandbyRow(stored::Place { handle: key.0, last: key.1 }));
        self.counters.standby += 1;
        self.counters.standby_bytes += row.bytes;
    }

    /// A copy stands by no more.
    pub(super) fn leave_standby(&mut self, row: &stored::Envelope, tx: &mut Tx<'_>) {
        if row.state() == State::Standby && !row.header.is_empty() {
            tx.delete::<StandbyRow>(&(row.due,));
            self.counters.standby = self.counters.standby.saturating_sub(1);
            self.counters.standby_bytes = self.counters.standby_bytes.saturating_sub(row.bytes);
        }
    }

    /// Gives up another's standby copy; the record of its wave stays, so that it is not taken again in this wave.
    pub(super) fn give_up_standby(&mut self, key: EnvelopeKey, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Some(row) = tx.get::<stored::Envelope>(&key)?.filter(|row| row.state() == State::Standby) else {
            return Ok(());
        };
        let name = self.name_of(key, row.count, tx)?;
        self.drop_transit(key, &row, tx)?;
        if let Some(name) = name {
            self.owe_dropped(name, NodeId::from_slice(&row.from), None);
        }
        Ok(())
    }

    /// That a copy was given up is told to whom it came from, if that is connected, else towards the source; not back to
    /// whom it was heard from.
    pub(super) fn owe_dropped(&mut self, name: Name, giver: Option<NodeId>, heard_from: Option<NodeId>) {
        let giver = giver.filter(|giver| self.links.contains_key(giver));
        let to = giver.or_else(|| self.directory.next(self.me, &self.own_links, name.flow.source).give);
        if let Some(to) = to.filter(|to| Some(*to) != heard_from) {
            self.dropped_owed.entry(to).or_default().push(name);
        }
    }

    /// Tells what was given up in this round, with the commit that gave it up.
    pub(super) fn tell_dropped(&mut self, tx: &mut Tx<'_>) {
        for (peer, names) in std::mem::take(&mut self.dropped_owed) {
            let Some(session) = self.links.get(&peer).map(|link| link.session) else { continue };
            for page in names.chunks(limits::OFFER_ITEMS) {
                tx.claim(Effect::Send { peer, session, stream: Stream::Control, frame: encode::dropped(page) });
            }
        }
    }

    /// A neighbour gave up standby copies it had custody of: ours are active again; who holds nothing itself passes it
    /// on towards the source (rule CUSTODY-4).
    pub(super) fn dropped(
        &mut self,
        round: Round,
        peer: NodeId,
        names: &[Name],
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        for name in names {
            let handle = self.flows.handle(&name.flow, tx)?;
            let Some(handle) = handle else {
                self.pass_dropped(*name, None, peer);
                continue;
            };
            let key = (handle, name.last());
            match tx.get::<stored::Envelope>(&key)? {
                Some(row) if row.state() == State::Standby && row.standby_at == peer.0.as_slice() => {
                    if !planted::is(Bug::DroppedIgnored) {
                        self.revive(round, name.flow, key, row, tx);
                    }
                }
                Some(_) => {}
                None => {
                    let settled = self.flows.transit.get(handle, tx)?;
                    if settled.is_some_and(|flow| flow.is_settled(name.first, name.last())) {
                        self.show_receipt(handle, name.flow, peer, tx)?;
                        continue;
                    }
                    let giver = tx.get::<stored::Wave>(&key)?.and_then(|taken| NodeId::from_slice(&taken.from));
                    self.pass_dropped(*name, giver, peer);
                }
            }
        }
        Ok(())
    }

    /// Once for a name: neighbours that see the way differently would hand it round.
    fn pass_dropped(&mut self, name: Name, giver: Option<NodeId>, heard_from: NodeId) {
        let ends_here = name.flow.source == self.me || name.flow.destination == self.me;
        if ends_here || !self.dropped_passed.insert((name.flow, name.last())) {
            return;
        }
        if self.dropped_passed.len() > PASSED {
            self.dropped_passed.clear();
        }
        self.owe_dropped(name, giver, Some(heard_from));
    }
}
