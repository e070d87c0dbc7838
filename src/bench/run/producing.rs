//! A producer of the load: makes records, sends each when it is due, and times its acknowledgement.
//!
//! Invariants
//! - A record that cannot be sent when it is due, because the buffer is full or the server slow, keeps its time.
//! - Nothing is lost in silence: whatever the client could not deliver ends the run.
//!
//! What is not here: what is sent (`source`), and when (`schedule`).

use std::sync::Arc;
use std::time::Duration;

use super::check::{Keeps, Newest};
use super::recorder::Recorder;
use super::schedule::{Schedule, Turn};
use super::settling::{Settling, Waiting};
use super::source::{Made, Source};
use super::timer::Timer;
use crate::bench::BenchError;
use crate::bench::measure::Times;
use crate::bench::payload::to_u64;
use crate::client::{Producer, ProducerMetrics, ProducerRecord};
use crate::types::Timestamp;

/// After so many records in a row others get their turn.
const RECORDS_A_TURN: u32 = 128;
/// Of an open throttle's records every so many'th is timed: to wait for each would cost more than to send it.
const TIMED_ONE_OF: u64 = 64;

/// One producer.
pub(super) struct Producing {
    number: u32,
    topic: usize,
    producer: Producer,
    source: Source,
    settling: Settling,
    /// In each partition: records and bytes since the last that is waited for.
    since: Vec<(u64, u64)>,
    keeps: Keeps,
    timed_one_of: u64,
}

impl Producing {
    pub(super) fn new(
        (number, topic): (u32, usize),
        producer: Producer,
        source: Source,
        (keeps, newest): (Keeps, Arc<Newest>),
    ) -> Self {
        let partitions = source.lanes().len();
        Self {
            number,
            topic,
            producer,
            source,
            settling: Settling::new(partitions, newest),
            since: vec![(0, 0); partitions],
            keeps,
            timed_one_of: 1,
        }
    }

    /// Its number in its topic, and the topic's.
    pub(super) fn place(&self) -> (u32, usize) {
        (self.number, self.topic)
    }

    /// What became of what it sent.
    pub(super) fn metrics(&self) -> ProducerMetrics {
        self.producer.metrics()
    }

    /// What it has written.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// Writes so many bytes before the load, with times from `from` on, `span_ms` in all; returns when all is acknowledged.
    pub(super) async fn backlog(
        mut self,
        bytes: u64,
        (from, span_ms): (Timestamp, i64),
    ) -> Result<Self, BenchError> {
        self.timed_one_of = TIMED_ONE_OF;
        let mut written = 0;
        let mut in_a_row = 0;
        while written < bytes {
            let part = i128::from(written) * i128::from(span_ms) / i128::from(bytes.max(1));
            let time = from.saturating_add_ms(i64::try_from(part).unwrap_or(span_ms));
            written += self.send(None, time).await?;
            self.rest(&mut in_a_row).await?;
        }
        self.finish().await?;
        Ok(self)
    }

    /// Writes as `schedule` says; returns when all is acknowledged.
    pub(super) async fn load(
        mut self,
        mut schedule: Schedule,
        recorder: Arc<Recorder>,
    ) -> Result<Self, BenchError> {
        let timeline = recorder.timeline;
        self.settling.record_in(Arc::clone(&recorder));
        self.timed_one_of = match schedule {
            Schedule::Paced { .. } => 1,
            Schedule::Open { .. } => TIMED_ONE_OF,
        };
        let mut timer = Timer::new()?;
        let mut late = Times::new();
        let mut in_a_row = 0;
        while let Turn::At(intended) = schedule.next(timeline.now()) {
            let now = timeline.now();
            if now < intended {
                in_a_row = 0;
                tokio::select! {
                    woken = timer.sleep(intended - now) => woken?,
                    error = self.settling.watch() => return Err(error.into()),
                }
            }
            if intended >= timeline.warm_up {
                late.add(timeline.now().saturating_sub(intended));
            }
            let sent = self.send(Some(intended), timeline.wall(intended)).await?;
            schedule.sent(sent);
            self.rest(&mut in_a_row).await?;
        }
        recorder.late(&late);
        self.finish().await?;
        Ok(self)
    }

    /// Sends the next record; returns the bytes of its key and value.
    async fn send(&mut self, intended: Option<Duration>, time: Timestamp) -> Result<u64, BenchError> {
        let Made {
            key,
            value,
            partition,
        } = self.source.next(intended);
        let record = ProducerRecord {
            key: key.map(<[u8; _]>::as_slice),
            value: Some(value),
            timestamp: Some(time),
            partition: Some(partition),
            ..ProducerRecord::default()
        };
        let delivery = tokio::select! {
            biased;
            sent = self.producer.send(record) => sent?,
            error = self.settling.watch() => return Err(error.into()),
        };
        let bytes = to_u64(value.len() + key.map_or(0, |key| key.len()));
        let since = &mut self.since[usize::try_from(partition.0).expect("never negative")];
        since.0 += 1;
        since.1 += bytes;
        if since.0 >= self.timed_one_of || self.keeps == Keeps::Newest {
            let (records, bytes) = std::mem::take(since);
            self.settling.push(Waiting {
                delivery,
                intended,
                records,
                bytes,
                key: (self.keeps == Keeps::Newest).then_some(key.copied()).flatten(),
            });
        }
        Ok(bytes)
    }

    /// Now and then takes in what is acknowledged, and lets others work.
    async fn rest(&mut self, in_a_row: &mut u32) -> Result<(), BenchError> {
        *in_a_row += 1;
        if *in_a_row == RECORDS_A_TURN {
            *in_a_row = 0;
            self.settling.look().await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), BenchError> {
        tokio::select! {
            flushed = self.producer.flush() => flushed?,
            error = self.settling.watch() => return Err(error.into()),
        }
        self.settling.all().await?;
        Ok(())
    }
}
