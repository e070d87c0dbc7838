//! The address of an archive, and the client that speaks to what is there.
//!
//! | address | what | credentials |
//! |---|---|---|
//! | `s3://bucket/prefix` | Amazon S3 and whatever speaks like it | `AWS_*` variables, web identity, instance metadata; another endpoint by `AWS_ENDPOINT` |
//! | `gs://bucket/prefix` | Google Cloud Storage | `GOOGLE_*` variables, application default credentials, instance metadata |
//! | `az://container/prefix` | Azure Blob Storage | `AZURE_*` variables, workload identity, the `az` command |
//! | `file:///folder` | a folder of this machine or a mounted one, synced; made when it is not there | |
//! | `memory://` | memory of this process, gone with it: for tests | |
//!
//! Plain `http` to an endpoint is refused unless the cloud's own variable allows it (`AWS_ALLOW_HTTP=true`).
//!
//! Invariants
//! - An address has no credentials in it: errors and logs repeat it.
//! - A client tries again what the store calls temporary, five times and within 20 seconds; above it every call has a deadline.
//!
//! What is not here: looking whether anything is there ([`super::store::TierStore::probe`]).

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::error::{TierError, Trouble};
use super::store::{CallLimits, TierStore};

/// What an address begins with.
const SCHEMES: &str =
    "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///folder or memory://";

impl TierStore {
    /// Opens what `url` names. Nothing is read or written yet, but for the folder of a `file://` address, which is made.
    ///
    /// # Errors
    /// [`TierError::Url`] when it is no such address, or one of a cloud that was left out of this build; [`TierError::Call`] when a folder
    /// cannot be made or credentials cannot be understood.
    pub fn open(url: &str, limits: CallLimits) -> Result<Self, TierError> {
        Self::open_as(url, limits, make_folder)
    }

    /// Opens what `url` names for who only reads: a folder that is not there is an error, and nothing is ever made.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_to_read(url: &str, limits: CallLimits) -> Result<Self, TierError> {
        Self::open_as(url, limits, |path| std::fs::metadata(path).map(drop))
    }

    fn open_as(url: &str, limits: CallLimits, ready: ReadyFolder) -> Result<Self, TierError> {
        let bad = |reason: &str| TierError::Url {
            url: redacted(url),
            reason: reason.to_owned(),
        };
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(bad(&format!("it must be {SCHEMES}")));
        };
        if rest.contains(['?', '#', '@']) {
            return Err(bad(
                "it has a '?', '#' or '@'; credentials belong in the environment",
            ));
        }
        match scheme {
            "memory" if rest.trim_matches('/').is_empty() => Ok(Self::over(
                Arc::new(InMemory::new()),
                Path::ROOT,
                "memory://",
                limits,
            )),
            "memory" => Err(bad("memory has no folders")),
            "file" if !rest.starts_with('/') => Err(bad("the folder must be absolute: file:///folder")),
            "file" => Ok(Self::over(folder(url, rest, ready)?, Path::ROOT, url, limits)),
            "s3" | "gs" | "az" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(bad("it names no bucket"));
                }
                let prefix =
                    Path::parse(prefix.trim_matches('/')).map_err(|error| bad(&error.to_string()))?;
                let store = bucket_of(scheme, bucket, url)?;
                Ok(Self::over(store, prefix, url, limits))
            }
            _ => Err(bad(&format!("it must be {SCHEMES}"))),
        }
    }
}

/// Leaves out what might be a password.
fn redacted(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://...@{host}"),
        _ => url.to_owned(),
    }
}

fn opening(url: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TierError {
    TierError::Call {
        operation: "opening",
        key: url.to_owned(),
        trouble: Trouble::Unsupported,
        source: source.into(),
    }
}

/// Makes sure that a folder is there, or says that it is not.
type ReadyFolder = fn(&FilePath) -> std::io::Result<()>;

fn folder(url: &str, path: &str, ready: ReadyFolder) -> Result<Arc<dyn ObjectStore>, TierError> {
    let path = PathBuf::from(path);
    ready(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => TierError::Call {
            operation: "opening",
            key: url.to_owned(),
            trouble: Trouble::NotFound,
            source: error.into(),
        },
        _ => opening(url, error),
    })?;
    let store = LocalFileSystem::new_with_prefix(&path).map_err(|error| opening(url, error))?;
    // Empty folders stay: removing them races with another put into them.
    Ok(Arc::new(store.with_fsync(true)))
}

/// Makes a folder whose name survives a crash.
fn make_folder(path: &FilePath) -> std::io::Result<()> {
    let mut missing: Vec<&FilePath> = path.ancestors().take_while(|path| !path.exists()).collect();
    while let Some(path) = missing.pop() {
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(parent) = path.parent() {
            std::fs::OpenOptions::new().read(true).open(parent)?.sync_all()?;
        }
    }
    Ok(())
}

