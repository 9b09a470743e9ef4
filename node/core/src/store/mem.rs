//! A store in memory, for tests and simulations. It keeps what was committed for as long as it lives and never fails;
//! whoever simulates crashes keeps it and starts a new engine over it.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::kv::{Batch, Kv, Pair, StoreError, Table};

/// Tables as sorted maps. A clone is a copy of the whole content.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct MemKv {
    tables: BTreeMap<Table, BTreeMap<Vec<u8>, Bytes>>,
}

impl MemKv {
    /// Every row, in the order of tables and keys.
    pub fn rows(&self) -> impl Iterator<Item = (Table, &[u8], &Bytes)> {
        self.tables.iter().flat_map(|(table, rows)| rows.iter().map(|(key, value)| (*table, key.as_slice(), value)))
    }

    /// The rows of one table, in the order of keys.
    pub fn table(&self, table: Table) -> impl Iterator<Item = (&[u8], &Bytes)> {
        self.tables.get(&table).into_iter().flatten().map(|(key, value)| (key.as_slice(), value))
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.rows().map(|(_, key, value)| (key.len() + value.len()) as u64).sum()
    }
}

impl Kv for MemKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.tables.get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        let Some(rows) = self.tables.get(&table).filter(|_| from < to) else {
            return Ok(Vec::new());
        };
        let range = rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        Ok(range.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        for ((table, key), value) in batch {
            let rows = self.tables.entry(table).or_default();
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        // So that equal contents are equal stores, however they came about.
        self.tables.retain(|_, rows| !rows.is_empty());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::store::conformance;

    /// One store behind many openings.
    struct Shared(Rc<RefCell<MemKv>>);

    impl Kv for Shared {
        fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            self.0.borrow().get(table, key)
        }

        fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
            self.0.borrow().scan(table, from, to, limit)
        }

        fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
            self.0.borrow_mut().commit(batch)
        }
    }

    #[test]
    fn memory_is_a_store() {
        let kept = Rc::new(RefCell::new(MemKv::default()));
        conformance::run(&mut || Box::new(Shared(Rc::clone(&kept))));
    }

    #[test]
    fn equal_contents_are_equal_stores() {
        let mut kv = MemKv::default();
        kv.commit(Batch::from([((Table::Meta, vec![1]), Some(Bytes::from_static(b"abc")))])).unwrap();
        assert_eq!(kv.bytes(), 4);
        kv.commit(Batch::from([((Table::Meta, vec![1]), None)])).unwrap();
        assert_eq!(kv, MemKv::default());
        assert_eq!(kv.rows().count(), 0);
    }
}
