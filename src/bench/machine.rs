//! The machine that measures, as it tells of itself; Linux. What it does not tell is `unknown`.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What a figure depends on beside the software.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Threads that can run at once.
    pub cores: u64,
    /// What the processor calls itself.
    pub processor: String,
    /// All memory, in MB.
    pub memory_mb: u64,
    /// The kernel's version.
    pub kernel: String,
    /// The kind of file system that data lies on.
    pub file_system: String,
}

impl Machine {
    /// Asks the machine; `data` is where data lies.
    pub(super) fn of(data: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let known = |text: Option<&str>| text.map_or("unknown".to_owned(), |text| text.trim().to_owned());
        let kernel = text("/proc/sys/kernel/osrelease");
        Self {
            cores: std::thread::available_parallelism()
                .map_or(0, |cores| super::payload::to_u64(cores.get())),
            processor: known(processor(&text("/proc/cpuinfo"))),
            memory_mb: memory_kib(&text("/proc/meminfo")).unwrap_or(0) * 1024 / 1_000_000,
            kernel: known(Some(kernel.as_str()).filter(|kernel| !kernel.is_empty())),
            file_system: known(file_system(&text("/proc/self/mounts"), data)),
        }
    }
}

fn processor(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1)
}

fn memory_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The file system whose mount point is the longest beginning of `data`; of several mounted there, the last.
fn file_system<'a>(mounts: &'a str, data: &Path) -> Option<&'a str> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind) = (fields.next()?, fields.next()?);
        data.starts_with(at).then_some((at.len(), kind))
    });
    mounts.max_by_key(|(len, _)| *len).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_nearest_mount() {
        let mounts = "/dev/a / ext4 rw 0 0\nproc /proc proc rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n";
        let of = |path: &str| file_system(mounts, Path::new(path));
        assert_eq!(of("/tmp/bench"), Some("tmpfs"));
        assert_eq!(of("/tmpfoo"), Some("ext4"));
        assert_eq!(file_system("", Path::new("/tmp")), None);
    }

    #[test]
    fn processor_and_memory_are_read_from_what_the_kernel_prints() {
        assert_eq!(
            processor("processor\t: 0\nmodel name\t: Fast 3000\n").map(str::trim),
            Some("Fast 3000")
        );
        assert_eq!(
            memory_kib("MemTotal:       16000000 kB\nMemFree: 1 kB\n"),
            Some(16_000_000)
        );
        assert_eq!(memory_kib("MemFree: 1 kB\n"), None);
        assert!(Machine::of(Path::new("/")).cores > 0);
    }
}
