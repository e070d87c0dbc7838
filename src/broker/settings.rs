//! Topic settings: text under Kafka's names in, a checked [`TopicConfig`] out.
//!
//! A value comes from the topic itself, else from the server's configuration (under the topic-level name, else under the
//! first broker-level synonym that is set), else from the table. Everything is checked against the table's range on its
//! way in: what a topic stores has been valid once, and is checked again when it is read back.
//!
//! What is not here: the table (`setting_table`), and what the settings do.

use std::collections::BTreeMap;

use crate::record::{Codec, KeyRule, TimestampType};
use crate::storage::{CleanupPolicy, Compaction, Durability, LogConfig, Retention};
use crate::types::PartitionId;

use super::Error;
use super::holds::TopicHold;
use super::requests::{ConfigChange, ConfigEntry, ConfigSource};
use super::setting_table::{self as table, Kind, SETTINGS, Setting};

/// A producer that was idle for so long is forgotten, in milliseconds: Kafka's `producer.id.expiration.ms`.
const PRODUCER_ID_EXPIRATION_MS: i64 = 86_400_000;

/// A local retention that is that of the whole: Kafka's -2.
const AS_THE_WHOLE: i64 = -2;

/// What a request takes at most beside its one batch, in bytes: the topic's name, numbers, tags.
const REQUEST_ROOM: usize = 1024;

/// Levels for the codecs that have one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompressionLevels {
    /// `compression.gzip.level`.
    pub gzip: i32,
    /// `compression.zstd.level`.
    pub zstd: i32,
}

/// The settings of one topic, checked, with the server's defaults in them. Times in milliseconds; `None` is "no limit"
/// where Kafka writes -1 or the greatest number.
#[derive(Clone, PartialEq, Debug)]
pub struct TopicConfig {
    /// What the topic itself sets, as text.
    pub overrides: BTreeMap<String, String>,
    /// What no policy takes anything from; not a setting, but it goes where they go.
    pub holds: Vec<TopicHold>,
    /// `cleanup.policy`.
    pub cleanup: CleanupPolicy,
    /// `retention.ms`.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`.
    pub retention_bytes: Option<u64>,
    /// `segment.bytes`.
    pub segment_bytes: u32,
    /// `segment.ms`, for a compacted topic at most `max.compaction.lag.ms`.
    pub segment_ms: i64,
    /// `segment.jitter.ms`.
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`.
    pub segment_index_bytes: u32,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `max.message.bytes`.
    pub max_message_bytes: u32,
    /// `compression.type`; `None` keeps the producer's.
    pub codec: Option<Codec>,
    /// `compression.*.level`.
    pub levels: CompressionLevels,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// `min.cleanable.dirty.ratio`.
    pub min_cleanable_dirty_ratio: f64,
    /// `min.compaction.lag.ms`.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`.
    pub max_compaction_lag_ms: i64,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// `flush.messages`.
    pub flush_messages: i64,
    /// `flush.ms`.
    pub flush_ms: i64,
    /// `durability`.
    pub durability: Durability,
    /// `remote.storage.enable`; `None` leaves it to the server.
    pub archived: Option<bool>,
    /// `local.retention.*`, of a topic that is archived.
    pub local_retention: Retention,
    /// `tier.max.lag.ms`.
    pub tier_max_lag_ms: i64,
}

impl TopicConfig {
    /// Returns what the cleaner goes by.
    pub fn compaction(&self) -> Compaction {
        Compaction {
            min_dirty_ratio: self.min_cleanable_dirty_ratio,
            min_lag_ms: self.min_compaction_lag_ms,
            max_lag_ms: self.max_compaction_lag_ms,
            delete_retention_ms: self.delete_retention_ms,
        }
    }

    /// Returns what storage is told of `partition` where nothing is archived; `max_decompressed_bytes` is the server's bound.
    pub fn log_config(&self, max_decompressed_bytes: u32, partition: PartitionId) -> LogConfig {
        LogConfig {
            segment_bytes: self.segment_bytes,
            segment_ms: self.segment_ms,
            segment_jitter_ms: self.segment_jitter_ms,
            segment_index_bytes: self.segment_index_bytes,
            index_interval_bytes: self.index_interval_bytes,
            durability: self.durability,
            flush_messages: self.flush_messages,
            flush_ms: self.flush_ms,
            producer_id_expiration_ms: PRODUCER_ID_EXPIRATION_MS,
            max_decompressed_bytes,
            cleanup: self.cleanup,
            retention: Retention {
                ms: self.retention_ms,
                bytes: self.retention_bytes,
            },
            compaction: self.compaction(),
            holds: self
                .holds
                .iter()
                .filter(|hold| hold.is_of(partition))
                .map(|hold| hold.range.clone())
                .collect(),
            archived: None,
        }
    }

