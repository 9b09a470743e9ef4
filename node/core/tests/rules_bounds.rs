//! Nothing grows without a bound and nothing hangs: what ends the rows of flows, what a full relay gives up, what becomes
//! of damaged rows, how much leaves at once. Where two hosts are enough there are two; `world` carries the frames.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod world;

use prost::Message as _;
use waypost_core::engine::effect::Stream;
use waypost_core::engine::input::Input;
use waypost_core::envelope::Header;
use waypost_core::id::Class;
use waypost_core::limits::DAY_MS;
use waypost_core::store::kv::{Batch, Kv as _, Table};
use waypost_core::trust::Label;
use waypost_proto::hop::{self, frame::Kind};
use waypost_proto::stored;
use world::{World, submission};

/// `count` hosts in a row, connected, their facts told.
fn row(count: usize, seed: u64) -> World {
    let mut world = World::new(count, seed);
    for host in 1..count {
        world.connect(host - 1, host);
    }
    world.pass(1000);
    world
}

fn rows(world: &World, host: usize, tables: &[Table]) -> Vec<Table> {
    world.hosts[host].kv.rows().map(|(table, ..)| table).filter(|table| tables.contains(table)).collect()
}

const OF_A_FLOW: [Table; 6] =
    [Table::FlowIndex, Table::TransitFlow, Table::Word, Table::Receipt, Table::Taken, Table::Standby];

fn own_flow(world: &World, host: usize) -> Option<stored::OutFlow> {
    let flow = world.hosts[host].kv.rows().find(|(table, ..)| *table == Table::OutFlow);
    flow.map(|(_, _, row)| stored::OutFlow::decode(row.clone()).unwrap())
}

/// Names that `from` told `to` it had dropped.
fn dropped(world: &World, from: usize, to: usize) -> Vec<hop::EnvelopeName> {
    let names = |(by, at, frame): &(usize, usize, hop::Frame)| match &frame.kind {
        Some(Kind::Dropped(dropped)) if (*by, *at) == (from, to) => dropped.names.clone(),
        _ => Vec::new(),
    };
    world.log.iter().flat_map(names).collect()
}

fn headers(world: &World, from: usize) -> Vec<Header> {
    let header = |(by, _, frame): &(usize, usize, hop::Frame)| match &frame.kind {
        Some(Kind::Envelope(envelope)) if *by == from => Header::decode(&envelope.header).ok(),
        _ => None,
    };
    world.log.iter().filter_map(header).collect()
}

fn restart_with_transit(world: &mut World, host: usize, bytes: u64) {
    world.kill(host);
    world.hosts[host].policy.transit_bytes = bytes;
    world.start(host);
}

// ---- what ends the rows of a flow ----

/// FLOW-7: a flow of which nothing is held, untold or heard leaves the relay after an hour, and goes on as before when
/// there is mail again.
#[test]
fn a_flow_nobody_speaks_of_leaves_the_relay() {
    let mut world = row(3, 1);
    let consumer = world.open_consumer(2, "orders", 10);
    world.send(0, 2, &[b"one"]);
    world.settle();
    world.acknowledge_all(2, consumer);
    world.pass(200_000);
    assert!(rows(&world, 1, &OF_A_FLOW).len() >= 2, "the flow is known for a while");
    world.pass(3_700_000);
    assert_eq!(rows(&world, 1, &OF_A_FLOW), []);
    let id = world.send(0, 2, &[b"two"])[0];
    world.settle();
    assert_eq!((world.state(0, id).as_str(), world.received(2, consumer).len()), ("delivered", 2));
}

/// FLOW-7: a receipt for a source that is away is kept for as long as mail usually lives, and no longer.
#[test]
fn a_receipt_waits_for_its_source() {
    let mut world = row(3, 2);
    world.kill(2);
    world.pass(1000);
    let mut message = submission(world.id(2), b"one");
    message.lifetime_ms = 60 * DAY_MS;
    let id = world.submit(0, vec![message])[0].id;
    world.settle();
    world.kill(0);
    world.start(2);
    world.connect(1, 2);
    world.pass(13 * DAY_MS);
    assert_eq!(rows(&world, 1, &[Table::Receipt]), [Table::Receipt]);
    world.pass(2 * DAY_MS);
    assert_eq!(rows(&world, 1, &OF_A_FLOW), []);
    world.start(0);
    world.connect(0, 1);
    world.pass(DAY_MS);
    assert_eq!(world.state(0, id), "delivered", "the source asks again");
}

