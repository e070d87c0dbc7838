//! What a log gives to the archive, and what it is told of it.
//!
//! ```text
//!   sealed ... | sealed | sealed | active          manifest of the archive: up to its end
//!   ----------- archived |  next   |               `next_to_archive`: the first behind that end, once it is safe
//! ```
//!
//! A segment is handed over as open files, so that what the cleaner or retention do to their names meanwhile does not matter; small
//! parts come as bytes, also those that are not on disk yet.
//!
//! Invariants
//! - Only what is sealed, decided and synced goes: below the last stable offset and the recovery point.
//! - Segments go in the order of their offsets, and none is passed over: one with damage, and all behind it, stay.
//! - Nothing that was handed over grows: a start of an archived log begins a new segment.
//! - What the cleaner wrote since the start goes anew, whatever its size; what it wrote before, if size, records or times tell it apart.
//!
//! What is not here: when to hand over (`broker`), the archive itself (`tier`), and what leaves the disk then (`retain`).

use std::sync::Arc;

use bytes::Bytes;

use crate::env::{File, OpenMode};
use crate::types::{Offset, Timestamp};

use super::error::{AppendError, IoContext, ReadError};
use super::files::read_whole;
use super::journal::summary_of;
use super::load::{self, StateFiles};
use super::partition::Partition;
use super::paths::SegmentFile;
use super::retain::producers_at;
use super::segment::{Extent, Sealed, Segment};
use super::{SegmentFacts, SegmentSummary, StoreError, WatermarkView, decode_snapshot, encode_epochs};

/// A sealed segment for the archive, with all that goes with it.
#[derive(Clone, Debug)]
pub struct HandedOver {
    /// Tells it from what the cleaner makes of it later; means nothing after the next start.
    pub rewrite: u64,
    /// Offsets, times and sizes.
    pub summary: SegmentSummary,
    /// Its `.log`, open.
    pub log: Arc<dyn File>,
    /// Its offset index.
    pub offset_index: Bytes,
    /// Its time index.
    pub time_index: Bytes,
    /// The aborted transactions whose markers lie in it; empty when there are none.
    pub transactions: Bytes,
    /// What is known of producers at its end, as a `.snapshot` has it.
    pub producers: Bytes,
    /// The leader epochs up to its end, as a `leader-epoch-checkpoint` has them.
    pub epochs: Bytes,
}

/// What comes next for the archive.
#[derive(Debug)]
pub enum NextToArchive {
    /// This segment.
    Segment(Box<HandedOver>),
    /// Nothing yet: all that is sealed is there, or not safe.
    Nothing,
    /// It does not go on until a person has looked.
    Stuck {
        /// The first offset that does not go.
        from: Offset,
        /// Why.
        reason: String,
    },
}

/// What the archive does not have yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArchiveLag {
    /// Bytes of batches.
    pub bytes: u64,
    /// Segments with records, the active one among them.
    pub segments: u64,
    /// When the first of them was appended, at the latest.
    pub since: Option<Timestamp>,
}

/// A segment as the archive has it: enough to see whether the local one is another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArchivedExtent {
    /// Its first offset.
    pub base: Offset,
    /// The offset after its last.
    pub next: Offset,
    /// Bytes of its batches.
    pub log_bytes: u64,
    /// Number of its records.
    pub records: u64,
    /// Least and greatest timestamp of them.
    pub times: (Option<Timestamp>, Option<Timestamp>),
    /// [`HandedOver::rewrite`] of what was uploaded since the start; 0 of what was there before.
    pub rewrite: u64,
}

impl ArchivedExtent {
    /// Returns it as `summary` tells it.
    pub fn of(summary: &SegmentSummary, rewrite: u64) -> Self {
        Self {
            base: summary.base_offset,
            next: summary.next_offset,
            log_bytes: summary.log_bytes,
            records: summary.records,
            times: (summary.least_timestamp, summary.greatest_timestamp),
            rewrite,
        }
    }
}

/// What comes next in the place of something that the archive has.
#[derive(Debug)]
pub enum NextRewritten {
    /// This.
    Segments(Rewritten),
    /// Nothing, or nothing that is safe yet.
    Nothing,
    /// It does not go on until a person has looked.
    Stuck {
        /// The first offset that does not go.
        from: Offset,
        /// Why.
        reason: String,
    },
}

