//! Making the transaction index of a sealed segment anew, from the log: without it nobody can tell which records of the segment
//! do not count.
//!
//! 1. The producers' state at the segment's base comes from a snapshot and the segments before (`load`).
//! 2. Every batch of the segment is read and followed; each marker that aborts a transaction is an entry.
//! 3. All its indexes are in memory then, and are written with the next checkpoint. If it dies before: they are made again.
//!
//! Invariants
//! - Where the log itself is damaged, too, no index is made: a marker may lie in what cannot be read, and records that were
//!   aborted must not be taken for others.
//!
//! What is not here: the other two indexes, which a read that misses them makes from batch headers alone (`segment`).

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::env::{FileCache, OpenMode};
use crate::types::Timestamp;

use super::config::LogConfig;
use super::error::{IoContext, ReadError, StoreError};
use super::load::{StateFiles, rebuild_producers, replay_batch};
use super::paths::SegmentFile;
use super::scan::{ScanSpec, scan};
use super::segment::{Sealed, Segment};

/// Tells whether the error says that an index of transactions is damaged, cut short or missing, and not that the disk refuses.
pub(super) fn says_transactions_are_lost(error: &ReadError) -> bool {
    use std::io::ErrorKind::{NotFound, UnexpectedEof};
    let path = match error {
        ReadError::Damaged { path, .. } => path,
        ReadError::Storage(StoreError::Io { path, source, .. })
            if matches!(source.kind(), NotFound | UnexpectedEof) =>
        {
            path
        }
        _ => return false,
    };
    let name = path.file_name().and_then(|name| name.to_str());
    matches!(
        name.and_then(SegmentFile::parse),
        Some((_, SegmentFile::TxnIndex))
    )
}

/// Makes every transaction index anew that cannot be read. `segments` are all of the log. Blocks for the disk.
///
/// # Errors
/// Damage of a log whose index is lost as well; what the disk says.
pub(super) fn mend_aborted(
    files: &FileCache,
    segments: &[Segment],
    config: &LogConfig,
) -> Result<(), ReadError> {
    for (index, segment) in segments.iter().enumerate() {
        let Segment::Sealed(sealed) = segment else {
            continue;
        };
        let Err(error) = sealed.aborted(files) else {
            continue;
        };
        if !says_transactions_are_lost(&error) {
            return Err(error);
        }
        tracing::warn!(log = %sealed.log_path.display(), %error,
            "the index of aborted transactions cannot be read; reading the log to make it anew");
        make_anew(files, &segments[..index], sealed, config)?;
    }
    Ok(())
}

fn make_anew(
    files: &FileCache,
    before: &[Segment],
    sealed: &Sealed,
    config: &LogConfig,
) -> Result<(), ReadError> {
    let (path, base) = (&sealed.log_path, sealed.extent.base);
    let state = StateFiles {
        files,
        dir: sealed.dir(),
        // When producers were last seen decides nothing here.
        now: Timestamp(0),
    };
    let mut producers = rebuild_producers(state, before, base)?;
    let file = files.fs().open(path, OpenMode::Read).context("open", path)?;
    let spec = ScanSpec {
        base,
        len: sealed.extent.end,
        until: sealed.extent.next,
        holes: sealed.extent.holes(),
        index_interval_bytes: config.index_interval_bytes,
        max_decompressed_bytes: config.max_decompressed_bytes,
    };
    let mut scanned = scan(file.as_ref(), spec, |batch, indexes| {
        if let Some(aborted) = replay_batch(&mut producers, batch, state.now) {
            indexes.add_aborted(aborted);
        }
        ControlFlow::Continue(())
    })
    .context("read", path)?;
    if let Some(reason) = scanned.stop {
        return Err(ReadError::Damaged {
            path: path.to_path_buf(),
            position: u64::from(scanned.end),
            lost: None,
            reason,
        });
    }
    scanned.indexes.seal();
    sealed.reindexed(Arc::new(scanned.indexes));
    Ok(())
}
