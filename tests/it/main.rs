//! Tests against a whole server, from outside.

mod grpc_errors;
mod grpc_produce;
mod grpc_read;
mod grpc_stop;
mod grpc_tls;
mod http;
mod serve;
mod support;
