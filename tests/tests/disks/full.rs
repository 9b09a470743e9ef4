//! Disks without room: refused before acceptance, drained meanwhile, started on, and recovered from without a hand.

use std::collections::BTreeMap;
use std::time::Duration;

use waypost_tests::harness::bodies::Checksum;
use waypost_tests::harness::client::{PATIENT, SOON, ids};
use waypost_tests::harness::words::Received;
use waypost_tests::harness::{Chain, Client, Node, Random, exit, wait};

use crate::{OnVolumes, can_mount};

/// The image of the full disk.
const MIB: u64 = 200;
/// Bytes in a message.
const BODY: usize = 100_000;
/// For a node to see what became of its disk, and for a neighbour to be asked again.
const SEEN: Duration = Duration::from_secs(40);

fn is_full(node: &Node) -> anyhow::Result<bool> {
    Ok(node.status()?.disk()?.full)
}

fn await_full(chain: &Chain, node: &Node, full: bool) {
    let what = format!("{} to find its disk {}", node.name(), if full { "full" } else { "with room" });
    chain.until(&what, SEEN, || Ok((is_full(node)? == full).then_some(()))).unwrap();
}

/// Sends bodies that do not compress until the node refuses; gives what was accepted.
fn send_until_refused(from: &Client, to: &str, random: &mut Random) -> BTreeMap<String, Checksum> {
    let mut accepted = BTreeMap::new();
    loop {
        let lines: Vec<String> = (0..20).map(|_| random.letters(BODY)).collect();
        let finished = from.send_lines(to, &lines, &[]).unwrap();
        for (id, line) in ids(&finished).unwrap().into_iter().zip(&lines) {
            accepted.insert(id, Checksum::of(line.as_bytes()));
        }
        if finished.code != exit::OK {
            assert_eq!(finished.code, exit::TRY_AGAIN, "{finished:?}");
            assert!(finished.stderr.contains("the disk is nearly full"), "{finished:?}");
            return accepted;
        }
        assert!(accepted.len() < 10_000, "a disk of {MIB} MiB took them all");
    }
}

/// Notes what came; the same again only when it may.
fn note(received: &mut BTreeMap<String, Checksum>, messages: Vec<Received>, again: bool) {
    for message in messages {
        let body = Checksum::of(&message.body().unwrap());
        if let Some(before) = received.insert(message.id.clone(), body.clone()) {
            assert!(again && before == body, "{} came twice", message.id);
        }
    }
}

/// DISK-3, DISK-4: a node that mail has filled refuses, drains, comes up again on a disk that another process has filled
/// but for the ballast, and accepts again when that is gone.
#[test]
fn a_full_disk_refuses_drains_restarts_and_recovers() {
    if !can_mount("a full disk") {
        return;
    }
    let mut rig = OnVolumes::new("full", [None, None, Some(MIB)]);
    let mut random = Random::new(3);
    let to = rig.chain.c.channel("work").unwrap();
    let client = rig.chain.c.client();
    let accepted = send_until_refused(&client, &to, &mut random);
    println!("{} messages of {BODY} bytes went onto a disk of {MIB} MiB", accepted.len());
    assert!(accepted.len() > 50, "refused long before it was full");

    let mut received = BTreeMap::new();
    note(&mut received, client.recv("work", 10, PATIENT).unwrap(), false);
    // Another process takes the rest; the ballast is given up, so that the node still stands.
    let ballast = rig.chain.c.data().join("ballast");
    assert!(ballast.exists());
    rig.chain.until("the ballast to be given up", SEEN, || rig.volumes[0].squeeze("hog", &ballast)).unwrap();
    rig.chain.c.kill9().unwrap();
    rig.chain.c.start().unwrap();
    assert!(is_full(&rig.chain.c).unwrap(), "known before anything is accepted");
    assert_eq!(client.send_with(&to, b"more", &[]).unwrap().code, exit::TRY_AGAIN);
    note(&mut received, client.recv("work", accepted.len() - 10, PATIENT).unwrap(), false);
    assert_eq!(received, accepted);

    rig.volumes[0].clear("hog").unwrap();
    await_full(&rig.chain, &rig.chain.c, false);
    rig.chain.until("the ballast to be laid in again", SEEN, || Ok(ballast.exists().then_some(()))).unwrap();
    client.send(&to, b"more").unwrap();
    assert_eq!(client.recv("work", 1, PATIENT).unwrap()[0].body().unwrap(), b"more");
}

/// DISK-4: a disk filled while the node stood still, with the ballast in place, does not keep it from starting.
#[test]
fn a_node_starts_on_a_disk_that_filled_meanwhile() {
    if !can_mount("a start on a full disk") {
        return;
    }
    let mut rig = OnVolumes::new("start", [None, None, Some(MIB)]);
    let client = rig.chain.c.client();
    let to = rig.chain.c.channel("work").unwrap();
    let id = client.send(&to, b"kept").unwrap();
    rig.chain.c.kill9().unwrap();
    rig.volumes[0].fill("hog").unwrap();
    rig.chain.c.start().unwrap();
    assert!(is_full(&rig.chain.c).unwrap());
    assert_eq!(client.recv("work", 1, PATIENT).unwrap()[0].id, id);
}

/// Receives what is there, and starts the node again when it ends for a write that failed before there was room; gives
/// how often that was.
fn drain(node: &mut Node, received: &mut BTreeMap<String, Checksum>) -> usize {
    let mut ends = 0;
    loop {
        let some = node.json(["recv", "work", "-n", "1000", "--timeout", "1s"], SOON).unwrap();
        note(received, some.lines().unwrap(), true);
        match some.code {
            exit::UNAVAILABLE => {
                assert_eq!(node.await_code().unwrap(), exit::TRY_AGAIN, "after a failed write");
                ends += 1;
                node.start().unwrap();
            }
            // Fewer than a thousand came.
            exit::TRY_AGAIN if node.status().unwrap().inbox.messages == 0 => return ends,
            exit::OK | exit::TRY_AGAIN => {}
            _ => panic!("{some:?}"),
        }
    }
}

