//! Workloads: what `siltstone bench run` does, as a small TOML file.
//!
//! ```toml
//! about = "Orders, with a few customers who order most."
//! duration_s = 20
//! [topics]
//! partitions = 8
//! [records]
//! value_bytes = { fixed = 1024 }
//! keys = { zipf = { count = 100000 } }
//! [producers]
//! count = 4
//! rate = { records_per_second = 5000 }
//! [readers]
//! tailing = 1
//! ```
//!
//! Units stand in the names. `docs/benchmarks.md` lists every key. What is not here: the running (`run`), and how a wrong file is
//! told of (`workload_file`).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::draw::KEY_LEN;
use super::run::STAMP_LEN;
use crate::client;
use crate::record;

/// Longest run, warm-up included, in seconds.
const SECONDS_MAX: u32 = 3600;
/// Most partitions of all topics together.
const PARTITIONS_MAX: u32 = 10_000;
const PRODUCERS_MAX: u32 = 1024;
const READERS_MAX: u32 = 64;
/// Largest value, in bytes.
const VALUE_MAX: u32 = 16 << 20;

/// What a run does.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadPlan {
    /// What the load stands for.
    pub about: String,
    /// How long is measured.
    pub duration_s: u32,
    /// How long the load runs before.
    #[serde(default)]
    pub warm_up_s: u32,
    /// What everything that is drawn by chance is drawn from.
    #[serde(default = "one_u64")]
    pub seed: u64,
    /// Where records go.
    pub topics: Topics,
    /// What they are.
    pub records: Records,
    /// Who writes them.
    pub producers: Producers,
    /// Who reads them meanwhile.
    #[serde(default)]
    pub readers: Readers,
    /// What is there before.
    #[serde(default)]
    pub backlog: Option<Backlog>,
}

/// Where records go.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topics {
    /// How many; producers and readers are dealt out to them in turn.
    #[serde(default = "one_u32")]
    pub count: u32,
    /// Of each.
    pub partitions: u32,
    /// What an acknowledgement means.
    #[serde(default)]
    pub durability: Durability,
    /// Further settings, under Kafka's names.
    #[serde(default)]
    pub settings: BTreeMap<String, SettingValue>,
}

/// What an acknowledgement means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// It is on the disk.
    #[default]
    Synced,
    /// The operating system has it.
    Written,
}

impl Durability {
    /// Returns the value of the setting `durability`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Written => "written",
        }
    }
}

/// The value of a topic's setting.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a text, a number, or true or false")]
pub enum SettingValue {
    /// `true` or `false`.
    Switch(bool),
    /// A whole number.
    Whole(i64),
    /// Any other number.
    Number(f64),
    /// Text.
    Text(String),
}

impl SettingValue {
    /// Returns it as the server takes it.
    pub fn text(&self) -> String {
        match self {
            Self::Switch(on) => on.to_string(),
            Self::Whole(number) => number.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// What records are.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Records {
    /// How large values are.
    pub value_bytes: Size,
    /// Of a hundred bytes of a value so many compress to nearly nothing; the others do not compress.
    #[serde(default)]
    pub compressible_percent: u32,
    /// Which keys they have.
    #[serde(default)]
    pub keys: RecordKeys,
}

/// How large values are, in bytes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Size {
    /// All the same.
    Fixed(u32),
    /// Every size as likely.
    Uniform {
        /// The least.
        least: u32,
        /// The greatest.
        most: u32,
    },
    /// Many small ones, few large ones.
    Lognormal {
        /// Half are smaller.
        median: u32,
        /// Two thirds lie within a factor of e^sigma.
        sigma: f64,
        /// What is larger counts as this.
        most: u32,
    },
    /// These, each as often as its weight says.
    Table(Vec<Weighted>),
}

/// A size and how often it comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// The size.
    pub bytes: u32,
    /// How often, beside the others.
    pub weight: u32,
}

impl Size {
    /// Returns the greatest and the mean size.
    pub fn greatest_and_mean(&self) -> (u32, f64) {
        match self {
            Self::Fixed(bytes) => (*bytes, f64::from(*bytes)),
            Self::Uniform { least, most } => (*most, f64::midpoint(f64::from(*least), f64::from(*most))),
            Self::Lognormal { median, sigma, most } => {
                let mean = f64::from(*median) * (sigma * sigma / 2.0).exp();
                (*most, mean.min(f64::from(*most)))
            }
            Self::Table(rows) => {
                let weights: f64 = rows.iter().map(|row| f64::from(row.weight)).sum();
                let bytes: f64 = rows
                    .iter()
                    .map(|row| f64::from(row.weight) * f64::from(row.bytes))
                    .sum();
                let greatest = rows.iter().map(|row| row.bytes).max();
                (greatest.unwrap_or_default(), bytes / weights.max(1.0))
            }
        }
    }
}

