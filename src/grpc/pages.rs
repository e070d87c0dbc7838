//! Long answers in pages: of rows that do not all fit a response, those that do, and where the next call goes on.
//!
//! A page takes at most [`PAGE_BYTES`], and the first row, or the first part of it, whatever its size; so every page gets on. What
//! changes between two calls shows in the later page only: pages are no snapshot.

use prost::Message;

use crate::broker::AskedPartitions;
use crate::proto::v1;
use crate::types::{Offset, PartitionId};

use super::MAX_RESPONSE_BYTES;
use super::portions::field_len;

/// What the rows of a page take, in bytes, at most: the rest of the response is for what stands beside them.
pub(super) const PAGE_BYTES: usize = MAX_RESPONSE_BYTES / 2;
/// Partitions of a page, at most, where each takes work and memory: what is known of more is not put together for a page that it
/// does not fit.
pub(super) const PAGE_PARTITIONS: usize = 1000;

/// A partition told in parts that each have an offset: its segments.
pub(super) trait Row: Message {
    /// A segment.
    type Part: Message;

    /// Returns the partition's number.
    fn partition(&self) -> i32;
    /// Returns the parts, ascending by offset.
    fn parts(&mut self) -> &mut Vec<Self::Part>;
    /// Returns the offset at which a part begins.
    fn base(part: &Self::Part) -> i64;
}

impl Row for v1::LogDescription {
    type Part = v1::LogSegment;

    fn partition(&self) -> i32 {
        self.partition
    }

    fn parts(&mut self) -> &mut Vec<v1::LogSegment> {
        &mut self.segments
    }

    fn base(part: &v1::LogSegment) -> i64 {
        part.base_offset
    }
}

impl Row for v1::RetentionPreview {
    type Part = v1::SegmentDeletion;

    fn partition(&self) -> i32 {
        self.partition
    }

    fn parts(&mut self) -> &mut Vec<v1::SegmentDeletion> {
        &mut self.deletions
    }

    fn base(part: &v1::SegmentDeletion) -> i64 {
        part.base_offset
    }
}

/// Says which partitions to ask for, for a page that begins with `from`: one more than it may hold, which is where the next begins.
pub(super) fn asked(partitions: Vec<PartitionId>, from: PartitionId) -> AskedPartitions {
    AskedPartitions {
        named: partitions,
        from,
        at_most: PAGE_PARTITIONS + 1,
    }
}

/// Takes the rows that fit, at most so many; also returns the first that does not.
pub(super) fn page<T: Message>(rows: impl IntoIterator<Item = T>, at_most: usize) -> (Vec<T>, Option<T>) {
    let (mut page, mut used) = (Vec::new(), 0);
    for row in rows {
        used += field_len(&row);
        if !page.is_empty() && (used > PAGE_BYTES || page.len() >= at_most) {
            return (page, Some(row));
        }
        page.push(row);
    }
    (page, None)
}

/// Takes what fits of partitions and their parts; of the first one, if it is that of `from`, the parts from its offset on. Also
/// returns where the next page begins.
pub(super) fn page_of_parts<T: Row>(
    rows: impl IntoIterator<Item = T>,
    from: (PartitionId, Offset),
) -> (Vec<T>, Option<v1::LogPlace>) {
    let (mut page, mut used) = (Vec::<T>::new(), 0);
    for mut row in rows {
        let partition = row.partition();
        let first = match partition == from.0.0 {
            true => from.1.0,
            false => 0,
        };
        let parts = std::mem::take(row.parts());
        used += field_len(&row);
        if !page.is_empty() && (used > PAGE_BYTES || page.len() == PAGE_PARTITIONS) {
            let next = v1::LogPlace {
                partition,
                offset: first,
            };
            return (page, Some(next));
        }
        let mut left = None;
        for part in parts.into_iter().filter(|part| T::base(part) >= first) {
            used += field_len(&part);
            if used > PAGE_BYTES && !(page.is_empty() && row.parts().is_empty()) {
                left = Some(T::base(&part));
                break;
            }
            row.parts().push(part);
        }
        page.push(row);
        if let Some(offset) = left {
            return (page, Some(v1::LogPlace { partition, offset }));
        }
    }
    (page, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn log(partition: i32, segments: i64) -> v1::LogDescription {
        let segment = |at: i64| v1::LogSegment {
            base_offset: at * 10,
            end_offset: at * 10 + 10,
            size_bytes: i64::MAX,
            first_append_ms: Some(i64::MAX),
            last_append_ms: Some(i64::MAX),
            state: 2,
        };
        v1::LogDescription {
            partition,
            segments: (0..segments).map(segment).collect(),
            log_end_offset: i64::MAX,
            ..v1::LogDescription::default()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn pages_of_segments_fit_and_are_all_of_them(
            segments in prop::collection::vec(prop_oneof![9 => 0..50_i64, 1 => 0..120_000_i64], 1..40),
        ) {
            let all: Vec<_> = (0..).zip(segments).map(|(partition, segments)| log(partition, segments)).collect();
            let mut joined = Vec::<v1::LogDescription>::new();
            let mut from = Some(v1::LogPlace::default());
            while let Some(place) = from {
                let rows = all.iter().filter(|log| log.partition >= place.partition).cloned();
                let (rows, next) = page_of_parts(rows, (PartitionId(place.partition), Offset(place.offset)));
                let response = v1::DescribeLogResponse { partitions: rows, next };
                prop_assert!(response.encoded_len() < MAX_RESPONSE_BYTES);
                for row in response.partitions {
                    match joined.last_mut() {
                        Some(last) if last.partition == row.partition => last.segments.extend(row.segments),
                        _ => joined.push(row),
                    }
                }
                prop_assert!(next.is_none_or(|next| (next.partition, next.offset) > (place.partition, place.offset)));
                from = next;
            }
            prop_assert!(joined == all);
        }
    }

    #[test]
    fn pages_of_rows_fit_and_the_next_begins_with_the_first_that_does_not() {
        let topic = |number: i32| v1::TopicSummary {
            name: format!("{number:0>249}"),
            partitions: number,
            ..v1::TopicSummary::default()
        };
        let (mut from, mut pages) = (Some(0), 0);
        let mut seen = 0;
        while let Some(first) = from {
            let (topics, left) = page((first..20_000).map(topic), usize::MAX);
            seen += topics.len();
            from = left.map(|left| left.partitions);
            pages += 1;
            let response = v1::ListTopicsResponse {
                topics,
                next_name: Some("x".repeat(249)),
            };
            assert!(response.encoded_len() < MAX_RESPONSE_BYTES);
        }
        assert_eq!((seen, pages), (20_000, 3));
        let (few, left) = page((0..20_000).map(topic), 7);
        assert_eq!((few.len(), left.map(|left| left.partitions)), (7, Some(7)));
        let large = v1::TopicSummary {
            name: "x".repeat(PAGE_BYTES),
            ..v1::TopicSummary::default()
        };
        let (page, left) = page([large.clone(), large], usize::MAX);
        assert_eq!((page.len(), left.is_some()), (1, true), "one always fits");
    }
}
