//! A run from its topics to its record, in order.
//!
//! What is not here: what producers and readers do (`producing`, `reading`), and figures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::RunWords;
use super::check::{Checker, Keeps, Lanes, Newest};
use super::figures::{self, Measured};
use super::limits_of_run::LimitsOfRun;
use super::producing::Producing;
use super::reading::{Amount, Signals, Subject};
use super::recorder::{Recorder, Timeline};
use super::schedule::Schedule;
use super::source::{Recipe, Source};
use crate::bench::draw::mixed;
use crate::bench::machine::Machine;
use crate::bench::run_record::{RECORD_FORMAT, Setting, Verification};
use crate::bench::target::Target;
use crate::bench::workload::{Acks, LoadPlan};
use crate::bench::{BenchError, RunRecord, WorkloadFile, memory};
use crate::client::{ConfigSource, OffsetQuery, Partitioner, Producer, ProducerMetrics, ProducerOptions};
use crate::env::{Clock, SystemClock};
use crate::types::{Offset, Timestamp};

/// How long the server may take to compact before the last read.
const COMPACTION_WAIT: Duration = Duration::from_secs(60);
const COMPACTION_LOOK_MS: u32 = 1000;
/// Between two looks whether records that nobody acknowledges are there.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What all of a run shares.
pub(super) struct Stage<'a> {
    target: &'a Target,
    workload: &'a WorkloadFile,
    /// What stands still for so long is given up.
    patience: Duration,
    /// In every stamp.
    run: u32,
    /// Topics that were made, or are being made.
    topics: Mutex<Vec<String>>,
    newest: Vec<Arc<Newest>>,
    /// Checked by readers that have ended.
    checked: AtomicU64,
}

/// What became of a task.
enum Ended {
    Produced(Producing),
    Tailed(Subject, Checker, usize),
    Read(u64),
}

/// What was written, by the producers that wrote it.
pub(super) struct Written {
    recorder: Arc<Recorder>,
    producers: Vec<Producing>,
    /// Of each topic.
    lanes: Vec<Arc<Lanes>>,
}

impl<'a> Stage<'a> {
    pub(super) fn new(target: &'a Target, workload: &'a WorkloadFile, patience: Duration) -> Self {
        let now = SystemClock.now().0.unsigned_abs();
        let run = mixed(now ^ mixed(std::process::id().into())) >> 32;
        let topics = workload.plan.topics.count;
        Self {
            target,
            workload,
            patience,
            run: u32::try_from(run).expect("the upper half"),
            topics: Mutex::new(Vec::new()),
            newest: (0..topics).map(|_| Arc::default()).collect(),
            checked: AtomicU64::new(0),
        }
    }

    fn plan(&self) -> &LoadPlan {
        &self.workload.plan
    }

    fn keeps(&self) -> Keeps {
        match self.plan().is_compacted() {
            true => Keeps::Newest,
            false => Keeps::All,
        }
    }

    fn topic(&self, topic: usize) -> String {
        self.topics.lock()[topic].clone()
    }

    /// Runs everything.
    pub(super) async fn play(&self, words: RunWords) -> Result<RunRecord, BenchError> {
        // Where the kernel does not tell, nothing is told.
        let own_memory = self.target.own.is_some() && memory::resident_mb().is_ok();
        let settings = self.create_topics().await?;
        let producers = self.producers().await?;
        let (producers, oldest) = self.backlog(producers).await?;
        let written = self.load(producers, oldest).await?;
        let producers = metrics(&written.producers);
        let (read, checked_took) = self.check(&written).await?;
        let peak_mb = own_memory.then(memory::peak_mb).transpose()?;
        let limits =
            LimitsOfRun::measure(self.target, self.plan(), self.producer_options().batch_bytes).await?;
        let measured = Measured {
            plan: self.plan(),
            recorder: &written.recorder,
            producers,
            last_read: (read, checked_took),
            peak_mb,
            limits: &limits,
        };
        let (latencies, series) = figures::times(&measured);
        let data = self.target.dir();
        Ok(RunRecord {
            format: RECORD_FORMAT,
            siltstone: env!("CARGO_PKG_VERSION").to_owned(),
            command: words.command,
            started: words.started,
            machine: Machine::of(&data.canonicalize().unwrap_or_else(|_| data.to_path_buf())),
            server: words.server,
            name: self.workload.name.clone(),
            workload: self.plan().clone(),
            settings,
            figures: figures::figures(&measured),
            latencies,
            series,
            limits: limits.figures(),
            verification: self.verification(&written, read),
        })
    }

