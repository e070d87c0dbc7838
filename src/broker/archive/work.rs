//! What is done about the bucket, when, and by how many at once.
//!
//! A look goes over all partitions in memory; where something is due a job begins, [`JOBS`] at most, one for a partition. A job does one
//! of each thing, or uploads a few small segments together, and ends, so that a partition with much to upload does not keep others
//! waiting. What fails waits, longer each time, and
//! is told; whoever looks at the status sees it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::broker::core::Core;
use crate::broker::served::Served;
use crate::broker::topics::Topic;
use crate::storage::{ArchivedExtent, HandedOver, NextRewritten, NextToArchive, Rewritten};
use crate::tier::{
    Ledger, Manifest, Replacement, SealedSegment, SectionKind, SectionSource, Ticket, TierError, Uploader,
};
use crate::types::{Offset, Timestamp, TopicPartition};

use super::Access;
use super::bucket::{Archive, Tiered, pause_after};
use super::start::{random, start_of};

/// Jobs at the same time.
const JOBS: usize = 4;
/// How often partitions are looked at, beside after each roll.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the server looks whether the bucket is still its own.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// How long a stop may upload what is left.
const FINISH_DEADLINE: Duration = Duration::from_secs(30);
/// How long a stop waits before it tries a partition again that failed, or that a job still has.
const FINISH_PAUSE: Duration = Duration::from_millis(200);
/// How often a job is looked at by who waits for it.
const BESIDE_PAUSE: Duration = Duration::from_millis(1);

/// What is wanted of a partition.
#[derive(Clone, Debug)]
struct Wish {
    served: Arc<Served>,
    tiered: Arc<Tiered>,
    uploads: bool,
    /// The active segment goes, too, if it has a record that was appended at this time or before.
    roll_before: Timestamp,
}

/// How a job ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Done {
    /// There may be more.
    Some,
    /// Nothing is left that could be done now.
    All,
    /// Another job has the partition.
    Elsewhere,
}

/// Why a job did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Bucket(#[from] TierError),
    #[error("{0}")]
    Local(String),
    #[error("offsets from {from} on are not archived: {reason}")]
    Stuck { from: Offset, reason: String },
}

