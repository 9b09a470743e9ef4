//! Random walks over everything at once: sends, cuts, kills and time in any order, then a heal; and, each by a test of
//! its own, what such walks and a careful reading have found.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test: what fails fails it, and it may time itself"
)]

mod world;

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use waypost_core::engine::effect::Stream;
use waypost_core::engine::input::{ConsumerId, Input, RequestId};
use waypost_core::envelope::Name;
use waypost_core::envelope::flow_to_wire;
use waypost_core::id::{Class, FlowId, Incarnation, MessageId};
use waypost_core::limits;
use waypost_core::store::kv::{Kv as _, Table};
use waypost_core::trust::{Encapsulation, Label, NodeKey, seal};
use waypost_proto::hop::{self, frame::Kind};
use waypost_proto::stored;
use world::{World, submission};

/// A random walk and what it has sent.
struct Walk {
    world: World,
    rng: ChaCha20Rng,
    links: Vec<(usize, usize)>,
    up: Vec<bool>,
    alive: Vec<bool>,
    /// Source, destination, body, id.
    sent: Vec<(usize, usize, Vec<u8>, MessageId)>,
}

impl Walk {
    fn new(hosts: usize, links: &[(usize, usize)], seed: u64) -> Self {
        Self {
            world: World::new(hosts, seed),
            rng: ChaCha20Rng::seed_from_u64(seed ^ 0x5eed),
            links: links.to_vec(),
            up: vec![false; links.len()],
            alive: vec![true; hosts],
            sent: Vec::new(),
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.rng.next_u64() % limit as u64).unwrap()
    }

    fn link(&mut self, link: usize) {
        let (a, b) = self.links[link];
        if !self.up[link] && self.alive[a] && self.alive[b] {
            self.world.connect(a, b);
            self.up[link] = true;
        }
    }

    fn unlink(&mut self, link: usize) {
        let (a, b) = self.links[link];
        if self.up[link] {
            self.world.cut(a, b);
            self.up[link] = false;
        }
    }

    fn kill(&mut self, host: usize) {
        if self.alive[host] {
            self.world.kill(host);
            self.alive[host] = false;
            for link in 0..self.links.len() {
                if self.links[link].0 == host || self.links[link].1 == host {
                    self.up[link] = false;
                }
            }
        }
    }

    fn start(&mut self, host: usize) {
        if !self.alive[host] {
            self.world.start(host);
            self.alive[host] = true;
        }
    }

    fn send(&mut self) {
        let hosts = self.alive.len();
        let (from, to) = (self.below(hosts), self.below(hosts));
        if !self.alive[from] {
            return;
        }
        if self.below(25) == 0 {
            let size = limits::FRAGMENT * (1 + self.below(3)) + self.below(3);
            let mut body = vec![7; size];
            body[..8].copy_from_slice(&(self.sent.len() as u64).to_be_bytes());
            let id = self.world.send_large(from, to, &body);
            self.sent.push((from, to, body, id));
            return;
        }
        let mut messages = Vec::new();
        let mut bodies = Vec::new();
        for number in 0..=self.below(4) {
            let size = [8, 8, 9, 300, 70_000][self.below(5)];
            let mut body = vec![3; size];
            body[..8].copy_from_slice(&((self.sent.len() + number) as u64).to_be_bytes());
            let mut message = submission(self.world.id(to), &body);
            message.class = Class::ALL[self.below(3)];
            message.lifetime_ms = [500, 5_000, 90_000, limits::LIFETIME_MS, limits::LIFETIME_MS][self.below(5)];
            messages.push(message);
            bodies.push(body);
        }
        let accepted = self.world.submit(from, messages);
        for (body, accepted) in bodies.into_iter().zip(accepted) {
            self.sent.push((from, to, body, accepted.id));
        }
    }

    fn step(&mut self) {
        match self.below(100) {
            0..35 => self.send(),
            35..70 => {
                for _ in 0..self.below(40) {
                    self.world.carry();
                }
            }
            70..76 => {
                let link = self.below(self.links.len());
                self.unlink(link);
            }
            76..86 => {
                let link = self.below(self.links.len());
                self.link(link);
            }
            86..89 => {
                let host = self.below(self.alive.len());
                self.kill(host);
            }
            89..93 => {
                let host = self.below(self.alive.len());
                self.start(host);
            }
            93..96 => self.cancel(),
            _ => {
                let ms = [1, 60, 1_000, 30_000, 200_000][self.below(5)];
                self.world.pass(ms);
            }
        }
    }

