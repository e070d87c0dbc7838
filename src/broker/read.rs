//! A read over partitions of one topic, one step at a time.
//!
//! Partitions with something to read take turns, one chunk each. Nothing is read before it is asked for, so a slow reader
//! holds one chunk. A step moves the read on only as it is returned: dropping `next` half way loses nothing.
//!
//! - **End as of the call**: the watermark of each partition when the read is opened.
//! - **Times**: each partition begins at its first record that is late enough; nothing before it can match, whatever the
//!   order of timestamps. From there storage leaves out what its indexes rule out, and `Chunk::records` the rest.
//! - **Progress without records**: steps over long stretches without a match carry positions alone, so that a resume token
//!   moves on; at most one a second.
//! - **Complete** stands on the last step. A read that has nothing to say says so in one empty step.
//! - **Deleted under a read**: the log start may move at any time, also between a plan and its read, which then fails for
//!   want of a file or of a place; the read is planned again, as `cursor` tells.
//!
//! A topic that is deleted under a read, and a server that stops, end it with an error; the last resume token stays good.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};

use crate::storage::{FirstBatch, Read};
use crate::types::{Isolation, Offset, PartitionId, Timestamp};

use super::Error;
use super::budget::BudgetShare;
use super::core::Core;
use super::cursor::{Begin, Cursor, Plan, Starts};
use super::fetch::{Stretch, out_of_range};
use super::requests::{Chunk, Progress, ReadSpec, ReadStep};
use super::served::Served;
use super::topics::Topic;
use super::wait::Wait;

/// Partitions that all open reads of a server read, counted once for each read: about 120 bytes each, with the tokens that name
/// them.
pub(super) const OPEN_POSITIONS_MAX: u64 = 1 << 20;
/// Partitions whose starts are looked up by time at the same time.
const LOOKUPS_AT_ONCE: usize = 16;
/// A step tells of so many partitions that have moved: one without records comes when there are more.
pub const MOVED_MAX: usize = 1_000;
/// A step without records is returned at most so often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// A read under way: see [`super::Broker::open_read`].
#[derive(Debug)]
pub struct ReadStream {
    core: Arc<Core>,
    lanes: Vec<Lane>,
    isolation: Isolation,
    chunk_bytes: usize,
    /// Which lane has its turn next.
    turn: usize,
    /// When the last step was returned.
    last_step: tokio::time::Instant,
    /// Lanes that have come further since.
    moved: BTreeSet<usize>,
    state: State,
    /// While it follows and found nothing.
    wait: Option<Wait<Served>>,
    /// Of [`OPEN_POSITIONS_MAX`].
    _share: BudgetShare,
}

#[derive(Debug)]
struct Lane {
    served: Arc<Served>,
    cursor: Cursor,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Reading,
    Over,
}

/// What the read as a whole needs next.
enum Next {
    Read { lane: usize, range: Range<Offset> },
    Wait,
    Complete,
}

impl Core {
    /// See [`super::Broker::open_read`].
    pub(super) async fn open_read(self: &Arc<Self>, spec: ReadSpec) -> Result<ReadStream, Error> {
        let topic = self.topics.find(&spec.topic)?;
        let partitions = chosen(&topic, &spec)?;
        let count = u64::try_from(partitions.len()).unwrap_or(u64::MAX);
        let share = self.open_positions.take(count)?;
        let mut lanes = Vec::with_capacity(partitions.len());
        let mut look_up = Vec::new();
        let starts = Starts::of(&spec);
        for served in partitions {
            let marks = served.log.watermarks();
            let (mut cursor, begin) = Cursor::begin(&starts, served.id().partition, &marks);
            match begin {
                Begin::At(offset) => cursor.position = offset,
                Begin::OutOfRange(offset) => return Err(out_of_range(&served, offset, &marks)),
                Begin::LookUp(at) => look_up.push((lanes.len(), Arc::clone(&served), at, cursor.position)),
            }
            lanes.push(Lane { served, cursor });
        }
        let found = look_up.into_iter().map(|(lane, served, at, bound)| {
            let core = Arc::clone(self);
            async move {
                let position = core.first_from(&served, at, bound).await?;
                Ok::<_, Error>((lane, position))
            }
            .boxed()
        });
        let found: Vec<_> = found.collect();
        let mut found = stream::iter(found).buffer_unordered(LOOKUPS_AT_ONCE);
        while let Some((lane, position)) = found.try_next().await? {
            lanes[lane].cursor.position = position;
        }
        Ok(ReadStream {
            core: Arc::clone(self),
            lanes,
            isolation: spec.isolation,
            chunk_bytes: spec.chunk_bytes,
            turn: 0,
            last_step: tokio::time::Instant::now(),
            moved: BTreeSet::new(),
            state: State::Reading,
            wait: None,
            _share: share,
        })
    }

