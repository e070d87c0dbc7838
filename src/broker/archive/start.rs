//! Opening the archive at a start.
//!
//! 0. A directory that was restored looks whether the archive is still what it was made of (`take_over.rs`).
//! 1. The bucket is probed: it must take writes, and create only where it is told to. If it dies here: a few bytes stay in it.
//! 2. Its next epoch is claimed; from then on it is the epoch of this start, in every batch too. If it dies here: an epoch is lost,
//!    nobody misses it.
//! 3. The catalog is read, and once the partitions are open, the manifests of all that have something to do with the bucket. A log
//!    start that the manifest knows better is raised. A directory that was restored writes an empty entry into each of them first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use tokio::runtime::Handle;

use crate::broker::core::Core;
use crate::broker::served::Served;
use crate::broker::{BrokerConfig, Error, translate};
use crate::env::{Fs, process_name};
use crate::storage::{CACHE_FOLDER, RestoreMark, Store};
use crate::telemetry::Metrics;
use crate::tier::{
    Author, CATALOG, CacheLimits, CallLimits, Catalog, ChunkCache, Claimant, Claims, Ledger, Manifest, Pace,
    PartitionKey, TierError, TierStore, Uploader, WriterId,
};
use crate::types::{Offset, Timestamp};

use super::Access;
use super::bucket::{Archive, Tiered};
use super::mount::{follow_compaction, follow_to};
use super::take_over::{Looked, TakeOver, look, went_on};

/// How long opening the bucket may take, and each manifest after the one before.
const OPEN_DEADLINE: Duration = Duration::from_secs(60);
/// Manifests that are read at the same time.
pub(super) const MANIFESTS_AT_ONCE: usize = 32;
/// Longest text of a refusal, in characters: stores answer with whole pages.
const REFUSAL_MAX: usize = 600;

impl Archive {
    /// Opens the bucket that the configuration names, and makes its epoch the store's. Blocks; runs on a thread of the runtime that may.
    pub(in crate::broker) fn open(
        config: &BrokerConfig,
        fs: &Arc<dyn Fs>,
        (store, restored): (&Store, Option<&RestoreMark>),
        (metrics, now): (&Arc<Metrics>, Timestamp),
    ) -> Result<Option<Arc<Self>>, Error> {
        let Some(url) = &config.archive.url else {
            return Ok(None);
        };
        if config.archive.access == Access::Read {
            return Self::mount(config, fs, metrics).map(Some);
        }
        let bucket = match opened(config, url) {
            Ok(bucket) => bucket,
            Err(error) => return Err(refused(&error)),
        };
        let claimant = Claimant {
            cluster_id: store.cluster_id().to_owned(),
            host: process_name(),
            least_epoch: store.epoch(),
            writer: WriterId(random()?),
        };
        let looked = match restored {
            Some(mark) => Some(Handle::current().block_on(look(&bucket, mark))?),
            None => None,
        };
        let attempt = u64::from_be_bytes(random()?);
        let claiming = claim(bucket.clone(), &claimant, attempt, now);
        let (claims, author) = Handle::current().block_on(in_time(claiming, &bucket))?;
        let Looked { catalog, manifests } = match looked {
            Some(looked) => looked,
            None => Handle::current().block_on(in_time(nothing_but_catalog(&bucket), &bucket))?,
        };
        store
            .raise_epoch(author.epoch)
            .map_err(|error| translate::store(&config.data_dir.display(), &error))?;
        tracing::info!(archive = %bucket, epoch = author.epoch.0, topics = catalog.state().topics().len(), "archive opened");
        let uploader = Uploader::new(Arc::clone(fs), bucket.clone())
            .at_pace(Pace::of(config.archive.upload_max_bytes_per_second));
        let cache = cache(fs, config);
        let archive = Self::over(
            (bucket, author),
            uploader,
            claims,
            (catalog, Arc::clone(metrics), cache),
            config.archive.clone(),
        );
        *archive.looked.lock() = manifests;
        Ok(Some(Arc::new(archive)))
    }

