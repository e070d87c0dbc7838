//! The batches of one partition that are not acknowledged yet, in order.
//!
//! ```text
//!   front                          back
//!   | Settled | Sent | Sent | Waiting | Waiting ... |
//!   '-------- at most 5 ----------'
//! ```
//!
//! Invariants
//! - Batches are sent in order of their sequence, and again in that order after any failure.
//! - Nothing beyond the fifth place is sent: the server remembers a producer's last five batches, so whatever is sent
//!   again is known to it, if it was written, and is not written twice. A settled batch keeps its place until all
//!   before it are settled.
//! - After a refusal nothing is sent until every answer under way has come in; then all that is not settled goes again.
//! - When one record is refused for good, the window ends before it: what was sent before the record is written, and nothing
//!   that came after it.
//! - Until a partition has acknowledged a batch lately, one batch at a time is under way: a server without memory of the
//!   producer takes any first sequence, so a second batch could slip in before a refused first one.
//!
//! Pure: time comes in, what to send goes out. What is not here: connections, and limits over many partitions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::delivery::{Fate, News};
use super::prefix::prefix;
use crate::client::later::later;
use crate::client::{Error, Written};

/// The batches of a producer and partition that a server remembers (Kafka's rule).
const REMEMBERED: usize = 5;
/// A server forgets a producer after a day without a batch; far less than that is safe.
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);

/// A request's id on the stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct RequestId(pub(super) u64);

/// A finished batch.
#[derive(Clone, Debug)]
pub(super) struct SealedBatch {
    /// The batch as it is sent.
    pub(super) bytes: Bytes,
    /// Its first sequence and count live in the bytes; this is for the summary.
    pub(super) records: u32,
    /// Bytes of keys and values before compression, for the summary.
    pub(super) payload_bytes: u64,
    /// When its first record came.
    pub(super) opened_at: Instant,
    /// The callers' numbers of its records, or none.
    pub(super) places: Vec<u64>,
    /// Who waits for its records is told by this.
    pub(super) fate: Arc<Fate>,
}

impl SealedBatch {
    /// Returns the caller's number of a record.
    fn place(&self, index: u32) -> Option<u64> {
        let numbered = u32::try_from(self.places.len()).is_ok_and(|len| len == self.records);
        let place = self.places.get(usize::try_from(index).ok()?)?;
        numbered.then_some(*place)
    }
}

/// What came of ending a window at a record.
#[derive(Debug)]
pub(super) struct EndedAt {
    /// The refusal, as that of the record.
    pub(super) error: Error,
    /// The caller's number of the record.
    pub(super) place: Option<u64>,
    /// Bytes that the window held, and those that it holds now.
    pub(super) bytes_before: usize,
    pub(super) bytes_after: usize,
    /// To be told.
    pub(super) news: News,
}

/// What one acknowledgement settled.
#[derive(Clone, Debug)]
pub(super) struct Settled {
    /// Records of the batch.
    pub(super) records: u32,
    /// Bytes of their keys and values.
    pub(super) payload_bytes: u64,
    /// Bytes that the batch held.
    pub(super) batch_bytes: usize,
    /// To be told.
    pub(super) fate: Arc<Fate>,
}

/// Why a batch was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// It may succeed after this wait.
    Later(Duration),
    /// Its sequence is not the next: a batch before it is missing.
    OutOfOrder,
    /// It will never succeed.
    Never,
}

/// What follows from a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It will be sent again.
    Retry,
    /// The partition cannot go on: what comes after would leave a gap.
    Fatal,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waiting,
    Sent(RequestId),
    Settled,
}

struct Entry {
    batch: SealedBatch,
    state: State,
    /// It was sent once and no answer says that it was not written.
    may_be_written: bool,
}

impl Entry {
    /// True when it is not settled and may be written all the same.
    fn is_in_doubt(&self) -> bool {
        match self.state {
            State::Sent(_) => true,
            State::Waiting => self.may_be_written,
            State::Settled => false,
        }
    }
}

/// Whether a window takes more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum End {
    #[default]
    Open,
    /// A record was refused: what comes after it is not wanted.
    Reached,
}

/// The unacknowledged batches of one partition.
#[derive(Default)]
pub(super) struct Window {
    entries: VecDeque<Entry>,
    /// Batches ever pushed, and ever popped from the front.
    pushed: u64,
    popped: u64,
    /// Set by a refusal: nothing is sent before this time, nor while an answer is under way.
    held_until: Option<Instant>,
    acknowledged_at: Option<Instant>,
    refusals: u32,
    end: End,
}

impl Window {
    /// Adds the next batch, and returns the bytes taken: none behind the end.
    pub(super) fn push(&mut self, batch: SealedBatch) -> usize {
        if self.end == End::Reached {
            return 0;
        }
        let bytes = batch.bytes.len();
        self.entries.push_back(Entry {
            batch,
            state: State::Waiting,
            may_be_written: false,
        });
        self.pushed += 1;
        bytes
    }

    /// Returns the batch to send now, without marking it.
    pub(super) fn peek(&self, now: Instant) -> Option<&SealedBatch> {
        self.next(now).map(|entry| &self.entries[entry].batch)
    }

    /// Marks the batch that [`Window::peek`] shows as sent under `request`.
    pub(super) fn mark_sent(&mut self, request: RequestId, now: Instant) {
        if let Some(entry) = self.next(now) {
            self.held_until = None;
            self.entries[entry].state = State::Sent(request);
        }
    }

