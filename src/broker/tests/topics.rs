//! Topics: creating, changing, deleting; what a restart and a crash find.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::env::{OpenMode, SyncSite};

fn names(house: &House) -> Vec<String> {
    let topics = house.broker.list_topics();
    let user = topics.iter().filter(|topic| !topic.name.is_internal());
    user.map(|topic| format!("{}/{}", topic.name, topic.partitions))
        .collect()
}

#[tokio::test]
async fn topics_with_ids_settings_and_counts_survive_a_crash() {
    let house = start().await;
    let topic = house.create("b", 3, &[("retention.ms", "7")]).await;
    house.create("a", 1, &[]).await;
    house
        .broker
        .add_partitions(&topic, 5)
        .await
        .expect("more is allowed");
    let change = ConfigChange {
        set: [("segment.ms".to_owned(), "99".to_owned())].into(),
        unset: vec!["retention.ms".to_owned()],
    };
    let before = house
        .broker
        .alter_topic(&topic, change, Execution::Apply)
        .await
        .expect("valid");

    let house = house.crash().await;
    assert_eq!(names(&house), ["a/1", "b/5"]);
    let after = house.broker.describe_topic(&topic).expect("known");
    assert_eq!(after, before);
    let setting = |name: &str| {
        let entry = after
            .config
            .iter()
            .find(|entry| entry.name == name)
            .expect("listed");
        (entry.value.as_str(), entry.source)
    };
    assert_eq!(setting("segment.ms"), ("99", ConfigSource::Topic));
    assert_eq!(setting("retention.ms"), ("-1", ConfigSource::Default));
}

#[tokio::test]
async fn what_is_only_validated_is_not_done() {
    let house = start().await;
    let plan = house
        .broker
        .create_topic(new_topic("t", 3, &[]), Execution::ValidateOnly)
        .await
        .expect("valid");
    assert_eq!(plan.summary.partitions, 3);
    assert!(names(&house).is_empty());

    let topic = house.create("t", 1, &[]).await;
    let change = ConfigChange {
        set: [("flush.ms".to_owned(), "5".to_owned())].into(),
        unset: Vec::new(),
    };
    house
        .broker
        .alter_topic(&topic, change, Execution::ValidateOnly)
        .await
        .expect("valid");
    let entries = house.broker.describe_topic(&topic).expect("known").config;
    assert!(entries.iter().all(|entry| entry.source == ConfigSource::Default));
}

#[tokio::test]
async fn wrong_topics_are_refused_with_what_would_be_right() {
    let house = start().await;
    house.create("t", 2, &[]).await;
    let refusal = async |new: NewTopic| {
        house
            .broker
            .create_topic(new, Execution::Apply)
            .await
            .expect_err("must be refused")
            .to_string()
    };
    assert_eq!(refusal(new_topic("t", 1, &[])).await, "topic t already exists");
    assert_eq!(
        refusal(new_topic("a/b", 1, &[])).await,
        "topic name \"a/b\": a topic name has only a-z, A-Z, 0-9, '.', '_' and '-', not '/'"
    );
    assert_eq!(
        refusal(new_topic("__x", 1, &[])).await,
        "topic name __x: names that begin with two underscores belong to the store"
    );
    assert_eq!(
        refusal(new_topic("u", 0, &[])).await,
        "topic u: partitions must be 1 to 100000, got 0"
    );
    assert_eq!(
        refusal(new_topic("u", 100_000, &[])).await,
        "partitions of the server limit of 100000 is reached; retry with less at once"
    );
    assert_eq!(
        refusal(new_topic("u", 1, &[("segment.bytes", "7")])).await,
        "segment.bytes must be 16384 to 2147483647, got 7"
    );
    let topic = TopicName::new("t").expect("valid");
    let fewer = house.broker.add_partitions(&topic, 1).await.expect_err("fewer");
    assert_eq!(
        fewer.to_string(),
        "topic t has 2 partitions; there can only be more, not 1"
    );
}

