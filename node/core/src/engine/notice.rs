//! The delay notice: a message that takes longer than most says so on its ladder, and goes on (rule TRACE-3). Counted in
//! node time: while it is open nothing is stored, with its ending it is.

use waypost_proto::stored;

use super::effect::Rung;
use crate::flow::Ending;
use crate::limits::DELAY_NOTICE_MS;
use crate::time::NodeTime;

/// Stands beside the endings in an envelope's row: these numbers had not ended when the notice was due.
pub(super) const DELAYED: u32 = 19;
/// The rung. No message is in this state: it is accepted or held, and late.
pub(super) const RUNG: &str = "delayed: not delivered within 4h";

/// What is stored with an ending that came after the notice was due.
pub(super) fn beside(given: &stored::Ending, row: &stored::Envelope, at: NodeTime) -> Option<stored::Ending> {
    let notice = stored::Ending { ending: DELAYED, reason: 0, at_ms: due_ms(row), late: false, ..*given };
    // One that is late stands beside an earlier ending.
    (!given.late && is_due(row, at)).then_some(notice)
}

/// The notice on the ladder of one of an envelope's numbers.
pub(super) fn rung_of(row: &stored::Envelope, number: u64, at: NodeTime) -> Option<Rung> {
    let mut of_it = row.endings.iter().filter(|ending| (ending.first..=ending.last).contains(&number));
    let has_ended = of_it.any(|ending| Ending::from_wire(ending.ending).is_some());
    let is_late = notice_in(row, number).is_some() || (!has_ended && is_due(row, at));
    is_late.then(|| Rung { state: RUNG.to_owned(), at_ms: due_ms(row), by: None })
}

fn notice_in(row: &stored::Envelope, number: u64) -> Option<&stored::Ending> {
    row.endings.iter().find(|ending| ending.ending == DELAYED && (ending.first..=ending.last).contains(&number))
}

fn is_due(row: &stored::Envelope, at: NodeTime) -> bool {
    at.since(NodeTime(row.arrived)) >= DELAY_NOTICE_MS
}

fn due_ms(row: &stored::Envelope) -> u64 {
    row.accepted_wall_ms.saturating_add(DELAY_NOTICE_MS)
}
