//! Reading a log from disk batch by batch, trusting nothing: recovery, repair and adoption.
//!
//! By positioned reads, never through a mapping: the file may be torn, shorter than it should be, or failing. A scan stops at
//! the first byte that is not a whole, sound batch with offsets after those before it, in its place as far as that is known
//! ([`super::spacing`]), and says why. What it has seen until
//! then is enough to make a segment of: indexes, content, next offset.
//!
//! Memory: one batch, and what its records decompress to, bounded by [`MAX_BATCH_BYTES`] and the caller's limit.

use std::cell::LazyCell;
use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};

use crate::env::File;
use crate::record::{BatchHeader, DecompressLimit, HEADER_LEN, MAX_BATCH_BYTES, RecordBatch};
use crate::types::{Offset, Timestamp};

use super::gap::{Gap, Lost};
use super::index_set::{ContentSpan, IndexSet};
use super::spacing::{Holes, told, was_moved};
use super::{OffsetIndex, Position};

/// Greatest number of gaps in one log: the last of them reaches to its end.
const MAX_GAPS: usize = 1_000;

/// Bytes asked of the disk at a time.
const READ_AHEAD: usize = 1 << 20;

/// What to scan.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScanSpec {
    /// Base offset of the segment.
    pub(super) base: Offset,
    /// Length of the file in bytes; a segment is never larger than 2 GiB.
    pub(super) len: u32,
    /// No batch reaches this offset.
    pub(super) until: Offset,
    pub(super) holes: Holes,
    pub(super) index_interval_bytes: u32,
    pub(super) max_decompressed_bytes: u32,
}

/// What a scan found.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) indexes: IndexSet,
    pub(super) content: ContentSpan,
    /// The end of the last sound batch, in bytes.
    pub(super) end: u32,
    /// The first offset after it; the base offset of an empty log.
    pub(super) next: Offset,
    pub(super) batches: u64,
    /// Why it stopped before the end of the file.
    pub(super) stop: Option<String>,
    /// What [`scan_through`] passed over.
    pub(super) gaps: Vec<Gap>,
}

impl Scanned {
    fn nothing(spec: &ScanSpec) -> Self {
        Self {
            indexes: IndexSet::new(spec.base, spec.index_interval_bytes),
            content: ContentSpan::default(),
            end: 0,
            next: spec.base,
            batches: 0,
            stop: None,
            gaps: Vec::new(),
        }
    }
}

/// What is known of a log that was whole once.
#[derive(Clone, Copy)]
pub(super) struct Vouched<'a> {
    /// Every batch that begins before this offset was on disk.
    pub(super) upto: Offset,
    /// Where the log ended, if nothing in it says more.
    pub(super) end: Offset,
    /// How many bytes it had, or at least had, if it must have had more than there are.
    pub(super) whole_len: Option<u32>,
    /// Reads its offset index, as found; called at the first damage.
    pub(super) index: &'a dyn Fn() -> Vec<u8>,
}

impl Vouched<'_> {
    /// Says what is wrong with a log that was read to its end, if it ends too soon.
    fn ends_early(&self, scanned: &Scanned) -> Option<String> {
        let end = scanned.end;
        let missing = self.whole_len.is_some_and(|whole| end < whole) && scanned.next < self.end;
        missing.then(|| format!("the file ends after {end} bytes, and more of it was on disk"))
    }
}

/// Scans a log. `each` sees every sound batch with its position, and may say why it is not acceptable here.
///
/// # Errors
/// What the disk says. Damage is not an error but a [`Scanned::stop`].
pub(super) fn scan(
    file: &dyn File,
    spec: ScanSpec,
    mut each: impl FnMut(&RecordBatch, &mut IndexSet) -> ControlFlow<String>,
) -> std::io::Result<Scanned> {
    let mut scanned = Scanned::nothing(&spec);
    scan_on(
        &mut ReadAhead::over(file, spec.len),
        spec,
        &mut scanned,
        &mut each,
    )?;
    Ok(scanned)
}