#[tokio::test]
async fn a_deleted_topic_is_gone_with_its_data_and_its_name_makes_another_topic() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    let first = house.broker.describe_topic(&topic).expect("known").summary.id;
    house.append(&topic, 0, vec![record("old")]).await.expect("good");
    let mut follower = house
        .broker
        .open_read(read(&topic, ReadStart::Latest, ReadEnd::Follow))
        .await
        .expect("known");
    let following = tokio::spawn(async move { follower.next().await.map(|step| step.is_some()) });
    house.broker.delete_topic(&topic).await.expect("known");
    let ended = following.await.expect("no panic");
    assert!(matches!(ended, Err(Error::UnknownTopic { .. })), "{ended:?}");
    assert!(matches!(
        house.append(&topic, 0, vec![record("x")]).await,
        Err(Error::UnknownTopic { .. })
    ));

    house.create("t", 1, &[]).await;
    let house = house.crash().await;
    let second = house.broker.describe_topic(&topic).expect("known");
    assert_ne!(second.summary.id, first);
    assert_eq!(second.partitions[0].log_end, Offset(0));
}

#[tokio::test]
async fn a_deletion_that_failed_half_way_is_finished_by_the_next_start() {
    let house = start().await;
    let topic = house.create("t", 2, &[]).await;
    house.append(&topic, 1, vec![record("old")]).await.expect("good");
    for call in [Call::Remove, Call::Rename] {
        let (path_contains, failure) = ("t-1".to_owned(), Failure::Kind(IoErrorKind::Other));
        house.fs.inject(Fault {
            call,
            path_contains,
            times: 1,
            failure,
        });
    }
    house
        .broker
        .delete_topic(&topic)
        .await
        .expect_err("the disk failed");
    assert!(names(&house).is_empty(), "it is gone for everybody");

    let house = house.crash().await;
    assert!(names(&house).is_empty());
    house.create("t", 2, &[]).await;
    let description = house.broker.describe_topic(&topic).expect("known");
    assert!(
        description
            .partitions
            .iter()
            .all(|partition| partition.log_end == Offset(0))
    );
}

#[tokio::test]
async fn a_topic_whose_record_could_not_be_synced_is_not_there_later_either() {
    let house = start().await;
    house.fs.inject(Fault {
        call: Call::SyncData,
        path_contains: "__siltstone_topics-0".to_owned(),
        times: 1,
        failure: Failure::Kind(IoErrorKind::Other),
    });
    let failed = house
        .broker
        .create_topic(new_topic("t", 1, &[]), Execution::Apply)
        .await;
    failed.expect_err("the sync failed");
    let created = async {
        while house
            .broker
            .create_topic(new_topic("u", 1, &[]), Execution::Apply)
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, created)
        .await
        .expect("the metadata is repaired");
    let house = house.restart().await;
    assert_eq!(names(&house), ["u/1"]);
}

#[tokio::test]
async fn producer_ids_are_never_given_twice() {
    let mut house = start().await;
    let mut given = Vec::new();
    for _ in 0..3 {
        for _ in 0..3 {
            given.push(house.broker.init_producer().await.expect("good").0);
        }
        house = house.crash().await;
    }
    let mut unique = given.clone();
    unique.dedup();
    assert!(given.is_sorted() && unique.len() == given.len(), "{given:?}");
}

#[tokio::test]
async fn a_topic_comes_into_being_by_its_name_only_where_that_is_switched_on() {
    let house = start().await;
    let topic = TopicName::new("t").expect("valid");
    assert!(matches!(
        house.broker.ensure_topic(&topic).await,
        Err(Error::UnknownTopic { .. })
    ));
    house.broker.shutdown().await.expect("a good disk");

    let config = BrokerConfig {
        auto_create_topics: AutoCreate::On,
        num_partitions: 4,
        ..config()
    };
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let broker = Broker::start(
        config,
        World {
            fs: Arc::new(house.fs),
            clock,
        },
    )
    .await
    .expect("good");
    let (one, two) = tokio::join!(broker.ensure_topic(&topic), broker.ensure_topic(&topic));
    one.and(two).expect("both find it");
    assert_eq!(
        broker.describe_topic(&topic).expect("known").summary.partitions,
        4
    );
}

