//! Appends and reads at half of their own greatest rate: what they notice of something that goes on beside them.
//!
//! One thread appends a batch and reads one, in turn, at the times that half of its own greatest rate gives. A time counts from when the
//! operation should have begun, so that a stall counts for all that it held up.
//!
//! What is not here: what goes on beside ([`super::beside`], [`super::tier_server`]).

use std::time::{Duration, Instant};

use super::BenchError;
use super::measure::{Limit, Measure, Times};

/// Appends and reads of one phase.
#[derive(Debug)]
pub(super) struct Noticed {
    pub(super) appends: Times,
    pub(super) reads: Times,
}

impl Noticed {
    pub(super) fn new() -> Self {
        Self {
            appends: Times::new(),
            reads: Times::new(),
        }
    }
}

/// Who appends and reads.
pub(super) trait Pair {
    /// Makes ready what is appended next; its time does not count.
    fn prepare(&mut self) {}

    /// Appends one batch, and returns when it is acknowledged.
    fn append(&mut self) -> Result<(), BenchError>;

    /// Reads one batch.
    fn read(&mut self) -> Result<(), BenchError>;

    /// Waits until the next one is due.
    fn wait_until(&self, due: Instant);
}

/// Returns the time that an append and a read take when nothing waits.
pub(super) fn fastest(pair: &mut impl Pair, pairs: u32) -> Result<Duration, BenchError> {
    let mut noticed = Noticed::new();
    let mut left = pairs;
    let began = Instant::now();
    at_times(pair, Duration::ZERO, &mut noticed, || {
        left -= 1;
        left > 0
    })?;
    Ok(began.elapsed() / pairs)
}

/// Appends and reads, a pair each `interval`, for as long as `goes_on`.
pub(super) fn at_times(
    pair: &mut impl Pair,
    interval: Duration,
    noticed: &mut Noticed,
    mut goes_on: impl FnMut() -> bool,
) -> Result<(), BenchError> {
    let mut due = Instant::now();
    loop {
        pair.prepare();
        pair.wait_until(due);
        pair.append()?;
        noticed.appends.add(due.elapsed());
        let half = due + interval / 2;
        pair.wait_until(half);
        pair.read()?;
        noticed.reads.add(half.elapsed());
        if !goes_on() {
            return Ok(());
        }
        due += interval;
    }
}

/// Returns the 99th percentiles and the longest times of both phases. `limit` says, for a time alone, what one with something beside is
/// compared with.
pub(super) fn figures(
    prefix: &str,
    (alone, beside): (&Noticed, &Noticed),
    limit: impl Fn(f64) -> (&'static str, f64),
) -> Vec<Measure> {
    let mut measures = Vec::new();
    for (what, with, without) in [
        ("append", &beside.appends, &alone.appends),
        ("read", &beside.reads, &alone.reads),
    ] {
        for (figure, part) in [("p99", 0.99), ("max", 1.0)] {
            let (name, value) = limit(without.quantile_ms(part));
            measures.push(Measure {
                name: format!("{prefix}{what}_{figure}_beside"),
                value: with.quantile_ms(part),
                unit: "ms",
                limit: Limit { name, value },
            });
        }
    }
    measures
}
