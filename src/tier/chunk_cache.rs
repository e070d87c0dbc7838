//! What cold reads share: parts of objects in memory and on disk, one flight for each, and footers.
//!
//! ```text
//! reader, reader, reader ---- part? ---- in memory ---------------------------- bytes
//!                                |------- on its way: waits with the others ---'
//!                                |------- on disk (`disk_cache`) --------------'
//!                                '------- one request for neighbours that are missing, in a task of its own
//! ```
//!
//! The **part** of a log is a quarter of a chunk, [`PART_BYTES`]: a point lookup fetches one or two, and stays below one chunk with index
//! pages and all. A page of an index, or a footer, is a part of its own. What a reader needs is asked for at once; what it may need next,
//! behind that, by a request that nobody waits for.
//!
//! **Reading ahead**: a reader that goes on where a slice ended has gone so far already; a sixth of that, at most
//! [`CacheLimits::read_ahead_bytes`], is fetched ahead of it. So one that stops has cost at most a sixth more than it got, and a part or two.
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
pub(super) const PART_BYTES: u64 = 256 << 10;
const _: () = assert!(PART_BYTES * 4 == CHUNK_BYTES as u64);
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

/// A request on its way, and where it begins.
#[derive(Clone, Debug)]
struct Flight {
    start: u64,
    outcome: watch::Receiver<Outcome>,
}

