//! `siltstone topic`: create, list, describe, alter, delete, add-partitions, adopt; `retention` has the rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::compact;
use super::connect::ServerArgs;
use super::output::{self, Align};
use super::retention::{self, HoldCommand};
use super::{CliError, time};
use crate::client::{
    Adopted, Client, ConfigChanges, ConfigSource, InternalTopics, PartitionArchive, PartitionDescription,
    TopicDescription, TopicSummary,
};
use crate::types::{PartitionId, Timestamp, TopicName};

/// Subcommands of `topic`.
#[derive(clap::Subcommand, Debug)]
pub(super) enum TopicCommand {
    /// Create a topic
    Create {
        /// Its name: a-z, A-Z, 0-9, '.', '_' and '-'
        name: String,
        /// How many partitions; without it, the server's topics.num_partitions
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// A setting under Kafka's name; may be given more than once
        #[arg(long = "config", value_name = "KEY=VALUE", value_parser = parse_setting)]
        config: Vec<(String, String)>,
        /// Print the topic as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List topics by name
    List {
        /// The store's own topics too
        #[arg(long)]
        internal: bool,
        /// Print one JSON object a topic
        #[arg(long)]
        json: bool,
    },
    /// Show a topic's partitions and settings
    Describe {
        /// Its name
        name: String,
        /// Print the topic as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Change settings: all of them or none
    Alter {
        /// The topic's name
        name: String,
        /// A setting to set; may be given more than once
        #[arg(long = "config", value_name = "KEY=VALUE", value_parser = parse_setting)]
        config: Vec<(String, String)>,
        /// A setting to give back to its default; may be given more than once
        #[arg(long, value_name = "KEY")]
        unset: Vec<String>,
        /// Print the topic as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Delete a topic and all its data
    Delete {
        /// Its name
        name: String,
    },
    /// Raise a topic's number of partitions; keys may then go elsewhere
    AddPartitions {
        /// Its name
        name: String,
        /// How many there shall be in all
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..))]
        total: i32,
        /// Print the topic as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show what retention would delete next, and what keeps the rest
    Retention {
        /// The topic's name
        name: String,
        /// Print one JSON object a partition
        #[arg(long)]
        json: bool,
    },
    /// Compact a topic now, and wait until it is done
    Compact {
        /// The topic's name
        name: String,
        /// Print one JSON object a partition
        #[arg(long)]
        json: bool,
    },
    /// Show what compaction does with a topic, when, and why not now
    Explain {
        /// The topic's name
        name: String,
        /// Print one JSON object a partition
        #[arg(long)]
        json: bool,
    },
    /// Keep ranges of a topic from every policy
    #[command(subcommand)]
    Hold(HoldCommand),
    /// Bring in a partition directory that a Kafka broker or another server wrote; the original stays as it is
    Adopt {
        /// The directory, on the server's machine
        directory: PathBuf,
        /// Which topic it becomes part of; made if need be
        #[arg(long)]
        topic: String,
        /// As which partition; it must not hold a record yet
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
        partition: i32,
        /// Print what was brought in as one JSON object
        #[arg(long)]
        json: bool,
    },
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("not KEY=VALUE".to_owned()),
    }
}

/// Refuses what no topic can be called: wrong usage, whatever server would be asked.
pub(super) fn check_name(name: &str) -> Result<(), CliError> {
    let checked = TopicName::new(name).map(drop);
    checked.map_err(|error| CliError::Usage(format!("topic name {name:?}: {error}")))
}

impl TopicCommand {
    /// Returns the topic that it is about; a list is about none.
    fn topic(&self) -> Option<&str> {
        match self {
            Self::List { .. } => None,
            Self::Create { name, .. }
            | Self::Describe { name, .. }
            | Self::Alter { name, .. }
            | Self::Delete { name }
            | Self::AddPartitions { name, .. }
            | Self::Retention { name, .. }
            | Self::Compact { name, .. }
            | Self::Explain { name, .. } => Some(name),
            Self::Hold(hold) => Some(hold.topic()),
            Self::Adopt { topic, .. } => Some(topic),
        }
    }
}

