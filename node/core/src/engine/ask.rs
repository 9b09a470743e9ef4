//! Answers: where a message is, how the node does, who its neighbours are, and who may join (rules TRACE-1,
//! TRACE-2, TRUST-7).

use std::collections::BTreeSet;

use waypost_proto::hop;
use waypost_proto::stored::{self, envelope::State};

use super::damage::BODY;
use super::effect::{CustodyEvent, Effect, Refusal, Reply, Route, Rung, Status, Trace};
use super::input::{Level, RequestId};
use super::settle::{CONSUMED, DEAD, REFUSED};
use super::submit::damaged;
use super::{Engine, Event, Round, notice};
use crate::filter::Rejection;
use crate::flow::Ending;
use crate::id::{MessageId, NodeId};
use crate::limits;
use crate::message::Recipient;
use crate::store::keys::Key as _;
use crate::store::kv::{StoreError, Table};
use crate::store::tables::{FlowHandle, meta};
use crate::store::tx::Tx;
use crate::trust::{AdmissionClock, NodeKey, Terms, Token, examine};

/// Fragments of a body whose rows a trace reads; the rest is summed up by the message's row.
const TRACED_FRAGMENTS: u32 = 64;

/// Waiting envelopes that are counted for a route at most.
const COUNTED: usize = 10_000;

/// A request that waits for a level.
pub(super) struct Waiter {
    request: RequestId,
    id: MessageId,
    level: Level,
}

impl Engine {
    /// Where is this message? Answered now, or when the level is reached.
    pub(super) fn trace(
        &mut self,
        round: Round,
        request: RequestId,
        id: MessageId,
        wait: Option<Level>,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(message) = tx.get::<stored::Message>(&(id,))? else {
            tx.hint(Effect::Reply { request, reply: Reply::Refused(Refusal::UnknownMessage(id)) });
            return Ok(());
        };
        let trace = self.trace_of(round, id, &message, wait, tx)?;
        let waits = wait.is_some() && !trace.reached && !trace.ended;
        if waits && self.waiters.values().map(Vec::len).sum::<usize>() < limits::WAITERS {
            let level = wait.unwrap_or(Level::Accepted);
            self.waiters.entry(message.handle).or_default().push(Waiter { request, id, level });
            return Ok(());
        }
        self.tell(request, trace, tx);
        Ok(())
    }

    /// A ladder with a notice follows from the time: it is told when that is on disk, and cannot be unsaid by a reboot.
    fn tell(&self, request: RequestId, trace: Trace, tx: &mut Tx<'_>) {
        if trace.ladder.iter().any(|rung| rung.state == notice::RUNG) {
            tx.put(&meta::COUNTERS.to_owned(), &self.counters);
        }
        tx.claim(Effect::Reply { request, reply: Reply::Trace(Box::new(trace)) });
    }

    /// A delayed message has got its number: who waits for it waits for its flow from now on.
    pub(super) fn follow_waiters(&mut self, id: MessageId, tx: &Tx<'_>) -> Result<(), StoreError> {
        let Some(handle) = tx.get::<stored::Message>(&(id,))?.map(|row| row.handle) else { return Ok(()) };
        let early = self.waiters.remove(&0).unwrap_or_default();
        let (of_it, rest): (Vec<_>, Vec<_>) = early.into_iter().partition(|waiter| waiter.id == id);
        if !rest.is_empty() {
            self.waiters.insert(0, rest);
        }
        if !of_it.is_empty() {
            self.waiters.entry(handle).or_default().extend(of_it);
        }
        Ok(())
    }

    /// Something of a flow has changed: its waiters are looked at in this round.
    pub(super) fn wake_waiters(&mut self, handle: FlowHandle) {
        if self.waiters.contains_key(&handle) {
            self.waking.insert(handle);
        }
    }

    /// Answers the waiters whose level is reached.
    pub(super) fn answer_waiters(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        for handle in std::mem::take(&mut self.waking) {
            let mut left = Vec::new();
            for waiter in self.waiters.remove(&handle).unwrap_or_default() {
                let Some(message) = tx.get::<stored::Message>(&(waiter.id,))? else { continue };
                let trace = self.trace_of(round, waiter.id, &message, Some(waiter.level), tx)?;
                if trace.reached || trace.ended {
                    self.tell(waiter.request, trace, tx);
                } else {
                    left.push(waiter);
                }
            }
            if !left.is_empty() {
                self.waiters.insert(handle, left);
            }
        }
        Ok(())
    }

    /// Nobody waits any longer: what is known now.
    pub(super) fn end_wait(&mut self, round: Round, request: RequestId, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        for waiters in self.waiters.values_mut() {
            let Some(place) = waiters.iter().position(|waiter| waiter.request == request) else { continue };
            let Waiter { request, id, level } = waiters.remove(place);
            if let Some(message) = tx.get::<stored::Message>(&(id,))? {
                let trace = self.trace_of(round, id, &message, Some(level), tx)?;
                self.tell(request, trace, tx);
            }
            return Ok(());
        }
        Ok(())
    }

