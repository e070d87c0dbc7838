//! What answers to reads hold in memory until their clients take them: one budget, over all clients.
//!
//! ```text
//!  step of the broker (slices of mappings, not counted) --> share --> answer --> frame --> socket
//!                                                             '-- counted until the frame is written or dropped --'
//! ```
//!
//! Invariants
//! - No answer to `Read` or `Fetch` is built without a [`Share`]. It is given back when the transport has let go of the frame
//!   that carries the answer, and of a stream not before its next answer: the encoder keeps its buffer that long.
//! - Nobody waits for others: while they hold the budget, an answer is made of [`LEAST_BYTES`], or of one record or batch that
//!   is larger, when the stream's last one is sent. So clients that do not read slow the others down, and do not stop them.
//! - What a stream decoded beyond its answer is counted too, or forgotten and decoded again.
//! - So a server holds `max_buffered_bytes` of answers, [`LEAST_BYTES`] twice for each call beyond it, and for each core at
//!   work the one batch that is being decoded: more are not decoded at once.
//!
//! What it does not do: bound what the system's socket buffers hold.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;

use crate::broker::Error;
use crate::telemetry::Metrics;

use super::{GrpcConfig, Work, off_network_threads};

/// What the records of an answer may take, in bytes as they are sent, however many hold the budget.
const LEAST_BYTES: usize = 64 << 10;
/// How much memory an answer takes for each of its bytes, at most: the buffer that it is encoded into doubles as it grows.
const GROWTH: usize = 2;

/// The budget.
#[derive(Debug)]
pub(super) struct Outgoing {
    limit_bytes: usize,
    held_bytes: AtomicUsize,
    /// One for each answer that may be decoded at once.
    decoders: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Outgoing {
    /// Limits all answers to what `config` says of requests; what they hold is told in `metrics`.
    pub(super) fn new(config: &GrpcConfig, metrics: &Arc<Metrics>) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            limit_bytes: config.max_buffered_bytes,
            held_bytes: AtomicUsize::new(0),
            decoders: Arc::new(Semaphore::new(cores)),
            metrics: Arc::clone(metrics),
        })
    }

    /// Takes a share for an answer of `wanted`, if the budget has it.
    pub(super) fn try_answer(self: &Arc<Self>, wanted: Wanted) -> Option<Share> {
        self.try_share(wanted.memory(wanted.records_bytes))
    }

    /// Takes a share for an answer of `wanted` with few records, whatever others hold.
    pub(super) fn small_answer(self: &Arc<Self>, wanted: Wanted) -> Share {
        self.metrics.reduced_answers.inc();
        let mut share = Share {
            outgoing: Arc::clone(self),
            bytes: 0,
        };
        share.hold(wanted.memory(wanted.records_bytes.min(LEAST_BYTES)));
        share
    }

    /// Takes `bytes` of memory if the budget has them.
    pub(super) fn try_share(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let with = |held: usize| held.checked_add(bytes).filter(|all| *all <= self.limit_bytes);
        let held_bytes = &self.held_bytes;
        held_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, with)
            .ok()?;
        self.metrics.sending_bytes.inc_by(gauge(bytes));
        Some(Share {
            outgoing: Arc::clone(self),
            bytes,
        })
    }

    /// Decodes where it may take long, as many at once as there are cores. None of them waits for a client, so each comes to
    /// its turn.
    pub(super) async fn decode<T: Send + 'static>(
        &self,
        work: Work,
        compute: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        if work == Work::Short {
            return Ok(compute());
        }
        let place = Arc::clone(&self.decoders)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        // The place comes back with the result: it is given up when the caller goes on to send it, not before.
        let (decoded, place) = off_network_threads(work, move || (compute(), place)).await?;
        drop(place);
        Ok(decoded)
    }
}

/// The size of an answer, as it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wanted {
    pub(super) records_bytes: usize,
    /// Its other fields, at most.
    pub(super) overhead_bytes: usize,
}

impl Wanted {
    fn memory(self, records_bytes: usize) -> usize {
        records_bytes
            .saturating_add(self.overhead_bytes)
            .saturating_mul(GROWTH)
    }
}

/// What an answer holds of the budget; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Share {
    outgoing: Arc<Outgoing>,
    bytes: usize,
}

impl Share {
    /// Returns how large an answer it is for, in bytes as it is sent.
    pub(super) fn answer_bytes(&self) -> usize {
        self.bytes / GROWTH
    }

    /// Makes it what an answer of `answer_bytes` takes, be it more than was asked for: it is there.
    pub(super) fn settle(&mut self, answer_bytes: usize) {
        self.hold(answer_bytes.saturating_mul(GROWTH));
    }

    fn hold(&mut self, bytes: usize) {
        let before = mem::replace(&mut self.bytes, bytes);
        let (held, told) = (&self.outgoing.held_bytes, &self.outgoing.metrics.sending_bytes);
        held.fetch_add(bytes, Ordering::Relaxed);
        held.fetch_sub(before, Ordering::Relaxed);
        told.inc_by(gauge(bytes) - gauge(before));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
    }
}

