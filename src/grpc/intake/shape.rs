//! Shapes of requests: which of a message's fields become values of their own in memory, however short they are on the wire.
//!
//! Taken from the descriptors that the build made of `proto/`, so that a new field is counted from the day it is there.
//! Counting reads the wire as a decoder does and keeps nothing. Where the bytes are no protobuf it stops: a decoder fails there
//! too, and has made nothing that was not counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Buf;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use crate::proto::FILE_DESCRIPTOR_SET;

/// Messages lie so deep at most; the descriptors are our own, and a test reads them all.
const MAX_DEPTH: usize = 8;

/// How many requests a client sends in one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sends {
    /// One.
    One,
    /// A stream of them.
    Many,
}

/// What counting found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Counted {
    /// At most so many parts as are allowed.
    Within,
    /// More.
    TooMany,
}

/// Requests by the path of their method.
#[derive(Debug)]
pub(super) struct Shapes(HashMap<String, (Arc<Shape>, Sends)>);

/// The fields of a message that are counted, by number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Shape(BTreeMap<u32, Part>);

/// What a counted field holds.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Message(Shape),
    /// A text or bytes.
    Value,
    /// Numbers, one by one or packed.
    Numbers,
}

impl Shapes {
    /// Returns the shapes of all requests of our services.
    pub(super) fn of_services() -> Self {
        let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET)
            .expect("the build made the descriptors by encoding them")
            .file;
        let mut messages = HashMap::new();
        for file in &files {
            for message in &file.message_type {
                register(&mut messages, &format!(".{}", file.package()), message);
            }
        }
        let mut methods = HashMap::new();
        for file in &files {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let shape = Shape::of(&messages, method.input_type(), 0);
                    let sends = match method.client_streaming() {
                        true => Sends::Many,
                        false => Sends::One,
                    };
                    methods.insert(path, (Arc::new(shape), sends));
                }
            }
        }
        Self(methods)
    }

    /// Returns what the method at `path` is sent.
    pub(super) fn find(&self, path: &str) -> Option<(Arc<Shape>, Sends)> {
        self.0.get(path).cloned()
    }
}

/// Notes a message and those declared inside it, by full name.
fn register<'a>(
    messages: &mut HashMap<String, &'a DescriptorProto>,
    within: &str,
    message: &'a DescriptorProto,
) {
    let name = format!("{within}.{}", message.name());
    for nested in &message.nested_type {
        register(messages, &name, nested);
    }
    messages.insert(name, message);
}

impl Shape {
    fn of(messages: &HashMap<String, &DescriptorProto>, name: &str, depth: usize) -> Self {
        assert!(depth < MAX_DEPTH, "{name} lies too deep to be counted");
        let Some(message) = messages.get(name) else {
            return Self::default();
        };
        let part = |field: &FieldDescriptorProto| {
            let part = match (field.r#type(), field.label()) {
                (Type::Message | Type::Group, _) => {
                    Part::Message(Self::of(messages, field.type_name(), depth + 1))
                }
                (_, Label::Optional | Label::Required) => return None,
                (Type::String | Type::Bytes, Label::Repeated) => Part::Value,
                (_, Label::Repeated) => Part::Numbers,
            };
            Some((u32::try_from(field.number()).ok()?, part))
        };
        Self(message.field.iter().filter_map(part).collect())
    }

    /// Counts the parts of an encoded message, up to `most`.
    pub(super) fn count(&self, mut message: impl Buf, most: usize) -> Counted {
        let mut left = most;
        let len = message.remaining();
        match self.walk(&mut message, len, &mut left) {
            Err(Stop::TooMany) => Counted::TooMany,
            Ok(()) | Err(Stop::NoProtobuf) => Counted::Within,
        }
    }

    fn walk<B: Buf>(&self, buf: &mut B, len: usize, left: &mut usize) -> Result<(), Stop> {
        let end = buf.remaining().checked_sub(len).ok_or(Stop::NoProtobuf)?;
        while buf.remaining() > end {
            let (number, wire) = decode_key(buf).map_err(|_| Stop::NoProtobuf)?;
            let part = self.0.get(&number);
            match wire {
                WireType::LengthDelimited => {
                    let len = usize::try_from(varint(buf)?).map_err(|_| Stop::NoProtobuf)?;
                    if buf.remaining().saturating_sub(end) < len {
                        return Err(Stop::NoProtobuf);
                    }
                    match part {
                        Some(Part::Message(shape)) => {
                            spend(left, 1)?;
                            shape.walk(buf, len, left)?;
                        }
                        Some(Part::Value) => {
                            spend(left, 1)?;
                            buf.advance(len);
                        }
                        Some(Part::Numbers) => packed(buf, len, left)?,
                        None => buf.advance(len),
                    }
                }
                WireType::Varint => {
                    varint(buf)?;
                    spend(left, usize::from(part.is_some()))?;
                }
                WireType::SixtyFourBit => skip(buf, 8)?,
                WireType::ThirtyTwoBit => skip(buf, 4)?,
                // What stands in a group is skipped by a decoder; counted here, it is at worst counted for nothing.
                WireType::StartGroup | WireType::EndGroup => {}
            }
        }
        Ok(())
    }
}

