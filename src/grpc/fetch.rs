//! `Fetch`: one look at any number of partitions, waiting for data as asked.
//!
//! A response stays within [`super::MAX_RESPONSE_BYTES`] unless one batch, or as plain messages one record, is larger. What
//! did not fit is left for the next fetch: `next_offset` says where that goes on. It is less while clients that do not read hold
//! the server's budget (`outgoing`).
//!
//! ```text
//!  MAX_PARTITIONS x (fields of one partition, its reason if it failed) + texts of errors + records <= MAX_RESPONSE_BYTES
//!                                                                       ERROR_TEXTS        what is left
//! ```
//!
//! Where many partitions fail, the first are told at length and all the others their code and reason.

use std::sync::Arc;

use prost::Message;

use crate::broker::{Broker, Chunk, Error, Fetch, FetchTarget};
use crate::proto::v1;
use crate::types::{PartitionId, TopicName};

use super::MAX_RESPONSE_BYTES;
use super::convert::{self, Format};
use super::outgoing::Wanted;
use super::portions::{self, Portions};
use super::read::Sending;
use super::status::{invalid, message};

/// Most partitions in one fetch: so many fit a response, whatever their names, beside some records.
const MAX_PARTITIONS: usize = 10_000;
/// Longest wait, in milliseconds.
const MAX_WAIT_MS: u32 = 60_000;
/// What a fetch takes of one partition when it does not say, in bytes.
const DEFAULT_PARTITION_BYTES: usize = 1 << 20;
/// What the fields of one partition take in a response beside its name and records, in bytes, at most; of an error, what is
/// told of each.
const PARTITION_OVERHEAD: usize = 80;
/// What all that is told of errors beyond that takes in a response, in bytes, at most.
const ERROR_TEXTS: usize = 64 << 10;
const _: () = {
    let fields = MAX_PARTITIONS * (PARTITION_OVERHEAD + TopicName::MAX_LEN);
    assert!(fields + ERROR_TEXTS < MAX_RESPONSE_BYTES * 9 / 10);
};

/// Fetches; an error of one partition is told in its place.
pub(super) async fn fetch(
    broker: &Broker,
    request: v1::FetchRequest,
    sending: &Sending,
) -> Result<v1::FetchResponse, Error> {
    let (fetch, format) = checked(request)?;
    let targets = fetch.targets.clone();
    let most = fetch.max_bytes;
    let chunks = broker.fetch(fetch).await;
    let len = chunks.iter().flatten().map(|chunk| chunk.batches.len()).sum();
    // Taken when there is something to send: a fetch that waits for data holds nothing.
    let wanted = Wanted {
        records_bytes: match format {
            Format::Batches => most.min(len),
            Format::Records => most,
        },
        overhead_bytes: 0,
    };
    let outgoing = &sending.outgoing;
    let mut share = outgoing
        .try_answer(wanted)
        .unwrap_or_else(|| outgoing.small_answer(wanted));
    let budget = share.answer_bytes().min(most);
    let partitions = match format {
        Format::Batches => as_batches(targets, chunks, budget),
        Format::Records => {
            let decode = move || as_records(targets, chunks, budget);
            sending.outgoing.decode(portions::decoding(len), decode).await?
        }
    };
    let response = v1::FetchResponse { partitions };
    share.settle(held_by(&response));
    sending.shares.push(Arc::new(share));
    Ok(response)
}

