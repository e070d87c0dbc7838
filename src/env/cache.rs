//! Open files and mappings by path, a bounded number of each.
//!
//! A store of 100,000 segments may neither hold 100,000 descriptors nor, with several windows each, 100,000 mappings. So
//! nobody keeps a file open: they ask here by path, and what has not been asked for lately is closed.
//!
//! ```text
//!   read(path, position, len)
//!        |        file |<---- window 0 ---->|<---- window 1 ---->|<- ...     window_bytes each
//!        |  in one window: a slice of its mapping, made resident
//!        '- across two, or a file system without live mappings: a copy by a positioned read
//! ```
//!
//! Invariants
//! - The cache holds at most `open_files` handles and `maps` mappings. The process may have more: those in the hands of
//!   callers (a [`Bytes`] keeps its mapping alive), and one per call in flight that opened what another has opened too.
//! - What was opened before a `forget` is not put into the cache after it: a slow opener cannot bring a replaced file back.
//! - The lock guards the two maps and the counters; it is never held during a system call, nor while closing or unmapping.
//!
//! Paths are compared as they are spelled. Whoever renames, replaces or removes a file calls [`FileCache::forget`] or
//! [`FileCache::renamed`] after it, and gives it to no reader before.
//!
//! What is not here: writing, locks, directories: they go to [`FileCache::fs`].

use std::borrow::Borrow;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{Hash, Hasher};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::fs::{File, Fs, Mappings, OpenMode};
use super::second_chance::SecondChance;

/// Mappings start at a multiple of this: a page on every platform.
const MAP_ALIGNMENT: usize = 64 << 10;

/// Windows that `forget` looks for one by one; where files have more, it looks at every mapping instead. With default
/// windows this is a file of 4 GiB.
const MAX_PROBES: u64 = 64;

/// A whole file of at most so many bytes is copied instead: the page that its mapping would hold resident costs as much, and
/// a copy needs no system call at each use.
pub(super) const COPY_MAX_BYTES: usize = 4096;

/// How much a [`FileCache`] keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheLimits {
    /// Open files, at least one. Default 512: half of the usual 1,024 descriptors, the rest is for connections.
    pub open_files: usize,
    /// Mappings, at least one. Default 40,000 of the 65,530 that Linux allows a process.
    pub maps: usize,
    /// Bytes one mapping of a log covers, rounded up to a multiple of 65,536. Default 64 MiB: few reads cross a border,
    /// and 40,000 of them still are a fiftieth of the address space.
    pub window_bytes: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            open_files: 512,
            maps: 40_000,
            window_bytes: 64 << 20,
        }
    }
}

/// What a [`FileCache`] holds, and what it had to do for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    /// Files open now.
    pub open_files: usize,
    /// Mappings kept now.
    pub maps: usize,
    /// Files opened since the start.
    pub opened_total: u64,
    /// Mappings made since the start.
    pub mapped_total: u64,
}

/// What a [`FileCache`] had of a file. Unmapping it, and with a removed file freeing its space, is left to whoever holds the
/// last of it: dropped at once, or kept until readers that may still have bytes of it are done, so that they need not do it.
#[derive(Debug)]
pub struct Forgotten {
    files: Vec<Open>,
    maps: Vec<(View, Mapped)>,
}

/// Open files and mappings, shared by everything that reads.
#[derive(Debug)]
pub struct FileCache {
    fs: Arc<dyn Fs>,
    window_bytes: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    files: SecondChance<PathKey, Open>,
    maps: SecondChance<(PathKey, View), Mapped>,
    /// Counts `forget` calls; see the second invariant.
    era: u64,
    /// No window with a greater number was ever kept, so `forget` need not look for one.
    last_window: u64,
    opened_total: u64,
    mapped_total: u64,
}

#[derive(Clone, Debug)]
struct Open {
    file: Arc<dyn File>,
    access: Access,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Access {
    Read,
    ReadWrite,
}

/// A mapping, or a copy of a whole small file.
#[derive(Clone, Debug)]
struct Mapped {
    bytes: Bytes,
    /// The file was seen to be at least so long, and does not shrink.
    known_len: u64,
}

/// Which part of a file a mapping covers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum View {
    Window(u64),
    Whole,
}

impl FileCache {
    /// Returns an empty cache over `fs`.
    pub fn new(fs: Arc<dyn Fs>, limits: CacheLimits) -> Self {
        Self {
            fs,
            window_bytes: limits.window_bytes.max(1).next_multiple_of(MAP_ALIGNMENT),
            kept: Mutex::new(Kept {
                files: SecondChance::new(limits.open_files),
                maps: SecondChance::new(limits.maps),
                era: 0,
                last_window: 0,
                opened_total: 0,
                mapped_total: 0,
            }),
        }
    }

