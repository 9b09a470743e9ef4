//! Frames of the hop protocol as the engine takes them: decoded, within their caps, signatures verified, bodies opened.

pub mod decode;
pub mod encode;

use bytes::Bytes;
use waypost_proto::hop;

use crate::envelope::Name;
use crate::id::{Class, Incarnation, NodeId};
use crate::trust::twin::Challenge;
use crate::trust::{Verified, VerifiedEnvelope};

/// The numbers `first ..= last`.
pub type Span = (u64, u64);

/// A frame from a member.
#[derive(Clone, Debug)]
pub enum PeerFrame {
    /// Room in one class, cumulative since the hello.
    Credit {
        /// Which class.
        class: Class,
        /// Bytes in all.
        bytes: u64,
        /// Envelopes in all.
        envelopes: u64,
    },
    /// An envelope.
    Envelope(Arrived),
    /// Envelopes to be had.
    Offer {
        /// Names the offer.
        offer: u64,
        /// At most `limits::OFFER_ITEMS`.
        items: Vec<Offered>,
    },
    /// Send these.
    Want(Answer),
    /// These are in our synced log and active.
    Have(Answer),
    /// These were here in this wave and are not any more.
    Gone(Answer),
    /// A source's word on a flow.
    Word(Verified<hop::WordContent>),
    /// A destination's receipt for a flow.
    Receipt(Verified<hop::ReceiptContent>),
    /// Not now.
    RetryLater {
        /// Which items or transfers.
        answer: Answer,
        /// Why.
        reason: hop::retry_later::Reason,
        /// When to come again.
        after_ms: u64,
        /// The source refused; `None`: all.
        source: Option<NodeId>,
    },
    /// In our synced log.
    Custody {
        /// The giver's incarnation.
        incarnation: Incarnation,
        /// Which class.
        class: Class,
        /// The transfers, and no others.
        ranges: Vec<Span>,
        /// The taker's commit.
        durable_sequence: u64,
    },
    /// Standby copies given up.
    Dropped(Vec<Name>),
    /// A summary of facts held.
    Digest {
        /// How many.
        facts: u64,
        /// Over their ids.
        hash: Vec<u8>,
    },
    /// Facts to be had.
    Ids(Vec<FactId>),
    /// Facts wanted.
    Get(Vec<NodeId>),
    /// Its own receipts wanted, above this place of ours; empty: from the first.
    ReceiptsWanted {
        /// Of a `Shown` before.
        above: Vec<u8>,
    },
    /// On the way to tell twins apart.
    Twin(TwinStep),
    /// Its answer to that is over.
    Shown {
        /// Where the rest begins.
        last: Vec<u8>,
        /// There is no rest.
        all: bool,
    },
    /// A fact.
    Fact(Verified<hop::FactContent>),
}

/// A step in telling twins apart (rule TWIN-2).
#[derive(Clone, Debug)]
pub enum TwinStep {
    /// Draw a challenge.
    Draw,
    /// Drawn by the sender of the frame.
    Drawn(Challenge),
    /// Sign this one, drawn by another process of your key.
    Sign(Challenge),
    /// Signed by the sender of the frame.
    Signed(hop::Signed),
    /// What you drew was signed by another process of your key.
    Proof(hop::Signed),
}

/// An envelope as it came.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// The giver's transfer number.
    pub transfer: u64,
    /// Verified.
    pub envelope: VerifiedEnvelope,
    /// At its destination: the plain body, or why it does not open.
    pub opened: Option<Result<Bytes, crate::trust::OpenError>>,
    /// Milliseconds since acceptance, as far as the holders counted.
    pub age_ms: u64,
    /// Hops so far, for people.
    pub hops: u32,
    /// Copies it may still make.
    pub tickets: u32,
    /// The wave it travels on.
    pub wave: u32,
}

/// An envelope to be had.
#[derive(Clone, Debug)]
pub struct Offered {
    /// Which.
    pub name: Name,
    /// On which wave.
    pub wave: u32,
    /// Its size.
    pub bytes: u64,
}

/// Items of an offer, or transfers of a class.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Indexes into the items of an offer.
    Items {
        /// Which offer.
        offer: u64,
        /// Which items.
        items: Vec<u32>,
    },
    /// Transfers.
    Transfers {
        /// Which class.
        class: Class,
        /// Which.
        transfers: Vec<u64>,
    },
}

/// A fact's place in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FactId {
    /// Whose.
    pub node: NodeId,
    /// Start counter of its incarnation.
    pub counter: u64,
    /// The random part of its incarnation; `None` from a node that does not tell it.
    pub random: Option<[u8; 8]>,
    /// Its number.
    pub sequence: u64,
}
