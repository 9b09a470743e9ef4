//! What every store must do, as one suite to run against an implementation of [`Kv`]. It panics at the first breach.
//! What only a power cut shows (rule STORE-1) is not in here.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::kv::{Batch, Kv, Pair, StoreError, Table};
use super::tx::{Tx, commit};

/// Opens the store under test. Each opening finds what was committed before; the former one has been dropped.
pub type Open<'a> = &'a mut dyn FnMut() -> Box<dyn Kv>;

/// Above every key the suite writes.
const TOP: [u8; 8] = [0xFF; 8];

/// Runs the suite. The store may hold anything at first; it is emptied.
///
/// # Panics
/// At the first thing the store does wrong.
pub fn run(open: Open<'_>) {
    values_come_and_go(open);
    keys_are_in_order(open);
    scans_keep_bounds_and_limits(open);
    tables_are_apart(open);
    batches_are_whole(open);
    large_values_fit(open);
    everything_is_there_again(open);
    transactions_see_their_own_writes(open);
}

fn ok<T>(result: Result<T, StoreError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("a store under test must not fail: {error}"),
    }
}

fn emptied(open: Open<'_>) -> Box<dyn Kv> {
    let mut kv = open();
    let mut batch = Batch::new();
    for table in Table::ALL {
        batch.extend(all(&*kv, table).into_iter().map(|(key, _)| ((table, key), None)));
    }
    ok(kv.commit(batch));
    kv
}

fn all(kv: &dyn Kv, table: Table) -> Vec<Pair> {
    ok(kv.scan(table, &[], &TOP, usize::MAX))
}

fn put(kv: &mut dyn Kv, table: Table, key: &[u8], value: &'static [u8]) {
    ok(kv.commit(Batch::from([((table, key.to_vec()), Some(Bytes::from_static(value)))])));
}

fn keys(pairs: Vec<Pair>) -> Vec<Vec<u8>> {
    pairs.into_iter().map(|(key, _)| key).collect()
}

fn values_come_and_go(open: Open<'_>) {
    let mut kv = emptied(open);
    assert_eq!(ok(kv.get(Table::OutFlow, b"a")), None, "a key never written");
    put(&mut *kv, Table::OutFlow, b"a", b"one");
    assert_eq!(ok(kv.get(Table::OutFlow, b"a")).as_deref(), Some(&b"one"[..]));
    put(&mut *kv, Table::OutFlow, b"a", b"two");
    assert_eq!(ok(kv.get(Table::OutFlow, b"a")).as_deref(), Some(&b"two"[..]), "an overwrite");
    put(&mut *kv, Table::OutFlow, b"a", b"");
    assert_eq!(ok(kv.get(Table::OutFlow, b"a")).as_deref(), Some(&b""[..]), "an empty value is a value");
    ok(kv.commit(Batch::from([((Table::OutFlow, b"a".to_vec()), None), ((Table::OutFlow, b"b".to_vec()), None)])));
    assert_eq!(ok(kv.get(Table::OutFlow, b"a")), None, "a deleted key");
    ok(kv.commit(Batch::new()));
    assert!(all(&*kv, Table::OutFlow).is_empty());
}

/// Keys whose order, as byte strings, goes wrong first: the empty one, prefixes, 0x00 and 0xFF.
const AWKWARD: [&[u8]; 9] =
    [b"", &[0], &[0, 0], &[0, 0xFF], &[1], &[0x7F, 0xFF], &[0x80], &[0xFF], &[0xFF, 0xFF, 0xFF, 0]];

fn keys_are_in_order(open: Open<'_>) {
    let mut kv = emptied(open);
    for table in [Table::Meta, Table::Body, Table::Channel] {
        for key in AWKWARD.iter().rev() {
            put(&mut *kv, table, key, b"x");
        }
        assert_eq!(keys(all(&*kv, table)), AWKWARD, "order in {table:?}");
    }
}

fn scans_keep_bounds_and_limits(open: Open<'_>) {
    let mut kv = emptied(open);
    for key in [b"b", b"d", b"f"] {
        put(&mut *kv, Table::Due, key, b"x");
    }
    let scan = |from: &[u8], to: &[u8], limit| keys(ok(kv.scan(Table::Due, from, to, limit)));
    assert_eq!(scan(b"b", b"f", 9), [b"b", b"d"], "from is in, to is not");
    assert_eq!(scan(b"c", b"e", 9), [b"d"], "bounds need not exist");
    assert_eq!(scan(b"b\0", b"f\0", 9), [b"d", b"f"], "the next key after a bound");
    assert_eq!(scan(b"a", b"z", 2), [b"b", b"d"], "the first ones count against the limit");
    assert_eq!(scan(b"a", b"z", 0).len(), 0, "a limit of none");
    assert_eq!(scan(b"d", b"d", 9).len(), 0, "an empty range");
    assert_eq!(scan(b"f", b"b", 9).len(), 0, "bounds the wrong way round");
    assert_eq!(scan(b"", b"", 9).len(), 0, "nothing is below the empty key");
    assert_eq!(scan(b"g", b"z", 9).len(), 0, "nothing there");
}

