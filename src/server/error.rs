//! Why a server does not start, or does not stop cleanly.

use std::io;

use crate::broker::Error;
use crate::grpc::TlsError;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address that cannot be listened on.
    #[error("{}", bind_text(setting, address, source))]
    Bind {
        /// The setting that names it.
        setting: &'static str,
        /// The address.
        address: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// TLS files that cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The data directory, or a setting that the broker refuses.
    #[error(transparent)]
    Broker(#[from] Error),
}

/// Why a server did not stop cleanly. The next start recovers.
#[derive(Debug, thiserror::Error)]
#[error("the data was not closed cleanly, the next start will recover it: {0}")]
pub struct StopError(#[from] Error);

fn bind_text(setting: &str, address: &str, source: &io::Error) -> String {
    let flag = format!("--{}", setting.replace('.', "-"));
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            format!("address {address} is in use: stop the other program or choose another {flag}")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("address {address} is not one of this machine: choose another {flag}")
        }
        io::ErrorKind::PermissionDenied => {
            format!("address {address} needs rights that this process lacks: choose a {flag} port above 1023")
        }
        _ => format!("cannot listen on {address}: {source}; check {flag}"),
    }
}
