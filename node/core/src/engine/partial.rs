//! Bodies of which some fragments are here: what they have reserved, and when they are given up (rule BODY-4).

use waypost_proto::stored;

use super::{Engine, Round};
use crate::envelope::Name;
use crate::filter::Rejection;
use crate::limits;
use crate::store::keys::Key as _;
use crate::store::kv::{StoreError, Table};
use crate::store::tables::FlowHandle;
use crate::store::tx::Tx;
use crate::time::NodeTime;

/// Fragments of a body at most.
pub(super) const FRAGMENTS_MAX: u64 = limits::BODY_BYTES / limits::FRAGMENT as u64;
/// Rows deleted in one go.
const PAGE: usize = 256;

impl Engine {
    /// The bodies of a flow of which some but not all fragments are here, from a first number up.
    fn partials_from(
        handle: FlowHandle,
        first: u64,
        tx: &Tx<'_>,
    ) -> impl Iterator<Item = Result<(u64, stored::Partial), StoreError>> {
        let mut from = first;
        std::iter::from_fn(move || {
            let (start, end) = ((handle, from, 0u32).encode(), (handle, u64::MAX, 0u32).encode());
            match tx.scan::<stored::Partial>(&start, &end, 1) {
                Err(error) => Some(Err(error)),
                Ok(rows) => {
                    let ((_, base, _), head) = rows.into_iter().next()?;
                    from = base + 1;
                    Some(Ok((base, head)))
                }
            }
        })
    }

    /// Whether an offered envelope is a fragment of a body that has its room already.
    pub(super) fn is_reserved(handle: FlowHandle, name: Name, tx: &Tx<'_>) -> Result<bool, StoreError> {
        for found in Self::partials_from(handle, name.first.saturating_sub(FRAGMENTS_MAX), tx) {
            let (base, head) = found?;
            if base > name.first {
                return Ok(false);
            }
            if name.last() < base + u64::from(head.fragments) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives up the bodies of a flow that the source's word has made impossible to complete.
    pub(super) fn give_up_ended(&mut self, handle: FlowHandle, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let partials: Vec<_> = Self::partials_from(handle, 0, tx).collect::<Result<_, _>>()?;
        for (base, head) in partials {
            let open = self.flows.inn.get(handle, tx)?.map_or(0, |flow| flow.open_in(base, last_of(base, &head)));
            if open + u64::from(head.received) < u64::from(head.fragments) {
                self.give_up(handle, base, &head, tx)?;
            }
        }
        Ok(())
    }

    /// A partial body may have waited for as long as it was to live: nothing came in all that time, or look again.
    pub(super) fn ring_partial(
        &mut self,
        round: Round,
        (handle, base): (FlowHandle, u64),
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        let Some(head) = tx.get::<stored::Partial>(&(handle, base, 0))? else { return Ok(()) };
        let at = NodeTime(head.give_up_at);
        if at > round.at {
            self.watch_partial((handle, base), at, tx);
            return Ok(());
        }
        self.give_up(handle, base, &head, tx)
    }

    /// Deletes what is here of a body; the numbers that never came are signed as rejected.
    fn give_up(
        &mut self,
        handle: FlowHandle,
        base: u64,
        head: &stored::Partial,
        tx: &mut Tx<'_>,
    ) -> Result<(), StoreError> {
        self.counters.inbox_reserved = self.counters.inbox_reserved.saturating_sub(head.reserved);
        let (start, end) = ((handle, base, 0u32).encode(), (handle, base + 1, 0u32).encode());
        loop {
            let page = tx.scan::<stored::Partial>(&start, &end, PAGE)?;
            let full = page.len() == PAGE;
            for (key, _) in page {
                tx.delete::<stored::Partial>(&key);
                if let Some(index) = key.2.checked_sub(1) {
                    tx.delete_raw(Table::Body, (head.body_key, index).encode());
                }
            }
            if !full {
                break;
            }
        }
        if let Some(flow) = self.flows.inn.change(handle, tx)? {
            flow.reject(base, last_of(base, head), Rejection::Incomplete);
        }
        self.owe_receipt(handle, None);
        Ok(())
    }
}

fn last_of(base: u64, head: &stored::Partial) -> u64 {
    base + u64::from(head.fragments.max(1)) - 1
}