/// Neighbours of the archive that the cleaner wrote anew.
#[derive(Debug)]
pub struct Rewritten {
    /// The first offsets of those that go.
    pub removed: Vec<Offset>,
    /// What comes; may be nothing.
    pub added: Vec<HandedOver>,
}

impl Partition {
    /// Takes note of the segments that the archive has, by offset.
    pub fn set_archived(&self, archived: Arc<[SegmentFacts]>) {
        *self.archived.write() = archived;
    }

    /// Follows the archive of another server, which begins at `log_start` and has come to `end`. Only for a log that nobody writes to here.
    ///
    /// # Panics
    /// When it has segments of its own.
    pub fn follow_archive(&self, log_start: Offset, end: Offset) -> WatermarkView {
        assert_eq!(
            self.segments.read().len(),
            0,
            "{} has segments of its own",
            self.id
        );
        self.marks.follow(log_start, end)
    }

    /// Tells readers of an archive that below `to` records may have been replaced. Said before they read what took their place.
    pub fn follow_compaction(&self, to: Offset) {
        self.cleaner.replaced_elsewhere(to);
    }

    /// Returns the segment that comes behind the archive's end; `None` stands for an archive without segments. Reads a disk.
    ///
    /// # Errors
    /// What the disk says; trying again loses nothing.
    pub fn next_to_archive(&self, end: Option<Offset>, now: Timestamp) -> Result<NextToArchive, ReadError> {
        // Until the files are open, nobody swaps them.
        let _names = self.names.lock();
        let marks = self.watermarks();
        let safe = marks.last_stable.min(marks.recovery_point);
        let from = end.unwrap_or(marks.log_start);
        let sealed = self.segments.read().sealed().to_vec();
        let next = sealed
            .iter()
            .find(|sealed| sealed.extent.next > from && sealed.extent.end > 0);
        let Some(next) = next.filter(|next| next.extent.next <= safe) else {
            return Ok(NextToArchive::Nothing);
        };
        let stuck = |reason: String| {
            Ok(NextToArchive::Stuck {
                from: next.extent.base.max(from),
                reason,
            })
        };
        let reaches_over = end.is_some() && next.extent.base < from;
        if reaches_over && !self.config.read().cleanup.compacts() {
            return stuck(format!(
                "the local segment from offset {} reaches over offset {from}, where the archive ends",
                next.extent.base
            ));
        }
        if let Some(damage) = damage_of(next) {
            return stuck(damage);
        }
        // What the cleaner put together over the archive's end goes there in the place of what it was made of: see `rewritten`.
        if reaches_over || !next.has_its_name() {
            return Ok(NextToArchive::Nothing);
        }
        let handed_over = self.hand_over(next, now)?;
        Ok(NextToArchive::Segment(Box::new(handed_over)))
    }

    /// Returns what the cleaner made of segments that the archive has, each by offset: the first such neighbours. At the archive's end
    /// that may hold segments, too, that the archive has not got yet. Reads a disk.
    ///
    /// # Errors
    /// What the disk says; trying again loses nothing.
    pub fn rewritten(&self, archived: &[ArchivedExtent], now: Timestamp) -> Result<NextRewritten, ReadError> {
        if !self.config.read().cleanup.compacts() {
            return Ok(NextRewritten::Nothing);
        }
        let _names = self.names.lock();
        let Some((removed, new)) = self.difference(archived) else {
            return Ok(NextRewritten::Nothing);
        };
        if let Some((sealed, reason)) = new.iter().find_map(|sealed| Some((sealed, damage_of(sealed)?))) {
            let from = sealed.extent.base;
            return Ok(NextRewritten::Stuck { from, reason });
        }
        let marks = self.watermarks();
        let safe = marks.last_stable.min(marks.recovery_point);
        let is_ready = new
            .iter()
            .all(|sealed| sealed.has_its_name() && sealed.extent.next <= safe);
        if !is_ready {
            return Ok(NextRewritten::Nothing);
        }
        let added = new.iter().map(|sealed| self.hand_over(sealed, now));
        Ok(NextRewritten::Segments(Rewritten {
            removed,
            added: added.collect::<Result<_, _>>()?,
        }))
    }

