//! `siltstone topic compact` and `siltstone topic explain`.
//!
//! `explain` draws each partition's log by offsets:
//!
//! ```text
//!   0 [==========|-----....>>>>] 1200      = tail, clean   | cleaner point   - head, dirty
//!                                          . dirty, and not cleanable yet    > active segment
//! ```

use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::output::{self, Align};
use super::{CliError, time};
use crate::client::{
    Client, Compaction, CompactionExplanation, CompactionState, DamagedPlace, LastPass, PartitionCompaction,
};
use crate::types::Offset;

/// How long one question about a command waits, in milliseconds.
const ASK_MS: u32 = 500;
/// Characters of a drawn log.
const STRIP_WIDTH: usize = 60;

/// Compacts a topic and waits until it is done; how far it is shows on a terminal.
pub(super) async fn run(client: &Client, name: &str, json: bool) -> Result<(), CliError> {
    let mut job = client.compact_now(name).await?;
    let bar = ProgressBar::new(0);
    while !job.complete {
        let (done, total) = progress(&job);
        bar.set_length(total);
        bar.set_position(done);
        job = client.compaction_of(job.handle, ASK_MS).await?;
    }
    bar.finish_and_clear();
    if json {
        output::json_lines(
            &job.partitions
                .iter()
                .map(|one| job_json(name, one))
                .collect::<Vec<_>>(),
        )?;
    } else {
        output::write_all(job_text(name, &job).as_bytes())?;
    }
    let failed = job.partitions.iter().find_map(|one| match &one.state {
        CompactionState::Failed(reason) => {
            Some(format!("{name}-{} was not compacted: {reason}", one.partition))
        }
        _ => None,
    });
    failed.map_or(Ok(()), |reason| Err(CliError::Failed(reason)))
}

/// Bytes done and bytes in all; what waits is not known yet.
fn progress(job: &Compaction) -> (u64, u64) {
    let of = |one: &PartitionCompaction| match one.state {
        CompactionState::Running {
            done_bytes,
            total_bytes,
        } => (done_bytes, total_bytes),
        _ => {
            let worked = one.read_bytes.saturating_add(one.written_bytes);
            (worked, worked)
        }
    };
    let sum = |pick: fn((i64, i64)) -> i64| {
        let bytes = job.partitions.iter().map(|one| pick(of(one)).max(0));
        bytes.map(i64::unsigned_abs).sum()
    };
    (sum(|both| both.0), sum(|both| both.1))
}

fn job_json(name: &str, one: &PartitionCompaction) -> Value {
    let (state, reason) = match &one.state {
        CompactionState::Waiting => ("waiting", None),
        CompactionState::Running { .. } => ("running", None),
        CompactionState::Done(left) => ("done", left.as_deref()),
        CompactionState::Failed(reason) => ("failed", Some(reason.as_str())),
    };
    json!({
        "topic": name,
        "partition": one.partition.0,
        "state": state,
        "reason": reason,
        "before_bytes": one.before_bytes,
        "after_bytes": one.after_bytes,
        "passes": one.passes,
        "read_bytes": one.read_bytes,
        "written_bytes": one.written_bytes,
        "values_kept": one.values_kept,
        "tombstones_kept": one.tombstones_kept,
        "records_dropped": one.records_dropped,
    })
}

fn job_text(name: &str, job: &Compaction) -> String {
    let columns = [
        ("PARTITION", Align::Right),
        ("BEFORE", Align::Right),
        ("AFTER", Align::Right),
        ("VALUES", Align::Right),
        ("TOMBSTONES", Align::Right),
        ("DROPPED", Align::Right),
        ("PASSES", Align::Right),
    ];
    let row = |one: &PartitionCompaction| {
        vec![
            one.partition.to_string(),
            size(one.before_bytes),
            size(one.after_bytes),
            one.values_kept.to_string(),
            one.tombstones_kept.to_string(),
            one.records_dropped.to_string(),
            one.passes.to_string(),
        ]
    };
    let rows: Vec<_> = job.partitions.iter().map(row).collect();
    let failed = |one: &&PartitionCompaction| matches!(one.state, CompactionState::Failed(_));
    let outcome = match job.partitions.iter().filter(failed).count() {
        0 => format!("topic {name} compacted"),
        failed => format!(
            "compaction of topic {name} failed for {failed} of {} partitions; this was done",
            job.partitions.len()
        ),
    };
    let mut text = format!("{outcome}\n\n{}", output::table(&columns, &rows));
    for one in &job.partitions {
        let number = one.partition;
        match &one.state {
            CompactionState::Done(Some(left)) => {
                text.push_str(&format!(
                    "\npartition {number} is not compacted to its end: {left}\n"
                ));
            }
            CompactionState::Failed(reason) => {
                text.push_str(&format!("\npartition {number} failed: {reason}\n"));
            }
            _ => {}
        }
    }
    text
}

