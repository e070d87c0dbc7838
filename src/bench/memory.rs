//! Memory: what this process has of it, as `/proc` tells (Linux), and that of the machine, made ready for a measurement.

use std::path::Path;

use super::BenchError;
use super::error::IoContext;
use super::measure::number;

const STATUS: &str = "/proc/self/status";
const CLEAR_REFS: &str = "/proc/self/clear_refs";
const PAGE_BYTES: usize = 4096;

/// Has so much memory and gives it back, so that whoever is measured next gets memory that the host of a virtual machine has not
/// taken back: the first touch of such costs up to 0.6 ms for 2 MiB, whoever it is that touches it. More than is needed does not
/// help: what is free for 2 s the system offers to the host, which is work, too.
pub(super) fn touch(bytes: u64) {
    let len = usize::try_from(bytes).expect("what is measured fits into memory");
    let mut memory: Vec<u8> = Vec::with_capacity(len);
    for page in memory.spare_capacity_mut().chunks_mut(PAGE_BYTES) {
        page[0].write(1);
    }
    std::hint::black_box(&mut memory);
}

/// Returns the resident memory in MB, and lets the peak begin anew from there.
pub(super) fn resident_mb() -> Result<f64, BenchError> {
    // What the kernel takes for "forget the greatest resident size so far".
    std::fs::write(CLEAR_REFS, "5").context("write", CLEAR_REFS)?;
    field_mb("VmRSS:")
}

/// Returns the greatest resident memory since the last [`resident_mb`], in MB.
pub(super) fn peak_mb() -> Result<f64, BenchError> {
    field_mb("VmHWM:")
}

fn field_mb(name: &str) -> Result<f64, BenchError> {
    let text = std::fs::read_to_string(STATUS).context("read", Path::new(STATUS))?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok());
    let kib = kib.ok_or_else(|| BenchError::Process {
        command: STATUS.to_owned(),
        reason: format!("it has no {name}"),
    })?;
    Ok(number(kib) * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_seen_after_it_is_over() {
        let sees_it = |_| {
            let base = resident_mb().unwrap();
            let large = std::hint::black_box(vec![1_u8; 64 << 20]);
            drop(large);
            peak_mb().unwrap() - base > 50.0
        };
        // Beside it other tests of this process may give back as much: then it is seen another time.
        assert!((0..1_000).any(sees_it));
    }
}
