//! The engine's store on RocksDB: the only file that names it. One batch, one synced write (rule STORE-1); after the
//! first failure nothing is written any more (rule STORE-3); a log that lost synced writes is noticed when it is opened
//! (rules DISK-1, DISK-2). What the rows mean is not known here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ChecksumType, ColumnFamily, ColumnFamilyDescriptor, CompactOptions,
    DB, DBCompressionType, DBRecoveryMode, DEFAULT_COLUMN_FAMILY_NAME, ErrorKind, FlushOptions, LiveFile, Options,
    ReadOptions, WriteBatch, WriteOptions, properties,
};
use waypost_core::store::kv::{Batch, Kv, Pair, StoreError, Table};

use crate::ballast::Ballast;
use crate::disk::{self, DataDirectory, OpenError, Terms};
use crate::identity;
use crate::mark::{Found, Mark};
use crate::quarantine::Holding;

/// Where in the data directory the database lies.
const PLACE: &str = "store";

/// The file in it that names the newest description of the database: without it there is none.
const CURRENT: &str = "CURRENT";

/// The column family of big values, so that compacting small rows does not carry them along.
const BODIES: &str = "bodies";

const MIB: usize = 1 << 20;

/// Memory for writes not yet in table files, both column families together: all their memtables, also those that are being
/// written out. A bound of the database's own would count only those that are not.
const MEMTABLES: usize = 5 * MEMTABLE;

/// One of them.
const MEMTABLE: usize = 8 * MIB;

/// Memory for what was read, filters and indexes included.
const BLOCK_CACHE: usize = 24 * MIB;

/// Log beyond which the oldest memtables are written out: it bounds what a start has to read.
const LOG_BYTES: u64 = 128 * MIB as u64;

/// The largest level that new table files are merged into, and about the most that one compaction reads: what it writes
/// must have room beside that until it is done (rule DISK-3).
const MERGED_BYTES: u64 = 64 * MIB as u64;

/// One table file below the first level.
const TABLE_BYTES: u64 = 16 * MIB as u64;

/// What the bindings have no call for, in RocksDB's own words: read new table files back and compare, carry a checksum
/// with each row in memory, check the order of levels, and never go on by itself after a failed write.
const STRICTER: &str = "paranoid_file_checks=true;memtable_protection_bytes_per_key=8;\
    force_consistency_checks=true;max_bgerror_resume_count=0";

/// A database and the lock on its directory, which outlives it.
struct Opened {
    db: DB,
    directory: DataDirectory,
}

/// The store of the one engine of a data directory.
pub struct RocksKv {
    opened: Arc<Opened>,
    synced: WriteOptions,
    mark: Mark,
    /// Why nothing may be written any more.
    latch: Option<String>,
}

impl RocksKv {
    /// Opens the store of a data directory and makes both if neither was ever there. What a power cut tore off the end
    /// of the log is dropped; what else is missing is kept in quarantine, and the log says so.
    ///
    /// # Errors
    /// When another node has the directory, when mail would not last there, or when the store is gone or does not open.
    pub fn open(dir: &Path, terms: Terms) -> Result<Self, OpenError> {
        let directory = DataDirectory::claim(dir, terms.force)?;
        Ballast::of(dir, None).make_room_to_start();
        let refused = |source| OpenError::Directory { dir: dir.to_owned(), source };
        let (mut mark, marked) = Mark::open(dir).map_err(refused)?;
        let db = Opening { dir, place: dir.join(PLACE), marked, terms }.open()?;
        mark.set(db.latest_sequence_number()).map_err(refused)?;
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Ok(Self { opened: Arc::new(Opened { db, directory }), synced, mark, latch: None })
    }

    /// What to look after the store with while the engine's thread has it.
    #[must_use]
    pub fn upkeep(&self) -> Upkeep {
        Upkeep { opened: Arc::downgrade(&self.opened), place: self.opened.directory.path().join(PLACE) }
    }

    /// The database's own count of writes. It goes back only when writes were lost.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.opened.db.latest_sequence_number()
    }

    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let mut writes = WriteBatch::default();
        for ((table, key), value) in batch {
            let family = self.opened.family(table)?;
            match value {
                Some(value) => writes.put_cf(family, on_disk(table, &key), value),
                None => writes.delete_cf(family, on_disk(table, &key)),
            }
        }
        self.opened.db.write_opt(writes, &self.synced).map_err(failed)
    }

    /// Rule DISK-1: after the log's sync, so that the mark is never ahead of a sound log; before the commit returns, so
    /// that no claim ever leaves for a write whose loss would go unnoticed.
    fn mark(&mut self) -> Result<(), StoreError> {
        let marked = self.mark.set(self.opened.db.latest_sequence_number());
        marked.map_err(|error| StoreError::Failed(format!("the commit mark cannot be written: {error}")))
    }
}

