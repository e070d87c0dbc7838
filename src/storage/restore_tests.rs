//! The crash sweep of a restore: ended at every call that changes the disk, and at each step done.
//!
//! Promised: what is not whole is never opened, and free for the next try; what is whole holds all that was put, byte for byte; and
//! once the mark is removed it stays so. With any sync of a restore switched off a promise is broken.

use std::path::Path;
use std::sync::Arc;

use super::{NewFile, RestoreInto, RestoreMark, RestoredPartition, RestoredPlace, Restoring};
use crate::env::{CacheLimits, CrashChoice, FileCache, Fs, OpenMode, SimFs, SyncSite};
use crate::storage::SegmentSummary;
use crate::storage::paths::SegmentFile;
use crate::types::{LeaderEpoch, Offset, PartitionId, TopicId, TopicName, TopicPartition};

/// The syncs of a restore.
pub(in crate::storage) const SWEPT: [&str; 4] = [
    "mark of a restore",
    "data directory with the mark of a restore",
    "data directory without the mark of a restore",
    "restored segment",
];
const DIR: &str = "/data";
const FROM: &str = "memory://year";
const CLUSTER: &str = "q1Sh-9_ISia_zwGINzRvyQ";
const SEEDS: u64 = 12;

/// How far a life has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Step {
    Nothing,
    Begun,
    Put,
    Whole,
    TakenOver,
}

fn files(fs: &SimFs) -> Arc<FileCache> {
    Arc::new(FileCache::new(Arc::new(fs.clone()), CacheLimits::default()))
}

fn id() -> TopicPartition {
    TopicPartition {
        topic: TopicName::new("flights").expect("valid"),
        partition: PartitionId(0),
    }
}

/// More than a page, so that a part of it can be lost.
fn content() -> Vec<u8> {
    (0..20_000_u32).flat_map(u32::to_be_bytes).collect()
}

fn partition() -> RestoredPartition {
    RestoredPartition {
        id: id(),
        topic_id: TopicId([7; 16]),
        log_start: Offset(0),
        log_end: Offset(5),
        epoch: LeaderEpoch(1),
        producers: bytes::Bytes::new(),
        epochs: bytes::Bytes::new(),
        segments: Vec::<SegmentSummary>::new(),
        place: RestoredPlace::Local,
    }
}

/// Restores, and takes over; `None` when it died, after `done` was told how far it came.
fn live(fs: &SimFs, done: &mut dyn FnMut(Step)) -> Option<()> {
    let files = files(fs);
    let reserved = Restoring::reserve(Arc::clone(&files), DIR.into()).ok()?;
    let restoring = reserved.begin(FROM).ok()?;
    done(Step::Begun);
    restoring.make_dir(&id()).ok()?;
    let made: NewFile = restoring.make_file(&id(), Offset(0), SegmentFile::Log).ok()?;
    made.write_at(&content(), 0).ok()?;
    restoring.sync(&[made]).ok()?;
    restoring.put(&[partition()]).ok()?;
    done(Step::Put);
    restoring.finish(CLUSTER, LeaderEpoch(3)).ok()?;
    let mark = RestoreMark::whole(FROM, 1, &[(id(), Offset(5))]);
    mark.write(&files, Path::new(DIR)).ok()?;
    done(Step::Whole);
    RestoreMark::remove(&files, Path::new(DIR)).ok()?;
    done(Step::TakenOver);
    Some(())
}

/// What must be found on a disk after a crash at or behind a step.
fn verify(fs: &SimFs, step: Step) -> Result<(), String> {
    let (files, dir) = (files(fs), Path::new(DIR));
    let told = |error: crate::storage::StoreError| error.to_string();
    let mark = RestoreMark::read(&files, dir);
    if let Err(error) = &mark {
        if step >= Step::Whole {
            return Err(format!("whole, and refused: {error}"));
        }
        Restoring::check(&files, dir).map_err(told)?;
        Restoring::reserve(Arc::clone(&files), dir.to_path_buf())
            .and_then(|reserved| reserved.begin(FROM))
            .map_err(told)?;
        return Ok(());
    }
    let is_marked = matches!(&mark, Ok(Some(_)));
    match Restoring::look(&files, dir).map_err(told)? {
        RestoreInto::Free if step <= Step::Nothing => return Ok(()),
        RestoreInto::Free => return Err(format!("{step:?}, and nobody knows of it")),
        RestoreInto::Taken if step < Step::Put => return Err(format!("{step:?}, and taken for whole")),
        RestoreInto::Taken => {}
    }
    if step >= Step::TakenOver && is_marked {
        return Err("the mark is there again".to_owned());
    }
    let log = SegmentFile::Log.path(&dir.join(id().to_string()), Offset(0));
    let file = Fs::open(fs, &log, OpenMode::Read).map_err(|error| error.to_string())?;
    let mut found = vec![0; content().len()];
    file.read_exact_at(&mut found, 0)
        .map_err(|error| error.to_string())?;
    if found != content() {
        return Err("whole, and its bytes are others".to_owned());
    }
    Ok(())
}

/// Ends lives at every call, and looks at what each may leave.
fn sweep(disabled: Option<SyncSite>) -> Result<(), String> {
    let disk = || {
        let fs = SimFs::new();
        if let Some(site) = disabled {
            fs.disable_sync(site);
        }
        fs
    };
    let whole = disk();
    live(&whole, &mut |_| {}).expect("a good disk");
    for death in 0..=whole.mutations() {
        let fs = disk();
        fs.fail_after(death);
        let mut step = Step::Nothing;
        let lived = live(&fs, &mut |done| step = done);
        assert_eq!(lived.is_some(), step == Step::TakenOver, "{death}");
        for choice in [CrashChoice::LoseAll, CrashChoice::KeepAll]
            .into_iter()
            .chain((0..SEEDS).map(CrashChoice::Random))
        {
            verify(&fs.crash(choice), step).map_err(|why| format!("death at {death}, {choice:?}: {why}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_restore_that_dies_anywhere_is_not_opened_and_free_for_the_next_and_a_whole_one_stays_whole() {
    sweep(None).expect("no promise is broken");
}

#[test]
fn without_any_one_sync_of_a_restore_a_promise_is_broken() {
    for site in SWEPT {
        assert!(
            sweep(Some(SyncSite(site))).is_err(),
            "{site}: its absence does not show"
        );
    }
}
