//! Tests of producer state: against a model that remembers every batch, then Kafka's cases one by one.

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn batch(id: i64, epoch: i16, base_sequence: i32, records: i32) -> ProducerBatch {
    ProducerBatch {
        id: ProducerId(id),
        epoch: ProducerEpoch(epoch),
        base_sequence: Some(Sequence(base_sequence)),
        last_offset_delta: records - 1,
        transactional: Transactional::No,
        timestamp: Some(Timestamp(77)),
    }
}

fn transactional(id: i64, epoch: i16, base_sequence: i32) -> ProducerBatch {
    ProducerBatch {
        transactional: Transactional::Yes,
        ..batch(id, epoch, base_sequence, 1)
    }
}

fn marker(id: i64, epoch: i16, outcome: Outcome) -> Marker {
    Marker {
        id: ProducerId(id),
        epoch: ProducerEpoch(epoch),
        coordinator_epoch: CoordinatorEpoch(3),
        outcome,
        protocol: MarkerProtocol::EpochKept,
        timestamp: None,
    }
}

fn placed(base_offset: i64, last_offset_delta: i32) -> Placed {
    Placed {
        base_offset: Offset(base_offset),
        last_offset: Offset(base_offset + i64::from(last_offset_delta)),
        now: NOW,
    }
}

/// Appends as the log does: check, then apply at the end. Returns the base offset, or what was said instead.
fn append(producers: &mut Producers, batch: &ProducerBatch) -> Result<i64, String> {
    match producers.check(batch, Origin::Client) {
        Ok(Verdict::Append) => {
            let base = producers.end().0;
            producers.apply(batch, placed(base, batch.last_offset_delta));
            Ok(base)
        }
        Ok(Verdict::Duplicate { base_offset, .. }) => Err(format!("duplicate of {base_offset}")),
        Err(error) => Err(error.to_string()),
    }
}

fn end_transaction(
    producers: &mut Producers,
    marker: &Marker,
) -> Result<Option<CompletedTransaction>, ProducerError> {
    producers.check_marker(marker)?;
    let end = producers.end().0;
    Ok(producers.apply_marker(marker, placed(end, 0)))
}

/// Five batches of ten records, sequences 0 to 49 at offsets 0 to 49.
fn five_batches() -> Producers {
    let mut producers = Producers::default();
    for base in [0, 10, 20, 30, 40] {
        assert_eq!(
            append(&mut producers, &batch(1, 0, base, 10)),
            Ok(i64::from(base))
        );
    }
    producers
}

fn limited(limit: usize) -> Producers {
    Producers::with_limit(NonZeroUsize::new(limit).expect("not zero"))
}

/// Sends of one producer: a new batch of some records, a repetition of the n-th newest, or a restart in a new epoch.
#[derive(Clone, Debug)]
enum Send {
    New(i32),
    Again(usize),
    Restart,
}

fn sends() -> impl Strategy<Value = Vec<(i64, Send)>> {
    let send = prop_oneof![
        5 => (1..20_i32).prop_map(Send::New),
        3 => (0..8_usize).prop_map(Send::Again),
        1 => Just(Send::Restart),
    ];
    prop::collection::vec((0..3_i64, send), 0..60)
}

#[derive(Default)]
struct Sent {
    epoch: i16,
    next: i32,
    log: Vec<(ProducerBatch, i64)>,
}

