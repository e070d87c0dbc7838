//! What to read: where a read begins and ends, and where it stands.
//!
//! What is not here: the reading.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use crate::proto::v1::{self, read_end, read_start};
use crate::types::{Isolation, Offset, PartitionId, Timestamp, TopicName};

/// How long a read tries to come back, unless told otherwise.
const RECONNECT_FOR: Duration = Duration::from_secs(60);
/// How much is fetched ahead, unless told otherwise: what a server sends at once.
const PREFETCH_BYTES: usize = 4 << 20;

/// Where a read begins.
///
/// ```
/// use siltstone::client::{ReadSpec, ReadStart};
/// use siltstone::types::Timestamp;
///
/// let from = ReadStart::Time(Timestamp(1_357_000_000_000));
/// let spec = ReadSpec { start: from, ..ReadSpec::default() };
/// # let _ = spec;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadStart {
    /// The first record that can be read.
    #[default]
    Earliest,
    /// Only what is written after the call.
    Latest,
    /// This offset, in each partition.
    Offset(Offset),
    /// Exactly the records with this timestamp or a later one.
    Time(Timestamp),
}

/// Where a read ends.
///
/// ```
/// use siltstone::client::{ReadEnd, ReadSpec};
///
/// let follow = ReadSpec { end: ReadEnd::Follow, ..ReadSpec::default() };
/// # let _ = follow;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadEnd {
    /// The end of the log as of the call.
    #[default]
    Now,
    /// Before this offset, in each partition.
    Offset(Offset),
    /// As `Now`, and only records with an earlier timestamp.
    Time(Timestamp),
    /// Never: waits for new records.
    Follow,
}

/// What to read of a topic.
///
/// ```
/// use siltstone::client::{ReadEnd, ReadSpec, ReadStart};
/// use siltstone::types::{Offset, PartitionId, Timestamp};
///
/// // Two partitions between two moments, the second from a known offset on; a little ahead of who reads.
/// let spec = ReadSpec {
///     partitions: vec![PartitionId(0)],
///     start: ReadStart::Time(Timestamp(1_357_000_000_000)),
///     starts: [(PartitionId(1), ReadStart::Offset(Offset(40)))].into(),
///     end: ReadEnd::Time(Timestamp(1_357_086_400_000)),
///     prefetch_bytes: 1 << 20,
///     ..ReadSpec::default()
/// };
/// // Where an earlier read stopped, as it was kept.
/// let resumed = ReadSpec { resume: "0:12,1:45".parse()?, ..spec };
/// assert_eq!(resumed.resume.0[&PartitionId(1)], Offset(45));
/// # Ok::<(), siltstone::client::ResumeTokenError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadSpec {
    /// Which partitions; all, where neither this nor `starts` names any.
    pub partitions: Vec<PartitionId>,
    /// Where it begins.
    pub start: ReadStart,
    /// Partitions that begin elsewhere; they are read, too, where `partitions` does not name them.
    pub starts: BTreeMap<PartitionId, ReadStart>,
    /// Where it ends.
    pub end: ReadEnd,
    /// Partitions it names begin there; a time in `start` still holds.
    pub resume: ResumeToken,
    /// How far the reader sees.
    pub isolation: Isolation,
    /// How many bytes of chunks lie ready before they are asked for; one chunk may do so, however large.
    pub prefetch_bytes: usize,
    /// How long a read tries to come back after a loss; [`Duration::MAX`] is for ever. Where it ends at the end of the log
    /// "as of the call", that is then the end as of its return.
    pub reconnect_for: Duration,
}

impl Default for ReadSpec {
    /// Everything from the earliest record to the end as of the call; 4 MiB ahead, a minute to come back.
    fn default() -> Self {
        Self {
            partitions: Vec::new(),
            start: ReadStart::default(),
            starts: BTreeMap::new(),
            end: ReadEnd::default(),
            resume: ResumeToken::default(),
            isolation: Isolation::default(),
            prefetch_bytes: PREFETCH_BYTES,
            reconnect_for: RECONNECT_FOR,
        }
    }
}

impl ReadSpec {
    /// Returns where a partition begins, its place in the token aside.
    pub(super) fn start_of(&self, partition: PartitionId) -> ReadStart {
        self.starts.get(&partition).copied().unwrap_or(self.start)
    }

    /// True when the read is to have this partition.
    pub(super) fn names(&self, partition: PartitionId) -> bool {
        let everything = self.partitions.is_empty() && self.starts.is_empty();
        everything || self.starts.contains_key(&partition) || self.partitions.contains(&partition)
    }

    /// True when a partition begins at the end as of the call.
    pub(super) fn begins_at_latest(&self) -> bool {
        let mut starts = self.starts.values().chain([&self.start]);
        starts.any(|start| *start == ReadStart::Latest)
    }

    /// Returns the times of a partition's records that are asked for.
    pub(super) fn times_of(&self, partition: PartitionId) -> Range<Timestamp> {
        let least = match self.start_of(partition) {
            ReadStart::Time(time) => time,
            _ => Timestamp::MIN,
        };
        let end = match self.end {
            ReadEnd::Time(time) => time,
            _ => Timestamp::MAX,
        };
        least..end
    }

