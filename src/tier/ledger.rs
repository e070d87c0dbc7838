//! A ledger: numbered objects, each created only if absent, that together come to a state. The one way anything changes in the bucket.
//!
//! ```text
//! <ledger>/0   <ledger>/1   ...   <ledger>/63   <ledger>/64   <ledger>/65         number = key, without holes
//!  snapshot     delta              delta         snapshot      delta <- newest    a snapshot every 64
//! ```
//!
//! A change is an object at the number after the newest. Creating it is what makes it true: of two writers one gets the number, the
//! other finds it taken, reads what is there, and either steps back or goes on behind it. No store needs more for this than to create
//! only if absent.
//!
//! **Who wins.** An entry of a greater epoch fences: whoever meets one has been replaced, and says so. An entry of a smaller epoch is a
//! late word of a server that was replaced and does not know it yet: it is true, and taken in. A new owner appends an entry, an empty
//! one if need be, before it relies on what it has read: from then on the old one meets it.
//!
//! **The newest** is found without listing: is there a number 4096, 8192, 16384 ...? Doubling, then halving, first in steps of 4096, then of
//! one. About twenty look-ups for a ledger of a million entries, one for who knows where it ended before. Then one listing of what lies
//! behind it: an entry there means that one was removed by hand, and is an error. A listing that lags does not tell, and does no harm.
//!
//! **What may be removed** one day: numbers below the newest multiple of 4096, but never a multiple itself; so that the newest is still
//! found, and a snapshot stands where reading begins. Nothing removes them yet.
//!
//! Appending, step by step
//! 1. The edits are applied to a copy of the state. If they do not fit, nothing has happened.
//! 2. The object is created. If it dies here: the number is free, or the change is made and the next start reads it. A lost answer
//!    is told from a lost race by the bytes.
//! 3. The copy becomes the state.
//!
//! Invariants
//! - No entry stands behind one of a greater epoch that its writer has read. So a late word never stands behind its own fence.
//! - Each entry has the checksum of the one before it; a reader who follows them has read what the writer knew.
//! - The state here may lag behind the bucket, never run ahead of it.
//!
//! What is not here: what the states are ([`super::manifest`], [`super::catalog`], [`super::epoch`]), bytes of an entry
//! ([`super::ledger_entry`]).

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::error::TierError;
use super::keys::{number_of, numbered};
use super::ledger_entry::{EntryDamage, Form, LedgerEntry, MAX_LEN, WriterId};
use super::state::{Contradiction, State};
use super::store::{Published, TierStore};
use crate::types::{LeaderEpoch, Timestamp};

/// A snapshot stands at every multiple of this number.
pub(super) const SNAPSHOT_EVERY: u64 = 64;
/// Multiples of this number stay for good.
pub(super) const ANCHOR_EVERY: u64 = 4096;
const _: () = assert!(ANCHOR_EVERY.is_multiple_of(SNAPSHOT_EVERY));

/// Entries fetched at the same time while a ledger is read.
const FETCHES: usize = 16;
/// Times that an append goes on behind somebody else's entry before it gives up.
const MAX_OVERTAKEN: u32 = 64;

/// Who writes, and under which epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Author {
    /// The epoch that the server has claimed.
    pub epoch: LeaderEpoch,
    /// Drawn at its start.
    pub writer: WriterId,
}

/// The newest entry that was read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Its number.
    pub number: u64,
    /// Its writer's epoch.
    pub epoch: LeaderEpoch,
    /// Its writer.
    pub writer: WriterId,
    /// The greatest epoch of all entries read.
    pub greatest_epoch: LeaderEpoch,
    crc: u32,
    snapshot: u64,
}

/// What came of an append.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Appended {
    /// The change stands at this number.
    At(u64),
    /// There was nothing to change in what the ledger came to.
    Nothing,
}

/// A ledger as far as it is known.
#[derive(Clone, Debug)]
pub struct Ledger<S> {
    store: TierStore,
    path: String,
    empty: S,
    state: S,
    head: Option<Head>,
}

impl<S: State> Ledger<S> {
    /// Finds the newest entry of the ledger at `path` and reads what it comes to; `empty` if there is none.
    ///
    /// # Errors
    /// [`TierError::Call`], [`TierError::Damaged`].
    pub async fn open(store: TierStore, path: String, empty: S) -> Result<Self, TierError> {
        let newest = newest(&store, &path).await?;
        check_for_hole(&store, &path, newest).await?;
        let mut ledger = Self {
            store,
            path,
            state: empty.clone(),
            empty,
            head: None,
        };
        if let Some(newest) = newest {
            ledger.load(newest).await?;
        }
        Ok(ledger)
    }

