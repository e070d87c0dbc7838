//! Survivors: the one place that decides what becomes of a record and of its batch.
//!
//! A record, in this order:
//! 1. held: stays.
//! 2. not learned yet in this pass (a later round comes to it): stays.
//! 3. without a key: goes; no reader of a table could ask for it.
//! 4. a newer record of its key was learned: goes.
//! 5. a tombstone past its horizon: goes, if no older record of any key may have stayed below it. Held records and damage
//!    below keep every tombstone above them.
//! 6. stays.
//!
//! A batch whose records all stay is copied byte for byte. One that keeps tombstones is built anew with a horizon in the first
//! pass that has learned all of them: until then a reader may still find older records, and has all of the time to come to the
//! tombstones. One that keeps nothing goes, unless its place is needed: it is its producer's last one, whose sequence a restart
//! must find, or the last of a group of segments, whose end a restart must find; then it stays as a header alone.
//!
//! Invariants
//! - Offsets, producers, sequences, epochs, codecs and timestamp types never change (`BatchRebuild`).
//! - What cannot be read, or not be built anew within the limits of a batch, stays as it is. Then records that were to go stay
//!   below the tombstones that follow, and those stay too.
//! - A horizon that no batch has room for comes in a later pass; nothing else waits for it.
//! - An entry for each producer that the log remembers is all that grows with their number: at most `MAX_PRODUCERS`.
//! - Batches are told in the order of their offsets, from the first of the log on.
//!
//! What is not here: where the newer records are known from (`offset_map`), transactions' state (`transactions`), how a batch
//! is built anew (`rebuild`), files.

use std::collections::HashMap;
use std::ops::Range;

use crate::record::{BatchHeader, BatchRebuild, Damage, Glance, Payload, RecordBatch};
use crate::storage::{AbortedTransaction, Hold, ProducerEntry};
use crate::types::{Offset, ProducerEpoch, ProducerId, Timestamp};

use super::super::cleaner_state::RecordCounts;
use super::offset_map::OffsetMap;
use super::rebuild::{BatchLimits, Original, Parts};
use super::transactions::{Decision, MarkerNeed, Transactions};

/// Least and greatest timestamp of some records.
pub(super) type TimeSpan = Option<(Timestamp, Timestamp)>;

/// What a pass goes by.
#[derive(Clone, Debug)]
pub(super) struct Rules<'a> {
    pub(super) map: &'a OffsetMap,
    /// Records before it are in the map.
    pub(super) learned_to: Offset,
    pub(super) holds: &'a [Hold],
    /// Tombstones of batches that reach into it count as met for the first time.
    pub(super) met_again: Range<Offset>,
    /// From there on records below the learned ones were never learned: tombstones stay.
    pub(super) unlearned_from: Option<Offset>,
    pub(super) now: Timestamp,
    /// What a tombstone met for the first time gets as its horizon.
    pub(super) delete_horizon: Timestamp,
    pub(super) limits: BatchLimits,
}

impl Rules<'_> {
    /// Tells whether the time of the tombstones of a batch begins anew. One horizon is for all of them.
    fn meets_again(&self, header: &BatchHeader) -> bool {
        header.base_offset < self.met_again.end && self.met_again.start <= header.last_offset()
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Survivors<'a> {
    rules: Rules<'a>,
    last_of: HashMap<ProducerId, LastOf>,
    met: Met,
    /// Which records of the batch that was looked at last stay, in their order; kept for its memory.
    stays: Vec<bool>,
}

/// What a pass has met so far: whoever goes back to an earlier batch takes it back, too.
#[derive(Clone, Debug)]
pub(super) struct Met {
    pub(super) transactions: Transactions,
    tombstones: Tombstones,
    pub(super) counts: RecordCounts,
    /// From then on a pass may find markers that nobody needs any more: those whose last records went in this one, and that no
    /// pass has given a horizon yet.
    pub(super) markers_due: Option<Timestamp>,
}

/// The last batch of a producer that is remembered.
#[derive(Clone, Copy, Debug)]
enum LastOf {
    Data(Offset),
    Marker(ProducerEpoch),
}

