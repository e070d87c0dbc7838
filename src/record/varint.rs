//! Variable-length integers of records: zigzag, then groups of seven bits, the lowest first.
//!
//! ```text
//!  value 150 -> zigzag 300 -> 1010_1100 0000_0010
//!                             ^ more     ^ last
//! ```
//!
//! At most 5 bytes for 32 bits and 10 for 64. A number written longer than needed is read, as Kafka reads it; one with
//! bits beyond its width is refused.

/// The most bytes a 32-bit number takes.
pub(super) const MAX_LEN_32: usize = 5;
/// The most bytes a 64-bit number takes.
const MAX_LEN_64: usize = 10;

/// Reads a 32-bit number from `bytes` at `*at` and moves `*at` past it; `None` when it is cut off or too long.
#[inline]
pub(super) fn read_i32(bytes: &[u8], at: &mut usize) -> Option<i32> {
    let raw = match *bytes.get(*at..)? {
        // Nearly every number of a record fits one or two bytes.
        [low, ..] if low < 0x80 => {
            *at += 1;
            u32::from(low)
        }
        [low, high, ..] if high < 0x80 => {
            *at += 2;
            u32::from(low & 0x7F) | u32::from(high) << 7
        }
        _ => {
            let mut end = *at;
            let raw = u32::try_from(read_groups(bytes, &mut end, MAX_LEN_32)?).ok()?;
            *at = end;
            raw
        }
    };
    Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
}

/// Reads a 64-bit number, as [`read_i32`] does.
#[inline]
pub(super) fn read_i64(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let raw = match *bytes.get(*at..)? {
        [low, ..] if low < 0x80 => {
            *at += 1;
            u64::from(low)
        }
        _ => read_groups(bytes, at, MAX_LEN_64)?,
    };
    Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
}

fn read_groups(bytes: &[u8], at: &mut usize, max_len: usize) -> Option<u64> {
    let mut raw = 0u64;
    for (group, &byte) in bytes.get(*at..)?.iter().take(max_len).enumerate() {
        let bits = u64::from(byte & 0x7F);
        let shift = group * 7;
        if bits << shift >> shift != bits {
            return None;
        }
        raw |= bits << shift;
        if byte < 0x80 {
            *at += group + 1;
            return Some(raw);
        }
    }
    None
}

/// Appends a 32-bit number to `out`.
pub(super) fn write_i32(out: &mut Vec<u8>, value: i32) {
    write_groups(out, u64::from(zigzag_32(value)));
}

/// Appends a 64-bit number to `out`.
pub(super) fn write_i64(out: &mut Vec<u8>, value: i64) {
    write_groups(out, zigzag_64(value));
}

/// Returns how many bytes a 32-bit number takes.
pub(super) fn len_i32(value: i32) -> usize {
    len_groups(u64::from(zigzag_32(value)))
}

/// Returns how many bytes a 64-bit number takes.
pub(super) fn len_i64(value: i64) -> usize {
    len_groups(zigzag_64(value))
}

fn zigzag_32(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)).cast_unsigned()
}

fn zigzag_64(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn write_groups(out: &mut Vec<u8>, mut raw: u64) {
    while raw >= 0x80 {
        out.push(low_group(raw) | 0x80);
        raw >>= 7;
    }
    out.push(low_group(raw));
}

fn low_group(raw: u64) -> u8 {
    u8::try_from(raw & 0x7F).expect("seven bits fit a byte")
}

fn len_groups(raw: u64) -> usize {
    let bits = usize::try_from(u64::BITS - (raw | 1).leading_zeros()).expect("at most 64");
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_i32(value: i32, bytes: &[u8]) {
        let mut out = Vec::new();
        write_i32(&mut out, value);
        assert_eq!(out, bytes, "{value} written");
        assert_eq!(len_i32(value), bytes.len(), "{value} measured");
        let mut at = 0;
        assert_eq!(read_i32(bytes, &mut at), Some(value));
        assert_eq!(at, bytes.len());
    }

    fn check_i64(value: i64, bytes: &[u8]) {
        let mut out = Vec::new();
        write_i64(&mut out, value);
        assert_eq!(out, bytes, "{value} written");
        assert_eq!(len_i64(value), bytes.len(), "{value} measured");
        let mut at = 0;
        assert_eq!(read_i64(bytes, &mut at), Some(value));
        assert_eq!(at, bytes.len());
    }

    #[test]
    fn numbers_have_kafkas_bytes() {
        check_i32(0, &[0x00]);
        check_i32(-1, &[0x01]);
        check_i32(1, &[0x02]);
        check_i32(63, &[0x7E]);
        check_i32(-64, &[0x7F]);
        check_i32(64, &[0x80, 0x01]);
        check_i32(150, &[0xAC, 0x02]);
        check_i32(8191, &[0xFE, 0x7F]);
        check_i32(8192, &[0x80, 0x80, 0x01]);
        check_i32(i32::MAX, &[0xFE, 0xFF, 0xFF, 0xFF, 0x0F]);
        check_i32(i32::MIN, &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]);
        check_i64(-1, &[0x01]);
        check_i64(64, &[0x80, 0x01]);
        check_i64(
            i64::MAX,
            &[0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        );
        check_i64(
            i64::MIN,
            &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        );
    }

    #[test]
    fn a_number_cut_off_or_too_wide_is_refused() {
        for bytes in [
            &[][..],
            &[0x80],
            &[0xFF, 0xFF],
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
            &[0xFF, 0xFF, 0xFF, 0xFF, 0x1F],
        ] {
            let mut at = 0;
            assert_eq!(read_i32(bytes, &mut at), None, "{bytes:?}");
            assert_eq!(at, 0, "nothing was consumed of {bytes:?}");
        }
        let mut eleven = [0x80; 11];
        eleven[10] = 0;
        assert_eq!(read_i64(&eleven, &mut 0), None);
        let mut too_wide = [0xFF; 10];
        too_wide[9] = 0x03;
        assert_eq!(read_i64(&too_wide, &mut 0), None);
    }

    #[test]
    fn a_number_written_longer_than_needed_is_read() {
        let mut at = 0;
        assert_eq!(read_i32(&[0x82, 0x80, 0x00], &mut at), Some(1));
        assert_eq!(at, 3);
    }

    proptest! {
        #[test]
        fn every_number_round_trips(narrow: i32, wide: i64, shift in 0..64u32) {
            let wide = wide >> shift;
            let mut out = Vec::new();
            write_i32(&mut out, narrow);
            write_i64(&mut out, wide);
            prop_assert_eq!(out.len(), len_i32(narrow) + len_i64(wide));
            let mut at = 0;
            prop_assert_eq!(read_i32(&out, &mut at), Some(narrow));
            prop_assert_eq!(read_i64(&out, &mut at), Some(wide));
            prop_assert_eq!(at, out.len());
        }

        #[test]
        fn arbitrary_bytes_are_read_or_refused(bytes: Vec<u8>, start in 0..20usize) {
            let mut at = start;
            let _ = read_i32(&bytes, &mut at);
            prop_assert!(at == start || at <= bytes.len());
            let mut at = start;
            let _ = read_i64(&bytes, &mut at);
            prop_assert!(at == start || at <= bytes.len());
        }
    }
}
