//! Who a data directory is: cluster, node and directory ids in `meta.properties`, made at the first start.

use std::path::{Path, PathBuf};

use crate::env::{FileCache, SyncSite};

use super::error::{IoContext, StoreError};
use super::files::read_whole;
use super::format::uuid_text;
use super::{DirectoryId, MetaProperties, NodeId, put_in_place};

pub(super) const NAME: &str = "meta.properties";
const SITE: SyncSite = SyncSite("meta.properties");
/// A file of nothing but garbage is not logged whole.
const UNKNOWN_KEYS_TOLD: usize = 5;

/// The ids of a data directory.
#[derive(Debug)]
pub(super) struct Identity(MetaProperties);

impl Identity {
    /// Reads the ids, or makes them where there are none. New ones stay once the caller has synced the directory.
    pub(super) fn load_or_make(files: &FileCache, dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(NAME);
        if let Some(bytes) = read_whole(files, &path)? {
            let properties = match MetaProperties::decode(&bytes) {
                Ok(properties) => properties,
                Err(damage) => {
                    let reason =
                        format!("{damage}; restore the file, or remove it to give the directory new ids");
                    return Err(StoreError::Unusable { path, reason });
                }
            };
            if !properties.other.is_empty() {
                // Kafka too takes any line for a key, and keeps it: a later version may know what it means.
                let keys = properties
                    .other
                    .keys()
                    .take(UNKNOWN_KEYS_TOLD)
                    .collect::<Vec<_>>();
                tracing::warn!(file = %path.display(), ?keys, "unknown keys are kept and mean nothing here; look whether lines are damaged");
            }
            return Ok(Self(properties));
        }
        let properties = MetaProperties::new(&random_id()?, NodeId(1), DirectoryId(random_bytes()?));
        put_in_place(files.fs().as_ref(), &path, &properties.encode(), SITE).context("write", &path)?;
        Ok(Self(properties))
    }

    /// Tells whether a directory has ids.
    pub(super) fn is_made(files: &FileCache, dir: &Path) -> bool {
        files.fs().stat(&dir.join(NAME)).is_ok()
    }

    pub(super) fn cluster_id(&self) -> &str {
        self.0.cluster_id.as_deref().unwrap_or_default()
    }
}

/// Returns path and content of the ids of a directory that joins a cluster.
///
/// # Errors
/// [`StoreError::Unusable`] when the id is not one that can be written down.
pub(super) fn of_cluster(dir: &Path, cluster_id: &str) -> Result<(PathBuf, Vec<u8>), StoreError> {
    let path = dir.join(NAME);
    let properties = MetaProperties::new(cluster_id, NodeId(1), DirectoryId(random_bytes()?));
    let bytes = properties.encode();
    match MetaProperties::decode(&bytes) {
        Ok(read) if read == properties && !cluster_id.is_empty() => Ok((path, bytes)),
        _ => Err(StoreError::Unusable {
            path,
            reason: format!("{cluster_id:?} is no id of a cluster"),
        }),
    }
}

/// Returns 32 random hexadecimal digits.
pub(super) fn random_hex() -> Result<String, StoreError> {
    Ok(random_bytes()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Returns a new id in Kafka's 22 characters.
fn random_id() -> Result<String, StoreError> {
    Ok(uuid_text::encode(random_bytes()?))
}

fn random_bytes() -> Result<[u8; 16], StoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::Io {
        action: "read",
        path: "random numbers of the operating system".into(),
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}
