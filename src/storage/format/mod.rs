//! The formats of the data directory: bytes in, values out. Each file owns one and has its picture.
//!
//! Invariants
//! - Nothing here touches a file, but for `checkpoint`, which knows how one is replaced whole.
//! - Over any bytes no panic, and no more memory than a small multiple of the input's length.
//! - What is damaged is an error that says where; nothing is repaired here.
//!
//! What is not here: when a file is read or written (`load`, `close`, `journal`), and what its values mean (`epochs`,
//! `producers`).

pub(super) mod append_times;
pub(super) mod checkpoint;
pub(super) mod fields;
pub(super) mod manifest;
pub(super) mod meta_properties;
pub(super) mod offset_index;
pub(super) mod partition_metadata;
pub(super) mod producer_snapshot;
pub(super) mod segment_summary;
pub(super) mod time_index;
pub(super) mod txn_index;
pub(super) mod uuid_text;
