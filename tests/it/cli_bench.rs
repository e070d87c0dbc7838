//! `siltstone bench` as a process: what it leaves behind.

use std::path::Path;

use crate::process::{run, signal, siltstone, told};

/// A workload of a second, in `dir`.
fn workload(dir: &Path, duration_s: u32) -> String {
    let path = dir.join("small.toml");
    let text = format!(
        r#"about = "small"
duration_s = {duration_s}
topics = {{ partitions = 2, durability = "written" }}
records = {{ value_bytes = {{ fixed = 100 }} }}
producers = {{ rate = {{ records_per_second = 500 }} }}
readers = {{ tailing = 1 }}
"#
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_benchmark_that_is_told_to_end_leaves_nothing_in_the_temporary_directory() {
    let files = tempfile::tempdir().unwrap();
    let long = workload(files.path(), 3600);
    for (subject, kind) in [
        (&["produce"][..], "INT"),
        (&["lookup"], "INT"),
        (&["produce"], "TERM"),
        (&["run", &long], "INT"),
        (&["run", &long], "TERM"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let entries = || std::fs::read_dir(dir.path()).unwrap().count();
        let mut bench = siltstone(&[&["bench"], subject].concat());
        let bench = bench.env("TMPDIR", dir.path()).spawn().unwrap();
        while entries() == 0 {
            std::thread::yield_now();
        }
        signal(&bench, kind);
        let (code, stdout, stderr) = told(&bench.wait_with_output().unwrap());
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert_eq!(stderr.lines().last(), Some("siltstone: interrupted"), "{stderr}");
        assert_eq!(entries(), 0, "{subject:?}, {kind}");
    }
}

#[test]
fn a_run_prints_one_object_draws_a_page_and_compares_with_another() {
    let dir = tempfile::tempdir().unwrap();
    let file = workload(dir.path(), 1);
    let path = |name: &str| dir.path().join(name).display().to_string();
    for (name, seed) in [("a", "1"), ("b", "2")] {
        let page = path(&format!("{name}.html"));
        let args = ["bench", "run", &file, "--json", "--seed", seed, "--report", &page];
        let (code, stdout, stderr) = run(siltstone(&args));
        assert_eq!((code, stdout.lines().count()), (Some(0), 1), "{stderr}");
        let record: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(record["verification"]["found_records"], 500, "{record}");
        assert_eq!(record["workload"]["seed"].to_string(), seed);
        let command = record["command"].as_str().unwrap();
        assert_eq!(command, format!("siltstone {}", args.join(" ")));
        assert!(std::fs::read_to_string(page).unwrap().contains("<svg"));
        std::fs::write(path(&format!("{name}.json")), stdout).unwrap();
    }
    let (a, b, both) = (path("a.json"), path("b.json"), path("both.html"));
    let (code, stdout, stderr) = run(siltstone(&[
        "bench", "compare", &a, &b, "--json", "--report", &both,
    ]));
    assert_eq!((code, stdout.lines().count()), (Some(0), 1), "{stderr}");
    let compared: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(compared["differences"][0]["what"], "workload.seed", "{compared}");
    assert!(Path::new(&both).exists());
    let (code, stdout, _) = run(siltstone(&["bench", "compare", &a, &b]));
    assert_eq!(code, Some(0));
    for wanted in ["produce.records", "acknowledged.p99", "B/A", "workload.seed"] {
        assert!(stdout.contains(wanted), "{wanted}: {stdout}");
    }
    let (_, stdout, _) = run(siltstone(&["bench", "run", &file]));
    for wanted in [
        "produce.records",
        "end_to_end",
        "verified: 500 records written, 500 found",
    ] {
        assert!(stdout.contains(wanted), "{wanted}: {stdout}");
    }
}

#[test]
fn a_workload_or_a_record_that_is_wrong_is_told_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = workload(dir.path(), 0);
    let (code, stdout, stderr) = run(siltstone(&["bench", "run", &file]));
    let said = format!(
        "siltstone: workload {file}, line 2: duration_s: 0 is not a whole number from 1 to 3600; see siltstone bench run --help\n"
    );
    assert_eq!((code, stdout.as_str(), stderr), (Some(2), "", said));
    let record = dir.path().join("other.json");
    std::fs::write(&record, "{\"format\":9}").unwrap();
    let record = record.display().to_string();
    let (code, stdout, stderr) = run(siltstone(&["bench", "compare", &record, &record]));
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("has format 9, this version reads 1"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}
