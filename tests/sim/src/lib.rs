//! Whole networks of engines in one thread and in virtual time. Disks, clocks, links, applications and liars are
//! simulated; the engine is the one that ships. It knows no RocksDB, no libp2p and no host: the same seed gives the same
//! story, twice, always.
//!
//! `plan` decides what will happen, `world` makes it happen with `host`, `carry`, `faults`, `apps` and `hostile`, and
//! `oracle` judges by what applications were told. `run` takes a seed to its verdict.

pub mod apps;
mod carry;
pub mod clock;
pub mod disk;
mod faults;
mod founding;
pub mod frames;
pub mod fuzz;
pub mod host;
pub mod hostile;
#[cfg(feature = "planted")]
pub mod mutants;
pub mod net;
pub mod oracle;
pub mod plan;
pub mod rng;
pub mod run;
pub mod seen;
pub mod shrink;
pub mod story;
pub mod world;
