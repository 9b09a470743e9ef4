//! What is on disk and may have been damaged there: every table's keys and rows, the flows read from them, and an
//! engine started over a store in which rows were changed. Damage is an error, never a panic.

use bytes::Bytes;
use prost::Message;
use waypost_core::filter::InFlow;
use waypost_core::flow::OutFlow;
use waypost_core::id::{Class, FlowId, Incarnation};
use waypost_core::store::kv::{Kv as _, Table};
use waypost_core::store::mem::MemKv;
use waypost_core::store::tables::{FactRow, ReceiptRow, Record, StandbyRow, StartRow, WordRow};
use waypost_core::trust::Encapsulation;
use waypost_proto::stored;

use super::bench::{Bench, Ended};
use super::neighbours::all_is_well;
use super::script::{a_full_store, mails, play_on, step};
use super::town::Town;
use super::wire::{self, Field};
use super::{Target, class_of, promise};

/// Rows and keys: the first byte says of which table, the second which of the two.
pub struct Rows;

type Read = fn(&[u8], bool) -> Result<String, String>;

const ALL: [Read; 30] = [
    read::<stored::Counters>,
    read::<stored::Alarms>,
    read::<stored::Handle>,
    read::<stored::OutFlow>,
    read::<stored::InFlow>,
    read::<stored::TransitFlow>,
    read::<stored::Envelope>,
    read::<stored::Place>,
    read::<stored::Message>,
    read::<stored::Idempotency>,
    read::<stored::Contents>,
    read::<stored::Empty>,
    read::<stored::Inbox>,
    read::<stored::Queue>,
    read::<stored::Tags>,
    read::<stored::Partial>,
    read::<stored::Wave>,
    read::<stored::Chain>,
    read::<stored::Peer>,
    read::<stored::Admission>,
    read::<stored::Stage>,
    read::<stored::Channel>,
    read::<stored::Predecessor>,
    read::<stored::Waiting>,
    read::<stored::Delayed>,
    read::<StartRow>,
    read::<ReceiptRow>,
    read::<WordRow>,
    read::<StandbyRow>,
    read::<FactRow>,
];

fn read<R: Record + PartialEq>(bytes: &[u8], as_key: bool) -> Result<String, String> {
    if as_key {
        let key = R::decode_key(bytes);
        let exact = key.as_ref().is_ok_and(|key| R::encode_key(key) == bytes);
        promise(exact || key.is_err(), || format!("a key of {:?} reads twice", R::TABLE))?;
        return Ok(format!("key{}", key.is_ok()));
    }
    match R::decode(&Bytes::copy_from_slice(bytes)) {
        Err(error) => Ok(format!("{error}")),
        Ok(row) => {
            let same = R::decode(&row.encode()).is_ok_and(|again| again == row);
            promise(same, || format!("a row of {:?} is another when written", R::TABLE))?;
            Ok("row".to_owned())
        }
    }
}

impl Target for Rows {
    fn name(&self) -> &'static str {
        "rows"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let Ok(kv) = a_full_store() else { return Vec::new() };
        let rows: Vec<(Table, &[u8], &Bytes)> = kv.rows().collect();
        let row = |(_, _, row): &(Table, &[u8], &Bytes)| [&[0, 0], row.as_ref()].concat();
        let key = |(_, key, _): &(Table, &[u8], &Bytes)| [&[0, 1], *key].concat();
        let of = |seed: Vec<u8>| (0..ALL.len() as u8).map(move |kind| [&[kind], &seed[1..]].concat());
        rows.iter().flat_map(|it| [row(it), key(it)]).take(60).flat_map(of).collect()
    }

    fn run(&mut self, input: &[u8]) -> Result<Vec<u64>, String> {
        let [kind, how, rest @ ..] = input else { return Ok(Vec::new()) };
        let place = usize::from(*kind) % ALL.len();
        let seen = ALL[place](rest, how % 2 == 1)?;
        Ok(vec![class_of(&format!("{}{seen}", char::from(b'A' + place as u8)))])
    }
}

/// Flows from their rows, and what is asked of them. The first byte says which kind.
pub struct Flows;

impl Target for Flows {
    fn name(&self) -> &'static str {
        "flows"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let Ok(town) = Town::new() else { return Vec::new() };
        let id = town.flow(1, 0, Class::Normal, 1);
        let (out, inn) = (an_out_flow(id), an_in_flow(id));
        vec![[vec![0], out.encode_to_vec()].concat(), [vec![1], inn.encode_to_vec()].concat()]
    }

    fn run(&mut self, input: &[u8]) -> Result<Vec<u64>, String> {
        let Some((kind, rest)) = input.split_first() else { return Ok(Vec::new()) };
        let seen = match kind % 2 {
            0 => <stored::OutFlow as Message>::decode(rest).map(|row| ask_out_flow(&row)),
            _ => <stored::InFlow as Message>::decode(rest).map(|row| ask_in_flow(&row)),
        };
        Ok(vec![class_of(&seen.unwrap_or_default())])
    }
}

fn an_out_flow(id: FlowId) -> stored::OutFlow {
    let mut flow = OutFlow::open(id, [3; 32]);
    flow.next = 20;
    flow.settle(3, 5);
    flow.raise_wave();
    flow.consumed.insert(3, 3);
    let encapsulation = Encapsulation { encapsulated: [5; 32], root: [6; 32].into() };
    let mut row = flow.to_row();
    row.encapsulations.push(stored::Encapsulation {
        first: 1,
        drawn_at: 5,
        encapsulated: Bytes::copy_from_slice(&encapsulation.encapsulated),
        root: Bytes::copy_from_slice(encapsulation.root.as_ref()),
    });
    row.unconfirmed.push(stored::Unconfirmed { first: 7, last: 8, ending: 1, at: 5 });
    row
}

