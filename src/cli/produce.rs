//! `siltstone produce`: lines of a file or of standard input, written to a topic.
//!
//! Invariants
//! - Lines before one that stops the load are sent, acknowledged and counted, also where it is the server that refuses it. Of
//!   the lines after it, only other partitions' that were sent already are written.
//! - The command always ends with a summary of what was acknowledged; on Ctrl-C or SIGTERM within [`INTERRUPT_GRACE`], even when
//!   the server is gone, and on a second one at once.
//! - Once a server answered, its loss is waited out for the delivery timeout, at the beginning as later.
//! - Memory is bounded by the input's blocks and the producer's buffer.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::connect::ServerArgs;
use super::input::{Block, Input};
use super::interrupts::Interrupts;
use super::produce_record::RecordRules;
use super::topic::check_name;
use super::{CliError, output};
use crate::client::{self, Acks, Producer, ProducerMetrics, ProducerOptions, ProducerRecord};
use crate::record::{Codec, Header};
use crate::types::PartitionId;

/// How long acknowledgements are waited for after Ctrl-C.
const INTERRUPT_GRACE: Duration = Duration::from_secs(3);
const _: () = assert!(INTERRUPT_GRACE.as_secs() < 5, "it is promised to end within 5 s");
/// An input that takes longer gets a progress bar.
const LONG: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  siltstone produce notes < notes.txt
  siltstone produce flights --input flights.jsonl --format json --key-field tailnum
  printf 'k1:v1\\nk2:\\n' | siltstone produce table --key-separator : --null-value ''";

/// Arguments of `produce`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ProduceArgs {
    /// Where to
    topic: String,
    /// The file to read; - is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    input: PathBuf,
    #[command(flatten)]
    rules: RecordRules,
    /// How batches are compressed
    #[arg(long, value_name = "CODEC", default_value = "none")]
    compression: Compression,
    /// A header of every record; may be given more than once
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<Header>,
    /// Write to this partition, whatever the key
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// When a record counts as written
    #[arg(long, value_enum, default_value = "all", value_name = "WHEN")]
    acks: AcksArg,
    /// Seconds after which an unacknowledged record ends the load; a server that is lost as it begins is waited for as long
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    delivery_timeout: u32,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum AcksArg {
    /// When it is as durable as the topic's settings say
    All,
    /// When it is appended
    Leader,
    /// When it is sent; it may be lost
    None,
}

fn parse_header(text: &str) -> Result<Header, String> {
    match text.split_once('=') {
        Some((name, value)) => Ok(Header {
            key: name.to_owned().into(),
            value: Some(value.to_owned().into()),
        }),
        None => Err("not NAME=VALUE".to_owned()),
    }
}

/// How the load went.
enum Ended {
    AtTheEnd,
    Interrupted(Times),
    Failed(CliError),
}

/// How often Ctrl-C came.
enum Times {
    Once,
    Twice,
}

impl ProduceArgs {
    fn options(&self) -> ProducerOptions {
        ProducerOptions {
            acks: match self.acks {
                AcksArg::All => Acks::All,
                AcksArg::Leader => Acks::Leader,
                AcksArg::None => Acks::None,
            },
            codec: match self.compression {
                Compression::None => Codec::None,
                Compression::Gzip => Codec::Gzip,
                Compression::Snappy => Codec::Snappy,
                Compression::Lz4 => Codec::Lz4,
                Compression::Zstd => Codec::Zstd,
            },
            delivery_timeout: Duration::from_secs(self.delivery_timeout.into()),
            ..ProducerOptions::default()
        }
    }
}

