//! What a log remembers between two passes of the cleaner: how far it is clean, what the last pass did, what went wrong.
//!
//! Invariants
//! - The cleaner point never runs ahead of the segments on disk: it moves after the swap that it tells of is durable. A point
//!   that was lost costs another pass over what is clean already, and tombstones in that part another of their times.
//! - What is written down as clean ends where a hold begins: what it keeps has to be decided again when it ends, and nobody
//!   may be there to tell of that end ([`CleanerState::settled`]). How far it was clean is written beside it: what passes have not
//!   come to keeps the promise of its append over a start, and nothing counts as late that was kept by right.
//! - What readers are told of rises before the swap that makes it true, and never falls. What is written down of it rises before
//!   the pass ([`CleanerState::announce`]), so that a crash on the way leaves nothing untold.
//! - Lists in a report are bounded; what did not fit is counted.
//!
//! What is not here: the file of cleaner points (`checkpoints`), and the pass itself (`cleaner`).

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::types::{Offset, Timestamp};

use super::segment::Sealed;

/// After a start, a pass comes at most so late, in milliseconds, to see whether the time of tombstones is over.
const FIRST_LOOK_MAX_MS: i64 = 60 * 60 * 1000;

/// So many damaged places a report names.
pub const MAX_DAMAGED_PLACES: usize = 16;

/// What one pass did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PassReport {
    /// The cleaner point before it.
    pub from: Offset,
    /// The cleaner point after it.
    pub to: Offset,
    /// Whether the map took in the whole dirty part.
    pub rounds: Rounds,
    /// Distinct keys of the dirty part that the map took in.
    pub learned_keys: u64,
    /// Bytes read from logs: dirty ones twice.
    pub read_bytes: u64,
    /// Bytes written to logs.
    pub written_bytes: u64,
    /// Bytes by which the logs are smaller now.
    pub saved_bytes: u64,
    /// Segments that were replaced.
    pub replaced_segments: u64,
    /// By how many.
    pub new_segments: u64,
    /// What became of the records looked at.
    pub records: RecordCounts,
    /// Where the first segment began that was looked at: those before it, deleted since or in the archive alone, are not counted,
    /// and records deleted by call from the beginning of it are.
    pub counted_from: Offset,
    /// Places that are not sound batches; kept byte for byte.
    pub damaged: Vec<DamagedPlace>,
    /// How many such places there are beyond [`MAX_DAMAGED_PLACES`].
    pub damaged_unnamed: u64,
    /// From then on a pass may drop something that this one kept for its time: a tombstone, the end of a transaction.
    pub next_horizon: Option<Timestamp>,
}

/// What became of records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecordCounts {
    /// Records with a value that stay. In a log without holds that is clean to its end: its live keys.
    pub values_kept: u64,
    /// Tombstones that stay.
    pub tombstones_kept: u64,
    /// Records, tombstones among them, that a newer record of their key replaced.
    pub superseded: u64,
    /// Tombstones whose time was over.
    pub tombstones_dropped: u64,
    /// Records without a key.
    pub keyless_dropped: u64,
    /// Records of aborted transactions.
    pub aborted_dropped: u64,
    /// Records that stay because they are held, whatever else may be said of them.
    pub held: u64,
}

impl RecordCounts {
    /// Returns how many records stay.
    pub fn kept(&self) -> u64 {
        self.values_kept + self.tombstones_kept
    }

    /// Returns how many records went.
    pub fn dropped(&self) -> u64 {
        self.superseded + self.tombstones_dropped + self.keyless_dropped + self.aborted_dropped
    }
}

/// Whether one round was enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rounds {
    /// Everything that could be cleaned is clean.
    #[default]
    Done,
    /// There are more keys than the map holds: this round took in as many as fit.
    More {
        /// How many rounds are still needed if the rest has keys as the part before it; at least 1.
        estimate: u32,
        /// The keys that the map holds.
        map_keys: u64,
    },
}

/// A place in a log that is not a sound batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedPlace {
    /// Which file.
    pub path: PathBuf,
    /// Byte position.
    pub position: u64,
    /// How many bytes.
    pub len_bytes: u64,
    /// The first offset that may be affected.
    pub offset: Offset,
    /// Which check failed.
    pub reason: String,
}

/// A pass that did not come to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PassFailure {
    /// When it began.
    pub at: Timestamp,
    /// What happened.
    pub reason: String,
}

/// A replacement that is decided and durable, but whose last steps failed.
#[derive(Clone, Debug)]
pub(super) struct Unfinished {
    /// What was replaced.
    pub(super) old: Vec<Arc<Sealed>>,
    /// What replaces it, still under its temporary name.
    pub(super) new: Vec<Arc<Sealed>>,
}

/// See the module. The lock is held for memory work.
#[derive(Debug)]
pub(super) struct CleanerState(Mutex<Remembered>);

