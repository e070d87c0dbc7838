//! Group commit: what shares a sync, and who waits for it.

use parking_lot::{Condvar, Mutex};

use super::*;

/// Has syncs of logs wait until it is opened, and counts them. The thread of group commit waits in it, and nobody else.
#[derive(Default)]
struct Barrier {
    state: Mutex<BarrierState>,
    opened: Condvar,
}

#[derive(Default)]
struct BarrierState {
    open: bool,
    syncs: u64,
}

impl Barrier {
    fn on(fs: &SimFs) -> Arc<Self> {
        let barrier = Arc::new(Self::default());
        let here = Arc::clone(&barrier);
        fs.watch_syncs(move |site| {
            if site.0 == "log" {
                here.pass();
            }
        });
        barrier
    }

    fn pass(&self) {
        let mut state = self.state.lock();
        state.syncs += 1;
        while !state.open {
            let waited = self.opened.wait_for(&mut state, PATIENCE);
            assert!(!waited.timed_out(), "nobody opens it");
        }
    }

    fn open(&self) {
        self.state.lock().open = true;
        self.opened.notify_all();
    }

    fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// Waits until a sync has come to it.
    async fn reached(&self) {
        let reached = async {
            while self.syncs() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached)
            .await
            .expect("an append is synced");
    }
}

async fn begun(house: &House, topic: &TopicName, partition: i32, value: &str, acks: Acks) -> PendingAck {
    let records = to(topic, Some(partition), vec![record(value)]);
    let mut placed = house.broker.append_records(records, acks).await.expect("good");
    placed.remove(0).outcome.expect("appended")
}

#[tokio::test]
async fn what_waits_during_a_sync_shares_the_next_one_whatever_its_partition() {
    const PARTITIONS: i32 = 4;
    let house = start().await;
    let topic = house.create("t", PARTITIONS, &[]).await;
    for partition in 0..PARTITIONS {
        let first = house.append(&topic, partition, vec![record("opens it")]);
        first.await.expect("good");
    }
    let metrics = house.broker.metrics();
    let rounds = || (metrics.sync_rounds.get(), metrics.sync_partitions.get());
    let before = rounds();
    let barrier = Barrier::on(&house.fs);
    let first = begun(&house, &topic, 0, "under way", Acks::All).await;
    barrier.reached().await;
    let mut waiting = Vec::new();
    for number in 0..100 {
        let partition = number % PARTITIONS;
        waiting.push(begun(&house, &topic, partition, &format!("{number}"), Acks::All).await);
    }
    barrier.open();
    first.wait().await.expect("good");
    for pending in waiting {
        pending.wait().await.expect("good");
    }
    assert_eq!(barrier.syncs(), 1 + 4, "one for each log, not for each append");
    let after = rounds();
    assert_eq!((after.0 - before.0, after.1 - before.1), (2, 1 + 4));
}

#[tokio::test]
async fn acks_of_all_wait_for_the_sync_as_readers_do_and_acks_of_the_leader_for_the_append_alone() {
    let house = start().await;
    let topic = house.create("t", 1, &[]).await;
    house.append(&topic, 0, vec![record("safe")]).await.expect("good");
    let barrier = Barrier::on(&house.fs);
    let all = begun(&house, &topic, 0, "all", Acks::All).await;
    barrier.reached().await;
    let mut all = pin!(all.wait());
    for acks in [Acks::Leader, Acks::None] {
        let one = begun(&house, &topic, 0, "one", acks).await;
        let told = poll_once(pin!(one.wait())).await;
        assert!(matches!(told, Poll::Ready(Ok(_))), "{told:?}");
    }
    assert!(poll_once(all.as_mut()).await.is_pending());
    let seen = house.fetch(&topic, 0, 0).await.expect("in range");
    assert_eq!(texts(&seen), ["safe"], "nobody sees what a power cut could take");
    assert_eq!(seen.high_watermark, Offset(1));
    let ends = house.broker.describe_topic(&topic).expect("known");
    assert_eq!(ends.partitions[0].log_end, Offset(4));

    barrier.open();
    assert_eq!(all.await.expect("synced").base_offset, Offset(1));
    let seen = house.fetch(&topic, 0, 60_000).await.expect("in range");
    assert_eq!(texts(&seen)[..2], ["safe", "all"]);
}
