//! The offsets that bound a log, and the only place that changes them.
//!
//! ```text
//!   log start <= local start <= ... <= high watermark <= log end
//!                    last stable offset <= high watermark
//!                        recovery point <= log end
//! ```
//!
//! Invariants
//! - Each setter asserts the order above before it returns; a violation is a bug and stops the process before it can be
//!   served.
//! - The high watermark is the least offset confirmed by every source that the durability names; it never goes back while the
//!   log is open.
//!
//! What is not here: who confirms what, and waking whoever waits.

use parking_lot::Mutex;

use crate::types::Offset;

use super::config::Durability;

/// Who says that everything below an offset is safe. A standby or the archive may join later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// The append.
    Written,
    /// A finished sync.
    Synced,
}

/// All offsets of a log at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatermarkView {
    /// The first offset that can be read.
    pub log_start: Offset,
    /// The first offset on local disk.
    pub local_start: Offset,
    /// Below it no transaction is open.
    pub last_stable: Offset,
    /// The first offset that readers may not see yet.
    pub high_watermark: Offset,
    /// The next offset to be assigned.
    pub log_end: Offset,
    /// Everything before it is on disk.
    pub recovery_point: Offset,
}

/// The offsets of one log. Its lock guards six numbers and is held for arithmetic only.
#[derive(Debug)]
pub(super) struct Watermarks(Mutex<State>);

#[derive(Debug)]
struct State {
    log_start: Offset,
    local_start: Offset,
    first_unstable: Option<Offset>,
    high_watermark: Offset,
    log_end: Offset,
    written: Offset,
    recovery_point: Offset,
    durability: Durability,
}

impl Watermarks {
    /// Starts with everything up to `log_end` safe, as recovery leaves a log.
    pub(super) fn recovered(log_start: Offset, log_end: Offset, durability: Durability) -> Self {
        let state = State {
            log_start,
            local_start: log_start,
            first_unstable: None,
            high_watermark: log_end,
            log_end,
            written: log_end,
            recovery_point: log_end,
            durability,
        };
        state.check();
        Self(Mutex::new(state))
    }

    pub(super) fn view(&self) -> WatermarkView {
        self.0.lock().view()
    }

    pub(super) fn set_durability(&self, durability: Durability) {
        self.change(|state| {
            state.durability = durability;
            state.raise_high_watermark();
        });
    }

    /// The log grew to `log_end`; confirmations follow.
    pub(super) fn appended(&self, log_end: Offset, first_unstable: Option<Offset>) -> WatermarkView {
        self.change(|state| {
            assert!(
                log_end >= state.log_end,
                "an append moves the log end from {} to {log_end}",
                state.log_end
            );
            state.log_end = log_end;
            state.first_unstable = first_unstable;
        })
    }

    /// `source` vouches for everything below `offset`.
    pub(super) fn confirm(&self, source: Source, offset: Offset) -> WatermarkView {
        self.change(|state| {
            match source {
                Source::Written => state.written = state.written.max(offset),
                Source::Synced => state.recovery_point = state.recovery_point.max(offset),
            }
            state.raise_high_watermark();
        })
    }

    /// The earliest open transaction changed without an append.
    pub(super) fn set_first_unstable(&self, first_unstable: Option<Offset>) {
        self.change(|state| state.first_unstable = first_unstable);
    }

    /// Raises the log start; a lower one changes nothing. `to` is at most the high watermark.
    pub(super) fn raise_log_start(&self, to: Offset) -> WatermarkView {
        self.change(|state| {
            state.log_start = state.log_start.max(to);
            state.local_start = state.local_start.max(state.log_start);
        })
    }

    /// Raises the first offset on local disk; a lower one changes nothing. `to` is at most the high watermark.
    pub(super) fn raise_local_start(&self, to: Offset) -> WatermarkView {
        self.change(|state| state.local_start = state.local_start.max(to))
    }

