//! The model: a list of every record ever appended, beside a log that is held, cleaned, restarted and killed at random.
//!
//! After every step: each record found is one that was written, at its offset; the newest value of each key is there; whoever
//! reads from any offset on, to the end, builds the table that the records from there on say; no tombstone that is its key's
//! newest is gone before its time, which counts from when the last older record of its key is gone; what was there when a hold
//! began is there while it holds; the log end is where it was; and below what readers are told nothing was replaced. Records of
//! transactions count once these are committed; of aborted ones nobody asks what became of them.
//!
//! Settings change on the way: the policy, both lags, both limits of retention. No pass takes a record that is younger than the
//! least lag; as long as the greatest is set and the log is looked at in time, no record outlives it beside a newer one of its key;
//! retention does what its preview said, under a policy that deletes; what is deleted, and written down, never comes back.
//!
//! In the end nobody writes any more: the log itself asks for the passes after which no tombstone is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::super::{
    CleanupPolicy, CompactError, Compaction, Due, Hold, LogConfig, OffsetMap, Retention, RollFor, Rounds,
};
use super::testing::{Found, Scene, compacted, end_of_cleanable};
use crate::env::CrashChoice;
use crate::record::Outcome;
use crate::types::{Offset, Timestamp};

const KEEP_TOMBSTONES_MS: i64 = 40;

