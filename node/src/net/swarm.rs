//! The libp2p swarm: transports, behaviours, limits. Configured here, driven in `events`.

use std::time::Duration;

use anyhow::Context as _;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{Config, NetworkBehaviour};
use libp2p::{PeerId, Swarm, Transport as _, dns, identify, mdns, noise, ping, quic, tcp, yamux};

use super::streams;

/// How long a connection may take to be made, from the first packet to the last handshake.
const CONNECT: Duration = Duration::from_secs(10);
/// How often the other side is asked for a sign of life.
const PING: Duration = Duration::from_secs(3);
/// A ping that comes late still is a sign of life; `events` measures the silence itself.
const PONG: Duration = Duration::from_secs(10);
/// QUIC's own limit of silence, in milliseconds.
const QUIC_SILENCE_MS: u32 = 8_000;
/// Streams the other side may have open at the same time: its four, those it opens again, pings and identities.
const STREAMS: u16 = 64;
/// Connections that are being made, in each direction.
const PENDING: u32 = 64;
/// Connections in each direction.
const ONE_WAY: u32 = 512;
/// A second one, until one of the two is closed.
const PER_PEER: u32 = 2;

/// How often the local network is asked who is there; whoever comes says so by itself.
const ASK_AROUND: Duration = Duration::from_secs(30);

/// What runs on every connection.
#[derive(NetworkBehaviour)]
pub struct Behaviour {
    limits: connection_limits::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    /// The hop protocol's streams.
    pub streams: streams::Behaviour,
}

/// A swarm that listens nowhere yet. With `mdns` it looks for neighbours on the local network, and is found there.
///
/// # Errors
/// When the key or the transports cannot be set up.
pub fn build(keypair: &Keypair, mdns: bool) -> anyhow::Result<Swarm<Behaviour>> {
    let peer = keypair.public().to_peer_id();
    // An open hop stream keeps a connection; what has none is closed by the session's own deadlines.
    let config = Config::with_tokio_executor()
        .with_idle_connection_timeout(Duration::from_secs(60))
        .with_max_negotiating_inbound_streams(STREAMS.into());
    Ok(Swarm::new(transport(keypair)?, behaviour(keypair, mdns), peer, config))
}

fn behaviour(keypair: &Keypair, mdns: bool) -> Behaviour {
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING))
        .with_max_pending_outgoing(Some(PENDING))
        .with_max_established_incoming(Some(ONE_WAY))
        .with_max_established_outgoing(Some(ONE_WAY))
        .with_max_established(Some(2 * ONE_WAY))
        .with_max_established_per_peer(Some(PER_PEER));
    // No cache: nobody is dialled at an address that only this behaviour knows.
    let identity = identify::Config::new("/waypost/id/1".to_owned(), keypair.public())
        .with_agent_version(concat!("waypost/", env!("CARGO_PKG_VERSION")).to_owned())
        .with_cache_size(0);
    Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        identify: identify::Behaviour::new(identity),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING).with_timeout(PONG)),
        mdns: mdns.then(|| neighbours(keypair)).flatten().into(),
        streams: streams::Behaviour::default(),
    }
}

/// Discovery on the local network; without the system's help a node does without.
fn neighbours(keypair: &Keypair) -> Option<mdns::tokio::Behaviour> {
    let config = mdns::Config { query_interval: ASK_AROUND, ..mdns::Config::default() };
    match mdns::tokio::Behaviour::new(config, keypair.public().to_peer_id()) {
        Ok(behaviour) => Some(behaviour),
        Err(error) => {
            tracing::warn!(why = %error, "neighbours on the local network cannot be looked for");
            None
        }
    }
}

/// TCP and QUIC, by name where the system's resolver can be read, by number where not.
fn transport(keypair: &Keypair) -> anyhow::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let by_number = by_number(keypair)?;
    match dns::tokio::Transport::system(by_number) {
        Ok(by_name) => Ok(by_name.boxed()),
        Err(error) => {
            tracing::warn!(why = %error, "host names cannot be resolved, only numeric addresses are dialled");
            self::by_number(keypair)
        }
    }
}

fn by_number(keypair: &Keypair) -> anyhow::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let mut multiplexer = yamux::Config::default();
    multiplexer.set_max_num_streams(STREAMS.into());
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair).context("the node's key cannot secure connections")?)
        .multiplex(multiplexer)
        .timeout(CONNECT);
    let mut config = quic::Config::new(keypair);
    config.max_idle_timeout = QUIC_SILENCE_MS;
    config.keep_alive_interval = PING;
    config.max_concurrent_stream_limit = STREAMS.into();
    let quic = quic::tokio::Transport::new(config);
    let either = tcp.or_transport(quic).map(|made, _| match made {
        futures::future::Either::Left((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
        futures::future::Either::Right((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
    });
    Ok(either.boxed())
}
