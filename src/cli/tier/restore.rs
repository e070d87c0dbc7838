//! `siltstone tier restore`: a data directory made of an archive, without a server.
//!
//! Invariants
//! - Not a byte is written to the archive.
//! - A restore that had begun and ends with exit code 1 leaves a directory that no server takes for whole, unless it was the last sync
//!   that failed; the same command begins it anew.
//!
//! What is not here: the work (`crate::broker`).

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::super::CliError;
use super::super::output::{self, Align};
use super::bar;
use crate::broker::{
    Broker, Execution, Restore, RestoreProgress, RestoreReport, RestoredPlace, RestoredTopic, World,
};
use crate::config::Config;
use crate::env::{RealFs, SystemClock};

/// Arguments of `tier restore`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Afterwards `siltstone serve --data-dir DIR --tier-url URL` serves what is there, takes the archive over and goes on \
    behind the last record of each partition. What was not archived when the old server was lost is lost."
)]
pub(in crate::cli) struct RestoreArgs {
    /// The archive: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder
    #[arg(long, value_name = "URL")]
    from: String,
    /// Where the data goes: a directory that is empty, or not there yet
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Bring all segments to the local disk; without, only those of compacted topics, and the rest is read from the archive
    #[arg(long)]
    download: bool,
    /// Tell what would come back, and make nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object a topic, and one with the counts
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) async fn run(args: RestoreArgs) -> Result<ExitCode, CliError> {
    let mut config = Config::default().broker;
    config.data_dir = args.data_dir.clone();
    config.archive.url = Some(args.from.clone());
    config.archive.restore = if args.download {
        Restore::Download
    } else {
        Restore::Cold
    };
    let world = World {
        fs: Arc::new(RealFs::new()),
        clock: Arc::new(SystemClock),
    };
    let execution = match args.dry_run {
        true => Execution::ValidateOnly,
        false => Execution::Apply,
    };
    let bar = bar();
    let shown = bar.clone();
    let tell = move |progress: RestoreProgress| {
        shown.set_length(progress.of);
        shown.set_position(progress.segments);
        shown.set_message(format!("{} downloaded", output::size(progress.size_bytes)));
    };
    let restored = Broker::restore(config, world, execution, tell).await;
    bar.finish_and_clear();
    let report = restored.map_err(|error| CliError::Failed(error.to_string()))?;
    if args.json {
        let mut lines: Vec<Value> = report.topics.iter().map(topic_json).collect();
        lines.push(report_json(&report, &args));
        output::json_lines(&lines)?;
    } else {
        output::write_all(text(&report, &args).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Says where a topic is afterwards.
fn place(topic: &RestoredTopic) -> &'static str {
    match topic.place {
        Some(RestoredPlace::Archive) => "archive",
        Some(RestoredPlace::Local) => "local",
        None => "empty",
    }
}

fn topic_json(topic: &RestoredTopic) -> Value {
    json!({
        "topic": topic.name.as_str(),
        "id": topic.id.to_string(),
        "partitions": topic.partitions,
        "segments": topic.segments,
        "records": topic.records,
        "size_bytes": topic.size_bytes,
        "place": place(topic),
    })
}

fn report_json(report: &RestoreReport, args: &RestoreArgs) -> Value {
    json!({
        "from": args.from,
        "data_dir": args.data_dir.display().to_string(),
        "cluster_id": report.cluster_id,
        "epoch": report.epoch.0,
        "topics": report.topics.len(),
        "segments": report.segments(),
        "downloaded_segments": report.downloaded(),
        "dry_run": args.dry_run,
    })
}

fn text(report: &RestoreReport, args: &RestoreArgs) -> String {
    let columns = [
        ("TOPIC", Align::Left),
        ("PARTITIONS", Align::Right),
        ("SEGMENTS", Align::Right),
        ("RECORDS", Align::Right),
        ("SIZE", Align::Right),
        ("PLACE", Align::Left),
    ];
    let cells = |topic: &RestoredTopic| {
        vec![
            topic.name.to_string(),
            topic.partitions.to_string(),
            topic.segments.to_string(),
            topic.records.to_string(),
            output::size(topic.size_bytes),
            place(topic).to_owned(),
        ]
    };
    let mut text = output::table(&columns, &report.topics.iter().map(cells).collect::<Vec<_>>());
    let done = if args.dry_run {
        "would be restored"
    } else {
        "restored"
    };
    text.push_str(&format!(
        "{} topics with {} segments {done} into {}, {} of them to the local disk; cluster {}, epoch {}\n",
        report.topics.len(),
        report.segments(),
        args.data_dir.display(),
        report.downloaded(),
        report.cluster_id,
        report.epoch.0
    ));
    if report.topics.iter().any(|topic| topic.place.is_none()) {
        text.push_str("empty: the topic was not archived, and comes back without its records\n");
    }
    text
}
