//! `status`, `peers`, `routes`, `invite`: one question, one answer, for people or as JSON.

use serde::Serialize;

use super::Context;
use super::args::{InviteArgs, RoutesArgs};
use super::connect::connect;
use super::exit::{Exit, Failure};
use super::output::{absent, count, json, line, local, size, span, table, utc};
use crate::api::wire;

#[derive(Serialize)]
struct Mail {
    messages: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Transit {
    envelopes: u64,
    bytes: u64,
    standby: u64,
}

#[derive(Serialize)]
struct Store {
    bytes: u64,
    free_bytes: u64,
    durable_seq: u64,
    /// True while the disk is too full for new mail.
    #[serde(skip_serializing_if = "Option::is_none")]
    full: Option<bool>,
    /// What was lost.
    #[serde(skip_serializing_if = "absent")]
    damage: String,
}

#[derive(Serialize)]
struct Status {
    address: String,
    #[serde(skip_serializing_if = "absent")]
    name: String,
    network: String,
    listen: Vec<String>,
    version: String,
    uptime_ms: u64,
    outbox: Mail,
    inbox: Mail,
    transit: Transit,
    peers: u32,
    store: Store,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alarms: Vec<Alarm>,
}

#[derive(Serialize)]
struct Alarm {
    why: String,
    first_at: String,
    last_at: String,
    times: u64,
}

#[derive(Serialize)]
struct Peer {
    address: String,
    #[serde(skip_serializing_if = "absent")]
    name: String,
    connected: bool,
    #[serde(skip_serializing_if = "absent")]
    transport: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_ms: Option<f64>,
}

#[derive(Serialize)]
struct Route {
    to: String,
    #[serde(skip_serializing_if = "absent")]
    name: String,
    #[serde(skip_serializing_if = "absent")]
    next: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_delay_ms: Option<u64>,
    waiting: u64,
}

#[derive(Serialize)]
struct Invitation {
    token: String,
    expires_at: String,
}

/// Prints how the node is.
///
/// # Errors
/// No node answers.
pub async fn status(context: &Context) -> Result<Exit, Failure> {
    let answer = connect(context).await?.status(wire::StatusRequest {}).await?.into_inner();
    let status = Status::from(answer);
    if context.json {
        json(&status)?;
        return Ok(Exit::Done);
    }
    let row = |label: &str, text: String| vec![label.to_owned(), text];
    let mail = |mail: &Mail| format!("{}, {}", count(mail.messages, "message"), size(mail.bytes));
    let transit = &status.transit;
    let carried =
        format!("{}, {} ({} standby)", count(transit.envelopes, "envelope"), size(transit.bytes), transit.standby);
    let store = &status.store;
    let mut rows = vec![
        row("address", status.address.clone()),
        row("network", status.network.clone()),
        row("version", format!("{}, up {}", status.version, span(status.uptime_ms))),
        row("outbox", mail(&status.outbox)),
        row("inbox", mail(&status.inbox)),
        row("transit", carried),
        row("peers", status.peers.to_string()),
        row("store", format!("{}, {} free, commit {}", size(store.bytes), size(store.free_bytes), store.durable_seq)),
    ];
    if store.full.is_some() {
        rows.push(row("disk", "full: nothing new is accepted until there is room; mail drains".to_owned()));
    }
    if !store.damage.is_empty() {
        rows.push(row("damage", store.damage.clone()));
    }
    if !status.name.is_empty() {
        rows.insert(1, row("name", status.name.clone()));
    }
    rows.extend(status.listen.iter().map(|address| row("listen", address.clone())));
    rows.extend(status.alarms.iter().map(|alarm| row("ALARM", format!("{}: {}", alarm.last_at, alarm.why))));
    table(&rows)?;
    Ok(Exit::Done)
}

impl From<wire::StatusResponse> for Status {
    fn from(status: wire::StatusResponse) -> Self {
        let mail = |mail: Option<wire::status_response::Mail>| {
            let wire::status_response::Mail { messages, bytes } = mail.unwrap_or_default();
            Mail { messages, bytes }
        };
        let transit = status.transit.unwrap_or_default();
        let store = status.store.unwrap_or_default();
        let alarm = |alarm: wire::status_response::Alarm| {
            let wire::status_response::Alarm { why, first_ms, last_ms, times } = alarm;
            Alarm { why, first_at: utc(first_ms), last_at: utc(last_ms), times }
        };
        Self {
            address: status.address,
            name: status.name,
            network: status.network,
            listen: status.listen,
            version: status.version,
            uptime_ms: status.uptime_ms,
            outbox: mail(status.outbox),
            inbox: mail(status.inbox),
            transit: Transit { envelopes: transit.envelopes, bytes: transit.bytes, standby: transit.standby },
            peers: status.peers,
            store: Store {
                bytes: store.bytes,
                free_bytes: store.free_bytes,
                durable_seq: store.durable_seq,
                full: store.full.then_some(true),
                damage: store.damage,
            },
            alarms: status.alarms.into_iter().map(alarm).collect(),
        }
    }
}

/// Lists the neighbours.
///
/// # Errors
/// No node answers.
pub async fn peers(context: &Context) -> Result<Exit, Failure> {
    let answer = connect(context).await?.peers(wire::PeersRequest {}).await?.into_inner();
    let peer = |peer: wire::Peer| Peer {
        address: peer.address,
        name: peer.name,
        connected: peer.connected,
        transport: peer.transport,
        rtt_ms: (peer.rtt_us > 0).then(|| f64::from(u32::try_from(peer.rtt_us).unwrap_or(u32::MAX)) / 1000.0),
    };
    let row = |peer: &Peer| {
        let state = if peer.connected { "connected" } else { "away" };
        let rtt = peer.rtt_ms.map(|ms| format!("{ms} ms")).unwrap_or_default();
        vec![peer.address.clone(), dash(&peer.name), state.to_owned(), dash(&peer.transport), rtt]
    };
    let peers: Vec<Peer> = answer.peers.into_iter().map(peer).collect();
    list(context, &["ADDRESS", "NAME", "STATE", "TRANSPORT", "RTT"], &peers, row, "no neighbours yet")
}

/// Lists which way mail would go.
///
/// # Errors
/// The node asked for is unknown, or no node answers.
pub async fn routes(context: &Context, args: RoutesArgs) -> Result<Exit, Failure> {
    let request = wire::RoutesRequest { node: args.to.unwrap_or_default() };
    let answer = connect(context).await?.routes(request).await?.into_inner();
    let route = |route: wire::routes_response::Route| Route {
        to: route.to,
        name: route.name,
        next: route.next,
        expected_delay_ms: route.expected_delay_ms,
        waiting: route.waiting,
    };
    let row = |route: &Route| {
        let delay = route.expected_delay_ms.map_or_else(|| "no way known".to_owned(), span);
        vec![route.to.clone(), dash(&route.name), dash(&route.next), delay, route.waiting.to_string()]
    };
    let routes: Vec<Route> = answer.routes.into_iter().map(route).collect();
    list(
        context,
        &["TO", "NAME", "NEXT", "EXPECTED", "ENVELOPES WAITING"],
        &routes,
        row,
        "no other nodes are known yet",
    )
}

/// Prints a token; it is the last line.
///
/// # Errors
/// This node cannot invite yet, or no node answers.
pub async fn invite(context: &Context, args: InviteArgs) -> Result<Exit, Failure> {
    let expires_ms = u64::try_from(args.expires.as_millis()).unwrap_or(u64::MAX);
    let request = wire::InviteRequest { once: args.once, expires_ms };
    let answer = connect(context).await?.invite(request).await?.into_inner();
    if context.json {
        json(&Invitation { token: answer.token, expires_at: utc(answer.expires_at_ms) })?;
        return Ok(Exit::Done);
    }
    let whom = if args.once { "one host" } else { "any number of hosts" };
    eprintln!("admits {whom} until {}; whoever reads it can use it:", local(answer.expires_at_ms));
    line(&answer.token)?;
    Ok(Exit::Done)
}

fn list<T: Serialize>(
    context: &Context,
    head: &[&str],
    items: &[T],
    row: impl Fn(&T) -> Vec<String>,
    none: &str,
) -> Result<Exit, Failure> {
    if context.json {
        items.iter().try_for_each(json)?;
    } else if items.is_empty() {
        eprintln!("{none}");
    } else {
        let mut rows = vec![head.iter().map(ToString::to_string).collect()];
        rows.extend(items.iter().map(row));
        table(&rows)?;
    }
    Ok(Exit::Done)
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}
