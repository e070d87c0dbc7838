//! Showing another server's archive: everything is read from there, nothing is written, and what comes there is seen soon after.
//!
//! A start makes a directory as a restore does, in which all logs but that of the topics' metadata are only in the archive, and marks it as a
//! mount: the next start makes it anew. Nobody claims the archive; no catalog, no manifest and no sweep is written; retention and
//! compaction are the owner's. What clients would change is refused.
//!
//! Every [`FOLLOW_INTERVAL`] the next number of each ledger is asked for: topics come, change and go, logs grow, shrink and are compacted.
//!
//! What is not here: what refuses writes to the store, whoever asks for one ([`TierStore::read_only`](crate::tier::TierStore::read_only)).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::runtime::Handle;
use tokio::time::MissedTickBehavior;

use crate::broker::core::Core;
use crate::broker::served::Served;
use crate::broker::topics::{Topic, unknown};
use crate::broker::{BrokerConfig, Error};
use crate::env::Fs;
use crate::storage::missing_below;
use crate::telemetry::Metrics;
use crate::tier::{
    ArchivedTopic, Author, CATALOG, Catalog, Claims, Ledger, Manifest, TierError, Uploader, WriterId,
};
use crate::types::{LeaderEpoch, TopicId};

use super::bucket::Archive;
use super::restore::{check_count, opened_to_read};
use super::start::{cache, refused};

/// How often the archive is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(10);
/// Manifests that are asked for at the same time.
const AT_ONCE: usize = 32;