/// Runs the command.
pub(super) async fn run(server: &ServerArgs, command: TopicCommand) -> Result<ExitCode, CliError> {
    let command = checked(command)?;
    let client = server.connect().await?;
    match command {
        TopicCommand::Create {
            name,
            partitions,
            config,
            json,
        } => {
            let config = settings(config)?;
            let topic = client.create_topic(&name, partitions, &config).await?;
            let count = topic.partitions.len();
            print(json, &topic, || {
                format!("topic {name} created with {}\n", counted(count, "partition"))
            })
        }
        TopicCommand::List { internal, json } => list(&client, internal, json).await,
        TopicCommand::Describe { name, json } => {
            let topic = client.describe_topic(&name).await?;
            print(json, &topic, || description_text(&topic))
        }
        TopicCommand::Alter {
            name,
            config,
            unset,
            json,
        } => {
            let changes = ConfigChanges {
                set: settings(config)?,
                unset,
            };
            let count = changes.set.len() + changes.unset.len();
            let topic = client.alter_topic(&name, changes).await?;
            print(json, &topic, || {
                format!("topic {name}: {} changed\n", counted(count, "setting"))
            })
        }
        TopicCommand::Delete { name } => {
            client.delete_topic(&name).await?;
            output::write_all(format!("topic {name} deleted\n").as_bytes())
        }
        TopicCommand::AddPartitions { name, total, json } => {
            let topic = client.add_partitions(&name, total).await?;
            let count = topic.partitions.len();
            print(json, &topic, || {
                format!("topic {name} has {}\n", counted(count, "partition"))
            })
        }
        TopicCommand::Retention { name, json } => retention::preview(&client, &name, json).await,
        TopicCommand::Compact { name, json } => compact::run(&client, &name, json).await,
        TopicCommand::Explain { name, json } => compact::explain(&client, &name, json).await,
        TopicCommand::Hold(hold) => hold.run(&client).await,
        TopicCommand::Adopt {
            directory,
            topic,
            partition,
            json,
        } => {
            let adopting = Adopting {
                directory,
                topic,
                partition: PartitionId(partition),
            };
            adopting.run(&client, json).await
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses what can be told wrong without a server.
fn checked(command: TopicCommand) -> Result<TopicCommand, CliError> {
    if let Some(name) = command.topic() {
        check_name(name)?;
    }
    match &command {
        TopicCommand::Alter { config, unset, .. } if config.is_empty() && unset.is_empty() => Err(
            CliError::Usage("nothing to alter: name a setting with --config or --unset".to_owned()),
        ),
        TopicCommand::Alter { config, unset, .. } => {
            match config.iter().find(|(key, _)| unset.contains(key)) {
                Some((key, _)) => Err(CliError::Usage(format!("{key} is both set and unset"))),
                None => Ok(command),
            }
        }
        TopicCommand::Hold(hold) => hold.check().map(|()| command),
        _ => Ok(command),
    }
}

fn settings(pairs: Vec<(String, String)>) -> Result<BTreeMap<String, String>, CliError> {
    let mut settings = BTreeMap::new();
    for (key, value) in pairs {
        if settings.insert(key.clone(), value).is_some() {
            return Err(CliError::Usage(format!("{key} is given twice")));
        }
    }
    Ok(settings)
}

fn print(json: bool, topic: &TopicDescription, text: impl FnOnce() -> String) -> Result<(), CliError> {
    if json {
        output::json_lines(&[description_json(topic)])
    } else {
        output::write_all(text().as_bytes())
    }
}

async fn list(client: &Client, internal: bool, json: bool) -> Result<(), CliError> {
    let internal = if internal {
        InternalTopics::Included
    } else {
        InternalTopics::Excluded
    };
    let topics = client.list_topics(internal).await?;
    if json {
        let line = |topic: &TopicSummary| {
            json!({
                "topic": topic.name,
                "topic_id": topic.id.to_string(),
                "partitions": topic.partitions,
                "internal": topic.internal,
            })
        };
        return output::json_lines(&topics.iter().map(line).collect::<Vec<_>>());
    }
    let columns = [("TOPIC", Align::Left), ("PARTITIONS", Align::Right)];
    let row = |topic: &TopicSummary| vec![topic.name.clone(), topic.partitions.to_string()];
    output::write_all(output::table(&columns, &topics.iter().map(row).collect::<Vec<_>>()).as_bytes())
}

struct Adopting {
    directory: PathBuf,
    topic: String,
    partition: PartitionId,
}

impl Adopting {
    async fn run(&self, client: &Client, json: bool) -> Result<(), CliError> {
        let directory = std::path::absolute(&self.directory)
            .map_err(|error| CliError::Failed(format!("{}: {error}", self.directory.display())))?;
        let text = directory.to_str().ok_or_else(|| {
            CliError::Failed(format!(
                "{} is not UTF-8 and cannot be named to the server",
                directory.display()
            ))
        })?;
        let adopted = client.adopt_partition(text, &self.topic, self.partition).await?;
        if json {
            output::json_lines(&[self.json(&adopted)])
        } else {
            output::write_all(self.text(&directory, &adopted).as_bytes())
        }
    }

    fn json(&self, adopted: &Adopted) -> Value {
        json!({
            "topic": self.topic,
            "partition": self.partition.0,
            "log_start_offset": adopted.log_start.0,
            "log_end_offset": adopted.log_end.0,
            "segments": adopted.segments,
            "batches": adopted.batches,
            "records": adopted.records,
            "size_bytes": adopted.size_bytes,
            "dropped_tail_bytes": adopted.dropped_tail_bytes,
            "missing_offsets": adopted.missing_offsets,
        })
    }

    fn text(&self, directory: &Path, adopted: &Adopted) -> String {
        let dropped = match adopted.dropped_tail_bytes {
            0 => String::new(),
            bytes => format!("; {bytes} bytes at its end were no sound batch and were left out"),
        };
        let missing = match adopted.missing_offsets {
            0 => String::new(),
            count => {
                format!("; {count} offsets are in no batch: compaction took them, or a segment is missing")
            }
        };
        format!(
            "{} adopted as {}-{}: {} records in {} batches and {} segments, offsets {} to {}{missing}{dropped}\n",
            directory.display(),
            self.topic,
            self.partition,
            adopted.records,
            adopted.batches,
            adopted.segments,
            adopted.log_start,
            adopted.log_end,
        )
    }
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}

fn source(source: ConfigSource) -> &'static str {
    match source {
        ConfigSource::Default => "default",
        ConfigSource::Server => "server",
        ConfigSource::Topic => "topic",
    }
}

/// How a partition stands in the archive, as a script reads it.
pub(super) fn archive_json(archive: &PartitionArchive) -> Value {
    json!({
        "end_offset": archive.end.map(|end| end.0),
        "segments": archive.segments,
        "size_bytes": archive.size_bytes,
        "lag_bytes": archive.lag_bytes,
        "lag_since_ms": archive.lag_since.map(|since| since.0),
        "uploading_bytes": archive.uploading_bytes,
        "failures": archive.failures,
        "trouble": archive.trouble,
        "stuck": archive.is_stuck,
    })
}

fn description_json(topic: &TopicDescription) -> Value {
    let partition = |partition: &PartitionDescription| {
        json!({
            "partition": partition.partition.0,
            "log_start_offset": partition.log_start.0,
            "last_stable_offset": partition.last_stable.0,
            "high_watermark": partition.high_watermark.0,
            "log_end_offset": partition.log_end.0,
            "recovery_point": partition.recovery_point.0,
            "segments": partition.segments,
            "size_bytes": partition.size_bytes,
            "least_timestamp_ms": partition.least_timestamp.map(|time| time.0),
            "greatest_timestamp_ms": partition.greatest_timestamp.map(|time| time.0),
            "write_refusal": partition.write_refusal,
            "local_start_offset": partition.local_start.0,
            "archive": partition.archive.as_ref().map(archive_json),
        })
    };
    let config = topic.config.iter().map(|entry| {
        (
            entry.name.clone(),
            json!({ "value": entry.value, "source": source(entry.source) }),
        )
    });
    json!({
        "topic": topic.name,
        "topic_id": topic.id.to_string(),
        "internal": topic.internal,
        "partitions": topic.partitions.iter().map(partition).collect::<Vec<_>>(),
        "config": config.collect::<serde_json::Map<_, _>>(),
    })
}

fn description_text(topic: &TopicDescription) -> String {
    let shown = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), time::format);
    let columns = [
        ("PARTITION", Align::Right),
        ("START", Align::Right),
        ("END", Align::Right),
        ("SEGMENTS", Align::Right),
        ("SIZE", Align::Right),
        ("EARLIEST TIME", Align::Left),
        ("LATEST TIME", Align::Left),
    ];
    let row = |partition: &PartitionDescription| {
        vec![
            partition.partition.to_string(),
            partition.log_start.to_string(),
            partition.high_watermark.to_string(),
            partition.segments.to_string(),
            output::size(u64::try_from(partition.size_bytes).unwrap_or(0)),
            shown(partition.least_timestamp),
            shown(partition.greatest_timestamp),
        ]
    };
    let mut text = format!("topic {}  id {}\n\n", topic.name, topic.id);
    text.push_str(&output::table(
        &columns,
        &topic.partitions.iter().map(row).collect::<Vec<_>>(),
    ));
    for partition in &topic.partitions {
        if let Some(refusal) = &partition.write_refusal {
            text.push_str(&format!(
                "\npartition {} refuses writes: {refusal}\n",
                partition.partition
            ));
        }
    }
    for partition in topic
        .partitions
        .iter()
        .filter(|one| one.log_start < one.local_start)
    {
        text.push_str(&format!(
            "\npartition {}: offsets {} to {} are only in the archive\n",
            partition.partition, partition.log_start, partition.local_start
        ));
    }
    let columns = [
        ("SETTING", Align::Left),
        ("VALUE", Align::Left),
        ("FROM", Align::Left),
    ];
    let rows: Vec<_> = topic
        .config
        .iter()
        .map(|entry| {
            vec![
                entry.name.clone(),
                entry.value.clone(),
                source(entry.source).to_owned(),
            ]
        })
        .collect();
    text.push('\n');
    text.push_str(&output::table(&columns, &rows));
    text
}

#[cfg(test)]
#[path = "topic_tests.rs"]
mod tests;
