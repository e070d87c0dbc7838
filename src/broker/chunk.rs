//! From a chunk of batches to the records that were asked for.
//!
//! A chunk holds whole batches, so it holds more than was asked for: records before the first offset or beyond the last,
//! outside the time range, control records, records of aborted transactions. What remains is what a reader wants.

use std::collections::HashSet;

use crate::record::{Batches, ControlMarker, Damage, DecompressLimit, Record, RecordBatch};
use crate::types::{Offset, ProducerId};

use super::Error;
use super::requests::{Aborted, Chunk};

impl Chunk {
    /// Decodes the records that were asked for: within offsets and times, without control records and aborted ones. Checks
    /// each batch's CRC.
    ///
    /// # Errors
    /// [`Error::Damaged`] when stored bytes are not sound.
    pub fn records(&self) -> Result<Vec<Record>, Error> {
        let limit = DecompressLimit(self.max_decompressed_bytes);
        let mut records = Vec::new();
        let mut transactions = Transactions::new(&self.aborted);
        for batch in Batches::over(self.batches.clone(), 0) {
            let (_, batch) = batch.map_err(|damage| self.damaged(self.from, &damage))?;
            let at = batch.header().base_offset;
            batch.verify_crc().map_err(|damage| self.damaged(at, &damage))?;
            match transactions
                .next(&batch)
                .map_err(|damage| self.damaged(at, &damage))?
            {
                Fate::Dropped => {}
                Fate::Kept => self.collect(&batch, limit, &mut records)?,
            }
        }
        Ok(records)
    }

    fn collect(
        &self,
        batch: &RecordBatch,
        limit: DecompressLimit,
        records: &mut Vec<Record>,
    ) -> Result<(), Error> {
        let at = batch.header().base_offset;
        for record in batch.records(limit).map_err(|damage| self.damaged(at, &damage))? {
            let record = record.map_err(|damage| self.damaged(at, &damage))?;
            if self.wants(&record) {
                records.push(record);
            }
        }
        Ok(())
    }

    /// True for a record within the offsets and times asked for. A record without a timestamp lies in no range of times.
    fn wants(&self, record: &Record) -> bool {
        let in_time = match (&self.times, record.timestamp) {
            (None, _) => true,
            (Some(times), Some(timestamp)) => times.contains(&timestamp),
            (Some(_), None) => false,
        };
        in_time && record.offset >= self.from && record.offset < self.until
    }

    fn damaged(&self, at: Offset, damage: &Damage) -> Error {
        Error::Damaged {
            partition: self.partition.clone(),
            reason: format!("the batch at offset {at}: {damage}"),
        }
    }
}

/// What becomes of a batch.
enum Fate {
    Kept,
    Dropped,
}

/// Which producers are inside an aborted transaction, walking the log forward.
struct Transactions<'a> {
    /// Yet to begin; by first offset.
    coming: &'a [Aborted],
    aborting: HashSet<ProducerId>,
}

impl<'a> Transactions<'a> {
    fn new(aborted: &'a [Aborted]) -> Self {
        Self {
            coming: aborted,
            aborting: HashSet::new(),
        }
    }

    fn next(&mut self, batch: &RecordBatch) -> Result<Fate, Damage> {
        let header = batch.header();
        while let Some((first, rest)) = self.coming.split_first() {
            if first.first_offset > header.last_offset() {
                break;
            }
            self.aborting.insert(first.producer_id);
            self.coming = rest;
        }
        let producer = header.producer.map(|producer| producer.id);
        if header.is_control() {
            if let (Some(producer), Some(marker)) = (producer, batch.control_marker()?) {
                if matches!(marker, ControlMarker::Abort { .. }) {
                    self.aborting.remove(&producer);
                }
            }
            return Ok(Fate::Dropped);
        }
        let aborted = header.is_transactional() && producer.is_some_and(|id| self.aborting.contains(&id));
        Ok(if aborted { Fate::Dropped } else { Fate::Kept })
    }
}
