//! `siltstone read` as a process: what it prints, and how a read that follows lives through the loss of its server.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, ChildStdout};

use crate::process::{Door, Server, server, signal, siltstone, told};

/// A process that reads, and what it says, line by line.
struct Follower {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Follower {
    fn start(address: &str) -> Self {
        let args = [
            "read",
            "t",
            "--follow",
            "--json",
            "--print-resume",
            "--server",
            address,
        ];
        let mut child = siltstone(&args).spawn().unwrap();
        Self {
            stdout: BufReader::new(child.stdout.take().unwrap()).lines(),
            stderr: BufReader::new(child.stderr.take().unwrap()).lines(),
            child,
        }
    }

    fn record(&mut self) -> (i64, String) {
        let line = self.stdout.next().unwrap().unwrap();
        let record: serde_json::Value = serde_json::from_str(&line).unwrap();
        let value = record["value"].as_str().unwrap().to_owned();
        (record["offset"].as_i64().unwrap(), value)
    }

    fn says(&mut self) -> String {
        self.stderr.next().unwrap().unwrap()
    }
}

/// A server with a topic `t` of these lines.
fn server_with(lines: &[u8]) -> (Server, tempfile::TempDir) {
    let (server, dir) = server();
    server.done(&["topic", "create", "t"]);
    assert_eq!(server.pipe(&["produce", "t"], lines).0, Some(0));
    (server, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_says_that_its_server_is_gone_and_goes_on_without_gap_or_repeat() {
    let (first, dir) = server_with(b"a\nb\n");
    let door = Door::to(&first).await;
    let mut follower = Follower::start(&door.address);
    assert_eq!(follower.record(), (0, "a".to_owned()));
    assert_eq!(follower.record(), (1, "b".to_owned()));
    drop(first);
    let said = follower.says();
    let lost = format!("siltstone: connection to {} is lost: ", door.address);
    assert!(said.starts_with(&lost), "{said}");
    assert!(
        said.ends_with("; trying again until it is back, Ctrl-C ends"),
        "{said}"
    );
    let second = Server::start(dir.path(), &[]);
    door.lead_to(&second);
    assert_eq!(
        follower.says(),
        "siltstone: the server is back, going on where it stopped"
    );
    assert_eq!(second.pipe(&["produce", "t"], b"c\n").0, Some(0));
    assert_eq!(follower.record(), (2, "c".to_owned()));
    signal(&follower.child, "INT");
    assert_eq!(follower.says(), "resume 0:3");
    assert_eq!(follower.child.wait().unwrap().code(), Some(0));
}

#[test]
fn ctrl_c_ends_a_follower_in_peace_while_its_server_is_gone() {
    let (server, _dir) = server_with(b"a\n");
    let mut follower = Follower::start(&server.address);
    follower.record();
    drop(server);
    assert!(follower.says().contains("trying again"));
    signal(&follower.child, "INT");
    assert_eq!(follower.says(), "resume 0:1");
    assert_eq!(follower.child.wait().unwrap().code(), Some(0));
}

#[test]
fn ctrl_c_ends_a_follower_though_nobody_takes_what_it_prints() {
    let (server, _dir) = server_with(&b"much more than a pipe holds\n".repeat(1 << 14));
    let mut follower = Follower::start(&server.address);
    follower.record();
    signal(&follower.child, "INT");
    assert!(follower.says().starts_with("resume "));
    assert_eq!(follower.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_command_in_peace() {
    let (server, _dir) = server_with(&b"much more than a pipe holds\n".repeat(1 << 14));
    let mut reading = server.command(&["read", "t"]).spawn().unwrap();
    let mut line = String::new();
    BufReader::with_capacity(64, reading.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let output = reading.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_server_never_answers_again_says_what_to_do() {
    let (server, _dir) = server_with(b"a\n");
    let door = Door::to(&server).await;
    signal(&server.child, "STOP");
    let reading = siltstone(&["read", "t", "--server", &door.address])
        .spawn()
        .unwrap();
    door.was_entered().await;
    drop(server);
    let (code, stdout, stderr) = told(&reading.wait_with_output().unwrap());
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(
        stderr.ends_with("; try again when the server is back\n"),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_read_that_paused_past_a_compaction_is_told_that_it_may_have_missed_something() {
    let (server, _dir) = server();
    server.done(&["topic", "create", "t", "--config", "cleanup.policy=compact"]);
    let lines = b"k\tv1\nk\tv2\nl\tv1\n";
    assert_eq!(
        server.pipe(&["produce", "t", "--key-separator", "\\t"], lines).0,
        Some(0)
    );
    server.done(&["topic", "compact", "t"]);
    let resumed = |token: &str| {
        told(
            &server
                .command(&["read", "t", "--resume", token])
                .output()
                .unwrap(),
        )
    };
    let (code, stdout, stderr) = resumed("0:1");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("v2"), "{stdout}");
    assert_eq!(
        stderr,
        "siltstone: partition 0 was compacted while the read paused at 1: before 3 only the newest record of each key may be left\n"
    );
    assert_eq!(resumed("0:3").2, "", "nothing was compacted behind it");
    assert_eq!(resumed("0:0").2, "", "it had read nothing");
}
