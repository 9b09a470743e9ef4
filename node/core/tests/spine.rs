//! The way of a message over three engines: delivered once, receipted, freed everywhere, whatever is killed or cut.

mod world;

use waypost_core::engine::effect::{Refusal, Reply};
use waypost_core::engine::input::{Input, Level, RequestId};
use waypost_core::id::{Class, NodeId};
use waypost_core::limits;
use waypost_core::message::Submission;
use waypost_core::store::kv::{Kv as _, Table};
use world::{World, submission};

/// A — B — C, connected.
fn chain() -> World {
    let mut world = World::new(3, 7);
    world.connect(0, 1);
    world.connect(1, 2);
    world.pass(1000);
    world
}

/// P1 to P5, CUSTODY-1, RECEIPT-1, RECEIPT-3, TRACE-1: accepted, held by B, delivered and consumed at C; nothing is left anywhere.
#[test]
fn a_message_crosses_a_relay_and_comes_back_as_a_receipt() {
    let mut world = chain();
    let consumer = world.open_consumer(2, "orders", 10);
    let id = world.send(0, 2, &[b"hello"])[0];
    world.settle();
    assert_eq!(world.received(2, consumer), [&b"hello"[..]]);
    assert_eq!(world.state(0, id), "delivered");
    world.acknowledge_all(2, consumer);
    world.pass(1000);
    let trace = world.trace(0, id);
    let rungs: Vec<&str> = trace.ladder.iter().map(|rung| rung.state.as_str()).collect();
    assert_eq!(rungs, ["accepted", "held", "delivered", "consumed"]);
    assert_eq!(trace.ladder[1].by, Some(world.id(1)));
    assert_eq!((world.counts(0), world.counts(1), world.counts(2)), ((0, 0, 0), (0, 0, 0), (0, 0, 0)));
}

/// ENV-1: messages of one round share an envelope; BODY-1: an empty body, and one of exactly a fragment.
#[test]
fn messages_of_one_round_share_an_envelope() {
    let mut world = chain();
    let consumer = world.open_consumer(2, "orders", 1000);
    let before = world.carried.get("envelope").copied().unwrap_or(0);
    let bodies: Vec<Vec<u8>> = (0..100u8).map(|number| vec![number; usize::from(number)]).collect();
    world.send(0, 2, &bodies.iter().map(Vec::as_slice).collect::<Vec<_>>());
    world.settle();
    assert_eq!(world.received(2, consumer), bodies);
    assert_eq!(world.carried["envelope"] - before, 2, "one envelope, two hops");
    let fragment = vec![7; limits::FRAGMENT];
    world.send(0, 2, &[&fragment]);
    world.settle();
    assert_eq!(world.received(2, consumer).last().unwrap(), &fragment);
}

/// ROUTE-1, ROUTE-4, RECEIPT-3, P6: mail for an absent node moves to the neighbour that knows it, and on when it is back.
#[test]
fn mail_waits_at_the_relay_for_an_absent_node() {
    let mut world = chain();
    world.kill(2);
    world.pass(1000);
    let ids = world.send(0, 2, &[b"one", b"two"]);
    world.pass(1000);
    assert_eq!(world.counts(1).2, 1);
    assert_eq!(world.state(0, ids[0]), "held");
    world.cut(0, 1);
    world.start(2);
    world.connect(1, 2);
    let consumer = world.open_consumer(2, "orders", 10);
    world.settle();
    assert_eq!(world.received(2, consumer).len(), 2);
    assert_eq!(world.counts(1).2, 0, "the receipt has freed the relay");
    world.connect(0, 1);
    world.settle();
    assert_eq!(world.state(0, ids[1]), "delivered");
    assert_eq!(world.counts(0).0, 0);
}

/// BODY-2, BODY-3, BODY-5: a body larger than a fragment, sent while the way is cut in the middle and the relay is killed.
#[test]
fn a_large_body_survives_a_kill_of_the_relay() {
    let mut world = chain();
    let body: Vec<u8> = (0..limits::FRAGMENT * 5 + 1).map(|at| (at % 251) as u8).collect();
    let id = world.send_large(0, 2, &body);
    for _ in 0..12 {
        world.carry();
    }
    world.kill(1);
    world.start(1);
    world.connect(1, 2);
    world.connect(0, 1);
    let consumer = world.open_consumer(2, "orders", 10);
    world.pass(1000);
    let delivery = world.hosts[2].deliveries[&consumer][0].clone();
    assert_eq!((delivery.size, delivery.fragments), (body.len() as u64, 6));
    for index in 0..6 {
        world.input(2, Input::BodyPartWanted { consumer, delivery: delivery.delivery, index });
    }
    let parts: Vec<u8> = world.hosts[2].parts.iter().flat_map(|(_, _, bytes)| bytes.clone().unwrap()).collect();
    assert!(parts == body);
    assert_eq!(world.state(0, id), "delivered");
    world.acknowledge_all(2, consumer);
    world.pass(1000);
    assert_eq!(world.state(0, id), "consumed");
    assert_eq!((world.counts(0), world.counts(1), world.counts(2)), ((0, 0, 0), (0, 0, 0), (0, 0, 0)));
}