    /// Finds the first record below `bound` that is late enough, in what is there: what is deleted under the search is not.
    async fn first_from(
        self: &Arc<Self>,
        served: &Arc<Served>,
        at: Timestamp,
        bound: Offset,
    ) -> Result<Offset, Error> {
        loop {
            let log_start = served.log.watermarks().log_start;
            match self.find_time(served, at, bound).await {
                Ok(found) => return Ok(found.map_or(bound, |found| found.offset)),
                Err(Error::ShuttingDown) => return Err(Error::ShuttingDown),
                Err(_) if served.log.watermarks().log_start > log_start => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Returns the partitions of a read, ascending.
fn chosen(topic: &Topic, spec: &ReadSpec) -> Result<Vec<Arc<Served>>, Error> {
    for (partition, _) in &spec.resume {
        topic.partition(*partition)?;
    }
    if spec.partitions.is_empty() {
        return Ok(topic.partitions.clone());
    }
    let mut numbers = BTreeSet::new();
    for (partition, _) in &spec.partitions {
        if !numbers.insert(*partition) {
            let reason = format!("partition {partition} is named twice in one read");
            return Err(Error::InvalidRequest { reason });
        }
    }
    numbers
        .into_iter()
        .map(|partition| topic.partition(partition).map(Arc::clone))
        .collect()
}

impl ReadStream {
    /// Returns the next step, waiting for records when the read follows; `None` after [`Progress::Complete`]. Cancel safe:
    /// a step that was not returned is not lost.
    ///
    /// # Errors
    /// The read ends with the first error.
    pub async fn next(&mut self) -> Result<Option<ReadStep>, Error> {
        if self.state == State::Over {
            return Ok(None);
        }
        let step = self.step().await;
        match &step {
            Ok(step) if step.progress == Progress::More => {}
            _ => {
                self.state = State::Over;
                self.wait = None;
            }
        }
        step.map(Some)
    }

    async fn step(&mut self) -> Result<ReadStep, Error> {
        loop {
            if !self.core.gate.is_open() {
                return Err(Error::ShuttingDown);
            }
            match self.plan()? {
                Next::Read { lane, range } => {
                    let from = range.start;
                    let chunk = match self.read(lane, range).await {
                        Ok(chunk) => chunk,
                        // Deleted under the read: the plan says whether this read minds.
                        Err(_) if self.lanes[lane].served.log.watermarks().log_start > from => continue,
                        Err(error) => return Err(error),
                    };
                    // From here to the return nothing is awaited: the step counts, or it never was.
                    let found = !chunk.batches.is_empty();
                    self.lanes[lane].cursor.advance(chunk.next_offset);
                    self.moved.insert(lane);
                    self.turn = lane + 1;
                    self.wait = None;
                    let progress = match self.plan() {
                        Ok(Next::Complete) => Progress::Complete,
                        _ => Progress::More,
                    };
                    let due = self.last_step.elapsed() >= PROGRESS_INTERVAL || self.moved.len() >= MOVED_MAX;
                    if found || due || progress == Progress::Complete {
                        return Ok(self.returned(lane, chunk, progress));
                    }
                }
                Next::Complete => {
                    let chunk = self.nothing()?;
                    return Ok(self.returned(0, chunk, Progress::Complete));
                }
                Next::Wait if self.wait.is_none() => {
                    // Registered first, planned again after: what came in between is seen.
                    let places = self
                        .lanes
                        .iter()
                        .map(|lane| (Arc::clone(&lane.served), lane.cursor.position));
                    self.wait = Some(self.core.waits.register(places)?);
                }
                Next::Wait => self.sleep().await,
            }
        }
    }

    /// Says what is next: of the lanes with something to read, the one whose turn it is.
    fn plan(&self) -> Result<Next, Error> {
        let mut waiting = false;
        for step in 0..self.lanes.len() {
            let index = (self.turn + step) % self.lanes.len();
            let Lane { served, cursor } = &self.lanes[index];
            if let Some(error) = served.closed() {
                return Err(error);
            }
            let marks = served.log.watermarks();
            match cursor.plan(&marks, self.isolation) {
                Plan::Read(range) => return Ok(Next::Read { lane: index, range }),
                Plan::Wait => waiting = true,
                Plan::Done => {}
                Plan::Gone => return Err(out_of_range(served, cursor.position, &marks)),
            }
        }
        Ok(if waiting { Next::Wait } else { Next::Complete })
    }

    async fn read(&self, lane: usize, range: Range<Offset>) -> Result<Chunk, Error> {
        let Lane { served, cursor } = &self.lanes[lane];
        let started = Instant::now();
        let stretch = || self.stretch(cursor, range.clone());
        let chunk = self.core.chunk(served, stretch).await?;
        self.core.metrics.fetch_latency.record(started.elapsed());
        self.core
            .metrics
            .fetch_bytes
            .inc_by(u64::try_from(chunk.batches.len()).unwrap_or(u64::MAX));
        if chunk.next_offset <= range.start {
            return Err(Error::Damaged {
                partition: chunk.partition,
                lost: None,
                reason: format!("reading from offset {} makes no progress", range.start),
            });
        }
        Ok(Chunk {
            next_offset: chunk.next_offset.min(range.end),
            ..chunk
        })
    }

    fn stretch(&self, cursor: &Cursor, range: Range<Offset>) -> Stretch {
        Stretch {
            read: Read {
                from: range.start,
                until: range.end,
                times: cursor.times.clone(),
                max_bytes: self.chunk_bytes,
                first: FirstBatch::Whole,
            },
            isolation: self.isolation,
            max_decompressed_bytes: self.core.config.max_decompressed_bytes,
        }
    }

    /// An empty chunk of the first partition, for a read that ends without one.
    fn nothing(&self) -> Result<Chunk, Error> {
        let Lane { served, cursor } = &self.lanes[0];
        let stretch = self.stretch(cursor, cursor.position..cursor.position);
        stretch.chunk(served)
    }

    fn returned(&mut self, lane: usize, chunk: Chunk, progress: Progress) -> ReadStep {
        self.last_step = tokio::time::Instant::now();
        self.moved.insert(lane);
        let moved = std::mem::take(&mut self.moved);
        let stands = |lane: usize| {
            let cursor = &self.lanes[lane].cursor;
            (cursor.partition, cursor.position)
        };
        ReadStep {
            partition: chunk.partition.partition,
            chunk,
            moved: moved.into_iter().map(stands).collect(),
            progress,
        }
    }

    /// Returns where every partition of the read stands after the last step.
    pub fn positions(&self) -> Vec<(PartitionId, Offset)> {
        self.lanes
            .iter()
            .map(|lane| (lane.cursor.partition, lane.cursor.position))
            .collect()
    }

    async fn sleep(&self) {
        let Some(wait) = &self.wait else { return };
        tokio::select! {
            () = wait.rung() => {}
            () = self.core.gate.stopping() => {}
        }
    }
}
