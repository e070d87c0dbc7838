//! Siltstone: a log you can query.
//!
//! A self-hosted, compacting log store: event streams kept for good in Apache Kafka's own file format, served over gRPC.
//! `ARCHITECTURE.md` is the map of the house; the modules below stand in its order, each knowing only those before it.
//!
//! Cargo features: `client` is the client alone, `embedded` a broker inside another program, `cli` the command, `server` what the last two
//! stand on; `tier` adds the archive, `tier-s3`, `tier-gcs` and `tier-azure` the clouds. All of it by default; a program that wants less
//! takes `default-features = false`.

#[cfg(feature = "cli")]
pub mod bench;
#[cfg(feature = "server")]
pub mod broker;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(feature = "server")]
pub mod env;
#[cfg(feature = "server")]
pub mod grpc;
#[cfg(feature = "server")]
pub mod http;
#[cfg(any(feature = "client", feature = "server"))]
pub mod proto;
pub mod record;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod storage;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "tier")]
pub mod tier;
pub mod types;
