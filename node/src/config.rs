//! What a node was told: `waypost.toml`, over it `WAYPOST_*`, over them the flags. Finds mistakes; starts nothing.

mod checks;
mod environment;
mod file;
mod keys;
mod places;
pub mod units;

use std::path::{Path, PathBuf};

use waypost_core::policy::Policy;

pub use checks::{dial, listen_address, log_filter, log_format, node_name, peer_address};
use file::FileSettings;
pub use file::Mistake;
pub use keys::{KEYS, Key, Shown};
pub use places::{Env, Places, conventional};

/// Where a node listens when nobody says: QUIC and TCP on one port number, both address families.
pub const LISTEN: [&str; 4] =
    ["/ip4/0.0.0.0/udp/4884/quic-v1", "/ip6/::/udp/4884/quic-v1", "/ip4/0.0.0.0/tcp/4884", "/ip6/::/tcp/4884"];

/// Whom a node dials.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dial {
    /// Peers, the invitation's addresses and configured ones; never one learned from others.
    Known,
    /// Everybody it hears of.
    Any,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// What is written to standard error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// A level, or directives as `tracing-subscriber` reads them.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

/// Quotas that replace the policy's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Bytes that un-ended messages accepted here may fill.
    pub outbox_bytes: Option<u64>,
    /// Un-ended messages accepted here at most.
    pub outbox_messages: Option<u64>,
    /// Bytes that unconsumed messages may fill.
    pub inbox_bytes: Option<u64>,
    /// Bytes that other nodes' envelopes may fill.
    pub transit_bytes: Option<u64>,
    /// Bytes of the data directory's disk that mail leaves free.
    pub disk_reserve: Option<u64>,
}

/// The socket for applications and who may open it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SocketConfig {
    /// Where.
    pub path: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// The group it is given to, by number; `None`: the node's own.
    pub gid: Option<u32>,
}

/// A group of this host's users.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// As it was written.
    pub name: String,
    /// What the kernel knows it by.
    pub gid: u32,
}

/// Everything `waypost run` needs to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunConfig {
    /// The data directory.
    pub data: PathBuf,
    /// Whether an unfit disk (tmpfs, overlay, NFS) is taken all the same.
    pub force: bool,
    /// Whether a store that is gone or does not open is replaced by an empty one. Only a flag says so, never a file.
    pub accept_loss: bool,
    /// Free bytes of the disk below which nothing new is accepted; `None`: 64 MiB or a hundredth of it, the larger.
    pub reserve_bytes: Option<u64>,
    /// The socket for applications.
    pub socket: SocketConfig,
    /// Multiaddrs to listen at; their exact form is the network's to check.
    pub listen: Vec<String>,
    /// Multiaddrs to dial at start and again for ever.
    pub peers: Vec<String>,
    /// The node's name; empty: none.
    pub name: String,
    /// Whether to look for neighbours on the local network.
    pub mdns: bool,
    /// Whom to dial.
    pub dial: Dial,
    /// Quotas.
    pub limits: Limits,
    /// The log.
    pub log: LogConfig,
}

impl RunConfig {
    /// The engine's policy, with what was configured in it.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let default = Policy::default();
        Policy {
            name: self.name.clone(),
            outbox_bytes: self.limits.outbox_bytes.unwrap_or(default.outbox_bytes),
            outbox_messages: self.limits.outbox_messages.unwrap_or(default.outbox_messages),
            inbox_bytes: self.limits.inbox_bytes.unwrap_or(default.inbox_bytes),
            transit_bytes: self.limits.transit_bytes.unwrap_or(default.transit_bytes),
            ..default
        }
    }
}

/// What one layer (defaults, file, environment, flags) says; `None`: nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "each is the optional form of a documented field of RunConfig")]
pub struct Settings {
    pub data: Option<PathBuf>,
    pub force: Option<bool>,
    pub socket: Option<PathBuf>,
    pub socket_group: Option<Group>,
    pub socket_mode: Option<u32>,
    pub listen: Option<Vec<String>>,
    pub peers: Option<Vec<String>>,
    pub name: Option<String>,
    pub mdns: Option<bool>,
    pub dial: Option<Dial>,
    pub limits: Limits,
    pub log_filter: Option<String>,
    pub log_format: Option<LogFormat>,
}

impl Settings {
    /// What holds when nobody says otherwise.
    fn defaults(places: Places) -> Self {
        let policy = Policy::default();
        Self {
            data: places.data,
            force: Some(false),
            socket: places.socket,
            listen: Some(LISTEN.map(str::to_owned).to_vec()),
            peers: Some(Vec::new()),
            mdns: Some(true),
            dial: Some(Dial::Any),
            limits: Limits {
                outbox_bytes: Some(policy.outbox_bytes),
                outbox_messages: Some(policy.outbox_messages),
                inbox_bytes: Some(policy.inbox_bytes),
                transit_bytes: Some(policy.transit_bytes),
                disk_reserve: None,
            },
            log_filter: Some("info".to_owned()),
            log_format: Some(LogFormat::Text),
            ..Self::default()
        }
    }

