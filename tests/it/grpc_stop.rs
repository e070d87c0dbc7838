//! Stopping with calls open: what is under way is finished, what waits is told, and the port is free.

use futures_util::stream;
use siltstone::proto::v1;
use siltstone::server::Server;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::support::{TestServer, config, everything, records};

#[tokio::test]
async fn followers_long_polls_and_open_streams_do_not_hold_a_stop_and_learn_the_reason() {
    // A deadline that no test outlives: the stop must not need it.
    let server = TestServer::start_with(&[("shutdown_timeout_ms", "600000")]).await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    let follow = v1::ReadRequest {
        end: Some(v1::ReadEnd {
            at: Some(v1::read_end::At::Follow(true)),
        }),
        ..everything("flights")
    };
    let mut follower = log.read(follow).await.unwrap().into_inner();
    let first = v1::ProduceStreamRequest {
        id: 1,
        request: Some(records("flights", 0, &["x"])),
    };
    let open = stream::iter([first]).chain(tokio_stream::pending());
    let mut answers = log.produce_stream(open).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().id, 1);
    let mut polling = server.log().await;
    let poll = tokio::spawn(async move {
        let partition = v1::FetchPartition {
            topic: "flights".to_owned(),
            offset: 1,
            ..Default::default()
        };
        let request = v1::FetchRequest {
            partitions: vec![partition],
            max_wait_ms: 60_000,
            min_bytes: 1,
            ..Default::default()
        };
        polling.fetch(request).await
    });
    let mut health = HealthClient::new(server.channel().await);
    let mut watch = health
        .watch(HealthCheckRequest {
            service: String::new(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status,
        i32::from(ServingStatus::Serving)
    );
    server.server.stop().await.unwrap();
    let reason = |status: tonic::Status| {
        assert_eq!(status.code(), Code::Unavailable);
        status.get_details_error_info().map(|info| info.reason)
    };
    loop {
        match follower.message().await {
            Ok(response) => assert!(response.is_some_and(|response| !response.complete)),
            Err(status) => break assert_eq!(reason(status).as_deref(), Some("SHUTTING_DOWN")),
        }
    }
    assert_eq!(
        reason(answers.message().await.unwrap_err()).as_deref(),
        Some("SHUTTING_DOWN")
    );
    // The poll either was under way, and is told, or had not come in, and finds nobody.
    assert_eq!(poll.await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert_eq!(
        watch.message().await.unwrap().unwrap().status,
        i32::from(ServingStatus::NotServing)
    );
    assert!(watch.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_bounded_read_under_way_is_finished_by_a_stop() {
    // A deadline that no test outlives: the read ends by itself.
    let server = TestServer::start_with(&[("shutdown_timeout_ms", "600000")]).await;
    server.topic("flights", 1).await;
    let mut log = server.log().await;
    for _ in 0..40 {
        log.produce(records("flights", 0, &[&"x".repeat(500_000)]))
            .await
            .unwrap();
    }
    let mut read = log.read(everything("flights")).await.unwrap().into_inner();
    let first = read.message().await.unwrap().unwrap();
    let mut seen = first.records.len();
    let stopping = tokio::spawn(server.server.stop());
    // Refused: by then the server has begun to stop.
    while log
        .list_offsets(v1::ListOffsetsRequest::default())
        .await
        .unwrap_err()
        .code()
        == Code::InvalidArgument
    {}
    loop {
        let response = read.message().await.unwrap().unwrap();
        seen += response.records.len();
        if response.complete {
            break;
        }
    }
    assert_eq!(seen, 40);
    drop((read, log));
    stopping.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stopped_server_leaves_its_port_and_its_data_to_the_next() {
    // An address of its own, which no other test or connection is given while nobody has the port.
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let host = std::net::Ipv4Addr::new(127, a | 0x80, b, c);
    let server = TestServer::start_with(&[("grpc.listen", &format!("{host}:0"))]).await;
    let address = server.server.grpc_addr();
    let dir = server.dir;
    server.server.stop().await.unwrap();
    // A child that another test just starts has the socket, too, until it is another program.
    let refused = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let minute = std::time::Duration::from_secs(60);
    tokio::time::timeout(minute, refused)
        .await
        .expect("nobody listens");
    let next = Server::start(config(&dir, &[("grpc.listen", &address.to_string())]))
        .await
        .unwrap();
    assert_eq!(next.grpc_addr(), address);
    next.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_told_so() {
    let server = TestServer::start().await;
    let error = Server::start(config(&server.dir, &[]))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("in use"), "{error}");
    server.server.stop().await.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_those_within_go_on() {
    let server = TestServer::start_with(&[("grpc.max_connections", "1")]).await;
    let mut within = server.admin().await;
    within
        .list_topics(v1::ListTopicsRequest::default())
        .await
        .unwrap();
    let endpoint = format!("http://{}", server.server.grpc_addr());
    let beyond = tonic::transport::Channel::from_shared(endpoint)
        .unwrap()
        .connect_lazy();
    let mut beyond = siltstone::proto::v1::admin_service_client::AdminServiceClient::new(beyond);
    let refused = beyond
        .list_topics(v1::ListTopicsRequest::default())
        .await
        .unwrap_err();
    assert!(
        matches!(
            refused.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled
        ),
        "{refused:?}"
    );
    within
        .list_topics(v1::ListTopicsRequest::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_client_that_never_reads_leaves_no_task_behind_when_the_deadline_has_come() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let server = TestServer::start_with(&[("shutdown_timeout_ms", "0")]).await;
    // The client lives in a runtime of its own: what is counted here is the server's alone.
    let elsewhere = tokio::runtime::Runtime::new().unwrap();
    let server = std::sync::Arc::new(server);
    let serving = std::sync::Arc::clone(&server);
    let stuck = elsewhere.spawn(async move {
        serving.topic("flights", 1).await;
        let mut log = serving.log().await;
        for _ in 0..10 {
            log.produce(records("flights", 0, &[&"x".repeat(500_000)]))
                .await
                .unwrap();
        }
        let mut stream = log.read(everything("flights")).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        (log, stream)
    });
    let (log, stream) = stuck.await.unwrap();
    let TestServer { server, dir } = std::sync::Arc::into_inner(server).unwrap();
    server.stop().await.unwrap();
    assert_eq!(tasks(), before);
    Server::start(config(&dir, &[]))
        .await
        .unwrap()
        .stop()
        .await
        .unwrap();
    drop((log, stream));
    elsewhere.shutdown_background();
}

/// Time is virtual: it goes on to the next deadline whenever everybody waits, the kernel aside.
#[tokio::test(start_paused = true)]
async fn a_client_that_never_says_what_it_speaks_gives_its_place_to_another() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = TestServer::start_with(&[("grpc.max_connections", "1")]).await;
    let begun = tokio::time::Instant::now();
    let mut silent = tokio::net::TcpStream::connect(server.server.grpc_addr())
        .await
        .unwrap();
    silent.write_all(b"PRI * HTTP/2").await.unwrap();
    let _ = silent.read_to_end(&mut Vec::new()).await;
    // Time may also have gone on while the kernel was about to pass the connection on.
    assert!(begun.elapsed().as_secs() >= 10, "{:?}", begun.elapsed());
    let mut admin = server.admin().await;
    admin.list_topics(v1::ListTopicsRequest::default()).await.unwrap();
}
