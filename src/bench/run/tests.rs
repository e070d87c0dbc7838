//! Whole runs, small.

use std::future::pending;
use std::sync::Arc;

use super::*;
use crate::bench::LoadPlan;
use crate::client::{DeleteBefore, InternalTopics};
use crate::types::{Offset, PartitionId};

/// A load of a second at most.
fn workload(change: impl FnOnce(&mut LoadPlan)) -> WorkloadFile {
    let mut plan: LoadPlan = toml::from_str(
        r#"about = "a test"
duration_s = 1
topics = { count = 2, partitions = 3, durability = "written", settings = { "segment.bytes" = 1048576 } }
records = { value_bytes = { uniform = { least = 50, most = 900 } }, keys = { zipf = { count = 100 } }, compressible_percent = 50 }
producers = { count = 3, rate = { records_per_second = 3000 }, compression = "lz4" }
readers = { tailing = 2, catching_up = 2, by_time = 2 }
backlog = { mb = 1, span_s = 60 }"#,
    )
    .unwrap();
    change(&mut plan);
    plan.check().unwrap();
    WorkloadFile {
        name: "test".to_owned(),
        plan,
    }
}

async fn run_it(workload: &WorkloadFile) -> RunRecord {
    run(&Options::default(), workload, RunWords::default(), pending())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_of_everything_checks_every_record_and_tells_what_it_measured() {
    let record = run_it(&workload(|_| {})).await;
    let found = &record.verification;
    assert!(found.written_records > 3000, "{found:?}");
    assert_eq!(found.written_records, found.found_records);
    assert!(found.checked_records > 2 * found.found_records, "{found:?}");
    // An open loop sends what is due, however long it takes.
    let latency = record.latency("acknowledged").unwrap();
    assert_eq!(latency.count, 3000);
    assert!(latency.p50_ms > 0.0 && latency.p50_ms <= latency.p99_ms && latency.p99_ms <= latency.max_ms);
    let end_to_end = record.latency("end_to_end").unwrap();
    assert!(end_to_end.count > 300, "{end_to_end:?}");
    for name in ["acknowledged", "end_to_end", "catch_up", "by_time"] {
        assert!(record.series(name).is_some(), "{name}");
    }
    for name in [
        "produce.records",
        "tail.bytes",
        "catch_up.bytes",
        "by_time.reads",
        "last_read.bytes",
    ] {
        let figure = record.figures.iter().find(|figure| figure.name == name);
        assert!(
            figure.is_some_and(|figure| figure.value > 0.0),
            "{name}: {figure:?}"
        );
    }
    let durability = record
        .settings
        .iter()
        .find(|setting| setting.name == "durability")
        .unwrap();
    assert_eq!(
        (durability.value.as_str(), durability.source.as_str()),
        ("written", "topic")
    );
    assert!(
        record.limits.iter().all(|limit| limit.value > 0.0),
        "{:?}",
        record.limits
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_throttle_ends_with_its_bytes_and_the_same_seed_writes_the_same() {
    let workload = workload(|plan| {
        plan.producers.rate = crate::bench::Rate::OpenThrottle { most_mb: 3 };
        plan.readers = crate::bench::Readers {
            tailing: 1,
            ..Default::default()
        };
        plan.records.keys = crate::bench::RecordKeys::Uniform { count: 1000 };
        plan.duration_s = 60;
    });
    let (one, other) = (run_it(&workload).await, run_it(&workload).await);
    let written = one.verification.written_records;
    assert!((5_000..15_000).contains(&written), "{written}");
    assert_eq!(
        one.verification.written_records,
        other.verification.written_records
    );
    assert!(one.latency("acknowledged").unwrap().count > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_compacted_topic_the_newest_of_every_key_is_looked_for() {
    let record = run_it(&workload(|plan| {
        plan.topics.settings = [
            (
                "cleanup.policy",
                crate::bench::SettingValue::Text("compact".to_owned()),
            ),
            ("segment.bytes", crate::bench::SettingValue::Whole(1 << 20)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
    }))
    .await;
    let found = record.verification;
    assert_eq!(found.keys, Some(200), "{found:?}");
    assert!(found.found_records < found.written_records, "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_nobody_acknowledges_are_waited_for_and_checked_all_the_same() {
    let record = run_it(&workload(|plan| {
        plan.producers.acks = crate::bench::Acks::None;
        plan.records.keys = crate::bench::RecordKeys::None;
        plan.backlog = None;
    }))
    .await;
    assert_eq!(record.verification.found_records, 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_from_the_log_fails_the_run_with_its_place() {
    let workload = workload(|_| {});
    let target = Target::start(&Options::default()).await.unwrap();
    let stage = Stage::new(&target, &workload, GIVE_UP_AFTER);
    let (topic, written) = stage.written_backlog().await.unwrap();
    stage.check(&written).await.unwrap();
    let delete = DeleteBefore {
        partition: PartitionId(1),
        before: Some(Offset(2)),
    };
    target.client.delete_records(&topic, &[delete]).await.unwrap();
    let error = stage.check(&written).await.unwrap_err();
    let fault = match &error {
        BenchError::Verification { fault, .. } => fault,
        other => panic!("{other}"),
    };
    let is_there = matches!(
        fault,
        Fault::Missing {
            partition: PartitionId(1),
            offset: Offset(2),
            expected: 0,
            ..
        }
    );
    assert!(is_there, "{error}");
    target.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_against_a_server_that_runs_already_leaves_no_topic_there_also_when_it_is_interrupted() {
    let running = Target::start(&Options::default()).await.unwrap();
    let options = Options {
        server: Some(running.client.clone()),
        ..Options::default()
    };
    let workload = workload(|plan| plan.duration_s = 3600);
    let produced = || {
        running
            .own
            .as_ref()
            .unwrap()
            .broker()
            .metrics()
            .produce_batches
            .get()
    };
    let interrupted = async {
        while produced() < 100 {
            tokio::task::yield_now().await;
        }
    };
    let error = run(&options, &workload, RunWords::default(), interrupted)
        .await
        .unwrap_err();
    assert!(matches!(error, BenchError::Interrupted), "{error}");
    let topics = running
        .client
        .list_topics(InternalTopics::Excluded)
        .await
        .unwrap();
    assert!(topics.is_empty(), "{topics:?}");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_in_the_run_is_an_error_in_the_time_stated() {
    let running = Target::start(&Options::default()).await.unwrap();
    let client = running.client.clone();
    let server = Arc::new(parking_lot::Mutex::new(running.own));
    let options = Options {
        server: Some(client),
        ..Options::default()
    };
    // Nobody who opens a new read: that would notice at once.
    let workload = workload(|plan| {
        plan.duration_s = 3600;
        plan.readers = crate::bench::Readers {
            tailing: 1,
            ..Default::default()
        };
    });
    let batches = {
        let server = server.lock();
        server
            .as_ref()
            .unwrap()
            .broker()
            .metrics()
            .produce_batches
            .clone()
    };
    let dying = async {
        while batches.get() < 100 {
            tokio::task::yield_now().await;
        }
        let server = server.lock().take().unwrap();
        server.abort().await;
        pending::<()>().await;
    };
    let patience = Duration::from_millis(300);
    let outcome = tokio::time::timeout(
        Duration::from_secs(20),
        run_patiently(&options, &workload, (RunWords::default(), patience), dying),
    );
    let error = outcome.await.expect("it does not hang").unwrap_err();
    assert!(
        matches!(error, BenchError::Client(_) | BenchError::Stalled { .. }),
        "{error}"
    );
}
