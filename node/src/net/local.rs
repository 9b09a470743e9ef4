//! What every session shares: who this node is, whom it believes, which sessions there are. Never waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use waypost_core::engine::OwnHello;
use waypost_core::engine::effect::Stream;
use waypost_core::engine::input::SessionId;
use waypost_core::hop::decode::Decoder;
use waypost_core::id::{NetworkId, NodeId};
use waypost_core::trust::{NodeKey, Roots, Roster, TrustError};
use waypost_proto::hop;

use super::fault::Fault;
use crate::inputs::Inputs;

/// Complaints remembered, so that each is made once.
const COMPLAINTS: usize = 1024;

/// This node, as its sessions see it.
pub struct Local {
    /// Its address.
    pub id: NodeId,
    /// Its network.
    pub network: NetworkId,
    /// The way to the engine.
    pub inputs: Inputs,
    /// What it shows to be admitted.
    pub join: Option<hop::Join>,
    key: NodeKey,
    roots: Mutex<Roots>,
    hello: Mutex<OwnHello>,
    version: String,
    roster: Arc<Mutex<Roster>>,
    chain: watch::Sender<Vec<hop::Signed>>,
    sessions: Mutex<BTreeMap<SessionId, Live>>,
    complaints: Mutex<BTreeSet<(NodeId, String)>>,
}

/// The ways into a session that is up.
pub struct Live {
    /// To the writers: control, urgent, normal, bulk.
    pub queues: [mpsc::Sender<Box<hop::Frame>>; 4],
    /// Ends it.
    pub end: mpsc::Sender<Fault>,
}

/// A stream's number in its hello (hop.proto).
#[must_use]
pub fn stream_number(stream: Stream) -> u32 {
    match stream {
        Stream::Control => 0,
        Stream::Class(class) => class.to_wire(),
    }
}

impl Local {
    /// This node at its start; everybody whose chain it knows and which holds is in the roster from now on.
    #[must_use]
    pub fn new(
        key: NodeKey,
        hello: OwnHello,
        roster: Arc<Mutex<Roster>>,
        join: Option<hop::Join>,
        inputs: Inputs,
    ) -> Self {
        let network = lock(&roster).network();
        let chain = watch::Sender::new(hello.chain.clone());
        let local = Self {
            id: key.id(),
            key,
            roots: Mutex::default(),
            network,
            inputs,
            join,
            hello: Mutex::new(hello),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            roster,
            chain,
            sessions: Mutex::default(),
            complaints: Mutex::default(),
        };
        local.fill_roster();
        local
    }

    fn fill_roster(&self) {
        let mut roster = self.roster();
        for chain in &lock(&self.hello).known_chains {
            let subject = chain.first().and_then(subject_of);
            let result = subject.map(|subject| roster.admit_chain(subject, chain));
            if !matches!(result, Some(Ok(_))) {
                tracing::warn!("a stored chain of certificates does not hold; its subject must show another");
            }
        }
    }

    /// What turns frames into what the engine takes.
    #[must_use]
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder { key: &self.key, network: self.network, roster: &self.roster, roots: &self.roots }
    }

    /// Whom this node believes.
    pub fn roster(&self) -> MutexGuard<'_, Roster> {
        lock(&self.roster)
    }

    /// Checks a chain; `true` when it is news.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn admit_chain(&self, subject: NodeId, chain: &[hop::Signed]) -> Result<bool, TrustError> {
        let mut roster = self.roster();
        let depth_before = roster.member(&subject).map(|member| member.depth());
        let member = roster.admit_chain(subject, chain)?;
        Ok(depth_before != Some(member.depth()))
    }

    /// This node's certificates; empty before it is admitted.
    #[must_use]
    pub fn chain(&self) -> Vec<hop::Signed> {
        self.chain.borrow().clone()
    }

    /// Speaks as a member from now on.
    pub fn certify(&self, chain: Vec<hop::Signed>) {
        self.chain.send_replace(chain);
    }

    /// Names a new incarnation from now on (rule EVIDENCE-2). A greeting under way may fail by it, and is begun again.
    pub fn renew(&self, hello: OwnHello) {
        *lock(&self.hello) = hello;
    }

    /// Waits until this node has a certificate.
    pub async fn certified(&self) {
        // The sender lives as long as `self`, so this ends only with a certificate.
        let _ = self.chain.subscribe().wait_for(|chain| !chain.is_empty()).await;
    }

    /// The hello for one stream: whole on control, bare on the others.
    #[must_use]
    pub fn hello(&self, stream: u32, chain: &[hop::Signed]) -> hop::Hello {
        let network = Bytes::copy_from_slice(&self.network.0);
        let own = lock(&self.hello);
        let bare = hop::Hello { stream, network, nonce: own.nonce, ..Default::default() };
        if stream != 0 {
            return bare;
        }
        hop::Hello {
            incarnation: Bytes::copy_from_slice(&own.incarnation.to_bytes()),
            continues: own.continues.map(|before| Bytes::copy_from_slice(&before.to_bytes())).unwrap_or_default(),
            durable_sequence: own.durable_sequence,
            chain: chain.to_vec(),
            wall_ms: wall_ms(),
            version: self.version.clone(),
            ..bare
        }
    }

    /// Makes a session reachable for what the engine sends.
    pub fn enter(&self, session: SessionId, live: Live) {
        lock(&self.sessions).insert(session, live);
    }

    /// Nothing reaches the session any more.
    pub fn leave(&self, session: SessionId) {
        lock(&self.sessions).remove(&session);
    }

    /// Queues a frame; without room the session ends, and the engine offers again what was not acknowledged.
    pub fn send(&self, session: SessionId, stream: Stream, frame: Box<hop::Frame>) {
        let sessions = lock(&self.sessions);
        let Some(live) = sessions.get(&session) else { return };
        let queue = &live.queues[stream_number(stream) as usize];
        if let Err(mpsc::error::TrySendError::Full(_)) = queue.try_send(frame) {
            let _ = live.end.try_send(Fault::Overflow(stream));
        }
    }

    /// Ends a session.
    pub fn disconnect(&self, session: SessionId, why: &'static str) {
        if let Some(live) = lock(&self.sessions).get(&session) {
            let _ = live.end.try_send(Fault::Disconnected(why));
        }
    }

    /// Whether this complaint about `peer` is made for the first time.
    #[must_use]
    pub fn is_first(&self, peer: NodeId, complaint: String) -> bool {
        let mut complaints = lock(&self.complaints);
        complaints.len() < COMPLAINTS && complaints.insert((peer, complaint))
    }

    /// Whether any complaint about `peer` was made.
    #[cfg(test)]
    pub fn has_complained(&self, peer: NodeId) -> bool {
        lock(&self.complaints).iter().any(|(about, _)| *about == peer)
    }
}

/// Whose certificate this says it is.
fn subject_of(certificate: &hop::Signed) -> Option<NodeId> {
    let content: hop::CertificateContent = prost::Message::decode(certificate.content.clone()).ok()?;
    NodeId::from_slice(&content.subject)
}

/// Unix time for the hello: informative, nothing is decided by it here.
fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
