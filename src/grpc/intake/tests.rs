//! The intake over bodies made by hand: what passes, what is refused, and what is held meanwhile.

use std::collections::VecDeque;
use std::future::poll_fn;

use hyper::body::Body as _;
use prost::Message;
use tonic::Code;

use super::*;
use crate::proto::v1;

/// A body that yields the pieces it is given, and ends or waits.
struct Given {
    pieces: VecDeque<Bytes>,
    side: Side,
}

impl hyper::body::Body for Given {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match (self.pieces.pop_front(), self.side) {
            (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            (None, Side::Closed) => Poll::Ready(None),
            (None, Side::Open) => Poll::Pending,
        }
    }
}

fn intake(max_buffered_bytes: usize) -> Arc<Intake> {
    Arc::new(Intake {
        shapes: Shapes::of_services(),
        max_buffered_bytes,
        buffered_bytes: AtomicUsize::new(0),
        metrics: Arc::default(),
    })
}

fn refusals(intake: &Intake, reason: Refusal) -> u64 {
    let labels = RefusalLabels { reason };
    intake.metrics.refused.get_or_create(&labels).get()
}

fn incoming(intake: &Arc<Intake>, method: &str, pieces: Vec<Bytes>, side: Side) -> Incoming {
    let path = format!("/siltstone.v1.LogService/{method}");
    let (shape, sends) = intake.shapes.find(&path).unwrap();
    Incoming {
        body: Body::new(Given {
            pieces: pieces.into(),
            side,
        }),
        shape,
        sends,
        limit: Limit {
            bytes: 16 * MIB,
            name: "the limit of this test",
        },
        share: Share {
            intake: Arc::clone(intake),
            bytes: 0,
        },
        gathered: Pieces::default(),
        whole: VecDeque::new(),
        side: Side::Open,
    }
}

fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let len = u32::try_from(bytes.len()).unwrap();
    [&[0], &len.to_be_bytes()[..], &bytes].concat()
}

fn produce(records: usize) -> v1::ProduceRequest {
    v1::ProduceRequest {
        topic: "flights".to_owned(),
        records: vec![v1::Record::default(); records],
        ..Default::default()
    }
}

fn pieces(bytes: &[u8], len: usize) -> Vec<Bytes> {
    bytes.chunks(len).map(Bytes::copy_from_slice).collect()
}

/// What the decoder is given until the body ends, waits (`None`) or is refused.
async fn drain(incoming: &mut Incoming) -> (Vec<u8>, Option<Result<(), Status>>) {
    let mut seen = Vec::new();
    loop {
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut *incoming).poll_frame(cx))).await;
        match polled {
            Poll::Pending => return (seen, None),
            Poll::Ready(None) => return (seen, Some(Ok(()))),
            Poll::Ready(Some(Err(refused))) => return (seen, Some(Err(refused))),
            Poll::Ready(Some(Ok(frame))) => seen.extend_from_slice(&frame.into_data().unwrap()),
        }
    }
}

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_request_of_too_many_empty_records_is_refused_before_the_first_is_decoded() {
    let intake = intake(256 * MIB);
    for (method, sent) in [
        ("Produce", framed(&produce(MAX_PARTS + 1))),
        (
            "ProduceStream",
            framed(&v1::ProduceStreamRequest {
                id: 1,
                request: Some(produce(MAX_PARTS)),
            }),
        ),
        (
            "Fetch",
            framed(&v1::FetchRequest {
                partitions: vec![v1::FetchPartition::default(); MAX_PARTS + 1],
                ..Default::default()
            }),
        ),
    ] {
        let mut body = incoming(&intake, method, pieces(&sent, MIB), Side::Closed);
        let (seen, ended) = drain(&mut body).await;
        let refused = ended.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{method}");
        assert!(refused.message().contains("send it as several"), "{refused:?}");
        assert!(seen.is_empty(), "{method}: the decoder was given something");
    }
    assert_eq!(refusals(&intake, Refusal::InvalidArgument), 3);
    let sent = framed(&produce(MAX_PARTS));
    let mut body = incoming(&intake, "Produce", pieces(&sent, MIB), Side::Closed);
    assert_eq!(drain(&mut body).await.0, sent, "as many as allowed pass");
}

#[tokio::test]
async fn a_call_with_one_request_is_decoded_only_when_its_client_has_closed_its_side() {
    let intake = intake(MIB);
    let sent = framed(&produce(3));
    let mut open = incoming(&intake, "Produce", pieces(&sent, 4), Side::Open);
    let (seen, ended) = drain(&mut open).await;
    assert!(seen.is_empty() && ended.is_none(), "{seen:?}");
    assert!(intake.buffered_bytes.load(Ordering::Relaxed) >= sent.len());
    drop(open);
    assert_eq!(intake.buffered_bytes.load(Ordering::Relaxed), 0, "given back");
}

