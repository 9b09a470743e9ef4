//! A transaction over the store: reads see its own writes; outward effects are collected and claims leave only from
//! [`commit`]. "No acknowledgement before the disk has it" is a type here, not a habit (rule CLAIM-1).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::kv::{Batch, Kv, Pair, StoreError, Table};
use super::tables::Record;
use crate::engine::effect::Effect;

/// Writes and effects of one or more steps, not yet on disk.
pub struct Tx<'kv> {
    kv: &'kv dyn Kv,
    writes: Batch,
    claims: Vec<Effect>,
    hints: Vec<Effect>,
    reads: Cell<u64>,
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
        Self { kv, writes: Batch::new(), claims: Vec::new(), hints: Vec::new(), reads: Cell::new(0) }
    }

    /// An effect that says something about what is stored: it leaves after the sync.
    pub fn claim(&mut self, effect: Effect) {
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
        self.reads.set(self.reads.get() + 1);
        self.kv.get(table, key)
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
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        let mut found: BTreeMap<Vec<u8>, Option<Bytes>> = BTreeMap::new();
        let range = (Bound::Included((table, from.to_vec())), Bound::Excluded((table, to.to_vec())));
        let mut own = self.writes.range(range).map(|((_, key), value)| (key, value)).peekable();
        let mut start = from.to_vec();
        let mut pairs = Vec::new();
        // Pages of the store, merged with our writes, until the limit is filled or both are at their end.
        loop {
            let page = self.kv.scan(table, &start, to, limit)?;
            let last_page = page.len() < limit;
            let page_end = page.last().map(|(key, _)| key.clone());
            found.extend(page.into_iter().map(|(key, value)| (key, Some(value))));
            while let Some((key, value)) = own.peek() {
                if !last_page && page_end.as_ref().is_some_and(|end| *key > end) {
                    break;
                }
                found.insert((*key).clone(), (*value).clone());
                own.next();
            }
            pairs.extend(std::mem::take(&mut found).into_iter().filter_map(|(key, value)| Some((key, value?))));
            match page_end {
                Some(end) if !last_page && pairs.len() < limit => {
                    start = end;
                    start.push(0);
                }
                _ => break,
            }
        }
        pairs.truncate(limit);
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