    fn cancel(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let which = self.below(self.sent.len());
        let (from, _, _, id) = self.sent[which].clone();
        if self.alive[from] {
            let request = waypost_core::engine::input::RequestId(self.world.draw());
            self.world.input(from, Input::CancelAsked { request, ids: vec![id] });
        }
    }

    fn heal(&mut self) {
        for host in 0..self.alive.len() {
            self.start(host);
        }
        for link in 0..self.links.len() {
            self.link(link);
        }
        self.world.pass(2 * 3_600_000);
    }

    /// Everything that came to each host, consumed.
    fn consume(&mut self) -> BTreeMap<(usize, Vec<u8>), u32> {
        let mut got = BTreeMap::new();
        for host in 0..self.alive.len() {
            let consumer = self.world.open_consumer(host, "orders", 100_000);
            self.world.settle();
            let deliveries = self.world.hosts[host].deliveries.get(&consumer).cloned().unwrap_or_default();
            for delivery in deliveries {
                let body =
                    if delivery.fragments > 1 { self.whole(host, consumer, &delivery) } else { delivery.body.to_vec() };
                *got.entry((host, body)).or_default() += 1;
            }
            self.world.acknowledge_all(host, consumer);
        }
        self.world.pass(3_600_000);
        got
    }

    fn whole(&mut self, host: usize, consumer: ConsumerId, of: &waypost_core::engine::effect::Delivery) -> Vec<u8> {
        self.world.hosts[host].parts.clear();
        for index in 0..of.fragments {
            self.world.input(host, Input::BodyPartWanted { consumer, delivery: of.delivery, index });
        }
        self.world.hosts[host].parts.iter().flat_map(|(_, _, bytes)| bytes.clone().unwrap()).collect()
    }

    /// Both ends' rows of the flows between two hosts.
    fn show_flows(&mut self, from: usize, to: usize) {
        let id = [self.world.id(from).0, self.world.id(to).0].concat();
        for (table, _, value) in self.world.hosts[from].kv.rows() {
            if table == Table::OutFlow {
                let row = stored::OutFlow::decode(value.clone()).unwrap();
                if row.flow.starts_with(&id) {
                    println!(
                        "out {:?} {:?}",
                        &row.flow[64..],
                        stored::OutFlow { encapsulations: vec![], ..row.clone() }
                    );
                }
            }
        }
        for (table, _, value) in self.world.hosts[to].kv.rows() {
            if table == Table::InFlow {
                let row = stored::InFlow::decode(value.clone()).unwrap();
                if row.flow.starts_with(&id) {
                    println!("in {:?} {row:?}", &row.flow[64..]);
                }
            }
        }
    }

    /// What a host still holds of others' mail, on the way to a failure.
    fn show(&mut self, host: usize) {
        if self.world.counts(host).2 == 0 {
            return;
        }
        for (table, key, value) in self.world.hosts[host].kv.rows() {
            if table == Table::Envelope {
                let row = stored::Envelope::decode(value.clone()).unwrap();
                if !row.header.is_empty() {
                    println!(
                        "host {host} {key:?} {:?} due {} wave {} {:?} standby_at {:?} timer {} now {}",
                        row.state(),
                        row.due,
                        row.wave,
                        row.custody,
                        row.standby_at.first(),
                        row.timer,
                        self.world.now.boot_ms
                    );
                }
            }
            if table == Table::TransitFlow {
                let row = stored::TransitFlow::decode(value.clone()).unwrap();
                println!(
                    "host {host} flow {key:?} floor {} settled {:?} envelopes {}",
                    row.floor, row.settled, row.envelopes
                );
            }
        }
        for other in 0..self.alive.len() {
            println!("host {other} is {:?}", self.world.id(other).0[0]);
        }
    }

