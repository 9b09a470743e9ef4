//! Frames for people: what kind one is and what it says, in a line.

use std::fmt::Write as _;

use prost::Message as _;
use waypost_core::id::NodeId;
use waypost_proto::hop::{self, frame::Kind};

/// The frame's kind in one word.
#[must_use]
pub fn kind_of(frame: &hop::Frame) -> &'static str {
    match &frame.kind {
        Some(Kind::Hello(_)) => "hello",
        Some(Kind::Credit(_)) => "credit",
        Some(Kind::Envelope(_)) => "envelope",
        Some(Kind::Offer(_)) => "offer",
        Some(Kind::Want(_)) => "want",
        Some(Kind::Have(_)) => "have",
        Some(Kind::Gone(_)) => "gone",
        Some(Kind::Word(_)) => "word",
        Some(Kind::Receipt(_)) => "receipt",
        Some(Kind::RetryLater(_)) => "retry_later",
        Some(Kind::Custody(_)) => "custody",
        Some(Kind::Dropped(_)) => "dropped",
        Some(Kind::Digest(_)) => "digest",
        Some(Kind::Ids(_)) => "ids",
        Some(Kind::Get(_)) => "get",
        Some(Kind::Fact(_)) => "fact",
        Some(Kind::Join(_)) => "join",
        Some(Kind::Admitted(_)) => "admitted",
        _ => "unknown",
    }
}

/// What it says.
#[must_use]
pub fn describe(frame: &hop::Frame) -> String {
    let mut line = kind_of(frame).to_owned();
    // Writing to a string does not fail.
    let _ = match &frame.kind {
        Some(Kind::Envelope(it)) => {
            write!(line, " #{} wave {} age {} {}", it.transfer, it.wave, it.age_ms, header(&it.header))
        }
        Some(Kind::Offer(it)) => {
            let items = it.items.iter().map(|item| format!("{}w{}", name(item.name.as_ref()), item.wave));
            write!(line, " {} [{}]", it.offer, items.collect::<Vec<_>>().join(" "))
        }
        Some(Kind::Want(it) | Kind::Have(it) | Kind::Gone(it)) => {
            write!(line, " offer {} {:?} transfers {:?}", it.offer, it.items, it.transfers)
        }
        Some(Kind::RetryLater(it)) => {
            write!(
                line,
                " {:?} after {} offer {} {:?} transfers {:?}",
                it.reason(),
                it.after_ms,
                it.offer,
                it.items,
                it.transfers
            )
        }
        Some(Kind::Custody(it)) => {
            write!(line, " class {} {:?} at {}", it.class, it.ranges, it.durable_sequence)
        }
        Some(Kind::Word(it)) => write!(line, " {}", word(it)),
        Some(Kind::Receipt(it)) => write!(line, " {}", receipt(it)),
        Some(Kind::Dropped(it)) => {
            write!(line, " [{}]", it.names.iter().map(|it| name(Some(it))).collect::<Vec<_>>().join(" "))
        }
        _ => Ok(()),
    };
    line
}

fn short(node: &[u8]) -> String {
    NodeId::from_slice(node).map_or_else(|| "?".to_owned(), |node| node.to_string().chars().rev().take(4).collect())
}

fn flow(flow: Option<&hop::Flow>) -> String {
    let Some(flow) = flow else { return "?".to_owned() };
    let counter = flow.incarnation.get(7).copied().unwrap_or_default();
    format!("{}→{}/{}i{counter}", short(&flow.source), short(&flow.destination), flow.class)
}

fn name(name: Option<&hop::EnvelopeName>) -> String {
    let Some(name) = name else { return "?".to_owned() };
    format!("{}:{}+{}", flow(name.flow.as_ref()), name.first, name.count)
}

fn header(header: &[u8]) -> String {
    waypost_core::envelope::Header::decode(header).map_or_else(
        |_| "?".to_owned(),
        |it| {
            let (it, flow) = (&it.name, &it.name.flow);
            format!(
                "{}→{}/{}i{}:{}+{}",
                short(&flow.source.0),
                short(&flow.destination.0),
                flow.class.to_wire(),
                flow.incarnation.counter,
                it.first,
                it.count
            )
        },
    )
}

fn word(attested: &hop::Attested) -> String {
    let content = attested.object.as_ref().map(|it| hop::WordContent::decode(it.content.clone()));
    let Some(Ok(it)) = content else { return "?".to_owned() };
    format!(
        "{} v{} floor {} mark {} ended {:?} waves {:?} closed {} end {}",
        flow(it.flow.as_ref()),
        it.version,
        it.floor,
        it.second_mark,
        it.ended.iter().map(|it| (it.first, it.last, it.ending)).collect::<Vec<_>>(),
        it.waves.iter().map(|it| (it.first, it.last, it.wave)).collect::<Vec<_>>(),
        it.closed,
        it.end
    )
}

fn receipt(attested: &hop::Attested) -> String {
    let content = attested.object.as_ref().map(|it| hop::ReceiptContent::decode(it.content.clone()));
    let Some(Ok(it)) = content else { return "?".to_owned() };
    let spans = |of: &[hop::Range]| of.iter().map(|it| (it.first, it.last)).collect::<Vec<_>>();
    format!(
        "{} v{} floor {} word {} delivered {:?} rejected {:?} skipped {:?} consumed {:?} untagged {:?}",
        flow(it.flow.as_ref()),
        it.version,
        it.floor,
        it.word_seen,
        it.delivered.iter().map(|it| (it.first, it.last)).collect::<Vec<_>>(),
        it.rejected.iter().map(|it| (it.first, it.last, it.reason)).collect::<Vec<_>>(),
        spans(&it.skipped),
        spans(&it.consumed),
        spans(&it.untagged)
    )
}
