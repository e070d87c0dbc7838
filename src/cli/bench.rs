//! `siltstone bench`: figures beside the machine's own limits.
//!
//! What is not here: how anything is measured (`crate::bench`).

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::CliError;
use super::bench_run::{self, BenchCommand};
use super::connect::ServerArgs;
use super::interrupts::Interrupts;
use super::output::{self, Align};
use crate::bench::{self, BenchError, Keys, Measure, Options, Scale, Workload};
use crate::record::Codec;

/// How often an interrupted benchmark is cleaned up after, and how long its end is waited for each time.
const CLEAN_UPS: usize = 5;
const CLEAN_UP_WAIT: Duration = Duration::from_millis(500);

/// Arguments of `bench`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Each figure stands beside a limit that the machine itself sets, measured in the same run: the ratio is what \
    compares. Without --server, each runs its own server in a temporary directory (TMPDIR says where); produce, read and \
    latency can be pointed at another."
)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    /// What to measure
    #[arg(value_enum, required = true)]
    subject: Option<Subject>,
    #[command(flatten)]
    own: SubjectArgs,
}

/// How a subject is measured.
#[derive(clap::Args, Debug)]
struct SubjectArgs {
    /// Print one JSON object a figure
    #[arg(long)]
    json: bool,
    /// Take a few seconds, for figures that only show that it runs
    #[arg(long)]
    quick: bool,
    /// The object store that tier measures, below a prefix of its own, which stays [default: a folder]
    #[cfg(feature = "tier")]
    #[arg(long, value_name = "URL")]
    archive: Option<String>,
    #[command(flatten)]
    workload: WorkloadArgs,
}

