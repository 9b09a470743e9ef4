//! Waiting for what was sent to get as far as asked, and saying how it ended otherwise.

use std::time::{Duration, Instant};

use futures::StreamExt;

use super::Sent;
use crate::api::wire;
use crate::cli::Context;
use crate::cli::args::{SendArgs, WaitFor};
use crate::cli::connect::Client;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{exact, json};

/// Messages waited for at the same time.
const AT_ONCE: usize = 64;
/// States from which a message still goes on.
const UNDER_WAY: [&str; 3] = ["accepted", "held", "delivered"];

/// Waits for all of `sent`; prints them when JSON is wanted.
///
/// # Errors
/// A message ended otherwise, the time is up, or the node went away.
pub async fn wait(context: &Context, client: &Client, args: &SendArgs, sent: Vec<Sent>) -> Result<Exit, Failure> {
    let level = match args.wait {
        WaitFor::Accepted => return Ok(Exit::Done),
        WaitFor::Delivered => wire::Level::Delivered,
        WaitFor::Consumed => wire::Level::Consumed,
    };
    let deadline = args.timeout.map(|timeout| (timeout, Instant::now() + timeout));
    let ask = |sent: Sent| one(client.clone(), level, deadline, sent);
    let mut answers = futures::stream::iter(sent).map(ask).buffered(AT_ONCE);
    let mut worst = Ok(Exit::Done);
    while let Some(answer) = answers.next().await {
        let (sent, verdict) = answer?;
        if context.json {
            json(&sent)?;
        }
        worst = worse(worst, verdict);
    }
    worst
}

type Verdict = Result<Exit, Failure>;

async fn one(
    mut client: Client,
    level: wire::Level,
    deadline: Option<(Duration, Instant)>,
    sent: Sent,
) -> Result<(Sent, Verdict), Failure> {
    // Never 0, which would mean no limit: a deadline that has passed still asks once.
    let left = |at: Instant| {
        u64::try_from(at.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX).max(1)
    };
    let timeout_ms = deadline.map_or(0, |(_, at)| left(at));
    let request = wire::TraceRequest { id: sent.id.clone(), wait: level.into(), timeout_ms };
    let trace = client.trace(request).await?.into_inner();
    let verdict = judge(&trace, level, deadline.map(|(timeout, _)| timeout));
    Ok((Sent { state: trace.state, ..sent }, verdict))
}

fn judge(trace: &wire::TraceResponse, level: wire::Level, timeout: Option<Duration>) -> Verdict {
    let wanted = if level == wire::Level::Consumed { "consumed" } else { "delivered" };
    if trace.reached {
        Ok(Exit::Done)
    } else if trace.ended && !UNDER_WAY.contains(&trace.state.as_str()) {
        Err(Failure::failed(format!("message {} was not {wanted}: it ended {}", trace.id, trace.state)))
    } else {
        let within = timeout.map(|timeout| format!(" within {}", exact(timeout))).unwrap_or_default();
        let message = format!(
            "message {} is {}, not {wanted}{within}: the message stays and goes on by itself; see `waypost trace {}`",
            trace.id, trace.state, trace.id
        );
        Err(Failure::new(Exit::NotYet, message))
    }
}

/// A message that ended otherwise counts for more than one that only takes longer; the first of a kind is told.
fn worse(known: Verdict, next: Verdict) -> Verdict {
    match (known, next) {
        (Err(known), Err(next)) if known.exit == Exit::NotYet && next.exit == Exit::Failed => Err(next),
        (Err(known), _) => Err(known),
        (Ok(_), next) => next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(state: &str, reached: bool, ended: bool) -> u8 {
        let trace = wire::TraceResponse { state: state.into(), reached, ended, ..wire::TraceResponse::default() };
        match judge(&trace, wire::Level::Consumed, None) {
            Ok(exit) => exit as u8,
            Err(failure) => failure.exit as u8,
        }
    }

    #[test]
    fn an_ending_is_a_failure_and_a_timeout_is_not_yet() {
        assert_eq!(exit("consumed", true, true), 0);
        assert_eq!(exit("expired", false, true), 1);
        assert_eq!(exit("dead-lettered", false, true), 1);
        assert_eq!(exit("delivered", false, true), 75);
        assert_eq!(exit("held", false, false), 75);
    }
}
