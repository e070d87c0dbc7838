//! Opening partitions, many at once.
//!
//! A partition that was there and whose directory is gone (not mounted, moved away, removed by hand) is told as an error and
//! begins where the checkpoints say that it ended: no offset that somebody may hold is given to other content. It is not
//! refused: one lost directory would keep all others from being served, and nobody could delete its topic. Nothing is made on
//! disk and no line of the checkpoints changes before its first append, so until then the directory can be put back.
//!
//! A partition of which the archive has everything needs no directory: its log start lies below its local start, which is its log
//! end, as the checkpoints say.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::{Mutex, RwLock};

use crate::types::{Offset, Timestamp, TopicId, TopicPartition};

use super::cleaner_state::{CleanerMarks, CleanerState};
use super::config::LogConfig;
use super::data_dir::DataDir;
use super::error::StoreError;
use super::journal::{Journal, Known};
use super::maintenance::Maintenance;
use super::partition::Partition;
use super::partition_dir;
use super::recovery::{Recovered, Recovery, Stop};
use super::segment_list::SegmentList;
use super::standing::Stand;
use super::watermarks::Watermarks;
use super::writer::{Readiness, Saved, Syncs, Unsynced, Writer};
use super::{LeaderEpochs, Producers};

/// Which partition to open, and how.
#[derive(Clone, PartialEq, Debug)]
pub struct PartitionSpec {
    /// Topic and number.
    pub id: TopicPartition,
    /// The topic's id: a directory of another one is not this partition's.
    pub topic_id: TopicId,
    /// Its settings.
    pub config: LogConfig,
}

/// Whether a partition may have been there before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Past {
    /// It is being made: what the checkpoints say is of an earlier partition of its name.
    None,
    /// An earlier start may have written to it.
    Known,
}

/// Opens partitions on several threads; results in the order of `specs`.
pub(super) fn open_all(
    data: &DataDir,
    specs: Vec<PartitionSpec>,
    past: Past,
    now: Timestamp,
) -> Vec<Result<Arc<Partition>, StoreError>> {
    let count = specs.len();
    // Few partitions, or none on disk, are opened faster than threads are started.
    if count < 8 || data.threads < 2 {
        return specs
            .into_iter()
            .map(|spec| open(data, spec, past, now))
            .collect();
    }
    let queue: Mutex<VecDeque<(usize, PartitionSpec)>> = Mutex::new(specs.into_iter().enumerate().collect());
    let opened = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..data.threads {
            scope.spawn(|| {
                loop {
                    let Some((index, spec)) = queue.lock().pop_front() else {
                        return;
                    };
                    let result = open(data, spec, past, now);
                    opened.lock().push((index, result));
                }
            });
        }
    });
    let mut opened = opened.into_inner();
    opened.sort_by_key(|(index, _)| *index);
    opened.into_iter().map(|(_, result)| result).collect()
}

fn open(
    data: &DataDir,
    spec: PartitionSpec,
    past: Past,
    now: Timestamp,
) -> Result<Arc<Partition>, StoreError> {
    let dir: Arc<Path> = data.partition(&spec.id).into();
    let known = read_if_found(data, &spec.id, &dir);
    let ended = match (look(data, &spec, &dir, &known)?, past) {
        (Look::Ours, _) => return open_known(data, spec, known, data.stop, now),
        (Look::Nothing, Past::Known) => data.checkpoints.lock().log_end(&spec.id),
        (Look::Nothing, Past::None) | (Look::AnotherTopics, _) => Offset::ZERO,
    };
    if ended == Offset::ZERO {
        // What the checkpoints say is of an earlier partition of this name.
        data.forget(std::slice::from_ref(&spec.id))?;
        return Ok(assemble(data, spec, dir, Opened::absent(ended, ended)));
    }
    let (log_start, local_start) = {
        let checkpoints = data.checkpoints.lock();
        (checkpoints.log_start(&spec.id), checkpoints.local_start(&spec.id))
    };
    if local_start != Some(ended) {
        tracing::error!(partition = %spec.id, dir = %dir.display(), next_offset = ended.0,
            "the directory of a partition is gone, and its records with it; stop the server and put it back before anything is \
             written to the partition, or go on without: new records begin at next_offset");
    }
    let log_start = match local_start {
        Some(_) => log_start.unwrap_or(Offset::ZERO),
        None => ended,
    };
    Ok(assemble(data, spec, dir, Opened::absent(log_start, ended)))
}

