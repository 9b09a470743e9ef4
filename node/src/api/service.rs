//! The generated service, each call handed to the file that knows about it. Ends every call when the node stops.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::callers::caller;
use super::refuse::stopping;
use super::registry::Registry;
use super::{NodeInfo, ask, dead, receive, send, wire};
use crate::inputs::{Inputs, Stopped};

/// What every call can reach.
pub struct Service {
    pub(super) inputs: Inputs,
    pub(super) registry: Registry,
    pub(super) info: NodeInfo,
    pub(super) stop: CancellationToken,
}

impl Service {
    async fn unless_stopping<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<Response<T>, Status> {
        tokio::select! {
            answer = call => answer.map(Response::new),
            () = self.stop.cancelled() => Err(stopping(Stopped)),
        }
    }
}

#[async_trait]
impl wire::waypost_server::Waypost for Service {
    async fn send(&self, request: Request<wire::SendRequest>) -> Result<Response<wire::SendResponse>, Status> {
        let caller = caller(&request)?;
        self.unless_stopping(send::batch(&self.inputs, &self.registry, caller, request.into_inner())).await
    }

    async fn send_stream(
        &self,
        request: Request<Streaming<wire::SendStreamRequest>>,
    ) -> Result<Response<wire::SendResponse>, Status> {
        let caller = caller(&request)?;
        self.unless_stopping(send::stream(&self.inputs, &self.registry, caller, request.into_inner())).await
    }

    type ReceiveStream = ReceiverStream<Result<wire::ReceiveResponse, Status>>;

    async fn receive(
        &self,
        request: Request<Streaming<wire::ReceiveRequest>>,
    ) -> Result<Response<Self::ReceiveStream>, Status> {
        let caller = caller(&request)?;
        let (sink, responses) = mpsc::channel(receive::UNREAD);
        let (inputs, registry, stop) = (self.inputs.clone(), self.registry.clone(), self.stop.clone());
        tokio::spawn(receive::serve(inputs, registry, caller, request.into_inner(), sink, stop));
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn cancel(&self, request: Request<wire::CancelRequest>) -> Result<Response<wire::CancelResponse>, Status> {
        self.unless_stopping(ask::cancel(&self.inputs, request.into_inner())).await
    }

    async fn trace(&self, request: Request<wire::TraceRequest>) -> Result<Response<wire::TraceResponse>, Status> {
        self.unless_stopping(ask::trace(&self.inputs, request.into_inner())).await
    }

    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusResponse>, Status> {
        self.unless_stopping(ask::status(&self.inputs, &self.info)).await
    }

    async fn peers(&self, _: Request<wire::PeersRequest>) -> Result<Response<wire::PeersResponse>, Status> {
        self.unless_stopping(ask::peers(&self.inputs)).await
    }

    async fn routes(&self, request: Request<wire::RoutesRequest>) -> Result<Response<wire::RoutesResponse>, Status> {
        self.unless_stopping(ask::routes(&self.inputs, request.into_inner())).await
    }

    async fn dead_letters(
        &self,
        request: Request<wire::DeadLettersRequest>,
    ) -> Result<Response<wire::DeadLettersResponse>, Status> {
        self.unless_stopping(dead::list(&self.inputs, request.into_inner())).await
    }

    async fn settle_dead_letters(
        &self,
        request: Request<wire::SettleDeadLettersRequest>,
    ) -> Result<Response<wire::SettleDeadLettersResponse>, Status> {
        self.unless_stopping(dead::settle(&self.inputs, request.into_inner())).await
    }

    async fn invite(&self, request: Request<wire::InviteRequest>) -> Result<Response<wire::InviteResponse>, Status> {
        self.unless_stopping(ask::invite(&self.inputs, request.into_inner())).await
    }
}
