//! The rules of a message's life, each in a world of a few engines: flows, bodies, words, endings, applications.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod world;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use waypost_core::engine::effect::{DeadLetter, Refusal, Reply, Stream};
use waypost_core::engine::input::{ConsumerId, Input, RequestId, StreamId};
use waypost_core::engine::{Engine, Identity};
use waypost_core::envelope::{Header, Name};
use waypost_core::id::{Class, FlowId, Incarnation, MessageId, NetworkId};
use waypost_core::limits;
use waypost_core::store::keys::Key as _;
use waypost_core::store::kv::Table;
use waypost_core::store::tables::QueueKey;
use waypost_core::trust::{Encapsulation, NodeKey, seal};
use waypost_proto::hop::frame::Kind;
use waypost_proto::{hop, stored};
use world::{World, submission};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A — B — C, connected.
fn chain() -> World {
    let mut world = World::new(3, 13);
    world.connect(0, 1);
    world.connect(1, 2);
    world.pass(1000);
    world
}

/// A — B, connected.
fn pair() -> World {
    let mut world = World::new(2, 17);
    world.connect(0, 1);
    world.pass(1000);
    world
}

fn headers(world: &World, from: usize) -> Vec<Header> {
    let header = |(by, _, frame): &(usize, usize, hop::Frame)| match &frame.kind {
        Some(Kind::Envelope(envelope)) if *by == from => Header::decode(&envelope.header).ok(),
        _ => None,
    };
    world.log.iter().filter_map(header).collect()
}

fn words(world: &World, from: usize) -> Vec<hop::WordContent> {
    let word = |(by, _, frame): &(usize, usize, hop::Frame)| match &frame.kind {
        Some(Kind::Word(word)) if *by == from => {
            Some(hop::WordContent::decode(word.object.clone().unwrap().content).unwrap())
        }
        _ => None,
    };
    world.log.iter().filter_map(word).collect()
}

fn receipts(world: &World, from: usize) -> Vec<hop::ReceiptContent> {
    let receipt = |(by, _, frame): &(usize, usize, hop::Frame)| match &frame.kind {
        Some(Kind::Receipt(receipt)) if *by == from => {
            Some(hop::ReceiptContent::decode(receipt.object.clone().unwrap().content).unwrap())
        }
        _ => None,
    };
    world.log.iter().filter_map(receipt).collect()
}

fn rows(world: &World, host: usize, table: Table) -> Vec<Bytes> {
    world.hosts[host].kv.rows().filter(|(of, ..)| *of == table).map(|(_, _, row)| row.clone()).collect()
}

fn ladder(world: &mut World, host: usize, id: waypost_core::id::MessageId) -> Vec<String> {
    world.trace(host, id).ladder.into_iter().map(|rung| rung.state).collect()
}

fn cancel(world: &mut World, host: usize, id: waypost_core::id::MessageId) -> String {
    let request = RequestId(world.draw());
    world.input(host, Input::CancelAsked { request, ids: vec![id] });
    match world.hosts[host].replies.remove(&request).unwrap() {
        Reply::Cancelled(outcomes) => outcomes[0].1.clone(),
        other => panic!("{other:?}"),
    }
}

/// ENV-1: one bucket of lifetimes an envelope; ENV-2: at most 4,096 messages, and a fragment of bytes.
#[test]
fn envelopes_are_bounded() {
    let mut world = pair();
    let to = world.id(1);
    let mut inputs = Vec::new();
    for count in [4_096, 1] {
        let request = RequestId(world.draw());
        inputs.push(Input::Submitted { request, uid: 0, messages: vec![submission(to, b""); count] });
    }
    world.round(0, inputs);
    world.settle();
    let of = |world: &World, from: usize| headers(world, 0)[from..].iter().map(|h| h.name.count).collect::<Vec<_>>();
    assert_eq!(of(&world, 0).iter().sum::<u32>(), 4_097);
    assert!(of(&world, 0).iter().all(|count| *count <= 4_096));
    let sent = of(&world, 0).len();
    world.send(0, 1, &[&[1; 100_000], &[2; 100_000], &[3; 100_000]]);
    world.settle();
    assert_eq!(of(&world, sent), [2, 1]);
    let mut messages = vec![submission(to, b""); 3];
    messages[0].lifetime_ms = DAY_MS;
    messages[1].lifetime_ms = DAY_MS + DAY_MS / 100;
    messages[2].lifetime_ms = 2 * DAY_MS;
    world.submit(0, messages);
    world.settle();
    assert_eq!(of(&world, sent + 2), [2, 1]);
    assert_eq!(headers(&world, 0)[sent + 2].lifetime_ms, DAY_MS + DAY_MS / 100, "the longest");
}

