//! A log of keys, and the model of what must be left of it.
//!
//! ```text
//!   record n  =  key(n), value(n) or a tombstone       each a function of n alone
//!   model     =  for each key the number of its newest record
//! ```
//!
//! Invariants
//! - A record's number is its offset, so whatever is read back is compared with what was written, byte for byte.
//! - The same workload gives the same bytes in every run.
//!
//! What is not here: passes over the log, and times (`compact`).

use std::path::Path;
use std::sync::Arc;

use super::BenchError;
use super::draw::{KEY_LEN, key_text, mixed, zipf};
use super::payload::to_u64;
use crate::env::{CacheLimits, FileCache, RealFs};
use crate::record::{Accepted, BatchBuilder, BatchOptions, Batches, Codec, DecompressLimit, Glance};
use crate::storage::{
    CleanupPolicy, Durability, FirstBatch, LogConfig, Origin, Partition, PartitionSpec, Read, RollFor, Store,
    StoreConfig,
};
use crate::types::{Offset, PartitionId, Timestamp, TopicId, TopicName, TopicPartition};

/// Uncompressed size of a batch: what producers gather unless told otherwise.
pub(super) const BATCH_BYTES: usize = 16 << 10;
/// Bytes of a record beside its key and value, at most.
const RECORD_OVERHEAD: usize = 24;
/// Small enough for several groups of segments.
const SEGMENT_BYTES: u32 = 128 << 20;
const READ_BYTES: usize = 4 << 20;
const LIMIT: DecompressLimit = DecompressLimit(64 << 20);

/// How often each key is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keys {
    /// All as often.
    Uniform,
    /// The second half as often as the first, the third a third as often.
    Zipf,
    /// In order, each once before the first comes again.
    InTurn,
}

/// What a log is filled with.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Workload {
    /// How often each key is written.
    pub keys: Keys,
    /// How many keys there are; at least 1.
    pub key_count: u32,
    /// How many records are written.
    pub records: u32,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// So many of a thousand records are tombstones.
    pub tombstones_per_mille: u32,
    /// So many of a hundred records are dirty when the pass that is measured begins; the others are clean.
    pub dirty_percent: u32,
    /// How batches are compressed. Half of a value compresses.
    pub codec: Codec,
}

impl Default for Workload {
    /// Values of 1 KiB, every other record superseded, nothing clean.
    fn default() -> Self {
        Self {
            keys: Keys::Uniform,
            key_count: 250_000,
            records: 500_000,
            value_bytes: 1024,
            tombstones_per_mille: 0,
            dirty_percent: 100,
            codec: Codec::None,
        }
    }
}

impl Workload {
    fn key(&self, n: u32) -> u32 {
        let count = u64::from(self.key_count);
        let chosen = match self.keys {
            Keys::Uniform => mixed(u64::from(n)) % count,
            Keys::Zipf => zipf(mixed(u64::from(n)), self.key_count, 1.0),
            Keys::InTurn => u64::from(n) % count,
        };
        u32::try_from(chosen).expect("less than the number of keys")
    }

    fn is_tombstone(&self, n: u32) -> bool {
        mixed(u64::from(n) | 1 << 40) % 1000 < u64::from(self.tombstones_per_mille)
    }
}

/// Values, one after the other in the same memory.
#[derive(Debug)]
struct Values {
    value: Vec<u8>,
}

impl Values {
    fn new(len: usize) -> Self {
        let text = b"a log store that compacts by key ";
        let value = text.iter().copied().cycle().take(len).collect();
        Self { value }
    }

    /// Returns the value of record `n`: every other 32 bytes are its own and do not compress.
    fn of(&mut self, n: u32) -> &[u8] {
        let mut bits = mixed(u64::from(n) << 8);
        for part in self.value.chunks_mut(64) {
            let own = part.len().min(32);
            for word in part[..own].chunks_mut(8) {
                bits = bits.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
                word.copy_from_slice(&(bits ^ (bits >> 32)).to_be_bytes()[..word.len()]);
            }
        }
        &self.value
    }
}

/// A log under a store of its own, with the model of what was written.
#[derive(Debug)]
pub(super) struct KeyedLog {
    pub(super) partition: Arc<Partition>,
    pub(super) store: Arc<Store>,
    workload: Workload,
    /// For each key the number of its newest record + 1; 0: it has none.
    newest: Vec<u32>,
    written: u32,
    values: Values,
}

