//! Bytes on the gRPC port that no client sends: not HTTP/2, HTTP/2 that breaks its rules, calls whose frames lie. The server ends
//! the call or the connection, stores nothing, and serves everybody else.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{TestServer, everything, read_all, records, values};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long an answer may take: for ever, as tests go.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `grpc-status` in HPACK's Huffman code.
const GRPC_STATUS: &[u8] = b"\x9a\xca\xc8\xb2\x12\x34\xda\x8f";
/// 3, `INVALID_ARGUMENT`, behind it.
const INVALID_ARGUMENT: &[u8] = b"\x81\x67";
/// 12, `UNIMPLEMENTED`, behind it.
const UNIMPLEMENTED: &[u8] = b"\x82\x08\xbf";

/// A frame of HTTP/2 on a stream.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What every connection begins with.
fn begun() -> Vec<u8> {
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, b"")].concat()
}

/// The headers of a call, without any compression.
fn headers(path: &str) -> Vec<u8> {
    let mut block = b"\x83\x86".to_vec();
    let fields = [
        (":path", path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in fields {
        let len = |text: &str| u8::try_from(text.len()).unwrap();
        block.extend([&[0, len(name)], name.as_bytes(), &[len(value)], value.as_bytes()].concat());
    }
    block
}

/// A whole call of one request whose body is `body`, frame of gRPC included.
fn call(path: &str, body: &[u8]) -> Vec<u8> {
    let headers = frame(HEADERS, END_HEADERS, 1, &headers(path));
    [begun(), headers, frame(DATA, END_STREAM, 1, body)].concat()
}

/// Sends `bytes` and waits until the server has closed the connection.
async fn send(server: &TestServer, bytes: &[u8]) {
    let stream = TcpStream::connect(server.server.grpc_addr()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let sent = async {
        // The server may close before all is sent, which is its right.
        let _ = writer.write_all(bytes).await;
        let _ = writer.shutdown().await;
    };
    let mut told = Vec::new();
    let ended = async { tokio::join!(sent, reader.read_to_end(&mut told)) };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    assert!(
        ended.is_ok(),
        "the server keeps a connection that the client has closed"
    );
}

/// Sends a call and returns what comes back, up to the status.
async fn answer(server: &TestServer, call: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.server.grpc_addr()).await.unwrap();
    stream.write_all(call).await.unwrap();
    let mut told = Vec::new();
    while !contains(&told, GRPC_STATUS) {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut told));
        let more = read.await.expect("it answers").unwrap();
        assert!(more > 0, "closed without a status: {}", told.escape_ascii());
    }
    told
}

fn contains(told: &[u8], wanted: &[u8]) -> bool {
    told.windows(wanted.len()).any(|part| part == wanted)
}

/// It serves, and has the one record that it had.
async fn lives(server: &TestServer, after: &str) {
    let read = read_all(&mut server.log().await, everything("flights")).await;
    assert_eq!(values(&read), ["x"], "after {after}");
}

/// Few connections at once are enough for everybody here, as long as each that ended has given its place back.
async fn server() -> TestServer {
    let server = TestServer::start_with(&[("grpc.max_connections", "8")]).await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    log.produce(records("flights", 0, &["x"])).await.unwrap();
    server
}

/// A run of bytes without order, the same each time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_http_2_and_frames_that_break_its_rules_end_their_connection_alone() {
    let server = server().await;
    let many = |frame: Vec<u8>, count: usize| frame.repeat(count);
    let then = |more: Vec<u8>| [begun(), more].concat();
    let reset = |stream: u32| {
        let call = frame(
            HEADERS,
            END_HEADERS,
            stream,
            &headers("/siltstone.v1.LogService/Fetch"),
        );
        [call, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    let resets: Vec<u8> = (0..5000).flat_map(|number| reset(number * 2 + 1)).collect();
    let endless = [
        frame(HEADERS, 0, 1, &[0; 16_000]),
        many(frame(CONTINUATION, 0, 1, &[0; 16_000]), 500),
    ];
    for (name, bytes) in [
        ("noise", noise(1 << 20)),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        (
            "the beginning of TLS",
            [
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
                noise(500),
            ]
            .concat(),
        ),
        (
            "noise behind the preface",
            [PREFACE.to_vec(), noise(100_000)].concat(),
        ),
        (
            "a frame of 16 MiB",
            then([&b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"[..], &[0; 100_000]].concat()),
        ),
        ("headers that never end", then(endless.concat())),
        ("calls taken back as fast as they are made", then(resets)),
        ("a window of nothing", then(frame(WINDOW_UPDATE, 0, 0, &[0; 4]))),
        ("pings", then(many(frame(PING, 0, 0, &[0; 8]), 20_000))),
        ("settings", then(many(frame(SETTINGS, 0, 0, b""), 20_000))),
    ] {
        send(&server, &bytes).await;
        lives(&server, name).await;
    }
    server.server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_calls_that_lie_are_answered_by_a_status() {
    let server = server().await;
    let produce = "/siltstone.v1.LogService/Produce";
    for (name, bytes, status) in [
        (
            "a message of 4 GiB",
            call(produce, b"\x00\xff\xff\xff\xffxxx"),
            INVALID_ARGUMENT,
        ),
        (
            "a message that ends early",
            call(produce, b"\x00\x00\x00\x00\x50abc"),
            INVALID_ARGUMENT,
        ),
        (
            "a message that is no message",
            call(produce, b"\x00\x00\x00\x00\x04\xff\xff\xff\xff"),
            INVALID_ARGUMENT,
        ),
        (
            "a flag that there is none of",
            call(produce, b"\x07\x00\x00\x00\x02hi"),
            INVALID_ARGUMENT,
        ),
        (
            "a compressed message that is none",
            call(produce, b"\x01\x00\x00\x00\x02hi"),
            INVALID_ARGUMENT,
        ),
        ("nothing at all", call(produce, b""), INVALID_ARGUMENT),
        ("two messages", call(produce, &[0; 10]), INVALID_ARGUMENT),
        (
            "no such call",
            call("/siltstone.v1.LogService/Nope", b""),
            UNIMPLEMENTED,
        ),
        (
            "no such service",
            call("/siltstone.v2.LogService/Produce", b""),
            UNIMPLEMENTED,
        ),
    ] {
        let told = answer(&server, &bytes).await;
        let expected = [GRPC_STATUS, status].concat();
        assert!(contains(&told, &expected), "{name}: {}", told.escape_ascii());
        lives(&server, name).await;
    }
    server.server.stop().await.unwrap();
}
