//! A map that knows what was used longest ago: what the caches of the tier are made of.
//!
//! What is not here: a bound. Whoever owns one takes values out until it holds.

use std::collections::BTreeMap;
use std::ops::Range;

/// Values by key, of which the ones that were used longest ago go first.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    values: BTreeMap<K, (u64, V)>,
    by_use: BTreeMap<u64, K>,
    uses: u64,
}

impl<K: Clone + Ord, V> Recent<K, V> {
    pub(super) fn new() -> Self {
        Self {
            values: BTreeMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
        }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        let (used, value) = self.values.get_mut(key)?;
        self.by_use.remove(used);
        self.uses += 1;
        *used = self.uses;
        self.by_use.insert(*used, key.clone());
        Some(value)
    }

    /// Looks at the value of this key, or of the greatest below it; that is no use.
    pub(super) fn at_or_before(&self, key: &K) -> Option<(&K, &V)> {
        let (found, (_, value)) = self.values.range(..=key).next_back()?;
        Some((found, value))
    }

    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = self.remove(&key);
        self.uses += 1;
        self.by_use.insert(self.uses, key.clone());
        self.values.insert(key, (self.uses, value));
        before
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let (used, value) = self.values.remove(key)?;
        self.by_use.remove(&used);
        Some(value)
    }

    /// Takes out what was used longest ago.
    pub(super) fn pop(&mut self) -> Option<(K, V)> {
        let (_, key) = self.by_use.pop_first()?;
        let (_, value) = self.values.remove(&key)?;
        Some((key, value))
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    #[cfg(test)]
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.values.values().map(|(_, value)| value)
    }

    pub(super) fn keys_in(&self, range: Range<K>) -> Vec<K> {
        self.values.range(range).map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut recent = Recent::new();
        for key in [1, 2, 3] {
            assert_eq!(recent.insert(key, key * 10), None);
        }
        assert_eq!(recent.get(&1), Some(&10));
        assert_eq!(recent.insert(2, 21), Some(20));
        assert_eq!(recent.keys_in(2..9), [2, 3]);
        assert_eq!(recent.at_or_before(&9), Some((&3, &30)));
        assert_eq!(recent.at_or_before(&0), None);
        assert_eq!(recent.pop(), Some((3, 30)));
        assert_eq!(recent.remove(&1), Some(10));
        assert_eq!(
            (recent.len(), recent.pop(), recent.pop()),
            (1, Some((2, 21)), None)
        );
    }
}
