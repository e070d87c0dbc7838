//! `siltstone tier status`: how far the archive of a server is, partition by partition.
//!
//! Exit 1 when a partition does not go on: a script that watches needs no more. With `--wait-s` it ends as soon as all that was there
//! when it began is archived, and exit 1 says, too, that this did not come in time.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::connect::ServerArgs;
use crate::cli::output::{self, Align};
use crate::cli::topic::archive_json;
use crate::cli::{CliError, time};
use crate::client::{Client, InternalTopics, PartitionArchive, PartitionDescription};
use crate::types::{Offset, PartitionId};

/// How long a wait pauses between two questions.
const ASK_AGAIN: Duration = Duration::from_millis(250);
const NOTHING: &str = "no partition is archived";

/// Flags of `siltstone tier status`.
#[derive(Args, Debug)]
pub(in crate::cli) struct StatusArgs {
    /// Only this topic; all without it, the internal ones too
    #[arg(value_name = "TOPIC")]
    topic: Option<String>,
    /// Wait until all that is written by now is archived, at most so long; exit 1 if it is not then
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    wait_s: Option<u32>,
    /// Print a line of JSON for each partition
    #[arg(long)]
    json: bool,
}

struct Row {
    topic: String,
    partition: PartitionDescription,
    archive: PartitionArchive,
}

/// Ends of logs that are to be archived, by topic and partition.
type Goals = BTreeMap<(String, PartitionId), Offset>;