    /// Reads the manifests of all partitions that have something to do with the bucket. A directory that was restored takes the archive
    /// over first. Blocks, as [`open`](Self::open) does.
    pub(in crate::broker) fn know(&self, core: &Core, restored: Option<&RestoreMark>) -> Result<(), Error> {
        let take_over = restored.map(|mark| TakeOver {
            mark,
            author: self.author,
            now: core.now(),
        });
        if let Some(take_over) = take_over {
            take_over.check_logs(core)?;
            let mut catalog = self.catalog.blocking_lock();
            let taken = Handle::current().block_on(take_over.catalog(&mut catalog));
            taken.map_err(|error| refused(&error))?.map_err(went_on)?;
        }
        let mut known = Vec::new();
        let mut fresh = Vec::new();
        {
            let catalog = self.catalog.blocking_lock();
            for topic in core.topics.all() {
                if catalog.state().topics().contains_key(&topic.id) {
                    known.extend(topic.partitions.iter().cloned());
                } else if core.config.archives(&topic.name, &topic.config) {
                    fresh.extend(topic.partitions.iter().cloned());
                }
            }
        }
        for served in fresh {
            self.begin(&served);
        }
        let mut looked = std::mem::take(&mut *self.looked.lock());
        let open = |served: Arc<Served>| {
            let (key, store, cache) = (key_of(&served), self.store.clone(), Arc::clone(&self.cache));
            let looked = looked.remove(&key);
            async move {
                let mut ledger = match looked {
                    Some(ledger) => ledger,
                    None => Ledger::open(store, key.manifest(), Manifest::empty(&key)).await?,
                };
                let taken = match take_over {
                    Some(take_over) => take_over.manifest(served.id(), &mut ledger).await?,
                    None => Ok(()),
                };
                Ok::<_, TierError>((served, Tiered::new(key, ledger, cache), taken))
            }
        };
        let read = stream::iter(known).map(open).buffer_unordered(MANIFESTS_AT_ONCE);
        let read = Handle::current().block_on(all_in_time(read, &self.store))?;
        for (served, tiered, taken) in read {
            taken.map_err(went_on)?;
            match core.config.archive.access {
                Access::Own => reconcile(&served, &tiered)?,
                // The owner may have gone on since the directory was made.
                Access::Read => {
                    follow_compaction(&served, &tiered.manifest());
                    follow_to(core, &served, &tiered.manifest());
                }
            }
            tiered.tell(&served);
            self.partitions
                .write()
                .insert(served.id().clone(), Arc::new(tiered));
        }
        if restored.is_some() {
            RestoreMark::remove(&core.files, &core.config.data_dir)
                .map_err(|error| translate::store(&core.config.data_dir.display(), &error))?;
        }
        Ok(())
    }

    /// Begins with a partition that most likely has nothing in the bucket: its first entry finds out.
    pub(super) fn begin(&self, served: &Arc<Served>) -> Arc<Tiered> {
        let key = key_of(served);
        let ledger = Ledger::unread(self.store.clone(), key.manifest(), Manifest::empty(&key));
        let tiered = Arc::new(Tiered::new(key, ledger, Arc::clone(&self.cache)));
        self.partitions
            .write()
            .insert(served.id().clone(), Arc::clone(&tiered));
        tiered
    }
}

/// Makes the cache of cold reads: in memory alone, where its folder cannot be used.
pub(super) fn cache(fs: &Arc<dyn Fs>, config: &BrokerConfig) -> Arc<ChunkCache> {
    let limits = CacheLimits::default();
    let folder = config.data_dir.join(CACHE_FOLDER);
    ChunkCache::with_folder(limits, Arc::clone(fs), &folder).unwrap_or_else(|error| {
        tracing::warn!(folder = %folder.display(), %error, "cold reads are kept in memory alone");
        ChunkCache::in_memory(limits)
    })
}

/// Opens the bucket that the configuration names.
pub(super) fn opened(config: &BrokerConfig, url: &str) -> Result<TierStore, TierError> {
    match &config.archive.store {
        Some(store) => Ok(store.clone()),
        None => TierStore::open(url, CallLimits::default()),
    }
}

async fn claim(
    bucket: TierStore,
    claimant: &Claimant,
    attempt: u64,
    now: Timestamp,
) -> Result<(Claims, Author), TierError> {
    bucket.probe(attempt).await?;
    let mut claims = Claims::read(bucket.clone()).await?;
    let author = claims.claim(claimant, now).await?;
    Ok((claims, author))
}

