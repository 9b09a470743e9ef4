//! What a process has used so far, as the kernel counts it under `/proc`.

use std::fs;

use anyhow::{Context, Result};

/// What Linux tells user space as its clock tick, whatever the kernel's own is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Readings of one process at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Seconds of processor time, user and system. The kernel counts in hundredths.
    pub cpu_s: f64,
    /// Bytes handed to block devices, the file system's own journal not counted.
    pub written: u64,
    /// The most memory it ever had resident, in bytes, since [`forget_peak`].
    pub peak: u64,
}

impl Usage {
    /// Of a process of this user.
    ///
    /// # Errors
    /// When it is gone, or the kernel tells something else than expected.
    pub fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("{pid}"));
        let ticks = ticks(&read("stat")?).context("/proc/PID/stat")?;
        let written = field(&read("io")?, "write_bytes:").context("/proc/PID/io")?;
        let peak = field(&read("status")?, "VmHWM:").context("/proc/PID/status")? * 1024;
        Ok(Self { cpu_s: ticks as f64 / TICKS_PER_SECOND, written, peak })
    }

    /// What was used since `earlier`; the peak is not a difference.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { cpu_s: self.cpu_s - earlier.cpu_s, written: self.written - earlier.written, peak: self.peak }
    }
}

/// Makes the peak of a process what it has resident now.
///
/// # Errors
/// When it is gone.
pub fn forget_peak(pid: u32) -> Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").with_context(|| format!("/proc/{pid}/clear_refs"))
}

/// User and system time: the 14th and 15th field, counted behind the name, which may contain anything.
fn ticks(stat: &str) -> Option<u64> {
    let behind = stat.rsplit_once(") ")?.1;
    let mut fields = behind.split(' ').skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 31 12 0 0 20 0 9 0 555 1 2";
        assert_eq!(ticks(stat), Some(43));
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let io = "rchar: 1\nwchar: 2\nread_bytes: 3\nwrite_bytes: 4\ncancelled_write_bytes: 5\n";
        assert_eq!(field(io, "write_bytes:"), Some(4));
        assert_eq!(field("VmHWM:\t  1024 kB\n", "VmHWM:"), Some(1024));
        assert_eq!(field(io, "bytes:"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let used = Usage::of(std::process::id()).unwrap();
        assert!(used.peak > 1 << 20, "{used:?}");
    }
}
