//! `partition.metadata`: which topic a partition directory belongs to, by id.
//!
//! ```text
//! version: 0
//! topic_id: vPeXiV5lS3O1dZgmCPPUNg        no newline at the end
//! ```
//!
//! Invariants
//! - It is on disk before the first record of the partition: bytes without an owner cannot be told apart from those of
//!   an older topic of the same name.
//! - The all-zero id names no topic.
//!
//! What it does not do: read or write files (`checkpoint::write_atomic`).

use super::uuid_text::{self, UuidTextError};
use crate::types::TopicId;

/// The only version there is.
const VERSION: &str = "0";

/// The content of `partition.metadata`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionMetadata {
    /// The topic that the directory belongs to.
    pub topic_id: TopicId,
}

impl PartitionMetadata {
    /// Name of the file in the partition directory.
    pub const FILE_NAME: &'static str = "partition.metadata";

    /// Returns the file's bytes.
    pub fn encode(self) -> Vec<u8> {
        format!(
            "version: {VERSION}\ntopic_id: {}",
            uuid_text::encode(self.topic_id.0)
        )
        .into_bytes()
    }

    /// Reads the file's bytes. Space around names and values, and empty lines, do not matter.
    ///
    /// # Errors
    /// [`PartitionMetadataDamage`] names what is missing or wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, PartitionMetadataDamage> {
        let text = std::str::from_utf8(bytes).map_err(|_| PartitionMetadataDamage::NotText)?;
        let value = |name: &'static str| {
            text.lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim())
                .ok_or(PartitionMetadataDamage::Missing { name })
        };
        let version = value("version")?;
        if version != VERSION {
            return Err(PartitionMetadataDamage::Version {
                found: version.chars().take(20).collect(),
            });
        }
        let topic_id = uuid_text::decode(value("topic_id")?)?;
        if topic_id == [0; 16] {
            return Err(PartitionMetadataDamage::ZeroId);
        }
        Ok(Self {
            topic_id: TopicId(topic_id),
        })
    }
}

/// Why bytes are not a `partition.metadata`. The layer above adds the file's path.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PartitionMetadataDamage {
    /// Not UTF-8.
    #[error("partition metadata is not text")]
    NotText,
    /// A line is missing.
    #[error("partition metadata has no line '{name}: ...'")]
    Missing {
        /// The line's name.
        name: &'static str,
    },
    /// A version we do not know.
    #[error("partition metadata has version {found:?}, expected {VERSION:?}")]
    Version {
        /// What it has, at most 20 characters of it.
        found: String,
    },
    /// The id is not one.
    #[error("partition metadata names no topic id: {0}")]
    Id(#[from] UuidTextError),
    /// The id that names no topic.
    #[error("partition metadata has the all-zero topic id, which names no topic")]
    ZeroId,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOLDEN: &[u8] = b"version: 0\ntopic_id: vPeXiV5lS3O1dZgmCPPUNg";

    proptest! {
        #[test]
        fn every_topic_id_comes_back(id in any::<[u8; 16]>()) {
            prop_assume!(id != [0; 16]);
            let metadata = PartitionMetadata { topic_id: TopicId(id) };
            prop_assert_eq!(PartitionMetadata::decode(&metadata.encode()), Ok(metadata));
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = PartitionMetadata::decode(&bytes);
        }
    }

    #[test]
    fn the_file_is_written_as_kafka_writes_it() {
        let metadata = PartitionMetadata::decode(GOLDEN).expect("Kafka's own form is read");
        assert_eq!(metadata.topic_id.to_string(), "bcf797895e654b73b575982608f3d436");
        assert_eq!(metadata.encode(), GOLDEN);
        let with_newline = [GOLDEN, b"\n"].concat();
        assert_eq!(PartitionMetadata::decode(&with_newline), Ok(metadata));
    }

    #[test]
    fn damage_is_named_not_served() {
        let damage = |text: &str| {
            PartitionMetadata::decode(text.as_bytes())
                .err()
                .map(|damage| damage.to_string())
        };
        assert_eq!(
            damage("").as_deref(),
            Some("partition metadata has no line 'version: ...'")
        );
        assert_eq!(
            damage("version: 1\ntopic_id: x").as_deref(),
            Some("partition metadata has version \"1\", expected \"0\"")
        );
        assert_eq!(
            damage("version: 0").as_deref(),
            Some("partition metadata has no line 'topic_id: ...'")
        );
        assert_eq!(
            damage("version: 0\ntopic_id: vPeX").as_deref(),
            Some("partition metadata names no topic id: an id has 22 characters, this one has 4")
        );
        assert_eq!(
            damage("version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA").as_deref(),
            Some("partition metadata has the all-zero topic id, which names no topic")
        );
    }
}
