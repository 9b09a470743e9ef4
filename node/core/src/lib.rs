//! Waypost's engine: what is decided, and nothing of where it happens.
//!
//! This crate reaches no runtime, no socket, no database and no clock. Time, keys and randomness are handed to it;
//! storage is a trait of three calls; everything that leaves is a value. So the same engine runs in production, in
//! simulations of whole networks in one thread, and under a fuzzer, and does the same thing each time.

pub mod engine;
pub mod envelope;
pub mod filter;
pub mod flow;
pub mod hop;
pub mod id;
pub mod limits;
pub mod message;
pub mod numbers;
pub mod planted;
pub mod policy;
pub mod route;
pub mod store;
pub mod time;
pub mod trust;
