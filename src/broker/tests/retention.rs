//! Retention at the broker: when it looks, what it tells, and holds.

use super::*;
use crate::telemetry::Exposition;

/// Rolls a segment of 16 KiB about every 16 records.
fn large(index: usize) -> NewRecord {
    record(&format!("{index:01000}"))
}

async fn filled(house: &House, settings: &[(&str, &str)], records: usize) -> TopicName {
    let own = [("segment.bytes", "16384")];
    let settings: Vec<_> = own.iter().chain(settings).copied().collect();
    let topic = house.create("t", 1, &settings).await;
    for index in 0..records {
        house
            .append(&topic, 0, vec![large(index)])
            .await
            .expect("there is room");
    }
    // The looks that the rolls asked for are over; nothing was due.
    house.broker.core.retain_wanted();
    topic
}

fn described(house: &House, topic: &TopicName) -> PartitionDescription {
    let description = house.broker.describe_topic(topic).expect("known");
    description.partitions.into_iter().next().expect("it has one")
}

async fn limit(house: &House, topic: &TopicName, bytes: &str) {
    let change = ConfigChange {
        set: [("retention.bytes".to_owned(), bytes.to_owned())].into(),
        unset: Vec::new(),
    };
    house
        .broker
        .alter_topic(topic, change, Execution::Apply)
        .await
        .expect("valid");
}

fn offsets(range: std::ops::Range<i64>) -> TopicHold {
    TopicHold {
        name: "case 7".to_owned(),
        partition: Some(PartitionId(0)),
        range: HeldRange::Offsets(Offset(range.start)..Offset(range.end)),
    }
}

#[tokio::test]
async fn a_partition_that_rolled_is_looked_at_at_once() {
    let still = Stillness::begin();
    let house = start().await;
    let topic = house
        .create(
            "t",
            1,
            &[("segment.bytes", "16384"), ("retention.bytes", "20000")],
        )
        .await;
    for index in 0..60 {
        house
            .append(&topic, 0, vec![large(index)])
            .await
            .expect("there is room");
    }
    // Time goes on when everybody rests, and not as far as the look at all partitions, which comes after 30 seconds.
    drop(still);
    tokio::time::sleep(SWEEPS).await;
    assert!(described(&house, &topic).log_start > Offset(0));
}

#[tokio::test]
async fn the_preview_of_a_topic_is_what_the_look_does_and_the_metrics_tell() {
    let _still = Stillness::begin();
    let house = start().await;
    let topic = filled(&house, &[], 60).await;
    limit(&house, &topic, "20000").await;
    let preview = house
        .broker
        .preview_retention(&topic, &AskedPartitions::all())
        .expect("known")
        .remove(0);
    assert!(preview.plan.deletions.len() > 1);
    house.broker.core.retain_all();
    let after = described(&house, &topic);
    assert_eq!(
        (after.log_start, after.size_bytes),
        (preview.plan.log_start, preview.plan.kept_bytes)
    );
    let count = preview.plan.deletions.len();
    let line = format!("siltstone_retention_deleted_segments_total{{reason=\"size\"}} {count}\n");
    assert!(
        house.broker.metrics_text(Exposition::Prometheus).contains(&line),
        "{line}"
    );
}

#[tokio::test]
async fn a_look_that_fails_is_counted_and_the_next_one_succeeds() {
    let _still = Stillness::begin();
    let house = start().await;
    let topic = filled(&house, &[], 60).await;
    limit(&house, &topic, "20000").await;
    house.fs.inject(Fault {
        call: Call::Rename,
        path_contains: "log-start-offset-checkpoint".to_owned(),
        times: 1,
        failure: Failure::Kind(IoErrorKind::Other),
    });
    house.broker.core.retain_all();
    assert_eq!(described(&house, &topic).log_start, Offset(0));
    assert!(
        house
            .broker
            .metrics_text(Exposition::Prometheus)
            .contains("siltstone_retention_failures_total 1\n")
    );
    house.broker.core.retain_all();
    assert!(described(&house, &topic).log_start > Offset(0));
}

#[tokio::test]
async fn a_full_disk_is_emptied_by_retention_and_takes_writes_again() {
    let _still = Stillness::begin();
    let house = start().await;
    let topic = filled(&house, &[], 60).await;
    limit(&house, &topic, "20000").await;
    let size = 1 << 30;
    house.fs.set_capacity_bytes(size);
    let free = house.fs.free_bytes(Path::new("/")).expect("known");
    house.fs.set_capacity_bytes(size - free);
    house.broker.core.look_at_disk();
    let refused = house.append(&topic, 0, vec![record("x")]).await;
    assert!(matches!(refused, Err(Error::DiskFull { .. })), "{refused:?}");
    house.broker.core.retain_all();
    house.broker.core.look_at_disk();
    house
        .append(&topic, 0, vec![record("x")])
        .await
        .expect("there is room again");
}

