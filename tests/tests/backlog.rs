//! Much mail for a destination that is away, and one very large body: a node's memory stays small, its start quick, its
//! disk is given back. Promises P1, P4, P6. `BACKLOG` sets how many messages.

#![expect(clippy::unwrap_used, reason = "a test fails where it finds what should not be")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use waypost_tests::harness::bodies::{Checksum, write_random};
use waypost_tests::harness::client::ids;
use waypost_tests::harness::words::Received;
use waypost_tests::harness::{Chain, Node, Random, Transport, exit};

const MIB: u64 = 1 << 20;
/// Of a node's memory, all of it, at any time.
const MEMORY: u64 = 128 * MIB;
/// From the start of a node with a backlog to its first answer.
const START: Duration = Duration::from_secs(5);
/// From the end of a backlog to the room it took.
const GIVEN_BACK: Duration = Duration::from_secs(60);
/// "At once".
const AT_ONCE: Duration = Duration::from_secs(1);
/// For mail to come; generous, for it measures nothing.
const COMES: Duration = Duration::from_secs(600);
/// Messages handed in by one command.
const BATCH: usize = 10_000;

/// The most memory a node's process has had resident, as the kernel counted it.
fn most_memory(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

fn assert_small(chain: &Chain, when: &str) {
    let nodes = [&chain.a, &chain.b, &chain.c].into_iter().filter(|node| node.pid().is_ok());
    let found: Vec<(&str, u64)> = nodes.map(|node| (node.name(), most_memory(node))).collect();
    let shown: Vec<String> = found.iter().map(|(name, bytes)| format!("{name} {} MiB", bytes / MIB)).collect();
    println!("{when}: memory at most {}", shown.join(", "));
    assert!(found.iter().all(|(_, bytes)| *bytes < MEMORY), "{when}: {shown:?}, more than {} MiB", MEMORY / MIB);
}

/// Bytes of a data directory without its ballast, which is there whatever the mail.
fn on_disk(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    // Files come and go under a running node.
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => on_disk(&entry.path()),
        Ok(found) if entry.file_name() != "ballast" => found.len(),
        _ => 0,
    };
    entries.flatten().map(size).sum()
}

/// Restarts a node that holds a backlog: killed, then stopped in order.
fn assert_starts_quickly(node: &mut Node) {
    for killed in [true, false] {
        if killed {
            node.kill9().unwrap()
        } else {
            node.stop().unwrap()
        }
        let begun = Instant::now();
        node.start().unwrap();
        let took = begun.elapsed();
        println!("{} starts in {took:?} after it was {}", node.name(), if killed { "killed" } else { "stopped" });
        assert!(took < START, "{} took {took:?} to start", node.name());
    }
}

fn await_room(chain: &Chain) {
    let begun = Instant::now();
    let sizes = chain.until("the disks to be given back", GIVEN_BACK, || {
        let mut sizes = Vec::new();
        for node in [&chain.a, &chain.b, &chain.c] {
            let status = node.status()?;
            let live = status.outbox.bytes + status.inbox.bytes + status.transit.bytes;
            sizes.push((on_disk(&node.data()), 2 * live + 64 * MIB));
        }
        Ok(sizes.iter().all(|(found, most)| found <= most).then_some(sizes))
    });
    let sizes: Vec<String> = sizes.unwrap().iter().map(|(found, _)| (found / MIB).to_string()).collect();
    println!("data directories after {:?}: {} MiB", begun.elapsed(), sizes.join(", "));
}

/// Hands in `count` messages; gives what was sent under which id.
fn hand_in(chain: &Chain, to: &str, count: usize) -> BTreeMap<String, Checksum> {
    let mut random = Random::new(9);
    let mut sent = BTreeMap::new();
    while sent.len() < count {
        let lines: Vec<String> = (0..BATCH.min(count - sent.len()))
            .map(|number| {
                let length = random.below(400) as usize;
                format!("{} {}", sent.len() + number, random.letters(length))
            })
            .collect();
        let accepted = ids(&chain.a.send_lines(to, &lines, &[]).unwrap().ok().unwrap()).unwrap();
        assert_eq!(accepted.len(), lines.len());
        sent.extend(accepted.into_iter().zip(lines.iter().map(|line| Checksum::of(line.as_bytes()))));
    }
    sent
}

