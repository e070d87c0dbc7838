//! The catalog: which topics the bucket has, and with which settings. The ledger at `catalog`.
//!
//! ```text
//! body of a delta                           body of a snapshot
//!  edits u32, each: kind u8 and then         topics u32, topic each
//!   1 put      topic                         removed u32, each: topic id, 16 bytes; name; removed at i64
//!   2 removed  topic id, 16 bytes
//!   3 swept    topic id, 16 bytes
//!
//! topic: topic id, 16 bytes; name; partitions i32; settings u16, each: name, value
//! name, value: bytes u16, UTF-8
//! ```
//!
//! A topic that is removed stays named until its objects are: what lies below its key meanwhile is no orphan.
//!
//! Invariants
//! - A topic id is there once, as a topic or as removed; it never comes back. A name may, with another id.
//! - The number of partitions does not fall. Settings are kept as text, as they were given, whether we know them or not.
//! - An edit that does not fit changes nothing.
//!
//! What is not here: what settings mean, and the partitions' segments ([`super::manifest`]).

use std::collections::BTreeMap;

use super::ledger_entry::LedgerKind;
use super::state::{Contradiction, State};
use crate::storage::Fields;
use crate::types::{Timestamp, TopicId, TopicName};

const PUT: u8 = 1;
const REMOVED: u8 = 2;
const SWEPT: u8 = 3;
/// The greatest length of a setting's name or value in bytes.
pub(super) const MAX_SETTING_LEN: usize = u16::MAX as usize;

/// A topic of the bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchivedTopic {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// How many partitions it has; never negative.
    pub partitions: i32,
    /// Its own settings, by name.
    pub settings: BTreeMap<String, String>,
}

/// A change of the catalog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CatalogEdit {
    /// A topic is there, or has changed.
    Put(ArchivedTopic),
    /// It was removed; its objects are still there.
    Removed(TopicId),
    /// They are gone as well.
    Swept(TopicId),
}

/// Which topics the bucket has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Catalog {
    topics: BTreeMap<TopicId, ArchivedTopic>,
    removed: BTreeMap<TopicId, (TopicName, Timestamp)>,
}

impl Catalog {
    /// Returns the topics by id.
    pub fn topics(&self) -> &BTreeMap<TopicId, ArchivedTopic> {
        &self.topics
    }

    /// Returns the topics that were removed and whose objects are still there: name, and since when.
    pub fn removed(&self) -> &BTreeMap<TopicId, (TopicName, Timestamp)> {
        &self.removed
    }

    /// Returns a checksum over the topics that are there.
    pub fn topics_crc(&self) -> u32 {
        let mut bytes = Vec::new();
        for topic in self.topics.values() {
            encode_topic(topic, &mut bytes);
        }
        crc32fast::hash(&bytes)
    }

    fn put(&mut self, topic: ArchivedTopic) -> Result<(), Contradiction> {
        let mut others = self.topics.values().filter(|other| other.id != topic.id);
        let name_is_taken = others.any(|other| other.name == topic.name);
        let shrinks = self
            .topics
            .get(&topic.id)
            .is_some_and(|known| known.partitions > topic.partitions || known.name != topic.name);
        if name_is_taken || shrinks || topic.partitions < 0 || self.removed.contains_key(&topic.id) {
            return Err(Contradiction(format!(
                "topic {} of id {} does not follow what is known of it",
                topic.name, topic.id
            )));
        }
        self.topics.insert(topic.id, topic);
        Ok(())
    }
}

impl State for Catalog {
    type Edit = CatalogEdit;
    const KIND: LedgerKind = LedgerKind::Catalog;

    fn apply(&mut self, edit: CatalogEdit, at: Timestamp) -> Result<(), Contradiction> {
        match edit {
            CatalogEdit::Put(topic) => self.put(topic),
            CatalogEdit::Removed(id) => match self.topics.remove(&id) {
                Some(topic) => {
                    self.removed.insert(id, (topic.name, at));
                    Ok(())
                }
                None => Err(Contradiction(format!("there is no topic of id {id} to remove"))),
            },
            CatalogEdit::Swept(id) => match self.removed.remove(&id) {
                Some(_) => Ok(()),
                None => Err(Contradiction(format!("no topic of id {id} was removed"))),
            },
        }
    }

    fn encode_edits(&self, edits: &[CatalogEdit]) -> Vec<u8> {
        let mut into = Vec::new();
        put_count(edits.len(), &mut into);
        for edit in edits {
            let (kind, id) = match edit {
                CatalogEdit::Put(topic) => {
                    into.push(PUT);
                    encode_topic(topic, &mut into);
                    continue;
                }
                CatalogEdit::Removed(id) => (REMOVED, id),
                CatalogEdit::Swept(id) => (SWEPT, id),
            };
            into.push(kind);
            into.extend_from_slice(&id.0);
        }
        into
    }

    fn decode_edits(&self, body: &[u8]) -> Option<Vec<CatalogEdit>> {
        let mut fields = Fields(body);
        let count = fields.u32()?;
        let mut edits = Vec::new();
        for _ in 0..count {
            edits.push(match fields.u8()? {
                PUT => CatalogEdit::Put(decode_topic(&mut fields)?),
                REMOVED => CatalogEdit::Removed(TopicId(fields.array()?)),
                SWEPT => CatalogEdit::Swept(TopicId(fields.array()?)),
                _ => return None,
            });
        }
        fields.is_empty().then_some(edits)
    }

