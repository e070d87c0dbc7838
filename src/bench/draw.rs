//! Chance that is the same in every run: bits from a number, and what can be drawn with them.
//!
//! Everything is a function of its arguments alone, so that a reader may draw again what a writer drew.

use super::measure::number;

/// Bytes of a key: a number in hexadecimal digits.
pub(super) const KEY_LEN: usize = 16;

/// Spreads a number over 64 bits (splitmix64).
pub(super) fn mixed(n: u64) -> u64 {
    let mut bits = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Returns a number from 0 to 1, without 1.
pub(super) fn fraction(bits: u64) -> f64 {
    number(bits >> 11) / number(1 << 53)
}

/// Returns a number below `count`, all as likely.
pub(super) fn below(bits: u64, count: u64) -> u64 {
    let product = u128::from(bits) * u128::from(count);
    u64::try_from(product >> 64).expect("less than the count")
}

/// Returns a number below `count`; `k` comes about `(k + 1)^-exponent` as often as 0.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive number no greater than `count`"
)]
pub(super) fn zipf(bits: u64, count: u32, exponent: f64) -> u64 {
    let part = fraction(bits);
    let all = f64::from(count) + 1.0;
    // The inverse of the area under x^-exponent from 1 to `all`.
    let flat = 1.0 - exponent;
    let rank = if flat.abs() < 1e-9 {
        all.powf(part)
    } else {
        (part * (all.powf(flat) - 1.0) + 1.0).powf(1.0 / flat)
    };
    (rank as u64).clamp(1, u64::from(count)) - 1
}

/// Returns a number whose logarithm is spread as a bell around that of `median`; `sigma` is the bell's width.
pub(super) fn lognormal(bits: u64, median: f64, sigma: f64) -> f64 {
    // Box and Muller's way from two even numbers to a normal one.
    let radius = (-2.0 * (1.0 - fraction(bits)).ln()).sqrt();
    let normal = radius * (std::f64::consts::TAU * fraction(mixed(bits))).cos();
    median * (sigma * normal).exp()
}

/// Writes a key as text.
pub(super) fn key_text(key: u32) -> [u8; KEY_LEN] {
    let mut text = [b'0'; KEY_LEN];
    let mut rest = key;
    for digit in text.iter_mut().rev() {
        *digit = b"0123456789abcdef"[usize::try_from(rest % 16).expect("a digit")];
        rest /= 16;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(count: u32, draw: impl Fn(u64) -> u64) -> Vec<u32> {
        let mut counts = vec![0_u32; usize::try_from(count).unwrap()];
        for n in 0..100_000 {
            counts[usize::try_from(draw(mixed(n))).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn zipf_prefers_the_first_the_more_the_greater_the_exponent_and_reaches_the_last() {
        let first = [0.0, 0.5, 1.0, 1.5].map(|exponent| {
            let counts = counts(50, |bits| zipf(bits, 50, exponent));
            assert!(counts.iter().all(|count| *count > 0), "{exponent}: {counts:?}");
            counts[0]
        });
        assert!((1_800..2_200).contains(&first[0]), "{first:?}");
        assert!(first.is_sorted() && first[3] > 8 * first[0], "{first:?}");
    }

    #[test]
    fn a_number_below_a_count_is_any_of_them_as_often() {
        let counts = counts(10, |bits| below(bits, 10));
        assert!(
            counts.iter().all(|count| (9_000..11_000).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn half_of_a_lognormal_lies_below_its_median_and_a_sixth_beyond_one_sigma() {
        let draws = || (0..100_000).map(|n| lognormal(mixed(n), 300.0, 1.0));
        let below = draws().filter(|value| *value < 300.0).count();
        let beyond = draws()
            .filter(|value| *value > 300.0 * std::f64::consts::E)
            .count();
        assert!((49_000..51_000).contains(&below), "{below}");
        assert!((15_000..16_800).contains(&beyond), "{beyond}");
    }
}
