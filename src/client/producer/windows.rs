//! The windows of all partitions, and whose turn it is.
//!
//! Invariants
//! - A partition with a batch that may be sent is in `ready`, in the order in which partitions became so: none starves.
//! - Bytes and requests under way are counted here and nowhere else.
//!
//! Pure, as each window is. What is not here: the connection.

use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use tokio::time::Instant;

use super::delivery::News;
use super::window::{EndedAt, Refused, RequestId, SealedBatch, Settled, Verdict, Window};
use crate::client::Error;

/// The most bytes and requests under way, over all partitions.
const IN_FLIGHT_BYTES: usize = 16 << 20;
pub(super) const IN_FLIGHT_REQUESTS: usize = 256;

/// A batch to be sent now.
pub(super) struct Outgoing {
    pub(super) request: RequestId,
    pub(super) partition: usize,
    pub(super) bytes: Bytes,
}

/// What is under way of one request.
struct UnderWay {
    partition: usize,
    bytes: usize,
}

/// All windows of a topic.
pub(super) struct Windows {
    windows: Vec<Window>,
    ready: VecDeque<usize>,
    /// Which are in `ready`.
    queued: BTreeSet<usize>,
    /// Partitions with a batch that is not settled.
    active: BTreeSet<usize>,
    under_way: HashMap<RequestId, UnderWay>,
    bytes_under_way: usize,
    next_request: u64,
}

impl Windows {
    /// Begins with nothing to send.
    pub(super) fn new(partitions: usize) -> Self {
        let mut windows = Vec::new();
        windows.resize_with(partitions, Window::default);
        Self {
            windows,
            ready: VecDeque::new(),
            queued: BTreeSet::new(),
            active: BTreeSet::new(),
            under_way: HashMap::new(),
            bytes_under_way: 0,
            next_request: 0,
        }
    }

    /// Adds a partition's next batch, and returns the bytes taken: none behind the partition's end.
    pub(super) fn push(&mut self, partition: usize, batch: SealedBatch) -> usize {
        let bytes = self.windows[partition].push(batch);
        if bytes > 0 {
            self.active.insert(partition);
            self.make_ready(partition);
        }
        bytes
    }

