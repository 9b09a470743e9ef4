//! The first frames on every stream: opens this side's four streams, accepts the other side's four, checks both hellos
//! (rules HELLO-1, HELLO-3).
//! One after the other, because an implementation may lose streams that arrive in a burst.

use std::time::Duration;

use libp2p::Stream;
use libp2p::swarm::ConnectionId;
use tokio::sync::mpsc;
use tokio::time::timeout;
use waypost_core::engine::input::PeerHello;
use waypost_core::id::{Incarnation, NetworkId};
use waypost_proto::hop;
use waypost_proto::hop::frame::Kind;

use super::events::Note;
use super::fault::Fault;
use super::frames::{Frames, Heard};
use super::streams::NotOpened;

/// How long a stream may be without its hello.
pub const HELLO: Duration = Duration::from_secs(5);
/// How often a stream is opened before the connection is given up.
const TRIES: u32 = 3;
/// Streams of a direction.
pub const STREAMS: usize = 4;

/// Opens this side's streams.
pub struct Opener {
    /// On which connection.
    pub connection: ConnectionId,
    /// Asks for a stream.
    pub notes: mpsc::Sender<Note>,
    /// What came of it.
    pub opened: mpsc::Receiver<Result<Stream, NotOpened>>,
    /// For the streams.
    pub heard: Heard,
}

/// Accepts the other side's streams.
pub struct Acceptor {
    /// What it opened.
    pub arrived: mpsc::Receiver<Stream>,
    /// For the streams.
    pub heard: Heard,
}

/// A stream on which both sides have said hello, and what the other side said.
pub type Greeted = (Frames, hop::Hello);

/// What a hello must say.
#[derive(Clone, Copy)]
pub struct Expected {
    /// Our network.
    pub network: NetworkId,
    /// The nonce of the streams before.
    pub nonce: Option<u64>,
}

impl Expected {
    /// Checks a hello but for its certificates.
    ///
    /// # Errors
    /// What is wrong with it.
    fn check(self, hello: hop::Hello) -> Result<hop::Hello, Fault> {
        if hello.network != self.network.0.as_slice() {
            Err(Fault::OtherNetwork)
        } else if self.nonce.is_some_and(|nonce| nonce != hello.nonce) {
            Err(Fault::Protocol("its streams come from two processes"))
        } else {
            Ok(hello)
        }
    }
}

impl Opener {
    /// Opens a stream, says hello on it and waits for the other side's; opens it again when that does not come.
    ///
    /// # Errors
    /// When it cannot be opened, or the other side's hello is not as it must be.
    pub async fn open(&mut self, hello: &hop::Hello, expected: Expected) -> Result<Greeted, Fault> {
        for _ in 0..TRIES {
            match timeout(HELLO, self.open_once(hello)).await {
                Ok(Ok((frames, answer))) if answer.stream == hello.stream => {
                    return Ok((frames, expected.check(answer)?));
                }
                Ok(Ok(_)) => return Err(Fault::Protocol("a hello for another stream")),
                Ok(Err(fault)) => return Err(fault),
                Err(_) => tracing::debug!(stream = hello.stream, "no hello in time; the stream is opened again"),
            }
        }
        Err(Fault::Late("the hello on a stream"))
    }

    async fn open_once(&mut self, hello: &hop::Hello) -> Result<Greeted, Fault> {
        self.notes.send(Note::Open { connection: self.connection }).await.map_err(|_| Fault::Closed)?;
        let stream = self.opened.recv().await.ok_or(Fault::Closed)?;
        let stream = stream.map_err(|why| match why {
            NotOpened::Foreign => Fault::Foreign,
            NotOpened::Failed(error) => Fault::Io(std::io::Error::other(error)),
        })?;
        let mut frames = Frames::new(stream, self.heard.clone());
        frames.send(Kind::Hello(hello.clone())).await?;
        let answer = next_hello(&mut frames).await?;
        Ok((frames, answer))
    }
}

impl Acceptor {
    /// Accepts the stream `number`, or once more the one before it, whose answer came too late for the other side.
    ///
    /// # Errors
    /// When none comes, or its hello is not as it must be.
    pub async fn accept(
        &mut self,
        again: bool,
        expected: Expected,
        number: u32,
        answer: impl Fn(u32) -> hop::Hello,
    ) -> Result<Greeted, Fault> {
        let stream = self.arrived.recv().await.ok_or(Fault::Closed)?;
        let mut frames = Frames::new(stream, self.heard.clone());
        let hello = timeout(HELLO, next_hello(&mut frames)).await.map_err(|_| Fault::Late("a hello"))??;
        let hello = expected.check(hello)?;
        let is_repeated = again && hello.stream + 1 == number;
        if hello.stream != number && !is_repeated {
            return Err(Fault::Protocol("streams out of order"));
        }
        frames.send(Kind::Hello(answer(hello.stream))).await?;
        Ok((frames, hello))
    }
}

async fn next_hello(frames: &mut Frames) -> Result<hop::Hello, Fault> {
    match frames.next().await?.ok_or(Fault::Closed)?.kind {
        Some(Kind::Hello(hello)) => Ok(hello),
        _ => Err(Fault::Protocol("something else before the hello")),
    }
}

/// The other side's hello as the engine takes it.
///
/// # Errors
/// When a field has not its shape.
pub fn peer_hello(hello: &hop::Hello) -> Result<PeerHello, Fault> {
    let malformed = || Fault::Protocol("a malformed hello");
    let incarnation = Incarnation::from_slice(&hello.incarnation).ok_or_else(malformed)?;
    let continues = match hello.continues.as_ref() {
        [] => None,
        bytes => Some(Incarnation::from_slice(bytes).ok_or_else(malformed)?),
    };
    let hop::Hello { durable_sequence, nonce, wall_ms, .. } = *hello;
    Ok(PeerHello { incarnation, continues, durable_sequence, nonce, wall_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> hop::Hello {
        hop::Hello { network: vec![7; 32].into(), incarnation: vec![1; 16].into(), nonce: 5, ..Default::default() }
    }

    /// HELLO-3: network and nonce.
    #[test]
    fn a_hello_of_another_network_or_another_process_is_refused() {
        let expected = Expected { network: NetworkId([7; 32]), nonce: Some(5) };
        assert!(expected.check(hello()).is_ok());
        let other = Expected { network: NetworkId([8; 32]), nonce: None };
        assert!(matches!(other.check(hello()), Err(Fault::OtherNetwork)));
        let other = Expected { nonce: Some(6), ..expected };
        assert!(matches!(other.check(hello()), Err(Fault::Protocol(_))));
    }

    /// HELLO-3: lengths.
    #[test]
    fn a_hello_is_read_strictly() {
        assert_eq!(peer_hello(&hello()).unwrap().nonce, 5);
        assert!(peer_hello(&hop::Hello { incarnation: vec![1; 15].into(), ..hello() }).is_err());
        assert!(peer_hello(&hop::Hello { continues: vec![1; 17].into(), ..hello() }).is_err());
    }
}
