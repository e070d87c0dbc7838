//! How many bytes of produce requests wait for their acknowledgement, over all clients, and the limit on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Error;

/// The limit and what is taken of it.
#[derive(Debug)]
pub(super) struct Inflight {
    used_bytes: AtomicU64,
    limit_bytes: u64,
}

/// A share of the limit; dropping it gives it back.
#[derive(Debug)]
pub(super) struct InflightBytes {
    inflight: Arc<Inflight>,
    bytes: u64,
}

impl Inflight {
    /// Makes the limit.
    pub(super) fn new(limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            used_bytes: AtomicU64::new(0),
            limit_bytes,
        })
    }

    /// Takes a share. One request alone is let in whatever its size, so that a low limit slows and never blocks.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when others already wait and the limit would be exceeded.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Result<InflightBytes, Error> {
        let before = self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        let taken = InflightBytes {
            inflight: Arc::clone(self),
            bytes,
        };
        if before > 0 && before.saturating_add(bytes) > self.limit_bytes {
            return Err(Error::Overloaded {
                what: "bytes waiting for acknowledgement",
                limit: self.limit_bytes,
            });
        }
        Ok(taken)
    }

    /// Returns what is taken.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for InflightBytes {
    fn drop(&mut self) {
        self.inflight.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_refuses_what_comes_on_top_and_forgets_what_was_refused() {
        let inflight = Inflight::new(100);
        let alone = inflight.take(500).expect("one request is always let in");
        assert!(matches!(
            inflight.take(1),
            Err(Error::Overloaded { limit: 100, .. })
        ));
        drop(alone);
        let held = (inflight.take(60).expect("room"), inflight.take(40).expect("room"));
        assert!(inflight.take(1).is_err());
        assert_eq!(inflight.used_bytes(), 100);
        drop(held);
        assert_eq!(inflight.used_bytes(), 0);
    }
}
