//! Holds by name: who keeps which range of a topic from every policy.
//!
//! A hold is written with the topic's entry in the metadata before its partitions learn of it. Afterwards no look of
//! retention is under way that did not know it: what is held from then on stays.
//!
//! What is not here: what a hold does (`storage`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::storage::Hold;
use crate::types::{Offset, PartitionId, Timestamp, TopicName};

use super::Error;
use super::admin::entry_of;
use super::core::Core;
use super::metadata::{self, Change, TopicEntry};
use super::topics::Topic;

/// Holds of one topic at most.
const HOLDS_MAX: usize = 1000;
/// Longest name of a hold, in bytes.
const NAME_MAX: usize = 200;

/// A named hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicHold {
    /// Its name, unique in the topic.
    pub name: String,
    /// Of which partition; absent means all.
    pub partition: Option<PartitionId>,
    /// What it holds.
    pub range: Hold,
}

impl TopicHold {
    /// Tells whether it is about `partition`.
    pub(super) fn is_of(&self, partition: PartitionId) -> bool {
        self.partition.is_none_or(|own| own == partition)
    }
}

/// A hold as the metadata stores it. Ranges are half-open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct HoldEntry {
    name: String,
    partition: Option<i32>,
    range: RangeEntry,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RangeEntry {
    Offsets(i64, i64),
    Times(i64, i64),
}

impl From<&TopicHold> for HoldEntry {
    fn from(hold: &TopicHold) -> Self {
        Self {
            name: hold.name.clone(),
            partition: hold.partition.map(|partition| partition.0),
            range: match &hold.range {
                Hold::Offsets(range) => RangeEntry::Offsets(range.start.0, range.end.0),
                Hold::Times(range) => RangeEntry::Times(range.start.0, range.end.0),
            },
        }
    }
}

impl From<&HoldEntry> for TopicHold {
    fn from(entry: &HoldEntry) -> Self {
        Self {
            name: entry.name.clone(),
            partition: entry.partition.map(PartitionId),
            range: match entry.range {
                RangeEntry::Offsets(from, to) => Hold::Offsets(Offset(from)..Offset(to)),
                RangeEntry::Times(from, to) => Hold::Times(Timestamp(from)..Timestamp(to)),
            },
        }
    }
}

impl Core {
    /// See [`super::Broker::add_hold`].
    pub(super) async fn add_hold(self: &Arc<Self>, name: TopicName, hold: TopicHold) -> Result<(), Error> {
        self.administer(move |core, admin| {
            let topic = core.topics.find_writable(&name)?;
            check(&topic, &hold)?;
            let mut holds = topic.config.holds.clone();
            match holds.iter().find(|known| known.name == hold.name) {
                Some(known) if *known == hold => return Ok(()),
                Some(_) => {
                    let reason = format!(
                        "topic {name} has another hold named {:?}; remove it first",
                        hold.name
                    );
                    return Err(Error::PolicyViolation {
                        topic: Some(name.clone()),
                        reason,
                    });
                }
                None => holds.push(hold),
            }
            core.change_holds(admin, &topic, holds)
        })
        .await
    }

    /// See [`super::Broker::remove_hold`].
    pub(super) async fn remove_hold(self: &Arc<Self>, name: TopicName, hold: String) -> Result<(), Error> {
        self.administer(move |core, admin| {
            let topic = core.topics.find_writable(&name)?;
            let mut holds = topic.config.holds.clone();
            if holds.extract_if(.., |known| known.name == hold).next().is_none() {
                return Err(Error::UnknownHold { topic: name, hold });
            }
            core.change_holds(admin, &topic, holds)
        })
        .await
    }

    fn change_holds(
        &self,
        admin: &mut super::admin::Admin,
        topic: &Topic,
        holds: Vec<TopicHold>,
    ) -> Result<(), Error> {
        let before = metadata::stored(&entry_of(topic));
        let mut config = (*topic.config).clone();
        config.holds = holds;
        let entry = TopicEntry::active(topic.id, topic.count(), &config);
        self.record(admin, Change::topic(&topic.name, Some(&entry)), Some(before))?;
        let topic = self.topics.put(topic.with_config(config));
        self.configure(&topic);
        Ok(())
    }
}

fn check(topic: &Topic, hold: &TopicHold) -> Result<(), Error> {
    let wrong = |reason: String| Err(Error::InvalidRequest { reason });
    if hold.name.is_empty() || hold.name.len() > NAME_MAX || hold.name.chars().any(char::is_control) {
        return wrong(format!(
            "the name of a hold has 1 to {NAME_MAX} bytes without control characters, not {:?}",
            hold.name
        ));
    }
    if topic.config.holds.len() >= HOLDS_MAX {
        let limit = u64::try_from(HOLDS_MAX).expect("small");
        return Err(Error::Overloaded {
            what: "holds of a topic",
            limit,
        });
    }
    if let Some(partition) = hold.partition {
        topic.partition(partition)?;
    }
    let is_empty = match &hold.range {
        Hold::Offsets(range) => range.is_empty(),
        Hold::Times(range) => range.is_empty(),
    };
    if is_empty {
        return wrong(format!(
            "hold {:?} holds nothing: it ends before it begins ({})",
            hold.name, hold.range
        ));
    }
    Ok(())
}

/// Returns the name of what holds `range` of a partition.
pub(super) fn name_of(topic: &Topic, partition: PartitionId, range: &Hold) -> Option<String> {
    let mut holds = topic.config.holds.iter();
    holds
        .find(|hold| hold.is_of(partition) && hold.range == *range)
        .map(|hold| hold.name.clone())
}
