//! `--json`: on every command that prints data, one object a line, and nothing else on standard output.
//!
//! The list of commands comes from the command line itself, so that a new one cannot be forgotten.

use std::path::Path;

use crate::process::{Server, run, server, siltstone};

/// Commands that print no data: a server's one line, a script for a shell, and that what was asked for is done.
const WITHOUT_DATA: [&str; 5] = [
    "serve",
    "completion",
    "topic delete",
    "topic hold add",
    "topic hold remove",
];
/// Commands whose output takes an archive, or a load of the machine, and is looked at elsewhere.
const ELSEWHERE: [&str; 6] = [
    "tier status",
    "tier verify",
    "tier restore",
    "bench",
    "bench run",
    "bench compare",
];

/// The commands below one that do something themselves, and whether each takes `--json`.
fn leaves(command: &clap::Command, path: &str) -> Vec<(String, bool)> {
    let inner: Vec<_> = command
        .get_subcommands()
        .filter(|inner| inner.get_name() != "help")
        .collect();
    let takes_json = command
        .get_arguments()
        .any(|argument| argument.get_long() == Some("json"));
    let name = |inner: &clap::Command| format!("{path} {}", inner.get_name()).trim().to_owned();
    // One with others below it does something itself when it has flags of its own.
    let itself = (inner.is_empty() || takes_json).then(|| (path.to_owned(), takes_json));
    let below = inner.into_iter().flat_map(|inner| leaves(inner, &name(inner)));
    itself.into_iter().chain(below).collect()
}

#[test]
fn every_command_that_prints_data_takes_json() {
    for (name, takes_json) in leaves(&siltstone::cli::command(), "") {
        assert_eq!(takes_json, !WITHOUT_DATA.contains(&name.as_str()), "{name}");
    }
}

/// Fills a topic `t` of two partitions and a compacted one `c`, and returns the log file of the first.
fn fill(server: &Server, dir: &Path) -> String {
    server.done(&["topic", "create", "t", "--partitions", "2"]);
    server.done(&["topic", "create", "c", "--config", "cleanup.policy=compact"]);
    for topic in ["t", "c"] {
        let produce = ["produce", topic, "--key-separator", ":"];
        assert_eq!(server.pipe(&produce, b"a:1\nb:2\nc:3\nd:4\na:5\n").0, Some(0));
    }
    server.done(&["topic", "hold", "add", "t", "h", "--from", "0", "--to", "1"]);
    let log = dir.join("siltstone-data/c-0/00000000000000000000.log");
    log.display().to_string()
}

/// A command that prints data, what it is given, and how many lines it prints.
struct Case<'a> {
    command: &'a str,
    given: Vec<&'a str>,
    lines: usize,
}

fn case<'a>(command: &'a str, given: &[&'a str], lines: usize) -> Case<'a> {
    Case {
        command,
        given: given.to_vec(),
        lines,
    }
}

#[test]
fn with_json_every_line_is_an_object_and_nothing_else_is_said() {
    let (server, dir) = server();
    let log = fill(&server, dir.path());
    let copy = dir.path().join("copy");
    std::fs::create_dir_all(copy.join("c-0")).unwrap();
    let copied = copy.join("c-0/00000000000000000000.log");
    std::fs::copy(&log, &copied).unwrap();
    let (directory, copied) = (
        copy.join("c-0").display().to_string(),
        copied.display().to_string(),
    );
    let cases = [
        case("topic create", &["new"], 1),
        case("topic list", &["--internal"], 4),
        case("topic describe", &["t"], 1),
        case("topic alter", &["t", "--config", "retention.ms=-1"], 1),
        case("topic add-partitions", &["new", "--total", "2"], 1),
        case("topic retention", &["t"], 2),
        case("topic explain", &["t"], 2),
        case("topic compact", &["c"], 1),
        case("topic hold list", &["t"], 1),
        case(
            "topic adopt",
            &[&directory, "--topic", "adopted", "--partition", "0"],
            1,
        ),
        case("produce", &["t", "--input", "/dev/null"], 1),
        case("read", &["t"], 5),
        case("offsets", &["t"], 2),
        case("offsets", &["t", "--at", "latest"], 2),
        case("offsets", &["t", "--at", "1970-01-01T00:00:00Z"], 2),
        case("segment dump", &[&copied], 1),
        case("segment dump", &["--records", &copied], 6),
        case("segment verify", &[&copied], 0),
    ];
    for case in &cases {
        let words: Vec<_> = case
            .command
            .split(' ')
            .chain(case.given.iter().copied())
            .collect();
        let words = [&words[..], &["--json"]].concat();
        let (code, stdout, stderr) = match case.command.starts_with("segment") {
            true => run(siltstone(&words)),
            false => run(server.command(&words)),
        };
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{words:?}");
        for line in stdout.lines() {
            let object: Result<serde_json::Map<_, _>, _> = serde_json::from_str(line);
            assert!(object.is_ok(), "{words:?}: {line}");
        }
        assert_eq!(stdout.lines().count(), case.lines, "{words:?}: {stdout}");
    }
    for (name, takes_json) in leaves(&siltstone::cli::command(), "") {
        let is_shown = cases.iter().any(|case| case.command == name) || ELSEWHERE.contains(&name.as_str());
        assert!(is_shown || !takes_json, "{name} is not among the cases");
    }
}
