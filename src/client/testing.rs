//! A scripted server for tests: keeps Kafka's rules of idempotence in memory, and fails as it is told.
//!
//! It answers what a producer and a reader ask, over a real connection on a port of its own. What is not here: storage.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::proto::v1::admin_service_server::{AdminService, AdminServiceServer};
use crate::proto::v1::log_service_server::{LogService, LogServiceServer};
use crate::proto::v1::{self, produce_stream_response::Outcome};
use crate::record::{DecompressLimit, RecordBatch};

/// What befalls a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// Appended and acknowledged.
    Answered,
    /// Refused before it is looked at; a retry may succeed.
    Refused,
    /// Appended, but the answer says that it was not in time.
    WrittenButRefused,
    /// The stream breaks before it is looked at.
    LostBefore,
    /// Appended; the stream breaks instead of the answer.
    LostAfter,
    /// Refused at the door, for want of room on the disk; a retry may succeed.
    NoRoom,
    /// Refused for good.
    Rejected,
    /// Refused for good because of the record at this place of the batch.
    RejectedRecord(u32),
    /// Appended; answered when the test says so.
    Held,
    /// Appended; the answer does not say where.
    Nowhere,
}

/// First and last sequence of a batch, and its base offset.
type Numbered = (i32, i32, i64);

/// What a test sees of the server.
#[derive(Default)]
pub(crate) struct State {
    /// Values of the records of each partition, in order.
    pub(crate) logs: Vec<Vec<Bytes>>,
    /// What befalls the next requests; after them, all is well.
    pub(crate) script: VecDeque<Fate>,
    /// Requests received, by partition.
    pub(crate) received: Vec<usize>,
    /// Answers to `read` calls, in order; the stream then breaks, or ends if the last is complete.
    pub(crate) reads: VecDeque<Vec<v1::ReadResponse>>,
    /// Leaves calls that open a stream of requests without an answer.
    pub(crate) is_mute: bool,
    /// Pages of topics by the name that asks for them, with the name of the next.
    pub(crate) topics: HashMap<String, (Vec<String>, Option<String>)>,
    /// What `read` calls asked.
    pub(crate) read_requests: Vec<v1::ReadRequest>,
    /// The batches of each producer and partition.
    written: HashMap<(i64, usize), Vec<Numbered>>,
    next_producer: i64,
}

/// The server.
#[derive(Clone)]
pub(crate) struct Scripted {
    pub(crate) state: Arc<Mutex<State>>,
    /// Lets held answers go.
    pub(crate) release: Arc<Notify>,
    /// Told of every request received.
    pub(crate) received: Arc<Notify>,
    pub(crate) address: SocketAddr,
}

/// The topic's `max.message.bytes`.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4096;

