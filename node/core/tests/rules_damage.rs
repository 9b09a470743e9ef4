//! One bad block never takes a node down: a body row that cannot be read is reported, ends where it must, and blocks
//! nothing behind it, at the source, on a relay and at the destination (rules DAMAGE-1, DAMAGE-2, CUSTODY-4).

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod world;

use bytes::Bytes;
use prost::Message as _;
use waypost_core::engine::input::Input;
use waypost_core::id::MessageId;
use waypost_core::limits::{self, DAY_MS};
use waypost_core::message::Submission;
use waypost_core::store::kv::{Batch, Kv, Pair, StoreError, Table};
use waypost_core::store::tx::Tx;
use waypost_proto::hop::{self, frame::Kind};
use waypost_proto::stored;
use world::{World, submission};

const LOST: &str = "damaged: its body is missing on this node's disk";
const DEAD: &str = "dead-lettered: damaged on the destination's disk";

/// `count` hosts in a row, connected, their facts told.
fn row(count: usize, seed: u64) -> World {
    let mut world = World::new(count, seed);
    for host in 1..count {
        world.connect(host - 1, host);
    }
    world.pass(1000);
    world
}

fn bodies(world: &World, host: usize) -> Vec<Vec<u8>> {
    let rows = world.hosts[host].kv.rows().filter(|(table, ..)| *table == Table::Body);
    rows.map(|(_, key, _)| key.to_vec()).collect()
}

fn count(world: &World, host: usize, table: Table) -> usize {
    world.hosts[host].kv.rows().filter(|(of, ..)| *of == table).count()
}

/// Damages the body row at a place: reading it is an error from now on, as it is over a block whose checksum fails.
fn rot(world: &mut World, host: usize, place: usize) {
    let key = bodies(world, host)[place].clone();
    world.hosts[host].rotten.insert((Table::Body, key));
}

fn rot_all(world: &mut World, host: usize) {
    let keys = bodies(world, host);
    assert!(!keys.is_empty());
    for key in keys {
        world.hosts[host].rotten.insert((Table::Body, key));
    }
}

fn large(parts: usize) -> Vec<u8> {
    vec![7; (parts - 1) * limits::FRAGMENT + 10]
}

fn delayed(world: &World, to: usize, body: &[u8]) -> Submission {
    Submission { delay_ms: 60_000, ..submission(world.id(to), body) }
}

// ---- at the source ----

/// DAMAGE-1, P3: a message whose body rots ends, with its reason and an alarm; what comes behind it goes on. Sent at once
/// or offered first and wanted.
#[test]
fn a_rotten_body_ends_its_message() {
    for size in [100, 100_000] {
        let mut world = World::new(2, 1);
        let lost = world.send(0, 1, &[&vec![7; size]])[0];
        rot_all(&mut world, 0);
        let whole = world.send(0, 1, &[b"whole"])[0];
        world.connect(0, 1);
        world.pass(1_000);
        assert_eq!(world.state(0, lost), LOST, "{size}");
        assert_eq!((world.state(0, whole).as_str(), world.counts(0).0), ("delivered", 0));
        assert_eq!((count(&world, 0, Table::Body), count(&world, 0, Table::Due)), (0, 0));
        assert_eq!(world.hosts[0].alarms.len(), 1);
        let offers = world.count("offer");
        world.pass(DAY_MS);
        assert_eq!(world.count("offer"), offers, "nobody offers it any more");
    }
}

/// DAMAGE-1: with one fragment of a body all of it is lost: the message ends, the others do not travel, the destination
/// keeps nothing of it, and the next body is whole.
#[test]
fn a_rotten_fragment_ends_its_message() {
    for place in [0, 2] {
        let mut world = row(2, 2);
        world.cut(0, 1);
        let consumer = world.open_consumer(1, "orders", 10);
        let lost = world.send_large(0, 1, &large(6));
        rot(&mut world, 0, place);
        let whole = world.send_large(0, 1, &large(2));
        world.connect(0, 1);
        world.pass(120_000);
        assert_eq!(world.state(0, lost), LOST, "fragment {place}");
        assert_eq!((world.state(0, whole).as_str(), world.counts(0).0), ("delivered", 0));
        // The last fragment is small: it leaves without being offered.
        assert!(world.count("envelope") <= 3 + place as u64, "{}", world.count("envelope"));
        assert_eq!((count(&world, 0, Table::Body), count(&world, 0, Table::Due)), (0, 0));
        assert_eq!((count(&world, 1, Table::Body), count(&world, 1, Table::Partial)), (2, 0));
        assert_eq!(world.status(1).inbox, (1, large(2).len() as u64));
        assert_eq!(world.hosts[1].deliveries[&consumer].len(), 1);
    }
}

