//! Refusals in the API's words: which status code, which trailer. The sentences are the refusals' own.

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use waypost_core::engine::effect::Refusal;
use waypost_core::message::Invalid;

use crate::inputs::Stopped;

/// The trailer that says when to try again, in milliseconds.
pub const RETRY_AFTER: &str = "retry-after-ms";

/// When to ask again for a name that no node met so far has.
const UNTIL_NODES_MEET_MS: u64 = 500;

/// The status for a refusal, as `waypost.proto` documents them.
#[must_use]
pub fn refused(refusal: &Refusal) -> Status {
    let mut status = Status::new(code(refusal), refusal.to_string());
    let retry_after_ms = match refusal {
        Refusal::OutboxFull { retry_after_ms, .. }
        | Refusal::DiskFull { retry_after_ms, .. }
        | Refusal::TooMany { retry_after_ms, .. } => *retry_after_ms,
        Refusal::UnknownName(_) => UNTIL_NODES_MEET_MS,
        _ => return status,
    };
    status.metadata_mut().insert(RETRY_AFTER, MetadataValue::from(retry_after_ms));
    status
}

fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::Invalid(_) | Refusal::AmbiguousName { .. } | Refusal::BadKey(_) | Refusal::LargerThanOutbox { .. } => {
            Code::InvalidArgument
        }
        Refusal::UnknownMessage(_) => Code::NotFound,
        Refusal::OutboxFull { .. } | Refusal::DiskFull { .. } | Refusal::TooMany { .. } => Code::ResourceExhausted,
        Refusal::KeyReused(_) => Code::AlreadyExists,
        Refusal::NotAdmitted | Refusal::UnknownName(_) => Code::FailedPrecondition,
        Refusal::StreamEnded => Code::Aborted,
    }
}

/// A request that breaks a limit.
#[must_use]
pub fn invalid(why: &Invalid) -> Status {
    Status::invalid_argument(why.to_string())
}

/// The engine has stopped; nobody knows what became of the request.
#[must_use]
pub fn stopping(_: Stopped) -> Status {
    Status::unavailable(
        "the node is stopping; whether it still did this is unknown: ask again when it runs, a Send with the same idempotency key",
    )
}

/// The engine gave an answer that does not belong to the question.
#[must_use]
pub fn unexpected() -> Status {
    Status::internal("the node gave an answer to another question: this is a bug, please report it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_outbox_says_when_to_come_again() {
        let status = refused(&Refusal::OutboxFull { used: 9, limit: 8, unit: "bytes", retry_after_ms: 250 });
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get(RETRY_AFTER).unwrap(), "250");
        assert!(status.message().contains("retry after 250 ms"));
    }

    /// DISK-3: a program is told that the disk is full, and when to come again.
    #[test]
    fn a_full_disk_says_when_to_come_again() {
        let status = refused(&Refusal::DiskFull { free: 9, reserve: 10, retry_after_ms: 5000 });
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get(RETRY_AFTER).unwrap(), "5000");
    }

    #[test]
    fn what_cannot_be_is_told_from_what_is_not_known() {
        let code = |refusal| refused(&refusal).code();
        assert_eq!(code(Refusal::Invalid(Invalid::Lifetime(0))), Code::InvalidArgument);
        assert_eq!(code(Refusal::UnknownName("x".into())), Code::FailedPrecondition);
        assert_eq!(code(Refusal::KeyReused("x".into())), Code::AlreadyExists);
        assert_eq!(code(Refusal::LargerThanOutbox { amount: 2, limit: 1, unit: "bytes" }), Code::InvalidArgument);
        assert_eq!(code(Refusal::NotAdmitted), Code::FailedPrecondition);
    }
}
