//! `siltstone tier status`: how far the archive of a server is, partition by partition.
//!
//! Exit 1 when a partition does not go on: a script that watches needs no more.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::connect::ServerArgs;
use crate::cli::output::{self, Align};
use crate::cli::topic::archive_json;
use crate::cli::{CliError, time};
use crate::client::{InternalTopics, PartitionArchive, PartitionDescription};

/// Flags of `siltstone tier status`.
#[derive(Args, Debug)]
pub(in crate::cli) struct StatusArgs {
    /// Only this topic; all without it, the internal ones too
    #[arg(value_name = "TOPIC")]
    topic: Option<String>,
    /// Print a line of JSON for each partition
    #[arg(long)]
    json: bool,
}

struct Row {
    topic: String,
    partition: PartitionDescription,
    archive: PartitionArchive,
}

pub(super) async fn run(args: StatusArgs, server: &ServerArgs) -> Result<ExitCode, CliError> {
    let client = server.connect().await?;
    let names = match args.topic {
        Some(topic) => vec![topic],
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
    if args.json {
        output::json_lines(&rows.iter().map(line).collect::<Vec<_>>())?;
    } else {
        output::write_all(text(&rows).as_bytes())?;
    }
    Ok(match rows.iter().any(|row| row.archive.is_stuck) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
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
        return "no partition is archived\n".to_owned();
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
            let state = match row.archive.is_stuck {
                true => "does not go on".to_owned(),
                false => format!(
                    "failed {} times in a row, and is tried again",
                    row.archive.failures
                ),
            };
            text.push_str(&format!("\n{place} {state}: {trouble}\n"));
        }
    }
    text
}
