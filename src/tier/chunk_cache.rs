//! What cold reads share: parts of objects in memory and on disk, one flight for each, and footers.
//!
//! ```text
//! reader, reader, reader ---- part? ---- in memory ---------------------------- bytes
//!                                |------- on its way: waits with the others ---'
//!                                |------- on disk (`disk_cache`) --------------'
//!                                '------- one request for neighbours that are missing, in a task of its own
//! ```
//!
//! The **part** of a log is a sixteenth of a chunk, [`PART_BYTES`]: a point lookup fetches one or two, and stays below one chunk with index
//! pages and all. A page of an index, or a footer, is a part of its own. What a reader needs is asked for at once; what it may need next,
//! behind that, by a request that nobody waits for. What one request brought is a **run** of parts, and stays one in memory: who
//! gets most of it gets it without a copy, who gets little gets a copy and keeps no run alive. A range over the end of a run would have
//! to be put together: so it ends there if most of it lies before, or if the next run is there for who comes next.
//!
//! **Reading ahead**: a reader that goes on where a slice ended has gone so far already; a sixth of that, at most
//! [`CacheLimits::read_ahead_bytes`], is fetched ahead of it, also over the end of an object. So one that stops has cost at most a sixth
//! more than it got, and a part or two. A new request goes out when half of what should be there is missing: not one for every slice.
//!
//! Invariants
//! - A part is fetched once however many ask for it, and a reader that is cancelled stops nobody else: the fetch is the cache's, not its.
//! - Failures are told to all who wait, and kept by nobody. What turns out damaged is forgotten.
//! - Objects never change, so nothing here grows old, whatever manifest names them.
//! - Memory: [`CacheLimits::memory_bytes`], besides what is on its way, [`CacheLimits::flights`] requests of [`MAX_FLIGHT_BYTES`].
//!
//! The lock guards all fields of [`State`], for memory work only. What is not here: checking what was fetched ([`super::read`]).

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::disk_cache::{DiskCache, PartKey};
use super::error::{TierError, Trouble};
use super::object::{CHUNK_BYTES, Footer};
use super::recent::Recent;
use super::store::TierStore;
use crate::env::Fs;
use crate::types::Offset;

/// Bytes of a part of a log.
pub(super) const PART_BYTES: u64 = 64 << 10;
const _: () = assert!(PART_BYTES * 16 == CHUNK_BYTES as u64);
/// Bytes of one request at most.
const MAX_FLIGHT_BYTES: u64 = 4 << 20;
/// Readers whose way is remembered.
const MAX_WALKS: usize = 1024;
/// Of what a reader has read, so much is fetched ahead of it.
const AHEAD_SHARE: u64 = 6;

/// Bounds of what cold reads keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheLimits {
    /// Parts in memory, in bytes: the default is 64 MiB.
    pub memory_bytes: u64,
    /// Parts on disk, in bytes: the default is 1 GiB.
    pub disk_bytes: u64,
    /// What is fetched ahead of one reader, in bytes: the default is 8 MiB.
    pub read_ahead_bytes: u64,
    /// Requests that are on their way at the same time: the default is 32.
    pub flights: usize,
    /// Footers in memory; one has a few KiB: the default is 1,024.
    pub footers: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            disk_bytes: 1 << 30,
            read_ahead_bytes: 8 << 20,
            flights: 32,
            footers: 1024,
        }
    }
}

/// What came of a fetch.
type Outcome = Option<Result<Bytes, Arc<TierError>>>;

/// A request on its way, and what it brings.
#[derive(Clone, Debug)]
struct Flight {
    range: Range<u64>,
    outcome: watch::Receiver<Outcome>,
}

#[derive(Debug)]
struct State {
    /// What requests brought, by where it begins.
    runs: Recent<PartKey, Run>,
    runs_bytes: u64,
    /// The flight of each part that is on its way.
    flights: HashMap<PartKey, Flight>,
    footers: Recent<(Arc<str>, u32), Arc<Footer>>,
    /// Where readers will go on: partition and offset, and how each came there.
    walks: Recent<(Arc<str>, Offset), Walked>,
    tasks: JoinSet<()>,
}

/// Shared by all cold reads of a server.
#[derive(Debug)]
pub struct ChunkCache {
    limits: CacheLimits,
    state: Mutex<State>,
    permits: Arc<Semaphore>,
    disk: Option<Arc<DiskCache>>,
}

