//! The bucket as this server owns it, and what is known of each partition in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::broker::Error;
use crate::broker::served::Served;
use crate::storage::SegmentFacts;
use crate::telemetry::Metrics;
use crate::tier::{
    Author, Catalog, ChunkCache, Claims, ColdLog, Ledger, Manifest, PartitionKey, TierError, TierStore,
    Trouble, Uploader,
};
use crate::types::{Offset, TopicId, TopicPartition};

use super::ArchiveConfig;

/// Reads of the bucket at the same time; others wait.
const COLD_READS: usize = 32;

/// See the module above.
#[derive(Debug)]
pub(in crate::broker) struct Archive {
    pub(super) store: TierStore,
    pub(super) author: Author,
    pub(super) uploader: Uploader,
    pub(super) config: ArchiveConfig,
    pub(super) claims: tokio::sync::Mutex<Claims>,
    pub(super) catalog: tokio::sync::Mutex<Ledger<Catalog>>,
    /// How the work on the catalog goes; while it fails, nothing else does.
    pub(super) catalog_state: Mutex<State>,
    pub(super) partitions: RwLock<HashMap<TopicPartition, Arc<Tiered>>>,
    /// Manifests that a start has read already, until it knows the partitions.
    pub(super) looked: Mutex<HashMap<PartitionKey, Ledger<Manifest>>>,
    /// Topics that the catalog of another server had when it was last looked at.
    pub(super) followed: Mutex<BTreeSet<TopicId>>,
    pub(super) cold_reads: Semaphore,
    /// What all cold reads share.
    pub(super) cache: Arc<ChunkCache>,
    pub(super) wake: Notify,
    /// Topics were made, changed or deleted since the catalog was last looked at.
    pub(super) catalog_is_old: AtomicBool,
    pub(super) metrics: Arc<Metrics>,
    /// Why this server must not publish any more.
    pub(super) fenced: watch::Sender<Option<String>>,
}

/// A partition that has something to do with the bucket.
#[derive(Debug)]
pub(super) struct Tiered {
    pub(super) key: PartitionKey,
    cache: Arc<ChunkCache>,
    ledger: Mutex<Option<Ledger<Manifest>>>,
    seen: RwLock<Arc<ColdLog>>,
    pub(super) state: Mutex<State>,
    /// Bytes of the upload under way.
    pub(super) sent: Arc<AtomicU64>,
}

/// How the work on a partition goes.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) failures: u32,
    pub(super) trouble: Option<String>,
    pub(super) is_stuck: bool,
    pub(super) is_uploading: bool,
    /// What is in the bucket may not be what the ledger says: it is read again first.
    pub(super) is_doubtful: bool,
    pub(super) again_at: Option<Instant>,
    /// Which rewrite of a segment was uploaded since the start, by its first offset.
    pub(super) rewrites: BTreeMap<Offset, u64>,
    /// When objects that nobody names were last looked for.
    pub(super) orphans_at: Option<Instant>,
    /// How removing objects goes.
    pub(super) removal: Removal,
    /// The cold read that failed last, until one of the same offset does not.
    pub(super) unread: Option<Unread>,
}

/// How the removal of what is not needed goes. It has failures of its own: a store that permits no removal takes uploads as before.
#[derive(Debug, Default)]
pub(super) struct Removal {
    pub(super) failures: u32,
    pub(super) trouble: Option<String>,
    pub(super) again_at: Option<Instant>,
}

/// How long a partition, or a removal, waits after its first failure, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Returns how long is waited after so many failures.
pub(super) fn pause_after(failures: u32) -> Duration {
    let doubled = BACKOFF.0 * 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
    doubled.min(BACKOFF.1)
}

impl Removal {
    /// Writes down how one went; tells whether a failure is the first of its kind.
    pub(super) fn note<T>(&mut self, done: &Result<T, TierError>) -> bool {
        let Err(error) = done else {
            *self = Self::default();
            return false;
        };
        let is_new = self.trouble.is_none();
        self.failures = self.failures.saturating_add(1);
        self.trouble = Some(error.to_string());
        self.again_at = Some(Instant::now() + pause_after(self.failures));
        is_new
    }

    /// Tells whether it is to be left alone for now.
    pub(super) fn is_waiting(&self) -> bool {
        self.again_at.is_some_and(|at| at > Instant::now())
    }
}

/// A cold read that failed.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) from: Offset,
    pub(super) reason: String,
    /// The object is missing or damaged: only a read of that place can tell that it is mended.
    pub(super) is_lost: bool,
}

impl Archive {
    pub(super) fn over(
        (store, author): (TierStore, Author),
        uploader: Uploader,
        claims: Claims,
        (catalog, metrics, cache): (Ledger<Catalog>, Arc<Metrics>, Arc<ChunkCache>),
        config: ArchiveConfig,
    ) -> Self {
        Self {
            store,
            author,
            uploader,
            config,
            claims: tokio::sync::Mutex::new(claims),
            catalog: tokio::sync::Mutex::new(catalog),
            catalog_state: Mutex::default(),
            partitions: RwLock::default(),
            looked: Mutex::default(),
            followed: Mutex::default(),
            cold_reads: Semaphore::new(COLD_READS),
            cache,
            wake: Notify::new(),
            catalog_is_old: AtomicBool::new(true),
            metrics,
            fenced: watch::Sender::new(None),
        }
    }