    /// The ladder of a message (rule TRACE-1): each rung with its time, in order of time.
    fn trace_of(
        &mut self,
        round: Round,
        id: MessageId,
        message: &stored::Message,
        wait: Option<Level>,
        tx: &Tx<'_>,
    ) -> Result<Trace, StoreError> {
        let (destination, class) = if message.handle == 0 {
            self.delayed_place(id, message, tx)?.ok_or_else(|| damaged(Table::Delayed))?
        } else {
            let flow = self.flows.out.get(message.handle, tx)?.ok_or_else(|| damaged(Table::OutFlow))?.id;
            (flow.destination, flow.class)
        };
        let mut ladder = vec![Rung { state: "accepted".to_owned(), at_ms: message.accepted_ms, by: Some(self.me) }];
        let mut custody = Vec::new();
        let whole = message.fragments.max(1);
        let mut endings: Vec<(u32, u32, u64, u32)> = Vec::new();
        let mut from = message.number;
        let last = message.number + u64::from(whole.min(TRACED_FRAGMENTS)) - 1;
        while from <= last {
            let rows =
                tx.scan::<stored::Envelope>(&(message.handle, from).encode(), &(message.handle, u64::MAX).encode(), 1)?;
            let Some((key, row)) = rows.into_iter().next() else { break };
            self.read_row(&row, from, &mut ladder, &mut custody, &mut endings);
            let notice = notice::rung_of(&row, from, round.at);
            ladder.extend(notice.filter(|_| !ladder.iter().any(|rung| rung.state == notice::RUNG)));
            from = key.1 + 1;
        }
        ladder.extend(rungs_of_endings(&endings, whole.min(TRACED_FRAGMENTS), message, destination));
        ladder.sort_by_key(|rung| rung.at_ms);
        custody.sort_by_key(|event| event.at_ms);
        custody.truncate(256);
        let has = |state: &str| ladder.iter().any(|rung| rung.state.starts_with(state));
        let ended = ["delivered", "expired", "rejected", "cancelled", "damaged"].iter().any(|state| has(state));
        let consumed = has("consumed");
        let negative = ended && !has("delivered");
        let over = negative || consumed || has("refused") || has("dead-lettered");
        let reached = match wait {
            None | Some(Level::Accepted) => true,
            Some(Level::Delivered) => has("delivered"),
            Some(Level::Consumed) => consumed,
        };
        let state = highest(&ladder);
        Ok(Trace {
            id,
            from: self.me,
            to: destination,
            channel: message.channel.clone(),
            class,
            state,
            ladder,
            custody,
            reached,
            ended: if wait == Some(Level::Consumed) { over } else { ended },
        })
    }

    /// The highest rung of a message.
    pub(super) fn state_of(&mut self, round: Round, id: MessageId, tx: &Tx<'_>) -> Result<String, StoreError> {
        let Some(message) = tx.get::<stored::Message>(&(id,))? else { return Ok("unknown".to_owned()) };
        Ok(self.trace_of(round, id, &message, None, tx)?.state)
    }

    /// What one envelope's row says of one of its numbers.
    fn read_row(
        &self,
        row: &stored::Envelope,
        number: u64,
        ladder: &mut Vec<Rung>,
        custody: &mut Vec<CustodyEvent>,
        endings: &mut Vec<(u32, u32, u64, u32)>,
    ) {
        for event in &row.custody {
            let peer = NodeId::from_slice(&event.peer);
            note_event(custody, self.me, Event::describe(event.event), event.at_ms, peer);
            let held = event.event == Event::HandedTo as u32;
            if held && !ladder.iter().any(|rung| rung.state == "held" && rung.by == peer) {
                ladder.push(Rung { state: "held".to_owned(), at_ms: event.at_ms, by: peer });
            }
        }
        if row.state() == State::Ended {
            let final_ones = row.endings.iter().filter(|ending| Ending::from_wire(ending.ending).is_some());
            let at_ms = final_ones.map(|ending| ending.at_ms).max().unwrap_or_default();
            note_event(custody, self.me, "freed its copy", at_ms, None);
        }
        let touching = row.endings.iter().filter(|ending| ending.first <= number && number <= ending.last);
        endings.extend(touching.map(|ending| (ending.ending, ending.reason, ending.at_ms, u32::from(ending.late))));
    }