    fn check(&mut self, label: &str) {
        let got = self.consume();
        for (from, to, body, id) in self.sent.clone() {
            let times = got.get(&(to, body.clone())).copied().unwrap_or(0);
            let state = self.world.state(from, id);
            let trace = self.world.trace(from, id);
            let rungs: Vec<String> = trace.ladder.iter().map(|rung| rung.state.clone()).collect();
            let fits = match state.as_str() {
                "consumed" => times == 1,
                "expired" | "cancelled" => times == 0 || rungs.iter().any(|rung| rung.contains("late")),
                _ => false,
            };
            if !fits {
                self.show_flows(from, to);
            }
            assert!(
                fits,
                "{label}: {from}→{to} {} bytes is {state}, came {times} times: {rungs:?} {:?}",
                body.len(),
                trace.custody
            );
        }
        let all: u32 = got.values().sum();
        assert_eq!(all as usize, got.len(), "{label}: some came twice");
        for host in 0..self.alive.len() {
            self.show(host);
            assert_eq!(self.world.counts(host), (0, 0, 0), "{label}: host {host} outbox, inbox, transit");
            let status = self.world.status(host);
            assert_eq!((status.outbox.1, status.inbox.1, status.transit.1), (0, 0, 0), "{label}: host {host} bytes");
            assert_eq!(status.standby, 0, "{label}: host {host}");
        }
        for host in 0..self.alive.len() {
            let left: Vec<_> = self.world.hosts[host]
                .kv
                .rows()
                .map(|(table, ..)| format!("{table:?}"))
                .filter(|table| ["Due", "Partial", "Inbox", "Queue", "Body", "Taken"].contains(&table.as_str()))
                .collect();
            assert!(left.is_empty(), "{label}: host {host} keeps {left:?}");
        }
    }
}

fn walk(hosts: usize, links: &[(usize, usize)], seed: u64, steps: usize) {
    let mut walk = Walk::new(hosts, links, seed);
    for link in 0..links.len() {
        walk.link(link);
    }
    for _ in 0..steps {
        walk.step();
    }
    walk.heal();
    walk.check(&format!("{hosts} hosts, seed {seed}"));
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let from = number("WALK_FROM").unwrap_or(0);
    from..from + number("WALK_SEEDS").unwrap_or(12)
}

/// P1 to P6 on a chain.
#[test]
fn random_walks_on_a_chain() {
    for seed in seeds() {
        walk(3, &[(0, 1), (1, 2)], seed, 150);
    }
}

/// P1 to P6 with a second path.
#[test]
fn random_walks_on_a_ring() {
    for seed in seeds() {
        walk(4, &[(0, 1), (1, 2), (0, 3), (3, 2)], seed, 150);
    }
}

/// P1 to P6 with five hosts, a ring and a tail.
#[test]
fn random_walks_on_five_hosts() {
    for seed in seeds() {
        walk(5, &[(0, 1), (1, 2), (0, 3), (3, 2), (2, 4)], seed, 200);
    }
}

// ---- what hostile members may send ----

fn pair() -> World {
    let mut world = World::new(2, 11);
    world.connect(0, 1);
    world.pass(1000);
    world
}

fn chain() -> World {
    let mut world = World::new(3, 7);
    world.connect(0, 1);
    world.connect(1, 2);
    world.pass(1000);
    world
}

/// HOP-8: no transfer number makes a node stumble.
#[test]
fn a_transfer_number_at_the_end_of_numbers_is_refused() {
    let mut world = pair();
    world.tolerant = true;
    world.send(0, 1, &[b"x"]);
    world.tamper(|_, _, frame| {
        if let Some(Kind::Envelope(envelope)) = frame.kind.as_mut() {
            envelope.transfer = u64::MAX;
        }
        true
    });
    world.settle();
    assert!(world.hosts[1].engine.is_some());
}

