//! One partition: a log, its watermarks, and the locks that keep readers, the one writer and syncs apart.
//!
//! | lock | guards | held across |
//! |---|---|---|
//! | `repairing` | one repair at a time, and none of a log that is being removed | the whole repair |
//! | `maintenance` | the turn to rewrite or remove safe segments | a whole pass of the cleaner, which gives it back when asked, and lends it to retention between two chunks |
//! | `names` | which files the names of sealed segments lead to, while indexes are written or segments swapped | writing and syncing those files; never by an append or a reader |
//! | `writer` | the append side: active file, producer state, epochs, what is unsynced | the write into the page cache; at the first append after a start, the loading of state |
//! | `segments` | which segments there are | memory work |
//! | `archived` | which of them the archive has | memory work |
//! | `anew` | which of them the cleaner wrote since the start | memory work |
//! | inside `CleanerState` | the cleaner point, the last pass | memory work |
//! | inside `Stand` | whether writes are taken, and why not | memory work |
//! | inside `Watermarks` | six offsets | arithmetic |
//! | `retired` | segments whose files retention has still to remove | memory work |
//! | inside `Turnover` | one exchange of files at a time | renames, and the list of segments; readers come again instead of waiting for it |
//!
//! Invariants
//! - They are taken in this order; never the other way round. Whoever takes `names` of several partitions takes them in the
//!   order of the partitions.
//! - Readers take `segments` and the watermarks only: an append, a roll, a sync or a repair never keeps them waiting.
//! - The log end is published after the batch, the high watermark after its confirmation.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::env::FileCache;
use crate::record::{Accepted, BatchHeader, RecordBatch};
use crate::types::{LeaderEpoch, Offset, Timestamp, TopicId, TopicPartition};

use super::anew::WrittenAnew;
use super::cleaner_state::CleanerState;
use super::config::{Durability, LogConfig};
use super::error::{AppendError, ReadError, StartError, StoreError};
use super::maintenance::Maintenance;
use super::read::{FindTime, Found, Read, Reader, SharedSegments, Slice};
use super::segment::{Sealed, Segment};
use super::standing::Stand;
use super::turnover::Turnover;
use super::watermarks::{Source, WatermarkView, Watermarks};
use super::writer::{Incoming, Names, Readiness, Unsynced, Writer};
use super::{AbortedTransaction, Hold, Marker, Origin, SegmentFacts, Verdict, load, reindex, stamps};

/// One partition's log. All methods may be called from any thread.
#[derive(Debug)]
pub struct Partition {
    pub(super) id: TopicPartition,
    pub(super) topic_id: TopicId,
    pub(super) files: Arc<FileCache>,
    pub(super) epoch: Arc<AtomicI32>,
    pub(super) config: RwLock<Arc<LogConfig>>,
    pub(super) marks: Watermarks,
    pub(super) eras: AtomicU64,
    pub(super) turnover: Turnover,
    pub(super) segments: SharedSegments,
    pub(super) dir: Arc<Path>,
    pub(super) stand: Arc<Stand>,
    pub(super) repairing: Mutex<()>,
    /// Set once the writer is open, for ever.
    pub(super) opened: AtomicBool,
    /// Whether a segment was rolled since somebody asked.
    pub(super) rolled: Arc<AtomicBool>,
    pub(super) writer: Mutex<Writer>,
    /// Segments that retention took out of the list and whose files are still to be removed.
    pub(super) retired: Mutex<Vec<Arc<Sealed>>>,
    pub(super) maintenance: Maintenance,
    pub(super) names: Mutex<()>,
    /// The segments that the archive has, by offset.
    pub(super) archived: RwLock<Arc<[SegmentFacts]>>,
    /// Which segments the cleaner wrote since the start.
    pub(super) anew: Mutex<WrittenAnew>,
    pub(super) cleaner: CleanerState,
}

/// Where a batch came to lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Append {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// Whether it was written now.
    pub written: Written,
    /// The log start offset.
    pub log_start: Offset,
    /// The high watermark after the append.
    pub high_watermark: Offset,
    /// [`Partition::era`] of the append: in a later one the batch may be lost, whatever the high watermark says.
    pub era: u64,
}