    /// The node's state.
    pub(super) fn status(&self) -> Status {
        let counters = &self.counters;
        Status {
            address: self.me,
            name: self.policy.name.clone(),
            network: self.network.to_string(),
            listen: self.listen.clone(),
            outbox: (counters.outbox_messages, counters.outbox_bytes),
            inbox: (counters.inbox_messages, counters.inbox_bytes + counters.inbox_reserved),
            transit: (counters.transit_envelopes, counters.transit_bytes),
            standby: counters.standby,
            peers: u32::try_from(self.links.len()).unwrap_or(u32::MAX),
            durable_sequence: counters.commit_sequence,
            alarms: self.raised_alarms(),
            disk_full: !self.has_disk_for(0),
        }
    }

    /// The way to one node, or to all that are known or have mail waiting here.
    pub(super) fn routes(
        &mut self,
        to: Option<&Recipient>,
        tx: &Tx<'_>,
    ) -> Result<Result<Vec<Route>, Refusal>, StoreError> {
        let nodes: Vec<NodeId> = match to {
            Some(recipient) => match self.resolve(recipient) {
                Ok(node) => vec![node],
                Err(refusal) => return Ok(Err(refusal)),
            },
            None => {
                let known = self.directory.facts().map(|(node, _)| *node).chain(self.own_links.keys().copied());
                let all: BTreeSet<NodeId> = known.chain(self.lanes.destinations()).collect();
                all.into_iter().filter(|node| *node != self.me).collect()
            }
        };
        let mut routes = Vec::with_capacity(nodes.len());
        for to in nodes {
            let next = self.directory.next(self.me, &self.own_links, to);
            let end = crate::store::keys::after_prefix(&(to,).encode());
            let waiting = tx.scan_raw(Table::Due, &(to,).encode(), &end, COUNTED)?.len() as u64;
            routes.push(Route {
                to,
                name: self.directory.fact(&to).map(|fact| fact.name.clone()).unwrap_or_default(),
                next: next.give,
                expected_delay_ms: next.delay_us.map(|us| us / 1000),
                waiting,
            });
        }
        Ok(Ok(routes))
    }

    // ---- membership ----

    fn admission_clock(&self, round: Round) -> AdmissionClock {
        AdmissionClock {
            now_ms: round.now.wall_ms,
            build_ms: self.policy.build_ms,
            highest_stored_ms: self.counters.highest_wall_ms,
        }
    }

    /// Makes a token.
    pub(super) fn invite(&mut self, round: Round, request: RequestId, once: bool, lifetime_ms: u64, tx: &mut Tx<'_>) {
        let clock = self.admission_clock(round);
        let secret = NodeKey::draw(&mut self.rng);
        let addresses: Vec<String> = self.listen.iter().map(|address| format!("{address}/p2p/{}", self.me)).collect();
        let terms = Terms { once, lifetime_ms };
        let token = match self.roster.member(&self.me) {
            Some(member) => Token::issue(&self.key, member, terms, clock, secret, &addresses).ok(),
            None => None,
        };
        let reply = match token {
            Some(token) => Reply::Invited {
                token: token.to_text().to_string(),
                expires_at_ms: round.now.wall_ms.saturating_add(lifetime_ms),
            },
            None => Reply::Refused(Refusal::NotAdmitted),
        };
        tx.claim(Effect::Reply { request, reply });
    }

    /// A stranger shows an invitation; the use of a single-use one is on disk before the certificate leaves (TRUST-7).
    pub(super) fn join_asked(
        &mut self,
        round: Round,
        request: RequestId,
        subject: NodeId,
        join: &hop::Join,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let result = self.admit(round, subject, join, tx)?;
        tx.claim(Effect::Reply { request, reply: Reply::Admission(result) });
        Ok(())
    }