    /// Returns what is known of a partition.
    pub(super) fn of(&self, served: &Served) -> Option<Arc<Tiered>> {
        let partitions = self.partitions.read();
        let found = partitions.get(served.id())?;
        (found.key.topic_id == served.log.topic_id()).then(|| Arc::clone(found))
    }

    /// Has the work looked at soon.
    pub(in crate::broker) fn look(&self) {
        self.wake.notify_one();
    }

    /// Topics were made, changed or deleted.
    pub(in crate::broker) fn look_at_topics(&self) {
        self.catalog_is_old
            .store(true, std::sync::atomic::Ordering::Release);
        self.wake.notify_one();
    }

    /// Publishes nothing from now on.
    pub(super) fn fence(&self, error: &TierError) {
        let is_first = self.fenced.send_if_modified(|reason| {
            let is_first = reason.is_none();
            reason.get_or_insert_with(|| error.to_string());
            is_first
        });
        if is_first {
            tracing::error!(%error, "this server does not own the archive any more; it stops");
        }
    }

    /// Tells whether another server owns the bucket.
    pub(super) fn is_fenced(&self) -> bool {
        self.fenced.borrow().is_some()
    }

    /// Completes, with the reason, when another server owns the bucket.
    pub(in crate::broker) fn lost(&self) -> impl Future<Output = String> + Send + 'static {
        let mut fenced = self.fenced.subscribe();
        async move {
            let lost = fenced.wait_for(Option::is_some).await;
            let reason = lost.ok().and_then(|reason| reason.clone());
            match reason {
                Some(reason) => reason,
                // The broker is gone.
                None => std::future::pending().await,
            }
        }
    }
}

impl Tiered {
    pub(super) fn new(key: PartitionKey, ledger: Ledger<Manifest>, cache: Arc<ChunkCache>) -> Self {
        let seen = ColdLog::new(
            ledger.store().clone(),
            key.clone(),
            Arc::new(ledger.state().clone()),
            Arc::clone(&cache),
        );
        Self {
            key,
            cache,
            ledger: Mutex::new(Some(ledger)),
            seen: RwLock::new(Arc::new(seen)),
            state: Mutex::default(),
            sent: Arc::default(),
        }
    }

    /// Returns what readers read by.
    pub(super) fn cold(&self) -> Arc<ColdLog> {
        Arc::clone(&self.seen.read())
    }

    /// Returns the manifest that readers see.
    pub(super) fn manifest(&self) -> Arc<Manifest> {
        Arc::clone(self.seen.read().manifest())
    }

    /// Takes the manifest out to write it; `None` while somebody else has it.
    pub(super) fn take(&self) -> Option<Writing<'_>> {
        let ledger = self.ledger.lock().take()?;
        Some(Writing {
            of: self,
            ledger: Some(ledger),
        })
    }

    /// Tells whether somebody is writing the manifest.
    pub(super) fn is_taken(&self) -> bool {
        self.ledger.lock().is_none()
    }

    /// Shows readers, and the log, what the manifest says now.
    pub(super) fn show(&self, ledger: &Ledger<Manifest>, served: &Served) {
        let cold = ColdLog::new(
            ledger.store().clone(),
            self.key.clone(),
            Arc::new(ledger.state().clone()),
            Arc::clone(&self.cache),
        );
        *self.seen.write() = Arc::new(cold);
        self.tell(served);
    }

    /// Tells the log which segments the bucket has.
    pub(super) fn tell(&self, served: &Served) {
        let manifest = self.manifest();
        let facts = manifest
            .segments()
            .values()
            .map(|segment| SegmentFacts::of(&segment.summary));
        served.log.set_archived(facts.collect());
    }
}

/// A manifest that is being written; it goes back when this is dropped.
#[derive(Debug)]
pub(super) struct Writing<'a> {
    of: &'a Tiered,
    ledger: Option<Ledger<Manifest>>,
}

impl Deref for Writing<'_> {
    type Target = Ledger<Manifest>;

    fn deref(&self) -> &Ledger<Manifest> {
        self.ledger.as_ref().expect("it is there until the drop")
    }
}

impl DerefMut for Writing<'_> {
    fn deref_mut(&mut self) -> &mut Ledger<Manifest> {
        self.ledger.as_mut().expect("it is there until the drop")
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        *self.of.ledger.lock() = self.ledger.take();
    }
}

/// What went wrong with the bucket, as a caller of the broker is told it.
pub(super) fn told(id: &TopicPartition, error: &TierError) -> Error {
    match error {
        TierError::Damaged { .. } => Error::Damaged {
            partition: id.clone(),
            lost: None,
            reason: error.to_string(),
        },
        error if error.trouble() == Some(Trouble::NotFound) => Error::Damaged {
            partition: id.clone(),
            lost: None,
            reason: error.to_string(),
        },
        error => Error::ArchiveUnavailable {
            target: id.to_string(),
            reason: error.to_string(),
        },
    }
}
