//! Time as the engine sees it: readings handed in, never taken. Ages and timers rest on boot time; the wall clock is
//! for display and, within bounds, for the gap across a reboot (rules AGE-1 to AGE-3).

use crate::planted::{self, Bug};

/// One reading of the host's clocks, taken by the driver once per round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the host booted, suspend included (`CLOCK_BOOTTIME`). Never goes back within a boot.
    pub boot_ms: u64,
    /// Names the boot `boot_ms` counts in.
    pub boot_id: [u8; 16],
    /// Unix milliseconds. May jump either way.
    pub wall_ms: u64,
}

/// Milliseconds this node has counted since its data directory was made: boot time, plus gaps it can vouch for.
///
/// Never goes back, never runs ahead of real time: what it misses makes an expiry late, never early.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct NodeTime(pub u64);

impl NodeTime {
    /// This time and `ms` more, saturating.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to here; 0 when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where the node's count stood at a known reading of the clocks. Stored with every commit that needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The count at the reading.
    pub at: NodeTime,
    /// The reading.
    pub reading: Now,
}

/// Counts [`NodeTime`] from readings, across restarts and reboots.
#[derive(Clone, Copy, Debug)]
pub struct AgeClock {
    anchor: Anchor,
    /// A gap across a reboot that both wall readings support and no peer has confirmed yet.
    unproven_gap_ms: u64,
}

/// How far a peer's wall clock may be from ours to confirm a gap.
pub const CLOCK_AGREEMENT_MS: u64 = 5 * 60 * 1000;

impl AgeClock {
    /// Starts to count: from the stored anchor when there is one, else from zero.
    ///
    /// In the same boot the boot clock gives the gap exactly. Across boots it is the wall-clock difference, held back
    /// until [`AgeClock::peer_said`] confirms it, and nothing when a reading lies before `build_ms` (rule AGE-2).
    #[must_use]
    pub fn start(stored: Option<Anchor>, now: Now, build_ms: u64) -> Self {
        let Some(stored) = stored else {
            return Self { anchor: Anchor { at: NodeTime(0), reading: now }, unproven_gap_ms: 0 };
        };
        if stored.reading.boot_id == now.boot_id {
            let gap = now.boot_ms.saturating_sub(stored.reading.boot_ms);
            return Self { anchor: Anchor { at: stored.at.plus(gap), reading: now }, unproven_gap_ms: 0 };
        }
        let credible = stored.reading.wall_ms >= build_ms && now.wall_ms >= build_ms;
        let gap = if credible { now.wall_ms.saturating_sub(stored.reading.wall_ms) } else { 0 };
        Self { anchor: Anchor { at: stored.at, reading: now }, unproven_gap_ms: gap }
    }

    /// The count at a reading.
    #[must_use]
    pub fn at(&self, now: Now) -> NodeTime {
        let mut gone_ms = now.boot_ms.saturating_sub(self.anchor.reading.boot_ms);
        if planted::is(Bug::AgesByWallClock) {
            gone_ms = gone_ms.max(now.wall_ms.saturating_sub(self.anchor.reading.wall_ms));
        }
        self.anchor.at.plus(gone_ms)
    }

    /// The anchor to store for a reading.
    #[must_use]
    pub fn anchor(&self, now: Now) -> Anchor {
        Anchor { at: self.at(now), reading: now }
    }

    /// The reading that the count rests on.
    #[must_use]
    pub fn anchor_point(&self) -> Anchor {
        self.anchor
    }

    /// Something is recorded with the count of now: a gap confirmed later would age it by time before it was there, so no
    /// gap counts any more (rule AGE-2: late, never early).
    pub fn recorded(&mut self) {
        self.unproven_gap_ms = 0;
    }

    /// A peer told its wall clock. When it agrees with ours, the gap across the last reboot is believed.
    pub fn peer_said(&mut self, peer_wall_ms: u64, now: Now) {
        if self.unproven_gap_ms > 0 && peer_wall_ms.abs_diff(now.wall_ms) <= CLOCK_AGREEMENT_MS {
            self.anchor = Anchor { at: self.at(now).plus(self.unproven_gap_ms), reading: now };
            self.unproven_gap_ms = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(boot: u8, boot_ms: u64, wall_ms: u64) -> Now {
        Now { boot_ms, boot_id: [boot; 16], wall_ms }
    }

    /// AGE-1: within a boot only the boot clock counts, whatever the wall clock does.
    #[test]
    fn a_wall_clock_jump_ages_nothing() {
        let clock = AgeClock::start(None, reading(1, 1000, 5_000_000), 1);
        assert_eq!(clock.at(reading(1, 3000, 999_000_000_000)), NodeTime(2000));
        assert_eq!(clock.at(reading(1, 4000, 0)), NodeTime(3000));
    }

    /// AGE-2: across boots a gap counts only once a peer's clock agrees, and never with a reading before the build.
    #[test]
    fn a_gap_across_boots_needs_a_witness() {
        let stored = Anchor { at: NodeTime(500), reading: reading(1, 9000, 10_000_000) };
        let now = reading(2, 100, 10_060_000);
        let mut clock = AgeClock::start(Some(stored), now, 1);
        assert_eq!(clock.at(now), NodeTime(500));
        clock.peer_said(99_000_000, now);
        assert_eq!(clock.at(now), NodeTime(500), "a peer with another clock proves nothing");
        clock.peer_said(10_060_001, now);
        assert_eq!(clock.at(now), NodeTime(60_500));
        let mut early = AgeClock::start(Some(stored), now, 10_050_000);
        early.peer_said(10_060_000, now);
        assert_eq!(early.at(now), NodeTime(500), "a reading before the build date proves nothing");
    }

    /// AGE-2: what is recorded after a reboot is not aged by what came before it, whoever confirms the gap.
    #[test]
    fn a_gap_confirmed_too_late_counts_nothing() {
        let stored = Anchor { at: NodeTime(500), reading: reading(1, 9000, 10_000_000) };
        let now = reading(2, 100, 10_060_000);
        let mut clock = AgeClock::start(Some(stored), now, 1);
        clock.recorded();
        clock.peer_said(10_060_000, now);
        assert_eq!(clock.at(now), NodeTime(500));
    }

    /// AGE-1: a restart in the same boot loses no time.
    #[test]
    fn a_restart_in_the_same_boot_is_counted() {
        let stored = Anchor { at: NodeTime(500), reading: reading(1, 9000, 10_000_000) };
        assert_eq!(AgeClock::start(Some(stored), reading(1, 9700, 0), 1).at(reading(1, 9800, 0)), NodeTime(1300));
    }
}
