//! One record inside a batch's payload.
//!
//! ```text
//!  length varint | attributes i8 (unused) | timestamp delta varlong | offset delta varint
//!  key length varint | key | value length varint | value
//!  header count varint | (key length varint | key | value length varint | value) ...
//! ```
//!
//! `length` counts the bytes after itself and must be exactly used up. A length of -1 is a missing key or value; a header's
//! key is never missing. A record without a value is a tombstone, one with an empty value is not.
//!
//! Parsing finds ranges and allocates nothing. Building the [`Record`] of those ranges shares the payload: no byte is
//! copied, and its list of headers takes at most 32 bytes of memory per byte of payload.

use std::ops::Range;
use std::str::Utf8Error;

use bytes::Bytes;

use super::damage::RecordFault;
use super::varint;
use crate::types::{Offset, Timestamp};

/// One record, as a reader sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its offset in the partition.
    pub offset: Offset,
    /// Its time; the batch's append time where the server gives the time.
    pub timestamp: Option<Timestamp>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; a record without one is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers, in order; a key may occur more than once.
    pub headers: Vec<Header>,
}

/// A header of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Its key: UTF-8 by convention, which nobody checks on the way.
    pub key: Bytes,
    /// Its value.
    pub value: Option<Bytes>,
}

impl Header {
    /// Returns the key as text.
    ///
    /// # Errors
    /// When the writer put something other than UTF-8 there.
    pub fn key_text(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.key)
    }
}

/// A record as ranges of the payload it was found in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RawRecord {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
    /// Everything after the offset delta: key, value and headers with their lengths.
    pub(super) fields: Range<usize>,
    pub(super) key: Option<Range<usize>>,
    pub(super) value: Option<Range<usize>>,
    /// From the header count to the end of the record.
    pub(super) headers: Range<usize>,
}

impl RawRecord {
    /// Reads the record at `start` of `payload` and checks all of it; the record ends at `headers.end`.
    #[inline]
    pub(super) fn parse(payload: &[u8], start: usize) -> Result<Self, RecordFault> {
        let mut at = start;
        let length = number(payload, &mut at, "length")?;
        let end = end_of_field(payload.len(), at, length, "length")?;
        // Every field must lie inside the record: from here on nothing beyond it can be seen.
        let record = &payload[..end];
        if at == end {
            return Err(RecordFault::Number { field: "attributes" });
        }
        at += 1;
        let timestamp_delta = varint::read_i64(record, &mut at).ok_or(RecordFault::Number {
            field: "timestamp delta",
        })?;
        let offset_delta = number(record, &mut at, "offset delta")?;
        let fields = at..end;
        let key = optional_field(record, &mut at, "key length")?;
        let value = optional_field(record, &mut at, "value length")?;
        let headers = at..end;
        skip_headers(record, at)?;
        Ok(Self {
            timestamp_delta,
            offset_delta,
            fields,
            key,
            value,
            headers,
        })
    }

    /// Returns the headers of a record that was parsed from `payload`.
    pub(super) fn headers(&self, payload: &Bytes) -> Vec<Header> {
        const CHECKED: &str = "the headers were checked when the record was parsed";
        let mut at = self.headers.start;
        let record = &payload[..self.headers.end];
        let count = number(record, &mut at, "header count").expect(CHECKED);
        let mut headers = Vec::with_capacity(usize::try_from(count).expect(CHECKED));
        for _ in 0..count {
            let key = optional_field(record, &mut at, "header key length").expect(CHECKED);
            let value = optional_field(record, &mut at, "header value length").expect(CHECKED);
            headers.push(Header {
                key: payload.slice(key.expect(CHECKED)),
                value: value.map(|range| payload.slice(range)),
            });
        }
        headers
    }
}

#[inline]
fn skip_headers(record: &[u8], mut at: usize) -> Result<(), RecordFault> {
    let count = number(record, &mut at, "header count")?;
    let remaining = record.len() - at;
    // A header has two bytes at least: its two lengths.
    if usize::try_from(count).is_ok_and(|count| count <= remaining / 2) {
        for _ in 0..count {
            let length_at = at;
            if optional_field(record, &mut at, "header key length")?.is_none() {
                return Err(RecordFault::Length {
                    field: "header key length",
                    length: -1,
                    remaining: record.len() - length_at - 1,
                });
            }
            optional_field(record, &mut at, "header value length")?;
        }
    } else {
        return Err(RecordFault::Length {
            field: "header count",
            length: count,
            remaining,
        });
    }
    if at == record.len() {
        Ok(())
    } else {
        Err(RecordFault::Unconsumed {
            len: record.len() - at,
        })
    }
}

#[inline]
fn optional_field(
    record: &[u8],
    at: &mut usize,
    field: &'static str,
) -> Result<Option<Range<usize>>, RecordFault> {
    let length = number(record, at, field)?;
    if length == -1 {
        return Ok(None);
    }
    let start = *at;
    *at = end_of_field(record.len(), start, length, field)?;
    Ok(Some(start..*at))
}

#[inline]
fn end_of_field(limit: usize, start: usize, length: i32, field: &'static str) -> Result<usize, RecordFault> {
    let remaining = limit - start;
    match usize::try_from(length) {
        Ok(len) if len <= remaining => Ok(start + len),
        _ => Err(RecordFault::Length {
            field,
            length,
            remaining,
        }),
    }
}

#[inline]
fn number(record: &[u8], at: &mut usize, field: &'static str) -> Result<i32, RecordFault> {
    varint::read_i32(record, at).ok_or(RecordFault::Number { field })
}
