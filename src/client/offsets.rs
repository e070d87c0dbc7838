//! Offsets by time, the ends of the log, and where it begins.

use super::{Client, Error};
use crate::proto::v1::{self, list_offsets_request};
use crate::types::{Offset, PartitionId, Timestamp};

/// What to look for in each partition.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::OffsetQuery;
///
/// let ends = client.list_offsets("flights", OffsetQuery::Latest).await?;
/// println!("{} partitions", ends.len());
/// # Ok(())
/// # }
/// ```
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
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::OffsetQuery;
///
/// for found in client.list_offsets("flights", OffsetQuery::MaxTimestamp).await? {
///     println!("{}: {:?} at {:?}", found.partition, found.offset, found.timestamp);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundOffset {
    /// Which partition.
    pub partition: PartitionId,
    /// Absent: there is no such record.
    pub offset: Option<Offset>,
    /// The record's timestamp, where a record was found by it.
    pub timestamp: Option<Timestamp>,
}

/// What to delete of one partition.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::DeleteBefore;
/// use siltstone::types::{Offset, PartitionId};
///
/// let first_hundred = DeleteBefore { partition: PartitionId(0), before: Some(Offset(100)) };
/// client.delete_records("flights", &[first_hundred]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeleteBefore {
    /// Which partition.
    pub partition: PartitionId,
    /// Exclusive. Absent: everything that can be read now.
    pub before: Option<Offset>,
}

impl Client {
    /// Raises log start offsets: records before them are gone for every reader. Returns each partition with its log start, in the
    /// order of `partitions`. Durable on return.
    ///
    /// ```no_run
    /// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
    /// use siltstone::client::{DeleteBefore, OffsetQuery};
    /// use siltstone::types::Timestamp;
    ///
    /// // Everything from before 2013 goes.
    /// let new_year = OffsetQuery::Time(Timestamp(1_356_998_400_000));
    /// let found = client.list_offsets("flights", new_year).await?;
    /// let partitions: Vec<_> = found
    ///     .into_iter()
    ///     .map(|found| DeleteBefore { partition: found.partition, before: found.offset })
    ///     .collect();
    /// client.delete_records("flights", &partitions).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `NotFound`; `OutOfRange` for an offset beyond the high watermark.
    pub async fn delete_records(
        &self,
        topic: &str,
        partitions: &[DeleteBefore],
    ) -> Result<Vec<(PartitionId, Offset)>, Error> {
        let asked = partitions.iter().map(|asked| v1::DeleteBefore {
            partition: asked.partition.0,
            before_offset: asked.before.map(|offset| offset.0),
        });
        let request = v1::DeleteRecordsRequest {
            topic: topic.to_owned(),
            partitions: asked.collect(),
        };
        let response = self.answer(self.log().delete_records(request)).await?;
        let start = |start: v1::LogStart| (PartitionId(start.partition), Offset(start.log_start_offset));
        Ok(response.partitions.into_iter().map(start).collect())
    }

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
