//! What of a foreign directory is left out, what is refused, and what is told.

use std::io::{ErrorKind, IoSlice};
use std::path::{Path, PathBuf};

use super::testing::{
    FOREIGN, NOW, adopt, damage, fault, foreign, foreign_files, names, offsets, open_one, open_store,
    open_store_in, path, plain, small, spec,
};
use super::{AdoptReport, LogConfig, Origin, encode_offsets};
use crate::env::{Call, CrashChoice, Failure, Fs as _, OpenMode, SimFs};
use crate::record::{Damage, RecordBatch};
use crate::types::{Offset, PartitionId, TopicName, TopicPartition};

const LOG: &str = "/foreign/f-0/00000000000000000000.log";
const BATCHES: usize = 11;
const MARKER: &str = "/foreign/.kafka_cleanshutdown";
const RECOVERY_POINTS: &str = "/foreign/recovery-point-offset-checkpoint";
const MANIFEST: &str = "/foreign/f-0/siltstone.manifest";

/// A disk with one log of [`BATCHES`] batches in `/foreign/f-0`, as a Kafka broker leaves it when it is killed before its first
/// checkpoint.
fn killed() -> SimFs {
    let fs = SimFs::new();
    let store = open_store_in(&fs, FOREIGN).expect("opened");
    let log = open_one(&store, spec("f", 9, LogConfig::default())).expect("opened");
    for _ in 0..BATCHES {
        log.append(&plain("a record"), Origin::Client, NOW)
            .expect("appended");
    }
    store.close().expect("closed").clean().expect("clean");
    for told in [MARKER, RECOVERY_POINTS, MANIFEST] {
        fs.remove_file(Path::new(told)).expect("removed");
    }
    fs
}

fn content(fs: &SimFs, file: &str) -> Vec<u8> {
    let file = fs.open(Path::new(file), OpenMode::Read).expect("it is there");
    let len = usize::try_from(file.len_bytes().expect("read")).expect("small");
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).expect("read");
    bytes
}

fn put(fs: &SimFs, file: &str, bytes: &[u8]) {
    let file = fs
        .open(Path::new(file), OpenMode::ReadWrite)
        .expect("it can be written");
    file.set_len(0).expect("cut");
    file.write_all_at(&[IoSlice::new(bytes)], 0).expect("written");
}

/// Adopts `/foreign/f-0` as `t-0` of a store on a copy of this disk. Whatever comes of it, the original stays as it is; of a
/// refusal nothing is left.
fn adopted(fs: &SimFs) -> Result<(AdoptReport, Vec<i64>), String> {
    let fs = fs.crash(CrashChoice::KeepAll);
    let store = open_store(&fs).expect("opened");
    let original = foreign_files(&fs);
    let from = PathBuf::from(FOREIGN).join("f-0");
    let adopted = adopt(&store, &from, spec("t", 1, small()));
    assert_eq!(foreign_files(&fs), original);
    match adopted {
        Ok((log, report)) => Ok((report, offsets(&log))),
        Err(error) => {
            let left = names(&fs, "");
            assert!(
                !left
                    .iter()
                    .any(|name| name.contains("t-0") || name.contains("future")),
                "{left:?}"
            );
            Err(error.to_string())
        }
    }
}

fn refused(fs: &SimFs) -> String {
    adopted(fs).expect_err("it is refused")
}

/// Writes a recovery point of `f-0`.
fn vouch(fs: &SimFs, point: i64) {
    let topic = TopicName::new("f").expect("a good name");
    let line = (TopicPartition::new(topic, PartitionId(0)), Offset(point));
    put(fs, RECOVERY_POINTS, &encode_offsets(&[line].into()));
}