/// Which keys records have; a key is a number of 16 digits.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RecordKeys {
    /// No key: records go to one partition until its batch is full, then to the next.
    #[default]
    None,
    /// All as often.
    Uniform {
        /// How many there are.
        count: u32,
    },
    /// The k-th as often as k to the power of minus the exponent.
    Zipf {
        /// How many there are.
        count: u32,
        /// 0: all as often; 1: the second half as often as the first.
        #[serde(default = "one_f64")]
        exponent: f64,
    },
    /// A few have most.
    Hot {
        /// How many there are.
        count: u32,
        /// How many are hot.
        hot_count: u32,
        /// Of a hundred records so many have a hot key.
        hot_percent: u32,
    },
}

/// Who writes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Producers {
    /// How many.
    #[serde(default = "one_u32")]
    pub count: u32,
    /// How much, of all together.
    pub rate: Rate,
    /// When a record counts as written.
    #[serde(default)]
    pub acks: Acks,
    /// How batches are compressed.
    #[serde(default)]
    pub compression: Compression,
    /// How long a record waits for others to share its batch; absent: the client's default.
    #[serde(default)]
    pub linger_ms: Option<u64>,
    /// The size of a batch to aim for; absent: the client's default.
    #[serde(default)]
    pub batch_bytes: Option<u32>,
}

/// How much is written.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rate {
    /// So many records a second, whatever becomes of those before: what is late counts as late.
    RecordsPerSecond(u32),
    /// As fast as it goes.
    OpenThrottle {
        /// After so many megabytes of keys and values it ends, even if time is left.
        most_mb: u32,
    },
}

/// When a record counts as written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acks {
    /// When it is as durable as the topic says.
    #[default]
    All,
    /// When it is appended.
    Leader,
    /// When it is sent.
    None,
}

impl From<Acks> for client::Acks {
    fn from(acks: Acks) -> Self {
        match acks {
            Acks::All => Self::All,
            Acks::Leader => Self::Leader,
            Acks::None => Self::None,
        }
    }
}

/// How batches are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// By gzip.
    Gzip,
    /// By snappy.
    Snappy,
    /// By lz4.
    Lz4,
    /// By zstd.
    Zstd,
}

impl From<Compression> for record::Codec {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Gzip => Self::Gzip,
            Compression::Snappy => Self::Snappy,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd => Self::Zstd,
        }
    }
}

/// Who reads while it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Readers {
    /// How many follow a topic's end.
    #[serde(default)]
    pub tailing: u32,
    /// How many read a topic from its start to its end, again and again.
    #[serde(default)]
    pub catching_up: u32,
    /// How many read what lies between two times, again and again.
    #[serde(default)]
    pub by_time: u32,
    /// How far apart the two times are; absent: a twentieth of all that there is.
    #[serde(default)]
    pub window_ms: Option<u32>,
}

/// What is written before the run, by the same producers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backlog {
    /// Megabytes of keys and values, of all topics together.
    pub mb: u32,
    /// Over how long before the run its records' times are spread.
    #[serde(default = "hour_s")]
    pub span_s: u32,
}

fn one_u32() -> u32 {
    1
}

fn one_u64() -> u64 {
    1
}

fn one_f64() -> f64 {
    1.0
}

fn hour_s() -> u32 {
    3600
}

/// A value that is read and cannot be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wrong {
    /// Which, dotted.
    pub(super) field: String,
    /// What it must be.
    pub(super) reason: String,
}

fn wrong<T>(field: &str, reason: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong {
        field: field.to_owned(),
        reason: reason.into(),
    })
}

fn within(field: &str, number: u32, range: RangeInclusive<u32>) -> Result<(), Wrong> {
    match range.contains(&number) {
        true => Ok(()),
        false => wrong(
            field,
            format!(
                "{number} is not a whole number from {} to {}",
                range.start(),
                range.end()
            ),
        ),
    }
}

impl LoadPlan {
    /// Returns all settings of a topic.
    pub fn topic_settings(&self) -> BTreeMap<String, String> {
        let given = self.topics.settings.iter();
        let mut settings: BTreeMap<_, _> = given.map(|(name, value)| (name.clone(), value.text())).collect();
        settings.insert("durability".to_owned(), self.topics.durability.name().to_owned());
        settings
    }

    /// True when old records of a key may go.
    pub fn is_compacted(&self) -> bool {
        let policy = self.topics.settings.get("cleanup.policy");
        policy.is_some_and(|policy| policy.text().contains("compact"))
    }

