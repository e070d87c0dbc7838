//! Connections of the gRPC door: accepted one by one, at most so many at once.
//!
//! A connection beyond the limit is closed at once, so that its client learns it and may try elsewhere, rather than hang in
//! the backlog. A failing accept (no descriptor left) waits a moment instead of spinning.
//!
//! Connections are served by tasks of the transport, which this house does not own. What it owns is what they read from and
//! write to: when a connection is cut off, both fail, and the task ends with all calls on it, whatever its client does.
//!
//! A connection is closed in two steps: first our side ends, and then what the client still sends is read and dropped until it
//! ends its side, too. Were the socket closed with such bytes unread (a client that reads a long answer sends window updates all
//! the time), the kernel would answer them by a reset, and the client would lose the end of an answer that was sent in full.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::lines::{Lines, Welcome};

/// How long a client may take to say which protocol it speaks: its HTTP/2 preface, or the beginning of a TLS handshake. What
/// comes after has limits of its own: the handshake's, and signs of life that HTTP/2 asks for.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an HTTP/2 preface; no TLS handshake begins with fewer.
const GREETING_LEN: usize = 24;
/// How long a client may be silent between the end of our side of a connection and the end of its own.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long all of that may take.
const FAREWELL_MOST: Duration = Duration::from_secs(60);
/// Bytes read and dropped at once.
const DROPPED_AT_ONCE: usize = 4096;
/// Wait after an accept that failed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// An open connection; its place is free again when it is dropped.
pub(crate) struct Connection {
    stream: TcpStream,
    life: Life,
    greeting: Greeting,
    farewell: Farewell,
    _place: OwnedSemaphorePermit,
}

/// How far the connection's end has come.
enum Farewell {
    /// Our side is open.
    NotYet,
    /// Our side has ended; the client has until then to say something or to end its own.
    Said {
        silence: Pin<Box<Sleep>>,
        until: Instant,
    },
}

/// Whether the client has said which protocol it speaks.
enum Greeting {
    Awaited {
        missing: usize,
        deadline: Pin<Box<Sleep>>,
    },
    Heard,
}

impl Greeting {
    /// Fails once the client has been silent for too long, and wakes the connection's task then.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Self::Awaited { deadline, .. } = self
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    fn heard(&mut self, bytes: usize) {
        if let Self::Awaited { missing, .. } = self {
            *missing = missing.saturating_sub(bytes);
            if *missing == 0 {
                *self = Self::Heard;
            }
        }
    }
}

/// Whether a connection may go on.
enum Life {
    /// Until this completes.
    Until(Pin<Box<dyn Future<Output = ()> + Send>>),
    Over,
}

impl Life {
    /// Fails once the connection is cut off, and wakes its task then.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Self::Until(cut_off) = self
            && cut_off.as_mut().poll(cx).is_ready()
        {
            *self = Self::Over;
        }
        match self {
            Self::Until(_) => Ok(()),
            Self::Over => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the server has cut this connection",
            )),
        }
    }
}

/// Whether the limit is reached, remembered so that it is logged once and not per connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Crowd {
    Room,
    Full,
}

/// Streams connections as they come; each lasts until what `cut_off` makes for it completes.
pub(crate) fn connections<F>(
    (listener, lines): (TcpListener, Lines),
    max_connections: usize,
    cut_off: impl Fn() -> F + Send + Sync + 'static,
) -> impl Stream<Item = io::Result<Connection>> + Send
where
    F: Future<Output = ()> + Send + 'static,
{
    let cut_off = Arc::new(cut_off);
    let places = Arc::new(Semaphore::new(max_connections));
    stream::unfold(
        (listener, lines, places, Crowd::Room),
        move |(listener, lines, places, mut crowd)| {
            let cut_off = Arc::clone(&cut_off);
            async move {
                loop {
                    let stream = match listener.accept().await {
                        Ok((stream, _)) => stream,
                        Err(error) => {
                            tracing::warn!(%error, "cannot accept a gRPC connection");
                            tokio::time::sleep(ACCEPT_BACKOFF).await;
                            continue;
                        }
                    };
                    match lines.next() {
                        Some(Welcome::Refused) => continue,
                        Some(Welcome::Late(pause)) => {
                            let cut = lines.until_cut();
                            tokio::select! {
                                biased;
                                () = cut => {
                                    close_waiting(&listener);
                                    continue;
                                }
                                () = tokio::time::sleep(pause) => {}
                            }
                        }
                        None => {}
                    }
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                        if crowd == Crowd::Room {
                            tracing::warn!(
                                max_connections,
                                "gRPC connections are refused: grpc.max_connections is reached"
                            );
                        }
                        crowd = Crowd::Full;
                        continue;
                    };
                    crowd = Crowd::Room;
                    // Acknowledgements are small and must not wait for more bytes to fill a packet.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection went away while it was accepted");
                        continue;
                    }
                    return Some((
                        Ok(Connection {
                            stream,
                            life: Life::Until(Box::pin(cut_off())),
                            farewell: Farewell::NotYet,
                            greeting: Greeting::Awaited {
                                missing: GREETING_LEN,
                                deadline: Box::pin(tokio::time::sleep(GREETING_TIMEOUT)),
                            },
                            _place: place,
                        }),
                        (listener, lines, places, crowd),
                    ));
                }
            }
        },
    )
}

