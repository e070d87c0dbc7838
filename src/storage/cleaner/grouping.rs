//! Grouping: which neighbouring segments become one. Pure.
//!
//! Greedy from the left: a segment joins the group before it while the sums of logs and of each index stay within a segment's
//! limits and no offset is further from the group's base than an index can say. A segment with damage stays alone: at a start
//! the end of its batches cannot be told from its bytes, so it must not stand for others.
//!
//! Invariants
//! - Each segment is looked at once: a log may have 100,000 of them.
//! - Groups are not empty, and one after the other they are the segments given.

use std::ops::Range;

use crate::types::Offset;

/// Limits of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) log_bytes: u64,
    pub(super) index_bytes: u64,
}

/// A segment as grouping sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) base: Offset,
    /// The base of what follows it.
    pub(super) bound: Offset,
    pub(super) log_bytes: u64,
    pub(super) offset_index_bytes: u64,
    pub(super) time_index_bytes: u64,
    pub(super) soundness: Soundness,
}

/// Whether a segment is known to hold damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Soundness {
    Sound,
    Damaged,
}

/// Returns the groups as ranges of indexes.
pub(super) fn group(members: &[Member], limits: Limits) -> Vec<Range<usize>> {
    let mut groups: Vec<(Range<usize>, Sums)> = Vec::new();
    for (index, member) in members.iter().enumerate() {
        match groups.last_mut() {
            Some((last, sums)) if sums.joins(member, limits) => {
                last.end = index + 1;
                sums.add(member);
            }
            _ => groups.push((index..index + 1, Sums::of(member))),
        }
    }
    groups.into_iter().map(|(group, _)| group).collect()
}

/// What the members of a group are together.
#[derive(Clone, Copy, Debug)]
struct Sums {
    base: Offset,
    log_bytes: u64,
    offset_index_bytes: u64,
    time_index_bytes: u64,
    soundness: Soundness,
}

impl Sums {
    fn of(member: &Member) -> Self {
        Self {
            base: member.base,
            log_bytes: member.log_bytes,
            offset_index_bytes: member.offset_index_bytes,
            time_index_bytes: member.time_index_bytes,
            soundness: member.soundness,
        }
    }

    fn add(&mut self, member: &Member) {
        self.log_bytes += member.log_bytes;
        self.offset_index_bytes += member.offset_index_bytes;
        self.time_index_bytes += member.time_index_bytes;
    }

    fn joins(&self, member: &Member, limits: Limits) -> bool {
        let last_offset = member.bound.0 - 1;
        member.soundness == Soundness::Sound
            && self.soundness == Soundness::Sound
            && self.log_bytes + member.log_bytes <= limits.log_bytes
            && self.offset_index_bytes + member.offset_index_bytes <= limits.index_bytes
            && self.time_index_bytes + member.time_index_bytes <= limits.index_bytes
            && (member.log_bytes == 0 || last_offset - self.base.0 <= i64::from(i32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        log_bytes: 100,
        index_bytes: 50,
    };

    fn member(base: i64, bound: i64, log_bytes: u64) -> Member {
        Member {
            base: Offset(base),
            bound: Offset(bound),
            log_bytes,
            offset_index_bytes: 8,
            time_index_bytes: 12,
            soundness: Soundness::Sound,
        }
    }

    fn sizes(members: &[Member]) -> Vec<usize> {
        group(members, LIMITS)
            .into_iter()
            .map(|group| group.len())
            .collect()
    }

    #[test]
    fn tiny_segments_are_grouped_up_to_the_limit_of_the_log() {
        let tiny: Vec<Member> = (0..5).map(|at| member(at * 10, at * 10 + 10, 40)).collect();
        assert_eq!(sizes(&tiny), [2, 2, 1]);
        assert_eq!(sizes(&[member(0, 10, 200), member(10, 20, 1)]), [1, 1]);
    }

    #[test]
    fn the_indexes_count_too() {
        let tiny: Vec<Member> = (0..6).map(|at| member(at * 10, at * 10 + 10, 1)).collect();
        assert_eq!(sizes(&tiny), [4, 2], "four time indexes of 12 bytes fit in 50");
    }

    #[test]
    fn no_offset_is_further_than_an_index_can_say() {
        let far = i64::from(i32::MAX);
        assert_eq!(sizes(&[member(0, 10, 1), member(far, far + 1, 1)]), [2]);
        assert_eq!(sizes(&[member(0, 10, 1), member(far, far + 2, 1)]), [1, 1]);
    }

    #[test]
    fn a_damaged_segment_stays_alone() {
        let mut members: Vec<Member> = (0..4).map(|at| member(at * 10, at * 10 + 10, 1)).collect();
        members[1].soundness = Soundness::Damaged;
        assert_eq!(sizes(&members), [1, 1, 2]);
    }

    proptest! {
        #[test]
        fn groups_are_the_segments_in_order_and_within_limits(bytes in prop::collection::vec(0..150_u64, 0..30)) {
            let members: Vec<Member> = (0_i64..)
                .zip(&bytes)
                .map(|(at, bytes)| member(at * 10, at * 10 + 10, *bytes))
                .collect();
            let groups = group(&members, LIMITS);
            let flat: Vec<usize> = groups.iter().cloned().flatten().collect();
            prop_assert_eq!(flat, (0..members.len()).collect::<Vec<_>>());
            for group in groups {
                let sum: u64 = members[group.clone()].iter().map(|member| member.log_bytes).sum();
                prop_assert!(group.len() == 1 || sum <= LIMITS.log_bytes);
            }
        }
    }
}
