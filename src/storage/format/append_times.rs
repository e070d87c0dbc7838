//! Append times: when, by the server's clock, the records of a segment were appended, at a few of its offsets.
//!
//! Records carry their own timestamps, which a client may set to anything; this is the store's own word. Retention
//! takes the first and the last, a question for a past moment the ones between.
//!
//! ```text
//! appends   0 1 2 3 4 5 6 7 8 9        step 4: every 4th is kept, and the last, which gives way to its successor
//! samples   x       x       x x        beyond 16 samples every second one goes and the step doubles
//! ```
//!
//! Invariants
//! - At most 16 samples; the first append and the last are always among them. Of a segment that was read anew after a crash
//!   the time of the first is a bound: it was not before ([`FirstAppend`]).
//! - Offsets grow strictly, times never fall: a clock that jumps back is told as one that stands still.
//! - Kept samples are a step apart, counted in appends, so an answer is less than a step of appends too old.
//!
//! What it does not do: know the clock, or the bytes of the manifest that keeps it (`segment_summary`).

use crate::types::{Offset, Timestamp};

/// Samples of one segment at most.
pub const MAX_APPEND_SAMPLES: usize = 16;

/// Steps beyond this cannot come from appends; whoever tells one is wrong.
const MAX_STEP: u64 = 1 << 48;

/// The append that began at `offset` happened at `time`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AppendSample {
    /// First offset of the append.
    pub offset: Offset,
    /// When it happened.
    pub time: Timestamp,
}

/// Where the sampler stands between two kept samples, in appends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::storage) struct Stride {
    /// From one kept sample to the next; a power of two.
    pub(in crate::storage) step: u64,
    /// From the last kept sample to the last append; less than the step, and 0 when the last append is kept.
    pub(in crate::storage) since_kept: u64,
}

/// The append times of one segment, thinned as it grows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppendTimes {
    samples: Vec<AppendSample>,
    stride: Stride,
    first: FirstAppend,
}

/// What the time of the first sample is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstAppend {
    /// When the first append was.
    Known,
    /// The first append was then or later, but not after the second sample.
    NotBefore,
}

impl Default for AppendTimes {
    fn default() -> Self {
        Self {
            samples: Vec::new(),
            stride: Stride {
                step: 1,
                since_kept: 0,
            },
            first: FirstAppend::Known,
        }
    }
}

impl AppendTimes {
    /// Takes up samples that were written down; `None` when they break an invariant.
    pub(in crate::storage) fn resume(samples: Vec<AppendSample>, stride: Stride) -> Option<Self> {
        let grows = samples
            .windows(2)
            .all(|pair| pair[0].offset < pair[1].offset && pair[0].time <= pair[1].time);
        let is_step = stride.step.is_power_of_two() && stride.step <= MAX_STEP;
        // A last append that is not kept stands behind the first, which always is.
        let has_room = stride.since_kept == 0 || samples.len() > 1;
        let sound = grows && is_step && has_room && stride.since_kept < stride.step;
        (sound && samples.len() <= MAX_APPEND_SAMPLES).then_some(Self {
            samples,
            stride,
            first: FirstAppend::Known,
        })
    }

    /// Returns the times of appends from `base` on, of which is known that none was before `not_before`, and that the last, at
    /// `last` or before, was at `ended`.
    pub(in crate::storage) fn between(
        base: Offset,
        last: Offset,
        not_before: Option<Timestamp>,
        ended: Timestamp,
    ) -> Self {
        let mut times = Self::default();
        if let Some(bound) = not_before.filter(|bound| *bound < ended && base < last) {
            times.push(base, bound);
            times.push(last, ended);
            times.first = FirstAppend::NotBefore;
        } else {
            times.push(base, ended);
        }
        times
    }

    /// Returns those of the appends before `next`.
    pub(in crate::storage) fn before(&self, next: Offset) -> Self {
        let known = self.samples.iter().filter(|sample| sample.offset < next);
        let mut times = Self::default();
        known.for_each(|sample| times.push(sample.offset, sample.time));
        times.with_first(self.first)
    }

    /// Returns them with this meaning of the first sample.
    #[must_use]
    pub(in crate::storage) fn with_first(self, first: FirstAppend) -> Self {
        Self { first, ..self }
    }

    /// Returns what the time of the first sample is.
    pub fn first_is(&self) -> FirstAppend {
        self.first
    }

    /// Returns a time that is not before the first append, and is its time where that is known.
    pub fn first_at_latest(&self) -> Option<Timestamp> {
        let at = match self.first {
            FirstAppend::Known => self.samples.first(),
            FirstAppend::NotBefore => self.samples.get(1).or(self.samples.first()),
        };
        at.map(|sample| sample.time)
    }

    /// Takes note of an append that begins at `offset`. One that does not lie behind the last is known already.
    pub fn push(&mut self, offset: Offset, now: Timestamp) {
        let Some(last) = self.last() else {
            self.samples.push(AppendSample { offset, time: now });
            return;
        };
        if offset <= last.offset {
            return;
        }
        if self.stride.since_kept > 0 {
            self.samples.pop();
        }
        self.stride.since_kept = (self.stride.since_kept + 1) % self.stride.step;
        let time = now.max(last.time);
        self.samples.push(AppendSample { offset, time });
        if self.samples.len() > MAX_APPEND_SAMPLES {
            self.thin();
        }
    }

    /// Returns the first append. Its time may be a bound; see [`first_is`](Self::first_is).
    pub fn first(&self) -> Option<AppendSample> {
        self.samples.first().copied()
    }

