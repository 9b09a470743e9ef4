//! The rules of clones, rolled-back disks and lost disks: what shows them, what is done, and that no mail is lost by it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod world;

use prost::Message as _;
use waypost_core::engine::effect::Stream;
use waypost_core::envelope::{Header, flow_to_wire};
use waypost_core::id::{Class, FlowId, Incarnation, MessageId};
use waypost_core::store::kv::Table;
use waypost_core::store::mem::MemKv;
use waypost_core::trust::{Label, NodeKey, twin};
use waypost_proto::hop::frame::Kind;
use waypost_proto::hop::twin::Step;
use waypost_proto::{hop, stored};
use world::World;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A and B, not connected, and a clone of A: 0, 1, 2.
fn with_clone() -> World {
    let mut world = World::new(2, 23);
    assert_eq!(world.clone_of(0), 2);
    assert_eq!(incarnation(&world, 0), incarnation(&world, 2));
    world
}

/// A — R — B, connected: 0, 1, 2.
fn chain() -> World {
    let mut world = World::new(3, 29);
    world.connect(0, 1);
    world.connect(1, 2);
    world.pass(1000);
    world
}

fn incarnation(world: &World, host: usize) -> Incarnation {
    world.hosts[host].engine.as_ref().unwrap().own_hello().incarnation
}

fn visit(world: &mut World, host: usize, to: usize) {
    world.connect(host, to);
    world.pass(1000);
    world.cut(host, to);
}

fn ladder(world: &mut World, host: usize, id: MessageId) -> Vec<String> {
    world.trace(host, id).ladder.into_iter().map(|rung| rung.state).collect()
}

/// The last frame of a kind that a host sent to another.
fn last_sent(world: &World, from: usize, to: usize, of: impl Fn(&Kind) -> bool) -> Kind {
    let sent = world.log.iter().rev().filter(|(by, at, _)| (*by, *at) == (from, to));
    sent.filter_map(|(_, _, frame)| frame.kind.clone()).find(of).unwrap()
}

