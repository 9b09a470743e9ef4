//! Signs what is not its own to sign, and lies in what is: custody, answers, receipts and words of flows of others and
//! of its own, challenges of twins.

use bytes::Bytes;
use prost::Message as _;
use waypost_core::engine::effect::Stream;
use waypost_core::trust::Label;
use waypost_proto::hop::{self, frame::Kind, twin::Step};

use super::Lies;
use crate::world::World;

impl World {
    /// Custody for more than was sent, as of a commit of the far future; refusals for the longest time there is.
    pub(super) fn forge_answer(&mut self, stream: Stream, mut frame: Box<hop::Frame>) -> Lies {
        let chance = self.hostile.rng.chance(400);
        match &mut frame.kind {
            Some(Kind::Custody(custody)) if chance => {
                self.seen.see("a liar took custody of more than it got");
                custody.ranges.push(hop::Range { first: 1, last: u64::MAX });
                custody.durable_sequence = self.hostile.odd_number();
            }
            Some(Kind::Want(answer)) if chance => {
                self.seen.see("a liar refused for an hour");
                let (offer, items, after_ms) = (answer.offer, std::mem::take(&mut answer.items), u64::MAX);
                frame.kind = Some(Kind::RetryLater(hop::RetryLater { offer, items, after_ms, ..Default::default() }));
            }
            _ => {}
        }
        vec![(stream, frame)]
    }

    /// One forgery.
    pub(super) fn forge(&mut self, host: usize) {
        let Some((session, victim)) = self.victim(host) else { return };
        match self.hostile.rng.below(12) {
            0 => self.forge_statement(host),
            1 => self.change_statement(host),
            2 => self.forge_custody(host),
            3 => self.forge_dropped(host),
            4 => self.forge_twin(host),
            5..=7 => self.lie_as_destination(host),
            8 => self.forge_answers(host),
            9 => {
                self.seen.see("a liar lied in its own word");
                let content = self.invented_word(host, victim);
                let word = self.attest(host, Label::Word, &content);
                self.tell(host, session, Kind::Word(word));
            }
            10 => self.send_bad_mail(host),
            _ => {
                self.seen.see("a liar gave odd credit");
                let (bytes, envelopes) = (self.hostile.odd_number(), self.hostile.odd_number());
                let class = self.hostile.rng.range(1, 3) as u32;
                self.tell(host, session, Kind::Credit(hop::Credit { class, bytes, envelopes }));
                let (last, all) = (Bytes::copy_from_slice(&self.hostile.rng.seed()), self.hostile.rng.chance(500));
                self.tell(host, session, Kind::Shown(hop::Shown { last, all }));
            }
        }
    }

    /// A receipt or word of a flow of others, signed with its own key.
    fn forge_statement(&mut self, host: usize) {
        let Some((session, _)) = self.victim(host) else { return };
        let Some(flow) = self.hostile.recall(host, |liar| &liar.flows) else { return };
        self.seen.see("a liar signed for others");
        let as_receipt = self.hostile.rng.chance(500);
        let receipt = self.any_receipt(host, flow.clone());
        let word = hop::WordContent { flow: Some(flow), ..self.invented_word(host, 0) };
        let kind = if as_receipt {
            Kind::Receipt(self.attest(host, Label::Receipt, &receipt))
        } else {
            Kind::Word(self.attest(host, Label::Word, &word))
        };
        self.tell(host, session, kind);
    }

    /// A statement of somebody else's with the signature it had and something else in it.
    fn change_statement(&mut self, host: usize) {
        let Some((_, mut frame)) = self.hostile.recall(host, |liar| &liar.frames) else { return };
        let Some(Kind::Receipt(attested)) = &mut frame.kind else { return };
        let Some(object) = &mut attested.object else { return };
        let Ok(mut content) = hop::ReceiptContent::decode(object.content.clone()) else { return };
        self.seen.see("a liar changed a receipt");
        content.floor = content.floor.saturating_add(10);
        content
            .delivered
            .iter_mut()
            .for_each(|range| (range.last, range.tags) = (range.last.saturating_add(5), range.tags ^ 1));
        object.content = content.encode_to_vec().into();
        self.resend(host, frame);
    }

    /// Custody for transfers never sent to it, for this or another incarnation.
    fn forge_custody(&mut self, host: usize) {
        let Some((session, victim)) = self.victim(host) else { return };
        self.seen.see("a liar forged custody");
        let giver = if self.hostile.rng.chance(700) { victim } else { self.anybody_else(host) };
        let incarnation = Bytes::copy_from_slice(&self.some_incarnation(giver).to_bytes());
        let ranges = (0..self.hostile.rng.below(300)).map(|_| self.hostile.odd_range());
        let ranges = ranges.map(|(one, other)| hop::Range { first: one.min(other), last: one.max(other) }).collect();
        let custody = hop::Custody {
            incarnation: incarnation.clone(),
            class: self.hostile.rng.range(1, 3) as u32,
            ranges,
            taker_incarnation: incarnation,
            durable_sequence: self.hostile.odd_number(),
        };
        self.tell(host, session, Kind::Custody(custody));
    }

    /// It says that copies are gone which it never had.
    fn forge_dropped(&mut self, host: usize) {
        let Some((session, _)) = self.victim(host) else { return };
        self.seen.see("a liar dropped what it never had");
        let mut names = Vec::new();
        for _ in 0..self.hostile.rng.range(1, 20) {
            let Some(flow) = self.hostile.recall(host, |liar| &liar.flows) else { return };
            let (first, count) = (self.hostile.rng.range(1, 30), self.hostile.rng.range(1, 4) as u32);
            names.push(hop::EnvelopeName { flow: Some(flow), first, count });
        }
        self.tell(host, session, Kind::Dropped(hop::Dropped { names }));
    }

