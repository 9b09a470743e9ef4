//! Random `kill -9` of A, B and C under load: one alone, two at once, and again within 300 ms of a start. Promises P1, P2,
//! P4: whatever `send` answered OK arrives at C with its bytes, once. `KILLS` sets how many, `SEED` repeats the choices
//! (not the machine's timing).

#![expect(clippy::unwrap_used, reason = "a test fails where it finds what should not be")]

mod apps;
mod ledger;
mod table;

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use waypost_tests::harness::{Chain, Node, Random, wait};

use apps::{Apps, Receiver, Sender};
use ledger::Ledger;
use table::{Kill, Kind, table};

/// Kills when nobody says how many.
const KILLS: usize = 200;
/// Of so many kills one hits two nodes, and one a node that has just been started.
const SPECIAL: usize = 5;
/// Accepted and not received when a process is killed, and, where A can be asked, not delivered: at least.
const IN_FLIGHT: u64 = 500;
/// How many more may be waited for, so that kills fall at different depths.
const DEEPER: u64 = 1500;
/// An early kill comes before its victim has run so long.
const EARLY_MS: u64 = 300;
/// So long is waited for more than the least: the chain may be as quick as who sends.
const FOR_DEEPER: Duration = Duration::from_secs(1);
/// From a kill to enough load for the next.
const LOADED: Duration = Duration::from_secs(60);
/// From the last kill to the last message.
const DRAINED: Duration = Duration::from_secs(180);
/// Between two lines that say how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

