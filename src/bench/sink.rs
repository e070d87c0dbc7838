//! gRPC and nothing behind it: acknowledges batches that it does not keep, and reads batches out from memory.
//!
//! It listens and speaks HTTP/2 with the very settings of the gRPC door, and the same client talks to it. So what it
//! reaches is what gRPC allows on this machine, and the store is what is missing to it.

use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status, Streaming};

use super::BenchError;
use super::error::IoContext;
use super::payload::Load;
use crate::client::Client;
use crate::config::Config;
use crate::grpc;
use crate::proto::v1::log_service_server::{LogService, LogServiceServer};
use crate::proto::v1::{self, produce_stream_response::Outcome};

/// Bytes of batches in one response, as the store's default.
const RESPONSE_BYTES: usize = 1 << 20;

/// A running sink; it ends when dropped.
#[derive(Debug)]
pub(super) struct Sink {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Sink {
    /// Starts a sink that, as a source, sends the first `count` batches of `load`.
    pub(super) async fn start(load: &Load, count: u64) -> Result<Self, BenchError> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("listen on", "127.0.0.1")?;
        let address = listener.local_addr().context("ask the address of", "127.0.0.1")?;
        let config = Config::default().grpc;
        let service = LogServiceServer::new(Door {
            responses: responses(load, count),
        })
        .max_decoding_message_size(config.max_request_bytes)
        .max_encoding_message_size(usize::MAX);
        let mut transport = grpc::transport(&config).map_err(crate::server::StartError::Tls)?;
        let incoming = grpc::connections(
            (listener, grpc::Lines::default()),
            config.max_connections,
            std::future::pending,
        );
        let serving = tokio::spawn(async move {
            if let Err(error) = transport.add_service(service).serve_with_incoming(incoming).await {
                tracing::error!(%error, "the sink ended early");
            }
        });
        Ok(Self { address, serving })
    }

    /// Connects to it.
    pub(super) async fn client(&self) -> Result<Client, BenchError> {
        Ok(Client::connect(&self.address.to_string()).await?)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Puts batches together as the store would.
fn responses(load: &Load, count: u64) -> Vec<v1::ReadResponse> {
    let mut responses = Vec::new();
    let mut n = 0;
    while n < count {
        let mut batches = Vec::with_capacity(RESPONSE_BYTES);
        while n < count && (batches.is_empty() || batches.len() + load.batch(n).len() <= RESPONSE_BYTES) {
            batches.extend_from_slice(load.batch(n));
            n += 1;
        }
        let position = v1::PartitionOffset {
            partition: 0,
            offset: i64::try_from(load.records(n)).unwrap_or(i64::MAX),
        };
        responses.push(v1::ReadResponse {
            batches: Bytes::from(batches),
            resume: Some(v1::ResumeToken {
                positions: vec![position],
            }),
            complete: n == count,
            ..v1::ReadResponse::default()
        });
    }
    responses
}

struct Door {
    responses: Vec<v1::ReadResponse>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl LogService for Door {
    type ProduceStreamStream = Answers<v1::ProduceStreamResponse>;
    type ReadStream = Answers<v1::ReadResponse>;

    async fn produce_stream(
        &self,
        requests: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let answer = |request: v1::ProduceStreamRequest| v1::ProduceStreamResponse {
            id: request.id,
            outcome: Some(Outcome::Acknowledged(v1::ProduceResponse {
                appended: vec![v1::Appended::default()],
            })),
        };
        let answers = requests.into_inner().map(move |request| request.map(answer));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn read(&self, _: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        Ok(Response::new(Box::pin(stream::iter(
            self.responses.clone().into_iter().map(Ok),
        ))))
    }

    async fn init_producer(
        &self,
        _: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        Err(no_store())
    }

    async fn list_offsets(
        &self,
        _: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        Err(no_store())
    }

    async fn produce(&self, _: Request<v1::ProduceRequest>) -> Result<Response<v1::ProduceResponse>, Status> {
        Err(no_store())
    }

    async fn fetch(&self, _: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        Err(no_store())
    }

    async fn delete_records(
        &self,
        _: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        Err(no_store())
    }
}

fn no_store() -> Status {
    Status::unimplemented("a sink stores nothing")
}
