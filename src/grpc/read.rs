//! `Read`: a topic's records between two points, or following it, as a stream that the client pulls.
//!
//! Invariants
//! - One step of the broker's read is under way at a time and nothing is queued: a slow reader costs one response, whatever
//!   the length of the read, and that is counted (`outgoing`): it is small while others hold the server's budget.
//! - A response stays within what the request asked for, at most [`super::MAX_RESPONSE_BYTES`], unless one batch, or as
//!   plain messages one record, is larger.
//! - Every response carries where all partitions stand after it, also inside a step that takes several responses; to a reader
//!   that keeps what it was told, the first says it of all and each after it of its own partition, which alone has moved.
//! - The last response, and no other, says `complete`. A stopping server ends a read that follows with `SHUTTING_DOWN`, and
//!   the last token received says where to go on; one that has an end comes to it, unless the stop's deadline comes first.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::{Stream, stream};
use prost::Message;
use tonic::Status;

use crate::broker::{Broker, Error, MOVED_MAX, Progress, ReadEnd, ReadSpec, ReadStart, ReadStep, ReadStream};
use crate::proto::v1;
use crate::types::{Offset, PartitionId};

use super::convert::{self, Format};
use super::outgoing::{Outgoing, Share, Shares, Wanted};
use super::portions::{self, Portions, Rest};
use super::status::{invalid, status};
use super::{MAX_RESPONSE_BYTES, Stopping};

/// Response size to aim for when the request does not say, in bytes.
const DEFAULT_RESPONSE_BYTES: usize = 1 << 20;
/// What a position takes in a resume token, in bytes, at most.
const POSITION_LEN: usize = 20;
/// What a response's other fields take, in bytes, at most.
const OVERHEAD: usize = 96;

/// Opens the read; the stream ends after the response that is complete, or with a status.
pub(super) async fn read(
    broker: &Broker,
    request: v1::ReadRequest,
    sending: Sending,
    stopping: Stopping,
) -> Result<impl Stream<Item = Result<v1::ReadResponse, Status>> + Send + 'static, Error> {
    let tokens = match request.changed_positions {
        true => Tokens::Changes { begun: false },
        false => Tokens::Whole,
    };
    let (mut spec, format) = checked(request)?;
    let (response_bytes, end) = (spec.chunk_bytes, spec.end);
    let partitions = match spec.partitions.len() {
        0 => broker.describe_topic(&spec.topic)?.partitions.len(),
        named => named,
    };
    spec.chunk_bytes = match tokens {
        Tokens::Whole => room(response_bytes, partitions),
        Tokens::Changes { .. } => room(response_bytes, partitions.min(MOVED_MAX)),
    };
    let responses = Responses {
        response_bytes,
        steps: broker.open_read(spec).await?,
        format,
        tokens,
        end,
        stopping,
        state: State::BetweenSteps,
        sending,
        last: None,
    };
    Ok(stream::unfold(responses, |mut responses| async move {
        let response = responses.next().await?;
        Some((response.map_err(|error| status(&error)), responses))
    }))
}

/// What the fields of a response beside its records take, in bytes, at most.
fn overhead(positions: usize) -> usize {
    OVERHEAD + POSITION_LEN * positions
}

/// What records may take of a response whose token has so many positions. Large tokens must leave room for records: below a
/// quarter of the response, records win.
fn room(response_bytes: usize, positions: usize) -> usize {
    let room = response_bytes.saturating_sub(overhead(positions));
    room.max(response_bytes / 4).max(1)
}

/// Of which partitions a resume token tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tokens {
    /// Of all.
    Whole,
    /// Of those that moved since the response before; first, of all.
    Changes { begun: bool },
}

/// How answers are sent: the budget they share, and the way of this call's shares to its frames.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) outgoing: Arc<Outgoing>,
    pub(super) shares: Shares,
}