#[tokio::test]
async fn a_stream_passes_each_message_when_it_is_whole_and_gives_its_bytes_back() {
    let intake = intake(MIB);
    let message = |id| {
        framed(&v1::ProduceStreamRequest {
            id,
            request: Some(produce(3)),
        })
    };
    let (first, second) = (message(1), message(2));
    let both = [first.clone(), second.clone()].concat();
    let mut whole = incoming(&intake, "ProduceStream", pieces(&both, 7), Side::Open);
    let (seen, ended) = drain(&mut whole).await;
    assert!(ended.is_none());
    assert_eq!(seen, both);
    assert_eq!(intake.buffered_bytes.load(Ordering::Relaxed), 0);
    let cut = both[..both.len() - 1].to_vec();
    let mut open = incoming(&intake, "ProduceStream", pieces(&cut, cut.len()), Side::Open);
    assert_eq!(drain(&mut open).await.0, first, "half a message does not pass");
}

#[tokio::test]
async fn frames_that_never_end_where_a_message_ends_are_charged_for_what_is_left_of_them_alone() {
    let intake = intake(MIB);
    let message = framed(&v1::ProduceStreamRequest { id: 1, request: None });
    let stream = message.repeat(9_000);
    // The first frame ends one byte into the second message, and so on.
    let (first, rest) = stream.split_at(message.len() + 1);
    let frames = std::iter::once(first).chain(rest.chunks(message.len()));
    let frames = frames.map(Bytes::copy_from_slice).collect();
    let mut one = incoming(&intake, "ProduceStream", frames, Side::Open);
    let mut other = incoming(&intake, "Produce", pieces(&[0], 1), Side::Open);
    drain(&mut other).await;
    let (seen, ended) = drain(&mut one).await;
    assert!(ended.is_none(), "{ended:?}");
    assert_eq!(seen, stream);
    drop((one, other));
    assert_eq!(intake.buffered_bytes.load(Ordering::Relaxed), 0);

    let frame = [message.clone(), vec![0; 3]].concat();
    let large = Bytes::from([frame.clone(), frame].concat());
    let (cut, whole) = (large.slice(..message.len() + 3), large.as_ptr_range());
    let mut open = incoming(&intake, "ProduceStream", vec![cut], Side::Open);
    drain(&mut open).await;
    assert_eq!(
        intake.buffered_bytes.load(Ordering::Relaxed),
        3 + PIECE_OVERHEAD_BYTES
    );
    assert!(
        !whole.contains(&open.gathered.pieces[0].as_ptr()),
        "three bytes do not keep the frame they came in"
    );
}

#[tokio::test]
async fn a_frame_of_several_messages_passes_when_each_is_within_the_limit() {
    let intake = intake(16 * MIB);
    let message = |len| {
        framed(&v1::ProduceStreamRequest {
            id: 1,
            request: Some(v1::ProduceRequest {
                batch: Some(vec![7; len].into()),
                ..produce(0)
            }),
        })
    };
    let small = Limit {
        bytes: 64 << 10,
        name: "the limit of this test",
    };
    let three = message(60 << 10).repeat(3);
    let mut open = incoming(&intake, "ProduceStream", vec![three.clone().into()], Side::Open);
    open.limit = small;
    let (seen, ended) = drain(&mut open).await;
    assert!(ended.is_none(), "{ended:?}");
    assert_eq!(seen, three);
    let one_too_long = [message(1), message(64 << 10)].concat();
    let mut open = incoming(&intake, "ProduceStream", vec![one_too_long.into()], Side::Open);
    open.limit = small;
    let refused = drain(&mut open).await.1.unwrap().unwrap_err();
    assert!(refused.message().contains("more than 65536 bytes"), "{refused:?}");
}

#[tokio::test]
async fn beyond_the_budget_of_all_clients_a_request_is_refused_with_a_hint_to_retry() {
    use tonic_types::StatusExt;
    let intake = intake(MIB);
    let long = v1::ProduceRequest {
        batch: Some(vec![7; 2 * MIB].into()),
        ..produce(0)
    };
    let sent = pieces(&framed(&long), 64 << 10);
    let mut alone = incoming(&intake, "Produce", sent.clone(), Side::Open);
    assert!(drain(&mut alone).await.1.is_none(), "one alone is let in");
    let mut beside = incoming(&intake, "Produce", sent.clone(), Side::Closed);
    let refused = drain(&mut beside).await.1.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.get_details_retry_info().is_some());
    assert_eq!(refusals(&intake, Refusal::Overloaded), 1);
    drop((alone, beside));
    let mut later = incoming(&intake, "Produce", sent, Side::Closed);
    assert!(drain(&mut later).await.1.unwrap().is_ok());
}

#[tokio::test]
async fn many_tiny_frames_are_charged_for_what_they_cost() {
    let intake = intake(64 << 10);
    let sent = pieces(&framed(&produce(2000)), 1);
    let mut other = incoming(&intake, "Produce", pieces(&[0], 1), Side::Open);
    drain(&mut other).await;
    let mut tiny = incoming(&intake, "Produce", sent, Side::Closed);
    let refused = drain(&mut tiny).await.1.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[test]
fn a_decoded_request_takes_no_more_than_the_stated_bytes_for_each_part() {
    for size in [
        size_of::<v1::Record>(),
        size_of::<v1::Header>(),
        size_of::<v1::FetchPartition>(),
        size_of::<v1::ReadPartition>(),
        size_of::<v1::PartitionOffset>(),
        size_of::<v1::DeleteBefore>(),
    ] {
        assert!(size <= 104, "{size}");
    }
}