/// HOP-6: what is refused leaves nothing behind, neither on a relay nor at the destination.
#[test]
fn a_refused_envelope_leaves_no_row() {
    let mut world = row(3, 3);
    // Not even one: into an empty store with any room goes any envelope.
    restart_with_transit(&mut world, 1, 0);
    world.connect(0, 1);
    world.connect(1, 2);
    world.pass(1000);
    world.send(0, 2, &[&[7; 3_000]]);
    world.pass(500);
    assert!(world.count("retry_later") > 0);
    assert_eq!(rows(&world, 1, &OF_A_FLOW), []);
}

/// WORD-3: an echo that was lost on its way is repaired by whoever has it: the relay that holds the receipt, or the
/// destination.
#[test]
fn a_lost_echo_is_repaired() {
    for keep_on_relay in [true, false] {
        let mut world = row(3, 4);
        let consumer = world.open_consumer(2, "orders", 10);
        world.send(0, 2, &[b"one"]);
        world.settle();
        world.acknowledge_all(2, consumer);
        world.pass(100_000);
        world.kill(0);
        world.start(0);
        world.connect(0, 1);
        // A receipt of another flow shows the destination's certificates on this connection.
        world.send(0, 2, &[b"two"]);
        world.settle();
        for _ in 0..30 {
            world.now.boot_ms += 100;
            for host in 0..3 {
                world.input(host, Input::Ticked);
            }
            loop {
                let lost = if keep_on_relay { 0 } else { 1 };
                world.tamper(|_, to, frame| to > lost || !matches!(frame.kind, Some(Kind::Receipt(_))));
                if !world.carry() {
                    break;
                }
            }
        }
        let flow = own_flow(&world, 0).unwrap();
        assert!(flow.closed && flow.echoed_version < flow.word_version, "the echo is lost");
        let held = rows(&world, 1, &[Table::Receipt]).len();
        assert_eq!(held, 1 + usize::from(keep_on_relay));
        world.pass(200_000);
        let flow = own_flow(&world, 0).unwrap();
        assert_eq!(flow.echoed_version, flow.word_version, "relay holds it: {keep_on_relay}");
    }
}

/// FLOW-4: a source forgets a flow of an earlier start when nothing of it is left to say: at once when its last word is
/// echoed, else when it has told it for as long as a ladder is kept.
#[test]
fn a_flow_that_is_over_leaves_its_source() {
    for destination_is_back in [true, false] {
        let mut world = row(2, 5);
        let consumer = world.open_consumer(1, "orders", 10);
        world.send(0, 1, &[b"one"]);
        world.settle();
        world.acknowledge_all(1, consumer);
        world.pass(8 * DAY_MS);
        assert_eq!(rows(&world, 0, &[Table::Envelope, Table::Contents, Table::Message]), [], "ladders are forgotten");
        assert!(own_flow(&world, 0).is_some(), "it may get more");
        world.kill(0);
        world.start(0);
        if destination_is_back {
            world.connect(0, 1);
            world.pass(70_000);
        } else {
            world.pass(6 * DAY_MS);
            assert!(own_flow(&world, 0).is_some(), "told for a while");
            world.kill(0);
            world.start(0);
            world.pass(2 * DAY_MS);
        }
        assert_eq!(rows(&world, 0, &[Table::OutFlow, Table::FlowIndex]), [], "echoed: {destination_is_back}");
    }
}

// ---- standby copies and transit ----

/// 0 - 1 - 2 - 3 with 3 away: what 0 sent lies active at 2 and stands by at 1, which has room for `bytes`.
fn held_before_the_last(count: usize, bytes: u64) -> (World, Vec<waypost_core::id::MessageId>) {
    let mut world = row(4, 6);
    restart_with_transit(&mut world, 1, bytes);
    world.connect(0, 1);
    world.connect(1, 2);
    world.kill(3);
    world.pass(1000);
    let mut ids = Vec::new();
    for number in 0..count {
        let size = 1_000 + number;
        ids.extend(world.send(0, 3, &[&vec![7; size]]));
        world.settle();
    }
    (world, ids)
}