proptest! {
    /// The model keeps every batch: the newest five are recognised, older ones refused, new ones accepted; and so after
    /// a restart from a snapshot taken anywhere, with the log replayed over it from the beginning.
    #[test]
    fn retries_are_recognised_also_after_a_restart_from_any_snapshot(
        sends in sends(),
        snapshot_at in any::<prop::sample::Index>(),
    ) {
        let mut producers = Producers::default();
        let mut log: Vec<(ProducerBatch, Placed)> = Vec::new();
        let mut sent: [Sent; 3] = Default::default();
        let mut snapshots = vec![(Vec::new(), Offset::ZERO)];
        for (id, send) in sends {
            let model = &mut sent[usize::try_from(id).expect("small")];
            match send {
                Send::New(records) => {
                    let new = batch(id, model.epoch, model.next, records);
                    let base = append(&mut producers, &new).expect("in order");
                    model.log.push((new, base));
                    model.next += records;
                    log.push((new, placed(base, records - 1)));
                }
                Send::Again(age) => {
                    let Some((again, base)) = model.log.iter().rev().nth(age) else { continue };
                    let said = append(&mut producers, again).expect_err("never twice");
                    prop_assert_eq!(said == format!("duplicate of {base}"), age < 5, "{}", said);
                }
                Send::Restart => {
                    model.epoch += 1;
                    model.next = 0;
                    let is_known = !model.log.is_empty();
                    let gap = append(&mut producers, &batch(id, model.epoch, 3, 1));
                    prop_assert_eq!(gap.is_err(), is_known);
                    let (first, base) = match gap {
                        Ok(base) => (batch(id, model.epoch, 3, 1), base),
                        Err(_) => {
                            let first = batch(id, model.epoch, 0, 1);
                            let base = append(&mut producers, &first).expect("a new epoch begins at 0");
                            (first, base)
                        }
                    };
                    model.log = vec![(first, base)];
                    model.next = first.base_sequence.map_or(0, |sequence| sequence.0) + 1;
                    log.push((first, placed(base, 0)));
                }
            }
            snapshots.push((producers.snapshot(), producers.end()));
        }
        let (entries, end) = &snapshots[snapshot_at.index(snapshots.len())];
        let mut recovered = Producers::from_snapshot(entries, *end, NOW);
        for (batch, placed) in &log {
            recovered.apply_recovered(batch, *placed);
        }
        prop_assert_eq!(recovered.snapshot(), producers.snapshot());
        for model in &sent {
            for (again, base) in model.log.iter().rev().take(BATCHES_PER_PRODUCER) {
                prop_assert_eq!(append(&mut recovered, again), Err(format!("duplicate of {base}")));
            }
        }
    }

    /// The model: who has a transaction open since when, and which ended ones lie above the high watermark.
    #[test]
    fn the_first_unstable_offset_is_the_least_undecided(
        steps in prop::collection::vec((0..4_i64, any::<bool>()), 0..60),
        lags in prop::collection::vec(0..6_i64, 60),
    ) {
        let mut producers = Producers::default();
        let mut open: BTreeMap<i64, i64> = BTreeMap::new();
        let mut ended: Vec<(i64, i64)> = Vec::new();
        let mut sequences = [0; 4];
        for (at, ((id, ends), lag)) in (0_i64..).zip(steps.into_iter().zip(lags)) {
            if ends {
                let completed = end_transaction(&mut producers, &marker(id, 0, Outcome::Abort)).expect("not fenced");
                let began = open.remove(&id);
                prop_assert_eq!(completed.map(|completed| completed.first_offset.0), began);
                let stable = open.values().min().copied().unwrap_or(at + 1);
                let aborted = completed.and_then(|completed| completed.aborted());
                prop_assert_eq!(aborted.map(|aborted| aborted.last_stable_offset.0), began.map(|_| stable));
                ended.extend(began.map(|began| (began, at)));
            } else {
                let sequence = &mut sequences[usize::try_from(id).expect("small")];
                append(&mut producers, &transactional(id, 0, *sequence)).expect("in order");
                *sequence += 1;
                open.entry(id).or_insert(at);
            }
            let high_watermark = (at + 1 - lag).max(0);
            let unseen = ended.iter().filter(|(_, marker)| *marker >= high_watermark).map(|(first, _)| *first);
            let expected = unseen.chain(open.values().copied()).min();
            prop_assert_eq!(producers.first_unstable(Offset(high_watermark)).map(|first| first.0), expected);
            let mut released = producers.clone();
            released.release_completed(Offset(high_watermark));
            prop_assert_eq!(released.first_unstable(Offset(high_watermark)).map(|first| first.0), expected);
            let restarted = Producers::from_snapshot(&producers.snapshot(), producers.end(), NOW);
            prop_assert_eq!(restarted.first_unstable(Offset::MAX).map(|first| first.0), open.values().min().copied());
        }
    }

    #[test]
    fn never_more_producers_than_the_limit_and_never_the_newest_forgotten(
        ids in prop::collection::vec(0..60_i64, 1..200),
    ) {
        let mut producers = limited(20);
        for (at, id) in (0_i64..).zip(ids) {
            let seen = Placed { now: Timestamp(at), ..placed(at, 0) };
            producers.apply(&batch(id, 0, 0, 1), seen);
            prop_assert!(producers.len() <= 20);
            prop_assert!(producers.producers.contains_key(&ProducerId(id)));
        }
    }
}