/// HOP-8: a word whose ranges run to the end of numbers is refused, at the destination and on a relay.
#[test]
fn a_word_about_all_numbers_is_refused() {
    for to in [1, 2] {
        let mut world = chain();
        world.tolerant = true;
        let flow = FlowId {
            source: world.id(0),
            destination: world.id(to),
            class: Class::Normal,
            incarnation: Incarnation { counter: 9, random: [9; 8] },
        };
        for version in 1..4 {
            let content = hop::WordContent {
                flow: Some(flow_to_wire(&flow)),
                signing_incarnation: Bytes::copy_from_slice(&flow.incarnation.to_bytes()),
                version,
                floor: version,
                ended: vec![hop::EndedRange { first: 5, last: u64::MAX, ending: 1 }],
                second_mark: 1,
                ..Default::default()
            };
            let content = Bytes::from(content.encode_to_vec());
            let signature = world.hosts[0].key.sign(Label::Word, world.network, &content);
            let object = Some(hop::Signed { content, signature: Bytes::copy_from_slice(&signature) });
            world.inject(0, 1, Stream::Control, Kind::Word(hop::Attested { object, chain: Vec::new() }));
        }
        world.settle();
        world.send(0, to, &[b"still there"]);
        world.settle();
    }
}

/// HOP-8: a version or sequence at the end of numbers is refused: its own signer could not count on from it.
#[test]
fn a_statement_at_the_end_of_versions_is_refused() {
    let world = pair();
    let incarnation = Incarnation { counter: 9, random: [9; 8] };
    let (source, destination) = (world.id(0), world.id(1));
    let out = Some(flow_to_wire(&FlowId { source, destination, class: Class::Normal, incarnation }));
    let back = FlowId { source: destination, destination: source, class: Class::Normal, incarnation };
    let back = Some(flow_to_wire(&back));
    let signing_incarnation = Bytes::copy_from_slice(&incarnation.to_bytes());
    let attested = |label, content: Vec<u8>| {
        let signature = world.hosts[0].key.sign(label, world.network, &content);
        let object = Some(hop::Signed { content: content.into(), signature: Bytes::copy_from_slice(&signature) });
        hop::Attested { object, chain: world.chain(0) }
    };
    for (version, taken) in [(limits::NUMBER_MAX - 1, true), (limits::NUMBER_MAX, false), (u64::MAX, false)] {
        let signing_incarnation = signing_incarnation.clone();
        let word = hop::WordContent { flow: out.clone(), signing_incarnation, version, ..Default::default() };
        let receipt = hop::ReceiptContent { flow: back.clone(), version, ..Default::default() };
        let node = Bytes::copy_from_slice(&source.0);
        let fact = hop::FactContent { node, sequence: version, ..Default::default() };
        let kinds = [
            Kind::Word(attested(Label::Word, word.encode_to_vec())),
            Kind::Receipt(attested(Label::Receipt, receipt.encode_to_vec())),
            Kind::Fact(attested(Label::Fact, fact.encode_to_vec())),
        ];
        for kind in kinds {
            let decoded = world.decode(1, hop::Frame { kind: Some(kind.clone()) }, Stream::Control);
            assert_eq!(decoded.is_ok(), taken, "{version} in {kind:?}");
        }
    }
}

/// HOP-8: an offer that could not be answered is refused.
#[test]
fn offer_nought_is_refused() {
    let world = pair();
    for (offer, taken) in [(0, false), (1, true)] {
        let kind = Some(Kind::Offer(hop::Offer { offer, items: Vec::new() }));
        assert_eq!(world.decode(1, hop::Frame { kind }, Stream::Control).is_ok(), taken);
    }
}

/// An envelope of host 0 to host 1 with these items, the first numbered `first`, as its key may make it.
fn crafted(world: &World, first: u64, items: &[hop::Item]) -> Kind {
    let key = NodeKey::from_seed(&world.hosts[0].key.seed());
    let mut rng = ChaCha20Rng::seed_from_u64(first);
    let sealing = Encapsulation::draw(&mut rng, world.network, key.id(), world.id(1)).unwrap();
    let incarnation = Incarnation { counter: 9, random: [9; 8] };
    let flow = FlowId { source: key.id(), destination: world.id(1), class: Class::Normal, incarnation };
    let body = items.iter().fold(vec![3u8; 32], |sum, item| [sum, item.encode_length_delimited_to_vec()].concat());
    let name = Name { flow, first, count: items.len() as u32 };
    let sealed = seal::seal(&sealing, world.network, &key, name, 1000, &body).unwrap();
    Kind::Envelope(hop::Envelope {
        transfer: first,
        header: sealed.header_bytes,
        sealed: sealed.sealed,
        signature: sealed.signature.to_vec().into(),
        wave: 1,
        ..Default::default()
    })
}

