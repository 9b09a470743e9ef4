//! Changes to inputs, drawn from a seed: of bytes, and of the fields of whatever reads as a protobuf message, at any
//! depth. Knows no format beyond that.

use super::wire::{self, Field, Value};
use crate::rng::Rng;

/// Inputs are cut to this.
pub const LONGEST: usize = 64 * 1024;

/// Numbers at which something ends.
const EDGES: [u64; 18] = [
    0,
    1,
    2,
    255,
    1 << 12,
    (1 << 12) + 1,
    1 << 16,
    1 << 20,
    (1 << 31) - 1,
    (1 << 32) - 1,
    1 << 32,
    (1 << 48) - 1,
    1 << 48,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
    365 * 24 * 3_600_000,
];

/// An input made from `of`, with parts of `donor`.
#[must_use]
pub fn mutate(rng: &mut Rng, of: &[u8], donor: &[u8]) -> Vec<u8> {
    let mut changed = of.to_vec();
    for _ in 0..1 + rng.spread(1, 6) {
        changed = match (rng.below(4), wire::fields(&changed)) {
            (0, _) | (_, None) => change_bytes(rng, changed, donor),
            (_, Some(fields)) => wire::encode(&change_fields(rng, fields, donor, 0)),
        };
        changed.truncate(LONGEST);
    }
    changed
}

fn change_bytes(rng: &mut Rng, mut bytes: Vec<u8>, donor: &[u8]) -> Vec<u8> {
    if bytes.is_empty() {
        return donor.to_vec();
    }
    let at = rng.index(bytes.len());
    match rng.below(9) {
        0 | 1 => bytes[at] ^= 1 << rng.below(8),
        2 => bytes[at] = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff]),
        3 => bytes[at] = bytes[at].wrapping_add(*rng.pick(&[1, 0xff])),
        4 => bytes.truncate(at),
        5 => {
            let to = at + rng.index((bytes.len() - at).min(64) + 1);
            bytes.drain(at..to);
        }
        6 => {
            let to = at + rng.index((bytes.len() - at).min(64) + 1);
            let again = bytes[at..to].to_vec();
            bytes.splice(at..at, again);
        }
        7 => {
            let noise: Vec<u8> = (0..rng.spread(1, 40)).map(|_| rng.bits() as u8).collect();
            bytes.splice(at..at, noise);
        }
        _ => {
            let from = rng.index(donor.len() + 1);
            bytes.truncate(at);
            bytes.extend(&donor[from..]);
        }
    }
    bytes
}

fn change_fields(rng: &mut Rng, mut fields: Vec<Field>, donor: &[u8], depth: u32) -> Vec<Field> {
    if fields.is_empty() || rng.below(12) == 0 {
        return add_field(rng, fields, donor);
    }
    let at = rng.index(fields.len());
    match rng.below(10) {
        0 => {
            fields.remove(at);
        }
        1 => {
            let times = rng.spread(1, 40);
            let again = fields[at].clone();
            fields.splice(at..at, (0..times).map(|_| again.clone()));
        }
        2 => {
            let other = rng.index(fields.len());
            fields.swap(at, other);
        }
        3 if depth > 0 && rng.below(4) == 0 => fields[at].number = rng.range(1, 20) as u32,
        _ => {
            let field = fields.swap_remove(at);
            let value = change_value(rng, field.value, donor, depth);
            fields.push(Field { value, ..field });
            let last = fields.len() - 1;
            fields.swap(at, last);
        }
    }
    fields
}

fn add_field(rng: &mut Rng, mut fields: Vec<Field>, donor: &[u8]) -> Vec<Field> {
    let at = rng.index(fields.len() + 1);
    let new = match wire::fields(donor).filter(|of| !of.is_empty() && rng.below(4) > 0) {
        Some(of) => {
            // A run of them, so that what belongs together stays together.
            let from = rng.index(of.len());
            let to = (from + rng.spread(1, 12) as usize).min(of.len());
            of[from..to].to_vec()
        }
        None => vec![Field::number(rng.range(1, 20) as u32, number(rng, 0))],
    };
    fields.splice(at..at, new);
    fields
}

fn change_value(rng: &mut Rng, value: Value, donor: &[u8], depth: u32) -> Value {
    match value {
        Value::Varint(value) => Value::Varint(number(rng, value)),
        Value::Fixed64(value) => Value::Fixed64(number(rng, value)),
        Value::Fixed32(value) => Value::Fixed32(number(rng, u64::from(value)) as u32),
        Value::Bytes(bytes) => Value::Bytes(change_string(rng, bytes, donor, depth)),
    }
}

fn number(rng: &mut Rng, value: u64) -> u64 {
    match rng.below(8) {
        0 => value.wrapping_add(1),
        1 => value.wrapping_sub(1),
        2 => rng.below(64),
        3 => rng.bits(),
        4 => value ^ (1 << rng.below(64)),
        _ => *rng.pick(&EDGES),
    }
}

fn change_string(rng: &mut Rng, bytes: Vec<u8>, donor: &[u8], depth: u32) -> Vec<u8> {
    // A donor's field of the same depth is what is most likely understood there.
    let inner = |rng: &mut Rng| {
        let of: Vec<Vec<u8>> = wire::fields(donor)
            .unwrap_or_default()
            .into_iter()
            .filter_map(|field| match field.value {
                Value::Bytes(bytes) => Some(bytes),
                _ => None,
            })
            .collect();
        if of.is_empty() { donor.to_vec() } else { of[rng.index(of.len())].clone() }
    };
    match wire::fields(&bytes).filter(|fields| !fields.is_empty() && depth < 8) {
        Some(fields) if rng.below(10) > 0 => {
            let donor = inner(rng);
            wire::encode(&change_fields(rng, fields, &donor, depth + 1))
        }
        _ => match rng.below(6) {
            0 => Vec::new(),
            1 => bytes[..rng.index(bytes.len() + 1)].to_vec(),
            2 => [bytes, vec![rng.bits() as u8; rng.spread(1, 300) as usize]].concat(),
            3 => inner(rng),
            _ if bytes.is_empty() => vec![rng.bits() as u8; rng.spread(1, 100) as usize],
            _ => change_bytes(rng, bytes, donor),
        },
    }
}
