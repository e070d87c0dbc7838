//! [`SimFs`]: a whole disk in memory that can die.
//!
//! It serves two masters. The embedded broker keeps its data in one made by [`SimFs::in_memory`]. Tests take one made by
//! [`SimFs::new`], which also remembers what a power loss would take, run the code on it, let it die at a chosen call,
//! and look at what [`SimFs::crash`] leaves:
//!
//! ```text
//!   disk = SimFs::new(); run(disk); calls = disk.mutations()
//!   for k in 0..calls:
//!       disk = SimFs::new(); disk.fail_after(k); run(disk)            every call from the k-th on fails
//!       for choice in LoseAll, KeepAll, Random(seed)..:
//!           recover(disk.crash(choice))                               must find all that was promised
//! ```
//!
//! What survives a crash (`content`, `tree`): file bytes and length after `sync_data`, names in a directory after
//! `sync_dir`, the name of that directory only after `sync_dir` of its parent. Of the rest, what [`CrashChoice`] says.
//!
//! Invariants
//! - One lock guards everything, so calls are atomic and in one order. Nothing is called while it is held.
//! - The same calls in the same order give the same disk, the same deaths and the same crashes, on every machine.
//! - Mappings are copies ([`Mappings::Copies`]).
//!
//! Paths: relative ones start at the root; `..` is taken by its letters. There are no symbolic links and no permissions.

mod blocks;
mod content;
mod crash;
mod faults;
mod tree;

#[cfg(test)]
mod sim_tests;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};

use self::content::Tracking;
pub use self::crash::CrashChoice;
use self::crash::Rng;
pub use self::faults::{Call, Failure, Fault, SimulatedCrash};
use self::faults::{Faults, Refusal, SyncEffect};
use self::tree::{Body, NodeId, Tree};
use super::fs::{DirEntry, File, FileKind, FileStat, Fs, LockGuard, Mappings, OpenMode, SyncSite};
use crate::types::Timestamp;

/// A disk in memory. Clones are handles of the same disk.
#[derive(Clone)]
pub struct SimFs {
    disk: Arc<Mutex<Disk>>,
    watch: Arc<RwLock<Option<Watch>>>,
    reads: Arc<RwLock<Option<ReadWatch>>>,
}

/// What is called before each sync.
type Watch = Arc<dyn Fn(SyncSite) + Send + Sync>;
/// What is called before each read of a file's bytes.
type ReadWatch = Arc<dyn Fn() + Send + Sync>;

impl fmt::Debug for SimFs {
    /// Without the content: every handle leads here, and a disk full of bytes helps nobody in a message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFs").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Disk {
    tree: Tree,
    faults: Faults,
    now: Timestamp,
    capacity_bytes: u64,
    locked: Vec<NodeId>,
}

impl Default for SimFs {
    fn default() -> Self {
        Self::new()
    }
}

impl SimFs {
    /// Returns an empty disk that can crash. It keeps everything twice, and what was removed as well.
    pub fn new() -> Self {
        Self::with(Tracking::On)
    }

    /// Returns an empty disk to keep data in: syncs do nothing, and [`SimFs::crash`] finds everything as it was.
    pub fn in_memory() -> Self {
        Self::with(Tracking::Off)
    }

    fn with(tracking: Tracking) -> Self {
        Self::of(Disk {
            tree: Tree::new(tracking),
            faults: Faults::default(),
            now: Timestamp(0),
            capacity_bytes: u64::MAX,
            locked: Vec::new(),
        })
    }

    fn of(disk: Disk) -> Self {
        Self {
            disk: Arc::new(Mutex::new(disk)),
            watch: Arc::default(),
            reads: Arc::default(),
        }
    }

    /// Returns the disk as it is found when the power is back. No file is open, no lock held, no fault ordered; the
    /// clock, the capacity and the disabled syncs are as before. This disk stays as it is.
    #[must_use]
    pub fn crash(&self, choice: CrashChoice) -> Self {
        let seed = match choice {
            CrashChoice::LoseAll | CrashChoice::KeepAll => 0,
            CrashChoice::Random(seed) => seed,
        };
        let disk = self.disk.lock();
        Self::of(Disk {
            tree: disk.tree.after_crash(choice, &mut Rng::new(seed)),
            faults: disk.faults.after_crash(),
            now: disk.now,
            capacity_bytes: disk.capacity_bytes,
            locked: Vec::new(),
        })
    }