#[test]
fn any_of_the_last_five_batches_is_recognised_with_where_it_went() {
    let producers = five_batches();
    for base in [0, 10, 20, 30, 40] {
        assert_eq!(
            producers.check(&batch(1, 0, base, 10), Origin::Client),
            Ok(Verdict::Duplicate {
                base_offset: Offset(i64::from(base)),
                last_offset: Offset(i64::from(base) + 9),
                timestamp: Some(Timestamp(77)),
            })
        );
    }
}

#[test]
fn an_older_duplicate_or_an_overlap_is_out_of_order() {
    let mut producers = five_batches();
    assert_eq!(append(&mut producers, &batch(1, 0, 50, 10)), Ok(50));
    let refused = |base, got| {
        assert_eq!(
            producers
                .check(&base, Origin::Client)
                .map_err(|error| error.to_string()),
            Err(format!(
                "producer 1 must go on with sequence 60, the batch begins with {got}"
            ))
        );
    };
    refused(batch(1, 0, 0, 10), 0);
    refused(batch(1, 0, 20, 5), 20);
    refused(batch(1, 0, 25, 10), 25);
    refused(batch(1, 0, 55, 5), 55);
    refused(batch(1, 0, 61, 1), 61);
}

#[test]
fn sequences_wrap_to_zero() {
    let mut producers = Producers::default();
    append(&mut producers, &batch(1, 0, i32::MAX, 1)).expect("a new producer may begin anywhere");
    assert_eq!(
        append(&mut producers, &batch(1, 0, 1, 1)),
        Err("producer 1 must go on with sequence 0, the batch begins with 1".to_owned())
    );
    assert_eq!(append(&mut producers, &batch(1, 0, 0, 1)), Ok(1));

    let mut producers = Producers::default();
    let across = batch(1, 0, i32::MAX - 1, 4);
    assert_eq!(append(&mut producers, &across), Ok(0));
    assert_eq!(append(&mut producers, &across), Err("duplicate of 0".to_owned()));
    assert_eq!(append(&mut producers, &batch(1, 0, 2, 1)), Ok(4));
}

#[test]
fn an_older_epoch_is_fenced_and_a_newer_one_begins_at_zero() {
    let mut producers = Producers::default();
    append(&mut producers, &batch(1, 5, 0, 1)).expect("new");
    assert_eq!(
        append(&mut producers, &batch(1, 4, 1, 1)),
        Err("producer 1 has epoch 5, the batch is of epoch 4".to_owned())
    );
    assert_eq!(
        append(&mut producers, &batch(1, 6, 3, 1)),
        Err("producer 1 must go on with sequence 0, the batch begins with 3".to_owned())
    );
    assert_eq!(append(&mut producers, &batch(1, 6, 0, 1)), Ok(1));
    assert_eq!(
        append(&mut producers, &batch(1, 5, 0, 1)),
        Err("producer 1 has epoch 6, the batch is of epoch 5".to_owned())
    );
    assert_eq!(
        append(&mut producers, &batch(1, 6, 0, 1)),
        Err("duplicate of 1".to_owned())
    );
}

#[test]
fn a_forgotten_producer_goes_on_with_any_sequence() {
    let mut producers = five_batches();
    assert_eq!(producers.expire(NOW.saturating_add_ms(100), 100), 0);
    assert_eq!(producers.expire(NOW.saturating_add_ms(101), 100), 1);
    assert!(producers.is_empty());
    assert_eq!(append(&mut producers, &batch(1, 0, 500, 1)), Ok(50));
}

