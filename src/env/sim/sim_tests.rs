//! What the simulated disk may and must not do when the power goes, when it is told to die, and when faults are ordered.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

use proptest::prelude::*;

use super::*;

const SITE: SyncSite = SyncSite("test");

fn create(disk: &SimFs, path: &str) -> Arc<dyn File> {
    disk.open(Path::new(path), OpenMode::CreateNew).unwrap()
}

fn write(file: &Arc<dyn File>, bytes: &[u8], position: u64) {
    file.write_all_at(&[IoSlice::new(bytes)], position).unwrap();
}

fn sync_names(disk: &SimFs) {
    disk.sync_dir(Path::new("/"), SITE).unwrap();
}

fn content(file: &Arc<dyn File>) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len_bytes().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn content_at(disk: &SimFs, path: &str) -> Option<Vec<u8>> {
    disk.open(Path::new(path), OpenMode::Read)
        .ok()
        .map(|file| content(&file))
}

fn names(disk: &SimFs) -> Vec<String> {
    disk.list(Path::new("/"))
        .unwrap()
        .into_iter()
        .map(|entry| entry.name)
        .collect()
}

fn choices() -> impl Iterator<Item = CrashChoice> {
    [CrashChoice::LoseAll, CrashChoice::KeepAll]
        .into_iter()
        .chain((0..300).map(CrashChoice::Random))
}

/// A disk with `/a` synced with `durable` in it, and a handle of it.
fn disk_with(durable: &[u8]) -> (SimFs, Arc<dyn File>) {
    let disk = SimFs::new();
    let file = create(&disk, "/a");
    write(&file, durable, 0);
    file.sync_data(SITE).unwrap();
    sync_names(&disk);
    (disk, file)
}

#[test]
fn what_was_synced_is_found_after_every_crash() {
    let (disk, file) = disk_with(&[1; 2000]);
    write(&file, &[2; 2000], 2000);
    create(&disk, "/b");
    for choice in choices() {
        let found = content_at(&disk.crash(choice), "/a").unwrap();
        assert_eq!(found[..2000], [1; 2000], "{choice:?}");
    }
}

#[test]
fn a_file_without_a_synced_name_can_be_gone_although_its_bytes_were_synced() {
    let disk = SimFs::new();
    let file = create(&disk, "/a");
    write(&file, b"abc", 0);
    file.sync_data(SITE).unwrap();
    assert_eq!(content_at(&disk.crash(CrashChoice::LoseAll), "/a"), None);
    assert_eq!(
        content_at(&disk.crash(CrashChoice::KeepAll), "/a").unwrap(),
        b"abc"
    );
    sync_names(&disk);
    assert_eq!(
        content_at(&disk.crash(CrashChoice::LoseAll), "/a").unwrap(),
        b"abc"
    );
}

#[test]
fn a_synced_name_says_nothing_about_the_bytes() {
    let disk = SimFs::new();
    write(&create(&disk, "/a"), b"abc", 0);
    sync_names(&disk);
    assert_eq!(content_at(&disk.crash(CrashChoice::LoseAll), "/a").unwrap(), b"");
}

#[test]
fn a_directory_is_found_only_once_its_parent_is_synced() {
    let disk = SimFs::new();
    disk.create_dir(Path::new("/t-0")).unwrap();
    create(&disk, "/t-0/a");
    disk.sync_dir(Path::new("/t-0"), SITE).unwrap();
    assert_eq!(names(&disk.crash(CrashChoice::LoseAll)), [""; 0]);
    sync_names(&disk);
    assert_eq!(
        content_at(&disk.crash(CrashChoice::LoseAll), "/t-0/a").unwrap(),
        b""
    );
}

#[test]
fn random_crashes_lose_tear_reorder_and_leave_zeros() {
    let (disk, file) = disk_with(&[]);
    write(&file, &[1; 2048], 0);
    write(&file, &[2; 2048], 2048);
    let mut seen = BTreeSet::new();
    for seed in 0..500 {
        let mut found = content_at(&disk.crash(CrashChoice::Random(seed)), "/a").unwrap();
        let len = found.len();
        found.resize(4096, 0);
        let kept = |filling: u8, half: &[u8]| half.iter().filter(|byte| **byte == filling).count();
        let (first, second) = (kept(1, &found[..2048]), kept(2, &found[2048..]));
        assert_eq!(first + kept(0, &found[..2048]), 2048);
        seen.extend(match (len, first, second) {
            (0, ..) => Some("all lost"),
            (4096, 2048, 2048) => Some("all kept"),
            (4096, 0, 2048) => Some("only the later kept"),
            (2048, 2048, 0) => Some("only the earlier kept"),
            (4096, 0, 0) => Some("only the length kept"),
            (512 | 1024 | 1536, torn, 0) if torn == len => Some("torn at a sector"),
            (_, torn, _) if torn % 512 != 0 => Some("torn anywhere"),
            _ => None,
        });
    }
    assert_eq!(seen.len(), 7, "{seen:?}");
}

