//! A transaction over the store: reads see its own writes; outward effects are collected and claims leave only from
//! [`commit`]. "No acknowledgement before the disk has it" is a type here, not a habit (rule CLAIM-1).

use std::collections::VecDeque;
use std::ops::Bound;

use bytes::Bytes;

use super::keys::Key as _;
use super::kv::{Batch, Kv, Pair, StoreError, Table};
use super::tables::{BodyKey, Record};
use crate::engine::effect::Effect;
use crate::planted::{self, Bug};

/// Writes and effects of one or more steps, not yet on disk.
pub struct Tx<'kv> {
    kv: &'kv dyn Kv,
    writes: Batch,
    claims: Vec<Effect>,
    hints: Vec<Effect>,
}

/// What a round of steps wants: a batch, and the claims that are true once it is synced.
///
/// The claims cannot be had without [`commit`].
pub struct Outcome {
    batch: Batch,
    claims: Vec<Effect>,
    hints: Vec<Effect>,
}

impl Outcome {
    /// Effects on which nothing depends; they may leave at once. A second call returns none.
    pub fn take_hints(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.hints)
    }

    /// Whether there is anything to sync.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }
}

/// Syncs an outcome and gives out its claims: the only way to get at them (rule CLAIM-1).
///
/// # Errors
/// The store failed: the batch is indeterminate, no claim may ever leave, the process must end (rule STORE-3).
pub fn commit(kv: &mut dyn Kv, outcome: Outcome) -> Result<Vec<Effect>, StoreError> {
    if !outcome.batch.is_empty() {
        kv.commit(outcome.batch)?;
    }
    Ok(outcome.claims)
}

impl<'kv> Tx<'kv> {
    /// An empty transaction over a store.
    #[must_use]
    pub fn new(kv: &'kv dyn Kv) -> Self {
        Self { kv, writes: Batch::new(), claims: Vec::new(), hints: Vec::new() }
    }

    /// An effect that says something about what is stored: it leaves after the sync.
    pub fn claim(&mut self, effect: Effect) {
        if planted::is(Bug::ClaimsLeaveAsHints) {
            return self.hint(effect);
        }
        self.claims.push(effect);
    }

    /// An effect on which nothing depends: it may leave before the sync, or never.
    pub fn hint(&mut self, effect: Effect) {
        self.hints.push(effect);
    }

    /// Whether anything was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Ends the transaction.
    #[must_use]
    pub fn finish(self) -> Outcome {
        Outcome { batch: self.writes, claims: self.claims, hints: self.hints }
    }

    /// The value of a key, own writes included.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get_raw(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if let Some(value) = self.writes.get(&(table, key.to_vec())) {
            return Ok(value.clone());
        }
        self.kv.get(table, key)
    }

    /// A part of a body. One that cannot be read back is as good as missing: whoever needed it reports it (rule
    /// DAMAGE-1). Bodies are read in no other way, and never scanned: one bad block must not take the node down.
    ///
    /// # Errors
    /// When the store failed.
    pub fn body(&self, key: BodyKey) -> Result<Option<Bytes>, StoreError> {
        match self.get_raw(Table::Body, &key.encode()) {
            Err(StoreError::Damaged { table: Table::Body, .. }) => Ok(None),
            found => found,
        }
    }

    /// Sets a key.
    pub fn put_raw(&mut self, table: Table, key: Vec<u8>, value: Bytes) {
        self.writes.insert((table, key), Some(value));
    }

    /// Removes a key.
    pub fn delete_raw(&mut self, table: Table, key: Vec<u8>) {
        self.writes.insert((table, key), None);
    }

    /// At most `limit` pairs with `from <= key < to`, own writes included.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn scan_raw(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        // A range of a map that ends before it begins is a panic, not an empty range.
        if from >= to {
            return Ok(Vec::new());
        }
        let range = (Bound::Included((table, from.to_vec())), Bound::Excluded((table, to.to_vec())));
        let mut own = self.writes.range(range).map(|((_, key), value)| (key, value)).peekable();
        let mut stored = Stored::new(self.kv, table, from, to, limit);
        let mut pairs = Vec::new();
        while pairs.len() < limit {
            let head = stored.head()?;
            match own.next_if(|(key, _)| head.is_none_or(|(stored_key, _)| *key <= stored_key)) {
                Some((key, value)) => {
                    if head.is_some_and(|(stored_key, _)| stored_key == key) {
                        stored.take();
                    }
                    pairs.extend(value.as_ref().map(|value| (key.clone(), value.clone())));
                }
                None => match stored.take() {
                    Some(pair) => pairs.push(pair),
                    None => break,
                },
            }
        }
        Ok(pairs)
    }

    /// A row by its key.
    ///
    /// # Errors
    /// When the store cannot be read or the row is damaged.
    pub fn get<R: Record>(&self, key: &R::Key) -> Result<Option<R>, StoreError> {
        self.get_raw(R::TABLE, &R::encode_key(key))?.map(|value| R::decode(&value)).transpose()
    }

    /// Sets a row.
    pub fn put<R: Record>(&mut self, key: &R::Key, row: &R) {
        self.put_raw(R::TABLE, R::encode_key(key), row.encode());
    }

    /// Removes a row.
    pub fn delete<R: Record>(&mut self, key: &R::Key) {
        self.delete_raw(R::TABLE, R::encode_key(key));
    }

    /// At most `limit` rows with `from <= key < to`.
    ///
    /// # Errors
    /// When the store cannot be read or a row is damaged.
    pub fn scan<R: Record>(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(R::Key, R)>, StoreError> {
        let pairs = self.scan_raw(R::TABLE, from, to, limit)?;
        pairs.into_iter().map(|(key, value)| Ok((R::decode_key(&key)?, R::decode(&value)?))).collect()
    }
}

