//! The state machine: inputs in the past tense, effects in the imperative, time and storage handed in.
//!
//! How to drive it: call [`Engine::step`] for every input of a round with one transaction, then [`Engine::flush`], then
//! sync the transaction with `store::tx::commit` and carry out the claims it gives. When the commit fails, end the
//! process: memory is ahead of the disk. Call again with [`input::Input::Ticked`] at [`Engine::next_wake`].

pub mod effect;
pub mod input;

use crate::id::{Incarnation, NetworkId};
use crate::policy::Policy;
use crate::store::kv::{Kv, StoreError};
use crate::store::tx::{Outcome, Tx};
use crate::time::Now;
use crate::trust::NodeKey;
use input::Input;
use waypost_proto::hop;

/// Who this node is.
pub struct Identity {
    /// Its key.
    pub key: NodeKey,
    /// Its network.
    pub network: NetworkId,
    /// Its own certificate first; empty before it is admitted and when the store knows it.
    pub chain: Vec<hop::Signed>,
    /// Seeds everything random the engine draws. Fresh from the system for every start.
    pub seed: [u8; 32],
}

/// What this node says first on a connection.
#[derive(Clone, Debug)]
pub struct OwnHello {
    /// Of this process.
    pub incarnation: Incarnation,
    /// Found on disk.
    pub continues: Option<Incarnation>,
    /// The commit sequence recovered at start.
    pub durable_sequence: u64,
    /// Drawn per process.
    pub nonce: u64,
    /// Own certificate first; empty before admission.
    pub chain: Vec<hop::Signed>,
    /// Verified chains of members met before, own excluded: to fill the roster with.
    pub known_chains: Vec<Vec<hop::Signed>>,
    /// Neighbours met before and where they were: to be dialled at start.
    pub known_peers: Vec<(crate::id::NodeId, Vec<String>)>,
}

/// The engine.
pub struct Engine {}

impl Engine {
    /// Reads the disk, begins a new incarnation. The outcome must be committed before anything else happens.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn recover(
        _identity: Identity,
        _policy: Policy,
        _kv: &dyn Kv,
        _now: Now,
    ) -> Result<(Self, Outcome), StoreError> {
        unimplemented!()
    }

    /// What to say on connections.
    #[must_use]
    pub fn own_hello(&self) -> &OwnHello {
        unimplemented!()
    }

    /// Takes one input.
    ///
    /// # Errors
    /// When the store failed; the process must end.
    pub fn step(&mut self, _input: Input, _now: Now, _tx: &mut Tx<'_>) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Ends a round: forms envelopes, signs receipts, sends what may go.
    ///
    /// # Errors
    /// When the store failed; the process must end.
    pub fn flush(&mut self, _now: Now, _tx: &mut Tx<'_>) -> Result<(), StoreError> {
        unimplemented!()
    }

    /// Boot milliseconds at which to call again with `Ticked`; `None`: when something happens.
    #[must_use]
    pub fn next_wake(&self) -> Option<u64> {
        None
    }
}
