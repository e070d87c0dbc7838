//! Claims: which server owns the bucket. The ledger at `epochs`.
//!
//! ```text
//! body, of deltas (a new claim) and snapshots (the newest claim) alike; the claimed epoch is that of the entry's writer
//!  0 cluster id bytes u16, cluster id     whose bucket it is: the first claim says so, all others repeat it
//!    host bytes u16, host                 for people who find two servers on one bucket
//!    epoch i32, writer, 16 bytes          the claim
//! ```
//!
//! A server claims an epoch at its start, greater than any that was claimed before and than its own directory's. That epoch then stands in
//! every batch it appends, every object it writes, every entry of every ledger. Of two servers with one cluster id the one that started last
//! owns the bucket; the other finds that out at its next entry anywhere, or at the latest when it next looks here ([`Claims::check`]), and stops.
//!
//! Claiming, step by step
//! 1. The newest claim is read; another cluster's is an error.
//! 2. A claim of a greater epoch is appended. If it dies here: an epoch is lost, nobody misses it.
//! 3. Somebody was faster: from 1, again.
//!
//! What is not here: when to look, and stopping a server.

use super::error::TierError;
use super::keys::EPOCHS;
use super::ledger::{Appended, Author, Ledger};
use super::ledger_entry::{LedgerKind, WriterId};
use super::state::{Contradiction, State};
use super::store::TierStore;
use crate::storage::Fields;
use crate::types::{LeaderEpoch, Timestamp};

/// Bytes of a cluster id, or of a host's name, that a claim keeps at most.
pub(super) const MAX_TEXT_LEN: usize = 255;
/// Servers that may be faster before a start gives up.
const MAX_RACES: u32 = 16;

/// Who has claimed the bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Whose bucket it is.
    pub cluster_id: String,
    /// Where the server runs, for people.
    pub host: String,
    /// The epoch it owns.
    pub epoch: LeaderEpoch,
    /// The server.
    pub writer: WriterId,
}

impl Claim {
    fn encode(&self, into: &mut Vec<u8>) {
        for text in [&self.cluster_id, &self.host] {
            let text = &text.as_bytes()[..text.floor_char_boundary(MAX_TEXT_LEN)];
            let len = u16::try_from(text.len()).expect("at most 255");
            into.extend_from_slice(&len.to_be_bytes());
            into.extend_from_slice(text);
        }
        into.extend_from_slice(&self.epoch.0.to_be_bytes());
        into.extend_from_slice(&self.writer.0);
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        let claim = Self {
            cluster_id: text(&mut fields)?,
            host: text(&mut fields)?,
            epoch: LeaderEpoch(fields.i32()?),
            writer: WriterId(fields.array()?),
        };
        (fields.is_empty() && claim.epoch.0 >= 0).then_some(claim)
    }
}

fn text(fields: &mut Fields<'_>) -> Option<String> {
    let len = usize::from(fields.u16()?);
    let text = std::str::from_utf8(fields.bytes(len)?).ok()?;
    (len <= MAX_TEXT_LEN).then(|| text.to_owned())
}

/// What the claims come to: the newest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Owner(Option<Claim>);

impl Owner {
    /// Returns the newest claim; `None` for a bucket that nobody has claimed.
    pub fn claim(&self) -> Option<&Claim> {
        self.0.as_ref()
    }
}

impl State for Owner {
    type Edit = Claim;
    const KIND: LedgerKind = LedgerKind::Epochs;

    fn apply(&mut self, claim: Claim, _at: Timestamp) -> Result<(), Contradiction> {
        if let Some(owner) = &self.0
            && (claim.epoch <= owner.epoch || claim.cluster_id != owner.cluster_id)
        {
            return Err(Contradiction(format!(
                "epoch {} of cluster {} does not follow epoch {} of cluster {}",
                claim.epoch, claim.cluster_id, owner.epoch, owner.cluster_id
            )));
        }
        self.0 = Some(claim);
        Ok(())
    }

    fn encode_edits(&self, edits: &[Claim]) -> Vec<u8> {
        let mut into = Vec::new();
        if let [claim] = edits {
            claim.encode(&mut into);
        }
        into
    }

