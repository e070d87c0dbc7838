//! A pass: one round over the part of a log that may be cleaned.
//!
//! ```text
//!   learn the dirty part, as far as the map goes -> group segments -> copy each group -> swap it in -> move the cleaner point
//! ```
//!
//! Invariants
//! - One pass at a time (`maintenance`). A repair replaces what is above the recovery point, a pass what is below: each takes the
//!   other's segments as it finds them. Retention comes between two chunks; the pass goes on with what it leaves.
//! - Appends and reads go on: a pass takes the append lock for memory work, and to write the manifest anew at its end.
//! - Groups are swapped in the order of their offsets: an older record is gone for good before the tombstone above it goes.
//! - Memory: the map, a few chunks, and twice the largest decompressed batch; besides an entry for each producer that the log
//!   remembers, at most `MAX_PRODUCERS` (beyond that the log has forgotten the one that was idle longest, and its last batch is
//!   one as any other), and for the aborted transactions a bounded part ahead (`transactions`).
//!
//! What is not here: which log is next, when, and how fast (`broker`).

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::record::{DecompressLimit, MAX_BATCH_BYTES};
use crate::storage::{
    AbortedTransaction, AppendError, LogConfig, Partition, ProducerEntry, ReadError, StoreError,
};
use crate::types::{Offset, Timestamp};

use super::super::cleaner_state::{Announced, Left, PassFailure, PassReport, Remembered, Rounds};
use super::super::journal::JournalOf;
use super::super::maintenance::Turn;
use super::super::segment::Segment;
use super::choose::{CompactionView, Due, NotDue, Shape, Span, Wishes, choose, roll_begins};
use super::copy::{Copied, Copying, Found};
use super::gate::{Budget, CompactError, Gate, Lend};
use super::grouping::{Limits, Soundness, group};
use super::learn::{Learning, Reached};
use super::offset_map::OffsetMap;
use super::output::{Output, OutputLimits};
use super::rebuild::BatchLimits;
use super::source::Source;
use super::survivors::{Rules, Survivors};
use super::swap;
use super::unread::{self, Learned, Unread};

/// What a pass is given.
pub struct Pass<'a> {
    /// Its memory, used again by the next.
    pub map: &'a mut OffsetMap,
    /// Random, so that nobody can choose keys that meet in the map.
    pub seed: [u64; 2],
    /// The present.
    pub now: Timestamp,
    /// Asked at each step.
    pub budget: Budget<'a>,
}

/// Why the active segment should be sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RollFor {
    /// So that the promise of `max.compaction.lag.ms` can be kept; if it is not yet time for that, nothing is done.
    Promise,
    /// Because somebody wants it compacted now.
    Command,
}

/// Whether a segment was sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rolled {
    /// It was; it is cleanable once it is synced.
    Yes,
    /// There was nothing to seal, or no need.
    No,
}

impl Partition {
    /// Says what could be cleaned, whether it should be, and how the last pass went. From memory.
    pub fn compaction(&self, now: Timestamp) -> CompactionView {
        let config = Arc::clone(&self.config.read());
        let remembered = self.cleaner.look();
        let view = CompactionView {
            last_pass: remembered.last_pass,
            last_error: remembered.failure,
            horizon_at: self
                .cleaner
                .horizon_at(now, config.compaction.delete_retention_ms),
            ..self.choice(&config, now)
        };
        let idle = matches!(
            view.due,
            Due::No(NotDue::Clean | NotDue::NotCleanable | NotDue::BelowRatio)
        );
        let over = view.horizon_at.is_some_and(|at| at <= now) && view.first_uncleanable > view.log_start;
        match idle && over {
            true => CompactionView {
                due: Due::Horizon,
                ..view
            },
            false => view,
        }
    }

    fn choice(&self, config: &LogConfig, now: Timestamp) -> CompactionView {
        let segments = super::super::read::snapshot(&self.segments);
        // The offsets after the segments: what is there now is below them.
        let marks = self.watermarks();
        let extents: Vec<_> = segments.iter().map(Segment::extent).collect();
        let spans: Vec<Span<'_>> = extents
            .iter()
            .map(|extent| Span {
                base: extent.base,
                next: extent.next,
                bytes: u64::from(extent.end),
                append_times: &extent.append_times,
            })
            .collect();
        let shape = Shape {
            segments: &spans,
            marks,
            cleaner_point: self.cleaner.point(marks.log_start),
            again: self.cleaner.again(),
        };
        let wishes = Wishes {
            cleanup: config.cleanup,
            compaction: config.compaction,
            holds: &config.holds,
            now,
        };
        choose(&shape, &wishes)
    }