/// Whether an append wrote anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// It did.
    Now,
    /// The same producer wrote the same batch before, with this timestamp; the offsets are those of then.
    Before {
        /// Of the batch as it was written.
        timestamp: Option<Timestamp>,
    },
}

/// What a finished sync made safe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Synced {
    /// Everything before it is on disk.
    pub recovery_point: Offset,
    /// Readers see everything before it.
    pub high_watermark: Offset,
}

/// A partition at a glance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionStats {
    /// Its offsets.
    pub watermarks: WatermarkView,
    /// How many segments.
    pub segments: u64,
    /// Bytes of their batches.
    pub size_bytes: u64,
    /// Least timestamp of the records in them.
    pub least_timestamp: Option<Timestamp>,
    /// Greatest timestamp of the records in them.
    pub greatest_timestamp: Option<Timestamp>,
    /// Why it refuses writes, while it does.
    pub refusal: Option<String>,
}

/// A sync that has begun: its number in [`Syncs`], and the files and directories it needs.
#[derive(Debug)]
pub(super) struct SyncTicket {
    number: u64,
    pub(super) work: Unsynced,
}

impl Partition {
    /// Returns topic and number.
    pub fn id(&self) -> &TopicPartition {
        &self.id
    }

    /// Returns the topic's id.
    pub fn topic_id(&self) -> TopicId {
        self.topic_id
    }

    /// Changes the settings, from the next append on. A pass of the cleaner that goes by the old ones is ended first. The lag
    /// promise of what a hold kept counts from `now`, when it ends.
    pub fn configure(&self, config: LogConfig, now: Timestamp) {
        self.marks.set_durability(config.durability);
        let config = Arc::new(config);
        let before = std::mem::replace(&mut *self.config.write(), Arc::clone(&config));
        let same = before.cleanup == config.cleanup
            && before.compaction == config.compaction
            && before.holds == config.holds;
        if same {
            return;
        }
        let _turn = self.maintenance.take();
        for gone in before.holds.iter().filter(|hold| !config.holds.contains(hold)) {
            // What it kept may be shadowed by records that are clean already.
            if let Some(from) = self.held_from(gone) {
                self.cleaner.lower(from, now);
            }
        }
    }

    /// Returns an offset before which the hold keeps nothing that is there; `None` where it keeps nothing of the log. A hold by
    /// time begins with the first segment that has a record of that time.
    pub(super) fn held_from(&self, hold: &Hold) -> Option<Offset> {
        let times = match hold {
            Hold::Offsets(range) => return Some(range.start),
            Hold::Times(times) => times,
        };
        let segments = super::read::snapshot(&self.segments);
        segments.iter().find_map(|segment| {
            let extent = segment.extent();
            let (least, greatest) = extent.content.least.zip(extent.content.greatest)?;
            (least < times.end && times.start <= greatest).then_some(extent.base)
        })
    }

    /// Tells whether the next append has nothing to open first. Looks at memory only; once true it stays so.
    pub fn is_open(&self) -> bool {
        self.opened.load(Ordering::Acquire)
    }

    /// Makes the log ready for appends: its directory, or the producers' state, or nothing when it is ready. May read and
    /// sync a disk: call it off the network threads.
    ///
    /// # Errors
    /// [`AppendError::Refused`] while it refuses writes; what the disk says, and a retry may succeed.
    pub fn open(&self, now: Timestamp) -> Result<(), AppendError> {
        let config = Arc::clone(&self.config.read());
        self.open_writer(now, &config).map(drop)
    }