/// BODY-4: a source that names no end of its time does not keep what it reserved for good.
#[test]
fn an_endless_fragment_is_given_up_in_the_end() {
    let mut world = pair();
    let rest = hop::Item {
        id: vec![1; 16].into(),
        lifetime_ms: u64::MAX,
        index: 1,
        fragments: 2,
        size: limits::FRAGMENT as u64 + 1,
        body: vec![1].into(),
        ..Default::default()
    };
    let envelope = crafted(&world, 5, &[rest]);
    world.inject(0, 1, Stream::Class(Class::Normal), envelope);
    world.settle();
    assert_eq!(world.status(1).inbox.1, limits::FRAGMENT as u64 + 1);
    world.cut(0, 1);
    world.pass(limits::LIFETIME_MAX_MS + 1000);
    assert_eq!(world.status(1).inbox.1, 0);
}

/// QUOTA-2, QUOTA-3: an item that says it is larger than the inbox is rejected, and opens no way in for what comes with it.
#[test]
fn a_full_inbox_is_full_whatever_an_item_says() {
    let mut world = World::new(2, 11);
    world.hosts[1].policy.inbox_bytes = 10_000;
    world.kill(1);
    world.start(1);
    world.connect(0, 1);
    world.pass(1000);
    let good = hop::Item { channel: "orders".to_owned(), body: vec![1; 8_000].into(), ..Default::default() };
    let good = |id| hop::Item { id: vec![id; 16].into(), size: 8_000, ..good.clone() };
    let huge = hop::Item { size: 1 << 40, body: Bytes::new(), ..good(9) };
    for (first, items) in [(1, vec![good(1)]), (2, vec![good(2), huge.clone()]), (4, vec![huge])] {
        let envelope = crafted(&world, first, &items);
        world.inject(0, 1, Stream::Class(Class::Normal), envelope);
        world.settle();
    }
    assert_eq!(world.status(1).inbox, (1, 8_000));
    assert_eq!(world.count("retry_later"), 1, "what was only too large was rejected, not refused");
}

/// CONSUME-1: an application may ask for any lease.
#[test]
fn an_endless_lease_is_no_panic() {
    let mut world = pair();
    world.send(0, 1, &[b"x"]);
    world.settle();
    let consumer = ConsumerId(world.draw());
    let channel = "orders".parse().unwrap();
    let opened = Input::ConsumerOpened { consumer, uid: 0, channel, lease_ms: u64::MAX, max_deliveries: 0 };
    world.round(1, vec![opened, Input::CreditGranted { consumer, messages: 1 }]);
    let delivery = world.hosts[1].deliveries[&consumer][0].delivery;
    world.input(1, Input::Extended { consumer, delivery, lease_ms: u64::MAX });
    world.settle();
}

// ---- liveness ----

/// RETRY-1: receipts for other mail of the flow do not put off the wave that moves what a relay has lost.
#[test]
fn steady_traffic_does_not_keep_a_lost_message_from_its_wave() {
    let mut world = chain();
    world.cut(1, 2);
    let id = world.send(0, 2, &[b"lost"])[0];
    world.pass(1000);
    let row_of = |wanted| {
        let rows = world.hosts[1].kv.rows();
        rows.filter(|(table, _, _)| *table == wanted).map(|(table, key, _)| (table, key.to_vec())).next().unwrap()
    };
    let batch = [row_of(Table::Due), row_of(Table::Envelope)].into_iter().map(|key| (key, None)).collect();
    world.hosts[1].kv.commit(batch).unwrap();
    world.kill(1);
    world.start(1);
    world.connect(0, 1);
    world.connect(1, 2);
    for _ in 0..60 {
        world.send(0, 2, &[b"other"]);
        world.pass(10_000);
    }
    assert_eq!(world.state(0, id), "delivered");
}

