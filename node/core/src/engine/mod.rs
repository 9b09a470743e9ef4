//! The state machine: inputs in the past tense, effects in the imperative, time and storage handed in.
//!
//! How to drive it: call [`Engine::step`] for every input of a round with one transaction, then [`Engine::flush`], then
//! sync the transaction with `store::tx::commit` and carry out the claims it gives. When the commit fails, end the
//! process: memory is ahead of the disk. Call again with [`input::Input::Ticked`] at [`Engine::next_wake`].
//!
//! The way of a message: `submit` gives it a number and a place on disk; `outbound` hands it on; `inbound` takes it
//! over, on a relay (`transit`, if there is `room`) or into the inbox; `consume` gives it to an application; `settle`
//! brings the receipt back and ends it; `expire` is what time does; `gossip` knows the neighbours; `ask` answers
//! questions; `recover` starts it all; `evidence`, `twins` and `recovery` are for clones and for disks that were lost or
//! rolled back.

mod alarm;
mod ask;
mod bodies;
mod channels;
mod consume;
mod damage;
mod dead;
mod delay;
mod disk;
pub mod effect;
mod evidence;
mod expire;
mod gossip;
mod idle;
mod inbound;
pub mod input;
mod items;
mod lanes;
mod link;
mod notice;
mod order;
mod outbound;
mod pace;
mod partial;
mod patience;
mod receipts;
mod recover;
mod recovery;
mod refusal;
mod room;
mod room_inbox;
mod settle;
mod standby;
mod state;
mod statements;
mod submit;
mod sweep;
mod transit;
mod twins;
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rand_chacha::ChaCha20Rng;
use waypost_proto::{hop, stored};

use crate::envelope::Name;
use crate::hop::PeerFrame;
use crate::id::{Class, FlowId, Incarnation, NetworkId, NodeId};
use crate::planted::{self, Bug};
use crate::policy::Policy;
use crate::route::{self, Directory};
use crate::store::kv::StoreError;
use crate::store::tables::{EnvelopeKey, FlowHandle, meta};
use crate::store::tx::Tx;
use crate::time::{AgeClock, NodeTime, Now};
use crate::trust::{NodeKey, Proofs, Roster};
use alarm::{Alarm, Alarms};
use channels::{Channels, Consumer};
use consume::Settlement;
use effect::{Effect, Reply};
use input::{ConsumerId, Input, StreamId};

/// Who this node is.
pub struct Identity {
    /// Its key.
    pub key: NodeKey,
    /// Its network.
    pub network: NetworkId,
    /// Its own certificate first; empty before it is admitted and when the store knows it.
    pub chain: Vec<hop::Signed>,
    /// What whoever decodes for the engine has verified already.
    pub proofs: Arc<Proofs>,
    /// Seeds everything random the engine draws. Fresh from the system for every start.
    pub seed: [u8; 32],
}

/// What this node says first on a connection.
#[derive(Clone, Debug)]
pub struct OwnHello {
    /// Of this process.
    pub incarnation: Incarnation,
    /// Found on disk.
    pub continues: Option<Incarnation>,
    /// The commit sequence recovered at start.
    pub durable_sequence: u64,
    /// Drawn per process.
    pub nonce: u64,
    /// Own certificate first; empty before admission.
    pub chain: Vec<hop::Signed>,
    /// Verified chains of members met before, own excluded: to fill the roster with.
    pub known_chains: Vec<Vec<hop::Signed>>,
    /// Neighbours met before: to be dialled at start.
    pub known_peers: Vec<KnownPeer>,
}

/// A neighbour of a former run (rule DIAL-2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownPeer {
    /// Who.
    pub node: NodeId,
    /// Where this node reached it, the last place first; empty when only the other side ever dialled.
    pub reached: Vec<String>,
    /// Where its fact says that it listens.
    pub told: Vec<String>,
}

/// The moment of a round, read once.
#[derive(Clone, Copy)]
struct Round {
    now: Now,
    at: NodeTime,
}

/// A step in an envelope's custody log. On disk as these numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum Event {
    TakenFrom = 1,
    HandedTo = 2,
    GoneAt = 3,
    Again = 4,
}

impl Event {
    fn describe(number: u32) -> &'static str {
        match number {
            1 => "taken from",
            2 => "handed to",
            3 => "had been through",
            4 => "to be sent again",
            _ => "unknown",
        }
    }
}

/// Mail of a flow waits for a receipt.
#[derive(Clone, Copy)]
struct Retry {
    wait_ms: u64,
}

/// Standby copies of a flow are to become active again, a page a round.
struct Job {
    handle: FlowHandle,
    /// Only those that this peer has custody of.
    at: Option<NodeId>,
    /// Only those that stand by since then or longer.
    older_than: NodeTime,
    cursor: u64,
}

