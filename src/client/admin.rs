//! Topics and their settings.
//!
//! The values are the client's own: numbers have their types, what may be missing is an `Option`.

use std::collections::BTreeMap;

use super::{Client, Error};
use crate::proto::v1;
use crate::types::{Offset, PartitionId, Timestamp, TopicId, TopicName};

/// A topic in a list.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::InternalTopics;
///
/// for topic in client.list_topics(InternalTopics::Included).await? {
///     println!("{} {} {}", topic.name, topic.partitions, if topic.internal { "internal" } else { "" });
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicSummary {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: i32,
    /// True for the store's own.
    pub internal: bool,
}

/// All that is known of a topic.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// let topic = client.describe_topic("flights").await?;
/// assert_eq!(topic.setting("cleanup.policy"), Some("delete"));
/// println!("{} partitions", topic.partitions.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicDescription {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: TopicId,
    /// True for the store's own.
    pub internal: bool,
    /// Ascending by number.
    pub partitions: Vec<PartitionDescription>,
    /// Every setting, ascending by name.
    pub config: Vec<ConfigEntry>,
}

impl TopicDescription {
    /// Returns the value of a setting.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.config
            .iter()
            .find(|entry| entry.name == name)
            .map(|entry| entry.value.as_str())
    }
}

/// One partition's ends and sizes.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// for partition in client.describe_topic("flights").await?.partitions {
///     println!("{}: offsets {} to {}", partition.partition, partition.log_start, partition.high_watermark);
///     if let Some(why) = partition.write_refusal {
///         println!("it refuses writes: {why}");
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionDescription {
    /// Its number.
    pub partition: PartitionId,
    /// The first record that can be read.
    pub log_start: Offset,
    /// Committed readers see what lies before.
    pub last_stable: Offset,
    /// Readers see what lies before.
    pub high_watermark: Offset,
    /// Where the next record goes.
    pub log_end: Offset,
    /// Everything before is on disk.
    pub recovery_point: Offset,
    /// How many segments there are.
    pub segments: i64,
    /// Bytes of its record batches.
    pub size_bytes: i64,
    /// The least timestamp of its records, where known.
    pub least_timestamp: Option<Timestamp>,
    /// The greatest timestamp of its records, where known.
    pub greatest_timestamp: Option<Timestamp>,
    /// While it refuses writes: why.
    pub write_refusal: Option<String>,
    /// The first offset on the server's own disk; what lies before it is only in the archive.
    pub local_start: Offset,
    /// How it stands in the archive, if it has to do with one.
    pub archive: Option<PartitionArchive>,
}

/// How a partition stands in the archive.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// for partition in client.describe_topic("flights").await?.partitions {
///     if let Some(archive) = partition.archive {
///         println!("{} segments there, {} bytes behind", archive.segments, archive.lag_bytes);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionArchive {
    /// The offset after the last that is there; `None` when nothing is.
    pub end: Option<Offset>,
    /// Segments there.
    pub segments: i64,
    /// Bytes of their batches.
    pub size_bytes: i64,
    /// Bytes that are not there yet.
    pub lag_bytes: i64,
    /// When the oldest of them was appended.
    pub lag_since: Option<Timestamp>,
    /// Bytes that the upload under way has sent, while there is one.
    pub uploading_bytes: Option<i64>,
    /// Tries that failed one after the other.
    pub failures: i64,
    /// What the last of them said, or what keeps the partition from going on.
    pub trouble: Option<String>,
    /// It does not go on until a person has looked.
    pub is_stuck: bool,
}

/// One setting of a topic.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// for entry in client.describe_topic("flights").await?.config {
///     println!("{} = {}  # {}", entry.name, entry.value, entry.doc);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigEntry {
    /// Kafka's name.
    pub name: String,
    /// Its value as text.
    pub value: String,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// What it does, in one line.
    pub doc: String,
}

