//! `Produce`: one request, its appends, its acknowledgements. `produce_stream` runs many of them at once.
//!
//! Appending and waiting are two steps: [`append`] happens now, in the order of calls, and [`Waiting::outcome`] tells how
//! it went. Dropping the second does not undo the first.

use crate::broker::{Acks, Broker, Error, NewRecords, PendingAck, Placed};
use crate::proto::v1;
use crate::record::Codec;
use crate::types::{PartitionId, TopicName};

use super::convert;
use super::produce_stream::Opening;
use super::status::{invalid, message};

/// Appends of one request that wait for their acknowledgement.
#[derive(Debug)]
pub(super) struct Waiting {
    placed: Vec<Placed<PendingAck>>,
    acks: Acks,
}

/// A request that contradicts nothing, not even itself.
#[derive(Debug)]
enum Submission {
    Batch {
        topic: TopicName,
        partition: PartitionId,
        batch: bytes::Bytes,
    },
    Records(NewRecords),
}

/// Appends what `request` carries; waits only where a topic is made by being named, or a partition opened.
pub(super) async fn append(broker: &Broker, request: v1::ProduceRequest) -> Result<Waiting, Error> {
    let (submission, acks) = submission(request)?;
    let placed = match submission {
        Submission::Batch {
            topic,
            partition,
            batch,
        } => {
            let ack = broker.append_batch(&topic, partition, batch, acks).await?;
            vec![Placed {
                partition,
                indexes: Vec::new(),
                outcome: Ok(ack),
            }]
        }
        Submission::Records(records) => broker.append_records(records, acks).await?,
    };
    Ok(Waiting { placed, acks })
}

/// Begins to open the partition that `request` names, if that is to be done.
pub(super) fn open_ahead(broker: &Broker, request: &v1::ProduceRequest) -> Option<Opening> {
    // Whatever is wrong with the request, the append tells.
    let partition = convert::partition(request.partition?).ok()?;
    let topic = convert::topic(&request.topic).ok()?;
    Some(Box::pin(broker.open_ahead(&topic, partition)?))
}

impl Waiting {
    /// Waits for all acknowledgements. Fails when every partition failed, with the first one's error; a failure beside a
    /// success is told in the response.
    pub(super) async fn outcome(self) -> Result<v1::ProduceResponse, Error> {
        let mut appended = Vec::with_capacity(self.placed.len());
        let mut first_error = None;
        let mut succeeded = 0_usize;
        for Placed {
            partition,
            indexes,
            outcome,
        } in self.placed
        {
            let outcome = match outcome {
                Ok(ack) => ack.wait().await,
                Err(error) => Err(error),
            };
            appended.push(match outcome {
                Ok(at) => {
                    succeeded += 1;
                    convert::appended(partition, indexes, at, self.acks)
                }
                Err(error) => {
                    let told = v1::Appended {
                        partition: partition.0,
                        record_indexes: indexes,
                        error: Some(message(&error)),
                        ..v1::Appended::default()
                    };
                    first_error.get_or_insert(error);
                    told
                }
            });
        }
        match first_error {
            Some(error) if succeeded == 0 => Err(error),
            _ => Ok(v1::ProduceResponse { appended }),
        }
    }
}

