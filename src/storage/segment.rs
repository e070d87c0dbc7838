//! A segment: a run of batches in one `.log`, with its indexes beside it.
//!
//! ```text
//!   base                                   next
//!    | batch | batch |  hole  | batch | batch |         offsets
//!    0                                       end        positions in the .log
//! ```
//!
//! Two shapes. [`Sealed`] never changes: what is known about it stands in memory, its files are opened and mapped when a
//! reader comes. [`Active`] takes appends; its indexes live in memory and readers see it up to a published end.
//!
//! Invariants
//! - Everything below the published end is whole, validated batches; a reader never looks beyond it.
//! - A sealed segment's indexes are in memory ([`Indexes::Pending`]) until they are on disk: no append waits for them, and
//!   a full disk cannot lose them (they are rebuilt from the log when the process dies before).
//!
//! What is not here: which segments a log has, and when one is rolled.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::env::FileCache;
use crate::record::BatchHeader;
use crate::types::{Offset, Timestamp};

use super::error::{IoContext, ReadError};
use super::files::Replacements;
use super::gap::{Gap, Lost};
use super::index_set::{ContentSpan, IndexFiles, IndexSet};
use super::paths::SegmentFile;
use super::spacing::Holes;
use super::walk::{EVERY_OFFSET, Start, Stretch, Walk};
use super::{
    AbortedTransaction, AppendTimes, OffsetEntry, OffsetIndex, Overlap, RelativeOffset, TimeEntry, TimeIndex,
    TxnIndex,
};

/// So much of an index file is made resident at once; a search in a larger one first looks for the part that holds the answer.
/// Whole entries of both kinds.
const INDEX_PART: usize = 680 * 24;
const _: () =
    assert!(INDEX_PART.is_multiple_of(OffsetEntry::LEN) && INDEX_PART.is_multiple_of(TimeEntry::LEN));

/// What is known of a segment's content without opening it.
#[derive(Clone, Debug)]
pub(super) struct Extent {
    pub(super) base: Offset,
    /// The first offset after it.
    pub(super) next: Offset,
    /// Length of the `.log` in bytes.
    pub(super) end: u32,
    pub(super) content: ContentSpan,
    pub(super) append_times: AppendTimes,
}

impl Extent {
    /// Tells whether offsets are left out in it.
    pub(super) fn holes(&self) -> Holes {
        Holes::of(self.content.records, self.base, self.next)
    }

    fn stretch(&self, start: Start, end: u32) -> Stretch {
        Stretch {
            start,
            end,
            offsets: self.base..self.next,
            holes: self.holes(),
        }
    }
}

/// A segment that no longer changes.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) extent: Extent,
    pub(super) log_path: Arc<Path>,
    indexes: Mutex<Indexes>,
    /// Set when it turns out that parts of the log cannot be read.
    gaps: OnceLock<Arc<[Gap]>>,
}

/// What a search in the indexes looks for: records of `from` or later, at `at` or later if that is given.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    at: Option<Timestamp>,
    from: Offset,
}

impl Wanted {
    /// Returns the offset to look for in the offset index; `None` when the segment cannot tell it.
    fn target(self, base: Offset, times: TimeIndex<'_>) -> Option<RelativeOffset> {
        // The entry at or before `at` names the batch that first reached its time: all before that batch are earlier.
        let floor = self
            .at
            .and_then(|at| times.floor(at))
            .map_or(base, |entry| entry.last_offset.from_base(base));
        RelativeOffset::new(self.from.max(floor), base)
    }

    fn start(self, base: Offset, offsets: OffsetIndex<'_>, times: TimeIndex<'_>) -> Start {
        start_at(base, self.target(base, times), offsets)
    }
}

/// Returns where to begin, not to miss `target`.
fn start_at(base: Offset, target: Option<RelativeOffset>, offsets: OffsetIndex<'_>) -> Start {
    let entry = target.and_then(|target| offsets.floor(target));
    entry.map_or(Start::default(), |entry| Start {
        position: entry.position.0,
        last: Some(entry.last_offset.from_base(base)),
    })
}

