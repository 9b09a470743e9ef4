//! The local socket from outside: a real client over a real socket, a pretended engine behind it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Office;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use waypost::api::RETRY_AFTER;
use waypost::api::wire::receive_request::{Kind as Up, Nack, Open, Settle};
use waypost::api::wire::receive_response::Kind as Down;
use waypost::api::wire::send_stream_request::Part;
use waypost::api::wire::*;
use waypost_core::limits::FRAGMENT;

fn message(node: &str, body: Vec<u8>) -> Message {
    Message { node: node.into(), channel: "jobs".into(), body: body.into(), ..Message::default() }
}

async fn send(office: &Office, messages: Vec<Message>) -> Result<SendResponse, Status> {
    Ok(office.client().await.send(SendRequest { messages }).await?.into_inner())
}

async fn send_stream(office: &Office, parts: Vec<Part>) -> Result<SendResponse, Status> {
    let parts = parts.into_iter().map(|part| SendStreamRequest { part: Some(part) });
    Ok(office.client().await.send_stream(tokio_stream::iter(parts)).await?.into_inner())
}

struct Receiving {
    up: mpsc::Sender<ReceiveRequest>,
    down: Streaming<ReceiveResponse>,
}

impl Receiving {
    async fn open(office: &Office) -> Self {
        let (up, requests) = mpsc::channel(16);
        let receiving = office.client().await.receive(ReceiverStream::new(requests)).await.unwrap();
        let this = Self { up, down: receiving.into_inner() };
        this.say(Up::Open(Open { channel: "jobs".into(), ..Open::default() })).await;
        this
    }

    async fn say(&self, kind: Up) {
        self.up.send(ReceiveRequest { kind: Some(kind) }).await.unwrap();
    }

    async fn hear(&mut self) -> Down {
        self.down.message().await.unwrap().unwrap().kind.unwrap()
    }

