//! The sending task: one pipelined stream, made again after every loss.
//!
//! ```text
//!  wait for work -> open stream -> [ seal what is due, send what may go, take answers ] -> lost -> back off -> ...
//!                                                                                       -> closed and all settled: end
//! ```
//!
//! Invariants
//! - Only this task sends, so batches of a partition go out in the order of their window.
//! - No wait is without an end: an answer has the request timeout, a record the delivery timeout.
//! - A refusal that no retry mends stops the producer: what comes after would leave a gap. One that names records ends their
//!   partition before the first of them, and stops the producer when all else is settled.
//!
//! What is not here: which batch goes next (`windows`, `window`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::delivery::Place;
use super::window::{Refused, RequestId, Verdict};
use super::windows::IN_FLIGHT_REQUESTS;
use super::{Acks, Shared, count, partition_id};
use crate::client::later::later;
use crate::client::{Client, Error, Written};
use crate::proto::v1::{self, produce_stream_response::Outcome};
use crate::types::{Offset, Timestamp};

/// How often timeouts are looked at while something is under way.
const TICK: Duration = Duration::from_millis(50);
/// How long the end of the stream may take after the last request.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// The reason of a refusal whose batch is not the next of its partition.
const OUT_OF_ORDER: &str = "OUT_OF_ORDER_SEQUENCE";

/// Why a session ended before its time.
enum Broken {
    /// The connection; a new one may do.
    Lost(Error),
    /// The producer.
    Fatal(Error),
}

/// Whether the stream takes more now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Free,
    Full,
}

/// The sending task's state.
pub(super) struct Sender {
    client: Client,
    shared: Arc<Shared>,
    /// Losses in a row.
    losses: u32,
    last_error: Option<Error>,
    /// Requests by the time they were sent; some are answered since.
    sent: VecDeque<(Instant, RequestId)>,
}

impl Drop for Sender {
    /// Nobody waits for a task that is gone: where it did not come to its end, this is the failure.
    fn drop(&mut self) {
        let is_over = self.shared.closing.load(Ordering::Acquire) && !self.has_work_left();
        if !is_over {
            self.shared.fail(Error::ConnectionLost {
                address: self.client.address().to_owned(),
                reason: "the runtime in which the producer was made has ended".to_owned(),
            });
        }
    }
}

impl Sender {
    pub(super) fn new(client: Client, shared: Arc<Shared>) -> Self {
        Self {
            client,
            shared,
            losses: 0,
            last_error: None,
            sent: VecDeque::new(),
        }
    }

    /// Sends until the producer is closed and all is settled, or until it fails.
    pub(super) async fn run(mut self) {
        loop {
            self.wait_for_work().await;
            let fatal = match self.session().await {
                Ok(()) => return,
                Err(Broken::Fatal(error)) => error,
                Err(Broken::Lost(error)) => match self.back_off(error).await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
            };
            self.shared.fail(fatal);
            return;
        }
    }

    /// Waits until something is sealed, or is to be, or the producer closes.
    async fn wait_for_work(&self) {
        while !self.has_work() {
            self.shared.work.notified().await;
        }
    }

    fn has_work(&self) -> bool {
        self.shared.closing.load(Ordering::Acquire) || self.has_work_left()
    }

    fn has_work_left(&self) -> bool {
        self.shared.accumulator.lock().open_bytes() > 0
            || !self.shared.windows.lock().is_empty()
            || self.shared.rejection.lock().is_some()
    }

    /// Takes a loss: everything under way will go again, after a wait.
    async fn back_off(&mut self, error: Error) -> Result<(), Error> {
        self.shared.windows.lock().connection_lost();
        self.sent.clear();
        let delay = error.retry_delay(self.losses).ok_or_else(|| error.clone())?;
        tracing::debug!(topic = %self.shared.topic, %error, ?delay, "connection lost, sending again");
        self.losses = self.losses.saturating_add(1);
        count(&self.shared.counters.losses, 1);
        self.last_error = Some(error);
        let until = later(Instant::now(), delay);
        while Instant::now() < until {
            self.check_delivery_timeout()?;
            sleep_until(until.min(Instant::now() + TICK)).await;
        }
        self.check_delivery_timeout()
    }

