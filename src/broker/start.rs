//! From a data directory to a running broker, and back.
//!
//! Starting
//! 0. An empty directory is filled from the archive, where the configuration says so (`archive/restore.rs`).
//! 1. Storage takes the lock and claims its epoch; a directory that a restore left half made stops the start. Where there is an archive, it is opened and its epoch is claimed as well
//!    (`archive/start.rs`); its manifests are read after step 5.
//! 2. The metadata partition is opened, recovered if need be, and read.
//! 3. Deletions that had begun are finished. *If it dies here:* the next start finishes them.
//! 4. Directories that no topic owns are set aside, never removed. If there are some and the metadata is empty, the start
//!    stops instead: this is somebody else's directory, or the metadata was lost.
//! 5. All partitions are opened in parallel; one that cannot be opened stops the start, by name.
//! 6. The commit thread and the background tasks begin.
//!
//! Stopping: the gate closes for newcomers; what is inside is waited for, acknowledgements included; tasks and thread end
//! and are joined; storage syncs, writes the clean marker and gives the lock back. A disk without room for the marker, or for
//! what it vouches for, is no failure once every log is synced: the next start recovers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::env::step_back;
use crate::env::{CacheLimits, FileCache, Fs};
use crate::storage::{Closing, PartitionSpec, RestoreMark, Store, StoreConfig};
use crate::telemetry::Metrics;
use crate::types::{TopicName, TopicPartition};

use super::admin::Admin;
use super::archive::{Access, Archive};
use super::budget::Budget;
use super::cleaner::Desk;
use super::commit::{Commit, Syncer};
use super::core::Core;
use super::disk::DiskGuard;
use super::flush::Flushes;
use super::gate::Gate;
use super::metadata::{self, Contents, MetadataLog, State, TopicEntry};
use super::opening::Openings;
use super::producer_ids::ProducerIds;
use super::read::OPEN_POSITIONS_MAX;
use super::removal::Removals;
use super::repair::Repairs;
use super::retention::RetentionWork;
use super::served::Served;
use super::settings::{Settings, TopicConfig};
use super::topics::{Topic, Topics};
use super::wait::{REGISTRATIONS_MAX, WaitSet};
use super::{BrokerConfig, Error, World, schedule, translate};

/// How long a shutdown waits for what is under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How far the archive may be behind the store's own topics, in milliseconds.
const INTERNAL_MAX_LAG_MS: &str = "5000";
/// How many stray directories an error names.
const STRAYS_NAMED: usize = 3;

/// Ends the background when the last handle of the broker is dropped, or joins it at shutdown.
#[derive(Debug)]
pub(super) struct Running {
    core: Arc<Core>,
    background: Mutex<Option<Background>>,
}

#[derive(Debug)]
struct Background {
    commit: thread::JoinHandle<()>,
    cleaners: Vec<thread::JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
}

/// Starts a broker.
pub(super) async fn start(config: BrokerConfig, world: World) -> Result<(Arc<Core>, Arc<Running>), Error> {
    let opening = tokio::task::spawn_blocking(move || open(config, world));
    let core = match opening.await {
        Ok(core) => core?,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => return Err(Error::ShuttingDown),
    };
    let (commit, syncer) = (Arc::clone(&core.commit), Arc::clone(&core.syncer));
    let commit = spawn("siltstone-commit".to_owned(), move || commit.serve(&syncer))?;
    let clean = |number| {
        let core = Arc::clone(&core);
        spawn(format!("siltstone-cleaner-{number}"), move || {
            step_back();
            core.serve_cleaner()
        })
    };
    let cleaners = match core.config.archive.access {
        Access::Own => core.config.cleaner.threads,
        Access::Read => 0,
    };
    let cleaners = (0..cleaners).map(clean).collect::<Result<Vec<_>, Error>>()?;
    let background = Background {
        commit,
        cleaners,
        tasks: schedule::start(&core),
    };
    let running = Running {
        core: Arc::clone(&core),
        background: Mutex::new(Some(background)),
    };
    Ok((core, Arc::new(running)))
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, Error> {
    let failed = |error: std::io::Error| Error::Storage {
        target: format!("the thread {name}"),
        reason: error.to_string(),
    };
    thread::Builder::new()
        .name(name.clone())
        .spawn(work)
        .map_err(failed)
}

impl Running {
    /// Stops the broker. A second call returns at once.
    pub(super) async fn shutdown(&self) -> Result<(), Error> {
        let core = &self.core;
        if !core.gate.stop() {
            return Ok(());
        }
        // A pass ends within a chunk, beside what is waited for.
        core.cleaner.end();
        if tokio::time::timeout(DRAIN_TIMEOUT, core.gate.drained())
            .await
            .is_err()
        {
            tracing::warn!(waited = ?DRAIN_TIMEOUT, "work is still under way; stopping without it");
        }
        if let Some(archive) = &core.archive {
            let settling = Arc::clone(core);
            // Its result is a panic that was reported where it happened.
            let _ = tokio::task::spawn_blocking(move || settling.settle_metadata()).await;
            archive.finish(core).await;
        }
        core.gate.close();
        core.commit.end();
        self.join().await;
        core.close_served();
        let core = Arc::clone(core);
        let closed = tokio::task::spawn_blocking(move || {
            core.settle_metadata();
            core.store.close().map_err(|error| (core, error))
        });
        match closed.await {
            Ok(Ok(Closing::Clean)) => Ok(()),
            Ok(Ok(Closing::NoRoom(error))) => {
                tracing::warn!(%error, "no room to write down a clean stop; every record is safe, and the next start recovers");
                Ok(())
            }
            Ok(Err((core, error))) => Err(translate::store(&core.config.data_dir.display(), &error)),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::ShuttingDown),
        }
    }
}