    /// Appends one batch, without a sync. Blocks for the write into the page cache only; on a log that is not open it does
    /// first what [`Partition::open`] does.
    ///
    /// # Errors
    /// [`AppendError`]; nothing of the batch is then in the log, and with `Storage` and `Refused` a retry may succeed.
    pub fn append(&self, batch: &Accepted, origin: Origin, now: Timestamp) -> Result<Append, AppendError> {
        let config = Arc::clone(&self.config.read());
        let size = batch.header().size_bytes;
        if size > config.segment_bytes {
            let (size_bytes, segment_bytes) = (u64::from(size), u64::from(config.segment_bytes));
            return Err(AppendError::LargerThanSegment {
                size_bytes,
                segment_bytes,
            });
        }
        let mut writer = self.open_writer(now, &config)?;
        if let Some(marker) = control_marker(batch) {
            writer.producers.check_marker(&marker)?;
        }
        let verdict = match stamps::producer_batch(batch.header()).filter(|_| !batch.header().is_control()) {
            Some(producer) => writer.producers.check(&producer, origin)?,
            None => Verdict::Append,
        };
        if let Verdict::Duplicate {
            base_offset,
            last_offset,
            timestamp,
        } = verdict
        {
            return Ok(self.outcome(base_offset, last_offset, Written::Before { timestamp }));
        }
        let epoch = self.leader_epoch();
        let log_end = self.marks.view().log_end;
        let incoming = Incoming { batch, epoch, now };
        let header = writer.write(&incoming, log_end, &config)?;
        self.published(&mut writer, &incoming, &header);
        Ok(self.outcome(header.base_offset, header.last_offset(), Written::Now))
    }

    /// The batch is in the log: producer state, transactions and watermarks follow.
    fn published(&self, writer: &mut Writer, incoming: &Incoming<'_>, header: &BatchHeader) {
        let placed = load::placed(header, incoming.now);
        if let Some(marker) = control_marker(incoming.batch) {
            let completed = writer.producers.apply_marker(&marker, placed);
            if let Some(aborted) = completed.and_then(|completed| completed.aborted()) {
                writer.active().add_aborted(aborted);
            }
        } else if let Some(producer) = stamps::producer_batch(header) {
            writer.producers.apply(&producer, placed);
        }
        writer.producers.advance(header.next_offset());
        let unstable = writer.producers.first_unstable(self.marks.view().high_watermark);
        self.marks.appended(header.next_offset(), unstable);
        let view = self.marks.confirm(Source::Written, header.next_offset());
        self.settle(writer, view);
    }

    /// Lets the last stable offset follow a high watermark that moved.
    fn settle(&self, writer: &mut Writer, view: WatermarkView) {
        writer.producers.release_completed(view.high_watermark);
        self.marks
            .set_first_unstable(writer.producers.first_unstable(view.high_watermark));
    }

    fn outcome(&self, base_offset: Offset, last_offset: Offset, written: Written) -> Append {
        let view = self.marks.view();
        let (log_start, high_watermark) = (view.log_start, view.high_watermark);
        Append {
            base_offset,
            last_offset,
            written,
            log_start,
            high_watermark,
            era: self.era(),
        }
    }

    /// Returns how often a sync of this log has failed. A new era begins before the log end can be confirmed again: a batch of
    /// an earlier one that was not confirmed until then may have been cut, though the high watermark passes its offset.
    pub fn era(&self) -> u64 {
        self.eras.load(Ordering::Acquire)
    }

