//! The data directory: that it is ours alone, that it lies on something that lasts, what room it has. It never looks
//! into what is kept there.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{statfs, statvfs};

/// Held locked for as long as a node runs here. Never deleted: a lock on a deleted file locks nothing.
const LOCK_FILE: &str = "lock";

/// Kinds of file system that forget, or that only promise to remember: what a synced write means there is not known.
/// Numbers from statfs(2).
const UNFIT: [(u64, &str); 8] = [
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlayfs"),
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE"),
];

/// Why a data directory cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the lock.
    #[error("another waypost node is using {}: stop it or choose another --data", .0.display())]
    InUse(PathBuf),
    /// Mail would not last there.
    #[error(
        "{} is on {kind}, where accepted mail may not survive a restart of the host: \
         choose a --data on a local disk, or use --force if losing mail is acceptable", .dir.display()
    )]
    Unfit {
        /// Where.
        dir: PathBuf,
        /// On which file system.
        kind: &'static str,
    },
    /// The system refused.
    #[error("{} cannot be used as data directory: {source}", .dir.display())]
    Directory {
        /// Where.
        dir: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The system failed the database; later it may not.
    #[error("the store in {} cannot be opened now: {why}; make sure that the disk works and has room, then start again", .dir.display())]
    Database {
        /// Where.
        dir: PathBuf,
        /// What it said.
        why: String,
    },
    /// There was a database and it is gone: to open an empty one in its place would lose mail in silence (rule DISK-2).
    #[error(
        "this node's store is gone from {dir}: bring {dir}/store back (is a disk not mounted? was it moved?), or start \
         once with --accept-loss to go on with an empty one; mail that only this node held is then lost, and it needs a \
         new invitation (waypost join) to be a member again", dir = .0.display()
    )]
    Gone(PathBuf),
    /// Parts of the database are missing or unreadable (rule DISK-2).
    #[error(
        "the store in {dir} is damaged and does not open: {why}. Nothing was changed. Restore {dir} from a copy made \
         while the node stood still, or start once with --accept-loss to set the store aside in {dir}/quarantine and go \
         on with an empty one; mail that only this node held is then lost, and it needs a new invitation (waypost join) \
         to be a member again", dir = .dir.display()
    )]
    Damaged {
        /// Where.
        dir: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What a node's owner takes upon himself with a data directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// Any file system will do.
    pub force: bool,
    /// A store that is gone or does not open is replaced by an empty one.
    pub accept_loss: bool,
}

/// A data directory this process has to itself, until dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Makes the directory if need be, looks what it lies on, and locks it. `force` takes any file system.
    ///
    /// # Errors
    /// When it is in use, unfit, or not to be had.
    pub fn claim(path: &Path, force: bool) -> Result<Self, OpenError> {
        let refused = |source| OpenError::Directory { dir: path.to_owned(), source };
        make_directory(path).map_err(refused)?;
        if let Some(kind) = unfit(path).map_err(refused)?.filter(|_| !force) {
            return Err(OpenError::Unfit { dir: path.to_owned(), kind });
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(path.join(LOCK_FILE)).map_err(refused)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(refused(source)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes an ordinary process may still write on its file system.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let room = statvfs(&self.path)?;
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    }
}

/// Makes a directory and its parents, each for its owner only, each entry synced so that a power cut keeps it.
///
/// # Errors
/// When the system refuses.
pub fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_directory(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    File::open(parent)?.sync_all()
}

/// Bytes of the files in a directory, the ones below it included. A file that goes while we look counts nothing.
///
/// # Errors
/// When the directory cannot be read.
pub fn bytes_in(dir: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        total += match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_in(&entry.path())?,
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(total)
}

fn unfit(path: &Path) -> io::Result<Option<&'static str>> {
    // The field is signed on some targets; the numbers are 32 bits wide on all.
    let kind = statfs(path)?.f_type as u64 & 0xffff_ffff;
    Ok(UNFIT.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_node() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("deep/er");
        let held = DataDirectory::claim(&data, true).unwrap();
        assert!(held.free_bytes().unwrap() > 0);
        let refusal = DataDirectory::claim(&data, true).unwrap_err();
        assert!(matches!(refusal, OpenError::InUse(_)));
        let sentence = format!("another waypost node is using {}: stop it or choose another --data", data.display());
        assert_eq!(refusal.to_string(), sentence);
        drop(held);
        DataDirectory::claim(&data, true).unwrap();
    }

    #[test]
    fn a_file_is_no_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "x").unwrap();
        assert!(matches!(DataDirectory::claim(&path, true), Err(OpenError::Directory { .. })));
    }

    /// Runs where the host has a tmpfs in the usual place.
    #[test]
    fn memory_is_no_disk_unless_forced() {
        if !matches!(unfit(Path::new("/dev/shm")), Ok(Some("tmpfs"))) {
            return;
        }
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let refusal = DataDirectory::claim(dir.path(), false).unwrap_err();
        assert!(matches!(refusal, OpenError::Unfit { kind: "tmpfs", .. }), "{refusal}");
        DataDirectory::claim(dir.path(), true).unwrap();
    }

    #[test]
    fn bytes_count_files_below() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), [0; 10]).unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("below/b"), [0; 5]).unwrap();
        assert_eq!(bytes_in(dir.path()).unwrap(), 15);
    }
}
