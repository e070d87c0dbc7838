//! RFC 3339 times, to and from milliseconds since the epoch.
//!
//! `2013-01-03T12:00:00Z`, `2013-01-03T13:00:00.250+01:00`: a date, a time, an offset; nothing may be missing. Digits
//! beyond the millisecond are cut. A leap second (`:60`) is the second after. Years are 0000 to 9999.
//!
//! The calendar arithmetic is Howard Hinnant's (`days_from_civil`), in years that begin on 1 March. What is not here: time zones
//! by name, the current time.

use crate::types::Timestamp;

const MS_PER_SECOND: i64 = 1000;
const SECONDS_PER_DAY: i64 = 86_400;
/// Days of 400 years, after which the calendar repeats.
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;

/// Reads an RFC 3339 time. `None` when the text is not one.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    let mut rest = text.as_bytes();
    let year = digits(&mut rest, 4)?;
    literal(&mut rest, b"-")?;
    let month = digits(&mut rest, 2).filter(|month| (1..=12).contains(month))?;
    literal(&mut rest, b"-")?;
    let day = digits(&mut rest, 2).filter(|day| (1..=days_in_month(year, month)).contains(day))?;
    literal(&mut rest, b"Tt ")?;
    let hour = digits(&mut rest, 2).filter(|hour| *hour < 24)?;
    literal(&mut rest, b":")?;
    let minute = digits(&mut rest, 2).filter(|minute| *minute < 60)?;
    literal(&mut rest, b":")?;
    let second = digits(&mut rest, 2).filter(|second| *second <= 60)?;
    let ms = fraction_ms(&mut rest)?;
    let offset_minutes = offset_minutes(&mut rest)?;
    if !rest.is_empty() {
        return None;
    }
    let days = days_from_civil(year, month, day);
    let seconds = days * SECONDS_PER_DAY + hour * 3600 + (minute - offset_minutes) * 60 + second;
    Some(Timestamp(seconds * MS_PER_SECOND + ms))
}

/// Shows a time as `2013-01-03T12:00:00.000Z`, or as milliseconds where the year does not have four digits.
pub(super) fn format(time: Timestamp) -> String {
    let days = time.0.div_euclid(SECONDS_PER_DAY * MS_PER_SECOND);
    let ms_of_day = time.0.rem_euclid(SECONDS_PER_DAY * MS_PER_SECOND);
    let (year, month, day) = civil_from_days(days);
    if !(0..=9999).contains(&year) {
        return format!("{}ms", time.0);
    }
    let (seconds, ms) = (ms_of_day / MS_PER_SECOND, ms_of_day % MS_PER_SECOND);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (digits, after) = rest.split_at_checked(count)?;
    let value = digits.iter().try_fold(0, |value, digit| {
        digit
            .is_ascii_digit()
            .then(|| value * 10 + i64::from(digit - b'0'))
    })?;
    *rest = after;
    Some(value)
}

fn literal(rest: &mut &[u8], one_of: &[u8]) -> Option<u8> {
    let (first, after) = rest.split_first().filter(|(first, _)| one_of.contains(first))?;
    *rest = after;
    Some(*first)
}

/// Reads `.` and at least one digit, if they are there.
fn fraction_ms(rest: &mut &[u8]) -> Option<i64> {
    if literal(rest, b".").is_none() {
        return Some(0);
    }
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, after) = rest.split_at(count);
    *rest = after;
    let digit = |place: usize| digits.get(place).map_or(0, |digit| i64::from(digit - b'0'));
    (count > 0).then(|| digit(0) * 100 + digit(1) * 10 + digit(2))
}

fn offset_minutes(rest: &mut &[u8]) -> Option<i64> {
    let sign = match literal(rest, b"Zz+-")? {
        b'+' => 1,
        b'-' => -1,
        _ => return Some(0),
    };
    let hours = digits(rest, 2).filter(|hours| *hours < 24)?;
    literal(rest, b":")?;
    let minutes = digits(rest, 2).filter(|minutes| *minutes < 60)?;
    Some(sign * (hours * 60 + minutes))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    }
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - EPOCH_DAYS
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH_DAYS;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / (DAYS_PER_ERA - 1)) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_with_fractions_and_offsets() {
        let ms = |text: &str| parse(text).map(|time| time.0);
        assert_eq!(ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(ms("2013-01-01T10:15:00Z"), Some(1_357_035_300_000));
        assert_eq!(ms("2013-01-01T11:15:00+01:00"), Some(1_357_035_300_000));
        assert_eq!(ms("2013-01-01t05:45:00.25-04:30"), Some(1_357_035_300_250));
        assert_eq!(ms("2013-01-01 10:15:00.123999z"), Some(1_357_035_300_123));
        assert_eq!(ms("1969-12-31T23:59:59.999Z"), Some(-1));
        assert_eq!(ms("2016-12-31T23:59:60Z"), ms("2017-01-01T00:00:00Z"));
        assert_eq!(ms("2000-02-29T00:00:00Z"), Some(951_782_400_000));
        assert_eq!(ms("0000-01-01T00:00:00Z"), Some(-62_167_219_200_000));
    }

    #[test]
    fn what_is_not_a_time_is_none() {
        for text in [
            "",
            "2013",
            "2013-01-01",
            "2013-01-01T10:15:00",
            "2013-13-01T10:15:00Z",
            "2013-02-29T10:15:00Z",
            "1900-02-29T10:15:00Z",
            "2013-01-01T24:00:00Z",
            "2013-01-01T10:60:00Z",
            "2013-01-01T10:15:61Z",
            "2013-01-01T10:15:00.Z",
            "2013-01-01T10:15:00+0100",
            "2013-01-01T10:15:00Zx",
            "2013-1-1T10:15:00Z",
            "+013-01-01T10:15:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_time_reads_back_from_its_text(ms in -62_167_219_200_000_i64..253_402_300_800_000) {
            prop_assert_eq!(parse(&format(Timestamp(ms))), Some(Timestamp(ms)));
        }

        #[test]
        fn any_time_has_a_text(ms: i64) {
            prop_assert!(!format(Timestamp(ms)).is_empty());
        }

        #[test]
        fn any_text_is_a_time_or_not(text: String) {
            let _ = parse(&text);
        }
    }
}