impl KeyedLog {
    /// Opens an empty log in `dir`.
    pub(super) fn create(dir: &Path, workload: Workload) -> Result<Self, BenchError> {
        let files = Arc::new(FileCache::new(Arc::new(RealFs::new()), CacheLimits::default()));
        let config = StoreConfig {
            dir: dir.to_path_buf(),
            threads: 0,
        };
        let store = Arc::new(Store::open(files, config)?);
        let topic = TopicName::new("compact").expect("letters make a name");
        let spec = PartitionSpec {
            id: TopicPartition::new(topic, PartitionId(0)),
            topic_id: TopicId([7; 16]),
            config: LogConfig {
                segment_bytes: SEGMENT_BYTES,
                durability: Durability::Written,
                cleanup: CleanupPolicy::Compact,
                ..LogConfig::default()
            },
        };
        let opened = store.open_partitions(vec![spec], Timestamp(0));
        let partition = opened.into_iter().next().expect("as many results as specs")?;
        Ok(Self {
            partition,
            store,
            workload,
            newest: vec![0; usize::try_from(workload.key_count).expect("32 bits fit")],
            written: 0,
            values: Values::new(workload.value_bytes),
        })
    }

    /// Returns how many records were written.
    pub(super) fn written(&self) -> u32 {
        self.written
    }

    /// Returns the time at which the next record is written.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp(i64::from(self.written))
    }

    /// Appends records until there are `records`.
    pub(super) fn fill_to(&mut self, records: u32) -> Result<(), BenchError> {
        while self.written < records {
            let batch = self.next_batch(records);
            self.append(&batch)?;
        }
        Ok(())
    }

    /// Appends what [`next_batch`](Self::next_batch) has built.
    pub(super) fn append(&self, batch: &Accepted) -> Result<(), BenchError> {
        self.partition.append(batch, Origin::Client, self.now())?;
        Ok(())
    }

    /// Builds the batch that is appended next, which ends with record `until` at the latest.
    pub(super) fn next_batch(&mut self, until: u32) -> Accepted {
        let options = BatchOptions {
            codec: self.workload.codec,
            ..BatchOptions::default()
        };
        let mut builder = BatchBuilder::new(options);
        let room = KEY_LEN + self.workload.value_bytes + RECORD_OVERHEAD;
        let mut n = self.written;
        while n < until {
            let key = self.workload.key(n);
            let value = (!self.workload.is_tombstone(n)).then(|| self.values.of(n));
            builder
                .append(Some(Timestamp(i64::from(n))), Some(&key_text(key)), value, &[])
                .expect("a batch of a load is far below what the format holds");
            n += 1;
            self.newest[place(key)] = n;
            if builder.size_bytes() + room > BATCH_BYTES {
                break;
            }
        }
        self.written = n;
        builder.build().expect("it has a record")
    }

    /// Seals the active segment and syncs, so that a pass may clean everything that was written.
    pub(super) fn seal(&self) -> Result<(), BenchError> {
        self.partition.roll_for_compaction(self.now(), RollFor::Command)?;
        self.sync()
    }

    /// Syncs everything that was appended.
    pub(super) fn sync(&self) -> Result<(), BenchError> {
        for synced in self.store.sync(&[Arc::clone(&self.partition)]) {
            synced?;
        }
        Ok(())
    }

    /// Reads the log from its start and checks that it says of every key what was written last, and that before `clean_to`
    /// it says nothing else.
    pub(super) fn verify(&mut self, clean_to: Offset) -> Result<(), BenchError> {
        let mut found = vec![0_u32; self.newest.len()];
        let (mut from, until) = (Offset::ZERO, self.partition.watermarks().log_end);
        while from < until {
            let slice = self.partition.read(&Read {
                from,
                until,
                times: None,
                max_bytes: READ_BYTES,
                first: FirstBatch::Whole,
            })?;
            for batch in Batches::over(slice.bytes, 0) {
                let (_, batch) = batch.map_err(|damage| different(damage.to_string()))?;
                batch
                    .verify_crc()
                    .map_err(|damage| different(damage.to_string()))?;
                let payload = batch
                    .open(LIMIT)
                    .map_err(|damage| different(damage.to_string()))?;
                for record in payload.glances() {
                    let record = record.map_err(|damage| different(damage.to_string()))?;
                    self.verify_record(&record, clean_to, &mut found)?;
                }
            }
            from = slice.next_offset;
        }
        match found
            .iter()
            .zip(&self.newest)
            .position(|(found, newest)| found != newest)
        {
            Some(key) => Err(different(format!(
                "the newest record of key {key} is number {}, expected {}",
                found[key], self.newest[key]
            ))),
            None => Ok(()),
        }
    }

    fn verify_record(
        &mut self,
        record: &Glance<'_>,
        clean_to: Offset,
        found: &mut [u32],
    ) -> Result<(), BenchError> {
        let offset = record.offset;
        let n = u32::try_from(offset.0).ok().filter(|n| *n < self.written);
        let n = n.ok_or_else(|| different(format!("no record was written at offset {offset}")))?;
        let key = self.workload.key(n);
        let value = (!self.workload.is_tombstone(n)).then(|| self.values.of(n));
        if record.key != Some(&key_text(key)[..]) || record.value != value {
            return Err(different(format!("the record at offset {offset} has changed")));
        }
        // A pass knows nothing of records that came after it.
        let newest = self.newest[place(key)];
        if newest != n + 1 && i64::from(newest) <= clean_to.0 {
            return Err(different(format!(
                "the record at offset {offset} should have gone"
            )));
        }
        let seen = &mut found[place(key)];
        *seen = (*seen).max(n + 1);
        Ok(())
    }

    /// Closes the log.
    pub(super) fn close(self) -> Result<(), BenchError> {
        drop(self.partition);
        Ok(self.store.close()?.clean()?)
    }

    /// Returns the bytes of keys and values that are in the log before its first pass.
    pub(super) fn logical_bytes(workload: &Workload) -> u64 {
        let values = (0..workload.records)
            .filter(|n| !workload.is_tombstone(*n))
            .count();
        u64::from(workload.records) * to_u64(KEY_LEN) + to_u64(values) * to_u64(workload.value_bytes)
    }
}