    /// Whether a record needs a key.
    pub fn key_rule(&self) -> KeyRule {
        if self.cleanup.compacts() {
            KeyRule::Required
        } else {
            KeyRule::Optional
        }
    }

    /// The level for `codec`; `None` where it has none, or where its own default is meant.
    pub fn level(&self, codec: Codec) -> Option<i32> {
        match codec {
            Codec::None | Codec::Snappy | Codec::Lz4 => None,
            Codec::Gzip => (self.levels.gzip >= 0).then_some(self.levels.gzip),
            Codec::Zstd => Some(self.levels.zstd),
        }
    }
}

/// The settings of this server: the table with the server's own defaults in between.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// By topic-level name, in the setting's own unit.
    server: BTreeMap<&'static str, String>,
    /// By topic-level name, under which name it was given.
    given_as: BTreeMap<&'static str, &'static str>,
}

impl Settings {
    /// Reads the server's defaults, under topic-level or broker-level names.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the setting and its allowed range, or the nearest known name.
    pub fn new(topic_defaults: &BTreeMap<String, String>) -> Result<Self, Error> {
        for name in topic_defaults.keys() {
            if !server_names().any(|known| known == name) {
                return Err(unknown(name, server_names()));
            }
        }
        let (mut server, mut given_as) = (BTreeMap::new(), BTreeMap::new());
        for setting in SETTINGS {
            let own = std::iter::once((setting.name, 1));
            let broad = setting
                .synonyms
                .iter()
                .map(|synonym| (synonym.name, synonym.factor));
            for (name, factor) in own.chain(broad) {
                let Some(text) = topic_defaults.get(name) else {
                    continue;
                };
                let text = in_own_unit(name, text, factor)?;
                read(setting, name, &text)?;
                server.entry(setting.name).or_insert(text);
                given_as.entry(setting.name).or_insert(name);
            }
        }
        let settings = Self { server, given_as };
        settings.resolve(&BTreeMap::new())?;
        Ok(settings)
    }

    /// Checks a topic's own settings and joins them with the defaults.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the setting and its allowed range, or the nearest known name.
    pub fn resolve(&self, overrides: &BTreeMap<String, String>) -> Result<TopicConfig, Error> {
        for name in overrides.keys() {
            if find(name).is_none() {
                return Err(unknown(name, SETTINGS.iter().map(|setting| setting.name)));
            }
        }
        let values = Values {
            overrides,
            server: &self.server,
        };
        let config = values.topic_config()?;
        if config.levels.gzip == 0 {
            let name = table::COMPRESSION_GZIP_LEVEL;
            return Err(wrong(name, format!("{name} must be -1 or 1 to 9, got 0")));
        }
        check_local_retention(&config)?;
        if config.min_compaction_lag_ms > config.max_compaction_lag_ms {
            let (least, greatest) = (table::MIN_COMPACTION_LAG_MS, table::MAX_COMPACTION_LAG_MS);
            let reason = format!(
                "{least} = {} must not exceed {greatest} = {}",
                config.min_compaction_lag_ms, config.max_compaction_lag_ms
            );
            return Err(wrong(least, reason));
        }
        Ok(config)
    }

