//! Which neighbour brings a message nearer: expected delay over the facts nodes tell of their links, and one rule,
//! strictly downhill. Pure: facts and links in, a neighbour out (rules ROUTE-1 to ROUTE-4).

use std::collections::{BTreeMap, BTreeSet};

use waypost_proto::hop;

use crate::id::{Incarnation, NodeId};
use crate::limits;

/// What a down link is thought to cost before anything is known of it, in microseconds.
pub const UNKNOWN_WAIT_US: u64 = 60_000_000;
/// The least a link costs.
const LINK_FLOOR_US: u64 = 100;

/// One direction of a link, as its node tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Now.
    pub up: bool,
    /// Round trip of an up link, microseconds.
    pub rtt_us: u64,
    /// Mean wait of a down link, microseconds.
    pub wait_us: u64,
}

impl Link {
    fn cost_us(&self) -> u64 {
        if self.up { self.rtt_us.max(LINK_FLOOR_US) } else { self.wait_us.max(LINK_FLOOR_US) }
    }
}

/// What is known of a node.
#[derive(Clone, Debug)]
pub struct Fact {
    /// Which start of it speaks.
    pub incarnation: Incarnation,
    /// Highest wins within one incarnation.
    pub sequence: u64,
    /// Its name; empty: none.
    pub name: String,
    /// Where it can be dialled.
    pub addresses: Vec<String>,
    /// At most [`limits::FACT_LINKS`].
    pub links: BTreeMap<NodeId, Link>,
}

impl Fact {
    /// From verified contents; `None` when a field is malformed or over its cap (rule FACT-2).
    #[must_use]
    pub fn from_wire(content: &hop::FactContent) -> Option<Self> {
        let within = content.links.len() <= limits::FACT_LINKS && content.addresses.len() <= 16;
        if !within || content.name.len() > 63 {
            return None;
        }
        let mut links = BTreeMap::new();
        for link in &content.links {
            let wait_us = link.mean_wait_ms.saturating_mul(1000);
            links
                .insert(NodeId::from_slice(&link.peer)?, Link { up: link.up, rtt_us: u64::from(link.rtt_us), wait_us });
        }
        Some(Self {
            incarnation: Incarnation::from_slice(&content.incarnation)?,
            sequence: content.sequence,
            name: content.name.clone(),
            addresses: content.addresses.clone(),
            links,
        })
    }

    /// Whether this fact replaces `other` (rule FACT-1).
    #[must_use]
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.incarnation.counter, self.incarnation.random, self.sequence)
            > (other.incarnation.counter, other.incarnation.random, other.sequence)
    }
}

/// What each link costs, from both its ends, microseconds.
type Costs = BTreeMap<NodeId, BTreeMap<NodeId, u64>>;

/// The facts a node holds, and what follows from them.
#[derive(Debug, Default)]
pub struct Directory {
    facts: BTreeMap<NodeId, Fact>,
    /// All links; emptied when any changes.
    costs: Option<Costs>,
    /// Expected delay of every node to a destination, over these costs.
    delays: BTreeMap<NodeId, BTreeMap<NodeId, u64>>,
    /// How often a link has come up or gone down.
    turns: u64,
}

/// The way on for mail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Next {
    /// The neighbour to give it to; `None`: hold.
    pub give: Option<NodeId>,
    /// Expected delay from here, microseconds; `None`: no way is known.
    pub delay_us: Option<u64>,
}

impl Directory {
    /// Takes a fact in when it is newer than the one held and there is room. Returns whether it was taken.
    pub fn learn(&mut self, node: NodeId, fact: Fact) -> bool {
        let newer = self.facts.get(&node).is_none_or(|held| fact.is_newer_than(held));
        let room = self.facts.len() < limits::FACTS || self.facts.contains_key(&node);
        if newer && room {
            let before = self.facts.get(&node).map(|held| &held.links);
            let (differs, turned) = (before != Some(&fact.links), before.map(up) != Some(up(&fact.links)));
            self.facts.insert(node, fact);
            if turned {
                self.turn();
            } else if differs {
                self.forget_delays();
            }
        }
        newer && room
    }

    /// What is known of a node.
    #[must_use]
    pub fn fact(&self, node: &NodeId) -> Option<&Fact> {
        self.facts.get(node)
    }

    /// All facts.
    pub fn facts(&self) -> impl Iterator<Item = (&NodeId, &Fact)> {
        self.facts.iter()
    }