/// The way from a data directory to its open database (rule DISK-2).
struct Opening<'a> {
    dir: &'a Path,
    place: PathBuf,
    marked: Found,
    terms: Terms,
}

impl Opening<'_> {
    fn open(&self) -> Result<DB, OpenError> {
        let is_there = self.place.join(CURRENT).exists();
        if !is_there && self.was_here() && !self.terms.accept_loss {
            return Err(OpenError::Gone(self.dir.to_owned()));
        }
        disk::make_directory(&self.place).map_err(|source| self.refused(source))?;
        let holding = Holding::of(self.dir, &self.place).map_err(|source| self.refused(source))?;
        if !is_there && self.was_here() {
            // What is left of it would be cleared away by the new one.
            holding.take(&self.place).map_err(|source| self.refused(source))?;
            disk::make_directory(&self.place).map_err(|source| self.refused(source))?;
        }
        let (db, torn) = match self.recover(is_there) {
            Err(error @ OpenError::Damaged { .. }) if self.terms.accept_loss => {
                tracing::error!(why = %error, "the store does not open");
                (self.replace(&holding)?, None)
            }
            Err(error) => {
                // What was held is still in the store.
                let _ = holding.release();
                return Err(error);
            }
            Ok(recovered) => recovered,
        };
        self.compare(&db, torn, holding)?;
        Ok(db)
    }

    /// Whether there was a database: a mark was set, or the node has been a member, whose certificate lies in one.
    fn was_here(&self) -> bool {
        self.marked != Found::Nothing || identity::has_been_member(self.dir)
    }

    /// Strictly first, so that damage is seen; then up to the first damaged record, and what was wrong there.
    fn recover(&self, is_there: bool) -> Result<(DB, Option<String>), OpenError> {
        let strict = match open_database(&self.place, DBRecoveryMode::AbsoluteConsistency, !is_there) {
            Ok(db) => return Ok((db, None)),
            Err(error) => error,
        };
        if strict.kind() != ErrorKind::Corruption {
            return Err(self.broken(strict));
        }
        let db = open_database(&self.place, DBRecoveryMode::PointInTime, false).map_err(|error| self.broken(error))?;
        Ok((db, Some(strict.into_string())))
    }

    /// A file that is not there will not come back by itself; a disk that is full or does not answer may.
    fn broken(&self, error: rocksdb::Error) -> OpenError {
        let (dir, kind, why) = (self.dir.to_owned(), error.kind(), error.into_string());
        let passes = match kind {
            ErrorKind::IOError => !why.contains("No such file"),
            ErrorKind::Busy | ErrorKind::TryAgain | ErrorKind::TimedOut | ErrorKind::Aborted => true,
            _ => false,
        };
        if passes { OpenError::Database { dir, why } } else { OpenError::Damaged { dir, why } }
    }

    fn replace(&self, holding: &Holding) -> Result<DB, OpenError> {
        holding.take(&self.place).map_err(|source| self.refused(source))?;
        disk::make_directory(&self.place).map_err(|source| self.refused(source))?;
        let opened = open_database(&self.place, DBRecoveryMode::AbsoluteConsistency, true);
        opened.map_err(|error| self.broken(error))
    }

    /// Rule DISK-1: a log ahead of the mark is a torn tail nobody was told of; a mark ahead of the log is lost mail.
    fn compare(&self, db: &DB, torn: Option<String>, holding: Holding) -> Result<(), OpenError> {
        let found = db.latest_sequence_number();
        let words = match self.marked {
            Found::Synced(marked) if found < marked => {
                let why = torn.as_deref().unwrap_or("its files were cut short, replaced or rolled back");
                format!(
                    "the store lost {} synced writes: {marked} were written, {found} are there ({why})",
                    marked - found
                )
            }
            Found::Damaged => {
                format!("the commit mark was damaged: whether the store lost writes cannot be told, {found} are there")
            }
            Found::Nothing if self.was_here() && found == 0 => {
                "the store was gone; an empty one took its place".to_owned()
            }
            _ => {
                if let Some(why) = torn {
                    tracing::info!(why, "the end of the log was torn and dropped; nobody was told of what was in it");
                }
                return holding.release().map_err(|source| self.refused(source));
            }
        };
        let kept = holding.keep(&words).map_err(|source| self.refused(source))?;
        tracing::error!(
            why = words,
            file = %kept.display(),
            "the store lost writes; the damaged files are kept. Neighbours will offer again what they still hold; mail \
             that only this node held may be lost"
        );
        Ok(())
    }

    fn refused(&self, source: io::Error) -> OpenError {
        OpenError::Directory { dir: self.dir.to_owned(), source }
    }
}

