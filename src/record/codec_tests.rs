//! Every codec against streams that other implementations wrote, and against hostile ones.

use std::io::Write;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::record::testing::{LIMIT, Plain, any_codec, easy_rules, hex, read, stored};
use crate::record::{Header, ProducerStamp, RecordBatch, accept};
use crate::types::{ProducerEpoch, ProducerId, Sequence, Timestamp};

/// One batch per codec as Kafka's Java client, version 4.1.1, writes it: [`java_records`], transactional, by producer 4242,
/// epoch 7, from sequence 11.
const JAVA: [(Codec, &str); 5] = [
    (
        Codec::None,
        "00000000000000000000007cffffffff02bdd39f200010000000020000018bcfe568000000018bcfe569f40000000000001092
         00070000000b000000036c0000000a616c7068613e6f6e65206f6e65206f6e65206f6e65206f6e65206f6e65206f6e65206f6e
         65040a7472616365060001ff00011600cf0f02086265746101000e00e80704010000",
    ),
    (
        Codec::Gzip,
        "000000000000000000000077ffffffff02104e40580011000000020000018bcfe568000000018bcfe569f40000000000001092
         00070000000b000000031f8b08000000000000ffcb616060e04acc29c848b4cbcf4b55c08359b84a8a129353d91818ff33308a
         319ce767e2484a2d496464e06378c1cec2c8c000002ce5b4624b000000",
    ),
    (
        Codec::Snappy,
        "00000000000000000000007bffffffff0234a61c830012000000020000018bcfe568000000018bcfe569f40000000000001092
         00070000000b0000000382534e41505059000000000100000001000000364b386c0000000a616c7068613e6f6e65206a040080
         040a7472616365060001ff00011600cf0f02086265746101000e00e80704010000",
    ),
    (
        Codec::Lz4,
        "000000000000000000000077ffffffff02ab0b80620013000000020000018bcfe568000000018bcfe569f40000000000001092
         00070000000b0000000304224d1860408237000000ff006c0000000a616c7068613e6f6e6520040008f012040a747261636506
         0001ff00011600cf0f02086265746101000e00e8070401000000000000",
    ),
    (
        Codec::Zstd,
        "000000000000000000000074ffffffff022ef4c9c90014000000020000018bcfe568000000018bcfe569f40000000000001092
         00070000000b0000000328b52ffd0058bc010004036c0000000a616c7068613e6f6e6520040a7472616365060001ff00011600
         cf0f02086265746101000e00e80704010000010087ae0e010000",
    ),
];

/// What `zstd --ultra -22 --long=27` makes of [`flights`]: no content size, and a window of 128 MiB.
const ZSTD_WIDE_WINDOW: &str = "
    28b52ffd04886c030002451011a06f4c490df387cf43fdb794ca8dffaa065bc810e1bd197c214384f766e0850c11de9b41173244
    786f065cc810e1bd794d3a6a67ddc5d0ca49db82adcfc1d80234a811a0bbb36ff03536031120042b0427043f86dfff3f0321fadf
    5523310ef4400fe8c42bac1560d54d0000000100edc971ffae81b0c64563";

fn flights() -> Vec<u8> {
    (0..5000)
        .flat_map(|flight| format!("flight {:05} from EWR to IAH; ", flight % 50).into_bytes())
        .collect()
}

/// What `lz4 -BD -B4` makes of [`letters`]: three blocks, each looking back into the one before.
fn lz4_linked() -> Vec<u8> {
    let run = |len: usize| "ff".repeat(len);
    hex(&[
        "04224d1844405e1f010000a46162636465666768303b0a0015310a0015320a000f1e00",
        &run(256),
        "c25062636465660a0100000ff0",
        &run(257),
        "e85068323b616268000000a2636465666768303b61620a0015310a0015320a000f1e00",
        &run(73),
        "fd50666768323b000000004c91ecba",
    ]
    .concat())
}

fn letters() -> Vec<u8> {
    (0..15_000)
        .flat_map(|number| format!("abcdefgh{};", number % 3).into_bytes())
        .collect()
}

fn java_records() -> Vec<Plain> {
    let mut records = vec![
        Plain::new(1_700_000_000_000, "alpha", "one one one one one one one one"),
        Plain::new(1_699_999_999_000, "beta", ""),
        Plain::new(1_700_000_000_500, "", ""),
    ];
    records[0].headers = vec![
        Header {
            key: "trace".into(),
            value: Some(Bytes::from_static(&[0, 1, 255])),
        },
        Header {
            key: Bytes::new(),
            value: None,
        },
    ];
    records[1].value = None;
    records[2].key = None;
    records
}

