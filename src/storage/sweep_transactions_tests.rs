//! The part of the swept life that has transactions: one that aborts, one that commits, one that is decided in a later life,
//! with rolls between their batches and their markers.
//!
//! Of whatever survived a death the committed view must be right: as told by the batches and markers themselves, read from the
//! first to the last.

use std::collections::{BTreeMap, BTreeSet};

use super::{Stop, World};
use crate::record::{Batches, ControlMarker, Outcome, RecordBatch};
use crate::storage::testing::{ended, transactional};
use crate::storage::{FirstBatch, Partition, Read};
use crate::types::{Offset, ProducerId};

/// The log that has them.
pub(super) const LOG: &str = "x";
/// So many batches fill more than a segment.
const A_ROLL: usize = 8;

/// Begins three transactions, aborts one and commits one.
pub(super) fn transact(world: &mut World) -> Result<(), Stop> {
    world.create(LOG, 8)?;
    world.append(LOG, &transactional(1, 0, "to be aborted"))?;
    world.append(LOG, &transactional(2, 0, "to be committed"))?;
    world.sync()?;
    world.fill(LOG, A_ROLL)?;
    world.append(LOG, &transactional(1, 1, "to be aborted, too"))?;
    world.append(LOG, &ended(1, Outcome::Abort))?;
    world.fill(LOG, A_ROLL)?;
    world.append(LOG, &transactional(3, 0, "decided in a later life"))?;
    world.append(LOG, &ended(2, Outcome::Commit))?;
    world.sync()
}

/// Aborts the third, in a later life than the one that began it.
pub(super) fn decide(world: &mut World) -> Result<(), Stop> {
    world.fill(LOG, A_ROLL)?;
    world.append(LOG, &ended(3, Outcome::Abort))?;
    world.sync()
}

/// What the batches of a log say of its transactions.
#[derive(Default)]
struct Told {
    open: BTreeMap<ProducerId, (Offset, Vec<Offset>)>,
    /// Producer, first offset, offset of the marker.
    aborted: BTreeSet<(ProducerId, Offset, Offset)>,
    /// Batches of aborted transactions.
    dropped: BTreeSet<Offset>,
    /// All batches of records.
    data: Vec<Offset>,
}

impl Told {
    fn by(batches: &[RecordBatch]) -> Result<Self, String> {
        let mut told = Self::default();
        for batch in batches {
            let header = batch.header();
            let Some(producer) = header.producer.map(|producer| producer.id) else {
                told.data.push(header.base_offset);
                continue;
            };
            match outcome(batch)? {
                None => {
                    told.data.push(header.base_offset);
                    if header.is_transactional() {
                        let since = (header.base_offset, Vec::new());
                        told.open
                            .entry(producer)
                            .or_insert(since)
                            .1
                            .push(header.base_offset);
                    }
                }
                Some(outcome) => {
                    let ended = told.open.remove(&producer);
                    if let Some((first, batches)) = ended.filter(|_| outcome == Outcome::Abort) {
                        told.aborted.insert((producer, first, header.base_offset));
                        told.dropped.extend(batches);
                    }
                }
            }
        }
        Ok(told)
    }
}

/// Says whether a found log answers as its batches say: where it is stable, what was aborted, what a committed reader sees.
pub(super) fn check(log: &Partition) -> Result<(), String> {
    let view = log.watermarks();
    let (batches, _) = read(log, view.log_end)?;
    let told = Told::by(&batches)?;
    let first_open = told.open.values().map(|(first, _)| *first).min();
    let stable = first_open.unwrap_or(view.high_watermark);
    if view.last_stable != stable {
        return Err(format!(
            "last stable offset {}, expected {stable}",
            view.last_stable
        ));
    }
    let listed = log.aborted(&(view.log_start..view.log_end));
    let listed = listed.map_err(|error| error.to_string())?.into_iter();
    let listed: Vec<_> = listed
        .map(|aborted| (aborted.producer_id, aborted.first_offset, aborted.last_offset))
        .collect();
    if listed.len() != told.aborted.len() || listed.iter().any(|one| !told.aborted.contains(one)) {
        return Err(format!("aborted: {listed:?}, expected {:?}", told.aborted));
    }
    let seen = committed(log, stable)?;
    let expected = told.data.iter().copied();
    let expected: Vec<_> = expected
        .filter(|base| *base < stable && !told.dropped.contains(base))
        .collect();
    if seen != expected {
        return Err(format!("a committed reader sees {seen:?}, expected {expected:?}"));
    }
    Ok(())
}

/// The batches of records that a reader is shown who leaves out what the list of aborted transactions tells him to.
fn committed(log: &Partition, stable: Offset) -> Result<Vec<Offset>, String> {
    let (batches, listed) = read(log, stable)?;
    let mut seen = Vec::new();
    for batch in batches {
        let header = batch.header();
        let base = header.base_offset;
        if header.is_control() {
            continue;
        }
        let is_aborted = header.is_transactional()
            && header.producer.is_some_and(|producer| {
                let within = |(id, first, last): &(ProducerId, Offset, Offset)| {
                    *id == producer.id && *first <= base && base < *last
                };
                listed.iter().any(within)
            });
        if !is_aborted {
            seen.push(base);
        }
    }
    Ok(seen)
}

type Aborted = BTreeSet<(ProducerId, Offset, Offset)>;

/// Reads as a committed reader does, below `until`, in small pieces: the batches, and what was listed beside them.
fn read(log: &Partition, until: Offset) -> Result<(Vec<RecordBatch>, Aborted), String> {
    let (mut from, mut batches, mut listed) = (log.watermarks().log_start, Vec::new(), BTreeSet::new());
    while from < until {
        let read = Read {
            from,
            until,
            times: None,
            max_bytes: 300,
            first: FirstBatch::Whole,
        };
        let (slice, aborted) = log.read_committed(&read).map_err(|error| error.to_string())?;
        listed.extend(
            aborted
                .into_iter()
                .map(|one| (one.producer_id, one.first_offset, one.last_offset)),
        );
        for batch in Batches::over(slice.bytes, 0) {
            batches.push(batch.map_err(|damage| damage.to_string())?.1);
        }
        if slice.next_offset <= from {
            return Err(format!("a committed read from {from} does not get on"));
        }
        from = slice.next_offset;
    }
    Ok((batches, listed))
}

/// How a marker ends its transaction; `None` for records.
fn outcome(batch: &RecordBatch) -> Result<Option<Outcome>, String> {
    let marker = batch.control_marker().map_err(|damage| damage.to_string())?;
    Ok(marker.and_then(|marker| match marker {
        ControlMarker::Commit { .. } => Some(Outcome::Commit),
        ControlMarker::Abort { .. } => Some(Outcome::Abort),
        _ => None,
    }))
}
