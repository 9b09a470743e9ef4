//! Good frames of every kind, with real signatures and seals: what inputs are made from.

use bytes::Bytes;
use prost::Message as _;
use waypost_core::envelope::{Name, flow_to_wire};
use waypost_core::id::{Class, FlowId};
use waypost_core::trust::twin;
use waypost_proto::hop::{self, frame::Kind, twin::Step};

use super::town::{ITS_INCARNATION, NODE, Town, item, plain};

/// The liar that is connected.
pub const LIAR: usize = 1;

/// A frame of every kind and the number of the stream that it belongs on.
pub fn frames(town: &mut Town) -> Vec<(u8, hop::Frame)> {
    let mut kinds = mail(town);
    let control = answers(town).into_iter().chain(statements(town)).chain(gossip(town));
    kinds.extend(control.map(|kind| (0, kind)));
    kinds.into_iter().map(|(stream, kind)| (stream, hop::Frame { kind: Some(kind) })).collect()
}

fn mail(town: &mut Town) -> Vec<(u8, Kind)> {
    let mut kinds = Vec::new();
    for (class, to) in [(Class::Urgent, NODE), (Class::Normal, 2), (Class::Bulk, NODE), (Class::Bulk, 3)] {
        let name = Name { flow: town.flow(LIAR, to, class, 1), first: 1, count: 2 };
        let body = plain(&[item(b"one"), item(b"two")]);
        if let Some(sealed) = town.seal(LIAR, name, 86_400_000, &body) {
            let envelope = town.envelope_frame(LIAR, sealed, kinds.len() as u64 + 1);
            kinds.push((class.index() as u8 + 1, Kind::Envelope(envelope)));
        }
    }
    kinds
}

fn name_of(flow: &FlowId, first: u64, count: u32) -> hop::EnvelopeName {
    Name { flow: *flow, first, count }.to_wire()
}

fn answers(town: &Town) -> Vec<Kind> {
    let flow = town.flow(LIAR, 2, Class::Normal, 1);
    let to_it = town.flow(LIAR, NODE, Class::Normal, 1);
    let offered = |flow: &FlowId, first| hop::Offered { name: Some(name_of(flow, first, 2)), wave: 1, bytes: 500 };
    let answer = hop::Answer { offer: 1, items: vec![0, 1], ..Default::default() };
    let transfers = hop::Answer { class: 2, transfers: vec![1, 2], ..Default::default() };
    vec![
        Kind::Credit(hop::Credit { class: 2, bytes: 1 << 20, envelopes: 100 }),
        Kind::Offer(hop::Offer { offer: 1, items: vec![offered(&flow, 1), offered(&to_it, 1), offered(&flow, 9)] }),
        Kind::Want(answer.clone()),
        Kind::Have(answer.clone()),
        Kind::Gone(answer),
        Kind::Want(transfers.clone()),
        Kind::Have(transfers.clone()),
        Kind::Gone(transfers),
        Kind::RetryLater(hop::RetryLater {
            class: 2,
            transfers: vec![1],
            reason: 1,
            after_ms: 1000,
            source: Bytes::copy_from_slice(&town.id(NODE).0),
            ..Default::default()
        }),
        Kind::RetryLater(hop::RetryLater { offer: 1, items: vec![0], reason: 2, after_ms: 10, ..Default::default() }),
        Kind::Custody(hop::Custody {
            incarnation: Bytes::from_static(&ITS_INCARNATION),
            class: 2,
            ranges: vec![hop::Range { first: 3, last: 4 }],
            taker_incarnation: Bytes::from_static(&[1; 16]),
            durable_sequence: 5,
        }),
        Kind::Dropped(hop::Dropped { names: vec![name_of(&flow, 1, 2)] }),
    ]
}

fn statements(town: &Town) -> Vec<Kind> {
    let mut kinds = Vec::new();
    let attested =
        |object, member: usize| hop::Attested { object: Some(object), chain: town.members[member].chain.clone() };
    for to in [NODE, 2] {
        let word = hop::WordContent {
            flow: Some(flow_to_wire(&town.flow(LIAR, to, Class::Normal, 1))),
            signing_incarnation: Bytes::from_static(&[1; 16]),
            version: 2,
            floor: 1,
            ended: vec![hop::EndedRange { first: 2, last: 3, ending: 1 }],
            waves: vec![hop::WaveRange { first: 1, last: 5, wave: 2 }],
            second_mark: 1,
            end: 9,
            closed: true,
            ..Default::default()
        };
        kinds.push(Kind::Word(attested(town.sign(LIAR, &word), LIAR)));
    }
    for from in [NODE, 2] {
        let mut flow = flow_to_wire(&town.flow(from, LIAR, Class::Normal, 1));
        if from == NODE {
            flow.incarnation = Bytes::from_static(&ITS_INCARNATION);
        }
        kinds.push(Kind::Receipt(attested(town.sign(LIAR, &receipt(flow)), LIAR)));
    }
    kinds
}

