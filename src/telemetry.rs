//! Metrics: every name, its unit, and what to do when it moves.
//!
//! One [`Metrics`] belongs to one broker, so that many can live in one process. Handles are public fields: whoever has
//! something to count counts it with one or two atomic additions, without a lock or a look-up by name. Names read
//! `siltstone_<subsystem>_<noun>_<unit>[_total]`; the suffix `_total` is written by the encoder. Labels come from closed
//! lists.
//!
//! Two texts say the same, and a scraper asks for one of them: OpenMetrics names a counter's family without `_total` and ends
//! in `# EOF`; Prometheus' own older text names it with `_total` and has no end.
//!
//! What is not here: logs (each layer uses `tracing` itself), and any knowledge of what is being measured.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

/// Upper bounds of the latency buckets: 10 microseconds to 10 seconds, and everything above.
const LATENCY_BOUNDS_NS: [u64; 16] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// Why a request was refused: the closed list of the label `reason`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// No such topic or partition.
    NotFound,
    /// Wrong in itself.
    InvalidArgument,
    /// Bytes that are no sound batch.
    CorruptBatch,
    /// Larger than a limit.
    TooLarge,
    /// An offset outside the log.
    OutOfRange,
    /// A sequence, an epoch, a policy or a state that forbids it.
    Precondition,
    /// A limit of the server.
    Overloaded,
    /// Too little free space.
    DiskFull,
    /// A partition under repair.
    WritesRefused,
    /// Stopping.
    ShuttingDown,
    /// No acknowledgement in time.
    AckTimeout,
    /// Damaged bytes or a failing disk.
    Storage,
}

impl EncodeLabelValue for Refusal {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        let text = match self {
            Self::NotFound => "not_found",
            Self::InvalidArgument => "invalid_argument",
            Self::CorruptBatch => "corrupt_batch",
            Self::TooLarge => "too_large",
            Self::OutOfRange => "out_of_range",
            Self::Precondition => "precondition",
            Self::Overloaded => "overloaded",
            Self::DiskFull => "disk_full",
            Self::WritesRefused => "writes_refused",
            Self::ShuttingDown => "shutting_down",
            Self::AckTimeout => "ack_timeout",
            Self::Storage => "storage",
        };
        text.encode(encoder)
    }
}

/// Labels of refused requests.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct RefusalLabels {
    /// Why.
    pub reason: Refusal,
}

/// Why retention deleted a segment: the closed list of the label `reason`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Retention {
    /// Before the log start.
    Start,
    /// `retention.bytes`.
    Size,
    /// `retention.ms`.
    Time,
}

impl EncodeLabelValue for Retention {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        let text = match self {
            Self::Start => "start",
            Self::Size => "size",
            Self::Time => "time",
        };
        text.encode(encoder)
    }
}

/// Labels of what retention deleted.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct RetentionLabels {
    /// Why.
    pub reason: Retention,
}

/// Labels of calls at a door. Both come from the door's own closed lists.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct CallLabels {
    /// The call's name.
    pub method: &'static str,
    /// How it ended.
    pub status: &'static str,
}

/// Label of calls at a door, from the door's own closed list.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct MethodLabels {
    /// The call's name.
    pub method: &'static str,
}

/// How metrics are written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text format 0.0.4.
    Prometheus,
}

