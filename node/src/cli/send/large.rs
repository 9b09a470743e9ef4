//! One body streamed to the node, as fast as the node takes it.

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::sources::Large;
use crate::api::wire::send_stream_request::Part;
use crate::api::wire::{Message, SendResponse, SendStreamRequest};
use crate::cli::connect::Client;
use crate::cli::exit::Failure;
use crate::cli::progress::Progress;

/// Bytes of one part on the socket.
const PART: usize = 256 << 10;
/// Parts that wait between the file and the socket.
const AHEAD: usize = 4;

/// Sends one body; accepted when this returns.
///
/// # Errors
/// The file cannot be read to its end, or the node refuses.
pub async fn send(client: &mut Client, open: Message, file: Large) -> Result<SendResponse, Failure> {
    let (parts, stream) = mpsc::channel(AHEAD);
    // A stream that is closed is a whole body. It closes at the `None` alone: when reading the file fails, or this is
    // interrupted, it must break off instead, for half a file is no message.
    let parted = ReceiverStream::new(stream).chain(futures::stream::pending());
    let answer = client.send_stream(parted.map_while(std::convert::identity));
    tokio::pin!(answer);
    let fed = tokio::select! {
        // An answer before the end of the body is a refusal.
        answer = &mut answer => return Ok(answer?.into_inner()),
        fed = feed(&parts, open, file) => fed,
    };
    fed?;
    let _ = parts.send(None).await;
    Ok(answer.await?.into_inner())
}

async fn feed(parts: &mpsc::Sender<Option<SendStreamRequest>>, open: Message, mut file: Large) -> Result<(), Failure> {
    let mut progress = Progress::new(file.size);
    let mut room = put(parts, Part::Open(open)).await;
    while room {
        let part = read_part(&mut file).await;
        let part =
            part.map_err(|error| Failure::failed(format!("cannot read on: {error}; the message was not sent")))?;
        if part.is_empty() {
            break;
        }
        progress.advance(part.len());
        room = put(parts, Part::Data(part)).await;
    }
    Ok(())
}

/// Whether the call is still there.
async fn put(parts: &mpsc::Sender<Option<SendStreamRequest>>, part: Part) -> bool {
    parts.send(Some(SendStreamRequest { part: Some(part) })).await.is_ok()
}

async fn read_part(file: &mut Large) -> std::io::Result<Bytes> {
    let mut part = BytesMut::with_capacity(PART);
    while part.len() < PART && file.reader.read_buf(&mut part).await? > 0 {}
    Ok(part.freeze())
}