pub(super) async fn run(args: StatusArgs, server: &ServerArgs) -> Result<ExitCode, CliError> {
    let client = server.connect().await?;
    let mut rows = rows(&client, args.topic.as_deref()).await?;
    let mut missing = None;
    if let Some(seconds) = args.wait_s {
        if rows.is_empty() {
            return Err(CliError::Failed(NOTHING.to_owned()));
        }
        let goals = goals(&rows);
        let wait = async {
            while !is_over(&rows, &goals) {
                tokio::time::sleep(ASK_AGAIN).await;
                rows = self::rows(&client, args.topic.as_deref()).await?;
            }
            Ok::<_, CliError>(())
        };
        // What was last heard is shown, whichever way it ends.
        if let Ok(ended) = tokio::time::timeout(Duration::from_secs(seconds.into()), wait).await {
            ended?;
        }
        missing = first_missing(&rows, &goals).map(|what| format!("{what} after {seconds} s"));
    }
    if args.json {
        output::json_lines(&rows.iter().map(line).collect::<Vec<_>>())?;
    } else {
        output::write_all(text(&rows).as_bytes())?;
    }
    match missing {
        _ if rows.iter().any(|row| row.archive.is_stuck) => Ok(ExitCode::FAILURE),
        Some(missing) => Err(CliError::Failed(missing)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Asks how the partitions of a topic stand, or of all topics; those that are not archived are left out.
async fn rows(client: &Client, topic: Option<&str>) -> Result<Vec<Row>, CliError> {
    let names = match topic {
        Some(topic) => vec![topic.to_owned()],
        None => {
            let topics = client.list_topics(InternalTopics::Included).await?;
            topics.into_iter().map(|topic| topic.name).collect()
        }
    };
    let mut rows = Vec::new();
    for name in names {
        let topic = client.describe_topic(&name).await?;
        rows.extend(topic.partitions.into_iter().filter_map(|partition| {
            let archive = partition.archive.clone()?;
            let topic = name.clone();
            Some(Row {
                topic,
                partition,
                archive,
            })
        }));
    }
    Ok(rows)
}

fn goals(rows: &[Row]) -> Goals {
    let ends = rows.iter().map(|row| {
        (
            (row.topic.clone(), row.partition.partition),
            row.partition.high_watermark,
        )
    });
    ends.collect()
}

/// Tells whether waiting longer is for nothing: all is there, or something does not go on by itself.
fn is_over(rows: &[Row], goals: &Goals) -> bool {
    rows.iter().any(|row| row.archive.is_stuck) || first_missing(rows, goals).is_none()
}

/// Names the first partition whose archive ends before its goal. One that is gone has none any more.
fn first_missing(rows: &[Row], goals: &Goals) -> Option<String> {
    rows.iter().find_map(|row| {
        let goal = *goals.get(&(row.topic.clone(), row.partition.partition))?;
        let end = row.archive.end.unwrap_or(Offset(0)).max(row.partition.log_start);
        (end < goal).then(|| {
            let partition = row.partition.partition;
            format!(
                "{}-{partition} is archived up to offset {end} of {goal}",
                row.topic
            )
        })
    })
}

fn line(row: &Row) -> Value {
    let mut line = json!({
        "topic": row.topic,
        "partition": row.partition.partition.0,
        "log_start_offset": row.partition.log_start.0,
        "local_start_offset": row.partition.local_start.0,
        "log_end_offset": row.partition.log_end.0,
    });
    if let (Value::Object(line), Value::Object(archive)) = (&mut line, archive_json(&row.archive)) {
        line.extend(archive);
    }
    line
}

fn text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return format!("{NOTHING}\n");
    }
    let columns = [
        ("PARTITION", Align::Left),
        ("START", Align::Right),
        ("LOCAL FROM", Align::Right),
        ("ARCHIVED TO", Align::Right),
        ("END", Align::Right),
        ("SEGMENTS", Align::Right),
        ("SIZE", Align::Right),
        ("BEHIND", Align::Right),
        ("SINCE", Align::Left),
    ];
    let size = |bytes: i64| output::size(u64::try_from(bytes).unwrap_or(0));
    let cells = |row: &Row| {
        let (partition, archive) = (&row.partition, &row.archive);
        vec![
            format!("{}-{}", row.topic, partition.partition),
            partition.log_start.to_string(),
            partition.local_start.to_string(),
            archive.end.map_or_else(|| "-".to_owned(), |end| end.to_string()),
            partition.log_end.to_string(),
            archive.segments.to_string(),
            size(archive.size_bytes),
            size(archive.lag_bytes),
            archive.lag_since.map_or_else(|| "-".to_owned(), time::format),
        ]
    };
    let mut text = output::table(&columns, &rows.iter().map(cells).collect::<Vec<_>>());
    for row in rows {
        let place = format!("{}-{}", row.topic, row.partition.partition);
        if let Some(sent) = row.archive.uploading_bytes {
            text.push_str(&format!(
                "\n{place}: an upload is under way, {} sent\n",
                size(sent)
            ));
        }
        if let Some(trouble) = &row.archive.trouble {
            let state = match (row.archive.is_stuck, row.archive.failures) {
                (true, _) => "does not go on".to_owned(),
                (false, 0) => "is archived, but cannot be read".to_owned(),
                (false, failures) => format!("failed {failures} times in a row, and is tried again"),
            };
            text.push_str(&format!("\n{place} {state}: {trouble}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(partition: i32, (log_start, end, high_watermark): (i64, Option<i64>, i64)) -> Row {
        let written = Offset(high_watermark);
        Row {
            topic: "flights".to_owned(),
            partition: PartitionDescription {
                partition: PartitionId(partition),
                log_start: Offset(log_start),
                last_stable: written,
                high_watermark: written,
                log_end: written,
                recovery_point: written,
                segments: 1,
                size_bytes: 0,
                least_timestamp: None,
                greatest_timestamp: None,
                write_refusal: None,
                local_start: Offset(log_start),
                archive: None,
            },
            archive: PartitionArchive {
                end: end.map(Offset),
                segments: 0,
                size_bytes: 0,
                lag_bytes: 0,
                lag_since: None,
                uploading_bytes: None,
                failures: 0,
                trouble: None,
                is_stuck: false,
            },
        }
    }

    #[test]
    fn a_wait_is_for_what_was_there_when_it_began_and_for_nothing_that_is_gone() {
        let goals = goals(&[row(0, (0, None, 10)), row(1, (0, None, 0)), row(2, (0, None, 7))]);
        let later = |first| [row(0, first), row(1, (0, None, 90)), row(2, (7, None, 7))];
        assert_eq!(first_missing(&later((0, Some(10), 500)), &goals), None);
        let told = first_missing(&later((4, None, 500)), &goals);
        assert_eq!(
            told.as_deref(),
            Some("flights-0 is archived up to offset 4 of 10")
        );
        assert!(!is_over(&later((0, Some(9), 500)), &goals));
        let mut stuck = later((0, Some(9), 500));
        stuck[1].archive.is_stuck = true;
        assert!(is_over(&stuck, &goals));
    }
}
