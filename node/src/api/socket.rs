//! The unix socket itself: where it may be, who may reach it, and what happens to one that a dead node left behind.
//! Never removes the socket of a living node.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use crate::config::SocketConfig;

/// Bytes of path that fit into a unix socket's address with its closing zero.
pub const LONGEST_PATH: usize = 107;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Why there is no socket to listen on. All of them are the configuration's fault.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel cannot take such a path.
    #[error(
        "the socket path {} is {} bytes long; at most {LONGEST_PATH} are possible: choose a shorter one with --socket",
        .0.display(),
        .0.as_os_str().len()
    )]
    TooLong(PathBuf),
    /// A node answers there.
    #[error("another node answers at {}: stop it, or choose another socket with --socket", .0.display())]
    InUse(PathBuf),
    /// Something else lies there.
    #[error("{} exists and is not a socket: remove it, or choose another path with --socket", .0.display())]
    NotASocket(PathBuf),
    /// The system says no.
    #[error("cannot {what} {}: {source}", path.display())]
    Failed {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Whether anybody but the node's own user may open a socket of this kind.
#[must_use]
pub fn is_shared(config: &SocketConfig) -> bool {
    config.mode & 0o066 != 0
}

/// A bound socket's file, told from another that may take its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BoundAt {
    path: PathBuf,
    file: (u64, u64),
}

impl BoundAt {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), file: (found.dev(), found.ino()) })
    }

    /// Where.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, unless something else lies there by now.
    pub fn remove(&self) {
        if Self::of(&self.path).is_ok_and(|found| found == *self) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens where `config` says and for whom it says, after making the directory when there is none: 0700, or open to
/// pass through when the socket is not the node's alone.
///
/// # Errors
/// A living node answers there, the path cannot be a socket, or the system refuses.
pub fn listen_at(config: &SocketConfig) -> Result<(UnixListener, BoundAt), SocketError> {
    let path = config.path.as_path();
    if path.as_os_str().len() > LONGEST_PATH {
        return Err(SocketError::TooLong(path.to_owned()));
    }
    make_directory(path, if is_shared(config) { 0o755 } else { 0o700 })?;
    clear_stale(path)?;
    let socket = bind_private(path).map_err(|source| failed("listen at", path, source))?;
    let give = || {
        if let Some(gid) = config.gid {
            rustix::fs::chown(path, None, Some(Gid::from_raw(gid)))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(config.mode))
    };
    give().map_err(|source| failed("give to its group", path, source))?;
    let begin = || {
        listen(&socket, BACKLOG)?;
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok((listener, BoundAt::of(path)?))
    };
    begin().map_err(|source| failed("listen at", path, source))
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> SocketError {
    SocketError::Failed { what, path: path.to_owned(), source }
}

fn make_directory(path: &Path, mode: u32) -> Result<(), SocketError> {
    let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) else {
        return Ok(());
    };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
        .map_err(|source| failed("make the directory", directory, source))
}

/// Removes a socket only after a connection to it was refused: then no process listens there.
fn clear_stale(path: &Path) -> Result<(), SocketError> {
    let found = match fs::symlink_metadata(path) {
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|source| failed("look at", path, source))?,
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| failed("remove the stale socket", path, source))
        }
        Err(source) => Err(failed("ask who listens at", path, source)),
    }
}

/// The mode is set before the name exists, so that there is no moment in which others could connect. Linux takes it
/// from the unbound socket; elsewhere nobody can connect before `listen`.
fn bind_private(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn private(path: &Path) -> SocketConfig {
        SocketConfig { path: path.to_owned(), mode: 0o600, gid: None }
    }

    #[test]
    fn the_socket_and_its_directory_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/here/waypost.sock");
        let _listener = listen_at(&private(&path)).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn a_groups_socket_is_the_groups() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/waypost.sock");
        // Any user may give a file to a group of its own.
        let own = rustix::process::getegid().as_raw();
        let _listener = listen_at(&SocketConfig { mode: 0o660, gid: Some(own), ..private(&path) }).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o660, 0o755));
        assert_eq!(fs::metadata(&path).unwrap().gid(), own);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = listen_at(&private(&path)).unwrap();
        assert!(matches!(listen_at(&private(&path)), Err(SocketError::InUse(_))));
        drop(first);
        assert!(path.exists());
        listen_at(&private(&path)).unwrap();
    }

    #[test]
    fn a_socket_is_removed_only_by_whom_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (first, bound) = listen_at(&private(&path)).unwrap();
        drop(first);
        // Kept, so that the next file cannot be given the number of the first.
        fs::rename(&path, dir.path().join("aside")).unwrap();
        let (_second, living) = listen_at(&private(&path)).unwrap();
        bound.remove();
        assert!(path.exists(), "another node's socket was removed");
        living.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mail.txt");
        fs::write(&path, "mine").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for path in [&path, &link] {
            assert!(matches!(listen_at(&private(path)), Err(SocketError::NotASocket(_))));
        }
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert!(link.is_symlink());
    }

    #[test]
    fn a_path_that_cannot_be_bound_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let refused = listen_at(&private(&dir.path().join("x".repeat(120)))).unwrap_err();
        assert!(refused.to_string().contains("at most 107 are possible"), "{refused}");
    }
}
