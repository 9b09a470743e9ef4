//! The unit that times are told in: what a sync of this machine's disk takes now, beside the nodes' own data.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::stats::Times;

/// Syncs in one look.
const SYNCS: usize = 300;
/// Bytes appended before each.
const BLOCK: usize = 4096;
/// A disk whose median sync takes longer is busy with somebody else's work: what is measured then says nothing of a node.
pub const BUSY: Duration = Duration::from_micros(400);

/// Appends 4 KiB and syncs them, some hundred times, in a file of its own in `folder`.
///
/// # Errors
/// When the file cannot be written.
pub fn syncs(folder: &Path) -> Result<Times> {
    let path = folder.join("syncs");
    let mut file = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let block = [0x5a; BLOCK];
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    std::fs::remove_file(&path)?;
    Ok(times.into_iter().collect())
}
