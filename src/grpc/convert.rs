//! Translation between the messages of `proto/` and the broker's words.
//!
//! Everything a message can say wrongly is refused here with a text that says what is right; beyond this file a value is
//! of the broker's own types. What it does not check: anything that needs the log, a topic or its settings.

use std::collections::HashSet;

use crate::broker::{
    Aborted, Acks, Appended, ConfigSource, Error, FoundOffset, NewRecord, Novelty, OffsetQuery,
    PartitionArchive, PartitionDescription, ReadEnd, ReadStart, TopicDescription, TopicSummary,
};
use crate::proto::v1;
use crate::record::{Codec, Header, ProducerStamp, Record};
use crate::types::{
    Isolation, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicName,
};

use super::pages;
use super::status::invalid;

/// How records are to travel back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// As messages.
    Records,
    /// As batches.
    Batches,
}

pub(super) fn topic(name: &str) -> Result<TopicName, Error> {
    TopicName::new(name).map_err(|error| invalid(error.to_string()))
}

pub(super) fn partition(number: i32) -> Result<PartitionId, Error> {
    match number {
        0.. => Ok(PartitionId(number)),
        _ => Err(invalid(format!(
            "partition is {number}; partitions are numbered from 0"
        ))),
    }
}

pub(super) fn offset(field: &str, offset: i64) -> Result<Offset, Error> {
    match offset {
        0.. => Ok(Offset(offset)),
        _ => Err(invalid(format!(
            "{field} is {offset}; offsets are counted from 0"
        ))),
    }
}

/// Refuses a partition that is named twice.
pub(super) fn distinct(partitions: impl Iterator<Item = PartitionId>) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for partition in partitions {
        if !seen.insert(partition) {
            return Err(invalid(format!(
                "partition {partition} is named twice; name each partition once"
            )));
        }
    }
    Ok(())
}

/// Takes where a page begins.
pub(super) fn place(place: Option<v1::LogPlace>) -> Result<(PartitionId, Offset), Error> {
    let v1::LogPlace {
        partition: number,
        offset: at,
    } = place.unwrap_or_default();
    Ok((partition(number)?, offset("from", at)?))
}

fn known<E: TryFrom<i32>>(field: &str, number: i32) -> Result<E, Error> {
    E::try_from(number).map_err(|_| invalid(format!("{field} is {number}, which this server does not know")))
}

pub(super) fn acks(number: i32) -> Result<Acks, Error> {
    Ok(match known::<v1::Acks>("acks", number)? {
        v1::Acks::All => Acks::All,
        v1::Acks::Leader => Acks::Leader,
        v1::Acks::None => Acks::None,
    })
}

pub(super) fn codec(number: i32) -> Result<Codec, Error> {
    Ok(match known::<v1::Compression>("compression", number)? {
        v1::Compression::None => Codec::None,
        v1::Compression::Gzip => Codec::Gzip,
        v1::Compression::Snappy => Codec::Snappy,
        v1::Compression::Lz4 => Codec::Lz4,
        v1::Compression::Zstd => Codec::Zstd,
    })
}

pub(super) fn isolation(number: i32) -> Result<Isolation, Error> {
    Ok(match known::<v1::Isolation>("isolation", number)? {
        v1::Isolation::ReadUncommitted => Isolation::ReadUncommitted,
        v1::Isolation::ReadCommitted => Isolation::ReadCommitted,
    })
}

pub(super) fn format(number: i32) -> Result<Format, Error> {
    Ok(match known::<v1::RecordFormat>("format", number)? {
        v1::RecordFormat::Records => Format::Records,
        v1::RecordFormat::Batches => Format::Batches,
    })
}

pub(super) fn producer(stamp: v1::ProducerStamp) -> Result<ProducerStamp, Error> {
    let v1::ProducerStamp {
        producer_id,
        producer_epoch,
        base_sequence,
    } = stamp;
    if producer_id < 0 || base_sequence < 0 {
        return Err(invalid(format!(
            "producer_id is {producer_id} and base_sequence {base_sequence}; neither is ever negative"
        )));
    }
    match i16::try_from(producer_epoch) {
        Ok(epoch @ 0..) => Ok(ProducerStamp {
            id: ProducerId(producer_id),
            epoch: ProducerEpoch(epoch),
            base_sequence: Some(Sequence(base_sequence)),
        }),
        _ => Err(invalid(format!(
            "producer_epoch is {producer_epoch}; it is 0 to {}",
            i16::MAX
        ))),
    }
}

/// Takes the `index`th record of a request.
pub(super) fn new_record(index: usize, record: v1::Record) -> Result<NewRecord, Error> {
    if let Some(timestamp_ms @ ..0) = record.timestamp_ms {
        return Err(invalid(format!(
            "timestamp_ms of record {index} is {timestamp_ms}; it is 0 or greater, or left out for the server's clock"
        )));
    }
    Ok(NewRecord {
        key: record.key,
        value: record.value,
        timestamp: record.timestamp_ms.map(Timestamp),
        headers: record
            .headers
            .into_iter()
            .map(|header| Header {
                key: header.key.into(),
                value: header.value,
            })
            .collect(),
    })
}

