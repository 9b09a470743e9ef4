//! Everything that can happen to a node, in the past tense: the engine's only way to learn anything.

use bytes::Bytes;
use waypost_proto::hop;

use crate::hop::PeerFrame;
use crate::id::{Incarnation, MessageId, NodeId};
use crate::message::{ChannelName, Submission};
use crate::store::tables::QueueKey;

/// Names a request until its reply. Drawn by whoever asks; unique within a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// Names a consumer's stream. Unique within a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConsumerId(pub u64);

/// Names a body that is being streamed in. Unique within a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u64);

/// Names one connection on which both sides have said hello as members. Unique within a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

/// A rung of the ladder a sender can wait for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// In the source's synced log.
    Accepted,
    /// Signed for by the destination.
    Delivered,
    /// Acknowledged by an application at the destination.
    Consumed,
}

/// What a member said when it connected.
#[derive(Clone, Debug)]
pub struct PeerHello {
    /// Of its running process.
    pub incarnation: Incarnation,
    /// The one it found on disk.
    pub continues: Option<Incarnation>,
    /// The commit sequence it recovered at start.
    pub durable_sequence: u64,
    /// Drawn per process.
    pub nonce: u64,
    /// Its wall clock.
    pub wall_ms: u64,
}

/// What happened. Everything in it has been decoded, its signatures verified, its body opened.
#[derive(Clone, Debug)]
pub enum Input {
    // ---- applications ----
    /// Messages were handed over; all are accepted or none. Bodies are at most one fragment. Answered by `Reply`.
    Submitted {
        /// Names the answer.
        request: RequestId,
        /// The user, from the socket's credentials.
        uid: u32,
        /// Checked by [`Submission::check`].
        messages: Vec<Submission>,
    },
    /// A body of unknown size began to stream in. A refusal comes as `Reply` to `request`.
    BodyBegun {
        /// Names the stream.
        stream: StreamId,
        /// Names the answer to the whole.
        request: RequestId,
        /// The user.
        uid: u32,
        /// The message; its `body` is empty.
        message: Submission,
    },
    /// The next part of it: exactly [`crate::limits::FRAGMENT`] bytes, the last one possibly fewer.
    /// Answered by `Effect::Staged`; at most 16 parts may be unanswered.
    BodyGrew {
        /// Which.
        stream: StreamId,
        /// The bytes.
        bytes: Bytes,
    },
    /// It is whole: accept the message. Answered by `Reply` to the stream's request.
    BodyEnded {
        /// Which.
        stream: StreamId,
    },
    /// It will never be whole.
    BodyAbandoned {
        /// Which.
        stream: StreamId,
    },
    /// A consumer came for a channel's messages.
    ConsumerOpened {
        /// Names it.
        consumer: ConsumerId,
        /// The user.
        uid: u32,
        /// From which channel.
        channel: ChannelName,
        /// How long a delivery stays its own.
        lease_ms: u64,
        /// After so many deliveries a message is dead-lettered; 0: never.
        max_deliveries: u32,
    },
    /// It has room for more.
    CreditGranted {
        /// Who.
        consumer: ConsumerId,
        /// So many more.
        messages: u32,
    },
    /// It is done with these. Answered by `Effect::Settled`.
    Acknowledged {
        /// Who.
        consumer: ConsumerId,
        /// Names from its deliveries.
        deliveries: Vec<u64>,
    },
    /// It failed; deliver again after the delay. Answered by `Effect::Settled`.
    Nacked {
        /// Who.
        consumer: ConsumerId,
        /// Which.
        delivery: u64,
        /// Not before.
        delay_ms: u64,
    },
    /// It needs longer.
    Extended {
        /// Who.
        consumer: ConsumerId,
        /// Which.
        delivery: u64,
        /// From now.
        lease_ms: u64,
    },
    /// It will never want this message. Answered by `Effect::Settled`.
    Refused {
        /// Who.
        consumer: ConsumerId,
        /// Which.
        delivery: u64,
        /// For people.
        reason: String,
    },
    /// It asks for a part of a delivery whose body came without. Answered by `Effect::BodyPart`.
    BodyPartWanted {
        /// Who.
        consumer: ConsumerId,
        /// Which.
        delivery: u64,
        /// The fragment's place in the body.
        index: u32,
    },
    /// It is gone; what it held is anybody's.
    ConsumerClosed {
        /// Who.
        consumer: ConsumerId,
    },
    /// Messages are to be ended before delivery.
    CancelAsked {
        /// Names the answer.
        request: RequestId,
        /// Which.
        ids: Vec<MessageId>,
    },
    /// Where is this message? With `wait`, answered when the level is reached or the message has ended.
    TraceAsked {
        /// Names the answer.
        request: RequestId,
        /// Which.
        id: MessageId,
        /// Until when to hold the answer back.
        wait: Option<Level>,
    },
    /// Nobody waits for this answer any more; answered at once with what is known.
    WaitEnded {
        /// Which.
        request: RequestId,
    },
    /// How is the node?
    StatusAsked {
        /// Names the answer.
        request: RequestId,
    },
    /// Who are its neighbours?
    PeersAsked {
        /// Names the answer.
        request: RequestId,
    },
    /// Which way would mail go?
    RoutesAsked {
        /// Names the answer.
        request: RequestId,
        /// To this node only.
        to: Option<crate::message::Recipient>,
    },
    /// A token is wanted. Answered by `Reply::Invited`.
    InviteAsked {
        /// Names the answer.
        request: RequestId,
        /// For one host only.
        once: bool,
        /// From now.
        expires_in_ms: u64,
    },
    /// Which dead letters are there, and why? Answered by `Reply::Dead`, a page at a time.
    DeadAsked {
        /// Names the answer.
        request: RequestId,
        /// Of this channel only; the one they were for.
        channel: Option<ChannelName>,
        /// The last place of the page before.
        after: Option<QueueKey>,
    },
    /// Somebody decided about dead letters. Answered by `Reply::DeadSettled`.
    DeadSettled {
        /// Names the answer.
        request: RequestId,
        /// Their places and ids, as the list gave them.
        letters: Vec<(QueueKey, MessageId)>,
        /// Handed out once more, or let go.
        is_retried: bool,
    },