fn is_envelope(kind: &Kind) -> bool {
    matches!(kind, Kind::Envelope(_))
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

/// A statement as `by` would have signed it.
fn signed(world: &World, by: usize, label: Label, content: &impl prost::Message) -> hop::Attested {
    let content = content.encode_to_vec();
    let key = NodeKey::from_seed(&world.hosts[by].key.seed());
    let signature = key.sign(label, world.network, &content).to_vec().into();
    hop::Attested { object: Some(hop::Signed { content: content.into(), signature }), chain: world.chain(by) }
}

fn fact(world: &World, of: usize, at: usize) -> Option<hop::FactContent> {
    let rows = world.hosts[at].kv.rows().filter(|(table, ..)| *table == Table::Fact);
    let facts = rows.map(|(_, _, row)| stored::Signed::decode(row.clone()).unwrap());
    let id = world.id(of);
    facts.map(|row| hop::FactContent::decode(row.content).unwrap()).find(|fact| fact.node == id.0.as_slice())
}

/// EVIDENCE-1: tags that disagree end what is in doubt `damaged: outcome unknown`; EVIDENCE-2: a new incarnation begins
/// in place and carries on; EVIDENCE-4: the owner is told, and it is remembered.
#[test]
fn a_receipt_for_other_content_shows_a_clone() {
    let mut world = with_clone();
    let theirs = world.send(2, 1, &[b"the clone's"])[0];
    visit(&mut world, 2, 1);
    assert_eq!(world.state(2, theirs), "delivered");
    let before = incarnation(&world, 0);
    let mine = world.send(0, 1, &[b"mine"])[0];
    world.connect(0, 1);
    world.pass(1000);
    assert_eq!(ladder(&mut world, 0, mine), ["accepted", "damaged: outcome unknown"]);
    assert_eq!(world.hosts[0].alarms.len(), 1, "{:?}", world.hosts[0].alarms);
    assert!(world.hosts[0].alarms[0].contains("another copy of this node is running"));
    assert_eq!(incarnation(&world, 0).counter, before.counter + 1);
    let next = world.send(0, 1, &[b"mine again"])[0];
    world.settle();
    assert_eq!(world.state(0, next), "delivered");
    let Kind::Envelope(envelope) = last_sent(&world, 0, 1, is_envelope) else { unreachable!() };
    let name = Header::decode(&envelope.header).unwrap().name;
    assert_eq!((name.flow.incarnation, name.first), (incarnation(&world, 0), 1));
    assert_eq!(world.counts(1).1, 2, "the clone's and the new one");
    world.kill(0);
    world.start(0);
    let alarms = world.status(0).alarms;
    assert_eq!((alarms.len(), alarms[0].times), (1, 1));
    assert_eq!(incarnation(&world, 0).counter, before.counter + 2, "the one in between is on disk");
}

/// EVIDENCE-1: a number that the running incarnation never gave out shows a clone; what the range covers of its own is in
/// doubt. Without any message of its own too.
#[test]
fn a_receipt_for_a_number_never_given_out_shows_a_clone() {
    let mut world = with_clone();
    world.send(2, 1, &[b"a", b"b", b"c"]);
    visit(&mut world, 2, 1);
    let mine = world.send(0, 1, &[b"mine"])[0];
    let before = incarnation(&world, 0);
    visit(&mut world, 0, 1);
    assert_eq!(world.state(0, mine), "damaged: outcome unknown");
    assert_eq!((world.hosts[0].alarms.len(), incarnation(&world, 0).counter), (1, before.counter + 1));

    let mut world = with_clone();
    world.send(2, 1, &[b"a"]);
    visit(&mut world, 2, 1);
    let receipt = last_sent(&world, 1, 2, |kind| matches!(kind, Kind::Receipt(_)));
    let before = incarnation(&world, 0);
    world.connect(0, 1);
    world.inject(1, 0, Stream::Control, receipt);
    world.settle();
    assert_eq!((world.hosts[0].alarms.len(), incarnation(&world, 0).counter), (1, before.counter + 1));
}

/// EVIDENCE-2: a flow of an earlier incarnation needs no new one: what is in doubt ends, and the owner is told.
#[test]
fn a_clone_of_an_earlier_start_ends_nothing_but_the_doubt() {
    let mut world = with_clone();
    let mine = world.send(0, 1, &[b"mine"])[0];
    world.kill(0);
    world.start(0);
    world.send(2, 1, &[b"the clone's"]);
    visit(&mut world, 2, 1);
    let before = incarnation(&world, 0);
    world.connect(0, 1);
    world.pass(1000);
    assert_eq!(world.state(0, mine), "damaged: outcome unknown");
    assert_eq!((world.hosts[0].alarms.len(), incarnation(&world, 0)), (1, before));
}

/// RECEIPT-6: what a closed flow's source sent is told apart from what its clone sent beyond its end.
#[test]
fn a_range_does_not_cross_the_end_of_a_closed_flow() {
    let mut world = with_clone();
    let both = world.send(0, 1, &[b"one"])[0];
    visit(&mut world, 0, 1);
    assert_eq!(world.state(0, both), "delivered");
    let late = world.send(0, 1, &[b"two"])[0];
    world.kill(0);
    world.send(2, 1, &[b"a", b"two of the clone", b"three of the clone"]);
    visit(&mut world, 2, 1);
    world.start(0);
    world.connect(0, 1);
    world.pass(5 * 60_000);
    assert_eq!(world.state(0, late), "damaged: outcome unknown");
    let receipt = receipts(&world, 1).pop().unwrap();
    let ranges: Vec<_> = receipt.delivered.iter().map(|range| (range.first, range.last)).collect();
    assert_eq!((receipt.floor, ranges), (3, vec![(3, 3)]));
}

/// EVIDENCE-3: a node that lost its disk meets its own fact, jumps past it and is heard again.
#[test]
fn a_lost_disk_does_not_silence_a_node() {
    let mut world = World::new(2, 31);
    for _ in 0..3 {
        world.connect(0, 1);
        world.pass(1000);
        world.kill(1);
        world.start(1);
    }
    let old = fact(&world, 1, 0).unwrap();
    world.kill(1);
    world.hosts[1].kv = MemKv::default();
    world.start(1);
    world.connect(0, 1);
    world.pass(1000);
    let new = fact(&world, 1, 0).unwrap();
    let counter = |fact: &hop::FactContent| Incarnation::from_slice(&fact.incarnation).unwrap().counter;
    assert!(counter(&new) > counter(&old), "{new:?}");
    assert_eq!(Incarnation::from_slice(&new.incarnation), Some(incarnation(&world, 1)));
    assert!(new.sequence > old.sequence);
    assert_eq!(world.hosts[1].alarms.len(), 1, "{:?}", world.hosts[1].alarms);
    assert!(world.hosts[0].alarms.is_empty());
}

/// EVIDENCE-3: own words and receipts numbered above the disk show a rollback as facts do; those the disk knows do not.
#[test]
fn own_statements_above_the_disk_show_a_rollback() {
    let mut world = World::new(2, 37);
    world.connect(0, 1);
    world.send(0, 1, &[b"one"]);
    world.send(1, 0, &[b"back"]);
    world.pass(5 * 60_000);
    assert!(world.hosts[0].alarms.is_empty());
    let flow = FlowId {
        source: world.id(0),
        destination: world.id(1),
        class: Class::Normal,
        incarnation: incarnation(&world, 0),
    };
    let lost = Incarnation { counter: 7, random: [7; 8] };
    let word = |version, by: Incarnation| hop::WordContent {
        flow: Some(flow_to_wire(&flow)),
        signing_incarnation: by.to_bytes().to_vec().into(),
        version,
        floor: 1,
        ..Default::default()
    };
    let tell = |world: &mut World, content: &hop::WordContent| {
        let word = signed(world, 0, Label::Word, content);
        world.inject(1, 0, Stream::Control, Kind::Word(word));
        world.pass(1000);
    };
    tell(&mut world, &word(1, flow.incarnation));
    assert!(world.hosts[0].alarms.is_empty(), "a word of its own that the disk knows");
    tell(&mut world, &word(1, lost));
    assert_eq!((world.hosts[0].alarms.len(), incarnation(&world, 0).counter), (1, 8));
    // One that the disk knows to be over is not in the way: the version alone is jumped.
    tell(&mut world, &word(900, flow.incarnation));
    assert_eq!((world.status(0).alarms[0].times, incarnation(&world, 0).counter), (2, 8));
    let rows = world.hosts[0].kv.rows().filter(|(table, ..)| *table == Table::OutFlow);
    let versions: Vec<u64> =
        rows.map(|(_, _, row)| stored::OutFlow::decode(row.clone()).unwrap().word_version).collect();
    assert!(versions.iter().any(|version| *version >= 900), "{versions:?}");

    let back = FlowId { source: world.id(1), destination: world.id(0), ..flow };
    let receipt = hop::ReceiptContent {
        flow: Some(flow_to_wire(&back)),
        signing_incarnation: Incarnation { counter: 20, random: [1; 8] }.to_bytes().to_vec().into(),
        version: 40,
        floor: 1,
        ..Default::default()
    };
    let receipt = signed(&world, 0, Label::Receipt, &receipt);
    world.pass(60_000);
    world.inject(1, 0, Stream::Control, Kind::Receipt(receipt));
    world.settle();
    assert_eq!(incarnation(&world, 0).counter, 21);
    // Connections went on under the names they began with: custody for the first of them counts.
    let id = world.send(0, 1, &[b"two"])[0];
    loop {
        world.tamper(|_, _, frame| !matches!(frame.kind, Some(Kind::Receipt(_))));
        if !world.carry() {
            break;
        }
    }
    assert_eq!(ladder(&mut world, 0, id), ["accepted", "held"]);
}

/// EVIDENCE-3: two twins that read each other's facts come to rest: at most one new incarnation a minute.
#[test]
fn twins_do_not_chase_each_other() {
    let mut world = World::new(3, 41);
    world.connect(0, 1);
    world.connect(1, 2);
    world.pass(1000);
    world.kill(0);
    let kv = world.hosts[0].kv.clone();
    let twin = world.copy_of(0, kv);
    world.start(0);
    world.start(twin);
    // So that their facts are not numbered alike.
    visit(&mut world, 0, 1);
    for _ in 0..10 {
        // No neighbour meets both.
        visit(&mut world, 0, 1);
        visit(&mut world, twin, 2);
    }
    let highest = incarnation(&world, 0).counter.max(incarnation(&world, twin).counter);
    assert!((3..=4).contains(&highest), "{highest}");
}

/// RECOVER-1, RECOVER-2: a destination that lost its disk asks before it takes; RECOVER-3: what it had signed for does
/// not enter again, and it says so; RECEIPT-4: the source takes that as it is.
#[test]
fn a_lost_destination_asks_for_its_receipts() {
    let mut world = chain();
    world.tamper(|_, _, _| true);
    let id = world.send(0, 2, &[b"one"])[0];
    while !receipts(&world, 1).iter().any(|receipt| !receipt.delivered.is_empty()) {
        // To the relay only: the source does not hear of it.
        world.tamper(|from, _, frame| from != 1 || !matches!(frame.kind, Some(Kind::Receipt(_))));
        if !world.carry() {
            break;
        }
    }
    world.cut(0, 1);
    world.settle();
    assert_eq!((world.state(0, id).as_str(), world.counts(2).1), ("held", 1));
    let envelope = last_sent(&world, 1, 2, is_envelope);
    world.kill(2);
    world.hosts[2].kv = MemKv::default();
    world.start(2);
    world.connect(1, 2);
    let Kind::Envelope(envelope) = envelope else { unreachable!() };
    let again = hop::Envelope { transfer: 77, ..envelope };
    world.inject(1, 2, Stream::Class(Class::Normal), Kind::Envelope(again));
    world.pass(1000);
    assert_eq!(world.counts(2).1, 0, "it does not enter again");
    let receipt = receipts(&world, 2).pop().unwrap();
    let untagged: Vec<_> = receipt.untagged.iter().map(|range| (range.first, range.last)).collect();
    assert_eq!((receipt.delivered.len(), untagged), (0, vec![(1, 1)]));
    assert_eq!(world.hosts[2].alarms.len(), 1, "{:?}", world.hosts[2].alarms);
    world.connect(0, 1);
    world.pass(1000);
    assert_eq!(world.state(0, id), "delivered");
    let new = world.send(0, 2, &[b"two"])[0];
    world.pass(1000);
    assert_eq!((world.state(0, new).as_str(), world.counts(2).1), ("delivered", 1));
}

/// RECOVER-1: mail waits for the answer, but not for ever, and not for one that is gone.
#[test]
fn mail_waits_for_the_answer_for_a_while() {
    let mut world = World::new(2, 43);
    let id = world.send(0, 1, &[b"one"])[0];
    world.connect(0, 1);
    for _ in 0..50 {
        world.tamper(|_, _, frame| !matches!(frame.kind, Some(Kind::Shown(_))));
        world.carry();
    }
    world.pass(9_000);
    assert_eq!(world.counts(1).1, 0, "not before the answer");
    assert!(world.count("retry_later") > 0);
    // Who was refused so often asks ever more seldom (rule RETRY-3).
    world.pass(10_000);
    assert_eq!((world.state(0, id).as_str(), world.counts(1).1), ("delivered", 1));
}

/// RECOVER-1: who remembers more of a node than its hello names shows it its receipts unasked; a disk that was rolled back
/// is so found, also long after its first start, when nobody is asked any more.
#[test]
fn a_rolled_back_destination_is_shown_its_receipts() {
    let mut world = World::new(2, 47);
    world.connect(0, 1);
    world.pass(8 * DAY_MS);
    let backup = world.hosts[1].kv.clone();
    world.send(0, 1, &[b"one"]);
    world.pass(1000);
    let Kind::Envelope(envelope) = last_sent(&world, 0, 1, is_envelope) else { unreachable!() };
    world.kill(1);
    world.start(1);
    world.connect(0, 1);
    world.pass(1000);
    assert!(world.hosts[1].alarms.is_empty(), "a start alone is no rollback");
    world.kill(1);
    world.hosts[1].kv = backup;
    world.start(1);
    world.connect(0, 1);
    world.inject(0, 1, Stream::Class(Class::Normal), Kind::Envelope(hop::Envelope { transfer: 9, ..envelope }));
    world.pass(1000);
    assert_eq!(world.hosts[1].alarms.len(), 1);
    assert_eq!(world.counts(1).1, 0, "it does not enter again");
}

fn pages(world: &World, host: usize, table: Table) -> stored::Pages {
    let mut rows = world.hosts[host].kv.rows().filter(|(of, ..)| *of == table);
    stored::Pages::decode(rows.next().unwrap().2.clone()).unwrap()
}

/// A receipt of B (2) for a flow of A (0) that R (1) carries.
fn receipt(world: &World, by: u8, version: u64, page: u32, delivered: (u64, u64)) -> Kind {
    let incarnation = Incarnation { counter: 9, random: [9; 8] };
    let (source, destination) = (world.id(0), world.id(2));
    let flow = FlowId { source, destination, class: Class::Normal, incarnation };
    let content = hop::ReceiptContent {
        flow: Some(flow_to_wire(&flow)),
        signing_incarnation: vec![by; 16].into(),
        version,
        page,
        floor: 1,
        delivered: vec![hop::DeliveredRange { first: delivered.0, last: delivered.1, tags: 0 }],
        ..Default::default()
    };
    Kind::Receipt(signed(world, 2, Label::Receipt, &content))
}

/// RECEIPT-5: statements of another incarnation stand beside those held until one says all of the other.
#[test]
fn receipts_of_two_incarnations_stand_side_by_side() {
    let mut world = chain();
    let tell = |world: &mut World, kind: Kind| {
        world.inject(2, 1, Stream::Control, kind);
        world.settle();
    };
    let first = receipt(&world, 1, 5, 0, (1, 3));
    tell(&mut world, first);
    let second = receipt(&world, 2, 1, 0, (5, 6));
    tell(&mut world, second);
    let row = pages(&world, 1, Table::Receipt);
    assert_eq!((row.incarnation.as_ref(), row.others.len()), ([2; 16].as_slice(), 1));
    let less = receipt(&world, 3, 9, 0, (2, 2));
    tell(&mut world, less);
    assert_eq!(pages(&world, 1, Table::Receipt), row, "the two say all of it");
    let more = receipt(&world, 3, 10, 0, (1, 8));
    tell(&mut world, more);
    let row = pages(&world, 1, Table::Receipt);
    assert_eq!((row.incarnation.as_ref(), row.others.len()), ([3; 16].as_slice(), 0), "it says all of the others");
}

/// RECEIPT-5: pages come in any order; one that is newer than what is held does not take its place alone.
#[test]
fn pages_come_in_any_order() {
    let mut world = chain();
    let tell = |world: &mut World, version: u64, page: u32, delivered: (u64, u64)| {
        let kind = receipt(world, 1, version, page, delivered);
        world.inject(2, 1, Stream::Control, kind);
        world.settle();
        let row = pages(world, 1, Table::Receipt);
        (row.version, row.pages.len())
    };
    assert_eq!(tell(&mut world, 5, 1, (10, 12)), (5, 1));
    assert_eq!(tell(&mut world, 5, 0, (1, 3)), (5, 2));
    assert_eq!(tell(&mut world, 5, 1, (10, 12)), (5, 2), "held already");
    let forwarded = world.log.iter().filter(|(from, to, _)| (*from, *to) == (1, 0)).count();
    assert_eq!(tell(&mut world, 6, 1, (10, 20)), (5, 2), "its first page is lacking");
    let after = world.log.iter().filter(|(from, to, _)| (*from, *to) == (1, 0)).count();
    assert_eq!(after, forwarded + 1, "but it holds by itself");
    assert_eq!(tell(&mut world, 6, 0, (1, 9)), (6, 1));
    assert_eq!(tell(&mut world, 4, 0, (1, 9)), (6, 1));
}

/// TWIN-1, TWIN-2, TWIN-3: of two processes with one key that a neighbour meets in turns, one sees that the other signed
/// what it drew, and stops; the other goes on.
#[test]
fn a_twin_stops() {
    let mut world = World::new(2, 53);
    let kv = world.hosts[0].kv.clone();
    let twin = world.copy_of(0, kv);
    world.start(twin);
    // The newer connection ends the older, and the older comes again.
    for host in [0, twin, 0, twin] {
        world.connect(host, 1);
        world.pass(1000);
    }
    let stopped: Vec<bool> = world.hosts.iter().map(|host| host.stopped.is_some()).collect();
    assert_eq!(stopped, [false, false, true]);
    assert!(world.hosts[twin].stopped.as_ref().unwrap().contains("has the key of this node"));
    let id = world.send(0, 1, &[b"one"])[0];
    world.cut(twin, 1);
    world.cut(0, 1);
    world.connect(0, 1);
    world.pass(1000);
    assert_eq!(world.state(0, id), "delivered");
}

/// TWIN-3: restarts, however many, stop nobody, and neither does what others say.
#[test]
fn a_restart_is_no_twin() {
    let mut world = World::new(2, 59);
    for _ in 0..6 {
        world.connect(0, 1);
        world.pass(1000);
        world.kill(0);
        world.start(0);
    }
    world.connect(0, 1);
    world.pass(1000);
    let draw = |world: &mut World, step| {
        world.inject(1, 0, Stream::Control, Kind::Twin(hop::Twin { step: Some(step) }));
        world.settle();
    };
    draw(&mut world, Step::Draw(true));
    let drawn = last_sent(&world, 0, 1, |kind| matches!(kind, Kind::Twin(hop::Twin { step: Some(Step::Drawn(_)) })));
    let Kind::Twin(hop::Twin { step: Some(Step::Drawn(challenge)) }) = drawn else { unreachable!() };
    let before = world.log.len();
    draw(&mut world, Step::Sign(challenge.clone()));
    assert!(world.log[before..].iter().all(|(from, ..)| *from != 0), "it does not sign what it drew");
    let challenge: [u8; 32] = challenge.as_ref().try_into().unwrap();
    let by_another = twin::sign(&world.hosts[1].key, world.network, challenge, world.id(0), 1);
    draw(&mut world, Step::Proof(by_another));
    let of_another = twin::sign(&world.hosts[0].key, world.network, [1; 32], world.id(1), 1);
    draw(&mut world, Step::Proof(of_another));
    assert_eq!(world.hosts[0].stopped, None);
    let proof = twin::sign(&world.hosts[0].key, world.network, challenge, world.id(1), 1);
    draw(&mut world, Step::Proof(proof));
    assert!(world.hosts[0].stopped.is_some());
}
