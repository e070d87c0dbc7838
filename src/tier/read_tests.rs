//! Tests of `super`: cold answers are the local ones, for as few bytes as the header says.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::testing::{CountingStore, Fault, FaultyStore, Kind, Local, NOW, bucket, memory, partition};
use super::*;
use crate::record::{Accepted, BatchBuilder, BatchOptions, Batches, Codec};
use crate::storage::{LogConfig, Partition};
use crate::tier::{CHUNK_BYTES, CacheLimits};
use crate::types::Isolation;

/// Records of one batch: times, and bytes of each value.
fn batch(times: &[i64], len: usize, codec: Codec) -> Accepted {
    let mut builder = BatchBuilder::new(BatchOptions {
        codec,
        ..BatchOptions::default()
    });
    for (number, time) in times.iter().enumerate() {
        let value: Vec<u8> = (0..len).map(|at| (at * 7 + number).to_be_bytes()[7]).collect();
        builder
            .append(Some(Timestamp(*time)), None, Some(&value), &[])
            .expect("small");
    }
    builder.build().expect("it has records")
}

fn cache() -> Arc<ChunkCache> {
    ChunkCache::in_memory(CacheLimits::default())
}

async fn cold(local: &Local, store: &TierStore) -> ColdLog {
    let manifest = local.upload_all(store).await;
    ColdLog::new(
        store.clone(),
        partition(),
        Arc::new(manifest.state().clone()),
        cache(),
    )
}

fn ask(from: i64, until: Offset, max_bytes: usize, times: Option<Range<Timestamp>>) -> Read {
    Read {
        from: Offset(from),
        until,
        times,
        max_bytes,
        first: FirstBatch::Whole,
    }
}

/// Reads on until the end; every call gets on.
async fn all_cold(cold: &ColdLog, mut read: Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    while read.from < read.until {
        let slice = cold.read(&read).await.expect("read");
        assert!(
            slice.next_offset > read.from,
            "a read from {} does not get on",
            read.from
        );
        bytes.extend_from_slice(&slice.bytes);
        read.from = slice.next_offset;
    }
    bytes
}

fn all_local(log: &Partition, mut read: Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    while read.from < read.until {
        let slice = log.read(&read).expect("read");
        bytes.extend_from_slice(&slice.bytes);
        read.from = slice.next_offset;
    }
    bytes
}

fn codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(Codec::ALL.to_vec())
}

