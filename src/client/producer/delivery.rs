//! What becomes of each record, told to whoever waits for it.
//!
//! ```text
//!  send --> Delivery(record 3) ---,
//!  send --> Delivery(record 4) ---+--> Fate, one for a batch: written | failed | failed from record n on
//! ```
//!
//! Invariants
//! - A fate is settled once, and never forgotten: the producer settles all that it still holds before it is gone.
//! - A delivery costs no allocation of its own: it shares the fate of its batch. Only a delivery that is waited for leaves a waker.
//! - Whoever waits is woken with no lock of the producer held ([`News`]): a waker is foreign code, and may ask the producer at once.
//!
//! What is not here: what is sent, and what an answer means.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::client::Error;
use crate::types::{Offset, PartitionId, Timestamp};

/// An acknowledged record.
///
/// ```no_run
/// # async fn example(delivery: siltstone::client::Delivery) -> Result<(), siltstone::client::Error> {
/// if let Some(Err(error)) = delivery.outcome() {
///     println!("it is known already, without waiting: {error}");
/// }
/// let acknowledged = delivery.await?;
/// println!("{}@{:?}", acknowledged.partition, acknowledged.offset);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Acknowledged {
    /// The partition that it went to.
    pub partition: PartitionId,
    /// Its offset there; absent with [`Acks::None`](super::Acks::None), where nobody says.
    pub offset: Option<Offset>,
    /// Its time: its own, or the server's where the topic has `LogAppendTime`.
    pub timestamp: Timestamp,
}

/// Where the server put a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Place {
    /// Of the first record.
    pub(super) base_offset: Option<Offset>,
    /// The time that every record got, where the server gives it.
    pub(super) append_time: Option<Timestamp>,
}

/// What becomes of a batch's records.
#[derive(Default)]
pub(super) struct Fate {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    outcome: Option<Result<Place, Error>>,
    /// The records from this one on are not written, for this reason.
    end: Option<(u32, Error)>,
    /// By the place of the record in its batch.
    wakers: Vec<(u32, Waker)>,
}

impl Fate {
    /// All records are written.
    pub(super) fn written(&self, place: Place) {
        self.settle(Ok(place));
    }

    /// No record is acknowledged, nor will be. What was settled before stays.
    fn failed(&self, error: Error) {
        self.settle(Err(error));
    }

    /// The records from `index` on are refused; those before it are still to come.
    fn end_before(&self, index: u32, error: Error) {
        let mut state = self.state.lock();
        state.end.get_or_insert((index, error));
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wake(wakers);
    }

    fn settle(&self, outcome: Result<Place, Error>) {
        let mut state = self.state.lock();
        state.outcome.get_or_insert(outcome);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wake(wakers);
    }
}

/// What fates are to be told. It is put together under the producer's locks, and told when they are free again.
#[derive(Default, Debug)]
#[must_use = "whoever waits hears of it by `tell`"]
pub(super) struct News(Vec<(Arc<Fate>, Change)>);

#[derive(Debug)]
enum Change {
    Failed(Error),
    EndsBefore(u32, Error),
}

impl News {
    /// As [`Fate::failed`].
    pub(super) fn failed(&mut self, fate: &Arc<Fate>, error: Error) {
        self.0.push((Arc::clone(fate), Change::Failed(error)));
    }

    /// As [`Fate::end_before`].
    pub(super) fn ends_before(&mut self, fate: &Arc<Fate>, index: u32, error: Error) {
        self.0.push((Arc::clone(fate), Change::EndsBefore(index, error)));
    }

    /// Adds what others found.
    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Tells all of it. The caller holds no lock.
    pub(super) fn tell(self) {
        for (fate, change) in self.0 {
            match change {
                Change::Failed(error) => fate.failed(error),
                Change::EndsBefore(index, error) => fate.end_before(index, error),
            }
        }
    }
}

impl fmt::Debug for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fate")
            .field("outcome", &self.state.lock().outcome)
            .finish_non_exhaustive()
    }
}

fn wake(wakers: Vec<(u32, Waker)>) {
    wakers.into_iter().for_each(|(_, waker)| waker.wake());
}

impl State {
    fn of(&self, index: u32) -> Option<Result<Place, Error>> {
        match &self.end {
            Some((end, error)) if *end <= index => Some(Err(error.clone())),
            _ => self.outcome.clone(),
        }
    }
}

/// What becomes of one record: a future that ends when the record is acknowledged, or never will be.
///
/// Dropping it changes nothing; the record is written all the same. It ends in the error that stopped the producer, in
/// [`Error::Dropped`] when the producer is dropped before, and within the delivery timeout in any case.
///
/// ```no_run
/// # use siltstone::client::{Error, Producer, ProducerRecord};
/// # async fn example(producer: &Producer) -> Result<(), Error> {
/// let record = ProducerRecord { value: Some(b"departed"), ..ProducerRecord::default() };
/// let delivery = producer.send(record).await?; // it is in a batch
/// println!("on its way to partition {}", delivery.partition());
/// let acknowledged = delivery.await?; // it is in the log
/// println!("offset {:?} at {}", acknowledged.offset, acknowledged.timestamp.0);
/// # Ok(())
/// # }
/// ```
pub struct Delivery {
    fate: Arc<Fate>,
    partition: PartitionId,
    /// The record's place in its batch.
    index: u32,
    timestamp: Timestamp,
    /// Where its waker was left, unless the list was emptied since.
    waker: Option<usize>,
}

impl Delivery {
    pub(super) fn new(fate: Arc<Fate>, partition: PartitionId, index: u32, timestamp: Timestamp) -> Self {
        Self {
            fate,
            partition,
            index,
            timestamp,
            waker: None,
        }
    }

    /// Returns the partition that was chosen for the record.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// Returns the outcome if it is known already.
    pub fn outcome(&self) -> Option<Result<Acknowledged, Error>> {
        let outcome = self.fate.state.lock().of(self.index)?;
        Some(outcome.map(|place| self.acknowledged(place)))
    }

    fn acknowledged(&self, place: Place) -> Acknowledged {
        Acknowledged {
            partition: self.partition,
            offset: place.base_offset.map(|base| base + i64::from(self.index)),
            timestamp: place.append_time.unwrap_or(self.timestamp),
        }
    }
}

impl Future for Delivery {
    type Output = Result<Acknowledged, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut state = this.fate.state.lock();
        if let Some(outcome) = state.of(this.index) {
            drop(state);
            return Poll::Ready(outcome.map(|place| this.acknowledged(place)));
        }
        let own = this.waker.and_then(|at| state.wakers.get_mut(at));
        let before = match own.filter(|(index, _)| *index == this.index) {
            Some((_, waker)) if waker.will_wake(context.waker()) => None,
            Some((_, waker)) => Some(std::mem::replace(waker, context.waker().clone())),
            None => {
                this.waker = Some(state.wakers.len());
                state.wakers.push((this.index, context.waker().clone()));
                None
            }
        };
        drop(state);
        // It may be all that holds a task, and what the task holds.
        drop(before);
        Poll::Pending
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("partition", &self.partition)
            .field("outcome", &self.outcome())
            .finish_non_exhaustive()
    }
}