/// WAVE-3: a wave is believed for an envelope of which the first message has ended.
#[test]
fn a_wave_moves_an_envelope_whose_first_message_has_ended() {
    let mut world = chain();
    world.cut(1, 2);
    let ids = world.send(0, 2, &[b"first", b"second"]);
    world.pass(1000);
    let request = RequestId(world.draw());
    world.input(0, Input::CancelAsked { request, ids: vec![ids[0]] });
    world.pass(1000);
    // The relay loses the copy; the word gets through.
    let row_of = |wanted| {
        let rows = world.hosts[1].kv.rows();
        rows.filter(|(table, _, _)| *table == wanted).map(|(table, key, _)| (table, key.to_vec())).next().unwrap()
    };
    let batch = [row_of(Table::Due), row_of(Table::Envelope)].into_iter().map(|key| (key, None)).collect();
    world.hosts[1].kv.commit(batch).unwrap();
    world.kill(1);
    world.start(1);
    world.connect(1, 2);
    world.connect(0, 1);
    world.pass(2_000_000);
    assert_eq!(world.state(0, ids[0]), "cancelled");
    assert_eq!(world.state(0, ids[1]), "delivered");
}

/// P3: what is consumed long after the source knew of the delivery is told, also when no way is open just then.
#[test]
fn a_late_consumption_is_told_when_the_way_opens() {
    for cut in [(0, 1), (1, 2)] {
        let mut world = chain();
        let id = world.send(0, 2, &[b"x"])[0];
        world.pass(300_000);
        assert_eq!(world.state(0, id), "delivered");
        world.cut(cut.0, cut.1);
        world.pass(1000);
        let consumer = world.open_consumer(2, "orders", 10);
        world.acknowledge_all(2, consumer);
        world.pass(1000);
        world.kill(2);
        world.start(2);
        if cut != (1, 2) {
            world.connect(1, 2);
        }
        world.pass(1000);
        world.connect(cut.0, cut.1);
        world.pass(1000);
        assert_eq!(world.state(0, id), "consumed", "{cut:?}");
    }
}

/// BODY-4: a body that holds a reservation completes, however little is free beside it.
#[test]
fn a_body_completes_inside_its_own_reservation() {
    let mut world = World::new(2, 5);
    world.hosts[1].policy.inbox_bytes = 1_400_000;
    world.kill(1);
    world.start(1);
    world.connect(0, 1);
    world.pass(1000);
    let id = world.send_large(0, 1, &vec![5; limits::FRAGMENT * 5]);
    while world.status(1).inbox.1 == 0 {
        assert!(world.carry());
    }
    world.cut(0, 1);
    world.connect(0, 1);
    world.pass(60_000);
    assert_eq!(world.state(0, id), "delivered");
}

/// BODY-4: a partial body gives its reservation back when the source has ended it, and when the source never returns.
#[test]
fn a_partial_body_gives_its_room_back() {
    for returns in [true, false] {
        let mut world = chain();
        let mut message = submission(world.id(2), b"");
        message.lifetime_ms = 100_000;
        let id = world.send_streamed(0, message, &vec![5; limits::FRAGMENT * 5]);
        let mut fragments = 0;
        while fragments < 2 {
            world.tamper(|from, _, frame| {
                from != 1 || !matches!(&frame.kind, Some(Kind::Envelope(_))) || {
                    fragments += 1;
                    fragments <= 2
                }
            });
            assert!(world.carry());
        }
        while world.status(2).inbox.1 == 0 {
            assert!(world.carry());
        }
        world.cut(1, 2);
        world.pass(200_000);
        if returns {
            world.connect(1, 2);
        }
        world.pass(200_000);
        assert_eq!(world.status(2).inbox, (0, 0), "{returns}");
        assert_eq!(world.state(0, id), "expired", "{returns}");
        let left = world.hosts[2].kv.rows().filter(|(table, ..)| matches!(table, Table::Partial | Table::Body)).count();
        assert_eq!(left, 0, "{returns}");
    }
}

/// WORD-4: an unconfirmed ending that nobody confirms holds the flow for as long as the ladder is kept, no longer.
#[test]
fn an_unconfirmed_ending_does_not_hold_its_flow_for_ever() {
    let mut world = chain();
    world.kill(2);
    let mut message = submission(world.id(2), b"x");
    message.lifetime_ms = 5_000;
    world.submit(0, vec![message]);
    world.pass(16 * limits::DAY_MS);
    let rows = world.hosts[0].kv.rows().filter(|(table, ..)| *table == Table::OutFlow);
    for (_, _, value) in rows {
        let row = stored::OutFlow::decode(value.clone()).unwrap();
        assert_eq!((row.floor, row.unconfirmed.len()), (row.next_number, 0));
    }
}