/// Whether an older record may have stayed below.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tombstones {
    MayGo,
    Stay,
}

/// What a batch's place is needed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Ordinary,
    /// Something that a restart must find would be missing without it.
    Needed,
}

/// What becomes of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    AsItIs,
    /// By these, one behind the other.
    Rebuilt(Vec<RecordBatch>),
    Gone,
}

/// What became of a batch, and what an index must know of what stays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Judgement {
    pub(super) fate: Fate,
    pub(super) times: TimeSpan,
    pub(super) aborted: Option<AbortedTransaction>,
}

/// What becomes of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RecordFate {
    Held,
    Stays,
    Superseded,
    Keyless,
    TombstoneOver,
    Aborted,
}

impl RecordFate {
    fn stays(self) -> bool {
        matches!(self, Self::Held | Self::Stays)
    }
}

/// A look over the records of a batch.
#[derive(Debug, Default)]
struct Look {
    stay: u32,
    times: TimeSpan,
    /// Tombstones among those that stay, and were learned.
    tombstones: u32,
    /// Tombstones that a later round learns: older records of their keys are still there.
    tombstones_ahead: u32,
    counts: RecordCounts,
}

impl<'a> Survivors<'a> {
    /// Begins a pass. `producers` are those whose last batch must be found by a restart.
    pub(super) fn new(rules: Rules<'a>, producers: &[ProducerEntry]) -> Self {
        let last = |entry: &ProducerEntry| {
            let data = entry.last_batch.map(|last| LastOf::Data(last.last_offset));
            (entry.id, data.unwrap_or(LastOf::Marker(entry.epoch)))
        };
        Self {
            rules,
            last_of: producers.iter().map(last).collect(),
            met: Met {
                transactions: Transactions::default(),
                tombstones: Tombstones::MayGo,
                counts: RecordCounts::default(),
                markers_due: None,
            },
            stays: Vec::new(),
        }
    }

    /// Returns the offset before which all records were learned.
    pub(super) fn learned_to(&self) -> Offset {
        self.rules.learned_to
    }

    /// Returns what was met so far.
    pub(super) fn met(&self) -> &Met {
        &self.met
    }

    /// Goes back to where `met` was all that was met.
    pub(super) fn go_back(&mut self, met: Met) {
        self.met = met;
    }

    /// See [`Transactions::wants`].
    pub(super) fn wants(&self, header: &BatchHeader) -> Option<Range<Offset>> {
        self.met.transactions.wants(header)
    }

    /// See [`Transactions::expect`].
    pub(super) fn expect(&mut self, offsets: &Range<Offset>, aborted: Vec<AbortedTransaction>) {
        self.met.transactions.expect(offsets, aborted);
    }

    /// There is a place that cannot be read: it may hold a record of any key.
    pub(super) fn met_damage(&mut self) {
        self.met.tombstones = Tombstones::Stay;
    }

    /// Decides about a batch.
    ///
    /// # Errors
    /// [`Damage`] of a batch that cannot be read; nothing is counted then, and it stays as it is.
    pub(super) fn judge(&mut self, batch: &RecordBatch, place: Place) -> Result<Judgement, Damage> {
        let header = batch.header();
        if self
            .rules
            .unlearned_from
            .is_some_and(|from| from <= header.last_offset())
        {
            self.met.tombstones = Tombstones::Stay;
        }
        let place = if self.is_last_of_producer(header) {
            Place::Needed
        } else {
            place
        };
        if header.is_control() {
            return self.judge_marker(batch, place);
        }
        let decision = self.met.transactions.data(header);
        if header.record_count == 0 {
            return Ok(emptied(header, place));
        }
        let payload = batch.open(self.rules.limits.decompressed)?;
        let look = self.look(header, &payload, decision)?;
        // A horizon is for all tombstones of a batch, and counts from when older records are gone.
        let all_met = look.tombstones > 0 && look.tombstones_ahead == 0;
        let horizon = (all_met && (header.delete_horizon().is_none() || self.rules.meets_again(header)))
            .then_some(self.rules.delete_horizon);
        let unchanged = look.stay == header.record_count;
        let fate = if look.stay == 0 {
            Some(emptied(header, place).fate)
        } else {
            let built = self.rebuild(header, &payload, horizon, unchanged);
            built.or(unchanged.then_some(Fate::AsItIs))
        };
        let (fate, look) = match fate {
            Some(fate) => (fate, look),
            None => (Fate::AsItIs, self.all_stays(&payload)),
        };
        self.count(&look.counts);
        if fate == Fate::Gone && header.is_transactional() {
            self.met.markers_due = Some(self.rules.delete_horizon);
        }
        Ok(Judgement {
            fate,
            times: look.times,
            aborted: None,
        })
    }

