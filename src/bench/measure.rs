//! One figure beside its limit, and the arithmetic of figures.

use std::time::Duration;

/// What a figure is compared with.
#[derive(Clone, PartialEq, Debug)]
pub struct Limit {
    /// What was measured: `grpc_sink`, or `target` where the machine has no such limit.
    pub name: &'static str,
    /// In the figure's unit.
    pub value: f64,
}

/// One figure.
#[derive(Clone, PartialEq, Debug)]
pub struct Measure {
    /// What was measured, dotted: `produce.raw_1kib`.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Its unit, and its limit's.
    pub unit: &'static str,
    /// What it is compared with.
    pub limit: Limit,
}

impl Measure {
    /// Returns the figure as a part of its limit; 0 when the limit could not be told from nothing.
    pub fn ratio(&self) -> f64 {
        if self.limit.value > 0.0 {
            self.value / self.limit.value
        } else {
            0.0
        }
    }
}

/// Turns a count into a number to calculate with; exact below 2^53.
#[allow(clippy::cast_precision_loss, reason = "figures have three digits that count")]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

/// Returns how much was done in a second.
pub(super) fn per_second(amount: f64, took: Duration) -> f64 {
    amount / took.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// Returns milliseconds.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Returns the median, of an even number of values the upper one; 0 of none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Longer times count as this one: a minute.
const GREATEST_TIME_NS: u64 = 60_000_000_000;

/// Times of many equal operations.
#[derive(Debug)]
pub(super) struct Times(hdrhistogram::Histogram<u64>);

impl Times {
    pub(super) fn new() -> Self {
        Self::with_digits(3)
    }

    /// As [`Times::new`] in a tenth of the memory, to one part in a hundred.
    pub(super) fn coarse() -> Self {
        Self::with_digits(2)
    }

    fn with_digits(digits: u8) -> Self {
        let histogram = hdrhistogram::Histogram::new_with_bounds(1, GREATEST_TIME_NS, digits);
        Self(histogram.expect("these bounds and so few digits are what a histogram can have"))
    }

    /// Returns how many there are.
    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Returns their mean in milliseconds; 0 of none.
    pub(super) fn mean_ms(&self) -> f64 {
        self.0.mean() / 1e6
    }

    pub(super) fn add(&mut self, took: Duration) {
        self.0
            .saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds the times of another run.
    pub(super) fn add_all(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// Returns the time in milliseconds that `part` of the operations, 0 to 1, did not exceed.
    pub(super) fn quantile_ms(&self, part: f64) -> f64 {
        number(self.0.value_at_quantile(part)) / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_part_of_the_limit_and_nothing_of_no_limit() {
        let measure = |limit| Measure {
            name: "x".to_owned(),
            value: 3.0,
            unit: "ms",
            limit: Limit {
                name: "y",
                value: limit,
            },
        };
        assert_eq!([4.0, 0.0].map(|limit| measure(limit).ratio()), [0.75, 0.0]);
    }

    #[test]
    fn the_median_is_unmoved_by_one_odd_round() {
        assert_eq!(median(vec![5.0, 900.0, 4.0]), 5.0);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn quantiles_of_times_are_in_milliseconds() {
        let mut times = Times::new();
        for time_ms in 1..=100 {
            times.add(Duration::from_millis(time_ms));
        }
        let near = |part, expected: f64| (times.quantile_ms(part) - expected).abs() < expected / 100.0;
        assert!(near(0.5, 50.0) && near(0.99, 99.0));
    }
}
