//! The model test: random operations on one log, each answer compared with that of a list of batches in memory.
//!
//! The model knows batches and two numbers, how far it was synced and which log start a checkpoint wrote. It has no segment,
//! no index and no file, so whatever those do wrong shows as a difference. A failing case is printed shrunk, and its seed is
//! kept under `proptest-regressions`.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::testing::{
    NOW, SEGMENT_BYTES, Stored, body_of, open_one, open_store, read_all, records, small, spec,
};
use super::{
    DeletionReason, FirstBatch, Found, LogConfig, Origin, Partition, Read, Retention, RetentionPlan, Store,
};
use crate::env::{CrashChoice, Fs as _, SimFs};
use crate::record::{BatchOptions, Batches, Codec, DecompressLimit};
use crate::types::{Offset, Timestamp};
use std::ops::Range;
use std::sync::Arc;

/// Timestamps lie in this many milliseconds from [`NOW`], in any order.
const SPAN_MS: i64 = 4_000;

/// One thing that happens. Fractions, in 256ths, choose an offset between log start and log end.
#[derive(Clone, Debug)]
enum Op {
    Append {
        times: Vec<i64>,
        value_len: usize,
        codec: Codec,
    },
    Sync,
    Wait(i64),
    Read {
        from: u8,
        until: u8,
        max_bytes: usize,
        first: FirstBatch,
    },
    FindTime {
        at: i64,
        bound: u8,
    },
    FindGreatest(u8),
    ReadTimes {
        from: u8,
        start: i64,
        len: i64,
    },
    Raise(u8),
    Retain {
        ms: Option<i64>,
        bytes: Option<u64>,
    },
    Checkpoint,
    Reopen,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let first = prop_oneof![Just(FirstBatch::Whole), Just(FirstBatch::IfItFits)];
    let codec = prop_oneof![4 => Just(Codec::None), 1 => Just(Codec::Lz4)];
    prop_oneof![
        12 => (vec(0..SPAN_MS, 1..5), 0..250_usize, codec)
            .prop_map(|(times, value_len, codec)| Op::Append { times, value_len, codec }),
        3 => Just(Op::Sync),
        2 => (0..1_500_i64).prop_map(Op::Wait),
        4 => (any::<u8>(), any::<u8>(), 1..2_000_usize, first)
            .prop_map(|(from, until, max_bytes, first)| Op::Read { from, until, max_bytes, first }),
        4 => (-1..SPAN_MS + 1, any::<u8>()).prop_map(|(at, bound)| Op::FindTime { at, bound }),
        1 => any::<u8>().prop_map(Op::FindGreatest),
        3 => (any::<u8>(), 0..SPAN_MS, 0..SPAN_MS)
            .prop_map(|(from, start, len)| Op::ReadTimes { from, start, len }),
        1 => any::<u8>().prop_map(Op::Raise),
        2 => (proptest::option::of(0..3_000_i64), proptest::option::of(0..6_000_u64))
            .prop_map(|(ms, bytes)| Op::Retain { ms, bytes }),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Reopen),
        1 => Just(Op::Crash),
    ]
}

/// A batch as the model keeps it.
#[derive(Clone, Debug)]
struct Kept {
    base: i64,
    times: Vec<i64>,
    body: Bytes,
    size_bytes: usize,
    appended: Timestamp,
}

impl Kept {
    fn next(&self) -> i64 {
        self.base + i64::try_from(self.times.len()).expect("few")
    }
}

#[derive(Default, Debug)]
struct Model {
    batches: Vec<Kept>,
    log_start: i64,
    checkpointed_start: i64,
    synced: i64,
    /// The log end; behind the last batch where a crash took what was not synced.
    end: i64,
    values: usize,
}

impl Model {
    fn between(&self, part: u8) -> i64 {
        self.log_start + (self.end - self.log_start) * i64::from(part) / 255
    }

