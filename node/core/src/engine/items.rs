//! What a sealed body holds once it is open: items, each a message or a fragment of one, checked before anything of
//! them is kept (rules ENV-3, BODY-1).

use bytes::Bytes;
use prost::Message as _;
use waypost_proto::{hop, stored};

use crate::limits;
use crate::trust::hash;

/// The tag key and the items of a plain body; `None` when it is not `count` of them (rule ENV-3).
pub(super) fn items_of(plain: &Bytes, count: u32) -> Option<([u8; 32], Vec<hop::Item>)> {
    let mut rest = plain.clone();
    if rest.len() < 32 {
        return None;
    }
    let tag_key = rest.split_to(32).as_ref().try_into().ok()?;
    let mut items = Vec::with_capacity(count as usize);
    while !rest.is_empty() && items.len() < count as usize {
        items.push(hop::Item::decode_length_delimited(&mut rest).ok()?);
    }
    (rest.is_empty() && items.len() == count as usize).then_some((tag_key, items))
}

/// The chaining value of a fragment that can be one of its message (rule BODY-1).
pub(super) fn fragment_value(item: &hop::Item, number: u64) -> Option<[u8; 32]> {
    let size = item.size;
    let fragments = size.div_ceil(limits::FRAGMENT as u64);
    let fits = size <= limits::BODY_BYTES && u64::from(item.fragments) == fragments && item.index < item.fragments;
    let begins = u64::from(item.index) * limits::FRAGMENT as u64;
    let length = size.checked_sub(begins)?.min(limits::FRAGMENT as u64);
    if !fits || u64::from(item.index) >= number || item.body.len() as u64 != length || !headers_within(&item.headers) {
        return None;
    }
    hash::fragment_cv(u64::from(item.index), &item.body, false)
}

pub(super) fn with_first(head: stored::Partial, item: &hop::Item) -> stored::Partial {
    stored::Partial {
        channel: item.channel.clone(),
        sent_at_ms: item.sent_at_ms,
        headers: headers_to_row(&item.headers),
        lifetime_ms: item.lifetime_ms.min(limits::LIFETIME_MAX_MS),
        predecessor: item.after.clone().map(predecessor_to_row),
        ..head
    }
}

pub(super) fn headers_within(headers: &[hop::Header]) -> bool {
    headers.iter().map(|header| header.name.len() + header.value.len()).sum::<usize>() <= limits::HEADER_BYTES
}

pub(super) fn predecessor_to_row(after: hop::Predecessor) -> stored::Predecessor {
    let hop::Predecessor { id, class, incarnation, number } = after;
    stored::Predecessor { id, class, incarnation, number }
}

pub(super) fn headers_to_row(headers: &[hop::Header]) -> Vec<stored::Header> {
    headers.iter().map(|header| stored::Header { name: header.name.clone(), value: header.value.clone() }).collect()
}
