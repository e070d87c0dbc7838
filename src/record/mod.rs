//! Record batches: pure bytes in, values out. (Stand-in until the real layer is merged.)
#![allow(missing_docs)]
use bytes::Bytes;
use crate::types::*;
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Codec { #[default] None, Gzip, Snappy, Lz4, Zstd }
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header { pub key: Bytes, pub value: Option<Bytes> }
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerStamp { pub id: ProducerId, pub epoch: ProducerEpoch, pub base_sequence: Option<Sequence> }
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record { pub offset: Offset, pub timestamp: Option<Timestamp>, pub key: Option<Bytes>, pub value: Option<Bytes>, pub headers: Vec<Header> }
#[derive(Clone, Debug)]
pub struct Accepted {}