/// P3: a receipt that comes when the ladders of its neighbours are forgotten still ends the message as delivered.
#[test]
fn a_message_delivered_long_after_its_neighbours_is_delivered() {
    let mut world = chain();
    world.tamper(|_, _, _| true);
    // The first of three is held back on a way that is cut; the others arrive.
    world.cut(1, 2);
    let first = world.send(0, 2, &[b"one"])[0];
    world.pass(1000);
    world.cut(0, 1);
    world.connect(0, 2);
    world.pass(10);
    let second = world.send(0, 2, &[b"two"])[0];
    let third = world.send(0, 2, &[b"three"])[0];
    world.pass(1000);
    assert_eq!(world.state(0, second), "delivered");
    assert_eq!(world.state(0, third), "delivered");
    assert_eq!(world.state(0, first), "held");
    // No wave moves it for eight days.
    world.cut(0, 2);
    world.pass(8 * limits::DAY_MS);
    world.connect(0, 2);
    world.pass(10_000);
    assert_eq!(world.state(0, first), "delivered");
}

/// QUOTA-4: channels are bounded; a message for one too many must not end the node, whoever sends it.
#[test]
fn one_channel_too_many_is_refused_and_harmless() {
    let mut world = pair();
    let to = world.id(1);
    let mut number = 0;
    for _ in 0..limits::CHANNELS / 4096 + 1 {
        let mut batch = Vec::new();
        for _ in 0..4096 {
            let mut message = submission(to, b"");
            message.channel = format!("c{number}").parse().unwrap();
            message.headers.clear();
            number += 1;
            batch.push(message);
        }
        world.submit(0, batch);
        world.settle();
    }
    let id = world.send(0, 1, &[b"x"])[0];
    world.settle();
    assert!(world.state(0, id).starts_with("rejected"));
}

/// P6: a batch of messages that expires together costs a bounded round, and time in proportion.
#[test]
fn mass_expiry_is_done_in_pages() {
    let mut world = World::new(2, 3);
    let to = world.id(1);
    for _ in 0..2000 {
        let mut message = submission(to, b"x");
        message.lifetime_ms = 10_000;
        world.submit(0, vec![message]);
    }
    for _ in 0..4 {
        let mut message = submission(to, b"x");
        message.lifetime_ms = 10_000;
        world.submit(0, vec![message; 4096]);
    }
    let begun = std::time::Instant::now();
    world.now.boot_ms += 20_000;
    world.now.wall_ms += 20_000;
    world.input(0, Input::Ticked);
    assert!(world.counts(0).0 > 0, "one round took it all");
    world.settle();
    assert_eq!(world.counts(0).0, 0);
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
}

/// WORD-5: what never was delivered gets no sub-state, and does not hold the mark of those that do.
#[test]
fn an_expired_message_does_not_hold_the_second_mark() {
    let mut world = chain();
    let consumer = world.open_consumer(2, "orders", 10);
    for round in 0..3 {
        if round == 1 {
            world.cut(1, 2);
            let mut message = submission(world.id(2), b"short");
            message.lifetime_ms = 1000;
            world.submit(0, vec![message]);
            world.pass(5_000);
            world.connect(1, 2);
        } else {
            world.send(0, 2, &[b"long"]);
        }
        world.pass(100_000);
        world.acknowledge_all(2, consumer);
        world.pass(100_000);
    }
    for (table, _, value) in world.hosts[0].kv.rows() {
        if table == Table::OutFlow {
            let row = stored::OutFlow::decode(value.clone()).unwrap();
            assert_eq!((row.floor, row.second_mark, row.consumed.len()), (4, 4, 0));
        }
    }
    let receipts = world.hosts[2].kv.rows().filter(|(table, ..)| *table == Table::Receipt).count();
    assert_eq!(receipts, 0);
}

