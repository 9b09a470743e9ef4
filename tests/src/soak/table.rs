//! The summary of a soak, and what makes it fail besides broken promises: worlds emptied to be fast, paths never taken.

use std::fmt;

use waypost_sim::seen::REQUIRED;

use super::{Group, Summary, replay};

/// The least a short world must hold, by its median: steps, faults, crashes, messages.
const LEAST: [(&str, u64); 4] = [("steps", 1000), ("faults", 5), ("crashes", 2), ("messages", 20)];
/// CPU milliseconds that a seed's median may cost.
const SHORT_MS: f64 = 100.0;
const LONG_MS: f64 = 3000.0;
/// So many seeds must meet every rare path.
const ENOUGH: usize = 1000;
/// Failures shown in full.
const SHOWN: usize = 20;

impl Group {
    fn medians(&self) -> [u64; 4] {
        [&self.steps, &self.faults, &self.crashes, &self.messages].map(|values| median(values))
    }

    fn cpu_ms_median(&self) -> f64 {
        let mut sorted = self.cpu_ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
    }
}

impl Summary {
    /// Why these seeds prove less than they should; empty when all is well.
    #[must_use]
    pub fn shortcomings(&self) -> Vec<String> {
        let mut found = Vec::new();
        if !self.short.steps.is_empty() {
            for ((what, least), median) in LEAST.iter().zip(self.short.medians()) {
                if median < *least {
                    found.push(format!("a short world has {median} {what} by its median; at least {least} are wanted"));
                }
            }
        }
        for (name, group, most) in [("short", &self.short, SHORT_MS), ("long", &self.long, LONG_MS)] {
            let median = group.cpu_ms_median();
            if median > most {
                found.push(format!("a {name} world costs {median:.0} ms by its median; at most {most} are allowed"));
            }
        }
        if self.seeds() >= ENOUGH {
            found.extend(self.seen.missing().into_iter().map(|what| format!("never seen: {what}")));
        }
        found
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| worlds | seeds | steps | faults | crashes | messages | CPU ms median | most | its seed |")?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|")?;
        for (name, group) in [("short", &self.short), ("long", &self.long)] {
            if group.steps.is_empty() {
                continue;
            }
            let [steps, faults, crashes, messages] = group.medians();
            let (seeds, median, (most, dearest)) = (group.steps.len(), group.cpu_ms_median(), group.dearest);
            write!(f, "| {name} | {seeds} | {steps} | {faults} | {crashes} | {messages} ")?;
            writeln!(f, "| {median:.0} | {most:.0} | {dearest} |")?;
        }
        writeln!(f, "\nSteps, faults, crashes and messages are medians of a seed. Together:\n")?;
        writeln!(f, "| | |\n|---|---|")?;
        let steps: u64 = self.short.steps.iter().chain(&self.long.steps).sum();
        let hours = self.simulated_us as f64 / 3.6e9;
        let seconds = self.took.as_secs_f64();
        let cpu_s = self.short.cpu_ms.iter().chain(&self.long.cpu_ms).sum::<f64>() / 1000.0;
        writeln!(f, "| simulated | {:.0} hours ({:.1} years) |", hours, hours / 8766.0)?;
        writeln!(f, "| took | {seconds:.0} s, {cpu_s:.0} CPU-s |")?;
        writeln!(f, "| steps | {steps} ({:.0} a CPU-second) |", steps as f64 / cpu_s.max(1e-9))?;
        writeln!(f, "| frames | {} |", self.frames)?;
        let accepted: u64 = self.short.messages.iter().chain(&self.long.messages).sum();
        writeln!(f, "| messages | {accepted} accepted, {} handed out |", self.delivered)?;
        writeln!(f, "| crashes | {} |", self.short.crashes.iter().chain(&self.long.crashes).sum::<u64>())?;
        writeln!(f, "\n| fault | times |\n|---|---|")?;
        for (kind, times) in &self.faults {
            writeln!(f, "| {kind} | {times} |")?;
        }
        writeln!(f, "\n| rare path | times |\n|---|---|")?;
        for what in REQUIRED {
            writeln!(f, "| {what} | {} |", self.seen.0.get(what).copied().unwrap_or(0))?;
        }
        for (job, what) in self.failures.iter().take(SHOWN) {
            writeln!(f, "\nseed {}: {what}\n  {}", job.0, replay(*job))?;
        }
        Ok(())
    }
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}
