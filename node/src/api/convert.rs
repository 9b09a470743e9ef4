//! Between the API's messages and the engine's: checks what comes in, shapes what goes out, decides nothing.

use tonic::Status;
use waypost_core::engine::effect::{Accepted, CustodyEvent, Delivery, Peer, Route, Rung, Status as NodeStatus, Trace};
use waypost_core::engine::input::Level;
use waypost_core::id::{Class, MessageId};
use waypost_core::limits;
use waypost_core::message::{Invalid, Submission};

use super::refuse::invalid;
use super::{NodeInfo, wire};

/// A message as the engine takes it, its limits checked.
///
/// # Errors
/// `INVALID_ARGUMENT` with the first limit it breaks.
pub fn submission(message: wire::Message) -> Result<Submission, Status> {
    let class = class(message.class)?;
    let invalid = |why: Invalid| invalid(&why);
    let submission = Submission {
        to: message.node.parse().map_err(invalid)?,
        channel: message.channel.parse().map_err(invalid)?,
        headers: message.headers.into_iter().collect(),
        body: message.body,
        class,
        lifetime_ms: if message.lifetime_ms == 0 { limits::LIFETIME_MS } else { message.lifetime_ms },
        idempotency_key: Some(message.idempotency_key).filter(|key| !key.is_empty()),
        order_key: Some(message.key).filter(|key| !key.is_empty()),
        delay_ms: message.delay_ms,
    };
    submission.check().map_err(invalid)?;
    Ok(submission)
}

fn class(number: i32) -> Result<Class, Status> {
    match wire::Class::try_from(number) {
        Ok(wire::Class::Unspecified | wire::Class::Normal) => Ok(Class::Normal),
        Ok(wire::Class::Urgent) => Ok(Class::Urgent),
        Ok(wire::Class::Bulk) => Ok(Class::Bulk),
        Err(_) => {
            Err(Status::invalid_argument(format!("there is no class {number}: use 1 urgent, 2 normal or 3 bulk")))
        }
    }
}

/// A level to wait for; `None`: do not wait, for a message that is known has been accepted.
///
/// # Errors
/// `INVALID_ARGUMENT` for a number that is no level.
pub fn level(number: i32) -> Result<Option<Level>, Status> {
    match wire::Level::try_from(number) {
        Ok(wire::Level::Unspecified) => Ok(None),
        Ok(wire::Level::Accepted) => Ok(Some(Level::Accepted)),
        Ok(wire::Level::Delivered) => Ok(Some(Level::Delivered)),
        Ok(wire::Level::Consumed) => Ok(Some(Level::Consumed)),
        Err(_) => Err(Status::invalid_argument(format!(
            "there is no level {number}: use 1 accepted, 2 delivered or 3 consumed"
        ))),
    }
}

/// A message's id.
///
/// # Errors
/// `INVALID_ARGUMENT` for what is not a UUID.
pub fn message_id(text: &str) -> Result<MessageId, Status> {
    text.parse().map_err(|_| {
        Status::invalid_argument(format!("{text:?} is not a message id: one looks like 0192d7a0-… (36 characters)"))
    })
}

/// What was accepted.
#[must_use]
pub fn accepted(accepted: Vec<Accepted>) -> wire::SendResponse {
    let one = |accepted: Accepted| wire::Accepted {
        id: accepted.id.to_string(),
        to: accepted.to.to_string(),
        repeated: accepted.repeated,
    };
    wire::SendResponse { accepted: accepted.into_iter().map(one).collect() }
}

/// A message on its way to a consumer of `channel`.
#[must_use]
pub fn delivery(channel: &str, delivery: Delivery) -> wire::Delivery {
    wire::Delivery {
        delivery: delivery.delivery,
        id: delivery.id.to_string(),
        from: delivery.from.to_string(),
        channel: channel.to_owned(),
        deliveries: delivery.deliveries,
        sent_at_ms: delivery.sent_at_ms,
        headers: delivery.headers.into_iter().collect(),
        streamed: delivery.fragments > 1,
        body: delivery.body,
        size: delivery.size,
    }
}

/// A ladder and custody log.
#[must_use]
pub fn trace(trace: Trace) -> wire::TraceResponse {
    let step = |rung: Rung| wire::Step {
        state: rung.state,
        at_ms: rung.at_ms,
        by: rung.by.map(|node| node.to_string()).unwrap_or_default(),
    };
    let event = |event: CustodyEvent| wire::CustodyEvent {
        node: event.node.to_string(),
        event: event.event,
        at_ms: event.at_ms,
        peer: event.peer.map(|node| node.to_string()).unwrap_or_default(),
    };
    let class = match trace.class {
        Class::Urgent => wire::Class::Urgent,
        Class::Normal => wire::Class::Normal,
        Class::Bulk => wire::Class::Bulk,
    };
    wire::TraceResponse {
        id: trace.id.to_string(),
        from: trace.from.to_string(),
        to: trace.to.to_string(),
        channel: trace.channel,
        class: class.into(),
        state: trace.state,
        ladder: trace.ladder.into_iter().map(step).collect(),
        custody: trace.custody.into_iter().map(event).collect(),
        reached: trace.reached,
        ended: trace.ended,
    }
}

/// The node's state; `(bytes, free)` is what its data directory fills and what is left on that disk.
#[must_use]
pub fn status(status: NodeStatus, info: &NodeInfo, (bytes, free_bytes): (u64, u64)) -> wire::StatusResponse {
    let mail = |(messages, bytes)| Some(wire::status_response::Mail { messages, bytes });
    wire::StatusResponse {
        address: status.address.to_string(),
        version: info.version.clone(),
        uptime_ms: u64::try_from(info.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        outbox: mail(status.outbox),
        inbox: mail(status.inbox),
        transit: Some(wire::status_response::Transit {
            envelopes: status.transit.0,
            bytes: status.transit.1,
            standby: status.standby,
        }),
        peers: status.peers,
        store: Some(wire::status_response::Store { bytes, free_bytes, durable_seq: status.durable_sequence }),
        name: status.name,
        network: status.network,
        listen: status.listen,
    }
}

/// A neighbour.
#[must_use]
pub fn peer(peer: Peer) -> wire::Peer {
    wire::Peer {
        address: peer.node.to_string(),
        name: peer.name,
        connected: peer.connected,
        transport: peer.transport.to_owned(),
        rtt_us: peer.rtt_us,
    }
}

/// A way.
#[must_use]
pub fn route(route: Route) -> wire::routes_response::Route {
    wire::routes_response::Route {
        to: route.to.to_string(),
        name: route.name,
        next: route.next.map(|node| node.to_string()).unwrap_or_default(),
        expected_delay_ms: route.expected_delay_ms,
        waiting: route.waiting,
    }
}
