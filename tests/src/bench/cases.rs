//! What is sent: messages in a pipeline, messages one at a time, one large file. Each case sends from A, consumes at C,
//! keeps the books, and gives its times by this process's one clock.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use super::ledger::{Ledger, Seen};
use super::socket::{News, Socket, message};
use super::stats::Times;
use super::wire::SendStreamRequest;
use super::wire::send_stream_request::Part;
use crate::harness::Random;

/// For everything of a case to arrive.
const PATIENCE: Duration = Duration::from_secs(150);
/// Bytes of a file that are handed in at once.
const PIECE: usize = 256 << 10;
/// Parts of a file that wait for the socket.
const UNSENT: usize = 8;

/// One case.
#[derive(Clone, Debug)]
pub enum Case {
    /// So many messages, `batch` in each call, at most `window` of them sent and not yet at the consumer.
    Pipelined {
        /// Bytes of a body.
        body: usize,
        /// How many.
        messages: usize,
        /// In one call.
        batch: usize,
        /// On their way.
        window: usize,
    },
    /// So many messages; the next is sent when the receipt of the one before is here and its settlement on C's disk.
    OneAtATime {
        /// Bytes of a body.
        body: usize,
        /// How many.
        messages: usize,
    },
    /// One file as one message.
    File {
        /// Its length.
        bytes: u64,
    },
}

/// What a case showed from outside the nodes.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Messages.
    pub messages: usize,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// From the first handing in to the last arrival.
    pub took: Duration,
    /// From handing in to the answer of A.
    pub accepted: Times,
    /// From handing in to the consumer at C.
    pub delivered: Times,
    /// From handing in to C's receipt at A. In a pipeline of the last message of each call.
    pub receipt: Times,
}

/// Where the messages go in and come out.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The sender's node.
    pub a: Socket,
    /// The receiver's node.
    pub c: Socket,
    /// Its address.
    pub to: String,
}