/// Shows what compaction does with a topic.
pub(super) async fn explain(client: &Client, name: &str, json: bool) -> Result<(), CliError> {
    let partitions = client.explain_compaction(name).await?;
    if json {
        let lines: Vec<_> = partitions.iter().map(|one| explanation_json(name, one)).collect();
        return output::json_lines(&lines);
    }
    let texts: Vec<_> = partitions.iter().map(|one| explanation_text(name, one)).collect();
    output::write_all(texts.join("\n").as_bytes())
}

fn explanation_json(name: &str, one: &CompactionExplanation) -> Value {
    json!({
        "topic": name,
        "partition": one.partition.0,
        "log_start_offset": one.log_start.0,
        "cleaner_point": one.cleaner_point.0,
        "first_uncleanable_offset": one.first_uncleanable.0,
        "active_start_offset": one.active_start.0,
        "log_end_offset": one.log_end.0,
        "clean_bytes": one.clean_bytes,
        "dirty_bytes": one.dirty_bytes,
        "uncleanable_bytes": one.uncleanable_bytes,
        "dirty_ratio": one.dirty_ratio,
        "min_dirty_ratio": one.min_dirty_ratio,
        "oldest_dirty_age_ms": one.oldest_dirty_age_ms,
        "keys": one.keys.map(|keys| json!({
            "live": keys.live, "tombstones": keys.tombstones, "exact": keys.exact,
        })),
        "last_pass": one.last_pass.as_ref().map(last_pass_json),
        "last_error": one.last_error.as_ref().map(|error| json!({
            "at_ms": error.at.0, "reason": error.reason, "failures": error.failures, "retry_at_ms": error.retry_at.0,
        })),
        "running": one.running.map(|running| json!({
            "since_ms": running.since.0, "done_bytes": running.done_bytes, "total_bytes": running.total_bytes,
        })),
        "next_run_ms": one.next_run.map(|at| at.0),
        "why_not_now": one.why_not_now,
        "promise_deadline_ms": one.promise_deadline.map(|at| at.0),
        "budget_alarm": one.budget_alarm,
    })
}

fn last_pass_json(pass: &LastPass) -> Value {
    let damaged = pass.damaged.iter().map(|place| {
        json!({
            "path": place.path,
            "position": place.position,
            "len_bytes": place.len_bytes,
            "offset": place.offset.0,
            "reason": place.reason,
        })
    });
    json!({
        "began_ms": pass.began.0,
        "took_ms": pass.took_ms,
        "read_bytes": pass.read_bytes,
        "written_bytes": pass.written_bytes,
        "saved_bytes": pass.saved_bytes,
        "records_kept": pass.records_kept,
        "records_dropped": pass.records_dropped,
        "damaged_places": pass.damaged_places,
        "rounds_left": pass.rounds_left,
        "map_keys": pass.map_keys,
        "damaged": damaged.collect::<Vec<_>>(),
    })
}

fn explanation_text(name: &str, one: &CompactionExplanation) -> String {
    let mut lines = vec![
        format!("{name}-{}", one.partition),
        format!("  {}", strip(one)),
        format!(
            "  clean {}, dirty {}, not cleanable yet {}; dirty ratio {:.2}, a pass is worth it above {:.2}",
            size(one.clean_bytes),
            size(one.dirty_bytes),
            size(one.uncleanable_bytes),
            one.dirty_ratio,
            one.min_dirty_ratio
        ),
    ];
    if let Some(age_ms) = one.oldest_dirty_age_ms {
        lines.push(format!(
            "  oldest dirty record: appended at most {} s ago; nothing is shadowed for longer",
            age_ms / 1000
        ));
    }
    if let Some(keys) = one.keys {
        let how = if keys.exact {
            "exactly"
        } else {
            "as the last pass counted"
        };
        lines.push(format!(
            "  {} live keys and {} tombstones, {how}",
            keys.live, keys.tombstones
        ));
    }
    if let Some(pass) = &one.last_pass {
        lines.push(last_pass_text(pass));
        lines.extend(damage_text(pass));
    }
    if let Some(error) = &one.last_error {
        lines.push(format!("  failed {} times: {}", error.failures, error.reason));
    }
    if let Some(deadline) = one.promise_deadline {
        lines.push(format!(
            "  max.compaction.lag.ms is kept until {}",
            time::format(deadline)
        ));
    }
    lines.extend(one.budget_alarm.iter().map(|alarm| format!("  ALARM: {alarm}")));
    lines.push(match (one.running, &one.why_not_now, one.next_run) {
        (Some(running), _, _) => format!(
            "  now: a pass is under way, {} of about {}",
            size(running.done_bytes),
            size(running.total_bytes)
        ),
        (None, Some(why), Some(at)) => format!("  now: no pass, because {why}; next at {}", time::format(at)),
        (None, Some(why), None) => format!("  now: no pass, because {why}"),
        (None, None, _) => "  now: a pass is about to begin".to_owned(),
    });
    lines.join("\n") + "\n"
}

