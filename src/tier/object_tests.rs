//! Tests of `super`: what was written is read, and nothing else passes for it.

use proptest::prelude::*;

use super::*;
use crate::storage::{RelativeOffset, TimeIndex};
use crate::tier::object_writer::{ObjectFacts, ObjectWriter, Tail};
use crate::tier::testing::{NOW, partition};
use crate::types::Offset;

fn facts(log_bytes: u64) -> ObjectFacts {
    let summary = SegmentSummary {
        next_offset: Offset(500),
        log_bytes,
        records: 100,
        least_timestamp: Some(Timestamp(5)),
        greatest_timestamp: Some(Timestamp(9)),
        ..SegmentSummary::empty(Offset(400))
    };
    let id = ObjectId {
        base: Offset(400),
        epoch: LeaderEpoch(3),
        attempt: 0xfeed,
    };
    ObjectFacts {
        partition: partition(),
        id,
        written: NOW,
        summary,
    }
}

fn offset_index(entries: u32) -> Vec<u8> {
    let entry = |number: u32| OffsetEntry {
        last_offset: RelativeOffset(10 * number),
        position: crate::storage::Position(100 * number),
    };
    (1..=entries)
        .flat_map(|number| entry(number).to_bytes())
        .collect()
}

/// Writes an object in pieces of `piece` bytes; returns all of it.
fn write(log: &[u8], sections: &[(SectionKind, Vec<u8>)], piece: usize) -> (Vec<u8>, Tail) {
    let mut writer = ObjectWriter::begin(facts(u64::try_from(log.len()).expect("small")));
    let mut object = Vec::new();
    let mut put = |writer: &mut ObjectWriter, bytes: &[u8]| {
        bytes.chunks(piece).for_each(|piece| writer.write(piece));
        object.extend_from_slice(bytes);
    };
    put(&mut writer, log);
    for (kind, bytes) in sections {
        writer.section(*kind);
        put(&mut writer, bytes);
    }
    let tail = writer.finish().expect("it fits");
    object.extend_from_slice(&tail.bytes);
    (object, tail)
}

fn read(object: &[u8]) -> Result<Footer, ObjectDamage> {
    let len = u64::try_from(object.len()).expect("small");
    let trailer = Trailer::decode(&object[object.len().saturating_sub(TRAILER_LEN)..], len)?;
    let at = |position: u64| usize::try_from(position).expect("small");
    let range = trailer.footer();
    Footer::decode(&object[at(range.start)..at(range.end)], &trailer)
}

fn slice(object: &[u8], range: Range<u64>) -> &[u8] {
    let at = |position: u64| usize::try_from(position).expect("small");
    &object[at(range.start)..at(range.end)]
}

fn sample() -> (Vec<u8>, Vec<(SectionKind, Vec<u8>)>) {
    let log: Vec<u8> = (0..2 * CHUNK_BYTES + 12_345)
        .map(|byte| byte.to_be_bytes()[3])
        .collect();
    let sections = vec![
        (SectionKind::OFFSET_INDEX, offset_index(2 * PAGE_ENTRIES + 7)),
        (SectionKind::TIME_INDEX, vec![0; 12]),
        (SectionKind(900), b"of a later version".to_vec()),
    ];
    (log, sections)
}

#[test]
fn every_chunk_page_and_fence_is_where_the_footer_says() {
    let (log, sections) = sample();
    let (object, tail) = write(&log, &sections, 70_001);
    assert_eq!(tail.object_len(), u64::try_from(object.len()).expect("small"));
    assert!(object.starts_with(&log), "the log is unchanged, from byte 0");
    let footer = read(&object).expect("sound");
    assert_eq!(footer.id, facts(0).id);
    assert_eq!(footer.chunk_crcs.len(), 3);
    for chunk in 0..3 {
        let range = footer.chunk(chunk).expect("there");
        footer.check_chunk(chunk, slice(&object, range)).expect("sound");
    }
    assert_eq!(footer.chunk(3), None);
    for (kind, bytes) in &sections {
        let section = footer.section(*kind).expect("there");
        assert_eq!(
            slice(&object, section.position..section.position + section.len_bytes),
            bytes
        );
        for page in 0..section.page_crcs.len() {
            let range = section.page(page).expect("there");
            section.check_page(page, slice(&object, range)).expect("sound");
        }
    }
    let index = footer.section(SectionKind::OFFSET_INDEX).expect("there");
    let fences: Vec<u8> = [0, PAGE_ENTRIES, 2 * PAGE_ENTRIES]
        .into_iter()
        .flat_map(|entry| {
            let at = usize::try_from(entry).expect("small") * OffsetEntry::LEN;
            sections[0].1[at..at + OffsetEntry::LEN].to_vec()
        })
        .collect();
    assert_eq!(index.fences, fences);
    assert_eq!(index.page(3), None);
}

