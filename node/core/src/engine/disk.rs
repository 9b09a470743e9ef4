//! Room on the disk, below all quotas: what is left above the reserve, and that nothing new is taken without it. What
//! ends mail (receipts, words, settlements) is always taken (rule DISK-3).

use super::Engine;
use super::effect::Refusal;

/// When to come again to a full disk: room comes back when mail drains or a person makes it.
const RETRY_AFTER_MS: u64 = 5000;
/// A byte of mail may be on disk so often before the space is measured again: in the log, in a table, and in the table
/// that compaction writes from it.
const COPIES: u64 = 3;

/// The disk as it was measured last.
#[derive(Default, Debug)]
pub(super) struct Disk {
    /// Bytes free and kept back; `None` before the first measure: nothing is known against the disk.
    measured: Option<(u64, u64)>,
    /// Bytes of mail written since, also of what is gone again: the disk has them still.
    written: u64,
    /// Below the reserve since then, and not yet well above it.
    full: bool,
}

impl Engine {
    /// The space was measured. A disk that was full must be well above the reserve to be taken from again, or every
    /// message that drains would let one in.
    pub(super) fn space_changed(&mut self, free: u64, reserve: u64) {
        let enough = if self.disk.full { reserve.saturating_add(reserve / 8) } else { reserve };
        let full = free < enough;
        self.disk = Disk { measured: Some((free, reserve)), written: 0, full };
    }

    /// Whether so many bytes of mail may be written: above the reserve, with what was taken since the last measure.
    pub(super) fn has_disk_for(&self, bytes: u64) -> bool {
        let Some((free, reserve)) = self.disk.measured else { return true };
        let wanted = self.disk.written.saturating_add(bytes).saturating_mul(COPIES);
        !self.disk.full && wanted <= free.saturating_sub(reserve)
    }

    /// The same as a refusal for an application.
    pub(super) fn room_on_disk(&self, bytes: u64) -> Result<(), Refusal> {
        let (free, reserve) = self.disk.measured.unwrap_or_default();
        let refusal = Refusal::DiskFull { free, reserve, retry_after_ms: RETRY_AFTER_MS };
        if self.has_disk_for(bytes) { Ok(()) } else { Err(refusal) }
    }

    /// Mail of so many bytes was taken.
    pub(super) fn mail_written(&mut self, bytes: u64) {
        self.disk.written = self.disk.written.saturating_add(bytes);
    }
}
