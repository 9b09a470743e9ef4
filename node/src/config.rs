//! What a node was told: `waypost.toml`, over it `WAYPOST_*`, over them the flags. Finds mistakes; starts nothing.

mod file;
mod places;
pub mod units;

use std::path::{Path, PathBuf};

use waypost_core::message::NodeName;
use waypost_core::policy::Policy;

pub use file::Mistake;
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
}

/// Everything `waypost run` needs to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunConfig {
    /// The data directory.
    pub data: PathBuf,
    /// Whether an unfit disk (tmpfs, overlay, NFS) is taken all the same.
    pub force: bool,
    /// The socket for applications.
    pub socket: PathBuf,
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

/// What one layer (file, environment, flags) says; `None`: nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "each is the optional form of a documented field of RunConfig")]
pub struct Settings {
    pub data: Option<PathBuf>,
    pub force: Option<bool>,
    pub socket: Option<PathBuf>,
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
    /// This layer, and where it says nothing the one below.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            data: self.data.or(below.data),
            force: self.force.or(below.force),
            socket: self.socket.or(below.socket),
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

/// Puts the layers together. `named` is a configuration file asked for by name: it must exist.
///
/// # Errors
/// Every mistake in the file and in the environment, or that there is no place for the data or the socket.
pub fn load(flags: Settings, named: Option<&Path>, root: bool, env: Env<'_>) -> Result<RunConfig, ConfigError> {
    let places = conventional(root, env);
    let named = named.map(Path::to_owned).or_else(|| env("WAYPOST_CONFIG").map(PathBuf::from));
    let mut mistakes = Vec::new();
    let file = from_file(named.as_deref(), places.config.as_deref(), &mut mistakes);
    let environment = from_env(env, &mut mistakes);
    let settings = flags.over(environment).over(file);
    let no_home = |what: &str| format!("there is no place for {what} because HOME is not set: say --{what}");
    let data = settings.data.clone().or(places.data);
    let socket = settings.socket.clone().or(places.socket);
    if data.is_none() {
        mistakes.push(no_home("data"));
    }
    if socket.is_none() {
        mistakes.push(no_home("socket"));
    }
    match (data, socket) {
        (Some(data), Some(socket)) if mistakes.is_empty() => Ok(run_config(data, socket, settings)),
        _ => Err(ConfigError(mistakes)),
    }
}

/// Where the data and the socket are, for commands that only look for a node. Mistakes are `run`'s to report.
#[must_use]
pub fn find(root: bool, env: Env<'_>) -> Places {
    let places = conventional(root, env);
    let named = env("WAYPOST_CONFIG").map(PathBuf::from);
    let mut ignored = Vec::new();
    let file = from_file(named.as_deref(), places.config.as_deref(), &mut ignored);
    let settings = from_env(env, &mut ignored).over(file);
    Places { data: settings.data.or(places.data), socket: settings.socket.or(places.socket), ..places }
}

fn run_config(data: PathBuf, socket: PathBuf, settings: Settings) -> RunConfig {
    RunConfig {
        data,
        force: settings.force.unwrap_or(false),
        socket,
        listen: settings.listen.unwrap_or_else(|| LISTEN.map(str::to_owned).to_vec()),
        peers: settings.peers.unwrap_or_default(),
        name: settings.name.unwrap_or_default(),
        mdns: settings.mdns.unwrap_or(true),
        dial: settings.dial.unwrap_or(Dial::Any),
        limits: settings.limits,
        log: LogConfig {
            filter: settings.log_filter.unwrap_or_else(|| "info".to_owned()),
            format: settings.log_format.unwrap_or(LogFormat::Text),
        },
    }
}

fn from_file(named: Option<&Path>, default: Option<&Path>, mistakes: &mut Vec<String>) -> Settings {
    let Some(path) = named.or(default) else { return Settings::default() };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Settings::default(),
        Err(error) => {
            mistakes.push(format!("cannot read {}: {error}", path.display()));
            return Settings::default();
        }
    };
    file::read(&text).unwrap_or_else(|found| {
        let show = |Mistake { line, column, what }| format!("{}:{line}:{column}: {what}", path.display());
        mistakes.extend(found.into_iter().map(show));
        Settings::default()
    })
}

fn from_env(env: Env<'_>, mistakes: &mut Vec<String>) -> Settings {
    let mut reader = EnvReader { env, mistakes };
    Settings {
        data: reader.text("WAYPOST_DATA").map(Into::into),
        force: reader.checked("WAYPOST_FORCE", truth),
        socket: reader.text("WAYPOST_SOCKET").map(Into::into),
        listen: reader.list("WAYPOST_LISTEN"),
        peers: reader.list("WAYPOST_PEERS"),
        name: reader.checked("WAYPOST_NAME", node_name),
        mdns: reader.checked("WAYPOST_MDNS", truth),
        dial: reader.checked("WAYPOST_DIAL", dial),
        limits: Limits {
            outbox_bytes: reader.checked("WAYPOST_OUTBOX_BYTES", units::bytes),
            outbox_messages: reader.checked("WAYPOST_OUTBOX_MESSAGES", units::bytes),
            inbox_bytes: reader.checked("WAYPOST_INBOX_BYTES", units::bytes),
            transit_bytes: reader.checked("WAYPOST_TRANSIT_BYTES", units::bytes),
        },
        log_filter: reader.text("WAYPOST_LOG"),
        log_format: reader.checked("WAYPOST_LOG_FORMAT", log_format),
    }
}

struct EnvReader<'a> {
    env: Env<'a>,
    mistakes: &'a mut Vec<String>,
}

impl EnvReader<'_> {
    /// An empty variable says nothing: that is how one is unset in a unit file.
    fn text(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    fn checked<T>(&mut self, name: &str, check: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let value = self.text(name)?;
        check(&value).map_err(|what| self.mistakes.push(format!("{name}: {what}"))).ok()
    }

    fn list(&mut self, name: &str) -> Option<Vec<String>> {
        let items = |value: &str| {
            let separator = |c: char| c == ',' || c.is_whitespace();
            value.split(separator).filter(|item| !item.is_empty()).map(multiaddr).collect()
        };
        self.checked(name, items)
    }
}

/// A node's name.
///
/// # Errors
/// What a name looks like.
pub fn node_name(text: &str) -> Result<String, String> {
    text.parse::<NodeName>().map(|name| name.as_str().to_owned()).map_err(|why| why.to_string())
}

/// `known` or `any`.
///
/// # Errors
/// That it is neither.
pub fn dial(text: &str) -> Result<Dial, String> {
    match text {
        "known" => Ok(Dial::Known),
        "any" => Ok(Dial::Any),
        _ => Err(format!("{text:?} is not a way to dial: use \"known\" or \"any\"")),
    }
}

/// Something that looks like a multiaddr; the network reads it exactly.
///
/// # Errors
/// What one looks like.
pub fn multiaddr(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.split('/').count() >= 3 {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not an address: one looks like /ip4/192.0.2.1/udp/4884/quic-v1"))
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is not a log format: use \"text\" or \"json\"")),
    }
}

fn truth(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(format!("{text:?} is neither \"true\" nor \"false\"")),
    }
}

#[cfg(test)]
mod tests;