/// Where a sealed segment's indexes are.
#[derive(Clone, Debug)]
enum Indexes {
    /// In memory, not yet all on disk.
    Pending(Arc<IndexSet>),
    /// In files of these lengths; `aborted` tells whether there is a transaction index. Not looked at yet.
    Unchecked(IndexLens),
    /// As above, and found sound when they were first used.
    Checked(IndexLens),
}

/// Lengths of a sealed segment's index files in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct IndexLens {
    pub(super) offsets: u32,
    pub(super) times: u32,
    /// `None`: there is no file.
    pub(super) aborted: Option<u32>,
}

impl Sealed {
    /// A segment whose indexes are in memory.
    pub(super) fn pending(log_path: Arc<Path>, extent: Extent, indexes: Arc<IndexSet>) -> Self {
        Self {
            extent,
            log_path,
            indexes: Mutex::new(Indexes::Pending(indexes)),
            gaps: OnceLock::new(),
        }
    }

    /// A segment whose index files are known by their length.
    pub(super) fn on_disk(log_path: Arc<Path>, extent: Extent, lens: IndexLens) -> Self {
        Self {
            extent,
            log_path,
            indexes: Mutex::new(Indexes::Unchecked(lens)),
            gaps: OnceLock::new(),
        }
    }

    /// Returns the same segment under another name of its log. Its indexes are in memory, or are read again.
    pub(super) fn moved_to(&self, log_path: Arc<Path>) -> Self {
        Self {
            extent: self.extent.clone(),
            log_path,
            indexes: Mutex::new(self.indexes.lock().clone()),
            gaps: self.gaps.clone(),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        self.log_path
            .parent()
            .expect("a log lies in its partition's directory")
    }

    /// Tells whether the log has its final name, by which a start knows it.
    pub(super) fn has_its_name(&self) -> bool {
        self.log_path.extension().is_some_and(|suffix| suffix == "log")
    }

    /// Returns what of the log is known to be lost, by position.
    pub(super) fn gaps(&self) -> &[Gap] {
        self.gaps.get().map_or(&[], |gaps| gaps)
    }

    /// Tells whether the file ends before the log did.
    pub(super) fn ends_early(&self) -> bool {
        let last = self.gaps().last();
        last.is_some_and(|gap| gap.lost == Lost::Missing)
    }

    /// Parts of the log cannot be read; the first word stays.
    pub(super) fn know_gaps(&self, gaps: Vec<Gap>) {
        let _ = self.gaps.set(gaps.into());
    }

    /// Returns the indexes that are only in memory.
    pub(super) fn pending_indexes(&self) -> Option<Arc<IndexSet>> {
        match &*self.indexes.lock() {
            Indexes::Pending(set) => Some(Arc::clone(set)),
            Indexes::Unchecked(_) | Indexes::Checked(_) => None,
        }
    }

    /// These are the indexes from now on, in memory until they are written.
    pub(super) fn reindexed(&self, indexes: Arc<IndexSet>) {
        *self.indexes.lock() = Indexes::Pending(indexes);
    }

    /// The indexes are on disk now, synced, with these lengths.
    pub(super) fn indexes_written(&self, lens: IndexLens) {
        *self.indexes.lock() = Indexes::Checked(lens);
    }

    /// Returns the lengths of the index files; of indexes in memory, what they will be.
    pub(super) fn index_lens(&self) -> IndexLens {
        match &*self.indexes.lock() {
            Indexes::Pending(set) => lens_of(set),
            Indexes::Unchecked(lens) | Indexes::Checked(lens) => *lens,
        }
    }

    /// Returns a place before which nothing asked for lies.
    fn start_before(&self, files: &FileCache, wanted: Wanted) -> Result<Start, ReadError> {
        let indexes = self.indexes.lock().clone();
        match indexes {
            Indexes::Pending(set) => {
                return Ok(wanted.start(self.extent.base, set.offsets(), set.times()));
            }
            Indexes::Checked(lens) => {
                if let Ok(start) = self.start_in_files(files, lens, wanted) {
                    return Ok(start);
                }
            }
            Indexes::Unchecked(lens) => {
                if let Some(start) = self.start_if_sound(files, lens, wanted) {
                    *self.indexes.lock() = Indexes::Checked(lens);
                    return Ok(start);
                }
            }
        }
        tracing::warn!(log = %self.log_path.display(), "indexes are damaged or missing; reading the log to rebuild them");
        let rebuilt = Arc::new(self.rebuild_indexes(files)?);
        *self.indexes.lock() = Indexes::Pending(Arc::clone(&rebuilt));
        Ok(wanted.start(self.extent.base, rebuilt.offsets(), rebuilt.times()))
    }

    /// Looks into index files that were not used yet, whole; `None` when they are damaged or missing.
    fn start_if_sound(&self, files: &FileCache, lens: IndexLens, wanted: Wanted) -> Option<Start> {
        let offsets = self.map(files, SegmentFile::OffsetIndex, lens.offsets).ok()?;
        let times = self.map(files, SegmentFile::TimeIndex, lens.times).ok()?;
        let last = RelativeOffset::new(Offset(self.extent.next.0 - 1), self.extent.base);
        let offsets = OffsetIndex::open(&offsets, self.extent.end).ok()?;
        let times = TimeIndex::open(&times, last).ok()?;
        Some(wanted.start(self.extent.base, offsets, times))
    }

    /// Looks into index files that were found sound before; of large ones only where the search leads.
    fn start_in_files(&self, files: &FileCache, lens: IndexLens, wanted: Wanted) -> Result<Start, ReadError> {
        let times = match wanted.at {
            Some(at) => self.part(files, (SegmentFile::TimeIndex, lens.times), |first| {
                TimeIndex::trusted(first).floor(at).is_some()
            })?,
            None => Bytes::new(),
        };
        let Some(target) = wanted.target(self.extent.base, TimeIndex::trusted(&times)) else {
            return Ok(Start::default());
        };
        let offsets = self.part(files, (SegmentFile::OffsetIndex, lens.offsets), |first| {
            OffsetIndex::trusted(first).floor(target).is_some()
        })?;
        let base = self.extent.base;
        Ok(start_at(base, Some(target), OffsetIndex::trusted(&offsets)))
    }

    /// Returns the last part of an index file that begins with an entry of which `is_not_after` holds, or the first part.
    fn part(
        &self,
        files: &FileCache,
        (file, len): (SegmentFile, u32),
        is_not_after: impl Fn(&[u8]) -> bool,
    ) -> Result<Bytes, ReadError> {
        let bytes_len = usize::try_from(len).expect("32 bits fit");
        if bytes_len <= INDEX_PART {
            return self.map(files, file, len);
        }
        let path: Arc<Path> = file.path(self.dir(), self.extent.base).into();
        let bytes = files.map_cold(&path, bytes_len).context("map", &path)?;
        let resident = |range: Range<usize>| {
            let position = u64::try_from(range.start).expect("within 32 bits");
            let part = bytes.slice(range);
            files.populate(&path, &part, position).context("read", &path)?;
            Ok::<_, ReadError>(part)
        };
        let part = last_part(bytes_len, |start| {
            // An entry of either kind fits into this; what is torn is not looked at.
            let first = resident(start..bytes_len.min(start + TimeEntry::LEN))?;
            Ok::<_, ReadError>(is_not_after(&first))
        })?;
        resident(part)
    }

    /// Reads the aborted transactions whose markers lie here.
    pub(super) fn aborted(&self, files: &FileCache) -> Result<Vec<AbortedTransaction>, ReadError> {
        let all = Offset(i64::MIN)..Offset(i64::MAX);
        Ok(self.aborted_in(files, &all)?.transactions)
    }

    /// Reads the aborted transactions that reach into a range of offsets and whose markers lie here. Keeps no others in memory.
    pub(super) fn aborted_in(
        &self,
        files: &FileCache,
        offsets: &Range<Offset>,
    ) -> Result<Overlap, ReadError> {
        let indexes = self.indexes.lock().clone();
        let len = match indexes {
            Indexes::Pending(set) => return Ok(Overlap::in_memory(set.aborted(), offsets)),
            Indexes::Unchecked(lens) | Indexes::Checked(lens) => lens.aborted,
        };
        let Some(len) = len else {
            return Ok(Overlap::in_memory(&[], offsets));
        };
        let path = SegmentFile::TxnIndex.path(self.dir(), self.extent.base);
        let bytes = self.map(files, SegmentFile::TxnIndex, len)?;
        let damaged = |reason| ReadError::Damaged {
            path: path.clone(),
            position: 0,
            lost: None,
            reason,
        };
        let index = TxnIndex::open(&bytes, self.extent.base).map_err(|damage| damaged(damage.to_string()))?;
        let next = self.extent.next;
        match index.iter().find(|aborted| aborted.last_offset >= next) {
            Some(beyond) => Err(damaged(format!(
                "a marker at offset {}, expected below {next}",
                beyond.last_offset
            ))),
            None => Ok(index.overlapping(offsets.clone())),
        }
    }

    /// Returns all indexes: those in memory, those on disk if they are sound, else made anew from the log.
    pub(super) fn sound_indexes(&self, files: &FileCache) -> Result<IndexFiles, ReadError> {
        let of = |set: &IndexSet| IndexFiles {
            offsets: set.offset_bytes().to_vec(),
            times: set.time_bytes().to_vec(),
            aborted: set.aborted().to_vec(),
        };
        let indexes = self.indexes.lock().clone();
        let lens = match indexes {
            Indexes::Pending(set) => return Ok(of(&set)),
            Indexes::Unchecked(lens) | Indexes::Checked(lens) => lens,
        };
        let last = RelativeOffset::new(Offset(self.extent.next.0 - 1), self.extent.base);
        let on_disk = || -> Option<(Bytes, Bytes)> {
            let offsets = self.map(files, SegmentFile::OffsetIndex, lens.offsets).ok()?;
            let times = self.map(files, SegmentFile::TimeIndex, lens.times).ok()?;
            OffsetIndex::open(&offsets, self.extent.end).ok()?;
            TimeIndex::open(&times, last).ok()?;
            Some((offsets, times))
        };
        match on_disk() {
            Some((offsets, times)) => Ok(IndexFiles {
                offsets: offsets.to_vec(),
                times: times.to_vec(),
                aborted: self.aborted(files)?,
            }),
            None => self.rebuild_indexes(files).map(|set| of(&set)),
        }
    }

    fn map(&self, files: &FileCache, file: SegmentFile, len: u32) -> Result<Bytes, ReadError> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let path: Arc<Path> = file.path(self.dir(), self.extent.base).into();
        Ok(files
            .map_whole(&path, usize::try_from(len).expect("32 bits fit"))
            .context("map", &path)?)
    }

