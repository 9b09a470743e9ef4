//! What others can and cannot do to a node's rows: name flows there are none of, and send, as twins do, other messages
//! under the same numbers and other facts under the same counts (rules ORDER-4, RECEIPT-1, FACT-1, FACT-4).

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod world;

use prost::Message as _;
use waypost_core::engine::effect::Stream;
use waypost_core::message::Submission;
use waypost_core::store::kv::{Kv as _, Table};
use waypost_proto::hop::{self, frame::Kind};
use waypost_proto::stored;
use world::{World, submission};

fn row(count: usize, seed: u64) -> World {
    let mut world = World::new(count, seed);
    for host in 1..count {
        world.connect(host - 1, host);
    }
    world.pass(1000);
    world
}

fn rows(world: &World, host: usize, table: Table) -> Vec<(Vec<u8>, bytes::Bytes)> {
    let rows = world.hosts[host].kv.rows().filter(|(of, ..)| *of == table);
    rows.map(|(_, key, value)| (key.to_vec(), value.clone())).collect()
}

/// ORDER-4: a predecessor in a flow that never was leaves nothing behind once the message has waited its lifetime.
#[test]
fn a_named_flow_leaves_no_row() {
    let mut world = row(2, 1);
    let consumer = world.open_consumer(1, "orders", 10);
    let ordered = |world: &World, body: &[u8]| Submission {
        order_key: Some("key".to_owned()),
        lifetime_ms: 60_000,
        ..submission(world.id(1), body)
    };
    world.submit(0, vec![ordered(&world, b"one")]);
    world.settle();
    let (key, before) = rows(&world, 0, Table::Order).remove(0);
    let before = stored::Predecessor::decode(before).unwrap();
    let other = stored::Predecessor { incarnation: vec![9; before.incarnation.len()].into(), ..before };
    let batch = [((Table::Order, key), Some(other.encode_to_vec().into()))].into();
    world.hosts[0].kv.commit(batch).unwrap();
    let flows = rows(&world, 1, Table::FlowIndex).len();
    world.submit(0, vec![ordered(&world, b"two")]);
    world.settle();
    assert_eq!(rows(&world, 1, Table::Waiting).len(), 1, "it waits");
    assert_eq!(world.received(1, consumer).len(), 1);
    world.pass(61_000);
    assert_eq!(world.received(1, consumer).len(), 2, "it came without");
    assert_eq!((rows(&world, 1, Table::FlowIndex).len(), rows(&world, 1, Table::Waiting).len()), (flows, 0));
}

/// RECEIPT-1: the tags of numbers that entered survive a twin's envelope that ends on the same number.
#[test]
fn tags_survive_a_twin() {
    let mut world = row(2, 2);
    let twin = world.clone_of(0);
    world.send(0, 1, &[b"one"]);
    world.tamper(|_, _, frame| !matches!(frame.kind, Some(Kind::Envelope(_))));
    world.send(0, 1, &[b"two"]);
    while rows(&world, 1, Table::Tags).is_empty() {
        assert!(world.carry());
    }
    let tags = |world: &World| -> Vec<Vec<u64>> {
        rows(world, 1, Table::Tags).into_iter().map(|(_, row)| stored::Tags::decode(row).unwrap().tags).collect()
    };
    let two = tags(&world)[0][0];
    assert!(tags(&world) == [[two]] && two != 0);
    world.kill(0);
    world.connect(twin, 1);
    world.send(twin, 1, &[b"first", b"second"]);
    while rows(&world, 1, Table::Inbox).len() < 2 {
        assert!(world.carry());
    }
    let tags = tags(&world);
    assert_eq!((tags.len(), tags[0].len()), (1, 2));
    assert!(tags[0][0] != 0 && tags[0][1] == two, "{tags:?}");
}

/// FACT-1, FACT-4: a fact of another start with the same counts is another fact, and is asked for.
#[test]
fn facts_of_two_starts_are_told_apart() {
    let mut world = row(2, 3);
    let held = world.hosts[0].kv.get(Table::Fact, &world.id(1).0).unwrap().unwrap();
    let content = stored::Signed::decode(held).unwrap().content;
    let fact = hop::FactContent::decode(content).unwrap();
    let counter = fact.incarnation.len() - 8;
    let random = fact.incarnation.slice(counter..);
    let counter = fact.incarnation[..counter].iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    let own = rows(&world, 0, Table::Meta).into_iter().find(|(key, _)| key == b"counters").unwrap().1;
    let own_sequence = stored::Counters::decode(own).unwrap().fact_sequence;
    let other: bytes::Bytes = vec![0xff; 8].into();
    let cases = [
        (1, fact.sequence, random, false),
        (1, fact.sequence, bytes::Bytes::new(), false),
        (1, fact.sequence, other.clone(), true),
        (0, own_sequence, bytes::Bytes::new(), false),
        (0, own_sequence, other, true),
    ];
    for (of, sequence, random, is_asked_for) in cases {
        let node = world.id(of).0.to_vec().into();
        let id = hop::FactId { node, counter, sequence, random: random.clone() };
        world.inject(1, 0, Stream::Control, Kind::Ids(hop::Ids { facts: vec![id] }));
        assert!(world.carry());
        let asked = world.on_wire().filter(|(_, _, frame)| matches!(frame.kind, Some(Kind::Get(_)))).count();
        assert_eq!(asked, usize::from(is_asked_for), "of {of}, random part {random:?}");
        world.tamper(|_, _, _| false);
    }
}
