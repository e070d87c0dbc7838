//! A broker inside another program, mostly inside its tests: the server itself, on ports of its own choice, with a clock and a disk that
//! the test holds in its hand.
//!
//! ```
//! use siltstone::embedded::{Broker, Fault, record};
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), siltstone::embedded::Error> {
//! let broker = Broker::in_memory().await?;
//! broker.create_topic("orders", 1, &[("retention.ms", "86400000")]).await?;
//!
//! // Straight at the broker, without a socket; or as a service would, by its address.
//! broker.produce("orders", [record("a", "1"), record("b", "2")]).await?;
//! let client = broker.client().await?;
//! assert_eq!(client.describe_topic("orders").await?.name, "orders");
//! assert_eq!(broker.dump("orders").await?, "orders-0\n  0  \"a\" = \"1\"\n  1  \"b\" = \"2\"\n");
//!
//! // Every test begins with the same world, and goes its own way.
//! let seeded = broker.snapshot().await?;
//! let other = seeded.fork().await?;
//!
//! // A week passes. Retention has done its work when the call returns.
//! other.advance(Duration::from_secs(7 * 86_400)).await?;
//! assert_eq!(other.read("orders").await?.len(), 0);
//! assert_eq!(broker.wait_for("orders", 2).await?.len(), 2);
//!
//! // The next write is not answered, though it was done.
//! broker.faults().order(Fault::lose_answer().on("orders"));
//! # Ok(())
//! # }
//! ```
//!
//! Invariants
//! - Nothing is mocked: it is [`crate::server::Server`] over another disk and another clock, with the defaults of `siltstone serve` but
//!   for free ports, `durability=written`, and no room kept free on the disk.
//! - A dropped broker has ended: its ports are free, its threads gone, and of data that is not kept nothing is left.
//! - It has threads of its own, and works beside any runtime, also one whose time stands still.
//!
//! What is not here: settings (`config`), what a client can do (`client`). More, also for other languages: `docs/testing.md`.

mod archive;
mod clock;
mod disk;
mod engine;
mod error;
mod faults;
mod home;
mod snapshot;
mod topics;

#[cfg(test)]
mod tests;

pub use crate::broker::NewRecord;
pub use error::Error;
pub use faults::{Fault, Faults, Operation};
pub use snapshot::Snapshot;
pub use topics::{Stored, record, tombstone};

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::broker::{self, World};
use crate::client::{Client, ProducerOptions};
use crate::config::{self, Sources};
use crate::env::{Clock as _, SimFs};
use crate::types::Timestamp;

use self::archive::Archive;
use self::clock::{Base, TestClock};
use self::disk::{Disk, Medium};
use self::engine::{End, Engine};
use self::home::Home;

/// Settings that a broker in a test has otherwise than a server, unless it is told.
const DEFAULTS: [(&str, &str); 5] = [
    ("grpc.listen", "127.0.0.1:0"),
    ("http.listen", "127.0.0.1:0"),
    ("topic_defaults.durability", "written"),
    ("storage.min_free_bytes", "0"),
    ("cleaner.dedupe_buffer_bytes", "8MiB"),
];
/// At most so many steps make up one [`Broker::advance`], beside one for each time that a compacted log waits for.
const STEPS: i64 = 64;
/// The steps for compacted logs are no smaller than the whole divided by this.
const SMALLEST_STEPS: i64 = 4096;

/// How a broker is to be. The example of the module shows the defaults; [`Broker::builder`] begins one.
///
/// ```
/// use siltstone::embedded::Broker;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), siltstone::embedded::Error> {
/// let broker = Broker::builder()
///     .set("topics.num_partitions", 3)
///     .set("topic_defaults.compression.type", "zstd")
///     .clock_standing_at_ms(1_700_000_000_000)
///     .seed(42)
///     .in_memory()
///     .start()
///     .await?;
/// assert_eq!(broker.now().0, 1_700_000_000_000);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    settings: Vec<(String, String)>,
    place: Place,
    base: Base,
    seed: u64,
}

