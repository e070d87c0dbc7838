//! `LogService`: writing and reading the log. Each call has its own file; here they are only joined to the wire.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::broker::{Broker, Error};
use crate::proto::v1;
use crate::proto::v1::log_service_server::LogService;

use super::observe::Call;
use super::outgoing::{Outgoing, Shares};
use super::read::Sending;
use super::{Stopping, fetch, offsets, produce, produce_stream, read};

/// The service; one for all connections.
#[derive(Clone, Debug)]
pub(super) struct LogDoor {
    pub(super) broker: Broker,
    pub(super) outgoing: Arc<Outgoing>,
    pub(super) stopping: Stopping,
}

impl LogDoor {
    fn call(&self, method: &'static str) -> Call {
        Call::begin(self.broker.metrics(), method)
    }

    fn sending(&self) -> Sending {
        Sending {
            outgoing: Arc::clone(&self.outgoing),
            shares: Shares::default(),
        }
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl LogService for LogDoor {
    type ProduceStreamStream = Responses<v1::ProduceStreamResponse>;
    type ReadStream = Responses<v1::ReadResponse>;

    async fn init_producer(
        &self,
        _: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        let call = self.call("InitProducer");
        let given = self.broker.init_producer().await;
        call.end(given.map(|(id, epoch)| v1::InitProducerResponse {
            producer_id: id.0,
            producer_epoch: i32::from(epoch.0),
        }))
    }

    async fn produce(
        &self,
        request: Request<v1::ProduceRequest>,
    ) -> Result<Response<v1::ProduceResponse>, Status> {
        let call = self.call("Produce");
        let outcome = match produce::append(&self.broker, request.into_inner()).await {
            Ok(waiting) => waiting.outcome().await,
            Err(error) => Err(error),
        };
        call.end(outcome)
    }

    async fn produce_stream(
        &self,
        request: Request<Streaming<v1::ProduceStreamRequest>>,
    ) -> Result<Response<Self::ProduceStreamStream>, Status> {
        let (broker, opener, keeper) = (self.broker.clone(), self.broker.clone(), self.broker.clone());
        let open = move |request: &v1::ProduceRequest| produce::open_ahead(&opener, request);
        let reserve = move |len| keeper.reserve(u64::try_from(len).unwrap_or(u64::MAX));
        let append = move |request| {
            let broker = broker.clone();
            async move { Ok(produce::append(&broker, request).await?.outcome()) }
        };
        let stopping = self.stopping.clone().begun_owned();
        let answers = produce_stream::answers(request.into_inner(), (open, reserve), append, stopping);
        boxed(self.call("ProduceStream").stream(Ok(answers)))
    }

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<v1::FetchResponse>, Status> {
        let call = self.call("Fetch");
        let (mut stopping, sending) = (self.stopping.clone(), self.sending());
        let fetched = tokio::select! {
            biased;
            fetched = fetch::fetch(&self.broker, request.into_inner(), &sending) => fetched,
            () = stopping.begun() => Err(Error::ShuttingDown),
        };
        tied(call.end(fetched), sending.shares)
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let call = self.call("Read");
        let (stopping, sending) = (self.stopping.clone(), self.sending());
        let shares = sending.shares.clone();
        let responses = read::read(&self.broker, request.into_inner(), sending, stopping).await;
        tied(boxed(call.stream(responses)), shares)
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        let call = self.call("ListOffsets");
        call.end(offsets::list(&self.broker, request.into_inner()).await)
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        let call = self.call("DeleteRecords");
        call.end(offsets::delete_records(&self.broker, request.into_inner()).await)
    }
}

/// Leaves the shares in the response, for `outgoing` to tie its frames to them.
fn tied<T>(response: Result<Response<T>, Status>, shares: Shares) -> Result<Response<T>, Status> {
    response.map(|mut response| {
        response.extensions_mut().insert(shares);
        response
    })
}

fn boxed<T, S>(answers: Result<Response<S>, Status>) -> Result<Response<Responses<T>>, Status>
where
    S: Stream<Item = Result<T, Status>> + Send + 'static,
{
    answers.map(|response| response.map(|answers| Box::pin(answers) as Responses<T>))
}
