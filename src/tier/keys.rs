//! Keys: what lies where in the bucket, below the prefix that the server was given.
//!
//! ```text
//! epochs/<n>                                                whose bucket this is; claims of it, one for each server start
//! catalog/<n>                                               topics: names, ids, partitions, settings
//! topics/<name>/<id>/<partition>/manifest/<n>               which segments the partition has
//! topics/<name>/<id>/<partition>/segments/<base>-<epoch>-<attempt>.segment
//! probe/<attempt>                                           written and removed at start; see `probe`
//!
//! <n> <base>   20 decimal digits: a number from 0 without holes, the segment's base offset
//! <epoch>      10 decimal digits: of the server that wrote the object
//! <attempt>    16 hexadecimal digits, drawn at random for every upload
//! <id>         the topic's id, 32 hexadecimal digits: a name used again is another topic
//! ```
//!
//! Invariants
//! - Every object is written once and never again: the numbered ones are created only if absent, a segment has a key that nobody else draws. So a late upload of a server that was fenced harms nobody: no manifest names it.
//! - Topic names have no character that a store, a file system or a URL would change.
//!
//! What is not here: what is in the objects.

use std::fmt;

use crate::types::{LeaderEpoch, Offset, PartitionId, TopicId, TopicName};

/// Where claims lie.
pub const EPOCHS: &str = "epochs";
/// Where the catalog lies.
pub const CATALOG: &str = "catalog";
/// Where all topics lie.
pub const TOPICS: &str = "topics";
/// Where the probe of a start puts its objects.
pub const PROBE: &str = "probe";

const SEGMENT_SUFFIX: &str = ".segment";
const NUMBER_DIGITS: usize = 20;
const EPOCH_DIGITS: usize = 10;
const ATTEMPT_DIGITS: usize = 16;

/// Returns the key of number `number` of a ledger.
pub fn numbered(ledger: &str, number: u64) -> String {
    format!("{ledger}/{number:0NUMBER_DIGITS$}")
}

/// Returns the number at the end of a key of a ledger; `None` when it is no such key.
pub fn number_of(key: &str) -> Option<u64> {
    digits(key.rsplit('/').next()?, NUMBER_DIGITS)
}

/// Tells whether a key is that of a segment, and not of what names segments.
pub(super) fn is_segment(key: &str) -> bool {
    key.ends_with(SEGMENT_SUFFIX)
}

fn digits(text: &str, len: usize) -> Option<u64> {
    let sound = text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
    sound.then(|| text.parse().ok()).flatten()
}

/// A partition, as the bucket names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartitionKey {
    /// The topic's name, for people.
    pub topic: TopicName,
    /// The topic's id.
    pub topic_id: TopicId,
    /// Which of its partitions.
    pub partition: PartitionId,
}

impl PartitionKey {
    /// Returns the ledger of the partition's manifest.
    pub fn manifest(&self) -> String {
        format!("{self}/manifest")
    }

    /// Returns what the keys of its segments begin with.
    pub fn segments(&self) -> String {
        format!("{self}/segments")
    }

    /// Returns the key of one of its segments.
    pub fn segment(&self, id: ObjectId) -> String {
        format!("{self}/segments/{id}{SEGMENT_SUFFIX}")
    }
}

impl fmt::Display for PartitionKey {
    /// What all keys of the partition begin with.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TOPICS}/{}/{}/{}", self.topic, self.topic_id, self.partition)
    }
}

/// Which object of a partition: no two uploads ever have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectId {
    /// The segment's base offset.
    pub base: Offset,
    /// The epoch of the server that writes it.
    pub epoch: LeaderEpoch,
    /// Drawn at random for this upload.
    pub attempt: u64,
}

impl ObjectId {
    /// Reads the last part of a segment's key; `None` when it is no such key.
    pub fn parse_key(key: &str) -> Option<Self> {
        let name = key.rsplit('/').next()?.strip_suffix(SEGMENT_SUFFIX)?;
        let mut parts = name.split('-');
        let id = Self {
            base: Offset(i64::try_from(digits(parts.next()?, NUMBER_DIGITS)?).ok()?),
            epoch: LeaderEpoch(i32::try_from(digits(parts.next()?, EPOCH_DIGITS)?).ok()?),
            attempt: u64::from_str_radix(parts.next()?, 16).ok()?,
        };
        (parts.next().is_none() && id.to_string() == name).then_some(id)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (base, epoch, attempt) = (self.base.0, self.epoch.0, self.attempt);
        write!(
            f,
            "{base:0NUMBER_DIGITS$}-{epoch:0EPOCH_DIGITS$}-{attempt:0ATTEMPT_DIGITS$x}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_the_picture_says_and_read_back() {
        let partition = PartitionKey {
            topic: TopicName::new("flights").expect("a name"),
            topic_id: TopicId([0xab; 16]),
            partition: PartitionId(3),
        };
        let id = ObjectId {
            base: Offset(4711),
            epoch: LeaderEpoch(2),
            attempt: 0xbeef,
        };
        let key = partition.segment(id);
        assert_eq!(
            key,
            "topics/flights/abababababababababababababababab/3/segments/00000000000000004711-0000000002-000000000000beef.segment"
        );
        assert_eq!(ObjectId::parse_key(&key), Some(id));
        let numbered = numbered(&partition.manifest(), 64);
        assert!(
            numbered.ends_with("/3/manifest/00000000000000000064"),
            "{numbered}"
        );
        assert_eq!(number_of(&numbered), Some(64));
    }

    #[test]
    fn strangers_are_not_keys_of_ours() {
        for stranger in [
            "",
            "a/b",
            "segments/00000000000000004711-0000000002-000000000000BEEF.segment",
            "segments/4711-2-beef.segment",
            "segments/00000000000000004711-0000000002-000000000000beef",
            "segments/00000000000000004711-0000000002-000000000000beef-1.segment",
            "segments/99999999999999999999-0000000002-000000000000beef.segment",
        ] {
            assert_eq!(ObjectId::parse_key(stranger), None, "{stranger}");
        }
        assert_eq!(number_of("epochs/12"), None);
    }
}