/// Runs the command.
pub(super) async fn run(server: &ServerArgs, args: ProduceArgs) -> Result<ExitCode, CliError> {
    let options = args.options();
    let rules = args.rules.checked()?;
    let mut interrupts = Interrupts::listen_to_terminate_too()?;
    let mut report = Report {
        topic: args.topic.clone(),
        acks: args.acks,
        metrics: ProducerMetrics::default(),
        skipped: 0,
        elapsed: Duration::ZERO,
    };
    let begun = tokio::select! {
        begun = begin(server, args.input, &args.topic, options) => begun.map_err(Ended::Failed),
        () = interrupts.next() => Err(Ended::Interrupted(Times::Once)),
    };
    let ended = match begun {
        Err(ended) => ended,
        Ok((producer, input)) => {
            let mut load = Load {
                producer,
                topic: args.topic,
                rules,
                partition: args.partition.map(PartitionId),
                headers: args.headers,
                input_name: input.name.clone(),
                skipped: 0,
                progress: Progress::new(input.len, Box::new(standard_error)),
                started: Instant::now(),
            };
            let ended = load.until_end(input, &mut interrupts).await;
            load.progress.clear();
            report.metrics = load.producer.metrics();
            report.skipped = load.skipped;
            report.elapsed = load.started.elapsed();
            ended
        }
    };
    // The summary comes first, so that a failure is the last thing to be read.
    output::write_all(if args.json { report.json() } else { report.text() }.as_bytes())?;
    match ended {
        Ended::AtTheEnd => Ok(ExitCode::SUCCESS),
        Ended::Failed(error) => Err(error),
        Ended::Interrupted(times) => {
            let open = report.metrics.unacknowledged_records();
            let interrupted = match times {
                Times::Once => "interrupted",
                Times::Twice => "interrupted twice",
            };
            Err(CliError::Failed(format!(
                "{interrupted}; {open} records were sent and not acknowledged"
            )))
        }
    }
}

/// Opens the input, before a server is asked for anything, and a producer for it.
async fn begin(
    server: &ServerArgs,
    input: PathBuf,
    topic: &str,
    options: ProducerOptions,
) -> Result<(Producer, Input), CliError> {
    check_name(topic)?;
    let input = Input::open_aside(input).await?;
    let client = server.connect().await?;
    Ok((client.producer(topic, options).await?, input))
}

struct Load {
    producer: Producer,
    topic: String,
    rules: RecordRules,
    partition: Option<PartitionId>,
    headers: Vec<Header>,
    input_name: String,
    skipped: u64,
    progress: Progress,
    started: Instant,
}

impl Load {
    /// Sends all lines and waits for their acknowledgement, as far as it goes.
    async fn until_end(&mut self, input: Input, interrupts: &mut Interrupts) -> Ended {
        let sent = tokio::select! {
            biased;
            () = interrupts.next() => return self.interrupted(interrupts).await,
            sent = self.send_all(input) => sent,
        };
        let closed = tokio::select! {
            biased;
            () = interrupts.next() => return self.interrupted(interrupts).await,
            closed = self.producer.close() => closed,
        };
        match (sent, closed) {
            // It is of a line before the one that sending stopped at.
            (
                _,
                Err(client::Error::RecordRefused {
                    refusal,
                    place: Some(line),
                }),
            ) => {
                let (name, reason) = (&self.input_name, &refusal.message);
                Ended::Failed(CliError::Failed(format!("{name}:{line}: {reason}")))
            }
            (Ok(()), Ok(())) => Ended::AtTheEnd,
            (Err(error), _) => Ended::Failed(error),
            (Ok(()), Err(error)) => Ended::Failed(error.into()),
        }
    }

    /// What is under way may still come in, unless a second Ctrl-C says not to wait for it.
    async fn interrupted(&self, interrupts: &mut Interrupts) -> Ended {
        output::say("siltstone: interrupted, waiting for what is under way; Ctrl-C again ends at once");
        tokio::select! {
            biased;
            () = interrupts.next() => Ended::Interrupted(Times::Twice),
            _ = tokio::time::timeout(INTERRUPT_GRACE, self.producer.flush()) => Ended::Interrupted(Times::Once),
        }
    }

