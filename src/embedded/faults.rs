//! What goes wrong on request: which call, of which topic, how often, by which dice.
//!
//! Invariants
//! - Equal orders, an equal seed and equal calls go wrong alike.
//! - Without an order a call costs one look at a flag.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::grpc::{Lines, Welcome};

/// What a fault happens to.
///
/// ```
/// use siltstone::embedded::{Fault, Operation};
///
/// // The second read of the log fails.
/// let fault = Fault::fail(Operation::Read).on("orders").after(1);
/// # let _ = fault;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A write of batches to a log.
    Append,
    /// A sync of a log: of a topic with `durability=synced` every acknowledgement waits for one.
    Sync,
    /// A read of batches from a log, by whomever: a client, the cleaner, a start.
    Read,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effect {
    Fail,
    Delay(Duration),
    /// All connections are cut once the call has succeeded.
    CutAfter,
}

/// Something that is to go wrong: once, at the next such call of any topic, unless it is told otherwise.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), siltstone::embedded::Error> {
/// use siltstone::embedded::{Broker, Fault, Operation, record};
/// use std::time::Duration;
///
/// let broker = Broker::builder().in_memory().seed(7).start().await?;
/// broker.create_topic("orders", 1, &[]).await?;
/// broker.faults().order(Fault::fail(Operation::Append).on("orders"));
/// assert!(broker.produce("orders", [record("a", "1")]).await.is_err());
/// // One append in ten takes a second longer, three times in all; by the seed always the same ones.
/// let slow = Fault::delay(Operation::Append, Duration::from_secs(1));
/// broker.faults().order(slow.on("orders").one_in(10).times(3));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    operation: Operation,
    effect: Effect,
    topic: Option<String>,
    skip: u64,
    times: u64,
    one_in: u64,
}

impl Fault {
    fn new(operation: Operation, effect: Effect) -> Self {
        Self {
            operation,
            effect,
            topic: None,
            skip: 0,
            times: 1,
            one_in: 1,
        }
    }

    /// The call fails as on a broken disk. A log whose append or sync failed refuses writes until it is repaired, which the broker does
    /// by itself, at once.
    pub fn fail(operation: Operation) -> Self {
        Self::new(operation, Effect::Fail)
    }

    /// The call takes so much longer.
    pub fn delay(operation: Operation, by: Duration) -> Self {
        Self::new(operation, Effect::Delay(by))
    }

    /// The records are written, and every connection is cut before the answer: the client cannot know.
    pub fn lose_answer() -> Self {
        Self::new(Operation::Append, Effect::CutAfter)
    }

    /// Only calls for this topic count.
    #[must_use]
    pub fn on(mut self, topic: &str) -> Self {
        self.topic = Some(topic.to_owned());
        self
    }

