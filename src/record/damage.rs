//! What can be wrong with the bytes of a batch, and of a record in it.
//!
//! The texts name the batch only as "record batch": the layer that knows path and position adds them.

use super::codec::CodecError;

/// Why bytes are not a sound record batch.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    /// Fewer bytes than a header has.
    #[error("record batch of {len} bytes ends inside its header")]
    Short {
        /// Bytes at hand.
        len: usize,
    },
    /// The length field leaves no room for a header, or exceeds the format.
    #[error("record batch has a length field of {batch_length}, allowed are 49 to 2147483635")]
    Length {
        /// The field as it stands.
        batch_length: i32,
    },
    /// The batch goes on after the bytes at hand.
    #[error("record batch of {size_bytes} bytes is cut off after {len}")]
    CutOff {
        /// Bytes at hand.
        len: usize,
        /// Bytes the batch should have.
        size_bytes: u32,
    },
    /// More bytes than the one batch.
    #[error("record batch of {size_bytes} bytes lies in {len}, with more after it")]
    Trailing {
        /// Bytes at hand.
        len: usize,
        /// Bytes the batch has.
        size_bytes: u32,
    },
    /// Not format version 2.
    #[error("record batch has magic {magic}, only 2 is read")]
    Magic {
        /// The field as it stands.
        magic: i8,
    },
    /// The content does not match its checksum.
    #[error("record batch has crc {stored:#010x}, expected {computed:#010x}")]
    Crc {
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// A codec nobody knows.
    #[error("record batch has codec {bits}, known are 0 to 4")]
    Codec {
        /// The three bits of the attributes.
        bits: u16,
    },
    /// A base offset below 0, or so great that the last offset does not exist.
    #[error("record batch has base offset {base_offset} and last offset delta {last_offset_delta}")]
    Offsets {
        /// The field as it stands.
        base_offset: i64,
        /// The field as it stands.
        last_offset_delta: i32,
    },
    /// A negative number of records.
    #[error("record batch has a record count of {count}")]
    RecordCount {
        /// The field as it stands.
        count: i32,
    },
    /// The payload does not decompress, or to more than allowed.
    #[error("record batch does not decompress")]
    Payload {
        /// What the codec says.
        #[from]
        source: CodecError,
    },
    /// A record is malformed.
    #[error("record {index} of the batch is malformed")]
    Record {
        /// Its number in the batch, from 0.
        index: u32,
        /// What is wrong with it.
        source: RecordFault,
    },
    /// The payload ends before the last record.
    #[error("record batch ends after {present} of {count} records")]
    RecordsMissing {
        /// Records read.
        present: u32,
        /// Records promised by the header.
        count: u32,
    },
    /// The payload goes on after the last record.
    #[error("record batch has {len} bytes after its last record")]
    RecordsRemain {
        /// Bytes too many.
        len: usize,
    },
    /// A control batch whose record does not say what it is.
    #[error("control batch has a marker that cannot be read")]
    Marker,
    /// A batch so far into the bytes that a 32-bit position cannot name it.
    #[error("record batch lies at position {position}, beyond what a segment can hold")]
    Position {
        /// Where it lies.
        position: u64,
    },
}

/// Why bytes are not a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordFault {
    /// A variable-length number is cut off or too long.
    #[error("its {field} is not a number")]
    Number {
        /// Which field.
        field: &'static str,
    },
    /// A length is below what is allowed or beyond what is left.
    #[error("its {field} is {length}, {remaining} bytes are left")]
    Length {
        /// Which field.
        field: &'static str,
        /// The length as it stands.
        length: i32,
        /// Bytes left for it.
        remaining: usize,
    },
    /// The fields end before the record does.
    #[error("it has {len} bytes after its last field")]
    Unconsumed {
        /// Bytes too many.
        len: usize,
    },
    /// The offset does not grow, or lies past the batch's last one.
    #[error("its offset delta is {delta}, allowed are {least} to {greatest}")]
    OffsetDelta {
        /// The delta as it stands.
        delta: i32,
        /// The least allowed here.
        least: i64,
        /// The batch's last offset delta.
        greatest: i32,
    },
}
