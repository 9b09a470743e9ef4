//! Dead letters: listed page by page, retried or dropped by their places.

use tonic::Status;
use waypost_core::engine::effect::{DeadLetter, Reply};
use waypost_core::engine::input::Input;
use waypost_core::store::tables::QueueKey;

use super::ask::ask;
use super::refuse::{invalid, unexpected};
use super::{convert, wire};
use crate::inputs::Inputs;

/// Letters in one request at most.
const LETTERS: usize = 4096;

/// A page of dead letters.
///
/// # Errors
/// The channel or the place is malformed, or the node is stopping.
pub async fn list(inputs: &Inputs, asked: wire::DeadLettersRequest) -> Result<wire::DeadLettersResponse, Status> {
    let channel = match asked.channel.as_str() {
        "" => None,
        name => Some(name.parse().map_err(|why| invalid(&why))?),
    };
    let after = if asked.after.is_empty() { None } else { Some(place(&asked.after)?) };
    match ask(inputs, |request| Input::DeadAsked { request, channel, after }).await? {
        Reply::Dead { letters, next } => Ok(wire::DeadLettersResponse {
            letters: letters.into_iter().map(letter).collect(),
            next: next.map(shown).unwrap_or_default(),
        }),
        _ => Err(unexpected()),
    }
}

/// Retries or drops.
///
/// # Errors
/// An id or a place is malformed, there are too many, or the node is stopping.
pub async fn settle(
    inputs: &Inputs,
    asked: wire::SettleDeadLettersRequest,
) -> Result<wire::SettleDeadLettersResponse, Status> {
    if asked.letters.len() > LETTERS {
        return Err(Status::invalid_argument(format!("at most {LETTERS} letters in one request: send several")));
    }
    let named = |letter: &wire::settle_dead_letters_request::Letter| {
        Ok((place(&letter.place)?, convert::message_id(&letter.id)?))
    };
    let letters = asked.letters.iter().map(named).collect::<Result<Vec<_>, Status>>()?;
    let is_retried = asked.retry;
    match ask(inputs, |request| Input::DeadSettled { request, letters, is_retried }).await? {
        Reply::DeadSettled(ids) => {
            Ok(wire::SettleDeadLettersResponse { ids: ids.iter().map(ToString::to_string).collect() })
        }
        _ => Err(unexpected()),
    }
}

fn letter(letter: DeadLetter) -> wire::DeadLetter {
    wire::DeadLetter {
        id: letter.id.to_string(),
        channel: letter.channel,
        from: letter.from.to_string(),
        reason: letter.reason,
        deliveries: letter.deliveries,
        died_at_ms: letter.died_at_ms,
        size: letter.size,
        place: shown(letter.place),
    }
}

fn shown((channel, class, arrival): QueueKey) -> String {
    format!("{channel}.{class}.{arrival}")
}

fn place(text: &str) -> Result<QueueKey, Status> {
    let malformed =
        || Status::invalid_argument(format!("{text:?} is not the place of a dead letter: take it from a list"));
    let parts: Vec<&str> = text.split('.').collect();
    let [channel, class, arrival] = parts.as_slice() else { return Err(malformed()) };
    match (channel.parse(), class.parse(), arrival.parse::<u64>()) {
        (Ok(channel), Ok(class), Ok(arrival)) if arrival < u64::MAX => Ok((channel, class, arrival)),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_shown() {
        assert_eq!(place(&shown((7, 2, 99))).unwrap(), (7, 2, 99));
        for wrong in ["", "1.2", "1.2.3.4", "1.300.3", "a.1.2", "1.1.18446744073709551615"] {
            assert_eq!(place(wrong).unwrap_err().code(), tonic::Code::InvalidArgument, "{wrong}");
        }
    }
}