    // ---- the network ----
    /// A member is connected: hellos were exchanged, its certificate verified.
    PeerConnected {
        /// Who.
        peer: NodeId,
        /// Names the connection.
        session: SessionId,
        /// What it said.
        hello: PeerHello,
        /// `quic` or `tcp`.
        transport: &'static str,
        /// The address that was dialled or seen.
        address: String,
    },
    /// That connection is gone.
    PeerLost {
        /// Who.
        peer: NodeId,
        /// Which connection.
        session: SessionId,
    },
    /// A ping came back.
    RttMeasured {
        /// Who.
        peer: NodeId,
        /// In microseconds.
        rtt_us: u64,
    },
    /// This node can be dialled at these addresses (multiaddrs without a peer id).
    ListenAddressesChanged {
        /// All of them.
        addresses: Vec<String>,
    },
    /// A frame came, decoded and verified.
    FrameArrived {
        /// From whom.
        peer: NodeId,
        /// On which connection.
        session: SessionId,
        /// What.
        frame: Box<PeerFrame>,
    },
    /// A verified chain of certificates not seen before came with a frame.
    ChainLearned {
        /// Whose.
        subject: NodeId,
        /// Its certificate first.
        chain: Vec<hop::Signed>,
    },
    /// A stranger with an invitation asks to become a member. Answered by `Reply::Admission`.
    JoinAsked {
        /// Names the answer.
        request: RequestId,
        /// The key it proved on the connection.
        subject: NodeId,
        /// What it showed.
        join: Box<hop::Join>,
    },
    /// A member certified this node. Answered by `Effect::Certify`.
    Certified {
        /// This node's certificate first; verified.
        chain: Vec<hop::Signed>,
    },

    // ---- the disk ----
    /// The free space of the store's disk was measured. To come every second, and before anything else.
    SpaceChanged {
        /// What may still be written.
        free_bytes: u64,
        /// What is kept back: with less nothing new is accepted.
        reserve_bytes: u64,
    },

    // ---- time ----
    /// The time asked for by `Engine::next_wake` has come.
    Ticked,
}

impl Input {
    /// Bytes a round holds for it, near enough to keep a round of inputs small in memory: those of its mail, and for each
    /// message what its rows take beside. Other names and numbers count nothing.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Submitted { messages, .. } => messages.iter().map(submission_weight).sum(),
            Self::BodyBegun { message, .. } => submission_weight(message),
            Self::BodyGrew { bytes, .. } => bytes.len(),
            Self::FrameArrived { frame, .. } => frame_weight(frame),
            _ => 0,
        }
    }
}

/// Bytes in memory of the rows and keys of one message, however small it is, until they are committed.
const MESSAGE_WEIGHT: usize = 1024;

fn submission_weight(message: &Submission) -> usize {
    let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    MESSAGE_WEIGHT + headers + message.body.len()
}

fn frame_weight(frame: &PeerFrame) -> usize {
    match frame {
        PeerFrame::Envelope(arrived) => match &arrived.opened {
            Some(Ok(body)) => body.len() + MESSAGE_WEIGHT * arrived.envelope.header().name.count as usize,
            // Sealed for somebody else: as large as it may be.
            _ => crate::limits::ENVELOPE_BYTES,
        },
        _ => 0,
    }
}
