//! `siltstone bench run`: a workload from a file, driven through the client, every record of it checked.
//!
//! ```text
//!  topics --> producers: backlog --> readers open --> the clock begins
//!     producing: schedule -> source -> Producer -> settling ---.
//!     reading: tail, catch up, by time -> check ---------------+--> recorder
//!  all written --> ends --> tails end --> everything once more -> check --> limits --> figures --> RunRecord
//! ```
//!
//! Invariants
//! - Load goes through `client` alone, so that its cost is seen, too.
//! - A run that lost, doubled, reordered or changed a record gives no figure.
//! - Nothing waits without an end: a server that dies or stands still ends the run within [`GIVE_UP_AFTER`] and says so.
//! - What was made on a server that runs already goes again, whatever becomes of the run.
//!
//! What is not here: what a workload says (`workload`), and how a record is shown (`compare`, `report`, the command line).

mod check;
mod figures;
mod limits_of_run;
mod producing;
mod reading;
mod recorder;
mod schedule;
mod settling;
mod source;
mod stage;
mod stamp;
mod timer;

pub use check::Fault;
pub(super) use stamp::STAMP_LEN;

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

use self::stage::Stage;
use super::target::Target;
use super::{BenchError, Options, RunRecord, WorkloadFile};

/// What stands still for so long is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(20);
/// How long a run that failed cleans up after itself.
const CLEAN_UP_WAIT: Duration = Duration::from_secs(5);

/// What only the command line knows of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RunWords {
    /// The command as it was typed.
    pub command: String,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// The server that was named; absent, one of its own.
    pub server: Option<String>,
}

/// Runs a workload; `interrupted` ends it before its time.
///
/// # Errors
/// Anything lost, repeated, reordered, changed, refused or unreachable; [`BenchError::Interrupted`].
pub async fn run(
    options: &Options,
    workload: &WorkloadFile,
    words: RunWords,
    interrupted: impl Future<Output = ()>,
) -> Result<RunRecord, BenchError> {
    run_patiently(options, workload, (words, GIVE_UP_AFTER), interrupted).await
}

/// As [`run`]; what stands still for as long as the patience is given up.
async fn run_patiently(
    options: &Options,
    workload: &WorkloadFile,
    (words, patience): (RunWords, Duration),
    interrupted: impl Future<Output = ()>,
) -> Result<RunRecord, BenchError> {
    let target = Target::start(options).await?;
    let stage = Stage::new(&target, workload, patience);
    let outcome = tokio::select! {
        outcome = stage.play(words) => outcome,
        () = interrupted => Err(BenchError::Interrupted),
    };
    let removed = timeout(CLEAN_UP_WAIT, stage.remove_topics()).await;
    match outcome {
        Ok(record) => {
            removed.unwrap_or(Ok(()))?;
            target.stop().await?;
            Ok(record)
        }
        Err(error) => {
            // The first error is the one to tell.
            let _ = timeout(CLEAN_UP_WAIT, target.stop()).await;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
