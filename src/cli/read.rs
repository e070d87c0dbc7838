//! `siltstone read`: records of a topic on standard output.
//!
//! Without bounds: everything from the earliest record to the end as of the call.
//!
//! Offsets that cannot be read, because the log is damaged there, are told on standard error and left out; everything else is
//! printed, and the exit code is 1. Behind them the read is opened again, so its end is then that as of the last of them. Where
//! not even the server knows how far damage reaches, that partition ends there; the others do not.
//!
//! What is not here: which records count (`client::Reader`), and how one looks (`record_text`).

use std::future::{Future, pending};
use std::process::ExitCode;
use std::time::Duration;

use super::connect::ServerArgs;
use super::interrupts::Interrupts;
use super::record_text::{self, RecordText};
use super::topic::check_name;
use super::{CliError, output, time};
use crate::client::{
    self, Chunk, Client, CompactedBelow, Connection, OffsetQuery, ReadEnd, ReadSpec, ReadStart, Reader,
    ResumeToken,
};
use crate::types::{Isolation, Offset, PartitionId};

const EXAMPLES: &str = "\
Examples:
  siltstone read flights --limit 10
  siltstone read flights --from 2013-01-03T00:00:00Z --to 2013-01-04T00:00:00Z --json
  siltstone read flights --from latest --follow";

/// Arguments of `read`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReadArgs {
    /// Of which topic
    topic: String,
    /// Only this partition; may be given more than once
    #[arg(long = "partition", value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partitions: Vec<i32>,
    /// Where to begin, in each partition: earliest, latest, an offset, or a time like 2013-01-03T00:00:00Z
    #[arg(long, value_name = "POINT", default_value = "earliest", value_parser = parse_start)]
    from: ReadStart,
    /// Where to end, exclusive: an offset or a time; without it, the end as of the call
    #[arg(long, value_name = "POINT", value_parser = parse_end)]
    to: Option<ReadEnd>,
    /// Do not end: wait for new records, and for the server while it is gone; Ctrl-C ends
    #[arg(long, conflicts_with = "to")]
    follow: bool,
    /// End after this many records
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// Print one JSON object a record
    #[arg(long)]
    json: bool,
    /// How far to see
    #[arg(
        long,
        value_enum,
        default_value = "read_uncommitted",
        value_name = "ISOLATION"
    )]
    isolation: IsolationArg,
    /// Go on where a read stopped, as it said with --print-resume; says so if what was compacted since may be missed
    #[arg(long, value_name = "TOKEN")]
    resume: Option<ResumeToken>,
    /// Say at the end, on standard error, where to go on: resume 0:12,1:5
    #[arg(long)]
    print_resume: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum IsolationArg {
    /// Records of open and aborted transactions too
    #[value(name = "read_uncommitted")]
    Uncommitted,
    /// Only what is committed
    #[value(name = "read_committed")]
    Committed,
}

fn parse_start(text: &str) -> Result<ReadStart, String> {
    match text {
        "earliest" => Ok(ReadStart::Earliest),
        "latest" => Ok(ReadStart::Latest),
        _ => match (offset(text), time::parse(text)) {
            (Some(offset), _) => Ok(ReadStart::Offset(offset)),
            (None, Some(time)) => Ok(ReadStart::Time(time)),
            (None, None) => {
                Err("not earliest, latest, an offset, or a time like 2013-01-03T00:00:00Z".to_owned())
            }
        },
    }
}

fn parse_end(text: &str) -> Result<ReadEnd, String> {
    match (offset(text), time::parse(text)) {
        (Some(offset), _) => Ok(ReadEnd::Offset(offset)),
        (None, Some(time)) => Ok(ReadEnd::Time(time)),
        (None, None) => Err("not an offset or a time like 2013-01-03T00:00:00Z".to_owned()),
    }
}

fn offset(text: &str) -> Option<Offset> {
    text.parse().ok().filter(|offset| *offset >= 0).map(Offset)
}

impl ReadArgs {
    fn spec(&self) -> ReadSpec {
        ReadSpec {
            partitions: self.partitions.iter().copied().map(PartitionId).collect(),
            start: self.from,
            end: if self.follow {
                ReadEnd::Follow
            } else {
                self.to.unwrap_or_default()
            },
            resume: self.resume.clone().unwrap_or_default(),
            isolation: match self.isolation {
                IsolationArg::Uncommitted => Isolation::ReadUncommitted,
                IsolationArg::Committed => Isolation::ReadCommitted,
            },
            // Who follows waits for what comes, and so for the server too. The end of another read is that of this call.
            reconnect_for: match self.follow {
                true => Duration::MAX,
                false => Duration::ZERO,
            },
            ..ReadSpec::default()
        }
    }
}

