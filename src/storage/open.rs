//! Opening partitions, many at once.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::types::{Offset, Timestamp, TopicId, TopicPartition};

use super::config::LogConfig;
use super::error::StoreError;
use super::journal::{Journal, Known};
use super::partition::Partition;
use super::partition_dir;
use super::recovery::{Recovered, Recovery, Stop};
use super::segment_list::SegmentList;
use super::store::Store;
use super::watermarks::Watermarks;
use super::writer::{Readiness, Saved, Syncs, Unsynced, Writer};
use super::{LeaderEpochs, Producers};

/// Which partition to open, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionSpec {
    /// Topic and number.
    pub id: TopicPartition,
    /// The topic's id: a directory of another one is not this partition's.
    pub topic_id: TopicId,
    /// Its settings.
    pub config: LogConfig,
}

/// Opens partitions on several threads; results in the order of `specs`.
pub(super) fn open_all(
    store: &Store,
    specs: Vec<PartitionSpec>,
    now: Timestamp,
) -> Vec<Result<Arc<Partition>, StoreError>> {
    let count = specs.len();
    // Few partitions, or none on disk, are opened faster than threads are started.
    if count < 8 || store.threads < 2 {
        return specs.into_iter().map(|spec| open(store, spec, now)).collect();
    }
    let queue: Mutex<VecDeque<(usize, PartitionSpec)>> = Mutex::new(specs.into_iter().enumerate().collect());
    let opened = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..store.threads {
            scope.spawn(|| {
                loop {
                    let Some((index, spec)) = queue.lock().pop_front() else {
                        return;
                    };
                    let result = open(store, spec, now);
                    opened.lock().push((index, result));
                }
            });
        }
    });
    let mut opened = opened.into_inner();
    opened.sort_by_key(|(index, _)| *index);
    opened.into_iter().map(|(_, result)| result).collect()
}

fn open(store: &Store, spec: PartitionSpec, now: Timestamp) -> Result<Arc<Partition>, StoreError> {
    let dir: Arc<Path> = store.partition_dir(&spec.id).into();
    let log_start = store.log_starts.get(&spec.id).copied();
    let known = read_if_found(store, &spec.id, &dir);
    if !is_there(store, &spec, &dir, &known)? {
        let start = log_start.unwrap_or(Offset::ZERO);
        return Ok(assemble(store, spec, dir, Opened::absent(start)));
    }
    open_known(store, spec, known, store.stop, now)
}

/// Opens a partition whose directory was just made as a clean close leaves one.
pub(super) fn open_closed(
    store: &Store,
    spec: PartitionSpec,
    now: Timestamp,
) -> Result<Arc<Partition>, StoreError> {
    let known = Journal::read(&store.files, &store.partition_dir(&spec.id), &spec.id);
    open_known(store, spec, known, Stop::Clean, now)
}

fn open_known(
    store: &Store,
    spec: PartitionSpec,
    known: Known,
    stop: Stop,
    now: Timestamp,
) -> Result<Arc<Partition>, StoreError> {
    let dir: Arc<Path> = store.partition_dir(&spec.id).into();
    let recovery = Recovery {
        files: &store.files,
        id: &spec.id,
        dir: &dir,
        config: &spec.config,
        recovery_point: store
            .recovery_points
            .get(&spec.id)
            .copied()
            .unwrap_or(Offset::ZERO),
        log_start: store.log_starts.get(&spec.id).copied(),
        stop,
        now,
    };
    let recovered = recovery.run(known)?;
    Ok(assemble(store, spec, Arc::clone(&dir), Opened::found(recovered)))
}

fn read_if_found(store: &Store, id: &TopicPartition, dir: &Path) -> Known {
    if store.found.lock().contains(id) {
        Journal::read(&store.files, dir, id)
    } else {
        Known::default()
    }
}

/// Tells whether the partition has a directory of its own; one of another topic is set aside.
fn is_there(store: &Store, spec: &PartitionSpec, dir: &Path, known: &Known) -> Result<bool, StoreError> {
    if !store.found.lock().contains(&spec.id) {
        return Ok(false);
    }
    if store.stop == Stop::Clean && known.belongs_to(spec.topic_id) {
        return Ok(true);
    }
    match partition_dir::read_topic_id(&store.files, dir) {
        Some(id) if id == spec.topic_id => Ok(true),
        // Made and not yet written to when the process died: its metadata file comes before its first record.
        None if partition_dir::is_empty(&store.files, dir)? => Ok(true),
        found => {
            let aside = store.set_aside(&spec.id)?;
            tracing::warn!(partition = %spec.id, ?found, expected = ?spec.topic_id, aside = %aside.display(),
                "directory of another topic set aside");
            Ok(false)
        }
    }
}

/// What the parts of a partition are made of.
struct Opened {
    readiness: Readiness,
    list: SegmentList,
    log_start: Offset,
    log_end: Offset,
    first_unstable: Option<Offset>,
    epochs: LeaderEpochs,
    epochs_file: Saved,
    journal: Journal,
}

impl Opened {
    fn absent(start: Offset) -> Self {
        Self {
            readiness: Readiness::Absent,
            list: SegmentList::default(),
            log_start: start,
            log_end: start,
            first_unstable: None,
            epochs: LeaderEpochs::default(),
            epochs_file: Saved::Yes,
            journal: Journal::default(),
        }
    }

    fn found(recovered: Recovered) -> Self {
        Self {
            readiness: Readiness::Closed,
            list: SegmentList::of(recovered.segments),
            log_start: recovered.log_start,
            log_end: recovered.log_end,
            first_unstable: recovered.first_unstable,
            epochs_file: if recovered.epochs.entries().is_empty() {
                Saved::Yes
            } else {
                Saved::No
            },
            epochs: recovered.epochs,
            journal: recovered.journal,
        }
    }
}

fn assemble(store: &Store, spec: PartitionSpec, dir: Arc<Path>, opened: Opened) -> Arc<Partition> {
    let marks = Watermarks::recovered(opened.log_start, opened.log_end, spec.config.durability);
    marks.set_first_unstable(opened.first_unstable);
    let segments = Arc::new(RwLock::new(opened.list));
    let writer = Writer {
        files: Arc::clone(&store.files),
        dir,
        id: spec.id.clone(),
        topic_id: spec.topic_id,
        segments: Arc::clone(&segments),
        readiness: opened.readiness,
        producers: Producers::default(),
        epochs: opened.epochs,
        epochs_file: opened.epochs_file,
        journal: opened.journal,
        unsynced: Unsynced::default(),
        syncs: Syncs::default(),
        refused: None,
    };
    Arc::new(Partition {
        id: spec.id,
        topic_id: spec.topic_id,
        files: Arc::clone(&store.files),
        epoch: Arc::clone(&store.epoch),
        config: RwLock::new(Arc::new(spec.config)),
        marks,
        segments,
        writer: Mutex::new(writer),
    })
}