    fn rebuild_indexes(&self, files: &FileCache) -> Result<IndexSet, ReadError> {
        let mut set = IndexSet::new(
            self.extent.base,
            super::config::LogConfig::default().index_interval_bytes,
        );
        let stretch = self.extent.stretch(Start::default(), self.extent.end);
        let mut walk = Walk::new(files, &self.log_path, stretch).past(self.gaps(), EVERY_OFFSET);
        while let Some((position, header)) = walk.next_header()? {
            set.add(&header, position);
        }
        for aborted in self.aborted(files)? {
            set.add_aborted(aborted);
        }
        set.seal();
        Ok(set)
    }
}

/// Returns the last part, of an index of `len` bytes, of whose start `is_not_after` holds; the first part if it holds of none.
/// Asks once per halving, and not about the first part.
fn last_part<E>(
    len: usize,
    mut is_not_after: impl FnMut(usize) -> Result<bool, E>,
) -> Result<Range<usize>, E> {
    let (mut low, mut high) = (0, len.div_ceil(INDEX_PART));
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        if is_not_after(middle * INDEX_PART)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(low * INDEX_PART..len.min((low + 1) * INDEX_PART))
}

fn lens_of(set: &IndexSet) -> IndexLens {
    let len = |bytes: usize| u32::try_from(bytes).expect("an index is smaller than its segment's limit");
    IndexLens {
        offsets: len(set.offset_bytes().len()),
        times: len(set.time_bytes().len()),
        aborted: (!set.aborted().is_empty()).then(|| len(set.aborted().len() * AbortedTransaction::LEN)),
    }
}