#[test]
fn how_the_bytes_came_makes_no_difference() {
    let (log, sections) = sample();
    let (whole, _) = write(&log, &sections, usize::MAX);
    for piece in [7, 1 << 20, (1 << 20) + 1] {
        assert!(write(&log, &sections, piece).0 == whole, "pieces of {piece}");
    }
}

#[test]
fn an_empty_log_and_empty_sections_are_sound() {
    let (object, _) = write(&[], &[(SectionKind::TIME_INDEX, Vec::new())], 1);
    let footer = read(&object).expect("sound");
    assert_eq!(footer.chunk(0), None);
    let section = footer.section(SectionKind::TIME_INDEX).expect("there");
    assert_eq!(section.page(0), None);
    assert!(TimeIndex::trusted(&section.fences).last().is_none());
}

#[test]
fn a_log_of_another_length_makes_no_object() {
    let mut writer = ObjectWriter::begin(facts(5));
    writer.write(b"four");
    let refused = writer.finish().expect_err("too short");
    assert_eq!(refused.to_string(), "the log has 4 bytes, its summary says 5");
}

#[test]
fn any_changed_byte_of_the_end_is_found_and_so_is_a_cut() {
    let (object, tail) = write(b"a log", &[(SectionKind::OFFSET_INDEX, offset_index(3))], 100);
    let end = usize::try_from(tail.trailer.footer_position).expect("small");
    for at in end..object.len() {
        let mut damaged = object.clone();
        damaged[at] ^= 1;
        assert!(read(&damaged).is_err(), "byte {at}");
        assert!(read(&object[..at]).is_err(), "cut at {at}");
        assert!(read(&object[1..]).is_err(), "cut in front");
    }
    let mut damaged = object.clone();
    damaged[0] ^= 1;
    let footer = read(&damaged).expect("the footer is sound");
    assert_eq!(
        footer.check_chunk(0, &damaged[..5]),
        Err(ObjectDamage::Chunk { chunk: 0 })
    );
}

#[test]
fn a_newer_version_and_an_unknown_transform_are_told_as_such() {
    let (object, tail) = write(b"a log", &[], 100);
    let mut newer = object.clone();
    let at = object.len() - TRAILER_LEN;
    newer[at + 17] = 2;
    let crc = crc32fast::hash(&newer[at..at + CHECKED_TRAILER_LEN]).to_be_bytes();
    newer[at + CHECKED_TRAILER_LEN..at + CHECKED_TRAILER_LEN + 4].copy_from_slice(&crc);
    assert_eq!(
        read(&newer).err().map(|damage| damage.to_string()).as_deref(),
        Some("it has format version 2, expected 1")
    );
    let start = usize::try_from(tail.trailer.footer_position).expect("small");
    let mut footer = object[start..at].to_vec();
    footer[55] = 9;
    let trailer = Trailer {
        footer_crc: crc32fast::hash(&footer),
        ..tail.trailer
    };
    assert_eq!(
        Footer::decode(&footer, &trailer),
        Err(ObjectDamage::Transform { transform: 9 })
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), cut in 0..400usize) {
        let (object, tail) = write(b"a log", &[(SectionKind::OFFSET_INDEX, offset_index(3)), (SectionKind(77), vec![1; 9])], 100);
        let start = usize::try_from(tail.trailer.footer_position).expect("small");
        let mut footer = object[start..object.len() - TRAILER_LEN].to_vec();
        for (at, byte) in changes {
            let at = at.index(footer.len());
            footer[at] = byte;
        }
        footer.truncate(footer.len().saturating_sub(cut));
        // The checksum is made true, so that the fields themselves are looked at.
        let trailer = Trailer { footer_crc: crc32fast::hash(&footer), ..tail.trailer };
        if let Ok(footer) = Footer::decode(&footer, &trailer) {
            for section in &footer.sections {
                let _ = section.page(section.page_crcs.len());
                prop_assert!(section.position + section.len_bytes <= tail.trailer.footer_position);
            }
        }
    }

    #[test]
    fn any_bytes_are_no_trailer_or_one_of_the_length_it_says(bytes in proptest::collection::vec(any::<u8>(), 0..40), len: u64) {
        let _ = Trailer::decode(&bytes, len);
    }
}
