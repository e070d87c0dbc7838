//! Calls, counted by method and by how they ended.
//!
//! A call is counted once, when it is over: a stream at its end, and a call whose client went away as `CANCELLED`. The time of
//! calls with one answer is taken; that of a stream would say how long its client wanted it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::Stream;
use tonic::{Code, Response, Status};

use crate::broker::Error;
use crate::telemetry::{CallLabels, MethodLabels, Metrics};

use super::status::status;

/// A call under way.
#[derive(Debug)]
pub(super) struct Call {
    metrics: Arc<Metrics>,
    method: &'static str,
    begun: Instant,
    ended: Code,
}

impl Call {
    /// Begins a call of `method`.
    pub(super) fn begin(metrics: &Arc<Metrics>, method: &'static str) -> Self {
        Self {
            metrics: Arc::clone(metrics),
            method,
            begun: Instant::now(),
            ended: Code::Cancelled,
        }
    }

    /// Ends a call that has one answer.
    pub(super) fn end<T>(mut self, outcome: Result<T, Error>) -> Result<Response<T>, Status> {
        let response = outcome.map(Response::new).map_err(|error| status(&error));
        self.ended = response.as_ref().err().map_or(Code::Ok, Status::code);
        let labels = MethodLabels { method: self.method };
        let latency = self.metrics.call_latency.get_or_create(&labels);
        latency.record(self.begun.elapsed());
        drop(latency);
        response
    }

    /// Goes on as long as the stream of answers, when there is one.
    pub(super) fn stream<S>(mut self, outcome: Result<S, Error>) -> Result<Response<Observed<S>>, Status> {
        match outcome {
            Ok(answers) => Ok(Response::new(Observed {
                answers: Box::pin(answers),
                call: self,
            })),
            Err(error) => {
                let status = status(&error);
                self.ended = status.code();
                Err(status)
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let labels = CallLabels {
            method: self.method,
            status: name(self.ended),
        };
        self.metrics.calls.get_or_create(&labels).inc();
    }
}

/// The answers of a call, which ends with them.
#[derive(Debug)]
pub(super) struct Observed<S> {
    answers: Pin<Box<S>>,
    call: Call,
}

impl<T, S: Stream<Item = Result<T, Status>>> Stream for Observed<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let polled = self.answers.as_mut().poll_next(cx);
        match &polled {
            Poll::Ready(None) if self.call.ended == Code::Cancelled => self.call.ended = Code::Ok,
            Poll::Ready(Some(Err(status))) => self.call.ended = status.code(),
            Poll::Ready(_) | Poll::Pending => {}
        }
        polled
    }
}

/// The code's name, as the gRPC specification writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};

    fn counted(metrics: &Metrics, status: &'static str) -> u64 {
        metrics
            .calls
            .get_or_create(&CallLabels {
                method: "Read",
                status,
            })
            .get()
    }

    #[tokio::test]
    async fn a_call_is_counted_once_by_how_it_ended() {
        let metrics = Arc::new(Metrics::new());
        let call = || Call::begin(&metrics, "Read");
        call().end(Ok(())).unwrap();
        call().end::<()>(Err(Error::ShuttingDown)).unwrap_err();
        drop(call());
        assert_eq!(counted(&metrics, "OK"), 1);
        assert_eq!(counted(&metrics, "UNAVAILABLE"), 1);
        assert_eq!(counted(&metrics, "CANCELLED"), 1);
        let read = MethodLabels { method: "Read" };
        let timed = metrics.call_latency.get_or_create(&read).count();
        assert_eq!(timed, 2, "those that had an answer");
    }

    #[tokio::test]
    async fn a_stream_is_counted_at_its_end_and_not_before() {
        let metrics = Arc::new(Metrics::new());
        let answers = |answers: Vec<Result<i32, Status>>| {
            let call = Call::begin(&metrics, "Read");
            call.stream(Ok(stream::iter(answers))).unwrap().into_inner()
        };
        let mut open = answers(vec![Ok(1), Ok(2)]);
        assert!(open.next().await.is_some());
        assert_eq!(counted(&metrics, "OK") + counted(&metrics, "CANCELLED"), 0);
        drop(open);
        assert_eq!(
            counted(&metrics, "CANCELLED"),
            1,
            "the client went away in the middle"
        );
        answers(vec![Ok(1)]).collect::<Vec<_>>().await;
        assert_eq!(counted(&metrics, "OK"), 1);
        answers(vec![Err(Status::data_loss("torn"))])
            .collect::<Vec<_>>()
            .await;
        assert_eq!(counted(&metrics, "DATA_LOSS"), 1);
    }
}