    /// The archive of another server has come to `end`, and begins at `log_start`: a log without anything of its own follows.
    pub(super) fn follow(&self, log_start: Offset, end: Offset) -> WatermarkView {
        self.change(|state| {
            let end = end.max(state.log_end);
            state.log_end = end;
            state.written = end;
            state.recovery_point = end;
            state.high_watermark = end;
            state.local_start = end;
            state.log_start = state.log_start.max(log_start).min(end);
        })
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> WatermarkView {
        let mut state = self.0.lock();
        change(&mut state);
        state.check();
        state.view()
    }
}

impl State {
    fn raise_high_watermark(&mut self) {
        let confirmed = match self.durability {
            Durability::Written => self.written,
            Durability::Synced => self.recovery_point,
        };
        self.high_watermark = self.high_watermark.max(confirmed);
    }

    fn view(&self) -> WatermarkView {
        let last_stable = match self.first_unstable {
            Some(first) => first.clamp(self.log_start, self.high_watermark),
            None => self.high_watermark,
        };
        WatermarkView {
            log_start: self.log_start,
            local_start: self.local_start,
            last_stable,
            high_watermark: self.high_watermark,
            log_end: self.log_end,
            recovery_point: self.recovery_point,
        }
    }

    fn check(&self) {
        let ordered = self.log_start <= self.local_start
            && self.local_start <= self.high_watermark
            && self.high_watermark <= self.log_end
            && self.recovery_point <= self.log_end
            && self.written <= self.log_end;
        assert!(ordered, "watermarks out of order: {self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_synced_log_shows_readers_only_what_is_synced() {
        let marks = Watermarks::recovered(Offset(0), Offset(0), Durability::Synced);
        marks.appended(Offset(5), None);
        assert_eq!(
            marks.confirm(Source::Written, Offset(5)).high_watermark,
            Offset(0)
        );
        assert_eq!(marks.confirm(Source::Synced, Offset(3)).high_watermark, Offset(3));
        assert_eq!(marks.confirm(Source::Synced, Offset(2)).high_watermark, Offset(3));
        assert_eq!(marks.confirm(Source::Synced, Offset(5)).recovery_point, Offset(5));
    }

    #[test]
    fn a_written_log_shows_readers_every_append_and_stays_shown_when_durability_rises() {
        let marks = Watermarks::recovered(Offset(0), Offset(0), Durability::Written);
        assert_eq!(marks.appended(Offset(5), None).high_watermark, Offset(0));
        assert_eq!(
            marks.confirm(Source::Written, Offset(5)).high_watermark,
            Offset(5)
        );
        marks.set_durability(Durability::Synced);
        assert_eq!(marks.view().high_watermark, Offset(5));
        marks.appended(Offset(6), None);
        assert_eq!(
            marks.confirm(Source::Written, Offset(6)).high_watermark,
            Offset(5)
        );
    }

    #[test]
    fn the_last_stable_offset_stops_at_the_first_open_transaction() {
        let marks = Watermarks::recovered(Offset(2), Offset(4), Durability::Written);
        marks.appended(Offset(9), Some(Offset(6)));
        let view = marks.confirm(Source::Written, Offset(9));
        assert_eq!((view.last_stable, view.high_watermark), (Offset(6), Offset(9)));
        marks.set_first_unstable(None);
        assert_eq!(marks.view().last_stable, Offset(9));
    }

    #[test]
    fn the_local_start_rises_alone_and_with_the_log_start() {
        let marks = Watermarks::recovered(Offset(2), Offset(9), Durability::Written);
        assert_eq!(marks.view().local_start, Offset(2));
        let view = marks.raise_local_start(Offset(5));
        assert_eq!((view.log_start, view.local_start), (Offset(2), Offset(5)));
        assert_eq!(marks.raise_log_start(Offset(4)).local_start, Offset(5));
        assert_eq!(marks.raise_log_start(Offset(7)).local_start, Offset(7));
    }

    #[test]
    #[should_panic(expected = "watermarks out of order")]
    fn a_local_start_beyond_the_high_watermark_is_a_bug() {
        Watermarks::recovered(Offset(0), Offset(4), Durability::Written).raise_local_start(Offset(5));
    }

    #[test]
    #[should_panic(expected = "watermarks out of order")]
    fn a_log_start_beyond_the_high_watermark_is_a_bug() {
        Watermarks::recovered(Offset(0), Offset(4), Durability::Written).raise_log_start(Offset(5));
    }
}
