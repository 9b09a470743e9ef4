//! `recv`: messages from a channel to standard output, files or a command. Acknowledges only what is safe there, and
//! ends only when its acknowledgements are in the node's log.

mod command;
mod consumer;
mod files;
mod print;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::Context;
use super::args::RecvArgs;
use super::connect::connect;
use super::exit::{Exit, Failure};
use super::output::{count as count_of, utc};
use crate::api::wire;
use command::Commands;
use consumer::{Consumer, Part};
use files::Files;
use print::Printer;

/// The first wait after a failure; it doubles with every delivery.
const NACK_FIRST: Duration = Duration::from_secs(1);
/// The longest wait after a failure.
const NACK_MOST: Duration = Duration::from_secs(60);

/// What became of a message at its outlet.
enum Taken {
    /// It is where it should be.
    Done,
    /// It is not, and why.
    Failed(String),
    /// It is somebody else's by now: nothing may be said about it.
    Gone,
}

/// Where messages go.
enum Outlet<'a> {
    Print(Printer),
    Files(Files),
    Command(Commands<'a>),
}

impl Outlet<'_> {
    /// Messages to have at hand: none that another consumer could be working on instead.
    fn prefetch(&self) -> u64 {
        match self {
            Self::Print(_) => 512,
            Self::Files(_) => 8,
            Self::Command(_) => 1,
        }
    }

    async fn take(&mut self, consumer: &mut Consumer, message: &wire::Delivery) -> Result<Taken, Failure> {
        match self {
            Self::Print(printer) => printer.take(consumer, message).await,
            Self::Files(files) => files.take(consumer, message).await,
            Self::Command(commands) => commands.take(consumer, message).await,
        }
    }

    /// Whether more messages may be taken before the next flush.
    fn gathers(&self) -> bool {
        matches!(self, Self::Print(printer) if printer.has_room())
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        match self {
            Self::Print(printer) => printer.flush().await,
            Self::Files(_) | Self::Command(_) => Ok(()),
        }
    }
}

/// Receives until enough messages have ended or none comes any more.
///
/// # Errors
/// No node answers, fewer messages came than asked for, or they cannot be put where they should be.
pub async fn recv(context: &Context, args: RecvArgs) -> Result<Exit, Failure> {
    let outlet = if let Some(directory) = &args.out {
        Outlet::Files(Files::open(directory.clone(), context.json)?)
    } else if let Some(command) = &args.exec {
        Outlet::Command(Commands::new(command, context))
    } else {
        Outlet::Print(Printer::new(context.json, args.raw))
    };
    let client = connect(context).await?;
    let max_deliveries = args.max_deliveries.unwrap_or(0);
    let consumer = Consumer::open(client, args.channel.to_string(), max_deliveries).await?;
    let count = args.count.or((!args.follow).then_some(1));
    let mut receiver = Receiver { consumer, outlet, max_deliveries, count, ended: 0, dead: 0, done: Vec::new() };
    let whole = receiver.run(args.timeout).await?;
    receiver.consumer.confirm().await?;
    receiver.verdict(whole, &args)
}

struct Receiver<'a> {
    consumer: Consumer,
    outlet: Outlet<'a>,
    max_deliveries: u32,
    /// How many messages to end; `None`: no end.
    count: Option<u64>,
    /// How many have ended: acknowledged, or dead-lettered here.
    ended: u64,
    dead: u64,
    /// At the outlet and not acknowledged: to be flushed first.
    done: Vec<u64>,
}

