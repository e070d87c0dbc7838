//! `siltstone tier verify`: is everything there, and as it was put there?
//!
//! Invariants
//! - Each finding is one line on standard output, with the object named, as soon as it is known; the counts and the root hash come last.
//! - Exit code 1 on any finding.
//!
//! What is not here: the checks (`crate::tier`).

use std::process::ExitCode;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::super::{CliError, output};
use super::bar;
use crate::env::{Clock as _, SystemClock};
use crate::tier::{CallLimits, Counts, Depth, Finding, Report, TierStore, Told, VerifyOptions, verify};

/// Arguments of `tier verify`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Reads the object store alone and writes nothing. Objects that no manifest names are told as orphans once they are \
    older than --in-flight-s, or 24 times that for those of the newest server; with 0, when no server runs, all of them are."
)]
pub(in crate::cli) struct VerifyArgs {
    /// The archive: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder
    #[arg(long, value_name = "URL")]
    from: String,
    /// Read every byte: checksums of chunks and batches, order of offsets, indexes against the log
    #[arg(long)]
    deep: bool,
    /// Print one JSON object a finding, and one with the counts
    #[arg(long)]
    json: bool,
    /// So many seconds an upload may be on its way
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u32))]
    in_flight_s: u32,
}

/// Runs the command.
pub(super) async fn run(args: VerifyArgs) -> Result<ExitCode, CliError> {
    let failed = |error: crate::tier::TierError| CliError::Failed(error.to_string());
    let store = TierStore::open_to_read(&args.from, CallLimits::default()).map_err(failed)?;
    let options = VerifyOptions {
        depth: if args.deep { Depth::Bytes } else { Depth::Footers },
        now: SystemClock.now(),
        in_flight_ms: i64::from(args.in_flight_s) * 1000,
    };
    let bar = bar();
    let written = Mutex::new(Ok(()));
    let tell = |told: Told<'_>| match told {
        Told::Finding(finding) => {
            let line = if args.json {
                finding_json(finding).to_string()
            } else {
                format!("{}: {}: {}", finding.kind.name(), finding.key, finding.reason)
            };
            let mut written = written.lock();
            if written.is_ok() {
                *written = bar.suspend(|| output::write_all(format!("{line}\n").as_bytes()));
            }
        }
        Told::Progress(counts) => {
            bar.set_length(counts.named_segments);
            bar.set_position(counts.segments);
            bar.set_message(format!("{} read", output::size(counts.read_bytes)));
        }
    };
    let report = verify(&store, options, &tell).await.map_err(failed)?;
    bar.finish_and_clear();
    written.into_inner()?;
    if args.json {
        output::json_lines(&[report_json(&report)])?;
    } else {
        output::write_all(report_text(&report).as_bytes())?;
    }
    match report.counts.findings {
        0 => Ok(ExitCode::SUCCESS),
        1 => Err(CliError::Failed(format!("{store}: 1 thing is wrong"))),
        count => Err(CliError::Failed(format!("{store}: {count} things are wrong"))),
    }
}

fn finding_json(finding: &Finding) -> Value {
    json!({ "finding": finding.kind.name(), "object": finding.key, "reason": finding.reason })
}

fn report_json(report: &Report) -> Value {
    let Counts {
        topics,
        partitions,
        named_segments: _,
        segments,
        records,
        object_bytes,
        read_bytes,
        waiting,
        in_flight,
        probes,
        findings,
    } = report.counts;
    json!({
        "topics": topics,
        "partitions": partitions,
        "segments": segments,
        "records": records,
        "object_bytes": object_bytes,
        "read_bytes": read_bytes,
        "waiting_objects": waiting,
        "in_flight_objects": in_flight,
        "probe_objects": probes,
        "findings": findings,
        "root": report.root.map(|root| root.to_string()),
    })
}

fn report_text(report: &Report) -> String {
    let counts = report.counts;
    let root = match report.root {
        Some(root) => root.to_string(),
        None => "none, for not all of the archive could be read".to_owned(),
    };
    format!(
        "{} topics, {} partitions, {} segments, {} records, {}; {} read\n\
         {} objects wait to be swept, {} are on their way, {} are left of probes\nroot {root}\n",
        counts.topics,
        counts.partitions,
        counts.segments,
        counts.records,
        output::size(counts.object_bytes),
        output::size(counts.read_bytes),
        counts.waiting,
        counts.in_flight,
        counts.probes,
    )
}
