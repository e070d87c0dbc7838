//! Tests of the window: scenarios, and a property against a server that keeps Kafka's rules.

use proptest::prelude::*;

use super::*;

fn batch(number: u32) -> SealedBatch {
    SealedBatch {
        bytes: Bytes::from(number.to_be_bytes().to_vec()),
        records: 1,
        payload_bytes: 1,
        opened_at: Instant::now(),
        places: Vec::new(),
        fate: Arc::default(),
    }
}

fn number(batch: &SealedBatch) -> u32 {
    u32::from_be_bytes(batch.bytes[..].try_into().expect("four bytes"))
}

/// A window, its clock, and the requests sent in order.
struct Fixture {
    window: Window,
    now: Instant,
    next_request: u64,
}

impl Fixture {
    fn new(batches: u32) -> Self {
        let mut window = Window::default();
        for number in 0..batches {
            window.push(batch(number));
        }
        Self {
            window,
            now: Instant::now(),
            next_request: 0,
        }
    }

    /// A window whose first batch is acknowledged, so that it may have five under way.
    fn warm(batches: u32) -> Self {
        let mut fixture = Self::new(batches);
        let sent = fixture.send_all();
        fixture
            .window
            .acknowledge(sent[0].0, fixture.now)
            .expect("it was sent");
        fixture
    }

    fn send_all(&mut self) -> Vec<(RequestId, u32)> {
        let mut sent = Vec::new();
        while let Some(batch) = self.window.peek(self.now) {
            let number = number(batch);
            let request = RequestId(self.next_request);
            self.next_request += 1;
            self.window.mark_sent(request, self.now);
            sent.push((request, number));
        }
        sent
    }
}

fn numbers(sent: &[(RequestId, u32)]) -> Vec<u32> {
    sent.iter().map(|(_, number)| *number).collect()
}

#[test]
fn one_batch_goes_alone_until_the_partition_has_acknowledged_one_then_five() {
    let mut fixture = Fixture::new(10);
    let first = fixture.send_all();
    assert_eq!(numbers(&first), [0]);
    fixture
        .window
        .acknowledge(first[0].0, fixture.now)
        .expect("it was sent");
    assert_eq!(numbers(&fixture.send_all()), [1, 2, 3, 4, 5]);
}

#[test]
fn a_partition_long_silent_starts_with_one_batch_again() {
    let mut fixture = Fixture::warm(10);
    fixture.now += REMEMBERED_FOR;
    assert_eq!(numbers(&fixture.send_all()), [1]);
}

#[test]
fn a_settled_batch_keeps_its_place_so_that_the_server_still_remembers_those_before_it() {
    let mut fixture = Fixture::warm(10);
    let sent = fixture.send_all();
    for (request, _) in &sent[1..] {
        fixture
            .window
            .acknowledge(*request, fixture.now)
            .expect("it was sent");
    }
    assert_eq!(numbers(&fixture.send_all()), Vec::<u32>::new());
    fixture
        .window
        .acknowledge(sent[0].0, fixture.now)
        .expect("it was sent");
    assert_eq!(numbers(&fixture.send_all()), [6, 7, 8, 9]);
}

#[test]
fn after_a_refusal_all_answers_come_in_before_anything_is_sent_again_in_order() {
    let mut fixture = Fixture::warm(4);
    let sent = fixture.send_all();
    let delay = Duration::from_millis(100);
    assert_eq!(
        fixture
            .window
            .refuse(sent[0].0, Refused::Later(delay), fixture.now),
        Verdict::Retry
    );
    fixture.now += delay;
    assert_eq!(numbers(&fixture.send_all()), Vec::<u32>::new());
    assert_eq!(
        fixture.window.refuse(sent[1].0, Refused::OutOfOrder, fixture.now),
        Verdict::Retry
    );
    assert_eq!(
        fixture.window.refuse(sent[2].0, Refused::OutOfOrder, fixture.now),
        Verdict::Retry
    );
    assert_eq!(numbers(&fixture.send_all()), [1, 2, 3]);
}