impl Receiver<'_> {
    /// Whether all that was asked for came before the time was up.
    async fn run(&mut self, timeout: Option<Duration>) -> Result<bool, Failure> {
        let mut deadline = timeout.map(|timeout| Instant::now() + timeout);
        while self.count.is_none_or(|count| self.ended < count) {
            self.top_up().await?;
            let Some(message) = self.consumer.next(deadline).await? else { return Ok(false) };
            self.take(&message).await?;
            deadline = timeout.map(|timeout| Instant::now() + timeout);
        }
        Ok(true)
    }

    async fn take(&mut self, message: &wire::Delivery) -> Result<(), Failure> {
        match self.outlet.take(&mut self.consumer, message).await? {
            Taken::Done => {
                self.done.push(message.delivery);
                self.ended += 1;
            }
            Taken::Failed(why) => self.failed(message, &why).await?,
            Taken::Gone => {
                self.consumer.forget(message.delivery);
                eprintln!("waypost: message {} took too long and will come again", message.id);
            }
        }
        let enough = self.count.is_some_and(|count| self.ended >= count);
        if enough || !self.outlet.gathers() || !self.consumer.has_more() {
            self.outlet.flush().await?;
            self.consumer.ack(std::mem::take(&mut self.done)).await?;
        }
        Ok(())
    }

    async fn failed(&mut self, message: &wire::Delivery, why: &str) -> Result<(), Failure> {
        let delay = nack_delay(message.deliveries);
        self.consumer.nack(message.delivery, delay).await?;
        if self.max_deliveries > 0 && message.deliveries >= self.max_deliveries {
            self.ended += 1;
            self.dead += 1;
            let times = if message.deliveries == 1 { "delivery" } else { "deliveries" };
            let after = format!("{} {times}", message.deliveries);
            eprintln!("waypost: message {}: {why}; dead-lettered after {after}", message.id);
        } else {
            eprintln!("waypost: message {}: {why}; again in {} s", message.id, delay.as_secs());
        }
        Ok(())
    }

    /// Asks for no more than may still be ended here, so that others are not kept waiting for it.
    async fn top_up(&mut self) -> Result<(), Failure> {
        let most = self.outlet.prefetch();
        let wanted = self.count.map_or(most, |count| most.min(count - self.ended));
        let missing = wanted.saturating_sub(self.consumer.at_hand());
        // In large steps: not one call for each message.
        if missing * 2 >= wanted {
            self.consumer.credit(u32::try_from(missing).unwrap_or(u32::MAX)).await?;
        }
        Ok(())
    }

    fn verdict(&self, whole: bool, args: &RecvArgs) -> Result<Exit, Failure> {
        if self.dead > 0 {
            return Err(Failure::failed(format!("{} dead-lettered", count_of(self.dead, "message"))));
        }
        match self.count {
            Some(count) if !whole && !args.follow => {
                let message =
                    format!("{} of {} came to {} in time", self.ended, count_of(count, "message"), args.channel);
                Err(Failure::new(Exit::NotYet, message))
            }
            _ => Ok(Exit::Done),
        }
    }
}

/// 1 s after the first delivery, then twice as long each time, up to a minute.
fn nack_delay(deliveries: u32) -> Duration {
    let doublings = deliveries.saturating_sub(1).min(6);
    (NACK_FIRST * (1 << doublings)).min(NACK_MOST)
}

/// A received message as JSON, without its body.
#[derive(Serialize)]
struct Received<'a> {
    id: &'a str,
    from: &'a str,
    channel: &'a str,
    deliveries: u32,
    sent_at: String,
    headers: &'a BTreeMap<String, String>,
}

impl<'a> Received<'a> {
    fn of(message: &'a wire::Delivery) -> Self {
        Self {
            id: &message.id,
            from: &message.from,
            channel: &message.channel,
            deliveries: message.deliveries,
            sent_at: utc(message.sent_at_ms),
            headers: &message.headers,
        }
    }
}

/// The body of a message, part by part, wherever it is.
async fn next_part(consumer: &mut Consumer, message: &wire::Delivery, first: &mut bool) -> Result<Part, Failure> {
    if message.streamed {
        return consumer.part(message.delivery).await;
    }
    Ok(if std::mem::take(first) { Part::Bytes(message.body.clone()) } else { Part::End })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        let seconds: Vec<_> = (0..=9).map(|deliveries| nack_delay(deliveries).as_secs()).collect();
        assert_eq!(seconds, [1, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }
}