    fn verification(&self, written: &Written, read: Amount) -> Verification {
        let kept = match self.keeps() {
            Keeps::All => "every record is there, once, in the order of its producer",
            Keeps::Newest => {
                "the newest record of every key is there; none twice or out of the order of its producer"
            }
        };
        let chains = written
            .lanes
            .iter()
            .fold(0, |all: u32, lanes| all.rotate_left(1) ^ lanes.chain());
        let keys = self.newest.iter().map(|newest| newest.keys()).sum();
        Verification {
            written_records: written.lanes.iter().flat_map(|lanes| lanes.records()).sum(),
            checked_records: self.checked.load(Ordering::Relaxed) + read.records,
            found_records: read.records,
            keys: (self.keeps() == Keeps::Newest).then(|| crate::bench::payload::to_u64(keys)),
            chain: format!("{chains:08x}"),
            ok: vec![
                kept.to_owned(),
                "checksum and chain of every record that was read".to_owned(),
                "as many offsets in each partition as records were written".to_owned(),
            ],
        }
    }

    /// Creates the topics; returns which of their settings are not the default.
    async fn create_topics(&self) -> Result<Vec<Setting>, BenchError> {
        let (plan, client) = (self.plan(), &self.target.client);
        let partitions = i32::try_from(plan.topics.partitions).expect("at most 10,000");
        let settings = plan.topic_settings();
        let mut given = Vec::new();
        for _ in 0..plan.topics.count {
            let name = self.target.topic_name();
            // Before it is there: whatever comes between, it is removed.
            self.topics.lock().push(name.clone());
            let topic = client.create_topic(&name, Some(partitions), &settings).await?;
            let changed = topic.config.into_iter().filter_map(|entry| {
                let source = match entry.source {
                    ConfigSource::Default => return None,
                    ConfigSource::Server => "server",
                    ConfigSource::Topic => "topic",
                };
                Some(Setting {
                    name: entry.name,
                    value: entry.value,
                    source: source.to_owned(),
                })
            });
            given = changed.collect();
        }
        Ok(given)
    }

    /// Removes what was made on a server that runs already; one of our own goes with its directory.
    pub(super) async fn remove_topics(&self) -> Result<(), BenchError> {
        let topics = std::mem::take(&mut *self.topics.lock());
        if self.target.own.is_some() {
            return Ok(());
        }
        let mut first_error = Ok(());
        for topic in topics {
            let deleted = self.target.client.delete_topic(&topic).await;
            first_error = first_error.and(deleted);
        }
        Ok(first_error?)
    }

    async fn producers(&self) -> Result<Vec<Producing>, BenchError> {
        let plan = self.plan();
        let options = self.producer_options();
        let turn = (crate::bench::payload::to_u64(options.batch_bytes), options.linger);
        let recipe = Arc::new(Recipe::new(plan, self.run, turn));
        let mut producers = Vec::new();
        for number in 0..plan.producers.count {
            let topic = number % plan.topics.count;
            let at = usize::try_from(topic).expect("32 bits fit");
            let in_topic = number / plan.topics.count;
            let producer: Producer = self
                .target
                .client
                .producer(&self.topic(at), options.clone())
                .await?;
            let source = Source::new(Arc::clone(&recipe), number, in_topic);
            let keeps = (self.keeps(), Arc::clone(&self.newest[at]));
            producers.push(Producing::new((in_topic, at), producer, source, keeps));
        }
        Ok(producers)
    }

    fn producer_options(&self) -> ProducerOptions {
        let default = ProducerOptions::default();
        let producers = &self.plan().producers;
        ProducerOptions {
            acks: producers.acks.into(),
            codec: producers.compression.into(),
            partitioner: Partitioner::Explicit,
            linger: producers.linger_ms.map_or(default.linger, Duration::from_millis),
            batch_bytes: producers.batch_bytes.map_or(default.batch_bytes, |bytes| {
                usize::try_from(bytes).expect("32 bits fit")
            }),
            delivery_timeout: self.patience,
            request_timeout: self.patience / 2,
            ..default
        }
    }

    /// Writes the backlog; returns the time of its oldest record.
    async fn backlog(&self, producers: Vec<Producing>) -> Result<(Vec<Producing>, Timestamp), BenchError> {
        let now = SystemClock.now();
        let Some(backlog) = self.plan().backlog else {
            return Ok((producers, now));
        };
        let span_ms = i64::from(backlog.span_s) * 1000;
        let oldest = now.saturating_add_ms(-span_ms);
        let bytes = u64::from(backlog.mb) * 1_000_000 / u64::from(self.plan().producers.count);
        let mut tasks = JoinSet::new();
        for producing in producers {
            tasks.spawn(producing.backlog(bytes, (oldest, span_ms)));
        }
        let mut producers = Vec::new();
        while let Some(ended) = next(&mut tasks).await? {
            producers.push(ended);
        }
        Ok((producers, oldest))
    }

