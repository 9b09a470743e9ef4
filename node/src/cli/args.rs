//! Every command, flag and value of the command line, read and checked; carries nothing out.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use waypost_core::id::MessageId;
use waypost_core::limits;
use waypost_core::message::{ChannelName, Recipient};

use crate::config::{self, Dial, LogFormat, units};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 69 no node at the socket, 75 not yet (timed out, full: \
                          try again), 77 not permitted, 78 configuration, 130 interrupted.\n\
                          Durations: a whole number with ms, s, m, h or d, as in 90s or 14d.";

/// A post office on every host: hand a message to the node on this machine and forget it.
#[derive(Parser, Debug)]
#[command(name = "waypost", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// The node's socket [env: WAYPOST_SOCKET]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print one JSON object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the node in the foreground
    Run(RunArgs),
    /// Check or show the node's configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print this node's address
    Id(IdArgs),
    /// Print how the node is
    Status,
    /// List the neighbours
    Peers,
    /// List which way mail would go
    Routes(RoutesArgs),
    /// Print a token that admits a new host to this network
    Invite(InviteArgs),
    /// Prepare this host for its first run in somebody's network
    Join(JoinArgs),
    /// Send messages; print one id a line once accepted
    Send(Box<SendArgs>),
    /// Receive messages from a channel
    Recv(RecvArgs),
    /// End messages before delivery; what has left may still arrive, and trace says so. 1 when one was delivered, had
    /// ended otherwise, or is unknown
    Cancel(CancelArgs),
    /// Show where a message is and was, until 7 days after it ended
    Trace(TraceArgs),
    /// List, retry or drop messages that no consumer could do anything with
    #[command(subcommand)]
    Dead(DeadCommand),
}

/// `dead`
#[derive(Subcommand, Debug)]
pub enum DeadCommand {
    /// List them and why they died
    List(DeadListArgs),
    /// Hand them out once more in the channel they were for
    Retry(DeadRetryArgs),
    /// Let them go for good
    Drop(DeadDropArgs),
}

/// `dead list`
#[derive(Args, Debug)]
pub struct DeadListArgs {
    /// Only those that were for this channel
    #[arg(value_parser = ChannelName::from_str)]
    pub channel: Option<ChannelName>,
}

/// `dead retry`
#[derive(Args, Debug)]
pub struct DeadRetryArgs {
    /// Which
    #[arg(required_unless_present = "all", value_name = "ID", value_parser = message_id)]
    pub ids: Vec<String>,
    /// All there are now
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
}

/// `dead drop`
#[derive(Args, Debug)]
pub struct DeadDropArgs {
    /// Which
    #[arg(required = true, value_name = "ID", value_parser = message_id)]
    pub ids: Vec<String>,
}

/// `run`
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Configuration file; it must exist
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Data directory
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Listen at this multiaddr; may be given several times
    #[arg(long, value_name = "ADDR", value_parser = config::listen_address)]
    pub listen: Vec<String>,
    /// Dial this multiaddr; may be given several times
    #[arg(long, value_name = "ADDR", value_parser = config::peer_address)]
    pub peer: Vec<String>,
    /// This node's name in the directory
    #[arg(long, value_parser = config::node_name)]
    pub name: Option<String>,
    /// Neither look for neighbours on the local network nor be found there
    #[arg(long)]
    pub no_mdns: bool,
    /// Whom to dial: `known` never dials an address learned from others
    #[arg(long, value_name = "known|any", value_parser = config::dial)]
    pub dial: Option<Dial>,
    /// Use a data directory on tmpfs, overlay or a network file system all the same
    #[arg(long)]
    pub force: bool,
    /// Go on with an empty store where the old one is gone or does not open; what is left of it is set aside
    #[arg(long)]
    pub accept_loss: bool,
    /// What the log shows: error, warn, info, debug or trace, or more exactly as in `waypost=debug,info`
    #[arg(long, value_name = "LEVEL", value_parser = config::log_filter)]
    pub log: Option<String>,
    /// How log lines look: `text` for people, `json` for programs
    #[arg(long, value_name = "text|json", value_parser = config::log_format)]
    pub log_format: Option<LogFormat>,
}

/// `config`
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Print ok, or every mistake in the file and in WAYPOST_* (exit code 78)
    Check(ConfigArgs),
    /// Print every setting that holds and who said it; the output is itself a configuration file
    Show(ConfigArgs),
}

/// `config check`, `config show`
#[derive(Args, Debug)]
pub struct ConfigArgs {
    /// The file `run` would be given with --config [default: the one it would find itself]
    pub file: Option<PathBuf>,
    /// The same, as `run` takes it
    #[arg(long = "config", value_name = "FILE", conflicts_with = "file")]
    pub config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The file, either way it was named.
    pub fn path(&self) -> Option<&Path> {
        self.file.as_deref().or(self.config.as_deref())
    }
}

/// `id`
#[derive(Args, Debug)]
pub struct IdArgs {
    /// Read the key in this data directory instead of asking the node
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// `routes`
#[derive(Args, Debug)]
pub struct RoutesArgs {
    /// Only to this node
    #[arg(long, value_name = "NODE", value_parser = recipient)]
    pub to: Option<String>,
    /// Only show where a message would go (this command never sends anything)
    #[arg(long)]
    pub dry_run: bool,
}

/// `invite`
#[derive(Args, Debug)]
pub struct InviteArgs {
    /// Good for one host only
    #[arg(long)]
    pub once: bool,
    /// How long it can be used
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = some_time)]
    pub expires: Duration,
}