    /// Lets `calls` more mutating calls through. The next one dies, a write perhaps half-way, a removal of a directory
    /// too, and from then on every call fails with [`SimulatedCrash`].
    pub fn fail_after(&self, calls: u64) {
        self.disk.lock().faults.die_after(calls);
    }

    /// Takes the death for one of the process alone: the machine goes on with all that was written, synced or not. No fault is
    /// ordered any more; the dead process has dropped its handles.
    pub fn revive(&self) {
        self.disk.lock().faults.revive();
    }

    /// Returns how many mutating calls there were: writes, `set_len`, syncs, creating, renaming, linking, removing,
    /// whether or not they succeeded.
    pub fn mutations(&self) -> u64 {
        self.disk.lock().faults.mutations()
    }

    /// Makes the syncs of `site` succeed without effect, also after a crash.
    pub fn disable_sync(&self, site: SyncSite) {
        self.disk.lock().faults.disable(site);
    }

    /// Returns the sites that have synced so far, sorted by name.
    pub fn sync_sites(&self) -> Vec<SyncSite> {
        self.disk.lock().faults.sites()
    }

    /// Orders a fault; those ordered before and still due come first.
    pub fn inject(&self, fault: Fault) {
        self.disk.lock().faults.inject(fault);
    }

    /// Has `watch` called at each sync from now on, before it, with no lock of the disk held: what a slow disk would keep
    /// waiting can be looked at, and whose thread it keeps. A crash ends it.
    pub fn watch_syncs(&self, watch: impl Fn(SyncSite) + Send + Sync + 'static) {
        *self.watch.write() = Some(Arc::new(watch));
    }

    /// As [`watch_syncs`](Self::watch_syncs), at each read, mapping and populating of a file.
    pub fn watch_reads(&self, watch: impl Fn() + Send + Sync + 'static) {
        *self.reads.write() = Some(Arc::new(watch));
    }

    fn tell_read_watch(&self) {
        let watch = self.reads.read().clone();
        if let Some(watch) = watch {
            watch();
        }
    }

    fn tell_watch(&self, site: SyncSite) {
        let watch = self.watch.read().clone();
        if let Some(watch) = watch {
            watch(site);
        }
    }

    /// Sets the time that changes are stamped with from now on.
    pub fn set_now(&self, now: Timestamp) {
        self.disk.lock().now = now;
    }

    /// Sets the size of the disk. A write past it fails with `StorageFull` after writing what fits.
    pub fn set_capacity_bytes(&self, capacity_bytes: u64) {
        self.disk.lock().capacity_bytes = capacity_bytes;
    }
}

impl Disk {
    fn free_bytes(&self) -> u64 {
        // Without a limit there is nothing to count, and counting looks at every file.
        match self.capacity_bytes {
            u64::MAX => u64::MAX,
            capacity_bytes => capacity_bytes.saturating_sub(self.tree.used_bytes()),
        }
    }

    fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<NodeId> {
        self.faults.check_alive()?;
        let text = path.to_string_lossy();
        let place = self.tree.place(path)?;
        let found = self.tree.at(&place);
        match (found, mode) {
            (Some(_), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(id), OpenMode::Read | OpenMode::ReadWrite) => {
                self.faults.look(Call::Open, &[&text])?;
                match self.tree.kind(id) {
                    FileKind::File => Ok(id),
                    FileKind::Dir | FileKind::Other => Err(io::ErrorKind::IsADirectory.into()),
                }
            }
            (None, OpenMode::Read) => {
                self.faults.look(Call::Open, &[&text])?;
                Err(io::ErrorKind::NotFound.into())
            }
            (None, OpenMode::ReadWrite | OpenMode::CreateNew) => {
                self.faults.mutate(Call::Open, &[&text])?;
                Ok(self.tree.create_file(place, self.now))
            }
        }
    }

