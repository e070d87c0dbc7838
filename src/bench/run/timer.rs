//! Sleeping to the microsecond: the runtime's own timer wakes on whole milliseconds, which would count as latency.
//!
//! A timer of the kernel, one for each producer.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::bench::BenchError;
use crate::bench::error::IoContext;

const NOTHING: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// A timer.
#[derive(Debug)]
pub(super) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    pub(super) fn new() -> Result<Self, BenchError> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let made = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(io::Error::from);
        #[allow(
            deprecated,
            reason = "its successor is unsafe, for handles that may change their descriptor: an `OwnedFd` keeps its own"
        )]
        let watched = made.and_then(AsyncFd::new).context("make", "a timer")?;
        Ok(Self(watched))
    }

    /// Sleeps for `time`; dropped before its end, the next sleep begins anew.
    pub(super) async fn sleep(&mut self, time: Duration) -> Result<(), BenchError> {
        let once = Itimerspec {
            it_interval: NOTHING,
            it_value: Timespec {
                tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
                // Nothing at all would stop it.
                tv_nsec: time.subsec_nanos().max(1).into(),
            },
        };
        let set = timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once);
        set.map_err(io::Error::from).context("set", "a timer")?;
        loop {
            let mut ready = self.0.readable().await.context("wait for", "a timer")?;
            let mut expirations = [0; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut expirations)?));
            match read {
                Ok(read) => return read.map(drop).context("read", "a timer"),
                // It was set anew meanwhile.
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleep_that_was_given_up_does_not_hold_up_the_next_nor_end_it_early() {
        let mut timer = Timer::new().unwrap();
        let given_up = |timer: &mut Timer, time| {
            let sleep = timer.sleep(time);
            // Polled once, so that the timer is set.
            futures_util::FutureExt::now_or_never(sleep).map(Result::unwrap)
        };
        assert_eq!(given_up(&mut timer, Duration::from_secs(3600)), None);
        let began = std::time::Instant::now();
        timer.sleep(Duration::from_millis(2)).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(2));
        timer.sleep(Duration::ZERO).await.unwrap();
    }
}