impl Opened {
    fn family(&self, table: Table) -> Result<&ColumnFamily, StoreError> {
        let name = family_of(table);
        self.db.cf_handle(name).ok_or_else(|| StoreError::Failed(format!("there is no column family {name}")))
    }
}

impl Kv for RocksKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let unread = |error: rocksdb::Error| match (table, error.kind()) {
            // One message's loss, not the node's (rule DAMAGE-1).
            (Table::Body, ErrorKind::Corruption) => StoreError::Damaged { table, why: error.into_string() },
            _ => failed(error),
        };
        let found = self.opened.db.get_cf(self.opened.family(table)?, on_disk(table, key)).map_err(unread)?;
        Ok(found.map(Bytes::from))
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        let mut pairs = Vec::new();
        if from >= to {
            return Ok(pairs);
        }
        let mut bounded = ReadOptions::default();
        bounded.set_iterate_range(on_disk(table, from)..on_disk(table, to));
        let mut rows = self.opened.db.raw_iterator_cf_opt(self.opened.family(table)?, bounded);
        rows.seek_to_first();
        while pairs.len() < limit {
            // No row is the end or a failed read: the status tells.
            let Some((key, value)) = rows.item() else {
                rows.status().map_err(failed)?;
                break;
            };
            pairs.push((key[1..].to_vec(), Bytes::copy_from_slice(value)));
            rows.next();
        }
        Ok(pairs)
    }

    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        if let Some(why) = &self.latch {
            return Err(StoreError::Failed(format!("nothing is written after a failed write, which was: {why}")));
        }
        if batch.is_empty() {
            return Ok(());
        }
        let done = self.write(batch).and_then(|()| self.mark());
        // Whether a failed write is on disk only the next start can tell: to write on could make half of it true.
        self.latch = done.as_ref().err().map(ToString::to_string);
        done
    }
}

/// Looks after a store from outside the engine's thread. Does not keep it open.
#[derive(Clone)]
pub struct Upkeep {
    opened: Weak<Opened>,
    place: PathBuf,
}

impl Upkeep {
    /// Bytes of the store's files.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn bytes_on_disk(&self) -> io::Result<u64> {
        disk::bytes_in(&self.place)
    }

    /// Bytes that may still be written on the data directory's file system.
    ///
    /// # Errors
    /// When the system does not say, or the store is closed.
    pub fn free_bytes(&self) -> io::Result<u64> {
        self.opened.upgrade().ok_or_else(closed)?.directory.free_bytes()
    }

    /// Bytes that the database will yet write of what it has, whatever comes: its memory as table files, then these and
    /// the other new ones once more together with those they are merged into, whose room comes back only afterwards
    /// (rule DISK-3).
    ///
    /// # Errors
    /// When the database refuses, or the store is closed.
    pub fn owed_bytes(&self) -> io::Result<u64> {
        let opened = self.opened.upgrade().ok_or_else(closed)?;
        let files = opened.db.live_files().map_err(io::Error::other)?;
        let (mut memory, mut compaction) = (0, 0);
        for name in [DEFAULT_COLUMN_FAMILY_NAME, BODIES] {
            let Some(family) = opened.db.cf_handle(name) else { continue };
            let in_memory = opened.db.property_int_value_cf(family, properties::CUR_SIZE_ALL_MEM_TABLES);
            memory += in_memory.map_err(io::Error::other)?.unwrap_or(0);
            let of_family = files.iter().filter(|file| file.column_family_name == name);
            let (new, merged): (Vec<_>, Vec<_>) = of_family.partition(|file| file.level == 0);
            compaction = compaction.max(bytes_of(&new) + bytes_of(&merged).min(MERGED_BYTES));
        }
        Ok(2 * memory + compaction)
    }

    /// Writes deletions that are only in memory into table files, where they set off the compaction that frees the
    /// space of what they delete. Without it a drained store keeps its size until it is written to again. To be called
    /// every minute or so, never by the engine's thread: it waits for the disk.
    ///
    /// # Errors
    /// When the database refuses, or the store is closed.
    pub fn free_deleted(&self) -> io::Result<()> {
        let opened = self.opened.upgrade().ok_or_else(closed)?;
        for name in [DEFAULT_COLUMN_FAMILY_NAME, BODIES] {
            let Some(family) = opened.db.cf_handle(name) else { continue };
            let deletions = opened.db.property_int_value_cf(family, properties::NUM_DELETES_ACTIVE_MEM_TABLE);
            if deletions.map_err(io::Error::other)?.is_some_and(|count| count > 0) {
                opened.db.flush_cf_opt(family, &FlushOptions::default()).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    /// Compacts what deletions in table files cover, so that its room comes back at once and not when the database
    /// thinks it worth while. Not without the room that a compaction takes first. To be called when there is little
    /// room, never by the engine's thread: it waits for the disk.
    ///
    /// # Errors
    /// When the database refuses, or the store is closed.
    pub fn compact_deleted(&self) -> io::Result<()> {
        let opened = self.opened.upgrade().ok_or_else(closed)?;
        if opened.directory.free_bytes()? < self.owed_bytes()? {
            return Ok(());
        }
        let mut beside_others = CompactOptions::default();
        beside_others.set_exclusive_manual_compaction(false);
        for file in opened.db.live_files().map_err(io::Error::other)?.iter().filter(|file| is_worth_compacting(file)) {
            let Some(family) = opened.db.cf_handle(&file.column_family_name) else { continue };
            let (from, to) = (file.start_key.as_deref(), file.end_key.as_deref());
            opened.db.compact_range_cf_opt(family, from, to, &beside_others);
        }
        Ok(())
    }
}

/// A table file of which so large a part is deletions is worth compacting for the room it brings.
fn is_worth_compacting(file: &LiveFile) -> bool {
    file.num_deletions > 0 && file.num_deletions.saturating_mul(8) >= file.num_entries
}

fn bytes_of(files: &[&LiveFile]) -> u64 {
    files.iter().map(|file| file.size as u64).sum()
}

fn closed() -> io::Error {
    io::Error::other("the store is closed")
}

fn failed(error: rocksdb::Error) -> StoreError {
    StoreError::Failed(error.into_string())
}

/// In which column family a table lies. Part of the format on disk: it never changes for a table (rule STORE-2).
fn family_of(table: Table) -> &'static str {
    match table {
        Table::Body | Table::Inbox | Table::Stage => BODIES,
        _ => DEFAULT_COLUMN_FAMILY_NAME,
    }
}

/// A key as it is on disk: the table's number, then the key (rule STORE-2).
fn on_disk(table: Table, key: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(1 + key.len());
    whole.push(table as u8);
    whole.extend_from_slice(key);
    whole
}

fn open_database(place: &Path, recovery: DBRecoveryMode, create: bool) -> Result<DB, rocksdb::Error> {
    let cache = Cache::new_lru_cache(BLOCK_CACHE);
    let families = [
        ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, family_options(&cache, 2)?),
        ColumnFamilyDescriptor::new(BODIES, family_options(&cache, 3)?),
    ];
    let mut options = database_options()?;
    options.set_wal_recovery_mode(recovery);
    options.create_if_missing(create);
    DB::open_cf_descriptors(&options, place, families)
}

