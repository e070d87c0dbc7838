//! Tests of `settings`.

use super::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn topic(overrides: &[(&str, &str)]) -> Result<TopicConfig, String> {
    Settings::default()
        .resolve(&map(overrides))
        .map_err(|error| error.to_string())
}

fn refusal(overrides: &[(&str, &str)]) -> String {
    topic(overrides).expect_err("must be refused")
}

#[test]
fn every_default_is_valid_and_keeps_everything() {
    let config = topic(&[]).expect("defaults are valid");
    assert_eq!(config.retention_ms, None);
    assert_eq!(config.retention_bytes, None);
    assert_eq!(config.durability, Durability::Synced);
    assert_eq!(config.max_message_bytes, 1_048_588);
    assert_eq!(config.timestamp_after_max_ms, 3_600_000);
    assert_eq!(config.codec, None);
    assert_eq!(config.log_config(7, PartitionId(0)).max_decompressed_bytes, 7);
}

#[test]
fn a_value_out_of_range_is_refused_with_the_range() {
    assert_eq!(
        refusal(&[("segment.bytes", "7")]),
        "segment.bytes must be 16384 to 2147483647, got 7"
    );
    assert_eq!(
        refusal(&[("segment.bytes", "1e6")]),
        "segment.bytes must be 16384 to 2147483647, got 1e6"
    );
    assert_eq!(
        refusal(&[("max.message.bytes", "536870913")]),
        "max.message.bytes must be 0 to 536870912, got 536870913",
        "a batch that recovery would take for damage is not admitted"
    );
    assert_eq!(
        refusal(&[("durability", "fast")]),
        "durability must be one of synced, written, got fast"
    );
    assert_eq!(
        refusal(&[("cleanup.policy", "compact,shred")]),
        "cleanup.policy must be empty or any of delete, compact, joined by commas, got compact,shred"
    );
    assert_eq!(
        refusal(&[("min.cleanable.dirty.ratio", "NaN")]),
        "min.cleanable.dirty.ratio must be 0 to 1, got NaN"
    );
    assert_eq!(
        refusal(&[("min.insync.replicas", "2")]),
        "min.insync.replicas must be 1, got 2"
    );
    assert_eq!(
        refusal(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "9")]),
        "min.compaction.lag.ms = 10 must not exceed max.compaction.lag.ms = 9"
    );
}

#[test]
fn both_ends_of_every_range_are_admitted_and_what_lies_beyond_is_not() {
    let admitted =
        |name: &str, value: String| topic(&[(name, &value), ("max.compaction.lag.ms", &value)]).is_ok();
    for setting in SETTINGS {
        let Kind::Whole { min, max } = setting.kind else {
            continue;
        };
        let alone = |value: i64| topic(&[(setting.name, &value.to_string())]).is_ok();
        assert!(alone(min), "{} = {min}", setting.name);
        if setting.name == table::MIN_COMPACTION_LAG_MS {
            assert!(admitted(setting.name, max.to_string()));
        } else {
            assert!(alone(max), "{} = {max}", setting.name);
        }
        assert!(min == i64::MIN || !alone(min - 1), "{} below {min}", setting.name);
        assert!(max == i64::MAX || !alone(max + 1), "{} above {max}", setting.name);
    }
}

#[test]
fn an_unknown_name_is_refused_and_the_nearest_known_one_suggested() {
    assert_eq!(
        refusal(&[("retention.m", "1")]),
        "no setting is named \"retention.m\"; did you mean retention.ms?"
    );
    assert_eq!(refusal(&[("colour", "blue")]), "no setting is named \"colour\"");
    assert_eq!(
        refusal(&[("log.retention.ms", "1")]),
        "no setting is named \"log.retention.ms\"; did you mean retention.ms?",
        "broker-level names are the server's alone"
    );
    let wrong = Settings::new(&map(&[("log.retention.hour", "1")])).expect_err("unknown");
    assert_eq!(
        wrong.to_string(),
        "no setting is named \"log.retention.hour\"; did you mean log.retention.hours?"
    );
    let endless = "x".repeat(1_000_000);
    assert!(refusal(&[(&endless, "1")]).starts_with("no setting is named"));
}