fn gauge(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Carries the shares of a call's answers to the frames that they are sent in; clones are the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares(Arc<Way>);

#[derive(Debug, Default)]
struct Way {
    /// Of answers that are in no frame yet.
    waiting: Mutex<Vec<Arc<Share>>>,
    /// Frames that the transport has.
    frames: AtomicUsize,
    /// Rung when it let go of one.
    sent: Notify,
}

impl Shares {
    /// Adds the share of an answer that is about to be encoded.
    pub(super) fn push(&self, share: Arc<Share>) {
        self.0.waiting.lock().push(share);
    }

    /// Completes when the transport has let go of all frames of the call. It does so by itself.
    pub(super) async fn all_sent(&self) {
        loop {
            let sent = self.0.sent.notified();
            tokio::pin!(sent);
            sent.as_mut().enable();
            if self.0.frames.load(Ordering::Acquire) == 0 {
                return;
            }
            sent.await;
        }
    }

    /// Ties `bytes` to the shares of all answers that were encoded since the last frame.
    fn tie(&self, bytes: Bytes) -> Bytes {
        let shares = mem::take(&mut *self.0.waiting.lock());
        if shares.is_empty() {
            return bytes;
        }
        self.0.frames.fetch_add(1, Ordering::Release);
        Bytes::from_owner(Sent {
            bytes,
            shares,
            way: Arc::clone(&self.0),
        })
    }
}

/// Ties the frames of an answer to the shares that its call left in the response.
pub(super) fn tied(mut response: http::Response<Body>) -> http::Response<Body> {
    match response.extensions_mut().remove::<Shares>() {
        Some(shares) => response.map(|body| Body::new(Tied { body, shares })),
        None => response,
    }
}

/// A body whose frames hold their shares.
#[derive(Debug)]
struct Tied {
    body: Body,
    shares: Shares,
}

impl HttpBody for Tied {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        polled.map_ok(|frame| frame.map_data(|bytes| self.shares.tie(bytes)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The bytes of a frame, and what they hold of the budget for as long as they are there.
struct Sent {
    bytes: Bytes,
    shares: Vec<Arc<Share>>,
    way: Arc<Way>,
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.bytes = Bytes::new();
        self.shares.clear();
        self.way.frames.fetch_sub(1, Ordering::AcqRel);
        self.way.sent.notify_waiters();
    }
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(limit_bytes: usize) -> Arc<Outgoing> {
        Arc::new(Outgoing {
            limit_bytes,
            held_bytes: AtomicUsize::new(0),
            decoders: Arc::new(Semaphore::new(1)),
            metrics: Arc::default(),
        })
    }

    const fn records(records_bytes: usize) -> Wanted {
        Wanted {
            records_bytes,
            overhead_bytes: 0,
        }
    }

    #[test]
    fn beyond_the_budget_answers_are_small_and_what_is_given_back_is_there_again() {
        let outgoing = outgoing(3 << 20);
        let first = outgoing.try_answer(records(1 << 20)).unwrap();
        assert_eq!(first.answer_bytes(), 1 << 20);
        assert!(outgoing.try_answer(records(1 << 20)).is_none());
        let mut second = outgoing.small_answer(records(1 << 20));
        assert_eq!(second.answer_bytes(), LEAST_BYTES);
        assert!(outgoing.try_share(1 << 20).is_none());
        second.settle(5 << 20);
        assert_eq!(
            outgoing.metrics.sending_bytes.get(),
            12 << 20,
            "one batch may be larger"
        );
        drop((first, second));
        assert_eq!(outgoing.metrics.sending_bytes.get(), 0);
        assert_eq!(outgoing.metrics.reduced_answers.get(), 1);
        assert!(outgoing.try_answer(records(1 << 20)).is_some());
    }

    #[tokio::test]
    async fn a_share_is_held_until_the_transport_lets_go_of_the_last_of_its_frame() {
        let outgoing = outgoing(1 << 20);
        let shares = Shares::default();
        let mut response = http::Response::new(Body::new("the answer".to_owned()));
        response.extensions_mut().insert(shares.clone());
        shares.push(Arc::new(outgoing.try_answer(records(100)).unwrap()));
        let mut body = tied(response).into_body();
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let mut bytes = frame.unwrap().unwrap().into_data().unwrap();
        drop(body);
        let rest = bytes.split_off(4);
        drop(bytes);
        assert_eq!(outgoing.metrics.sending_bytes.get(), 200);
        let mut all_sent = Box::pin(shares.all_sent());
        assert!(futures_util::FutureExt::now_or_never(all_sent.as_mut()).is_none());
        drop(rest);
        all_sent.await;
        assert_eq!(outgoing.metrics.sending_bytes.get(), 0);
    }
}
