//! Compaction: the messages of `AdminService` and the broker's words for them.

use crate::broker::{
    Broker, CompactNow, CompactWait, CompactionExplanation, CompactionJob, DamagedPlace, Error, Exactness,
    JobState, LogDescription, LogSegment, PartitionJob, SegmentState,
};
use crate::proto::v1;
use crate::types::{PartitionId, TopicName};

use super::pages::PAGE_PARTITIONS;
use super::retention::told_hold;
use super::{convert, pages};

/// What a call asks for.
pub(super) enum Wish {
    /// A new command.
    Begin(CompactNow),
    /// How an earlier one stands.
    Ask(u64),
}

/// Reads a wish, and how long its answer may take.
pub(super) fn wish(request: v1::CompactNowRequest) -> Result<(Wish, CompactWait), Error> {
    let wait = match request.max_wait_ms {
        Some(ms) => CompactWait::AtMostMs(u64::from(ms)),
        None => CompactWait::UntilDone,
    };
    let wish = match request.handle {
        Some(handle) => Wish::Ask(handle),
        None => {
            let (topic, partitions) = place(&request.topic, &request.partitions)?;
            Wish::Begin(CompactNow { topic, partitions })
        }
    };
    Ok((wish, wait))
}

/// Reads a topic and some of its partitions.
pub(super) fn place(topic: &str, partitions: &[i32]) -> Result<(TopicName, Vec<PartitionId>), Error> {
    let partitions = partitions
        .iter()
        .map(|number| convert::partition(*number))
        .collect::<Result<Vec<_>, Error>>()?;
    convert::distinct(partitions.iter().copied())?;
    Ok((convert::topic(topic)?, partitions))
}

/// Tells how a command stands, of the partitions from `first` on as many as fit.
pub(super) fn told_job(job: CompactionJob, first: PartitionId) -> v1::CompactNowResponse {
    let (handle, complete) = (job.handle, job.is_over());
    let rest = job.partitions.into_iter().filter(|one| one.partition >= first);
    let (partitions, left) = pages::page(rest.map(told_partition), usize::MAX);
    v1::CompactNowResponse {
        handle,
        complete,
        partitions,
        next_partition: left.map(|left| left.partition),
    }
}

/// Explains the compaction of partitions, as many as fit.
pub(super) fn explain(
    broker: &Broker,
    request: v1::ExplainCompactionRequest,
) -> Result<v1::ExplainCompactionResponse, Error> {
    let (topic, partitions) = place(&request.topic, &request.partitions)?;
    let first = convert::partition(request.first_partition)?;
    let explained = broker.explain_compaction(&topic, &pages::asked(partitions, first))?;
    let (partitions, left) = pages::page(explained.into_iter().map(told_explanation), PAGE_PARTITIONS);
    Ok(v1::ExplainCompactionResponse {
        partitions,
        next_partition: left.map(|left| left.partition),
    })
}

/// Describes logs segment by segment, as many as fit.
pub(super) fn describe(
    broker: &Broker,
    request: v1::DescribeLogRequest,
) -> Result<v1::DescribeLogResponse, Error> {
    let (topic, partitions) = place(&request.topic, &request.partitions)?;
    let from = convert::place(request.from)?;
    let described = broker.describe_log(&topic, &pages::asked(partitions, from.0))?;
    let (partitions, next) = pages::page_of_parts(described.into_iter().map(told_log), from);
    Ok(v1::DescribeLogResponse { partitions, next })
}

fn told_partition(job: PartitionJob) -> v1::PartitionCompaction {
    let mut told = v1::PartitionCompaction {
        partition: job.partition.0,
        before_bytes: convert::count(job.before_bytes),
        after_bytes: convert::count(job.after_bytes),
        passes: i32::try_from(job.passes).unwrap_or(i32::MAX),
        read_bytes: convert::count(job.read_bytes),
        written_bytes: convert::count(job.written_bytes),
        values_kept: convert::count(job.values_kept),
        tombstones_kept: convert::count(job.tombstones_kept),
        records_dropped: convert::count(job.records_dropped),
        ..v1::PartitionCompaction::default()
    };
    let state = match job.state {
        JobState::Waiting => v1::CompactionState::Waiting,
        JobState::Running {
            done_bytes,
            total_bytes,
        } => {
            told.done_bytes = convert::count(done_bytes);
            told.total_bytes = convert::count(total_bytes);
            v1::CompactionState::Running
        }
        JobState::Done { left } => {
            told.reason = left.unwrap_or_default();
            v1::CompactionState::Done
        }
        JobState::Failed { reason } => {
            told.reason = reason;
            v1::CompactionState::Failed
        }
    };
    told.set_state(state);
    told
}