/// The engine.
pub struct Engine {
    me: NodeId,
    key: NodeKey,
    network: NetworkId,
    policy: Policy,
    disk: disk::Disk,
    rng: ChaCha20Rng,
    clock: AgeClock,
    own: OwnHello,
    listen: Vec<String>,
    roster: Roster,
    /// Incarnations of this process, the running one last (rule EVIDENCE-2).
    names: Vec<Incarnation>,
    /// A new incarnation is to begin, counted above this.
    renew_above: Option<u64>,
    /// The same, put off because the last one was begun a moment ago.
    renew_later: Option<u64>,
    /// Boot milliseconds of the last one that began in place.
    renewed_ms: Option<u64>,
    raised: stored::Alarms,
    /// Alarms that this process has told.
    told_alarms: BTreeSet<&'static str>,
    looked: pace::Looked,
    /// Until then peers are asked for what this node has signed (rule RECOVER-1).
    recovers_until: NodeTime,
    asked: recovery::Asked,
    twins: twins::Twins,

    /// Durable counters, written with every commit; `saved` is what the last one held.
    counters: stored::Counters,
    flows: state::Flows,
    /// This incarnation's flows.
    open: BTreeMap<(NodeId, Class), FlowHandle>,
    /// Destinations of this incarnation: their keys have been checked.
    sealable: BTreeSet<NodeId>,
    /// What gets its number now gets it to be cancelled: to this node itself it is not delivered (rule CANCEL-1).
    cancelling: bool,
    /// Envelopes that grow in this round.
    groups: BTreeMap<(NodeId, Class), submit::Group>,
    streams: BTreeMap<StreamId, bodies::Streaming>,

    links: BTreeMap<NodeId, link::Link>,
    own_links: BTreeMap<NodeId, route::Link>,
    directory: Directory,
    lanes: lanes::Lanes,
    refusals: refusal::Refusals,
    on_top: room::OnTop,
    /// Others' envelopes of which this round says that they are here: none of them is given up in it.
    had: BTreeSet<EnvelopeKey>,
    /// Transfer numbers given out, by taker and class.
    transfers: BTreeMap<(NodeId, Class), u64>,
    /// What became due up to here has left before, or may have: it is offered, not sent.
    fresh_above: u64,

    channels: Channels,
    consumers: BTreeMap<ConsumerId, Consumer>,
    waiters: BTreeMap<FlowHandle, Vec<ask::Waiter>>,

    alarms: Alarms,
    retries: BTreeMap<FlowHandle, Retry>,
    jobs: VecDeque<Job>,
    sweeps: VecDeque<sweep::Sweep>,
    /// Dropped copies that were passed on.
    dropped_passed: BTreeSet<(FlowId, u64)>,

    // To be done at the end of the round.
    acknowledging: BTreeSet<NodeId>,
    receipts_owed: BTreeMap<FlowHandle, BTreeSet<NodeId>>,
    words_due: BTreeSet<FlowHandle>,
    dropped_owed: BTreeMap<NodeId, Vec<Name>>,
    waking: BTreeSet<FlowHandle>,
}

impl Engine {
    /// What to say on connections.
    #[must_use]
    pub fn own_hello(&self) -> &OwnHello {
        &self.own
    }

    /// Boot milliseconds at which to call again with `Ticked`; `None`: when something happens.
    #[must_use]
    pub fn next_wake(&self) -> Option<u64> {
        self.alarms.next()
    }

    fn round(&self, now: Now) -> Round {
        Round { now, at: self.clock.at(now) }
    }

    /// Boot milliseconds at which a node time is reached.
    fn boot_ms_of(&self, at: NodeTime) -> u64 {
        let anchor = self.clock.anchor_point();
        anchor.reading.boot_ms.saturating_add(at.since(anchor.at))
    }

    /// Takes one input.
    ///
    /// # Errors
    /// When the store failed; the process must end.
    pub fn step(&mut self, input: Input, now: Now, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let round = self.round(now);
        match input {
            Input::Ticked => Ok(()),
            Input::SpaceChanged { free_bytes, reserve_bytes } => {
                self.space_changed(free_bytes, reserve_bytes);
                Ok(())
            }
            Input::Submitted { request, uid, messages } => self.submit(round, request, uid, &messages, tx),
            Input::BodyBegun { stream, request, uid, message } => {
                self.begin_body(stream, request, uid, message, tx);
                Ok(())
            }
            Input::BodyGrew { stream, bytes } => {
                self.grow_body(stream, bytes, tx);
                Ok(())
            }
            Input::BodyEnded { stream } => self.end_body(round, stream, tx),
            Input::BodyAbandoned { stream } => {
                self.abandon_body(stream, tx);
                Ok(())
            }
            Input::ConsumerOpened { .. }
            | Input::CreditGranted { .. }
            | Input::Acknowledged { .. }
            | Input::Nacked { .. }
            | Input::Extended { .. }
            | Input::Refused { .. }
            | Input::BodyPartWanted { .. }
            | Input::ConsumerClosed { .. } => self.step_consumer(input, round, tx),
            Input::CancelAsked { .. }
            | Input::TraceAsked { .. }
            | Input::WaitEnded { .. }
            | Input::StatusAsked { .. }
            | Input::PeersAsked { .. }
            | Input::RoutesAsked { .. }
            | Input::InviteAsked { .. }
            | Input::DeadAsked { .. }
            | Input::DeadSettled { .. } => self.step_question(input, round, tx),
            other => self.step_network(other, round, tx),
        }
    }

