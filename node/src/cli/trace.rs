//! `trace` and `cancel`: one message's ladder and custody log, and its end before delivery.

use serde::Serialize;

use super::Context;
use super::args::{CancelArgs, TraceArgs};
use super::connect::connect;
use super::exit::{Exit, Failure};
use super::output::{absent, json, line, local, table, utc};
use crate::api::wire;

#[derive(Serialize)]
struct Step {
    state: String,
    at: String,
    #[serde(skip_serializing_if = "absent")]
    by: String,
}

#[derive(Serialize)]
struct Event {
    node: String,
    event: String,
    at: String,
    #[serde(skip_serializing_if = "absent")]
    peer: String,
}

#[derive(Serialize)]
struct Trace {
    id: String,
    from: String,
    to: String,
    channel: String,
    class: &'static str,
    state: String,
    ladder: Vec<Step>,
    custody: Vec<Event>,
}

#[derive(Serialize)]
struct Outcome {
    id: String,
    state: String,
}

/// Shows where a message is and was.
///
/// # Errors
/// The message is unknown, or no node answers.
pub async fn trace(context: &Context, args: TraceArgs) -> Result<Exit, Failure> {
    let request = wire::TraceRequest { id: args.id, ..wire::TraceRequest::default() };
    let answer = connect(context).await?.trace(request).await?.into_inner();
    if context.json {
        json(&Trace::from(answer))?;
    } else {
        show(&answer)?;
    }
    Ok(Exit::Done)
}

impl From<wire::TraceResponse> for Trace {
    fn from(trace: wire::TraceResponse) -> Self {
        let class = class_name(trace.class());
        let step = |step: wire::Step| Step { state: step.state, at: utc(step.at_ms), by: step.by };
        let event = |event: wire::CustodyEvent| Event {
            node: event.node,
            event: event.event,
            at: utc(event.at_ms),
            peer: event.peer,
        };
        Self {
            id: trace.id,
            from: trace.from,
            to: trace.to,
            channel: trace.channel,
            class,
            state: trace.state,
            ladder: trace.ladder.into_iter().map(step).collect(),
            custody: trace.custody.into_iter().map(event).collect(),
        }
    }
}

fn class_name(class: wire::Class) -> &'static str {
    match class {
        wire::Class::Urgent => "urgent",
        wire::Class::Unspecified | wire::Class::Normal => "normal",
        wire::Class::Bulk => "bulk",
    }
}

fn show(trace: &wire::TraceResponse) -> Result<(), Failure> {
    line(&format!("message  {}  {}", trace.id, class_name(trace.class())))?;
    line(&format!("from     {}", trace.from))?;
    line(&format!("to       {}@{}", trace.channel, trace.to))?;
    line(&format!("state    {}", trace.state))?;
    line("ladder")?;
    let step = |step: &wire::Step| {
        let by = if step.by.is_empty() { String::new() } else { format!("by {}", step.by) };
        vec![format!("  {}", local(step.at_ms)), step.state.clone(), by]
    };
    table(&trace.ladder.iter().map(step).collect::<Vec<_>>())?;
    if trace.custody.is_empty() {
        return Ok(());
    }
    line("custody")?;
    let event = |event: &wire::CustodyEvent| {
        let what = format!("{} {}", event.event, event.peer);
        vec![format!("  {}", local(event.at_ms)), event.node.clone(), what]
    };
    table(&trace.custody.iter().map(event).collect::<Vec<_>>())
}

/// Asks for messages to be ended before delivery, and says what they are then.
///
/// # Errors
/// A message is unknown or has ended otherwise, or no node answers.
pub async fn cancel(context: &Context, args: CancelArgs) -> Result<Exit, Failure> {
    let request = wire::CancelRequest { ids: args.ids };
    let answer = connect(context).await?.cancel(request).await?.into_inner();
    let mut first = None;
    for wire::cancel_response::Outcome { id, state } in answer.outcomes {
        first = first.or_else(|| otherwise(&id, &state));
        if context.json {
            json(&Outcome { id, state })?;
        } else {
            line(&format!("{id}  {state}"))?;
        }
    }
    first.map_or(Ok(Exit::Done), |why| Err(Failure::failed(why)))
}

/// What became of a message that was not cancelled, in words.
fn otherwise(id: &str, state: &str) -> Option<String> {
    match state.split(':').next().unwrap_or(state) {
        "cancelled" => None,
        "delivered" | "consumed" | "refused" | "dead-lettered" => {
            Some(format!("message {id} is {state}: what the destination has signed for cannot be taken back"))
        }
        _ => Some(format!("message {id} had ended before: {state}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_cancelled_was_cancelled() {
        assert_eq!(otherwise("i", "cancelled"), None);
        for state in ["delivered", "dead-lettered: delivered too often", "refused: refused by the application"] {
            assert!(otherwise("i", state).unwrap().contains("cannot be taken back"), "{state}");
        }
        for state in ["expired", "rejected: too large for the inbox", "damaged: outcome unknown"] {
            assert!(otherwise("i", state).unwrap().contains("had ended before"), "{state}");
        }
    }

    #[test]
    fn what_is_absent_has_no_key() {
        let step = |by: &str| wire::Step { state: "accepted".into(), at_ms: 0, by: by.into() };
        let trace = wire::TraceResponse {
            id: "i".into(),
            from: "f".into(),
            to: "t".into(),
            channel: "c".into(),
            state: "accepted".into(),
            ladder: vec![step(""), step("n")],
            ..wire::TraceResponse::default()
        };
        let text = serde_json::to_string(&Trace::from(trace)).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"id":"i","from":"f","to":"t","channel":"c","class":"normal","state":"accepted","#,
                r#""ladder":[{"state":"accepted","at":"1970-01-01T00:00:00.000Z"},"#,
                r#"{"state":"accepted","at":"1970-01-01T00:00:00.000Z","by":"n"}],"custody":[]}"#
            )
        );
    }
}
