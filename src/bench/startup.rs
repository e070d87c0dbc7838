//! How long the server takes to answer, and what it holds when idle: the binary itself, as a process of its own.
//!
//! Time counts from before the process is made to its ready line. The process may have 1,024 descriptors, as under
//! `ulimit -n 1024`. Files, maps and memory are read from `/proc`, so this measures on Linux.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::data_dir::{Content, fill};
use super::error::IoContext;
use super::limits::SyncedAppends;
use super::measure::{Limit, Measure, median, ms, number};
use super::payload::to_u64;
use super::target::temp_dir;
use super::{BenchError, Options, Scale};
use crate::env::{FileKind, Fs, RealFs};
use crate::storage::MANIFEST_FILE_NAME;

/// Descriptors that the process may have.
const DESCRIPTORS: u32 = 1024;
/// Mappings that Linux allows a process unless told otherwise.
const DEFAULT_MAPS: u32 = 65_530;
/// What the project promises, where the machine has no such limit.
const IDLE_MEMORY_TARGET_MB: f64 = 15.0;

/// About what a small file of a partition holds, in bytes.
const SMALL_FILE_BYTES: usize = 256;
/// So many syncs tell how long one takes.
const SYNCS: u32 = 200;

/// Measures starts on an empty directory, on many segments, and on many partitions without and with a batch, and stops right
/// after those were written.
///
/// # Errors
/// A process that does not start, or a directory that cannot be filled.
pub async fn startup(options: &Options) -> Result<Vec<Measure>, BenchError> {
    let scale = options.scale;
    let dir = temp_dir(options)?;
    let mut measures = empty(dir.path(), scale)?;
    for (name, content) in directories(scale) {
        measures.extend(restarted(&dir.path().join(name), content, name, scale).await?);
    }
    Ok(measures)
}