#[test]
fn a_rename_is_found_done_or_not_done_and_never_half() {
    let disk = SimFs::new();
    write(&create(&disk, "/a"), b"old", 0);
    let new = create(&disk, "/a.swap");
    write(&new, b"new", 0);
    for path in ["/a", "/a.swap"] {
        disk.open(Path::new(path), OpenMode::Read)
            .unwrap()
            .sync_data(SITE)
            .unwrap();
    }
    sync_names(&disk);
    disk.rename(Path::new("/a.swap"), Path::new("/a")).unwrap();
    let mut seen = BTreeSet::new();
    for choice in choices() {
        let found = disk.crash(choice);
        seen.insert((content_at(&found, "/a"), content_at(&found, "/a.swap")));
    }
    let before = (Some(b"old".to_vec()), Some(b"new".to_vec()));
    let after = (Some(b"new".to_vec()), None);
    assert_eq!(seen, BTreeSet::from([before, after]));
}

#[test]
fn a_chain_of_renames_leaves_exactly_one_name_and_independent_names_go_their_own_ways() {
    let (disk, _file) = disk_with(b"abc");
    for (from, to) in [("/a", "/b"), ("/b", "/c")] {
        disk.rename(Path::new(from), Path::new(to)).unwrap();
    }
    create(&disk, "/x");
    create(&disk, "/y");
    let seen: BTreeSet<String> = choices()
        .map(|choice| names(&disk.crash(choice)).concat())
        .collect();
    let expected: Vec<String> = ["a", "b", "c"]
        .iter()
        .flat_map(|name| ["", "x", "xy", "y"].map(|rest| format!("{name}{rest}")))
        .collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn syncing_one_directory_takes_along_what_its_names_follow_from() {
    let disk = SimFs::new();
    for dir in ["/from", "/to"] {
        disk.create_dir(Path::new(dir)).unwrap();
    }
    sync_names(&disk);
    create(&disk, "/from/a");
    create(&disk, "/from/other");
    disk.rename(Path::new("/from/a"), Path::new("/to/a")).unwrap();
    disk.sync_dir(Path::new("/to"), SITE).unwrap();
    let mut others = BTreeSet::new();
    for choice in choices() {
        let found = disk.crash(choice);
        assert!(content_at(&found, "/to/a").is_some(), "{choice:?}");
        assert!(content_at(&found, "/from/a").is_none(), "{choice:?}");
        others.insert(content_at(&found, "/from/other").is_some());
    }
    assert_eq!(others.len(), 2);
}

#[test]
fn a_removed_directory_can_be_found_whole_in_part_or_gone() {
    let disk = SimFs::new();
    disk.create_dir(Path::new("/t-0")).unwrap();
    for path in ["/t-0/a", "/t-0/b"] {
        create(&disk, path);
    }
    disk.sync_dir(Path::new("/t-0"), SITE).unwrap();
    sync_names(&disk);
    disk.remove_dir_all(Path::new("/t-0")).unwrap();
    let count = |choice| {
        disk.crash(choice)
            .list(Path::new("/t-0"))
            .ok()
            .map(|found| found.len())
    };
    let seen: BTreeSet<Option<usize>> = choices().map(count).collect();
    assert_eq!(seen, BTreeSet::from([None, Some(0), Some(1), Some(2)]));
}

#[test]
fn equal_seeds_find_equal_disks_and_the_crashed_disk_stays_as_it_is() {
    let (disk, file) = disk_with(&[1; 100]);
    for number in 0..20u8 {
        write(&file, &[number; 700], u64::from(number) * 650);
        create(&disk, &format!("/{number}"));
    }
    let before = content(&file);
    let mut differing = BTreeSet::new();
    for seed in 0..20 {
        let [one, two] = [(), ()].map(|()| {
            let found = disk.crash(CrashChoice::Random(seed));
            (names(&found), content_at(&found, "/a"))
        });
        assert_eq!(one, two);
        differing.insert(one);
    }
    assert!(differing.len() > 10);
    assert_eq!(content(&file), before);
}

#[test]
fn a_disabled_sync_succeeds_and_changes_nothing_while_others_work() {
    let other = SyncSite("other");
    let disk = SimFs::new();
    disk.disable_sync(SITE);
    let file = create(&disk, "/a");
    write(&file, b"abc", 0);
    file.sync_data(SITE).unwrap();
    sync_names(&disk);
    assert_eq!(names(&disk.crash(CrashChoice::LoseAll)), [""; 0]);
    disk.sync_dir(Path::new("/"), other).unwrap();
    let found = disk.crash(CrashChoice::LoseAll);
    assert_eq!(content_at(&found, "/a").unwrap(), b"");
    file.sync_data(other).unwrap();
    assert_eq!(
        content_at(&disk.crash(CrashChoice::LoseAll), "/a").unwrap(),
        b"abc"
    );
    assert_eq!(disk.sync_sites(), [other, SITE]);
    // It is a property of the code under test, so it outlives the crash.
    create(&found, "/b");
    sync_names(&found);
    assert_eq!(names(&found.crash(CrashChoice::LoseAll)), ["a"]);
}

#[test]
fn the_machine_dies_at_the_chosen_call_and_answers_nothing_afterwards() {
    let run = |disk: &SimFs| -> io::Result<()> {
        disk.create_dir(Path::new("/t"))?;
        let file = disk.open(Path::new("/t/a"), OpenMode::ReadWrite)?;
        file.write_all_at(&[IoSlice::new(&[1; 1000])], 0)?;
        file.set_len(900)?;
        file.sync_data(SITE)?;
        disk.rename(Path::new("/t/a"), Path::new("/t/b"))?;
        disk.link(Path::new("/t/b"), Path::new("/t/c"))?;
        disk.remove_file(Path::new("/t/c"))?;
        disk.sync_dir(Path::new("/t"), SITE)?;
        disk.remove_dir_all(Path::new("/t"))
    };
    let disk = SimFs::new();
    run(&disk).unwrap();
    assert_eq!(disk.mutations(), 10);
    for call in 0..10 {
        let disk = SimFs::new();
        disk.fail_after(call);
        assert!(SimulatedCrash::caused(&run(&disk).unwrap_err()), "call {call}");
        assert_eq!(disk.mutations(), call);
        assert!(SimulatedCrash::caused(&disk.list(Path::new("/")).unwrap_err()));
        for missing in ["/no/a", "/a"] {
            let missing = Path::new(missing);
            assert!(SimulatedCrash::caused(
                &disk.open(missing, OpenMode::Read).unwrap_err()
            ));
            assert!(SimulatedCrash::caused(&disk.remove_dir_all(missing).unwrap_err()));
        }
        assert!(SimulatedCrash::caused(
            &disk.free_bytes(Path::new("/")).unwrap_err()
        ));
        run(&disk.crash(CrashChoice::LoseAll)).unwrap();
    }
    let disk = SimFs::new();
    disk.fail_after(10);
    run(&disk).unwrap();
    assert!(!SimulatedCrash::caused(&io::Error::other("another")));
}

#[test]
fn a_write_that_dies_may_have_got_anywhere() {
    let mut lens = BTreeSet::new();
    for call in 0..30 {
        let (disk, file) = disk_with(&[]);
        for _ in 0..call {
            write(&file, &[], 0);
        }
        disk.fail_after(0);
        assert!(SimulatedCrash::caused(
            &file.write_all_at(&[IoSlice::new(&[1; 5])], 0).unwrap_err()
        ));
        lens.insert(content_at(&disk.crash(CrashChoice::KeepAll), "/a").unwrap().len());
    }
    assert_eq!(lens, (0..=5).collect());
}

#[test]
fn a_removal_of_a_directory_that_dies_may_have_got_anywhere() {
    let mut left = BTreeSet::new();
    for call in 0..30 {
        let disk = SimFs::new();
        disk.create_dir(Path::new("/t")).unwrap();
        for name in 0..call + 2 {
            create(&disk, &format!("/t/{name}"));
        }
        disk.fail_after(0);
        assert!(SimulatedCrash::caused(
            &disk.remove_dir_all(Path::new("/t")).unwrap_err()
        ));
        let found = disk.crash(CrashChoice::KeepAll).list(Path::new("/t")).unwrap();
        left.insert(call + 2 - found.len());
    }
    assert_eq!(left, (0..4).collect());
}

#[test]
fn ordered_faults_strike_the_calls_they_name_and_then_no_more() {
    let (disk, file) = disk_with(b"abc");
    let order = |call, path: &str, times, failure| {
        disk.inject(Fault {
            call,
            path_contains: path.to_owned(),
            times,
            failure,
        });
    };
    let kind = |result: io::Result<()>| result.map_err(|error| error.kind());
    order(Call::Read, "/b", 9, Failure::Kind(ErrorKind::Other));
    order(
        Call::Read,
        "/a",
        2,
        Failure::Os(rustix::io::Errno::IO.raw_os_error()),
    );
    for _ in 0..2 {
        let failed = file.read_exact_at(&mut [0], 0).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    }
    file.read_exact_at(&mut [0], 0).unwrap();
    order(Call::Rename, "/c", 1, Failure::Kind(ErrorKind::CrossesDevices));
    let rename = |from: &str, to: &str| kind(disk.rename(Path::new(from), Path::new(to)));
    assert_eq!(rename("/a", "/b"), Ok(()));
    assert_eq!(rename("/b", "/c"), Err(ErrorKind::CrossesDevices));
    assert_eq!(names(&disk), ["b"]);
    assert_eq!(rename("/b", "/c"), Ok(()));
    order(Call::Write, "", 1, Failure::Kind(ErrorKind::StorageFull));
    assert_eq!(
        kind(file.write_all_at(&[IoSlice::new(b"x")], 0)),
        Err(ErrorKind::StorageFull)
    );
    assert_eq!(content(&file), b"abc");
    order(Call::SyncData, "/a", 1, Failure::Kind(ErrorKind::Other));
    let other = create(&disk, "/other");
    let results = disk.sync_many(&[other.clone(), file, other], SITE);
    assert_eq!(
        results.into_iter().map(kind).collect::<Vec<_>>(),
        [Ok(()), Err(ErrorKind::Other), Ok(())]
    );
}

#[test]
fn a_failed_sync_can_drop_the_dirty_pages_and_no_later_one_brings_them_back() {
    let (disk, file) = disk_with(b"aaaa");
    write(&file, b"XXXX", 2);
    disk.inject(Fault {
        call: Call::SyncData,
        path_contains: "/a".to_owned(),
        times: 1,
        failure: Failure::LosesDirtyPages,
    });
    assert!(file.sync_data(SITE).is_err());
    assert_eq!(content(&file), b"aaXXXX");
    write(&file, b"Y", 5);
    file.sync_data(SITE).unwrap();
    write(&file, b"Z", 0);
    assert_eq!(content(&file), b"ZaXXXY");
    assert_eq!(
        content_at(&disk.crash(CrashChoice::KeepAll), "/a").unwrap(),
        b"Zaaa\0Y"
    );
    file.drop_cache(3).unwrap();
    assert_eq!(content(&file), b"ZaXa\0Y");
    file.drop_cache(0).unwrap();
    assert_eq!(content(&file), b"Zaaa\0Y");
}

#[test]
fn a_full_disk_takes_what_fits_and_space_comes_back() {
    for disk in [SimFs::new(), SimFs::in_memory()] {
        disk.set_capacity_bytes(10);
        let file = create(&disk, "/a");
        write(&file, &[1; 6], 0);
        let other = create(&disk, "/b");
        let full = other.write_all_at(&[IoSlice::new(&[2; 5])], 0).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        assert_eq!(content(&other), [2; 4]);
        assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 0);
        write(&file, &[3; 6], 0);
        assert_eq!(file.set_len(7).unwrap_err().kind(), ErrorKind::StorageFull);
        // An open file keeps its space after its name is gone.
        disk.remove_file(Path::new("/a")).unwrap();
        assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 0);
        drop(file);
        assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 6);
        write(&other, &[2; 10], 0);
    }
}

