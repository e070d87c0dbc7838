//! One partition of a read: where it stands, where it ends, and what is to be done next. Pure: watermarks in, a plan out.
//!
//! What happens when the log start is raised above a reader, by retention or `DeleteRecords`
//! - A read that asked for an offset is told, by an error: records it asked for are gone.
//! - A read that asked for the earliest record, from a time on, or for what comes, goes on at the new log start: it asked for
//!   what is there. Its responses carry the log start, so that it may see that it was left behind.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::storage::WatermarkView;
use crate::types::{Isolation, Offset, PartitionId, Timestamp};

use super::fetch::bound;
use super::requests::{ReadEnd, ReadSpec, ReadStart};

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cursor {
    /// Of which partition.
    pub(super) partition: PartitionId,
    /// The next offset to read.
    pub(super) position: Offset,
    /// Exclusive; `None` follows.
    pub(super) end: Option<Offset>,
    /// Only records with a timestamp in it are wanted.
    pub(super) times: Option<Range<Timestamp>>,
    /// What happens when records are gone before they were read.
    pub(super) when_gone: WhenGone,
}

/// What a read does about records that are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WhenGone {
    /// It ends with an error.
    Fail,
    /// It goes on with what is there.
    GoOn,
}

/// What a cursor needs next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Plan {
    /// Read this range.
    Read(Range<Offset>),
    /// Wait for records.
    Wait,
    /// Nothing more: it is at its end.
    Done,
    /// What it wants next is gone, and it is not to go on.
    Gone,
}

/// How one partition of a read begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Begin {
    /// At this offset.
    At(Offset),
    /// At the first record with this timestamp or a later one, which must be looked up.
    LookUp(Timestamp),
    /// Outside the log.
    OutOfRange(Offset),
}

/// Where the partitions of a read begin, by number: a request may name as many as a server has, and is not searched again for
/// each of them.
#[derive(Debug)]
pub(super) struct Starts<'a> {
    spec: &'a ReadSpec,
    /// Of the partitions with a start of their own.
    own: BTreeMap<PartitionId, ReadStart>,
    resumed: BTreeMap<PartitionId, Offset>,
}

impl<'a> Starts<'a> {
    /// Sorts what `spec` says of single partitions.
    pub(super) fn of(spec: &'a ReadSpec) -> Self {
        let own = |(partition, start): &(PartitionId, Option<ReadStart>)| Some((*partition, (*start)?));
        Self {
            spec,
            own: spec.partitions.iter().filter_map(own).collect(),
            resumed: spec.resume.iter().copied().collect(),
        }
    }
}

impl Cursor {
    /// Begins in one partition of a read, whose watermarks are `marks` now. Its position is to be set as [`Begin`] says.
    pub(super) fn begin(starts: &Starts<'_>, partition: PartitionId, marks: &WatermarkView) -> (Self, Begin) {
        let spec = starts.spec;
        let start = starts.own.get(&partition).copied().unwrap_or(spec.start);
        let resumed = starts.resumed.get(&partition).copied();
        let now = bound(marks, spec.isolation);
        let when_gone = match start {
            ReadStart::Earliest | ReadStart::Time(_) | ReadStart::Latest => WhenGone::GoOn,
            ReadStart::Offset(_) => WhenGone::Fail,
        };
        let begin = match (resumed, start) {
            (Some(offset), _) | (None, ReadStart::Offset(offset)) => {
                if offset < marks.log_start && when_gone == WhenGone::GoOn {
                    Begin::At(marks.log_start)
                } else if offset < marks.log_start || offset > marks.log_end {
                    Begin::OutOfRange(offset)
                } else {
                    Begin::At(offset)
                }
            }
            (None, ReadStart::Earliest) => Begin::At(marks.log_start),
            (None, ReadStart::Latest) => Begin::At(now),
            (None, ReadStart::Time(from)) => Begin::LookUp(from),
        };
        let cursor = Self {
            partition,
            position: now,
            end: match spec.end {
                ReadEnd::Now | ReadEnd::Time(_) => Some(now),
                ReadEnd::Offset(offset) => Some(offset.min(now)),
                ReadEnd::Follow => None,
            },
            times: times(start, spec.end),
            when_gone,
        };
        (cursor, begin)
    }

    /// Says what is to be done next.
    pub(super) fn plan(&self, marks: &WatermarkView, isolation: Isolation) -> Plan {
        let now = bound(marks, isolation);
        let until = self.end.map_or(now, |end| end.min(now));
        if self.end.is_some_and(|end| self.position >= end) {
            return Plan::Done;
        }
        let mut from = self.position;
        if from < marks.log_start {
            match self.when_gone {
                WhenGone::Fail => return Plan::Gone,
                WhenGone::GoOn => from = marks.log_start,
            }
        }
        if from < until {
            Plan::Read(from..until)
        } else if self.end.is_some_and(|end| from >= end) {
            Plan::Done
        } else {
            Plan::Wait
        }
    }

    /// Moves on to `next`, not past the end: what lies beyond was not asked for.
    pub(super) fn advance(&mut self, next: Offset) {
        let next = self.end.map_or(next, |end| next.min(end));
        self.position = self.position.max(next);
    }
}

fn times(start: ReadStart, end: ReadEnd) -> Option<Range<Timestamp>> {
    let from = match start {
        ReadStart::Time(from) => Some(from),
        _ => None,
    };
    let to = match end {
        ReadEnd::Time(to) => Some(to),
        _ => None,
    };
    if from.is_none() && to.is_none() {
        return None;
    }
    Some(from.unwrap_or(Timestamp::MIN)..to.unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
#[path = "cursor_tests.rs"]
mod tests;
