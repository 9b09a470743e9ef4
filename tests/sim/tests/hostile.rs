//! Worlds in which every second host lies. `WAYPOST_LIARS=from,count` runs other seeds, `WAYPOST_TRACE=1` tells them.

use waypost_sim::plan::Plan;
use waypost_sim::run::run_plan;
use waypost_sim::seen::Seen;

/// Every way to lie that `seen::REQUIRED` names.
fn lies() -> impl Iterator<Item = &'static &'static str> {
    waypost_sim::seen::REQUIRED.iter().filter(|what| what.starts_with("a liar"))
}

#[test]
fn whatever_liars_do_safety_holds_and_delivery_comes_back() {
    let (mut from, mut count) = (0, 40);
    if let Ok(range) = std::env::var("WAYPOST_LIARS") {
        let (first, many) = range.split_once(',').unwrap();
        (from, count) = (first.parse().unwrap(), many.parse().unwrap());
    }
    let told = std::env::var("WAYPOST_TRACE").is_ok();
    let mut seen = Seen::default();
    let mut broken = Vec::new();
    for seed in from..from + count {
        let run = std::panic::catch_unwind(|| run_plan(Plan::with_liars(seed), told).unwrap());
        match run {
            Ok(verdict) => {
                seen.add(&verdict.seen);
                broken.extend(
                    verdict.broken.map(|it| format!("{seed}: {} at {} ms: {}", it.promise, it.at_us / 1000, it.what)),
                );
            }
            Err(_) => broken.push(format!("{seed}: panicked")),
        }
        if std::env::var("WAYPOST_LIARS").is_ok() {
            println!("#{seed} {}", broken.last().filter(|it| it.starts_with(&format!("{seed}:"))).map_or("", |it| it));
        }
    }
    let told: Vec<_> = seen.0.iter().filter(|(what, _)| what.starts_with("a liar")).collect();
    println!("{told:?}");
    assert!(broken.is_empty(), "{} of {count}:\n{}", broken.len(), broken.join("\n"));
    let missing: Vec<_> = lies().filter(|what| !seen.0.contains_key(*what)).collect();
    assert!(missing.is_empty() || count < 40, "never told: {missing:?}");
}

#[test]
fn the_same_seed_tells_the_same_lies() {
    for seed in 0..4 {
        let [one, other] = [(); 2].map(|()| run_plan(Plan::with_liars(seed), false).unwrap().hash);
        assert_eq!(one, other, "seed {seed}");
    }
}
