//! Envelopes that a liar seals by hand, in flows its engine does not know: whatever a source can put into one.

use bytes::Bytes;
use prost::Message as _;
use waypost_core::engine::effect::Stream;
use waypost_core::envelope::Name;
use waypost_core::id::{Class, FlowId, Incarnation};
use waypost_core::limits;
use waypost_core::trust::{Encapsulation, seal};
use waypost_proto::hop::{self, frame::Kind};

use crate::world::World;

impl World {
    /// A flow of a liar's own, to a member.
    pub(super) fn invented_flow(&mut self, host: usize, to: usize) -> FlowId {
        let mut random = [0; 8];
        random.copy_from_slice(&self.hostile.rng.seed()[..8]);
        let mut incarnation = Incarnation { counter: self.incarnation_of(host).counter, random };
        if self.hostile.rng.chance(700) {
            // The same flow again and again, so that its numbers meet.
            incarnation.random = [7; 8];
        }
        let class = *self.hostile.rng.pick(&Class::ALL);
        FlowId { source: self.hosts[host].id(), destination: self.hosts[to].id(), class, incarnation }
    }

    /// An envelope with these items, sealed and signed as the rules want it.
    pub(super) fn seal_items(
        &mut self,
        host: usize,
        flow: FlowId,
        (first, count): (u64, u32),
        items: &[hop::Item],
    ) -> Option<hop::Envelope> {
        let mut plain = vec![7; 32];
        for item in items {
            plain.extend(item.encode_length_delimited_to_vec());
        }
        let network = self.hosts[host].network;
        let root = Encapsulation::draw(self.hostile.rng.source(), network, flow.source, flow.destination).ok()?;
        let name = Name { flow, first, count };
        let lifetime_ms = self.hostile.rng.spread(1000, limits::DAY_MS);
        let sealed = seal::seal(&root, network, &self.hosts[host].key, name, lifetime_ms, &plain).ok()?;
        Some(hop::Envelope {
            transfer: self.hostile.rng.range(1, 2000),
            header: sealed.header_bytes,
            sealed: sealed.sealed,
            signature: Bytes::copy_from_slice(&sealed.signature),
            age_ms: self.hostile.rng.below(1000),
            hops: 1,
            tickets: 1,
            wave: 1,
            chain: self.hosts[host].chain.clone(),
        })
    }

    /// An item as honest sources make them, on a channel that is read.
    pub(super) fn plain_item(&mut self) -> hop::Item {
        let size = self.hostile.rng.below(200) as usize;
        hop::Item {
            id: Bytes::copy_from_slice(&self.hostile.rng.seed()[..16]),
            channel: "orders".to_owned(),
            lifetime_ms: self.hostile.rng.spread(1000, limits::DAY_MS),
            size: size as u64,
            body: vec![3; size].into(),
            ..Default::default()
        }
    }

    /// An item that lies about itself.
    pub(super) fn bad_item(&mut self) -> hop::Item {
        let odd = self.hostile.odd_number();
        let mut item = self.plain_item();
        match self.hostile.rng.below(8) {
            0 => item.channel = "no channel!".to_owned(),
            1 => item.size = odd,
            2 => item.id = item.id.slice(..7),
            3 => (item.fragments, item.index) = (odd as u32, self.hostile.rng.below(9) as u32),
            // The last piece of a body of which the rest never comes.
            4 => {
                let rest = item.body.len() as u64;
                (item.fragments, item.index, item.size) = (2, 1, limits::FRAGMENT as u64 + rest);
                item.lifetime_ms = *self.hostile.rng.pick(&[1, 60_000, u64::MAX]);
            }
            5 => {
                let after =
                    hop::Predecessor { id: item.id.clone(), class: odd as u32, incarnation: Bytes::new(), number: odd };
                item.after = Some(after);
            }
            6 => item.headers = vec![hop::Header { name: "x".repeat(70_000), value: String::new() }],
            _ => item.lifetime_ms = odd,
        }
        item
    }

    /// Sends an envelope on the stream of its class, and with it what of the liar's mail it may carry.
    pub(super) fn fly_envelope(&mut self, host: usize, flow: FlowId, envelope: hop::Envelope) {
        let Some((session, _)) = self.victim(host) else { return };
        let frame = hop::Frame { kind: Some(Kind::Envelope(envelope)) };
        self.fly(host, session, Stream::Class(flow.class), Box::new(frame));
    }
}
