//! `run`: from flags to a running node.

use std::path::PathBuf;

use super::args::RunArgs;
use super::exit::{Exit, Failure};
use super::{is_root, variable};
use crate::config::{self, RunConfig, Settings};
use crate::{log, node};

/// Runs the node in the foreground until it is told to stop.
///
/// # Errors
/// The configuration is wrong, or the node could not start or had to stop.
pub async fn run(args: RunArgs, socket: Option<PathBuf>) -> Result<Exit, Failure> {
    let named = args.config.clone();
    let accept_loss = args.accept_loss;
    let config = config::load(settings(args, socket), named.as_deref(), is_root(), &variable)?;
    log::start(&config.log).map_err(|error| Failure::new(Exit::Configuration, error.to_string()))?;
    node::run(RunConfig { accept_loss, ..config }).await?;
    Ok(Exit::Done)
}

fn settings(args: RunArgs, socket: Option<PathBuf>) -> Settings {
    let some = |list: Vec<String>| Some(list).filter(|list| !list.is_empty());
    Settings {
        data: args.data,
        force: args.force.then_some(true),
        socket,
        listen: some(args.listen),
        peers: some(args.peer),
        name: args.name,
        mdns: args.no_mdns.then_some(false),
        dial: args.dial,
        log_filter: args.log,
        log_format: args.log_format,
        ..Settings::default()
    }
}
