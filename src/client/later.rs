//! Moments to come that no clock can tell any more.

use std::time::Duration;

use tokio::time::Instant;

/// Who waits longer waits for ever, as far as anybody can see: thirty years.
const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);

/// Returns the moment `wait` after `from`; one that the clock cannot tell is one that does not come.
pub(super) fn later(from: Instant, wait: Duration) -> Instant {
    from + wait.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_beyond_what_the_clock_can_tell_ends_far_ahead() {
        let now = Instant::now();
        assert_eq!(later(now, Duration::from_secs(5)) - now, Duration::from_secs(5));
        assert_eq!(later(now, Duration::MAX) - now, FAR);
    }
}