impl Exposition {
    /// Returns the media type of the text.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Latencies in fixed buckets; recording takes two atomic additions.
#[derive(Clone, Debug, Default)]
pub struct Latency(Arc<LatencyCells>);

#[derive(Debug, Default)]
struct LatencyCells {
    /// One for each bound, and one for what lies above the last.
    counts: [AtomicU64; LATENCY_BOUNDS_NS.len() + 1],
    sum_ns: AtomicU64,
}

impl Latency {
    /// Counts one.
    pub fn record(&self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_NS.partition_point(|bound| *bound < ns);
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// Returns how many were counted.
    pub fn count(&self) -> u64 {
        self.0
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let bounds = LATENCY_BOUNDS_NS
            .iter()
            .map(|ns| seconds(*ns))
            .chain([f64::INFINITY]);
        let counts = self.0.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = seconds(self.0.sum_ns.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}

/// What the last pass of each compacted partition found, of all of them together, and when the next one is.
#[derive(Debug, Default)]
pub struct CleanerFound {
    /// The most rounds that a partition still needs.
    pub rounds_left: Gauge,
    /// Live keys.
    pub live_keys: Gauge,
    /// Tombstones.
    pub tombstones: Gauge,
    /// When the last pass came to its end, in seconds since 1970; 0 before the first.
    pub last_pass_seconds: Gauge,
    /// When the next pass is due, in seconds since 1970; 0 where something has to be written first.
    pub next_run_seconds: Gauge,
}

/// All metrics of one broker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Bytes of batches appended.
    pub produce_bytes: Counter,
    /// Records appended.
    pub produce_records: Counter,
    /// Batches appended.
    pub produce_batches: Counter,
    /// Batches that had been written before.
    pub produce_duplicates: Counter,
    /// Refused requests by reason.
    pub refused: Family<RefusalLabels, Counter>,
    /// Calls at the doors.
    pub calls: Family<CallLabels, Counter>,
    /// Time of calls at the doors that have one answer.
    pub call_latency: Family<MethodLabels, Latency>,
    /// Memory that answers to reads take until their clients have them.
    pub sending_bytes: Gauge,
    /// Answers made small for want of it.
    pub reduced_answers: Counter,
    /// Time of an append, validation included.
    pub append_latency: Latency,
    /// Time from append to acknowledgement.
    pub ack_latency: Latency,
    /// Bytes read for clients.
    pub fetch_bytes: Counter,
    /// Time of one pass of reading, without waiting for data.
    pub fetch_latency: Latency,
    /// Rounds of group commit.
    pub sync_rounds: Counter,
    /// Partitions synced in those rounds.
    pub sync_partitions: Counter,
    /// Syncs that failed.
    pub sync_failures: Counter,
    /// Time of one round.
    pub sync_latency: Latency,
    /// Repairs that failed.
    pub repair_failures: Counter,
    /// Partitions waiting for repair.
    pub repairing: Gauge,
    /// Passes of the cleaner that came to their end.
    pub cleaner_passes: Counter,
    /// Passes that failed.
    pub cleaner_failures: Counter,
    /// Bytes that passes read.
    pub cleaner_read_bytes: Counter,
    /// Bytes that passes wrote.
    pub cleaner_written_bytes: Counter,
    /// Bytes by which passes made logs smaller.
    pub cleaner_saved_bytes: Counter,
    /// Records that passes dropped.
    pub cleaner_dropped_records: Counter,
    /// Places met that are no sound batches, and were kept.
    pub cleaner_damaged_places: Counter,
    /// Deadlines of promises that were broken, or kept only by going beyond the budget.
    pub cleaner_promise_alarms: Counter,
    /// Time of a pass.
    pub cleaner_latency: Latency,
    /// Partitions being cleaned.
    pub cleaner_running: Gauge,
    /// Partitions whose last pass failed.
    pub cleaner_failing: Gauge,
    /// Partitions whose promise is broken.
    pub cleaner_overdue: Gauge,
    /// Dirty bytes of all compacted partitions.
    pub cleaner_dirty_bytes: Gauge,
    /// Offsets between cleaner point and log end, of all compacted partitions.
    pub cleaner_dirty_offsets: Gauge,
    /// The greatest dirty ratio of a partition.
    pub cleaner_dirty_ratio: Gauge<f64, AtomicU64>,
    /// Age of the oldest dirty record, in seconds.
    pub cleaner_oldest_dirty_seconds: Gauge,
    /// What the last passes of the cleaner found, and when the next one is.
    pub cleaner_found: CleanerFound,
    /// Segments that retention deleted, by reason.
    pub retention_segments: Family<RetentionLabels, Counter>,
    /// Bytes of those segments.
    pub retention_bytes: Family<RetentionLabels, Counter>,
    /// Looks of retention at a partition that failed.
    pub retention_failures: Counter,
    /// When retention last looked at all partitions, in seconds since the Unix epoch.
    pub retention_last_look: Gauge,
    /// Segments that were put into the archive.
    pub tier_uploads: Counter,
    /// Bytes of their batches.
    pub tier_upload_bytes: Counter,
    /// Work for the archive that failed.
    pub tier_failures: Counter,
    /// Objects that were removed from the archive.
    pub tier_swept_objects: Counter,
    /// Reads from the archive.
    pub tier_cold_reads: Counter,
    /// Bytes of batches that they brought.
    pub tier_cold_bytes: Counter,
    /// Reads from the archive that failed.
    pub tier_cold_failures: Counter,
    /// Bytes that are not in the archive yet.
    pub tier_lag_bytes: Gauge,
    /// Age of the oldest record that is not there yet.
    pub tier_lag_seconds: Gauge,
    /// Partitions whose archiving does not go on until a person has looked.
    pub tier_stuck: Gauge,
    /// Partitions whose archiving failed last time.
    pub tier_failing: Gauge,
    /// Partitions served.
    pub partitions: Gauge,
    /// Segments of all partitions.
    pub segments: Gauge,
    /// Bytes of all segments.
    pub log_bytes: Gauge,
    /// Waits for data under way, counted per partition.
    pub waiters: Gauge,
    /// Bytes of produce requests under way.
    pub inflight_bytes: Gauge,
    /// Bytes free on the disk.
    pub disk_free_bytes: Gauge,
    /// 1 while the disk is too full for produce.
    pub disk_full: Gauge,
    /// Descriptors held open.
    pub open_files: Gauge,
    /// Mappings held.
    pub open_maps: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Makes all metrics, at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("siltstone"),
            produce_bytes: Counter::default(),
            produce_records: Counter::default(),
            produce_batches: Counter::default(),
            produce_duplicates: Counter::default(),
            refused: Family::default(),
            calls: Family::default(),
            call_latency: Family::default(),
            sending_bytes: Gauge::default(),
            reduced_answers: Counter::default(),
            append_latency: Latency::default(),
            ack_latency: Latency::default(),
            fetch_bytes: Counter::default(),
            fetch_latency: Latency::default(),
            sync_rounds: Counter::default(),
            sync_partitions: Counter::default(),
            sync_failures: Counter::default(),
            sync_latency: Latency::default(),
            repair_failures: Counter::default(),
            repairing: Gauge::default(),
            cleaner_passes: Counter::default(),
            cleaner_failures: Counter::default(),
            cleaner_read_bytes: Counter::default(),
            cleaner_written_bytes: Counter::default(),
            cleaner_saved_bytes: Counter::default(),
            cleaner_dropped_records: Counter::default(),
            cleaner_damaged_places: Counter::default(),
            cleaner_promise_alarms: Counter::default(),
            cleaner_latency: Latency::default(),
            cleaner_running: Gauge::default(),
            cleaner_failing: Gauge::default(),
            cleaner_overdue: Gauge::default(),
            cleaner_dirty_bytes: Gauge::default(),
            cleaner_dirty_offsets: Gauge::default(),
            cleaner_dirty_ratio: Gauge::default(),
            cleaner_oldest_dirty_seconds: Gauge::default(),
            cleaner_found: CleanerFound::default(),
            retention_segments: Family::default(),
            retention_bytes: Family::default(),
            retention_failures: Counter::default(),
            retention_last_look: Gauge::default(),
            tier_uploads: Counter::default(),
            tier_upload_bytes: Counter::default(),
            tier_failures: Counter::default(),
            tier_swept_objects: Counter::default(),
            tier_cold_reads: Counter::default(),
            tier_cold_bytes: Counter::default(),
            tier_cold_failures: Counter::default(),
            tier_lag_bytes: Gauge::default(),
            tier_lag_seconds: Gauge::default(),
            tier_stuck: Gauge::default(),
            tier_failing: Gauge::default(),
            partitions: Gauge::default(),
            segments: Gauge::default(),
            log_bytes: Gauge::default(),
            waiters: Gauge::default(),
            inflight_bytes: Gauge::default(),
            disk_free_bytes: Gauge::default(),
            disk_full: Gauge::default(),
            open_files: Gauge::default(),
            open_maps: Gauge::default(),
        };
        metrics.register_produce();
        metrics.register_reads();
        metrics.register_disk();
        metrics.register_cleaner();
        metrics.register_retention();
        metrics.register_tier();
        metrics
    }

