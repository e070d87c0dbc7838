//! Batches whose base offset was changed on disk, in logs that are compacted.

use super::testing::{Found, Scene, compacted};
use crate::env::{CrashChoice, SimFs};
use crate::storage::testing::damage;
use crate::storage::{FirstBatch, MANIFEST_FILE_NAME, Read};
use crate::types::Offset;

const FIRST: &str = "t-0/00000000000000000000.log";

/// Writes another base offset over that of the batch at `offset` of the first segment, while nobody has the log open.
fn move_batch(scene: &Scene, offset: i64, claimed: i64) -> SimFs {
    let before = scene.batches().swap_remove(0).into_iter();
    let before = before.take_while(|batch| batch.header().base_offset < Offset(offset));
    let position: u64 = before.map(|batch| u64::from(batch.header().size_bytes)).sum();
    scene.store.close().expect("closed");
    let fs = scene.fs.crash(CrashChoice::KeepAll);
    damage(&fs, FIRST, position, &i64::to_be_bytes(claimed));
    fs
}

/// The records that a reader finds from `from` on, in one batch after the other; what it is told at the first damage.
fn read_from(scene: &Scene, from: i64) -> (Vec<Found>, Option<String>) {
    let until = scene.log.watermarks().log_end;
    let (mut from, mut found) = (Offset(from), Vec::new());
    while from < until {
        let read = Read {
            from,
            until,
            times: None,
            max_bytes: 1,
            first: FirstBatch::Whole,
        };
        let slice = match scene.log.read(&read) {
            Ok(slice) => slice,
            Err(error) => return (found, Some(error.to_string())),
        };
        found.extend(super::testing::records_in(slice.bytes));
        from = slice.next_offset;
    }
    (found, None)
}

fn offsets(found: &[Found]) -> Vec<i64> {
    found.iter().map(|(offset, ..)| *offset).collect()
}

#[test]
fn in_a_compacted_segment_a_batch_that_was_moved_past_the_one_behind_it_is_damage() {
    let mut scene = Scene::new();
    scene.run("a=1 b=1 c=1 d=1 e=1 f=1 roll a=2 c=2 roll clean");
    assert_eq!(
        scene.picture(),
        "0: 1 b=1 | 3 d=1 | 4 e=1 | 5 f=1 | 6 a=2 | 7 c=2\n"
    );
    let fs = move_batch(&scene, 3, 5);
    let unclean = fs.crash(CrashChoice::KeepAll);
    for name in [
        format!("t-0/{MANIFEST_FILE_NAME}"),
        ".kafka_cleanshutdown".to_owned(),
    ] {
        use crate::env::Fs as _;
        unclean
            .remove_file(&crate::storage::testing::path(&name))
            .expect("removed");
    }
    for fs in [fs, unclean] {
        let scene = Scene::on(fs, compacted(), 1000);
        let (before, told) = read_from(&scene, 0);
        assert_eq!(offsets(&before), [1]);
        let told = told.expect("damage");
        assert!(
            told.ends_with(
                "batch begins at offset 5, expected 2; offsets 2 to 3 are lost, reading can go on at 4"
            ),
            "{told}"
        );
        let (behind, told) = read_from(&scene, 4);
        assert_eq!((offsets(&behind), told), (vec![4, 5, 6, 7], None));
    }
}

#[test]
fn a_pass_takes_a_moved_batch_for_damage_and_keeps_what_lies_behind_it() {
    let mut scene = Scene::new();
    scene.run("a=1 a=2 b=1 c=1 roll d=1 b=2 roll");
    let mut scene = Scene::on(move_batch(&scene, 0, 3), compacted(), 1000);
    scene.run("clean");
    let (found, told) = read_from(&scene, 1);
    assert_eq!(told, None);
    let found: Vec<_> = found.iter().map(|(_, key, _)| key.as_str()).collect();
    assert!(found.contains(&"a") && found.contains(&"c"), "{found:?}");
    let (_, told) = read_from(&scene, 0);
    told.expect("the moved batch is damage");
}
