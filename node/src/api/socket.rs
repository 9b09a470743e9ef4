//! The unix socket itself: where it may be, who may reach it, and what happens to one that a dead node left behind.
//! Never removes the socket of a living node.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

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

/// Listens at `path` with mode 0600, after making its directory (0700) when there is none.
///
/// # Errors
/// A living node answers there, the path cannot be a socket, or the system refuses.
pub fn listen_at(path: &Path) -> Result<UnixListener, SocketError> {
    if path.as_os_str().len() > LONGEST_PATH {
        return Err(SocketError::TooLong(path.to_owned()));
    }
    make_directory(path)?;
    clear_stale(path)?;
    bind_private(path).map_err(|source| failed("listen at", path, source))
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> SocketError {
    SocketError::Failed { what, path: path.to_owned(), source }
}

fn make_directory(path: &Path) -> Result<(), SocketError> {
    let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) else {
        return Ok(());
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
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
/// from the unbound socket; the second call is for systems that do not.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listen(&socket, BACKLOG)?;
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_socket_and_its_directory_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/here/waypost.sock");
        let _listener = listen_at(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = listen_at(&path).unwrap();
        assert!(matches!(listen_at(&path), Err(SocketError::InUse(_))));
        drop(first);
        assert!(path.exists());
        listen_at(&path).unwrap();
    }

    #[test]
    fn a_file_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mail.txt");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(listen_at(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_path_that_cannot_be_bound_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let refused = listen_at(&dir.path().join("x".repeat(120))).unwrap_err();
        assert!(refused.to_string().contains("at most 107 are possible"), "{refused}");
    }
}