    fn encode_snapshot(&self) -> Vec<u8> {
        let mut into = Vec::new();
        put_count(self.topics.len(), &mut into);
        for topic in self.topics.values() {
            encode_topic(topic, &mut into);
        }
        put_count(self.removed.len(), &mut into);
        for (id, (name, at)) in &self.removed {
            into.extend_from_slice(&id.0);
            put_text(name.as_str(), &mut into);
            into.extend_from_slice(&at.0.to_be_bytes());
        }
        into
    }

    fn decode_snapshot(&self, body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        let mut catalog = Self::default();
        for _ in 0..fields.u32()? {
            let topic = decode_topic(&mut fields)?;
            // Names are checked by whoever wrote them: looking at all pairs here would take too long.
            if catalog.topics.insert(topic.id, topic).is_some() {
                return None;
            }
        }
        for _ in 0..fields.u32()? {
            let id = TopicId(fields.array()?);
            let name = TopicName::new(take_text(&mut fields)?).ok()?;
            let at = Timestamp(fields.i64()?);
            let is_topic = catalog.topics.contains_key(&id);
            if is_topic || catalog.removed.insert(id, (name, at)).is_some() {
                return None;
            }
        }
        fields.is_empty().then_some(catalog)
    }
}

fn put_count(count: usize, into: &mut Vec<u8>) {
    let count = u32::try_from(count).expect("what fits an object of 256 MiB fits 32 bits");
    into.extend_from_slice(&count.to_be_bytes());
}

/// Writes text; what lies beyond [`MAX_SETTING_LEN`] is cut, and no setting is that long.
fn put_text(text: &str, into: &mut Vec<u8>) {
    let text = &text.as_bytes()[..text.floor_char_boundary(MAX_SETTING_LEN)];
    let len = u16::try_from(text.len()).expect("cut to fit");
    into.extend_from_slice(&len.to_be_bytes());
    into.extend_from_slice(text);
}

fn take_text<'a>(fields: &mut Fields<'a>) -> Option<&'a str> {
    let len = usize::from(fields.u16()?);
    std::str::from_utf8(fields.bytes(len)?).ok()
}

fn encode_topic(topic: &ArchivedTopic, into: &mut Vec<u8>) {
    into.extend_from_slice(&topic.id.0);
    put_text(topic.name.as_str(), into);
    into.extend_from_slice(&topic.partitions.to_be_bytes());
    let settings = u16::try_from(topic.settings.len()).expect("a topic has a few dozen settings");
    into.extend_from_slice(&settings.to_be_bytes());
    for (name, value) in &topic.settings {
        put_text(name, into);
        put_text(value, into);
    }
}

fn decode_topic(fields: &mut Fields<'_>) -> Option<ArchivedTopic> {
    let id = TopicId(fields.array()?);
    let name = TopicName::new(take_text(fields)?).ok()?;
    let partitions = fields.i32()?;
    let mut settings = BTreeMap::new();
    for _ in 0..fields.u16()? {
        let name = take_text(fields)?.to_owned();
        settings.insert(name, take_text(fields)?.to_owned());
    }
    (partitions >= 0).then_some(ArchivedTopic {
        id,
        name,
        partitions,
        settings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topic(id: u8, name: &str, partitions: i32) -> ArchivedTopic {
        ArchivedTopic {
            id: TopicId([id; 16]),
            name: TopicName::new(name).expect("a name"),
            partitions,
            settings: BTreeMap::from([("retention.ms".to_owned(), "-1".to_owned())]),
        }
    }

    /// Applies an edit, by way of its bytes.
    fn apply(catalog: &mut Catalog, edit: CatalogEdit) -> Result<(), Contradiction> {
        let body = catalog.encode_edits(&[edit]);
        let mut edits = catalog.decode_edits(&body).expect("just written");
        catalog.apply(edits.remove(0), Timestamp(5))
    }

    #[test]
    fn a_removed_topic_is_known_until_swept_and_its_name_is_free() {
        let mut catalog = Catalog::default();
        apply(&mut catalog, CatalogEdit::Put(topic(1, "a", 2))).expect("new");
        apply(&mut catalog, CatalogEdit::Put(topic(1, "a", 3))).expect("grown");
        apply(&mut catalog, CatalogEdit::Put(topic(1, "a", 2))).expect_err("it shrinks");
        apply(&mut catalog, CatalogEdit::Put(topic(2, "a", 1))).expect_err("the name is taken");
        apply(&mut catalog, CatalogEdit::Removed(TopicId([1; 16]))).expect("there");
        apply(&mut catalog, CatalogEdit::Put(topic(1, "a", 3))).expect_err("removed for good");
        apply(&mut catalog, CatalogEdit::Put(topic(2, "a", 1))).expect("the name is free");
        let read = catalog.decode_snapshot(&catalog.encode_snapshot());
        assert_eq!(read.as_ref(), Some(&catalog));
        assert_eq!(catalog.removed().len(), 1);
        apply(&mut catalog, CatalogEdit::Swept(TopicId([1; 16]))).expect("it was removed");
        apply(&mut catalog, CatalogEdit::Swept(TopicId([1; 16]))).expect_err("swept already");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let catalog = Catalog::default();
            let _ = catalog.decode_edits(&bytes);
            let _ = catalog.decode_snapshot(&bytes);
        }
    }
}