impl Running {
    /// See [`super::Broker::abort`].
    pub(super) async fn abort(&self) {
        let core = &self.core;
        core.gate.stop();
        core.gate.close();
        core.cleaner.end();
        core.commit.end();
        self.join().await;
        core.close_served();
    }

    /// Waits for tasks and threads that were told to end.
    async fn join(&self) {
        let background = self.background.lock().take();
        let Some(background) = background else { return };
        for task in background.tasks {
            // A task that panicked has said so; there is nothing left to end.
            let _ = task.await;
        }
        for thread in background.cleaners {
            join(thread).await;
        }
        join(background.commit).await;
    }
}

impl Core {
    fn close_served(&self) {
        for topic in self.topics.all() {
            for served in &topic.partitions {
                served.close(&Error::ShuttingDown);
            }
        }
    }
}

async fn join(thread: thread::JoinHandle<()>) {
    // Both results are a panic that was reported where it happened.
    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
}

impl Drop for Running {
    /// Without a shutdown: as after a crash, but no task and no thread stays behind.
    fn drop(&mut self) {
        self.core.gate.close();
        self.core.cleaner.end();
        self.core.commit.end();
    }
}

/// Makes the cache of open files that the configuration asks for.
pub(super) fn file_cache(config: &BrokerConfig, fs: Arc<dyn Fs>) -> FileCache {
    let limits = CacheLimits {
        open_files: config.max_open_files,
        maps: config.max_maps,
        ..CacheLimits::default()
    };
    FileCache::new(fs, limits)
}

/// Opens everything; blocks for the disk.
fn open(config: BrokerConfig, world: World) -> Result<Arc<Core>, Error> {
    let settings = Settings::new(&config.topic_defaults)?.within(config.max_request_bytes)?;
    let files = Arc::new(file_cache(&config, world.fs));
    let store_config = StoreConfig {
        dir: config.data_dir.clone(),
        threads: config.recovery_threads,
    };
    Archive::restore_first(&config, &files, world.clock.now())?;
    let told = |error| translate::store(&config.data_dir.display(), &error);
    let store = Arc::new(Store::open(Arc::clone(&files), store_config).map_err(told)?);
    let restored = restored(&config, &files)?;
    let metrics = Arc::new(Metrics::new());
    let archive = Archive::open(
        &config,
        files.fs(),
        (&store, restored.as_ref()),
        (&metrics, world.clock.now()),
    )?;

    let disk = Arc::new(DiskGuard::new(&config.data_dir, config.min_free_bytes));
    let (metadata_topic, served) = open_metadata(&config, &store, world.clock.now())?;
    let metadata_log = MetadataLog::new(served, Arc::clone(&disk));
    let contents = metadata::read(&metadata_log.served().log)?;
    set_strays_aside(&store, &contents, &config.data_dir)?;

    let repairs = Arc::new(Repairs::default());
    let admin = Admin {
        metadata: metadata_log,
        producer_ids: ProducerIds::after(contents.next_producer_id),
        deleting: BTreeMap::new(),
    };
    let core = Core {
        cleaner: Desk::new(config.cleaner),
        disk: Arc::clone(&disk),
        inflight: Budget::new(
            "bytes of produce requests under way",
            config.max_inflight_produce_bytes,
        ),
        clock: world.clock,
        files,
        settings,
        topics: Topics::default(),
        admin: Arc::new(tokio::sync::Mutex::new(admin)),
        adopting: tokio::sync::Mutex::default(),
        gate: Gate::new(),
        commit: Commit::new(),
        syncer: Arc::new(Syncer {
            store: Arc::clone(&store),
            metrics: Arc::clone(&metrics),
            repairs: Arc::clone(&repairs),
            disk,
        }),
        flushes: Flushes::default(),
        repairs,
        removals: Removals::default(),
        openings: Openings::default(),
        retention: RetentionWork::default(),
        open_positions: Budget::new("partitions of open reads", OPEN_POSITIONS_MAX),
        archive,
        waits: WaitSet::new(REGISTRATIONS_MAX),
        metrics,
        store,
        config,
    };
    core.topics.put(metadata_topic);
    core.finish_deletions(&contents)?;
    core.open_topics(contents)?;
    if let Some(archive) = &core.archive {
        archive.know(&core, restored.as_ref())?;
    }
    core.look_at_disk();
    core.count_gauges();
    Ok(Arc::new(core))
}

