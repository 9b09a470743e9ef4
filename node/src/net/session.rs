//! One connection from its first hello to its end: eight streams greeted, a session told to the engine, frames carried
//! both ways. Nothing but hello and join passes before both sides are members; never decides what a frame means.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use waypost_core::engine::effect::Stream;
use waypost_core::engine::input::{Input, PeerHello, SessionId};
use waypost_core::hop::decode::{Decoded, FrameError};
use waypost_core::id::{Class, NodeId};
use waypost_proto::hop;

use super::admission::{self, Controls};
use super::dial::Ending;
use super::events::Note;
use super::fault::Fault;
use super::frames::Frames;
use super::hello::{Acceptor, Expected, Opener, STREAMS, peer_hello};
use super::local::{Live, Local};

/// How long one part of the greeting may take.
const GREETING: Duration = Duration::from_secs(30);
/// Frames that may wait on the control stream (rule NODE-1).
const CONTROL_QUEUE: usize = 4096;
/// Frames that may wait on a class's stream: more than the credit a neighbour is ever granted.
const CLASS_QUEUE: usize = 2304;
/// All streams of a direction in the order of their numbers.
const ORDER: [Stream; STREAMS] =
    [Stream::Control, Stream::Class(Class::Urgent), Stream::Class(Class::Normal), Stream::Class(Class::Bulk)];

/// A connection that was just made.
pub struct Connection {
    /// This node.
    pub local: Arc<Local>,
    /// Whose key the other side proved.
    pub peer: NodeId,
    /// Whether this side dialled.
    pub dialled: bool,
    /// `quic` or `tcp`.
    pub transport: &'static str,
    /// Where the other side is.
    pub address: String,
    /// For this side's streams.
    pub opener: Opener,
    /// For the other side's.
    pub acceptor: Acceptor,
    /// Cancelled when the connection is gone.
    pub closed: CancellationToken,
    /// Rule HELLO-4: held while a session with this peer is up, so that the engine hears of one at a time.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

/// Two members that greeted each other on all streams.
struct Met {
    outward: Vec<Frames>,
    inward: Vec<Frames>,
    hello: PeerHello,
    news: Option<Vec<hop::Signed>>,
}

impl Connection {
    /// Lives as long as the connection does.
    pub async fn run(mut self) {
        let (notes, connection) = (self.opener.notes.clone(), self.opener.connection);
        let closed = self.closed.clone();
        let ending = match closed.run_until_cancelled(self.meet()).await {
            None => Ending::Fruitless,
            Some(Err(fault)) => {
                self.complain(&fault);
                fault.ending()
            }
            Some(Ok(met)) => {
                self.live(met).await;
                Ending::WasSession
            }
        };
        let _ = notes.send(Note::Over { connection, ending }).await;
    }

    /// Once for each peer and reason: a neighbour that comes back every second must not fill the log.
    fn complain(&self, fault: &Fault) {
        let Self { peer, address, .. } = self;
        let is_state = fault.ending() == Ending::Refused;
        if is_state && self.local.is_first(*peer, fault.to_string()) {
            tracing::warn!(%peer, %address, why = %fault, "turned away");
        } else {
            tracing::debug!(%peer, %address, why = %fault, "no session");
        }
    }

    async fn meet(&mut self) -> Result<Met, Fault> {
        let late = |_| Fault::Late("the greeting");
        let own = self.local.chain();
        let (controls, hello) = timeout(GREETING, self.meet_on_control(&own)).await.map_err(late)??;
        let is_news = !hello.chain.is_empty() && self.local.admit_chain(self.peer, &hello.chain)?;
        match (own.is_empty(), hello.chain.is_empty()) {
            (false, false) => {}
            (false, true) => return Err(admission::admit(&self.local, self.peer, controls).await),
            (true, false) => return Err(admission::join(&self.local, controls).await),
            (true, true) => return Err(Fault::BothStrangers),
        }
        let (outward, inward) = timeout(GREETING, self.meet_on_classes(hello.nonce)).await.map_err(late)??;
        Ok(Met {
            outward: prepend(controls.outward, outward),
            inward: prepend(controls.inward, inward),
            hello: peer_hello(&hello)?,
            news: is_news.then_some(hello.chain),
        })
    }

    /// Whoever dialled speaks first; the other side shows itself only to its own network.
    async fn meet_on_control(&mut self, own: &[hop::Signed]) -> Result<(Controls, hop::Hello), Fault> {
        let first = Expected { network: self.local.network, nonce: None };
        let local = &self.local;
        let hello = |stream| local.hello(stream, own);
        if self.dialled {
            let (outward, answer) = self.opener.open(&hello(0), first).await?;
            let second = Expected { nonce: Some(answer.nonce), ..first };
            let (inward, theirs) = self.acceptor.accept(false, second, 0, hello).await?;
            Ok((Controls { inward, outward }, theirs))
        } else {
            let (inward, theirs) = self.acceptor.accept(false, first, 0, hello).await?;
            let second = Expected { nonce: Some(theirs.nonce), ..first };
            let (outward, _) = self.opener.open(&hello(0), second).await?;
            Ok((Controls { inward, outward }, theirs))
        }
    }

