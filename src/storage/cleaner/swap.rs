//! Swapping: finished segments take the place of those that they were made of.
//!
//! 1. `<base>.log.cleaned` is complete and synced. If it dies here: a start removes it; the old segments are there.
//! 2. The manifest is removed: it tells of the old files. It is written anew after the pass.
//! 3. `.cleaned` becomes `.swap`; the directory is synced. Of two files the later goes first, each with its own sync. If it
//!    dies before the last sync: while a `.cleaned` is there, a start removes its `.swap` too; else as after step 4.
//!    When a rename or a sync fails, the `.swap` are taken back first, and the `.cleaned` that says so of them goes last.
//! 4. Readers are given the new segments, under their temporary names. From here on there is no way back: if it dies, a start
//!    syncs the directory (it may be the process alone that died, in step 3), removes every old file in the range and gives
//!    `.swap` its final name.
//! 5. The old files are removed; the directory is synced. The logs among them are kept open, and what was mapped of them
//!    mapped, until after the swap. If it dies here: as above.
//! 6. `.swap` becomes `<base>.log`; readers are given that name, with what was open and mapped of it. If it dies here: as
//!    above, for what is found under the old name.
//! 7. Indexes are written and synced, and with their names those of the logs. If it dies here: a start reads the log and makes
//!    them.
//! 8. What was kept of the old files is let go of, one after the other ([`Old`]). If it dies here: the system does that.
//!
//! When step 5 or 6 fails, the log goes on under the temporary names and the next pass finishes them, or the next start. What
//! retention has taken out of the log until then is removed under the name it has, and not given another.
//!
//! Invariants
//! - Steps 4 and 6 are exchanges that readers are told of (`turnover`): who was looking looks again. Between them the new file
//!   has a name of its own, so nobody waits for the removal and its sync.
//! - No lock is held, and no exchange is under way, while something is unmapped or the space of a log is freed.
//! - The producer snapshot of the first base stays: the state before it is the same.
//!
//! What is not here: retry, and what a start does (`partition_dir`).

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::env::{File, FileKind, Forgotten, Fs, OpenMode, SyncSite};
use crate::types::Offset;

use super::super::cleaner_state::Unfinished;
use super::super::files::{Replacements, remove_if_there};
use super::super::journal::Journal;
use super::super::partition::Partition;
use super::super::paths::{CLEANED, SWAP, SegmentFile};
use super::super::segment::{Extent, Sealed, add_pending_indexes};
use super::copy::append_times;
use super::gate::{CompactError, Gate, Tried};
use super::output::Output;
use super::source::Source;

/// So many logs are kept open at once. Where more become one, they are small, and are freed by their removal.
const KEPT_OPEN_MAX: usize = 64;
const SITE_SWAP: SyncSite = SyncSite("directory of finished cleaned logs");
const SITE_OLD: SyncSite = SyncSite("directory without cleaned logs' originals");

/// What is kept of a log whose name is gone, and maybe of its indexes.
#[derive(Debug, Default)]
pub(super) struct Old {
    /// Keeps the space, so that it is not the removal that frees it.
    log: Option<Arc<dyn File>>,
    /// A reader that still has bytes of it is done sooner: unmapping it is left to this thread.
    forgotten: Vec<Forgotten>,
}

impl Old {
    /// Lets go of them one by one; the gate says when.
    pub(super) fn free(all: Vec<Self>, gate: &mut Gate<'_>) -> Result<(), CompactError> {
        for old in all {
            let had_log = old.log.is_some();
            drop(old);
            if had_log {
                gate.freed()?;
            }
        }
        Ok(())
    }
}

