//! The append side of a log: one batch after the other, at the end of the active segment.
//!
//! ```text
//!   append: refused? -> first append: directory, state -> producer rules -> roll? -> write -> publish
//!   roll:   seal the active segment (its indexes stay in memory) -> producer snapshot -> manifest entry -> new .log
//! ```
//!
//! Invariants
//! - A batch is published, that is visible in the segment and the log end, only after all its bytes are in the file. A failed
//!   write leaves the published end where it was; the next write goes over what it left.
//! - Nothing on the append path syncs or reads a disk, but for opening the log, which its callers can do before.
//! - What has not been synced is written down in [`Unsynced`] before the append returns: a sync takes all of it.
//! - After a failed sync the page cache no longer tells the truth, so nothing is appended until [`super::repair`] has read
//!   the disk again.
//!
//! The writer sits behind the partition's append lock, the one lock that is held across a system call (the write into the
//! page cache): the order of bytes in the file is the order of offsets. Readers never take it.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::env::{FileCache, OpenMode, SyncSite};
use crate::record::{Accepted, BatchHeader};
use crate::types::{LeaderEpoch, Offset, Timestamp, TopicId, TopicPartition};

use super::config::LogConfig;
use super::error::{AppendError, IoContext, StoreError};
use super::files::remove_if_there;
use super::index_set::{ContentSpan, IndexSet};
use super::journal::{Journal, JournalOf};
use super::paths::SegmentFile;
use super::read::SharedSegments;
use super::segment::{Active, ActiveState, Extent, log_path};
use super::standing::Stand;
use super::{AppendTimes, LeaderEpochs, Producers, RelativeOffset, encode_snapshot};

/// Greatest size of a `.log`: positions in its index are signed 32-bit numbers.
const LOG_MAX_BYTES: u32 = i32::MAX.unsigned_abs();

const SITE_CUT: SyncSite = SyncSite("log cut to its batches");

/// What must reach the disk before the log end may be called safe.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Unsynced {
    /// Logs with bytes that were not synced.
    pub(super) logs: Vec<Arc<Path>>,
    /// Whether the partition's directory has names that were not synced.
    pub(super) names: Names,
    /// Records appended since the last sync.
    pub(super) records: i64,
    /// When the first of them was appended.
    pub(super) since: Option<Timestamp>,
}

/// Which directories have names that a crash may lose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum Names {
    /// None.
    #[default]
    Safe,
    /// Names in the partition's directory.
    InPartition,
    /// Those, the directory's own name, and the file of the topic's id.
    PartitionItself,
}

/// Syncs under way. Several may overlap, each of other files; what one covers is safe only when those before it are done.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    next: u64,
    under_way: VecDeque<(u64, Offset, Done)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Done {
    Yes,
    No,
}

impl Syncs {
    /// A sync of everything before `upto` begins; returns its number.
    pub(super) fn begin(&mut self, upto: Offset) -> u64 {
        self.next += 1;
        self.under_way.push_back((self.next, upto, Done::No));
        self.next
    }

    /// A sync has succeeded; returns the offset before which everything is safe now, if that moved.
    pub(super) fn finish(&mut self, number: u64) -> Option<Offset> {
        let sync = self.under_way.iter_mut().find(|(other, ..)| *other == number)?;
        sync.2 = Done::Yes;
        let mut safe = None;
        while let Some(&(_, upto, Done::Yes)) = self.under_way.front() {
            safe = Some(upto);
            self.under_way.pop_front();
        }
        safe
    }

    /// A sync has failed: none of those under way says anything any more.
    pub(super) fn forget(&mut self) {
        self.under_way.clear();
    }
}

/// How far the append side is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Readiness {
    /// No directory yet.
    Absent,
    /// On disk; nothing is loaded that only appends need.
    Closed,
    /// Loaded, with an active segment.
    Open,
}

/// Whether a file says what memory does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Saved {
    Yes,
    No,
}

/// What lay beyond the published end of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    Nothing,
    Some,
}

/// What sealing for good found to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sealing {
    /// The active segment was sealed.
    Done,
    /// Nothing was written since the log was opened, but the manifest does not say yet what recovery found.
    Recovered,
    /// There is nothing to write down.
    Untouched,
}

/// The append side. See the module.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) files: Arc<FileCache>,
    pub(super) dir: Arc<Path>,
    pub(super) id: TopicPartition,
    pub(super) topic_id: TopicId,
    pub(super) segments: SharedSegments,
    pub(super) readiness: Readiness,
    pub(super) producers: Producers,
    pub(super) epochs: LeaderEpochs,
    /// Whether the file of epochs says what `epochs` does.
    pub(super) epochs_file: Saved,
    pub(super) journal: Journal,
    pub(super) unsynced: Unsynced,
    pub(super) syncs: Syncs,
    /// Set by every roll; see [`super::Partition::take_rolled`].
    pub(super) rolled: Arc<AtomicBool>,
    /// Whether appends are taken; changed only by whoever holds the lock on this writer.
    pub(super) stand: Arc<Stand>,
}

