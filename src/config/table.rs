//! The settings of a server: every name, default, range and word, once.
//!
//! Names are snake case, end in their unit, and are grouped by a dot. Fewer than 40 (a test counts): a setting is a
//! question to the user, and has to be worth asking.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::{Config, DataLife, ServerLife, value};
use crate::broker::{Access, AutoCreate, Restore, TopicPatterns};

/// Where topic settings stand that a server gives as defaults.
pub(super) const TOPIC_DEFAULTS: &str = "topic_defaults.";
/// What every variable of the environment begins with.
pub const ENV_PREFIX: &str = "SILTSTONE_";

/// One setting.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its key in the file.
    pub key: &'static str,
    /// Its value when none is given, as text; empty where it is absent.
    pub default: &'static str,
    /// One line.
    pub doc: &'static str,
    kind: Kind,
}

/// What a setting may be, and where it goes.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Size(RangeInclusive<u64>, fn(&mut Config, u64)),
    Number(RangeInclusive<u64>, fn(&mut Config, u64)),
    Switch(fn(&mut Config, bool)),
    Address(fn(&mut Config, String)),
    Text(fn(&mut Config, String)),
    /// Text that not any text will do for; the function says what would.
    Checked(fn(&mut Config, &str) -> Result<(), String>),
    /// A path that must be given.
    Path(fn(&mut Config, PathBuf)),
    /// A path that may be absent.
    File(fn(&mut Config, Option<PathBuf>)),
}

impl Setting {
    /// Returns its variable in the environment.
    pub fn variable(&self) -> String {
        format!("{ENV_PREFIX}{}", self.key.replace('.', "_").to_ascii_uppercase())
    }

    /// Returns its range in words, where it has one.
    pub fn range(&self) -> Option<String> {
        match &self.kind {
            Kind::Size(range, _) => Some(format!(
                "{} to {}",
                value::size_text(*range.start()),
                value::size_text(*range.end())
            )),
            Kind::Number(range, _) => Some(format!("{} to {}", range.start(), range.end())),
            Kind::Switch(_)
            | Kind::Address(_)
            | Kind::Text(_)
            | Kind::Checked(_)
            | Kind::Path(_)
            | Kind::File(_) => None,
        }
    }

    /// True when the file writes the value without quotes.
    pub(super) fn is_bare(&self) -> bool {
        matches!(self.kind, Kind::Number(..) | Kind::Switch(_))
    }

    /// Gives the setting the value that `text` says.
    ///
    /// # Errors
    /// What would be taken, in words.
    pub(super) fn apply(&self, config: &mut Config, text: &str) -> Result<(), String> {
        match &self.kind {
            Kind::Size(range, set) => set(config, value::size(text, range)?),
            Kind::Number(range, set) => set(config, value::number(text, range)?),
            Kind::Switch(set) => set(config, value::switch(text)?),
            Kind::Address(set) => set(config, value::address(text)?),
            Kind::Text(set) => set(config, text.to_owned()),
            Kind::Checked(set) => set(config, text)?,
            Kind::Path(_) if text.is_empty() => return Err("a path".to_owned()),
            Kind::Path(set) => set(config, PathBuf::from(text)),
            Kind::File(set) => set(config, (!text.is_empty()).then(|| PathBuf::from(text))),
        }
        Ok(())
    }
}

