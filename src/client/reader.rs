//! Reading: a stream of chunks, each whole batches of one partition, filtered to exactly what was asked for.
//!
//! Invariants
//! - The resume token after a chunk covers everything up to and including that chunk: a reader that keeps the token with
//!   what it made of the chunk goes on without a gap and without a repeat.
//! - Every chunk tells below which offsets its partition is compacted ([`CompactedBelow`]): who goes on below may have missed
//!   something.
//! - A read that follows is opened again after a loss, at its token, and says so to whom [`Reader::watch`] named. A bounded
//!   read is not: its end was that of the call.
//! - Memory is bounded by the receive window of the read's own stream and one chunk; who is not polled holds up nobody else.
//!
//! What is not here: which records of a batch count (`filter`).

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Streaming;

use super::filter::{Chunk, ChunkRecords, CompactedBelow, Wanted};
use super::offsets::OffsetQuery;
use super::{Client, Error, admin};
use crate::proto::v1::{self, read_end, read_start};
use crate::types::{Isolation, Offset, PartitionId, Timestamp, TopicName};

/// How long a read that follows tries to come back, unless told otherwise.
const RECONNECT_FOR: Duration = Duration::from_secs(60);

/// Where a read begins.
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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadSpec {
    /// Which partitions; empty means all.
    pub partitions: Vec<PartitionId>,
    /// Where it begins.
    pub start: ReadStart,
    /// Where it ends.
    pub end: ReadEnd,
    /// Partitions it names begin there; a time in `start` still holds.
    pub resume: ResumeToken,
    /// How far the reader sees.
    pub isolation: Isolation,
    /// How long a read that follows tries to come back after a loss; [`Duration::MAX`] is for ever.
    pub reconnect_for: Duration,
}

impl Default for ReadSpec {
    /// Everything from the earliest record to the end as of the call; a minute to come back.
    fn default() -> Self {
        Self {
            partitions: Vec::new(),
            start: ReadStart::default(),
            end: ReadEnd::default(),
            resume: ResumeToken::default(),
            isolation: Isolation::default(),
            reconnect_for: RECONNECT_FOR,
        }
    }
}

/// A turn in the connection of a read that follows.
#[derive(Clone, Copy, Debug)]
pub enum Connection<'a> {
    /// It is lost, for this reason; the read tries to come back.
    Lost(&'a Error),
    /// It is there again, and the read goes on where it stopped.
    Restored,
}