    /// Takes the append lock, with everything loaded that an append needs.
    pub(super) fn open_writer(
        &self,
        now: Timestamp,
        config: &LogConfig,
    ) -> Result<MutexGuard<'_, Writer>, AppendError> {
        let mut writer = self.writer.lock();
        if let Some(reason) = self.stand.refusal() {
            return Err(AppendError::Refused { reason });
        }
        if writer.readiness != Readiness::Open {
            let view = self.marks.view();
            load::open_for_writing(
                &mut writer,
                view,
                load::Opening {
                    id: &self.id,
                    now,
                    config,
                },
            )?;
            self.opened.store(true, Ordering::Release);
        }
        Ok(writer)
    }

    /// Tells whether it had records once, and its directory was not there at the start and is not made yet.
    pub(super) fn is_gone(&self) -> bool {
        let is_bare = self.marks.view().log_end > Offset::ZERO && self.segments.read().len() == 0;
        is_bare && self.writer.lock().readiness == Readiness::Absent
    }

    /// Returns all offsets.
    pub fn watermarks(&self) -> WatermarkView {
        self.marks.view()
    }

    /// Reads whole batches. May read a disk: call it off the network threads.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] outside log start to log end; damage; what the disk says.
    pub fn read(&self, read: &Read) -> Result<Slice, ReadError> {
        self.turnover.steady(|| {
            self.check_range(read.from)?;
            self.mended(|| self.reader().read(read))
        })
    }

    /// Returns the aborted transactions that may have batches in a range, by first offset, as far as markers on local disk tell.
    /// May read a disk.
    ///
    /// # Errors
    /// Damage; what the disk says.
    pub fn aborted(&self, range: &Range<Offset>) -> Result<Vec<AbortedTransaction>, ReadError> {
        self.turnover.steady(|| self.aborted_now(range))
    }

    /// Reads whole batches, and names the aborted transactions that overlap them, by first offset: both of one state of the log.
    /// May read a disk.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_committed(&self, read: &Read) -> Result<(Slice, Vec<AbortedTransaction>), ReadError> {
        self.turnover.steady(|| {
            self.check_range(read.from)?;
            let slice = self.mended(|| self.reader().read(read))?;
            let aborted = if slice.bytes.is_empty() {
                Vec::new()
            } else {
                self.aborted_now(&(read.from..slice.next_offset))?
            };
            Ok((slice, aborted))
        })
    }

    /// Reads the transaction indexes.
    fn aborted_now(&self, range: &Range<Offset>) -> Result<Vec<AbortedTransaction>, ReadError> {
        self.mended(|| self.reader().aborted(range))
    }

    /// Looks into the log; where that misses an index of transactions that is lost, makes it anew and looks again. Who reads
    /// without transactions comes to one, too, where the other indexes of a segment are lost with it.
    fn mended<T>(&self, look: impl Fn() -> Result<T, ReadError>) -> Result<T, ReadError> {
        match look() {
            Err(error) if reindex::says_transactions_are_lost(&error) => {
                let config = Arc::clone(&self.config.read());
                reindex::mend_aborted(&self.files, &super::read::snapshot(&self.segments), &config)?;
                look()
            }
            found => found,
        }
    }

    fn check_range(&self, offset: Offset) -> Result<(), ReadError> {
        let view = self.marks.view();
        if offset < view.log_start || offset > view.log_end {
            let (log_start, log_end) = (view.log_start, view.log_end);
            return Err(ReadError::OutOfRange {
                offset,
                log_start,
                log_end,
            });
        }
        check_local(offset, &view)
    }

    pub(super) fn reader(&self) -> Reader<'_> {
        Reader {
            files: &self.files,
            segments: &self.segments,
        }
    }

    /// Finds the first record below `bound` with this timestamp or a later one. May read a disk.
    ///
    /// # Errors
    /// [`ReadError::Cold`] when a part of the log is only in the archive; damage; what the disk says.
    pub fn find_time(&self, at: Timestamp, bound: Offset) -> Result<Option<Found>, ReadError> {
        self.find_time_from(at, self.marks.view().log_start, bound)
    }

    /// As [`find_time`](Self::find_time), from an offset on.
    ///
    /// # Errors
    /// [`ReadError::Cold`] when a part of the log from there on is only in the archive; damage; what the disk says.
    pub fn find_time_from(
        &self,
        at: Timestamp,
        from: Offset,
        bound: Offset,
    ) -> Result<Option<Found>, ReadError> {
        self.turnover
            .steady(|| self.mended(|| self.find_time_now(at, from, bound)))
    }

    fn find_time_now(&self, at: Timestamp, from: Offset, bound: Offset) -> Result<Option<Found>, ReadError> {
        let max_decompressed_bytes = self.config.read().max_decompressed_bytes;
        let view = self.marks.view();
        let from = from.max(view.log_start);
        check_local(from, &view)?;
        self.reader().find_time(&FindTime {
            at,
            from,
            bound,
            max_decompressed_bytes,
        })
    }

    /// Finds the first record below `bound` that has the greatest timestamp. May read a disk.
    ///
    /// # Errors
    /// [`ReadError::Cold`] when a part of the log is only in the archive; damage; what the disk says.
    pub fn find_max_timestamp(&self, bound: Offset) -> Result<Option<Found>, ReadError> {
        self.find_max_timestamp_from(self.marks.view().log_start, bound)
    }

    /// As [`find_max_timestamp`](Self::find_max_timestamp), of the records from an offset on.
    ///
    /// # Errors
    /// [`ReadError::Cold`] when a part of the log from there on is only in the archive; damage; what the disk says.
    pub fn find_max_timestamp_from(&self, from: Offset, bound: Offset) -> Result<Option<Found>, ReadError> {
        self.turnover
            .steady(|| self.mended(|| self.find_max_timestamp_now(from, bound)))
    }

    fn find_max_timestamp_now(&self, from: Offset, bound: Offset) -> Result<Option<Found>, ReadError> {
        let view = self.marks.view();
        let from = from.max(view.log_start);
        check_local(from, &view)?;
        let Some(greatest) = self.reader().greatest_timestamp(from) else {
            return Ok(None);
        };
        if let Some(found) = self.find_time_now(greatest, from, bound)? {
            return Ok(Some(found));
        }
        // The greatest of the segments belongs to a record before the log start, or not yet visible.
        let max_decompressed_bytes = self.config.read().max_decompressed_bytes;
        match self
            .reader()
            .greatest_within(&(from..bound), max_decompressed_bytes)?
        {
            Some(greatest) => self.find_time_now(greatest, from, bound),
            None => Ok(None),
        }
    }

    /// Returns the epoch under which the record at `offset` was, or would be, written. May read a disk.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let view = self.marks.view();
        if offset >= view.log_end {
            return Some(self.leader_epoch());
        }
        let mut writer = self.writer.lock();
        load::load_epochs(&mut writer);
        writer.epochs.epoch_for(offset)
    }

    fn leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.epoch.load(Ordering::Acquire))
    }

    /// Raises the log start, at most to the high watermark; a lower one changes nothing. Durable after the next
    /// [`super::Store::checkpoint`]. Returns the log start.
    ///
    /// # Errors
    /// [`StartError`]: beyond the high watermark, or past something held.
    pub fn raise_log_start(&self, to: Offset) -> Result<Offset, StartError> {
        // Held until the start is raised: a hold that comes meanwhile finds it done, or prevents it.
        let config = self.config.read();
        self.start_allowed(to, &config)?;
        Ok(self.marks.raise_log_start(to).log_start)
    }

    /// Says whether [`Partition::raise_log_start`] would be refused now.
    ///
    /// # Errors
    /// As there.
    pub fn may_raise_log_start(&self, to: Offset) -> Result<(), StartError> {
        self.start_allowed(to, &self.config.read())
    }

    fn start_allowed(&self, to: Offset, config: &LogConfig) -> Result<(), StartError> {
        let high_watermark = self.marks.view().high_watermark;
        if to > high_watermark {
            return Err(StartError::BeyondHighWatermark { to, high_watermark });
        }
        match self.held_before(to, config) {
            Some(hold) => Err(StartError::Held { to, hold }),
            None => Ok(()),
        }
    }

    /// Describes it as it is now, from memory.
    pub fn describe(&self) -> PartitionStats {
        let segments = super::read::snapshot(&self.segments);
        let size = |segment: &Segment| u64::from(segment.bounds().2);
        PartitionStats {
            watermarks: self.marks.view(),
            segments: u64::try_from(segments.len()).unwrap_or(u64::MAX),
            size_bytes: segments.iter().map(size).sum(),
            least_timestamp: segments
                .iter()
                .filter_map(|segment| segment.content().least)
                .min(),
            greatest_timestamp: segments
                .iter()
                .filter_map(|segment| segment.content().greatest)
                .max(),
            refusal: self.refusal(),
        }
    }

    /// Returns why it refuses writes, while it does.
    pub fn refusal(&self) -> Option<String> {
        self.stand.refusal()
    }

    /// Refuses writes for good, once a repair under way is done: what follows may take the files away.
    pub(super) fn end(&self, reason: &str) {
        let _no_repair = self.repairing.lock();
        let _writer = self.writer.lock();
        let _before = self.stand.end(reason);
    }

    /// Tells whether something appended should be synced now: always with [`Durability::Synced`], else by `flush.messages`
    /// and `flush.ms`, and once a segment was rolled.
    pub fn sync_due(&self, now: Timestamp) -> SyncDue {
        let config = Arc::clone(&self.config.read());
        let writer = self.writer.lock();
        let unsynced = &writer.unsynced;
        let Some(since) = unsynced.since else {
            return SyncDue::No;
        };
        let due = config.durability == Durability::Synced
            || unsynced.records >= config.flush_messages
            || now.ms_since(since) >= config.flush_ms
            || unsynced.logs.len() > 1;
        match config.flush_ms {
            _ if due => SyncDue::Now,
            i64::MAX => SyncDue::OnAppend,
            _ => SyncDue::InTime,
        }
    }

    /// Begins a sync of everything appended so far; `None` when all of it is safe.
    pub(super) fn begin_sync(&self) -> Option<SyncTicket> {
        let mut writer = self.writer.lock();
        let nothing = writer.unsynced.logs.is_empty() && writer.unsynced.names == Names::Safe;
        if nothing || self.refusal().is_some() {
            return None;
        }
        let work = std::mem::take(&mut writer.unsynced);
        let number = writer.syncs.begin(self.marks.view().log_end);
        Some(SyncTicket { number, work })
    }

    /// Ends a sync: on success its range is safe, on failure the log refuses writes until it is repaired.
    pub(super) fn finish_sync(
        &self,
        ticket: SyncTicket,
        result: Result<(), StoreError>,
    ) -> Result<Synced, StoreError> {
        let mut writer = self.writer.lock();
        if let Err(error) = result {
            let unsafe_from = self.marks.view().recovery_point;
            let reason = format!(
                "{error}; records from offset {unsafe_from} on are read again from disk before writes resume"
            );
            self.stand.refuse(reason);
            self.eras.fetch_add(1, Ordering::AcqRel);
            writer.syncs.forget();
            writer.unsynced.names = writer.unsynced.names.max(ticket.work.names);
            return Err(error);
        }
        let view = match writer.syncs.finish(ticket.number) {
            Some(upto) => self.marks.confirm(Source::Synced, upto),
            None => self.marks.view(),
        };
        self.settle(&mut writer, view);
        Ok(Synced {
            recovery_point: view.recovery_point,
            high_watermark: view.high_watermark,
        })
    }

    /// Returns what is safe now.
    pub(super) fn synced(&self) -> Synced {
        let view = self.marks.view();
        Synced {
            recovery_point: view.recovery_point,
            high_watermark: view.high_watermark,
        }
    }

    /// Forgets producers that were idle for longer than their setting says.
    pub fn expire_producers(&self, now: Timestamp) {
        let expiration_ms = self.config.read().producer_id_expiration_ms;
        let _ = self.writer.lock().producers.expire(now, expiration_ms);
    }

    /// Tells whether a segment was rolled since the last call. Looks at memory only.
    pub fn take_rolled(&self) -> bool {
        self.rolled.load(Ordering::Relaxed) && self.rolled.swap(false, Ordering::AcqRel)
    }

    /// Returns the partition's directory.
    pub fn dir(&self) -> Arc<Path> {
        Arc::clone(&self.dir)
    }
}

/// Refuses an offset of the log that is only in the archive: by the view that says that it is of the log. A log start that
/// rises meanwhile takes the local start along, and what is deleted would pass for archived.
fn check_local(offset: Offset, view: &WatermarkView) -> Result<(), ReadError> {
    let local_start = view.local_start;
    if offset < local_start {
        return Err(ReadError::Cold { offset, local_start });
    }
    Ok(())
}

/// Returns the end of a transaction that a batch of the coordinator says.
fn control_marker(batch: &Accepted) -> Option<Marker> {
    if !batch.header().is_control() {
        return None;
    }
    let control = RecordBatch::parse(batch.bytes().clone())
        .ok()?
        .control_marker()
        .ok()??;
    stamps::marker(batch.header(), control)
}

/// Whether a sync is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncDue {
    /// Now.
    Now,
    /// Not yet, but once `flush.ms` is over.
    InTime,
    /// Not by time: a further append may make it due.
    OnAppend,
    /// Nothing is to be synced.
    No,
}
