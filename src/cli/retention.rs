//! `siltstone topic retention` and `siltstone topic hold`: what would be deleted, and what must not be.

use serde_json::{Value, json};

use super::output::{self, Align};
use super::{CliError, time};
use crate::client::{Client, DeletionReason, HeldRange, Hold, RetentionPreview, SegmentDeletion, Stay};
use crate::types::{Offset, PartitionId, Timestamp};

/// Subcommands of `topic hold`.
#[derive(clap::Subcommand, Debug)]
pub(super) enum HoldCommand {
    /// Keep a range of a topic from retention, compaction and deletion
    Add {
        /// Of which topic
        topic: String,
        /// The hold's name, unique in the topic
        name: String,
        /// The first that is held: an offset, or a time like 2013-01-03T00:00:00Z
        #[arg(long, value_name = "POINT", value_parser = parse_point)]
        from: Point,
        /// The first after it that is not: of the same kind
        #[arg(long, value_name = "POINT", value_parser = parse_point)]
        to: Point,
        /// Only of this partition
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
        partition: Option<i32>,
    },
    /// List a topic's holds
    List {
        /// Of which topic
        topic: String,
        /// Print one JSON object a hold
        #[arg(long)]
        json: bool,
    },
    /// Remove a hold; its records follow the topic's policy again
    Remove {
        /// Of which topic
        topic: String,
        /// The hold's name
        name: String,
    },
}

/// An end of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Point {
    Offset(Offset),
    Time(Timestamp),
}

fn parse_point(text: &str) -> Result<Point, String> {
    let offset = text.parse().ok().filter(|offset| *offset >= 0).map(Offset);
    let point = offset.map(Point::Offset);
    point
        .or_else(|| time::parse(text).map(Point::Time))
        .ok_or_else(|| "not an offset, nor a time like 2013-01-03T00:00:00Z".to_owned())
}

impl HoldCommand {
    /// Returns the topic that it is about.
    pub(super) fn topic(&self) -> &str {
        match self {
            Self::Add { topic, .. } | Self::List { topic, .. } | Self::Remove { topic, .. } => topic,
        }
    }

    /// Refuses what can be told wrong without a server.
    pub(super) fn check(&self) -> Result<(), CliError> {
        match self {
            Self::Add { from, to, .. } => range(*from, *to).map(drop),
            Self::List { .. } | Self::Remove { .. } => Ok(()),
        }
    }

    /// Runs the command.
    pub(super) async fn run(self, client: &Client) -> Result<(), CliError> {
        match self {
            Self::Add {
                topic,
                name,
                from,
                to,
                partition,
            } => {
                let hold = Hold {
                    name,
                    partition: partition.map(PartitionId),
                    range: range(from, to)?,
                };
                let text = format!("topic {topic}: {} held by {}\n", shown(&hold.range), hold.name);
                client.add_hold(&topic, hold).await?;
                output::write_all(text.as_bytes())
            }
            Self::List { topic, json } => {
                let holds = client.list_holds(&topic).await?;
                if json {
                    return output::json_lines(&holds.iter().map(hold_json).collect::<Vec<_>>());
                }
                output::write_all(holds_text(&holds).as_bytes())
            }
            Self::Remove { topic, name } => {
                client.remove_hold(&topic, &name).await?;
                output::write_all(format!("topic {topic}: hold {name} removed\n").as_bytes())
            }
        }
    }
}

fn range(from: Point, to: Point) -> Result<HeldRange, CliError> {
    match (from, to) {
        (Point::Offset(from), Point::Offset(to)) => Ok(HeldRange::Offsets(from..to)),
        (Point::Time(from), Point::Time(to)) => Ok(HeldRange::Times(from..to)),
        _ => Err(CliError::Usage(
            "--from and --to are an offset and a time; give two of a kind".to_owned(),
        )),
    }
}

fn shown(range: &HeldRange) -> String {
    match range {
        HeldRange::Offsets(range) => format!("offsets {} to {}", range.start, range.end),
        HeldRange::Times(range) => {
            format!(
                "times {} to {}",
                time::format(range.start),
                time::format(range.end)
            )
        }
    }
}

fn hold_json(hold: &Hold) -> Value {
    let (offsets, times) = match &hold.range {
        HeldRange::Offsets(range) => (Some([range.start.0, range.end.0]), None),
        HeldRange::Times(range) => (None, Some([range.start.0, range.end.0])),
    };
    json!({
        "hold": hold.name,
        "partition": hold.partition.map(|partition| partition.0),
        "offsets": offsets,
        "times_ms": times,
    })
}

fn holds_text(holds: &[Hold]) -> String {
    let columns = [
        ("HOLD", Align::Left),
        ("PARTITION", Align::Left),
        ("RANGE", Align::Left),
    ];
    let row = |hold: &Hold| {
        let partition = hold
            .partition
            .map_or_else(|| "all".to_owned(), |own| own.to_string());
        vec![hold.name.clone(), partition, shown(&hold.range)]
    };
    output::table(&columns, &holds.iter().map(row).collect::<Vec<_>>())
}

