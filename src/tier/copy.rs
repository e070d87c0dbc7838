//! A copy of a whole archive in another store: for a broker that begins with what another one holds.
//!
//! Invariants
//! - What names objects is copied before the objects: whatever is written to the archive meanwhile, the copy names nothing that it lacks.
//!
//! What is not here: keeping the two alike afterwards. Each has an owner of its own from then on.

use bytes::Bytes;

use super::error::{TierError, Trouble};
use super::keys::{CATALOG, EPOCHS, TOPICS, is_segment};
use super::store::TierStore;

/// Bytes of an object that are copied at once; as many as a part of a large object has at least.
const PART_BYTES: u64 = 8 << 20;

/// Which objects are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Claims, the catalog, manifests.
    Ledgers,
    Segments,
}

impl TierStore {
    /// Copies everything there is to `to`, which is empty.
    ///
    /// # Errors
    /// What either of them says; `to` then has a part of it.
    pub async fn copy_to(&self, to: &Self) -> Result<(), TierError> {
        // What goes away while it is being copied was replaced by something newer, which is looked for again.
        while self.copy_kind(Kind::Ledgers, to).await? == Copied::NotAll {}
        self.copy_kind(Kind::Segments, to).await.map(drop)
    }

    async fn copy_kind(&self, kind: Kind, to: &Self) -> Result<Copied, TierError> {
        let mut copied = Copied::All;
        for folder in [EPOCHS, CATALOG, TOPICS] {
            let mut listing = self.list(folder);
            while let Some(found) = listing.next().await? {
                if is_segment(&found.key) != (kind == Kind::Segments) {
                    continue;
                }
                if self.copy_one(&found.key, found.len_bytes, to).await? == Copied::NotAll {
                    copied = Copied::NotAll;
                }
            }
        }
        Ok(copied)
    }

    async fn copy_one(&self, key: &str, len_bytes: u64, to: &Self) -> Result<Copied, TierError> {
        if len_bytes <= PART_BYTES {
            let Some(bytes) = self.part(key, 0..len_bytes).await? else {
                return Ok(Copied::NotAll);
            };
            return to.publish(key, bytes).await.map(|_| Copied::All);
        }
        let mut put = to.begin(key).await?;
        let mut at = 0;
        while at < len_bytes {
            let end = len_bytes.min(at + PART_BYTES);
            let Some(bytes) = self.part(key, at..end).await? else {
                put.abort().await?;
                return Ok(Copied::NotAll);
            };
            put.put_part(bytes).await?;
            at = end;
        }
        put.complete().await.map(|()| Copied::All)
    }

    /// Fetches a range of an object that may go away.
    async fn part(&self, key: &str, range: std::ops::Range<u64>) -> Result<Option<Bytes>, TierError> {
        match self.get_range(key, range).await {
            Err(error) if error.trouble() == Some(Trouble::NotFound) => Ok(None),
            fetched => fetched,
        }
    }
}

/// Whether all that was listed was still there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Copied {
    All,
    NotAll,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::CallLimits;

    #[tokio::test]
    async fn a_copy_has_what_the_archive_has_and_goes_its_own_way() {
        let store = || TierStore::open("memory://", CallLimits::default()).unwrap();
        let (from, to) = (store(), store());
        let large = "topics/t/00000000000000000000000000000001/0/segments/00000000000000000000-0000000001-0000000000000001.segment";
        let objects = [
            ("epochs/00000000000000000000", 3),
            ("catalog/00000000000000000007", 1),
            (
                "topics/t/00000000000000000000000000000001/0/manifest/00000000000000000000",
                40,
            ),
            (large, 2 * PART_BYTES + 1),
        ];
        let bytes = |len: u64| -> Bytes { (0..len).map(|n| n.to_be_bytes()[7]).collect() };
        for (key, len) in objects {
            from.publish(key, bytes(len)).await.unwrap();
        }
        from.copy_to(&to).await.unwrap();
        from.delete(large).await.unwrap();
        for (key, len) in objects {
            let max = usize::try_from(len).unwrap();
            // Not compared by a macro that prints both: they are large.
            let is_there = to.get(key, max).await.unwrap() == Some(bytes(len));
            assert!(is_there, "{key}");
        }
    }
}
