//! What the crash sweep knows of a store from outside: what was promised, what was tried, and how a log that is found is held
//! against both.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;

use super::transactions;
use crate::record::Accepted;
use crate::storage::testing::{NOW, Stored, body_of, read_all};
use crate::storage::{Origin, Partition, PartitionSpec, Written};
use crate::types::{LeaderEpoch, Offset};

/// What is known of one log from outside.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    pub(super) spec: PartitionSpec,
    /// Batches of which an append was begun.
    pub(super) tried: BTreeSet<Bytes>,
    /// Those of the idempotent producer, by sequence.
    pub(super) numbered: Vec<Accepted>,
    /// Appended, not yet confirmed.
    pub(super) appended: Vec<Stored>,
    /// Below a high watermark.
    pub(super) confirmed: BTreeMap<Offset, Stored>,
    /// Under an epoch, an offset has one content for ever.
    pub(super) seen: BTreeMap<(Offset, LeaderEpoch), Bytes>,
    /// What a failed sync may have cost.
    pub(super) lost: Vec<Range<Offset>>,
    /// What an adoption brings in, whole or not at all.
    pub(super) adopted: Vec<Stored>,
    /// The log start as it was asked for, and as a checkpoint made it last.
    pub(super) asked_start: Offset,
    pub(super) kept_start: Offset,
}

/// All that is known.
#[derive(Clone, Default, Debug)]
pub(super) struct Ledger {
    pub(super) epoch: Option<LeaderEpoch>,
    pub(super) cluster: Option<String>,
    pub(super) logs: BTreeMap<&'static str, Promise>,
    pub(super) gone: Vec<&'static str>,
}

impl Ledger {
    pub(super) fn log(&mut self, name: &str) -> &mut Promise {
        self.logs.get_mut(name).expect("the script created it")
    }
}

impl Promise {
    pub(super) fn new(spec: PartitionSpec) -> Self {
        Self {
            spec,
            tried: BTreeSet::new(),
            numbered: Vec::new(),
            appended: Vec::new(),
            confirmed: BTreeMap::new(),
            seen: BTreeMap::new(),
            lost: Vec::new(),
            adopted: Vec::new(),
            asked_start: Offset(0),
            kept_start: Offset(0),
        }
    }

    /// What lies below the high watermark now is promised from now on.
    pub(super) fn confirm(&mut self, high_watermark: Offset) {
        for stored in self
            .appended
            .extract_if(.., |stored| stored.next <= high_watermark)
        {
            self.confirmed.insert(stored.base, stored);
        }
    }

    /// One content per offset and epoch.
    pub(super) fn note(&mut self, stored: &Stored) -> Result<(), String> {
        let known = self.seen.entry((stored.base, stored.epoch));
        let known = known.or_insert_with(|| stored.body.clone());
        if *known == stored.body {
            return Ok(());
        }
        Err(format!(
            "offset {} of epoch {} has two contents",
            stored.base, stored.epoch
        ))
    }

    /// Holds what a start found against what is known; everything found is promised from now on.
    pub(super) fn verify(&mut self, log: &Partition) -> Result<(), String> {
        let view = log.watermarks();
        let stored = read_all(log, 300)?;
        if view.log_start < self.kept_start || view.log_start > self.asked_start {
            let (kept, asked) = (self.kept_start, self.asked_start);
            return Err(format!(
                "log start {}, kept {kept}, asked {asked}",
                view.log_start
            ));
        }
        if view.high_watermark != view.log_end {
            return Err(format!(
                "high watermark {} below the log end",
                view.high_watermark
            ));
        }
        let mut expected = view.log_start;
        for batch in &stored {
            let gap = expected..batch.base;
            if gap.start < gap.end {
                self.check_gap(log, gap)?;
            }
            if !self.tried.contains(&batch.body) {
                return Err(format!("offset {} holds what nobody wrote", batch.base));
            }
            self.note(batch)?;
            expected = batch.next;
        }
        if expected < view.log_end {
            self.check_gap(log, expected..view.log_end)?;
        }
        let adopted = self.adopted.iter().filter(|batch| stored.contains(batch));
        let adopted = adopted.count();
        if adopted != 0 && adopted != self.adopted.len() {
            return Err(format!(
                "{adopted} of {} batches were adopted",
                self.adopted.len()
            ));
        }
        let found: BTreeMap<Offset, Stored> = stored.into_iter().map(|batch| (batch.base, batch)).collect();
        for (base, batch) in self.confirmed.range(view.log_start..) {
            if found.get(base) != Some(batch) {
                return Err(format!(
                    "confirmed offset {base} is lost, the log ends at {}",
                    view.log_end
                ));
            }
        }
        self.appended.clear();
        self.confirmed.extend(found);
        if self.spec.id.topic.as_str() == transactions::LOG {
            transactions::check(log)?;
        }
        Ok(())
    }

    /// A gap is what a failed sync may have cost, or the unsynced end of a segment that never came to disk while the next one
    /// did. The second is right where nothing behind it was confirmed: the sync that confirms a batch covers every log with
    /// unsynced bytes before it (DESIGN invariants 4 and 7), so to everybody who was promised something the log still is
    /// without a hole. What lies behind is kept: it is what was written, perhaps all that is left of a `written` log. The
    /// offsets of the gap are not given again, so no epoch is needed to tell two contents apart (invariant 6); from the start
    /// that found it, the gap stays as it is.
    pub(super) fn check_gap(&mut self, log: &Partition, gap: Range<Offset>) -> Result<(), String> {
        let within = |lost: &Range<Offset>| lost.start <= gap.start && gap.end <= lost.end;
        if self.lost.iter().any(within) {
            return Ok(());
        }
        let next_segment = log.dir().join(format!("{:020}.log", gap.end.0));
        let begins_segment = log.files.fs().stat(&next_segment).is_ok();
        let confirmed_behind = self.confirmed.range(gap.end..).next().is_some();
        if !begins_segment || confirmed_behind {
            return Err(format!("nothing between {} and {}", gap.start, gap.end));
        }
        self.lost.push(gap);
        Ok(())
    }

    /// Retries the last five numbered batches that the log holds; of those retention took, only the newest is known.
    pub(super) fn retry(&self, log: &Partition) -> Result<(), String> {
        let held = |batch: &&Accepted| {
            let body = body_of(batch.bytes());
            let place = self.confirmed.values().find(|stored| stored.body == body)?;
            Some((place.base, (*batch).clone()))
        };
        let held: Vec<_> = self
            .numbered
            .iter()
            .rev()
            .filter_map(|batch| held(&batch))
            .take(5)
            .collect();
        let log_start = log.watermarks().log_start;
        let known = held
            .into_iter()
            .enumerate()
            .filter(|(age, (base, _))| *age == 0 || *base >= log_start);
        for (_, (base, batch)) in known {
            let again = log
                .append(&batch, Origin::Client, NOW)
                .map_err(|error| format!("retry of offset {base}: {error}"))?;
            if again.base_offset != base || again.written == Written::Now {
                return Err(format!("retry of offset {base} was written again: {again:?}"));
            }
        }
        Ok(())
    }
}
