//! The partition's manifest in use: read at the start, appended to at each roll, written anew at a clean close.
//!
//! Invariants
//! - Nothing here is synced and nothing fails an append: what the manifest does not tell is read from the logs. A journal that
//!   could not be written is given up until the next close writes it anew.
//! - How far log start and epoch had come at the last close is never forgotten: it stands in front of the segments when there
//!   is no close to tell of.
//! - What a start takes from it is checked against the file it names: a summary counts only for a log of the same length that
//!   lies below the recovery point.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::env::FileCache;
use crate::types::{Offset, TopicId, TopicPartition};

use super::error::{IoContext, StoreError};
use super::files::{read_whole, remove_if_there};
use super::index_set::ContentSpan;
use super::segment::{Extent, IndexLens, Sealed, log_path};
use super::segment_list::SegmentList;
use super::spacing::Holes;
use super::{Closed, MANIFEST_FILE_NAME, Manifest, ManifestRecord, SegmentFlags, SegmentSummary};

/// The manifest of an open log.
#[derive(Debug, Default)]
pub(super) struct Journal {
    state: State,
    last_closed: Option<Closed>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    /// The file says what is true, and ends at this position.
    Intact { end: u64 },
    /// There is no file that can be appended to.
    #[default]
    Stale,
}

/// What the manifest of a log said at the start.
#[derive(Debug, Default)]
pub(super) struct Known {
    manifest: Option<Manifest>,
    pub(super) closed: Option<Closed>,
    /// The newest close that it tells of, though the log was opened again: log start and epoch have not gone back since.
    pub(super) last_closed: Option<Closed>,
    len: u64,
}

impl Known {
    /// Tells whether the manifest is of the topic `id`.
    pub(super) fn belongs_to(&self, id: TopicId) -> bool {
        self.manifest
            .as_ref()
            .is_some_and(|manifest| manifest.topic_id == id)
    }

    /// Returns all segments as the manifest tells them.
    pub(super) fn sealed(&self, dir: &Path) -> Vec<Arc<Sealed>> {
        let summaries = self
            .manifest
            .iter()
            .flat_map(|manifest| manifest.segments().values());
        summaries
            .filter_map(|summary| segment_of(dir, summary))
            .map(Arc::new)
            .collect()
    }

    /// Returns a segment as the manifest tells it, if that can be believed.
    pub(super) fn trusted(
        &self,
        dir: &Path,
        base: Offset,
        len: u64,
        recovery_point: Offset,
    ) -> Option<Sealed> {
        let summary = self.manifest.as_ref()?.segments().get(&base)?;
        let believed = summary.log_bytes == len && summary.next_offset <= recovery_point && len > 0;
        if believed { segment_of(dir, summary) } else { None }
    }

    /// Returns the length that a log had, if the manifest tells of it as it was below the recovery point.
    pub(super) fn safe_len(&self, base: Offset, recovery_point: Offset) -> Option<u64> {
        let summary = self.manifest.as_ref()?.segments().get(&base)?;
        (summary.next_offset <= recovery_point).then_some(summary.log_bytes)
    }

    /// What stays true when logs took the place of those that the manifest tells of.
    pub(super) fn without_segments(self) -> Self {
        Self {
            last_closed: self.last_closed,
            ..Self::default()
        }
    }

    /// Tells whether a log of `len` bytes leaves offsets out, if that is known.
    pub(super) fn holes(&self, base: Offset, len: u64) -> Holes {
        let segments = self.manifest.as_ref().map(Manifest::segments);
        let summary = segments
            .and_then(|segments| segments.get(&base))
            .filter(|summary| summary.log_bytes == len);
        summary.map_or(Holes::Legal, |summary| {
            Holes::of(summary.records, base, summary.next_offset)
        })
    }
}

