//! The intake: what a request may cost before it is understood.
//!
//! ```text
//!  frames of HTTP/2 --> [ pieces, charged to the budget ] --> whole message: count its parts --> decoder --> call
//!                          max_buffered_bytes, all clients        MAX_PARTS
//! ```
//!
//! An empty record takes two bytes on the wire and a hundred in memory, so bytes alone do not bound a message. Its parts are
//! counted on the wire (`shape`), before the decoder makes the first of them.
//!
//! Invariants
//! - The decoder is given whole messages alone, and of a call with one request only when the client has closed its side: a
//!   decoded request never waits for its client.
//! - Bytes are charged when they come in and given back when their message is decoded (a stream, wherever its frames end) or
//!   the call has taken its request. Beyond the budget a request is refused, retriably; one alone is let in whatever the budget.
//! - So a server holds, beside what the broker counts: `max_buffered_bytes` of requests coming in; for each thread at
//!   work one decoded request of `max_request_bytes` + [`MAX_PARTS`] x 104 bytes (27 MiB), twice that while a list grows; and
//!   what HTTP/2 windows let clients send unread, `max_connections` x 4 MiB.
//! - A request that the decoder fails on is answered as what it is, an invalid one.
//!
//! What it does not do: look into record batches, whose bounds are `record::accept`'s.

mod shape;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use crate::broker::Error;
use crate::telemetry::{Metrics, Refusal, RefusalLabels};

use super::status::{invalid, is_decoders, status, undecodable};
use super::{GrpcConfig, outgoing};
use shape::{Counted, Sends, Shape, Shapes};

/// Most parts of one request: records, their headers, partitions, settings, each one.
pub(super) const MAX_PARTS: usize = 1 << 18;
/// What a piece of a message costs beside its bytes, at most: one in every frame, however short.
const PIECE_OVERHEAD_BYTES: usize = 128;
/// What stands before a message: a flag, and its length as a big-endian `u32`.
const PREFIX_LEN: usize = 5;

/// Limits shared by all calls.
#[derive(Debug)]
pub(super) struct Intake {
    shapes: Shapes,
    max_buffered_bytes: usize,
    buffered_bytes: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl Intake {
    /// Limits all that is coming in as `config` says; refusals are counted in `metrics`.
    pub(super) fn new(config: &GrpcConfig, metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            shapes: Shapes::of_services(),
            max_buffered_bytes: config.max_buffered_bytes,
            buffered_bytes: AtomicUsize::new(0),
            metrics: Arc::clone(metrics),
        })
    }

    /// Refuses a request, which no call will count.
    fn refused(&self, reason: Refusal, error: &Error) -> Status {
        self.metrics
            .refused
            .get_or_create(&RefusalLabels { reason })
            .inc();
        status(error)
    }

    /// Gives a request that the decoder failed on, before any call was there to answer it, an answer in our words.
    fn told(&self, response: http::Response<Body>) -> http::Response<Body> {
        match Status::from_header_map(response.headers()) {
            Some(status) if is_decoders(&status) => self
                .refused(Refusal::InvalidArgument, &undecodable(&status))
                .into_http(),
            _ => response,
        }
    }

    /// Guards a service, none of whose requests may exceed `limit`.
    pub(super) fn guard<S>(self: &Arc<Self>, service: S, limit: Limit) -> Guarded<S> {
        Guarded {
            service,
            limit,
            intake: Arc::clone(self),
        }
    }
}

/// The greatest request of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limit {
    /// In bytes.
    pub(super) bytes: usize,
    /// What sets it, as the client is told.
    pub(super) name: &'static str,
}

/// A service whose requests come through the intake.
#[derive(Clone, Debug)]
pub(super) struct Guarded<S> {
    service: S,
    limit: Limit,
    intake: Arc<Intake>,
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = self.intake.shapes.find(request.uri().path());
        let request = match method {
            Some((shape, sends)) => request.map(|body| {
                Body::new(Incoming {
                    body,
                    shape,
                    sends,
                    limit: self.limit,
                    share: Share {
                        intake: Arc::clone(&self.intake),
                        bytes: 0,
                    },
                    gathered: Pieces::default(),
                    whole: VecDeque::new(),
                    side: Side::Open,
                })
            }),
            // Nobody answers this path: the service says so and reads nothing.
            None => request,
        };
        let answered = self.service.call(request);
        let intake = Arc::clone(&self.intake);
        Box::pin(async move {
            answered
                .await
                .map(|response| outgoing::tied(intake.told(response)))
        })
    }
}

/// What one request holds of the budget; dropping it gives it back.
#[derive(Debug)]
struct Share {
    intake: Arc<Intake>,
    bytes: usize,
}

impl Share {
    fn take(&mut self, bytes: usize) -> Result<(), Status> {
        let before = self.intake.buffered_bytes.fetch_add(bytes, Ordering::Relaxed);
        let of_others = before.saturating_sub(self.bytes);
        self.bytes += bytes;
        let limit = self.intake.max_buffered_bytes;
        if of_others > 0 && before.saturating_add(bytes) > limit {
            let overloaded = Error::Overloaded {
                what: "bytes of requests coming in",
                limit: u64::try_from(limit).unwrap_or(u64::MAX),
            };
            return Err(self.intake.refused(Refusal::Overloaded, &overloaded));
        }
        Ok(())
    }