    async fn session(&mut self) -> Result<(), Broken> {
        let (requests, receiver) = mpsc::channel(IN_FLIGHT_REQUESTS);
        let mut answers = self.open(receiver).await?;
        loop {
            let flow = self.pump(&requests)?;
            if let Some(error) = self.settled_rejection() {
                return Err(Broken::Fatal(error));
            }
            if self.is_done() {
                break;
            }
            let wake = self.next_wake();
            tokio::select! {
                answer = answers.message() => self.take(answer)?,
                () = self.shared.work.notified() => {}
                permit = requests.reserve(), if flow == Flow::Full => drop(permit),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => self.check_timeouts()?,
            }
        }
        drop(requests);
        self.drain(answers).await
    }

    async fn open(
        &self,
        receiver: mpsc::Receiver<v1::ProduceStreamRequest>,
    ) -> Result<Streaming<v1::ProduceStreamResponse>, Broken> {
        let mut log = self.client.log();
        let opening = log.produce_stream(ReceiverStream::new(receiver));
        tokio::pin!(opening);
        let deadline = later(Instant::now(), self.shared.options.request_timeout);
        loop {
            match timeout(TICK, &mut opening).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => return Err(Broken::Lost(self.client.error(&status))),
                Err(_) => self.check_delivery_timeout().map_err(Broken::Fatal)?,
            }
            if Instant::now() >= deadline {
                return Err(Broken::Lost(self.no_answer()));
            }
        }
    }

    /// Seals what is due and sends all that may go.
    fn pump(&mut self, requests: &mpsc::Sender<v1::ProduceStreamRequest>) -> Result<Flow, Broken> {
        self.seal_due();
        loop {
            let permit = match requests.try_reserve() {
                Ok(permit) => permit,
                Err(TrySendError::Full(())) => return Ok(Flow::Full),
                Err(TrySendError::Closed(())) => return Err(Broken::Lost(self.stream_ended())),
            };
            let now = Instant::now();
            let Some(outgoing) = self.shared.windows.lock().next(now) else {
                return Ok(Flow::Free);
            };
            permit.send(self.request(outgoing.request, outgoing.partition, outgoing.bytes));
            count(&self.shared.counters.requests, 1);
            if self.shared.options.acks == Acks::None {
                self.acknowledge(outgoing.request, Place::default());
            } else {
                self.sent.push_back((now, outgoing.request));
            }
        }
    }

    fn request(&self, id: RequestId, partition: usize, batch: bytes::Bytes) -> v1::ProduceStreamRequest {
        let acks = match self.shared.options.acks {
            Acks::All => v1::Acks::All,
            Acks::Leader => v1::Acks::Leader,
            Acks::None => v1::Acks::None,
        };
        v1::ProduceStreamRequest {
            id: id.0,
            request: Some(v1::ProduceRequest {
                topic: self.shared.topic.as_str().to_owned(),
                partition: Some(partition_id(partition).0),
                acks: acks.into(),
                batch: Some(batch),
                ..v1::ProduceRequest::default()
            }),
        }
    }

    fn seal_due(&self) {
        let mut accumulator = self.shared.accumulator.lock();
        let mut sealed = Vec::new();
        if self.shared.hurry.swap(false, Ordering::AcqRel) || self.shared.closing.load(Ordering::Acquire) {
            accumulator.seal_all(&mut sealed);
        } else if let Some(before) = Instant::now().checked_sub(self.shared.options.linger()) {
            accumulator.seal_older(before, &mut sealed);
        }
        let news = self.shared.push(sealed);
        drop(accumulator);
        news.tell();
    }

    /// Returns when to look again though nothing else happens.
    fn next_wake(&self) -> Option<Instant> {
        let opened_at = self.shared.accumulator.lock().oldest_opened_at();
        let linger_ends = opened_at.map(|opened_at| later(opened_at, self.shared.options.linger()));
        let tick = (!self.shared.windows.lock().is_empty()).then(|| Instant::now() + TICK);
        linger_ends.into_iter().chain(tick).min()
    }

    fn is_done(&self) -> bool {
        self.shared.closing.load(Ordering::Acquire)
            && self.shared.accumulator.lock().open_bytes() == 0
            && self.shared.windows.lock().is_empty()
    }

    /// Returns the refusal of a record once all is settled that could still be written.
    fn settled_rejection(&self) -> Option<Error> {
        let error = self.shared.rejection.lock().as_ref()?.error.clone();
        let is_settled =
            self.shared.accumulator.lock().open_bytes() == 0 && self.shared.windows.lock().is_empty();
        is_settled.then_some(error)
    }

    fn take(
        &mut self,
        answer: Result<Option<v1::ProduceStreamResponse>, tonic::Status>,
    ) -> Result<(), Broken> {
        let answer = match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(Broken::Lost(self.stream_ended())),
            Err(status) => return Err(Broken::Lost(self.client.error(&status))),
        };
        let request = RequestId(answer.id);
        match answer.outcome {
            Some(Outcome::Acknowledged(mut response)) => match response.appended.pop() {
                Some(v1::Appended {
                    error: Some(error), ..
                }) => self.refuse(request, error)?,
                appended => self.appended(request, appended.unwrap_or_default())?,
            },
            Some(Outcome::Error(error)) => self.refuse(request, error)?,
            None => {
                return Err(Broken::Fatal(
                    self.client.protocol_error("an answer has no outcome"),
                ));
            }
        }
        Ok(())
    }

    /// Takes an acknowledgement, which tells where the batch is.
    fn appended(&mut self, request: RequestId, appended: v1::Appended) -> Result<(), Broken> {
        let partition = self.shared.windows.lock().partition_of(request);
        let Some(partition) = partition else {
            // Of a request that was answered before.
            return Ok(());
        };
        let base_offset = appended.base_offset.filter(|offset| *offset >= 0);
        let is_sound = appended.partition == partition_id(partition).0 && base_offset.is_some();
        if !is_sound {
            let reason = "an acknowledgement does not say where the batch is";
            return Err(Broken::Fatal(self.client.protocol_error(reason)));
        }
        let place = Place {
            base_offset: base_offset.map(Offset),
            append_time: appended.log_append_time_ms.map(Timestamp),
        };
        self.acknowledge(request, place);
        Ok(())
    }

    fn acknowledge(&mut self, request: RequestId, place: Place) {
        let settled = self.shared.windows.lock().acknowledge(request, Instant::now());
        if let Some(settled) = settled {
            self.losses = 0;
            let shared = &self.shared;
            let counters = &shared.counters;
            count(&counters.acknowledged_records, u64::from(settled.records));
            count(&counters.acknowledged_bytes, settled.payload_bytes);
            count(&counters.acknowledged_batches, 1);
            let batch_bytes = u64::try_from(settled.batch_bytes).expect("a length fits 64 bits");
            count(&counters.acknowledged_batch_bytes, batch_bytes);
            shared
                .sealed_bytes
                .fetch_sub(settled.batch_bytes, Ordering::Relaxed);
            settled.fate.written(place);
            shared.settled.notify_waiters();
        }
    }

    fn refuse(&mut self, request: RequestId, error: v1::Error) -> Result<(), Broken> {
        let error = Error::from_message(error);
        if self.shared.options.acks == Acks::None {
            // Sent without a number: it cannot be sent again without the risk of writing it twice.
            return Err(Broken::Fatal(error));
        }
        let mut windows = self.shared.windows.lock();
        let Some(refusals) = windows.refusals(request) else {
            return Ok(());
        };
        let refused = match error.retry_delay(refusals) {
            Some(delay) => Refused::Later(delay),
            None if error.reason() == Some(OUT_OF_ORDER) => Refused::OutOfOrder,
            None => Refused::Never,
        };
        if let (Refused::Never, Some(index)) = (refused, error.refused_record()) {
            if let Some(ended) = windows.end_before(request, (index, &error), Instant::now()) {
                // Under the lock: whoever finds the window settled finds this, too.
                self.shared.reject(ended.place, ended.error);
                let sealed_bytes = &self.shared.sealed_bytes;
                sealed_bytes.fetch_add(ended.bytes_after, Ordering::Relaxed);
                sealed_bytes.fetch_sub(ended.bytes_before, Ordering::Relaxed);
                drop(windows);
                ended.news.tell();
            } else {
                drop(windows);
            }
            self.shared.hurry();
            self.shared.settled.notify_waiters();
            return Ok(());
        }
        if !error.says_not_written() {
            windows.doubt(request);
        }
        let verdict = windows.refuse(request, refused, Instant::now());
        drop(windows);
        if verdict == Verdict::Fatal {
            return Err(Broken::Fatal(error));
        }
        if matches!(refused, Refused::Later(_)) {
            self.last_error = Some(error);
        }
        Ok(())
    }

    fn check_timeouts(&mut self) -> Result<(), Broken> {
        self.check_delivery_timeout().map_err(Broken::Fatal)?;
        let now = Instant::now();
        let mut windows = self.shared.windows.lock();
        windows.release_held(now);
        while self
            .sent
            .front()
            .is_some_and(|(_, request)| !windows.is_under_way(*request))
        {
            self.sent.pop_front();
        }
        drop(windows);
        let overdue = self
            .sent
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) >= self.shared.options.request_timeout);
        if overdue {
            Err(Broken::Lost(self.no_answer()))
        } else {
            Ok(())
        }
    }

    fn check_delivery_timeout(&self) -> Result<(), Error> {
        // Also while nothing can be sent: what is not sealed has no place in a window, and would wait for ever.
        self.seal_due();
        let waited = self.shared.options.delivery_timeout;
        let windows = self.shared.windows.lock();
        let Some((partition, since)) = windows.waiting_since() else {
            return Ok(());
        };
        if since.elapsed() < waited {
            return Ok(());
        }
        Err(Error::DeliveryTimeout {
            topic: self.shared.topic.clone(),
            partition: partition_id(partition),
            waited,
            written: match windows.may_be_written() {
                true => Written::Perhaps,
                false => Written::No,
            },
            last_error: self
                .last_error
                .as_ref()
                .map_or_else(|| "none".to_owned(), ToString::to_string),
        })
    }

    /// Takes what comes until the server ends the stream: with acks, nothing but the end.
    async fn drain(&mut self, mut answers: Streaming<v1::ProduceStreamResponse>) -> Result<(), Broken> {
        let ending = async {
            while let Some(answer) = answers
                .message()
                .await
                .map_err(|status| self.client.error(&status))?
            {
                if let Some(Outcome::Error(error)) = answer.outcome {
                    return Err(Error::from_message(error));
                }
            }
            Ok(())
        };
        let ended = timeout(CLOSE_TIMEOUT, ending)
            .await
            .unwrap_or_else(|_| Err(self.no_answer()));
        match ended {
            // What was sent without acks is known to have arrived only by the orderly end.
            Err(error) if self.shared.options.acks == Acks::None => Err(Broken::Fatal(error)),
            _ => Ok(()),
        }
    }

    fn stream_ended(&self) -> Error {
        Error::ConnectionLost {
            address: self.client.address().to_owned(),
            reason: "the server ended the stream".to_owned(),
        }
    }

    fn no_answer(&self) -> Error {
        Error::NoAnswer {
            address: self.client.address().to_owned(),
            waited: self.shared.options.request_timeout,
        }
    }
}
