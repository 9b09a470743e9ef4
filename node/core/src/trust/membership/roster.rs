//! The members this node knows, each certificate checked once (rule TRUST-10). Forgets nobody; grows to a stated cap.

use std::collections::BTreeMap;
use std::sync::Arc;

use waypost_proto::hop;

use super::chain::{Member, verify_chain_knowing};
use crate::id::{NetworkId, NodeId};
use crate::trust::{Proofs, TrustError, VerifyKey};

/// Known members of one network.
#[derive(Clone, Debug)]
pub struct Roster {
    network: NetworkId,
    capacity: usize,
    members: BTreeMap<NodeId, Member>,
    proofs: Arc<Proofs>,
}

impl Roster {
    /// How many members a node remembers.
    pub const CAPACITY: usize = 65_536;

    /// A roster of nobody.
    #[must_use]
    pub fn new(network: NetworkId) -> Self {
        Self::with_capacity(network, Self::CAPACITY)
    }

    /// A roster that holds at most `capacity` members.
    #[must_use]
    pub fn with_capacity(network: NetworkId, capacity: usize) -> Self {
        Self { network, capacity, members: BTreeMap::new(), proofs: Arc::default() }
    }

    /// A roster of nobody that believes the signatures that somebody else has verified.
    #[must_use]
    pub fn trusting(network: NetworkId, proofs: Arc<Proofs>) -> Self {
        Self { proofs, ..Self::new(network) }
    }

    /// The signatures that held.
    #[must_use]
    pub fn proofs(&self) -> &Proofs {
        &self.proofs
    }

    /// The network whose members are here.
    #[must_use]
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// Checks a chain as far as it is new, and remembers everyone in it (rules TRUST-4, TRUST-5, TRUST-10).
    ///
    /// A member already known stays one, whatever `chain` holds: a longer or broken one takes nothing away. A shorter
    /// one that holds replaces the longer (rule TRUST-8).
    ///
    /// # Errors
    /// For a node not known yet: [`TrustError::NotAMember`] without a chain, [`TrustError::RosterFull`], or what is
    /// wrong.
    pub fn admit_chain(&mut self, subject: NodeId, chain: &[hop::Signed]) -> Result<Member, TrustError> {
        let Some(known) = self.members.get(&subject).cloned() else { return self.admit_new(subject, chain) };
        let is_shorter = !chain.is_empty() && chain.len() <= known.depth() as usize;
        if is_shorter { Ok(self.admit_new(subject, chain).unwrap_or(known)) } else { Ok(known) }
    }

    fn admit_new(&mut self, subject: NodeId, chain: &[hop::Signed]) -> Result<Member, TrustError> {
        let member = verify_chain_knowing(self.network, subject, chain, |certificate| {
            let known = self.members.get(&certificate.subject).filter(|known| certificate.is_of(known)).cloned();
            known.or_else(|| self.proofs.member(self.network, certificate.signed()))
        })?;
        member.lineage().for_each(|one| self.proofs.remember(one));
        self.remember(&member)?;
        Ok(member)
    }

    /// Adds a member and its issuers, all or none; keeps the shorter chain of each.
    fn remember(&mut self, member: &Member) -> Result<(), TrustError> {
        let closer = |one: &&Member| self.members.get(&one.id()).is_none_or(|known| one.depth() < known.depth());
        let news: Vec<Member> = member.lineage().filter(closer).cloned().collect();
        let strangers = news.iter().filter(|one| !self.is_member(&one.id())).count();
        if self.members.len() + strangers > self.capacity {
            return Err(TrustError::RosterFull);
        }
        for one in news {
            self.members.entry(one.id()).and_modify(|known| keep_shorter(known, &one)).or_insert(one);
        }
        Ok(())
    }

    /// The member of this address, if known.
    #[must_use]
    pub fn member(&self, node: &NodeId) -> Option<&Member> {
        self.members.get(node)
    }

    /// Whether the node has shown to be a member.
    #[must_use]
    pub fn is_member(&self, node: &NodeId) -> bool {
        self.members.contains_key(node)
    }

    /// The key of a member, parsed; of anybody else, parsed now. What `seal::verify_with` wants to be handed.
    ///
    /// # Errors
    /// [`TrustError::BadKey`].
    pub fn key_of(&self, node: NodeId) -> Result<VerifyKey, TrustError> {
        self.members.get(&node).map_or_else(|| VerifyKey::parse(node), |member| Ok(*member.key()))
    }

    /// The chain to send for a member: its certificate first, a founder's last.
    #[must_use]
    pub fn chain_of(&self, node: &NodeId) -> Option<Vec<hop::Signed>> {
        self.members.get(node).map(Member::chain)
    }

    /// Everyone known, by address.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

fn keep_shorter(known: &mut Member, other: &Member) {
    if other.depth() < known.depth() {
        *known = other.clone();
    }
}