/// Opens a partition whose directory was just made as a clean close leaves one.
pub(super) fn open_closed(
    data: &DataDir,
    spec: PartitionSpec,
    now: Timestamp,
) -> Result<Arc<Partition>, StoreError> {
    let known = Journal::read(&data.files, &data.partition(&spec.id), &spec.id);
    open_known(data, spec, known, Stop::Clean, now)
}

fn open_known(
    data: &DataDir,
    spec: PartitionSpec,
    known: Known,
    stop: Stop,
    now: Timestamp,
) -> Result<Arc<Partition>, StoreError> {
    let dir: Arc<Path> = data.partition(&spec.id).into();
    let (recovery_point, log_start, local_start) = {
        let checkpoints = data.checkpoints.lock();
        (
            checkpoints.recovery_point(&spec.id),
            checkpoints.log_start(&spec.id),
            checkpoints.local_start(&spec.id),
        )
    };
    let recovery = Recovery {
        files: &data.files,
        id: &spec.id,
        dir: &dir,
        config: &spec.config,
        recovery_point,
        log_start,
        local_start,
        stop,
        threads: data.threads,
        now,
    };
    let recovered = recovery.run(known)?;
    let sealed_end = recovered
        .segments
        .last()
        .map_or(Offset::ZERO, |last| last.extent.base);
    let cleaner = data.checkpoints.lock().cleaner_marks(&spec.id, sealed_end);
    let log_end = recovered.log_end;
    let opened = Opened::found(recovered, cleaner);
    let partition = assemble(data, spec, Arc::clone(&dir), opened);
    if let Some(to) = cleaner.once_clean {
        partition.cleaner.once_clean_at_start(to, log_end, now);
    }
    Ok(partition)
}

fn read_if_found(data: &DataDir, id: &TopicPartition, dir: &Path) -> Known {
    if data.has(id) {
        Journal::read(&data.files, dir, id)
    } else {
        Known::default()
    }
}

/// What lies under the name of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// Its own directory.
    Ours,
    /// None, or one without a log.
    Nothing,
    /// One of another topic lay there; it is set aside now.
    AnotherTopics,
}

/// Looks for the directory of a partition; one of another topic is set aside.
fn look(data: &DataDir, spec: &PartitionSpec, dir: &Path, known: &Known) -> Result<Look, StoreError> {
    if !data.has(&spec.id) {
        return Ok(Look::Nothing);
    }
    if data.stop == Stop::Clean && known.belongs_to(spec.topic_id) {
        return Ok(Look::Ours);
    }
    let is_checkpointed = || data.checkpoints.lock().recovery_point(&spec.id) > Offset::ZERO;
    match partition_dir::read_topic_id(&data.files, dir)? {
        // No checkpoint tells of it yet: the process may have been killed before its first sync, which covers that file, too,
        // and nothing else will sync what is read here from memory.
        Some(id) if id == spec.topic_id && data.stop == Stop::Unclean && !is_checkpointed() => {
            partition_dir::write_metadata(&data.files, dir, spec.topic_id).map(|()| Look::Ours)
        }
        Some(id) if id == spec.topic_id => Ok(Look::Ours),
        // The metadata file is damaged; the manifest says whose log it is, and it may be gone at the next start.
        None if known.belongs_to(spec.topic_id) => {
            partition_dir::write_metadata(&data.files, dir, spec.topic_id).map(|()| Look::Ours)
        }
        // Made and not yet written to when the process died: the first append begins again, with the metadata file.
        None if partition_dir::has_no_log(&data.files, dir)? => Ok(Look::Nothing),
        // It died before the first sync, which covers that file, too: no checkpoint tells of the partition yet. An older one
        // of its name is gone from the directory and from the checkpoints before the name is given again.
        None if !is_checkpointed() => {
            partition_dir::write_metadata(&data.files, dir, spec.topic_id).map(|()| Look::Ours)
        }
        found => {
            let aside = data.set_aside(&spec.id)?;
            tracing::warn!(partition = %spec.id, ?found, expected = ?spec.topic_id, aside = %aside.display(),
                "directory of another topic set aside");
            // Whose log it was nobody can say where its own file of that is damaged; it may have been this one's.
            Ok(found.map_or(Look::Nothing, |_| Look::AnotherTopics))
        }
    }
}

