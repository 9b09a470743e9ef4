//! What an owner asks a node and tells it, and what it still knows after a restart: cancelling, routes, idempotency keys,
//! delivery counts, neighbours.

#![expect(clippy::unwrap_used, reason = "a test fails where it finds what should not be")]

use waypost_tests::harness::client::{PATIENT, SOON};
use waypost_tests::harness::words::Sent;
use waypost_tests::harness::{Chain, Finished, exit};

fn cancel(chain: &Chain, ids: &[&str]) -> Finished {
    chain.a.run(["cancel"].into_iter().chain(ids.iter().copied()), SOON).unwrap()
}

/// CANCEL-1: 0 is for what is cancelled, 1 for what is unknown or ended otherwise, and then nothing else has changed.
#[test]
fn cancelling_ends_what_has_not_been_delivered_and_says_what_has() {
    let mut chain = Chain::a_b_c("cancel").unwrap();
    let to = chain.c.channel("work").unwrap();
    chain.c.stop().unwrap();
    let [held, other, short] = [&[][..], &[], &["--ttl", "1s"]].map(|options| {
        let sent = chain.a.send_with(&to, b"wait", options).unwrap();
        sent.ok().unwrap().one::<Sent>().unwrap().id
    });
    chain.await_passed(&held, "held").unwrap();
    chain.await_passed(&short, "expired").unwrap();
    let unknown = cancel(&chain, &[&other, "01939999-0000-7000-8000-000000000000"]);
    assert!(unknown.expect(exit::FAILED).unwrap().stderr.contains("no message 01939999"));
    assert!(!chain.a.trace(&other).unwrap().passed("cancelled"), "a refused request has changed something");
    cancel(&chain, &["nonsense"]).expect(exit::USAGE).unwrap();
    for _ in 0..2 {
        assert_eq!(cancel(&chain, &[&held]).ok().unwrap().text(), format!("{held}  cancelled\n"));
    }
    let expired = cancel(&chain, &[&short]).expect(exit::FAILED).unwrap();
    assert!(expired.stderr.contains("had ended before: expired"), "{expired:?}");

    chain.c.start().unwrap();
    assert_eq!(chain.c.recv("work", 1, PATIENT).unwrap()[0].id, other, "what was cancelled or expired does not come");
    let refused = chain.a.send(&to, b"poison").unwrap();
    let poisoned = ["recv", "work", "--exec", "false", "--max-deliveries", "1"];
    chain.c.run(poisoned, PATIENT).unwrap().expect(exit::FAILED).unwrap();
    chain.await_passed(&refused, "dead-lettered").unwrap();
    for id in [&other, &refused] {
        let late = cancel(&chain, &[id]).expect(exit::FAILED).unwrap();
        assert!(late.stderr.contains("cannot be taken back"), "{late:?}");
    }
    chain.await_empty().unwrap();
}

/// IDEM-1, CONSUME-1: keys, also of a streamed body, and the count of deliveries survive a kill.
#[test]
fn keys_and_delivery_counts_survive_a_kill() {
    let mut chain = Chain::a_b_c("keys").unwrap();
    let to = chain.c.channel("work").unwrap();
    let large = vec![7; 700_000];
    let key = ["--idempotency-key", "invoice"];
    let large_key = ["--idempotency-key", "film"];
    let id = |finished: Finished| finished.ok().unwrap().one::<Sent>().unwrap().id;
    let send = |chain: &Chain, body: &[u8], key: &[&str]| chain.a.send_with(&to, body, key).unwrap();
    let (first, film) = (id(send(&chain, b"once", &key)), id(send(&chain, &large, &large_key)));
    chain.a.restart().unwrap();
    assert_eq!(id(send(&chain, b"once", &key)), first);
    assert_eq!(id(send(&chain, &large, &large_key)), film);
    let other = send(&chain, b"another", &key).expect(exit::FAILED).unwrap();
    assert!(other.stderr.contains("was used for another message"), "{other:?}");
    send(&chain, &large[1..], &large_key).expect(exit::FAILED).unwrap();
    chain.await_passed(&first, "delivered").unwrap();
    chain.await_passed(&film, "delivered").unwrap();

    let failing = ["recv", "work", "-n", "2", "--exec", "false", "--timeout", "500ms"];
    chain.c.run(failing, PATIENT).unwrap().expect(exit::TRY_AGAIN).unwrap();
    chain.c.restart().unwrap();
    let mut received = chain.c.recv("work", 2, PATIENT).unwrap();
    received.sort_by_key(|message| message.id != first);
    let came: Vec<_> = received.iter().map(|message| (message.id.as_str(), message.deliveries)).collect();
    assert_eq!(came, [(first.as_str(), 2), (film.as_str(), 2)], "each once, and it was handed out before the kill");
    chain.await_empty().unwrap();
}

/// DIAL-2: neighbours are met again after a restart though nobody names them, also those that had only ever dialled.
#[test]
fn neighbours_are_remembered_over_a_restart() {
    let mut chain = Chain::a_b_c("book").unwrap();
    // B does not dial, so it is A that finds its way back.
    chain.a.forget_peers();
    chain.a.restart().unwrap();
    chain.await_connected(&chain.a).unwrap();

    // B moves: where A knows it nobody is, and only B can find A.
    let a = chain.a.address().unwrap().to_owned();
    let told = chain.until("B to hear where A listens", PATIENT, || {
        Ok(chain.b.routes()?.into_iter().find(|route| route.to == a && route.next.is_some()))
    });
    told.unwrap();
    chain.b.stop().unwrap();
    chain.b.move_ports();
    chain.b.dial_anybody();
    chain.b.start().unwrap();
    chain.await_connected(&chain.a).unwrap();
}

/// Routes say which way mail goes, and name everybody for whom some waits.
#[test]
fn routes_tell_the_way_and_what_waits() {
    let chain = Chain::a_b_c("routes").unwrap();
    let (b, c) = (chain.b.address().unwrap(), chain.c.address().unwrap());
    let through = chain.until("the way to C", PATIENT, || {
        let way = chain.a.routes()?.into_iter().find(|route| route.to == c && route.next.is_some());
        Ok(way)
    });
    assert_eq!(through.unwrap().next.as_deref(), Some(b));
    let stranger = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";
    let id = chain.a.send(&format!("work@{stranger}"), b"hello").unwrap();
    let waits = chain.a.routes().unwrap().into_iter().find(|route| route.to == stranger).unwrap();
    assert_eq!((waits.next, waits.waiting), (None, 1));
    chain.a.run(["routes", "--to", "nobody"], SOON).unwrap().expect(exit::TRY_AGAIN).unwrap();
    cancel(&chain, &[&id]).ok().unwrap();
}
