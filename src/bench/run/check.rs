//! Whether a reader has got every record, once, in order and unchanged.
//!
//! ```text
//!  record --> Checker: lane of (partition, producer): is it the next, does its chain go on?
//!  end    --> Checker: has every lane come as far as its producer?
//! ```
//!
//! Invariants
//! - The first thing that is wrong is told with partition, offset, producer and sequence.
//! - Of a compacted log records may be missing inside; then the newest of each key must be where it was acknowledged ([`Newest`]).
//!
//! What is not here: the stamps (`stamp`) and the reading (`reading`).

use std::collections::HashMap;

use parking_lot::Mutex;

use super::stamp::{self, BadStamp, Lane, Stamp};
use crate::bench::draw::KEY_LEN;
use crate::record::Record;
use crate::types::{Offset, PartitionId};

/// What is wrong with what was read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// It is no record of this run.
    #[error("partition {partition}, offset {offset}: {what}")]
    Foreign {
        /// Where.
        partition: PartitionId,
        /// Where.
        offset: Offset,
        /// Why not.
        what: &'static str,
    },
    /// Bytes of it differ from those that were written.
    #[error("partition {partition}, offset {offset}: the record was changed")]
    Changed {
        /// Where.
        partition: PartitionId,
        /// Where.
        offset: Offset,
    },
    /// Records are missing, or come later.
    #[error(
        "partition {partition}, offset {offset}: record {found} of producer {producer} comes where {expected} is due: lost, or out of order"
    )]
    Missing {
        /// Where.
        partition: PartitionId,
        /// Where.
        offset: Offset,
        /// Who wrote it.
        producer: u32,
        /// Its sequence.
        found: u64,
        /// What was due.
        expected: u64,
    },
    /// A record is there again, or late.
    #[error(
        "partition {partition}, offset {offset}: record {found} of producer {producer} comes after {last}: twice, or out of order"
    )]
    Again {
        /// Where.
        partition: PartitionId,
        /// Where.
        offset: Offset,
        /// Who wrote it.
        producer: u32,
        /// Its sequence.
        found: u64,
        /// That of the one before it.
        last: u64,
    },
    /// The sequence is right, the chain of checksums is not.
    #[error(
        "partition {partition}, offset {offset}: the chain of producer {producer} breaks at its record {sequence}: something before it was changed"
    )]
    Broken {
        /// Where.
        partition: PartitionId,
        /// Where.
        offset: Offset,
        /// Who wrote it.
        producer: u32,
        /// Its sequence.
        sequence: u64,
    },
    /// The last records of a producer did not come.
    #[error("partition {partition}: {found} records of producer {producer} came, {expected} were written")]
    Short {
        /// Where.
        partition: PartitionId,
        /// Who wrote them.
        producer: u32,
        /// How many came.
        found: u64,
        /// How many were written.
        expected: u64,
    },
    /// The newest record of a key is not there.
    #[error("partition {partition}: the newest record of key {key} is at offset {expected}, found: {}", found.map_or("none".to_owned(), |offset| offset.to_string()))]
    Stale {
        /// Where.
        partition: PartitionId,
        /// Of which key.
        key: String,
        /// Where it was acknowledged.
        expected: Offset,
        /// Where the newest is that was found.
        found: Option<Offset>,
    },
}

/// What a reader may expect of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Keeps {
    /// Every record.
    All,
    /// At least the newest of each key.
    Newest,
}

/// Where a reader begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Begins<'a> {
    /// At the start, or where producers stood then.
    At(&'a Lanes),
    /// Anywhere: the first record of a lane begins it.
    Anywhere,
}

/// Where all producers stand in all partitions of a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Lanes {
    producers: usize,
    /// Partition after partition, of each all producers.
    lanes: Vec<Lane>,
}

impl Lanes {
    pub(super) fn new(partitions: usize, producers: usize) -> Self {
        Self {
            producers,
            lanes: vec![Lane::default(); partitions * producers],
        }
    }

    /// Returns lanes of as many producers and partitions of which none has begun.
    pub(super) fn zero(&self) -> Self {
        Self {
            producers: self.producers,
            lanes: vec![Lane::default(); self.lanes.len()],
        }
    }

    /// Takes in where one producer stands.
    pub(super) fn set(&mut self, producer: u32, lanes: &[Lane]) {
        let producer = usize::try_from(producer).expect("a count");
        for (partition, lane) in lanes.iter().enumerate() {
            self.lanes[partition * self.producers + producer] = *lane;
        }
    }

    /// Returns how many records are in each partition.
    pub(super) fn records(&self) -> impl Iterator<Item = u64> {
        self.lanes
            .chunks(self.producers)
            .map(|lanes| lanes.iter().map(|lane| lane.next).sum())
    }

    /// Returns one number over all chains.
    pub(super) fn chain(&self) -> u32 {
        let mut over_all = Lane::default();
        self.lanes.iter().for_each(|lane| over_all.advance(lane.chain));
        over_all.chain
    }

    fn at(&self, partition: PartitionId, producer: u32) -> Option<usize> {
        let producer = usize::try_from(producer).ok().filter(|it| *it < self.producers)?;
        let at = usize::try_from(partition.0).ok()? * self.producers + producer;
        (at < self.lanes.len()).then_some(at)
    }
}

