//! Compaction by command: a wish is put on the desk, and whoever asks may wait for it or come again with its handle.
//!
//! What is not here: the work (`work`).

use std::time::Duration;

use crate::broker::Error;
use crate::broker::core::Core;
use crate::types::TopicName;

use super::state::Progress;
use super::{CompactNow, CompactWait, CompactionJob, JobState};

impl Core {
    /// See [`crate::broker::Broker::compact_now`].
    pub(in crate::broker) async fn compact_now(
        &self,
        wish: &CompactNow,
        wait: CompactWait,
    ) -> Result<CompactionJob, Error> {
        let handle = {
            let _pass = self.gate.enter()?;
            let topic = self.topics.find(&wish.topic)?;
            if !topic.config.cleanup.compacts() {
                return Err(not_compacted(&wish.topic));
            }
            self.cleaner.put(&wish.topic, &topic.chosen(&wish.partitions)?)?
        };
        self.compaction_job(handle, wait).await
    }

    /// See [`crate::broker::Broker::compaction_job`].
    pub(in crate::broker) async fn compaction_job(
        &self,
        handle: u64,
        wait: CompactWait,
    ) -> Result<CompactionJob, Error> {
        let over = async {
            loop {
                let mut ended = std::pin::pin!(self.cleaner.ended());
                // Registered first, looked at after: an end in between is seen.
                ended.as_mut().enable();
                if self.cleaner.is_over(handle)? {
                    return self.cleaner.job(handle);
                }
                tokio::select! {
                    () = ended => {}
                    () = self.gate.stopping() => return Err(Error::ShuttingDown),
                }
            }
        };
        match wait {
            CompactWait::UntilDone => over.await,
            CompactWait::AtMostMs(ms) => match tokio::time::timeout(Duration::from_millis(ms), over).await {
                Ok(job) => job,
                Err(_) => self.job_under_way(handle),
            },
        }
    }

    /// Returns how a command stands, with the passes that are under way.
    fn job_under_way(&self, handle: u64) -> Result<CompactionJob, Error> {
        let mut job = self.cleaner.job(handle)?;
        let Ok(topic) = self.topics.find(&job.topic) else {
            return Ok(job);
        };
        for one in &mut job.partitions {
            let served = topic.partition(one.partition).ok();
            let progress = served.and_then(|served| served.cleaning.running());
            if let (JobState::Running { .. }, Some(progress)) = (&one.state, progress) {
                one.state = running(&progress);
            }
        }
        Ok(job)
    }
}

/// Tells how far a pass is.
pub(super) fn running(progress: &Progress) -> JobState {
    let (done_bytes, total_bytes) = progress.bytes();
    JobState::Running {
        done_bytes,
        total_bytes,
    }
}

fn not_compacted(topic: &TopicName) -> Error {
    Error::PolicyViolation {
        topic: Some(topic.clone()),
        reason: format!(
            "topic {topic} is not compacted; to have it so: siltstone topic alter {topic} --config cleanup.policy=compact"
        ),
    }
}
