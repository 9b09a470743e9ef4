//! Real `waypost` processes on loopback, driven only by the command line and its JSON: what a user could do by hand.
//! Nothing here waits for time: every wait is for a fact, with a deadline, in [`wait`].

pub mod binary;
pub mod bodies;
pub mod chain;
pub mod client;
pub mod command;
pub mod lan;
pub mod node;
pub mod random;
pub mod readme;
pub mod sandbox;
pub mod volume;
pub mod wait;
pub mod words;

pub use chain::{Chain, Transport};
pub use client::Client;
pub use command::Finished;
pub use lan::Lan;
pub use node::Node;
pub use random::Random;
pub use sandbox::Sandbox;
pub use volume::Volume;

/// Exit codes of the command line, as sysexits has them.
pub mod exit {
    /// Done.
    pub const OK: i32 = 0;
    /// It failed for good.
    pub const FAILED: i32 = 1;
    /// The command was not understood.
    pub const USAGE: i32 = 2;
    /// No node at the socket.
    pub const UNAVAILABLE: i32 = 69;
    /// Not yet: timed out or full. Try again.
    pub const TRY_AGAIN: i32 = 75;
    /// This user may not.
    pub const NOT_PERMITTED: i32 = 77;
    /// The configuration, the data directory or the token will not do.
    pub const CONFIGURATION: i32 = 78;
}