/// Where a setting's value comes from.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::ConfigSource;
///
/// let topic = client.describe_topic("flights").await?;
/// let own = topic.config.iter().filter(|entry| entry.source == ConfigSource::Topic);
/// println!("{} settings of its own", own.count());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigSource {
    /// Nobody set it.
    Default,
    /// The server's configuration.
    Server,
    /// The topic itself.
    Topic,
}

/// What to change of a topic's settings; all of it or nothing.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::ConfigChanges;
///
/// let changes = ConfigChanges {
///     set: [("retention.ms".to_owned(), "86400000".to_owned())].into(),
///     unset: vec!["segment.ms".to_owned()],
/// };
/// client.alter_topic("flights", changes).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfigChanges {
    /// Settings to set.
    pub set: BTreeMap<String, String>,
    /// Settings to give back to their default.
    pub unset: Vec<String>,
}

/// What an adopted directory held.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::types::PartitionId;
///
/// let adopted = client.adopt_partition("/kafka/flights-0", "flights", PartitionId(0)).await?;
/// println!("{} records, {} bytes at the end left out", adopted.records, adopted.dropped_tail_bytes);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adopted {
    /// The first offset.
    pub log_start: Offset,
    /// The offset after the last.
    pub log_end: Offset,
    /// How many segments.
    pub segments: i64,
    /// How many batches.
    pub batches: i64,
    /// How many records.
    pub records: i64,
    /// Bytes of the batches.
    pub size_bytes: i64,
    /// Bytes at the end that were no whole, sound batch, and were left out.
    pub dropped_tail_bytes: i64,
    /// Offsets from the first on that no batch spans: compaction took them, or a segment is missing.
    pub missing_offsets: i64,
}

