//! Cold reads: batches by offset and offsets by time, from segments that are only in the bucket.
//!
//! ```text
//! manifest -> which segment -> footer and trailer    one range, known from the manifest; kept afterwards
//!                           -> page of the time index    one range of at most 96 KiB, for a read by time
//!                           -> page of the offset index  one range of at most 64 KiB; who goes on where a slice ended needs none
//!                           -> window of the log         the parts that it touches: what the reader takes, and a little before it;
//!                                                        ends where the index says that nothing more is wanted; grows when there is
//!                                                        still nothing in it
//!      all by way of a cache that readers share ([`super::chunk_cache`]), which also reads ahead
//! ```
//!
//! The answers are those of a local read (`storage/read.rs`): the same indexes are searched by the same code, and the same rules say which
//! batches belong to an answer. A slice may end earlier, where what was fetched ends.
//!
//! A point lookup fetches footer, pages and one window: less than half a chunk beyond its batch ([`super::object`]). Segments are passed
//! over by the least and greatest timestamps in the manifest: they are not opened.
//!
//! Invariants
//! - Each batch that is returned has had its CRC checked: its bytes went through other hands. What lies outside the CRC is held against the
//!   segment's offsets and the order of batches.
//! - Pages and footers are checked before they are believed. Damage names the object.
//! - Memory, besides the cache: what is asked for at most, or one batch if that is larger.
//! - What turns out damaged is fetched anew by the next read.
//!
//! What is not here: what is kept and fetched ahead, and what a reader may see (the caller bounds it).

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::chunk_cache::{Beyond, CachedObject, ChunkCache, Walked, Wanted};
use super::error::{TierError, Trouble};
use super::keys::PartitionKey;
use super::manifest::{Manifest, TieredSegment};
use super::object::{Footer, ObjectDamage, Section, SectionKind, TRAILER_LEN, Trailer};
use super::store::TierStore;
use crate::record::{BatchHeader, DecompressLimit, HEADER_LEN, RecordBatch};
use crate::storage::{
    AbortedTransaction, FirstBatch, Found, OffsetEntry, OffsetIndex, Read, RelativeOffset, Slice, TimeIndex,
    TxnIndex, first_record, may_match,
};
use crate::types::{Offset, Timestamp};

/// So much is passed over in one call before it returns to say how far it came, in bytes; as a local read.
const SKIP_BUDGET: u64 = 64 << 20;
/// The first window of a walk beyond what was asked for: an index entry lies at most so far before its batch, mostly.
const WINDOW_SLACK: u64 = 16 << 10;
/// The least and the greatest window.
const WINDOW: (u64, u64) = (64 << 10, (4 << 20) + WINDOW_SLACK);
/// A window from which on a page of the index is fetched to see where it may end: a smaller one costs less than a request.
const BOUNDED_WINDOW: u64 = 1 << 20;
/// Slices up to this length are checked where they are read, in bytes: that takes less than going elsewhere.
const CHECKED_AT_ONCE: usize = 256 << 10;
/// Aborted transactions of a segment that are fetched at most, in bytes: two million.
const MAX_TRANSACTIONS_BYTES: u64 = 64 << 20;

/// Reads one partition's segments in the bucket, as one state of the manifest names them.
#[derive(Debug)]
pub struct ColdLog {
    store: TierStore,
    partition: PartitionKey,
    manifest: Arc<Manifest>,
    cache: Arc<ChunkCache>,
    /// What the cache calls the partition.
    name: Arc<str>,
}

/// What to look for by time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FindTime {
    /// A record of this time or later.
    pub at: Timestamp,
    /// At this offset or later.
    pub from: Offset,
    /// Below this offset.
    pub bound: Offset,
    /// A batch that decompresses to more is an error.
    pub max_decompressed_bytes: u32,
}

impl ColdLog {
    /// Makes a reader of what `manifest` names, by way of a cache that any number of readers share.
    pub fn new(
        store: TierStore,
        partition: PartitionKey,
        manifest: Arc<Manifest>,
        cache: Arc<ChunkCache>,
    ) -> Self {
        Self {
            name: store.name(&partition.to_string()).into(),
            store,
            partition,
            manifest,
            cache,
        }
    }