/// FILTER-1, HOP-2, CLAIM-2: whoever is killed whenever, each message enters once and all end delivered.
#[test]
fn kills_lose_and_double_nothing() {
    for seed in 0..24u64 {
        let mut world = chain();
        let mut ids = Vec::new();
        for round in 0..6u64 {
            for number in 0..20u64 {
                let body = (round * 100 + number).to_be_bytes();
                ids.extend(world.send(0, 2, &[&body]));
            }
            for _ in 0..(seed * 7 + round * 13) % 60 {
                world.carry();
            }
            let victim = usize::try_from((seed + round) % 3).unwrap();
            world.kill(victim);
            world.start(victim);
            if victim != 2 {
                world.connect(0, 1);
            }
            if victim != 0 {
                world.connect(1, 2);
            }
        }
        world.pass(5_000);
        let consumer = world.open_consumer(2, "orders", 1000);
        world.settle();
        let mut got = world.received(2, consumer);
        got.sort();
        got.dedup();
        assert_eq!(got.len(), 120, "seed {seed}: each once");
        assert_eq!(world.hosts[2].deliveries[&consumer].len(), 120, "seed {seed}: none twice");
        for id in ids {
            assert_eq!(world.state(0, id), "delivered", "seed {seed}");
        }
        assert_eq!(world.counts(0).0, 0, "seed {seed}");
        assert_eq!(world.counts(1).2, 0, "seed {seed}");
    }
}

/// HELLO-2, CUSTODY-3: a relay that lost its disk gets everything offered again.
#[test]
fn a_relay_that_lost_its_disk_is_offered_everything_again() {
    let mut world = chain();
    world.kill(2);
    let ids = world.send(0, 2, &[b"one"]);
    world.pass(1000);
    assert_eq!(world.state(0, ids[0]), "held");
    world.kill(1);
    world.hosts[1].kv = Default::default();
    world.start(1);
    world.start(2);
    world.connect(0, 1);
    world.connect(1, 2);
    let consumer = world.open_consumer(2, "orders", 10);
    world.pass(2000);
    assert_eq!(world.received(2, consumer).len(), 1);
    assert_eq!(world.state(0, ids[0]), "delivered");
}

/// RETRY-1, WAVE-2, WAVE-3: a relay that acknowledged and lost a copy is passed by the source's next wave.
#[test]
fn a_new_wave_moves_what_a_relay_lost() {
    let mut world = chain();
    world.kill(2);
    let ids = world.send(0, 2, &[b"one"]);
    world.pass(1000);
    // The relay forgets the copy but keeps its record of having taken it: as after a damaged row.
    let row_of = |wanted| {
        let rows = world.hosts[1].kv.rows();
        rows.filter(|(table, _, _)| *table == wanted).map(|(table, key, _)| (table, key.to_vec())).next().unwrap()
    };
    let batch = [row_of(Table::Due), row_of(Table::Envelope)].into_iter().map(|key| (key, None)).collect();
    world.hosts[1].kv.commit(batch).unwrap();
    world.kill(1);
    world.start(1);
    world.start(2);
    world.connect(0, 1);
    world.connect(1, 2);
    let consumer = world.open_consumer(2, "orders", 10);
    world.pass(1000);
    assert_eq!(world.received(2, consumer).len(), 0);
    world.pass(200_000);
    assert_eq!(world.received(2, consumer).len(), 1);
    assert_eq!(world.state(0, ids[0]), "delivered");
}

