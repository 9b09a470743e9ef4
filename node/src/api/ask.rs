//! Questions with one answer: cancel, trace, status, peers, routes, invite.

use std::time::Duration;

use tonic::Status;
use waypost_core::engine::effect::Reply;
use waypost_core::engine::input::{Input, RequestId};

use super::refuse::{refused, stopping, unexpected};
use super::registry::push_later;
use super::{NodeInfo, convert, wire};
use crate::inputs::Inputs;

/// How long an invitation lasts when nobody said.
const INVITATION_MS: u64 = 24 * 60 * 60 * 1000;
/// Ids in one request to cancel, at most.
const CANCEL_IDS: usize = 4096;

/// Asks for messages to be ended.
///
/// # Errors
/// An id is malformed or unknown, there are too many, or the node is stopping.
pub async fn cancel(inputs: &Inputs, request: wire::CancelRequest) -> Result<wire::CancelResponse, Status> {
    if request.ids.len() > CANCEL_IDS {
        return Err(Status::invalid_argument(format!("at most {CANCEL_IDS} ids in one request: send several")));
    }
    let ids = request.ids.iter().map(|id| convert::message_id(id)).collect::<Result<Vec<_>, _>>()?;
    match ask(inputs, |request| Input::CancelAsked { request, ids }).await? {
        Reply::Cancelled(states) => {
            let outcome = |(id, state): (waypost_core::id::MessageId, String)| wire::cancel_response::Outcome {
                id: id.to_string(),
                state,
            };
            Ok(wire::CancelResponse { outcomes: states.into_iter().map(outcome).collect() })
        }
        _ => Err(unexpected()),
    }
}

/// One message's ladder, at once or when a level is reached. When the time is up it answers with what is known.
///
/// # Errors
/// The id is malformed or unknown, or the node is stopping.
pub async fn trace(inputs: &Inputs, asked: wire::TraceRequest) -> Result<wire::TraceResponse, Status> {
    let id = convert::message_id(&asked.id)?;
    let wait = convert::level(asked.wait)?;
    let (request, mut reply) = inputs.expect();
    let mut waiting = Waiting { inputs, request, answered: false };
    inputs.push(Input::TraceAsked { request, id, wait }).await.map_err(stopping)?;
    let answer = tokio::select! {
        reply = &mut reply => Some(reply),
        () = time_is_up(asked.timeout_ms) => None,
    };
    let answer = match answer {
        Some(answer) => answer,
        None => {
            inputs.push(Input::WaitEnded { request }).await.map_err(stopping)?;
            reply.await
        }
    };
    waiting.answered = true;
    match refusal(answer.map_err(stopping)?)? {
        Reply::Trace(trace) => Ok(convert::trace(*trace)),
        _ => Err(unexpected()),
    }
}

async fn time_is_up(timeout_ms: u64) {
    match timeout_ms {
        0 => std::future::pending().await,
        ms => tokio::time::sleep(Duration::from_millis(ms)).await,
    }
}

/// Tells the engine when the application leaves before its answer.
struct Waiting<'a> {
    inputs: &'a Inputs,
    request: RequestId,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            push_later(self.inputs, Input::WaitEnded { request: self.request });
        }
    }
}

/// How the node is.
///
/// # Errors
/// The node is stopping.
pub async fn status(inputs: &Inputs, info: &NodeInfo) -> Result<wire::StatusResponse, Status> {
    let Reply::Status(status) = ask(inputs, |request| Input::StatusAsked { request }).await? else {
        return Err(unexpected());
    };
    // Measuring reads the disk: it may take its time, but not a thread that others wait for.
    let measure = info.space.clone();
    let space = tokio::task::spawn_blocking(move || measure()).await.map_err(|_| unexpected())?;
    Ok(convert::status(*status, info, space))
}

/// The neighbours.
///
/// # Errors
/// The node is stopping.
pub async fn peers(inputs: &Inputs) -> Result<wire::PeersResponse, Status> {
    match ask(inputs, |request| Input::PeersAsked { request }).await? {
        Reply::Peers(peers) => Ok(wire::PeersResponse { peers: peers.into_iter().map(convert::peer).collect() }),
        _ => Err(unexpected()),
    }
}

/// The ways mail would go.
///
/// # Errors
/// The node asked for is malformed or unknown, or this one is stopping.
pub async fn routes(inputs: &Inputs, request: wire::RoutesRequest) -> Result<wire::RoutesResponse, Status> {
    let to = match request.node.as_str() {
        "" => None,
        node => Some(node.parse().map_err(|why| super::refuse::invalid(&why))?),
    };
    match ask(inputs, |request| Input::RoutesAsked { request, to }).await? {
        Reply::Routes(routes) => Ok(wire::RoutesResponse { routes: routes.into_iter().map(convert::route).collect() }),
        _ => Err(unexpected()),
    }
}

/// A token for a new host.
///
/// # Errors
/// This node cannot invite yet, or is stopping.
pub async fn invite(inputs: &Inputs, request: wire::InviteRequest) -> Result<wire::InviteResponse, Status> {
    let expires_in_ms = if request.expires_ms == 0 { INVITATION_MS } else { request.expires_ms };
    let once = request.once;
    match ask(inputs, |request| Input::InviteAsked { request, once, expires_in_ms }).await? {
        Reply::Invited { token, expires_at_ms } => Ok(wire::InviteResponse { token, expires_at_ms }),
        _ => Err(unexpected()),
    }
}

/// Asks the engine; a refusal becomes a status.
///
/// # Errors
/// The engine's refusal, or that the node is stopping.
pub async fn ask(inputs: &Inputs, make: impl FnOnce(RequestId) -> Input) -> Result<Reply, Status> {
    refusal(inputs.ask(make).await.map_err(stopping)?)
}

fn refusal(reply: Reply) -> Result<Reply, Status> {
    match reply {
        Reply::Refused(why) => Err(refused(&why)),
        answer => Ok(answer),
    }
}