    /// Returns the manifest that it reads by.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Reads batches as a local read does. Where the bucket ends, so does the answer: `next_offset` is at most its end.
    ///
    /// # Errors
    /// [`TierError::Damaged`], [`TierError::Call`]; also when an object is gone, as after a change of the manifest that is not known here.
    pub async fn read(&self, read: &Read) -> Result<Slice, TierError> {
        let until = read.until.min(self.manifest.end());
        let nothing = |next_offset: Offset| Slice::nothing(next_offset.max(read.from));
        let mut from = read.from;
        let mut budget = SKIP_BUDGET;
        let walked = self.cache.walked(&self.name, read.from);
        loop {
            if from >= until {
                return Ok(nothing(from));
            }
            let Some(segment) = self.segment_for(from, read.times.as_ref()) else {
                return Ok(nothing(until));
            };
            if segment.id.base >= until {
                return Ok(nothing(until));
            }
            from = from.max(segment.id.base);
            let end = segment.next_offset().min(until);
            let run = Run {
                read,
                from,
                until,
                walked: &walked,
            };
            let step = self.step(segment, run, &mut budget).await;
            match self.noting(segment, step)? {
                Step::Found(slice, place) => {
                    let len = u64::try_from(slice.bytes.len()).expect("64 bits fit");
                    let bytes = walked.bytes + len;
                    self.cache
                        .walks_on(&self.name, slice.next_offset, Walked { bytes, place });
                    return Ok(slice);
                }
                Step::Nothing { next_offset } if budget == 0 => return Ok(nothing(next_offset)),
                Step::Nothing { next_offset } => from = next_offset.max(end),
            }
        }
    }

