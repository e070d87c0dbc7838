//! One connection to one server, shared by all who hold the client.
//!
//! Invariants
//! - `Client` is cheap to clone; all clones share one HTTP/2 connection, which is made again by itself after a loss.
//! - No call is without a deadline, streams apart: those end by keep-alive when the other side is gone.
//!
//! What is not here: what the calls say (`admin`, `offsets`, `reader`, `producer`).

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Response, Status};

use super::Error;
use super::endpoint::{Security, ServerAddress};
use super::error::innermost;
use crate::proto::v1::admin_service_client::AdminServiceClient;
use crate::proto::v1::log_service_client::LogServiceClient;
use crate::record::MAX_BATCH_BYTES;

/// The greatest answer taken: one batch, however large, may exceed the 4 MiB to which the server otherwise keeps.
const MAX_ANSWER_BYTES: usize = MAX_BATCH_BYTES as usize + (4 << 20);
/// Receive window of one stream: enough to keep a fast local link busy, and what a reader that is not polled holds.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Receive window of the connection: HTTP/2's greatest. Each stream is held back by its own, so that readers that are not polled
/// hold up themselves and nobody else; a window for all together would be theirs, and every call on the connection would wait.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;
/// Greatest HTTP/2 frame taken, in bytes. In frames of the default 16 KiB a large response costs more than its bytes do.
const MAX_FRAME_BYTES: u32 = 1 << 20;
/// A server that answers no ping for this long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How an answer of HTTP/1 begins.
const HTTP_ANSWER: &[u8; 7] = b"HTTP/1.";
/// How long one is waited for; only a program that says nothing at all makes it that long.
const HTTP_WAIT: Duration = Duration::from_secs(5);

/// How to connect.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use siltstone::client::{Client, ConnectOptions, Error, TlsIdentity};
///
/// let options = ConnectOptions {
///     call_timeout: Duration::from_secs(5),
///     tls_authorities_pem: Some(std::fs::read("tls/ca.pem")?),
///     tls_identity: Some(TlsIdentity {
///         certificate_pem: std::fs::read("tls/client.pem")?,
///         key_pem: std::fs::read("tls/client.key")?,
///     }),
///     ..ConnectOptions::default()
/// };
/// match Client::connect_with("https://localhost:9095", &options).await {
///     Err(Error::Tls { reason, .. }) => println!("one of the two does not trust the other: {reason}"),
///     connected => println!("{}", connected?.address()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long to wait for the answer of a call that is not a stream.
    pub call_timeout: Duration,
    /// Certificates of authorities that may vouch for an `https` server, as PEM text.
    pub tls_authorities_pem: Option<Vec<u8>>,
    /// What the client proves itself with to a server that asks for it.
    pub tls_identity: Option<TlsIdentity>,
}

/// A client's certificate and its private key, for mutual TLS.
///
/// ```no_run
/// # fn example() -> std::io::Result<()> {
/// use siltstone::client::{ConnectOptions, TlsIdentity};
///
/// let identity = TlsIdentity {
///     certificate_pem: std::fs::read("tls/client.pem")?,
///     key_pem: std::fs::read("tls/client.key")?,
/// };
/// let options = ConnectOptions { tls_identity: Some(identity), ..ConnectOptions::default() };
/// # let _ = options;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TlsIdentity {
    /// The certificate, and those that lead to the authority, as PEM text.
    pub certificate_pem: Vec<u8>,
    /// Its private key, as PEM text.
    pub key_pem: Vec<u8>,
}

impl fmt::Debug for TlsIdentity {
    /// Without the key: it is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").finish_non_exhaustive()
    }
}

impl Default for ConnectOptions {
    /// 10 seconds to connect, 30 for a call, no authority, no identity.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            tls_authorities_pem: None,
            tls_identity: None,
        }
    }
}

/// A connection to a server; cheap to clone.
///
/// ```no_run
/// # async fn example() -> Result<(), siltstone::client::Error> {
/// use siltstone::client::{Client, ConfigChanges, InternalTopics};
///
/// let client = Client::connect("127.0.0.1:9095").await?;
/// let compacted = [("cleanup.policy".to_owned(), "compact".to_owned())].into();
/// client.create_topic("planes", Some(3), &compacted).await?;
/// for topic in client.list_topics(InternalTopics::Excluded).await? {
///     let described = client.describe_topic(&topic.name).await?;
///     let records: i64 = described.partitions.iter().map(|p| p.high_watermark.0 - p.log_start.0).sum();
///     println!("{}: at most {records} records, {:?}", topic.name, described.setting("cleanup.policy"));
/// }
/// let sooner = ConfigChanges {
///     set: [("max.compaction.lag.ms".to_owned(), "60000".to_owned())].into(),
///     unset: vec!["retention.ms".to_owned()],
/// };
/// client.alter_topic("planes", sooner).await?;
/// client.add_partitions("planes", 6).await?;
/// client.clone().delete_topic("planes").await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    address: Arc<str>,
    security: Security,
    /// Set by the first answer: until then a loss may be a refusal to talk at all.
    answered: Arc<AtomicBool>,
    call_timeout: Duration,
}

