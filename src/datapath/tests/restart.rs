//! Operations that are aborted and start again with the same memory, while lanes still write for
//! the old ones. Time is virtual.

use super::*;

/// Ends an operation at a rank and starts it again under another number.
async fn restart(cluster: &Cluster, rank: usize, call: &Call, old: OperationId, new: OperationId) {
    let plane = &cluster.planes[rank];
    plane.end(old, Disposition::RollBack).await;
    assert!(call.memory[rank].bytes() == call.inputs[rank]);
    plane.open_epoch(new.epoch);
    cluster.begin(rank, new, call);
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_starts_again_and_again_ends_with_the_right_bits() {
    for seed in 0..120 {
        let random = &mut Random::new(seed);
        let world_size = 2 + random.below(3);
        let mut cluster = Cluster::unconnected(world_size);
        cluster.patience = Duration::from_secs(10_000);
        for index in 0..cluster.links() {
            for lane in 0..1 + random.below(2) as u16 {
                let mut way = || Way::random(random.below(1 << 30) as u64, 20_000, 5);
                cluster.join(index, lane, [way(), way()]);
            }
        }
        let count = [5, 9_000, 60_000, 250_000][random.below(4)];
        let in_place = random.below(3) > 0;
        let call = Call::new(world_size, sum(count, DataType::F32), in_place);
        let mut id = operation(1, 0);
        (0..world_size).for_each(|rank| cluster.begin(rank, id, &call));
        for _ in 0..1 + random.below(5) {
            let old = id;
            if random.below(2) == 0 {
                id.n += 1;
            } else {
                (id.epoch.count, id.n) = (id.epoch.count + 1, 0);
            }
            let first = random.below(world_size);
            for rank in 0..world_size {
                sleep(Duration::from_millis(random.below(60) as u64)).await;
                restart(&cluster, (first + rank) % world_size, &call, old, id).await;
            }
        }
        cluster.all_finished(id).await;
        cluster.end(id, &call).await;
        sleep(Duration::from_secs(60)).await;
        assert!(cluster.planes.iter().all(|plane| plane.early_bytes() == 0));
        cluster.expect_no_lane_closed();
    }
}

/// As long as a lane may be stuck and is not given up.
const BELOW_STALL: Duration = Duration::from_millis(900);

#[tokio::test(start_paused = true)]
async fn a_lane_stuck_in_an_old_frame_leaves_the_same_memory_alone_ever_after() {
    // Small frames at every byte, and large ones that are written from user memory.
    let small = (0..300).map(|hold| (20, hold));
    let large = (0..20).map(|part| (200_000, part * 9_973));
    for (count, hold) in small.chain(large) {
        for (way, room) in [(0, 1), (0, 64 * 1024), (1, 5_000)] {
            let mut cluster = Cluster::unconnected(2);
            let mut ways = [SOUND; 2];
            (ways[way].hold, ways[way].room) = (hold, room);
            let wire = cluster.join(0, 0, ways);
            let call = Call::new(2, sum(count, DataType::U8), hold % 2 == 0);
            let old = operation(1, 0);
            let mut new = old;
            new.epoch.count += 1;
            (0..2).for_each(|rank| cluster.begin(rank, old, &call));
            sleep(BELOW_STALL / 2).await;
            for rank in [way, 1 - way] {
                restart(&cluster, rank, &call, old, new).await;
            }
            // What the stuck lane holds of the new operation goes out again over the other one.
            cluster.join(0, 1, [SOUND; 2]);
            sleep(BELOW_STALL / 2).await;
            wire.release();
            cluster.all_finished(new).await;
            cluster.end(new, &call).await;
            (0..2).for_each(|rank| call.scribble(rank));
            cluster
                .reduce(
                    operation(2, 0).in_epoch(new.epoch),
                    sum(9, DataType::F64),
                    true,
                )
                .await;
            assert!((0..2).all(|rank| call.is_scribble(rank)));
            cluster.expect_no_lane_closed();
        }
    }
}

impl OperationId {
    fn in_epoch(self, epoch: Epoch) -> OperationId {
        OperationId { epoch, ..self }
    }
}