pub(super) fn stored_record(record: Record) -> v1::StoredRecord {
    v1::StoredRecord {
        offset: record.offset.0,
        timestamp_ms: record.timestamp.map(|timestamp| timestamp.0),
        key: record.key,
        value: record.value,
        headers: record
            .headers
            .into_iter()
            .map(|header| v1::Header {
                key: String::from_utf8_lossy(&header.key).into_owned(),
                value: header.value,
            })
            .collect(),
    }
}

/// Tells where records came to lie; with [`Acks::None`] the offsets stay untold.
pub(super) fn appended(
    partition: PartitionId,
    record_indexes: Vec<u32>,
    at: Appended,
    acks: Acks,
) -> v1::Appended {
    let told = |offset: Offset| (acks != Acks::None).then_some(offset.0);
    v1::Appended {
        partition: partition.0,
        base_offset: told(at.base_offset),
        last_offset: told(at.last_offset),
        log_append_time_ms: at.log_append_time.map(|time| time.0),
        log_start_offset: at.log_start.0,
        duplicate: at.novelty == Novelty::Duplicate,
        record_indexes,
        error: None,
    }
}

pub(super) fn aborted(transactions: &[Aborted]) -> Vec<v1::AbortedTransaction> {
    transactions
        .iter()
        .map(|aborted| v1::AbortedTransaction {
            producer_id: aborted.producer_id.0,
            first_offset: aborted.first_offset.0,
        })
        .collect()
}

pub(super) fn read_start(start: Option<v1::ReadStart>) -> Result<Option<ReadStart>, Error> {
    use v1::read_start::At;
    let Some(at) = start.and_then(|start| start.at) else {
        return Ok(None);
    };
    Ok(Some(match at {
        At::Earliest(chosen) => chosen_as("start.earliest", chosen, ReadStart::Earliest)?,
        At::Latest(chosen) => chosen_as("start.latest", chosen, ReadStart::Latest)?,
        At::Offset(at) => ReadStart::Offset(offset("start.offset", at)?),
        At::TimestampMs(at) => ReadStart::Time(Timestamp(at)),
    }))
}

pub(super) fn read_end(end: Option<v1::ReadEnd>) -> Result<ReadEnd, Error> {
    use v1::read_end::At;
    let Some(at) = end.and_then(|end| end.at) else {
        return Ok(ReadEnd::Now);
    };
    Ok(match at {
        At::Now(chosen) => chosen_as("end.now", chosen, ReadEnd::Now)?,
        At::Offset(at) => ReadEnd::Offset(offset("end.offset", at)?),
        At::TimestampMs(at) => ReadEnd::Time(Timestamp(at)),
        At::Follow(chosen) => chosen_as("end.follow", chosen, ReadEnd::Follow)?,
    })
}

fn chosen_as<T>(field: &str, chosen: bool, meaning: T) -> Result<T, Error> {
    match chosen {
        true => Ok(meaning),
        false => Err(invalid(format!(
            "{field} is false; set it to true or leave it out"
        ))),
    }
}