    /// Finds the first record that `find` describes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn find_time(&self, find: &FindTime) -> Result<Option<Found>, TierError> {
        let mut from = find.from;
        loop {
            let Some(segment) = self.segment_reaching(from, find.at) else {
                return Ok(None);
            };
            if segment.id.base >= find.bound {
                return Ok(None);
            }
            let found = self.find_in(segment, from, find).await;
            match self.noting(segment, found)? {
                Sought::Found(found) => return Ok(Some(found).filter(|found| found.offset < find.bound)),
                Sought::Beyond => return Ok(None),
                Sought::NotHere => from = segment.next_offset(),
            }
        }
    }

    async fn find_in(
        &self,
        segment: &TieredSegment,
        from: Offset,
        find: &FindTime,
    ) -> Result<Sought, TierError> {
        let cold = self.open(segment).await?;
        let start = cold.position_of(Some(find.at), from).await?;
        let mut walk = cold.walk(start.position);
        while let Some((position, header)) = walk.next_header().await? {
            if header.base_offset >= find.bound {
                return Ok(Sought::Beyond);
            }
            let may_hold = header.max_timestamp.is_some_and(|greatest| greatest >= find.at);
            if header.last_offset() < find.from || !may_hold || header.is_control() {
                continue;
            }
            let bytes = walk
                .range(position..position + u64::from(header.size_bytes))
                .await?;
            if let Some(found) = cold.first_in_batch(bytes, position, find)? {
                return Ok(Sought::Found(found));
            }
        }
        Ok(Sought::NotHere)
    }

    /// Has the cache forget a segment that turned out damaged: the next read fetches it anew.
    fn noting<T>(&self, segment: &TieredSegment, outcome: Result<T, TierError>) -> Result<T, TierError> {
        if let Err(TierError::Damaged { .. }) = &outcome {
            let key = self.partition.segment(segment.id);
            self.cache.forget(&self.store.name(&key).into());
        }
        outcome
    }

    /// Collects the aborted transactions that overlap `range`, by first offset.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn aborted(&self, range: &Range<Offset>) -> Result<Vec<AbortedTransaction>, TierError> {
        let mut overlapping = Vec::new();
        let mut next = self.manifest.segment_at(range.start);
        while let Some(segment) = next {
            let mut decided = false;
            if segment.summary.txn_index_bytes.is_some() {
                let found = async { self.open(segment).await?.aborted().await };
                for aborted in self.noting(segment, found.await)? {
                    if aborted.last_offset >= range.start && aborted.first_offset < range.end {
                        overlapping.push(aborted);
                    }
                    decided |= aborted.last_stable_offset >= range.end;
                }
            }
            if decided {
                break;
            }
            next = self.manifest.segment_at(segment.next_offset());
        }
        overlapping.sort_by_key(|aborted| aborted.first_offset);
        Ok(overlapping)
    }

    fn behind(&self, from: Offset) -> impl Iterator<Item = &TieredSegment> {
        let first = self.manifest.segment_at(from).map(|segment| segment.id.base);
        let range = first.map(|first| self.manifest.segments().range(first..));
        range.into_iter().flatten().map(|(_, segment)| &**segment)
    }

    fn segment_reaching(&self, from: Offset, at: Timestamp) -> Option<&TieredSegment> {
        let late = |segment: &&TieredSegment| {
            segment
                .summary
                .greatest_timestamp
                .is_some_and(|greatest| greatest >= at)
        };
        self.behind(from).find(late)
    }

    fn segment_for(&self, from: Offset, times: Option<&Range<Timestamp>>) -> Option<&TieredSegment> {
        let Some(times) = times else {
            return self.behind(from).next();
        };
        self.behind(from).find(|segment| {
            let summary = &segment.summary;
            summary
                .greatest_timestamp
                .is_some_and(|greatest| greatest >= times.start)
                && summary.least_timestamp.is_some_and(|least| least < times.end)
        })
    }

    async fn open<'a>(&'a self, segment: &'a TieredSegment) -> Result<ColdSegment<'a>, TierError> {
        let object = CachedObject::new(&self.store, &self.partition.segment(segment.id));
        let known = self.cache.footer(&object.name, segment.footer_crc);
        let footer = match known.filter(|footer| footer.summary == segment.summary) {
            Some(footer) => footer,
            None => {
                let range = end_of(&object.name, segment)?;
                let bytes = self.cache.part(&object, range).await?;
                let footer = Arc::new(decode_end(&object.name, &bytes, &self.partition, segment)?);
                self.cache
                    .keep_footer(&object.name, segment.footer_crc, Arc::clone(&footer));
                footer
            }
        };
        Ok(ColdSegment {
            cache: &self.cache,
            object,
            footer,
        })
    }

    /// Returns what a reader comes to behind `segment`.
    fn beyond(&self, segment: &TieredSegment, read: &Read) -> Option<Beyond> {
        let next = self.segment_for(segment.next_offset(), read.times.as_ref())?;
        if next.id.base >= read.until {
            return None;
        }
        let object = CachedObject::new(&self.store, &self.partition.segment(next.id));
        let is_known = self.cache.footer(&object.name, next.footer_crc).is_some();
        let footer = end_of(&object.name, next).ok().filter(|_| !is_known);
        Some(Beyond {
            object,
            footer,
            log_end: next.summary.log_bytes,
        })
    }

    /// Begins to walk a segment where `run` does, by windows of what is asked for.
    async fn walk<'a>(
        &'a self,
        segment: &'a TieredSegment,
        cold: &'a ColdSegment<'a>,
        run: &Run<'a>,
    ) -> Result<Walk<'a>, TierError> {
        let start = match (&run.walked.place, &run.read.times) {
            // Who goes on knows where, without a look into the indexes; they may pass over more only for a search by time.
            (Some((object, position)), None) if *object == cold.object.name => Start {
                position: *position,
                page: None,
            },
            (_, times) => {
                let since = times.as_ref().map(|times| times.start);
                cold.position_of(since, run.from).await?
            }
        };
        let mut walk = cold.walk(start.position);
        walk.next_len = u64::try_from(run.read.max_bytes)
            .expect("64 bits fit")
            .saturating_add(WINDOW_SLACK)
            .clamp(WINDOW.0, WINDOW.1);
        walk.walked = run.walked.bytes;
        if run.until < segment.next_offset() {
            walk.bound = cold.end_before(run.until, &start, walk.next_len).await?;
        }
        walk.goes_on = Some((self, segment, run.read));
        Ok(walk)
    }

    /// Walks one segment and returns the first run of wanted batches.
    async fn step(&self, segment: &TieredSegment, run: Run<'_>, budget: &mut u64) -> Result<Step, TierError> {
        let cold = self.open(segment).await?;
        let mut walk = self.walk(segment, &cold, &run).await?;
        let Run {
            read, from, until, ..
        } = run;
        let mut found: Option<Range<u64>> = None;
        let mut next_offset = from;
        while next_offset < until {
            // What was fetched is enough of an answer; asking for more only to see that it does not fit would be a request.
            if found.is_some() && !walk.has_header() {
                break;
            }
            let Some((position, header)) = walk.next_header().await? else {
                break;
            };
            if header.base_offset >= until {
                break;
            }
            let end = position + u64::from(header.size_bytes);
            // Nor is one whose end would be another.
            if found.is_some() && end > walk.window_end() {
                break;
            }
            if header.last_offset() < from || !may_match(&header, read.times.as_ref()) {
                if found.is_some() {
                    break;
                }
                next_offset = next_offset.max(header.next_offset().min(until));
                if header.last_offset() >= from {
                    *budget = budget.saturating_sub(u64::from(header.size_bytes));
                }
                if *budget == 0 {
                    return Ok(Step::Nothing { next_offset });
                }
                continue;
            }
            let start = found.as_ref().map_or(position, |found| found.start);
            let fits = usize::try_from(end - start).is_ok_and(|len| len <= read.max_bytes);
            if !fits && found.is_some() {
                break;
            }
            if !fits && read.first == FirstBatch::IfItFits {
                return Ok(Step::Found(Slice::nothing(next_offset), None));
            }
            found = Some(start..end);
            next_offset = header.next_offset();
            if !fits {
                break;
            }
        }
        let Some(found) = found else {
            return Ok(Step::Nothing { next_offset });
        };
        let bytes = walk.range(found.clone()).await?;
        cold.check(bytes.clone(), found.start).await?;
        let slice = Slice {
            bytes,
            next_offset,
            behind: next_offset,
        };
        Ok(Step::Found(
            slice,
            Some((Arc::clone(&cold.object.name), found.end)),
        ))
    }
}

