//! What goes in by `siltstone produce` and comes out of `siltstone read`, byte for byte; and what is said of input that
//! cannot go in.

use crate::process::{Server, run, server};

/// A server with an empty topic `t`.
fn with_topic() -> (Server, tempfile::TempDir) {
    let (server, dir) = server();
    server.done(&["topic", "create", "t"]);
    (server, dir)
}

fn load(server: &Server, flags: &[&str], input: &[u8]) {
    let (code, _, stderr) = server.pipe(&[&["produce", "t"], flags].concat(), input);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{flags:?}");
}

/// The records of `t` as JSON, with the members asked for alone.
fn records(server: &Server, members: &[&str]) -> Vec<String> {
    let only = |line: &str| {
        let mut record: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
        record.retain(|name, _| members.contains(&name.as_str()));
        serde_json::Value::from(record).to_string()
    };
    server.done(&["read", "t", "--json"]).lines().map(only).collect()
}

#[test]
fn keys_and_values_of_any_bytes_come_back_as_they_were() {
    let (server, _dir) = with_topic();
    let input = b"\xff\x00:\xfe\nk:v\r\n:\nlast:";
    load(&server, &["--key-separator", ":"], input);
    assert_eq!(
        records(&server, &["key", "value", "key_base64", "value_base64"]),
        [
            r#"{"key_base64":"/wA=","value_base64":"/g=="}"#,
            r#"{"key":"k","value":"v\r"}"#,
            r#"{"key":"","value":""}"#,
            r#"{"key":"last","value":""}"#,
        ]
    );
}

#[test]
fn a_tombstone_is_written_by_the_text_for_null() {
    let (server, _dir) = with_topic();
    let flags = ["--key-separator", ":", "--null-value", ""];
    load(&server, &flags, b"a:1\na:\n");
    assert_eq!(
        records(&server, &["key", "value"]),
        [r#"{"key":"a","value":"1"}"#, r#"{"key":"a","value":null}"#]
    );
    let plain = server.done(&["read", "t"]);
    assert!(plain.lines().nth(1).unwrap().ends_with("\ta\t-"), "{plain}");
}

#[test]
fn headers_stand_in_every_record_in_their_order() {
    let (server, _dir) = with_topic();
    let headers = ["--header", "b=1", "--header", "a=x=y", "--header", "b="];
    load(&server, &headers, b"1\n2\n");
    let expected =
        r#"{"headers":[{"key":"b","value":"1"},{"key":"a","value":"x=y"},{"key":"b","value":""}]}"#;
    assert_eq!(records(&server, &["headers"]), [expected, expected]);
}

#[test]
fn nothing_is_compressed_unless_it_is_asked_for() {
    let (server, dir) = with_topic();
    load(&server, &[], b"as it is\n");
    load(&server, &["--compression", "zstd"], b"compressed\n");
    let log = dir.path().join("siltstone-data/t-0/00000000000000000000.log");
    let dump = ["segment", "dump", "--json", &log.display().to_string()];
    let (code, stdout, stderr) = run(crate::process::siltstone(&dump));
    assert_eq!(code, Some(0), "{stderr}");
    let codec = |line: &str| {
        let batch: serde_json::Value = serde_json::from_str(line).unwrap();
        batch["codec"].as_str().unwrap().to_owned()
    };
    assert_eq!(stdout.lines().map(codec).collect::<Vec<_>>(), ["none", "zstd"]);
}

#[test]
fn an_empty_topic_is_no_record_and_no_failure() {
    let (server, _dir) = with_topic();
    for args in [&["read", "t"][..], &["read", "t", "--json", "--from", "latest"]] {
        assert_eq!(server.done(args), "");
    }
}

#[test]
fn a_record_that_is_too_large_is_told_with_the_command_that_admits_it() {
    let (server, _dir) = with_topic();
    server.done(&["topic", "alter", "t", "--config", "max.message.bytes=200"]);
    let line = [b"ok\n".to_vec(), vec![b'x'; 190]].concat();
    let (code, stdout, stderr) = server.pipe(&["produce", "t"], &line);
    assert_eq!(code, Some(1));
    assert!(stdout.starts_with("1 records acknowledged"), "{stdout}");
    let words: Vec<&str> = stderr.split('\'').collect();
    assert!(
        words[0].starts_with("siltstone: standard input:2: record of "),
        "{stderr}"
    );
    let command: Vec<&str> = words[1].split(' ').skip(1).collect();
    server.done(&command);
    load(&server, &[], &line[3..]);
    assert_eq!(server.done(&["read", "t"]).lines().count(), 2);
    let (_, _, stderr) = server.pipe(&["produce", "t"], &[b'x'; 1000]);
    assert!(
        stderr.starts_with("siltstone: standard input: line 1 has more than "),
        "{stderr}"
    );
    assert!(
        stderr.ends_with("'siltstone topic alter' can raise it\n"),
        "{stderr}"
    );
}

#[test]
fn a_line_that_is_no_json_is_told_with_its_place_and_what_is_wrong() {
    let (server, _dir) = with_topic();
    for (line, says) in [
        (
            &b"{\"a\":1"[..],
            "not a JSON object: EOF while parsing an object at column 6",
        ),
        (b"\xff", "not a JSON object: not UTF-8 at column 1"),
    ] {
        let input = [b"{}\n", line].concat();
        let (code, stdout, stderr) = server.pipe(&["produce", "t", "--format", "json"], &input);
        assert_eq!(code, Some(1));
        assert!(stdout.starts_with("1 records acknowledged"), "{stdout}");
        assert_eq!(stderr, format!("siltstone: standard input:2: {says}\n"));
    }
}

#[test]
fn an_adopted_directory_is_told_in_full_and_read_like_the_original() {
    let (original, dir) = with_topic();
    load(&original, &["--key-separator", ":"], b"a:1\nb:2\n");
    let before = original.done(&["read", "t", "--json"]);
    drop(original);
    let (server, _dir) = server();
    let directory = dir.path().join("siltstone-data/t-0").display().to_string();
    let adopt = ["topic", "adopt", &directory, "--topic", "t", "--partition"];
    let json: serde_json::Value =
        serde_json::from_str(&server.done(&[&adopt[..], &["0", "--json"]].concat())).unwrap();
    for (member, value) in [
        ("partition", 0),
        ("log_start_offset", 0),
        ("log_end_offset", 2),
        ("segments", 1),
        ("records", 2),
        ("dropped_tail_bytes", 0),
        ("missing_offsets", 0),
    ] {
        assert_eq!(json[member], value, "{member} of {json}");
    }
    assert_eq!(server.done(&["read", "t", "--json"]), before);
    let (code, _, stderr) = run(server.command(&[&adopt[..], &["0"]].concat()));
    assert_eq!(code, Some(1));
    assert_eq!(
        stderr,
        "siltstone: t-0 holds records, up to offset 2; adopt into an empty partition\n"
    );
    server.done(&["topic", "add-partitions", "t", "--total", "3"]);
    let told = server.done(&[&adopt[..], &["2"]].concat());
    let end = " adopted as t-2: 2 records in 1 batches and 1 segments, offsets 0 to 2\n";
    assert!(told.ends_with(end), "{told}");
    let (code, _, stderr) =
        run(server.command(&["topic", "adopt", "/nowhere", "--topic", "t", "--partition", "1"]));
    assert_eq!(code, Some(1));
    assert!(
        stderr.starts_with("siltstone: cannot adopt /nowhere: "),
        "{stderr}"
    );
}

#[test]
fn what_is_produced_into_an_adopted_partition_is_not_taken_for_what_its_own_producer_wrote() {
    let (original, dir) = with_topic();
    load(&original, &[], b"a\nb\nc\n");
    drop(original);
    let (server, _dir) = server();
    let directory = dir.path().join("siltstone-data/t-0").display().to_string();
    server.done(&["topic", "adopt", &directory, "--topic", "t", "--partition", "0"]);
    // On both servers the first producer.
    load(&server, &[], b"d\ne\nf\n");
    let read = server.done(&["read", "t", "--json"]);
    let values: Vec<serde_json::Value> = read
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["value"].clone())
        .collect();
    assert_eq!(values, ["a", "b", "c", "d", "e", "f"]);
}

