//! `make bench`: measures three real nodes in a row and ends with 1 when a message is lost, changed or repeated. A run on
//! a busy disk is void and repeated, the last one is printed as void.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use waypost_tests::bench::cases::Case;
use waypost_tests::bench::disk;
use waypost_tests::bench::run::run;
use waypost_tests::bench::table::Table;
use waypost_tests::harness::{binary, wait};

/// Runs at most.
const RUNS: usize = 5;
/// How long a run waits for a disk that is not busy.
const CALM: Duration = Duration::from_secs(10);
/// After so long no run begins that may be broken off: the next is the last.
const LAST_CALL: Duration = Duration::from_secs(120);

/// Throughput, times and costs of a chain of three nodes.
#[derive(Parser)]
struct Arguments {
    /// Messages of 100 B and of 1 KiB in a pipeline.
    #[arg(long, default_value_t = 40_000)]
    small: usize,
    /// Messages of 64 KiB in a pipeline.
    #[arg(long, default_value_t = 2_000)]
    large: usize,
    /// Messages of each size sent one at a time.
    #[arg(long, default_value_t = 500)]
    single: usize,
    /// Length of the file in MiB; 0 leaves it out.
    #[arg(long, default_value_t = 1024)]
    file: u64,
    /// Small messages in one call.
    #[arg(long, default_value_t = 50)]
    batch: usize,
    /// Small messages on their way.
    #[arg(long, default_value_t = 1000)]
    window: usize,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

impl Arguments {
    fn cases(&self) -> Vec<Case> {
        let mut cases = vec![];
        let Self { small, large, single, batch, window, .. } = *self;
        for body in [100, 1 << 10] {
            cases.push(Case::Pipelined { body, messages: small / batch * batch, batch, window });
        }
        cases.push(Case::Pipelined { body: 64 << 10, messages: large / 4 * 4, batch: 4, window: 64 });
        for body in [100, 1 << 10, 64 << 10] {
            cases.push(Case::OneAtATime { body, messages: single });
        }
        cases.push(Case::File { bytes: self.file << 20 });
        let is_wanted = |case: &Case| case.name().contains(&self.only) && !matches!(case, Case::File { bytes: 0 });
        cases.retain(is_wanted);
        cases
    }
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<()> {
    let table = measure(&arguments.cases())?;
    let folder = binary::scratch_dir()?.parent().context("a target folder")?.join("bench");
    table.save(&folder)?;
    println!("\n{}\nf = fdatasync p50 before each case; {:.0} µs in the middle.", table.text(), table.f_us);
    if table.void {
        println!("VOID: the disk was busy (f above {} µs). Compare none of this.", disk::BUSY.as_micros());
    }
    println!("Written to {}.", folder.join("latest.json").display());
    Ok(())
}

fn measure(cases: &[Case]) -> Result<Table> {
    let began = Instant::now();
    for attempt in 1..=RUNS {
        let is_last = attempt == RUNS || began.elapsed() > LAST_CALL;
        eprintln!("run {attempt}");
        // In vain or not: the run looks for itself.
        let _ = wait::until("a disk that is not busy", CALM, &[], || {
            let syncs = disk::syncs(&binary::scratch_dir()?)?;
            Ok(syncs.percentile(50).filter(|median| *median <= disk::BUSY))
        });
        if let Some(table) = run(cases, is_last)? {
            return Ok(table);
        }
        eprintln!("  void: the disk is busy");
        if is_last {
            break;
        }
    }
    anyhow::bail!("no run came to its end")
}