    /// Reads the sealed segments of these first offsets through, to learn what of them is lost: who read one for the archive found it
    /// damaged. From then on they are known as damaged without a look at the disk.
    ///
    /// # Errors
    /// What the disk says.
    pub fn examine(&self, bases: &[Offset]) -> Result<(), ReadError> {
        let sealed = self.segments.read().sealed().to_vec();
        for sealed in sealed.iter().filter(|sealed| bases.contains(&sealed.extent.base)) {
            sealed.examine(&self.files)?;
        }
        Ok(())
    }

    /// Tells whether something could go to an archive that ends at `end`: a sealed segment, or the active one if it has a record that
    /// was appended at `before` or earlier. Looks at memory only; what is not safe yet counts, too.
    pub fn has_for_archive(&self, end: Option<Offset>, before: Timestamp) -> bool {
        let marks = self.watermarks();
        let from = end.unwrap_or(marks.log_start);
        if from >= marks.log_end {
            return false;
        }
        let safe = marks.last_stable.min(marks.high_watermark);
        let list = self.segments.read();
        let next = list
            .at(list.index_at(from))
            .map(|segment| segment.extent().into_owned());
        let Some(next) = next.filter(|next| next.end > 0 && next.next <= safe) else {
            return false;
        };
        let is_active = list.active().is_some_and(|active| active.base == next.base);
        let first = next.append_times.first_at_latest();
        !is_active || first.is_none_or(|first| first <= before)
    }

    /// Tells whether a sealed segment is not synced yet.
    pub fn has_unsynced_sealed(&self) -> bool {
        let recovery_point = self.watermarks().recovery_point;
        let list = self.segments.read();
        list.sealed()
            .last()
            .is_some_and(|last| last.extent.next > recovery_point)
    }

    /// Tells whether the cleaner wrote anew what the archive has; looks at memory only.
    pub fn differs_from_archive(&self, archived: &[ArchivedExtent]) -> bool {
        let compacts = self.config.read().cleanup.compacts();
        compacts && self.difference(archived).is_some()
    }

    /// Finds the first segments that the archive has otherwise.
    fn difference(&self, archived: &[ArchivedExtent]) -> Option<(Vec<Offset>, Vec<Arc<Sealed>>)> {
        let local_start = self.watermarks().local_start;
        let end = archived.last()?.next;
        let sealed = self.segments.read().sealed().to_vec();
        let of_then = |sealed: &Arc<Sealed>| sealed.extent.base < end && sealed.extent.end > 0;
        let local: Vec<_> = sealed.into_iter().filter(of_then).collect();
        let skipped = archived.partition_point(|known| known.base < local_start);
        let archived = &archived[skipped..];
        let anew = self.anew.lock();
        let extent = |sealed: &Arc<Sealed>| extent_of(sealed, anew.number(sealed.extent.base));
        let extents: Vec<ArchivedExtent> = local.iter().map(extent).collect();
        drop(anew);
        let (old, new) = first_difference(archived, &extents)?;
        let removed = archived[old].iter().map(|known| known.base).collect();
        Some((removed, local[new].to_vec()))
    }

    /// Returns what lies behind the archive's end, from memory.
    pub fn archive_lag(&self, end: Offset) -> ArchiveLag {
        let mut lag = ArchiveLag {
            bytes: 0,
            segments: 0,
            since: None,
        };
        for segment in super::read::snapshot(&self.segments) {
            let extent = segment.extent();
            if extent.next <= end || extent.end == 0 {
                continue;
            }
            lag.bytes += u64::from(extent.end);
            lag.segments += 1;
            lag.since = lag.since.or(extent.append_times.first_at_latest());
        }
        lag
    }

    /// Seals the active segment if it has a record that was appended at `before` or earlier; tells whether it did.
    ///
    /// # Errors
    /// As an append's.
    pub fn roll_if_appended_before(&self, before: Timestamp, now: Timestamp) -> Result<bool, AppendError> {
        let last = super::read::snapshot(&self.segments).pop();
        let wanted = |last: &Segment| {
            let extent = last.extent();
            let first = extent.append_times.first_at_latest();
            extent.end > 0 && first.is_none_or(|first| first <= before)
        };
        // A log that nobody has written to since the start ends with a sealed segment, which will not grow.
        let is_active = matches!(last, Some(Segment::Active(_)));
        if !is_active || !last.as_ref().is_some_and(wanted) {
            return Ok(false);
        }
        let config = Arc::clone(&self.config.read());
        let mut writer = self.open_writer(now, &config)?;
        if writer.active().look(|state| state.extent.end) == 0 {
            return Ok(false);
        }
        writer.roll(self.watermarks().log_end, now, &config)?;
        Ok(true)
    }

