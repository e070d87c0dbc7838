//! Which partition a key belongs to: Kafka's default partitioner, so that a record goes where the Java client would put it.
//!
//! `partition = (murmur2(key) & 0x7fffffff) mod partitions`, with murmur2 in its 32-bit form and Kafka's seed. Pure; what
//! happens to records without a key is the caller's choice.

use crate::types::PartitionId;

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;
const SHIFT: u32 = 24;

/// Returns the partition of `key` among `partitions`, which is at least 1.
pub fn partition_for_key(key: &[u8], partitions: i32) -> PartitionId {
    let hash = i32::try_from(murmur2(key) & 0x7fff_ffff).expect("31 bits fit");
    PartitionId(hash % partitions)
}

fn murmur2(bytes: &[u8]) -> u32 {
    // The reference function mixes in the low 32 bits of the length.
    let len = u32::try_from(bytes.len() & 0xffff_ffff).expect("masked to 32 bits");
    let mut hash = SEED ^ len;
    let (words, rest) = bytes.as_chunks::<4>();
    for &[a, b, c, d] in words {
        // Murmur2 reads words least significant byte first.
        let word = u32::from_be_bytes([d, c, b, a]);
        let mixed = word.wrapping_mul(MULTIPLIER);
        let mixed = (mixed ^ (mixed >> SHIFT)).wrapping_mul(MULTIPLIER);
        hash = hash.wrapping_mul(MULTIPLIER) ^ mixed;
    }
    if !rest.is_empty() {
        let tail = rest
            .iter()
            .rev()
            .fold(0, |tail, byte| (tail << 8) | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_kafkas_own_tests() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn the_sign_bit_is_dropped_before_the_remainder() {
        // murmur2("21") = -973932308, whose low 31 bits are 1173551340.
        assert_eq!(partition_for_key(b"21", 7), PartitionId(1_173_551_340 % 7));
        assert_eq!(partition_for_key(b"21", 1), PartitionId(0));
    }

    proptest::proptest! {
        #[test]
        fn every_key_has_a_partition_that_exists(key: Vec<u8>, partitions in 1_i32..) {
            let partition = partition_for_key(&key, partitions);
            proptest::prop_assert!((0..partitions).contains(&partition.0));
        }
    }
}
