//! Keys: fixed layouts whose byte order is the order the engine walks in. One kind of key a table.

use crate::id::{FlowId, MessageId, NodeId};
use crate::time::NodeTime;

/// A part of a key with a fixed width.
pub trait Part: Sized {
    /// Its width in bytes.
    const WIDTH: usize;
    /// Appends it.
    fn write(&self, key: &mut Vec<u8>);
    /// Reads it from exactly `WIDTH` bytes.
    fn read(bytes: &[u8]) -> Option<Self>;
}

impl Part for u64 {
    const WIDTH: usize = 8;
    fn write(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(&self.to_be_bytes());
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_be_bytes(bytes.try_into().ok()?))
    }
}

impl Part for u32 {
    const WIDTH: usize = 4;
    fn write(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(&self.to_be_bytes());
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_be_bytes(bytes.try_into().ok()?))
    }
}

impl Part for u8 {
    const WIDTH: usize = 1;
    fn write(&self, key: &mut Vec<u8>) {
        key.push(*self);
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.first().copied()
    }
}

impl Part for NodeTime {
    const WIDTH: usize = 8;
    fn write(&self, key: &mut Vec<u8>) {
        self.0.write(key);
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        u64::read(bytes).map(Self)
    }
}

impl Part for NodeId {
    const WIDTH: usize = 32;
    fn write(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(&self.0);
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        Self::from_slice(bytes)
    }
}

impl Part for MessageId {
    const WIDTH: usize = 16;
    fn write(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(&self.0);
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        Self::from_slice(bytes)
    }
}

impl Part for FlowId {
    const WIDTH: usize = Self::LEN;
    fn write(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(&self.to_bytes());
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        Self::from_slice(bytes)
    }
}

impl Part for [u8; 32] {
    const WIDTH: usize = 32;
    fn write(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(self);
    }
    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok()
    }
}

/// A whole key.
pub trait Key: Sized {
    /// As bytes.
    fn encode(&self) -> Vec<u8>;
    /// From bytes; `None` when they are not such a key.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

impl Key for () {
    fn encode(&self) -> Vec<u8> {
        Vec::new()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        bytes.is_empty().then_some(())
    }
}

/// A text: alone, or the last part of a key.
impl Key for String {
    fn encode(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        Self::from_utf8(bytes.to_vec()).ok()
    }
}

/// A user and a text of the user's choice.
impl Key for (u32, String) {
    fn encode(&self) -> Vec<u8> {
        [self.0.to_be_bytes().as_slice(), self.1.as_bytes()].concat()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (uid, text) = bytes.split_at_checked(4)?;
        Some((u32::read(uid)?, String::decode(text)?))
    }
}

/// A destination and a text.
impl Key for (NodeId, String) {
    fn encode(&self) -> Vec<u8> {
        [self.0.0.as_slice(), self.1.as_bytes()].concat()
    }
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (node, text) = bytes.split_at_checked(32)?;
        Some((NodeId::from_slice(node)?, String::decode(text)?))
    }
}

macro_rules! key_of_parts {
    ($($part:ident . $place:tt),+) => {
        impl<$($part: Part),+> Key for ($($part,)+) {
            fn encode(&self) -> Vec<u8> {
                let mut key = Vec::with_capacity(0 $(+ $part::WIDTH)+);
                $(self.$place.write(&mut key);)+
                key
            }
            fn decode(bytes: &[u8]) -> Option<Self> {
                let mut at = 0;
                let key = ($({
                    let part = $part::read(bytes.get(at..at + $part::WIDTH)?)?;
                    at += $part::WIDTH;
                    part
                },)+);
                (at == bytes.len()).then_some(key)
            }
        }
    };
}

key_of_parts!(A.0);
key_of_parts!(A.0, B.1);
key_of_parts!(A.0, B.1, C.2);
key_of_parts!(A.0, B.1, C.2, D.3);

/// The key right behind every key that starts with `prefix`: the exclusive end of a scan over them.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX; 64]
}

/// Behind every key of a table.
#[must_use]
pub fn end_of_table() -> Vec<u8> {
    vec![u8::MAX; 160]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_and_order_as_their_numbers() {
        let keys = [(1u64, 5u64), (1, 256), (2, 0), (255, 1), (256, 0)];
        let encoded: Vec<Vec<u8>> = keys.iter().map(Key::encode).collect();
        assert!(encoded.is_sorted());
        assert!(encoded.iter().zip(keys).all(|(bytes, key)| <(u64, u64)>::decode(bytes) == Some(key)));
        assert_eq!(<(u64, u64)>::decode(&encoded[0][1..]), None);
    }

    #[test]
    fn the_end_of_a_prefix_is_behind_all_its_keys() {
        assert_eq!(after_prefix(&[1, 255]), vec![2]);
        assert!(after_prefix(&[255, 255]) > vec![255, 255, 255, 255]);
    }
}
