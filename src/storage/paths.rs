//! Names of the files in a partition's directory.
//!
//! A segment's files share a stem, its base offset as 20 decimal digits; the suffix says which of them it is. A second suffix
//! marks a file that is on its way in or out (`.cleaned`, `.swap`, `.deleted`, `.tmp`).

use std::path::{Path, PathBuf};

use crate::types::Offset;

/// Digits of a base offset in a file name.
const DIGITS: usize = 20;

/// Which file of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentFile {
    /// Record batches.
    Log,
    /// Offset index.
    OffsetIndex,
    /// Time index.
    TimeIndex,
    /// Aborted transactions.
    TxnIndex,
    /// Producer state up to the offset in its name.
    Snapshot,
}

impl SegmentFile {
    pub(super) const ALL: [Self; 5] = [
        Self::Log,
        Self::OffsetIndex,
        Self::TimeIndex,
        Self::TxnIndex,
        Self::Snapshot,
    ];

    fn suffix(self) -> &'static str {
        match self {
            Self::Log => ".log",
            Self::OffsetIndex => ".index",
            Self::TimeIndex => ".timeindex",
            Self::TxnIndex => ".txnindex",
            Self::Snapshot => ".snapshot",
        }
    }

    /// Returns the path of this file of the segment at `base`.
    pub(super) fn path(self, dir: &Path, base: Offset) -> PathBuf {
        dir.join(format!("{:0width$}{}", base.0, self.suffix(), width = DIGITS))
    }

    /// Tells which segment file a name is, if it is one.
    pub(super) fn parse(name: &str) -> Option<(Offset, Self)> {
        let (digits, _) = name.split_at_checked(DIGITS)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let base = Offset(digits.parse().ok()?);
        let kind = Self::ALL
            .into_iter()
            .find(|kind| kind.suffix() == &name[DIGITS..])?;
        Some((base, kind))
    }
}

/// Suffix of a file that is being removed.
pub(super) const DELETED: &str = ".deleted";
/// Suffix of a segment file that the cleaner is building.
pub(super) const CLEANED: &str = ".cleaned";
/// Suffix of a finished segment file that is replacing others.
pub(super) const SWAP: &str = ".swap";
/// Suffix of a small file that is being written.
pub(super) const TMP: &str = ".tmp";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_not_segment_files() {
        for kind in SegmentFile::ALL {
            let path = kind.path(Path::new("d"), Offset(42));
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            assert_eq!(SegmentFile::parse(name), Some((Offset(42), kind)));
        }
        for stranger in [
            "0.log",
            "00000000000000000042.log.swap",
            "0000000000000000004x.log",
            "é",
            "",
        ] {
            assert_eq!(SegmentFile::parse(stranger), None, "{stranger}");
        }
    }
}