    fn is_last_of_producer(&self, header: &BatchHeader) -> bool {
        let Some(producer) = header.producer else {
            return false;
        };
        match self.last_of.get(&producer.id) {
            Some(LastOf::Data(offset)) => *offset == header.last_offset(),
            Some(LastOf::Marker(epoch)) => header.is_control() && *epoch == producer.epoch,
            None => false,
        }
    }

    fn judge_marker(&mut self, batch: &RecordBatch, place: Place) -> Result<Judgement, Damage> {
        let header = batch.header();
        let need = self.met.transactions.marker(header, batch.control_marker()?);
        let stays = |fate, aborted| Judgement {
            fate,
            times: None,
            aborted,
        };
        let held = self.is_held(header.base_offset, header.max_timestamp);
        Ok(match (need, header.delete_horizon()) {
            (MarkerNeed::Needed(aborted), _) => stays(Fate::AsItIs, aborted),
            (MarkerNeed::Unneeded, _) if held => stays(Fate::AsItIs, None),
            (MarkerNeed::Unneeded, _) if header.record_count == 0 => emptied(header, place),
            (MarkerNeed::Unneeded, Some(horizon)) if horizon <= self.rules.now => emptied(header, place),
            (MarkerNeed::Unneeded, Some(_)) => stays(Fate::AsItIs, None),
            (MarkerNeed::Unneeded, None) => {
                let mut rebuild = BatchRebuild::of(header, Some(self.rules.delete_horizon));
                for record in batch.open(self.rules.limits.decompressed)?.glances() {
                    if rebuild.keep(&record?).is_err() {
                        return Ok(stays(Fate::AsItIs, None));
                    }
                }
                let built = rebuild.build();
                stays(
                    built.map_or(Fate::AsItIs, |batch| Fate::Rebuilt(vec![batch])),
                    None,
                )
            }
        })
    }

    /// Decides about every record of a batch. Reads all of it before anything is decided for good.
    fn look(
        &mut self,
        header: &BatchHeader,
        payload: &Payload<'_>,
        decision: Decision,
    ) -> Result<Look, Damage> {
        let look = self.look_once(header, payload, decision)?;
        if look.counts.held == 0 || self.met.tombstones == Tombstones::Stay {
            return Ok(look);
        }
        // A tombstone of this very batch may stand above the held record.
        self.met.tombstones = Tombstones::Stay;
        self.look_once(header, payload, decision)
    }

    fn look_once(
        &mut self,
        header: &BatchHeader,
        payload: &Payload<'_>,
        decision: Decision,
    ) -> Result<Look, Damage> {
        let mut look = Look::default();
        self.stays.clear();
        for record in payload.glances() {
            let record = record?;
            let fate = self.fate(header, &record, decision);
            self.stays.push(fate.stays());
            look.add(&record, fate, &self.rules);
        }
        Ok(look)
    }