#[derive(Clone, Debug)]
enum Op {
    /// Keys 0 to 5; value 0 is a tombstone.
    Append(Vec<(u8, u8)>, &'static str),
    /// Two batches of a transaction of this producer, and its end.
    Transaction(Vec<(u8, u8)>, i64, Outcome),
    Roll,
    Clean,
    Tick(i64),
    Restart,
    Crash(u64),
    /// Ends the hold there is; from an offset on, so many more.
    Hold(i64, i64),
    /// The same with times: from so long ago on, so long.
    HoldTimes(i64, i64),
    Unhold,
    /// The process dies after the end of the hold was written down, and before the log knew.
    UnholdAndCrash(u64),
    Checkpoint,
    /// The process dies at this call of a pass, if the pass has so many.
    DieInPass(u64, u64),
    Policy(CleanupPolicy),
    /// The least and the greatest lag; `None` is no promise.
    Lags(i64, Option<i64>),
    Limits(Retention),
    Retain,
    /// Deletes so many of what there is, and writes that down or not.
    DeleteRecords(i64, Durable),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Durable {
    Yes,
    NotYet,
}

fn op() -> impl Strategy<Value = Op> {
    let records = prop::collection::vec((0..6_u8, 0..4_u8), 1..4);
    let how = prop::sample::select(vec!["", "", "zstd:", "p7:", "p8:"]);
    let committed = prop::sample::select(vec![Outcome::Commit, Outcome::Abort]);
    let of_transaction = prop::collection::vec((0..6_u8, 0..4_u8), 1..4);
    let policies = vec![
        CleanupPolicy::Compact,
        CleanupPolicy::Compact,
        CleanupPolicy::CompactAndDelete,
        CleanupPolicy::CompactAndDelete,
        CleanupPolicy::Delete,
        CleanupPolicy::Keep,
    ];
    let durable = prop::sample::select(vec![Durable::Yes, Durable::NotYet]);
    prop_oneof![
        3 => (of_transaction, 20..22_i64, committed).prop_map(|(records, id, end)| Op::Transaction(records, id, end)),
        2 => (0..40_u64, any::<u64>()).prop_map(|(calls, seed)| Op::DieInPass(calls, seed)),
        8 => (records, how).prop_map(|(records, how)| Op::Append(records, how)),
        3 => Just(Op::Roll),
        4 => Just(Op::Clean),
        2 => (1..60_i64).prop_map(Op::Tick),
        1 => Just(Op::Restart),
        1 => any::<u64>().prop_map(Op::Crash),
        1 => (0..40_i64, 1..10_i64).prop_map(|(from, more)| Op::Hold(from, more)),
        1 => (0..60_i64, 1..40_i64).prop_map(|(ago, long)| Op::HoldTimes(ago, long)),
        1 => Just(Op::Unhold),
        1 => any::<u64>().prop_map(Op::UnholdAndCrash),
        1 => Just(Op::Checkpoint),
        1 => prop::sample::select(policies).prop_map(Op::Policy),
        2 => (0..2_i64, prop::option::of(60..120_i64)).prop_map(|(min, max)| Op::Lags(min * 20, max)),
        1 => (prop::option::of(20..100_i64), prop::option::of(300..2000_u64)).prop_map(|(ms, bytes)| Op::Limits(Retention { ms, bytes })),
        2 => Just(Op::Retain),
        1 => (1..6_i64, durable).prop_map(|(records, durable)| Op::DeleteRecords(records, durable)),
    ]
}

#[derive(Debug)]
struct Written {
    /// Empty where nothing counts: a marker, or a record of an aborted transaction.
    key: String,
    value: Option<String>,
    appended: i64,
    /// When a pass may first have met it with no older record of its key left.
    met: Option<i64>,
}

impl Written {
    fn nothing(appended: i64) -> Self {
        Self {
            key: String::new(),
            value: None,
            appended,
            met: None,
        }
    }
}

struct Model {
    scene: Scene,
    written: Vec<Written>,
    /// Offsets that were there when the hold began that holds them.
    held: BTreeSet<i64>,
    hold: Option<Hold>,
    /// Somebody wanted everything before it deleted.
    asked_start: Offset,
    /// Everything before it is deleted, and that is written down.
    deleted_before: Offset,
    /// Since then the policy, the lags and the holds have been as they are.
    promised_since: i64,
}

impl Model {
    fn new(map_keys: usize) -> Self {
        let mut scene = Scene::with(LogConfig {
            compaction: Compaction {
                delete_retention_ms: KEEP_TOMBSTONES_MS,
                ..Compaction::default()
            },
            segment_bytes: 500,
            ..compacted()
        });
        scene.map = OffsetMap::with_keys(map_keys);
        Self {
            scene,
            written: Vec::new(),
            held: BTreeSet::new(),
            hold: None,
            asked_start: Offset::ZERO,
            deleted_before: Offset::ZERO,
            promised_since: 0,
        }
    }

    fn start(&self) -> Offset {
        self.scene.log.watermarks().log_start
    }

    fn crash(&mut self, seed: u64) {
        let map = std::mem::replace(&mut self.scene.map, OffsetMap::with_bytes(0));
        let fs = self.scene.fs.crash(CrashChoice::Random(seed));
        self.scene.fs = fs;
        self.scene.run("restart");
        self.scene.map = map;
    }

    /// The records that count, and that a reader finds: a batch in which the log begins lies there whole.
    fn found(&self) -> Result<Vec<Found>, TestCaseError> {
        let mut found = self.scene.records().map_err(TestCaseError::fail)?;
        let start = self.start().0;
        found.retain(|(offset, ..)| *offset >= start && self.counts(*offset));
        Ok(found)
    }

    fn counts(&self, offset: i64) -> bool {
        let at = usize::try_from(offset).expect("not negative");
        !self.written[at].key.is_empty()
    }

    /// Appends one batch of records that count, or do not.
    fn append(&mut self, records: &[(u8, u8)], how: &str, outcome: Outcome) {
        let text: Vec<String> = records
            .iter()
            .map(|(key, value)| match value {
                0 => format!("k{key}=~"),
                value => format!("k{key}={value}.{}", self.written.len()),
            })
            .collect();
        self.scene.append(&format!("{how}{}", text.join(",")));
        self.scene.sync();
        for record in text {
            let (key, value) = record.split_once('=').expect("built so");
            self.written.push(match outcome {
                Outcome::Commit => Written {
                    key: key.to_owned(),
                    value: Some(value.to_owned()).filter(|value| value != "~"),
                    appended: self.scene.now,
                    met: None,
                },
                Outcome::Abort => Written::nothing(self.scene.now),
            });
        }
    }

    fn end(&mut self, id: i64, outcome: Outcome) {
        self.scene.append(&match outcome {
            Outcome::Commit => format!("commit{id}"),
            Outcome::Abort => format!("abort{id}"),
        });
        self.scene.sync();
        self.written.push(Written::nothing(self.scene.now));
    }

    /// A pass that began now may have met everything before `to`.
    fn met(&mut self, to: Offset) -> Result<(), TestCaseError> {
        let now = self.scene.now;
        let to = usize::try_from(to.0).expect("not negative");
        for written in &mut self.written[..to] {
            written.met = written.met.or(Some(now));
        }
        for (offset, key, _) in self.found()? {
            let at = usize::try_from(offset).expect("not negative");
            for newer in self.written[at + 1..].iter_mut().filter(|newer| newer.key == key) {
                newer.met = None;
            }
        }
        Ok(())
    }

    fn die_in_pass(&mut self, calls: u64, seed: u64) -> Result<(), TestCaseError> {
        let compacts = self.scene.config().cleanup.compacts();
        let to = end_of_cleanable(&self.scene);
        let before = self.found()?;
        let fs = &self.scene.fs;
        fs.fail_after(calls);
        // It may come to its end before.
        let _ = self.scene.clean();
        let map = std::mem::replace(&mut self.scene.map, OffsetMap::with_bytes(0));
        let fs = self.scene.fs.crash(CrashChoice::Random(seed));
        self.scene.reopen(fs);
        self.scene.map = map;
        self.younger_stay(&before)?;
        if compacts { self.met(to) } else { Ok(()) }
    }

    fn clean(&mut self) -> Result<(), TestCaseError> {
        let before = self.found()?;
        let report = match self.scene.clean() {
            Ok(report) => report,
            Err(CompactError::Policy) if !self.scene.config().cleanup.compacts() => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        if matches!(report.rounds, Rounds::More { .. }) {
            prop_assert!(report.to > report.from, "a round gets on");
        }
        self.younger_stay(&before)?;
        self.met(report.to)
    }

    /// Of what was there before a pass, no value is gone that is younger than the least lag.
    fn younger_stay(&self, before: &[Found]) -> Result<(), TestCaseError> {
        let there: BTreeSet<i64> = self.found()?.into_iter().map(|(offset, ..)| offset).collect();
        let (now, min_lag_ms) = (self.scene.now, self.scene.config().compaction.min_lag_ms);
        for (offset, _, value) in before {
            let appended = self.written[usize::try_from(*offset).expect("not negative")].appended;
            prop_assert!(
                value.is_none() || there.contains(offset) || appended + min_lag_ms <= now,
                "{} was appended at {}, and is gone at {}",
                offset,
                appended,
                now
            );
        }
        Ok(())
    }

    /// What the broker does for the promise of the greatest lag, once in a while.
    fn look(&mut self) -> Result<(), TestCaseError> {
        let config = self.scene.config();
        let max_lag_ms = config.compaction.max_lag_ms;
        if !config.cleanup.compacts() || max_lag_ms == i64::MAX {
            return Ok(());
        }
        self.scene.roll_for(RollFor::Promise);
        let due = |scene: &Scene| scene.log.compaction(Timestamp(scene.now)).due;
        for _ in 0..200 {
            if due(&self.scene) != Due::Promise {
                break;
            }
            self.clean()?;
        }
        let now = self.scene.now;
        let found = self.found()?;
        for (offset, key, _) in &found {
            let at = usize::try_from(*offset).expect("not negative");
            let newer = self.written[at + 1..].iter().find(|newer| newer.key == *key);
            let over = newer.is_some_and(|newer| newer.appended.max(self.promised_since) + max_lag_ms <= now);
            prop_assert!(
                !over || self.is_held(*offset),
                "{} has outlived the promise at {}: {:?}",
                offset,
                now,
                self.scene.log.compaction(Timestamp(now))
            );
        }
        Ok(())
    }

    fn configure(&mut self, change: impl FnOnce(&mut LogConfig)) {
        self.scene.configure(change);
        self.promised_since = self.scene.now;
    }

    fn retain(&mut self) -> Result<(), TestCaseError> {
        let (before, now) = (self.start(), Timestamp(self.scene.now));
        let plan = self.scene.log.retention_plan(now);
        for retained in self.scene.store.retain(&[Arc::clone(&self.scene.log)], now) {
            if let Some(error) = retained.failure {
                return Err(TestCaseError::fail(error.to_string()));
            }
            prop_assert_eq!(&retained.deleted, &plan.deletions);
        }
        prop_assert_eq!(self.start(), plan.log_start);
        prop_assert!(plan.log_start == before || self.scene.config().cleanup.deletes());
        if !plan.deletions.is_empty() {
            self.deleted_before = plan.log_start;
        }
        self.asked_start = self.asked_start.max(plan.log_start);
        Ok(())
    }

    fn delete_records(&mut self, records: i64, durable: Durable) {
        let to = Offset(self.start().0 + records);
        // Refused beyond the end, and where something is held.
        if self.scene.log.raise_log_start(to).is_ok() {
            self.asked_start = self.asked_start.max(to);
            if durable == Durable::Yes {
                self.checkpoint();
            }
        }
    }

    fn checkpoint(&mut self) {
        self.scene.store.checkpoint().expect("written");
        self.deleted_before = self.start();
    }

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match op {
            Op::Append(records, how) => {
                self.append(records, how, Outcome::Commit);
            }
            Op::Transaction(records, id, outcome) => {
                let (first, second) = records.split_at(records.len().div_ceil(2));
                for part in [first, second] {
                    if !part.is_empty() {
                        self.append(part, &format!("t{id}:"), *outcome);
                    }
                }
                self.end(*id, *outcome);
            }
            Op::DieInPass(calls, seed) => self.die_in_pass(*calls, *seed)?,
            Op::Roll => self.scene.roll(),
            Op::Clean => self.clean()?,
            Op::Tick(ms) => {
                for _ in 0..*ms {
                    self.scene.now += 1;
                    self.scene.fs.set_now(Timestamp(self.scene.now));
                    self.look()?;
                }
            }
            Op::Restart => {
                self.scene.run("close");
                self.deleted_before = self.start();
            }
            Op::Crash(seed) => self.crash(*seed),
            Op::Hold(from, more) => self.hold(Hold::Offsets(Offset(*from)..Offset(*from + *more)))?,
            Op::HoldTimes(ago, long) => {
                let from = self.scene.now - *ago;
                self.hold(Hold::Times(Timestamp(from)..Timestamp(from + *long)))?;
            }
            Op::Unhold => {
                self.unhold();
                self.configure(|config| config.holds = [].into());
            }
            Op::UnholdAndCrash(seed) => {
                self.unhold();
                self.scene.write_down(&[]);
                self.promised_since = self.scene.now;
                self.crash(*seed);
            }
            Op::Checkpoint => self.scene.store.checkpoint_cleaner_points().expect("written"),
            Op::Policy(policy) => self.configure(|config| config.cleanup = *policy),
            Op::Lags(min_ms, max_ms) => self.configure(|config| {
                config.compaction.min_lag_ms = *min_ms;
                config.compaction.max_lag_ms = max_ms.unwrap_or(i64::MAX);
            }),
            Op::Limits(retention) => self.configure(|config| config.retention = *retention),
            Op::Retain => self.retain()?,
            Op::DeleteRecords(records, durable) => self.delete_records(*records, *durable),
        }
        self.look()?;
        self.verify()
    }

    fn hold(&mut self, hold: Hold) -> Result<(), TestCaseError> {
        self.hold = Some(hold.clone());
        let there = self.found()?.into_iter().map(|(offset, ..)| offset);
        self.held = there.filter(|offset| self.is_held(*offset)).collect();
        self.configure(|config| config.holds = [hold].into());
        Ok(())
    }

    fn is_held(&self, offset: i64) -> bool {
        let appended = self.written[usize::try_from(offset).expect("not negative")].appended;
        let hold = self.hold.as_ref();
        // What is appended has that moment for its time.
        hold.is_some_and(|hold| hold.holds(Offset(offset), Some(Timestamp(appended))))
    }

    fn unhold(&mut self) {
        self.held.clear();
        self.hold = None;
    }

    /// Whoever reads from any offset on builds the table that the records from there on say.
    fn verify_tables(&self, found: &[Found], newest: &BTreeMap<&str, usize>) -> Result<(), TestCaseError> {
        for from in 0..=self.written.len() {
            let mut table = BTreeMap::new();
            for (offset, key, value) in found {
                if usize::try_from(*offset).expect("not negative") < from {
                    continue;
                }
                match value {
                    Some(value) => table.insert(key.as_str(), value.as_str()),
                    None => table.remove(key.as_str()),
                };
            }
            // What somebody wanted deleted is there or not, but never an older value in its place.
            let wanted = |key: &str, at: usize| {
                let asked = i64::try_from(at).expect("few") < self.asked_start.0;
                at >= from && (!asked || table.contains_key(key))
            };
            let expected: BTreeMap<&str, &str> = newest
                .iter()
                .filter(|(key, at)| wanted(key, **at))
                .filter_map(|(key, at)| Some((*key, self.written[*at].value.as_deref()?)))
                .collect();
            prop_assert_eq!(table, expected, "read from {}", from);
        }
        Ok(())
    }

    fn verify(&self) -> Result<(), TestCaseError> {
        let end = i64::try_from(self.written.len()).expect("few");
        prop_assert_eq!(self.scene.log.watermarks().log_end.0, end);
        let found = self.found()?;
        let offsets: BTreeSet<i64> = found.iter().map(|(offset, ..)| *offset).collect();
        prop_assert!(self.held.is_subset(&offsets), "{:?} is held", self.held);
        let start = self.start();
        prop_assert!(
            (self.deleted_before..=self.asked_start).contains(&start),
            "{} deleted, {} asked for, the log begins at {}",
            self.deleted_before,
            self.asked_start,
            start
        );
        let gone = (0..end).rfind(|offset| self.counts(*offset) && !offsets.contains(offset));
        let told = self.scene.log.compacted_below();
        prop_assert!(told.tombstones <= told.records, "{:?}", told);
        prop_assert!(
            gone.is_none_or(|gone| gone < told.records.0),
            "{:?} is gone, told {:?}",
            gone,
            told
        );
        let mut newest: BTreeMap<&str, usize> = BTreeMap::new();
        let counts = |written: &&Written| !written.key.is_empty();
        for (at, written) in self
            .written
            .iter()
            .enumerate()
            .filter(|(_, written)| counts(written))
        {
            newest.insert(&written.key, at);
        }
        let mut last = -1;
        for (offset, key, value) in &found {
            prop_assert!(*offset > last, "offsets grow");
            last = *offset;
            let written = &self.written[usize::try_from(*offset).expect("not negative")];
            prop_assert_eq!((key, value), (&written.key, &written.value));
        }
        self.verify_tables(&found, &newest)?;
        newest.retain(|_, at| i64::try_from(*at).expect("few") >= self.asked_start.0);
        for (key, at) in &newest {
            let written = &self.written[*at];
            let there = found
                .iter()
                .any(|(offset, ..)| usize::try_from(*offset) == Ok(*at));
            let over = written
                .met
                .is_some_and(|met| self.scene.now >= met + KEEP_TOMBSTONES_MS);
            prop_assert!(
                there || (written.value.is_none() && over),
                "the newest of {}",
                key
            );
            let at = i64::try_from(*at).expect("few");
            prop_assert!(there || at < told.tombstones.0, "{} is gone, told {:?}", at, told);
        }
        Ok(())
    }
}

impl Model {
    fn clean_all(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..200 {
            self.apply(&Op::Clean)?;
            let view = self.scene.log.compaction(Timestamp(self.scene.now));
            if view.cleaner_point >= view.first_uncleanable {
                return Ok(());
            }
        }
        Err(TestCaseError::fail("there is no end of rounds"))
    }

    fn tombstones(&self) -> Result<usize, TestCaseError> {
        let found = self.found()?;
        Ok(found.iter().filter(|(_, _, value)| value.is_none()).count())
    }

    /// Nothing is held any more, nobody writes, and everything is cleaned once: what has to be cleaned again, the log itself
    /// asks for, and then no tombstone is left.
    fn tombstones_go(&mut self) -> Result<(), TestCaseError> {
        self.apply(&Op::Unhold)?;
        self.apply(&Op::Policy(CleanupPolicy::Compact))?;
        self.apply(&Op::Lags(0, None))?;
        self.apply(&Op::Roll)?;
        self.clean_all()?;
        for _ in 0..4 {
            self.apply(&Op::Tick(KEEP_TOMBSTONES_MS))?;
            let view = self.scene.log.compaction(Timestamp(self.scene.now));
            if view.due != Due::Horizon {
                break;
            }
            self.clean_all()?;
        }
        prop_assert_eq!(self.tombstones()?, 0, "tombstones that nothing asks to drop");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_log_that_is_cleaned_says_what_all_its_records_say(
        ops in prop::collection::vec(op(), 1..60),
        map_keys in 1..5_usize,
    ) {
        let mut model = Model::new(map_keys);
        for op in &ops {
            model.apply(op)?;
        }
        model.tombstones_go()?;
    }
}