/// STORE-3: another process takes every byte between two looks at the disk, under a sender. Whether the node is quick
/// enough to refuse or ends in the middle of a write, what it said OK to is there.
#[test]
fn what_was_accepted_survives_a_write_without_room() {
    if !can_mount("a write without room") {
        return;
    }
    let mut rig = OnVolumes::new("write", [None, None, Some(MIB)]);
    let mut random = Random::new(6);
    let client = rig.chain.c.client();
    let to = rig.chain.c.channel("work").unwrap();
    let lines: Vec<String> = (0..40).map(|_| random.letters(BODY)).collect();
    let (mut accepted, mut received, mut ends, mut refusals) = (BTreeMap::new(), BTreeMap::new(), 0, 0);
    for round in 0..3 {
        rig.volumes[0].fill("hog").unwrap();
        for attempt in 0..8 {
            let lines: Vec<String> = lines.iter().map(|line| format!("{round} {attempt} {line}")).collect();
            let sent = client.send_lines(&to, &lines, &[]).unwrap();
            for (id, line) in ids(&sent).unwrap().into_iter().zip(&lines) {
                accepted.insert(id, Checksum::of(line.as_bytes()));
            }
            if sent.code != exit::OK {
                refusals += 1;
                break;
            }
        }
        rig.volumes[0].clear("hog").unwrap();
        ends += drain(&mut rig.chain.c, &mut received);
        await_full(&rig.chain, &rig.chain.c, false);
    }
    println!(
        "{} accepted in {refusals} rounds that ended in a refusal, {ends} of them in the node's end",
        accepted.len()
    );
    assert!(refusals > 0, "the disk was never full");
    // A send that was cut off may have been accepted without a word of it.
    received.retain(|id, _| accepted.contains_key(id));
    assert_eq!(received, accepted);
}

/// STORE-3, DISK-3: another process takes every byte, the ballast's too. The node may end, with the code that asks to be
/// started again, as often as it is; when there is room it has everything that was accepted.
#[test]
fn nothing_is_lost_on_a_disk_without_a_byte() {
    if !can_mount("a disk without a byte") {
        return;
    }
    let mut rig = OnVolumes::new("byte", [None, None, Some(MIB)]);
    let mut random = Random::new(4);
    let client = rig.chain.c.client();
    let to = rig.chain.c.channel("work").unwrap();
    let accepted = send_until_refused(&client, &to, &mut random);
    let ballast = rig.chain.c.data().join("ballast");
    rig.chain.until("the ballast to be given up", SEEN, || rig.volumes[0].squeeze("hog", &ballast)).unwrap();
    rig.volumes[0].fill("second-hog").unwrap();

    let mut received = BTreeMap::new();
    let mut ends = 0;
    while received.len() < accepted.len() {
        let some = client.json(["recv", "work", "-n", "20", "--timeout", "2s"], SOON).unwrap();
        note(&mut received, some.lines().unwrap(), true);
        let node = &mut rig.chain.c;
        if let Some(code) = node.ended().unwrap() {
            assert_eq!(code, exit::TRY_AGAIN);
            ends += 1;
            node.launch(&[]).unwrap();
            let up_or_down = wait::until("c to be up or down", SEEN, &[&node.log()], || {
                let answers = node.client().json(["status"], SOON)?.code == exit::OK;
                Ok(if answers { Some(None) } else { node.ended()?.map(Some) })
            });
            if let Some(code) = up_or_down.unwrap() {
                assert_eq!(code, exit::TRY_AGAIN);
                ends += 1;
                break;
            }
        }
    }
    println!("{} of {} came without a byte of room; the node ended {ends} times", received.len(), accepted.len());
    rig.volumes[0].clear("hog").unwrap();
    rig.volumes[0].clear("second-hog").unwrap();
    let _ = rig.chain.c.kill9();
    rig.chain.c.start().unwrap();
    let left = usize::try_from(rig.chain.c.status().unwrap().inbox.messages).unwrap();
    if left > 0 {
        note(&mut received, client.recv("work", left, PATIENT).unwrap(), true);
    }
    assert_eq!(received, accepted);
    await_full(&rig.chain, &rig.chain.c, false);
    client.send(&to, b"more").unwrap();
}

/// DISK-3: a relay with a full disk keeps nothing of what it is offered, and mail goes on through it when there is room.
#[test]
fn mail_waits_for_a_relay_with_a_full_disk() {
    if !can_mount("a relay with a full disk") {
        return;
    }
    let rig = OnVolumes::new("relay", [None, Some(MIB), None]);
    rig.volumes[0].fill("hog").unwrap();
    await_full(&rig.chain, &rig.chain.b, true);
    let to = rig.chain.c.channel("work").unwrap();
    let waited = rig.chain.a.send_with(&to, b"patience", &["--wait", "delivered", "--timeout", "5s"]).unwrap();
    assert_eq!(waited.code, exit::TRY_AGAIN, "{waited:?}");
    let id = ids(&waited).unwrap().pop().unwrap();
    assert_eq!(rig.chain.b.status().unwrap().transit.envelopes, 0);
    assert_eq!(rig.chain.a.trace(&id).unwrap().state, "accepted");
    rig.volumes[0].clear("hog").unwrap();
    assert_eq!(rig.chain.c.recv("work", 1, SEEN).unwrap()[0].id, id);
    rig.chain.await_passed(&id, "consumed").unwrap();
}