/// Scans a log and goes on behind what is damaged of the part that was on disk before; a [`Scanned::stop`] is then beyond that
/// part.
///
/// # Errors
/// What the disk says.
pub(super) fn scan_through(
    file: &dyn File,
    spec: ScanSpec,
    vouched: Vouched<'_>,
    mut each: impl FnMut(&RecordBatch, &mut IndexSet) -> ControlFlow<String>,
) -> std::io::Result<Scanned> {
    let mut scanned = Scanned::nothing(&spec);
    let mut ahead = ReadAhead::over(file, spec.len);
    let index = LazyCell::new(vouched.index);
    loop {
        scan_on(&mut ahead, spec, &mut scanned, &mut each)?;
        if scanned.next >= vouched.upto {
            return Ok(scanned);
        }
        let stop = scanned.stop.take();
        let Some(reason) = stop.or_else(|| vouched.ends_early(&scanned)) else {
            return Ok(scanned);
        };
        // A damaged batch held at least one offset.
        let least = scanned.next.next();
        let behind = if scanned.gaps.len() + 1 < MAX_GAPS {
            sound_batch_behind(&mut ahead, scanned.end, least, &index)?
        } else {
            None
        };
        let whole_len = vouched.whole_len.map_or(spec.len, |whole| whole.max(spec.len));
        let (position, offset) = behind.unwrap_or((whole_len, vouched.end.max(least)));
        scanned.gaps.push(Gap {
            positions: scanned.end..position,
            offsets: scanned.next..offset,
            lost: if position > spec.len {
                Lost::Missing
            } else {
                Lost::Damaged
            },
            reason,
        });
        (scanned.end, scanned.next) = (position, offset);
    }
}

/// Returns position and base offset of the first batch behind a damaged one at `position` that can be found; see
/// [`super::gap`].
fn sound_batch_behind(
    ahead: &mut ReadAhead<'_>,
    position: u32,
    least_base: Offset,
    index: &[u8],
) -> std::io::Result<Option<(u32, Offset)>> {
    let header_len = u32::try_from(HEADER_LEN).expect("61 fits");
    let mut candidate = None;
    if ahead.len - position >= header_len {
        let header = BatchHeader::parse(&ahead.take(position, header_len)?).ok();
        candidate = header.and_then(|header| position.checked_add(header.size_bytes));
    }
    let index = OffsetIndex::open(index, ahead.len).ok();
    let mut after = position;
    loop {
        if let Some(at) = candidate.filter(|at| *at < ahead.len)
            && let Ok(batch) = next_batch(ahead, at, least_base)?
        {
            return Ok(Some((at, batch.header().base_offset)));
        }
        let indexed = index.and_then(|index| index.first_at_or_after(Position(after.saturating_add(1))));
        let Some(entry) = indexed else { return Ok(None) };
        after = entry.position.0;
        candidate = Some(after);
    }
}

/// Scans from where `scanned` ends.
fn scan_on(
    ahead: &mut ReadAhead<'_>,
    spec: ScanSpec,
    scanned: &mut Scanned,
    each: &mut impl FnMut(&RecordBatch, &mut IndexSet) -> ControlFlow<String>,
) -> std::io::Result<()> {
    while scanned.end < spec.len {
        let batch = match next_batch(ahead, scanned.end, scanned.next)? {
            Ok(batch) => batch,
            Err(reason) => {
                scanned.stop = Some(reason);
                break;
            }
        };
        let header = *batch.header();
        let times = batch
            .timestamps(DecompressLimit(spec.max_decompressed_bytes))
            .unwrap_or_else(|damage| {
                // The bytes are what was written, so they stay: readers that can make nothing of them will say so. Its times
                // are not known, so that no read bounded in time may pass it over.
                tracing::warn!(offset = %header.base_offset, %damage, "a batch with a sound checksum cannot be read");
                header.max_timestamp.map(|greatest| (Timestamp::MIN, greatest))
            });
        if super::RelativeOffset::new(header.last_offset(), spec.base).is_none() {
            scanned.stop = Some(format!(
                "offset {} is too far from the segment's base",
                header.last_offset()
            ));
            break;
        }
        if let Some(reason) = out_of_place(ahead, &spec, scanned, &header)? {
            scanned.stop = Some(reason);
            break;
        }
        if let ControlFlow::Break(reason) = each(&batch, &mut scanned.indexes) {
            scanned.stop = Some(reason);
            break;
        }
        scanned.indexes.add(&header, scanned.end);
        // A marker has a time, but no record that a search by time could find.
        let times = times.filter(|_| !header.is_control());
        scanned.content.add(header.record_count, times);
        scanned.end += header.size_bytes;
        scanned.next = header.next_offset();
        scanned.batches += 1;
    }
    Ok(())
}

