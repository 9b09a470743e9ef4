//! The network: connections to other nodes, sessions on them, frames both ways. The only folder that names libp2p.
//! Decides nothing about mail: it tells the engine what happened and carries out what the engine says.

mod addresses;
mod admission;
mod dial;
mod events;
mod fault;
mod frames;
mod hello;
mod local;
mod session;
mod streams;
mod swarm;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use addresses::{check_listen, check_peer, for_others};
use anyhow::Context as _;
pub use libp2p::Multiaddr;
use libp2p::PeerId;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use waypost_core::engine::effect::Effect;
use waypost_core::engine::{KnownPeer, OwnHello};
use waypost_core::id::NetworkId;
use waypost_core::trust::{NodeKey, Roster};
use waypost_proto::hop;

use crate::inputs::Inputs;
use dial::Schedule;
use events::{Events, Listening};
use local::Local;

/// How long listeners may take to say where they listen.
const LISTEN: Duration = Duration::from_secs(5);
/// How long sessions may take to end when the node stops.
const STOP: Duration = Duration::from_secs(3);

/// Who may be dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dial {
    /// Configured addresses and neighbours of former runs, never an address learned from others.
    Known,
    /// Learned ones as well.
    #[default]
    Any,
}

/// What the network part is told at its start.
pub struct Config {
    /// The node's Ed25519 seed.
    pub key_seed: [u8; 32],
    /// Its network; the roster's.
    pub network: NetworkId,
    /// Where to listen.
    pub listen: Vec<Multiaddr>,
    /// Whom to dial, with or without `/p2p/…`.
    pub peers: Vec<Multiaddr>,
    /// Who else may be dialled.
    pub dial: Dial,
    /// Neighbours of former runs.
    pub known_peers: Vec<KnownPeer>,
    /// Whether to look for neighbours on the local network, and to be found there.
    pub mdns: bool,
}

/// The running network part. Cheap to clone.
#[derive(Clone)]
pub struct Net {
    local: Arc<Local>,
    listening: watch::Receiver<Listening>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Listens, begins to dial, and returns once it is known where this node listens.
///
/// # Errors
/// When the key cannot be used, the roster is another network's, or an address cannot be listened on.
pub async fn start(
    config: Config,
    own: OwnHello,
    roster: Arc<Mutex<Roster>>,
    join: Option<hop::Join>,
    inputs: Inputs,
) -> anyhow::Result<Net> {
    let keypair = Keypair::ed25519_from_bytes(config.key_seed).context("the node's key is not an Ed25519 seed")?;
    let peer = keypair.public().to_peer_id();
    let key = NodeKey::from_seed(&config.key_seed);
    let schedule = schedule(&config, peer, own.nonce);
    let local = Arc::new(Local::new(key, own, roster, join, inputs));
    anyhow::ensure!(local.network == config.network, "the roster is of another network than this node");
    let mut swarm = swarm::build(&keypair, config.mdns)?;
    let mut listening = Listening::default();
    // All before the first is taken: on a dual-stack host one of ours would stand in another's way.
    config.listen.iter().try_for_each(refuse_taken)?;
    for address in &config.listen {
        let listener = swarm.listen_on(address.clone()).with_context(|| format!("cannot listen on {address}"))?;
        listening.silent.push(listener);
    }
    let (sender, receiver) = watch::channel(listening);
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let events = Events::new(swarm, Arc::clone(&local), (config.dial, schedule), sender, tasks.clone());
    tasks.spawn(events.run(stop.clone()));
    let net = Net { local, listening: receiver, stop, tasks };
    net.wait_until_listening().await;
    Ok(net)
}

/// Refuses a TCP port on which another process listens: the transport shares ports, and two nodes would share the mail
/// of neither.
///
/// # Errors
/// The port is taken, with what to do.
fn refuse_taken(address: &Multiaddr) -> anyhow::Result<()> {
    let mut parts = address.iter();
    let host: Option<std::net::IpAddr> = match parts.next() {
        Some(Protocol::Ip4(host)) => Some(host.into()),
        Some(Protocol::Ip6(host)) => Some(host.into()),
        _ => None,
    };
    let (Some(host), Some(Protocol::Tcp(port))) = (host, parts.next()) else { return Ok(()) };
    match std::net::TcpListener::bind((host, port)) {
        Err(error) if port > 0 && error.kind() == std::io::ErrorKind::AddrInUse => {
            anyhow::bail!("cannot listen on {address}: another process does; choose another port with --listen")
        }
        _ => Ok(()),
    }
}

/// Everybody configured, and everybody met before (rule DIAL-2).
fn schedule(config: &Config, own: PeerId, seed: u64) -> Schedule {
    let mut schedule = Schedule::new(own, seed);
    let now = Instant::now();
    for address in &config.peers {
        schedule.add(address.clone(), now);
    }
    for KnownPeer { node, reached, told } in &config.known_peers {
        let told = told.iter().filter(|_| config.dial == Dial::Any);
        let addresses = reached.iter().chain(told).filter_map(|address| address.parse().ok()).collect();
        if let Ok(peer) = PeerId::from_bytes(&node.to_peer_id_bytes()) {
            schedule.add_peer(peer, addresses, now);
        }
    }
    schedule
}

impl Net {
    /// Carries out what concerns the network; other effects are ignored. Never waits.
    pub fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Send { session, stream, frame, .. } => self.local.send(session, stream, frame),
            Effect::Disconnect { session, why, .. } => self.local.disconnect(session, why),
            Effect::Certify { chain } => self.local.certify(chain),
            Effect::Renew { hello } => self.local.renew(*hello),
            _ => {}
        }
    }

    /// Where this node listens now, without its peer id.
    #[must_use]
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.listening.borrow().addresses.clone()
    }

    /// Ends all sessions and closes all connections; returns when it is done, or has taken too long.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP, self.tasks.wait()).await.is_err() {
            tracing::debug!("some sessions had not ended when the network part stopped");
        }
    }

    async fn wait_until_listening(&self) {
        let mut listening = self.listening.clone();
        let all = listening.wait_for(|listening| listening.silent.is_empty());
        if !matches!(tokio::time::timeout(LISTEN, all).await, Ok(Ok(_))) {
            tracing::warn!("some addresses to listen on have not come up yet");
        }
    }
}