#[test]
fn the_finer_unit_wins_over_the_coarser_and_the_topic_over_the_server() {
    let retention = |server: &[(&str, &str)], own: &[(&str, &str)]| {
        let settings = Settings::new(&map(server)).expect("valid defaults");
        settings.resolve(&map(own)).expect("valid").retention_ms
    };
    let hours = ("log.retention.hours", "2");
    let minutes = ("log.retention.minutes", "3");
    let ms = ("log.retention.ms", "5");
    assert_eq!(retention(&[hours], &[]), Some(7_200_000));
    assert_eq!(retention(&[hours, minutes], &[]), Some(180_000));
    assert_eq!(retention(&[hours, minutes, ms], &[]), Some(5));
    assert_eq!(retention(&[hours, ms, ("retention.ms", "6")], &[]), Some(6));
    assert_eq!(retention(&[ms], &[("retention.ms", "-1")]), None);
    assert_eq!(retention(&[("log.retention.hours", "-1")], &[]), None);
}

#[test]
fn a_server_default_is_checked_under_the_name_it_was_given() {
    let refused = |name: &str, value: &str| {
        Settings::new(&map(&[(name, value)]))
            .map(drop)
            .map_err(|e| e.to_string())
    };
    assert_eq!(
        refused("log.segment.bytes", "1"),
        Err("log.segment.bytes must be 16384 to 2147483647, got 1".to_owned())
    );
    assert_eq!(
        refused("log.retention.hours", "9223372036854775807"),
        Err("log.retention.hours must be -1 to 2562047788015, got 9223372036854775807".to_owned())
    );
}

#[test]
fn a_compacted_topic_rolls_within_its_compaction_lag() {
    let segment_ms = |policy| {
        topic(&[("cleanup.policy", policy), ("max.compaction.lag.ms", "1000")])
            .expect("valid")
            .segment_ms
    };
    assert_eq!(segment_ms("compact"), 1000);
    assert_eq!(segment_ms("compact,delete"), 1000);
    assert_eq!(segment_ms("delete"), 604_800_000);
}

#[test]
fn policies_are_read_in_any_order_and_may_be_empty() {
    let policy = |text| topic(&[("cleanup.policy", text)]).expect("valid").cleanup;
    assert_eq!(policy("delete , compact"), CleanupPolicy::CompactAndDelete);
    assert_eq!(policy("compact,delete"), CleanupPolicy::CompactAndDelete);
    assert_eq!(policy("compact,compact"), CleanupPolicy::Compact);
    assert_eq!(policy(""), CleanupPolicy::Keep);
}

#[test]
fn entries_say_where_each_value_comes_from() {
    let settings = Settings::new(&map(&[("log.retention.hours", "1"), ("segment.ms", "77")])).expect("valid");
    let entries = settings.entries(&map(&[("segment.ms", "78")]));
    let entry = |name: &str| {
        let entry = entries
            .iter()
            .find(|entry| entry.name == name)
            .expect("every setting is listed");
        (entry.value.as_str(), entry.source)
    };
    assert_eq!(entries.len(), SETTINGS.len());
    assert_eq!(entry("retention.ms"), ("3600000", ConfigSource::Server));
    assert_eq!(entry("segment.ms"), ("78", ConfigSource::Topic));
    assert_eq!(entry("durability"), ("synced", ConfigSource::Default));
}

#[test]
fn a_change_sets_and_unsets_and_refuses_contradiction() {
    let own = map(&[("segment.ms", "78"), ("retention.ms", "5")]);
    let change = |set: &[(&str, &str)], unset: &[&str]| {
        let unset = unset.iter().map(|name| (*name).to_owned()).collect();
        changed(&own, &ConfigChange { set: map(set), unset }).map_err(|error| error.to_string())
    };
    assert_eq!(
        change(&[("flush.ms", "1")], &["retention.ms"]),
        Ok(map(&[("segment.ms", "78"), ("flush.ms", "1")]))
    );
    assert_eq!(
        change(&[("segment.ms", "1")], &["segment.ms"]),
        Err("segment.ms is both set and unset; choose one".to_owned())
    );
    assert!(change(&[], &["segment.m"]).is_err());
}

#[test]
fn a_limit_on_batches_that_does_not_fit_is_told_under_the_name_it_was_given() {
    for name in ["max.message.bytes", "message.max.bytes"] {
        let given = BTreeMap::from([(name.to_owned(), "9000000".to_owned())]);
        let refused = Settings::new(&given).unwrap().within(8_000_000).unwrap_err();
        let told = refused.to_string();
        assert!(
            told.contains(&format!("topic_defaults.{name} = 9000000 does not fit")),
            "{told}"
        );
    }
}