    /// Renders everything.
    pub fn text(&self, exposition: Exposition) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        match exposition {
            Exposition::OpenMetrics => text,
            Exposition::Prometheus => to_prometheus(&text),
        }
    }

    fn register_produce(&mut self) {
        let r = &mut self.registry;
        r.register(
            "produce_bytes",
            "Bytes of batches appended. Falls to 0 while clients send: look at siltstone_door_refused_requests",
            self.produce_bytes.clone(),
        );
        r.register(
            "produce_records",
            "Records appended. Far fewer bytes per record than usual: a client changed",
            self.produce_records.clone(),
        );
        r.register(
            "produce_batches",
            "Batches appended. Few records per batch: let producers linger",
            self.produce_batches.clone(),
        );
        r.register(
            "produce_duplicate_batches",
            "Batches sent again and not written twice. Rises: acknowledgements get lost or come late",
            self.produce_duplicates.clone(),
        );
        r.register(
            "door_refused_requests",
            "Requests of any kind refused or failed, by reason. disk_full, writes_refused or storage: look at the disk now",
            self.refused.clone(),
        );
        r.register(
            "door_calls",
            "Calls by method and how they ended",
            self.calls.clone(),
        );
        r.register(
            "door_call_seconds",
            "Time of calls that have one answer, waits for data of Fetch included. Rises for one method: look at its subsystem",
            self.call_latency.clone(),
        );
        r.register(
            "door_sending_bytes",
            "Memory that answers to reads take until their clients have them. Near grpc.max_buffered_bytes: clients read slowly",
            self.sending_bytes.clone(),
        );
        r.register(
            "door_reduced_answers",
            "Answers to reads made small because others hold the memory for them. Rises: clients read slowly, or raise grpc.max_buffered_bytes",
            self.reduced_answers.clone(),
        );
        r.register(
            "produce_append_seconds",
            "Time to check a batch and write it to the page cache. Rises: short of memory or processor",
            self.append_latency.clone(),
        );
        r.register(
            "produce_ack_seconds",
            "Time from append to acknowledgement. Rises with siltstone_sync_round_seconds: the disk is slow",
            self.ack_latency.clone(),
        );
        r.register(
            "produce_inflight_bytes",
            "Bytes of produce requests under way. Near max_inflight_produce_bytes: producers are about to be refused",
            self.inflight_bytes.clone(),
        );
    }

