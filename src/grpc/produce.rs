//! `Produce`: one request, its appends, its acknowledgements. `produce_stream` runs many of them at once.
//!
//! Appending and waiting are two steps: [`append`] happens now, in the order of calls, and [`Waiting::outcome`] tells how
//! it went. Dropping the second does not undo the first.

use crate::broker::{Acks, Broker, Error, NewRecords, PendingAck, Placed};
use crate::proto::v1;
use crate::record::Codec;
use crate::types::{PartitionId, TopicName};

use super::convert;
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

/// Appends what `request` carries, now.
pub(super) fn append(broker: &Broker, request: v1::ProduceRequest) -> Result<Waiting, Error> {
    let (submission, acks) = submission(request)?;
    let placed = match submission {
        Submission::Batch {
            topic,
            partition,
            batch,
        } => {
            let ack = broker.append_batch(&topic, partition, batch, acks)?;
            vec![Placed {
                partition,
                indexes: Vec::new(),
                outcome: Ok(ack),
            }]
        }
        Submission::Records(records) => broker.append_records(records, acks)?,
    };
    Ok(Waiting { placed, acks })
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

    /// Each damaged request is refused as invalid, with a text that says what is right.
    #[test]
    fn a_request_that_contradicts_itself_is_told_what_is_right() {
        let record = |record: v1::Record| v1::ProduceRequest {
            records: vec![record],
            ..one_record()
        };
        let cases = [
            (
                v1::ProduceRequest {
                    records: vec![],
                    ..one_record()
                },
                "give at least one record",
            ),
            (
                v1::ProduceRequest {
                    topic: "a/b".into(),
                    ..one_record()
                },
                "not '/'",
            ),
            (
                v1::ProduceRequest {
                    topic: String::new(),
                    ..one_record()
                },
                "at least one character",
            ),
            (
                v1::ProduceRequest {
                    partition: Some(-1),
                    ..one_record()
                },
                "numbered from 0",
            ),
            (
                v1::ProduceRequest {
                    acks: 9,
                    ..one_record()
                },
                "acks is 9",
            ),
            (
                v1::ProduceRequest {
                    compression: -3,
                    ..one_record()
                },
                "compression is -3",
            ),
            (
                v1::ProduceRequest {
                    producer: Some(stamp()),
                    ..one_record()
                },
                "set partition",
            ),
            (
                v1::ProduceRequest {
                    partition: Some(0),
                    producer: Some(v1::ProducerStamp {
                        producer_epoch: 40_000,
                        ..stamp()
                    }),
                    ..one_record()
                },
                "it is 0 to 32767",
            ),
            (
                v1::ProduceRequest {
                    partition: Some(0),
                    producer: Some(v1::ProducerStamp {
                        base_sequence: -1,
                        ..stamp()
                    }),
                    ..one_record()
                },
                "neither is ever negative",
            ),
            (
                record(v1::Record {
                    timestamp_ms: Some(-1),
                    ..Default::default()
                }),
                "0 or greater",
            ),
            (
                v1::ProduceRequest {
                    partition: None,
                    ..one_batch()
                },
                "set partition",
            ),
            (
                v1::ProduceRequest {
                    batch: Some(bytes::Bytes::new()),
                    ..one_batch()
                },
                "exactly one record batch",
            ),
            (
                v1::ProduceRequest {
                    records: one_record().records,
                    ..one_batch()
                },
                "send one of them",
            ),
            (
                v1::ProduceRequest {
                    producer: Some(stamp()),
                    ..one_batch()
                },
                "leave them out",
            ),
            (
                v1::ProduceRequest {
                    compression: 1,
                    ..one_batch()
                },
                "leave them out",
            ),
        ];
        for (request, hint) in cases {
            match submission(request) {
                Err(Error::InvalidRequest { reason }) => {
                    assert!(reason.contains(hint), "{reason:?} lacks {hint:?}")
                }
                other => panic!("{hint}: {other:?}"),
            }
        }
    }
}