/// Runs the command.
pub(super) async fn run(server: &ServerArgs, args: ReadArgs) -> Result<ExitCode, CliError> {
    check_name(&args.topic)?;
    if args.follow {
        let mut interrupts = Interrupts::listen()?;
        read(server, &args, interrupts.next()).await
    } else {
        // A read that ends by itself may as well be ended by the signal itself.
        read(server, &args, pending()).await
    }
}

/// Reads to the end or until `enough`.
async fn read(
    server: &ServerArgs,
    args: &ReadArgs,
    enough: impl Future<Output = ()>,
) -> Result<ExitCode, CliError> {
    tokio::pin!(enough);
    let mut printing = tokio::select! {
        begun = Printing::begin(server, args) => begun?,
        () = &mut enough => return Ok(ExitCode::SUCCESS),
    };
    let printed = tokio::select! {
        printed = printing.print_all() => printed,
        () = &mut enough => Ok(()),
    };
    if args.print_resume {
        output::say(&format!("resume {}", printing.resume));
    }
    printed?;
    printing.whole().map(|()| ExitCode::SUCCESS)
}

/// Tells whoever follows what the connection does; records go to standard output alone.
fn tell(turn: Connection<'_>) {
    match turn {
        Connection::Lost(error) => {
            output::say(&format!(
                "siltstone: {error}; trying again until it is back, Ctrl-C ends"
            ));
        }
        Connection::Restored => output::say("siltstone: the server is back, going on where it stopped"),
    }
}

enum Style {
    Json(RecordText),
    Plain,
}

struct Printing {
    client: Client,
    topic: String,
    spec: ReadSpec,
    reader: Reader,
    /// How often offsets were left out that cannot be read.
    gaps: u64,
    style: Style,
    /// Records that may still be printed.
    left: u64,
    /// Covers what is written out; a chunk whose writing Ctrl-C cut short comes again, none is left out.
    resume: ResumeToken,
    /// Where partitions go on of which nothing has come yet.
    resumed: ResumeToken,
}

/// What to say to a reader that goes on at `resumed` in a partition that is compacted; `None` if it misses nothing.
fn missed(partition: PartitionId, resumed: Offset, below: CompactedBelow) -> Option<String> {
    if below.may_hide_deletions_from(resumed) {
        Some(format!(
            "siltstone: partition {partition} was compacted while the read paused at {resumed}: deletions before {} may be missing; \
             a table has to be built anew, without --resume",
            below.tombstones
        ))
    } else if below.may_hide_records_from(resumed) {
        Some(format!(
            "siltstone: partition {partition} was compacted while the read paused at {resumed}: before {} only the newest record of \
             each key may be left",
            below.records
        ))
    } else {
        None
    }
}

/// Opens a read that tells of its connection.
async fn opened(client: &Client, topic: &str, spec: &ReadSpec) -> Result<Reader, CliError> {
    let mut reader = client.read(topic, spec.clone()).await?;
    reader.watch(tell);
    Ok(reader)
}

impl Printing {
    async fn begin(server: &ServerArgs, args: &ReadArgs) -> Result<Self, CliError> {
        let client = server.connect().await?;
        let spec = args.spec();
        let reader = opened(&client, &args.topic, &spec).await?;
        Ok(Self {
            client,
            topic: args.topic.clone(),
            spec,
            gaps: 0,
            style: if args.json {
                Style::Json(RecordText::new(Some(&args.topic)))
            } else {
                Style::Plain
            },
            resume: reader.resume_token().clone(),
            resumed: args.resume.clone().unwrap_or_default(),
            reader,
            left: args.limit.unwrap_or(u64::MAX),
        })
    }

