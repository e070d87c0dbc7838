//! Copying: a group of neighbouring segments becomes one, without what does not survive.
//!
//! ```text
//!   segment 0      segment 10              segment 0
//!   | a | b | c |  | d | e |     ---->     | b | e' |        b: the same bytes; e': built anew
//! ```
//!
//! A group in which nothing changes is read, and not written: its segments stay what they are.
//!
//! Invariants
//! - The result reaches beyond the base of the last segment that it replaces, if need be by a batch without records: a start
//!   that finishes a replacement tells by that which segments it replaces (`partition_dir`).
//! - Damage is only ever copied alone: of a group in which it is found nothing is written, and the segment is reported. One that
//!   the disk does not give is left as it is ([`super::unread`]).
//! - More than a segment can hold goes on in a second one.
//!
//! What is not here: names, memory, what comes after (`swap`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::env::Fs;
use crate::record::RecordBatch;
use crate::storage::{AppendTimes, FirstAppend};
use crate::types::{Offset, Timestamp};

use super::super::cleaner_state::{DamagedPlace, MAX_DAMAGED_PLACES};
use super::gate::{CompactError, Gate};
use super::output::{Kept, Output, OutputLimits};
use super::pieces::{CHUNK, Piece, Pieces, len_32};
use super::source::{AbortedIn, Source};
use super::survivors::{Fate, Judgement, Place, Survivors};

/// What copying needs to know.
pub(super) struct Copying<'a> {
    pub(super) fs: &'a Arc<dyn Fs>,
    pub(super) dir: &'a Path,
    pub(super) limits: OutputLimits,
    pub(super) aborted: AbortedIn<'a>,
}

/// What became of a group.
#[derive(Debug)]
pub(super) enum Copied {
    /// Nothing changes.
    Unchanged,
    /// These finished files stand for the group.
    Changed(Vec<(Output, PathBuf)>),
    /// The segment of this index is damaged: it must be a group of its own.
    Damaged(usize),
}

/// Damage that was met.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) damaged: Vec<DamagedPlace>,
    /// What did not fit in there.
    pub(super) unnamed: u64,
}

impl Found {
    pub(super) fn add(&mut self, place: DamagedPlace) {
        if self.damaged.len() < MAX_DAMAGED_PLACES {
            self.damaged.push(place);
        } else {
            self.unnamed += 1;
        }
    }
}

/// A group on its way.
struct Run<'r, 'p> {
    copying: &'r Copying<'r>,
    sources: &'r [Source],
    survivors: &'r mut Survivors<'p>,
    found: &'r mut Found,
    finished: Vec<(Output, PathBuf)>,
    output: Output,
    /// The last segment that is not empty.
    last: usize,
}

/// A gap whose end is not known yet.
struct OpenGap {
    len: u32,
    from: Offset,
    reason: String,
}

/// A batch, and where it was found.
struct At<'b> {
    source: usize,
    position: u32,
    /// The length of its file.
    end: u32,
    batch: &'b RecordBatch,
}

impl Copying<'_> {
    /// Copies a group. On an error no file is left.
    pub(super) fn run(
        &self,
        sources: &[Source],
        survivors: &mut Survivors<'_>,
        found: &mut Found,
        gate: &mut Gate<'_>,
    ) -> Result<Copied, CompactError> {
        let base = sources[0].sealed.extent.base;
        let last = sources.iter().rposition(|source| source.sealed.extent.end > 0);
        let mut run = Run {
            copying: self,
            sources,
            survivors,
            found,
            finished: Vec::new(),
            output: Output::new(base, self.limits),
            last: last.unwrap_or(0),
        };
        let copied = run.all(gate);
        if !matches!(copied, Ok(Copied::Changed(_))) {
            // What cannot be removed is no harm: the next pass, or start, tries again.
            let until = sources.last().map_or(base, |last| last.bound);
            let _ = super::swap::remove_leftovers(self.fs.as_ref(), self.dir, until);
        }
        copied
    }
}

impl Run<'_, '_> {
    fn all(&mut self, gate: &mut Gate<'_>) -> Result<Copied, CompactError> {
        for index in 0..self.sources.len() {
            if let Some(damaged) = self.one(index, gate)? {
                return Ok(Copied::Damaged(damaged));
            }
        }
        let base = self.output.base;
        let output = std::mem::replace(&mut self.output, Output::new(base, self.copying.limits));
        self.finish(output, gate)?;
        if self.finished.is_empty() {
            return Ok(Copied::Unchanged);
        }
        Ok(Copied::Changed(std::mem::take(&mut self.finished)))
    }

    /// Copies one segment; returns its index if it is damaged and not alone.
    fn one(&mut self, index: usize, gate: &mut Gate<'_>) -> Result<Option<usize>, CompactError> {
        let source = &self.sources[index];
        let mut pieces = Pieces::open(self.copying.fs.as_ref(), source, gate)?;
        let end = pieces.len();
        let mut gap = None;
        while let Some(piece) = pieces.next(gate)? {
            match piece {
                Piece::Batch { position, batch } => {
                    self.close_gap(gap.take(), batch.header().base_offset);
                    let at = At {
                        source: index,
                        position,
                        end,
                        batch: &batch,
                    };
                    self.batch(&at, gate)?;
                }
                Piece::Gap { .. } if self.sources.len() > 1 => return Ok(Some(index)),
                Piece::Gap {
                    range,
                    offset,
                    reason,
                } => {
                    self.survivors.met_damage();
                    self.found.add(DamagedPlace {
                        path: source.path().to_path_buf(),
                        position: u64::from(range.start),
                        len_bytes: u64::from(range.end - range.start),
                        offset,
                        reason: reason.clone(),
                    });
                    self.close_gap(gap.take(), offset);
                    self.write_gap(&mut pieces, range.clone(), gate)?;
                    gap = Some(OpenGap {
                        len: range.end - range.start,
                        from: offset,
                        reason,
                    });
                }
            }
        }
        if let Some(last) = &gap {
            // Where the segment ended before the damage is known as long as nobody lost the memory of it.
            let next = source.sealed.extent.next;
            let until = if next > last.from { next } else { source.bound };
            self.close_gap(gap, until);
        }
        Ok(None)
    }