#[test]
fn a_flipped_bit_before_the_last_batch_is_damage_and_never_a_torn_tail() {
    let sound = killed();
    assert_eq!(adopted(&sound).expect("sound").0.batches, 11);
    let bytes = content(&sound, LOG);
    let size = bytes.len() / BATCHES;
    // The leader epoch lies outside the checksum, and any is a good one.
    let is_checked = |position: &usize| !(12..16).contains(&(position % size));
    for position in (0..bytes.len() - size).filter(is_checked) {
        let fs = sound.crash(CrashChoice::KeepAll);
        let flipped = bytes[position] ^ 1;
        damage(&fs, LOG, position as u64, &[flipped]);
        let said = refused(&fs);
        assert!(
            said.contains(LOG) && said.contains("segment dump"),
            "byte {position}: {said}"
        );
    }
    damage(&sound, LOG, (size + 17) as u64, b"\0\0\0\0");
    let said = refused(&sound);
    let end = format!(
        "a sound batch follows at position {}, so this is damage and no torn tail; {}",
        2 * size,
        super::adopt::ADVICE
    );
    assert!(
        said.contains(&format!("position {size}: ")) && said.ends_with(&end),
        "{said}"
    );
}

#[test]
fn a_last_batch_that_is_cut_anywhere_is_left_out_and_all_before_it_is_there() {
    let sound = killed();
    let bytes = content(&sound, LOG);
    let size = bytes.len() / BATCHES;
    for kept in 1..size {
        // As a kill leaves it, and as a power cut does: the length on disk, the bytes not.
        for zeros in [0, size - kept] {
            let whole = &bytes[..bytes.len() - size + kept];
            let torn = [whole, &vec![0; zeros]].concat();
            if torn == bytes {
                continue;
            }
            let fs = sound.crash(CrashChoice::KeepAll);
            put(&fs, LOG, &torn);
            let (report, offsets) = adopted(&fs).expect("a torn tail");
            assert_eq!(report.dropped_tail_bytes, (kept + zeros) as u64);
            assert_eq!((report.records, report.log_end), (10, Offset(10)));
            assert_eq!(offsets, (0..10).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_log_in_which_nothing_is_sound_is_refused_unless_it_is_shorter_than_a_header() {
    let fs = killed();
    let bytes = content(&fs, LOG);
    let noise: Vec<u8> = (0..9_000_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for nothing in [&noise[..], &[0; 61], &bytes[..bytes.len() / BATCHES - 1]] {
        put(&fs, LOG, nothing);
        let said = refused(&fs);
        assert!(
            said.contains(&format!(
                "nothing in its {} bytes is a sound batch",
                nothing.len()
            )),
            "{said}"
        );
    }
    for len in [0, 60] {
        put(&fs, LOG, &noise[..len]);
        let (report, _) = adopted(&fs).expect("there was never a batch");
        assert_eq!((report.records, report.dropped_tail_bytes), (0, len as u64));
    }
    put(&fs, LOG, &bytes);
    fs.rename(Path::new(LOG), Path::new("/foreign/f-0/00000000000000000007.log"))
        .expect("renamed");
    let said = refused(&fs);
    assert!(
        said.contains("by its name it begins at offset 7, and the sound batch in it at offset 0"),
        "{said}"
    );
}

#[test]
fn what_a_clean_stop_or_a_recovery_point_vouches_for_is_no_torn_tail() {
    let fs = killed();
    let bytes = content(&fs, LOG);
    let size = bytes.len() / BATCHES;
    put(&fs, LOG, &bytes[..bytes.len() - 3]);
    vouch(&fs, 10);
    assert_eq!(adopted(&fs).expect("torn beyond the point").0.log_end, Offset(10));
    vouch(&fs, 11);
    let said = refused(&fs);
    assert!(said.contains("all before offset 11 was on disk"), "{said}");
    put(&fs, LOG, &bytes[..bytes.len() - size]);
    let said = refused(&fs);
    assert!(
        said.contains("it ends before offset 10, and the recovery point"),
        "{said}"
    );
    // A Siltstone's repair leaves such a hole.
    put(&fs, MANIFEST, b"");
    assert_eq!(adopted(&fs).expect("a hole").0.log_end, Offset(10));

    let fs = killed();
    put(&fs, MARKER, b"");
    assert_eq!(adopted(&fs).expect("sound").0.records, 11);
    put(&fs, LOG, &bytes[..bytes.len() - 3]);
    let said = refused(&fs);
    assert!(
        said.contains("/foreign/.kafka_cleanshutdown says that its server stopped cleanly"),
        "{said}"
    );
}

#[test]
fn a_log_that_cannot_be_linked_or_is_not_ours_to_write_is_copied() {
    let whole = adopted(&foreign()).expect("sound");
    let denied = Failure::Kind(ErrorKind::PermissionDenied);
    // As `link` says under `fs.protected_hardlinks`, on another disk, and where a file system has none; and as opening the link
    // for writing says without that protection.
    for (call, at, failure) in [
        (Call::Link, "f-0", Failure::Os(1)),
        (Call::Link, "f-0", denied),
        (Call::Link, "f-0", Failure::Kind(ErrorKind::CrossesDevices)),
        (Call::Link, "f-0", Failure::Kind(ErrorKind::Unsupported)),
        (Call::Open, "-future/00000000000000000000.log", denied),
    ] {
        let fs = foreign();
        let store = open_store(&fs).expect("opened");
        let original = foreign_files(&fs);
        fs.inject(fault(call, at, 1, failure));
        let from = PathBuf::from(FOREIGN).join("f-0");
        let (log, report) = adopt(&store, &from, spec("t", 1, small())).expect("adopted");
        assert_eq!((report, offsets(&log)), whole, "{call:?} {failure:?}");
        let first = fs.stat(&path("t-0/00000000000000000000.log")).expect("there");
        assert_eq!(first.links, 1, "{call:?} {failure:?}: it is a copy");
        assert_eq!(foreign_files(&fs), original);
    }
}

#[test]
fn a_log_that_may_not_be_read_is_told_with_what_to_do() {
    let fs = foreign();
    let store = open_store(&fs).expect("opened");
    fs.inject(fault(
        Call::Open,
        LOG,
        1,
        Failure::Kind(ErrorKind::PermissionDenied),
    ));
    let from = PathBuf::from(FOREIGN).join("f-0");
    let said = adopt(&store, &from, spec("t", 1, small())).expect_err("not readable");
    assert!(
        said.to_string()
            .ends_with("let the user that the server runs as read it, or adopt a copy that it may read"),
        "{said}"
    );
}

/// The base offsets of the logs of [`foreign`].
fn bases(fs: &SimFs) -> Vec<i64> {
    let files = foreign_files(fs).into_iter();
    let logs = files.filter_map(|(name, _)| {
        name.strip_suffix(".log")
            .map(|base| base.parse().expect("digits"))
    });
    logs.collect()
}

fn log(base: i64) -> PathBuf {
    PathBuf::from(format!("/foreign/f-0/{base:020}.log"))
}

#[test]
fn offsets_that_no_batch_spans_are_told_from_the_log_start_on() {
    assert_eq!(adopted(&foreign()).expect("sound").0.missing_offsets, 0);
    let fs = foreign();
    let bases = bases(&fs);
    fs.remove_file(&log(bases[1])).expect("removed");
    let (report, offsets) = adopted(&fs).expect("it may have been compacted");
    assert_eq!(report.missing_offsets, (bases[2] - bases[1]) as u64);
    assert_eq!(offsets.len() as u64, 30 - report.missing_offsets);

    let topic = TopicName::new("f").expect("a good name");
    let line = (TopicPartition::new(topic, PartitionId(0)), Offset(bases[2] - 1));
    put(
        &fs,
        "/foreign/log-start-offset-checkpoint",
        &encode_offsets(&[line].into()),
    );
    let (report, _) = adopted(&fs).expect("as before");
    assert_eq!(
        (report.missing_offsets, report.log_start),
        (1, Offset(bases[2] - 1))
    );
}

#[test]
fn logs_that_overlap_are_refused_wherever_they_do() {
    let bases = bases(&foreign());
    for base in bases.into_iter().skip(1) {
        let fs = foreign();
        // Its name moves back, into the log before it.
        fs.rename(&log(base), &log(base - 1)).expect("renamed");
        let said = refused(&fs);
        let end = format!("it begins before offset {}, where the log before it ends", base);
        assert!(said.contains(&end), "{said}");
    }
}

#[test]
fn a_last_log_whose_name_contradicts_its_batches_is_refused() {
    let bases = bases(&foreign());
    let last = bases[bases.len() - 1];
    let fs = foreign();
    fs.rename(&log(last), &log(last + 1)).expect("renamed");
    let said = refused(&fs);
    assert!(
        said.contains(&format!(
            "begins at offset {}, and the sound batch in it at offset {last}",
            last + 1
        )),
        "{said}"
    );
}

#[test]
fn indexes_that_contradict_their_log_are_made_anew() {
    let made = |fs: &SimFs| {
        let store = open_store(fs).expect("opened");
        let from = PathBuf::from(FOREIGN).join("f-0");
        adopt(&store, &from, spec("t", 1, small())).expect("adopted");
        let files = names(fs, "t-0").into_iter();
        let indexes = files.filter(|name| name.ends_with("index") || name.ends_with("checkpoint"));
        indexes
            .map(|name| {
                (
                    content(fs, path("t-0").join(&name).to_str().expect("plain")),
                    name,
                )
            })
            .collect::<Vec<_>>()
    };
    let fs = foreign();
    let expected = made(&fs);
    assert!(expected.iter().any(|(bytes, _)| !bytes.is_empty()));
    let fs = foreign();
    for (name, bytes) in foreign_files(&fs) {
        if !name.ends_with(".log") {
            let lies = vec![0x11; bytes.len().max(24)];
            put(&fs, &format!("/foreign/f-0/{name}"), &lies);
        }
    }
    assert_eq!(made(&fs), expected);
}

type Change = fn(&mut [u8]);

/// Changes the last batch of [`killed`], and makes its checksum true again.
fn change_last(fs: &SimFs, change: impl FnOnce(&mut [u8])) {
    let bytes = content(fs, LOG);
    let size = bytes.len() / BATCHES;
    let mut batch = bytes[bytes.len() - size..].to_vec();
    change(&mut batch);
    let parsed = RecordBatch::parse(batch.clone().into()).expect("a sound header");
    let Err(Damage::Crc { computed, .. }) = parsed.verify_crc() else {
        panic!("nothing was changed");
    };
    batch[17..21].copy_from_slice(&computed.to_be_bytes());
    damage(fs, LOG, (bytes.len() - size) as u64, &batch);
}

#[test]
fn a_batch_whose_records_cannot_be_read_is_refused_though_its_checksum_is_true() {
    let log_append_time = 0b1000;
    let gzip = |batch: &mut [u8]| batch[22] |= 1;
    let one_more = |batch: &mut [u8]| (batch[26], batch[60]) = (1, 2);
    let malformed = |batch: &mut [u8]| batch[61] = 1;
    let changes: [(Change, &str); 3] = [
        (gzip, "does not decompress"),
        (one_more, "ends after 1 of 2 records"),
        (malformed, "record 0 of the batch is malformed"),
    ];
    for by_the_server in [0, log_append_time] {
        for (change, why) in changes {
            let fs = killed();
            let position = content(&fs, LOG).len() / BATCHES * (BATCHES - 1);
            change_last(&fs, |batch| {
                batch[22] = by_the_server;
                change(batch);
            });
            let said = refused(&fs);
            let place = format!("position {position}: ");
            assert!(
                said.contains(&place) && said.contains(why) && said.contains(LOG),
                "{said}"
            );
        }
    }
}

#[test]
fn a_log_that_is_no_file_is_refused_and_not_left_out() {
    let fs = killed();
    let link = "/foreign/f-0/00000000000000000099.log";
    fs.create_dir(Path::new(link)).expect("made");
    let store = open_store(&fs).expect("opened");
    let error = adopt(&store, &PathBuf::from(FOREIGN).join("f-0"), spec("t", 1, small()));
    let said = error.expect_err("it is refused").to_string();
    assert!(
        said.contains("00099.log") && said.contains("is no file"),
        "{said}"
    );
}