    fn step_consumer(&mut self, input: Input, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        match input {
            Input::ConsumerOpened { consumer, channel, lease_ms, max_deliveries, .. } => {
                self.open_consumer(consumer, &channel, lease_ms, max_deliveries, tx);
            }
            Input::CreditGranted { consumer, messages } => self.grant(consumer, messages),
            Input::Acknowledged { consumer, deliveries } => {
                return self.settle_deliveries(round, consumer, deliveries, &Settlement::Consumed, tx);
            }
            Input::Refused { consumer, delivery, reason } => {
                return self.settle_deliveries(round, consumer, vec![delivery], &Settlement::Refused(reason), tx);
            }
            Input::Nacked { consumer, delivery, delay_ms } => {
                return self.nack(round, consumer, delivery, delay_ms, tx);
            }
            Input::Extended { consumer, delivery, lease_ms } => self.extend(round, consumer, delivery, lease_ms),
            Input::BodyPartWanted { consumer, delivery, index } => {
                return self.hand_body_part(round, consumer, delivery, index, tx);
            }
            Input::ConsumerClosed { consumer } => self.close_consumer(consumer),
            _ => {}
        }
        Ok(())
    }

    fn step_question(&mut self, input: Input, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        match input {
            Input::TraceAsked { request, id, wait } => return self.trace(round, request, id, wait, tx),
            Input::WaitEnded { request } => return self.end_wait(round, request, tx),
            Input::CancelAsked { request, ids } => return self.cancel(round, request, &ids, tx),
            Input::StatusAsked { request } => {
                let reply = Reply::Status(Box::new(self.status()));
                tx.hint(Effect::Reply { request, reply });
            }
            Input::PeersAsked { request } => tx.hint(Effect::Reply { request, reply: Reply::Peers(self.peers()) }),
            Input::RoutesAsked { request, to } => {
                let reply = self.routes(to.as_ref(), tx)?.map_or_else(Reply::Refused, Reply::Routes);
                tx.hint(Effect::Reply { request, reply });
            }
            Input::InviteAsked { request, once, expires_in_ms } => self.invite(round, request, once, expires_in_ms, tx),
            Input::DeadAsked { request, channel, after } => {
                return self.list_dead(request, channel.as_ref(), after, tx);
            }
            Input::DeadSettled { request, letters, is_retried } => {
                return self.settle_dead(request, &letters, is_retried, tx);
            }
            _ => {}
        }
        Ok(())
    }

