//! The door, rule by rule, in the order of Kafka's checks.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::record::testing::{
    LIMIT, NOW, Plain, any_codec, any_records, build, easy_rules, hex, read, small, stored, with_crc,
    with_payload,
};
use crate::record::{
    BatchOptions, Damage, HEADER_LEN, Outcome, ProducerStamp, TransactionEnd, Transactional,
};
use crate::types::{ProducerEpoch, ProducerId, Sequence};

const HOUR_MS: i64 = 3_600_000;

fn keyed(timestamp: i64) -> Plain {
    Plain::new(timestamp, "key", "value")
}

fn keyless(timestamp: i64) -> Plain {
    Plain {
        key: None,
        ..keyed(timestamp)
    }
}

fn plain_batch(records: &[Plain]) -> Bytes {
    build(BatchOptions::default(), records).bytes().clone()
}

fn compressed(codec: Codec, records: &[Plain]) -> Bytes {
    let options = BatchOptions {
        codec,
        ..BatchOptions::default()
    };
    build(options, records).bytes().clone()
}

/// Why a batch is refused by an easy-going topic.
fn fault(bytes: Bytes) -> BatchFault {
    match accept(bytes, &easy_rules()) {
        Err(Rejection::InvalidBatch(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

/// A batch of one record with some bytes changed and a checksum that holds.
fn changed(at: usize, bytes: &[u8]) -> Bytes {
    let mut batch = small(1);
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    with_crc(batch)
}

fn record_errors(bytes: Bytes, rules: &Rules) -> RecordErrors {
    match accept(bytes, rules) {
        Err(Rejection::InvalidRecords { errors }) => errors,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_flipped_bit_anywhere_from_attributes_to_end_is_refused_as_corrupt() {
    let batch = small(3);
    for at in 21..batch.len() {
        for bit in 0..8 {
            let mut flipped = batch.clone();
            flipped[at] ^= 1 << bit;
            let refused = accept(flipped.into(), &easy_rules());
            assert!(
                matches!(refused, Err(Rejection::Corrupt(Damage::Crc { .. }))),
                "bit {bit} of byte {at}: {refused:?}"
            );
        }
    }
}

#[test]
fn the_leader_epoch_of_a_client_does_not_matter() {
    let mut batch = small(1);
    batch[12..16].copy_from_slice(&55i32.to_be_bytes());
    assert!(accept(batch.into(), &easy_rules()).is_ok());
}

#[test]
fn a_client_leaves_the_base_offset_to_the_server() {
    let batch = changed(0, &5i64.to_be_bytes());
    assert_eq!(fault(batch), BatchFault::BaseOffset { base_offset: 5 });
}

#[test]
fn the_count_must_be_the_number_of_offsets() {
    let count = |count: i32| fault(changed(57, &count.to_be_bytes()));
    assert_eq!(
        count(2),
        BatchFault::Count {
            record_count: 2,
            last_offset_delta: 0
        }
    );
    assert_eq!(count(-1), BatchFault::RecordCount { count: -1 });
    let last = |delta: i32| fault(changed(23, &delta.to_be_bytes()));
    assert_eq!(
        last(3),
        BatchFault::Count {
            record_count: 1,
            last_offset_delta: 3
        }
    );
    assert_eq!(
        last(-1),
        BatchFault::LastOffsetDelta {
            last_offset_delta: -1
        }
    );
    assert_eq!(
        last(i32::MIN),
        BatchFault::LastOffsetDelta {
            last_offset_delta: i32::MIN
        }
    );
}

#[test]
fn a_batch_without_records_is_refused() {
    let mut header_only = small(1)[..HEADER_LEN].to_vec();
    header_only[8..12].copy_from_slice(&49i32.to_be_bytes());
    header_only[57..61].copy_from_slice(&0i32.to_be_bytes());
    for last_offset_delta in [0i32, -1] {
        header_only[23..27].copy_from_slice(&last_offset_delta.to_be_bytes());
        let refused = fault(with_crc(header_only.clone()));
        assert!(
            matches!(
                refused,
                BatchFault::Count { .. } | BatchFault::LastOffsetDelta { .. }
            ),
            "{refused:?}"
        );
    }
}

#[test]
fn there_is_exactly_one_batch() {
    let batch = small(1);
    assert_eq!(fault([&batch[..], &batch].concat().into()), BatchFault::Several);
    assert_eq!(fault(Bytes::new()), BatchFault::Missing { len: 0 });
    assert_eq!(
        fault(Bytes::copy_from_slice(&batch[..60])),
        BatchFault::Missing { len: 60 }
    );
}

#[test]
fn a_partial_batch_after_the_first_is_dropped() {
    let batch = small(1);
    for tail in 0..batch.len() {
        let accepted = accept([&batch[..], &batch[..tail]].concat().into(), &easy_rules()).unwrap();
        assert_eq!(accepted.bytes()[..], batch);
    }
    let garbage = accept([&batch[..], &[0xFF; 20]].concat().into(), &easy_rules());
    assert!(matches!(garbage, Err(Rejection::Corrupt(_))), "{garbage:?}");
}

#[test]
fn older_formats_are_invalid_and_unknown_ones_corrupt() {
    assert_eq!(fault(changed(16, &[0])), BatchFault::OldFormat { magic: 0 });
    assert_eq!(fault(changed(16, &[1])), BatchFault::OldFormat { magic: 1 });
    let unknown = accept(changed(16, &[3]), &easy_rules());
    assert_eq!(unknown, Err(Rejection::Corrupt(Damage::Magic { magic: 3 })));
    let short = accept(changed(8, &48i32.to_be_bytes()), &easy_rules());
    assert_eq!(
        short,
        Err(Rejection::Corrupt(Damage::Length { batch_length: 48 }))
    );
}

#[test]
fn an_unknown_codec_is_not_supported() {
    for bits in 5..8u8 {
        let refused = accept(changed(22, &[bits]), &easy_rules());
        assert_eq!(refused, Err(Rejection::UnsupportedCodec { bits: bits.into() }));
    }
}

#[test]
fn control_batches_come_only_from_the_server() {
    let end = TransactionEnd {
        outcome: Outcome::Commit,
        producer: ProducerId(1),
        producer_epoch: ProducerEpoch(0),
        coordinator_epoch: 0,
        at: NOW,
    };
    assert_eq!(fault(end.to_batch().bytes().clone()), BatchFault::Control);
}

#[test]
fn only_the_cleaner_sets_a_delete_horizon() {
    assert_eq!(fault(changed(22, &[0x40])), BatchFault::DeleteHorizon);
}

#[test]
fn a_producer_comes_with_epoch_and_sequence() {
    let batch = |epoch: i16, base_sequence, transactional| {
        let producer = Some(ProducerStamp {
            id: ProducerId(0),
            epoch: ProducerEpoch(epoch),
            base_sequence,
        });
        let options = BatchOptions {
            producer,
            transactional,
            ..BatchOptions::default()
        };
        build(options, &[keyed(NOW.0)]).bytes().clone()
    };
    let refused = [(0, None), (-1, Some(Sequence(0)))];
    for (epoch, sequence) in refused {
        assert_eq!(
            fault(batch(epoch, sequence, Transactional::No)),
            BatchFault::ProducerWithoutSequence
        );
    }
    let accepted = accept(batch(0, Some(Sequence(0)), Transactional::Yes), &easy_rules()).unwrap();
    assert!(accepted.header().is_transactional());
    assert_eq!(
        fault(changed(22, &[0x10])),
        BatchFault::TransactionWithoutProducer
    );
}

#[test]
fn a_keyless_record_on_a_compacted_topic_refuses_the_whole_batch_by_index() {
    let rules = Rules {
        keys: KeyRule::Required,
        ..easy_rules()
    };
    let records = [keyed(1), keyless(2), keyed(3)];
    let expected = [RecordError {
        index: 1,
        reason: RecordReason::MissingKey,
    }];
    for codec in Codec::ALL {
        let errors = record_errors(compressed(codec, &records), &rules);
        assert_eq!(errors.first(), expected);
        assert!(!errors.any_timestamp());
        assert_eq!(
            errors.to_string(),
            "record 1 has no key, and the topic is compacted"
        );
        assert!(accept(compressed(codec, &records), &easy_rules()).is_ok());
    }
    let empty_key = Plain::new(1, "", "value");
    assert!(
        accept(plain_batch(&[empty_key]), &rules).is_ok(),
        "an empty key is a key"
    );
}

#[test]
fn a_time_too_far_off_is_refused_at_the_first_millisecond() {
    let rules = Rules {
        before_max_ms: 2 * HOUR_MS,
        after_max_ms: HOUR_MS,
        ..easy_rules()
    };
    let earliest = NOW.saturating_add_ms(-2 * HOUR_MS);
    let latest = NOW.saturating_add_ms(HOUR_MS);
    assert!(accept(plain_batch(&[keyed(earliest.0), keyed(latest.0)]), &rules).is_ok());
    let (old, new) = (keyed(earliest.0 - 1), keyed(latest.0 + 1));
    let errors = record_errors(plain_batch(&[keyed(NOW.0), new, old]), &rules);
    let expected = [
        RecordReason::TooNew {
            timestamp: Timestamp(latest.0 + 1),
            latest,
        },
        RecordReason::TooOld {
            timestamp: Timestamp(earliest.0 - 1),
            earliest,
        },
    ];
    assert_eq!(
        errors
            .first()
            .iter()
            .map(|error| error.reason)
            .collect::<Vec<_>>(),
        expected
    );
    assert!(errors.any_timestamp());
}

#[test]
fn the_latest_time_that_can_be_told_is_judged_without_overflow() {
    let rules = Rules {
        before_max_ms: HOUR_MS,
        after_max_ms: HOUR_MS,
        ..easy_rules()
    };
    assert_eq!(record_errors(plain_batch(&[keyed(i64::MAX)]), &rules).count(), 1);
    assert!(accept(plain_batch(&[keyed(i64::MAX)]), &easy_rules()).is_ok());
}

/// A batch whose records have the time 0 and those after it, and that says its base is `base`.
fn with_base(base: i64, deltas: &[i64]) -> Bytes {
    let records: Vec<Plain> = [0].iter().chain(deltas).map(|delta| keyed(*delta)).collect();
    let mut batch = plain_batch(&records).to_vec();
    batch[27..35].copy_from_slice(&base.to_be_bytes());
    with_crc(batch)
}

#[test]
fn a_time_that_overflows_is_refused_by_its_number_and_never_wraps_past_the_bounds() {
    let batch = with_base(i64::MAX, &[1 << 62]);
    let errors = record_errors(batch, &easy_rules());
    let expected = RecordError {
        index: 1,
        reason: RecordReason::NoTime {
            base: i64::MAX,
            delta: 1 << 62,
        },
    };
    assert_eq!(errors.first(), [expected]);
    assert!(errors.any_timestamp());
    let below = with_base(i64::MIN, &[-1]);
    assert_eq!(record_errors(below, &easy_rules()).count(), 2);
}

#[test]
fn a_time_below_the_one_that_means_none_is_refused_whoever_gives_the_topic_its_times() {
    for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        let rules = Rules {
            timestamp_type,
            ..easy_rules()
        };
        for base in [-2, i64::MIN] {
            let errors = record_errors(with_base(base, &[]), &rules);
            let reason = RecordReason::NoTime { base, delta: 0 };
            assert_eq!(errors.first(), [RecordError { index: 0, reason }]);
        }
        assert!(accept(with_base(-1, &[0, 1]), &rules).is_ok());
        assert!(accept(with_base(i64::MAX, &[-1]), &rules).is_ok());
    }
}

#[test]
fn a_record_without_a_time_passes_any_bound() {
    let rules = Rules {
        before_max_ms: 0,
        after_max_ms: 0,
        ..easy_rules()
    };
    let timeless = Plain {
        timestamp: None,
        ..keyed(0)
    };
    let accepted = accept(plain_batch(&[timeless]), &rules).unwrap();
    assert_eq!(accepted.header().max_timestamp, None);
    assert_eq!(
        (accepted.least_timestamp(), accepted.greatest_timestamp()),
        (None, None)
    );
}

#[test]
fn a_bad_time_outweighs_a_missing_key() {
    let rules = Rules {
        keys: KeyRule::Required,
        after_max_ms: HOUR_MS,
        ..easy_rules()
    };
    let errors = record_errors(plain_batch(&[keyless(NOW.0), keyed(NOW.0 + 2 * HOUR_MS)]), &rules);
    assert_eq!(errors.count(), 2);
    assert!(errors.any_timestamp());
}

#[test]
fn record_errors_are_bounded_and_their_text_quotes_three() {
    let rules = Rules {
        keys: KeyRule::Required,
        after_max_ms: 0,
        ..easy_rules()
    };
    let mut records = vec![keyless(NOW.0); 150];
    records.push(keyed(NOW.0 + 1));
    let errors = record_errors(plain_batch(&records), &rules);
    assert_eq!((errors.count(), errors.first().len()), (151, 100));
    assert!(errors.any_timestamp(), "also when it is not among those kept");
    let no_key = "has no key, and the topic is compacted";
    assert_eq!(
        Rejection::InvalidRecords { errors }.to_string(),
        format!("record 0 {no_key}; record 1 {no_key}; record 2 {no_key}; and 148 more")
    );
}

#[test]
fn a_producer_does_not_claim_the_servers_time() {
    for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        let rules = Rules {
            timestamp_type,
            ..easy_rules()
        };
        let errors = record_errors(changed(22, &[0x08]), &rules);
        assert_eq!(errors.first()[0].reason, RecordReason::ClaimsLogAppendTime);
        assert!(errors.any_timestamp());
    }
}

#[test]
fn log_append_time_patches_the_header_and_leaves_the_payload() {
    let rules = Rules {
        timestamp_type: TimestampType::LogAppendTime,
        after_max_ms: 0,
        ..easy_rules()
    };
    for codec in Codec::ALL {
        let sent = compressed(codec, &[keyed(5), keyed(NOW.0 + HOUR_MS)]);
        let accepted = accept(sent.clone(), &rules).unwrap();
        assert_eq!(accepted.bytes()[HEADER_LEN..], sent[HEADER_LEN..]);
        assert_eq!(accepted.bytes()[27..35], sent[27..35], "the base timestamp stays");
        assert_eq!(accepted.bytes()[22] & 0x08, 0x08);
        assert_eq!(accepted.header().max_timestamp, Some(NOW));
        assert_eq!(
            (accepted.least_timestamp(), accepted.greatest_timestamp()),
            (Some(NOW), Some(NOW))
        );
        let batch = stored(&accepted, 10);
        assert!(read(&batch).iter().all(|record| record.timestamp == Some(NOW)));
    }
}

#[test]
fn log_append_time_is_marked_also_where_the_greatest_timestamp_is_already_now() {
    let rules = Rules {
        timestamp_type: TimestampType::LogAppendTime,
        ..easy_rules()
    };
    let accepted = accept(plain_batch(&[keyed(5), keyed(NOW.0)]), &rules).unwrap();
    assert_eq!(accepted.header().timestamp_type, TimestampType::LogAppendTime);
    assert!(
        read(&stored(&accepted, 0))
            .iter()
            .all(|record| record.timestamp == Some(NOW))
    );
}

#[test]
fn a_wrong_greatest_timestamp_is_corrected() {
    for wrong in [-1, 0, i64::MAX] {
        for codec in Codec::ALL {
            let mut sent = compressed(codec, &[keyed(300), keyed(100), keyed(200)]).to_vec();
            sent[35..43].copy_from_slice(&i64::to_be_bytes(wrong));
            let sent = with_crc(sent);
            let accepted = accept(sent.clone(), &easy_rules()).unwrap();
            assert_eq!(accepted.header().max_timestamp, Some(Timestamp(300)));
            assert_eq!(accepted.least_timestamp(), Some(Timestamp(100)));
            assert_eq!(accepted.bytes()[HEADER_LEN..], sent[HEADER_LEN..]);
            stored(&accepted, 0);
        }
    }
}

#[test]
fn a_batch_whose_bytes_are_shared_is_patched_in_a_copy() {
    let sent = changed(35, &(-1i64).to_be_bytes());
    let before = sent.to_vec();
    let accepted = accept(sent.clone(), &easy_rules()).unwrap();
    assert_eq!(sent[..], before[..]);
    assert_ne!(accepted.bytes()[..], before[..]);
}

#[test]
fn a_batch_whose_bytes_nobody_shares_is_patched_where_it_lies() {
    let sent = changed(35, &(-1i64).to_be_bytes());
    let at = sent.as_ptr();
    let accepted = accept(sent, &easy_rules()).unwrap();
    assert_eq!(accepted.header().max_timestamp, Some(NOW));
    assert_eq!(accepted.bytes().as_ptr(), at);
}

#[test]
fn the_topics_codec_replaces_another_but_no_other_level() {
    let records = vec![keyed(NOW.0); 200];
    for (sent_codec, topic_codec) in Codec::ALL.into_iter().flat_map(|a| Codec::ALL.map(|b| (a, b))) {
        let rules = Rules {
            codec: Some(topic_codec),
            level: Some(1),
            ..easy_rules()
        };
        let sent = compressed(sent_codec, &records);
        let accepted = accept(sent.clone(), &rules).unwrap();
        assert_eq!(accepted.header().codec, topic_codec);
        let unchanged = accepted.bytes()[..] == sent[..];
        assert_eq!(
            unchanged,
            sent_codec == topic_codec,
            "{sent_codec} to {topic_codec}"
        );
        let expected: Vec<_> = (0..)
            .zip(&records)
            .map(|(offset, plain)| plain.at(offset))
            .collect();
        assert_eq!(read(&stored(&accepted, 0)), expected);
    }
}

#[test]
fn the_size_counts_compressed_and_is_checked_again_after_a_rebuild() {
    let sent = compressed(Codec::Gzip, &vec![keyed(NOW.0); 200]);
    let size_bytes = u32::try_from(sent.len()).unwrap();
    let rules = |max_batch_bytes, codec| Rules {
        max_batch_bytes,
        codec,
        ..easy_rules()
    };
    assert!(accept(sent.clone(), &rules(size_bytes, None)).is_ok());
    assert_eq!(
        accept(sent.clone(), &rules(size_bytes - 1, None)),
        Err(Rejection::TooLarge {
            size_bytes,
            max_bytes: size_bytes - 1
        })
    );
    let grown = accept(sent, &rules(size_bytes, Some(Codec::None)));
    assert!(matches!(grown, Err(Rejection::TooLarge { .. })), "{grown:?}");
}

#[test]
fn a_size_beyond_the_limit_is_refused_before_the_checksum_is_computed() {
    let mut batch = small(1);
    batch[30] ^= 1;
    let rules = Rules {
        max_batch_bytes: 61,
        ..easy_rules()
    };
    assert!(matches!(
        accept(batch.into(), &rules),
        Err(Rejection::TooLarge { .. })
    ));
}

/// Three records whose inner offsets are 0, 2 and 3.
const GAPPED: &str = "0e 00 00 00 02 61 01 00  0e 00 02 04 02 62 01 00  10 00 c8 01 06 02 63 01 00";

#[test]
fn inner_offsets_with_gaps_are_counted_again_from_zero() {
    for codec in Codec::ALL {
        let mut payload = Vec::new();
        codec.compress(None, &hex(GAPPED), &mut payload);
        let sent = with_payload(&small(1), codec, 3, &payload);
        let accepted = accept(sent, &easy_rules()).unwrap();
        assert_eq!(accepted.header().codec, codec);
        let expected: Vec<_> = [(0, "a"), (1, "b"), (100, "c")]
            .into_iter()
            .enumerate()
            .map(|(at, (later, key))| {
                let mut plain = Plain::new(NOW.0 + later, key, "");
                plain.value = None;
                plain.at(40 + i64::try_from(at).unwrap())
            })
            .collect();
        assert_eq!(read(&stored(&accepted, 40)), expected, "{codec}");
        assert_eq!(accepted.greatest_timestamp(), Some(Timestamp(NOW.0 + 100)));
    }
}

#[test]
fn too_few_or_too_many_records_refuse_the_batch() {
    let record = "0c 00 00 00 01 01 00";
    for codec in Codec::ALL {
        let fault_of = |count, records: &str| {
            let mut payload = Vec::new();
            codec.compress(None, &hex(records), &mut payload);
            fault(with_payload(&small(1), codec, count, &payload))
        };
        assert_eq!(
            fault_of(2, record),
            BatchFault::Payload(Damage::RecordsMissing { present: 1, count: 2 })
        );
        assert_eq!(
            fault_of(1, &format!("{record} {record}")),
            BatchFault::Payload(Damage::RecordsRemain { len: 7 })
        );
        assert!(matches!(
            fault_of(1, "0c 00 00 00 01 01 02"),
            BatchFault::Payload(Damage::Record { index: 0, .. })
        ));
    }
}

#[test]
fn a_bomb_is_refused_within_the_limit() {
    let zeros = vec![0; 1 << 26];
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut payload = Vec::new();
        codec.compress(None, &zeros, &mut payload);
        assert!(
            payload.len() < zeros.len() / 20,
            "{codec} compresses nothing well"
        );
        let refused = accept(with_payload(&small(1), codec, 1, &payload), &easy_rules());
        assert_eq!(
            refused,
            Err(Rejection::DecompressesTooLarge { max_bytes: LIMIT.0 }),
            "{codec}"
        );
    }
}

#[test]
fn the_edges_of_the_format_pass_the_door_and_read_back() {
    let nothing = Plain {
        timestamp: Some(Timestamp(0)),
        key: None,
        value: None,
        headers: vec![crate::record::Header {
            key: Bytes::new(),
            value: None,
        }],
    };
    let empty = Plain::new(i64::MAX, "", "");
    let records = [empty, nothing];
    for codec in Codec::ALL {
        let accepted = accept(compressed(codec, &records), &easy_rules()).unwrap();
        assert_eq!(read(&stored(&accepted, 0)), [records[0].at(0), records[1].at(1)]);
        assert_eq!(accepted.least_timestamp(), Some(Timestamp(0)));
        assert_eq!(accepted.greatest_timestamp(), Some(Timestamp::MAX));
    }
}

/// A model of the door over plain records: the indexes it refuses.
fn refused_by_model(records: &[Plain], rules: &Rules) -> Vec<u32> {
    let beyond = |distance: i128, max_ms| max_ms != i64::MAX && distance > i128::from(max_ms);
    let off = |timestamp: Timestamp| {
        let late = i128::from(timestamp.0) - i128::from(rules.now.0);
        beyond(late, rules.after_max_ms) || beyond(-late, rules.before_max_ms)
    };
    let raw = |record: &Plain| record.timestamp.map_or(-1, |timestamp| timestamp.0);
    // The builder's difference wraps where it does not fit, and the sum at the door with it.
    let untold = |record: &Plain| raw(record) < -1 || raw(record).checked_sub(raw(&records[0])).is_none();
    (0..)
        .zip(records)
        .filter(|(_, record)| {
            let judged = rules.timestamp_type == TimestampType::CreateTime;
            rules.keys == KeyRule::Required && record.key.is_none()
                || untold(record)
                || judged && record.timestamp.is_some_and(off)
        })
        .map(|(index, _)| index)
        .collect()
}

prop_compose! {
    fn any_rules()(
        required: bool,
        append_time: bool,
        before_max_ms in prop_oneof![Just(i64::MAX), 0..100_000i64],
        after_max_ms in prop_oneof![Just(i64::MAX), 0..100_000i64],
        codec in proptest::option::of(any_codec()),
    ) -> Rules {
        Rules {
            keys: if required { KeyRule::Required } else { KeyRule::Optional },
            timestamp_type: if append_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime },
            before_max_ms,
            after_max_ms,
            codec,
            ..easy_rules()
        }
    }
}

proptest! {
    #[test]
    fn the_door_agrees_with_its_model(records in any_records(), codec in any_codec(), rules in any_rules()) {
        let refused = refused_by_model(&records, &rules);
        match accept(compressed(codec, &records), &rules) {
            Ok(accepted) => {
                prop_assert_eq!(refused, Vec::<u32>::new());
                let expected: Vec<_> = (70..).zip(&records).map(|(offset, plain)| {
                    let mut record = plain.at(offset);
                    if rules.timestamp_type == TimestampType::LogAppendTime {
                        record.timestamp = Some(NOW);
                    }
                    record
                }).collect();
                let times = expected.iter().filter_map(|record| record.timestamp);
                prop_assert_eq!(accepted.least_timestamp(), times.clone().min());
                prop_assert_eq!(accepted.greatest_timestamp(), times.clone().max());
                prop_assert_eq!(accepted.header().max_timestamp, times.max());
                prop_assert_eq!(accepted.header().codec, rules.codec.unwrap_or(codec));
                let batch = stored(&accepted, 70);
                prop_assert_eq!(read(&batch), expected);
            }
            Err(Rejection::InvalidRecords { errors }) => {
                let indexes: Vec<u32> = errors.first().iter().map(|error| error.index).collect();
                prop_assert_eq!(indexes, refused);
            }
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn arbitrary_bytes_are_accepted_or_refused(bytes in vec(any::<u8>(), 0..300), rules in any_rules()) {
        let _ = accept(bytes.into(), &rules);
    }

    #[test]
    fn a_batch_with_arbitrary_bytes_in_it_is_refused_or_reads_back(
        codec in any_codec(),
        records in any_records(),
        changes in vec((21..usize::MAX, any::<u8>()), 1..4),
        rules in any_rules(),
    ) {
        let mut bytes = compressed(codec, &records).to_vec();
        for (at, byte) in changes {
            let at = 21 + at % (bytes.len() - 21);
            bytes[at] = byte;
        }
        if let Ok(accepted) = accept(with_crc(bytes), &rules) {
            let batch = stored(&accepted, 5);
            prop_assert_eq!(read(&batch).len(), usize::try_from(accepted.record_count()).unwrap());
            let span = accepted.least_timestamp().zip(accepted.greatest_timestamp());
            prop_assert_eq!(batch.timestamps(LIMIT).unwrap(), span);
        }
    }
}
