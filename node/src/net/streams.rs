//! Opens hop streams on a chosen connection and reports those the other side opened, each with its connection.
//! Knows nothing of what is said on them. (`libp2p-stream` picks a connection at random and drops streams that arrive
//! while its acceptor is busy; a session must live on one connection and lose none.)

use std::collections::VecDeque;
use std::convert::Infallible;
use std::task::{Context, Poll};

use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, Stream, StreamProtocol};

/// What the streams speak (rule HELLO-1).
const PROTOCOL: StreamProtocol = StreamProtocol::new("/waypost/hop/1");

/// What became of a stream.
#[derive(Debug)]
pub enum Happened {
    /// The other side opened one.
    Arrived(Stream),
    /// One that was asked for is open.
    Opened(Stream),
    /// One that was asked for cannot be opened.
    NotOpened(NotOpened),
}

/// Why a stream is not there.
#[derive(Debug)]
pub enum NotOpened {
    /// The other side does not speak the hop protocol at all.
    Foreign,
    /// Something went wrong.
    Failed(String),
}

/// Something happened on a connection.
#[derive(Debug)]
pub struct Event {
    /// On which.
    pub connection: ConnectionId,
    /// What.
    pub happened: Happened,
}

/// Asks for a stream.
#[derive(Debug)]
pub struct Open;

/// The swarm's part of it.
#[derive(Default)]
pub struct Behaviour {
    queue: VecDeque<ToSwarm<Event, Open>>,
}

impl Behaviour {
    /// Asks for a stream on a connection. Answered by `Opened` or `NotOpened`, unless the connection closes before.
    pub fn open(&mut self, peer: PeerId, connection: ConnectionId) {
        let handler = NotifyHandler::One(connection);
        self.queue.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event: Open });
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(&mut self, _: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.queue.push_back(ToSwarm::GenerateEvent(Event { connection, happened: event }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

type ToConnection = ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, (), Happened>;

/// A connection's part of it.
#[derive(Default)]
pub struct Handler {
    queue: VecDeque<ToConnection>,
}

impl Handler {
    fn report(&mut self, happened: Happened) {
        self.queue.push_back(ConnectionHandlerEvent::NotifyBehaviour(happened));
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Happened;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, ()> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn on_behaviour_event(&mut self, Open: Open) {
        let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ());
        self.queue.push_back(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToConnection> {
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info: () }) => {
                self.report(Happened::Arrived(protocol));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info: () }) => {
                self.report(Happened::Opened(protocol));
            }
            ConnectionEvent::DialUpgradeError(failed) => {
                let why = match failed.error {
                    StreamUpgradeError::NegotiationFailed => NotOpened::Foreign,
                    other => NotOpened::Failed(other.map_upgrade_err(|never: Infallible| never).to_string()),
                };
                self.report(Happened::NotOpened(why));
            }
            _ => {}
        }
    }
}
