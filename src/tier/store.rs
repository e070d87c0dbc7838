//! The bucket: the few calls that we make on it, each with a deadline, each told apart by what came of it.
//!
//! | call | promise on success |
//! |---|---|
//! | [`TierStore::publish`] | the object is there and was not there before, or is byte for byte what we put |
//! | [`TierStore::begin`] ... | a large object is there whole; before `complete` nothing shows |
//! | [`TierStore::get`], [`TierStore::get_range`] | exactly the bytes asked for, never fewer |
//! | [`TierStore::len_of`] | length in bytes, `None` when the object is not there |
//! | [`TierStore::list`] | keys in any order; may lag behind on some stores, so nothing relies on it for what is newest |
//!
//! **A lost answer.** A put may have succeeded although the call failed, or be tried again by the client below us and then find
//! its own object. So `publish` looks at what lies there: our own bytes are a success. A put that is still on its way when we
//! look counts as failed; when it lands later, the next try finds it, and it is the same bytes or tells whose it is.
//!
//! Deadlines: a call ends after [`CallLimits::call`], or [`CallLimits::transfer`] when it moves a part of a large object, whatever the
//! client below does. It retries what the store calls temporary for most of that time, a handful of times.
//!
//! Invariants
//! - No object is written over: small ones are created only if absent, large ones have keys that nobody else draws.
//! - A folder is synced before a put returns: file and directory.
//! - Nothing is held in memory but the objects and ranges that were asked for, all of stated size.
//!
//! What is not here: what an address means ([`super::address`]), which keys there are, what is in the objects.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    PutPayload,
};

use super::error::{TierError, Trouble};
use super::keys;
use crate::types::Timestamp;

/// How long a call may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallLimits {
    /// One that moves little: the default is 30 seconds.
    pub call: Duration,
    /// One that moves a part or a range of up to some MiB: the default is 2 minutes.
    pub transfer: Duration,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(30),
            transfer: Duration::from_secs(120),
        }
    }
}

/// Ranges up to this length must come within [`CallLimits::call`].
const SMALL_BYTES: u64 = 1 << 20;

/// What came of publishing an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Published {
    /// It is there, with our bytes.
    Ours,
    /// Somebody else's object has that key, with these bytes.
    Theirs(Bytes),
}

/// One object in a listing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Listed {
    /// Its key, below the prefix.
    pub key: String,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// When it was put, by the store's clock.
    pub modified: Timestamp,
}

/// A bucket, or a folder, and a prefix in it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TierStore {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    url: Arc<str>,
    limits: CallLimits,
    asked: Arc<Asked>,
    /// Nothing is put or removed.
    is_read_only: bool,
}

/// What was asked of a store, by all clones of it together.
#[derive(Debug, Default)]
struct Asked {
    calls: AtomicU64,
    fetched_bytes: AtomicU64,
}

impl TierStore {
    /// Wraps a store of whatever kind; `url` is what errors call it, and has no credentials in it.
    pub fn over(inner: Arc<dyn ObjectStore>, prefix: Path, url: &str, limits: CallLimits) -> Self {
        Self {
            inner,
            prefix,
            url: url.trim_end_matches('/').into(),
            limits,
            asked: Arc::default(),
            is_read_only: false,
        }
    }