#[test]
fn a_producer_of_old_records_is_not_forgotten_for_their_age() {
    let mut producers = five_batches();
    assert_eq!(producers.snapshot()[0].timestamp, Some(Timestamp(77)));
    assert_eq!(producers.expire(NOW, 100), 0);
}

#[test]
fn a_clock_that_jumps_back_makes_no_producer_look_idle() {
    let mut producers = five_batches();
    let early = Placed {
        now: Timestamp(0),
        ..placed(50, 0)
    };
    producers.apply(&batch(1, 0, 50, 1), early);
    assert_eq!(producers.expire(NOW, 100), 0);
}

#[test]
fn a_client_names_a_sequence_and_a_coordinator_need_not() {
    let mut producers = five_batches();
    let without = ProducerBatch {
        base_sequence: None,
        ..batch(1, 0, 0, 1)
    };
    assert_eq!(
        append(&mut producers, &without),
        Err("a batch of producer 1 has no sequence".to_owned())
    );
    for offset in [50, 51] {
        assert_eq!(
            producers.check(&without, Origin::Coordinator),
            Ok(Verdict::Append)
        );
        producers.apply(&without, placed(offset, 0));
    }
    let fenced = ProducerBatch {
        epoch: ProducerEpoch(-1),
        ..without
    };
    assert!(producers.check(&fenced, Origin::Coordinator).is_err());
}

#[test]
fn a_plain_batch_within_an_open_transaction_is_refused() {
    let mut producers = Producers::default();
    append(&mut producers, &transactional(1, 0, 0)).expect("new");
    assert_eq!(
        append(&mut producers, &batch(1, 0, 1, 1)),
        Err("producer 1 has a transaction open since offset 0, the batch is not part of it".to_owned())
    );
    assert_eq!(append(&mut producers, &transactional(1, 0, 1)), Ok(1));
    end_transaction(&mut producers, &marker(1, 0, Outcome::Commit)).expect("not fenced");
    assert_eq!(append(&mut producers, &batch(1, 0, 2, 1)), Ok(3));
}

#[test]
fn a_marker_of_an_older_coordinator_is_fenced_also_after_a_restart() {
    let mut producers = Producers::default();
    append(&mut producers, &transactional(1, 0, 0)).expect("new");
    end_transaction(&mut producers, &marker(1, 0, Outcome::Commit)).expect("not fenced");
    let restarted = Producers::from_snapshot(&producers.snapshot(), producers.end(), NOW);
    let older = Marker {
        coordinator_epoch: CoordinatorEpoch(2),
        ..marker(1, 0, Outcome::Commit)
    };
    for producers in [producers, restarted] {
        assert_eq!(
            producers.check_marker(&older).map_err(|error| error.to_string()),
            Err("producer 1 has seen coordinator epoch 3, the marker is of epoch 2".to_owned())
        );
    }
}

#[test]
fn a_marker_that_raises_the_epoch_must_raise_it_unless_it_is_a_retry() {
    let mut producers = Producers::default();
    append(&mut producers, &transactional(1, 4, 0)).expect("new");
    let raising = |epoch| Marker {
        protocol: MarkerProtocol::EpochRaised,
        ..marker(1, epoch, Outcome::Abort)
    };
    assert!(end_transaction(&mut producers, &raising(4)).is_err());
    assert!(
        end_transaction(&mut producers, &raising(5))
            .expect("raised")
            .is_some()
    );
    assert_eq!(end_transaction(&mut producers, &raising(5)), Ok(None));
    assert!(end_transaction(&mut producers, &raising(4)).is_err());
    assert!(end_transaction(&mut producers, &marker(1, 4, Outcome::Abort)).is_err());
    assert_eq!(
        append(&mut producers, &transactional(1, 5, 7)),
        Err("producer 1 must go on with sequence 0, the batch begins with 7".to_owned())
    );
    assert!(append(&mut producers, &transactional(1, 5, 0)).is_ok());
}

