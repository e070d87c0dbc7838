//! What the store asks of a file system: [`Fs`] for names and directories, [`File`] for bytes.
//!
//! Rules that every implementation keeps, and the crash sweep relies on
//! - After `write_all_at`, reads see the bytes; a crash may lose them, whole or in part, until `sync_data`.
//! - After `sync_data`, the file's bytes and length survive a crash; its *name* survives only after `sync_dir`.
//! - `rename` replaces its target atomically; whether before or after it a crash shows is open until `sync_dir`.
//! - A failed `sync_data` leaves open which bytes are on disk, and a later success does not repair that.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::types::Timestamp;

/// Which sync of the code this is; the crash sweep switches them off one by one and must then fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SyncSite(pub &'static str);

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OpenMode {
    /// It exists, and is only read.
    Read,
    /// It exists or is created empty, and is read and written.
    ReadWrite,
    /// It is created, and must not exist yet; read and written.
    CreateNew,
}

/// What a path names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// An ordinary file.
    File,
    /// A directory.
    Dir,
    /// Anything else: a link, a device.
    Other,
}

/// What [`File::map`] of a file system gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mappings {
    /// The file itself: bytes written later appear in a mapping made before.
    Live,
    /// A copy of what the file held when it was mapped: worth keeping of a file that no longer changes, not of others.
    Copies,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The name without its directory. Names that are not UTF-8 are not ours and are left out of listings.
    pub name: String,
    /// What it names.
    pub kind: FileKind,
}

/// Length and time of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileStat {
    /// What the path names.
    pub kind: FileKind,
    /// Length in bytes.
    pub len_bytes: u64,
    /// When its content last changed.
    pub modified: Timestamp,
    /// How many names a file has; of anything else, what the system says.
    pub links: u64,
}

/// An open file. Dropping the last handle closes it.
pub trait File: Debug + Send + Sync + 'static {
    /// Fills `buffer` from `position`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before the buffer is full; else what the disk says.
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()>;

    /// Writes all of `parts`, one after the other, at `position`; grows the file when it ends before.
    ///
    /// # Errors
    /// What the disk says; any part of the bytes may then have been written.
    fn write_all_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()>;

    /// Returns the length in bytes.
    ///
    /// # Errors
    /// What the disk says.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Cuts or zero-extends the file to `len_bytes`.
    ///
    /// # Errors
    /// What the disk says.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;

    /// Makes the bytes and the length survive a crash (`fdatasync`).
    ///
    /// # Errors
    /// What the disk says; the page cache can then no longer be trusted for what was not synced before.
    fn sync_data(&self, site: SyncSite) -> io::Result<()>;

    /// Has the disk take what was written so far, so that a later `sync_data` has little left to do. Promises nothing, and doing
    /// nothing is right; an error is as one of `sync_data`.
    ///
    /// # Errors
    /// What the disk says.
    fn write_back(&self) -> io::Result<()> {
        Ok(())
    }

    /// Maps `len` bytes from `position` for reading, without touching them. `position` is a multiple of 65,536 (a page
    /// on every platform). With [`Mappings::Live`] the result has `len` bytes and may reach past the end of the file,
    /// which may grow into it; with [`Mappings::Copies`] it ends where the file ends now. The caller reads only what
    /// exists, after [`File::populate`].
    ///
    /// # Errors
    /// What the operating system says.
    fn map(&self, position: u64, len: usize) -> io::Result<Bytes>;

    /// Makes `bytes`, the part of a mapping of this file that lies at `position` of the file, resident, so that reading
    /// them does not fault on the disk. The promise holds until memory runs short; call it before each use.
    ///
    /// # Errors
    /// What a read of the disk would have said, or `UnexpectedEof` when the file ends before.
    fn populate(&self, bytes: &Bytes, position: u64) -> io::Result<()>;

    /// Drops what the page cache holds of the file from `position` on, as far as it is clean, so that the next read
    /// comes from the disk. Linux keeps pages that a live mapping has made resident, too: let go of the mappings first.
    ///
    /// # Errors
    /// What the operating system says.
    fn drop_cache(&self, position: u64) -> io::Result<()>;
}

/// Held while this process owns a lock file; dropping it releases the lock.
pub trait LockGuard: Debug + Send + Sync + 'static {}

/// A file system. Paths are absolute or relative to the process; directories must exist before what is in them.
pub trait Fs: Debug + Send + Sync + 'static {
    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` by mode; else what the disk says.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// Lists a directory, sorted by name.
    ///
    /// # Errors
    /// `NotFound`; else what the disk says.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;

    /// Tells kind, length and time of what a path leads to; links are followed.
    ///
    /// # Errors
    /// `NotFound`; else what the disk says.
    fn stat(&self, path: &Path) -> io::Result<FileStat>;

    /// Creates one directory; its parent exists.
    ///
    /// # Errors
    /// `AlreadyExists`; else what the disk says.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Gives a file or directory another name, replacing a file of that name.
    ///
    /// # Errors
    /// `NotFound`; else what the disk says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a second name. The target must not exist.
    ///
    /// # Errors
    /// `AlreadyExists`, `CrossesDevices`; else what the disk says.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name; open handles and mappings keep its bytes.
    ///
    /// # Errors
    /// `NotFound`; else what the disk says.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory with everything in it.
    ///
    /// # Errors
    /// `NotFound`; else what the disk says.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes the names in a directory survive a crash.
    ///
    /// # Errors
    /// What the disk says.
    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()>;

    /// Syncs many files at once on a small pool; as many results as files, in their order.
    fn sync_many(&self, files: &[Arc<dyn File>], site: SyncSite) -> Vec<io::Result<()>>;

    /// As [`Fs::sync_dir`], of many directories at once on the same pool; as many results as directories, in their order.
    fn sync_dirs(&self, dirs: &[Arc<Path>], site: SyncSite) -> Vec<io::Result<()>>;

    /// Takes the exclusive lock of `path`, creating the file.
    ///
    /// # Errors
    /// `WouldBlock` when another process holds it; else what the disk says.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>>;

    /// Makes `bytes` of a mapping of ours resident without a handle of their file, as [`File::populate`] does with one.
    ///
    /// # Errors
    /// A page that cannot be had, or a system that has no such call: [`File::populate`] then says or does more.
    fn make_resident(&self, bytes: &Bytes) -> io::Result<()>;

    /// Tells what [`File::map`] gives here.
    fn mappings(&self) -> Mappings;

    /// Returns the bytes free to us on the disk that holds `path`.
    ///
    /// # Errors
    /// What the operating system says.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}
