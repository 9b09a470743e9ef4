//! What the whole source tree keeps to: one check a concern, each a function from what was read to its findings.
//! Run by `make check` (the bin `check`) and as tests. Nothing here writes, builds or asks the network.

pub mod borders;
pub mod habits;
pub mod licences;
pub mod logs;
pub mod packages;
pub mod rules;
pub mod sources;

use std::path::Path;

use anyhow::Result;

use packages::Packages;
use sources::Tree;

/// All that the checks look at, read once.
pub struct Project {
    /// The files.
    pub tree: Tree,
    /// The packages and how they depend on one another.
    pub packages: Packages,
}

/// One check: a sentence that should hold, and how to find what contradicts it.
pub struct Check {
    /// What holds when nothing is found.
    pub holds: &'static str,
    /// One finding a line, each saying where and what.
    pub findings: fn(&Project) -> Vec<String>,
}

/// Every check there is.
pub const CHECKS: [Check; 12] = [
    Check {
        holds: "every rule of PROTOCOL.md has code that keeps it and a test that cites it",
        findings: rules::check,
    },
    Check { holds: "every licence in the tree is an allowed one", findings: licences::check },
    Check { holds: "no dependency is older than its last known hole", findings: packages::check_floors },
    Check { holds: "core and proto reach no runtime, network or database", findings: packages::check_purity },
    Check { holds: "only the store names rocksdb", findings: borders::check_rocksdb },
    Check { holds: "only the net folder names libp2p", findings: borders::check_libp2p },
    Check { holds: "only the api folder names tonic's server", findings: borders::check_tonic_server },
    Check { holds: "every Rust file opens with what it owns", findings: habits::check_openings },
    Check { holds: "no file outgrows its reader", findings: habits::check_lengths },
    Check { holds: "no test waits for time", findings: habits::check_sleeps },
    Check { holds: "every log line keeps to the keys that are listed", findings: logs::check },
    Check { holds: "nothing names a place on somebody's machine", findings: habits::check_home_paths },
];

impl Project {
    /// Reads the project whose workspace manifest is in `root`.
    ///
    /// # Errors
    /// When files cannot be read or `cargo metadata` fails.
    pub fn read(root: &Path) -> Result<Self> {
        Ok(Self { tree: Tree::read(root)?, packages: Packages::read(root)? })
    }
}
