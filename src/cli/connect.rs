//! Which server a command talks to, and the runtime it does so in.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{CliError, input};
use crate::client::{Client, ConnectOptions};

/// The server's address and how to trust it.
#[derive(clap::Args, Debug)]
pub(super) struct ServerArgs {
    /// The server: HOST:PORT, with or without http:// or https://
    #[arg(
        long,
        global = true,
        display_order = 900,
        env = "SILTSTONE_SERVER",
        hide_env_values = true
    )]
    #[arg(default_value = "127.0.0.1:9095", value_name = "ADDRESS")]
    server: String,
    /// Certificate of the authority that vouches for an https server, as PEM
    #[arg(
        long,
        global = true,
        display_order = 900,
        env = "SILTSTONE_TLS_CA",
        hide_env_values = true,
        value_name = "FILE"
    )]
    tls_ca: Option<PathBuf>,
    #[arg(skip)]
    origin: Origin,
}

/// Where the server's address comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Origin {
    /// The environment or the default.
    #[default]
    Surroundings,
    /// The flag.
    Flag,
}

impl ServerArgs {
    /// Remembers whether `--server` was given.
    pub(super) fn note_origin(&mut self, matches: &clap::ArgMatches) {
        if matches.value_source("server") == Some(clap::parser::ValueSource::CommandLine) {
            self.origin = Origin::Flag;
        }
    }

    /// Returns whether the caller named a server by the flag: a benchmark must not load one that is merely around.
    pub(super) fn is_named(&self) -> bool {
        self.origin == Origin::Flag
    }

    /// Connects to the server.
    pub(super) async fn connect(&self) -> Result<Client, CliError> {
        let tls_authorities_pem = self.tls_ca.as_deref().map(input::read_whole).transpose()?;
        let options = ConnectOptions {
            tls_authorities_pem,
            ..ConnectOptions::default()
        };
        Ok(Client::connect_with(&self.server, &options).await?)
    }
}

/// Runs a command that talks to a server.
pub(super) fn block_on(
    command: impl Future<Output = Result<ExitCode, CliError>>,
) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(command);
    // A read of standard input may never return; the process ends without it.
    runtime.shutdown_background();
    outcome
}
