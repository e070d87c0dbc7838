//! Segment summary: what a start must know of a segment without opening its files, as the partition manifest keeps it.
//!
//! ```text
//!  0 record kind u8 = 1                    40 offset index bytes u32
//!  1 present u8: bit 0 transaction index,  44 time index bytes u32
//!    1 least, 2 greatest timestamp         48 transaction index bytes u32, 0 when absent
//!  2 samples u8, at most 16                52 reserved u32 = 0
//!  3 extensions u8                         56 step between kept samples u64, in appends
//!  4 flags u32                             64 appends since the last kept sample u64
//!  8 base offset i64                       72 least timestamp i64, 0 when absent
//! 16 next offset i64                       80 greatest timestamp i64, 0 when absent
//! 24 log bytes u64                         88 samples: offset i64, append time i64, each
//! 32 records u64                              extensions: tag u16, len u16, bytes, each; all big-endian
//! ```
//!
//! Invariants
//! - `0 <= base offset <= next offset`.
//! - Extensions and flags that a reader does not know are kept and written again; their tags ascend.
//! - A summary has at most [`MAX_LEN`] bytes.
//!
//! What it does not do: frame or checksum itself (`manifest`, and the archive's own formats in `tier`).

use super::append_times::{AppendSample, AppendTimes, FirstAppend, MAX_APPEND_SAMPLES, Stride};
use super::fields::Fields;
use crate::types::{Offset, Timestamp};

/// Bytes before the samples.
const FIXED_LEN: usize = 88;
/// Bytes of one sample.
const SAMPLE_LEN: usize = 16;
/// Bytes of an extension before its content.
const EXTENSION_HEADER_LEN: usize = 4;
/// The greatest length of a summary in bytes.
pub(in crate::storage) const MAX_LEN: usize =
    FIXED_LEN + MAX_APPEND_SAMPLES * SAMPLE_LEN + Extensions::MAX_LEN;

const HAS_TXN_INDEX: u8 = 1;
const HAS_LEAST: u8 = 1 << 1;
const HAS_GREATEST: u8 = 1 << 2;

/// What is true of a segment; bits that we do not know are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentFlags(pub u32);

impl SegmentFlags {
    /// It takes no more appends.
    pub const SEALED: Self = Self(1);
    /// The cleaner wrote it: offsets may be missing.
    pub const CLEANED: Self = Self(1 << 1);
    /// The time of its first sample is a bound: the first append was then or later. Of a segment that was read anew
    /// after a crash; whoever does not know it takes the bound for the time.
    pub const FIRST_APPEND_NOT_BEFORE: Self = Self(1 << 2);

    /// True when all of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns these and `other`.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Fields that later versions add to a summary, by tag; ours passes on what it does not know.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extensions(Vec<(u16, Vec<u8>)>);

impl Extensions {
    /// Bytes of all of a segment's extensions at most, their headers included.
    pub const MAX_LEN: usize = 4096;
    /// Extensions of a segment at most.
    pub const MAX_COUNT: usize = 255;

    /// Returns the content of `tag`.
    pub fn find(&self, tag: u16) -> Option<&[u8]> {
        let at = self.0.binary_search_by_key(&tag, |field| field.0).ok()?;
        Some(&self.0[at].1)
    }

    /// Sets the content of `tag`, in place of what it had.
    ///
    /// # Errors
    /// [`ExtensionsFull`] when all together would be too long or too many; nothing is then changed.
    pub fn set(&mut self, tag: u16, bytes: &[u8]) -> Result<(), ExtensionsFull> {
        let place = self.0.binary_search_by_key(&tag, |field| field.0);
        let freed = self.find(tag).map_or(0, |old| EXTENSION_HEADER_LEN + old.len());
        let len = self.len_bytes() - freed + EXTENSION_HEADER_LEN + bytes.len();
        if len > Self::MAX_LEN || (place.is_err() && self.0.len() == Self::MAX_COUNT) {
            return Err(ExtensionsFull { tag, len });
        }
        match place {
            Ok(at) => self.0[at].1 = bytes.to_vec(),
            Err(at) => self.0.insert(at, (tag, bytes.to_vec())),
        }
        Ok(())
    }

    fn len_bytes(&self) -> usize {
        self.0
            .iter()
            .map(|(_, bytes)| EXTENSION_HEADER_LEN + bytes.len())
            .sum()
    }
}

/// Why an extension cannot be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "extension {tag} would make {len} bytes of extensions, or more than {} of them; {} bytes are allowed",
    Extensions::MAX_COUNT,
    Extensions::MAX_LEN
)]
pub struct ExtensionsFull {
    /// The tag.
    pub tag: u16,
    /// Length in bytes that all would have together.
    pub len: usize,
}