    fn admit(
        &mut self,
        round: Round,
        subject: NodeId,
        join: &hop::Join,
        tx: &mut Tx<'_>,
    ) -> Result<Result<Vec<hop::Signed>, String>, StoreError> {
        if let Some(chain) = self.roster.chain_of(&subject) {
            return Ok(Ok(chain));
        }
        let clock = self.admission_clock(round);
        let Some(issuer) = self.roster.member(&self.me) else {
            return Ok(Err("this node is not a member yet: ask another".to_owned()));
        };
        let admissible = match examine(issuer, &self.roster, join, subject, clock) {
            Ok(admissible) => admissible,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let invitation = admissible.invitation_hash();
        let used = tx.get::<stored::Admission>(&(invitation,))?;
        let used_by = used.and_then(|row| NodeId::from_slice(&row.subject));
        let admission = match admissible.certify(&self.key, used_by) {
            Ok(admission) => admission,
            Err(error) => return Ok(Err(error.to_string())),
        };
        if admission.once {
            let subject = bytes::Bytes::copy_from_slice(&subject.0);
            let expires_ms = round.now.wall_ms.saturating_add(limits::LIFETIME_MAX_MS);
            tx.put(&(invitation,), &stored::Admission { subject, expires_ms });
        }
        self.learn_chain(subject, &admission.chain, tx);
        Ok(Ok(admission.chain))
    }

    /// Keeps a verified chain.
    pub(super) fn learn_chain(&mut self, subject: NodeId, chain: &[hop::Signed], tx: &mut Tx<'_>) {
        if self.roster.admit_chain(subject, chain).is_ok() {
            let certificate = |signed: &hop::Signed| stored::Signed {
                content: signed.content.clone(),
                signature: signed.signature.clone(),
            };
            tx.put(&(subject,), &stored::Chain { certificates: chain.iter().map(certificate).collect() });
        }
    }

    /// A member certified this node.
    pub(super) fn certified(&mut self, chain: Vec<hop::Signed>, tx: &mut Tx<'_>) {
        self.learn_chain(self.me, &chain, tx);
        if self.roster.is_member(&self.me) {
            self.own.chain.clone_from(&chain);
            tx.claim(Effect::Certify { chain });
        }
    }
}

/// Notes a custody event; of the fragments of one body the last of a kind stands for all.
fn note_event(custody: &mut Vec<CustodyEvent>, node: NodeId, event: &str, at_ms: u64, peer: Option<NodeId>) {
    match custody.iter_mut().find(|known| known.event == event && known.peer == peer) {
        Some(known) => known.at_ms = known.at_ms.max(at_ms),
        None => custody.push(CustodyEvent { node, event: event.to_owned(), at_ms, peer }),
    }
}

/// Rungs from the endings of all numbers of a message: of a body in fragments, delivered when all are.
fn rungs_of_endings(
    endings: &[(u32, u32, u64, u32)],
    numbers: u32,
    message: &stored::Message,
    destination: NodeId,
) -> Vec<Rung> {
    let mut rungs = Vec::new();
    let open = message.fragments > 0 && message.open_fragments > 0;
    let codes = [1, 2, 3, 4, 5, CONSUMED, REFUSED, DEAD];
    for code in codes {
        let of_code: Vec<_> = endings.iter().filter(|(ending, ..)| *ending == code).collect();
        let Some((_, reason, at_ms, late)) = of_code.iter().max_by_key(|(_, _, at, _)| *at).copied().copied() else {
            continue;
        };
        // Of the endings of fragments the message's own is the first.
        let first = message.ending.as_ref().is_none_or(|ending| ending.ending == code);
        let all = of_code.len() >= numbers as usize;
        let positive = code == Ending::Delivered as u32 || code == CONSUMED;
        if (positive && (!all || open)) || (code < CONSUMED && !positive && !first) {
            continue;
        }
        let late = of_code.iter().map(|(.., late)| *late).max().unwrap_or(late);
        let name = match code {
            CONSUMED => "consumed".to_owned(),
            REFUSED => format!("refused: {}", Rejection::describe(reason)),
            DEAD => format!("dead-lettered: {}", Rejection::describe(reason)),
            _ => ending_name(code, reason, late > 0),
        };
        let by = (code >= Ending::Delivered as u32).then_some(destination);
        rungs.push(Rung { state: name, at_ms, by });
    }
    rungs
}

fn ending_name(code: u32, reason: u32, late: bool) -> String {
    match Ending::from_wire(code) {
        Some(Ending::Delivered) if late => "arrived late".to_owned(),
        Some(Ending::Rejected) => format!("rejected: {}", Rejection::describe(reason)),
        Some(Ending::Damaged) if reason == 1 => "damaged: outcome unknown".to_owned(),
        Some(Ending::Damaged) if reason == BODY => "damaged: its body is missing on this node's disk".to_owned(),
        Some(Ending::Damaged) => "damaged: outcome lost".to_owned(),
        Some(ending) => ending.name().to_owned(),
        None => "unknown".to_owned(),
    }
}

/// The state to show: the highest rung, an ending before `held`, a sub-state before `delivered`; never a notice, and
/// nothing that came after another ending than `delivered`: a message has one (promise P3).
fn highest(ladder: &[Rung]) -> String {
    let late = ladder.iter().any(|rung| rung.state == "arrived late");
    let rank = |state: &str| match state.split(':').next().unwrap_or(state) {
        "delayed" => 0,
        "accepted" => 1,
        "held" => 2,
        "arrived late" => 3,
        "delivered" => 5,
        "consumed" | "refused" | "dead-lettered" if late => 3,
        "consumed" | "refused" | "dead-lettered" => 6,
        _ => 4,
    };
    ladder.iter().max_by_key(|rung| rank(&rung.state)).map(|rung| rung.state.clone()).unwrap_or_default()
}

/// Draws from the engine's random source.
pub(super) fn draw_u64(rng: &mut impl rand_core::Rng) -> u64 {
    rng.next_u64()
}
