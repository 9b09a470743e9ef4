//! stub
use super::kv::{StoreError, Table};
use bytes::Bytes;
/// r
pub trait Record: Sized {
    /// k
    type Key;
    /// t
    const TABLE: Table;
    /// k
    fn encode_key(k: &Self::Key) -> Vec<u8>;
    /// d
    fn decode_key(k: &[u8]) -> Result<Self::Key, StoreError>;
    /// e
    fn encode(&self) -> Bytes;
    /// d
    fn decode(b: &Bytes) -> Result<Self, StoreError>;
}
