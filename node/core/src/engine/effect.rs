//! Everything a node can do to the world, in the imperative. Claims leave only after the commit that makes them true
//! (`store::tx`); every effect may be lost in a crash and can be derived again from disk (rule CLAIM-2).

use bytes::Bytes;
use waypost_proto::hop;

use super::input::{ConsumerId, RequestId, SessionId, StreamId};
use crate::id::{Class, MessageId, NodeId};
use crate::store::tables::QueueKey;

/// One of the four streams of a direction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stream {
    /// Acknowledgements, credit, offers, words, receipts, facts.
    Control,
    /// Envelopes of a class.
    Class(Class),
}

/// What to do.
#[derive(Debug)]
pub enum Effect {
    /// Put a frame on a stream. Dropped when the session is over.
    Send {
        /// To whom.
        peer: NodeId,
        /// On which connection.
        session: SessionId,
        /// On which stream.
        stream: Stream,
        /// What.
        frame: Box<hop::Frame>,
    },
    /// Close a connection.
    Disconnect {
        /// To whom.
        peer: NodeId,
        /// Which.
        session: SessionId,
        /// For the log.
        why: &'static str,
    },
    /// Speak as a member from now on: this is the certificate to show.
    Certify {
        /// This node's certificate first.
        chain: Vec<hop::Signed>,
    },
    /// Answer a request.
    Reply {
        /// Which.
        request: RequestId,
        /// With what.
        reply: Reply,
    },
    /// Hand messages to a consumer.
    Deliver {
        /// To whom.
        consumer: ConsumerId,
        /// In order.
        deliveries: Vec<Delivery>,
    },
    /// Hand a consumer a part of a body.
    BodyPart {
        /// To whom.
        consumer: ConsumerId,
        /// Of which delivery.
        delivery: u64,
        /// The fragment's place.
        index: u32,
        /// Its bytes; `None` when the delivery is no longer this consumer's.
        bytes: Option<Bytes>,
    },
    /// Tell a consumer that its settlements are in the synced log.
    Settled {
        /// Whom.
        consumer: ConsumerId,
        /// Which.
        deliveries: Vec<u64>,
    },
    /// Tell a consumer that it cannot be served; its stream ends.
    EndConsumer {
        /// Whom.
        consumer: ConsumerId,
        /// Why.
        refusal: Refusal,
    },
    /// A part of a streamed body is in the synced log: there is room for another.
    Staged {
        /// Which stream.
        stream: StreamId,
    },
    /// Tell the owner of something that must not go unseen; `status` shows it too.
    RaiseAlarm {
        /// What is wrong and what to do.
        why: String,
    },
    /// Say this on connections from now on: a new incarnation began (rule EVIDENCE-2).
    Renew {
        /// What to say.
        hello: Box<super::OwnHello>,
    },
    /// Stop the node: it may not go on.
    Stop {
        /// Why, for the person who reads the log.
        why: String,
    },
}

/// A message on its way to a consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Names it on the consumer's stream.
    pub delivery: u64,
    /// Its id.
    pub id: MessageId,
    /// Who sent it.
    pub from: NodeId,
    /// How often it was delivered, this time included.
    pub deliveries: u32,
    /// Unix milliseconds at the source.
    pub sent_at_ms: u64,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The whole body, unless `fragments` is more than 1: then it is empty and asked for part by part.
    pub body: Bytes,
    /// Bytes of the whole body.
    pub size: u64,
    /// Fragments of the whole body; 0 and 1: it is here.
    pub fragments: u32,
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Accepted: in the synced log (promise P1). In the order of the request.
    Accepted(Vec<Accepted>),
    /// Not done; nothing changed.
    Refused(Refusal),
    /// The ladder of a message.
    Trace(Box<Trace>),
    /// After a request to cancel.
    Cancelled(Vec<(MessageId, String)>),
    /// The node's state.
    Status(Box<Status>),
    /// Its neighbours.
    Peers(Vec<Peer>),
    /// Its routes.
    Routes(Vec<Route>),
    /// A token.
    Invited {
        /// One printable line.
        token: String,
        /// Unix milliseconds.
        expires_at_ms: u64,
    },
    /// A page of dead letters.
    Dead {
        /// In the order of their places.
        letters: Vec<DeadLetter>,
        /// Ask for what comes after this place; `None`: that was all.
        next: Option<QueueKey>,
    },
    /// The dead letters of a request that were settled; the others are gone, or in a consumer's hands.
    DeadSettled(Vec<MessageId>),
    /// The chain for a stranger that joined, or why not.
    Admission(Result<Vec<hop::Signed>, String>),
}

/// An accepted message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub id: MessageId,
    /// For whom.
    pub to: NodeId,
    /// Known already by its idempotency key.
    pub repeated: bool,
}

/// A message that lies in a dead-letter channel, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Names it in a request.
    pub place: QueueKey,
    /// Its id.
    pub id: MessageId,
    /// The channel it was for.
    pub channel: String,
    /// Who sent it.
    pub from: NodeId,
    /// For people.
    pub reason: String,
    /// How often it had been handed out.
    pub deliveries: u32,
    /// Unix milliseconds, by this node's clock.
    pub died_at_ms: u64,
    /// Bytes of its body.
    pub size: u64,
}