/// A batch on its way into the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming<'a> {
    pub(super) batch: &'a Accepted,
    pub(super) epoch: LeaderEpoch,
    pub(super) now: Timestamp,
}

impl Writer {
    /// Writes one batch at `log_end` and publishes it; returns its header as it lies in the log.
    pub(super) fn write(
        &mut self,
        incoming: &Incoming<'_>,
        log_end: Offset,
        config: &LogConfig,
    ) -> Result<BatchHeader, AppendError> {
        let header = self.place(incoming, log_end)?;
        self.roll_if_due(&header, incoming.now, config)?;
        let active = self.active();
        let position = active.look(|state| state.extent.end);
        let file = self
            .files
            .open_rw(&active.log_path)
            .context("open", &active.log_path)?;
        let prefix = incoming.batch.stamped_prefix(header.base_offset, incoming.epoch);
        let parts = [IoSlice::new(&prefix), IoSlice::new(incoming.batch.after_prefix())];
        file.write_all_at(&parts, u64::from(position))
            .context("write", &active.log_path)?;

        self.note_unsynced(&active.log_path, &header, incoming.now);
        if self.epochs.latest() != Some(incoming.epoch) {
            let _changed = self.epochs.assign(incoming.epoch, header.base_offset);
            self.epochs_file = Saved::No;
        }
        let times = incoming
            .batch
            .least_timestamp()
            .zip(incoming.batch.greatest_timestamp());
        active.publish(&header, times, incoming.now);
        Ok(header)
    }

    /// Returns the header that the batch will have in the log.
    fn place(&self, incoming: &Incoming<'_>, log_end: Offset) -> Result<BatchHeader, AppendError> {
        let mut header = *incoming.batch.header();
        header.base_offset = log_end;
        header.leader_epoch = Some(incoming.epoch);
        let last = log_end.0.checked_add(i64::from(header.last_offset_delta));
        if last.is_none_or(|last| last == i64::MAX) {
            return Err(AppendError::Exhausted);
        }
        Ok(header)
    }

    pub(super) fn active(&self) -> Arc<Active> {
        let list = self.segments.read();
        Arc::clone(list.active().expect("an open writer has an active segment"))
    }

    fn note_unsynced(&mut self, path: &Arc<Path>, header: &BatchHeader, now: Timestamp) {
        if self.unsynced.logs.last() != Some(path) {
            self.unsynced.logs.push(Arc::clone(path));
        }
        self.unsynced.records += i64::from(header.record_count);
        self.unsynced.since.get_or_insert(now);
    }

    /// Kafka's rules for a roll: size, time between records, a full index, an offset that would not fit.
    fn roll_if_due(
        &mut self,
        header: &BatchHeader,
        now: Timestamp,
        config: &LogConfig,
    ) -> Result<(), AppendError> {
        let active = self.active();
        let due = active.look(|state| {
            let extent = &state.extent;
            let limit = config.segment_bytes.min(LOG_MAX_BYTES);
            let too_large = extent.end > limit.saturating_sub(header.size_bytes);
            let too_long = extent.end > 0 && waited_ms(state, header, now) > segment_ms(config, extent.base);
            let full = state.indexes.is_full(config.segment_index_bytes);
            let too_far = RelativeOffset::new(header.last_offset(), extent.base).is_none();
            (extent.end > 0 && (too_large || full)) || too_long || too_far
        });
        if due {
            self.roll(header.base_offset, now, config)?;
        }
        Ok(())
    }

    /// Seals the active segment and begins a new one at `base`. A failure leaves the active segment as it was.
    pub(super) fn roll(
        &mut self,
        base: Offset,
        now: Timestamp,
        config: &LogConfig,
    ) -> Result<(), StoreError> {
        let active = self.active();
        if active.look(|state| state.extent.end) == 0 {
            // Nothing to keep: it begins anew, under the name that it has.
            return self.begin_segment(base, now, config);
        }
        if self.cut_to_published(&active)? == Cut::Some && !self.unsynced.logs.contains(&active.log_path) {
            // The next sync makes the cut safe, before anything in the new segment is.
            self.unsynced.logs.push(Arc::clone(&active.log_path));
        }
        let new = self.create_log(base)?;
        self.write_snapshot(base);
        let sealed = Arc::new(active.seal());
        let log = JournalOf {
            files: &self.files,
            dir: &self.dir,
            id: &self.id,
            topic_id: self.topic_id,
        };
        self.journal.sealed(&log, &sealed);
        self.rolled.store(true, Ordering::Release);
        let mut list = self.segments.write();
        list.push(sealed);
        list.set_active(Some(Arc::new(Active::new(new, fresh_state(base, now, config)))));
        Ok(())
    }

    /// Makes a new, empty active segment at `base`.
    pub(super) fn begin_segment(
        &mut self,
        base: Offset,
        now: Timestamp,
        config: &LogConfig,
    ) -> Result<(), StoreError> {
        let log = self.create_log(base)?;
        self.begin_in(log, base, now, config);
        Ok(())
    }

