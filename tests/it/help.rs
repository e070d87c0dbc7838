//! The help of every command, as a user sees it, against `golden/help/*.txt`.
//!
//! The list of commands comes from the command line itself, so that a new one cannot be forgotten. After a wanted change:
//! `UPDATE_EXPECT=1 cargo test --test it help`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use expect_test::expect_file;

/// Runs the binary in an environment of its own, so that no variable of the caller changes what it says.
fn siltstone(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_siltstone"))
        .args(arguments)
        .env_clear()
        .output()
        .expect("the binary is built with the tests")
}

fn stdout(arguments: &[&str]) -> String {
    let output = siltstone(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.stderr.is_empty(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("help is text")
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/help")
}

/// Checks the help of `command`, reached by `path`, and of all below it; returns the names of the files.
fn check(command: &clap::Command, path: &[&str]) -> Vec<String> {
    let name = [&["siltstone"], path].concat().join("-") + ".txt";
    let arguments = [path, &["--help"]].concat();
    expect_file![golden().join(&name)].assert_eq(&stdout(&arguments));
    let mut names = vec![name];
    for subcommand in command.get_subcommands() {
        names.extend(check(subcommand, &[path, &[subcommand.get_name()]].concat()));
    }
    names
}

#[test]
fn the_help_of_every_command_is_as_agreed_and_no_file_is_left_over() {
    let mut expected = check(&siltstone::cli::command(), &[]);
    let entries = std::fs::read_dir(golden()).expect("the golden files are there");
    let mut found: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn wrong_usage_ends_with_2_and_one_line_on_standard_error() {
    for arguments in [
        &["frobnicate"][..],
        &["read"],
        &["read", "t", "--from", "yesterday"],
        &["read", "t", "--follow", "--to", "3"],
        &["topic", "create", "t", "--partitions", "0"],
        &["topic", "create", "t", "--config", "novalue"],
        &["topic", "alter", "t"],
        &["topic", "create", "a/b"],
        &["topic", "describe", ".."],
        &["topic", "hold", "list", ""],
        &["topic", "adopt", "d", "--topic", "a b", "--partition", "0"],
        &["offsets", "a/b"],
        &["read", "a/b"],
        &["produce", "t", "--key-field", "k"],
        &["produce", "t", "--on-missing-key", "skip"],
        &["offsets", "t", "--server", "ftp://x"],
        &["segment", "dump", "x.txt"],
        &["segment", "dump", "1.log", "--server", "h:1"],
        &["serve", "--tls-key", "server.key"],
    ] {
        let output = siltstone(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("siltstone: "), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    }
}

#[test]
fn a_slip_on_the_command_line_is_told_in_one_line_with_what_was_probably_meant() {
    for (arguments, says) in [
        (
            &["raed", "t"][..],
            "unrecognized subcommand 'raed'; tip: a similar subcommand exists: 'read'; see siltstone --help",
        ),
        (
            &["read", "t", "--fro", "0"],
            "unexpected argument '--fro' found; tip: a similar argument exists: '--from'; see siltstone read --help",
        ),
        (
            &["produce", "t", "--format", "xml"],
            "invalid value 'xml' for '--format <FORMAT>' [possible values: lines, json]; see siltstone produce --help",
        ),
        (
            &["read"],
            "the following required arguments were not provided: <TOPIC>; see siltstone read --help",
        ),
        (&["topic"], "a command is missing; see siltstone topic --help"),
        (&[], "a command is missing; see siltstone --help"),
        (
            &["bench", "produce", "--scale"],
            "unexpected argument '--scale' found; see siltstone bench --help",
        ),
        (
            &["topic", "create", "t", "--partitions", "x"],
            "invalid value 'x' for '--partitions <COUNT>': invalid digit found in string; see siltstone topic create --help",
        ),
        (
            &["serve", "--tls-key", "k"],
            "--tls-key is for talking to a server, which 'serve' does not do; see siltstone serve --help",
        ),
    ] {
        let said = siltstone(arguments).stderr;
        assert_eq!(String::from_utf8_lossy(&said), format!("siltstone: {says}\n"));
    }
}

#[test]
fn a_missing_command_is_told_alike_whatever_the_environment_holds() {
    for (arguments, says) in [
        (&[][..], "a command is missing; see siltstone --help"),
        (&["topic"], "a command is missing; see siltstone topic --help"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_siltstone"))
            .args(arguments)
            .env_clear()
            .env("SILTSTONE_SERVER", "127.0.0.1:1")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            format!("siltstone: {says}\n")
        );
    }
}

#[test]
fn without_a_server_every_command_says_in_one_line_what_to_do() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    drop(listener);
    for arguments in [
        &["topic", "list"][..],
        &["read", "t"],
        &["offsets", "t"],
        &["produce", "t", "--input", "/dev/null"],
    ] {
        let output = siltstone(&[arguments, &["--server", &address]].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            format!(
                "siltstone: cannot reach a server at {address}: connection refused; \
                 start one with 'siltstone serve' or name it with --server\n"
            )
        );
    }
}

#[test]
fn a_missing_file_is_named() {
    for arguments in [
        &["segment", "dump", "nowhere/1.log"][..],
        &["produce", "t", "--input", "nowhere"],
    ] {
        let output = siltstone(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("siltstone: cannot read nowhere"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn completion_scripts_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&["completion", shell]);
        assert!(
            script.contains("produce") && script.contains("add-partitions"),
            "{shell}"
        );
    }
}

#[test]
fn bash_takes_the_completion_script_and_completes_commands_and_flags_by_it() {
    let script = stdout(&["completion", "bash"]);
    let complete = |words: &[&str]| {
        let last = words.len() - 1;
        let (word, before) = (words[last], words[last - 1]);
        let typed = words.join(" ");
        let ask = format!(
            "{script}\nCOMP_WORDS=({typed}); COMP_CWORD={last}; _siltstone siltstone '{word}' '{before}'; \
             echo \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["-c", &ask]).output().ok()?;
        assert!(
            output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Some(String::from_utf8(output.stdout).expect("words"))
    };
    // Without a bash there is nobody to complete anything for.
    let Some(commands) = complete(&["siltstone", "pro"]) else {
        return;
    };
    assert_eq!(commands, "produce\n");
    let checked = Command::new("bash").args(["-n", "-c", &script]).status();
    assert!(checked.expect("it ran just now").success());
    assert_eq!(
        complete(&["siltstone", "topic", "add"]).as_deref(),
        Some("add-partitions\n")
    );
    assert_eq!(
        complete(&["siltstone", "read", "t", "--fol"]).as_deref(),
        Some("--follow\n")
    );
}

#[test]
fn help_that_cannot_be_written_is_a_failure_and_a_reader_who_left_is_none() {
    for arguments in [&["--help"][..], &["--version"], &["topic", "--help"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_siltstone"))
            .args(arguments)
            .stdout(full)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.starts_with("siltstone: cannot write to standard output: "),
            "{stderr}"
        );
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_siltstone"))
            .args(arguments)
            .stdout(writer)
            .output()
            .unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    }
}
