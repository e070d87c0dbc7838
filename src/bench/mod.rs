//! The benchmark: figures of this store beside the machine's own, measured in the same run.
//!
//! ```text
//!   produce read latency     load --> target (own server, or the one named) --> rate, percentiles  \
//!                            load --> sink (plain gRPC, nothing stored)      --> the limit          > Measure
//!   startup                  the binary itself, on directories made by data_dir                    |
//!   lookup compact           storage alone, no socket                                              |
//!   tier                     a folder or an object store, and the same client without us; servers  /
//!                            with it as their archive
//! ```
//!
//! Invariants
//! - Every figure has a limit beside it, so that it is a ratio and means the same on another machine.
//! - What was written is read back and compared, by number and by a chain of checksums: a run that lost, doubled or
//!   reordered a batch fails and gives no figure.
//! - Server and limit take turns, and a figure is the median of its rounds.
//!
//! What is not here: workloads from files, open-loop load, reports; and the printing, which is the command line's.

mod beside;
mod compact;
mod data_dir;
mod drive;
mod error;
mod half_load;
mod keyed;
mod latency;
mod limits;
mod lookup;
mod measure;
mod memory;
mod passes;
mod payload;
mod sink;
mod startup;
mod target;
mod throughput;
#[cfg(feature = "tier")]
mod tier;
#[cfg(feature = "tier")]
mod tier_server;

pub use compact::compact;
pub use error::BenchError;
pub use keyed::{Keys, Workload};
pub use latency::latency;
pub use lookup::lookup;
pub use measure::{Limit, Measure};
pub use startup::startup;
pub use throughput::{produce, read};
#[cfg(feature = "tier")]
pub use tier::tier;

use std::path::PathBuf;

use crate::client::Client;

/// How long to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Scale {
    /// Long enough for figures to be quoted; under five minutes.
    #[default]
    Full,
    /// Only shows that the benchmark runs; under ten seconds, `compact` under a minute.
    Quick,
}

impl Scale {
    /// Chooses between two amounts.
    fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// What a benchmark over gRPC runs against, and for how long.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How long.
    pub scale: Scale,
    /// A server that runs already; absent, one in this process, in a temporary directory.
    pub server: Option<Client>,
    /// Where temporary directories are made; absent, where the system has its own.
    pub dir: Option<PathBuf>,
}
