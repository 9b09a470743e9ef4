//! What is told without being waited for, at a pace that a link's queue for control frames can take: words alone, facts
//! asked for, and on a new connection, or when ways change, the words and receipts held (rules PACE-1, PACE-2). What is
//! over a window's budget follows in the next ones; what a lost connection leaves untold is told anew on the next.

use std::collections::BTreeSet;

use waypost_proto::hop::{self, frame::Kind};
use waypost_proto::stored;

use super::alarm::Alarm;
use super::effect::{Effect, Stream};
use super::receipts::pages_of;
use super::statements::stamp;
use super::{Engine, Round};
use crate::hop::encode;
use crate::id::NodeId;
use crate::limits;
use crate::store::keys::{Key as _, end_of_table};
use crate::store::kv::StoreError;
use crate::store::tables::{FactRow, FlowHandle, ReceiptRow, WordRow};
use crate::store::tx::Tx;

/// Frames told to one neighbour in a window. A statement of more pages may run over it.
const BUDGET: usize = 128;
/// Milliseconds.
const WINDOW_MS: u64 = 100;
/// Rows of held statements looked at in one scan, and scans in a window.
const ROWS: usize = 256;
const HELD_PAGES: usize = 4;
/// What is held is looked through for new ways so often at most, milliseconds (rule PACE-2).
const LOOK_THROUGH_MS: u64 = 60_000;
/// Flows of which a connection remembers what it has carried.
const REMEMBERED: usize = 65_536;

/// What a neighbour is still to be told.
#[derive(Default, Debug)]
pub(super) struct Telling {
    window_ends: u64,
    left: usize,
    /// Flows whose words go alone.
    pub words: BTreeSet<FlowHandle>,
    facts: BTreeSet<NodeId>,
    held: Held,
}

/// How far the telling of held statements has come: the key of the next row.
#[derive(Default, Debug)]
enum Held {
    Receipts(Vec<u8>),
    Words(Vec<u8>),
    #[default]
    Told,
}

/// When what is held was last looked through for neighbours it leads to since ways have changed.
#[derive(Default, Debug)]
pub(super) struct Looked {
    turns: u64,
    next_ms: u64,
}

impl Telling {
    fn is_done(&self) -> bool {
        self.words.is_empty() && self.facts.is_empty() && matches!(self.held, Held::Told)
    }
}

impl Engine {
    /// A neighbour asks for facts: it gets them one window after the other.
    pub(super) fn get_arrived(&mut self, peer: NodeId, nodes: &[NodeId]) {
        if let Some(link) = self.links.get_mut(&peer) {
            let room = limits::FACTS.saturating_sub(link.telling.facts.len());
            link.telling.facts.extend(nodes.iter().take(room));
        }
    }

