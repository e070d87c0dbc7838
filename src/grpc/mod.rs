//! The gRPC door: `proto/siltstone/v1` in front of the broker.
//!
//! ```text
//!  connections (listen, tls)
//!    `-- LogService (log_service)     produce  produce_stream  fetch  read  offsets
//!    `-- AdminService (admin_service)
//!    `-- health, reflection
//!         both services: intake (bytes -> whole messages of bounded cost), convert (messages <-> the broker's words), status (errors), portions (batches -> messages), pages (long lists),
//!                        outgoing (what answers to reads may hold), observe (counts)
//! ```
//!
//! Invariants
//! - A message is checked where it comes in; no message can make this module panic, and what it costs is bounded by the
//!   limits below.
//! - Raw batches pass through as the `Bytes` they are; they are decoded only where plain records are asked for.
//! - Everything that waits, a follower or a long poll, ends when [`Phase::Stopping`] begins; everything else, a read with an
//!   end too, is finished, and given up when [`Phase::CutOff`] begins.
//!
//! What is not here: topics, offsets, durability: the broker's. Ports and signals: the server's.

mod admin_service;
mod compaction;
mod convert;
mod fetch;
mod intake;
mod lines;
mod listen;
mod log_service;
mod observe;
mod offsets;
mod outgoing;
mod pages;
mod portions;
mod produce;
mod produce_stream;
mod read;
mod retention;
mod status;
mod tls;

pub use lines::{Lines, Welcome};
pub(crate) use listen::connections;
pub use status::ERROR_DOMAIN;
pub use tls::{TlsError, TlsFiles};

use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::broker::{Broker, Error};
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::v1::admin_service_server::AdminServiceServer;
use crate::proto::v1::log_service_server::LogServiceServer;

use admin_service::AdminDoor;
use intake::{Intake, Limit};
use log_service::LogDoor;
use outgoing::Outgoing;

/// Greatest size of a response, in bytes, unless one batch is larger.
const MAX_RESPONSE_BYTES: usize = 4 << 20;
/// Greatest message that is ever sent: room for the one batch that is larger.
const MAX_SENT_MESSAGE_BYTES: usize = 1 << 30;
/// Greatest administrative request, in bytes: settings, not records.
const MAX_ADMIN_REQUEST_BYTES: usize = 1 << 20;
/// Greatest message to the health and reflection services, in bytes: names.
const MAX_NAME_REQUEST_BYTES: usize = 4 << 10;
/// What a client may send on one stream, and on one connection, before it is read: HTTP/2 windows, in bytes. The default
/// of 64 KiB would allow one batch per round trip; times `max_connections`, the second is what all clients may pile up.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Greatest HTTP/2 frame taken, in bytes; fewer frames per batch than with the default of 16 KiB.
const MAX_FRAME_BYTES: u32 = 1 << 20;
/// Greatest block of request headers, in bytes.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// A silent connection is asked for a sign of life after the first, and closed when none came within the second.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What the server's configuration says about this door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GrpcConfig {
    /// Host and port to listen on; port 0 is any free one.
    pub listen: String,
    /// Greatest request, in bytes.
    pub max_request_bytes: usize,
    /// Bytes of requests coming in at once, and as many of answers to reads going out, over all clients.
    pub max_buffered_bytes: usize,
    /// Connections at once.
    pub max_connections: usize,
    /// Calls at once on one connection.
    pub max_streams_per_connection: u32,
    /// The server's certificate; TLS is on when it and its key are given.
    pub tls_certificate: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// The authority of client certificates; mutual TLS is on when it is given.
    pub tls_client_ca: Option<PathBuf>,
}

impl GrpcConfig {
    /// Returns the TLS files, when TLS is on.
    pub fn tls(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            certificate: self.tls_certificate.clone()?,
            key: self.tls_key.clone()?,
            client_ca: self.tls_client_ca.clone(),
        })
    }
}

/// What the server is about, told to the doors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Calls are answered.
    Serving,
    /// What is under way is finished, nothing new begins.
    Stopping,
    /// What is still under way is given up: connections break.
    CutOff,
}

/// The coming of [`Phase::Stopping`]. Every connection and every call holds one, so that the server knows, by its channel
/// having no receiver left, when the last of them is gone.
#[derive(Clone, Debug)]
struct Stopping(watch::Receiver<Phase>);

impl Stopping {
    /// Completes when the server begins to stop, or is gone.
    async fn begun(&mut self) {
        // An error says that the sender is gone, and the server with it.
        let _ = self.0.wait_for(|phase| *phase != Phase::Serving).await;
    }

    async fn begun_owned(mut self) {
        self.begun().await;
    }

    /// Completes when what is under way is given up, or the server is gone.
    async fn cut_off(mut self) {
        let _ = self.0.wait_for(|phase| *phase == Phase::CutOff).await;
    }
}

