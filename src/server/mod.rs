//! The server: a broker behind its doors, from start to stop.
//!
//! ```text
//!  start:  bind both ports -> HTTP answers (starting) -> broker opens, recovers -> gRPC answers -> ready
//!  stop:   gRPC takes nothing new -> what is under way finishes, or the deadline comes and it is cut off
//!          -> broker syncs, marks, closes -> HTTP ends
//! ```
//!
//! Invariants
//! - A port in use fails the start before the data directory is touched.
//! - gRPC listens only once the broker serves: a client is refused, not kept waiting through a recovery.
//! - After [`Server::stop`] nothing of the server runs, and the data directory may be opened again at once.
//!
//! What is not here: signals, logs, standard output, exit codes: the command line's. [`Server::start`] works inside any
//! tokio runtime, several in one process.

mod error;

pub use error::{StartError, StopError};

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::broker::{Broker, World};
use crate::config::Config;
use crate::env::{RealFs, SystemClock};
use crate::grpc::{GrpcDoor, Lines, Phase};
use crate::http;

/// Connections that wait to be accepted, per port.
const BACKLOG: u32 = 1024;

/// A running server. Dropping it stops nothing cleanly; call [`Server::stop`].
#[derive(Debug)]
pub struct Server {
    broker: Broker,
    grpc_addr: SocketAddr,
    http_addr: SocketAddr,
    data_dir: String,
    shutdown_timeout: Duration,
    phase: watch::Sender<Phase>,
    lines: Lines,
    grpc: JoinHandle<Result<(), tonic::transport::Error>>,
    subject: http::Subject,
    http_stop: watch::Sender<Phase>,
    http: JoinHandle<()>,
}

impl Server {
    /// Starts a server on the operating system's disk and clock; returns when every listener answers.
    ///
    /// # Errors
    /// A port that cannot be had, a data directory that cannot be used, TLS files that are not sound.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let world = World {
            fs: Arc::new(RealFs::new()),
            clock: Arc::new(SystemClock),
        };
        Self::start_in(config, world).await
    }

    /// Starts a server in the world given.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_in(config: Config, world: World) -> Result<Self, StartError> {
        let (grpc_socket, grpc_addr) = bind("grpc.listen", &config.grpc.listen).await?;
        let (http_socket, http_addr) = bind("http.listen", &config.http.listen).await?;
        let subject = http::Subject::default();
        let (http_stop, http_stopped) = watch::channel(Phase::Serving);
        let http = tokio::spawn(http::serve(
            listen("http.listen", http_socket, http_addr)?,
            http::router(subject.clone()),
            stopping(http_stopped).shared(),
        ));
        let data_dir = config.broker.data_dir.display().to_string();
        let (phase, phase_seen) = watch::channel(Phase::Serving);
        let opened = async {
            let broker = Broker::start(config.broker, world).await?;
            let door = GrpcDoor::new(broker.clone(), &config.grpc, phase_seen).map_err(StartError::Tls);
            // A bound port is not kept from another that listens on it first.
            let open = door.and_then(|door| Ok((door, listen("grpc.listen", grpc_socket, grpc_addr)?)));
            match open {
                Ok((door, listener)) => Ok((broker, door, listener)),
                Err(error) => {
                    broker.shutdown().await?;
                    Err(error)
                }
            }
        };
        let (broker, door, listener) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                http.abort();
                return Err(error);
            }
        };
        let lines = door.lines();
        let grpc = tokio::spawn(door.serve(listener));
        subject.set(broker.clone());
        Ok(Self {
            broker,
            grpc_addr,
            http_addr,
            data_dir,
            shutdown_timeout: config.shutdown_timeout,
            phase,
            lines,
            grpc,
            subject,
            http_stop,
            http,
        })
    }

    /// Returns where gRPC answers, with the real port.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Returns where HTTP answers, with the real port.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Returns the broker behind the doors.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Returns the lines to the clients of its gRPC door.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Returns the line that tells a person or a script that the server answers, and where.
    pub fn ready_line(&self) -> String {
        format!(
            "ready grpc={} http={} data={}",
            self.grpc_addr, self.http_addr, self.data_dir
        )
    }

    /// Stops: takes nothing new, finishes what is under way until the deadline, syncs and closes the data.
    ///
    /// # Errors
    /// What could not be synced; the next start recovers it.
    pub async fn stop(mut self) -> Result<(), StopError> {
        self.subject.stop();
        self.phase.send_replace(Phase::Stopping);
        self.drain_grpc().await;
        self.close().await
    }

    /// As [`Server::stop`], but what is under way is given up at once.
    ///
    /// # Errors
    /// As [`Server::stop`].
    pub async fn stop_now(mut self) -> Result<(), StopError> {
        self.cut_off_grpc().await;
        self.close().await
    }

    /// Ends as after a crash: nothing is synced or written down any more. Only what the runtime still drops is left of it then.
    pub async fn abort(self) {
        self.phase.send_replace(Phase::CutOff);
        self.grpc.abort();
        self.http.abort();
        self.broker.abort().await;
    }

    async fn close(mut self) -> Result<(), StopError> {
        let closed = self.broker.shutdown().await;
        self.http_stop.send_replace(Phase::Stopping);
        if timeout(HTTP_DRAIN, &mut self.http).await.is_err() {
            self.http.abort();
        }
        Ok(closed?)
    }

    /// Waits for what is under way at the gRPC door, until the deadline; then cuts it off. No task of the door is left.
    async fn drain_grpc(&mut self) {
        let (door, phase) = (&mut self.grpc, &self.phase);
        let mut gone = pin!(async {
            match door.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the gRPC door ended early"),
                Err(join) => tracing::error!(%join, "the gRPC door ended early"),
            }
            // Every connection and every call holds a receiver.
            phase.closed().await;
        });
        if timeout(self.shutdown_timeout, gone.as_mut()).await.is_ok() {
            return;
        }
        tracing::warn!(
            waited_ms = self.shutdown_timeout.as_millis(),
            "requests under way were given up: the shutdown deadline came"
        );
        phase.send_replace(Phase::CutOff);
        if timeout(CUT_OFF_TIMEOUT, gone).await.is_err() {
            tracing::error!("connections that were cut off have not ended");
        }
    }

    async fn cut_off_grpc(&mut self) {
        self.phase.send_replace(Phase::CutOff);
        let gone = async {
            // Its result is told where it matters: by a stop that waits.
            let _ = (&mut self.grpc).await;
            self.phase.closed().await;
        };
        if timeout(CUT_OFF_TIMEOUT, gone).await.is_err() {
            tracing::error!("connections that were cut off have not ended");
        }
    }
}

