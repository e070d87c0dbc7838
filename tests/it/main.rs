//! The integration tests: one binary, a module for each subject.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod allocations;
#[cfg(feature = "tier")]
mod archive;
mod cli_bench;
mod cli_json;
mod cli_produce;
mod cli_read;
mod cli_records;
mod cli_tls;
mod client;
mod client_faults;
mod compaction;
mod embedded;
mod examples;
mod faulty_door;
mod grpc_bounds;
mod grpc_errors;
mod grpc_hostile;
mod grpc_produce;
mod grpc_read;
mod grpc_retention;
mod grpc_services;
mod grpc_stop;
mod grpc_tls;
mod help;
mod http;
mod process;
#[cfg(feature = "tier")]
mod restore;
mod serve;
mod support;
mod tidy;
#[cfg(feature = "tier")]
mod tier_conformance;
