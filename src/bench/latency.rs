//! How long one acknowledgement takes, and how many come in a second when many producers ask.
//!
//! A record of 1 KiB a request. `synced` is compared with the machine's own append and fdatasync of as many bytes, `written`
//! with the round trip through a gRPC sink, many producers with one.

use std::ops::Range;
use std::time::Instant;

use super::drive::{Stream, read_all};
use super::limits::SyncedAppends;
use super::measure::{Limit, Measure, Times, median, number, per_second};
use super::payload::{Crc, Load, Shape};
use super::sink::Sink;
use super::target::Target;
use super::{BenchError, Options};
use crate::client::Client;
use crate::types::PartitionId;

const PARTITION: PartitionId = PartitionId(0);
const PRODUCERS: u64 = 64;
const PARTITIONS: i32 = 16;
const SHAPE: Shape = Shape {
    record_bytes: 1024,
    batch_bytes: 1200,
};

/// Measures times of single requests, synced and written, and the rate of 64 producers on 16 partitions.
///
/// # Errors
/// Anything lost, refused or unreachable.
pub async fn latency(options: &Options) -> Result<Vec<Measure>, BenchError> {
    let load = Load::new(SHAPE);
    let target = Target::start(options).await?;
    let (mut measures, rate_of_one) = synced(options, &target, &load).await?;
    measures.push(many_producers(options, &target, &load, rate_of_one).await?);
    measures.push(written(options, &target, &load).await?);
    target.stop().await?;
    Ok(measures)
}

/// The numbers of the batches of each round.
fn rounds(options: &Options) -> impl Iterator<Item = Range<u64>> {
    let (rounds, each) = options.scale.pick((20, 200), (2, 50));
    (0..rounds).map(move |round| round * each..(round + 1) * each)
}

/// One producer, one request at a time; returns its rate, too.
async fn synced(options: &Options, target: &Target, load: &Load) -> Result<(Vec<Measure>, f64), BenchError> {
    let topic = target.create_topic(1, "synced").await?;
    let mut stream = Stream::open(&target.client, &topic, PARTITION).await?;
    let mut machine = SyncedAppends::new(target.dir(), load.batch(0).len())?;
    let mut times = Times::new();
    let mut rates = Vec::new();
    let mut count = 0;
    for numbers in rounds(options) {
        count = numbers.end;
        let in_round = numbers.end - numbers.start;
        machine.run(u32::try_from(in_round).expect("a round is short"))?;
        let began = Instant::now();
        stream.one_by_one(load, numbers, &mut times).await?;
        rates.push(per_second(number(in_round), began.elapsed()));
    }
    let (stored, _) = read_all(&target.client, &topic, PARTITION, Crc::Verified).await?;
    stored.must_be(&load.expected(count), &topic)?;
    target.client.delete_topic(&topic).await?;
    let measure = |name: &str, part, limit_name| Measure {
        name: format!("latency.synced_{name}"),
        value: times.quantile_ms(part),
        unit: "ms",
        limit: Limit {
            name: limit_name,
            value: machine.times.quantile_ms(part),
        },
    };
    let measures = vec![
        measure("p50", 0.5, "append_fdatasync_p50"),
        measure("p99", 0.99, "append_fdatasync_p99"),
    ];
    Ok((measures, median(rates)))
}

async fn many_producers(
    options: &Options,
    target: &Target,
    load: &Load,
    rate_of_one: f64,
) -> Result<Measure, BenchError> {
    let topic = target.create_topic(PARTITIONS, "synced").await?;
    let each = options.scale.pick(2000, 50);
    let mut producers = Vec::new();
    let began = Instant::now();
    for producer in 0..PRODUCERS {
        let place = i32::try_from(producer).expect("a small number") % PARTITIONS;
        producers.push(tokio::spawn(one_of_many(
            target.client.clone(),
            topic.clone(),
            PartitionId(place),
            (load.clone(), each),
        )));
    }
    for producer in producers {
        producer.await.expect("a producer does not panic")?;
    }
    let took = began.elapsed();
    // Producers of one partition interleave, so only the number tells.
    let described = target.client.describe_topic(&topic).await?;
    let stored = described
        .partitions
        .iter()
        .map(|partition| partition.log_end.0)
        .sum::<i64>();
    let expected = i64::try_from(load.records(PRODUCERS * each)).unwrap_or(i64::MAX);
    if stored != expected {
        let message = format!("{topic} holds {stored} records, {expected} were acknowledged");
        return Err(BenchError::Refused { message });
    }
    target.client.delete_topic(&topic).await?;
    Ok(Measure {
        name: "latency.synced_64_producers".to_owned(),
        value: per_second(number(PRODUCERS * each), took),
        unit: "requests/s",
        limit: Limit {
            name: "one_producer",
            value: rate_of_one,
        },
    })
}

async fn one_of_many(
    client: Client,
    topic: String,
    partition: PartitionId,
    (load, count): (Load, u64),
) -> Result<(), BenchError> {
    let mut stream = Stream::open(&client, &topic, partition).await?;
    stream.one_by_one(&load, 0..count, &mut Times::new()).await
}

/// One producer, one request at a time, beside the same through a sink.
async fn written(options: &Options, target: &Target, load: &Load) -> Result<Measure, BenchError> {
    let sink = Sink::start(load, 1).await?;
    let sink_client = sink.client().await?;
    let topic = target.create_topic(1, "written").await?;
    let mut stream = Stream::open(&target.client, &topic, PARTITION).await?;
    let mut sink_stream = Stream::open(&sink_client, "sink", PARTITION).await?;
    let (mut times, mut sink_times) = (Times::new(), Times::new());
    for numbers in rounds(options) {
        sink_stream
            .one_by_one(load, numbers.clone(), &mut sink_times)
            .await?;
        stream.one_by_one(load, numbers, &mut times).await?;
    }
    target.client.delete_topic(&topic).await?;
    Ok(Measure {
        name: "latency.written_p50".to_owned(),
        value: times.quantile_ms(0.5),
        unit: "ms",
        limit: Limit {
            name: "grpc_sink_p50",
            value: sink_times.quantile_ms(0.5),
        },
    })
}
