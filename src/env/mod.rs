//! The world outside: disk, clock, mappings. Everything above takes it as a value, so that tests can hold it in the hand.
//!
//! - [`Fs`] and [`File`]: the whole of what we ask of a file system. [`RealFs`] is the operating system's; [`SimFs`] keeps
//!   everything in memory, dies at a chosen call and loses, tears or reorders what was not synced.
//! - [`FileCache`]: open descriptors and mappings under one limit each, by path.
//! - [`Clock`]: the wall clock, or one that a test moves.
//! - [`process_name`]: who this process is, for people.
//!
//! Invariants
//! - The only `unsafe` of the crate is in `mmap`.
//! - No writable mapping exists; a mapping lies only over bytes of a file that will not be cut away.
//! - Every sync names its [`SyncSite`], so that a test can switch one off and prove that it is needed.
//!
//! What is not here: offsets, segments, topics. This module would serve any store of append-only files.

mod cache;
mod clock;
mod fs;
mod mmap;
mod priority;
mod real;
mod second_chance;
mod sim;
mod sync_pool;

#[cfg(test)]
mod cache_tests;
#[cfg(test)]
mod conformance_tests;

pub use cache::{CacheLimits, CacheStats, FileCache, Forgotten};
pub use clock::{Clock, ManualClock, SystemClock};
pub use fs::{DirEntry, File, FileKind, FileStat, Fs, LockGuard, Mappings, OpenMode, SyncSite, Syncing};
pub use priority::step_back;
pub use real::RealFs;
pub use sim::{Call, CrashChoice, Failure, Fault, SimFs, SimulatedCrash};

/// Names the host and the process, for a person who looks for it among others.
pub fn process_name() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_default();
    format!("{host} process {}", std::process::id()).trim().to_owned()
}
