//! The benchmark: figures of this store beside the machine's own, measured in the same run.
//!
//! ```text
//!   produce read latency     load --> target (own server, or the one named) --> rate, percentiles  \
//!                            load --> sink (plain gRPC, nothing stored)      --> the limit          > Measure
//!   startup                  the binary itself, on directories made by data_dir                    |
//!   embedded                 brokers in this process                                               |
//!   lookup compact           storage alone, no socket                                              |
//!   tier                     a folder or an object store, and the same client without us; servers  /
//!                            with it as their archive
//!   run                      a workload from a file --> RunRecord --> compare, report
//! ```
//!
//! Invariants
//! - Every figure has a limit beside it where the machine has one, so that it is a ratio and means the same on another machine.
//! - What was written is read back and compared, by number and by a chain of checksums: a run that lost, doubled or
//!   reordered a batch fails and gives no figure.
//! - Server and limit take turns, and a figure is the median of its rounds; a `run` has one round, and its limits come after it.
//!
//! What is not here: the printing, which is the command line's.

mod beside;
mod compact;
mod compare;
mod data_dir;
mod draw;
mod drive;
mod embedded;
mod error;
mod half_load;
mod keyed;
mod latency;
mod limits;
mod lookup;
mod machine;
mod measure;
mod memory;
mod passes;
mod payload;
mod records;
mod report;
mod run;
mod run_record;
mod sink;
mod startup;
mod target;
mod throughput;
#[cfg(feature = "tier")]
mod tier;
#[cfg(feature = "tier")]
mod tier_server;
mod workload;
mod workload_file;

pub use compact::compact;
pub use compare::{Comparison, Difference, Row, compare};
pub use embedded::embedded;
pub use error::BenchError;
pub use keyed::{Keys, Workload};
pub use latency::latency;
pub use lookup::lookup;
pub use machine::Machine;
pub use measure::{Limit, Measure};
pub use report::report;
pub use run::{Fault, RunWords, run};
pub use run_record::{
    Figure, Latency, LimitFigure, RECORD_FORMAT, Ratio, RecordError, RunRecord, SecondFigures, Series,
    Setting, Verification,
};
pub use startup::startup;
pub use throughput::{produce, read};
#[cfg(feature = "tier")]
pub use tier::tier;
pub use workload::{
    Acks, Backlog, Compression, Durability, LoadPlan, Producers, Rate, Readers, RecordKeys, Records,
    SettingValue, Size, Topics, Weighted,
};
pub use workload_file::{WorkloadError, WorkloadFile};

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