/// CUSTODY-4, CUSTODY-3, P2: full transit gives up others' standby copies, oldest first, and tells who gave them; what
/// is in its custody stays, and everything arrives once.
#[test]
fn a_full_relay_gives_up_standby_copies() {
    let (mut world, ids) = held_before_the_last(6, 4_000);
    assert_eq!(world.count("retry_later"), 0, "nothing is refused for what stands by");
    let status = world.status(1);
    assert!(status.transit.1 <= 4_000 && status.standby == status.transit.0, "{status:?}");
    let names: Vec<u64> = dropped(&world, 1, 0).iter().map(|name| name.first).collect();
    assert_eq!(names, [1, 2, 3], "oldest first, each once");
    assert_eq!(rows(&world, 1, &[Table::Standby]).len() as u64, status.standby);
    assert_eq!(world.counts(2).2, 6, "what is in custody stays");
    let tries = headers(&world, 0).len();
    world.pass(1_000);
    assert_eq!(headers(&world, 0).len(), tries, "WAVE-2: not taken again in this wave");
    world.start(3);
    world.connect(2, 3);
    let consumer = world.open_consumer(3, "orders", 100);
    world.pass(10_000);
    assert_eq!(world.received(3, consumer).len(), 6);
    assert!(ids.iter().all(|id| world.state(0, *id) == "delivered"));
    assert_eq!((world.status(1).transit, world.status(1).standby), ((0, 0), 0));
    assert_eq!(rows(&world, 1, &[Table::Taken, Table::Standby, Table::Timer]).len(), 1, "only the flow's own timer");
}

/// CUSTODY-4: what a relay says that it has it does not give up in the same commit: somebody relies on it now.
#[test]
fn what_is_said_to_be_here_stays() {
    let (mut world, _) = held_before_the_last(6, 4_000);
    let name = hop::EnvelopeName { first: 4, ..dropped(&world, 1, 0)[0].clone() };
    let items = vec![hop::Offered { name: Some(name), wave: 1, bytes: 2_000 }];
    world.inject(0, 1, Stream::Control, Kind::Offer(hop::Offer { offer: 900, items }));
    world.send(0, 3, &[&[7; 1_000]]);
    world.carry_together(1);
    let kinds = |kind: fn(&Kind) -> bool| on_wire(&world, kind);
    assert_eq!(kinds(|kind| matches!(kind, Kind::Have(answer) if answer.offer == 900)), 1, "it has it");
    assert_eq!(kinds(|kind| matches!(kind, Kind::Dropped(_))), 0, "and keeps it");
}

/// CUSTODY-4: the relay's own custody is never given up for room: it refuses.
#[test]
fn active_copies_are_not_given_up() {
    let mut world = row(3, 7);
    restart_with_transit(&mut world, 1, 4_000);
    world.connect(0, 1);
    world.kill(2);
    world.pass(1000);
    for _ in 0..6 {
        world.send(0, 2, &[&[7; 1_000]]);
        world.settle();
    }
    assert!(world.count("retry_later") > 0 && dropped(&world, 1, 0).is_empty());
    assert_eq!((world.counts(1).2, world.status(1).standby), (3, 0));
}

/// CUSTODY-4: the source's copy is active again when it is told; a relay that holds nothing passes it on to whom it had
/// the envelope from, once.
#[test]
fn dropped_is_passed_on_towards_the_source() {
    let (mut world, _) = held_before_the_last(6, 4_000);
    let name = dropped(&world, 1, 0)[0].clone();
    let before = dropped(&world, 1, 0).len();
    for _ in 0..3 {
        world.inject(2, 1, Stream::Control, Kind::Dropped(hop::Dropped { names: vec![name.clone()] }));
        world.settle();
    }
    assert_eq!(dropped(&world, 1, 0).len(), before + 1);
    let offered = |world: &World| {
        let named = |(from, _, frame): &(usize, usize, hop::Frame)| match &frame.kind {
            Some(Kind::Offer(offer)) if *from == 0 => {
                offer.items.iter().filter(|item| item.name.as_ref() == Some(&name)).count()
            }
            _ => 0,
        };
        world.log.iter().map(named).sum::<usize>()
    };
    assert!(offered(&world) >= 1, "it is offered again");
}

