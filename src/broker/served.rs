//! A partition and those who wait for it: acknowledgements in order, readers, and what the background still owes it.
//!
//! | lock | guards | held across |
//! |---|---|---|
//! | `turn` | whether appends are let in; shared by single appends, taken alone by several that must lie together and by closing | the append into the page cache |
//! | `acks` | acknowledgements under way, by offset | memory work |
//! | `sync` | who syncs the partition | memory work |
//!
//! `turn` is taken before the partition's own locks, those before `acks`. After [`Served::close`] no append goes in and no
//! acknowledgement is left.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::oneshot;

use crate::storage::{Append, Partition};
use crate::telemetry::Latency;
use crate::types::{Offset, TopicPartition};

use super::Error;
use super::budget::BudgetShare;
use super::cleaner::Cleaning;
use super::gate::Pass;
use super::wait::{Waiters, Watched};

/// One partition at the broker.
#[derive(Debug)]
pub(super) struct Served {
    /// Its log.
    pub(super) log: Arc<Partition>,
    /// In the queue of group commit.
    pub(super) dirty: AtomicBool,
    /// In the list of `flush`.
    pub(super) watched: AtomicBool,
    /// Being opened ahead of its first append.
    pub(super) opening: AtomicBool,
    /// In the queue of `repair`.
    pub(super) repairing: AtomicBool,
    /// What the cleaner knows of it.
    pub(super) cleaning: Cleaning,
    waiters: Waiters,
    turn: RwLock<Turn>,
    acks: Mutex<VecDeque<WaitingAck>>,
    sync: Mutex<SyncState>,
}

/// Whether appends are let in.
#[derive(Debug)]
pub(super) enum Turn {
    /// They are.
    Open,
    /// The partition is gone, and this is what its callers are told.
    Closed(Error),
}

/// What an append keeps until it is acknowledged.
#[derive(Debug)]
pub(super) struct Hold {
    /// Keeps the broker from stopping.
    _pass: Pass,
    /// Its request's share of the limit.
    _bytes: Arc<BudgetShare>,
}

impl Hold {
    /// Joins both.
    pub(super) fn new(pass: Pass, bytes: Arc<BudgetShare>) -> Self {
        Self {
            _pass: pass,
            _bytes: bytes,
        }
    }
}

#[derive(Debug)]
struct WaitingAck {
    last_offset: Offset,
    era: u64,
    appended: Instant,
    sender: oneshot::Sender<Result<(), Error>>,
    _hold: Hold,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SyncState {
    Idle,
    Busy,
    /// Somebody else came and must be called back.
    BusyAndWanted,
}

/// Whether a sync may begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Claim {
    /// It may; end it with [`Served::release_sync`].
    Granted,
    /// Another is under way; who ends that one sees that a further is wanted.
    Taken,
}

impl Served {
    /// Serves a log.
    pub(super) fn new(log: Arc<Partition>) -> Arc<Self> {
        Arc::new(Self {
            log,
            dirty: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            opening: AtomicBool::new(false),
            repairing: AtomicBool::new(false),
            cleaning: Cleaning::default(),
            waiters: Waiters::default(),
            turn: RwLock::new(Turn::Open),
            acks: Mutex::new(VecDeque::new()),
            sync: Mutex::new(SyncState::Idle),
        })
    }

    /// Returns topic and number.
    pub(super) fn id(&self) -> &TopicPartition {
        self.log.id()
    }

