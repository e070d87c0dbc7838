//! Values of settings as text: what is taken, and what is said about what is not.

use std::ops::RangeInclusive;

/// Units that a size may be given in, largest first.
const UNITS: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

/// Reads a number, of bytes also with a unit: `67108864`, `64MiB`.
pub(super) fn size(text: &str, range: &RangeInclusive<u64>) -> Result<u64, String> {
    let parsed = UNITS
        .iter()
        .find_map(|(unit, bytes)| {
            Some(
                text.strip_suffix(unit)?
                    .trim_end()
                    .parse::<u64>()
                    .ok()?
                    .checked_mul(*bytes),
            )
        })
        .unwrap_or_else(|| text.parse().ok());
    match parsed {
        Some(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "a size of {} to {}",
            size_text(*range.start()),
            size_text(*range.end())
        )),
    }
}

/// Writes a size in the largest unit that divides it.
pub(super) fn size_text(bytes: u64) -> String {
    UNITS
        .iter()
        .find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))
        .map_or_else(
            || format!("{bytes} bytes"),
            |(name, unit)| format!("{}{name}", bytes / unit),
        )
}

/// Reads a plain number.
pub(super) fn number(text: &str, range: &RangeInclusive<u64>) -> Result<u64, String> {
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "a whole number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// Reads `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "true or false".to_owned())
}

/// Checks that text is `host:port`.
pub(super) fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("host:port, such as 127.0.0.1:9095; port 0 picks a free one".to_owned()),
    }
}

/// Returns the one of `names` that `name` was most likely meant to be.
pub(super) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let acceptable = name.len() / 3 + 1;
    names
        .map(|candidate| (distance(name, candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= acceptable)
        .map(|(_, candidate)| candidate)
}

/// Letters to change, add or drop between two words (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_taken_with_and_without_a_unit_inside_their_range_only() {
        let range = 1024..=1 << 30;
        assert_eq!(size("4096", &range), Ok(4096));
        assert_eq!(size("64MiB", &range), Ok(64 << 20));
        assert_eq!(size("1 GiB", &range), Ok(1 << 30));
        for bad in [
            "",
            "64MB",
            "-1",
            "1.5MiB",
            "1023",
            "2GiB",
            "99999999999999TiB",
            "MiB",
        ] {
            assert_eq!(
                size(bad, &range),
                Err("a size of 1KiB to 1GiB".to_owned()),
                "{bad}"
            );
        }
        assert_eq!(size_text(1500), "1500 bytes");
    }

    #[test]
    fn addresses_need_a_host_and_a_port() {
        for good in ["127.0.0.1:0", "localhost:9095", "[::1]:9095"] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in ["", "9095", ":9095", "localhost", "localhost:", "localhost:70000"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_slip_finds_its_name_and_nonsense_finds_none() {
        let names = || ["data_dir", "grpc.listen", "http.listen"].into_iter();
        assert_eq!(nearest("grpc.lisen", names()), Some("grpc.listen"));
        assert_eq!(nearest("datadir", names()), Some("data_dir"));
        assert_eq!(nearest("retention.ms", names()), None);
    }
}
