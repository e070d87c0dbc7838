//! When records are sent.
//!
//! In an open loop the times are fixed beforehand: a server that is slow for a while gets no rest for it, and what had to wait counts
//! from when it should have been sent.

use std::time::Duration;

use crate::bench::workload::Rate;

/// The times of one producer's records.
#[derive(Clone, Copy, Debug)]
pub(super) enum Schedule {
    /// Every producer takes its turn.
    Paced {
        /// The number of its next record among those of all producers.
        next: u64,
        producers: u64,
        per_second: u64,
        end: Duration,
    },
    /// As fast as it goes.
    Open {
        /// What may still be written.
        bytes_left: u64,
        end: Duration,
    },
}

/// What the schedule says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// Send a record, at this time.
    At(Duration),
    /// It is over.
    Over,
}

impl Schedule {
    /// The schedule of producer `number` of `producers`, until `end`.
    pub(super) fn new(rate: Rate, (number, producers): (u32, u32), end: Duration) -> Self {
        match rate {
            Rate::RecordsPerSecond(per_second) => Self::Paced {
                next: number.into(),
                producers: producers.into(),
                per_second: per_second.into(),
                end,
            },
            Rate::OpenThrottle { most_mb } => Self::Open {
                bytes_left: u64::from(most_mb) * 1_000_000 / u64::from(producers),
                end,
            },
        }
    }

    /// Returns the next time; `now` is the time since the load began.
    pub(super) fn next(&mut self, now: Duration) -> Turn {
        let (at, end) = match self {
            Self::Paced {
                next,
                producers,
                per_second,
                end,
            } => {
                let nanoseconds = u128::from(*next) * 1_000_000_000 / u128::from(*per_second);
                *next += *producers;
                (
                    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)),
                    *end,
                )
            }
            Self::Open { bytes_left: 0, .. } => return Turn::Over,
            Self::Open { end, .. } => (now, *end),
        };
        match at < end {
            true => Turn::At(at),
            false => Turn::Over,
        }
    }

    /// Takes note of what was sent.
    pub(super) fn sent(&mut self, bytes: u64) {
        if let Self::Open { bytes_left, .. } = self {
            *bytes_left = bytes_left.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_share_the_rate_evenly_whatever_the_time_is() {
        let end = Duration::from_secs(2);
        let mut times = Vec::new();
        for number in 0..3 {
            let mut schedule = Schedule::new(Rate::RecordsPerSecond(7), (number, 3), end);
            while let Turn::At(at) = schedule.next(Duration::from_secs(9)) {
                times.push(at);
            }
        }
        times.sort();
        let gaps: Vec<_> = times
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_millis())
            .collect();
        assert_eq!((times.len(), times[0]), (14, Duration::ZERO));
        assert!(gaps.iter().all(|gap| (142..=143).contains(gap)), "{gaps:?}");
    }

    #[test]
    fn an_open_throttle_ends_with_the_time_or_with_the_bytes() {
        let second = Duration::from_secs(1);
        let new = || Schedule::new(Rate::OpenThrottle { most_mb: 1 }, (0, 2), second);
        let mut schedule = new();
        assert_eq!(schedule.next(second / 2), Turn::At(second / 2));
        assert_eq!(schedule.next(second), Turn::Over);
        let mut schedule = new();
        schedule.sent(499_999);
        assert_eq!(schedule.next(Duration::ZERO), Turn::At(Duration::ZERO));
        schedule.sent(2);
        assert_eq!(schedule.next(Duration::ZERO), Turn::Over);
    }
}
