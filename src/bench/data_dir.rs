//! Data directories to start on: so many partitions of so many segments, made by a broker and closed cleanly.
//!
//! Each record is a segment: their times lie further apart than `segment.ms`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::BenchError;
use super::target::config;
use crate::broker::{Acks, Broker, Execution, NewTopic, World};
use crate::env::{RealFs, SystemClock};
use crate::record::{BatchBuilder, BatchOptions};
use crate::types::{PartitionId, Timestamp, TopicName};

/// More partitions than one topic may have become several topics.
const PARTITIONS_PER_TOPIC: u32 = 10_000;
const SEGMENT_MS: i64 = 1000;

/// How much a directory holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Content {
    pub(super) partitions: u32,
    /// Of each partition; 0: nothing was ever appended.
    pub(super) segments: u32,
}

/// Fills `dir`, which does not exist yet, and returns how long the broker took to stop right after that.
pub(super) async fn fill(dir: &Path, content: Content) -> Result<Duration, BenchError> {
    let world = World {
        fs: Arc::new(RealFs::new()),
        clock: Arc::new(SystemClock),
    };
    let broker = Broker::start(config(dir).broker, world).await?;
    let mut left = content.partitions;
    let mut number = 0;
    while left > 0 {
        let partitions = left.min(PARTITIONS_PER_TOPIC);
        let name = format!("bench-{number}");
        fill_topic(
            &broker,
            &name,
            Content {
                partitions,
                ..content
            },
        )
        .await?;
        left -= partitions;
        number += 1;
    }
    let began = Instant::now();
    broker.shutdown().await?;
    Ok(began.elapsed())
}

async fn fill_topic(broker: &Broker, name: &str, content: Content) -> Result<(), BenchError> {
    let partitions = i32::try_from(content.partitions).expect("at most 10,000");
    let topic = NewTopic {
        name: name.to_owned(),
        partitions: Some(partitions),
        config: BTreeMap::from([
            ("durability".to_owned(), "written".to_owned()),
            ("segment.ms".to_owned(), SEGMENT_MS.to_string()),
        ]),
    };
    broker.create_topic(topic, Execution::Apply).await?;
    let name = TopicName::new(name).expect("a letter, a line and digits make a name");
    for segment in 0..content.segments {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        let time = Timestamp((i64::from(segment) + 1) * 2 * SEGMENT_MS);
        builder
            .append(Some(time), None, Some(b"a segment of its own"), &[])
            .expect("a small record fits");
        let batch = builder.build().expect("it has a record").bytes().clone();
        for partition in 0..partitions {
            broker
                .append_batch(&name, PartitionId(partition), batch.clone(), Acks::Leader)
                .await?
                .wait()
                .await?;
        }
    }
    Ok(())
}
