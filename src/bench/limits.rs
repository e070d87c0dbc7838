//! What the machine itself can do: memory, disk, sync.
//!
//! Files lie where the data of the run lies. What is not here: gRPC without a store (`sink`).

use std::hint::black_box;
use std::io::IoSlice;
use std::path::Path;
use std::time::Instant;

use super::BenchError;
use super::error::IoContext;
use super::measure::{Times, number, per_second};
use super::payload::to_u64;
use crate::env::{Fs, OpenMode, RealFs, SyncSite};

const SITE: SyncSite = SyncSite("benchmark");
/// Size of one copy and of one write, in bytes: larger than caches near a core, as batches passing through are.
const BLOCK_BYTES: usize = 4 << 20;

/// Returns how fast memory is copied, in MB/s of bytes copied.
pub(super) fn memory_copy(total_bytes: u64) -> f64 {
    let from = vec![7_u8; BLOCK_BYTES];
    let mut to = vec![0_u8; BLOCK_BYTES];
    let began = Instant::now();
    let rounds = (total_bytes / to_u64(BLOCK_BYTES)).max(1);
    for _ in 0..rounds {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    }
    per_second(number(rounds * to_u64(BLOCK_BYTES)) / 1e6, began.elapsed())
}

/// Returns how fast a new file in `dir` is written from one end to the other and synced at last, in MB/s.
pub(super) fn sequential_write(dir: &Path, total_bytes: u64) -> Result<f64, BenchError> {
    let path = dir.join("sequential-write");
    let fs = RealFs::new();
    let file = fs.open(&path, OpenMode::CreateNew).context("create", &path)?;
    let block = vec![7_u8; BLOCK_BYTES];
    let began = Instant::now();
    let mut position = 0;
    while position < total_bytes {
        file.write_all_at(&[IoSlice::new(&block)], position)
            .context("write", &path)?;
        position += to_u64(BLOCK_BYTES);
    }
    file.sync_data(SITE).context("sync", &path)?;
    let rate = per_second(number(position) / 1e6, began.elapsed());
    fs.remove_file(&path).context("remove", &path)?;
    Ok(rate)
}

/// A file that grows by equal parts, each synced.
#[derive(Debug)]
pub(super) struct SyncedAppends {
    file: std::sync::Arc<dyn crate::env::File>,
    path: std::path::PathBuf,
    part: Vec<u8>,
    end: u64,
    pub(super) times: Times,
}

impl SyncedAppends {
    pub(super) fn new(dir: &Path, part_bytes: usize) -> Result<Self, BenchError> {
        let path = dir.join("synced-appends");
        let file = RealFs::new()
            .open(&path, OpenMode::CreateNew)
            .context("create", &path)?;
        Ok(Self {
            file,
            path,
            part: vec![7; part_bytes],
            end: 0,
            times: Times::new(),
        })
    }

    /// Removes the file.
    pub(super) fn remove(self) -> Result<(), BenchError> {
        RealFs::new()
            .remove_file(&self.path)
            .context("remove", &self.path)
    }

    /// Appends and syncs `count` times.
    pub(super) fn run(&mut self, count: u32) -> Result<(), BenchError> {
        for _ in 0..count {
            let began = Instant::now();
            self.file
                .write_all_at(&[IoSlice::new(&self.part)], self.end)
                .context("write", &self.path)?;
            self.file.sync_data(SITE).context("sync", &self.path)?;
            self.times.add(began.elapsed());
            self.end += to_u64(self.part.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_measured_and_leave_nothing_large_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert!(memory_copy(1) > 0.0);
        assert!(sequential_write(dir.path(), 1).unwrap() > 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut appends = SyncedAppends::new(dir.path(), 10).unwrap();
        appends.run(3).unwrap();
        assert_eq!(std::fs::metadata(&appends.path).unwrap().len(), 30);
        assert!(appends.times.quantile_ms(0.5) > 0.0);
        appends.remove().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
