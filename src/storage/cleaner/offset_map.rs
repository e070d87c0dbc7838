//! The offset map: the newest offset of each key in the part of a log that a pass cleans, in bounded memory.
//!
//! ```text
//!   slot   hash of the key, 16 bytes | offset - first + 1, 4 bytes        0 in the last field: empty
//! ```
//!
//! Open addressing, linear probing, 85 of 100 slots full at most. The memory is taken once and used for pass after pass. A
//! pass over few records uses only the beginning of it, which stays in the processor's caches and is soon forgotten again.
//!
//! Invariants
//! - A key is known by its hash alone: SipHash-1-3 of 128 bits under the pass's seed. Two keys of a log share one with a
//!   probability below n^2 / 2^129, and nobody who does not know the seed can make two that do.
//! - A full map still takes newer offsets of the keys it knows, as far as its offsets go: a map is full, too, for an offset
//!   that is 2^32 - 1 or more behind the first.
//! - 20 bytes a slot, so less than 24 bytes a key when it is full, whatever the keys are.
//!
//! What is not here: which records are learned (`learn`), and where the seed comes from (the caller).

use siphasher::sip128::SipHasher13;

use crate::types::Offset;

/// Bytes of a slot.
const SLOT_LEN: usize = 20;
const _: () = assert!(size_of::<Slot>() == SLOT_LEN);
/// Of so many slots ...
const LOAD_OF: usize = 20;
/// ... so many are used at most.
const LOAD: usize = 17;
/// At most so many bytes a key costs.
const KEY_MAX_BYTES: usize = 24;
const _: () = assert!(SLOT_LEN * LOAD_OF <= KEY_MAX_BYTES * LOAD);

/// Hash, and how far behind the first offset, + 1.
type Slot = [u32; 5];
const EMPTY: Slot = [0; 5];

/// See the module.
#[derive(Debug)]
pub struct OffsetMap {
    slots: Vec<Slot>,
    /// What the offsets count from.
    first: Offset,
    /// Slots in use: so many from the first on, at least two.
    used: usize,
    capacity: usize,
    /// Keys that the slots in use may hold.
    limit: usize,
    len: usize,
    hasher: SipHasher13,
}

/// Whether a key was taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Learned {
    Yes,
    /// The map is full and does not know the key.
    Full,
}

impl OffsetMap {
    /// Returns an empty map of at most `bytes` bytes; of 40 when they are fewer, which hold one key.
    pub fn with_bytes(bytes: usize) -> Self {
        Self::with_slots((bytes / SLOT_LEN).max(2))
    }

    fn with_slots(slots: usize) -> Self {
        let capacity = keys_in(slots);
        Self {
            slots: vec![EMPTY; slots],
            first: Offset::ZERO,
            used: slots,
            capacity,
            limit: capacity,
            len: 0,
            hasher: SipHasher13::new(),
        }
    }

    /// Returns an empty map for exactly `keys` keys.
    #[cfg(test)]
    pub(super) fn with_keys(keys: usize) -> Self {
        let mut map = Self::with_slots(keys + 1 + keys / 2);
        (map.capacity, map.limit) = (keys, keys);
        map
    }

    /// Returns how many keys it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns how many keys it holds.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Forgets everything, and hashes under `seed` from now on. What comes is not before `first`; the map is full after
    /// `keys_at_most` keys, if not before.
    pub(super) fn reset(&mut self, seed: [u64; 2], first: Offset, keys_at_most: u64) {
        if self.len > 0 {
            self.slots[..self.used].fill(EMPTY);
        }
        self.first = first;
        self.len = 0;
        let keys = usize::try_from(keys_at_most).unwrap_or(usize::MAX);
        // Half full at most, where there is room for that.
        self.used = keys.saturating_mul(2).clamp(2, self.slots.len());
        self.limit = self.capacity.min(keys_in(self.used)).min(keys);
        self.hasher = SipHasher13::new_with_keys(seed[0], seed[1]);
    }

    /// Takes note of a record of `key`; the greatest offset of a key stays.
    pub(super) fn learn(&mut self, key: &[u8], offset: Offset) -> Learned {
        let behind = offset
            .0
            .checked_sub(self.first.0)
            .and_then(|behind| behind.checked_add(1));
        let Some(stored) = behind.and_then(|stored| u32::try_from(stored).ok()) else {
            return Learned::Full;
        };
        let (slot, hash) = self.find(key);
        let [.., known] = &mut self.slots[slot];
        if *known != 0 {
            *known = stored.max(*known);
            return Learned::Yes;
        }
        if self.len == self.limit {
            return Learned::Full;
        }
        self.slots[slot] = [hash[0], hash[1], hash[2], hash[3], stored];
        self.len += 1;
        Learned::Yes
    }

    /// Returns the greatest offset learned for `key`.
    pub(super) fn newest(&self, key: &[u8]) -> Option<Offset> {
        if self.len == 0 {
            return None;
        }
        let (slot, _) = self.find(key);
        let [.., stored] = self.slots[slot];
        stored
            .checked_sub(1)
            .map(|behind| Offset(self.first.0 + i64::from(behind)))
    }

