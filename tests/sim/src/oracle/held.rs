//! P2 as disks show it: who says that it has an envelope has it, nobody gives one up unasked, and what it says of age,
//! flow and key of an envelope holds from one holder to the next (rules CUSTODY-1, CUSTODY-3, CUSTODY-4, WAVE-2, AGE-3,
//! FLOW-4, SEAL-3).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use waypost_core::engine::input::SessionId;
use waypost_core::envelope::{Header, Name, flow_from_wire};
use waypost_core::filter::InFlow;
use waypost_core::id::{FlowId, NodeId};
use waypost_core::numbers::Numbers;
use waypost_core::store::keys::Key as _;
use waypost_core::store::kv::{Kv as _, Table};
use waypost_core::store::tables::{EnvelopeKey, FlowHandle, Record};
use waypost_proto::hop::{self, frame::Kind};
use waypost_proto::stored::{self, envelope::State};

use super::Oracle;
use crate::disk::Disk;
use crate::host::{Host, Process};

/// What a boot clock may run fast or slow in all, and what commits and rounding add.
const DRIFT_PPM: u64 = 500;
const ROUNDING_US: u64 = 1_000_000;

/// The longest time to the first wave that a few links predict, and between two, with what freezing and slow disks add.
const FIRST_WAVE_US: u64 = 25 * 60_000_000;
const WAVE_US: u64 = 80 * 60_000_000;

/// What was said of envelopes.
#[derive(Debug, Default)]
pub struct Said {
    /// By connection, giver and number.
    offers: BTreeMap<(SessionId, usize, u64), Vec<(Name, u32)>>,
    /// The lowest age its source gave an envelope, and when it was born by that, in true time.
    ages: BTreeMap<(FlowId, u64), (u64, u64)>,
    /// What a liar sent: nobody can know its age any more.
    aged_by_liars: BTreeSet<(FlowId, u64)>,
    /// Whose an encapsulated key is.
    keys: BTreeMap<[u8; 32], FlowId>,
    /// The last numbers of closed flows.
    ends: BTreeMap<FlowId, u64>,
    /// Own flows with copies that stand by: the life, floor and wave they were first seen with, and when.
    waiting: BTreeMap<(usize, FlowHandle), (u64, u64, u32, u64)>,
    /// Copies that a neighbour gave up and of which a node still stands by: its life, and its row's place then.
    dropped: BTreeMap<usize, Vec<(u64, EnvelopeKey, u64)>>,
}

/// A row of a disk, as a power cut would leave it.
pub(super) fn row<R: Record>(disk: &Disk, key: &R::Key) -> Option<R> {
    R::decode(&disk.rows().get(R::TABLE, &R::encode_key(key)).ok()??).ok()
}

/// A flow's number on a disk.
pub(super) fn handle(disk: &Disk, flow: FlowId) -> Option<FlowHandle> {
    row::<stored::Handle>(disk, &(flow,)).map(|row| row.handle)
}

/// The filter of a flow on a disk.
pub(super) fn filter(disk: &Disk, flow: FlowId) -> Option<InFlow> {
    InFlow::from_row(&row::<stored::InFlow>(disk, &(handle(disk, flow)?,))?).ok()
}

impl Oracle {
    fn is_in_doubt(&self, host: usize) -> bool {
        let doubt = self.doubt(host);
        doubt.lies || doubt.twins || doubt.rot || doubt.disk_us.is_some()
    }

    /// A frame leaves a node for another.
    pub fn says(&mut self, at_us: u64, (host, me): (usize, NodeId), to: (SessionId, usize), kind: &Kind, disk: &Disk) {
        match kind {
            Kind::Offer(offer) => {
                let item = |item: &hop::Offered| Some((Name::from_wire(item.name.as_ref()?)?, item.wave));
                let items = offer.items.iter().filter_map(item).collect();
                self.said.offers.insert((to.0, host, offer.offer), items);
            }
            Kind::Have(answer) | Kind::Want(answer) if !self.is_in_doubt(host) => {
                let wants = matches!(kind, Kind::Want(_));
                for (name, wave) in self.answered(to, answer) {
                    if name.flow.destination != me && is_tombstone(disk, name, wants.then_some(wave)) {
                        let says = if wants { "wants again in a wave" } else { "says that it has" };
                        self.breaks("held", at_us, format!("{host} {says} what it gave up: {name:?}"));
                    }
                }
            }
            Kind::Gone(answer) if !self.is_in_doubt(host) => {
                for (name, _) in self.answered(to, answer) {
                    if name.flow.source != me && never_came_by(disk, name) == Some(true) {
                        self.breaks("held", at_us, format!("{host} says that it had what never came by: {name:?}"));
                    }
                }
            }
            Kind::Envelope(envelope) if !self.is_in_doubt(host) => {
                self.envelope_leaves(at_us, (host, me), envelope);
                self.is_noted_as_left(at_us, (host, me), envelope, disk);
            }
            Kind::Envelope(envelope) if self.doubt(host).lies => {
                if let Ok(header) = Header::decode(&envelope.header) {
                    self.said.aged_by_liars.insert((header.name.flow, header.name.last()));
                }
            }
            Kind::Word(attested) => {
                let content = attested.object.as_ref().map(|object| object.content.clone()).unwrap_or_default();
                let Ok(word) = hop::WordContent::decode(content) else { return };
                if let Some(flow) = word.flow.as_ref().and_then(flow_from_wire).filter(|_| word.closed) {
                    self.said.ends.insert(flow, word.end);
                }
            }
            _ => {}
        }
    }