/// ENV-3: a body that is not `count` items rejects all its numbers; a bad item rejects its own.
#[test]
fn what_is_malformed_is_rejected() {
    let mut world = pair();
    let key = NodeKey::from_seed(&world.hosts[0].key.seed());
    let good = hop::Item { id: vec![1; 16].into(), channel: "orders".to_owned(), ..Default::default() };
    let bad = hop::Item { channel: "no channel".to_owned(), ..good.clone() };
    let plain = |items: &[&hop::Item]| {
        items.iter().fold(vec![3u8; 32], |sum, item| [sum, item.encode_length_delimited_to_vec()].concat())
    };
    let mut rng = <rand_chacha::ChaCha20Rng as rand_core::SeedableRng>::seed_from_u64(1);
    let sealing = Encapsulation::draw(&mut rng, world.network, key.id(), world.id(1)).unwrap();
    let incarnation = Incarnation { counter: 9, random: [9; 8] };
    let flow = FlowId { source: key.id(), destination: world.id(1), class: Class::Normal, incarnation };
    for (first, count, body) in [(1, 2, plain(&[&good])), (3, 1, plain(&[&good, &good])), (4, 2, plain(&[&bad, &good]))]
    {
        let sealed = seal::seal(&sealing, world.network, &key, Name { flow, first, count }, 1000, &body).unwrap();
        let envelope = hop::Envelope {
            transfer: first,
            header: sealed.header_bytes,
            sealed: sealed.sealed,
            signature: sealed.signature.to_vec().into(),
            wave: 1,
            ..Default::default()
        };
        world.inject(0, 1, Stream::Class(Class::Normal), Kind::Envelope(envelope));
    }
    world.settle();
    let receipt = receipts(&world, 1).pop().unwrap();
    let rejected: Vec<_> = receipt.rejected.iter().map(|range| (range.first, range.last, range.reason)).collect();
    assert_eq!(rejected, [(1, 4, 1)]);
    assert_eq!(receipt.delivered.iter().map(|range| (range.first, range.last)).collect::<Vec<_>>(), [(5, 5)]);
    assert_eq!(world.counts(1).1, 1);
}

/// FLOW-1, FLOW-2, FLOW-3, START-1: each class and each start has a flow of its own, numbered from 1 without gaps;
/// FLOW-4, START-2: the old flow is closed, and what is due of it is offered.
#[test]
fn a_start_opens_new_flows_and_closes_the_old() {
    let mut world = chain();
    world.send(0, 2, &[b"one", b"two"]);
    world.send(0, 2, &[b"three"]);
    let mut urgent = submission(world.id(2), b"four");
    urgent.class = Class::Urgent;
    world.submit(0, vec![urgent]);
    world.settle();
    let firsts =
        |world: &World| headers(world, 0).iter().map(|h| (h.name.flow.class, h.name.first)).collect::<Vec<_>>();
    assert_eq!(firsts(&world), [(Class::Normal, 1), (Class::Normal, 3), (Class::Urgent, 1)]);
    world.kill(1);
    world.pass(1000);
    let waiting = world.send(0, 2, &[b"five"])[0];
    world.kill(0);
    world.start(0);
    world.start(1);
    world.connect(0, 1);
    world.connect(1, 2);
    let offers = world.count("offer");
    world.send(0, 2, &[b"six"]);
    world.settle();
    assert!(world.count("offer") > offers, "what may have left before the start is offered");
    assert_eq!(world.state(0, waiting), "delivered");
    let sent = headers(&world, 0);
    let (old, new) = (sent[0].name.flow.incarnation, sent.iter().map(|h| h.name.flow.incarnation).max().unwrap());
    assert_eq!((old.counter, new.counter), (1, 2));
    assert_ne!(old.random, new.random);
    assert!(sent.iter().any(|h| h.name.flow.incarnation == new && h.name.first == 1));
    world.pass(120_000);
    let closed: Vec<_> = words(&world, 0).into_iter().filter(|word| word.closed).collect();
    assert!(closed.iter().any(|word| word.end == 4 && word.floor == 5), "{closed:?}");
}

/// FLOW-6: the id drawn at acceptance is a UUIDv7 and is what the application at the other end sees.
#[test]
fn an_id_is_kept_to_the_end() {
    let mut world = chain();
    let id = world.send(0, 2, &[b"one"])[0];
    assert_eq!((id.0[6] >> 4, id.0[8] >> 6), (7, 2));
    let consumer = world.open_consumer(2, "orders", 1);
    world.settle();
    assert_eq!(world.hosts[2].deliveries[&consumer][0].id, id);
}