    /// Returns the next batch to send and counts it as under way; `None` when nothing may be sent now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Outgoing> {
        while let Some(&partition) = self.ready.front() {
            let window = &mut self.windows[partition];
            let Some(batch) = window.peek(now) else {
                self.ready.pop_front();
                self.queued.remove(&partition);
                continue;
            };
            let bytes = batch.bytes.clone();
            let full = self.under_way.len() >= IN_FLIGHT_REQUESTS
                || (self.bytes_under_way > 0 && self.bytes_under_way + bytes.len() > IN_FLIGHT_BYTES);
            if full {
                return None;
            }
            let request = RequestId(self.next_request);
            self.next_request += 1;
            window.mark_sent(request, now);
            self.under_way.insert(
                request,
                UnderWay {
                    partition,
                    bytes: bytes.len(),
                },
            );
            self.bytes_under_way += bytes.len();
            self.ready.rotate_left(1);
            return Some(Outgoing {
                request,
                partition,
                bytes,
            });
        }
        None
    }

    /// Settles a request. `None` when none of this id is under way.
    pub(super) fn acknowledge(&mut self, request: RequestId, now: Instant) -> Option<Settled> {
        let partition = self.answered(request)?;
        let window = &mut self.windows[partition];
        let settled = window.acknowledge(request, now);
        if window.waiting_since().is_none() {
            self.active.remove(&partition);
        } else {
            self.make_ready(partition);
        }
        settled
    }

    /// Takes the refusal of a request.
    pub(super) fn refuse(&mut self, request: RequestId, refused: Refused, now: Instant) -> Verdict {
        let Some(partition) = self.answered(request) else {
            return Verdict::Retry;
        };
        let verdict = self.windows[partition].refuse(request, refused, now);
        self.make_ready(partition);
        verdict
    }

    /// Ends the partition of a request before the record of its batch that was refused. `None` when none of this id is under way.
    pub(super) fn end_before(
        &mut self,
        request: RequestId,
        refused: (u32, &Error),
        now: Instant,
    ) -> Option<EndedAt> {
        let partition = self.answered(request)?;
        let window = &mut self.windows[partition];
        let ended = window.end_before(request, refused, now);
        if window.waiting_since().is_none() {
            self.active.remove(&partition);
        } else {
            self.make_ready(partition);
        }
        ended
    }

    /// Tells all that is not settled that it failed.
    pub(super) fn fail(&self, error: &Error) -> News {
        let mut news = News::default();
        for partition in &self.active {
            news.extend(self.windows[*partition].fail(error));
        }
        news
    }

    /// Notes that the refusal of a request does not say that nothing was written.
    pub(super) fn doubt(&mut self, request: RequestId) {
        if let Some(under_way) = self.under_way.get(&request) {
            self.windows[under_way.partition].doubt(request);
        }
    }

    /// True when something is not settled and may be written all the same.
    pub(super) fn may_be_written(&self) -> bool {
        self.active
            .iter()
            .any(|partition| self.windows[*partition].may_be_written())
    }

    /// Returns how often in a row the partition of a request was refused; `None` when the request is not under way.
    pub(super) fn refusals(&self, request: RequestId) -> Option<u32> {
        let partition = self.under_way.get(&request)?.partition;
        Some(self.windows[partition].refusals())
    }

    /// Makes everything under way to be sent again.
    pub(super) fn connection_lost(&mut self) {
        self.under_way.clear();
        self.bytes_under_way = 0;
        for partition in self.active.clone() {
            self.windows[partition].connection_lost();
            self.make_ready(partition);
        }
    }

    /// Lets partitions whose wait after a refusal is over go on.
    pub(super) fn release_held(&mut self, now: Instant) {
        let due = |window: &Window| window.held_until().is_some_and(|until| until <= now);
        let due: Vec<usize> = self
            .active
            .iter()
            .copied()
            .filter(|partition| due(&self.windows[*partition]))
            .collect();
        due.into_iter().for_each(|partition| self.make_ready(partition));
    }

    /// Returns how many batches each partition ever got.
    pub(super) fn pushed(&self) -> Vec<u64> {
        self.windows.iter().map(Window::pushed).collect()
    }

    /// True when the first `target` batches of each partition are settled.
    pub(super) fn has_settled(&self, target: &[u64]) -> bool {
        self.active
            .iter()
            .all(|partition| self.windows[*partition].popped() >= target[*partition])
    }

    /// True when there is nothing that is not settled.
    pub(super) fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// True while a request's answer is to come.
    pub(super) fn is_under_way(&self, request: RequestId) -> bool {
        self.under_way.contains_key(&request)
    }

    /// Returns the partition of a request whose answer is to come.
    pub(super) fn partition_of(&self, request: RequestId) -> Option<usize> {
        self.under_way.get(&request).map(|under_way| under_way.partition)
    }

    /// Returns the partition whose first unacknowledged record has waited longest, and since when.
    pub(super) fn waiting_since(&self) -> Option<(usize, Instant)> {
        let since = |partition: &usize| Some((*partition, self.windows[*partition].waiting_since()?));
        self.active
            .iter()
            .filter_map(since)
            .min_by_key(|(_, since)| *since)
    }

    /// Returns how many requests were sent and not answered.
    pub(super) fn in_flight_requests(&self) -> usize {
        self.under_way.len()
    }

    fn answered(&mut self, request: RequestId) -> Option<usize> {
        let under_way = self.under_way.remove(&request)?;
        self.bytes_under_way -= under_way.bytes;
        Some(under_way.partition)
    }

    fn make_ready(&mut self, partition: usize) {
        if self.queued.insert(partition) {
            self.ready.push_back(partition);
        }
    }
}
