//! A picture of a broker's data, and brokers that begin with it.
//!
//! A picture is taken of a disk that stands still, after everything was sealed, synced and written down, so that a broker begun with it
//! reads nothing of what is there. Logs of sealed segments are shared with it by links, in memory by blocks: nobody writes to them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::broker::{self, AskedPartitions, SegmentState};
use crate::env::CrashChoice;

use super::clock::TestClock;
use super::disk::{Medium, copy_directory};
use super::home::Home;
use super::{Broker, Builder, Error};

/// The data, the settings and the time of a broker as they were. Clones are the same picture.
#[derive(Clone, Debug)]
pub struct Snapshot(Arc<Picture>);

#[derive(Debug)]
struct Picture {
    home: Home,
    /// Logs that nobody writes to any more, below the data directory.
    sealed: BTreeSet<PathBuf>,
    builder: Builder,
    clock: TestClock,
}

impl Broker {
    /// Takes a picture of everything the broker holds. What is written meanwhile is in it, or not, from some point on.
    ///
    /// # Errors
    /// [`Error::Kept`] of a broker over a directory that is kept, [`Error::Archive`] of one with an archive; what the disk says.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        if matches!(self.home.medium, Medium::Kept) {
            return Err(Error::Kept);
        }
        if self.builder.archive().is_some() {
            return Err(Error::Archive { action: "copied" });
        }
        let sealed = self.run(async |broker| {
            broker.settle().await?;
            sealed_logs(&broker)
        });
        let sealed = sealed.await?;
        let (home, faults, logs) = (self.home.clone(), self.faults().clone(), sealed.clone());
        let copied = self.running()?.runtime.spawn_blocking(move || {
            let _still = faults.hold_still();
            home.copy(&logs)
        });
        let picture = Picture {
            home: copied.await.unwrap_or(Err(Error::NotRunning))?,
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
        let builder = self.0.builder.clone();
        Broker::begin(builder, home, self.0.clock.fork()).await
    }
}

fn sealed_logs(broker: &broker::Broker) -> Result<BTreeSet<PathBuf>, Error> {
    let mut sealed = BTreeSet::new();
    for topic in broker.list_topics() {
        for log in broker.describe_log(&topic.name, &AskedPartitions::all())? {
            let dir = PathBuf::from(format!("{}-{}", topic.name, log.partition));
            let segments = log.segments.iter();
            let segments = segments.filter(|segment| segment.state != SegmentState::Active);
            sealed.extend(segments.map(|segment| dir.join(format!("{:020}.log", segment.base.0))));
        }
    }
    Ok(sealed)
}

impl Home {
    /// Copies the data, as it is found after a crash of the process at this moment.
    fn copy(&self, sealed: &BTreeSet<PathBuf>) -> Result<Self, Error> {
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
