//! How much goes in and out: raw batches of 256 KiB, of records of 1 KiB and of 100 bytes, beside a gRPC sink and source; then, by
//! `records`, the same records one by one.

use super::drive::{Stream, read_all};
use super::measure::{Limit, Measure, median, number, per_second};
use super::memory::touch;
use super::payload::{Crc, Load, Shape};
use super::sink::Sink;
use super::target::Target;
use super::{BenchError, Options, limits, records};
use crate::types::PartitionId;

const BATCH_BYTES: usize = 256 << 10;
const PARTITION: PartitionId = PartitionId(0);

/// A load and how its figures are named.
struct Case {
    name: &'static str,
    record_bytes: usize,
    unit: Unit,
}

/// What is counted in a second.
#[derive(Clone, Copy)]
enum Unit {
    Megabytes,
    Records,
}

const CASES: [Case; 2] = [
    Case {
        name: "raw_1kib",
        record_bytes: 1024,
        unit: Unit::Megabytes,
    },
    Case {
        name: "raw_100b",
        record_bytes: 100,
        unit: Unit::Records,
    },
];

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Megabytes => "MB/s",
            Self::Records => "records/s",
        }
    }

    /// Returns the first `count` batches of a load in this unit.
    fn amount(self, load: &Load, count: u64) -> f64 {
        match self {
            Self::Megabytes => number(load.bytes(count)) / 1e6,
            Self::Records => number(load.records(count)),
        }
    }
}

/// One case made ready: the load, how many batches make a round, how many rounds.
struct Prepared {
    load: Load,
    count: u64,
    rounds: u32,
    amount: f64,
}

impl Case {
    fn prepare(&self, options: &Options) -> Prepared {
        let load = Load::new(Shape {
            record_bytes: self.record_bytes,
            batch_bytes: BATCH_BYTES,
        });
        let count = load.batches_in(options.scale.pick(1 << 30, 32 << 20));
        Prepared {
            amount: self.unit.amount(&load, count),
            rounds: options.scale.pick(5, 1),
            load,
            count,
        }
    }

    fn measure(&self, action: &str, rates: Vec<f64>, limit: Limit) -> Measure {
        Measure {
            name: format!("{action}.{}", self.name),
            value: median(rates),
            unit: self.unit.name(),
            limit,
        }
    }
}

/// Measures how fast raw batches are taken in, with `durability=written`, pipelined on one stream; the result of each
/// round is read back and compared.
///
/// # Errors
/// Anything lost, refused or unreachable.
pub async fn produce(options: &Options) -> Result<Vec<Measure>, BenchError> {
    let mut measures = Vec::new();
    for case in &CASES {
        let prepared = case.prepare(options);
        let target = Target::start(options).await?;
        let (rates, sink_rates) = produce_rounds(&target, &prepared).await?;
        let sink = Limit {
            name: "grpc_sink",
            value: median(sink_rates),
        };
        measures.push(case.measure("produce", rates.clone(), sink));
        if matches!(case.unit, Unit::Megabytes) {
            let disk = Limit {
                name: "sequential_write",
                value: limits::sequential_write(target.dir(), prepared.load.bytes(prepared.count))?,
            };
            measures.push(case.measure("produce", rates, disk));
        }
        target.stop().await?;
    }
    measures.extend(records::produce(options).await?);
    Ok(measures)
}

async fn produce_rounds(target: &Target, prepared: &Prepared) -> Result<(Vec<f64>, Vec<f64>), BenchError> {
    let Prepared { load, count, .. } = prepared;
    let expected = load.expected(*count);
    let sink = Sink::start(load, 1).await?;
    let sink_client = sink.client().await?;
    let (mut rates, mut sink_rates) = (Vec::new(), Vec::new());
    for _ in 0..prepared.rounds {
        touch(load.bytes(*count));
        let stream = Stream::open(&sink_client, "sink", PARTITION).await?;
        sink_rates.push(per_second(prepared.amount, stream.pipelined(load, *count).await?));
        let topic = target.create_topic(1, "written").await?;
        touch(load.bytes(*count));
        let stream = Stream::open(&target.client, &topic, PARTITION).await?;
        rates.push(per_second(prepared.amount, stream.pipelined(load, *count).await?));
        let (stored, _) = read_all(&target.client, &topic, PARTITION, Crc::Verified).await?;
        stored.must_be(&expected, &topic)?;
        target.client.delete_topic(&topic).await?;
    }
    Ok((rates, sink_rates))
}

