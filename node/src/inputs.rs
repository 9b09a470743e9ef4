//! The one bounded queue into the engine, and the way its answers find back to whoever asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};
use waypost_core::engine::effect::Reply;
use waypost_core::engine::input::{Input, RequestId};

/// Inputs that may wait for the engine; whoever pushes more waits (rule NODE-1).
pub const INPUT_QUEUE: usize = 1024;

/// The engine has stopped; what was asked is indeterminate.
#[derive(Debug, thiserror::Error)]
#[error("the node is stopping")]
pub struct Stopped;

/// The sending side of the engine's queue. Cheap to clone.
#[derive(Clone)]
pub struct Inputs {
    sender: mpsc::Sender<Input>,
    pending: Arc<Mutex<BTreeMap<RequestId, oneshot::Sender<Reply>>>>,
    next: Arc<AtomicU64>,
}

impl Inputs {
    /// The queue: what pushes into it, and the end the driver drains.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Input>) {
        let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
        (Self { sender, pending: Arc::default(), next: Arc::new(AtomicU64::new(1)) }, receiver)
    }

    /// A number nobody in this process has drawn: for requests, consumers, streams and sessions.
    #[must_use]
    pub fn draw(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Queues an input; waits while the queue is full.
    ///
    /// # Errors
    /// When the engine has stopped.
    pub async fn push(&self, input: Input) -> Result<(), Stopped> {
        self.sender.send(input).await.map_err(|_| Stopped)
    }

    /// Queues an input if there is room now; gives it back otherwise.
    ///
    /// # Errors
    /// The input, when the queue is full or the engine has stopped.
    pub fn try_push(&self, input: Input) -> Result<(), Box<Input>> {
        self.sender.try_send(input).map_err(|refused| Box::new(refused.into_inner()))
    }

    /// Queues a request and waits for its reply. Dropping the future forgets the reply.
    ///
    /// # Errors
    /// When the engine has stopped.
    pub async fn ask(&self, make: impl FnOnce(RequestId) -> Input) -> Result<Reply, Stopped> {
        let (request, reply) = self.expect();
        self.push(make(request)).await?;
        reply.await
    }

    /// Prepares for a reply whose request is pushed by other means.
    #[must_use]
    pub fn expect(&self) -> (RequestId, Expected) {
        let request = RequestId(self.draw());
        let (sender, receiver) = oneshot::channel();
        self.pending().insert(request, sender);
        (request, Expected { request, receiver, inputs: self.clone() })
    }

    /// Hands a reply to whoever asked; does nothing when nobody waits any more.
    pub fn answer(&self, request: RequestId, reply: Reply) {
        if let Some(waiting) = self.pending().remove(&request) {
            let _ = waiting.send(reply);
        }
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<RequestId, oneshot::Sender<Reply>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reply to come.
pub struct Expected {
    request: RequestId,
    receiver: oneshot::Receiver<Reply>,
    inputs: Inputs,
}

impl Future for Expected {
    type Output = Result<Reply, Stopped>;

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.receiver).poll(context).map(|reply| reply.map_err(|_| Stopped))
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.inputs.pending().remove(&self.request);
    }
}
