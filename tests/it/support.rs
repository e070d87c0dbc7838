//! A server for one test: on free ports, in a directory of its own, gone with it.

use siltstone::config::{Config, Sources, load};
use siltstone::proto::v1;
use siltstone::proto::v1::admin_service_client::AdminServiceClient;
use siltstone::proto::v1::log_service_client::LogServiceClient;
use siltstone::server::Server;
use tempfile::TempDir;
use tonic::transport::Channel;

/// A running server and its directory.
pub(crate) struct TestServer {
    pub(crate) server: Server,
    pub(crate) dir: TempDir,
}

/// Settings of a server in `dir`, as flags would give them.
pub(crate) fn config(dir: &TempDir, more: &[(&str, &str)]) -> Config {
    let data_dir = dir.path().join("data").display().to_string();
    let own = [
        ("data_dir", data_dir.as_str()),
        ("grpc.listen", "127.0.0.1:0"),
        ("http.listen", "127.0.0.1:0"),
        // The machine's disk is not what is tested.
        ("storage.min_free_bytes", "0"),
    ];
    let flags = own
        .iter()
        .chain(more)
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    load(&Sources {
        flags,
        ..Sources::default()
    })
    .unwrap()
    .config
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(config(&dir, settings)).await.unwrap();
        Self { server, dir }
    }

    /// Stops it cleanly and starts another on the same data.
    pub(crate) async fn restart(self) -> Self {
        self.server.stop().await.unwrap();
        let server = Server::start(config(&self.dir, &[])).await.unwrap();
        Self {
            server,
            dir: self.dir,
        }
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = format!("http://{}", self.server.grpc_addr());
        Channel::from_shared(endpoint).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn log(&self) -> LogServiceClient<Channel> {
        LogServiceClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }

    pub(crate) async fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel().await)
    }

    /// Creates a topic whose writes need not wait for the disk.
    pub(crate) async fn topic(&self, name: &str, partitions: i32) {
        let request = v1::CreateTopicRequest {
            name: name.to_owned(),
            partitions: Some(partitions),
            config: [("durability".to_owned(), "written".to_owned())].into(),
            validate_only: false,
        };
        self.admin().await.create_topic(request).await.unwrap();
    }
}

/// A record with a key and a value.
pub(crate) fn record(key: &str, value: &str) -> v1::Record {
    v1::Record {
        key: Some(key.to_owned().into()),
        value: Some(value.to_owned().into()),
        timestamp_ms: Some(1_357_000_000_000),
        headers: vec![v1::Header {
            key: "from".to_owned(),
            value: None,
        }],
    }
}

/// Plain records for one partition.
pub(crate) fn records(topic: &str, partition: i32, values: &[&str]) -> v1::ProduceRequest {
    v1::ProduceRequest {
        topic: topic.to_owned(),
        partition: Some(partition),
        records: values.iter().map(|value| record("key", value)).collect(),
        ..Default::default()
    }
}

/// A read of everything from the earliest record to the end of now.
pub(crate) fn everything(topic: &str) -> v1::ReadRequest {
    v1::ReadRequest {
        topic: topic.to_owned(),
        ..Default::default()
    }
}

/// All responses of a read that ends.
pub(crate) async fn read_all(
    log: &mut LogServiceClient<Channel>,
    request: v1::ReadRequest,
) -> Vec<v1::ReadResponse> {
    let mut stream = log.read(request).await.unwrap().into_inner();
    let mut responses = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        responses.push(response);
    }
    responses
}

/// The values of all records, as text.
pub(crate) fn values(responses: &[v1::ReadResponse]) -> Vec<String> {
    responses
        .iter()
        .flat_map(|response| &response.records)
        .map(|record| String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap())
        .collect()
}