    /// The nodes of a name.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<NodeId> {
        self.facts.iter().filter(|(_, fact)| fact.name == name).map(|(node, _)| *node).collect()
    }

    /// To be called when this node's own links change.
    pub fn forget_delays(&mut self) {
        self.costs = None;
        self.delays.clear();
    }

    /// To be called when one of this node's own links has come up or gone down.
    pub fn turn(&mut self) {
        self.turns += 1;
        self.forget_delays();
    }

    /// Another number after every change that may have opened a way somewhere.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Decides for mail at `me` with the links `own` (rules ROUTE-1 and ROUTE-2): give it to the up neighbour with the
    /// least expected delay among those strictly nearer than `me`; hold it when there is none.
    pub fn next(&mut self, me: NodeId, own: &BTreeMap<NodeId, Link>, destination: NodeId) -> Next {
        if own.get(&destination).is_some_and(|link| link.up) {
            return Next { give: Some(destination), delay_us: own.get(&destination).map(Link::cost_us) };
        }
        if !self.delays.contains_key(&destination) {
            let costs = self.costs.take().unwrap_or_else(|| self.links_with(me, own));
            self.delays.insert(destination, delays_to(destination, &costs));
            self.costs = Some(costs);
        }
        let Some(delays) = self.delays.get(&destination) else { return Next { give: None, delay_us: None } };
        let here = delays.get(&me).copied();
        let nearer = own
            .iter()
            .filter(|(_, link)| link.up)
            .filter_map(|(peer, link)| Some((*peer, delays.get(peer)?, link.cost_us())))
            .filter(|(_, there, _)| here.is_none_or(|here| **there < here))
            .min_by_key(|(peer, there, cost)| (there.saturating_add(*cost), *peer));
        Next { give: nearer.map(|(peer, _, _)| peer), delay_us: here }
    }

    /// All links both ways: a link is up only if nobody who can know says otherwise (rule ROUTE-3).
    fn links_with(&self, me: NodeId, own: &BTreeMap<NodeId, Link>) -> Costs {
        let mut costs = Costs::new();
        let told = self.facts.iter().filter(|(node, _)| **node != me).map(|(node, fact)| (*node, &fact.links));
        for (node, links) in told.chain([(me, own)]) {
            for (peer, link) in links {
                let links_there = if *peer == me { Some(own) } else { self.facts.get(peer).map(|fact| &fact.links) };
                let cost = link.cost_us().max(cost_of_other_end(links_there, node));
                costs.entry(node).or_default().insert(*peer, cost);
                costs.entry(*peer).or_default().insert(node, cost);
            }
        }
        costs
    }
}

fn up(links: &BTreeMap<NodeId, Link>) -> Vec<NodeId> {
    links.iter().filter(|(_, link)| link.up).map(|(peer, _)| *peer).collect()
}

/// What the other end of a link says of it: nothing where it has told nothing, or may have had no room for it in its
/// fact; else a link it does not tell of is one that nobody but a liar knows (rule ROUTE-3).
fn cost_of_other_end(links: Option<&BTreeMap<NodeId, Link>>, node: NodeId) -> u64 {
    let Some(links) = links else { return 0 };
    let untold = if links.len() < limits::FACT_LINKS { UNKNOWN_WAIT_US } else { 0 };
    links.get(&node).map_or(untold, Link::cost_us)
}

