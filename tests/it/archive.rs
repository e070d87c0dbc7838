//! The archive from the outside: a server with a folder as its bucket, its local data dropped, read back by the command line.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};

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

fn serve(data: &Path, url: &str) -> Command {
    let free = ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let mut command = siltstone(&["serve", "--set", "storage.min_free_bytes=0"]);
    command
        .args(free)
        .arg("--data-dir")
        .arg(data)
        .args(["--tier-url", url]);
    command
}

/// Answers every request with this refusal; requests of this small kind fit into one read, or their rest is of no interest.
fn store_that_refuses(status: &'static str, code: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = move |mut guest: TcpStream| {
        let mut request = BufReader::new(guest.try_clone().unwrap());
        let (mut line, mut body_bytes) = (String::new(), 0);
        while request.read_line(&mut line).is_ok_and(|read| read > 2) {
            let lower = line.to_ascii_lowercase();
            if let Some(length) = lower.strip_prefix("content-length:") {
                body_bytes = length.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; body_bytes];
        let _ = request.read_exact(&mut body);
        let text = format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>");
        let length = text.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        let _ = guest.write_all((head + &text).as_bytes());
    };
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    url
}

#[test]
fn a_start_without_its_bucket_or_with_wrong_credentials_says_so_in_one_line_and_exits_1() {
    let dir = TempDir::new().unwrap();
    for (status, code, hint) in [
        ("404 Not Found", "NoSuchBucket", "NoSuchBucket"),
        ("403 Forbidden", "InvalidAccessKeyId", "credentials"),
    ] {
        let mut command = serve(&dir.path().join("data"), "s3://archive/some/prefix");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command.envs([
            ("AWS_ENDPOINT", store_that_refuses(status, code).as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "somebody"),
            ("AWS_SECRET_ACCESS_KEY", "a-secret-that-stays-one"),
        ]);
        let (exit, stdout, stderr) = run(command);
        let told: Vec<_> = stderr
            .lines()
            .filter(|line| line.starts_with("siltstone: "))
            .collect();
        assert_eq!((exit, told.len(), stdout.as_str()), (Some(1), 1, ""), "{stderr}");
        assert!(
            told[0].contains("s3://archive/some/prefix") && told[0].contains(hint),
            "{}",
            told[0]
        );
        assert!(told[0].contains("or start without tier.url"), "{}", told[0]);
        assert!(!stderr.contains("a-secret-that-stays-one"), "{stderr}");
    }
    // Without the archive the same directory serves: nothing in it was changed for good.
    Server::start(dir.path(), &["--data-dir", "data"]).done(&["topic", "list"]);
}

/// A server whose last words are kept; killed when the test ends.
struct Watched {
    child: Child,
    address: String,
}

impl Watched {
    fn start(data: &Path, url: &str) -> Self {
        let mut child = serve(data, url).spawn().unwrap();
        let mut ready = String::new();
        let mut stdout = BufReader::new(child.stdout.as_mut().unwrap());
        stdout.read_line(&mut ready).unwrap();
        let address = ready.split(' ').find_map(|word| word.strip_prefix("grpc="));
        let address = address.expect("a ready line").to_owned();
        Self { child, address }
    }

    fn done(&self, args: &[&str]) -> String {
        let mut command = siltstone(args);
        command.env("SILTSTONE_SERVER", &self.address);
        let (code, stdout, stderr) = run(command);
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        stdout
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_whose_archive_another_took_over_stops_by_itself_and_exits_1() {
    let (dir, bucket) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let url = format!("file://{}", bucket.path().display());
    let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let mut first = Watched::start(&data, &url);
    first.done(&["topic", "create", "flights", "--config", "tier.max.lag.ms=100"]);
    let write = |server: &Watched| {
        let mut command = siltstone(&["produce", "flights", "--input"]);
        std::fs::write(dir.path().join("lines"), "one\n").unwrap();
        command.arg(dir.path().join("lines"));
        command.env("SILTSTONE_SERVER", &server.address);
        run(command)
    };
    assert_eq!(write(&first).0, Some(0));
    first.done(&["tier", "status", "--wait-s", "600"]);
    assert!(
        Command::new("cp")
            .arg("-r")
            .args([&data, &copy])
            .status()
            .unwrap()
            .success()
    );
    let second = Watched::start(&copy, &url);
    assert_eq!(write(&second).0, Some(0));
    second.done(&["tier", "status", "--wait-s", "600"]);
    // Its next word in the archive is refused; it would notice without, too, within half a minute.
    write(&first);
    let status = first.child.wait().unwrap();
    let mut stderr = String::new();
    first
        .child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!(status.code(), Some(1), "{stderr}");
    let told: Vec<_> = stderr
        .lines()
        .filter(|line| line.starts_with("siltstone: "))
        .collect();
    assert_eq!(told.len(), 1, "{stderr}");
    assert!(
        told[0].contains("another server has taken this archive over"),
        "{stderr}"
    );
    assert_eq!(write(&second).0, Some(0), "the other goes on");
    second.done(&["tier", "status", "--wait-s", "600"]);
}
