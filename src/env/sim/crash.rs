//! What is found after the power went: the choice, and the dice it is made with.

/// What a crash does to everything that was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashChoice {
    /// Nothing of it reached the disk.
    LoseAll,
    /// All of it had reached the disk.
    KeepAll,
    /// Each write is kept, lost or torn by itself, so later ones may be there and earlier ones not; each change of a name
    /// is kept or lost, but never without those that it follows on the same name. Equal seeds choose equally.
    Random(u64),
}

/// Random numbers that a seed repeats everywhere (SplitMix64: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number
/// Generators", 2014).
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number in `0..bound`; zero for a bound of zero.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let below = mixed.checked_rem(bound as u64).unwrap_or(0);
        usize::try_from(below).expect("less than a usize")
    }
}