#[tokio::test]
async fn a_directory_that_is_not_this_stores_is_not_touched() {
    let fs = SimFs::new();
    for dir in ["/data", "/data/orders-0"] {
        fs.create_dir(Path::new(dir)).expect("a good disk");
    }
    let error = start_on(fs.clone())
        .await
        .map(|house| house.fs)
        .expect_err("whose is orders-0?");
    let text = error.to_string();
    assert!(
        text.starts_with("storage of /data failed: it holds 1 partition directories (orders-0) and no topic"),
        "{text}"
    );
    fs.stat(Path::new("/data/orders-0")).expect("still there");
}

/// Leaves a line in the recovery points of a store that is down, as of a partition whose directory somebody moved away. Whoever
/// makes that partition must first take the line out, which a disk may refuse.
fn leave_a_line(fs: &SimFs, line: &str) {
    let fs: &dyn Fs = fs;
    let file = fs
        .open(
            Path::new("/data/recovery-point-offset-checkpoint"),
            OpenMode::ReadWrite,
        )
        .expect("the file opens");
    let mut bytes = vec![0; usize::try_from(file.len_bytes().expect("known")).expect("small")];
    file.read_exact_at(&mut bytes, 0).expect("the file is read");
    let text = String::from_utf8(bytes).expect("text");
    let lines: Vec<&str> = text.lines().skip(2).chain([line]).collect();
    let text = format!("0\n{}\n{}\n", lines.len(), lines.join("\n"));
    file.write_all_at(&[std::io::IoSlice::new(text.as_bytes())], 0)
        .expect("written");
    file.sync_data(SyncSite("test")).expect("synced");
}

async fn restart_with_a_line(house: House, line: &str) -> House {
    house.broker.shutdown().await.expect("a good disk");
    leave_a_line(&house.fs, line);
    let house = start_on(house.fs).await.expect("a clean store starts");
    house.fs.inject(Fault {
        call: Call::Rename,
        path_contains: "/data/recovery-point-offset-checkpoint".to_owned(),
        times: 1,
        failure: Failure::Os(5),
    });
    house
}

#[tokio::test]
async fn a_topic_whose_partitions_cannot_be_opened_is_not_there_after_a_start_and_can_be_created_again() {
    let house = restart_with_a_line(start().await, "t 1 5").await;
    let failed = house
        .broker
        .create_topic(new_topic("t", 2, &[]), Execution::Apply)
        .await
        .expect_err("the disk fails");
    assert!(matches!(failed, Error::Storage { .. }), "{failed}");
    assert!(names(&house).is_empty());
    let house = house.crash().await;
    assert!(names(&house).is_empty(), "its entry was taken back");

    let house = restart_with_a_line(house, "t 1 5").await;
    for expected in ["the disk fails", "created"] {
        let tried = house
            .broker
            .create_topic(new_topic("t", 2, &[]), Execution::Apply)
            .await;
        assert_eq!(tried.is_ok(), expected == "created", "{tried:?}");
    }
    let topic = TopicName::new("t").expect("valid");
    house.append(&topic, 1, vec![record("a")]).await.expect("good");
    let house = house.crash().await;
    assert_eq!(names(&house), ["t/2"]);
    let spec = read(&topic, ReadStart::Earliest, ReadEnd::Now);
    assert_eq!(house.values(spec).await.expect("readable"), ["a"]);
}