    /// Offset and time of every record that can be read.
    fn records(&self) -> impl Iterator<Item = (i64, i64)> {
        let all = self
            .batches
            .iter()
            .flat_map(|batch| (batch.base..).zip(batch.times.iter().copied()));
        all.filter(|(offset, _)| *offset >= self.log_start)
    }
}

struct Run {
    fs: SimFs,
    store: Option<Store>,
    log: Arc<Partition>,
    model: Model,
    now: Timestamp,
    /// When segments were appended to may be forgotten.
    crashed: bool,
}

fn config() -> LogConfig {
    LogConfig {
        segment_ms: 2_000,
        ..small()
    }
}

fn open(fs: &SimFs) -> (Option<Store>, Arc<Partition>) {
    let store = open_store(fs).expect("the store opens");
    let log = open_one(&store, spec("t", 1, config())).expect("the log opens");
    (Some(store), log)
}

impl Run {
    fn new() -> Self {
        let fs = SimFs::new();
        fs.set_now(NOW);
        let (store, log) = open(&fs);
        Self {
            fs,
            store,
            log,
            model: Model::default(),
            now: NOW,
            crashed: false,
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("open between steps")
    }

    fn step(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Append {
                times,
                value_len,
                codec,
            } => self.append(times, value_len, codec)?,
            Op::Sync => self.sync(),
            Op::Wait(ms) => {
                self.now = self.now.saturating_add_ms(ms);
                self.fs.set_now(self.now);
            }
            Op::Read {
                from,
                until,
                max_bytes,
                first,
            } => {
                let read = Read {
                    from: Offset(self.model.between(from)),
                    until: Offset(self.model.between(until)),
                    times: None,
                    max_bytes,
                    first,
                };
                self.read(&read)?;
            }
            Op::FindTime { at, bound } => self.find_time(at, self.model.between(bound))?,
            Op::FindGreatest(bound) => self.find_greatest(self.model.between(bound))?,
            Op::ReadTimes { from, start, len } => {
                self.read_times(self.model.between(from), start..start + len)?
            }
            Op::Raise(to) => {
                let to = self.model.between(to).min(self.log.watermarks().high_watermark.0);
                self.log.raise_log_start(Offset(to)).expect("within the log");
                self.model.log_start = self.model.log_start.max(to);
            }
            Op::Retain { ms, bytes } => self.retain(Retention { ms, bytes })?,
            Op::Checkpoint => {
                self.store().checkpoint().expect("checkpointed");
                self.model.checkpointed_start = self.model.log_start;
            }
            Op::Reopen => self.reopen(),
            Op::Crash => self.crash()?,
        }
        self.compare()
    }

    fn append(&mut self, times: Vec<i64>, value_len: usize, codec: Codec) -> Result<(), TestCaseError> {
        self.model.values += 1;
        let value = format!("{:0value_len$}", self.model.values);
        let plain: Vec<_> = times
            .iter()
            .map(|time| (NOW.0 + time, Some("k"), value.as_str()))
            .collect();
        let options = BatchOptions {
            codec,
            ..BatchOptions::default()
        };
        let batch = records(options, &plain);
        let appended = self.log.append(&batch, Origin::Client, self.now);
        if batch.size_bytes() > SEGMENT_BYTES {
            prop_assert!(appended.is_err(), "larger than a segment");
            return Ok(());
        }
        let kept = Kept {
            base: self.model.end,
            times,
            body: body_of(batch.bytes()),
            size_bytes: batch.bytes().len(),
            appended: self.now,
        };
        let append = appended.expect("appended");
        prop_assert_eq!(
            (append.base_offset.0, append.last_offset.0 + 1),
            (kept.base, kept.next())
        );
        self.model.end = kept.next();
        self.model.batches.push(kept);
        Ok(())
    }

    fn sync(&mut self) {
        let synced = self
            .store()
            .sync(&[Arc::clone(&self.log)])
            .remove(0)
            .expect("synced");
        assert_eq!(synced.high_watermark.0, self.model.end);
        self.model.synced = self.model.end;
    }