    /// This layer, and where it says nothing the one below.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            data: self.data.or(below.data),
            force: self.force.or(below.force),
            socket: self.socket.or(below.socket),
            socket_group: self.socket_group.or(below.socket_group),
            socket_mode: self.socket_mode.or(below.socket_mode),
            listen: self.listen.or(below.listen),
            peers: self.peers.or(below.peers),
            name: self.name.or(below.name),
            mdns: self.mdns.or(below.mdns),
            dial: self.dial.or(below.dial),
            limits: Limits {
                outbox_bytes: self.limits.outbox_bytes.or(below.limits.outbox_bytes),
                outbox_messages: self.limits.outbox_messages.or(below.limits.outbox_messages),
                inbox_bytes: self.limits.inbox_bytes.or(below.limits.inbox_bytes),
                transit_bytes: self.limits.transit_bytes.or(below.limits.transit_bytes),
                disk_reserve: self.limits.disk_reserve.or(below.limits.disk_reserve),
            },
            log_filter: self.log_filter.or(below.log_filter),
            log_format: self.log_format.or(below.log_format),
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// All that was said, layer by layer, and what is wrong with it.
struct Layers {
    flags: Settings,
    environment: Settings,
    file: FileSettings,
    /// Which file was read.
    path: Option<PathBuf>,
    defaults: Settings,
    mistakes: Vec<String>,
}

impl Layers {
    /// `named` is a configuration file asked for by name: it must exist.
    fn gather(flags: Settings, named: Option<&Path>, root: bool, env: Env<'_>) -> Self {
        let places = conventional(root, env);
        let variable = || env("WAYPOST_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let named = named.map(Path::to_owned).or_else(variable);
        let mut mistakes = Vec::new();
        let file = from_file(named.as_deref(), places.config.as_deref(), &mut mistakes);
        let environment = environment::read(env, &mut mistakes);
        let path = named.or_else(|| places.config.clone());
        Self { flags, environment, file, path, defaults: Settings::defaults(places), mistakes }
    }

    fn over_one_another(self) -> (Settings, Vec<String>) {
        (self.flags.over(self.environment).over(self.file.settings).over(self.defaults), self.mistakes)
    }
}

/// Puts the layers together. `named` is a configuration file asked for by name: it must exist.
///
/// # Errors
/// Every mistake in the file and in the environment, or that there is no place for the data or the socket.
pub fn load(flags: Settings, named: Option<&Path>, root: bool, env: Env<'_>) -> Result<RunConfig, ConfigError> {
    let (settings, mut mistakes) = Layers::gather(flags, named, root, env).over_one_another();
    let no_home = |what: &str| format!("there is no place for {what} because HOME is not set: say --{what}");
    if settings.data.is_none() {
        mistakes.push(no_home("data"));
    }
    if settings.socket.is_none() {
        mistakes.push(no_home("socket"));
    }
    match (settings.data.clone(), settings.socket.clone()) {
        (Some(data), Some(socket)) if mistakes.is_empty() => Ok(run_config(data, socket, settings)),
        _ => Err(ConfigError(mistakes)),
    }
}

/// Every setting that has a value, and who said it, in the order of [`KEYS`].
///
/// # Errors
/// As [`load`].
pub fn show(flags: Settings, named: Option<&Path>, root: bool, env: Env<'_>) -> Result<Vec<Shown>, ConfigError> {
    load(flags.clone(), named, root, env)?;
    Ok(keys::shown(&Layers::gather(flags, named, root, env)))
}

/// Where the data and the socket are, for commands that only look for a node. Mistakes are `run`'s to report.
#[must_use]
pub fn find(root: bool, env: Env<'_>) -> Places {
    let (settings, _) = Layers::gather(Settings::default(), None, root, env).over_one_another();
    Places { data: settings.data, socket: settings.socket, config: conventional(root, env).config }
}

fn run_config(data: PathBuf, socket: PathBuf, settings: Settings) -> RunConfig {
    let gid = settings.socket_group.map(|group| group.gid);
    let mode = settings.socket_mode.unwrap_or(if gid.is_some() { 0o660 } else { 0o600 });
    RunConfig {
        data,
        force: settings.force.unwrap_or_default(),
        accept_loss: false,
        reserve_bytes: settings.limits.disk_reserve,
        socket: SocketConfig { path: socket, mode, gid },
        listen: settings.listen.unwrap_or_default(),
        peers: settings.peers.unwrap_or_default(),
        name: settings.name.unwrap_or_default(),
        mdns: settings.mdns.unwrap_or_default(),
        dial: settings.dial.unwrap_or(Dial::Any),
        limits: settings.limits,
        log: LogConfig {
            filter: settings.log_filter.unwrap_or_default(),
            format: settings.log_format.unwrap_or(LogFormat::Text),
        },
    }
}

fn from_file(named: Option<&Path>, default: Option<&Path>, mistakes: &mut Vec<String>) -> FileSettings {
    let Some(path) = named.or(default) else { return FileSettings::default() };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return FileSettings::default();
        }
        Err(error) => {
            mistakes.push(format!("cannot read {}: {error}", path.display()));
            return FileSettings::default();
        }
    };
    file::read(&text).unwrap_or_else(|found| {
        let show = |Mistake { line, column, what }| format!("{}:{line}:{column}: {what}", path.display());
        mistakes.extend(found.into_iter().map(show));
        FileSettings::default()
    })
}

#[cfg(test)]
mod tests;
