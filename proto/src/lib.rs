//! What crosses a hop ([`hop`]) and what is stored ([`stored`]), generated from `waypost/v1/*.proto`.
//! Shapes only: the rules are in `PROTOCOL.md`, the code that keeps them in `waypost-core`.

/// Frames between nodes and the contents of signed objects.
#[allow(missing_docs, reason = "generated; the .proto files carry the documentation")]
pub mod hop {
    include!(concat!(env!("OUT_DIR"), "/waypost.hop.v1.rs"));
}

/// Rows on disk.
#[allow(missing_docs, reason = "generated; the .proto files carry the documentation")]
pub mod stored {
    include!(concat!(env!("OUT_DIR"), "/waypost.stored.v1.rs"));
}