/// Replaces `sources` by finished files.
pub(super) fn swap(
    partition: &Partition,
    sources: &[Source],
    drafts: Vec<(Output, PathBuf)>,
) -> Result<Vec<Old>, CompactError> {
    let _names = partition.names.lock();
    let dir = partition.dir();
    let until = sources.last().map_or(Offset::ZERO, |last| last.bound);
    partition.writer.lock().journal.outdated();
    Journal::remove(&partition.files, &dir)?;
    let old: Vec<Arc<Sealed>> = sources.iter().map(|source| Arc::clone(&source.sealed)).collect();
    let new = drafts
        .into_iter()
        .map(|(output, _)| Arc::new(sealed_of(&dir, sources, output)))
        .collect::<Vec<_>>();
    if let Err(error) = take_swap_names(partition, &dir, &new) {
        // Nothing relies on them yet; those that stay are removed before the next pass begins.
        let _ = remove_leftovers(partition.files.fs().as_ref(), &dir, until);
        return Err(error);
    }
    let replaced = partition
        .turnover
        .exchange(|| partition.segments.write().replace(&old, &new));
    if !replaced {
        remove_leftovers(partition.files.fs().as_ref(), &dir, until)?;
        return Err(CompactError::Interrupted);
    }
    {
        let mut anew = partition.anew.lock();
        anew.forget(old.iter().map(|sealed| sealed.extent.base));
        anew.note(new.iter().map(|sealed| sealed.extent.base));
    }
    let swap = Unfinished { old, new };
    partition.cleaner.set_unfinished(Some(swap.clone()));
    finish(partition, &swap)
}

/// Finishes the replacement that an earlier pass could not finish, if there is one.
pub(super) fn finish_earlier(partition: &Partition) -> Result<Vec<Old>, CompactError> {
    let Some(swap) = partition.cleaner.look().unfinished else {
        return Ok(Vec::new());
    };
    let _names = partition.names.lock();
    finish(partition, &swap)
}

/// Steps 5 to 7. What was done already is done again, or found done.
fn finish(partition: &Partition, swap: &Unfinished) -> Result<Vec<Old>, CompactError> {
    let (files, dir) = (&partition.files, partition.dir());
    let first = swap.new.first().map(|sealed| sealed.extent.base);
    let mut kept = Vec::with_capacity(swap.old.len());
    for old in &swap.old {
        let kinds = SegmentFile::ALL.into_iter().rev();
        let keeps_snapshot = Some(old.extent.base) == first;
        let mut of_it = Old::default();
        for kind in kinds.filter(|kind| *kind != SegmentFile::Snapshot || !keeps_snapshot) {
            let path = kind.path(&dir, old.extent.base);
            if kind == SegmentFile::Log && kept.len() < KEPT_OPEN_MAX {
                // An earlier try may have removed it.
                of_it.log = files.fs().open(&path, OpenMode::Read).ok();
            }
            of_it.forgotten.push(files.forget(&path));
            remove_if_there(files, &path).tried("remove", &path)?;
            // Once more: what was opened just before the name was gone must not be found under it later.
            of_it.forgotten.push(files.forget(&path));
        }
        kept.push(of_it);
    }
    files.fs().sync_dir(&dir, SITE_OLD).tried("sync", &dir)?;
    let mut replacements = Replacements::default();
    let mut written = Vec::new();
    for temporary in &swap.new {
        let sealed = match standing(partition, temporary) {
            Standing::Temporary => {
                let path = SegmentFile::Log.path(&dir, temporary.extent.base);
                let sealed = Arc::new(temporary.moved_to(path.into()));
                partition
                    .turnover
                    .exchange(|| rename(partition, temporary, &sealed))
                    .tried("rename", &temporary.log_path)?;
                sealed
            }
            Standing::Named(sealed) => sealed,
            Standing::Gone => {
                let path = &temporary.log_path;
                remove_if_there(files, path).tried("remove", path)?;
                continue;
            }
        };
        if let Some(lens) = add_pending_indexes(&sealed, &mut replacements) {
            written.push((sealed, lens));
        }
    }
    partition.cleaner.set_unfinished(None);
    // Syncs the directory, and with it the final names.
    replacements.commit(files)?;
    for (sealed, lens) in written {
        sealed.indexes_written(lens);
    }
    Ok(kept)
}

