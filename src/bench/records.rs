//! Records one by one: through the producer and the record stream of the client, and as plain messages.
//!
//! What is made and taken apart here is part of what is measured; ready batches are measured by `throughput`. The promise stands
//! beside each figure, and the same bytes as ready batches through the sink (`grpc_sink`, `grpc_source`).
//!
//! Invariants
//! - What was written is read back and compared, record by record, outside the time that counts. A timed read checks number and order.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_stream::StreamExt as _;

use super::drive::{Stream, read_all};
use super::limits;
use super::measure::{Limit, Measure, median, number, per_second};
use super::payload::{Crc, Load, Shape, Values, to_u64};
use super::sink::Sink;
use super::target::Target;
use super::{BenchError, Options};
use crate::client::{Client, Delivery, ProducerOptions, ProducerRecord, ReadSpec};
use crate::proto::v1;
use crate::types::PartitionId;

const PARTITION: PartitionId = PartitionId(0);
/// Size of a batch of the client, and of those through the sink.
const BATCH_BYTES: usize = 256 << 10;
/// Plain messages in one request; some 100 KiB.
const PLAIN_AT_ONCE: usize = 1000;
/// Distinct values; a load sends them round robin.
const DISTINCT: usize = 1 << 14;
/// Producers that share a synced topic, each with a partition of its own.
const SYNCED_PRODUCERS: i32 = 32;

/// How records travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// By the client's producer and record stream: raw batches.
    Client,
    /// As messages, over `ProduceStream` and `Read`.
    Plain,
}

/// One size of records, one way, and what is promised of both.
struct Case {
    name: &'static str,
    way: Way,
    record_bytes: usize,
    unit: &'static str,
    promised_in: f64,
    promised_out: f64,
}

const CASES: [Case; 3] = [
    Case {
        name: "client_100b",
        way: Way::Client,
        record_bytes: 100,
        unit: "records/s",
        promised_in: 3e6,
        promised_out: 5e6,
    },
    Case {
        name: "plain_100b",
        way: Way::Plain,
        record_bytes: 100,
        unit: "records/s",
        promised_in: 2e6,
        promised_out: 3e6,
    },
    Case {
        name: "client_1kib",
        way: Way::Client,
        record_bytes: 1024,
        unit: "MB/s",
        promised_in: 700.0,
        promised_out: 1000.0,
    },
];

/// Values to be sent round robin, and how many times.
struct Records {
    values: Vec<Bytes>,
    count: u64,
}

impl Records {
    fn new(record_bytes: usize, total_bytes: u64) -> Self {
        let mut values = Values::default();
        Self {
            values: (0..DISTINCT).map(|_| values.next(record_bytes).into()).collect(),
            count: (total_bytes / to_u64(record_bytes)).max(1),
        }
    }

    fn value(&self, n: u64) -> &Bytes {
        let place = n % to_u64(self.values.len());
        &self.values[usize::try_from(place).expect("there are few")]
    }
}

impl Case {
    /// Returns what so many records are in the case's unit.
    fn amount(&self, count: u64) -> f64 {
        match self.unit {
            "MB/s" => number(count * to_u64(self.record_bytes)) / 1e6,
            _ => number(count),
        }
    }

    fn measures(&self, action: &str, rates: Vec<f64>, promised: f64, limit: Limit) -> [Measure; 2] {
        let value = median(rates);
        let target = Limit {
            name: "target",
            value: promised,
        };
        [target, limit].map(|limit| Measure {
            name: format!("{action}.{}", self.name),
            value,
            unit: self.unit,
            limit,
        })
    }
}

