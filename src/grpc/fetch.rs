//! `Fetch`: one look at any number of partitions, waiting for data as asked.
//!
//! A response stays within [`super::MAX_RESPONSE_BYTES`] unless one batch, or as plain messages one record, is larger. What
//! did not fit is left for the next fetch: `next_offset` says where that goes on. It is less while clients that do not read hold
//! the server's budget (`outgoing`).

use std::sync::Arc;

use prost::Message;

use crate::broker::{Broker, Chunk, Error, Fetch, FetchTarget};
use crate::proto::v1;
use crate::types::PartitionId;

use super::MAX_RESPONSE_BYTES;
use super::convert::{self, Format};
use super::outgoing::Wanted;
use super::portions::{self, Portions};
use super::read::Sending;
use super::status::{invalid, message};

/// Most partitions in one fetch.
const MAX_PARTITIONS: usize = 10_000;
/// Longest wait, in milliseconds.
const MAX_WAIT_MS: u32 = 60_000;
/// What a fetch takes of one partition when it does not say, in bytes.
const DEFAULT_PARTITION_BYTES: usize = 1 << 20;
/// What the fields of one partition take in a response beside its name and records, in bytes, at most.
const PARTITION_OVERHEAD: usize = 80;

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
    share.settle(response.encoded_len());
    sending.shares.push(Arc::new(share));
    Ok(response)
}

fn checked(request: v1::FetchRequest) -> Result<(Fetch, Format), Error> {
    let isolation = convert::isolation(request.isolation)?;
    let format = convert::format(request.format)?;
    let count = request.partitions.len();
    if count == 0 || count > MAX_PARTITIONS {
        return Err(invalid(format!(
            "the fetch names {count} partitions; name 1 to {MAX_PARTITIONS}"
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
        max_bytes: max_bytes.min(MAX_RESPONSE_BYTES.saturating_sub(overhead)).max(1),
        max_wait_ms: request.max_wait_ms,
        isolation,
    };
    Ok((fetch, format))
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
    let mut partitions = Vec::with_capacity(targets.len());
    for (target, chunk) in targets.into_iter().zip(chunks) {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                partitions.push(failed(&target.topic, target.partition, &error));
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
    let mut partitions = Vec::with_capacity(targets.len());
    for (target, chunk) in targets.into_iter().zip(chunks) {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => {
                partitions.push(failed(&target.topic, target.partition, &error));
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
        match Portions::of(chunk).take(budget) {
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
            Err(error) => partitions.push(failed(&topic, partition, &error)),
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

fn failed(topic: &str, partition: PartitionId, error: &Error) -> v1::FetchedPartition {
    v1::FetchedPartition {
        topic: topic.to_owned(),
        partition: partition.0,
        error: Some(message(error)),
        ..v1::FetchedPartition::default()
    }
}
