//! Siltstone: a log you can query.
//!
//! A self-hosted, compacting log store: event streams kept for good in Apache Kafka's own file format, served over gRPC.
//! `ARCHITECTURE.md` is the map of the house; the modules below stand in its order, each knowing only those before it.

pub mod bench;
pub mod broker;
pub mod cli;
pub mod client;
pub mod config;
pub mod env;
pub mod grpc;
pub mod http;
pub mod proto;
pub mod record;
pub mod server;
pub mod storage;
pub mod telemetry;
#[cfg(feature = "tier")]
pub mod tier;
pub mod types;
