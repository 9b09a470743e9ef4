//! What is written to standard error while a node runs: one line an event, the keys of `ARCHITECTURE.md` everywhere.
//! Libraries that speak of every packet are kept quiet.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};

/// Said before what the owner says, so that the owner can still ask for more of each.
const QUIET: &str = "libp2p=error,libp2p_mdns=error,libp2p_swarm=error,multistream_select=error,yamux=error,h2=warn,hyper=warn,\
     tonic=warn,tower=warn,quinn=warn,netlink=warn,hickory=warn";

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error(
        "the log filter {filter:?} cannot be read: {source}; use a level as in \"debug\", or \"waypost=debug,info\""
    )]
    Filter {
        /// What was said.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody else in this process has set one up.
    #[error("the log is set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts the log of this process.
///
/// # Errors
/// The filter cannot be read, or there is a log already.
pub fn start(config: &LogConfig) -> Result<(), LogError> {
    let filter = filter(&config.filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => {
            let colours =
                std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colours).with_target(false).finish().try_init()?;
        }
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

fn filter(said: &str) -> Result<EnvFilter, LogError> {
    let source = |source| LogError::Filter { filter: said.to_owned(), source };
    EnvFilter::try_new(format!("{QUIET},{said}")).map_err(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_until_asked() {
        assert!(filter("debug").unwrap().to_string().contains("libp2p=error"));
        assert!(filter("libp2p=trace").unwrap().to_string().contains("libp2p=trace"));
        assert!(filter("waypost=loudly").is_err());
    }
}