    fn fate(&self, header: &BatchHeader, record: &Glance<'_>, decision: Decision) -> RecordFate {
        let rules = &self.rules;
        if self.is_held(record.offset, record.timestamp) {
            return RecordFate::Held;
        }
        if decision == Decision::Aborted {
            return RecordFate::Aborted;
        }
        if record.offset >= rules.learned_to {
            return RecordFate::Stays;
        }
        let Some(key) = record.key else {
            return RecordFate::Keyless;
        };
        if rules.map.newest(key).is_some_and(|newest| record.offset < newest) {
            return RecordFate::Superseded;
        }
        let over = record.value.is_none()
            && self.met.tombstones == Tombstones::MayGo
            && !rules.meets_again(header)
            && header
                .delete_horizon()
                .is_some_and(|horizon| horizon <= rules.now);
        if over {
            RecordFate::TombstoneOver
        } else {
            RecordFate::Stays
        }
    }

    fn is_held(&self, offset: Offset, timestamp: Option<Timestamp>) -> bool {
        self.rules.holds.iter().any(|hold| hold.holds(offset, timestamp))
    }

    /// Builds what stays of the batch that was looked at last: with the horizon where there is room for it, else without.
    /// `None` when nothing new can be built.
    fn rebuild(
        &self,
        header: &BatchHeader,
        payload: &Payload<'_>,
        horizon: Option<Timestamp>,
        unchanged: bool,
    ) -> Option<Fate> {
        let original = Original {
            header,
            payload,
            stays: &self.stays,
            limits: self.rules.limits,
        };
        let parts = if self.is_last_of_producer(header) {
            Parts::One
        } else {
            Parts::Any
        };
        let with_horizon = horizon.and_then(|_| original.rebuild(horizon, parts));
        let built = with_horizon.or_else(|| match unchanged {
            true => None,
            false => original.rebuild(None, parts),
        });
        built.map(Fate::Rebuilt)
    }

    /// What should have become less stays whole: an older record of any key may now lie below what follows.
    fn all_stays(&mut self, payload: &Payload<'_>) -> Look {
        self.met.tombstones = Tombstones::Stay;
        let mut look = Look::default();
        for record in payload.glances().flatten() {
            look.add(&record, RecordFate::Stays, &self.rules);
        }
        look
    }

    fn count(&mut self, counts: &RecordCounts) {
        let all = &mut self.met.counts;
        all.values_kept += counts.values_kept;
        all.tombstones_kept += counts.tombstones_kept;
        all.superseded += counts.superseded;
        all.tombstones_dropped += counts.tombstones_dropped;
        all.keyless_dropped += counts.keyless_dropped;
        all.aborted_dropped += counts.aborted_dropped;
        all.held += counts.held;
    }
}

impl Look {
    fn add(&mut self, record: &Glance<'_>, fate: RecordFate, rules: &Rules<'_>) {
        let counts = &mut self.counts;
        match fate {
            RecordFate::Superseded => counts.superseded += 1,
            RecordFate::Keyless => counts.keyless_dropped += 1,
            RecordFate::TombstoneOver => counts.tombstones_dropped += 1,
            RecordFate::Aborted => counts.aborted_dropped += 1,
            RecordFate::Held | RecordFate::Stays => {
                self.stay += 1;
                if fate == RecordFate::Held {
                    counts.held += 1;
                }
                if record.value.is_none() {
                    counts.tombstones_kept += 1;
                    if record.offset >= rules.learned_to {
                        self.tombstones_ahead += 1;
                    } else if fate == RecordFate::Stays {
                        // One that is held stays for ever, and its bytes as they are.
                        self.tombstones += 1;
                    }
                } else {
                    counts.values_kept += 1;
                }
                if let Some(time) = record.timestamp {
                    self.times = Some(self.times.map_or((time, time), |(least, greatest)| {
                        (least.min(time), greatest.max(time))
                    }));
                }
            }
        }
    }
}

/// A batch of which no record stays.
fn emptied(header: &BatchHeader, place: Place) -> Judgement {
    let fate = match place {
        Place::Ordinary => Fate::Gone,
        Place::Needed if header.record_count == 0 => Fate::AsItIs,
        Place::Needed => BatchRebuild::of(header, None)
            .build()
            .map_or(Fate::AsItIs, |batch| Fate::Rebuilt(vec![batch])),
    };
    Judgement {
        fate,
        times: None,
        aborted: None,
    }
}

#[cfg(test)]
#[path = "survivors_tests.rs"]
mod tests;