/// Told of every turn of a read's connection.
type Watcher = Box<dyn FnMut(Connection<'_>) + Send + Sync>;

/// Where every partition of a read stands: the next offset to read. As text, `0:12,1:5`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ResumeToken(pub BTreeMap<PartitionId, Offset>);

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

/// A read under way.
pub struct Reader {
    client: Client,
    topic: TopicName,
    spec: ReadSpec,
    times: Range<Timestamp>,
    stream: Option<Streaming<v1::ReadResponse>>,
    position: ResumeToken,
    completed: Completed,
    watcher: Watcher,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Completed {
    Yes,
    No,
}

impl Client {
    /// Reads a topic between two points, or follows it.
    ///
    /// # Errors
    /// `NotFound`; `OutOfRange` for an offset that the log does not hold.
    pub async fn read(&self, topic: &str, spec: ReadSpec) -> Result<Reader, Error> {
        let topic = admin::topic_name(topic)?;
        let mut spec = spec;
        if spec.start == ReadStart::Latest {
            self.pin_latest(&topic, &mut spec).await?;
        }
        let lower = match spec.start {
            ReadStart::Time(time) => time,
            _ => Timestamp::MIN,
        };
        let upper = match spec.end {
            ReadEnd::Time(time) => time,
            _ => Timestamp::MAX,
        };
        let position = spec.resume.clone();
        let mut reader = Reader {
            client: self.clone(),
            topic,
            spec,
            times: lower..upper,
            stream: None,
            position,
            completed: Completed::No,
            watcher: Box::new(|_| {}),
        };
        reader.stream = Some(reader.open().await?);
        Ok(reader)
    }

    /// Turns "latest" into offsets, so that a read opened again after a loss begins where the first one did.
    async fn pin_latest(&self, topic: &TopicName, spec: &mut ReadSpec) -> Result<(), Error> {
        for found in self.list_offsets(topic.as_str(), OffsetQuery::Latest).await? {
            let wanted = spec.partitions.is_empty() || spec.partitions.contains(&found.partition);
            if let (true, Some(offset)) = (wanted, found.offset) {
                spec.resume.0.entry(found.partition).or_insert(offset);
            }
        }
        Ok(())
    }
}

impl Reader {
    /// Waits for the next chunk; `None` when everything asked for has come. Chunks without records carry progress.
    ///
    /// # Errors
    /// The server's, the connection's (a read that follows first tries for `reconnect_for` to come back), and
    /// [`Error::DamagedBatch`].
    pub async fn next(&mut self) -> Result<Option<Chunk>, Error> {
        loop {
            if self.completed == Completed::Yes {
                return Ok(None);
            }
            let message = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => return Ok(None),
            };
            match message {
                Ok(Some(response)) => return self.take(response).map(Some),
                Ok(None) if self.spec.end == ReadEnd::Follow => {
                    let reason = "the server ended the stream".to_owned();
                    let address = self.client.address().to_owned();
                    self.reopen(Error::ConnectionLost { address, reason }).await?;
                }
                Ok(None) => {
                    return Err(self
                        .client
                        .protocol_error("a read ended without saying that it is complete"));
                }
                Err(status) => {
                    let error = self.client.error(&status);
                    if self.spec.end != ReadEnd::Follow {
                        return Err(error);
                    }
                    self.reopen(error).await?;
                }
            }
        }
    }

    /// Has `watcher` told when the connection of a read that follows is lost, once a loss, and when it is there again.
    pub fn watch(&mut self, watcher: impl FnMut(Connection<'_>) + Send + Sync + 'static) {
        self.watcher = Box::new(watcher);
    }

    /// Returns where the read stands after the last chunk.
    pub fn resume_token(&self) -> &ResumeToken {
        &self.position
    }

    /// Returns the topic that is read.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Returns the records of a chunk, in order, and only those that were asked for.
    pub fn records(&self, chunk: &Chunk) -> ChunkRecords {
        chunk.records(&self.topic)
    }

    async fn open(&self) -> Result<Streaming<v1::ReadResponse>, Error> {
        self.client.answer(self.client.log().read(self.request())).await
    }

    async fn reopen(&mut self, error: Error) -> Result<(), Error> {
        // No end where the time that is left goes beyond what the clock can tell.
        let give_up_at = Instant::now().checked_add(self.spec.reconnect_for);
        (self.watcher)(Connection::Lost(&error));
        let mut error = error;
        let mut attempt = 0;
        loop {
            let Some(delay) = error.retry_delay(attempt) else {
                return Err(error);
            };
            if give_up_at.is_some_and(|end| Instant::now() + delay >= end) {
                return Err(error);
            }
            tokio::time::sleep(delay).await;
            match self.open().await {
                Ok(stream) => {
                    self.stream = Some(stream);
                    (self.watcher)(Connection::Restored);
                    return Ok(());
                }
                Err(failed) => error = failed,
            }
            attempt = attempt.saturating_add(1);
        }
    }

    fn request(&self) -> v1::ReadRequest {
        let start = match self.spec.start {
            ReadStart::Earliest => read_start::At::Earliest(true),
            ReadStart::Latest => read_start::At::Latest(true),
            ReadStart::Offset(offset) => read_start::At::Offset(offset.0),
            ReadStart::Time(time) => read_start::At::TimestampMs(time.0),
        };
        let end = match self.spec.end {
            ReadEnd::Now => read_end::At::Now(true),
            ReadEnd::Offset(offset) => read_end::At::Offset(offset.0),
            ReadEnd::Time(time) => read_end::At::TimestampMs(time.0),
            ReadEnd::Follow => read_end::At::Follow(true),
        };
        let isolation = match self.spec.isolation {
            Isolation::ReadUncommitted => v1::Isolation::ReadUncommitted,
            Isolation::ReadCommitted => v1::Isolation::ReadCommitted,
        };
        let partition = |partition: &PartitionId| v1::ReadPartition {
            partition: partition.0,
            start: None,
        };
        v1::ReadRequest {
            topic: self.topic.as_str().to_owned(),
            partitions: self.spec.partitions.iter().map(partition).collect(),
            start: Some(v1::ReadStart { at: Some(start) }),
            end: Some(v1::ReadEnd { at: Some(end) }),
            resume: self.resume_message(),
            isolation: isolation.into(),
            format: v1::RecordFormat::Batches.into(),
            max_response_bytes: 0,
            // `take` keeps the rest.
            changed_positions: true,
        }
    }

    fn resume_message(&self) -> Option<v1::ResumeToken> {
        let position = |(partition, offset): (&PartitionId, &Offset)| v1::PartitionOffset {
            partition: partition.0,
            offset: offset.0,
        };
        let positions: Vec<_> = self.position.0.iter().map(position).collect();
        (!positions.is_empty()).then_some(v1::ResumeToken { positions })
    }

    /// Takes a response in; its token tells of the partitions that moved.
    fn take(&mut self, response: v1::ReadResponse) -> Result<Chunk, Error> {
        let partition = PartitionId(response.partition);
        let token = response.resume.unwrap_or_default();
        let from = self.from(partition, Offset(response.log_start_offset));
        for position in &token.positions {
            self.position
                .0
                .insert(PartitionId(position.partition), Offset(position.offset));
        }
        let until = match self.position.0.get(&partition) {
            Some(until) => *until,
            None if response.batches.is_empty() => from,
            None => {
                return Err(self
                    .client
                    .protocol_error("a chunk's resume token lacks its partition"));
            }
        };
        if response.complete {
            self.completed = Completed::Yes;
        }
        let compacted_below = CompactedBelow {
            records: Offset(response.compacted_below),
            tombstones: Offset(response.tombstones_gone_below),
        };
        let aborted = response.aborted_transactions;
        let chunk = Chunk::new(
            partition,
            response.batches,
            Wanted {
                offsets: from..until,
                times: self.times.clone(),
            },
            aborted
                .into_iter()
                .map(|aborted| (aborted.producer_id, aborted.first_offset))
                .collect(),
        );
        Ok(chunk.told(compacted_below))
    }

    /// The first offset of the partition's next chunk that was asked for and not read yet.
    fn from(&self, partition: PartitionId, log_start: Offset) -> Offset {
        let asked = match (self.position.0.get(&partition), self.spec.start) {
            (Some(position), _) => *position,
            (None, ReadStart::Offset(offset)) => offset,
            (None, _) => Offset::ZERO,
        };
        asked.max(log_start)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("topic", &self.topic)
            .field("position", &self.position)
            .finish_non_exhaustive()
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
