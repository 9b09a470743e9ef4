//! The roots a destination has recovered lately, so that X25519 runs once an encapsulation. Never on disk.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use zeroize::Zeroizing;

use super::{Encapsulation, OpenError, VerifiedEnvelope, check_openable, open_with};
use crate::id::{NetworkId, NodeId};
use crate::trust::NodeKey;

/// Everything a root depends on: network, source, destination, encapsulated key.
type RootKey = (NetworkId, NodeId, NodeId, [u8; 32]);

/// Recovered roots, the oldest forgotten first.
pub struct Roots {
    capacity: usize,
    known: BTreeMap<RootKey, Zeroizing<[u8; 32]>>,
    order: VecDeque<RootKey>,
}

impl Roots {
    /// How many a node keeps.
    pub const CAPACITY: usize = 1024;

    /// An empty cache of `capacity` roots, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), known: BTreeMap::new(), order: VecDeque::new() }
    }

    /// As [`super::open`], remembering the root.
    ///
    /// # Errors
    /// Why it did not open.
    pub fn open(
        &mut self,
        key: &NodeKey,
        network: NetworkId,
        verified: &VerifiedEnvelope,
    ) -> Result<Vec<u8>, OpenError> {
        let header = verified.header();
        check_openable(key.id(), header)?;
        let wanted = (network, verified.source(), key.id(), header.encapsulated);
        if let Some(root) = self.known.get(&wanted) {
            return open_with(root, verified);
        }
        let recovered = Encapsulation::recover(key, network, verified.source(), header.encapsulated);
        let root = recovered.map_err(|_| OpenError::Malformed)?.root;
        let body = open_with(&root, verified)?;
        self.remember(wanted, root);
        Ok(body)
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn remember(&mut self, key: RootKey, root: Zeroizing<[u8; 32]>) {
        if self.known.insert(key, root).is_none() {
            self.order.push_back(key);
        }
        while self.known.len() > self.capacity {
            let Some(oldest) = self.order.pop_front() else { return };
            self.known.remove(&oldest);
        }
    }
}

impl Default for Roots {
    fn default() -> Self {
        Self::new(Self::CAPACITY)
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({} of {}, not shown)", self.len(), self.capacity)
    }
}
