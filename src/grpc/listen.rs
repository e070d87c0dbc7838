//! Connections of the gRPC door: accepted one by one, at most so many at once.
//!
//! A connection beyond the limit is closed at once, so that its client learns it and may try elsewhere, rather than hang in
//! the backlog. A failing accept (no descriptor left) waits a moment instead of spinning.
//!
//! Connections are served by tasks of the transport, which this house does not own. What it owns is what they read from and
//! write to: when a connection is cut off, both fail, and the task ends with all calls on it, whatever its client does.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::lines::{Lines, Welcome};

/// How long a client may take to say which protocol it speaks: its HTTP/2 preface, or the beginning of a TLS handshake. What
/// comes after has limits of its own: the handshake's, and signs of life that HTTP/2 asks for.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an HTTP/2 preface; no TLS handshake begins with fewer.
const GREETING_LEN: usize = 24;
/// Wait after an accept that failed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// An open connection; its place is free again when it is dropped.
pub(crate) struct Connection {
    stream: TcpStream,
    life: Life,
    greeting: Greeting,
    _place: OwnedSemaphorePermit,
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
                        Some(Welcome::Late(pause)) => tokio::time::sleep(pause).await,
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

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
