//! What the entries of a ledger come to, and how they change it: what manifest, catalog and claims have in common.
//!
//! Invariants
//! - A state is the same for whoever reads the same entries: nothing but edits and the times in their entries moves it.
//! - Bytes of a body that are not sound are `None`, never a panic, and take no more memory than a small multiple of their length.
//!
//! What is not here: entries and their numbers ([`super::ledger`]).

use super::ledger_entry::LedgerKind;
use crate::types::Timestamp;

/// What the entries of a ledger come to.
pub trait State: Clone + Send + Sync {
    /// A change.
    type Edit: Send;
    /// What the ledger is about.
    const KIND: LedgerKind;

    /// Takes in a change that was written at `at`.
    ///
    /// # Errors
    /// [`Contradiction`] when it does not fit; nothing is then changed.
    fn apply(&mut self, edit: Self::Edit, at: Timestamp) -> Result<(), Contradiction>;

    /// Returns the body of a delta.
    fn encode_edits(&self, edits: &[Self::Edit]) -> Vec<u8>;

    /// Reads the body of a delta; `None` when it is none of this ledger.
    fn decode_edits(&self, body: &[u8]) -> Option<Vec<Self::Edit>>;

    /// Returns the body of a snapshot.
    fn encode_snapshot(&self) -> Vec<u8>;

    /// Reads the body of a snapshot; `None` when it is none of this ledger.
    fn decode_snapshot(&self, body: &[u8]) -> Option<Self>;
}

/// A change that does not fit the state.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Contradiction(pub String);
