//! How a command ends: exit codes as sysexits has them, and the one place that turns other errors into them.

use std::process::ExitCode;

use tonic::{Code, Status};

use crate::config::ConfigError;
use crate::identity::IdentityError;
use crate::node::RunError;

/// The exit codes; part of the command line's contract.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed; doing the same again will fail again.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No node answers at the socket.
    NoNode = 69,
    /// Not yet: timed out, or full. Try again.
    NotYet = 75,
    /// Not permitted.
    NotPermitted = 77,
    /// The configuration or the data directory must be mended first.
    Configuration = 78,
    /// Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was told.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// A sentence for a person; empty when everything has been said.
    pub message: String,
}

impl Failure {
    /// A failure with a code of its own.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// A failure of the common kind.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        // A status with a source was made on this side: the connection broke, the node said nothing.
        if std::error::Error::source(&status).is_some() {
            return Self::new(
                Exit::NoNode,
                "the connection to the node broke: it has stopped or crashed; look at its log",
            );
        }
        let exit = match status.code() {
            Code::ResourceExhausted | Code::FailedPrecondition | Code::DeadlineExceeded => Exit::NotYet,
            Code::PermissionDenied | Code::Unauthenticated => Exit::NotPermitted,
            Code::Unavailable => Exit::NoNode,
            _ => Exit::Failed,
        };
        Self::new(exit, status.message())
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        Self::new(Exit::Configuration, error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Configuration, error.to_string())
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let known = [Exit::NoNode, Exit::NotYet, Exit::NotPermitted, Exit::Configuration];
        let exit = known.into_iter().find(|exit| *exit as u8 == error.code).unwrap_or(Exit::Failed);
        Self::new(exit, error.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_exit_code() {
        let exit = |status: Status| Failure::from(status).exit as u8;
        assert_eq!(exit(Status::invalid_argument("")), 1);
        assert_eq!(exit(Status::not_found("")), 1);
        assert_eq!(exit(Status::already_exists("")), 1);
        assert_eq!(exit(Status::unavailable("")), 69);
        assert_eq!(exit(Status::resource_exhausted("")), 75);
        assert_eq!(exit(Status::failed_precondition("")), 75);
        assert_eq!(exit(Status::permission_denied("")), 77);
        assert_eq!(Failure::from(RunError::configuration("x")).exit as u8, 78);
    }
}
