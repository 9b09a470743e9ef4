//! The command line: what may be said, and which file carries it out. Data on standard output, talk on standard error.

mod args;
mod config;
mod connect;
mod dead;
mod exit;
mod id;
mod join;
mod lists;
mod output;
mod progress;
mod recv;
mod run;
mod send;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::config::Places;
use args::{Cli, Command};
use exit::{Exit, Failure};

/// What every command can reach.
struct Context {
    /// As said, or where this user's node is by convention.
    socket: Option<PathBuf>,
    /// The socket as `--socket` names it.
    socket_flag: Option<PathBuf>,
    /// Whether the user named the socket, there or in the environment.
    socket_named: bool,
    /// The data directory by convention or configuration.
    data: Option<PathBuf>,
    /// One object a line.
    json: bool,
}

impl Context {
    fn of(cli: &Cli) -> Self {
        let Places { data, socket, .. } = crate::config::find(is_root(), &variable);
        let socket_flag = cli.socket.clone();
        let in_environment = variable("WAYPOST_SOCKET").is_some_and(|path| !path.is_empty());
        let socket_named = socket_flag.is_some() || in_environment;
        Self { socket: socket_flag.clone().or(socket), socket_flag, socket_named, data, json: cli.json }
    }

    fn data(&self, named: Option<PathBuf>) -> Result<PathBuf, Failure> {
        let nowhere =
            || Failure::new(Exit::Configuration, "there is no place for the data because HOME is not set: say --data");
        named.or_else(|| self.data.clone()).ok_or_else(nowhere)
    }
}

/// Runs the process's command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(said) if said.use_stderr() => {
            let asks_json = std::env::args_os().skip(1).take_while(|word| word != "--").any(|word| word == "--json");
            if asks_json {
                output::error_json(&Failure::new(Exit::Usage, said.render().to_string().trim_end()));
            } else {
                let _ = said.print();
            }
            return Exit::Usage.into();
        }
        Err(said) => {
            let _ = said.print();
            return Exit::Done.into();
        }
    };
    let is_json = cli.json;
    match carry_out(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            match failure.message.as_str() {
                "" => {}
                _ if is_json => output::error_json(&failure),
                message => eprintln!("waypost: {message}"),
            }
            failure.exit.into()
        }
    }
}

fn carry_out(cli: Cli) -> Result<Exit, Failure> {
    let context = Context::of(&cli);
    let runtime = runtime(&cli.command)?;
    let is_node = matches!(cli.command, Command::Run(_));
    let done = dispatch(&context, cli.command);
    // A node has its own way to end.
    let exit = if is_node { runtime.block_on(done) } else { runtime.block_on(until_interrupted(done)) };
    // A read of standard input that nobody answers must not keep the process.
    runtime.shutdown_background();
    exit
}

/// A node needs threads; a command that talks to one starts faster without.
fn runtime(command: &Command) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = match command {
        Command::Run(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().build().map_err(|error| Failure::failed(format!("cannot start: {error}")))
}

async fn dispatch(context: &Context, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Run(args) => run::run(args, context.socket_flag.clone()).await,
        Command::Config(command) => config::config(context, command),
        Command::Id(args) => id::id(context, args).await,
        Command::Status => lists::status(context).await,
        Command::Peers => lists::peers(context).await,
        Command::Routes(args) => lists::routes(context, args).await,
        Command::Invite(args) => lists::invite(context, args).await,
        Command::Join(args) => join::join(context, args),
        Command::Send(args) => send::send(context, *args).await,
        Command::Recv(args) => recv::recv(context, args).await,
        Command::Cancel(args) => trace::cancel(context, args).await,
        Command::Dead(command) => dead::dead(context, command).await,
        Command::Trace(args) => trace::trace(context, args).await,
    }
}

async fn until_interrupted(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    tokio::select! {
        done = command => done,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Unix milliseconds by this host's clock.
fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
