//! The process is killed at every call that changes the disk, the machine goes on, and the power goes in or after the next
//! start: what that start found in memory, it may not take for what is on the disk.

use super::{CrashChoice, Ledger, Stop, World, calls_of_a_life, check_after, disk, live};

/// Lives until the process is killed at the `death`-th change of the disk. What it wrote is all there; what of it is synced is
/// not known to anybody.
fn killed_at(death: u64) -> World {
    let fs = disk();
    fs.fail_after(death);
    let mut world = World::new(fs, Ledger::default());
    match live(&mut world) {
        Ok(()) => panic!("it did not die at {death}"),
        Err(Stop::Died) => {}
        Err(Stop::Violated(why)) => panic!("before its death at {death}: {why}"),
    }
    world.kill();
    world.fs.revive();
    world
}

fn start(world: &mut World, death: u64) {
    match world.start() {
        Ok(()) | Err(Stop::Died) => {}
        Err(Stop::Violated(why)) => panic!("killed at {death}: {why}"),
    }
}

#[test]
fn a_power_cut_after_the_start_that_followed_a_kill_breaks_no_promise() {
    for death in 0..calls_of_a_life() {
        let mut world = killed_at(death);
        // What it finds is promised from now on.
        start(&mut world, death);
        for choice in [CrashChoice::LoseAll, CrashChoice::Random(death)] {
            check_after(&world, choice, death);
        }
    }
}

#[test]
fn a_power_cut_in_the_start_that_followed_a_kill_breaks_no_promise() {
    for death in (0..calls_of_a_life()).step_by(3) {
        for again in [1, 4, 9] {
            let mut world = killed_at(death);
            world.fs.fail_after(again);
            start(&mut world, death);
            check_after(&world, CrashChoice::Random(death + again), death);
        }
    }
}
