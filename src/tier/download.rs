//! Fetching a segment back: its log and the files that go with it, as they were on the disk of the server that wrote them.
//!
//! Invariants
//! - Every byte that is given out has been held against the checksums of the footer, which the manifest vouches for: of a log, the part
//!   that the last window completed.
//! - Memory: a window of [`WINDOW_BYTES`], or one section, of [`MAX_SECTION_BYTES`] at most.
//!
//! What is not here: where the bytes go.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::error::{TierError, Trouble};
use super::keys::PartitionKey;
use super::manifest::TieredSegment;
use super::object::{Footer, SectionKind};
use super::read::read_footer;
use super::store::TierStore;
use super::verify_object::Chunks;

/// Bytes of a log that are fetched at once.
const WINDOW_BYTES: u64 = 8 << 20;
/// A section longer than this is damage: indexes and states of producers are far smaller.
const MAX_SECTION_BYTES: u64 = 256 << 20;

/// A segment that is fetched back.
#[derive(Debug)]
pub struct Download {
    store: TierStore,
    key: String,
    footer: Footer,
}

/// A part of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Downloaded {
    /// Where it begins in the log.
    pub position: u64,
    /// Its bytes.
    pub bytes: Bytes,
}

impl Download {
    /// Opens the object of a segment.
    ///
    /// # Errors
    /// [`TierError::Damaged`], [`TierError::Call`], which name it.
    pub async fn open(
        store: &TierStore,
        partition: &PartitionKey,
        segment: &TieredSegment,
    ) -> Result<Self, TierError> {
        Ok(Self {
            store: store.clone(),
            key: partition.segment(segment.id),
            footer: read_footer(store, partition, segment).await?,
        })
    }

    /// Fetches a whole section; empty when the segment has none of that kind.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn section(&self, kind: SectionKind) -> Result<Bytes, TierError> {
        let Some(section) = self.footer.section(kind) else {
            return Ok(Bytes::new());
        };
        if section.len_bytes > MAX_SECTION_BYTES {
            return Err(self.damaged(format!(
                "section {} has {} bytes, at most {MAX_SECTION_BYTES} are taken",
                kind.0, section.len_bytes
            )));
        }
        let mut whole = BytesMut::new();
        for index in 0..section.page_crcs.len() {
            let Some(range) = section.page(index) else { break };
            let bytes = self.fetch(range).await?;
            section
                .check_page(index, &bytes)
                .map_err(|damage| self.damaged(damage.to_string()))?;
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// Fetches the log from its begin to its end, part by part, and gives each to `take`, which may end it early by an error of its own.
    ///
    /// # Errors
    /// As [`open`](Self::open), and what `take` says. What was given out until then may have been damaged.
    pub async fn log<E: From<TierError>>(
        &self,
        mut take: impl FnMut(Downloaded) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let mut chunks = Chunks::of(&self.footer);
        let (mut position, end) = (0, self.footer.summary.log_bytes);
        while position < end {
            let next = (position + WINDOW_BYTES).min(end);
            let bytes = self.fetch(position..next).await?;
            chunks
                .push(&bytes)
                .map_err(|damage| self.damaged(damage.to_string()))?;
            take(Downloaded { position, bytes })?;
            position = next;
        }
        Ok(())
    }

    async fn fetch(&self, range: Range<u64>) -> Result<Bytes, TierError> {
        let bytes = self.store.get_range(&self.key, range).await?;
        bytes.ok_or_else(|| TierError::Call {
            operation: "fetch",
            key: self.store.name(&self.key),
            trouble: Trouble::NotFound,
            source: "it was there a moment ago".into(),
        })
    }

    fn damaged(&self, reason: String) -> TierError {
        TierError::Damaged {
            key: self.store.name(&self.key),
            reason,
        }
    }
}
