//! One object in depth: every byte of it, against its own footer.
//!
//! ```text
//! log, by windows ---- chunk checksums ---- batches (log_check) ----+---- both indexes, by blocks of pages, as far as the log has come
//!                                                                   '---- what is left of them, and all other sections
//! ```
//!
//! Invariants
//! - The first thing that is wrong ends it, by name of the object.
//! - Memory: a window, one batch, a block of each index; whatever the footer says.
//!
//! What is not here: finding objects, and whether a manifest agrees with the footer ([`super::verify`]).

use std::ops::Range;

use bytes::Bytes;

use super::error::{TierError, Trouble};
use super::log_check::{LogCheck, SeenBatch, TimeCheck, check_offset_entry};
use super::object::{Footer, ObjectDamage, Section, SectionKind, TRAILER_LEN, Trailer};
use super::store::TierStore;
use crate::storage::{OffsetEntry, OffsetIndex, TimeEntry, TimeIndex};

/// Bytes of a log, or of a section, that are fetched at once.
const WINDOW_BYTES: u64 = 2 << 20;
/// Bytes of a page of a section that are taken at most.
const MAX_PAGE_BYTES: u64 = 16 << 20;

/// Reads the footer of an object of which nothing but the key is known.
///
/// # Errors
/// [`TierError::Damaged`], [`TierError::Call`].
pub async fn read_lone_footer(store: &TierStore, key: &str) -> Result<Footer, TierError> {
    let damaged = |damage: ObjectDamage| TierError::object(&store.name(key), damage);
    let not_there = || TierError::Call {
        operation: "fetch",
        key: store.name(key),
        trouble: Trouble::NotFound,
        source: "there is no such object".into(),
    };
    let object_len = store.len_of(key).await?.ok_or_else(not_there)?;
    let trailer_at = object_len
        .checked_sub(TRAILER_LEN as u64)
        .ok_or_else(|| damaged(ObjectDamage::Length { object_len }))?;
    let trailer = store
        .get_range(key, trailer_at..object_len)
        .await?
        .ok_or_else(not_there)?;
    let trailer = Trailer::decode(&trailer, object_len).map_err(damaged)?;
    let footer = store
        .get_range(key, trailer.footer())
        .await?
        .ok_or_else(not_there)?;
    Footer::decode(&footer, &trailer).map_err(damaged)
}

/// Checks every byte of an object that its footer tells of; `read` hears of bytes as they come.
///
/// # Errors
/// [`TierError::Damaged`] with the first thing that is wrong; [`TierError::Call`].
pub async fn check_object(
    store: &TierStore,
    key: &str,
    footer: &Footer,
    read: &(dyn Fn(u64) + Sync),
) -> Result<(), TierError> {
    let object = Object {
        store,
        key,
        footer,
        read,
    };
    object.check().await
}

struct Object<'a> {
    store: &'a TierStore,
    key: &'a str,
    footer: &'a Footer,
    read: &'a (dyn Fn(u64) + Sync),
}

impl Object<'_> {
    async fn check(&self) -> Result<(), TierError> {
        let summary = &self.footer.summary;
        let mut log = LogCheck::of(summary);
        let mut chunks = Chunks::of(self.footer);
        let mut indexes = Indexes {
            object: self,
            offsets: Pages::of(self, SectionKind::OFFSET_INDEX),
            times: Pages::of(self, SectionKind::TIME_INDEX),
            time_check: TimeCheck::of(summary),
        };
        let mut seen = Vec::new();
        let mut position = 0;
        while position < summary.log_bytes {
            let end = (position + WINDOW_BYTES).min(summary.log_bytes);
            let bytes = self.fetch(position..end).await?;
            chunks
                .push(&bytes)
                .map_err(|damage| self.damaged(damage.to_string()))?;
            log.push(&bytes, &mut seen)
                .map_err(|reason| self.damaged(reason))?;
            for batch in seen.drain(..) {
                indexes.pass(&batch).await?;
            }
            position = end;
        }
        log.finish().map_err(|reason| self.damaged(reason))?;
        indexes.finish().await?;
        for section in &self.footer.sections {
            let is_index = [SectionKind::OFFSET_INDEX, SectionKind::TIME_INDEX].contains(&section.kind);
            // The first of a kind is the one that was passed beside the log.
            if is_index && self.footer.section(section.kind) == Some(section) {
                continue;
            }
            let mut pages = Pages::over(self, Some(section));
            while pages.next_block().await? {}
        }
        Ok(())
    }

    async fn fetch(&self, range: Range<u64>) -> Result<Bytes, TierError> {
        let bytes = self.store.get_range(self.key, range.clone()).await?;
        let bytes = bytes.ok_or_else(|| self.damaged("it is gone".to_owned()))?;
        (self.read)(range.end - range.start);
        Ok(bytes)
    }

    fn damaged(&self, reason: String) -> TierError {
        TierError::Damaged {
            key: self.store.name(self.key),
            reason,
        }
    }
}

/// Checksums of chunks, as the log comes by in windows of any length.
pub(super) struct Chunks<'a> {
    footer: &'a Footer,
    index: usize,
    left: u64,
    crc: crc32fast::Hasher,
}

impl<'a> Chunks<'a> {
    pub(super) fn of(footer: &'a Footer) -> Self {
        let mut chunks = Self {
            footer,
            index: 0,
            left: 0,
            crc: crc32fast::Hasher::new(),
        };
        chunks.begin();
        chunks
    }

