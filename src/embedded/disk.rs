//! The disk of an embedded broker: a real directory or memory, with the faults of `faults` in front and a switch that ends it.
//!
//! ```text
//!   broker --> Disk: dead? ordered to fail? full? --> RealFs in a directory, or SimFs in memory
//! ```
//!
//! Invariants
//! - A disk that is dead changes nothing any more: whatever of a killed broker still runs cannot touch what the next one opens.
//! - Syncs of data that is not kept do nothing: it does not outlive the process, and the process sees what it wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::env::{
    Clock as _, DirEntry, File, FileKind, FileStat, Fs, LockGuard, Mappings, OpenMode, RealFs, SimFs,
    SyncSite, Syncing,
};

use crate::storage::PartitionMetadata;
use crate::types::TopicId;

use super::clock::TestClock;
use super::faults::{Faults, Operation};

/// Where the bytes are.
#[derive(Clone, Debug)]
pub(super) enum Medium {
    /// In a directory that goes with the broker.
    Temporary,
    /// In a directory that stays.
    Kept,
    /// In memory.
    Memory(SimFs),
}

/// The disk of one life of a broker.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    medium: Medium,
    inner: Arc<dyn Fs>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    faults: Faults,
    clock: TestClock,
    dead: AtomicBool,
    locks: Mutex<Vec<Box<dyn LockGuard>>>,
    syncs: Syncs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Syncs {
    Real,
    Skipped,
}

impl Disk {
    pub(super) fn new(medium: Medium, faults: Faults, clock: TestClock) -> Self {
        let inner: Arc<dyn Fs> = match &medium {
            Medium::Temporary | Medium::Kept => Arc::new(RealFs::new()),
            Medium::Memory(memory) => Arc::new(memory.clone()),
        };
        let syncs = match &medium {
            Medium::Kept => Syncs::Real,
            Medium::Temporary | Medium::Memory(_) => Syncs::Skipped,
        };
        let shared = Shared {
            faults,
            clock,
            dead: AtomicBool::new(false),
            locks: Mutex::default(),
            syncs,
        };
        Self {
            medium,
            inner,
            shared: Arc::new(shared),
        }
    }

    /// Ends it: every call fails from now on, and its locks are free.
    pub(super) fn kill(&self) {
        // Whoever is in a call that changes something is out of it then.
        let _still = self.shared.faults.hold_still();
        self.shared.dead.store(true, Ordering::SeqCst);
        self.shared.locks.lock().clear();
    }

    fn change<T>(&self, call: impl FnOnce(&dyn Fs) -> io::Result<T>) -> io::Result<T> {
        let _moving = self.shared.faults.change();
        self.shared.check_alive()?;
        if let Medium::Memory(memory) = &self.medium {
            memory.set_now(self.shared.clock.now());
        }
        call(&*self.inner)
    }

    fn look<T>(&self, call: impl FnOnce(&dyn Fs) -> io::Result<T>) -> io::Result<T> {
        self.shared.check_alive()?;
        call(&*self.inner)
    }
}

impl Shared {
    fn check_alive(&self) -> io::Result<()> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(io::Error::other("this broker was killed"));
        }
        Ok(())
    }
}

