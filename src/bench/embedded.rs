//! What a broker inside another process costs: from nothing to the first record, idle, full, copied, dropped, and a hundred of them.
//!
//! All of it happens in this process, in an order that matters: what is measured of its memory comes before what fills it, and memory
//! that was given back to the allocator still counts. Limits are what the project promises. Memory is read from `/proc`, so this
//! measures on Linux.

use std::time::Instant;

use super::error::IoContext;
use super::measure::{Limit, Measure, median, ms, number};
use super::memory::resident_mb;
use super::payload::{Values, to_u64};
use super::{BenchError, Options, Scale};
use crate::embedded::{Broker, record};

const TOPIC: &str = "bench";
const TASKS: &str = "/proc/self/task";
/// How names of a broker's threads begin; the kernel keeps 15 bytes of them.
const THREADS: [&str; 2] = ["siltstone-embed", "sync-"];
/// Brokers in one process.
const CROWD: u32 = 100;
/// Bytes of a value, values in a request, and requests: 100 MiB in all.
const VALUE_BYTES: usize = 1 << 10;
const AT_ONCE: usize = 1 << 10;
const REQUESTS: usize = 100;

/// Where a broker's data lies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Directory,
    Memory,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Memory => "memory",
        }
    }

    async fn start(self) -> Result<Broker, BenchError> {
        Ok(match self {
            Self::Directory => Broker::start().await?,
            Self::Memory => Broker::in_memory().await?,
        })
    }

    /// How long the first record may take, in milliseconds.
    fn first_record_ms(self) -> f64 {
        match self {
            Self::Directory => 10.0,
            Self::Memory => 5.0,
        }
    }
}

/// Measures brokers over a directory and in memory.
///
/// # Errors
/// A broker that does not start, or does not hold what was written to it.
pub async fn embedded(options: &Options) -> Result<Vec<Measure>, BenchError> {
    let mut measures = vec![idle().await?];
    measures.extend(full(Place::Directory, options.scale).await?);
    measures.extend(short_lives(Place::Directory, options.scale).await?);
    measures.extend(short_lives(Place::Memory, options.scale).await?);
    measures.extend(crowd(options.scale).await?);
    measures.extend(full(Place::Memory, options.scale).await?);
    Ok(measures)
}

fn measure(name: String, value: f64, unit: &'static str, promised: f64) -> Measure {
    Measure {
        name: format!("embedded.{name}"),
        value,
        unit,
        limit: Limit {
            name: "target",
            value: promised,
        },
    }
}

/// The whole process, with one broker in it that has nothing to do.
async fn idle() -> Result<Measure, BenchError> {
    let broker = Place::Directory.start().await?;
    let resident = resident_mb()?;
    drop(broker);
    Ok(measure("idle_process".to_owned(), resident, "MB", 15.0))
}

/// Brokers that take one record, give it back and go.
async fn short_lives(place: Place, scale: Scale) -> Result<Vec<Measure>, BenchError> {
    let (mut first, mut dropped) = (Vec::new(), Vec::new());
    for _ in 0..scale.pick(41, 5) {
        let began = Instant::now();
        let broker = place.start().await?;
        broker.create_topic(TOPIC, 1, &[]).await?;
        broker.produce(TOPIC, [record("key", "value")]).await?;
        must_hold(&broker, 1).await?;
        first.push(ms(began.elapsed()));
        let began = Instant::now();
        drop(broker);
        dropped.push(ms(began.elapsed()));
    }
    let name = place.name();
    Ok(vec![
        measure(
            format!("first_record_{name}"),
            median(first),
            "ms",
            place.first_record_ms(),
        ),
        measure(format!("drop_{name}"), median(dropped), "ms", 20.0),
        measure(format!("threads_left_{name}"), left()?, "threads", 0.0),
    ])
}

/// A broker with 100 MiB, and copies of it.
async fn full(place: Place, scale: Scale) -> Result<Vec<Measure>, BenchError> {
    let broker = place.start().await?;
    broker.create_topic(TOPIC, 1, &[]).await?;
    let mut values = Values::default();
    for _ in 0..REQUESTS {
        let records = (0..AT_ONCE).map(|_| record("key", values.next(VALUE_BYTES)));
        broker.produce(TOPIC, records).await?;
    }
    let name = place.name();
    let mut measures = Vec::new();
    if place == Place::Directory {
        let resident = resident_mb()?;
        measures.push(measure("resident_with_100_mib".to_owned(), resident, "MB", 40.0));
    }
    let (mut snapshots, mut forks) = (Vec::new(), Vec::new());
    for _ in 0..scale.pick(11, 3) {
        let began = Instant::now();
        let picture = broker.snapshot().await?;
        snapshots.push(ms(began.elapsed()));
        let began = Instant::now();
        let fork = picture.fork().await?;
        forks.push(ms(began.elapsed()));
        must_hold(&fork, REQUESTS * AT_ONCE).await?;
    }
    for (what, times) in [("snapshot", snapshots), ("fork", forks)] {
        let name = format!("{what}_of_100_mib_{name}");
        measures.push(measure(name, median(times), "ms", 20.0));
    }
    Ok(measures)
}

/// A hundred brokers side by side, half of them in memory.
async fn crowd(scale: Scale) -> Result<Vec<Measure>, BenchError> {
    let before = resident_mb()?;
    let count = scale.pick(CROWD, 10);
    let mut brokers = Vec::new();
    let began = Instant::now();
    for _ in 0..count / 2 {
        for place in [Place::Directory, Place::Memory] {
            let broker = place.start().await?;
            broker.create_topic(TOPIC, 1, &[]).await?;
            broker.produce(TOPIC, [record("key", "value")]).await?;
            brokers.push(broker);
        }
    }
    let took = began.elapsed();
    for broker in &brokers {
        must_hold(broker, 1).await?;
    }
    let each = f64::from(count);
    let resident = (resident_mb()? - before).max(0.0);
    Ok(vec![
        measure("many_brokers_memory_each".to_owned(), resident / each, "MB", 15.0),
        measure(
            "many_brokers_first_record_each".to_owned(),
            ms(took) / each,
            "ms",
            10.0,
        ),
    ])
}

async fn must_hold(broker: &Broker, expected: usize) -> Result<(), BenchError> {
    let found = broker.read(TOPIC).await?.len();
    if found == expected {
        return Ok(());
    }
    Err(BenchError::Refused {
        message: format!("an embedded broker holds {found} records, {expected} were written"),
    })
}

/// Returns how many threads of this process are a broker's.
fn threads() -> Result<usize, BenchError> {
    let tasks = std::fs::read_dir(TASKS).context("list", TASKS)?;
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let of_broker = |name: &String| THREADS.iter().any(|begin| name.starts_with(begin));
    Ok(names.filter(of_broker).count())
}

/// Returns how many of them are left; one that has just ended is waited for.
fn left() -> Result<f64, BenchError> {
    let began = Instant::now();
    loop {
        let left = threads()?;
        if left == 0 || began.elapsed().as_secs() >= 1 {
            return Ok(number(to_u64(left)));
        }
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_broker_that_lost_a_record_gives_no_figure() {
        let broker = Broker::in_memory().await.unwrap();
        broker.create_topic(TOPIC, 1, &[]).await.unwrap();
        broker.produce(TOPIC, [record("key", "value")]).await.unwrap();
        must_hold(&broker, 1).await.unwrap();
        let error = must_hold(&broker, 2).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the server refused a batch of the load: an embedded broker holds 1 records, 2 were written"
        );
    }
}
