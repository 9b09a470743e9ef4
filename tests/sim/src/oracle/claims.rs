//! P2 and P1: a custody or a receipt leaves only after the commit that makes it true (rules CLAIM-1, CUSTODY-1,
//! RECEIPT-1). Looked for on the disk as a power cut at this moment would leave it.

use prost::Message as _;
use waypost_core::store::tables::meta;
use waypost_proto::hop::{self, frame::Kind};
use waypost_proto::stored;

use super::Oracle;
use super::held::{handle, row};
use crate::disk::Disk;
use crate::seen::Seen;

impl Oracle {
    /// A frame leaves a node.
    pub fn leaves(&mut self, at_us: u64, host: usize, frame: &hop::Frame, disk: &Disk, seen: &mut Seen) {
        match &frame.kind {
            Some(Kind::Custody(custody)) => {
                let synced = durable_sequence(disk);
                if custody.durable_sequence > synced {
                    let what = format!(
                        "{host} takes custody as of commit {} and has synced {synced}",
                        custody.durable_sequence
                    );
                    self.breaks("claims", at_us, what);
                }
            }
            Some(Kind::Receipt(attested)) => self.receipt_leaves(at_us, host, attested, disk, seen),
            Some(Kind::Word(attested)) => note_word(attested, seen),
            Some(Kind::Envelope(envelope)) if envelope.wave > 1 => seen.see("a later wave"),
            Some(Kind::Gone(_)) => seen.see("gone answered an offer"),
            Some(Kind::Have(_)) => seen.see("have answered an offer"),
            Some(Kind::Dropped(_)) => seen.see("dropped told"),
            Some(Kind::RetryLater(refusal)) => match refusal.reason() {
                hop::retry_later::Reason::InboxFull => seen.see("refused: inbox full"),
                hop::retry_later::Reason::TransitFull => seen.see("refused: transit full"),
                hop::retry_later::Reason::DiskFull => seen.see("refused: disk full"),
                _ => seen.see("refused: another reason"),
            },
            _ => {}
        }
    }

    fn receipt_leaves(&mut self, at_us: u64, host: usize, attested: &hop::Attested, disk: &Disk, seen: &mut Seen) {
        let object = attested.object.as_ref();
        let Some(Ok(content)) = object.map(|it| hop::ReceiptContent::decode(it.content.clone())) else { return };
        if !content.skipped.is_empty() {
            seen.see("a receipt skipped a number");
        }
        if !content.untagged.is_empty() {
            seen.see("a receipt speaks of recovered numbers");
        }
        let Some(flow) = &content.flow else { return };
        let flow = waypost_core::envelope::flow_from_wire(flow).and_then(|flow| handle(disk, flow));
        let is_mine = flow.and_then(|flow| row::<stored::InFlow>(disk, &(flow,))).map(|row| row.version);
        // No row: it carries somebody else's receipt.
        let newest = is_mine.unwrap_or(u64::MAX);
        let (lies, lost) = (self.doubt(host).lies, self.doubt(host).disk_us.is_some());
        if content.version > newest && !lies && !lost {
            let what = format!("{host} signs version {} of a receipt and has synced {newest}", content.version);
            self.breaks("claims", at_us, what);
        }
    }
}

fn note_word(attested: &hop::Attested, seen: &mut Seen) {
    let object = attested.object.as_ref();
    let Some(Ok(content)) = object.map(|it| hop::WordContent::decode(it.content.clone())) else { return };
    if !content.ended.is_empty() {
        seen.see("a word ended something");
    }
    if content.closed {
        seen.see("a word closed a flow");
    }
}

/// The commit sequence a power cut would leave.
fn durable_sequence(disk: &Disk) -> u64 {
    row::<stored::Counters>(disk, &meta::COUNTERS.to_owned()).map_or(0, |row| row.commit_sequence)
}
