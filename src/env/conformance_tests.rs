//! What every file system must do, run on the real one and on both kinds of simulated disk; and the simulated disk
//! against the real one over random calls.

use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const SITE: SyncSite = SyncSite("test");

fn on_each(test: impl Fn(&Arc<dyn Fs>, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    let real: Arc<dyn Fs> = Arc::new(RealFs::new());
    test(&real, dir.path());
    for disk in [SimFs::new(), SimFs::in_memory()] {
        disk.create_dir(Path::new("/data")).unwrap();
        let disk: Arc<dyn Fs> = Arc::new(disk);
        test(&disk, Path::new("/data"));
    }
}

fn create(fs: &Arc<dyn Fs>, path: &Path, bytes: &[u8]) -> Arc<dyn File> {
    let file = fs.open(path, OpenMode::CreateNew).unwrap();
    write(&file, bytes, 0);
    file
}

fn write(file: &Arc<dyn File>, bytes: &[u8], position: u64) {
    file.write_all_at(&[IoSlice::new(bytes)], position).unwrap();
}

fn content(file: &Arc<dyn File>) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len_bytes().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn content_at(fs: &Arc<dyn Fs>, path: &Path) -> Vec<u8> {
    content(&fs.open(path, OpenMode::Read).unwrap())
}

fn names(fs: &Arc<dyn Fs>, dir: &Path) -> Vec<String> {
    fs.list(dir)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect()
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    result.map(|_| ()).expect_err("it must fail").kind()
}

#[test]
fn open_modes_say_what_must_exist() {
    on_each(|fs, dir| {
        let path = dir.join("a");
        assert_eq!(kind(fs.open(&path, OpenMode::Read)), ErrorKind::NotFound);
        create(fs, &path, b"abc");
        assert_eq!(
            kind(fs.open(&path, OpenMode::CreateNew)),
            ErrorKind::AlreadyExists
        );
        let again = fs.open(&path, OpenMode::ReadWrite).unwrap();
        assert_eq!(content(&again), b"abc");
        fs.open(&dir.join("b"), OpenMode::ReadWrite).unwrap();
        assert_eq!(content_at(fs, &dir.join("b")), b"");
        let missing = dir.join("no/c");
        assert_eq!(kind(fs.open(&missing, OpenMode::ReadWrite)), ErrorKind::NotFound);
        assert_eq!(kind(fs.open(dir, OpenMode::ReadWrite)), ErrorKind::IsADirectory);
    });
}

#[test]
fn a_handle_to_read_does_not_write() {
    on_each(|fs, dir| {
        create(fs, &dir.join("a"), b"abc");
        let file = fs.open(&dir.join("a"), OpenMode::Read).unwrap();
        assert!(file.write_all_at(&[IoSlice::new(b"x")], 0).is_err());
        assert!(file.set_len(0).is_err());
        assert_eq!(content(&file), b"abc");
    });
}

#[test]
fn writes_are_positioned_and_gaps_read_as_zeros() {
    on_each(|fs, dir| {
        let file = create(fs, &dir.join("a"), b"");
        let parts = [b"ab".as_slice(), b"", b"cde"].map(IoSlice::new);
        file.write_all_at(&parts, 3).unwrap();
        write(&file, b"X", 4);
        assert_eq!(content(&file), b"\0\0\0aXcde");
        file.write_all_at(&[], 100).unwrap();
        write(&file, b"", 100);
        assert_eq!(file.len_bytes().unwrap(), 8);
        file.set_len(4).unwrap();
        file.set_len(6).unwrap();
        assert_eq!(content(&file), b"\0\0\0a\0\0");
        assert_eq!(kind(file.read_exact_at(&mut [0; 3], 4)), ErrorKind::UnexpectedEof);
        file.read_exact_at(&mut [], 1 << 40).unwrap();
        file.sync_data(SITE).unwrap();
        file.drop_cache(0).unwrap();
        assert_eq!(content(&file), b"\0\0\0a\0\0");
    });
}

#[test]
fn stat_tells_kind_length_and_a_time_that_moves_with_the_content() {
    on_each(|fs, dir| {
        let file = create(fs, &dir.join("a"), b"abc");
        let stat = fs.stat(&dir.join("a")).unwrap();
        assert_eq!((stat.kind, stat.len_bytes), (FileKind::File, 3));
        write(&file, b"abcd", 0);
        assert!(fs.stat(&dir.join("a")).unwrap().modified >= stat.modified);
        assert_eq!(fs.stat(dir).unwrap().kind, FileKind::Dir);
        assert_eq!(kind(fs.stat(&dir.join("b"))), ErrorKind::NotFound);
    });
}

#[test]
fn a_listing_is_sorted_and_tells_directories() {
    on_each(|fs, dir| {
        for name in ["b", "a", "c.log"] {
            create(fs, &dir.join(name), b"");
        }
        fs.create_dir(&dir.join("aa")).unwrap();
        let found: Vec<_> = fs
            .list(dir)
            .unwrap()
            .into_iter()
            .map(|entry| (entry.name, entry.kind))
            .collect();
        let expected = [
            ("a", FileKind::File),
            ("aa", FileKind::Dir),
            ("b", FileKind::File),
            ("c.log", FileKind::File),
        ];
        assert_eq!(found, expected.map(|(name, kind)| (name.to_owned(), kind)));
        assert_eq!(kind(fs.list(&dir.join("no"))), ErrorKind::NotFound);
        assert_eq!(kind(fs.list(&dir.join("a"))), ErrorKind::NotADirectory);
        assert_eq!(kind(fs.create_dir(&dir.join("aa"))), ErrorKind::AlreadyExists);
    });
}

#[test]
fn a_rename_replaces_and_old_handles_keep_the_old_bytes() {
    on_each(|fs, dir| {
        let (new, old) = (dir.join("a.swap"), dir.join("a.log"));
        let written = create(fs, &new, b"new");
        let replaced = create(fs, &old, b"old");
        fs.rename(&new, &old).unwrap();
        fs.sync_dir(dir, SITE).unwrap();
        assert_eq!(names(fs, dir), ["a.log"]);
        assert_eq!(content_at(fs, &old), b"new");
        assert_eq!(content(&replaced), b"old");
        write(&written, b"newer", 0);
        assert_eq!(content_at(fs, &old), b"newer");
        assert_eq!(kind(fs.rename(&new, &old)), ErrorKind::NotFound);
    });
}

#[test]
fn a_directory_moves_with_what_is_in_it() {
    on_each(|fs, dir| {
        fs.create_dir(&dir.join("t-0")).unwrap();
        let file = create(fs, &dir.join("t-0/a"), b"abc");
        fs.rename(&dir.join("t-0"), &dir.join("t-0-delete")).unwrap();
        assert_eq!(content_at(fs, &dir.join("t-0-delete/a")), b"abc");
        fs.remove_dir_all(&dir.join("t-0-delete")).unwrap();
        assert_eq!(names(fs, dir), [""; 0]);
        assert_eq!(content(&file), b"abc");
        assert_eq!(
            kind(fs.remove_dir_all(&dir.join("t-0-delete"))),
            ErrorKind::NotFound
        );
    });
}

#[test]
fn a_link_is_a_second_name_of_the_same_bytes() {
    on_each(|fs, dir| {
        let file = create(fs, &dir.join("a"), b"abc");
        fs.link(&dir.join("a"), &dir.join("b")).unwrap();
        write(&file, b"X", 1);
        assert_eq!(content_at(fs, &dir.join("b")), b"aXc");
        let links = |name: &str| fs.stat(&dir.join(name)).unwrap().links;
        assert_eq!((links("a"), links("b")), (2, 2));
        assert_eq!(
            kind(fs.link(&dir.join("a"), &dir.join("b"))),
            ErrorKind::AlreadyExists
        );
        fs.remove_file(&dir.join("a")).unwrap();
        assert_eq!(links("b"), 1);
        assert_eq!(content_at(fs, &dir.join("b")), b"aXc");
        assert_eq!(kind(fs.remove_file(&dir.join("a"))), ErrorKind::NotFound);
    });
}

#[test]
fn a_lock_excludes_until_it_is_dropped() {
    on_each(|fs, dir| {
        let path = dir.join(".lock");
        let held = fs.lock(&path).unwrap();
        assert_eq!(kind(fs.lock(&path)), ErrorKind::WouldBlock);
        let other = fs.lock(&dir.join(".other")).unwrap();
        drop(held);
        let held = fs.lock(&path).unwrap();
        drop(other);
        assert_eq!(kind(fs.lock(&path)), ErrorKind::WouldBlock);
        drop(held);
    });
}

#[test]
fn a_mapping_shows_the_bytes_and_outlives_handle_and_name() {
    on_each(|fs, dir| {
        let path = dir.join("a");
        let file = create(fs, &path, &[7; 100_000]);
        let bytes = file.map(65_536, 20_000).unwrap();
        file.populate(&bytes, 65_536).unwrap();
        let part = bytes.slice(100..200);
        drop((file, bytes));
        fs.remove_file(&path).unwrap();
        assert_eq!(part, vec![7; 100]);
    });
}

#[test]
fn what_a_live_mapping_reaches_past_the_end_appears_when_the_file_grows() {
    on_each(|fs, dir| {
        let file = create(fs, &dir.join("a"), &[1; 10]);
        let bytes = file.map(0, 1 << 20).unwrap();
        write(&file, &[2; 100_000], 10);
        match fs.mappings() {
            Mappings::Live => {
                assert_eq!(bytes.len(), 1 << 20);
                file.populate(&bytes.slice(..100_010), 0).unwrap();
                assert_eq!(&bytes[10..100_010], vec![2; 100_000]);
            }
            Mappings::Copies => assert_eq!(bytes, vec![1; 10]),
        }
    });
}

#[test]
fn populate_past_the_end_is_an_error_and_no_signal() {
    on_each(|fs, dir| {
        let file = create(fs, &dir.join("a"), &[1; 10_000]);
        let bytes = file.map(0, 1 << 20).unwrap();
        file.populate(&bytes.slice(..10_000), 0).unwrap();
        file.populate(&bytes.slice(9_000..10_000), 9_000).unwrap();
        file.populate(&bytes.slice(10..10), 1 << 40).unwrap();
        // One byte too many, on the last page; a page too many; a position that overflows.
        for position in [9_001, 65_536, u64::MAX] {
            let past = file.populate(&bytes.slice(..1_000), position);
            assert_eq!(kind(past), ErrorKind::UnexpectedEof, "at {position}");
        }
    });
}

#[test]
fn a_file_cut_under_its_mapping_is_an_error_of_populate() {
    on_each(|fs, dir| {
        let file = create(fs, &dir.join("a"), &vec![1; 1 << 20]);
        let bytes = file.map(0, 1 << 20).unwrap();
        file.populate(&bytes, 0).unwrap();
        file.set_len(5_000).unwrap();
        assert_eq!(kind(file.populate(&bytes, 0)), ErrorKind::UnexpectedEof);
        file.populate(&bytes.slice(..5_000), 0).unwrap();
        assert_eq!(&bytes[..5_000], vec![1; 5_000]);
    });
}

#[test]
fn many_files_are_synced_at_once_with_a_result_each() {
    on_each(|fs, dir| {
        for count in [0, 1, 2, 40] {
            let files: Vec<_> = (0..count)
                .map(|number| create(fs, &dir.join(format!("{count}-{number}")), b"abc"))
                .collect();
            let results = fs.sync_many(&files, SITE);
            assert_eq!(results.len(), count);
            assert!(results.iter().all(Result::is_ok));
        }
    });
}

#[test]
fn many_directories_are_synced_at_once_with_a_result_each() {
    on_each(|fs, dir| {
        for count in [0, 1, 2, 40] {
            let dirs: Vec<Arc<Path>> = (0..count)
                .map(|number| dir.join(format!("{count}-{number}")).into())
                .collect();
            // Of every third there is none.
            for (_, dir) in dirs.iter().enumerate().filter(|(number, _)| number % 3 != 1) {
                fs.create_dir(dir).unwrap();
            }
            let results = fs.sync_dirs(&dirs, SITE).into_iter();
            let results: Vec<_> = results
                .map(|result| result.map_err(|error| error.kind()))
                .collect();
            let expected = (0..count).map(|number| match number % 3 {
                1 => Err(ErrorKind::NotFound),
                _ => Ok(()),
            });
            assert_eq!(results, expected.collect::<Vec<_>>());
        }
    });
}

#[test]
fn there_is_some_free_space() {
    on_each(|fs, dir| assert!(fs.free_bytes(dir).unwrap() > 0));
}

/// One call, on paths and handles by number.
#[derive(Clone, Debug)]
enum Step {
    Open(OpenMode, usize),
    Write { handle: usize, position: u16, len: u16 },
    SetLen { handle: usize, len: u16 },
    Close { handle: usize },
    CreateDir(usize),
    Rename(usize, usize),
    Link(usize, usize),
    RemoveFile(usize),
    RemoveDirAll(usize),
    SyncDir(usize),
}

const PATHS: [&str; 9] = ["a", "b", "d", "e", "d/a", "d/b", "d/e", "e/a", "d/e/a"];

fn step() -> impl Strategy<Value = Step> {
    let path = || 0..PATHS.len();
    let mode = prop_oneof![Just(OpenMode::ReadWrite), Just(OpenMode::CreateNew)];
    prop_oneof![
        4 => (mode, path()).prop_map(|(mode, path)| Step::Open(mode, path)),
        4 => (0..4usize, 0..3000u16, 0..3000u16)
            .prop_map(|(handle, position, len)| Step::Write { handle, position, len }),
        1 => (0..4usize, 0..4000u16).prop_map(|(handle, len)| Step::SetLen { handle, len }),
        1 => (0..4usize).prop_map(|handle| Step::Close { handle }),
        4 => path().prop_map(Step::CreateDir),
        4 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        2 => (path(), path()).prop_map(|(from, to)| Step::Link(from, to)),
        2 => path().prop_map(Step::RemoveFile),
        1 => path().prop_map(Step::RemoveDirAll),
        1 => path().prop_map(Step::SyncDir),
    ]
}

struct Side {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    handles: Vec<Arc<dyn File>>,
}

impl Side {
    fn new(fs: impl Fs, dir: &Path) -> Self {
        Self {
            fs: Arc::new(fs),
            dir: dir.to_owned(),
            handles: Vec::new(),
        }
    }

    fn path(&self, path: usize) -> PathBuf {
        self.dir.join(PATHS[path])
    }

    fn run(&mut self, number: usize, step: &Step) -> Result<(), ErrorKind> {
        let fs = &self.fs;
        let filling = u8::try_from(number % 250 + 1).unwrap();
        let result = match *step {
            Step::Open(mode, path) => fs.open(&self.path(path), mode).map(|file| {
                self.handles.insert(0, file);
                self.handles.truncate(4);
            }),
            Step::Write {
                handle,
                position,
                len,
            } => self.handles.get(handle).map_or(Ok(()), |file| {
                file.write_all_at(
                    &[IoSlice::new(&vec![filling; usize::from(len)])],
                    u64::from(position),
                )
            }),
            Step::SetLen { handle, len } => self
                .handles
                .get(handle)
                .map_or(Ok(()), |file| file.set_len(u64::from(len))),
            Step::Close { handle } => {
                if handle < self.handles.len() {
                    self.handles.remove(handle);
                }
                Ok(())
            }
            Step::CreateDir(path) => fs.create_dir(&self.path(path)),
            Step::Rename(from, to) => fs.rename(&self.path(from), &self.path(to)),
            Step::Link(from, to) => fs.link(&self.path(from), &self.path(to)),
            Step::RemoveFile(path) => fs.remove_file(&self.path(path)),
            Step::RemoveDirAll(path) => fs.remove_dir_all(&self.path(path)),
            // A real file may be synced as if it were a directory; we never do.
            Step::SyncDir(path) => match fs.stat(&self.path(path)) {
                Ok(FileStat {
                    kind: FileKind::Dir, ..
                }) => fs.sync_dir(&self.path(path), SITE),
                _ => Ok(()),
            },
        };
        result.map_err(|error| error.kind())
    }

    /// Every name with its bytes, and the bytes behind every handle.
    fn picture(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let mut picture = Vec::new();
        let mut dirs = vec![(self.dir.clone(), String::new())];
        while let Some((dir, prefix)) = dirs.pop() {
            for entry in self.fs.list(&dir).unwrap() {
                let name = format!("{prefix}{}", entry.name);
                let path = dir.join(&entry.name);
                match entry.kind {
                    FileKind::Dir => {
                        dirs.push((path, format!("{name}/")));
                        picture.push((name, None));
                    }
                    _ => picture.push((name, Some(content_at(&self.fs, &path)))),
                }
            }
        }
        picture.extend(
            self.handles
                .iter()
                .map(|file| ("handle".to_owned(), Some(content(file)))),
        );
        picture
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_simulated_disk_does_what_the_real_one_does(steps in prop::collection::vec(step(), 0..60)) {
        let dir = tempfile::tempdir().unwrap();
        let mut real = Side::new(RealFs::new(), dir.path());
        let mut simulated = [SimFs::new(), SimFs::in_memory()].map(|disk| Side::new(disk, Path::new("/")));
        for (number, step) in steps.iter().enumerate() {
            let expected = real.run(number, step);
            for side in &mut simulated {
                prop_assert_eq!(side.run(number, step), expected, "step {} {:?}", number, step);
            }
        }
        for side in &simulated {
            prop_assert_eq!(side.picture(), real.picture());
        }
    }
}
