//! Doors between a client and its server that do what networks do: lose, delay, repeat, cut.
//!
//! [`FaultyDoor`] knows gRPC: it takes the requests of `ProduceStream` one by one and does with each what its script says; all
//! other calls pass. [`CuttingDoor`] knows bytes: it ends each connection after so many.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use parking_lot::Mutex;
use siltstone::proto::v1;
use siltstone::proto::v1::log_service_client::LogServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::client::GrpcService;
use tonic::server::StreamingService;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// What is done with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It passes.
    None,
    /// It passes twice, and both answers come back.
    Twice,
    /// It and all behind it pass a little later.
    Late,
    /// The stream breaks, and the server never sees it.
    LostBefore,
    /// The server sees it, and the stream breaks in place of the answer.
    LostAfter,
}

/// A delay that is long beside a round trip and short beside a timeout.
const LATE: Duration = Duration::from_millis(3);

/// A gRPC server in front of another.
#[derive(Clone)]
pub(crate) struct FaultyDoor {
    pub(crate) address: SocketAddr,
    behind: Arc<Mutex<Channel>>,
    script: Arc<Mutex<VecDeque<Fault>>>,
}

impl FaultyDoor {
    /// Opens a door that leads to `server`.
    pub(crate) async fn to(server: SocketAddr, script: impl IntoIterator<Item = Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = Self {
            address: listener.local_addr().unwrap(),
            behind: Arc::new(Mutex::new(channel(server))),
            script: Arc::new(Mutex::new(script.into_iter().collect())),
        };
        let routes = axum::Router::new()
            .route(
                "/siltstone.v1.LogService/ProduceStream",
                axum::routing::post(produce_stream),
            )
            .fallback(pass)
            .with_state(door.clone());
        let serving = tonic::transport::Server::builder()
            .add_routes(tonic::service::Routes::from(routes))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        door
    }

    /// Leads calls from now on to another server.
    pub(crate) fn lead_to(&self, server: SocketAddr) {
        *self.behind.lock() = channel(server);
    }

    /// Returns how many faults are still to come.
    pub(crate) fn faults_left(&self) -> usize {
        self.script.lock().len()
    }
}

fn channel(server: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{server}"))
        .unwrap()
        .connect_lazy()
}

async fn pass(State(door): State<FaultyDoor>, request: Request) -> Response {
    let mut channel = door.behind.lock().clone();
    let passed = async {
        poll_fn(|context| GrpcService::<tonic::body::Body>::poll_ready(&mut channel, context)).await?;
        channel.call(request.map(tonic::body::Body::new)).await
    };
    match passed.await {
        Ok(response) => response.map(axum::body::Body::new),
        Err(error) => Status::unavailable(error.to_string()).into_http(),
    }
}

async fn produce_stream(State(door): State<FaultyDoor>, request: Request) -> Response {
    let codec = tonic_prost::ProstCodec::default();
    let mut grpc = tonic::server::Grpc::new(codec);
    grpc.streaming(door, request).await.map(axum::body::Body::new)
}

type Answers = Pin<Box<dyn Stream<Item = Result<v1::ProduceStreamResponse, Status>> + Send>>;

impl StreamingService<v1::ProduceStreamRequest> for FaultyDoor {
    type Response = v1::ProduceStreamResponse;
    type ResponseStream = Answers;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Answers>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Streaming<v1::ProduceStreamRequest>>) -> Self::Future {
        let door = self.clone();
        Box::pin(async move {
            let (to_server, requests) = mpsc::channel(16);
            let mut log = LogServiceClient::new(door.behind.lock().clone());
            let opened = log.produce_stream(ReceiverStream::new(requests)).await;
            let from_server = opened.map_err(|status| Status::unavailable(status.message()))?;
            let (to_client, answers) = mpsc::channel(16);
            let passing = Passing {
                door,
                from_client: request.into_inner(),
                to_server: Some(to_server),
                from_server: from_server.into_inner(),
                broken_at: None,
            };
            tokio::spawn(async move {
                let ended = passing.run(&to_client).await;
                let _ = to_client.send(Err(ended)).await;
            });
            let answers: Answers = Box::pin(ReceiverStream::new(answers));
            Ok(tonic::Response::new(answers))
        })
    }
}

/// One stream on its way through.
struct Passing {
    door: FaultyDoor,
    from_client: Streaming<v1::ProduceStreamRequest>,
    /// Absent once the client has closed its side.
    to_server: Option<mpsc::Sender<v1::ProduceStreamRequest>>,
    from_server: Streaming<v1::ProduceStreamResponse>,
    /// The stream breaks in place of the answer to this request.
    broken_at: Option<u64>,
}

impl Passing {
    /// Passes on until the stream ends or breaks, and returns why.
    async fn run(mut self, to_client: &mpsc::Sender<Result<v1::ProduceStreamResponse, Status>>) -> Status {
        let cut = || Status::unknown("cut by the door");
        loop {
            tokio::select! {
                request = self.from_client.message(), if self.to_server.is_some() => match request {
                    Ok(Some(request)) => if self.pass(request).await.is_err() {
                        return cut();
                    },
                    _ => self.to_server = None,
                },
                answer = self.from_server.message() => match answer {
                    Ok(Some(answer)) if self.broken_at == Some(answer.id) => return cut(),
                    Ok(Some(answer)) => if to_client.send(Ok(answer)).await.is_err() {
                        return cut();
                    },
                    _ => return Status::unavailable("the server's side ended"),
                },
            }
        }
    }

    async fn pass(&mut self, request: v1::ProduceStreamRequest) -> Result<(), ()> {
        let fault = self.door.script.lock().pop_front().unwrap_or(Fault::None);
        let times = match fault {
            Fault::LostBefore => return Err(()),
            Fault::LostAfter => {
                self.broken_at = Some(request.id);
                1
            }
            Fault::Late => {
                tokio::time::sleep(LATE).await;
                1
            }
            Fault::Twice => 2,
            Fault::None => 1,
        };
        let to_server = self.to_server.as_ref().ok_or(())?;
        for _ in 0..times {
            to_server.send(request.clone()).await.map_err(|_| ())?;
        }
        Ok(())
    }
}

/// A TCP proxy that ends each connection after so many bytes from the server.
pub(crate) struct CuttingDoor {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl CuttingDoor {
    /// Opens a door to `server` that ends its connections after as many bytes as `cuts` says in turn; those after them stay.
    pub(crate) async fn to(server: SocketAddr, cuts: Vec<usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        tokio::spawn(async move {
            let mut cuts = cuts.into_iter();
            while let Ok((client, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let server = TcpStream::connect(server).await.unwrap();
                tokio::spawn(copy(client, server, cuts.next().unwrap_or(usize::MAX)));
            }
        });
        Self { address, connections }
    }

    /// Returns how many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn copy(mut client: TcpStream, mut server: TcpStream, mut left: usize) {
    let (mut from_client, mut from_server) = (vec![0; 4096], vec![0; 4096]);
    while left > 0 {
        let passed = tokio::select! {
            read = client.read(&mut from_client) => match read {
                Ok(len @ 1..) => server.write_all(&from_client[..len]).await,
                _ => return,
            },
            read = server.read(&mut from_server) => match read {
                Ok(len @ 1..) => {
                    let len = len.min(left);
                    left -= len;
                    client.write_all(&from_server[..len]).await
                }
                _ => return,
            },
        };
        if passed.is_err() {
            return;
        }
    }
}