    async fn send_all(&mut self, input: Input) -> Result<(), CliError> {
        let mut blocks = input.blocks(self.producer.max_message_bytes());
        while let Some(block) = blocks.recv().await {
            let block = block.map_err(|error| CliError::Failed(format!("{}: {error}", self.input_name)))?;
            self.send_block(&block).await?;
            self.progress
                .advance(block.len(), self.started.elapsed(), &self.producer.metrics());
            // A fast input never waits; Ctrl-C is looked at all the same.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn send_block(&mut self, block: &Block) -> Result<(), CliError> {
        for (number, line) in block.lines() {
            let at = |reason: String| CliError::Failed(format!("{}:{number}: {reason}", self.input_name));
            let Some(record) = self.rules.record(line).map_err(at)? else {
                self.skipped += 1;
                continue;
            };
            let record = ProducerRecord {
                key: record.key.as_deref(),
                value: record.value,
                timestamp: record.timestamp,
                partition: self.partition,
                headers: &self.headers,
                place: Some(number),
            };
            self.producer.send(record).await.map_err(|error| match error {
                client::Error::RecordTooLarge { size_bytes, .. } => {
                    let topic = &self.topic;
                    at(format!(
                        "{error}; 'siltstone topic alter {topic} --config max.message.bytes={size_bytes}' admits it"
                    ))
                }
                error => error.into(),
            })?;
        }
        Ok(())
    }
}

/// Says where a bar is drawn, if anywhere.
type Terminal = Box<dyn Fn() -> Option<ProgressDrawTarget>>;

/// Standard error, if that is a terminal.
fn standard_error() -> Option<ProgressDrawTarget> {
    std::io::stderr().is_terminal().then(ProgressDrawTarget::stderr)
}

/// A bar on the terminal, if there is one and the input is long.
struct Progress {
    bar: ProgressBar,
    read_bytes: u64,
    len: Option<u64>,
    terminal: Terminal,
}

impl Progress {
    fn new(len: Option<u64>, terminal: Terminal) -> Self {
        Self {
            bar: ProgressBar::hidden(),
            read_bytes: 0,
            len,
            terminal,
        }
    }

    fn advance(&mut self, bytes: u64, elapsed: Duration, metrics: &ProducerMetrics) {
        self.read_bytes += bytes;
        if self.bar.is_hidden()
            && elapsed > LONG
            && let Some(target) = (self.terminal)()
        {
            self.bar = Self::visible(self.len, target);
        }
        self.bar.set_position(self.read_bytes);
        self.bar
            .set_message(format!("{} records acknowledged", metrics.acknowledged_records));
    }

    fn visible(len: Option<u64>, target: ProgressDrawTarget) -> ProgressBar {
        let template = match len {
            Some(_) => "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {msg}",
            None => "{spinner} {binary_bytes} {binary_bytes_per_sec} {msg}",
        };
        let style = ProgressStyle::with_template(template).expect("the templates are well formed");
        ProgressBar::with_draw_target(len, target).with_style(style)
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
        let _ = std::io::stderr().flush();
    }
}

/// The last words.
struct Report {
    topic: String,
    acks: AcksArg,
    metrics: ProducerMetrics,
    skipped: u64,
    elapsed: Duration,
}

impl Report {
    fn text(&self) -> String {
        let acknowledged = match self.acks {
            AcksArg::None => "sent without acknowledgement",
            _ => "acknowledged",
        };
        let skipped = match self.skipped {
            0 => String::new(),
            skipped => format!(", {skipped} skipped"),
        };
        let (records, bytes) = (self.metrics.acknowledged_records, self.metrics.acknowledged_bytes);
        format!(
            "{records} records {acknowledged}{skipped}, {} in {:.1} s: {} records/s, {}/s\n",
            output::size(bytes),
            self.elapsed.as_secs_f64(),
            self.per_second(records),
            output::size(self.per_second(bytes)),
        )
    }

    fn json(&self) -> String {
        let (records, bytes) = (self.metrics.acknowledged_records, self.metrics.acknowledged_bytes);
        // Without acks, what the producer counts was handed to the connection, and nobody has acknowledged it.
        let (sent, acknowledged) = match self.acks {
            AcksArg::None => (records, (0, 0)),
            AcksArg::All | AcksArg::Leader => (self.metrics.sent_records, (records, bytes)),
        };
        let report = json!({
            "topic": self.topic,
            "sent_records": sent,
            "acknowledged_records": acknowledged.0,
            "acknowledged_bytes": acknowledged.1,
            "skipped_records": self.skipped,
            "elapsed_ms": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
            "records_per_second": self.per_second(records),
            "bytes_per_second": self.per_second(bytes),
        });
        format!("{report}\n")
    }

    fn per_second(&self, count: u64) -> u64 {
        let rate = u128::from(count) * 1_000_000 / self.elapsed.as_micros().max(1);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
#[path = "produce_tests.rs"]
mod tests;