#[test]
fn nothing_accepted_is_lost_or_doubled_whoever_is_killed() {
    let kills: usize = std::env::var("KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let seed = Random::seed();
    println!("{kills} kills, SEED={seed}");
    let chain = Chain::a_b_c("kills").unwrap();
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

    let healthy = || !sender.is_finished() && !receiver.is_finished();
    let mut killer = Killer::new(chain, apps.ledger.clone(), seed, kills, healthy);
    killer.run();
    let Killer { chain, done, .. } = killer;
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

    print!("Least, median, most of what was under way:\n{}", table(&done));
    println!("{} accepted, {} received", ledger.accepted(), ledger.received());
    let findings = ledger.findings();
    assert!(findings.is_empty(), "SEED={seed}\n  {}", findings.join("\n  "));
    let little =
        |kill: &&Kill| kill.in_flight.min(kill.where_they_were.map_or(u64::MAX, |[outbox, ..]| outbox)) < IN_FLIGHT;
    assert_eq!(done.iter().filter(little).count(), 0, "kills hit too little: see the table");
    let special = |kind| done.iter().filter(|kill| kill.kind == kind).count();
    assert!(done.len() >= kills && special(Kind::Pair) >= kills / SPECIAL && special(Kind::Early) >= kills / SPECIAL);
}

/// Who kills: which kinds are still to come, and what was hit so far.
struct Killer<H> {
    chain: Chain,
    ledger: Arc<Ledger>,
    random: Random,
    kills: usize,
    /// Still to come, of the two special kinds.
    pairs: usize,
    early: usize,
    done: Vec<Kill>,
    /// Every kill, for whoever looks into what a failed run left.
    record: File,
    begun: Instant,
    told: Instant,
    /// Whether the applications still run.
    healthy: H,
}

impl<H: Fn() -> bool> Killer<H> {
    fn new(chain: Chain, ledger: Arc<Ledger>, seed: u64, kills: usize, healthy: H) -> Self {
        let record = File::create(chain.sandbox.file("kills")).unwrap();
        let (special, now) = (kills / SPECIAL, Instant::now());
        let random = Random::new(seed);
        let (pairs, early, done) = (special, special, Vec::with_capacity(kills));
        Self { chain, ledger, random, kills, pairs, early, done, record, begun: now, told: now, healthy }
    }

    /// Until there were enough of each kind.
    fn run(&mut self) {
        while self.done.len() < self.kills || self.early + self.pairs > 0 {
            let victims = self.kill_under_load();
            self.start(&victims);
        }
    }

    /// How many are still to come, at least 1.
    fn left(&self) -> u64 {
        (self.kills.saturating_sub(self.done.len())).max(1) as u64
    }

    /// Whether it is the turn of a kind of which so many are still to come.
    fn is_turn_of(&mut self, still: usize) -> bool {
        self.random.below(self.left()) < still as u64
    }

    fn node(&mut self, victim: usize) -> &mut Node {
        [&mut self.chain.a, &mut self.chain.b, &mut self.chain.c].into_iter().nth(victim).unwrap()
    }

    /// One or two of the three, when enough is in flight.
    fn kill_under_load(&mut self) -> Vec<usize> {
        let spared = self.random.below(3) as usize;
        let is_pair = self.is_turn_of(self.pairs);
        let victims = if is_pair { (0..3).filter(|node| *node != spared).collect() } else { vec![spared] };
        let depth = IN_FLIGHT + self.random.below(DEEPER);
        let (Chain { a, b, c, .. }, ledger, healthy) = (&self.chain, &self.ledger, &self.healthy);
        let begun = Instant::now();
        let loaded = self.chain.until("enough undelivered messages at A", LOADED, || {
            anyhow::ensure!(healthy(), "an application of the test has ended");
            let (transit, inbox) = (b.status()?.transit.envelopes, c.status()?.inbox.messages);
            let (outbox, in_flight) = (a.status()?.outbox.messages, ledger.missing() as u64);
            let depth = if begun.elapsed() < FOR_DEEPER { depth } else { IN_FLIGHT };
            Ok((outbox >= depth && in_flight >= IN_FLIGHT).then_some(([outbox, transit, inbox], in_flight)))
        });
        let (mail, in_flight) = loaded.unwrap();
        for victim in &victims {
            self.node(*victim).kill9().unwrap();
        }
        self.pairs -= usize::from(is_pair);
        let kind = if is_pair { Kind::Pair } else { Kind::Alone };
        self.note(kind, &victims, in_flight, Some(mail), None);
        victims
    }

    /// Starts them again; on the way one of them may be killed once more, or several times.
    fn start(&mut self, victims: &[usize]) {
        let mut launched = Instant::now();
        for victim in victims {
            launched = Instant::now();
            self.node(*victim).launch(&[]).unwrap();
        }
        let last = victims[victims.len() - 1];
        while self.is_turn_of(self.early) {
            wait::moment(launched + Duration::from_millis(self.random.below(EARLY_MS)));
            let (in_flight, ran) = (self.ledger.missing() as u64, launched.elapsed());
            // The others went on meanwhile, or this program had to wait for the processor: the next start will do.
            if in_flight < IN_FLIGHT || ran.as_millis() >= u128::from(EARLY_MS) {
                break;
            }
            self.node(last).kill9().unwrap();
            self.early -= 1;
            self.note(Kind::Early, &[last], in_flight, None, Some(ran));
            launched = Instant::now();
            self.node(last).launch(&[]).unwrap();
        }
        for victim in victims {
            self.node(*victim).await_ready().unwrap();
        }
    }

    fn note(
        &mut self,
        kind: Kind,
        victims: &[usize],
        in_flight: u64,
        where_they_were: Option<[u64; 3]>,
        ran: Option<Duration>,
    ) {
        let victims = victims.iter().map(|node| ["a", "b", "c"][*node]).collect();
        let kill = Kill { kind, victims, in_flight, where_they_were, ran };
        writeln!(self.record, "{:.1} s: {}", self.begun.elapsed().as_secs_f32(), kill.line()).unwrap();
        self.done.push(kill);
        if self.told.elapsed() >= PROGRESS || self.done.len() == self.kills {
            self.told = Instant::now();
            println!(
                "{:>5} s: {} of {} kills; the last: {}",
                self.begun.elapsed().as_secs(),
                self.done.len(),
                self.kills,
                self.done[self.done.len() - 1].line()
            );
        }
    }
}