    /// Returns when the cleaner must look at this log, at the latest, for the promise of what is appended at `now`; `None`
    /// without a promise.
    pub fn promise_of_an_append(&self, now: Timestamp) -> Option<Timestamp> {
        roll_begins(now, &self.config.read().compaction)
    }

    /// Seals the active segment, so that a pass can clean it once it is synced.
    ///
    /// # Errors
    /// As an append's.
    pub fn roll_for_compaction(&self, now: Timestamp, wish: RollFor) -> Result<Rolled, AppendError> {
        let config = Arc::clone(&self.config.read());
        let last = super::super::read::snapshot(&self.segments).pop();
        let Some(last) = last.as_ref().map(Segment::extent).filter(|last| last.end > 0) else {
            return Ok(Rolled::No);
        };
        let first_append = last.append_times.first().map(|first| first.time);
        let wanted = match wish {
            RollFor::Command => true,
            RollFor::Promise => {
                let begins = first_append.and_then(|at| roll_begins(at, &config.compaction));
                config.cleanup.compacts() && begins.is_some_and(|begins| begins <= now)
            }
        };
        if !wanted {
            return Ok(Rolled::No);
        }
        let mut writer = self.open_writer(now, &config)?;
        if writer.active().look(|state| state.extent.end) == 0 {
            return Ok(Rolled::No);
        }
        writer.roll(self.watermarks().log_end, now, &config)?;
        Ok(Rolled::Yes)
    }

    /// A pass that would begin now replaces nothing from there on.
    pub(in crate::storage) fn announce_pass(&self, now: Timestamp) -> Result<Announced<'_>, CompactError> {
        let config = Arc::clone(&self.config.read());
        if !config.cleanup.compacts() {
            return Err(CompactError::Policy);
        }
        if self.segments.read().len() > 0 {
            // The first opening after a start may seal the last segment, which this pass then can clean, too.
            // What else may be in its way the pass itself finds out.
            if let Err(AppendError::Storage(error)) = self.open(now) {
                self.cleaner.failed(failure(now, &error));
                return Err(error.into());
            }
        }
        Ok(self.cleaner.announce(self.choice(&config, now).first_uncleanable))
    }

    /// A round over what lies before `bound`, once that was written down; see [`crate::storage::Store::compact`].
    pub(in crate::storage) fn compact(
        &self,
        pass: &mut Pass<'_>,
        bound: Offset,
        written: Result<(), StoreError>,
    ) -> Result<PassReport, CompactError> {
        let Some(mut turn) = self.maintenance.begin_pass() else {
            return Err(CompactError::Closed);
        };
        let passed = match written {
            Ok(()) => self.pass(pass, bound, &mut turn),
            Err(error) => Err(error.into()),
        };
        if !turn.is_over() {
            self.write_manifest();
        }
        let passed = match passed {
            Ok(ended) => {
                self.cleaner.passed(pass.now, &ended.report, ended.left);
                match ended.error {
                    None => Ok(ended.report),
                    Some(error) => {
                        let failure = failure(pass.now, &error);
                        self.cleaner.stopped_short(failure, ended.learned_to);
                        Err(error.into())
                    }
                }
            }
            Err(CompactError::Storage(error)) => {
                self.cleaner.failed(failure(pass.now, &error));
                Err(error.into())
            }
            Err(error) => Err(error),
        };
        // Not before: whoever takes the turn next may lower the cleaner point.
        drop(turn);
        passed
    }

    fn pass(&self, pass: &mut Pass<'_>, bound: Offset, turn: &mut Turn<'_>) -> Result<Ended, CompactError> {
        let config = Arc::clone(&self.config.read());
        if !config.cleanup.compacts() {
            return Err(CompactError::Policy);
        }
        if self.segments.read().len() == 0 {
            let point = self.cleaner.point(self.watermarks().log_start);
            let report = PassReport {
                from: point,
                to: point,
                ..PassReport::default()
            };
            return Ok(Ended {
                report,
                ..Ended::default()
            });
        }
        let producers = self.producers(pass.now, &config)?;
        drop(swap::finish_earlier(self)?);
        let dir = self.dir();
        let mut view = self.choice(&config, pass.now);
        view.first_uncleanable = view.first_uncleanable.min(bound);
        swap::remove_leftovers(self.files.fs().as_ref(), &dir, view.first_uncleanable)?;
        Round {
            partition: self,
            config: &config,
            dir: &dir,
            view,
            producers,
            now: pass.now,
        }
        .run(pass, &mut |work| self.lend(turn, work))
    }

    /// Leaves the segments to others while `work` runs; returns where the log begins then.
    fn lend(&self, turn: &mut Turn<'_>, work: &mut dyn FnMut()) -> Result<Offset, CompactError> {
        let undisturbed = self.maintenance.lend(turn, work);
        match (turn.is_over(), undisturbed) {
            (true, _) => Err(CompactError::Closed),
            (false, false) => Err(CompactError::Interrupted),
            (false, true) => Ok(self.watermarks().log_start),
        }
    }

    /// Returns the producers that are remembered; loads them if no append did.
    fn producers(&self, now: Timestamp, config: &LogConfig) -> Result<Vec<ProducerEntry>, CompactError> {
        match self.open_writer(now, config) {
            Ok(writer) => Ok(writer.producers.snapshot()),
            Err(AppendError::Storage(error)) => Err(error.into()),
            // It is closed, removed, or waits for a repair.
            Err(_) => Err(CompactError::Interrupted),
        }
    }

    /// Writes the manifest anew, if the pass has removed it.
    fn write_manifest(&self) {
        let mut writer = self.writer.lock();
        if !writer.journal.is_stale() || self.stand.refusal().is_some() {
            return;
        }
        let dir = Arc::clone(&writer.dir);
        let log = JournalOf {
            files: &self.files,
            dir: &dir,
            id: &self.id,
            topic_id: self.topic_id,
        };
        writer.journal.rewrite(&log, &self.segments);
    }
}