/// A log in an object, as the cache is asked for it.
#[derive(Clone, Debug)]
pub(super) struct CachedObject {
    pub(super) store: TierStore,
    /// Its key below the prefix.
    pub(super) key: Arc<str>,
    /// The same with the bucket.
    pub(super) name: Arc<str>,
}

impl CachedObject {
    pub(super) fn new(store: &TierStore, key: &str) -> Self {
        Self {
            store: store.clone(),
            key: key.into(),
            name: store.name(key).into(),
        }
    }
}

/// How a reader came to where it goes on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Walked {
    /// Bytes that it has read until there, without a gap: 0 for one that begins there.
    pub(super) bytes: u64,
    /// The object that it is in, and the position there.
    pub(super) place: Option<(Arc<str>, u64)>,
}

/// What of a log is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The bytes.
    pub(super) range: Range<u64>,
    /// So many of them are enough, if the rest would cost a copy.
    pub(super) least: u64,
    /// Bytes behind them that may be wanted next.
    pub(super) ahead: u64,
    /// Where the log ends.
    pub(super) log_end: u64,
    /// What comes behind that.
    pub(super) beyond: Option<Beyond>,
}

/// The log that a sequential reader comes to next.
#[derive(Clone, Debug)]
pub(super) struct Beyond {
    pub(super) object: CachedObject,
    /// Where its footer lies, if that is not known yet.
    pub(super) footer: Option<Range<u64>>,
    /// Where it ends.
    pub(super) log_end: u64,
}

/// What one request brought: parts, back to back.
#[derive(Clone, Debug)]
struct Run {
    bytes: Bytes,
    parts: Vec<Range<u64>>,
}

impl ChunkCache {
    /// Makes a cache that keeps nothing on disk.
    pub fn in_memory(limits: CacheLimits) -> Arc<Self> {
        Arc::new(Self::over(limits, None))
    }

    /// Makes a cache that also keeps parts as files in `folder`, which is made, or emptied of what an earlier process left. Blocks.
    ///
    /// # Errors
    /// What the file system says; [`Self::in_memory`] always works.
    pub fn with_folder(limits: CacheLimits, fs: Arc<dyn Fs>, folder: &Path) -> std::io::Result<Arc<Self>> {
        let disk = DiskCache::open(fs, folder, limits.disk_bytes)?;
        Ok(Arc::new(Self::over(limits, Some(Arc::new(disk)))))
    }

