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

/// The log file of a partition of `t`, and where each of its batches begins.
fn log_of(dir: &tempfile::TempDir, partition: i32) -> (std::path::PathBuf, Vec<u8>, Vec<usize>) {
    let log = format!("siltstone-data/t-{partition}/00000000000000000000.log");
    let path = dir.path().join(log);
    let bytes = std::fs::read(&path).unwrap();
    let (mut begins, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        begins.push(at);
        // Its length field counts what follows it.
        at += 12 + u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    (path, bytes, begins)
}

/// A server with two partitions of five batches each, of one record.
fn with_ten_batches() -> (Server, tempfile::TempDir) {
    let (server, dir) = server();
    server.done(&["topic", "create", "t", "--partitions", "2"]);
    for (partition, number) in ["0", "1"]
        .iter()
        .flat_map(|of| (0..5).map(move |number| (of, number)))
    {
        let line = format!("{partition}:{number}\n");
        let produced = server.pipe(&["produce", "t", "--partition", partition], line.as_bytes());
        assert_eq!(produced.0, Some(0), "{produced:?}");
    }
    (server, dir)
}

/// The byte of a batch whose highest bit says that its last offset lies before its first: the server does not go past that.
const HEADER_AT: usize = 23;
/// The byte of a batch that ends its first offset: the server sees that it contradicts those around it.
const OFFSET_AT: usize = 7;
/// A byte of what the CRC covers: found by who looks at the records.
const RECORDS_AT: usize = 61;

/// Flips the highest bit at this place of the third batch of the first partition.
fn damage(dir: &tempfile::TempDir, at: usize) {
    let (path, mut bytes, begins) = log_of(dir, 0);
    assert_eq!(begins.len(), 5);
    bytes[begins[2] + at] ^= 0x80;
    std::fs::write(path, bytes).unwrap();
}

/// A clean stop and another start, so that the server may learn how far damage reaches.
fn restarted(mut server: Server, dir: &tempfile::TempDir) -> Server {
    signal(&server.child, "TERM");
    assert!(server.child.wait().unwrap().success());
    Server::start(dir.path(), &[])
}

/// The values that a command printed, sorted, its other words by line, and its exit code.
fn printed(server: &Server, args: &[&str]) -> (Vec<String>, Vec<String>, Option<i32>) {
    let (code, stdout, stderr) = told(&server.command(args).output().unwrap());
    let value = |line: &str| line.rsplit('\t').next().unwrap().to_owned();
    let mut values: Vec<_> = stdout.lines().map(value).collect();
    values.sort_unstable();
    (values, stderr.lines().map(str::to_owned).collect(), code)
}

const LAST_WORDS: &str =
    "siltstone: 1 place of topic t cannot be read, see above; everything else that was asked for is printed";

#[test]
fn a_place_that_cannot_be_read_is_told_and_everything_else_is_printed() {
    for at in [OFFSET_AT, RECORDS_AT] {
        let (mut server, dir) = with_ten_batches();
        damage(&dir, at);
        if at == OFFSET_AT {
            server = restarted(server, &dir);
        }
        let (values, said, code) = printed(&server, &["read", "t", "--print-resume"]);
        let expected = ["0:0", "0:1", "0:3", "0:4", "1:0", "1:1", "1:2", "1:3", "1:4"];
        assert_eq!(values, expected, "{said:?}");
        assert_eq!((code, said.len()), (Some(1), 3), "{said:?}");
        assert!(
            said[0].starts_with("siltstone: ")
                && said[0].contains("t-0")
                && said[0].contains("damaged")
                && said[0].ends_with("; 2 to 3 (exclusive) is left out"),
            "{said:?}"
        );
        assert_eq!(said[1..], ["resume 0:5,1:5", LAST_WORDS]);
        let behind = ["read", "t", "--partition", "0", "--from", "3"];
        assert_eq!(
            server.done(&behind).lines().count(),
            2,
            "nobody asked for what is lost"
        );
        let (_, said, code) = printed(&server, &["read", "t", "--partition", "0", "--limit", "2"]);
        assert_eq!((said, code), (Vec::new(), Some(0)), "nor came to it");
    }
}

#[test]
fn where_nobody_knows_how_far_damage_reaches_its_partition_ends_and_no_other() {
    let (server, dir) = with_ten_batches();
    damage(&dir, HEADER_AT);
    let (values, said, code) = printed(&server, &["read", "t", "--print-resume"]);
    assert_eq!(
        values,
        ["0:0", "0:1", "1:0", "1:1", "1:2", "1:3", "1:4"],
        "{said:?}"
    );
    assert_eq!((code, said.len()), (Some(1), 3), "{said:?}");
    assert!(
        said[0].ends_with("; the rest of partition 0 is left out"),
        "{said:?}"
    );
    assert_eq!(said[1..], ["resume 0:2,1:5", LAST_WORDS]);
    let (values, said, code) = printed(&server, &["read", "t", "--partition", "0"]);
    assert_eq!((values.len(), said.len(), code), (2, 2, Some(1)), "{said:?}");
}

#[test]
fn a_follower_goes_on_behind_a_place_that_cannot_be_read_and_says_so_at_its_end() {
    let (server, dir) = with_ten_batches();
    damage(&dir, RECORDS_AT);
    let mut follower = Follower::start(&server.address);
    let mut values: Vec<_> = (0..9).map(|_| follower.record().1).collect();
    values.sort_unstable();
    assert_eq!(values[..4], ["0:0", "0:1", "0:3", "0:4"]);
    assert!(follower.says().ends_with("; 2 to 3 (exclusive) is left out"));
    let produced = server.pipe(&["produce", "t", "--partition", "0"], b"new\n");
    assert_eq!(produced.0, Some(0));
    assert_eq!(follower.record(), (5, "new".to_owned()));
    signal(&follower.child, "INT");
    assert_eq!(follower.says(), "resume 0:6,1:5");
    assert!(
        follower
            .says()
            .starts_with("siltstone: 1 place of topic t cannot be read")
    );
    assert_eq!(follower.child.wait().unwrap().code(), Some(1));
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
