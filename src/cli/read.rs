//! `siltstone read`: records of a topic on standard output.
//!
//! Without bounds: everything from the earliest record to the end as of the call. What is not here: which records count
//! (`client::Reader`), and how one looks (`record_text`).

use std::process::ExitCode;

use super::connect::ServerArgs;
use super::record_text::{self, RecordText};
use super::{CliError, output, time};
use crate::client::{Chunk, ReadEnd, ReadSpec, ReadStart, Reader, ResumeToken};
use crate::types::{Isolation, Offset, PartitionId};

/// Arguments of `read`.
#[derive(clap::Args, Debug)]
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
    /// Do not end: wait for new records
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
    /// Go on where a read stopped, as it said with --print-resume
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

/// Runs the command.
pub(super) async fn run(server: &ServerArgs, args: ReadArgs) -> Result<ExitCode, CliError> {
    let client = server.connect().await?;
    let spec = ReadSpec {
        partitions: args.partitions.into_iter().map(PartitionId).collect(),
        start: args.from,
        end: if args.follow {
            ReadEnd::Follow
        } else {
            args.to.unwrap_or_default()
        },
        resume: args.resume.unwrap_or_default(),
        isolation: match args.isolation {
            IsolationArg::Uncommitted => Isolation::ReadUncommitted,
            IsolationArg::Committed => Isolation::ReadCommitted,
        },
    };
    let reader = client.read(&args.topic, spec).await?;
    let mut printing = Printing {
        style: if args.json {
            Style::Json(RecordText::new(Some(&args.topic)))
        } else {
            Style::Plain
        },
        resume: reader.resume_token().clone(),
        reader,
        left: args.limit.unwrap_or(u64::MAX),
    };
    let printed = if args.follow {
        // Only here: a read that ends by itself may as well be ended by the signal itself.
        tokio::select! {
            printed = printing.print_all() => printed,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    } else {
        printing.print_all().await
    };
    if args.print_resume {
        output::say(&format!("resume {}", printing.resume));
    }
    printed.map(|()| ExitCode::SUCCESS)
}

enum Style {
    Json(RecordText),
    Plain,
}

struct Printing {
    reader: Reader,
    style: Style,
    /// Records that may still be printed.
    left: u64,
    /// Covers exactly what is printed.
    resume: ResumeToken,
}

impl Printing {
    async fn print_all(&mut self) -> Result<(), CliError> {
        let mut text = Vec::new();
        while self.left > 0 {
            let Some(chunk) = self.reader.next().await? else {
                break;
            };
            let written = self.print(&chunk, &mut text);
            // What is sound before damage is printed before the error is told; one chunk, one write, so that a reader
            // that follows sees records as they come.
            output::write_all(&text)?;
            text.clear();
            written?;
        }
        Ok(())
    }

    fn print(&mut self, chunk: &Chunk, text: &mut Vec<u8>) -> Result<(), CliError> {
        let partition = chunk.partition();
        for record in self.reader.records(chunk) {
            let record = record?;
            match &self.style {
                Style::Json(json) => json.json(text, Some(partition), &record),
                Style::Plain => record_text::plain(text, partition, &record),
            }
            self.resume.0.insert(partition, record.offset.next());
            self.left -= 1;
            if self.left == 0 {
                return Ok(());
            }
        }
        self.resume.clone_from(self.reader.resume_token());
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
}