#[derive(Debug)]
struct State {
    parts: Recent<PartKey, Bytes>,
    parts_bytes: u64,
    flights: HashMap<PartKey, Flight>,
    footers: Recent<(Arc<str>, u32), Arc<Footer>>,
    /// Where readers will go on: partition and offset, and how many bytes each has read until there.
    walks: Recent<(Arc<str>, Offset), u64>,
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

/// What of a log is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The bytes.
    pub(super) range: Range<u64>,
    /// Bytes behind them that may be wanted next.
    pub(super) ahead: u64,
    /// Where the log ends.
    pub(super) log_end: u64,
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
                parts: Recent::new(),
                parts_bytes: 0,
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
        let mut parts = self.parts(object, vec![range]).await?;
        Ok(parts.pop().unwrap_or_default())
    }

    /// Returns a range of a log, and begins to fetch what lies ahead.
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
            ahead,
            log_end,
        } = wanted;
        let ahead_end = match range.end.saturating_add(ahead) {
            end if end >= log_end => log_end,
            end => end - end % PART_BYTES,
        };
        let parts = parts_of(range.start..range.end, log_end);
        let covered = parts.last().map_or(range.end, |part| part.end);
        // Those that nobody waits for come second, and only where there is room for them.
        let waiting = self.begin(object, &parts, Urgency::Now);
        if ahead_end > covered {
            self.begin(object, &parts_of(covered..ahead_end, log_end), Urgency::Ahead);
        }
        let pieces = self.wait(object, parts.clone(), waiting).await?;
        let mut whole = BytesMut::new();
        for (part, bytes) in parts.iter().zip(pieces) {
            let from = index(range.start.saturating_sub(part.start)).min(bytes.len());
            let to = index(range.end.min(part.end) - part.start).min(bytes.len());
            if parts.len() == 1 {
                return Ok(bytes.slice(from..to));
            }
            whole.extend_from_slice(&bytes[from..to]);
        }
        Ok(whole.freeze())
    }

    async fn parts(
        self: &Arc<Self>,
        object: &CachedObject,
        parts: Vec<Range<u64>>,
    ) -> Result<Vec<Bytes>, TierError> {
        let waiting = self.begin(object, &parts, Urgency::Now);
        self.wait(object, parts, waiting).await
    }

    async fn wait(
        self: &Arc<Self>,
        object: &CachedObject,
        parts: Vec<Range<u64>>,
        waiting: Vec<Waiting>,
    ) -> Result<Vec<Bytes>, TierError> {
        let mut found = Vec::with_capacity(parts.len());
        for (part, waiting) in parts.into_iter().zip(waiting) {
            let flight = match waiting {
                Waiting::Here(bytes) => {
                    found.push(bytes);
                    continue;
                }
                Waiting::For(flight) => flight,
            };
            let mut outcome = flight.outcome.clone();
            let landed = outcome.wait_for(Option::is_some).await;
            let landed = landed.ok().and_then(|outcome| outcome.clone());
            let bytes = match landed {
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => return Err(error.again()),
                None => return Err(abandoned(&object.name)),
            };
            let at = index(part.start - flight.start);
            let len = index(part.end - part.start);
            let bytes = bytes.get(at..at + len).map(|_| bytes.slice(at..at + len));
            found.push(bytes.ok_or_else(|| abandoned(&object.name))?);
        }
        Ok(found)
    }

    /// Finds each part, or sets off for it: neighbours that are missing with one request.
    fn begin(
        self: &Arc<Self>,
        object: &CachedObject,
        parts: &[Range<u64>],
        urgency: Urgency,
    ) -> Vec<Waiting> {
        let mut state = self.state.lock();
        while state.tasks.try_join_next().is_some() {}
        let mut waiting = Vec::with_capacity(parts.len());
        let mut at = 0;
        while let Some(part) = parts.get(at) {
            let key = (Arc::clone(&object.name), part.start);
            if let Some(known) = state.known(&key, part) {
                waiting.push(known);
                at += 1;
                continue;
            }
            let mut end = at + 1;
            while let Some(next) = parts.get(end)
                && next.end - part.start <= MAX_FLIGHT_BYTES
                && state
                    .known(&(Arc::clone(&object.name), next.start), next)
                    .is_none()
            {
                end += 1;
            }
            let run = parts[at..end].to_vec();
            at = end;
            if urgency == Urgency::Ahead && self.permits.available_permits() == 0 {
                continue;
            }
            let flight = self.set_off(&mut state, object, &run);
            waiting.extend(run.iter().map(|_| Waiting::For(flight.clone())));
        }
        waiting
    }

    fn set_off(self: &Arc<Self>, state: &mut State, object: &CachedObject, run: &[Range<u64>]) -> Flight {
        let (sender, outcome) = watch::channel(None);
        let flight = Flight {
            start: run[0].start,
            outcome,
        };
        for part in run {
            let key = (Arc::clone(&object.name), part.start);
            state.flights.insert(key, flight.clone());
        }
        // The tasks are the cache's own: a strong reference would keep it, and them, for ever.
        let (cache, object, run) = (Arc::downgrade(self), object.clone(), run.to_vec());
        let (permits, disk) = (Arc::clone(&self.permits), self.disk.clone());
        state.tasks.spawn(async move {
            let _permit = permits.acquire().await;
            let outcome = fetch(&object, &run, disk.as_ref()).await.map_err(Arc::new);
            if let Some(cache) = cache.upgrade() {
                cache.land(&object, &run, outcome.as_ref().ok());
            }
            let _ = sender.send(Some(outcome));
        });
        flight
    }

    /// Keeps what has come.
    fn land(&self, object: &CachedObject, run: &[Range<u64>], bytes: Option<&Bytes>) {
        let mut evicted = Vec::new();
        {
            let mut state = self.state.lock();
            for part in run {
                let key = (Arc::clone(&object.name), part.start);
                state.flights.remove(&key);
                let Some(bytes) = bytes else { continue };
                let at = index(part.start - run[0].start);
                let bytes = bytes.slice(at..at + index(part.end - part.start));
                // A slice would keep the whole request in memory.
                let own = if run.len() == 1 {
                    bytes
                } else {
                    Bytes::copy_from_slice(&bytes)
                };
                state.keep(key, own);
            }
            while state.parts_bytes > self.limits.memory_bytes
                && let Some((key, bytes)) = state.parts.pop()
            {
                state.parts_bytes -= len(&bytes);
                evicted.push((key, bytes));
            }
            if let Some(disk) = &self.disk
                && !evicted.is_empty()
            {
                let disk = Arc::clone(disk);
                state.tasks.spawn_blocking(move || disk.store(evicted));
            }
        }
    }

    /// Forgets all of an object: what was fetched of it was damaged.
    pub(super) fn forget(&self, name: &Arc<str>) {
        let mut state = self.state.lock();
        let all = (Arc::clone(name), 0)..(Arc::clone(name), u64::MAX);
        for key in state.parts.keys_in(all.clone()) {
            if let Some(bytes) = state.parts.remove(&key) {
                state.parts_bytes -= len(&bytes);
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

    /// Returns how far a reader has come that goes on at `offset`, in bytes: 0 for one that begins there.
    pub(super) fn walked(&self, partition: &Arc<str>, offset: Offset) -> u64 {
        let mut state = self.state.lock();
        state.walks.remove(&(Arc::clone(partition), offset)).unwrap_or(0)
    }

    /// Remembers that a reader will go on at `offset`.
    pub(super) fn walks_on(&self, partition: &Arc<str>, offset: Offset, bytes: u64) {
        let mut state = self.state.lock();
        state.walks.insert((Arc::clone(partition), offset), bytes);
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
    fn known(&mut self, key: &PartKey, part: &Range<u64>) -> Option<Waiting> {
        if let Some(bytes) = self.parts.get(key)
            && len(bytes) == part.end - part.start
        {
            return Some(Waiting::Here(bytes.clone()));
        }
        self.flights.get(key).cloned().map(Waiting::For)
    }

    fn keep(&mut self, key: PartKey, bytes: Bytes) {
        self.parts_bytes += len(&bytes);
        if let Some(before) = self.parts.insert(key, bytes) {
            self.parts_bytes -= len(&before);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    Now,
    Ahead,
}

enum Waiting {
    Here(Bytes),
    For(Flight),
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