/// Why a request was refused. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A limit is broken.
    #[error(transparent)]
    Invalid(#[from] crate::message::Invalid),
    /// Nobody of that name is known.
    #[error(
        "no node named {0:?} is known here: use its address (waypost id on that host), or wait until the nodes have met"
    )]
    UnknownName(String),
    /// More than one.
    #[error("{count} nodes are named {name:?}: use the address of the one you mean")]
    AmbiguousName {
        /// The name.
        name: String,
        /// How many.
        count: usize,
    },
    /// No room until something ends.
    #[error(
        "the outbox is full ({used} of {limit} {unit}, which leaves no room for this): retry after {retry_after_ms} ms"
    )]
    OutboxFull {
        /// Filled.
        used: u64,
        /// Of.
        limit: u64,
        /// `bytes` or `messages`.
        unit: &'static str,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The disk has less free than is kept back (rule DISK-3).
    #[error(
        "the disk is nearly full ({free} bytes free, {reserve} kept back so that mail can drain): make room on it, or \
         retry after {retry_after_ms} ms"
    )]
    DiskFull {
        /// Bytes.
        free: u64,
        /// Bytes.
        reserve: u64,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// It could not be taken even if the outbox were empty.
    #[error(
        "{amount} {unit} can never fit: the outbox holds {limit} at most; send less at once, or raise limits.outbox_{unit}"
    )]
    LargerThanOutbox {
        /// What was to be taken together.
        amount: u64,
        /// The outbox's quota.
        limit: u64,
        /// `bytes` or `messages`.
        unit: &'static str,
    },
    /// Too many of something at the same time.
    #[error("too many {what} at once (at most {limit}): retry after {retry_after_ms} ms")]
    TooMany {
        /// What.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The key names another request.
    #[error("the idempotency key {0:?} was used for another message: use a new key for a new message")]
    KeyReused(String),
    /// The id is unknown.
    #[error(
        "no message {0} was accepted by this node, or its ladder has been forgotten: ask the node that accepted it"
    )]
    UnknownMessage(MessageId),
    /// The address is not a key.
    #[error("{0} is not a valid node key: nothing can be sealed to it")]
    BadKey(NodeId),
    /// Not a member yet.
    #[error("this node is not yet a member of its network: it must meet a member once before it can invite")]
    NotAdmitted,
    /// Nothing known under this stream.
    #[error(
        "the stream of this body has ended, or this node's disk does not give its bytes back: send the message again"
    )]
    StreamEnded,
}

/// One rung reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    /// `accepted`, `held`, `delivered`, `consumed`, `refused`, `dead-lettered`, `expired`, `rejected`, `cancelled`, `damaged`.
    pub state: String,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Which node.
    pub by: Option<NodeId>,
}

/// What happened to a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustodyEvent {
    /// At which node.
    pub node: NodeId,
    /// `stored`, `handed to`, …
    pub event: String,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// The other side.
    pub peer: Option<NodeId>,
}

/// A message's ladder and custody log.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Which.
    pub id: MessageId,
    /// The source.
    pub from: NodeId,
    /// The destination.
    pub to: NodeId,
    /// The channel there.
    pub channel: String,
    /// Its class.
    pub class: Class,
    /// The highest rung.
    pub state: String,
    /// All rungs in order of time.
    pub ladder: Vec<Rung>,
    /// What is known of copies.
    pub custody: Vec<CustodyEvent>,
    /// The level waited for was reached.
    pub reached: bool,
    /// It has its ending.
    pub ended: bool,
}

/// The node's state.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its address.
    pub address: NodeId,
    /// Its name.
    pub name: String,
    /// Its network.
    pub network: String,
    /// Where it listens.
    pub listen: Vec<String>,
    /// Messages and bytes accepted here and not ended.
    pub outbox: (u64, u64),
    /// Messages and bytes delivered here and not consumed.
    pub inbox: (u64, u64),
    /// Other nodes' envelopes held, and their bytes.
    pub transit: (u64, u64),
    /// Of them standby copies.
    pub standby: u64,
    /// Connected neighbours.
    pub peers: u32,
    /// Last commit.
    pub durable_sequence: u64,
    /// The disk is too full for new mail.
    pub disk_full: bool,
    /// What its owner must know of, oldest first.
    pub alarms: Vec<RaisedAlarm>,
}

/// Something that must not go unseen (rule EVIDENCE-4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaisedAlarm {
    /// What is wrong and what to do.
    pub why: String,
    /// Unix milliseconds of the first time.
    pub first_ms: u64,
    /// Unix milliseconds of the last time.
    pub last_ms: u64,
    /// How often.
    pub times: u64,
}

/// A neighbour.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Now.
    pub connected: bool,
    /// `quic`, `tcp` or empty.
    pub transport: &'static str,
    /// In microseconds; 0: not measured.
    pub rtt_us: u64,
}

/// The way to a node.
#[derive(Clone, Debug)]
pub struct Route {
    /// To whom.
    pub to: NodeId,
    /// Its name.
    pub name: String,
    /// The neighbour it would go to next.
    pub next: Option<NodeId>,
    /// Expected, in milliseconds; `None`: not known how.
    pub expected_delay_ms: Option<u64>,
    /// Envelopes that wait here for it, counted up to 10,000.
    pub waiting: u64,
}
