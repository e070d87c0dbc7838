//! What `explain` says of a log beforehand, beside what the cleaner then does: over random appends, holds, commands, failures of the
//! disk and stretches of time.
//!
//! Held is: when nothing is in the way, the next turn does something to that log; when something is, no turn does; before the time
//! that is told nothing happens, and when it is reached the log is due, or what is told has moved on; counts that are told as exact
//! are those of a reader.

use proptest::prelude::*;

use super::cleaner::{COMPACT, Workshop, command};
use super::*;
use crate::broker::cleaner::Turn;

#[derive(Clone, Debug)]
enum Op {
    /// Of key 0 to 3; a tombstone or a value.
    Write(u8, bool),
    /// So many milliseconds go by.
    Wait(i64),
    /// Until shortly before the time that is told, and then until it.
    WaitAsTold,
    Command,
    Hold(i64),
    Release,
    /// The next write of a pass fails.
    Break,
}

#[derive(Clone, Debug)]
struct Settings {
    min_dirty_ratio: &'static str,
    min_lag_ms: &'static str,
    max_lag_ms: &'static str,
    keep_tombstones_ms: &'static str,
    /// Room for one key, or for all.
    map_bytes: usize,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => (0..4_u8, prop::bool::weighted(0.3)).prop_map(|(key, gone)| Op::Write(key, gone)),
        3 => (1..20_000_i64).prop_map(Op::Wait),
        4 => Just(Op::WaitAsTold),
        1 => Just(Op::Command),
        1 => (1..8_i64).prop_map(Op::Hold),
        1 => Just(Op::Release),
        1 => Just(Op::Break),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let one_of = |of: &[&'static str]| prop::sample::select(of.to_vec());
    (
        one_of(&["0.1", "0.5", "0.9"]),
        one_of(&["0", "5000"]),
        one_of(&["20000", "60000", "9223372036854775807"]),
        one_of(&["1000", "30000"]),
        prop::sample::select(vec![40_usize, 1 << 20]),
    )
        .prop_map(
            |(min_dirty_ratio, min_lag_ms, max_lag_ms, keep_tombstones_ms, map_bytes)| Settings {
                min_dirty_ratio,
                min_lag_ms,
                max_lag_ms,
                keep_tombstones_ms,
                map_bytes,
            },
        )
}

/// What shows that the cleaner did something to a log: when its last pass was, where its active segment begins, and when it failed.
type Trace = (Option<Timestamp>, Offset, Option<Timestamp>);

fn trace(told: &CompactionExplanation) -> Trace {
    (
        told.last_pass.as_ref().map(|pass| pass.at),
        told.active_start,
        told.last_error.as_ref().map(|error| error.at),
    )
}

struct Watch {
    shop: Workshop,
    topic: TopicName,
    /// A command waits: the next turn is its own, whatever is told.
    commanded: bool,
}

impl Watch {
    fn explain(&self) -> CompactionExplanation {
        self.shop.explain(&self.topic)
    }

    fn now(&self) -> Timestamp {
        self.shop.clock.now()
    }

    fn turns(&self) {
        let turns = (0..200).take_while(|_| self.shop.turn() == Turn::Worked);
        assert!(turns.count() < 200, "there is always something to do");
    }

    /// Compares what is told now with what turns do now.
    async fn compare(&mut self) -> Result<(), TestCaseError> {
        // No two traces are of the same time.
        self.shop.clock.advance_ms(1);
        let told = self.explain();
        self.turns();
        let after = self.explain();
        let done = trace(&told) != trace(&after);
        if std::mem::take(&mut self.commanded) {
            return self.check_counts(&after).await;
        }
        prop_assert_eq!(
            done,
            told.why_not_now.is_none(),
            "told {:?}, then {:?}",
            &told,
            &after
        );
        prop_assert_eq!(
            done,
            told.next_run.is_some_and(|at| at <= self.now()),
            "told {:?}",
            &told
        );
        prop_assert!(
            after.why_not_now.is_some(),
            "it was done, and is due: {:?}",
            &after
        );
        if done && after.last_error.is_none() && trace(&told).0 != trace(&after).0 {
            prop_assert_eq!(after.dirty_bytes, 0, "all that could be cleaned is clean");
            prop_assert!(after.cleaner_point >= told.first_uncleanable);
        }
        self.check_counts(&after).await
    }

