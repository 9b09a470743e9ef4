//! A node's socket as a program uses it: one connection, a consumer, and how the bench reads the node's own counts.

use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::wire::receive_request::{Kind as Up, Open, Settle};
use super::wire::receive_response::{Data, Kind as Down};
use super::wire::waypost_client::WaypostClient;
use super::wire::{
    Accepted, Delivery, Level, Message, ReceiveRequest, ReceiveResponse, SendRequest, StatusRequest, StatusResponse,
    TraceRequest,
};

/// Bytes of one message on the socket at most.
const MESSAGE_BYTES: usize = 8 << 20;
/// Bytes in flight on one stream before they must be read.
const STREAM_WINDOW: u32 = 1 << 20;
/// Requests that wait for the socket.
const UNSENT: usize = 64;
/// For a receipt; far beyond what any should take.
const RECEIPT_MS: u64 = 150_000;

/// One connection to a node. Clones share it.
#[derive(Clone, Debug)]
pub struct Socket(pub WaypostClient<Channel>);

impl Socket {
    /// Connects to the node at `path`.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).await.with_context(|| format!("connecting to {}", path.display()))?;
        let mut stream = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_| {
            let taken = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset));
            async move { taken }
        });
        let channel = Endpoint::from_static("http://localhost")
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(4 * STREAM_WINDOW)
            .connect_with_connector(connector)
            .await?;
        let client = WaypostClient::new(channel);
        Ok(Self(client.max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES)))
    }

    /// Has messages accepted, all at once.
    ///
    /// # Errors
    /// When they are not.
    pub async fn send(&mut self, messages: Vec<Message>) -> Result<Vec<Accepted>> {
        let count = messages.len();
        let accepted = self.0.send(SendRequest { messages }).await?.into_inner().accepted;
        ensure!(accepted.len() == count, "{count} messages were sent, {} accepted", accepted.len());
        Ok(accepted)
    }

    /// Waits until the destination's receipt for a message is here.
    ///
    /// # Errors
    /// When it does not come, or says something else.
    pub async fn await_receipt(&mut self, id: &str) -> Result<()> {
        let wait = Level::Delivered.into();
        let asked = TraceRequest { id: id.to_owned(), wait, timeout_ms: RECEIPT_MS };
        let trace = self.0.trace(asked).await?.into_inner();
        ensure!(trace.reached, "{id} is {} and not delivered", trace.state);
        Ok(())
    }

    /// What the node holds and how often it has committed.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&mut self) -> Result<StatusResponse> {
        Ok(self.0.status(StatusRequest {}).await?.into_inner())
    }

    /// Opens a consumer; nothing comes before it gives credit.
    ///
    /// # Errors
    /// When the node refuses.
    pub async fn consume(&mut self, channel: &str) -> Result<Consumer> {
        let (up, requests) = mpsc::channel(UNSENT);
        let open = Open { channel: channel.to_owned(), lease_ms: 0, max_deliveries: 0 };
        up.send(ReceiveRequest { kind: Some(Up::Open(open)) }).await?;
        let down = self.0.receive(ReceiverStream::new(requests)).await?.into_inner();
        Ok(Consumer { up, down })
    }
}

/// One stream of deliveries.
#[derive(Debug)]
pub struct Consumer {
    up: mpsc::Sender<ReceiveRequest>,
    down: Streaming<ReceiveResponse>,
}

/// What a consumer is told.
#[derive(Debug)]
pub enum News {
    /// Messages.
    Batch(Vec<Delivery>),
    /// The next part of a large body.
    Data(Data),
    /// So many settlements are on disk.
    Settled(usize),
}

impl Consumer {
    /// So many more messages may come.
    ///
    /// # Errors
    /// When the node has ended the stream.
    pub async fn credit(&self, messages: u32) -> Result<()> {
        Ok(self.up.send(ReceiveRequest { kind: Some(Up::Credit(messages)) }).await?)
    }

    /// These are done.
    ///
    /// # Errors
    /// When the node has ended the stream.
    pub async fn ack(&self, deliveries: Vec<u64>) -> Result<()> {
        Ok(self.up.send(ReceiveRequest { kind: Some(Up::Ack(Settle { deliveries })) }).await?)
    }

    /// The next thing the node says.
    ///
    /// # Errors
    /// When it has ended the stream.
    pub async fn news(&mut self) -> Result<News> {
        loop {
            let Some(response) = self.down.message().await? else { bail!("the node ended the consumer's stream") };
            return Ok(match response.kind {
                Some(Down::Batch(batch)) => News::Batch(batch.deliveries),
                Some(Down::Data(data)) => News::Data(data),
                Some(Down::Settled(settled)) => News::Settled(settled.deliveries.len()),
                None => continue,
            });
        }
    }
}

/// A message to a channel of a node.
#[must_use]
pub fn message(node: &str, channel: &str, body: Bytes) -> Message {
    Message { node: node.to_owned(), channel: channel.to_owned(), body, ..Message::default() }
}
