//! The stream of many requests, over appends that a test confirms by hand.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{FutureExt, future};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::*;

type Outcomes = Arc<Mutex<HashMap<String, oneshot::Sender<Result<v1::ProduceResponse, Error>>>>>;
type Requests = mpsc::Sender<Result<v1::ProduceStreamRequest, Status>>;

/// So many requests find room to wait ahead.
const ROOM: usize = MAX_AHEAD;

/// A stream whose appends wait in `confirm`, by topic; topics named `bad` are refused at once. Requests to a partition wait
/// until that is opened by hand.
struct Bench {
    requests: Option<Requests>,
    confirm: Outcomes,
    appended: Arc<Mutex<Vec<String>>>,
    opening: Arc<Mutex<HashMap<i32, oneshot::Sender<()>>>>,
    /// For requests that wait ahead.
    room: Arc<Semaphore>,
    stop: Option<oneshot::Sender<()>>,
    answers: Pin<Box<dyn Stream<Item = Answer> + Send>>,
}

impl Bench {
    fn new() -> Self {
        let (requests, input) = mpsc::channel(MAX_REQUESTS * 2);
        let (stop, stopping) = oneshot::channel();
        let (confirm, appended) = (Outcomes::default(), Arc::<Mutex<Vec<String>>>::default());
        let append = {
            let (confirm, appended) = (Arc::clone(&confirm), Arc::clone(&appended));
            move |request: v1::ProduceRequest| {
                if request.topic == "bad" {
                    return future::ready(Err(invalid("bad")));
                }
                appended.lock().push(request.topic.clone());
                let (sender, outcome) = oneshot::channel();
                confirm.lock().insert(request.topic, sender);
                future::ready(Ok(
                    async move { outcome.await.unwrap_or(Err(Error::ShuttingDown)) },
                ))
            }
        };
        let opening = Arc::<Mutex<HashMap<i32, oneshot::Sender<()>>>>::default();
        let open = {
            let opening = Arc::clone(&opening);
            move |request: &v1::ProduceRequest| {
                let (sender, opened) = oneshot::channel();
                opening.lock().insert(request.partition?, sender);
                Some(Box::pin(async move { drop(opened.await) }) as Opening)
            }
        };
        let stopping = async move { drop(stopping.await) };
        let room = Arc::new(Semaphore::new(ROOM));
        let reserve = {
            let room = Arc::clone(&room);
            move |_| {
                let share = Arc::clone(&room).try_acquire_owned();
                share.map_err(|_| invalid("no room"))
            }
        };
        let answers = answers(ReceiverStream::new(input), (open, reserve), append, stopping);
        Self {
            requests: Some(requests),
            confirm,
            appended,
            opening,
            room,
            stop: Some(stop),
            answers: Box::pin(answers),
        }
    }

    fn send(&self, id: u64, request: v1::ProduceRequest) {
        let message = v1::ProduceStreamRequest {
            id,
            request: Some(request),
        };
        self.requests.as_ref().unwrap().try_send(Ok(message)).unwrap();
    }

    fn confirm(&self, topic: &str) {
        let sender = self.confirm.lock().remove(topic).unwrap();
        sender.send(Ok(v1::ProduceResponse::default())).unwrap();
    }

    /// What the stream says without waiting: `None` when it has nothing to say yet.
    fn now(&mut self) -> Option<Option<Answer>> {
        self.answers.next().now_or_never()
    }

    fn answered_id(&mut self) -> u64 {
        self.now().unwrap().unwrap().unwrap().id
    }
}