async fn nothing_but_catalog(bucket: &TierStore) -> Result<Looked, TierError> {
    Ok(Looked {
        catalog: Ledger::open(bucket.clone(), CATALOG.to_owned(), Catalog::default()).await?,
        manifests: HashMap::new(),
    })
}

/// Waits for a part of opening the bucket, not for ever.
pub(super) async fn in_time<T>(
    work: impl Future<Output = Result<T, TierError>>,
    bucket: &TierStore,
) -> Result<T, Error> {
    match tokio::time::timeout(OPEN_DEADLINE, work).await {
        Ok(done) => done.map_err(|error| refused(&error)),
        Err(_) => Err(unanswered(bucket)),
    }
}

/// Collects what is read of the bucket. However much there is, one comes after the other in time, or the start is over.
pub(super) async fn all_in_time<T>(
    read: impl Stream<Item = Result<T, TierError>>,
    bucket: &TierStore,
) -> Result<Vec<T>, Error> {
    let mut read = std::pin::pin!(read);
    let mut all = Vec::new();
    loop {
        match tokio::time::timeout(OPEN_DEADLINE, read.next()).await {
            Ok(Some(Ok(one))) => all.push(one),
            Ok(Some(Err(error))) => return Err(refused(&error)),
            Ok(None) => return Ok(all),
            Err(_) => return Err(unanswered(bucket)),
        }
    }
}

/// Holds a log and its manifest against each other.
fn reconcile(served: &Served, tiered: &Tiered) -> Result<(), Error> {
    let (manifest, marks) = (tiered.manifest(), served.log.watermarks());
    if !manifest.segments().is_empty() && manifest.end() > marks.log_end {
        return Err(Error::ArchiveRefused {
            reason: format!(
                "the archive has {} up to offset {}, and the log in the data directory ends at {}: this is not the directory that \
                 was archived last, or a part of it is lost; put it back, or restore the data directory from the archive",
                served.id(),
                manifest.end(),
                marks.log_end
            ),
        });
    }
    let mut start = manifest.log_start();
    let has_it = manifest
        .segment_at(marks.log_start.max(start))
        .is_some_and(|segment| segment.id.base < marks.local_start);
    if !has_it && marks.log_start < marks.local_start {
        // It is nowhere: a full disk was freed of it before the new log start could be written.
        start = start.max(marks.local_start);
    }
    let start = start.min(marks.high_watermark);
    if start > marks.log_start
        && let Err(error) = served.log.raise_log_start(start)
    {
        tracing::warn!(partition = %served.id(), %error, "the archive begins later than the log, which keeps its start");
    }
    Ok(())
}

pub(super) fn key_of(served: &Served) -> PartitionKey {
    let id = served.id();
    PartitionKey {
        topic: id.topic.clone(),
        topic_id: served.log.topic_id(),
        partition: id.partition,
    }
}

pub(super) fn random<const LEN: usize>() -> Result<[u8; LEN], Error> {
    let mut bytes = [0; LEN];
    getrandom::fill(&mut bytes).map_err(|error| Error::Storage {
        target: "the system's random source".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(bytes)
}

fn unanswered(bucket: &TierStore) -> Error {
    Error::ArchiveRefused {
        reason: format!(
            "the archive at {bucket} did not answer within {} s; start without tier.url, or try again",
            OPEN_DEADLINE.as_secs()
        ),
    }
}

pub(super) fn refused(error: &TierError) -> Error {
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = text.chars().take(REFUSAL_MAX).collect();
    let advice = match error {
        TierError::Url { .. } | TierError::IgnoresCreateOnly { .. } => "choose another tier.url",
        TierError::ForeignCluster { .. } => {
            "choose another tier.url, or the data directory that belongs to this archive"
        }
        TierError::Fenced { .. } => "stop the other server first",
        TierError::Damaged { .. } => "look at the archive with `siltstone tier verify`",
        _ => "look at the bucket's name, its credentials and what they permit, or start without tier.url",
    };
    Error::ArchiveRefused {
        reason: format!("the archive cannot be used: {short}; {advice}"),
    }
}

/// The log start that the bucket is to know: what is before it is gone.
pub(super) fn start_of(served: &Served) -> Offset {
    served.log.watermarks().log_start
}
