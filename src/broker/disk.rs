//! The disk guard: a full disk is a state, not a crash.
//!
//! Below the reserve, produce is refused; reads, deletions and everything internal go on. Three things set the state:
//! - a look at the disk: once a second, ten times as often when little more than the reserve is left ([`NEAR_BYTES`]);
//! - appends between two looks, which are taken off what the last one found;
//! - a write, a sync, a roll or a checkpoint that found no room, at once, whatever a look said before.
//!
//! Only a look clears it, and only when there is more than what set it: a ninth of the reserve on top, and after a write that
//! found no room at least [`ROOM_BYTES`]. So a disk at the line does not make the state flutter, with a reserve of 0 neither.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::storage::StoreError;

use super::Error;

/// Free space beyond the reserve, in bytes, below which the disk is looked at more often: what a fast disk takes in a second.
const NEAR_BYTES: u64 = 512 << 20;
/// What must be free, in bytes, before produce is taken again after a write found no room: a few of the greatest batches.
const ROOM_BYTES: u64 = 4 << 20;
/// Times between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const NEAR_LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(super) struct DiskGuard {
    path: String,
    min_free_bytes: u64,
    /// By the last look, less what was appended since.
    free_bytes: AtomicU64,
    full: AtomicBool,
    /// A write found no room since produce was last taken.
    write_failed: AtomicBool,
    /// The state as the last look told it.
    told_full: AtomicBool,
    /// Held while the state is worked out and set: a look must not undo what a write found meanwhile.
    deciding: Mutex<()>,
}

/// What a look at the disk has to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Produce is refused from now on, or since a moment.
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
            write_failed: AtomicBool::new(false),
            told_full: AtomicBool::new(false),
            deciding: Mutex::new(()),
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
        let _deciding = self.deciding.lock();
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        let least = if self.full.load(Ordering::Relaxed) {
            let reserve = self.min_free_bytes.saturating_add(self.min_free_bytes / 9);
            match self.write_failed.load(Ordering::Relaxed) {
                true => reserve.max(ROOM_BYTES),
                false => reserve,
            }
        } else {
            self.min_free_bytes
        };
        let full = free_bytes < least;
        self.full.store(full, Ordering::Relaxed);
        if !full {
            self.write_failed.store(false, Ordering::Relaxed);
        }
        match (self.told_full.swap(full, Ordering::Relaxed), full) {
            (false, true) => Change::BecameFull,
            (true, false) => Change::Recovered,
            _ => Change::None,
        }
    }

    /// Takes in that so much was appended since the last look.
    pub(super) fn appended(&self, bytes: u64) {
        let less = |free: u64| Some(free.saturating_sub(bytes));
        let before = self
            .free_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        if before.unwrap_or_default().saturating_sub(bytes) < self.min_free_bytes {
            self.full.store(true, Ordering::Relaxed);
        }
    }

    /// A write found no room. Returns what its caller is told.
    pub(super) fn write_found_no_room(&self) -> Error {
        let deciding = self.deciding.lock();
        self.write_failed.store(true, Ordering::Relaxed);
        self.full.store(true, Ordering::Relaxed);
        drop(deciding);
        self.error()
    }

    /// Takes in a failure that is told elsewhere, for what it says about the room on the disk: many a file system finds a place
    /// for the bytes only when they are synced.
    pub(super) fn heed(&self, error: &StoreError) {
        if error.is_disk_full() {
            self.write_found_no_room();
        }
    }

    /// Returns when the disk is to be looked at again.
    pub(super) fn next_look(&self) -> Duration {
        match self.free_bytes().saturating_sub(self.min_free_bytes) {
            ..NEAR_BYTES => NEAR_LOOK_INTERVAL,
            _ => LOOK_INTERVAL,
        }
    }

    /// True while produce is refused.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Returns what the last look found, less what was appended since.
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

    fn guard(min_free_bytes: u64) -> DiskGuard {
        DiskGuard::new(Path::new("/data"), min_free_bytes)
    }

    #[test]
    fn produce_is_refused_below_the_reserve_and_taken_again_when_space_is_really_there() {
        let disk = guard(90);
        assert!(disk.check().is_ok(), "before the first look");
        assert_eq!(disk.look(90), Change::None);
        assert_eq!(disk.look(89), Change::BecameFull);
        assert_eq!(disk.look(88), Change::None);
        assert_eq!(
            disk.check().expect_err("full").to_string(),
            "disk of /data is full: 88 bytes are free, storage.min_free_bytes is 90; produce is refused until space returns"
        );
        assert_eq!(disk.look(99), Change::None, "at the line it does not flutter");
        assert_eq!(disk.look(100), Change::Recovered);
        assert!(disk.check().is_ok());
    }

    #[test]
    fn a_write_without_room_sets_the_state_at_once_and_it_stays_until_there_is_room_without_a_reserve_too() {
        let disk = guard(0);
        disk.look(ROOM_BYTES);
        assert!(matches!(disk.write_found_no_room(), Error::DiskFull { .. }));
        assert!(disk.check().is_err());
        assert_eq!(disk.look(0), Change::BecameFull);
        assert_eq!(disk.look(ROOM_BYTES - 1), Change::None);
        assert!(disk.check().is_err());
        assert_eq!(disk.look(ROOM_BYTES), Change::Recovered);
        assert_eq!(
            disk.look(1),
            Change::None,
            "forgotten: a reserve of 0 asks for nothing"
        );
    }

    #[test]
    fn a_look_beside_a_write_that_finds_no_room_does_not_undo_what_it_found() {
        for _ in 0..200 {
            let disk = guard(0);
            let both = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    both.wait();
                    disk.look(ROOM_BYTES - 1)
                });
                both.wait();
                disk.write_found_no_room()
            });
            assert!(disk.check().is_err());
        }
    }

    #[test]
    fn appends_between_two_looks_are_taken_off_and_refuse_the_one_that_would_cross_the_line() {
        let disk = guard(100);
        disk.look(1000);
        disk.appended(900);
        assert!(disk.check().is_ok());
        disk.appended(1);
        assert!(disk.check().is_err());
        assert_eq!(
            disk.look(1000),
            Change::None,
            "the look knows better, and nobody was told"
        );
        assert!(disk.check().is_ok());
    }

    #[test]
    fn a_disk_near_its_reserve_is_looked_at_more_often() {
        let disk = guard(1 << 20);
        disk.look((1 << 20) + NEAR_BYTES);
        assert_eq!(disk.next_look(), LOOK_INTERVAL);
        disk.look((1 << 20) + NEAR_BYTES - 1);
        assert_eq!(disk.next_look(), NEAR_LOOK_INTERVAL);
        disk.look(0);
        assert_eq!(disk.next_look(), NEAR_LOOK_INTERVAL);
    }
}
