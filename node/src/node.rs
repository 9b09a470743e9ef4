//! A node: opens its parts, wires them, and takes them down again. The only place that knows all of them.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rustix::io::Errno;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use waypost_core::engine::effect::{Accepted, Delivery, Effect, Reply};
use waypost_core::engine::input::Input;
use waypost_core::engine::{Engine, Identity};
use waypost_core::id::NetworkId;
use waypost_core::store::tx::commit;
use waypost_core::trust::{NodeKey, Proofs, Roster, found};
use waypost_proto::hop;

use crate::api::{self, Api, NodeInfo};
use crate::ballast::Ballast;
use crate::clock::Clock;
use crate::config::RunConfig;
use crate::disk::{OpenError, Terms};
use crate::driver::{self, DriverHandle, EXIT_FAILED, Outlets};
use crate::identity;
use crate::inputs::Inputs;
use crate::net::{self, Net};
use crate::quarantine;
use crate::signals::Signals;
use crate::store::{RocksKv, Upkeep};
use crate::systemd;

/// Unix milliseconds before which no credible clock is: 2026-11-22.
const BUILD_MS: u64 = 1_795_305_600_000;
/// How often deletions that lie in memory are brought to disk, so that their space comes back.
const UPKEEP: Duration = Duration::from_secs(30);
/// The same on a disk with too little room.
const UPKEEP_LOW: Duration = Duration::from_secs(5);
/// How often the free space of the disk is measured.
const SPACE: Duration = Duration::from_secs(1);
/// The same with less than [`SCARCE`] above the reserve, where each measure lets more mail in.
const SPACE_SCARCE: Duration = Duration::from_millis(200);
const SCARCE: u64 = 1 << 30;
/// How long a node that was told to stop may take; less than a service manager waits before it kills.
const STOP: Duration = Duration::from_secs(9);

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
    let signals = Signals::listen().map_err(RunError::failed)?;
    let mut kv = open_store(&config)?;
    let ballast = Ballast::of(&config.data, config.reserve_bytes);
    let clock = Clock::new().map_err(RunError::failed)?;
    let upkeep = kv.upkeep();
    let own = own_identity(&config.data, &kv, clock)?;
    let (join, addresses) = (own.join.clone(), own.addresses.clone());
    let (node, network, key_seed) = (own.key.id(), own.network, *own.key.seed());
    let proofs = Arc::<Proofs>::default();
    let identity =
        Identity { key: own.key, network, chain: own.chain, proofs: Arc::clone(&proofs), seed: random_seed()? };
    let mut policy = config.policy();
    policy.build_ms = BUILD_MS;
    let (engine, outcome) = Engine::recover(identity, policy, &kv, clock.now()).map_err(RunError::configuration)?;
    commit(&mut kv, outcome).map_err(|error| RunError { code: 75, message: error.to_string() })?;
    identity::set_network(&config.data, network).map_err(RunError::configuration)?;
    if !engine.own_hello().chain.is_empty() {
        identity::forget_invitation(&config.data).map_err(RunError::configuration)?;
    }

    let (inputs, receiver) = Inputs::new();
    // First of all: on a full disk nothing may be accepted, however early it comes (rule DISK-3).
    if let Some(input) = space_now(&ballast, &upkeep) {
        inputs.try_push(input).map_err(|_| RunError::failed("the engine is not there"))?;
    }
    let info = node_info(&config, started, &upkeep);
    let api = api::start(&config.socket, inputs.clone(), info).map_err(RunError::configuration)?;
    let net_config = net_config(&config, key_seed, network, &addresses, &engine)?;
    let roster = Arc::new(Mutex::new(Roster::trusting(network, proofs)));
    let own_hello = engine.own_hello().clone();
    let net = net::start(net_config, own_hello, roster, join, inputs.clone())
        .await
        .map_err(|error| RunError::configuration(with_causes(&error)))?;
    let listen = net::for_others(&net.listen_addresses());
    inputs
        .try_push(Input::ListenAddressesChanged { addresses: listen })
        .map_err(|_| RunError::failed("the engine is not there"))?;

    let (stop, mut stopped) = mpsc::channel(1);
    let watching = inputs.clone();
    let outlets = Wiring { net: net.clone(), api: api.clone(), inputs, stop, data: config.data.clone() };
    let driver = driver::spawn(engine, Box::new(kv), receiver, outlets, clock, |_| std::process::exit(EXIT_FAILED))
        .map_err(RunError::failed)?;
    let low = Arc::new(Notify::new());
    let keeping = [
        tokio::spawn(keep_up(upkeep.clone(), Arc::clone(&low))),
        tokio::spawn(watch_space(ballast, upkeep, watching, low)),
        tokio::spawn(systemd::feed_watchdog(driver.counters(), clock)),
    ];
    let (data, socket) = (config.data.display(), config.socket.path.display());
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(%node, name = config.name, %network, %data, %socket, version, "running");
    systemd::ready(&format!("{node} serves {socket}"));
    let ended = wait_for_the_end(&signals, &mut stopped).await;
    systemd::stopping();
    keeping.iter().for_each(JoinHandle::abort);
    shut_down(api, net, driver).await;
    ended
}