impl Client {
    /// Creates a topic; `partitions` absent means the server's default. Durable on return.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for a name, number or setting that is not allowed.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: Option<i32>,
        config: &BTreeMap<String, String>,
    ) -> Result<TopicDescription, Error> {
        let request = v1::CreateTopicRequest {
            name: name.to_owned(),
            partitions,
            config: config
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            validate_only: false,
        };
        let response = self.answer(self.admin().create_topic(request)).await?;
        self.description(response.topic).await
    }

    /// Lists topics ascending by name; `internal` says whether the store's own are among them.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn list_topics(&self, internal: InternalTopics) -> Result<Vec<TopicSummary>, Error> {
        let mut request = v1::ListTopicsRequest {
            include_internal: internal == InternalTopics::Included,
            first_name: String::new(),
        };
        let mut topics = Vec::new();
        loop {
            let page = self.answer(self.admin().list_topics(request.clone())).await?;
            for topic in page.topics {
                topics.push(TopicSummary {
                    id: self.topic_id(&topic.topic_id)?,
                    name: topic.name,
                    partitions: topic.partitions,
                    internal: topic.internal,
                });
            }
            match page.next_name {
                None => return Ok(topics),
                Some(next) => request.first_name = self.further(&request.first_name, next)?,
            }
        }
    }

    /// Returns where the next page begins; every page must get on.
    pub(super) fn further<T: PartialOrd>(&self, from: &T, next: T) -> Result<T, Error> {
        match next > *from {
            true => Ok(next),
            false => Err(self.protocol_error("a page is followed by one that does not go on")),
        }
    }

    /// Describes a topic.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, Error> {
        let topic = self.page(name, Page::default()).await?;
        self.description(topic).await
    }

    /// Describes a topic that is about to be written: a missing one is made if the server makes topics by their names.
    pub(super) async fn topic_to_write(&self, name: &TopicName) -> Result<TopicDescription, Error> {
        let page = Page {
            for_writing: true,
            ..Page::default()
        };
        let topic = self.page(name.as_str(), page).await?;
        self.description(topic).await
    }

    /// Changes settings: all of `changes` or none.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a setting that is unknown or out of its range.
    pub async fn alter_topic(&self, name: &str, changes: ConfigChanges) -> Result<TopicDescription, Error> {
        let request = v1::AlterTopicRequest {
            name: name.to_owned(),
            set: changes.set.into_iter().collect(),
            unset: changes.unset,
            validate_only: false,
        };
        let response = self.answer(self.admin().alter_topic(request)).await?;
        self.description(response.topic).await
    }

    /// Raises the number of partitions to `total`.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` when there are more already.
    pub async fn add_partitions(&self, name: &str, total: i32) -> Result<TopicDescription, Error> {
        let request = v1::AddPartitionsRequest {
            name: name.to_owned(),
            total,
        };
        let response = self.answer(self.admin().add_partitions(request)).await?;
        self.description(response.topic).await
    }

    /// Deletes a topic and its data.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for the store's own.
    pub async fn delete_topic(&self, name: &str) -> Result<(), Error> {
        let request = v1::DeleteTopicRequest {
            name: name.to_owned(),
        };
        self.answer(self.admin().delete_topic(request)).await?;
        Ok(())
    }

    /// Verifies a partition directory on the server's machine and brings it in as `partition` of `topic`, which must
    /// hold no record yet. The original is not altered. Waits as long as it takes.
    ///
    /// # Errors
    /// `NotFound` for the directory; `FailedPrecondition` when the partition has records; `DataLoss` for damage.
    pub async fn adopt_partition(
        &self,
        directory: &str,
        topic: &str,
        partition: PartitionId,
    ) -> Result<Adopted, Error> {
        let request = v1::AdoptPartitionRequest {
            directory: directory.to_owned(),
            topic: topic.to_owned(),
            partition: partition.0,
        };
        // No deadline: verifying reads every byte; keep-alive notices a server that is gone.
        let response = self
            .admin()
            .adopt_partition(request)
            .await
            .map_err(|status| self.error(&status))?;
        let adopted = response.into_inner();
        Ok(Adopted {
            log_start: Offset(adopted.log_start_offset),
            log_end: Offset(adopted.log_end_offset),
            segments: adopted.segments,
            batches: adopted.batches,
            records: adopted.records,
            size_bytes: adopted.size_bytes,
            dropped_tail_bytes: adopted.dropped_tail_bytes,
            missing_offsets: adopted.missing_offsets,
        })
    }

    fn topic_id(&self, bytes: &[u8]) -> Result<TopicId, Error> {
        let id = bytes
            .try_into()
            .map_err(|_| self.protocol_error("a topic id is not 16 bytes long"))?;
        Ok(TopicId(id))
    }

    async fn page(&self, name: &str, page: Page) -> Result<Option<v1::TopicDescription>, Error> {
        let request = v1::DescribeTopicRequest {
            name: name.to_owned(),
            for_writing: page.for_writing,
            first_partition: page.first_partition,
        };
        Ok(self.answer(self.admin().describe_topic(request)).await?.topic)
    }

    /// Takes in a description, with the partitions that did not fit the response.
    async fn description(&self, topic: Option<v1::TopicDescription>) -> Result<TopicDescription, Error> {
        let missing = || self.protocol_error("a topic's description is missing");
        let mut topic = topic.ok_or_else(missing)?;
        while let Some(first_partition) = topic.next_partition {
            let page = Page {
                first_partition,
                ..Page::default()
            };
            let more = self.page(&topic.name, page).await?.ok_or_else(missing)?;
            if more.partitions.is_empty() {
                return Err(self.protocol_error("a topic's description goes on with nothing"));
            }
            topic.partitions.extend(more.partitions);
            topic.next_partition = more.next_partition;
        }
        Ok(TopicDescription {
            id: self.topic_id(&topic.topic_id)?,
            name: topic.name,
            internal: topic.internal,
            partitions: topic.partitions.into_iter().map(partition_description).collect(),
            config: topic.config.into_iter().map(config_entry).collect(),
        })
    }
}

