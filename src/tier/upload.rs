//! Uploading: a sealed segment becomes an object, and the object a line of the manifest.
//!
//! Step by step
//! 1. The manifest already has these offsets: nothing is to be done. (A crash after step 4 comes back here.)
//! 2. The object is put under a key with a new random attempt. If it dies here, or the answer is lost for good: an object, or parts of
//!    one, that nobody names; the next try draws another key, and the sweep finds the old one.
//! 3. The object's length is asked for, and its last bytes are read back: footer and trailer, which have the checksums of all others. If
//!    they differ the object is removed and the upload fails.
//! 4. The next entry of the manifest is created. If it dies here: either the entry is there, and step 1 finds it, or the object is an
//!    orphan as in step 2. A lost answer is told by the bytes ([`super::store`]), a lost race by the winner's epoch ([`super::ledger`]).
//!
//! What a fenced server still uploads lies under a key of its own epoch, and it never gets past step 4.
//!
//! Memory: the parts on their way, [`PARTS_IN_FLIGHT`] of [`PART_BYTES`], and the one that is being read meanwhile. Files are read and
//! checksums made on threads that may block.
//!
//! Invariants
//! - The object's first bytes are the log's, unchanged.
//! - No object is named before it was found whole.
//! - A segment whose batches are not sound makes no object: they are checked as they are read.
//! - Files are opened before the first byte is sent: a segment that is replaced or removed meanwhile is uploaded as it was, and the
//!   manifest decides whether it still fits.
//!
//! What is not here: which segments may go (below the last stable offset and the recovery point), when, and trying again.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;

use super::batch_check::BatchCheck;
use super::error::TierError;
use super::keys::{ObjectId, PartitionKey};
use super::ledger::{Author, Ledger};
use super::manifest::{Manifest, ManifestEdit, TieredSegment};
use super::object::SectionKind;
use super::object_writer::{ObjectFacts, ObjectWriter, Tail};
use super::pace::Pace;
use super::state::Contradiction;
use super::store::{LargePut, Published, TierStore};
use crate::env::{File, Fs, OpenMode};
use crate::storage::SegmentSummary;
use crate::types::Timestamp;

/// Bytes of a part of a large object: more than the 5 MiB that S3 asks for, and 80 GiB in its 10,000 parts.
pub(super) const PART_BYTES: usize = 8 << 20;
/// Parts on their way at the same time.
pub(super) const PARTS_IN_FLIGHT: usize = 4;
/// Segments that go together at most, and their bytes.
const TOGETHER: usize = 8;
const TOGETHER_BYTES: u64 = 32 << 20;

/// A segment that takes no more appends, as its owner hands it over.
#[derive(Clone, Debug)]
pub struct SealedSegment {
    /// Offsets, times and sizes.
    pub summary: SegmentSummary,
    /// Its `.log`, of which as much counts as the summary says.
    pub log: SectionSource,
    /// What goes with it: indexes, producers at its end, epochs up to its end. Empty ones may be left out.
    pub sections: Vec<(SectionKind, SectionSource)>,
}

/// Where the bytes of a section are.
#[derive(Clone, Debug)]
pub enum SectionSource {
    /// In a file, all of it.
    File(PathBuf),
    /// In a file that is open, all of it: whatever becomes of its name.
    Open(Arc<dyn File>),
    /// In memory.
    Bytes(Bytes),
}

/// For one upload.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// On whose behalf.
    pub author: Author,
    /// Drawn at random, new for every try.
    pub attempt: u64,
    /// The present.
    pub now: Timestamp,
}

/// What came of an upload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Uploaded {
    /// The segment is in the bucket, as this.
    Now(TieredSegment),
    /// It was there before.
    Already,
}

/// Puts segments of one disk into one bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Uploader {
    fs: Arc<dyn Fs>,
    store: TierStore,
    pace: Arc<Pace>,
    read: Arc<AtomicU64>,
}