#[derive(Clone, Debug)]
enum Place {
    Temporary,
    Kept(PathBuf),
    Memory,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            settings: Vec::new(),
            place: Place::Temporary,
            base: Base::Machine,
            seed: 0,
        }
    }
}

impl Builder {
    /// Gives a setting of the server a value, by the key that its configuration file has for it; topic defaults begin with
    /// `topic_defaults.`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// Keeps the data in this directory; it stays when the broker ends. Otherwise it lies in a temporary one.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let dir = tempfile::tempdir()?;
    /// let data = dir.path().join("data");
    /// let broker = siltstone::embedded::Broker::builder().data_dir(&data).start().await?;
    /// drop(broker);
    /// assert!(data.exists());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn data_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.place = Place::Kept(dir.as_ref().to_owned());
        self
    }

    /// Keeps the data in memory.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.place = Place::Memory;
        self
    }

    /// Archives sealed segments there: `memory://`, or a folder by `file://`. Needs the feature `tier`.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), siltstone::embedded::Error> {
    /// let broker = siltstone::embedded::Broker::builder().in_memory().tier_url("memory://").start().await?;
    /// # drop(broker);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn tier_url(self, url: &str) -> Self {
        self.set("tier.url", url)
    }

    /// The archive's address, if there is one.
    fn archive(&self) -> Option<&str> {
        let given = self.settings.iter().rev().find(|(key, _)| key == "tier.url");
        given.map(|(_, url)| url.as_str()).filter(|url| !url.is_empty())
    }

    /// Lets the broker's clock stand at a time, in milliseconds since the Unix epoch, until it is moved. Otherwise it goes with the
    /// machine's.
    #[must_use]
    pub fn clock_standing_at_ms(mut self, ms: i64) -> Self {
        self.base = Base::Standing(Timestamp(ms));
        self
    }

    /// Sets what faults throw their dice by; 0 unless set.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Starts the broker; it answers on return.
    ///
    /// # Errors
    /// A setting that is wrong; what keeps a server from starting.
    pub async fn start(self) -> Result<Broker, Error> {
        let home = match &self.place {
            Place::Temporary => Home::temporary()?,
            Place::Kept(dir) => Home::kept(dir.clone()),
            Place::Memory => Home::in_memory(SimFs::in_memory()),
        };
        let clock = TestClock::new(self.base, 0);
        let archive = Archive::at(self.archive());
        Broker::begin(self, (home, archive), clock).await
    }

    /// Settings of the broker's first life, or of one that is to be found where the last was.
    fn config(
        &self,
        (home, archive): (&Home, &Archive),
        addresses: Option<(SocketAddr, SocketAddr)>,
    ) -> Result<config::Config, Error> {
        let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let mut flags: Vec<_> = DEFAULTS.iter().map(text).collect();
        flags.extend(self.settings.iter().cloned());
        flags.push(("data_dir".to_owned(), home.data_dir.display().to_string()));
        if let Some((grpc, http)) = addresses {
            flags.push(("grpc.listen".to_owned(), grpc.to_string()));
            flags.push(("http.listen".to_owned(), http.to_string()));
        }
        let sources = Sources {
            flags,
            ..Sources::default()
        };
        let mut config = config::load(&sources)?.config;
        archive.set_in(&mut config);
        Ok(config)
    }
}