    async fn check_counts(&self, told: &CompactionExplanation) -> Result<(), TestCaseError> {
        let exact = told.keys.filter(|keys| keys.exactness == Exactness::Exact);
        if let Some(keys) = exact {
            let found = self.values_and_tombstones().await;
            prop_assert_eq!((keys.live, keys.tombstones), found, "{:?}", told);
        }
        Ok(())
    }

    async fn values_and_tombstones(&self) -> (u64, u64) {
        let spec = read(&self.topic, ReadStart::Earliest, ReadEnd::Now);
        let mut stream = self.shop.house.broker.open_read(spec).await.expect("known");
        let (mut values, mut tombstones) = (0, 0);
        while let Some(step) = stream.next().await.expect("sound") {
            for record in step.chunk.records().expect("sound") {
                let count = if record.value.is_some() {
                    &mut values
                } else {
                    &mut tombstones
                };
                *count += 1;
            }
        }
        (values, tombstones)
    }

    async fn wait_as_told(&mut self) -> Result<(), TestCaseError> {
        let told = self.explain();
        let Some(at) = told.next_run else {
            self.shop.clock.advance_ms(24 * 3_600_000);
            self.turns();
            prop_assert_eq!(trace(&told), trace(&self.explain()), "no run was told of");
            return Ok(());
        };
        let ahead_ms = at.0 - self.now().0;
        if ahead_ms > 1 {
            self.shop.clock.advance_ms(ahead_ms - 1);
            self.turns();
            prop_assert_eq!(trace(&told), trace(&self.explain()), "too early for {:?}", &told);
            self.shop.clock.advance_ms(1);
            let then = self.explain();
            prop_assert!(
                then.why_not_now.is_none() || then.next_run != told.next_run,
                "told {:?}, then {:?}",
                &told,
                &then
            );
        }
        Ok(())
    }

    async fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        let broker = &self.shop.house.broker;
        match op {
            Op::Write(key, gone) => {
                let value = "x".repeat(5_000);
                let mut record = keyed(&key.to_string(), &value);
                record.value = record.value.filter(|_| !gone);
                let written = self.shop.house.append(&self.topic, 0, vec![record]).await;
                written.expect("written");
            }
            Op::Wait(ms) => {
                let told = self.explain();
                self.shop.clock.advance_ms(*ms);
                if told.next_run.is_none_or(|at| at > self.now()) {
                    self.turns();
                    prop_assert_eq!(trace(&told), trace(&self.explain()), "too early for {:?}", &told);
                }
            }
            Op::WaitAsTold => self.wait_as_told().await?,
            Op::Command => {
                let wish = command(&self.topic);
                let asked = broker.compact_now(&wish, CompactWait::AtMostMs(0)).await;
                asked.expect("a compacted topic");
                self.commanded = true;
            }
            Op::Hold(until) => {
                let hold = TopicHold {
                    name: "case".to_owned(),
                    partition: None,
                    range: HeldRange::Offsets(Offset(0)..Offset(*until)),
                };
                // There is one already, or not.
                let _ = broker.add_hold(&self.topic, hold).await;
            }
            Op::Release => {
                let _ = broker.remove_hold(&self.topic, "case").await;
            }
            Op::Break => self.shop.house.fs.inject(Fault {
                call: Call::Write,
                path_contains: ".cleaned".to_owned(),
                times: 1,
                failure: Failure::Kind(IoErrorKind::Other),
            }),
        }
        self.compare().await
    }
}

async fn live(settings: &Settings, ops: &[Op]) -> Result<(), TestCaseError> {
    let map_bytes = settings.map_bytes;
    let shop = Workshop::on(SimFs::new(), |config| {
        config.cleaner.dedupe_buffer_bytes = map_bytes
    })
    .await;
    let config = [
        COMPACT,
        ("segment.bytes", "16384"),
        ("min.cleanable.dirty.ratio", settings.min_dirty_ratio),
        ("min.compaction.lag.ms", settings.min_lag_ms),
        ("max.compaction.lag.ms", settings.max_lag_ms),
        ("delete.retention.ms", settings.keep_tombstones_ms),
    ];
    let topic = shop.house.create("t", 1, &config).await;
    let mut watch = Watch {
        shop,
        topic,
        commanded: false,
    };
    for op in ops {
        watch.apply(op).await?;
    }
    watch.shop.house.broker.shutdown().await.expect("a good disk");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_explain_predicts_happens_and_nothing_else(
        settings in settings(),
        ops in prop::collection::vec(op(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(live(&settings, &ops))?;
    }
}
