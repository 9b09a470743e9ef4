//! Nothing unbounded: when all is delivered and forgotten, tables that hold mail are empty, and nobody spins.

use waypost_core::store::kv::Table;
use waypost_core::store::tables::{Record, meta};
use waypost_proto::stored::{self, envelope::State};

use super::Oracle;
use super::held::row;
use crate::host::Host;

/// Rounds an idle node may take in an hour.
const ROUNDS_AN_HOUR: u64 = 400;

/// What must be empty when every message has ended and was consumed, but for what relays keep because nobody told them.
const MAIL: [Table; 7] =
    [Table::Due, Table::Inbox, Table::Queue, Table::Partial, Table::Stage, Table::Waiting, Table::Delayed];

/// What must be empty when the ladders are forgotten too.
const LADDERS: [Table; 9] = [
    Table::Body,
    Table::Envelope,
    Table::Message,
    Table::Contents,
    Table::Idempotency,
    Table::Timer,
    Table::TransitFlow,
    Table::Taken,
    Table::Order,
];

impl Oracle {
    /// Whether every message has ended and nobody lost anything: only then must tables be empty.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let sound = self
            .doubts
            .iter()
            .all(|doubt| !doubt.gone && !doubt.twins && !doubt.lies && !doubt.rot && doubt.disk_us.is_none());
        sound && self.messages.values().all(|told| told.accepted_us.is_none() || told.ending.is_some())
    }

    /// A while after the last ending.
    pub fn drained(&mut self, at_us: u64, host: usize, state: &Host) {
        self.must_be_empty(at_us, host, state, &MAIL);
        for (_, value) in state.disk.table(Table::OutFlow) {
            let Ok(flow) = <stored::OutFlow as Record>::decode(value) else { continue };
            // A word that ends something is repeated until a receipt echoes it (rule WORD-3).
            if !flow.unconfirmed.is_empty() {
                let what = format!("{host} never heard what its destination says to {:?}", flow.unconfirmed);
                self.breaks("bounds", at_us, what);
            }
        }
        let counters = row::<stored::Counters>(&state.disk, &meta::COUNTERS.to_owned()).unwrap_or_default();
        let inbox = [counters.inbox_messages, counters.inbox_bytes, counters.inbox_reserved, counters.waiting_bytes];
        let own = [counters.outbox_messages, counters.outbox_bytes, counters.staged_bytes];
        if inbox.iter().chain(&own).any(|count| *count > 0) {
            self.breaks("bounds", at_us, format!("{host} counts inbox {inbox:?}, outbox {own:?} when all is over"));
        }
        // A relay keeps its copy until a receipt, a word or its lifetime ends it (rule CUSTODY-3).
        let others = state.disk.table(Table::Envelope).filter_map(|(_, value)| stored::Envelope::decode(value).ok());
        let copies = others.filter(|copy| !copy.header.is_empty() && copy.state() != State::Ended).count();
        let bodies = state.disk.table(Table::Body).count();
        if (counters.transit_envelopes as usize, bodies) != (copies, copies) {
            let counted = counters.transit_envelopes;
            let what = format!(
                "{host} counts {counted} envelopes of others when all is over, and has {copies} and {bodies} bodies"
            );
            self.breaks("bounds", at_us, what);
        }
    }

    /// A month after it.
    pub fn forgotten(&mut self, at_us: u64, host: usize, state: &Host) {
        self.must_be_empty(at_us, host, state, &MAIL);
        self.must_be_empty(at_us, host, state, &LADDERS);
        let counters = row::<stored::Counters>(&state.disk, &meta::COUNTERS.to_owned()).unwrap_or_default();
        let others = [counters.transit_envelopes, counters.transit_bytes, counters.standby_bytes];
        if others.iter().any(|count| *count > 0) {
            self.breaks("bounds", at_us, format!("{host} counts transit {others:?} a month after all is over"));
        }
    }

    fn must_be_empty(&mut self, at_us: u64, host: usize, state: &Host, tables: &[Table]) {
        for table in tables {
            let rows = state.disk.table(*table).count();
            if let Some((key, _)) = state.disk.table(*table).next() {
                let what = format!("{host} keeps {rows} rows of {table:?} when all is over, the first {key:02x?}");
                self.breaks("bounds", at_us, what);
            }
        }
    }

    /// An hour in which nothing happened.
    pub fn idled(&mut self, at_us: u64, host: usize, rounds: u64) {
        if rounds > ROUNDS_AN_HOUR {
            self.breaks("bounds", at_us, format!("{host} took {rounds} rounds in an hour in which nothing happened"));
        }
    }
}