/// BODY-4: the whole is reserved with the first fragment; what has no room waits at the giver and comes later.
#[test]
fn a_body_without_room_waits_whole() {
    let mut world = World::new(2, 19);
    world.hosts[1].policy.inbox_bytes = 3 * limits::FRAGMENT as u64;
    world.kill(1);
    world.start(1);
    world.connect(0, 1);
    world.pass(1000);
    let body = vec![1; 2 * limits::FRAGMENT];
    world.send_large(0, 1, &body);
    let second = world.send_large(0, 1, &body);
    world.pass(5_000);
    assert_eq!(world.counts(1).1, 1);
    assert!(rows(&world, 1, Table::Partial).is_empty(), "nothing of the second was kept");
    let consumer = world.open_consumer(1, "orders", 1);
    world.acknowledge_all(1, consumer);
    world.pass(5_000);
    assert_eq!((world.counts(1).1, world.state(0, second).as_str()), (1, "delivered"));
}

/// WORD-3: a word that only raises a mark goes alone after a minute; FLOW-4, WORD-1, WORD-5: and lets the destination
/// forget what both ends know.
#[test]
fn a_mark_goes_alone_after_a_minute() {
    let mut world = chain();
    world.send(0, 2, &[b"one", b"two"]);
    let consumer = world.open_consumer(2, "orders", 10);
    world.settle();
    world.acknowledge_all(2, consumer);
    world.pass(50_000);
    assert_eq!(world.count("word"), 0);
    let receipt = receipts(&world, 2).pop().unwrap();
    assert_eq!((receipt.floor, receipt.consumed.len(), receipt.delivered.len()), (1, 1, 1));
    world.pass(15_000);
    assert_eq!(world.count("word"), 2, "over two hops");
    let word = words(&world, 0).pop().unwrap();
    assert_eq!((word.floor, word.second_mark, word.closed), (3, 3, false));
    let receipt = receipts(&world, 2).pop().unwrap();
    assert_eq!((receipt.floor, receipt.consumed.len(), receipt.delivered.len()), (3, 0, 0));
}

/// WORD-2, WORD-3: a word that ends something goes at once, and lists it until its ending stands.
#[test]
fn an_ending_goes_at_once() {
    let mut world = chain();
    world.kill(2);
    world.pass(1000);
    let id = world.send(0, 2, &[b"one"])[0];
    world.settle();
    assert_eq!(cancel(&mut world, 0, id), "cancelled");
    world.settle();
    let word = words(&world, 0).pop().unwrap();
    assert_eq!((word.ended.len(), word.ended[0].ending, word.floor), (1, 2, 1));
    assert_eq!(world.counts(1).2, 0, "the relay has let go");
    world.start(2);
    world.connect(1, 2);
    world.pass(70_000);
    let skipped = receipts(&world, 2).into_iter().any(|receipt| receipt.skipped.len() == 1);
    assert!(skipped);
    assert_eq!((world.state(0, id).as_str(), ladder(&mut world, 0, id).len()), ("cancelled", 3));
    let word = words(&world, 0).pop().unwrap();
    assert_eq!((word.ended.len(), word.floor), (0, 2));
}

/// WORD-4, FLOW-4: an ending nobody confirmed holds the floor for seven days and no longer.
#[test]
fn an_unconfirmed_ending_is_forgotten_with_its_ladder() {
    let mut world = chain();
    world.kill(2);
    world.pass(1000);
    let mut message = submission(world.id(2), b"short");
    message.lifetime_ms = 5_000;
    world.submit(0, vec![message]);
    world.pass(6 * DAY_MS);
    let floor = |world: &World| {
        let rows = rows(world, 0, Table::OutFlow);
        rows.into_iter().map(|row| stored::OutFlow::decode(row).unwrap().floor).collect::<Vec<_>>()
    };
    assert_eq!(floor(&world), [1]);
    world.pass(2 * DAY_MS);
    assert_eq!(floor(&world), [2]);
}

/// RECEIPT-4: mail that follows after the ladder of what went before was forgotten is proved all the same.
#[test]
fn mail_after_a_long_silence_is_proved() {
    let mut world = chain();
    let consumer = world.open_consumer(2, "orders", 10);
    for _ in 0..3 {
        let id = world.send(0, 2, &[b"weekly"])[0];
        world.settle();
        assert_eq!(world.state(0, id), "delivered");
        world.acknowledge_all(2, consumer);
        world.pass(8 * DAY_MS);
    }
}

