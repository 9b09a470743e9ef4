//! A disk of one's own: an ext4 file system in a file, mounted through a loop device, that can be filled to the last
//! byte and whose power can be cut. Wants root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::wait;

/// `FS_IOC_SHUTDOWN` with "no log flush": from now on nothing reaches the disk, as after a power cut; what was not synced
/// is gone. This crate has no unsafe code, and the ioctl wants some.
const CUT: &str = "import fcntl, os, struct, sys\n\
    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
/// For a file system to be let go of by processes that have ended.
const RELEASED: Duration = Duration::from_secs(20);

/// A mounted volume; unmounted when dropped.
#[derive(Debug)]
pub struct Volume {
    image: PathBuf,
    mount: PathBuf,
}

impl Volume {
    /// Why there can be none on this machine, if so.
    ///
    /// # Errors
    /// What is missing.
    pub fn possible() -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let volume = Self::new(&scratch.path().join("image"), &scratch.path().join("mount"), 16);
        let volume = volume.context("it takes root, a loop device, mkfs.ext4 and mount")?;
        volume.cut().context("it takes python3")?;
        volume.unmount()
    }

    /// A new, empty one of so many MiB at `mount`.
    ///
    /// # Errors
    /// When the system refuses: this takes root, a loop device, `mkfs.ext4` and `mount`.
    pub fn new(image: &Path, mount: &Path, mib: u64) -> Result<Self> {
        File::create(image)?.set_len(mib << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image))?;
        fs::create_dir_all(mount)?;
        let volume = Self { image: image.to_owned(), mount: mount.to_owned() };
        volume.mount()?;
        Ok(volume)
    }

    fn mount(&self) -> Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount))
    }

    fn unmount(&self) -> Result<()> {
        wait::until("a volume to be let go of", RELEASED, &[], || {
            Ok(run(Command::new("umount").arg(&self.mount)).is_ok().then_some(()))
        })
    }

    /// Cuts its power. What was synced is there after [`Volume::power_on`], and nothing else need be.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn cut(&self) -> Result<()> {
        run(Command::new("python3").args(["-c", CUT]).arg(&self.mount))
    }

    /// Mounts it again. Whoever used it must have ended.
    ///
    /// # Errors
    /// When it is in use or not to be mounted.
    pub fn power_on(&self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// Bytes free. Those of a removed file come a moment after it is gone.
    ///
    /// # Errors
    /// When it is not mounted.
    pub fn room(&self) -> Result<u64> {
        let room = statvfs(&self.mount)?;
        Ok(room.f_bavail * room.f_frsize)
    }

    /// Takes all the room there is now, at once, as a file of that name. What a node gives up because of it stays the
    /// node's: a writer that went on until nothing more went in would take that too, or not, as the scheduler likes.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn fill(&self, name: &str) -> Result<()> {
        self.take(name, self.room()?)
    }

    /// Takes all the room there is now until a file of the node's is gone; to be called again and again, for a node
    /// gives back room by itself. Nothing of what that file held is taken.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn squeeze(&self, name: &str, until_gone: &Path) -> Result<Option<()>> {
        // In this order: what was measured while it was there is not its room.
        let room = self.room()?;
        if !until_gone.exists() {
            return Ok(Some(()));
        }
        self.take(name, room).map(|()| None)
    }

    /// Lets a file grow by so many bytes.
    fn take(&self, name: &str, room: u64) -> Result<()> {
        let hog = File::options().append(true).create(true).open(self.mount.join(name))?;
        if room == 0 {
            return Ok(());
        }
        match fallocate(&hog, FallocateFlags::empty(), hog.metadata()?.len(), room) {
            // Its own description takes room as well: the rest went in.
            Ok(()) | Err(Errno::NOSPC) => Ok(()),
            Err(error) => Err(error).context("filling a volume"),
        }
    }

    /// Removes a file that filled it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn clear(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.mount.join(name))?)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: whoever still uses it keeps it until it ends.
        let _ = run(Command::new("umount").arg("-l").arg(&self.mount));
    }
}

fn run(command: &mut Command) -> Result<()> {
    let ended = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    if !ended.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&ended.stderr).trim());
    }
    Ok(())
}
