//! Turns at the sealed segments of one log: whoever rewrites or removes them has the turn, and nobody else.
//!
//! ```text
//!   a pass of the cleaner     begin_pass, looks at is_wanted at every chunk, gives the turn back when somebody wants it
//!   retention                 take_for_deletion: the pass lends its turn between two chunks, and goes on afterwards
//!   settings                  take: asks the pass to stop and waits until it did
//!   removal, a clean stop     end: take, and no pass begins ever again
//! ```
//!
//! Invariants
//! - The turn is taken before every other lock of a partition.
//! - A pass that gave its turn back has changed nothing that is not complete: it begins anew another time.
//! - A pass that lent its turn learns whether anything but deletions happened meanwhile, and then does not go on.
//!
//! What is not here: readers and appends. They never take a turn and never wait for one.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

/// Whose turn it is. See the module.
#[derive(Debug, Default)]
pub(super) struct Maintenance {
    turn: Mutex<Life>,
    wanted: AtomicUsize,
    wanted_to_delete: AtomicUsize,
    /// Turns so far that were neither a pass's nor a deletion's. Changed by whoever has the turn.
    others: AtomicU64,
}

/// Whether passes may still begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Life {
    #[default]
    Open,
    Over,
}

/// Held by whoever has the turn.
#[derive(Debug)]
pub(super) struct Turn<'a>(MutexGuard<'a, Life>);

impl Maintenance {
    /// Waits for the turn; a pass that has it is asked to stop.
    pub(super) fn take(&self) -> Turn<'_> {
        self.wanted.fetch_add(1, Ordering::AcqRel);
        let turn = self.turn.lock();
        self.wanted.fetch_sub(1, Ordering::AcqRel);
        self.others.fetch_add(1, Ordering::AcqRel);
        Turn(turn)
    }

    /// Waits for the turn, to take whole segments away from the beginning of the log; a pass that has it goes on afterwards.
    pub(super) fn take_for_deletion(&self) -> Turn<'_> {
        self.wanted_to_delete.fetch_add(1, Ordering::AcqRel);
        let turn = self.turn.lock();
        self.wanted_to_delete.fetch_sub(1, Ordering::AcqRel);
        Turn(turn)
    }

    /// Waits for the turn of a pass; `None` once it is all over.
    pub(super) fn begin_pass(&self) -> Option<Turn<'_>> {
        let turn = self.turn.lock();
        (*turn == Life::Open).then_some(Turn(turn))
    }

    /// Takes the turn, and lets no pass begin afterwards.
    pub(super) fn end(&self) -> Turn<'_> {
        let mut turn = self.take();
        *turn.0 = Life::Over;
        turn
    }

    /// Gives the turn of a pass to whoever waits for it, while `work` runs at least. Returns false if somebody had it who did
    /// more than delete.
    pub(super) fn lend(&self, turn: &mut Turn<'_>, work: impl FnOnce()) -> bool {
        let before = self.others.load(Ordering::Acquire);
        MutexGuard::unlocked_fair(&mut turn.0, work);
        self.others.load(Ordering::Acquire) == before
    }

    /// Tells a pass whether somebody waits for its end.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) > 0
    }

    /// Tells a pass whether a deletion waits for its turn.
    pub(super) fn is_wanted_to_delete(&self) -> bool {
        self.wanted_to_delete.load(Ordering::Acquire) > 0
    }
}

impl Turn<'_> {
    /// Tells whether no pass may begin any more.
    pub(super) fn is_over(&self) -> bool {
        *self.0 == Life::Over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_end_no_pass_begins() {
        let maintenance = Maintenance::default();
        drop(maintenance.begin_pass().expect("it is open"));
        drop(maintenance.end());
        assert!(maintenance.begin_pass().is_none());
        drop(maintenance.take());
    }

    #[test]
    fn a_lent_turn_tells_deletions_from_everything_else() {
        let maintenance = Maintenance::default();
        let mut turn = maintenance.begin_pass().expect("it is open");
        assert!(maintenance.lend(&mut turn, || drop(maintenance.take_for_deletion())));
        assert!(!maintenance.lend(&mut turn, || drop(maintenance.take())));
        assert!(!turn.is_over());
        assert!(!maintenance.lend(&mut turn, || drop(maintenance.end())));
        assert!(turn.is_over());
    }

    #[test]
    fn a_pass_sees_that_its_turn_is_wanted_and_the_other_gets_it() {
        let maintenance = Maintenance::default();
        let turn = maintenance.begin_pass().expect("it is open");
        assert!(!maintenance.is_wanted());
        std::thread::scope(|scope| {
            let other = scope.spawn(|| drop(maintenance.take()));
            while !maintenance.is_wanted() {
                std::thread::yield_now();
            }
            drop(turn);
            other.join().expect("it ends");
        });
        assert!(!maintenance.is_wanted());
    }
}
