//! The HTTP door, asked in plain text.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use siltstone::proto::v1;

use crate::process::{run, siltstone};
use crate::support::{TestServer, everything, read_all, records, values};

/// The whole answer to a GET, head and body.
async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, path, "").await
}

/// The samples of a metric whose labels contain `labels`, added up; 0 where there is none.
pub(crate) async fn metric(server: &TestServer, name: &str, labels: &str) -> f64 {
    let answer = get(server.server.http_addr(), "/metrics").await;
    let samples = answer.lines().filter_map(|line| {
        let (named, value) = line.rsplit_once(' ')?;
        let (found, labelled) = named.split_once('{').unwrap_or((named, ""));
        (found == name && labelled.contains(labels)).then(|| value.parse::<f64>().unwrap())
    });
    samples.sum()
}

/// The whole answer to a GET with more header lines.
async fn ask(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_is_alive_and_not_ready_while_it_finishes_what_is_under_way() {
    // A deadline that no test outlives: a read under way holds the stop.
    let server = TestServer::start_with(&[("shutdown_timeout_ms", "600000")]).await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    for _ in 0..40 {
        let large = "x".repeat(500_000);
        log.produce(records("flights", 0, &[&large])).await.unwrap();
    }
    let mut read = log.read(everything("flights")).await.unwrap().into_inner();
    read.message().await.unwrap().unwrap();
    let http = server.server.http_addr();
    assert!(get(http, "/readyz").await.starts_with("HTTP/1.1 200 "));
    let stopping = tokio::spawn(server.server.stop());
    let unready = async {
        loop {
            let told = get(http, "/readyz").await;
            if !told.starts_with("HTTP/1.1 200 ") {
                break told;
            }
        }
    };
    let minute = std::time::Duration::from_secs(60);
    let told = tokio::time::timeout(minute, unready).await.expect("it says so");
    assert!(
        told.starts_with("HTTP/1.1 503 ") && told.contains("shutting down"),
        "{told}"
    );
    assert!(get(http, "/healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(get(http, "/metrics").await.starts_with("HTTP/1.1 200 "));
    while read.message().await.unwrap().is_some() {}
    drop((read, log));
    stopping.await.unwrap().unwrap();
}

/// Time is virtual: it goes on to the next deadline whenever everybody waits, the kernel aside.
#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_in_time_is_given_up() {
    let server = TestServer::start().await;
    let begun = tokio::time::Instant::now();
    let mut stream = TcpStream::connect(server.server.http_addr()).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: ")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert!(begun.elapsed() >= std::time::Duration::from_secs(10));
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_a_stop() {
    let server = TestServer::start().await;
    let idle = TcpStream::connect(server.server.http_addr()).await.unwrap();
    server.server.stop().await.unwrap();
    drop(idle);
}

/// A family as its `# HELP` and `# TYPE` lines and its samples tell it.
#[derive(Default)]
struct Family {
    kind: String,
    help: bool,
    samples: Vec<(String, String, f64)>,
}

/// Reads an exposition and fails at the first thing that is not as the format wants it.
fn strictly_parsed(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# ") {
            let mut words = described.splitn(3, ' ');
            let (word, name, rest) = (
                words.next().unwrap(),
                words.next().unwrap(),
                words.next().unwrap(),
            );
            if name != current {
                assert!(!families.contains_key(name), "{name} comes in two places");
                current = name.to_owned();
            }
            let family = families.entry(current.clone()).or_default();
            assert!(family.samples.is_empty(), "{line} stands behind samples");
            match word {
                "HELP" => assert!(!std::mem::replace(&mut family.help, true), "{line}"),
                "TYPE" => assert!(std::mem::replace(&mut family.kind, rest.to_owned()).is_empty()),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (named, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = match named.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
            None => (named, ""),
        };
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte))
        );
        let family = families.get_mut(&current).unwrap();
        let suffix = name
            .strip_prefix(current.as_str())
            .unwrap_or_else(|| panic!("{name} in {current}"));
        family
            .samples
            .push((suffix.to_owned(), labels.to_owned(), value.parse().unwrap()));
    }
    families
}

/// What holds of every family; `counter_suffix` is what a counter's samples add to its family's name.
fn check_families(families: &BTreeMap<String, Family>, counter_suffix: &str) {
    for (name, family) in families {
        assert!(family.help && name.starts_with("siltstone_"), "{name}");
        let suffixes: BTreeSet<_> = family
            .samples
            .iter()
            .map(|(suffix, ..)| suffix.as_str())
            .collect();
        match family.kind.as_str() {
            "counter" => assert_eq!(suffixes, [counter_suffix].into(), "{name}"),
            "gauge" => assert_eq!(suffixes, [""].into(), "{name}"),
            "histogram" => {
                assert_eq!(suffixes, ["_bucket", "_count", "_sum"].into(), "{name}");
                let mut last = (String::new(), 0.0);
                for (suffix, labels, value) in &family.samples {
                    let (of, bound) = labels.rsplit_once("le=").unwrap_or((labels, ""));
                    match suffix.as_str() {
                        "_bucket" => {
                            assert!(last.0 != of || *value >= last.1, "{name} falls at {bound}");
                            last = (of.to_owned(), *value);
                        }
                        _ => last = (String::new(), 0.0),
                    }
                }
            }
            other => panic!("{name} is a {other}"),
        }
    }
}

