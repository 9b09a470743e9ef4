//! The rules of one hop, each in a world of a few engines: frames, offers, custody, waves, facts.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod world;

use prost::Message as _;
use waypost_core::engine::KnownPeer;
use waypost_core::engine::effect::{Refusal, Reply, Stream};
use waypost_core::engine::input::{Input, RequestId};
use waypost_core::envelope::Header;
use waypost_core::hop::PeerFrame;
use waypost_core::hop::decode::FrameError;
use waypost_core::id::Class;
use waypost_core::limits;
use waypost_core::trust::{Label, NodeKey};
use waypost_proto::hop::frame::Kind;
use waypost_proto::hop::retry_later::Reason;
use waypost_proto::{hop, stored};
use world::{World, submission};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A — B — C, connected.
fn chain() -> World {
    let mut world = World::new(3, 11);
    world.connect(0, 1);
    world.connect(1, 2);
    world.pass(1000);
    world
}

fn envelopes(world: &World, from: usize) -> Vec<hop::Envelope> {
    let sent = world.log.iter().filter(|(by, ..)| *by == from);
    let envelope = |(_, _, frame): &(usize, usize, hop::Frame)| match &frame.kind {
        Some(Kind::Envelope(envelope)) => Some(envelope.clone()),
        _ => None,
    };
    sent.filter_map(envelope).collect()
}

fn headers(world: &World, from: usize) -> Vec<Header> {
    envelopes(world, from).iter().map(|envelope| Header::decode(&envelope.header).unwrap()).collect()
}

fn receipts(world: &World, from: usize, to: usize) -> Vec<hop::Attested> {
    let receipt = |(by, at, frame): &(usize, usize, hop::Frame)| match &frame.kind {
        Some(Kind::Receipt(receipt)) if (*by, *at) == (from, to) => Some(receipt.clone()),
        _ => None,
    };
    world.log.iter().filter_map(receipt).collect()
}