/// Why counting ended early.
enum Stop {
    TooMany,
    NoProtobuf,
}

fn spend(left: &mut usize, parts: usize) -> Result<(), Stop> {
    *left = left.checked_sub(parts).ok_or(Stop::TooMany)?;
    Ok(())
}

fn varint<B: Buf>(buf: &mut B) -> Result<u64, Stop> {
    decode_varint(buf).map_err(|_| Stop::NoProtobuf)
}

fn skip<B: Buf>(buf: &mut B, len: usize) -> Result<(), Stop> {
    if buf.remaining() < len {
        return Err(Stop::NoProtobuf);
    }
    buf.advance(len);
    Ok(())
}

/// Counts packed numbers; each ends in a byte without the highest bit.
fn packed<B: Buf>(buf: &mut B, mut len: usize, left: &mut usize) -> Result<(), Stop> {
    while len > 0 {
        let chunk = buf.chunk();
        let here = &chunk[..chunk.len().min(len)];
        let ends = here.iter().filter(|byte| **byte < 0x80).count();
        spend(left, ends)?;
        let seen = here.len();
        len -= seen;
        buf.advance(seen);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1;
    use proptest::prelude::*;

    fn shape(path: &str) -> Arc<Shape> {
        Shapes::of_services().find(path).expect("a method of ours").0
    }

    /// The least limit that the message passes.
    fn parts(path: &str, message: &impl Message) -> usize {
        let (shape, bytes) = (shape(path), message.encode_to_vec());
        (0..)
            .find(|most| shape.count(&bytes[..], *most) == Counted::Within)
            .expect("a message has an end")
    }

    fn record(headers: usize) -> v1::Record {
        v1::Record {
            headers: vec![v1::Header::default(); headers],
            ..Default::default()
        }
    }

    #[test]
    fn every_request_that_can_be_long_is_counted_by_its_parts() {
        let produce = v1::ProduceRequest {
            records: vec![record(0), record(2), record(0)],
            ..Default::default()
        };
        assert_eq!(parts("/siltstone.v1.LogService/Produce", &produce), 5);
        let streamed = v1::ProduceStreamRequest {
            id: 1,
            request: Some(produce),
        };
        assert_eq!(parts("/siltstone.v1.LogService/ProduceStream", &streamed), 6);
        let fetch = v1::FetchRequest {
            partitions: vec![v1::FetchPartition::default(); 7],
            ..Default::default()
        };
        assert_eq!(parts("/siltstone.v1.LogService/Fetch", &fetch), 7);
        let read = v1::ReadRequest {
            partitions: vec![v1::ReadPartition::default(); 3],
            resume: Some(v1::ResumeToken {
                positions: vec![v1::PartitionOffset::default(); 2],
            }),
            ..Default::default()
        };
        assert_eq!(parts("/siltstone.v1.LogService/Read", &read), 6);
        let offsets = v1::ListOffsetsRequest {
            partitions: vec![0, 1, 300, 70_000],
            ..Default::default()
        };
        assert_eq!(parts("/siltstone.v1.LogService/ListOffsets", &offsets), 4);
        let create = v1::CreateTopicRequest {
            config: [("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())].into(),
            ..Default::default()
        };
        assert_eq!(parts("/siltstone.v1.AdminService/CreateTopic", &create), 2);
        let alter = v1::AlterTopicRequest {
            unset: vec![String::new(); 9],
            ..Default::default()
        };
        assert_eq!(parts("/siltstone.v1.AdminService/AlterTopic", &alter), 9);
    }

    #[test]
    fn parts_behind_a_group_or_an_unknown_field_are_counted_too() {
        let records = v1::ProduceRequest {
            records: vec![record(0); 4],
            ..Default::default()
        };
        let group = [0x7b, 0x7c];
        let unknown = [0xfa, 0x01, 0x02, 0xff, 0xff];
        let bytes = [&group[..], &unknown, &records.encode_to_vec()].concat();
        assert!(v1::ProduceRequest::decode(&bytes[..]).is_ok_and(|decoded| decoded.records.len() == 4));
        let shape = shape("/siltstone.v1.LogService/Produce");
        assert_eq!(shape.count(&bytes[..], 3), Counted::TooMany);
    }

    proptest! {
        #[test]
        fn a_decoder_never_makes_more_than_was_counted(bytes in prop::collection::vec(any::<u8>(), 0..300), most in 0..20_usize) {
            let shape = shape("/siltstone.v1.LogService/Produce");
            let counted = shape.count(&bytes[..], most);
            if let Ok(request) = v1::ProduceRequest::decode(&bytes[..]) && counted == Counted::Within {
                let made: usize = request.records.iter().map(|record| 1 + record.headers.len()).sum();
                prop_assert!(made <= most);
            }
        }
    }
}
