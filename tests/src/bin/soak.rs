//! Many seeds of the simulator over all cores. The last line is `seeds=N failures=F`; anything else than 0 failures is
//! an error, and so are worlds emptied to be fast and rare paths never taken.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use waypost_sim::plan::{Length, Plan};
use waypost_sim::run::conclude;
use waypost_sim::world::World;
use waypost_tests::soak::{self, Job};

/// Runs many seeds of the simulator.
#[derive(Parser)]
struct Args {
    /// Short worlds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Long worlds.
    #[arg(long, default_value_t = 0)]
    long: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// So many more short worlds, and a long one for each ten, from a seed drawn now and printed.
    #[arg(long, default_value_t = 0)]
    fresh: u64,
    /// Run every seed twice and compare the hashes of the stories.
    #[arg(long)]
    twice: bool,
    /// Measure how much faster than real time nine steady hosts run on one core, and nothing else.
    #[arg(long)]
    speed: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if args.speed {
        return measure_speed();
    }
    let mut jobs = jobs(args.from, args.seeds, args.long);
    if args.fresh > 0 {
        let from = u64::from(number_of_now());
        println!("fresh seeds from {from}");
        jobs.extend(self::jobs(from, args.fresh, args.fresh / 10));
    }
    let summary = soak::run(&jobs, args.twice)?;
    println!("{summary}");
    let shortcomings = summary.shortcomings();
    shortcomings.iter().for_each(|what| println!("NOT ENOUGH: {what}"));
    println!("seeds={} failures={}", summary.seeds(), summary.failures.len());
    let good = summary.failures.is_empty() && shortcomings.is_empty();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Long worlds first: the last job to end should be a short one.
fn jobs(from: u64, short: u64, long: u64) -> Vec<Job> {
    let long = (from..from + long).map(|seed| (seed, Length::Long));
    long.chain((from..from + short).map(|seed| (seed, Length::Short))).collect()
}

/// Any number will do that differs from the last run's.
fn number_of_now() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u32
}

/// Nine hosts, a message a host in ten seconds, a fault a host and minute.
fn measure_speed() -> Result<ExitCode> {
    let (mut simulated_s, mut took_s) = (0.0, 0.0);
    for seed in 0..5 {
        let mut world = World::new(Plan::draw(seed, Length::Steady), false)?;
        let began = std::time::Instant::now();
        world.run_until(Length::STEADY_MS * 1000);
        took_s += began.elapsed().as_secs_f64();
        simulated_s += Length::STEADY_MS as f64 / 1000.0;
        // The hours after it, in which little happens, would flatter the figure or spoil it.
        if let Some(broken) = conclude(world).broken {
            println!("FAILED: steady seed {seed}: {} {}", broken.promise, broken.what);
            return Ok(ExitCode::FAILURE);
        }
    }
    println!("{:.0} times real time on one core ({simulated_s:.0} s simulated in {took_s:.2} s)", simulated_s / took_s);
    Ok(ExitCode::SUCCESS)
}
