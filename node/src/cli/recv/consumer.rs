//! One stream of deliveries from the node: what is at hand, what is held, what is confirmed. Keeps what it holds from
//! being delivered again while it is worked on.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Streaming;

use crate::api::wire::receive_request::{Extend, Kind as Up, Nack, Open, Settle};
use crate::api::wire::receive_response::{Data, Kind as Down};
use crate::api::wire::{Delivery, ReceiveRequest, ReceiveResponse};
use crate::cli::connect::Client;
use crate::cli::exit::{Exit, Failure};

/// Requests that wait for the socket.
const UNSENT: usize = 64;
/// How often leases are extended; a third of the node's default.
const EXTEND_EVERY: Duration = Duration::from_secs(20);
/// How long to wait for the last confirmations.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(60);

/// The next of a streamed body.
pub enum Part {
    /// More of it.
    Bytes(Bytes),
    /// That was all.
    End,
    /// The rest is not to be had: the message is somebody else's.
    Gone,
}

/// One consumer.
pub struct Consumer {
    up: mpsc::Sender<ReceiveRequest>,
    down: Streaming<ReceiveResponse>,
    queue: VecDeque<Delivery>,
    /// Granted and not delivered.
    credit: u64,
    /// The body that is being read has come to its last part.
    body_ended: bool,
    unconfirmed: BTreeSet<u64>,
    held: Held,
    _extending: AbortOnDropHandle<()>,
}

/// Deliveries whose lease runs here.
type Held = Arc<Mutex<BTreeSet<u64>>>;

impl Consumer {
    /// Opens a stream; nothing comes before credit is given.
    ///
    /// # Errors
    /// The node refuses.
    pub async fn open(mut client: Client, channel: String, max_deliveries: u32) -> Result<Self, Failure> {
        let (up, requests) = mpsc::channel(UNSENT);
        let open = Open { channel, lease_ms: 0, max_deliveries };
        up.try_send(request(Up::Open(open))).map_err(|_| left())?;
        let down = client.receive(ReceiverStream::new(requests)).await?.into_inner();
        let held = Held::default();
        let extending = AbortOnDropHandle::new(tokio::spawn(extend(up.clone(), held.clone())));
        Ok(Self {
            up,
            down,
            queue: VecDeque::new(),
            credit: 0,
            body_ended: false,
            unconfirmed: BTreeSet::new(),
            held,
            _extending: extending,
        })
    }

    /// Asks for more messages.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn credit(&mut self, messages: u32) -> Result<(), Failure> {
        self.credit += u64::from(messages);
        self.say(Up::Credit(messages)).await
    }

    /// Messages asked for and not taken out yet.
    #[must_use]
    pub fn at_hand(&self) -> u64 {
        self.credit + self.queue.len() as u64
    }

    /// Whether [`Consumer::next`] would not have to wait.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next message; `None` when none came before the deadline.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Delivery>, Failure> {
        loop {
            if let Some(message) = self.queue.pop_front() {
                self.body_ended = false;
                return Ok(Some(message));
            }
            match deadline {
                None => drop(self.pump().await?),
                Some(deadline) => match timeout_at(deadline, self.pump()).await {
                    Ok(pumped) => drop(pumped?),
                    Err(_) => return Ok(None),
                },
            }
        }
    }

    /// The next part of the streamed body of `delivery`. The node sends bodies one after another, in order.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn part(&mut self, delivery: u64) -> Result<Part, Failure> {
        if self.body_ended {
            return Ok(Part::End);
        }
        loop {
            match self.pump().await? {
                Some(data) if data.delivery == delivery && data.gone => return Ok(Part::Gone),
                Some(data) if data.delivery == delivery => {
                    self.body_ended = data.last;
                    return Ok(Part::Bytes(data.data));
                }
                _ => {}
            }
        }
    }

    /// These are done.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn ack(&mut self, deliveries: Vec<u64>) -> Result<(), Failure> {
        if deliveries.is_empty() {
            return Ok(());
        }
        for delivery in &deliveries {
            self.forget(*delivery);
            self.unconfirmed.insert(*delivery);
        }
        self.say(Up::Ack(Settle { deliveries })).await
    }

    /// This one failed; not again before the delay.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn nack(&mut self, delivery: u64, delay: Duration) -> Result<(), Failure> {
        self.forget(delivery);
        self.unconfirmed.insert(delivery);
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.say(Up::Nack(Nack { delivery, delay_ms })).await
    }

    /// This one is not held any more.
    pub fn forget(&self, delivery: u64) {
        lock(&self.held).remove(&delivery);
    }

    /// Waits until everything said about messages is in the node's log.
    ///
    /// # Errors
    /// It does not get there in time.
    pub async fn confirm(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + CONFIRMED_WITHIN;
        while !self.unconfirmed.is_empty() {
            let late = |_| {
                let message =
                    "the node did not confirm the acknowledgements: the messages may come again; look at its log";
                Failure::new(Exit::NotYet, message)
            };
            timeout_at(deadline, self.pump()).await.map_err(late)??;
        }
        Ok(())
    }

    /// Takes one message from the stream; gives out what belongs to a body.
    async fn pump(&mut self) -> Result<Option<Data>, Failure> {
        let response = self.down.message().await?.ok_or_else(left)?;
        match response.kind {
            Some(Down::Batch(batch)) => {
                self.credit = self.credit.saturating_sub(batch.deliveries.len() as u64);
                lock(&self.held).extend(batch.deliveries.iter().map(|one| one.delivery));
                self.queue.extend(batch.deliveries);
            }
            Some(Down::Settled(settled)) => {
                for delivery in settled.deliveries {
                    self.unconfirmed.remove(&delivery);
                }
            }
            Some(Down::Data(data)) => return Ok(Some(data)),
            None => {}
        }
        Ok(None)
    }

    async fn say(&mut self, kind: Up) -> Result<(), Failure> {
        if self.up.send(request(kind)).await.is_ok() {
            return Ok(());
        }
        // The node has ended the stream; its last message says why.
        while self.pump().await?.is_some() {}
        Err(left())
    }
}

async fn extend(up: mpsc::Sender<ReceiveRequest>, held: Held) {
    loop {
        tokio::time::sleep(EXTEND_EVERY).await;
        let deliveries: Vec<u64> = lock(&held).iter().copied().collect();
        for delivery in deliveries {
            if up.send(request(Up::Extend(Extend { delivery, lease_ms: 0 }))).await.is_err() {
                return;
            }
        }
    }
}

fn request(kind: Up) -> ReceiveRequest {
    ReceiveRequest { kind: Some(kind) }
}

fn left() -> Failure {
    Failure::new(Exit::NoNode, "the node ended the stream: look at its log")
}

fn lock(held: &Held) -> MutexGuard<'_, BTreeSet<u64>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
