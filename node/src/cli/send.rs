//! `send`: messages from files, standard input or lines, accepted by the node and, if wanted, waited for.

mod large;
mod sources;
mod wait;

use std::path::Path;

use serde::Serialize;

use super::Context;
use super::args::{ClassName, SendArgs, WaitFor};
use super::connect::{Client, connect};
use super::exit::{Exit, Failure};
use super::output::{json, line};
use crate::api::wire;
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
        let answer = client.send(wire::SendRequest { messages }).await?.into_inner();
        self.accepted(answer)
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

/// The name a file goes by on other hosts.
fn base_name(path: &Path) -> Option<String> {
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}
