//! Random `kill -9` of A, B and C under load. Promises P1, P2, P4: whatever `send` answered OK arrives at C with its
//! bytes, once. `KILLS` sets how many, `SEED` repeats the choices (not the machine's timing).

#![expect(clippy::unwrap_used, reason = "a test fails where it finds what should not be")]

mod apps;
mod ledger;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use waypost_tests::harness::{Chain, Node, Random};

use apps::{Apps, Receiver, Sender};
use ledger::Ledger;

/// Messages A answers for, not yet delivered, when a process is killed: at least.
const IN_FLIGHT: u64 = 500;
/// How many more may be waited for, so that kills fall at different depths.
const DEEPER: u64 = 1500;
/// From a kill to enough load for the next.
const LOADED: Duration = Duration::from_secs(60);
/// From the last kill to the last message.
const DRAINED: Duration = Duration::from_secs(180);

/// What was under way at one kill.
struct Kill {
    victim: &'static str,
    outbox: u64,
    transit: u64,
    inbox: u64,
}

#[test]
fn nothing_accepted_is_lost_or_doubled_whoever_is_killed() {
    let kills: usize = std::env::var("KILLS").map_or(30, |text| text.parse().unwrap());
    let seed = Random::seed();
    println!("{kills} kills, SEED={seed}");
    let mut chain = Chain::a_b_c("kills").unwrap();
    let apps = Apps {
        a: chain.a.client(),
        c: chain.c.client(),
        to: chain.c.channel("work").unwrap(),
        ledger: Arc::new(Ledger::default()),
        sending: Arc::new(AtomicBool::new(true)),
        receiving: Arc::new(AtomicBool::new(true)),
    };
    let (sender, receiver) = (Sender::new(apps.clone(), seed), Receiver::new(apps.clone()));
    let sender = thread::spawn(move || sender.run());
    let receiver = thread::spawn(move || receiver.run());

    let done = kill_under_load(&mut chain, kills, seed, || !sender.is_finished() && !receiver.is_finished());
    apps.sending.store(false, Ordering::Relaxed);
    sender.join().expect("the sending application failed");
    let ledger = &apps.ledger;
    let drained = chain.until("all that was accepted to be received", DRAINED, || {
        Ok((ledger.missing() == 0 || receiver.is_finished()).then_some(()))
    });
    if drained.is_err() {
        println!("{} of {} are missing", ledger.missing(), ledger.accepted());
    }
    drained.unwrap();
    // Before the receiver ends: what would arrive twice must have had the chance to.
    chain.await_empty().unwrap();
    chain.until("an empty inbox", DRAINED, || Ok((chain.c.status()?.inbox.messages == 0).then_some(()))).unwrap();
    apps.receiving.store(false, Ordering::Relaxed);
    receiver.join().expect("the receiving application failed");

    print_distribution(&done);
    println!("{} accepted, {} received", ledger.accepted(), ledger.received());
    let findings = ledger.findings();
    assert!(findings.is_empty(), "SEED={seed}\n  {}", findings.join("\n  "));
}

/// Kills one of the three when enough is in flight, starts it again, and so on. `healthy`: the applications still run.
fn kill_under_load(chain: &mut Chain, kills: usize, seed: u64, healthy: impl Fn() -> bool) -> Vec<Kill> {
    let mut random = Random::new(seed);
    let mut done = Vec::new();
    for number in 1..=kills {
        let depth = IN_FLIGHT + random.below(DEEPER);
        let outbox = chain.until(&format!("{depth} messages in flight"), LOADED, || {
            anyhow::ensure!(healthy(), "an application of the test has ended");
            let outbox = chain.a.status()?.outbox.messages;
            Ok((outbox >= depth).then_some(outbox))
        });
        let outbox = outbox.unwrap();
        let (name, victim): (_, &mut Node) = match random.below(3) {
            0 => ("a", &mut chain.a),
            1 => ("b", &mut chain.b),
            _ => ("c", &mut chain.c),
        };
        victim.kill9().unwrap();
        victim.start().unwrap();
        let (transit, inbox) = (chain.b.status().unwrap().transit.envelopes, chain.c.status().unwrap().inbox.messages);
        let kill = Kill { victim: name, outbox, transit, inbox };
        println!(
            "kill {number}: {} with {} messages in A's outbox; after its start {} envelopes at B, {} messages unread at C",
            kill.victim, kill.outbox, kill.transit, kill.inbox
        );
        done.push(kill);
    }
    done
}

fn print_distribution(kills: &[Kill]) {
    for victim in ["a", "b", "c"] {
        let of_victim: Vec<&Kill> = kills.iter().filter(|kill| kill.victim == victim).collect();
        let spread = |what: fn(&Kill) -> u64| {
            let mut counts: Vec<u64> = of_victim.iter().map(|kill| what(kill)).collect();
            counts.sort_unstable();
            match counts.as_slice() {
                [] => "none".to_owned(),
                [least, ..] => format!("{least}..{} median {}", counts[counts.len() - 1], counts[counts.len() / 2]),
            }
        };
        println!(
            "{} kills of {victim}: outbox {}, transit {}, inbox {}",
            of_victim.len(),
            spread(|kill| kill.outbox),
            spread(|kill| kill.transit),
            spread(|kill| kill.inbox)
        );
    }
}
