//! Checkpoints: Kafka's small text files of numbers, and the one way every small file is replaced.
//!
//! ```text
//! recovery-point-offset-checkpoint ...        leader-epoch-checkpoint
//! 0                   version                 0             version
//! 2                   how many lines follow   2             how many lines follow
//! flights 0 4711      topic partition offset  0 0           epoch, its first offset
//! flights 1 12                                3 4000        ascending in both
//! ```
//!
//! Invariants
//! - Lines end with `\n`; readers split at any white space. An empty file has no entries.
//! - What is written is sorted, so that equal state makes equal bytes.
//! - A file is never changed in place: [`write_atomic`] leaves the old or the new content, never a mixture.
//!
//! What it does not do: decide what a lost or damaged checkpoint means to its owner.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::path::Path;

use crate::env::{Fs, OpenMode, SyncSite};
use crate::types::{LeaderEpoch, Offset, PartitionId, TopicName, TopicPartition};

/// The only version there is.
const VERSION: &str = "0";
/// Characters of a bad line that an error repeats.
const SHOWN_CHARS: usize = 60;

/// From where on a leader epoch holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochEntry {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// The first offset appended under it.
    pub start: Offset,
}

/// Returns the bytes of an offset checkpoint.
pub fn encode_offsets(offsets: &BTreeMap<TopicPartition, Offset>) -> Vec<u8> {
    let lines = offsets
        .iter()
        .map(|(at, offset)| format!("{} {} {offset}", at.topic, at.partition));
    encode(offsets.len(), lines)
}

/// Reads the bytes of an offset checkpoint.
///
/// # Errors
/// [`CheckpointDamage`] names the line that is wrong.
pub fn decode_offsets(bytes: &[u8]) -> Result<BTreeMap<TopicPartition, Offset>, CheckpointDamage> {
    let mut offsets = BTreeMap::new();
    decode(bytes, |fields| {
        let [topic, partition, offset] = fields else {
            return None;
        };
        let partition = PartitionId(not_negative(partition)?);
        let at = TopicPartition::new(TopicName::new(topic).ok()?, partition);
        match offsets.insert(at, Offset(not_negative(offset)?)) {
            None => Some(()),
            Some(_) => None,
        }
    })?;
    Ok(offsets)
}

/// Returns the bytes of a leader-epoch checkpoint. `entries` ascend in both parts.
pub fn encode_epochs(entries: &[EpochEntry]) -> Vec<u8> {
    let lines = entries
        .iter()
        .map(|entry| format!("{} {}", entry.epoch, entry.start));
    encode(entries.len(), lines)
}

/// Reads the bytes of a leader-epoch checkpoint; the entries ascend in both parts.
///
/// # Errors
/// [`CheckpointDamage`] names the line that is wrong.
pub fn decode_epochs(bytes: &[u8]) -> Result<Vec<EpochEntry>, CheckpointDamage> {
    let mut entries: Vec<EpochEntry> = Vec::new();
    decode(bytes, |fields| {
        let [epoch, start] = fields else { return None };
        let entry = EpochEntry {
            epoch: LeaderEpoch(not_negative(epoch)?),
            start: Offset(not_negative(start)?),
        };
        let ascends = entries
            .last()
            .is_none_or(|before| before.epoch < entry.epoch && before.start < entry.start);
        ascends.then(|| entries.push(entry))
    })?;
    Ok(entries)
}

/// Replaces the file at `path` with `bytes`, durably. Two writers of one path must not overlap.
///
/// Steps 1 to 3 are [`put_in_place`]; 4. the directory is synced: the new content stays.
///
/// # Errors
/// What the disk says. Until step 3 the old content stands and the temporary file is removed; in step 4 either content
/// may be found after a crash, so the caller tries again before relying on the new one.
pub fn write_atomic(
    fs: &dyn Fs,
    path: &Path,
    bytes: &[u8],
    site_file: SyncSite,
    site_dir: SyncSite,
) -> io::Result<()> {
    put_in_place(fs, path, bytes, site_file)?;
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    fs.sync_dir(dir, site_dir)
}

