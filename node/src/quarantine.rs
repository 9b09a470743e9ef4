//! Where damaged files go: `quarantine/` in the data directory. What is in it is for a person; a node only says that it
//! is there, and removes nothing that a loss put there.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::disk::make_directory;

const PLACE: &str = "quarantine";
/// Holds second names of the logs while the database is opened, because opening takes the logs away.
const HOLDING: &str = "opening";
/// What was lost, in words, beside the files of each loss.
const REPORT: &str = "lost.txt";

/// The files of a database that is being opened, kept until it is known whether something was lost.
#[derive(Debug)]
pub struct Holding {
    place: PathBuf,
    dir: PathBuf,
}

impl Holding {
    /// Holds on to the logs in `store`. A start that was cut off leaves what it held: that stays with it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn of(data: &Path, store: &Path) -> io::Result<Self> {
        let place = data.join(PLACE);
        let dir = place.join(HOLDING);
        make_directory(&dir)?;
        for entry in fs::read_dir(store)? {
            let log = entry?.path();
            if log.extension().is_some_and(|ending| ending == "log")
                && let Some(name) = log.file_name()
            {
                hold(&log, &dir.join(name))?;
            }
        }
        Ok(Self { place, dir })
    }

    /// Moves a whole database out of the way.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn take(&self, store: &Path) -> io::Result<()> {
        fs::rename(store, self.free_name("store"))?;
        File::open(&self.dir)?.sync_all()
    }

    /// Nothing was lost.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn release(self) -> io::Result<()> {
        fs::remove_dir_all(&self.dir)?;
        // Empty unless something was lost before.
        let _ = fs::remove_dir(&self.place);
        Ok(())
    }

    /// Something was lost: the files stay, with a sentence beside them. Gives their place.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn keep(self, words: &str) -> io::Result<PathBuf> {
        let mut report = File::create(self.dir.join(REPORT))?;
        writeln!(report, "{words}")?;
        report.sync_all()?;
        let number = losses(&self.place).last().map_or(1, |(number, _)| number + 1);
        let kept = self.place.join(number.to_string());
        fs::rename(&self.dir, &kept)?;
        File::open(&self.place)?.sync_all()?;
        Ok(kept)
    }

    fn free_name(&self, name: &str) -> PathBuf {
        let names = (1..).map(|number: u32| self.dir.join(format!("{name}-{number}")));
        names.into_iter().find(|path| !path.exists()).unwrap_or_else(|| self.dir.join(name))
    }
}

/// A second name costs no space, and a log is never written to again once its database is opened anew; a file system
/// without second names gets a copy.
fn hold(log: &Path, held: &Path) -> io::Result<()> {
    match fs::hard_link(log, held) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => fs::copy(log, held).map(drop),
        Ok(()) => Ok(()),
    }
}

/// What was lost here last, in words, and where the files are; `None` when nothing was, or a person has taken the
/// quarantine away.
#[must_use]
pub fn last_loss(data: &Path) -> Option<String> {
    let (_, dir) = losses(&data.join(PLACE)).pop()?;
    let words = fs::read_to_string(dir.join(REPORT)).unwrap_or_default();
    Some(format!("{}; the damaged files are in {}", words.trim(), dir.display()))
}

fn losses(place: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let numbered = |entry: fs::DirEntry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()));
    let mut losses: Vec<(u64, PathBuf)> = entries.filter_map(numbered).collect();
    losses.sort();
    losses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_stays_when_it_is_kept_and_goes_when_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        make_directory(&store).unwrap();
        fs::write(store.join("7.log"), "log").unwrap();
        fs::write(store.join("8.sst"), "table").unwrap();
        Holding::of(dir.path(), &store).unwrap().release().unwrap();
        assert!(!dir.path().join(PLACE).exists() && store.join("7.log").exists());
        assert_eq!(last_loss(dir.path()), None);
        for number in 1..=11 {
            let holding = Holding::of(dir.path(), &store).unwrap();
            let kept = holding.keep(&format!("loss {number}")).unwrap();
            assert_eq!(fs::read(kept.join("7.log")).unwrap(), b"log");
            assert!(!kept.join("8.sst").exists());
        }
        let told = last_loss(dir.path()).unwrap();
        assert!(told.starts_with("loss 11; ") && told.ends_with("quarantine/11"), "{told}");
    }

    #[test]
    fn a_start_that_was_cut_off_loses_nothing_held() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        make_directory(&store).unwrap();
        fs::write(store.join("7.log"), "damaged").unwrap();
        drop(Holding::of(dir.path(), &store).unwrap());
        // Opening has taken the log away; then the power went.
        fs::remove_file(store.join("7.log")).unwrap();
        let kept = Holding::of(dir.path(), &store).unwrap().keep("x").unwrap();
        assert_eq!(fs::read(kept.join("7.log")).unwrap(), b"damaged");
    }
}
