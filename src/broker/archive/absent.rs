//! Of a build without the feature `tier`: no archive can be opened, so nothing of this is ever called.

use std::sync::Arc;

use crate::broker::core::Core;
use crate::broker::served::Served;
use crate::broker::{BrokerConfig, Error};
use crate::env::{FileCache, Fs};
use crate::storage::{AbortedTransaction, Found, Read, RestoreMark, Slice, Store};
use crate::telemetry::Metrics;
use crate::types::{Isolation, Offset, Timestamp};

use super::PartitionArchive;

/// There is none.
#[derive(Debug)]
pub(in crate::broker) enum Archive {}

impl Archive {
    pub(in crate::broker) fn open(
        config: &BrokerConfig,
        _fs: &Arc<dyn Fs>,
        _store_and_restored: (&Store, Option<&RestoreMark>),
        _metrics_and_now: (&Arc<Metrics>, Timestamp),
    ) -> Result<Option<Arc<Self>>, Error> {
        match &config.archive.url {
            None => Ok(None),
            Some(url) => Err(Error::ArchiveRefused {
                reason: format!(
                    "tier.url is {url:?}, and this build of siltstone was made without the feature `tier`"
                ),
            }),
        }
    }

    pub(in crate::broker) fn look(&self) {
        match *self {}
    }

    pub(in crate::broker) fn look_at_topics(&self) {
        match *self {}
    }

    /// Asked for without an address, it is refused by the configuration; with one, by [`open`](Self::open).
    pub(in crate::broker) fn restore_first(
        _config: &BrokerConfig,
        _files: &Arc<FileCache>,
        _now: Timestamp,
    ) -> Result<(), Error> {
        Ok(())
    }

    pub(in crate::broker) fn know(&self, _core: &Core, _restored: Option<&RestoreMark>) -> Result<(), Error> {
        match *self {}
    }

    pub(in crate::broker) fn lost(&self) -> std::future::Pending<String> {
        match *self {}
    }

    pub(in crate::broker) async fn read(
        &self,
        _served: &Served,
        _read: &Read,
        _isolation: Isolation,
    ) -> Result<(Slice, Vec<AbortedTransaction>), Error> {
        match *self {}
    }

    pub(in crate::broker) async fn find_time(
        &self,
        _served: &Served,
        _find: (Timestamp, std::ops::Range<Offset>),
        _max_decompressed_bytes: u32,
    ) -> Result<Option<Found>, Error> {
        match *self {}
    }

    pub(in crate::broker) async fn find_max_timestamp(
        &self,
        _served: &Served,
        _range: std::ops::Range<Offset>,
        _max_decompressed_bytes: u32,
    ) -> Result<Option<Found>, Error> {
        match *self {}
    }

    pub(in crate::broker) fn count_gauges(&self, _core: &Core) {
        match *self {}
    }

    pub(in crate::broker) fn status(&self, _served: &Served) -> Option<PartitionArchive> {
        match *self {}
    }

    pub(in crate::broker) async fn work(_core: Arc<Core>) {
        std::future::pending().await
    }

    pub(in crate::broker) async fn do_what_is_due(_core: &Arc<Core>) {}

    pub(in crate::broker) async fn finish(&self, _core: &Arc<Core>) {
        match *self {}
    }
}
