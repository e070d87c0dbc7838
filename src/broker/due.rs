//! What the schedules would do at their next looks, done at once: for whoever moves the clock by hand, and for whoever wants to
//! copy the data directory.
//!
//! One thing no schedule does: a segment that is too old is sealed here, though nobody appends to it.
//!
//! What is not here: what is due (the same functions that the schedules call), and any waiting for a time to come.

use std::sync::Arc;

use crate::storage::AppendError;
use crate::types::Timestamp;

use super::archive::{Access, Archive};
use super::core::Core;
use super::served::Served;
use super::{Error, translate};

impl Core {
    /// See [`super::Broker::do_what_is_due`].
    pub(super) async fn do_what_is_due(self: &Arc<Self>) -> Result<Option<Timestamp>, Error> {
        if self.config.archive.access == Access::Read {
            // All else is the owner's.
            self.blocking(|core| {
                core.look_at_disk();
                Ok(())
            })
            .await?;
            return Ok(None);
        }
        self.blocking(|core| {
            core.look_at_disk();
            core.roll_what_is_due();
            core.sync_unsynced();
            core.clean_what_is_due();
            core.retain_all();
            core.expire_producers();
            Ok(())
        })
        .await?;
        Archive::do_what_is_due(self).await;
        self.blocking(|core| {
            // What the archive has by now may leave the local disk.
            core.retain_all();
            Ok(core.next_cleaning())
        })
        .await
    }

    /// See [`super::Broker::settle`].
    pub(super) async fn settle_all(self: &Arc<Self>) -> Result<(), Error> {
        self.blocking(|core| {
            let now = core.now();
            for served in core.all_served() {
                match served.log.roll_if_appended_before(Timestamp::MAX, now) {
                    // What it refuses, it tells everybody who writes.
                    Ok(_) | Err(AppendError::Refused { .. }) => {}
                    Err(error) => return Err(translate::append(served.id(), error)),
                }
            }
            core.sync_unsynced();
            core.store
                .checkpoint()
                .map_err(|error| translate::store(&core.config.data_dir.display(), &error))
        })
        .await
    }

    /// Seals active segments that are older than `segment.ms`, as the next append would. A log that refuses has told why.
    fn roll_what_is_due(&self) {
        let now = self.now();
        for topic in self.topics.all() {
            let oldest = now.saturating_add_ms(topic.config.segment_ms.saturating_neg());
            // Exactly as old is not too old.
            let before = oldest.saturating_add_ms(-1);
            for served in topic.partitions.iter().filter(|served| served.closed().is_none()) {
                match served.log.roll_if_appended_before(before, now) {
                    Ok(_) | Err(AppendError::Refused { .. }) => {}
                    Err(error) => {
                        tracing::warn!(partition = %served.id(), %error, "a segment that is too old was not sealed")
                    }
                }
            }
        }
    }

    fn all_served(&self) -> Vec<Arc<Served>> {
        let topics = self.topics.all();
        let all = topics.iter().flat_map(|topic| topic.partitions.iter().cloned());
        all.filter(|served| served.closed().is_none()).collect()
    }

    /// Syncs whatever was appended, whether or not it is due.
    fn sync_unsynced(&self) {
        let mut unsynced = self.all_served();
        unsynced.retain(|served| {
            let marks = served.log.watermarks();
            marks.recovery_point < marks.log_end && served.log.refusal().is_none()
        });
        for again in self.syncer.round(unsynced) {
            self.commit.mark(&again);
        }
    }
}