    async fn batch(&mut self) -> Vec<Delivery> {
        match self.hear().await {
            Down::Batch(batch) => batch.deliveries,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_batch_is_accepted_in_order() {
    let office = Office::open();
    let accepted = send(&office, (0..3).map(|n| message("b", vec![n])).collect()).await.unwrap().accepted;
    assert_eq!(accepted.len(), 3);
    assert!(accepted.is_sorted_by(|a, b| a.id < b.id));
    assert_eq!(accepted[0].to, common::HERE.to_string());
}

#[tokio::test]
async fn a_streamed_body_arrives_in_exact_fragments() {
    let office = Office::open();
    let mut parts = vec![Part::Open(message("b", Vec::new()))];
    parts.extend((0..7).map(|n| Part::Data(vec![n; 100 << 10].into())));
    send_stream(&office, parts).await.unwrap();
    let grew = |bytes: usize| office.count(&format!("BodyGrew {bytes}"));
    assert_eq!((grew(FRAGMENT), grew((700 << 10) - 2 * FRAGMENT)), (2, 1));
    assert_eq!(office.count("BodyGrew"), 3);
    assert_eq!(office.count("BodyAbandoned"), 0);
}

#[tokio::test]
async fn a_body_of_one_fragment_is_never_a_stream() {
    let office = Office::open();
    let parts = vec![Part::Open(message("b", Vec::new())), Part::Data(vec![0; FRAGMENT].into())];
    send_stream(&office, parts).await.unwrap();
    assert_eq!((office.count("Submitted"), office.count("BodyBegun")), (1, 0));
}

#[tokio::test]
async fn one_large_message_may_come_as_a_batch_and_two_may_not() {
    let office = Office::open();
    let large = || message("b", vec![1; FRAGMENT + 1]);
    assert_eq!(send(&office, vec![large()]).await.unwrap().accepted.len(), 1);
    assert_eq!(office.count("BodyGrew"), 2);
    let refused = send(&office, vec![large(), large()]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("SendStream"), "{refused}");
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_abandoned() {
    let office = Office::open();
    let (parts, stream) = mpsc::channel(8);
    let mut client = office.client().await;
    let call = tokio::spawn(async move { client.send_stream(ReceiverStream::new(stream)).await });
    for part in [Part::Open(message("b", Vec::new())), Part::Data(vec![0; 600 << 10].into())] {
        parts.send(SendStreamRequest { part: Some(part) }).await.unwrap();
    }
    office.until_told("BodyGrew").await;
    call.abort();
    office.until_told("BodyAbandoned").await;
    assert_eq!(office.count("BodyEnded"), 0, "half a body is no message");
}

#[tokio::test]
async fn refusals_have_their_codes_and_trailers() {
    let office = Office::open();
    let code = async |node: &str| send(&office, vec![message(node, Vec::new())]).await.unwrap_err();
    assert_eq!(code("nobody").await.code(), Code::FailedPrecondition);
    assert_eq!(code("reused").await.code(), Code::AlreadyExists);
    assert_eq!(code("any").await.code(), Code::InvalidArgument);
    let full = code("full").await;
    assert_eq!(full.code(), Code::ResourceExhausted);
    assert_eq!(full.metadata().get(RETRY_AFTER).unwrap(), "300");
    assert_eq!(send(&office, Vec::new()).await.unwrap_err().code(), Code::InvalidArgument);
    let early = send_stream(&office, vec![Part::Data(vec![1].into())]).await.unwrap_err();
    assert_eq!(early.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_refusal_ends_a_stream_before_its_last_byte() {
    let office = Office::open();
    let mut parts = vec![Part::Open(message("full", Vec::new()))];
    parts.extend((0..40).map(|_| Part::Data(vec![0; FRAGMENT].into())));
    assert_eq!(send_stream(&office, parts).await.unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(office.count("BodyAbandoned"), 0, "the engine has forgotten it already");
}

#[tokio::test]
async fn messages_come_against_credit_and_settlements_are_confirmed() {
    let office = Office::open();
    send(&office, (0..3).map(|n| message("b", vec![n])).collect()).await.unwrap();
    let mut receiving = Receiving::open(&office).await;
    receiving.say(Up::Credit(2)).await;
    let batch = receiving.batch().await;
    assert_eq!(batch.len(), 2);
    assert_eq!((batch[0].channel.as_str(), batch[0].deliveries), ("jobs", 1));
    receiving.say(Up::Ack(Settle { deliveries: vec![batch[0].delivery] })).await;
    assert!(matches!(receiving.hear().await, Down::Settled(settled) if settled.deliveries == [batch[0].delivery]));
    receiving.say(Up::Nack(Nack { delivery: batch[1].delivery, delay_ms: 5 })).await;
    assert!(matches!(receiving.hear().await, Down::Settled(_)));
    receiving.say(Up::Credit(5)).await;
    let again = receiving.batch().await;
    assert_eq!(again.iter().map(|one| one.deliveries).sum::<u32>(), 3, "one new, one for the second time");
}

#[tokio::test]
async fn a_large_body_is_streamed_behind_its_delivery() {
    let office = Office::open();
    let body: Vec<u8> = (0..9 * FRAGMENT + 5).map(|n| (n % 251) as u8).collect();
    let mut parts = vec![Part::Open(message("b", Vec::new()))];
    parts.extend(body.chunks(1 << 20).map(|part| Part::Data(part.to_vec().into())));
    send_stream(&office, parts).await.unwrap();
    send(&office, vec![message("b", b"small".to_vec())]).await.unwrap();
    let mut receiving = Receiving::open(&office).await;
    receiving.say(Up::Credit(2)).await;
    let batch = receiving.batch().await;
    assert!(batch[0].streamed && batch[0].body.is_empty());
    assert_eq!(batch[0].size, body.len() as u64);
    assert_eq!(batch[1].body, "small");
    let mut received = Vec::new();
    loop {
        let Down::Data(data) = receiving.hear().await else { panic!("only data may follow") };
        assert_eq!(data.delivery, batch[0].delivery);
        received.extend_from_slice(&data.data);
        if data.last {
            break;
        }
    }
    assert!(received == body);
}

#[tokio::test]
async fn a_consumer_that_leaves_is_closed() {
    let office = Office::open();
    let receiving = Receiving::open(&office).await;
    office.until_told("ConsumerOpened").await;
    drop(receiving);
    office.until_told("ConsumerClosed").await;
}

#[tokio::test]
async fn a_wait_ends_with_its_time_and_with_its_client() {
    let office = Office::open();
    let id = send(&office, vec![message("b", Vec::new())]).await.unwrap().accepted.remove(0).id;
    let ask = |wait: Level, timeout_ms| TraceRequest { id: id.clone(), wait: wait.into(), timeout_ms };
    let mut client = office.client().await;
    assert!(client.trace(ask(Level::Delivered, 0)).await.unwrap().into_inner().reached);
    assert!(!client.trace(ask(Level::Consumed, 50)).await.unwrap().into_inner().reached);
    assert_eq!(office.count("WaitEnded"), 1);
    let waiting = ask(Level::Consumed, 0);
    let call = tokio::spawn(async move { client.trace(waiting).await });
    office.until_told_times("TraceAsked", 3).await;
    call.abort();
    office.until_told_times("WaitEnded", 2).await;
}

#[tokio::test]
async fn a_stopping_node_ends_its_streams_and_its_socket() {
    let office = Office::open();
    let mut receiving = Receiving::open(&office).await;
    office.until_told("ConsumerOpened").await;
    let heard = tokio::spawn(async move { receiving.down.message().await });
    office.api.stop().await;
    assert_eq!(heard.await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(!office.socket.exists());
}
