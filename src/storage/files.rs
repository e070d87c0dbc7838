//! Replacing many small files at once, durably.
//!
//! 1. Each content is written to `<path>.tmp`, a new file. If it dies here: readers ignore temporary files.
//! 2. All temporary files are synced together, but for empty ones: their directory says all there is to say. If it dies
//!    here: as above.
//! 3. Each is renamed over its path. If it dies here: some paths hold the old content, some the new, each whole.
//! 4. The directories are synced together: the new contents stay.
//!
//! Every step is done for all of them before the next: what a rename replaces is a file that goes, and ext4 without a journal looks
//! at each file that went in the last minutes when it makes a new one beside it.
//!
//! A log that must not be cut in place gets a copy of its beginning in its place, alike: written, synced, renamed over it; the
//! caller syncs the directory.
//!
//! What is not here: contents that must change together. One file is replaced by `checkpoint::write_atomic`.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::env::{File, FileCache, OpenMode, SyncSite};

use super::error::{IoContext, StoreError};
use super::paths::{CLEANED, TMP};

/// Sync of files about to be renamed into place.
const SITE_FILES: SyncSite = SyncSite("replaced files");
/// Sync of the directories they were renamed in.
const SITE_DIRS: SyncSite = SyncSite("directories of replaced files");
/// Sync of the copy that takes a log's place.
const SITE_COPY: SyncSite = SyncSite("repaired log");
/// A copy is made in parts of so many bytes.
const COPY_CHUNK: usize = 1 << 20;
/// So many files are open at once, in each step.
const AT_ONCE: usize = 64;

/// Files to be replaced.
#[derive(Debug, Default)]
pub(super) struct Replacements(Vec<(PathBuf, Vec<u8>)>);

impl Replacements {
    pub(super) fn add(&mut self, path: PathBuf, bytes: Vec<u8>) {
        self.0.push((path, bytes));
    }

    /// Returns the bytes of all contents.
    pub(super) fn size_bytes(&self) -> usize {
        self.0.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// Replaces what has come together so far, if that is a lot.
    pub(super) fn commit_if_many(&mut self, files: &FileCache) -> Result<(), StoreError> {
        if self.0.len() < AT_ONCE {
            Ok(())
        } else {
            std::mem::take(self).commit(files)
        }
    }

    /// Replaces them all. On return they are durable.
    ///
    /// # Errors
    /// The first failure; some of the files may have been replaced, each of them whole.
    pub(super) fn commit(self, files: &FileCache) -> Result<(), StoreError> {
        let mut portions = self.0.chunks(AT_ONCE);
        let replaced = portions
            .try_for_each(|some| write_and_sync(files, some))
            .and_then(|()| rename(files, &self.0));
        if let Err(error) = replaced {
            for (path, _) in &self.0 {
                // What failed first is what to tell; a leftover is replaced by the next try.
                let _ = files.fs().remove_file(&temporary(path));
            }
            return Err(error);
        }
        let dirs: BTreeSet<&Path> = self.0.iter().filter_map(|(path, _)| path.parent()).collect();
        let dirs: Vec<Arc<Path>> = dirs.into_iter().map(Arc::from).collect();
        for (result, dir) in files.fs().sync_dirs(&dirs, SITE_DIRS).into_iter().zip(&dirs) {
            result.context("sync", dir)?;
        }
        Ok(())
    }
}

fn write_and_sync(files: &FileCache, some: &[(PathBuf, Vec<u8>)]) -> Result<(), StoreError> {
    let fs = files.fs();
    let (mut opened, mut of) = (Vec::with_capacity(some.len()), Vec::with_capacity(some.len()));
    for (path, bytes) in some {
        let temporary = temporary(path);
        remove_if_there(files, &temporary).context("remove", &temporary)?;
        let file = fs
            .open(&temporary, OpenMode::CreateNew)
            .context("create", &temporary)?;
        if bytes.is_empty() {
            continue;
        }
        file.write_all_at(&[IoSlice::new(bytes)], 0)
            .context("write", &temporary)?;
        opened.push(file);
        of.push(temporary);
    }
    for (result, temporary) in fs.sync_many(&opened, SITE_FILES).into_iter().zip(of) {
        result.context("sync", &temporary)?;
    }
    Ok(())
}

fn rename(files: &FileCache, some: &[(PathBuf, Vec<u8>)]) -> Result<(), StoreError> {
    for (path, _) in some {
        files
            .fs()
            .rename(&temporary(path), path)
            .context("replace", path)?;
        files.forget(path);
    }
    Ok(())
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TMP);
    name.into()
}

/// Removes a file that may not be there.
pub(super) fn remove_if_there(files: &FileCache, path: &Path) -> io::Result<()> {
    files.forget(path);
    match files.fs().remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives the first `len` bytes of a log a new file, synced, under the same name. A failure leaves the log as it was, and no copy
/// to take the room that there may be too little of.
pub(super) fn copy_over(
    files: &FileCache,
    from: &dyn File,
    path: &Arc<Path>,
    len: u32,
) -> Result<(), StoreError> {
    let mut copy = path.as_os_str().to_owned();
    copy.push(CLEANED);
    let copy = Path::new(&copy);
    remove_if_there(files, copy).context("remove", copy)?;
    let copied = copy_beside(files, from, path, copy, len)
        .and_then(|()| files.fs().rename(copy, path).context("replace", path));
    match &copied {
        Ok(()) => drop(files.forget(path)),
        // What failed first is what to tell; a leftover is removed by the next try.
        Err(_) => drop(remove_if_there(files, copy)),
    }
    copied
}

fn copy_beside(
    files: &FileCache,
    from: &dyn File,
    path: &Path,
    copy: &Path,
    len: u32,
) -> Result<(), StoreError> {
    let to = files
        .fs()
        .open(copy, OpenMode::CreateNew)
        .context("create", copy)?;
    let len = u64::from(len);
    let mut chunk = vec![0; COPY_CHUNK];
    let mut position = 0;
    while position < len {
        let part = usize::try_from(len - position).map_or(COPY_CHUNK, |left| left.min(COPY_CHUNK));
        from.read_exact_at(&mut chunk[..part], position)
            .context("read", path)?;
        to.write_all_at(&[IoSlice::new(&chunk[..part])], position)
            .context("write", copy)?;
        position += u64::try_from(part).expect("a chunk fits");
    }
    to.sync_data(SITE_COPY).context("sync", copy)
}

/// Greatest size of a small file that is read whole, in bytes; beyond it lies damage, not data.
const SMALL_FILE_MAX: u64 = 1 << 30;

/// Reads a small file whole; `None` when there is none.
pub(super) fn read_whole(files: &FileCache, path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match files.fs().open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("open", path),
    };
    let len = file.len_bytes().context("read", path)?;
    let len = usize::try_from(len)
        .ok()
        .filter(|_| len <= SMALL_FILE_MAX)
        .ok_or_else(|| StoreError::Unusable {
            path: path.to_path_buf(),
            reason: format!("{len} bytes are too many for this kind of file; move it away"),
        })?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).context("read", path)?;
    Ok(Some(bytes))
}