fn checked(request: v1::FetchRequest) -> Result<(Fetch, Format), Error> {
    let isolation = convert::isolation(request.isolation)?;
    let format = convert::format(request.format)?;
    let count = request.partitions.len();
    if count == 0 || count > MAX_PARTITIONS {
        return Err(invalid(format!(
            "the fetch names {count} partitions; name 1 to {MAX_PARTITIONS}, the rest in further fetches"
        )));
    }
    if request.max_wait_ms > MAX_WAIT_MS {
        return Err(invalid(format!(
            "max_wait_ms is {}; it is at most {MAX_WAIT_MS}",
            request.max_wait_ms
        )));
    }
    let max_bytes = at_most(request.max_bytes, MAX_RESPONSE_BYTES, MAX_RESPONSE_BYTES);
    let overhead: usize = request
        .partitions
        .iter()
        .map(|partition| PARTITION_OVERHEAD + partition.topic.len())
        .sum();
    let targets = request
        .partitions
        .into_iter()
        .map(|target| {
            convert::topic(&target.topic)?;
            Ok(FetchTarget {
                partition: convert::partition(target.partition)?,
                offset: convert::offset("offset", target.offset)?,
                max_bytes: at_most(target.max_bytes, DEFAULT_PARTITION_BYTES, MAX_RESPONSE_BYTES),
                topic: target.topic,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let fetch = Fetch {
        targets,
        min_bytes: at_most(request.min_bytes, 1, max_bytes),
        max_bytes: max_bytes
            .min(MAX_RESPONSE_BYTES.saturating_sub(overhead + ERROR_TEXTS))
            .max(1),
        max_wait_ms: request.max_wait_ms,
        isolation,
    };
    Ok((fetch, format))
}

/// What an answer takes in memory until its client takes it, which is when it is encoded: records of a few bytes take more before
/// than after.
fn held_by(response: &v1::FetchResponse) -> usize {
    let records = response
        .partitions
        .iter()
        .flat_map(|partition| &partition.records);
    response.encoded_len().max(portions::beside_content(records))
}

fn at_most(asked: u32, default: usize, most: usize) -> usize {
    match usize::try_from(asked) {
        Ok(0) => default,
        Ok(asked) => asked.min(most),
        Err(_) => most,
    }
}

fn as_batches(
    targets: Vec<FetchTarget>,
    chunks: Vec<Result<Chunk, Error>>,
    mut budget: usize,
) -> Vec<v1::FetchedPartition> {
    let mut first = true;
    let mut failures = Failures::default();
    let mut partitions = Vec::with_capacity(targets.len());
    for (target, chunk) in targets.into_iter().zip(chunks) {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                partitions.push(failures.tell(&target.topic, target.partition, &error));
                continue;
            }
        };
        let mut response = v1::FetchedPartition {
            next_offset: target.offset.0,
            ..fetched(target, &chunk)
        };
        let portion = Portions::of(chunk).take_batches(budget);
        // Only a first batch may be larger than the response: another one comes with the next fetch.
        if first || portion.batches.len() <= budget {
            first &= portion.batches.is_empty();
            budget = budget.saturating_sub(portion.batches.len());
            response.aborted_transactions = convert::aborted(&portion.aborted);
            response.next_offset = portion.next_offset.0;
            response.batches = portion.batches;
        }
        partitions.push(response);
    }
    partitions
}

fn as_records(
    targets: Vec<FetchTarget>,
    chunks: Vec<Result<Chunk, Error>>,
    mut budget: usize,
) -> Vec<v1::FetchedPartition> {
    let mut first = true;
    let mut failures = Failures::default();
    let mut partitions = Vec::with_capacity(targets.len());
    for (target, chunk) in targets.into_iter().zip(chunks) {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                partitions.push(failures.tell(&target.topic, target.partition, &error));
                continue;
            }
        };
        let (topic, partition, offset) = (target.topic.clone(), target.partition, target.offset);
        let mut response = fetched(target, &chunk);
        if !first && budget == 0 {
            response.next_offset = offset.0;
            partitions.push(response);
            continue;
        }
        match Portions::of(chunk).take_only(budget) {
            Ok(portion) => {
                let used: usize = portion.records.iter().map(portions::field_len).sum();
                response.next_offset = portion.next_offset.0;
                if !first && used > budget {
                    // Only a first record may be larger than the response: this one comes with the next fetch.
                    response.next_offset = offset.0;
                    budget = 0;
                } else {
                    first &= portion.records.is_empty();
                    budget = budget.saturating_sub(used);
                    response.records = portion.records;
                }
                partitions.push(response);
            }
            Err(error) => partitions.push(failures.tell(&topic, partition, &error)),
        }
    }
    partitions
}

fn fetched(target: FetchTarget, chunk: &Chunk) -> v1::FetchedPartition {
    v1::FetchedPartition {
        topic: target.topic,
        partition: target.partition.0,
        high_watermark: chunk.high_watermark.0,
        last_stable_offset: chunk.last_stable.0,
        log_start_offset: chunk.log_start.0,
        ..v1::FetchedPartition::default()
    }
}

/// What is told of partitions that failed.
#[derive(Default)]
struct Failures {
    /// Of [`ERROR_TEXTS`].
    used: usize,
}

impl Failures {
    /// Tells an error at length while there is room, else without its text.
    fn tell(&mut self, topic: &str, partition: PartitionId, error: &Error) -> v1::FetchedPartition {
        let mut told = message(error);
        let len = told.encoded_len();
        if self.used + len <= ERROR_TEXTS {
            self.used += len;
        } else {
            told = v1::Error {
                code: told.code,
                reason: told.reason,
                retry_after_ms: told.retry_after_ms,
                ..v1::Error::default()
            };
        }
        v1::FetchedPartition {
            topic: topic.to_owned(),
            partition: partition.0,
            error: Some(told),
            ..v1::FetchedPartition::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TopicPartition;

    #[test]
    fn tiny_records_of_an_answer_count_with_what_they_take_as_messages() {
        let records = vec![v1::StoredRecord::default(); 1000];
        let partition = v1::FetchedPartition {
            records,
            ..v1::FetchedPartition::default()
        };
        let response = v1::FetchResponse {
            partitions: vec![partition],
        };
        assert!(response.encoded_len() < 10_000);
        assert!(held_by(&response) >= 1000 * size_of::<v1::StoredRecord>());
    }

    #[test]
    fn the_fields_of_a_partition_never_take_more_than_was_set_aside_told_or_failed() {
        let topic = "x".repeat(TopicName::MAX_LEN);
        let last = PartitionId(i32::MAX);
        let sound = v1::FetchedPartition {
            topic: topic.clone(),
            partition: last.0,
            high_watermark: i64::MAX,
            last_stable_offset: i64::MAX,
            log_start_offset: i64::MAX,
            next_offset: i64::MAX,
            ..v1::FetchedPartition::default()
        };
        let mut failures = Failures { used: ERROR_TEXTS };
        let longest_reason = Error::InvalidTransactionState {
            partition: TopicPartition::new(TopicName::new("t").unwrap(), PartitionId(0)),
            reason: "of any length".repeat(100),
        };
        for fetched in [
            sound,
            failures.tell(&topic, last, &longest_reason),
            failures.tell(&topic, last, &Error::ShuttingDown),
        ] {
            let len = portions::field_len(&fetched);
            assert!(len <= PARTITION_OVERHEAD + topic.len(), "{len}");
        }
    }
}
