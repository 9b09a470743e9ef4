//! What the service manager is told (sd_notify(3)): ready, stopping, alive. Says nothing where nobody listens, and
//! decides nothing: a node runs the same without it.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;

use crate::clock::Clock;
use crate::driver::Counters;

/// The socket serves and the engine answers.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The node has begun to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that the node is alive for as long as its commits make progress; returns at once when nobody wants to know.
pub async fn feed_watchdog(counters: Arc<Counters>, clock: Clock) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return };
    // Twice in the time allowed, as sd_watchdog_enabled(3) advises.
    let mut ticks = tokio::time::interval(limit / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if is_alive(counters.busy_since_ms(), clock.now().boot_ms, limit) {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// Whether no round of the engine hangs for longer than `limit`.
fn is_alive(busy_since_ms: Option<u64>, now_ms: u64, limit: Duration) -> bool {
    busy_since_ms.is_none_or(|since| u128::from(now_ms.saturating_sub(since)) < limit.as_millis())
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(why = %error, "the service manager could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_hangs_is_no_sign_of_life() {
        let limit = Duration::from_secs(60);
        assert!(is_alive(None, 1_000_000, limit), "nothing to do is no illness");
        assert!(is_alive(Some(1_000_000), 1_059_999, limit));
        assert!(!is_alive(Some(1_000_000), 1_060_000, limit));
        assert!(is_alive(Some(1_000_000), 999_000, limit));
    }
}