impl Archive {
    /// The background task.
    pub(in crate::broker) async fn work(core: Arc<Core>) {
        let Some(archive) = core.archive.clone() else {
            return std::future::pending().await;
        };
        if archive.config.access == Access::Read {
            return archive.follow(&core).await;
        }
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut checks = tokio::time::interval_at(Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut jobs: JoinSet<TopicPartition> = JoinSet::new();
        let mut busy = BTreeSet::new();
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = archive.wake.notified() => {}
                _ = checks.tick() => archive.check().await,
                Some(done) = jobs.join_next() => match done {
                    Ok(id) => { busy.remove(&id); }
                    Err(error) => tracing::error!(%error, "a job of the archive ended early"),
                },
            }
            if archive.is_fenced() {
                return std::future::pending().await;
            }
            // Before the catalog has a topic, too: should that fail, its partitions say so.
            let wishes = archive.due(&core);
            if archive.wants_catalog(core.now())
                && let Err(error) = archive.keep_catalog(&core).await
            {
                archive.failed(None, &Failure::Bucket(error));
                continue;
            }
            for wish in wishes {
                if jobs.len() >= JOBS {
                    break;
                }
                let id = wish.served.id().clone();
                if busy.insert(id.clone()) {
                    let (core, archive) = (Arc::clone(&core), Arc::clone(&archive));
                    jobs.spawn(async move {
                        archive.job(&core, &wish).await;
                        id
                    });
                }
            }
        }
    }

    /// Does whatever is due by now, beside the task, and waits for what its jobs are at; what fails is left to the task. Gives up
    /// after [`FINISH_DEADLINE`].
    pub(in crate::broker) async fn do_what_is_due(core: &Arc<Core>) {
        let Some(archive) = &core.archive else { return };
        for tiered in archive.partitions.read().values() {
            let mut state = tiered.state.lock();
            state.again_at = None;
            state.removal.again_at = None;
        }
        archive.catalog_state.lock().removal.again_at = None;
        let work = async {
            while !archive.is_fenced() {
                if archive.wants_catalog(core.now()) && archive.keep_catalog(core).await.is_err() {
                    return;
                }
                for wish in archive.due(core) {
                    archive.job(core, &wish).await;
                }
                let is_taken = archive.partitions.read().values().any(|tiered| tiered.is_taken());
                if is_taken {
                    tokio::time::sleep(BESIDE_PAUSE).await;
                } else if archive.due(core).is_empty() {
                    return;
                }
            }
        };
        if tokio::time::timeout(FINISH_DEADLINE, work).await.is_err() {
            tracing::warn!(waited = ?FINISH_DEADLINE, "not everything that is due is in the archive; the schedule goes on");
        }
    }

    fn wants_catalog(&self, now: Timestamp) -> bool {
        self.catalog_is_old.load(Ordering::Acquire) || self.has_topics_to_remove(now)
    }

    /// Looks whether the bucket is still ours.
    async fn check(&self) {
        match self.claims.lock().await.check(self.author).await {
            Ok(()) => {}
            Err(error @ TierError::Fenced { .. }) => self.fence(&error),
            Err(error) => tracing::warn!(%error, "cannot see who owns the archive; it is looked at again"),
        }
    }

    /// Returns where something is to be done now; looks at memory only.
    fn due(&self, core: &Core) -> Vec<Wish> {
        let now = core.now();
        let mut due = Vec::new();
        for topic in core.topics.all() {
            let uploads = core.config.archives(&topic.name, &topic.config);
            for served in &topic.partitions {
                let Some(tiered) = self.tiered(served, uploads) else {
                    continue;
                };
                let wish = Wish {
                    served: Arc::clone(served),
                    tiered,
                    uploads,
                    roll_before: Timestamp(now.0.saturating_sub(topic.config.tier_max_lag_ms)),
                };
                if self.is_due(&wish, now) {
                    due.push(wish);
                }
            }
        }
        // Who waits longest is first: a job does one segment at a time.
        due.sort_by_key(|wish| wish.tiered.state.lock().again_at);
        due
    }

    fn tiered(&self, served: &Arc<Served>, uploads: bool) -> Option<Arc<Tiered>> {
        match self.of(served) {
            None if uploads && served.closed().is_none() => Some(self.begin(served)),
            known => known,
        }
    }

    fn is_due(&self, wish: &Wish, now: Timestamp) -> bool {
        // What a stop is at, too, is left to it.
        if wish.served.closed().is_some() || wish.tiered.is_taken() {
            return false;
        }
        {
            let state = wish.tiered.state.lock();
            if state.again_at.is_some_and(|at| at > Instant::now()) {
                return false;
            }
            if state.is_doubtful {
                return true;
            }
        }
        let manifest = wish.tiered.manifest();
        let knows = !manifest.segments().is_empty();
        if knows && start_of(&wish.served) > manifest.log_start() {
            return true;
        }
        if self.has_to_sweep(&manifest, now) && !wish.tiered.state.lock().removal.is_waiting() {
            return true;
        }
        if !wish.uploads {
            return false;
        }
        let end = knows.then(|| manifest.end());
        let log = &wish.served.log;
        log.has_for_archive(end, wish.roll_before)
            || log.differs_from_archive(&extents(&wish.tiered, &manifest))
    }

    /// Does what is to be done, once, and writes down how it went.
    async fn job(&self, core: &Arc<Core>, wish: &Wish) -> Done {
        let done = self.turn(core, wish).await;
        let mut state = wish.tiered.state.lock();
        state.is_uploading = false;
        match done {
            Ok(done) => {
                if done != Done::Elsewhere && (state.failures > 0 || state.is_stuck) {
                    tracing::info!(partition = %wish.served.id(), "the archive goes on");
                }
                if done != Done::Elsewhere {
                    state.failures = 0;
                    state.trouble = None;
                    state.is_stuck = false;
                    // What is due and cannot be done yet is looked at again in a while, not at once.
                    state.again_at = (done == Done::All).then(|| Instant::now() + LOOK_INTERVAL);
                    state.is_doubtful = false;
                }
                drop(state);
                if done == Done::Some {
                    self.look();
                }
                done
            }
            Err(failure) => {
                let is_new = state.trouble.is_none();
                state.failures = state.failures.saturating_add(1);
                state.trouble = Some(failure.to_string());
                state.is_stuck = matches!(failure, Failure::Stuck { .. });
                // Of a call that failed it is open what it did; of what does not fit, whether we know all.
                state.is_doubtful = matches!(
                    failure,
                    Failure::Bucket(TierError::Contradiction { .. } | TierError::Damaged { .. })
                );
                state.again_at = Some(Instant::now() + pause_after(state.failures));
                drop(state);
                self.failed(is_new.then_some(wish), &failure);
                Done::All
            }
        }
    }

    /// Counts and tells a failure; of one that lasts, its begin.
    fn failed(&self, wish: Option<&Wish>, failure: &Failure) {
        self.metrics.tier_failures.inc();
        if let Failure::Bucket(error @ TierError::Fenced { .. }) = failure {
            self.fence(error);
            return;
        }
        match wish {
            Some(wish) => {
                tracing::warn!(partition = %wish.served.id(), error = %failure, "archiving failed; it is tried again");
            }
            None => tracing::debug!(error = %failure, "archiving failed again"),
        }
    }

    async fn turn(&self, core: &Arc<Core>, wish: &Wish) -> Result<Done, Failure> {
        let Some(mut ledger) = wish.tiered.take() else {
            return Ok(Done::Elsewhere);
        };
        if self.is_fenced() {
            return Ok(Done::All);
        }
        let doubtful = wish.tiered.state.lock().is_doubtful;
        if doubtful {
            let key = &wish.tiered.key;
            *ledger = Ledger::open(self.store.clone(), key.manifest(), Manifest::empty(key)).await?;
            wish.tiered.show(&ledger, &wish.served);
        }
        let now = core.now();
        let knows = ledger.head().is_some();
        let mut done = Done::All;
        if knows && self.shrink(&mut ledger, start_of(&wish.served), now).await? {
            wish.tiered.show(&ledger, &wish.served);
        }
        if wish.uploads && self.has_in_catalog(wish).await {
            done = self.upload(core, wish, &mut ledger).await?;
        }
        if wish.tiered.state.lock().removal.is_waiting() {
            return Ok(done);
        }
        let removed = self.remove(wish, &mut ledger, now).await;
        if self.note_removal(wish, removed)? {
            done = Done::Some;
        }
        Ok(done)
    }

    /// Removes objects that are not needed; tells whether there may be more.
    async fn remove(
        &self,
        wish: &Wish,
        ledger: &mut Ledger<Manifest>,
        now: Timestamp,
    ) -> Result<bool, TierError> {
        let has_swept = self.sweep(&wish.tiered, ledger, now).await?;
        if has_swept {
            wish.tiered.show(ledger, &wish.served);
        }
        self.remove_orphans(&wish.tiered, ledger).await?;
        Ok(has_swept)
    }

    /// Writes down how a removal went. What fails is tried again later, and is in nobody's way meanwhile.
    fn note_removal(&self, wish: &Wish, removed: Result<bool, TierError>) -> Result<bool, Failure> {
        let is_new = wish.tiered.state.lock().removal.note(&removed);
        match removed {
            Ok(has_swept) => Ok(has_swept),
            // It is about the ledger, not about the removal.
            Err(
                error @ (TierError::Fenced { .. }
                | TierError::Contradiction { .. }
                | TierError::Damaged { .. }),
            ) => Err(error.into()),
            Err(error) => {
                self.metrics.tier_failures.inc();
                if is_new {
                    tracing::warn!(partition = %wish.served.id(), %error, "objects that are not needed stay in the archive; it is tried again");
                }
                Ok(false)
            }
        }
    }

    /// Tells whether the catalog has the topic: one that was just made is not there yet, one that was deleted no more.
    async fn has_in_catalog(&self, wish: &Wish) -> bool {
        let catalog = self.catalog.lock().await;
        let is_there = catalog.state().topics().contains_key(&wish.tiered.key.topic_id);
        drop(catalog);
        if !is_there {
            self.look_at_topics();
        }
        is_there
    }

    /// Uploads what the cleaner wrote anew, and the next segment.
    async fn upload(
        &self,
        core: &Arc<Core>,
        wish: &Wish,
        ledger: &mut Ledger<Manifest>,
    ) -> Result<Done, Failure> {
        self.seal(core, wish).await?;
        let (served, known) = (Arc::clone(&wish.served), extents(&wish.tiered, ledger.state()));
        let now = core.now();
        let rewritten = off(move || served.log.rewritten(&known, now)).await?;
        let replaced = match rewritten {
            NextRewritten::Segments(rewritten) => self.replace(wish, ledger, rewritten, now).await,
            NextRewritten::Nothing => Ok(Done::All),
            NextRewritten::Stuck { from, reason } => Err(Failure::Stuck { from, reason }),
        };
        match replaced {
            // What lies behind the archive's end goes on, all of it, and then the partition says what does not.
            Err(stuck @ Failure::Stuck { .. }) => {
                while self.upload_next(core, wish, ledger).await? == Done::Some {}
                Err(stuck)
            }
            Err(failure) => Err(failure),
            Ok(Done::Some) => self.upload_next(core, wish, ledger).await.map(|_| Done::Some),
            Ok(_) => self.upload_next(core, wish, ledger).await,
        }
    }

    /// Uploads what comes behind the archive's end.
    async fn upload_next(
        &self,
        core: &Arc<Core>,
        wish: &Wish,
        ledger: &mut Ledger<Manifest>,
    ) -> Result<Done, Failure> {
        let now = core.now();
        let knows = !ledger.state().segments().is_empty();
        let end = knows.then(|| ledger.state().end());
        let served = Arc::clone(&wish.served);
        let next = off(move || next_segments(&served, end, now)).await??;
        if next.is_empty() {
            return Ok(Done::All);
        }
        let segments: Vec<SealedSegment> = next.iter().map(|(_, segment)| segment.clone()).collect();
        self.begin_upload(wish);
        let uploader = self.uploader.counted_by(Arc::clone(&wish.tiered.sent));
        let ticket = self.ticket(now)?;
        let uploaded = uploader
            .upload_all(&wish.tiered.key, ledger, &segments, ticket)
            .await;
        // Of several that went together, those before the first that failed are there.
        for (rewrite, segment) in &next {
            let base = segment.summary.base_offset;
            let known = ledger.state().segments().get(&base);
            if known.is_some_and(|known| known.id.attempt == ticket.attempt) {
                wish.tiered.state.lock().rewrites.insert(base, *rewrite);
                self.metrics.tier_uploads.inc();
                self.metrics.tier_upload_bytes.inc_by(segment.summary.log_bytes);
            }
        }
        wish.tiered.show(ledger, &wish.served);
        if let Err(error) = uploaded {
            let end = ledger.state().end();
            let bases = segments.iter().map(|segment| segment.summary.base_offset);
            let first = bases.filter(|base| *base >= end).take(1).collect();
            return Err(self.stuck_or(wish, error, first).await);
        }
        // What is uploaded before the log start is known there begins with it.
        self.shrink(ledger, start_of(&wish.served), now).await?;
        wish.tiered.show(ledger, &wish.served);
        core.retention.want(&wish.served);
        Ok(Done::Some)
    }

    async fn replace(
        &self,
        wish: &Wish,
        ledger: &mut Ledger<Manifest>,
        rewritten: Rewritten,
        now: Timestamp,
    ) -> Result<Done, Failure> {
        let known = ledger.state().segments();
        let removed = rewritten.removed.iter().filter_map(|base| known.get(base));
        let rewrites = |next: &HandedOver| (next.summary.base_offset, next.rewrite);
        let rewrites: Vec<_> = rewritten.added.iter().map(rewrites).collect();
        let bases = rewrites.iter().map(|(base, _)| *base).collect();
        let replacement = Replacement {
            removed: removed.map(|segment| segment.id).collect(),
            added: rewritten.added.into_iter().map(sealed).collect(),
        };
        self.begin_upload(wish);
        let uploader = self.uploader.counted_by(Arc::clone(&wish.tiered.sent));
        let ticket = self.ticket(now)?;
        let added = uploader
            .replace(&wish.tiered.key, ledger, &replacement, ticket)
            .await;
        let added = match added {
            Ok(added) => added,
            Err(error) => return Err(self.stuck_or(wish, error, bases).await),
        };
        {
            let mut state = wish.tiered.state.lock();
            for base in &rewritten.removed {
                state.rewrites.remove(base);
            }
            state.rewrites.extend(rewrites);
        }
        self.metrics
            .tier_uploads
            .inc_by(u64::try_from(added.len()).unwrap_or(u64::MAX));
        wish.tiered.show(ledger, &wish.served);
        Ok(Done::Some)
    }

    /// What is damaged on the local disk does not go until a person has looked. The log learns of it, so that it is not read again and
    /// again for nothing.
    async fn stuck_or(&self, wish: &Wish, error: TierError, bases: Vec<Offset>) -> Failure {
        let TierError::SegmentDamaged { .. } = error else {
            return error.into();
        };
        let from = bases.first().copied().unwrap_or(Offset::ZERO);
        let served = Arc::clone(&wish.served);
        match off(move || served.log.examine(&bases)).await {
            Ok(()) => Failure::Stuck {
                from,
                reason: error.to_string(),
            },
            Err(failure) => failure,
        }
    }

    fn begin_upload(&self, wish: &Wish) {
        wish.tiered.sent.store(0, Ordering::Relaxed);
        wish.tiered.state.lock().is_uploading = true;
    }

    fn ticket(&self, now: Timestamp) -> Result<Ticket, Failure> {
        let attempt = random().map_err(|error| Failure::Local(error.to_string()))?;
        Ok(Ticket {
            author: self.author,
            attempt: u64::from_be_bytes(attempt),
            now,
        })
    }

    /// Seals the active segment if the bucket is too far behind, and makes what is sealed safe.
    async fn seal(&self, core: &Arc<Core>, wish: &Wish) -> Result<(), Failure> {
        let (core, served, before) = (Arc::clone(core), Arc::clone(&wish.served), wish.roll_before);
        off(move || {
            let now = core.now();
            let rolled = served.log.roll_if_appended_before(before, now);
            if let Err(error) = rolled {
                return Ok(Err(Failure::Local(error.to_string())));
            }
            if !served.log.has_unsynced_sealed() {
                return Ok(Ok(()));
            }
            let synced = core.store.sync(&[Arc::clone(&served.log)]).remove(0);
            if served.log.refusal().is_some() {
                core.repairs.add(&served);
            }
            served.advance(served.log.watermarks().high_watermark, &core.metrics.ack_latency);
            Ok(synced
                .map(drop)
                .map_err(|error| Failure::Local(error.to_string())))
        })
        .await?
    }

    /// Uploads what is left, also of active segments, within half a minute. Appends are over.
    pub(in crate::broker) async fn finish(&self, core: &Arc<Core>) {
        if self.is_fenced() || self.config.access == Access::Read {
            return;
        }
        let work = async {
            let _ = self.keep_catalog(core).await;
            let topics = core.topics.all();
            let archived = topics
                .iter()
                .filter(|topic| core.config.archives(&topic.name, &topic.config));
            let wishes = archived.flat_map(|topic: &Arc<Topic>| topic.partitions.iter());
            let wishes = wishes.filter_map(|served| {
                Some(Wish {
                    served: Arc::clone(served),
                    tiered: self.tiered(served, true)?,
                    uploads: true,
                    roll_before: Timestamp::MAX,
                })
            });
            let finish = |wish: Wish| async move { self.finish_one(core, &wish).await }.boxed();
            let finishing: Vec<_> = wishes.map(finish).collect();
            stream::iter(finishing)
                .buffer_unordered(JOBS)
                .for_each(|()| std::future::ready(()))
                .await;
        };
        if tokio::time::timeout(FINISH_DEADLINE, work).await.is_err() {
            tracing::warn!(waited = ?FINISH_DEADLINE, "not everything is in the archive; the next start goes on");
        }
    }

    async fn finish_one(&self, core: &Arc<Core>, wish: &Wish) {
        while !self.is_fenced() {
            if !wish
                .served
                .log
                .has_for_archive(self.end_of(wish), wish.roll_before)
            {
                return;
            }
            match self.job(core, wish).await {
                Done::Some => {}
                Done::All if wish.tiered.state.lock().is_stuck => return,
                Done::All | Done::Elsewhere => tokio::time::sleep(FINISH_PAUSE).await,
            }
        }
    }

    fn end_of(&self, wish: &Wish) -> Option<Offset> {
        let manifest = wish.tiered.manifest();
        (!manifest.segments().is_empty()).then(|| manifest.end())
    }
}

