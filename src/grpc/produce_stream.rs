//! `ProduceStream`: many requests under way at once on one stream.
//!
//! ```text
//!  requests --> [ ahead ] ------> append, in order of arrival --> [ under way, oldest first ] --> wait for the oldest --> answers
//!                their partitions                                   with those ahead at most MAX_REQUESTS
//!                are being opened                                   and MAX_BYTES; then no more is read
//! ```
//!
//! A request waits ahead only while its partition, or that of one before it, is opened for its first append: so partitions
//! are opened side by side, and appends stay in order. What waits there has its share of the broker's limit on requests under
//! way; one for which there is no room is refused in its turn.
//!
//! Invariants
//! - Answers come in the order of requests, those of refused requests too.
//! - What is under way is bounded; a client that sends faster than the disk confirms, or that does not read its answers,
//!   is held back by the flow control of its stream.
//! - A failure answers its own request and the stream goes on.
//! - The stream ends after everything that was read has been answered: without a status when the client has closed its
//!   side, with `SHUTTING_DOWN` when the server stops, with the client's own failure when its side broke.
//! - Polled, not spawned: a client that goes away takes everything here with it. What was appended stays appended.

use std::collections::VecDeque;
use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use tonic::Status;

use crate::broker::Error;
use crate::proto::v1;

use super::status::{invalid, message, of_request, status};

/// Most requests under way on one stream.
pub(super) const MAX_REQUESTS: usize = 4096;
/// Most bytes of requests under way on one stream; the request that crosses the line is still taken.
pub(super) const MAX_BYTES: usize = 64 << 20;
/// Most requests that wait for a partition to be opened; enough to keep all that open one busy.
pub(super) const MAX_AHEAD: usize = 64;

type Answer = Result<v1::ProduceStreamResponse, Status>;
/// Completes when a partition is open.
pub(super) type Opening = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Appends the requests of `input` by `append`, after what `open` says to wait for, with a share that `reserve` gives meanwhile,
/// and streams the outcomes of what it returns; ends early on `stopping`.
pub(super) fn answers<I, O, R, H, A, F, W, S>(
    input: I,
    (open, reserve): (O, R),
    append: A,
    stopping: S,
) -> impl Stream<Item = Answer> + Send + 'static
where
    I: Stream<Item = Result<v1::ProduceStreamRequest, Status>> + Send + Unpin + 'static,
    O: FnMut(&v1::ProduceRequest) -> Option<Opening> + Send + 'static,
    R: FnMut(usize) -> Result<H, Error> + Send + 'static,
    H: Send + 'static,
    A: FnMut(v1::ProduceRequest) -> F + Send + 'static,
    F: Future<Output = Result<W, Error>> + Send + 'static,
    W: Future<Output = Result<v1::ProduceResponse, Error>> + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let pipeline = Pipeline {
        input,
        open,
        reserve,
        append,
        stopping: Box::pin(stopping),
        intake: Intake::Open,
        ahead: VecDeque::new(),
        under_way: VecDeque::new(),
        bytes: 0,
    };
    stream::unfold(pipeline, |mut pipeline| async move {
        let answer = pipeline.next().await?;
        Some((answer, pipeline))
    })
}

struct Pipeline<I, O, R, H, A, W> {
    input: I,
    open: O,
    reserve: R,
    append: A,
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    intake: Intake,
    /// Not appended yet.
    ahead: VecDeque<Ahead<H>>,
    under_way: VecDeque<UnderWay<W>>,
    /// Of both.
    bytes: usize,
}

struct Ahead<H> {
    bytes: usize,
    request: Result<(v1::ProduceStreamRequest, H), Refused>,
    /// `None`: its turn alone is waited for.
    opening: Option<Opening>,
}

/// A request that was let go of, for want of room, and is answered in its turn.
struct Refused {
    id: u64,
    error: Error,
}

/// Whether requests are still taken, and how the stream ends once they are not.
enum Intake {
    Open,
    Closed(Option<Status>),
}

struct UnderWay<W> {
    id: u64,
    bytes: usize,
    silence: Silence,
    outcome: Outcome<W>,
}

/// What is said when all went well.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Silence {
    Answer,
    OnlyErrors,
}

enum Outcome<W> {
    Waiting(Pin<Box<W>>),
    Refused(Error),
}