/// Takes the positions of a resume token.
pub(super) fn resume(token: Option<v1::ResumeToken>) -> Result<Vec<(PartitionId, Offset)>, Error> {
    let positions = token
        .map(|token| token.positions)
        .unwrap_or_default()
        .into_iter()
        .map(|position| {
            Ok((
                partition(position.partition)?,
                offset("an offset of the resume token", position.offset)?,
            ))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    distinct(positions.iter().map(|(partition, _)| *partition))?;
    Ok(positions)
}

pub(super) fn resume_token(positions: &[(PartitionId, Offset)]) -> v1::ResumeToken {
    v1::ResumeToken {
        positions: positions
            .iter()
            .map(|(partition, offset)| v1::PartitionOffset {
                partition: partition.0,
                offset: offset.0,
            })
            .collect(),
    }
}

pub(super) fn offset_query(at: Option<v1::list_offsets_request::At>) -> Result<OffsetQuery, Error> {
    use v1::list_offsets_request::At;
    Ok(match at {
        None => return Err(invalid("nothing is asked for; set boundary or timestamp_ms")),
        Some(At::TimestampMs(at)) => OffsetQuery::Time(Timestamp(at)),
        Some(At::Boundary(number)) => match known::<v1::Boundary>("boundary", number)? {
            v1::Boundary::Earliest => OffsetQuery::Earliest,
            v1::Boundary::Latest => OffsetQuery::Latest,
            v1::Boundary::MaxTimestamp => OffsetQuery::MaxTimestamp,
        },
    })
}

pub(super) fn found_offset(found: FoundOffset) -> v1::FoundOffset {
    v1::FoundOffset {
        partition: found.partition.0,
        offset: found.offset.map(|offset| offset.0),
        timestamp_ms: found.timestamp.map(|timestamp| timestamp.0),
        leader_epoch: found.leader_epoch.map(|epoch| epoch.0),
    }
}

pub(super) fn topic_summary(summary: &TopicSummary) -> v1::TopicSummary {
    v1::TopicSummary {
        name: summary.name.to_string(),
        topic_id: summary.id.0.to_vec().into(),
        partitions: summary.partitions,
        internal: summary.name.is_internal(),
    }
}

/// Describes a topic's partitions from `first` on, as many as fit.
pub(super) fn topic_description(topic: TopicDescription, first: PartitionId) -> v1::TopicDescription {
    let rest = topic
        .partitions
        .into_iter()
        .skip_while(|one| one.partition < first);
    let (partitions, left) = pages::page(rest.map(partition_description), usize::MAX);
    v1::TopicDescription {
        name: topic.summary.name.to_string(),
        topic_id: topic.summary.id.0.to_vec().into(),
        internal: topic.summary.name.is_internal(),
        partitions,
        next_partition: left.map(|left| left.partition),
        config: topic
            .config
            .into_iter()
            .map(|entry| v1::ConfigEntry {
                name: entry.name.to_owned(),
                value: entry.value,
                source: i32::from(match entry.source {
                    ConfigSource::Default => v1::ConfigSource::Default,
                    ConfigSource::Server => v1::ConfigSource::Server,
                    ConfigSource::Topic => v1::ConfigSource::Topic,
                }),
                doc: entry.doc.to_owned(),
            })
            .collect(),
    }
}

fn partition_description(partition: PartitionDescription) -> v1::PartitionDescription {
    v1::PartitionDescription {
        partition: partition.partition.0,
        log_start_offset: partition.log_start.0,
        last_stable_offset: partition.last_stable.0,
        high_watermark: partition.high_watermark.0,
        log_end_offset: partition.log_end.0,
        recovery_point: partition.recovery_point.0,
        segments: count(partition.segments),
        size_bytes: count(partition.size_bytes),
        least_timestamp_ms: partition.least_timestamp.map(|timestamp| timestamp.0),
        greatest_timestamp_ms: partition.greatest_timestamp.map(|timestamp| timestamp.0),
        write_refusal: partition.write_refusal.unwrap_or_default(),
        local_start_offset: partition.local_start.0,
        archive: partition.archive.map(partition_archive),
    }
}

/// Tells how a partition stands in the archive.
pub(super) fn partition_archive(archive: PartitionArchive) -> v1::PartitionArchive {
    v1::PartitionArchive {
        end_offset: archive.end.map(|end| end.0),
        segments: count(archive.segments),
        size_bytes: count(archive.size_bytes),
        lag_bytes: count(archive.lag_bytes),
        lag_since_ms: archive.lag_since.map(|since| since.0),
        uploading_bytes: archive.uploading_bytes.map(count),
        failures: archive.failures.into(),
        trouble: archive.trouble.unwrap_or_default(),
        stuck: archive.is_stuck,
    }
}

/// A count as the wire carries it; no disk holds more than its greatest.
pub(super) fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::broker::TopicSummary;
    use crate::grpc::MAX_RESPONSE_BYTES;
    use crate::types::TopicId;

    #[test]
    fn a_description_of_very_many_partitions_comes_in_pages_that_each_fit_a_response() {
        let partition = |number| PartitionDescription {
            partition: PartitionId(number),
            log_start: Offset::MAX,
            last_stable: Offset::MAX,
            high_watermark: Offset::MAX,
            log_end: Offset::MAX,
            recovery_point: Offset::MAX,
            segments: 7,
            size_bytes: u64::MAX,
            least_timestamp: Some(Timestamp::MAX),
            greatest_timestamp: Some(Timestamp::MAX),
            write_refusal: None,
            local_start: Offset::MAX,
            archive: Some(PartitionArchive {
                end: Some(Offset::MAX),
                segments: 7,
                size_bytes: u64::MAX,
                lag_bytes: u64::MAX,
                lag_since: Some(Timestamp::MAX),
                uploading_bytes: Some(u64::MAX),
                failures: 3,
                trouble: Some("the bucket does not answer".to_owned()),
                is_stuck: true,
            }),
        };
        let topic = TopicDescription {
            summary: TopicSummary {
                name: TopicName::new("flights").unwrap(),
                id: TopicId([7; 16]),
                partitions: 100_000,
            },
            partitions: (0..100_000).map(partition).collect(),
            config: Vec::new(),
        };
        let (mut seen, mut next, mut pages) = (Vec::new(), Some(0), 0);
        while let Some(first) = next {
            let page = topic_description(topic.clone(), PartitionId(first));
            assert!(page.encoded_len() < MAX_RESPONSE_BYTES, "{}", page.encoded_len());
            seen.extend(page.partitions.iter().map(|partition| partition.partition));
            next = page.next_partition;
            pages += 1;
        }
        assert_eq!(seen, (0..100_000).collect::<Vec<_>>());
        assert!(pages > 2 && pages < 10, "{pages}");
    }
}