fn open_store(config: &RunConfig) -> Result<RocksKv, RunError> {
    if config.data.exists() && !config.data.is_dir() {
        let message = format!(
            "{} is a file: name a directory with --data, one that does not exist is made",
            config.data.display()
        );
        return Err(RunError::configuration(message));
    }
    let terms = Terms { force: config.force, accept_loss: config.accept_loss };
    RocksKv::open(&config.data, terms).map_err(|error| match error {
        // It may pass: whoever started the node is to start it again.
        OpenError::Database { .. } => RunError { code: 75, message: error.to_string() },
        OpenError::Directory { ref source, .. } if may_pass(source) => {
            RunError { code: 75, message: error.to_string() }
        }
        OpenError::Directory { .. }
        | OpenError::InUse(_)
        | OpenError::Unfit { .. }
        | OpenError::Gone(_)
        | OpenError::Damaged { .. } => RunError::configuration(error),
    })
}

/// A disk that is full or does not answer may do better later.
fn may_pass(error: &io::Error) -> bool {
    let failing = [Errno::NOSPC, Errno::DQUOT, Errno::IO];
    failing.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn node_info(config: &RunConfig, started: Instant, upkeep: &Upkeep) -> NodeInfo {
    let damage = quarantine::last_loss(&config.data);
    NodeInfo { version: env!("CARGO_PKG_VERSION").to_owned(), started, space: space_of(upkeep), damage }
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
    Ok(net::Config {
        key_seed,
        network,
        listen: parse("--listen", &config.listen)?,
        peers,
        dial,
        known_peers,
        mdns: config.mdns,
    })
}

fn space_of(upkeep: &Upkeep) -> api::Space {
    let upkeep = upkeep.clone();
    Arc::new(move || (upkeep.bytes_on_disk().unwrap_or(0), upkeep.free_bytes().unwrap_or(0)))
}

/// Brings space back, now and then, and sooner when there is little.
async fn keep_up(upkeep: Upkeep, low: Arc<Notify>) {
    let mut ticks = tokio::time::interval(UPKEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let is_low = tokio::select! {
            _ = ticks.tick() => false,
            () = low.notified() => true,
        };
        let upkeep = upkeep.clone();
        let _ = tokio::task::spawn_blocking(move || {
            let freed = upkeep.free_deleted().and_then(|()| if is_low { upkeep.compact_deleted() } else { Ok(()) });
            if let Err(error) = freed {
                tracing::warn!(why = %error, "space could not be brought back");
            }
        })
        .await;
    }
}

/// Tells the engine what room the disk has, and whoever frees space that there is little.
async fn watch_space(ballast: Ballast, upkeep: Upkeep, inputs: Inputs, low: Arc<Notify>) {
    let mut last_low: Option<Instant> = None;
    let mut pause = SPACE;
    loop {
        tokio::time::sleep(pause).await;
        let (ballast, upkeep) = (ballast.clone(), upkeep.clone());
        let looked = tokio::task::spawn_blocking(move || space_now(&ballast, &upkeep));
        let Ok(Some(input)) = looked.await else { continue };
        if let Input::SpaceChanged { free_bytes, reserve_bytes } = input {
            pause = if free_bytes < reserve_bytes.saturating_add(SCARCE) { SPACE_SCARCE } else { SPACE };
            // As long as a disk that was full is not yet taken from again (rule DISK-3).
            let enough = reserve_bytes.saturating_add(reserve_bytes / 8);
            if free_bytes < enough && last_low.is_none_or(|at| at.elapsed() >= UPKEEP_LOW) {
                last_low = Some(Instant::now());
                low.notify_one();
            }
        }
        if inputs.push(input).await.is_err() {
            return;
        }
    }
}

/// Measures what the engine should know: what the database owes the disk is kept back as well. What cannot be measured
/// changes nothing.
fn space_now(ballast: &Ballast, upkeep: &Upkeep) -> Option<Input> {
    let measure = || -> std::io::Result<Input> {
        // In this order: what was owed a moment ago has been written by then.
        let owed = upkeep.owed_bytes()?;
        let room = ballast.look()?;
        Ok(Input::SpaceChanged { free_bytes: room.free, reserve_bytes: room.reserve.saturating_add(owed) })
    };
    measure().inspect_err(|error| tracing::warn!("the disk's room cannot be measured: {error}")).ok()
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
                    tracing::warn!(why = %error, "the invitation could not be removed");
                }
                self.net.carry_out(effect);
            }
            Effect::RaiseAlarm { why } => tracing::error!("alarm: {why}"),
            Effect::Send { .. } | Effect::Disconnect { .. } | Effect::Renew { .. } => self.net.carry_out(effect),
            Effect::Reply { request, reply } => {
                note_acceptance(&reply);
                self.inputs.answer(request, reply);
            }
            Effect::Stop { why } => {
                let _ = self.stop.try_send(why);
            }
            Effect::Deliver { ref deliveries, .. } => {
                note_deliveries(deliveries);
                self.api.carry_out(effect);
            }
            Effect::BodyPart { .. } | Effect::Settled { .. } | Effect::EndConsumer { .. } | Effect::Staged { .. } => {
                self.api.carry_out(effect)
            }
        }
    }
}