fn an_in_flow(id: FlowId) -> stored::InFlow {
    let mut flow = InFlow::open(id);
    for number in [1, 2, 3, 7, 9] {
        flow.deliver(number, number);
    }
    flow.reject(11, 14, waypost_core::filter::Rejection::Malformed);
    flow.consume(2);
    flow.bury(3, waypost_core::filter::Rejection::Refused);
    let mut row = flow.to_row();
    row.skipped.push(stored::Span { first: 20, last: 22 });
    row.untagged.push(stored::Span { first: 30, last: 31 });
    row.ends.push(9);
    row
}

fn ask_out_flow(row: &stored::OutFlow) -> String {
    let mut flow = match OutFlow::from_row(row) {
        Ok(flow) => flow,
        Err(error) => return error.to_string(),
    };
    let _ = (flow.last(), flow.is_over(), flow.has_ended(4), flow.wave_of(4), flow.in_window(9), flow.to_row());
    let _ = flow.word(Incarnation::default());
    flow.settle(2, 9);
    flow.leave(12);
    flow.raise_wave();
    flow.trim_sealings();
    let _ = (flow.forget_unconfirmed(waypost_core::time::NodeTime(1 << 40)), flow.word_ends_something());
    format!("out flow {} {}", flow.closed, flow.unconfirmed.is_empty())
}

fn ask_in_flow(row: &stored::InFlow) -> String {
    let mut flow = match InFlow::from_row(row) {
        Ok(flow) => flow,
        Err(error) => return error.to_string(),
    };
    let _ = (flow.is_new(5), flow.open_in(1, 50), flow.knows(1, 9), flow.is_unsettled(), flow.to_row());
    for number in [4, 5, 10] {
        if flow.is_new(number) {
            flow.deliver(number, 1);
        }
    }
    flow.reject(5, 40, waypost_core::filter::Rejection::Malformed);
    flow.consume(7);
    flow.bury(9, waypost_core::filter::Rejection::Refused);
    let word = waypost_proto::hop::WordContent { version: 9, floor: 6, second_mark: 5, ..Default::default() };
    let word = waypost_proto::hop::WordContent { closed: true, end: 33, ..word };
    let applied = flow.apply(&word, Incarnation::default(), |_, _| Ok::<u64, ()>(0));
    let pages = flow.receipt(Incarnation::default());
    format!("in flow {applied:?} {}", pages.len() > 1)
}

/// An engine over a store of which rows were changed: field n is a row of table n, 1 its place among them, 2 what
/// stands there now.
pub struct Disks {
    kv: MemKv,
    town: Town,
}

impl Disks {
    /// Fills a store.
    ///
    /// # Errors
    /// When the engine that fills it breaks a promise.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self { kv: a_full_store()?, town: Town::new()? })
    }

    fn damaged(&self, input: &[u8]) -> Result<MemKv, String> {
        let mut kv = self.kv.clone();
        let mut batch = waypost_core::store::kv::Batch::new();
        for Field { number, value } in wire::fields_that_are(input) {
            let wire::Value::Bytes(bytes) = value else { continue };
            let change = wire::fields_that_are(&bytes);
            let keys: Vec<&[u8]> = self.kv.rows().filter(|row| row.0 as u32 == number).map(|(_, key, _)| key).collect();
            let place = wire::number_of(&change, 1) as usize;
            let Some(key) = keys.get(place % keys.len().max(1)) else { continue };
            let table = Table::ALL.into_iter().find(|table| *table as u32 == number);
            let row = wire::bytes_of(&change, 2).next().map(Bytes::copy_from_slice);
            batch.extend(table.map(|table| ((table, key.to_vec()), row)));
        }
        kv.commit(batch).map_err(|error| error.to_string())?;
        Ok(kv)
    }
}

impl Target for Disks {
    fn name(&self) -> &'static str {
        "disks"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let mut places = std::collections::BTreeMap::<Table, u64>::new();
        let seed = |(table, _, row): (Table, &[u8], &Bytes)| {
            let place = places.entry(table).or_default();
            *place += 1;
            let change = [Field::number(1, *place - 1), Field::bytes(2, row.to_vec())];
            wire::encode(&[Field::bytes(table as u32, wire::encode(&change))])
        };
        self.kv.rows().map(seed).collect()
    }

    fn run(&mut self, input: &[u8]) -> Result<Vec<u64>, String> {
        let kv = self.damaged(input)?;
        let mut script: Vec<Field> = mails().into_iter().map(|mail| Field::bytes(step::MAIL, mail)).collect();
        script.push(Field::number(step::CONSUME, 0));
        script.extend([Field::number(step::TIME, 86_400_000), Field::number(step::RESTART, 1)]);
        let ended = Bench::start(&mut self.town, kv).and_then(|mut bench| {
            play_on(&mut bench, &script)?;
            Ok(all_is_well(&mut bench).is_ok())
        });
        let seen = match ended {
            Ok(well) => format!("well {well}"),
            Err(Ended::Store(error)) => error.to_string(),
            // What a damaged disk makes of promises is not said; only that nothing panics.
            Err(Ended::Broken(_)) => "broken".to_owned(),
        };
        Ok(vec![class_of(&seen)])
    }
}