fn tables_are_apart(open: Open<'_>) {
    let mut kv = emptied(open);
    for table in Table::ALL {
        for key in [&b""[..], &[0], &[0xFF, 0xFF]] {
            let value = Bytes::from(vec![table as u8]);
            ok(kv.commit(Batch::from([((table, key.to_vec()), Some(value))])));
        }
    }
    for table in Table::ALL {
        let rows = all(&*kv, table);
        assert_eq!(rows.len(), 3, "rows of {table:?}");
        assert!(rows.iter().all(|(_, value)| **value == [table as u8]), "a row of another table in {table:?}");
        // A neighbour's number as a key must not reach into the neighbour.
        assert_eq!(ok(kv.get(table, &[table as u8 + 1])), None);
    }
    let cleared = all(&*kv, Table::Envelope).into_iter().map(|(key, _)| ((Table::Envelope, key), None)).collect();
    ok(kv.commit(cleared));
    assert!(all(&*kv, Table::Envelope).is_empty());
    assert_eq!(all(&*kv, Table::TransitFlow).len(), 3, "the table before the cleared one");
    assert_eq!(all(&*kv, Table::Body).len(), 3, "the table after the cleared one");
}

fn batches_are_whole(open: Open<'_>) {
    let mut kv = emptied(open);
    put(&mut *kv, Table::Inbox, b"old", b"x");
    let mut batch: Batch =
        Table::ALL.into_iter().map(|table| ((table, b"new".to_vec()), Some(Bytes::from_static(b"y")))).collect();
    batch.insert((Table::Inbox, b"old".to_vec()), None);
    ok(kv.commit(batch));
    drop(kv);
    let kv = open();
    assert_eq!(ok(kv.get(Table::Inbox, b"old")), None);
    assert!(Table::ALL.into_iter().all(|table| keys(all(&*kv, table)) == [b"new"]), "a part of a batch is missing");
}

fn large_values_fit(open: Open<'_>) {
    let mut kv = emptied(open);
    let mut random = Random(7);
    let value: Bytes = (0..1 << 20).map(|_| random.below(256) as u8).collect();
    for table in [Table::Meta, Table::Body] {
        ok(kv.commit(Batch::from([((table, vec![9; 300]), Some(value.clone()))])));
    }
    drop(kv);
    let kv = open();
    assert!(ok(kv.get(Table::Meta, &[9; 300])).is_some_and(|found| found == value));
    assert!(all(&*kv, Table::Body).iter().any(|(_, found)| *found == value));
}

fn everything_is_there_again(open: Open<'_>) {
    let mut kv = emptied(open);
    for round in 0..20_u8 {
        put(&mut *kv, Table::Timer, &[round], b"kept");
        ok(kv.commit(Batch::from([((Table::Timer, vec![round / 2]), None)])));
        drop(kv);
        kv = open();
        let expected: Vec<Vec<u8>> = (round / 2 + 1..=round).map(|key| vec![key]).collect();
        assert_eq!(keys(all(&*kv, Table::Timer)), expected, "after opening number {round}");
    }
}

/// What the store and the transaction should hold together.
type Model = BTreeMap<(Table, Vec<u8>), Bytes>;

/// Neighbours by number: a scan that runs over shows.
const TABLES: [Table; 3] = [Table::Body, Table::Due, Table::Message];

/// Random transactions against a model: some are committed, some dropped, and the store is opened again in between.
fn transactions_see_their_own_writes(open: Open<'_>) {
    let mut kv = emptied(open);
    let mut random = Random(0x5eed);
    let mut committed = Model::new();
    for round in 0..400 {
        let mut model = committed.clone();
        let mut tx = Tx::new(&*kv);
        for _ in 0..random.below(40) {
            step(&mut tx, &mut model, &mut random);
        }
        let outcome = tx.finish();
        if random.below(4) > 0 {
            ok(commit(&mut *kv, outcome));
            committed = model;
        }
        if round % 50 == 49 {
            drop(kv);
            kv = open();
        }
    }
    for table in TABLES {
        assert_eq!(all(&*kv, table), expected_scan(&committed, table, &[], &TOP, usize::MAX));
    }
}

fn step(tx: &mut Tx<'_>, model: &mut Model, random: &mut Random) {
    let table = random.one_of(&TABLES);
    let key = random.key();
    match random.below(8) {
        0..3 => {
            let value = Bytes::from(random.below(1 << 30).to_be_bytes().to_vec());
            tx.put_raw(table, key.clone(), value.clone());
            model.insert((table, key), value);
        }
        3..5 => {
            tx.delete_raw(table, key.clone());
            model.remove(&(table, key));
        }
        5 => assert_eq!(ok(tx.get_raw(table, &key)), model.get(&(table, key)).cloned()),
        _ => {
            let (to, limit) = (random.key(), random.one_of(&[0, 1, 2, 3, 7, 50, usize::MAX]));
            let found = ok(tx.scan_raw(table, &key, &to, limit));
            assert_eq!(found, expected_scan(model, table, &key, &to, limit), "{table:?} {key:?}..{to:?}, {limit}");
        }
    }
}

fn expected_scan(model: &Model, table: Table, from: &[u8], to: &[u8], limit: usize) -> Vec<Pair> {
    if from >= to {
        return Vec::new();
    }
    let range = (Bound::Included((table, from.to_vec())), Bound::Excluded((table, to.to_vec())));
    model.range(range).take(limit).map(|((_, key), value)| (key.clone(), value.clone())).collect()
}

/// The `SplitMix64` generator (Steele, Lea, Flood 2014): the suite does the same thing each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Few enough keys that writes, deletes and bounds meet.
    fn key(&mut self) -> Vec<u8> {
        (0..self.below(4)).map(|_| self.one_of(&[0, 1, 0x80, 0xFF])).collect()
    }
}