    fn over(limits: CacheLimits, disk: Option<Arc<DiskCache>>) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limits.flights.max(1))),
            limits,
            state: Mutex::new(State {
                runs: Recent::new(),
                runs_bytes: 0,
                flights: HashMap::new(),
                footers: Recent::new(),
                walks: Recent::new(),
                tasks: JoinSet::new(),
            }),
            disk,
        }
    }

    /// Returns a range of an object as one part: a page, or a footer.
    ///
    /// # Errors
    /// What the fetch said, to all who waited for it.
    pub(super) async fn part(
        self: &Arc<Self>,
        object: &CachedObject,
        range: Range<u64>,
    ) -> Result<Bytes, TierError> {
        let waiting = self.begin(object, std::slice::from_ref(&range), Urgency::Now);
        self.wait(object, range, waiting).await
    }

    /// Returns a range of a log, or the first part of it, and begins to fetch what lies ahead.
    ///
    /// # Errors
    /// As [`part`](Self::part); what lies ahead fails in silence.
    pub(super) async fn log(
        self: &Arc<Self>,
        object: &CachedObject,
        wanted: Wanted,
    ) -> Result<Bytes, TierError> {
        let Wanted {
            range,
            least,
            ahead,
            log_end,
            beyond,
        } = wanted;
        let range = self.without_copy(object, range, (least, log_end));
        let parts = parts_of(range.start..range.end, log_end);
        // Those that nobody waits for come second, and only where there is room for them.
        let waiting = self.begin(object, &parts, Urgency::Now);
        let covered = parts.last().map_or(range.end, |part| part.end);
        let reach = range.end.saturating_add(ahead);
        self.begin_ahead(object, covered..reach.min(log_end), log_end);
        if let Some(next) = beyond.filter(|_| reach > log_end) {
            if let Some(footer) = next.footer {
                self.begin(&next.object, &[footer], Urgency::Ahead);
            }
            self.begin_ahead(&next.object, 0..(reach - log_end).min(next.log_end), next.log_end);
        }
        self.wait(object, range, waiting).await
    }

    /// Cuts a range to where what one request brings ends, if half of it lies before, or as much behind that is here or on its way.
    fn without_copy(
        &self,
        object: &CachedObject,
        range: Range<u64>,
        (least, log_end): (u64, u64),
    ) -> Range<u64> {
        let len = range.end.saturating_sub(range.start);
        if len <= least.max(PART_BYTES) {
            return range;
        }
        let is_worth = |bytes: u64| 2 * bytes >= len;
        let first = part_at(range.start, log_end);
        let mut state = self.state.lock();
        let end = match state.known(&object.name, &first) {
            Some(known) => known.end(),
            None => first.start + MAX_FLIGHT_BYTES,
        };
        if end >= range.end {
            return range;
        }
        let goes_on = |state: &mut State| {
            let next = state.known(&object.name, &part_at(end, log_end));
            next.is_some_and(|next| is_worth(next.end() - end))
        };
        if is_worth(end - range.start) || goes_on(&mut state) {
            return range.start..end.max(range.start + least);
        }
        range
    }

    /// Sets off for what a reader may come to next, if half of it is neither here nor on its way.
    fn begin_ahead(self: &Arc<Self>, object: &CachedObject, range: Range<u64>, log_end: u64) {
        let end = match range.end {
            end if end >= log_end => log_end,
            end => end - end % PART_BYTES,
        };
        if range.start >= end {
            return;
        }
        let parts = parts_of(range.start..end, log_end);
        let half = &parts[parts.len() / 2];
        let is_known = {
            let mut state = self.state.lock();
            end < log_end && state.known(&object.name, half).is_some()
        };
        if !is_known {
            self.begin(object, &parts, Urgency::Ahead);
        }
    }

    /// Puts a range together from what is here and what comes.
    async fn wait(
        self: &Arc<Self>,
        object: &CachedObject,
        range: Range<u64>,
        waiting: Vec<Waiting>,
    ) -> Result<Bytes, TierError> {
        let mut whole = BytesMut::new();
        let mut at = range.start;
        // Of an empty range there is nothing to wait for.
        let waiting = waiting.into_iter().take_while(|_| !range.is_empty());
        for waiting in waiting {
            let (from, bytes) = match waiting {
                Waiting::Here { start, bytes } => (start, bytes),
                Waiting::For(flight) => {
                    let mut outcome = flight.outcome.clone();
                    let landed = outcome.wait_for(Option::is_some).await;
                    match landed.ok().and_then(|outcome| outcome.clone()) {
                        Some(Ok(bytes)) => (flight.range.start, bytes),
                        Some(Err(error)) => return Err(error.again()),
                        None => return Err(abandoned(&object.name)),
                    }
                }
            };
            let end = range.end.min(from + len(&bytes));
            if at < from || at >= end {
                return Err(abandoned(&object.name));
            }
            let piece = index(at - from)..index(end - from);
            if at == range.start && end == range.end {
                // A slice keeps its whole run in memory, for as long as a client takes to fetch it.
                let is_most = 2 * piece.len() >= bytes.len();
                let found = bytes.slice(piece);
                return Ok(if is_most {
                    found
                } else {
                    Bytes::copy_from_slice(&found)
                });
            }
            if whole.is_empty() {
                whole.reserve(index(range.end - range.start));
            }
            whole.extend_from_slice(&bytes[piece]);
            at = end;
        }
        if at == range.end {
            Ok(whole.freeze())
        } else {
            Err(abandoned(&object.name))
        }
    }

    /// Finds parts, neighbours, or sets off for them: those that are missing side by side with one request.
    fn begin(
        self: &Arc<Self>,
        object: &CachedObject,
        parts: &[Range<u64>],
        urgency: Urgency,
    ) -> Vec<Waiting> {
        let mut state = self.state.lock();
        while state.tasks.try_join_next().is_some() {}
        let mut waiting = Vec::new();
        let mut at = 0;
        while let Some(part) = parts.get(at) {
            if let Some(known) = state.known(&object.name, part) {
                let end = known.end();
                waiting.push(known);
                at += 1;
                while parts.get(at).is_some_and(|next| next.end <= end) {
                    at += 1;
                }
                continue;
            }
            let mut end = at + 1;
            while let Some(next) = parts.get(end)
                && next.end - part.start <= MAX_FLIGHT_BYTES
                && state.known(&object.name, next).is_none()
            {
                end += 1;
            }
            let run = parts[at..end].to_vec();
            at = end;
            if urgency == Urgency::Ahead && self.permits.available_permits() == 0 {
                continue;
            }
            let flight = self.set_off(&mut state, object, run);
            waiting.push(Waiting::For(flight));
        }
        waiting
    }

    fn set_off(self: &Arc<Self>, state: &mut State, object: &CachedObject, parts: Vec<Range<u64>>) -> Flight {
        let (sender, outcome) = watch::channel(None);
        let flight = Flight {
            range: parts[0].start..parts.last().map_or(parts[0].end, |part| part.end),
            outcome,
        };
        for part in &parts {
            let key = (Arc::clone(&object.name), part.start);
            state.flights.insert(key, flight.clone());
        }
        // The tasks are the cache's own: a strong reference would keep it, and them, for ever.
        let (cache, object) = (Arc::downgrade(self), object.clone());
        let (permits, disk) = (Arc::clone(&self.permits), self.disk.clone());
        state.tasks.spawn(async move {
            let _permit = permits.acquire().await;
            let outcome = fetch(&object, &parts, disk.as_ref()).await.map_err(Arc::new);
            if let Some(cache) = cache.upgrade() {
                cache.land(&object, parts, outcome.as_ref().ok());
            }
            let _ = sender.send(Some(outcome));
        });
        flight
    }

    /// Keeps what has come.
    fn land(&self, object: &CachedObject, parts: Vec<Range<u64>>, bytes: Option<&Bytes>) {
        let mut evicted = Vec::new();
        let mut state = self.state.lock();
        for part in &parts {
            state.flights.remove(&(Arc::clone(&object.name), part.start));
        }
        if let Some(bytes) = bytes {
            let run = Run {
                bytes: bytes.clone(),
                parts,
            };
            state.keep(&object.name, run);
        }
        while state.runs_bytes > self.limits.memory_bytes
            && let Some(((name, _), run)) = state.runs.pop()
        {
            state.runs_bytes -= len(&run.bytes);
            evicted.push((name, run));
        }
        if let Some(disk) = &self.disk
            && !evicted.is_empty()
        {
            let disk = Arc::clone(disk);
            let parts = evicted.into_iter().flat_map(|(name, run)| run.into_parts(&name));
            let parts: Vec<_> = parts.collect();
            state.tasks.spawn_blocking(move || disk.store(parts));
        }
    }

    /// Forgets all of an object: what was fetched of it was damaged.
    pub(super) fn forget(&self, name: &Arc<str>) {
        let mut state = self.state.lock();
        let all = (Arc::clone(name), 0)..(Arc::clone(name), u64::MAX);
        for key in state.runs.keys_in(all.clone()) {
            if let Some(run) = state.runs.remove(&key) {
                state.runs_bytes -= len(&run.bytes);
            }
        }
        if let Some(disk) = &self.disk {
            let disk = Arc::clone(disk);
            state.tasks.spawn_blocking(move || disk.forget(all));
        }
    }

    pub(super) fn footer(&self, name: &Arc<str>, crc: u32) -> Option<Arc<Footer>> {
        let mut state = self.state.lock();
        state.footers.get(&(Arc::clone(name), crc)).cloned()
    }

    pub(super) fn keep_footer(&self, name: &Arc<str>, crc: u32, footer: Arc<Footer>) {
        let mut state = self.state.lock();
        state.footers.insert((Arc::clone(name), crc), footer);
        while state.footers.len() > self.limits.footers.max(1) {
            state.footers.pop();
        }
    }

    /// Returns how a reader came that goes on at `offset`; of one that begins there, nothing.
    pub(super) fn walked(&self, partition: &Arc<str>, offset: Offset) -> Walked {
        let mut state = self.state.lock();
        let walked = state.walks.remove(&(Arc::clone(partition), offset));
        walked.unwrap_or_default()
    }

    /// Remembers that a reader will go on at `offset`.
    pub(super) fn walks_on(&self, partition: &Arc<str>, offset: Offset, walked: Walked) {
        let mut state = self.state.lock();
        state.walks.insert((Arc::clone(partition), offset), walked);
        while state.walks.len() > MAX_WALKS {
            state.walks.pop();
        }
    }

    /// Returns how much is fetched ahead of a reader that has read so many bytes.
    pub(super) fn ahead(&self, walked: u64) -> u64 {
        (walked / AHEAD_SHARE).min(self.limits.read_ahead_bytes)
    }
}