    fn begin(&mut self) {
        self.crc = crc32fast::Hasher::new();
        let range = self.footer.chunk(self.index);
        self.left = range.map_or(0, |range| range.end - range.start);
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), ObjectDamage> {
        while !bytes.is_empty() {
            let now = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (part, rest) = bytes.split_at(now);
            self.crc.update(part);
            self.left -= u64::try_from(part.len()).expect("64 bits fit");
            bytes = rest;
            if self.left == 0 {
                let found = std::mem::replace(&mut self.crc, crc32fast::Hasher::new()).finalize();
                if self.footer.chunk_crcs.get(self.index) != Some(&found) {
                    return Err(ObjectDamage::Chunk { chunk: self.index });
                }
                self.index += 1;
                self.begin();
            }
        }
        Ok(())
    }
}

/// Both indexes, which go along with the batches of the log.
struct Indexes<'a> {
    object: &'a Object<'a>,
    offsets: Pages<'a>,
    times: Pages<'a>,
    time_check: TimeCheck,
}

impl Indexes<'_> {
    async fn pass(&mut self, batch: &SeenBatch) -> Result<(), TierError> {
        while let Some(entry) = self.offset_entry().await? {
            if u64::from(entry.position.0) > batch.position {
                break;
            }
            self.check_offset(entry, Some(batch))?;
        }
        while let Some(entry) = self.time_entry().await? {
            if !self.time_check.is_before(entry, batch) {
                break;
            }
            self.check_time(entry)?;
        }
        self.time_check.pass(batch);
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), TierError> {
        if let Some(entry) = self.offset_entry().await? {
            self.check_offset(entry, None)?;
        }
        while let Some(entry) = self.time_entry().await? {
            self.check_time(entry)?;
        }
        Ok(())
    }

    async fn offset_entry(&mut self) -> Result<Option<OffsetEntry>, TierError> {
        let entry = self.offsets.entry().await?;
        Ok(entry.and_then(|bytes| OffsetIndex::trusted(bytes).last()))
    }

    async fn time_entry(&mut self) -> Result<Option<TimeEntry>, TierError> {
        let entry = self.times.entry().await?;
        Ok(entry.and_then(|bytes| TimeIndex::trusted(bytes).last()))
    }

    fn check_offset(&mut self, entry: OffsetEntry, batch: Option<&SeenBatch>) -> Result<(), TierError> {
        self.offsets.advance();
        let base = self.object.footer.summary.base_offset;
        check_offset_entry(entry, base, batch).map_err(|reason| self.object.damaged(reason))
    }

    fn check_time(&mut self, entry: TimeEntry) -> Result<(), TierError> {
        self.times.advance();
        self.time_check
            .check(entry)
            .map_err(|reason| self.object.damaged(reason))
    }
}

/// The pages of a section in order, some at a time, each checked.
struct Pages<'a> {
    object: &'a Object<'a>,
    section: Option<&'a Section>,
    next_page: usize,
    block: Bytes,
    /// Bytes of the block that were passed.
    passed: usize,
}

impl<'a> Pages<'a> {
    fn of(object: &'a Object<'a>, kind: SectionKind) -> Self {
        Self::over(object, object.footer.section(kind))
    }

    fn over(object: &'a Object<'a>, section: Option<&'a Section>) -> Self {
        Self {
            object,
            section,
            next_page: 0,
            block: Bytes::new(),
            passed: 0,
        }
    }

    /// Fetches and checks the next pages; false behind the last.
    async fn next_block(&mut self) -> Result<bool, TierError> {
        let Some(section) = self.section else {
            return Ok(false);
        };
        let Some(first) = section.page(self.next_page) else {
            return Ok(false);
        };
        if first.end - first.start > MAX_PAGE_BYTES {
            let len = first.end - first.start;
            let kind = section.kind.0;
            return Err(self
                .object
                .damaged(format!("a page of its section of kind {kind} has {len} bytes")));
        }
        let mut pages = vec![first.clone()];
        while let Some(page) = section.page(self.next_page + pages.len()) {
            if page.end - first.start > WINDOW_BYTES {
                break;
            }
            pages.push(page);
        }
        let end = pages.last().map_or(first.end, |last| last.end);
        self.block = self.object.fetch(first.start..end).await?;
        self.passed = 0;
        for page in pages {
            let at = |position: u64| usize::try_from(position - first.start).expect("a block is small");
            self.check_page(section, &self.block[at(page.start)..at(page.end)])?;
            self.next_page += 1;
        }
        Ok(true)
    }

    fn check_page(&self, section: &Section, bytes: &[u8]) -> Result<(), TierError> {
        let index = self.next_page;
        let damaged = |damage: ObjectDamage| self.object.damaged(damage.to_string());
        section.check_page(index, bytes).map_err(damaged)?;
        let entry = usize::from(section.entry_len);
        let fence = section.fences.get(index * entry..(index + 1) * entry);
        if entry > 0 && fence != bytes.get(..entry) {
            return Err(self.object.damaged(format!(
                "page {index} of its section of kind {} does not begin with the entry that its footer says",
                section.kind.0
            )));
        }
        Ok(())
    }

    /// Returns the next entry without passing it; `None` behind the last.
    async fn entry(&mut self) -> Result<Option<&[u8]>, TierError> {
        let Some(section) = self.section else {
            return Ok(None);
        };
        let len = usize::from(section.entry_len);
        if len == 0 || (self.passed >= self.block.len() && !self.next_block().await?) {
            return Ok(None);
        }
        match self.block.get(self.passed..self.passed + len) {
            Some(entry) => Ok(Some(entry)),
            None => Err(self.object.damaged(format!(
                "its section of kind {} ends inside an entry",
                section.kind.0
            ))),
        }
    }

    fn advance(&mut self) {
        self.passed += self.section.map_or(0, |section| usize::from(section.entry_len));
    }
}
