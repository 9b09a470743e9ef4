//! What must be refused, and how: the exit code, the word that says why, and nothing lost or half done on the way.

#![expect(clippy::unwrap_used, reason = "a test fails where it finds what should not be")]

use std::fs::File;
use std::time::{Duration, Instant};

use waypost_tests::harness::client::{PATIENT, SOON, ids};
use waypost_tests::harness::{Chain, Client, Node, Sandbox, Transport, binary, command, exit};

/// A node that founded a network of its own.
fn alone(name: &str) -> (Sandbox, Node) {
    let sandbox = Sandbox::new(name).unwrap();
    let mut node = Node::new(&sandbox, &binary::find().unwrap(), "a").unwrap();
    node.start().unwrap();
    (sandbox, node)
}

fn outbox(node: &Node) -> u64 {
    node.status().unwrap().outbox.messages
}

#[test]
fn an_address_that_is_none_is_refused_and_named() {
    let (_sandbox, node) = alone("address");
    for malformed in ["no-node", "work@", "@a", "work@not/a/node", "a channel@a", "work@any@a"] {
        let refused = node.send_with(malformed, b"x", &[]).unwrap();
        assert!([exit::FAILED, exit::USAGE].contains(&refused.code), "{malformed}: {refused:?}");
        assert!(!refused.stderr.trim().is_empty() && refused.stdout.is_empty(), "{malformed}: {refused:?}");
    }
    let unknown = node.send_with("work@nobody-of-that-name", b"x", &[]).unwrap().expect(exit::TRY_AGAIN).unwrap();
    assert!(unknown.stderr.contains("nobody-of-that-name"), "{unknown:?}");
    assert_eq!(outbox(&node), 0);
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let (sandbox, node) = alone("huge");
    let path = sandbox.file("huge");
    File::create(&path).unwrap().set_len((16 << 30) + 1).unwrap();
    let to = node.channel("work").unwrap();
    let begun = Instant::now();
    let refused = node.json(["send".as_ref(), to.as_ref(), path.as_os_str()], PATIENT).unwrap();
    assert!([exit::FAILED, exit::USAGE].contains(&refused.code), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "it read the body first");
    assert_eq!(outbox(&node), 0);
}

#[test]
fn without_a_node_every_command_says_so() {
    let sandbox = Sandbox::new("nobody").unwrap();
    let client = Client::new(&binary::find().unwrap(), &sandbox.socket("none"), sandbox.path());
    for args in [&["status"][..], &["id"], &["peers"], &["invite"], &["recv", "work"], &["send", "work@x"]] {
        let refused = client.run(args, SOON).unwrap().expect(exit::UNAVAILABLE).unwrap();
        assert!(refused.stderr.contains("none.sock"), "{refused:?}");
    }
}

#[test]
fn a_second_node_on_the_same_data_is_refused_and_the_first_lives_on() {
    let (sandbox, node) = alone("twice");
    let mut second = node.run_command(&sandbox.socket("second"));
    let refused = command::run(&mut second, None, sandbox.path(), SOON).unwrap();
    assert!(!refused.expect(exit::CONFIGURATION).unwrap().stderr.is_empty());
    assert_eq!(outbox(&node), 0);
}

#[test]
fn a_stranger_gets_nothing_and_gives_nothing() {
    let (sandbox, a) = alone("stranger");
    let mut stranger = Node::new(&sandbox, a.binary(), "stranger").unwrap();
    stranger.add_peer(&a.dial_at("tcp").unwrap());
    stranger.start().unwrap();
    // Each side tries for as long as its message lives; then its own clock ends it.
    for (from, to) in [(&a, &stranger), (&stranger, &a)] {
        let options = ["--ttl", "3s", "--wait", "delivered"];
        let expired = from.send_with(&to.channel("work").unwrap(), b"x", &options).unwrap();
        assert!(expired.expect(exit::FAILED).unwrap().said().contains("expired"));
    }
    for node in [&a, &stranger] {
        let status = node.status().unwrap();
        assert_eq!((status.inbox.messages, status.transit.envelopes), (0, 0));
    }
    // Whoever reads A's log learns who was turned away, and why.
    let log = std::fs::read_to_string(a.log()).unwrap();
    let line = log.lines().find(|line| line.contains("turned away")).unwrap();
    assert!(line.contains(stranger.address().unwrap()) && line.contains("it belongs to another network"), "{line}");
}

#[test]
fn a_token_that_has_expired_or_is_none_admits_nobody() {
    let (sandbox, a) = alone("token");
    let late = a.run(["invite", "--expires", "1ms"], SOON).unwrap().ok().unwrap().text();
    for (name, token, why) in [("late", late.lines().last().unwrap(), "expired"), ("wrong", "not-a-token", "token")] {
        let joiner = Node::new(&sandbox, a.binary(), name).unwrap();
        let refused = joiner.try_join(token).unwrap();
        assert_ne!(refused.code, exit::OK, "{refused:?}");
        assert!(refused.stderr.contains(why), "{refused:?}");
    }
}

#[test]
fn a_message_nobody_fetched_in_its_lifetime_ends_expired_at_its_sender() {
    let mut chain = Chain::a_b_c("expired").unwrap();
    chain.c.stop().unwrap();
    let to = chain.c.channel("work").unwrap();
    let expired = chain.a.send_with(&to, b"too late", &["--ttl", "1s", "--wait", "delivered"]).unwrap();
    let expired = expired.expect(exit::FAILED).unwrap();
    assert!(expired.said().contains("expired"), "{expired:?}");
    let id = ids(&expired).unwrap().pop().unwrap();
    assert!(chain.a.trace(&id).unwrap().state.starts_with("expired"));
    assert_eq!(outbox(&chain.a), 0);
}

#[test]
fn a_full_outbox_says_try_again_and_takes_mail_again_once_it_has_drained() {
    let full = |chain: &mut Chain| chain.a.set("WAYPOST_OUTBOX_MESSAGES", "100");
    let mut chain = Chain::over("full", Transport::Tcp, full).unwrap();
    chain.c.stop().unwrap();
    let to = chain.c.channel("work").unwrap();
    let lines: Vec<String> = (0..60).map(|number| format!("line {number}")).collect();
    let mut accepted = ids(&chain.a.send_lines(&to, &lines, &[]).unwrap().ok().unwrap()).unwrap();
    let refused = chain.a.send_lines(&to, &lines, &[]).unwrap().expect(exit::TRY_AGAIN).unwrap();
    accepted.extend(ids(&refused).unwrap());
    assert_eq!(outbox(&chain.a), accepted.len() as u64);
    chain.c.start().unwrap();
    let mut received = chain.c.recv("work", accepted.len(), PATIENT).unwrap();
    chain.await_empty().unwrap();
    let again = ids(&chain.a.send_lines(&to, &lines, &[]).unwrap().ok().unwrap()).unwrap();
    received.extend(chain.c.recv("work", again.len(), PATIENT).unwrap());
    accepted.extend(again);
    accepted.sort();
    let mut received: Vec<String> = received.into_iter().map(|message| message.id).collect();
    received.sort();
    assert_eq!(received, accepted);
}