impl Uploader {
    /// Joins a disk and a bucket.
    pub fn new(fs: Arc<dyn Fs>, store: TierStore) -> Self {
        Self {
            fs,
            store,
            pace: Arc::default(),
            read: Arc::default(),
        }
    }

    /// Returns this one with all that it and its clones send held to a pace.
    #[must_use]
    pub fn at_pace(self, pace: Pace) -> Self {
        Self {
            pace: Arc::new(pace),
            ..self
        }
    }

    /// Returns this one with a counter of its own for the bytes that it has taken in so far.
    #[must_use]
    pub fn counted_by(&self, read: Arc<AtomicU64>) -> Self {
        Self { read, ..self.clone() }
    }

    /// Uploads the segment behind all that the manifest has, and writes it down there. When it returns, the segment is durable in the bucket.
    ///
    /// # Errors
    /// [`TierError::Contradiction`] when the segment does not lie behind the others; [`TierError::Fenced`]; [`TierError::Segment`] when a file
    /// cannot be read, [`TierError::SegmentDamaged`] when its batches are not sound; [`TierError::Call`], after which the same segment may be
    /// handed over again.
    pub async fn upload(
        &self,
        partition: &PartitionKey,
        manifest: &mut Ledger<Manifest>,
        segment: &SealedSegment,
        ticket: Ticket,
    ) -> Result<Uploaded, TierError> {
        let one = std::slice::from_ref(segment);
        let mut uploaded = self.upload_all(partition, manifest, one, ticket).await?;
        Ok(uploaded.pop().unwrap_or(Uploaded::Already))
    }

    /// Tells whether segments that follow each other may go together: so many, of so many bytes in all.
    pub fn goes_together(segments: usize, bytes: u64) -> bool {
        segments <= 1 || (segments <= TOGETHER && bytes <= TOGETHER_BYTES)
    }