fn damaged_place(place: DamagedPlace) -> v1::DamagedPlace {
    v1::DamagedPlace {
        path: place.path.display().to_string(),
        position: convert::count(place.position),
        len_bytes: convert::count(place.len_bytes),
        offset: place.offset.0,
        reason: place.reason,
    }
}

fn told_explanation(known: CompactionExplanation) -> v1::CompactionExplanation {
    let last_pass = known.last_pass.map(|pass| v1::LastPass {
        began_ms: pass.at.0,
        took_ms: convert::count(pass.took_ms),
        read_bytes: convert::count(pass.read_bytes),
        written_bytes: convert::count(pass.written_bytes),
        saved_bytes: convert::count(pass.saved_bytes),
        records_kept: convert::count(pass.records_kept),
        records_dropped: convert::count(pass.records_dropped),
        damaged_places: convert::count(pass.damaged_places),
        rounds_left: pass.rounds_left.map_or(0, |left| i64::from(left.estimate)),
        map_keys: pass.rounds_left.map_or(0, |left| convert::count(left.map_keys)),
        damaged: pass.damaged.into_iter().map(damaged_place).collect(),
    });
    v1::CompactionExplanation {
        partition: known.partition.0,
        log_start_offset: known.log_start.0,
        cleaner_point: known.cleaner_point.0,
        first_uncleanable_offset: known.first_uncleanable.0,
        active_start_offset: known.active_start.0,
        log_end_offset: known.log_end.0,
        clean_bytes: convert::count(known.clean_bytes),
        dirty_bytes: convert::count(known.dirty_bytes),
        uncleanable_bytes: convert::count(known.uncleanable_bytes),
        dirty_ratio: known.dirty_ratio,
        min_dirty_ratio: known.min_dirty_ratio,
        oldest_dirty_age_ms: known.oldest_dirty_age_ms,
        keys: known.keys.map(|keys| v1::KeyCounts {
            live: convert::count(keys.live),
            tombstones: convert::count(keys.tombstones),
            exact: keys.exactness == Exactness::Exact,
        }),
        last_pass,
        last_error: known.last_error.map(|error| v1::PassError {
            at_ms: error.at.0,
            reason: error.reason,
            failures: i32::try_from(error.failures).unwrap_or(i32::MAX),
            retry_at_ms: error.retry_at.0,
        }),
        running: known.running.map(|running| v1::RunningPass {
            since_ms: running.since.0,
            done_bytes: convert::count(running.done_bytes),
            total_bytes: convert::count(running.total_bytes),
        }),
        next_run_ms: known.next_run.map(|at| at.0),
        why_not_now: known.why_not_now.unwrap_or_default(),
        promise_deadline_ms: known.promise_deadline.map(|at| at.0),
        budget_alarm: known.budget_alarm.unwrap_or_default(),
    }
}

fn told_log(log: LogDescription) -> v1::LogDescription {
    v1::LogDescription {
        partition: log.partition.0,
        segments: log.segments.into_iter().map(told_segment).collect(),
        log_start_offset: log.log_start.0,
        cleaner_point: log.cleaner_point.0,
        last_stable_offset: log.last_stable.0,
        high_watermark: log.high_watermark.0,
        recovery_point: log.recovery_point.0,
        log_end_offset: log.log_end.0,
        compacted_below: log.compacted_below.0,
        tombstones_gone_below: log.tombstones_gone_below.0,
        holds: log.holds.into_iter().map(told_hold).collect(),
        local_start_offset: log.local_start.0,
        archive: log.archive.map(convert::partition_archive),
    }
}

fn told_segment(segment: LogSegment) -> v1::LogSegment {
    let state = match segment.state {
        SegmentState::Clean => v1::SegmentState::Clean,
        SegmentState::Dirty => v1::SegmentState::Dirty,
        SegmentState::Active => v1::SegmentState::Active,
    };
    v1::LogSegment {
        base_offset: segment.base.0,
        end_offset: segment.next.0,
        size_bytes: convert::count(segment.size_bytes),
        first_append_ms: segment.first_append.map(|at| at.0),
        last_append_ms: segment.last_append.map(|at| at.0),
        state: i32::from(state),
    }
}
