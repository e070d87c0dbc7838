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
use super::{BenchError, Options, records};
use crate::types::PartitionId;

const PARTITION: PartitionId = PartitionId(0);
const PRODUCERS: i32 = 64;
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
    let mut measures = synced(options, &target, &load).await?;
    measures.push(many_producers(options, &target, &load).await?);
    measures.push(written(options, &target, &load).await?);
    measures.push(records::client_adds(options, &target, &load).await?);
    target.stop().await?;
    Ok(measures)
}

/// The numbers of the batches of each round.
fn rounds(options: &Options) -> impl Iterator<Item = Range<u64>> {
    let (rounds, each) = options.scale.pick((20, 200), (2, 50));
    (0..rounds).map(move |round| round * each..(round + 1) * each)
}

/// One producer, one request at a time.
async fn synced(options: &Options, target: &Target, load: &Load) -> Result<Vec<Measure>, BenchError> {
    let topic = target.create_topic(1, "synced").await?;
    let mut stream = Stream::open(&target.client, &topic, PARTITION).await?;
    let mut machine = SyncedAppends::new(target.dir(), load.batch(0).len())?;
    let mut times = Times::new();
    let mut count = 0;
    for numbers in rounds(options) {
        count = numbers.end;
        let in_round = numbers.end - numbers.start;
        machine.run(u32::try_from(in_round).expect("a round is short"))?;
        stream.one_by_one(load, numbers, &mut times).await?;
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
    Ok(vec![
        measure("p50", 0.5, "append_fdatasync_p50"),
        measure("p99", 0.99, "append_fdatasync_p99"),
    ])
}

/// One producer and 64 of them, in turn, so that both meet the same disk; what opening costs is not counted.
async fn many_producers(options: &Options, target: &Target, load: &Load) -> Result<Measure, BenchError> {
    let (rounds, each) = options.scale.pick((9, 400), (5, 100));
    let mut one = Crowd::open(target, load, 1, 1).await?;
    let mut many = Crowd::open(target, load, PRODUCERS, PARTITIONS).await?;
    let (mut rates_of_one, mut rates) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        rates_of_one.push(one.round(load, each).await?);
        rates.push(many.round(load, each).await?);
    }
    for crowd in [one, many] {
        crowd.verify_and_delete(target, load, 1 + rounds * each).await?;
    }
    Ok(Measure {
        name: "latency.synced_64_producers".to_owned(),
        value: median(rates),
        unit: "requests/s",
        limit: Limit {
            name: "one_producer",
            value: median(rates_of_one),
        },
    })
}

/// Producers of one synced topic, each with one request under way, spread over its partitions.
struct Crowd {
    topic: String,
    streams: Vec<Stream>,
}

impl Crowd {
    /// Opens the producers; each has had one batch acknowledged.
    async fn open(target: &Target, load: &Load, producers: i32, partitions: i32) -> Result<Self, BenchError> {
        let topic = target.create_topic(partitions, "synced").await?;
        let mut streams = Vec::new();
        for producer in 0..producers {
            let mut stream = Stream::open(&target.client, &topic, PartitionId(producer % partitions)).await?;
            stream.one_by_one(load, 0..1, &mut Times::new()).await?;
            streams.push(stream);
        }
        Ok(Self { topic, streams })
    }

    /// Has every producer send `each` batches; returns requests per second.
    async fn round(&mut self, load: &Load, each: u64) -> Result<f64, BenchError> {
        let count = u64::try_from(self.streams.len()).unwrap_or(u64::MAX) * each;
        let began = Instant::now();
        let producing: Vec<_> = std::mem::take(&mut self.streams)
            .into_iter()
            .map(|stream| tokio::spawn(send(stream, load.clone(), each)))
            .collect();
        for producer in producing {
            self.streams
                .push(producer.await.expect("a producer does not panic")?);
        }
        Ok(per_second(number(count), began.elapsed()))
    }

    /// Producers of one partition interleave, so only the number tells.
    async fn verify_and_delete(self, target: &Target, load: &Load, each: u64) -> Result<(), BenchError> {
        let described = target.client.describe_topic(&self.topic).await?;
        let ends = described.partitions.iter().map(|partition| partition.log_end.0);
        let stored: i64 = ends.sum();
        let acknowledged = load.records(u64::try_from(self.streams.len()).unwrap_or(u64::MAX) * each);
        if i64::try_from(acknowledged) != Ok(stored) {
            let message = format!(
                "{} holds {stored} records, {acknowledged} were acknowledged",
                self.topic
            );
            return Err(BenchError::Refused { message });
        }
        Ok(target.client.delete_topic(&self.topic).await?)
    }
}

async fn send(mut stream: Stream, load: Load, count: u64) -> Result<Stream, BenchError> {
    stream.one_by_one(&load, 0..count, &mut Times::new()).await?;
    Ok(stream)
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
