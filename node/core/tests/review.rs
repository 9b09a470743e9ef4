//! What a review found, and a random walk over it all: sends, cuts, kills and time in any order, then a heal.

#[allow(dead_code, reason = "each test file uses its part of the world")]
mod world;

use std::collections::BTreeMap;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use waypost_core::engine::input::{ConsumerId, Input};
use waypost_core::id::{Class, MessageId};
use waypost_core::limits;
use waypost_core::store::kv::Table;
use waypost_proto::stored;
use prost::Message as _;
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
                let body = if delivery.fragments > 1 { self.whole(host, consumer, &delivery) } else { delivery.body.to_vec() };
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

    /// What a host still holds of others' mail, on the way to a failure.
    fn show(&mut self, host: usize) {
        if self.world.counts(host).2 == 0 {
            return;
        }
        for (table, key, value) in self.world.hosts[host].kv.rows() {
            if table == Table::Envelope {
                let row = stored::Envelope::decode(value.clone()).unwrap();
                if !row.header.is_empty() {
                    println!("host {host} {key:?} {:?} due {} wave {} {:?} standby_at {:?} timer {} now {}", row.state(), row.due, row.wave, row.custody, row.standby_at.first(), row.timer, self.world.now.boot_ms);
                }
            }
            if table == Table::TransitFlow {
                let row = stored::TransitFlow::decode(value.clone()).unwrap();
                println!("host {host} flow {key:?} floor {} settled {:?} envelopes {}", row.floor, row.settled, row.envelopes);
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
            assert!(fits, "{label}: {from}→{to} {} bytes is {state}, came {times} times: {rungs:?} {:?}", body.len(), trace.custody);
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