/// Dijkstra from the destination over symmetric costs.
fn delays_to(destination: NodeId, costs: &Costs) -> BTreeMap<NodeId, u64> {
    let mut delays = BTreeMap::new();
    let mut frontier = BTreeSet::from([(0u64, destination)]);
    while let Some((delay, node)) = frontier.pop_first() {
        if delays.contains_key(&node) {
            continue;
        }
        delays.insert(node, delay);
        for (peer, cost) in costs.get(&node).into_iter().flatten() {
            if !delays.contains_key(peer) {
                frontier.insert((delay.saturating_add(*cost), *peer));
            }
        }
    }
    delays
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn up() -> Link {
        Link { up: true, rtt_us: 1000, wait_us: 0 }
    }

    fn down(seconds: u64) -> Link {
        Link { up: false, rtt_us: 0, wait_us: seconds * 1_000_000 }
    }

    fn fact(sequence: u64, links: &[(u8, Link)]) -> Fact {
        Fact {
            incarnation: Incarnation { counter: 1, random: [0; 8] },
            sequence,
            name: String::new(),
            addresses: Vec::new(),
            links: links.iter().map(|(peer, link)| (node(*peer), *link)).collect(),
        }
    }

    /// ROUTE-1: mail for a node behind a neighbour goes to the neighbour, also while the node itself is away.
    #[test]
    fn mail_goes_downhill_towards_an_absent_node() {
        let mut directory = Directory::default();
        let own = BTreeMap::from([(node(2), up())]);
        assert_eq!(directory.next(node(1), &own, node(3)), Next { give: None, delay_us: None });
        directory.learn(node(2), fact(1, &[(1, up()), (3, down(30))]));
        let next = directory.next(node(1), &own, node(3));
        assert_eq!(next.give, Some(node(2)));
        assert_eq!(next.delay_us, Some(30_001_000));
    }

    /// ROUTE-2: nothing is given uphill: the node nearest to an absent destination holds its mail.
    #[test]
    fn the_nearest_node_holds() {
        let mut directory = Directory::default();
        directory.learn(node(1), fact(1, &[(2, up())]));
        let own = BTreeMap::from([(node(1), up()), (node(3), down(30))]);
        assert_eq!(directory.next(node(2), &own, node(3)).give, None);
        let own = BTreeMap::from([(node(1), up()), (node(3), up())]);
        directory.forget_delays();
        assert_eq!(directory.next(node(2), &own, node(3)).give, Some(node(3)));
    }

    /// ROUTE-3: a link that its other end does not tell of attracts no mail, unless that end has told nothing or all it has
    /// room for.
    #[test]
    fn a_link_only_one_end_tells_of_is_down() {
        let own = BTreeMap::from([(node(2), up()), (node(3), up())]);
        let mut directory = Directory::default();
        directory.learn(node(2), fact(1, &[(1, up()), (4, up())]));
        directory.learn(node(4), fact(1, &[(2, up()), (5, up())]));
        directory.learn(node(5), fact(1, &[(4, up())]));
        directory.learn(node(3), fact(1, &[(1, up()), (5, up())]));
        assert_eq!(directory.next(node(1), &own, node(5)).give, Some(node(2)), "3 says that it has 5, and 5 does not");
        let many: Vec<_> = (10..10 + limits::FACT_LINKS as u8).map(|peer| (peer, up())).collect();
        directory.learn(node(5), fact(2, &many));
        assert_eq!(directory.next(node(1), &own, node(5)).give, Some(node(3)), "it may have had no room to say so");
    }

    /// ROUTE-3: one end's word that a link is down is enough.
    #[test]
    fn a_link_is_up_only_if_both_say_so() {
        let mut directory = Directory::default();
        directory.learn(node(2), fact(1, &[(1, up()), (4, up())]));
        directory.learn(node(3), fact(1, &[(1, up()), (4, up())]));
        directory.learn(node(4), fact(1, &[(2, down(50)), (3, up())]));
        let own = BTreeMap::from([(node(2), up()), (node(3), up())]);
        assert_eq!(directory.next(node(1), &own, node(4)).give, Some(node(3)));
    }

    /// FACT-2: what is over its caps is no fact.
    #[test]
    fn a_fact_keeps_its_bounds() {
        let content = |links: usize, addresses: usize, name: usize| hop::FactContent {
            incarnation: vec![1; 16].into(),
            links: (0..links).map(|_| hop::Link { peer: vec![2; 32].into(), ..Default::default() }).collect(),
            addresses: vec![String::new(); addresses],
            name: "n".repeat(name),
            ..Default::default()
        };
        assert!(Fact::from_wire(&content(16, 16, 63)).is_some());
        assert!(Fact::from_wire(&content(17, 0, 0)).is_none());
        assert!(Fact::from_wire(&content(0, 17, 0)).is_none());
        assert!(Fact::from_wire(&content(0, 0, 64)).is_none());
        assert!(Fact::from_wire(&hop::FactContent { incarnation: vec![1; 15].into(), ..content(0, 0, 0) }).is_none());
    }

    /// FACT-1: an older fact changes nothing.
    #[test]
    fn an_older_fact_is_ignored() {
        let mut directory = Directory::default();
        assert!(directory.learn(node(2), fact(5, &[])));
        assert!(!directory.learn(node(2), fact(5, &[(3, up())])));
        assert!(!directory.learn(node(2), fact(4, &[(3, up())])));
    }
}
