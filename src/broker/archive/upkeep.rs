//! Keeping the bucket's books: the catalog of topics, log starts, and what is to be removed.
//!
//! What is removed, and when
//! - An object that the manifest let go: after the delay, then it leaves the list of those that wait. If it dies in between, it is
//!   removed again, which is no failure.
//! - All of a topic that was deleted: after the delay, then the catalog forgets it.
//! - An object that no manifest names, of this server or one before it: looked for in a partition after the first entry of this run in its
//!   manifest, and every [`ORPHANS_EVERY`]. From that entry on nobody of before can name it any more.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::core::Core;
use crate::tier::{
    ArchivedTopic, Catalog, CatalogEdit, Ledger, Manifest, ManifestEdit, ObjectId, TOPICS, TierError,
};
use crate::types::{Offset, Timestamp, TopicId};

use super::bucket::{Archive, Tiered};

/// How often objects that nobody names are looked for, in one partition.
const ORPHANS_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// So many objects are removed before something else gets its turn.
const REMOVED_AT_ONCE: usize = 256;

impl Archive {
    fn is_old(&self, since: Timestamp, now: Timestamp) -> bool {
        let delay = i64::try_from(self.config.sweep_delay.as_millis()).unwrap_or(i64::MAX);
        now.ms_since(since) >= delay
    }

