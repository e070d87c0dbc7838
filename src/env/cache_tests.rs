//! The cache on real and simulated files: it never shows other bytes than the file has, and keeps its limits.

use std::io::{ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::cache::COPY_MAX_BYTES;
use super::*;

const WINDOW: usize = 64 << 10;
const LIMITS: CacheLimits = CacheLimits {
    open_files: 3,
    maps: 4,
    window_bytes: WINDOW,
};

fn on_each(limits: CacheLimits, test: impl Fn(&FileCache, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    test(&FileCache::new(Arc::new(RealFs::new()), limits), dir.path());
    test(&FileCache::new(Arc::new(SimFs::new()), limits), Path::new("/"));
}

fn path(dir: &Path, name: &str) -> Arc<Path> {
    Arc::from(dir.join(name))
}

fn write(cache: &FileCache, path: &Path, bytes: &[u8], position: u64) {
    let file = cache.open_rw(path).unwrap();
    file.write_all_at(&[IoSlice::new(bytes)], position).unwrap();
}

#[test]
fn a_read_finds_what_was_written_after_the_window_was_mapped() {
    on_each(LIMITS, |cache, dir| {
        let path = path(dir, "a");
        let mut expected = Vec::new();
        for filling in 0..20 {
            let bytes = vec![filling; 10_000];
            write(cache, &path, &bytes, expected.len() as u64);
            let start = expected.len() as u64;
            expected.extend(bytes);
            assert_eq!(
                cache.read(&path, start, 10_000).unwrap(),
                expected[start as usize..]
            );
            assert_eq!(cache.read(&path, 0, expected.len()).unwrap(), expected);
        }
    });
}

#[test]
fn a_read_past_the_end_is_an_error_wherever_it_starts() {
    on_each(LIMITS, |cache, dir| {
        let path = path(dir, "a");
        write(cache, &path, &vec![1; WINDOW + 100], 0);
        let last = (WINDOW + 99) as u64;
        assert_eq!(cache.read(&path, last, 1).unwrap(), [1].as_slice());
        let starts = [
            (last, 2),
            (last + 1, 1),
            (10, WINDOW + 100),
            (0, usize::MAX >> 1),
            (1 << 40, 1),
            (u64::MAX, 2),
        ];
        for (position, len) in starts {
            let maps = cache.stats().maps;
            let past = cache.read(&path, position, len).unwrap_err();
            assert_eq!(cache.stats().maps, maps, "{len} bytes at {position}");
            assert_eq!(past.kind(), ErrorKind::UnexpectedEof, "{len} bytes at {position}");
        }
        assert_eq!(
            cache.map_whole(&path, WINDOW + 101).unwrap_err().kind(),
            ErrorKind::UnexpectedEof
        );
        assert_eq!(
            cache.map_whole(&path, WINDOW + 100).unwrap(),
            vec![1; WINDOW + 100]
        );
        assert_eq!(cache.read(&path, u64::MAX, 0).unwrap().len(), 0);
        let missing = self::path(dir, "missing");
        assert_eq!(
            cache.read(&missing, 0, 1).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    });
}

#[test]
fn limits_hold_and_bytes_outlive_their_place_in_the_cache() {
    on_each(LIMITS, |cache, dir| {
        let mut held = Vec::new();
        for filling in 0..50u8 {
            let path = path(dir, &format!("{filling}"));
            write(cache, &path, &[filling; 100], 0);
            held.push(cache.read(&path, 0, 100).unwrap());
            held.push(cache.map_whole(&path, 100).unwrap());
            let stats = cache.stats();
            assert!(stats.open_files <= 3 && stats.maps <= 4, "{stats:?}");
        }
        assert!(cache.stats().opened_total >= 50);
        for (index, bytes) in held.iter().enumerate() {
            assert_eq!(bytes, &vec![u8::try_from(index / 2).unwrap(); 100]);
        }
    });
}

#[test]
#[cfg(target_os = "linux")]
fn the_process_keeps_no_more_mappings_of_files_than_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let cache = FileCache::new(Arc::new(RealFs::new()), LIMITS);
    for number in 0..50 {
        let path = path(dir.path(), &format!("{number}"));
        write(&cache, &path, &[1; 100], 0);
        cache.read(&path, 0, 100).unwrap();
    }
    let ours = dir.path().to_str().unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert_eq!(maps.lines().filter(|line| line.contains(ours)).count(), 4);
    let files = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    assert_eq!(files.filter(|file| file.starts_with(dir.path())).count(), 3);
    drop(cache);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert_eq!(maps.lines().filter(|line| line.contains(ours)).count(), 0);
}

#[test]
fn a_hit_opens_and_maps_nothing() {
    on_each(LIMITS, |cache, dir| {
        let path = path(dir, "a");
        write(cache, &path, &[1; 1000], 0);
        cache.read(&path, 0, 10).unwrap();
        cache.map_whole(&path, 1000).unwrap();
        let before = cache.stats();
        for position in 0..100 {
            // The same spelling in another allocation is the same file.
            let path = self::path(dir, "a");
            cache.read(&path, position, 10).unwrap();
            cache.map_whole(&path, 900).unwrap();
            cache.open(&path).unwrap();
        }
        assert_eq!(cache.stats(), before);
    });
}

#[test]
fn a_mapping_and_a_copy_outlive_the_handle_they_were_made_by() {
    let dir = tempfile::tempdir().unwrap();
    let cache = FileCache::new(Arc::new(RealFs::new()), LIMITS);
    let (small, large) = (path(dir.path(), "small"), path(dir.path(), "large"));
    write(&cache, &small, &[1; COPY_MAX_BYTES], 0);
    write(&cache, &large, &[2; COPY_MAX_BYTES + 1], 0);
    let look = || {
        assert_eq!(
            cache.map_whole(&small, COPY_MAX_BYTES).unwrap(),
            [1; COPY_MAX_BYTES][..]
        );
        assert_eq!(
            cache.map_whole(&large, COPY_MAX_BYTES + 1).unwrap().len(),
            COPY_MAX_BYTES + 1
        );
        assert_eq!(cache.read(&large, 5, 10).unwrap(), [2; 10][..]);
    };
    look();
    // Others push both handles out.
    for number in 0..LIMITS.open_files {
        write(&cache, &path(dir.path(), &format!("{number}")), &[3], 0);
    }
    let before = cache.stats();
    look();
    assert_eq!(cache.stats(), before);
}

#[test]
fn a_handle_to_write_serves_readers_and_takes_the_place_of_one_to_read() {
    on_each(LIMITS, |cache, dir| {
        let path = path(dir, "a");
        assert_eq!(cache.open(&path).unwrap_err().kind(), ErrorKind::NotFound);
        write(cache, &path, b"abc", 0);
        cache.forget(&path);
        cache.open(&path).unwrap();
        write(cache, &path, b"X", 1);
        assert_eq!(cache.stats().open_files, 1);
        assert_eq!(cache.stats().opened_total, 3);
        cache.open(&path).unwrap();
        assert_eq!(cache.stats().opened_total, 3);
        assert_eq!(cache.map_whole(&path, 3).unwrap(), b"aXc".as_slice());
    });
}

#[test]
fn a_replaced_file_is_read_anew_once_forgotten() {
    on_each(CacheLimits { maps: 40, ..LIMITS }, |cache, dir| {
        let (log, swap) = (path(dir, "a.log"), path(dir, "a.swap"));
        let len = 3 * WINDOW;
        write(cache, &log, &vec![1; len], 0);
        write(cache, &swap, &vec![2; len], 0);
        let old: Vec<_> = (0..3)
            .map(|window| cache.read(&log, (window * WINDOW) as u64, WINDOW).unwrap())
            .collect();
        let old_whole = cache.map_whole(&log, len).unwrap();
        cache.fs().rename(&swap, &log).unwrap();
        cache.forget(&log);
        cache.forget(&swap);
        assert_eq!((cache.stats().open_files, cache.stats().maps), (0, 0));
        for (window, old) in old.iter().enumerate() {
            assert_eq!(
                cache.read(&log, (window * WINDOW) as u64, WINDOW).unwrap(),
                vec![2; WINDOW]
            );
            assert_eq!(old, &vec![1; WINDOW]);
        }
        assert_eq!(cache.map_whole(&log, len).unwrap(), vec![2; len]);
        assert_eq!(old_whole, vec![1; len]);
        assert_eq!(cache.read(&swap, 0, 1).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_renamed_file_stays_open_and_mapped_and_what_it_replaced_does_not() {
    on_each(CacheLimits { maps: 40, ..LIMITS }, |cache, dir| {
        let (log, swap) = (path(dir, "a.log"), path(dir, "a.swap"));
        let len = 3 * WINDOW;
        write(cache, &log, &vec![1; len], 0);
        write(cache, &swap, &vec![2; len], 0);
        for path in [&log, &swap] {
            cache.read(path, 0, len).unwrap();
            cache.read(path, 5, 7).unwrap();
            cache.map_whole(path, len).unwrap();
        }
        cache.fs().rename(&swap, &log).unwrap();
        let before = cache.stats();
        cache.renamed(&swap, &log);
        assert_eq!(cache.read(&log, 0, len).unwrap(), vec![2; len]);
        assert_eq!(cache.read(&log, 5, 7).unwrap(), vec![2; 7]);
        assert_eq!(cache.map_whole(&log, len).unwrap(), vec![2; len]);
        let after = cache.stats();
        assert_eq!(
            (after.opened_total, after.mapped_total),
            (before.opened_total, before.mapped_total),
            "nothing is opened or mapped again"
        );
        assert!(after.open_files < before.open_files && after.maps < before.maps);
        assert_eq!(cache.read(&swap, 0, 1).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn forgetting_a_file_of_many_windows_takes_all_of_them_and_no_others() {
    let limits = CacheLimits { maps: 1000, ..LIMITS };
    on_each(limits, |cache, dir| {
        let (large, small) = (path(dir, "large"), path(dir, "small"));
        cache
            .open_rw(&large)
            .unwrap()
            .set_len(80 * WINDOW as u64)
            .unwrap();
        write(cache, &small, b"abc", 0);
        for window in [0, 1, 79] {
            cache.read(&large, window * WINDOW as u64, 1).unwrap();
        }
        cache.map_whole(&large, 1).unwrap();
        cache.map_whole(&small, 3).unwrap();
        cache.forget(&large);
        assert_eq!((cache.stats().open_files, cache.stats().maps), (1, 1));
    });
}

#[test]
fn readers_see_one_version_of_a_file_that_is_being_replaced_and_the_new_one_in_the_end() {
    let limits = CacheLimits {
        open_files: 2,
        maps: 2,
        ..LIMITS
    };
    on_each(limits, |cache, dir| {
        let (log, swap, other) = (path(dir, "a.log"), path(dir, "a.swap"), path(dir, "b.log"));
        write(cache, &log, &[0; 1000], 0);
        write(cache, &other, &[0; 10], 0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let bytes = cache.read(&log, 0, 1000).unwrap();
                        assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                        // Pushes the log out from time to time.
                        cache.map_whole(&other, 10).unwrap();
                    }
                });
            }
            for version in 1..=200 {
                write(cache, &swap, &[version; 1000], 0);
                cache.fs().rename(&swap, &log).unwrap();
                cache.forget(&swap);
                cache.forget(&log);
                assert_eq!(cache.read(&log, 0, 1000).unwrap(), [version; 1000].as_slice());
            }
        });
    });
}

#[test]
fn a_forgotten_directory_takes_its_files_along_and_no_others() {
    on_each(
        CacheLimits {
            open_files: 10,
            maps: 10,
            ..LIMITS
        },
        |cache, dir| {
            for name in ["t-1", "t-10"] {
                cache.fs().create_dir(&dir.join(name)).unwrap();
                let path = path(dir, &format!("{name}/a"));
                write(cache, &path, &[1; 10], 0);
                cache.map_whole(&path, 10).unwrap();
            }
            cache.fs().remove_dir_all(&dir.join("t-1")).unwrap();
            cache.forget_dir(&dir.join("t-1"));
            assert_eq!((cache.stats().open_files, cache.stats().maps), (1, 1));
            assert!(cache.open(&dir.join("t-1/a")).is_err());
            assert!(cache.open(&dir.join("t-10/a")).is_ok());
        },
    );
}

/// A disk on which somebody replaces a file between the moment it is opened and the moment the opener has it.
#[derive(Debug)]
struct ReplacedWhileOpening {
    disk: SimFs,
    cache: parking_lot::Mutex<Option<std::sync::Weak<FileCache>>>,
}

impl ReplacedWhileOpening {
    fn replace(&self) {
        if let Some(cache) = self.cache.lock().take().and_then(|cache| cache.upgrade()) {
            self.disk.rename(Path::new("/new"), Path::new("/a")).unwrap();
            cache.forget(Path::new("/a"));
        }
    }
}

impl Fs for ReplacedWhileOpening {
    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Arc<dyn File>> {
        let file = self.disk.open(path, mode)?;
        self.replace();
        Ok(file)
    }
    fn list(&self, dir: &Path) -> std::io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }
    fn stat(&self, path: &Path) -> std::io::Result<FileStat> {
        self.disk.stat(path)
    }
    fn create_dir(&self, dir: &Path) -> std::io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.disk.link(from, to)
    }
    fn remove_file(&self, path: &Path) -> std::io::Result<()> {
        self.disk.remove_file(path)
    }
    fn remove_dir_all(&self, dir: &Path) -> std::io::Result<()> {
        self.disk.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path, site: SyncSite) -> std::io::Result<()> {
        self.disk.sync_dir(dir, site)
    }
    fn sync_many(&self, files: &[Arc<dyn File>], site: SyncSite) -> Vec<std::io::Result<()>> {
        self.disk.sync_many(files, site)
    }
    fn sync_dirs(&self, dirs: &[Arc<Path>], site: SyncSite) -> Vec<std::io::Result<()>> {
        self.disk.sync_dirs(dirs, site)
    }
    fn lock(&self, path: &Path) -> std::io::Result<Box<dyn LockGuard>> {
        self.disk.lock(path)
    }
    fn make_resident(&self, bytes: &bytes::Bytes) -> std::io::Result<()> {
        self.disk.make_resident(bytes)
    }
    fn mappings(&self) -> Mappings {
        self.disk.mappings()
    }
    fn free_bytes(&self, path: &Path) -> std::io::Result<u64> {
        self.disk.free_bytes(path)
    }
}

#[test]
fn a_slow_opener_does_not_bring_a_replaced_file_back() {
    let disk = SimFs::new();
    for (name, bytes) in [("/a", b"old"), ("/new", b"new")] {
        let file = disk.open(Path::new(name), OpenMode::CreateNew).unwrap();
        file.write_all_at(&[IoSlice::new(bytes)], 0).unwrap();
    }
    let fs = Arc::new(ReplacedWhileOpening {
        disk,
        cache: parking_lot::Mutex::new(None),
    });
    let cache = Arc::new(FileCache::new(fs.clone(), LIMITS));
    *fs.cache.lock() = Some(Arc::downgrade(&cache));
    let path: Arc<Path> = Arc::from(Path::new("/a"));
    assert_eq!(cache.map_whole(&path, 3).unwrap(), b"old".as_slice());
    assert_eq!((cache.stats().open_files, cache.stats().maps), (0, 0));
    assert_eq!(cache.map_whole(&path, 3).unwrap(), b"new".as_slice());
    assert_eq!(cache.read(&path, 0, 3).unwrap(), b"new".as_slice());
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        file: usize,
        len: usize,
    },
    Read {
        file: usize,
        position: usize,
        len: usize,
    },
    MapWhole {
        file: usize,
        len: usize,
    },
    Replace {
        file: usize,
        by: usize,
    },
    Remove {
        file: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let file = || 0..4usize;
    prop_oneof![
        4 => (file(), 0..50_000usize).prop_map(|(file, len)| Step::Append { file, len }),
        6 => (file(), 0..200_000usize, 0..70_000usize)
            .prop_map(|(file, position, len)| Step::Read { file, position, len }),
        2 => (file(), 0..200_000usize).prop_map(|(file, len)| Step::MapWhole { file, len }),
        1 => (file(), file()).prop_map(|(file, by)| Step::Replace { file, by }),
        1 => file().prop_map(|file| Step::Remove { file }),
    ]
}

/// Runs `steps` against one `Vec` per file.
fn follow(cache: &FileCache, dir: &Path, steps: &[Step]) -> Result<(), TestCaseError> {
    let paths: Vec<Arc<Path>> = (0..4).map(|file| path(dir, &format!("{file}"))).collect();
    let mut model: Vec<Option<Vec<u8>>> = vec![None; 4];
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Append { file, len } => {
                let bytes = vec![u8::try_from(number % 251).unwrap(); len];
                let known = model[file].get_or_insert_default();
                write(cache, &paths[file], &bytes, known.len() as u64);
                known.extend(bytes);
            }
            Step::Read { file, position, len } => {
                let found = cache.read(&paths[file], position as u64, len).ok();
                let known = model[file]
                    .as_ref()
                    .and_then(|known| known.get(position..position + len));
                if len > 0 {
                    prop_assert_eq!(found.as_deref(), known);
                }
            }
            Step::MapWhole { file, len } => {
                let found = cache.map_whole(&paths[file], len).ok();
                let known = model[file].as_ref().and_then(|known| known.get(..len));
                if len > 0 {
                    prop_assert_eq!(found.as_deref(), known);
                }
            }
            Step::Replace { file, by } if file != by && model[by].is_some() => {
                cache.fs().rename(&paths[by], &paths[file]).unwrap();
                if number % 2 == 0 {
                    cache.renamed(&paths[by], &paths[file]);
                } else {
                    cache.forget(&paths[by]);
                    cache.forget(&paths[file]);
                }
                model[file] = model[by].take();
            }
            Step::Remove { file } if model[file].is_some() => {
                cache.fs().remove_file(&paths[file]).unwrap();
                cache.forget(&paths[file]);
                model[file] = None;
            }
            Step::Replace { .. } | Step::Remove { .. } => {}
        }
        let stats = cache.stats();
        prop_assert!(stats.open_files <= LIMITS.open_files && stats.maps <= LIMITS.maps);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_never_shows_other_bytes_than_the_file_has(steps in prop::collection::vec(step(), 0..60)) {
        let dir = tempfile::tempdir().unwrap();
        follow(&FileCache::new(Arc::new(RealFs::new()), LIMITS), dir.path(), &steps)?;
        follow(&FileCache::new(Arc::new(SimFs::in_memory()), LIMITS), &PathBuf::from("/"), &steps)?;
    }
}