    async fn print_all(&mut self) -> Result<(), CliError> {
        let mut text = Vec::new();
        while self.left > 0 {
            match self.print_next(&mut text).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(CliError::Client(error)) => {
                    if !self.go_on_behind(error).await? {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Prints the next chunk; false when there is none.
    async fn print_next(&mut self, text: &mut Vec<u8>) -> Result<bool, CliError> {
        let Some(chunk) = self.reader.next().await? else {
            return Ok(false);
        };
        let resumed = self.resumed.0.remove(&chunk.partition());
        let missed = resumed.and_then(|at| missed(chunk.partition(), at, chunk.compacted_below()));
        missed.iter().for_each(|text| output::say(text));
        let mut resume = self.resume.clone();
        let printed = self.print(&chunk, text, &mut resume);
        // What is sound before damage is printed before the error is told; one chunk, one write, so that a reader
        // that follows sees records as they come.
        *text = output::write_aside(std::mem::take(text)).await?;
        text.clear();
        self.resume = resume;
        printed.map(|()| true)
    }

    /// Tells of damage and opens the read again behind it; where nobody knows how far it reaches, without its partition. Says
    /// whether anything is left to read.
    async fn go_on_behind(&mut self, error: client::Error) -> Result<bool, CliError> {
        let Some((partition, lost)) = error.damaged() else {
            return Err(error.into());
        };
        self.gaps += 1;
        let stands = self.resume.0.get(&partition).copied();
        // What was passed already would be met again and again.
        match lost.filter(|lost| stands.is_none_or(|at| at < lost.end)) {
            Some(lost) => {
                let (start, end) = (lost.start, lost.end);
                output::say(&format!(
                    "siltstone: {error}; {start} to {end} (exclusive) is left out"
                ));
                self.resume.0.insert(partition, end);
            }
            None => {
                output::say(&format!(
                    "siltstone: {error}; the rest of partition {partition} is left out"
                ));
                self.leave_out(partition).await?;
                if self.spec.partitions.is_empty() {
                    return Ok(false);
                }
            }
        }
        let mut resume = self.resume.clone();
        let named = &self.spec.partitions;
        resume
            .0
            .retain(|partition, _| named.is_empty() || named.contains(partition));
        self.spec.resume = resume;
        self.reader = opened(&self.client, &self.topic, &self.spec).await?;
        Ok(true)
    }

    /// Takes a partition out of those that are read.
    async fn leave_out(&mut self, partition: PartitionId) -> Result<(), CliError> {
        if self.spec.partitions.is_empty() {
            let all = self
                .client
                .list_offsets(&self.topic, OffsetQuery::Earliest)
                .await?;
            self.spec.partitions = all.into_iter().map(|found| found.partition).collect();
        }
        self.spec.partitions.retain(|read| *read != partition);
        Ok(())
    }

    /// Fails if anything was left out.
    fn whole(&self) -> Result<(), CliError> {
        let places = match self.gaps {
            0 => return Ok(()),
            1 => "1 place".to_owned(),
            count => format!("{count} places"),
        };
        Err(CliError::Failed(format!(
            "{places} of topic {} cannot be read, see above; everything else that was asked for is printed",
            self.topic
        )))
    }

    /// Appends the chunk's records to `text`, and says in `resume` how far they go.
    fn print(&mut self, chunk: &Chunk, text: &mut Vec<u8>, resume: &mut ResumeToken) -> Result<(), CliError> {
        let partition = chunk.partition();
        for record in self.reader.records(chunk) {
            let record = record?;
            match &self.style {
                Style::Json(json) => json.json(text, Some(partition), &record),
                Style::Plain => record_text::plain(text, partition, &record),
            }
            resume.0.insert(partition, record.offset.next());
            self.left -= 1;
            if self.left == 0 {
                return Ok(());
            }
        }
        // Not instead: partitions that are left out are not in it.
        resume.0.extend(&self.reader.resume_token().0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Timestamp;

    #[test]
    fn a_number_is_an_offset_and_a_date_is_a_time() {
        assert_eq!(parse_start("earliest"), Ok(ReadStart::Earliest));
        assert_eq!(parse_start("latest"), Ok(ReadStart::Latest));
        assert_eq!(parse_start("12"), Ok(ReadStart::Offset(Offset(12))));
        assert_eq!(
            parse_start("2013-01-01T10:15:00Z"),
            Ok(ReadStart::Time(Timestamp(1_357_035_300_000)))
        );
        assert_eq!(parse_end("0"), Ok(ReadEnd::Offset(Offset(0))));
        assert_eq!(
            parse_end("1970-01-01T00:00:01Z"),
            Ok(ReadEnd::Time(Timestamp(1000)))
        );
    }

    #[test]
    fn what_is_no_point_in_the_log_is_refused() {
        for text in ["-1", "now", "", "2013-01-01", "1.5", "99999999999999999999"] {
            assert!(parse_start(text).is_err(), "{text}");
            assert!(parse_end(text).is_err(), "{text}");
        }
        assert!(parse_end("latest").is_err());
    }

    #[test]
    fn a_deletion_that_may_be_missed_is_told_before_records_that_may_be() {
        let below = |records, tombstones| CompactedBelow {
            records: Offset(records),
            tombstones: Offset(tombstones),
        };
        let said = |below| missed(PartitionId(3), Offset(5), below).unwrap_or_default();
        assert!(said(below(9, 7)).contains("partition 3"), "{}", said(below(9, 7)));
        assert!(said(below(9, 7)).contains("deletions before 7 may be missing"));
        assert!(said(below(9, 5)).contains("before 9 only the newest record"));
        assert_eq!(said(below(5, 5)), "");
    }
}
