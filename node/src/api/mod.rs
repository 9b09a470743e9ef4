//! The local socket: gRPC for the applications on this host. Turns calls into inputs and effects into answers; decides
//! nothing about mail. The only folder that names tonic's server.

mod ask;
mod bodies;
mod callers;
mod convert;
mod dead;
mod mailbox;
mod receive;
mod refuse;
mod registry;
mod send;
mod service;
mod socket;
mod upload;
mod whole;
pub mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;
use tower::util::MapRequestLayer;
use waypost_core::engine::effect::Effect;

use crate::config::SocketConfig;
use crate::inputs::Inputs;
use callers::Admits;
use registry::Registry;
use service::Service;
use socket::BoundAt;
use wire::waypost_server::WaypostServer;

pub use refuse::RETRY_AFTER;
pub use socket::SocketError;

/// Bytes of one message on the socket at most, both ways.
pub const MESSAGE_BYTES: usize = 8 << 20;
/// Bytes in flight on one stream before it must be read.
const STREAM_WINDOW: u32 = 1 << 20;
/// Calls at the same time on one connection.
const CALLS: u32 = 1024;
/// How long a stopping node waits for its last answers to leave.
const FAREWELL: Duration = Duration::from_secs(3);

/// How many bytes the data directory fills and how many are free on its disk; may block.
pub type Space = Arc<dyn Fn() -> (u64, u64) + Send + Sync>;

/// What the socket can say about the node without asking the engine.
#[derive(Clone)]
pub struct NodeInfo {
    /// Of this program.
    pub version: String,
    /// When the node started.
    pub started: Instant,
    /// Measures the store.
    pub space: Space,
    /// What the store has lost, in words, until a person has taken the damaged files away.
    pub damage: Option<String>,
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Its path.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The runtime does not take it.
    #[error("cannot serve the socket: {0}")]
    Runtime(#[from] std::io::Error),
    /// The descriptors do not describe themselves.
    #[error("cannot offer reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The open socket. Cheap to clone; [`Api::stop`] closes it.
#[derive(Clone)]
pub struct Api {
    registry: Registry,
    stop: CancellationToken,
    serving: TaskTracker,
    socket: BoundAt,
}

/// Opens the socket and serves it. To be called inside a tokio runtime, once the store is open.
///
/// # Errors
/// Another node answers there, or the system refuses.
pub fn start(config: &SocketConfig, inputs: Inputs, info: NodeInfo) -> Result<Api, ApiError> {
    let (listener, socket) = socket::listen_at(config)?;
    let listener = UnixListener::from_std(listener)?;
    let admits = if socket::is_shared(config) { Admits::WhoCouldConnect } else { Admits::Own };
    let api =
        Api { registry: Registry::default(), stop: CancellationToken::new(), serving: TaskTracker::new(), socket };
    let service = Service { inputs, registry: api.registry.clone(), info, stop: api.stop.clone() };
    let (reporter, health) = tonic_health::server::health_reporter();
    api.serving.spawn(serve(listener, routes(service, health, admits)?, reporter, api.stop.clone()));
    api.serving.close();
    Ok(api)
}

impl Api {
    /// Carries out `Deliver`, `BodyPart`, `Settled`, `EndConsumer` and `Staged`; other effects are none of its business.
    /// Called on the engine's thread: never blocks.
    pub fn carry_out(&self, effect: Effect) {
        self.registry.carry_out(effect);
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.socket.path()
    }

    /// Takes no more calls, ends the ones under way with `UNAVAILABLE`, and removes the socket.
    pub async fn stop(&self) {
        // First its name: once nobody listens, another node may take the place.
        self.socket.remove();
        self.stop.cancel();
        if tokio::time::timeout(FAREWELL, self.serving.wait()).await.is_err() {
            tracing::debug!("some applications did not read their last answers");
        }
    }
}

/// Everything behind the check of who is calling.
fn routes(service: Service, health: HealthServer<impl Health>, admits: Admits) -> Result<Routes, ApiError> {
    let waypost =
        WaypostServer::new(service).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let admit = move |request| admits.admit(request);
    Ok(Routes::new(InterceptedService::new(waypost, admit))
        .add_service(InterceptedService::new(health, admit))
        .add_service(InterceptedService::new(reflection, admit)))
}

async fn serve(listener: UnixListener, routes: Routes, reporter: HealthReporter, stop: CancellationToken) {
    reporter.set_serving::<WaypostServer<Service>>().await;
    let served = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * 4)
        .max_concurrent_streams(CALLS)
        .layer(MapRequestLayer::new(whole::whole))
        .add_routes(routes)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(why = %error, "the socket failed");
    }
}
