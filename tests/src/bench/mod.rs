//! `make bench`: how fast three real nodes in a row are, and what it costs them. One run is one chain of processes and all
//! its figures; a figure of one run never stands beside one of another.

pub mod cases;
pub mod disk;
pub mod ledger;
pub mod process;
pub mod run;
pub mod socket;
pub mod stats;
pub mod table;
pub mod wire;