fn failure(at: Timestamp, error: &StoreError) -> PassFailure {
    PassFailure {
        at,
        reason: error.to_string(),
    }
}

/// A round that came to its end.
#[derive(Default)]
struct Ended {
    report: PassReport,
    /// Everything before it was learned, but for what the disk does not give.
    learned_to: Offset,
    /// What the disk does not give.
    error: Option<StoreError>,
    left: Left,
}

/// A round of a pass.
struct Round<'a> {
    partition: &'a Partition,
    config: &'a LogConfig,
    dir: &'a Path,
    view: CompactionView,
    producers: Vec<ProducerEntry>,
    now: Timestamp,
}

/// What a round has done so far.
#[derive(Default)]
struct Done {
    found: Found,
    replaced: u64,
    new: u64,
    bytes_before: u64,
    bytes_after: u64,
}

impl Done {
    fn take_in(&mut self, replaced: &[Source], outputs: &[(Output, PathBuf)]) {
        let before = replaced.iter().map(|source| u64::from(source.sealed.extent.end));
        let after = outputs.iter().map(|(output, _)| u64::from(output.end));
        self.replaced += replaced.len() as u64;
        self.new += outputs.len() as u64;
        self.bytes_before += before.sum::<u64>();
        self.bytes_after += after.sum::<u64>();
    }
}