#[test]
fn a_refused_window_waits_as_long_as_it_was_told() {
    let mut fixture = Fixture::new(1);
    let sent = fixture.send_all();
    let delay = Duration::from_millis(100);
    fixture
        .window
        .refuse(sent[0].0, Refused::Later(delay), fixture.now);
    assert_eq!(fixture.window.held_until(), Some(fixture.now + delay));
    assert_eq!(numbers(&fixture.send_all()), Vec::<u32>::new());
    fixture.now += delay;
    assert_eq!(numbers(&fixture.send_all()), [0]);
}

#[test]
fn an_out_of_order_batch_with_none_before_it_is_a_gap_that_no_retry_mends() {
    let mut fixture = Fixture::new(1);
    let sent = fixture.send_all();
    assert_eq!(
        fixture.window.refuse(sent[0].0, Refused::OutOfOrder, fixture.now),
        Verdict::Fatal
    );
}

#[test]
fn a_lost_connection_sends_everything_unsettled_again_in_order() {
    let mut fixture = Fixture::warm(6);
    let sent = fixture.send_all();
    fixture
        .window
        .acknowledge(sent[1].0, fixture.now)
        .expect("it was sent");
    fixture.window.connection_lost();
    assert_eq!(numbers(&fixture.send_all()), [1, 3, 4, 5]);
}

/// A server that keeps Kafka's rules of idempotence for one producer and partition.
#[derive(Default)]
struct Server {
    log: Vec<u32>,
}

impl Server {
    /// What the server makes of a batch.
    fn offer(&mut self, number: u32) -> Result<(), Refused> {
        let end = u32::try_from(self.log.len()).expect("a short log");
        // Without memory of the producer any sequence is taken.
        if number == end || self.log.is_empty() {
            self.log.push(number);
            return Ok(());
        }
        let remembered = end.saturating_sub(u32::try_from(REMEMBERED).expect("five"))..end;
        if remembered.contains(&number) {
            Ok(())
        } else {
            Err(Refused::OutOfOrder)
        }
    }
}

/// What befalls the next request under way.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    /// The server refuses before it looks.
    Refused,
    /// Written, but told that it was not in time.
    WrittenButRefused,
    /// The connection breaks; what is under way may have been written up to a point.
    Lost {
        written: usize,
    },
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Answered),
        1 => Just(Fate::Refused),
        1 => Just(Fate::WrittenButRefused),
        1 => (0..6_usize).prop_map(|written| Fate::Lost { written }),
    ]
}

proptest! {
    #[test]
    fn whatever_befalls_requests_the_log_holds_every_batch_once_and_in_order(
        count in 1..40_u32,
        fates in prop::collection::vec(fate(), 0..200),
    ) {
        let mut fixture = Fixture::new(count);
        let mut server = Server::default();
        let mut under_way: VecDeque<(RequestId, u32)> = VecDeque::new();
        let mut fates = fates.into_iter();
        let later = Refused::Later(Duration::from_millis(1));
        while fixture.window.waiting_since().is_some() {
            fixture.now += Duration::from_millis(2);
            under_way.extend(fixture.send_all());
            prop_assert!(under_way.len() <= REMEMBERED);
            let fate = fates.next().unwrap_or(Fate::Answered);
            if let Fate::Lost { written } = fate {
                for (_, number) in under_way.drain(..).take(written) {
                    let _ = server.offer(number);
                }
                fixture.window.connection_lost();
                continue;
            }
            let (request, number) = under_way.pop_front().expect("something is under way while records wait");
            let outcome = match fate {
                Fate::Refused => Err(later),
                Fate::WrittenButRefused => server.offer(number).and(Err(later)),
                Fate::Answered | Fate::Lost { .. } => server.offer(number),
            };
            match outcome {
                Ok(()) => {
                    prop_assert!(fixture.window.acknowledge(request, fixture.now).is_some());
                }
                Err(refused) => {
                    prop_assert_eq!(fixture.window.refuse(request, refused, fixture.now), Verdict::Retry);
                }
            }
        }
        prop_assert_eq!(server.log, (0..count).collect::<Vec<_>>());
    }
}
