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
    let mut load = begun_load(server, flags).await;
    let ended = load_text(&mut load, text).await;
    (ended, load.producer.metrics().acknowledged_records)
}

/// Loads `text` to its end.
async fn load_text(load: &mut Load, text: &[u8]) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("in.txt");
    std::fs::File::options()
        .write(true)
        .create_new(true)
        .open(&path)
        .and_then(|mut file| file.write_all(text))
        .expect("written");
    let input = Input::open(Some(&path)).expect("the file is there");
    let mut interrupts = Interrupts::listen().expect("signals can be watched");
    match load.until_end(input, &mut interrupts).await {
        Ended::AtTheEnd => "done".to_owned(),
        Ended::Interrupted(_) => "interrupted".to_owned(),
        Ended::Failed(error) => error.to_string(),
    }
}

/// A load that has not begun to read.
async fn begun_load(server: &Scripted, flags: &[&str]) -> Load {
    let client = Client::connect(&server.address.to_string())
        .await
        .expect("the server listens");
    let options = ProducerOptions {
        batch_bytes: 200,
        ..ProducerOptions::default()
    };
    let producer = client.producer("t", options).await.expect("the topic is there");
    Load {
        producer,
        topic: "t".to_owned(),
        headers: Vec::new(),
        rules: rules(flags),
        partition: None,
        input_name: "in.txt".to_owned(),
        skipped: 0,
        progress: Progress::new(None, Box::new(|| None)),
        started: Instant::now(),
    }
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

#[tokio::test]
async fn a_line_that_the_server_refuses_is_named_after_those_before_it_are_acknowledged() {
    let server = Scripted::start(1, [Fate::RejectedRecord(2)]).await;
    assert_eq!(
        load(&server, b"a\nb\nc\nd\n", &[]).await,
        ("in.txt:3: scripted INVALID_RECORD".to_owned(), 2)
    );
    assert_eq!(server.log(0), ["a", "b"]);
    let server = Scripted::start(1, [Fate::RejectedRecord(0)]).await;
    let skip = ["--key-separator", ":", "--on-missing-key", "skip"];
    assert_eq!(
        load(&server, b"skipped\nk:c\n", &skip).await,
        ("in.txt:2: scripted INVALID_RECORD".to_owned(), 0)
    );
}

#[test]
fn nothing_is_said_of_records_that_may_be_written_where_none_is() {
    let error = |written| client::Error::DeliveryTimeout {
        topic: crate::types::TopicName::new("t").expect("a name"),
        partition: PartitionId(0),
        waited: Duration::from_secs(30),
        written,
        last_error: "the disk is full".to_owned(),
    };
    let told = |written| CliError::from(error(written)).to_string();
    assert!(told(client::Written::No).ends_with("; what is not acknowledged is not written"));
    assert!(told(client::Written::Perhaps).contains("they may be written all the same"));
}

/// A terminal that remembers what was written to it.
#[derive(Clone, Debug, Default)]
struct Paper(std::sync::Arc<parking_lot::Mutex<String>>);

impl indicatif::TermLike for Paper {
    fn width(&self) -> u16 {
        200
    }
    fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }
    fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }
    fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }
    fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }
    fn write_line(&self, text: &str) -> std::io::Result<()> {
        self.write_str(text)
    }
    fn write_str(&self, text: &str) -> std::io::Result<()> {
        self.0.lock().push_str(text);
        Ok(())
    }
    fn clear_line(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}

/// When a load began that has taken this long.
fn ago(since: Duration) -> Instant {
    let started = Instant::now().checked_sub(since);
    started.expect("the machine runs longer than that")
}

/// What a load of two lines, begun then, draws on a terminal.
async fn drawn(started: Instant, len: Option<u64>) -> String {
    let server = Scripted::start(1, []).await;
    let paper = Paper::default();
    let terminal = paper.clone();
    let mut load = begun_load(&server, &[]).await;
    load.started = started;
    load.progress = Progress::new(
        len,
        Box::new(move || Some(ProgressDrawTarget::term_like(Box::new(terminal.clone())))),
    );
    assert_eq!(load_text(&mut load, b"ab\ncd\n").await, "done");
    load.progress.clear();
    paper.0.lock().clone()
}

#[tokio::test]
async fn a_long_load_draws_how_far_it_is_and_a_short_one_nothing() {
    let text = drawn(ago(LONG * 3), Some(6)).await;
    assert!(
        text.contains("6 B/6 B") && text.contains("records acknowledged"),
        "{text:?}"
    );
    let text = drawn(ago(LONG * 3), None).await;
    assert!(
        text.contains(" 6 B ") && text.contains("records acknowledged"),
        "{text:?}"
    );
    // Begun in an hour: however slow the machine is, it has not taken long.
    let short = Instant::now() + Duration::from_secs(3600);
    assert_eq!(drawn(short, Some(6)).await, "");
    assert_eq!(drawn(short, None).await, "");
}

#[tokio::test]
async fn a_long_load_draws_nothing_where_there_is_no_terminal() {
    let server = Scripted::start(1, []).await;
    let mut load = begun_load(&server, &[]).await;
    load.started = ago(LONG * 3);
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = std::sync::Arc::clone(&asked);
    let terminal = move || {
        seen.store(true, std::sync::atomic::Ordering::SeqCst);
        None
    };
    load.progress = Progress::new(Some(6), Box::new(terminal));
    assert_eq!(load_text(&mut load, b"ab\ncd\n").await, "done");
    assert!(
        asked.load(std::sync::atomic::Ordering::SeqCst),
        "it would have drawn"
    );
    assert!(load.progress.bar.is_hidden());
}

fn report(acks: AcksArg, skipped: u64) -> Report {
    Report {
        topic: "flights".to_owned(),
        acks,
        metrics: ProducerMetrics {
            sent_records: 10,
            acknowledged_records: 10,
            acknowledged_bytes: 4096,
            ..ProducerMetrics::default()
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
        {"topic":"flights","sent_records":10,"acknowledged_records":10,"acknowledged_bytes":4096,"skipped_records":0,"elapsed_ms":2000,"records_per_second":5,"bytes_per_second":2048}
    "#]]
    .assert_eq(&report(AcksArg::All, 0).json());
    expect![[r#"
        {"topic":"flights","sent_records":10,"acknowledged_records":0,"acknowledged_bytes":0,"skipped_records":0,"elapsed_ms":2000,"records_per_second":5,"bytes_per_second":2048}
    "#]]
    .assert_eq(&report(AcksArg::None, 0).json());
}

#[test]
fn nothing_read_is_nothing_acknowledged_and_no_division_by_zero() {
    let mut report = report(AcksArg::All, 0);
    report.metrics = ProducerMetrics::default();
    report.elapsed = Duration::ZERO;
    assert_eq!(
        report.text(),
        "0 records acknowledged, 0 B in 0.0 s: 0 records/s, 0 B/s\n"
    );
}
