//! Tests of the checkpoint formats, and of the order of calls that makes a replacement atomic.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::env::{DirEntry, File, FileStat, LockGuard};

fn at(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(
        TopicName::new(topic).expect("a good name"),
        PartitionId(partition),
    )
}

fn entry(epoch: i32, start: i64) -> EpochEntry {
    EpochEntry {
        epoch: LeaderEpoch(epoch),
        start: Offset(start),
    }
}

proptest! {
    #[test]
    fn offsets_come_back(offsets in prop::collection::btree_map(("[a-z._-]{3,9}", 0..=i32::MAX), 0..=i64::MAX, 0..20)) {
        let offsets: BTreeMap<_, _> = offsets
            .into_iter()
            .map(|((topic, partition), offset)| (at(&topic, partition), Offset(offset)))
            .collect();
        prop_assert_eq!(decode_offsets(&encode_offsets(&offsets)), Ok(offsets));
    }

    #[test]
    fn epochs_come_back(entries in prop::collection::btree_map(0..=i32::MAX, 1..=1_000_000_i64, 0..20)) {
        let mut start = -1;
        let entries: Vec<_> = entries
            .into_iter()
            .map(|(epoch, step)| {
                start += step;
                entry(epoch, start)
            })
            .collect();
        prop_assert_eq!(decode_epochs(&encode_epochs(&entries)), Ok(entries));
    }

    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_offsets(&bytes);
        let _ = decode_epochs(&bytes);
    }

    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in "0\n[0-9]{1,3}\n([a-z0-9 -]{0,9}\n){0,4}") {
        let _ = decode_offsets(text.as_bytes());
        let _ = decode_epochs(text.as_bytes());
    }
}

#[test]
fn the_files_are_written_as_kafka_writes_them() {
    let offsets = BTreeMap::from([(at("flights", 1), Offset(12)), (at("flights", 0), Offset(4711))]);
    assert_eq!(encode_offsets(&offsets), b"0\n2\nflights 0 4711\nflights 1 12\n");
    assert_eq!(
        encode_epochs(&[entry(0, 0), entry(3, 4000)]),
        b"0\n2\n0 0\n3 4000\n"
    );
}

#[test]
fn an_empty_file_has_no_entries_and_any_white_space_separates() {
    assert_eq!(decode_offsets(b""), Ok(BTreeMap::new()));
    assert_eq!(decode_epochs(b""), Ok(Vec::new()));
    assert_eq!(decode_epochs(b"0\n1\n 2\t 7 \n"), Ok(vec![entry(2, 7)]));
}

#[test]
fn damage_names_the_line() {
    let offsets = |text: &str| {
        decode_offsets(text.as_bytes())
            .err()
            .map(|damage| damage.to_string())
    };
    let epochs = |text: &str| {
        decode_epochs(text.as_bytes())
            .err()
            .map(|damage| damage.to_string())
    };
    assert_eq!(
        offsets("1\n0\n").as_deref(),
        Some("checkpoint has version \"1\", expected \"0\"")
    );
    assert_eq!(
        offsets("0\n").as_deref(),
        Some("checkpoint line 2 is wrong: \"\"")
    );
    assert_eq!(
        offsets("0\n2\na 0 1\n").as_deref(),
        Some("checkpoint announces 2 entries and has 1")
    );
    for bad in [
        "a 0",
        "a 0 1 2",
        "a -1 1",
        "a 0 -1",
        "a/b 0 1",
        "a 0 99999999999999999999",
        "",
    ] {
        assert_eq!(
            offsets(&format!("0\n2\nb 0 1\n{bad}\n")),
            Some(format!("checkpoint line 4 is wrong: {bad:?}"))
        );
    }
    assert_eq!(
        offsets("0\n2\na 0 1\na 0 2\n").as_deref(),
        Some("checkpoint line 4 is wrong: \"a 0 2\"")
    );
    for falling in ["3 9", "4 8", "2 7"] {
        assert_eq!(
            epochs(&format!("0\n2\n3 8\n{falling}\n")),
            Some(format!("checkpoint line 4 is wrong: {falling:?}"))
        );
    }
    assert_eq!(
        decode_offsets(b"\xff")
            .err()
            .map(|damage| damage.to_string())
            .as_deref(),
        Some("checkpoint is not text")
    );
}

/// Writes down every call and fails those that begin with `failing`.
#[derive(Clone, Debug, Default)]
struct CallLog {
    calls: Arc<Mutex<Vec<String>>>,
    failing: &'static str,
}

impl CallLog {
    fn failing(failing: &'static str) -> Self {
        Self {
            failing,
            ..Self::default()
        }
    }