/// Returns the next segments that go to the bucket together. Blocks.
fn next_segments(
    served: &Served,
    mut end: Option<Offset>,
    now: Timestamp,
) -> Result<Result<Vec<(u64, SealedSegment)>, Failure>, crate::storage::ReadError> {
    let (mut next, mut bytes) = (Vec::new(), 0);
    loop {
        match served.log.next_to_archive(end, now)? {
            NextToArchive::Segment(segment) => {
                bytes += segment.summary.log_bytes;
                if !Uploader::goes_together(next.len() + 1, bytes) {
                    return Ok(Ok(next));
                }
                end = Some(segment.summary.next_offset);
                next.push((segment.rewrite, sealed(*segment)));
            }
            NextToArchive::Stuck { from, reason } if next.is_empty() => {
                return Ok(Err(Failure::Stuck { from, reason }));
            }
            NextToArchive::Stuck { .. } | NextToArchive::Nothing => return Ok(Ok(next)),
        }
    }
}

fn extents(tiered: &Tiered, manifest: &Manifest) -> Vec<ArchivedExtent> {
    let state = tiered.state.lock();
    let segments = manifest.segments().values();
    let extent = segments.map(|segment| {
        let rewrite = state.rewrites.get(&segment.id.base).copied().unwrap_or(0);
        ArchivedExtent::of(&segment.summary, rewrite)
    });
    extent.collect()
}

/// Turns what a log hands over into what the uploader takes.
fn sealed(next: HandedOver) -> SealedSegment {
    let parts = [
        (SectionKind::OFFSET_INDEX, next.offset_index),
        (SectionKind::TIME_INDEX, next.time_index),
        (SectionKind::TRANSACTIONS, next.transactions),
        (SectionKind::PRODUCERS, next.producers),
        (SectionKind::EPOCHS, next.epochs),
    ];
    let there = parts.into_iter().filter(|(_, bytes)| !bytes.is_empty());
    SealedSegment {
        summary: next.summary,
        log: SectionSource::Open(next.log),
        sections: there
            .map(|(kind, bytes)| (kind, SectionSource::Bytes(bytes)))
            .collect(),
    }
}

/// Runs what reads or syncs a disk off the network threads, also while the broker stops.
async fn off<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, crate::storage::ReadError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| Failure::Local(error.to_string())),
        Err(error) => Err(Failure::Local(error.to_string())),
    }
}
