//! `dead list`, `dead retry`, `dead drop`: what no consumer could do anything with, and what is to become of it.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Context;
use super::args::DeadCommand;
use super::connect::{Client, connect};
use super::exit::{Exit, Failure};
use super::output::{count, json, line, local, size, utc};
use crate::api::wire;
use crate::api::wire::settle_dead_letters_request::Letter;

/// Letters settled with one call.
const AT_ONCE: usize = 64;

#[derive(Serialize)]
struct Dead {
    id: String,
    channel: String,
    from: String,
    reason: String,
    deliveries: u32,
    died_at: String,
}

#[derive(Serialize)]
struct Settled {
    id: String,
    state: &'static str,
}

/// Carries out the command.
///
/// # Errors
/// A letter is not there or in use, or no node answers.
pub async fn dead(context: &Context, command: DeadCommand) -> Result<Exit, Failure> {
    let mut client = connect(context).await?;
    match command {
        DeadCommand::List(args) => {
            list(context, &mut client, args.channel.map(|name| name.to_string()).unwrap_or_default()).await
        }
        DeadCommand::Retry(args) => settle(context, &mut client, (!args.all).then_some(args.ids), true).await,
        DeadCommand::Drop(args) => settle(context, &mut client, Some(args.ids), false).await,
    }
}

/// The dead letters of a channel, or of all, page by page.
struct Pages {
    channel: String,
    after: String,
    is_last: bool,
}

impl Pages {
    fn of(channel: String) -> Self {
        Self { channel, after: String::new(), is_last: false }
    }

    async fn next(&mut self, client: &mut Client) -> Result<Option<Vec<wire::DeadLetter>>, Failure> {
        if self.is_last {
            return Ok(None);
        }
        let request = wire::DeadLettersRequest { channel: self.channel.clone(), after: self.after.clone() };
        let page = client.dead_letters(request).await?.into_inner();
        (self.is_last, self.after) = (page.next.is_empty(), page.next);
        Ok(Some(page.letters))
    }
}

async fn list(context: &Context, client: &mut Client, channel: String) -> Result<Exit, Failure> {
    let mut pages = Pages::of(channel);
    let mut listed: u64 = 0;
    while let Some(letters) = pages.next(client).await? {
        for letter in letters {
            listed += 1;
            if context.json {
                let wire::DeadLetter { id, channel, from, reason, deliveries, died_at_ms, .. } = letter;
                json(&Dead { id, channel, from, reason, deliveries, died_at: utc(died_at_ms) })?;
            } else {
                let (died, times) = (local(letter.died_at_ms), count(letter.deliveries.into(), "time"));
                let wire::DeadLetter { id, channel, from, reason, size: bytes, .. } = letter;
                line(&format!("{id}  {channel}  {died}  {reason} (handed out {times}, {}, from {from})", size(bytes)))?;
            }
        }
    }
    if listed == 0 && !context.json {
        eprintln!("no dead letters");
    }
    Ok(Exit::Done)
}

/// Looks all of them up first: what dies again meanwhile is not retried for ever.
async fn settle(
    context: &Context,
    client: &mut Client,
    ids: Option<Vec<String>>,
    retry: bool,
) -> Result<Exit, Failure> {
    let mut missing: Option<BTreeSet<String>> = ids.map(|ids| ids.into_iter().collect());
    let mut found = Vec::new();
    let mut pages = Pages::of(String::new());
    while missing.as_ref().is_none_or(|missing| !missing.is_empty()) {
        let Some(letters) = pages.next(client).await? else { break };
        let is_meant = |letter: &wire::DeadLetter| missing.as_mut().is_none_or(|missing| missing.remove(&letter.id));
        let meant = letters.into_iter().filter(is_meant);
        found.extend(meant.map(|letter| Letter { id: letter.id, place: letter.place }));
    }
    let mut in_use = 0;
    for letters in found.chunks(AT_ONCE) {
        let request = wire::SettleDeadLettersRequest { letters: letters.to_vec(), retry };
        let done = client.settle_dead_letters(request).await?.into_inner().ids;
        in_use += (letters.len() - done.len()) as u64;
        for id in done {
            let state = if retry { "retried" } else { "dropped" };
            if context.json { json(&Settled { id, state })? } else { line(&format!("{id}  {state}"))? }
        }
    }
    if let Some(id) = missing.and_then(|mut missing| missing.pop_first()) {
        return Err(Failure::failed(format!("no dead letter {id} is here: `waypost dead list` shows those that are")));
    }
    if in_use > 0 {
        let message =
            format!("{} in a consumer's hands or gone meanwhile: try again later", count(in_use, "dead letter"));
        return Err(Failure::new(Exit::NotYet, message));
    }
    Ok(Exit::Done)
}
