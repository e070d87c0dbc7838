//! Standard output and standard error: one way to each, and tables for people.

use std::io::{self, Write};

use super::CliError;

/// Writes `bytes` to standard output.
pub(super) fn write_all(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// Writes `bytes` to standard output from a thread that may wait for a slow reader, and gives them back for use again: the
/// caller stays free to be told of Ctrl-C.
pub(super) async fn write_aside(bytes: Vec<u8>) -> Result<Vec<u8>, CliError> {
    let writing = tokio::task::spawn_blocking(move || write_all(&bytes).map(|()| bytes));
    writing.await.map_err(io::Error::other)?
}

/// Writes JSON values to standard output, one a line.
pub(super) fn json_lines(values: &[serde_json::Value]) -> Result<(), CliError> {
    let mut text = String::new();
    for value in values {
        text.push_str(&value.to_string());
        text.push('\n');
    }
    write_all(text.as_bytes())
}

/// Says one line on standard error.
#[allow(clippy::print_stderr, reason = "the one way to standard error")]
pub(super) fn say(line: &str) {
    eprintln!("{line}");
}

/// How a column's cells stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Align {
    Left,
    Right,
}

/// Lines up rows under their headings, two spaces between columns, nothing at the end of a line.
pub(super) fn table(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |column: usize, heading: &str| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(heading.chars().count())
    };
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(column, (heading, _))| width(column, heading))
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells
            .zip(columns.iter().zip(&widths))
            .map(|(cell, ((_, align), width))| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            })
            .collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut text = line(&mut columns.iter().map(|(heading, _)| *heading));
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// Shows a size with the unit that keeps it short: `1.5 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, so that no floating point is needed.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn a_table_lines_up_and_leaves_nothing_at_the_end_of_lines() {
        let rows = vec![
            vec!["a".to_owned(), "7".to_owned()],
            vec!["long".to_owned(), "1234".to_owned()],
        ];
        expect![[r#"
            NAME  COUNT
            a         7
            long   1234
        "#]]
        .assert_eq(&table(&[("NAME", Align::Left), ("COUNT", Align::Right)], &rows));
    }

    #[test]
    fn sizes_have_one_decimal_from_a_kibibyte_on() {
        let sizes = [0, 1023, 1024, 1536, 1 << 20, 5 << 30, u64::MAX];
        let shown: Vec<_> = sizes.map(size).into_iter().collect();
        assert_eq!(
            shown,
            [
                "0 B",
                "1023 B",
                "1.0 KiB",
                "1.5 KiB",
                "1.0 MiB",
                "5.0 GiB",
                "16777215.9 TiB"
            ]
        );
    }
}