/// AGE-1, WORD-2: a message whose way never opens expires at its source; one that left is confirmed by the destination.
#[test]
fn lifetimes_end_at_the_source() {
    let mut world = chain();
    world.kill(2);
    world.pass(500);
    let mut message = submission(world.id(2), b"short");
    message.lifetime_ms = 5_000;
    let id = world.submit(0, vec![message])[0].id;
    world.pass(1000);
    assert_eq!(world.state(0, id), "held");
    let waiting = world.ask_trace(0, id, Some(Level::Delivered));
    assert!(waiting.is_none());
    world.pass(5_000);
    assert_eq!(world.state(0, id), "expired");
    assert!(
        world.hosts[0]
            .replies
            .values()
            .any(|reply| matches!(reply, Reply::Trace(trace) if trace.ended && !trace.reached))
    );
    assert_eq!((world.counts(0).0, world.counts(1).2), (0, 0));
    world.start(2);
    world.connect(1, 2);
    let consumer = world.open_consumer(2, "orders", 10);
    world.pass(120_000);
    assert!(world.received(2, consumer).is_empty());
    assert_eq!(world.state(0, id), "expired");
}

/// IDEM-1: the same key with the same request is the same message, also across a restart; with another it is refused.
#[test]
fn an_idempotency_key_names_one_message() {
    let mut world = chain();
    let mut message = submission(world.id(2), b"once");
    message.idempotency_key = Some("k1".to_owned());
    let first = world.submit(0, vec![message.clone()]);
    world.kill(0);
    world.start(0);
    world.connect(0, 1);
    let second = world.submit(0, vec![message.clone()]);
    assert_eq!((first[0].id, second[0].repeated), (second[0].id, true));
    message.body = "other".into();
    assert!(matches!(world.try_submit(0, vec![message]), Reply::Refused(Refusal::KeyReused(_))));
    let consumer = world.open_consumer(2, "orders", 10);
    world.pass(1000);
    assert_eq!(world.received(2, consumer).len(), 1);
}

/// QUOTA-1: a full outbox refuses and loses nothing; QUOTA-2, HOP-6: a full inbox refuses before it accepts, and takes again.
#[test]
fn full_stores_refuse_and_recover() {
    let mut world = World::new(3, 9);
    world.hosts[0].policy.outbox_bytes = 50_000;
    world.hosts[2].policy.inbox_bytes = 20_000;
    for host in 0..3 {
        world.kill(host);
        world.start(host);
    }
    world.connect(0, 1);
    world.connect(1, 2);
    world.pass(1000);
    let body = vec![1; 8_000];
    let mut accepted = Vec::new();
    loop {
        match world.try_submit(0, vec![submission(world.id(2), &body)]) {
            Reply::Accepted(messages) => accepted.push(messages[0].id),
            Reply::Refused(Refusal::OutboxFull { .. }) => break,
            other => panic!("{other:?}"),
        }
        if accepted.len() < 3 {
            world.settle();
        }
        assert!(accepted.len() < 100);
    }
    world.pass(5_000);
    assert_eq!(world.counts(2).1, 2, "the inbox takes what fits");
    let mut got = 0;
    while got < accepted.len() {
        let consumer = world.open_consumer(2, "orders", 1);
        world.settle();
        got += world.received(2, consumer).len();
        world.acknowledge_all(2, consumer);
        world.input(2, Input::ConsumerClosed { consumer });
        world.pass(3_000);
    }
    for id in accepted {
        assert_eq!(world.state(0, id), "consumed");
    }
    assert_eq!(world.counts(0).0, 0);
}

/// CONSUME-1, CONSUME-3: what a consumer did not acknowledge is delivered again with a higher count, to anybody.
#[test]
fn an_unacknowledged_delivery_comes_again() {
    let mut world = chain();
    world.send(0, 2, &[b"a", b"b", b"c"]);
    world.settle();
    let first = world.open_consumer(2, "orders", 2);
    world.settle();
    assert_eq!(world.received(2, first), [&b"a"[..], b"b"]);
    let delivery = world.hosts[2].deliveries[&first][0].delivery;
    world.input(2, Input::Nacked { consumer: first, delivery, delay_ms: 5_000 });
    world.input(2, Input::ConsumerClosed { consumer: first });
    let second = world.open_consumer(2, "orders", 10);
    world.settle();
    assert_eq!(world.received(2, second), [&b"b"[..], b"c"]);
    assert_eq!(world.hosts[2].deliveries[&second][0].deliveries, 2);
    world.pass(6_000);
    assert_eq!(world.received(2, second).len(), 3);
    world.kill(2);
    world.start(2);
    let third = world.open_consumer(2, "orders", 10);
    world.settle();
    let counts: Vec<u32> = world.hosts[2].deliveries[&third].iter().map(|delivery| delivery.deliveries).collect();
    assert_eq!(counts, [3, 3, 2]);
}