impl Journal {
    /// Reads the manifest of a partition. Whatever is wrong with it is told, and is no loss.
    pub(super) fn read(files: &FileCache, dir: &Path, id: &TopicPartition) -> Known {
        let path = dir.join(MANIFEST_FILE_NAME);
        let Ok(Some(bytes)) = read_whole(files, &path) else {
            return Known::default();
        };
        match Manifest::decode(&bytes) {
            Ok(decoded) => {
                if let Some(tail) = decoded.tail {
                    tracing::info!(partition = %id, %tail, "manifest ends early; the rest is read from the logs");
                }
                let closed = decoded.manifest.closed();
                let len = u64::try_from(decoded.valid_len).expect("a file's length fits");
                Known {
                    manifest: Some(decoded.manifest),
                    closed,
                    last_closed: decoded.last_closed,
                    len,
                }
            }
            Err(damage) => {
                tracing::warn!(partition = %id, %damage, "manifest is damaged; the logs are read instead");
                Known::default()
            }
        }
    }

    /// A manifest that was found true.
    pub(super) fn intact(known: &Known) -> Self {
        Self {
            state: State::Intact { end: known.len },
            last_closed: known.last_closed,
        }
    }

    /// A manifest that says less, or other, than the directory.
    pub(super) fn stale(known: &Known) -> Self {
        Self {
            state: State::Stale,
            last_closed: known.last_closed,
        }
    }

    /// The file says from now on less, or other, than the directory.
    pub(super) fn outdated(&mut self) {
        self.state = State::Stale;
    }

    /// Tells whether the file says less, or other, than the directory.
    pub(super) fn is_stale(&self) -> bool {
        self.state == State::Stale
    }

    /// Removes the file, durably enough: until the name is gone for good its summaries are checked by length.
    pub(super) fn remove(files: &FileCache, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(MANIFEST_FILE_NAME);
        remove_if_there(files, &path).context("remove", &path)
    }

    /// The log takes appends from now on: it is no longer closed, and its last segment no longer sealed.
    pub(super) fn opened(&mut self, log: &JournalOf<'_>, segments: &RwLock<SegmentList>) {
        match self.state {
            State::Intact { .. } => {
                let active = segments.read().active().map(|active| active.base);
                if let Some(active) = active {
                    self.append(log, &ManifestRecord::Removed(active));
                }
            }
            State::Stale => self.rewrite(log, segments),
        }
    }

    /// A segment was sealed.
    pub(super) fn sealed(&mut self, log: &JournalOf<'_>, sealed: &Sealed) {
        self.append(log, &ManifestRecord::Segment(summary_of(sealed)));
    }

    /// Segments are gone.
    pub(super) fn removed(&mut self, log: &JournalOf<'_>, sealed: &[Arc<Sealed>]) {
        for segment in sealed {
            self.append(log, &ManifestRecord::Removed(segment.extent.base));
        }
    }

    /// Writes the file anew from what is in memory.
    pub(super) fn rewrite(&mut self, log: &JournalOf<'_>, segments: &RwLock<SegmentList>) {
        let sealed = segments.read().sealed().to_vec();
        let bytes = manifest_of(log, &sealed).encode_after(self.last_closed.as_ref());
        let path = log.dir.join(MANIFEST_FILE_NAME);
        let written = remove_if_there(log.files, &path)
            .and_then(|()| log.files.fs().open(&path, crate::env::OpenMode::CreateNew))
            .and_then(|file| file.write_all_at(&[IoSlice::new(&bytes)], 0));
        self.state = match written {
            Ok(()) => State::Intact {
                end: u64::try_from(bytes.len()).expect("a length fits"),
            },
            Err(error) => given_up(log.id, &error),
        };
    }

    fn append(&mut self, log: &JournalOf<'_>, record: &ManifestRecord) {
        let State::Intact { end } = self.state else { return };
        let bytes = record.encode_append();
        let path = log.dir.join(MANIFEST_FILE_NAME);
        let written = log
            .files
            .open_rw(&path)
            .and_then(|file| file.write_all_at(&[IoSlice::new(&bytes)], end));
        self.state = match written {
            Ok(()) => State::Intact {
                end: end + u64::try_from(bytes.len()).expect("a length fits"),
            },
            Err(error) => given_up(log.id, &error),
        };
    }
}

