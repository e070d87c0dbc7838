//! A workload's file, and what is said of one that is wrong: the file, the line, the field, and what would be right.
//!
//! What is not here: what a workload says (`workload`).

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::workload::LoadPlan;

/// Greatest file, in bytes; workloads are a hundredth of it.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A workload as it was given.
#[derive(Clone, PartialEq, Debug)]
pub struct WorkloadFile {
    /// The file's name without its ending.
    pub name: String,
    /// What it says.
    pub plan: LoadPlan,
}

/// Why there is no workload.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The file cannot be read.
    #[error("cannot read workload {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the disk says.
        source: io::Error,
    },
    /// It is too long for a workload.
    #[error("workload {} has more than {MAX_FILE_BYTES} bytes; is it the right file?", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// It does not say what a workload may say.
    #[error("workload {}, line {line}: {}{reason}", path.display(), field.as_ref().map_or(String::new(), |field| format!("{field}: ")))]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// Which field, dotted; absent where the file is no TOML.
        field: Option<String>,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl WorkloadFile {
    /// Reads a workload.
    ///
    /// # Errors
    /// The first thing that is wrong, by line and field.
    pub fn read(path: &Path) -> Result<Self, WorkloadError> {
        let unreadable = |source| WorkloadError::Unreadable {
            path: path.to_owned(),
            source,
        };
        // A device has no end, and a length of 0.
        let found = fs::metadata(path).map_err(unreadable)?;
        if !found.is_file() {
            return Err(unreadable(io::Error::other("it is not a file")));
        }
        if found.len() > MAX_FILE_BYTES {
            return Err(WorkloadError::TooLarge {
                path: path.to_owned(),
            });
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        let plan = parse(&text).map_err(|fault| WorkloadError::Wrong {
            path: path.to_owned(),
            line: 1 + text
                .get(..fault.at)
                .map_or(0, |before| before.matches('\n').count()),
            field: fault.field,
            reason: fault.reason,
        })?;
        let name = path.file_stem().unwrap_or(path.as_os_str());
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            plan,
        })
    }
}

/// Something wrong, and where.
#[derive(Debug)]
struct Fault {
    /// The byte of the text.
    at: usize,
    field: Option<String>,
    reason: String,
}

fn parse(text: &str) -> Result<LoadPlan, Fault> {
    let one_line = |message: &str| message.trim_end().replace('\n', ", ");
    let table = DeTable::parse(text).map_err(|error| Fault {
        at: error.span().map_or(0, |span| span.start),
        field: None,
        reason: format!("not TOML: {}", one_line(error.message())),
    })?;
    let mut places = Vec::new();
    list_places(table.get_ref(), "", &mut places);
    let plan: LoadPlan = toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or_default();
        // The smallest that has all of the error.
        let place = places
            .iter()
            .filter(|place| !span.is_empty() && place.holds(&span))
            .min_by_key(|place| place.len());
        Fault {
            at: span.start,
            field: place.map(|place| place.field.clone()),
            reason: one_line(error.message()),
        }
    })?;
    plan.check().map_err(|wrong| {
        // A field that is not there counts as where the table is in which it would stand.
        let known = |field: &str| places.iter().find(|place| place.field == field);
        let mut field = wrong.field.as_str();
        let mut place = known(field);
        while let (None, Some((above, _))) = (place, field.rsplit_once('.')) {
            field = above;
            place = known(field);
        }
        Fault {
            at: place.map_or(0, |place| place.key.start),
            field: Some(wrong.field),
            reason: wrong.reason,
        }
    })?;
    Ok(plan)
}

/// Where a field stands in the text.
struct Place {
    field: String,
    key: Range<usize>,
    value: Range<usize>,
}

impl Place {
    fn holds(&self, span: &Range<usize>) -> bool {
        let has = |part: &Range<usize>| part.start <= span.start && span.end <= part.end;
        has(&self.key) || has(&self.value)
    }

    fn len(&self) -> usize {
        self.value.len()
    }
}

fn list_places(table: &DeTable<'_>, above: &str, places: &mut Vec<Place>) {
    for (key, value) in table {
        let field = match above {
            "" => key.get_ref().to_string(),
            _ => format!("{above}.{}", key.get_ref()),
        };
        list_value(value.get_ref(), &field, places);
        places.push(Place {
            field,
            key: key.span(),
            value: value.span(),
        });
    }
}