#[cfg(feature = "tier-https")]
mod cloud {
    use std::time::Duration;

    use object_store::{BackoffConfig, ClientConfigKey, RetryConfig};

    pub(super) fn retries() -> RetryConfig {
        // The library's client takes the ciphers that the process has agreed on; the first to ask decides, a second is told no.
        let _ = rustls::crypto::ring::default_provider().install_default();
        RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(5),
                base: 2.,
            },
            max_retries: 5,
            retry_timeout: Duration::from_secs(20),
        }
    }

    /// Settings of the client, one by one: all at once they would undo what the environment says, such as plain http.
    pub(super) const CLIENT: [(ClientConfigKey, &str); 3] = [
        (ClientConfigKey::ConnectTimeout, "5 seconds"),
        (ClientConfigKey::Timeout, "60 seconds"),
        (
            ClientConfigKey::UserAgent,
            concat!("siltstone/", env!("CARGO_PKG_VERSION")),
        ),
    ];
}

/// Adds our settings of the client to those that the builder has.
#[cfg(feature = "tier-s3")]
fn s3(builder: object_store::aws::AmazonS3Builder) -> object_store::aws::AmazonS3Builder {
    cloud::CLIENT.into_iter().fold(builder, |builder, (key, value)| {
        builder.with_config(object_store::aws::AmazonS3ConfigKey::Client(key), value)
    })
}

fn bucket_of(scheme: &str, bucket: &str, url: &str) -> Result<Arc<dyn ObjectStore>, TierError> {
    match scheme {
        #[cfg(feature = "tier-s3")]
        "s3" => s3(object_store::aws::AmazonS3Builder::from_env())
            .with_bucket_name(bucket)
            .with_retry(cloud::retries())
            .build()
            .map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            .map_err(|error| opening(url, error)),
        #[cfg(feature = "tier-gcs")]
        "gs" => cloud::CLIENT
            .into_iter()
            .fold(
                object_store::gcp::GoogleCloudStorageBuilder::from_env(),
                |builder, (key, value)| {
                    builder.with_config(object_store::gcp::GoogleConfigKey::Client(key), value)
                },
            )
            .with_bucket_name(bucket)
            .with_retry(cloud::retries())
            .build()
            .map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            .map_err(|error| opening(url, error)),
        #[cfg(feature = "tier-azure")]
        "az" => cloud::CLIENT
            .into_iter()
            .fold(
                object_store::azure::MicrosoftAzureBuilder::from_env(),
                |builder, (key, value)| {
                    builder.with_config(object_store::azure::AzureConfigKey::Client(key), value)
                },
            )
            .with_container_name(bucket)
            .with_retry(cloud::retries())
            .build()
            .map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            .map_err(|error| opening(url, error)),
        _ => Err(TierError::Url {
            url: url.to_owned(),
            reason: format!("this build was made without {scheme}:// (bucket {bucket})"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        let refused = TierStore::open(url, CallLimits::default());
        refused.expect_err("no address").to_string()
    }

    #[test]
    fn what_is_no_address_is_refused_and_no_password_is_repeated() {
        assert_eq!(
            refusal("/data/archive"),
            "\"/data/archive\" is not the address of an archive: it must be s3://bucket/prefix, gs://bucket/prefix, \
             az://container/prefix, file:///folder or memory://"
        );
        assert_eq!(
            refusal("s3://key:secret@host/bucket"),
            "\"s3://...@host/bucket\" is not the address of an archive: it has a '?', '#' or '@'; credentials belong in the environment"
        );
        assert_eq!(
            refusal("file://archive"),
            "\"file://archive\" is not the address of an archive: the folder must be absolute: file:///folder"
        );
        assert_eq!(
            refusal("s3:///prefix"),
            "\"s3:///prefix\" is not the address of an archive: it names no bucket"
        );
        assert!(refusal("ftp://host/folder").contains("it must be s3://"));
    }

    #[cfg(feature = "tier-s3")]
    #[test]
    fn plain_http_that_the_environment_allows_stays_allowed() {
        use object_store::ClientConfigKey;
        use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
        let allow_http = AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp);
        let builder = s3(AmazonS3Builder::new().with_config(allow_http, "true"));
        assert_eq!(builder.get_config_value(&allow_http).as_deref(), Some("true"));
    }

    #[cfg(feature = "tier-https")]
    #[tokio::test]
    async fn the_clouds_that_were_built_in_open_without_a_call() {
        let built_in = [
            (cfg!(feature = "tier-s3"), "s3://bucket/some/prefix"),
            (cfg!(feature = "tier-gcs"), "gs://bucket"),
        ];
        for (_, url) in built_in.into_iter().filter(|(is_there, _)| *is_there) {
            let store = TierStore::open(url, CallLimits::default()).expect("it opens");
            assert_eq!(store.name("epochs"), format!("{url}/epochs"));
        }
    }
}
