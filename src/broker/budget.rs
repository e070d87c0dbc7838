//! A limit over all clients on something that is held for a while: bytes of produce requests under way, positions of open reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Error;

/// The limit and what is taken of it.
#[derive(Debug)]
pub(super) struct Budget {
    what: &'static str,
    used: AtomicU64,
    limit: u64,
}

/// A share of a limit; dropping it gives it back.
#[derive(Debug)]
pub struct BudgetShare {
    budget: Arc<Budget>,
    amount: u64,
}

impl Budget {
    /// Makes a limit on `what`, as it is told to who meets it.
    pub(super) fn new(what: &'static str, limit: u64) -> Arc<Self> {
        Arc::new(Self {
            what,
            used: AtomicU64::new(0),
            limit,
        })
    }

    /// Takes a share. Who is alone is let in whatever the size, so that a low limit slows and never blocks.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when others hold shares and the limit would be exceeded.
    pub(super) fn take(self: &Arc<Self>, amount: u64) -> Result<BudgetShare, Error> {
        let before = self.used.fetch_add(amount, Ordering::Relaxed);
        let taken = BudgetShare {
            budget: Arc::clone(self),
            amount,
        };
        if before > 0 && before.saturating_add(amount) > self.limit {
            return Err(Error::Overloaded {
                what: self.what,
                limit: self.limit,
            });
        }
        Ok(taken)
    }

    /// Returns what is taken.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_refuses_what_comes_on_top_and_forgets_what_was_refused() {
        let budget = Budget::new("bytes", 100);
        let alone = budget.take(500).expect("one is always let in");
        assert!(matches!(
            budget.take(1),
            Err(Error::Overloaded {
                what: "bytes",
                limit: 100
            })
        ));
        drop(alone);
        let held = (budget.take(60).expect("room"), budget.take(40).expect("room"));
        assert!(budget.take(1).is_err());
        assert_eq!(budget.used(), 100);
        drop(held);
        assert_eq!(budget.used(), 0);
    }
}
