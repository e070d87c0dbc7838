//! `siltstone bench run` and `siltstone bench compare`: what they take, and how their results are printed.
//!
//! What is not here: the running and the comparing (`crate::bench`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::CliError;
use super::connect::ServerArgs;
use super::interrupts::Interrupts;
use super::output::{self, Align};
use super::time;
use crate::bench::{self, BenchError, Comparison, Options, RunRecord, RunWords, Scale, WorkloadFile};
use crate::env::{Clock, SystemClock};

/// What `bench` does beside its own subjects.
#[derive(clap::Subcommand, Debug)]
pub(super) enum BenchCommand {
    /// Run a workload from a file, and check every record of it
    Run(RunArgs),
    /// Lay records of runs side by side
    Compare(CompareArgs),
}

/// Arguments of `bench run`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Latency counts from when a record should have been sent. Every record is checked when it is read, and all are read \
    once more at the end: a run that lost, doubled, reordered or changed one fails, and gives no figure. benches/workloads has \
    workloads, docs/benchmarks.md says what may stand in one."
)]
pub(super) struct RunArgs {
    /// The workload, a TOML file
    #[arg(value_name = "FILE")]
    workload: PathBuf,
    #[command(flatten)]
    format: FormatArgs,
    /// Draw the run into one page of HTML
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// What is drawn by chance is drawn from this number, instead of the workload's
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// How results are printed.
#[derive(clap::Args, Clone, Copy, Debug)]
struct FormatArgs {
    /// Print one JSON object on one line
    #[arg(long, conflicts_with = "text")]
    json: bool,
    /// Print tables for people [default]
    #[arg(long)]
    text: bool,
}

/// Arguments of `bench compare`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Ratios are to the first record. What differs of machines, versions and settings is named."
)]
pub(super) struct CompareArgs {
    /// Records of runs, as 'bench run --json' prints them
    #[arg(value_name = "RECORD.json", num_args = 2.., required = true)]
    records: Vec<PathBuf>,
    #[command(flatten)]
    format: FormatArgs,
    /// Draw the runs into one page of HTML
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

/// Runs the command.
pub(super) async fn run(server: &ServerArgs, command: BenchCommand) -> Result<ExitCode, CliError> {
    match command {
        BenchCommand::Run(args) => run_workload(server, args).await,
        BenchCommand::Compare(args) => compare(&args),
    }
}

fn failed(error: BenchError) -> CliError {
    match error {
        BenchError::Client(error) => error.into(),
        error => CliError::Failed(error.to_string()),
    }
}

async fn run_workload(server: &ServerArgs, args: RunArgs) -> Result<ExitCode, CliError> {
    let read = WorkloadFile::read(&args.workload);
    let mut workload = read.map_err(|error| CliError::Usage(error.to_string()))?;
    if let Some(seed) = args.seed {
        workload.plan.seed = seed;
    }
    let (client, address) = match server.is_named() {
        true => {
            let client = server.connect().await?;
            let address = client.address().to_owned();
            (Some(client), Some(address))
        }
        false => (None, None),
    };
    let mut interrupts = Interrupts::listen_to_terminate_too()?;
    let dir = tempfile::Builder::new().prefix("siltstone-bench-").tempdir();
    let dir = dir.map_err(|error| CliError::Failed(format!("cannot make a temporary directory: {error}")))?;
    let options = Options {
        scale: Scale::Full,
        server: client,
        dir: Some(dir.path().to_path_buf()),
    };
    let words = RunWords {
        command: command_line(std::env::args_os()),
        started: time::format(SystemClock.now()),
        server: address,
    };
    // On a worker of the runtime: the thread that blocks on a future is one more to wake for every answer.
    let running = tokio::spawn(async move {
        bench::run(&options, &workload, words, async { interrupts.next().await }).await
    });
    let record = match running.await {
        Ok(record) => record.map_err(failed)?,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => return Err(CliError::Failed(error.to_string())),
    };
    let name = record.name.clone();
    let records = [(name, record)];
    let [(_, record)] = &records;
    if args.format.json {
        let line = serde_json::to_value(record).map_err(|error| CliError::Failed(error.to_string()))?;
        output::json_lines(&[line])?;
    } else {
        output::write_all(told(record).as_bytes())?;
    }
    // Last: a page that cannot be written costs nobody the figures.
    write_report(args.report.as_deref(), &records)?;
    Ok(ExitCode::SUCCESS)
}

fn compare(args: &CompareArgs) -> Result<ExitCode, CliError> {
    let mut records = Vec::new();
    for path in &args.records {
        let record = RunRecord::read(path).map_err(|error| CliError::Failed(error.to_string()))?;
        records.push((path.display().to_string(), record));
    }
    write_report(args.report.as_deref(), &records)?;
    let compared = bench::compare(&records);
    if args.format.json {
        let line = serde_json::to_value(&compared).map_err(|error| CliError::Failed(error.to_string()))?;
        output::json_lines(&[line])?;
    } else {
        output::write_all(side_by_side(&compared).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_report(path: Option<&Path>, records: &[(String, RunRecord)]) -> Result<(), CliError> {
    let Some(path) = path else {
        return Ok(());
    };
    std::fs::write(path, bench::report(records))
        .map_err(|error| CliError::Failed(format!("cannot write report {}: {error}", path.display())))
}

/// Returns the command as it may be typed again.
fn command_line(args: impl Iterator<Item = OsString>) -> String {
    let word = |word: OsString| {
        let word = word.to_string_lossy().into_owned();
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=,@%+".contains(letter);
        match !word.is_empty() && word.chars().all(is_plain) {
            true => word,
            false => format!("'{}'", word.replace('\'', r"'\''")),
        }
    };
    let name = ["siltstone".to_owned()].into_iter();
    name.chain(args.skip(1).map(word)).collect::<Vec<_>>().join(" ")
}

/// A number as it is told: what is small keeps its digits.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn told(record: &RunRecord) -> String {
    let mut rows = Vec::new();
    for figure in &record.figures {
        let name = [figure.name.clone(), number(figure.value), figure.unit.clone()];
        let limit = |limit: &bench::Ratio| {
            [
                limit.limit.clone(),
                number(limit.limit_value),
                format!("{:.3}", limit.ratio),
            ]
        };
        let empty = || [String::new(), String::new(), String::new()];
        let first = figure.limits.first().map_or_else(empty, limit);
        rows.push([name, first].concat());
        for more in figure.limits.iter().skip(1) {
            rows.push([empty(), limit(more)].concat());
        }
    }
    let columns = [
        ("FIGURE", Align::Left),
        ("VALUE", Align::Right),
        ("UNIT", Align::Left),
        ("LIMIT", Align::Left),
        ("LIMIT VALUE", Align::Right),
        ("RATIO", Align::Right),
    ];
    let mut text = output::table(&columns, &rows);
    let times = record.latencies.iter().map(|latency| {
        let times = [
            latency.p50_ms,
            latency.p90_ms,
            latency.p99_ms,
            latency.p999_ms,
            latency.max_ms,
        ];
        let count = [latency.name.clone(), latency.count.to_string()];
        count.into_iter().chain(times.map(number)).collect()
    });
    let columns = [
        ("LATENCY, MS", Align::Left),
        ("COUNT", Align::Right),
        ("P50", Align::Right),
        ("P90", Align::Right),
        ("P99", Align::Right),
        ("P99.9", Align::Right),
        ("MAX", Align::Right),
    ];
    text.push('\n');
    text.push_str(&output::table(&columns, &times.collect::<Vec<_>>()));
    let found = &record.verification;
    text.push_str(&format!(
        "\nverified: {} records written, {} found at the end, {} checked by all readers; chain {}\n",
        found.written_records, found.found_records, found.checked_records, found.chain
    ));
    text
}

fn side_by_side(compared: &Comparison) -> String {
    let mut text = String::new();
    for (place, name) in compared.records.iter().enumerate() {
        text.push_str(&format!("{}: {name}\n", letter(place)));
    }
    let letters: Vec<_> = (0..compared.records.len()).map(letter).collect();
    let ratios: Vec<_> = letters
        .iter()
        .skip(1)
        .map(|letter| format!("{letter}/A"))
        .collect();
    let mut columns = vec![("FIGURE", Align::Left), ("UNIT", Align::Left)];
    columns.extend(letters.iter().map(|letter| (letter.as_str(), Align::Right)));
    columns.extend(ratios.iter().map(|ratio| (ratio.as_str(), Align::Right)));
    let rows = compared.rows.iter().map(|row| {
        let values = row
            .values
            .iter()
            .map(|value| value.map_or("-".to_owned(), number));
        let ratios = row.ratios.iter().skip(1);
        let ratios = ratios.map(|ratio| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.3}")));
        let name = [row.name.clone(), row.unit.clone()].into_iter();
        name.chain(values).chain(ratios).collect()
    });
    text.push('\n');
    text.push_str(&output::table(&columns, &rows.collect::<Vec<_>>()));
    if compared.differences.is_empty() {
        text.push_str("\nmachine, version, workload and settings are the same\n");
        return text;
    }
    let mut columns = vec![("DIFFERS", Align::Left)];
    columns.extend(letters.iter().map(|letter| (letter.as_str(), Align::Left)));
    let rows = compared.differences.iter().map(|difference| {
        let values = difference
            .values
            .iter()
            .map(|value| value.clone().unwrap_or_else(|| "-".to_owned()));
        [difference.what.clone()].into_iter().chain(values).collect()
    });
    text.push('\n');
    text.push_str(&output::table(&columns, &rows.collect::<Vec<_>>()));
    text
}

/// A, B, ... and then by number.
fn letter(place: usize) -> String {
    match u8::try_from(place) {
        Ok(place) if place < 26 => char::from(b'A' + place).to_string(),
        _ => format!("#{}", place + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_told_so_that_it_can_be_typed_again() {
        let words = ["/bin/x", "bench", "run", "a b.toml", "it's", "", "--seed=7"].map(OsString::from);
        assert_eq!(
            command_line(words.into_iter()),
            r"siltstone bench run 'a b.toml' 'it'\''s' '' --seed=7"
        );
    }
}