    /// Makes a ledger of which nothing is known yet, for one that most likely has no entry: appending finds out.
    pub fn unread(store: TierStore, path: String, empty: S) -> Self {
        Self {
            store,
            path,
            state: empty.clone(),
            empty,
            head: None,
        }
    }

    /// Returns what the entries come to.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Returns the newest entry; `None` when there is none.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// Returns where its entries lie.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the store it lies in.
    pub fn store(&self) -> &TierStore {
        &self.store
    }

    /// Reads what others have appended; tells how many entries.
    ///
    /// # Errors
    /// [`TierError::Call`], [`TierError::Damaged`].
    pub async fn refresh(&mut self) -> Result<u64, TierError> {
        let mut read = 0;
        loop {
            let number = self.next_number();
            let Some(bytes) = self.store.get(&self.key(number), MAX_LEN).await? else {
                return Ok(read);
            };
            self.take_in(number, &bytes)?;
            read += 1;
        }
    }

    /// Writes a change down: what `change` makes of the state, asked again whenever the ledger turns out to have gone on. An empty list of
    /// edits is written too, as a fence; `None` is nothing.
    ///
    /// # Errors
    /// [`TierError::Fenced`] when a server of a greater epoch, or another of ours, has written; [`TierError::Contradiction`] when the edits
    /// do not fit; [`TierError::Call`], after which the change may stand there all the same.
    pub async fn append(
        &mut self,
        author: Author,
        now: Timestamp,
        mut change: impl FnMut(&S) -> Option<Vec<S::Edit>> + Send,
    ) -> Result<Appended, TierError> {
        for _ in 0..MAX_OVERTAKEN {
            if let Some(head) = self.head {
                self.check_fence(author, head.number, head.greatest_epoch, head)?;
            }
            let Some(edits) = change(&self.state) else {
                return Ok(Appended::Nothing);
            };
            let (entry, next) = self.entry(author, now, edits)?;
            let number = entry.number;
            let bytes = entry.encode().map_err(|damage| self.damaged(number, damage))?;
            match self.store.publish(&self.key(number), bytes.clone()).await? {
                Published::Ours => {
                    self.state = next;
                    self.advance(&entry, &bytes);
                    return Ok(Appended::At(number));
                }
                Published::Theirs(theirs) => self.take_in(number, &theirs)?,
            }
        }
        Err(TierError::Contradiction {
            ledger: self.store.name(&self.path),
            source: Contradiction(format!("it was overtaken {MAX_OVERTAKEN} times in a row")),
        })
    }

    fn check_fence(
        &self,
        author: Author,
        number: u64,
        greatest: LeaderEpoch,
        head: Head,
    ) -> Result<(), TierError> {
        let is_twin = head.epoch == author.epoch && head.writer != author.writer;
        if greatest > author.epoch || is_twin {
            return Err(TierError::Fenced {
                key: self.store.name(&self.key(number)),
                ours: author.epoch,
                theirs: greatest,
            });
        }
        Ok(())
    }

    fn entry(
        &self,
        author: Author,
        now: Timestamp,
        edits: Vec<S::Edit>,
    ) -> Result<(LedgerEntry, S), TierError> {
        let number = self.next_number();
        let is_snapshot = number.is_multiple_of(SNAPSHOT_EVERY);
        let delta = (!is_snapshot).then(|| self.state.encode_edits(&edits));
        let mut next = self.state.clone();
        for edit in edits {
            next.apply(edit, now).map_err(|source| TierError::Contradiction {
                ledger: self.store.name(&self.path),
                source,
            })?;
        }
        let entry = LedgerEntry {
            kind: S::KIND,
            form: if is_snapshot { Form::Snapshot } else { Form::Delta },
            epoch: author.epoch,
            writer: author.writer,
            number,
            snapshot: number - number % SNAPSHOT_EVERY,
            written: now,
            previous_crc: self.head.map_or(0, |head| head.crc),
            body: delta.unwrap_or_else(|| next.encode_snapshot()).into(),
        };
        Ok((entry, next))
    }

    async fn load(&mut self, newest: u64) -> Result<(), TierError> {
        let last = self.fetch(newest).await?;
        let entry =
            LedgerEntry::decode(&last, S::KIND, newest).map_err(|damage| self.damaged(newest, damage))?;
        let before: Vec<Bytes> = stream::iter(entry.snapshot..newest)
            .map(|number| self.fetch(number))
            .buffered(FETCHES)
            .try_collect()
            .await?;
        self.head = None;
        self.state = self.empty.clone();
        for (number, bytes) in (entry.snapshot..).zip(before.iter().chain([&last])) {
            self.take_in(number, bytes)?;
        }
        Ok(())
    }

