//! Sends frames with bytes flipped and fields changed; what it may sign it signs again, so that it gets past the checks.

use bytes::Bytes;
use prost::Message as _;
use waypost_core::engine::effect::Stream;
use waypost_core::id::Class;
use waypost_core::trust::Label;
use waypost_proto::hop::{self, frame::Kind};

use super::{Lies, signer_of};
use crate::rng::Rng;
use crate::world::World;

impl World {
    /// One frame in four comes out changed.
    pub(super) fn garble(&mut self, host: usize, stream: Stream, mut frame: Box<hop::Frame>) -> Lies {
        if !self.hostile.rng.chance(250) {
            return vec![(stream, frame)];
        }
        if self.hostile.rng.chance(20) {
            self.seen.see("a liar took the wrong stream");
            return vec![(Stream::Class(*self.hostile.rng.pick(&Class::ALL)), frame)];
        }
        let own = signer_of(&frame) == Some(self.hosts[host].id());
        if own && self.hostile.rng.chance(700) {
            self.seen.see("a liar signed garbage");
            self.garble_signed(host, &mut frame);
        } else if self.hostile.rng.chance(500) {
            self.seen.see("a liar changed a field");
            change_field(&mut self.hostile, &mut frame);
        } else if let Some(flipped) = flip_frame(&mut self.hostile.rng, &frame) {
            self.seen.see("a liar flipped bytes");
            frame = Box::new(flipped);
        }
        vec![(stream, frame)]
    }

    fn garble_signed(&mut self, host: usize, frame: &mut hop::Frame) {
        let label = match &frame.kind {
            Some(Kind::Word(_)) => Label::Word,
            Some(Kind::Receipt(_)) => Label::Receipt,
            Some(Kind::Fact(_)) => Label::Fact,
            _ => Label::Envelope,
        };
        match &mut frame.kind {
            Some(Kind::Word(it) | Kind::Receipt(it) | Kind::Fact(it)) => {
                let content = it.object.as_ref().map(|object| object.content.clone()).unwrap_or_default();
                let content = flip(&mut self.hostile.rng, &content);
                it.object = Some(self.sign_bytes(host, label, content));
            }
            Some(Kind::Envelope(it)) => {
                if self.hostile.rng.chance(500) {
                    it.header = flip(&mut self.hostile.rng, &it.header);
                } else {
                    it.sealed = flip(&mut self.hostile.rng, &it.sealed);
                }
                let signed = [it.header.as_ref(), blake3::hash(&it.sealed).as_bytes()].concat();
                it.signature = self.sign_bytes(host, label, signed.into()).signature;
            }
            _ => {}
        }
    }

    /// Mail of its own that is garbage inside.
    pub(super) fn garble_mail(&mut self, host: usize) {
        self.send_bad_mail(host);
    }
}

/// Some bytes of it changed.
fn flip(rng: &mut Rng, bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.range(1, 4) {
        if bytes.is_empty() {
            break;
        }
        let place = rng.index(bytes.len());
        bytes[place] = *rng.pick(&[bytes[place] ^ 1, bytes[place] ^ 0x80, 0, 0xff]);
    }
    bytes.into()
}

/// The frame with some bytes of its encoding changed, if it is still one.
fn flip_frame(rng: &mut Rng, frame: &hop::Frame) -> Option<hop::Frame> {
    let bytes = flip(rng, &frame.encode_to_vec().into());
    hop::Frame::decode(bytes).ok()
}

/// A byte string cut, lengthened or emptied.
fn resize(rng: &mut Rng, bytes: &mut Bytes) {
    let cut = bytes.slice(..bytes.len() / 2);
    let longer = Bytes::from([bytes.as_ref(), &[0]].concat());
    *bytes = rng.pick(&[cut, longer, Bytes::new()]).clone();
}

/// A number or a byte string of it is another.
fn change_field(lies: &mut super::Hostile, frame: &mut hop::Frame) {
    let odd = lies.odd_number();
    let which = lies.rng.below(4);
    match &mut frame.kind {
        Some(Kind::Credit(it)) => {
            let field = if which < 2 { &mut it.bytes } else { &mut it.envelopes };
            *field = odd;
        }
        Some(Kind::Envelope(it)) => match which {
            0 => it.transfer = odd,
            1 => it.age_ms = odd,
            2 => it.wave = odd as u32,
            _ => resize(&mut lies.rng, &mut it.sealed),
        },
        Some(Kind::Offer(it)) => match it.items.first_mut() {
            Some(item) if which > 0 => (item.wave, item.bytes) = (odd as u32, odd),
            _ => it.offer = odd,
        },
        Some(Kind::Want(it) | Kind::Have(it) | Kind::Gone(it)) => match which {
            0 => it.offer = odd,
            1 => it.class = odd as u32,
            2 => it.items.push(odd as u32),
            _ => it.transfers.push(odd),
        },
        Some(Kind::RetryLater(it)) => match which {
            0 => it.after_ms = odd,
            1 => it.reason = odd as i32,
            2 => resize(&mut lies.rng, &mut it.source),
            _ => it.offer = odd,
        },
        Some(Kind::Custody(it)) => match which {
            0 => it.ranges.push(hop::Range { first: 1, last: odd }),
            1 => it.durable_sequence = odd,
            2 => it.ranges.iter_mut().for_each(|range| (range.first, range.last) = (range.last, range.first)),
            _ => resize(&mut lies.rng, &mut it.incarnation),
        },
        Some(Kind::Word(it) | Kind::Receipt(it) | Kind::Fact(it)) => match &mut it.object {
            Some(object) if which > 1 => resize(&mut lies.rng, &mut object.signature),
            _ => it.object = None,
        },
        Some(Kind::Ids(it)) => it.facts.iter_mut().for_each(|id| (id.counter, id.sequence) = (odd, odd)),
        Some(Kind::Get(it)) => it.facts.iter_mut().for_each(|node| resize(&mut lies.rng, node)),
        Some(Kind::Dropped(it)) => it.names.iter_mut().for_each(|name| (name.first, name.count) = (odd, odd as u32)),
        Some(Kind::Shown(it)) => resize(&mut lies.rng, &mut it.last),
        _ => {}
    }
}