    fn next(&self, now: Instant) -> Option<usize> {
        if self
            .held_until
            .is_some_and(|until| now < until || self.awaits_answer())
        {
            return None;
        }
        let remembered = self
            .acknowledged_at
            .is_some_and(|at| now.saturating_duration_since(at) < REMEMBERED_FOR);
        let places = if remembered { REMEMBERED } else { 1 };
        self.entries
            .iter()
            .take(places)
            .position(|entry| entry.state == State::Waiting)
    }

    /// Settles the batch sent under `request`. `None` when there is no such batch.
    pub(super) fn acknowledge(&mut self, request: RequestId, now: Instant) -> Option<Settled> {
        let entry = self
            .entries
            .iter_mut()
            .find(|entry| entry.state == State::Sent(request))?;
        entry.state = State::Settled;
        let bytes = std::mem::take(&mut entry.batch.bytes);
        let settled = Settled {
            records: entry.batch.records,
            payload_bytes: entry.batch.payload_bytes,
            batch_bytes: bytes.len(),
            fate: entry.batch.fate.clone(),
        };
        self.acknowledged_at = Some(now);
        self.refusals = 0;
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.state == State::Settled)
        {
            self.entries.pop_front();
            self.popped += 1;
        }
        Some(settled)
    }

    /// Takes the refusal of the batch sent under `request`.
    pub(super) fn refuse(&mut self, request: RequestId, refused: Refused, now: Instant) -> Verdict {
        let sent = State::Sent(request);
        let Some(place) = self.entries.iter().position(|entry| entry.state == sent) else {
            return Verdict::Retry;
        };
        let delay = match refused {
            Refused::Never => return Verdict::Fatal,
            // The batches before a gap settle first; the first of the window has none before it that could.
            Refused::OutOfOrder if place == 0 => return Verdict::Fatal,
            Refused::OutOfOrder => Duration::ZERO,
            Refused::Later(delay) => {
                self.refusals = self.refusals.saturating_add(1);
                delay
            }
        };
        self.entries[place].state = State::Waiting;
        self.held_until = self.held_until.max(Some(later(now, delay)));
        Verdict::Retry
    }

    /// Ends the window before record `index` of the batch sent under `request`, which was refused because of it: the records
    /// before it stay to be sent, all behind them goes. `None` when there is no such batch.
    pub(super) fn end_before(
        &mut self,
        request: RequestId,
        (index, error): (u32, &Error),
        now: Instant,
    ) -> Option<EndedAt> {
        let sent = State::Sent(request);
        let at = self.entries.iter().position(|entry| entry.state == sent)?;
        let place = self.entries[at].batch.place(index);
        let error = error.clone().of_record(place);
        let held = |entries: &VecDeque<Entry>| -> usize {
            entries.iter().map(|entry| entry.batch.bytes.len()).sum()
        };
        let bytes_before = held(&self.entries);
        let refused = &self.entries[at].batch;
        let mut news = News::default();
        news.ends_before(&refused.fate, index, error.clone());
        let first = prefix(refused, index);
        if first.is_none() {
            news.failed(&refused.fate, error.clone());
        }
        for behind in self.entries.drain(at..).skip(1) {
            news.failed(&behind.batch.fate, error.clone());
        }
        self.entries.extend(first.map(|batch| Entry {
            batch,
            state: State::Waiting,
            may_be_written: false,
        }));
        self.end = End::Reached;
        self.held_until = self.held_until.max(Some(now));
        Some(EndedAt {
            error,
            place,
            bytes_before,
            bytes_after: held(&self.entries),
            news,
        })
    }

    /// Tells all that is not settled that it failed: those of `error`s that can say so tell of each batch whether it may be written.
    pub(super) fn fail(&self, error: &Error) -> News {
        let mut news = News::default();
        for entry in self.entries.iter().filter(|entry| entry.state != State::Settled) {
            let written = match entry.is_in_doubt() {
                true => Written::Perhaps,
                false => Written::No,
            };
            news.failed(&entry.batch.fate, error.clone().with_written(written));
        }
        news
    }

    /// Notes that the refusal of `request` does not say that nothing was written.
    pub(super) fn doubt(&mut self, request: RequestId) {
        let sent = State::Sent(request);
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.state == sent) {
            entry.may_be_written = true;
        }
    }

    /// True when something is not settled and may be written all the same.
    pub(super) fn may_be_written(&self) -> bool {
        self.entries.iter().any(Entry::is_in_doubt)
    }

    /// Forgets all answers under way: their batches will be sent again.
    pub(super) fn connection_lost(&mut self) {
        self.held_until = None;
        for entry in &mut self.entries {
            if matches!(entry.state, State::Sent(_)) {
                entry.state = State::Waiting;
                entry.may_be_written = true;
            }
        }
    }

    /// Returns how often in a row the window was refused.
    pub(super) fn refusals(&self) -> u32 {
        self.refusals
    }

    /// Returns when a held window may go on, unless an answer must come first.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held_until.filter(|_| !self.awaits_answer())
    }

    /// Returns when the first record came that is not acknowledged.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.batch.opened_at)
    }

    /// Returns how many batches were ever pushed.
    pub(super) fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Returns how many of the first batches are settled.
    pub(super) fn popped(&self) -> u64 {
        self.popped
    }

    fn awaits_answer(&self) -> bool {
        self.entries
            .iter()
            .take(REMEMBERED)
            .any(|entry| matches!(entry.state, State::Sent(_)))
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