/// What `compact` cleans instead of its own workloads, as soon as one of these is given.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "A workload for compact, instead of its own")]
struct WorkloadArgs {
    /// How often each key is written [default: uniform]
    #[arg(long, value_enum)]
    keys: Option<KeysArg>,
    /// How many keys there are [default: 250000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    key_count: Option<u32>,
    /// How many records are written [default: 500000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    records: Option<u32>,
    /// Bytes of a value; half of it compresses [default: 1024]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    value_bytes: Option<u32>,
    /// Of a thousand records so many are tombstones [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1000))]
    tombstones: Option<u32>,
    /// Of a hundred records so many are not clean yet [default: 100]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    dirty: Option<u32>,
    /// How batches are compressed [default: none]
    #[arg(long, value_enum)]
    codec: Option<CodecArg>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum KeysArg {
    /// All as often
    Uniform,
    /// The second half as often as the first, the third a third as often
    Zipf,
    /// In order, each once before the first comes again
    InTurn,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum CodecArg {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl WorkloadArgs {
    /// Returns the workload, if any part of one is given.
    fn given(&self) -> Option<Workload> {
        let default = Workload::default();
        let workload = Workload {
            keys: self.keys.map_or(default.keys, |keys| match keys {
                KeysArg::Uniform => Keys::Uniform,
                KeysArg::Zipf => Keys::Zipf,
                KeysArg::InTurn => Keys::InTurn,
            }),
            key_count: self.key_count.unwrap_or(default.key_count),
            records: self.records.unwrap_or(default.records),
            value_bytes: self.value_bytes.map_or(default.value_bytes, |bytes| {
                usize::try_from(bytes).expect("32 bits fit")
            }),
            tombstones_per_mille: self.tombstones.unwrap_or(default.tombstones_per_mille),
            dirty_percent: self.dirty.unwrap_or(default.dirty_percent),
            codec: self.codec.map_or(default.codec, |codec| match codec {
                CodecArg::None => Codec::None,
                CodecArg::Gzip => Codec::Gzip,
                CodecArg::Snappy => Codec::Snappy,
                CodecArg::Lz4 => Codec::Lz4,
                CodecArg::Zstd => Codec::Zstd,
            }),
        };
        let none_is_given = self.keys.is_none()
            && self.codec.is_none()
            && [
                self.key_count,
                self.records,
                self.value_bytes,
                self.tombstones,
                self.dirty,
            ] == [None; 5];
        (!none_is_given).then_some(workload)
    }
}

/// What is measured.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Subject {
    /// How fast raw batches are taken in
    Produce,
    /// How fast raw batches are read out
    Read,
    /// How long an acknowledgement takes, synced and written
    Latency,
    /// How soon the server answers, and what it holds when idle
    Startup,
    /// What a broker inside another process costs: to begin, to hold, to copy, to drop
    Embedded,
    /// How long a lookup by time takes in a log of many segments
    Lookup,
    /// How fast a compacted log is cleaned, and what others notice of it
    Compact,
    /// How fast segments go to an object store and come back
    #[cfg(feature = "tier")]
    Tier,
}

impl Subject {
    /// True for what measures a store of its own, without a server.
    fn is_alone(self) -> bool {
        #[cfg(feature = "tier")]
        if self == Self::Tier {
            return true;
        }
        matches!(
            self,
            Self::Startup | Self::Embedded | Self::Lookup | Self::Compact
        )
    }
}

/// Runs the command.
pub(super) async fn run(server: &ServerArgs, args: BenchArgs) -> Result<ExitCode, CliError> {
    match (args.command, args.subject) {
        (Some(command), _) => bench_run::run(server, command).await,
        (None, Some(subject)) => run_subject(server, subject, args.own).await,
        (None, None) => Err(CliError::Usage("what to measure is missing".to_owned())),
    }
}

async fn run_subject(server: &ServerArgs, subject: Subject, args: SubjectArgs) -> Result<ExitCode, CliError> {
    let scale = if args.quick { Scale::Quick } else { Scale::Full };
    let workload = args.workload.given();
    if workload.is_some() && subject != Subject::Compact {
        return Err(CliError::Usage("a workload is for compact alone".to_owned()));
    }
    if subject.is_alone() && server.is_named() {
        return Err(CliError::Usage(
            "startup, embedded, lookup, compact and tier measure a store of their own: leave --server out"
                .to_owned(),
        ));
    }
    #[cfg(feature = "tier")]
    if args.archive.is_some() && subject != Subject::Tier {
        return Err(CliError::Usage("an archive is for tier alone".to_owned()));
    }
    let server = if server.is_named() {
        Some(server.connect().await?)
    } else {
        None
    };
    // On a worker of the runtime: the thread that blocks on a future is one more to wake for every answer.
    let mut interrupts = Interrupts::listen_to_terminate_too()?;
    let dir = tempfile::Builder::new().prefix("siltstone-bench-").tempdir();
    let dir = dir.map_err(|error| CliError::Failed(format!("cannot make a temporary directory: {error}")))?;
    let options = Options {
        scale,
        server,
        dir: Some(dir.path().to_path_buf()),
    };
    #[cfg(feature = "tier")]
    let archive = args.archive.clone();
    #[cfg(not(feature = "tier"))]
    let archive = None;
    let mut measuring = tokio::spawn(measure(subject, options, workload, archive));
    let measured = tokio::select! {
        measured = &mut measuring => measured,
        () = interrupts.next() => {
            measuring.abort();
            return Err(clean_up(dir.path(), measuring).await);
        }
    };
    let measures = match measured {
        Ok(measures) => measures.map_err(|error| CliError::Failed(error.to_string()))?,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => return Err(CliError::Failed(error.to_string())),
    };
    if args.json {
        let lines: Vec<_> = measures.iter().map(line).collect();
        output::json_lines(&lines)?;
    } else {
        output::write_all(table(&measures).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes what an interrupted benchmark has in `dir`. A part of it that blocks ends with an error when its files are gone.
async fn clean_up(dir: &Path, measuring: JoinHandle<Result<Vec<Measure>, BenchError>>) -> CliError {
    let (mut measuring, mut removed) = (measuring, Ok(()));
    for _ in 0..CLEAN_UPS {
        removed = std::fs::remove_dir_all(dir);
        if measuring.is_finished() && !dir.exists() {
            return CliError::Failed("interrupted".to_owned());
        }
        // What still runs may have made a file meanwhile.
        let _ = tokio::time::timeout(CLEAN_UP_WAIT, async {
            if !measuring.is_finished() {
                let _ = (&mut measuring).await;
            }
        })
        .await;
    }
    match removed {
        Err(error) if dir.exists() => {
            CliError::Failed(format!("interrupted; {} is left behind: {error}", dir.display()))
        }
        _ => CliError::Failed("interrupted".to_owned()),
    }
}

async fn measure(
    subject: Subject,
    options: Options,
    workload: Option<Workload>,
    #[cfg_attr(not(feature = "tier"), expect(unused_variables, reason = "only tier has one"))]
    archive: Option<String>,
) -> Result<Vec<Measure>, BenchError> {
    match subject {
        Subject::Produce => bench::produce(&options).await,
        Subject::Read => bench::read(&options).await,
        Subject::Latency => bench::latency(&options).await,
        Subject::Startup => bench::startup(&options).await,
        Subject::Embedded => bench::embedded(&options).await,
        Subject::Lookup => bench::lookup(&options),
        Subject::Compact => bench::compact(&options, workload),
        #[cfg(feature = "tier")]
        Subject::Tier => bench::tier(&options, archive.as_deref()).await,
    }
}

/// Rounds to three decimals: more is noise.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn line(measure: &Measure) -> Value {
    json!({
        "name": measure.name,
        "value": rounded(measure.value),
        "unit": measure.unit,
        "limit": measure.limit.name,
        "limit_value": rounded(measure.limit.value),
        "ratio": rounded(measure.ratio()),
    })
}

fn table(measures: &[Measure]) -> String {
    let columns = [
        ("NAME", Align::Left),
        ("VALUE", Align::Right),
        ("UNIT", Align::Left),
        ("LIMIT", Align::Left),
        ("LIMIT VALUE", Align::Right),
        ("RATIO", Align::Right),
    ];
    let row = |measure: &Measure| {
        vec![
            measure.name.clone(),
            format!("{:.3}", measure.value),
            measure.unit.to_owned(),
            measure.limit.name.to_owned(),
            format!("{:.3}", measure.limit.value),
            format!("{:.3}", measure.ratio()),
        ]
    };
    output::table(&columns, &measures.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Limit;
    use expect_test::expect;

    fn example() -> Measure {
        Measure {
            name: "produce.raw_1kib".to_owned(),
            value: 700.12345,
            unit: "MB/s",
            limit: Limit {
                name: "grpc_sink",
                value: 1000.0,
            },
        }
    }

    #[test]
    fn a_figure_is_one_object_with_its_limit_and_ratio() {
        expect![[r#"{"name":"produce.raw_1kib","value":700.123,"unit":"MB/s","limit":"grpc_sink","limit_value":1000.0,"ratio":0.7}"#]]
        .assert_eq(&line(&example()).to_string());
    }

    #[test]
    fn figures_line_up_for_people() {
        expect![[r#"
            NAME                VALUE  UNIT  LIMIT      LIMIT VALUE  RATIO
            produce.raw_1kib  700.123  MB/s  grpc_sink     1000.000  0.700
        "#]]
        .assert_eq(&table(&[example()]));
    }
}
