//! A node: opens its parts, wires them, and takes them down again.

use crate::config::RunConfig;

/// Why a node ended or never began, with the exit code that says so.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RunError {
    /// As sysexits has them: 1 failed, 77 not permitted, 78 configuration.
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
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// It could not start, or had to stop.
pub async fn run(config: RunConfig) -> Result<(), RunError> {
    let _ = config;
    Err(RunError { code: 1, message: "this build has no engine yet".to_owned() })
}