#[tokio::test]
async fn deleted_records_leave_the_disk_at_once() {
    let still = Stillness::begin();
    let house = start().await;
    let topic = filled(&house, &[], 60).await;
    let before = described(&house, &topic).size_bytes;
    let everything = [(PartitionId(0), None)];
    house
        .broker
        .delete_records(&topic, &everything)
        .await
        .expect("allowed");
    // As above: less than the 30 seconds of the look at all.
    drop(still);
    tokio::time::sleep(SWEEPS).await;
    assert_eq!(described(&house, &topic).size_bytes, 0, "of {before} bytes");
    let house = house.crash().await;
    assert_eq!(described(&house, &topic).log_start, Offset(60));
}

#[tokio::test]
async fn what_is_held_survives_retention_deletion_and_a_crash_until_the_hold_is_removed() {
    let house = start().await;
    let topic = filled(&house, &[], 60).await;
    house
        .broker
        .add_hold(&topic, offsets(20..21))
        .await
        .expect("valid");
    house
        .broker
        .add_hold(&topic, offsets(20..21))
        .await
        .expect("the same again");
    let other = house.broker.add_hold(&topic, offsets(20..22)).await;
    assert!(matches!(other, Err(Error::PolicyViolation { .. })), "{other:?}");
    limit(&house, &topic, "0").await;
    let house = house.crash().await;

    let preview = house
        .broker
        .preview_retention(&topic, &AskedPartitions::all())
        .expect("known")
        .remove(0);
    assert_eq!(preview.hold.as_deref(), Some("case 7"));
    house.broker.core.retain_all();
    let start = described(&house, &topic).log_start;
    assert!(start > Offset(0) && start <= Offset(20), "{start}");
    let refusal = house
        .broker
        .delete_records(&topic, &[(PartitionId(0), Some(Offset(30)))])
        .await
        .expect_err("held");
    assert_eq!(
        refusal.to_string(),
        "records of t-0 before offset 30 are held by \"case 7\" (offsets 20 to 21); remove the hold first"
    );
    assert_eq!(refusal.kind(), ErrorKind::FailedPrecondition);
    let refusal = house.broker.delete_topic(&topic).await.expect_err("held");
    assert_eq!(
        refusal.to_string(),
        "topic t has hold \"case 7\" (offsets 20 to 21); remove its holds before you delete it"
    );

    assert_eq!(house.broker.holds(&topic).expect("known"), [offsets(20..21)]);
    house
        .broker
        .remove_hold(&topic, "case 7")
        .await
        .expect("it is there");
    let again = house.broker.remove_hold(&topic, "case 7").await;
    assert!(matches!(again, Err(Error::UnknownHold { .. })));
    house.broker.core.retain_all();
    assert_eq!(described(&house, &topic).log_start, Offset(60));
    house.broker.delete_topic(&topic).await.expect("nothing holds it");
}

#[tokio::test]
async fn a_deletion_that_one_partition_refuses_leaves_all_as_they_were() {
    let house = start().await;
    let topic = house.create("t", 2, &[]).await;
    for partition in [0, 1] {
        let records = (0..10).map(|number| record(&number.to_string())).collect();
        house.append(&topic, partition, records).await.expect("good");
    }
    let held = TopicHold {
        partition: Some(PartitionId(1)),
        ..offsets(3..4)
    };
    house.broker.add_hold(&topic, held).await.expect("valid");
    let both = [
        (PartitionId(0), Some(Offset(5))),
        (PartitionId(1), Some(Offset(5))),
    ];
    let refused = house.broker.delete_records(&topic, &both).await;
    assert!(
        matches!(refused, Err(Error::PolicyViolation { .. })),
        "{refused:?}"
    );
    let starts = async || {
        let described = house.broker.describe_topic(&topic).expect("known");
        let starts: Vec<_> = described.partitions.iter().map(|one| one.log_start.0).collect();
        starts
    };
    assert_eq!(starts().await, [0, 0]);
    house
        .broker
        .remove_hold(&topic, "case 7")
        .await
        .expect("it is there");
    house.broker.delete_records(&topic, &both).await.expect("allowed");
    assert_eq!(starts().await, [5, 5]);
}

#[tokio::test]
async fn a_hold_that_holds_nothing_or_names_nobody_is_refused() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    let refusal = async |hold: TopicHold| {
        house
            .broker
            .add_hold(&topic, hold)
            .await
            .expect_err("wrong")
            .kind()
    };
    assert_eq!(refusal(offsets(5..5)).await, ErrorKind::InvalidArgument);
    let nameless = TopicHold {
        name: String::new(),
        ..offsets(5..6)
    };
    assert_eq!(refusal(nameless).await, ErrorKind::InvalidArgument);
    let elsewhere = TopicHold {
        partition: Some(PartitionId(1)),
        ..offsets(5..6)
    };
    assert_eq!(refusal(elsewhere).await, ErrorKind::NotFound);
}