fn database_options() -> Result<Options, rocksdb::Error> {
    let mut options = Options::default().get_options_from_string(STRICTER)?;
    options.create_missing_column_families(true);
    durable_log(&mut options);
    options.set_paranoid_checks(true);
    options.set_db_write_buffer_size(MEMTABLES);
    options.set_max_background_jobs(2);
    options.set_max_open_files(256);
    // The database's diary, which is not its log of writes: at most 4 MiB, without periodic statistics.
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(MIB);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    Ok(options)
}

/// The log of writes is what a commit rests on (rule STORE-1): synced with each batch and never reused.
fn durable_log(options: &mut Options) {
    options.set_manual_wal_flush(false);
    options.set_recycle_log_file_num(0);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(LOG_BYTES);
}

fn family_options(cache: &Cache, memtables: i32) -> Result<Options, rocksdb::Error> {
    let mut options = Options::default().get_options_from_string(STRICTER)?;
    options.set_write_buffer_size(MEMTABLE);
    options.set_max_write_buffer_number(memtables);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_max_bytes_for_level_base(MERGED_BYTES);
    options.set_max_compaction_bytes(MERGED_BYTES);
    options.set_target_file_size_base(TABLE_BYTES);
    options.set_block_based_table_factory(&table_options(cache));
    // Mail comes and goes: a file that is half deletions is compacted at once, so that drained space comes back and
    // scans do not wade through what is gone.
    options.add_compact_on_deletion_collector_factory(1024, 512, 0.5);
    Ok(options)
}

fn table_options(cache: &Cache) -> BlockBasedOptions {
    let mut options = BlockBasedOptions::default();
    // From version 6 a block's checksum covers its file and place: a block written to the wrong place is found.
    options.set_format_version(6);
    options.set_checksum_type(ChecksumType::XXH3);
    options.set_block_cache(cache);
    options.set_cache_index_and_filter_blocks(true);
    options.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // In small parts: the filter of a whole file of small rows is larger than a shard of the cache, and then each look-up
    // reads all of it from disk again.
    options.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    options.set_partition_filters(true);
    options.set_pin_top_level_index_and_filter(true);
    options.set_bloom_filter(10.0, false);
    options
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
