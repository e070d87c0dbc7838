//! The integration tests: one binary, a module for each subject.

mod grpc_errors;
mod grpc_produce;
mod grpc_read;
mod grpc_stop;
mod grpc_tls;
mod help;
mod http;
mod serve;
mod support;
mod tidy;
