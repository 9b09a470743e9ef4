//! The one task that drives the swarm: turns what happens there into sessions begun and ended, dials what is due, closes
//! what fell silent. Never awaits anything but the next event; what needs waiting is a session's task.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, Swarm, identify, mdns, ping};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use waypost_core::engine::input::Input;
use waypost_core::id::NodeId;

use super::Dial;
use super::addresses;
use super::dial::{Attempt, Ending, Schedule};
use super::frames::Heard;
use super::hello::{Acceptor, Opener};
use super::local::Local;
use super::session::Connection;
use super::streams::{self, Happened, NotOpened};
use super::swarm::{Behaviour, BehaviourEvent};

/// A connection on which nothing was heard for so long is dead: pings go out every three seconds.
const SILENCE: Duration = Duration::from_secs(8);
/// How often silence is looked for.
const TICK: Duration = Duration::from_millis(500);
/// How long connections may take to close when the node stops.
const FAREWELL: Duration = Duration::from_secs(1);
/// Dials at the same time; below the swarm's own limit of pending connections.
const DIALS: usize = 48;
/// Streams of one connection that may wait to be taken up.
const STREAMS_WAITING: usize = 16;
/// Notes from sessions that may wait.
const NOTES: usize = 256;

/// What a session's task tells this one.
#[derive(Debug)]
pub enum Note {
    /// It wants another stream.
    Open {
        /// On which connection.
        connection: ConnectionId,
    },
    /// The session is up.
    Up {
        /// On which connection.
        connection: ConnectionId,
    },
    /// It is over; the connection is to be closed.
    Over {
        /// Which connection.
        connection: ConnectionId,
        /// How well it went.
        ending: Ending,
    },
}

/// Where this node listens.
#[derive(Clone, Default, Debug)]
pub struct Listening {
    /// Bound addresses.
    pub addresses: Vec<Multiaddr>,
    /// Listeners that have not said where yet.
    pub silent: Vec<ListenerId>,
}

/// An open connection.
struct Open {
    peer: PeerId,
    dialled: bool,
    is_up: bool,
    ending: Ending,
    heard: Heard,
    closed: CancellationToken,
    opened: mpsc::Sender<Result<Stream, NotOpened>>,
    arrived: mpsc::Sender<Stream>,
    /// Where the peer says that it listens.
    listens: Vec<Multiaddr>,
}

/// The task.
pub struct Events {
    swarm: Swarm<Behaviour>,
    local: Arc<Local>,
    dial: Dial,
    schedule: Schedule,
    dialling: BTreeMap<ConnectionId, usize>,
    connections: BTreeMap<ConnectionId, Open>,
    turns: BTreeMap<PeerId, Arc<tokio::sync::Mutex<()>>>,
    listening: watch::Sender<Listening>,
    is_listening_news: bool,
    notes: (mpsc::Sender<Note>, mpsc::Receiver<Note>),
    tasks: TaskTracker,
}