/// How long connections and calls that were cut off take to end, at most: they only have to be woken.
const CUT_OFF_TIMEOUT: Duration = Duration::from_secs(5);
/// How long answers of the HTTP door may take after the data is closed.
const HTTP_DRAIN: Duration = Duration::from_secs(1);

async fn stopping(mut phase: watch::Receiver<Phase>) {
    // An error says that the server is gone, which is a stop too.
    let _ = phase.wait_for(|phase| *phase != Phase::Serving).await;
}

/// Takes the port without answering on it yet.
async fn bind(setting: &'static str, address: &str) -> Result<(TcpSocket, SocketAddr), StartError> {
    let refused = |source| StartError::Bind {
        setting,
        address: address.to_owned(),
        source,
    };
    let mut last = None;
    for candidate in tokio::net::lookup_host(address).await.map_err(refused)? {
        match take(candidate) {
            Ok(socket) => {
                let bound = socket.local_addr().map_err(refused)?;
                return Ok((socket, bound));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(refused(last.unwrap_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::NotFound, "the name stands for no address")
    })))
}

fn take(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of an earlier server that are still dying must not keep a new one from its port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn listen(setting: &'static str, socket: TcpSocket, address: SocketAddr) -> Result<TcpListener, StartError> {
    socket.listen(BACKLOG).map_err(|source| StartError::Bind {
        setting,
        address: address.to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::config::{Sources, load};
    use crate::env::Clock;
    use crate::types::Timestamp;

    #[tokio::test]
    async fn a_port_in_use_is_told_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let bound = bind("grpc.listen", &address).await;
        let error = bound.unwrap_err().to_string();
        assert_eq!(
            error,
            format!("address {address} is in use: stop the other program or choose another --grpc-listen")
        );
    }

    /// A clock that, when it is first asked, listens on a port that the server has bound and does not listen on yet.
    #[derive(Debug)]
    struct Usurper {
        bound: Mutex<Option<TcpSocket>>,
        listening: Mutex<Option<TcpListener>>,
    }

    impl Clock for Usurper {
        fn now(&self) -> Timestamp {
            if let Some(socket) = self.bound.lock().take() {
                *self.listening.lock() = Some(socket.listen(1).unwrap());
            }
            SystemClock.now()
        }
    }

    #[tokio::test]
    async fn a_port_lost_while_the_broker_opens_ends_the_start_and_all_that_it_began() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let (socket, address) = bind("grpc.listen", "127.0.0.1:0").await.unwrap();
        let flags = [
            ("data_dir", data_dir.display().to_string()),
            ("grpc.listen", address.to_string()),
            ("http.listen", "127.0.0.1:0".to_owned()),
        ];
        let sources = Sources {
            flags: flags.map(|(key, value)| (key.to_owned(), value)).into(),
            ..Sources::default()
        };
        let world = World {
            fs: Arc::new(RealFs::new()),
            clock: Arc::new(Usurper {
                bound: Some(socket).into(),
                listening: None.into(),
            }),
        };
        let config = load(&sources).unwrap().config;
        let failed = Server::start_in(config, world).await.unwrap_err();
        assert!(
            failed.to_string().contains("choose another --grpc-listen"),
            "{failed}"
        );
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        while tasks() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(
            data_dir.join(".kafka_cleanshutdown").exists(),
            "the data was closed as by a stop"
        );
    }

    #[tokio::test]
    async fn a_taken_port_refuses_connections_until_it_is_listened_on() {
        let (socket, address) = bind("grpc.listen", "127.0.0.1:0").await.unwrap();
        assert_ne!(address.port(), 0);
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
        let listener = listen("grpc.listen", socket, address).unwrap();
        assert!(tokio::net::TcpStream::connect(address).await.is_ok());
        drop(listener);
    }
}