    /// Checks a rename as the operating system does, and does it.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (self.tree.place(from)?, self.tree.place(to)?);
        let id = self.tree.at(&from).ok_or(io::ErrorKind::NotFound)?;
        if self.tree.lies_in(to.dir, id) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if let Some(replaced) = self.tree.at(&to) {
            if replaced == id {
                return Ok(());
            }
            if self.tree.lies_in(from.dir, replaced) {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            match (self.tree.kind(id), self.tree.kind(replaced)) {
                (FileKind::Dir, FileKind::Dir) if self.tree.is_empty_dir(replaced) => {}
                (FileKind::Dir, FileKind::Dir) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
                (FileKind::Dir, _) => return Err(io::ErrorKind::NotADirectory.into()),
                (_, FileKind::Dir) => return Err(io::ErrorKind::IsADirectory.into()),
                _ => {}
            }
        }
        self.tree.rename(from, to, self.now);
        Ok(())
    }

    fn write(&mut self, file: &SimFile, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if let Err(refusal) = self.faults.mutate(Call::Write, &[&file.path]) {
            if let Refusal::Dying(_, rng) = &refusal {
                let torn = rng.clone().below(len + 1);
                self.tree.content_mut(file.node).write(parts, position, torn)?;
            }
            return Err(refusal.into());
        }
        let room = self
            .tree
            .content(file.node)
            .len_bytes()
            .saturating_add(self.free_bytes());
        let fits = usize::try_from(room.saturating_sub(position)).unwrap_or(usize::MAX);
        self.tree
            .content_mut(file.node)
            .write(parts, position, len.min(fits))?;
        self.tree.node_mut(file.node).modified = self.now;
        if len > fits {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn sync_data(&mut self, file: &SimFile, site: SyncSite) -> io::Result<()> {
        let effect = self.faults.sync_effect(site);
        match self.faults.mutate(Call::SyncData, &[&file.path]) {
            Ok(()) if effect == SyncEffect::Real => self.tree.content_mut(file.node).sync(),
            Ok(()) => {}
            Err(refusal) => {
                if let Refusal::LosesDirtyPages(_) = &refusal {
                    self.tree.content_mut(file.node).lose_dirty_pages();
                }
                return Err(refusal.into());
            }
        }
        Ok(())
    }
}

impl Fs for SimFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut disk = self.disk.lock();
        let node = disk.open(path, mode)?;
        disk.tree.node_mut(node).handles += 1;
        Ok(Arc::new(SimFile {
            fs: self.clone(),
            node,
            path: path.to_string_lossy().into_owned(),
            mode,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut disk = self.disk.lock();
        disk.faults.look(Call::Look, &[&dir.to_string_lossy()])?;
        disk.tree.list(disk.tree.find(dir)?)
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        let mut disk = self.disk.lock();
        disk.faults.look(Call::Look, &[&path.to_string_lossy()])?;
        let id = disk.tree.find(path)?;
        let node = disk.tree.node(id);
        Ok(FileStat {
            kind: disk.tree.kind(id),
            len_bytes: match &node.body {
                Body::File(content) => content.len_bytes(),
                Body::Dir(_) => 0,
            },
            modified: node.modified,
            links: u64::try_from(node.links).unwrap_or(u64::MAX),
        })
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.faults.mutate(Call::CreateDir, &[&dir.to_string_lossy()])?;
        let place = disk.tree.place(dir)?;
        if disk.tree.at(&place).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let now = disk.now;
        disk.tree.create_dir(place, now);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.faults
            .mutate(Call::Rename, &[&from.to_string_lossy(), &to.to_string_lossy()])?;
        disk.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.faults
            .mutate(Call::Link, &[&from.to_string_lossy(), &to.to_string_lossy()])?;
        let id = disk.tree.find(from)?;
        let to = disk.tree.place(to)?;
        if disk.tree.at(&to).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if disk.tree.kind(id) == FileKind::Dir {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let now = disk.now;
        disk.tree.link(id, to, now);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.faults.mutate(Call::Remove, &[&path.to_string_lossy()])?;
        let place = disk.tree.place(path)?;
        let id = disk.tree.at(&place).ok_or(io::ErrorKind::NotFound)?;
        if disk.tree.kind(id) == FileKind::Dir {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let now = disk.now;
        disk.tree.remove(place, now);
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let now = disk.now;
        let allowed = disk.faults.mutate(Call::Remove, &[&dir.to_string_lossy()]);
        let limit = match &allowed {
            Ok(()) => usize::MAX,
            Err(Refusal::Dying(_, rng)) => rng.clone().below(4),
            Err(Refusal::Plain(_) | Refusal::LosesDirtyPages(_)) => return Ok(allowed?),
        };
        let place = disk.tree.place(dir)?;
        let id = disk.tree.at(&place).ok_or(io::ErrorKind::NotFound)?;
        if disk.tree.kind(id) != FileKind::Dir {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        disk.tree.clear_dir(id, now, limit);
        allowed?;
        disk.tree.remove(place, now);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()> {
        self.tell_watch(site);
        let mut disk = self.disk.lock();
        let effect = disk.faults.sync_effect(site);
        disk.faults.mutate(Call::SyncDir, &[&dir.to_string_lossy()])?;
        let id = disk.tree.find(dir)?;
        match effect {
            SyncEffect::Real => disk.tree.sync_dir(id),
            SyncEffect::None => Ok(()),
        }
    }

    fn sync_many(&self, files: &[Arc<dyn File>], site: SyncSite) -> Vec<io::Result<()>> {
        files.iter().map(|file| file.sync_data(site)).collect()
    }

    fn sync_dirs(&self, dirs: &[Arc<Path>], site: SyncSite) -> Vec<io::Result<()>> {
        dirs.iter().map(|dir| self.sync_dir(dir, site)).collect()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let mut disk = self.disk.lock();
        let node = disk.open(path, OpenMode::ReadWrite)?;
        if disk.locked.contains(&node) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        disk.locked.push(node);
        disk.tree.node_mut(node).handles += 1;
        Ok(Box::new(SimLock {
            fs: self.clone(),
            node,
        }))
    }

    fn make_resident(&self, _bytes: &Bytes) -> io::Result<()> {
        // The file decides, so that its faults are met.
        Err(io::ErrorKind::Unsupported.into())
    }

    fn mappings(&self) -> Mappings {
        Mappings::Copies
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let disk = self.disk.lock();
        disk.faults.check_alive()?;
        Ok(disk.free_bytes())
    }
}

#[derive(Debug)]
struct SimLock {
    fs: SimFs,
    node: NodeId,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.fs.disk.lock();
        disk.locked.retain(|locked| *locked != self.node);
        disk.tree.close(self.node);
    }
}

#[derive(Debug)]
struct SimFile {
    fs: SimFs,
    node: NodeId,
    path: String,
    mode: OpenMode,
}

impl SimFile {
    fn look(&self) -> io::Result<MutexGuard<'_, Disk>> {
        self.fs.tell_read_watch();
        let mut disk = self.fs.disk.lock();
        disk.faults.look(Call::Read, &[&self.path])?;
        Ok(disk)
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.mode {
            OpenMode::Read => Err(rustix::io::Errno::BADF.into()),
            OpenMode::ReadWrite | OpenMode::CreateNew => Ok(()),
        }
    }
}

impl File for SimFile {
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let disk = self.look()?;
        disk.tree.content(self.node).read(position, buffer)
    }

    fn write_all_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.check_writable()?;
        self.fs.disk.lock().write(self, parts, position)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        let disk = self.fs.disk.lock();
        disk.faults.check_alive()?;
        Ok(disk.tree.content(self.node).len_bytes())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut disk = self.fs.disk.lock();
        disk.faults.mutate(Call::SetLen, &[&self.path])?;
        let grown = len_bytes.saturating_sub(disk.tree.content(self.node).len_bytes());
        if grown > disk.free_bytes() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.tree.content_mut(self.node).set_len(len_bytes)?;
        let now = disk.now;
        disk.tree.node_mut(self.node).modified = now;
        Ok(())
    }

    fn sync_data(&self, site: SyncSite) -> io::Result<()> {
        self.fs.tell_watch(site);
        self.fs.disk.lock().sync_data(self, site)
    }

    fn map(&self, position: u64, len: usize) -> io::Result<Bytes> {
        let disk = self.look()?;
        Ok(disk.tree.content(self.node).copy(position, len).into())
    }

    fn populate(&self, bytes: &Bytes, position: u64) -> io::Result<()> {
        let disk = self.look()?;
        disk.tree.content(self.node).check(position, bytes.len())?;
        Ok(())
    }

    fn drop_cache(&self, position: u64) -> io::Result<()> {
        let mut disk = self.look()?;
        disk.tree.content_mut(self.node).drop_cache(position);
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.fs.disk.lock().tree.close(self.node);
    }
}