    fn read(&self, read: &Read) -> Result<(), TestCaseError> {
        let slice = self.log.read(read).expect("within the log");
        let stored: Vec<Bytes> = Batches::over(slice.bytes.clone(), 0)
            .map(|batch| body_of(batch.expect("whole batches").1.bytes()))
            .collect();
        let wanted = self.model.batches.iter();
        let wanted: Vec<&Kept> = wanted
            .filter(|batch| batch.next() > read.from.0 && batch.base < read.until.0)
            .collect();
        let wanted = if read.from >= read.until {
            &[][..]
        } else {
            &wanted[..]
        };
        let mut room = read.max_bytes;
        let mut fitting = 0;
        for (index, batch) in wanted.iter().enumerate() {
            let fits = batch.size_bytes <= room || (index == 0 && read.first == FirstBatch::Whole);
            if !fits {
                break;
            }
            room = room.saturating_sub(batch.size_bytes);
            fitting += 1;
        }
        let expected: Vec<Bytes> = wanted[..fitting].iter().map(|batch| batch.body.clone()).collect();
        prop_assert_eq!(&stored[..], &expected[..stored.len().min(expected.len())]);
        if stored.len() < expected.len() {
            // A slice lies in one segment. Its end need not be the base of the next: there may be a hole between them.
            let base = Offset(wanted[stored.len()].base);
            prop_assert!(
                !stored.is_empty() && self.begins_segment(base),
                "ends inside a segment"
            );
        }
        if let Some(last) = stored.len().checked_sub(1) {
            prop_assert_eq!(slice.next_offset.0, wanted[last].next());
        }
        Ok(())
    }

    fn begins_segment(&self, base: Offset) -> bool {
        let path = self.log.dir().join(format!("{:020}.log", base.0));
        self.fs.stat(&path).is_ok()
    }

    fn find_time(&self, at: i64, bound: i64) -> Result<(), TestCaseError> {
        let expected = self.model.records().find(|(_, time)| *time >= at);
        let expected = expected.filter(|(offset, _)| *offset < bound);
        let found = self
            .log
            .find_time(Timestamp(NOW.0 + at), Offset(bound))
            .expect("found or not");
        prop_assert_eq!(place(found), expected, "at {} below {}", at, bound);
        Ok(())
    }

    fn find_greatest(&self, bound: i64) -> Result<(), TestCaseError> {
        let below = || self.model.records().filter(|(offset, _)| *offset < bound);
        let greatest = below().map(|(_, time)| time).max();
        let expected = below().find(|(_, time)| Some(*time) == greatest);
        let found = self.log.find_max_timestamp(Offset(bound)).expect("found or not");
        prop_assert_eq!(place(found), expected);
        Ok(())
    }

    fn read_times(&self, from: i64, times: Range<i64>) -> Result<(), TestCaseError> {
        let (mut next, until) = (from, self.model.end);
        let mut found = Vec::new();
        while next < until {
            let read = Read {
                from: Offset(next),
                until: Offset(until),
                times: Some(Timestamp(NOW.0 + times.start)..Timestamp(NOW.0 + times.end)),
                max_bytes: 500,
                first: FirstBatch::Whole,
            };
            let slice = self.log.read(&read).expect("within the log");
            prop_assert!(slice.next_offset.0 > next, "a read gets on");
            for batch in Batches::over(slice.bytes, 0) {
                let (_, batch) = batch.expect("whole batches");
                self.check_not_ruled_out(batch.header().base_offset.0, &times)?;
                for record in batch.records(DecompressLimit(1 << 20)).expect("sound") {
                    let record = record.expect("sound");
                    found.push((record.offset.0, record.timestamp.expect("it has one").0 - NOW.0));
                }
            }
            next = slice.next_offset.0;
        }
        let wanted = |(offset, time): &(i64, i64)| *offset >= from && times.contains(time);
        let expected: Vec<_> = self.model.records().filter(wanted).collect();
        found.retain(wanted);
        prop_assert_eq!(found, expected);
        Ok(())
    }