/// The door, ready to be opened.
pub struct GrpcDoor {
    router: Router,
    health: HealthReporter,
    stopping: Stopping,
    max_connections: usize,
    lines: Lines,
}

impl std::fmt::Debug for GrpcDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcDoor")
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

impl GrpcDoor {
    /// Builds the services and reads the TLS files.
    ///
    /// # Errors
    /// A TLS file that cannot be used.
    pub fn new(broker: Broker, config: &GrpcConfig, phase: watch::Receiver<Phase>) -> Result<Self, TlsError> {
        let stopping = Stopping(phase);
        let intake = Intake::new(config, broker.metrics());
        let limit = Limit {
            bytes: config.max_request_bytes,
            name: "the server's grpc.max_request_bytes",
        };
        let admin_limit = Limit {
            bytes: MAX_ADMIN_REQUEST_BYTES,
            name: "the most of an administrative request",
        };
        let admin_limit = std::cmp::min_by_key(limit, admin_limit, |limit| limit.bytes);
        let log = LogServiceServer::new(LogDoor {
            outgoing: Outgoing::new(config, broker.metrics()),
            broker: broker.clone(),
            stopping: stopping.clone(),
        })
        .max_decoding_message_size(config.max_request_bytes)
        .max_encoding_message_size(MAX_SENT_MESSAGE_BYTES);
        let admin = AdminServiceServer::new(AdminDoor {
            broker,
            _stopping: stopping.clone(),
        })
        .max_decoding_message_size(MAX_ADMIN_REQUEST_BYTES)
        .max_encoding_message_size(MAX_SENT_MESSAGE_BYTES);
        let (health, health_service) = tonic_health::server::health_reporter();
        let reflection_v1 = reflection().build_v1().expect(DESCRIBED);
        let reflection_v1alpha = reflection().build_v1alpha().expect(DESCRIBED);
        let router = transport(config)?
            .add_service(intake.guard(log, limit))
            .add_service(intake.guard(admin, admin_limit))
            .add_service(health_service.max_decoding_message_size(MAX_NAME_REQUEST_BYTES))
            .add_service(reflection_v1.max_decoding_message_size(MAX_NAME_REQUEST_BYTES))
            .add_service(reflection_v1alpha.max_decoding_message_size(MAX_NAME_REQUEST_BYTES));
        Ok(Self {
            router,
            health,
            stopping,
            max_connections: config.max_connections,
            lines: Lines::default(),
        })
    }

    /// Returns the lines to its clients.
    pub fn lines(&self) -> Lines {
        self.lines.clone()
    }

    /// Serves connections of `listener` until the server stops and what was under way is finished or given up.
    ///
    /// # Errors
    /// What the transport could not go on with.
    pub async fn serve(self, listener: TcpListener) -> Result<(), tonic::transport::Error> {
        let Self {
            router,
            mut health,
            mut stopping,
            max_connections,
            lines,
        } = self;
        let cut_off = {
            let (stopping, lines) = (stopping.clone(), lines.clone());
            move || {
                let (stopped, cut) = (stopping.clone().cut_off(), lines.until_cut());
                async move {
                    tokio::select! {
                        () = stopped => {}
                        () = cut => {}
                    }
                }
            }
        };
        let incoming = connections((listener, lines), max_connections, cut_off);
        tell(&health, ServingStatus::Serving).await;
        let stopped = async move {
            stopping.begun().await;
            tell(&health, ServingStatus::NotServing).await;
            // Whoever watches has been told; an open watch would keep its connection from closing.
            for service in SERVICES {
                health.clear_service_status(service).await;
            }
        };
        router.serve_with_incoming_shutdown(incoming, stopped).await
    }
}

/// Names in the health service; the empty one is the server as a whole.
const SERVICES: [&str; 3] = ["", "siltstone.v1.LogService", "siltstone.v1.AdminService"];

async fn tell(health: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        health.set_service_status(service, status).await;
    }
}

/// Why reflection cannot fail to be built.
const DESCRIBED: &str = "the build made the descriptors by compiling them";

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Returns the HTTP/2 side of the door as it is set up, for any service.
pub(crate) fn transport(config: &GrpcConfig) -> Result<Server, TlsError> {
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(config.max_streams_per_connection)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
    match config.tls() {
        None => Ok(server),
        Some(files) => server
            .tls_config(files.load()?)
            .map_err(|error| files.unusable(error)),
    }
}

/// How long a computation keeps a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Work {
    /// Tens of microseconds at most.
    Short,
    /// Possibly much longer.
    Long,
}

/// Computes on this thread when it is short, else on one that may be kept busy.
async fn off_network_threads<T, F>(work: Work, compute: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    if work == Work::Short {
        return Ok(compute());
    }
    tokio::task::spawn_blocking(compute)
        .await
        .map_err(|join| Error::Storage {
            target: "the response".to_owned(),
            reason: format!("its computation ended early: {join}"),
        })
}
