//! What retention would delete, and the holds that it respects.

use std::ops::Range;

use super::{Client, Error};
use crate::proto::v1;
use crate::types::{Offset, PartitionId, Timestamp};

/// A range of a topic that no policy takes anything from.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::{HeldRange, Hold};
/// use siltstone::types::Timestamp;
///
/// let january = Timestamp(1_356_998_400_000)..Timestamp(1_359_676_800_000);
/// let hold = Hold { name: "audit".to_owned(), partition: None, range: HeldRange::Times(january) };
/// client.add_hold("flights", hold).await?;
/// for preview in client.preview_retention("flights").await? {
///     println!("{}: {} segments go, then {:?}", preview.partition, preview.deletions.len(), preview.stay);
/// }
/// client.remove_hold("flights", "audit").await?;
/// assert!(client.list_holds("flights").await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// Unique in the topic.
    pub name: String,
    /// Of which partition; absent means all.
    pub partition: Option<PartitionId>,
    /// What it holds.
    pub range: HeldRange,
}

/// What a hold holds.
///
/// ```
/// use siltstone::client::HeldRange;
/// use siltstone::types::Offset;
///
/// let first_thousand = HeldRange::Offsets(Offset(0)..Offset(1000));
/// # let _ = first_thousand;
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeldRange {
    /// Records at these offsets.
    Offsets(Range<Offset>),
    /// Records with these timestamps.
    Times(Range<Timestamp>),
}

/// What the next look of retention would do to a partition.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// for preview in client.preview_retention("flights").await? {
///     println!("{}: {} bytes stay, from offset {} on", preview.partition, preview.kept_bytes, preview.log_start);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetentionPreview {
    /// Its number.
    pub partition: PartitionId,
    /// Segments that would go, oldest first.
    pub deletions: Vec<SegmentDeletion>,
    /// The log start afterwards.
    pub log_start: Offset,
    /// Bytes of the segments that would stay.
    pub kept_bytes: i64,
    /// Why the first of them stays.
    pub stay: Stay,
}

/// A segment that would go.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// for segment in client.preview_retention("flights").await?.iter().flat_map(|one| &one.deletions) {
///     println!("offsets {} to {}: {:?}", segment.base, segment.end, segment.reason);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentDeletion {
    /// Its first offset.
    pub base: Offset,
    /// Where the log begins without it.
    pub end: Offset,
    /// Bytes of its batches.
    pub size_bytes: i64,
    /// How old it is, where that is known.
    pub age_ms: Option<i64>,
    /// Why it goes.
    pub reason: DeletionReason,
}

/// Why a segment goes.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::DeletionReason;
///
/// let previews = client.preview_retention("flights").await?;
/// let going = previews.iter().flat_map(|one| &one.deletions);
/// println!("{} for their age", going.filter(|segment| segment.reason == DeletionReason::Time).count());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeletionReason {
    /// It lies before the log start.
    Start,
    /// `retention.bytes`.
    Size,
    /// `retention.ms`.
    Time,
}

/// Why the first segment that stays does.
///
/// ```
/// use siltstone::client::Stay;
///
/// fn why(stay: &Stay) -> String {
///     match stay {
///         Stay::NothingLeft => "all of it goes".to_owned(),
///         Stay::NotDue { age_ms } => format!("it is {age_ms:?} ms old"),
///         Stay::Held { name } => format!("held by {name}"),
///         Stay::NotSafe { from } => format!("not safe from {from} on"),
///     }
/// }
/// assert_eq!(why(&Stay::Held { name: "audit".to_owned() }), "held by audit");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stay {
    /// There is none.
    NothingLeft,
    /// No rule asks for it.
    NotDue {
        /// How old it is, under `retention.ms`.
        age_ms: Option<i64>,
    },
    /// It is held.
    Held {
        /// The hold's name.
        name: String,
    },
    /// Readers may not have seen all of it, or it is not synced.
    NotSafe {
        /// From here on.
        from: Offset,
    },
}