struct Run<'a> {
    read: &'a Read,
    from: Offset,
    until: Offset,
    /// How this reader came to where it begins.
    walked: &'a Walked,
}

enum Sought {
    Found(Found),
    /// What comes is beyond the bound.
    Beyond,
    NotHere,
}

enum Step {
    /// And where reading goes on: the object, and the position in it.
    Found(Slice, Option<(Arc<str>, u64)>),
    Nothing {
        next_offset: Offset,
    },
}

/// Fetches the footer of a segment that the manifest names, and holds both against each other.
///
/// # Errors
/// [`TierError::Damaged`], [`TierError::Call`].
pub async fn read_footer(
    store: &TierStore,
    partition: &PartitionKey,
    segment: &TieredSegment,
) -> Result<Footer, TierError> {
    read_end(store, partition, segment)
        .await
        .map(|(footer, _)| footer)
}

/// As [`read_footer`]; also returns the bytes from the footer to the end of the object.
///
/// # Errors
/// As [`read_footer`].
pub(super) async fn read_end(
    store: &TierStore,
    partition: &PartitionKey,
    segment: &TieredSegment,
) -> Result<(Footer, Bytes), TierError> {
    let key = partition.segment(segment.id);
    let name = store.name(&key);
    let bytes = store.get_range(&key, end_of(&name, segment)?).await?;
    let bytes = bytes.ok_or_else(|| TierError::Call {
        operation: "fetch",
        key: name.clone(),
        trouble: Trouble::NotFound,
        source: "a manifest names it".into(),
    })?;
    let footer = decode_end(&name, &bytes, partition, segment)?;
    Ok((footer, bytes))
}

