//! From what was noted to what is told.
//!
//! A rate is what was done with after the warm-up, by the time from there to the last of it.

use std::time::Duration;

use super::limits_of_run::LimitsOfRun;
use super::reading::Amount;
use super::recorder::{Kind, Recorder, Track};
use crate::bench::measure::{Times, number, per_second};
use crate::bench::run_record::{Figure, Latency, Ratio, SecondFigures, Series};
use crate::bench::workload::{LoadPlan, Rate};
use crate::client::ProducerMetrics;

/// What a run has come to.
pub(super) struct Measured<'a> {
    pub(super) plan: &'a LoadPlan,
    pub(super) recorder: &'a Recorder,
    pub(super) producers: ProducerMetrics,
    pub(super) last_read: (Amount, Duration),
    pub(super) peak_mb: Option<f64>,
    pub(super) limits: &'a LimitsOfRun,
}

/// Rounds to three decimals, small numbers to as many digits: more is noise.
fn rounded(value: f64) -> f64 {
    let factor = if value.abs() < 1.0 { 1e6 } else { 1e3 };
    (value * factor).round() / factor
}

fn figure(name: &str, value: f64, unit: &str, limits: &[(&str, Option<f64>)]) -> Figure {
    let limits = limits.iter().filter_map(|(limit, limit_value)| {
        let limit_value = limit_value.filter(|value| *value > 0.0)?;
        Some(Ratio {
            limit: (*limit).to_owned(),
            limit_value: rounded(limit_value),
            ratio: rounded(value / limit_value),
        })
    });
    Figure {
        name: name.to_owned(),
        value: rounded(value),
        unit: unit.to_owned(),
        limits: limits.collect(),
    }
}

/// Returns all figures.
pub(super) fn figures(measured: &Measured<'_>) -> Vec<Figure> {
    let (limits, producers) = (measured.limits, measured.producers);
    let mut all = produced(measured);
    let source = [
        ("grpc_source", Some(limits.grpc_source_mb)),
        ("memory_copy", Some(limits.memory_copy_mb)),
    ];
    for (name, kind) in [("tail", Kind::Tailed), ("catch_up", Kind::CaughtUp)] {
        all.extend(rates(name, &measured.recorder.track(kind), &source));
    }
    let by_time = measured.recorder.track(Kind::ReadByTime);
    all.extend(rates("by_time", &by_time, &[]));
    if by_time.times.count() > 0 {
        let reads = per_second(number(by_time.times.count()), by_time.last);
        all.push(figure("by_time.reads", reads, "reads/s", &[]));
    }
    let (read, took) = measured.last_read;
    let megabytes = per_second(number(read.bytes) / 1e6, took);
    all.push(figure("last_read.bytes", megabytes, "MB/s", &source));
    let batches = number(producers.acknowledged_batches.max(1));
    let sent = number(producers.acknowledged_batch_bytes.max(1));
    all.push(figure(
        "batch.records",
        number(producers.acknowledged_records) / batches,
        "records",
        &[],
    ));
    all.push(figure("batch.size", sent / batches, "bytes", &[]));
    all.push(figure(
        "batch.compression",
        number(producers.acknowledged_bytes) / sent,
        "times",
        &[],
    ));
    all.push(figure(
        "producer.losses",
        number(producers.losses),
        "connections",
        &[],
    ));
    all.extend(
        measured
            .peak_mb
            .map(|peak_mb| figure("process.peak_memory", peak_mb, "MB", &[])),
    );
    all
}

fn produced(measured: &Measured<'_>) -> Vec<Figure> {
    let track = measured.recorder.track(Kind::Acknowledged);
    let limits = measured.limits;
    let schedule = match measured.plan.producers.rate {
        Rate::RecordsPerSecond(rate) => Some(f64::from(rate)),
        Rate::OpenThrottle { .. } => None,
    };
    let mut all = rates(
        "produce",
        &track,
        &[
            ("grpc_sink", Some(limits.grpc_sink_mb)),
            ("sequential_write", limits.sequential_write_mb),
        ],
    );
    if let Some(records) = all.first_mut() {
        *records = figure(
            &records.name,
            records.value,
            &records.unit,
            &[("schedule", schedule)],
        );
    }
    let synced = limits.append_fdatasync_ms;
    let times = &track.times;
    if times.count() > 0 {
        let p50 = [("append_fdatasync_p50", synced.map(|(p50, _)| p50))];
        let p99 = [("append_fdatasync_p99", synced.map(|(_, p99)| p99))];
        all.push(figure("produce.p50", times.quantile_ms(0.5), "ms", &p50));
        all.push(figure("produce.p99", times.quantile_ms(0.99), "ms", &p99));
    }
    all
}

/// Returns records and megabytes in a second, if there were any.
fn rates(name: &str, track: &Track, limits: &[(&str, Option<f64>)]) -> Vec<Figure> {
    if track.records == 0 {
        return Vec::new();
    }
    let records = per_second(number(track.records), track.last);
    let megabytes = per_second(number(track.bytes) / 1e6, track.last);
    vec![
        figure(&format!("{name}.records"), records, "records/s", &[]),
        figure(&format!("{name}.bytes"), megabytes, "MB/s", limits),
    ]
}

/// Returns the latencies, and everything second by second.
pub(super) fn times(measured: &Measured<'_>) -> (Vec<Latency>, Vec<Series>) {
    let (mut latencies, mut series) = (Vec::new(), Vec::new());
    for (name, kind) in [
        ("acknowledged", Kind::Acknowledged),
        ("end_to_end", Kind::Tailed),
        ("catch_up", Kind::CaughtUp),
        ("by_time", Kind::ReadByTime),
    ] {
        let track = measured.recorder.track(kind);
        latencies.extend(latency(name, &track.times));
        if track.records > 0 {
            series.push(seconds(name, &track));
        }
    }
    latencies.extend(latency("late_to_send", &measured.recorder.lateness()));
    (latencies, series)
}

fn latency(name: &str, times: &Times) -> Option<Latency> {
    if times.count() == 0 {
        return None;
    }
    let at = |part| rounded(times.quantile_ms(part));
    let curve = curve_percentiles().map(|percent| (percent, at(percent / 100.0)));
    Some(Latency {
        name: name.to_owned(),
        count: times.count(),
        mean_ms: rounded(times.mean_ms()),
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        max_ms: at(1.0),
        curve: curve.collect(),
    })
}

/// Percentiles that come nearer and nearer to 100, and 100.
fn curve_percentiles() -> impl Iterator<Item = f64> {
    let near = (0..=40).map(|step| rounded(100.0 - 100.0 / 10_f64.powf(f64::from(step) / 8.0)));
    near.chain([100.0])
}

fn seconds(name: &str, track: &Track) -> Series {
    let second = |second: &super::recorder::Second| {
        let at = |part| (second.times.count() > 0).then(|| rounded(second.times.quantile_ms(part)));
        SecondFigures {
            records: second.records,
            mb: rounded(number(second.bytes) / 1e6),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
        }
    };
    Series {
        name: name.to_owned(),
        seconds: track.seconds.iter().map(second).collect(),
    }
}