/// The write after the next sync of a log finds no room in the topics' metadata.
fn fill_after_a_sync(fs: &SimFs) {
    let (disk, armed) = (fs.clone(), AtomicBool::new(true));
    fs.watch_syncs(move |site| {
        if site == SyncSite("log") && armed.swap(false, Ordering::Relaxed) {
            disk.inject(Fault {
                call: Call::Write,
                path_contains: "__siltstone_topics".to_owned(),
                times: 1,
                failure: Failure::Kind(std::io::ErrorKind::StorageFull),
            });
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_could_not_be_taken_back_is_so_within_a_minute_or_by_the_stop() {
    for end in ["a minute and a crash", "a stop"] {
        let house = restart_with_a_line(start().await, "t 1 5").await;
        fill_after_a_sync(&house.fs);
        house
            .broker
            .create_topic(new_topic("t", 2, &[]), Execution::Apply)
            .await
            .expect_err("the disk fails");
        assert!(names(&house).is_empty());
        let house = if end == "a stop" {
            house.restart().await
        } else {
            tokio::time::sleep(Duration::from_secs(61)).await;
            house.crash().await
        };
        assert!(names(&house).is_empty(), "{end}");
    }
}

#[tokio::test]
async fn a_change_of_topics_that_finds_no_room_refuses_produce_at_once() {
    for call in [Call::Write, Call::SyncData] {
        let house = start().await;
        let topic = house.create("t", 1, &[]).await;
        house.fs.set_capacity_bytes(2 << 20);
        house.fs.inject(Fault {
            call,
            path_contains: "__siltstone_topics".to_owned(),
            times: 1,
            failure: Failure::Kind(std::io::ErrorKind::StorageFull),
        });
        let full = house
            .broker
            .create_topic(new_topic("u", 1, &[]), Execution::Apply)
            .await
            .expect_err("no room");
        assert!(matches!(full, Error::DiskFull { .. }), "{call:?}: {full}");
        let refused = house.append(&topic, 0, vec![record("a")]).await;
        assert!(
            matches!(refused, Err(Error::DiskFull { .. })),
            "{call:?}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn partitions_that_cannot_be_opened_are_not_added_and_can_be_added_again() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    let house = restart_with_a_line(house, "t 1 5").await;
    house
        .broker
        .add_partitions(&topic, 2)
        .await
        .expect_err("the disk fails");
    assert_eq!(names(&house), ["t/1"]);
    let house = house.crash().await;
    assert_eq!(names(&house), ["t/1"], "the entry was taken back");
    house.broker.add_partitions(&topic, 2).await.expect("a good disk");
    assert_eq!(names(&house), ["t/2"]);
}

#[tokio::test]
async fn a_batch_that_no_request_could_carry_is_not_promised() {
    let house = start().await;
    let largest = (16 << 20) - 1024;
    let setting = |bytes: i32| ("max.message.bytes", bytes.to_string());
    let (name, beyond) = setting(largest + 1);
    let refused = house
        .broker
        .create_topic(new_topic("t", 1, &[(name, &beyond)]), Execution::ValidateOnly)
        .await
        .expect_err("it does not fit");
    let text = format!(
        "max.message.bytes must be 0 to {largest} on this server, which takes requests of 16777216 bytes, got {beyond}"
    );
    assert_eq!(refused.to_string(), text);
    let topic = house.create("t", 1, &[(name, &largest.to_string())]).await;
    let change = ConfigChange {
        set: BTreeMap::from([(name.to_owned(), beyond)]),
        unset: Vec::new(),
    };
    let refused = house.broker.alter_topic(&topic, change, Execution::Apply).await;
    assert_eq!(refused.expect_err("it does not fit").to_string(), text);
}

#[tokio::test]
async fn a_deleted_topic_makes_room_for_another_before_its_files_are_gone_and_they_go() {
    let house = start().await;
    let topic = house.create("t", 3, &[]).await;
    for partition in 0..3 {
        house
            .append(&topic, partition, vec![record("old")])
            .await
            .expect("good");
    }
    let queued = |house: &House| {
        let listed = house.fs.list(Path::new("/data")).expect("listed");
        let is_doomed = |name: &str| name.starts_with("t-") && name.ends_with("-delete");
        listed.iter().filter(|entry| is_doomed(&entry.name)).count()
    };
    house.fs.inject(Fault {
        call: Call::Remove,
        path_contains: "-delete".to_owned(),
        times: 2,
        failure: Failure::Os(5),
    });
    house.broker.delete_topic(&topic).await.expect("known");
    house.create("t", 3, &[]).await;
    house.append(&topic, 1, vec![record("new")]).await.expect("good");
    let one_is_removed = async {
        while queued(&house) > 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, one_is_removed)
        .await
        .expect("the background removes them");
    let house = house.restart().await;
    assert_eq!(queued(&house), 0, "what failed goes at the next start");
    let spec = read(&topic, ReadStart::Earliest, ReadEnd::Now);
    assert_eq!(house.values(spec).await.expect("readable"), ["new"]);
}