fn decompress(codec: Codec, stream: &[u8]) -> Result<Vec<u8>, CodecError> {
    codec.decompress(stream, LIMIT).map(Cow::into_owned)
}

fn compress(codec: Codec, records: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    codec.compress(None, records, &mut stream);
    stream
}

fn reason(codec: Codec, stream: &[u8]) -> String {
    decompress(codec, stream).unwrap_err().to_string()
}

#[test]
fn batches_of_the_java_client_pass_the_door_and_read() {
    for (codec, batch) in JAVA {
        let bytes = Bytes::from(hex(batch));
        let accepted = accept(bytes.clone(), &easy_rules()).unwrap();
        assert_eq!(accepted.bytes(), &bytes, "{codec}");
        assert_eq!(accepted.header().codec, codec);
        assert_eq!(
            accepted.header().producer,
            Some(ProducerStamp {
                id: ProducerId(4242),
                epoch: ProducerEpoch(7),
                base_sequence: Some(Sequence(11)),
            })
        );
        assert!(accepted.header().is_transactional());
        let expected: Vec<_> = (0..)
            .zip(java_records())
            .map(|(offset, plain)| plain.at(offset))
            .collect();
        assert_eq!(read(&stored(&accepted, 0)), expected, "{codec}");
    }
}

#[test]
fn framings_written_are_those_of_the_java_client() {
    let (_, java) = JAVA[0];
    let records = &hex(java)[61..];
    for (codec, java) in JAVA {
        let ours = compress(codec, records);
        let java = &hex(java)[61..];
        let framing_len = match codec {
            Codec::None => java.len(),
            Codec::Gzip => 3,
            Codec::Snappy => 16,
            Codec::Lz4 => 7,
            Codec::Zstd => 4,
        };
        assert_eq!(ours[..framing_len], java[..framing_len], "{codec}");
    }
}

#[test]
fn names_and_bits_are_kafkas() {
    for (bits, (codec, name)) in (0..).zip(
        Codec::ALL
            .into_iter()
            .zip(["none", "gzip", "snappy", "lz4", "zstd"]),
    ) {
        assert_eq!(Codec::from_attributes(bits), Some(codec));
        assert_eq!(codec.to_attributes(), bits);
        assert_eq!(codec.to_string(), name);
        assert_eq!(name.parse(), Ok(codec));
    }
    assert_eq!(
        "ZSTD".parse::<Codec>().unwrap_err().to_string(),
        "'ZSTD' is not a codec, known are none, gzip, snappy, lz4 and zstd"
    );
}

#[test]
fn snappy_is_read_raw_and_in_many_chunks() {
    let records = letters();
    let raw = snap::raw::Encoder::new().compress_vec(&records).unwrap();
    assert_eq!(decompress(Codec::Snappy, &raw).unwrap(), records);
    let xerial = compress(Codec::Snappy, &records);
    let first_chunk_len = i32::from_be_bytes(*xerial[16..].first_chunk().unwrap());
    assert!(
        20 + usize::try_from(first_chunk_len).unwrap() < xerial.len(),
        "more than one chunk"
    );
    assert_eq!(decompress(Codec::Snappy, &xerial).unwrap(), records);
    let twice = [&xerial[..], &xerial].concat();
    assert_eq!(
        decompress(Codec::Snappy, &twice).unwrap(),
        [&records[..], &records].concat()
    );
    assert_eq!(decompress(Codec::Snappy, &xerial[..16]).unwrap(), b"");
}

#[test]
fn damaged_snappy_is_named() {
    let xerial = compress(Codec::Snappy, b"records");
    let corrupt = "snappy records are corrupt: ";
    assert_eq!(
        reason(Codec::Snappy, &xerial[..10]),
        format!("{corrupt}cut off inside the stream header")
    );
    assert_eq!(
        reason(Codec::Snappy, &xerial[..18]),
        format!("{corrupt}cut off inside the length of a chunk")
    );
    assert_eq!(
        reason(Codec::Snappy, &xerial[..22]),
        format!("{corrupt}a chunk of 9 bytes where 2 are left")
    );
    let mut newer = xerial;
    newer[15] = 2;
    assert_eq!(
        reason(Codec::Snappy, &newer),
        format!("{corrupt}stream version 2 is needed, only 1 is read")
    );
    // A block of 5 bytes that says it holds 1 GiB.
    assert_eq!(
        reason(Codec::Snappy, &[0x80, 0x80, 0x80, 0x80, 0x04]),
        format!("{corrupt}a block of 5 bytes cannot hold 1073741824")
    );
}