/// A broker that lives in this process. Dropping it ends it; data that is not kept goes with it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use siltstone::embedded::{Broker, record};
///
/// let mut broker = Broker::start().await?;
/// println!("gRPC at {}, health at {}, data in {}", broker.grpc_addr(), broker.http_addr(), broker.data_dir().display());
/// broker.create_topic("orders", 1, &[]).await?;
/// let producer = broker.client().await?.producer("orders", broker.producer_options()).await?;
/// broker.direct()?.list_topics();
///
/// broker.fill_disk().await?;
/// assert!(broker.produce("orders", [record("a", "1")]).await.is_err());
/// broker.free_disk().await?;
/// broker.produce("orders", [record("a", "1")]).await?;
/// drop(producer);
///
/// // In peace, and by force: the data and the addresses stay.
/// broker.stop().await?;
/// broker.start_again().await?;
/// broker.kill().await?;
/// broker.start_again().await?;
/// broker.kill_and_restart().await?;
/// assert_eq!(broker.read("orders").await?.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Broker {
    builder: Builder,
    home: Home,
    archive: Archive,
    clock: TestClock,
    faults: Faults,
    /// One at a time moves the clock.
    moving: tokio::sync::Mutex<()>,
    grpc_addr: SocketAddr,
    http_addr: SocketAddr,
    disk: Disk,
    engine: Option<Engine>,
}