impl Round<'_> {
    fn run(&self, pass: &mut Pass<'_>, lend: Lend<'_>) -> Result<Ended, CompactError> {
        let until = self.view.first_uncleanable;
        let all = self.sources(until);
        let from = self.dirty_from(&all);
        let mut gate = Gate::new(&mut *pass.budget, &self.partition.maintenance, lend);
        let limit = DecompressLimit(self.config.max_decompressed_bytes);
        let aborted = |source: &Source, offsets: &Range<Offset>| self.aborted(source, offsets);
        // No more keys than there are offsets.
        let dirty_offsets = until.0.saturating_sub(from.0).max(1).cast_unsigned();
        pass.map.reset(pass.seed, from, dirty_offsets);
        let mut unread = Unread::default();
        let reached = Learning {
            files: &self.partition.files,
            map: &mut *pass.map,
            from,
            limit,
            aborted: &aborted,
            unread: &mut unread,
        }
        .run(&all, &mut gate)?;
        let (to, learned) = match reached {
            Reached::End => (until, Learned::All),
            Reached::Full(at) => (at, Learned::Part),
        };
        let remembered = self.partition.cleaner.look();
        let rules = self.rules(&*pass.map, from..to, &remembered);
        let mut survivors = Survivors::new(rules, &self.producers);
        let before = Left {
            unread: remembered.unread,
            unlearned: remembered.unlearned,
            learn_from: None,
        };
        let segments: Vec<Range<Offset>> = all.iter().map(Source::offsets).collect();
        let sources: Vec<Source> = all
            .into_iter()
            .filter(|source| source.sealed.extent.base < to)
            .collect();
        let done = self.clean(sources, &mut survivors, &mut unread, &mut gate)?;
        let learned_to = to;
        let (to, error, left) = unread.end(&unread::Pass {
            from,
            to,
            learned,
            before: &before,
            segments: &segments,
        });
        let report = PassReport {
            from,
            to,
            rounds: rounds(from..to, until, pass.map),
            learned_keys: pass.map.len() as u64,
            read_bytes: gate.read_bytes,
            written_bytes: gate.written_bytes,
            saved_bytes: done.bytes_before.saturating_sub(done.bytes_after),
            replaced_segments: done.replaced,
            new_segments: done.new,
            records: survivors.met().counts,
            counted_from: segments.first().map_or(from, |first| first.start),
            damaged: done.found.damaged,
            damaged_unnamed: done.found.unnamed,
            next_horizon: [gate.next_horizon, survivors.met().markers_due]
                .into_iter()
                .flatten()
                .min(),
        };
        Ok(Ended {
            report,
            learned_to,
            error,
            left,
        })
    }

    /// What a pass goes by that has learned such a part of the log.
    fn rules<'r>(&'r self, map: &'r OffsetMap, learned: Range<Offset>, known: &Remembered) -> Rules<'r> {
        let delete_retention_ms = self.config.compaction.delete_retention_ms;
        Rules {
            map,
            learned_to: learned.end,
            holds: &self.config.holds,
            met_again: known.met_again.clone(),
            unlearned_from: known.unlearned.range(..learned.start).next().copied(),
            now: self.now,
            delete_horizon: self.now.saturating_add_ms(delete_retention_ms),
            limits: BatchLimits {
                decompressed: DecompressLimit(self.config.max_decompressed_bytes),
                bytes: MAX_BATCH_BYTES,
            },
        }
    }

    /// Swaps a group for what is left of it, and frees it.
    fn replace(
        &self,
        group: &[Source],
        outputs: Vec<(Output, PathBuf)>,
        survivors: &Survivors<'_>,
        gate: &mut Gate<'_>,
    ) -> Result<(), CompactError> {
        let dropped = survivors.met().counts.tombstones_dropped;
        self.partition
            .cleaner
            .about_to_swap(survivors.learned_to(), dropped);
        swap::Old::free(swap::swap(self.partition, group, outputs)?, gate)
    }

    /// Copies and swaps group after group.
    fn clean(
        &self,
        mut sources: Vec<Source>,
        survivors: &mut Survivors<'_>,
        unread: &mut Unread,
        gate: &mut Gate<'_>,
    ) -> Result<Done, CompactError> {
        let limits = Limits {
            log_bytes: u64::from(self.config.segment_bytes),
            index_bytes: u64::from(self.config.segment_index_bytes),
        };
        let aborted = |source: &Source, offsets: &Range<Offset>| self.aborted(source, offsets);
        let copying = Copying {
            fs: self.partition.files.fs(),
            dir: self.dir,
            limits: OutputLimits::of_a_segment(self.config.index_interval_bytes, self.now),
            aborted: &aborted,
        };
        let mut done = Done::default();
        know_unread(&mut sources, unread);
        let mut groups = VecDeque::from(grouped(&sources, limits));
        while let Some(mut range) = groups.pop_front() {
            while !range.is_empty() && !gate.needs(sources[range.start].sealed.extent.next) {
                range.start += 1;
            }
            if range.is_empty() {
                continue;
            }
            let next = &sources[range.clone()];
            // A reader may have found out just now.
            let early = next.iter().position(|source| source.sealed.ends_early());
            if let Some(index) = early.filter(|_| next.len() > 1) {
                set_apart(&mut sources, range, index, limits, &mut groups);
                continue;
            }
            let left = unread.at(next[0].sealed.extent.base).cloned();
            if let Some(place) = left.or_else(|| next[0].missing()) {
                survivors.met_damage();
                done.found.add(place);
                continue;
            }
            let (met, found) = (survivors.met().clone(), done.found.clone());
            match copying.run(next, survivors, &mut done.found, gate) {
                Ok(Copied::Unchanged) => {}
                Ok(Copied::Changed(outputs)) => {
                    done.take_in(next, &outputs);
                    self.replace(next, outputs, survivors, gate)?;
                }
                Err(CompactError::Interrupted) if gate.take_lost() => {
                    // The first of them is gone; what is left of the group is another group.
                    survivors.go_back(met);
                    done.found = found;
                    groups.push_front(range);
                }
                Err(CompactError::Storage(error)) => {
                    let Some(place) = gate.take_unread() else {
                        return Err(error.into());
                    };
                    survivors.go_back(met);
                    done.found = found;
                    let index = index_at(next, place.offset);
                    if !next[index].finds_its_end_lost(&self.partition.files) {
                        unread.add(&next[index], place, error);
                    }
                    set_apart(&mut sources, range, index, limits, &mut groups);
                }
                Err(error) => return Err(error),
                Ok(Copied::Damaged(index)) => {
                    survivors.go_back(met);
                    done.found = found;
                    set_apart(&mut sources, range, index, limits, &mut groups);
                }
            }
        }
        self.report(&done.found);
        Ok(done)
    }

    fn report(&self, found: &Found) {
        for place in &found.damaged {
            tracing::error!(partition = %self.partition.id(), log = %place.path.display(), position = place.position,
                len_bytes = place.len_bytes, offset = %place.offset, reason = %place.reason,
                "damage in a log: its bytes are kept as they are, and everything else is cleaned");
        }
    }

    /// The segments before `until`, each with the base of what follows it.
    fn sources(&self, until: Offset) -> Vec<Source> {
        let segments = super::super::read::snapshot(&self.partition.segments);
        let bases: BTreeSet<Offset> = segments.iter().map(|segment| segment.bounds().0).collect();
        let source = |segment: Segment| match segment {
            Segment::Sealed(sealed) => {
                let bound = bases.range(sealed.extent.base.next()..).next();
                let bound = bound.copied().unwrap_or(until);
                // One that reaches beyond is not cleanable, though the cleaner point may lie in it.
                (bound <= until).then_some(Source {
                    bound,
                    soundness: Soundness::Sound,
                    sealed,
                })
            }
            Segment::Active(_) => None,
        };
        segments.into_iter().filter_map(source).collect()
    }

    fn aborted(
        &self,
        source: &Source,
        offsets: &Range<Offset>,
    ) -> Result<Vec<AbortedTransaction>, CompactError> {
        let aborted = self.partition.aborted(offsets);
        aborted.map_err(|error| match error {
            ReadError::Storage(error) => error.into(),
            damage => CompactError::Storage(StoreError::Unusable {
                path: source.path().to_path_buf(),
                reason: damage.to_string(),
            }),
        })
    }

    /// Where no pass has learned anything yet. That may lie before the log start: deleted records that are still there come
    /// back if the log start is lost, and then a tombstone among them must not be gone without what it shadows.
    fn dirty_from(&self, sources: &[Source]) -> Offset {
        let known = self.partition.cleaner.look().point;
        let first = sources
            .first()
            .map_or(self.view.cleaner_point, |source| source.sealed.extent.base);
        known.max(first)
    }
}

