//! The server's configuration: where each value comes from, and what it may be.
//!
//! A setting has one name, in three spellings: the key `grpc.listen` in the file, the environment variable
//! `SILTSTONE_GRPC_LISTEN`, and the flag `--set grpc.listen=...` (some have a flag of their own). When several are given,
//! the flag wins over the environment, the environment over the file, the file over the default.
//!
//! Invariants
//! - [`table::SETTINGS`] is the only list: names, defaults, ranges, words, the example file and [`Config`]'s default all
//!   come from it.
//! - A key that is not in it is refused, with the nearest that is. A variable of the environment is only warned about:
//!   orchestrators set variables of their own under a service's name.
//! - Topic settings under `topic_defaults` keep Kafka's names and are judged by the broker's table of them, here already, where
//!   it is known in which place a wrong one was given.
//!
//! What is not here: how anything runs; and the settings of one topic, which live with the topic.

mod example;
mod load;
mod table;
mod value;

pub use example::example;
pub use load::{CONFIG_VARIABLE, ConfigError, Loaded, Origin, Sources, load, reads_variable};
pub use table::{ENV_PREFIX, SETTINGS, Setting};

use std::time::Duration;

use crate::broker::{ArchiveConfig, AutoCreate, BrokerConfig, CleanerConfig};
use crate::grpc::GrpcConfig;
use crate::http::HttpConfig;

/// Everything a server can be told about itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// The broker's part.
    pub broker: BrokerConfig,
    /// The gRPC door's part.
    pub grpc: GrpcConfig,
    /// The HTTP door's part.
    pub http: HttpConfig,
    /// Whether the data outlives the server.
    pub data_life: DataLife,
    /// What ends the server, beside signals.
    pub server_life: ServerLife,
    /// How long a stopping server waits for what is under way.
    pub shutdown_timeout: Duration,
    /// Threads of the network runtime; `0` means one per core.
    pub worker_threads: usize,
    /// What is logged: a level, or levels by module.
    pub log: String,
}

/// Whether the data outlives the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DataLife {
    /// It does.
    #[default]
    Kept,
    /// It is deleted when the server ends.
    Ephemeral,
}

/// What ends the server, beside signals.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServerLife {
    /// Nothing.
    #[default]
    Own,
    /// The end of standard input.
    OfParent,
}

impl Default for Config {
    /// The defaults of the table.
    fn default() -> Self {
        let mut config = Self {
            broker: BrokerConfig {
                data_dir: Default::default(),
                auto_create_topics: AutoCreate::Off,
                num_partitions: 1,
                min_free_bytes: 0,
                topic_defaults: Default::default(),
                max_open_files: 0,
                max_maps: 0,
                recovery_threads: 0,
                max_decompressed_bytes: 0,
                max_inflight_produce_bytes: 0,
                max_request_bytes: 0,
                cleaner: CleanerConfig {
                    threads: 0,
                    dedupe_buffer_bytes: 0,
                    io_max_bytes_per_second: 0,
                    backoff: Duration::ZERO,
                },
                archive: ArchiveConfig::default(),
            },
            grpc: GrpcConfig {
                listen: String::new(),
                max_request_bytes: 0,
                max_buffered_bytes: 0,
                max_connections: 0,
                max_streams_per_connection: 0,
                tls_certificate: None,
                tls_key: None,
                tls_client_ca: None,
            },
            http: HttpConfig {
                listen: String::new(),
            },
            data_life: DataLife::Kept,
            server_life: ServerLife::Own,
            shutdown_timeout: Duration::ZERO,
            worker_threads: 0,
            log: String::new(),
        };
        for setting in &SETTINGS {
            setting
                .apply(&mut config, setting.default)
                .expect("a test applies every default of the table");
        }
        config
    }
}
