//! `siltstone produce` as a process: what a user sees, also when a load does not go well.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use crate::process::{Door, Server, run, server, signal, siltstone, told, wait_for_handler};

#[test]
fn ctrl_c_ends_a_load_with_a_summary_though_the_server_never_answers() {
    let (server, _dir) = server();
    signal(&server.child, "STOP");
    let load = server
        .command(&["produce", "flights"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_handler(&load);
    signal(&load, "INT");
    let (code, stdout, stderr) = told(&load.wait_with_output().unwrap());
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stdout.starts_with("0 records acknowledged, 0 B"), "{stdout}");
    assert!(stderr.starts_with("siltstone: interrupted;"), "{stderr}");
}

/// Waits until the process sleeps in the kernel at opening a FIFO that nobody writes to.
fn wait_for_open(child: &std::process::Child) {
    let tasks = format!("/proc/{}/task", child.id());
    let opens = |task: std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("wchan")).is_ok_and(|at| at.contains("wait_for_partner"))
    };
    while !std::fs::read_dir(&tasks).unwrap().flatten().any(opens) {
        std::thread::yield_now();
    }
}

#[test]
fn ctrl_c_ends_a_load_whose_input_nobody_has_opened_for_writing() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let load = siltstone(&["produce", "flights", "--input", fifo.to_str().unwrap()]);
    let mut load = { load }.spawn().unwrap();
    wait_for_handler(&load);
    wait_for_open(&load);
    signal(&load, "INT");
    let begun = std::time::Instant::now();
    while load.try_wait().unwrap().is_none() {
        if begun.elapsed().as_secs() >= 5 {
            load.kill().unwrap();
            panic!("it still waits for its input");
        }
        std::thread::yield_now();
    }
    let (code, stdout, stderr) = told(&load.wait_with_output().unwrap());
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stdout.starts_with("0 records acknowledged, 0 B"), "{stdout}");
    assert!(stderr.starts_with("siltstone: interrupted;"), "{stderr}");
}

#[test]
fn a_load_that_cannot_begin_ends_with_a_summary_too() {
    let (server, _dir) = server();
    let load = server.command(&["produce", "nowhere", "--input", "/dev/null"]);
    let (code, stdout, stderr) = run(load);
    assert_eq!(code, Some(1));
    assert!(stdout.starts_with("0 records acknowledged"), "{stdout}");
    assert_eq!(
        stderr,
        "siltstone: topic nowhere does not exist; 'siltstone topic list' names those that do, \
         'siltstone topic create nowhere' makes it\n"
    );
}

#[test]
fn a_load_whose_input_cannot_be_read_ends_with_a_summary_too() {
    let (code, stdout, stderr) = run(siltstone(&["produce", "t", "--input", "nowhere/notes.txt"]));
    assert_eq!(code, Some(1));
    assert!(stdout.starts_with("0 records acknowledged, 0 B"), "{stdout}");
    assert!(
        stderr.starts_with("siltstone: cannot read nowhere/notes.txt: "),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_load_makes_its_topic_where_the_server_makes_topics_by_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let set = [
        "--set",
        "topics.auto_create=true",
        "--set",
        "topics.num_partitions=3",
    ];
    let server = Server::start(dir.path(), &set);
    let (code, stdout, stderr) = server.pipe(&["produce", "new"], b"a\nb\n");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.starts_with("2 records acknowledged"), "{stdout}");
    let listed = server.done(&["topic", "list", "--json"]);
    assert!(
        listed.contains(r#""topic":"new""#) && listed.contains(r#""partitions":3"#),
        "{listed}"
    );
    let (code, _, stderr) = run(server.command(&["read", "typo"]));
    assert_eq!(code, Some(1), "a read makes no topic: {stderr}");
    assert_eq!(server.done(&["topic", "list"]).lines().count(), 2);
}

#[test]
fn a_server_of_small_requests_takes_a_load_in_batches_that_fit() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--set", "grpc.max_request_bytes=128KiB"]);
    server.done(&["topic", "create", "flights"]);
    let described = server.done(&["topic", "describe", "flights", "--json"]);
    assert!(described.contains("130048"), "{described}");
    let lines = format!("{}\n", "x".repeat(1000)).repeat(2000);
    let (code, stdout, stderr) = server.pipe(&["produce", "flights"], lines.as_bytes());
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.starts_with("2000 records acknowledged"), "{stdout}");
    drop(server);
    let (code, _, stderr) = run(siltstone(&[
        "serve",
        "--ephemeral",
        "--set=grpc.max_request_bytes=128KiB",
        "--set=topic_defaults.max.message.bytes=200000",
        "--set=grpc.listen=127.0.0.1:0",
        "--set=http.listen=127.0.0.1:0",
    ]));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("lower it to 130048, or raise that to 201024"),
        "{stderr}"
    );
}