/// RECEIPT-4: a message that waited longer than the ladders around it are kept is proved all the same.
#[test]
fn mail_that_was_overtaken_for_a_week_is_proved() {
    let mut world = World::new(2, 29);
    world.hosts[1].policy.inbox_bytes = 10_000;
    world.kill(1);
    world.start(1);
    world.connect(0, 1);
    world.pass(1000);
    let ids: Vec<_> = [5_000, 9_000, 1_000].map(|size| world.send(0, 1, &[&vec![1; size]])[0]).to_vec();
    world.pass(2_000);
    assert_eq!((world.counts(1).1, world.state(0, ids[1]).as_str()), (2, "accepted"));
    world.kill(1);
    world.pass(8 * DAY_MS);
    world.start(1);
    world.connect(0, 1);
    world.settle();
    let consumer = world.open_consumer(1, "orders", 10);
    world.acknowledge_all(1, consumer);
    world.pass(10_000);
    assert_eq!(world.state(0, ids[1]), "delivered");
}

/// AGE-4: a relay lets go by its own count and ends nothing; the destination takes what comes, however old.
#[test]
fn relays_let_go_and_destinations_do_not_refuse() {
    let mut world = chain();
    world.kill(2);
    world.pass(1000);
    let mut message = submission(world.id(2), b"short");
    message.lifetime_ms = 5_000;
    world.submit(0, vec![message.clone()]);
    world.settle();
    world.kill(0);
    world.pass(4_900);
    assert_eq!(world.counts(1).2, 1);
    world.pass(200);
    assert_eq!(world.counts(1).2, 0);

    let mut world = pair();
    message.to = waypost_core::message::Recipient::Node(world.id(1));
    let id = world.submit(0, vec![message])[0].id;
    world.now.boot_ms += 60_000;
    world.now.wall_ms += 60_000;
    assert!(world.carry(), "the envelope was a minute on its way");
    assert_eq!(world.counts(1).1, 1);
    world.settle();
    let rungs = ladder(&mut world, 0, id);
    assert!(rungs.iter().any(|rung| rung == "delivered" || rung == "arrived late"), "{rungs:?}");
}

/// CANCEL-1: before a byte left, at once and for good; afterwards the receipt decides.
#[test]
fn a_cancellation_is_final_only_before_mail_left() {
    let mut world = chain();
    world.cut(0, 1);
    let id = world.send(0, 2, &[b"one"])[0];
    assert_eq!(cancel(&mut world, 0, id), "cancelled");
    assert_eq!(world.counts(0).0, 0);
    world.connect(0, 1);
    world.pass(1000);
    assert!(headers(&world, 0).is_empty() && words(&world, 0).iter().all(|word| word.ended.is_empty()));
    let id = world.send(0, 2, &[b"two"])[0];
    assert!(world.carry() && world.carry(), "the envelope is on its way");
    world.cut(0, 1);
    assert_eq!(cancel(&mut world, 0, id), "cancelled");
    world.settle();
    assert_eq!(world.counts(2).1, 1, "delivered in the meantime");
    world.connect(0, 1);
    world.settle();
    let rungs = ladder(&mut world, 0, id);
    assert!(rungs.contains(&"cancelled".to_owned()) && rungs.contains(&"arrived late".to_owned()), "{rungs:?}");
    let consumer = world.open_consumer(2, "orders", 1);
    world.settle();
    world.acknowledge_all(2, consumer);
    world.pass(5_000);
    let rungs = ladder(&mut world, 0, id);
    assert!(rungs.contains(&"consumed".to_owned()), "{rungs:?}");
    assert_eq!(world.state(0, id), "cancelled", "one ending, whatever became of it there");
    assert_eq!(cancel(&mut world, 0, id), "cancelled");
}

/// CANCEL-1: a request that names a message nobody knows is refused whole.
#[test]
fn a_request_to_cancel_is_refused_whole() {
    let mut world = chain();
    world.cut(0, 1);
    let id = world.send(0, 2, &[b"one"])[0];
    let request = RequestId(world.draw());
    world.input(0, Input::CancelAsked { request, ids: vec![id, MessageId([7; 16])] });
    let reply = world.hosts[0].replies.remove(&request);
    assert!(
        matches!(reply, Some(Reply::Refused(Refusal::UnknownMessage(unknown))) if unknown.0 == [7; 16]),
        "{reply:?}"
    );
    assert_eq!(world.state(0, id), "accepted");
}

/// QUOTA-3: what the inbox could never hold is rejected, signed, not tried for ever.
#[test]
fn what_never_fits_is_rejected() {
    let mut world = World::new(2, 23);
    world.hosts[1].policy.inbox_bytes = 1_000;
    world.kill(1);
    world.start(1);
    world.connect(0, 1);
    world.pass(1000);
    let id = world.send(0, 1, &[&[1; 2_000]])[0];
    world.pass(2_000);
    assert_eq!(world.state(0, id), "rejected: too large for the inbox");
}

fn open(world: &mut World, host: usize, channel: &str, max_deliveries: u32) -> ConsumerId {
    let consumer = ConsumerId(world.draw());
    let channel = channel.parse().unwrap();
    let opened = Input::ConsumerOpened { consumer, uid: 0, channel, lease_ms: 1_000, max_deliveries };
    world.round(host, vec![opened, Input::CreditGranted { consumer, messages: 10 }]);
    consumer
}

