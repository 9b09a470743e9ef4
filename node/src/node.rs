//! A node: opens its parts, wires them, and takes them down again. The only place that knows all of them.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use waypost_core::engine::effect::Effect;
use waypost_core::engine::input::Input;
use waypost_core::engine::{Engine, Identity};
use waypost_core::id::NetworkId;
use waypost_core::store::tx::commit;
use waypost_core::trust::{NodeKey, Roster, found};
use waypost_proto::hop;

use crate::api::{self, Api, NodeInfo};
use crate::clock::Clock;
use crate::config::RunConfig;
use crate::disk::OpenError;
use crate::driver::{self, DriverHandle, EXIT_FAILED, Outlets};
use crate::identity;
use crate::inputs::Inputs;
use crate::net::{self, Net};
use crate::store::{RocksKv, Upkeep};

/// Unix milliseconds before which no credible clock is: 2026-11-22.
const BUILD_MS: u64 = 1_795_305_600_000;
/// How often deletions that lie in memory are brought to disk, so that their space comes back.
const UPKEEP: Duration = Duration::from_secs(30);

/// Why a node ended or never began, with the exit code that says so.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RunError {
    /// As sysexits has them: 1 failed, 75 try again, 77 not permitted, 78 configuration.
    pub code: u8,
    /// For the person who reads it.
    pub message: String,
}

impl RunError {
    /// The configuration or the data directory must be mended first.
    #[must_use]
    pub fn configuration(message: impl ToString) -> Self {
        Self { code: 78, message: message.to_string() }
    }

    fn failed(message: impl ToString) -> Self {
        Self { code: 1, message: message.to_string() }
    }
}

/// A message for a person with everything that led to it.
fn with_causes(error: &anyhow::Error) -> String {
    format!("{error:#}")
}

/// Who this node is and how it got here.
struct Standing {
    key: NodeKey,
    network: NetworkId,
    /// The founder's certificate, when this start founds a network.
    chain: Vec<hop::Signed>,
    /// What it shows to be admitted.
    join: Option<hop::Join>,
    /// Where the invitation says that members are.
    addresses: Vec<String>,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// It could not start, or had to stop.
pub async fn run(config: RunConfig) -> Result<(), RunError> {
    let started = Instant::now();
    let mut kv = open_store(&config.data, config.force)?;
    let clock = Clock::new().map_err(RunError::failed)?;
    let upkeep = kv.upkeep();
    let own = own_identity(&config.data, &kv, clock)?;
    let (join, addresses) = (own.join.clone(), own.addresses.clone());
    let (network, key_seed) = (own.network, *own.key.seed());
    let identity = Identity { key: own.key, network, chain: own.chain, seed: random_seed()? };
    let mut policy = config.policy();
    policy.build_ms = BUILD_MS;
    let (engine, outcome) = Engine::recover(identity, policy, &kv, clock.now()).map_err(RunError::configuration)?;
    commit(&mut kv, outcome).map_err(|error| RunError { code: 75, message: error.to_string() })?;
    identity::set_network(&config.data, network).map_err(RunError::configuration)?;
    if !engine.own_hello().chain.is_empty() {
        identity::forget_invitation(&config.data).map_err(RunError::configuration)?;
    }

    let (inputs, receiver) = Inputs::new();
    let info = NodeInfo { version: env!("CARGO_PKG_VERSION").to_owned(), started, space: space_of(&upkeep) };
    let api = api::start(config.socket.clone(), inputs.clone(), info).map_err(RunError::configuration)?;
    let net_config = net_config(&config, key_seed, network, &addresses, &engine)?;
    let roster = Arc::new(Mutex::new(Roster::new(network)));
    let own_hello = engine.own_hello().clone();
    let net = net::start(net_config, own_hello, roster, join, inputs.clone())
        .await
        .map_err(|error| RunError::configuration(with_causes(&error)))?;
    let listen = net.listen_addresses().iter().map(ToString::to_string).collect();
    inputs
        .try_push(Input::ListenAddressesChanged { addresses: listen })
        .map_err(|_| RunError::failed("the engine is not there"))?;

    let (stop, mut stopped) = mpsc::channel(1);
    let outlets = Wiring { net: net.clone(), api: api.clone(), inputs, stop, data: config.data.clone() };
    let driver = driver::spawn(engine, Box::new(kv), receiver, outlets, clock, |_| std::process::exit(EXIT_FAILED))
        .map_err(RunError::failed)?;
    let keeping = tokio::spawn(keep_up(upkeep));
    let ended = wait_for_the_end(&mut stopped).await;
    keeping.abort();
    shut_down(api, net, driver).await;
    ended
}

fn open_store(data: &Path, force: bool) -> Result<RocksKv, RunError> {
    RocksKv::open(data, force).map_err(|error| match error {
        OpenError::InUse(_) | OpenError::Unfit { .. } => RunError::configuration(error),
        other => RunError { code: 1, message: other.to_string() },
    })
}

fn random_seed() -> Result<[u8; 32], RunError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| RunError::failed(format!("no randomness: {error}")))?;
    Ok(seed)
}

