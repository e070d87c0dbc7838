//! The disk guard: a full disk is a state, not a crash.
//!
//! Below the reserve, produce is refused; reads, deletions and everything internal go on. The state is set by a look at the
//! disk once a second, and at once by a write that found no room; it is cleared by the next look that finds enough.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Error;

/// See the module.
#[derive(Debug)]
pub(super) struct DiskGuard {
    path: String,
    min_free_bytes: u64,
    free_bytes: AtomicU64,
    full: AtomicBool,
}

/// What a look at the disk changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Produce is refused from now on.
    BecameFull,
    /// Produce is taken again.
    Recovered,
    /// Nothing.
    None,
}

impl DiskGuard {
    /// Guards the disk of `path`.
    pub(super) fn new(path: &Path, min_free_bytes: u64) -> Self {
        Self {
            path: path.display().to_string(),
            min_free_bytes,
            free_bytes: AtomicU64::new(u64::MAX),
            full: AtomicBool::new(false),
        }
    }

    /// Lets produce pass.
    ///
    /// # Errors
    /// [`Error::DiskFull`] while the disk is too full.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.full.load(Ordering::Relaxed) {
            Err(self.error())
        } else {
            Ok(())
        }
    }

    /// Takes in how much is free now.
    pub(super) fn look(&self, free_bytes: u64) -> Change {
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        let full = free_bytes < self.min_free_bytes;
        match (self.full.swap(full, Ordering::Relaxed), full) {
            (false, true) => Change::BecameFull,
            (true, false) => Change::Recovered,
            _ => Change::None,
        }
    }

    /// A write found no room. Returns what its caller is told.
    pub(super) fn write_found_no_room(&self) -> Error {
        self.full.store(true, Ordering::Relaxed);
        self.error()
    }

    /// True while produce is refused.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Returns what the last look found.
    pub(super) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    fn error(&self) -> Error {
        Error::DiskFull {
            path: self.path.clone(),
            free_bytes: self.free_bytes.load(Ordering::Relaxed),
            min_free_bytes: self.min_free_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn produce_is_refused_below_the_reserve_and_taken_again_when_space_returns() {
        let disk = DiskGuard::new(Path::new("/data"), 100);
        assert!(disk.check().is_ok(), "before the first look");
        assert_eq!(disk.look(100), Change::None);
        assert_eq!(disk.look(99), Change::BecameFull);
        assert_eq!(disk.look(98), Change::None);
        assert_eq!(
            disk.check().expect_err("full").to_string(),
            "disk of /data has 98 bytes free, below storage.min_free_bytes = 100: produce is refused until space returns"
        );
        assert_eq!(disk.look(100), Change::Recovered);
        assert!(disk.check().is_ok());
    }

    #[test]
    fn a_write_without_room_sets_the_state_at_once_and_the_next_look_clears_it() {
        let disk = DiskGuard::new(Path::new("/data"), 100);
        assert!(matches!(disk.write_found_no_room(), Error::DiskFull { .. }));
        assert!(disk.is_full());
        assert_eq!(disk.look(1000), Change::Recovered);
    }
}