/// What is known of one segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentSummary {
    /// The offset it is named after.
    pub base_offset: Offset,
    /// The offset after its last.
    pub next_offset: Offset,
    /// Length of its `.log` in bytes.
    pub log_bytes: u64,
    /// Length of its `.index` in bytes.
    pub offset_index_bytes: u32,
    /// Length of its `.timeindex` in bytes.
    pub time_index_bytes: u32,
    /// Length of its `.txnindex` in bytes, when there is one.
    pub txn_index_bytes: Option<u32>,
    /// How many records it holds.
    pub records: u64,
    /// The least timestamp of its records, when any has one.
    pub least_timestamp: Option<Timestamp>,
    /// The greatest timestamp of its records, when any has one.
    pub greatest_timestamp: Option<Timestamp>,
    /// When its records were appended.
    pub append_times: AppendTimes,
    /// What is true of it.
    pub flags: SegmentFlags,
    /// What later versions know of it.
    pub extensions: Extensions,
}

impl SegmentSummary {
    /// The greatest length of its bytes.
    pub const MAX_LEN: usize = MAX_LEN;

    /// Makes the summary of an empty, active segment.
    pub fn empty(base_offset: Offset) -> Self {
        Self {
            base_offset,
            next_offset: base_offset,
            log_bytes: 0,
            offset_index_bytes: 0,
            time_index_bytes: 0,
            txn_index_bytes: None,
            records: 0,
            least_timestamp: None,
            greatest_timestamp: None,
            append_times: AppendTimes::default(),
            flags: SegmentFlags::default(),
            extensions: Extensions::default(),
        }
    }

    /// Appends the bytes behind the record kind to `into`, at most [`MAX_LEN`](Self::MAX_LEN).
    pub fn encode(&self, into: &mut Vec<u8>) {
        let samples = self.append_times.samples();
        let stride = self.append_times.stride();
        let bit = |is_there: bool, bit: u8| if is_there { bit } else { 0 };
        let present = bit(self.txn_index_bytes.is_some(), HAS_TXN_INDEX)
            | bit(self.least_timestamp.is_some(), HAS_LEAST)
            | bit(self.greatest_timestamp.is_some(), HAS_GREATEST);
        into.push(present);
        into.push(u8::try_from(samples.len()).expect("at most 16 samples"));
        into.push(u8::try_from(self.extensions.0.len()).expect("at most 255 extensions"));
        let bound = SegmentFlags::FIRST_APPEND_NOT_BEFORE;
        let flags = match self.append_times.first_is() {
            FirstAppend::Known => SegmentFlags(self.flags.0 & !bound.0),
            FirstAppend::NotBefore => self.flags.with(bound),
        };
        into.extend_from_slice(&flags.0.to_be_bytes());
        into.extend_from_slice(&self.base_offset.0.to_be_bytes());
        into.extend_from_slice(&self.next_offset.0.to_be_bytes());
        into.extend_from_slice(&self.log_bytes.to_be_bytes());
        into.extend_from_slice(&self.records.to_be_bytes());
        into.extend_from_slice(&self.offset_index_bytes.to_be_bytes());
        into.extend_from_slice(&self.time_index_bytes.to_be_bytes());
        into.extend_from_slice(&self.txn_index_bytes.unwrap_or(0).to_be_bytes());
        into.extend_from_slice(&[0; 4]);
        into.extend_from_slice(&stride.step.to_be_bytes());
        into.extend_from_slice(&stride.since_kept.to_be_bytes());
        into.extend_from_slice(&self.least_timestamp.unwrap_or_default().0.to_be_bytes());
        into.extend_from_slice(&self.greatest_timestamp.unwrap_or_default().0.to_be_bytes());
        for sample in samples {
            into.extend_from_slice(&sample.offset.0.to_be_bytes());
            into.extend_from_slice(&sample.time.0.to_be_bytes());
        }
        for (tag, bytes) in &self.extensions.0 {
            let len = u16::try_from(bytes.len()).expect("extensions are at most 4096 bytes");
            into.extend_from_slice(&tag.to_be_bytes());
            into.extend_from_slice(&len.to_be_bytes());
            into.extend_from_slice(bytes);
        }
    }