/// Shows what the next look of retention would delete of a topic.
pub(super) async fn preview(client: &Client, topic: &str, json: bool) -> Result<(), CliError> {
    let previews = client.preview_retention(topic).await?;
    if json {
        return output::json_lines(&previews.iter().map(preview_json).collect::<Vec<_>>());
    }
    output::write_all(previews_text(&previews).as_bytes())
}

fn reason(reason: DeletionReason) -> &'static str {
    match reason {
        DeletionReason::Start => "start",
        DeletionReason::Size => "size",
        DeletionReason::Time => "time",
    }
}

fn preview_json(preview: &RetentionPreview) -> Value {
    let deletion = |deletion: &SegmentDeletion| {
        json!({
            "base_offset": deletion.base.0,
            "end_offset": deletion.end.0,
            "size_bytes": deletion.size_bytes,
            "age_ms": deletion.age_ms,
            "reason": reason(deletion.reason),
        })
    };
    let stay = match &preview.stay {
        Stay::NothingLeft => json!({ "reason": "nothing_left" }),
        Stay::NotDue { age_ms } => json!({ "reason": "not_due", "age_ms": age_ms }),
        Stay::Held { name } => json!({ "reason": "held", "hold": name }),
        Stay::NotSafe { from } => json!({ "reason": "not_safe", "from_offset": from.0 }),
    };
    json!({
        "partition": preview.partition.0,
        "deletions": preview.deletions.iter().map(deletion).collect::<Vec<_>>(),
        "log_start_offset": preview.log_start.0,
        "kept_bytes": preview.kept_bytes,
        "stay": stay,
    })
}

fn previews_text(previews: &[RetentionPreview]) -> String {
    let columns = [
        ("PARTITION", Align::Right),
        ("SEGMENTS TO GO", Align::Right),
        ("BYTES", Align::Right),
        ("BY", Align::Left),
        ("START THEN", Align::Right),
        ("STAYS", Align::Right),
        ("BECAUSE", Align::Left),
    ];
    let size = |bytes: i64| output::size(u64::try_from(bytes).unwrap_or(0));
    let row = |preview: &RetentionPreview| {
        let mut by: Vec<&str> = preview.deletions.iter().map(|gone| reason(gone.reason)).collect();
        by.dedup();
        vec![
            preview.partition.to_string(),
            preview.deletions.len().to_string(),
            size(preview.deletions.iter().map(|gone| gone.size_bytes).sum()),
            if by.is_empty() {
                "-".to_owned()
            } else {
                by.join(", ")
            },
            preview.log_start.to_string(),
            size(preview.kept_bytes),
            because(&preview.stay),
        ]
    };
    output::table(&columns, &previews.iter().map(row).collect::<Vec<_>>())
}

fn because(stay: &Stay) -> String {
    match stay {
        Stay::NothingLeft => "nothing is left".to_owned(),
        Stay::NotDue { age_ms: None } => "no rule asks for more".to_owned(),
        Stay::NotDue { age_ms: Some(age_ms) } => format!("the next segment is {age_ms} ms old"),
        Stay::Held { name } => format!("held by {name}"),
        Stay::NotSafe { from } => format!("offsets from {from} on are not yet safe"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn previews() -> Vec<RetentionPreview> {
        let deletion = |base: i64, reason| SegmentDeletion {
            base: Offset(base),
            end: Offset(base + 10),
            size_bytes: 2048,
            age_ms: Some(7),
            reason,
        };
        let preview = |number, deletions: Vec<SegmentDeletion>, stay| RetentionPreview {
            partition: PartitionId(number),
            log_start: deletions.last().map_or(Offset(0), |last| last.end),
            deletions,
            kept_bytes: 512,
            stay,
        };
        let gone = vec![
            deletion(0, DeletionReason::Size),
            deletion(10, DeletionReason::Time),
        ];
        let held = Stay::Held {
            name: "case-7".to_owned(),
        };
        vec![
            preview(0, gone, held),
            preview(1, Vec::new(), Stay::NotDue { age_ms: Some(9) }),
        ]
    }

    #[test]
    fn a_preview_says_what_goes_and_what_keeps_the_rest() {
        expect![[r#"
            PARTITION  SEGMENTS TO GO    BYTES  BY          START THEN  STAYS  BECAUSE
                    0               2  4.0 KiB  size, time          20  512 B  held by case-7
                    1               0      0 B  -                    0  512 B  the next segment is 9 ms old
        "#]]
        .assert_eq(&previews_text(&previews()));
        expect![[r#"{"partition":1,"deletions":[],"log_start_offset":0,"kept_bytes":512,"stay":{"reason":"not_due","age_ms":9}}"#]]
            .assert_eq(&preview_json(&previews()[1]).to_string());
    }

    #[test]
    fn a_range_is_of_two_offsets_or_of_two_times() {
        let point = |text| parse_point(text).expect("a point");
        assert_eq!(
            range(point("3"), point("9")).ok(),
            Some(HeldRange::Offsets(Offset(3)..Offset(9)))
        );
        assert!(matches!(
            range(point("1970-01-01T00:00:00Z"), point("1970-01-02T00:00:00Z")),
            Ok(HeldRange::Times(_))
        ));
        assert!(range(point("3"), point("1970-01-02T00:00:00Z")).is_err());
        assert!(parse_point("-1").is_err());
    }
}
