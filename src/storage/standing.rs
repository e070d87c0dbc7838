//! Whether a log takes writes, for whoever asks: a lock of its own, held for memory work only.
//!
//! ```text
//!   Writable  --- a sync fails --->  Refusing  --- closed, deleted --->  Ended
//!       ^-------- repaired -----------'                                   ^
//!       '------------------------------- closed, deleted ----------------'
//! ```
//!
//! Invariants
//! - It changes only under the partition's `writer` lock, so an append that has looked can rely on it until it is done.
//!   Everybody else may look at any time, also while a repair takes minutes.
//! - There is no way back from [`Standing::Ended`]: a repair does not bring a deleted log back, nor does a sync that fails
//!   after the end hide why it ended.

use parking_lot::Mutex;

/// Whether a log takes writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It does.
    Writable,
    /// Not until it is repaired.
    Refusing {
        /// What happened.
        reason: String,
    },
    /// No more.
    Ended {
        /// Why.
        reason: String,
    },
}

/// The standing of one log.
#[derive(Debug)]
pub(super) struct Stand(Mutex<Standing>);

impl Stand {
    /// Starts as writable.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Standing::Writable))
    }

    /// Returns why writes are refused, while they are.
    pub(super) fn refusal(&self) -> Option<String> {
        match &*self.0.lock() {
            Standing::Writable => None,
            Standing::Refusing { reason } | Standing::Ended { reason } => Some(reason.clone()),
        }
    }

    /// Tells whether a repair can bring it back.
    pub(super) fn is_repairable(&self) -> bool {
        matches!(*self.0.lock(), Standing::Refusing { .. })
    }

    /// Refuses writes until the log is repaired.
    pub(super) fn refuse(&self, reason: String) {
        let mut standing = self.0.lock();
        if !matches!(*standing, Standing::Ended { .. }) {
            *standing = Standing::Refusing { reason };
        }
    }

    /// The log was repaired.
    pub(super) fn resume(&self) {
        let mut standing = self.0.lock();
        if matches!(*standing, Standing::Refusing { .. }) {
            *standing = Standing::Writable;
        }
    }

    /// Refuses writes for good; returns why they were refused before.
    pub(super) fn end(&self, reason: &str) -> Option<String> {
        let reason = reason.to_owned();
        match std::mem::replace(&mut *self.0.lock(), Standing::Ended { reason }) {
            Standing::Writable => None,
            Standing::Refusing { reason } | Standing::Ended { reason } => Some(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_ended_is_not_brought_back() {
        let stand = Stand::new();
        stand.refuse("a sync failed".to_owned());
        assert!(stand.is_repairable());
        assert_eq!(stand.end("deleted").as_deref(), Some("a sync failed"));
        stand.refuse("another sync failed".to_owned());
        stand.resume();
        assert!(!stand.is_repairable());
        assert_eq!(stand.refusal().as_deref(), Some("deleted"));
    }
}