/// Where the footer of a segment begins, and where its object ends.
fn end_of(name: &str, segment: &TieredSegment) -> Result<Range<u64>, TierError> {
    let object_len = segment.object_bytes;
    let start = object_len.checked_sub(u64::from(segment.footer_len) + TRAILER_LEN as u64);
    match start {
        Some(start) => Ok(start..object_len),
        None => Err(TierError::object(name, ObjectDamage::Length { object_len })),
    }
}

/// Reads what lies there, and holds it against the manifest.
fn decode_end(
    name: &str,
    bytes: &Bytes,
    partition: &PartitionKey,
    segment: &TieredSegment,
) -> Result<Footer, TierError> {
    let damaged = |damage: ObjectDamage| TierError::object(name, damage);
    let (inner, trailer) = bytes.split_at(bytes.len() - TRAILER_LEN);
    let trailer = Trailer::decode(trailer, segment.object_bytes).map_err(damaged)?;
    let footer = Footer::decode(inner, &trailer).map_err(damaged)?;
    let is_it = trailer.footer_crc == segment.footer_crc
        && footer.id == segment.id
        && footer.topic_id == partition.topic_id
        && footer.partition == partition.partition
        && footer.summary == segment.summary;
    is_it
        .then_some(footer)
        .ok_or_else(|| damaged(ObjectDamage::Stranger))
}

/// A segment whose footer was read.
struct ColdSegment<'a> {
    cache: &'a Arc<ChunkCache>,
    object: CachedObject,
    footer: Arc<Footer>,
}