    async fn fetch(&self, number: u64) -> Result<Bytes, TierError> {
        let key = self.key(number);
        let found = self.store.get(&key, MAX_LEN).await?;
        found.ok_or_else(|| TierError::Damaged {
            key: self.store.name(&key),
            reason: "it is not there, and entries behind it are".to_owned(),
        })
    }

    /// Takes in an entry that stands in the bucket at the number after the head, or a snapshot to begin with.
    fn take_in(&mut self, number: u64, bytes: &Bytes) -> Result<(), TierError> {
        let damaged = |damage| self.damaged(number, damage);
        let entry = LedgerEntry::decode(bytes, S::KIND, number).map_err(damaged)?;
        if self.head.is_some_and(|head| head.crc != entry.previous_crc) {
            return Err(TierError::Damaged {
                key: self.store.name(&self.key(number)),
                reason: "it does not follow the entry before it".to_owned(),
            });
        }
        let next = match entry.form {
            Form::Snapshot => self.state.decode_snapshot(&entry.body),
            // Without the snapshot there is nothing that a delta could change.
            Form::Delta if self.head.is_none() => None,
            Form::Delta => self.follow(&entry)?,
        };
        self.state = next.ok_or_else(|| self.damaged(number, EntryDamage::Malformed))?;
        self.advance(&entry, bytes);
        Ok(())
    }

    fn follow(&self, entry: &LedgerEntry) -> Result<Option<S>, TierError> {
        let Some(edits) = self.state.decode_edits(&entry.body) else {
            return Ok(None);
        };
        let mut next = self.state.clone();
        for edit in edits {
            next.apply(edit, entry.written)
                .map_err(|contradiction| TierError::Damaged {
                    key: self.store.name(&self.key(entry.number)),
                    reason: format!("it does not fit those before it: {contradiction}"),
                })?;
        }
        Ok(Some(next))
    }

    fn advance(&mut self, entry: &LedgerEntry, bytes: &[u8]) {
        let known = self.head.map_or(entry.epoch, |head| head.greatest_epoch);
        self.head = Some(Head {
            number: entry.number,
            epoch: entry.epoch,
            writer: entry.writer,
            greatest_epoch: known.max(entry.epoch),
            crc: crc32fast::hash(bytes),
            snapshot: entry.snapshot,
        });
    }

    fn next_number(&self) -> u64 {
        self.head.map_or(0, |head| head.number + 1)
    }

    fn key(&self, number: u64) -> String {
        numbered(&self.path, number)
    }

    fn damaged(&self, number: u64, damage: EntryDamage) -> TierError {
        TierError::entry(&self.store.name(&self.key(number)), damage)
    }
}

impl Head {
    /// Returns the number of the newest snapshot: who reads the ledger anew begins there.
    pub fn snapshot(&self) -> u64 {
        self.snapshot
    }
}

/// Returns the newest number of the ledger at `path`; `None` when it has no entry.
///
/// # Errors
/// [`TierError::Call`].
pub async fn newest(store: &TierStore, path: &str) -> Result<Option<u64>, TierError> {
    if !is_there(store, path, 0).await? {
        return Ok(None);
    }
    let anchor = ANCHOR_EVERY * last_true(|step| is_there(store, path, step * ANCHOR_EVERY)).await?;
    let beyond = last_true(|step| is_there(store, path, anchor + step)).await?;
    Ok(Some(anchor + beyond))
}

/// Looks for entries behind the newest that is followed by none.
async fn check_for_hole(store: &TierStore, path: &str, newest: Option<u64>) -> Result<(), TierError> {
    let mut listing = match newest {
        Some(newest) => store.list_behind(path, &numbered(path, newest)),
        None => store.list(path),
    };
    let next = newest.map_or(0, |newest| newest + 1);
    while let Some(found) = listing.next().await? {
        let Some(number) = number_of(&found.key).filter(|number| *number >= next) else {
            continue;
        };
        // Somebody may have appended since we looked.
        if is_there(store, path, next).await? {
            return Ok(());
        }
        return Err(TierError::Damaged {
            key: store.name(&numbered(path, next)),
            reason: format!("it is not there, and entry {number} is"),
        });
    }
    Ok(())
}

async fn is_there(store: &TierStore, path: &str, number: u64) -> Result<bool, TierError> {
    Ok(store.len_of(&numbered(path, number)).await?.is_some())
}

/// The greatest number for which `holds`, which holds for 0 and, once it does not, for nothing greater.
async fn last_true<F>(holds: impl Fn(u64) -> F) -> Result<u64, TierError>
where
    F: Future<Output = Result<bool, TierError>>,
{
    let (mut low, mut high) = (0, 1);
    while holds(high).await? {
        low = high;
        high *= 2;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(middle).await? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
