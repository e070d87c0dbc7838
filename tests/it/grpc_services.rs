//! What every gRPC server is asked by tools that know nothing of this one: health and reflection, over a real connection.

use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::TestServer;

const SERVICES: [&str; 2] = ["siltstone.v1.LogService", "siltstone.v1.AdminService"];

#[tokio::test]
async fn health_is_told_of_the_server_and_of_each_service_and_of_no_other() {
    let server = TestServer::start().await;
    let mut health = HealthClient::new(server.channel().await);
    for service in ["", SERVICES[0], SERVICES[1]] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let told = health.check(request).await.unwrap().into_inner();
        assert_eq!(told.status(), ServingStatus::Serving, "{service}");
    }
    let stranger = HealthCheckRequest {
        service: "siltstone.v1.TableService".to_owned(),
    };
    assert_eq!(health.check(stranger).await.unwrap_err().code(), Code::NotFound);
}

async fn asked(server: &TestServer, question: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let mut client = ServerReflectionClient::new(server.channel().await);
    let answers = client.server_reflection_info(tokio_stream::iter([request])).await;
    let answer = answers.unwrap().into_inner().next().await.unwrap().unwrap();
    answer.message_response.unwrap()
}

#[tokio::test]
async fn reflection_lists_the_services_and_describes_their_messages() {
    let server = TestServer::start().await;
    let listed = match asked(&server, MessageRequest::ListServices(String::new())).await {
        MessageResponse::ListServicesResponse(listed) => listed.service,
        other => panic!("{other:?}"),
    };
    for service in SERVICES {
        assert!(listed.iter().any(|listed| listed.name == service), "{listed:?}");
    }
    let symbol = MessageRequest::FileContainingSymbol("siltstone.v1.ProduceRequest".to_owned());
    let described = match asked(&server, symbol).await {
        MessageResponse::FileDescriptorResponse(files) => files.file_descriptor_proto,
        other => panic!("{other:?}"),
    };
    let holds = |file: &Vec<u8>, text: &[u8]| file.windows(text.len()).any(|window| window == text);
    assert!(described.iter().any(|file| holds(file, b"record_indexes")));
}
