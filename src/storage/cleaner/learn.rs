//! Learning: the newest offset of each key in the dirty part of a log, as far as the map goes.
//!
//! Invariants
//! - Not learned: markers, batches of aborted transactions, batches that cannot be read to their end, and what lies in a segment
//!   behind a place that the disk does not give. What was not learned shadows nothing.
//! - A file that has become shorter than the log was is no such place: what is left of it is learned, and its end is damage.
//! - A map for one key gets on: a round learns at least one record, or everything there is.
//! - What was learned of a segment that retention takes away meanwhile does no harm: all it shadows is gone, too.
//!
//! What is not here: what becomes of the records that were learned (`survivors`).

use crate::env::FileCache;
use crate::record::{DecompressLimit, RecordBatch};
use crate::types::Offset;

use super::gate::{CompactError, Gate};
use super::offset_map::{Learned, OffsetMap};
use super::pieces::{Piece, Pieces};
use super::source::{AbortedIn, Source};
use super::transactions::{Decision, Transactions};
use super::unread::Unread;

/// Learns records from `from` on.
pub(super) struct Learning<'a> {
    pub(super) files: &'a FileCache,
    pub(super) map: &'a mut OffsetMap,
    pub(super) from: Offset,
    pub(super) limit: DecompressLimit,
    pub(super) aborted: AbortedIn<'a>,
    pub(super) unread: &'a mut Unread,
}

/// How far a round came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reached {
    /// The map holds every key of the dirty part.
    End,
    /// Records before this offset are in the map; the one there did not fit.
    Full(Offset),
}

impl Learning<'_> {
    /// Learns from segments in the order of their offsets.
    pub(super) fn run(&mut self, sources: &[Source], gate: &mut Gate<'_>) -> Result<Reached, CompactError> {
        let mut transactions = Transactions::default();
        let from = self.from;
        for source in sources.iter().filter(|source| source.offsets().end > from) {
            if !gate.needs(source.sealed.extent.next) {
                continue;
            }
            match self.as_far_as_it_goes(source, &mut transactions, gate) {
                Ok(Reached::End) => {}
                Err(CompactError::Interrupted) if gate.take_lost() => {}
                full_or_failed => return full_or_failed,
            }
        }
        Ok(Reached::End)
    }

    /// Learns from a segment what the disk gives of it.
    fn as_far_as_it_goes(
        &mut self,
        source: &Source,
        transactions: &mut Transactions,
        gate: &mut Gate<'_>,
    ) -> Result<Reached, CompactError> {
        loop {
            let error = match self.source(source, transactions, gate) {
                Err(CompactError::Storage(error)) => error,
                done => return done,
            };
            let Some(place) = gate.take_unread() else {
                return Err(error.into());
            };
            if !source.finds_its_end_lost(self.files) {
                self.unread.add(source, place, error);
                return Ok(Reached::End);
            }
            // What was under way where the segment begins, the indexes tell once more.
            *transactions = Transactions::default();
        }
    }

    fn source(
        &mut self,
        source: &Source,
        transactions: &mut Transactions,
        gate: &mut Gate<'_>,
    ) -> Result<Reached, CompactError> {
        let mut pieces = Pieces::open(self.files.fs().as_ref(), source, gate)?;
        while let Some(piece) = pieces.next(gate)? {
            let Piece::Batch { batch, .. } = piece else {
                continue;
            };
            if let Some(offsets) = transactions.wants(batch.header()) {
                transactions.expect(&offsets, (self.aborted)(source, &offsets)?);
            }
            if let Reached::Full(at) = self.batch(&batch, transactions) {
                return Ok(Reached::Full(at));
            }
        }
        Ok(Reached::End)
    }

    fn batch(&mut self, batch: &RecordBatch, transactions: &mut Transactions) -> Reached {
        let header = batch.header();
        if header.is_control() {
            if let Ok(marker) = batch.control_marker() {
                let _ = transactions.marker(header, marker);
            }
            return Reached::End;
        }
        let counts = transactions.data(header) == Decision::Counts;
        if !counts || header.record_count == 0 || header.last_offset() < self.from {
            return Reached::End;
        }
        let Ok(payload) = batch.open(self.limit) else {
            return Reached::End;
        };
        // To the end first: a record of a batch that nobody can read shadows nothing.
        if payload.glances().any(|record| record.is_err()) {
            return Reached::End;
        }
        for record in payload.glances().flatten() {
            let Some(key) = record.key.filter(|_| record.offset >= self.from) else {
                continue;
            };
            if self.map.learn(key, record.offset) == Learned::Full {
                return Reached::Full(record.offset);
            }
        }
        Reached::End
    }
}
