//! A map of at most so many entries that forgets the ones not asked for lately.
//!
//! ```text
//!   slots   [ a* ][ b  ][ c* ][ d  ]      * asked for since the hand last passed
//!                    ^ hand               the next newcomer takes b's place; c would lose its star, d would go next
//! ```
//!
//! This is the clock algorithm: nearly least-recently-used, but a hit sets one flag instead of moving a list entry. A
//! newcomer has no star yet, so a scan over many files pushes out its own entries before those in steady use.
//!
//! Invariants
//! - `slots[places[key]]` is the entry of `key`, for every key; no other slot exists.
//! - There are never more than `limit` entries.
//!
//! What is not here: locking, and dropping values. Whatever leaves is handed to the caller, who may have to make a system
//! call to drop it.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// The map. `limit` is at least one.
#[derive(Debug)]
pub(super) struct SecondChance<K, V> {
    places: HashMap<K, usize>,
    slots: Vec<Slot<K, V>>,
    hand: usize,
    limit: usize,
}

#[derive(Debug)]
struct Slot<K, V> {
    key: K,
    value: V,
    used: Use,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    Recent,
    Passed,
}

impl<K: Clone + Eq + Hash, V> SecondChance<K, V> {
    /// Returns an empty one for at most `limit` entries, or one entry when `limit` is zero.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            places: HashMap::new(),
            slots: Vec::new(),
            hand: 0,
            limit: limit.max(1),
        }
    }

    /// Returns the value of `key`.
    pub(super) fn find<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let slot = &mut self.slots[*self.places.get(key)?];
        slot.used = Use::Recent;
        Some(&slot.value)
    }

    /// Puts `value` under `key`; returns the value that had to go for it, if any.
    #[must_use]
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let slot = Slot {
            key: key.clone(),
            value,
            used: Use::Passed,
        };
        if let Some(&place) = self.places.get(&key) {
            return Some(std::mem::replace(&mut self.slots[place], slot).value);
        }
        if self.slots.len() < self.limit {
            self.places.insert(key, self.slots.len());
            self.slots.push(slot);
            return None;
        }
        let place = self.place_to_reuse();
        let gone = std::mem::replace(&mut self.slots[place], slot);
        self.places.remove(&gone.key);
        self.places.insert(key, place);
        Some(gone.value)
    }

    /// Takes `key` out.
    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let place = self.places.remove(key)?;
        let gone = self.slots.swap_remove(place);
        if let Some(moved) = self.slots.get(place) {
            *self
                .places
                .get_mut(moved.key.borrow())
                .expect("every slot has its place") = place;
        }
        Some(gone.value)
    }

    /// Takes out every entry whose key is `unwanted`; looks at all of them.
    pub(super) fn remove_all(&mut self, unwanted: impl Fn(&K) -> bool) -> Vec<(K, V)> {
        let keys: Vec<K> = self.places.keys().filter(|key| unwanted(key)).cloned().collect();
        keys.into_iter()
            .filter_map(|key| {
                let value = self.remove(&key)?;
                Some((key, value))
            })
            .collect()
    }

    /// Returns the number of entries.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Moves the hand to the first entry not asked for since it last passed; ends within two rounds.
    fn place_to_reuse(&mut self) -> usize {
        loop {
            let place = self.hand % self.slots.len();
            self.hand = place + 1;
            let slot = &mut self.slots[place];
            match slot.used {
                Use::Recent => slot.used = Use::Passed,
                Use::Passed => return place,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u32),
        Find(u8),
        Remove(u8),
        RemoveEven,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..12u8, any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
            4 => (0..12u8).prop_map(Step::Find),
            2 => (0..12u8).prop_map(Step::Remove),
            1 => Just(Step::RemoveEven),
        ]
    }

    proptest! {
        /// Against a map without limit: what is found is what was put, nothing is lost but through the limit, and
        /// whatever leaves is handed back.
        #[test]
        fn it_is_a_map_that_forgets_no_more_than_it_must(
            limit in 1..8usize,
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut map = SecondChance::new(limit);
            let mut model: HashMap<u8, u32> = HashMap::new();
            for step in steps {
                match step {
                    Step::Insert(key, value) => {
                        let full = model.len() == limit && !model.contains_key(&key);
                        let gone = map.insert(key, value);
                        let expected = model.insert(key, value);
                        if full {
                            model.retain(|kept, _| map.places.contains_key(kept));
                            prop_assert!(gone.is_some());
                        } else {
                            prop_assert_eq!(gone, expected);
                        }
                    }
                    Step::Find(key) => prop_assert_eq!(map.find(&key), model.get(&key)),
                    Step::Remove(key) => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    Step::RemoveEven => {
                        map.remove_all(|key| key % 2 == 0);
                        model.retain(|key, _| key % 2 != 0);
                    }
                }
                prop_assert_eq!(map.len(), model.len());
                prop_assert!(map.len() <= limit);
                for (key, value) in &model {
                    prop_assert_eq!(map.slots[map.places[key]].value, *value);
                }
            }
        }
    }

    #[test]
    fn what_was_asked_for_lately_stays() {
        let mut map = SecondChance::new(3);
        for key in 0..3 {
            assert_eq!(map.insert(key, key), None);
        }
        assert!(map.insert(3, 3).is_some());
        for newcomer in 4..20 {
            assert!(map.find(&3).is_some(), "before {newcomer}");
            assert!(map.insert(newcomer, newcomer).is_some());
        }
        assert!(map.find(&3).is_some());
    }
}
