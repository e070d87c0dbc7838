//! Whoever reads while passes replace segments, and what becomes of the segments that they may still read.

use std::sync::Arc;

use expect_test::expect;

use super::gate::{CompactError, Pace, Step};
use super::testing::Scene;

#[test]
fn whoever_reads_during_swaps_finds_the_newest_of_each_key_or_a_newer_and_nothing_that_was_not_written() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut scene = Scene::new();
    scene.run("k=0 a=1 roll b=1 a=2 roll");
    let log = Arc::clone(&scene.log);
    let over = AtomicBool::new(false);
    // By offset.
    let model = parking_lot::Mutex::new(vec![("k", 0), ("a", 1), ("b", 1), ("a", 2)]);
    let newest = || {
        let written = model.lock();
        let newest = written.iter().enumerate().map(|(at, (key, _))| (*key, at));
        newest.collect::<std::collections::BTreeMap<_, _>>()
    };
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0_u64;
            while !over.load(Ordering::Acquire) || reads == 0 {
                let before = newest();
                let found = super::testing::records(&log)?;
                let written = model.lock().clone();
                let offsets: Vec<i64> = found.iter().map(|(offset, ..)| *offset).collect();
                let is_written = |(offset, key, value): &super::testing::Found| {
                    let at = usize::try_from(*offset).expect("not negative");
                    let (written_key, written_value) = written[at];
                    key == written_key && value.as_deref() == Some(written_value.to_string().as_str())
                };
                if !offsets.is_sorted_by(|one, next| one < next) || !found.iter().all(is_written) {
                    return Err(format!("found {found:?}"));
                }
                for (key, at) in before {
                    let last = found.iter().rfind(|(_, found, _)| found == key);
                    if last.is_none_or(|(offset, ..)| usize::try_from(*offset).is_ok_and(|found| found < at))
                    {
                        return Err(format!("{key} of offset {at} is missed: {found:?}"));
                    }
                }
                reads += 1;
            }
            Ok(())
        });
        for round in 0..60 {
            for key in ["a", "c", "d"] {
                let mut written = model.lock();
                written.push((key, round));
                // Under the lock: what the model tells of is there.
                scene.append(&format!("{key}={round}"));
                drop(written);
                if key == "c" {
                    scene.roll();
                }
            }
            scene.run("clean");
        }
        over.store(true, Ordering::Release);
        reader.join().expect("it ends").expect("every read is sound");
    });
}

#[test]
fn each_log_that_was_replaced_is_freed_by_itself_when_its_swap_is_over_and_a_stop_then_undoes_nothing() {
    let mut scene = Scene::new();
    scene.run("a=1 b=1 roll a=2 c=1 roll b=2 roll");
    let log = Arc::clone(&scene.log);
    let (mut freed, mut was_over) = (0, true);
    let stopped = scene.clean_within(&mut |step| {
        if step != Step::Freed {
            return Pace::Go;
        }
        freed += 1;
        was_over &= log.cleaner.look().unfinished.is_none() && log.names.try_lock().is_some();
        if freed < 2 { Pace::Go } else { Pace::Stop }
    });
    assert!(matches!(stopped, Err(CompactError::Stopped)), "{stopped:?}");
    assert_eq!((freed, was_over), (2, true));
    expect![[r#"
        0: 2 a=2 | 3 c=1 | 4 b=2
    "#]]
    .assert_eq(&scene.picture());
}