    fn answered(&self, (session, giver): (SessionId, usize), answer: &hop::Answer) -> Vec<(Name, u32)> {
        // A liar offers under numbers it has used before.
        let offered = self.said.offers.get(&(session, giver, answer.offer)).filter(|_| !self.doubt(giver).lies);
        let Some(items) = offered else { return Vec::new() };
        // What a liar sent in its own name under two guises proves nothing.
        let honest = |(name, _): &(Name, u32)| !self.liars.contains(&name.flow.source);
        answer.items.iter().filter_map(|index| items.get(*index as usize).copied()).filter(honest).collect()
    }

    fn envelope_leaves(&mut self, at_us: u64, (host, me): (usize, NodeId), envelope: &hop::Envelope) {
        let Ok(header) = Header::decode(&envelope.header) else { return };
        let (flow, last) = (header.name.flow, header.name.last());
        let source = self.nodes.iter().position(|node| *node == flow.source);
        if source.is_none_or(|source| self.is_in_doubt(source)) {
            return;
        }
        if self.said.ends.get(&flow).is_some_and(|end| last > *end) {
            self.breaks("held", at_us, format!("{host} sends number {last} of a flow that its source has closed"));
        }
        let owner = *self.said.keys.entry(header.encapsulated).or_insert(flow);
        if owner != flow {
            self.breaks("held", at_us, format!("{host} sends an envelope sealed with the key of another flow"));
        }
        if self.said.aged_by_liars.contains(&(flow, last)) {
            return;
        }
        let age_us = envelope.age_ms * 1000;
        let born_us = at_us.saturating_sub(age_us);
        let (least_ms, born_us) = match self.said.ages.get(&(flow, last)) {
            Some((least_ms, born_us)) if flow.source != me => (*least_ms, *born_us),
            Some((least_ms, born_us)) => ((*least_ms).min(envelope.age_ms), *born_us),
            None if flow.source != me => return,
            None => (envelope.age_ms, born_us),
        };
        self.said.ages.insert((flow, last), (least_ms, born_us));
        let lived_us = at_us - born_us;
        let most_us = lived_us + lived_us / 1_000_000 * DRIFT_PPM + ROUNDING_US + self.held_up_us;
        // Across a reboot up to five minutes more may be believed, as often as there is one.
        if (age_us > most_us && !self.reboots) || envelope.age_ms < least_ms {
            let ages = format!("{} ms of {} ms, at least {least_ms} ms", envelope.age_ms, lived_us / 1000);
            self.breaks("age", at_us, format!("{host} gives an envelope the age of {ages}"));
        }
    }

    /// That mail may have left is on disk before its first byte goes (rule CANCEL-1).
    fn is_noted_as_left(&mut self, at_us: u64, (host, me): (usize, NodeId), envelope: &hop::Envelope, disk: &Disk) {
        let name = Header::decode(&envelope.header).ok().map(|header| header.name);
        let Some(name) = name.filter(|name| name.flow.source == me) else { return };
        let flow = handle(disk, name.flow).and_then(|handle| row::<stored::OutFlow>(disk, &(handle,)));
        if flow.is_some_and(|flow| flow.left_below <= name.last()) {
            self.breaks("held", at_us, format!("{host} sends number {} and has not noted that it left", name.last()));
        }
    }

    /// A node hears that copies were given up elsewhere.
    pub fn hears_dropped(&mut self, host: usize, from: NodeId, dropped: &hop::Dropped, state: &Host) {
        for name in dropped.names.iter().filter_map(Name::from_wire) {
            let Some(key) = handle(&state.disk, name.flow).map(|handle| (handle, name.last())) else { continue };
            if let Some(copy) = row::<stored::Envelope>(&state.disk, &key)
                && copy.state() == State::Standby
                && copy.standby_at == from.0.as_slice()
            {
                self.said.dropped.entry(host).or_default().push((state.life, key, copy.due));
            }
        }
    }

    /// A node has dealt with all that came to it.
    pub fn has_dealt(&mut self, at_us: u64, host: usize, state: &Host) {
        if !matches!(state.process, Process::Idle(_)) || !state.queue.is_empty() {
            return;
        }
        for (life, key, due) in self.said.dropped.remove(&host).unwrap_or_default() {
            let copy = row::<stored::Envelope>(&state.disk, &key);
            let stands_by = copy.is_some_and(|copy| copy.state() == State::Standby && copy.due == due);
            if stands_by && state.life == life {
                self.breaks("held", at_us, format!("{host} stands by for a copy that it heard was given up: {key:?}"));
            }
        }
    }