/// CONSUME-2: what is acknowledged leaves the inbox and the sender learns it; what is not known is confirmed as well.
#[test]
fn an_acknowledged_message_is_consumed() {
    let mut world = pair();
    let id = world.send(0, 1, &[b"one"])[0];
    world.settle();
    let consumer = open(&mut world, 1, "orders", 0);
    world.input(1, Input::Acknowledged { consumer, deliveries: vec![1, 99] });
    assert!(world.hosts[1].settled.contains(&1) && world.hosts[1].settled.contains(&99));
    world.input(1, Input::Acknowledged { consumer, deliveries: vec![1] });
    world.pass(100);
    assert_eq!((world.counts(1).1, world.state(0, id).as_str()), (0, "consumed"));
}

/// CONSUME-4: what is rejected, or came too often, lies in the dead-letter channel and the sender learns why.
#[test]
fn dead_letters_are_kept_and_told() {
    let mut world = pair();
    let ids = world.send(0, 1, &[b"bad", b"slow"]);
    world.settle();
    let consumer = open(&mut world, 1, "orders", 2);
    let delivery = world.hosts[1].deliveries[&consumer][0].delivery;
    world.input(1, Input::Refused { consumer, delivery, reason: String::new() });
    world.pass(5_000);
    assert_eq!(world.hosts[1].deliveries[&consumer].len(), 3, "the second came twice");
    assert_eq!(world.state(0, ids[0]), "refused: refused by the application");
    assert_eq!(world.state(0, ids[1]), "dead-lettered: delivered too often");
    let dead = open(&mut world, 1, "dead.orders", 0);
    assert_eq!(world.received(1, dead), [&b"bad"[..], b"slow"]);
}

fn dead(world: &mut World, channel: Option<&str>) -> Vec<DeadLetter> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let request = RequestId(world.draw());
        let channel = channel.map(|name| name.parse().unwrap());
        world.input(1, Input::DeadAsked { request, channel, after });
        let Some(Reply::Dead { letters, next }) = world.hosts[1].replies.remove(&request) else { panic!("no list") };
        all.extend(letters);
        after = next;
        if after.is_none() {
            return all;
        }
    }
}

fn settle_dead(world: &mut World, letters: &[DeadLetter], is_retried: bool) -> Vec<MessageId> {
    let request = RequestId(world.draw());
    let letters = letters.iter().map(|letter| (letter.place, letter.id)).collect();
    world.input(1, Input::DeadSettled { request, letters, is_retried });
    match world.hosts[1].replies.remove(&request) {
        Some(Reply::DeadSettled(done)) => done,
        other => panic!("{other:?}"),
    }
}

/// CONSUME-4: what failed the last time it may is dead with that failure, whether a consumer comes again or not.
#[test]
fn the_last_failure_makes_a_dead_letter() {
    let mut world = pair();
    world.send(0, 1, &[b"bad"]);
    world.settle();
    let consumer = open(&mut world, 1, "orders", 2);
    world.input(1, Input::Nacked { consumer, delivery: 1, delay_ms: 0 });
    assert!(dead(&mut world, None).is_empty(), "once more is allowed");
    world.input(1, Input::Nacked { consumer, delivery: 2, delay_ms: 60_000 });
    world.input(1, Input::ConsumerClosed { consumer });
    let letters = dead(&mut world, None);
    assert_eq!((letters.len(), letters[0].deliveries, letters[0].reason.as_str()), (1, 2, "delivered too often"));
}