impl Events {
    /// Takes over a swarm that listens.
    #[must_use]
    pub fn new(
        swarm: Swarm<Behaviour>,
        local: Arc<Local>,
        (dial, schedule): (Dial, Schedule),
        listening: watch::Sender<Listening>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            swarm,
            local,
            dial,
            schedule,
            dialling: BTreeMap::new(),
            connections: BTreeMap::new(),
            turns: BTreeMap::new(),
            listening,
            is_listening_news: false,
            notes: mpsc::channel(NOTES),
            tasks,
        }
    }

    /// Runs until `stop`, then closes what is open.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.next_due();
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(note) = self.notes.1.recv() => self.on_note(note),
                _ = tick.tick() => self.on_tick(),
                () = sleep_until(due) => self.dial_due(),
                () = stop.cancelled() => break,
            }
        }
        self.close_all().await;
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) => self.on_stream(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.on_ping(&event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.on_identity(event),
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(event)) => self.on_neighbours(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => self.on_closed(connection_id),
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.on_dial_failed(connection_id, &error);
            }
            SwarmEvent::NewListenAddr { listener_id, address } => self.on_listening(listener_id, address),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_not_listening(&[address]),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::warn!(address = ?addresses, why = ?reason, "no longer listening");
                self.on_not_listening(&addresses);
            }
            SwarmEvent::ListenerError { error, .. } => tracing::debug!(why = %error, "a listener failed to accept"),
            _ => {}
        }
    }

    // ---- connections ----

    fn on_established(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let through = self.dialling.remove(&connection);
        self.schedule.met(peer, through);
        let Some(node) = NodeId::from_peer_id_bytes(&peer.to_bytes()) else {
            tracing::warn!(%peer, why = "its key is of another kind than nodes have", "turned away");
            self.schedule.lost(peer, Ending::Refused, Instant::now());
            self.swarm.close_connection(connection);
            return;
        };
        self.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        let open = self.begin(node, peer, connection, endpoint);
        let surplus = self.surplus(&open, connection);
        self.connections.insert(connection, open);
        for connection in surplus {
            self.close(connection);
        }
    }

    /// Starts the task that lives as long as the connection.
    fn begin(&mut self, node: NodeId, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) -> Open {
        let (opened, opened_receiver) = mpsc::channel(STREAMS_WAITING);
        let (arrived, arrived_receiver) = mpsc::channel(STREAMS_WAITING);
        let heard = Heard::new(Instant::now());
        let closed = CancellationToken::new();
        let notes = self.notes.0.clone();
        let address = endpoint.get_remote_address();
        let task = Connection {
            local: Arc::clone(&self.local),
            peer: node,
            dialled: endpoint.is_dialer(),
            transport: transport_of(address),
            address: address.to_string(),
            opener: Opener { connection, notes, opened: opened_receiver, heard: heard.clone() },
            acceptor: Acceptor { arrived: arrived_receiver, heard: heard.clone() },
            closed: closed.clone(),
            turn: Arc::clone(self.turns.entry(peer).or_default()),
        };
        self.tasks.spawn(task.run());
        let (dialled, ending, listens) = (endpoint.is_dialer(), Ending::Fruitless, Vec::new());
        Open { peer, dialled, is_up: false, ending, heard, closed, opened, arrived, listens }
    }

    /// The connections to close because `new` is there: both sides come to the same one to keep.
    fn surplus(&self, new: &Open, new_id: ConnectionId) -> Vec<ConnectionId> {
        let own = *self.swarm.local_peer_id();
        let others = self.connections.iter().filter(|(_, other)| other.peer == new.peer);
        others
            .map(|(id, old)| match survivor(own, old, new) {
                Survivor::Old => new_id,
                Survivor::New => *id,
            })
            .collect()
    }

    fn on_closed(&mut self, connection: ConnectionId) {
        let Some(open) = self.connections.remove(&connection) else { return };
        open.closed.cancel();
        if !self.connections.values().any(|other| other.peer == open.peer) {
            let ending = if open.is_up { Ending::WasSession } else { open.ending };
            self.schedule.lost(open.peer, ending, Instant::now());
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        if let Some(open) = self.connections.get(&connection) {
            open.closed.cancel();
        }
        self.swarm.close_connection(connection);
    }

    fn on_note(&mut self, note: Note) {
        match note {
            Note::Open { connection } => {
                if let Some(open) = self.connections.get(&connection) {
                    self.swarm.behaviour_mut().streams.open(open.peer, connection);
                }
            }
            Note::Up { connection } => self.on_up(connection),
            Note::Over { connection, ending } => {
                if let Some(open) = self.connections.get_mut(&connection) {
                    open.ending = ending;
                }
                self.close(connection);
            }
        }
    }

    fn on_up(&mut self, connection: ConnectionId) {
        if let Some(open) = self.connections.get_mut(&connection) {
            open.is_up = true;
        }
        self.learn_addresses(connection);
    }

    fn on_stream(&mut self, event: streams::Event) {
        let Some(open) = self.connections.get(&event.connection) else { return };
        let is_taken = match event.happened {
            Happened::Arrived(stream) => open.arrived.try_send(stream).is_ok(),
            Happened::Opened(stream) => open.opened.try_send(Ok(stream)).is_ok(),
            Happened::NotOpened(error) => open.opened.try_send(Err(error)).is_ok(),
        };
        if !is_taken {
            tracing::debug!(peer = %open.peer, "more streams than a session has");
            self.close(event.connection);
        }
    }

    // ---- signs of life ----

    fn on_ping(&mut self, event: &ping::Event) {
        let Some(open) = self.connections.get(&event.connection) else { return };
        let Ok(rtt) = event.result else { return };
        open.heard.note();
        if let (true, Some(peer)) = (open.is_up, NodeId::from_peer_id_bytes(&event.peer.to_bytes())) {
            let rtt_us = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
            // Another measurement comes in seconds: when the engine is busy, this one may go.
            let _ = self.local.inputs.try_push(Input::RttMeasured { peer, rtt_us });
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        let is_silent = |(id, open): (&ConnectionId, &Open)| (open.heard.silence(now) > SILENCE).then_some(*id);
        let silent: Vec<_> = self.connections.iter().filter_map(is_silent).collect();
        for connection in silent {
            let peer = self.connections.get(&connection).map(|open| open.peer);
            tracing::debug!(?peer, "nothing was heard for too long");
            self.close(connection);
        }
        self.tell_listening();
    }

    // ---- addresses ----

    fn on_identity(&mut self, event: identify::Event) {
        let identify::Event::Received { connection_id, info, .. } = event else { return };
        if let Some(open) = self.connections.get_mut(&connection_id) {
            open.listens = info.listen_addrs;
        }
        self.learn_addresses(connection_id);
    }

    /// Where a member listens is remembered for the next time, unless only configured addresses may be dialled.
    fn learn_addresses(&mut self, connection: ConnectionId) {
        let Some(open) = self.connections.get_mut(&connection) else { return };
        if open.is_up && self.dial == Dial::Any {
            self.schedule.add_peer(open.peer, std::mem::take(&mut open.listens), Instant::now());
            self.schedule.met(open.peer, None);
        }
    }

    /// Who is on the local network is dialled like anybody else; whether it is a member shows at the greeting.
    fn on_neighbours(&mut self, event: mdns::Event) {
        match event {
            mdns::Event::Discovered(found) if self.dial == Dial::Any => {
                for (peer, address) in found {
                    tracing::debug!(%peer, %address, "found on the local network");
                    self.schedule.add_found(peer, address, Instant::now());
                }
            }
            mdns::Event::Discovered(_) => {}
            mdns::Event::Expired(gone) => {
                gone.into_iter().for_each(|(peer, address)| self.schedule.forget_found(peer, address));
            }
        }
    }

    fn on_listening(&mut self, listener: ListenerId, address: Multiaddr) {
        tracing::info!(%address, "listening");
        self.is_listening_news = true;
        self.listening.send_modify(|listening| {
            listening.silent.retain(|silent| *silent != listener);
            if !listening.addresses.contains(&address) {
                listening.addresses.push(address);
            }
        });
        self.tell_listening();
    }

    fn on_not_listening(&mut self, gone: &[Multiaddr]) {
        self.is_listening_news = true;
        self.listening.send_modify(|listening| listening.addresses.retain(|address| !gone.contains(address)));
        self.tell_listening();
    }

    /// Tells the engine; when it is busy, the next tick does.
    fn tell_listening(&mut self) {
        if self.is_listening_news {
            let addresses = addresses::for_others(&self.listening.borrow().addresses);
            let told = self.local.inputs.try_push(Input::ListenAddressesChanged { addresses });
            self.is_listening_news = told.is_err();
        }
    }

    // ---- dialling ----

    fn next_due(&self) -> Option<Instant> {
        self.schedule.next_due().filter(|_| self.dialling.len() < DIALS)
    }

    fn dial_due(&mut self) {
        let now = Instant::now();
        for attempt in self.schedule.take_due(now, DIALS.saturating_sub(self.dialling.len())) {
            let target = attempt.target;
            let options = dial_options(attempt);
            self.dialling.insert(options.connection_id(), target);
            let connection = options.connection_id();
            if let Err(error) = self.swarm.dial(options) {
                self.on_dial_failed(connection, &error);
            }
        }
    }

    fn on_dial_failed(&mut self, connection: ConnectionId, error: &DialError) {
        let Some(target) = self.dialling.remove(&connection) else { return };
        if self.local.is_first(self.local.id, format!("dialling: {error}")) {
            tracing::warn!(why = %error, "dialling failed; it is tried for ever, and said once");
        }
        let is_self = matches!(error, DialError::LocalPeerId { .. });
        let ending = if is_self { Ending::Refused } else { Ending::Fruitless };
        self.schedule.failed(target, ending, Instant::now());
    }

    // ---- the end ----

    /// Says goodbye, so that the others need not find out by silence.
    async fn close_all(mut self) {
        let all: Vec<_> = self.connections.keys().copied().collect();
        for connection in all {
            self.close(connection);
        }
        let farewell = async {
            while !self.connections.is_empty() {
                if let SwarmEvent::ConnectionClosed { connection_id, .. } = self.swarm.select_next_some().await {
                    self.connections.remove(&connection_id);
                }
            }
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Survivor {
    Old,
    New,
}

/// Of two connections with one peer. A peer that dials although it has a session has lost it, or runs anew: the new one
/// stays. Of two that were dialled crosswise at the same time, the one that the lower address dialled stays.
fn survivor(own: PeerId, old: &Open, new: &Open) -> Survivor {
    let lower_dialled = |open: &Open| open.dialled == (own.to_bytes() < open.peer.to_bytes());
    let is_crosswise = old.dialled != new.dialled;
    if !old.is_up && is_crosswise && lower_dialled(old) { Survivor::Old } else { Survivor::New }
}

/// From a port of its own: with the listening port as source, two that dial each other meet as two dialers.
fn dial_options(attempt: Attempt) -> DialOpts {
    let Attempt { peer, addresses, .. } = attempt;
    let mut bare = addresses.iter().cloned();
    match (peer, bare.next()) {
        (None, Some(address)) => DialOpts::unknown_peer_id().address(address).allocate_new_port().build(),
        (peer, _) => DialOpts::peer_id(peer.unwrap_or_else(PeerId::random))
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses)
            .allocate_new_port()
            .build(),
    }
}

fn transport_of(address: &Multiaddr) -> &'static str {
    if address.iter().any(|part| matches!(part, Protocol::QuicV1)) { "quic" } else { "tcp" }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
