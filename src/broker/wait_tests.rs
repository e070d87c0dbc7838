//! Tests of `wait`.

use std::pin::pin;

use proptest::prelude::*;

use super::*;
use crate::broker::tests::poll_once;

#[derive(Debug, Default)]
struct Place(Waiters);

impl Watched for Place {
    fn waiters(&self) -> &Waiters {
        &self.0
    }
}

fn places(count: usize) -> Vec<Arc<Place>> {
    (0..count).map(|_| Arc::default()).collect()
}

fn at(places: &[Arc<Place>], has: i64) -> Vec<(Arc<Place>, Offset)> {
    places
        .iter()
        .map(|place| (Arc::clone(place), Offset(has)))
        .collect()
}

#[tokio::test]
async fn a_waiter_wakes_when_any_of_its_partitions_passes_what_it_has() {
    let places = places(3);
    let set = WaitSet::new(10);
    let wait = set.register(at(&places, 5)).expect("below the limit");
    let mut rung = pin!(wait.rung());
    assert!(poll_once(rung.as_mut()).await.is_pending());
    places[1].0.ring(Offset(5));
    assert!(poll_once(rung.as_mut()).await.is_pending(), "5 is not past 5");
    places[2].0.ring(Offset(6));
    assert!(poll_once(rung.as_mut()).await.is_ready());
}

#[tokio::test]
async fn a_bell_that_rings_before_the_sleep_is_not_lost() {
    let places = places(1);
    let wait = WaitSet::new(10)
        .register(at(&places, 0))
        .expect("below the limit");
    places[0].0.ring(Offset(1));
    wait.rung().await;
    assert!(
        poll_once(pin!(wait.rung())).await.is_pending(),
        "one bell wakes once"
    );
}

#[tokio::test]
async fn everybody_wakes_when_the_partition_goes() {
    let places = places(1);
    let wait = WaitSet::new(10)
        .register(at(&places, i64::MAX))
        .expect("below the limit");
    places[0].0.ring_all();
    wait.rung().await;
}

#[test]
fn at_the_limit_a_wait_is_refused_and_leaves_nothing_behind() {
    let places = places(3);
    let set = WaitSet::new(4);
    let held = set.register(at(&places, 0)).expect("3 of 4");
    let error = set.register(at(&places, 0)).expect_err("6 of 4");
    assert_eq!(
        error.to_string(),
        "waiting readers limit of 4 is reached; retry with less at once"
    );
    assert_eq!(set.registrations(), 3);
    drop(held);
    assert_eq!(set.registrations(), 0);
    assert!(places.iter().all(|place| place.0.list.lock().is_empty()));
    assert!(
        places
            .iter()
            .all(|place| place.0.count.load(Ordering::SeqCst) == 0)
    );
}

#[derive(Clone, Debug)]
enum Step {
    Register { places: Vec<usize>, has: i64 },
    Drop { wait: usize },
    Ring { place: usize, high_watermark: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    let register = (prop::collection::vec(0..4_usize, 0..4), 0..20_i64);
    prop_oneof![
        register.prop_map(|(places, has)| Step::Register { places, has }),
        (0..8_usize).prop_map(|wait| Step::Drop { wait }),
        (0..4_usize, 0..20_i64).prop_map(|(place, high_watermark)| Step::Ring {
            place,
            high_watermark
        }),
    ]
}

proptest! {
    /// The model: a wait is woken exactly when one of its places was rung past what it has since it was last asked.
    #[test]
    fn waits_wake_as_the_model_says(steps in prop::collection::vec(step(), 0..60)) {
        let places = places(4);
        let set = WaitSet::new(1000);
        let mut waits: Vec<(Wait<Place>, Vec<usize>, i64, bool)> = Vec::new();
        for step in steps {
            match step {
                Step::Register { places: chosen, has } => {
                    let each = chosen.iter().map(|place| (Arc::clone(&places[*place]), Offset(has)));
                    waits.push((set.register(each).expect("below the limit"), chosen, has, false));
                }
                Step::Drop { wait } if wait < waits.len() => drop(waits.swap_remove(wait)),
                Step::Drop { .. } => {}
                Step::Ring { place, high_watermark } => {
                    places[place].0.ring(Offset(high_watermark));
                    for (_, chosen, has, rung) in &mut waits {
                        *rung |= chosen.contains(&place) && high_watermark > *has;
                    }
                }
            }
            let registered: usize = waits.iter().map(|(_, chosen, _, _)| chosen.len()).sum();
            prop_assert_eq!(set.registrations(), registered);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for (wait, _, _, expected) in &waits {
            let woken = runtime.block_on(async { poll_once(pin!(wait.rung())).await.is_ready() });
            prop_assert_eq!(woken, *expected);
        }
    }
}
