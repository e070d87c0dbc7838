//! `siltstone offsets`: offsets by time, or the ends of the log.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::connect::ServerArgs;
use super::output::{self, Align};
use super::topic::check_name;
use super::{CliError, time};
use crate::client::{FoundOffset, OffsetQuery};
use crate::types::{Offset, Timestamp};

/// Arguments of `offsets`.
#[derive(clap::Args, Debug)]
pub(super) struct OffsetsArgs {
    /// Of which topic
    topic: String,
    /// What to find: the first record at or after a time (like 2013-01-03T12:00:00Z, or milliseconds since the epoch),
    /// earliest, latest, or max-timestamp; without it, both ends
    #[arg(long, value_name = "POINT", value_parser = parse_query)]
    at: Option<OffsetQuery>,
    /// Print one JSON object a partition
    #[arg(long)]
    json: bool,
}

fn parse_query(text: &str) -> Result<OffsetQuery, String> {
    match text {
        "earliest" => Ok(OffsetQuery::Earliest),
        "latest" => Ok(OffsetQuery::Latest),
        "max-timestamp" => Ok(OffsetQuery::MaxTimestamp),
        _ => {
            let ms = text.parse().ok().filter(|ms| *ms >= 0).map(Timestamp);
            let time = ms.or_else(|| time::parse(text)).map(OffsetQuery::Time);
            time.ok_or_else(|| {
                "not a time like 2013-01-03T12:00:00Z, milliseconds, earliest, latest or max-timestamp"
                    .to_owned()
            })
        }
    }
}

/// Runs the command.
pub(super) async fn run(server: &ServerArgs, args: OffsetsArgs) -> Result<ExitCode, CliError> {
    check_name(&args.topic)?;
    let client = server.connect().await?;
    match args.at {
        Some(query) => {
            let found = client.list_offsets(&args.topic, query).await?;
            if args.json {
                output::json_lines(&found_json(&args.topic, &found))?;
            } else {
                output::write_all(found_table(&found).as_bytes())?;
            }
        }
        None => {
            let earliest = client.list_offsets(&args.topic, OffsetQuery::Earliest).await?;
            let latest = client.list_offsets(&args.topic, OffsetQuery::Latest).await?;
            let ends: Vec<_> = earliest.into_iter().zip(latest).collect();
            if args.json {
                output::json_lines(&ends_json(&args.topic, &ends))?;
            } else {
                output::write_all(ends_table(&ends).as_bytes())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn found_json(topic: &str, found: &[FoundOffset]) -> Vec<Value> {
    let line = |found: &FoundOffset| {
        json!({
            "topic": topic,
            "partition": found.partition.0,
            "offset": found.offset.map(|offset| offset.0),
            "timestamp_ms": found.timestamp.map(|time| time.0),
        })
    };
    found.iter().map(line).collect()
}

fn ends_json(topic: &str, ends: &[(FoundOffset, FoundOffset)]) -> Vec<Value> {
    let line = |(earliest, latest): &(FoundOffset, FoundOffset)| {
        json!({
            "topic": topic,
            "partition": earliest.partition.0,
            "earliest_offset": earliest.offset.map(|offset| offset.0),
            "latest_offset": latest.offset.map(|offset| offset.0),
        })
    };
    ends.iter().map(line).collect()
}

fn shown(offset: Option<Offset>) -> String {
    offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string())
}

fn found_table(found: &[FoundOffset]) -> String {
    let columns = [
        ("PARTITION", Align::Right),
        ("OFFSET", Align::Right),
        ("TIME", Align::Left),
    ];
    let row = |found: &FoundOffset| {
        let time = found.timestamp.map_or_else(|| "-".to_owned(), time::format);
        vec![found.partition.to_string(), shown(found.offset), time]
    };
    output::table(&columns, &found.iter().map(row).collect::<Vec<_>>())
}

fn ends_table(ends: &[(FoundOffset, FoundOffset)]) -> String {
    let columns = [
        ("PARTITION", Align::Right),
        ("EARLIEST", Align::Right),
        ("LATEST", Align::Right),
    ];
    let row = |(earliest, latest): &(FoundOffset, FoundOffset)| {
        vec![
            earliest.partition.to_string(),
            shown(earliest.offset),
            shown(latest.offset),
        ]
    };
    output::table(&columns, &ends.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PartitionId;
    use expect_test::expect;

    fn found(partition: i32, offset: Option<i64>, timestamp: Option<i64>) -> FoundOffset {
        FoundOffset {
            partition: PartitionId(partition),
            offset: offset.map(Offset),
            timestamp: timestamp.map(Timestamp),
        }
    }

    #[test]
    fn a_partition_without_a_record_that_late_has_a_null_offset() {
        let found = [found(0, Some(7), Some(1_357_035_300_000)), found(1, None, None)];
        let lines: Vec<_> = found_json("t", &found).iter().map(Value::to_string).collect();
        assert_eq!(
            lines,
            [
                r#"{"topic":"t","partition":0,"offset":7,"timestamp_ms":1357035300000}"#,
                r#"{"topic":"t","partition":1,"offset":null,"timestamp_ms":null}"#,
            ]
        );
        expect![[r#"
            PARTITION  OFFSET  TIME
                    0       7  2013-01-01T10:15:00.000Z
                    1       -  -
        "#]]
        .assert_eq(&found_table(&found));
    }

    #[test]
    fn without_a_point_both_ends_are_shown() {
        let ends = [(found(0, Some(0), None), found(0, Some(12), None))];
        assert_eq!(
            ends_json("t", &ends)[0].to_string(),
            r#"{"topic":"t","partition":0,"earliest_offset":0,"latest_offset":12}"#
        );
        expect![[r#"
            PARTITION  EARLIEST  LATEST
                    0         0      12
        "#]]
        .assert_eq(&ends_table(&ends));
    }

    #[test]
    fn a_point_is_a_time_milliseconds_or_a_name() {
        assert_eq!(parse_query("12"), Ok(OffsetQuery::Time(Timestamp(12))));
        assert_eq!(
            parse_query("1970-01-01T00:00:01Z"),
            Ok(OffsetQuery::Time(Timestamp(1000)))
        );
        assert_eq!(parse_query("max-timestamp"), Ok(OffsetQuery::MaxTimestamp));
        assert!(parse_query("-1").is_err());
        assert!(parse_query("noon").is_err());
    }
}
