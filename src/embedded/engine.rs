//! The thread that an embedded broker lives on, with a runtime of its own.
//!
//! So it works beside any runtime, with one thread or with time that stands still, and a drop can wait for its end: nothing of the broker
//! runs on a thread of the test.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::broker::{Broker, World};
use crate::config::Config;
use crate::grpc::Lines;
use crate::server::{Server, StartError};

use super::Error;

/// Threads that serve the network: one can be held up by a disk that is slow by order, and the other goes on.
const WORKERS: usize = 2;
/// How long an idle thread for work that blocks stays.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How long the end waits for work that blocks. Nothing of it waits for anything but the disk.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How a broker ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// What is under way is finished first.
    Stop,
    /// Connections are cut, the data is closed.
    StopNow,
    /// As after a crash.
    Abort,
}

/// A running broker.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) runtime: Handle,
    pub(super) direct: Broker,
    pub(super) lines: Lines,
    pub(super) grpc_addr: SocketAddr,
    pub(super) http_addr: SocketAddr,
    end: oneshot::Sender<End>,
    ended: oneshot::Receiver<Result<(), Error>>,
    thread: thread::JoinHandle<()>,
}

/// What the thread tells once the server answers.
struct Started {
    runtime: Handle,
    direct: Broker,
    lines: Lines,
    grpc_addr: SocketAddr,
    http_addr: SocketAddr,
}

impl Engine {
    /// Starts a server; returns when it answers.
    pub(super) async fn start(config: Config, world: World) -> Result<Self, Error> {
        let (started, starting) = oneshot::channel();
        let (end, ending) = oneshot::channel();
        let (ended_tell, ended) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("siltstone-embedded".to_owned())
            .spawn(move || {
                let runtime = Builder::new_multi_thread()
                    .worker_threads(WORKERS)
                    .thread_name("siltstone-embedded")
                    .thread_keep_alive(BLOCKING_KEEP_ALIVE)
                    .enable_all()
                    .build();
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let _ = started.send(Err(Error::system("start threads")(error)));
                        return;
                    }
                };
                let outcome = runtime.block_on(live(config, world, (started, ending)));
                runtime.shutdown_timeout(END_TIMEOUT);
                // Nobody may be waiting for it.
                let _ = ended_tell.send(outcome);
            })
            .map_err(Error::system("start a thread"))?;
        let started = match starting.await {
            Ok(started) => started,
            Err(_) => Err(Error::NotRunning),
        };
        match started {
            Ok(Started {
                runtime,
                direct,
                lines,
                grpc_addr,
                http_addr,
            }) => Ok(Self {
                runtime,
                direct,
                lines,
                grpc_addr,
                http_addr,
                end,
                ended,
                thread,
            }),
            Err(error) => {
                // Its result is a panic that was reported where it happened.
                let _ = thread.join();
                Err(error)
            }
        }
    }

    /// Ends the broker without holding up the caller's runtime.
    pub(super) async fn end(self, how: End) -> Result<(), Error> {
        // It fails where the thread is gone already.
        let _ = self.end.send(how);
        drop(self.direct);
        let outcome = self.ended.await.unwrap_or(Err(Error::NotRunning));
        // It has told its outcome, so it ends now.
        let _ = self.thread.join();
        outcome
    }

    /// Ends the broker and waits for it on this thread.
    pub(super) fn end_here(self, how: End) {
        let _ = self.end.send(how);
        drop(self.direct);
        let _ = self.thread.join();
    }
}

async fn live(
    config: Config,
    world: World,
    (started, ending): (oneshot::Sender<Result<Started, Error>>, oneshot::Receiver<End>),
) -> Result<(), Error> {
    let server = match Server::start_in(config, world).await {
        Ok(server) => server,
        Err(error) => {
            // Whoever waited may have gone, and the error with them.
            let _ = started.send(Err(StartError::into(error)));
            return Ok(());
        }
    };
    let told = started.send(Ok(Started {
        runtime: Handle::current(),
        direct: server.broker().clone(),
        lines: server.lines().clone(),
        grpc_addr: server.grpc_addr(),
        http_addr: server.http_addr(),
    }));
    // Without an order, or anybody to give one, it ends as its owner did: at once.
    let how = match told {
        Ok(()) => ending.await.unwrap_or(End::StopNow),
        Err(_) => End::StopNow,
    };
    match how {
        End::Stop => server.stop().await?,
        End::StopNow => server.stop_now().await?,
        End::Abort => server.abort().await,
    }
    Ok(())
}