#[test]
fn a_disk_in_memory_drops_what_nothing_leads_to() {
    let disk = SimFs::in_memory();
    for _ in 0..10 {
        disk.create_dir(Path::new("/t")).unwrap();
        let file = create(&disk, "/t/a");
        write(&file, &[1; 1000], 0);
        create(&disk, "/t/b");
        disk.rename(Path::new("/t/b"), Path::new("/t/a")).unwrap();
        disk.remove_dir_all(Path::new("/t")).unwrap();
        assert_eq!(content(&file), [1; 1000]);
    }
    // Nothing but the root is left.
    assert_eq!(disk.disk.lock().tree.node_count(), 1);
    write(&create(&disk, "/a"), b"abc", 0);
    assert_eq!(
        content_at(&disk.crash(CrashChoice::LoseAll), "/a").unwrap(),
        b"abc"
    );
}

#[test]
fn changes_bear_the_time_that_was_set() {
    let (disk, file) = disk_with(b"abc");
    let modified = |path: &str| disk.stat(Path::new(path)).unwrap().modified;
    disk.set_now(Timestamp(7));
    write(&file, b"x", 0);
    assert_eq!((modified("/a"), modified("/")), (Timestamp(7), Timestamp(0)));
    disk.set_now(Timestamp(9));
    create(&disk, "/b");
    assert_eq!((modified("/a"), modified("/")), (Timestamp(7), Timestamp(9)));
    assert_eq!(
        disk.crash(CrashChoice::LoseAll)
            .stat(Path::new("/a"))
            .unwrap()
            .modified,
        Timestamp(7)
    );
}

