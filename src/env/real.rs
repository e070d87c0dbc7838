//! [`RealFs`]: the operating system's files, by positioned calls.
//!
//! Invariants
//! - No call moves a file cursor, so handles are shared between threads without a lock.
//! - A write either wrote everything or returned an error; interrupted and short ones are carried on with.
//! - The lock of the data directory is the kernel's (`flock`): a process that dies has let go of it.
//!
//! What is not here: mappings (`mmap`) and the threads behind [`Fs::sync_many`] and [`Fs::sync_dirs`] (`sync_pool`).

use std::fs::{self, File as OsFile, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::clock::timestamp_of;
use super::fs::{DirEntry, File, FileKind, FileStat, Fs, LockGuard, Mappings, OpenMode, SyncSite};
use super::mmap;
use super::sync_pool::{Job, SyncPool, sync_names_in};

/// The operating system's file system. Its sync threads start when first needed and end with it.
#[derive(Debug, Default)]
pub struct RealFs {
    syncs: SyncPool,
}

impl RealFs {
    /// Returns one without any thread yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Fs for RealFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true).create(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry {
                    name,
                    kind: kind_of(entry.file_type()?),
                });
            }
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        let metadata = fs::metadata(path)?;
        Ok(FileStat {
            kind: kind_of(metadata.file_type()),
            len_bytes: metadata.len(),
            modified: timestamp_of(metadata.modified()?),
            links: metadata.nlink(),
        })
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)
    }

    #[expect(clippy::disallowed_methods, reason = "this is what env::Fs stands on")]
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path, _site: SyncSite) -> io::Result<()> {
        sync_names_in(dir)
    }

    fn sync_many(&self, files: &[Arc<dyn File>], site: SyncSite) -> Vec<io::Result<()>> {
        self.syncs
            .sync(files.iter().cloned().map(|file| Job::File(file, site)))
    }

    fn sync_dirs(&self, dirs: &[Arc<Path>], _site: SyncSite) -> Vec<io::Result<()>> {
        self.syncs.sync(dirs.iter().cloned().map(Job::Dir))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.try_lock()?;
        Ok(Box::new(RealLock { _file: file }))
    }

    fn make_resident(&self, bytes: &Bytes) -> io::Result<()> {
        mmap::make_resident(bytes)
    }

    fn mappings(&self) -> Mappings {
        Mappings::Live
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(path)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

fn kind_of(kind: fs::FileType) -> FileKind {
    if kind.is_file() {
        FileKind::File
    } else if kind.is_dir() {
        FileKind::Dir
    } else {
        FileKind::Other
    }
}

/// Closing the file, which dropping this does, releases the lock.
#[derive(Debug)]
struct RealLock {
    _file: OsFile,
}

impl LockGuard for RealLock {}

#[derive(Debug)]
struct RealFile(OsFile);

impl File for RealFile {
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, position)
    }

    fn write_all_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        write_parts(&self.0, parts, position)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes)
    }

    fn sync_data(&self, _site: SyncSite) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write_back(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn map(&self, position: u64, len: usize) -> io::Result<Bytes> {
        mmap::map(&self.0, position, len)
    }

    fn populate(&self, bytes: &Bytes, position: u64) -> io::Result<()> {
        mmap::populate(&self.0, bytes, position)
    }

    #[cfg(target_os = "linux")]
    fn drop_cache(&self, position: u64) -> io::Result<()> {
        Ok(rustix::fs::fadvise(
            &self.0,
            position,
            None,
            rustix::fs::Advice::DontNeed,
        )?)
    }

    #[cfg(not(target_os = "linux"))]
    fn drop_cache(&self, _position: u64) -> io::Result<()> {
        // No portable call exists. A file opened again may then still be served from memory, which is no worse than
        // what the caller had.
        Ok(())
    }
}

/// As many parts as one call takes (`IOV_MAX` on Linux).
#[cfg(target_os = "linux")]
const MAX_PARTS: usize = 1024;

/// Writes as much as the kernel takes in one call per [`MAX_PARTS`], and finishes by a single write where it stopped.
#[cfg(target_os = "linux")]
fn write_parts(file: &OsFile, mut parts: &[IoSlice<'_>], mut position: u64) -> io::Result<()> {
    if let [part] = parts {
        return file.write_all_at(part, position);
    }
    while !parts.is_empty() {
        let together = &parts[..parts.len().min(MAX_PARTS)];
        let written = match rustix::io::pwritev(file, together, position) {
            Ok(written) => written,
            Err(rustix::io::Errno::INTR) => continue,
            Err(refused) => return Err(refused.into()),
        };
        position += written as u64;
        let (mut whole, rest) = whole_parts(together, written);
        if let Some(part) = together.get(whole) {
            let rest = &part[rest..];
            file.write_all_at(rest, position)?;
            position += rest.len() as u64;
            whole += 1;
        }
        parts = &parts[whole..];
    }
    Ok(())
}

/// Returns how many of `parts` the first `written` bytes cover, and how many bytes of the next one.
#[cfg(target_os = "linux")]
fn whole_parts(parts: &[IoSlice<'_>], mut written: usize) -> (usize, usize) {
    for (index, part) in parts.iter().enumerate() {
        if written < part.len() {
            return (index, written);
        }
        written -= part.len();
    }
    (parts.len(), 0)
}

#[cfg(not(target_os = "linux"))]
fn write_parts(file: &OsFile, parts: &[IoSlice<'_>], mut position: u64) -> io::Result<()> {
    for part in parts {
        file.write_all_at(part, position)?;
        position += part.len() as u64;
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_short_write_is_carried_on_inside_the_part_where_it_stopped() {
        let parts = [b"ab".as_slice(), b"", b"cde", b""].map(IoSlice::new);
        let expected = [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2), (4, 0)];
        for (written, expected) in expected.into_iter().enumerate() {
            assert_eq!(whole_parts(&parts, written), expected, "{written} bytes written");
        }
    }

    #[test]
    fn more_parts_than_one_call_takes_are_all_written() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(3 * MAX_PARTS).collect();
        let parts: Vec<_> = bytes.chunks(1).map(IoSlice::new).collect();
        write_parts(&file, &parts, 3).unwrap();
        let mut found = vec![0; bytes.len()];
        file.read_exact_at(&mut found, 3).unwrap();
        assert_eq!(found, bytes);
    }
}
