//! What is written: each record a function of the seed, its producer and its number.
//!
//! Invariants
//! - The same workload and seed give the same records in the same order, their times aside.
//! - Making a record copies its filling from a pool and allocates nothing once the largest was made.
//!
//! What is not here: when a record is sent (`schedule`).

use std::sync::Arc;
use std::time::Duration;

use super::stamp::{self, Lane, STAMP_LEN, Stamp};
use crate::bench::draw::{KEY_LEN, below, fraction, key_text, lognormal, mixed, zipf};
use crate::bench::payload::Values;
use crate::bench::workload::{LoadPlan, RecordKeys, Size};
use crate::record::partition_for_key;
use crate::types::PartitionId;

/// Bytes that do not compress, from which fillings are cut: so many that two of one batch hardly share any.
const POOL_BYTES: usize = 8 << 20;
/// What compresses: a text over and over.
const TEXT: &[u8] = b"a log store that keeps and compacts ";

/// What all producers share.
#[derive(Debug)]
pub(super) struct Recipe {
    seed: u64,
    run: u32,
    sizes: Size,
    keys: RecordKeys,
    compressible_percent: u32,
    partitions: i32,
    /// A record without a key moves on to the next partition after so many bytes, or after that long.
    turn_bytes: u64,
    turn: Duration,
    random: Vec<u8>,
    text: Vec<u8>,
}

impl Recipe {
    /// `run` is in every stamp. Records without a key change the partition when a batch of `turn_bytes` is full or `turn` old.
    pub(super) fn new(plan: &LoadPlan, run: u32, (turn_bytes, turn): (u64, Duration)) -> Self {
        let (greatest, _) = plan.records.value_bytes.greatest_and_mean();
        let greatest = len(greatest);
        let text = TEXT.iter().copied().cycle().take(greatest).collect();
        Self {
            seed: plan.seed,
            run,
            sizes: plan.records.value_bytes.clone(),
            keys: plan.records.keys.clone(),
            compressible_percent: plan.records.compressible_percent,
            partitions: i32::try_from(plan.topics.partitions).expect("at most 10,000"),
            turn_bytes,
            turn,
            random: Values::new(mixed(plan.seed) | 1).next(POOL_BYTES + greatest),
            text,
        }
    }

    fn size(&self, bits: u64) -> usize {
        let bytes = match &self.sizes {
            Size::Fixed(bytes) => *bytes,
            Size::Uniform { least, most } => least + short(below(bits, u64::from(most - least) + 1)),
            Size::Lognormal { median, sigma, most } => {
                let drawn = lognormal(bits, f64::from(*median), *sigma);
                rounded(drawn.clamp(f64::from(STAMP_LEN), f64::from(*most)))
            }
            Size::Table(rows) => {
                let weights: u64 = rows.iter().map(|row| u64::from(row.weight)).sum();
                let mut left = below(bits, weights);
                let chosen = rows
                    .iter()
                    .find(|row| match left.checked_sub(u64::from(row.weight)) {
                        None => true,
                        Some(rest) => {
                            left = rest;
                            false
                        }
                    });
                chosen
                    .expect("what is drawn is below the sum of the weights")
                    .bytes
            }
        };
        len(bytes)
    }

    fn key(&self, bits: u64) -> Option<u32> {
        let drawn = match &self.keys {
            RecordKeys::None => return None,
            RecordKeys::Uniform { count } => below(bits, u64::from(*count)),
            RecordKeys::Zipf { count, exponent } => zipf(bits, *count, *exponent),
            RecordKeys::Hot {
                count,
                hot_count,
                hot_percent,
            } => {
                let cold = u64::from(count - hot_count);
                match fraction(mixed(bits)) * 100.0 < f64::from(*hot_percent) {
                    true => below(bits, u64::from(*hot_count)),
                    false => u64::from(*hot_count) + below(bits, cold),
                }
            }
        };
        Some(short(drawn))
    }
}

fn len(bytes: u32) -> usize {
    usize::try_from(bytes).expect("32 bits fit")
}

fn short(drawn: u64) -> u32 {
    u32::try_from(drawn).expect("drawn below a number of 32 bits")
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it lies between two positive numbers of 32 bits"
)]
fn rounded(bytes: f64) -> u32 {
    bytes as u32
}