fn given_up(id: &TopicPartition, error: &std::io::Error) -> State {
    tracing::warn!(partition = %id, %error, "manifest not written; the next start reads the logs instead");
    State::Stale
}

/// The log that a journal tells of.
#[derive(Clone, Copy, Debug)]
pub(super) struct JournalOf<'a> {
    pub(super) files: &'a FileCache,
    pub(super) dir: &'a Path,
    pub(super) id: &'a TopicPartition,
    pub(super) topic_id: TopicId,
}

/// Whether a start may take the word of a manifest for all that is in the directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Complete {
    /// It may.
    Yes,
    /// There are files that have no place in the log any more: a start must look, so that they are removed.
    No,
}

/// Returns path and content of the manifest of a log that is being closed.
pub(super) fn closed_manifest(
    log: &JournalOf<'_>,
    sealed: &[Arc<Sealed>],
    closed: Closed,
    complete: Complete,
) -> (PathBuf, Vec<u8>) {
    let mut manifest = manifest_of(log, sealed);
    // The next start shall find what is damaged again, and say so: it must read that segment.
    let believed = complete == Complete::Yes && sealed.iter().all(|sealed| sealed.gaps().is_empty());
    let bytes = match believed.then(|| manifest.apply(ManifestRecord::Closed(closed))) {
        Some(Ok(())) => manifest.encode_whole(),
        Some(Err(contradiction)) => {
            // A hole behind the last segment: the next start reads the logs.
            tracing::info!(partition = %log.id, %contradiction, "manifest written without a closing record");
            manifest.encode_after(Some(&closed))
        }
        None => manifest.encode_after(Some(&closed)),
    };
    (log.dir.join(MANIFEST_FILE_NAME), bytes)
}

fn manifest_of(log: &JournalOf<'_>, sealed: &[Arc<Sealed>]) -> Manifest {
    let mut manifest = Manifest::new(log.topic_id, log.id.partition);
    // Of a log that has lost bytes it tells what that was: by its length the next start finds that they are missing.
    let told = |sealed: &&Arc<Sealed>| sealed.gaps().is_empty() || sealed.ends_early();
    for sealed in sealed.iter().filter(told) {
        let applied = manifest.apply(ManifestRecord::Segment(summary_of(sealed)));
        applied.expect("only a closing record contradicts");
    }
    manifest
}

pub(super) fn summary_of(sealed: &Sealed) -> SegmentSummary {
    let (extent, lens) = (&sealed.extent, sealed.index_lens());
    SegmentSummary {
        next_offset: extent.next,
        log_bytes: u64::from(extent.end),
        offset_index_bytes: lens.offsets,
        time_index_bytes: lens.times,
        txn_index_bytes: lens.aborted,
        records: extent.content.records,
        least_timestamp: extent.content.least,
        greatest_timestamp: extent.content.greatest,
        append_times: extent.append_times.clone(),
        flags: SegmentFlags::SEALED,
        ..SegmentSummary::empty(extent.base)
    }
}

fn segment_of(dir: &Path, summary: &SegmentSummary) -> Option<Sealed> {
    let content = ContentSpan {
        records: summary.records,
        least: summary.least_timestamp,
        greatest: summary.greatest_timestamp,
    };
    let extent = Extent {
        base: summary.base_offset,
        next: summary.next_offset,
        end: u32::try_from(summary.log_bytes).ok()?,
        content,
        append_times: summary.append_times.clone(),
    };
    let lens = IndexLens {
        offsets: summary.offset_index_bytes,
        times: summary.time_index_bytes,
        aborted: summary.txn_index_bytes,
    };
    Some(Sealed::on_disk(log_path(dir, extent.base), extent, lens))
}