impl Fs for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let inner = match mode {
            OpenMode::Read => self.look(|fs| fs.open(path, mode))?,
            OpenMode::ReadWrite | OpenMode::CreateNew => self.change(|fs| fs.open(path, mode))?,
        };
        Ok(Arc::new(DiskFile {
            inner,
            disk: self.clone(),
            topic: topic_of(path),
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.look(|fs| fs.list(dir))
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        let mut stat = self.look(|fs| fs.stat(path))?;
        if !matches!(self.medium, Medium::Memory(_)) {
            stat.modified = self.shared.clock.of_machine(stat.modified);
        }
        Ok(stat)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(|fs| fs.create_dir(dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|fs| fs.rename(from, to))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|fs| fs.link(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change(|fs| fs.remove_file(path))
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.change(|fs| fs.remove_dir_all(dir))
    }

    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()> {
        match self.shared.syncs {
            Syncs::Real => self.look(|fs| fs.sync_dir(dir, site)),
            Syncs::Skipped => self.shared.check_alive(),
        }
    }

    fn begin_sync(&self, file: &Arc<dyn File>, site: SyncSite) -> Syncing {
        // Its pool calls the file, and the file is one of ours.
        self.inner.begin_sync(file, site)
    }

    fn sync_many(&self, files: &[Arc<dyn File>], site: SyncSite) -> Vec<io::Result<()>> {
        match self.shared.syncs {
            Syncs::Real => self.inner.sync_many(files, site),
            Syncs::Skipped => files.iter().map(|file| file.sync_data(site)).collect(),
        }
    }

    fn sync_dirs(&self, dirs: &[Arc<Path>], site: SyncSite) -> Vec<io::Result<()>> {
        match self.shared.syncs {
            Syncs::Real => self.inner.sync_dirs(dirs, site),
            Syncs::Skipped => dirs.iter().map(|_| self.shared.check_alive()).collect(),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let guard = self.change(|fs| fs.lock(path))?;
        self.shared.locks.lock().push(guard);
        Ok(Box::new(Lock(Arc::clone(&self.shared))))
    }

    fn make_resident(&self, bytes: &Bytes) -> io::Result<()> {
        if self.shared.faults.is_armed() {
            // The file knows its topic, and this call does not know its file.
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.look(|fs| fs.make_resident(bytes))
    }

    fn mappings(&self) -> Mappings {
        self.inner.mappings()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        if self.shared.faults.is_full() {
            return Ok(0);
        }
        self.look(|fs| fs.free_bytes(path))
    }
}

/// The lock of a data directory. One disk locks one directory, once.
#[derive(Debug)]
struct Lock(Arc<Shared>);

impl LockGuard for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.locks.lock().clear();
    }
}

#[derive(Debug)]
struct DiskFile {
    inner: Arc<dyn File>,
    disk: Disk,
    /// Whose batches it holds, if it is a log.
    topic: Option<Arc<str>>,
}

impl DiskFile {
    fn meet<T>(&self, operation: Operation, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let shared = &self.disk.shared;
        shared.check_alive()?;
        shared.faults.meet(operation, self.topic.as_deref(), call)
    }
}

impl File for DiskFile {
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.meet(Operation::Read, || self.inner.read_exact_at(buffer, position))
    }

    fn write_all_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.meet(Operation::Append, || {
            self.disk.change(|_| {
                let len: usize = parts.iter().map(|part| part.len()).sum();
                let end = position.saturating_add(len as u64);
                if self.disk.shared.faults.is_full() && end > self.inner.len_bytes()? {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.inner.write_all_at(parts, position)
            })
        })
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.disk.shared.check_alive()?;
        self.inner.len_bytes()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.disk.change(|_| self.inner.set_len(len_bytes))
    }

    fn sync_data(&self, site: SyncSite) -> io::Result<()> {
        self.meet(Operation::Sync, || match self.disk.shared.syncs {
            Syncs::Real => self.inner.sync_data(site),
            Syncs::Skipped => Ok(()),
        })
    }

    fn map(&self, position: u64, len: usize) -> io::Result<Bytes> {
        self.disk.shared.check_alive()?;
        self.inner.map(position, len)
    }

    fn populate(&self, bytes: &Bytes, position: u64) -> io::Result<()> {
        self.meet(Operation::Read, || self.inner.populate(bytes, position))
    }

    fn drop_cache(&self, position: u64) -> io::Result<()> {
        self.disk.shared.check_alive()?;
        self.inner.drop_cache(position)
    }
}

/// Returns the topic whose log lies at `path`: `<data>/<topic>-<partition>/<offset>.log`.
fn topic_of(path: &Path) -> Option<Arc<str>> {
    let is_log = path.extension().is_some_and(|extension| extension == "log");
    let dir = path.parent().filter(|_| is_log)?.file_name()?.to_str()?;
    let (topic, partition) = dir.rsplit_once('-')?;
    let is_number = !partition.is_empty() && partition.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| topic.into())
}

/// Logs that nobody writes to any more, by the directory of their partition. They are those of one topic: one that was made anew
/// under its name has a directory and files of the same names, and writes to them.
#[derive(Clone, Default, Debug)]
pub(super) struct SealedLogs(BTreeMap<PathBuf, (TopicId, BTreeSet<String>)>);

impl SealedLogs {
    pub(super) fn add(&mut self, partition: PathBuf, topic: TopicId, logs: impl Iterator<Item = String>) {
        self.0.insert(partition, (topic, logs.collect()));
    }

    /// Returns those in the directory `folder` below `data`, if it still is their topic's.
    fn in_folder(&self, data: &Path, folder: &Path) -> Option<&BTreeSet<String>> {
        let (topic, logs) = self.0.get(folder)?;
        let metadata = std::fs::read(data.join(folder).join(PartitionMetadata::FILE_NAME)).ok()?;
        let found = PartitionMetadata::decode(&metadata).ok()?;
        (found.topic_id == *topic).then_some(logs)
    }
}

/// Copies the directory at `from` to `to`, which does not exist. Logs in `sealed` are linked where the disk can do that. Everything else
/// is copied. Nothing changes at `from` meanwhile.
///
/// # Errors
/// What the disk says.
pub(super) fn copy_directory(from: &Path, to: &Path, sealed: &SealedLogs) -> io::Result<()> {
    let fs = RealFs::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let linked = sealed.in_folder(from, &folder);
        std::fs::create_dir(to.join(&folder))?;
        for entry in fs.list(&from.join(&folder))? {
            let name = folder.join(&entry.name);
            let (source, target) = (from.join(&name), to.join(&name));
            match entry.kind {
                FileKind::Dir => folders.push(name),
                FileKind::File => {
                    let is_sealed = linked.is_some_and(|logs| logs.contains(&entry.name));
                    if !is_sealed || fs.link(&source, &target).is_err() {
                        std::fs::copy(&source, &target)?;
                    }
                }
                FileKind::Other => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_log_belongs_to_a_topic() {
        let topic = |path: &str| topic_of(Path::new(path)).map(|topic| topic.to_string());
        assert_eq!(
            topic("/d/a-b-12/00000000000000000000.log").as_deref(),
            Some("a-b")
        );
        for other in [
            "/d/a-0/x.index",
            "/d/x.log",
            "/d/a-/x.log",
            "/d/a-b/x.log",
            "/d/a-0/x.log.cleaned",
        ] {
            assert_eq!(topic(other), None, "{other}");
        }
    }
}
