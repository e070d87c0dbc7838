//! Producer ids: each is given once, over all starts of a data directory.
//!
//! Ids come in blocks. The end of a block is recorded, synced, before its first id is given: a crash loses the rest of a
//! block and never gives an id twice. Ids in a log that is adopted were given by another server, and are passed over.

use crate::types::ProducerId;

/// Ids of one block: one sync for so many producers.
const BLOCK: i64 = 1000;

/// The block that ids are taken from.
#[derive(Debug)]
pub(super) struct ProducerIds {
    next: i64,
    end: i64,
}

impl ProducerIds {
    /// Begins at the recorded end of the last block: nothing is left of it.
    pub(super) fn after(recorded: i64) -> Self {
        Self {
            next: recorded,
            end: recorded,
        }
    }

    /// Takes an id; `None` when a new block must be recorded first.
    pub(super) fn take(&mut self) -> Option<ProducerId> {
        if self.next >= self.end {
            return None;
        }
        let id = ProducerId(self.next);
        self.next += 1;
        Some(id)
    }

    /// Returns the end of the next block, to be recorded, and the one recorded now.
    pub(super) fn next_block(&self) -> (ProducerId, ProducerId) {
        (ProducerId(self.end.saturating_add(BLOCK)), ProducerId(self.end))
    }

    /// As [`next_block`](Self::next_block), of an empty block that ends behind `id`; `None` when the block does that now.
    pub(super) fn block_behind(&self, id: ProducerId) -> Option<(ProducerId, ProducerId)> {
        let end = id.0.saturating_add(1);
        (end > self.end).then_some((ProducerId(end), ProducerId(self.end)))
    }

    /// Gives no id up to `id`, which lies before the recorded end.
    pub(super) fn pass(&mut self, id: ProducerId) {
        assert!(id.0 < self.end, "after a crash id {id:?} would be given");
        self.next = self.next.max(id.0 + 1);
    }

    /// The end of the next block is recorded: its ids may be given.
    pub(super) fn recorded(&mut self, end: ProducerId) {
        self.next = self.end;
        self.end = end.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_is_given_before_its_block_is_recorded_and_none_twice() {
        let mut ids = ProducerIds::after(0);
        assert_eq!(ids.take(), None);
        let (end, now) = ids.next_block();
        assert_eq!((end, now), (ProducerId(1000), ProducerId(0)));
        ids.recorded(end);
        let given: Vec<_> = std::iter::from_fn(|| ids.take()).collect();
        assert_eq!(given, (0..1000).map(ProducerId).collect::<Vec<_>>());

        let foreign = ProducerId(1500);
        let (end, now) = ids.block_behind(foreign).expect("beyond the block");
        assert_eq!((end, now), (ProducerId(1501), ProducerId(1000)));
        ids.recorded(end);
        ids.pass(foreign);
        assert_eq!(ids.take(), None);
        let (next_end, _) = ids.next_block();
        ids.recorded(next_end);
        assert_eq!(ids.block_behind(ProducerId(1600)), None);
        ids.pass(ProducerId(1600));
        ids.pass(ProducerId(3));
        assert_eq!(ids.take(), Some(ProducerId(1601)));

        let end = ProducerId(1000);
        let mut after_a_crash = ProducerIds::after(end.0);
        assert_eq!(after_a_crash.take(), None);
        let (end, _) = after_a_crash.next_block();
        after_a_crash.recorded(end);
        assert_eq!(after_a_crash.take(), Some(ProducerId(1000)));
    }
}
