//! A pace: so many bytes in a second, over all who share it.
//!
//! Whoever has sent something waits as long as that should have taken, behind those who came before. A pause is not saved up: after it
//! nobody may send more at once than one portion.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// See the module. The default has no limit.
#[derive(Debug, Default)]
pub struct Pace {
    bytes_per_second: Option<u64>,
    /// When all that was taken so far should be over.
    over: Mutex<Option<Instant>>,
}

impl Pace {
    /// Makes a pace; 0 is no limit.
    pub fn of(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: Some(bytes_per_second).filter(|limit| *limit > 0),
            over: Mutex::default(),
        }
    }

    /// Waits until what was taken before is over, and takes `bytes`.
    pub async fn take(&self, bytes: u64) {
        let Some(limit) = self.bytes_per_second else {
            return;
        };
        let micros = bytes.saturating_mul(1_000_000) / limit;
        let begins = {
            let mut over = self.over.lock();
            let now = Instant::now();
            let begins = over.map_or(now, |over| over.max(now));
            *over = Some(begins + Duration::from_micros(micros));
            begins
        };
        tokio::time::sleep_until(begins).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_portions_take_the_time_of_nine_and_a_pause_saves_nothing_up() {
        let pace = Pace::of(1_000);
        for _ in 0..2 {
            let begin = Instant::now();
            for _ in 0..10 {
                pace.take(500).await;
            }
            assert_eq!(begin.elapsed().as_millis(), 4_500);
            tokio::time::advance(Duration::from_secs(60)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_waits() {
        let begin = Instant::now();
        Pace::of(0).take(u64::MAX).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