    /// Returns the slot of the key, or the empty one where it would go. There always is one.
    fn find(&self, key: &[u8]) -> (usize, [u32; 4]) {
        let hash = self.hasher.hash(key);
        let slots = self.used;
        let start = (u128::from(hash.h1) * slots as u128) >> 64;
        let hash = halves(hash.h1, hash.h2);
        let mut at = usize::try_from(start).expect("less than the number of slots");
        loop {
            let slot = &self.slots[at];
            if slot[4] == 0 || slot[..4] == hash {
                return (at, hash);
            }
            at = if at + 1 == slots { 0 } else { at + 1 };
        }
    }
}

/// The same 128 bits, as a slot has them.
fn halves(h1: u64, h2: u64) -> [u32; 4] {
    let (h1, h2) = (h1.to_be_bytes(), h2.to_be_bytes());
    let half = |bytes: [u8; 8], from: usize| {
        u32::from_be_bytes([bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]])
    };
    [half(h1, 0), half(h1, 4), half(h2, 0), half(h2, 4)]
}

/// So many keys may be in so many slots. The greater product would overflow only where the memory could not be had.
fn keys_in(slots: usize) -> usize {
    slots / LOAD_OF * LOAD + slots % LOAD_OF * LOAD / LOAD_OF
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_answers_as_a_map_of_whole_keys_does(
            records in prop::collection::vec((0..60_u16, 0..1000_i64), 0..200),
            first in prop::sample::select(vec![0, 7, i64::MAX - 1000]),
            capacity in 1..40_usize,
            keys_at_most in 1..60_usize,
            seed: [u64; 2],
        ) {
            let mut map = OffsetMap::with_keys(capacity);
            // What an earlier pass learned, in more slots or fewer, is forgotten.
            map.reset(seed, Offset(0), 40);
            for key in 0..30_u16 {
                map.learn(&key.to_be_bytes(), Offset(5000));
            }
            map.reset(seed, Offset(first), keys_at_most as u64);
            let capacity = capacity.min(keys_at_most);
            let mut model: HashMap<u16, i64> = HashMap::new();
            for (key, offset) in records {
                let fits = model.contains_key(&key) || model.len() < capacity;
                let offset = first + offset;
                let learned = map.learn(&key.to_be_bytes(), Offset(offset));
                prop_assert_eq!(learned == Learned::Yes, fits);
                if fits {
                    let newest = model.entry(key).or_insert(offset);
                    *newest = offset.max(*newest);
                }
            }
            prop_assert_eq!(map.len(), model.len());
            for key in 0..60_u16 {
                let newest = map.newest(&key.to_be_bytes()).map(|offset| offset.0);
                prop_assert_eq!(newest, model.get(&key).copied());
            }
            map.reset(seed, Offset(0), 60);
            prop_assert_eq!(map.newest(&7_u16.to_be_bytes()), None);
        }
    }

    #[test]
    fn a_key_costs_no_more_than_24_bytes_when_the_map_is_full() {
        for bytes in [1 << 10, 1 << 20, 128 << 20] {
            let mut map = OffsetMap::with_bytes(bytes);
            assert!(std::mem::size_of_val(map.slots.as_slice()) <= bytes);
            map.reset([1, 2], Offset(0), u64::MAX);
            let mut keys = 0_usize;
            while bytes <= 1 << 20 && map.learn(&keys.to_be_bytes(), Offset(1)) == Learned::Yes {
                keys += 1;
            }
            assert!(bytes > 1 << 20 || keys == map.capacity(), "{keys}");
            // Of a small map the last slots are less than a key.
            assert!(bytes <= 24 * (map.capacity() + 1), "{bytes}");
        }
        assert_eq!(OffsetMap::with_bytes(128 << 20).capacity(), 5_704_253);
        assert_eq!(OffsetMap::with_bytes(0).capacity(), 1);
    }

    #[test]
    fn an_offset_that_is_too_far_behind_the_first_does_not_fit_and_the_greatest_that_does_is_told() {
        let mut map = OffsetMap::with_keys(4);
        map.reset([1, 2], Offset(10), 4);
        let far = Offset(10 + i64::from(u32::MAX) - 1);
        assert_eq!(map.learn(b"a", Offset(10)), Learned::Yes);
        assert_eq!(map.learn(b"a", far), Learned::Yes);
        assert_eq!(map.learn(b"a", far.next()), Learned::Full);
        assert_eq!(map.learn(b"b", Offset::MAX), Learned::Full);
        assert_eq!((map.newest(b"a"), map.newest(b"b")), (Some(far), None));
    }

    #[test]
    fn few_keys_use_few_slots_and_no_more_keys_than_announced_are_taken() {
        let mut map = OffsetMap::with_bytes(24 << 10);
        map.reset([1, 2], Offset(0), 3);
        for key in 0..3_u8 {
            assert_eq!(map.learn(&[key], Offset(1)), Learned::Yes);
        }
        assert_eq!(map.learn(&[3], Offset(1)), Learned::Full);
        assert!(map.slots[6..].iter().all(|slot| *slot == EMPTY));
        assert_eq!(map.capacity(), 1043);
    }

    #[test]
    fn another_seed_puts_keys_elsewhere() {
        let place = |seed| {
            let mut map = OffsetMap::with_bytes(24 << 10);
            map.reset(seed, Offset(0), 1 << 10);
            (0..8_u8).map(|key| map.find(&[key]).0).collect::<Vec<_>>()
        };
        assert_eq!(place([1, 2]), place([1, 2]));
        assert_ne!(place([1, 2]), place([1, 3]));
    }
}