/// The key, and the network: the one on disk, the one invited to, or, on an empty directory, a new one (rule TRUST-1).
fn own_identity(data: &Path, kv: &RocksKv, clock: Clock) -> Result<Standing, RunError> {
    let key = identity::load_or_create(data).map_err(RunError::configuration)?;
    let stored = Engine::network_on(kv).map_err(RunError::failed)?;
    let named = identity::network(data).map_err(RunError::configuration)?;
    if let (Some(stored), Some(named)) = (stored, named)
        && stored != named
    {
        let message = "the data directory holds mail of another network than its `network` file names: \
                       use another --data for another network";
        return Err(RunError::configuration(message));
    }
    let token = identity::invitation(data).map_err(RunError::configuration)?;
    if let Some(network) = stored.or(named) {
        let token = token.filter(|token| token.network() == network);
        let join = token.as_ref().map(|token| token.join(&key));
        let addresses = token.map(|token| token.addresses().to_vec()).unwrap_or_default();
        return Ok(Standing { key, network, chain: Vec::new(), join, addresses });
    }
    let mut rng = ChaCha20Rng::from_seed(random_seed()?);
    let founding = found(&mut rng, key.id(), clock.now().wall_ms);
    tracing::info!(network = %founding.network, "founded a network: `waypost invite` makes tokens for other hosts");
    let (network, chain) = (founding.network, vec![founding.certificate]);
    Ok(Standing { key, network, chain, join: None, addresses: Vec::new() })
}

fn net_config(
    config: &RunConfig,
    key_seed: [u8; 32],
    network: NetworkId,
    invited_to: &[String],
    engine: &Engine,
) -> Result<net::Config, RunError> {
    let parse = |what: &str, list: &[String]| {
        let one = |address: &String| {
            let hint = "an address looks like /ip4/192.0.2.1/udp/4884/quic-v1";
            address.parse().map_err(|error| RunError::configuration(format!("{what} {address:?}: {error}; {hint}")))
        };
        list.iter().map(one).collect::<Result<Vec<net::Multiaddr>, _>>()
    };
    let mut peers = parse("--peer", &config.peers)?;
    peers.extend(parse("the invitation's address", invited_to)?);
    let dial = match config.dial {
        crate::config::Dial::Known => net::Dial::Known,
        crate::config::Dial::Any => net::Dial::Any,
    };
    let known_peers = engine.own_hello().known_peers.clone();
    Ok(net::Config { key_seed, network, listen: parse("--listen", &config.listen)?, peers, dial, known_peers })
}

fn space_of(upkeep: &Upkeep) -> api::Space {
    let upkeep = upkeep.clone();
    Arc::new(move || (upkeep.bytes_on_disk().unwrap_or(0), upkeep.free_bytes().unwrap_or(0)))
}

/// Brings space back, now and then.
async fn keep_up(upkeep: Upkeep) {
    let mut ticks = tokio::time::interval(UPKEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let upkeep = upkeep.clone();
        let _ = tokio::task::spawn_blocking(move || {
            if let Err(error) = upkeep.free_deleted() {
                tracing::warn!("space could not be brought back: {error}");
            }
        })
        .await;
    }
}

/// Where effects go. Nothing here waits: it runs on the engine's thread.
struct Wiring {
    net: Net,
    api: Api,
    inputs: Inputs,
    stop: mpsc::Sender<String>,
    data: std::path::PathBuf,
}

impl Outlets for Wiring {
    fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Certify { .. } => {
                // Membership is on disk; the token is a risk without a use.
                if let Err(error) = identity::forget_invitation(&self.data) {
                    tracing::warn!("{error}");
                }
                self.net.carry_out(effect);
            }
            Effect::Send { .. } | Effect::Disconnect { .. } => self.net.carry_out(effect),
            Effect::Reply { request, reply } => self.inputs.answer(request, reply),
            Effect::Stop { why } => {
                let _ = self.stop.try_send(why);
            }
            Effect::Deliver { .. }
            | Effect::BodyPart { .. }
            | Effect::Settled { .. }
            | Effect::EndConsumer { .. }
            | Effect::Staged { .. } => self.api.carry_out(effect),
        }
    }
}

/// Waits for a signal, or for the engine to say that this node may not go on.
async fn wait_for_the_end(stopped: &mut mpsc::Receiver<String>) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::failed)?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(why) = stopped.recv() => Err(RunError::configuration(why)),
    }
}

/// Applications first, then neighbours, then the engine with what is queued.
async fn shut_down(api: Api, net: Net, driver: DriverHandle) {
    tracing::info!("stopping");
    api.stop().await;
    net.stop().await;
    driver.stop();
    let _ = tokio::task::spawn_blocking(move || driver.join()).await;
}
