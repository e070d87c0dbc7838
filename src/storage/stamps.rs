//! What a batch says of its producer, in the words of the producer state.

use crate::record::{BatchHeader, ControlMarker};

use super::{CoordinatorEpoch, Marker, MarkerProtocol, Outcome, ProducerBatch, Transactional};

/// Returns what a data batch says of its producer; `None` when it has none.
pub(super) fn producer_batch(header: &BatchHeader) -> Option<ProducerBatch> {
    let stamp = header.producer?;
    Some(ProducerBatch {
        id: stamp.id,
        epoch: stamp.epoch,
        base_sequence: stamp.base_sequence,
        last_offset_delta: header.last_offset_delta,
        transactional: if header.is_transactional() {
            Transactional::Yes
        } else {
            Transactional::No
        },
        timestamp: header.max_timestamp,
    })
}

/// Returns what a control batch says; `None` when it ends no transaction.
pub(super) fn marker(header: &BatchHeader, control: ControlMarker) -> Option<Marker> {
    let stamp = header.producer?;
    let (outcome, coordinator_epoch) = match control {
        ControlMarker::Commit { coordinator_epoch } => (Outcome::Commit, coordinator_epoch),
        ControlMarker::Abort { coordinator_epoch } => (Outcome::Abort, coordinator_epoch),
        ControlMarker::Other(_) => return None,
    };
    Some(Marker {
        id: stamp.id,
        epoch: stamp.epoch,
        coordinator_epoch: CoordinatorEpoch(coordinator_epoch),
        outcome,
        protocol: MarkerProtocol::EpochKept,
        timestamp: header.max_timestamp,
    })
}