#[test]
fn of_an_adopted_log_that_was_torn_the_bytes_left_out_are_told_and_a_damaged_one_is_refused() {
    let (original, dir) = with_topic();
    for line in [&b"first\n"[..], b"second\n", b"third\n"] {
        load(&original, &[], line);
    }
    let values = |server: &Server| server.done(&["read", "t", "--json"]);
    let before: Vec<String> = values(&original).lines().map(str::to_owned).collect();
    drop(original);
    let source = dir.path().join("siltstone-data/t-0/00000000000000000000.log");
    let bytes = std::fs::read(source).unwrap();
    // Its length field counts what follows it.
    let batch_len = |at: usize| 12 + u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    let second = batch_len(0);
    let third = second + batch_len(second);
    assert_eq!(bytes.len(), third + batch_len(third), "three batches");

    let killed = dir.path().join("killed/t-0");
    std::fs::create_dir_all(&killed).unwrap();
    let log = killed.join("00000000000000000000.log");
    let directory = killed.display().to_string();
    let adopt = ["topic", "adopt", &directory, "--topic", "t", "--partition", "0"];
    let (server, _dir) = server();
    let mut damaged = bytes.clone();
    damaged[second + 17] ^= 1;
    std::fs::write(&log, &damaged).unwrap();
    let (code, stdout, stderr) = run(server.command(&adopt));
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    let says = format!("a sound batch follows at position {third}, so this is damage and no torn tail");
    assert!(
        stderr.contains(&says) && stderr.contains("segment dump"),
        "{stderr}"
    );
    assert_eq!(server.done(&["topic", "list", "--json"]), "");

    let left = batch_len(third) / 2;
    std::fs::write(&log, &bytes[..third + left]).unwrap();
    let told = server.done(&adopt);
    let end = format!(
        ": 2 records in 2 batches and 1 segments, offsets 0 to 2; {left} bytes at its end were no sound batch and were left out\n"
    );
    assert!(told.ends_with(&end), "{told}");
    assert_eq!(values(&server).lines().collect::<Vec<_>>(), before[..2]);
}

#[test]
fn partitions_are_added_and_never_taken_away() {
    let (server, _dir) = with_topic();
    let add = |total: &'static str| ["topic", "add-partitions", "t", "--total", total];
    assert_eq!(server.done(&add("3")), "topic t has 3 partitions\n");
    let offsets = server.done(&["offsets", "t", "--json"]);
    assert_eq!(offsets.lines().count(), 3, "{offsets}");
    load(&server, &["--partition", "2"], b"there\n");
    assert!(server.done(&["read", "t"]).starts_with("2:0\t"));
    let (code, _, stderr) = run(server.command(&add("2")));
    assert_eq!(code, Some(1));
    assert_eq!(
        stderr,
        "siltstone: topic t has 3 partitions; there can only be more, not 2\n"
    );
}
