//! What can go wrong with the bucket, by object and by what to do about it.
//!
//! Invariants
//! - Every error about an object names its key; the address of the bucket stands in front of it.
//! - No error has a credential in it.
//!
//! What is not here: trying again. A call has made its few tries when it fails; who schedules uploads waits and comes back.

use super::ledger_entry::EntryDamage;
use super::object::ObjectDamage;
use super::object_writer::WriteError;
use super::state::Contradiction;
use crate::types::LeaderEpoch;

/// What kind of trouble a store told of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Trouble {
    /// The object is not there, or not the bucket itself.
    NotFound,
    /// Credentials are missing or wrong, or do not permit this.
    Denied,
    /// The store did not answer, answered with an error of its own, or asked to slow down.
    Unavailable,
    /// No answer in time.
    TimedOut,
    /// The store cannot do what we need.
    Unsupported,
}

/// Whether it helps to come back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Retry {
    /// Later, unchanged.
    Later,
    /// Not before a person has changed something.
    Never,
}

/// Why something with the bucket failed.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// The address is not one that we can use.
    #[error("{url:?} is not the address of an archive: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store refused, or did not answer.
    #[error("{operation} of {key} failed: {}{source}", trouble_text(*.trouble))]
    Call {
        /// What was tried.
        operation: &'static str,
        /// On which object, with the bucket.
        key: String,
        /// What kind of trouble.
        trouble: Trouble,
        /// What the store said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An object has bytes, but not those that were put there.
    #[error("{key} is damaged: {reason}")]
    Damaged {
        /// The object, with the bucket.
        key: String,
        /// Which check failed.
        reason: String,
    },
    /// The store writes over what is there although it was told to create only.
    #[error(
        "{url} overwrites objects that it was told only to create: two servers could not be kept apart on it"
    )]
    IgnoresCreateOnly {
        /// The bucket.
        url: String,
    },
    /// The bucket belongs to another cluster.
    #[error("{key} says that this archive belongs to cluster {theirs}, not to {ours}")]
    ForeignCluster {
        /// The object that says so.
        key: String,
        /// Whose bucket it is.
        theirs: String,
        /// Who we are.
        ours: String,
    },
    /// Another server has taken over.
    #[error(
        "{key} was written by a server of epoch {theirs}, we have epoch {ours}: another server has taken this archive over"
    )]
    Fenced {
        /// The object that shows it.
        key: String,
        /// Our epoch.
        ours: LeaderEpoch,
        /// The other's.
        theirs: LeaderEpoch,
    },
    /// What should be written down does not fit what is written down already.
    #[error("{ledger} does not take this change: {source}")]
    Contradiction {
        /// Which ledger.
        ledger: String,
        /// What does not fit.
        source: Contradiction,
    },
    /// A segment's own files could not be read, or changed meanwhile.
    #[error("segment for {key} cannot be read: {source}")]
    Segment {
        /// The object it should have become.
        key: String,
        /// Which file and why.
        source: std::io::Error,
    },
    /// A segment is not what was written to the local disk.
    #[error("segment for {key} is damaged on the local disk: {reason}")]
    SegmentDamaged {
        /// The object it should have become.
        key: String,
        /// Where, and which check failed.
        reason: String,
    },
    /// No object can be made of a segment.
    #[error("no object {key} can be made: {source}")]
    Unwritable {
        /// The object it should have become.
        key: String,
        /// Why.
        source: WriteError,
    },
}

fn trouble_text(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::NotFound => "it is not there: ",
        Trouble::Denied => "access was refused, look at credentials and permissions: ",
        Trouble::Unavailable => "the store is not available, it is tried again later: ",
        Trouble::TimedOut => "no answer in time, it is tried again later: ",
        Trouble::Unsupported => "the store cannot do this: ",
    }
}

impl TierError {
    /// Tells whether it helps to come back.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Call {
                trouble: Trouble::Unavailable | Trouble::TimedOut,
                ..
            }
            | Self::Segment { .. } => Retry::Later,
            _ => Retry::Never,
        }
    }

    /// Returns what kind of trouble a call had.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Call { trouble, .. } => Some(*trouble),
            _ => None,
        }
    }

    /// True when the call may have done its work although it failed.
    pub(super) fn leaves_open(&self) -> bool {
        matches!(self.trouble(), Some(Trouble::Unavailable | Trouble::TimedOut))
    }

    /// Returns the same once more, for all who have waited for one call.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Damaged { key, reason } => Self::Damaged {
                key: key.clone(),
                reason: reason.clone(),
            },
            Self::Call {
                operation,
                key,
                trouble,
                source,
            } => Self::Call {
                operation,
                key: key.clone(),
                trouble: *trouble,
                source: source.to_string().into(),
            },
            other => Self::Damaged {
                key: String::new(),
                reason: other.to_string(),
            },
        }
    }

    pub(super) fn object(key: &str, damage: ObjectDamage) -> Self {
        Self::Damaged {
            key: key.to_owned(),
            reason: damage.to_string(),
        }
    }

    pub(super) fn entry(key: &str, damage: EntryDamage) -> Self {
        Self::Damaged {
            key: key.to_owned(),
            reason: damage.to_string(),
        }
    }
}
