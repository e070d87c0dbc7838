//! Where the data of an embedded broker lies, and what becomes of it.

use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

use crate::env::SimFs;

use super::Error;
use super::disk::Medium;

/// Where the data lies. The directory of data that is not kept goes with the last clone.
#[derive(Clone, Debug)]
pub(super) struct Home {
    pub(super) medium: Medium,
    pub(super) data_dir: PathBuf,
    _temporary: Option<Arc<TempDir>>,
}

impl Home {
    /// Returns a place in a new temporary directory; the data directory itself is not there yet.
    pub(super) fn temporary() -> Result<Self, Error> {
        let made = tempfile::Builder::new().prefix("siltstone-").tempdir();
        let dir = made.map_err(Error::system("make a temporary directory"))?;
        Ok(Self {
            medium: Medium::Temporary,
            data_dir: dir.path().join("data"),
            _temporary: Some(Arc::new(dir)),
        })
    }

    pub(super) fn in_memory(memory: SimFs) -> Self {
        Self {
            medium: Medium::Memory(memory),
            data_dir: PathBuf::from("/siltstone"),
            _temporary: None,
        }
    }

    pub(super) fn kept(data_dir: PathBuf) -> Self {
        Self {
            medium: Medium::Kept,
            data_dir,
            _temporary: None,
        }
    }
}
