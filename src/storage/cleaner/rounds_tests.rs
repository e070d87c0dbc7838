//! Rounds of a pass, where the map does not hold every key: what stops, kills and deaths in between cost.

use expect_test::expect;

use super::super::{OffsetMap, Rounds};
use super::testing::Scene;
use crate::types::Timestamp;

const SCRIPT: &str = "a=1 b=1 a=2 c=1 roll b=2 c=~ d=1 a=3 roll e=1 d=2 b=~ f=1 roll";

/// Goes through a log in rounds of two keys, with a stop after each; returns the rounds it took.
fn rounds_with(stop: &str) -> (usize, String, i64) {
    let mut scene = Scene::new();
    scene.run(SCRIPT);
    for round in 1..20 {
        scene.map = OffsetMap::with_keys(2);
        let report = scene.clean().expect("cleaned");
        let is_done = report.rounds == Rounds::Done;
        scene.store.checkpoint_cleaner_points().expect("written");
        scene.run(stop);
        let point = scene.log.compaction(Timestamp(scene.now)).cleaner_point;
        assert_eq!(point, report.to, "{stop}: the next round goes on there");
        if is_done {
            // The times of tombstones begin anew with a start; what stays beside them is the same.
            scene.map = OffsetMap::with_keys(1000);
            scene.run("clean +100 clean");
            return (round, scene.picture(), scene.log.watermarks().log_end.0);
        }
    }
    panic!("{stop}: there is no end of rounds");
}

#[test]
fn rounds_go_on_where_the_last_one_ended_over_stops_and_kills() {
    let (rounds, picture, end) = rounds_with("");
    assert!(rounds > 2, "{rounds}");
    expect![[r#"
        0: 7 a=3 | 8 e=1 | 9 d=2 | 11 f=1
    "#]]
    .assert_eq(&picture);
    for stop in ["close", "restart"] {
        assert_eq!(rounds_with(stop), (rounds, picture.clone(), end), "{stop}");
    }
}

#[test]
fn a_kill_at_any_call_of_a_round_costs_that_round_and_no_more() {
    let lived = |calls: Option<u64>| {
        let mut scene = Scene::new();
        scene.run(SCRIPT);
        let round = |scene: &mut Scene| {
            scene.map = OffsetMap::with_keys(2);
            let report = scene.clean().ok()?;
            scene.store.checkpoint_cleaner_points().ok()?;
            Some(report)
        };
        let first = round(&mut scene).expect("nothing fails");
        let mut died = false;
        if let Some(calls) = calls {
            scene.fs.fail_after(calls);
            died = round(&mut scene).is_none();
            let disk = scene.fs.crash(crate::env::CrashChoice::Random(calls));
            scene.reopen(disk);
            let point = scene.log.compaction(Timestamp(scene.now)).cleaner_point;
            assert!(point >= first.to, "call {calls}: the first round counts");
        }
        for _ in 0..20 {
            if round(&mut scene).expect("nothing fails").rounds == Rounds::Done {
                break;
            }
        }
        scene.map = OffsetMap::with_keys(1000);
        scene.run("clean +100 clean");
        (scene.picture(), died)
    };
    let (undisturbed, _) = lived(None);
    for calls in 0..200 {
        let (picture, died) = lived(Some(calls));
        assert_eq!(picture, undisturbed, "call {calls}");
        if !died {
            assert!(calls > 10, "a round changes the disk in more calls than {calls}");
            return;
        }
    }
    panic!("a round has an end");
}