fn to(topic: &str) -> v1::ProduceRequest {
    v1::ProduceRequest {
        topic: topic.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn answers_come_in_the_order_of_requests_whatever_is_confirmed_first() {
    let mut bench = Bench::new();
    bench.send(7, to("a"));
    bench.send(8, to("bad"));
    bench.send(9, to("c"));
    assert!(bench.now().is_none(), "nothing is confirmed yet");
    assert_eq!(*bench.appended.lock(), ["a", "c"], "all are under way at once");
    bench.confirm("c");
    assert!(bench.now().is_none(), "the oldest is not confirmed");
    bench.confirm("a");
    assert_eq!(bench.answered_id(), 7);
    let refused = bench.now().unwrap().unwrap().unwrap();
    assert_eq!(refused.id, 8);
    assert!(
        matches!(refused.outcome, Some(v1::produce_stream_response::Outcome::Error(error)) if error.reason == "INVALID_REQUEST")
    );
    assert_eq!(bench.answered_id(), 9);
}

#[tokio::test]
async fn partitions_are_opened_side_by_side_and_appends_stay_in_order() {
    let mut bench = Bench::new();
    let into = |partition| v1::ProduceRequest {
        partition: Some(partition),
        ..to(&format!("t{partition}"))
    };
    (0..3).for_each(|partition| bench.send(u64::try_from(partition).unwrap(), into(partition)));
    bench.send(3, to("open"));
    assert!(bench.now().is_none());
    assert_eq!(bench.opening.lock().len(), 3, "none waits for another");
    assert_eq!(*bench.appended.lock(), Vec::<String>::new());
    for (opened, appended) in [
        (1, vec![]),
        (0, vec!["t0", "t1"]),
        (2, vec!["t0", "t1", "t2", "open"]),
    ] {
        drop(bench.opening.lock().remove(&opened));
        assert!(bench.now().is_none());
        assert_eq!(*bench.appended.lock(), appended);
    }
    bench.requests = None;
    for topic in ["open", "t2", "t1", "t0"] {
        bench.confirm(topic);
    }
    assert_eq!([(); 4].map(|()| bench.answered_id()), [0, 1, 2, 3]);
    assert!(bench.now().unwrap().is_none());
}

#[tokio::test]
async fn what_waits_for_its_partition_holds_a_share_and_is_refused_in_its_turn_where_there_is_none() {
    let mut bench = Bench::new();
    let into = |partition| v1::ProduceRequest {
        partition: Some(partition),
        ..to(&format!("t{partition}"))
    };
    let others = Arc::clone(&bench.room).try_acquire_many_owned(u32::try_from(ROOM).unwrap() - 1);
    (0..3).for_each(|partition| bench.send(u64::try_from(partition).unwrap(), into(partition)));
    assert!(bench.now().is_none());
    assert_eq!(
        bench.room.available_permits(),
        0,
        "the first waits with the last share"
    );
    bench.opening.lock().clear();
    assert!(bench.now().is_none());
    assert_eq!(*bench.appended.lock(), ["t0"]);
    assert_eq!(bench.room.available_permits(), 1, "its append takes its own");
    bench.confirm("t0");
    assert_eq!(bench.answered_id(), 0);
    for id in [1, 2] {
        let refused = bench.now().unwrap().unwrap().unwrap();
        assert_eq!(refused.id, id);
        assert!(
            matches!(refused.outcome, Some(v1::produce_stream_response::Outcome::Error(error)) if error.message == "no room")
        );
    }
    drop(others);
}

#[tokio::test]
async fn no_more_is_read_while_many_wait_for_their_partitions() {
    let mut bench = Bench::new();
    for partition in 0..i32::try_from(2 * MAX_AHEAD).unwrap() {
        let request = v1::ProduceRequest {
            partition: Some(partition),
            ..to("t")
        };
        bench.send(0, request);
    }
    for _ in 0..10 {
        assert!(bench.now().is_none());
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.opening.lock().len(), MAX_AHEAD);
}

#[tokio::test]
async fn no_more_is_read_once_enough_is_under_way() {
    let mut bench = Bench::new();
    for id in 0..=MAX_REQUESTS {
        bench.send(u64::try_from(id).unwrap(), to(&id.to_string()));
    }
    // A turn may end before all is read, to let other tasks run.
    for _ in 0..100 {
        assert!(bench.now().is_none());
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.appended.lock().len(), MAX_REQUESTS);
    bench.confirm("0");
    assert_eq!(bench.answered_id(), 0);
    assert!(bench.now().is_none());
    assert_eq!(
        bench.appended.lock().len(),
        MAX_REQUESTS + 1,
        "an answer makes room"
    );
}

#[tokio::test]
async fn large_requests_fill_the_stream_by_their_bytes() {
    let mut bench = Bench::new();
    let large = bytes::Bytes::from(vec![0; MAX_BYTES / 2]);
    for (id, topic) in [(0, "a"), (1, "b"), (2, "c")] {
        bench.send(
            id,
            v1::ProduceRequest {
                batch: Some(large.clone()),
                ..to(topic)
            },
        );
    }
    assert!(bench.now().is_none());
    assert_eq!(*bench.appended.lock(), ["a", "b"]);
}

#[tokio::test]
async fn a_client_that_wants_no_acknowledgement_hears_of_errors_alone() {
    let mut bench = Bench::new();
    let quiet = |topic| v1::ProduceRequest {
        acks: i32::from(v1::Acks::None),
        ..to(topic)
    };
    bench.send(1, quiet("a"));
    bench.send(2, quiet("bad"));
    assert!(bench.now().is_none());
    bench.confirm("a");
    assert_eq!(bench.answered_id(), 2, "the first went well and is not spoken of");
    assert!(bench.now().is_none());
}

#[tokio::test]
async fn when_the_client_has_closed_its_side_the_rest_is_answered_and_the_stream_ends() {
    let mut bench = Bench::new();
    bench.send(1, to("a"));
    bench.requests = None;
    assert!(bench.now().is_none());
    bench.confirm("a");
    assert_eq!(bench.answered_id(), 1);
    assert!(bench.now().unwrap().is_none());
}

#[tokio::test]
async fn a_stopping_server_answers_what_it_took_takes_no_more_and_says_why() {
    let mut bench = Bench::new();
    bench.send(1, to("a"));
    assert!(bench.now().is_none());
    bench.stop = None;
    assert!(bench.now().is_none());
    bench.send(2, to("b"));
    bench.confirm("a");
    assert_eq!(bench.answered_id(), 1);
    let end = bench.now().unwrap().unwrap().unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
    assert!(bench.now().unwrap().is_none());
    assert_eq!(*bench.appended.lock(), ["a"]);
}

#[tokio::test]
async fn a_broken_request_stream_ends_with_its_own_status_after_what_came_before() {
    let mut bench = Bench::new();
    bench.send(1, to("a"));
    let broken = Err(Status::out_of_range("too large"));
    bench.requests.as_ref().unwrap().try_send(broken).unwrap();
    assert!(bench.now().is_none());
    bench.confirm("a");
    assert_eq!(bench.answered_id(), 1);
    assert_eq!(
        bench.now().unwrap().unwrap().unwrap_err().code(),
        Code::OutOfRange
    );
    assert!(bench.now().unwrap().is_none());
}

#[tokio::test]
async fn a_message_without_a_request_is_answered_as_wrong() {
    let mut bench = Bench::new();
    let empty = v1::ProduceStreamRequest { id: 5, request: None };
    bench.requests.as_ref().unwrap().try_send(Ok(empty)).unwrap();
    assert_eq!(bench.answered_id(), 5);
    assert!(bench.now().is_none(), "the stream goes on");
}
