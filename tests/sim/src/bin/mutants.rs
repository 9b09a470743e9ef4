//! `mutants`: every planted bug must be found. Without arguments over 2,000 seeds each; `--recorded` starts at the seeds
//! on which they were found before and looks at 100 more at most; names of bugs restrict either to them.

use std::time::{Duration, Instant};

use waypost_core::planted::Bug;
use waypost_sim::mutants::{HEAD, Hunter, RECORDED, row, table};

/// Seeds of a search.
const SEEDS: u64 = 2000;
/// Seeds beside the recorded one, and how long they may take together.
const MORE: u64 = 100;
const RECORDED_FOR: Duration = Duration::from_secs(225);

fn main() -> anyhow::Result<()> {
    let begin = Instant::now();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let recorded = arguments.iter().any(|it| it == "--recorded");
    let seeds = arguments.iter().find_map(|it| it.strip_prefix("--seeds=")).map_or(Ok(SEEDS), str::parse)?;
    let named: Vec<&String> = arguments.iter().filter(|it| !it.starts_with("--")).collect();
    if let Some(unknown) = named.iter().find(|name| !Bug::ALL.iter().any(|bug| bug.name() == **name)) {
        anyhow::bail!("no bug is called {unknown}: give names of node/core/src/planted.rs, or none for all");
    }
    // A bug may run into the engine's own assertions: the table says so, the backtraces say no more.
    std::panic::set_hook(Box::new(|_| {}));
    let mut hunter = Hunter::default();
    hunter.until = recorded.then(|| begin + RECORDED_FOR);
    println!("{HEAD}");
    let mut hunts = Vec::new();
    for bug in Bug::ALL.iter().filter(|bug| named.is_empty() || named.iter().any(|name| *name == bug.name())) {
        let order: Vec<u64> = if recorded {
            let first = RECORDED.iter().filter(|(of, _)| of == bug).map(|(_, seed)| *seed);
            first.chain(0..MORE).collect()
        } else {
            (0..seeds).collect()
        };
        let hunt = hunter.hunt(*bug, &order);
        println!("{}", row(&hunt));
        if let Some(found) = &hunt.finding {
            eprintln!("    {}", found.what);
        }
        hunts.push(hunt);
    }
    let lost = hunts.iter().filter(|hunt| hunt.finding.is_none()).count();
    println!("\n{} of {} found, {:.1} min", hunts.len() - lost, hunts.len(), begin.elapsed().as_secs_f64() / 60.0);
    if !hunter.unsound().is_empty() {
        println!("seeds that fail with no bug on, and count for nothing: {:?}", hunter.unsound());
    }
    if !recorded && named.is_empty() {
        let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
        std::fs::create_dir_all(&target)?;
        std::fs::write(format!("{target}/mutants.md"), table(&hunts))?;
    }
    anyhow::ensure!(lost == 0, "{lost} planted bugs were not found: the simulator has a hole there");
    Ok(())
}
