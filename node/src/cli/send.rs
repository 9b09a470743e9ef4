//! `send`: messages from files, standard input or lines, accepted by the node and, if wanted, waited for.

mod large;
mod sources;
mod wait;

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use tonic::{Code, Status};

use super::Context;
use super::args::{ClassName, SendArgs, WaitFor};
use super::connect::{Client, connect};
use super::exit::{Exit, Failure};
use super::output::{json, line};
use crate::api::{RETRY_AFTER, wire};
use sources::{Batch, Source};

/// An accepted message, and how far it is known to be.
#[derive(Clone, Serialize)]
struct Sent {
    id: String,
    channel: String,
    to: String,
    state: String,
}

/// Sends what was given, and waits as long as wanted.
///
/// # Errors
/// Something cannot be read or is not accepted, or a message ended otherwise than waited for.
pub async fn send(context: &Context, args: SendArgs) -> Result<Exit, Failure> {
    let mut sources = sources::open(&args.files, args.lines)?;
    let mut client = connect(context).await?;
    let mut outbound = Outbound { context, args: &args, sent: Vec::new(), numbered: 0 };
    while let Some(source) = sources.next().await? {
        match source {
            Source::Batch(batch) => outbound.batch(&mut client, batch).await?,
            Source::Large(file) => outbound.large(&mut client, file).await?,
        }
        if !outbound.waits() {
            outbound.sent.clear();
        }
    }
    let sent = outbound.sent;
    wait::wait(context, &client, &args, sent).await
}

struct Outbound<'a> {
    context: &'a Context,
    args: &'a SendArgs,
    /// Accepted and still to be waited for.
    sent: Vec<Sent>,
    /// Messages that were given an idempotency key.
    numbered: u64,
}

impl Outbound<'_> {
    fn waits(&self) -> bool {
        self.args.wait != WaitFor::Accepted
    }

    async fn batch(&mut self, client: &mut Client, batch: Batch) -> Result<(), Failure> {
        let message = |(name, body)| wire::Message { body, ..self.message(name) };
        let mut messages: Vec<wire::Message> = batch.into_iter().map(message).collect();
        messages.iter_mut().for_each(|message| self.number(message));
        let answer = self.once_known(client, wire::SendRequest { messages }).await?;
        self.accepted(answer)
    }

    /// Who waits for a delivery also waits for the destination's name to be heard of: nodes meet in their own time.
    async fn once_known(&self, client: &mut Client, request: wire::SendRequest) -> Result<wire::SendResponse, Failure> {
        let deadline = self.args.timeout.map(|timeout| Instant::now() + timeout);
        for attempt in 0_u64.. {
            let refusal = match client.send(request.clone()).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(refusal) => refusal,
            };
            let is_late = deadline.is_some_and(|at| Instant::now() >= at);
            let Some(pause) = until_met(&refusal).filter(|_| self.waits() && !is_late) else {
                return Err(refusal.into());
            };
            if attempt == 0 {
                eprintln!("waypost: {}: waiting for that", refusal.message());
            }
            tokio::time::sleep(pause).await;
        }
        Err(Failure::failed("the node was never met"))
    }

    async fn large(&mut self, client: &mut Client, file: sources::Large) -> Result<(), Failure> {
        let mut open = self.message(file.name.clone());
        self.number(&mut open);
        let answer = large::send(client, open, file).await?;
        self.accepted(answer)
    }

    fn message(&self, file_name: Option<String>) -> wire::Message {
        let args = self.args;
        let ms = |time: Option<std::time::Duration>| {
            time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
        };
        let named = file_name.map(|name| ("file-name".to_owned(), name));
        let class = match args.class {
            ClassName::Urgent => wire::Class::Urgent,
            ClassName::Normal => wire::Class::Normal,
            ClassName::Bulk => wire::Class::Bulk,
        };
        wire::Message {
            node: args.to.node.clone(),
            channel: args.to.channel.to_string(),
            headers: named.into_iter().chain(args.headers.iter().cloned()).collect(),
            class: class.into(),
            lifetime_ms: ms(args.ttl),
            key: args.key.clone().unwrap_or_default(),
            delay_ms: ms(args.delay),
            ..wire::Message::default()
        }
    }

    /// One message takes the key as it is; of several each takes its own, the same ones when all is sent again.
    fn number(&mut self, message: &mut wire::Message) {
        let Some(key) = &self.args.idempotency_key else { return };
        self.numbered += 1;
        let several = self.args.lines || self.args.files.len() > 1;
        message.idempotency_key = if several { format!("{key}/{}", self.numbered) } else { key.clone() };
    }

    fn accepted(&mut self, answer: wire::SendResponse) -> Result<(), Failure> {
        let channel = self.args.to.channel.to_string();
        for accepted in answer.accepted {
            let sent =
                Sent { id: accepted.id, channel: channel.clone(), to: accepted.to, state: "accepted".to_owned() };
            match (self.context.json, self.waits()) {
                (false, _) => line(&sent.id)?,
                (true, false) => json(&sent)?,
                // One object a message: it is printed with the state that was waited for.
                (true, true) => {}
            }
            self.sent.push(sent);
        }
        Ok(())
    }
}

/// How soon to ask again for a name that is not known yet; `None`: that is not what is wrong.
fn until_met(refusal: &Status) -> Option<Duration> {
    let after = refusal.metadata().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    (refusal.code() == Code::FailedPrecondition).then(|| Duration::from_millis(after))
}

/// The name a file goes by on other hosts.
fn base_name(path: &Path) -> Option<String> {
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}
