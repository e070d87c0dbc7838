//! A picture of a broker's data, and brokers that begin with it.
//!
//! A picture is taken of a disk that stands still, after everything was sealed, synced and written down, so that a broker begun with it
//! reads nothing of what is there. Logs of sealed segments are shared with it by links, in memory by blocks: nobody writes to them. An
//! archive is copied while the disk stands still: what it has by then the disk has, or had.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::broker::{self, AskedPartitions, SegmentState};
use crate::env::CrashChoice;

use super::archive::Archive;
use super::clock::TestClock;
use super::disk::{Medium, SealedLogs, copy_directory};
use super::home::Home;
use super::{Broker, Builder, Error};

/// The data, the settings and the time of a broker as they were. Clones are the same picture.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), siltstone::embedded::Error> {
/// use siltstone::embedded::{Broker, record};
///
/// let broker = Broker::in_memory().await?;
/// broker.create_topic("orders", 1, &[]).await?;
/// broker.produce("orders", [record("a", "1")]).await?;
/// let seeded = broker.snapshot().await?;
/// // Each test has its own, and none sees what another does.
/// let (one, other) = (seeded.fork().await?, seeded.fork().await?);
/// one.produce("orders", [record("a", "2")]).await?;
/// assert_eq!(other.read("orders").await?.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Snapshot(Arc<Picture>);

#[derive(Debug)]
struct Picture {
    home: Home,
    archive: Archive,
    sealed: SealedLogs,
    builder: Builder,
    clock: TestClock,
}

impl Broker {
    /// Takes a picture of everything the broker holds. What is written meanwhile is in it, or not, from some point on.
    ///
    /// # Errors
    /// [`Error::Kept`] of a broker over a directory that is kept, [`Error::Archive`] of one whose archive lies in a cloud; what the
    /// disk or the archive says.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        if matches!(self.home.medium, Medium::Kept) {
            return Err(Error::Kept);
        }
        // What an advance of the clock removes from the archive must not go while it is copied.
        let _alone = self.moving.lock().await;
        let sealed = self.run(async |broker| {
            broker.settle().await?;
            sealed_logs(&broker)
        });
        let sealed = sealed.await?;
        let (home, faults, logs) = (self.home.clone(), self.faults().clone(), sealed.clone());
        let archive = self.archive.clone();
        let copied = self.running()?.runtime.spawn_blocking(move || {
            let _still = faults.hold_still();
            Ok((home.copy(&logs)?, Handle::current().block_on(archive.copy())?))
        });
        let (home, archive) = copied.await.unwrap_or(Err(Error::NotRunning))?;
        let picture = Picture {
            home,
            archive,
            sealed,
            builder: self.builder.clone(),
            clock: self.clock.fork(),
        };
        Ok(Snapshot(Arc::new(picture)))
    }

    /// Starts another broker with a copy of everything that this one holds: [`Broker::snapshot`] and [`Snapshot::fork`] in one.
    ///
    /// # Errors
    /// As both.
    pub async fn fork(&self) -> Result<Self, Error> {
        self.snapshot().await?.fork().await
    }
}

impl Snapshot {
    /// Starts a broker that begins with the picture and goes its own way from there: its own ports, clock, faults.
    ///
    /// # Errors
    /// What the disk says; as [`Builder::start`].
    pub async fn fork(&self) -> Result<Broker, Error> {
        let picture = Arc::clone(&self.0);
        let copied = tokio::task::spawn_blocking(move || picture.home.copy(&picture.sealed));
        let home = copied.await.unwrap_or(Err(Error::NotRunning))?;
        let archive = self.0.archive.copy().await?;
        let builder = self.0.builder.clone();
        Broker::begin(builder, (home, archive), self.0.clock.fork()).await
    }
}

fn sealed_logs(broker: &broker::Broker) -> Result<SealedLogs, Error> {
    let mut sealed = SealedLogs::default();
    for topic in broker.list_topics() {
        let logs = match broker.describe_log(&topic.name, &AskedPartitions::all()) {
            Err(broker::Error::UnknownTopic { .. }) => continue,
            logs => logs?,
        };
        for log in logs {
            let dir = PathBuf::from(format!("{}-{}", topic.name, log.partition));
            let segments = log.segments.iter();
            let segments = segments.filter(|segment| segment.state != SegmentState::Active);
            let names = segments.map(|segment| format!("{:020}.log", segment.base.0));
            sealed.add(dir, topic.id, names);
        }
    }
    Ok(sealed)
}

impl Home {
    /// Copies the data, as it is found after a crash of the process at this moment.
    fn copy(&self, sealed: &SealedLogs) -> Result<Self, Error> {
        match &self.medium {
            Medium::Memory(memory) => Ok(Self::in_memory(memory.crash(CrashChoice::KeepAll))),
            Medium::Temporary => {
                let copy = Self::temporary()?;
                copy_directory(&self.data_dir, &copy.data_dir, sealed)
                    .map_err(Error::system("copy the data directory"))?;
                Ok(copy)
            }
            Medium::Kept => Err(Error::Kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::record;
    use crate::types::TopicName;

    #[tokio::test]
    async fn a_topic_made_anew_while_a_picture_was_begun_shares_no_log_with_it() {
        let broker = Broker::start().await.unwrap();
        let direct = broker.direct().unwrap().clone();
        let name = TopicName::new("orders").unwrap();
        broker.create_topic("orders", 1, &[]).await.unwrap();
        broker.produce("orders", [record("a", "old")]).await.unwrap();
        direct.settle().await.unwrap();
        let sealed = sealed_logs(&direct).unwrap();
        broker
            .run(async move |broker| Ok(broker.delete_topic(&name).await?))
            .await
            .unwrap();
        broker.create_topic("orders", 1, &[]).await.unwrap();
        broker.produce("orders", [record("a", "new")]).await.unwrap();
        let copy = broker.home.copy(&sealed).unwrap();
        let log = copy.data_dir.join("orders-0/00000000000000000000.log");
        let before = std::fs::metadata(&log).unwrap().len();
        broker.produce("orders", [record("a", "later")]).await.unwrap();
        assert_eq!(std::fs::metadata(&log).unwrap().len(), before);
    }
}
