//! The archive of an embedded broker: the same in all its lives, and a copy of it for each copy of the broker.
//!
//! What is not here: archiving, which is the server's.

use crate::config::Config;

use super::Error;

/// Where the archive of a broker lies, if it has one. Clones are the same archive.
#[derive(Clone, Debug, Default)]
pub(super) enum Archive {
    #[default]
    None,
    /// Where the setting `tier.url` says: a folder, or somebody's cloud.
    Named(#[cfg_attr(not(feature = "tier"), expect(dead_code, reason = "nothing is copied there"))] String),
    /// In this process, or in a folder that goes with the last clone.
    #[cfg(feature = "tier")]
    Held(Held),
}

/// An archive that nobody else knows of.
#[cfg(feature = "tier")]
#[derive(Clone, Debug)]
pub(super) struct Held {
    store: crate::tier::TierStore,
    folder: Option<std::sync::Arc<tempfile::TempDir>>,
}

#[cfg(not(feature = "tier"))]
impl Archive {
    pub(super) fn at(url: Option<&str>) -> Self {
        url.map_or(Self::None, |url| Self::Named(url.to_owned()))
    }

    pub(super) fn set_in(&self, _: &mut Config) {}

    /// Without the feature `tier` no broker with an archive starts.
    #[allow(clippy::unused_async, reason = "the other one waits")]
    pub(super) async fn copy(&self) -> Result<Self, Error> {
        match self {
            Self::None => Ok(Self::None),
            Self::Named(_) => Err(Error::Archive),
        }
    }
}

#[cfg(feature = "tier")]
impl Archive {
    /// Opens what lies in memory: opened by the server, it would end with the server.
    pub(super) fn at(url: Option<&str>) -> Self {
        let Some(url) = url else {
            return Self::None;
        };
        match open(url) {
            // What is wrong with an address, the start tells.
            Ok(store) if url.starts_with("memory:") => Self::Held(Held { store, folder: None }),
            _ => Self::Named(url.to_owned()),
        }
    }

    /// Has a server take it.
    pub(super) fn set_in(&self, config: &mut Config) {
        if let Self::Held(held) = self {
            config.broker.archive.store = Some(held.store.clone());
        }
    }

    /// Copies all that is there: into memory what lies in memory, a folder into one that goes with the copy.
    pub(super) async fn copy(&self) -> Result<Self, Error> {
        let (from, is_folder) = match self {
            Self::None => return Ok(Self::None),
            Self::Held(held) => (held.store.clone(), held.folder.is_some()),
            Self::Named(url) if url.starts_with("file:") => (open(url)?, true),
            Self::Named(_) => return Err(Error::Archive),
        };
        let copy = match is_folder {
            false => Held {
                store: open("memory://")?,
                folder: None,
            },
            true => {
                let made = tempfile::Builder::new().prefix("siltstone-archive-").tempdir();
                let folder = made.map_err(Error::system("make a temporary directory"))?;
                Held {
                    store: open(&format!("file://{}", folder.path().display()))?,
                    folder: Some(folder.into()),
                }
            }
        };
        from.copy_to(&copy.store).await?;
        Ok(Self::Held(copy))
    }
}

#[cfg(feature = "tier")]
fn open(url: &str) -> Result<crate::tier::TierStore, crate::tier::TierError> {
    crate::tier::TierStore::open(url, crate::tier::CallLimits::default())
}