    /// Lets one append in, beside others.
    ///
    /// # Errors
    /// Why the partition is closed.
    pub(super) fn turn(&self) -> Result<RwLockReadGuard<'_, Turn>, Error> {
        let turn = self.turn.read();
        match &*turn {
            Turn::Open => Ok(turn),
            Turn::Closed(error) => Err(error.clone()),
        }
    }

    /// Lets several appends in with nobody between them.
    ///
    /// # Errors
    /// Why the partition is closed.
    pub(super) fn turn_alone(&self) -> Result<RwLockWriteGuard<'_, Turn>, Error> {
        let turn = self.turn.write();
        match &*turn {
            Turn::Open => Ok(turn),
            Turn::Closed(error) => Err(error.clone()),
        }
    }

    /// Returns why the partition is gone, once it is.
    pub(super) fn closed(&self) -> Option<Error> {
        match &*self.turn.read() {
            Turn::Open => None,
            Turn::Closed(error) => Some(error.clone()),
        }
    }

    /// Lets no more appends in, fails what waits and wakes every reader with `error`.
    pub(super) fn close(&self, error: &Error) {
        self.close_in_turn(self.turn.write(), error);
    }

    /// As [`Served::close`], by whoever has the turn alone.
    pub(super) fn close_in_turn(&self, mut turn: RwLockWriteGuard<'_, Turn>, error: &Error) {
        *turn = Turn::Closed(error.clone());
        drop(turn);
        self.fail(error);
        self.waiters.ring_all();
    }

    /// Queues an acknowledgement; it comes when the high watermark passes `last_offset`. The caller then looks at the
    /// watermark again and calls [`Served::advance`]: it may have passed in between.
    pub(super) fn expect_ack(&self, append: &Append, hold: Hold) -> oneshot::Receiver<Result<(), Error>> {
        let last_offset = append.last_offset;
        let (sender, receiver) = oneshot::channel();
        let ack = WaitingAck {
            last_offset,
            era: append.era,
            appended: Instant::now(),
            sender,
            _hold: hold,
        };
        let mut acks = self.acks.lock();
        // Appends on other threads, and duplicates, may come out of order; mostly the place is the end.
        let after = acks
            .iter()
            .rev()
            .take_while(|waiting| waiting.last_offset > last_offset)
            .count();
        let place = acks.len() - after;
        acks.insert(place, ack);
        receiver
    }

    /// Answers everything below `high_watermark`, in offset order, and wakes readers. An append from before a failed sync is
    /// not acknowledged, though the watermark has passed it: it may have been cut.
    pub(super) fn advance(&self, high_watermark: Offset, latency: &Latency) {
        let era = self.log.era();
        let mut acks = self.acks.lock();
        while acks.front().is_some_and(|ack| ack.last_offset < high_watermark) {
            let ack = acks.pop_front().expect("the front was just seen");
            latency.record(ack.appended.elapsed());
            // Whoever gave up waiting is not told.
            let _ = ack.sender.send(if ack.era == era {
                Ok(())
            } else {
                Err(self.doubtful())
            });
        }
        drop(acks);
        self.waiters.ring(high_watermark);
    }

    fn doubtful(&self) -> Error {
        Error::WritesRefused {
            partition: self.id().clone(),
            reason: "a sync failed after the append; the records may or may not be there".to_owned(),
        }
    }

    /// Fails every acknowledgement under way.
    pub(super) fn fail(&self, error: &Error) {
        for ack in self.acks.lock().drain(..) {
            let _ = ack.sender.send(Err(error.clone()));
        }
    }

    /// Asks to sync: a partition is synced by one at a time.
    pub(super) fn claim_sync(&self) -> Claim {
        let mut sync = self.sync.lock();
        let (next, claim) = match *sync {
            SyncState::Idle => (SyncState::Busy, Claim::Granted),
            SyncState::Busy | SyncState::BusyAndWanted => (SyncState::BusyAndWanted, Claim::Taken),
        };
        *sync = next;
        claim
    }

    /// Ends a sync. Returns true when another was wanted meanwhile: the caller queues the partition again.
    pub(super) fn release_sync(&self) -> bool {
        std::mem::replace(&mut *self.sync.lock(), SyncState::Idle) == SyncState::BusyAndWanted
    }

    /// Marks the partition as queued by `flag`. Returns true for the one who is to queue it.
    pub(super) fn first_to_set(flag: &AtomicBool) -> bool {
        !flag.swap(true, Ordering::AcqRel)
    }
}

impl Watched for Served {
    fn waiters(&self) -> &Waiters {
        &self.waiters
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::broker::budget::Budget;
    use crate::broker::gate::Gate;
    use crate::env::{CacheLimits, Call, Failure, Fault, FileCache, SimFs};
    use crate::record::{BatchBuilder, BatchOptions};
    use crate::storage::{LogConfig, Origin, PartitionSpec, Store, StoreConfig};
    use crate::types::{PartitionId, Timestamp, TopicId, TopicName};

    const NOW: Timestamp = Timestamp(1);

    fn append(log: &Partition) -> Append {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder
            .append(Some(NOW), None, Some(b"value"), &[])
            .expect("it fits");
        log.append(&builder.build().expect("sound"), Origin::Client, NOW)
            .expect("appended")
    }

    #[test]
    fn an_append_that_raced_with_a_failing_sync_is_not_acknowledged_by_the_repair() {
        let fs = SimFs::new();
        let limits = CacheLimits {
            open_files: 16,
            maps: 16,
            window_bytes: 1 << 20,
        };
        let files = Arc::new(FileCache::new(Arc::new(fs.clone()), limits));
        let store = Store::open(
            files,
            StoreConfig {
                dir: PathBuf::from("data"),
                threads: 1,
            },
        )
        .expect("opens");
        let id = TopicPartition::new(TopicName::new("t").expect("a name"), PartitionId(0));
        let spec = PartitionSpec {
            id,
            topic_id: TopicId([7; 16]),
            config: LogConfig::default(),
        };
        let log = store.open_partitions(vec![spec], NOW).remove(0).expect("opens");
        let served = Served::new(Arc::clone(&log));

        let appended = append(&log);
        fs.inject(Fault {
            call: Call::SyncData,
            path_contains: "t-0".to_owned(),
            times: 1,
            failure: Failure::LosesDirtyPages,
        });
        store
            .sync(&[Arc::clone(&log)])
            .remove(0)
            .expect_err("the sync fails");
        // The failure found nobody waiting; the acknowledgement is expected only now.
        let pass = Gate::new().enter().expect("open");
        let bytes = Arc::new(Budget::new("bytes", 1 << 20).take(1).expect("room"));
        let mut answer = served.expect_ack(&appended, Hold::new(pass, bytes));
        log.repair(NOW).expect("repaired");
        served.advance(log.watermarks().high_watermark, &Latency::default());
        assert!(matches!(answer.try_recv(), Ok(Err(Error::WritesRefused { .. }))));
    }
}