/// A record to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Made<'a> {
    pub(super) key: Option<&'a [u8; KEY_LEN]>,
    pub(super) value: &'a [u8],
    pub(super) partition: PartitionId,
}

/// The records of one producer, one after the other.
#[derive(Debug)]
pub(super) struct Source {
    recipe: Arc<Recipe>,
    /// Its number in its topic.
    producer: u32,
    /// What its records are drawn from.
    seed: u64,
    /// Records made.
    count: u64,
    lanes: Vec<Lane>,
    turn: Turn,
    key: [u8; KEY_LEN],
    value: Vec<u8>,
}

/// Which partition takes records without a key.
#[derive(Clone, Copy, Debug)]
struct Turn {
    partition: i32,
    bytes: u64,
    began: Duration,
}

impl Source {
    /// The records of producer `number`, which in its topic is number `producer`.
    pub(super) fn new(recipe: Arc<Recipe>, number: u32, producer: u32) -> Self {
        let partitions = recipe.partitions;
        Self {
            seed: mixed(recipe.seed ^ mixed(number.into())),
            lanes: vec![Lane::default(); usize::try_from(partitions).expect("a count")],
            // Producers begin apart.
            turn: Turn {
                partition: i32::try_from(producer).unwrap_or_default() % partitions,
                bytes: 0,
                began: Duration::ZERO,
            },
            recipe,
            producer,
            count: 0,
            key: [0; KEY_LEN],
            value: Vec::new(),
        }
    }

    /// Returns where this producer stands in each partition.
    pub(super) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// Makes the next record; `intended` is when it should be sent, absent before the load.
    pub(super) fn next(&mut self, intended: Option<Duration>) -> Made<'_> {
        let recipe = &self.recipe;
        let bits = mixed(self.seed ^ self.count);
        self.count += 1;
        let size = recipe.size(mixed(bits));
        let key = recipe.key(mixed(bits ^ 1));
        if let Some(key) = key {
            self.key = key_text(key);
        }
        let filling = size - usize::from(STAMP_LEN);
        let text = filling * len(recipe.compressible_percent) / 100;
        let from = usize::try_from(below(bits, 8 << 20)).expect("within the pool");
        self.value.clear();
        self.value.resize(usize::from(STAMP_LEN), 0);
        self.value
            .extend_from_slice(&recipe.random[from..from + filling - text]);
        self.value.extend_from_slice(&recipe.text[..text]);
        let partition = match key {
            Some(_) => partition_for_key(&self.key, recipe.partitions),
            None => self.turn.next(recipe, size, intended.unwrap_or_default()),
        };
        let lane = &mut self.lanes[usize::try_from(partition.0).expect("never negative")];
        let stamp = Stamp {
            run: recipe.run,
            producer: self.producer,
            sequence: lane.next,
            intended,
            checksum: 0,
            chain: 0,
        };
        let key = key.is_some().then_some(&self.key);
        stamp::write(&mut self.value, key.map(<[u8; KEY_LEN]>::as_slice), &stamp, lane);
        Made {
            key,
            value: &self.value,
            partition,
        }
    }
}