/// The segment that takes appends. Its lock guards what readers need; the appender alone changes it.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) base: Offset,
    pub(super) log_path: Arc<Path>,
    state: RwLock<ActiveState>,
}

/// What has been published of an active segment.
#[derive(Debug)]
pub(super) struct ActiveState {
    pub(super) extent: Extent,
    pub(super) indexes: IndexSet,
    /// The greatest timestamp of the segment's first batch: time-based rolls count from it.
    pub(super) first_batch_time: Option<Timestamp>,
    /// When the segment was made or reopened.
    pub(super) opened_at: Timestamp,
}

impl Active {
    pub(super) fn new(log_path: Arc<Path>, state: ActiveState) -> Self {
        Self {
            base: state.extent.base,
            log_path,
            state: RwLock::new(state),
        }
    }

    pub(super) fn extent(&self) -> Extent {
        self.state.read().extent.clone()
    }

    /// Reads the published state.
    pub(super) fn look<T>(&self, look: impl FnOnce(&ActiveState) -> T) -> T {
        look(&self.state.read())
    }

    /// Publishes a batch that lies whole in the file, at the published end.
    pub(super) fn publish(
        &self,
        header: &BatchHeader,
        times: Option<(Timestamp, Timestamp)>,
        now: Timestamp,
    ) {
        let mut state = self.state.write();
        let position = state.extent.end;
        if position == 0 {
            state.first_batch_time = header.max_timestamp;
        }
        state.indexes.add(header, position);
        state.extent.end = position + header.size_bytes;
        state.extent.next = header.next_offset();
        // A marker has a time, but no record that a search by time could find.
        let times = times.filter(|_| !header.is_control());
        state.extent.content.add(header.record_count, times);
        state.extent.append_times.push(header.base_offset, now);
    }