/// Measures how fast records are taken in, with `durability=written`; and with `synced`, of many producers.
///
/// # Errors
/// Anything lost, refused or unreachable.
pub(super) async fn produce(options: &Options) -> Result<Vec<Measure>, BenchError> {
    let mut measures = Vec::new();
    for case in &CASES {
        let records = Records::new(case.record_bytes, options.scale.pick(1 << 30, 32 << 20));
        let target = Target::start(options).await?;
        let mut rates = Vec::new();
        for _ in 0..options.scale.pick(5, 1) {
            let topic = target.create_topic(1, "written").await?;
            let took = send(case.way, &target.client, &topic, &records).await?;
            rates.push(per_second(case.amount(records.count), took));
            compare(&target.client, &topic, PARTITION, &records).await?;
            target.client.delete_topic(&topic).await?;
        }
        target.stop().await?;
        measures.extend(case.measures(
            "produce",
            rates,
            case.promised_in,
            sink_rate(case, options).await?,
        ));
    }
    measures.push(synced(options).await?);
    Ok(measures)
}

/// Measures how fast records that lie in memory are read out.
///
/// # Errors
/// Anything lost, refused or unreachable.
pub(super) async fn read(options: &Options) -> Result<Vec<Measure>, BenchError> {
    let mut measures = Vec::new();
    for case in &CASES {
        let records = Records::new(case.record_bytes, options.scale.pick(1 << 30, 32 << 20));
        let target = Target::start(options).await?;
        let topic = target.create_topic(1, "written").await?;
        send(Way::Client, &target.client, &topic, &records).await?;
        // Brings all of it into memory.
        compare(&target.client, &topic, PARTITION, &records).await?;
        let mut rates = Vec::new();
        for _ in 0..options.scale.pick(5, 1) {
            let took = receive(case.way, &target.client, &topic, records.count).await?;
            rates.push(per_second(case.amount(records.count), took));
        }
        target.client.delete_topic(&topic).await?;
        target.stop().await?;
        measures.extend(case.measures(
            "read",
            rates,
            case.promised_out,
            source_rate(case, options).await?,
        ));
    }
    Ok(measures)
}

/// Sends all records to partition 0; returns the time until all are acknowledged.
async fn send(way: Way, client: &Client, topic: &str, records: &Records) -> Result<Duration, BenchError> {
    match way {
        Way::Client => send_by_client(client, topic, records).await,
        Way::Plain => {
            let stream = Stream::open(client, topic, PARTITION).await?;
            let values = records.values.clone();
            let (topic, count) = (topic.to_owned(), records.count);
            let plain = move |request: u64| {
                let first = request * to_u64(PLAIN_AT_ONCE);
                let numbers = first..count.min(first + to_u64(PLAIN_AT_ONCE));
                let place = |n: u64| usize::try_from(n % to_u64(values.len())).expect("there are few");
                v1::ProduceStreamRequest {
                    id: request,
                    request: Some(v1::ProduceRequest {
                        topic: topic.clone(),
                        partition: Some(PARTITION.0),
                        records: numbers
                            .map(|n| v1::Record {
                                value: Some(values[place(n)].clone()),
                                ..v1::Record::default()
                            })
                            .collect(),
                        ..v1::ProduceRequest::default()
                    }),
                }
            };
            stream
                .pipelined_by(records.count.div_ceil(to_u64(PLAIN_AT_ONCE)), plain)
                .await
        }
    }
}

async fn send_by_client(client: &Client, topic: &str, records: &Records) -> Result<Duration, BenchError> {
    let options = ProducerOptions {
        batch_bytes: BATCH_BYTES,
        ..ProducerOptions::default()
    };
    let mut producer = client.producer(topic, options).await?;
    let began = Instant::now();
    for n in 0..records.count {
        producer.send(of_partition(records.value(n), PARTITION)).await?;
    }
    producer.flush().await?;
    let took = began.elapsed();
    producer.close().await?;
    Ok(took)
}

fn of_partition(value: &[u8], partition: PartitionId) -> ProducerRecord<'_> {
    ProducerRecord {
        value: Some(value),
        partition: Some(partition),
        ..ProducerRecord::default()
    }
}