#[test]
fn a_marker_keeps_what_is_known_of_the_same_epoch() {
    let mut producers = five_batches();
    end_transaction(&mut producers, &marker(1, 0, Outcome::Commit)).expect("not fenced");
    assert_eq!(
        append(&mut producers, &batch(1, 0, 40, 10)),
        Err("duplicate of 40".to_owned())
    );
    assert_eq!(append(&mut producers, &batch(1, 0, 50, 1)), Ok(51));
}

#[test]
fn a_marker_without_data_changes_no_stable_offset() {
    let mut producers = Producers::default();
    assert_eq!(
        end_transaction(&mut producers, &marker(1, 0, Outcome::Abort)),
        Ok(None)
    );
    assert_eq!(producers.first_unstable(Offset::ZERO), None);
    assert_eq!(producers.end(), Offset(1));
}

#[test]
fn only_aborts_go_to_the_transaction_index() {
    let mut producers = Producers::default();
    append(&mut producers, &transactional(1, 0, 0)).expect("new");
    append(&mut producers, &transactional(2, 0, 0)).expect("new");
    let aborted = end_transaction(&mut producers, &marker(2, 0, Outcome::Abort)).expect("not fenced");
    assert_eq!(
        aborted.and_then(|completed| completed.aborted()),
        Some(AbortedTransaction {
            producer_id: ProducerId(2),
            first_offset: Offset(1),
            last_offset: Offset(2),
            last_stable_offset: Offset(0),
        })
    );
    let committed = end_transaction(&mut producers, &marker(1, 0, Outcome::Commit)).expect("not fenced");
    assert_eq!(
        committed.map(|completed| completed.last_stable_offset),
        Some(Offset(4))
    );
    assert_eq!(committed.and_then(|completed| completed.aborted()), None);
}

#[test]
fn a_producer_with_an_open_transaction_is_never_forgotten() {
    let mut producers = limited(2);
    append(&mut producers, &transactional(1, 0, 0)).expect("new");
    assert_eq!(producers.expire(Timestamp::MAX, 0), 0);
    append(&mut producers, &batch(2, 0, 0, 1)).expect("room");
    append(&mut producers, &transactional(3, 0, 0)).expect("the idle one gives way");
    assert_eq!(producers.len(), 2);
    assert_eq!(
        append(&mut producers, &batch(4, 0, 0, 1)),
        Err("producer 4 cannot be added: 2 producers have open transactions".to_owned())
    );
    assert!(producers.check_marker(&marker(4, 0, Outcome::Abort)).is_err());
    append(&mut producers, &transactional(1, 0, 1)).expect("those that are known go on");
}

#[test]
fn beyond_the_limit_those_seen_least_recently_go_first() {
    let mut producers = limited(3);
    for (at, id) in [(0, 1), (1, 2), (2, 3), (3, 1), (4, 4)] {
        let seen = Placed {
            now: Timestamp(at),
            ..placed(at, 0)
        };
        producers.apply(&batch(id, 0, 0, 1), seen);
    }
    let mut ids: Vec<_> = producers.producers.keys().map(|id| id.0).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 3, 4]);
}

#[test]
fn a_recovered_marker_before_the_snapshot_ends_nothing_twice() {
    let mut producers = Producers::default();
    append(&mut producers, &transactional(1, 0, 0)).expect("new");
    end_transaction(&mut producers, &marker(1, 0, Outcome::Abort)).expect("not fenced");
    append(&mut producers, &transactional(1, 0, 1)).expect("next");
    let mut recovered = Producers::from_snapshot(&producers.snapshot(), producers.end(), NOW);
    recovered.apply_recovered(&transactional(1, 0, 0), placed(0, 0));
    assert_eq!(
        recovered.apply_marker(&marker(1, 0, Outcome::Abort), placed(1, 0)),
        None
    );
    recovered.apply_recovered(&transactional(1, 0, 1), placed(2, 0));
    assert_eq!(recovered.first_unstable(Offset::MAX), Some(Offset(2)));
    assert_eq!(
        append(&mut recovered, &transactional(1, 0, 0)),
        Err("duplicate of 0".to_owned())
    );
}
