//! Everything above one crate: the rules the whole tree keeps ([`tree`]) and real processes on loopback ([`harness`]).

pub mod harness;
pub mod tree;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folder with the workspace's manifest.
///
/// # Errors
/// When the source tree this was built from is no longer there.
pub fn workspace_root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(Path::to_owned).context("the tests crate stands in a folder of the workspace")
}