#[tokio::test]
async fn metrics_are_told_in_the_format_that_is_asked_for_and_each_is_sound() {
    let server = TestServer::start().await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    log.produce(records("flights", 0, &["x"])).await.unwrap();
    log.produce(records("nowhere", 0, &["x"])).await.unwrap_err();
    let http = server.server.http_addr();

    let answer = get(http, "/metrics").await;
    let (head, prometheus) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{head}"
    );
    let families = strictly_parsed(prometheus);
    check_families(&families, "");
    let counters = families.iter().filter(|(_, family)| family.kind == "counter");
    assert!(counters.clone().all(|(name, _)| name.ends_with("_total")));
    let (.., produced) = &families["siltstone_produce_records_total"].samples[0];
    assert_eq!(*produced, 1.0);
    let calls = &families["siltstone_door_call_seconds"].samples;
    let timed = |(suffix, labels, count): &(String, String, f64)| {
        suffix == "_count" && labels == "method=\"Produce\"" && *count == 2.0
    };
    assert!(calls.iter().any(timed), "{calls:?}");

    let answer = ask(
        http,
        "/metrics",
        "Accept: application/openmetrics-text; version=1.0.0,text/plain;q=0.5\r\n",
    )
    .await;
    let (head, open) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{head}"
    );
    let families = strictly_parsed(open.strip_suffix("# EOF\n").unwrap());
    check_families(&families, "_total");
    assert!(families.contains_key("siltstone_produce_records"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_pointed_at_the_http_door_is_told_where_the_grpc_address_stands() {
    let server = TestServer::start().await;
    let http = server.server.http_addr().to_string();
    for arguments in [
        &["topic", "list"][..],
        &["read", "t"],
        &["produce", "t", "--input", "/dev/null"],
    ] {
        let (code, _, stderr) = run(siltstone(&[arguments, &["--server", &http]].concat()));
        assert_eq!(code, Some(1), "{arguments:?}");
        assert_eq!(
            stderr,
            format!(
                "siltstone: {http} answers, but not as a Siltstone gRPC server; \
                 its gRPC address is in the ready line of 'siltstone serve'\n"
            ),
            "{arguments:?}"
        );
    }
}

#[tokio::test]
async fn after_real_traffic_the_metrics_tell_of_it() {
    let server = TestServer::start().await;
    let synced = v1::CreateTopicRequest {
        name: "flights".to_owned(),
        partitions: Some(2),
        ..v1::CreateTopicRequest::default()
    };
    server.admin().await.create_topic(synced).await.unwrap();
    let mut log = server.log().await;
    for partition in 0..2 {
        let sent = records("flights", partition, &["x", "y"]);
        log.produce(sent).await.unwrap();
    }
    assert_eq!(values(&read_all(&mut log, everything("flights")).await).len(), 4);
    log.produce(records("nowhere", 0, &["x"])).await.unwrap_err();
    log.read(everything("nowhere")).await.unwrap_err();
    let beyond = v1::ReadRequest {
        start: Some(v1::ReadStart {
            at: Some(v1::read_start::At::Offset(7)),
        }),
        ..everything("flights")
    };
    log.read(beyond).await.unwrap_err();
    for (name, labels, least) in [
        ("siltstone_produce_records_total", "", 4.0),
        ("siltstone_produce_bytes_total", "", 100.0),
        ("siltstone_produce_append_seconds_count", "", 2.0),
        ("siltstone_produce_ack_seconds_count", "", 2.0),
        ("siltstone_sync_rounds_total", "", 1.0),
        ("siltstone_sync_partitions_total", "", 2.0),
        ("siltstone_sync_round_seconds_count", "", 1.0),
        ("siltstone_fetch_bytes_total", "", 100.0),
        ("siltstone_fetch_seconds_count", "", 2.0),
        ("siltstone_door_call_seconds_count", "method=\"Produce\"", 3.0),
        (
            "siltstone_door_refused_requests_total",
            "reason=\"not_found\"",
            2.0,
        ),
        (
            "siltstone_door_refused_requests_total",
            "reason=\"out_of_range\"",
            1.0,
        ),
        ("siltstone_env_open_files", "", 1.0),
        ("siltstone_env_open_maps", "", 1.0),
        ("siltstone_disk_free_bytes", "", 1.0),
    ] {
        let value = metric(&server, name, labels).await;
        assert!(
            value >= least,
            "{name}{{{labels}}} is {value}, not {least} at least"
        );
    }
    // Sizes are counted every 10 s.
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(11)).await;
    tokio::time::resume();
    while metric(&server, "siltstone_log_bytes", "").await < 100.0 {
        tokio::task::yield_now().await;
    }
    assert!(metric(&server, "siltstone_log_segments", "").await >= 2.0);
}
