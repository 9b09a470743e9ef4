//! Takes custody of others' mail and never hands it on, says that it has what it never had, and says of nothing that it
//! was dropped. Its own engine believes that all of it went on.

use waypost_core::engine::effect::Stream;
use waypost_core::engine::input::SessionId;
use waypost_core::envelope::Header;
use waypost_core::hop::{Answer, PeerFrame};
use waypost_proto::hop::{self, frame::Kind};

use super::{Lies, signer_of};
use crate::world::World;

impl World {
    /// What comes out of it of what its engine sends.
    pub(super) fn swallow(&mut self, host: usize, session: SessionId, stream: Stream, frame: Box<hop::Frame>) -> Lies {
        let own = self.hosts[host].id();
        let signer = signer_of(&frame);
        match &frame.kind {
            Some(Kind::Envelope(envelope)) if signer != Some(own) => {
                self.seen.see("a liar swallowed an envelope");
                self.pretend_custody(host, session, envelope);
                Vec::new()
            }
            Some(Kind::Offer(offer)) => {
                self.seen.see("a liar swallowed an offer");
                let items = (0u32..).zip(&offer.items).map(|(index, _)| index).collect();
                self.pretend(host, session, PeerFrame::Have(Answer::Items { offer: offer.offer, items }));
                Vec::new()
            }
            Some(Kind::Want(answer)) if self.hostile.rng.chance(700) => {
                let answer = answer.clone();
                self.seen.see("a liar had what it never had");
                let kind = if self.hostile.rng.chance(500) { Kind::Have(answer) } else { Kind::Gone(answer) };
                vec![(stream, Box::new(hop::Frame { kind: Some(kind) }))]
            }
            Some(Kind::Dropped(_)) => {
                self.seen.see("a liar kept quiet about what it dropped");
                Vec::new()
            }
            Some(Kind::Word(_) | Kind::Receipt(_)) if signer != Some(own) && self.hostile.rng.chance(300) => {
                self.seen.see("a liar swallowed a statement");
                Vec::new()
            }
            _ => vec![(stream, frame)],
        }
    }

    fn pretend_custody(&mut self, host: usize, session: SessionId, envelope: &hop::Envelope) {
        let Ok(header) = Header::decode(&envelope.header) else { return };
        let incarnation = self.incarnation_of(host);
        let (class, ranges) = (header.name.flow.class, vec![(envelope.transfer, envelope.transfer)]);
        self.pretend(host, session, PeerFrame::Custody { incarnation, class, ranges, durable_sequence: 0 });
    }

    /// It says that it has whatever may be on the way to it.
    pub(super) fn boast(&mut self, host: usize) {
        let Some((session, victim)) = self.victim(host) else { return };
        self.seen.see("a liar took custody of what may come");
        let incarnation = self.incarnation_of(victim).to_bytes().to_vec().into();
        let class = self.hostile.rng.range(1, 3) as u32;
        let ranges = vec![hop::Range { first: 1, last: 1 << 48 }];
        let durable_sequence = self.hostile.rng.below(1000);
        let custody = hop::Custody { incarnation, class, ranges, durable_sequence, ..Default::default() };
        self.tell(host, session, Kind::Custody(custody));
        let (offer, items) = (self.hostile.rng.range(1, 20), (0..256).collect());
        self.tell(host, session, Kind::Have(hop::Answer { offer, items, ..Default::default() }));
    }
}
