//! Connections of the HTTP door: few at once, each with a bound on how long its headers may take. When there is no place for
//! another, the oldest gives way, after the answer it may be at: one that says nothing keeps nobody from asking.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Connections at once; for another the oldest gives way.
const MAX_CONNECTIONS: usize = 64;
/// Time from a connection, or from its last answer, to the end of the next request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection that gives way may take for its last answer.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_millis(250);
/// Bytes kept of one connection's unread input: bounds headers. Bodies are not read at all.
const MAX_INPUT_BYTES: usize = 16 << 10;
/// Wait after an accept that failed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// What the door takes on.
#[derive(Clone, Copy, Debug)]
struct Limits {
    connections: usize,
    header_timeout: Duration,
}

/// Serves connections of `listener` until `stop`, then finishes the answers under way.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Clone + Send + 'static,
) {
    let limits = Limits {
        connections: MAX_CONNECTIONS,
        header_timeout: HEADER_TIMEOUT,
    };
    serve_within(limits, listener, router, stop).await;
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Clone + Send + 'static,
) {
    let mut connections = Connections::default();
    let mut stopped = pin!(stop.clone());
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stopped => break,
            () = connections.ended() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        tokio::select! {
            biased;
            () = &mut stopped => break,
            () = connections.make_room(limits.connections) => {}
        }
        let (router, stop, give_way) = (router.clone(), stop.clone(), Arc::new(Notify::new()));
        let told = Arc::clone(&give_way);
        let connection =
            async move { serve_connection(stream, router, limits.header_timeout, stop, &told).await };
        connections.begin(connection, give_way);
    }
    drop(listener);
    while connections.tasks.join_next().await.is_some() {}
}

/// The connections, oldest first, each with what tells it to give way.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    oldest: VecDeque<(tokio::task::Id, Arc<Notify>)>,
}

impl Connections {
    fn begin(&mut self, connection: impl Future<Output = ()> + Send + 'static, give_way: Arc<Notify>) {
        let id = self.tasks.spawn(connection).id();
        self.oldest.push_back((id, give_way));
    }

    /// Completes when one ended; never while there is none.
    async fn ended(&mut self) {
        let ended = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => return std::future::pending().await,
        };
        self.oldest.retain(|(id, _)| *id != ended);
    }

    /// Completes when there are fewer than `most`; asks one after the other, from the oldest, to give way.
    async fn make_room(&mut self, most: usize) {
        while self.tasks.len() >= most {
            if let Some((_, oldest)) = self.oldest.pop_front() {
                oldest.notify_one();
            }
            self.ended().await;
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    header_timeout: Duration,
    stop: impl Future<Output = ()>,
    give_way: &Notify,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_INPUT_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = give_way.notified() => {
            connection.as_mut().graceful_shutdown();
            // A head that is half there may stay so; an answer that is under way is soon written.
            match tokio::time::timeout(LAST_ANSWER_TIMEOUT, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

    /// Sends a request and returns what comes first of its answer.
    async fn answered(stream: &mut TcpStream) -> Vec<u8> {
        stream.write_all(REQUEST).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        answer.to_vec()
    }

    #[tokio::test]
    async fn connections_that_say_nothing_give_way_to_new_ones_the_oldest_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // With this timeout a test that waits for it never ends.
        let limits = Limits {
            connections: 4,
            header_timeout: Duration::from_secs(1 << 20),
        };
        let router = Router::new().route("/", get(|| async { "ok" }));
        tokio::spawn(serve_within(limits, listener, router, std::future::pending()));
        let mut idle = Vec::new();
        for _ in 0..limits.connections {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        // Half a head is no more than silence.
        idle[0].write_all(&REQUEST[..10]).await.unwrap();
        let mut asks = TcpStream::connect(address).await.unwrap();
        assert_eq!(answered(&mut asks).await, b"HTTP/1.1 200");
        let mut nothing = Vec::new();
        let _ = idle[0].read_to_end(&mut nothing).await;
        assert_eq!(nothing, b"", "the oldest gave way");
        for stream in &mut idle[1..] {
            assert_eq!(answered(stream).await, b"HTTP/1.1 200", "the others stay");
        }
    }
}
