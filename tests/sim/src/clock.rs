//! A host's clocks, made from true time: a boot clock that runs a little fast or slow and begins anew at each boot, and a
//! wall clock that can be anything. Nothing in the engine may read true time, and nothing else may judge the engine.

use waypost_core::time::Now;

/// Unix milliseconds at which worlds begin.
pub const BEGIN_WALL_MS: u64 = 2_000_000_000_000;

/// What the boot clock shows when a boot begins.
const BOOT_MS: u64 = 1000;

/// The clocks of a host. True time is microseconds since the world began.
#[derive(Clone, Debug)]
pub struct Clock {
    boot: u64,
    booted_us: u64,
    drift_ppm: i64,
    /// The wall clock minus true time, in milliseconds.
    pub wall_offset_ms: i64,
}

impl Clock {
    /// Clocks of a host that boots at true time 0.
    #[must_use]
    pub fn new(drift_ppm: i64, wall_offset_ms: i64) -> Self {
        Self { boot: 1, booted_us: 0, drift_ppm, wall_offset_ms }
    }

    /// The host boots.
    pub fn reboot(&mut self, at_us: u64) {
        self.boot += 1;
        self.booted_us = at_us;
    }

    /// What the host reads at a true time.
    #[must_use]
    pub fn read(&self, at_us: u64) -> Now {
        let elapsed_us = at_us.saturating_sub(self.booted_us);
        let shown_us = elapsed_us.saturating_add_signed(self.drift(elapsed_us));
        let mut boot_id = [0; 16];
        boot_id[..8].copy_from_slice(&self.boot.to_be_bytes());
        Now {
            boot_ms: BOOT_MS + shown_us / 1000,
            boot_id,
            wall_ms: (BEGIN_WALL_MS + at_us / 1000).saturating_add_signed(self.wall_offset_ms),
        }
    }

    /// A true time at which the boot clock shows at least `boot_ms`, near the first one.
    #[must_use]
    pub fn when(&self, boot_ms: u64) -> u64 {
        let shown_us = boot_ms.saturating_sub(BOOT_MS).saturating_mul(1000);
        let mut at_us = self.booted_us + shown_us.saturating_add_signed(-self.drift(shown_us));
        while self.read(at_us).boot_ms < boot_ms {
            at_us += 500;
        }
        at_us
    }

    fn drift(&self, us: u64) -> i64 {
        (us / 1_000_000) as i64 * self.drift_ppm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_is_due_when_it_comes() {
        for drift in [-200, 0, 200] {
            let mut clock = Clock::new(drift, 0);
            clock.reboot(7_000_000);
            for boot_ms in [1000, 1001, 61_000, 90_000_000] {
                assert!(clock.read(clock.when(boot_ms)).boot_ms >= boot_ms, "{drift} {boot_ms}");
            }
        }
    }
}
