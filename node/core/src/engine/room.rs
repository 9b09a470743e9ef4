//! Room for others' envelopes: what transit may hold, what a full relay gives up for more, and what it takes all the
//! same, so that relays full of mail for each other's side do not wait for each other for ever (rules QUOTA-2, QUOTA-5,
//! QUOTA-6).

use std::collections::BTreeMap;

use waypost_proto::hop::retry_later::Reason;

use super::Engine;
use super::inbound::Verdict;
use crate::id::{FlowId, NodeId};
use crate::limits;
use crate::store::keys::end_of_table;
use crate::store::kv::StoreError;
use crate::store::tables::{EnvelopeKey, StandbyRow};
use crate::store::tx::Tx;

/// Standby copies given up for one envelope at most.
const EVICTED: usize = 1024;
/// One part in so many of transit is kept for mail whose next hop is up.
const RESERVE: u64 = 8;
/// Envelopes on top of what transit may hold, at most: with a way on.
const ON_TOP: usize = 16;
/// The same with those that have lost theirs.
const STRANDED: usize = 256;

/// Envelopes that came when transit was full, and where they want to go.
#[derive(Default)]
pub(super) struct OnTop(BTreeMap<EnvelopeKey, NodeId>);

impl OnTop {
    /// It is active here no more.
    pub(super) fn remove(&mut self, key: EnvelopeKey) {
        self.0.remove(&key);
    }
}

/// One envelope larger than the limit may lie on what keeps to it: it would else never come through (rule QUOTA-2).
fn fits(used: u64, bytes: u64, limit: u64) -> bool {
    if bytes > limit { limit > 0 && used <= limit } else { used.saturating_add(bytes) <= limit }
}

impl Engine {
    /// Whether transit has no room for an envelope, also if all standby copies went.
    pub(super) fn room_in_transit(&mut self, flow: FlowId, bytes: u64) -> Option<Verdict> {
        if !self.has_disk_for(bytes) {
            return Some(Verdict::Refused(Reason::DiskFull, None));
        }
        let (used, limit) = (self.active_in_transit(), self.transit_limit(flow));
        let takes = fits(used, bytes, limit) || self.takes_on_top(used, flow, bytes);
        (!takes).then_some(Verdict::Refused(Reason::TransitFull, None))
    }

    fn active_in_transit(&self) -> u64 {
        self.counters.transit_bytes.saturating_sub(self.counters.standby_bytes)
    }

    /// What transit may hold of mail for a destination: all of it when the next hop is up (rule QUOTA-5).
    fn transit_limit(&mut self, flow: FlowId) -> u64 {
        let all = self.policy.transit_bytes;
        let up = self.directory.next(self.me, &self.own_links, flow.destination).give.is_some();
        if up { all } else { all - all / RESERVE }
    }

    /// Whether a full relay takes an envelope all the same (rule QUOTA-6).
    fn takes_on_top(&mut self, used: u64, flow: FlowId, bytes: u64) -> bool {
        let next = self.directory.next(self.me, &self.own_links, flow.destination);
        let (true, Some(delay_us)) = (next.give.is_some(), next.delay_us) else { return false };
        let all = self.policy.transit_bytes;
        // Also after restarts, which forget what lies on top.
        let most = all.saturating_add((ON_TOP * limits::ENVELOPE_BYTES) as u64);
        all > 0 && used.saturating_add(bytes) <= most && self.is_nearer_than_on_top(delay_us)
    }

    /// What is nearer its destination than all that lies on top is now can go on before them, whatever they wait for.
    /// What has no way any more keeps nobody waiting.
    fn is_nearer_than_on_top(&mut self, delay_us: u64) -> bool {
        if self.on_top.0.len() >= STRANDED {
            return false;
        }
        let mut with_way = 0;
        for destination in self.on_top.0.values() {
            let Some(lies) = self.directory.next(self.me, &self.own_links, *destination).delay_us else { continue };
            if lies <= delay_us {
                return false;
            }
            with_way += 1;
        }
        with_way < ON_TOP
    }

    /// Makes room for an envelope of others, by giving up standby copies if it must (rules QUOTA-2, CUSTODY-4).
    pub(super) fn make_room(
        &mut self,
        flow: FlowId,
        bytes: u64,
        tx: &mut Tx<'_>,
    ) -> Result<Option<Verdict>, StoreError> {
        let full_of_flows = self.is_full_of_flows() && self.flows.handle(&flow, tx)?.is_none();
        if full_of_flows {
            return Ok(Some(Verdict::Refused(Reason::TransitFull, None)));
        }
        if let Some(refusal) = self.room_in_transit(flow, bytes) {
            return Ok(Some(refusal));
        }
        let limit = self.transit_limit(flow);
        for _ in 0..EVICTED {
            if fits(self.counters.transit_bytes, bytes, limit) {
                return Ok(None);
            }
            let oldest = tx.scan::<StandbyRow>(&[], &end_of_table(), 1)?.into_iter().next();
            let Some((place, StandbyRow(at))) = oldest else { break };
            // Somebody is told in this round that it is here, and relies on it.
            if self.had.contains(&(at.handle, at.last)) {
                break;
            }
            tx.delete::<StandbyRow>(&place);
            self.give_up_standby((at.handle, at.last), tx)?;
        }
        let used = self.counters.transit_bytes;
        let takes = fits(used, bytes, limit) || self.takes_on_top(used, flow, bytes);
        Ok((!takes).then_some(Verdict::Refused(Reason::TransitFull, None)))
    }

    /// An envelope of others was kept: it may lie on top.
    pub(super) fn kept_in_transit(&mut self, key: EnvelopeKey, flow: FlowId) {
        if self.active_in_transit() <= self.policy.transit_bytes {
            self.on_top.0.clear();
            return;
        }
        self.on_top.0.insert(key, flow.destination);
    }
}
