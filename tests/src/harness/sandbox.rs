//! A folder of its own for each test, kept when the test fails, and socket paths short enough for the kernel.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::binary;

/// Bytes of a unix socket's path at most: `sun_path` has 108 with its closing zero.
const SOCKET_PATH: usize = 107;
/// Bytes kept free for a socket's own name.
const SOCKET_NAME: usize = 24;

/// A test's folder. Gone with it, unless the thread is panicking.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
    sockets: Option<TempDir>,
}

impl Sandbox {
    /// A new folder whose name begins with `name`, on the disk that holds what was built.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(binary::scratch_dir()?)
            .context("making a test's folder")?;
        Self::around(dir)
    }

    fn around(dir: TempDir) -> Result<Self> {
        let fits = dir.path().as_os_str().len() + SOCKET_NAME <= SOCKET_PATH;
        let sockets = if fits { None } else { Some(tempfile::Builder::new().prefix("wp-").tempdir()?) };
        Ok(Self { dir, sockets })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path below the folder; nothing is made there.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// A path for the socket of the node `name`.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        let folder = self.sockets.as_ref().map_or(self.dir.path(), TempDir::path);
        folder.join(format!("{name}.sock"))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!("what the test left is in {}", self.dir.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_path_fits_however_deep_the_folder_is() {
        let deep = tempfile::Builder::new().prefix(&"x".repeat(120)).tempdir().unwrap();
        let sandbox = Sandbox::around(deep).unwrap();
        assert!(sandbox.socket("c").as_os_str().len() <= SOCKET_PATH);
    }
}
