//! Records of runs side by side: every figure with its ratio to the first record's, and what else differs.
//!
//! What is not here: reading records (`run_record`), and printing.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::run_record::RunRecord;

/// Runs beside each other.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Comparison {
    /// What the records are called, in the order of all lists below.
    pub records: Vec<String>,
    /// What differs of machine, version, workload, seed and settings. Figures of different machines do not compare; their ratios to
    /// the machine's limits may.
    pub differences: Vec<Difference>,
    /// The figures.
    pub rows: Vec<Row>,
}

/// Something that is not the same in all records.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// What, dotted.
    pub what: String,
    /// Its values; absent where a record has none.
    pub values: Vec<Option<String>>,
}

/// A figure in all records.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// Its values; absent where a record has none.
    pub values: Vec<Option<f64>>,
    /// To the value of the first record.
    pub ratios: Vec<Option<f64>>,
}

/// Compares records, each with what it is called.
pub fn compare(records: &[(String, RunRecord)]) -> Comparison {
    Comparison {
        records: records.iter().map(|(name, _)| name.clone()).collect(),
        differences: differences(records),
        rows: rows(records),
    }
}

fn rows(records: &[(String, RunRecord)]) -> Vec<Row> {
    let all: Vec<_> = records.iter().map(|(_, record)| numbers(record)).collect();
    let mut rows: Vec<Row> = Vec::new();
    for (name, unit, _) in all.iter().flatten() {
        if rows.iter().any(|row| row.name == *name) {
            continue;
        }
        let value = |numbers: &Vec<(String, String, f64)>| {
            let found = numbers.iter().find(|(other, ..)| other == name);
            found.map(|(_, _, value)| *value)
        };
        let values: Vec<_> = all.iter().map(value).collect();
        let first = values.first().copied().flatten().filter(|first| *first != 0.0);
        rows.push(Row {
            name: name.clone(),
            unit: unit.clone(),
            ratios: values
                .iter()
                .map(|value| Some((value.as_ref()? / first? * 1000.0).round() / 1000.0))
                .collect(),
            values,
        });
    }
    rows
}

/// Returns name, unit and value of everything that was measured.
fn numbers(record: &RunRecord) -> Vec<(String, String, f64)> {
    let mut numbers = Vec::new();
    for figure in &record.figures {
        numbers.push((figure.name.clone(), figure.unit.clone(), figure.value));
        for ratio in &figure.limits {
            let name = format!("{} / {}", figure.name, ratio.limit);
            numbers.push((name, "ratio".to_owned(), ratio.ratio));
        }
    }
    for latency in &record.latencies {
        for (part, value) in [
            ("mean", latency.mean_ms),
            ("p50", latency.p50_ms),
            ("p90", latency.p90_ms),
            ("p99", latency.p99_ms),
            ("p99.9", latency.p999_ms),
            ("max", latency.max_ms),
        ] {
            numbers.push((format!("{}.{part}", latency.name), "ms".to_owned(), value));
        }
    }
    for limit in &record.limits {
        numbers.push((format!("limit.{}", limit.name), limit.unit.clone(), limit.value));
    }
    numbers
}

fn differences(records: &[(String, RunRecord)]) -> Vec<Difference> {
    let facts: Vec<_> = records.iter().map(|(_, record)| facts(record)).collect();
    let mut names: Vec<_> = facts.iter().flat_map(BTreeMap::keys).collect();
    names.sort();
    names.dedup();
    let difference = |what: &String| Difference {
        what: what.clone(),
        values: facts.iter().map(|facts| facts.get(what).cloned()).collect(),
    };
    let all = names.into_iter().map(difference);
    all.filter(|difference| {
        difference
            .values
            .iter()
            .any(|value| *value != difference.values[0])
    })
    .collect()
}

/// Returns what figures depend on, each by its dotted name.
fn facts(record: &RunRecord) -> BTreeMap<String, String> {
    let json = |value: serde_json::Result<Value>| value.expect("plain data becomes JSON");
    let mut facts = BTreeMap::new();
    flatten(
        "machine",
        &json(serde_json::to_value(&record.machine)),
        &mut facts,
    );
    flatten(
        "workload",
        &json(serde_json::to_value(&record.workload)),
        &mut facts,
    );
    for setting in &record.settings {
        facts.insert(format!("setting.{}", setting.name), setting.value.clone());
    }
    let server = record.server.as_deref().unwrap_or("its own");
    for (what, value) in [
        ("siltstone", record.siltstone.as_str()),
        ("server", server),
        ("name", &record.name),
    ] {
        facts.insert(what.to_owned(), value.to_owned());
    }
    facts
}

