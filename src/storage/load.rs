//! Making a log ready for appends, and the state that only appends need: producers and epochs.
//!
//! A start reads none of this: it is loaded at the first append, so that a partition nobody writes to costs nothing.
//!
//! Producer state is kept on disk as a snapshot of each producer's last batch, one per segment base. A retry may name any of
//! the last five, so the state is rebuilt from the newest snapshot by walking the batch headers of the log's end, before and
//! after it. When the snapshot of the log end says that there are no producers, nothing is walked.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::env::FileCache;
use crate::record::{BatchHeader, RecordBatch};
use crate::types::{Offset, Timestamp, TopicPartition};

use super::config::LogConfig;
use super::error::{IoContext, ReadError, StoreError};
use super::examine::Examined;
use super::files::{read_whole, remove_if_there};
use super::index_set::{IndexFiles, IndexSet};
use super::journal::JournalOf;
use super::partition_dir;
use super::paths::SegmentFile;
use super::segment::{Active, ActiveState, Sealed, Segment};
use super::walk::read;
use super::watermarks::WatermarkView;
use super::writer::{Names, Readiness, Saved, Writer};
use super::{AbortedTransaction, LeaderEpochs, Placed, Producers, decode_snapshot, stamps};

/// So much of the log's end is always walked for the batches that snapshots leave out: cheap, and as many segments as it
/// takes when they are small.
const BACKFILL_BYTES: u64 = 16 << 20;

/// What an opening needs to know beside the writer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening<'a> {
    pub(super) id: &'a TopicPartition,
    pub(super) now: Timestamp,
    pub(super) config: &'a LogConfig,
}

/// Makes the writer ready. A failure leaves it as it was, to be tried again.
pub(super) fn open_for_writing(
    writer: &mut Writer,
    view: WatermarkView,
    opening: Opening<'_>,
) -> Result<(), StoreError> {
    match writer.readiness {
        Readiness::Absent => {
            create_dir(writer, opening.id)?;
            writer.producers.advance(view.log_end);
        }
        Readiness::Closed => {
            load_epochs(writer);
            writer.producers = producers_of(writer, view.log_end, opening.now)?;
        }
        Readiness::Open => return Ok(()),
    }
    if !reopen_last(writer, view.log_end, &opening)? {
        writer.begin_segment(view.log_end, opening.now, opening.config)?;
    }
    forget_closing_snapshot(writer, view.log_end);
    let Writer {
        files,
        dir,
        id,
        topic_id,
        journal,
        segments,
        ..
    } = writer;
    journal.opened(
        &JournalOf {
            files,
            dir,
            id,
            topic_id: *topic_id,
        },
        segments,
    );
    writer.readiness = Readiness::Open;
    Ok(())
}

fn create_dir(writer: &mut Writer, id: &TopicPartition) -> Result<(), StoreError> {
    match writer.files.fs().create_dir(&writer.dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).context("create", &writer.dir)?
        }
        _ => {}
    }
    partition_dir::begin_metadata(&writer.files, &writer.dir, writer.topic_id)?;
    tracing::debug!(partition = %id, "directory created");
    writer.unsynced.names = Names::PartitionItself;
    Ok(())
}

/// Takes the last sealed segment as the active one again, if it has room.
fn reopen_last(writer: &Writer, log_end: Offset, opening: &Opening<'_>) -> Result<bool, StoreError> {
    let last = writer.segments.read().sealed().last().cloned();
    let Some(last) = last else { return Ok(false) };
    let has_room = last.extent.end < opening.config.segment_bytes && last.extent.next == log_end;
    if !has_room || !last.gaps().is_empty() {
        return Ok(false);
    }
    if opening.config.archived.is_some() && last.extent.end > 0 {
        // The archive may have it, and what it has does not grow.
        return Ok(false);
    }
    let links = writer
        .files
        .fs()
        .stat(&last.log_path)
        .context("read", &last.log_path)?
        .links;
    if links > 1 {
        // Adopted, and the last one left: its bytes are also those of the original.
        return Ok(false);
    }
    let files = match last.pending_indexes() {
        Some(set) => IndexFiles {
            offsets: set.offset_bytes().to_vec(),
            times: set.time_bytes().to_vec(),
            aborted: set.aborted().to_vec(),
        },
        None => match index_files(&writer.files, &last) {
            Ok(files) => files,
            // Whatever is wrong with them, the segment stays as it is and is read through its own check.
            Err(_) => return Ok(false),
        },
    };
    let sealed = Segment::Sealed(Arc::clone(&last));
    let mut walk = sealed.walk_all(&writer.files);
    let Ok(first) = walk.next_header() else {
        return Ok(false);
    };
    let state = ActiveState {
        extent: last.extent.clone(),
        indexes: IndexSet::resume(
            last.extent.base,
            opening.config.index_interval_bytes,
            last.extent.end,
            files,
        ),
        first_batch_time: first.and_then(|(_, header)| header.max_timestamp),
        opened_at: opening.now,
    };
    let active = Arc::new(Active::new(Arc::clone(&last.log_path), state));
    let mut list = writer.segments.write();
    list.pop();
    list.set_active(Some(active));
    Ok(true)
}