/// A range of the store in order, read in pages. A page is what a scan still wants at most; each further page, needed
/// only where own writes hide stored rows, is twice as long, so that many deletes do not mean many reads.
struct Stored<'kv> {
    kv: &'kv dyn Kv,
    table: Table,
    next_from: Vec<u8>,
    to: Vec<u8>,
    page_rows: usize,
    page: VecDeque<Pair>,
    ended: bool,
}

impl<'kv> Stored<'kv> {
    fn new(kv: &'kv dyn Kv, table: Table, from: &[u8], to: &[u8], page_rows: usize) -> Self {
        let (next_from, to) = (from.to_vec(), to.to_vec());
        Self { kv, table, next_from, to, page_rows, page: VecDeque::new(), ended: false }
    }

    /// The next pair, left in its place.
    fn head(&mut self) -> Result<Option<&Pair>, StoreError> {
        if self.page.is_empty() && !self.ended {
            self.read_page()?;
        }
        Ok(self.page.front())
    }

    /// The pair [`Stored::head`] showed.
    fn take(&mut self) -> Option<Pair> {
        self.page.pop_front()
    }

    fn read_page(&mut self) -> Result<(), StoreError> {
        self.page = self.kv.scan(self.table, &self.next_from, &self.to, self.page_rows)?.into();
        self.ended = self.page.len() < self.page_rows;
        if let Some((last, _)) = self.page.back() {
            // A key and a zero byte is the next key there can be.
            self.next_from.clone_from(last);
            self.next_from.push(0);
        }
        self.page_rows = self.page_rows.saturating_mul(2);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::engine::input::StreamId;
    use crate::store::mem::MemKv;

    fn value(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn filled(keys: std::ops::Range<u8>) -> MemKv {
        let mut kv = MemKv::default();
        kv.commit(keys.map(|key| ((Table::Due, vec![key]), Some(value("stored")))).collect()).unwrap();
        kv
    }

    fn stream_of(effect: &Effect) -> u64 {
        match effect {
            Effect::Staged { stream } => stream.0,
            other => panic!("nobody made {other:?}"),
        }
    }

    /// CLAIM-1: hints may be had at once, claims only for a commit.
    #[test]
    fn claims_come_from_the_commit() {
        let mut kv = MemKv::default();
        let mut tx = Tx::new(&kv);
        tx.put_raw(Table::Meta, vec![1], value("a"));
        tx.claim(Effect::Staged { stream: StreamId(1) });
        tx.hint(Effect::Staged { stream: StreamId(2) });
        let mut outcome = tx.finish();
        assert_eq!(outcome.take_hints().iter().map(stream_of).collect::<Vec<_>>(), [2]);
        assert!(outcome.take_hints().is_empty(), "a hint leaves once");
        let claims = commit(&mut kv, outcome).unwrap();
        assert_eq!(claims.iter().map(stream_of).collect::<Vec<_>>(), [1]);
        assert_eq!(kv.get(Table::Meta, &[1]).unwrap(), Some(value("a")));
    }

    /// A scan goes on behind rows this transaction deleted, and stops at its limit among rows it added.
    #[test]
    fn deleted_rows_do_not_fill_a_scan() {
        let kv = filled(0..100);
        let mut tx = Tx::new(&kv);
        for key in 0..90 {
            tx.delete_raw(Table::Due, vec![key]);
        }
        tx.put_raw(Table::Due, vec![91, 0], value("own"));
        tx.put_raw(Table::Due, vec![92], value("own"));
        let found = tx.scan_raw(Table::Due, &[], &[255], 4).unwrap();
        let expected = [(vec![90], "stored"), (vec![91], "stored"), (vec![91, 0], "own"), (vec![92], "own")]
            .map(|(k, v)| (k, value(v)));
        assert_eq!(found, expected);
    }

    /// Own deletes cost a scan few reads, however many they are.
    #[test]
    fn a_scan_behind_deletes_reads_few_pages() {
        struct Counting(MemKv, Cell<u32>);
        impl Kv for Counting {
            fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
                self.0.get(table, key)
            }
            fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
                self.1.set(self.1.get() + 1);
                self.0.scan(table, from, to, limit)
            }
            fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
                self.0.commit(batch)
            }
        }
        let kv = Counting(filled(0..200), Cell::new(0));
        let mut tx = Tx::new(&kv);
        for key in 0..199 {
            tx.delete_raw(Table::Due, vec![key]);
        }
        assert_eq!(tx.scan_raw(Table::Due, &[], &[255], 1).unwrap(), [(vec![199], value("stored"))]);
        assert_eq!(kv.1.get(), 8, "pages of 1, 2, 4 … 128 rows");
    }
}
