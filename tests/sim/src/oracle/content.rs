//! P5, the half about content: what an application gets is what its sender gave, from that sender, for this node. And no
//! honest node says what another honest node must refuse.

use waypost_core::engine::effect::Delivery;

use super::Oracle;
use crate::apps::{MARK, body_of};

impl Oracle {
    /// What is wrong with what was handed out.
    pub(super) fn wrong_content(&self, host: usize, delivery: &Delivery) -> Option<String> {
        let host = self.originals[host];
        let mark = delivery.headers.iter().find(|(name, _)| name == MARK).map(|(_, mark)| mark.as_str());
        let told = mark.and_then(|mark| self.marks.get(mark)).and_then(|mark| self.messages.get(mark));
        let Some(told) = told else {
            // A liar sends what it likes in its own name.
            let by_liar = self.is_liar(delivery.from);
            return (!by_liar).then(|| format!("{host} hands out {} that nobody sent", delivery.id));
        };
        if told.send.to != host {
            return Some(format!("{} came to {host}", Self::name(told)));
        }
        let body = body_of(told.call, told.place, told.send.size);
        (delivery.body != body)
            .then(|| format!("{} came with another body of {} bytes", Self::name(told), delivery.body.len()))
    }

    /// A frame was refused by its receiver: none from an honest node may be, unless by a liar that asked for it.
    pub fn refused_frame(&mut self, at_us: u64, host: usize, from: usize, kind: &str, why: &str) {
        if !self.doubt(from).lies && !self.doubt(host).lies {
            self.breaks("content", at_us, format!("{host} refuses a {kind} of honest {from}: {why}"));
        }
    }
}