    /// As [`upload`](Self::upload), of segments that follow each other: all at once, and one entry of the manifest for all of them. Small
    /// segments spend most of their time waiting; those that [`goes_together`](Self::goes_together) allows cost no more memory than a large one.
    ///
    /// # Errors
    /// As [`upload`](Self::upload). Those before the first that failed are in the manifest all the same, those behind it are not.
    pub async fn upload_all(
        &self,
        partition: &PartitionKey,
        manifest: &mut Ledger<Manifest>,
        segments: &[SealedSegment],
        ticket: Ticket,
    ) -> Result<Vec<Uploaded>, TierError> {
        let state = manifest.state();
        let is_new = |segment: &&SealedSegment| !has(state, &segment.summary);
        let new: Vec<&SealedSegment> = segments.iter().filter(is_new).collect();
        let end = state.end();
        if let Some(first) = new.first()
            && !state.segments().is_empty()
            && first.summary.base_offset < end
        {
            return Err(TierError::Contradiction {
                ledger: self.store.name(manifest.path()),
                source: Contradiction(format!(
                    "a segment from offset {} does not lie behind offset {end}",
                    first.summary.base_offset
                )),
            });
        }
        let known = segments.len() - new.len();
        let puts = new.iter().map(|segment| self.put(partition, segment, ticket));
        let (mut tiered, mut failure) = (Vec::new(), None);
        for put in join_all(puts).await {
            match put {
                Ok(put) if failure.is_none() => tiered.push(put),
                // It lies behind a hole. Nobody names it; the sweep finds it if this fails.
                Ok(put) => drop(self.store.delete(&partition.segment(put.id)).await),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let named = self.name_all(partition, manifest, tiered, ticket).await?;
        match failure {
            Some(error) => Err(error),
            None => Ok((0..known).map(|_| Uploaded::Already).chain(named).collect()),
        }
    }

    /// Step 4.
    async fn name_all(
        &self,
        partition: &PartitionKey,
        manifest: &mut Ledger<Manifest>,
        tiered: Vec<TieredSegment>,
        ticket: Ticket,
    ) -> Result<Vec<Uploaded>, TierError> {
        let change = |state: &Manifest| {
            let new = tiered.iter().filter(|segment| !has(state, &segment.summary));
            let edits: Vec<_> = new.cloned().map(ManifestEdit::Added).collect();
            (!edits.is_empty()).then_some(edits)
        };
        if !tiered.is_empty() {
            manifest.append(ticket.author, ticket.now, change).await?;
        }
        let mut uploaded = Vec::new();
        for segment in tiered {
            let known = manifest.state().segments().get(&segment.id.base);
            if known.is_some_and(|known| known.id == segment.id) {
                uploaded.push(Uploaded::Now(segment));
                continue;
            }
            // An earlier try of ours had got through after all. Ours is named by nobody; the sweep finds it if this fails.
            let _ = self.store.delete(&partition.segment(segment.id)).await;
            uploaded.push(Uploaded::Already);
        }
        Ok(uploaded)
    }

    /// Uploads what the cleaner made of `removed`, neighbours in the manifest, and puts it in their place there.
    ///
    /// # Errors
    /// As [`upload`](Self::upload); [`TierError::Contradiction`] when the removed ones are not there.
    pub async fn replace(
        &self,
        partition: &PartitionKey,
        manifest: &mut Ledger<Manifest>,
        replacement: &Replacement,
        ticket: Ticket,
    ) -> Result<Vec<TieredSegment>, TierError> {
        let mut added = Vec::new();
        for segment in &replacement.added {
            added.push(self.put(partition, segment, ticket).await?);
        }
        let change = |state: &Manifest| {
            let is_done = added.iter().any(|segment| {
                let known = state.segments().get(&segment.id.base);
                known.is_some_and(|known| known.id == segment.id)
            });
            (!is_done).then(|| {
                vec![ManifestEdit::Replaced {
                    removed: replacement.removed.clone(),
                    added: added.clone(),
                }]
            })
        };
        manifest.append(ticket.author, ticket.now, change).await?;
        Ok(added)
    }

    /// Puts the object of a segment and makes sure that it is there, steps 2 and 3.
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub async fn put(
        &self,
        partition: &PartitionKey,
        segment: &SealedSegment,
        ticket: Ticket,
    ) -> Result<TieredSegment, TierError> {
        let id = ObjectId {
            base: segment.summary.base_offset,
            epoch: ticket.author.epoch,
            attempt: ticket.attempt,
        };
        let key = partition.segment(id);
        let facts = ObjectFacts {
            partition: partition.clone(),
            id,
            written: ticket.now,
            summary: segment.summary.clone(),
        };
        let intake = self.open(segment, facts).await;
        let intake = intake.map_err(|unread| self.unread(&key, unread))?;
        let tail = self.send(&key, intake).await?;
        self.check(&key, &tail).await?;
        Ok(TieredSegment {
            id,
            object_bytes: tail.object_len(),
            footer_len: tail.trailer.footer_len,
            footer_crc: tail.trailer.footer_crc,
            summary: segment.summary.clone(),
        })
    }

    async fn open(&self, segment: &SealedSegment, facts: ObjectFacts) -> Result<Intake, Unread> {
        let (fs, segment) = (Arc::clone(&self.fs), segment.clone());
        blocking(move || {
            let mut sources = vec![(
                None,
                Source::open(&*fs, segment.log, Some(facts.summary.log_bytes))?,
            )];
            for (kind, source) in segment.sections {
                sources.push((Some(kind), Source::open(&*fs, source, None)?));
            }
            Ok(Intake {
                sources,
                index: 0,
                position: 0,
                check: BatchCheck::of(&facts.summary),
                writer: ObjectWriter::begin(facts),
            })
        })
        .await
    }

    async fn send(&self, key: &str, intake: Intake) -> Result<Tail, TierError> {
        let (intake, first) = self.next_part(key, intake).await?;
        if first.len() == PART_BYTES {
            let mut put = self.store.begin(key).await?;
            let sent = self.send_parts(key, intake, first, &mut put).await;
            if sent.is_err() {
                // The parts cost room until they go; when even this fails, a rule of the bucket removes them.
                let _ = put.abort().await;
            }
            return sent;
        }
        let tail = self.finish(key, intake)?;
        let whole = Bytes::from([&first[..], &tail.bytes].concat());
        match self.store.publish(key, whole).await? {
            Published::Ours => Ok(tail),
            Published::Theirs(_) => Err(TierError::Damaged {
                key: self.store.name(key),
                reason: "an object with another content has this key, which was drawn for one upload only"
                    .to_owned(),
            }),
        }
    }

    async fn send_parts(
        &self,
        key: &str,
        mut intake: Intake,
        first: Vec<u8>,
        put: &mut LargePut,
    ) -> Result<Tail, TierError> {
        let mut on_their_way = FuturesUnordered::new();
        let mut part = first;
        while part.len() == PART_BYTES {
            on_their_way.push(put.put_part(part.into()));
            if on_their_way.len() == PARTS_IN_FLIGHT {
                on_their_way.next().await.transpose()?;
            }
            // Those that are on their way go on only while somebody waits for them.
            let mut read = std::pin::pin!(self.next_part(key, intake));
            (intake, part) = loop {
                tokio::select! {
                    read = &mut read => break read?,
                    Some(sent) = on_their_way.next() => sent?,
                }
            };
        }
        let tail = self.finish(key, intake)?;
        let rest = [&part[..], &tail.bytes].concat();
        let mut rest = Bytes::from(rest);
        // The tail may reach beyond the part that it begins in: all parts but the last are equally long.
        while !rest.is_empty() {
            let now = rest.split_to(rest.len().min(PART_BYTES));
            on_their_way.push(put.put_part(now));
        }
        while let Some(done) = on_their_way.next().await {
            done?;
        }
        match put.complete().await {
            // Whether it was made is seen by looking.
            Err(error) if error.leaves_open() && self.store.len_of(key).await? == Some(tail.object_len()) => {
                Ok(tail)
            }
            done => done.map(|()| tail),
        }
    }

    async fn next_part(&self, key: &str, mut intake: Intake) -> Result<(Intake, Vec<u8>), TierError> {
        let read = blocking(move || {
            let part = intake.next_part()?;
            Ok((intake, part))
        });
        let (intake, part) = read.await.map_err(|unread| self.unread(key, unread))?;
        let bytes = u64::try_from(part.len()).expect("64 bits fit");
        self.pace.take(bytes).await;
        self.read.fetch_add(bytes, Ordering::Relaxed);
        Ok((intake, part))
    }

    fn finish(&self, key: &str, intake: Intake) -> Result<Tail, TierError> {
        intake.writer.finish().map_err(|source| TierError::Unwritable {
            key: self.store.name(key),
            source,
        })
    }

    /// Step 3.
    async fn check(&self, key: &str, tail: &Tail) -> Result<(), TierError> {
        let expected = tail.object_len();
        let found = self.store.len_of(key).await?;
        let reason = if found == Some(expected) {
            let range = tail.trailer.footer_position..expected;
            match self.store.get_range(key, range).await? {
                Some(end) if end == tail.bytes => return Ok(()),
                _ => "its last bytes are not those that were uploaded".to_owned(),
            }
        } else {
            let found = found.map_or("no".to_owned(), |len| len.to_string());
            format!("{found} bytes arrived of the {expected} that were uploaded")
        };
        let _ = self.store.delete(key).await;
        Err(TierError::Damaged {
            key: self.store.name(key),
            reason,
        })
    }

    fn unread(&self, key: &str, unread: Unread) -> TierError {
        let key = self.store.name(key);
        match unread {
            Unread::Io(source) => TierError::Segment { key, source },
            Unread::Damaged(reason) => TierError::SegmentDamaged { key, reason },
        }
    }
}

/// What takes the place of segments in the manifest.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// The objects that go, neighbours, by offset.
    pub removed: Vec<ObjectId>,
    /// What comes, by offset; lies within theirs.
    pub added: Vec<SealedSegment>,
}

/// True when the manifest has just this segment, whichever try brought it there.
fn has(manifest: &Manifest, summary: &SegmentSummary) -> bool {
    manifest
        .segments()
        .get(&summary.base_offset)
        .is_some_and(|known| {
            known.summary.next_offset == summary.next_offset && known.summary.log_bytes == summary.log_bytes
        })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Unread> + Send + 'static,
) -> Result<T, Unread> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(io::Error::other("the thread that read the segment panicked").into()))
}