/// A part of a description.
#[derive(Clone, Copy, Default)]
struct Page {
    for_writing: bool,
    first_partition: i32,
}

/// Whether the store's own topics are meant too.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::InternalTopics;
///
/// let all = client.list_topics(InternalTopics::Included).await?.len();
/// println!("{} internal", all - client.list_topics(InternalTopics::Excluded).await?.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InternalTopics {
    /// They are.
    Included,
    /// They are not.
    Excluded,
}

fn partition_description(partition: v1::PartitionDescription) -> PartitionDescription {
    PartitionDescription {
        partition: PartitionId(partition.partition),
        log_start: Offset(partition.log_start_offset),
        last_stable: Offset(partition.last_stable_offset),
        high_watermark: Offset(partition.high_watermark),
        log_end: Offset(partition.log_end_offset),
        recovery_point: Offset(partition.recovery_point),
        segments: partition.segments,
        size_bytes: partition.size_bytes,
        least_timestamp: partition.least_timestamp_ms.map(Timestamp),
        greatest_timestamp: partition.greatest_timestamp_ms.map(Timestamp),
        write_refusal: Some(partition.write_refusal).filter(|text| !text.is_empty()),
        local_start: Offset(partition.local_start_offset),
        archive: partition.archive.map(partition_archive),
    }
}

fn partition_archive(archive: v1::PartitionArchive) -> PartitionArchive {
    PartitionArchive {
        end: archive.end_offset.map(Offset),
        segments: archive.segments,
        size_bytes: archive.size_bytes,
        lag_bytes: archive.lag_bytes,
        lag_since: archive.lag_since_ms.map(Timestamp),
        uploading_bytes: archive.uploading_bytes,
        failures: archive.failures,
        trouble: Some(archive.trouble).filter(|text| !text.is_empty()),
        is_stuck: archive.stuck,
    }
}

fn config_entry(entry: v1::ConfigEntry) -> ConfigEntry {
    let source = match entry.source() {
        v1::ConfigSource::Default => ConfigSource::Default,
        v1::ConfigSource::Server => ConfigSource::Server,
        v1::ConfigSource::Topic => ConfigSource::Topic,
    };
    ConfigEntry {
        name: entry.name,
        value: entry.value,
        source,
        doc: entry.doc,
    }
}

/// Checks a topic's name before it is sent.
pub(super) fn topic_name(name: &str) -> Result<TopicName, Error> {
    TopicName::new(name).map_err(|error| Error::TopicName {
        name: name.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::Scripted;

    /// Lists the topics of a server that has these pages: the name that asks for one, its topics, the next.
    async fn listed(pages: &[(&str, &[&str], Option<&str>)]) -> Result<Vec<String>, Error> {
        let server = Scripted::start(1, []).await;
        for (first, names, next) in pages {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let page = (names, next.map(str::to_owned));
            server.state.lock().topics.insert((*first).to_owned(), page);
        }
        let client = Client::connect(&server.address.to_string()).await?;
        let topics = client.list_topics(InternalTopics::Excluded).await?;
        Ok(topics.into_iter().map(|topic| topic.name).collect())
    }

    #[tokio::test]
    async fn a_list_is_followed_from_page_to_page_to_its_end() {
        let pages: [(&str, &[&str], _); 3] = [
            ("", &["a", "b"], Some("c")),
            ("c", &["c"], Some("d")),
            ("d", &["d", "e"], None),
        ];
        assert_eq!(listed(&pages).await.expect("it ends"), ["a", "b", "c", "d", "e"]);
    }

    #[tokio::test]
    async fn a_page_that_does_not_go_on_is_an_error_and_no_loop() {
        let error = listed(&[("", &["a"], Some(""))])
            .await
            .expect_err("it goes in circles");
        assert!(error.to_string().contains("does not go on"), "{error}");
    }
}
