//! Parts of objects on disk: where those go that memory has no room for.
//!
//! One file for each, named by a number; which part it is stands in memory only, so a start empties the folder. A file is read back with its
//! CRC-32 checked: one that a disk or a person has changed is not there.
//!
//! Invariants
//! - At most `limit_bytes` in all; the ones that were used longest ago go first.
//! - Nothing here fails a read. A disk that is full, or does not answer, is left alone for the next [`PAUSE`] parts.
//! - Nothing is synced: what a crash leaves is removed.
//!
//! The lock guards the fields of [`Index`], for memory work only; files are read and written on threads that may block. What is not here:
//! when ([`super::chunk_cache`]).

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::recent::Recent;
use crate::env::{Fs, OpenMode};

/// Which part: the object, with the bucket, and where the part begins.
pub(super) type PartKey = (Arc<str>, u64);

/// Parts that are not kept after the disk has refused one.
const PAUSE: u32 = 256;
/// Files that are being written at the same time.
const MAX_WRITERS: u32 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct OnDisk {
    number: u64,
    len_bytes: u64,
    crc: u32,
}

#[derive(Debug)]
struct Index {
    parts: Recent<PartKey, OnDisk>,
    bytes: u64,
    next_number: u64,
    paused: u32,
    writers: u32,
}

/// A folder of parts.
#[derive(Debug)]
pub(super) struct DiskCache {
    fs: Arc<dyn Fs>,
    folder: PathBuf,
    limit_bytes: u64,
    index: Mutex<Index>,
}

impl DiskCache {
    /// Makes the folder, or empties it.
    pub(super) fn open(fs: Arc<dyn Fs>, folder: &Path, limit_bytes: u64) -> io::Result<Self> {
        match fs.remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs.create_dir(folder)?;
        Ok(Self {
            fs,
            folder: folder.to_owned(),
            limit_bytes,
            index: Mutex::new(Index {
                parts: Recent::new(),
                bytes: 0,
                next_number: 0,
                paused: 0,
                writers: 0,
            }),
        })
    }

    /// Keeps parts, as far as there is room. Blocks.
    pub(super) fn store(&self, parts: Vec<(PartKey, Bytes)>) {
        {
            let mut index = self.index.lock();
            if index.writers >= MAX_WRITERS {
                return;
            }
            index.writers += 1;
        }
        for (key, bytes) in parts {
            self.store_one(key, &bytes);
        }
        self.index.lock().writers -= 1;
    }

    fn store_one(&self, key: PartKey, bytes: &Bytes) {
        let len_bytes = u64::try_from(bytes.len()).expect("64 bits fit");
        let number = {
            let mut index = self.index.lock();
            if index.paused > 0 {
                index.paused -= 1;
                return;
            }
            if len_bytes > self.limit_bytes || index.parts.get(&key).is_some() {
                return;
            }
            index.next_number += 1;
            index.next_number
        };
        self.make_room(len_bytes);
        let entry = OnDisk {
            number,
            len_bytes,
            crc: crc32fast::hash(bytes),
        };
        if let Err(error) = self.write(number, bytes) {
            tracing::warn!(%error, folder = %self.folder.display(), "the cache of cold reads takes no more for a while");
            self.remove(number);
            self.index.lock().paused = PAUSE;
            return;
        }
        let before = {
            let mut index = self.index.lock();
            index.bytes += len_bytes;
            let before = index.parts.insert(key, entry);
            index.bytes -= before.map_or(0, |before| before.len_bytes);
            before
        };
        if let Some(before) = before {
            self.remove(before.number);
        }
    }

    fn make_room(&self, len_bytes: u64) {
        loop {
            let gone = {
                let mut index = self.index.lock();
                if index.bytes + len_bytes <= self.limit_bytes {
                    return;
                }
                let gone = index.parts.pop();
                index.bytes -= gone.as_ref().map_or(0, |(_, gone)| gone.len_bytes);
                gone
            };
            match gone {
                Some((_, gone)) => self.remove(gone.number),
                None => return,
            }
        }
    }

    fn write(&self, number: u64, bytes: &Bytes) -> io::Result<()> {
        let file = self.fs.open(&self.path(number), OpenMode::CreateNew)?;
        file.write_all_at(&[IoSlice::new(bytes)], 0)
    }

    fn remove(&self, number: u64) {
        // What cannot be removed now goes at the next start.
        let _ = self.fs.remove_file(&self.path(number));
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:020}.part"))
    }

    /// Returns neighbours, if all of them are here.
    pub(super) async fn load(self: &Arc<Self>, name: &Arc<str>, run: &[Range<u64>]) -> Option<Bytes> {
        let keys: Vec<PartKey> = run.iter().map(|part| (Arc::clone(name), part.start)).collect();
        let entries: Vec<OnDisk> = {
            let mut index = self.index.lock();
            let entries = keys.iter().map(|key| index.parts.get(key).copied());
            entries.collect::<Option<_>>()?
        };
        let expected: Vec<u64> = run.iter().map(|part| part.end - part.start).collect();
        if !entries.iter().map(|entry| entry.len_bytes).eq(expected) {
            return None;
        }
        let files: Vec<(PathBuf, OnDisk)> = entries
            .iter()
            .map(|entry| (self.path(entry.number), *entry))
            .collect();
        let cache = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || {
            let found = read_all(&*cache.fs, &files);
            if found.is_none() {
                cache.drop_all(&keys);
            }
            found
        });
        read.await.ok().flatten()
    }

    /// Forgets parts. Blocks.
    pub(super) fn forget(&self, keys: Range<PartKey>) {
        let keys = self.index.lock().parts.keys_in(keys);
        self.drop_all(&keys);
    }

    fn drop_all(&self, keys: &[PartKey]) {
        for key in keys {
            let gone = {
                let mut index = self.index.lock();
                let gone = index.parts.remove(key);
                index.bytes -= gone.map_or(0, |gone| gone.len_bytes);
                gone
            };
            if let Some(gone) = gone {
                self.remove(gone.number);
            }
        }
    }

    /// Bytes on disk, and files.
    #[cfg(test)]
    pub(super) fn size(&self) -> (u64, usize) {
        let index = self.index.lock();
        (index.bytes, index.parts.len())
    }
}

fn read_all(fs: &dyn Fs, files: &[(PathBuf, OnDisk)]) -> Option<Bytes> {
    let mut whole = BytesMut::new();
    for (path, entry) in files {
        let file = fs.open(path, OpenMode::Read).ok()?;
        let start = whole.len();
        whole.resize(start + usize::try_from(entry.len_bytes).ok()?, 0);
        file.read_exact_at(&mut whole[start..], 0).ok()?;
        if crc32fast::hash(&whole[start..]) != entry.crc {
            return None;
        }
    }
    Some(whole.freeze())
}
