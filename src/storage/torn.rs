//! Whether a foreign log ends in a torn tail, which may be left out, or is damaged, which is told.
//!
//! ```text
//!   torn      | batch | batch | bat         a write that a kill or a power cut ended: nothing sound lies behind it
//!   damaged   | batch | ##### | batch |     a sound batch lies behind what is none
//!             | ##################### |     nothing in the file is sound: it may be no such log at all
//!             | batch | batch | ###         and somebody vouches for all of it: see below
//! ```
//!
//! Two files beside the directory vouch for what is in it: the marker of a clean stop for the whole of it, the checkpoint of
//! recovery points for everything before an offset.
//!
//! - A batch is taken for one where it lies at any byte, its offsets fit and its checksum holds.
//! - What cannot be decided is damage: nothing is left out on a guess.
//! - Memory: one batch, and what is read ahead. Work: every byte once, and a bounded number of bytes of candidates.
//!
//! What is not here: a log of our own after a crash, which its recovery cuts ([`super::recovery`]).

use std::io;
use std::path::{Path, PathBuf};

use crate::env::{File, FileCache};
use crate::record::{BatchHeader, HEADER_LEN};
use crate::types::{Offset, TopicPartition};

use super::checkpoints::{LOG_STARTS, RECOVERY_POINTS};
use super::error::StoreError;
use super::files::read_whole;
use super::scan::{ReadAhead, Scanned, next_batch};
use super::store::CLEAN_MARKER;
use super::{MANIFEST_FILE_NAME, RelativeOffset, decode_offsets};

/// Bytes that are searched before it is asked whether to go on.
const WINDOW_BYTES: u32 = 1 << 20;
/// So many bytes of candidates are checked behind a bad place before the search is given up. Each needs an offset that fits:
/// chance makes one in a thousand million places look like that.
const SEARCH_BYTES: u64 = 1 << 30;
/// Bytes of a batch header.
const HEADER_BYTES: u32 = 61;
const _: () = assert!(HEADER_BYTES as usize == HEADER_LEN);

/// What is told of a foreign partition directory by what lies beside and in it.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Everything before it is gone.
    pub(super) log_start: Option<Offset>,
    /// Everything before it was on disk.
    recovery_point: Option<Offset>,
    /// The marker of a clean stop.
    clean_marker: Option<PathBuf>,
    /// A Siltstone wrote it: a repair may have left a hole at its end.
    has_manifest: bool,
}

/// The last log of a foreign directory, scanned.
pub(super) struct LastLog<'a> {
    pub(super) file: &'a dyn File,
    /// Length of the file in bytes.
    pub(super) len: u32,
    pub(super) base: Offset,
    pub(super) scanned: &'a Scanned,
}