/// HOP-1, AGE-3, SIGN-2: a relay hands on what the source made, with its own number and the time it held it.
#[test]
fn a_relay_hands_on_bytes_and_adds_its_time() {
    let mut world = chain();
    world.kill(2);
    world.pass(1000);
    world.send(0, 2, &[b"one"]);
    world.send(0, 2, &[b"two"]);
    world.pass(5_000);
    world.start(2);
    world.connect(1, 2);
    world.settle();
    let (first, then) = (envelopes(&world, 0), envelopes(&world, 1));
    assert_eq!(first.iter().map(|envelope| envelope.transfer).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(then.iter().map(|envelope| envelope.transfer).collect::<Vec<_>>(), [1, 2]);
    for (first, then) in first.iter().zip(&then) {
        assert_eq!((&first.header, &first.sealed, &first.signature), (&then.header, &then.sealed, &then.signature));
        assert_eq!((first.age_ms, first.hops, first.wave), (0, 1, 1));
        assert_eq!((then.age_ms, then.hops, then.wave), (5_000, 2, 1));
    }
    assert_eq!(then.iter().map(|envelope| !envelope.chain.is_empty()).collect::<Vec<_>>(), [true, false]);
}

/// HOP-7: what nobody signed is bounded.
#[test]
fn unsigned_fields_are_capped() {
    let mut world = chain();
    world.send(0, 2, &[b"one"]);
    world.settle();
    let sent = envelopes(&world, 1)[0].clone();
    let decode = |change: &dyn Fn(&mut hop::Envelope)| {
        let mut envelope = sent.clone();
        change(&mut envelope);
        let frame = hop::Frame { kind: Some(Kind::Envelope(envelope)) };
        world.decode(2, frame, Stream::Class(Class::Normal))
    };
    for change in [
        (|envelope| envelope.wave = 0) as fn(&mut hop::Envelope),
        |envelope| envelope.wave = 65_536,
        |envelope| envelope.transfer = 0,
        |envelope| envelope.age_ms = 2 * limits::LIFETIME_MAX_MS + 1,
    ] {
        assert!(matches!(decode(&change), Err(FrameError::Bounds("envelope"))));
    }
    let decoded = decode(&|envelope| (envelope.hops, envelope.tickets) = (999, 999)).unwrap();
    let Some(PeerFrame::Envelope(arrived)) = decoded.frame else { panic!("no envelope") };
    assert_eq!((arrived.hops, arrived.tickets), (255, 64));
}

/// HOP-8: streams and bounds. HOP-9: what is not known is passed over.
#[test]
fn frames_keep_their_streams_and_bounds() {
    let mut world = chain();
    world.send(0, 2, &[b"one"]);
    world.settle();
    let sent = envelopes(&world, 1)[0].clone();
    let decode = |kind: Kind, stream| world.decode(2, hop::Frame { kind: Some(kind) }, stream);
    let (normal, bulk) = (Stream::Class(Class::Normal), Stream::Class(Class::Bulk));
    assert!(decode(Kind::Envelope(sent.clone()), normal).is_ok());
    assert!(decode(Kind::Envelope(sent.clone()), bulk).is_err());
    assert!(decode(Kind::Envelope(sent.clone()), Stream::Control).is_err());
    let credit = hop::Credit { class: 2, ..Default::default() };
    assert!(decode(Kind::Credit(credit), Stream::Control).is_ok());
    assert!(decode(Kind::Credit(credit), normal).is_err());
    assert!(decode(Kind::Credit(hop::Credit { class: 4, ..credit }), Stream::Control).is_err());
    let name = Some(Header::decode(&sent.header).unwrap().name.to_wire());
    let items = |count| vec![hop::Offered { name: name.clone(), wave: 1, bytes: 1 }; count];
    assert!(decode(Kind::Offer(hop::Offer { offer: 1, items: items(256) }), Stream::Control).is_ok());
    assert!(decode(Kind::Offer(hop::Offer { offer: 1, items: items(257) }), Stream::Control).is_err());
    let dropped = |count| Kind::Dropped(hop::Dropped { names: vec![name.clone().unwrap(); count] });
    assert!(decode(dropped(256), Stream::Control).is_ok() && decode(dropped(257), Stream::Control).is_err());
    let get = |count| Kind::Get(hop::Get { facts: vec![vec![1; 32].into(); count], receipts: None });
    assert!(decode(get(4096), Stream::Control).is_ok() && decode(get(4097), Stream::Control).is_err());
    let unknown = hop::Frame::decode([0xfa, 0x07, 2, 8, 1].as_slice()).unwrap();
    assert!(world.decode(2, unknown, Stream::Control).unwrap().frame.is_none());
}

/// HOP-3: small fresh mail goes at once, large mail is asked about first; HOP-4: and goes when it is wanted.
#[test]
fn what_is_large_is_offered_first() {
    let mut world = chain();
    world.send(0, 2, &[&[1; 60_000]]);
    world.settle();
    assert_eq!((world.count("envelope"), world.count("offer")), (2, 0));
    let consumer = world.open_consumer(2, "orders", 10);
    world.send(0, 2, &[&[2; 70_000]]);
    world.settle();
    assert_eq!((world.count("envelope"), world.count("offer"), world.count("want")), (4, 2, 2));
    assert_eq!(world.received(2, consumer).len(), 2);
}

/// HOP-2, HOP-5: what was in flight is offered on the next connection; what is had there is not sent twice, and is
/// as good as acknowledged.
#[test]
fn what_was_in_flight_is_offered_again() {
    let mut world = chain();
    world.kill(2);
    world.pass(1000);
    let id = world.send(0, 2, &[b"one"])[0];
    assert!(world.carry());
    world.cut(0, 1);
    assert_eq!((world.counts(1).2, world.state(0, id).as_str()), (1, "accepted"));
    world.connect(0, 1);
    world.settle();
    assert_eq!((world.count("envelope"), world.count("have")), (1, 1));
    assert_eq!(world.state(0, id), "held");
}

/// HOP-6, QUOTA-2: a full relay refuses before it keeps anything, and is asked again when it said, not sooner.
#[test]
fn a_full_relay_refuses_and_is_asked_again() {
    let mut world = World::new(3, 5);
    // Into an empty store with any room goes any envelope.
    world.hosts[1].policy.transit_bytes = 0;
    world.kill(1);
    world.start(1);
    world.connect(0, 1);
    world.connect(1, 2);
    world.pass(1000);
    let id = world.send(0, 2, &[&[7; 3_000]])[0];
    world.pass(900);
    assert_eq!((world.count("retry_later"), world.counts(1).2), (1, 0));
    world.pass(1_200);
    assert!(world.count("retry_later") >= 2, "asked again");
    assert!(world.count("retry_later") <= 3, "not at once");
    assert_eq!(world.state(0, id), "accepted");
    let mut policy = world.hosts[1].policy.clone();
    policy.transit_bytes = 1 << 20;
    world.hosts[1].policy = policy;
    world.kill(1);
    world.start(1);
    world.connect(0, 1);
    world.connect(1, 2);
    world.settle();
    assert_eq!(world.state(0, id), "delivered");
}

fn disk(world: &mut World, host: usize, free_bytes: u64) {
    world.input(host, Input::SpaceChanged { free_bytes, reserve_bytes: 1 << 20 });
}

fn refusals(world: &World, by: usize) -> Vec<i32> {
    let reason = |(from, _, frame): &(usize, usize, hop::Frame)| match &frame.kind {
        Some(Kind::RetryLater(later)) if *from == by => Some(later.reason),
        _ => None,
    };
    world.log.iter().filter_map(reason).collect()
}

/// DISK-3: with less free than the reserve a source accepts nothing new, names again what it accepted before, and lets
/// receipts end what it has; it accepts again once there is clearly more than the reserve.
#[test]
fn a_source_with_a_full_disk_drains() {
    let mut world = chain();
    world.cut(0, 1);
    let keyed = |world: &World, key: &str| {
        let mut message = submission(world.id(2), b"body");
        message.idempotency_key = Some(key.to_owned());
        vec![message]
    };
    let (before, after) = (keyed(&world, "before"), keyed(&world, "after"));
    let id = world.submit(0, before.clone())[0].id;
    disk(&mut world, 0, (1 << 20) - 1);
    assert!(world.status(0).disk_full);
    assert_eq!(world.submit(0, before)[0].id, id, "accepted before: only named again");
    let refused = |reply| matches!(reply, Reply::Refused(Refusal::DiskFull { retry_after_ms: 5000, .. }));
    assert!(refused(world.try_submit(0, after.clone())));
    world.connect(0, 1);
    world.pass(2000);
    assert_eq!((world.state(0, id).as_str(), world.counts(0).0), ("delivered", 0), "the outbox drains");
    disk(&mut world, 0, (1 << 20) + 1000);
    assert!(refused(world.try_submit(0, after.clone())), "just above the reserve: not yet");
    disk(&mut world, 0, 2 << 20);
    assert!(!world.status(0).disk_full);
    world.submit(0, after);
}

/// DISK-3: relay and destination refuse for their disk before they keep anything, and take it when there is room.
#[test]
fn a_full_disk_refuses_envelopes() {
    for full in [1, 2] {
        let mut world = chain();
        disk(&mut world, full, 1000);
        let id = world.send(0, 2, &[b"x"])[0];
        let large = world.send_large(0, 2, &vec![7; limits::FRAGMENT * 2]);
        world.pass(5000);
        let reasons = refusals(&world, full);
        assert!(!reasons.is_empty() && reasons.iter().all(|reason| *reason == Reason::DiskFull as i32), "{reasons:?}");
        assert_eq!((world.counts(full).1, world.counts(full).2), (0, 0), "nothing kept");
        disk(&mut world, full, 1 << 30);
        world.pass(5000);
        assert_eq!([world.state(0, id), world.state(0, large)], ["delivered", "delivered"]);
    }
}

/// DISK-3: a body whose first fragments found room is stopped when the disk fills, and goes on when there is room.
#[test]
fn a_disk_that_fills_stops_a_body_in_the_middle() {
    let mut world = chain();
    disk(&mut world, 2, 1 << 30);
    let id = world.send_large(0, 2, &vec![7; limits::FRAGMENT * 8]);
    while envelopes(&world, 1).len() < 2 {
        if !world.carry() {
            world.pass(10);
        }
    }
    assert!(refusals(&world, 2).is_empty());
    disk(&mut world, 2, 1000);
    world.pass(3000);
    let sent = envelopes(&world, 1).len();
    world.pass(5000);
    assert_eq!(envelopes(&world, 1).len(), sent, "refused when it is offered, not when it has come");
    assert!(refusals(&world, 2).contains(&(Reason::DiskFull as i32)));
    assert_ne!(world.state(0, id), "delivered");
    disk(&mut world, 2, 1 << 30);
    world.pass(10_000);
    assert_eq!(world.state(0, id), "delivered");
}

/// DISK-3: between two measures a node takes no more than a third of what is above the reserve.
#[test]
fn what_is_accepted_between_two_measures_is_bounded() {
    let mut world = chain();
    world.cut(0, 1);
    disk(&mut world, 0, (1 << 20) + 600_000);
    let mut accepted = 0u64;
    loop {
        let message = submission(world.id(2), &[7; 10_000]);
        match world.try_submit(0, vec![message]) {
            Reply::Accepted(_) => accepted += 10_000,
            Reply::Refused(Refusal::DiskFull { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!((150_000..=200_000).contains(&accepted), "{accepted}");
    disk(&mut world, 0, (1 << 20) + 600_000);
    let message = submission(world.id(2), &[7; 10_000]);
    world.submit(0, vec![message]);
}

/// DISK-3: what is gone again takes room on the disk until that is measured.
#[test]
fn what_has_come_and_gone_between_two_measures_counts() {
    let mut world = chain();
    disk(&mut world, 0, (1 << 20) + 600_000);
    for _ in 0..21 {
        let message = submission(world.id(2), &[7; 10_000]);
        if !matches!(world.try_submit(0, vec![message]), Reply::Accepted(_)) {
            return;
        }
        world.pass(1000);
        assert_eq!(world.counts(0).0, 0, "the outbox is empty");
    }
    panic!("210,000 bytes were written and nothing refused");
}

/// DISK-3: the same for what neighbours send, at a relay and at a destination.
#[test]
fn what_arrives_between_two_measures_is_bounded() {
    for to in [1, 2] {
        let mut world = chain();
        world.kill(2);
        if to == 2 {
            world.start(2);
            world.connect(1, 2);
        }
        disk(&mut world, to, (1 << 20) + 600_000);
        for _ in 0..30 {
            world.send(0, 2, &[&[7; 10_000]]);
            world.settle();
        }
        let status = world.status(to);
        let taken = if to == 1 { status.transit.1 } else { status.inbox.1 };
        assert!((150_000..=200_000).contains(&taken), "{taken} at {to}");
        assert!(refusals(&world, to).contains(&(Reason::DiskFull as i32)));
    }
}

/// HOP-10: what is more urgent goes first, whenever it was accepted; within a class the order is that of acceptance.
#[test]
fn urgent_mail_overtakes() {
    let mut world = chain();
    let to = world.id(2);
    let of = |class, body: &[u8]| {
        let mut message = submission(to, body);
        message.class = class;
        vec![message]
    };
    let mut inputs = Vec::new();
    for class in [Class::Bulk, Class::Normal, Class::Urgent] {
        let request = waypost_core::engine::input::RequestId(world.draw());
        inputs.push(Input::Submitted { request, uid: 0, messages: of(class, b"x") });
    }
    world.round(0, inputs);
    world.settle();
    let classes: Vec<Class> = headers(&world, 0).iter().map(|header| header.name.flow.class).collect();
    assert_eq!(classes, Class::ALL);
}

/// HELLO-4: a newer session ends the older; what still comes in on the older is ignored.
#[test]
fn one_session_counts() {
    let mut world = chain();
    world.kill(2);
    world.pass(1000);
    let id = world.send(0, 2, &[b"one"])[0];
    world.connect(0, 1);
    assert!(world.carry(), "the envelope on the older session");
    assert_eq!(world.counts(1).2, 0);
    world.settle();
    assert_eq!((world.counts(1).2, world.state(0, id).as_str()), (1, "held"));
}

/// HELLO-2: a relay whose disk was rolled back to before it took custody is offered everything again.
#[test]
fn a_rolled_back_relay_is_offered_everything_again() {
    let mut world = chain();
    world.kill(2);
    world.pass(1000);
    let before = world.hosts[1].kv.clone();
    let id = world.send(0, 2, &[b"one"])[0];
    world.settle();
    assert_eq!(world.state(0, id), "held");
    world.kill(1);
    world.hosts[1].kv = before;
    world.start(1);
    assert_eq!(world.counts(1).2, 0);
    world.connect(0, 1);
    world.settle();
    assert_eq!(world.counts(1).2, 1);
}

/// CUSTODY-1: custody for another incarnation, or of what is not in flight, is ignored.
#[test]
fn custody_counts_only_for_what_is_in_flight() {
    let mut world = chain();
    world.kill(2);
    world.pass(1000);
    let id = world.send(0, 2, &[b"one"])[0];
    let custody = hop::Custody {
        incarnation: vec![9; 16].into(),
        class: 2,
        ranges: vec![hop::Range { first: 1, last: 100 }],
        ..Default::default()
    };
    world.inject(1, 0, Stream::Control, Kind::Custody(custody.clone()));
    assert!(world.carry() && world.carry());
    assert_eq!(world.state(0, id), "accepted", "of another incarnation");
    world.cut(0, 1);
    world.connect(0, 1);
    let mine = world.hosts[0].engine.as_ref().unwrap().own_hello().incarnation.to_bytes().to_vec();
    world.inject(1, 0, Stream::Control, Kind::Custody(hop::Custody { incarnation: mine.into(), ..custody }));
    for _ in 0..world.on_wire().count() {
        world.carry();
    }
    assert_eq!(world.state(0, id), "accepted", "it is offered, not in flight");
    world.settle();
    assert_eq!(world.state(0, id), "held");
}

/// CUSTODY-3, CUSTODY-4: a copy stands by at the giver, and is active again when the taker gave its own up.
#[test]
fn a_dropped_copy_is_replaced() {
    let mut world = chain();
    world.kill(2);
    world.pass(1000);
    world.send(0, 2, &[b"one"]);
    world.settle();
    let name = headers(&world, 0)[0].name.to_wire();
    assert_eq!(world.count("offer"), 0);
    world.inject(1, 0, Stream::Control, Kind::Dropped(hop::Dropped { names: vec![name] }));
    world.settle();
    assert_eq!(world.count("offer"), 1);
}

/// WAVE-3: a wave that no word names is not believed, so nobody can make a relay take again what it passed on.
#[test]
fn a_wave_without_a_word_is_not_believed() {
    let mut world = chain();
    world.send(0, 2, &[b"one"]);
    world.kill(2);
    world.settle();
    let name = Some(headers(&world, 0)[0].name.to_wire());
    let rows = |world: &World| {
        let of = |(table, _, _): &(waypost_core::store::kv::Table, &[u8], &bytes::Bytes)| {
            *table == waypost_core::store::kv::Table::Taken
        };
        let row = world.hosts[1].kv.rows().find(of).unwrap();
        stored::Wave::decode(row.2.clone()).unwrap().wave
    };
    assert_eq!(rows(&world), 1);
    let items = vec![hop::Offered { name, wave: 7, bytes: 100 }];
    world.inject(0, 1, Stream::Control, Kind::Offer(hop::Offer { offer: 99, items }));
    world.settle();
    assert_eq!((rows(&world), world.count("have")), (1, 1));
}

/// RETRY-2: tries are spaced up to an hour and never counted out. TRACE-2: the log of what happened stays short.
#[test]
fn tries_are_spaced_and_do_not_end() {
    let mut world = chain();
    world.kill(2);
    world.pass(1000);
    let id = world.send(0, 2, &[b"one"])[0];
    world.pass(4 * DAY_MS);
    let offers = world.count("offer");
    assert!((90..130).contains(&offers), "{offers} tries in 96 hours");
    let rows = world.hosts[0].kv.rows().filter(|(table, ..)| *table == waypost_core::store::kv::Table::Envelope);
    let row = stored::Envelope::decode(rows.map(|(_, _, row)| row.clone()).next().unwrap()).unwrap();
    assert_eq!((row.custody.len(), row.custody[0].event), (16, 2), "what happened first is kept");
    world.start(2);
    world.connect(1, 2);
    world.settle();
    assert_eq!(world.state(0, id), "delivered");
}

/// RECEIPT-5: an older receipt of the same incarnation changes nothing and is not handed on.
#[test]
fn an_older_receipt_is_ignored() {
    let mut world = chain();
    world.send(0, 2, &[b"one"]);
    world.settle();
    world.send(0, 2, &[b"two"]);
    world.settle();
    let seen = receipts(&world, 2, 1);
    assert!(seen.len() >= 2);
    let before = world.count("receipt");
    world.inject(2, 1, Stream::Control, Kind::Receipt(seen[0].clone()));
    world.settle();
    assert_eq!(world.count("receipt"), before + 1);
}

/// RECEIPT-4, SIGN-5: a receipt whose tags disagree ends the messages as damaged; one that names what was never given
/// out proves nothing.
#[test]
fn a_receipt_is_proof_only_if_its_tags_agree() {
    let mut world = chain();
    world.kill(1);
    world.connect(0, 2);
    world.pass(1000);
    let ids = world.send(0, 2, &[b"one", b"two"]);
    let flow = world.on_wire().find_map(|(_, _, frame)| match &frame.kind {
        Some(Kind::Envelope(envelope)) => Some(Header::decode(&envelope.header).unwrap().name.to_wire().flow),
        _ => None,
    });
    let receipt = |version, last| {
        let delivered = vec![hop::DeliveredRange { first: 1, last, tags: 77 }];
        let content = hop::ReceiptContent {
            flow: flow.clone().unwrap(),
            signing_incarnation: vec![8; 16].into(),
            version,
            word_incarnation: vec![0; 16].into(),
            floor: 1,
            delivered,
            ..Default::default()
        };
        let content = content.encode_to_vec();
        let signature = world.hosts[2].key.sign(Label::Receipt, world.network, &content).to_vec().into();
        let object = Some(hop::Signed { content: content.into(), signature });
        Kind::Receipt(hop::Attested { object, chain: Vec::new() })
    };
    let (beyond, wrong) = (receipt(1, 3), receipt(2, 2));
    // Of the running incarnation it would show a clone (rule EVIDENCE-1).
    world.kill(0);
    world.start(0);
    world.connect(0, 2);
    world.tamper(|_, _, _| false);
    world.inject(2, 0, Stream::Control, beyond);
    world.inject(2, 0, Stream::Control, wrong);
    assert!(world.carry());
    assert_eq!(world.state(0, ids[0]), "accepted");
    assert!(world.carry());
    assert_eq!(world.state(0, ids[0]), "damaged: outcome unknown");
    world.settle();
    assert_eq!(world.state(0, ids[1]), "damaged: outcome unknown", "the first ending stands");
}

/// FACT-3: a fact is told a moment after what it tells of; FACT-4: it is asked for and handed on as it was signed.
#[test]
fn facts_travel_as_signed() {
    let mut world = World::new(3, 3);
    world.pass(1000);
    world.connect(0, 1);
    world.connect(1, 2);
    world.settle();
    let of = |world: &World, host: usize, to: usize| -> Vec<hop::Signed> {
        let node = world.id(host);
        let fact = |(_, at, frame): &(usize, usize, hop::Frame)| match &frame.kind {
            Some(Kind::Fact(fact)) if *at == to => fact.object.clone(),
            _ => None,
        };
        let mine = |signed: &hop::Signed| {
            let content = hop::FactContent::decode(signed.content.clone()).unwrap();
            content.node.as_ref() == node.0.as_slice() && content.links.iter().any(|link| link.up)
        };
        world.log.iter().filter_map(fact).filter(mine).collect()
    };
    assert!(of(&world, 2, 1).is_empty(), "not in the same moment");
    world.pass(99);
    assert!(of(&world, 2, 1).is_empty());
    world.pass(1);
    let (near, far) = (of(&world, 2, 1), of(&world, 2, 0));
    assert!(!near.is_empty());
    assert_eq!(near, far, "the same bytes two hops away");
    let asked = world.count("fact");
    world.cut(0, 1);
    world.connect(0, 1);
    world.settle();
    assert_eq!(world.count("fact"), asked, "nobody asks for what it has");
}

/// HOP-11: on a connection on which nothing is answered what was in hand does not wait for ever.
#[test]
fn a_connection_without_answers_is_closed() {
    let mut world = World::new(2, 71);
    world.connect(0, 1);
    world.pass(1000);
    let id = world.send(0, 1, &[b"x"])[0];
    world.tamper(|_, _, _| false);
    world.pass(50_000);
    assert!(world.disconnects.is_empty());
    world.pass(20_000);
    assert_eq!(
        world.disconnects.iter().map(|(host, why)| (*host, *why)).collect::<Vec<_>>(),
        [(0, "it answers nothing")]
    );
    world.cut(0, 1);
    world.connect(0, 1);
    world.pass(1000);
    assert_eq!(world.state(0, id), "delivered");
}

/// DIAL-2: at its start a node knows its neighbours of before, also one that only ever dialled it, and where they listen.
#[test]
fn neighbours_and_where_they_listen_are_known_after_a_start() {
    let mut world = World::new(2, 13);
    let listens = "/ip4/192.0.2.1/tcp/4884".to_owned();
    world.input(0, Input::ListenAddressesChanged { addresses: vec![listens.clone()] });
    world.connect(0, 1);
    world.pass(1000);
    world.kill(1);
    world.start(1);
    let known = &world.hosts[1].engine.as_ref().unwrap().own_hello().known_peers;
    assert_eq!(*known, [KnownPeer { node: world.id(0), reached: vec![], told: vec![listens] }]);
}

/// Routes name every node that is known here, and every other for which mail waits.
#[test]
fn routes_name_whoever_mail_waits_for() {
    let mut world = chain();
    let stranger = NodeKey::from_seed(&[99; 32]).id();
    world.submit(0, vec![submission(stranger, b"one")]);
    let request = RequestId(world.draw());
    world.input(0, Input::RoutesAsked { request, to: None });
    let Some(Reply::Routes(routes)) = world.hosts[0].replies.remove(&request) else { panic!("no routes") };
    let to = |node| routes.iter().find(|route| route.to == node).map(|route| (route.next, route.waiting));
    assert_eq!(to(world.id(2)), Some((Some(world.id(1)), 0)), "C is reached through B");
    assert_eq!(to(stranger), Some((None, 1)));
    assert_eq!(routes.len(), 3);
}