/// Reads all records; returns how long it took.
async fn receive(way: Way, client: &Client, topic: &str, count: u64) -> Result<Duration, BenchError> {
    let began = Instant::now();
    let mut next = 0;
    let mut check = |offset: i64| {
        let is_next = u64::try_from(offset).is_ok_and(|offset| offset == next);
        next += 1;
        is_next.then_some(()).ok_or_else(|| lost(topic, next - 1))
    };
    match way {
        Way::Client => {
            let mut stream = client.read(topic, ReadSpec::default()).await?.into_records();
            while let Some(read) = stream.try_next().await? {
                check(read.record.offset.0)?;
            }
        }
        Way::Plain => {
            let request = v1::ReadRequest {
                topic: topic.to_owned(),
                ..v1::ReadRequest::default()
            };
            let mut stream = client.log().read(request).await?.into_inner();
            while let Some(response) = stream.message().await? {
                for record in response.records {
                    check(record.offset)?;
                }
            }
        }
    }
    match next == count {
        true => Ok(began.elapsed()),
        false => Err(lost(topic, next)),
    }
}

/// Reads all records of a partition, and compares each with what was sent.
async fn compare(
    client: &Client,
    topic: &str,
    partition: PartitionId,
    records: &Records,
) -> Result<(), BenchError> {
    let spec = ReadSpec {
        partitions: vec![partition],
        ..ReadSpec::default()
    };
    let mut stream = client.read(topic, spec).await?.into_records();
    let mut n = 0;
    while let Some(read) = stream.try_next().await? {
        if n >= records.count || read.record.value.as_ref() != Some(records.value(n)) {
            return Err(lost(topic, n));
        }
        n += 1;
    }
    match n == records.count {
        true => Ok(()),
        false => Err(lost(topic, n)),
    }
}

fn lost(topic: &str, n: u64) -> BenchError {
    BenchError::Refused {
        message: format!("record {n} of {topic} is not what was sent as number {n}"),
    }
}

/// Returns what a sink takes of the same records, as ready batches.
async fn sink_rate(case: &Case, options: &Options) -> Result<Limit, BenchError> {
    let load = load_of(case);
    let count = load.batches_in(options.scale.pick(1 << 30, 32 << 20));
    let sink = Sink::start(&load, 1).await?;
    let client = sink.client().await?;
    let mut rates = Vec::new();
    for _ in 0..options.scale.pick(5, 1) {
        let stream = Stream::open(&client, "sink", PARTITION).await?;
        let took = stream.pipelined(&load, count).await?;
        rates.push(per_second(case.amount(load.records(count)), took));
    }
    Ok(Limit {
        name: "grpc_sink",
        value: median(rates),
    })
}

/// Returns how fast the same records come from memory, as ready batches that nobody takes apart.
async fn source_rate(case: &Case, options: &Options) -> Result<Limit, BenchError> {
    let load = load_of(case);
    let count = load.batches_in(options.scale.pick(1 << 30, 32 << 20));
    let source = Sink::start(&load, count).await?;
    let client = source.client().await?;
    let mut rates = Vec::new();
    for _ in 0..options.scale.pick(5, 1) {
        let (_, took) = read_all(&client, "source", PARTITION, Crc::Trusted).await?;
        rates.push(per_second(case.amount(load.records(count)), took));
    }
    Ok(Limit {
        name: "grpc_source",
        value: median(rates),
    })
}

fn load_of(case: &Case) -> Load {
    Load::new(Shape {
        record_bytes: case.record_bytes,
        batch_bytes: BATCH_BYTES,
    })
}