/// `join`
#[derive(Args, Debug)]
pub struct JoinArgs {
    /// The token, or - to read it from standard input
    pub token: String,
    /// Data directory
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// `send`
#[derive(Args, Debug)]
pub struct SendArgs {
    /// CHANNEL@NODE; NODE is an address or a name
    pub to: Destination,
    /// Files, one message each; - is standard input, as is none
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// One message a line of the input, without its newline
    #[arg(long)]
    pub lines: bool,
    /// Wait until the messages are this far
    #[arg(long, value_enum, default_value_t = WaitFor::Accepted)]
    pub wait: WaitFor,
    /// Wait no longer than this; the messages stay (exit code 75)
    #[arg(long, value_name = "DURATION", value_parser = some_time)]
    pub timeout: Option<Duration>,
    /// From acceptance, or from when it is due with --in, to expiry [default: 14d]
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    pub ttl: Option<Duration>,
    /// How urgent
    #[arg(long, value_enum, default_value_t = ClassName::Normal)]
    pub class: ClassName,
    /// Messages to one channel with the same key arrive in order
    #[arg(long)]
    pub key: Option<String>,
    /// A header; may be given several times
    #[arg(long = "header", value_name = "K=V", value_parser = header)]
    pub headers: Vec<(String, String)>,
    /// Accept now, send after this time
    #[arg(long = "in", value_name = "DURATION", value_parser = units::duration)]
    pub delay: Option<Duration>,
    /// The same key with the same message is sent once, until 7 days after it ended; several messages get KEY/1, KEY/2, …
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// `recv`
#[derive(Args, Debug)]
pub struct RecvArgs {
    /// From which channel of this node
    #[arg(value_parser = ChannelName::from_str)]
    pub channel: ChannelName,
    /// End after so many messages [default: 1, or never with --follow]
    #[arg(short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Go on for ever
    #[arg(long)]
    pub follow: bool,
    /// End when no message has come for so long (exit code 75, 0 with --follow)
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub timeout: Option<Duration>,
    /// Run `sh -c CMD` for each message, its body on standard input, its headers in WAYPOST_*; done when it ends with 0
    #[arg(long, value_name = "CMD", conflicts_with_all = ["out", "raw"])]
    pub exec: Option<String>,
    /// Write each message into a file in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "raw")]
    pub out: Option<PathBuf>,
    /// Dead-letter a message after so many deliveries
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_deliveries: Option<u32>,
    /// Print bodies without anything between them
    #[arg(long, conflicts_with = "json")]
    pub raw: bool,
}

/// `cancel`
#[derive(Args, Debug)]
pub struct CancelArgs {
    /// Which messages
    #[arg(required = true, value_name = "ID", value_parser = message_id)]
    pub ids: Vec<String>,
}

/// `trace`
#[derive(Args, Debug)]
pub struct TraceArgs {
    /// Which message
    #[arg(value_parser = message_id)]
    pub id: String,
}

/// How far to wait.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    /// Safe in this node's log
    Accepted,
    /// Signed for by the destination
    Delivered,
    /// Acknowledged by an application there
    Consumed,
}

/// How urgent.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClassName {
    /// Overtakes everything else
    Urgent,
    /// The default
    Normal,
    /// Yields to everything else
    Bulk,
}

/// `CHANNEL@NODE`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destination {
    /// The channel.
    pub channel: ChannelName,
    /// The node, as it was written.
    pub node: String,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((channel, node)) = text.split_once('@') else {
            return Err(format!("{text:?} is not CHANNEL@NODE, as in jobs@12D3KooW… or jobs@harbour"));
        };
        let channel = channel.parse().map_err(|why: waypost_core::message::Invalid| why.to_string())?;
        Ok(Self { channel, node: recipient(node)? })
    }
}

fn recipient(text: &str) -> Result<String, String> {
    text.parse::<Recipient>().map(|_| text.to_owned()).map_err(|why| why.to_string())
}

fn message_id(text: &str) -> Result<String, String> {
    let malformed = |_| format!("{text:?} is not a message id: one looks like 0192d7a0-… (36 characters)");
    text.parse::<MessageId>().map(|id| id.to_string()).map_err(malformed)
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not K=V, as in kind=invoice")),
    }
}

fn some_time(text: &str) -> Result<Duration, String> {
    match units::duration(text)? {
        Duration::ZERO => Err("no time at all is too short: use at least 1ms".to_owned()),
        some => Ok(some),
    }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = some_time(text)?;
    if lifetime.as_millis() <= u128::from(limits::LIFETIME_MAX_MS) {
        Ok(lifetime)
    } else {
        Err(format!("{text} is too long: a message lives for 365d at most"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in ["waypost --json --socket /s status", "waypost status --json --socket /s"] {
            let cli = parse(line).unwrap();
            assert!(cli.json && cli.socket == Some("/s".into()), "{line}");
        }
    }

    #[test]
    fn destinations_are_checked_before_anything_is_sent() {
        assert!(parse("waypost send jobs@harbour").is_ok());
        assert!(parse("waypost send jobs@harbour - a.txt").is_ok());
        for wrong in ["jobs", "jobs@", "@harbour", "jo/bs@harbour", "jobs@any", "jobs@a@b"] {
            let error = parse(&format!("waypost send {wrong}")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn impossible_values_are_usage_errors() {
        for wrong in [
            "waypost recv jobs -n 0",
            "waypost recv .jobs",
            "waypost recv jobs --timeout 5",
            "waypost send a@b --ttl 366d",
            "waypost send a@b --ttl 0s",
            "waypost send a@b --header x",
            "waypost trace 17",
            "waypost run --dial everybody",
            "waypost run --name any",
        ] {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