fn note_acceptance(reply: &Reply) {
    if let Reply::Accepted(accepted) = reply {
        for Accepted { id, to, .. } in accepted {
            tracing::debug!(%id, peer = %to, "accepted");
        }
    }
}

fn note_deliveries(deliveries: &[Delivery]) {
    for Delivery { id, from, size, deliveries, .. } in deliveries {
        tracing::debug!(%id, peer = %from, bytes = size, deliveries, "handed to a consumer");
    }
}

/// Waits for a signal, or for the engine to say that this node may not go on.
async fn wait_for_the_end(signals: &Signals, stopped: &mut mpsc::Receiver<String>) -> Result<(), RunError> {
    tokio::select! {
        () = signals.told() => Ok(()),
        Some(why) = stopped.recv() => Err(RunError::configuration(why)),
    }
}

/// Applications first, then neighbours, then the engine with what is queued. A disk that does not answer is not waited
/// for: what it has not taken was not acknowledged either.
async fn shut_down(api: Api, net: Net, driver: DriverHandle) {
    let began = Instant::now();
    tracing::info!("stopping");
    let all = async {
        api.stop().await;
        net.stop().await;
        driver.stop();
        let _ = tokio::task::spawn_blocking(move || driver.join()).await;
    };
    let is_late = tokio::time::timeout(STOP, all).await.is_err();
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    if is_late {
        tracing::error!(
            ms,
            "the disk does not take what is queued; ending all the same, nothing of it was acknowledged"
        );
        std::process::exit(EXIT_FAILED);
    }
    tracing::info!(ms, "stopped");
}