impl Turn {
    fn next(&mut self, recipe: &Recipe, size: usize, at: Duration) -> PartitionId {
        let size = u64::try_from(size).expect("a size");
        let is_over = self.bytes + size > recipe.turn_bytes || at.saturating_sub(self.began) > recipe.turn;
        if is_over && self.bytes > 0 {
            *self = Self {
                partition: (self.partition + 1) % recipe.partitions,
                bytes: 0,
                began: at,
            };
        }
        self.bytes += size;
        PartitionId(self.partition)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn recipe(records: &str, seed: u64) -> Arc<Recipe> {
        let text = format!(
            "about = 'x'\nduration_s = 1\nseed = {seed}\ntopics = {{ partitions = 3 }}\nrecords = {{ {records} }}\n\
             producers = {{ rate = {{ records_per_second = 1 }} }}"
        );
        let plan: LoadPlan = toml::from_str(&text).unwrap();
        plan.check().unwrap();
        Arc::new(Recipe::new(&plan, 7, (1000, Duration::from_millis(5))))
    }

    /// Key, value and partition of the first records of a producer, each due a millisecond after the one before.
    fn made(recipe: &Arc<Recipe>, number: u32, count: u64) -> Vec<(Option<Vec<u8>>, Vec<u8>, i32)> {
        let mut source = Source::new(Arc::clone(recipe), number, number);
        let next = |at| {
            let made = source.next(Some(Duration::from_millis(at)));
            (
                made.key.map(|key| key.to_vec()),
                made.value.to_vec(),
                made.partition.0,
            )
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_records_and_another_or_another_producer_makes_others() {
        let mixed = "value_bytes = { uniform = { least = 40, most = 90 } }, keys = { zipf = { count = 9 } }";
        // The stamp is another one anyway.
        let drawn = |seed, number| -> Vec<_> {
            let all = made(&recipe(mixed, seed), number, 50).into_iter();
            all.map(|(key, value, _)| (key, value[32..].to_vec())).collect()
        };
        let first = drawn(1, 0);
        assert_eq!(first, drawn(1, 0));
        assert_ne!(first, drawn(2, 0));
        assert_ne!(first, drawn(1, 1));
    }

    #[test]
    fn sizes_are_those_asked_for() {
        let sizes = |size: &str| {
            let recipe = recipe(&format!("value_bytes = {size}"), 1);
            let mut counts = BTreeMap::new();
            for (_, value, _) in made(&recipe, 0, 4000) {
                *counts.entry(value.len()).or_insert(0) += 1;
            }
            counts
        };
        assert_eq!(sizes("{ fixed = 77 }"), BTreeMap::from([(77, 4000)]));
        let uniform = sizes("{ uniform = { least = 40, most = 49 } }");
        assert!(uniform.keys().copied().eq(40..=49), "{uniform:?}");
        assert!(
            uniform.values().all(|count| (300..500).contains(count)),
            "{uniform:?}"
        );
        let table = sizes(
            "{ table = [{ bytes = 50, weight = 3 }, { bytes = 60, weight = 0 }, { bytes = 90, weight = 1 }] }",
        );
        assert!(table.keys().copied().eq([50, 90]), "{table:?}");
        assert!((2_800..3_200).contains(&table[&50]), "{table:?}");
        let lognormal = sizes("{ lognormal = { median = 100, sigma = 1.0, most = 500 } }");
        let (least, most) = (lognormal.keys().next().unwrap(), lognormal.keys().last().unwrap());
        assert!(*least >= 32 && *most == 500, "{lognormal:?}");
    }

    #[test]
    fn keys_are_as_often_as_asked_for_and_each_has_its_partition() {
        let hot = recipe(
            "value_bytes = { fixed = 40 }, keys = { hot = { count = 100, hot_count = 2, hot_percent = 80 } }",
            1,
        );
        let all = made(&hot, 0, 5000);
        let hot = all.iter().filter(|(key, ..)| {
            let key = key.as_deref().unwrap();
            key == key_text(0) || key == key_text(1)
        });
        let hot = hot.count();
        assert!((3_900..4_100).contains(&hot), "{hot}");
        assert!(
            all.iter()
                .all(|(key, _, partition)| partition_for_key(key.as_deref().unwrap(), 3).0 == *partition)
        );
    }

    #[test]
    fn records_without_a_key_stay_with_a_partition_until_its_batch_is_full_or_old() {
        let partitions = |bytes: u32| -> Vec<i32> {
            let recipe = recipe(&format!("value_bytes = {{ fixed = {bytes} }}"), 1);
            made(&recipe, 0, 12)
                .into_iter()
                .map(|(_, _, partition)| partition)
                .collect()
        };
        // A batch takes 1000 bytes, and lingers for 5 ms; a record is due each.
        assert_eq!(partitions(400), [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]);
        assert_eq!(partitions(40), [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn as_much_of_a_value_compresses_as_asked_for() {
        let of = |percent: u32| {
            let recipe = recipe(
                &format!("value_bytes = {{ fixed = 1032 }}, compressible_percent = {percent}"),
                1,
            );
            let all: Vec<u8> = made(&recipe, 0, 100)
                .into_iter()
                .flat_map(|(_, value, _)| value)
                .collect();
            zstd::bulk::compress(&all, 1).unwrap().len() * 100 / all.len()
        };
        let [none, half, whole] = [0, 50, 100].map(of);
        assert!(
            none > 95 && (45..60).contains(&half) && whole < 6,
            "{none} {half} {whole}"
        );
    }
}
