//! Finds the `waypost` that is tested, and refuses one older than its sources: a green run must mean these sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

/// What decides the binary's bytes, relative to the workspace. Documents beside them do not.
const INPUTS: [&str; 4] = ["node", "proto", "Cargo.toml", "Cargo.lock"];

/// The daemon to test: `WAYPOST_BIN` as it is (whoever names one means that one), else the one built beside this.
///
/// # Errors
/// When there is none, or it is older than its sources.
pub fn find() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("WAYPOST_BIN") {
        let named = PathBuf::from(named);
        if !named.is_file() {
            bail!("WAYPOST_BIN is {}, where there is no file", named.display());
        }
        return Ok(named);
    }
    let binary = profile_dir()?.join("waypost");
    refuse_stale(&binary, &crate::workspace_root()?)?;
    Ok(binary)
}

/// Where cargo puts this profile's products: the folder of this very program, or its parent for a test.
fn profile_dir() -> Result<PathBuf> {
    let this = std::env::current_exe().context("finding this program's own path")?;
    let folder = this.parent().context("a program has a folder")?;
    let profile = if folder.ends_with("deps") { folder.parent() } else { Some(folder) };
    Ok(profile.context("a profile folder")?.to_owned())
}

/// A folder for tests' data, on the same disk as everything that was built.
///
/// # Errors
/// When it cannot be made.
pub fn scratch_dir() -> Result<PathBuf> {
    let profile = profile_dir()?;
    let scratch = profile.parent().context("a target folder")?.join("tmp");
    fs::create_dir_all(&scratch).with_context(|| format!("making {}", scratch.display()))?;
    Ok(scratch)
}

fn refuse_stale(binary: &Path, workspace: &Path) -> Result<()> {
    let Some(built) = built_at(binary) else {
        bail!("{} does not exist: run `make build`", binary.display());
    };
    for input in INPUTS {
        if let Some(newer) = newer_than(&workspace.join(input), built)? {
            bail!("{} is older than {}: run `make build`", binary.display(), newer.display());
        }
    }
    Ok(())
}

/// `make build` leaves a mark of when it began beside what it built: cargo leaves a binary alone when only tests changed.
fn built_at(binary: &Path) -> Option<SystemTime> {
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let linked = changed(binary)?;
    let marked = changed(&binary.with_extension("built"));
    Some(marked.map_or(linked, |marked| marked.max(linked)))
}

fn newer_than(path: &Path, built: SystemTime) -> Result<Option<PathBuf>> {
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("listing {}", path.display()))? {
            if let Some(newer) = newer_than(&entry?.path(), built)? {
                return Ok(Some(newer));
            }
        }
        return Ok(None);
    }
    let decides = path.extension().is_some_and(|kind| ["rs", "proto", "toml", "lock"].iter().any(|k| kind == *k));
    if !decides {
        return Ok(None);
    }
    let changed = fs::metadata(path).and_then(|metadata| metadata.modified());
    let changed = changed.with_context(|| format!("looking at {}", path.display()))?;
    Ok((changed > built).then(|| path.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;

    fn age(path: &Path, seconds: u64) {
        let then = SystemTime::now() - Duration::from_secs(seconds);
        File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
    }

    /// A workspace of one source file and a document, and a binary, each with its age in seconds.
    fn workspace(source: u64, document: u64, binary: u64) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["node/src", "proto"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let files = [("node/src/a.rs", source), ("node/A.md", document), ("Cargo.toml", 900), ("Cargo.lock", 900)];
        for (file, seconds) in files.into_iter().chain([("waypost", binary)]) {
            fs::write(dir.path().join(file), "").unwrap();
            age(&dir.path().join(file), seconds);
        }
        let binary = dir.path().join("waypost");
        (dir, binary)
    }

    #[test]
    fn a_binary_younger_than_its_sources_is_taken_whatever_the_documents_say() {
        let (dir, binary) = workspace(100, 1, 50);
        refuse_stale(&binary, dir.path()).unwrap();
    }

    #[test]
    fn a_binary_older_than_a_source_is_refused_with_the_remedy() {
        let (dir, binary) = workspace(50, 100, 90);
        let refused = refuse_stale(&binary, dir.path()).unwrap_err().to_string();
        assert!(refused.contains("a.rs") && refused.contains("make build"), "{refused}");
    }

    #[test]
    fn a_build_that_changed_nothing_counts() {
        let (dir, binary) = workspace(50, 100, 90);
        fs::write(dir.path().join("waypost.built"), "").unwrap();
        refuse_stale(&binary, dir.path()).unwrap();
        age(&dir.path().join("waypost.built"), 60);
        assert!(refuse_stale(&binary, dir.path()).is_err());
    }

    #[test]
    fn no_binary_is_refused_with_the_remedy() {
        let (dir, binary) = workspace(1, 1, 1);
        fs::remove_file(&binary).unwrap();
        assert!(refuse_stale(&binary, dir.path()).unwrap_err().to_string().contains("make build"));
    }
}
