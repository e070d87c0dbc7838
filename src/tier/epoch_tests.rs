//! Tests of `super`: who owns the bucket.

use std::sync::Arc;

use super::super::testing::{Fault, FaultyStore, Kind, NOW, bucket, memory};
use super::*;

fn claimant(number: u8, least_epoch: i32) -> Claimant {
    Claimant {
        cluster_id: "cluster-a".to_owned(),
        host: format!("host-{number}"),
        least_epoch: LeaderEpoch(least_epoch),
        writer: WriterId([number; 16]),
    }
}

#[tokio::test]
async fn the_server_that_started_last_owns_the_bucket_and_the_other_finds_out() {
    let store = bucket(memory());
    let mut first = Claims::read(store.clone()).await.expect("read");
    assert_eq!(first.owner(), None);
    let old = first.claim(&claimant(1, 4), NOW).await.expect("claimed");
    assert_eq!(old.epoch, LeaderEpoch(4), "its own directory had epoch 3");
    first.check(old).await.expect("it owns the bucket");
    let mut second = Claims::read(store.clone()).await.expect("read");
    let new = second.claim(&claimant(2, 1), NOW).await.expect("claimed");
    assert_eq!(new.epoch, LeaderEpoch(5), "greater than any before");
    let fenced = first.check(old).await.expect_err("another has claimed it");
    assert_eq!(
        fenced.to_string(),
        "test://bucket/epochs/00000000000000000001 was written by a server of epoch 5, we have epoch 4: \
         another server has taken this archive over"
    );
    second.check(new).await.expect("it owns the bucket");
    let visitor = Claims::read(store).await.expect("read");
    assert_eq!(visitor.owner().map(|owner| owner.host.as_str()), Some("host-2"));
}

#[tokio::test]
async fn the_bucket_of_another_cluster_is_refused() {
    let store = bucket(memory());
    let mut first = Claims::read(store.clone()).await.expect("read");
    first.claim(&claimant(1, 1), NOW).await.expect("claimed");
    let other = Claimant {
        cluster_id: "cluster-b".to_owned(),
        ..claimant(2, 1)
    };
    let mut second = Claims::read(store).await.expect("read");
    let refused = second
        .claim(&other, NOW)
        .await
        .expect_err("it belongs to cluster-a");
    assert_eq!(
        refused.to_string(),
        "test://bucket/epochs says that this archive belongs to cluster cluster-a, not to cluster-b"
    );
}

#[tokio::test(start_paused = true)]
async fn every_claim_is_alone_with_its_epoch_also_where_answers_are_lost() {
    let faulty = FaultyStore::over(memory());
    let store = bucket(Arc::new(faulty.clone()));
    let mut epochs = Vec::new();
    for number in 1..=70 {
        let mut claims = Claims::read(store.clone()).await.expect("read");
        if number % 3 == 0 {
            faulty.next(Kind::Put, "epochs", Fault::LoseAnswer);
        }
        epochs.push(
            claims
                .claim(&claimant(number, 0), NOW)
                .await
                .expect("claimed")
                .epoch
                .0,
        );
    }
    let expected: Vec<i32> = (0..70).collect();
    assert_eq!(epochs, expected);
}

#[tokio::test]
async fn claimants_who_race_all_come_through_with_epochs_of_their_own() {
    let store = bucket(memory());
    let mut readers = Vec::new();
    for number in 1..=8 {
        readers.push((
            Claims::read(store.clone()).await.expect("read"),
            claimant(number, 0),
        ));
    }
    let mut epochs = Vec::new();
    for (claims, claimant) in &mut readers {
        epochs.push(claims.claim(claimant, NOW).await.expect("claimed").epoch);
    }
    let mut distinct = epochs.clone();
    distinct.dedup();
    assert_eq!(distinct.len(), 8, "{epochs:?}");
}