    pub(super) fn add_aborted(&self, aborted: AbortedTransaction) {
        self.state.write().indexes.add_aborted(aborted);
    }

    /// Returns what it is as a sealed segment.
    pub(super) fn seal(&self) -> Sealed {
        let mut state = self.state.write();
        state.indexes.seal();
        Sealed::pending(
            Arc::clone(&self.log_path),
            state.extent.clone(),
            Arc::new(state.indexes.clone()),
        )
    }
}

/// Either shape, as readers hold it.
#[derive(Clone, Debug)]
pub(super) enum Segment {
    Sealed(Arc<Sealed>),
    Active(Arc<Active>),
}

impl Segment {
    pub(super) fn log_path(&self) -> &Arc<Path> {
        match self {
            Self::Sealed(sealed) => &sealed.log_path,
            Self::Active(active) => &active.log_path,
        }
    }

    /// Returns base, next offset and published end.
    pub(super) fn bounds(&self) -> (Offset, Offset, u32) {
        let of = |extent: &Extent| (extent.base, extent.next, extent.end);
        match self {
            Self::Sealed(sealed) => of(&sealed.extent),
            Self::Active(active) => active.look(|state| of(&state.extent)),
        }
    }

    pub(super) fn extent(&self) -> Cow<'_, Extent> {
        match self {
            Self::Sealed(sealed) => Cow::Borrowed(&sealed.extent),
            Self::Active(active) => Cow::Owned(active.extent()),
        }
    }

    pub(super) fn content(&self) -> ContentSpan {
        match self {
            Self::Sealed(sealed) => sealed.extent.content,
            Self::Active(active) => active.look(|state| state.extent.content),
        }
    }

    /// Walks the batch headers between two places. A gap is passed over when it lies before `from`, and told else.
    pub(super) fn walk<'a>(&'a self, files: &'a FileCache, start: Start, end: u32, from: Offset) -> Walk<'a> {
        match self {
            Self::Sealed(sealed) => {
                let stretch = sealed.extent.stretch(start, end);
                Walk::new(files, &sealed.log_path, stretch).past(sealed.gaps(), from)
            }
            Self::Active(active) => {
                let stretch = active.look(|state| state.extent.stretch(start, end));
                Walk::new(files, &active.log_path, stretch)
            }
        }
    }

    /// Walks all batch headers that can be read.
    pub(super) fn walk_all<'a>(&'a self, files: &'a FileCache) -> Walk<'a> {
        self.walk(files, Start::default(), self.bounds().2, EVERY_OFFSET)
    }

    /// Returns a place at or before the first batch that ends at or after `offset`.
    pub(super) fn start_before(&self, files: &FileCache, offset: Offset) -> Result<Start, ReadError> {
        self.start_of(
            files,
            Wanted {
                at: None,
                from: offset,
            },
        )
    }

    /// Returns a place before which there is no record of `offset` or later that has a timestamp of `at` or later.
    pub(super) fn start_before_time(
        &self,
        files: &FileCache,
        at: Timestamp,
        offset: Offset,
    ) -> Result<Start, ReadError> {
        self.start_of(
            files,
            Wanted {
                at: Some(at),
                from: offset,
            },
        )
    }

    fn start_of(&self, files: &FileCache, wanted: Wanted) -> Result<Start, ReadError> {
        match self {
            Self::Sealed(sealed) => sealed.start_before(files, wanted),
            Self::Active(active) => Ok(active.look(|state| {
                wanted.start(state.extent.base, state.indexes.offsets(), state.indexes.times())
            })),
        }
    }

    pub(super) fn aborted_in(
        &self,
        files: &FileCache,
        offsets: &Range<Offset>,
    ) -> Result<Overlap, ReadError> {
        match self {
            Self::Sealed(sealed) => sealed.aborted_in(files, offsets),
            Self::Active(active) => {
                Ok(active.look(|state| Overlap::in_memory(state.indexes.aborted(), offsets)))
            }
        }
    }
}

/// Returns the path of a segment's log as readers share it.
pub(super) fn log_path(dir: &Path, base: Offset) -> Arc<Path> {
    let path: PathBuf = SegmentFile::Log.path(dir, base);
    path.into()
}

/// Adds the index files of a sealed segment, if they are only in memory, to files that are about to be replaced.
/// After the replacement, tell the segment by [`Sealed::indexes_written`].
pub(super) fn add_pending_indexes(sealed: &Sealed, replacements: &mut Replacements) -> Option<IndexLens> {
    let set = sealed.pending_indexes()?;
    let lens = lens_of(&set);
    let path = |kind: SegmentFile| kind.path(sealed.dir(), sealed.extent.base);
    replacements.add(path(SegmentFile::OffsetIndex), set.offset_bytes().to_vec());
    replacements.add(path(SegmentFile::TimeIndex), set.time_bytes().to_vec());
    if lens.aborted.is_some() {
        let bytes = set
            .aborted()
            .iter()
            .flat_map(|aborted| aborted.to_bytes())
            .collect();
        replacements.add(path(SegmentFile::TxnIndex), bytes);
    }
    Some(lens)
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
