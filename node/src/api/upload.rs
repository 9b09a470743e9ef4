//! A body on its way into the engine: cut into exact fragments, never more than a few of them unanswered. A body that
//! fits into one fragment never becomes a stream.

use bytes::{Bytes, BytesMut};
use tonic::Status;
use waypost_core::engine::effect::Reply;
use waypost_core::engine::input::Input;
use waypost_core::limits::{BODY_BYTES, FRAGMENT};
use waypost_core::message::{Invalid, Submission};

use super::callers::Caller;
use super::refuse::{invalid, refused, stopping, unexpected};
use super::registry::{OpenStream, Registry};
use crate::inputs::{Expected, Inputs};

/// One message whose body is still coming.
pub struct Upload<'a> {
    inputs: &'a Inputs,
    registry: &'a Registry,
    caller: Caller,
    message: Submission,
    /// Bytes that do not fill a fragment yet, or fill exactly one and may be the last.
    rest: BytesMut,
    size: u64,
    begun: Option<Begun>,
}

/// The body was larger than a fragment: the engine knows about it.
struct Begun {
    stream: OpenStream,
    reply: Expected,
}

impl<'a> Upload<'a> {
    /// Begins; `message` has no body.
    #[must_use]
    pub fn new(inputs: &'a Inputs, registry: &'a Registry, caller: Caller, message: Submission) -> Self {
        Self { inputs, registry, caller, message, rest: BytesMut::new(), size: 0, begun: None }
    }

    /// Takes the next bytes; waits while the engine is behind.
    ///
    /// # Errors
    /// The body is too large, the engine refused it, or the node is stopping.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), Status> {
        self.size += data.len() as u64;
        if self.size > BODY_BYTES {
            return Err(invalid(&Invalid::Body { bytes: self.size }));
        }
        self.rest.extend_from_slice(data);
        while self.rest.len() > FRAGMENT {
            let part = self.rest.split_to(FRAGMENT).freeze();
            self.grow(part).await?;
        }
        Ok(())
    }

    /// Waits for a refusal that comes before the body is whole; for ever when none comes.
    pub async fn refusal(&mut self) -> Status {
        match &mut self.begun {
            Some(begun) => begun.refused().await,
            None => std::future::pending().await,
        }
    }

    /// The body is whole: has the message accepted.
    ///
    /// # Errors
    /// The engine refused it, or the node is stopping.
    pub async fn finish(mut self) -> Result<Reply, Status> {
        let rest = std::mem::take(&mut self.rest).freeze();
        if self.begun.is_none() {
            let message = Submission { body: rest, ..self.message };
            let uid = self.caller.uid;
            let submit = |request| Input::Submitted { request, uid, messages: vec![message] };
            return self.inputs.ask(submit).await.map_err(stopping);
        }
        self.grow(rest).await?;
        let Some(mut begun) = self.begun else { return Err(unexpected()) };
        let stream = begun.stream.stream;
        self.inputs.push(Input::BodyEnded { stream }).await.map_err(stopping)?;
        begun.stream.ended();
        begun.reply.await.map_err(stopping)
    }

    async fn grow(&mut self, bytes: Bytes) -> Result<(), Status> {
        if self.begun.is_none() {
            self.begun = Some(self.begin().await?);
        }
        let Some(begun) = &mut self.begun else { return Err(unexpected()) };
        begun.wait_for_room().await?;
        let stream = begun.stream.stream;
        self.inputs.push(Input::BodyGrew { stream, bytes }).await.map_err(stopping)
    }

    async fn begin(&self) -> Result<Begun, Status> {
        let stream = self.registry.stream(self.inputs);
        let (request, reply) = self.inputs.expect();
        let begun =
            Input::BodyBegun { stream: stream.stream, request, uid: self.caller.uid, message: self.message.clone() };
        self.inputs.push(begun).await.map_err(stopping)?;
        Ok(Begun { stream, reply })
    }
}

impl Begun {
    async fn wait_for_room(&mut self) -> Result<(), Status> {
        let room = self.stream.room.clone();
        tokio::select! {
            permit = room.acquire() => permit.map(|permit| permit.forget()).map_err(|_| unexpected()),
            refusal = self.refused() => Err(refusal),
        }
    }

    /// A reply before the end can only be a refusal; the engine has forgotten the stream then.
    async fn refused(&mut self) -> Status {
        let reply = (&mut self.reply).await;
        self.stream.ended();
        match reply {
            Ok(Reply::Refused(refusal)) => refused(&refusal),
            Ok(_) => unexpected(),
            Err(stopped) => stopping(stopped),
        }
    }
}
