//! The process is killed at every call that changes the disk, the machine goes on, and the power goes in or after the next
//! start: what that start found in memory, it may not take for what is on the disk.

use super::{CrashChoice, Ledger, Stop, World, calls_of_a_life, check_after, disk, live, next_lives};
use crate::env::{SimFs, SyncSite};

/// Lives on `fs` until the process is killed at the `death`-th change of the disk. What it wrote is all there; what of it is
/// synced is not known to anybody.
fn killed_at(fs: SimFs, death: u64) -> Result<World, String> {
    fs.fail_after(death);
    let mut world = World::new(fs, Ledger::default());
    match live(&mut world) {
        Ok(()) => panic!("it did not die at {death}"),
        Err(Stop::Died) => {}
        Err(Stop::Violated(why)) => return Err(format!("before its death at {death}: {why}")),
    }
    world.kill();
    world.fs.revive();
    Ok(world)
}

fn start(world: &mut World, death: u64) -> Result<(), String> {
    match world.start() {
        Ok(()) | Err(Stop::Died) => Ok(()),
        Err(Stop::Violated(why)) => Err(format!("killed at {death}: {why}")),
    }
}

/// Kills at `death`, cuts the power at the `again`-th change of the start that follows, and looks.
fn killed_and_cut(fs: SimFs, death: u64, again: u64) -> Result<(), String> {
    let mut world = killed_at(fs, death)?;
    world.fs.fail_after(again);
    start(&mut world, death)?;
    let choice = CrashChoice::Random(death + again);
    next_lives(world.fs.crash(choice), &world.ledger, death)
        .map_err(|why| format!("killed at {death}, again at {again}, {choice:?}: {why}"))
}

/// The promise that starts alone break with one sync switched off, when two of them are killed and then the power goes.
pub(super) fn violation_without(site: SyncSite) -> Option<String> {
    let deaths = (0..8).flat_map(|first| (0..5).map(move |second| (first, second)));
    let tries = deaths.flat_map(|(first, second)| (0..100).map(move |seed| (first, second, seed)));
    tries.into_iter().find_map(|(first, second, seed)| {
        let fs = disk();
        fs.disable_sync(site);
        let mut world = World::new(fs, Ledger::default());
        for death in [None, None, Some(first), Some(second)] {
            if let Some(death) = death {
                world.fs.fail_after(death);
            }
            if let Err(why) = start(&mut world, seed) {
                return Some(why);
            }
            world.kill();
            world.fs.revive();
        }
        next_lives(world.fs.crash(CrashChoice::Random(seed)), &world.ledger, seed).err()
    })
}

/// The promise that a life and the start after its end break with one sync switched off, when the life is killed and the power
/// goes in that start.
pub(super) fn violation_in_the_next_start_without(site: SyncSite) -> Option<String> {
    let mut tries = (0..calls_of_a_life()).flat_map(|death| [1, 4, 9].map(|again| (death, again)));
    tries.find_map(|(death, again)| {
        let fs = disk();
        fs.disable_sync(site);
        killed_and_cut(fs, death, again).err()
    })
}

#[test]
fn a_power_cut_after_the_start_that_followed_a_kill_breaks_no_promise() {
    for death in 0..calls_of_a_life() {
        let mut world = killed_at(disk(), death).expect("no promise is broken");
        // What it finds is promised from now on.
        start(&mut world, death).expect("no promise is broken");
        for choice in [CrashChoice::LoseAll, CrashChoice::Random(death)] {
            check_after(&world, choice, death);
        }
    }
}

#[test]
fn a_power_cut_in_the_start_that_followed_a_kill_breaks_no_promise() {
    for death in (0..calls_of_a_life()).step_by(3) {
        for again in [1, 4, 9] {
            killed_and_cut(disk(), death, again).expect("no promise is broken");
        }
    }
}

#[test]
fn a_power_cut_after_a_checkpoint_of_the_life_that_followed_a_kill_breaks_no_promise() {
    for death in 0..calls_of_a_life() {
        let mut world = killed_at(disk(), death).expect("no promise is broken");
        start(&mut world, death).expect("no promise is broken");
        let logs: Vec<_> = world.open.keys().copied().collect();
        let mut live_on = || {
            logs.iter().try_for_each(|name| world.fill(name, 1))?;
            world.sync()?;
            world.checkpoint()
        };
        if let Err(stop) = live_on() {
            panic!("killed at {death}: {stop:?}");
        }
        check_after(&world, CrashChoice::LoseAll, death);
    }
}
