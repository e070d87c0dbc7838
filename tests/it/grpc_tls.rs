//! TLS and mutual TLS, with the keys of `fixtures/tls`.

use siltstone::proto::v1;
use siltstone::proto::v1::admin_service_client::AdminServiceClient;
use siltstone::server::Server;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::support::{TestServer, config};

fn file(name: &str) -> String {
    format!("{}/tests/it/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(file(name)).unwrap()
}

async fn call(server: &TestServer, tls: ClientTlsConfig) -> Result<(), String> {
    let endpoint = format!("https://localhost:{}", server.server.grpc_addr().port());
    let tls = tls.ca_certificate(Certificate::from_pem(bytes("ca.pem")));
    let endpoint = Channel::from_shared(endpoint).unwrap().tls_config(tls).unwrap();
    let channel = endpoint.connect().await.map_err(|error| format!("{error:?}"))?;
    let mut admin = AdminServiceClient::new(channel);
    let listed = admin.list_topics(v1::ListTopicsRequest::default()).await;
    listed.map(|_| ()).map_err(|status| format!("{status:?}"))
}

#[tokio::test]
async fn a_certificate_and_its_key_turn_tls_on_and_plain_text_off() {
    let (certificate, key) = (file("server.pem"), file("server.key"));
    let settings = [
        ("grpc.tls_certificate", certificate.as_str()),
        ("grpc.tls_key", &key),
    ];
    let server = TestServer::start_with(&settings).await;
    assert_eq!(call(&server, ClientTlsConfig::new()).await, Ok(()));
    let plain = Channel::from_shared(format!("http://{}", server.server.grpc_addr())).unwrap();
    let plain = AdminServiceClient::new(plain.connect_lazy())
        .list_topics(v1::ListTopicsRequest::default())
        .await;
    assert!(plain.is_err());
}

#[tokio::test]
async fn with_an_authority_for_clients_only_those_with_a_certificate_of_it_are_served() {
    let (certificate, key, authority) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let settings = [
        ("grpc.tls_certificate", certificate.as_str()),
        ("grpc.tls_key", &key),
        ("grpc.tls_client_ca", &authority),
    ];
    let server = TestServer::start_with(&settings).await;
    let identity = Identity::from_pem(bytes("client.pem"), bytes("client.key"));
    assert_eq!(
        call(&server, ClientTlsConfig::new().identity(identity)).await,
        Ok(())
    );
    assert!(call(&server, ClientTlsConfig::new()).await.is_err());
}

#[tokio::test]
async fn keys_that_do_not_go_together_name_their_files_and_leave_the_data_free() {
    let (certificate, key) = (file("server.pem"), file("client.key"));
    let settings = [
        ("grpc.tls_certificate", certificate.as_str()),
        ("grpc.tls_key", &key),
    ];
    let dir = tempfile::tempdir().unwrap();
    let error = Server::start(config(&dir, &settings))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("server.pem") && error.contains("client.key"),
        "{error}"
    );
    Server::start(config(&dir, &[]))
        .await
        .unwrap()
        .stop()
        .await
        .unwrap();
}
