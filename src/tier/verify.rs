//! Verification: does the bucket hold what it says it holds? Reads the store, never a cache, and writes nothing.
//!
//! ```text
//! claims, catalog -> every key once: names, topics     strays are told
//!                 -> each partition: list its objects, then read its manifest
//!                       -> each segment: there? as long as it says? footer and trailer those of the manifest?
//!                            -> in depth: every byte (`verify_object`), and every entry of the ledgers
//!                       -> each object that is left over: on its way, or an orphan?
//! ```
//!
//! Objects are listed before the manifest is read, so what is uploaded meanwhile is in the manifest and not missed in the listing. A
//! listing that lags is no evidence: an object that it does not have is asked for by name, and one that is not there is missing only if
//! the manifest, read again, still names it.
//!
//! **On its way** is an object that no manifest names and that is younger than [`VerifyOptions::in_flight_ms`], or a day instead of an hour,
//! say ([`OWNERS_PATIENCE`]), for one of the epoch that owns the bucket. A clock of the store that is ahead makes it younger.
//!
//! Invariants
//! - What could not be looked at is told, and never passes for sound; after [`MAX_UNANSWERED`] such calls verification gives up.
//! - The root hash is there only if every object that it covers was read.
//! - Memory: a manifest and a listing for each of [`PARTITIONS`] partitions, and what a read of an object takes for [`SEGMENTS`] of each.
//!
//! What is not here: repair, and removing orphans.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;

use super::catalog::{ArchivedTopic, Catalog};
use super::epoch::Owner;
use super::error::{TierError, Trouble};
use super::keys::{CATALOG, EPOCHS, ObjectId, PROBE, PartitionKey, TOPICS, number_of, numbered};
use super::ledger::{ANCHOR_EVERY, Ledger};
use super::ledger_entry::{LedgerEntry, MAX_LEN};
use super::manifest::{Manifest, TieredSegment};
use super::read::read_end;
use super::root_hash::{Hash, RootHash, SegmentsHash};
use super::state::State;
use super::store::{Listed, TierStore};
use super::verify_object::check_object;
use crate::storage::SegmentFlags;
use crate::types::{LeaderEpoch, Offset, PartitionId, Timestamp};

/// Partitions that are looked at at the same time.
const PARTITIONS: usize = 4;
/// Segments of one partition that are looked at at the same time.
const SEGMENTS: usize = 4;
/// Entries of a ledger that are fetched at the same time.
const ENTRIES: usize = 4;
/// Calls that may fail before it is the store that is at fault, not an object.
const MAX_UNANSWERED: u32 = 16;
/// Objects of one partition that a listing may have.
const MAX_LISTED: usize = 2 << 20;
/// How many times longer an object of the owner's epoch may be on its way.
const OWNERS_PATIENCE: i64 = 24;

/// How much is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Depth {
    /// Of each object its end, which has the checksums of the rest.
    #[default]
    Footers,
    /// Every byte.
    Bytes,
}

/// What to verify, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerifyOptions {
    /// How much is read.
    pub depth: Depth,
    /// The present.
    pub now: Timestamp,
    /// So old an object may be that no manifest names and that is no orphan yet, in milliseconds.
    pub in_flight_ms: i64,
}

/// What is wrong with an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FindingKind {
    /// It is named and not there.
    Missing,
    /// It is there and nothing names it.
    Orphan,
    /// It has another length than its manifest says.
    Length,
    /// Its bytes are not those that were put there, or do not fit together.
    Damaged,
    /// Offsets before it are in no segment.
    Gap,
    /// Its key is none of an archive's.
    Name,
    /// The store did not give it, for a reason that says nothing of the object.
    Unread,
}

impl FindingKind {
    /// Returns the word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Orphan => "orphan",
            Self::Length => "length",
            Self::Damaged => "damaged",
            Self::Gap => "gap",
            Self::Name => "name",
            Self::Unread => "unread",
        }
    }
}

/// Something that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// The object, with the bucket.
    pub key: String,
    /// What exactly.
    pub reason: String,
}