    /// Steps of telling twins apart: challenges carried to whoever will sign, signatures to whoever will stop.
    fn forge_twin(&mut self, host: usize) {
        let Some((session, _)) = self.victim(host) else { return };
        self.seen.see("a liar told of twins");
        let noise = Bytes::copy_from_slice(&self.hostile.rng.seed());
        let drawn = self.hostile.recall(host, |liar| &liar.drawn).unwrap_or(noise.clone());
        let signed = self.hostile.recall(host, |liar| &liar.signed);
        let own = hop::TwinContent {
            node: Bytes::copy_from_slice(&self.hosts[host].id().0),
            challenge: drawn.clone(),
            challenger: noise,
            nonce: self.hostile.rng.bits(),
        };
        let own = self.sign_as(host, Label::Twin, &own);
        let steps = [
            Step::Draw(true),
            Step::Draw(true),
            Step::Drawn(drawn.clone()),
            Step::Sign(drawn.clone()),
            Step::Sign(drawn),
            Step::Signed(signed.clone().unwrap_or(own.clone())),
            Step::Proof(signed.unwrap_or(own)),
        ];
        for _ in 0..self.hostile.rng.range(1, 5) {
            let step = self.hostile.rng.pick(&steps).clone();
            self.tell(host, session, Kind::Twin(hop::Twin { step: Some(step) }));
        }
    }

    /// Receipts for flows that end at the liar, or would: whatever it may sign. They go to the source, or to a relay.
    fn lie_as_destination(&mut self, host: usize) {
        for _ in 0..self.hostile.rng.range(1, 4) {
            let Some((session, _)) = self.victim(host) else { return };
            self.seen.see("a liar lied in its own receipt");
            let source = self.anybody_else(host);
            let mut flow = waypost_core::envelope::flow_to_wire(&self.invented_flow(host, source));
            std::mem::swap(&mut flow.source, &mut flow.destination);
            flow.incarnation = Bytes::copy_from_slice(&self.some_incarnation(source).to_bytes());
            let content = self.any_receipt(source, flow);
            let receipt = self.attest(host, Label::Receipt, &content);
            self.tell(host, session, Kind::Receipt(receipt));
        }
    }

    /// A receipt that says anything.
    fn any_receipt(&mut self, source: usize, flow: hop::Flow) -> hop::ReceiptContent {
        let word_incarnation = Bytes::copy_from_slice(&self.some_incarnation(source).to_bytes());
        let lies = &mut self.hostile;
        let signing = Bytes::copy_from_slice(&lies.rng.seed()[..16]);
        let some = |lies: &mut super::Hostile| {
            let count = lies.rng.below(4);
            (0..count).map(|_| lies.odd_range()).collect::<Vec<_>>()
        };
        let plain =
            |ranges: Vec<(u64, u64)>| ranges.into_iter().map(|(first, last)| hop::Range { first, last }).collect();
        let coded = |ranges: Vec<(u64, u64)>| {
            ranges.into_iter().map(|(first, last)| hop::RejectedRange { first, last, reason: last as u32 }).collect()
        };
        let delivered = some(lies).into_iter().map(|(first, last)| hop::DeliveredRange { first, last, tags: first });
        hop::ReceiptContent {
            flow: Some(flow),
            signing_incarnation: signing,
            version: lies.odd_version(),
            page: lies.rng.below(3) as u32,
            word_seen: lies.odd_number(),
            word_incarnation,
            floor: lies.odd_number(),
            delivered: delivered.collect(),
            rejected: coded(some(lies)),
            skipped: plain(some(lies)),
            consumed: plain(some(lies)),
            refused: coded(some(lies)),
            dead: coded(some(lies)),
            cannot_open: Vec::new(),
            untagged: plain(some(lies)),
        }
    }

    /// Answers to offers and transfers that were never made.
    fn forge_answers(&mut self, host: usize) {
        let Some((session, _)) = self.victim(host) else { return };
        self.seen.see("a liar answered what nobody asked");
        let rng = &mut self.hostile.rng;
        let offer = rng.below(20);
        let items: Vec<u32> = (0..rng.below(40)).map(|_| rng.below(256) as u32).collect();
        let transfers: Vec<u64> = (0..rng.below(40)).map(|_| rng.below(100)).collect();
        let class = rng.range(1, 3) as u32;
        let answer = hop::Answer { offer, items: items.clone(), class, transfers: transfers.clone() };
        let source = Bytes::copy_from_slice(&rng.seed());
        let source = if rng.chance(500) { source } else { Bytes::new() };
        let reason = rng.below(9) as i32;
        let refusal = hop::RetryLater { offer, items, class, transfers, reason, after_ms: u64::MAX, source };
        let kinds =
            [Kind::Want(answer.clone()), Kind::Have(answer.clone()), Kind::Gone(answer), Kind::RetryLater(refusal)];
        let kind = self.hostile.rng.pick(&kinds).clone();
        self.tell(host, session, kind);
    }

    /// Envelopes that are signed well and hold nonsense.
    pub(super) fn send_bad_mail(&mut self, host: usize) {
        for _ in 0..self.hostile.rng.range(1, 4) {
            self.seen.see("a liar sealed nonsense");
            let to = self.anybody_else(host);
            let flow = self.invented_flow(host, to);
            let items: Vec<hop::Item> = (0..self.hostile.rng.range(1, 4)).map(|_| self.bad_item()).collect();
            let count = if self.hostile.rng.chance(800) { items.len() as u32 } else { 9 };
            let first = self.hostile.rng.range(1, 300);
            if let Some(envelope) = self.seal_items(host, flow, (first, count), &items) {
                self.fly_envelope(host, flow, envelope);
            }
        }
    }
}