    /// Looks whether copies of a host are where it believes them, and whether a relay with room has kept its own.
    pub fn look_at_copies(&mut self, at_us: u64, place: usize, hosts: &[Host]) {
        if place >= self.nodes.len() || self.is_in_doubt(place) {
            return;
        }
        let state = &hosts[place];
        if state.plan.has_room()
            && let Some(key) = state.disk.table(Table::Taken).map(|(key, _)| key).find(|key| !has_copy(state, key))
        {
            self.breaks("held", at_us, format!("{place} has room and gave up its copy of {key:02x?}"));
        }
        let mut waiting = BTreeSet::new();
        for (key, value) in state.disk.table(Table::Envelope) {
            let Ok(copy) = <stored::Envelope as Record>::decode(value) else { continue };
            let Ok(key) = stored::Envelope::decode_key(key) else { continue };
            if copy.state() == State::Standby && copy.header.is_empty() {
                waiting.insert(key.0);
            }
            let body = (copy.body, copy.body_index).encode();
            if copy.state() != State::Ended && !state.disk.rows().get(Table::Body, &body).is_ok_and(|it| it.is_some()) {
                return self.breaks("held", at_us, format!("{place} still answers for {key:?} and has no body of it"));
            }
            if let Some(what) = self.is_not_there(place, hosts, key, &copy) {
                return self.breaks("held", at_us, what);
            }
        }
        self.look_at_waves(at_us, place, state, &waiting);
    }

    /// Mail of which nobody hears goes again on a higher wave (rules RETRY-1, WAVE-3).
    fn look_at_waves(&mut self, at_us: u64, place: usize, state: &Host, waiting: &BTreeSet<FlowHandle>) {
        self.said.waiting.retain(|(of, handle), _| *of != place || waiting.contains(handle));
        for &handle in waiting {
            let Some(flow) = row::<stored::OutFlow>(&state.disk, &(handle,)) else { continue };
            let now = (state.life, flow.floor, flow.wave, at_us);
            let before = self.said.waiting.entry((place, handle)).or_insert(now);
            let same = (before.0, before.1, before.2) == (now.0, now.1, now.2);
            let patience_us = if flow.wave > 1 { WAVE_US } else { FIRST_WAVE_US };
            if !same {
                *before = now;
            } else if at_us > before.3 + patience_us && state.is_awake(at_us) {
                let minutes = patience_us / 60_000_000;
                let what = format!("{place} has heard nothing for {minutes} min and stays on wave {}", flow.wave);
                return self.breaks("held", at_us, what);
            }
        }
    }

    fn is_not_there(&self, place: usize, hosts: &[Host], key: EnvelopeKey, copy: &stored::Envelope) -> Option<String> {
        let at = NodeId::from_slice(&copy.standby_at).filter(|_| copy.state() == State::Standby)?;
        let flow = flow_of(&hosts[place].disk, key.0).filter(|flow| flow.destination == at)?;
        let taker = self.nodes.iter().position(|node| *node == at).filter(|taker| !self.is_in_doubt(*taker))?;
        let first = key.1 + 1 - u64::from(copy.count);
        let known = filter(&hosts[taker].disk, flow).is_some_and(|filter| filter.knows(first, key.1));
        (!known).then(|| format!("{place} stands by for numbers {first} to {} that {taker} never took", key.1))
    }
}

fn flow_of(disk: &Disk, handle: FlowHandle) -> Option<FlowId> {
    let own = row::<stored::OutFlow>(disk, &(handle,)).map(|row| row.flow);
    FlowId::from_slice(&own.or_else(|| row::<stored::TransitFlow>(disk, &(handle,)).map(|row| row.flow))?)
}

fn has_copy(state: &Host, key: &[u8]) -> bool {
    state.disk.rows().get(Table::Envelope, key).is_ok_and(|row: Option<Bytes>| row.is_some())
}

/// Whether a relay remembers an envelope that is still to come, in this wave or a later one, and has no copy of it.
fn is_tombstone(disk: &Disk, name: Name, wave: Option<u32>) -> bool {
    let Some(key) = handle(disk, name.flow).map(|handle| (handle, name.last())) else { return false };
    let taken = row::<stored::Wave>(disk, &key).is_some_and(|taken| wave.is_none_or(|wave| taken.wave >= wave));
    // Its receipt may have come in the round in which it was offered.
    taken && row::<stored::Envelope>(disk, &key).is_none() && has_ended(disk, name) == Some(false)
}

/// Whether a relay that knows the flow knows that an envelope has ended.
fn has_ended(disk: &Disk, name: Name) -> Option<bool> {
    let flow = row::<stored::TransitFlow>(disk, &(handle(disk, name.flow)?,))?;
    let settled: Numbers = flow.settled.iter().map(|span| (span.first, span.last)).collect();
    Some(name.last() < flow.floor || settled.covers(name.first.max(flow.floor), name.last()))
}

/// Whether a relay that knows the flow remembers neither an envelope nor its ending.
fn never_came_by(disk: &Disk, name: Name) -> Option<bool> {
    let ended = has_ended(disk, name)?;
    let handle = handle(disk, name.flow)?;
    Some(!ended && row::<stored::Wave>(disk, &(handle, name.last())).is_none())
}