impl Scripted {
    /// Starts a server whose topic has `partitions`, and which fails as `script` says.
    pub(crate) async fn start(partitions: usize, script: impl IntoIterator<Item = Fate>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let state = State {
            logs: vec![Vec::new(); partitions],
            received: vec![0; partitions],
            script: script.into_iter().collect(),
            ..State::default()
        };
        let server = Self {
            state: Arc::new(Mutex::new(state)),
            release: Arc::new(Notify::new()),
            received: Arc::new(Notify::new()),
            address: listener.local_addr().expect("it is bound"),
        };
        let serving = tonic::transport::Server::builder()
            .add_service(LogServiceServer::new(server.clone()))
            .add_service(AdminServiceServer::new(server.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        server
    }

    /// Returns the values of a partition's records as text.
    pub(crate) fn log(&self, partition: usize) -> Vec<String> {
        let state = self.state.lock();
        state.logs[partition]
            .iter()
            .map(|value| String::from_utf8_lossy(value).into_owned())
            .collect()
    }

    /// Waits until the server received `count` requests for a partition.
    pub(crate) async fn has_received(&self, partition: usize, count: usize) {
        loop {
            let received = self.received.notified();
            tokio::pin!(received);
            received.as_mut().enable();
            if self.state.lock().received[partition] >= count {
                return;
            }
            received.await;
        }
    }
}

impl State {
    /// Appends a batch by Kafka's rules, and returns where.
    fn append(&mut self, partition: usize, bytes: Bytes) -> Result<v1::Appended, v1::Error> {
        let appended = |base_offset| v1::Appended {
            partition: i32::try_from(partition).expect("few partitions"),
            base_offset: Some(base_offset),
            ..v1::Appended::default()
        };
        let base_offset = i64::try_from(self.logs[partition].len()).expect("a short log");
        let batch = RecordBatch::parse(bytes).expect("the client sends sound batches");
        batch.verify_crc().expect("the client sends sound batches");
        let header = *batch.header();
        if let Some(producer) = header.producer {
            let first = producer.base_sequence.expect("a numbered batch").0;
            let last = header.last_sequence().expect("a numbered batch").0;
            let written = self.written.entry((producer.id.0, partition)).or_default();
            let mut remembered = written.iter().rev().take(5);
            if let Some((.., base_offset)) = remembered.find(|(from, to, _)| (*from, *to) == (first, last)) {
                return Ok(appended(*base_offset));
            }
            // Without memory of the producer any sequence is taken.
            if written.last().is_some_and(|(_, end, _)| *end + 1 != first) {
                return Err(error(
                    tonic::Code::FailedPrecondition,
                    "OUT_OF_ORDER_SEQUENCE",
                    None,
                ));
            }
            written.push((first, last, base_offset));
        }
        let records = batch.records(DecompressLimit(1 << 20)).expect("sound records");
        let values = records.map(|record| record.expect("a sound record").value.expect("a value"));
        self.logs[partition].extend(values);
        Ok(appended(base_offset))
    }
}

fn error(code: tonic::Code, reason: &str, retry_after_ms: Option<i64>) -> v1::Error {
    v1::Error {
        code: code.into(),
        message: format!("scripted {reason}"),
        reason: reason.to_owned(),
        retry_after_ms,
        ..v1::Error::default()
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Scripted {
    /// Works through one stream; returns when it breaks or ends.
    async fn serve_stream(
        &self,
        mut requests: Streaming<v1::ProduceStreamRequest>,
        answers: mpsc::Sender<Result<v1::ProduceStreamResponse, Status>>,
    ) {
        while let Ok(Some(v1::ProduceStreamRequest {
            id,
            request: Some(request),
        })) = requests.message().await
        {
            let partition =
                usize::try_from(request.partition.expect("raw batches name it")).expect("not negative");
            let batch = request.batch.expect("the client sends raw batches");
            let (fate, appended) = {
                let mut state = self.state.lock();
                state.received[partition] += 1;
                let fate = state.script.pop_front().unwrap_or(Fate::Answered);
                let appended = match fate {
                    Fate::Refused => Err(error(tonic::Code::Unavailable, "WRITES_REFUSED", Some(1))),
                    Fate::NoRoom => Err(error(tonic::Code::ResourceExhausted, "DISK_FULL", Some(1))),
                    Fate::RejectedRecord(index) => Err(v1::Error {
                        metadata: [("record_indexes".to_owned(), format!("{index},{}", index + 1))].into(),
                        ..error(tonic::Code::InvalidArgument, "INVALID_RECORD", None)
                    }),
                    Fate::Rejected => Err(error(tonic::Code::InvalidArgument, "INVALID_RECORD", None)),
                    Fate::LostBefore => Ok(v1::Appended::default()),
                    Fate::WrittenButRefused => state
                        .append(partition, batch)
                        .and_then(|_| Err(error(tonic::Code::DeadlineExceeded, "ACK_TIMEOUT", Some(0)))),
                    Fate::Nowhere => state.append(partition, batch).map(|_| v1::Appended::default()),
                    Fate::Answered | Fate::LostAfter | Fate::Held => state.append(partition, batch),
                };
                (fate, appended)
            };
            self.received.notify_waiters();
            match fate {
                Fate::LostBefore | Fate::LostAfter => {
                    let _ = answers.send(Err(Status::unknown("scripted loss"))).await;
                    return;
                }
                Fate::Held => self.release.notified().await,
                _ => {}
            }
            let outcome = match appended {
                Ok(appended) => Outcome::Acknowledged(v1::ProduceResponse {
                    appended: vec![appended],
                }),
                Err(error) => Outcome::Error(error),
            };
            if answers
                .send(Ok(v1::ProduceStreamResponse {
                    id,
                    outcome: Some(outcome),
                }))
                .await
                .is_err()
            {
                return;
            }
        }
    }
}

#[tonic::async_trait]
impl LogService for Scripted {
    type ProduceStreamStream = Answers<v1::ProduceStreamResponse>;
    type ReadStream = Answers<v1::ReadResponse>;

    async fn init_producer(
        &self,
        _: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let mut state = self.state.lock();
        state.next_producer += 1;
        Ok(Response::new(v1::InitProducerResponse {
            producer_id: state.next_producer,
            producer_epoch: 0,
        }))
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        if self.state.lock().is_mute {
            std::future::pending::<()>().await;
        }
        let (answers, receiver) = mpsc::channel(1024);
        let server = self.clone();
        tokio::spawn(async move { server.serve_stream(request.into_inner(), answers).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let mut state = self.state.lock();
        state.read_requests.push(request.into_inner());
        let responses = state
            .reads
            .pop_front()
            .ok_or_else(|| Status::unknown("no more scripted reads"))?;
        let complete = responses.last().is_some_and(|last| last.complete);
        let mut items: Vec<_> = responses.into_iter().map(Ok).collect();
        if !complete {
            items.push(Err(Status::unknown("scripted loss")));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }

    async fn list_offsets(
        &self,
        _: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let state = self.state.lock();
        let found = |(partition, log): (i32, &Vec<Bytes>)| v1::FoundOffset {
            partition,
            offset: Some(i64::try_from(log.len()).expect("a short log")),
            ..v1::FoundOffset::default()
        };
        Ok(Response::new(v1::ListOffsetsResponse {
            offsets: (0..).zip(&state.logs).map(found).collect(),
        }))
    }

    async fn produce(&self, _: Request<v1::ProduceRequest>) -> Result<Response<v1::ProduceResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn fetch(&self, _: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn delete_records(
        &self,
        _: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

#[tonic::async_trait]
impl AdminService for Scripted {
    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        let count = i32::try_from(self.state.lock().logs.len()).expect("few partitions");
        let partition = |partition| v1::PartitionDescription {
            partition,
            ..v1::PartitionDescription::default()
        };
        let limit = v1::ConfigEntry {
            name: "max.message.bytes".to_owned(),
            value: MAX_MESSAGE_BYTES.to_string(),
            ..v1::ConfigEntry::default()
        };
        let topic = v1::TopicDescription {
            name: request.into_inner().name,
            topic_id: Bytes::from_static(&[7; 16]),
            internal: false,
            partitions: (0..count).map(partition).collect(),
            config: vec![limit],
            next_partition: None,
        };
        Ok(Response::new(v1::DescribeTopicResponse { topic: Some(topic) }))
    }

    async fn create_topic(
        &self,
        _: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let page = self
            .state
            .lock()
            .topics
            .get(&request.into_inner().first_name)
            .cloned();
        let (names, next_name) = page.ok_or_else(|| Status::unimplemented("not scripted"))?;
        let topic = |name| v1::TopicSummary {
            name,
            topic_id: Bytes::from_static(&[7; 16]),
            partitions: 1,
            internal: false,
        };
        Ok(Response::new(v1::ListTopicsResponse {
            topics: names.into_iter().map(topic).collect(),
            next_name,
        }))
    }

    async fn alter_topic(
        &self,
        _: Request<v1::AlterTopicRequest>,
    ) -> Result<Response<v1::AlterTopicResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn add_partitions(
        &self,
        _: Request<v1::AddPartitionsRequest>,
    ) -> Result<Response<v1::AddPartitionsResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn delete_topic(
        &self,
        _: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn adopt_partition(
        &self,
        _: Request<v1::AdoptPartitionRequest>,
    ) -> Result<Response<v1::AdoptPartitionResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn preview_retention(
        &self,
        _: Request<v1::PreviewRetentionRequest>,
    ) -> Result<Response<v1::PreviewRetentionResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn add_hold(
        &self,
        _: Request<v1::AddHoldRequest>,
    ) -> Result<Response<v1::AddHoldResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn compact_now(
        &self,
        _: Request<v1::CompactNowRequest>,
    ) -> Result<Response<v1::CompactNowResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn explain_compaction(
        &self,
        _: Request<v1::ExplainCompactionRequest>,
    ) -> Result<Response<v1::ExplainCompactionResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn describe_log(
        &self,
        _: Request<v1::DescribeLogRequest>,
    ) -> Result<Response<v1::DescribeLogResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn list_holds(
        &self,
        _: Request<v1::ListHoldsRequest>,
    ) -> Result<Response<v1::ListHoldsResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn remove_hold(
        &self,
        _: Request<v1::RemoveHoldRequest>,
    ) -> Result<Response<v1::RemoveHoldResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}