/// QUOTA-5: mail whose next hop is away may fill seven eighths of transit; the rest is for what can go on.
#[test]
fn a_slice_of_transit_is_kept_for_what_can_go_on() {
    let mut world = row(4, 8);
    restart_with_transit(&mut world, 1, 16_000);
    world.connect(0, 1);
    world.connect(1, 3);
    world.kill(2);
    world.pass(1000);
    for _ in 0..20 {
        world.send(0, 2, &[&[7; 1_000]]);
        world.settle();
    }
    let filled = world.status(1).transit.1;
    assert!((12_000..=14_000).contains(&filled), "{filled}");
    let id = world.send(0, 3, &[&[7; 1_000]])[0];
    world.cut(1, 3);
    world.connect(1, 3);
    world.pass(5_000);
    assert_eq!(world.state(0, id), "delivered");
}

/// QUOTA-2: what is larger than transit passes also where mail waits for one who never comes; a second such waits.
#[test]
fn an_envelope_larger_than_transit_is_not_held_up_by_a_small_one() {
    let mut world = row(4, 10);
    restart_with_transit(&mut world, 1, 2_000);
    world.connect(0, 1);
    world.connect(1, 3);
    world.kill(2);
    world.pass(1000);
    world.send(0, 2, &[b"for one who is gone"]);
    world.settle();
    assert_eq!(world.counts(1).2, 1);
    world.cut(1, 3);
    for _ in 0..2 {
        world.send(0, 3, &[&[7; 9_000]]);
        world.pass(5_000);
    }
    let held = world.status(1).transit;
    assert!(held.0 == 2 && held.1 < 12_000, "{held:?}");
    world.cut(0, 1);
    world.connect(1, 3);
    world.pass(5_000);
    assert_eq!(world.counts(3).1, 1);
}

/// QUOTA-6: two relays that are full of mail for each other's side exchange it once they meet.
#[test]
fn full_relays_do_not_wait_for_each_other() {
    let mut world = row(4, 11);
    restart_with_transit(&mut world, 1, 4_000);
    restart_with_transit(&mut world, 2, 4_000);
    for (one, other) in [(0, 1), (1, 2), (2, 3)] {
        world.connect(one, other);
    }
    world.pass(1000);
    world.cut(1, 2);
    world.pass(1000);
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.extend(world.send(0, 3, &[&[7; 1_000]]).into_iter().map(|id| (0, id)));
        ids.extend(world.send(3, 0, &[&[7; 1_000]]).into_iter().map(|id| (3, id)));
        world.settle();
    }
    assert!(world.status(1).transit.1 > 2_500 && world.status(2).transit.1 > 2_500, "both are full");
    world.connect(1, 2);
    world.pass(120_000);
    for (host, id) in ids {
        assert_eq!(world.state(host, id), "delivered");
    }
}

/// QUOTA-6: mail on top for a node that has left keeps nobody waiting who is as near as that one was.
#[test]
fn what_lies_on_top_without_a_way_keeps_nobody_waiting() {
    let (sender, relay, leaver, absent, near) = (0, 1, 2, 3, 4);
    let mut world = World::new(5, 12);
    for host in [sender, leaver, absent, near] {
        world.connect(host, relay);
    }
    restart_with_transit(&mut world, relay, 4_000);
    for host in [sender, leaver, absent, near] {
        world.connect(host, relay);
    }
    world.pass(1000);
    world.cut(relay, absent);
    world.send(sender, absent, &[&[7; 1_000], &[7; 1_000], &[7; 1_000]]);
    world.pass(1000);
    let held = world.status(relay).transit.0;
    assert!(held > 0);
    world.send(sender, leaver, &[&[7; 1_000]]);
    while world.status(relay).transit.0 == held {
        assert!(world.carry(), "it never came");
    }
    world.cut(relay, leaver);
    world.pass(1000);
    assert!(world.status(relay).transit.1 > 4_000, "one lies on top");
    let id = world.send(sender, near, &[&[7; 1_000]])[0];
    world.pass(10_000);
    assert_eq!(world.state(sender, id), "delivered");
}