/// WORD-3: a word told while no way was open is told when one opens: the destination keeps no receipt for ever.
#[test]
fn a_word_that_found_no_way_is_told_later() {
    let mut world = chain();
    world.send(0, 2, &[b"x"]);
    world.settle();
    let consumer = world.open_consumer(2, "orders", 10);
    world.acknowledge_all(2, consumer);
    world.pass(1000);
    world.cut(0, 1);
    world.pass(200_000);
    world.connect(0, 1);
    world.pass(200_000);
    let receipts = world.hosts[2].kv.rows().filter(|(table, ..)| *table == Table::Receipt).count();
    assert_eq!(receipts, 0);
}

/// FLOW-7: what ends the rows of a flow on a relay: its closing word, echoed.
#[test]
fn a_closed_flow_leaves_the_relay() {
    let mut world = chain();
    let consumer = world.open_consumer(2, "orders", 10);
    world.send(0, 2, &[b"x"]);
    world.settle();
    world.acknowledge_all(2, consumer);
    world.pass(200_000);
    world.kill(0);
    world.start(0);
    world.connect(0, 1);
    world.pass(4_000_000);
    let tables = [Table::TransitFlow, Table::Word, Table::Receipt];
    let left: Vec<_> =
        world.hosts[1].kv.rows().map(|(table, ..)| table).filter(|table| tables.contains(table)).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// AGE-2: a gap across a reboot that a peer confirms ends at once what it has made too old.
#[test]
fn a_confirmed_gap_expires_at_once() {
    let mut world = chain();
    world.kill(2);
    let mut message = submission(world.id(2), b"x");
    message.lifetime_ms = limits::DAY_MS;
    let id = world.submit(0, vec![message])[0].id;
    world.pass(1000);
    world.kill(0);
    world.kill(1);
    world.now.boot_id = [2; 16];
    world.now.boot_ms = 10;
    world.now.wall_ms += 3 * 365 * limits::DAY_MS;
    for host in 0..3 {
        world.start(host);
    }
    world.connect(0, 1);
    world.connect(1, 2);
    world.pass(100);
    assert_eq!(world.state(0, id), "expired");
    let consumer = world.open_consumer(2, "orders", 10);
    world.pass(1000);
    assert!(world.received(2, consumer).is_empty());
}

/// CANCEL-1, P3: what is cancelled before its envelope leaves is not delivered with the rest of it.
#[test]
fn a_message_cancelled_in_an_envelope_that_leaves_is_not_delivered() {
    let mut world = World::new(2, 5);
    let ids = world.send(0, 1, &[b"one", b"two", b"three"]);
    let request = RequestId(world.draw());
    world.input(0, Input::CancelAsked { request, ids: vec![ids[1]] });
    assert_eq!(world.state(0, ids[1]), "cancelled");
    world.connect(0, 1);
    world.pass(10_000);
    let consumer = world.open_consumer(1, "orders", 10);
    world.pass(10_000);
    let got = world.received(1, consumer).len();
    let late = world.trace(0, ids[1]).ladder.iter().any(|rung| rung.state.contains("late"));
    assert_eq!(got, 2 + usize::from(late));
    assert_eq!(world.state(0, ids[2]), "delivered");
    assert_eq!(world.counts(0).0, 0);
}

/// HOP-6: a full inbox at the relay stops neither mail that the relay carries for others, nor one source another's.
#[test]
fn a_refusal_stops_only_what_was_refused() {
    let mut world = World::new(4, 11);
    world.hosts[2].policy.inbox_bytes = 10_000;
    world.kill(2);
    world.start(2);
    for (a, b) in [(0, 1), (3, 1), (1, 2)] {
        world.connect(a, b);
    }
    world.pass(1000);
    // The inbox of the last is full of the first's mail; only what fits of it came.
    let body = vec![1; 3_000];
    for _ in 0..20 {
        world.send(0, 2, &[&body]);
        world.settle();
    }
    assert!(world.counts(2).1 < 4);
    // The relay's own mail is not that source's, nor is mail for the relay mail for the last.
    let id = world.send(0, 1, &[b"for the relay"])[0];
    let small = world.send(3, 2, &[b"of another source"])[0];
    world.pass(5_000);
    assert_eq!(world.state(0, id), "delivered");
    assert_eq!(world.state(3, small), "delivered");
}