fn checked(request: v1::ReadRequest) -> Result<(ReadSpec, Format), Error> {
    let partitions = request
        .partitions
        .into_iter()
        .map(|one| {
            Ok((
                convert::partition(one.partition)?,
                convert::read_start(one.start)?,
            ))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    convert::distinct(partitions.iter().map(|(partition, _)| *partition))?;
    let resume = convert::resume(request.resume)?;
    let named: HashSet<PartitionId> = partitions.iter().map(|(partition, _)| *partition).collect();
    if let Some((stranger, _)) = resume
        .iter()
        .find(|(resumed, _)| !named.is_empty() && !named.contains(resumed))
    {
        return Err(invalid(format!(
            "the resume token names partition {stranger}, which the request does not read; add it or drop it from the token"
        )));
    }
    let response_bytes = match usize::try_from(request.max_response_bytes) {
        Ok(0) => DEFAULT_RESPONSE_BYTES,
        Ok(asked) => asked.min(MAX_RESPONSE_BYTES),
        Err(_) => MAX_RESPONSE_BYTES,
    };
    let spec = ReadSpec {
        topic: convert::topic(&request.topic)?,
        partitions,
        start: convert::read_start(request.start)?.unwrap_or(ReadStart::Earliest),
        end: convert::read_end(request.end)?,
        resume,
        isolation: convert::isolation(request.isolation)?,
        chunk_bytes: response_bytes,
    };
    Ok((spec, convert::format(request.format)?))
}

struct Responses {
    steps: ReadStream,
    format: Format,
    /// What was asked for.
    response_bytes: usize,
    tokens: Tokens,
    end: ReadEnd,
    stopping: Stopping,
    state: State,
    sending: Sending,
    /// The share of the response before: the encoder keeps its buffer until the next.
    last: Option<Arc<Share>>,
}

enum State {
    BetweenSteps,
    InStep(Box<Step>),
    Ended,
}

/// A step that is being sent, in as many responses as it takes.
struct Step {
    partition: PartitionId,
    portions: Portions,
    /// After it, of the partitions that the next token tells of.
    positions: Vec<(PartitionId, Offset)>,
    tokens: Tokens,
    progress: Progress,
    /// The fields that all its responses share.
    frame: v1::ReadResponse,
    /// What is held for records that are decoded and in no response yet.
    kept: Option<Share>,
}

/// A response, what its records take in it, and what comes after it.
struct Made {
    response: v1::ReadResponse,
    size_bytes: usize,
    state: State,
}

impl Responses {
    async fn next(&mut self) -> Option<Result<v1::ReadResponse, Error>> {
        let step = match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => return None,
            State::InStep(step) => step,
            State::BetweenSteps => {
                let next = tokio::select! {
                    biased;
                    next = self.steps.next() => next,
                    () = over(self.end, self.stopping.clone()) => Err(Error::ShuttingDown),
                };
                match next {
                    Err(error) => return Some(Err(error)),
                    Ok(None) => return None,
                    Ok(Some(step)) => Box::new(self.begin(step)),
                }
            }
        };
        let outgoing = &self.sending.outgoing;
        // A short stretch needs no more than it has; how much plain messages take is not known before they are there.
        let positions = step.positions.len();
        let (overhead, most) = (overhead(positions), room(self.response_bytes, positions));
        let wanted = Wanted {
            records_bytes: match self.format {
                Format::Records => most,
                Format::Batches => most.min(step.portions.undecoded_bytes()),
            },
            overhead_bytes: overhead,
        };
        let mut share = match outgoing.try_answer(wanted) {
            Some(share) => share,
            None => {
                self.sending.shares.all_sent().await;
                self.last = None;
                outgoing.small_answer(wanted)
            }
        };
        let budget = share.answer_bytes().saturating_sub(overhead).max(1);
        let made = match self.format {
            Format::Batches => Ok(Ok(step.as_batches(budget))),
            Format::Records => {
                let work = portions::decoding(step.portions.undecoded_bytes());
                let (decoding, keeper) = (Arc::clone(outgoing), Arc::clone(outgoing));
                decoding
                    .decode(work, move || step.as_records(budget, &keeper))
                    .await
            }
        };
        match made {
            Ok(Ok(made)) => {
                share.settle(made.size_bytes + overhead);
                let share = Arc::new(share);
                self.sending.shares.push(Arc::clone(&share));
                self.last = Some(share);
                self.state = made.state;
                Some(Ok(made.response))
            }
            Ok(Err(error)) | Err(error) => Some(Err(error)),
        }
    }
}

impl Responses {
    /// Begins to send a step.
    fn begin(&mut self, step: ReadStep) -> Step {
        let positions = match &mut self.tokens {
            Tokens::Changes { begun: true } => step.moved.clone(),
            Tokens::Changes { begun } => {
                *begun = true;
                self.steps.positions()
            }
            Tokens::Whole => self.steps.positions(),
        };
        Step::new(step, positions, self.tokens)
    }
}

impl Step {
    fn new(step: ReadStep, positions: Vec<(PartitionId, Offset)>, tokens: Tokens) -> Self {
        let frame = v1::ReadResponse {
            partition: step.partition.0,
            high_watermark: step.chunk.high_watermark.0,
            log_start_offset: step.chunk.log_start.0,
            compacted_below: step.chunk.compacted_below.0,
            tombstones_gone_below: step.chunk.tombstones_gone_below.0,
            ..v1::ReadResponse::default()
        };
        Self {
            partition: step.partition,
            portions: Portions::of(step.chunk),
            positions,
            tokens,
            progress: step.progress,
            frame,
            kept: None,
        }
    }

    /// Makes the next response of plain messages. What is decoded beyond it is counted, or forgotten.
    fn as_records(mut self: Box<Self>, budget: usize, outgoing: &Arc<Outgoing>) -> Result<Made, Error> {
        let portion = self.portions.take(budget)?;
        self.kept = None;
        match self.portions.decoded_bytes() {
            0 => {}
            decoded => match outgoing.try_share(decoded) {
                Some(share) => self.kept = Some(share),
                None => self.portions.forget_decoded(),
            },
        }
        let response = v1::ReadResponse {
            records: portion.records,
            ..self.frame.clone()
        };
        Ok(self.made(response, portion.size_bytes, portion.next_offset, portion.rest))
    }

    /// Makes the next response of batches as they are.
    fn as_batches(mut self: Box<Self>, budget: usize) -> Made {
        let portion = self.portions.take_batches(budget);
        let response = v1::ReadResponse {
            aborted_transactions: convert::aborted(&portion.aborted),
            batches: portion.batches,
            ..self.frame.clone()
        };
        let size_bytes = response.encoded_len();
        self.made(response, size_bytes, portion.next_offset, portion.rest)
    }

    fn made(
        mut self: Box<Self>,
        mut response: v1::ReadResponse,
        size_bytes: usize,
        next_offset: Offset,
        rest: Rest,
    ) -> Made {
        let state = match rest {
            Rest::More => {
                let positions = up_to(&self.positions, self.partition, next_offset);
                response.resume = Some(convert::resume_token(&positions));
                if self.tokens != Tokens::Whole {
                    let own = self.partition;
                    self.positions.retain(|(partition, _)| *partition == own);
                }
                State::InStep(self)
            }
            Rest::Done => {
                response.resume = Some(convert::resume_token(&self.positions));
                response.complete = self.progress == Progress::Complete;
                after(self.progress)
            }
        };
        Made {
            response,
            size_bytes,
            state,
        }
    }
}

/// Completes when a stopping server gives the read up.
async fn over(end: ReadEnd, mut stopping: Stopping) {
    match end {
        ReadEnd::Follow => stopping.begun().await,
        ReadEnd::Now | ReadEnd::Offset(_) | ReadEnd::Time(_) => stopping.cut_off().await,
    }
}

fn after(progress: Progress) -> State {
    match progress {
        Progress::More => State::BetweenSteps,
        Progress::Complete => State::Ended,
    }
}

/// Positions inside a step: its own partition has come as far as `next_offset`, the others stand as after it.
fn up_to(
    positions: &[(PartitionId, Offset)],
    partition: PartitionId,
    next_offset: Offset,
) -> Vec<(PartitionId, Offset)> {
    positions
        .iter()
        .map(|&(other, offset)| (other, if other == partition { next_offset } else { offset }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> v1::ReadRequest {
        v1::ReadRequest {
            topic: "flights".into(),
            ..Default::default()
        }
    }

    fn token(positions: &[(i32, i64)]) -> Option<v1::ResumeToken> {
        let positions = positions
            .iter()
            .map(|&(partition, offset)| v1::PartitionOffset { partition, offset })
            .collect();
        Some(v1::ResumeToken { positions })
    }

    #[test]
    fn a_read_that_says_nothing_goes_from_the_earliest_record_to_the_end_of_now() {
        let (spec, format) = checked(request()).unwrap();
        assert_eq!((spec.start, spec.end), (ReadStart::Earliest, ReadEnd::Now));
        assert_eq!((spec.chunk_bytes, format), (1 << 20, Format::Records));
        let (spec, _) = checked(v1::ReadRequest {
            max_response_bytes: u32::MAX,
            ..request()
        })
        .unwrap();
        assert_eq!(spec.chunk_bytes, MAX_RESPONSE_BYTES);
    }

    fn reads(request: &mut v1::ReadRequest, partitions: &[i32]) {
        let partition = |partition: &i32| v1::ReadPartition {
            partition: *partition,
            start: None,
        };
        request.partitions = partitions.iter().map(partition).collect();
    }

    #[test]
    fn a_read_that_contradicts_itself_is_told_what_is_right() {
        use v1::{read_end, read_start};
        let start = |at| Some(v1::ReadStart { at: Some(at) });
        let end = |at| Some(v1::ReadEnd { at: Some(at) });
        let (negative, latest) = (
            start(read_start::At::Offset(-1)),
            start(read_start::At::Latest(false)),
        );
        let follow = end(read_end::At::Follow(false));
        type Damage<'a> = &'a dyn Fn(&mut v1::ReadRequest);
        let cases: [(Damage<'_>, &str); 10] = [
            (&|request| reads(request, &[-1]), "numbered from 0"),
            (&|request| reads(request, &[1, 1]), "named twice"),
            (&|request| request.resume = token(&[(0, -5)]), "counted from 0"),
            (
                &|request| request.resume = token(&[(0, 5), (0, 6)]),
                "named twice",
            ),
            (
                &|request| {
                    reads(request, &[1]);
                    request.resume = token(&[(0, 5)]);
                },
                "names partition 0, which the request does not read",
            ),
            (&|request| request.start = negative, "counted from 0"),
            (&|request| request.start = latest, "set it to true"),
            (&|request| request.end = follow, "set it to true"),
            (&|request| request.isolation = 7, "isolation is 7"),
            (&|request| request.format = 7, "format is 7"),
        ];
        for (damage, hint) in cases {
            let mut damaged = request();
            damage(&mut damaged);
            match checked(damaged) {
                Err(Error::InvalidRequest { reason }) => {
                    assert!(reason.contains(hint), "{reason:?} lacks {hint:?}")
                }
                other => panic!("{hint}: {other:?}"),
            }
        }
    }

    #[test]
    fn inside_a_step_the_token_stands_right_after_the_last_record_sent() {
        let positions = [(PartitionId(0), Offset(70)), (PartitionId(1), Offset(90))];
        assert_eq!(
            up_to(&positions, PartitionId(1), Offset(42)),
            [(PartitionId(0), Offset(70)), (PartitionId(1), Offset(42))]
        );
    }

    #[test]
    fn the_fields_beside_the_records_never_take_more_than_was_set_aside() {
        let positions = vec![(PartitionId(i32::MAX), Offset::MAX); 100];
        let largest = v1::ReadResponse {
            partition: i32::MAX,
            resume: Some(convert::resume_token(&positions)),
            high_watermark: i64::MAX,
            log_start_offset: i64::MAX,
            compacted_below: i64::MAX,
            tombstones_gone_below: i64::MAX,
            complete: true,
            ..Default::default()
        };
        assert!(largest.encoded_len() <= overhead(positions.len()));
    }
}
