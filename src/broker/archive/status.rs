//! How partitions stand in the bucket, for people and for metrics.

use std::sync::atomic::Ordering;

use crate::broker::core::Core;
use crate::broker::served::Served;

use super::PartitionArchive;
use super::bucket::Archive;

impl Archive {
    /// Describes a partition as the bucket has it; `None` when it has nothing to do with it.
    pub(in crate::broker) fn status(&self, served: &Served) -> Option<PartitionArchive> {
        let tiered = self.of(served)?;
        let manifest = tiered.manifest();
        let segments = manifest.segments();
        let end = (!segments.is_empty()).then(|| manifest.end());
        let lag = served
            .log
            .archive_lag(end.unwrap_or_else(|| served.log.watermarks().log_start));
        let catalog = self.catalog_state.lock();
        let catalog_failures = catalog.failures.max(catalog.removal.failures);
        let catalog_trouble = catalog
            .trouble
            .clone()
            .or_else(|| catalog.removal.trouble.clone());
        drop(catalog);
        let state = tiered.state.lock();
        Some(PartitionArchive {
            end,
            segments: u64::try_from(segments.len()).unwrap_or(u64::MAX),
            size_bytes: segments.values().map(|segment| segment.summary.log_bytes).sum(),
            lag_bytes: lag.bytes,
            lag_since: lag.since,
            uploading_bytes: state.is_uploading.then(|| tiered.sent.load(Ordering::Relaxed)),
            failures: state.failures.max(catalog_failures).max(state.removal.failures),
            trouble: state
                .trouble
                .clone()
                .or(catalog_trouble)
                .or_else(|| state.removal.trouble.clone())
                .or_else(|| {
                    let unread = state.unread.as_ref()?;
                    Some(format!(
                        "a read from offset {} failed: {}",
                        unread.from, unread.reason
                    ))
                }),
            is_stuck: state.is_stuck,
        })
    }

    /// Counts what all partitions together are behind.
    pub(in crate::broker) fn count_gauges(&self, core: &Core) {
        let (mut bytes, mut oldest, mut stuck, mut failing) = (0_u64, None, 0_i64, 0_i64);
        for topic in core.topics.all() {
            if !core.config.archives(&topic.name, &topic.config) {
                continue;
            }
            for status in topic.partitions.iter().filter_map(|served| self.status(served)) {
                bytes = bytes.saturating_add(status.lag_bytes);
                oldest = match (oldest, status.lag_since) {
                    (Some(oldest), Some(since)) => Some(std::cmp::min(oldest, since)),
                    (oldest, since) => oldest.or(since),
                };
                stuck += i64::from(status.is_stuck);
                failing += i64::from(status.failures > 0);
            }
        }
        let lag_ms = oldest.map_or(0, |oldest| core.now().ms_since(oldest).max(0));
        let metrics = &self.metrics;
        metrics
            .tier_lag_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        metrics.tier_lag_seconds.set(lag_ms / 1000);
        metrics.tier_stuck.set(stuck);
        metrics.tier_failing.set(failing);
    }
}