impl Client {
    /// Says what the next look of retention would delete of a topic; ascending by partition.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn preview_retention(&self, topic: &str) -> Result<Vec<RetentionPreview>, Error> {
        let mut from = (0, 0);
        let mut previews = Vec::<RetentionPreview>::new();
        loop {
            let request = v1::PreviewRetentionRequest {
                topic: topic.to_owned(),
                from: Some(v1::LogPlace {
                    partition: from.0,
                    offset: from.1,
                }),
            };
            let page = self.answer(self.admin().preview_retention(request)).await?;
            for more in page.partitions.into_iter().map(preview) {
                match previews.last_mut() {
                    // The rest of its deletions, in a later look at the log: that tells how it ends.
                    Some(begun) if begun.partition == more.partition => {
                        let deletions = std::mem::take(&mut begun.deletions);
                        *begun = more;
                        begun.deletions.splice(..0, deletions);
                    }
                    _ => previews.push(more),
                }
            }
            match page.next {
                None => return Ok(previews),
                Some(next) => from = self.further(&from, (next.partition, next.offset))?,
            }
        }
    }

    /// Keeps a range of a topic from every policy; durable on return. The same hold again is no failure.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for an empty range; `FailedPrecondition` for another hold of that name.
    pub async fn add_hold(&self, topic: &str, hold: Hold) -> Result<(), Error> {
        let range = match hold.range {
            HeldRange::Offsets(range) => v1::hold::Range::Offsets(v1::HeldOffsets {
                from: range.start.0,
                to: range.end.0,
            }),
            HeldRange::Times(range) => v1::hold::Range::Times(v1::HeldTimes {
                from_ms: range.start.0,
                to_ms: range.end.0,
            }),
        };
        let hold = v1::Hold {
            name: hold.name,
            partition: hold.partition.map(|partition| partition.0),
            range: Some(range),
        };
        let request = v1::AddHoldRequest {
            topic: topic.to_owned(),
            hold: Some(hold),
        };
        self.answer(self.admin().add_hold(request)).await?;
        Ok(())
    }

    /// Lists a topic's holds in the order in which they were added.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn list_holds(&self, topic: &str) -> Result<Vec<Hold>, Error> {
        let request = v1::ListHoldsRequest {
            topic: topic.to_owned(),
        };
        let response = self.answer(self.admin().list_holds(request)).await?;
        let missing = || self.protocol_error("a hold has no range");
        let hold = |hold: v1::Hold| {
            let range = match hold.range.ok_or_else(missing)? {
                v1::hold::Range::Offsets(range) => HeldRange::Offsets(Offset(range.from)..Offset(range.to)),
                v1::hold::Range::Times(range) => {
                    HeldRange::Times(Timestamp(range.from_ms)..Timestamp(range.to_ms))
                }
            };
            Ok(Hold {
                name: hold.name,
                partition: hold.partition.map(PartitionId),
                range,
            })
        };
        response.holds.into_iter().map(hold).collect()
    }

    /// Removes a hold, durably.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn remove_hold(&self, topic: &str, name: &str) -> Result<(), Error> {
        let request = v1::RemoveHoldRequest {
            topic: topic.to_owned(),
            name: name.to_owned(),
        };
        self.answer(self.admin().remove_hold(request)).await?;
        Ok(())
    }
}

fn preview(told: v1::RetentionPreview) -> RetentionPreview {
    let deletion = |deletion: &v1::SegmentDeletion| SegmentDeletion {
        base: Offset(deletion.base_offset),
        end: Offset(deletion.end_offset),
        size_bytes: deletion.size_bytes,
        age_ms: deletion.age_ms,
        reason: match deletion.reason() {
            v1::DeletionReason::Start => DeletionReason::Start,
            v1::DeletionReason::Size => DeletionReason::Size,
            v1::DeletionReason::Time => DeletionReason::Time,
        },
    };
    let stay = match told.stay() {
        v1::RetentionStay::NothingLeft => Stay::NothingLeft,
        v1::RetentionStay::NotDue => Stay::NotDue { age_ms: told.age_ms },
        v1::RetentionStay::Held => Stay::Held {
            name: told.hold.map(|hold| hold.name).unwrap_or_default(),
        },
        v1::RetentionStay::NotSafe => Stay::NotSafe {
            from: Offset(told.unsafe_from_offset.unwrap_or_default()),
        },
    };
    RetentionPreview {
        partition: PartitionId(told.partition),
        deletions: told.deletions.iter().map(deletion).collect(),
        log_start: Offset(told.log_start_offset),
        kept_bytes: told.kept_bytes,
        stay,
    }
}
