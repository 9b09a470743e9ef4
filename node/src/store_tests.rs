//! The store on a real file system: the suite of every store, what a second node sees, what a torn log loses.

use std::fs::{self, OpenOptions};

use waypost_core::store::conformance;

use super::*;
use crate::quarantine;
use crate::testing::until;

const FORCED: Terms = Terms { force: true, accept_loss: false };

fn open(dir: &Path) -> RocksKv {
    RocksKv::open(dir, FORCED).unwrap()
}

fn refused(dir: &Path) -> OpenError {
    match RocksKv::open(dir, FORCED) {
        Err(error) => error,
        Ok(_) => panic!("it opened"),
    }
}

/// A store with ten messages of 100 and ten of 5,000 bytes, closed; gives its newest log.
fn filled(dir: &Path) -> PathBuf {
    let mut kv = open(dir);
    for key in 0..10 {
        put(&mut kv, Table::Meta, key, vec![key; 100]);
        put(&mut kv, Table::Body, key, vec![key; 5000]);
    }
    drop(kv);
    newest_log(&dir.join(PLACE))
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
    assert!(matches!(RocksKv::open(dir.path(), FORCED), Err(OpenError::InUse(place)) if place == dir.path()));
    let upkeep = kv.upkeep();
    drop(kv);
    let _again = open(dir.path());
    assert!(upkeep.free_bytes().is_err(), "what looks after a store does not keep it open");
}

/// STORE-1, DISK-2: what a crash tears off the end of the log, before the mark, is the last write and nothing else.
#[test]
fn a_torn_log_loses_its_tail_only() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path());
    let before = open_mark(dir.path());
    // The last write was torn while it was synced: its mark was never set.
    Mark::open(dir.path()).unwrap().0.set(before - 1).unwrap();
    cut(&log, 3);
    let kv = open(dir.path());
    for key in 0..10 {
        assert_eq!(kv.get(Table::Meta, &[key]).unwrap(), Some(Bytes::from(vec![key; 100])));
        let body = (key < 9).then(|| Bytes::from(vec![key; 5000]));
        assert_eq!(kv.get(Table::Body, &[key]).unwrap(), body, "body {key}");
    }
    assert!(kv.sequence() < before, "a lost write shows in the count");
    assert!(!dir.path().join("quarantine").exists(), "nobody was told of it: nothing is lost");
}

fn open_mark(dir: &Path) -> u64 {
    match Mark::open(dir).unwrap().1 {
        Found::Synced(sequence) => sequence,
        other => panic!("{other:?}"),
    }
}

fn cut(file: &Path, bytes: u64) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
}

/// DISK-1: the loss of a synced write is said with its numbers, wherever the log was damaged, and the log is kept.
#[test]
fn a_log_behind_its_mark_is_told_and_kept() {
    type Damage = fn(&Path);
    let flip: Damage = |log| {
        let mut bytes = fs::read(log).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(log, bytes).unwrap();
    };
    let torn: Damage = |log| cut(log, 3);
    let emptied: Damage = |log| cut(log, fs::metadata(log).unwrap().len());
    for (damage, least, most) in [(torn, 1, 1), (flip, 5, 15), (emptied, 20, 20)] {
        let dir = tempfile::tempdir().unwrap();
        let log = filled(dir.path());
        let marked = open_mark(dir.path());
        damage(&log);
        let damaged = fs::read(&log).unwrap();
        let kv = open(dir.path());
        let lost = marked - kv.sequence();
        assert!((least..=most).contains(&lost), "{lost} of {marked}");
        let told = quarantine::last_loss(dir.path()).unwrap();
        let numbers = format!("lost {lost} synced writes: {marked} were written, {} are there", kv.sequence());
        assert!(told.contains(&numbers), "{told}");
        let kept = dir.path().join("quarantine/1").join(log.file_name().unwrap());
        assert_eq!(fs::read(kept).unwrap(), damaged);
        drop(kv);
        drop(open(dir.path()));
        assert!(!dir.path().join("quarantine/2").exists(), "told once");
    }
}

/// DISK-1: each commit is marked before it returns.
#[test]
fn a_commit_is_marked() {
    let dir = tempfile::tempdir().unwrap();
    let mut kv = open(dir.path());
    for key in 0..3 {
        put(&mut kv, Table::Meta, key, vec![1]);
        assert_eq!(open_mark(dir.path()), kv.sequence());
    }
}

/// DISK-1, STORE-3: a commit whose mark fails is indeterminate like any other failure.
#[test]
fn a_mark_that_fails_is_a_failed_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut kv = open(dir.path());
    kv.mark = Mark::read_only(dir.path());
    let failed = kv.commit(Batch::from([((Table::Meta, vec![1]), Some(Bytes::new()))])).unwrap_err();
    assert!(failed.to_string().contains("commit mark"), "{failed}");
    assert!(kv.commit(Batch::new()).is_err());
}