/// What was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Topics of the catalog.
    pub topics: u64,
    /// Partitions of them.
    pub partitions: u64,
    /// Segments that manifests name, as far as manifests were read.
    pub named_segments: u64,
    /// Segments that were looked at.
    pub segments: u64,
    /// Records in them, as they say.
    pub records: u64,
    /// Bytes of their objects.
    pub object_bytes: u64,
    /// Bytes of segments that were read.
    pub read_bytes: u64,
    /// Objects that wait to be swept.
    pub waiting: u64,
    /// Objects on their way.
    pub in_flight: u64,
    /// What probes left behind.
    pub probes: u64,
    /// Findings.
    pub findings: u64,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// What was seen.
    pub counts: Counts,
    /// The root hash; `None` when some of what it covers could not be read.
    pub root: Option<Hash>,
}

/// What is told on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told<'a> {
    /// Something is wrong.
    Finding(&'a Finding),
    /// So much was seen until now.
    Progress(&'a Counts),
}

/// Verifies the archive in `store` and tells of each finding as it comes.
///
/// # Errors
/// [`TierError::Call`] when the store does not answer, when claims cannot be read, or when there is no archive at all.
pub async fn verify(
    store: &TierStore,
    options: VerifyOptions,
    tell: &(dyn Fn(Told<'_>) + Sync),
) -> Result<Report, TierError> {
    let verifier = Verifier {
        store,
        options,
        tell,
        owner: None,
        counts: Mutex::default(),
        unanswered: AtomicU32::new(0),
    };
    verifier.run().await
}

struct Verifier<'a> {
    store: &'a TierStore,
    options: VerifyOptions,
    tell: &'a (dyn Fn(Told<'_>) + Sync),
    /// The epoch that owns the bucket.
    owner: Option<LeaderEpoch>,
    counts: Mutex<Counts>,
    unanswered: AtomicU32,
}

/// What a partition adds to the root hash.
struct PartitionHash {
    log_start: Offset,
    segments: Hash,
}

