//! A read record by record.
//!
//! Invariants
//! - The resume token covers exactly the records that were handed out.
//! - Large compressed batches are decompressed on the runtime's blocking threads, one at a time: neither the network nor other
//!   tasks wait for it, and one batch at most lies decompressed.
//!
//! What is not here: chunks (`reader`), and which records count (`filter`).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::JoinHandle;
use tokio_stream::Stream;

use super::fetcher::Fetched;
use super::filter::{ChunkRecords, Step, open_batch};
use super::reader::Reader;
use super::{Connection, Error, ResumeToken};
use crate::record::{Codec, Damage, Record, RecordBatch, Records};
use crate::types::{Offset, PartitionId};

/// Smaller compressed batches cost less here than their way to another thread.
const ASIDE_BYTES: usize = 16 << 10;

/// A record and its partition.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// use siltstone::client::{ReadRecord, ReadSpec};
/// use tokio_stream::StreamExt;
///
/// let mut records = client.read("flights", ReadSpec::default()).await?.into_records();
/// while let Some(ReadRecord { partition, record }) = records.try_next().await? {
///     println!("{partition}@{} {:?}", record.offset, record.key);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadRecord {
    /// Where it was read.
    pub partition: PartitionId,
    /// The record.
    pub record: Record,
}

/// A [`Stream`] of records, in order within each partition; after an error it is over.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use siltstone::client::ReadSpec;
/// use tokio_stream::StreamExt;
///
/// let mut records = client.read("flights", ReadSpec::default()).await?.into_records();
/// while let Some(read) = records.try_next().await? {
///     println!("{}@{} {:?}", read.partition, read.record.offset, read.record.value);
///     if read.record.offset.0 == 99 {
///         break;
///     }
/// }
/// // After exactly these records the next read goes on.
/// println!("resume {}", records.resume_token());
/// # Ok(())
/// # }
/// ```
pub struct RecordStream {
    reader: Reader,
    open: Option<Open>,
    over: bool,
}

/// The chunk under way.
struct Open {
    fetched: Fetched,
    records: ChunkRecords,
    /// A batch that is being decompressed.
    decoding: Option<JoinHandle<Result<Records, Damage>>>,
    /// After the last record that was handed out.
    next_offset: Option<Offset>,
}

impl RecordStream {
    pub(super) fn new(reader: Reader) -> Self {
        Self {
            reader,
            open: None,
            over: false,
        }
    }

    /// Returns where the read stands after the last record.
    pub fn resume_token(&self) -> ResumeToken {
        let mut token = self.reader.resume_token().clone();
        if let Some(open) = &self.open
            && let Some(next) = open.next_offset
        {
            token.advance([(open.fetched.chunk.partition(), next)]);
        }
        token
    }

    /// As [`Reader::watch`].
    pub fn watch(&mut self, watcher: impl FnMut(Connection<'_>) + Send + Sync + 'static) {
        self.reader.watch(watcher);
    }

    fn poll_record(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<ReadRecord>, Error>> {
        loop {
            let Some(open) = &mut self.open else {
                match ready!(self.reader.poll_fetched(context)) {
                    None => return Poll::Ready(Ok(None)),
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    Some(Ok(fetched)) => {
                        let records = self.reader.records(&fetched.chunk);
                        self.open = Some(Open {
                            fetched,
                            records,
                            decoding: None,
                            next_offset: None,
                        });
                    }
                }
                continue;
            };
            if let Some(decoding) = &mut open.decoding {
                let Ok(decoded) = ready!(Pin::new(decoding).poll(context)) else {
                    return Poll::Ready(Err(self.reader.runtime_is_gone()));
                };
                open.decoding = None;
                open.records.begin(decoded)?;
            }
            match open.records.advance()? {
                Some(Step::Record(record)) => {
                    open.next_offset = Some(record.offset.next());
                    let partition = open.fetched.chunk.partition();
                    return Poll::Ready(Ok(Some(ReadRecord { partition, record })));
                }
                Some(Step::Batch(batch)) if is_better_aside(&batch) => {
                    open.decoding = Some(tokio::task::spawn_blocking(move || open_batch(&batch)));
                }
                Some(Step::Batch(batch)) => open.records.begin(open_batch(&batch))?,
                None => {
                    if let Some(open) = self.open.take() {
                        self.reader.advance(open.fetched);
                    }
                }
            }
        }
    }
}

fn is_better_aside(batch: &RecordBatch) -> bool {
    batch.header().codec != Codec::None && batch.bytes().len() >= ASIDE_BYTES
}

impl Stream for RecordStream {
    type Item = Result<ReadRecord, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let record = ready!(this.poll_record(context)).transpose();
        this.over = !matches!(record, Some(Ok(_)));
        Poll::Ready(record)
    }
}

impl fmt::Debug for RecordStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordStream")
            .field("reader", &self.reader)
            .finish_non_exhaustive()
    }
}