/// Says where damage is, in one line for each place.
fn damage_text(pass: &LastPass) -> Vec<String> {
    let place = |place: &DamagedPlace| {
        format!(
            "  damage, kept as it is: {} at position {}, {} from offset {} on: {}",
            place.path,
            place.position,
            size(place.len_bytes),
            place.offset,
            place.reason
        )
    };
    let mut lines: Vec<String> = pass.damaged.iter().map(place).collect();
    let named = i64::try_from(lines.len()).unwrap_or(i64::MAX);
    if pass.damaged_places > named {
        lines.push(format!("  damage in {} more places", pass.damaged_places - named));
    }
    lines
}

fn last_pass_text(pass: &LastPass) -> String {
    let more = match pass.rounds_left {
        0 => String::new(),
        rounds => format!(
            "; about {rounds} more needed, for the map holds {} keys (cleaner.dedupe_buffer_bytes)",
            pass.map_keys
        ),
    };
    format!(
        "  last pass: {}, {} ms, read {}, wrote {}, saved {}, dropped {} records{more}",
        time::format(pass.began),
        pass.took_ms,
        size(pass.read_bytes),
        size(pass.written_bytes),
        size(pass.saved_bytes),
        pass.records_dropped
    )
}

/// Draws a log. See the module.
fn strip(one: &CompactionExplanation) -> String {
    let (start, end) = (one.log_start.0, one.log_end.0);
    let wide = i64::try_from(STRIP_WIDTH).expect("a screen is small");
    let column = |offset: Offset| {
        let along = i128::from(offset.0 - start) * i128::from(wide) / i128::from((end - start).max(1));
        usize::try_from(along).unwrap_or(0).min(STRIP_WIDTH)
    };
    let (point, uncleanable, active) = (
        column(one.cleaner_point),
        column(one.first_uncleanable),
        column(one.active_start),
    );
    let cell = |at: usize| match at {
        _ if start == end => ' ',
        at if at < point => '=',
        at if at >= active => '>',
        at if at < uncleanable => '-',
        _ => '.',
    };
    let mut cells: String = (0..STRIP_WIDTH).map(cell).collect();
    cells.insert(point, '|');
    format!("{start} [{cells}] {end}   = clean  | cleaner point  - dirty  . not yet  > active")
}

