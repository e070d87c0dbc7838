//! The acknowledgements that a producer waits for, each timed when it comes.
//!
//! Within a partition they come in order, so only the first of each partition is asked.
//!
//! What is not here: sending (`producing`).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::check::Newest;
use super::recorder::{Done, Kind, Recorder};
use crate::bench::draw::KEY_LEN;
use crate::client::{Delivery, Error};

/// A record, and those before it in its partition, that are not acknowledged.
pub(super) struct Waiting {
    pub(super) delivery: Delivery,
    pub(super) intended: Option<Duration>,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Where the newest record of a key is to be known.
    pub(super) key: Option<[u8; KEY_LEN]>,
}

/// What a producer waits for.
pub(super) struct Settling {
    /// Of each partition.
    queues: Vec<VecDeque<Waiting>>,
    /// Absent before the load: then nothing is timed.
    recorder: Option<Arc<Recorder>>,
    newest: Arc<Newest>,
    /// Kept for its memory.
    done: Vec<Done>,
}

impl Settling {
    pub(super) fn new(partitions: usize, newest: Arc<Newest>) -> Self {
        Self {
            queues: std::iter::repeat_with(VecDeque::new).take(partitions).collect(),
            recorder: None,
            newest,
            done: Vec::new(),
        }
    }

    /// From now on acknowledgements are timed.
    pub(super) fn record_in(&mut self, recorder: Arc<Recorder>) {
        self.recorder = Some(recorder);
    }

    pub(super) fn push(&mut self, waiting: Waiting) {
        let partition = usize::try_from(waiting.delivery.partition().0).expect("never negative");
        self.queues[partition].push_back(waiting);
    }

    /// Takes what is acknowledged by now.
    pub(super) async fn look(&mut self) -> Result<(), Error> {
        poll_fn(|context| Poll::Ready(self.take(context))).await
    }

    /// Takes what comes; ends with an error, or is dropped.
    pub(super) async fn watch(&mut self) -> Error {
        poll_fn(|context| match self.take(context) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        })
        .await
    }

    /// Waits until all is acknowledged.
    pub(super) async fn all(&mut self) -> Result<(), Error> {
        poll_fn(|context| {
            self.take(context)?;
            match self.queues.iter().all(VecDeque::is_empty) {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            }
        })
        .await
    }

    fn take(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        for queue in &mut self.queues {
            while let Some(waiting) = queue.front_mut() {
                let acknowledged = match Pin::new(&mut waiting.delivery).poll(context) {
                    Poll::Pending => break,
                    Poll::Ready(acknowledged) => acknowledged?,
                };
                if let (Some(key), Some(offset)) = (waiting.key, acknowledged.offset) {
                    self.newest.acknowledged(acknowledged.partition, key, offset);
                }
                if let Some(recorder) = &self.recorder {
                    self.done.push(Done {
                        intended: waiting.intended,
                        at: recorder.timeline.now(),
                        records: waiting.records,
                        bytes: waiting.bytes,
                    });
                }
                queue.pop_front();
            }
        }
        if let (Some(recorder), false) = (&self.recorder, self.done.is_empty()) {
            recorder.add(Kind::Acknowledged, &self.done);
            self.done.clear();
        }
        Ok(())
    }
}
