//! The archive from the outside: a server with a folder as its bucket, its local data dropped, read back by the command line.

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Server, run, signal, siltstone};

const COUNT: i64 = 4000;
/// The time of the first record; they are a second apart.
const BEGIN_MS: i64 = 1_357_000_000_000;

fn lines() -> Vec<u8> {
    let line = |number: i64| {
        let text = "x".repeat(500);
        let at = BEGIN_MS + number * 1000;
        format!("{{\"timestamp\":{at},\"value\":\"{number} {text}\"}}\n")
    };
    (0..COUNT).map(line).collect::<String>().into_bytes()
}

/// Asks until the archive has everything and all of it but the newest left the local disk.
fn wait_until_it_left(server: &Server) -> Value {
    for _ in 0..2000 {
        // Each question takes a process; that is pause enough.
        let status = server.done(&["tier", "status", "flights", "--json"]);
        let status: Value = serde_json::from_str(status.trim()).expect("one line for one partition");
        let left = status["local_start_offset"].as_i64().expect("a number");
        if status["end_offset"] == COUNT && left == COUNT {
            return status;
        }
    }
    panic!(
        "the log never left: {}",
        server.done(&["tier", "status", "flights"])
    );
}

#[test]
fn a_topic_whose_local_data_is_dropped_is_read_back_from_a_folder_and_two_servers_do_not_share_it() {
    let (dir, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let url = format!("--tier-url=file://{}", bucket.path().display());
    let server = Server::start(dir.path(), &[&url]);
    let settings = [
        "segment.bytes=262144",
        "local.retention.bytes=0",
        "tier.max.lag.ms=100",
    ];
    let mut create = vec!["topic", "create", "flights"];
    create.extend(settings.iter().flat_map(|setting| ["--config", setting]));
    server.done(&create);
    let (code, _, said) = server.pipe(
        &[
            "produce",
            "flights",
            "--format",
            "json",
            "--timestamp-field",
            "timestamp",
        ],
        &lines(),
    );
    assert_eq!(code, Some(0), "{said}");
    let waited = server.done(&["tier", "status", "flights", "--wait-s", "600", "--json"]);
    let waited: Value = serde_json::from_str(waited.trim()).expect("one line for one partition");
    assert_eq!(waited["end_offset"], COUNT, "{waited}");
    let status = wait_until_it_left(&server);
    assert!(status["segments"].as_i64().expect("a number") > 5, "{status}");
    assert_eq!(status["stuck"], false);

    let all = server.done(&["read", "flights", "--json"]);
    let numbers: Vec<i64> = all
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["offset"]
                .as_i64()
                .unwrap()
        })
        .collect();
    assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
    let at = (BEGIN_MS + 100_000).to_string();
    let found = server.done(&["offsets", "flights", "--at", &at, "--json"]);
    let found: Value = serde_json::from_str(found.trim()).unwrap();
    assert_eq!(found["offset"], 100, "{found}");

    // Another start on a copy of the directory takes the bucket over; the first stops and says so.
    let stranger = TempDir::new().unwrap();
    let mut refused = siltstone(&[
        "serve",
        "--grpc-listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
        &url,
    ]);
    refused.arg("--data-dir").arg(stranger.path().join("data"));
    let (code, _, said) = run(refused);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("belongs to cluster"), "{said}");
    signal(&server.child, "TERM");
}