    /// A batch that comes back is late enough in part, and lies in a segment that begins early enough: all that headers and
    /// indexes can tell.
    fn check_not_ruled_out(&self, base: i64, times: &Range<i64>) -> Result<(), TestCaseError> {
        let batches = || self.model.batches.iter();
        let batch = batches().find(|batch| batch.base == base);
        let batch = batch.expect("it was written");
        let is_late = batch.times.iter().any(|time| *time >= times.start);
        prop_assert!(is_late, "{:?} ends before {:?}", batch, times);
        let listed = self.fs.list(&self.log.dir()).expect("listed").into_iter();
        let bases = listed.filter_map(|entry| entry.name.strip_suffix(".log")?.parse::<i64>().ok());
        let bases: Vec<i64> = bases.collect();
        let begins = bases.iter().copied().filter(|begins| *begins <= base).max();
        let ends = bases.iter().copied().filter(|begins| *begins > base).min();
        let segment = begins.expect("it lies in one")..ends.unwrap_or(i64::MAX);
        let inside = batches().filter(|batch| segment.contains(&batch.base));
        let least = inside.flat_map(|batch| batch.times.iter().copied()).min();
        prop_assert!(
            least < Some(times.end),
            "the segment of {:?} begins after {:?}",
            batch,
            times
        );
        Ok(())
    }

    /// The preview equals the effect, nothing goes before the settings say so, and no more than a segment stays too long.
    fn retain(&mut self, retention: Retention) -> Result<(), TestCaseError> {
        self.log.configure(
            LogConfig {
                retention,
                ..config()
            },
            self.now,
        );
        let plan = self.log.retention_plan(self.now);
        let looked = self.store().retain(&[Arc::clone(&self.log)], self.now);
        for retained in &looked {
            prop_assert!(retained.failure.is_none(), "{:?}", retained.failure);
            prop_assert_eq!(&retained.deleted, &plan.deletions);
        }
        let view = self.log.watermarks();
        prop_assert_eq!(
            (view.log_start, looked.is_empty()),
            (plan.log_start, plan.deletions.is_empty())
        );
        prop_assert_eq!(self.log.describe().size_bytes, plan.kept_bytes);
        self.judge(&plan, retention)?;
        let all_synced = view.recovery_point == view.log_end;
        if let Some(bytes) = retention.bytes.filter(|_| all_synced) {
            prop_assert!(
                plan.kept_bytes < bytes.saturating_add(u64::from(SEGMENT_BYTES)).max(1),
                "{:?}",
                plan
            );
        }
        if !plan.deletions.is_empty() {
            self.model.checkpointed_start = view.log_start.0;
        }
        self.model.log_start = view.log_start.0;
        Ok(())
    }

    /// Each deletion names a range; what the batches in it say must be reason enough. Its age is that of DESIGN section 4, by
    /// the batches alone: what a crash made the log forget of appends may only make a segment younger.
    fn judge(&self, plan: &RetentionPlan, retention: Retention) -> Result<(), TestCaseError> {
        let mut left = plan.kept_bytes;
        for deletion in plan.deletions.iter().rev() {
            let range = deletion.base.0..deletion.end.0;
            let batches = self.model.batches.iter();
            let inside: Vec<&Kept> = batches.filter(|batch| range.contains(&batch.base)).collect();
            let size: usize = inside.iter().map(|batch| batch.size_bytes).sum();
            prop_assert_eq!(deletion.size_bytes, size as u64, "{:?}", deletion);
            match deletion.reason {
                DeletionReason::Start => prop_assert!(range.end <= self.model.log_start, "{:?}", deletion),
                DeletionReason::Size => {
                    prop_assert!(
                        retention.bytes.is_some_and(|bytes| left >= bytes),
                        "{:?}",
                        deletion
                    );
                }
                DeletionReason::Time => {
                    let first = inside.first().expect("it has records").appended;
                    let last = inside.last().expect("it has records").appended;
                    let stamps = inside.iter().flat_map(|batch| &batch.times);
                    let greatest = Timestamp(NOW.0 + stamps.max().expect("it has records"));
                    let age_ms = self.now.ms_since(greatest.clamp(first, last));
                    let told = deletion.age_ms.expect("it went for it");
                    prop_assert!(retention.ms.is_some_and(|ms| told > ms), "{:?}", deletion);
                    let agrees = if self.crashed {
                        told <= age_ms
                    } else {
                        told == age_ms
                    };
                    prop_assert!(agrees, "{:?} is {} ms old", deletion, age_ms);
                }
            }
            left += deletion.size_bytes;
        }
        Ok(())
    }

