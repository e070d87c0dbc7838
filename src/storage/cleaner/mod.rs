//! The cleaner: all but the newest record of each key leaves a compacted log.
//!
//! ```text
//!   choose     what may be cleaned, is it worth it, why not           pure
//!   pass       one round, and the partition's own methods
//!    |-- learn      dirty part -> offset_map, bounded
//!    |-- unread     what the disk does not give
//!    |-- grouping   which segments become one                         pure
//!    |-- copy       pieces of segments -> survivors -> output
//!    |     `-- survivors    the one judge of records and batches      no I/O
//!    |           |-- transactions
//!    |           `-- rebuild
//!    `-- swap       new segments for old ones, crash by crash
//! ```
//!
//! Invariants
//! - Offsets never change, nor the order of records; the newest record of each key stays, as it was written.
//! - A tombstone goes only past its horizon and when no older record of its key can still exist; what is held stays.
//! - It never parks: damage is kept, told and passed by; an error of the disk loses nothing, for another try.
//!
//! What is not here: threads, schedules, budgets, metrics (`broker`), the clock and randomness (the caller).

mod choose;
mod copy;
#[cfg(test)]
mod deletion_tests;
#[cfg(test)]
mod fault_tests;
mod gate;
mod grouping;
#[cfg(test)]
mod history_tests;
mod learn;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod moved_tests;
mod offset_map;
mod output;
mod pass;
#[cfg(test)]
mod pass_tests;
mod pieces;
#[cfg(test)]
mod readers_tests;
mod rebuild;
#[cfg(test)]
mod rounds_tests;
#[cfg(test)]
mod second_output_tests;
mod source;
mod survivors;
mod swap;
#[cfg(test)]
mod sweep_tests;
#[cfg(test)]
mod testing;
mod told;
mod transactions;
mod unread;
#[cfg(test)]
mod unread_tests;

pub use choose::{Bound, CompactionView, Due, NotDue, breaks_its_promise};
pub use gate::{Budget, CompactError, Pace, Step};
pub use offset_map::OffsetMap;
pub use pass::{Pass, RollFor, Rolled};
#[cfg(test)]
pub(super) use sweep_tests::SWEPT;
pub use told::{CompactedBelow, SegmentRole, SegmentView};