impl Client {
    /// Connects to `address`: `HOST:PORT`, with or without `http://` or `https://`.
    ///
    /// # Errors
    /// [`Error::Address`] for text that is no address, [`Error::Unreachable`] when nothing answers within 10 seconds.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        Self::connect_with(address, &ConnectOptions::default()).await
    }

    /// Connects to `address` as `options` say.
    ///
    /// # Errors
    /// As [`Client::connect`], and [`Error::Tls`] when the two sides do not agree on TLS or on whom they trust.
    pub async fn connect_with(address: &str, options: &ConnectOptions) -> Result<Self, Error> {
        let address = ServerAddress::parse(address)?;
        let (endpoint, security) = (endpoint(&address, options)?, address.security());
        let address: Arc<str> = address.to_string().into();
        let connecting = tokio::time::timeout(options.connect_timeout, endpoint.connect());
        let channel = match connecting.await {
            Ok(connected) => connected.map_err(|error| Error::unreachable(&address, &error))?,
            Err(_) => {
                let reason = format!("no answer within {:?}", options.connect_timeout);
                return Err(Error::Unreachable {
                    address: address.to_string(),
                    reason,
                });
            }
        };
        Ok(Self {
            channel,
            address,
            security,
            answered: Arc::default(),
            call_timeout: options.call_timeout,
        })
    }

    /// Returns the server's host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn log(&self) -> LogServiceClient<Channel> {
        LogServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    pub(super) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Waits for a call's answer, at most as long as a call may take.
    pub(super) async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.call_timeout, call).await {
            Ok(Ok(response)) => {
                self.answered.store(true, Ordering::Relaxed);
                Ok(response.into_inner())
            }
            Ok(Err(status)) => Err(self.refusal(&status).await),
            Err(_) => Err(Error::NoAnswer {
                address: self.address.to_string(),
                waited: self.call_timeout,
            }),
        }
    }

    /// Reads a failed call's status; a loss before the first answer may be a door of another kind.
    async fn refusal(&self, status: &Status) -> Error {
        let is_new = !self.answered.load(Ordering::Relaxed) && self.security == Security::Plain;
        match self.error(status) {
            Error::ConnectionLost { .. } if is_new && answers_as_http(&self.address).await => {
                Error::NotGrpc {
                    address: self.address.to_string(),
                }
            }
            error => error,
        }
    }

    pub(super) fn error(&self, status: &Status) -> Error {
        match Error::from_status(&self.address, status) {
            Error::ConnectionLost { address, reason } if !self.answered.load(Ordering::Relaxed) => {
                let perhaps = match self.security {
                    Security::Plain => "as from a server that speaks TLS (https://) or no gRPC at all",
                    // In TLS 1.3 a client learns only after the handshake that its certificate is missed.
                    Security::Tls => {
                        "as from a server that asks for a client certificate and is shown none that it trusts"
                    }
                };
                let reason = format!("{reason} before its first answer, {perhaps}");
                Error::ConnectionLost { address, reason }
            }
            error => error,
        }
    }

    /// An answer that lacks what the protocol promises.
    pub(super) fn protocol_error(&self, reason: impl Into<String>) -> Error {
        Error::Protocol {
            address: self.address.to_string(),
            reason: reason.into(),
        }
    }
}

/// True when a question in HTTP/1 is answered in HTTP/1. Such a server closes a gRPC connection without a word, as one does
/// that dies or speaks TLS: only asking tells them apart.
async fn answers_as_http(address: &str) -> bool {
    let question = format!("HEAD / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(question.as_bytes()).await?;
        let mut answer = [0; HTTP_ANSWER.len()];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(&answer == HTTP_ANSWER)
    };
    matches!(tokio::time::timeout(HTTP_WAIT, asking).await, Ok(Ok(true)))
}

fn endpoint(address: &ServerAddress, options: &ConnectOptions) -> Result<Endpoint, Error> {
    let tls_error = |reason: String| Error::Tls {
        address: address.to_string(),
        reason,
    };
    let endpoint = Endpoint::from_shared(address.uri())
        .map_err(|error| Error::Address {
            address: address.to_string(),
            reason: error.to_string(),
        })?
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    match (address.security(), &options.tls_authorities_pem) {
        (Security::Plain, _) => Ok(endpoint),
        (Security::Tls, None) => Err(tls_error(
            "name the certificate of the authority that vouches for the server".to_owned(),
        )),
        (Security::Tls, Some(pem)) => {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            if let Some(identity) = &options.tls_identity {
                tls = tls.identity(Identity::from_pem(&identity.certificate_pem, &identity.key_pem));
            }
            endpoint
                .tls_config(tls)
                .map_err(|error| tls_error(innermost(&error)))
        }
    }
}