/// Replaces the file at `path` with `bytes`, whole. The new content stays once the caller has synced the directory.
///
/// 1. An old `<path>.tmp` is removed. If it dies here: nothing has changed.
/// 2. A new `<path>.tmp` is written and synced. If it dies here: readers ignore the temporary file.
/// 3. It is renamed over `path`. If it dies here: either content may be found, each of them whole.
///
/// The temporary file is always a new one: pages whose sync once failed cannot be trusted by a second try.
///
/// # Errors
/// What the disk says. The old content stands, and the temporary file is removed.
pub fn put_in_place(fs: &dyn Fs, path: &Path, bytes: &[u8], site: SyncSite) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = name.to_owned();
    temporary.push(".tmp");
    let temporary = path.with_file_name(temporary);

    remove_if_there(fs, &temporary)?;
    let written = fs.open(&temporary, OpenMode::CreateNew).and_then(|file| {
        file.write_all_at(&[IoSlice::new(bytes)], 0)?;
        file.sync_data(site)?;
        fs.rename(&temporary, path)
    });
    written.inspect_err(|_| {
        // The first error is the one to tell; a leftover is removed by the next write.
        let _ = fs.remove_file(&temporary);
    })
}

fn remove_if_there(fs: &dyn Fs, path: &Path) -> io::Result<()> {
    match fs.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn encode(count: usize, lines: impl Iterator<Item = String>) -> Vec<u8> {
    let mut text = format!("{VERSION}\n{count}\n");
    for line in lines {
        writeln!(text, "{line}").expect("writing to a string cannot fail");
    }
    text.into_bytes()
}

/// Checks the frame and gives the fields of each entry to `take`, which answers `None` to refuse the line.
fn decode(bytes: &[u8], mut take: impl FnMut(&[&str]) -> Option<()>) -> Result<(), CheckpointDamage> {
    let text = std::str::from_utf8(bytes).map_err(|_| CheckpointDamage::NotText)?;
    let mut lines = (1..).zip(text.lines());
    let Some((_, version)) = lines.next() else {
        return Ok(());
    };
    if version.trim() != VERSION {
        return Err(CheckpointDamage::Version {
            found: shown(version),
        });
    }
    let count_line = lines.next().map_or("", |(_, count)| count);
    let expected: usize = not_negative(count_line.trim()).ok_or_else(|| CheckpointDamage::Line {
        line: 2,
        text: shown(count_line),
    })?;
    let mut found = 0;
    for (line, text) in lines {
        let mut fields = [""; 4];
        let mut filled = 0;
        for field in text.split_whitespace().take(fields.len()) {
            fields[filled] = field;
            filled += 1;
        }
        take(&fields[..filled]).ok_or_else(|| CheckpointDamage::Line {
            line,
            text: shown(text),
        })?;
        found += 1;
    }
    if found == expected {
        Ok(())
    } else {
        Err(CheckpointDamage::Count { expected, found })
    }
}

fn not_negative<T: std::str::FromStr>(text: &str) -> Option<T> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

/// Why bytes are not a checkpoint. The layer above adds the file's path.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CheckpointDamage {
    /// Not UTF-8.
    #[error("checkpoint is not text")]
    NotText,
    /// A version we do not know.
    #[error("checkpoint has version {found:?}, expected {VERSION:?}")]
    Version {
        /// What it has, shortened.
        found: String,
    },
    /// A line that is not what belongs there, breaks the order or repeats an entry.
    #[error("checkpoint line {line} is wrong: {text:?}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// The line, shortened.
        text: String,
    },
    /// More or fewer entries than the second line says.
    #[error("checkpoint announces {expected} entries and has {found}")]
    Count {
        /// What the second line says.
        expected: usize,
        /// What follows.
        found: usize,
    },
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
