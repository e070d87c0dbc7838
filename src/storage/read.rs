//! Reading a log: whole batches from an offset, and offsets by time.
//!
//! A read takes a snapshot of the segment it needs under the lock, then does its I/O with none. It returns a slice of one
//! segment, the very bytes on disk; a reader that wants more asks again at `next_offset`.
//!
//! What the indexes rule out is not read: a read bounded in time skips segments by least and greatest timestamp, begins in
//! the first by the time index, and passes over batches whose header says that they end before the range begins.
//!
//! What is not here: what a reader may see (the caller bounds it by a watermark), and waiting.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::env::FileCache;
use crate::record::{BatchHeader, Damage, DecompressLimit, RecordBatch};
use crate::types::{LeaderEpoch, Offset, Timestamp};

use super::error::ReadError;
use super::examine::Examined;
use super::segment::Segment;
use super::segment_list::SegmentList;
use super::walk::{Start, read};
use super::{AbortedTransaction, Overlap, Search};

/// So much is passed over in one call before it returns to say how far it came, in bytes.
const SKIP_BUDGET: u32 = 64 << 20;

/// What to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    /// The first offset wanted. The first batch may begin before it.
    pub from: Offset,
    /// Exclusive: no batch that begins there or later is returned. Usually a watermark.
    pub until: Offset,
    /// Leave out what holds no record in this range, as far as indexes and headers tell.
    pub times: Option<Range<Timestamp>>,
    /// At most so many bytes, whole batches.
    pub max_bytes: usize,
    /// What becomes of a first batch that is larger.
    pub first: FirstBatch,
}

/// What becomes of a batch larger than all that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstBatch {
    /// It is returned whole, so that a reader always gets on.
    Whole,
    /// Nothing is returned.
    IfItFits,
}

impl FirstBatch {
    /// Of several reads that share an answer, the first that finds something returns its batch whole.
    pub fn after(bytes_so_far: usize) -> Self {
        match bytes_so_far {
            0 => Self::Whole,
            _ => Self::IfItFits,
        }
    }
}

/// Whole batches lying back to back.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The batches; empty when there are none in what was looked at.
    pub bytes: Bytes,
    /// Where the next read goes on: beyond the batches, and beyond what was looked at and left out.
    pub next_offset: Offset,
    /// Where the log goes on behind the batches, by what lies there, where that was looked at; else as `next_offset`. What the
    /// last batch says of itself may be as damaged as the rest of it.
    pub behind: Offset,
}

impl Slice {
    /// Returns a slice without batches: all up to `next_offset` is looked at.
    pub fn nothing(next_offset: Offset) -> Self {
        Self {
            bytes: Bytes::new(),
            next_offset,
            behind: next_offset,
        }
    }
}

/// A record found by its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// The epoch under which its batch was appended.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// The read side of a log: its segments and the files they lie in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    pub(super) files: &'a FileCache,
    pub(super) segments: &'a RwLock<SegmentList>,
}

