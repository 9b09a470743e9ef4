//! One simulated world: its verdict, its story with `--trace`, and, when it fails, a smaller plan that fails too.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use waypost_sim::plan::{Length, Plan};
use waypost_sim::run::{Verdict, run_plan};
use waypost_sim::shrink::shrink;

/// Runs one seed of the simulator.
#[derive(Parser)]
struct Args {
    /// Which world.
    #[arg(long)]
    seed: u64,
    /// A long world instead of a short one.
    #[arg(long)]
    long: bool,
    /// Tell the story, a line an event.
    #[arg(long)]
    trace: bool,
    /// When it fails, leave out what the failure does not need, and tell what is left.
    #[arg(long)]
    shrink: bool,
    /// Run it twice and compare the hashes.
    #[arg(long)]
    twice: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let length = if args.long { Length::Long } else { Length::Short };
    let plan = Plan::draw(args.seed, length);
    println!("{}", plan.outline());
    let verdict = run_plan(plan.clone(), args.trace && !args.shrink)?;
    print(&verdict);
    if args.twice && run_plan(plan.clone(), false)?.hash != verdict.hash {
        println!("FAILED: the second run told another story");
        return Ok(ExitCode::FAILURE);
    }
    if args.twice {
        println!("the second run told the same story");
    }
    if verdict.broken.is_none() {
        if args.shrink {
            println!("nothing to shrink");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.shrink {
        let small = shrink(plan, &mut |line| println!("smaller: {line}"))?;
        let liars = small.hosts.iter().enumerate().filter_map(|(host, plan)| Some((host, plan.malice?)));
        liars.for_each(|(host, malice)| println!("{host} lies: {malice:?}"));
        println!("links:");
        small.links.iter().for_each(|link| println!("  {}–{}", link.a, link.b));
        println!("faults:");
        small.faults.iter().for_each(|(at, fault)| println!("  {at} ms {fault:?}"));
        println!("calls:");
        small.work.iter().for_each(|(at, send)| println!("  {at} ms {send:?}"));
        print(&run_plan(small, args.trace)?);
    }
    Ok(ExitCode::FAILURE)
}

fn print(verdict: &Verdict) {
    let hash: String = verdict.hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let (accepted, delivered) = verdict.messages;
    println!(
        "seed {}: {} steps, {:.1} h simulated, {accepted} messages accepted, {delivered} handed out, {} crashes, story {hash}",
        verdict.seed,
        verdict.steps,
        verdict.simulated_us as f64 / 3.6e9,
        verdict.crashes,
    );
    match &verdict.broken {
        None => println!("every promise held"),
        Some(broken) => println!("FAILED: {} at {} ms: {}", broken.promise, broken.at_us / 1000, broken.what),
    }
}
