//! The way to the node: its socket, and what to say when nobody answers there.

use std::io;
use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use super::Context;
use super::exit::{Exit, Failure};
use crate::api::MESSAGE_BYTES;
use crate::api::wire::waypost_client::WaypostClient;

/// A client of the node.
pub type Client = WaypostClient<Channel>;

/// Bytes in flight on one stream before they must be read.
const STREAM_WINDOW: u32 = 1 << 20;

/// Connects to the node at the socket.
///
/// # Errors
/// No node answers there, or this user may not ask it.
pub async fn connect(context: &Context) -> Result<Client, Failure> {
    let nowhere = || Failure::new(Exit::NoNode, "no socket is known because HOME is not set: name it with --socket");
    let socket = context.socket.as_deref().ok_or_else(nowhere)?;
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(socket, &error))?;
    let mut stream = Some(TokioIo::new(stream));
    // One connection and no second: a node that went away may have come back as another process.
    let connector = tower::service_fn(move |_| {
        let taken = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset));
        async move { taken }
    });
    let channel = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * 4)
        .connect_with_connector(connector)
        .await
        .map_err(|_| no_node(socket))?;
    Ok(WaypostClient::new(channel).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES))
}

fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::PermissionDenied {
        let message = format!(
            "you may not talk to the node at {}: run this as its user, or name your own node with --socket",
            socket.display()
        );
        return Failure::new(Exit::NotPermitted, message);
    }
    no_node(socket)
}

fn no_node(socket: &Path) -> Failure {
    let message = format!(
        "no node answers at {}: start one with `waypost run`, or name its socket with --socket",
        socket.display()
    );
    Failure::new(Exit::NoNode, message)
}