impl Case {
    /// How the table calls it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Pipelined { body, .. } => format!("{} pipelined", size(*body as u64)),
            Self::OneAtATime { body, .. } => format!("{} one at a time", size(*body as u64)),
            Self::File { bytes } => format!("{} file", size(*bytes)),
        }
    }

    /// Sends, receives and compares.
    ///
    /// # Errors
    /// When a message is lost, changed, repeated or late beyond all patience.
    pub async fn run(&self, ends: &Ends, folder: &Path) -> Result<Measured> {
        let done = async {
            match *self {
                Self::Pipelined { body, messages, batch, window } => {
                    pipelined(ends, Bodies::new(body), messages, (batch, window)).await
                }
                Self::OneAtATime { body, messages } => one_at_a_time(ends, Bodies::new(body), messages).await,
                Self::File { bytes } => file(ends, &folder.join("file"), bytes).await,
            }
        };
        let Ok(measured) = tokio::time::timeout(PATIENCE, done).await else {
            bail!("{}: not everything arrived within {PATIENCE:?}", self.name());
        };
        measured.with_context(|| self.name())
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

/// Bodies that do not compress and are all different.
#[derive(Clone, Debug)]
struct Bodies {
    length: usize,
    drawn: u64,
    stock: Arc<Vec<u8>>,
}

impl Bodies {
    fn new(length: usize) -> Self {
        let mut stock = vec![0; length + 4096];
        Random::new(length as u64).fill(&mut stock);
        Self { length, drawn: 0, stock: Arc::new(stock) }
    }

    fn draw(&mut self) -> (Bytes, blake3::Hash) {
        let from = (self.drawn % 4096) as usize;
        let mut body = self.stock[from..from + self.length].to_vec();
        let mark = self.drawn.to_le_bytes();
        let marked = mark.len().min(self.length);
        body[..marked].copy_from_slice(&mark[..marked]);
        self.drawn += 1;
        let sum = blake3::hash(&body);
        (body.into(), sum)
    }
}

/// Ends of one call: when it went, its bodies' sums, its ids, when it was answered, when its last receipt was here.
struct Call {
    sums: Vec<blake3::Hash>,
    ids: Vec<String>,
    sent: Instant,
    accepted: Duration,
    receipt: Duration,
}

async fn pipelined(
    ends: &Ends,
    mut bodies: Bodies,
    messages: usize,
    (batch, window): (usize, usize),
) -> Result<Measured> {
    ensure!(
        batch > 0 && batch <= window && messages.is_multiple_of(batch),
        "whole batches, none larger than the window"
    );
    let room = Arc::new(Semaphore::new(window));
    let length = bodies.length;
    let receiving = tokio::spawn(receive(ends.c.clone(), length, messages, Arc::clone(&room)));
    let mut calls = JoinSet::new();
    let began = Instant::now();
    for _ in 0..messages / batch {
        room.acquire_many(u32::try_from(batch)?).await?.forget();
        let (a, to) = (ends.a.clone(), ends.to.clone());
        let drawn: Vec<_> = (0..batch).map(|_| bodies.draw()).collect();
        calls.spawn(call(a, to, channel(length), drawn));
        ensure!(!receiving.is_finished(), "the consumer ended early");
    }
    let calls = calls.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    let mut ledger = receiving.await??;
    enter(&mut ledger, &calls)?;
    let last = ledger.last_arrival().context("nothing arrived")?;
    Ok(Measured {
        messages,
        bytes: (messages * length) as u64,
        took: last.saturating_duration_since(began),
        accepted: calls.iter().map(|call| call.accepted).collect(),
        delivered: ledger.delivered()?,
        receipt: calls.iter().map(|call| call.receipt).collect(),
    })
}

/// A channel for each length of body: a case never sees what another left.
fn channel(length: usize) -> String {
    format!("bench-{length}")
}

async fn call(mut a: Socket, to: String, channel: String, drawn: Vec<(Bytes, blake3::Hash)>) -> Result<Call> {
    let sums = drawn.iter().map(|(_, sum)| *sum).collect();
    let messages = drawn.into_iter().map(|(body, _)| message(&to, &channel, body)).collect();
    let sent = Instant::now();
    let ids: Vec<String> = a.send(messages).await?.into_iter().map(|one| one.id).collect();
    let accepted = sent.elapsed();
    if let Some(last) = ids.last() {
        a.await_receipt(last).await?;
    }
    Ok(Call { sums, ids, sent, accepted, receipt: sent.elapsed() })
}

fn enter(ledger: &mut Ledger, calls: &[Call]) -> Result<()> {
    for call in calls {
        for (id, sum) in call.ids.iter().zip(&call.sums) {
            ledger.was_accepted(id.clone(), Seen { sum: *sum, at: call.sent })?;
        }
    }
    Ok(())
}

/// Consumes and acknowledges so many messages; ends when the acknowledgements are on disk.
async fn receive(mut c: Socket, length: usize, messages: usize, room: Arc<Semaphore>) -> Result<Ledger> {
    let mut ledger = Ledger::default();
    let mut consumer = c.consume(&channel(length)).await?;
    consumer.credit(u32::try_from(messages)?).await?;
    let (mut came, mut settled) = (0, 0);
    while settled < messages {
        match consumer.news().await? {
            News::Batch(batch) => {
                let at = Instant::now();
                came += batch.len();
                room.add_permits(batch.len());
                let deliveries = batch.iter().map(|one| one.delivery).collect();
                consumer.ack(deliveries).await?;
                for one in batch {
                    ensure!(one.size == one.body.len() as u64, "{} came in parts", one.id);
                    ledger.was_received(one.id, Seen { sum: blake3::hash(&one.body), at })?;
                }
            }
            News::Settled(count) => settled += count,
            News::Data(_) => bail!("a part of a body that nobody expects"),
        }
    }
    ensure!(came == messages, "{came} messages came, {messages} were sent");
    Ok(ledger)
}

async fn one_at_a_time(ends: &Ends, mut bodies: Bodies, messages: usize) -> Result<Measured> {
    let (mut a, mut c, length) = (ends.a.clone(), ends.c.clone(), bodies.length);
    let name = channel(length);
    let mut consumer = c.consume(&name).await?;
    consumer.credit(u32::try_from(messages)?).await?;
    let mut ledger = Ledger::default();
    let (mut accepted, mut receipt) = (Vec::with_capacity(messages), Vec::with_capacity(messages));
    let began = Instant::now();
    for _ in 0..messages {
        let (body, sum) = bodies.draw();
        let sent = Instant::now();
        let sending = async {
            let answer = a.send(vec![message(&ends.to, &name, body)]).await?;
            let id = answer.into_iter().next().context("an answer without an id")?.id;
            accepted.push(sent.elapsed());
            a.await_receipt(&id).await?;
            receipt.push(sent.elapsed());
            anyhow::Ok(id)
        };
        let receiving = async {
            let News::Batch(batch) = consumer.news().await? else { bail!("no message came") };
            let at = Instant::now();
            let [one] = batch.try_into().map_err(|_| anyhow::anyhow!("more than one message came"))?;
            consumer.ack(vec![one.delivery]).await?;
            let News::Settled(1) = consumer.news().await? else { bail!("no settlement came") };
            Ok((one.id, Seen { sum: blake3::hash(&one.body), at }))
        };
        let (id, (received, seen)) = tokio::try_join!(sending, receiving)?;
        ledger.was_accepted(id, Seen { sum, at: sent })?;
        ledger.was_received(received, seen)?;
    }
    let last = ledger.last_arrival().context("nothing arrived")?;
    Ok(Measured {
        messages,
        bytes: (messages * length) as u64,
        took: last.saturating_duration_since(began),
        accepted: accepted.into_iter().collect(),
        delivered: ledger.delivered()?,
        receipt: receipt.into_iter().collect(),
    })
}

/// The file is on disk, and in the page cache, before the clock runs; what arrives is summed and not written.
async fn file(ends: &Ends, path: &Path, bytes: u64) -> Result<Measured> {
    let sum = crate::harness::bodies::write_random(path, bytes, &mut Random::new(bytes))?;
    let (mut a, mut c) = (ends.a.clone(), ends.c.clone());
    let mut consumer = c.consume("bench-file").await?;
    consumer.credit(1).await?;
    let receiving = tokio::spawn(async move {
        let News::Batch(batch) = consumer.news().await? else { bail!("no message came") };
        let [one] = batch.try_into().map_err(|_| anyhow::anyhow!("more than one message came"))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&one.body);
        let mut last = one.body.len() as u64 == one.size;
        while !last {
            let News::Data(data) = consumer.news().await? else { bail!("the body broke off") };
            ensure!(!data.gone, "the body was taken back");
            hasher.update(&data.data);
            last = data.last;
        }
        let at = Instant::now();
        consumer.ack(vec![one.delivery]).await?;
        let News::Settled(1) = consumer.news().await? else { bail!("no settlement came") };
        Ok((one.id, Seen { sum: hasher.finalize(), at }))
    });
    let sent = Instant::now();
    let (parts, requests) = mpsc::channel(UNSENT);
    let reading = tokio::task::spawn_blocking({
        let (path, open) = (path.to_owned(), message(&ends.to, "bench-file", Bytes::new()));
        move || hand_in(&path, open, &parts)
    });
    let answer = a.0.send_stream(ReceiverStream::new(requests)).await?.into_inner();
    let accepted = sent.elapsed();
    reading.await??;
    let id = answer.accepted.into_iter().next().context("an answer without an id")?.id;
    a.await_receipt(&id).await?;
    let receipt = sent.elapsed();
    let (received, seen) = receiving.await??;
    let mut ledger = Ledger::default();
    ledger.was_accepted(id, Seen { sum: blake3::Hash::from_hex(&sum.0)?, at: sent })?;
    ledger.was_received(received, seen)?;
    std::fs::remove_file(path)?;
    Ok(Measured {
        messages: 1,
        bytes,
        took: seen.at.saturating_duration_since(sent),
        accepted: [accepted].into_iter().collect(),
        delivered: ledger.delivered()?,
        receipt: [receipt].into_iter().collect(),
    })
}

fn hand_in(path: &Path, open: super::wire::Message, parts: &mpsc::Sender<SendStreamRequest>) -> Result<()> {
    let mut file = std::fs::File::open(path)?;
    parts.blocking_send(SendStreamRequest { part: Some(Part::Open(open)) })?;
    loop {
        let mut piece = vec![0; PIECE];
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        piece.truncate(count);
        parts.blocking_send(SendStreamRequest { part: Some(Part::Data(piece.into())) })?;
    }
}