impl Verifier<'_> {
    async fn run(mut self) -> Result<Report, TierError> {
        let mut complete = true;
        match Ledger::open(self.store.clone(), EPOCHS.to_owned(), Owner::default()).await {
            Ok(claims) => {
                self.owner = claims.state().claim().map(|owner| owner.epoch);
                self.history(&claims).await?;
            }
            Err(error) => self.note_damage(error)?,
        }
        let catalog = Ledger::open(self.store.clone(), CATALOG.to_owned(), Catalog::default()).await;
        let catalog = match catalog {
            Ok(ledger) if ledger.head().is_none() && self.owner.is_none() && self.is_clean() => {
                return Err(TierError::Call {
                    operation: "verification",
                    key: self.store.url().to_owned(),
                    trouble: Trouble::NotFound,
                    source: "there is no archive".into(),
                });
            }
            Ok(ledger) => {
                self.history(&ledger).await?;
                ledger.state().clone()
            }
            Err(error) => {
                complete = false;
                self.note_damage(error)?;
                Catalog::default()
            }
        };
        // Without the catalog nobody could say whose an object is.
        if complete {
            self.strays(&catalog).await?;
        }
        let root = self.topics(&catalog).await?;
        let counts = *self.counts.lock();
        Ok(Report {
            counts,
            root: root.filter(|_| complete),
        })
    }

    /// Verifies all partitions, and returns the root hash.
    async fn topics(&self, catalog: &Catalog) -> Result<Option<Hash>, TierError> {
        let mut root = Some(RootHash::new());
        for topic in catalog.topics().values() {
            self.count(|counts| counts.topics += 1);
            if let Some(root) = &mut root {
                root.topic(topic);
            }
            let mut partitions = stream::iter(0..topic.partitions)
                .map(|partition| self.partition(topic, PartitionId(partition)))
                .buffered(PARTITIONS)
                .enumerate();
            while let Some((number, hash)) = partitions.next().await {
                match (hash?, &mut root) {
                    (Some(hash), Some(root)) => {
                        let number = i32::try_from(number).expect("a topic has fewer than 2^31 partitions");
                        root.partition(PartitionId(number), hash.log_start, hash.segments);
                    }
                    _ => root = None,
                }
            }
        }
        Ok(root.map(RootHash::finish))
    }

    async fn partition(
        &self,
        topic: &ArchivedTopic,
        partition: PartitionId,
    ) -> Result<Option<PartitionHash>, TierError> {
        let key = PartitionKey {
            topic: topic.name.clone(),
            topic_id: topic.id,
            partition,
        };
        self.count(|counts| counts.partitions += 1);
        let mut listed = match self.listed(&key).await {
            Ok(listed) => listed,
            Err(error) => {
                self.note(error)?;
                BTreeMap::new()
            }
        };
        let manifest = Ledger::open(self.store.clone(), key.manifest(), Manifest::empty(&key)).await;
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(error) => return self.note(error).map(|()| None),
        };
        self.history(&manifest).await?;
        let state = manifest.state();
        let log_start = state.log_start();
        let named = u64::try_from(state.segments().len()).expect("64 bits fit");
        self.count(|counts| counts.named_segments += named);
        self.gaps(topic, &key, state);
        let mut hash = Some(SegmentsHash::new());
        let found: BTreeMap<ObjectId, u64> = state
            .segments()
            .values()
            .filter_map(|segment| {
                listed
                    .remove(&segment.id)
                    .map(|object| (segment.id, object.len_bytes))
            })
            .collect();
        let mut ends = stream::iter(state.segments().values())
            .map(|segment| self.segment(&key, segment, found.get(&segment.id).copied()))
            .buffered(SEGMENTS)
            .zip(stream::iter(state.segments().values()));
        while let Some((end, segment)) = ends.next().await {
            match (end?, &mut hash) {
                (Some(end), Some(hash)) => hash.segment(&key.segment(segment.id), end),
                _ => hash = None,
            }
        }
        drop(ends);
        self.left_over(&key, manifest, listed).await?;
        Ok(hash.map(|hash| PartitionHash {
            log_start,
            segments: hash.finish(),
        }))
    }

    /// Reads all that a ledger must still have, also what came before its newest snapshot.
    async fn history<S: State>(&self, ledger: &Ledger<S>) -> Result<(), TierError> {
        let (Some(head), Depth::Bytes) = (ledger.head(), self.options.depth) else {
            return Ok(());
        };
        let path = ledger.path();
        let mut entries = stream::iter(head.number - head.number % ANCHOR_EVERY..=head.number)
            .map(|number| async move { (number, self.store.get(&numbered(path, number), MAX_LEN).await) })
            .buffered(ENTRIES);
        let mut before = None;
        while let Some((number, found)) = entries.next().await {
            let key = self.store.name(&numbered(path, number));
            let bytes = match found {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    let reason = "it is not there, and entries behind it are".to_owned();
                    self.find(FindingKind::Missing, key, reason);
                    before = None;
                    continue;
                }
                Err(error) => {
                    self.note(error)?;
                    before = None;
                    continue;
                }
            };
            let reason = match LedgerEntry::decode(&bytes, S::KIND, number) {
                Err(damage) => Some(damage.to_string()),
                Ok(entry) if before.is_some_and(|crc| crc != entry.previous_crc) => {
                    Some("it does not follow the entry before it".to_owned())
                }
                Ok(_) => None,
            };
            before = reason.is_none().then(|| crc32fast::hash(&bytes));
            if let Some(reason) = reason {
                self.find(FindingKind::Damaged, key, reason);
            }
        }
        Ok(())
    }

    async fn listed(&self, key: &PartitionKey) -> Result<BTreeMap<ObjectId, Listed>, TierError> {
        let folder = key.segments();
        let mut listing = self.store.list(&folder);
        let mut found = BTreeMap::new();
        while let Some(object) = listing.next().await? {
            if let Some(id) = ObjectId::parse_key(&object.key) {
                found.insert(id, object);
            }
            if found.len() > MAX_LISTED {
                return Err(TierError::Damaged {
                    key: self.store.name(&folder),
                    reason: format!("more than {MAX_LISTED} objects lie there"),
                });
            }
        }
        Ok(found)
    }

    /// Tells of offsets between two segments that are in none, unless they were compacted away.
    fn gaps(&self, topic: &ArchivedTopic, key: &PartitionKey, manifest: &Manifest) {
        let policy = topic.settings.get("cleanup.policy");
        if policy.is_some_and(|policy| policy.contains("compact")) {
            return;
        }
        let segments = manifest.segments().values();
        for (before, behind) in segments.clone().zip(segments.skip(1)) {
            let cleaned = |segment: &TieredSegment| segment.summary.flags.contains(SegmentFlags::CLEANED);
            if before.next_offset() < behind.id.base && !cleaned(before) && !cleaned(behind) {
                self.find(
                    FindingKind::Gap,
                    self.store.name(&key.segment(behind.id)),
                    format!(
                        "offsets {} to {} before it are in no segment",
                        before.next_offset(),
                        behind.id.base.0 - 1
                    ),
                );
            }
        }
    }

    /// Looks at one segment; returns the hash of its end if that could be read.
    async fn segment(
        &self,
        key: &PartitionKey,
        segment: &TieredSegment,
        listed: Option<u64>,
    ) -> Result<Option<Hash>, TierError> {
        let outcome = self.look_at(key, segment, listed).await;
        self.count(|counts| {
            counts.segments += 1;
            counts.records += segment.summary.records;
            counts.object_bytes += segment.object_bytes;
        });
        let counts = *self.counts.lock();
        (self.tell)(Told::Progress(&counts));
        match outcome {
            Ok(end) => Ok(end),
            Err(error) => self.note(error).map(|()| None),
        }
    }

    async fn look_at(
        &self,
        key: &PartitionKey,
        segment: &TieredSegment,
        listed: Option<u64>,
    ) -> Result<Option<Hash>, TierError> {
        let object = key.segment(segment.id);
        let len = match listed {
            Some(len) => Some(len),
            None => self.store.len_of(&object).await?,
        };
        match len {
            None => {
                if self.is_named_still(key, segment.id).await? {
                    let reason = "the manifest names it, and it is not there".to_owned();
                    self.find(FindingKind::Missing, self.store.name(&object), reason);
                }
                return Ok(None);
            }
            Some(len) if len != segment.object_bytes => {
                let reason = format!("it has {len} bytes of {}", segment.object_bytes);
                self.find(FindingKind::Length, self.store.name(&object), reason);
                return Ok(None);
            }
            Some(_) => {}
        }
        let (footer, end) = read_end(self.store, key, segment).await?;
        let read = |bytes: u64| self.count(|counts| counts.read_bytes += bytes);
        read(u64::try_from(end.len()).expect("64 bits fit"));
        if self.options.depth == Depth::Bytes
            && let Err(error) = check_object(self.store, &object, &footer, &read).await
        {
            self.note(error)?;
        }
        Ok(Some(Hash::of(&end)))
    }

    async fn is_named_still(&self, key: &PartitionKey, id: ObjectId) -> Result<bool, TierError> {
        let manifest = Ledger::open(self.store.clone(), key.manifest(), Manifest::empty(key)).await?;
        let segment = manifest.state().segments().get(&id.base);
        Ok(segment.is_some_and(|segment| segment.id == id))
    }

    /// Tells the orphans among objects that were listed and are no segments.
    async fn left_over(
        &self,
        key: &PartitionKey,
        mut manifest: Ledger<Manifest>,
        mut listed: BTreeMap<ObjectId, Listed>,
    ) -> Result<(), TierError> {
        for waiting in manifest.state().waiting() {
            if listed.remove(&waiting.id).is_some() {
                self.count(|counts| counts.waiting += 1);
            }
        }
        if listed.is_empty() {
            return Ok(());
        }
        if let Err(error) = manifest.refresh().await {
            self.note(error)?;
        }
        let state = manifest.state();
        for (id, object) in listed {
            let is_segment = state.segments().get(&id.base).is_some_and(|found| found.id == id);
            if is_segment || state.waiting().any(|waiting| waiting.id == id) {
                continue;
            }
            if self.is_on_its_way(&object, Some(id.epoch)) {
                self.count(|counts| counts.in_flight += 1);
                continue;
            }
            match self.store.len_of(&object.key).await {
                // It was swept since it was listed.
                Ok(None) => {}
                Ok(Some(_)) => self.find(
                    FindingKind::Orphan,
                    self.store.name(&key.segment(id)),
                    "no manifest names it".to_owned(),
                ),
                Err(error) => self.note(error)?,
            }
        }
        Ok(())
    }

    fn is_on_its_way(&self, object: &Listed, epoch: Option<LeaderEpoch>) -> bool {
        let age_ms = self.options.now.0.saturating_sub(object.modified.0);
        let patience = if epoch.is_some() && epoch >= self.owner {
            OWNERS_PATIENCE
        } else {
            1
        };
        age_ms < self.options.in_flight_ms.saturating_mul(patience)
    }

    /// Looks at every key there is: its name, and whether its topic is known.
    async fn strays(&self, catalog: &Catalog) -> Result<(), TierError> {
        let topics = catalog.topics().values();
        let known: BTreeMap<String, i32> = topics
            .map(|topic| (format!("{}/{}", topic.name, topic.id), topic.partitions))
            .collect();
        let removed = catalog.removed().iter();
        let removed: BTreeMap<String, ()> = removed
            .map(|(id, (name, _))| (format!("{name}/{id}"), ()))
            .collect();
        let mut listing = self.store.list("");
        loop {
            let object = match listing.next().await {
                Ok(Some(object)) => object,
                Ok(None) => return Ok(()),
                Err(error) => return self.note(error),
            };
            match place(&object.key) {
                Place::Known => {}
                Place::Probe => self.count(|counts| counts.probes += 1),
                Place::Nowhere => {
                    let reason = "an archive has no such key".to_owned();
                    self.find(FindingKind::Name, self.store.name(&object.key), reason);
                }
                Place::Topic { topic, partition } => match known.get(topic) {
                    Some(partitions) if partition < *partitions => {}
                    _ if removed.contains_key(topic) => self.count(|counts| counts.waiting += 1),
                    _ if self.is_on_its_way(&object, None) => self.count(|counts| counts.in_flight += 1),
                    _ => {
                        let reason = "the catalog has no such partition".to_owned();
                        self.find(FindingKind::Orphan, self.store.name(&object.key), reason);
                    }
                },
            }
        }
    }

    fn is_clean(&self) -> bool {
        self.counts.lock().findings == 0
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock());
    }

    fn find(&self, kind: FindingKind, key: String, reason: String) {
        self.count(|counts| counts.findings += 1);
        (self.tell)(Told::Finding(&Finding { kind, key, reason }));
    }

    /// Tells damage of what all else hangs on as a finding.
    ///
    /// # Errors
    /// Whatever else went wrong: without it there is nothing to go on with.
    fn note_damage(&self, error: TierError) -> Result<(), TierError> {
        match error {
            TierError::Damaged { .. } => self.note(error),
            error => Err(error),
        }
    }

    /// Tells an error about an object as a finding.
    ///
    /// # Errors
    /// The error, when it is none of an object, or one of too many.
    fn note(&self, error: TierError) -> Result<(), TierError> {
        match error {
            TierError::Damaged { key, reason } => self.find(FindingKind::Damaged, key, reason),
            TierError::Call {
                trouble: Trouble::NotFound,
                key,
                source,
                ..
            } => self.find(FindingKind::Missing, key, source.to_string()),
            TierError::Call {
                ref key, ref source, ..
            } if self.unanswered.fetch_add(1, Ordering::Relaxed) < MAX_UNANSWERED => {
                self.find(FindingKind::Unread, key.clone(), source.to_string());
            }
            error => return Err(error),
        }
        Ok(())
    }
}

/// What a key is, by its name.
#[derive(PartialEq, Eq, Debug)]
enum Place<'a> {
    /// A ledger of the whole archive.
    Known,
    Probe,
    /// A part of a topic, `name/id`.
    Topic {
        topic: &'a str,
        partition: i32,
    },
    Nowhere,
}

fn place(key: &str) -> Place<'_> {
    let parts: Vec<&str> = key.split('/').collect();
    match parts.as_slice() {
        [EPOCHS | CATALOG, _] if number_of(key).is_some() => Place::Known,
        [PROBE, _] => Place::Probe,
        [TOPICS, name, id, partition, folder, _] => {
            let sound = match *folder {
                "manifest" => number_of(key).is_some(),
                "segments" => ObjectId::parse_key(key).is_some(),
                _ => false,
            };
            let number: Option<i32> = partition.parse().ok();
            match number {
                Some(number) if sound && number >= 0 && number.to_string() == *partition => Place::Topic {
                    topic: &key[TOPICS.len() + 1..][..name.len() + 1 + id.len()],
                    partition: number,
                },
                _ => Place::Nowhere,
            }
        }
        _ => Place::Nowhere,
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
