//! The first start of a directory that was restored: it takes the archive over, if that is still what the directory was made of.
//!
//! 1. It looks, and writes nothing: the address, the topics and the end of each log must be those of the mark. If not, the start is refused, and
//!    whoever owns the archive goes on.
//! 2. The archive is claimed (`start.rs`). If it dies here: the next start begins anew, and so does a server that owned the archive.
//! 3. An empty entry goes into every ledger, behind which nobody of before writes, and it looks once more: what came between the
//!    first look and the entry refuses the start, too.
//! 4. The mark goes. If it dies before: the next start looks again, and finds what it left.
//!
//! Each ledger is read once, by the first look; the entry of step 3 finds out what came behind.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use crate::broker::Error;
use crate::broker::core::Core;
use crate::broker::served::Served;
use crate::storage::RestoreMark;
use crate::tier::{Author, CATALOG, Catalog, Ledger, Manifest, PartitionKey, State, TierError, TierStore};
use crate::types::{PartitionId, Timestamp, TopicPartition};

use super::start::{MANIFESTS_AT_ONCE, all_in_time, in_time};

/// Ledgers of an archive as the first look found them.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) catalog: Ledger<Catalog>,
    pub(super) manifests: HashMap<PartitionKey, Ledger<Manifest>>,
}

/// Looks whether an archive is still what a directory was made of. Claims nothing, writes nothing.
pub(super) async fn look(bucket: &TierStore, mark: &RestoreMark) -> Result<Looked, Error> {
    if mark.from != bucket.url() {
        return Err(Error::ArchiveRefused {
            reason: format!(
                "the data directory was restored from {}, and most of its data may be only there: start it with that tier.url, or restore from \
                 {bucket} into an empty directory",
                mark.from
            ),
        });
    }
    let catalog = Ledger::open(bucket.clone(), CATALOG.to_owned(), Catalog::default());
    let catalog = in_time(catalog, bucket).await?;
    is_same_catalog(&catalog, mark).map_err(|WentOn(what)| went_on_before(&what))?;
    let topics = catalog.state().topics().values();
    let keys = topics.flat_map(|topic| {
        (0..topic.partitions).map(|number| PartitionKey {
            topic: topic.name.clone(),
            topic_id: topic.id,
            partition: PartitionId(number),
        })
    });
    let keys: Vec<_> = keys.collect();
    let read = stream::iter(keys).map(|key| async move {
        let ledger = Ledger::open(bucket.clone(), key.manifest(), Manifest::empty(&key)).await?;
        Ok::<_, TierError>((key, ledger))
    });
    let manifests = all_in_time(read.buffer_unordered(MANIFESTS_AT_ONCE), bucket).await?;
    for (key, ledger) in &manifests {
        let id = TopicPartition::new(key.topic.clone(), key.partition);
        is_same_log(&id, ledger, mark).map_err(|WentOn(what)| went_on_before(&what))?;
    }
    Ok(Looked {
        catalog,
        manifests: manifests.into_iter().collect(),
    })
}

fn is_same_catalog(ledger: &Ledger<Catalog>, mark: &RestoreMark) -> Result<(), WentOn> {
    let is_same = ledger.state().topics_crc() == mark.catalog_crc;
    is_same.then_some(()).ok_or_else(|| WentOn(CATALOG.to_owned()))
}

fn is_same_log(id: &TopicPartition, ledger: &Ledger<Manifest>, mark: &RestoreMark) -> Result<(), WentOn> {
    let is_same = ledger.state().end() <= mark.end(id);
    is_same.then_some(()).ok_or_else(|| WentOn(id.to_string()))
}

/// What a start does once it has claimed the archive.
#[derive(Clone, Copy)]
pub(super) struct TakeOver<'a> {
    pub(super) mark: &'a RestoreMark,
    pub(super) author: Author,
    pub(super) now: Timestamp,
}

/// The ledger that went on since the restore.
pub(super) struct WentOn(String);

impl TakeOver<'_> {
    /// Fences the catalog.
    pub(super) async fn catalog(
        &self,
        ledger: &mut Ledger<Catalog>,
    ) -> Result<Result<(), WentOn>, TierError> {
        self.fence(ledger).await?;
        Ok(is_same_catalog(ledger, self.mark))
    }

    /// Fences the manifest of a partition.
    pub(super) async fn manifest(
        &self,
        id: &TopicPartition,
        ledger: &mut Ledger<Manifest>,
    ) -> Result<Result<(), WentOn>, TierError> {
        self.fence(ledger).await?;
        Ok(is_same_log(id, ledger, self.mark))
    }

    async fn fence<S: State>(&self, ledger: &mut Ledger<S>) -> Result<(), TierError> {
        ledger.append(self.author, self.now, |_| Some(Vec::new())).await?;
        Ok(())
    }

    /// A log that this server compacts must have come here whole: whoever restored may have known other defaults.
    pub(super) fn check_logs(&self, core: &Core) -> Result<(), Error> {
        for topic in core.topics.all() {
            let is_cold = |served: &&Arc<Served>| {
                let marks = served.log.watermarks();
                marks.log_start < marks.local_start
            };
            if topic.config.cleanup.compacts()
                && let Some(served) = topic.partitions.iter().find(is_cold)
            {
                return Err(Error::ArchiveRefused {
                    reason: format!(
                        "{} is compacted by the defaults of this server, which needs all of it on the local disk, and was restored without: \
                         restore again, into an empty directory, with --download",
                        served.id()
                    ),
                });
            }
        }
        Ok(())
    }
}

/// Says that a restored directory is older than its archive, which nobody has touched.
fn went_on_before(what: &str) -> Error {
    Error::ArchiveRefused {
        reason: format!(
            "the archive went on after this data directory was restored from it ({what}): another server wrote to it, and may still; stop it if \
             it runs, and restore again into an empty directory"
        ),
    }
}

/// Says that a restored directory is older than its archive, which was claimed meanwhile.
pub(super) fn went_on(WentOn(what): WentOn) -> Error {
    Error::ArchiveRefused {
        reason: format!(
            "the archive went on after this data directory was restored from it ({what}): its old server was still alive, and has lost the \
             archive now; restore again, into an empty directory"
        ),
    }
}
