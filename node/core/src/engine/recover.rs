//! The start: a new incarnation over what the disk holds. Memory is a window; everything it needs is derived here or
//! when it is touched (rules START-1 to START-4).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use waypost_proto::{hop, stored};

use super::alarm::{Alarm, Alarms};
use super::ask::draw_u64;
use super::{Engine, Identity, OwnHello, Round, consume, lanes, state};
use crate::flow::OutFlow;
use crate::id::{Class, Incarnation, NetworkId, NodeId};
use crate::limits;
use crate::policy::Policy;
use crate::route::{Directory, Fact, Link, UNKNOWN_WAIT_US};
use crate::store::keys::{Key as _, after_prefix, end_of_table};
use crate::store::kv::{Kv, StoreError, Table};
use crate::store::tables::{FactRow, Record as _, StartRow, meta};
use crate::store::tx::{Outcome, Tx};
use crate::time::{AgeClock, Anchor, NodeTime, Now};
use crate::trust::Roster;

use prost::Message as _;

/// Rows read at a time.
const PAGE: usize = 1024;

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
        if let Some(start) = &start
            && start.network != identity.network.0.as_slice()
        {
            return Err(StoreError::Failed("the data directory holds mail of another network".to_owned()));
        }
        let mut random = [0; 8];
        rng.fill_bytes(&mut random);
        let incarnation = Incarnation { counter: found.map_or(1, |found| found.counter + 1), random };
        let row = stored::Start {
            incarnation: Bytes::copy_from_slice(&incarnation.to_bytes()),
            network: Bytes::copy_from_slice(&identity.network.0),
        };
        tx.put(&meta::START.to_owned(), &StartRow(row));
        let clock = AgeClock::start(anchor_of(&counters), now, policy.build_ms);
        counters.staged_bytes = 0;
        let own = OwnHello {
            incarnation,
            continues: found,
            durable_sequence: counters.commit_sequence,
            nonce: draw_u64(&mut rng),
            chain: Vec::new(),
            known_chains: Vec::new(),
            known_peers: Vec::new(),
        };
        let fresh_above = counters.next_due;
        let mut engine = Self {
            me: identity.key.id(),
            key: identity.key,
            network: identity.network,
            policy,
            rng,
            clock,
            own,
            listen: Vec::new(),
            roster: Roster::new(identity.network),
            counters,
            flows: state::Flows::default(),
            open: BTreeMap::new(),
            sealable: BTreeSet::new(),
            groups: BTreeMap::new(),
            streams: BTreeMap::new(),
            links: BTreeMap::new(),
            own_links: BTreeMap::new(),
            directory: Directory::default(),
            lanes: lanes::Lanes::default(),
            transfers: BTreeMap::new(),
            fresh_above,
            channels: consume::Channels::default(),
            consumers: BTreeMap::new(),
            waiters: BTreeMap::new(),
            alarms: Alarms::default(),
            retries: BTreeMap::new(),
            jobs: VecDeque::new(),
            acknowledging: BTreeSet::new(),
            receipts_owed: BTreeMap::new(),
            words_due: BTreeSet::new(),
            waking: BTreeSet::new(),
        };
        engine.read_disk(identity.chain, now, &mut tx)?;
        engine.flush(now, &mut tx)?;
        Ok((engine, tx.finish()))
    }

    fn read_disk(&mut self, chain: Vec<hop::Signed>, now: Now, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let round = self.round(now);
        self.read_members(chain, tx)?;
        self.read_neighbours(tx)?;
        self.read_lanes(tx)?;
        self.close_old_flows(round, tx)?;
        self.watch_transit(round, tx)?;
        self.throw_away_stages(tx)?;
        for (name, row) in tx.scan::<stored::Channel>(&[], &end_of_table(), limits::CHANNELS)? {
            self.channels.load(&name, &row);
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
            self.own.known_peers.push((node, row.addresses));
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
        }
    }

    /// Flows of earlier incarnations get no more numbers; everything un-ended counts as having left (rules START-2,
    /// FLOW-4).
    fn close_old_flows(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let mut from = Vec::new();
        loop {
            let page = tx.scan::<stored::OutFlow>(&from, &end_of_table(), PAGE)?;
            let full = page.len() == PAGE;
            for ((handle,), row) in page {
                from = (handle + 1,).encode();
                let flow = OutFlow::from_row(&row)?;
                let open = flow.floor < flow.next;
                if (!flow.closed || flow.left_below < flow.next)
                    && let Some(flow) = self.flows.out.change(handle, tx)?
                {
                    flow.closed = true;
                    flow.left_below = flow.next;
                    flow.word_version += 1;
                }
                // Versions count within an incarnation: the new one has echoed nothing.
                let untold = flow.word_ends_something() && row.echoed_version < row.word_version;
                if open || !row.closed || untold {
                    if let Some(flow) = self.flows.out.change(handle, tx)? {
                        flow.echoed_version = 0;
                    }
                    self.expect_receipt(round, handle, flow.id.destination);
                    self.alarms.set_if_unset(Alarm::Word(handle), round.now.boot_ms + 1000);
                }
            }
            self.flows.save(tx);
            if !full {
                return Ok(());
            }
        }
    }

    /// Mail of others that stands by is looked at again when no receipt comes.
    fn watch_transit(&mut self, round: Round, tx: &Tx<'_>) -> Result<(), StoreError> {
        for ((handle,), row) in tx.scan::<stored::TransitFlow>(&[], &end_of_table(), usize::MAX >> 1)? {
            let destination = crate::id::FlowId::from_slice(&row.flow).map(|flow| flow.destination);
            if let (true, Some(destination)) = (row.envelopes > 0, destination) {
                self.expect_receipt(round, handle, destination);
            }
        }
        Ok(())
    }

    /// Bodies that were streaming in were never accepted (rule START-3).
    fn throw_away_stages(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        for ((body,), _) in tx.scan::<stored::Stage>(&[], &end_of_table(), usize::MAX >> 1)? {
            let end = after_prefix(&(body,).encode());
            let mut from = (body,).encode();
            loop {
                let page = tx.scan_raw(Table::Body, &from, &end, 16)?;
                let Some((last, _)) = page.last() else { break };
                from = last.clone();
                from.push(0);
                for (key, _) in page {
                    tx.delete_raw(Table::Body, key);
                }
            }
            tx.delete::<stored::Stage>(&(body,));
        }
        Ok(())
    }
}

fn anchor_of(counters: &stored::Counters) -> Option<Anchor> {
    let boot_id = counters.boot_id.as_ref().try_into().ok()?;
    let reading = Now { boot_ms: counters.boot_ms, boot_id, wall_ms: counters.wall_ms };
    Some(Anchor { at: NodeTime(counters.node_time_ms), reading })
}