#[test]
fn lz4_is_read_with_linked_blocks() {
    assert_eq!(decompress(Codec::Lz4, &lz4_linked()).unwrap(), letters());
}

#[test]
fn lz4_is_one_whole_frame() {
    let frame = compress(Codec::Lz4, b"records");
    for cut in 0..frame.len() {
        assert!(decompress(Codec::Lz4, &frame[..cut]).is_err(), "cut at {cut}");
    }
    assert_eq!(
        reason(Codec::Lz4, &[&frame[..], &frame].concat()),
        format!("lz4 records are corrupt: {} bytes after the frame", frame.len())
    );
    for other_kind in [hex("02214c18 00000000"), hex("502a4d18 00000000")] {
        assert_eq!(
            reason(Codec::Lz4, &other_kind),
            "lz4 records are corrupt: not a whole frame"
        );
    }
}

#[test]
fn a_wrong_lz4_checksum_is_damage() {
    let mut frame = lz4_linked();
    *frame.last_mut().unwrap() ^= 1;
    assert!(decompress(Codec::Lz4, &frame).is_err(), "of the content");
    let mut frame = compress(Codec::Lz4, b"records");
    frame[6] ^= 1;
    assert!(decompress(Codec::Lz4, &frame).is_err(), "of the header");
}

#[test]
fn an_lz4_block_of_nothing_hides_no_block_behind_it() {
    let frame = compress(Codec::Lz4, b"records");
    let (header, blocks) = frame.split_at(7);
    // Stored, and as one token without a literal.
    for empty in [&hex("00000080")[..], &hex("01000000 00")] {
        let hiding = [header, empty, blocks].concat();
        assert!(decompress(Codec::Lz4, &hiding).is_err(), "{empty:?}");
    }
}

#[test]
fn gzip_is_read_in_many_members_with_names_and_nothing_after_them() {
    let mut named = flate2::GzBuilder::new()
        .filename("records")
        .comment("written elsewhere")
        .write(Vec::new(), flate2::Compression::best());
    named.write_all(b"first ").unwrap();
    let members = [named.finish().unwrap(), compress(Codec::Gzip, b"second")].concat();
    assert_eq!(decompress(Codec::Gzip, &members).unwrap(), b"first second");
    assert!(decompress(Codec::Gzip, &[&members[..], b"rest"].concat()).is_err());
    assert!(decompress(Codec::Gzip, &members[..members.len() - 1]).is_err());
}

#[test]
fn zstd_is_read_in_many_frames_with_and_without_content_size() {
    let sized = compress(Codec::Zstd, b"sized");
    let frames = [&hex(ZSTD_WIDE_WINDOW)[..], &sized].concat();
    let expected = [&flights()[..], b"sized"].concat();
    assert_eq!(decompress(Codec::Zstd, &frames).unwrap(), expected);
    assert_eq!(
        decompress(Codec::Zstd, &[&sized[..], &hex(ZSTD_WIDE_WINDOW)].concat())
            .unwrap()
            .len(),
        expected.len()
    );
    assert!(decompress(Codec::Zstd, &frames[..frames.len() - 1]).is_err());
    assert!(decompress(Codec::Zstd, &[&frames[..], b"rest"].concat()).is_err());
}

#[test]
fn the_limit_is_exact() {
    let records = letters();
    let len = u32::try_from(records.len()).unwrap();
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let stream = compress(codec, &records);
        assert_eq!(codec.decompress(&stream, DecompressLimit(len)).unwrap(), records);
        assert_eq!(
            codec.decompress(&stream, DecompressLimit(len - 1)),
            Err(CodecError::TooLarge {
                codec,
                limit_bytes: len - 1
            })
        );
    }
    let unsized_frame = hex(ZSTD_WIDE_WINDOW);
    for (limit, fits) in [(149_999, false), (150_000, true)] {
        let read = Codec::Zstd.decompress(&unsized_frame, DecompressLimit(limit));
        assert_eq!(read.is_ok(), fits, "{limit}");
    }
}

#[test]
fn without_a_codec_nothing_is_copied_and_no_limit_applies() {
    let records = letters();
    let lent = Codec::None.decompress(&records, DecompressLimit(0)).unwrap();
    assert_eq!(lent.as_ptr(), records.as_ptr());
}