impl<I, O, R, H, A, F, W> Pipeline<I, O, R, H, A, W>
where
    I: Stream<Item = Result<v1::ProduceStreamRequest, Status>> + Unpin,
    O: FnMut(&v1::ProduceRequest) -> Option<Opening>,
    R: FnMut(usize) -> Result<H, Error>,
    A: FnMut(v1::ProduceRequest) -> F,
    F: Future<Output = Result<W, Error>>,
    W: Future<Output = Result<v1::ProduceResponse, Error>>,
{
    async fn next(&mut self) -> Option<Answer> {
        loop {
            let open = matches!(self.intake, Intake::Open);
            let room = self.ahead.len() + self.under_way.len() < MAX_REQUESTS
                && self.ahead.len() < MAX_AHEAD
                && self.bytes < MAX_BYTES;
            if self.ahead.is_empty()
                && self.under_way.is_empty()
                && let Intake::Closed(end) = &mut self.intake
            {
                return end.take().map(Err);
            }
            tokio::select! {
                biased;
                outcome = oldest(&mut self.under_way), if !self.under_way.is_empty() => {
                    if let Some(answer) = self.answer(outcome) {
                        return Some(Ok(answer));
                    }
                }
                () = opened(&mut self.ahead), if !self.ahead.is_empty() => {
                    if let Some(next) = self.ahead.pop_front() {
                        self.in_turn(next).await;
                    }
                }
                () = &mut self.stopping, if open => {
                    self.intake = Intake::Closed(Some(status(&Error::ShuttingDown)));
                }
                request = self.input.next(), if open && room => match request {
                    Some(Ok(request)) => self.take(request).await,
                    Some(Err(broken)) => self.intake = Intake::Closed(Some(of_request(broken))),
                    None => self.intake = Intake::Closed(None),
                },
            }
        }
    }

    /// Appends a request, or lets it wait for its turn.
    async fn take(&mut self, message: v1::ProduceStreamRequest) {
        let bytes = message.encoded_len();
        self.bytes += bytes;
        let opening = message.request.as_ref().and_then(&mut self.open);
        if opening.is_none() && self.ahead.is_empty() {
            return self.append(message, bytes).await;
        }
        let request = match (self.reserve)(bytes) {
            Ok(share) => Ok((message, share)),
            Err(error) => Err(Refused {
                id: message.id,
                error,
            }),
        };
        self.ahead.push_back(Ahead {
            bytes,
            request,
            opening,
        });
    }

    /// Appends a request whose turn has come.
    async fn in_turn(&mut self, next: Ahead<H>) {
        match next.request {
            Ok((message, share)) => {
                // The append takes its own, before it waits for anything.
                drop(share);
                self.append(message, next.bytes).await;
            }
            Err(Refused { id, error }) => self.under_way.push_back(UnderWay {
                id,
                bytes: next.bytes,
                silence: Silence::Answer,
                outcome: Outcome::Refused(error),
            }),
        }
    }

    async fn append(&mut self, message: v1::ProduceStreamRequest, bytes: usize) {
        let Some(request) = message.request else {
            let refused = Outcome::Refused(invalid("the message has an id and no request; set request"));
            return self.under_way.push_back(UnderWay {
                id: message.id,
                bytes,
                silence: Silence::Answer,
                outcome: refused,
            });
        };
        let silence = match request.acks() {
            v1::Acks::None => Silence::OnlyErrors,
            v1::Acks::All | v1::Acks::Leader => Silence::Answer,
        };
        let outcome = match (self.append)(request).await {
            Ok(waiting) => Outcome::Waiting(Box::pin(waiting)),
            Err(error) => Outcome::Refused(error),
        };
        self.under_way.push_back(UnderWay {
            id: message.id,
            bytes,
            silence,
            outcome,
        });
    }

    /// Answers the oldest request, or stays silent when that was asked for.
    fn answer(&mut self, outcome: Result<v1::ProduceResponse, Error>) -> Option<v1::ProduceStreamResponse> {
        use v1::produce_stream_response::Outcome;
        let UnderWay {
            id, bytes, silence, ..
        } = self.under_way.pop_front()?;
        self.bytes -= bytes;
        let outcome = match outcome {
            Ok(response) if silence == Silence::OnlyErrors && all_succeeded(&response) => return None,
            Ok(response) => Outcome::Acknowledged(response),
            Err(error) => Outcome::Error(message(&error)),
        };
        Some(v1::ProduceStreamResponse {
            id,
            outcome: Some(outcome),
        })
    }
}

fn all_succeeded(response: &v1::ProduceResponse) -> bool {
    response.appended.iter().all(|appended| appended.error.is_none())
}

/// Waits until the partition of the request whose turn it is is open; nothing is lost when the wait is given up.
async fn opened<H>(ahead: &mut VecDeque<Ahead<H>>) {
    if let Some(next) = ahead.front_mut()
        && let Some(opening) = &mut next.opening
    {
        opening.await;
        next.opening = None;
    }
}

/// Waits for the oldest request; nothing is lost when the wait is given up.
async fn oldest<W>(under_way: &mut VecDeque<UnderWay<W>>) -> Result<v1::ProduceResponse, Error>
where
    W: Future<Output = Result<v1::ProduceResponse, Error>>,
{
    match under_way.front_mut().map(|oldest| &mut oldest.outcome) {
        Some(Outcome::Waiting(waiting)) => waiting.as_mut().await,
        Some(Outcome::Refused(error)) => Err(error.clone()),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "produce_stream_tests.rs"]
mod tests;
