//! Tells readers that files were exchanged under them.
//!
//! Readers know segments by what was in memory when they looked, and open files by name. A swap puts another file under a name,
//! a deletion takes the name away: what a reader of before then finds is not what it was told of. So every read that touches
//! files runs inside [`Turnover::steady`], and is done again when an exchange came between.
//!
//! ```text
//!   count   0   1 exchange 2        3 exchange 4
//!   reader   |--------------| again    |         waits for an exchange under way, then reads
//! ```
//!
//! Invariants
//! - The count is odd while an exchange is under way. Exchanges exclude each other.
//! - An exchange covers both: the names on disk and the list in memory. It is short (renames and memory work, no copying).
//!
//! Bytes that a reader already has stay valid: a mapping outlives its file's name.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use parking_lot::Mutex;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turnover {
    count: AtomicU64,
    under_way: Mutex<()>,
}

impl Turnover {
    /// Runs `work`, which exchanges files and tells the list of segments; readers of before look again.
    pub(super) fn exchange<T>(&self, work: impl FnOnce() -> T) -> T {
        let _alone = self.under_way.lock();
        let _counted = Counted::begin(&self.count);
        work()
    }

    /// Runs `look` until no exchange came between its begin and its end; what it returned of the last time counts.
    pub(super) fn steady<T>(&self, mut look: impl FnMut() -> T) -> T {
        loop {
            let before = self.count.load(Ordering::Acquire);
            if before % 2 == 1 {
                drop(self.under_way.lock());
                continue;
            }
            let seen = look();
            fence(Ordering::Acquire);
            if self.count.load(Ordering::Relaxed) == before {
                return seen;
            }
        }
    }
}

/// Counts the begin, and the end also when the work panics.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn begin(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_during_which_files_were_exchanged_is_done_again() {
        let turnover = Turnover::default();
        let mut looks = 0;
        let seen = turnover.steady(|| {
            looks += 1;
            if looks == 1 {
                turnover.exchange(|| ());
            }
            looks
        });
        assert_eq!(seen, 2);
        assert_eq!(turnover.steady(|| "undisturbed"), "undisturbed");
    }

    #[test]
    fn a_look_waits_for_an_exchange_that_is_under_way() {
        let turnover = Turnover::default();
        let exchanged = AtomicU64::new(0);
        let (begun, wait_begun) = std::sync::mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                turnover.exchange(|| {
                    begun.send(()).expect("somebody waits");
                    (0..1_000).for_each(|_| std::thread::yield_now());
                    exchanged.store(1, Ordering::Release);
                });
            });
            wait_begun.recv().expect("it begins");
            assert_eq!(turnover.steady(|| exchanged.load(Ordering::Acquire)), 1);
        });
    }
}