    /// Returns the last append.
    pub fn last(&self) -> Option<AppendSample> {
        self.samples.last().copied()
    }

    /// Returns all samples, in the order of their offsets.
    pub fn samples(&self) -> &[AppendSample] {
        &self.samples
    }

    /// Returns the time of the nearest known append at or before `offset`: the record there is not older. `None` when
    /// the first append lies behind it.
    pub fn append_time_at_or_before(&self, offset: Offset) -> Option<Timestamp> {
        let not_after = self.samples.partition_point(|sample| sample.offset <= offset);
        not_after.checked_sub(1).map(|sample| self.samples[sample].time)
    }

    pub(in crate::storage) fn stride(&self) -> Stride {
        self.stride
    }

    /// Drops every second sample. There is one more than the limit, an odd number, so the last one stays.
    fn thin(&mut self) {
        let mut stays = false;
        self.samples.retain(|_| {
            stays = !stays;
            stays
        });
        if self.stride.since_kept > 0 {
            self.stride.since_kept += self.stride.step;
        }
        self.stride.step = self.stride.step.saturating_mul(2);
    }
}

const _: () = assert!(MAX_APPEND_SAMPLES.is_multiple_of(2));

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The model remembers every append.
        #[test]
        fn an_answer_is_less_than_a_step_of_appends_too_old(
            appends in prop::collection::vec((1..9_i64, -3..9_i64), 1..400),
            resume_at in any::<prop::sample::Index>(),
        ) {
            let mut times = AppendTimes::default();
            let mut all: Vec<AppendSample> = Vec::new();
            let resume_at = resume_at.index(appends.len());
            let (mut offset, mut now) = (0, 0);
            for (at, (records, ms)) in appends.into_iter().enumerate() {
                if at == resume_at {
                    times = AppendTimes::resume(times.samples().to_vec(), times.stride()).expect("sound");
                }
                now += ms;
                times.push(Offset(offset), Timestamp(now));
                let time = all.last().map_or(now, |last| last.time.0.max(now));
                all.push(AppendSample { offset: Offset(offset), time: Timestamp(time) });
                offset += records;
            }
            prop_assert!(times.samples().len() <= MAX_APPEND_SAMPLES);
            prop_assert!(times.samples().len() >= all.len().min(MAX_APPEND_SAMPLES / 2));
            prop_assert_eq!(times.first(), all.first().copied());
            prop_assert_eq!(times.last(), all.last().copied());
            let step = usize::try_from(times.stride().step).expect("small");
            for asked in 0..offset {
                let truth = all.partition_point(|append| append.offset.0 <= asked) - 1;
                let told = times.append_time_at_or_before(Offset(asked)).expect("not before the first");
                let tolerated = &all[truth.saturating_sub(step - 1)..=truth];
                prop_assert!(tolerated.iter().any(|append| append.time == told), "offset {}", asked);
            }
        }
    }

    fn pushed(appends: i64) -> AppendTimes {
        let mut times = AppendTimes::default();
        for append in 0..appends {
            times.push(Offset(append * 10), Timestamp(append));
        }
        times
    }

    fn kept(appends: i64) -> Vec<i64> {
        pushed(appends)
            .samples()
            .iter()
            .map(|sample| sample.time.0)
            .collect()
    }

    #[test]
    fn every_step_th_append_and_the_last_are_kept() {
        assert_eq!(kept(0), [0; 0]);
        assert_eq!(kept(1), [0]);
        assert_eq!(kept(16), Vec::from_iter(0..16));
        assert_eq!(kept(17), Vec::from_iter((0..17).step_by(2)));
        assert_eq!(kept(18), [0, 2, 4, 6, 8, 10, 12, 14, 16, 17]);
        assert_eq!(kept(32), [Vec::from_iter((0..31).step_by(4)), vec![31]].concat());
    }

    #[test]
    fn an_offset_before_the_first_append_has_no_time() {
        let times = pushed(3);
        assert_eq!(times.append_time_at_or_before(Offset(-1)), None);
        assert_eq!(times.append_time_at_or_before(Offset(19)), Some(Timestamp(1)));
        assert_eq!(times.append_time_at_or_before(Offset(900)), Some(Timestamp(2)));
    }

    #[test]
    fn a_clock_that_jumps_back_stands_still_and_a_known_append_is_not_told_twice() {
        let mut times = pushed(3);
        times.push(Offset(30), Timestamp(-5));
        times.push(Offset(30), Timestamp(99));
        assert_eq!(
            times.last(),
            Some(AppendSample {
                offset: Offset(30),
                time: Timestamp(2)
            })
        );
    }

    #[test]
    fn samples_that_break_an_invariant_are_not_taken_up() {
        let samples = pushed(3).samples().to_vec();
        let taken = |samples: &[AppendSample], step, since_kept| {
            AppendTimes::resume(samples.to_vec(), Stride { step, since_kept }).is_some()
        };
        assert!(taken(&samples, 4, 3));
        assert!(!taken(&samples, 4, 4));
        assert!(!taken(&samples, 0, 0));
        assert!(!taken(&samples, 3, 0));
        assert!(!taken(&samples, 1 << 49, 0));
        assert!(!taken(&samples[..1], 4, 3));
        assert!(!taken(&[samples[1], samples[0]], 1, 0));
        assert!(!taken(&[samples[0], samples[0]], 1, 0));
        let seventeen: Vec<_> = (0..17)
            .map(|offset| AppendSample {
                offset: Offset(offset),
                time: Timestamp(0),
            })
            .collect();
        assert!(!taken(&seventeen, 1, 0));
    }
}
