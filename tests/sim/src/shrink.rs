//! Makes a failing plan smaller while it still breaks the same promise: fewer faults, fewer calls, fewer links, smaller
//! bodies. What is left is the story to read.

use crate::plan::{Plan, joins_all};
use crate::run::run_plan;

/// Runs of a plan at most.
const RUNS: usize = 400;

/// A plan that breaks the same promise with as little as can be. `said` hears of each step.
///
/// # Errors
/// When a world cannot be made.
pub fn shrink(plan: Plan, said: &mut dyn FnMut(&str)) -> anyhow::Result<Plan> {
    let Some(broken) = run_plan(plan.clone(), false)?.broken else { return Ok(plan) };
    let mut shrinking = Shrinking { best: plan, promise: broken.promise, runs: 0 };
    loop {
        let before = shrinking.size();
        shrinking.drop_faults()?;
        shrinking.drop_calls()?;
        shrinking.drop_links()?;
        shrinking.shorten_bodies()?;
        said(&shrinking.describe());
        if shrinking.size() == before || shrinking.runs >= RUNS {
            return Ok(shrinking.best);
        }
    }
}

struct Shrinking {
    best: Plan,
    promise: &'static str,
    runs: usize,
}

impl Shrinking {
    fn size(&self) -> (usize, usize, usize, usize) {
        let bytes = self.best.work.iter().map(|(_, send)| send.size * send.count).sum();
        (self.best.faults.len(), self.best.work.len(), self.best.links.len(), bytes)
    }

    fn describe(&self) -> String {
        let (faults, calls, links, bytes) = self.size();
        format!("{faults} faults, {calls} calls, {links} links, {bytes} bytes after {} runs", self.runs)
    }

    /// Takes a smaller plan if it breaks the same promise.
    fn attempt(&mut self, plan: Plan) -> anyhow::Result<bool> {
        if self.runs >= RUNS {
            return Ok(false);
        }
        self.runs += 1;
        let fails = run_plan(plan.clone(), false)?.broken.is_some_and(|broken| broken.promise == self.promise);
        if fails {
            self.best = plan;
        }
        Ok(fails)
    }

    fn drop_faults(&mut self) -> anyhow::Result<()> {
        let length = |plan: &Plan| plan.faults.len();
        self.drop_runs(length, |plan, from, to| {
            plan.faults.drain(from..to);
        })
    }

    fn drop_calls(&mut self) -> anyhow::Result<()> {
        let length = |plan: &Plan| plan.work.len();
        self.drop_runs(length, |plan, from, to| {
            plan.work.drain(from..to);
        })
    }

    /// Leaves halves out, then quarters, down to single items.
    fn drop_runs(
        &mut self,
        length: impl Fn(&Plan) -> usize,
        drain: impl Fn(&mut Plan, usize, usize),
    ) -> anyhow::Result<()> {
        let mut run = length(&self.best).div_ceil(2);
        while run > 0 {
            let mut from = 0;
            while from < length(&self.best) {
                let mut plan = self.best.clone();
                let to = (from + run).min(length(&plan));
                drain(&mut plan, from, to);
                if !self.attempt(plan)? {
                    from += run;
                }
            }
            run /= 2;
        }
        Ok(())
    }

    /// A link that goes takes its faults along; those of later links follow it down.
    fn drop_links(&mut self) -> anyhow::Result<()> {
        let mut place = 0;
        while place < self.best.links.len() {
            let mut plan = self.best.clone();
            let liars: Vec<usize> = (0..plan.hosts.len()).filter(|host| plan.hosts[*host].malice.is_some()).collect();
            plan.links.remove(place);
            plan.faults.retain_mut(|(_, fault)| fault.forget_link(place));
            if !joins_all(plan.hosts.len(), &plan.links, &liars) || !self.attempt(plan)? {
                place += 1;
            }
        }
        Ok(())
    }

    fn shorten_bodies(&mut self) -> anyhow::Result<()> {
        for place in 0..self.best.work.len() {
            let mut plan = self.best.clone();
            let send = &mut plan.work[place].1;
            if (send.size, send.count) != (1, 1) {
                (send.size, send.count) = (1, 1);
                self.attempt(plan)?;
            }
        }
        Ok(())
    }
}
