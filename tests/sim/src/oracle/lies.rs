//! What liars may not bring about: an honest node blames no honest one for what a liar made it pass on, mail in an honest
//! name is that node's, and what liars leave on honest disks ends.

use waypost_core::id::NodeId;
use waypost_core::store::kv::Table;

use super::Oracle;
use crate::host::Host;

/// Of mail that is not for this node nothing may be left a month after the last lie, whoever's it was.
const OF_OTHERS: [Table; 6] = [Table::Due, Table::Taken, Table::TransitFlow, Table::Word, Table::Standby, Table::Stage];

/// Rows that liars may leave for good on an honest node, in each other table: filters of their flows (rule FILTER-3) and
/// what lies unread in its inbox or is reserved in it, within its quota and for up to a year (rule BODY-4). A liar of a
/// short seed has about a hundred ideas of twenty frames.
const LEFT_BEHIND: usize = 3000;

impl Oracle {
    /// The members that lie, by address.
    pub fn liars_are(&mut self, liars: Vec<NodeId>) {
        self.liars = liars;
    }

    pub(super) fn is_liar(&self, node: NodeId) -> bool {
        self.liars.contains(&node)
    }

    /// A node closed a connection because of what came on it. It may only be one with a liar, or with a process that had
    /// a twin.
    pub fn closed(&mut self, at_us: u64, (host, other): (usize, Option<usize>), why: &str) {
        let twins = self.doubts.iter().any(|doubt| doubt.twins);
        let lies = other.is_none_or(|other| self.doubt(other).lies) || self.doubt(host).lies;
        if !twins && !lies {
            self.breaks("content", at_us, format!("{host} closed the connection to honest {other:?}: {why}"));
        }
    }

    /// Whether liars, and nothing else, weaken the promise.
    #[must_use]
    pub fn is_lied_to(&self) -> bool {
        let sound = |doubt: &super::Doubt| !doubt.gone && !doubt.twins && !doubt.rot && doubt.disk_us.is_none();
        self.doubts.iter().any(|doubt| doubt.lies) && self.doubts.iter().all(sound)
    }

    /// A month after the last lie.
    pub fn outlived(&mut self, at_us: u64, host: usize, state: &Host) {
        if self.doubt(host).lies {
            return;
        }
        for table in Table::ALL {
            let rows = state.disk.table(table).count();
            let most = if OF_OTHERS.contains(&table) { 0 } else { LEFT_BEHIND };
            if rows > most {
                let first = state.disk.table(table).next().map(|(key, _)| key.to_vec());
                let what = format!("{host} keeps {rows} rows of {table:?} a month after the last lie, as {first:02x?}");
                self.breaks("bounds", at_us, what);
            }
        }
    }
}
