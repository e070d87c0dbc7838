//! The embedded broker in a process that it has for itself: what it leaves of threads and files, and many of it side by side. And the
//! example of it.
//!
//! A test that counts threads must not share its process with others. So each runs this very binary again, with one test that is
//! otherwise ignored.

use std::process::Command;

use siltstone::embedded::{Broker, record};

#[path = "../../examples/embedded_test.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod embedded_test;

/// Runs an ignored test of this file as a process of its own, with a temporary directory of its own; returns what is left in that.
fn alone(test: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("embedded::{test}"),
            "--ignored",
            "--test-threads=1",
        ])
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
    let left = std::fs::read_dir(dir.path()).unwrap();
    left.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

/// Threads of this process, by name.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    let mut names: Vec<String> = tasks.map(|task| name(task.unwrap())).collect();
    names.sort();
    names
}

/// Brokers over a directory and in memory.
async fn both() -> [Broker; 2] {
    [Broker::start().await.unwrap(), Broker::in_memory().await.unwrap()]
}

/// Has a broker do what takes it threads: appends, syncs, a pass of the cleaner, reads, a client.
async fn use_it(broker: &Broker) {
    let table = [("cleanup.policy", "compact"), ("durability", "synced")];
    broker.create_topic("table", 3, &table).await.unwrap();
    let records = (0..100).map(|n| record(format!("k{}", n % 7), format!("{n}")));
    broker.produce("table", records).await.unwrap();
    broker
        .advance(std::time::Duration::from_secs(86_400))
        .await
        .unwrap();
    assert!(!broker.read("table").await.unwrap().is_empty());
    let client = broker.client().await.unwrap();
    assert_eq!(client.describe_topic("table").await.unwrap().name, "table");
}

#[cfg(target_os = "linux")]
#[test]
fn a_dropped_broker_leaves_no_thread_and_no_file() {
    assert_eq!(alone("each_broker_takes_its_threads_with_it"), [""; 0]);
}

#[tokio::test]
#[ignore = "it wants the process for itself: a_dropped_broker_leaves_no_thread_and_no_file runs it"]
async fn each_broker_takes_its_threads_with_it() {
    let before = threads();
    for mut broker in both().await {
        use_it(&broker).await;
        assert!(threads().len() > before.len());
        broker.kill_and_restart().await.unwrap();
        drop(broker);
    }
    // A thread that has ended shows until the kernel has put it away.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while threads() != before && std::time::Instant::now() < end {
        std::thread::yield_now();
    }
    assert_eq!(threads(), before);
}

#[test]
fn a_hundred_brokers_live_in_one_process() {
    assert_eq!(alone("a_hundred_brokers_do_their_work_side_by_side"), [""; 0]);
}

#[tokio::test]
#[ignore = "it wants the process for itself: a_hundred_brokers_live_in_one_process runs it"]
async fn a_hundred_brokers_do_their_work_side_by_side() {
    let mut brokers = Vec::new();
    for _ in 0..50 {
        brokers.extend(both().await);
    }
    for (number, broker) in brokers.iter().enumerate() {
        broker.create_topic("orders", 1, &[]).await.unwrap();
        let own = record("number", number.to_string());
        broker.produce("orders", [own]).await.unwrap();
    }
    for (number, broker) in brokers.iter().enumerate() {
        let expected = format!("orders-0\n  0  \"number\" = \"{number}\"\n");
        assert_eq!(broker.dump("orders").await.unwrap(), expected);
    }
}

/// What this process holds in memory, in MiB.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .unwrap()
        / 1024
}

/// Returns by how many MiB this process grows while 64 of them are written to a broker.
async fn growth_mib(broker: &Broker) -> u64 {
    broker.create_topic("large", 1, &[]).await.unwrap();
    let value = bytes::Bytes::from(vec![7; 1 << 20]);
    let before = resident_mib();
    for _ in 0..64 {
        // A batch holds at most a megabyte, its header included.
        let parts = value.chunks(1 << 18).map(|part| value.slice_ref(part));
        let records = parts.map(|part| record("key", part));
        broker.produce("large", records).await.unwrap();
    }
    resident_mib().saturating_sub(before)
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_written_to_a_directory_does_not_stay_in_memory() {
    assert_eq!(alone("a_directory_takes_no_memory_and_memory_does"), [""; 0]);
}

#[tokio::test]
#[ignore = "it wants the process for itself: what_is_written_to_a_directory_does_not_stay_in_memory runs it"]
async fn a_directory_takes_no_memory_and_memory_does() {
    let [directory, memory] = both().await;
    let grown = growth_mib(&directory).await;
    assert!(grown < 24, "{grown} MiB");
    let grown = growth_mib(&memory).await;
    assert!(grown >= 64, "{grown} MiB: it would have been seen");
}

#[tokio::test]
async fn the_example_shows_what_it_says() {
    embedded_test::counts_are_kept_while_everything_goes_wrong()
        .await
        .unwrap();
}
