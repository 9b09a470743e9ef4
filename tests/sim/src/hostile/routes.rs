//! Tells of links it has not, to everybody, over no distance, in facts numbered far above the last; and brings back
//! others' facts of long ago.

use bytes::Bytes;
use prost::Message as _;
use waypost_core::engine::effect::Stream;
use waypost_core::trust::Label;
use waypost_proto::hop::{self, frame::Kind};

use super::{Lies, signer_of};
use crate::world::World;

/// Links in a fact at most.
const LINKS: usize = 16;

impl World {
    /// Its engine's own facts tell of links to everybody.
    pub(super) fn misguide(&mut self, host: usize, stream: Stream, mut frame: Box<hop::Frame>) -> Lies {
        let own = signer_of(&frame) == Some(self.hosts[host].id());
        if let Some(Kind::Fact(attested)) = &mut frame.kind
            && own
            && let Some(object) = attested.object.take()
            && let Ok(mut content) = hop::FactContent::decode(object.content.clone())
        {
            content.links = self.links_to_all(host);
            attested.object = Some(self.sign_as(host, Label::Fact, &content));
            self.seen.see("a liar changed its fact");
        }
        vec![(stream, frame)]
    }

    fn links_to_all(&mut self, host: usize) -> Vec<hop::Link> {
        let mut all: Vec<usize> = (0..self.plan.hosts.len()).filter(|other| *other != host).collect();
        self.hostile.rng.shuffle(&mut all);
        let mut links: Vec<hop::Link> =
            all.into_iter().take(LINKS).map(|other| link(&self.hosts[other].id().0)).collect();
        if links.len() < LINKS && self.hostile.rng.chance(300) {
            links.push(link(&self.hostile.rng.seed()));
        }
        links
    }

    /// A new fact of its own, or an old one of somebody else's.
    pub(super) fn invent_routes(&mut self, host: usize) {
        if self.hostile.rng.chance(400)
            && let Some(old) = self.hostile.recall(host, |liar| &liar.facts)
        {
            self.seen.see("a liar brought back a fact");
            return self.resend(host, old);
        }
        let Some((session, _)) = self.victim(host) else { return };
        let mut incarnation = self.incarnation_of(host);
        incarnation.counter += self.hostile.rng.below(3);
        let node = Bytes::copy_from_slice(&self.hosts[host].id().0);
        // Far above, and with room above it: who signs the highest there is can never be believed again.
        let sequence = self.hostile.rng.spread(1, 1 << 47);
        let content = hop::FactContent {
            node: node.clone(),
            incarnation: Bytes::copy_from_slice(&incarnation.to_bytes()),
            sequence,
            durable_sequence: self.hostile.odd_number(),
            links: self.links_to_all(host),
            homes: vec![node.clone()],
            ..Default::default()
        };
        let fact = self.attest(host, Label::Fact, &content);
        self.seen.see("a liar invented links");
        let id = hop::FactId { node, counter: incarnation.counter, sequence, ..Default::default() };
        self.tell(host, session, Kind::Ids(hop::Ids { facts: vec![id] }));
        self.tell(host, session, Kind::Fact(fact));
    }
}

fn link(peer: &[u8]) -> hop::Link {
    hop::Link { peer: Bytes::copy_from_slice(peer), up: true, max_size: u64::MAX, ..Default::default() }
}