fn index_files(files: &FileCache, sealed: &Sealed) -> Result<IndexFiles, ReadError> {
    let lens = sealed.index_lens();
    let content = |kind: SegmentFile, len: u32| -> Result<Vec<u8>, ReadError> {
        let path = kind.path(sealed.dir(), sealed.extent.base);
        let bytes = read_whole(files, &path)?.unwrap_or_default();
        if u32::try_from(bytes.len()).is_ok_and(|found| found == len) {
            return Ok(bytes);
        }
        let reason = format!("{} bytes, expected {len}", bytes.len());
        Err(ReadError::Damaged {
            path,
            position: 0,
            lost: None,
            reason,
        })
    };
    Ok(IndexFiles {
        offsets: content(SegmentFile::OffsetIndex, lens.offsets)?,
        times: content(SegmentFile::TimeIndex, lens.times)?,
        aborted: sealed.aborted(files)?,
    })
}

/// The snapshot of a clean close lies inside the segment that grows again: a later start must not take it for the newest.
fn forget_closing_snapshot(writer: &Writer, log_end: Offset) {
    let is_base = writer.active().base == log_end;
    if is_base {
        return;
    }
    let path = SegmentFile::Snapshot.path(&writer.dir, log_end);
    if let Err(error) = remove_if_there(&writer.files, &path) {
        tracing::warn!(path = %path.display(), %error, "stale producer snapshot not removed");
    }
}

/// Loads the epochs of a log that was not written to yet. Without a sound file they are read from the batches.
pub(super) fn load_epochs(writer: &mut Writer) {
    if writer.readiness != Readiness::Closed || !writer.epochs.entries().is_empty() {
        return;
    }
    writer.epochs = partition_dir::read_epochs(&writer.files, &writer.dir);
    if writer.epochs.entries().is_empty() {
        writer.epochs = epochs_of(&writer.files, &super::read::snapshot(&writer.segments));
        writer.epochs_file = Saved::No;
    }
}

/// Reads the epochs of a log from its batches, as far as they can be read.
pub(super) fn epochs_of(files: &FileCache, segments: &[Segment]) -> LeaderEpochs {
    let mut epochs = LeaderEpochs::default();
    for segment in segments {
        let mut walk = segment.walk_all(files);
        while let Ok(Some((_, header))) = walk.next_header() {
            if let Some(epoch) = header.leader_epoch {
                let _ = epochs.assign(epoch, header.base_offset);
            }
        }
    }
    epochs
}

pub(super) fn producers_of(
    writer: &Writer,
    log_end: Offset,
    now: Timestamp,
) -> Result<Producers, StoreError> {
    let segments = super::read::snapshot(&writer.segments);
    let state = StateFiles {
        files: &writer.files,
        dir: &writer.dir,
        now,
    };
    let mut rebuilt = rebuild_producers(state, &segments, log_end);
    if let Err(ReadError::Damaged { .. }) = &rebuilt
        && examine_all(state.files, &segments)? == Examined::NewGaps
    {
        // What lies beside the damage tells of producers all the same, as in a start that found it.
        rebuilt = rebuild_producers(state, &segments, log_end);
    }
    rebuilt.map_err(|error| match error {
        ReadError::Storage(error) => error,
        other => StoreError::Unusable {
            path: writer.dir.to_path_buf(),
            reason: other.to_string(),
        },
    })
}

