//! Offsets by time, and the ends of the log.

use super::{Client, Error};
use crate::proto::v1::{self, list_offsets_request};
use crate::types::{Offset, PartitionId, Timestamp};

/// What to look for in each partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffsetQuery {
    /// The first record that can be read.
    Earliest,
    /// Where the next record will be read from.
    Latest,
    /// The first record that has the greatest timestamp.
    MaxTimestamp,
    /// The first record with this timestamp or a later one.
    Time(Timestamp),
}

/// What was found in one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundOffset {
    /// Which partition.
    pub partition: PartitionId,
    /// Absent: there is no such record.
    pub offset: Option<Offset>,
    /// The record's timestamp, where a record was found by it.
    pub timestamp: Option<Timestamp>,
}

impl Client {
    /// Looks for offsets in all partitions of a topic; ascending by partition.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn list_offsets(&self, topic: &str, query: OffsetQuery) -> Result<Vec<FoundOffset>, Error> {
        let boundary = |boundary: v1::Boundary| list_offsets_request::At::Boundary(boundary.into());
        let at = match query {
            OffsetQuery::Earliest => boundary(v1::Boundary::Earliest),
            OffsetQuery::Latest => boundary(v1::Boundary::Latest),
            OffsetQuery::MaxTimestamp => boundary(v1::Boundary::MaxTimestamp),
            OffsetQuery::Time(time) => list_offsets_request::At::TimestampMs(time.0),
        };
        let request = v1::ListOffsetsRequest {
            topic: topic.to_owned(),
            partitions: Vec::new(),
            at: Some(at),
            isolation: v1::Isolation::ReadUncommitted.into(),
        };
        let response = self.answer(self.log().list_offsets(request)).await?;
        Ok(response
            .offsets
            .into_iter()
            .map(|found| FoundOffset {
                partition: PartitionId(found.partition),
                offset: found.offset.map(Offset),
                timestamp: found.timestamp_ms.map(Timestamp),
            })
            .collect())
    }
}
