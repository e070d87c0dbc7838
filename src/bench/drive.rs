//! The load itself: raw batches over `ProduceStream`, pipelined or one at a time, and reads of them.
//!
//! The requests are made by hand from ready batches, so that what is measured is the way of a batch and not the making
//! of it. Connection, windows and reader are the client's own.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::BenchError;
use super::measure::Times;
use super::payload::{Crc, Fold, Load};
use crate::client::{Client, ReadSpec};
use crate::proto::v1::{self, produce_stream_response::Outcome};
use crate::types::PartitionId;

/// Requests that wait for the connection to take them; more are under way inside it.
const QUEUE: usize = 16;

/// A stream of requests to one partition.
#[derive(Debug)]
pub(super) struct Stream {
    requests: mpsc::Sender<v1::ProduceStreamRequest>,
    answers: Streaming<v1::ProduceStreamResponse>,
    topic: String,
    partition: PartitionId,
}

impl Stream {
    pub(super) async fn open(
        client: &Client,
        topic: &str,
        partition: PartitionId,
    ) -> Result<Self, BenchError> {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let answers = client
            .log()
            .produce_stream(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        Ok(Self {
            requests,
            answers,
            topic: topic.to_owned(),
            partition,
        })
    }

    /// Sends `count` batches as fast as they are taken; returns the time until the last is acknowledged.
    pub(super) async fn pipelined(self, load: &Load, count: u64) -> Result<Duration, BenchError> {
        let (topic, partition, load) = (self.topic.clone(), self.partition, load.clone());
        let make = move |n| request(&topic, partition, n, &load);
        self.pipelined_by(count, make).await
    }

    /// As [`Stream::pipelined`], with requests that `make` makes of their numbers.
    pub(super) async fn pipelined_by(
        mut self,
        count: u64,
        make: impl Fn(u64) -> v1::ProduceStreamRequest + Send + 'static,
    ) -> Result<Duration, BenchError> {
        let began = Instant::now();
        let requests = self.requests;
        let feeding = tokio::spawn(async move {
            for n in 0..count {
                // A closed queue means that the stream has ended; its answers say why.
                if requests.send(make(n)).await.is_err() {
                    break;
                }
            }
        });
        for n in 0..count {
            acknowledged(self.answers.message().await?, n)?;
        }
        let took = began.elapsed();
        feeding.abort();
        Ok(took)
    }

    /// Sends `count` batches from number `first` on, each after the one before it was acknowledged.
    pub(super) async fn one_by_one(
        &mut self,
        load: &Load,
        numbers: std::ops::Range<u64>,
        times: &mut Times,
    ) -> Result<(), BenchError> {
        for n in numbers {
            let request = request(&self.topic, self.partition, n, load);
            let began = Instant::now();
            // As above: the answers say why.
            let _ = self.requests.send(request).await;
            acknowledged(self.answers.message().await?, n)?;
            times.add(began.elapsed());
        }
        Ok(())
    }
}

fn request(topic: &str, partition: PartitionId, n: u64, load: &Load) -> v1::ProduceStreamRequest {
    v1::ProduceStreamRequest {
        id: n,
        request: Some(v1::ProduceRequest {
            topic: topic.to_owned(),
            partition: Some(partition.0),
            batch: Some(load.batch(n).clone()),
            ..v1::ProduceRequest::default()
        }),
    }
}

fn acknowledged(answer: Option<v1::ProduceStreamResponse>, expected: u64) -> Result<(), BenchError> {
    let refused = |message: String| Err(BenchError::Refused { message });
    let Some(answer) = answer else {
        return refused(format!(
            "the stream ended before batch {expected} was acknowledged"
        ));
    };
    if answer.id != expected {
        return refused(format!(
            "the answer to batch {} came before that to {expected}",
            answer.id
        ));
    }
    match answer.outcome {
        Some(Outcome::Acknowledged(response)) => {
            let failed = response.appended.into_iter().find_map(|appended| appended.error);
            failed.map_or(Ok(()), |error| refused(error.message))
        }
        Some(Outcome::Error(error)) => refused(error.message),
        None => refused("an answer has no outcome".to_owned()),
    }
}

/// Reads one partition from the earliest record to the end; returns what came and how long it took.
pub(super) async fn read_all(
    client: &Client,
    topic: &str,
    partition: PartitionId,
    crc: Crc,
) -> Result<(Fold, Duration), BenchError> {
    let began = Instant::now();
    let spec = ReadSpec {
        partitions: vec![partition],
        ..ReadSpec::default()
    };
    let mut reader = client.read(topic, spec).await?;
    let mut fold = Fold::new(crc);
    while let Some(chunk) = reader.next().await? {
        fold.add(chunk.batches())?;
    }
    Ok((fold, began.elapsed()))
}