/// DISK-2: a database of which something is missing is refused with what to do, and left as it is; never an empty one
/// in its place. With leave it is set aside whole.
#[test]
fn a_store_with_a_missing_part_is_refused_and_never_emptied() {
    for part in ["CURRENT", "MANIFEST", ".sst", ""] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        // Opening writes the log into tables.
        drop(open(dir.path()));
        let place = dir.path().join(PLACE);
        if part.is_empty() {
            fs::remove_dir_all(&place).unwrap();
        } else {
            let files = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path());
            let part = files.filter(|path| path.to_string_lossy().contains(part)).max().unwrap();
            fs::remove_file(part).unwrap();
        }
        for _ in 0..2 {
            let error = refused(dir.path());
            assert!(matches!(error, OpenError::Gone(_) | OpenError::Damaged { .. }), "{part}: {error}");
            assert!(error.to_string().contains("--accept-loss"), "{error}");
        }
        assert_eq!(quarantine::last_loss(dir.path()), None);
        let left = fs::read_dir(&place).map_or(0, Iterator::count);
        let kv = RocksKv::open(dir.path(), Terms { accept_loss: true, ..FORCED }).unwrap();
        assert_eq!(kv.get(Table::Meta, &[1]).unwrap(), None);
        let told = quarantine::last_loss(dir.path()).unwrap();
        assert!(told.contains("lost 20 synced writes"), "{told}");
        let kept = fs::read_dir(dir.path().join("quarantine/1/store-1")).map_or(0, Iterator::count);
        assert!(kept >= left, "{kept} of {left} files of {part:?}");
        drop(kv);
        drop(open(dir.path()));
    }
}

/// DISK-1: without a readable mark nothing is known, and that is said too.
#[test]
fn a_damaged_mark_is_told() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    fs::write(dir.path().join("mark"), "rot").unwrap();
    let kv = open(dir.path());
    assert_eq!(kv.get(Table::Meta, &[9]).unwrap(), Some(Bytes::from(vec![9; 100])));
    let told = quarantine::last_loss(dir.path()).unwrap();
    assert!(told.starts_with("the commit mark was damaged"), "{told}");
    drop(kv);
    drop(open(dir.path()));
    assert!(!dir.path().join("quarantine/2").exists(), "told once");
}

/// DISK-2: a member without a store is refused even when its mark is gone too; one that has never run is not.
#[test]
fn who_was_a_member_had_a_store() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("network"), "n").unwrap();
    assert!(matches!(refused(dir.path()), OpenError::Gone(_)));
    fs::write(dir.path().join("invitation"), "i").unwrap();
    drop(open(dir.path()));
}

/// DISK-2: a disk that fails may work later; that is no reason to give anything up.
#[test]
fn a_failing_disk_is_told_from_a_damaged_store() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    // Where the database wants a file there is a folder.
    let place = dir.path().join(PLACE);
    fs::remove_file(place.join("LOCK")).unwrap();
    fs::create_dir(place.join("LOCK")).unwrap();
    assert!(matches!(refused(dir.path()), OpenError::Database { .. }));
    fs::remove_dir(place.join("LOCK")).unwrap();
    drop(open(dir.path()));
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

/// DISK-3: also what the database does not think worth while, with as many rows new as old ones gone.
#[test]
fn room_comes_back_at_once_when_there_is_little() {
    let dir = tempfile::tempdir().unwrap();
    let mut kv = open(dir.path());
    let mut value = vec![0; 256 << 10];
    for key in 0..160 {
        getrandom::fill(&mut value).unwrap();
        put(&mut kv, Table::Body, key, value.clone());
    }
    let gone_and_new = (0..160).flat_map(|key| {
        let news = (0..3).map(move |copy| ((Table::Inbox, vec![key, copy]), Some(Bytes::from_static(b"new"))));
        news.chain([((Table::Body, vec![key]), None)])
    });
    kv.commit(gone_and_new.collect()).unwrap();
    kv.upkeep().free_deleted().unwrap();
    kv.upkeep().compact_deleted().unwrap();
    until("the space", || kv.upkeep().bytes_on_disk().is_ok_and(|bytes| bytes < 1 << 20));
}

/// DISK-3: what lies in memory must yet become a table, and a table may be written once more.
#[test]
fn what_the_database_owes_the_disk_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut kv = open(dir.path());
    let nothing = kv.upkeep().owed_bytes().unwrap();
    assert!(nothing < 1 << 20, "{nothing}");
    let mut value = vec![0; 256 << 10];
    for key in 0..20 {
        getrandom::fill(&mut value).unwrap();
        put(&mut kv, Table::Body, key, value.clone());
    }
    let in_memory = kv.upkeep().owed_bytes().unwrap();
    assert!((10 << 20..16 << 20).contains(&in_memory), "{in_memory}");
    kv.commit(vec![((Table::Body, vec![0]), None)].into_iter().collect()).unwrap();
    kv.upkeep().free_deleted().unwrap();
    let in_tables = kv.upkeep().owed_bytes().unwrap();
    assert!((4 << 20..8 << 20).contains(&in_tables), "{in_tables}");
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
        ("wal_recovery_mode=kAbsoluteConsistency", 1),
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
        ("max_bytes_for_level_base=67108864", 2),
        ("max_compaction_bytes=67108864", 2),
        ("format_version=6", 2),
        ("checksum=kXXH3", 2),
        ("merge_operator=nullptr", 2),
        ("compaction_filter=nullptr", 2),
    ] {
        let found = text.lines().filter(|line| line.trim() == setting).count();
        assert_eq!(found, count, "{setting} in {text}");
    }
}