fn rounds(learned: Range<Offset>, until: Offset, map: &OffsetMap) -> Rounds {
    if learned.end >= until {
        return Rounds::Done;
    }
    let left = until.0 - learned.end.0;
    let per_round = (learned.end.0 - learned.start.0).max(1);
    let estimate = left / per_round + i64::from(left % per_round > 0);
    Rounds::More {
        estimate: u32::try_from(estimate).unwrap_or(u32::MAX),
        map_keys: map.capacity() as u64,
    }
}

/// What the disk does not give stays alone.
fn know_unread(sources: &mut [Source], unread: &Unread) {
    let is_unread = |source: &&mut Source| unread.at(source.sealed.extent.base).is_some();
    for source in sources.iter_mut().filter(is_unread) {
        source.soundness = Soundness::Damaged;
    }
}

/// Returns the index of the segment in which an offset lies, among those of a group.
fn index_at(group: &[Source], offset: Offset) -> usize {
    let begun = group.partition_point(|source| source.sealed.extent.base <= offset);
    begun.saturating_sub(1)
}

/// Makes a damaged segment of a group a group of its own. Nothing before it changes for that, and what follows can do without the
/// rest of the group.
fn set_apart(
    sources: &mut [Source],
    group: Range<usize>,
    damaged: usize,
    limits: Limits,
    groups: &mut VecDeque<Range<usize>>,
) {
    sources[group.start + damaged].soundness = Soundness::Damaged;
    for part in grouped(&sources[group.clone()], limits).into_iter().rev() {
        groups.push_front(group.start + part.start..group.start + part.end);
    }
}

fn grouped(sources: &[Source], limits: Limits) -> Vec<Range<usize>> {
    let members: Vec<_> = sources.iter().map(Source::member).collect();
    group(&members, limits)
}