fn batches() -> impl Strategy<Value = Vec<Accepted>> {
    let times = proptest::collection::vec(0..200i64, 1..6);
    let one = (times, 1..150usize, codec()).prop_map(|(times, len, codec)| {
        let times: Vec<i64> = times.iter().map(|time| NOW.0 + time).collect();
        batch(&times, len, codec)
    });
    proptest::collection::vec(one, 5..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn every_cold_answer_is_the_local_one(
        batches in batches(),
        reads in proptest::collection::vec((0.0..1.0f64, 0.0..1.0f64, 1..3000usize, proptest::option::of((0..210i64, 0..120i64))), 6),
        lookups in proptest::collection::vec((0.0..1.0f64, -5..210i64), 6),
    ) {
        let config = LogConfig { segment_bytes: 1500, index_interval_bytes: 300, ..LogConfig::default() };
        let local = Local::of(&batches, config);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let store = bucket(memory());
        let cold = runtime.block_on(cold(&local, &store));
        let end = cold.manifest().end();
        let (_store, log) = local.open();
        let place = |part: f64| (part * end.0 as f64) as i64;
        for (from, until, max_bytes, times) in reads {
            let times = times.map(|(from, len)| Timestamp(NOW.0 + from)..Timestamp(NOW.0 + from + len));
            let read = ask(place(from), Offset(place(until)), max_bytes, times);
            let expected = all_local(&log, read.clone());
            prop_assert!(runtime.block_on(all_cold(&cold, read.clone())) == expected, "{read:?}");
            if let Ok(slice) = log.read(&Read { first: FirstBatch::IfItFits, ..read.clone() }) && read.from < read.until {
                let found = runtime.block_on(cold.read(&Read { first: FirstBatch::IfItFits, ..read.clone() })).expect("read");
                prop_assert_eq!(found.bytes.is_empty(), slice.bytes.is_empty(), "{:?}", read);
            }
        }
        for (bound, at) in lookups {
            let (at, bound) = (Timestamp(NOW.0 + at), Offset(place(bound)));
            let find = FindTime { at, from: Offset::ZERO, bound, max_decompressed_bytes: 1 << 20 };
            let expected = log.find_time(at, bound).expect("found");
            prop_assert_eq!(runtime.block_on(cold.find_time(&find)).expect("found"), expected, "{:?}", find);
        }
    }
}

/// One sealed segment of some 12 MB with a batch every 20 KB, and its reader.
async fn twelve_megabytes() -> (Local, CountingStore, ColdLog) {
    let config = LogConfig {
        segment_bytes: 16 << 20,
        ..LogConfig::default()
    };
    let times: Vec<i64> = (0..700).map(|number| NOW.0 + 10 * number).collect();
    let batches: Vec<Accepted> = times
        .iter()
        .map(|time| batch(&[*time, *time + 5], 10_000, Codec::None))
        .collect();
    let local = Local::of(&batches, config);
    let counting = CountingStore::over(memory());
    let cold = cold(&local, &bucket(Arc::new(counting.clone()))).await;
    assert_eq!(cold.manifest().segments().len(), 1);
    counting.take();
    (local, counting, cold)
}

#[tokio::test]
async fn a_point_lookup_fetches_less_than_a_chunk_beyond_its_batch() {
    let (_local, counting, cold) = twelve_megabytes().await;
    let mut worst = 0;
    for from in [0, 1, 333, 334, 700, 1001, cold.manifest().end().0 - 1] {
        let fresh = ColdLog::new(
            cold.store.clone(),
            partition(),
            Arc::clone(cold.manifest()),
            cache(),
        );
        let slice = fresh.read(&ask(from, Offset::MAX, 1, None)).await.expect("read");
        let counts = counting.take();
        assert!(!slice.bytes.is_empty());
        assert!(counts.gets <= 3 && counts.heads + counts.lists == 0, "{counts:?}");
        worst = worst.max(counts.got_bytes - u64::try_from(slice.bytes.len()).expect("small"));
        let time = FindTime {
            at: Timestamp(NOW.0 + 5 * from),
            from: Offset::ZERO,
            bound: Offset::MAX,
            max_decompressed_bytes: 1 << 20,
        };
        let fresh = ColdLog::new(
            cold.store.clone(),
            partition(),
            Arc::clone(cold.manifest()),
            cache(),
        );
        let found = fresh
            .find_time(&time)
            .await
            .expect("found")
            .expect("there is one");
        assert_eq!(found.offset, Offset(from));
        let counts = counting.take();
        assert!(counts.gets <= 4 && counts.heads + counts.lists == 0, "{counts:?}");
        worst = worst.max(counts.got_bytes);
    }
    assert!(worst < u64::from(CHUNK_BYTES), "{worst} bytes");
}

#[tokio::test]
async fn a_sequential_read_fetches_little_more_than_it_returns() {
    let (_local, counting, cold) = twelve_megabytes().await;
    let read = ask(0, cold.manifest().end(), 1 << 20, None);
    let returned = u64::try_from(all_cold(&cold, read).await.len()).expect("small");
    let counts = counting.take();
    assert!(returned > 11 << 20);
    assert!(
        counts.got_bytes * 10 <= returned * 12,
        "{} fetched, {returned} returned",
        counts.got_bytes
    );
    assert!(counts.gets <= 40, "{counts:?}");
}

#[tokio::test]
async fn a_reader_that_goes_on_needs_no_index_and_gets_most_bytes_as_they_came() {
    let (_local, counting, cold) = twelve_megabytes().await;
    let mut read = ask(0, cold.manifest().end(), 1 << 20, None);
    let (mut returned, mut copied, mut slices) = (0, 0, 0);
    while read.from < read.until {
        let slice = cold.read(&read).await.expect("read");
        assert!(slice.next_offset > read.from);
        let is_second_half = 2 * read.from.0 > read.until.0;
        if is_second_half {
            returned += slice.bytes.len();
            copied += if cold.cache.holds(&slice.bytes) {
                0
            } else {
                slice.bytes.len()
            };
        }
        slices += 1;
        read.from = slice.next_offset;
    }
    assert!(3 * copied < returned, "{copied} of {returned} bytes were copied");
    assert!(slices < 30, "{slices} slices");
    let end = {
        let segments = cold.manifest().segments();
        segments.values().next().expect("there is one").clone()
    };
    let counts = counting.take();
    // Footer and log, and nothing of the index.
    let most = end.summary.log_bytes + u64::from(end.footer_len) + 32;
    assert!(counts.got_bytes <= most, "{} of {most} bytes", counts.got_bytes);
}

#[tokio::test]
async fn a_read_of_a_few_batches_fetches_what_the_index_says_and_little_more() {
    let (_local, counting, cold) = twelve_megabytes().await;
    for (from, until) in [(0, 100), (200, 300), (801, 899), (1298, 1400)] {
        let fresh = ColdLog::new(
            cold.store.clone(),
            partition(),
            Arc::clone(cold.manifest()),
            cache(),
        );
        let until = Offset(until).min(cold.manifest().end());
        let returned = all_cold(&fresh, ask(from, until, 4 << 20, None)).await.len();
        let returned = u64::try_from(returned).expect("small");
        let counts = counting.take();
        assert!(
            counts.got_bytes * 10 <= returned * 12,
            "{} fetched, {returned} returned from {from}",
            counts.got_bytes
        );
        assert!(counts.gets <= 4, "{counts:?}");
    }
}

#[tokio::test]
async fn a_read_bounded_by_time_opens_only_segments_that_can_hold_it() {
    let config = LogConfig {
        segment_bytes: 900,
        ..LogConfig::default()
    };
    let batches: Vec<Accepted> = (0..1000)
        .map(|number| batch(&[NOW.0 + number], 40, Codec::None))
        .collect();
    let local = Local::of(&batches, config);
    let counting = CountingStore::over(memory());
    let cold = cold(&local, &bucket(Arc::new(counting.clone()))).await;
    assert!(cold.manifest().segments().len() >= 100);
    counting.take();
    let times = Timestamp(NOW.0 + 500)..Timestamp(NOW.0 + 503);
    let bytes = all_cold(&cold, ask(0, cold.manifest().end(), 1 << 20, Some(times))).await;
    let found: Vec<i64> = Batches::over(bytes.into(), 0)
        .map(|batch| batch.expect("sound").1.header().base_offset.0)
        .collect();
    assert!(found.starts_with(&[500, 501, 502]), "{found:?}");
    // Two segments at most: footer, a page of each index, and log.
    assert!(counting.take().gets <= 8);
}

#[tokio::test]
async fn damage_is_told_by_object_and_never_returned() {
    let config = LogConfig {
        segment_bytes: 900,
        index_interval_bytes: 200,
        ..LogConfig::default()
    };
    let batches: Vec<Accepted> = (0..30)
        .map(|number| batch(&[NOW.0 + number], 40, Codec::None))
        .collect();
    let local = Local::of(&batches, config);
    let inner = memory();
    let store = bucket(Arc::clone(&inner));
    let manifest = local.upload_all(&store).await;
    let segment = Arc::clone(&manifest.state().segments()[&Offset::ZERO]);
    let key = partition().segment(segment.id);
    let sound = store.get(&key, 1 << 20).await.expect("read").expect("there");
    let log_len = usize::try_from(segment.summary.log_bytes).expect("small");
    for at in (0..sound.len()).step_by(3) {
        let mut damaged = sound.to_vec();
        damaged[at] ^= 0x10;
        store.delete(&key).await.expect("removed");
        store.publish(&key, damaged.into()).await.expect("put");
        let cold = ColdLog::new(
            store.clone(),
            partition(),
            Arc::new(manifest.state().clone()),
            cache(),
        );
        let until = segment.next_offset();
        let mut read = ask(0, until, 1 << 20, None);
        let mut bytes = Vec::new();
        let told = loop {
            if read.from >= until {
                break None;
            }
            match cold.read(&read).await {
                Ok(slice) => {
                    bytes.extend_from_slice(&slice.bytes);
                    read.from = slice.next_offset;
                }
                Err(error) => break Some(error.to_string()),
            }
        };
        match told {
            Some(told) => assert!(
                told.contains(&key) && told.contains("is damaged"),
                "byte {at}: {told}"
            ),
            // Leader epoch and the reserved ends of pages are not looked at by this read; the log is whole all the same.
            None if at >= log_len => assert!(bytes == sound[..log_len], "byte {at}"),
            None => {
                let is_epoch = Batches::over(sound.slice(..log_len), 0).any(|batch| {
                    let (position, _) = batch.expect("sound");
                    let start = usize::try_from(position).expect("small");
                    (start + 12..start + 16).contains(&at)
                });
                assert!(is_epoch, "byte {at} of the log was changed and nobody saw it");
            }
        }
    }
}

#[tokio::test]
async fn an_object_that_was_removed_by_hand_is_named() {
    let config = LogConfig {
        segment_bytes: 900,
        ..LogConfig::default()
    };
    let batches: Vec<Accepted> = (0..30)
        .map(|number| batch(&[NOW.0 + number], 40, Codec::None))
        .collect();
    let local = Local::of(&batches, config);
    let store = bucket(memory());
    let cold = cold(&local, &store).await;
    let key = partition().segment(cold.manifest().segments()[&Offset::ZERO].id);
    store.delete(&key).await.expect("removed");
    let error = cold
        .read(&ask(0, Offset::MAX, 100, None))
        .await
        .expect_err("it is gone")
        .to_string();
    assert_eq!(
        error,
        format!("fetch of test://bucket/{key} failed: it is not there: a manifest names it")
    );
}

#[tokio::test(start_paused = true)]
async fn a_cold_read_that_hangs_ends_at_its_deadline() {
    let config = LogConfig {
        segment_bytes: 900,
        ..LogConfig::default()
    };
    let batches: Vec<Accepted> = (0..30)
        .map(|number| batch(&[NOW.0 + number], 40, Codec::None))
        .collect();
    let local = Local::of(&batches, config);
    let faulty = FaultyStore::over(memory());
    let cold = cold(&local, &bucket(Arc::new(faulty.clone()))).await;
    faulty.next(Kind::Get, "/segments/", Fault::Hang);
    let error = cold
        .read(&ask(0, Offset::MAX, 100, None))
        .await
        .expect_err("it hangs");
    assert_eq!(error.trouble(), Some(Trouble::TimedOut));
    cold.read(&ask(0, Offset::MAX, 100, None))
        .await
        .expect("it answers again");
}

#[tokio::test]
async fn aborted_transactions_are_the_local_ones() {
    let config = LogConfig {
        segment_bytes: 900,
        ..LogConfig::default()
    };
    let mut batches = Vec::new();
    for number in 0..20 {
        batches.push(transactional(7, number, "open"));
        batches.push(batch(&[NOW.0], 40, Codec::None));
        if number % 3 == 2 {
            let outcome = if number % 2 == 0 {
                crate::record::Outcome::Abort
            } else {
                crate::record::Outcome::Commit
            };
            batches.push(ended(7, outcome));
        }
    }
    let local = Local::of(&batches, config);
    let store = bucket(memory());
    let cold = cold(&local, &store).await;
    let (_store, log) = local.open();
    let end = cold.manifest().end();
    let mut overlapping = 0;
    for from in 0..end.0 {
        let read = ask(from, end, 300, None);
        let (slice, expected) = log.read_committed(&read).expect("read");
        let found = cold
            .aborted(&(Offset(from)..slice.next_offset))
            .await
            .expect("read");
        assert_eq!(found, expected, "from {from}");
        overlapping += found.len();
    }
    assert!(overlapping > 0, "{:?}", Isolation::ReadCommitted);
}

fn transactional(id: i64, sequence: i32, value: &str) -> Accepted {
    use crate::record::{ProducerStamp, Transactional};
    use crate::types::{ProducerEpoch, ProducerId, Sequence};
    let mut builder = BatchBuilder::new(BatchOptions {
        producer: Some(ProducerStamp {
            id: ProducerId(id),
            epoch: ProducerEpoch(0),
            base_sequence: Some(Sequence(sequence)),
        }),
        transactional: Transactional::Yes,
        ..BatchOptions::default()
    });
    builder
        .append(Some(NOW), None, Some(value.as_bytes()), &[])
        .expect("small");
    builder.build().expect("it has a record")
}

fn ended(id: i64, outcome: crate::record::Outcome) -> Accepted {
    crate::record::TransactionEnd {
        outcome,
        producer: crate::types::ProducerId(id),
        producer_epoch: crate::types::ProducerEpoch(0),
        coordinator_epoch: 0,
        at: NOW,
    }
    .to_batch()
}