    /// Returns the call that reads on from `position`.
    pub(super) fn request(&self, topic: &TopicName, position: &ResumeToken) -> v1::ReadRequest {
        let end = match self.end {
            ReadEnd::Now => read_end::At::Now(true),
            ReadEnd::Offset(offset) => read_end::At::Offset(offset.0),
            ReadEnd::Time(time) => read_end::At::TimestampMs(time.0),
            ReadEnd::Follow => read_end::At::Follow(true),
        };
        let isolation = match self.isolation {
            Isolation::ReadUncommitted => v1::Isolation::ReadUncommitted,
            Isolation::ReadCommitted => v1::Isolation::ReadCommitted,
        };
        let own = self.starts.iter().map(|(partition, start)| v1::ReadPartition {
            partition: partition.0,
            start: Some(start.message()),
        });
        let plain = |partition: &&PartitionId| !self.starts.contains_key(*partition);
        let others = self.partitions.iter().filter(plain);
        let others = others.map(|partition| v1::ReadPartition {
            partition: partition.0,
            start: None,
        });
        v1::ReadRequest {
            topic: topic.as_str().to_owned(),
            partitions: own.chain(others).collect(),
            start: Some(self.start.message()),
            end: Some(v1::ReadEnd { at: Some(end) }),
            resume: position.message(),
            isolation: isolation.into(),
            format: v1::RecordFormat::Batches.into(),
            max_response_bytes: 0,
            // Whoever takes the responses keeps the rest.
            changed_positions: true,
        }
    }
}

impl ReadStart {
    fn message(self) -> v1::ReadStart {
        let at = match self {
            Self::Earliest => read_start::At::Earliest(true),
            Self::Latest => read_start::At::Latest(true),
            Self::Offset(offset) => read_start::At::Offset(offset.0),
            Self::Time(time) => read_start::At::TimestampMs(time.0),
        };
        v1::ReadStart { at: Some(at) }
    }
}

/// Where every partition of a read stands: the next offset to read. As text, `0:12,1:5`.
///
/// ```
/// use siltstone::client::{ReadSpec, ResumeToken};
/// use siltstone::types::{Offset, PartitionId};
///
/// let kept: ResumeToken = "0:12,1:5".parse()?;
/// assert_eq!(kept.0[&PartitionId(1)], Offset(5));
/// let spec = ReadSpec { resume: kept, ..ReadSpec::default() };
/// # let _ = spec;
/// # Ok::<(), siltstone::client::ResumeTokenError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ResumeToken(pub BTreeMap<PartitionId, Offset>);

impl ResumeToken {
    /// Takes in how far partitions have come; none goes back.
    pub(super) fn advance(&mut self, moved: impl IntoIterator<Item = (PartitionId, Offset)>) {
        for (partition, offset) in moved {
            let position = self.0.entry(partition).or_insert(offset);
            *position = offset.max(*position);
        }
    }

    fn message(&self) -> Option<v1::ResumeToken> {
        let position = |(partition, offset): (&PartitionId, &Offset)| v1::PartitionOffset {
            partition: partition.0,
            offset: offset.0,
        };
        let positions: Vec<_> = self.0.iter().map(position).collect();
        (!positions.is_empty()).then_some(v1::ResumeToken { positions })
    }
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (partition, offset) in &self.0 {
            write!(f, "{comma}{partition}:{offset}")?;
            comma = ",";
        }
        Ok(())
    }
}

/// Why text is not a resume token.
///
/// ```
/// use siltstone::client::ResumeToken;
///
/// let error = "0:12,x".parse::<ResumeToken>().unwrap_err();
/// assert_eq!(error.part, "x");
/// ```
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{part:?} is not PARTITION:OFFSET; a resume token reads 0:12,1:5")]
pub struct ResumeTokenError {
    /// The part that is wrong.
    pub part: String,
}

impl FromStr for ResumeToken {
    type Err = ResumeTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let position = |part: &str| {
            let (partition, offset) = part.split_once(':')?;
            let partition: i32 = partition.parse().ok().filter(|number| *number >= 0)?;
            let offset: i64 = offset.parse().ok().filter(|number| *number >= 0)?;
            Some((PartitionId(partition), Offset(offset)))
        };
        text.split(',')
            .filter(|part| !part.is_empty())
            .map(|part| {
                position(part).ok_or_else(|| ResumeTokenError {
                    part: part.to_owned(),
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resume_token_reads_back_from_its_text() {
        for text in ["", "0:12", "0:12,1:5,7:0"] {
            let token: ResumeToken = text.parse().expect("it is one");
            assert_eq!(token.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_resume_token_is_named() {
        for (text, part) in [("0", "0"), ("0:1,x:2", "x:2"), ("0:-1", "0:-1"), ("-1:0", "-1:0")] {
            let error = text.parse::<ResumeToken>().expect_err("it is none");
            assert_eq!(error.part, part, "{text}");
        }
    }
}