    /// Makes an empty log that begins at `base` the active segment. One that was active until now was as empty and began
    /// there, too: the new log took its name.
    pub(super) fn begin_in(&mut self, log: Arc<Path>, base: Offset, now: Timestamp, config: &LogConfig) {
        let active = Active::new(log, fresh_state(base, now, config));
        let mut list = self.segments.write();
        let before = list.active().map(|before| before.base);
        assert!(
            before.is_none_or(|before| before == base),
            "an empty log is at the end"
        );
        list.set_active(Some(Arc::new(active)));
    }

    /// Cuts what a failed write left beyond the published end, where no reader looks: a sealed log ends with its last batch,
    /// or recovery would take what follows it for lost. Does not sync.
    fn cut_to_published(&self, active: &Active) -> Result<Cut, StoreError> {
        let (path, end) = (&active.log_path, u64::from(active.extent().end));
        let file = self.files.open_rw(path).context("open", path)?;
        if file.len_bytes().context("read", path)? == end {
            return Ok(Cut::Nothing);
        }
        file.set_len(end).context("cut", path)?;
        Ok(Cut::Some)
    }

    /// Makes an empty log; its name is the next sync's to make safe.
    pub(super) fn create_log(&mut self, base: Offset) -> Result<Arc<Path>, StoreError> {
        let path = log_path(&self.dir, base);
        remove_if_there(&self.files, &path).context("remove", &path)?;
        self.files
            .fs()
            .open(&path, OpenMode::CreateNew)
            .context("create", &path)?;
        self.unsynced.names = self.unsynced.names.max(Names::InPartition);
        Ok(path)
    }

    /// Ends writing: the active segment becomes a sealed one, its file exactly as long as its batches.
    ///
    /// # Errors
    /// A log that refuses writes cannot be closed; what the disk says.
    pub(super) fn seal_for_good(&mut self) -> Result<Sealing, StoreError> {
        if let Some(reason) = self.stand.end("the store is closed") {
            return Err(StoreError::Unusable {
                path: self.dir.to_path_buf(),
                reason,
            });
        }
        match self.readiness {
            Readiness::Open => {}
            Readiness::Closed if self.journal.is_stale() => return Ok(Sealing::Recovered),
            Readiness::Closed | Readiness::Absent => return Ok(Sealing::Untouched),
        }
        let active = self.active();
        if self.cut_to_published(&active)? == Cut::Some {
            let path = &active.log_path;
            let file = self.files.open_rw(path).context("open", path)?;
            file.sync_data(SITE_CUT).context("sync", path)?;
        }
        let mut list = self.segments.write();
        list.set_active(None);
        list.push(Arc::new(active.seal()));
        Ok(Sealing::Done)
    }

    /// Writes the producer state up to `offset`. It is not synced and may fail: state that is missing is rebuilt from the log.
    pub(super) fn write_snapshot(&self, offset: Offset) {
        let path = SegmentFile::Snapshot.path(&self.dir, offset);
        let bytes = encode_snapshot(&self.producers.snapshot());
        let written = remove_if_there(&self.files, &path)
            .and_then(|()| self.files.fs().open(&path, OpenMode::CreateNew))
            .and_then(|file| file.write_all_at(&[IoSlice::new(&bytes)], 0));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "producer snapshot not written; a start will rebuild it");
        }
    }
}

fn fresh_state(base: Offset, now: Timestamp, config: &LogConfig) -> ActiveState {
    let extent = Extent {
        base,
        next: base,
        end: 0,
        content: ContentSpan::default(),
        append_times: AppendTimes::default(),
    };
    let indexes = IndexSet::new(base, config.index_interval_bytes);
    ActiveState {
        extent,
        indexes,
        first_batch_time: None,
        opened_at: now,
    }
}

/// Milliseconds that the segment spans with this batch: by the records' own times, else by the clock.
fn waited_ms(state: &ActiveState, header: &BatchHeader, now: Timestamp) -> i64 {
    match (header.max_timestamp, state.first_batch_time) {
        (Some(this), Some(first)) => this.ms_since(first),
        _ => now.ms_since(state.opened_at),
    }
}

/// The segment's span, less a jitter that differs from segment to segment but not from start to start.
fn segment_ms(config: &LogConfig, base: Offset) -> i64 {
    let room = config.segment_jitter_ms.min(config.segment_ms);
    if room <= 0 {
        return config.segment_ms;
    }
    let spread = crc32fast::hash(&base.0.to_be_bytes());
    config.segment_ms - i64::from(spread) % room
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_counts_only_when_those_before_it_are_done() {
        let mut syncs = Syncs::default();
        let (first, second, third) = (
            syncs.begin(Offset(5)),
            syncs.begin(Offset(8)),
            syncs.begin(Offset(9)),
        );
        assert_eq!(syncs.finish(second), None);
        assert_eq!(syncs.finish(first), Some(Offset(8)));
        syncs.forget();
        assert_eq!(syncs.finish(third), None);
    }
}
