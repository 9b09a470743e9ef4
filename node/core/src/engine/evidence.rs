//! What shows that this is not the only copy of this node, or not its newest disk: tags that disagree, numbers never
//! given out, own statements that the disk does not know. Each raises an alarm; where numbers could be given out twice
//! a new incarnation begins in place (rules EVIDENCE-1 to EVIDENCE-4). Nobody else's word counts here.

use bytes::Bytes;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use waypost_proto::{hop, stored};

use super::alarm::Alarm;
use super::ask::draw_u64;
use super::effect::{Effect, RaisedAlarm};
use super::{Engine, Round};
use crate::flow::Ending;
use crate::id::{FlowId, Incarnation};
use crate::limits;
use crate::numbers::Numbers;
use crate::route::Fact;
use crate::store::kv::StoreError;
use crate::store::tables::{FlowHandle, StartRow, meta};
use crate::store::tx::Tx;

/// Own statements begin a new incarnation at most this often: two twins that read each other's facts would not rest.
const RENEW_MS: u64 = 60_000;

/// Incarnations of this process remembered at most.
const NAMES: usize = 64;

const CLONE: &str = "another copy of this node is running, or this machine was resumed from a snapshot: a receipt \
                     speaks of messages that were not sent from here. Messages in doubt ended `damaged: outcome \
                     unknown`; stop one of the copies and give it a key of its own";
const ROLLBACK: &str = "this node has signed statements that its data directory does not know: the directory was \
                        lost, restored from a backup, or copied. It goes on above them; if the same key runs on \
                        another host as well, stop one of the two";

impl Engine {
    /// Tells the owner, durably and in the log; the same alarm is counted and told once a process.
    pub(super) fn raise_alarm(&mut self, round: Round, why: &'static str, tx: &mut Tx<'_>) {
        let wall_ms = round.now.wall_ms;
        match self.raised.alarms.iter_mut().find(|known| known.why == why) {
            Some(known) => {
                known.times += 1;
                known.last_ms = wall_ms;
            }
            None => {
                let raised = stored::Raised { why: why.to_owned(), first_ms: wall_ms, last_ms: wall_ms, times: 1 };
                self.raised.alarms.push(raised);
                if self.raised.alarms.len() > limits::ALARMS {
                    self.raised.alarms.remove(0);
                }
            }
        }
        tx.put(&meta::ALARMS.to_owned(), &self.raised);
        if self.told_alarms.insert(why) {
            tx.claim(Effect::RaiseAlarm { why: why.to_owned() });
        }
    }

    /// What was raised, for `status`.
    pub(super) fn raised_alarms(&self) -> Vec<RaisedAlarm> {
        let shown = |alarm: &stored::Raised| RaisedAlarm {
            why: alarm.why.clone(),
            first_ms: alarm.first_ms,
            last_ms: alarm.last_ms,
            times: alarm.times,
        };
        self.raised.alarms.iter().map(shown).collect()
    }

    // ---- proof at the source ----

    /// A receipt spoke of content or numbers that were not sent from here: what of it has no ending is in doubt (rule
    /// EVIDENCE-1), and the running incarnation is over (rule EVIDENCE-2).
    pub(super) fn doubt(
        &mut self,
        round: Round,
        handle: FlowHandle,
        (first, last): (u64, u64),
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        self.end_numbers(round, handle, (first, last), Ending::Damaged, 1, tx)?;
        self.found_clone(round, handle, tx)
    }

    fn found_clone(&mut self, round: Round, handle: FlowHandle, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        if self.is_running(handle, tx)? {
            self.renew_soon(round, self.own.incarnation.counter);
        }
        self.raise_alarm(round, CLONE, tx);
        Ok(())
    }

    /// A receipt for a flow that is not known: forgotten long ago, or never opened by this incarnation, whose it is.
    pub(super) fn met_unknown_flow(&mut self, round: Round, flow: &FlowId, tx: &mut Tx<'_>) {
        if flow.incarnation == self.own.incarnation {
            self.renew_soon(round, self.own.incarnation.counter);
            self.raise_alarm(round, CLONE, tx);
        }
    }

