//! Sends as much as it can to as many as it can: through its engine, and beside it without regard for credit.

use bytes::Bytes;
use waypost_core::engine::input::{Input, RequestId};
use waypost_core::envelope::flow_to_wire;
use waypost_core::id::Class;
use waypost_core::message::{Recipient, Submission};
use waypost_core::trust::Label;
use waypost_proto::hop::{self, frame::Kind};

use crate::world::World;

/// Requests of liars are named from here up: those of applications count from 1.
const REQUESTS: u64 = 1 << 62;

impl World {
    /// One more wave of it.
    pub(super) fn flood(&mut self, host: usize) {
        match self.hostile.rng.below(5) {
            0 => self.submit_many(host),
            1 => self.flood_envelopes(host),
            2 => self.flood_offers(host),
            3 => self.flood_ids(host),
            _ => self.flood_words(host),
        }
    }

    fn submit_many(&mut self, host: usize) {
        self.seen.see("a liar submitted a flood");
        let count = self.hostile.rng.range(1, 16);
        let messages: Vec<Submission> = (0..count).filter_map(|_| self.small_message(host)).collect();
        let request = RequestId(REQUESTS + self.hostile.name(host));
        self.input(host, Input::Submitted { request, uid: 0, messages });
    }

    fn small_message(&mut self, host: usize) -> Option<Submission> {
        let to = self.anybody_else(host);
        let rng = &mut self.hostile.rng;
        // What lies on a channel that nobody reads lies there for good: it is empty, or no inbox would be large enough.
        let unread = rng.chance(200);
        let channel = if unread { format!("c{}", rng.below(40)) } else { "orders".to_owned() };
        let size = if unread { 0 } else { rng.below(300) as usize };
        Some(Submission {
            to: Recipient::Node(self.hosts[to].id()),
            channel: channel.parse().ok()?,
            headers: Vec::new(),
            body: Bytes::from(vec![1; size]),
            class: *rng.pick(&Class::ALL),
            lifetime_ms: rng.spread(1000, 24 * 3_600_000),
            idempotency_key: None,
            order_key: rng.chance(200).then(|| "flood".to_owned()),
            delay_ms: 0,
        })
    }

    fn flood_envelopes(&mut self, host: usize) {
        for _ in 0..self.hostile.rng.range(4, 24) {
            self.seen.see("a liar flooded envelopes");
            let to = self.anybody_else(host);
            let flow = self.invented_flow(host, to);
            let first = self.hostile.rng.range(1, 300);
            let item = self.plain_item();
            if let Some(envelope) = self.seal_items(host, flow, (first, 1), &[item]) {
                self.fly_envelope(host, flow, envelope);
            }
        }
    }

    fn flood_offers(&mut self, host: usize) {
        for _ in 0..self.hostile.rng.range(1, 4) {
            let Some((session, _)) = self.victim(host) else { return };
            self.seen.see("a liar flooded offers");
            let items = (0..256).map(|_| self.invented_offer(host)).collect();
            let offer = self.hostile.rng.below(30);
            self.tell(host, session, Kind::Offer(hop::Offer { offer, items }));
        }
    }

    fn invented_offer(&mut self, host: usize) -> hop::Offered {
        let to = self.anybody_else(host);
        let mut flow = flow_to_wire(&self.invented_flow(host, to));
        if self.hostile.rng.chance(300)
            && let Some(of_others) = self.hostile.recall(host, |liar| &liar.flows)
        {
            flow = of_others;
        }
        let rng = &mut self.hostile.rng;
        let name = hop::EnvelopeName { flow: Some(flow), first: rng.range(1, 100), count: rng.range(1, 30) as u32 };
        hop::Offered { name: Some(name), wave: rng.range(1, 65_535) as u32, bytes: *rng.pick(&[0, 100, u64::MAX]) }
    }

    fn flood_ids(&mut self, host: usize) {
        let Some((session, _)) = self.victim(host) else { return };
        self.seen.see("a liar flooded ids");
        let nodes: Vec<Bytes> = (0..64).map(|_| Bytes::copy_from_slice(&self.hostile.rng.seed())).collect();
        let id = |node: &Bytes| hop::FactId {
            node: node.clone(),
            counter: u64::MAX,
            sequence: u64::MAX,
            ..Default::default()
        };
        let mut facts: Vec<hop::FactId> = nodes.iter().map(id).collect();
        let members: Vec<Bytes> = self.hosts.iter().map(|it| Bytes::copy_from_slice(&it.id().0)).collect();
        facts.extend(members.iter().map(id));
        self.tell(host, session, Kind::Ids(hop::Ids { facts }));
        let wanted = nodes.into_iter().chain(members.iter().cycle().take(200).cloned()).collect();
        self.tell(host, session, Kind::Get(hop::Get { facts: wanted, receipts: None }));
        let receipts = Some(hop::ReceiptsWanted::default());
        self.tell(host, session, Kind::Get(hop::Get { facts: Vec::new(), receipts }));
    }

    fn flood_words(&mut self, host: usize) {
        for _ in 0..self.hostile.rng.range(4, 24) {
            let Some((session, _)) = self.victim(host) else { return };
            self.seen.see("a liar flooded words");
            let to = self.anybody_else(host);
            let content = self.invented_word(host, to);
            let word = self.attest(host, Label::Word, &content);
            self.tell(host, session, Kind::Word(word));
        }
    }

    /// A word about a flow of its own that need not have any mail.
    pub(super) fn invented_word(&mut self, host: usize, to: usize) -> hop::WordContent {
        let flow = flow_to_wire(&self.invented_flow(host, to));
        let signing = self.some_incarnation(host);
        let lies = &mut self.hostile;
        let number = |lies: &mut super::Hostile| lies.odd_number().min((1 << 48) - 1);
        let mut ended = Vec::new();
        for _ in 0..lies.rng.below(20) {
            let (one, other) = (number(lies), number(lies));
            let ending = lies.rng.below(4) as u32;
            ended.push(hop::EndedRange { first: one.min(other), last: one.max(other), ending });
        }
        let (first, last) = lies.odd_range();
        hop::WordContent {
            flow: Some(flow),
            signing_incarnation: Bytes::copy_from_slice(&signing.to_bytes()),
            version: lies.odd_version(),
            page: lies.rng.below(3) as u32,
            floor: number(lies),
            ended,
            waves: vec![hop::WaveRange { first, last, wave: lies.odd_number() as u32 }],
            second_mark: number(lies),
            end: number(lies),
            closed: lies.rng.chance(500),
        }
    }
}