/// Every setting, the file's order.
pub const SETTINGS: [Setting; 32] = [
    Setting {
        key: "data_dir",
        default: "./siltstone-data",
        doc: "Directory of the data; created when it does not exist.",
        kind: Kind::Path(|config, path| config.broker.data_dir = path),
    },
    Setting {
        key: "ephemeral",
        default: "false",
        doc: "Delete the data at exit. Without data_dir it lies in a new temporary directory; a given data_dir must be empty.",
        kind: Kind::Switch(|config, on| {
            config.data_life = if on { DataLife::Ephemeral } else { DataLife::Kept }
        }),
    },
    Setting {
        key: "exit_with_parent",
        default: "false",
        doc: "Stop when standard input closes, as it does when the program that started the server ends.",
        kind: Kind::Switch(|config, on| {
            config.server_life = if on { ServerLife::OfParent } else { ServerLife::Own }
        }),
    },
    Setting {
        key: "shutdown_timeout_ms",
        default: "10000",
        doc: "How long a stopping server waits for requests under way.",
        kind: Kind::Number(0..=600_000, |config, ms| {
            config.shutdown_timeout = Duration::from_millis(ms)
        }),
    },
    Setting {
        key: "worker_threads",
        default: "0",
        doc: "Threads that serve the network; 0 means one per core.",
        kind: Kind::Number(0..=1024, |config, count| config.worker_threads = as_usize(count)),
    },
    Setting {
        key: "log",
        default: "info",
        doc: "What is logged to stderr: a level, or levels by module such as info,siltstone::storage=debug.",
        kind: Kind::Text(|config, filter| config.log = filter),
    },
    Setting {
        key: "grpc.listen",
        default: "127.0.0.1:9095",
        doc: "Address of the gRPC door; port 0 picks a free one.",
        kind: Kind::Address(|config, address| config.grpc.listen = address),
    },
    Setting {
        key: "grpc.max_request_bytes",
        default: "16MiB",
        doc: "Greatest request; a topic's max.message.bytes must fit with a little room.",
        kind: Kind::Size(64 << 10..=1 << 30, |config, bytes| {
            config.grpc.max_request_bytes = as_usize(bytes);
            config.broker.max_request_bytes = as_usize(bytes);
        }),
    },
    Setting {
        key: "grpc.max_buffered_bytes",
        default: "256MiB",
        doc: "Bytes of requests coming in at once, over all clients; beyond it one is refused, retriably. As many of answers to reads.",
        kind: Kind::Size(1 << 20..=1 << 40, |config, bytes| {
            config.grpc.max_buffered_bytes = as_usize(bytes);
        }),
    },
    Setting {
        key: "grpc.max_connections",
        default: "256",
        doc: "Connections at once; further ones are closed. Each takes a file descriptor and may send 4 MiB ahead of its calls.",
        kind: Kind::Number(1..=65_536, |config, count| {
            config.grpc.max_connections = as_usize(count)
        }),
    },
    Setting {
        key: "grpc.max_streams_per_connection",
        default: "256",
        doc: "Calls at once on one connection; further ones wait in the client. Each read may hold 128 KiB beyond max_buffered_bytes, and 120 bytes for each of its partitions, 1,048,576 over all clients.",
        kind: Kind::Number(1..=65_536, |config, count| {
            config.grpc.max_streams_per_connection = u32::try_from(count).expect("the range fits");
        }),
    },
    Setting {
        key: "grpc.tls_certificate",
        default: "",
        doc: "The server's certificate and its chain, PEM. With grpc.tls_key it turns TLS on.",
        kind: Kind::File(|config, path| config.grpc.tls_certificate = path),
    },
    Setting {
        key: "grpc.tls_key",
        default: "",
        doc: "The private key of the certificate, PEM.",
        kind: Kind::File(|config, path| config.grpc.tls_key = path),
    },
    Setting {
        key: "grpc.tls_client_ca",
        default: "",
        doc: "With it, clients must show a certificate of this authority, PEM (mutual TLS).",
        kind: Kind::File(|config, path| config.grpc.tls_client_ca = path),
    },
    Setting {
        key: "http.listen",
        default: "127.0.0.1:9644",
        doc: "Address of the HTTP door: /healthz, /readyz, /metrics.",
        kind: Kind::Address(|config, address| config.http.listen = address),
    },
    Setting {
        key: "storage.min_free_bytes",
        default: "256MiB",
        doc: "Produce is refused, retriably, while the disk has less free: recovery and a clean stop need a little room.",
        kind: Kind::Size(0..=1 << 50, |config, bytes| config.broker.min_free_bytes = bytes),
    },
    Setting {
        key: "storage.max_open_files",
        default: "512",
        doc: "Log and index files open at once, of any number of segments.",
        kind: Kind::Number(16..=1_000_000, |config, count| {
            config.broker.max_open_files = as_usize(count)
        }),
    },
    Setting {
        key: "storage.max_maps",
        default: "40000",
        doc: "Memory mappings at once; Linux allows a process 65530 by default.",
        kind: Kind::Number(16..=10_000_000, |config, count| {
            config.broker.max_maps = as_usize(count)
        }),
    },
    Setting {
        key: "storage.recovery_threads",
        default: "0",
        doc: "Threads that recover partitions after an unclean stop; 0 means one per core.",
        kind: Kind::Number(0..=1024, |config, count| {
            config.broker.recovery_threads = as_usize(count)
        }),
    },
    Setting {
        key: "storage.max_decompressed_bytes",
        default: "64MiB",
        doc: "Greatest decompressed size of one batch; larger ones are refused.",
        kind: Kind::Size(1 << 20..=1 << 30, |config, bytes| {
            config.broker.max_decompressed_bytes = u32::try_from(bytes).expect("the range fits");
        }),
    },
    Setting {
        key: "produce.max_inflight_bytes",
        default: "256MiB",
        doc: "Bytes of produce requests that may be under way at once, over all clients.",
        kind: Kind::Size(1 << 20..=1 << 40, |config, bytes| {
            config.broker.max_inflight_produce_bytes = bytes;
        }),
    },
    Setting {
        key: "cleaner.threads",
        default: "1",
        doc: "Threads that clean compacted topics, each one partition at a time.",
        kind: Kind::Number(1..=64, |config, count| {
            config.broker.cleaner.threads = as_usize(count)
        }),
    },
    Setting {
        key: "cleaner.dedupe_buffer_bytes",
        default: "128MiB",
        doc: "Memory for the keys of passes, of all threads together, at most 24 bytes a key; taken only while one runs.",
        kind: Kind::Size(1 << 20..=1 << 40, |config, bytes| {
            config.broker.cleaner.dedupe_buffer_bytes = as_usize(bytes);
        }),
    },
    Setting {
        key: "cleaner.io_max_bytes_per_second",
        default: "0",
        doc: "Bytes that all passes read and write in a second; 0 means no limit. Passes yield to clients in any case.",
        kind: Kind::Size(0..=1 << 40, |config, bytes| {
            config.broker.cleaner.io_max_bytes_per_second = bytes;
        }),
    },
    Setting {
        key: "cleaner.backoff_ms",
        default: "15000",
        doc: "How long a cleaner thread without work waits before it looks for some.",
        kind: Kind::Number(100..=600_000, |config, ms| {
            config.broker.cleaner.backoff = Duration::from_millis(ms);
        }),
    },
    Setting {
        key: "topics.auto_create",
        default: "false",
        doc: "Create a topic when it is first written to.",
        kind: Kind::Switch(|config, on| {
            config.broker.auto_create_topics = if on { AutoCreate::On } else { AutoCreate::Off };
        }),
    },
    Setting {
        key: "topics.num_partitions",
        default: "1",
        doc: "Partitions of a topic created without a number.",
        kind: Kind::Number(1..=10_000, |config, count| {
            config.broker.num_partitions = i32::try_from(count).expect("the range fits");
        }),
    },
    Setting {
        key: "tier.url",
        default: "",
        doc: "Address of the archive: s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder; none when empty. Credentials are found as each cloud's own tools find them.",
        kind: Kind::Text(|config, url| config.broker.archive.url = Some(url).filter(|url| !url.is_empty())),
    },
    Setting {
        key: "tier.topics",
        default: "*",
        doc: "Topics that go to the archive unless they say otherwise by remote.storage.enable: names joined by commas, * for any characters.",
        kind: Kind::Checked(|config, text| {
            config.broker.archive.topics = TopicPatterns::parse(text)?;
            Ok(())
        }),
    },
    Setting {
        key: "tier.restore",
        default: "off",
        doc: "Fill an empty data_dir from the archive before serving: off; cold, where compacted topics come to the local disk and the rest is read from the archive; download, where everything comes.",
        kind: Kind::Checked(|config, text| {
            config.broker.archive.restore = match text {
                "off" => Restore::Off,
                "cold" => Restore::Cold,
                "download" => Restore::Download,
                _ => return Err("off, cold or download".to_owned()),
            };
            Ok(())
        }),
    },
    Setting {
        key: "tier.read_only",
        default: "false",
        doc: "Show another server's archive: everything is read from there, nothing is written to it, and what comes there is seen within seconds. data_dir is made anew at each start.",
        kind: Kind::Switch(|config, on| {
            config.broker.archive.access = if on { Access::Read } else { Access::Own }
        }),
    },
    Setting {
        key: "tier.upload_max_bytes_per_second",
        default: "0",
        doc: "Bytes that all uploads send in a second; 0 means no limit.",
        kind: Kind::Size(0..=1 << 40, |config, bytes| {
            config.broker.archive.upload_max_bytes_per_second = bytes;
        }),
    },
];

fn as_usize(count: u64) -> usize {
    usize::try_from(count).expect("the range fits a machine of 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_in_its_range_and_every_setting_says_something() {
        let mut config = Config::default();
        for setting in &SETTINGS {
            setting.apply(&mut config, setting.default).unwrap();
            assert!(setting.doc.ends_with('.'), "{}", setting.key);
        }
        assert!(SETTINGS.len() < 40, "a setting has to be worth asking");
    }

    #[test]
    fn names_are_snake_case_and_distinct_in_the_environment_too() {
        let mut variables: Vec<_> = SETTINGS.iter().map(Setting::variable).collect();
        for setting in &SETTINGS {
            let fits = |c: char| c.is_ascii_lowercase() || c == '_' || c == '.';
            assert!(setting.key.chars().all(fits), "{}", setting.key);
        }
        variables.sort();
        variables.dedup();
        assert_eq!(variables.len(), SETTINGS.len());
    }
}