    /// The first `calls` go through.
    #[must_use]
    pub fn after(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// It happens so often.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// It happens to one call in `calls`, by the dice of the broker's seed.
    #[must_use]
    pub fn one_in(mut self, calls: u64) -> Self {
        self.one_in = calls.max(1);
        self
    }

    /// Takes one call in; true if this one goes wrong.
    fn meets(&mut self, operation: Operation, topic: &str, dice: &mut Dice) -> bool {
        if self.operation != operation || self.topic.as_ref().is_some_and(|wanted| wanted != topic) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let meets = self.one_in == 1 || dice.throw().is_multiple_of(self.one_in);
        self.times -= u64::from(meets);
        meets
    }
}

/// Random numbers that a seed repeats (SplitMix64: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The faults of one broker, over all its lives. Clones are handles of the same.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), siltstone::embedded::Error> {
/// use siltstone::embedded::{Broker, Fault, Operation};
/// use std::time::Duration;
///
/// let broker = Broker::in_memory().await?;
/// let faults = broker.faults();
/// faults.refuse_connections(1);
/// faults.delay_connection(Duration::from_millis(5));
/// faults.order(Fault::fail(Operation::Sync));
/// assert_eq!(faults.ordered(), 1, "it has not happened yet");
/// faults.clear();
/// assert_eq!(faults.ordered(), 0);
/// faults.cut_connections();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

struct Shared {
    armed: AtomicBool,
    orders: Mutex<Orders>,
    /// Rings when a delay is to end early.
    awake: Condvar,
    full: AtomicBool,
    lines: RwLock<Lines>,
    /// Held for reading by every call that changes the disk, for writing by who takes its picture.
    still: RwLock<()>,
}

struct Orders {
    faults: Vec<Fault>,
    dice: Dice,
    /// Counts what ends the delays that have begun.
    cleared: u64,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("ordered", &self.ordered())
            .finish()
    }
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Shared {
            armed: AtomicBool::new(false),
            orders: Mutex::new(Orders {
                faults: Vec::new(),
                dice: Dice(seed),
                cleared: 0,
            }),
            awake: Condvar::new(),
            full: AtomicBool::new(false),
            lines: RwLock::default(),
            still: RwLock::new(()),
        }))
    }

    /// Orders a fault; of several that a call meets, the first ordered happens.
    pub fn order(&self, fault: Fault) {
        if fault.times == 0 {
            return;
        }
        self.0.orders.lock().faults.push(fault);
        self.0.armed.store(true, Ordering::SeqCst);
    }

    /// Takes back every order that has not happened, ends delays, and lets connections in.
    pub fn clear(&self) {
        let mut orders = self.0.orders.lock();
        orders.faults.clear();
        orders.cleared += 1;
        self.0.armed.store(false, Ordering::SeqCst);
        drop(orders);
        self.0.awake.notify_all();
        self.lines().clear();
    }

    /// Ends the delays that calls are in.
    pub(super) fn end_delays(&self) {
        self.0.orders.lock().cleared += 1;
        self.0.awake.notify_all();
    }

    /// Returns how many ordered faults have not happened as often as they are to.
    pub fn ordered(&self) -> usize {
        self.0.orders.lock().faults.len()
    }

    /// Cuts every connection, now.
    pub fn cut_connections(&self) {
        self.lines().cut();
    }

    /// Refuses the next connections.
    pub fn refuse_connections(&self, count: u32) {
        for _ in 0..count {
            self.lines().order(Welcome::Refused);
        }
    }

    /// Reads nothing from the next connection, nor from those behind it, for so long.
    pub fn delay_connection(&self, by: Duration) {
        self.lines().order(Welcome::Late(by));
    }

    fn lines(&self) -> Lines {
        self.0.lines.read().clone()
    }

    pub(super) fn set_lines(&self, lines: Lines) {
        *self.0.lines.write() = lines;
    }

    pub(super) fn set_full(&self, full: bool) {
        self.0.full.store(full, Ordering::SeqCst);
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.full.load(Ordering::SeqCst)
    }

    /// Tells whether anything is ordered.
    pub(super) fn is_armed(&self) -> bool {
        self.0.armed.load(Ordering::SeqCst)
    }

    /// Lets the disk change while the guard lives.
    pub(super) fn change(&self) -> RwLockReadGuard<'_, ()> {
        self.0.still.read()
    }

    /// Keeps the disk from changing while the guard lives.
    pub(super) fn hold_still(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.still.write()
    }

    /// Has a call go as it was ordered: waits, fails, or does `call`.
    pub(super) fn meet<T>(
        &self,
        operation: Operation,
        topic: Option<&str>,
        call: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(topic) = topic.filter(|_| self.is_armed()) else {
            return call();
        };
        match self.take(operation, topic) {
            None => call(),
            Some(Effect::Fail) => Err(io::Error::other("a fault that was ordered")),
            Some(Effect::Delay(by)) => {
                self.wait(by);
                call()
            }
            Some(Effect::CutAfter) => {
                let done = call()?;
                self.lines().cut();
                Ok(done)
            }
        }
    }

    fn take(&self, operation: Operation, topic: &str) -> Option<Effect> {
        let mut orders = self.0.orders.lock();
        let Orders { faults, dice, .. } = &mut *orders;
        let at = faults
            .iter_mut()
            .position(|fault| fault.meets(operation, topic, dice))?;
        let effect = faults[at].effect;
        if faults[at].times == 0 {
            faults.remove(at);
        }
        if faults.is_empty() {
            self.0.armed.store(false, Ordering::SeqCst);
        }
        Some(effect)
    }

    fn wait(&self, by: Duration) {
        let mut orders = self.0.orders.lock();
        let cleared = orders.cleared;
        let until = std::time::Instant::now().checked_add(by);
        while orders.cleared == cleared {
            match until {
                Some(until) if self.0.awake.wait_until(&mut orders, until).timed_out() => return,
                Some(_) => {}
                None => self.0.awake.wait(&mut orders),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(faults: &Faults, calls: usize) -> Vec<usize> {
        let fails = |_: &usize| faults.meet(Operation::Append, Some("orders"), || Ok(())).is_err();
        (0..calls).filter(fails).collect()
    }

    #[test]
    fn a_fault_happens_to_its_topic_alone_after_and_as_often_as_it_was_told() {
        let faults = Faults::new(0);
        faults.order(Fault::fail(Operation::Append).on("orders").after(2).times(3));
        assert!(faults.meet(Operation::Append, Some("carts"), || Ok(())).is_ok());
        assert!(faults.meet(Operation::Sync, Some("orders"), || Ok(())).is_ok());
        assert_eq!(failures(&faults, 10), [2, 3, 4]);
        assert_eq!((faults.ordered(), faults.is_armed()), (0, false));
    }

    #[test]
    fn equal_seeds_fail_alike_and_others_otherwise() {
        let of_seed = |seed| {
            let faults = Faults::new(seed);
            faults.order(Fault::fail(Operation::Append).one_in(5).times(u64::MAX));
            failures(&faults, 200)
        };
        assert_eq!(of_seed(7), of_seed(7));
        assert_ne!(of_seed(7), of_seed(8));
        assert!((20..60).contains(&of_seed(7).len()), "{}", of_seed(7).len());
    }

    #[test]
    fn clearing_ends_a_delay() {
        let faults = Faults::new(0);
        faults.order(Fault::delay(Operation::Sync, Duration::from_secs(600)));
        let delayed = faults.clone();
        let call = std::thread::spawn(move || delayed.meet(Operation::Sync, Some("orders"), || Ok(7)));
        while faults.ordered() > 0 {
            std::thread::yield_now();
        }
        faults.clear();
        assert_eq!(call.join().unwrap().unwrap(), 7);
    }
}