    fn reopen(&mut self) {
        self.store().close().expect("closed").clean().expect("clean");
        self.store = None;
        (self.store, self.log) = open(&self.fs);
        self.model.synced = self.model.end;
        self.model.checkpointed_start = self.model.log_start;
    }

    /// What was not synced is gone. Its offsets may stay used, when a segment that began behind them has its name on disk, and
    /// only then. That is right: nothing between the last synced offset and the log end was confirmed (DESIGN invariant 4), so
    /// either end keeps every promise; but of a `written` log readers may have seen those offsets, and an offset that is never
    /// given again needs no epoch to tell its two contents apart (invariant 6). All of it was verified and synced before the
    /// high watermark was published at the log end (invariant 7).
    fn crash(&mut self) -> Result<(), TestCaseError> {
        self.crashed = true;
        self.fs = self.fs.crash(CrashChoice::LoseAll);
        self.fs.set_now(self.now);
        (self.store, self.log) = open(&self.fs);
        let synced = self.model.synced;
        self.model.batches.retain(|batch| batch.base < synced);
        let view = self.log.watermarks();
        prop_assert!((synced..=self.model.end).contains(&view.log_end.0), "{:?}", view);
        prop_assert!(
            view.log_end.0 == synced || self.begins_segment(view.log_end),
            "{:?}",
            view
        );
        self.model.end = view.log_end.0;
        self.model.log_start = self.model.checkpointed_start;
        let start = self.model.log_start;
        if self.model.batches.iter().all(|batch| batch.next() <= start) {
            // No record is left at or above the log start, so no read can tell where it is but by the error below it. What is
            // left may be a segment without a batch, whose name alone is on disk; the log then begins and ends there, and not at
            // the checkpointed start, for which it has no segment (DESIGN section 4 recovers needing no free space: none is
            // made). Nothing that was confirmed lies between the two: all of it was below the checkpointed start.
            let begins_at_its_end = view.log_start == view.log_end && self.begins_segment(view.log_start);
            prop_assert!(view.log_start.0 == start || begins_at_its_end, "{:?}", view);
            prop_assert!(view.log_start.0 >= start, "{:?}", view);
            self.model.log_start = view.log_start.0;
            self.model.checkpointed_start = view.log_start.0;
        }
        Ok(())
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        let view = self.log.watermarks();
        prop_assert_eq!(view.log_start.0, self.model.log_start);
        prop_assert_eq!(view.log_end.0, self.model.end);
        prop_assert!(view.high_watermark.0 >= self.model.synced);
        let stored = read_all(&self.log, 700).map_err(TestCaseError::fail)?;
        let stored: Vec<_> = stored
            .iter()
            .map(|Stored { base, body, .. }| (base.0, body))
            .collect();
        let kept = self
            .model
            .batches
            .iter()
            .filter(|batch| batch.next() > self.model.log_start);
        let kept: Vec<_> = kept.map(|batch| (batch.base, &batch.body)).collect();
        prop_assert_eq!(stored, kept);
        Ok(())
    }
}

fn place(found: Option<Found>) -> Option<(i64, i64)> {
    found.map(|found| (found.offset.0, found.timestamp.0 - NOW.0))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_log_answers_as_a_list_of_batches_does(ops in vec(op(), 1..60)) {
        let mut run = Run::new();
        for op in ops {
            run.step(op)?;
        }
    }
}
