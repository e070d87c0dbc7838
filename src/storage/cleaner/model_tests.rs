//! The model: a list of every record ever appended, beside a log that is held, cleaned, restarted and killed at random.
//!
//! After every step: each record found is one that was written, at its offset; the newest value of each key is there; whoever
//! reads from any offset on, to the end, builds the table that the records from there on say; no tombstone that is its key's
//! newest is gone before its time, which counts from when the last older record of its key is gone; what was there when a hold
//! began is there while it holds; the log end is where it was; and below what readers are told nothing was replaced. Records of
//! transactions count once these are committed; of aborted ones nobody asks what became of them.
//!
//! In the end nobody writes any more: the log itself asks for the passes after which no tombstone is left.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::{Compaction, Due, Hold, LogConfig, OffsetMap, Rounds};
use super::testing::{Scene, compacted, end_of_cleanable};
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
    Unhold,
    /// The process dies after the end of the hold was written down, and before the log knew.
    UnholdAndCrash(u64),
    Checkpoint,
    /// The process dies at this call of a pass, if the pass has so many.
    DieInPass(u64, u64),
}

fn op() -> impl Strategy<Value = Op> {
    let records = prop::collection::vec((0..6_u8, 0..4_u8), 1..4);
    let how = prop::sample::select(vec!["", "", "zstd:", "p7:", "p8:"]);
    let committed = prop::sample::select(vec![Outcome::Commit, Outcome::Abort]);
    let of_transaction = prop::collection::vec((0..6_u8, 0..4_u8), 1..4);
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
        1 => Just(Op::Unhold),
        1 => any::<u64>().prop_map(Op::UnholdAndCrash),
        1 => Just(Op::Checkpoint),
    ]
}

#[derive(Debug)]
struct Written {
    /// Empty where nothing counts: a marker, or a record of an aborted transaction.
    key: String,
    value: Option<String>,
    /// When a pass may first have met it with no older record of its key left.
    met: Option<i64>,
}

impl Written {
    fn nothing() -> Self {
        Self {
            key: String::new(),
            value: None,
            met: None,
        }
    }
}

struct Model {
    scene: Scene,
    written: Vec<Written>,
    /// Offsets that were there when the hold began that holds them.
    held: BTreeSet<i64>,
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
        }
    }

    fn crash(&mut self, seed: u64) {
        let map = std::mem::replace(&mut self.scene.map, OffsetMap::with_bytes(0));
        let fs = self.scene.fs.crash(CrashChoice::Random(seed));
        self.scene.fs = fs;
        self.scene.run("restart");
        self.scene.map = map;
    }

    /// The records that count.
    fn found(&self) -> Result<Vec<(i64, String, Option<String>)>, TestCaseError> {
        let mut found = self.scene.records().map_err(TestCaseError::fail)?;
        found.retain(|(offset, ..)| self.counts(*offset));
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
                    met: None,
                },
                Outcome::Abort => Written::nothing(),
            });
        }
    }

    fn end(&mut self, id: i64, outcome: Outcome) {
        self.scene.append(&match outcome {
            Outcome::Commit => format!("commit{id}"),
            Outcome::Abort => format!("abort{id}"),
        });
        self.scene.sync();
        self.written.push(Written::nothing());
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
        let to = end_of_cleanable(&self.scene);
        let fs = &self.scene.fs;
        fs.fail_after(fs.mutations() + calls);
        // It may come to its end before.
        let _ = self.scene.clean();
        let map = std::mem::replace(&mut self.scene.map, OffsetMap::with_bytes(0));
        let fs = self.scene.fs.crash(CrashChoice::Random(seed));
        self.scene.reopen(fs);
        self.scene.map = map;
        self.met(to)
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
            Op::Clean => {
                let report = self
                    .scene
                    .clean()
                    .map_err(|error| TestCaseError::fail(error.to_string()))?;
                self.met(report.to)?;
                if matches!(report.rounds, Rounds::More { .. }) {
                    prop_assert!(report.to > report.from, "a round gets on");
                }
            }
            Op::Tick(ms) => self.scene.now += ms,
            Op::Restart => {
                self.scene.run("close");
            }
            Op::Crash(seed) => self.crash(*seed),
            Op::Hold(from, more) => {
                let range = *from..*from + *more;
                let there = self.found()?.into_iter().map(|(offset, ..)| offset);
                self.held = there.filter(|offset| range.contains(offset)).collect();
                self.scene
                    .hold(&[Hold::Offsets(Offset(range.start)..Offset(range.end))]);
            }
            Op::Unhold => {
                self.held.clear();
                self.scene.hold(&[]);
            }
            Op::UnholdAndCrash(seed) => {
                self.held.clear();
                self.scene.write_down(&[]);
                self.crash(*seed);
            }
            Op::Checkpoint => self.scene.store.checkpoint_cleaner_points().expect("written"),
        }
        self.verify()
    }

    fn verify(&self) -> Result<(), TestCaseError> {
        let end = i64::try_from(self.written.len()).expect("few");
        prop_assert_eq!(self.scene.log.watermarks().log_end.0, end);
        let found = self.found()?;
        let offsets: BTreeSet<i64> = found.iter().map(|(offset, ..)| *offset).collect();
        prop_assert!(self.held.is_subset(&offsets), "{:?} is held", self.held);
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
        for from in 0..=self.written.len() {
            let mut table = BTreeMap::new();
            for (offset, key, value) in &found {
                if usize::try_from(*offset).expect("not negative") < from {
                    continue;
                }
                match value {
                    Some(value) => table.insert(key.as_str(), value.as_str()),
                    None => table.remove(key.as_str()),
                };
            }
            let expected: BTreeMap<&str, &str> = newest
                .iter()
                .filter(|(_, at)| **at >= from)
                .filter_map(|(key, at)| Some((*key, self.written[*at].value.as_deref()?)))
                .collect();
            prop_assert_eq!(table, expected, "read from {}", from);
        }
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