impl Broker {
    /// Starts a broker with its data in a temporary directory.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// Starts a broker with its data in memory.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn in_memory() -> Result<Self, Error> {
        Self::builder().in_memory().start().await
    }

    /// Begins to say how a broker is to be.
    pub fn builder() -> Builder {
        Builder::default()
    }

    async fn begin(
        builder: Builder,
        (home, archive): (Home, Archive),
        clock: TestClock,
    ) -> Result<Self, Error> {
        let faults = Faults::new(builder.seed);
        let config = builder.config((&home, &archive), None)?;
        let disk = Disk::new(home.medium.clone(), faults.clone(), clock.clone());
        let engine = Engine::start(config, world(&disk, &clock)).await?;
        faults.set_lines(engine.lines.clone());
        Ok(Self {
            builder,
            home,
            archive,
            clock,
            faults,
            moving: tokio::sync::Mutex::default(),
            grpc_addr: engine.grpc_addr,
            http_addr: engine.http_addr,
            disk,
            engine: Some(engine),
        })
    }

    /// Returns where gRPC answers; the same in all lives of this broker.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Returns where HTTP answers, health and metrics; the same in all lives of this broker.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Returns where the data lies; of a broker in memory there is nothing on the disk.
    pub fn data_dir(&self) -> &Path {
        &self.home.data_dir
    }

    /// Connects a client.
    ///
    /// # Errors
    /// What keeps it from connecting.
    pub async fn client(&self) -> Result<Client, Error> {
        Ok(Client::connect(&self.grpc_addr.to_string()).await?)
    }

    /// Returns the defaults of a producer, but for the time: records get that of the broker's clock.
    pub fn producer_options(&self) -> ProducerOptions {
        let clock = self.clock.clone();
        ProducerOptions {
            clock: Arc::new(move || clock.now()),
            ..ProducerOptions::default()
        }
    }

    /// Returns the broker behind the doors, with everything that can be asked of it. Its calls want a tokio runtime around them; what
    /// goes through [`Broker`] itself does not care which.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn direct(&self) -> Result<&broker::Broker, Error> {
        Ok(&self.running()?.direct)
    }

    /// Returns what can go wrong on request.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Returns the time by the broker's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Moves the broker's clock on. When the call returns, what fell due on the way has happened, in its order: segments were sealed for
    /// their age, for compaction and the archive, logs compacted, segments archived and removed, idle producers forgotten. Times that tests wait by,
    /// deadlines of calls among them, do not pass.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn advance(&self, by: Duration) -> Result<(), Error> {
        let _alone = self.moving.lock().await;
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        let mut at_ms = self.clock.ahead_ms();
        let end_ms = at_ms.saturating_add(by_ms);
        let (step_ms, smallest_ms) = ((by_ms / STEPS).max(1), (by_ms / SMALLEST_STEPS).max(1));
        let mut due = self.do_what_is_due().await?;
        while at_ms < end_ms {
            let wanted = due.map_or(i64::MAX, |at| at.ms_since(self.clock.now()));
            at_ms = at_ms
                .saturating_add(wanted.clamp(smallest_ms, step_ms))
                .min(end_ms);
            self.clock.set_ahead_ms(at_ms);
            due = self.do_what_is_due().await?;
        }
        Ok(())
    }

    async fn do_what_is_due(&self) -> Result<Option<Timestamp>, Error> {
        self.run(async |broker| Ok(broker.do_what_is_due().await?)).await
    }

    /// Fills the disk: nothing can be written any more that needs room, and the broker knows.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn fill_disk(&self) -> Result<(), Error> {
        self.faults.set_full(true);
        self.do_what_is_due().await.map(drop)
    }

    /// Gives the disk its room back, and the broker knows.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn free_disk(&self) -> Result<(), Error> {
        self.faults.set_full(false);
        self.do_what_is_due().await.map(drop)
    }

    /// Stops the broker: what is under way is finished, the data closed. It can be started again.
    ///
    /// # Errors
    /// What could not be synced; [`Error::NotRunning`].
    pub async fn stop(&mut self) -> Result<(), Error> {
        let engine = self.engine.take().ok_or(Error::NotRunning)?;
        engine.end(End::Stop).await
    }

    /// Kills the broker, as `kill -9` does: connections break, and nothing is written any more. It can be started again.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn kill(&mut self) -> Result<(), Error> {
        let engine = self.engine.take().ok_or(Error::NotRunning)?;
        self.faults.end_delays();
        let ended = engine.end(End::Abort).await;
        self.disk.kill();
        ended
    }

    /// Starts the broker again, on the data that it left and at the same addresses.
    ///
    /// # Errors
    /// As [`Builder::start`]; what else listens at its addresses by now.
    pub async fn start_again(&mut self) -> Result<(), Error> {
        if self.engine.is_some() {
            return Ok(());
        }
        // A kill that nobody waited for may not have come to its end.
        self.disk.kill();
        let addresses = Some((self.grpc_addr, self.http_addr));
        let config = self.builder.config((&self.home, &self.archive), addresses)?;
        let disk = Disk::new(self.home.medium.clone(), self.faults.clone(), self.clock.clone());
        let engine = Engine::start(config, world(&disk, &self.clock)).await?;
        self.faults.set_lines(engine.lines.clone());
        self.disk = disk;
        self.engine = Some(engine);
        Ok(())
    }

    /// Kills the broker and starts it again.
    ///
    /// # Errors
    /// As both.
    pub async fn kill_and_restart(&mut self) -> Result<(), Error> {
        self.kill().await?;
        self.start_again().await
    }

    fn running(&self) -> Result<&Engine, Error> {
        self.engine.as_ref().ok_or(Error::NotRunning)
    }

    /// Has the broker do something on its own runtime.
    async fn run<T: Send + 'static, F>(&self, work: impl FnOnce(broker::Broker) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let engine = self.running()?;
        let work = engine.runtime.spawn(work(engine.direct.clone()));
        let work = AbortOnDrop(work);
        work.await
    }
}

/// Work on the broker's runtime that ends when nobody waits for it any more.
struct AbortOnDrop<T>(tokio::task::JoinHandle<Result<T, Error>>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, Error>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(cx).map(|done| match done {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::NotRunning),
        })
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.faults.clear();
        let Some(engine) = self.engine.take() else {
            return;
        };
        match self.home.medium {
            Medium::Kept => engine.end_here(End::StopNow),
            Medium::Temporary | Medium::Memory(_) => {
                engine.end_here(End::Abort);
                // What still runs of it, if anything, writes nothing into a directory that is being removed.
                self.disk.kill();
            }
        }
    }
}

fn world(disk: &Disk, clock: &TestClock) -> World {
    World {
        fs: Arc::new(disk.clone()),
        clock: Arc::new(clock.clone()),
    }
}