/// HELLO-2: custody names the commit that holds the envelopes, also when the round that acknowledges wrote nothing.
#[test]
fn custody_names_a_commit_that_exists() {
    let mut world = row(3, 9);
    world.kill(2);
    world.pass(1000);
    world.send(0, 2, &[b"one"]);
    world.settle();
    let sent = world.log.iter().rev().find_map(|(_, _, frame)| match &frame.kind {
        Some(Kind::Envelope(envelope)) => Some(envelope.clone()),
        _ => None,
    });
    let again = hop::Envelope { transfer: 2, ..sent.unwrap() };
    world.inject(0, 1, Stream::Class(Class::Normal), Kind::Envelope(again));
    assert!(world.carry());
    let custody = world.on_wire().find_map(|(_, _, frame)| match &frame.kind {
        Some(Kind::Custody(custody)) => Some(custody.durable_sequence),
        _ => None,
    });
    let row = world.hosts[1].kv.get(Table::Meta, b"counters").unwrap().unwrap();
    assert_eq!(custody, Some(stored::Counters::decode(row).unwrap().commit_sequence));
}

// ---- what is damaged ----

fn lose_bodies(world: &mut World, host: usize) {
    let bodies = world.hosts[host].kv.rows().filter(|(table, ..)| *table == Table::Body);
    let batch: Batch = bodies.map(|(table, key, _)| ((table, key.to_vec()), None)).collect();
    assert!(!batch.is_empty());
    world.hosts[host].kv.commit(batch).unwrap();
}

/// DAMAGE-1, P3: a message whose body is gone ends, with its reason; what comes behind it goes on.
#[test]
fn a_lost_body_ends_its_message() {
    for size in [100, 100_000] {
        let mut world = World::new(2, 10);
        let lost = world.send(0, 1, &[&vec![7; size]])[0];
        lose_bodies(&mut world, 0);
        let whole = world.send(0, 1, &[b"whole"])[0];
        world.connect(0, 1);
        world.pass(1_000);
        assert_eq!(world.state(0, lost), "damaged: its body is missing on this node's disk");
        assert_eq!((world.state(0, whole).as_str(), world.counts(0).0), ("delivered", 0));
        assert_eq!(rows(&world, 0, &[Table::Due, Table::Body]), []);
    }
}

/// DAMAGE-1: what another node has had in custody may still arrive: its body gone, it ends with its lifetime, not before.
#[test]
fn a_lost_body_that_was_handed_on_may_still_arrive() {
    let mut world = row(3, 11);
    world.kill(2);
    world.pass(1000);
    let before = world.hosts[1].kv.clone();
    let id = world.send(0, 2, &[b"one"])[0];
    world.settle();
    lose_bodies(&mut world, 0);
    world.kill(1);
    world.hosts[1].kv = before;
    world.start(1);
    world.connect(0, 1);
    world.pass(DAY_MS);
    assert!(world.count("want") > 0, "it was asked for");
    assert_eq!(world.state(0, id), "held");
    world.pass(14 * DAY_MS);
    assert_eq!(world.state(0, id), "expired");
}

/// CUSTODY-4: a relay that lost a body says so to who gave it, and takes the envelope again at once.
#[test]
fn a_body_lost_on_a_relay_is_given_again() {
    let mut world = row(3, 12);
    world.kill(2);
    world.pass(1000);
    let id = world.send(0, 2, &[b"one"])[0];
    world.settle();
    lose_bodies(&mut world, 1);
    world.start(2);
    world.connect(1, 2);
    world.pass(1_000);
    assert_eq!(dropped(&world, 1, 0).len(), 1);
    assert_eq!((world.state(0, id).as_str(), world.counts(1).2), ("delivered", 0));
}

/// SEAL-7: what is sealed in a way the destination does not know is rejected and signed, not asked for again and again.
#[test]
fn what_cannot_be_opened_is_rejected() {
    let mut world = row(2, 13);
    let id = world.send(0, 1, &[b"one"])[0];
    let (key, network) = (waypost_core::trust::NodeKey::from_seed(&world.hosts[0].key.seed()), world.network);
    world.tamper(|_, _, frame| {
        if let Some(Kind::Envelope(envelope)) = &mut frame.kind {
            let header = Header { suite: 9, ..Header::decode(&envelope.header).unwrap() }.encode();
            let part = [header.as_slice(), blake3::hash(&envelope.sealed).as_bytes()].concat();
            envelope.signature = key.sign(Label::Envelope, network, &part).to_vec().into();
            envelope.header = header.to_vec().into();
        }
        true
    });
    world.pass(10_000);
    assert_eq!(world.state(0, id), "rejected: sealed to a key or in a suite unknown there");
    assert_eq!((world.count("envelope"), world.count("retry_later")), (1, 0));
}