/// Looks at every record that a reader gets.
#[derive(Debug)]
pub(super) struct Checker {
    run: u32,
    keeps: Keeps,
    lanes: Lanes,
    /// Lanes that begin with their first record.
    open: Vec<bool>,
    records: u64,
    /// The greatest offset of each key.
    newest: HashMap<(PartitionId, [u8; KEY_LEN]), Offset>,
}

impl Checker {
    /// Checks records of `run`; `shape` has the partitions and producers, its lanes are where `begins` says.
    pub(super) fn new(run: u32, keeps: Keeps, shape: &Lanes, begins: Begins<'_>) -> Self {
        let lanes = match begins {
            Begins::At(lanes) => lanes.clone(),
            Begins::Anywhere => shape.clone(),
        };
        Self {
            run,
            keeps,
            open: vec![begins == Begins::Anywhere; lanes.lanes.len()],
            lanes,
            records: 0,
            newest: HashMap::new(),
        }
    }

    /// Returns how many records came.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Looks at the next record of a partition.
    pub(super) fn add(&mut self, partition: PartitionId, record: &Record) -> Result<Stamp, Fault> {
        let offset = record.offset;
        let foreign = |what| Fault::Foreign {
            partition,
            offset,
            what,
        };
        let value = record.value.as_deref().ok_or(foreign("it has no value"))?;
        let stamp = stamp::read(value, record.key.as_deref()).map_err(|bad| match bad {
            BadStamp::Short => foreign("it is too short for a record of a benchmark"),
            BadStamp::Changed => Fault::Changed { partition, offset },
        })?;
        if stamp.run != self.run {
            return Err(foreign("it is a record of another run"));
        }
        let at = self.lanes.at(partition, stamp.producer);
        let at = at.ok_or(foreign("it names a producer that this run does not have"))?;
        self.follow(at, &stamp, (partition, offset))?;
        self.records += 1;
        if self.keeps == Keeps::Newest
            && let Some(key) = record.key.as_deref().and_then(|key| key.try_into().ok())
        {
            self.newest.insert((partition, key), offset);
        }
        Ok(stamp)
    }

    /// Sees whether a record goes on where its lane stands.
    fn follow(
        &mut self,
        at: usize,
        stamp: &Stamp,
        (partition, offset): (PartitionId, Offset),
    ) -> Result<(), Fault> {
        let lane = &mut self.lanes.lanes[at];
        let (producer, sequence) = (stamp.producer, stamp.sequence);
        let is_first = std::mem::take(&mut self.open[at]);
        let may_skip = is_first || self.keeps == Keeps::Newest;
        if sequence < lane.next && !is_first {
            return Err(Fault::Again {
                partition,
                offset,
                producer,
                found: sequence,
                last: lane.next - 1,
            });
        }
        if sequence > lane.next && !may_skip {
            return Err(Fault::Missing {
                partition,
                offset,
                producer,
                found: sequence,
                expected: lane.next,
            });
        }
        let follows = sequence == lane.next && !is_first;
        lane.advance(stamp.checksum);
        if follows && lane.chain != stamp.chain {
            return Err(Fault::Broken {
                partition,
                offset,
                producer,
                sequence,
            });
        }
        *lane = Lane {
            next: sequence + 1,
            chain: stamp.chain,
        };
        Ok(())
    }

    /// Sees whether every lane has come at least as far as `expected`.
    pub(super) fn reaches(&self, expected: &Lanes) -> Result<(), Fault> {
        self.compare(expected, |found, expected| found >= expected)
    }

    /// Sees whether every lane has come exactly as far as its producer.
    pub(super) fn is(&self, expected: &Lanes) -> Result<(), Fault> {
        self.compare(expected, |found, expected| found == expected)
    }

    fn compare(&self, expected: &Lanes, holds: impl Fn(u64, u64) -> bool) -> Result<(), Fault> {
        let pairs = self.lanes.lanes.iter().zip(&expected.lanes);
        for (at, (found, expected)) in pairs.enumerate() {
            // The last record of a producer is the newest of its key, or another producer's is.
            if self.keeps == Keeps::All && !holds(found.next, expected.next) {
                return Err(Fault::Short {
                    partition: PartitionId(i32::try_from(at / self.lanes.producers).expect("a count")),
                    producer: u32::try_from(at % self.lanes.producers).expect("a count"),
                    found: found.next,
                    expected: expected.next,
                });
            }
        }
        Ok(())
    }

    /// Sees whether the newest record of each key came.
    pub(super) fn has_newest(&self, expected: &Newest) -> Result<(), Fault> {
        for ((partition, key), offset) in &*expected.0.lock() {
            let found = self.newest.get(&(*partition, *key)).copied();
            if found != Some(*offset) {
                return Err(Fault::Stale {
                    partition: *partition,
                    key: String::from_utf8_lossy(key).into_owned(),
                    expected: *offset,
                    found,
                });
            }
        }
        Ok(())
    }
}

/// Where the newest record of each key was acknowledged.
#[derive(Debug, Default)]
pub(super) struct Newest(Mutex<HashMap<(PartitionId, [u8; KEY_LEN]), Offset>>);

impl Newest {
    pub(super) fn acknowledged(&self, partition: PartitionId, key: [u8; KEY_LEN], offset: Offset) {
        let mut newest = self.0.lock();
        let known = newest.entry((partition, key)).or_insert(offset);
        *known = offset.max(*known);
    }

    /// Returns how many keys there are.
    pub(super) fn keys(&self) -> usize {
        self.0.lock().len()
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
