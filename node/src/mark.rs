//! The commit mark: a small file beside the database that says how far its log was synced, so that a log that lost
//! synced writes is noticed at the next start (rule DISK-1). Knows nothing of what is in the log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Its name in the data directory.
pub const FILE: &str = "mark";

/// Bytes of one of the two slots: what a disk writes whole or not at all is no more, so that a torn write of one leaves
/// the other.
const SLOT: usize = 4096;
const MAGIC: [u8; 8] = *b"waypmark";
/// Magic, generation, sequence: what the checksum covers.
const SAID: usize = 24;
const CHECKSUM: usize = 32;

/// What a mark said when it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing was ever marked: there is no database yet, or it is from before there were marks.
    Nothing,
    /// Neither slot can be read: what was marked is not known.
    Damaged,
    /// All writes up to this sequence were synced.
    Synced(u64),
}

/// The open mark.
#[derive(Debug)]
pub struct Mark {
    file: File,
    generation: u64,
}

impl Mark {
    /// Opens the mark of a data directory, makes it if there is none, and says what it says.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(dir: &Path) -> io::Result<(Self, Found)> {
        let path = dir.join(FILE);
        if !path.exists() {
            make(dir, &path)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut slots = vec![0; 2 * SLOT];
        let whole = file.read_exact_at(&mut slots, 0).is_ok();
        let latest = slots.chunks_exact(SLOT).filter_map(read).max();
        let found = match latest {
            Some((_, sequence)) => Found::Synced(sequence),
            None if whole && slots.iter().all(|byte| *byte == 0) => Found::Nothing,
            None => Found::Damaged,
        };
        Ok((Self { file, generation: latest.map_or(0, |(generation, _)| generation) }, found))
    }

    /// Says that all writes up to a sequence are synced; synced itself when it returns. The slots take turns, so that a
    /// power cut in the middle leaves the one before.
    ///
    /// # Errors
    /// When the write or the sync fails; what is marked is then not known.
    pub fn set(&mut self, sequence: u64) -> io::Result<()> {
        let generation = self.generation + 1;
        self.file.write_all_at(&written(generation, sequence), generation % 2 * SLOT as u64)?;
        // The file's size and place were synced when it was made: the data is all there is to sync.
        self.file.sync_data()?;
        self.generation = generation;
        Ok(())
    }
}

/// Makes the file with all its bytes, so that a mark never needs space, under a name of its own until it is whole.
fn make(dir: &Path, path: &Path) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&[0; 2 * SLOT])?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    File::open(dir)?.sync_all()
}

fn written(generation: u64, sequence: u64) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(&MAGIC);
    slot[8..16].copy_from_slice(&generation.to_le_bytes());
    slot[16..SAID].copy_from_slice(&sequence.to_le_bytes());
    let checksum = blake3::hash(&slot[..SAID]);
    slot[SAID..SAID + CHECKSUM].copy_from_slice(checksum.as_bytes());
    slot
}

/// Generation and sequence of a slot that was written whole.
fn read(slot: &[u8]) -> Option<(u64, u64)> {
    let (said, rest) = slot.split_at_checked(SAID)?;
    let good = said.starts_with(&MAGIC) && rest.get(..CHECKSUM)? == blake3::hash(said).as_bytes();
    let number = |at: usize| said.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    if good { Some((number(8)?, number(16)?)) } else { None }
}

#[cfg(test)]
impl Mark {
    /// One that cannot be set.
    pub(crate) fn read_only(dir: &Path) -> Self {
        Self { file: File::open(dir.join(FILE)).unwrap(), generation: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(dir: &Path) -> Found {
        Mark::open(dir).unwrap().1
    }

    #[test]
    fn a_mark_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut mark, nothing) = Mark::open(dir.path()).unwrap();
        assert_eq!(nothing, Found::Nothing);
        for sequence in [7, 9, 8] {
            mark.set(sequence).unwrap();
            assert_eq!(found(dir.path()), Found::Synced(sequence), "the last one set, not the highest");
        }
        assert_eq!(std::fs::metadata(dir.path().join(FILE)).unwrap().len(), 2 * SLOT as u64);
    }

    /// DISK-1: whichever byte a torn write left wrong, the mark before it stands.
    #[test]
    fn a_torn_mark_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let (mut mark, _) = Mark::open(dir.path()).unwrap();
        mark.set(41).unwrap();
        mark.set(42).unwrap();
        // The second one set lies in the first slot.
        for byte in 0..SAID + CHECKSUM {
            let mut was = [0];
            mark.file.read_exact_at(&mut was, byte as u64).unwrap();
            mark.file.write_all_at(&[was[0] ^ 1], byte as u64).unwrap();
            assert_eq!(found(dir.path()), Found::Synced(41), "byte {byte}");
            mark.file.write_all_at(&was, byte as u64).unwrap();
        }
        assert_eq!(found(dir.path()), Found::Synced(42));
    }

    #[test]
    fn a_mark_that_cannot_be_read_is_told_from_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), [0; 5]).unwrap();
        assert_eq!(found(dir.path()), Found::Damaged);
        std::fs::write(dir.path().join(FILE), [3; 2 * SLOT]).unwrap();
        assert_eq!(found(dir.path()), Found::Damaged);
    }
}