    fn step_network(&mut self, input: Input, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        match input {
            Input::PeerConnected { peer, session, hello, transport, address } => {
                return self.connected(round, peer, session, &hello, (transport, address), tx);
            }
            Input::PeerLost { peer, session } => return self.lost(round, peer, session, tx),
            Input::RttMeasured { peer, rtt_us } => self.rtt(round, peer, rtt_us),
            Input::ListenAddressesChanged { addresses } => {
                self.listen = addresses;
                self.publish_soon(round);
            }
            Input::ChainLearned { subject, chain } => self.learn_chain(subject, &chain, tx),
            Input::JoinAsked { request, subject, join } => return self.join_asked(round, request, subject, &join, tx),
            Input::Certified { chain } => self.certified(chain, tx),
            Input::FrameArrived { peer, session, frame } => {
                let current = self.links.get(&peer).is_some_and(|link| link.session == session);
                if current {
                    return self.step_frame(round, peer, *frame, tx);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn step_frame(&mut self, round: Round, peer: NodeId, frame: PeerFrame, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        match frame {
            PeerFrame::Credit { class, bytes, envelopes } => {
                if let Some(link) = self.links.get_mut(&peer) {
                    let out = &mut link.out[class.index()];
                    out.granted_bytes = out.granted_bytes.max(bytes);
                    out.granted_envelopes = out.granted_envelopes.max(envelopes);
                }
                Ok(())
            }
            PeerFrame::Envelope(arrived) => self.envelope_arrived(round, peer, arrived, tx),
            PeerFrame::Offer { offer, items } => self.offered(round, peer, offer, &items, tx),
            PeerFrame::Want(answer) => self.wanted(round, peer, &answer, tx),
            PeerFrame::Have(answer) => self.had(round, peer, &answer, tx),
            PeerFrame::Gone(answer) => self.gone(round, peer, &answer, tx),
            PeerFrame::Word(word) => self.word_arrived(round, peer, word, tx),
            PeerFrame::Receipt(receipt) => self.receipt_arrived(round, peer, receipt, tx),
            PeerFrame::RetryLater { answer, after_ms, source, .. } => {
                self.refused(round, peer, &answer, after_ms, source);
                Ok(())
            }
            PeerFrame::Custody { incarnation, class, ranges, durable_sequence } => {
                self.note_durable(peer, durable_sequence, tx)?;
                self.custody(round, peer, incarnation, class, &ranges, tx)
            }
            PeerFrame::Dropped(names) => self.dropped(round, peer, &names, tx),
            PeerFrame::Digest { .. } => Ok(()),
            PeerFrame::Ids(ids) => {
                self.ids_arrived(peer, &ids, tx);
                Ok(())
            }
            PeerFrame::Get(nodes) => {
                self.get_arrived(peer, &nodes);
                Ok(())
            }
            PeerFrame::Fact(fact) => self.fact_arrived(round, peer, fact, tx),
            PeerFrame::ReceiptsWanted { above } => self.show_own_receipts(peer, &above, tx),
            PeerFrame::Twin(step) => {
                self.twin_step(round, peer, step, tx);
                Ok(())
            }
            PeerFrame::Shown { last, all } => self.shown(round, peer, &last, all, tx),
        }
    }

    /// Ends a round: timers, envelopes, deliveries, receipts, words, and what may go on the way.
    ///
    /// # Errors
    /// When the store failed; the process must end.
    pub fn flush(&mut self, now: Now, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let round = self.round(now);
        self.had.clear();
        self.ring(round, tx)?;
        self.work(round, tx)?;
        self.sweep(round, tx)?;
        self.close_groups(round, tx)?;
        self.renew(round, tx)?;
        self.hand_out(round, tx)?;
        self.issue_receipts(round, tx)?;
        for handle in std::mem::take(&mut self.words_due) {
            self.send_word(handle, tx)?;
        }
        self.tell_waiting(round, tx)?;
        self.pump(round, tx)?;
        self.answer_waiters(round, tx)?;
        self.flows.save(tx);
        self.channels.save(tx);
        self.tell_dropped(tx);
        // When all writes are there: custody names the commit that holds them.
        self.acknowledge(tx);
        if self.channels.has_ready() {
            self.alarms.set(Alarm::Continue, now.boot_ms);
        }
        self.save_counters(round, tx);
        Ok(())
    }

    /// Looks at what timers name.
    fn ring(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let mut more_rows = false;
        while let Some(alarm) = self.alarms.ring(round.now.boot_ms) {
            match alarm {
                Alarm::Continue => break,
                Alarm::Rows => more_rows |= self.ring_rows(round, tx)?,
                Alarm::Delayed => self.release_delayed(round, tx)?,
                Alarm::Retry(handle) => self.retry(round, handle, tx)?,
                Alarm::Word(handle) => {
                    self.words_due.insert(handle);
                }
                Alarm::Substates(handle) => self.owe_receipt(handle, None),
                Alarm::Publish => self.publish(tx),
                Alarm::Lease(consumer) => self.end_leases(round, consumer),
                Alarm::Channel(handle) => self.wake_channel(handle),
                Alarm::Unblock => self.unblock(round),
                Alarm::Renew => self.renew_now(),
                Alarm::Answer(peer) => self.expect_answer(round, peer, tx)?,
                Alarm::Pace => {}
            }
        }
        if more_rows {
            // In the next round: one must stay a page, however much is due together.
            self.alarms.set(Alarm::Rows, round.now.boot_ms);
        }
        Ok(())
    }

    /// Every commit moves the counters on; a round that wrote nothing is no commit.
    fn save_counters(&mut self, round: Round, tx: &mut Tx<'_>) {
        if tx.is_empty() {
            return;
        }
        let anchor = self.clock.anchor(round.now);
        self.counters.commit_sequence += 1;
        if planted::is(Bug::CountersSavedNowAndThen) && !self.counters.commit_sequence.is_multiple_of(8) {
            return;
        }
        self.counters.node_time_ms = anchor.at.0;
        self.counters.boot_ms = anchor.reading.boot_ms;
        self.counters.boot_id = bytes::Bytes::copy_from_slice(&anchor.reading.boot_id);
        self.counters.wall_ms = anchor.reading.wall_ms;
        self.counters.highest_wall_ms = self.counters.highest_wall_ms.max(anchor.reading.wall_ms);
        tx.put(&meta::COUNTERS.to_owned(), &self.counters);
    }
}
