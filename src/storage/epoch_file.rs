//! The epoch of each server start, claimed once and for all.
//!
//! ```text
//!   0                                512                             1024
//!   | "SILTEPOC" | epoch | crc32 | 0.. | "SILTEPOC" | epoch | crc32 | 0.. |
//!      8 bytes     u32 BE  u32 BE of the 12 bytes before
//! ```
//!
//! Two slots in two sectors, written in turn: a torn write leaves the other one. The greater sound one counts. A claim writes
//! over bytes the file already has, so that a server can start on a full disk. It syncs what it found first: a start that was
//! killed may have left its slot in memory alone, and with both of them unsynced a power cut could take both.
//!
//! Format version 1 ("SILTEPOC"); the file has no other.

use std::io::IoSlice;
use std::path::Path;

use crate::env::{FileCache, OpenMode, SyncSite};
use crate::types::LeaderEpoch;

use super::error::{IoContext, StoreError};
use super::files::read_whole;
use super::put_in_place;

pub(super) const NAME: &str = "siltstone.epoch";
const MAGIC: [u8; 8] = *b"SILTEPOC";
const SLOT_LEN: usize = 512;
const FILE_LEN: usize = 2 * SLOT_LEN;
/// Magic, epoch and checksum.
const ENTRY_LEN: usize = 16;
const _: () = assert!(MAGIC.len() + 4 + 4 == ENTRY_LEN && ENTRY_LEN <= SLOT_LEN);

const SITE: SyncSite = SyncSite("epoch");
const SITE_FOUND: SyncSite = SyncSite("epoch that was found");
const SITE_NEW: SyncSite = SyncSite("new epoch file");

/// Claims the epoch after the last one claimed, at least `least`. On return no other start can have it; of a new file, once the
/// caller has synced the directory.
pub(super) fn claim(files: &FileCache, dir: &Path, least: LeaderEpoch) -> Result<LeaderEpoch, StoreError> {
    let path = dir.join(NAME);
    let slots = match read_whole(files, &path)? {
        None => [None, None],
        Some(bytes) => decode(&bytes).ok_or_else(|| StoreError::Unusable {
            path: path.clone(),
            reason: "no sound epoch in it; remove it, and the epoch is taken from the partitions".to_owned(),
        })?,
    };
    let last = slots.iter().flatten().max().copied();
    let epoch = match last {
        Some(last) => next_epoch(last, &path)?.max(least),
        None => least,
    };
    if last.is_none() {
        let mut bytes = vec![0; FILE_LEN];
        bytes[..ENTRY_LEN].copy_from_slice(&encode(epoch));
        put_in_place(files.fs().as_ref(), &path, &bytes, SITE_NEW).context("write", &path)?;
        return Ok(epoch);
    }
    let position = if slots[0] == last { SLOT_LEN } else { 0 };
    let file = files
        .fs()
        .open(&path, OpenMode::ReadWrite)
        .context("open", &path)?;
    let position = u64::try_from(position).expect("512 fits");
    file.sync_data(SITE_FOUND).context("sync", &path)?;
    file.write_all_at(&[IoSlice::new(&encode(epoch))], position)
        .context("write", &path)?;
    file.sync_data(SITE).context("sync", &path)?;
    Ok(epoch)
}

fn next_epoch(last: LeaderEpoch, path: &Path) -> Result<LeaderEpoch, StoreError> {
    let next = last.0.checked_add(1).map(LeaderEpoch);
    next.ok_or_else(|| StoreError::Unusable {
        path: path.to_path_buf(),
        reason: "all epochs are used up; no start is left".to_owned(),
    })
}

/// Tells whether an epoch was ever claimed here.
pub(super) fn exists(files: &FileCache, dir: &Path) -> bool {
    files.fs().stat(&dir.join(NAME)).is_ok()
}

fn encode(epoch: LeaderEpoch) -> [u8; ENTRY_LEN] {
    let mut entry = [0; ENTRY_LEN];
    entry[..8].copy_from_slice(&MAGIC);
    entry[8..12].copy_from_slice(&epoch.0.to_be_bytes());
    let crc = crc32fast::hash(&entry[..12]);
    entry[12..].copy_from_slice(&crc.to_be_bytes());
    entry
}

/// Returns both slots, or `None` when neither is sound.
fn decode(bytes: &[u8]) -> Option<[Option<LeaderEpoch>; 2]> {
    let slot = |at: usize| {
        let entry: [u8; ENTRY_LEN] = bytes.get(at..at + ENTRY_LEN)?.try_into().ok()?;
        let epoch = LeaderEpoch(i32::from_be_bytes(entry[8..12].try_into().ok()?));
        (entry == encode(epoch) && epoch.0 >= 0).then_some(epoch)
    };
    let slots = [slot(0), slot(SLOT_LEN)];
    slots.iter().any(Option::is_some).then_some(slots)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..1100),
            epochs in (0..i32::MAX, 0..i32::MAX),
            flipped in 0..(FILE_LEN * 8),
        ) {
            let _ = decode(&bytes);
            bytes.resize(FILE_LEN, 0);
            bytes[..ENTRY_LEN].copy_from_slice(&encode(LeaderEpoch(epochs.0)));
            bytes[SLOT_LEN..SLOT_LEN + ENTRY_LEN].copy_from_slice(&encode(LeaderEpoch(epochs.1)));
            let sound = [Some(LeaderEpoch(epochs.0)), Some(LeaderEpoch(epochs.1))];
            prop_assert_eq!(decode(&bytes), Some(sound));
            bytes[flipped / 8] ^= 1 << (flipped % 8);
            let mut left = sound;
            if flipped / 8 % SLOT_LEN < ENTRY_LEN {
                left[flipped / 8 / SLOT_LEN] = None;
            }
            prop_assert_eq!(decode(&bytes), Some(left), "a slot with a changed bit does not count");
        }
    }

    #[test]
    fn the_layout_is_version_1() {
        let entry = encode(LeaderEpoch(7));
        assert_eq!(entry[..12], *b"SILTEPOC\0\0\0\x07");
        assert_eq!(entry[12..], crc32fast::hash(b"SILTEPOC\0\0\0\x07").to_be_bytes());
    }

    #[test]
    fn a_torn_slot_leaves_the_other() {
        let mut bytes = vec![0; FILE_LEN];
        bytes[..ENTRY_LEN].copy_from_slice(&encode(LeaderEpoch(7)));
        bytes[SLOT_LEN..SLOT_LEN + 9].copy_from_slice(&encode(LeaderEpoch(8))[..9]);
        assert_eq!(decode(&bytes), Some([Some(LeaderEpoch(7)), None]));
        bytes[3] ^= 1;
        assert_eq!(decode(&bytes), None);
        assert_eq!(decode(b"short"), None);
    }
}