    /// At the end of the round a new incarnation begins, counted above `counter`.
    fn renew_soon(&mut self, round: Round, counter: u64) {
        self.renew_above = self.renew_above.max(Some(counter));
        self.alarms.set(Alarm::Continue, round.now.boot_ms);
    }

    /// What was put off is done in this round.
    pub(super) fn renew_now(&mut self) {
        self.renew_above = self.renew_above.max(self.renew_later.take());
    }

    /// Whether a flow is the running incarnation's.
    pub(super) fn is_running(&mut self, handle: FlowHandle, tx: &Tx<'_>) -> Result<bool, StoreError> {
        let now = self.own.incarnation;
        Ok(self.flows.out.get(handle, tx)?.is_some_and(|flow| flow.id.incarnation == now && !flow.closed))
    }

    /// A receipt names numbers that the running incarnation never gave out. Of delivered ranges that reach beyond the
    /// last number, what was given out is in doubt: their tags cannot be told apart (rule EVIDENCE-1).
    pub(super) fn look_beyond(
        &mut self,
        round: Round,
        handle: FlowHandle,
        content: &hop::ReceiptContent,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(last) = self.flows.out.get(handle, tx)?.map(crate::flow::OutFlow::last) else { return Ok(()) };
        if named_last(content) <= last || !self.is_running(handle, tx)? {
            return Ok(());
        }
        let delivered = content.delivered.iter().map(|range| (range.first, range.last));
        let untagged = content.untagged.iter().map(|range| (range.first, range.last));
        let crossing = delivered.chain(untagged).filter(|(first, to)| *first <= *to && *to > last);
        let in_doubt: Numbers = crossing.map(|(first, _)| (first.max(1), last)).collect();
        for (first, last) in in_doubt.spans() {
            self.end_numbers(round, handle, (*first, *last), Ending::Damaged, 1, tx)?;
        }
        // Also without a number in doubt: what follows here would be given out twice.
        self.found_clone(round, handle, tx)
    }

    // ---- own statements that come back ----

    /// A statement of this node came back, signed by the incarnation `by`; `is_above`: numbered above what the disk has
    /// of it (rule EVIDENCE-3). The caller has moved its own number past it.
    pub(super) fn met_own(
        &mut self,
        round: Round,
        by: Incarnation,
        is_above: bool,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let ours = self.names.contains(&by);
        let is_later = !ours && by.counter >= self.own.incarnation.counter;
        if !is_later && !is_above {
            return Ok(());
        }
        self.raise_alarm(round, ROLLBACK, tx);
        self.recover_from_peers(round, tx)?;
        // An incarnation the disk knows to be over is not in the way of this one.
        let in_the_way = is_later || by == self.own.incarnation;
        let rested_ms = self.renewed_ms.map_or(0, |at| at.saturating_add(RENEW_MS));
        if in_the_way && rested_ms <= round.now.boot_ms {
            self.renew_soon(round, by.counter);
        } else if in_the_way {
            // Put off and not left out: nobody may ever bring that statement again.
            self.renew_later = self.renew_later.max(Some(by.counter));
            self.alarms.set_if_unset(Alarm::Renew, rested_ms);
        }
        Ok(())
    }

    /// An own fact came back: new ones must be numbered above it, or nobody would take them (rule EVIDENCE-3).
    pub(super) fn met_own_fact(&mut self, round: Round, fact: &Fact, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let is_above = fact.sequence > self.counters.fact_sequence;
        self.counters.fact_sequence = self.counters.fact_sequence.max(fact.sequence);
        if is_above {
            self.publish_soon(round);
        }
        self.met_own(round, fact.incarnation, is_above, tx)
    }