fn submission(request: v1::ProduceRequest) -> Result<(Submission, Acks), Error> {
    let acks = convert::acks(request.acks)?;
    let topic = convert::topic(&request.topic)?;
    let partition = request.partition.map(convert::partition).transpose()?;
    let codec = convert::codec(request.compression)?;
    let Some(batch) = request.batch else {
        if request.records.is_empty() {
            return Err(invalid(
                "the request carries nothing; give at least one record, or one batch",
            ));
        }
        if request.producer.is_some() && partition.is_none() {
            return Err(invalid(
                "a numbered request names no partition; numbers are counted per partition, so set partition",
            ));
        }
        let records = request
            .records
            .into_iter()
            .enumerate()
            .map(|(index, record)| convert::new_record(index, record))
            .collect::<Result<_, Error>>()?;
        let producer = request.producer.map(convert::producer).transpose()?;
        return Ok((
            Submission::Records(NewRecords {
                topic,
                partition,
                records,
                producer,
                codec,
            }),
            acks,
        ));
    };
    if !request.records.is_empty() {
        return Err(invalid(
            "the request carries both records and a batch; send one of them",
        ));
    }
    if request.producer.is_some() || codec != Codec::None {
        return Err(invalid(
            "a batch comes with producer or compression, which its own header carries; leave them out",
        ));
    }
    if batch.is_empty() {
        return Err(invalid("the batch is empty; give exactly one record batch"));
    }
    match partition {
        Some(partition) => Ok((
            Submission::Batch {
                topic,
                partition,
                batch,
            },
            acks,
        )),
        None => Err(invalid("a batch names no partition; set partition")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_record() -> v1::ProduceRequest {
        v1::ProduceRequest {
            topic: "flights".into(),
            records: vec![v1::Record::default()],
            ..Default::default()
        }
    }

    fn one_batch() -> v1::ProduceRequest {
        v1::ProduceRequest {
            topic: "flights".into(),
            partition: Some(0),
            batch: Some(bytes::Bytes::from_static(b"batch")),
            ..Default::default()
        }
    }

    fn stamp() -> v1::ProducerStamp {
        v1::ProducerStamp {
            producer_id: 1,
            producer_epoch: 0,
            base_sequence: 0,
        }
    }

    #[test]
    fn a_request_of_records_or_of_one_batch_is_taken() {
        assert!(matches!(
            submission(one_record()),
            Ok((Submission::Records(_), Acks::All))
        ));
        assert!(matches!(
            submission(one_batch()),
            Ok((Submission::Batch { .. }, Acks::All))
        ));
    }

    /// Makes a sound request wrong.
    type Damage = fn(&mut v1::ProduceRequest);

    /// Each request, damaged by its function, is refused with a text that holds the hint.
    fn refused(whole: fn() -> v1::ProduceRequest, cases: &[(Damage, &str)]) {
        for (damage, hint) in cases {
            let mut request = whole();
            damage(&mut request);
            match submission(request) {
                Err(Error::InvalidRequest { reason }) => {
                    assert!(reason.contains(hint), "{reason:?} lacks {hint:?}");
                }
                other => panic!("{hint}: {other:?}"),
            }
        }
    }

    #[test]
    fn records_that_contradict_themselves_are_told_what_is_right() {
        refused(
            one_record,
            &[
                (|request| request.records.clear(), "give at least one record"),
                (|request| request.topic = "a/b".into(), "not '/'"),
                (|request| request.topic.clear(), "at least one character"),
                (|request| request.partition = Some(-1), "numbered from 0"),
                (|request| request.acks = 9, "acks is 9"),
                (|request| request.compression = -3, "compression is -3"),
                (|request| request.producer = Some(stamp()), "set partition"),
                (
                    |request| request.records[0].timestamp_ms = Some(-1),
                    "0 or greater",
                ),
            ],
        );
        refused(
            || v1::ProduceRequest {
                partition: Some(0),
                producer: Some(stamp()),
                ..one_record()
            },
            &[
                (
                    |request| stamp_of(request).producer_epoch = 40_000,
                    "it is 0 to 32767",
                ),
                (
                    |request| stamp_of(request).producer_epoch = -1,
                    "it is 0 to 32767",
                ),
                (
                    |request| stamp_of(request).base_sequence = -1,
                    "neither is ever negative",
                ),
                (
                    |request| stamp_of(request).producer_id = -1,
                    "neither is ever negative",
                ),
            ],
        );
    }

    fn stamp_of(request: &mut v1::ProduceRequest) -> &mut v1::ProducerStamp {
        request.producer.as_mut().unwrap()
    }

    #[test]
    fn a_batch_that_comes_with_more_or_less_is_told_what_is_right() {
        refused(
            one_batch,
            &[
                (|request| request.partition = None, "set partition"),
                (
                    |request| request.batch = Some(bytes::Bytes::new()),
                    "exactly one record batch",
                ),
                (
                    |request| request.records = one_record().records,
                    "send one of them",
                ),
                (|request| request.producer = Some(stamp()), "leave them out"),
                (|request| request.compression = 1, "leave them out"),
            ],
        );
    }
}
