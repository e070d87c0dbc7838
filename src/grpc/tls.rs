//! TLS from files: a certificate and its key, and for mutual TLS the authority whose certificates clients must show.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the keys lie, in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and its root.
    pub certificate: PathBuf,
    /// The private key of the first certificate.
    pub key: PathBuf,
    /// With it, clients without a certificate of this authority are refused.
    pub client_ca: Option<PathBuf>,
}

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("cannot read {setting} {path}: {source}")]
    Unreadable {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the disk says.
        source: io::Error,
    },
    /// A file without what it should hold.
    #[error("{setting} {path} holds no {wanted} in PEM form")]
    NotPem {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// Files that do not go together, or whose content is not sound.
    #[error("TLS cannot start with certificate {certificate} and key {key}: {source}")]
    Unusable {
        /// The server's certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl TlsFiles {
    /// Reads the files.
    pub(super) fn load(&self) -> Result<ServerTlsConfig, TlsError> {
        let certificate = pem("grpc.tls_certificate", &self.certificate, "CERTIFICATE")?;
        let key = pem("grpc.tls_key", &self.key, "PRIVATE KEY")?;
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .timeout(HANDSHAKE_TIMEOUT);
        match &self.client_ca {
            None => Ok(tls),
            Some(path) => {
                let authority = pem("grpc.tls_client_ca", path, "CERTIFICATE")?;
                Ok(tls.client_ca_root(Certificate::from_pem(authority)))
            }
        }
    }

    /// Names the files in what `source` says.
    pub(super) fn unusable(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TlsError {
        TlsError::Unusable {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source: source.into(),
        }
    }
}

fn pem(setting: &'static str, path: &Path, wanted: &'static str) -> Result<Vec<u8>, TlsError> {
    let bytes = std::fs::read(path).map_err(|source| TlsError::Unreadable {
        setting,
        path: path.to_owned(),
        source,
    })?;
    let text = String::from_utf8_lossy(&bytes);
    let has = text
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{wanted}-----")));
    match has {
        true => Ok(bytes),
        false => Err(TlsError::NotPem {
            setting,
            path: path.to_owned(),
            wanted,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_or_holds_something_else_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let certificate = dir.path().join("server.pem");
        let key = dir.path().join("server.key");
        let files = TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: None,
        };
        let message = || files.load().unwrap_err().to_string();
        let start = format!("cannot read grpc.tls_certificate {}: ", certificate.display());
        assert!(message().starts_with(&start), "{}", message());
        std::fs::write(&certificate, "-----BEGIN CERTIFICATE-----\n").unwrap();
        std::fs::write(&key, "-----BEGIN CERTIFICATE-----\n").unwrap();
        assert_eq!(
            message(),
            format!("grpc.tls_key {} holds no PRIVATE KEY in PEM form", key.display())
        );
    }
}