/// So often a second Ctrl-C may come too late, on a machine that is very slow.
const TRIES: usize = 20;

/// Interrupts a load of `topic` twice, and returns the last that it says.
fn interrupted_twice(server: &Server, topic: &str) -> String {
    server.done(&["topic", "create", topic]);
    let mut load = server.command(&["produce", topic, "--json"]);
    let mut load = load.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = load.stdin.take().unwrap();
    stdin.write_all(b"first\n").unwrap();
    while server.done(&["read", topic]).is_empty() {}
    signal(&server.child, "STOP");
    // More than the pipe and the blocks that may wait: when this returns, some of it is sent and none acknowledged.
    stdin.write_all(&b"more\n".repeat(1 << 18)).unwrap();
    signal(&load, "INT");
    let mut stderr = BufReader::new(load.stderr.take().unwrap()).lines();
    let mut next = || stderr.next().unwrap().unwrap();
    assert_eq!(
        next(),
        "siltstone: interrupted, waiting for what is under way; Ctrl-C again ends at once"
    );
    signal(&load, "INT");
    let last = next();
    let (code, stdout, _) = told(&load.wait_with_output().unwrap());
    assert_eq!(code, Some(1));
    assert!(
        stdout.starts_with(&format!(r#"{{"topic":"{topic}","sent_records":"#)),
        "{stdout}"
    );
    signal(&server.child, "CONT");
    last
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_acknowledgements() {
    let (server, _dir) = server();
    let twice = (0..TRIES).any(|number| {
        let last = interrupted_twice(&server, &format!("t{number}"));
        assert!(last.starts_with("siltstone: interrupted"), "{last}");
        last.starts_with("siltstone: interrupted twice; ")
    });
    assert!(twice, "a second Ctrl-C ends at once what the first waits for");
}

/// The server that a load began with is gone before it answered; another takes its place on the same data.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_whose_server_dies_as_it_begins_goes_on_with_the_next() {
    let (first, dir) = server();
    first.done(&["topic", "create", "t"]);
    let door = Door::to(&first).await;
    signal(&first.child, "STOP");
    let mut load = siltstone(&["produce", "t", "--server", &door.address]);
    let mut load = load.stdin(Stdio::piped()).spawn().unwrap();
    load.stdin.take().unwrap().write_all(b"a\nb\n").unwrap();
    door.was_entered().await;
    drop(first);
    let second = Server::start(dir.path(), &[]);
    door.lead_to(&second);
    let (code, stdout, stderr) = told(&load.wait_with_output().unwrap());
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.starts_with("2 records acknowledged"), "{stdout}");
    assert_eq!(second.done(&["read", "t"]).lines().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_whose_server_stays_away_says_how_long_it_waited_for_it() {
    let (server, _dir) = server();
    let door = Door::to(&server).await;
    signal(&server.child, "STOP");
    let mut load = siltstone(&[
        "produce",
        "t",
        "--server",
        &door.address,
        "--delivery-timeout",
        "1",
    ]);
    let load = load.spawn().unwrap();
    door.was_entered().await;
    drop(server);
    let (code, stdout, stderr) = told(&load.wait_with_output().unwrap());
    assert_eq!(code, Some(1));
    assert!(stdout.starts_with("0 records acknowledged"), "{stdout}");
    let start = "siltstone: writing to topic t could not begin within 1s; last error: ";
    assert!(stderr.starts_with(start), "{stderr}");
}

/// Every acknowledged record is there once and in order, though the server was killed under the load.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_lives_through_a_server_that_is_killed_in_the_middle() {
    let (first, dir) = server();
    first.done(&["topic", "create", "t"]);
    let door = Door::to(&first).await;
    let mut load = siltstone(&["produce", "t", "--server", &door.address]);
    let mut load = load.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = load.stdin.take().unwrap();
    let lines =
        |numbers: std::ops::Range<u32>| numbers.map(|number| format!("{number}\n")).collect::<String>();
    stdin.write_all(lines(0..1_000).as_bytes()).unwrap();
    while first.done(&["read", "t"]).is_empty() {}
    signal(&first.child, "STOP");
    // More than the pipe holds: some of it is under way when the server dies.
    stdin.write_all(lines(1_000..100_000).as_bytes()).unwrap();
    drop(first);
    let second = Server::start(dir.path(), &[]);
    door.lead_to(&second);
    drop(stdin);
    let (code, stdout, stderr) = told(&load.wait_with_output().unwrap());
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.starts_with("100000 records acknowledged"), "{stdout}");
    let read = second.done(&["read", "t"]);
    let values: String = read
        .lines()
        .map(|line| format!("{}\n", line.rsplit('\t').next().unwrap()))
        .collect();
    assert!(values == lines(0..100_000), "a gap, a repeat or another order");
}

#[test]
fn ctrl_c_ends_a_load_by_itself_though_records_are_under_way_and_the_server_is_silent() {
    let (server, _dir) = server();
    server.done(&["topic", "create", "t"]);
    // Nothing but the grace ends it: the server stays silent, and records may wait for a day.
    let mut load = server.command(&["produce", "t", "--delivery-timeout", "86400"]);
    let mut load = load.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = load.stdin.take().unwrap();
    stdin.write_all(b"first\n").unwrap();
    while server.done(&["read", "t"]).is_empty() {}
    signal(&server.child, "STOP");
    stdin.write_all(&b"more\n".repeat(1 << 18)).unwrap();
    signal(&load, "INT");
    let (code, stdout, stderr) = told(&load.wait_with_output().unwrap());
    assert_eq!(code, Some(1));
    assert!(stdout.contains(" records acknowledged, "), "{stdout}");
    let last = stderr.lines().last().unwrap();
    assert!(
        last.starts_with("siltstone: interrupted; ")
            && last.ends_with(" records were sent and not acknowledged")
            && !last.contains(" 0 records"),
        "{stderr}"
    );
    drop(stdin);
}

#[test]
fn a_load_whose_server_was_killed_ends_soon_after_a_signal_and_with_a_summary() {
    for kind in ["INT", "TERM"] {
        let (server, _dir) = server();
        server.done(&["topic", "create", "t"]);
        // Nothing but the signal ends it: records may wait for a day.
        let mut load = server.command(&["produce", "t", "--delivery-timeout", "86400"]);
        let mut load = load.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = load.stdin.take().unwrap();
        stdin.write_all(b"first\n").unwrap();
        while server.done(&["read", "t"]).is_empty() {}
        drop(server);
        stdin.write_all(&b"more\n".repeat(1 << 18)).unwrap();
        signal(&load, kind);
        let begun = std::time::Instant::now();
        let (code, stdout, stderr) = told(&load.wait_with_output().unwrap());
        let took = begun.elapsed();
        // The command gives itself three seconds; the rest is for a machine that is busy. Without a limit of its own it would be a day.
        assert!(took.as_secs() < 30, "{took:?}");
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stdout.starts_with("1 records acknowledged, 5 B in "), "{stdout}");
        let last = stderr.lines().last().unwrap();
        assert!(last.starts_with("siltstone: interrupted; "), "{stderr}");
        drop(stdin);
    }
}

#[test]
fn a_line_that_the_topic_does_not_take_is_named_and_all_lines_before_it_are_written() {
    let (server, dir) = server();
    let compacted = ["--partitions", "3", "--config", "cleanup.policy=compact"];
    server.done(&[&["topic", "create", "t"], &compacted[..]].concat());
    let mut text: String = (0..1000).map(|n| format!("k{n}:v{n}\n")).collect();
    text.push_str("without a key\nlate:late\n");
    let path = dir.path().join("in.txt");
    std::fs::write(&path, text).unwrap();
    let path = path.display().to_string();
    let load = server.command(&["produce", "t", "--input", &path, "--key-separator", ":"]);
    let (code, stdout, stderr) = run(load);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(
        stderr.starts_with(&format!("siltstone: {path}:1001: ")) && stderr.contains("has no key"),
        "{stderr}"
    );
    let acknowledged: usize = stdout.split(' ').next().unwrap().parse().unwrap();
    let written = server.done(&["read", "t", "--json"]);
    assert_eq!(written.lines().count(), acknowledged);
    for n in 0..1000 {
        assert!(written.contains(&format!(r#""value":"v{n}""#)), "line {}", n + 1);
    }
}
