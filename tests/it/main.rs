//! Tests against a whole server, from outside.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod grpc_errors;
mod grpc_produce;
mod grpc_read;
mod grpc_stop;
mod grpc_tls;
mod http;
mod serve;
mod support;
