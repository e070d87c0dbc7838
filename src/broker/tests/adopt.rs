//! Adopting: a topic of its own for a foreign directory, and nothing at all for a bad one.

use super::*;

fn names(house: &House) -> Vec<String> {
    let topics = house.broker.list_topics();
    let user = topics.iter().filter(|topic| !topic.name.is_internal());
    user.map(|topic| format!("{}/{}", topic.name, topic.partitions))
        .collect()
}

async fn adopt(house: &House, directory: &str, topic: &TopicName, partition: i32) -> Result<Adopted, Error> {
    house
        .broker
        .adopt_partition(Path::new(directory), topic, PartitionId(partition))
        .await
}

#[tokio::test]
async fn an_unknown_topic_is_made_with_just_enough_partitions_and_survives_a_crash() {
    let house = start().await;
    let old = house.create("old", 1, &[]).await;
    for value in ["a", "b"] {
        house
            .append(&old, 0, vec![record(value)])
            .await
            .expect("a good disk");
    }
    let new = TopicName::new("new").expect("a good name");
    let adopted = adopt(&house, "/data/old-0", &new, 2)
        .await
        .expect("a sound directory");
    assert_eq!((adopted.records, adopted.log_end), (2, Offset(2)));
    house
        .append(&new, 2, vec![record("c")])
        .await
        .expect("it takes records");

    let house = house.crash().await;
    assert_eq!(names(&house), ["new/3", "old/1"]);
    let spec = read(&new, ReadStart::Earliest, ReadEnd::Now);
    assert_eq!(house.values(spec).await.expect("readable"), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_directory_that_cannot_be_adopted_leaves_no_topic_behind() {
    let house = start().await;
    let lost = TopicName::new("lost").expect("a good name");
    let refused = adopt(&house, "/data/nowhere", &lost, 0)
        .await
        .expect_err("nothing is there");
    assert!(refused.to_string().contains("/data/nowhere"), "{refused}");
    assert_eq!(names(&house), Vec::<String>::new());

    let house = house.crash().await;
    assert_eq!(names(&house), Vec::<String>::new());
    house.create("lost", 1, &[]).await;
    let refused = adopt(&house, "/data/nowhere", &lost, 1)
        .await
        .expect_err("it has one partition");
    assert_eq!(refused.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_adoption_that_fails_once_the_directory_has_its_name_leaves_neither_behind() {
    let _still = Stillness::begin();
    let house = start().await;
    let old = house.create("old", 1, &[]).await;
    house
        .append(&old, 0, vec![record("a")])
        .await
        .expect("a good disk");
    let new = TopicName::new("new").expect("a good name");
    for path_contains in ["new-2", "/data/recovery-point-offset-checkpoint"] {
        house.fs.inject(Fault {
            call: Call::Rename,
            path_contains: path_contains.to_owned(),
            times: 1,
            failure: Failure::Os(5),
        });
        adopt(&house, "/data/old-0", &new, 2)
            .await
            .expect_err("the disk fails");
        assert_eq!(names(&house), ["old/1"]);
        let left = house.fs.list(Path::new("/data")).expect("listed");
        let left = left.iter().filter(|entry| entry.name.starts_with("new"));
        assert_eq!(left.count(), 0, "failing at {path_contains}");
    }
    let adopted = adopt(&house, "/data/old-0", &new, 2).await.expect("a good disk");
    assert_eq!(adopted.records, 1);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_finds_no_room_is_told_from_one_that_is_wrong_and_leaves_nothing_behind() {
    let house = start().await;
    let old = house.create("old", 1, &[("durability", "written")]).await;
    house
        .append(&old, 0, vec![record("a")])
        .await
        .expect("a good disk");
    let new = TopicName::new("new").expect("a good name");
    house.fs.inject(Fault {
        call: Call::Write,
        path_contains: "new-0".to_owned(),
        times: 1,
        failure: Failure::Kind(IoErrorKind::StorageFull),
    });
    let full = adopt(&house, "/data/old-0", &new, 0).await.expect_err("no room");
    assert!(matches!(full, Error::DiskFull { .. }), "{full}");
    assert!(full.retry_after().is_some());
    let again = adopt(&house, "/data/old-0", &new, 0)
        .await
        .expect_err("still none");
    assert!(matches!(again, Error::DiskFull { .. }), "{again}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let wrong = adopt(&house, "/nowhere", &new, 0)
        .await
        .expect_err("no directory");
    assert!(matches!(wrong, Error::InvalidRequest { .. }), "{wrong}");
    assert_eq!(names(&house), ["old/1"]);
    adopt(&house, "/data/old-0", &new, 0)
        .await
        .expect("there is room");
}

#[tokio::test]
async fn nobody_waits_for_the_directory_that_is_being_verified() {
    let house = start().await;
    let old = house.create("old", 1, &[]).await;
    house
        .append(&old, 0, vec![record("a")])
        .await
        .expect("a good disk");
    let (release, held) = std::sync::mpsc::sync_channel::<()>(2);
    let (begun, mut beginning) = tokio::sync::mpsc::channel(2);
    let held = parking_lot::Mutex::new(held);
    house.fs.watch_syncs(move |site| {
        if site.0 == "adopted log, copied" {
            begun.try_send(()).expect("somebody waits");
            held.lock().recv().expect("told");
        }
    });
    let new = TopicName::new("new").expect("a good name");
    let adopting = {
        let (broker, new) = (house.broker.clone(), new.clone());
        tokio::spawn(async move {
            let from = Path::new("/data/old-0");
            broker.adopt_partition(from, &new, PartitionId(0)).await
        })
    };
    beginning.recv().await.expect("it reads the directory");
    let others = async {
        house.broker.init_producer().await.expect("a producer id");
        house.create("other", 1, &[]).await;
        house.create("new", 1, &[]).await
    };
    tokio::time::timeout(PATIENCE, others)
        .await
        .expect("they do not wait");
    release.send(()).expect("it waits");
    let refused = adopting.await.expect("no panic").expect_err("the name was taken");
    assert!(refused.to_string().contains("adopt it again"), "{refused}");
    release.send(()).expect("told at once");
    let adopted = adopt(&house, "/data/old-0", &new, 0).await.expect("it is empty");
    assert_eq!(adopted.records, 1);
}

/// Writes three records as producer `id`, its first.
async fn write_as(house: &House, topic: &TopicName, id: ProducerId, values: &[&str]) -> Appended {
    let append = house
        .broker
        .append_batch(topic, PartitionId(0), batch(id, 0, values), Acks::All);
    let pending = append.await.expect("its first batch");
    pending.wait().await.expect("a good disk")
}

#[tokio::test]
async fn producer_ids_of_an_adopted_log_are_nobody_elses() {
    for restart in [true, false] {
        let house = start().await;
        let old = house.create("old", 1, &[]).await;
        let (theirs, _) = house.broker.init_producer().await.expect("an id");
        write_as(&house, &old, theirs, &["a", "b", "c"]).await;
        house.broker.shutdown().await.expect("a good disk");
        let fs = house.fs;
        fs.rename(Path::new("/data"), Path::new("/foreign"))
            .expect("away");
        let mut house = start_on(fs).await.expect("a new store");
        let new = TopicName::new("new").expect("a good name");
        adopt(&house, "/foreign/old-0", &new, 0).await.expect("sound");
        if restart {
            house = house.crash().await;
        }
        let (ours, _) = house.broker.init_producer().await.expect("an id");
        assert!(ours > theirs, "{ours:?} after {theirs:?}");
        let appended = write_as(&house, &new, ours, &["d", "e", "f"]).await;
        assert_eq!(appended.novelty, Novelty::New);
        house = house.restart().await;
        let (next, _) = house.broker.init_producer().await.expect("an id");
        assert!(next > ours, "{next:?} after {ours:?}");
        let appended = write_as(&house, &new, next, &["g", "h", "i"]).await;
        assert_eq!(appended.novelty, Novelty::New);
        let spec = read(&new, ReadStart::Earliest, ReadEnd::Now);
        let values = house.values(spec).await.expect("readable");
        assert_eq!(values.concat(), "abcdefghi");
    }
}
