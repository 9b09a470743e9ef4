//! Power cuts of A, B and C under load and in the middle of recovery: what reached the disk is there afterwards, and
//! nothing else. Nothing that was accepted is lost, nothing comes twice, and no node believes that its disk lost anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use waypost_tests::harness::{Node, Random, exit};

use crate::apps::{Apps, Receiver, Sender};
use crate::ledger::Ledger;
use crate::{OnVolumes, can_mount};

/// Room for what a run sends; sparse.
const MIB: u64 = 2048;
/// From a start to enough load for the next cut.
const LOADED: Duration = Duration::from_secs(60);
/// From the last cut to the last message.
const DRAINED: Duration = Duration::from_secs(180);
/// Commits a node makes under load before its power is cut, at most.
const COMMITS: u64 = 150;
/// System calls of a start before its power is cut, at most: a whole start makes about a thousand.
const CALLS: u64 = 1200;

#[test]
fn nothing_accepted_is_lost_or_doubled_whosever_power_is_cut() {
    if !can_mount("power cuts") {
        return;
    }
    let cuts: usize = std::env::var("CUTS").map_or(20, |text| text.parse().unwrap());
    let seed = Random::seed();
    println!("{cuts} power cuts, SEED={seed}");
    let mut rig = OnVolumes::new("cuts", [Some(MIB); 3]);
    let apps = Apps {
        a: rig.chain.a.client(),
        c: rig.chain.c.client(),
        to: rig.chain.c.channel("work").unwrap(),
        ledger: Arc::new(Ledger::default()),
        sending: Arc::new(AtomicBool::new(true)),
        receiving: Arc::new(AtomicBool::new(true)),
    };
    let (sender, receiver) = (Sender::new(apps.clone(), seed), Receiver::new(apps.clone()));
    let sender = thread::spawn(move || sender.run());
    let receiver = thread::spawn(move || receiver.run());

    let healthy = || !sender.is_finished() && !receiver.is_finished();
    let mut random = Random::new(seed);
    let mut done = 0;
    while done < cuts {
        done += cut_one(&mut rig, &mut random, done, &healthy);
    }
    apps.sending.store(false, Ordering::Relaxed);
    sender.join().expect("the sending application failed");
    let (ledger, chain) = (&apps.ledger, &rig.chain);
    let drained = chain.until("all that was accepted to be received", DRAINED, || {
        Ok((ledger.missing() == 0 || receiver.is_finished()).then_some(()))
    });
    if drained.is_err() {
        println!("{} of {} are missing", ledger.missing(), ledger.accepted());
    }
    drained.unwrap();
    chain.await_empty().unwrap();
    chain.until("an empty inbox", DRAINED, || Ok((chain.c.status()?.inbox.messages == 0).then_some(()))).unwrap();
    apps.receiving.store(false, Ordering::Relaxed);
    receiver.join().expect("the receiving application failed");

    println!("{done} cuts: {} accepted, {} received", ledger.accepted(), ledger.received());
    let mut findings = ledger.findings();
    for node in [&chain.a, &chain.b, &chain.c] {
        // DISK-1: an honest disk never makes the mark run ahead of the log.
        let damage = node.status().unwrap().disk().unwrap().damage;
        if !damage.is_empty() {
            findings.push(format!("{} believes that {damage}", node.name()));
        }
    }
    assert!(findings.is_empty(), "SEED={seed}\n  {}", findings.join("\n  "));
}

/// Cuts one node's power some commits further on, and one time in three again while it recovers; gives how many cuts
/// that made.
fn cut_one(rig: &mut OnVolumes, random: &mut Random, done: usize, healthy: &impl Fn() -> bool) -> usize {
    let victim = random.below(3) as usize;
    let (commits, again) = (1 + random.below(COMMITS), random.below(3) == 0);
    let node = [&rig.chain.a, &rig.chain.b, &rig.chain.c][victim];
    let begun = node.status().unwrap().disk().unwrap().durable_seq;
    let found = rig.chain.until(&format!("{commits} more commits of {}", node.name()), LOADED, || {
        anyhow::ensure!(healthy(), "an application of the test has ended");
        let now = node.status()?.disk()?.durable_seq;
        Ok((now >= begun + commits).then_some(now - begun))
    });
    let found = found.unwrap();
    let volume = &rig.volumes[victim];
    let node: &mut Node = match victim {
        0 => &mut rig.chain.a,
        1 => &mut rig.chain.b,
        _ => &mut rig.chain.c,
    };
    volume.cut().unwrap();
    // STORE-3: the first write that fails is the last, and the exit code says that starting again may help.
    let code = node.await_code().unwrap();
    assert_eq!(code, exit::TRY_AGAIN, "after a failed write");
    volume.power_on().unwrap();
    println!("cut {}: {} after {found} commits", done + 1, node.name());
    let mut cuts = 1;
    if again {
        let calls = random.below(CALLS);
        // Left by the process that ended; a new one is the end of a start.
        let _ = std::fs::remove_file(node.client().socket());
        node.launch(&[]).unwrap();
        let reached = calls_of_a_start(node, calls);
        volume.cut().unwrap();
        // Where nothing was left to write it would run on.
        let _ = node.kill9();
        volume.power_on().unwrap();
        println!("cut {}: {} after {reached} system calls of its start", done + 2, node.name());
        cuts += 1;
    }
    node.start().unwrap();
    cuts
}

/// Waits until a start has made so many reading or writing system calls, or answers, or has ended.
fn calls_of_a_start(node: &Node, calls: u64) -> u64 {
    let io = format!("/proc/{}/io", node.pid().unwrap());
    let made = || {
        let text = std::fs::read_to_string(&io).unwrap_or_default();
        let count = |name: &str| -> Option<u64> { text.lines().find_map(|line| line.strip_prefix(name))?.parse().ok() };
        Some(count("syscr: ")? + count("syscw: ")?)
    };
    loop {
        match made() {
            Some(made) if made >= calls || node.client().socket().exists() => return made,
            Some(_) => std::thread::yield_now(),
            None => return 0,
        }
    }
}