#[test]
fn a_level_changes_the_size_and_one_out_of_range_is_the_nearest() {
    let records = flights();
    for codec in Codec::ALL {
        let at = |level| {
            let mut stream = Vec::new();
            codec.compress(Some(level), &records, &mut stream);
            assert_eq!(
                codec.decompress(&stream, LIMIT).unwrap(),
                records,
                "{codec} at {level}"
            );
            stream.len()
        };
        match codec.levels() {
            Some(levels) => {
                assert!(at(*levels.start()) > at(*levels.end()), "{codec}");
                assert_eq!(at(i32::MAX), at(*levels.end()));
                assert_eq!(at(i32::MIN), at(*levels.start()));
            }
            None => assert_eq!(at(1), at(9), "{codec}"),
        }
    }
}

/// A stream that swells a thousandfold and more wherever the codec can: the limit, not the stream, bounds the output.
#[test]
fn bombs_in_foreign_framings_stop_at_the_limit() {
    let zeros = vec![0; 1 << 24];
    let members = compress(Codec::Gzip, &zeros[..1 << 20]).repeat(16);
    let chunks = compress(Codec::Snappy, &zeros);
    let raw = snap::raw::Encoder::new().compress_vec(&zeros).unwrap();
    let frames = compress(Codec::Zstd, &zeros[..1 << 20]).repeat(16);
    for (codec, bomb) in [
        (Codec::Gzip, members),
        (Codec::Snappy, chunks),
        (Codec::Snappy, raw),
        (Codec::Zstd, frames),
    ] {
        let limit_bytes = LIMIT.0;
        assert_eq!(
            decompress(codec, &bomb),
            Err(CodecError::TooLarge { codec, limit_bytes })
        );
    }
}

#[test]
fn a_zstd_frame_that_overstates_its_size_costs_no_more_than_the_limit() {
    // Content size of 8 bytes, 2^62; one raw block of one byte.
    let lie = hex("28b52ffd e0 0000000000000040 090000 61");
    assert!(decompress(Codec::Zstd, &lie).is_err());
}

proptest! {
    #[test]
    fn what_was_compressed_decompresses(
        codec in any_codec(),
        level in proptest::option::of(-5..25i32),
        records in prop_oneof![
            vec(any::<u8>(), 0..2000),
            (vec(any::<u8>(), 1..50), 0..5000usize).prop_map(|(piece, times)| piece.repeat(times)),
        ],
    ) {
        let mut stream = vec![7];
        codec.compress(level, &records, &mut stream);
        prop_assert_eq!(stream[0], 7, "what was there stays");
        prop_assert_eq!(decompress(codec, &stream[1..]).unwrap(), records);
    }

    #[test]
    fn arbitrary_streams_are_read_or_refused(
        codec in any_codec(),
        stream in vec(any::<u8>(), 0..200),
        limit in 0..100_000u32,
    ) {
        let limit = DecompressLimit(limit);
        if let Ok(records) = codec.decompress(&stream, limit) {
            prop_assert!(codec == Codec::None || records.len() <= limit.bytes());
        }
    }

    #[test]
    fn damaged_streams_are_read_or_refused(
        stream in 0..8usize,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        limit in 0..200_000u32,
    ) {
        let (codec, mut stream) = match stream {
            0 => (Codec::Lz4, lz4_linked()),
            1 => (Codec::Zstd, hex(ZSTD_WIDE_WINDOW)),
            2 => (Codec::Snappy, snap::raw::Encoder::new().compress_vec(&letters()).unwrap()),
            3 => (Codec::Gzip, compress(Codec::Gzip, b"one").repeat(2)),
            other => (Codec::ALL[other - 3], compress(Codec::ALL[other - 3], &letters())),
        };
        for (at, byte) in changes {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        stream.truncate(cut.index(stream.len() * 3));
        let limit = DecompressLimit(limit);
        if let Ok(records) = codec.decompress(&stream, limit) {
            prop_assert!(records.len() <= limit.bytes());
        }
    }
}

#[test]
fn least_and_greatest_time_of_a_java_batch_are_found_in_any_codec() {
    for (_, batch) in JAVA {
        let batch = RecordBatch::parse(hex(batch).into()).unwrap();
        batch.verify_crc().unwrap();
        let span = (Timestamp(1_699_999_999_000), Timestamp(1_700_000_000_500));
        assert_eq!(batch.timestamps(LIMIT), Ok(Some(span)));
    }
}
