//! The fetching task of a read: chunks are fetched before they are asked for, and the stream is made again after a loss.
//!
//! ```text
//!  server --> [ stream, its receive window ] --> this task --> [ queue, at most prefetch_bytes and one chunk ] --> Reader
//!                      ^ made again at `position` after a loss
//! ```
//!
//! Invariants
//! - Chunks are queued in the order of the log, each once: `position` covers all that is queued, and a new stream begins there.
//! - A loss is waited out for `reconnect_for`, counted from the last response on, and the queue tells of it in its place.
//! - A read with an end waits for no response longer than [`RESPONSE_TIMEOUT`]. One that follows may wait for ever for what
//!   nobody writes; a peer that is gone is noticed by keep-alive.
//!
//! What is not here: which records of a batch count (`filter`), and their decoding, which is the caller's.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;

use super::filter::{Chunk, CompactedBelow, Wanted};
use super::later::later;
use super::read_spec::{ReadEnd, ReadSpec, ReadStart, ResumeToken};
use super::{Client, Error};
use crate::proto::v1;
use crate::types::{Offset, PartitionId, TopicName};

/// How long a response may take of a read that has an end: what is asked for is there, in an archive at worst.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(120);
/// Chunks and turns that are queued, at most.
const QUEUE: usize = 256;

/// A chunk, and where the read stands after it.
pub(super) struct Fetched {
    pub(super) chunk: Chunk,
    /// The partitions that moved, with the next offset to read.
    pub(super) moved: Vec<(PartitionId, Offset)>,
    pub(super) completed: Completed,
}

/// Whether everything that was asked for has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Completed {
    Yes,
    No,
}

/// What the queue holds.
pub(super) enum Event {
    /// A chunk, with its share of the queue.
    Fetched(Fetched, OwnedSemaphorePermit),
    /// The stream broke, and is made again.
    Lost(Error),
    /// It is there again.
    Restored,
    /// The read ended.
    Failed(Error),
}

/// The task's state.
pub(super) struct Fetcher {
    client: Client,
    topic: TopicName,
    spec: ReadSpec,
    stream: Streaming<v1::ReadResponse>,
    position: ResumeToken,
    /// Since when no response has come, and how often the stream was tried since.
    losses: Option<(Instant, u32)>,
}

impl Fetcher {
    /// Opens the stream.
    ///
    /// # Errors
    /// The server's, and those of the connection.
    pub(super) async fn open(client: Client, topic: TopicName, spec: ReadSpec) -> Result<Self, Error> {
        let position = spec.resume.clone();
        Ok(Self {
            stream: stream(&client, spec.request(&topic, &position)).await?,
            client,
            topic,
            spec,
            position,
            losses: None,
        })
    }

    /// Begins to fetch; the task ends with the read, or when it is aborted.
    pub(super) fn start(self) -> (mpsc::Receiver<Event>, tokio::task::JoinHandle<()>) {
        let (events, queue) = mpsc::channel(QUEUE);
        let task = tokio::spawn(async move {
            // Nobody listens any more: nothing is left to do.
            let _ = self.run(&events).await;
        });
        (queue, task)
    }

