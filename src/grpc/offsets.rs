//! `ListOffsets` and `DeleteRecords`: finding places in the log, and raising where it begins.

use crate::broker::{Broker, Error};
use crate::proto::v1;

use super::convert;
use super::status::invalid;

/// Finds offsets.
pub(super) async fn list(
    broker: &Broker,
    request: v1::ListOffsetsRequest,
) -> Result<v1::ListOffsetsResponse, Error> {
    let topic = convert::topic(&request.topic)?;
    let partitions = request
        .partitions
        .into_iter()
        .map(convert::partition)
        .collect::<Result<Vec<_>, Error>>()?;
    convert::distinct(partitions.iter().copied())?;
    let query = convert::offset_query(request.at)?;
    let isolation = convert::isolation(request.isolation)?;
    let found = broker.list_offsets(&topic, &partitions, query, isolation).await?;
    Ok(v1::ListOffsetsResponse {
        offsets: found.into_iter().map(convert::found_offset).collect(),
    })
}

/// Raises log start offsets.
pub(super) async fn delete_records(
    broker: &Broker,
    request: v1::DeleteRecordsRequest,
) -> Result<v1::DeleteRecordsResponse, Error> {
    let topic = convert::topic(&request.topic)?;
    if request.partitions.is_empty() {
        return Err(invalid(
            "no partition is named; name those whose records are to go",
        ));
    }
    let before = request
        .partitions
        .into_iter()
        .map(|delete| {
            let before = delete
                .before_offset
                .map(|at| convert::offset("before_offset", at));
            Ok((convert::partition(delete.partition)?, before.transpose()?))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    convert::distinct(before.iter().map(|(partition, _)| *partition))?;
    let raised = broker.delete_records(&topic, &before).await?;
    Ok(v1::DeleteRecordsResponse {
        partitions: raised
            .into_iter()
            .map(|(partition, log_start)| v1::LogStart {
                partition: partition.0,
                log_start_offset: log_start.0,
            })
            .collect(),
    })
}
