//! Where it happens: the daemon around the engine. `node.rs` wires the parts; `store`, `net` and `api` do not know
//! one another and meet only in the engine's inputs and effects.

pub mod api;
pub mod ballast;
pub mod cli;
pub mod clock;
pub mod config;
pub mod disk;
pub mod driver;
pub mod identity;
pub mod inputs;
pub mod log;
pub mod mark;
pub mod net;
pub mod node;
pub mod quarantine;
pub mod signals;
pub mod store;
pub mod systemd;
#[cfg(test)]
mod testing;