    fn register_reads(&mut self) {
        let r = &mut self.registry;
        r.register(
            "fetch_bytes",
            "Bytes of batches read for clients",
            self.fetch_bytes.clone(),
        );
        r.register(
            "fetch_seconds",
            "Time of one pass of reading, waits for data left out. Rises: reads come from the disk, not from memory",
            self.fetch_latency.clone(),
        );
        r.register(
            "wait_registrations",
            "Partitions waited on by readers. Grows without end: clients open reads and leave them",
            self.waiters.clone(),
        );
    }

    fn register_retention(&mut self) {
        let r = &mut self.registry;
        r.register(
            "retention_deleted_segments",
            "Segments that retention deleted, by reason",
            self.retention_segments.clone(),
        );
        r.register(
            "retention_deleted_bytes",
            "Bytes that retention deleted, by reason. Far less than is produced while the disk fills: preview the topics' retention",
            self.retention_bytes.clone(),
        );
        r.register(
            "retention_failures",
            "Looks at a partition that failed and are tried again. Any: the disk is failing, read the log",
            self.retention_failures.clone(),
        );
        r.register(
            "retention_last_look_timestamp_seconds",
            "When all partitions were last looked at. More than a minute ago: the server is overloaded or the disk hangs",
            self.retention_last_look.clone(),
        );
    }