    /// Checks what types alone do not.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        within("duration_s", self.duration_s, 1..=SECONDS_MAX)?;
        within("warm_up_s", self.warm_up_s, 0..=SECONDS_MAX)?;
        self.check_topics()?;
        self.records.check()?;
        if self.is_compacted() && self.records.keys == RecordKeys::None {
            return wrong("records.keys", "a compacted topic takes no records without a key");
        }
        self.check_producers()?;
        for (field, count) in [
            ("readers.tailing", self.readers.tailing),
            ("readers.catching_up", self.readers.catching_up),
            ("readers.by_time", self.readers.by_time),
        ] {
            within(field, count, 0..=READERS_MAX)?;
        }
        if let Some(window_ms) = self.readers.window_ms {
            within("readers.window_ms", window_ms, 1..=u32::MAX)?;
        }
        if let Some(backlog) = self.backlog {
            within("backlog.mb", backlog.mb, 1..=100_000)?;
            within("backlog.span_s", backlog.span_s, 1..=u32::MAX)?;
        }
        Ok(())
    }

    fn check_topics(&self) -> Result<(), Wrong> {
        within("topics.count", self.topics.count, 1..=PARTITIONS_MAX)?;
        let most = PARTITIONS_MAX / self.topics.count;
        within("topics.partitions", self.topics.partitions, 1..=most)?;
        if self.topics.settings.contains_key("durability") {
            return wrong("topics.settings.durability", "it stands in topics.durability");
        }
        for (name, value) in &self.topics.settings {
            let alone = BTreeMap::from([(name.clone(), value.text())]);
            if let Err(refused) = crate::broker::Settings::new(&alone) {
                return wrong(&format!("topics.settings.{name}"), refused.to_string());
            }
        }
        Ok(())
    }

    fn check_producers(&self) -> Result<(), Wrong> {
        let producers = &self.producers;
        within(
            "producers.count",
            producers.count,
            self.topics.count..=PRODUCERS_MAX,
        )?;
        match producers.rate {
            Rate::RecordsPerSecond(rate) => {
                within("producers.rate.records_per_second", rate, 1..=100_000_000)?;
            }
            Rate::OpenThrottle { most_mb } => {
                within("producers.rate.open_throttle.most_mb", most_mb, 1..=100_000)?;
            }
        }
        if producers.linger_ms.is_some_and(|linger_ms| linger_ms > 10_000) {
            return wrong("producers.linger_ms", "it is at most 10000");
        }
        if let Some(bytes) = producers.batch_bytes {
            within("producers.batch_bytes", bytes, 1024..=VALUE_MAX)?;
        }
        if producers.acks == Acks::None && self.is_compacted() {
            return wrong(
                "producers.acks",
                "the newest record of a key is known by its acknowledgement: all or leader",
            );
        }
        if producers.acks == Acks::None && self.backlog.is_some() {
            return wrong(
                "producers.acks",
                "a backlog has to be acknowledged: all or leader",
            );
        }
        Ok(())
    }
}

impl Records {
    fn check(&self) -> Result<(), Wrong> {
        let size = |field: &str, bytes| within(field, bytes, u32::from(STAMP_LEN)..=VALUE_MAX);
        match &self.value_bytes {
            Size::Fixed(bytes) => size("records.value_bytes.fixed", *bytes)?,
            Size::Uniform { least, most } => {
                size("records.value_bytes.uniform.least", *least)?;
                within("records.value_bytes.uniform.most", *most, *least..=VALUE_MAX)?;
            }
            Size::Lognormal { median, sigma, most } => {
                size("records.value_bytes.lognormal.median", *median)?;
                within("records.value_bytes.lognormal.most", *most, *median..=VALUE_MAX)?;
                if !(0.0..=5.0).contains(sigma) {
                    return wrong("records.value_bytes.lognormal.sigma", "it is from 0 to 5");
                }
            }
            Size::Table(rows) => {
                for row in rows {
                    size("records.value_bytes.table", row.bytes)?;
                }
                if rows.iter().all(|row| row.weight == 0) {
                    return wrong(
                        "records.value_bytes.table",
                        "one row at least has a weight above 0",
                    );
                }
            }
        }
        within("records.compressible_percent", self.compressible_percent, 0..=100)?;
        self.keys.check()
    }
}

impl RecordKeys {
    fn check(&self) -> Result<(), Wrong> {
        const { assert!(KEY_LEN >= 8, "every number of 32 bits has a key of its own") };
        match self {
            Self::None => Ok(()),
            Self::Uniform { count } => within("records.keys.uniform.count", *count, 1..=u32::MAX),
            Self::Zipf { count, exponent } => {
                within("records.keys.zipf.count", *count, 1..=u32::MAX)?;
                match (0.0..=5.0).contains(exponent) {
                    true => Ok(()),
                    false => wrong("records.keys.zipf.exponent", "it is from 0 to 5"),
                }
            }
            Self::Hot {
                count,
                hot_count,
                hot_percent,
            } => {
                within("records.keys.hot.count", *count, 2..=u32::MAX)?;
                within("records.keys.hot.hot_count", *hot_count, 1..=*count - 1)?;
                within("records.keys.hot.hot_percent", *hot_percent, 1..=99)
            }
        }
    }
}