/// Returns what is started on, with its name.
fn directories(scale: Scale) -> [(&'static str, Content); 4] {
    // A partition with a batch is a directory of seven files: a hundred thousand take longer to make than all the rest.
    let (empty, written) = scale.pick((100_000, 10_000), (1000, 500));
    let of = |partitions, segments| Content { partitions, segments };
    [
        ("restart", of(scale.pick(1000, 100), 10)),
        ("many_segments", of(scale.pick(100, 10), scale.pick(1000, 100))),
        ("many_partitions", of(empty, 0)),
        ("many_written_partitions", of(written, 1)),
    ]
}

fn empty(dir: &Path, scale: Scale) -> Result<Vec<Measure>, BenchError> {
    let (mut ready, mut bare, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..scale.pick(21, 5) {
        bare.push(ms(version()?));
        let started = Started::on(&dir.join(format!("empty-{round}")))?;
        ready.push(ms(started.ready));
        memory.push(started.facts()?.memory_mb);
        started.stop()?;
    }
    let process = Limit {
        name: "process_start",
        value: median(bare),
    };
    let target = Limit {
        name: "target",
        value: IDLE_MEMORY_TARGET_MB,
    };
    Ok(vec![
        measure("startup.empty_ready", median(ready), "ms", process),
        measure("startup.idle_memory", median(memory), "MB", target),
    ])
}

/// Fills a directory, starts on it several times and describes the starts.
async fn restarted(
    dir: &Path,
    content: Content,
    name: &str,
    scale: Scale,
) -> Result<Vec<Measure>, BenchError> {
    let stopped = fill(dir, content).await?;
    let stop = stop(dir, content, &format!("startup.{name}_stop"), stopped)?;
    let (mut ready, mut walks) = (Vec::new(), Vec::new());
    let mut facts = Facts::default();
    for _ in 0..scale.pick(5, 2) {
        walks.push(ms(read_manifests(dir)?));
        let started = Started::on(dir)?;
        ready.push(ms(started.ready));
        facts = started.facts()?;
        started.stop()?;
    }
    let limit = |name, value| Limit { name, value };
    let of = |what: &str| format!("startup.{name}_{what}");
    let told = [
        measure(
            &of("ready"),
            median(ready),
            "ms",
            limit("read_directory", median(walks)),
        ),
        measure(
            &of("open_files"),
            facts.open_files,
            "files",
            limit("ulimit_n", f64::from(DESCRIPTORS)),
        ),
        measure(
            &of("maps"),
            facts.maps,
            "maps",
            limit("default_max_map_count", f64::from(DEFAULT_MAPS)),
        ),
        measure(
            &of("memory"),
            facts.memory_mb,
            "MB",
            limit("directory", number(size(dir)?) / 1e6),
        ),
    ];
    Ok(stop.into_iter().chain(told).collect())
}

/// Says how long it took to stop right after writing, beside one sync for each partition, one after the other; nothing where
/// nothing was written.
fn stop(dir: &Path, content: Content, name: &str, took: Duration) -> Result<Option<Measure>, BenchError> {
    if content.segments == 0 {
        return Ok(None);
    }
    let mut appends = SyncedAppends::new(dir.parent().unwrap_or(dir), SMALL_FILE_BYTES)?;
    appends.run(SYNCS)?;
    let each = Limit {
        name: "a_sync_for_each",
        value: appends.times.quantile_ms(0.5) * f64::from(content.partitions),
    };
    appends.remove()?;
    Ok(Some(measure(name, ms(took), "ms", each)))
}

fn measure(name: &str, value: f64, unit: &'static str, limit: Limit) -> Measure {
    Measure {
        name: name.to_owned(),
        value,
        unit,
        limit,
    }
}

/// Lists the directory and reads whole what a clean start must look at: the files on top and each manifest.
fn read_manifests(dir: &Path) -> Result<Duration, BenchError> {
    let began = Instant::now();
    for entry in RealFs::new().list(dir).context("list", dir)? {
        let path = dir.join(&entry.name);
        let path = match entry.kind {
            FileKind::Dir => path.join(MANIFEST_FILE_NAME),
            FileKind::File | FileKind::Other => path,
        };
        std::hint::black_box(std::fs::read(&path).context("read", &path)?);
    }
    Ok(began.elapsed())
}

/// Returns the bytes of all files in `dir` and below.
fn size(dir: &Path) -> Result<u64, BenchError> {
    let fs = RealFs::new();
    let mut total = 0;
    for entry in fs.list(dir).context("list", dir)? {
        let path = dir.join(&entry.name);
        total += match entry.kind {
            FileKind::Dir => size(&path)?,
            FileKind::File | FileKind::Other => fs.stat(&path).context("stat", &path)?.len_bytes,
        };
    }
    Ok(total)
}

/// Returns the time that the least of processes takes: the same binary, which says its version and ends.
fn version() -> Result<Duration, BenchError> {
    let binary = binary()?;
    let began = Instant::now();
    let output = Command::new(&binary)
        .arg("--version")
        .output()
        .context("run", &binary)?;
    let took = began.elapsed();
    if output.status.success() {
        Ok(took)
    } else {
        Err(failed("--version", format!("it ended with {}", output.status)))
    }
}

fn binary() -> Result<PathBuf, BenchError> {
    std::env::current_exe().context("find the binary of", "this process")
}

fn failed(command: &str, reason: String) -> BenchError {
    BenchError::Process {
        command: format!("siltstone {command}"),
        reason,
    }
}

/// A server process that answers. Dropped without [`Started::stop`], it is killed.
struct Started {
    child: Child,
    ready: Duration,
}

/// What a process holds.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    memory_mb: f64,
    open_files: f64,
    maps: f64,
}

impl Started {
    fn on(dir: &Path) -> Result<Self, BenchError> {
        let binary = binary()?;
        // A shell sets the limit and becomes the server, so the number of the process stays.
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("ulimit -n {DESCRIPTORS} && exec \"$0\" \"$@\"")])
            .arg(&binary)
            .args([
                "serve",
                "--grpc-listen",
                "127.0.0.1:0",
                "--http-listen",
                "127.0.0.1:0",
            ])
            .arg("--data-dir")
            .arg(dir)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let began = Instant::now();
        let mut child = command.spawn().context("run", &binary)?;
        let stdout = child.stdout.take().expect("it was asked for");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("read the output of", &binary)?;
        let started = Self {
            child,
            ready: began.elapsed(),
        };
        if line.starts_with("ready ") {
            Ok(started)
        } else {
            Err(failed(
                "serve",
                format!("it did not say that it is ready on {}", dir.display()),
            ))
        }
    }

    fn facts(&self) -> Result<Facts, BenchError> {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let text = |name: &str| {
            let path = proc.join(name);
            std::fs::read_to_string(&path).context("read", path)
        };
        let resident_kib = text("status")?
            .lines()
            .find_map(|line| {
                line.strip_prefix("VmRSS:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse()
                    .ok()
            })
            .ok_or_else(|| failed("serve", "its status names no resident memory".to_owned()))?;
        let descriptors = proc.join("fd");
        let open_files = std::fs::read_dir(&descriptors)
            .context("list", &descriptors)?
            .count();
        Ok(Facts {
            memory_mb: number(resident_kib) * 1024.0 / 1e6,
            open_files: number(to_u64(open_files)),
            maps: number(to_u64(text("maps")?.lines().count())),
        })
    }

    /// Asks the server to stop, and waits for it.
    fn stop(mut self) -> Result<(), BenchError> {
        let asked = Command::new("sh")
            .args(["-c", "kill -TERM \"$0\""])
            .arg(self.child.id().to_string())
            .status()
            .context("run", "sh")?;
        if !asked.success() {
            return Err(failed("serve", "it was gone before it was stopped".to_owned()));
        }
        let status = self.child.wait().context("wait for", "siltstone serve")?;
        if status.success() {
            Ok(())
        } else {
            Err(failed("serve", format!("it ended with {status}")))
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // After a stop there is nothing left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
