//! Holds and previews of retention: the messages of `AdminService` and the broker's words for them.

use crate::broker::{Broker, DeletionReason, Error, HeldRange, RetentionPreview, Stay, TopicHold};
use crate::proto::v1;
use crate::types::{Offset, Timestamp};

use super::status::invalid;
use super::{convert, pages};

/// Reads a hold.
pub(super) fn hold(hold: Option<v1::Hold>) -> Result<TopicHold, Error> {
    let hold = hold.ok_or_else(|| invalid("hold is missing"))?;
    let range = match hold.range {
        Some(v1::hold::Range::Offsets(range)) => {
            HeldRange::Offsets(convert::offset("from", range.from)?..convert::offset("to", range.to)?)
        }
        Some(v1::hold::Range::Times(range)) => {
            HeldRange::Times(Timestamp(range.from_ms)..Timestamp(range.to_ms))
        }
        None => return Err(invalid("hold has no range; set offsets or times")),
    };
    Ok(TopicHold {
        name: hold.name,
        partition: hold.partition.map(convert::partition).transpose()?,
        range,
    })
}

/// Tells a hold.
pub(super) fn told_hold(hold: TopicHold) -> v1::Hold {
    v1::Hold {
        name: hold.name,
        partition: hold.partition.map(|partition| partition.0),
        range: Some(told_range(&hold.range)),
    }
}

fn told_range(range: &HeldRange) -> v1::hold::Range {
    match range {
        HeldRange::Offsets(range) => v1::hold::Range::Offsets(v1::HeldOffsets {
            from: range.start.0,
            to: range.end.0,
        }),
        HeldRange::Times(range) => v1::hold::Range::Times(v1::HeldTimes {
            from_ms: range.start.0,
            to_ms: range.end.0,
        }),
    }
}

/// Says what the next look does to a topic, of as many partitions as fit.
pub(super) fn preview(
    broker: &Broker,
    request: v1::PreviewRetentionRequest,
) -> Result<v1::PreviewRetentionResponse, Error> {
    let topic = convert::topic(&request.topic)?;
    let from = convert::place(request.from)?;
    let previews = broker.preview_retention(&topic, &pages::asked(Vec::new(), from.0))?;
    let (partitions, next) = pages::page_of_parts(previews.into_iter().map(told_preview), from);
    Ok(v1::PreviewRetentionResponse { partitions, next })
}

/// Tells what the next look does to a partition.
fn told_preview(preview: RetentionPreview) -> v1::RetentionPreview {
    let (number, plan) = (preview.partition.0, preview.plan);
    let mut told = v1::RetentionPreview {
        partition: number,
        log_start_offset: plan.log_start.0,
        kept_bytes: convert::count(plan.kept_bytes),
        ..v1::RetentionPreview::default()
    };
    told.deletions = plan
        .deletions
        .into_iter()
        .map(|deletion| v1::SegmentDeletion {
            base_offset: deletion.base.0,
            end_offset: deletion.end.0,
            size_bytes: convert::count(deletion.size_bytes),
            age_ms: deletion.age_ms,
            reason: i32::from(match deletion.reason {
                DeletionReason::Start => v1::DeletionReason::Start,
                DeletionReason::Size => v1::DeletionReason::Size,
                DeletionReason::Time => v1::DeletionReason::Time,
            }),
        })
        .collect();
    let stay = match plan.stay {
        Stay::NothingLeft => v1::RetentionStay::NothingLeft,
        Stay::NotDue { age_ms } => {
            told.age_ms = age_ms;
            v1::RetentionStay::NotDue
        }
        Stay::Held(range) => {
            told.hold = Some(v1::Hold {
                name: preview.hold.unwrap_or_default(),
                partition: Some(number),
                range: Some(told_range(&range)),
            });
            v1::RetentionStay::Held
        }
        Stay::NotSafe { from: Offset(from) } => {
            told.unsafe_from_offset = Some(from);
            v1::RetentionStay::NotSafe
        }
    };
    told.set_stay(stay);
    told
}
