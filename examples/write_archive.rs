//! Uploads the sealed segments of a data directory that no server has open, by the library alone.
//!
//! ```text
//! cargo run --example write_archive -- ./siltstone-data file:///tmp/archive
//! examples/read_archive.py /tmp/archive
//! ```
//!
//! What a server does by itself, in the order of an upload: claim the bucket, name the topics, put each segment and then its line of the
//! manifest. Run again, it adds what is new. The active segment of each partition is left out.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use siltstone::env::{Clock, Fs, OpenMode, RealFs, SystemClock};
use siltstone::storage::{
    MANIFEST_FILE_NAME, Manifest as LocalManifest, MetaProperties, PartitionMetadata, SegmentFlags,
    SegmentSummary,
};
use siltstone::tier::{
    ArchivedTopic, CATALOG, CallLimits, Catalog, CatalogEdit, Claimant, Claims, Ledger, Manifest,
    PartitionKey, SealedSegment, SectionKind, SectionSource, Ticket, TierStore, Uploaded, Uploader, WriterId,
};
use siltstone::types::{LeaderEpoch, TopicPartition};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, url] = arguments.as_slice() else {
        return Err("two arguments: a data directory, and the address of an archive".into());
    };
    let (dir, fs, clock) = (
        PathBuf::from(dir),
        Arc::new(RealFs::default()) as Arc<dyn Fs>,
        SystemClock,
    );
    let store = TierStore::open(url, CallLimits::default())?;
    store.probe(random()?).await?;
    let mut claims = Claims::read(store.clone()).await?;
    let claimant = Claimant {
        cluster_id: MetaProperties::decode(&read(&*fs, &dir.join(MetaProperties::FILE_NAME))?)?
            .cluster_id
            .ok_or("the data directory names no cluster")?,
        host: "write_archive".to_owned(),
        least_epoch: LeaderEpoch(0),
        writer: WriterId(random_bytes()?),
    };
    let author = claims.claim(&claimant, clock.now()).await?;
    let mut catalog = Ledger::open(store.clone(), CATALOG.to_owned(), Catalog::default()).await?;
    let uploader = Uploader::new(Arc::clone(&fs), store.clone());
    let mut uploaded = 0;
    for (partition, sealed) in partitions(&*fs, &dir)? {
        let put = |catalog: &Catalog| {
            name_partition(catalog, &partition).map(|topic| vec![CatalogEdit::Put(topic)])
        };
        catalog.append(author, clock.now(), put).await?;
        let empty = Manifest::empty(&partition);
        let mut manifest = Ledger::open(store.clone(), partition.manifest(), empty).await?;
        for segment in sealed {
            let ticket = Ticket {
                author,
                attempt: random()?,
                now: clock.now(),
            };
            if let Uploaded::Now(_) = uploader
                .upload(&partition, &mut manifest, &segment, ticket)
                .await?
            {
                uploaded += 1;
            }
        }
    }
    std::io::Write::write_fmt(
        &mut std::io::stdout(),
        format_args!("{uploaded} segments uploaded to {store}\n"),
    )?;
    Ok(())
}

/// The topic as the catalog should have it, if that is not how it has it.
fn name_partition(catalog: &Catalog, partition: &PartitionKey) -> Option<ArchivedTopic> {
    let known = catalog.topics().get(&partition.topic_id);
    let partitions = partition.partition.0 + 1;
    let is_new = known.is_none_or(|known| known.partitions < partitions);
    is_new.then(|| ArchivedTopic {
        id: partition.topic_id,
        name: partition.topic.clone(),
        partitions,
        settings: known.map(|known| known.settings.clone()).unwrap_or_default(),
    })
}

/// A partition and its sealed segments, by offset.
type Sealed = (PartitionKey, Vec<SealedSegment>);

/// The partitions of a data directory.
fn partitions(fs: &dyn Fs, dir: &Path) -> Result<Vec<Sealed>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs.list(dir)? {
        let Some(TopicPartition { topic, partition }) = TopicPartition::parse_dir_name(&entry.name) else {
            continue;
        };
        let dir = dir.join(entry.name);
        let metadata = PartitionMetadata::decode(&read(fs, &dir.join(PartitionMetadata::FILE_NAME))?)?;
        let manifest = LocalManifest::decode(&read(fs, &dir.join(MANIFEST_FILE_NAME))?)?.manifest;
        let segments = manifest.segments().values();
        let sealed = segments.filter(|summary| summary.flags.contains(SegmentFlags::SEALED));
        let key = PartitionKey {
            topic,
            topic_id: metadata.topic_id,
            partition,
        };
        found.push((key, sealed.map(|summary| hand_over(fs, &dir, summary)).collect()));
    }
    Ok(found)
}

fn hand_over(fs: &dyn Fs, dir: &Path, summary: &SegmentSummary) -> SealedSegment {
    let path = |base: i64, suffix: &str| dir.join(format!("{base:020}.{suffix}"));
    let (base, next) = (summary.base_offset.0, summary.next_offset.0);
    let files = [
        (SectionKind::OFFSET_INDEX, path(base, "index")),
        (SectionKind::TIME_INDEX, path(base, "timeindex")),
        (SectionKind::TRANSACTIONS, path(base, "txnindex")),
        (SectionKind::PRODUCERS, path(next, "snapshot")),
        (SectionKind::EPOCHS, dir.join("leader-epoch-checkpoint")),
    ];
    let there = files.into_iter().filter(|(_, path)| fs.stat(path).is_ok());
    SealedSegment {
        summary: summary.clone(),
        log: SectionSource::File(path(base, "log")),
        sections: there
            .map(|(kind, path)| (kind, SectionSource::File(path)))
            .collect(),
    }
}

fn read(fs: &dyn Fs, path: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let file = fs
        .open(path, OpenMode::Read)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let mut bytes = vec![0; usize::try_from(file.len_bytes()?)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn random_bytes() -> Result<[u8; 16], Box<dyn Error>> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

fn random() -> Result<u64, Box<dyn Error>> {
    Ok(u64::from_be_bytes(
        *random_bytes()?.first_chunk().ok_or("16 bytes have 8")?,
    ))
}