/// Closes the connections that wait to be accepted: to their clients they are open.
fn close_waiting(listener: &TcpListener) {
    while let Some(Ok(_)) = listener.accept().now_or_never() {}
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.life.check(cx)?;
        self.greeting.check(cx)?;
        let filled = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.greeting.heard(buf.filled().len() - filled);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.life.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.life.check(cx)?;
        if let Farewell::NotYet = this.farewell {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.farewell = Farewell::Said {
                silence: Box::pin(tokio::time::sleep(FAREWELL_TIMEOUT)),
                until: Instant::now() + FAREWELL_MOST,
            };
        }
        let Farewell::Said { silence, until } = &mut this.farewell else {
            return Poll::Ready(Ok(()));
        };
        loop {
            let mut room = [0; DROPPED_AT_ONCE];
            let mut dropped = ReadBuf::new(&mut room);
            match Pin::new(&mut this.stream).poll_read(cx, &mut dropped) {
                // The client's end; or a client that is gone, which is one, too.
                Poll::Ready(Ok(())) if dropped.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Err(_)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {
                    let ends = Instant::now() + FAREWELL_TIMEOUT;
                    silence.as_mut().reset(ends.min(*until));
                    if Instant::now() >= *until {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Pending => return silence.as_mut().poll(cx).map(Ok),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.life.check(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Both ends of a connection; the server's lasts until the returned sender is dropped.
    async fn pair() -> (Connection, TcpStream, tokio::sync::watch::Sender<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (end, lasts) = tokio::sync::watch::channel(());
        let cut_off = move || {
            let mut lasts = lasts.clone();
            async move { while lasts.changed().await.is_ok() {} }
        };
        let mut incoming = Box::pin(connections((listener, Lines::default()), 1, cut_off));
        let (client, server) = tokio::join!(TcpStream::connect(address), incoming.next());
        (server.unwrap().unwrap(), client.unwrap(), end)
    }

    #[tokio::test]
    async fn the_end_of_an_answer_comes_whole_to_a_client_that_still_sends() {
        let (mut server, mut client, _lasts) = pair().await;
        let answer = vec![7; 64 << 10];
        server.write_all(&answer).await.unwrap();
        client.write_all(b"a window update, say").await.unwrap();
        let mut farewell = pin!(server.shutdown());
        assert!(futures_util::poll!(farewell.as_mut()).is_pending());
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, answer);
        drop(client);
        farewell.await.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_is_held_up_and_one_behind_it_are_cut_with_the_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Lines::default();
        lines.order(Welcome::Late(Duration::MAX));
        let mut incoming = Box::pin(connections(
            (listener, lines.clone()),
            9,
            std::future::pending::<()>,
        ));
        let mut held = [
            TcpStream::connect(address).await.unwrap(),
            TcpStream::connect(address).await.unwrap(),
        ];
        while lines.ordered() > 0 {
            assert!(futures_util::poll!(incoming.next()).is_pending());
            tokio::task::yield_now().await;
        }
        lines.cut();
        assert!(futures_util::poll!(incoming.next()).is_pending());
        for client in &mut held {
            let mut byte = [0];
            let read = tokio::time::timeout(Duration::from_secs(20), client.read(&mut byte));
            assert_eq!(read.await.expect("it is cut").unwrap(), 0);
        }
        // Who comes after the cut is received.
        let (_client, server) = tokio::join!(TcpStream::connect(address), incoming.next());
        server.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_does_not_end_its_side_is_waited_for_only_so_long() {
        let (mut server, client, lasts) = pair().await;
        tokio::time::pause();
        let begun = Instant::now();
        server.shutdown().await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), FAREWELL_TIMEOUT.as_secs());
        drop((server, client, lasts));
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_off_waits_for_nobody() {
        let (mut server, client, lasts) = pair().await;
        drop(lasts);
        assert!(server.shutdown().await.is_err());
        drop(client);
    }
}
