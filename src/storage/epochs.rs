//! Leader epochs of a partition: under which server start each stretch of offsets was appended.
//!
//! A follower or a client that saw an older epoch asks where that epoch ended, and learns what it must forget.
//!
//! Invariants
//! - Entries ascend strictly in epoch and in start.
//! - An entry exists only for an epoch under which something was appended; the file of them is
//!   written before a recovery point lets a start trust those records unread; above it they are read from the batches.
//!
//! What it does not do: I/O, or know the log's end (the caller gives it).

use super::format::checkpoint::EpochEntry;
use crate::types::{LeaderEpoch, Offset};

/// Whether an operation changed the entries, and so the checkpoint file must be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a change must reach the checkpoint file"]
pub enum EpochChange {
    /// Write the checkpoint.
    Changed,
    /// Nothing to write.
    Unchanged,
}

/// Where an epoch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochEnd {
    /// The greatest known epoch that is not after the asked one; the asked one itself when it lies before all known.
    pub epoch: LeaderEpoch,
    /// The offset after its last.
    pub end: Offset,
}

/// The epochs of one partition, in memory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeaderEpochs {
    entries: Vec<EpochEntry>,
}

impl LeaderEpochs {
    /// Takes what a checkpoint held. Entries that do not ascend give way to those behind them.
    pub fn from_entries(entries: &[EpochEntry]) -> Self {
        let mut epochs = Self::default();
        for entry in entries {
            let _ = epochs.assign(entry.epoch, entry.start);
        }
        epochs
    }