    /// Checks that the largest batch which `given` values admit fits into a request of `max_request_bytes`: for what a client
    /// asks for, not for what a topic has had since the server took larger ones.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the setting and its allowed range.
    pub fn check_requests(
        &self,
        given: &BTreeMap<String, String>,
        max_request_bytes: usize,
    ) -> Result<(), Error> {
        let name = table::MAX_MESSAGE_BYTES;
        let largest = largest_batch(max_request_bytes);
        let wanted = given.get(name).and_then(|text| text.trim().parse::<usize>().ok());
        match wanted {
            Some(wanted) if wanted > largest => Err(wrong(
                name,
                format!(
                    "{name} must be 0 to {largest} on this server, which takes requests of {max_request_bytes} bytes, got {wanted}"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Makes these the settings of a server that takes requests of `max_request_bytes`: where nobody says how large a batch
    /// may be, it is no larger than fits.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when the server's own default does not fit.
    pub fn within(mut self, max_request_bytes: usize) -> Result<Self, Error> {
        let name = table::MAX_MESSAGE_BYTES;
        let largest = largest_batch(max_request_bytes);
        match self
            .server
            .get(name)
            .and_then(|text| text.trim().parse::<usize>().ok())
        {
            Some(own) if own > largest => {
                let name = self.given_as.get(name).copied().unwrap_or(name);
                let reason = format!(
                    "topic_defaults.{name} = {own} does not fit grpc.max_request_bytes = {max_request_bytes}: lower it to \
                     {largest}, or raise that to {}",
                    own.saturating_add(REQUEST_ROOM)
                );
                return Err(wrong(name, reason));
            }
            Some(_) => {}
            None => {
                let default = find(name).and_then(|setting| setting.default.parse().ok());
                if default.is_some_and(|default: usize| default > largest) {
                    self.server.insert(name, largest.to_string());
                }
            }
        }
        Ok(self)
    }

    /// Lists every setting as a topic with these `overrides` has it, ascending by name.
    pub fn entries(&self, overrides: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
        let entry = |setting: &Setting| {
            let (value, source) = match (overrides.get(setting.name), self.server.get(setting.name)) {
                (Some(own), _) => (own.as_str(), ConfigSource::Topic),
                (None, Some(server)) => (server.as_str(), ConfigSource::Server),
                (None, None) => (setting.default, ConfigSource::Default),
            };
            ConfigEntry {
                name: setting.name,
                value: value.to_owned(),
                source,
                doc: setting.doc,
            }
        };
        SETTINGS.iter().map(entry).collect()
    }
}

/// A compacted topic keeps all of its data local; and what is to be kept longer here than at all says so by mistake.
fn check_local_retention(config: &TopicConfig) -> Result<(), Error> {
    let own = |name: &str| {
        let text = config.overrides.get(name)?;
        text.trim().parse::<i64>().ok().filter(|value| *value >= 0)
    };
    let total_bytes = config.retention_bytes.and_then(|bytes| i64::try_from(bytes).ok());
    let pairs = [
        (
            table::LOCAL_RETENTION_MS,
            table::RETENTION_MS,
            config.retention_ms,
        ),
        (table::LOCAL_RETENTION_BYTES, table::RETENTION_BYTES, total_bytes),
    ];
    for (name, total_name, total) in pairs {
        let Some(local) = own(name) else { continue };
        if config.cleanup.compacts() {
            let reason = format!(
                "{name} does not go with {} = compact: a compacted topic keeps all of its data on the local disk, because \
                 compaction looks at all of it",
                table::CLEANUP_POLICY
            );
            return Err(wrong(name, reason));
        }
        if let Some(total) = total.filter(|total| local > *total && config.cleanup.deletes()) {
            let reason = format!("{name} = {local} must not exceed {total_name} = {total}");
            return Err(wrong(name, reason));
        }
    }
    Ok(())
}

/// Applies a change to a topic's own settings.
///
/// # Errors
/// [`Error::InvalidConfig`] for an unknown name to unset, or one that is both set and unset; values are checked by
/// [`Settings::resolve`].
pub(super) fn changed(
    overrides: &BTreeMap<String, String>,
    change: &ConfigChange,
) -> Result<BTreeMap<String, String>, Error> {
    let mut new = overrides.clone();
    for name in &change.unset {
        if find(name).is_none() {
            return Err(unknown(name, SETTINGS.iter().map(|setting| setting.name)));
        }
        if change.set.contains_key(name) {
            return Err(wrong(name, format!("{name} is both set and unset; choose one")));
        }
        new.remove(name);
    }
    new.extend(
        change
            .set
            .iter()
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    Ok(new)
}

/// A topic's own values before the server's before the table's.
struct Values<'a> {
    overrides: &'a BTreeMap<String, String>,
    server: &'a BTreeMap<&'static str, String>,
}

impl Values<'_> {
    fn topic_config(&self) -> Result<TopicConfig, Error> {
        let cleanup = match self.words(table::CLEANUP_POLICY)?.as_slice() {
            [] => CleanupPolicy::Keep,
            ["compact"] => CleanupPolicy::Compact,
            ["delete"] => CleanupPolicy::Delete,
            _ => CleanupPolicy::CompactAndDelete,
        };
        let max_compaction_lag_ms = self.whole(table::MAX_COMPACTION_LAG_MS)?;
        let longest_segment_ms = if cleanup.compacts() {
            max_compaction_lag_ms
        } else {
            i64::MAX
        };
        self.whole(table::MIN_INSYNC_REPLICAS)?;
        let retention_ms = Some(self.whole(table::RETENTION_MS)?).filter(|ms| *ms >= 0);
        let retention_bytes = u64::try_from(self.whole(table::RETENTION_BYTES)?).ok();
        Ok(TopicConfig {
            overrides: self.overrides.clone(),
            holds: Vec::new(),
            cleanup,
            retention_ms,
            retention_bytes,
            segment_bytes: self.size(table::SEGMENT_BYTES)?,
            segment_ms: self.whole(table::SEGMENT_MS)?.min(longest_segment_ms),
            segment_jitter_ms: self.whole(table::SEGMENT_JITTER_MS)?,
            segment_index_bytes: self.size(table::SEGMENT_INDEX_BYTES)?,
            index_interval_bytes: self.size(table::INDEX_INTERVAL_BYTES)?,
            max_message_bytes: self.size(table::MAX_MESSAGE_BYTES)?,
            codec: self.codec()?,
            levels: CompressionLevels {
                gzip: self.level(table::COMPRESSION_GZIP_LEVEL)?,
                zstd: self.level(table::COMPRESSION_ZSTD_LEVEL)?,
            },
            timestamp_type: match self.word(table::TIMESTAMP_TYPE)? {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max_ms: self.whole(table::TIMESTAMP_BEFORE_MAX_MS)?,
            timestamp_after_max_ms: self.whole(table::TIMESTAMP_AFTER_MAX_MS)?,
            min_cleanable_dirty_ratio: self.fraction(table::MIN_CLEANABLE_DIRTY_RATIO)?,
            min_compaction_lag_ms: self.whole(table::MIN_COMPACTION_LAG_MS)?,
            max_compaction_lag_ms,
            delete_retention_ms: self.whole(table::DELETE_RETENTION_MS)?,
            flush_messages: self.whole(table::FLUSH_MESSAGES)?,
            flush_ms: self.whole(table::FLUSH_MS)?,
            durability: match self.word(table::DURABILITY)? {
                "written" => Durability::Written,
                _ => Durability::Synced,
            },
            archived: match self.word(table::REMOTE_STORAGE_ENABLE)? {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            },
            local_retention: Retention {
                ms: match self.whole(table::LOCAL_RETENTION_MS)? {
                    AS_THE_WHOLE => retention_ms,
                    ms => Some(ms).filter(|ms| *ms >= 0),
                },
                bytes: match self.whole(table::LOCAL_RETENTION_BYTES)? {
                    AS_THE_WHOLE => retention_bytes,
                    bytes => u64::try_from(bytes).ok(),
                },
            },
            tier_max_lag_ms: self.whole(table::TIER_MAX_LAG_MS)?,
        })
    }

    fn codec(&self) -> Result<Option<Codec>, Error> {
        Ok(match self.word(table::COMPRESSION_TYPE)? {
            "uncompressed" => Some(Codec::None),
            "gzip" => Some(Codec::Gzip),
            "snappy" => Some(Codec::Snappy),
            "lz4" => Some(Codec::Lz4),
            "zstd" => Some(Codec::Zstd),
            _ => None,
        })
    }

    fn value(&self, name: &'static str) -> Result<Value, Error> {
        let setting = find(name).expect("every name asked for stands in the table");
        let text = match (self.overrides.get(name), self.server.get(name)) {
            (Some(own), _) => own,
            (None, Some(server)) => server,
            (None, None) => setting.default,
        };
        read(setting, name, text)
    }

    fn whole(&self, name: &'static str) -> Result<i64, Error> {
        match self.value(name)? {
            Value::Whole(number) => Ok(number),
            other => unreachable!("{name} is a whole number in the table, read as {other:?}"),
        }
    }

    fn size(&self, name: &'static str) -> Result<u32, Error> {
        Ok(u32::try_from(self.whole(name)?).expect("the table keeps sizes between 0 and 2,147,483,647"))
    }

    fn level(&self, name: &'static str) -> Result<i32, Error> {
        Ok(i32::try_from(self.whole(name)?).expect("the table keeps levels small"))
    }

    fn fraction(&self, name: &'static str) -> Result<f64, Error> {
        match self.value(name)? {
            Value::Fraction(number) => Ok(number),
            other => unreachable!("{name} is a fraction in the table, read as {other:?}"),
        }
    }

    fn words(&self, name: &'static str) -> Result<Vec<&'static str>, Error> {
        match self.value(name)? {
            Value::Words(words) => Ok(words),
            other => unreachable!("{name} is a word in the table, read as {other:?}"),
        }
    }

    fn word(&self, name: &'static str) -> Result<&'static str, Error> {
        let words = self.words(name)?;
        Ok(words.first().copied().expect("a single word was read"))
    }
}

#[derive(Debug)]
enum Value {
    Whole(i64),
    Fraction(f64),
    /// In the table's order, each once.
    Words(Vec<&'static str>),
}

/// Reads `text` as a value of `setting`, known to the caller as `name`.
fn read(setting: &Setting, name: &str, text: &str) -> Result<Value, Error> {
    let text = text.trim();
    let value = match setting.kind {
        Kind::Whole { min, max } => {
            let number = text.parse().ok().filter(|number| (min..=max).contains(number));
            number.map(Value::Whole)
        }
        Kind::Fraction { min, max } => {
            let number = text.parse().ok().filter(|number| (min..=max).contains(number));
            number.map(Value::Fraction)
        }
        Kind::Word(words) => {
            let word = words.iter().find(|word| **word == text);
            word.map(|word| Value::Words(vec![word]))
        }
        Kind::Words(words) => {
            let given: Vec<_> = text
                .split(',')
                .map(str::trim)
                .filter(|word| !word.is_empty())
                .collect();
            let known = given.iter().all(|word| words.contains(word));
            let chosen = || {
                words
                    .iter()
                    .copied()
                    .filter(|word| given.contains(word))
                    .collect()
            };
            known.then(|| Value::Words(chosen()))
        }
    };
    value.ok_or_else(|| {
        wrong(
            name,
            format!("{name} must be {}, got {text}", allowed(setting.kind)),
        )
    })
}

fn allowed(kind: Kind) -> String {
    match kind {
        Kind::Whole { min, max } if min == max => min.to_string(),
        Kind::Whole { min, max } => format!("{min} to {max}"),
        Kind::Fraction { min, max } => format!("{min} to {max}"),
        Kind::Word(words) => format!("one of {}", words.join(", ")),
        Kind::Words(words) => format!("empty or any of {}, joined by commas", words.join(", ")),
    }
}

/// Turns a broker-level value into the setting's own unit; a negative one means the same in every unit.
fn in_own_unit(name: &str, text: &str, factor: i64) -> Result<String, Error> {
    if factor == 1 {
        return Ok(text.to_owned());
    }
    let number: Option<i64> = text.trim().parse().ok();
    match number.and_then(|number| {
        if number < 0 {
            Some(number)
        } else {
            number.checked_mul(factor)
        }
    }) {
        Some(number) => Ok(number.to_string()),
        None => Err(wrong(
            name,
            format!("{name} must be -1 to {}, got {text}", i64::MAX / factor),
        )),
    }
}

fn find(name: &str) -> Option<&'static Setting> {
    let place = SETTINGS.binary_search_by(|setting| setting.name.cmp(name)).ok()?;
    Some(&SETTINGS[place])
}

fn server_names() -> impl Iterator<Item = &'static str> {
    let broad = |setting: &'static Setting| setting.synonyms.iter().map(|synonym| synonym.name);
    SETTINGS
        .iter()
        .flat_map(move |setting| std::iter::once(setting.name).chain(broad(setting)))
}

fn unknown(name: &str, known: impl Iterator<Item = &'static str>) -> Error {
    let is_broad = |setting: &&Setting| setting.synonyms.iter().any(|synonym| synonym.name == name);
    let narrow = SETTINGS.iter().find(is_broad).map(|setting| (0, setting.name));
    let nearest = known.map(|candidate| (edits(name, candidate), candidate)).min();
    // A broker-level name has a topic-level one, however near another may be.
    let nearest = narrow
        .or(nearest)
        .filter(|(edits, candidate)| *edits <= candidate.len() / 3);
    let reason = match nearest {
        Some((_, nearest)) => format!("no setting is named {name:?}; did you mean {nearest}?"),
        None => format!("no setting is named {name:?}"),
    };
    wrong(name, reason)
}

/// A setting that is wrong; of which topic, the caller knows.
fn wrong(setting: &str, reason: String) -> Error {
    Error::InvalidConfig {
        topic: None,
        setting: setting.to_owned(),
        reason,
    }
}

/// The largest batch that fits into a request of so many bytes.
fn largest_batch(max_request_bytes: usize) -> usize {
    max_request_bytes.saturating_sub(REQUEST_ROOM)
}

/// Counts the single-character changes that turn one name into the other. A name from outside is cut first: no longer
/// one is near anything.
fn edits(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64;
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().take(LONGEST).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