// ---- what a neighbour may do ----

/// CUSTODY-2: custody is of what came and of nothing else, also when the first envelope of a connection is lost.
#[test]
fn custody_is_of_what_came() {
    let mut world = row(2, 14);
    let first = world.send(0, 1, &[b"one"])[0];
    assert_eq!(on_wire(&world, |kind| matches!(kind, Kind::Envelope(_))), 1);
    world.tamper(|_, _, frame| !matches!(frame.kind, Some(Kind::Envelope(_))));
    let second = world.send(0, 1, &[b"two"])[0];
    world.settle();
    assert_eq!((world.state(0, first).as_str(), world.state(0, second).as_str()), ("accepted", "delivered"));
}

/// HOP-3, RETRY-3: what was refused is offered, not sent, and ever more seldom, also over a new connection.
#[test]
fn refusals_are_waited_out_longer_and_longer() {
    let mut world = row(3, 15);
    restart_with_transit(&mut world, 1, 0);
    world.connect(0, 1);
    world.connect(1, 2);
    world.pass(1000);
    let id = world.send(0, 2, &[&[7; 3_000]])[0];
    world.pass(600_000);
    assert_eq!(world.count("envelope"), 1, "sent whole once");
    let refusals = world.count("retry_later");
    assert!((10..=16).contains(&refusals), "{refusals} in ten minutes");
    world.cut(0, 1);
    world.connect(0, 1);
    world.settle();
    assert_eq!(world.count("retry_later"), refusals, "a new connection forgives silence only");
    restart_with_transit(&mut world, 1, 1 << 20);
    world.connect(0, 1);
    world.connect(1, 2);
    world.settle();
    assert_eq!(world.state(0, id), "delivered");
}

// ---- how much at once ----

/// A source that was started `count` times, each time with a message for the last host, which was away.
fn many_flows(mut world: World, count: usize) -> World {
    let last = world.hosts.len() - 1;
    for _ in 0..count {
        world.kill(0);
        world.start(0);
        world.send(0, last, &[b"x"]);
    }
    world
}

fn out_flows(world: &World) -> Vec<stored::OutFlow> {
    let flows = world.hosts[0].kv.rows().filter(|(table, ..)| *table == Table::OutFlow);
    flows.map(|(_, _, row)| stored::OutFlow::decode(row.clone()).unwrap()).collect()
}

fn on_wire(world: &World, kind: impl Fn(&Kind) -> bool) -> usize {
    world.on_wire().filter(|(_, _, frame)| frame.kind.as_ref().is_some_and(&kind)).count()
}

/// PACE-1: words that are due together go window after window, and all of them go.
#[test]
fn words_are_spread() {
    // They have met: a destination that still asks for its own receipts takes no mail, and what it is told meanwhile is
    // told again after a minute.
    let mut world = many_flows(row(2, 16), 300);
    world.connect(0, 1);
    world.settle();
    let told = world.count("word");
    let is_word = |kind: &Kind| matches!(kind, Kind::Word(_));
    // A second after the start the closed flows tell their words, mail or not.
    world.now.boot_ms += 2_000;
    world.input(0, Input::Ticked);
    let first = on_wire(&world, is_word);
    assert!((100..=128).contains(&first), "{first}");
    for _ in 0..50 {
        world.input(0, Input::Ticked);
    }
    assert_eq!(on_wire(&world, is_word), first, "rounds are no windows");
    world.now.boot_ms += 100;
    world.input(0, Input::Ticked);
    assert_eq!(on_wire(&world, is_word), 2 * first);
    world.pass(10_000);
    assert!(world.count("word") >= told + 299, "none is lost");
    let untold = out_flows(&world).iter().filter(|flow| flow.closed && flow.echoed_version < flow.word_version).count();
    assert_eq!(untold, 0);
}

