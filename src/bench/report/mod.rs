//! A run, or several, as one page of HTML that needs nothing else: charts as SVG, tables, and the records as JSON inside.
//!
//! Invariants
//! - No script and no address: the page shows the same wherever it lies.
//! - Whatever text a record holds, it is text in the page.
//!
//! What is not here: how a chart is drawn (`chart`).

mod chart;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use self::chart::{Across, Chart, Line, Stroke};
use super::compare::{Comparison, compare};
use super::measure::number;
use super::payload::to_u64;
use super::run_record::{RunRecord, SecondFigures};

const STYLE: &str = include_str!("style.css");

/// Text as it stands in HTML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Shows a number with as many digits as say something.
pub(super) fn shown(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        _ => 4,
    };
    let plain = format!("{value:.digits$}");
    let (whole, rest) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// Draws records, each with what it is called, into one page.
pub fn report(records: &[(String, RunRecord)]) -> String {
    let names: Vec<_> = records.iter().map(|(name, _)| escaped(name)).collect();
    let title = match records {
        [(_, only)] => escaped(&only.name),
        _ => names.join(" and "),
    };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>siltstone bench: {title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    );
    for (_, record) in records {
        page.push_str(&head(record));
    }
    page.push_str(&tiles(records));
    page.push_str(&charts(records));
    let comparison = compare(records);
    page.push_str(&figures(records, &comparison));
    page.push_str(&latencies(records));
    for (name, record) in records {
        let of = if records.len() > 1 {
            format!(" of {}", escaped(name))
        } else {
            String::new()
        };
        page.push_str(&verification(record, &of));
        page.push_str(&settings(record, &of));
    }
    page.push_str(&differences(records, &comparison));
    for (_, record) in records {
        let json = serde_json::to_string(record).expect("plain data becomes JSON");
        // What could end the element, or hide its end, begins so.
        let json = json.replace('<', "\\u003c");
        let _ = writeln!(page, "<script type=\"application/json\">{json}</script>");
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn head(record: &RunRecord) -> String {
    let machine = &record.machine;
    let server = match &record.server {
        Some(server) => format!("server {}", escaped(server)),
        None => "a server of its own".to_owned(),
    };
    format!(
        "<p class=\"about\">{}</p>\n<p class=\"where\">{} &middot; Siltstone {} &middot; {server} &middot; {} cores, {}, {} MB, \
         {} &middot; Linux {} &middot; seed {}<br><code>{}</code></p>\n",
        escaped(&record.workload.about),
        escaped(&record.started),
        escaped(&record.siltstone),
        machine.cores,
        escaped(&machine.processor),
        shown(number(machine.memory_mb)),
        escaped(&machine.file_system),
        escaped(&machine.kernel),
        record.workload.seed,
        escaped(&record.command),
    )
}

/// The few numbers that are looked for first.
fn tiles(records: &[(String, RunRecord)]) -> String {
    let [(_, record)] = records else {
        return String::new();
    };
    let mut tiles = Vec::new();
    let figure = |name: &str| record.figures.iter().find(|figure| figure.name == name);
    for (name, label) in [
        ("produce.records", "records/s in"),
        ("produce.bytes", "MB/s in"),
        ("tail.records", "records/s out, following"),
        ("catch_up.bytes", "MB/s out, catching up"),
        ("by_time.reads", "reads/s by time"),
    ] {
        tiles.extend(figure(name).map(|figure| (shown(figure.value), label.to_owned())));
    }
    for (name, label) in [("acknowledged", "to acknowledge"), ("end_to_end", "end to end")] {
        if let Some(latency) = record.latency(name) {
            tiles.push((format!("{} ms", shown(latency.p50_ms)), format!("{label}, p50")));
            tiles.push((format!("{} ms", shown(latency.p99_ms)), format!("{label}, p99")));
        }
    }
    let tile = |(value, label): &(String, String)| format!("<div><b>{value}</b><span>{label}</span></div>");
    let tiles: Vec<_> = tiles.iter().map(tile).collect();
    format!("<div class=\"tiles\">{}</div>\n", tiles.concat())
}

fn charts(records: &[(String, RunRecord)]) -> String {
    let mut page = String::new();
    for (series, title) in [
        ("acknowledged", "From the intended send to the acknowledgement"),
        ("end_to_end", "From the intended send to a following reader"),
        ("by_time", "A whole read between two times"),
    ] {
        let lines = over_time(records, series);
        let chart = Chart {
            title: format!("{title}, ms"),
            across: Across::Seconds,
            lines,
            unit: "ms",
        };
        page.push_str(&chart.svg());
    }
    let live = [("acknowledged", "written"), ("end_to_end", "read, following")];
    let again = [("catch_up", "read, catching up"), ("by_time", "read by time")];
    let in_records: Value = |second| number(second.records);
    let in_megabytes: Value = |second| second.mb;
    for (title, unit, kinds, value) in [
        (
            "Records in a second, as they are written",
            "records/s",
            live,
            in_records,
        ),
        (
            "Megabytes in a second, as they are written",
            "MB/s",
            live,
            in_megabytes,
        ),
        ("Megabytes in a second, read again", "MB/s", again, in_megabytes),
    ] {
        let chart = Chart {
            title: title.to_owned(),
            across: Across::Seconds,
            lines: amounts(records, kinds, value),
            unit,
        };
        page.push_str(&chart.svg());
    }
    page.push_str(&percentiles(records).svg());
    page
}

/// What is drawn of a second.
type Value = fn(&SecondFigures) -> f64;

fn amounts(records: &[(String, RunRecord)], kinds: [(&str, &str); 2], value: Value) -> Vec<Line> {
    let mut lines = Vec::new();
    for (kind, (series, label)) in kinds.into_iter().enumerate() {
        for (run, (name, record)) in records.iter().enumerate() {
            let Some(series) = record.series(series) else {
                continue;
            };
            // The last is but a part of a second.
            let whole = series.seconds.iter().take(duration(record)).enumerate();
            lines.push(Line {
                label: labelled(records, name, label),
                stroke: Stroke::of(kind, run),
                points: whole
                    .map(|(at, second)| (number(to_u64(at)), Some(value(second))))
                    .collect(),
            });
        }
    }
    lines
}

fn duration(record: &RunRecord) -> usize {
    usize::try_from(record.workload.duration_s).unwrap_or(usize::MAX)
}

fn labelled(records: &[(String, RunRecord)], name: &str, label: &str) -> String {
    match records.len() {
        1 => label.to_owned(),
        _ => format!("{name}: {label}"),
    }
}

/// A time of a second.
type Time = fn(&SecondFigures) -> Option<f64>;

fn over_time(records: &[(String, RunRecord)], series: &str) -> Vec<Line> {
    let values: [(&str, Time); 3] = [
        ("p50", |second| second.p50_ms),
        ("p99", |second| second.p99_ms),
        ("max", |second| second.max_ms),
    ];
    let mut lines = Vec::new();
    for (run, (name, record)) in records.iter().enumerate() {
        let Some(series) = record.series(series) else {
            continue;
        };
        for (kind, (label, value)) in values.iter().enumerate() {
            let seconds = series.seconds.iter().enumerate();
            lines.push(Line {
                label: labelled(records, name, label),
                stroke: Stroke::of(kind, run),
                points: seconds
                    .map(|(at, second)| (number(to_u64(at)), value(second)))
                    .collect(),
            });
        }
    }
    lines
}

fn percentiles(records: &[(String, RunRecord)]) -> Chart {
    let mut lines = Vec::new();
    for (run, (name, record)) in records.iter().enumerate() {
        for (kind, latency) in record.latencies.iter().enumerate() {
            let points = latency.curve.iter().map(|(percent, ms)| (*percent, Some(*ms)));
            lines.push(Line {
                label: labelled(records, name, &latency.name.replace('_', " ")),
                stroke: Stroke::of(kind, run),
                points: points.collect(),
            });
        }
    }
    Chart {
        title: "Percentiles, ms".to_owned(),
        across: Across::Percentiles,
        lines,
        unit: "ms",
    }
}

fn table(title: &str, columns: &[String], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let line = |cells: &[String], tag: &str| {
        let cells = cells.iter().map(|cell| format!("<{tag}>{cell}</{tag}>"));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let rows: String = rows.iter().map(|row| line(row, "td")).collect();
    format!(
        "<h2>{title}</h2>\n<div class=\"wide\"><table>\n<thead>\n{}</thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n",
        line(columns, "th")
    )
}

fn words(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn figures(records: &[(String, RunRecord)], comparison: &Comparison) -> String {
    let [(_, record)] = records else {
        return compared(records, comparison);
    };
    let mut rows = Vec::new();
    for figure in &record.figures {
        let mut row = vec![escaped(&figure.name), shown(figure.value), escaped(&figure.unit)];
        match figure.limits.split_first() {
            None => row.extend(words(&["", "", ""])),
            Some((first, more)) => {
                let cells = |limit: &super::Ratio| {
                    [
                        escaped(&limit.limit),
                        shown(limit.limit_value),
                        format!("{:.3}", limit.ratio),
                    ]
                };
                row.extend(cells(first));
                rows.push(row);
                for limit in more {
                    rows.push([&words(&["", "", ""])[..], &cells(limit)].concat());
                }
                continue;
            }
        }
        rows.push(row);
    }
    let columns = words(&[
        "figure",
        "value",
        "unit",
        "limit of the machine",
        "its value",
        "ratio",
    ]);
    let limits = record
        .limits
        .iter()
        .map(|limit| vec![escaped(&limit.name), shown(limit.value), escaped(&limit.unit)]);
    let limits = table(
        "Limits of the machine, measured in the same run",
        &words(&["limit", "value", "unit"]),
        &limits.collect::<Vec<_>>(),
    );
    table("Figures", &columns, &rows) + &limits
}

fn compared(records: &[(String, RunRecord)], comparison: &Comparison) -> String {
    let mut columns = words(&["figure", "unit"]);
    for (place, (name, _)) in records.iter().enumerate() {
        columns.push(escaped(name));
        if place > 0 {
            columns.push("ratio".to_owned());
        }
    }
    let rows = comparison.rows.iter().map(|row| {
        let mut cells = vec![escaped(&row.name), escaped(&row.unit)];
        for (place, (value, ratio)) in row.values.iter().zip(&row.ratios).enumerate() {
            cells.push(value.map_or(String::new(), shown));
            if place > 0 {
                cells.push(ratio.map_or(String::new(), |ratio| format!("{ratio:.3}")));
            }
        }
        cells
    });
    table("Figures", &columns, &rows.collect::<Vec<_>>())
}

fn latencies(records: &[(String, RunRecord)]) -> String {
    let mut rows = Vec::new();
    for (name, record) in records {
        for latency in &record.latencies {
            let mut row = vec![escaped(&labelled(records, name, &latency.name))];
            row.push(shown(number(latency.count)));
            let times = [
                latency.mean_ms,
                latency.p50_ms,
                latency.p90_ms,
                latency.p99_ms,
                latency.p999_ms,
                latency.max_ms,
            ];
            row.extend(times.map(shown));
            rows.push(row);
        }
    }
    let columns = words(&[
        "latency, ms",
        "count",
        "mean",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
    ]);
    table("Latencies", &columns, &rows)
}

fn verification(record: &RunRecord, of: &str) -> String {
    let found = &record.verification;
    let mut rows = vec![
        vec!["records written".to_owned(), shown(number(found.written_records))],
        vec![
            "records checked, by all readers".to_owned(),
            shown(number(found.checked_records)),
        ],
        vec![
            "records found by the last read".to_owned(),
            shown(number(found.found_records)),
        ],
    ];
    if let Some(keys) = found.keys {
        rows.push(vec![
            "keys whose newest record is there".to_owned(),
            shown(number(keys)),
        ]);
    }
    rows.push(vec!["chain".to_owned(), escaped(&found.chain)]);
    rows.extend(found.ok.iter().map(|ok| vec![escaped(ok), "checked".to_owned()]));
    table(&format!("Verification{of}"), &words(&["what", ""]), &rows)
}

fn settings(record: &RunRecord, of: &str) -> String {
    let rows = record.settings.iter().map(|setting| {
        vec![
            escaped(&setting.name),
            escaped(&setting.value),
            escaped(&setting.source),
        ]
    });
    let settings = table(
        &format!("Settings that are not the default{of}"),
        &words(&["setting", "value", "given by"]),
        &rows.collect::<Vec<_>>(),
    );
    let plan = serde_json::to_string_pretty(&record.workload).expect("plain data becomes JSON");
    format!("{settings}<h2>Workload{of}</h2>\n<pre>{}</pre>\n", escaped(&plan))
}

fn differences(records: &[(String, RunRecord)], comparison: &Comparison) -> String {
    let names = records.iter().map(|(name, _)| escaped(name));
    let columns: Vec<_> = ["what".to_owned()].into_iter().chain(names).collect();
    let rows = comparison.differences.iter().map(|difference| {
        let values = difference
            .values
            .iter()
            .map(|value| escaped(value.as_deref().unwrap_or("-")));
        [escaped(&difference.what)].into_iter().chain(values).collect()
    });
    table("What differs", &columns, &rows.collect::<Vec<_>>())
}
