//! Names of topics and partitions, valid by construction.
//!
//! Kafka's rule for topic names: 1 to 249 characters of `a-z A-Z 0-9 . _ -`, not `.` or `..`.

use std::fmt;
use std::sync::Arc;

use super::PartitionId;

/// A topic's name; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// The greatest length, in bytes, Kafka's: `NAME-NUMBER` and its deletion suffix must fit a file name.
    pub const MAX_LEN: usize = 249;

    /// Checks `name` and makes it a topic name.
    ///
    /// # Errors
    /// [`NameError`] says which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > Self::MAX_LEN {
            return Err(NameError::TooLong { len: name.len() });
        }
        if name == "." || name == ".." {
            return Err(NameError::Dots);
        }
        match name
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || "._-".contains(*c)))
        {
            Some(character) => Err(NameError::Character { character }),
            None => Ok(Self(name.into())),
        }
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for the store's own topics, whose names begin with two underscores; clients may read, not change them.
    pub fn is_internal(&self) -> bool {
        self.0.starts_with("__")
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why text is not a topic name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// No character at all.
    #[error("a topic name has at least one character")]
    Empty,
    /// More than 249 characters.
    #[error("a topic name has at most {max} characters, this one has {len}", max = TopicName::MAX_LEN)]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// `.` or `..`.
    #[error("'.' and '..' are not topic names")]
    Dots,
    /// A character outside the allowed set.
    #[error("a topic name has only a-z, A-Z, 0-9, '.', '_' and '-', not {character:?}")]
    Character {
        /// The first that is not allowed.
        character: char,
    },
}

/// One partition of one topic; its text, `topic-3`, is also its directory's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicName,
    /// Which of its partitions.
    pub partition: PartitionId,
}

impl TopicPartition {
    /// Joins a topic and a partition number.
    pub fn new(topic: TopicName, partition: PartitionId) -> Self {
        Self { topic, partition }
    }

    /// Reads a directory name as Kafka does: split at the last `-`, the right part a number. `None` when it is not
    /// the name of a partition's directory.
    pub fn parse_dir_name(name: &str) -> Option<Self> {
        let (topic, partition) = name.rsplit_once('-')?;
        if partition.is_empty() || !partition.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self {
            topic: TopicName::new(topic).ok()?,
            partition: PartitionId(partition.parse().ok()?),
        })
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rule_and_say_what_is_wrong() {
        for good in ["a", "flights", "__siltstone_topics", "a.b-c_D9", &"x".repeat(249)] {
            assert!(TopicName::new(good).is_ok(), "{good}");
        }
        let error = |name: &str| TopicName::new(name).err().map(|error| error.to_string());
        assert_eq!(
            error("").as_deref(),
            Some("a topic name has at least one character")
        );
        assert_eq!(error("..").as_deref(), Some("'.' and '..' are not topic names"));
        assert_eq!(
            error("a/b").as_deref(),
            Some("a topic name has only a-z, A-Z, 0-9, '.', '_' and '-', not '/'")
        );
        assert_eq!(
            error(&"x".repeat(250)).as_deref(),
            Some("a topic name has at most 249 characters, this one has 250")
        );
    }

    #[test]
    fn directory_names_split_at_the_last_dash() {
        let parsed = |name: &str| TopicPartition::parse_dir_name(name).map(|partition| partition.to_string());
        assert_eq!(parsed("a-b-12").as_deref(), Some("a-b-12"));
        for not in ["a", "a-", "-3", "a-x", "a-+1", "a-99999999999", "a.0123-delete"] {
            assert_eq!(parsed(not), None, "{not}");
        }
    }
}