/// Says why the sound batch at the end of `scanned` does not belong there: its base offset lies outside its checksum.
fn out_of_place(
    ahead: &mut ReadAhead<'_>,
    spec: &ScanSpec,
    scanned: &Scanned,
    header: &BatchHeader,
) -> std::io::Result<Option<String>> {
    if header.last_offset() >= spec.until {
        let (last, until) = (header.last_offset(), spec.until);
        return Ok(Some(format!(
            "batch reaches to offset {last}, expected below {until}"
        )));
    }
    if header.base_offset == scanned.next {
        return Ok(None);
    }
    let moved = match spec.holes {
        Holes::None => true,
        Holes::Legal => {
            let behind = scanned.end + header.size_bytes;
            let header_len = u32::try_from(HEADER_LEN).expect("61 fits");
            ahead.len - behind >= header_len
                && BatchHeader::parse(&ahead.take(behind, header_len)?)
                    .is_ok_and(|behind| was_moved(scanned.next, header, &behind))
        }
    };
    Ok(moved.then(|| told(scanned.next, header)))
}

/// Reads the batch at `position`; `Err` says why there is none.
pub(super) fn next_batch(
    ahead: &mut ReadAhead<'_>,
    position: u32,
    least_base: Offset,
) -> std::io::Result<Result<RecordBatch, String>> {
    let left = ahead.len - position;
    let header_len = u32::try_from(HEADER_LEN).expect("61 fits");
    if left < header_len {
        return Ok(Err(format!("{left} bytes are left, no batch header")));
    }
    let header = match BatchHeader::parse(&ahead.take(position, header_len)?) {
        Ok(header) => header,
        Err(damage) => return Ok(Err(damage.to_string())),
    };
    if header.size_bytes > left || header.size_bytes > MAX_BATCH_BYTES {
        return Ok(Err(format!(
            "batch of {} bytes, {left} are left",
            header.size_bytes
        )));
    }
    if header.base_offset < least_base {
        return Ok(Err(format!(
            "batch begins at offset {}, expected {least_base} or later",
            header.base_offset
        )));
    }
    let batch = match RecordBatch::parse(ahead.take(position, header.size_bytes)?) {
        Ok(batch) => batch,
        Err(damage) => return Ok(Err(damage.to_string())),
    };
    Ok(batch
        .verify_crc()
        .map(|()| batch)
        .map_err(|damage| damage.to_string()))
}

/// A window over the file that moves forward.
pub(super) struct ReadAhead<'a> {
    file: &'a dyn File,
    len: u32,
    bytes: Bytes,
    at: u32,
}

impl<'a> ReadAhead<'a> {
    pub(super) fn over(file: &'a dyn File, len: u32) -> Self {
        Self {
            file,
            len,
            bytes: Bytes::new(),
            at: 0,
        }
    }

    /// Returns `len` bytes from `position`; the caller has checked that the file holds them.
    pub(super) fn take(&mut self, position: u32, len: u32) -> std::io::Result<Bytes> {
        let size = |bytes: u32| usize::try_from(bytes).expect("32 bits fit");
        let held = position >= self.at && size(position - self.at) + size(len) <= self.bytes.len();
        if !held {
            let ahead = READ_AHEAD.max(size(len)).min(size(self.len - position));
            let mut bytes = BytesMut::zeroed(ahead);
            self.file.read_exact_at(&mut bytes, u64::from(position))?;
            self.bytes = bytes.freeze();
            self.at = position;
        }
        let from = size(position - self.at);
        Ok(self.bytes.slice(from..from + size(len)))
    }
}