/// Why a segment does not go on.
#[derive(Debug)]
enum Unread {
    Io(io::Error),
    /// What is wrong with its batches.
    Damaged(String),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[derive(Debug)]
enum Source {
    File { file: Arc<dyn File>, len_bytes: u64 },
    Bytes(Bytes),
}

impl Source {
    fn open(fs: &dyn Fs, source: SectionSource, len_bytes: Option<u64>) -> io::Result<Self> {
        let file = match source {
            SectionSource::Bytes(bytes) => return Ok(Self::Bytes(bytes)),
            SectionSource::Open(file) => file,
            SectionSource::File(path) => fs
                .open(&path, OpenMode::Read)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?,
        };
        let len_bytes = match len_bytes {
            Some(len_bytes) => len_bytes,
            None => file.len_bytes()?,
        };
        Ok(Self::File { file, len_bytes })
    }

    fn len_bytes(&self) -> u64 {
        match self {
            Self::File { len_bytes, .. } => *len_bytes,
            Self::Bytes(bytes) => u64::try_from(bytes.len()).expect("64 bits fit"),
        }
    }

    fn read(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File { file, .. } => file.read_exact_at(buffer, position),
            Self::Bytes(bytes) => {
                let start = usize::try_from(position).expect("what is in memory has a small length");
                buffer.copy_from_slice(&bytes[start..start + buffer.len()]);
                Ok(())
            }
        }
    }
}

