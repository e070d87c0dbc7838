//! The bytes of one simulated file: what reads see, what is on disk, and what lies between.
//!
//! ```text
//!   bytes  =  durable  +  every unsynced change in order        (until pages are lost, see `lose_dirty_pages`)
//!                                |
//!       sync moves them all into `durable`; a crash keeps, loses or tears each one by itself
//! ```
//!
//! Invariants
//! - `durable` with all of `unsynced` applied is always as long as `bytes`.
//! - No file is longer than [`MAX_LEN`].
//!
//! What is not here: names and who may still reach the file (`tree`).

use std::io::{self, IoSlice};

use super::blocks::Blocks;
use super::crash::{CrashChoice, Rng};

/// Longest file: more than any segment, little enough that a stray position cannot take the machine's memory.
const MAX_LEN: u64 = 4 << 30;

/// What a disk writes as one.
const SECTOR_LEN: usize = 512;

/// The content of a file.
#[derive(Clone, Debug)]
pub(super) struct Content {
    bytes: Blocks,
    history: Option<History>,
}

/// Kept only where a crash is to be simulated: it doubles the memory.
#[derive(Clone, Debug, Default)]
struct History {
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { position: usize, bytes: Vec<u8> },
    SetLen(usize),
}

/// Whether a file system remembers what a crash would lose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tracking {
    On,
    Off,
}

impl Content {
    pub(super) fn empty(tracking: Tracking) -> Self {
        let history = (tracking == Tracking::On).then(History::default);
        let bytes = Blocks::default();
        Self { bytes, history }
    }

    /// Copies what there is from `position` on, at most `len` bytes.
    pub(super) fn copy(&self, position: u64, len: usize) -> Vec<u8> {
        let end = self.bytes.len();
        let start = usize::try_from(position).map_or(end, |start| start.min(end));
        self.bytes.copy(start..start.saturating_add(len).min(end))
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Returns where `len` bytes from `position` begin, if all of them are there; none can be read anywhere.
    pub(super) fn check(&self, position: u64, len: usize) -> io::Result<usize> {
        if len == 0 {
            return Ok(0);
        }
        let start = usize::try_from(position).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(len).ok_or(io::ErrorKind::UnexpectedEof)?;
        if end > self.bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(start)
    }

    /// Fills `buffer` from `position`.
    pub(super) fn read(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = self.check(position, buffer.len())?;
        self.bytes.read(start, buffer);
        Ok(())
    }

    /// Writes the first `limit` bytes of `parts`.
    pub(super) fn write(&mut self, parts: &[IoSlice<'_>], position: u64, limit: usize) -> io::Result<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len == 0 {
            return Ok(());
        }
        let start = checked_len(position)?;
        checked_len(position.saturating_add(len as u64))?;
        let mut at = start;
        let mut left = limit;
        for part in parts {
            let part = &part[..part.len().min(left)];
            self.bytes.overwrite(at, part);
            at += part.len();
            left -= part.len();
        }
        if let Some(history) = &mut self.history
            && at > start
        {
            history.unsynced.push(Change::Write {
                position: start,
                bytes: self.bytes.copy(start..at),
            });
        }
        Ok(())
    }

    pub(super) fn set_len(&mut self, len_bytes: u64) -> io::Result<()> {
        let len = checked_len(len_bytes)?;
        self.bytes.resize(len);
        if let Some(history) = &mut self.history {
            history.unsynced.push(Change::SetLen(len));
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) {
        if let Some(history) = &mut self.history {
            for change in history.unsynced.drain(..) {
                change.apply(&mut history.durable);
            }
        }
    }

    /// What a failed sync does on Linux: the pages are marked clean though the disk never got them. Reads still see them
    /// until the cache is dropped; no later sync writes them. The length is not a page: it stays, and can be synced.
    pub(super) fn lose_dirty_pages(&mut self) {
        if let Some(history) = &mut self.history {
            history.unsynced = vec![Change::SetLen(self.bytes.len())];
        }
    }

    /// Forgets what only the page cache holds from `position` on. Dirty pages stay, as they do on Linux.
    pub(super) fn drop_cache(&mut self, position: u64) {
        let start = usize::try_from(position).unwrap_or(usize::MAX);
        if let Some(history) = &self.history
            && start < self.bytes.len()
        {
            let on_disk = history.found(CrashChoice::KeepAll, &mut Rng::new(0));
            self.bytes.overwrite(start, &on_disk[start..]);
        }
    }

    /// Returns the file as a crash leaves it, all of it on disk; where no history is kept, the file as it is.
    pub(super) fn after_crash(&self, choice: CrashChoice, rng: &mut Rng) -> Self {
        let Some(history) = &self.history else {
            return self.clone();
        };
        let durable = history.found(choice, rng);
        Self {
            bytes: Blocks::of(&durable),
            history: Some(History {
                durable,
                unsynced: Vec::new(),
            }),
        }
    }
}

impl History {
    fn found(&self, choice: CrashChoice, rng: &mut Rng) -> Vec<u8> {
        let mut found = self.durable.clone();
        match choice {
            CrashChoice::LoseAll => {}
            CrashChoice::KeepAll => self.unsynced.iter().for_each(|change| change.apply(&mut found)),
            CrashChoice::Random(_) => {
                // Drawn per file, so that the seeds cover both "almost nothing arrived" and "almost everything did".
                let kept_in_eight = rng.below(8);
                for change in &self.unsynced {
                    if rng.below(8) < kept_in_eight {
                        change.apply(&mut found);
                    } else {
                        change.apply_damaged(&mut found, rng);
                    }
                }
            }
        }
        found
    }
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { position, bytes } => overwrite(file, *position, bytes),
            Self::SetLen(len) => file.resize(*len, 0),
        }
    }

    /// Lost, torn, or only its length arrived.
    fn apply_damaged(&self, file: &mut Vec<u8>, rng: &mut Rng) {
        let Self::Write { position, bytes } = self else {
            return;
        };
        let end = position + bytes.len();
        match rng.below(4) {
            0 => {}
            1 => file.resize(file.len().max(end), 0),
            2 => {
                // Whole sectors from the front, as a disk that lost power in the middle leaves them.
                let sectors = rng.below(bytes.len() / SECTOR_LEN + 1);
                let stop = (position / SECTOR_LEN + sectors) * SECTOR_LEN;
                let stop = stop.clamp(*position, end);
                overwrite(file, *position, &bytes[..stop - position]);
            }
            _ => {
                let from = rng.below(bytes.len());
                let to = from + rng.below(bytes.len() - from + 1);
                overwrite(file, position + from, &bytes[from..to]);
                if rng.below(2) == 0 {
                    file.resize(file.len().max(end), 0);
                }
            }
        }
    }
}

/// Puts `bytes` at `position`, with zeros before it where the file ends earlier. No bytes, no change, as `write` has it.
fn overwrite(file: &mut Vec<u8>, position: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = position + bytes.len();
    if file.len() < position {
        file.resize(position, 0);
    }
    let inside = file.len().min(end) - position;
    file[position..position + inside].copy_from_slice(&bytes[..inside]);
    file.extend_from_slice(&bytes[inside..]);
}

fn checked_len(len: u64) -> io::Result<usize> {
    if len > MAX_LEN {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge.into())
}
