//! A pipeline from topic to topic that makes each output exactly once, however often it is stopped or killed.
//!
//! ```text
//! cargo run --example exactly_once -- 127.0.0.1:9095 flights flights-loud
//! ```
//!
//! There is no second place that says how far it is: each output record carries the offset of its input in a header, and partition
//! n of the output holds what was made of partition n of the input, in order. So the last record of an output partition tells
//! where to go on:
//!
//! ```text
//!  input 0    | 0 | 1 | 2 | 3 | 4 | ...          read from the resume token 0:3
//!  output 0   | of 0 | of 1 | of 2 |  <- last: "of 2"
//! ```
//!
//! Within a run the producer sees to it that a retry writes nothing twice. Let one run at a time write to the output: the requests
//! of a run that is still alive come behind what another has already looked at.

#![allow(clippy::print_stdout, reason = "what an example has to say")]

use std::error::Error;

use siltstone::client::{
    Client, OffsetQuery, Partitioner, ProducerOptions, ProducerRecord, ReadEnd, ReadSpec, ReadStart,
    ResumeToken,
};
use siltstone::record::Header;
use siltstone::types::{Offset, PartitionId};
use tokio_stream::StreamExt;

/// The header in which an output record carries the offset of its input.
const INPUT_OFFSET: &[u8] = b"input-offset";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, input, output] = arguments.as_slice() else {
        return Err("three arguments: a server, the topic to read, and the topic to write".into());
    };
    let client = Client::connect(server).await?;
    println!("{} records written", pipeline(&client, input, output).await?);
    Ok(())
}

/// Makes an output of every input that has none yet, and returns how many it made. Both topics have as many partitions.
pub(crate) async fn pipeline(client: &Client, input: &str, output: &str) -> Result<u64, Box<dyn Error>> {
    let spec = ReadSpec {
        resume: made_so_far(client, output).await?,
        ..ReadSpec::default()
    };
    let options = ProducerOptions {
        partitioner: Partitioner::Explicit,
        ..ProducerOptions::default()
    };
    let mut producer = client.producer(output, options).await?;
    let mut records = client.read(input, spec).await?.into_records();
    while let Some(read) = records.try_next().await? {
        let made = read.record.value.as_deref().map(<[u8]>::to_ascii_uppercase);
        let from = Header {
            key: INPUT_OFFSET.into(),
            value: Some(read.record.offset.to_string().into()),
        };
        let record = ProducerRecord {
            key: read.record.key.as_deref(),
            value: made.as_deref(),
            timestamp: read.record.timestamp,
            partition: Some(read.partition),
            headers: &[from],
            ..ProducerRecord::default()
        };
        producer.send(record).await?;
    }
    producer.close().await?;
    Ok(producer.metrics().acknowledged_records)
}

/// Returns where to go on in the input: after the input of the last record of each output partition.
async fn made_so_far(client: &Client, output: &str) -> Result<ResumeToken, Box<dyn Error>> {
    let mut token = ResumeToken::default();
    for found in client.list_offsets(output, OffsetQuery::Latest).await? {
        let end = found.offset.unwrap_or(Offset::ZERO);
        if end > Offset::ZERO {
            let input = last_input(client, output, found.partition, end).await?;
            token.0.insert(found.partition, input.next());
        }
    }
    Ok(token)
}

/// Returns the offset of the input of the record that lies before `end`.
async fn last_input(
    client: &Client,
    output: &str,
    partition: PartitionId,
    end: Offset,
) -> Result<Offset, Box<dyn Error>> {
    let last = ReadSpec {
        partitions: vec![partition],
        start: ReadStart::Offset(Offset(end.0 - 1)),
        end: ReadEnd::Offset(end),
        ..ReadSpec::default()
    };
    let mut records = client.read(output, last).await?.into_records();
    let last = records
        .try_next()
        .await?
        .ok_or("the last record of the output is gone")?;
    let header = last
        .record
        .headers
        .iter()
        .find(|header| header.key == INPUT_OFFSET);
    let value = header.and_then(|header| header.value.as_deref());
    let text = std::str::from_utf8(value.ok_or("the output holds a record that is not of this pipeline")?)?;
    Ok(Offset(text.parse()?))
}