    /// What may have been in a gap ends where the next sound batch begins.
    fn close_gap(&mut self, gap: Option<OpenGap>, until: Offset) {
        if let Some(OpenGap { len, from, reason }) = gap {
            self.output.add_gap(len, from..until, reason);
        }
    }

    fn write_gap(
        &mut self,
        pieces: &mut Pieces,
        range: std::ops::Range<u32>,
        gate: &mut Gate<'_>,
    ) -> Result<(), CompactError> {
        if self.output.is_written() {
            for start in range.clone().step_by(CHUNK) {
                let end = range.end.min(start.saturating_add(len_32(CHUNK)));
                let bytes = pieces.read(start..end, gate)?;
                self.output.write(&bytes, gate)?;
            }
        }
        Ok(())
    }

    fn batch(&mut self, at: &At<'_>, gate: &mut Gate<'_>) -> Result<(), CompactError> {
        if let Some(offsets) = self.survivors.wants(at.batch.header()) {
            let aborted = (self.copying.aborted)(&self.sources[at.source], &offsets)?;
            self.survivors.expect(&offsets, aborted);
        }
        let ends_group = at.source == self.last && at.position + at.batch.header().size_bytes == at.end;
        let place = if ends_group && self.output.next <= self.sources[self.last].sealed.extent.base {
            Place::Needed
        } else {
            Place::Ordinary
        };
        let judged = self.survivors.judge(at.batch, place);
        let Judgement { fate, times, aborted } = judged.unwrap_or_else(|damage| {
            self.unreadable(at, damage.to_string());
            let greatest = at.batch.header().max_timestamp;
            Judgement {
                fate: Fate::AsItIs,
                times: Some((Timestamp::MIN, greatest.unwrap_or(Timestamp::MAX))),
                aborted: None,
            }
        });
        let stays = match &fate {
            Fate::AsItIs => std::slice::from_ref(at.batch),
            Fate::Rebuilt(batches) => batches,
            Fate::Gone => &[],
        };
        if !matches!(fate, Fate::AsItIs) {
            self.change(at, gate)?;
        }
        for batch in stays {
            let kept = Kept {
                header: batch.header(),
                times,
                aborted,
            };
            self.keep(at, batch, kept, gate)?;
        }
        Ok(())
    }

    fn keep(
        &mut self,
        at: &At<'_>,
        batch: &RecordBatch,
        kept: Kept<'_>,
        gate: &mut Gate<'_>,
    ) -> Result<(), CompactError> {
        let header = kept.header;
        if self.output.is_full_for(header) {
            self.change(at, gate)?;
            let next = Output::new(header.base_offset, self.copying.limits);
            let full = std::mem::replace(&mut self.output, next);
            self.finish(full, gate)?;
            self.output.begin(self.copying.fs, self.copying.dir)?;
        }
        self.output.write(batch.bytes(), gate)?;
        self.output.add(kept);
        Ok(())
    }

    /// A batch whose checksum holds, and whose records cannot be read.
    fn unreadable(&mut self, at: &At<'_>, reason: String) {
        self.survivors.met_damage();
        self.found.add(DamagedPlace {
            path: self.sources[at.source].path().to_path_buf(),
            position: u64::from(at.position),
            len_bytes: u64::from(at.batch.header().size_bytes),
            offset: at.batch.header().base_offset,
            reason,
        });
    }

    /// Something changes here: everything before it must be in a file.
    fn change(&mut self, at: &At<'_>, gate: &mut Gate<'_>) -> Result<(), CompactError> {
        if self.output.is_written() {
            return Ok(());
        }
        self.output.begin(self.copying.fs, self.copying.dir)?;
        for (index, source) in self.sources[..=at.source].iter().enumerate() {
            let mut pieces = Pieces::open(self.copying.fs.as_ref(), source, gate)?;
            let end = if index == at.source {
                at.position
            } else {
                pieces.len()
            };
            for start in (0..end).step_by(CHUNK) {
                let bytes = pieces.read(start..end.min(start.saturating_add(len_32(CHUNK))), gate)?;
                self.output.write(&bytes, gate)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, mut output: Output, gate: &mut Gate<'_>) -> Result<(), CompactError> {
        if let Some(path) = output.finish(gate)? {
            self.finished.push((output, path));
        }
        Ok(())
    }
}

/// Returns the append times of what replaces `sources` and holds the offsets from `base` to `next`.
pub(super) fn append_times(sources: &[Source], base: Offset, next: Offset) -> AppendTimes {
    let mut times = AppendTimes::default();
    let samples = sources
        .iter()
        .flat_map(|source| source.sealed.extent.append_times.samples());
    for sample in samples.filter(|sample| sample.offset < next) {
        // A second output begins after some of the samples; the first of those stands for its first batch.
        times.push(sample.offset.max(base), sample.time);
    }
    let first = sources
        .first()
        .map(|source| source.sealed.extent.append_times.first_is());
    times.with_first(first.unwrap_or(FirstAppend::Known))
}