/// What is remembered.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    /// Everything before it is clean. It may lie before the log start.
    pub(super) point: Offset,
    /// Here older records may have stayed below tombstones that were met long ago: the time of those begins anew in the pass
    /// that comes to them. After a start that is all from the cleaner point on: what earlier passes did there is not known.
    pub(super) met_again: Range<Offset>,
    /// What of it is dirty again.
    pub(super) again: Option<Again>,
    /// When the last finished pass began, and what it did.
    pub(super) last_pass: Option<(Timestamp, PassReport)>,
    /// Since the last pass that came to its end.
    pub(super) failure: Option<PassFailure>,
    pub(super) unfinished: Option<Unfinished>,
    /// Where the segments begin that the last pass could not read.
    pub(super) unread: BTreeSet<Offset>,
    /// Where the segments begin that rounds have passed though they could not be read. What they hold was not learned: tombstones
    /// from there on may stand above older records of their keys.
    pub(super) unlearned: BTreeSet<Offset>,
    /// A record before it may have been replaced.
    pub(super) compacted_below: Offset,
    /// So far passes may come that are under way: for what is written down.
    announced: Vec<Offset>,
    /// When the next of the tombstones that passes met may go.
    horizon: Horizon,
    /// A tombstone before it may be gone. Not written down: after a start it is `compacted_below`, which is never too low.
    pub(super) tombstones_gone_below: Offset,
}

/// A part of a log that was clean once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Again {
    /// Everything before it was clean.
    pub(super) to: Offset,
    /// Since then it may hold records that are shadowed; before, a hold kept them.
    pub(super) since: Timestamp,
}

/// What a pass left as it was, because the disk did not give it. By the first offset of the segment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Left {
    /// What could not be read.
    pub(super) unread: BTreeSet<Offset>,
    /// What of that, now or earlier, was passed without learning it.
    pub(super) unlearned: BTreeSet<Offset>,
    /// What was passed earlier, and could be read now, begins here: it is to be learned.
    pub(super) learn_from: Option<Offset>,
}

/// When another pass over what is clean may drop something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Horizon {
    /// The last pass knew; `None` for never.
    Known(Option<Timestamp>),
    /// No pass came to its end since the start, and nobody has asked.
    Unknown,
    /// As before; this was when somebody asked first.
    AskedAt(Timestamp),
}

/// What a checkpoint says of one log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct CleanerMarks {
    /// Everything before it is clean, and decided for good.
    pub(super) point: Option<Offset>,
    /// Everything before it was clean once, but for what a hold kept, or what could not be read.
    pub(super) once_clean: Option<Offset>,
    /// A record before it may have been replaced.
    pub(super) compacted_below: Offset,
}

/// What a checkpoint is to say of the cleaner point of one log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Settled {
    /// Everything before it is clean, and decided for good.
    pub(super) point: Offset,
    /// Everything before it was clean once; `None` where that is no more than the point.
    pub(super) once_clean: Option<Offset>,
}

/// How far a pass that is under way may come.
#[derive(Debug)]
pub(super) struct Announced<'a> {
    state: &'a CleanerState,
    pub(super) to: Offset,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let announced = &mut self.state.0.lock().announced;
        if let Some(at) = announced.iter().position(|to| *to == self.to) {
            announced.swap_remove(at);
        }
    }
}

impl CleanerState {
    /// Begins with what the checkpoint says of a log of these offsets. A point outside the log says nothing: all of it is dirty
    /// then.
    pub(super) fn new(marks: CleanerMarks, log: &Range<Offset>) -> Self {
        let known = marks.point.filter(|point| (log.start..=log.end).contains(point));
        let point = known.unwrap_or(log.start);
        let compacted_below = marks.compacted_below.clamp(point, log.end);
        Self(Mutex::new(Remembered {
            point,
            met_again: point..log.end,
            again: None,
            last_pass: None,
            failure: None,
            unfinished: None,
            unread: BTreeSet::new(),
            unlearned: BTreeSet::new(),
            horizon: if point > log.start {
                Horizon::Unknown
            } else {
                Horizon::Known(None)
            },
            compacted_below,
            announced: Vec::new(),
            tombstones_gone_below: compacted_below,
        }))
    }

    /// Returns the cleaner point of a log that begins at `log_start`.
    pub(super) fn point(&self, log_start: Offset) -> Offset {
        self.0.lock().point.max(log_start)
    }

    /// Returns the cleaner point that a checkpoint is to say, of a log in which nothing before `held_from` is held. It may lie
    /// before the log start, which then counts for the next start; nothing before it has been learned. What was passed unlearned is
    /// dirty for the next start.
    pub(super) fn settled(&self, held_from: Option<Offset>) -> Settled {
        let state = self.0.lock();
        let unlearned = state.unlearned.first().copied();
        let point = [held_from, unlearned]
            .into_iter()
            .flatten()
            .fold(state.point, Offset::min);
        let once_clean = state.again.map_or(state.point, |again| again.to.max(state.point));
        Settled {
            point,
            once_clean: Some(once_clean).filter(|to| *to > point),
        }
    }

    /// A start at `now` has found what of the log was clean once, as it was written down. What of that is dirty may be shadowed by
    /// what is clean: a hold kept it, which goes on or has ended since. The promise of all else counts from its append.
    pub(super) fn once_clean_at_start(&self, to: Offset, log_end: Offset, now: Timestamp) {
        let mut state = self.0.lock();
        let to = to.min(log_end);
        if state.point < to {
            state.again = Some(Again { to, since: now });
        }
    }