    /// Returns the entries, ascending, for the checkpoint.
    pub fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    /// Returns the newest epoch.
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|entry| entry.epoch)
    }

    /// Notes that `epoch` begins at `start`. Entries it contradicts, of an epoch or a start not before its own, go: the
    /// newest word wins. A later start of the newest epoch is no news.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> EpochChange {
        if self
            .entries
            .last()
            .is_some_and(|last| last.epoch == epoch && last.start <= start)
        {
            return EpochChange::Unchanged;
        }
        let kept = self
            .entries
            .partition_point(|entry| entry.epoch < epoch && entry.start < start);
        self.entries.truncate(kept);
        self.entries.push(EpochEntry { epoch, start });
        EpochChange::Changed
    }

    /// Returns the epoch under which `offset` was or will be appended: the one with the greatest start not after it.
    pub fn epoch_for(&self, offset: Offset) -> Option<LeaderEpoch> {
        let started = self.entries.partition_point(|entry| entry.start <= offset);
        started.checked_sub(1).map(|entry| self.entries[entry].epoch)
    }

    /// Returns where `epoch` ended, in a log that ends at `log_end`; `None` when it lies after all known.
    pub fn end_offset_for(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<EpochEnd> {
        let latest = self.latest()?;
        if epoch == latest {
            return Some(EpochEnd { epoch, end: log_end });
        }
        if epoch > latest {
            return None;
        }
        let not_after = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let end = self.entries[not_after].start;
        let known = not_after.checked_sub(1).map(|entry| self.entries[entry].epoch);
        Some(EpochEnd {
            epoch: known.unwrap_or(epoch),
            end,
        })
    }

    /// Forgets epochs that begin at or after `end`, the log's new end.
    pub fn truncate_from_end(&mut self, end: Offset) -> EpochChange {
        let kept = self.entries.partition_point(|entry| entry.start < end);
        if kept == self.entries.len() {
            return EpochChange::Unchanged;
        }
        self.entries.truncate(kept);
        EpochChange::Changed
    }

    /// Forgets what lies before `start`, the log's new start: the epoch that holds it begins there now.
    pub fn truncate_from_start(&mut self, start: Offset) -> EpochChange {
        let started = self.entries.partition_point(|entry| entry.start <= start);
        let Some(holder) = started.checked_sub(1) else {
            return EpochChange::Unchanged;
        };
        if holder == 0 && self.entries[0].start == start {
            return EpochChange::Unchanged;
        }
        self.entries.drain(..holder);
        self.entries[0].start = start;
        EpochChange::Changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(epoch: i32, start: i64) -> EpochEntry {
        EpochEntry {
            epoch: LeaderEpoch(epoch),
            start: Offset(start),
        }
    }

    fn epochs(entries: &[(i32, i64)]) -> LeaderEpochs {
        let entries: Vec<_> = entries
            .iter()
            .map(|&(epoch, start)| entry(epoch, start))
            .collect();
        LeaderEpochs::from_entries(&entries)
    }

    fn pairs(epochs: &LeaderEpochs) -> Vec<(i32, i64)> {
        epochs
            .entries()
            .iter()
            .map(|entry| (entry.epoch.0, entry.start.0))
            .collect()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append { epoch: i32, records: u8 },
        CutEnd(u8),
        CutStart(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..3_i32, 1..5_u8).prop_map(|(epoch, records)| Step::Append { epoch, records }),
            1 => (1..6_u8).prop_map(Step::CutEnd),
            1 => (1..6_u8).prop_map(Step::CutStart),
        ];
        prop::collection::vec(step, 0..40)
    }

    proptest! {
        /// The model: the epoch of every single offset.
        #[test]
        fn epochs_agree_with_a_log_that_remembers_each_record(steps in steps()) {
            let mut epochs = LeaderEpochs::default();
            let (mut log, mut start, mut newest) = (Vec::new(), 0_usize, 0);
            for step in steps {
                let offset = |at: usize| Offset(i64::try_from(at).expect("small"));
                let before = epochs.clone();
                let change = match step {
                    Step::Append { epoch, records } => {
                        newest += epoch;
                        let change = epochs.assign(LeaderEpoch(newest), offset(log.len()));
                        log.extend(std::iter::repeat_n(newest, usize::from(records)));
                        change
                    }
                    Step::CutEnd(records) => {
                        log.truncate(log.len().saturating_sub(usize::from(records)).max(start));
                        epochs.truncate_from_end(offset(log.len()))
                    }
                    Step::CutStart(records) => {
                        start = (start + usize::from(records)).min(log.len());
                        epochs.truncate_from_start(offset(start))
                    }
                };
                prop_assert_eq!(change == EpochChange::Changed, before != epochs);
                for (at, &epoch) in log.iter().enumerate().skip(start) {
                    prop_assert_eq!(epochs.epoch_for(offset(at)), Some(LeaderEpoch(epoch)), "offset {}", at);
                    let end = log.iter().rposition(|&other| other <= epoch).map_or(0, |last| last + 1);
                    let found = epochs.end_offset_for(LeaderEpoch(epoch), offset(log.len()));
                    prop_assert_eq!(found.map(|found| found.end), Some(offset(end)), "epoch {}", epoch);
                }
                let entries = epochs.entries();
                let ascend = |pair: &[EpochEntry]| pair[0].epoch < pair[1].epoch && pair[0].start < pair[1].start;
                prop_assert!(entries.windows(2).all(ascend));
                prop_assert_eq!(&LeaderEpochs::from_entries(entries), &epochs);
            }
        }
    }

    #[test]
    fn the_newest_word_wins_over_entries_it_contradicts() {
        let mut epochs = epochs(&[(1, 0), (3, 10), (5, 20)]);
        assert_eq!(epochs.assign(LeaderEpoch(5), Offset(25)), EpochChange::Unchanged);
        assert_eq!(epochs.assign(LeaderEpoch(5), Offset(15)), EpochChange::Changed);
        assert_eq!(pairs(&epochs), [(1, 0), (3, 10), (5, 15)]);
        assert_eq!(epochs.assign(LeaderEpoch(6), Offset(10)), EpochChange::Changed);
        assert_eq!(pairs(&epochs), [(1, 0), (6, 10)]);
        assert_eq!(epochs.assign(LeaderEpoch(0), Offset(30)), EpochChange::Changed);
        assert_eq!(pairs(&epochs), [(0, 30)]);
    }

    #[test]
    fn the_end_of_an_epoch_is_told_for_known_unknown_and_older_ones() {
        let epochs = epochs(&[(2, 5), (4, 10), (6, 20)]);
        let end = |epoch| {
            let end = epochs.end_offset_for(LeaderEpoch(epoch), Offset(33))?;
            Some((end.epoch.0, end.end.0))
        };
        assert_eq!(end(6), Some((6, 33)));
        assert_eq!(end(7), None);
        assert_eq!(end(1), Some((1, 5)));
        assert_eq!(end(2), Some((2, 10)));
        assert_eq!(end(3), Some((2, 10)));
        assert_eq!(end(5), Some((4, 20)));
        assert_eq!(
            LeaderEpochs::default().end_offset_for(LeaderEpoch(0), Offset(9)),
            None
        );
    }

    #[test]
    fn an_offset_before_all_epochs_has_none() {
        let epochs = epochs(&[(2, 5)]);
        assert_eq!(epochs.epoch_for(Offset(4)), None);
        assert_eq!(epochs.epoch_for(Offset(5)), Some(LeaderEpoch(2)));
        assert_eq!(epochs.latest(), Some(LeaderEpoch(2)));
    }

    #[test]
    fn a_new_log_start_moves_the_start_of_the_epoch_that_holds_it() {
        let mut epochs = epochs(&[(2, 5), (4, 10), (6, 20)]);
        assert_eq!(epochs.truncate_from_start(Offset(4)), EpochChange::Unchanged);
        assert_eq!(epochs.truncate_from_start(Offset(12)), EpochChange::Changed);
        assert_eq!(pairs(&epochs), [(4, 12), (6, 20)]);
        assert_eq!(epochs.truncate_from_start(Offset(12)), EpochChange::Unchanged);
        assert_eq!(epochs.truncate_from_end(Offset(20)), EpochChange::Changed);
        assert_eq!(pairs(&epochs), [(4, 12)]);
    }
}
