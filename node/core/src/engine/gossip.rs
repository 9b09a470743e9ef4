//! Neighbours: who is connected, what they remember of us, and the facts that tell who reaches whom (rules FACT-1 to
//! FACT-4, HELLO-2, HELLO-4). A connection, a new fact or a heal re-examines what waits, at once.

use bytes::Bytes;
use waypost_proto::hop;
use waypost_proto::stored;

use super::alarm::Alarm;
use super::effect::{Effect, Stream};
use super::input::{PeerHello, SessionId};
use super::link::Link;
use super::{Engine, Round};
use crate::hop::{FactId, encode};
use crate::id::{Class, Incarnation, NodeId};
use crate::limits;
use crate::route::{self, Fact, UNKNOWN_WAIT_US};
use crate::store::kv::StoreError;
use crate::store::tables::FactRow;
use crate::store::tx::Tx;
use crate::trust::{Label, Verified};

/// A changed link is told after this time, with whatever else has changed by then (rule FACT-3).
const PUBLISH_MS: u64 = 100;

impl Engine {
    /// A member is connected; an older connection with it ends (rule HELLO-4).
    pub(super) fn connected(
        &mut self,
        round: Round,
        peer: NodeId,
        session: SessionId,
        hello: &PeerHello,
        (transport, address): (&'static str, String),
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        if let Some(old) = self.links.get(&peer).map(|link| link.session) {
            self.link_lost(peer, old);
            tx.hint(Effect::Disconnect { peer, session: old, why: "a newer connection took its place" });
        }
        self.clock.peer_said(hello.wall_ms, round.now);
        // A gap it has confirmed makes rows due that were none.
        self.alarms.set_earlier(Alarm::Rows, round.now.boot_ms);
        self.links.insert(peer, Link::new(session, transport, hello.incarnation));
        self.lanes.look_back();
        self.hasten_retries(round);
        self.own_links.insert(peer, route::Link { up: true, rtt_us: 1000, wait_us: 0 });
        self.directory.turn();
        self.remember_peer(round, peer, hello, address, tx)?;
        for class in Class::ALL {
            let window = (self.policy.credit_bytes, self.policy.credit_envelopes);
            let link = self.links.get_mut(&peer);
            if let Some((bytes, envelopes)) =
                link.and_then(|link| link.inc[class.index()].replenish(window.0, window.1))
            {
                let frame = encode::credit(class, bytes, envelopes);
                tx.hint(Effect::Send { peer, session, stream: Stream::Control, frame });
            }
        }
        self.publish_soon(round);
        let ids: Vec<FactId> = self.directory.facts().map(|(node, fact)| fact_id(*node, fact)).collect();
        tx.hint(Effect::Send { peer, session, stream: Stream::Control, frame: encode::ids(&ids) });
        self.look_for_twins(peer, hello.nonce, tx);
        self.ask_for_receipts(round, peer, tx)?;
        self.tell_held(peer);
        Ok(())
    }

    /// Keeps what must be known of a neighbour after a restart; one that lost or rolled back its disk gets everything
    /// offered again (rule HELLO-2).
    fn remember_peer(
        &mut self,
        round: Round,
        peer: NodeId,
        hello: &PeerHello,
        address: String,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let mut row = tx.get::<stored::Peer>(&(peer,))?.unwrap_or_default();
        let known = Incarnation::from_slice(&row.incarnation);
        let same_disk = known == Some(hello.incarnation) || known == hello.continues;
        let lost = known.is_some() && (!same_disk || hello.durable_sequence < row.durable_sequence);
        if lost && known != Some(hello.incarnation) {
            // Before any offer: what it has signed, and may not know any more (rule RECOVER-1).
            self.show_own_receipts(peer, &[], tx)?;
            self.offer_again(round, peer, hello.incarnation, hello.durable_sequence);
        }
        let restarted = known != Some(hello.incarnation);
        if restarted {
            // What it refused it refused in another life.
            self.refusals.forget(peer);
        }
        if !(lost && restarted) {
            // Else when everything has been offered again: a crash before that must not forget it.
            row.incarnation = Bytes::copy_from_slice(&hello.incarnation.to_bytes());
            row.durable_sequence = row.durable_sequence.max(hello.durable_sequence);
        }
        if !address.is_empty() {
            row.addresses.retain(|known| *known != address);
            row.addresses.insert(0, address);
            row.addresses.truncate(8);
        }
        row.last_connected_ms = round.now.wall_ms;
        row.connected = true;
        tx.put(&(peer,), &row);
        Ok(())
    }

    /// A connection is gone.
    pub(super) fn lost(
        &mut self,
        round: Round,
        peer: NodeId,
        session: SessionId,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        if self.links.get(&peer).is_none_or(|link| link.session != session) {
            return Ok(());
        }
        self.link_lost(peer, session);
        self.stop_asking(peer);
        self.own_links.insert(peer, route::Link { up: false, rtt_us: 0, wait_us: UNKNOWN_WAIT_US });
        self.directory.turn();
        if let Some(mut row) = tx.get::<stored::Peer>(&(peer,))? {
            row.connected = false;
            tx.put(&(peer,), &row);
        }
        self.publish_soon(round);

        Ok(())
    }

    /// A ping came back.
    pub(super) fn rtt(&mut self, round: Round, peer: NodeId, rtt_us: u64) {
        let Some(link) = self.links.get_mut(&peer) else { return };
        let first = link.rtt_us == 0;
        link.rtt_us = if first { rtt_us } else { (link.rtt_us * 7 + rtt_us) / 8 };
        let smooth = link.rtt_us;
        if let Some(own) = self.own_links.get_mut(&peer) {
            let changed = own.rtt_us > smooth.saturating_mul(2) || smooth > own.rtt_us.saturating_mul(2);
            if changed {
                own.rtt_us = smooth;
                self.directory.forget_delays();
                self.publish_soon(round);
            }
        }
    }

    pub(super) fn publish_soon(&mut self, round: Round) {
        self.alarms.set_if_unset(Alarm::Publish, round.now.boot_ms + PUBLISH_MS);
    }

    /// Signs a new fact of this node and tells it; its number is on disk before it leaves (rule FACT-3).
    pub(super) fn publish(&mut self, tx: &mut Tx<'_>) {
        self.counters.fact_sequence += 1;
        let mut links: Vec<_> = self.own_links.iter().collect();
        links.sort_by_key(|(peer, link)| (!link.up, link.wait_us, **peer));
        let links = links.into_iter().take(limits::FACT_LINKS).map(|(peer, link)| hop::Link {
            peer: Bytes::copy_from_slice(&peer.0),
            up: link.up,
            rtt_us: u32::try_from(link.rtt_us).unwrap_or(u32::MAX),
            mean_wait_ms: link.wait_us / 1000,
            max_size: limits::ENVELOPE_BYTES as u64,
            windows: Vec::new(),
        });
        let content = hop::FactContent {
            node: Bytes::copy_from_slice(&self.me.0),
            incarnation: Bytes::copy_from_slice(&self.own.incarnation.to_bytes()),
            sequence: self.counters.fact_sequence,
            durable_sequence: self.counters.commit_sequence,
            name: self.policy.name.clone(),
            addresses: self.listen.iter().take(8).cloned().collect(),
            links: links.collect(),
            homes: Vec::new(),
            channels: Vec::new(),
        };
        let signed = self.sign(Label::Fact, &content);
        if let Some(fact) = Fact::from_wire(&content) {
            self.directory.learn(self.me, fact);
            self.store_fact(self.me, &signed, tx);
            self.push_id(self.me, None, tx);
        }
    }

    fn store_fact(&self, node: NodeId, signed: &hop::Signed, tx: &mut Tx<'_>) {
        let row = stored::Signed { content: signed.content.clone(), signature: signed.signature.clone() };
        tx.put(&(node,), &FactRow(row));
    }

    /// Tells neighbours that there is a newer fact; they ask for it if they lack it (rule FACT-4).
    fn push_id(&self, node: NodeId, except: Option<NodeId>, tx: &mut Tx<'_>) {
        let Some(fact) = self.directory.fact(&node) else { return };
        let id = fact_id(node, fact);
        for (peer, link) in self.links.iter().filter(|(peer, _)| Some(**peer) != except && **peer != node) {
            let frame = encode::ids(&[id]);
            tx.claim(Effect::Send { peer: *peer, session: link.session, stream: Stream::Control, frame });
        }
    }

    /// A neighbour tells which facts it has: ask for the newer ones.
    pub(super) fn ids_arrived(&mut self, peer: NodeId, ids: &[FactId], tx: &mut Tx<'_>) {
        let (own, own_sequence) = (self.own.incarnation, self.counters.fact_sequence);
        let newer = |id: &&FactId| {
            if id.node == self.me {
                // One this node does not know of: it must see it to jump past it (rule EVIDENCE-3).
                let is_another = (id.random.unwrap_or(own.random), id.sequence) != (own.random, own_sequence);
                return id.counter > own.counter || (id.counter == own.counter && is_another);
            }
            // As facts are ordered (rule FACT-1).
            self.directory.fact(&id.node).is_none_or(|fact| {
                let held = fact.incarnation;
                let random = id.random.unwrap_or(held.random);
                (id.counter, random, id.sequence) > (held.counter, held.random, fact.sequence)
            })
        };
        let wanted: Vec<NodeId> = ids.iter().filter(newer).map(|id| id.node).collect();
        if let (false, Some(link)) = (wanted.is_empty(), self.links.get(&peer)) {
            let frame = encode::get(&wanted);
            tx.hint(Effect::Send { peer, session: link.session, stream: Stream::Control, frame });
        }
    }

    /// A fact came: keep it when it is newer, tell the others, and let what waits look again.
    pub(super) fn fact_arrived(
        &mut self,
        round: Round,
        peer: NodeId,
        fact: Verified<hop::FactContent>,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let node = fact.signer();
        let Some(parsed) = Fact::from_wire(fact.content()) else { return Ok(()) };
        if node == self.me {
            return self.met_own_fact(round, &parsed, tx);
        }
        if self.directory.learn(node, parsed) {
            self.store_fact(node, fact.signed(), tx);
            self.push_id(node, Some(peer), tx);
        }
        Ok(())
    }

    /// Up links with their round trips, for `peers`.
    pub(super) fn peers(&self) -> Vec<super::effect::Peer> {
        self.own_links
            .keys()
            .map(|node| {
                let link = self.links.get(node);
                super::effect::Peer {
                    node: *node,
                    name: self.directory.fact(node).map(|fact| fact.name.clone()).unwrap_or_default(),
                    connected: link.is_some(),
                    transport: link.map_or("", |link| link.transport),
                    rtt_us: link.map_or(0, |link| link.rtt_us),
                }
            })
            .collect()
    }
}

fn fact_id(node: NodeId, fact: &Fact) -> FactId {
    let Incarnation { counter, random } = fact.incarnation;
    FactId { node, counter, random: Some(random), sequence: fact.sequence }
}