    fn call(&self, call: String) -> io::Result<()> {
        let fails = !self.failing.is_empty() && call.starts_with(self.failing);
        self.calls.lock().push(call);
        if fails {
            Err(io::Error::other("disk"))
        } else {
            Ok(())
        }
    }
}

impl File for CallLog {
    fn read_exact_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
        unreachable!("a replacement does not read")
    }
    fn write_all_at(&self, parts: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.call(format!(
            "write {:?} at {position}",
            String::from_utf8_lossy(&bytes)
        ))
    }
    fn len_bytes(&self) -> io::Result<u64> {
        unreachable!("a replacement does not ask for the length")
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        unreachable!("a replacement writes a new file")
    }
    fn sync_data(&self, site: SyncSite) -> io::Result<()> {
        self.call(format!("sync file ({})", site.0))
    }
    fn map(&self, _: u64, _: usize) -> io::Result<Bytes> {
        unreachable!("a replacement does not map")
    }
    fn populate(&self, _: &Bytes, _: u64) -> io::Result<()> {
        unreachable!("a replacement does not map")
    }
    fn drop_cache(&self, _: u64) -> io::Result<()> {
        unreachable!("a replacement does not read")
    }
}

impl Fs for CallLog {
    fn make_resident(&self, _: &bytes::Bytes) -> io::Result<()> {
        unreachable!("a replacement maps nothing")
    }

    fn mappings(&self) -> crate::env::Mappings {
        crate::env::Mappings::Copies
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.call(format!("open {} {mode:?}", path.display()))?;
        Ok(Arc::new(self.clone()))
    }
    fn list(&self, _: &Path) -> io::Result<Vec<DirEntry>> {
        unreachable!("a replacement does not list")
    }
    fn stat(&self, _: &Path) -> io::Result<FileStat> {
        unreachable!("a replacement does not stat")
    }
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        unreachable!("a replacement creates no directory")
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(format!("rename {} to {}", from.display(), to.display()))
    }
    fn link(&self, _: &Path, _: &Path) -> io::Result<()> {
        unreachable!("a replacement does not link")
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call(format!("remove {}", path.display()))?;
        Err(io::Error::from(io::ErrorKind::NotFound))
    }
    fn remove_dir_all(&self, _: &Path) -> io::Result<()> {
        unreachable!("a replacement removes no directory")
    }
    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()> {
        self.call(format!("sync dir {} ({})", dir.display(), site.0))
    }
    fn sync_many(&self, _: &[Arc<dyn File>], _: SyncSite) -> Vec<io::Result<()>> {
        unreachable!("a replacement syncs one file")
    }
    fn sync_dirs(&self, _: &[Arc<Path>], _: SyncSite) -> Vec<io::Result<()>> {
        unreachable!("a replacement syncs one directory")
    }
    fn lock(&self, _: &Path) -> io::Result<Box<dyn LockGuard>> {
        unreachable!("a replacement takes no lock")
    }
    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        unreachable!("a replacement does not ask for space")
    }
}

fn replace(fs: &CallLog, path: &str) -> (io::Result<()>, Vec<String>) {
    let result = write_atomic(
        fs,
        &PathBuf::from(path),
        b"new",
        SyncSite("content"),
        SyncSite("name"),
    );
    (result, fs.calls.lock().clone())
}

#[test]
fn a_replacement_syncs_the_content_before_the_name_and_then_the_name() {
    let (result, calls) = replace(&CallLog::default(), "d/c");
    result.expect("nothing fails");
    assert_eq!(
        calls,
        [
            "remove d/c.tmp",
            "open d/c.tmp CreateNew",
            "write \"new\" at 0",
            "sync file (content)",
            "rename d/c.tmp to d/c",
            "sync dir d (name)",
        ]
    );
    let (_, calls) = replace(&CallLog::default(), "c");
    assert_eq!(calls.last().map(String::as_str), Some("sync dir . (name)"));
}

#[test]
fn a_failure_is_told_and_leaves_no_temporary_file_to_be_trusted_later() {
    for failing in ["write", "sync file", "rename"] {
        let (result, calls) = replace(&CallLog::failing(failing), "d/c");
        assert!(result.is_err(), "{failing}");
        assert_eq!(
            calls.last().map(String::as_str),
            Some("remove d/c.tmp"),
            "{failing}"
        );
        let renamed = calls.iter().any(|call| call.starts_with("rename"));
        assert_eq!(renamed, failing == "rename", "{failing}");
    }
    let (result, _) = replace(&CallLog::failing("sync dir"), "d/c");
    assert!(result.is_err());
}