    /// Opens a segment's files. The caller holds `names`.
    fn hand_over(&self, sealed: &Arc<Sealed>, now: Timestamp) -> Result<HandedOver, ReadError> {
        let path = &sealed.log_path;
        let log = self.files.fs().open(path, OpenMode::Read).context("open", path)?;
        let indexes = sealed.sound_indexes(&self.files)?;
        let transactions: Vec<u8> = (indexes.aborted.iter())
            .flat_map(|aborted| aborted.to_bytes())
            .collect();
        let mut summary = summary_of(sealed);
        let len = |bytes: usize| u32::try_from(bytes).expect("an index is smaller than its segment's limit");
        summary.offset_index_bytes = len(indexes.offsets.len());
        summary.time_index_bytes = len(indexes.times.len());
        summary.txn_index_bytes = (!transactions.is_empty()).then(|| len(transactions.len()));
        // By itself: within what follows it would be held for all of it, and whoever has the writer waits for it.
        let rewrite = self.anew.lock().number(sealed.extent.base);
        Ok(HandedOver {
            rewrite,
            summary,
            log,
            offset_index: indexes.offsets.into(),
            time_index: indexes.times.into(),
            transactions: transactions.into(),
            producers: self.producers_after(sealed, now)?,
            epochs: self.epochs_until(sealed.extent.next),
        })
    }

    /// Returns the producer state at the end of a segment: that of the roll, or made anew.
    fn producers_after(&self, sealed: &Sealed, now: Timestamp) -> Result<Bytes, StoreError> {
        let dir = self.dir();
        let behind = super::read::snapshot(&self.segments);
        let behind = behind.iter().map(|segment| segment.bounds().0);
        let end = behind.filter(|base| *base >= sealed.extent.next).min();
        let end = end.unwrap_or(sealed.extent.next);
        let found = read_whole(&self.files, &SegmentFile::Snapshot.path(&dir, end))?;
        if let Some(bytes) = found.filter(|bytes| decode_snapshot(bytes).is_ok()) {
            return Ok(bytes.into());
        }
        let mut before = super::read::snapshot(&self.segments);
        before.retain(|segment| segment.bounds().1 <= end);
        let state = StateFiles {
            files: &self.files,
            dir: &dir,
            now,
        };
        producers_at(state, &before, end).map(Bytes::from)
    }

    fn epochs_until(&self, end: Offset) -> Bytes {
        let mut writer = self.writer.lock();
        load::load_epochs(&mut writer);
        let mut epochs = writer.epochs.clone();
        drop(writer);
        let _ = epochs.truncate_from_end(end);
        encode_epochs(epochs.entries()).into()
    }
}

fn damage_of(sealed: &Sealed) -> Option<String> {
    let gap = sealed.gaps().first()?;
    Some(format!(
        "{} is damaged at position {}: {}",
        sealed.log_path.display(),
        gap.positions.start,
        gap.reason
    ))
}

fn extent_of(sealed: &Sealed, rewrite: u64) -> ArchivedExtent {
    let Extent {
        base,
        next,
        end,
        content,
        ..
    } = &sealed.extent;
    ArchivedExtent {
        base: *base,
        next: *next,
        log_bytes: u64::from(*end),
        records: content.records,
        times: (content.least, content.greatest),
        rewrite,
    }
}

/// Finds the first neighbours in which two lists of segments differ, both by offset: as indexes into each. A difference begins and
/// ends where a segment begins in both, or at the end of the archive.
fn first_difference(
    archived: &[ArchivedExtent],
    local: &[ArchivedExtent],
) -> Option<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let (mut old, mut new) = (0, 0);
    while old < archived.len() {
        if local.get(new) == Some(&archived[old]) {
            (old, new) = (old + 1, new + 1);
            continue;
        }
        let begins = |base: Offset| local[new..].iter().position(|segment| segment.base == base);
        let meet = (old + 1..archived.len()).find_map(|at| Some((at, begins(archived[at].base)?)));
        let (old_end, new_end) = match meet {
            Some((at, found)) => (at, new + found),
            None => (archived.len(), local.len()),
        };
        return Some((old..old_end, new..new_end));
    }
    None
}

#[cfg(test)]
#[path = "archived_tests.rs"]
mod tests;
