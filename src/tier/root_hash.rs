//! The root hash: one number for all that an archive holds. Two archives have the same if they hold the same.
//!
//! ```text
//! root      = SHA-256 of these lines:
//!               siltstone archive 1
//!               topic <id> <name> <partitions> <settings>       each topic of the catalog, by id, followed by its partitions:
//!               partition <number> <log start> <segments>       each, from 0
//! settings  = SHA-256 of name, NUL, value, NUL of each setting, by name
//! segments  = SHA-256 of these lines:
//!               <end> <key>                                     each segment that the manifest names, by base offset
//! end       = SHA-256 of the end of the object, from where its footer begins
//! ```
//!
//! Every line ends with a newline; hashes are 64 hexadecimal digits, numbers decimal, keys without the archive's own prefix.
//!
//! Invariants
//! - What waits to be swept, what is on its way, and who wrote the ledgers do not count: neither a sweep nor a restart moves it.
//! - A footer has the checksums of all other bytes of its object. They are CRC-32: the root tells of accidents anywhere, and of another
//!   archive, but whoever forges bytes on purpose can keep their CRC-32.
//!
//! What is not here: reading anything.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use sha2::{Digest as _, Sha256};

use super::catalog::ArchivedTopic;
use crate::types::{Offset, PartitionId};

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Returns the hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// The hash of lines.
struct Lines(Sha256);

impl Lines {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn finish(self) -> Hash {
        Hash(self.0.finalize().into())
    }
}

impl fmt::Write for Lines {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

/// The hash of a partition's segments, as they are told.
pub(super) struct SegmentsHash(Lines);

impl SegmentsHash {
    pub(super) fn new() -> Self {
        Self(Lines::new())
    }

    /// Takes in the next segment, by base offset.
    pub(super) fn segment(&mut self, key: &str, end: Hash) {
        let _ = writeln!(self.0, "{end} {key}");
    }

    pub(super) fn finish(self) -> Hash {
        self.0.finish()
    }
}

/// The root hash, as topics and partitions are told.
pub(super) struct RootHash(Lines);

impl RootHash {
    pub(super) fn new() -> Self {
        let mut lines = Lines::new();
        let _ = writeln!(lines, "siltstone archive 1");
        Self(lines)
    }

    /// Takes in the next topic, by id.
    pub(super) fn topic(&mut self, topic: &ArchivedTopic) {
        let (id, name, partitions) = (topic.id, &topic.name, topic.partitions);
        let _ = writeln!(
            self.0,
            "topic {id} {name} {partitions} {}",
            settings(&topic.settings)
        );
    }

    /// Takes in the next partition of the topic that was told last.
    pub(super) fn partition(&mut self, partition: PartitionId, log_start: Offset, segments: Hash) {
        let _ = writeln!(self.0, "partition {partition} {log_start} {segments}");
    }

    pub(super) fn finish(self) -> Hash {
        self.0.finish()
    }
}

fn settings(settings: &BTreeMap<String, String>) -> Hash {
    let mut lines = Lines::new();
    for (name, value) in settings {
        let _ = write!(lines, "{name}\0{value}\0");
    }
    lines.finish()
}