/// Returns what a restore says of the directory that it made. After the lock: whoever restores has that while the mark says that it is
/// under way.
fn restored(config: &BrokerConfig, files: &FileCache) -> Result<Option<RestoreMark>, Error> {
    let dir = config.data_dir.display();
    let mark = RestoreMark::read(files, &config.data_dir).map_err(|error| translate::store(&dir, &error))?;
    match mark {
        Some(mark) if mark.is_mounted() && config.archive.access == Access::Own => Err(Error::Storage {
            target: dir.to_string(),
            reason: "it only stands for the archive of another server, and was made by a start with tier.read_only; choose another \
                     directory"
                .to_owned(),
        }),
        mark => Ok(mark.filter(|mark| !mark.is_mounted())),
    }
}

/// Settings of the metadata topic: the table's own, whatever the server's defaults are.
fn metadata_config() -> Result<TopicConfig, Error> {
    let own = [
        ("cleanup.policy", "compact"),
        ("durability", "synced"),
        ("tier.max.lag.ms", INTERNAL_MAX_LAG_MS),
    ];
    let own = own
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    Settings::default().resolve(&own.collect())
}

/// Opens the partition that the topics' metadata lies in.
pub(super) fn open_metadata(
    config: &BrokerConfig,
    store: &Store,
    now: crate::types::Timestamp,
) -> Result<(Topic, Arc<Served>), Error> {
    let id = metadata::partition();
    let topic_config = metadata_config()?;
    let spec = PartitionSpec {
        id: id.clone(),
        topic_id: metadata::TOPIC_ID,
        config: config.log_config(&id.topic, &topic_config, id.partition),
    };
    let log = store
        .open_partitions(vec![spec], now)
        .pop()
        .expect("one result for one partition");
    let served = Served::new(log.map_err(|error| translate::store(&id, &error))?);
    let topic = Topic::new(
        id.topic,
        metadata::TOPIC_ID,
        topic_config,
        vec![Arc::clone(&served)],
    );
    Ok((topic, served))
}

fn set_strays_aside(store: &Store, contents: &Contents, data_dir: &Path) -> Result<(), Error> {
    let owned = |found: &TopicPartition| {
        let entry = contents.topics.get(&found.topic);
        *found == metadata::partition() || entry.is_some_and(|entry| found.partition.0 < entry.partitions)
    };
    let strays: Vec<_> = store.found().into_iter().filter(|found| !owned(found)).collect();
    if !strays.is_empty() && contents.topics.is_empty() {
        let named: Vec<_> = strays
            .iter()
            .take(STRAYS_NAMED)
            .map(ToString::to_string)
            .collect();
        return Err(Error::Storage {
            target: data_dir.display().to_string(),
            reason: format!(
                "it holds {} partition directories ({}) and no topic: it is not this store's, or {} was lost; \
                 choose another directory, or move these away and bring them in with `siltstone topic adopt`",
                strays.len(),
                named.join(", "),
                metadata::partition()
            ),
        });
    }
    for stray in strays {
        let aside = store
            .set_aside(&stray)
            .map_err(|error| translate::store(&stray, &error))?;
        tracing::warn!(partition = %stray, aside = %aside.display(), "directory of no topic set aside");
    }
    Ok(())
}

impl Core {
    /// Finishes what an earlier run began to delete.
    fn finish_deletions(&self, contents: &Contents) -> Result<(), Error> {
        let mut admin = self.admin.blocking_lock();
        for (name, entry) in &contents.topics {
            if entry.state == State::Deleting {
                self.finish_deletion(&mut admin, name, entry)?;
                tracing::info!(topic = %name, "deletion finished");
            }
        }
        Ok(())
    }

    /// Opens the partitions of all topics at once.
    fn open_topics(&self, contents: Contents) -> Result<(), Error> {
        let active = contents
            .topics
            .into_iter()
            .filter(|(_, entry)| entry.state == State::Active);
        let mut specs = Vec::new();
        let mut topics: Vec<(TopicName, TopicEntry, TopicConfig)> = Vec::new();
        for (name, entry) in active {
            let mut config = self
                .settings
                .resolve(&entry.config)
                .map_err(|error| Error::Storage {
                    target: format!("topic {name}"),
                    reason: format!("{error}; it was valid when the topic was made"),
                })?;
            config.holds = entry.holds();
            let id = entry.topic_id().expect("checked when the entry was read");
            specs.extend((0..entry.partitions).map(|number| self.spec(&name, number, id, &config)));
            topics.push((name, entry, config));
        }
        let ids: Vec<_> = specs.iter().map(|spec| spec.id.clone()).collect();
        let opened = self.store.open_partitions(specs, self.now());
        let mut served = ids.iter().zip(opened).map(|(id, log)| {
            let log = log.map_err(|error| translate::store(id, &error))?;
            Ok(Served::new(log))
        });
        for (name, entry, config) in topics {
            let count = usize::try_from(entry.partitions).expect("checked when the entry was read");
            let partitions = served.by_ref().take(count).collect::<Result<Vec<_>, Error>>()?;
            let id = entry.topic_id().expect("checked when the entry was read");
            self.topics.put(Topic::new(name, id, config, partitions));
        }
        Ok(())
    }
}
