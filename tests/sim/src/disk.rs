//! A simulated disk: what a synced log and its tables are worth when power goes, writes fail, space ends, bits flip and
//! copies are put back. It is never kinder than the real store: a batch whose sync did not return is there whole or not
//! at all, and nobody is told which.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use waypost_core::store::kv::{Batch, Kv, Pair, StoreError, Table};
use waypost_core::store::mem::MemKv;

/// Commits that damage to the log can take back.
const LOG: usize = 256;

/// What the next commit meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// It is written and synced.
    Synced,
    /// It fails, or power goes before its sync returns. `written`: its record reached the disk whole all the same.
    Broken {
        /// Whether the record is whole.
        written: bool,
    },
}

/// A real store under a simulated disk: it is given every batch, asked for every row, and crashes when the host does.
pub trait Real: Kv {
    /// The process ends here and now, with nothing closed and nothing flushed, and another opens what is left.
    ///
    /// # Errors
    /// When it does not open.
    fn crash(&mut self) -> Result<(), StoreError>;
}

/// A disk.
pub struct Disk {
    rows: MemKv,
    /// What the rows lie in besides, when it is not only simulated. Everything read there must be what is here.
    real: Option<Box<dyn Real>>,
    /// For the last commits, what was there before.
    log: VecDeque<Batch>,
    rotten: BTreeSet<(Table, Vec<u8>)>,
    next: Next,
    /// Before or, `true`, after which commit of its life it breaks, once.
    breaks: Option<(u64, bool)>,
    /// No space: every commit fails.
    pub full: bool,
    /// A commit failed: as the real store, it takes no more until it is opened anew.
    latched: bool,
    /// Commits written.
    pub commits: u64,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            rows: MemKv::default(),
            real: None,
            log: VecDeque::new(),
            rotten: BTreeSet::new(),
            next: Next::Synced,
            breaks: None,
            full: false,
            latched: false,
            commits: 0,
        }
    }
}

/// A copy is only simulated.
impl Clone for Disk {
    fn clone(&self) -> Self {
        Self { rows: self.rows.clone(), real: None, log: self.log.clone(), rotten: self.rotten.clone(), ..*self }
    }
}

impl Disk {
    /// An empty one whose rows lie in a real store, which must be empty too.
    #[must_use]
    pub fn over(real: Box<dyn Real>) -> Self {
        Self { real: Some(real), ..Self::default() }
    }

    /// What the next commit meets.
    pub fn arm(&mut self, next: Next) {
        self.next = next;
    }

    /// Breaks once, at the commit after so many; `written`: its record reaches the disk whole, and nobody hears of it.
    pub fn break_at(&mut self, commits: u64, written: bool) {
        self.breaks = Some((commits, written));
    }

    /// Opens the store again after its process ended.
    ///
    /// # Panics
    /// When a real store does not open or has other rows than were committed.
    pub fn reopen(&mut self) {
        self.latched = false;
        self.next = Next::Synced;
        let Some(real) = &mut self.real else { return };
        if let Err(error) = real.crash() {
            panic!("the store does not open after a crash: {error}");
        }
        self.compare();
    }

    /// Compares every row of the real store with what was committed.
    fn compare(&self) {
        let Some(real) = &self.real else { return };
        for table in Table::ALL {
            let found = real.scan(table, &[], &[0xff; 256], usize::MAX);
            let is_same = found
                .as_ref()
                .is_ok_and(|found| self.rows.table(table).eq(found.iter().map(|(key, value)| (key.as_slice(), value))));
            assert!(is_same, "after a crash table {table:?} has not the rows that were committed: {found:?}");
        }
    }

    fn read<T: PartialEq>(&self, read: impl Fn(&dyn Kv) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let known = read(&self.rows)?;
        let Some(real) = &self.real else { return Ok(known) };
        let found = read(real.as_ref())?;
        assert!(found == known, "the real store reads otherwise than what was committed");
        Ok(found)
    }

    /// Every row there is, in order; not what an engine may see when bits have rotted.
    #[must_use]
    pub fn rows(&self) -> &MemKv {
        &self.rows
    }

    /// Takes the last commits back, as a log does that is cut off at a damaged record. Returns how many.
    pub fn lose_commits(&mut self, count: u64) -> u64 {
        let mut lost = 0;
        while lost < count
            && let Some(before) = self.log.pop_back()
        {
            let _ = self.rows.commit(before);
            lost += 1;
        }
        lost
    }

    /// Damages the body row at `place`, counted modulo how many there are. Returns whether there was one.
    pub fn rot_body(&mut self, place: u64) -> bool {
        let bodies: Vec<Vec<u8>> = self.table(Table::Body).map(|(key, _)| key.to_vec()).collect();
        let Some(at) = place.checked_rem(bodies.len() as u64) else { return false };
        self.rotten.insert((Table::Body, bodies[at as usize].clone()))
    }

    /// The rows of one table.
    pub fn table(&self, table: Table) -> impl Iterator<Item = (&[u8], &Bytes)> {
        self.rows.table(table)
    }

    fn check(&self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        if self.rotten.is_empty() || !self.rotten.contains(&(table, key.to_vec())) {
            return Ok(());
        }
        Err(StoreError::Damaged { table, why: "its block's checksum does not match".to_owned() })
    }

    fn write(&mut self, batch: Batch) -> Result<(), StoreError> {
        let mut before = Batch::new();
        for (table, key) in batch.keys() {
            before.insert((*table, key.clone()), self.rows.get(*table, key)?);
            self.rotten.remove(&(*table, key.clone()));
        }
        self.log.push_back(before);
        if self.log.len() > LOG {
            self.log.pop_front();
        }
        self.commits += 1;
        if let Some(real) = &mut self.real {
            real.commit(batch.clone())?;
        }
        self.rows.commit(batch)
    }
}

impl Kv for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.check(table, key)?;
        self.read(|kv| kv.get(table, key))
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        let found = self.read(|kv| kv.scan(table, from, to, limit))?;
        for (key, _) in &found {
            self.check(table, key)?;
        }
        Ok(found)
    }

    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        if self.latched {
            return Err(StoreError::Failed("an earlier write failed".to_owned()));
        }
        if self.full {
            self.latched = true;
            return Err(StoreError::Failed("no space left on device".to_owned()));
        }
        if let Some((_, written)) = self.breaks.take_if(|(at, _)| *at == self.commits) {
            self.next = Next::Broken { written };
        }
        match std::mem::replace(&mut self.next, Next::Synced) {
            Next::Synced => self.write(batch),
            Next::Broken { written } => {
                self.latched = true;
                if written {
                    self.write(batch)?;
                }
                Err(StoreError::Failed("the write or its sync failed".to_owned()))
            }
        }
    }
}