impl Archive {
    /// Opens another server's archive to show it. Blocks, as [`open`](Self::open) does.
    pub(super) fn mount(
        config: &BrokerConfig,
        fs: &Arc<dyn Fs>,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, Error> {
        let bucket = opened_to_read(config)?;
        let read = async {
            let claims = Claims::read(bucket.clone()).await?;
            let catalog = Ledger::open(bucket.clone(), CATALOG.to_owned(), Catalog::default()).await?;
            Ok::<_, TierError>((claims, catalog))
        };
        let (claims, catalog) = Handle::current()
            .block_on(read)
            .map_err(|error| refused(&error))?;
        tracing::info!(archive = %bucket, topics = catalog.state().topics().len(), "archive of another server opened to read");
        // Nobody: no entry is ever written.
        let nobody = Author {
            epoch: LeaderEpoch(0),
            writer: WriterId([0; 16]),
        };
        let uploader = Uploader::new(Arc::clone(fs), bucket.clone());
        let cache = cache(fs, config);
        let followed = catalog.state().topics().keys().copied().collect();
        let archive = Self::over(
            (bucket, nobody),
            uploader,
            claims,
            (catalog, Arc::clone(metrics), cache),
            config.archive.clone(),
        );
        *archive.followed.lock() = followed;
        Ok(Arc::new(archive))
    }

    /// Follows the archive, again and again.
    pub(super) async fn follow(&self, core: &Arc<Core>) {
        let mut ticks = tokio::time::interval(FOLLOW_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.follow_topics(core).await {
                tracing::warn!(%error, "topics of the archive cannot be followed; it is tried again");
            }
            let topics = core.topics.all();
            let logs = topics.iter().filter(|topic| !topic.name.is_internal());
            let logs: Vec<_> = logs.flat_map(|topic| topic.partitions.iter().cloned()).collect();
            let follow = |served: Arc<Served>| async move { self.follow_log(core, &served).await }.boxed();
            let following: Vec<_> = logs.into_iter().map(follow).collect();
            stream::iter(following)
                .buffer_unordered(AT_ONCE)
                .for_each(|()| std::future::ready(()))
                .await;
        }
    }

    /// Takes in which topics there are.
    async fn follow_topics(&self, core: &Arc<Core>) -> Result<(), TierError> {
        let mut catalog = self.catalog.lock().await;
        // Whatever it comes to: what an earlier look read, or could not show, is shown now.
        let refreshed = catalog.refresh().await.map(drop);
        let there = catalog.state().topics().clone();
        let removed: BTreeSet<TopicId> = catalog.state().removed().keys().copied().collect();
        drop(catalog);
        let gone: BTreeSet<TopicId> = {
            let now: BTreeSet<TopicId> = there.keys().copied().collect();
            let mut followed = self.followed.lock();
            let gone = followed.difference(&now).copied().collect();
            *followed = now;
            gone
        };
        for topic in core.topics.all() {
            // One that was removed and swept between two looks has no word in the catalog any more; of one that its owner does not archive
            // there never was one. One that was removed while the mount started was never followed.
            if gone.contains(&topic.id) || removed.contains(&topic.id) {
                core.topics.remove(&topic.name);
                topic
                    .partitions
                    .iter()
                    .for_each(|served| served.close(&unknown(&topic.name)));
            }
        }
        let there = there.into_values().filter(|topic| !topic.name.is_internal());
        for topic in there.filter(|topic| is_behind(core, topic)) {
            let (following, name) = (Arc::clone(core), topic.name.clone());
            let shown = core.blocking(move |_| show(&following, &topic)).await;
            if let Err(error) = shown {
                tracing::warn!(topic = %name, %error, "a topic of the archive cannot be shown");
            }
        }
        refreshed
    }

    /// Takes in what a log has come to.
    async fn follow_log(&self, core: &Core, served: &Arc<Served>) {
        let tiered = self.of(served).unwrap_or_else(|| self.begin(served));
        let Some(mut ledger) = tiered.take() else {
            return;
        };
        let refreshed = ledger.refresh().await;
        if !matches!(refreshed, Ok(0)) {
            // Also what was read before it failed. Readers know what is missing and where the rest lies before they are told that it is there.
            follow_compaction(served, ledger.state());
            tiered.show(&ledger, served);
            follow_to(core, served, ledger.state());
        }
        if let Err(error) = refreshed {
            tracing::warn!(partition = %served.id(), %error, "the archive cannot be followed; it is tried again");
        }
    }
}

/// Takes over how far a log goes in the archive. That of the topics' metadata is as the start made it.
pub(super) fn follow_to(core: &Core, served: &Served, manifest: &Manifest) {
    if served.id().topic.is_internal() {
        return;
    }
    let marks = served.log.follow_archive(manifest.log_start(), manifest.end());
    served.advance(marks.high_watermark, &core.metrics.ack_latency);
}

/// Tells readers below which offset the owner may have replaced records.
pub(super) fn follow_compaction(served: &Served, manifest: &Manifest) {
    let segments = manifest.segments().values();
    let below = missing_below(segments.map(|segment| &segment.summary));
    served.log.follow_compaction(below);
}

fn known(core: &Core, topic: &ArchivedTopic) -> Option<Arc<Topic>> {
    let known = core.topics.find(&topic.name).ok();
    known.filter(|known| known.id == topic.id)
}

/// Tells whether a topic, a part of it, or its settings are not served.
fn is_behind(core: &Core, topic: &ArchivedTopic) -> bool {
    known(core, topic)
        .is_none_or(|known| known.count() < topic.partitions || known.config.overrides != topic.settings)
}

/// Serves a topic of the catalog, more partitions of it, or its new settings.
fn show(core: &Core, topic: &ArchivedTopic) -> Result<(), Error> {
    let known = known(core, topic);
    let count = known.as_ref().map_or(0, |known| known.count());
    check_count(&topic.name, topic.partitions.max(count))?;
    let mut config = core.settings.resolve(&topic.settings)?;
    let mut partitions = Vec::new();
    if let Some(known) = &known {
        config.holds = known.config.holds.clone();
        partitions.extend(known.partitions.iter().cloned());
    }
    if count < topic.partitions {
        partitions.extend(core.open(&topic.name, count..topic.partitions, topic.id, &config)?);
    }
    let shown = core.topics.put(match known {
        Some(known) => known.with_partitions(partitions).with_config(config),
        None => Topic::new(topic.name.clone(), topic.id, config, partitions),
    });
    core.configure(&shown);
    Ok(())
}
