//! The steps in which the file of a pass is synced.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{BUFFER, Output, OutputLimits, SITE, SYNC_STEP};
use crate::env::{Call, Failure, Fs, SimFs};
use crate::storage::cleaner::gate::{CompactError, Gate, Pace, Step};
use crate::storage::cleaner::pieces::len_32;
use crate::storage::maintenance::Maintenance;
use crate::storage::testing::fault;
use crate::types::{Offset, Timestamp};

/// Writes so many bytes, in parts of 100,000, and finishes the file.
fn write(fs: &SimFs, len: usize) -> Result<(), CompactError> {
    write_at(fs, len, Pace::Go)
}

fn write_at(fs: &SimFs, len: usize, pace: Pace) -> Result<(), CompactError> {
    let shared: Arc<dyn Fs> = Arc::new(fs.clone());
    let maintenance = Maintenance::default();
    let mut budget = |_: Step| pace;
    let mut lend = |_: &mut dyn FnMut()| Ok(Offset::ZERO);
    let mut gate = Gate::new(&mut budget, &maintenance, &mut lend);
    let mut output = Output::new(Offset(7), OutputLimits::of_a_segment(4096, Timestamp(0)));
    output.begin(&shared, Path::new("/"))?;
    let bytes = vec![7; 100_000];
    for part in (0..len).step_by(bytes.len()) {
        let part = bytes.len().min(len - part);
        output.write(&bytes[..part], &mut gate)?;
        output.add_gap(
            u32::try_from(part).expect("small"),
            Offset(0)..Offset(0),
            String::new(),
        );
    }
    output.finish(&mut gate)?;
    Ok(())
}

#[test]
fn a_file_is_synced_every_four_mebibytes_and_at_its_end() {
    for (len, expected) in [(1, 1), (SYNC_STEP, 1 + 1), (3 * SYNC_STEP + 5, 3)] {
        let fs = SimFs::new();
        let syncs = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&syncs);
        fs.watch_syncs(move |site| *counted.lock() += i32::from(site == SITE));
        write(&fs, len).expect("written");
        let found = *syncs.lock();
        assert!(
            (expected..=expected + 1).contains(&found),
            "{len} bytes: {found} syncs"
        );
    }
}

#[test]
fn beside_clients_a_file_is_synced_at_each_write() {
    let fs = SimFs::new();
    let syncs = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&syncs);
    fs.watch_syncs(move |site| *counted.lock() += usize::from(site == SITE));
    write_at(&fs, 3 * SYNC_STEP, Pace::Gently).expect("written");
    let least = 3 * SYNC_STEP / BUFFER;
    assert!(*syncs.lock() > least, "{} syncs", *syncs.lock());
}

#[test]
fn beside_clients_a_sync_that_fails_ends_the_file_before_more_is_written() {
    let fs = SimFs::new();
    fs.inject(fault(Call::SyncData, ".cleaned", 1, Failure::LosesDirtyPages));
    let failed = write_at(&fs, 3 * SYNC_STEP, Pace::Gently);
    assert!(matches!(failed, Err(CompactError::Storage(_))), "{failed:?}");
    let cleaned = fs.stat(Path::new("/00000000000000000007.log.cleaned"));
    let written = cleaned.expect("it is there").len_bytes;
    assert!(written <= len_32(BUFFER).into(), "{written} bytes are written");
}

#[test]
fn a_step_whose_sync_fails_ends_the_file_though_the_syncs_after_it_succeed() {
    for len in [SYNC_STEP + 2_000_000, 4 * SYNC_STEP] {
        let fs = SimFs::new();
        fs.inject(fault(Call::SyncData, ".cleaned", 1, Failure::LosesDirtyPages));
        let failed = write(&fs, len);
        assert!(
            matches!(failed, Err(CompactError::Storage(_))),
            "{len} bytes: {failed:?}"
        );
    }
}
