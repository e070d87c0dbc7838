//! The HTTP door, asked in plain text.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{TestServer, records};

/// The whole answer to a GET, head and body.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_three_paths_answer_and_others_are_told_of_them() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    server
        .log()
        .await
        .produce(records("flights", 0, &["x"]))
        .await
        .unwrap();
    let http = server.server.http_addr();
    assert!(get(http, "/healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(get(http, "/readyz").await.starts_with("HTTP/1.1 200 "));
    let metrics = get(http, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200 "));
    assert!(metrics.contains("siltstone_"), "{metrics}");
    let other = get(http, "/").await;
    assert!(other.starts_with("HTTP/1.1 404 "));
    assert!(other.contains("/healthz, /readyz and /metrics"));
}

#[tokio::test]
async fn a_head_that_never_ends_is_refused_and_the_door_goes_on() {
    let server = TestServer::start().await;
    let http = server.server.http_addr();
    let mut stream = TcpStream::connect(http).await.unwrap();
    let head = format!("GET /healthz HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(1 << 20));
    // The server may close before all is sent, which is its right.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert!(get(http, "/healthz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_a_stop() {
    let server = TestServer::start().await;
    let idle = TcpStream::connect(server.server.http_addr()).await.unwrap();
    server.server.stop().await.unwrap();
    drop(idle);
}
