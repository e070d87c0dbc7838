//! The server under measurement: our own in a temporary directory, or one that runs already.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::error::IoContext;
use super::{BenchError, Options};
use crate::client::Client;
use crate::config::Config;
use crate::server::Server;

/// A server, a connection to it, and a directory for files of the limits.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) client: Client,
    pub(super) own: Option<Server>,
    dir: TempDir,
    topics: AtomicU32,
}

impl Target {
    pub(super) async fn start(options: &Options) -> Result<Self, BenchError> {
        let dir = temp_dir(options)?;
        let (client, own) = match &options.server {
            Some(client) => (client.clone(), None),
            None => {
                let server = Server::start(config(&dir.path().join("data"))).await?;
                let client = Client::connect(&server.grpc_addr().to_string()).await?;
                (client, Some(server))
            }
        };
        Ok(Self {
            client,
            own,
            dir,
            topics: AtomicU32::new(0),
        })
    }

    /// Returns where files of the limits may lie: beside the data of an own server.
    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Creates a topic under a name of its own.
    pub(super) async fn create_topic(&self, partitions: i32, durability: &str) -> Result<String, BenchError> {
        let name = self.topic_name();
        let config = BTreeMap::from([("durability".to_owned(), durability.to_owned())]);
        self.client.create_topic(&name, Some(partitions), &config).await?;
        Ok(name)
    }

    /// Returns a name that no other topic has.
    pub(super) fn topic_name(&self) -> String {
        let number = self.topics.fetch_add(1, Ordering::Relaxed);
        format!("siltstone-bench-{}-{number}", std::process::id())
    }

    /// Stops an own server; what it stored goes with its directory.
    pub(super) async fn stop(self) -> Result<(), BenchError> {
        drop(self.client);
        match self.own {
            Some(server) => Ok(server.stop().await?),
            None => Ok(()),
        }
    }
}

/// Returns the configuration of a server of ours: defaults, `data`, free ports of the loopback.
pub(super) fn config(data: &Path) -> Config {
    let mut config = Config::default();
    config.broker.data_dir = data.to_path_buf();
    config.grpc.listen = "127.0.0.1:0".to_owned();
    config.http.listen = "127.0.0.1:0".to_owned();
    config
}

pub(super) fn temp_dir(options: &Options) -> Result<TempDir, BenchError> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    tempfile::Builder::new()
        .prefix("siltstone-bench-")
        .tempdir_in(&parent)
        .context("create a directory in", parent)
}
