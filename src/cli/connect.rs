//! Which server a command talks to, and the runtime it does so in.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{CliError, input};
use crate::client::{Client, ConnectOptions, Security, ServerAddress, TlsIdentity};

/// Stands over these flags in the help: a command's own come first.
const CONNECTION: &str = "Connection";

/// The server's address and how to trust it.
#[derive(clap::Args, Debug)]
pub(super) struct ServerArgs {
    /// The server: HOST:PORT, with or without http:// or https://
    #[arg(
        long,
        global = true,
        display_order = 900,
        help_heading = CONNECTION,
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
        help_heading = CONNECTION,
        env = "SILTSTONE_TLS_CA",
        hide_env_values = true,
        value_name = "FILE"
    )]
    tls_ca: Option<PathBuf>,
    /// Certificate to show to a server that asks for one, as PEM; needs --tls-key
    #[arg(
        long,
        global = true,
        display_order = 900,
        help_heading = CONNECTION,
        env = "SILTSTONE_TLS_CERTIFICATE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    tls_certificate: Option<PathBuf>,
    /// Private key of that certificate, as PEM
    #[arg(
        long,
        global = true,
        display_order = 900,
        help_heading = CONNECTION,
        env = "SILTSTONE_TLS_KEY",
        hide_env_values = true,
        value_name = "FILE"
    )]
    tls_key: Option<PathBuf>,
    #[arg(skip)]
    origins: Origins,
}

/// Which of the flags were given as flags; the environment and defaults are merely around.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Origins {
    server: Origin,
    /// The first of the TLS flags that was given.
    tls: Option<&'static str>,
}

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Origin {
    /// The environment or the default.
    #[default]
    Surroundings,
    /// The flag.
    Flag,
}

impl ServerArgs {
    /// Remembers which values were given as flags.
    pub(super) fn note_origins(&mut self, matches: &clap::ArgMatches) {
        let is_flag = |name: &str| matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine);
        if is_flag("server") {
            self.origins.server = Origin::Flag;
        }
        let tls = [
            ("tls_ca", "--tls-ca"),
            ("tls_certificate", "--tls-certificate"),
            ("tls_key", "--tls-key"),
        ];
        self.origins.tls = tls
            .into_iter()
            .find_map(|(name, flag)| is_flag(name).then_some(flag));
    }

    /// Returns a flag of these that was given, for a command that has no use for any.
    pub(super) fn flag(&self) -> Option<&'static str> {
        self.origins.tls.or(self.is_named().then_some("--server"))
    }

    /// Returns whether the caller named a server by the flag: a benchmark must not load one that is merely around.
    pub(super) fn is_named(&self) -> bool {
        self.origins.server == Origin::Flag
    }

    /// Connects to the server.
    pub(super) async fn connect(&self) -> Result<Client, CliError> {
        let options = match ServerAddress::parse(&self.server)?.security() {
            Security::Plain => self.plain()?,
            Security::Tls => self.tls()?,
        };
        Ok(Client::connect_with(&self.server, &options).await?)
    }

    /// A flag that has no effect is a mistake; a variable of the environment may be meant for another server.
    fn plain(&self) -> Result<ConnectOptions, CliError> {
        match self.origins.tls {
            None => Ok(ConnectOptions::default()),
            Some(flag) => Err(CliError::Usage(format!(
                "{flag} is for TLS, and {:?} is plain text: name the server with https://",
                self.server
            ))),
        }
    }

    fn tls(&self) -> Result<ConnectOptions, CliError> {
        let usage = |text: &str| Err(CliError::Usage(text.to_owned()));
        let Some(authority) = &self.tls_ca else {
            return usage(
                "an https server needs --tls-ca (or SILTSTONE_TLS_CA): the certificate of the authority that vouches for it",
            );
        };
        let identity = match (&self.tls_certificate, &self.tls_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(_), None) => return usage("--tls-certificate needs --tls-key, its private key"),
            (None, Some(_)) => {
                return usage("--tls-key needs --tls-certificate, the certificate it belongs to");
            }
        };
        let identity = identity.map(|(certificate, key)| {
            Ok::<_, CliError>(TlsIdentity {
                certificate_pem: pem(certificate, "CERTIFICATE")?,
                key_pem: pem(key, "PRIVATE KEY")?,
            })
        });
        Ok(ConnectOptions {
            tls_authorities_pem: Some(pem(authority, "CERTIFICATE")?),
            tls_identity: identity.transpose()?,
            ..ConnectOptions::default()
        })
    }
}

/// Reads a file that must hold `wanted`: what the TLS library says of one that does not names no file.
fn pem(path: &Path, wanted: &str) -> Result<Vec<u8>, CliError> {
    let bytes = input::read_whole(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let holds_it = text
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{wanted}-----")));
    if holds_it {
        Ok(bytes)
    } else {
        Err(CliError::Failed(format!(
            "{} holds no {wanted} in PEM form",
            path.display()
        )))
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