    /// Gives back what is beyond `bytes`.
    fn keep(&mut self, bytes: usize) {
        let beyond = self.bytes.saturating_sub(bytes);
        self.bytes -= beyond;
        self.intake.buffered_bytes.fetch_sub(beyond, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.keep(0);
    }
}

/// A request's bytes on their way to the decoder.
#[derive(Debug)]
struct Incoming {
    body: Body,
    shape: Arc<Shape>,
    sends: Sends,
    limit: Limit,
    share: Share,
    /// Come in, not counted yet.
    gathered: Pieces,
    /// Counted; the decoder's next.
    whole: VecDeque<Bytes>,
    side: Side,
}

/// The client's side of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Open,
    Closed,
}

impl hyper::body::Body for Incoming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(piece) = self.whole.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if self.side == Side::Closed {
                return Poll::Ready(None);
            }
            if self.sends == Sends::Many {
                // The decoder has all that was whole and asks for more: it has decoded it.
                let held = self.gathered.cost();
                self.share.keep(held);
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => frame,
                None => {
                    self.side = Side::Closed;
                    let counted = self.count();
                    // What is left is no whole message, and the decoder says so.
                    let rest = std::mem::take(&mut self.gathered).pieces;
                    self.whole.extend(rest);
                    match counted {
                        Ok(()) => continue,
                        Err(refused) => return Poll::Ready(Some(Err(refused))),
                    }
                }
            };
            match frame.into_data() {
                Ok(data) => {
                    if let Err(refused) = self.gather(data) {
                        return Poll::Ready(Some(Err(refused)));
                    }
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }
}

impl Incoming {
    /// Takes in what one frame carried.
    fn gather(&mut self, data: Bytes) -> Result<(), Status> {
        self.share.take(data.len() + PIECE_OVERHEAD_BYTES)?;
        self.gathered.push(data);
        let limit = self.limit.bytes;
        match self.sends {
            // The frames of a stream may hold several messages, each of which is within the limit.
            Sends::Many => self.count(),
            Sends::One if self.gathered.len > PREFIX_LEN + limit => Err(self.too_long()),
            Sends::One if self.gathered.prefix().is_some_and(|len| len > limit) => Err(self.too_long()),
            Sends::One => Ok(()),
        }
    }

    /// Refuses a message by its length. Not left to the decoder: its word for it is the one for an offset out of range.
    fn too_long(&self) -> Status {
        let Limit { bytes, name } = self.limit;
        let too_long = invalid(format!(
            "the request has more than {bytes} bytes, {name}; send it as several"
        ));
        self.share.intake.refused(Refusal::InvalidArgument, &too_long)
    }

    /// Counts the parts of every whole message gathered, and lets it pass.
    fn count(&mut self) -> Result<(), Status> {
        while let Some(message_len) = self.gathered.prefix() {
            if message_len > self.limit.bytes {
                return Err(self.too_long());
            }
            let framed = PREFIX_LEN.saturating_add(message_len);
            if self.gathered.len < framed {
                break;
            }
            let mut message = self.gathered.reader();
            message.advance(PREFIX_LEN);
            if self.shape.count(message.take(message_len), MAX_PARTS) == Counted::TooMany {
                let too_many = invalid(format!(
                    "the request has more than {MAX_PARTS} parts (records, headers, partitions, settings); \
                     send it as several, or its records as a batch"
                ));
                return Err(self.share.intake.refused(Refusal::InvalidArgument, &too_many));
            }
            self.gathered.move_to(&mut self.whole, framed);
        }
        if !self.whole.is_empty() {
            // Once for all messages of a frame, or the cost of short ones would be that of their square.
            self.gathered.own_first();
        }
        Ok(())
    }
}

/// Bytes as they came in, not copied together.
#[derive(Debug, Default)]
struct Pieces {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// Returns what the pieces are charged.
    fn cost(&self) -> usize {
        self.len + self.pieces.len() * PIECE_OVERHEAD_BYTES
    }

    /// Returns the length of the message that begins here, once its prefix is there.
    fn prefix(&self) -> Option<usize> {
        if self.len < PREFIX_LEN {
            return None;
        }
        let mut reader = self.reader();
        reader.advance(1);
        usize::try_from(reader.get_u32()).ok()
    }

    fn reader(&self) -> Reader<'_> {
        Reader {
            pieces: &self.pieces,
            piece: 0,
            at: 0,
            remaining: self.len,
        }
    }

    /// Moves the first `len` bytes to the end of `to`.
    fn move_to(&mut self, to: &mut VecDeque<Bytes>, len: usize) {
        let mut left = len.min(self.len);
        self.len -= left;
        while left > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let moved = piece.split_to(left.min(piece.len()));
            left -= moved.len();
            to.push_back(moved);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    /// Lets go of the frame that the first piece was cut from.
    fn own_first(&mut self) {
        if let Some(piece) = self.pieces.front_mut() {
            *piece = Bytes::copy_from_slice(piece);
        }
    }
}

/// Reads over pieces as if they were one.
#[derive(Clone, Debug)]
struct Reader<'a> {
    pieces: &'a VecDeque<Bytes>,
    piece: usize,
    at: usize,
    remaining: usize,
}

impl Buf for Reader<'_> {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.get(self.piece).map_or(&[], |piece| &piece[self.at..])
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "reads within what is there");
        self.remaining -= count;
        while count > 0 {
            let here = self.chunk().len();
            if count < here {
                self.at += count;
                return;
            }
            count -= here;
            self.piece += 1;
            self.at = 0;
        }
    }
}

#[cfg(test)]
mod tests;