/// A message to a channel on the same node takes the same way in.
#[test]
fn a_message_to_oneself_is_delivered() {
    let mut world = chain();
    let id = world.send(0, 0, &[b"note"])[0];
    let large = world.send_large(0, 0, &vec![3; limits::FRAGMENT + 1]);
    let consumer = world.open_consumer(0, "orders", 10);
    world.settle();
    assert_eq!(world.received(0, consumer).len(), 2);
    assert_eq!(world.state(0, id), "delivered");
    world.acknowledge_all(0, consumer);
    world.pass(1000);
    assert_eq!((world.state(0, id), world.state(0, large)), ("consumed".to_owned(), "consumed".to_owned()));
    assert_eq!(world.counts(0), (0, 0, 0));
}

fn ordered(to: NodeId, body: &[u8], class: Class) -> Submission {
    Submission { order_key: Some("k".to_owned()), class, ..submission(to, body) }
}

/// ORDER-1 to ORDER-3: a message is handed out only after the one before it under its key was acknowledged, whatever
/// overtook whatever; one without the key waits for nobody.
#[test]
fn messages_of_one_key_are_handed_out_in_order() {
    let mut world = chain();
    let to = world.id(2);
    let consumer = world.open_consumer(2, "orders", 10);
    let one = ordered(to, b"one", Class::Bulk);
    let two = ordered(to, b"two", Class::Urgent);
    let three = ordered(to, b"three", Class::Normal);
    world.submit(0, vec![one, two, three]);
    world.send(0, 2, &[b"free"]);
    world.settle();
    let mut got = world.received(2, consumer);
    got.sort();
    assert_eq!(got, [&b"free"[..], b"one"]);
    world.kill(2);
    world.start(2);
    world.connect(1, 2);
    let consumer = world.open_consumer(2, "orders", 10);
    for expected in [2, 3, 4] {
        world.settle();
        assert_eq!(world.received(2, consumer).len(), expected);
        world.acknowledge_all(2, consumer);
    }
    world.pass(1000);
    let last = world.received(2, consumer);
    assert_eq!(last[2..], [&b"two"[..], b"three"]);
    assert_eq!(world.counts(2).1, 0);
}

/// ORDER-3: a predecessor that its source ended before it came holds nobody back. ORDER-4: one that never comes does
/// so for a lifetime, and the consumer is told.
#[test]
fn a_missing_predecessor_delays_for_a_lifetime_at_most() {
    let mut world = chain();
    let to = world.id(2);
    let first = world.submit(0, vec![ordered(to, b"first", Class::Bulk)])[0].id;
    world.settle();
    let consumer = world.open_consumer(2, "orders", 10);
    world.settle();
    assert_eq!(world.received(2, consumer).len(), 1, "{first}");
    let second = Submission { lifetime_ms: 60_000, ..ordered(to, b"second", Class::Urgent) };
    world.submit(0, vec![second]);
    world.pass(1000);
    assert_eq!(world.received(2, consumer).len(), 1, "the first is not acknowledged");
    world.pass(61_000);
    let held = &world.hosts[2].deliveries[&consumer];
    assert_eq!(held.len(), 2);
    assert!(held[1].headers.contains(&("waypost-order".to_owned(), "unproven".to_owned())));
    assert_eq!(world.counts(2).1, 2);
}

/// DELAY-1: a delayed message is accepted at once and sent when it is due, also after a restart. DELAY-2: before that
/// it can be cancelled for good.
#[test]
fn a_delayed_message_is_sent_when_it_is_due() {
    let mut world = chain();
    let consumer = world.open_consumer(2, "orders", 10);
    let later = |world: &World, body: &[u8]| Submission { delay_ms: 60_000, ..submission(world.id(2), body) };
    let kept = later(&world, b"later");
    let dropped = later(&world, b"never");
    let ids: Vec<_> = world.submit(0, vec![kept, dropped]).into_iter().map(|accepted| accepted.id).collect();
    world.pass(30_000);
    assert!(world.received(2, consumer).is_empty());
    assert_eq!((world.state(0, ids[0]), world.counts(0).0), ("accepted".to_owned(), 2));
    let request = RequestId(world.draw());
    world.input(0, Input::CancelAsked { request, ids: vec![ids[1]] });
    assert_eq!(world.state(0, ids[1]), "cancelled");
    world.kill(0);
    world.start(0);
    world.connect(0, 1);
    world.pass(40_000);
    assert_eq!(world.received(2, consumer), [&b"later"[..]]);
    assert_eq!(world.state(0, ids[0]), "delivered");
    assert_eq!(world.counts(0).0, 0);
}
