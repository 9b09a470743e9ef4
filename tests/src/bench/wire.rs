//! The local API's messages and client, generated from `waypost.proto`.

#![allow(
    missing_docs,
    clippy::all,
    clippy::too_many_lines,
    clippy::allow_attributes_without_reason,
    reason = "generated; the .proto file carries the documentation"
)]

tonic::include_proto!("waypost.v1");
