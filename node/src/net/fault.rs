//! Why a connection came to nothing or to its end, in words for the person who reads the log. Decides no retries itself.

use std::io;

use waypost_core::engine::effect::Stream;
use waypost_core::hop::decode::FrameError;
use waypost_core::trust::TrustError;

use super::dial::Ending;

/// The end of a connection.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It closed, by the other side or because it fell silent.
    #[error("the connection closed")]
    Closed,
    /// Something that had to come did not.
    #[error("{0} did not come in time")]
    Late(&'static str),
    /// Some other program that uses the same library.
    #[error("it is no waypost node")]
    Foreign,
    /// Not our network: give nothing.
    #[error("it belongs to another network")]
    OtherNetwork,
    /// Neither a member nor invited.
    #[error("it is not a member of this network and showed no invitation")]
    Stranger,
    /// Two that wait to be admitted.
    #[error("neither side is a member yet")]
    BothStrangers,
    /// This node has nothing to show.
    #[error("this node is not a member of its network and has no invitation to show")]
    NotInvited,
    /// This node was not admitted.
    #[error("it did not admit this node: {0}")]
    JoinRefused(String),
    /// One of the two was admitted; as members they begin again.
    #[error("the admission is done")]
    Admitted,
    /// Its certificates do not hold.
    #[error("its certificates do not hold: {0}")]
    Untrusted(#[from] TrustError),
    /// It said what must not be said there.
    #[error("it broke the protocol: {0}")]
    Protocol(&'static str),
    /// A frame is not what an honest member sends.
    #[error("it sent a frame that is refused: {0}")]
    Frame(#[from] FrameError),
    /// A stream failed.
    #[error("a stream failed: {0}")]
    Io(#[from] io::Error),
    /// It takes too slowly what is sent to it.
    #[error("more waits on the {0:?} stream than may wait there")]
    Overflow(Stream),
    /// The engine wants it so.
    #[error("closed by this node: {0}")]
    Disconnected(&'static str),
    /// The engine has stopped.
    #[error("this node is stopping")]
    Stopping,
}

impl Fault {
    /// What the end of a connection that was no session says about the next attempt.
    #[must_use]
    pub fn ending(&self) -> Ending {
        match self {
            Self::Foreign
            | Self::OtherNetwork
            | Self::Stranger
            | Self::NotInvited
            | Self::JoinRefused(_)
            | Self::Untrusted(_) => Ending::Refused,
            Self::Closed
            | Self::Protocol(_)
            | Self::Frame(_)
            | Self::Late(_)
            | Self::BothStrangers
            | Self::Admitted
            | Self::Io(_)
            | Self::Overflow(_)
            | Self::Disconnected(_)
            | Self::Stopping => Ending::Fruitless,
        }
    }
}
