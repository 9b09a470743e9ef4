//! Between the API's messages and the engine's: checks what comes in, shapes what goes out, decides nothing.

use tonic::Status;
use waypost_core::engine::effect::{
    Accepted, CustodyEvent, Delivery, Peer, RaisedAlarm, Route, Rung, Status as NodeStatus, Trace,
};
use waypost_core::engine::input::Level;
use waypost_core::id::{Class, MessageId, NodeId};
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
    let mut addresses = Addresses::default();
    let one = |accepted: Accepted| wire::Accepted {
        id: accepted.id.to_string(),
        to: addresses.text_of(accepted.to),
        repeated: accepted.repeated,
    };
    wire::SendResponse { accepted: accepted.into_iter().map(one).collect() }
}

/// Messages on their way to a consumer of `channel`.
#[must_use]
pub fn deliveries(channel: &str, deliveries: Vec<Delivery>) -> Vec<wire::Delivery> {
    let mut addresses = Addresses::default();
    let one = |delivery: Delivery| wire::Delivery {
        delivery: delivery.delivery,
        id: delivery.id.to_string(),
        from: addresses.text_of(delivery.from),
        channel: channel.to_owned(),
        deliveries: delivery.deliveries,
        sent_at_ms: delivery.sent_at_ms,
        headers: delivery.headers.into_iter().collect(),
        streamed: delivery.fragments > 1,
        body: delivery.body,
        size: delivery.size,
    };
    deliveries.into_iter().map(one).collect()
}

/// Addresses as text, the last one kept: mail comes in runs of one address, and base 58 is slow beside the rest of a
/// small message.
#[derive(Default)]
struct Addresses {
    last: Option<(NodeId, String)>,
}

impl Addresses {
    fn text_of(&mut self, node: NodeId) -> String {
        match &self.last {
            Some((known, text)) if *known == node => text.clone(),
            _ => {
                let text = node.to_string();
                self.last = Some((node, text.clone()));
                text
            }
        }
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
        store: Some(wire::status_response::Store {
            bytes,
            free_bytes,
            durable_seq: status.durable_sequence,
            full: status.disk_full,
            damage: info.damage.clone().unwrap_or_default(),
        }),
        name: status.name,
        network: status.network,
        listen: status.listen,
        alarms: status.alarms.into_iter().map(alarm).collect(),
    }
}

fn alarm(alarm: RaisedAlarm) -> wire::status_response::Alarm {
    let RaisedAlarm { why, first_ms, last_ms, times } = alarm;
    wire::status_response::Alarm { why, first_ms, last_ms, times }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_names_its_own_destination() {
        let nodes = [1, 1, 2, 1].map(|byte| NodeId([byte; 32]));
        let one = |to| Accepted { id: MessageId([0; 16]), to, repeated: false };
        let texts: Vec<_> = accepted(nodes.map(one).into()).accepted.into_iter().map(|one| one.to).collect();
        assert_eq!(texts, nodes.map(|node| node.to_string()));
    }
}
