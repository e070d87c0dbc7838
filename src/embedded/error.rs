//! Why an embedded broker does not do what a test asked for.

use std::io;
use std::time::Duration;

use crate::config::ConfigError;
use crate::server::{StartError, StopError};

/// Why an embedded broker does not do what a test asked for.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use siltstone::embedded::{Broker, Error};
///
/// match Broker::builder().set("retention", "1d").start().await {
///     Err(Error::Setting(wrong)) => println!("{wrong}"),
///     started => panic!("{started:?}"),
/// }
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that does not exist, or a value that cannot be.
    #[error(transparent)]
    Setting(#[from] ConfigError),
    /// The broker did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The broker did not stop cleanly.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The broker refused.
    #[error(transparent)]
    Broker(#[from] crate::broker::Error),
    /// A client could not be connected.
    #[error(transparent)]
    Client(#[from] crate::client::Error),
    /// The operating system refused a directory, a thread or a copy.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The broker was stopped or killed, and not started again.
    #[error("the broker does not run; start it again")]
    NotRunning,
    /// Data that is kept is not the broker's to copy.
    #[error(
        "a broker over a directory that is kept cannot be forked: fork one that was started without `data_dir`"
    )]
    Kept,
    /// What lies in somebody's cloud is not copied with the rest.
    #[error(
        "a broker whose archive lies in a cloud cannot be copied: start it without `tier_url`, or with `memory://` or a folder"
    )]
    Archive,
    /// The archive could not be copied with the rest.
    #[cfg(feature = "tier")]
    #[error("cannot copy the archive: {0}")]
    ArchiveCopy(#[from] crate::tier::TierError),
    /// A topic did not get as many records as were waited for.
    #[error("topic {topic} holds {found} records after {waited:?}, not {wanted}")]
    TooFew {
        /// Which topic.
        topic: String,
        /// How many there are.
        found: usize,
        /// How many were waited for.
        wanted: usize,
        /// How long.
        waited: Duration,
    },
}

impl Error {
    /// Says what was tried when the operating system refused.
    pub(super) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }
}
