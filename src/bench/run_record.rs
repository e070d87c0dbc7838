//! The record of a run: what was run, on what, and what came of it; one JSON object.
//!
//! | format | |
//! |---|---|
//! | 1 | as here |
//!
//! A member that is added keeps the format; one that changes its meaning or goes makes a new one. `docs/benchmarks.md` tells what each
//! member is.
//!
//! What is not here: how two are compared (`compare`), and how one is drawn (`report`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::workload::LoadPlan;

/// The format that is written, and the only one that is read.
pub const RECORD_FORMAT: u32 = 1;

/// What a run says of itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`RECORD_FORMAT`].
    pub format: u32,
    /// The version that measured.
    pub siltstone: String,
    /// The command as it was typed.
    pub command: String,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// Where it ran.
    pub machine: Machine,
    /// The server's address; absent where the run had one of its own.
    pub server: Option<String>,
    /// The name of the workload.
    pub name: String,
    /// What it says, defaults included.
    pub workload: LoadPlan,
    /// Settings of the topics that are not the default.
    pub settings: Vec<Setting>,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// Times of many operations.
    pub latencies: Vec<Latency>,
    /// What was measured second by second.
    pub series: Vec<Series>,
    /// What the machine can do, measured in the same run.
    pub limits: Vec<LimitFigure>,
    /// What was checked.
    pub verification: Verification,
}

/// A setting that is not the default.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// `topic` or `server`: who gave it.
    pub source: String,
}

/// One figure.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured, dotted.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Its unit, and its limits'.
    pub unit: String,
    /// What it is compared with; none where the machine has no such limit.
    pub limits: Vec<Ratio>,
}

/// A figure beside a limit.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ratio {
    /// What limits.
    pub limit: String,
    /// In the figure's unit.
    pub limit_value: f64,
    /// The figure as a part of it.
    pub ratio: f64,
}

/// The times of many operations, in milliseconds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// Of what.
    pub name: String,
    /// How many times were taken.
    pub count: u64,
    /// The mean.
    pub mean_ms: f64,
    /// Half were no longer.
    pub p50_ms: f64,
    /// Of a hundred, 90 were no longer.
    pub p90_ms: f64,
    /// Of a hundred, 99 were no longer.
    pub p99_ms: f64,
    /// Of a thousand, 999 were no longer.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Percentiles from 0 to 100 and their times.
    pub curve: Vec<(f64, f64)>,
}

/// What was measured second by second.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Series {
    /// Of what.
    pub name: String,
    /// The first begins with the end of the warm-up.
    pub seconds: Vec<SecondFigures>,
}

/// One second.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct SecondFigures {
    /// Records done with.
    pub records: u64,
    /// Megabytes of their keys and values.
    pub mb: f64,
    /// Half of those that were timed took no longer; absent where none was.
    pub p50_ms: Option<f64>,
    /// Of a hundred, 99 took no longer.
    pub p99_ms: Option<f64>,
    /// The longest.
    pub max_ms: Option<f64>,
}

/// What the machine can do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LimitFigure {
    /// What was measured.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: String,
}

/// What was checked. A run that found anything wrong has no record.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Verification {
    /// Records written, warm-up and backlog included.
    pub written_records: u64,
    /// Records of which each was checked when it was read, by all readers together.
    pub checked_records: u64,
    /// Records that the last read, over everything, has found.
    pub found_records: u64,
    /// Keys whose newest record was looked for, where topics are compacted.
    pub keys: Option<u64>,
    /// One number over all chains, in hexadecimal digits: the same seed and the same number of records give the same.
    pub chain: String,
    /// What was looked for, and not found.
    pub ok: Vec<String>,
}

/// Why a file is no record that can be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file cannot be read.
    #[error("cannot read record {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the disk says.
        source: std::io::Error,
    },
    /// It is no record.
    #[error("{} is not the record of a run, which 'siltstone bench run FILE --json' prints: {reason}", path.display())]
    NotARecord {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another version wrote it.
    #[error(
        "record {} has format {found}, this version reads {RECORD_FORMAT}: run the workload again, or compare with the version that wrote it",
        path.display()
    )]
    OtherFormat {
        /// Which file.
        path: PathBuf,
        /// What it says.
        found: u64,
    },
}

impl RunRecord {
    /// Reads a record from a file: the object, and nothing else.
    ///
    /// # Errors
    /// A file that cannot be read, is no record, or has another format.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let text = std::fs::read_to_string(path).map_err(|source| RecordError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let not = |reason: String| RecordError::NotARecord {
            path: path.to_owned(),
            reason,
        };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| not(error.to_string()))?;
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        match format {
            Some(format) if format == u64::from(RECORD_FORMAT) => {
                serde_json::from_value(value).map_err(|error| not(error.to_string()))
            }
            Some(found) => Err(RecordError::OtherFormat {
                path: path.to_owned(),
                found,
            }),
            None => Err(not("it has no format".to_owned())),
        }
    }

    /// Returns a latency by its name.
    pub fn latency(&self, name: &str) -> Option<&Latency> {
        self.latencies.iter().find(|latency| latency.name == name)
    }

    /// Returns a series by its name.
    pub fn series(&self, name: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.name == name)
    }
}