/// CONSUME-5: a dead letter tells why, also after a restart; it comes once more, or goes, and is never both.
#[test]
fn dead_letters_are_listed_retried_and_dropped() {
    let mut world = pair();
    let bodies: Vec<Vec<u8>> = (0..150u8).map(|number| vec![number; 10]).collect();
    let ids = world.send(0, 1, &bodies.iter().map(Vec::as_slice).collect::<Vec<_>>());
    world.settle();
    let consumer = world.open_consumer(1, "orders", 1000);
    let held: Vec<u64> = world.hosts[1].deliveries[&consumer].iter().map(|delivery| delivery.delivery).collect();
    for delivery in held {
        world.input(1, Input::Refused { consumer, delivery, reason: "no such article".to_owned() });
    }
    world.input(1, Input::ConsumerClosed { consumer });
    world.kill(1);
    world.start(1);
    world.connect(0, 1);
    world.settle();
    let letters = dead(&mut world, None);
    assert_eq!(letters.iter().map(|letter| letter.id).collect::<Vec<_>>(), ids, "all, once, over several pages");
    let first = &letters[0];
    assert_eq!((first.channel.as_str(), first.deliveries, first.from), ("orders", 1, world.id(0)));
    assert_eq!(first.reason, "refused by the application: no such article");
    assert_eq!((first.died_at_ms, first.size), (world.now.wall_ms, 10));
    assert_eq!((dead(&mut world, Some("orders")).len(), dead(&mut world, Some("order")).len()), (150, 0));

    let reader = world.open_consumer(1, "dead.orders", 1);
    assert_eq!(settle_dead(&mut world, &letters[..3], true), [ids[1], ids[2]], "the first is in somebody's hands");
    world.input(1, Input::ConsumerClosed { consumer: reader });
    assert_eq!(settle_dead(&mut world, &letters[..4], false), [ids[0], ids[3]], "what was retried is no dead letter");
    assert_eq!((dead(&mut world, None).len(), world.counts(1).1), (146, 148));
    // Living mail is no dead letter, wherever somebody says that it lies.
    let places = world.hosts[1].kv.rows().filter(|(of, ..)| *of == Table::Queue);
    let places = places.map(|(_, key, _)| QueueKey::decode(key).unwrap());
    let living = places.filter(|place| place.0 != first.place.0).zip([ids[1], ids[2]]);
    let living: Vec<_> = living.map(|(place, id)| DeadLetter { place, id, ..first.clone() }).collect();
    assert_eq!((living.len(), settle_dead(&mut world, &living, false)), (2, vec![]));
    let again = world.open_consumer(1, "orders", 1000);
    assert_eq!(world.received(1, again), [bodies[1].clone(), bodies[2].clone()]);
    assert!(world.hosts[1].deliveries[&again].iter().all(|delivery| delivery.deliveries == 1));
    world.acknowledge_all(1, again);
    world.pass(1000);
    assert_eq!((world.counts(1).1, world.state(0, ids[3]).as_str()), (146, "refused: refused by the application"));
}

/// IDEM-2: a key names its message for seven days after the ending, and then no longer.
#[test]
fn a_key_is_kept_for_seven_days() {
    let mut world = pair();
    let mut message = submission(world.id(1), b"once");
    message.idempotency_key = Some("k".to_owned());
    let first = world.submit(0, vec![message.clone()])[0].id;
    world.pass(7 * DAY_MS - 1_000);
    assert!(world.submit(0, vec![message.clone()])[0].repeated);
    world.pass(2_000);
    let again = &world.submit(0, vec![message])[0];
    assert!(!again.repeated && again.id != first);
}

/// IDEM-2: the last fragment of a body may end long after the first; its key and ladder are kept for seven days from then.
#[test]
fn a_key_of_a_body_is_kept_for_seven_days_after_its_last_fragment() {
    let mut world = pair();
    let mut message = submission(world.id(1), b"");
    message.idempotency_key = Some("k".to_owned());
    let id = world.send_streamed(0, message.clone(), &vec![7; 3 * limits::FRAGMENT]);
    let open =
        |world: &World| stored::Message::decode(rows(world, 0, Table::Message)[0].clone()).unwrap().open_fragments;
    while open(&world) == 3 {
        assert!(world.carry());
    }
    assert!(open(&world) > 0, "the way is cut in the middle");
    world.cut(0, 1);
    world.pass(6 * DAY_MS);
    world.connect(0, 1);
    world.settle();
    assert_eq!(world.state(0, id), "delivered");
    world.pass(7 * DAY_MS - 1_000);
    assert_eq!((world.state(0, id).as_str(), rows(&world, 0, Table::Idempotency).len()), ("delivered", 1));
    assert_eq!(world.send_streamed(0, message, &vec![7; 3 * limits::FRAGMENT]), id);
    world.pass(2_000);
    for table in [Table::Message, Table::Idempotency, Table::Envelope, Table::Contents] {
        assert!(rows(&world, 0, table).is_empty(), "{table:?}");
    }
}