/// PACE-2: a settlement whose way ended on a relay goes the new way, though nobody asks for it and no neighbour is new.
#[test]
fn a_settlement_finds_the_new_way() {
    let mut world = row(4, 23);
    let consumer = world.open_consumer(2, "orders", 10);
    let id = world.send(0, 2, &[b"one"])[0];
    world.settle();
    world.cut(1, 2);
    world.acknowledge_all(2, consumer);
    // The source's word, which might bring an answer, goes as far as the first relay, and ends there.
    world.pass(100_000);
    world.kill(1);
    world.connect(0, 3);
    world.pass(1_000);
    assert_eq!(world.state(0, id), "delivered");
    world.pass(120_000);
    assert_eq!(world.state(0, id), "consumed");
}

/// PACE-1: facts that were asked for together come window after window, and all of them come.
#[test]
fn facts_are_spread() {
    let mut world = World::new(2, 17);
    world.kill(0);
    let nodes: Vec<[u8; 32]> = (0..1000u32).map(|number| *blake3::hash(&number.to_be_bytes()).as_bytes()).collect();
    let fact = |node: &[u8; 32]| {
        let content =
            hop::FactContent { node: node.to_vec().into(), incarnation: vec![1; 16].into(), ..Default::default() };
        let row = stored::Signed { content: content.encode_to_vec().into(), ..Default::default() };
        ((Table::Fact, node.to_vec()), Some(row.encode_to_vec().into()))
    };
    let batch: Batch = nodes.iter().map(fact).collect();
    world.hosts[0].kv.commit(batch).unwrap();
    world.start(0);
    world.connect(0, 1);
    world.tamper(|_, _, _| false);
    let facts = nodes.iter().map(|node| node.to_vec().into()).collect();
    world.inject(1, 0, Stream::Control, Kind::Get(hop::Get { facts, ..Default::default() }));
    assert!(world.carry());
    let is_fact = |kind: &Kind| matches!(kind, Kind::Fact(_));
    let mut seen = Vec::new();
    for _ in 0..12 {
        world.input(0, Input::Ticked);
        seen.push(on_wire(&world, is_fact));
        world.tamper(|_, _, _| false);
        world.now.boot_ms += 100;
    }
    assert!(seen.iter().all(|count| *count <= 128), "{seen:?}");
    assert_eq!(seen.iter().sum::<usize>(), 1000);
}

/// START-2: a start closes old flows a page a round; a crash between two pages leaves nothing undone and does nothing
/// twice.
#[test]
fn a_start_over_many_flows_is_paged() {
    let mut world = many_flows(World::new(2, 18), 300);
    world.settle();
    world.kill(0);
    let opened = |(table, key, row): (Table, &[u8], &bytes::Bytes)| {
        let row = stored::OutFlow::decode(row.clone()).unwrap();
        let row = stored::OutFlow { closed: false, left_below: 1, word_version: 7, ..row };
        ((table, key.to_vec()), Some(row.encode_to_vec().into()))
    };
    let flows = world.hosts[0].kv.rows().filter(|(table, ..)| *table == Table::OutFlow);
    let batch: Batch = flows.map(opened).collect();
    world.hosts[0].kv.commit(batch).unwrap();
    let closed = |world: &World| out_flows(world).iter().filter(|flow| flow.closed).count();
    world.start(0);
    assert_eq!(closed(&world), 256, "one page with the start");
    world.kill(0);
    world.start(0);
    world.settle();
    assert_eq!(closed(&world), 300);
    assert!(out_flows(&world).iter().all(|flow| flow.word_version == 8 && flow.left_below == flow.next_number));
}

/// HELLO-2: however many flows a lost disk concerns, and though the giver dies between two pages, everything is offered
/// again.
#[test]
fn a_rollback_is_dealt_with_to_the_end() {
    let mut world = row(3, 19);
    world.kill(2);
    world.pass(1000);
    let before = world.hosts[1].kv.clone();
    let mut world = many_flows(world, 300);
    world.connect(0, 1);
    world.settle();
    assert_eq!(world.counts(1).2, 300);
    world.kill(1);
    world.hosts[1].kv = before;
    world.start(1);
    world.connect(0, 1);
    world.kill(0);
    world.start(0);
    world.connect(0, 1);
    world.settle();
    assert_eq!(world.counts(1).2, 300);
}
