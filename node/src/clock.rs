//! The node's only clock. It reads; what a reading means is decided in the engine (rules AGE-1 to AGE-3).

use std::path::Path;
use std::{fs, io};

use rustix::time::{ClockId, Timespec, clock_gettime};
use waypost_core::time::Now;

/// Where Linux names the running boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Reads the host's clocks. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    boot_id: [u8; 16],
}

impl Clock {
    /// A clock for the running boot.
    ///
    /// # Errors
    /// When the boot cannot be named: ages across a restart could not be told then.
    pub fn new() -> io::Result<Self> {
        Self::of_boot_named_in(Path::new(BOOT_ID))
    }

    fn of_boot_named_in(path: &Path) -> io::Result<Self> {
        let because =
            |why: String| io::Error::other(format!("the boot's id cannot be read from {}: {why}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| because(error.to_string()))?;
        let id = uuid::Uuid::try_parse(text.trim()).map_err(|error| because(error.to_string()))?;
        Ok(Self { boot_id: id.into_bytes() })
    }

    /// A reading of all clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        Now {
            boot_ms: micros(clock_gettime(ClockId::Boottime)) / 1000,
            boot_id: self.boot_id,
            wall_ms: micros(clock_gettime(ClockId::Realtime)) / 1000,
        }
    }

    /// Microseconds of the boot clock: to measure how long something took, never to decide by.
    #[must_use]
    pub fn boot_us(&self) -> u64 {
        micros(clock_gettime(ClockId::Boottime))
    }
}

/// Times before the epoch, which a clock without a battery may show, are the epoch.
fn micros(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0) / 1000;
    seconds.saturating_mul(1_000_000).saturating_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_go_forward_in_one_boot() {
        let clock = Clock::new().unwrap();
        let (first, second) = (clock.now(), Clock::new().unwrap().now());
        assert!(first.boot_ms <= second.boot_ms);
        assert_eq!(first.boot_id, second.boot_id);
        assert_ne!(first.boot_id, [0; 16]);
        assert!(first.wall_ms > 1_700_000_000_000, "a wall clock of this century");
        assert!(clock.boot_us() / 1000 >= second.boot_ms);
    }

    #[test]
    fn a_boot_without_a_name_is_an_error_that_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("boot_id");
        fs::write(&path, "0188f5d4-7c3e-4b6a-9f10-2233445566zz\n").unwrap();
        for path in [path, dir.path().join("missing")] {
            let why = Clock::of_boot_named_in(&path).unwrap_err().to_string();
            assert!(why.contains(path.to_str().unwrap()), "{why}");
        }
    }

    #[test]
    fn a_time_before_the_epoch_is_the_epoch() {
        assert_eq!(micros(Timespec { tv_sec: -5, tv_nsec: 0 }), 0);
        assert_eq!(micros(Timespec { tv_sec: 2, tv_nsec: 3_456_789 }), 2_003_456);
    }
}