    /// Returns where all producers stand, of each topic.
    fn lanes(&self, producers: &[Producing]) -> Vec<Arc<Lanes>> {
        let topics = self.newest.len();
        let count = |topic| producers.iter().filter(|it| it.place().1 == topic).count();
        let partitions = usize::try_from(self.plan().topics.partitions).expect("32 bits fit");
        let mut lanes: Vec<_> = (0..topics)
            .map(|topic| Lanes::new(partitions, count(topic)))
            .collect();
        for producing in producers {
            let (number, topic) = producing.place();
            lanes[topic].set(number, producing.source().lanes());
        }
        lanes.into_iter().map(Arc::new).collect()
    }

    fn subject(&self, kind: &str, number: u32, before: &[Arc<Lanes>]) -> (Subject, usize) {
        let topic = usize::try_from(number).expect("32 bits fit") % before.len();
        let subject = Subject {
            client: self.target.client.clone(),
            topic: self.topic(topic),
            reader: format!("{kind} reader {number}"),
            run: self.run,
            keeps: self.keeps(),
            patience: self.patience,
            before: Arc::clone(&before[topic]),
        };
        (subject, topic)
    }

    /// Runs producers and readers beside each other, until all is written and read by those that follow.
    async fn load(&self, producers: Vec<Producing>, oldest: Timestamp) -> Result<Written, BenchError> {
        let plan = self.plan();
        let before = self.lanes(&producers);
        let mut tasks: JoinSet<Result<Ended, BenchError>> = JoinSet::new();
        let (begin, begun) = watch::channel(None);
        let (all_written, ends) = watch::channel(None);
        let (ready, mut all_ready) = mpsc::channel::<()>(1);
        for number in 0..plan.readers.tailing {
            let (subject, topic) = self.subject("tailing", number, &before);
            let signals = Signals {
                ready: ready.clone(),
                begun: begun.clone(),
                ends: ends.clone(),
            };
            let tailing = subject.tail(topic, signals);
            tasks.spawn(async move {
                let (subject, checker) = tailing.await?;
                Ok(Ended::Tailed(subject, checker, topic))
            });
        }
        drop(ready);
        while all_ready.recv().await.is_some() {}
        let timeline = Timeline {
            began: Instant::now(),
            began_at: SystemClock.now(),
            warm_up: Duration::from_secs(plan.warm_up_s.into()),
            end: Duration::from_secs((plan.warm_up_s + plan.duration_s).into()),
        };
        let recorder = Arc::new(Recorder::new(timeline));
        begin.send_replace(Some(Arc::clone(&recorder)));
        self.spawn_readers(&mut tasks, &before, (&recorder, oldest));
        let mut left = producers.len();
        for (number, producing) in (0..).zip(producers) {
            let schedule = Schedule::new(plan.producers.rate, (number, plan.producers.count), timeline.end);
            let load = producing.load(schedule, Arc::clone(&recorder));
            tasks.spawn(async move { load.await.map(Ended::Produced) });
        }
        let (mut producers, mut tails) = (Vec::new(), Vec::new());
        while let Some(ended) = next(&mut tasks).await? {
            match ended {
                Ended::Produced(producing) => {
                    producers.push(producing);
                    left -= 1;
                    if left == 0 {
                        let ends = self.ends(&self.lanes(&producers)).await?;
                        all_written.send_replace(Some(Arc::new(ends)));
                    }
                }
                Ended::Tailed(subject, checker, topic) => tails.push((subject, checker, topic)),
                Ended::Read(records) => self.add_checked(records),
            }
        }
        let lanes = self.lanes(&producers);
        for (subject, checker, topic) in tails {
            checker.is(&lanes[topic]).map_err(|fault| subject.wrong(fault))?;
            self.add_checked(checker.records());
        }
        Ok(Written {
            recorder,
            producers,
            lanes,
        })
    }

    fn spawn_readers(
        &self,
        tasks: &mut JoinSet<Result<Ended, BenchError>>,
        before: &[Arc<Lanes>],
        (recorder, oldest): (&Arc<Recorder>, Timestamp),
    ) {
        let readers = self.plan().readers;
        for number in 0..readers.catching_up {
            let (subject, _) = self.subject("catching up", number, before);
            let recorder = Arc::clone(recorder);
            tasks.spawn(async move { subject.catch_up(recorder).await.map(Ended::Read) });
        }
        for number in 0..readers.by_time {
            let (subject, _) = self.subject("by time", number, before);
            let (recorder, seed) = (Arc::clone(recorder), mixed(self.plan().seed ^ u64::from(number)));
            let times = (oldest, readers.window_ms);
            tasks.spawn(async move { subject.by_time(recorder, times, seed).await.map(Ended::Read) });
        }
    }

