//! Tests of how topics are shown and settings are read.

use expect_test::expect;

use super::*;
use crate::client::ConfigEntry;
use crate::types::{Offset, TopicId};

fn topic() -> TopicDescription {
    let partition = |number: i32, end: i64, refusal: Option<&str>| PartitionDescription {
        partition: PartitionId(number),
        log_start: Offset(0),
        last_stable: Offset(end),
        high_watermark: Offset(end),
        log_end: Offset(end),
        recovery_point: Offset(end),
        segments: 1,
        size_bytes: end * 100,
        least_timestamp: (end > 0).then_some(Timestamp(1_357_035_300_000)),
        greatest_timestamp: (end > 0).then_some(Timestamp(1_357_035_301_500)),
        local_start: Offset(0),
        archive: None,
        write_refusal: refusal.map(str::to_owned),
    };
    TopicDescription {
        name: "flights".to_owned(),
        id: TopicId([7; 16]),
        internal: false,
        partitions: vec![
            partition(0, 1234, None),
            partition(1, 0, Some("a sync failed; repair is under way")),
        ],
        config: vec![ConfigEntry {
            name: "retention.ms".to_owned(),
            value: "-1".to_owned(),
            source: ConfigSource::Default,
            doc: "How long records are kept.".to_owned(),
        }],
    }
}

#[test]
fn a_topic_is_shown_as_tables() {
    expect![[r#"
        topic flights  id 07070707070707070707070707070707

        PARTITION  START   END  SEGMENTS       SIZE  EARLIEST TIME             LATEST TIME
                0      0  1234         1  120.5 KiB  2013-01-01T10:15:00.000Z  2013-01-01T10:15:01.500Z
                1      0     0         1        0 B  -                         -

        partition 1 refuses writes: a sync failed; repair is under way

        SETTING       VALUE  FROM
        retention.ms  -1     default
    "#]]
    .assert_eq(&description_text(&topic()));
}

#[test]
fn a_topic_is_one_json_object() {
    let text = description_json(&topic()).to_string();
    expect![[r#"{"topic":"flights","topic_id":"07070707070707070707070707070707","internal":false,"partitions":[{"partition":0,"log_start_offset":0,"last_stable_offset":1234,"high_watermark":1234,"log_end_offset":1234,"recovery_point":1234,"segments":1,"size_bytes":123400,"least_timestamp_ms":1357035300000,"greatest_timestamp_ms":1357035301500,"write_refusal":null,"local_start_offset":0,"archive":null},{"partition":1,"log_start_offset":0,"last_stable_offset":0,"high_watermark":0,"log_end_offset":0,"recovery_point":0,"segments":1,"size_bytes":0,"least_timestamp_ms":null,"greatest_timestamp_ms":null,"write_refusal":"a sync failed; repair is under way","local_start_offset":0,"archive":null}],"config":{"retention.ms":{"value":"-1","source":"default"}}}"#]]
    .assert_eq(&text);
}

#[test]
fn a_setting_is_a_key_and_the_rest_after_the_first_equals_sign() {
    assert_eq!(parse_setting("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
    assert_eq!(parse_setting("a="), Ok(("a".to_owned(), String::new())));
    assert!(parse_setting("a").is_err());
    assert!(parse_setting("=b").is_err());
}

#[test]
fn a_setting_given_twice_or_both_set_and_unset_is_wrong_usage() {
    let pair = |key: &str| (key.to_owned(), "1".to_owned());
    assert_eq!(
        settings(vec![pair("a"), pair("a")])
            .expect_err("twice")
            .to_string(),
        "a is given twice"
    );
    let alter = |config: Vec<(String, String)>, unset: &[&str]| {
        let unset = unset.iter().map(|key| (*key).to_owned()).collect();
        checked(TopicCommand::Alter {
            name: "t".to_owned(),
            config,
            unset,
            json: false,
        })
        .err()
        .map(|error| error.to_string())
    };
    assert_eq!(
        alter(vec![pair("a")], &["a"]).as_deref(),
        Some("a is both set and unset")
    );
    assert_eq!(
        alter(vec![], &[]).as_deref(),
        Some("nothing to alter: name a setting with --config or --unset")
    );
    assert_eq!(alter(vec![pair("a")], &["b"]), None);
}