/// Looks for damage in the segments that producers are looked for in first.
fn examine_all(files: &FileCache, segments: &[Segment]) -> Result<Examined, StoreError> {
    let mut examined = Examined::NothingNew;
    for segment in &segments[backfill_from(segments)..] {
        if segment.examine(files)? == Examined::NewGaps {
            examined = Examined::NewGaps;
        }
    }
    Ok(examined)
}

/// Where producer state is kept, and the time at which its producers count as seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct StateFiles<'a> {
    pub(super) files: &'a FileCache,
    pub(super) dir: &'a Path,
    pub(super) now: Timestamp,
}

/// Rebuilds the producer state up to `log_end` from the newest snapshot and the batches of the last segments: what lies after
/// the snapshot is applied, what lies before it fills up the last batches of the producers it knows.
pub(super) fn rebuild_producers(
    state: StateFiles<'_>,
    segments: &[Segment],
    log_end: Offset,
) -> Result<Producers, ReadError> {
    let mut newest = (log_end, snapshot_at(state, log_end));
    let mut first = backfill_from(segments);
    for (index, segment) in segments.iter().enumerate().rev() {
        if newest.1.is_some() {
            break;
        }
        let base = segment.bounds().0;
        newest = (base, snapshot_at(state, base));
        first = first.min(index);
    }
    let mut producers = newest.1.unwrap_or_default();
    if newest.0 == log_end && producers.is_empty() && producers.end() == log_end {
        return Ok(producers);
    }
    for segment in &segments[first.min(segments.len())..] {
        replay(state, segment, &mut producers)?;
    }
    producers.advance(log_end);
    producers.release_completed(log_end);
    Ok(producers)
}

/// Returns the first segment in which the last batches of producers that still write are looked for: the last two, and small
/// ones before them.
fn backfill_from(segments: &[Segment]) -> usize {
    let mut bytes = 0_u64;
    let near = segments.iter().rev().take_while(|segment| {
        bytes += u64::from(segment.bounds().2);
        bytes <= BACKFILL_BYTES
    });
    let near = near.count().max(2);
    segments.len().saturating_sub(near)
}

fn snapshot_at(state: StateFiles<'_>, offset: Offset) -> Option<Producers> {
    let StateFiles { files, dir, now } = state;
    let path = SegmentFile::Snapshot.path(dir, offset);
    let bytes = read_whole(files, &path).ok().flatten()?;
    match decode_snapshot(&bytes) {
        Ok(entries) => Some(Producers::from_snapshot(&entries, offset, now)),
        Err(damage) => {
            tracing::warn!(path = %path.display(), %damage, "producer snapshot is damaged; an older one and the log replace it");
            None
        }
    }
}

fn replay(state: StateFiles<'_>, segment: &Segment, producers: &mut Producers) -> Result<(), ReadError> {
    let mut walk = segment.walk_all(state.files);
    while let Some((position, header)) = walk.next_header()? {
        if header.is_control() {
            let bytes = read(state.files, segment.log_path(), position, header.size_bytes)?;
            if let Ok(batch) = RecordBatch::parse(bytes) {
                replay_batch(producers, &batch, state.now);
            }
        } else if let Some(batch) = stamps::producer_batch(&header) {
            producers.apply_recovered(&batch, placed(&header, state.now));
        }
    }
    Ok(())
}

/// Lets the state follow a batch that is already in the log; returns the transaction it aborted, if it aborted one.
pub(super) fn replay_batch(
    producers: &mut Producers,
    batch: &RecordBatch,
    now: Timestamp,
) -> Option<AbortedTransaction> {
    let header = batch.header();
    if !header.is_control() {
        if let Some(batch) = stamps::producer_batch(header) {
            producers.apply_recovered(&batch, placed(header, now));
        }
        return None;
    }
    let control = batch.control_marker().ok().flatten()?;
    let marker = stamps::marker(header, control)?;
    producers.apply_marker(&marker, placed(header, now))?.aborted()
}

/// Returns where a batch lies, for the producer state.
pub(super) fn placed(header: &BatchHeader, now: Timestamp) -> Placed {
    Placed {
        base_offset: header.base_offset,
        last_offset: header.last_offset(),
        now,
    }
}