    /// Returns the same store, on which every put and every removal is refused before it is asked for.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self {
            is_read_only: true,
            ..self
        }
    }

    /// Returns how many calls were made until now: requests, but for the pages of listings and for what the client below tries again.
    pub fn calls(&self) -> u64 {
        self.asked.calls.load(Ordering::Relaxed)
    }

    /// Returns how many bytes of ranges were fetched until now.
    pub fn fetched_bytes(&self) -> u64 {
        self.asked.fetched_bytes.load(Ordering::Relaxed)
    }

    /// Returns the address of the bucket and prefix.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns what errors call an object.
    pub fn name(&self, key: &str) -> String {
        format!("{}/{key}", self.url)
    }

    fn path(&self, key: &str) -> Path {
        Path::from_iter(self.prefix.parts().chain(Path::from(key).parts()))
    }

    async fn within<T>(
        &self,
        call: Call<'_>,
        limit: Duration,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, TierError> {
        if self.is_read_only && call.writes {
            return Err(TierError::Call {
                operation: call.operation,
                key: self.name(call.key),
                trouble: Trouble::Unsupported,
                source: "this server only reads the archive".into(),
            });
        }
        self.asked.calls.fetch_add(1, Ordering::Relaxed);
        let (trouble, source) = match tokio::time::timeout(limit, work).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => (trouble_of(&error), in_one_line(error)),
            Err(_) => (
                Trouble::TimedOut,
                format!("nothing came within {} s", limit.as_secs()).into(),
            ),
        };
        Err(TierError::Call {
            operation: call.operation,
            key: self.name(call.key),
            trouble,
            source,
        })
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<Created, TierError> {
        let path = self.path(key);
        let work = async {
            let put = self
                .inner
                .put_opts(&path, PutPayload::from(bytes), PutOptions::from(PutMode::Create));
            match put.await {
                Ok(_) => Ok(Created::New),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(Created::WasThere),
                Err(error) => Err(error),
            }
        };
        let call = Call {
            operation: "creation",
            key,
            writes: true,
        };
        self.within(call, self.limits.transfer, work).await
    }

    /// Puts an object, unless there is one of that key. `bytes` are such that nobody else would put the same.
    ///
    /// # Errors
    /// [`TierError::Call`]; the object may be there all the same, and the same call may be made again.
    pub async fn publish(&self, key: &str, bytes: Bytes) -> Result<Published, TierError> {
        let error = match self.create(key, bytes.clone()).await {
            Ok(Created::New) => return Ok(Published::Ours),
            Ok(Created::WasThere) => None,
            Err(error) if error.leaves_open() => Some(error),
            Err(error) => return Err(error),
        };
        let found = match (self.get(key, super::ledger_entry::MAX_LEN).await, error) {
            (Ok(found), error) => (found, error),
            // What went wrong first says more than that we could not look.
            (Err(unread), error) => return Err(error.unwrap_or(unread)),
        };
        match found {
            (Some(found), _) if found == bytes => Ok(Published::Ours),
            (Some(found), _) => Ok(Published::Theirs(found)),
            (None, Some(error)) => Err(error),
            (None, None) => Err(TierError::Call {
                operation: "creation",
                key: self.name(key),
                trouble: Trouble::Unavailable,
                source: "the store says that it is there, and cannot give it".into(),
            }),
        }
    }

    /// Begins a large object; it shows when [`LargePut::complete`] returns.
    ///
    /// # Errors
    /// [`TierError::Call`].
    pub async fn begin(&self, key: &str) -> Result<LargePut, TierError> {
        let path = self.path(key);
        let call = Call {
            operation: "upload",
            key,
            writes: true,
        };
        let upload = self
            .within(call, self.limits.call, self.inner.put_multipart(&path))
            .await?;
        Ok(LargePut {
            store: self.clone(),
            key: key.to_owned(),
            upload,
        })
    }

    /// Fetches a whole object of at most `max_bytes`; `None` when it is not there.
    ///
    /// # Errors
    /// [`TierError::Call`], or [`TierError::Damaged`] when it is longer.
    pub async fn get(&self, key: &str, max_bytes: usize) -> Result<Option<Bytes>, TierError> {
        let path = self.path(key);
        let max = u64::try_from(max_bytes).expect("64 bits fit");
        let work = async {
            let options = GetOptions::new().with_range(Some(GetRange::Bounded(0..max.saturating_add(1))));
            match self.inner.get_opts(&path, options).await {
                Ok(found) => {
                    let len = found.meta.size;
                    Ok(Some((len, found.bytes().await?)))
                }
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let call = Call {
            operation: "fetch",
            key,
            writes: false,
        };
        match self.within(call, self.limits.transfer, work).await? {
            None => Ok(None),
            Some((len, bytes))
                if len <= max && u64::try_from(bytes.len()).is_ok_and(|found| found == len) =>
            {
                Ok(Some(bytes))
            }
            Some((len, bytes)) => Err(TierError::Damaged {
                key: self.name(key),
                reason: format!("{} bytes came of {len}, at most {max} are taken", bytes.len()),
            }),
        }
    }

    /// Fetches a range, all of it; `None` when the object is not there.
    ///
    /// # Errors
    /// [`TierError::Call`], or [`TierError::Damaged`] when the object ends before the range does.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>, TierError> {
        let path = self.path(key);
        let len = range.end.saturating_sub(range.start);
        if len == 0 {
            return Ok(Some(Bytes::new()));
        }
        let work = async {
            match self.inner.get_range(&path, range.clone()).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let limit = if len <= SMALL_BYTES {
            self.limits.call
        } else {
            self.limits.transfer
        };
        let call = Call {
            operation: "fetch",
            key,
            writes: false,
        };
        match self.within(call, limit, work).await? {
            Some(bytes) if u64::try_from(bytes.len()).is_ok_and(|found| found != len) => {
                Err(TierError::Damaged {
                    key: self.name(key),
                    reason: format!("{} bytes came of the range {range:?}", bytes.len()),
                })
            }
            Some(bytes) => {
                self.asked.fetched_bytes.fetch_add(len, Ordering::Relaxed);
                Ok(Some(bytes))
            }
            None => Ok(None),
        }
    }

    /// Returns an object's length in bytes; `None` when it is not there.
    ///
    /// # Errors
    /// [`TierError::Call`].
    pub async fn len_of(&self, key: &str) -> Result<Option<u64>, TierError> {
        let path = self.path(key);
        let work = async {
            match self.inner.head(&path).await {
                Ok(found) => Ok(Some(found.size)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let call = Call {
            operation: "look-up",
            key,
            writes: false,
        };
        self.within(call, self.limits.call, work).await
    }

    /// Removes an object; one that is not there is removed already.
    ///
    /// # Errors
    /// [`TierError::Call`].
    pub async fn delete(&self, key: &str) -> Result<(), TierError> {
        let path = self.path(key);
        let work = async {
            match self.inner.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                done => done,
            }
        };
        let call = Call {
            operation: "removal",
            key,
            writes: true,
        };
        self.within(call, self.limits.call, work).await
    }

    /// Lists what lies below `folder`, in any order.
    pub fn list(&self, folder: &str) -> Listing {
        Listing {
            found: self.inner.list(Some(&self.path(folder))),
            store: self.clone(),
            folder: folder.to_owned(),
        }
    }

    /// Lists what lies below `folder` behind the key `after`, in any order.
    pub fn list_behind(&self, folder: &str, after: &str) -> Listing {
        Listing {
            found: self
                .inner
                .list_with_offset(Some(&self.path(folder)), &self.path(after)),
            store: self.clone(),
            folder: folder.to_owned(),
        }
    }

    /// Makes sure that the store can be written to, and that it creates only where it is told to: `attempt` is drawn at random.
    ///
    /// 1. An object is created. If it dies here: a few bytes stay below `probe/`.
    /// 2. It is created again, with other bytes: the store must say that it is there, and keep the first.
    /// 3. It is read back whole and in part, and removed.
    ///
    /// # Errors
    /// [`TierError::IgnoresCreateOnly`], or what a call said: wrong credentials, no bucket, no permission to write or to delete.
    pub async fn probe(&self, attempt: u64) -> Result<(), TierError> {
        let key = format!("{}/{attempt:016x}", keys::PROBE);
        let first = Bytes::from(format!("first {attempt:016x}"));
        self.publish(&key, first.clone()).await?;
        let second = self.create(&key, Bytes::from_static(b"second")).await?;
        let found = self.get(&key, first.len()).await;
        let kept = matches!(&found, Ok(Some(bytes)) if *bytes == first);
        let part = self.get_range(&key, 6..8).await;
        self.delete(&key).await?;
        if second == Created::New || (!kept && found.is_ok()) {
            return Err(TierError::IgnoresCreateOnly {
                url: self.url.to_string(),
            });
        }
        found?;
        if part?.as_deref() != Some(&first[6..8]) {
            return Err(TierError::Damaged {
                key: self.name(&key),
                reason: "a range of it is not what was put there".to_owned(),
            });
        }
        Ok(())
    }
}

impl fmt::Display for TierStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// What lies below a folder, one object after the other.
pub struct Listing {
    store: TierStore,
    folder: String,
    found: BoxStream<'static, object_store::Result<ObjectMeta>>,
}

impl Listing {
    /// Returns the next object; `None` at the end.
    ///
    /// # Errors
    /// [`TierError::Call`]; the listing ends with it.
    pub async fn next(&mut self) -> Result<Option<Listed>, TierError> {
        let call = Call {
            operation: "listing",
            key: &self.folder,
            writes: false,
        };
        let limit = self.store.limits.call;
        let Some(meta) = self.store.within(call, limit, self.found.try_next()).await? else {
            return Ok(None);
        };
        let skip = self.store.prefix.parts().count();
        let parts: Vec<_> = meta.location.parts().skip(skip).collect();
        let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        Ok(Some(Listed {
            key: parts.join("/"),
            len_bytes: meta.size,
            modified: Timestamp(meta.last_modified.timestamp_millis()),
        }))
    }
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy)]
struct Call<'a> {
    operation: &'static str,
    key: &'a str,
    writes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Created {
    New,
    WasThere,
}

/// A large object on its way, part by part. Dropped without [`complete`](Self::complete) or [`abort`](Self::abort), its parts stay where the store
/// keeps such until a rule of the bucket removes them.
#[derive(Debug)]
pub struct LargePut {
    store: TierStore,
    key: String,
    upload: Box<dyn MultipartUpload>,
}

impl LargePut {
    /// Sends the next part; all but the last have the same length, of 5 MiB at least. Several may be on their way at the same time;
    /// all are there before [`complete`](Self::complete).
    ///
    /// # Errors
    /// [`TierError::Call`].
    pub fn put_part(&mut self, bytes: Bytes) -> impl Future<Output = Result<(), TierError>> + Send + use<> {
        let part = self.upload.put_part(bytes.into());
        let (store, key) = (self.store.clone(), self.key.clone());
        async move {
            let call = Call {
                operation: "upload of a part",
                key: &key,
                writes: true,
            };
            store.within(call, store.limits.transfer, part).await
        }
    }

    /// Makes the object of its parts.
    ///
    /// # Errors
    /// [`TierError::Call`]; the object may be there all the same.
    pub async fn complete(&mut self) -> Result<(), TierError> {
        let call = Call {
            operation: "completion",
            key: &self.key,
            writes: true,
        };
        let limit = self.store.limits.transfer;
        self.store
            .within(call, limit, self.upload.complete())
            .await
            .map(drop)
    }

    /// Lets go of the parts.
    ///
    /// # Errors
    /// [`TierError::Call`]; they then stay until a rule of the bucket removes them.
    pub async fn abort(mut self) -> Result<(), TierError> {
        let call = Call {
            operation: "abort",
            key: &self.key,
            writes: true,
        };
        let limit = self.store.limits.call;
        self.store.within(call, limit, self.upload.abort()).await
    }
}

fn trouble_of(error: &object_store::Error) -> Trouble {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => Trouble::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Trouble::Denied,
        Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::InvalidPath { .. }
        | Error::UnknownConfigurationKey { .. } => Trouble::Unsupported,
        // Of a listing, the client below tells no more than what the store said.
        Error::Generic { source, .. } => {
            let said = source.to_string();
            let says = |status: &str| said.contains(status);
            if says("404 Not Found") {
                Trouble::NotFound
            } else if says("401 Unauthorized") || says("403 Forbidden") {
                Trouble::Denied
            } else {
                Trouble::Unavailable
            }
        }
        _ => Trouble::Unavailable,
    }
}

/// Stores answer in XML, over several lines.
fn in_one_line(error: object_store::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let text = error.to_string();
    if text.contains('\n') {
        text.split_whitespace().collect::<Vec<_>>().join(" ").into()
    } else {
        error.into()
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
