//! What the engine keeps and how it is laid out: the same tables over RocksDB in production and over memory in tests.

pub mod conformance;
pub mod keys;
pub mod kv;
pub mod mem;
pub mod tables;
pub mod tx;