/// DAMAGE-1: a delayed message whose body rots while it waits ends when it is due, to another node and to this one, its
/// body in fragments or not; it does not wait for the destination.
#[test]
fn a_rotten_body_ends_a_delayed_message() {
    for to in [0, 1] {
        for parts in [1, 4] {
            let mut world = World::new(2, 3);
            let message = delayed(&world, to, b"");
            let lost = match parts {
                1 => world.submit(0, vec![delayed(&world, to, b"later")])[0].id,
                _ => world.send_streamed(0, message, &large(parts)),
            };
            rot(&mut world, 0, parts / 2);
            world.pass(30_000);
            assert_eq!(world.state(0, lost), "accepted");
            if parts > 1 && to == 1 {
                world.connect(0, 1);
            }
            world.pass(60_000);
            let whole = world.send(0, to, &[b"whole"])[0];
            if parts == 1 && to == 1 {
                assert_eq!(world.state(0, lost), LOST, "before they meet");
                world.connect(0, 1);
            }
            world.pass(120_000);
            assert_eq!(world.state(0, lost), LOST, "to {to}, {parts} parts");
            assert_eq!((world.state(0, whole).as_str(), world.counts(0).0), ("delivered", 0));
            assert_eq!(count(&world, 0, Table::Body) + count(&world, 1, Table::Body), 0);
            assert_eq!(count(&world, 0, Table::Delayed) + count(&world, to, Table::Partial), 0);
            assert_eq!((world.status(to).inbox.0, world.hosts[0].alarms.len()), (1, 1));
        }
    }
}

/// DAMAGE-1: what another node has had in custody may still arrive; it is asked for by nobody again and again, and ends by
/// its lifetime.
#[test]
fn a_rotten_body_that_was_handed_on_ends_with_its_lifetime() {
    let mut world = row(3, 4);
    world.kill(2);
    world.pass(1000);
    let before = world.hosts[1].kv.clone();
    let id = world.send(0, 2, &[b"one"])[0];
    world.settle();
    rot_all(&mut world, 0);
    world.kill(1);
    world.hosts[1].kv = before;
    world.start(1);
    world.connect(0, 1);
    world.pass(DAY_MS);
    assert_eq!(world.state(0, id), "held");
    assert!((1..=100).contains(&world.count("want")), "{} times in a day", world.count("want"));
    world.pass(14 * DAY_MS);
    assert_eq!((world.state(0, id).as_str(), world.counts(0).0), ("expired", 0));
}

/// START-3: what was streaming in is thrown away at a start, whatever its rows are like.
#[test]
fn rotten_stages_are_thrown_away() {
    let mut world = World::new(1, 5);
    let (stream, request) = (waypost_core::engine::input::StreamId(70), waypost_core::engine::input::RequestId(71));
    let message = submission(world.id(0), b"");
    world.input(0, Input::BodyBegun { stream, request, uid: 0, message });
    for _ in 0..3 {
        world.input(0, Input::BodyGrew { stream, bytes: vec![7; limits::FRAGMENT].into() });
    }
    assert_eq!(bodies(&world, 0).len(), 3);
    rot_all(&mut world, 0);
    world.kill(0);
    world.start(0);
    world.settle();
    assert_eq!((count(&world, 0, Table::Body), count(&world, 0, Table::Stage)), (0, 0));
}

/// BODY-2: a small body that streamed in and cannot be read back is refused, never accepted empty.
#[test]
fn a_rotten_stage_is_not_accepted() {
    let mut world = World::new(1, 6);
    let (stream, request) = (waypost_core::engine::input::StreamId(70), waypost_core::engine::input::RequestId(71));
    let message = submission(world.id(0), b"");
    world.input(0, Input::BodyBegun { stream, request, uid: 0, message });
    world.input(0, Input::BodyGrew { stream, bytes: b"small".as_slice().into() });
    rot_all(&mut world, 0);
    world.input(0, Input::BodyEnded { stream });
    let reply = format!("{:?}", world.hosts[0].replies[&request]);
    assert!(reply.contains("StreamEnded"), "{reply}");
    assert_eq!((world.status(0).outbox, world.status(0).inbox), ((0, 0), (0, 0)));
    assert_eq!(count(&world, 0, Table::Body), 0);
}

// ---- on a relay ----

/// CUSTODY-4: a relay whose copy has rotted says so to who gave it, and takes the envelope again at once; small, large
/// (offered, then wanted) and in fragments.
#[test]
fn a_body_rotten_on_a_relay_is_given_again() {
    for size in [100, 100_000, 3 * limits::FRAGMENT] {
        let mut world = row(3, 7);
        world.kill(2);
        world.pass(1000);
        let id = match size {
            0..=200_000 => world.send(0, 2, &[&vec![7; size]])[0],
            _ => world.send_large(0, 2, &vec![7; size]),
        };
        world.settle();
        rot(&mut world, 1, 0);
        world.start(2);
        world.connect(1, 2);
        world.pass(10_000);
        let told = |(by, at, frame): &&(usize, usize, hop::Frame)| {
            (*by, *at) == (1, 0) && matches!(frame.kind, Some(Kind::Dropped(_)))
        };
        assert_eq!(world.log.iter().filter(told).count(), 1, "{size}");
        assert_eq!((world.state(0, id).as_str(), world.counts(1).2), ("delivered", 0), "{size}");
        assert_eq!(world.hosts[1].alarms.len(), 1);
    }
}

