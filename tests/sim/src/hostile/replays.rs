//! Sends again what it saw, to anybody, at any time, in any order, with what nobody signed changed.

use waypost_core::engine::effect::Stream;
use waypost_proto::hop::{self, frame::Kind};

use super::signer_of;
use crate::world::World;

impl World {
    /// Some frames of long ago.
    pub(super) fn replay(&mut self, host: usize) {
        for _ in 0..self.hostile.rng.range(1, 8) {
            let Some((session, _)) = self.victim(host) else { return };
            let Some((stream, mut frame)) = self.hostile.recall(host, |liar| &liar.frames) else { return };
            let chain = signer_of(&frame).map(|signer| self.chain_of(signer)).unwrap_or_default();
            match &mut frame.kind {
                Some(Kind::Envelope(envelope)) => {
                    self.seen.see("a liar replayed an envelope");
                    envelope.chain = chain;
                    self.change_unsigned(envelope);
                }
                Some(Kind::Word(attested) | Kind::Receipt(attested) | Kind::Fact(attested)) => {
                    self.seen.see("a liar replayed a statement");
                    attested.chain = chain;
                }
                Some(Kind::Custody(_) | Kind::Have(_) | Kind::Gone(_) | Kind::Want(_)) => {
                    self.seen.see("a liar replayed an answer");
                }
                _ => self.seen.see("a liar replayed another frame"),
            }
            self.fly(host, session, stream, Box::new(frame));
        }
    }

    /// What nobody signed, changed within what is allowed.
    fn change_unsigned(&mut self, envelope: &mut hop::Envelope) {
        let rng = &mut self.hostile.rng;
        let (far, near) = (rng.range(1, (1 << 48) - 1), rng.range(1, 60));
        envelope.transfer = *rng.pick(&[envelope.transfer, near, near, far, (1 << 48) - 1]);
        let some = rng.spread(1, 400 * 24 * 3_600_000);
        envelope.age_ms = *rng.pick(&[envelope.age_ms, 0, some, 2 * 365 * 24 * 3_600_000]);
        envelope.wave = *rng.pick(&[envelope.wave, 1, envelope.wave + 1, 65_535]).min(&65_535);
        envelope.hops = *rng.pick(&[0, 255, u32::MAX]);
        envelope.tickets = *rng.pick(&[0, 1, u32::MAX]);
    }

    /// A frame that a liar remembers, to be sent to a neighbour as it was.
    pub(super) fn resend(&mut self, host: usize, mut frame: hop::Frame) {
        let Some((session, _)) = self.victim(host) else { return };
        let chain = signer_of(&frame).map(|signer| self.chain_of(signer)).unwrap_or_default();
        if let Some(Kind::Word(it) | Kind::Receipt(it) | Kind::Fact(it)) = &mut frame.kind {
            it.chain = chain;
        }
        self.fly(host, session, Stream::Control, Box::new(frame));
    }
}