#[test]
fn a_lock_does_not_outlive_the_crash() {
    let disk = SimFs::new();
    let _held = disk.lock(Path::new("/.lock")).unwrap();
    assert!(disk.lock(Path::new("/.lock")).is_err());
    assert!(disk.crash(CrashChoice::KeepAll).lock(Path::new("/.lock")).is_ok());
}

#[derive(Clone, Debug)]
enum Step {
    Write { position: usize, len: usize },
    SetLen(usize),
    Sync,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..1500usize, 0..1200usize).prop_map(|(position, len)| Step::Write { position, len }),
        1 => (0..3000usize).prop_map(Step::SetLen),
        2 => Just(Step::Sync),
    ]
}

/// For each position of a file, which bytes a crash may show there; the value of the last sync, then all later ones.
#[derive(Default)]
struct Possible {
    visible: Vec<u8>,
    since_sync: BTreeMap<usize, BTreeSet<u8>>,
    lens: BTreeSet<usize>,
}

impl Possible {
    fn note(&mut self, range: std::ops::Range<usize>) {
        for position in range {
            let value = self.visible.get(position).copied().unwrap_or(0);
            self.since_sync.entry(position).or_default().insert(value);
        }
    }

    fn run(&mut self, filling: u8, step: &Step, file: &Arc<dyn File>) {
        let old_len = self.visible.len();
        match *step {
            Step::Write { position, len } => {
                write(file, &vec![filling; len], position as u64);
                if len > 0 {
                    self.visible.resize(old_len.max(position + len), 0);
                    self.visible[position..position + len].fill(filling);
                    self.note(old_len.min(position)..position + len);
                }
            }
            Step::SetLen(len) => {
                file.set_len(len as u64).unwrap();
                self.visible.resize(len, 0);
                self.note(len.min(old_len)..len.max(old_len));
            }
            Step::Sync => {
                file.sync_data(SITE).unwrap();
                self.since_sync.clear();
                self.lens.clear();
                self.note(0..self.visible.len());
            }
        }
        self.lens.insert(self.visible.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is found was written there, or is a hole; what was synced and not touched since is found unchanged.
    #[test]
    fn a_crash_shows_nothing_that_was_never_there(steps in prop::collection::vec(step(), 0..30)) {
        let (disk, file) = disk_with(&[]);
        let mut possible = Possible::default();
        let mut synced = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            possible.run(u8::try_from(number + 1).unwrap(), step, &file);
            if matches!(step, Step::Sync) {
                synced = content(&file);
            }
        }
        prop_assert_eq!(&content(&file), &possible.visible);
        prop_assert_eq!(content_at(&disk.crash(CrashChoice::LoseAll), "/a").unwrap(), synced.clone());
        prop_assert_eq!(content_at(&disk.crash(CrashChoice::KeepAll), "/a").unwrap(), possible.visible.clone());
        let longest = possible.lens.last().copied().unwrap_or(0).max(synced.len());
        for seed in 0..20 {
            let found = content_at(&disk.crash(CrashChoice::Random(seed)), "/a").unwrap();
            prop_assert!(found.len() <= longest);
            for (position, byte) in found.iter().enumerate() {
                let seen = possible.since_sync.get(&position);
                let hole = *byte == 0 && seen.is_none_or(|seen| seen.len() > 1 || position >= synced.len());
                prop_assert!(hole || seen.is_some_and(|seen| seen.contains(byte)), "{} at {}", byte, position);
            }
            // Once synced and left alone, it is there.
            for (position, seen) in &possible.since_sync {
                if let (Some(value), 1) = (synced.get(*position), seen.len()) {
                    prop_assert!(seen.contains(value));
                    let cut = possible.lens.first().is_some_and(|least| position >= least);
                    prop_assert!(cut || found.get(*position) == Some(value), "lost {} at {}", value, position);
                }
            }
        }
    }
}