impl Reader<'_> {
    /// Reads batches. `read.from` lies within the log.
    pub(super) fn read(&self, read: &Read) -> Result<Slice, ReadError> {
        let mut from = read.from;
        let mut budget = SKIP_BUDGET;
        loop {
            if from >= read.until {
                return Ok(Slice::nothing(from.max(read.from)));
            }
            let Some(segment) = self.segment_for(from, read.times.as_ref()) else {
                return Ok(Slice::nothing(read.until));
            };
            let (base, next, end) = segment.bounds();
            if base >= read.until {
                return Ok(Slice::nothing(read.until));
            }
            from = from.max(base);
            let run = Run {
                read,
                from,
                next,
                end,
            };
            let step = match self.step(&segment, run, &mut budget) {
                // Known from now on, the damage is told only to who comes to it.
                Err(ReadError::Damaged { .. }) if segment.examine(self.files)? == Examined::NewGaps => {
                    continue;
                }
                step => step?,
            };
            match step {
                Step::Again => continue,
                Step::Found(slice) => return Ok(slice),
                Step::Nothing { next_offset } if budget == 0 => {
                    return Ok(Slice::nothing(next_offset));
                }
                // A segment read to its published end without a batch for us: what follows it is next.
                Step::Nothing { next_offset } => from = next_offset.max(next.min(read.until)),
            }
            if matches!(segment, Segment::Active(_)) {
                return Ok(Slice::nothing(from.min(read.until).max(read.from)));
            }
        }
    }

    /// Returns the first segment that ends after `from` and may hold what is wanted.
    fn segment_for(&self, from: Offset, times: Option<&Range<Timestamp>>) -> Option<Segment> {
        let list = self.segments.read();
        let mut index = list.index_at(from);
        let Some(times) = times else { return list.at(index) };
        loop {
            index = list.index_at_time(times.start, index);
            let segment = list.at(index)?;
            if segment.content().least.is_some_and(|least| least < times.end) {
                return Some(segment);
            }
            index += 1;
        }
    }

    /// Returns where to begin in `segment`.
    fn start_in(
        &self,
        segment: &Segment,
        from: Offset,
        times: Option<&Range<Timestamp>>,
    ) -> Result<Start, ReadError> {
        match times {
            Some(times) => segment.start_before_time(self.files, times.start, from),
            None => segment.start_before(self.files, from),
        }
    }

    /// Walks one segment and returns the first run of wanted batches.
    fn step(&self, segment: &Segment, run: Run<'_>, budget: &mut u32) -> Result<Step, ReadError> {
        let (read, from) = (run.read, run.from);
        let start = self.start_in(segment, from, read.times.as_ref())?;
        let mut walk = segment.walk(self.files, start, run.end, from);
        let mut found: Option<Range<u32>> = None;
        let (mut next_offset, mut behind) = (from, None);
        // What lies beyond `until` is not looked at: it may be unsynced, and under repair.
        while next_offset < read.until {
            let (position, header) = match walk.next_header() {
                Ok(Some(next)) => next,
                Ok(None) => {
                    behind = Some(run.next);
                    break;
                }
                // What was found before it is returned; the next read begins at the damage. But what was found last may itself
                // be damaged, and claim the offsets of what is behind it.
                Err(ReadError::Damaged { .. }) if found.is_some() => {
                    match segment.examine(self.files)? == Examined::NewGaps {
                        true => return Ok(Step::Again),
                        false => break,
                    }
                }
                Err(error) => return Err(error),
            };
            behind = Some(header.base_offset);
            if header.base_offset >= read.until {
                break;
            }
            let end = position + header.size_bytes;
            if header.last_offset() < from || !may_match(&header, read.times.as_ref()) {
                if found.is_some() {
                    break;
                }
                next_offset = next_offset.max(header.next_offset().min(read.until));
                if header.last_offset() >= from {
                    *budget = budget.saturating_sub(header.size_bytes);
                }
                if *budget == 0 {
                    return Ok(Step::Nothing { next_offset });
                }
                continue;
            }
            let start = found.as_ref().map_or(position, |found| found.start);
            let fits = usize::try_from(end - start).is_ok_and(|len| len <= read.max_bytes);
            if !fits && (found.is_some() || read.first == FirstBatch::IfItFits) {
                if found.is_none() {
                    return Ok(Step::Found(Slice::nothing(next_offset)));
                }
                break;
            }
            found = Some(start..end);
            next_offset = header.next_offset();
            // Beyond `until` nobody looked: what it says of its end there is not believed.
            behind = (next_offset > read.until).then_some(header.base_offset);
            if !fits {
                if next_offset < read.until {
                    let Some(known) = self.base_behind(segment, walk.next_header(), run.next)? else {
                        return Ok(Step::Again);
                    };
                    behind = known;
                }
                break;
            }
        }
        match found {
            Some(found) => Ok(Step::Found(Slice {
                bytes: read_range(self.files, segment, found)?,
                next_offset,
                behind: behind.unwrap_or(next_offset),
            })),
            None => Ok(Step::Nothing { next_offset }),
        }
    }

    /// Returns where the log goes on behind a batch, by what follows it in a segment that ends before `next`, if that can be
    /// read; nothing when that brought damage to light.
    fn base_behind(
        &self,
        segment: &Segment,
        following: Result<Option<(u32, BatchHeader)>, ReadError>,
        next: Offset,
    ) -> Result<Option<Option<Offset>>, ReadError> {
        match following {
            Ok(following) => Ok(Some(Some(
                following.map_or(next, |(_, header)| header.base_offset),
            ))),
            Err(ReadError::Damaged { .. }) if segment.examine(self.files)? == Examined::NewGaps => Ok(None),
            Err(_) => Ok(Some(None)),
        }
    }

    /// Finds the first record at `from` or later, below `bound`, with timestamp `at` or later.
    pub(super) fn find_time(&self, find: &FindTime) -> Result<Option<Found>, ReadError> {
        let mut index = self.segments.read().index_at(find.from);
        loop {
            let segment = {
                let list = self.segments.read();
                index = list.index_at_time(find.at, index);
                list.at(index)
            };
            let Some(segment) = segment else { return Ok(None) };
            let (base, _, end) = segment.bounds();
            if base >= find.bound {
                return Ok(None);
            }
            let start = segment.start_before_time(self.files, find.at, find.from)?;
            let mut walk = segment.walk(self.files, start, end, find.from);
            while let Some((position, header)) = walk.next_header()? {
                if header.base_offset >= find.bound {
                    return Ok(None);
                }
                let may_hold = header.max_timestamp.is_some_and(|greatest| greatest >= find.at);
                if header.last_offset() < find.from || !may_hold {
                    continue;
                }
                if header.is_control() {
                    continue;
                }
                let bytes = walk.batch(position, &header)?;
                if let Some(found) = first_in_batch(&segment, (position, bytes), find)? {
                    return Ok(Some(found).filter(|found| found.offset < find.bound));
                }
            }
            index += 1;
        }
    }

    /// Returns the greatest timestamp of the segments that reach past `from`, in O(segments).
    pub(super) fn greatest_timestamp(&self, from: Offset) -> Option<Timestamp> {
        let list = self.segments.read();
        (list.index_at(from)..list.len())
            .filter_map(|index| list.at(index))
            .filter_map(|segment| segment.content().greatest)
            .max()
    }

    /// Returns the greatest timestamp of the records in `range`. Reads the headers of segments that lie only partly in it, and
    /// the records of such batches.
    pub(super) fn greatest_within(
        &self,
        range: &Range<Offset>,
        max_decompressed_bytes: u32,
    ) -> Result<Option<Timestamp>, ReadError> {
        let mut greatest = None;
        for segment in snapshot(self.segments) {
            let (base, next, end) = segment.bounds();
            if next <= range.start || base >= range.end || segment.content().greatest <= greatest {
                continue;
            }
            let start = segment.start_before(self.files, range.start)?;
            let mut walk = segment.walk(self.files, start, end, range.start);
            while let Some((position, header)) = walk.next_header()? {
                if header.base_offset >= range.end {
                    break;
                }
                if header.is_control()
                    || header.last_offset() < range.start
                    || header.max_timestamp <= greatest
                {
                    continue;
                }
                greatest = if header.base_offset >= range.start && header.next_offset() <= range.end {
                    header.max_timestamp
                } else {
                    let times = self.times_in(&segment, position, &header, max_decompressed_bytes)?;
                    let inside = times.into_iter().filter(|(offset, _)| range.contains(offset));
                    inside.map(|(_, time)| time).max().max(greatest)
                };
            }
        }
        Ok(greatest)
    }

    /// Offset and time of each record of a batch that has a time.
    fn times_in(
        &self,
        segment: &Segment,
        position: u32,
        header: &BatchHeader,
        max_decompressed_bytes: u32,
    ) -> Result<Vec<(Offset, Timestamp)>, ReadError> {
        let damaged = |damage: crate::record::Damage| ReadError::Damaged {
            path: segment.log_path().to_path_buf(),
            position: u64::from(position),
            lost: None,
            reason: damage.to_string(),
        };
        let bytes = read_range(self.files, segment, position..position + header.size_bytes)?;
        let batch = RecordBatch::parse(bytes).map_err(damaged)?;
        let records = batch
            .records(DecompressLimit(max_decompressed_bytes))
            .map_err(damaged)?;
        let mut times = Vec::new();
        for record in records {
            let record = record.map_err(damaged)?;
            times.extend(record.timestamp.map(|time| (record.offset, time)));
        }
        Ok(times)
    }

    /// Collects the aborted transactions that overlap `range`, by first offset.
    pub(super) fn aborted(&self, range: &Range<Offset>) -> Result<Vec<AbortedTransaction>, ReadError> {
        let mut overlapping = Vec::new();
        let mut index = self.segments.read().index_at(range.start);
        loop {
            let segment = self.segments.read().at(index);
            let Some(segment) = segment else { break };
            let Overlap { transactions, search } = segment.aborted_in(self.files, range)?;
            overlapping.extend(transactions);
            if search == Search::Complete {
                break;
            }
            index += 1;
        }
        overlapping.sort_by_key(|aborted| aborted.first_offset);
        Ok(overlapping)
    }
}