    fn decode_edits(&self, body: &[u8]) -> Option<Vec<Claim>> {
        Claim::decode(body).map(|claim| vec![claim])
    }

    fn encode_snapshot(&self) -> Vec<u8> {
        let mut into = Vec::new();
        if let Some(claim) = &self.0 {
            claim.encode(&mut into);
        }
        into
    }

    fn decode_snapshot(&self, body: &[u8]) -> Option<Self> {
        Claim::decode(body).map(|claim| Self(Some(claim)))
    }
}

/// What a server brings to its claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claimant {
    /// Its cluster.
    pub cluster_id: String,
    /// Where it runs, for people.
    pub host: String,
    /// The least epoch that it may have: greater than any in its own directory.
    pub least_epoch: LeaderEpoch,
    /// Drawn at its start.
    pub writer: WriterId,
}

/// The claims of a bucket, as their owner or a visitor knows them.
#[derive(Clone, Debug)]
pub struct Claims {
    ledger: Ledger<Owner>,
}

impl Claims {
    /// Reads the claims of a bucket, and writes nothing.
    ///
    /// # Errors
    /// [`TierError::Call`], [`TierError::Damaged`].
    pub async fn read(store: TierStore) -> Result<Self, TierError> {
        let ledger = Ledger::open(store, EPOCHS.to_owned(), Owner::default()).await?;
        Ok(Self { ledger })
    }

    /// Returns the newest claim; `None` for a bucket that nobody has claimed.
    pub fn owner(&self) -> Option<&Claim> {
        self.ledger.state().claim()
    }

    /// Claims the bucket; on return, the epoch is the claimant's alone.
    ///
    /// # Errors
    /// [`TierError::ForeignCluster`]; [`TierError::Fenced`] when others keep being faster; [`TierError::Call`], [`TierError::Damaged`].
    pub async fn claim(&mut self, claimant: &Claimant, now: Timestamp) -> Result<Author, TierError> {
        let mut races = 0;
        loop {
            self.ledger.refresh().await?;
            self.check_cluster(&claimant.cluster_id)?;
            let after = self.owner().map_or(LeaderEpoch(0), |owner| {
                LeaderEpoch(owner.epoch.0.saturating_add(1))
            });
            let author = Author {
                epoch: claimant.least_epoch.max(after),
                writer: claimant.writer,
            };
            let claim = Claim {
                cluster_id: claimant.cluster_id.clone(),
                host: claimant.host.clone(),
                epoch: author.epoch,
                writer: author.writer,
            };
            let is_mine = |owner: &Owner| owner.0.as_ref() == Some(&claim);
            let change = |owner: &Owner| (!is_mine(owner)).then(|| vec![claim.clone()]);
            match self.ledger.append(author, now, change).await {
                Ok(Appended::At(_) | Appended::Nothing) => return Ok(author),
                Err(TierError::Fenced { .. } | TierError::Contradiction { .. }) if races < MAX_RACES => {
                    races += 1
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks whether the bucket is still `author`'s.
    ///
    /// # Errors
    /// [`TierError::Fenced`] when it is not; [`TierError::Call`], [`TierError::Damaged`] when that could not be learned.
    pub async fn check(&mut self, author: Author) -> Result<(), TierError> {
        self.ledger.refresh().await?;
        match self.owner() {
            Some(owner) if owner.epoch == author.epoch && owner.writer == author.writer => Ok(()),
            owner => {
                let theirs = owner.map_or(LeaderEpoch(0), |owner| owner.epoch);
                let number = self.ledger.head().map_or(0, |head| head.number);
                let key = super::keys::numbered(EPOCHS, number);
                Err(TierError::Fenced {
                    key: self.ledger.store().name(&key),
                    ours: author.epoch,
                    theirs,
                })
            }
        }
    }

    fn check_cluster(&self, ours: &str) -> Result<(), TierError> {
        match self.owner() {
            Some(owner) if owner.cluster_id != ours => Err(TierError::ForeignCluster {
                key: self.ledger.store().name(EPOCHS),
                theirs: owner.cluster_id.clone(),
                ours: ours.to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "epoch_tests.rs"]
mod tests;