    /// Returns the file system behind the cache.
    pub fn fs(&self) -> &Arc<dyn Fs> {
        &self.fs
    }

    /// Returns an open file to read from; it may be one that [`FileCache::open_rw`] opened.
    ///
    /// # Errors
    /// As [`Fs::open`] of an existing file.
    pub fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open_for(path, Access::Read)
    }

    /// Returns an open file to read and write, created empty if there is none.
    ///
    /// # Errors
    /// As [`Fs::open`].
    pub fn open_rw(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.open_for(path, Access::ReadWrite)
    }

    /// Returns `len` bytes of a file from `position`, resident: a slice of a mapping where one window holds them all,
    /// else a copy. A hit costs one lookup under a lock besides making the bytes resident, and opens nothing.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before; else what opening, mapping or reading says.
    pub fn read(&self, path: &Arc<Path>, position: u64, len: usize) -> io::Result<Bytes> {
        let window_bytes = to_u64(self.window_bytes);
        let window = position / window_bytes;
        let end = position
            .checked_add(to_u64(len))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        if self.fs.mappings() == Mappings::Copies || (end - 1) / window_bytes != window {
            return self.copy(path, position, len);
        }
        let start = window * window_bytes;
        let mapping = self.view(path, View::Window(window), start..start + window_bytes, end)?;
        let from = usize::try_from(position - start).expect("less than the window's length");
        let bytes = mapping.slice(from..from + len);
        self.populate(path, &bytes, position)?;
        Ok(bytes)
    }

    /// Returns the first `len` bytes of a file that no longer changes, resident, as one mapping, or as a copy of a small
    /// file. The whole of a mapping is made resident again at each call: 2 to 3 microseconds per 256 KiB. To look up a few
    /// bytes of a large file, [`FileCache::map_cold`] it.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before; else what opening, mapping or reading says.
    pub fn map_whole(&self, path: &Arc<Path>, len: usize) -> io::Result<Bytes> {
        let bytes = self.map_cold(path, len)?;
        if len > COPY_MAX_BYTES {
            self.populate(path, &bytes, 0)?;
        }
        Ok(bytes)
    }

    /// As [`FileCache::map_whole`], with nothing made resident: [`FileCache::populate`] a part before looking at it.
    ///
    /// # Errors
    /// As [`FileCache::map_whole`].
    pub fn map_cold(&self, path: &Arc<Path>, len: usize) -> io::Result<Bytes> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let mapping = self.view(path, View::Whole, 0..to_u64(len), to_u64(len))?;
        if mapping.len() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(mapping.slice(..len))
    }

    /// Makes `bytes`, which a mapping has at `position` of its file, resident. Only a page that cannot be had, or a system
    /// without the call, needs the file.
    ///
    /// # Errors
    /// What reading the bytes says.
    pub fn populate(&self, path: &Path, bytes: &Bytes, position: u64) -> io::Result<()> {
        match self.fs.make_resident(bytes) {
            Ok(()) => Ok(()),
            Err(_) => self.open(path)?.populate(bytes, position),
        }
    }

    /// Lets go of a file that was renamed, replaced or removed.
    pub fn forget(&self, path: &Path) -> Forgotten {
        let mut kept = self.kept.lock();
        kept.era += 1;
        kept.take(&PathKey(Arc::from(path)))
    }

    /// Follows a file that was renamed: what is open and mapped of it goes on under its new name, and nobody has to map it
    /// again. What was kept under that name before is forgotten.
    pub fn renamed(&self, from: &Path, to: &Path) -> Forgotten {
        let to = PathKey(Arc::from(to));
        let mut kept = self.kept.lock();
        kept.era += 1;
        let mut replaced = kept.take(&to);
        let Forgotten { files, maps } = kept.take(&PathKey(Arc::from(from)));
        for open in files {
            replaced.files.extend(kept.files.insert(to.clone(), open));
        }
        for (view, mapped) in maps {
            let gone = kept.maps.insert((to.clone(), view), mapped);
            replaced.maps.extend(gone.map(|gone| (view, gone)));
        }
        replaced
    }

    /// Lets go of every file in `dir` and below, after the directory was renamed or removed. Looks at everything kept.
    pub fn forget_dir(&self, dir: &Path) {
        self.forget_dirs(std::iter::once(dir));
    }

    /// As [`FileCache::forget_dir`], for many directories in one look at what the cache holds.
    pub fn forget_dirs<'a>(&self, dirs: impl Iterator<Item = &'a Path>) {
        let dirs: HashSet<&Path> = dirs.collect();
        let lies_in = |key: &Path| key.ancestors().any(|dir| dirs.contains(dir));
        let mut kept = self.kept.lock();
        kept.era += 1;
        let files = kept.files.remove_all(|key| lies_in(&key.0));
        let maps = kept.maps.remove_all(|(key, _)| lies_in(&key.0));
        drop(kept);
        drop((files, maps));
    }

    /// Tells what the cache holds.
    pub fn stats(&self) -> CacheStats {
        let kept = self.kept.lock();
        CacheStats {
            open_files: kept.files.len(),
            maps: kept.maps.len(),
            opened_total: kept.opened_total,
            mapped_total: kept.mapped_total,
        }
    }

    fn open_for(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let era = {
            let mut kept = self.kept.lock();
            if let Some(file) = kept.file(path.as_os_str(), access) {
                return Ok(file);
            }
            kept.era
        };
        self.open_new(PathKey(Arc::from(path)), access, era)
    }

    fn open_new(&self, key: PathKey, access: Access, era: u64) -> io::Result<Arc<dyn File>> {
        let mode = match access {
            Access::Read => OpenMode::Read,
            Access::ReadWrite => OpenMode::ReadWrite,
        };
        let file = self.fs.open(&key.0, mode)?;
        let mut kept = self.kept.lock();
        kept.opened_total += 1;
        let mut gone = None;
        // Another may have opened it meanwhile; the one that can do more stays.
        if kept.era == era && kept.file(key.as_os_str(), access).is_none() {
            gone = kept.files.insert(
                key,
                Open {
                    file: file.clone(),
                    access,
                },
            );
        }
        drop(kept);
        drop(gone);
        Ok(file)
    }

    /// Returns a mapping of `range`, which `view` names. What the file does not have up to `needed` is not mapped: positions
    /// out of damaged bytes leave no mapping behind.
    fn view(&self, path: &Arc<Path>, view: View, range: Range<u64>, needed: u64) -> io::Result<Bytes> {
        let len = usize::try_from(range.end - range.start).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let key = (PathKey(path.clone()), view);
        let (era, known) = {
            let mut kept = self.kept.lock();
            let known = kept
                .maps
                .find(&key)
                .filter(|known| known.bytes.len() >= len)
                .cloned();
            (kept.era, known)
        };
        if let Some(known) = &known
            && known.known_len >= needed
        {
            return Ok(known.bytes.clone());
        }
        let file = self.open(path)?;
        let known_len = file.len_bytes()?;
        if known_len < needed {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (bytes, mapped) = match known {
            Some(known) => (known.bytes, 0),
            None if view == View::Whole && len <= COPY_MAX_BYTES => {
                let mut copy = vec![0; len];
                file.read_exact_at(&mut copy, 0)?;
                (Bytes::from(copy), 0)
            }
            None => (file.map(range.start, len)?, 1),
        };
        let mut kept = self.kept.lock();
        kept.mapped_total += mapped;
        let mut gone = None;
        if kept.era == era {
            if let View::Window(window) = view {
                kept.last_window = kept.last_window.max(window);
            }
            let mapped = Mapped {
                bytes: bytes.clone(),
                known_len,
            };
            gone = kept.maps.insert(key, mapped);
        }
        drop(kept);
        drop(gone);
        Ok(bytes)
    }

    fn copy(&self, path: &Path, position: u64, len: usize) -> io::Result<Bytes> {
        let file = self.open(path)?;
        // Looked at first, so that a length out of damaged bytes does not decide how much memory we take.
        if file
            .len_bytes()?
            .checked_sub(position)
            .is_none_or(|left| left < to_u64(len))
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, position)?;
        Ok(Bytes::from(bytes))
    }
}