/// Measures how fast raw batches that lie in memory are read out, on one stream.
///
/// # Errors
/// Anything lost, refused or unreachable.
pub async fn read(options: &Options) -> Result<Vec<Measure>, BenchError> {
    let mut measures = Vec::new();
    for case in &CASES {
        let prepared = case.prepare(options);
        let target = Target::start(options).await?;
        let (rates, source_rates) = read_rounds(&target, &prepared).await?;
        let source = Limit {
            name: "grpc_source",
            value: median(source_rates),
        };
        measures.push(case.measure("read", rates.clone(), source));
        if matches!(case.unit, Unit::Megabytes) {
            let memory = Limit {
                name: "memory_copy",
                value: limits::memory_copy(prepared.load.bytes(prepared.count)),
            };
            measures.push(case.measure("read", rates, memory));
        }
        target.stop().await?;
    }
    measures.extend(records::read(options).await?);
    Ok(measures)
}

async fn read_rounds(target: &Target, prepared: &Prepared) -> Result<(Vec<f64>, Vec<f64>), BenchError> {
    let Prepared { load, count, .. } = prepared;
    let expected = load.expected(*count);
    let source = Sink::start(load, *count).await?;
    let source_client = source.client().await?;
    let topic = target.create_topic(1, "written").await?;
    let stream = Stream::open(&target.client, &topic, PARTITION).await?;
    stream.pipelined(load, *count).await?;
    // Checks every byte, and brings all of it into memory.
    let (stored, _) = read_all(&target.client, &topic, PARTITION, Crc::Verified).await?;
    stored.must_be(&expected, &topic)?;
    let (mut rates, mut source_rates) = (Vec::new(), Vec::new());
    for _ in 0..prepared.rounds {
        let (served, took) = read_all(&source_client, "source", PARTITION, Crc::Trusted).await?;
        served.must_be(&expected, "source")?;
        source_rates.push(per_second(prepared.amount, took));
        let (stored, took) = read_all(&target.client, &topic, PARTITION, Crc::Trusted).await?;
        stored.must_be(&expected, &topic)?;
        rates.push(per_second(prepared.amount, took));
    }
    target.client.delete_topic(&topic).await?;
    Ok((rates, source_rates))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Scale;
    use crate::client::InternalTopics;

    /// What a sink acknowledged is not there: the check of every run must see that.
    #[tokio::test]
    async fn what_was_acknowledged_and_not_stored_is_found_missing() {
        let load = Load::new(Shape {
            record_bytes: 100,
            batch_bytes: 1000,
        });
        let sink = Sink::start(&load, 7).await.unwrap();
        let client = sink.client().await.unwrap();
        let stream = Stream::open(&client, "sink", PARTITION).await.unwrap();
        stream.pipelined(&load, 8).await.unwrap();
        let (read, _) = read_all(&client, "sink", PARTITION, Crc::Verified).await.unwrap();
        read.must_be(&load.expected(7), "source").unwrap();
        let error = read.must_be(&load.expected(8), "source").unwrap_err();
        assert!(
            matches!(
                error,
                BenchError::Lost {
                    expected: 8,
                    found: 7,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_a_server_of_its_own_took_in_is_what_it_gives_out() {
        let options = Options {
            scale: Scale::Quick,
            ..Options::default()
        };
        let target = Target::start(&options).await.unwrap();
        let mut prepared = CASES[0].prepare(&options);
        prepared.count = 5;
        let (rates, sink_rates) = produce_rounds(&target, &prepared).await.unwrap();
        assert_eq!((rates.len(), sink_rates.len()), (1, 1));
        let (rates, _) = read_rounds(&target, &prepared).await.unwrap();
        assert!(rates[0] > 0.0);
        target.stop().await.unwrap();
    }
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_runs_already_is_measured_and_left_without_topics_of_the_bench() {
        let running = Target::start(&Options::default()).await.unwrap();
        let options = Options {
            scale: Scale::Quick,
            server: Some(running.client.clone()),
            ..Options::default()
        };
        let target = Target::start(&options).await.unwrap();
        let mut prepared = CASES[0].prepare(&options);
        prepared.count = 5;
        produce_rounds(&target, &prepared).await.unwrap();
        read_rounds(&target, &prepared).await.unwrap();
        let broker = running.own.as_ref().unwrap().broker();
        let appended = broker.metrics().produce_batches.get();
        assert_eq!(appended, 10, "five batches to produce, five to read");
        let topics = running.client.list_topics(InternalTopics::Excluded).await;
        assert!(topics.unwrap().is_empty());
        target.stop().await.unwrap();
        running.stop().await.unwrap();
    }
}