fn list_value(value: &DeValue<'_>, field: &str, places: &mut Vec<Place>) {
    if let Some(table) = value.as_table() {
        list_places(table, field, places);
    }
    for element in value.as_array().into_iter().flatten() {
        list_value(element.get_ref(), field, places);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const GOOD: &str = r#"about = "a test"
duration_s = 2
[topics]
partitions = 3
settings = { "segment.bytes" = 1048576, "cleanup.policy" = "delete" }
[records]
value_bytes = { fixed = 100 }
keys = { zipf = { count = 10 } }
[producers]
rate = { records_per_second = 50 }
"#;

    fn check(from: &str, to: &str, expected: &Expect) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.toml");
        assert!(GOOD.contains(from), "{from}");
        fs::write(&path, GOOD.replace(from, to)).unwrap();
        let said = WorkloadFile::read(&path).unwrap_err().to_string();
        expected.assert_eq(&said.replace(&path.display().to_string(), "w.toml"));
    }

    #[test]
    fn a_small_file_says_enough() {
        let plan = parse(GOOD).unwrap();
        assert_eq!((plan.producers.count, plan.seed, plan.topics.count), (1, 1, 1));
        assert_eq!(plan.topic_settings()["segment.bytes"], "1048576");
        assert_eq!(plan.topic_settings()["durability"], "synced");
    }

    #[test]
    fn what_is_wrong_is_told_by_file_line_and_field_with_what_is_allowed() {
        check(
            "partitions = 3",
            "partition = 3",
            &expect![
                "workload w.toml, line 4: topics.partition: unknown field `partition`, expected one of `count`, `partitions`, `durability`, `settings`"
            ],
        );
        check(
            "partitions = 3",
            "partitions = \"3\"",
            &expect![[
                r#"workload w.toml, line 4: topics.partitions: invalid type: string "3", expected u32"#
            ]],
        );
        check(
            "partitions = 3",
            "partitions = 0",
            &expect!["workload w.toml, line 4: topics.partitions: 0 is not a whole number from 1 to 10000"],
        );
        check(
            "fixed = 100",
            "fixd = 100",
            &expect![
                "workload w.toml, line 7: records.value_bytes.fixd: unknown variant `fixd`, expected one of `fixed`, `uniform`, `lognormal`, `table`"
            ],
        );
        check(
            "fixed = 100",
            "fixed = 31",
            &expect![
                "workload w.toml, line 7: records.value_bytes.fixed: 31 is not a whole number from 32 to 16777216"
            ],
        );
        check(
            "count = 10",
            "count = 10, exponent = 9.0",
            &expect!["workload w.toml, line 8: records.keys.zipf.exponent: it is from 0 to 5"],
        );
        check(
            "count = 10",
            "exponent = 1.0",
            &expect!["workload w.toml, line 8: records.keys.zipf: missing field `count`"],
        );
    }

    #[test]
    fn a_setting_that_no_topic_has_and_what_is_missing_or_no_toml_are_told_in_the_same_way() {
        check(
            "\"delete\"",
            "\"compress\"",
            &expect![
                "workload w.toml, line 5: topics.settings.cleanup.policy: cleanup.policy must be empty or any of delete, compact, joined by commas, got compress"
            ],
        );
        check(
            "segment.bytes",
            "segmnt.bytes",
            &expect![[
                r#"workload w.toml, line 5: topics.settings.segmnt.bytes: no setting is named "segmnt.bytes"; did you mean segment.bytes?"#
            ]],
        );
        check(
            "rate = {",
            "acks = \"some\"\nrate = {",
            &expect![
                "workload w.toml, line 10: producers.acks: unknown variant `some`, expected one of `all`, `leader`, `none`"
            ],
        );
        check(
            "rate = {",
            "count = 2000\nrate = {",
            &expect!["workload w.toml, line 10: producers.count: 2000 is not a whole number from 1 to 1024"],
        );
        check(
            "duration_s = 2\n",
            "",
            &expect!["workload w.toml, line 1: missing field `duration_s`"],
        );
        check(
            "partitions = 3\n",
            "",
            &expect!["workload w.toml, line 3: topics: missing field `partitions`"],
        );
        check(
            "[topics]",
            "[topics",
            &expect!["workload w.toml, line 3: not TOML: unclosed table, expected `]`"],
        );
        check(
            "\"delete\"",
            "[1]",
            &expect![
                "workload w.toml, line 5: topics.settings.cleanup.policy: expected a text, a number, or true or false"
            ],
        );
    }

    #[test]
    fn the_workloads_of_the_house_are_sound_short_and_told_of() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let told = fs::read_to_string(root.join("docs/benchmarks.md")).unwrap();
        let mut seconds = Vec::new();
        for entry in fs::read_dir(root.join("benches/workloads")).unwrap() {
            let workload = WorkloadFile::read(&entry.unwrap().path()).unwrap();
            assert!(
                told.contains(&format!("`{}`", workload.name)),
                "{}",
                workload.name
            );
            let plan = workload.plan;
            seconds.push((workload.name, plan.warm_up_s + plan.duration_s));
        }
        seconds.sort();
        // What is written before and read after takes its time, too.
        assert!(seconds.len() >= 6 && seconds[0].1 <= 20, "{seconds:?}");
        assert!(seconds.iter().all(|(_, seconds)| *seconds <= 60), "{seconds:?}");
    }

    #[test]
    fn what_is_no_file_of_that_size_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path(), Path::new("/dev/zero"), &dir.path().join("missing")] {
            let error = WorkloadFile::read(path).unwrap_err();
            assert!(matches!(error, WorkloadError::Unreadable { .. }), "{error}");
        }
        let large = dir.path().join("large");
        fs::write(&large, vec![b'#'; (1 << 20) + 1]).unwrap();
        let error = WorkloadFile::read(&large).unwrap_err();
        assert!(matches!(error, WorkloadError::TooLarge { .. }), "{error}");
    }
}