    /// Reads the bytes behind the record kind, all of them; `None` when they are not a summary.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::decode(Fields(bytes))
    }

    pub(in crate::storage) fn decode(mut fields: Fields<'_>) -> Option<Self> {
        let present = fields.u8()?;
        let sample_count = fields.u8()?;
        let extension_count = fields.u8()?;
        let flags = SegmentFlags(fields.u32()?);
        let base_offset = Offset(fields.i64()?);
        let next_offset = Offset(fields.i64()?);
        let log_bytes = fields.u64()?;
        let records = fields.u64()?;
        let offset_index_bytes = fields.u32()?;
        let time_index_bytes = fields.u32()?;
        let txn_index_bytes = Some(fields.u32()?).filter(|_| present & HAS_TXN_INDEX != 0);
        fields.u32()?;
        let stride = Stride {
            step: fields.u64()?,
            since_kept: fields.u64()?,
        };
        let least_timestamp = Some(Timestamp(fields.i64()?)).filter(|_| present & HAS_LEAST != 0);
        let greatest_timestamp = Some(Timestamp(fields.i64()?)).filter(|_| present & HAS_GREATEST != 0);
        let append_times = AppendTimes::resume(decode_samples(&mut fields, sample_count)?, stride)?;
        let bound = SegmentFlags::FIRST_APPEND_NOT_BEFORE;
        let append_times = match flags.contains(bound) {
            true => append_times.with_first(FirstAppend::NotBefore),
            false => append_times,
        };
        // The append times say it.
        let flags = SegmentFlags(flags.0 & !bound.0);
        let extensions = decode_extensions(&mut fields, extension_count)?;
        let known = HAS_TXN_INDEX | HAS_LEAST | HAS_GREATEST;
        let sound = base_offset >= Offset::ZERO && base_offset <= next_offset && present & !known == 0;
        (sound && fields.is_empty()).then_some(Self {
            base_offset,
            next_offset,
            log_bytes,
            offset_index_bytes,
            time_index_bytes,
            txn_index_bytes,
            records,
            least_timestamp,
            greatest_timestamp,
            append_times,
            flags,
            extensions,
        })
    }
}

fn decode_samples(fields: &mut Fields<'_>, count: u8) -> Option<Vec<AppendSample>> {
    let mut samples = Vec::with_capacity(usize::from(count).min(MAX_APPEND_SAMPLES));
    for _ in 0..count {
        samples.push(AppendSample {
            offset: Offset(fields.i64()?),
            time: Timestamp(fields.i64()?),
        });
    }
    Some(samples)
}

fn decode_extensions(fields: &mut Fields<'_>, count: u8) -> Option<Extensions> {
    let mut extensions = Extensions::default();
    for _ in 0..count {
        let tag = fields.u16()?;
        let len = fields.u16()?;
        let ascends = extensions.0.last().is_none_or(|last| last.0 < tag);
        let bytes = fields.bytes(usize::from(len)).filter(|_| ascends)?;
        extensions.set(tag, bytes).ok()?;
    }
    Some(extensions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_found_replaced_and_bounded() {
        let mut extensions = Extensions::default();
        extensions.set(7, b"seven").expect("room");
        extensions.set(2, b"two").expect("room");
        extensions.set(7, b"SEVEN").expect("room");
        assert_eq!(extensions.find(7), Some(&b"SEVEN"[..]));
        assert_eq!(extensions.find(2), Some(&b"two"[..]));
        assert_eq!(extensions.find(3), None);
        let rest = [0; Extensions::MAX_LEN - 4 - 5 - 4];
        assert_eq!(
            extensions
                .set(2, &[rest.as_slice(), b"!"].concat())
                .map_err(|full| full.len),
            Err(Extensions::MAX_LEN + 1)
        );
        assert_eq!(extensions.find(2), Some(&b"two"[..]));
        extensions.set(2, &rest).expect("exactly full");
    }

    #[test]
    fn no_more_extensions_than_their_count_can_tell() {
        let mut extensions = Extensions::default();
        for tag in 0..255 {
            extensions.set(tag, b"").expect("room");
        }
        assert!(extensions.set(255, b"").is_err());
        extensions.set(254, b"x").expect("replaced, not added");
    }

    #[test]
    fn flags_are_told_apart() {
        let sealed = SegmentFlags::SEALED;
        assert!(sealed.with(SegmentFlags::CLEANED).contains(SegmentFlags::CLEANED));
        assert!(!sealed.contains(SegmentFlags::CLEANED));
    }
}