/// TRACE-3: what has not ended after four hours says so on its ladder, also after a start and when it has ended.
#[test]
fn a_delay_is_noted_on_the_ladder() {
    let mut world = chain();
    world.kill(2);
    world.pass(1_000);
    let mut short = submission(world.id(2), b"short");
    short.lifetime_ms = 3_600_000;
    let short = world.submit(0, vec![short])[0].id;
    let (slow, quick) = (world.send(0, 2, &[b"slow"])[0], world.send(0, 1, &[b"quick"])[0]);
    world.pass(limits::DELAY_NOTICE_MS - 1_000);
    assert_eq!(ladder(&mut world, 0, slow), ["accepted", "held"]);
    world.pass(2_000);
    let trace = world.trace(0, slow);
    let notice = trace.ladder.iter().find(|rung| rung.state == "delayed: not delivered within 4h").unwrap();
    assert_eq!((notice.at_ms - trace.ladder[0].at_ms, trace.state.as_str()), (limits::DELAY_NOTICE_MS, "held"));
    world.kill(0);
    world.now.boot_id = [9; 16];
    world.start(0);
    assert_eq!(ladder(&mut world, 0, slow).len(), 3, "what was told stays, though a reboot may take time back");
    world.start(2);
    world.connect(0, 1);
    world.connect(1, 2);
    world.settle();
    assert_eq!(
        ladder(&mut world, 0, slow),
        ["accepted", "held", "delayed: not delivered within 4h", "delivered"],
        "it stays when the message has ended"
    );
    world.pass(DAY_MS);
    assert_eq!(ladder(&mut world, 0, quick), ["accepted", "delivered"]);
    assert_eq!(ladder(&mut world, 0, short), ["accepted", "held", "expired"]);
}

/// START-3, BODY-2: what streamed in when the node died was never accepted, and leaves nothing behind.
#[test]
fn half_a_body_is_thrown_away() {
    let mut world = pair();
    let (stream, request) = (StreamId(world.draw()), RequestId(world.draw()));
    let message = submission(world.id(1), b"");
    world.input(0, Input::BodyBegun { stream, request, uid: 0, message });
    world.input(0, Input::BodyGrew { stream, bytes: vec![1; limits::FRAGMENT].into() });
    assert!(!rows(&world, 0, Table::Body).is_empty());
    world.kill(0);
    world.start(0);
    assert!(rows(&world, 0, Table::Body).is_empty() && rows(&world, 0, Table::Stage).is_empty());
    assert_eq!(world.counts(0), (0, 0, 0));
}

/// START-4: a data directory of another network is refused.
#[test]
fn another_networks_mail_is_not_opened() {
    let mut world = pair();
    world.kill(0);
    let host = &world.hosts[0];
    let key = NodeKey::from_seed(&host.key.seed());
    let identity =
        Identity { key, network: NetworkId([7; 32]), chain: Vec::new(), proofs: Arc::default(), seed: [1; 32] };
    assert!(Engine::recover(identity, host.policy.clone(), &host.kv, world.now).is_err());
}

fn ordered(world: &World, to: usize, body: &[u8], class: Class) -> waypost_core::message::Submission {
    let mut message = submission(world.id(to), body);
    message.order_key = Some("k".to_owned());
    message.class = class;
    message
}

/// ORDER-4: what lies in the inbox and waits does not keep out what it waits for, be that together larger than the inbox.
#[test]
fn what_waits_does_not_keep_out_its_predecessor() {
    for sizes in [vec![2_900; 5], vec![6_000]] {
        let mut world = World::new(2, 41);
        world.hosts[1].policy.inbox_bytes = 10_000;
        world.kill(1);
        world.start(1);
        world.connect(0, 1);
        world.pass(1_000);
        let before = sizes.iter().map(|size| ordered(&world, 1, &vec![1; *size], Class::Normal)).collect();
        world.submit(0, before);
        world.tamper(|_, _, frame| !matches!(&frame.kind, Some(Kind::Envelope(_))));
        world.submit(0, vec![ordered(&world, 1, &[2; 4_500], Class::Urgent)]);
        world.settle();
        assert_eq!(world.counts(1).1, 1, "the last came first");
        world.cut(0, 1);
        world.connect(0, 1);
        world.pass(10_000);
        let consumer = world.open_consumer(1, "orders", 10);
        for _ in 0..=sizes.len() {
            world.acknowledge_all(1, consumer);
            world.pass(1_000);
        }
        let came: Vec<usize> = world.received(1, consumer).iter().map(Bytes::len).collect();
        assert_eq!(came, [sizes, vec![4_500]].concat());
    }
}

/// ORDER-1, ORDER-2, ORDER-3: a message under a key comes when the one before it has left the inbox, though it came
/// first and on a faster class; what has no key does not wait.
#[test]
fn order_is_kept_under_a_key() {
    let mut world = pair();
    world.submit(0, vec![ordered(&world, 1, b"first", Class::Bulk)]);
    world.submit(0, vec![ordered(&world, 1, b"second", Class::Urgent)]);
    world.send(0, 1, &[b"free"]);
    world.tamper(|_, _, frame| {
        let bulk = |envelope: &hop::Envelope| Header::decode(&envelope.header).unwrap().name.flow.class == Class::Bulk;
        !matches!(&frame.kind, Some(Kind::Envelope(envelope)) if bulk(envelope))
    });
    world.settle();
    let consumer = world.open_consumer(1, "orders", 10);
    assert_eq!(world.received(1, consumer), [&b"free"[..]], "the first was lost on its way");
    world.cut(0, 1);
    world.connect(0, 1);
    world.settle();
    assert_eq!(world.received(1, consumer), [&b"free"[..], b"first"]);
    world.acknowledge_all(1, consumer);
    world.settle();
    assert_eq!(world.received(1, consumer), [&b"free"[..], b"first", b"second"]);
}