impl ColdSegment<'_> {
    fn damaged(&self, reason: String) -> TierError {
        TierError::Damaged {
            key: self.object.name.to_string(),
            reason,
        }
    }

    async fn page(&self, section: &Section, index: usize) -> Result<Bytes, TierError> {
        let Some(range) = section.page(index) else {
            return Ok(Bytes::new());
        };
        let bytes = self.cache.part(&self.object, range).await?;
        section
            .check_page(index, &bytes)
            .map_err(|damage| TierError::object(&self.object.name, damage))?;
        Ok(bytes)
    }

    /// Returns a position before which there is no record of `from` or later that has a timestamp of `at` or later.
    async fn position_of(&self, at: Option<Timestamp>, from: Offset) -> Result<Start, TierError> {
        let base = self.footer.summary.base_offset;
        let mut floor = base;
        if let (Some(at), Some(section)) = (at, self.footer.section(SectionKind::TIME_INDEX))
            && let Some(page) = TimeIndex::trusted(&section.fences)
                .count_not_after(at)
                .checked_sub(1)
        {
            let bytes = self.page(section, page).await?;
            floor = TimeIndex::trusted(&bytes)
                .floor(at)
                .map_or(base, |entry| entry.last_offset.from_base(base));
        }
        let (Some(target), Some(section)) = (
            RelativeOffset::new(from.max(floor), base),
            self.footer.section(SectionKind::OFFSET_INDEX),
        ) else {
            return Ok(Start::default());
        };
        let Some(page) = OffsetIndex::trusted(&section.fences)
            .count_not_after(target)
            .checked_sub(1)
        else {
            return Ok(Start::default());
        };
        // The first entry of a page is known: when it is the one, the page is not.
        let (bytes, page) = if is_exactly(&section.fences, page, target) {
            let fence = page * OffsetEntry::LEN..(page + 1) * OffsetEntry::LEN;
            (section.fences.slice(fence), None)
        } else {
            let bytes = self.page(section, page).await?;
            (bytes.clone(), Some(bytes))
        };
        let position = OffsetIndex::trusted(&bytes).position_before(target);
        Ok(Start {
            position: u64::from(position.0),
            page,
        })
    }

    /// Returns a position behind all batches with records below `until`, as far as the index tells: where its page would cost about as
    /// much as the window that it may save, the end of the log.
    async fn end_before(&self, until: Offset, start: &Start, window: u64) -> Result<u64, TierError> {
        let log_end = self.footer.summary.log_bytes;
        let (Some(last), Some(section)) = (
            RelativeOffset::new(until, self.footer.summary.base_offset)
                .and_then(|until| until.0.checked_sub(1))
                .map(RelativeOffset),
            self.footer.section(SectionKind::OFFSET_INDEX),
        ) else {
            return Ok(log_end);
        };
        let page = match &start.page {
            Some(page) => page.clone(),
            None => {
                let fences = OffsetIndex::trusted(&section.fences);
                let index = fences.count_not_after(last).saturating_sub(1);
                let saves =
                    |page: &Range<u64>| window >= BOUNDED_WINDOW && 2 * (page.end - page.start) < window;
                if section.page(index).filter(saves).is_none() {
                    return Ok(log_end);
                }
                self.page(section, index).await?
            }
        };
        let behind = OffsetIndex::trusted(&page).position_behind(last);
        Ok(behind.map_or(log_end, |position| u64::from(position.0)))
    }

    /// Begins a walk at `position`, by the least windows.
    fn walk(&self, position: u64) -> Walk<'_> {
        let summary = &self.footer.summary;
        Walk {
            cold: self,
            position,
            end: summary.log_bytes,
            bound: summary.log_bytes,
            offsets: summary.base_offset..summary.next_offset,
            window: Bytes::new(),
            window_at: position,
            next_len: WINDOW.0,
            from: position,
            walked: 0,
            goes_on: None,
        }
    }

    async fn aborted(&self) -> Result<Vec<AbortedTransaction>, TierError> {
        let Some(section) = self.footer.section(SectionKind::TRANSACTIONS) else {
            return Ok(Vec::new());
        };
        if section.len_bytes > MAX_TRANSACTIONS_BYTES {
            return Err(self.damaged(format!(
                "it has {} bytes of aborted transactions",
                section.len_bytes
            )));
        }
        let mut bytes = BytesMut::new();
        for page in 0..section.page_crcs.len() {
            bytes.extend_from_slice(&self.page(section, page).await?);
        }
        Ok(TxnIndex::trusted(&bytes).iter().collect())
    }

    /// Checks the batches of a slice; of a large one beside the network threads, on which others wait.
    async fn check(&self, bytes: Bytes, position: u64) -> Result<(), TierError> {
        let checked = if bytes.len() <= CHECKED_AT_ONCE {
            check_batches(bytes, position)
        } else {
            let check = tokio::task::spawn_blocking(move || check_batches(bytes, position));
            check
                .await
                .unwrap_or_else(|_| Err("the check was given up".to_owned()))
        };
        checked.map_err(|reason| self.damaged(reason))
    }

    fn first_in_batch(
        &self,
        bytes: Bytes,
        position: u64,
        find: &FindTime,
    ) -> Result<Option<Found>, TierError> {
        let broken =
            |damage: crate::record::Damage| self.damaged(format!("at position {position}: {damage}"));
        let batch = RecordBatch::parse(bytes).map_err(broken)?;
        batch.verify_crc().map_err(broken)?;
        let limit = DecompressLimit(find.max_decompressed_bytes);
        first_record(&batch, find.at, find.from, limit).map_err(broken)
    }
}

/// Checks batches that lie back to back; says what is wrong with the first that is not sound.
fn check_batches(mut rest: Bytes, position: u64) -> Result<(), String> {
    let mut at = position;
    while !rest.is_empty() {
        let broken = |damage: crate::record::Damage| format!("at position {at}: {damage}");
        let header = BatchHeader::parse(&rest).map_err(broken)?;
        let len = usize::try_from(header.size_bytes).expect("32 bits fit");
        let batch = RecordBatch::parse(rest.split_to(len.min(rest.len()))).map_err(broken)?;
        batch.verify_crc().map_err(broken)?;
        at += u64::from(header.size_bytes);
    }
    Ok(())
}

fn is_exactly(fences: &Bytes, page: usize, target: RelativeOffset) -> bool {
    let fence = &fences[page * OffsetEntry::LEN..(page + 1) * OffsetEntry::LEN];
    OffsetIndex::trusted(fence)
        .last()
        .is_some_and(|entry| entry.last_offset == target)
}

