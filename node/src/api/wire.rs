//! The local API's messages, client and server, generated from `waypost.proto`. No other file defines any of them.

#![allow(
    missing_docs,
    clippy::all,
    clippy::too_many_lines,
    clippy::allow_attributes_without_reason,
    reason = "generated; the .proto file carries the documentation"
)]

tonic::include_proto!("waypost.v1");

/// The same as a descriptor set, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/waypost.v1.descriptors"));