/// What to look for by time.
#[derive(Clone, Copy, Debug)]
pub(super) struct FindTime {
    pub(super) at: Timestamp,
    pub(super) from: Offset,
    pub(super) bound: Offset,
    pub(super) max_decompressed_bytes: u32,
}

/// Looks for a record in the batch at a position.
fn first_in_batch(
    segment: &Segment,
    (position, bytes): (u32, Bytes),
    find: &FindTime,
) -> Result<Option<Found>, ReadError> {
    let damaged = |damage: Damage| ReadError::Damaged {
        path: segment.log_path().to_path_buf(),
        position: u64::from(position),
        lost: None,
        reason: damage.to_string(),
    };
    let parsed = RecordBatch::parse(bytes).map_err(damaged)?;
    let limit = DecompressLimit(find.max_decompressed_bytes);
    first_record(&parsed, find.at, find.from, limit).map_err(damaged)
}

/// Returns the first record of a batch at `from` or later that has a timestamp of `at` or later.
///
/// # Errors
/// What keeps the records from being read.
pub fn first_record(
    batch: &RecordBatch,
    at: Timestamp,
    from: Offset,
    limit: DecompressLimit,
) -> Result<Option<Found>, Damage> {
    for record in batch.records(limit)? {
        let record = record?;
        if let Some(timestamp) = record.timestamp.filter(|timestamp| *timestamp >= at)
            && record.offset >= from
        {
            return Ok(Some(Found {
                offset: record.offset,
                timestamp,
                leader_epoch: batch.header().leader_epoch,
            }));
        }
    }
    Ok(None)
}

struct Run<'a> {
    read: &'a Read,
    from: Offset,
    /// The offset after the segment's last.
    next: Offset,
    /// The segment's published end.
    end: u32,
}

enum Step {
    Found(Slice),
    Nothing {
        next_offset: Offset,
    },
    /// Damage is known that was not known before.
    Again,
}

/// Tells whether a batch may hold records of these times that readers get.
pub fn may_match(header: &BatchHeader, times: Option<&Range<Timestamp>>) -> bool {
    let Some(times) = times else { return true };
    !header.is_control()
        && header
            .max_timestamp
            .is_some_and(|greatest| greatest >= times.start)
}

fn read_range(files: &FileCache, segment: &Segment, range: Range<u32>) -> Result<Bytes, ReadError> {
    read(files, segment.log_path(), range.start, range.end - range.start)
}

/// Returns the segments that lie wholly or partly in the list, as readers hold them.
pub(super) fn snapshot(segments: &RwLock<SegmentList>) -> Vec<Segment> {
    let list = segments.read();
    (0..list.len()).filter_map(|index| list.at(index)).collect()
}

/// Shares a list between readers and the one writer.
pub(super) type SharedSegments = Arc<RwLock<SegmentList>>;