    async fn run(mut self, events: &mpsc::Sender<Event>) -> Result<(), mpsc::error::SendError<Event>> {
        let greatest = u32::try_from(self.spec.prefetch_bytes).unwrap_or(u32::MAX).max(1);
        let greatest = greatest.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        let room = Arc::new(Semaphore::new(usize::try_from(greatest).unwrap_or(1)));
        loop {
            let fetched = match self.response().await {
                Ok(response) => self.take(response),
                Err(error) => match self.come_back(error, events).await? {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
            };
            let fetched = match fetched {
                Ok(fetched) => fetched,
                Err(error) => return events.send(Event::Failed(error)).await,
            };
            let len = u32::try_from(fetched.chunk.batches().len()).unwrap_or(u32::MAX);
            let share = room.clone().acquire_many_owned(len.clamp(1, greatest)).await;
            let share = share.expect("the semaphore is never closed");
            let completed = fetched.completed;
            events.send(Event::Fetched(fetched, share)).await?;
            if completed == Completed::Yes {
                return Ok(());
            }
        }
    }

    async fn response(&mut self) -> Result<v1::ReadResponse, Error> {
        let follows = self.spec.end == ReadEnd::Follow;
        let message = if follows {
            self.stream.message().await
        } else {
            match timeout(RESPONSE_TIMEOUT, self.stream.message()).await {
                Ok(message) => message,
                Err(_) => {
                    return Err(Error::NoAnswer {
                        address: self.client.address().to_owned(),
                        waited: RESPONSE_TIMEOUT,
                    });
                }
            }
        };
        match message {
            Ok(Some(response)) => Ok(response),
            Ok(None) if follows => Err(Error::ConnectionLost {
                address: self.client.address().to_owned(),
                reason: "the server ended the stream".to_owned(),
            }),
            Ok(None) => Err(self
                .client
                .protocol_error("a read ended without saying that it is complete")),
            Err(status) => Err(self.client.error(&status)),
        }
    }

    /// Opens the stream again after a loss; the error is the read's end. The outer one means that nobody listens.
    async fn come_back(
        &mut self,
        error: Error,
        events: &mpsc::Sender<Event>,
    ) -> Result<Result<(), Error>, mpsc::error::SendError<Event>> {
        let mut error = error;
        let mut is_told = false;
        loop {
            let (since, attempt) = *self.losses.get_or_insert_with(|| (Instant::now(), 0));
            let Some(delay) = error.retry_delay(attempt) else {
                return Ok(Err(error));
            };
            // No end where the time that is left goes beyond what the clock can tell.
            let give_up_at = since.checked_add(self.spec.reconnect_for);
            if give_up_at.is_some_and(|end| later(Instant::now(), delay) >= end) {
                return Ok(Err(error));
            }
            if !is_told {
                events.send(Event::Lost(error)).await?;
                is_told = true;
            }
            self.losses = Some((since, attempt.saturating_add(1)));
            sleep(delay).await;
            match stream(&self.client, self.spec.request(&self.topic, &self.position)).await {
                Ok(stream) => {
                    self.stream = stream;
                    events.send(Event::Restored).await?;
                    return Ok(Ok(()));
                }
                Err(failed) => error = failed,
            }
        }
    }

    /// Takes a response in; its token tells of the partitions that moved.
    fn take(&mut self, response: v1::ReadResponse) -> Result<Fetched, Error> {
        self.losses = None;
        let partition = PartitionId(response.partition);
        let from = self.from(partition, Offset(response.log_start_offset));
        let token = response.resume.unwrap_or_default();
        let moved = token
            .positions
            .iter()
            .map(|position| (PartitionId(position.partition), Offset(position.offset)));
        let moved: Vec<_> = moved.collect();
        self.position.advance(moved.iter().copied());
        let until = match self.position.0.get(&partition) {
            Some(until) => *until,
            None if response.batches.is_empty() => from,
            None => {
                return Err(self
                    .client
                    .protocol_error("a chunk's resume token lacks its partition"));
            }
        };
        let compacted_below = CompactedBelow {
            records: Offset(response.compacted_below),
            tombstones: Offset(response.tombstones_gone_below),
        };
        let aborted = response.aborted_transactions;
        let chunk = Chunk::new(
            partition,
            response.batches,
            Wanted {
                offsets: from..until,
                times: self.spec.times_of(partition),
            },
            aborted
                .into_iter()
                .map(|aborted| (aborted.producer_id, aborted.first_offset))
                .collect(),
        );
        Ok(Fetched {
            chunk: chunk.told(compacted_below),
            moved,
            completed: match response.complete {
                true => Completed::Yes,
                false => Completed::No,
            },
        })
    }

    /// The first offset of the partition's next chunk that was asked for and not read yet.
    fn from(&self, partition: PartitionId, log_start: Offset) -> Offset {
        let asked = match (self.position.0.get(&partition), self.spec.start_of(partition)) {
            (Some(position), _) => *position,
            (None, ReadStart::Offset(offset)) => offset,
            (None, _) => Offset::ZERO,
        };
        asked.max(log_start)
    }
}

async fn stream(client: &Client, request: v1::ReadRequest) -> Result<Streaming<v1::ReadResponse>, Error> {
    client.answer(client.log().read(request)).await
}