    /// An own word came back (rule EVIDENCE-3).
    pub(super) fn met_own_word(
        &mut self,
        round: Round,
        flow: &FlowId,
        content: &hop::WordContent,
        by: Incarnation,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let is_above = match self.flows.handle(flow, tx)? {
            Some(handle) => {
                let known = self.flows.out.get(handle, tx)?.map_or(0, |flow| flow.word_version);
                if content.version > known
                    && let Some(flow) = self.flows.out.change(handle, tx)?
                {
                    flow.word_version = content.version;
                }
                content.version > known
            }
            // A flow of an earlier start that is unknown was forgotten; one of this start was never opened here.
            None => flow.incarnation == self.own.incarnation,
        };
        self.met_own(round, by, is_above, tx)
    }

    // ---- a new incarnation in place ----

    /// Begins the incarnation that evidence asked for: flows are closed as a start closes them, connections go on, and
    /// the next hello names it (rule EVIDENCE-2).
    pub(super) fn renew(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let Some(above) = self.renew_above.take() else { return Ok(()) };
        self.stir(round);
        let old = self.own.incarnation;
        let incarnation = draw_incarnation(&mut self.rng, above.max(old.counter));
        self.put_start(incarnation, tx);
        self.own.continues = Some(old);
        self.own.incarnation = incarnation;
        self.own.nonce = draw_u64(&mut self.rng);
        // Of this round's commit, before which nobody hears of it.
        self.own.durable_sequence = self.counters.commit_sequence + 1;
        self.names.push(incarnation);
        if self.names.len() > NAMES {
            // Custody for one so old is ignored, and its mail offered again.
            self.names.remove(0);
        }
        self.renewed_ms = Some(round.now.boot_ms);
        self.open.clear();
        self.fresh_above = self.counters.next_due;
        self.flows.save(tx);
        self.close_flows(round);
        self.publish_soon(round);
        tx.claim(Effect::Renew { hello: Box::new(self.own.clone()) });
        Ok(())
    }

    /// A clone draws the same numbers: what this process alone has seen goes into the random source.
    pub(super) fn stir(&mut self, round: Round) {
        let mut drawn = [0; 32];
        self.rng.fill_bytes(&mut drawn);
        let mut hasher = blake3::Hasher::new_derive_key("waypost/stir/1");
        hasher.update(&drawn);
        for number in [round.now.boot_ms, round.now.wall_ms, self.counters.commit_sequence] {
            hasher.update(&number.to_be_bytes());
        }
        for (peer, link) in &self.links {
            hasher.update(&peer.0).update(&link.session.0.to_be_bytes()).update(&link.rtt_us.to_be_bytes());
        }
        self.rng = ChaCha20Rng::from_seed(*hasher.finalize().as_bytes());
    }

    /// Writes which start this is.
    pub(super) fn put_start(&self, incarnation: Incarnation, tx: &mut Tx<'_>) {
        let row = stored::Start {
            incarnation: Bytes::copy_from_slice(&incarnation.to_bytes()),
            network: Bytes::copy_from_slice(&self.network.0),
            recovers_until: self.recovers_until.0,
        };
        tx.put(&meta::START.to_owned(), &StartRow(row));
    }
}

/// The incarnation after the start counted `after` (rule FLOW-2).
pub(super) fn draw_incarnation(rng: &mut ChaCha20Rng, after: u64) -> Incarnation {
    let mut random = [0; 8];
    rng.fill_bytes(&mut random);
    Incarnation { counter: after.saturating_add(1), random }
}

/// The highest number a receipt says anything of.
fn named_last(content: &hop::ReceiptContent) -> u64 {
    let delivered = content.delivered.iter().map(|range| range.last);
    let plain = content.skipped.iter().chain(&content.consumed).chain(&content.untagged).map(|range| range.last);
    let coded = content.rejected.iter().chain(&content.refused).chain(&content.dead).map(|range| range.last);
    delivered.chain(plain).chain(coded).max().unwrap_or(0)
}