fn size(bytes: i64) -> String {
    output::size(u64::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PartitionId;
    use expect_test::expect;

    fn known(offsets: [i64; 5]) -> CompactionExplanation {
        let [log_start, cleaner_point, first_uncleanable, active_start, log_end] = offsets.map(Offset);
        CompactionExplanation {
            partition: PartitionId(0),
            log_start,
            cleaner_point,
            first_uncleanable,
            active_start,
            log_end,
            clean_bytes: 1024,
            dirty_bytes: 2048,
            uncleanable_bytes: 0,
            dirty_ratio: 0.666,
            min_dirty_ratio: 0.5,
            oldest_dirty_age_ms: Some(5_000),
            keys: None,
            last_pass: None,
            last_error: None,
            running: None,
            next_run: None,
            why_not_now: Some("nothing is dirty".to_owned()),
            promise_deadline: None,
            budget_alarm: None,
        }
    }

    #[test]
    fn a_log_is_drawn_from_its_tail_to_its_active_segment() {
        // Up to the legend: the cells of an empty log are blanks themselves.
        let drawn = |offsets| {
            let strip = strip(&known(offsets));
            strip.split_once("   = clean").map(|(log, _)| log.to_owned())
        };
        let cells = |clean, dirty, not_yet, active| {
            let repeat = |cell: &str, count| cell.repeat(count);
            format!(
                "{}|{}{}{}",
                repeat("=", clean),
                repeat("-", dirty),
                repeat(".", not_yet),
                repeat(">", active)
            )
        };
        let expected = format!("100 [{}] 700", cells(20, 10, 10, 20));
        assert_eq!(drawn([100, 300, 400, 500, 700]), Some(expected));
        let clean = format!("0 [{}] 5", cells(60, 0, 0, 0));
        assert_eq!(drawn([0, 5, 5, 5, 5]), Some(clean));
        let empty = format!("7 [|{}] 7", " ".repeat(STRIP_WIDTH));
        assert_eq!(drawn([7, 7, 7, 7, 7]), Some(empty));
    }

    #[test]
    fn an_explanation_says_why_there_is_no_pass() {
        let text = explanation_text("planes", &known([0, 1, 3, 3, 3]));
        expect![[r#"
            planes-0
              0 [====================|----------------------------------------] 3   = clean  | cleaner point  - dirty  . not yet  > active
              clean 1.0 KiB, dirty 2.0 KiB, not cleanable yet 0 B; dirty ratio 0.67, a pass is worth it above 0.50
              oldest dirty record: appended at most 5 s ago; nothing is shadowed for longer
              now: no pass, because nothing is dirty
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn an_explanation_says_how_many_rounds_are_left_and_why_and_where_damage_is() {
        let place = |position, reason: &str| DamagedPlace {
            path: "data/planes-0/00000000000000000000.log".to_owned(),
            position,
            len_bytes: 70,
            offset: Offset(1),
            reason: reason.to_owned(),
        };
        let known = CompactionExplanation {
            oldest_dirty_age_ms: None,
            last_pass: Some(LastPass {
                began: crate::types::Timestamp(0),
                took_ms: 12,
                read_bytes: 2048,
                written_bytes: 1024,
                saved_bytes: 1024,
                records_kept: 3,
                records_dropped: 4,
                damaged_places: 3,
                rounds_left: 2,
                map_keys: 1000,
                damaged: vec![place(70, "crc is wrong"), place(210, "the file ends")],
            }),
            ..known([0, 1, 3, 3, 3])
        };
        let text = explanation_text("planes", &known);
        expect![[r#"
            planes-0
              0 [====================|----------------------------------------] 3   = clean  | cleaner point  - dirty  . not yet  > active
              clean 1.0 KiB, dirty 2.0 KiB, not cleanable yet 0 B; dirty ratio 0.67, a pass is worth it above 0.50
              last pass: 1970-01-01T00:00:00.000Z, 12 ms, read 2.0 KiB, wrote 1.0 KiB, saved 1.0 KiB, dropped 4 records; about 2 more needed, for the map holds 1000 keys (cleaner.dedupe_buffer_bytes)
              damage, kept as it is: data/planes-0/00000000000000000000.log at position 70, 70 B from offset 1 on: crc is wrong
              damage, kept as it is: data/planes-0/00000000000000000000.log at position 210, 70 B from offset 1 on: the file ends
              damage in 1 more places
              now: no pass, because nothing is dirty
        "#]].assert_eq(&text);
        let told = explanation_json("planes", &known);
        assert_eq!(told["last_pass"]["damaged"][1]["position"], 210);
        assert_eq!(told["last_pass"]["rounds_left"], 2);
    }

    #[test]
    fn a_command_that_failed_says_so_and_what_was_done() {
        let one = |partition, state| PartitionCompaction {
            partition: PartitionId(partition),
            state,
            before_bytes: 2048,
            after_bytes: 1024,
            passes: 1,
            read_bytes: 0,
            written_bytes: 0,
            values_kept: 3,
            tombstones_kept: 0,
            records_dropped: 4,
        };
        let job = Compaction {
            handle: 1,
            complete: true,
            partitions: vec![
                one(0, CompactionState::Done(None)),
                one(1, CompactionState::Failed("the disk is full".to_owned())),
            ],
        };
        let text = job_text("f", &job);
        let first = text.lines().next();
        assert_eq!(
            first,
            Some("compaction of topic f failed for 1 of 2 partitions; this was done")
        );
        assert!(
            text.ends_with("\npartition 1 failed: the disk is full\n"),
            "{text}"
        );
        let done = Compaction {
            partitions: vec![one(0, CompactionState::Done(None))],
            ..job
        };
        assert!(job_text("f", &done).starts_with("topic f compacted\n"));
    }
}
