//! The protobuf wire format as it stands: fields by number, their values not understood. Enough to change one field of
//! a message and leave the rest as it was.

/// A field as it stands on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its number.
    pub number: u32,
    /// What it holds.
    pub value: Value,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2: bytes, a text, a message or packed numbers.
    Bytes(Vec<u8>),
    /// Wire type 5.
    Fixed32(u32),
}

impl Field {
    /// A field of bytes.
    #[must_use]
    pub fn bytes(number: u32, value: impl Into<Vec<u8>>) -> Self {
        Self { number, value: Value::Bytes(value.into()) }
    }

    /// A number.
    #[must_use]
    pub fn number(number: u32, value: u64) -> Self {
        Self { number, value: Value::Varint(value) }
    }
}

/// The fields of a message in their order; `None` when the bytes are none.
#[must_use]
pub fn fields(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0)?;
        let value = match key & 7 {
            0 => Value::Varint(take_varint(&mut bytes)?),
            1 => Value::Fixed64(u64::from_le_bytes(take(&mut bytes, 8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(take_varint(&mut bytes)?).ok()?;
                Value::Bytes(take(&mut bytes, length)?.to_vec())
            }
            5 => Value::Fixed32(u32::from_le_bytes(take(&mut bytes, 4)?.try_into().ok()?)),
            _ => return None,
        };
        fields.push(Field { number, value });
    }
    Some(fields)
}

/// As many fields as there are before the bytes stop making sense.
#[must_use]
pub fn fields_that_are(bytes: &[u8]) -> Vec<Field> {
    (0..=bytes.len().min(16)).find_map(|less| fields(&bytes[..bytes.len() - less])).unwrap_or_default()
}

/// The fields as bytes.
#[must_use]
pub fn encode(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Field { number, value } in fields {
        let key = u64::from(*number) << 3;
        match value {
            Value::Varint(value) => {
                put_varint(&mut bytes, key);
                put_varint(&mut bytes, *value);
            }
            Value::Fixed64(value) => {
                put_varint(&mut bytes, key | 1);
                bytes.extend(value.to_le_bytes());
            }
            Value::Bytes(value) => {
                put_varint(&mut bytes, key | 2);
                put_varint(&mut bytes, value.len() as u64);
                bytes.extend(value);
            }
            Value::Fixed32(value) => {
                put_varint(&mut bytes, key | 5);
                bytes.extend(value.to_le_bytes());
            }
        }
    }
    bytes
}

/// The last number that a field holds; 0 when it is absent.
#[must_use]
pub fn number_of(fields: &[Field], number: u32) -> u64 {
    let last = fields.iter().rev().find(|field| field.number == number);
    last.map_or(0, |field| match &field.value {
        Value::Varint(value) | Value::Fixed64(value) => *value,
        Value::Fixed32(value) => u64::from(*value),
        Value::Bytes(_) => 0,
    })
}

/// All byte strings that a field holds.
pub fn bytes_of(fields: &[Field], number: u32) -> impl Iterator<Item = &[u8]> {
    fields.iter().filter(move |field| field.number == number).filter_map(|field| match &field.value {
        Value::Bytes(value) => Some(value.as_slice()),
        _ => None,
    })
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (front, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(front)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let byte = take(bytes, 1)?[0];
        // Bits beyond the sixty-fourth are cut off, as prost does.
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Appends a number in base 128.
pub fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use waypost_proto::hop;

    use super::*;

    #[test]
    fn a_message_survives_the_walk() {
        let answer = hop::Answer { offer: u64::MAX, items: vec![1, 300], class: 2, transfers: vec![7] };
        let bytes = answer.encode_to_vec();
        let walked = fields(&bytes).unwrap();
        assert_eq!(number_of(&walked, 1), u64::MAX);
        assert_eq!(bytes_of(&walked, 2).next(), Some([1u8, 0xac, 2].as_slice()));
        assert_eq!(encode(&walked), bytes);
        assert_eq!(fields(&[7]), None);
    }
}
