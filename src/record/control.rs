//! Control batches: markers that end a transaction, and kinds of Kafka's own that a reader skips.
//!
//! ```text
//!  key    version i16 (0) | kind i16: 0 abort, 1 commit, others
//!  value  version i16 (0) | coordinator epoch i32               of abort and commit
//! ```
//!
//! Greater versions and longer values are read as if they were these.
//!
//! What is not here: making the batch around a marker (`transaction_end`).

use super::codec::DecompressLimit;
use super::damage::Damage;
use super::record::Record;

pub(super) const ABORT: i16 = 0;
pub(super) const COMMIT: i16 = 1;
const VERSION: [u8; 2] = 0i16.to_be_bytes();

/// What a control batch says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlMarker {
    /// The producer's transaction is committed.
    Commit {
        /// The coordinator's epoch when it decided so.
        coordinator_epoch: i32,
    },
    /// The producer's transaction is aborted.
    Abort {
        /// The coordinator's epoch when it decided so.
        coordinator_epoch: i32,
    },
    /// A kind that says nothing about transactions.
    Other(i16),
}

impl ControlMarker {
    /// Bound on a compressed control batch, which nobody is known to write.
    pub(super) const LIMIT: DecompressLimit = DecompressLimit(1 << 16);

    pub(super) fn parse(record: &Record) -> Result<Self, Damage> {
        let key = record.key.as_deref().and_then(|key| key.first_chunk());
        let Some(&[_, _, high, low]) = key else {
            return Err(Damage::Marker);
        };
        let coordinator_epoch = || match record.value.as_deref().and_then(|value| value.first_chunk()) {
            Some(&[_, _, a, b, c, d]) => Ok(i32::from_be_bytes([a, b, c, d])),
            None => Err(Damage::Marker),
        };
        Ok(match i16::from_be_bytes([high, low]) {
            ABORT => Self::Abort {
                coordinator_epoch: coordinator_epoch()?,
            },
            COMMIT => Self::Commit {
                coordinator_epoch: coordinator_epoch()?,
            },
            other => Self::Other(other),
        })
    }
}

/// Returns key and value of the marker of `kind`.
pub(super) fn marker(kind: i16, coordinator_epoch: i32) -> ([u8; 4], [u8; 6]) {
    let ([v0, v1], [k0, k1]) = (VERSION, kind.to_be_bytes());
    let [e0, e1, e2, e3] = coordinator_epoch.to_be_bytes();
    ([v0, v1, k0, k1], [v0, v1, e0, e1, e2, e3])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn parse(key: Option<&'static [u8]>, value: Option<&'static [u8]>) -> Result<ControlMarker, Damage> {
        ControlMarker::parse(&Record {
            offset: crate::types::Offset::ZERO,
            timestamp: None,
            key: key.map(Bytes::from_static),
            value: value.map(Bytes::from_static),
            headers: Vec::new(),
        })
    }

    #[test]
    fn greater_versions_longer_values_and_unknown_kinds_are_read() {
        assert_eq!(
            parse(Some(&[0, 5, 0, 1, 9]), Some(&[0, 5, 0, 0, 0, 3, 8, 8])),
            Ok(ControlMarker::Commit { coordinator_epoch: 3 })
        );
        assert_eq!(parse(Some(&[0, 0, 0, 2]), None), Ok(ControlMarker::Other(2)));
    }

    #[test]
    fn a_marker_too_short_is_damage() {
        assert_eq!(parse(None, None), Err(Damage::Marker));
        assert_eq!(parse(Some(&[0, 0, 0]), None), Err(Damage::Marker));
        assert_eq!(
            parse(Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0])),
            Err(Damage::Marker)
        );
    }
}
