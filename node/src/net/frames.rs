//! Frames on a stream: a length as an unsigned varint, then protobuf. Notes when bytes were last heard.
//! Never looks into a frame.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use asynchronous_codec::Framed;
use futures::{AsyncRead, AsyncWrite, SinkExt, TryStreamExt};
use libp2p::Stream;
use prost_codec::Codec;
use tokio::sync::mpsc;
use waypost_proto::hop;

/// Bytes of a frame at most (rule HOP-8).
pub const FRAME_BYTES: usize = 1 << 20;

/// When something was last heard on a connection. Cheap to clone.
#[derive(Clone)]
pub struct Heard {
    since: Instant,
    after_ms: Arc<AtomicU64>,
}

impl Heard {
    /// Something was heard at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { since: now, after_ms: Arc::default() }
    }

    /// Something was heard just now.
    pub fn note(&self) {
        let after = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.after_ms.store(after, Ordering::Relaxed);
    }

    /// How long nothing was heard.
    #[must_use]
    pub fn silence(&self, now: Instant) -> Duration {
        let last = Duration::from_millis(self.after_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(self.since).saturating_sub(last)
    }
}

/// A stream that notes when bytes come.
pub struct Listening {
    stream: Stream,
    heard: Heard,
}

impl AsyncRead for Listening {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.heard.note();
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Listening {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

/// A stream of frames, both ways.
pub struct Frames(Framed<Listening, Codec<hop::Frame>>);

impl Frames {
    /// Frames on `stream`.
    #[must_use]
    pub fn new(stream: Stream, heard: Heard) -> Self {
        Self(Framed::new(Listening { stream, heard }, Codec::new(FRAME_BYTES)))
    }

    /// The next frame; `None` when the other side closed the stream.
    ///
    /// # Errors
    /// When the stream failed, or what came is no frame.
    pub async fn next(&mut self) -> io::Result<Option<hop::Frame>> {
        Ok(self.0.try_next().await?)
    }

    /// Sends one frame at once.
    ///
    /// # Errors
    /// When the stream failed.
    pub async fn send(&mut self, kind: hop::frame::Kind) -> io::Result<()> {
        Ok(self.0.send(hop::Frame { kind: Some(kind) }).await?)
    }

    /// Sends what is queued until the queue is closed; frames that wait together leave together.
    ///
    /// # Errors
    /// When the stream failed.
    pub async fn drain(&mut self, queue: &mut mpsc::Receiver<Box<hop::Frame>>) -> io::Result<()> {
        while let Some(frame) = queue.recv().await {
            self.0.feed(*frame).await?;
            while let Ok(frame) = queue.try_recv() {
                self.0.feed(*frame).await?;
            }
            self.0.flush().await?;
        }
        Ok(())
    }
}