    fn register_disk(&mut self) {
        let r = &mut self.registry;
        r.register("sync_rounds", "Rounds of group commit", self.sync_rounds.clone());
        r.register(
            "sync_partitions",
            "Partitions synced; divided by rounds: how well syncs are shared",
            self.sync_partitions.clone(),
        );
        r.register(
            "sync_failures",
            "Syncs that failed. Any: the disk is failing, read the log",
            self.sync_failures.clone(),
        );
        r.register(
            "sync_round_seconds",
            "Time of a round. Rises: the disk is slow or shared",
            self.sync_latency.clone(),
        );
        r.register(
            "repair_failures",
            "Repairs that failed and will be tried again. Any: the disk is failing",
            self.repair_failures.clone(),
        );
        r.register(
            "repair_partitions",
            "Partitions that refuse writes until they are repaired. Stays above 0: read the log",
            self.repairing.clone(),
        );
        r.register(
            "log_partitions",
            "Partitions served, counted every 10 s",
            self.partitions.clone(),
        );
        r.register(
            "log_segments",
            "Segments of all partitions, counted every 10 s",
            self.segments.clone(),
        );
        r.register(
            "log_bytes",
            "Bytes of all segments, counted every 10 s",
            self.log_bytes.clone(),
        );
        r.register(
            "disk_free_bytes",
            "Free on the disk of the data directory. Near storage.min_free_bytes: add space",
            self.disk_free_bytes.clone(),
        );
        r.register(
            "disk_full_state",
            "1 while produce is refused for want of space",
            self.disk_full.clone(),
        );
        r.register(
            "env_open_files",
            "Descriptors held open. At its limit and siltstone_fetch_seconds rises: raise storage.max_open_files",
            self.open_files.clone(),
        );
        r.register(
            "env_open_maps",
            "Mappings held. At its limit and siltstone_fetch_seconds rises: raise storage.max_maps",
            self.open_maps.clone(),
        );
    }

    fn register_cleaner(&mut self) {
        self.register_cleaner_state();
        let r = &mut self.registry;
        for (name, help, counter) in [
            (
                "cleaner_passes",
                "Passes over compacted logs. Stays still while topics grow: ask siltstone topic explain",
                &self.cleaner_passes,
            ),
            (
                "cleaner_failures",
                "Passes that failed and will be tried again. Any: siltstone topic explain says what failed",
                &self.cleaner_failures,
            ),
            (
                "cleaner_read_bytes",
                "Bytes that passes read",
                &self.cleaner_read_bytes,
            ),
            (
                "cleaner_written_bytes",
                "Bytes that passes wrote. Large beside the bytes saved: raise min.cleanable.dirty.ratio",
                &self.cleaner_written_bytes,
            ),
            (
                "cleaner_saved_bytes",
                "Bytes by which passes made logs smaller",
                &self.cleaner_saved_bytes,
            ),
            (
                "cleaner_dropped_records",
                "Records that passes dropped",
                &self.cleaner_dropped_records,
            ),
            (
                "cleaner_damaged_places",
                "Damaged places that passes met and kept. Any: read the log, restore what is damaged",
                &self.cleaner_damaged_places,
            ),
            (
                "cleaner_promise_alarms",
                "Promises broken, or kept only beyond the budget. Any: siltstone topic explain says what is in the way; raise cleaner.io_max_bytes_per_second, cleaner.threads or max.compaction.lag.ms",
                &self.cleaner_promise_alarms,
            ),
        ] {
            r.register(name, help, counter.clone());
        }
        r.register(
            "cleaner_pass_seconds",
            "Time of a pass. Rises: logs grow, or clients and the budget leave it little room",
            self.cleaner_latency.clone(),
        );
    }

