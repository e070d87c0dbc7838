//! Tests of the load against a scripted server, and of its last words.

use std::io::Write as _;

use expect_test::expect;

use super::*;
use crate::client::Client;
use crate::client::testing::{Fate, MAX_MESSAGE_BYTES, Scripted};

/// The rules of `produce` with the given flags.
fn rules(flags: &[&str]) -> RecordRules {
    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        rules: RecordRules,
    }
    let flags = [&["produce"], flags].concat();
    <Flags as clap::Parser>::parse_from(flags)
        .rules
        .checked()
        .expect("sound flags")
}

/// Loads `text`, named `in.txt`, and returns how it ended: `done`, `interrupted`, or the error; and what was acknowledged.
async fn load(server: &Scripted, text: &[u8], flags: &[&str]) -> (String, u64) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("in.txt");
    std::fs::File::options()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text))
        .expect("written");
    let client = Client::connect(&server.address.to_string())
        .await
        .expect("the server listens");
    let options = ProducerOptions {
        batch_bytes: 200,
        ..ProducerOptions::default()
    };
    let producer = client.producer("t", options).await.expect("the topic is there");
    let mut load = Load {
        producer,
        topic: "t".to_owned(),
        headers: Vec::new(),
        rules: rules(flags),
        partition: None,
        input_name: "in.txt".to_owned(),
        skipped: 0,
        progress: Progress::new(None),
        started: Instant::now(),
    };
    let input = Input::open(Some(&path)).expect("the file is there");
    let mut interrupts = Interrupts::listen().expect("signals can be watched");
    let ended = match load.until_end(input, &mut interrupts).await {
        Ended::AtTheEnd => "done".to_owned(),
        Ended::Interrupted(_) => "interrupted".to_owned(),
        Ended::Failed(error) => error.to_string(),
    };
    (ended, load.producer.summary().acknowledged_records)
}

#[tokio::test]
async fn every_line_becomes_a_record_also_the_last_without_a_newline() {
    let server = Scripted::start(1, [Fate::LostAfter]).await;
    assert_eq!(
        load(&server, b"a\n\n b\r\nlast", &[]).await,
        ("done".to_owned(), 4)
    );
    assert_eq!(server.log(0), ["a", "", " b\r", "last"]);
}

#[tokio::test]
async fn an_empty_input_is_no_record_and_no_failure() {
    let server = Scripted::start(1, []).await;
    assert_eq!(
        load(&server, b"", &["--format", "json"]).await,
        ("done".to_owned(), 0)
    );
}

#[tokio::test]
async fn a_line_that_does_not_parse_stops_the_load_after_what_came_before_it_is_acknowledged() {
    let server = Scripted::start(1, []).await;
    let text = b"{\"k\":1}\n{\"k\":2}\n{\"k\":\n{\"k\":4}\n";
    let (ended, acknowledged) = load(&server, text, &["--format", "json", "--key-field", "k"]).await;
    assert_eq!(
        ended,
        "in.txt:3: not a JSON object: EOF while parsing a value at column 5"
    );
    assert_eq!(acknowledged, 2);
    assert_eq!(server.log(0), ["{\"k\":1}", "{\"k\":2}"]);
}

#[tokio::test]
async fn a_line_beyond_the_topics_limit_is_named_by_its_number() {
    let server = Scripted::start(1, []).await;
    let long = "x".repeat(MAX_MESSAGE_BYTES - 20);
    let (ended, acknowledged) = load(&server, format!("ok\n{long}\nnever\n").as_bytes(), &[]).await;
    assert!(
        ended.starts_with("in.txt:2: record of ")
            && ended.contains(
                "max.message.bytes = 4096 of topic t; 'siltstone topic alter t --config max.message.bytes="
            )
            && ended.ends_with("' admits it"),
        "{ended}"
    );
    assert_eq!((acknowledged, server.log(0)), (1, vec!["ok".to_owned()]));
}

#[tokio::test]
async fn a_refusal_of_the_server_ends_the_load_with_its_words() {
    let server = Scripted::start(1, [Fate::Rejected]).await;
    assert_eq!(
        load(&server, b"a\nb\n", &[]).await,
        ("scripted INVALID_RECORD".to_owned(), 0)
    );
}

fn report(acks: AcksArg, skipped: u64) -> Report {
    Report {
        topic: "flights".to_owned(),
        acks,
        summary: ProducerSummary {
            sent_records: 10,
            acknowledged_records: 10,
            acknowledged_bytes: 4096,
        },
        skipped,
        elapsed: Duration::from_secs(2),
    }
}

#[test]
fn the_summary_says_how_many_records_bytes_and_how_fast() {
    expect![[r#"
        10 records acknowledged, 4.0 KiB in 2.0 s: 5 records/s, 2.0 KiB/s
    "#]]
    .assert_eq(&report(AcksArg::All, 0).text());
    expect![[r#"
        10 records sent without acknowledgement, 3 skipped, 4.0 KiB in 2.0 s: 5 records/s, 2.0 KiB/s
    "#]]
    .assert_eq(&report(AcksArg::None, 3).text());
    expect![[r#"
        {"topic":"flights","acknowledged_records":10,"acknowledged_bytes":4096,"skipped_records":0,"elapsed_ms":2000,"records_per_second":5,"bytes_per_second":2048}
    "#]]
    .assert_eq(&report(AcksArg::All, 0).json());
}

#[test]
fn nothing_read_is_nothing_acknowledged_and_no_division_by_zero() {
    let mut report = report(AcksArg::All, 0);
    report.summary = ProducerSummary::default();
    report.elapsed = Duration::ZERO;
    assert_eq!(
        report.text(),
        "0 records acknowledged, 0 B in 0.0 s: 0 records/s, 0 B/s\n"
    );
}
