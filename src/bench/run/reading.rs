//! Readers of the load: those that follow a topic, those that catch up with it, those that read between two times; and the last
//! read, which looks at everything.
//!
//! Invariants
//! - Every record that is read is checked.
//! - Nothing is waited for without an end: a reader that comes no further for as long as its patience ends the run and says where it stood.
//!
//! What is not here: what is checked (`check`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::check::{Begins, Checker, Fault, Keeps, Lanes};
use super::recorder::{Done, Kind, Recorder};
use crate::bench::BenchError;
use crate::bench::draw::{below, mixed};
use crate::bench::payload::to_u64;
use crate::client::{Chunk, Client, ReadEnd, ReadSpec, ReadStart, Reader, ResumeToken};
use crate::types::{Offset, PartitionId, Timestamp};

/// Of the records of a chunk every so many'th is timed.
const TIMED_ONE_OF: usize = 8;

/// What a reader reads, and what it may expect.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) client: Client,
    pub(super) topic: String,
    /// Its name in messages: `tailing reader 2`.
    pub(super) reader: String,
    pub(super) run: u32,
    pub(super) keeps: Keeps,
    /// What stands still for so long is given up.
    pub(super) patience: Duration,
    /// Where producers stood when the load began.
    pub(super) before: Arc<Lanes>,
}

/// The end of every partition of every topic, once all is written.
pub(super) type Ends = Option<Arc<Vec<Vec<Offset>>>>;

/// What a reader that follows tells, and is told.
#[derive(Debug)]
pub(super) struct Signals {
    /// Dropped when the reader has begun.
    pub(super) ready: mpsc::Sender<()>,
    /// The load has begun.
    pub(super) begun: watch::Receiver<Option<Arc<Recorder>>>,
    /// The load is over.
    pub(super) ends: watch::Receiver<Ends>,
}

impl Subject {
    async fn open(&self, spec: ReadSpec) -> Result<Reader, BenchError> {
        let spec = ReadSpec {
            reconnect_for: self.patience,
            ..spec
        };
        Ok(self.client.read(&self.topic, spec).await?)
    }

    fn checker(&self, begins: Begins<'_>) -> Checker {
        Checker::new(self.run, self.keeps, &self.before, begins)
    }

    fn nothing_yet(&self) -> Lanes {
        self.before.zero()
    }

    pub(super) fn wrong(&self, fault: Fault) -> BenchError {
        BenchError::Verification {
            reader: self.reader.clone(),
            topic: self.topic.clone(),
            fault,
        }
    }

    /// Waits for the next chunk, not for ever.
    async fn next(&self, reader: &mut Reader) -> Result<Option<Chunk>, BenchError> {
        match timeout(self.patience, reader.next()).await {
            Ok(next) => Ok(next?),
            Err(_) => Err(self.stands(reader.resume_token())),
        }
    }

    fn stands(&self, at: &ResumeToken) -> BenchError {
        BenchError::Stalled {
            reader: self.reader.clone(),
            topic: self.topic.clone(),
            waited: self.patience,
            at: at.to_string(),
        }
    }

    /// Checks the records of a chunk; `each` is given when they should have been sent.
    fn check(
        &self,
        (reader, chunk): (&Reader, &Chunk),
        checker: &mut Checker,
        mut each: impl FnMut(Option<Duration>, Option<Timestamp>),
    ) -> Result<Amount, BenchError> {
        let mut amount = Amount::default();
        for record in reader.records(chunk) {
            let record = record?;
            let stamp = checker
                .add(chunk.partition(), &record)
                .map_err(|fault| self.wrong(fault))?;
            amount.records += 1;
            let lens = [&record.key, &record.value].map(|part| part.as_ref().map_or(0, |part| part.len()));
            amount.bytes += to_u64(lens[0] + lens[1]);
            each(stamp.intended, record.timestamp);
        }
        Ok(amount)
    }