impl Kept {
    /// Takes out everything of a file.
    fn take(&mut self, key: &PathKey) -> Forgotten {
        let maps = if self.last_window < MAX_PROBES {
            let views = (0..=self.last_window).map(View::Window).chain([View::Whole]);
            views
                .filter_map(|view| Some((view, self.maps.remove(&(key.clone(), view))?)))
                .collect()
        } else {
            let all = self.maps.remove_all(|(other, _)| other == key);
            all.into_iter()
                .map(|((_, view), mapped)| (view, mapped))
                .collect()
        };
        Forgotten {
            files: self.files.remove(key).into_iter().collect(),
            maps,
        }
    }

    fn file(&mut self, path: &OsStr, access: Access) -> Option<Arc<dyn File>> {
        let open = self.files.find(path).filter(|open| open.access >= access)?;
        Some(open.file.clone())
    }
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).expect("a usize has at most 64 bits")
}

/// A path as its bytes: hashed and compared in one go instead of component by component.
#[derive(Clone, Debug)]
struct PathKey(Arc<Path>);

impl PathKey {
    fn as_os_str(&self) -> &OsStr {
        self.0.as_os_str()
    }
}

impl PartialEq for PathKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.as_os_str() == other.as_os_str()
    }
}

impl Eq for PathKey {}

impl Hash for PathKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_os_str().hash(state);
    }
}

impl Borrow<OsStr> for PathKey {
    fn borrow(&self) -> &OsStr {
        self.as_os_str()
    }
}
