//! The spine: a message from A to C through B, whatever its size, whoever is down, whoever is killed.
//! Promises P1 (accepted is on disk), P2 (custody), P3 (one ending), P4 (once), P6 (it moves as soon as it can).

#![expect(clippy::unwrap_used, reason = "a test fails where it finds what should not be")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use waypost_tests::harness::bodies::{Checksum, write_random};
use waypost_tests::harness::client::{PATIENT, ids};
use waypost_tests::harness::{Chain, Random, Transport};

const FRAGMENT: u64 = 256 * 1024;

#[test]
fn a_message_passes_through_b_and_climbs_the_whole_ladder() {
    let chain = Chain::a_b_c("spine").unwrap();
    let (a, b, c) = (chain.a.address().unwrap(), chain.b.address().unwrap(), chain.c.address().unwrap());
    let sent = chain.a.send_with(&chain.c.channel("greetings").unwrap(), b"hello", &["--wait", "delivered"]).unwrap();
    let id = ids(&sent.ok().unwrap()).unwrap().pop().unwrap();
    let trace = chain.a.trace(&id).unwrap();
    assert!(trace.passed("accepted") && trace.passed("delivered"), "{trace:?}");
    assert!(trace.was_held_by(b), "{trace:?}");

    let received = chain.c.recv("greetings", 1, PATIENT).unwrap().pop().unwrap();
    assert_eq!((received.id.as_str(), received.from.as_str(), received.deliveries), (id.as_str(), a, 1));
    assert_eq!(received.body().unwrap(), b"hello");
    chain.await_passed(&id, "consumed").unwrap();
    chain.await_empty().unwrap();

    assert!(!chain.a.is_connected_to(c).unwrap() && !chain.c.is_connected_to(a).unwrap(), "A and C met directly");
}

#[test]
fn the_same_over_quic_and_back() {
    let chain = Chain::over("quic", Transport::Quic, |_| ()).unwrap();
    let id = chain.a.send(&chain.c.channel("work").unwrap(), b"there").unwrap();
    assert_eq!(chain.c.recv("work", 1, PATIENT).unwrap()[0].id, id);
    let back = chain.c.send(&chain.a.channel("work").unwrap(), b"and back").unwrap();
    assert_eq!(chain.a.recv("work", 1, PATIENT).unwrap()[0].id, back);
    let peers = chain.a.peers().unwrap();
    let transports: Vec<_> =
        peers.iter().filter(|peer| peer.connected).filter_map(|peer| peer.transport.clone()).collect();
    assert!(transports.iter().all(|transport| transport.contains("quic")), "{transports:?}");
    chain.await_empty().unwrap();
}

#[test]
fn bodies_arrive_as_they_were_at_every_edge_of_a_fragment() {
    let chain = Chain::a_b_c("bodies").unwrap();
    let mut random = Random::new(1);
    let outgoing = chain.sandbox.file("outgoing");
    std::fs::create_dir(&outgoing).unwrap();
    let mut files = Vec::new();
    for length in [0, 1, FRAGMENT, FRAGMENT + 1, 64 << 20] {
        let path = outgoing.join(format!("{length}.bin"));
        write_random(&path, length, &mut random).unwrap();
        files.push(path);
    }
    let sent = chain.a.send_files(&chain.c.channel("files").unwrap(), &files).unwrap();
    assert_eq!(sent.iter().collect::<BTreeSet<_>>().len(), files.len());
    let incoming = chain.sandbox.file("incoming");
    chain.c.recv_into("files", files.len(), &incoming, PATIENT).unwrap();
    assert_eq!(Checksum::of_folder(&incoming).unwrap(), Checksum::of_folder(&outgoing).unwrap());
    chain.await_empty().unwrap();
}

#[test]
fn mail_for_an_absent_node_arrives_within_two_seconds_of_its_connection() {
    let mut chain = Chain::a_b_c("absent").unwrap();
    chain.c.stop().unwrap();
    let id = chain.a.send(&chain.c.channel("work").unwrap(), b"for later").unwrap();
    chain.until("b to hold it", PATIENT, || Ok((chain.b.status()?.transit.envelopes > 0).then_some(()))).unwrap();
    chain.c.start().unwrap();
    let client = chain.c.client();
    let waiting = std::thread::spawn(move || (client.recv("work", 1, PATIENT), Instant::now()));
    chain.await_connected(&chain.c).unwrap();
    let connected = Instant::now();
    let (received, arrived) = waiting.join().unwrap();
    assert_eq!(received.unwrap()[0].id, id);
    let took = arrived.saturating_duration_since(connected);
    assert!(took < Duration::from_secs(2), "{took:?} from the connection to the message");
    chain.await_empty().unwrap();
}

/// A hundred small bodies, each its own.
fn lines(mark: &str) -> Vec<String> {
    (0..100).map(|number| format!("{mark} {number}")).collect()
}

/// C gets each of `sent` once, and nothing else.
fn assert_arrive_once(chain: &Chain, sent: &[String]) {
    let received = chain.c.recv("work", sent.len(), PATIENT).unwrap();
    let received: BTreeSet<&str> = received.iter().map(|message| message.id.as_str()).collect();
    let sent: BTreeSet<&str> = sent.iter().map(String::as_str).collect();
    assert_eq!(received, sent);
    chain.await_empty().unwrap();
    assert_eq!(chain.c.status().unwrap().inbox.messages, 0);
}

#[test]
fn what_was_accepted_survives_a_kill_of_the_sender() {
    let mut chain = Chain::a_b_c("kill-a").unwrap();
    // Nobody to hand on to: what survives, survives on A's disk.
    chain.b.stop().unwrap();
    let accepted = chain.a.send_lines(&chain.c.channel("work").unwrap(), &lines("a"), &[]).unwrap();
    chain.a.kill9().unwrap();
    let accepted = ids(&accepted.ok().unwrap()).unwrap();
    chain.a.start().unwrap();
    assert_eq!(chain.a.status().unwrap().outbox.messages, 100);
    chain.b.start().unwrap();
    assert_arrive_once(&chain, &accepted);
}

#[test]
fn what_a_relay_took_survives_a_kill_of_the_relay() {
    let mut chain = Chain::a_b_c("kill-b").unwrap();
    chain.c.stop().unwrap();
    let accepted = chain.a.send_lines(&chain.c.channel("work").unwrap(), &lines("b"), &[]).unwrap();
    let accepted = ids(&accepted.ok().unwrap()).unwrap();
    for id in &accepted {
        chain.await_passed(id, "held").unwrap();
    }
    chain.b.kill9().unwrap();
    // The sender is not there to send again: what arrives comes from B's disk.
    chain.a.stop().unwrap();
    chain.b.start().unwrap();
    chain.c.start().unwrap();
    let arrived = chain.until("all of it at c", PATIENT, || {
        let inbox = chain.c.status()?.inbox.messages;
        Ok((inbox == 100).then_some(inbox))
    });
    arrived.unwrap();
    chain.a.start().unwrap();
    assert_arrive_once(&chain, &accepted);
}

#[test]
fn what_was_delivered_survives_a_kill_of_the_receiver() {
    let mut chain = Chain::a_b_c("kill-c").unwrap();
    let accepted = chain.a.send_lines(&chain.c.channel("work").unwrap(), &lines("c"), &[]).unwrap();
    let accepted = ids(&accepted.ok().unwrap()).unwrap();
    for id in &accepted {
        chain.await_passed(id, "delivered").unwrap();
    }
    chain.c.kill9().unwrap();
    chain.c.start().unwrap();
    assert_arrive_once(&chain, &accepted);
}
