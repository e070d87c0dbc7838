//! That no sync of the sources is forgotten by the sweeps.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Ledger, World, disk, live};

/// The literals of all sync sites in the sources under `dir`, tests aside.
fn sites_in_sources(dir: &Path, sites: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("the sources are there") {
        let path = entry.expect("listed").path();
        let name = path.to_string_lossy();
        if path.is_dir() {
            sites_in_sources(&path, sites);
        } else if name.ends_with(".rs") && !name.ends_with("_tests.rs") {
            let text = std::fs::read_to_string(&path).expect("read");
            let literals = text.split("SyncSite(\"").skip(1);
            sites.extend(literals.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
}

#[test]
fn the_sweeps_come_to_every_sync_of_the_sources() {
    let mut world = World::new(disk(), Ledger::default());
    if let Err(stop) = live(&mut world) {
        panic!("{stop:?}");
    }
    let sites = world.fs.sync_sites();
    let mut swept: BTreeSet<String> = sites.iter().map(|site| site.0.to_owned()).collect();
    swept.extend(crate::storage::cleaner::SWEPT.map(str::to_owned));
    let mut written = BTreeSet::new();
    sites_in_sources(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/storage"),
        &mut written,
    );
    assert_eq!(written, swept);
}