fn receipt(flow: hop::Flow) -> hop::ReceiptContent {
    let coded = |first, last| hop::RejectedRange { first, last, reason: 1 };
    hop::ReceiptContent {
        flow: Some(flow),
        signing_incarnation: Bytes::from_static(&[1; 16]),
        version: 3,
        word_seen: 1,
        word_incarnation: Bytes::from_static(&ITS_INCARNATION),
        floor: 1,
        delivered: vec![hop::DeliveredRange { first: 1, last: 1, tags: 5 }],
        rejected: vec![coded(2, 2)],
        skipped: vec![hop::Range { first: 3, last: 3 }],
        consumed: vec![hop::Range { first: 1, last: 1 }],
        refused: vec![coded(4, 4)],
        dead: vec![coded(5, 6)],
        untagged: vec![hop::Range { first: 7, last: 7 }],
        cannot_open: vec![hop::CannotOpen::default()],
        ..Default::default()
    }
}

fn gossip(town: &Town) -> Vec<Kind> {
    let node = |member: usize| Bytes::copy_from_slice(&town.id(member).0);
    let fact = hop::FactContent {
        node: node(LIAR),
        incarnation: Bytes::from_static(&[1; 16]),
        sequence: 1,
        durable_sequence: 1,
        name: "liar".to_owned(),
        addresses: vec!["/ip4/192.0.2.7/tcp/4001".to_owned()],
        links: vec![hop::Link { peer: node(2), up: true, rtt_us: 1000, mean_wait_ms: 5, ..Default::default() }],
        homes: vec![node(3)],
        channels: vec!["orders".to_owned()],
    };
    let id = hop::FactId { node: node(4), counter: 1, sequence: 2, ..Default::default() };
    let signed = twin::sign(&town.members[LIAR].key, town.network, [5; 32], town.id(NODE), 9);
    let twin = |step| Kind::Twin(hop::Twin { step: Some(step) });
    let wanted = hop::ReceiptsWanted { above: Bytes::new() };
    vec![
        Kind::Fact(hop::Attested { object: Some(town.sign(LIAR, &fact)), chain: town.members[LIAR].chain.clone() }),
        Kind::Ids(hop::Ids { facts: vec![id] }),
        Kind::Get(hop::Get { facts: vec![node(NODE), node(LIAR), node(2)], receipts: None }),
        Kind::Get(hop::Get { facts: Vec::new(), receipts: Some(wanted) }),
        Kind::Digest(hop::Digest { facts: 1, hash: Bytes::from_static(&[1; 32]) }),
        Kind::Shown(hop::Shown { last: Bytes::from_static(&[1; 40]), all: false }),
        Kind::Shown(hop::Shown { last: Bytes::new(), all: true }),
        twin(Step::Draw(true)),
        twin(Step::Drawn(Bytes::from_static(&[5; 32]))),
        twin(Step::Sign(Bytes::from_static(&[5; 32]))),
        twin(Step::Signed(signed.clone())),
        twin(Step::Proof(signed)),
        Kind::Hello(hop::Hello::default()),
        Kind::Join(town.join.clone()),
        Kind::Admitted(hop::Admitted::default()),
    ]
}

/// A message as an input names it, and parts of bodies.
pub fn items() -> Vec<Vec<u8>> {
    let whole = item(b"a body");
    let part = hop::Item { fragments: 2, size: 256 * 1024 + 1, hash: Bytes::from_static(&[1; 32]), ..item(b"x") };
    let second = hop::Item { index: 1, ..part.clone() };
    let after = hop::Predecessor {
        id: whole.id.clone(),
        class: 2,
        incarnation: Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        number: 3,
    };
    let header = hop::Header { name: "kind".to_owned(), value: "test".to_owned() };
    let ordered = hop::Item { after: Some(after), key: "k".to_owned(), headers: vec![header], ..whole.clone() };
    [whole, part, second, ordered].iter().map(prost::Message::encode_to_vec).collect()
}

/// A frame as bytes.
pub fn encoded(frames: Vec<(u8, hop::Frame)>) -> Vec<Vec<u8>> {
    frames.into_iter().map(|(_, frame)| frame.encode_to_vec()).collect()
}
