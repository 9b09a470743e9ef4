//! Everything above one crate: the rules the whole tree keeps ([`tree`]), simulated worlds by the thousand ([`soak`]),
//! real processes on loopback ([`harness`]), and how fast they are ([`mod@bench`]).

pub mod bench;
pub mod harness;
pub mod soak;
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
