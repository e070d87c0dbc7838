//! Topics without a socket: making, writing, reading, waiting and telling, for tests that want to look at what is there.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;

use crate::broker::{
    self, Acks, Execution, NewRecord, NewRecords, NewTopic, Progress, ReadEnd, ReadSpec, ReadStart,
};
use crate::record::{Codec, Record};
use crate::types::{Isolation, Offset, PartitionId, TopicName};

use super::{Broker, Error};

/// How long a wait for records lasts.
const WAIT: Duration = Duration::from_secs(10);
/// Size of a chunk to aim for, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// Makes a record of a key and a value.
///
/// ```
/// use siltstone::embedded::record;
///
/// assert_eq!(record("a", "1").value.as_deref(), Some(&b"1"[..]));
/// ```
pub fn record(key: impl Into<Bytes>, value: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        key: Some(key.into()),
        value: Some(value.into()),
        ..NewRecord::default()
    }
}

/// Makes a tombstone: a record that says that its key is gone.
///
/// ```
/// use siltstone::embedded::tombstone;
///
/// assert_eq!(tombstone("a").value, None);
/// ```
pub fn tombstone(key: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        key: Some(key.into()),
        ..NewRecord::default()
    }
}

/// A record as it lies in a topic.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), siltstone::embedded::Error> {
/// use siltstone::embedded::{Broker, record};
///
/// let broker = Broker::in_memory().await?;
/// broker.create_topic("orders", 1, &[]).await?;
/// broker.produce("orders", [record("a", "1")]).await?;
/// for stored in broker.wait_for("orders", 1).await? {
///     println!("{}@{} {:?}", stored.partition, stored.record.offset, stored.record.value);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// In which partition.
    pub partition: PartitionId,
    /// The record.
    pub record: Record,
}

impl Broker {
    /// Creates a topic; settings have Kafka's names.
    ///
    /// # Errors
    /// A name, a number or a setting that is wrong; a topic that exists.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> Result<(), Error> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let topic = NewTopic {
            name: name.to_owned(),
            partitions: Some(partitions),
            config: settings.iter().map(own).collect(),
        };
        self.run(async move |broker| Ok(broker.create_topic(topic, Execution::Apply).await?))
            .await?;
        Ok(())
    }

    /// Writes records as one request, each to the partition that its key decides, and waits until they are as durable as the topic
    /// says. Returns where each of them lies.
    ///
    /// # Errors
    /// Of the first partition that did not take its records: others may have taken theirs.
    pub async fn produce(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = NewRecord>,
    ) -> Result<Vec<(PartitionId, Offset)>, Error> {
        let records = NewRecords {
            topic: topic_name(topic)?,
            partition: None,
            records: records.into_iter().collect(),
            producer: None,
            codec: Codec::None,
        };
        if records.records.is_empty() {
            return Ok(Vec::new());
        }
        self.run(async move |broker| {
            let mut places = vec![(PartitionId(0), Offset(0)); records.records.len()];
            for placed in broker.append_records(records, Acks::All).await? {
                let appended = placed.outcome?.wait().await?;
                let all = 0..u32::try_from(places.len()).unwrap_or(u32::MAX);
                let indexes = match placed.indexes.as_slice() {
                    [] => all.collect(),
                    some => some.to_vec(),
                };
                for (offset, index) in (appended.base_offset.0..).zip(indexes) {
                    if let Some(place) = usize::try_from(index).ok().and_then(|at| places.get_mut(at)) {
                        *place = (placed.partition, Offset(offset));
                    }
                }
            }
            Ok(places)
        })
        .await
    }

    /// Reads what a topic holds, ascending by partition and offset.
    ///
    /// # Errors
    /// An unknown topic; a log that cannot be read.
    pub async fn read(&self, topic: &str) -> Result<Vec<Stored>, Error> {
        self.collect(topic, ReadEnd::Now, usize::MAX).await
    }

    /// Waits until a topic holds `count` records, all partitions together, and returns what it holds then.
    ///
    /// # Errors
    /// [`Error::TooFew`] after 10 seconds; as [`Broker::read`].
    pub async fn wait_for(&self, topic: &str, count: usize) -> Result<Vec<Stored>, Error> {
        let follow = async {
            self.collect(topic, ReadEnd::Follow, count).await?;
            // Not only what the follower happened to meet first.
            self.read(topic).await
        };
        let runtime = self.running()?.runtime.clone();
        // By the broker's own time: a test's may stand still.
        let deadline = runtime.spawn(async { tokio::time::sleep(WAIT).await });
        tokio::select! {
            records = follow => records,
            _ = deadline => Err(Error::TooFew {
                topic: topic.to_owned(),
                found: self.read(topic).await?.len(),
                wanted: count,
                waited: WAIT,
            }),
        }
    }

    /// Tells what a topic holds as text, for a test that compares it with a picture: a line for each record, without times.
    ///
    /// # Errors
    /// As [`Broker::read`].
    pub async fn dump(&self, topic: &str) -> Result<String, Error> {
        let mut text = String::new();
        let mut partition = None;
        for stored in self.read(topic).await? {
            if partition.replace(stored.partition) != Some(stored.partition) {
                let _ = writeln!(text, "{topic}-{}", stored.partition);
            }
            let record = &stored.record;
            let _ = write!(
                text,
                "  {}  {} = {}",
                record.offset,
                shown(&record.key),
                shown(&record.value)
            );
            for header in &record.headers {
                let _ = write!(
                    text,
                    "  [{} = {}]",
                    header.key.escape_ascii(),
                    shown(&header.value)
                );
            }
            text.push('\n');
        }
        Ok(text)
    }

    async fn collect(&self, topic: &str, end: ReadEnd, enough: usize) -> Result<Vec<Stored>, Error> {
        let spec = ReadSpec {
            topic: topic_name(topic)?,
            partitions: Vec::new(),
            start: ReadStart::Earliest,
            end,
            resume: Vec::new(),
            isolation: Isolation::ReadCommitted,
            chunk_bytes: CHUNK_BYTES,
        };
        let mut found = self
            .run(async move |broker| {
                let mut found = Vec::new();
                let mut reading = broker.open_read(spec).await?;
                while found.len() < enough
                    && let Some(step) = reading.next().await?
                {
                    let records = step.chunk.records()?.into_iter();
                    found.extend(records.map(|record| Stored {
                        partition: step.partition,
                        record,
                    }));
                    if step.progress == Progress::Complete {
                        break;
                    }
                }
                Ok(found)
            })
            .await?;
        found.sort_by_key(|stored| (stored.partition, stored.record.offset));
        Ok(found)
    }
}

fn topic_name(name: &str) -> Result<TopicName, Error> {
    let refused = |error| broker::Error::InvalidRequest {
        reason: format!("{name:?} is no topic name: {error}"),
    };
    Ok(TopicName::new(name).map_err(refused)?)
}

fn shown(bytes: &Option<Bytes>) -> String {
    match bytes {
        Some(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        None => "nothing".to_owned(),
    }
}