    fn add_checked(&self, records: u64) {
        self.checked.fetch_add(records, Ordering::Relaxed);
    }

    /// Returns the end of every partition, which must be as many records as were written there.
    async fn ends(&self, written: &[Arc<Lanes>]) -> Result<Vec<Vec<Offset>>, BenchError> {
        let mut ends = Vec::new();
        for (topic, lanes) in written.iter().enumerate() {
            let name = self.topic(topic);
            let expected: Vec<_> = lanes.records().collect();
            let found = timeout(self.patience, async {
                loop {
                    let found = self
                        .target
                        .client
                        .list_offsets(&name, OffsetQuery::Latest)
                        .await?;
                    let found: Vec<_> = found
                        .into_iter()
                        .map(|it| it.offset.unwrap_or_default())
                        .collect();
                    let is_all = found
                        .iter()
                        .map(|end| end.0.unsigned_abs())
                        .eq(expected.iter().copied());
                    // What nobody acknowledges, or not before it is synced, may still be on its way.
                    if is_all || self.plan().producers.acks == Acks::All {
                        return Ok::<_, BenchError>(found);
                    }
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            });
            let found = match found.await {
                Ok(found) => found?,
                Err(_) => Vec::new(),
            };
            let wrong = (0..).zip(&expected).find_map(|(partition, expected)| {
                let found = found
                    .get(usize::try_from(partition).ok()?)
                    .copied()
                    .unwrap_or_default();
                (found.0.unsigned_abs() != *expected).then_some((partition, found, *expected))
            });
            if let Some((partition, found, expected)) = wrong {
                return Err(BenchError::WrongEnd {
                    topic: name,
                    partition: crate::types::PartitionId(partition),
                    found,
                    expected,
                });
            }
            ends.push(found);
        }
        Ok(ends)
    }

    /// Reads everything once more, compacted first where that is what the topics are for.
    pub(super) async fn check(&self, written: &Written) -> Result<(Amount, Duration), BenchError> {
        let (mut all, mut took) = (Amount::default(), Duration::ZERO);
        for topic in 0..written.lanes.len() {
            if self.keeps() == Keeps::Newest {
                self.compact(&self.topic(topic)).await?;
            }
            let number = u32::try_from(topic).expect("a count");
            let (mut subject, _) = self.subject("last", number, &written.lanes);
            subject.reader = "the last read".to_owned();
            let began = Instant::now();
            let (checker, amount) = subject.all().await?;
            took += began.elapsed();
            all += amount;
            let is_all = checker.is(&written.lanes[topic]);
            let is_all = is_all.and_then(|()| checker.has_newest(&self.newest[topic]));
            is_all.map_err(|fault| subject.wrong(fault))?;
        }
        Ok((all, took))
    }

    /// Writes the backlog alone; returns the first topic, too.
    #[cfg(test)]
    pub(super) async fn written_backlog(&self) -> Result<(String, Written), BenchError> {
        self.create_topics().await?;
        let producers = self.producers().await?;
        let (producers, _) = self.backlog(producers).await?;
        let timeline = Timeline {
            began: Instant::now(),
            began_at: SystemClock.now(),
            warm_up: Duration::ZERO,
            end: Duration::ZERO,
        };
        let written = Written {
            recorder: Arc::new(Recorder::new(timeline)),
            lanes: self.lanes(&producers),
            producers,
        };
        Ok((self.topic(0), written))
    }

    async fn compact(&self, topic: &str) -> Result<(), BenchError> {
        let client = &self.target.client;
        let compacted = timeout(COMPACTION_WAIT, async {
            let mut compaction = client.compact_now(topic).await?;
            while !compaction.complete {
                compaction = client
                    .compaction_of(compaction.handle, COMPACTION_LOOK_MS)
                    .await?;
            }
            Ok::<_, BenchError>(())
        });
        // One that takes longer is the server's own: what is there is checked all the same.
        compacted.await.unwrap_or(Ok(()))
    }
}

/// Waits for the next task that ends; the first error is told.
async fn next<T: 'static>(tasks: &mut JoinSet<Result<T, BenchError>>) -> Result<Option<T>, BenchError> {
    match tasks.join_next().await {
        None => Ok(None),
        Some(Ok(ended)) => ended.map(Some),
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(BenchError::Interrupted),
        },
    }
}

fn metrics(producers: &[Producing]) -> ProducerMetrics {
    let mut all = ProducerMetrics::default();
    for one in producers.iter().map(Producing::metrics) {
        all.acknowledged_records += one.acknowledged_records;
        all.acknowledged_bytes += one.acknowledged_bytes;
        all.acknowledged_batches += one.acknowledged_batches;
        all.acknowledged_batch_bytes += one.acknowledged_batch_bytes;
        all.losses += one.losses;
    }
    all
}