    /// A new neighbour is told the words and receipts held that go its way (rules WORD-3, RECEIPT-3).
    pub(super) fn tell_held(&mut self, peer: NodeId) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.telling.held = Held::Receipts(Vec::new());
        }
    }

    /// Links have come up or gone down: what is held may lead to another neighbour now, which has not heard it
    /// (rule PACE-2).
    fn look_through(&mut self, round: Round) {
        let turns = self.directory.turns();
        if turns == self.looked.turns {
            return;
        }
        if round.now.boot_ms < self.looked.next_ms {
            return self.alarms.set_earlier(Alarm::Pace, self.looked.next_ms);
        }
        self.looked = Looked { turns, next_ms: round.now.boot_ms + LOOK_THROUGH_MS };
        self.links.values_mut().for_each(|link| link.telling.held = Held::Receipts(Vec::new()));
    }

    /// Tells every neighbour as much as its window allows.
    pub(super) fn tell_waiting(&mut self, round: Round, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        self.look_through(round);
        for peer in self.links.keys().copied().collect::<Vec<_>>() {
            let Some(link) = self.links.get_mut(&peer).filter(|link| !link.telling.is_done()) else { continue };
            // The taken-out state goes back below: telling needs the whole engine.
            let mut telling = std::mem::take(&mut link.telling);
            if round.now.boot_ms >= telling.window_ends {
                telling.window_ends = round.now.boot_ms + WINDOW_MS;
                telling.left = BUDGET;
            }
            self.tell_window(peer, &mut telling, tx)?;
            if !telling.is_done() {
                self.alarms.set_earlier(Alarm::Pace, telling.window_ends);
            }
            if let Some(link) = self.links.get_mut(&peer) {
                link.telling = telling;
                if link.words.len() > REMEMBERED || link.receipts.len() > REMEMBERED {
                    // It is told again what it has heard: no harm.
                    link.words.clear();
                    link.receipts.clear();
                }
            }
        }
        Ok(())
    }

    fn tell_window(&mut self, peer: NodeId, telling: &mut Telling, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        while telling.left > 0
            && let Some(handle) = telling.words.pop_first()
        {
            telling.left -= 1;
            if let Some(flow) = self.flow_of(handle, tx)? {
                if let Some(link) = self.links.get_mut(&peer) {
                    link.words.remove(&handle);
                }
                self.tell_word(peer, handle, flow, tx)?;
            }
        }
        while telling.left > 0
            && let Some(node) = telling.facts.pop_first()
        {
            telling.left -= usize::from(self.tell_fact(peer, node, tx)?);
        }
        for _ in 0..HELD_PAGES {
            if telling.left > 0 && !matches!(telling.held, Held::Told) {
                self.tell_held_page(peer, telling, tx)?;
            }
        }
        Ok(())
    }

    fn tell_fact(&mut self, peer: NodeId, node: NodeId, tx: &mut Tx<'_>) -> Result<bool, StoreError> {
        let Some(FactRow(row)) = tx.get::<FactRow>(&(node,))? else { return Ok(false) };
        let Some(link) = self.links.get_mut(&peer) else { return Ok(false) };
        let show = link.must_show(Stream::Control, node);
        let chain = if show { self.roster.chain_of(&node).unwrap_or_default() } else { Vec::new() };
        let object = Some(hop::Signed { content: row.content, signature: row.signature });
        let frame = encode::frame(Kind::Fact(hop::Attested { object, chain }));
        tx.claim(Effect::Send { peer, session: link.session, stream: Stream::Control, frame });
        Ok(true)
    }

    fn tell_held_page(&mut self, peer: NodeId, telling: &mut Telling, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let end = end_of_table();
        if let Held::Receipts(from) = &telling.held {
            let page = tx.scan::<ReceiptRow>(from, &end, ROWS)?;
            let whole = page.len() < ROWS;
            for ((source, handle), ReceiptRow(row)) in page {
                if telling.left == 0 {
                    return Ok(());
                }
                telling.held = Held::Receipts((source, handle + 1).encode());
                if source != self.me && self.leads_to(peer, source) && self.has_not_heard(peer, handle, &row) {
                    let signer = self.flow_of(handle, tx)?.map(|flow| flow.destination);
                    self.tell_pages(peer, signer, &pages_of(&row), Kind::Receipt, tx);
                    telling.left = telling.left.saturating_sub(row.pages.len());
                }
            }
            if whole {
                telling.held = Held::Words(Vec::new());
            }
        } else if let Held::Words(from) = &telling.held {
            let page = tx.scan::<WordRow>(from, &end, ROWS)?;
            let whole = page.len() < ROWS;
            for ((destination, handle), WordRow(row)) in page {
                if telling.left == 0 {
                    return Ok(());
                }
                telling.held = Held::Words((destination, handle + 1).encode());
                let flow = if destination == self.me { None } else { self.flow_of(handle, tx)? };
                if let Some(flow) = flow
                    && self.leads_to(peer, destination)
                {
                    self.tell_word(peer, handle, flow, tx)?;
                    telling.left = telling.left.saturating_sub(row.pages.len());
                }
            }
            if whole {
                telling.held = Held::Told;
            }
        }
        Ok(())
    }

    /// Notes a receipt as told; `false` when this connection has carried it (rule RECEIPT-3).
    fn has_not_heard(&mut self, peer: NodeId, handle: FlowHandle, row: &stored::Pages) -> bool {
        let stamp = stamp(row);
        self.links.get_mut(&peer).is_some_and(|link| link.receipts.insert(handle, stamp) != Some(stamp))
    }

    fn leads_to(&mut self, peer: NodeId, node: NodeId) -> bool {
        node == peer || self.directory.next(self.me, &self.own_links, node).give == Some(peer)
    }
}
