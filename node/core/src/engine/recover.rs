//! The start: a new incarnation over what the disk holds. Memory is a window; everything it needs is derived here or
//! when it is touched (rules START-1 to START-4).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use waypost_proto::{hop, stored};

use super::alarm::{Alarm, Alarms};
use super::ask::draw_u64;
use super::channels::Channels;
use super::evidence::draw_incarnation;
use super::recovery::Asked;
use super::room::OnTop;
use super::twins::Twins;
use super::{Engine, Identity, KnownPeer, OwnHello, lanes, refusal, state};
use crate::id::{Class, Incarnation, NetworkId, NodeId};
use crate::limits;
use crate::planted::{self, Bug};
use crate::policy::Policy;
use crate::route::{Directory, Fact, Link, UNKNOWN_WAIT_US};
use crate::store::keys::{Key as _, after_prefix, end_of_table};
use crate::store::kv::{Kv, StoreError, Table};
use crate::store::tables::{FactRow, Record as _, StartRow, meta};
use crate::store::tx::{Outcome, Tx};
use crate::time::{AgeClock, Anchor, NodeTime, Now};
use crate::trust::Roster;

use prost::Message as _;

impl Engine {
    /// The network whose mail a store holds; `None` for an empty store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn network_on(kv: &dyn Kv) -> Result<Option<NetworkId>, StoreError> {
        let start = Tx::new(kv).get::<StartRow>(&meta::START.to_owned())?;
        Ok(start.and_then(|row| row.0.network.as_ref().try_into().ok()).map(NetworkId))
    }

    /// Reads the disk, begins a new incarnation. The outcome must be committed before anything else happens.
    ///
    /// # Errors
    /// When the store cannot be read, or belongs to another network (rule START-4).
    pub fn recover(identity: Identity, policy: Policy, kv: &dyn Kv, now: Now) -> Result<(Self, Outcome), StoreError> {
        let mut tx = Tx::new(kv);
        let mut rng = ChaCha20Rng::from_seed(identity.seed);
        let mut counters = tx.get::<stored::Counters>(&meta::COUNTERS.to_owned())?.unwrap_or_default();
        let start = tx.get::<StartRow>(&meta::START.to_owned())?.map(|row| row.0);
        let found = start.as_ref().and_then(|start| Incarnation::from_slice(&start.incarnation));
        is_of_this_network(start.as_ref(), identity.network)?;
        let drawn = draw_incarnation(&mut rng, found.map_or(0, |found| found.counter));
        let incarnation = found.filter(|_| planted::is(Bug::IncarnationReused)).unwrap_or(drawn);
        let raised = tx.get::<stored::Alarms>(&meta::ALARMS.to_owned())?.unwrap_or_default();
        let clock = AgeClock::start(anchor_of(&counters), now, policy.build_ms);
        counters.staged_bytes = 0;
        // An empty disk is a new one, or one that was lost: the peers know (rule RECOVER-1).
        let asks_until = clock.at(now).plus(limits::LADDER_MS);
        let recovers_until = start.as_ref().map_or(asks_until, |start| NodeTime(start.recovers_until));
        let own = hello_at_start(incarnation, found, counters.commit_sequence, draw_u64(&mut rng));
        let mut engine = Self {
            me: identity.key.id(),
            key: identity.key,
            network: identity.network,
            policy,
            disk: super::disk::Disk::default(),
            rng,
            clock,
            own,
            listen: Vec::new(),
            roster: Roster::trusting(identity.network, identity.proofs),
            names: vec![incarnation],
            renew_above: None,
            renew_later: None,
            renewed_ms: None,
            raised,
            told_alarms: BTreeSet::new(),
            looked: super::pace::Looked::default(),
            recovers_until,
            asked: Asked::default(),
            twins: Twins::default(),
            fresh_above: counters.next_due,
            counters,
            flows: state::Flows::default(),
            open: BTreeMap::new(),
            sealable: BTreeSet::new(),
            cancelling: false,
            groups: BTreeMap::new(),
            streams: BTreeMap::new(),
            links: BTreeMap::new(),
            own_links: BTreeMap::new(),
            directory: Directory::default(),
            lanes: lanes::Lanes::default(),
            refusals: refusal::Refusals::default(),
            on_top: OnTop::default(),
            had: BTreeSet::new(),
            transfers: BTreeMap::new(),
            channels: Channels::default(),
            consumers: BTreeMap::new(),
            waiters: BTreeMap::new(),
            alarms: Alarms::default(),
            retries: BTreeMap::new(),
            jobs: VecDeque::new(),
            sweeps: VecDeque::new(),
            dropped_passed: BTreeSet::new(),
            acknowledging: BTreeSet::new(),
            receipts_owed: BTreeMap::new(),
            words_due: BTreeSet::new(),
            dropped_owed: BTreeMap::new(),
            waking: BTreeSet::new(),
        };
        engine.put_start(incarnation, &mut tx);
        engine.read_disk(identity.chain, now, &mut tx)?;
        engine.flush(now, &mut tx)?;
        Ok((engine, tx.finish()))
    }

    fn read_disk(&mut self, chain: Vec<hop::Signed>, now: Now, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let round = self.round(now);
        self.read_members(chain, tx)?;
        self.read_neighbours(tx)?;
        self.read_lanes(tx)?;
        self.begin_sweeps();
        for (name, row) in tx.scan::<stored::Channel>(&[], &end_of_table(), limits::CHANNELS)? {
            self.channels.load(&name, &row);
        }
        if planted::is(Bug::KeysForgottenAtStart) {
            for (key, _) in tx.scan::<stored::Idempotency>(&[], &end_of_table(), 4096)? {
                tx.delete::<stored::Idempotency>(&key);
            }
        }
        self.alarms.set(Alarm::Rows, now.boot_ms);
        self.alarms.set(Alarm::Delayed, now.boot_ms);
        self.publish_soon(round);
        Ok(())
    }

    fn read_members(&mut self, chain: Vec<hop::Signed>, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let signed =
            |row: &stored::Signed| hop::Signed { content: row.content.clone(), signature: row.signature.clone() };
        for ((subject,), row) in tx.scan::<stored::Chain>(&[], &end_of_table(), limits::CHAINS)? {
            let chain: Vec<hop::Signed> = row.certificates.iter().map(signed).collect();
            if self.roster.admit_chain(subject, &chain).is_ok() && subject != self.me {
                self.own.known_chains.push(chain);
            }
        }
        if !chain.is_empty() {
            self.learn_chain(self.me, &chain, tx);
        }
        self.own.chain = self.roster.chain_of(&self.me).unwrap_or_default();
        Ok(())
    }

    fn read_neighbours(&mut self, tx: &Tx<'_>) -> Result<(), StoreError> {
        for ((node,), FactRow(row)) in tx.scan::<FactRow>(&[], &end_of_table(), limits::FACTS)? {
            let content = hop::FactContent::decode(row.content.clone()).ok();
            if let Some(fact) = content.as_ref().and_then(Fact::from_wire) {
                self.directory.learn(node, fact);
            }
        }
        for ((node,), row) in tx.scan::<stored::Peer>(&[], &end_of_table(), limits::PEERS)? {
            self.own_links.insert(node, Link { up: false, rtt_us: 0, wait_us: UNKNOWN_WAIT_US });
            let told = self.directory.fact(&node).map(|fact| fact.addresses.clone()).unwrap_or_default();
            self.own.known_peers.push(KnownPeer { node, reached: row.addresses, told });
        }
        Ok(())
    }

    /// Finds the destinations for which something is due, by skipping from one to the next.
    fn read_lanes(&mut self, tx: &Tx<'_>) -> Result<(), StoreError> {
        let mut from = Vec::new();
        loop {
            let Some((key, _)) = tx.scan_raw(Table::Due, &from, &end_of_table(), 1)?.into_iter().next() else {
                return Ok(());
            };
            let (node, class, due): (NodeId, u8, u64) = stored::Place::decode_key(&key)?;
            if let Some(class) = Class::from_wire(u32::from(class)) {
                self.lanes.note(class, node, due);
            }
            from = after_prefix(&(node, class).encode());
            if planted::is(Bug::DueForgottenAtStart) {
                return Ok(());
            }
        }
    }
}

fn is_of_this_network(start: Option<&stored::Start>, network: NetworkId) -> Result<(), StoreError> {
    match start {
        Some(start) if start.network != network.0.as_slice() => {
            Err(StoreError::Failed("the data directory holds mail of another network".to_owned()))
        }
        _ => Ok(()),
    }
}

/// What is said first, before the disk is read for members.
fn hello_at_start(
    incarnation: Incarnation,
    continues: Option<Incarnation>,
    durable_sequence: u64,
    nonce: u64,
) -> OwnHello {
    let (chain, known_chains, known_peers) = (Vec::new(), Vec::new(), Vec::new());
    OwnHello { incarnation, continues, durable_sequence, nonce, chain, known_chains, known_peers }
}

fn anchor_of(counters: &stored::Counters) -> Option<Anchor> {
    let boot_id = counters.boot_id.as_ref().try_into().ok()?;
    let reading = Now { boot_ms: counters.boot_ms, boot_id, wall_ms: counters.wall_ms };
    Some(Anchor { at: NodeTime(counters.node_time_ms), reading })
}
