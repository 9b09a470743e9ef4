//! Frames as a member's connection brings them, on any stream, with signatures that fit or do not.

use std::sync::Mutex;

use prost::Message as _;
use waypost_core::engine::effect::Stream;
use waypost_core::hop::PeerFrame;
use waypost_core::hop::decode::Decoder;
use waypost_core::id::Class;
use waypost_core::trust::{Roots, Roster};
use waypost_proto::hop;

use super::town::{NODE, Town};
use super::{Target, class_of, seeds};

/// The decoder of frames. The first byte says on which stream, and whether signatures are made to fit.
pub struct Frames {
    town: Town,
    roster: Mutex<Roster>,
    roots: Mutex<Roots>,
    runs: u64,
}

impl Frames {
    /// Decodes at the founder.
    ///
    /// # Errors
    /// When there are no members: a defect.
    pub fn new() -> anyhow::Result<Self> {
        let town = Town::new()?;
        let roster = Mutex::new(Roster::with_capacity(town.network, 4));
        Ok(Self { town, roster, roots: Mutex::new(Roots::new(4)), runs: 0 })
    }
}

/// A stream by its number in the hello.
pub fn stream_of(number: u8) -> Stream {
    match number % 4 {
        1 => Stream::Class(Class::Urgent),
        2 => Stream::Class(Class::Normal),
        3 => Stream::Class(Class::Bulk),
        _ => Stream::Control,
    }
}

impl Target for Frames {
    fn name(&self) -> &'static str {
        "frames"
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let Ok(mut town) = Town::new() else { return Vec::new() };
        let frames = seeds::frames(&mut town);
        frames.into_iter().map(|(stream, frame)| [vec![stream | 4], frame.encode_to_vec()].concat()).collect()
    }

    fn run(&mut self, input: &[u8]) -> Result<Vec<u64>, String> {
        let Some((kind, rest)) = input.split_first() else { return Ok(Vec::new()) };
        let Ok(mut frame) = hop::Frame::decode(rest) else { return Ok(vec![0]) };
        if kind & 4 > 0 {
            self.town.sign_anew(&mut frame, &[0, 1, 2, 3, 4, 5]);
        }
        self.runs += 1;
        if self.runs.is_multiple_of(64) {
            // So that chains count again.
            self.roster = Mutex::new(Roster::with_capacity(self.town.network, 4));
        }
        let key = &self.town.members[NODE].key;
        let decoder = Decoder { key, network: self.town.network, roster: &self.roster, roots: &self.roots };
        let stream = stream_of(*kind);
        let seen = match decoder.decode(frame, stream) {
            Err(error) => format!("{error:?}"),
            Ok(decoded) => format!("{}{}", kind_of(decoded.frame.as_ref()), decoded.learned.is_empty()),
        };
        Ok(vec![class_of(&format!("{}{seen}", stream == Stream::Control))])
    }
}

fn kind_of(frame: Option<&PeerFrame>) -> String {
    match frame {
        None => "unknown".to_owned(),
        Some(PeerFrame::Envelope(arrived)) => {
            format!("envelope {:?}", arrived.opened.as_ref().map(|opened| opened.as_ref().map(|_| ())))
        }
        Some(PeerFrame::RetryLater { reason, .. }) => format!("retry {reason:?}"),
        Some(other) => format!("{other:?}").chars().take_while(|letter| letter.is_alphabetic()).collect(),
    }
}
