//! `fuzz --seconds 60 [--seed N] [--target NAME] [--threads N]`, `fuzz --replay FILE`. Exits 1 when anything fails.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use waypost_sim::fuzz::run::{Order, replay, run};

fn main() -> anyhow::Result<ExitCode> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut order =
        Order { time: Duration::from_secs(60), seed: 1, target: None, threads, folder: PathBuf::from("target/fuzz") };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{argument} needs a value"))?;
        match argument.as_str() {
            "--seconds" => order.time = Duration::from_secs(value.parse().context("--seconds is a number")?),
            "--seed" => order.seed = value.parse().context("--seed is a number")?,
            "--target" => order.target = Some(value),
            "--threads" => order.threads = value.parse().context("--threads is a number")?,
            "--replay" => {
                replay(&PathBuf::from(value))?;
                return Ok(ExitCode::SUCCESS);
            }
            other => anyhow::bail!("{other:?} is none of --seconds, --seed, --target, --threads, --replay"),
        }
    }
    let tallies = run(&order)?;
    println!("{:<12} {:>12} {:>10} {:>9}", "target", "executions", "a second", "outcomes");
    for (name, tally) in &tallies {
        let rate = tally.runs as f64 / tally.spent.as_secs_f64().max(0.001) * order.threads as f64;
        let end = if tally.failed.is_some() { "  FAILED" } else { "" };
        println!("{name:<12} {:>12} {rate:>10.0} {:>9}{end}", tally.runs, tally.classes.len());
    }
    let failures = tallies.values().filter(|tally| tally.failed.is_some()).count();
    println!("targets={} failures={failures}", tallies.len());
    let failed = failures > 0;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