/// What the parts of a partition are made of.
struct Opened {
    readiness: Readiness,
    list: SegmentList,
    log_start: Offset,
    local_start: Offset,
    log_end: Offset,
    first_unstable: Option<Offset>,
    epochs: LeaderEpochs,
    epochs_file: Saved,
    journal: Journal,
    /// As the checkpoint says, or more.
    cleaner: CleanerMarks,
}

impl Opened {
    /// No directory; the first record gets offset `next`, and what lies before it is gone or in the archive.
    fn absent(log_start: Offset, next: Offset) -> Self {
        Self {
            readiness: Readiness::Absent,
            list: SegmentList::default(),
            log_start: log_start.min(next),
            local_start: next,
            log_end: next,
            first_unstable: None,
            epochs: LeaderEpochs::default(),
            epochs_file: Saved::Yes,
            journal: Journal::default(),
            cleaner: CleanerMarks::default(),
        }
    }

    fn found(recovered: Recovered, cleaner: CleanerMarks) -> Self {
        Self {
            readiness: Readiness::Closed,
            list: SegmentList::of(recovered.segments),
            log_start: recovered.log_start,
            local_start: recovered.local_start,
            log_end: recovered.log_end,
            first_unstable: recovered.first_unstable,
            epochs_file: if recovered.epochs.entries().is_empty() {
                Saved::Yes
            } else {
                Saved::No
            },
            epochs: recovered.epochs,
            journal: recovered.journal,
            cleaner,
        }
    }
}

fn assemble(data: &DataDir, spec: PartitionSpec, dir: Arc<Path>, opened: Opened) -> Arc<Partition> {
    let marks = Watermarks::recovered(opened.log_start, opened.log_end, spec.config.durability);
    marks.raise_local_start(opened.local_start);
    marks.set_first_unstable(opened.first_unstable);
    let segments = Arc::new(RwLock::new(opened.list));
    let stand = Arc::new(Stand::new());
    let rolled = Arc::new(AtomicBool::new(false));
    let writer = Writer {
        files: Arc::clone(&data.files),
        dir: Arc::clone(&dir),
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
        rolled: Arc::clone(&rolled),
        stand: Arc::clone(&stand),
    };
    Arc::new(Partition {
        id: spec.id,
        topic_id: spec.topic_id,
        files: Arc::clone(&data.files),
        epoch: Arc::clone(&data.epoch),
        config: RwLock::new(Arc::new(spec.config)),
        marks,
        eras: AtomicU64::new(0),
        turnover: super::turnover::Turnover::default(),
        segments,
        dir,
        stand,
        repairing: Mutex::new(()),
        opened: AtomicBool::new(false),
        writer: Mutex::new(writer),
        rolled,
        retired: Mutex::default(),
        maintenance: Maintenance::default(),
        names: Mutex::default(),
        archived: RwLock::default(),
        anew: Mutex::default(),
        cleaner: CleanerState::new(opened.cleaner, &(opened.log_start..opened.log_end)),
    })
}
