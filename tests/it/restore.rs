//! Restoring from the outside: the server is stopped, its data directory is gone, and everything comes back from a folder.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Server, Told, run, signal, siltstone};

const COUNT: i64 = 3000;

fn produce(server: &Server, range: std::ops::Range<i64>) {
    let line = |number: i64| {
        let at = 1_357_000_000_000 + number * 1000;
        format!(
            "{{\"timestamp\":{at},\"value\":\"{number} {}\"}}\n",
            "x".repeat(300)
        )
    };
    let lines: String = range.map(line).collect();
    let args = [
        "produce",
        "flights",
        "--format",
        "json",
        "--timestamp-field",
        "timestamp",
    ];
    let (code, _, said) = server.pipe(&args, lines.as_bytes());
    assert_eq!(code, Some(0), "{said}");
}

fn stop(mut server: Server) {
    signal(&server.child, "TERM");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

fn json(line: &str) -> Value {
    serde_json::from_str(line.trim()).unwrap()
}

fn restore(url: &str, data: &Path, more: &[&str]) -> Told {
    let mut command = siltstone(&["tier", "restore", "--from", url, "--data-dir"]);
    command.arg(data).args(more);
    run(command)
}

/// What a reader sees, but for the lines that tell of the local disk.
fn seen(server: &Server) -> (String, Value, Value) {
    let topic = json(&server.done(&["topic", "describe", "flights", "--json"]));
    let found = server.done(&["offsets", "flights", "--at", "1357000100000", "--json"]);
    (
        server.done(&["read", "flights", "--json"]),
        serde_json::json!([
            topic["id"],
            topic["config"],
            topic["partitions"][0]["log_end_offset"]
        ]),
        json(&found),
    )
}

#[test]
fn everything_comes_back_from_the_bucket_to_a_command_or_a_server_and_offsets_go_on() {
    let (dir, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let url = format!("file://{}", bucket.path().display());
    let tier = format!("--tier-url={url}");
    let server = Server::start(dir.path(), &[&tier]);
    let settings = [
        "segment.bytes=262144",
        "local.retention.bytes=0",
        "tier.max.lag.ms=100",
    ];
    let mut create = vec!["topic", "create", "flights"];
    create.extend(settings.iter().flat_map(|setting| ["--config", setting]));
    server.done(&create);
    produce(&server, 0..COUNT);
    server.done(&["tier", "status", "--wait-s", "600"]);
    let before = seen(&server);
    stop(server);
    std::fs::remove_dir_all(dir.path().join("siltstone-data")).unwrap();

    let data = dir.path().join("restored");
    let (code, planned, said) = restore(&url, &data, &["--dry-run", "--json"]);
    assert_eq!((code, data.exists()), (Some(0), false), "{said}");
    let (code, told, said) = restore(&url, &data, &["--json"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let lines = |text: &str| text.lines().map(json).collect::<Vec<_>>();
    let (planned, told) = (lines(&planned), lines(&told));
    assert_eq!(planned[..2], told[..2]);
    assert_eq!(
        (&told[1]["topic"], &told[1]["records"]),
        (&"flights".into(), &COUNT.into())
    );
    assert_eq!(told[1]["place"], "archive");
    let (code, _, said) = restore(&url, &data, &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("it is a data directory already"), "{said}");
    assert_eq!(restore("nothing", &dir.path().join("none"), &[]).0, Some(1));

    let server = Server::start(dir.path(), &[&tier, "--data-dir", "restored"]);
    assert_eq!(seen(&server), before);
    produce(&server, COUNT..COUNT + 10);
    server.done(&["tier", "status", "--wait-s", "600"]);
    let after = seen(&server);
    stop(server);

    // Another machine has nothing but the address.
    for how in ["--restore", "--restore=download"] {
        let fresh = TempDir::new().unwrap();
        let server = Server::start(fresh.path(), &[&tier, how]);
        assert_eq!(seen(&server), after, "{how}");
        let topic = json(&server.done(&["topic", "describe", "flights", "--json"]));
        let local = &topic["partitions"][0]["local_start_offset"];
        if how == "--restore" {
            assert_eq!(*local, COUNT + 10, "{topic}");
        }
        stop(server);
        // With data in the directory it is an ordinary start.
        let again = Server::start(fresh.path(), &[&tier, how]);
        assert_eq!(seen(&again), after, "{how}");
        stop(again);
    }
}