fn place(key: u32) -> usize {
    usize::try_from(key).expect("32 bits fit")
}

fn different(what: String) -> BenchError {
    BenchError::Compaction { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Workload = Workload {
        keys: Keys::Zipf,
        key_count: 50,
        records: 400,
        value_bytes: 100,
        tombstones_per_mille: 100,
        dirty_percent: 100,
        codec: Codec::None,
    };

    #[test]
    fn what_was_written_is_verified_and_a_log_that_was_not_cleaned_is_told_from_one_that_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = KeyedLog::create(dir.path(), SMALL).unwrap();
        log.fill_to(SMALL.records).unwrap();
        log.verify(Offset::ZERO).unwrap();
        let error = log.verify(Offset(400)).unwrap_err().to_string();
        assert!(error.contains("should have gone"), "{error}");
    }

    #[test]
    fn a_lost_record_and_a_changed_one_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = KeyedLog::create(dir.path(), SMALL).unwrap();
        log.fill_to(SMALL.records).unwrap();
        log.newest[7] += 1;
        let lost = log.verify(Offset::ZERO).unwrap_err().to_string();
        assert!(lost.contains("the newest record of key 7"), "{lost}");
        log.values = Values::new(99);
        let changed = log.verify(Offset::ZERO).unwrap_err().to_string();
        assert!(changed.contains("has changed"), "{changed}");
    }

    #[test]
    fn zipf_prefers_the_first_keys_and_reaches_the_last() {
        let mut counts = [0_u32; 50];
        for n in 0..100_000 {
            counts[place(SMALL.key(n))] += 1;
        }
        assert!(
            counts[0] > 3 * counts[3] / 2 && counts[3] > 4 * counts[40],
            "{counts:?}"
        );
        assert!(counts.iter().all(|count| *count > 0));
    }

    #[test]
    fn about_half_of_a_value_is_its_own() {
        let mut values = Values::new(1024);
        let (one, other) = (values.of(1).to_vec(), values.of(2).to_vec());
        let same = one.iter().zip(&other).filter(|(a, b)| a == b).count();
        assert!((500..560).contains(&same), "{same}");
    }
}
