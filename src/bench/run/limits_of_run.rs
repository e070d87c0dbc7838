//! What the machine can do with a load like this: gRPC without a store, memory, and, where the data lies here, the disk.
//!
//! Measured after the load, when nothing else runs. What is not here: how each is measured (`limits`, `sink`, `drive`).

use crate::bench::BenchError;
use crate::bench::drive::{Stream, read_all};
use crate::bench::limits::{self, SyncedAppends};
use crate::bench::measure::{number, per_second};
use crate::bench::payload::{Crc, Load, Shape};
use crate::bench::run_record::LimitFigure;
use crate::bench::sink::Sink;
use crate::bench::target::Target;
use crate::bench::workload::{Durability, LoadPlan};
use crate::types::PartitionId;

/// Bytes that go each way.
const GRPC_BYTES: u64 = 256 << 20;
const MEMORY_BYTES: u64 = 1 << 30;
const DISK_BYTES: u64 = 256 << 20;
const SYNCED_APPENDS: u32 = 200;

/// The limits of a run; absent: they say nothing of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LimitsOfRun {
    pub(super) grpc_sink_mb: f64,
    pub(super) grpc_source_mb: f64,
    pub(super) memory_copy_mb: f64,
    pub(super) sequential_write_mb: Option<f64>,
    /// Median and 99th percentile.
    pub(super) append_fdatasync_ms: Option<(f64, f64)>,
}

impl LimitsOfRun {
    /// Measures those that concern a load like `plan` on `target`.
    pub(super) async fn measure(
        target: &Target,
        plan: &LoadPlan,
        batch_bytes: usize,
    ) -> Result<Self, BenchError> {
        let (_, mean) = plan.records.value_bytes.greatest_and_mean();
        let record_bytes = whole(mean);
        let load = Load::new(Shape {
            record_bytes,
            batch_bytes: batch_bytes.max(record_bytes),
        });
        let (grpc_sink_mb, grpc_source_mb) = grpc(&load).await?;
        let own = target.own.is_some();
        let synced = own && plan.topics.durability == Durability::Synced;
        let dir = target.dir().to_path_buf();
        let disk = tokio::task::spawn_blocking(move || {
            let written = own
                .then(|| limits::sequential_write(&dir, DISK_BYTES))
                .transpose()?;
            let appended = synced
                .then(|| {
                    let mut appends = SyncedAppends::new(&dir, record_bytes)?;
                    appends.run(SYNCED_APPENDS)?;
                    Ok::<_, BenchError>((appends.times.quantile_ms(0.5), appends.times.quantile_ms(0.99)))
                })
                .transpose();
            Ok::<_, BenchError>((limits::memory_copy(MEMORY_BYTES), written, appended?))
        });
        let (memory_copy_mb, sequential_write_mb, append_fdatasync_ms) =
            disk.await.expect("it does not panic, and nobody aborts it")?;
        Ok(Self {
            grpc_sink_mb,
            grpc_source_mb,
            memory_copy_mb,
            sequential_write_mb,
            append_fdatasync_ms,
        })
    }

    /// Returns all that were measured.
    pub(super) fn figures(&self) -> Vec<LimitFigure> {
        let synced = self.append_fdatasync_ms;
        let all = [
            ("grpc_sink", Some(self.grpc_sink_mb), "MB/s"),
            ("grpc_source", Some(self.grpc_source_mb), "MB/s"),
            ("memory_copy", Some(self.memory_copy_mb), "MB/s"),
            ("sequential_write", self.sequential_write_mb, "MB/s"),
            ("append_fdatasync_p50", synced.map(|(p50, _)| p50), "ms"),
            ("append_fdatasync_p99", synced.map(|(_, p99)| p99), "ms"),
        ];
        let figure = |(name, value, unit): (&str, Option<f64>, &str)| {
            Some(LimitFigure {
                name: name.to_owned(),
                value: value?,
                unit: unit.to_owned(),
            })
        };
        all.into_iter().filter_map(figure).collect()
    }
}

/// Sends the load to a sink, and reads it from a source; MB/s of batches.
async fn grpc(load: &Load) -> Result<(f64, f64), BenchError> {
    let count = load.batches_in(GRPC_BYTES);
    let megabytes = number(load.bytes(count)) / 1e6;
    let sink = Sink::start(load, count).await?;
    let client = sink.client().await?;
    let stream = Stream::open(&client, "sink", PartitionId(0)).await?;
    let sent = per_second(megabytes, stream.pipelined(load, count).await?);
    let (read, took) = read_all(&client, "source", PartitionId(0), Crc::Trusted).await?;
    read.must_be(&load.expected(count), "source")?;
    Ok((sent, per_second(megabytes, took)))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a size of a value: positive and far below 2^32"
)]
fn whole(mean: f64) -> usize {
    mean as usize
}
