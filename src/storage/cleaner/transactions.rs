//! Transactions as a pass meets them: which batches were aborted, and which markers nobody needs any more.
//!
//! A marker may go when no batch of its transaction was met in this pass; not at once, but past the delete horizon that the
//! pass then gives it. So an aborted transaction takes three passes: its records go, its marker gets a horizon, its marker
//! goes.
//!
//! Invariants
//! - A pass ends before the last stable offset, so every transaction that it meets is decided.
//! - Markers are matched by producer, never by key, and are never learned.
//! - An aborted transaction ends where its index entry says, whether its marker could be read or not: what the producer wrote
//!   behind it is not part of it.
//! - Memory: an entry for each aborted transaction of the next [`AHEAD_OFFSETS`] offsets, however many a segment has, and for each
//!   producer with a transaction under way there, or whose marker could not be read. Producers are at most those that the log has
//!   remembered at once (`MAX_PRODUCERS`), as long as markers can be read.
//!
//! What is not here: records (`survivors`), and the indexes that tell the aborted transactions (`segment`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use crate::record::{BatchHeader, ControlMarker};
use crate::storage::AbortedTransaction;
use crate::types::{Offset, ProducerId};

/// Of so many offsets beyond a batch the aborted transactions are told at once: half as many at most, 16 MiB of entries. The fewer,
/// the more often the indexes are gone through.
pub(super) const AHEAD_OFFSETS: i64 = if cfg!(test) { 8 } else { 1 << 18 };

/// The transactions of one pass. Batches are told in the order of their offsets.
#[derive(Clone, Debug, Default)]
pub(super) struct Transactions {
    /// Those that begin before it were told.
    told_to: Offset,
    /// Aborted, not yet begun where the pass is.
    ahead: BTreeMap<(Offset, ProducerId), AbortedTransaction>,
    aborted: HashMap<ProducerId, (AbortedTransaction, Batches)>,
    /// Producers with batches of a transaction that is not aborted.
    committed: HashSet<ProducerId>,
}

/// Whether batches of a transaction were met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Batches {
    Met,
    NotMet,
}

/// What a data batch is to its transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// It counts.
    Counts,
    /// It is as if never written.
    Aborted,
}

/// What becomes of a marker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MarkerNeed {
    /// Batches of its transaction are still there; of an aborted one, this index entry stays with it.
    Needed(Option<AbortedTransaction>),
    /// It says nothing about anything that is there.
    Unneeded,
}

impl Transactions {
    /// Returns the offsets of which the aborted transactions must be told before this batch is; `None` where they are known.
    pub(super) fn wants(&self, header: &BatchHeader) -> Option<Range<Offset>> {
        let last = header.last_offset();
        let until = Offset(last.0.saturating_add(AHEAD_OFFSETS));
        (last >= self.told_to).then_some(header.base_offset..until)
    }

    /// Takes note of the aborted transactions that reach into these offsets, where batches come next.
    pub(super) fn expect(
        &mut self,
        offsets: &Range<Offset>,
        aborted: impl IntoIterator<Item = AbortedTransaction>,
    ) {
        self.told_to = offsets.end;
        for transaction in aborted {
            let key = (transaction.first_offset, transaction.producer_id);
            let under_way = self.aborted.get(&transaction.producer_id);
            if under_way.is_none_or(|(known, _)| known.first_offset != transaction.first_offset) {
                self.ahead.insert(key, transaction);
            }
        }
    }

    /// Tells what a batch of records is.
    pub(super) fn data(&mut self, header: &BatchHeader) -> Decision {
        self.reach(header);
        let Some(producer) = header.producer.filter(|_| header.is_transactional()) else {
            return Decision::Counts;
        };
        match self.aborted.get_mut(&producer.id) {
            Some((_, batches)) => {
                *batches = Batches::Met;
                Decision::Aborted
            }
            None => {
                self.committed.insert(producer.id);
                Decision::Counts
            }
        }
    }

    /// Tells whether a marker is needed. `None` is a control batch that was emptied.
    pub(super) fn marker(&mut self, header: &BatchHeader, marker: Option<ControlMarker>) -> MarkerNeed {
        self.reach(header);
        let Some(producer) = header.producer.map(|stamp| stamp.id) else {
            return MarkerNeed::Needed(None);
        };
        match marker {
            None => MarkerNeed::Unneeded,
            Some(ControlMarker::Other(_)) => MarkerNeed::Needed(None),
            Some(ControlMarker::Commit { .. }) => {
                if self.committed.remove(&producer) {
                    MarkerNeed::Needed(None)
                } else {
                    MarkerNeed::Unneeded
                }
            }
            Some(ControlMarker::Abort { .. }) => match self.aborted.remove(&producer) {
                Some((aborted, Batches::Met)) => MarkerNeed::Needed(Some(aborted)),
                Some((_, Batches::NotMet)) | None => MarkerNeed::Unneeded,
            },
        }
    }

    /// Begins what begins up to the batch, and ends what its producer had under way and has ended before it.
    fn reach(&mut self, header: &BatchHeader) {
        while let Some(entry) = self.ahead.first_entry() {
            if entry.key().0 > header.last_offset() {
                break;
            }
            let aborted = entry.remove();
            self.aborted
                .insert(aborted.producer_id, (aborted, Batches::NotMet));
        }
        let Some(producer) = header.producer else { return };
        let under_way = self.aborted.get(&producer.id);
        if under_way.is_some_and(|(aborted, _)| aborted.last_offset < header.base_offset) {
            self.aborted.remove(&producer.id);
        }
    }
}

#[cfg(test)]
#[path = "transactions_tests.rs"]
mod tests;
