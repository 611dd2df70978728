//! Ranks that read slowly, or call late: nobody's memory grows, and only what needs them waits.

use super::*;

/// A byte each 10 ms.
const CRAWL: Way = Way {
    pace: Pace::Steady {
        piece: 1,
        every: 10,
    },
    ..SOUND
};

/// The call of two ranks of a larger ring.
fn spec_of(call: &Call, rank: usize, ring: [u64; 2]) -> OperationSpec {
    OperationSpec {
        ring: ring.map(PeerId).to_vec(),
        ..call.spec(rank)
    }
}

#[tokio::test(start_paused = true)]
async fn a_rank_that_reads_a_byte_at_a_time_holds_up_its_own_operations_only() {
    let mut cluster = Cluster::unconnected(3);
    let slow = cluster.join(0, 0, [CRAWL, SOUND]);
    (1..3).for_each(|index| drop(cluster.join(index, 0, [SOUND; 2])));
    let large = Call::new(3, sum(1_000_000, DataType::F32), true);
    let large_id = operation(1, 0);
    (0..3).for_each(|rank| cluster.begin(rank, large_id, &large));
    for n in 0..20 {
        let (id, call) = (
            operation(2, n),
            Call::new(2, sum(100_000, DataType::I32), false),
        );
        let before = tokio::time::Instant::now();
        for (rank, place) in [(1, 0), (2, 1)] {
            let spec = spec_of(&call, place, [1, 2]);
            cluster.planes[rank].begin(id, spec).unwrap();
        }
        for rank in [1, 2] {
            while cluster.event(rank).await != (PlaneEvent::Finished { op: id }) {}
        }
        for (rank, place) in [(1, 0), (2, 1)] {
            cluster.planes[rank].end(id, Disposition::Keep).await;
            assert!(call.output(place) == call.expected());
        }
        assert!(before.elapsed() < Duration::from_millis(100));
    }
    // The sender's side of the slow lane holds a frame and what fits on the wire, no more.
    assert!(slow.written(0) <= 2 * EAGER_BYTES);
    assert!(cluster.planes.iter().all(|plane| plane.early_bytes() == 0));
    // Another lane takes what the slow one does not carry; what that holds goes again without it.
    cluster.join(0, 1, [SOUND; 2]);
    sleep(Duration::from_secs(1)).await;
    cluster.join(0, 0, [SOUND; 2]);
    cluster.all_finished(large_id).await;
    cluster.end(large_id, &large).await;
}

#[tokio::test(start_paused = true)]
async fn operations_over_a_slow_lane_come_to_their_end_and_small_ones_pass_large_ones() {
    let mut cluster = Cluster::unconnected(2);
    cluster.patience = Duration::from_secs(3_600);
    // With little room on the wire: a lane that has swallowed a frame whole takes the next as well.
    let narrow = Way {
        room: 1_000,
        ..CRAWL
    };
    cluster.join(0, 0, [narrow, SOUND]);
    cluster.join(0, 1, [SOUND; 2]);
    let large = Call::new(2, sum(10_000, DataType::U8), true);
    (0..2).for_each(|rank| cluster.begin(rank, operation(1, 0), &large));
    sleep(Duration::from_millis(10)).await;
    for n in 0..10 {
        let before = tokio::time::Instant::now();
        cluster
            .reduce(operation(2, n), sum(100, DataType::F64), n % 2 == 0)
            .await;
        assert!(before.elapsed() < Duration::from_millis(100));
    }
    cluster.all_finished(operation(1, 0)).await;
    cluster.end(operation(1, 0), &large).await;
    cluster.expect_no_lane_closed();
}

#[tokio::test(start_paused = true)]
async fn a_rank_that_does_not_call_for_an_hour_grants_nothing_and_grows_by_nothing() {
    let mut cluster = Cluster::unconnected(2);
    let wires = [0, 1].map(|lane| cluster.join(0, lane, [SOUND; 2]));
    let call = Call::new(2, sum(1_000_000, DataType::F32), true);
    let id = operation(1, 0);
    cluster.begin(0, id, &call);
    for minute in 0..60 {
        sleep(Duration::from_secs(60)).await;
        let written: usize = wires.iter().map(|wire| wire.written(0)).sum();
        // The eager amount, then signs of life alone: a question and an answer for each lane and
        // stall timeout.
        let signs_of_life = 60 * 2 * 2 * 40 * (minute + 2);
        assert!(written <= EAGER_BYTES + signs_of_life);
        assert!(cluster.planes[1].early_bytes() <= EAGER_BYTES);
    }
    assert!(cluster.planes[1].early_bytes() > EAGER_BYTES / 2);
    cluster.begin(1, id, &call);
    cluster.finished().await;
    cluster.end(id, &call).await;
    cluster.expect_no_lane_closed();
}

#[tokio::test(start_paused = true)]
async fn each_operation_that_waits_for_a_late_rank_may_be_early_by_the_eager_amount() {
    let mut cluster = Cluster::new(3, 2);
    let counts = [40_000, 70_000, 200_000, 400_000, 1_000_000, 3];
    let calls: Vec<_> = (counts.iter().zip(1..))
        .map(|(count, tag)| {
            let call = Call::new(3, sum(*count, DataType::F32), tag % 2 == 0);
            (operation(tag, 0), call)
        })
        .collect();
    for (id, call) in &calls {
        (0..2).for_each(|rank| cluster.begin(rank, *id, call));
    }
    sleep(Duration::from_secs(60)).await;
    assert!(cluster.planes[2].early_bytes() <= calls.len() * EAGER_BYTES);
    let among = Call::new(2, sum(50_000, DataType::F32), true);
    let among_id = operation(99, 0);
    for rank in 0..2 {
        let spec = spec_of(&among, rank, [0, 1]);
        cluster.planes[rank].begin(among_id, spec).unwrap();
    }
    cluster.planes[2].note_settled(among_id.tag, 0);
    for rank in 0..2 {
        while cluster.event(rank).await != (PlaneEvent::Finished { op: among_id }) {}
        cluster.planes[rank].end(among_id, Disposition::Keep).await;
    }
    for (id, call) in calls.iter().rev() {
        cluster.begin(2, *id, call);
        cluster.all_finished(*id).await;
        cluster.end(*id, call).await;
    }
    assert_eq!(cluster.planes[2].early_bytes(), 0);
    cluster.expect_no_lane_closed();
}