/// The bytes of an object up to its footer, in parts, watched by the writer of the footer.
#[derive(Debug)]
struct Intake {
    sources: Vec<(Option<SectionKind>, Source)>,
    index: usize,
    position: u64,
    check: BatchCheck,
    writer: ObjectWriter,
}

impl Intake {
    /// Returns the next part; shorter than [`PART_BYTES`] at the end.
    fn next_part(&mut self) -> Result<Vec<u8>, Unread> {
        let left = self.sources[self.index..]
            .iter()
            .map(|(_, source)| source.len_bytes());
        let left = left.sum::<u64>() - self.position;
        // Made at once, and of zeros that the system has: what is read is written once.
        let mut part = vec![0; usize::try_from(left).unwrap_or(PART_BYTES).min(PART_BYTES)];
        let mut filled = 0;
        while filled < PART_BYTES {
            let Some((_, source)) = self.sources.get(self.index) else {
                break;
            };
            let left = source.len_bytes() - self.position;
            if left == 0 {
                if self.index == 0 {
                    self.check.finish().map_err(Unread::Damaged)?;
                }
                self.index += 1;
                self.position = 0;
                if let Some((Some(kind), _)) = self.sources.get(self.index) {
                    self.writer.section(*kind);
                }
                continue;
            }
            let room = part.len() - filled;
            let len = usize::try_from(left).unwrap_or(room).min(room);
            let place = filled..filled + len;
            source.read(self.position, &mut part[place.clone()])?;
            if self.index == 0 {
                self.check.push(&part[place.clone()]).map_err(Unread::Damaged)?;
            }
            self.writer.write(&part[place]);
            self.position += u64::try_from(len).expect("64 bits fit");
            filled += len;
        }
        Ok(part)
    }
}

#[cfg(test)]
#[path = "upload_tests.rs"]
mod tests;
