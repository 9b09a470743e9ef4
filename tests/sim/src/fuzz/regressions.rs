//! What was found once, by target: run before anything else, by the fuzzer and by `every_target_takes_its_seeds`.

use prost::Message as _;
use waypost_proto::{hop, stored};

use super::script::step;
use super::seeds::items;
use super::wire::{self, Field};

/// Inputs of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "flows" => flows(),
        "streams" => vec![a_body_that_is_never_whole(366 * 24 * 3_600_000), a_body_that_is_never_whole(1)],
        "disks" => (0..8).map(a_message_of_too_many_parts).collect(),
        _ => Vec::new(),
    }
}

/// Rows whose numbers nothing may count on from: reading them ended the process.
fn flows() -> Vec<Vec<u8>> {
    let out = stored::OutFlow { flow: vec![1; 81].into(), tag_key: vec![3; 32].into(), ..Default::default() };
    let everything = stored::Coded { first: 1, last: u64::MAX, reason: 1 };
    let inn = stored::InFlow {
        flow: vec![1; 81].into(),
        floor: 1,
        rejected: vec![everything],
        word_incarnation: vec![1; 16].into(),
        ..Default::default()
    };
    vec![[vec![0], out.encode_to_vec()].concat(), [vec![1], inn.encode_to_vec()].concat()]
}

/// Envelopes of some hundred bytes reserved the whole inbox for as long as their source liked, which was for ever:
/// neither after a year and a day nor before may they keep honest mail out.
fn a_body_that_is_never_whole(wait_ms: u64) -> Vec<u8> {
    const FRAGMENT: u64 = 256 * 1024;
    let last_of = |fragments: u32| hop::Item {
        index: fragments - 1,
        fragments,
        size: u64::from(fragments - 1) * FRAGMENT + 1,
        lifetime_ms: u64::MAX,
        ..hop::Item::decode(items()[2].as_slice()).unwrap_or_default()
    };
    let envelope = |place: u64, item: &hop::Item, length: u64| {
        let numbers = [(3, 1), (4, 1), (5, 70_000 * place), (7, place), (15, length)];
        let mut fields = numbers.map(|(number, value)| Field::number(number, value)).to_vec();
        fields.push(Field::bytes(12, item.encode_to_vec()));
        Field::bytes(step::MAIL, wire::encode(&fields))
    };
    let mut script: Vec<Field> = (1..=4).map(|place| envelope(place, &last_of(65_536), 1)).collect();
    script.push(envelope(5, &last_of(4), 1));
    // Now a fragment less six bytes is free, and this takes it.
    let rest = hop::Item { size: FRAGMENT - 6, ..hop::Item::decode(items()[0].as_slice()).unwrap_or_default() };
    script.push(envelope(6, &rest, FRAGMENT - 6));
    script.push(Field::number(step::TIME, wait_ms));
    judged(script)
}

/// A row of the inbox that says so was walked part by part until memory was gone.
fn a_message_of_too_many_parts(place: u64) -> Vec<u8> {
    let row =
        stored::Inbox { fragments: u32::MAX, class: 2, size: 20, channel: "orders".to_owned(), ..Default::default() };
    let row = stored::Inbox { id: vec![1; 16].into(), ..row };
    let change = [Field::number(1, place), Field::bytes(2, row.encode_to_vec())];
    wire::encode(&[Field::bytes(13, wire::encode(&change))])
}

/// Pads a script with steps that do nothing until it is one that honest mail follows.
fn judged(script: Vec<Field>) -> Vec<u8> {
    let padded = |pad: u64| [script.clone(), vec![Field::number(20, pad)]].concat();
    let mut inputs = (0..256).map(|pad| wire::encode(&padded(pad)));
    inputs.find(|input| super::script::is_judged(input)).unwrap_or_default()
}