/// How far a new segment is, by the list of segments.
enum Standing {
    /// It has its temporary name.
    Temporary,
    /// An earlier try gave it its final name.
    Named(Arc<Sealed>),
    /// Retention took it.
    Gone,
}

fn standing(partition: &Partition, temporary: &Arc<Sealed>) -> Standing {
    let list = partition.segments.read();
    let base = temporary.extent.base;
    let at = list
        .sealed()
        .binary_search_by_key(&base, |sealed| sealed.extent.base);
    match at.map(|at| &list.sealed()[at]) {
        Ok(found) if found.has_its_name() => Standing::Named(Arc::clone(found)),
        Ok(_) => Standing::Temporary,
        Err(_) => Standing::Gone,
    }
}

/// Gives a log its final name, on disk and in memory.
fn rename(partition: &Partition, temporary: &Arc<Sealed>, sealed: &Arc<Sealed>) -> io::Result<()> {
    let files = &partition.files;
    files.fs().rename(&temporary.log_path, &sealed.log_path)?;
    let _nothing = files.renamed(&temporary.log_path, &sealed.log_path);
    let mut list = partition.segments.write();
    // Retention may have taken it out of the list meanwhile.
    let _ = list.replace(std::slice::from_ref(temporary), std::slice::from_ref(sealed));
    Ok(())
}

/// Step 3: from then on a start finishes the replacement.
fn take_swap_names(partition: &Partition, dir: &Path, new: &[Arc<Sealed>]) -> Result<(), CompactError> {
    let fs = partition.files.fs();
    for sealed in new.iter().rev() {
        let from = named(dir, sealed.extent.base, CLEANED);
        fs.rename(&from, &sealed.log_path).tried("rename", &from)?;
        fs.sync_dir(dir, SITE_SWAP).tried("sync", dir)?;
    }
    Ok(())
}

fn sealed_of(dir: &Path, sources: &[Source], output: Output) -> Sealed {
    let extent = Extent {
        base: output.base,
        next: output.next,
        end: output.end,
        content: output.content,
        append_times: append_times(sources, output.base, output.next),
    };
    let path = named(dir, output.base, SWAP);
    let sealed = Sealed::pending(path.into(), extent, Arc::new(output.indexes));
    if !output.gaps.is_empty() {
        sealed.know_gaps(output.gaps);
    }
    sealed
}

fn named(dir: &Path, base: Offset, suffix: &str) -> PathBuf {
    let mut path = SegmentFile::Log.path(dir, base).into_os_string();
    path.push(suffix);
    path.into()
}

/// Removes what passes left of segments before `until` that nothing relies on. No replacement is unfinished. What lies behind
/// may be a repair's.
///
/// No `.swap` may be found alone by a start: it would be finished, and take the place of what only all of one replacement stand
/// for. So each takes the name of a `.cleaned` of a base no greater, which says that none of them counts, and that name is removed
/// when the last of them had it: no crash finds it gone, and what took it under the name it had before. If it dies here: a start does
/// the rest.
pub(super) fn remove_leftovers(fs: &dyn Fs, dir: &Path, until: Offset) -> Result<(), CompactError> {
    let (mut cleaned, mut swaps) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs.list(dir).tried("list", dir)? {
        for (suffix, found) in [(CLEANED, &mut cleaned), (SWAP, &mut swaps)] {
            let of = entry.name.strip_suffix(suffix).and_then(SegmentFile::parse);
            if entry.kind == FileKind::File && of.is_some_and(|(base, _)| base < until) {
                found.insert(dir.join(&entry.name));
            }
        }
    }
    if let Some(least) = swaps.first() {
        let least = least.with_extension(&CLEANED[1..]);
        // By name, as by base: the digits are as many.
        let least = cleaned
            .first()
            .map_or(least.clone(), |known| least.min(known.clone()));
        for swap in &swaps {
            fs.rename(swap, &least).tried("rename", swap)?;
        }
        cleaned.insert(least);
    }
    cleaned
        .iter()
        .try_for_each(|path| fs.remove_file(path).tried("remove", path))
}
