//! The memory of this process, as `/proc` tells it; Linux.

use std::path::Path;

use super::BenchError;
use super::error::IoContext;
use super::measure::number;

const STATUS: &str = "/proc/self/status";
const CLEAR_REFS: &str = "/proc/self/clear_refs";

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