/// C fetches all of it, each once and with its bytes.
fn assert_all_come_once(chain: &Chain, mut sent: BTreeMap<String, Checksum>) {
    let mut consumer = chain.c.follow("work", COMES).unwrap();
    for line in BufReader::new(consumer.stdout.take().unwrap()).lines() {
        let message: Received = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(sent.remove(&message.id), Some(Checksum::of(&message.body().unwrap())), "{}", message.id);
        if sent.is_empty() {
            break;
        }
    }
    assert!(sent.is_empty(), "{} did not come", sent.len());
    chain.await_empty().unwrap();
    let inbox = chain.until("an empty inbox", COMES, || Ok((chain.c.status()?.inbox.messages == 0).then_some(())));
    inbox.unwrap();
    consumer.kill().unwrap();
    consumer.wait().unwrap();
}

#[test]
fn a_backlog_for_an_absent_node_is_held_and_drained_in_little_memory() {
    let count: usize = std::env::var("BACKLOG").map_or(100_000, |text| text.parse().unwrap());
    let limit = |chain: &mut Chain| chain.a.set("WAYPOST_OUTBOX_MESSAGES", &count.to_string());
    let mut chain = Chain::over("backlog", Transport::Tcp, limit).unwrap();
    chain.c.stop().unwrap();
    let to = chain.c.channel("work").unwrap();
    let begun = Instant::now();
    let sent = hand_in(&chain, &to, count);
    println!("{count} messages accepted in {:?}", begun.elapsed());
    assert_eq!(chain.a.status().unwrap().outbox.messages, count as u64);
    assert_small(&chain, "with the backlog");

    let begun = Instant::now();
    let refused = chain.a.send_with(&to, b"one too many", &[]).unwrap().expect(exit::TRY_AGAIN).unwrap();
    println!("one too many is refused in {:?}: {}", begun.elapsed(), refused.stderr.trim());
    assert!(refused.said().contains("outbox is full") && refused.said().contains("retry after"), "{refused:?}");
    assert!(begun.elapsed() < AT_ONCE, "the refusal took {:?}", begun.elapsed());

    // As a line of messages waits for C, so does what the relay took.
    let held =
        chain.until("b to hold some of it", COMES, || Ok((chain.b.status()?.transit.envelopes > 0).then_some(())));
    held.unwrap();
    assert_starts_quickly(&mut chain.a);
    assert_starts_quickly(&mut chain.b);
    assert_small(&chain, "after the starts");

    chain.c.start().unwrap();
    let begun = Instant::now();
    assert_all_come_once(&chain, sent);
    println!("drained in {:?}", begun.elapsed());
    assert_small(&chain, "drained");
    await_room(&chain);
}

#[test]
fn a_body_of_a_gibibyte_arrives_whole_in_little_memory() {
    let mut chain = Chain::a_b_c("gibibyte").unwrap();
    let file = chain.sandbox.file("gibibyte");
    let sum = write_random(&file, 1 << 30, &mut Random::new(3)).unwrap();
    let begun = Instant::now();
    let mut sending =
        chain.a.begin_send_files(&chain.c.channel("files").unwrap(), std::slice::from_ref(&file)).unwrap();
    let incoming = chain.sandbox.file("incoming");
    chain.c.recv_into("files", 1, &incoming, COMES).unwrap();
    assert!(sending.wait().unwrap().success());
    println!("a gibibyte from end to end in {:?}", begun.elapsed());
    assert_small(&chain, "after a gibibyte");
    assert_eq!(Checksum::of_folder(&incoming).unwrap(), [sum]);
    chain.await_empty().unwrap();
    assert_small(&chain, "and at the end");
    await_room(&chain);
    chain.a.stop().unwrap();
}