    /// A pass is about to begin that replaces nothing from `to` on. Counts until the answer is dropped.
    pub(super) fn announce(&self, to: Offset) -> Announced<'_> {
        self.0.lock().announced.push(to);
        Announced { state: self, to }
    }

    /// Returns the offset below which records may be replaced before the next checkpoint.
    pub(super) fn to_write_down(&self) -> Offset {
        let state = self.0.lock();
        let announced = state.announced.iter().copied().max();
        announced.map_or(state.compacted_below, |to| to.max(state.compacted_below))
    }

    /// Returns the offset below which records may have been replaced, of a log that begins at `log_start`.
    pub(super) fn compacted_below(&self, log_start: Offset) -> Offset {
        self.0.lock().compacted_below.max(log_start)
    }

    /// Returns the offset below which tombstones may be gone, of a log that begins at `log_start`.
    pub(super) fn tombstones_gone_below(&self, log_start: Offset) -> Offset {
        self.0.lock().tombstones_gone_below.max(log_start)
    }

    /// Returns when a pass over what is clean may drop something again. After a start that is not known, and a pass finds out:
    /// it comes after as long as tombstones are kept, or an hour.
    pub(super) fn horizon_at(&self, now: Timestamp, delete_retention_ms: i64) -> Option<Timestamp> {
        let mut state = self.0.lock();
        if state.horizon == Horizon::Unknown {
            state.horizon = Horizon::AskedAt(now);
        }
        match state.horizon {
            Horizon::Known(at) => at,
            Horizon::AskedAt(since) => {
                Some(since.saturating_add_ms(delete_retention_ms.min(FIRST_LOOK_MAX_MS)))
            }
            Horizon::Unknown => None,
        }
    }

    /// Everything from `offset` on is dirty again since `now`, and what shadowed it may be clean.
    pub(super) fn lower(&self, offset: Offset, now: Timestamp) {
        self.0.lock().lower(offset, now);
    }

    /// Returns what of the log is dirty again.
    pub(super) fn again(&self) -> Option<Again> {
        self.0.lock().again
    }

    pub(super) fn look(&self) -> Remembered {
        self.0.lock().clone()
    }

    /// A pass that began at `now` has come to its end.
    pub(super) fn passed(&self, now: Timestamp, report: &PassReport, left: Left) {
        let mut state = self.0.lock();
        state.unread = left.unread;
        state.unlearned = left.unlearned;
        state.point = report.to;
        state.again = state.again.filter(|again| again.to > report.to);
        state.compacted_below = state.compacted_below.max(report.to);
        let met_from = state.met_again.start.max(report.to);
        state.met_again = if met_from < state.met_again.end {
            met_from..state.met_again.end
        } else {
            Offset::ZERO..Offset::ZERO
        };
        // One pass for each: what did not go when its time was over stays for another reason.
        let (before, next) = (state.horizon, report.next_horizon);
        state.horizon = Horizon::Known(next.filter(|at| *at > now || before != Horizon::Known(next)));
        state.last_pass = Some((now, report.clone()));
        state.failure = None;
        if let Some(offset) = left.learn_from {
            state.lower(offset, now);
        }
    }

    /// The pass that has just come to its end, and learned records before `learned_to`, has not come past what it could not read.
    pub(super) fn stopped_short(&self, failure: PassFailure, learned_to: Offset) {
        let mut state = self.0.lock();
        let known = state.met_again.clone();
        state.met_again = state.point..known.end.max(learned_to);
        state.failure = Some(failure);
    }

    /// A pass that has learned everything before `to` is about to replace segments, and has let so many tombstones go.
    pub(super) fn about_to_swap(&self, to: Offset, tombstones_dropped: u64) {
        let mut state = self.0.lock();
        state.compacted_below = state.compacted_below.max(to);
        if tombstones_dropped > 0 {
            state.tombstones_gone_below = state.tombstones_gone_below.max(to);
        }
    }

    /// The log lies in an archive, and its owner may have replaced records and let tombstones go before `to`.
    pub(super) fn replaced_elsewhere(&self, to: Offset) {
        let mut state = self.0.lock();
        state.compacted_below = state.compacted_below.max(to);
        state.tombstones_gone_below = state.tombstones_gone_below.max(to);
    }

    pub(super) fn failed(&self, failure: PassFailure) {
        self.0.lock().failure = Some(failure);
    }

    pub(super) fn set_unfinished(&self, unfinished: Option<Unfinished>) {
        self.0.lock().unfinished = unfinished;
    }
}

impl Remembered {
    fn lower(&mut self, offset: Offset, now: Timestamp) {
        if offset >= self.point {
            return;
        }
        let known = self.met_again.clone();
        let start = if known.is_empty() {
            offset
        } else {
            known.start.min(offset)
        };
        self.met_again = start..known.end.max(self.point);
        let known = self.again;
        self.again = Some(Again {
            to: known.map_or(self.point, |known| known.to.max(self.point)),
            since: known.map_or(now, |known| known.since.min(now)),
        });
        self.point = offset;
    }
}
