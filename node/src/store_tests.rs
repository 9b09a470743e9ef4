//! The store on a real file system: the suite of every store, what a second node sees, what a torn log loses.

use std::fs::{self, OpenOptions};

use waypost_core::store::conformance;

use super::*;
use crate::testing::until;

fn open(dir: &Path) -> RocksKv {
    RocksKv::open(dir, true).unwrap()
}

fn put(kv: &mut RocksKv, table: Table, key: u8, value: Vec<u8>) {
    kv.commit(Batch::from([((table, vec![key]), Some(Bytes::from(value)))])).unwrap();
}

#[test]
fn rocksdb_is_a_store() {
    let dir = tempfile::tempdir().unwrap();
    conformance::run(&mut || Box::new(open(dir.path())));
}

#[test]
fn the_stricter_options_are_known() {
    Options::default().get_options_from_string(STRICTER).unwrap();
    assert!(Options::default().get_options_from_string("no_such_option=1").is_err(), "a wrong name is noticed");
}

/// STORE-2: where a table's rows lie is part of the format.
#[test]
fn keys_on_disk_begin_with_the_tables_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut kv = open(dir.path());
    put(&mut kv, Table::Body, 9, vec![1]);
    put(&mut kv, Table::Due, 9, vec![2]);
    let db = &kv.opened.db;
    assert_eq!(db.get_cf(db.cf_handle("bodies").unwrap(), [7, 9]).unwrap(), Some(vec![1]));
    assert_eq!(db.get([8, 9]).unwrap(), Some(vec![2]));
    let big: Vec<Table> = Table::ALL.into_iter().filter(|table| family_of(*table) == BODIES).collect();
    assert_eq!(big, [Table::Body, Table::Inbox, Table::Stage]);
}

#[test]
fn a_second_node_is_told_who_is_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let kv = open(dir.path());
    assert!(matches!(RocksKv::open(dir.path(), true), Err(OpenError::InUse(place)) if place == dir.path()));
    let upkeep = kv.upkeep();
    drop(kv);
    let _again = open(dir.path());
    assert!(upkeep.free_bytes().is_err(), "what looks after a store does not keep it open");
}

/// STORE-1: what a crash tears off the end of the log is the last write and nothing else.
#[test]
fn a_torn_log_loses_its_tail_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut kv = open(dir.path());
    for key in 0..10 {
        put(&mut kv, Table::Meta, key, vec![key; 100]);
        put(&mut kv, Table::Body, key, vec![key; 5000]);
    }
    let before = kv.sequence();
    drop(kv);
    let log = OpenOptions::new().write(true).open(newest_log(&dir.path().join(PLACE))).unwrap();
    log.set_len(log.metadata().unwrap().len() - 3).unwrap();
    let kv = open(dir.path());
    for key in 0..10 {
        assert_eq!(kv.get(Table::Meta, &[key]).unwrap(), Some(Bytes::from(vec![key; 100])));
        let body = (key < 9).then(|| Bytes::from(vec![key; 5000]));
        assert_eq!(kv.get(Table::Body, &[key]).unwrap(), body, "body {key}");
    }
    assert!(kv.sequence() < before, "a lost write shows in the count");
}

fn newest_log(place: &Path) -> PathBuf {
    let files = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|ending| ending == "log")).max().unwrap()
}

/// STORE-3: after a failed write, nothing is written.
#[test]
fn a_failed_write_is_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut kv = open(dir.path());
    put(&mut kv, Table::Meta, 1, vec![1]);
    kv.latch = Some("the disk is on fire".to_owned());
    let refused = kv.commit(Batch::from([((Table::Meta, vec![2]), Some(Bytes::new()))])).unwrap_err();
    assert!(refused.to_string().ends_with("the disk is on fire"), "{refused}");
    assert!(kv.commit(Batch::new()).is_err(), "not even nothing");
    assert_eq!(kv.get(Table::Meta, &[2]).unwrap(), None);
}

/// A drained store gives its space back although nothing more is written.
#[test]
fn drained_space_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut kv = open(dir.path());
    // Does not compress.
    let mut value = vec![0; 256 << 10];
    for key in 0..160 {
        getrandom::fill(&mut value).unwrap();
        put(&mut kv, Table::Body, key, value.clone());
    }
    let full = kv.upkeep().bytes_on_disk().unwrap();
    assert!(full > 40 << 20, "{full}");
    kv.commit((0..160).map(|key| ((Table::Body, vec![key]), None)).collect()).unwrap();
    kv.upkeep().free_deleted().unwrap();
    until("the space", || kv.upkeep().bytes_on_disk().is_ok_and(|bytes| bytes < full / 8));
}

/// What the database says it runs with: durability must not hang on a default or on a setter that did nothing.
#[test]
fn the_settings_are_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let _kv = open(dir.path());
    let files = fs::read_dir(dir.path().join(PLACE)).unwrap().map(|entry| entry.unwrap().path());
    let newest = files.filter(|path| path.to_string_lossy().contains("OPTIONS-")).max().unwrap();
    let text = fs::read_to_string(newest).unwrap();
    for (setting, count) in [
        ("manual_wal_flush=false", 1),
        ("wal_recovery_mode=kPointInTimeRecovery", 1),
        ("track_and_verify_wals_in_manifest=true", 1),
        ("recycle_log_file_num=0", 1),
        ("paranoid_checks=true", 1),
        ("max_bgerror_resume_count=0", 1),
        ("max_total_wal_size=134217728", 1),
        ("unordered_write=false", 1),
        ("enable_pipelined_write=false", 1),
        ("two_write_queues=false", 1),
        ("allow_2pc=false", 1),
        ("avoid_flush_during_recovery=false", 1),
        ("wal_bytes_per_sync=0", 1),
        ("paranoid_file_checks=true", 2),
        ("memtable_protection_bytes_per_key=8", 2),
        ("force_consistency_checks=true", 2),
        ("compression=kLZ4Compression", 2),
        ("format_version=6", 2),
        ("checksum=kXXH3", 2),
        ("merge_operator=nullptr", 2),
        ("compaction_filter=nullptr", 2),
    ] {
        let found = text.lines().filter(|line| line.trim() == setting).count();
        assert_eq!(found, count, "{setting} in {text}");
    }
}