    /// Writes down which topics there are, and removes what is left of deleted ones.
    pub(super) async fn keep_catalog(&self, core: &Core) -> Result<(), TierError> {
        self.catalog_is_old.store(false, Ordering::Release);
        let mut catalog = self.catalog.lock().await;
        let done = self.write_catalog(core, &mut catalog).await;
        if done.is_err() {
            self.catalog_is_old.store(true, Ordering::Release);
        }
        self.note_catalog(&done);
        done?;
        if self.catalog_state.lock().removal.is_waiting() {
            return Ok(());
        }
        let removed = self.remove_topics(core.now(), &mut catalog).await;
        let is_new = self.catalog_state.lock().removal.note(&removed);
        match removed {
            Err(error @ TierError::Fenced { .. }) => Err(error),
            Err(error) => {
                // Nobody waits for it: what is written goes on to the archive.
                self.metrics.tier_failures.inc();
                if is_new {
                    tracing::warn!(%error, "a deleted topic stays in the archive; it is tried again");
                }
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn note_catalog(&self, done: &Result<(), TierError>) {
        let mut state = self.catalog_state.lock();
        let Err(error) = done else {
            state.failures = 0;
            state.trouble = None;
            return;
        };
        if state.trouble.is_none() && !matches!(error, TierError::Fenced { .. }) {
            tracing::warn!(%error, "keeping the archive's catalog failed; it is tried again");
        }
        state.failures = state.failures.saturating_add(1);
        state.trouble = Some(error.to_string());
    }

    async fn write_catalog(&self, core: &Core, catalog: &mut Ledger<Catalog>) -> Result<(), TierError> {
        let topics = core.topics.all();
        let here: BTreeMap<TopicId, bool> = topics
            .iter()
            .map(|topic| (topic.id, core.config.archives(&topic.name, &topic.config)))
            .collect();
        {
            let mut partitions = self.partitions.write();
            partitions.retain(|_, tiered| here.contains_key(&tiered.key.topic_id));
        }
        let change = |state: &Catalog| {
            let gone = state.topics().keys().filter(|id| !here.contains_key(id));
            // A name that is used again is free only then.
            let mut edits: Vec<_> = gone.map(|id| CatalogEdit::Removed(*id)).collect();
            for topic in &topics {
                let entry = ArchivedTopic {
                    id: topic.id,
                    name: topic.name.clone(),
                    partitions: topic.count(),
                    settings: topic.config.overrides.clone(),
                };
                let known = state.topics().get(&topic.id);
                if known.is_some_and(|known| *known != entry) || (known.is_none() && here[&topic.id]) {
                    edits.push(CatalogEdit::Put(entry));
                }
            }
            (!edits.is_empty()).then_some(edits)
        };
        catalog.append(self.author, core.now(), change).await.map(drop)
    }

    async fn remove_topics(&self, now: Timestamp, catalog: &mut Ledger<Catalog>) -> Result<(), TierError> {
        let due = catalog.state().removed().iter();
        let due = due.filter(|(_, (_, since))| self.is_old(*since, now));
        let due: Vec<_> = due.map(|(id, (name, _))| (*id, name.clone())).collect();
        for (id, name) in due {
            let folder = format!("{TOPICS}/{name}/{id}");
            let mut left = false;
            let mut listing = self.store.list(&folder);
            let mut removed = 0;
            while let Some(found) = listing.next().await? {
                self.store.delete(&found.key).await?;
                self.metrics.tier_swept_objects.inc();
                removed += 1;
                if removed >= REMOVED_AT_ONCE {
                    left = true;
                    break;
                }
            }
            if left {
                self.look_at_topics();
                return Ok(());
            }
            let change = |state: &Catalog| {
                let waits = state.removed().contains_key(&id);
                waits.then(|| vec![CatalogEdit::Swept(id)])
            };
            catalog.append(self.author, now, change).await?;
            tracing::info!(topic = %name, %id, "deleted topic removed from the archive");
        }
        Ok(())
    }

    /// Tells whether a deleted topic waits for its removal, and is due.
    pub(super) fn has_topics_to_remove(&self, now: Timestamp) -> bool {
        let Ok(catalog) = self.catalog.try_lock() else {
            return false;
        };
        if self.catalog_state.lock().removal.is_waiting() {
            return false;
        }
        let mut removed = catalog.state().removed().values();
        removed.any(|(_, since)| self.is_old(*since, now))
    }

    /// Lets the manifest follow a log start that rose.
    pub(super) async fn shrink(
        &self,
        ledger: &mut Ledger<Manifest>,
        log_start: Offset,
        now: Timestamp,
    ) -> Result<bool, TierError> {
        if log_start <= ledger.state().log_start() {
            return Ok(false);
        }
        let change = |state: &Manifest| {
            if log_start <= state.log_start() {
                return None;
            }
            let segments = state.segments().values();
            let gone = segments.take_while(|segment| segment.next_offset() <= log_start);
            let gone: Vec<ObjectId> = gone.map(|segment| segment.id).collect();
            let mut edits = vec![ManifestEdit::LogStart(log_start)];
            if !gone.is_empty() {
                edits.push(ManifestEdit::Dropped(gone));
            }
            Some(edits)
        };
        ledger.append(self.author, now, change).await?;
        Ok(true)
    }

    /// Tells whether an object waits for its removal, and is due.
    pub(super) fn has_to_sweep(&self, manifest: &Manifest, now: Timestamp) -> bool {
        manifest.waiting().any(|waiting| self.is_old(waiting.since, now))
    }

    /// Removes what the manifest let go long enough ago.
    pub(super) async fn sweep(
        &self,
        tiered: &Tiered,
        ledger: &mut Ledger<Manifest>,
        now: Timestamp,
    ) -> Result<bool, TierError> {
        let due = ledger.state().waiting();
        let due = due.filter(|waiting| self.is_old(waiting.since, now));
        let due: Vec<ObjectId> = due.map(|waiting| waiting.id).take(REMOVED_AT_ONCE).collect();
        if due.is_empty() {
            return Ok(false);
        }
        for id in &due {
            self.store.delete(&tiered.key.segment(*id)).await?;
            self.metrics.tier_swept_objects.inc();
        }
        let change = |state: &Manifest| {
            let left: Vec<ObjectId> = state.waiting().map(|waiting| waiting.id).collect();
            let swept: Vec<ObjectId> = due.iter().filter(|id| left.contains(id)).copied().collect();
            (!swept.is_empty()).then(|| vec![ManifestEdit::Swept(swept)])
        };
        ledger.append(self.author, now, change).await?;
        Ok(true)
    }

    /// Removes objects that the manifest does not name, if it is time to look for them.
    pub(super) async fn remove_orphans(
        &self,
        tiered: &Tiered,
        ledger: &Ledger<Manifest>,
    ) -> Result<(), TierError> {
        let is_ours = ledger
            .head()
            .is_some_and(|head| head.writer == self.author.writer);
        let looked = tiered.state.lock().orphans_at;
        if !is_ours || looked.is_some_and(|at| at.elapsed() < ORPHANS_EVERY) {
            return Ok(());
        }
        let manifest = ledger.state();
        let is_named = |id: &ObjectId| {
            let segment = manifest.segments().get(&id.base);
            segment.is_some_and(|segment| segment.id == *id)
                || manifest.waiting().any(|waiting| waiting.id == *id)
        };
        let mut listing = self.store.list(&tiered.key.segments());
        let mut orphans = Vec::new();
        while let Some(found) = listing.next().await? {
            let id = ObjectId::parse_key(&found.key);
            if id.is_some_and(|id| id.epoch <= self.author.epoch && !is_named(&id)) {
                orphans.push(found.key);
            }
            if orphans.len() >= REMOVED_AT_ONCE {
                break;
            }
        }
        for key in &orphans {
            tracing::info!(object = %self.store.name(key), "an object that no manifest names is removed");
            self.store.delete(key).await?;
            self.metrics.tier_swept_objects.inc();
        }
        if orphans.len() < REMOVED_AT_ONCE {
            tiered.state.lock().orphans_at = Some(Instant::now());
        }
        Ok(())
    }
}