/// Walks batch headers, by windows of the log.
struct Walk<'a> {
    cold: &'a ColdSegment<'a>,
    position: u64,
    end: u64,
    /// Nothing behind it is wanted.
    bound: u64,
    /// What offsets may still come.
    offsets: Range<Offset>,
    window: Bytes,
    window_at: u64,
    next_len: u64,
    /// Where it began, and what was read before that.
    from: u64,
    walked: u64,
    /// For a reader that may come to the next segment.
    goes_on: Option<(&'a ColdLog, &'a TieredSegment, &'a Read)>,
}

/// Where a walk begins, and the page of the offset index that told so.
#[derive(Default)]
struct Start {
    position: u64,
    page: Option<Bytes>,
}

impl Walk<'_> {
    fn window_end(&self) -> u64 {
        self.window_at + u64::try_from(self.window.len()).expect("64 bits fit")
    }

    /// True when the next header was fetched already.
    fn has_header(&self) -> bool {
        let header = u64::try_from(HEADER_LEN).expect("64 bits fit");
        self.position >= self.window_at && self.position + header <= self.window_end()
    }

    async fn next_header(&mut self) -> Result<Option<(u64, BatchHeader)>, TierError> {
        let at = self.position;
        if at >= self.end {
            return Ok(None);
        }
        if self.end - at < u64::try_from(HEADER_LEN).expect("64 bits fit") {
            return Err(self.cold.damaged(format!(
                "{} bytes are left at position {at}, no batch",
                self.end - at
            )));
        }
        if !self.has_header() {
            let bound = if at < self.bound { self.bound } else { self.end };
            // An index that lies may end inside a header.
            let least = at + u64::try_from(HEADER_LEN).expect("64 bits fit");
            let to = at.saturating_add(self.next_len).min(bound).max(least);
            self.window = self.fetch(at..to, least - at).await?;
            self.window_at = at;
            self.next_len = (2 * self.next_len).min(WINDOW.1);
        }
        let within = usize::try_from(at - self.window_at).expect("a window is small");
        let header = BatchHeader::parse(&self.window[within..within + HEADER_LEN])
            .map_err(|damage| self.cold.damaged(format!("at position {at}: {damage}")))?;
        let next = at + u64::from(header.size_bytes);
        let in_place = header.base_offset >= self.offsets.start && header.last_offset() < self.offsets.end;
        if !in_place || next > self.end {
            let (first, last) = (header.base_offset, header.last_offset());
            return Err(self.cold.damaged(format!(
                "at position {at}: a batch of offsets {first} to {last} and {} bytes does not belong there",
                header.size_bytes
            )));
        }
        self.offsets.start = header.next_offset();
        self.position = next;
        Ok(Some((at, header)))
    }

    /// Fetches a range; where the rest would cost a copy, its first part, of `least` bytes or more.
    async fn fetch(&self, range: Range<u64>, least: u64) -> Result<Bytes, TierError> {
        let cold = self.cold;
        let walked = self.walked + (range.start.saturating_sub(self.from));
        let mut ahead = cold.cache.ahead(walked);
        let mut beyond = None;
        if self.bound < self.end {
            ahead = ahead.min(self.bound.saturating_sub(range.end));
        } else if range.end.saturating_add(ahead) > self.end {
            beyond = self
                .goes_on
                .and_then(|(log, segment, read)| log.beyond(segment, read));
        }
        let wanted = Wanted {
            range,
            least,
            ahead,
            log_end: self.end,
            beyond,
        };
        cold.cache.log(&cold.object, wanted).await
    }

    /// Returns bytes that begin in the window; what lies beyond it is fetched.
    async fn range(&self, range: Range<u64>) -> Result<Bytes, TierError> {
        let window_end = self.window_end();
        let len = range.end - range.start;
        if range.start < self.window_at || range.start >= window_end {
            return self.fetch(range, len).await;
        }
        let from = usize::try_from(range.start - self.window_at).expect("a window is small");
        if range.end <= window_end {
            let to = usize::try_from(range.end - self.window_at).expect("a window is small");
            return Ok(self.window.slice(from..to));
        }
        let rest = self.fetch(window_end..range.end, len).await?;
        let mut whole = BytesMut::with_capacity(self.window.len() - from + rest.len());
        whole.extend_from_slice(&self.window[from..]);
        whole.extend_from_slice(&rest);
        Ok(whole.freeze())
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