    fn register_tier(&mut self) {
        let r = &mut self.registry;
        for (name, help, counter) in [
            (
                "tier_uploads",
                "Segments put into the archive. Stands still while the lag grows: siltstone tier status says why",
                &self.tier_uploads,
            ),
            (
                "tier_upload_bytes",
                "Bytes of batches put into the archive",
                &self.tier_upload_bytes,
            ),
            (
                "tier_failures",
                "Work for the archive that failed; it is tried again. Rising: siltstone tier status says why",
                &self.tier_failures,
            ),
            (
                "tier_swept_objects",
                "Objects removed from the archive, after their delay or because nothing names them",
                &self.tier_swept_objects,
            ),
            ("tier_cold_reads", "Reads from the archive", &self.tier_cold_reads),
            (
                "tier_cold_bytes",
                "Bytes of batches read from the archive. Much of it: raise local.retention.ms of the topics that are read",
                &self.tier_cold_bytes,
            ),
            (
                "tier_cold_failures",
                "Reads from the archive that failed. Rising: look at the store, and with siltstone tier verify at the objects",
                &self.tier_cold_failures,
            ),
        ] {
            r.register(name, help, counter.clone());
        }
        for (name, help, gauge) in [
            (
                "tier_lag_bytes",
                "Bytes that are not in the archive yet. Grows without end: the store or the upload rate is too slow",
                &self.tier_lag_bytes,
            ),
            (
                "tier_lag_seconds",
                "Age of the oldest record that is not in the archive yet. Above tier.max.lag.ms: siltstone tier status says why",
                &self.tier_lag_seconds,
            ),
            (
                "tier_stuck_partitions",
                "Partitions that do not go on to the archive until a person has looked: siltstone tier status says why",
                &self.tier_stuck,
            ),
            (
                "tier_failing_partitions",
                "Partitions whose last work for the archive failed. Stays above 0: siltstone tier status says why",
                &self.tier_failing,
            ),
        ] {
            r.register(name, help, gauge.clone());
        }
    }

    fn register_cleaner_state(&mut self) {
        let r = &mut self.registry;
        for (name, help, gauge) in [
            (
                "cleaner_running_partitions",
                "Partitions being cleaned. At cleaner.threads all the time: add threads",
                &self.cleaner_running,
            ),
            (
                "cleaner_failing_partitions",
                "Partitions whose last pass failed. Stays above 0: siltstone topic explain says why",
                &self.cleaner_failing,
            ),
            (
                "cleaner_overdue_partitions",
                "Partitions whose promise of max.compaction.lag.ms is broken now. Above 0: siltstone topic explain says why",
                &self.cleaner_overdue,
            ),
            (
                "cleaner_dirty_bytes",
                "Bytes that no pass has cleaned, of all partitions. Grows without end: add threads or raise the budget",
                &self.cleaner_dirty_bytes,
            ),
            (
                "cleaner_dirty_offsets",
                "Offsets from the cleaner points to the log ends, of all partitions",
                &self.cleaner_dirty_offsets,
            ),
            (
                "cleaner_oldest_dirty_seconds",
                "Age of the oldest record that no pass has cleaned, of all partitions. Above max.compaction.lag.ms: see the alarms",
                &self.cleaner_oldest_dirty_seconds,
            ),
            (
                "cleaner_rounds_left",
                "The most rounds that a partition still needs. Above 0 for long: raise cleaner.dedupe_buffer_bytes",
                &self.cleaner_found.rounds_left,
            ),
            (
                "cleaner_live_keys",
                "Keys with a value, of all partitions, as the last pass of each counted since the start",
                &self.cleaner_found.live_keys,
            ),
            (
                "cleaner_tombstones",
                "Tombstones, of all partitions, as the last pass of each counted. Many: lower delete.retention.ms",
                &self.cleaner_found.tombstones,
            ),
            (
                "cleaner_last_pass_timestamp_seconds",
                "When the last pass came to its end; 0 before the first. Long ago while dirty bytes grow: ask siltstone topic explain",
                &self.cleaner_found.last_pass_seconds,
            ),
            (
                "cleaner_next_run_timestamp_seconds",
                "When the next pass is due; 0 where something has to be written first. In the past for long: add threads",
                &self.cleaner_found.next_run_seconds,
            ),
        ] {
            r.register(name, help, gauge.clone());
        }
        r.register(
            "cleaner_dirty_ratio",
            "The greatest dirty ratio of a partition. Stays above min.cleanable.dirty.ratio: the cleaner does not keep up",
            self.cleaner_dirty_ratio.clone(),
        );
    }
}