/// ORDER-4: at the end of its lifetime a message comes without its predecessor and says so.
#[test]
fn order_is_given_up_with_the_lifetime() {
    let mut world = pair();
    world.submit(0, vec![ordered(&world, 1, b"first", Class::Bulk)]);
    let mut second = ordered(&world, 1, b"second", Class::Urgent);
    second.lifetime_ms = 5_000;
    world.submit(0, vec![second]);
    while world.counts(1).1 == 0 {
        assert!(world.carry(), "urgent mail is carried behind");
        world.tamper(|_, _, frame| {
            let class = |envelope: &hop::Envelope| Header::decode(&envelope.header).unwrap().name.flow.class;
            !matches!(&frame.kind, Some(Kind::Envelope(envelope)) if class(envelope) == Class::Bulk)
        });
    }
    let consumer = world.open_consumer(1, "orders", 10);
    world.acknowledge_all(1, consumer);
    world.pass(10_000);
    let unproven = |delivery: &waypost_core::engine::effect::Delivery| {
        delivery.headers.contains(&("waypost-order".to_owned(), "unproven".to_owned()))
    };
    let second = world.hosts[1].deliveries[&consumer].iter().find(|delivery| delivery.body == "second");
    assert!(second.is_some());
    let first = world.hosts[1].deliveries[&consumer].iter().any(|delivery| delivery.body == "first");
    assert_eq!(unproven(second.unwrap()), !first);
}

/// DELAY-1, DELAY-2: accepted at once, sent when due, its lifetime counted from there; CANCEL-1: or never.
#[test]
fn a_delayed_message_goes_when_it_is_due() {
    let mut world = pair();
    let mut message = submission(world.id(1), b"later");
    (message.delay_ms, message.lifetime_ms) = (60_000, 10_000);
    let ids: Vec<_> = (0..2).map(|_| world.submit(0, vec![message.clone()])[0].id).collect();
    assert_eq!((world.counts(0).0, world.state(0, ids[0]).as_str()), (2, "accepted"));
    assert!(world.ask_trace(0, ids[0], Some(waypost_core::engine::input::Level::Delivered)).is_none());
    assert_eq!(cancel(&mut world, 0, ids[1]), "cancelled");
    world.pass(59_000);
    world.kill(0);
    world.start(0);
    world.connect(0, 1);
    world.settle();
    assert!(headers(&world, 0).is_empty(), "not before its time");
    world.pass(2_000);
    assert_eq!((world.counts(1).1, world.state(0, ids[0]).as_str()), (1, "delivered"));
}

/// CANCEL-1: a delayed message for this node itself is cancelled and not delivered before its time.
#[test]
fn a_delayed_message_to_oneself_is_cancelled() {
    let mut world = pair();
    let mut message = submission(world.id(0), b"later");
    message.delay_ms = 60_000;
    let id = world.submit(0, vec![message])[0].id;
    assert_eq!(cancel(&mut world, 0, id), "cancelled");
    world.pass(61_000);
    assert_eq!((world.counts(0), world.state(0, id).as_str()), ((0, 0, 0), "cancelled"));
}

/// ORDER-2, WORD-3: what follows a message to oneself that was cancelled before it came does not wait for it.
#[test]
fn what_follows_cancelled_mail_to_oneself_comes() {
    let mut world = pair();
    let mut message = submission(world.id(0), b"first");
    message.order_key = Some("key".to_owned());
    // Of another class, it is of a flow of which nothing ever came in.
    let later = waypost_core::message::Submission { delay_ms: 60_000, class: Class::Bulk, ..message.clone() };
    let id = world.submit(0, vec![later])[0].id;
    assert_eq!(cancel(&mut world, 0, id), "cancelled");
    let consumer = world.open_consumer(0, "orders", 1);
    world.submit(0, vec![message]);
    world.pass(1000);
    assert_eq!(world.hosts[0].deliveries[&consumer].len(), 1);
}

/// RECEIPT-7: a settlement whose receipt a crash swallowed is told after the start.
#[test]
fn a_settlement_is_told_after_a_crash() {
    let mut world = pair();
    let consumer = world.open_consumer(1, "orders", 1);
    let id = world.send(0, 1, &[b"x"])[0];
    world.pass(100);
    world.acknowledge_all(1, consumer);
    world.kill(1);
    world.start(1);
    world.connect(0, 1);
    world.pass(1000);
    assert_eq!(world.state(0, id), "consumed");
}