impl Beside {
    /// Looks around `dir`. A checkpoint that cannot be understood vouches for nothing.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn read(files: &FileCache, dir: &Path) -> Result<Self, StoreError> {
        let mut beside = Self {
            has_manifest: files.fs().stat(&dir.join(MANIFEST_FILE_NAME)).is_ok(),
            ..Self::default()
        };
        let Some(parent) = dir.parent() else {
            return Ok(beside);
        };
        let marker = parent.join(CLEAN_MARKER);
        beside.clean_marker = files.fs().stat(&marker).is_ok().then_some(marker);
        let name = dir.file_name().and_then(|name| name.to_str());
        let Some(id) = name.and_then(TopicPartition::parse_dir_name) else {
            return Ok(beside);
        };
        let line = |file: &str| -> Result<Option<Offset>, StoreError> {
            let bytes = read_whole(files, &parent.join(file))?;
            let lines = bytes.and_then(|bytes| decode_offsets(&bytes).ok());
            Ok(lines.and_then(|lines| lines.get(&id).copied()))
        };
        beside.log_start = line(LOG_STARTS)?;
        beside.recovery_point = line(RECOVERY_POINTS)?;
        Ok(beside)
    }

    /// Says why the last log must not be brought in up to its last sound batch; `None` when it is sound, or torn. Asks now and
    /// then whether to go on; told not to, it says anything.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn damage_of(
        &self,
        log: &LastLog<'_>,
        go_on: &dyn Fn() -> bool,
    ) -> io::Result<Option<String>> {
        let (end, next) = (log.scanned.end, log.scanned.next);
        let vouched = self.recovery_point.filter(|point| *point > next);
        let Some(stop) = &log.scanned.stop else {
            return Ok(vouched.filter(|_| !self.has_manifest).map(|point| {
                format!("it ends before offset {next}, and the recovery point beside it says that all before offset {point} was on disk")
            }));
        };
        let because = match log.search(go_on)? {
            Searched::Misplaced { offset } if end == 0 => Some(format!(
                "by its name it begins at offset {}, and the sound batch in it at offset {offset}",
                log.base
            )),
            Searched::Misplaced { .. } => {
                Some("the batch is whole and sound, so its offset was changed".to_owned())
            }
            Searched::Batch { position } => Some(format!(
                "a sound batch follows at position {position}, so this is damage and no torn tail"
            )),
            Searched::TooMuch => {
                Some("too much behind it looks like a batch to tell whether it is a torn tail".to_owned())
            }
            Searched::Nothing if log.scanned.batches == 0 && log.len >= HEADER_BYTES => {
                Some(format!("nothing in its {} bytes is a sound batch", log.len))
            }
            Searched::Nothing => match (&self.clean_marker, vouched) {
                (Some(marker), _) => Some(format!(
                    "{} says that its server stopped cleanly, so this is damage and no torn tail",
                    marker.display()
                )),
                (None, Some(point)) => Some(format!(
                    "the recovery point beside it says that all before offset {point} was on disk, so this is damage and no torn tail"
                )),
                (None, None) => None,
            },
        };
        Ok(because.map(|because| format!("position {end}: {stop}; {because}")))
    }
}

/// What a search came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Searched {
    /// At the bad place itself: a sound batch with an offset that does not fit.
    Misplaced { offset: Offset },
    /// A sound batch behind it.
    Batch { position: u32 },
    /// No sound batch.
    Nothing,
    /// It was given up.
    TooMuch,
}

impl LastLog<'_> {
    /// Looks for a sound batch from where the scan stopped.
    fn search(&self, go_on: &dyn Fn() -> bool) -> io::Result<Searched> {
        let mut ahead = ReadAhead::over(self.file, self.len);
        let mut at = self.scanned.end;
        if let Ok(batch) = next_batch(&mut ahead, at, Offset::ZERO)? {
            let offset = batch.header().base_offset;
            return Ok(Searched::Misplaced { offset });
        }
        let mut work = SEARCH_BYTES;
        at += 1;
        while self.len.saturating_sub(at) >= HEADER_BYTES && go_on() {
            let window = ahead.take(at, WINDOW_BYTES.min(self.len - at))?;
            let mut behind = at;
            for bytes in window.windows(HEADER_LEN) {
                if let Some(size_bytes) = self.size_of_candidate(bytes, behind) {
                    if work == 0 {
                        return Ok(Searched::TooMuch);
                    }
                    work = work.saturating_sub(u64::from(size_bytes));
                    if next_batch(&mut ahead, behind, self.scanned.next)?.is_ok() {
                        return Ok(Searched::Batch { position: behind });
                    }
                }
                behind += 1;
            }
            at = behind;
        }
        Ok(Searched::Nothing)
    }

    /// Returns the size of the batch whose header `bytes` at `position` may be.
    fn size_of_candidate(&self, bytes: &[u8], position: u32) -> Option<u32> {
        let header = BatchHeader::parse(bytes).ok()?;
        let fits = header.base_offset >= self.scanned.next
            && header.size_bytes <= self.len - position
            && RelativeOffset::new(header.last_offset(), self.base).is_some();
        fits.then_some(header.size_bytes)
    }
}