    async fn meet_on_classes(&mut self, nonce: u64) -> Result<(Vec<Frames>, Vec<Frames>), Fault> {
        let expected = Expected { network: self.local.network, nonce: Some(nonce) };
        let local = &self.local;
        let hello = |stream| local.hello(stream, &[]);
        let (opener, acceptor) = (&mut self.opener, &mut self.acceptor);
        let open = async {
            let mut outward = Vec::with_capacity(STREAMS);
            for class in Class::ALL {
                outward.push(opener.open(&hello(class.to_wire()), expected).await?.0);
            }
            Ok(outward)
        };
        let accept = async {
            let mut inward = Vec::with_capacity(STREAMS);
            while let Some(class) = Class::ALL.get(inward.len()) {
                let number = class.to_wire();
                let (frames, theirs) = acceptor.accept(!inward.is_empty(), expected, number, hello).await?;
                if theirs.stream < number {
                    inward.pop();
                }
                inward.push(frames);
            }
            Ok(inward)
        };
        tokio::try_join!(open, accept)
    }

    /// The session: told to the engine, carried until the first thing fails, taken back.
    async fn live(self, met: Met) {
        let Self { local, peer, transport, address, .. } = &self;
        let _turn = self.turn.lock().await;
        if self.closed.is_cancelled() {
            return;
        }
        let session = SessionId(local.inputs.draw());
        let mut tasks = JoinSet::new();
        let (end, mut ended) = mpsc::channel(1);
        let queues = write_all(&mut tasks, met.outward);
        local.enter(session, Live { queues, end });
        let up = Note::Up { connection: self.opener.connection };
        let _ = self.opener.notes.send(up).await;
        tracing::info!(%peer, transport, address, "connected");
        if self.announce(session, met.hello, met.news).await.is_ok() {
            read_all(&mut tasks, met.inward, local, *peer, session);
            let fault = tokio::select! {
                () = self.closed.cancelled() => Fault::Closed,
                Some(fault) = ended.recv() => fault,
                Some(result) = tasks.join_next() => result.unwrap_or(Fault::Stopping),
            };
            tracing::info!(%peer, why = %fault, "disconnected");
        }
        local.leave(session);
        // Readers first: nothing of this session may reach the engine after its end.
        tasks.shutdown().await;
        let _ = local.inputs.push(Input::PeerLost { peer: *peer, session }).await;
    }

    async fn announce(
        &self,
        session: SessionId,
        hello: PeerHello,
        news: Option<Vec<hop::Signed>>,
    ) -> Result<(), crate::inputs::Stopped> {
        let (peer, inputs) = (self.peer, &self.local.inputs);
        if let Some(chain) = news {
            inputs.push(Input::ChainLearned { subject: peer, chain }).await?;
        }
        // The address of one that dialled us is its way out, not its way in: nothing to be remembered.
        let address = if self.dialled { self.address.clone() } else { String::new() };
        let transport = self.transport;
        inputs.push(Input::PeerConnected { peer, session, hello, transport, address }).await
    }
}

fn prepend(control: Frames, classes: Vec<Frames>) -> Vec<Frames> {
    std::iter::once(control).chain(classes).collect()
}

/// A writer and its queue for each stream.
fn write_all(tasks: &mut JoinSet<Fault>, outward: Vec<Frames>) -> [mpsc::Sender<Box<hop::Frame>>; STREAMS] {
    let mut frames = outward.into_iter();
    ORDER.map(|stream| {
        let room = if stream == Stream::Control { CONTROL_QUEUE } else { CLASS_QUEUE };
        let (sender, queue) = mpsc::channel(room);
        if let Some(frames) = frames.next() {
            tasks.spawn(write(frames, queue));
        }
        sender
    })
}

async fn write(mut frames: Frames, mut queue: mpsc::Receiver<Box<hop::Frame>>) -> Fault {
    frames.drain(&mut queue).await.map_or_else(Fault::Io, |()| Fault::Closed)
}

/// A reader for each stream, so that none waits for another.
fn read_all(tasks: &mut JoinSet<Fault>, inward: Vec<Frames>, local: &Arc<Local>, peer: NodeId, session: SessionId) {
    for (stream, frames) in ORDER.into_iter().zip(inward) {
        let reading = Reading { peer, session, local: Arc::clone(local) };
        tasks.spawn(read(frames, reading, stream, Arc::clone(local)));
    }
}

/// Decodes and verifies here, off the engine's thread; the order of one stream is kept, a full engine is waited for.
async fn read(mut frames: Frames, reading: Reading, stream: Stream, local: Arc<Local>) -> Fault {
    loop {
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Fault::Closed,
            Err(error) => return Fault::Io(error),
        };
        let inputs = match reading.inputs_of(frame, stream) {
            Ok(inputs) => inputs,
            Err(error) => return Fault::Frame(error),
        };
        for input in inputs {
            if local.inputs.push(input).await.is_err() {
                return Fault::Stopping;
            }
        }
    }
}

/// What turns the frames of one stream into inputs.
struct Reading {
    peer: NodeId,
    session: SessionId,
    local: Arc<Local>,
}

impl Reading {
    /// What a frame tells the engine: certificates not seen before, then the frame itself.
    fn inputs_of(&self, frame: hop::Frame, stream: Stream) -> Result<Vec<Input>, FrameError> {
        let Decoded { learned, frame } = self.local.decoder().decode(frame, stream)?;
        let learned = learned.into_iter().map(|(subject, chain)| Input::ChainLearned { subject, chain });
        let (peer, session) = (self.peer, self.session);
        let frame = frame.map(|frame| Input::FrameArrived { peer, session, frame: Box::new(frame) });
        Ok(learned.chain(frame).collect())
    }
}
