//! The cleaner's schedule: which compacted log is cleaned next, when, how fast, and what a person is told about it.
//!
//! ```text
//!   CompactNow --> desk --.                    .--> roll, sync --> pass, pass ... --> checkpoint --> jobs, metrics
//!                          >-- a thread takes --|                    |
//!   every look --> scan ---'        one log     '                  pacer: budget, traffic, promises, stop
//! ```
//!
//! The threads are the broker's own and not the runtime's: a pass blocks for minutes. They sleep until the next look, the
//! next promise, a command, or the end.
//!
//! Invariants
//! - One thread cleans a log at a time. Promises come first, by their deadline, then commands, then logs by dirty ratio, then
//!   logs whose tombstones came of age. A promise that comes due while all threads are at work is kept between two chunks of a
//!   pass that has more time.
//! - A promise that is broken is told, whatever broke it, once for each deadline.
//! - Nothing parks: a pass that failed is tried again, after 1 s, then twice as long each time, at most 5 minutes.
//! - The map of a pass is taken when the pass begins and given back at its end: an idle cleaner holds no memory.
//! - A log that did not change since the last look costs a look at six numbers; an append to a log whose promise is known, one
//!   at a flag.
//! - A pass ends within a chunk of the broker's stop and of the removal of its partition.
//!
//! What is not here: what a pass does to a log (`storage::cleaner`).

mod candidates;
mod desk;
mod explain;
mod jobs;
mod pace;
mod pacer;
mod requests;
mod scan;
mod state;
mod work;

pub(super) use desk::Desk;
pub(super) use state::Cleaning;
#[cfg(test)]
pub(super) use work::Turn;

pub use pace::{Courtesy, Traffic};
pub use requests::{
    CompactNow, CompactWait, CompactionExplanation, CompactionJob, Exactness, JobState, KeyCounts, LastPass,
    LogDescription, LogSegment, PartitionJob, PassError, RoundsLeft, Running, SegmentState,
};

use std::time::Duration;

/// How the cleaner runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CleanerConfig {
    /// Threads that clean, each one log at a time.
    pub threads: usize,
    /// Bytes of the maps of keys, of all threads together.
    pub dedupe_buffer_bytes: usize,
    /// Bytes read and written a second, by all threads together; 0 means as fast as the disk goes.
    pub io_max_bytes_per_second: u64,
    /// How long an idle thread sleeps before it looks again.
    pub backoff: Duration,
}