/// Measures synced writes of 32 producers, a partition each, beside one file written from end to end.
async fn synced(options: &Options) -> Result<Measure, BenchError> {
    let total = options.scale.pick(1 << 30, 32 << 20);
    let each = std::sync::Arc::new(Records::new(
        1024,
        total / u64::from(SYNCED_PRODUCERS.unsigned_abs()),
    ));
    let target = Target::start(options).await?;
    let (mut rates, mut machine) = (Vec::new(), Vec::new());
    for _ in 0..options.scale.pick(3, 1) {
        machine.push(limits::sequential_write(target.dir(), total)?);
        let topic = target.create_topic(SYNCED_PRODUCERS, "synced").await?;
        let began = Instant::now();
        let producing: Vec<_> = (0..SYNCED_PRODUCERS)
            .map(|partition| {
                let (client, topic) = (target.client.clone(), topic.clone());
                let each = std::sync::Arc::clone(&each);
                tokio::spawn(async move {
                    let mut producer = client.producer(&topic, ProducerOptions::default()).await?;
                    for n in 0..each.count {
                        producer
                            .send(of_partition(each.value(n), PartitionId(partition)))
                            .await?;
                    }
                    producer.close().await
                })
            })
            .collect();
        for one in producing {
            one.await.expect("a producer does not panic")?;
        }
        let sent = each.count * u64::from(SYNCED_PRODUCERS.unsigned_abs());
        rates.push(per_second(number(sent * 1024) / 1e6, began.elapsed()));
        for partition in 0..SYNCED_PRODUCERS {
            compare(&target.client, &topic, PartitionId(partition), &each).await?;
        }
        target.client.delete_topic(&topic).await?;
    }
    target.stop().await?;
    Ok(Measure {
        name: "produce.client_1kib_32_synced".to_owned(),
        value: median(rates),
        unit: "MB/s",
        limit: Limit {
            name: "sequential_write",
            value: median(machine),
        },
    })
}

/// How much longer the acknowledgement of one record takes through the client's producer than a bare call of the same stream.
///
/// # Errors
/// Anything lost, refused or unreachable.
pub(super) async fn client_adds(
    options: &Options,
    target: &Target,
    load: &Load,
) -> Result<Measure, BenchError> {
    use super::measure::Times;
    let topic = target.create_topic(2, "written").await?;
    let producer_options = ProducerOptions {
        linger: Duration::ZERO,
        ..ProducerOptions::default()
    };
    let producer = target.client.producer(&topic, producer_options).await?;
    let mut bare = Stream::open(&target.client, &topic, PARTITION).await?;
    let value = Values::default().next(1024);
    let (mut by_client, mut by_hand) = (Times::new(), Times::new());
    let (rounds, each) = options.scale.pick((20, 500), (2, 50));
    for round in 0..rounds {
        bare.one_by_one(load, round * each..(round + 1) * each, &mut by_hand)
            .await?;
        for _ in 0..each {
            let began = Instant::now();
            let delivery: Delivery = producer.send(of_partition(&value, PartitionId(1))).await?;
            delivery.await?;
            by_client.add(began.elapsed());
        }
    }
    drop(producer);
    target.client.delete_topic(&topic).await?;
    Ok(Measure {
        name: "latency.client_adds_p50".to_owned(),
        value: (by_client.quantile_ms(0.5) - by_hand.quantile_ms(0.5)).max(0.0),
        unit: "ms",
        limit: Limit {
            name: "target",
            value: 0.030,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Scale;

    fn quick() -> Options {
        Options {
            scale: Scale::Quick,
            ..Options::default()
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn records_go_in_and_out_both_ways_and_what_is_missing_is_found() {
        let target = Target::start(&quick()).await.unwrap();
        let mut records = Records::new(100, 250_000);
        for way in [Way::Client, Way::Plain] {
            let topic = target.create_topic(1, "written").await.unwrap();
            send(way, &target.client, &topic, &records).await.unwrap();
            compare(&target.client, &topic, PARTITION, &records)
                .await
                .unwrap();
            for way in [Way::Client, Way::Plain] {
                receive(way, &target.client, &topic, records.count).await.unwrap();
            }
            records.count += 1;
            assert!(
                compare(&target.client, &topic, PARTITION, &records)
                    .await
                    .is_err(),
                "one is missing"
            );
            records.count -= 2;
            assert!(
                compare(&target.client, &topic, PARTITION, &records)
                    .await
                    .is_err(),
                "one too many"
            );
            let received = receive(way, &target.client, &topic, records.count).await;
            assert!(received.is_err(), "one too many");
            records.count += 1;
        }
        target.stop().await.unwrap();
    }
}