    /// Follows the topic, which is number `topic`, from where it ends now on, until everything that is written has come.
    pub(super) async fn tail(self, topic: usize, signals: Signals) -> Result<(Self, Checker), BenchError> {
        let Signals {
            ready,
            mut begun,
            mut ends,
        } = signals;
        let spec = ReadSpec {
            start: ReadStart::Latest,
            end: ReadEnd::Follow,
            ..ReadSpec::default()
        };
        let mut reader = self.open(spec).await?;
        drop(ready);
        let Some(recorder) = begun_with(&mut begun).await else {
            return Err(self.stands(reader.resume_token()));
        };
        let mut checker = self.checker(Begins::At(&self.before));
        let mut done = Vec::new();
        // Counted over chunks: the first record of a chunk is the one that waited longest.
        let mut place = 0_usize;
        loop {
            let known = ends.borrow_and_update().clone();
            if known
                .as_ref()
                .is_some_and(|ends| is_there(reader.resume_token(), &ends[topic]))
            {
                return Ok((self, checker));
            }
            let chunk = match known {
                Some(_) => self.next(&mut reader).await?,
                None => tokio::select! {
                    next = reader.next() => next?,
                    changed = ends.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return Err(self.stands(reader.resume_token())),
                    },
                },
            };
            let Some(chunk) = chunk else {
                return Err(self.stands(reader.resume_token()));
            };
            let at = recorder.timeline.now();
            let amount = self.check((&reader, &chunk), &mut checker, |intended, _| {
                if intended.is_some() && place.is_multiple_of(TIMED_ONE_OF) {
                    done.push(Done {
                        intended,
                        at,
                        records: 0,
                        bytes: 0,
                    });
                }
                place += 1;
            })?;
            done.push(amount.done(at, None));
            recorder.add(Kind::Tailed, &done);
            done.clear();
        }
    }

    /// Reads from the start to the end, again and again until the load ends; what was there before must come each time.
    pub(super) async fn catch_up(self, recorder: Arc<Recorder>) -> Result<u64, BenchError> {
        let timeline = recorder.timeline;
        let nothing = self.nothing_yet();
        let mut read = 0;
        while timeline.now() < timeline.end {
            let mut checker = self.checker(Begins::At(&nothing));
            let mut reader = self.open(ReadSpec::default()).await?;
            while let Some(chunk) = self.next(&mut reader).await? {
                let amount = self.check((&reader, &chunk), &mut checker, |_, _| {})?;
                recorder.add(Kind::CaughtUp, &[amount.done(timeline.now(), None)]);
                if timeline.now() >= timeline.end {
                    return Ok(read + checker.records());
                }
            }
            checker.reaches(&self.before).map_err(|fault| self.wrong(fault))?;
            read += checker.records();
            tokio::task::yield_now().await;
        }
        Ok(read)
    }

    /// Reads what lies between two times, again and again until the load ends; times from `oldest` on are drawn by `seed`.
    pub(super) async fn by_time(
        self,
        recorder: Arc<Recorder>,
        (oldest, window_ms): (Timestamp, Option<u32>),
        seed: u64,
    ) -> Result<u64, BenchError> {
        let timeline = recorder.timeline;
        let (mut read, mut bits) = (0, seed);
        while timeline.now() < timeline.end {
            bits = mixed(bits);
            let began = timeline.now();
            let all_ms = u64::try_from(timeline.wall(began).ms_since(oldest)).unwrap_or(0) + 1;
            let window_ms = window_ms.map_or(all_ms / 20 + 1, u64::from);
            let from_ms = below(bits, all_ms.saturating_sub(window_ms) + 1);
            let at = |ms: u64| oldest.saturating_add_ms(i64::try_from(ms).unwrap_or(i64::MAX));
            let window = at(from_ms)..at(from_ms + window_ms);
            let spec = ReadSpec {
                start: ReadStart::Time(window.start),
                end: ReadEnd::Time(window.end),
                ..ReadSpec::default()
            };
            let mut reader = self.open(spec).await?;
            let mut checker = self.checker(Begins::Anywhere);
            let mut amount = Amount::default();
            while let Some(chunk) = self.next(&mut reader).await? {
                let mut outside = None;
                amount += self.check((&reader, &chunk), &mut checker, |_, time| {
                    if !time.is_some_and(|time| window.contains(&time)) {
                        outside = Some(time);
                    }
                })?;
                if let Some(time) = outside {
                    return Err(BenchError::OutsideTimes {
                        topic: self.topic.clone(),
                        partition: chunk.partition(),
                        found: time,
                        from: window.start,
                        to: window.end,
                    });
                }
            }
            recorder.add(Kind::ReadByTime, &[amount.done(timeline.now(), Some(began))]);
            read += amount.records;
            tokio::task::yield_now().await;
        }
        Ok(read)
    }

    /// Reads the topic from its start to its end.
    pub(super) async fn all(&self) -> Result<(Checker, Amount), BenchError> {
        let nothing = self.nothing_yet();
        let mut checker = self.checker(Begins::At(&nothing));
        let mut reader = self.open(ReadSpec::default()).await?;
        let mut amount = Amount::default();
        while let Some(chunk) = self.next(&mut reader).await? {
            amount += self.check((&reader, &chunk), &mut checker, |_, _| {})?;
        }
        Ok((checker, amount))
    }
}

/// How much was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Amount {
    pub(super) records: u64,
    /// Of keys and values.
    pub(super) bytes: u64,
}

impl Amount {
    fn done(self, at: Duration, intended: Option<Duration>) -> Done {
        Done {
            intended,
            at,
            records: self.records,
            bytes: self.bytes,
        }
    }
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
    }
}

/// Waits until the load begins; none: it never will.
async fn begun_with(begun: &mut watch::Receiver<Option<Arc<Recorder>>>) -> Option<Arc<Recorder>> {
    begun.wait_for(Option::is_some).await.ok()?.clone()
}

fn is_there(token: &ResumeToken, ends: &[Offset]) -> bool {
    ends.iter().enumerate().all(|(partition, end)| {
        let partition = PartitionId(i32::try_from(partition).expect("a count"));
        *end <= token.0.get(&partition).copied().unwrap_or_default()
    })
}
