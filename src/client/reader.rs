//! Reading: a stream of chunks, each whole batches of one partition, filtered to exactly what was asked for.
//!
//! Invariants
//! - The resume token after a chunk covers everything up to and including that chunk: a reader that keeps the token with
//!   what it made of the chunk goes on without a gap and without a repeat.
//! - Every chunk tells below which offsets its partition is compacted ([`CompactedBelow`](super::CompactedBelow)): who goes on
//!   below may have missed something.
//! - A read is opened again after a loss, where it stands, and says so to whom [`Reader::watch`] named.
//! - Memory is bounded by the receive window of the read's own stream, `prefetch_bytes` and one chunk; who is not polled holds up
//!   nobody else.
//!
//! What is not here: the fetching (`fetcher`), which records of a batch count (`filter`), records one by one (`record_stream`).

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;

use super::fetcher::{Completed, Event, Fetched, Fetcher};
use super::filter::{Chunk, ChunkRecords};
use super::offsets::OffsetQuery;
use super::read_spec::{ReadSpec, ReadStart, ResumeToken};
use super::record_stream::RecordStream;
use super::{Client, Error, admin};
use crate::types::TopicName;

/// A turn in the connection of a read.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::{Connection, ReadSpec};
///
/// let mut reader = client.read("flights", ReadSpec::default()).await?;
/// println!("reading {}", reader.topic());
/// reader.watch(|turn| {
///     if let Connection::Lost(error) = turn {
///         eprintln!("{error}");
///     }
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Connection<'a> {
    /// It is lost, for this reason; the read tries to come back.
    Lost(&'a Error),
    /// It is there again, and the read goes on where it stopped.
    Restored,
}

/// Told of every turn of a read's connection.
type Watcher = Box<dyn FnMut(Connection<'_>) + Send + Sync>;

/// A read under way: a [`Stream`] of chunks, which are whole batches. [`Reader::into_records`] makes it one of records.
///
/// After an error it is over.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::{Connection, ReadEnd, ReadSpec};
///
/// let follow = ReadSpec { end: ReadEnd::Follow, ..ReadSpec::default() };
/// let mut reader = client.read("flights", follow).await?;
/// reader.watch(|turn| match turn {
///     Connection::Lost(error) => eprintln!("waiting for the server: {error}"),
///     Connection::Restored => eprintln!("it is back"),
/// });
/// while let Some(chunk) = reader.next().await? {
///     for record in reader.records(&chunk) {
///         println!("{}@{}", chunk.partition(), record?.offset);
///     }
///     // Kept together with what was made of the chunk, it makes that exactly once.
///     println!("resume {}", reader.resume_token());
/// }
/// # Ok(())
/// # }
/// ```
pub struct Reader {
    client: Client,
    topic: TopicName,
    queue: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
    position: ResumeToken,
    completed: Completed,
    watcher: Watcher,
}

impl Client {
    /// Reads a topic between two points, or follows it.
    ///
    /// # Errors
    /// `NotFound`; `OutOfRange` for an offset that the log does not hold.
    pub async fn read(&self, topic: &str, spec: ReadSpec) -> Result<Reader, Error> {
        let topic = admin::topic_name(topic)?;
        let mut spec = spec;
        if spec.begins_at_latest() {
            self.pin_latest(&topic, &mut spec).await?;
        }
        let position = spec.resume.clone();
        let fetcher = Fetcher::open(self.clone(), topic.clone(), spec).await?;
        let (queue, task) = fetcher.start();
        Ok(Reader {
            client: self.clone(),
            topic,
            queue,
            task,
            position,
            completed: Completed::No,
            watcher: Box::new(|_| {}),
        })
    }

    /// Turns "latest" into offsets, so that a read opened again after a loss begins where the first one did.
    async fn pin_latest(&self, topic: &TopicName, spec: &mut ReadSpec) -> Result<(), Error> {
        for found in self.list_offsets(topic.as_str(), OffsetQuery::Latest).await? {
            let begins_there =
                spec.names(found.partition) && spec.start_of(found.partition) == ReadStart::Latest;
            if let (true, Some(offset)) = (begins_there, found.offset) {
                spec.resume.0.entry(found.partition).or_insert(offset);
            }
        }
        Ok(())
    }
}

impl Reader {
    /// Waits for the next chunk; `None` when everything asked for has come. Chunks without records carry progress. A call that
    /// is dropped before it ends loses nothing.
    ///
    /// # Errors
    /// The server's, and the connection's after `reconnect_for`. Damage in a chunk is told by [`Reader::records`].
    pub async fn next(&mut self) -> Result<Option<Chunk>, Error> {
        poll_fn(|context| self.poll_chunk(context)).await.transpose()
    }

    /// Has `watcher` told when the connection is lost, once a loss, and when it is there again.
    pub fn watch(&mut self, watcher: impl FnMut(Connection<'_>) + Send + Sync + 'static) {
        self.watcher = Box::new(watcher);
    }

    /// Returns where the read stands after the last chunk.
    pub fn resume_token(&self) -> &ResumeToken {
        &self.position
    }

    /// Returns the topic that is read.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Returns the records of a chunk, in order, and only those that were asked for.
    pub fn records(&self, chunk: &Chunk) -> ChunkRecords {
        chunk.records(&self.topic)
    }

    /// Reads on record by record.
    pub fn into_records(self) -> RecordStream {
        RecordStream::new(self)
    }

    /// Returns how much lies ready.
    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Chunk, Error>>> {
        let fetched = ready!(self.poll_fetched(context));
        Poll::Ready(fetched.map(|fetched| {
            let Fetched { chunk, moved, .. } = fetched?;
            self.position.advance(moved);
            Ok(chunk)
        }))
    }

    /// Waits for what the next chunk is, and leaves the position to the caller.
    pub(super) fn poll_fetched(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Fetched, Error>>> {
        loop {
            if self.completed == Completed::Yes {
                return Poll::Ready(None);
            }
            let error = match ready!(self.queue.poll_recv(context)) {
                Some(Event::Fetched(fetched, share)) => {
                    drop(share);
                    self.completed = fetched.completed;
                    return Poll::Ready(Some(Ok(fetched)));
                }
                Some(Event::Lost(error)) => {
                    (self.watcher)(Connection::Lost(&error));
                    continue;
                }
                Some(Event::Restored) => {
                    (self.watcher)(Connection::Restored);
                    continue;
                }
                Some(Event::Failed(error)) => error,
                None => self.runtime_is_gone(),
            };
            self.completed = Completed::Yes;
            return Poll::Ready(Some(Err(error)));
        }
    }

    /// Takes in how far a chunk went that the caller is done with.
    pub(super) fn advance(&mut self, fetched: Fetched) {
        self.position.advance(fetched.moved);
    }

    pub(super) fn runtime_is_gone(&self) -> Error {
        Error::ConnectionLost {
            address: self.client.address().to_owned(),
            reason: "the runtime in which the read began has ended".to_owned(),
        }
    }
}

impl Stream for Reader {
    type Item = Result<Chunk, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_chunk(context)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("topic", &self.topic)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
