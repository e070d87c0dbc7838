//! The clock of an embedded broker: it goes with the machine's, or stands, and a test moves it on.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::env::{Clock, SystemClock};
use crate::types::Timestamp;

/// What an embedded broker takes for the time. Clones are handles of the same clock; it never goes back but by the machine's hand.
#[derive(Clone)]
pub(super) struct TestClock(Arc<State>);

struct State {
    base: Base,
    /// What was added by hand, in milliseconds.
    ahead_ms: AtomicI64,
}

/// What a clock counts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Base {
    /// The machine's clock.
    Machine,
    /// It stands here.
    Standing(Timestamp),
}

impl fmt::Debug for TestClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TestClock").field(&self.now()).finish()
    }
}

impl TestClock {
    pub(super) fn new(base: Base, ahead_ms: i64) -> Self {
        Self(Arc::new(State {
            base,
            ahead_ms: AtomicI64::new(ahead_ms),
        }))
    }

    /// Returns a clock that shows the same time and goes its own way from here.
    pub(super) fn fork(&self) -> Self {
        Self::new(self.0.base, self.ahead_ms())
    }

    pub(super) fn ahead_ms(&self) -> i64 {
        self.0.ahead_ms.load(Ordering::SeqCst)
    }

    pub(super) fn set_ahead_ms(&self, ahead_ms: i64) {
        self.0.ahead_ms.store(ahead_ms, Ordering::SeqCst);
    }

    /// Translates a time that the machine's disk wrote down: the latest that it can have been by this clock, so that nothing counts as
    /// older than it is.
    pub(super) fn of_machine(&self, time: Timestamp) -> Timestamp {
        match self.0.base {
            Base::Machine => time.saturating_add_ms(self.ahead_ms()),
            Base::Standing(_) => self.now(),
        }
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let base = match self.0.base {
            Base::Machine => SystemClock.now(),
            Base::Standing(at) => at,
        };
        base.saturating_add_ms(self.ahead_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_clock_moves_by_hand_alone_and_a_fork_goes_its_own_way() {
        let clock = TestClock::new(Base::Standing(Timestamp(1_000)), 0);
        clock.set_ahead_ms(500);
        let fork = clock.fork();
        clock.set_ahead_ms(700);
        assert_eq!((clock.now(), fork.now()), (Timestamp(1_700), Timestamp(1_500)));
        assert_eq!(
            fork.of_machine(Timestamp(9)),
            Timestamp(1_500),
            "a disk's own time says nothing by a clock that stands"
        );
    }
}
