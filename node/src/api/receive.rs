//! Receive: one consumer's stream. Upwards credit and settlements, downwards what the engine has for it; the two run
//! side by side, so that an application that only reads, or only writes, holds up nobody but itself.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use waypost_core::engine::input::Input;
use waypost_core::limits::LEASE_MS;

use super::bodies::Bodies;
use super::callers::Caller;
use super::convert::deliveries;
use super::mailbox::{End, News};
use super::refuse::{invalid, refused, stopping};
use super::registry::{OpenConsumer, Registry};
use super::wire::receive_request::{Kind as Up, Open};
use super::wire::receive_response::{Batch, Kind as Down, Settled};
use super::wire::{ReceiveRequest, ReceiveResponse};
use crate::inputs::{Inputs, Stopped};

/// Messages of the stream that may wait for the application to read.
pub const UNREAD: usize = 4;
/// How long confirmations still flow after an application has closed its side.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The way down; a `Status` ends the stream.
pub type Sink = mpsc::Sender<Result<ReceiveResponse, Status>>;

/// Serves one stream until the application leaves, the engine ends it, or the node stops.
pub async fn serve(
    inputs: Inputs,
    registry: Registry,
    caller: Caller,
    mut requests: Streaming<ReceiveRequest>,
    sink: Sink,
    stop: CancellationToken,
) {
    let served = async {
        let open = first(&mut requests).await?;
        let channel = open.channel.clone();
        let consumer = registry.consumer(&inputs);
        inputs.push(opened(&consumer, caller, open)?).await.map_err(stopping)?;
        tokio::select! {
            end = upward(&inputs, &consumer, &mut requests) => end,
            end = downward(&inputs, &consumer, &channel, &sink) => end,
        }
    };
    let end = tokio::select! {
        end = served => end,
        () = sink.closed() => return,
        () = stop.cancelled() => Err(stopping(Stopped)),
    };
    if let Err(status) = end {
        let _ = sink.send(Err(status)).await;
    }
}

async fn first(requests: &mut Streaming<ReceiveRequest>) -> Result<Open, Status> {
    match requests.message().await?.and_then(|first| first.kind) {
        Some(Up::Open(open)) => Ok(open),
        _ => Err(Status::invalid_argument("the first message must be `open`: it names the channel")),
    }
}

fn opened(consumer: &OpenConsumer, caller: Caller, open: Open) -> Result<Input, Status> {
    Ok(Input::ConsumerOpened {
        consumer: consumer.consumer,
        uid: caller.uid,
        channel: open.channel.parse().map_err(|why| invalid(&why))?,
        lease_ms: if open.lease_ms == 0 { LEASE_MS } else { open.lease_ms },
        max_deliveries: open.max_deliveries,
    })
}

async fn upward(
    inputs: &Inputs,
    consumer: &OpenConsumer,
    requests: &mut Streaming<ReceiveRequest>,
) -> Result<(), Status> {
    while let Some(request) = requests.message().await? {
        let Some(kind) = request.kind else { continue };
        if let Some(input) = input(consumer, kind)? {
            inputs.push(input).await.map_err(stopping)?;
        }
    }
    // Nothing can be settled any more; what was is still confirmed.
    tokio::time::sleep(LAST_WORDS).await;
    Ok(())
}

fn input(open: &OpenConsumer, kind: Up) -> Result<Option<Input>, Status> {
    let consumer = open.consumer;
    Ok(Some(match kind {
        Up::Open(_) => {
            return Err(Status::invalid_argument("the stream is open already: open another one for another channel"));
        }
        Up::Credit(messages) => {
            open.mailbox.want(messages);
            return Ok(open.mailbox.grant().map(|messages| Input::CreditGranted { consumer, messages }));
        }
        Up::Ack(ack) => Input::Acknowledged { consumer, deliveries: ack.deliveries },
        Up::Nack(nack) => Input::Nacked { consumer, delivery: nack.delivery, delay_ms: nack.delay_ms },
        Up::Extend(extend) => {
            let lease_ms = if extend.lease_ms == 0 { LEASE_MS } else { extend.lease_ms };
            Input::Extended { consumer, delivery: extend.delivery, lease_ms }
        }
        Up::Reject(reject) => Input::Refused { consumer, delivery: reject.delivery, reason: reject.reason },
    }))
}

async fn downward(inputs: &Inputs, consumer: &OpenConsumer, channel: &str, sink: &Sink) -> Result<(), Status> {
    let mut bodies = Bodies::default();
    loop {
        let news = consumer.mailbox.news().await;
        if let Some(messages) = consumer.mailbox.grant() {
            let granted = Input::CreditGranted { consumer: consumer.consumer, messages };
            inputs.push(granted).await.map_err(stopping)?;
        }
        for delivery in &news.deliveries {
            bodies.note(delivery);
        }
        let end = news.end.clone();
        for kind in shape(channel, news, &mut bodies) {
            let response = ReceiveResponse { kind: Some(kind) };
            if sink.send(Ok(response)).await.is_err() {
                return Ok(());
            }
        }
        match end {
            None => {}
            Some(End::Refused(refusal)) => return Err(refused(&refusal)),
            Some(End::Overflow) => return Err(overflow()),
        }
        while let Some(wanted) = bodies.next_wanted(consumer.consumer) {
            inputs.push(wanted).await.map_err(stopping)?;
        }
    }
}

/// What to send for the news: confirmations first, deliveries before the parts of their bodies.
fn shape(channel: &str, news: News, bodies: &mut Bodies) -> Vec<Down> {
    let settled = (!news.settled.is_empty()).then(|| Down::Settled(Settled { deliveries: news.settled }));
    let batch =
        (!news.deliveries.is_empty()).then(|| Down::Batch(Batch { deliveries: deliveries(channel, news.deliveries) }));
    let data = news.parts.into_iter().filter_map(|part| bodies.take(part)).map(Down::Data);
    settled.into_iter().chain(batch).chain(data).collect()
}

fn overflow() -> Status {
    Status::resource_exhausted(
        "this stream does not read what it is sent: open a new one, read on, and grant less credit",
    )
}
