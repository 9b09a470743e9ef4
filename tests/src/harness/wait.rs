//! The one place that waits. A wait is for a fact; it looks again after a short pause, because a fact in another
//! process cannot be subscribed to, and it ends by the fact or by a deadline with everything one needs to see why.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks: short beside what is waited for, long beside what a look costs.
const PAUSE: Duration = Duration::from_millis(10);
/// Lines of each log that a failed wait shows.
const TAIL: usize = 25;

/// Looks with `probe` until it gives something; `what` completes "waited for …".
///
/// # Errors
/// At once when the probe fails, which means the fact can no longer come; after `deadline` with the tails of `logs`.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    logs: &[&Path],
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        match probe() {
            Ok(Some(fact)) => return Ok(fact),
            Ok(None) if begun.elapsed() < deadline => std::thread::sleep(PAUSE),
            Ok(None) => bail!("waited {deadline:?} in vain for {what}{}", tails(logs)),
            Err(error) => return Err(error.context(format!("while waiting for {what}{}", tails(logs)))),
        }
    }
}

/// Until a moment, for what must happen at an arbitrary one: never in place of a fact.
pub fn moment(at: Instant) {
    std::thread::sleep(at.saturating_duration_since(Instant::now()));
}

fn tails(logs: &[&Path]) -> String {
    logs.iter().map(|log| format!("\n--- {}\n{}", log.display(), tail(log))).collect()
}

fn tail(log: &Path) -> String {
    let text = match std::fs::read(log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("(cannot be read: {error})"),
    };
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_ends_the_wait() {
        let mut looks = 0;
        let found = until("three looks", Duration::from_secs(5), &[], || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn the_deadline_tells_what_was_waited_for_and_shows_the_log() {
        let log = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(log.path(), "first\nlast words\n").unwrap();
        let failed = until::<()>("a miracle", Duration::ZERO, &[log.path()], || Ok(None)).unwrap_err().to_string();
        assert!(failed.contains("a miracle") && failed.contains("last words"), "{failed}");
    }

    #[test]
    fn a_fact_that_cannot_come_ends_the_wait_at_once() {
        let failed = until::<()>("a reply", Duration::from_secs(3600), &[], || bail!("the node exited"));
        assert!(format!("{:#}", failed.unwrap_err()).contains("the node exited"));
    }
}
