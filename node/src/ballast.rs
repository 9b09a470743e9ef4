//! Room on the disk: how much is free, how much is kept back, and a file of ballast that is given up when the disk is
//! really full, so that a start and the mail's endings can still be written (rule DISK-4). Refuses nothing itself: the
//! engine does.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

const FILE: &str = "ballast";
const MIB: u64 = 1 << 20;

/// What a start must be able to write on a full disk: the memtables that the log fills again, a log of its own, a
/// manifest. A database that cannot write them does not open.
const BALLAST: u64 = 64 * MIB;
/// Less than this is free: the disk is really full.
const REALLY_FULL: u64 = 16 * MIB;
/// Kept back when nobody says how much: at least this, or a hundredth of the disk.
const RESERVE: u64 = 64 * MIB;

/// What a disk has, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// An ordinary process may still write so much.
    pub free: u64,
    /// Below this nothing new is accepted.
    pub reserve: u64,
}

/// The ballast of a data directory and the reserve above it.
#[derive(Clone, Debug)]
pub struct Ballast {
    file: PathBuf,
    dir: PathBuf,
    reserve: Option<u64>,
}

impl Ballast {
    /// Of a data directory; `reserve` replaces the larger of 64 MiB and a hundredth of the disk.
    #[must_use]
    pub fn of(data: &Path, reserve: Option<u64>) -> Self {
        Self { file: data.join(FILE), dir: data.to_owned(), reserve }
    }

    /// Before the database is opened: gives the ballast up when less than a start may need is free.
    pub fn make_room_to_start(&self) {
        if self.measure().is_ok_and(|room| room.free < BALLAST) {
            self.give_up("the disk is full at the start");
        }
    }

    /// Measures, and gives the ballast up or lays it in again as the room wants it. To be called every second; never by
    /// the engine's thread.
    ///
    /// # Errors
    /// When the system does not say what is free.
    pub fn look(&self) -> io::Result<Room> {
        let room = self.measure()?;
        if room.free < REALLY_FULL && self.file.exists() {
            self.give_up("the disk is full");
        } else if room.free >= room.reserve.saturating_add(REALLY_FULL) && !self.file.exists() {
            self.lay_in();
        } else {
            return Ok(room);
        }
        self.measure()
    }

    /// While the ballast is given up its room belongs to what drains, not to new mail: so much more is kept back.
    fn measure(&self) -> io::Result<Room> {
        let disk = statvfs(&self.dir)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let size = disk.f_blocks.saturating_mul(disk.f_frsize);
        let reserve = self.reserve.unwrap_or(RESERVE.max(size / 100));
        let ballast = if self.file.exists() { 0 } else { BALLAST };
        Ok(Room { free, reserve: reserve.saturating_add(ballast) })
    }

    fn give_up(&self, why: &str) {
        match fs::remove_file(&self.file) {
            Ok(()) => tracing::warn!(
                bytes = BALLAST,
                file = %self.file.display(),
                why,
                "gave up the ballast, kept so that mail can still drain; make room on this disk"
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %self.file.display(), why = %error, "the ballast cannot be given up");
            }
        }
    }

    /// A node without ballast works; it only stands worse on a full disk.
    fn lay_in(&self) {
        let made = || -> io::Result<()> {
            let file: File =
                OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.file)?;
            Ok(fallocate(&file, FallocateFlags::empty(), 0, BALLAST)?)
        };
        if let Err(error) = made() {
            tracing::debug!(file = %self.file.display(), why = %error, "no ballast");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DISK-4: on an ordinary disk it lies there; a full one is the real processes' test.
    #[test]
    fn ballast_is_laid_in_where_there_is_room_and_given_up_where_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::of(dir.path(), Some(MIB));
        assert!(ballast.look().unwrap().free > 256 * MIB, "this test wants 256 MiB of free disk");
        let laid = fs::metadata(dir.path().join(FILE)).unwrap().len();
        assert_eq!(laid, BALLAST);
        ballast.make_room_to_start();
        assert!(dir.path().join(FILE).exists(), "there is room");
        ballast.give_up("a test");
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn the_reserve_is_a_hundredth_of_the_disk_and_at_least_64_mib() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Ballast::of(dir.path(), Some(5)).measure().unwrap().reserve, 5 + BALLAST, "no ballast");
        fs::write(dir.path().join(FILE), "").unwrap();
        assert_eq!(Ballast::of(dir.path(), Some(5)).measure().unwrap().reserve, 5);
        fs::remove_file(dir.path().join(FILE)).unwrap();
        let default = Ballast::of(dir.path(), None).measure().unwrap().reserve - BALLAST;
        let disk = statvfs(dir.path()).unwrap();
        assert_eq!(default, RESERVE.max(disk.f_blocks * disk.f_frsize / 100));
    }
}
