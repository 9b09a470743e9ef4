//! Twins: two processes with one key. A neighbour of both carries a challenge drawn by one to the other and the signature
//! back; the one that sees its own key sign what it drew and did not sign stops (rules TWIN-1 to TWIN-3). The two need
//! not be connected at the same time: they often take turns.

use std::collections::{BTreeMap, BTreeSet};

use rand_core::Rng as _;
use waypost_proto::hop;

use super::effect::{Effect, Stream};
use super::{Engine, Round};
use crate::hop::{TwinStep, encode};
use crate::id::NodeId;
use crate::limits;
use crate::store::tx::Tx;
use crate::trust::twin::{self, Challenge};

/// Challenges drawn here that are remembered.
const DRAWN: usize = 64;
/// Processes of one neighbour that are remembered.
const PROCESSES: usize = 4;

/// What this process has drawn, and what it carries between processes of its neighbours. Memory only: of a process that
/// has ended nobody needs to know.
#[derive(Default)]
pub(super) struct Twins {
    drawn: BTreeSet<Challenge>,
    neighbours: BTreeMap<NodeId, Vec<Process>>,
}

/// A process of a neighbour, by the nonce of its hello; the one seen last stands last.
struct Process {
    nonce: u64,
    drew: Option<Challenge>,
    /// Signed by another process of the same key.
    proof: Option<hop::Signed>,
}

impl Engine {
    /// A neighbour is connected: when other processes of its key were seen, each gets to know of the others (rule TWIN-2).
    pub(super) fn look_for_twins(&mut self, peer: NodeId, nonce: u64, tx: &mut Tx<'_>) {
        let neighbours = &mut self.twins.neighbours;
        if neighbours.len() >= limits::PEERS && !neighbours.contains_key(&peer) {
            return;
        }
        let processes = neighbours.entry(peer).or_default();
        let mut this = match processes.iter().position(|process| process.nonce == nonce) {
            Some(at) => processes.remove(at),
            None => Process { nonce, drew: None, proof: None },
        };
        let mut steps: Vec<TwinStep> = this.proof.take().map(TwinStep::Proof).into_iter().collect();
        steps.extend(processes.iter().filter_map(|other| other.drew).map(TwinStep::Sign));
        if this.drew.is_none() && !processes.is_empty() {
            steps.push(TwinStep::Draw);
        }
        processes.push(this);
        if processes.len() > PROCESSES {
            processes.remove(0);
        }
        for step in steps {
            self.tell_twin(peer, step, tx);
        }
    }

    fn tell_twin(&self, peer: NodeId, step: TwinStep, tx: &mut Tx<'_>) {
        if let Some(link) = self.links.get(&peer) {
            let frame = encode::twin(step);
            tx.hint(Effect::Send { peer, session: link.session, stream: Stream::Control, frame });
        }
    }

    /// A step came, from a neighbour of this node or of a twin.
    pub(super) fn twin_step(&mut self, round: Round, peer: NodeId, step: TwinStep, tx: &mut Tx<'_>) {
        match step {
            TwinStep::Draw => {
                let mut challenge = [0; 32];
                // A clone of this process would draw the same.
                self.stir(round);
                self.rng.fill_bytes(&mut challenge);
                if self.twins.drawn.len() >= DRAWN {
                    self.twins.drawn.pop_first();
                }
                self.twins.drawn.insert(challenge);
                self.tell_twin(peer, TwinStep::Drawn(challenge), tx);
            }
            TwinStep::Drawn(challenge) => {
                if let Some(process) = self.process_of(peer) {
                    process.drew = Some(challenge);
                }
            }
            // What this process drew it does not sign: such a signature is another's.
            TwinStep::Sign(challenge) => {
                if !self.twins.drawn.contains(&challenge) {
                    let signed = twin::sign(&self.key, self.network, challenge, peer, self.own.nonce);
                    self.tell_twin(peer, TwinStep::Signed(signed), tx);
                }
            }
            TwinStep::Signed(signed) => self.carry_proof(peer, signed),
            TwinStep::Proof(signed) => self.judge(&signed, tx),
        }
    }

    /// The process of a neighbour that is connected.
    fn process_of(&mut self, peer: NodeId) -> Option<&mut Process> {
        self.twins.neighbours.get_mut(&peer)?.last_mut()
    }

    /// One process of a neighbour signed what another drew: that one is shown it when it comes again.
    fn carry_proof(&mut self, peer: NodeId, signed: hop::Signed) {
        let Some(challenge) = twin::challenge_of(&signed) else { return };
        let processes = self.twins.neighbours.get_mut(&peer);
        if let Some(drawer) = processes.into_iter().flatten().find(|process| process.drew == Some(challenge)) {
            drawer.proof = Some(signed);
        }
    }

    /// Another process signed, with the key of this node, what this process drew: this node may not go on (rule TWIN-3).
    fn judge(&self, signed: &hop::Signed, tx: &mut Tx<'_>) {
        let Ok(challenge) = twin::verify(self.network, self.me, signed) else { return };
        if self.twins.drawn.contains(&challenge) {
            let why = "another running process has the key of this node: a copy of its data directory or of its machine. \
                       Stop the other one for good, or give this one an empty data directory, then start again";
            tx.claim(Effect::Stop { why: why.to_owned() });
        }
    }
}