/// Says in Prometheus text what `open_metrics` says.
fn to_prometheus(open_metrics: &str) -> String {
    let counters: HashSet<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|word| {
            let (name, rest) = line.strip_prefix(word)?.split_once(' ')?;
            counters.contains(name).then_some((word, name, rest))
        });
        match described {
            Some((word, counter, rest)) => {
                text.extend([word, counter, "_total ", rest]);
            }
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_the_bucket_whose_bound_they_do_not_exceed() {
        let metrics = Metrics::new();
        for micros in [10, 11, 20_000_000] {
            metrics.sync_latency.record(Duration::from_micros(micros));
        }
        let text = metrics.text(Exposition::Prometheus);
        for line in [
            "siltstone_sync_round_seconds_bucket{le=\"0.00001\"} 1",
            "siltstone_sync_round_seconds_bucket{le=\"0.000025\"} 2",
            "siltstone_sync_round_seconds_bucket{le=\"10.0\"} 2",
            "siltstone_sync_round_seconds_bucket{le=\"+Inf\"} 3",
            "siltstone_sync_round_seconds_count 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn refusals_are_counted_by_reason() {
        let metrics = Metrics::new();
        let labels = RefusalLabels {
            reason: Refusal::DiskFull,
        };
        metrics.refused.get_or_create(&labels).inc();
        let line = "siltstone_door_refused_requests_total{reason=\"disk_full\"} 1";
        assert!(metrics.text(Exposition::Prometheus).contains(line));
    }

    #[test]
    fn every_metric_says_what_it_is_and_has_the_house_prefix() {
        let metrics = Metrics::new();
        // A family without members is not shown.
        let reason = Refusal::NotFound;
        metrics.refused.get_or_create(&RefusalLabels { reason }).inc();
        let reason = Retention::Time;
        metrics
            .retention_segments
            .get_or_create(&RetentionLabels { reason })
            .inc();
        metrics
            .retention_bytes
            .get_or_create(&RetentionLabels { reason })
            .inc();
        let (method, status) = ("Fetch", "ok");
        metrics.calls.get_or_create(&CallLabels { method, status }).inc();
        metrics
            .call_latency
            .get_or_create(&MethodLabels { method })
            .record(Duration::ZERO);
        let text = metrics.text(Exposition::Prometheus);
        let types: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        assert_eq!(types.len(), 64);
        assert!(types.iter().all(|line| line.starts_with("# TYPE siltstone_")));
        assert_eq!(text.lines().filter(|line| line.starts_with("# HELP")).count(), 64);
    }

    #[test]
    fn the_two_texts_differ_by_the_names_of_counters_and_by_the_end_alone() {
        let metrics = Metrics::new();
        metrics.produce_bytes.inc_by(7);
        let open = metrics.text(Exposition::OpenMetrics);
        let prometheus = metrics.text(Exposition::Prometheus);
        assert!(open.contains("# TYPE siltstone_produce_bytes counter\nsiltstone_produce_bytes_total 7\n"));
        assert!(open.ends_with("# EOF\n"));
        assert!(
            prometheus
                .contains("# TYPE siltstone_produce_bytes_total counter\nsiltstone_produce_bytes_total 7\n")
        );
        assert!(!prometheus.contains("# EOF"));
        assert!(prometheus.contains("# TYPE siltstone_log_bytes gauge\n"));
    }
}