fn flatten(name: &str, value: &Value, facts: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                flatten(&format!("{name}.{member}"), value, facts);
            }
        }
        Value::Null => {}
        Value::String(text) => drop(facts.insert(name.to_owned(), text.clone())),
        other => drop(facts.insert(name.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use expect_test::expect;

    use super::*;
    use crate::bench::run_record::{Figure, Latency, Ratio, RecordError, SecondFigures, Series};

    /// A record as a run makes it, small.
    pub(in crate::bench) fn example() -> RunRecord {
        let plan = toml::from_str(
            r#"about = "a test"
duration_s = 3
topics = { partitions = 2 }
records = { value_bytes = { fixed = 100 } }
producers = { rate = { records_per_second = 50 } }"#,
        );
        let second = |second: u32| SecondFigures {
            records: 50,
            mb: 0.005,
            p50_ms: Some(1.0),
            p99_ms: (second != 1).then(|| 2.0 + f64::from(second)),
            max_ms: Some(9.0),
        };
        serde_json::from_value(serde_json::json!({
            "format": 1, "siltstone": "0.1.0", "command": "siltstone bench run a.toml", "started": "2026-01-02T03:04:05.000Z",
            "machine": { "cores": 2, "processor": "Fast <3000>", "memory_mb": 8000, "kernel": "6.1", "file_system": "ext4" },
            "server": null, "name": "a", "workload": serde_json::to_value::<crate::bench::LoadPlan>(plan.unwrap()).unwrap(),
            "settings": [{ "name": "durability", "value": "synced", "source": "topic" }],
            "figures": serde_json::to_value(vec![Figure {
                name: "produce.records".to_owned(), value: 50.0, unit: "records/s".to_owned(),
                limits: vec![Ratio { limit: "schedule".to_owned(), limit_value: 50.0, ratio: 1.0 }],
            }]).unwrap(),
            "latencies": serde_json::to_value(vec![Latency {
                name: "acknowledged".to_owned(), count: 150, mean_ms: 1.5, p50_ms: 1.0, p90_ms: 2.0, p99_ms: 3.0, p999_ms: 4.0,
                max_ms: 9.0, curve: vec![(0.0, 0.5), (90.0, 2.0), (99.0, 3.0), (100.0, 9.0)],
            }]).unwrap(),
            "series": serde_json::to_value(vec![Series {
                name: "acknowledged".to_owned(), seconds: (0..3).map(second).collect(),
            }]).unwrap(),
            "limits": [{ "name": "grpc_sink", "value": 2000.0, "unit": "MB/s" }],
            "verification": { "written_records": 150, "checked_records": 300, "found_records": 150, "keys": null, "chain": "0a0b0c0d",
                "ok": ["every record is there"] },
        }))
        .unwrap()
    }

    #[test]
    fn figures_stand_side_by_side_with_their_ratio_and_what_differs_is_named() {
        let first = example();
        let mut second = example();
        second.figures[0].value = 25.0;
        second.machine.cores = 4;
        second.settings.clear();
        second.latencies.clear();
        let compared = compare(&[("a.json".to_owned(), first), ("b.json".to_owned(), second)]);
        expect![[r#"
            [
              {
                "what": "machine.cores",
                "values": [
                  "2",
                  "4"
                ]
              },
              {
                "what": "setting.durability",
                "values": [
                  "synced",
                  null
                ]
              }
            ]"#]]
        .assert_eq(&serde_json::to_string_pretty(&compared.differences).unwrap());
        let rows: Vec<_> = compared
            .rows
            .iter()
            .map(|row| format!("{} {:?} {:?}", row.name, row.values, row.ratios))
            .collect();
        expect![[r#"
            produce.records [Some(50.0), Some(25.0)] [Some(1.0), Some(0.5)]
            produce.records / schedule [Some(1.0), Some(1.0)] [Some(1.0), Some(1.0)]
            acknowledged.mean [Some(1.5), None] [Some(1.0), None]
            acknowledged.p50 [Some(1.0), None] [Some(1.0), None]
            acknowledged.p90 [Some(2.0), None] [Some(1.0), None]
            acknowledged.p99 [Some(3.0), None] [Some(1.0), None]
            acknowledged.p99.9 [Some(4.0), None] [Some(1.0), None]
            acknowledged.max [Some(9.0), None] [Some(1.0), None]
            limit.grpc_sink [Some(2000.0), Some(2000.0)] [Some(1.0), Some(1.0)]"#]]
        .assert_eq(&rows.join("\n"));
    }

    #[test]
    fn a_record_reads_back_and_one_of_another_format_or_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let check = |text: String, expected: &expect_test::Expect| {
            std::fs::write(&path, text).unwrap();
            let error: RecordError = RunRecord::read(&path).unwrap_err();
            expected.assert_eq(&error.to_string().replace(&path.display().to_string(), "a.json"));
        };
        let text = serde_json::to_string(&example()).unwrap();
        std::fs::write(&path, &text).unwrap();
        assert_eq!(RunRecord::read(&path).unwrap(), example());
        check(
            text.replace("\"format\":1", "\"format\":2"),
            &expect![
                "record a.json has format 2, this version reads 1: run the workload again, or compare with the version that wrote it"
            ],
        );
        check(
            "{}".to_owned(),
            &expect![
                "a.json is not the record of a run, which 'siltstone bench run FILE --json' prints: it has no format"
            ],
        );
        check(
            "hello".to_owned(),
            &expect![
                "a.json is not the record of a run, which 'siltstone bench run FILE --json' prints: expected value at line 1 column 1"
            ],
        );
        check(
            text.replace("\"figures\"", "\"digures\""),
            &expect![
                "a.json is not the record of a run, which 'siltstone bench run FILE --json' prints: missing field `figures`"
            ],
        );
    }
}