// ---- at the destination ----

/// A large message delivered to host 1 and in a consumer's hands, with its second fragment rotten.
fn delivered_and_rotten(seed: u64) -> (World, MessageId) {
    let mut world = World::new(2, seed);
    world.connect(0, 1);
    let id = world.send_large(0, 1, &large(3));
    world.pass(1_000);
    assert_eq!(world.state(0, id), "delivered");
    rot(&mut world, 1, 1);
    (world, id)
}

/// DAMAGE-2, P3: a message whose fragments cannot be read is moved to the dead letters, the owner and the sender learn it,
/// and it is not handed out again.
#[test]
fn a_body_rotten_at_the_destination_is_a_dead_letter() {
    let (mut world, id) = delivered_and_rotten(8);
    let consumer = world.open_consumer(1, "orders", 10);
    let delivery = world.hosts[1].deliveries[&consumer][0].delivery;
    let part = |index| Input::BodyPartWanted { consumer, delivery, index };
    world.input(1, part(7));
    assert_eq!(world.hosts[1].parts.pop(), Some((delivery, 7, None)), "there is no such part, and no damage");
    world.input(1, part(0));
    assert_eq!(world.hosts[1].parts.pop().unwrap().2.unwrap().len(), limits::FRAGMENT);
    world.input(1, part(1));
    assert_eq!(world.hosts[1].parts.pop(), Some((delivery, 1, None)));
    world.input(1, Input::Nacked { consumer, delivery, delay_ms: 0 });
    world.pass(2 * 3_600_000);
    assert_eq!(world.hosts[1].deliveries[&consumer].len(), 1, "handed out once");
    assert_eq!(world.hosts[1].alarms.len(), 1);
    assert_eq!(world.state(0, id), DEAD);
    assert_eq!(world.status(1).inbox, (1, large(3).len() as u64), "its other parts can be read there");

    let reader = world.open_consumer(1, "dead.orders", 10);
    let delivery = world.hosts[1].deliveries[&reader][0].delivery;
    world.input(1, Input::BodyPartWanted { consumer: reader, delivery, index: 2 });
    assert_eq!(world.hosts[1].parts.pop().unwrap().2.unwrap().len(), 10);
    world.input(1, Input::BodyPartWanted { consumer: reader, delivery, index: 1 });
    world.input(1, Input::Nacked { consumer: reader, delivery, delay_ms: 0 });
    world.pass(2 * 3_600_000);
    assert_eq!(world.hosts[1].deliveries[&reader].len(), 1, "nor from there");
    assert_eq!((world.status(1).inbox, count(&world, 1, Table::Body)), ((0, 0), 0));
    assert_eq!((count(&world, 1, Table::Inbox), count(&world, 1, Table::Queue)), (0, 0));
    let channels = world.hosts[1].kv.rows().filter(|(table, ..)| *table == Table::Channel);
    let left: u64 = channels.map(|(_, _, row)| stored::Channel::decode(row.clone()).unwrap().messages).sum();
    assert_eq!(left, 0);
}

/// DAMAGE-2: consuming needs no body: a message that is acknowledged unread is gone, its rotten rows too.
#[test]
fn a_rotten_body_can_be_acknowledged() {
    let (mut world, id) = delivered_and_rotten(9);
    let consumer = world.open_consumer(1, "orders", 10);
    world.acknowledge_all(1, consumer);
    world.pass(1_000);
    assert_eq!((world.state(0, id).as_str(), count(&world, 1, Table::Body)), ("consumed", 0));
}

/// BODY-4: a body that never becomes whole is given up, whatever its rows are like.
#[test]
fn a_rotten_partial_body_is_given_up() {
    let mut world = row(2, 10);
    let message = Submission { lifetime_ms: 60_000, ..submission(world.id(1), b"") };
    world.send_streamed(0, message, &large(3));
    while bodies(&world, 1).is_empty() {
        assert!(world.carry());
    }
    world.kill(0);
    rot_all(&mut world, 1);
    world.pass(70_000);
    assert_eq!((count(&world, 1, Table::Body), count(&world, 1, Table::Partial)), (0, 0));
    assert_eq!(world.status(1).inbox, (0, 0));
}

/// A disk of which nothing can be read.
struct Failing;

impl Kv for Failing {
    fn get(&self, _: Table, _: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Err(StoreError::Failed("input/output error".to_owned()))
    }
    fn scan(&self, _: Table, _: &[u8], _: &[u8], _: usize) -> Result<Vec<Pair>, StoreError> {
        Ok(Vec::new())
    }
    fn commit(&mut self, _: Batch) -> Result<(), StoreError> {
        Ok(())
    }
}

/// STORE-3: a disk that fails in another way is not taken for a missing body.
#[test]
fn only_damage_is_taken_for_a_missing_body() {
    assert!(Tx::new(&Failing).body((1, 0)).is_err());
}