impl State {
    /// Finds a part, with its neighbours, or the flight that brings it.
    fn known(&mut self, name: &Arc<str>, part: &Range<u64>) -> Option<Waiting> {
        let key = (Arc::clone(name), part.start);
        let before = self.runs.at_or_before(&key);
        let covers =
            |(found, run): &(&PartKey, &Run)| found.0 == *name && part.end <= found.1 + len(&run.bytes);
        if let Some(found) = before.filter(covers).map(|(found, _)| found.clone())
            && let Some(run) = self.runs.get(&found)
        {
            let bytes = run.bytes.clone();
            return Some(Waiting::Here {
                start: found.1,
                bytes,
            });
        }
        let flight = self.flights.get(&key)?;
        (part.end <= flight.range.end).then(|| Waiting::For(flight.clone()))
    }

    fn keep(&mut self, name: &Arc<str>, run: Run) {
        self.runs_bytes += len(&run.bytes);
        let key = (Arc::clone(name), run.parts[0].start);
        if let Some(before) = self.runs.insert(key, run) {
            self.runs_bytes -= len(&before.bytes);
        }
    }
}

impl Run {
    fn into_parts(self, name: &Arc<str>) -> impl Iterator<Item = (PartKey, Bytes)> + use<> {
        let (name, start) = (Arc::clone(name), self.parts[0].start);
        let part = move |part: Range<u64>| {
            let place = index(part.start - start)..index(part.end - start);
            ((Arc::clone(&name), part.start), self.bytes.slice(place))
        };
        self.parts.into_iter().map(part)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    Now,
    Ahead,
}

enum Waiting {
    Here { start: u64, bytes: Bytes },
    For(Flight),
}

impl Waiting {
    fn end(&self) -> u64 {
        match self {
            Self::Here { start, bytes } => start + len(bytes),
            Self::For(flight) => flight.range.end,
        }
    }
}

/// Fetches a run of neighbours: from disk when all of them are there, else with one request.
async fn fetch(
    object: &CachedObject,
    run: &[Range<u64>],
    disk: Option<&Arc<DiskCache>>,
) -> Result<Bytes, TierError> {
    if let Some(disk) = disk
        && let Some(bytes) = disk.load(&object.name, run).await
    {
        return Ok(bytes);
    }
    let range = run[0].start..run.last().map_or(run[0].end, |part| part.end);
    let bytes = object.store.get_range(&object.key, range).await?;
    bytes.ok_or_else(|| TierError::Call {
        operation: "fetch",
        key: object.name.to_string(),
        trouble: Trouble::NotFound,
        source: "a manifest names it".into(),
    })
}

/// The part of a log that a position lies in.
fn part_at(position: u64, log_end: u64) -> Range<u64> {
    let start = position - position % PART_BYTES;
    start..(start + PART_BYTES).min(log_end)
}

/// The parts of a log that a range touches.
fn parts_of(range: Range<u64>, log_end: u64) -> Vec<Range<u64>> {
    if range.is_empty() {
        return Vec::new();
    }
    let (first, last) = (range.start / PART_BYTES, (range.end - 1) / PART_BYTES);
    let part = |number: u64| number * PART_BYTES..((number + 1) * PART_BYTES).min(log_end.max(range.end));
    (first..=last).map(part).collect()
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("what is in memory fits its addresses")
}

fn len(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).expect("64 bits fit")
}

fn abandoned(name: &str) -> TierError {
    TierError::Call {
        operation: "fetch",
        key: name.to_owned(),
        trouble: Trouble::Unavailable,
        source: "it was given up, as at the end of a server".into(),
    }
}

#[cfg(test)]
#[path = "chunk_cache_tests.rs"]
mod tests;
