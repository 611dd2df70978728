//! An operation is ended while a lane is stuck in the middle of its frames, at every byte: the input
//! comes back bit for bit, nobody touches the memory afterwards, other operations go on.

use super::*;

/// Where a lane gets stuck, and who ends the operation when.
#[derive(Clone, Copy, Debug)]
struct Scene {
    /// The direction that gets stuck: 0 leads from rank 0 to rank 1.
    way: usize,
    /// The first byte that does not arrive.
    hold: usize,
    /// Bytes that may be on their way: with few, the sender is stuck as well.
    room: usize,
    /// One byte each.
    count: u64,
    in_place: bool,
    /// The sender ends it, then the lane goes on, then the receiver ends it.
    receiver_ends_later: bool,
}

const MOMENT: Duration = Duration::from_millis(100);

/// Returns the bytes written in the direction that is stuck.
async fn cancel(scene: Scene) -> usize {
    let Scene { way, in_place, .. } = scene;
    let mut cluster = Cluster::unconnected(2);
    let mut ways = [SOUND; 2];
    (ways[way].hold, ways[way].room) = (scene.hold, scene.room);
    let wire = cluster.join(0, 0, ways);
    let (id, other_id) = (operation(1, 0), operation(2, 0));
    let call = Call::new(2, sum(scene.count, DataType::U8), in_place);
    let other = Call::new(2, sum(7, DataType::F64), !in_place);
    for (id, call) in [(id, &call), (other_id, &other)] {
        (0..2).for_each(|rank| cluster.begin(rank, id, call));
    }
    // All that can move has moved: the clock goes on when nobody has anything to do.
    sleep(MOMENT).await;
    let (sender, receiver) = (way, 1 - way);
    for rank in [sender, receiver] {
        cluster.planes[rank].end(id, Disposition::RollBack).await;
        assert_eq!(call.memory[rank].bytes(), call.inputs[rank], "{scene:?}");
        call.scribble(rank);
        if scene.receiver_ends_later && rank == sender {
            wire.release();
            cluster.sees_right_bits_or_none(receiver, id, &call).await;
        }
    }
    wire.release();
    sleep(MOMENT).await;
    cluster.end(other_id, &other).await;
    cluster
        .reduce(operation(1, 1), sum(5, DataType::I32), in_place)
        .await;
    assert!((0..2).all(|rank| call.is_scribble(rank)), "{scene:?}");
    cluster.expect_no_lane_closed();
    wire.written(way)
}

impl Cluster {
    /// Lets a rank finish, if it can: it may have all that it needs, or wait in vain.
    async fn sees_right_bits_or_none(&mut self, rank: usize, id: OperationId, call: &Call) {
        sleep(MOMENT).await;
        if self.has_finished(rank, id) {
            assert_eq!(call.output(rank), call.expected());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_may_be_ended_with_its_lane_stuck_at_every_byte() {
    for way in [0, 1] {
        for room in [1, 64 * 1024] {
            for in_place in [false, true] {
                let mut scene = Scene {
                    way,
                    hold: usize::MAX,
                    room,
                    count: 9,
                    in_place,
                    receiver_ends_later: false,
                };
                let bytes = cancel(scene).await;
                for hold in 0..=bytes {
                    for receiver_ends_later in [false, true] {
                        (scene.hold, scene.receiver_ends_later) = (hold, receiver_ends_later);
                        cancel(scene).await;
                    }
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_may_be_ended_anywhere_in_frames_written_from_user_memory() {
    for (way, room, in_place) in [(0, 3_000, true), (1, 100_000, false), (1, 1, true)] {
        let count = if room == 1 { 34_000 } else { 600_000 };
        // Around the header of the first large frame, and anywhere.
        let around = (0..70).chain((70..).step_by(count as usize / 11));
        for hold in around.take_while(|hold| *hold < count as usize) {
            for receiver_ends_later in [false, true] {
                let scene = Scene {
                    way,
                    hold,
                    room,
                    count,
                    in_place,
                    receiver_ends_later,
                };
                cancel(scene).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_ended_at_any_moment_gives_its_memory_back_and_spares_the_others() {
    for seed in 0..150 {
        let random = &mut Random::new(seed);
        let world_size = 2 + random.below(3);
        let mut cluster = Cluster::unconnected(world_size);
        cluster.patience = Duration::from_secs(10_000);
        for index in 0..cluster.links() {
            for lane in 0..2 {
                let mut way = || Way::random(random.below(1 << 30) as u64, 9_000, 4);
                cluster.join(index, lane, [way(), way()]);
            }
        }
        let (id, other_id) = (operation(1, 0), operation(2, 0));
        let in_place = seed % 2 == 0;
        let call = Call::new(world_size, sum(60_000, DataType::F32), in_place);
        let other = Call::new(world_size, sum(20_000, DataType::I32), !in_place);
        for (id, call) in [(id, &call), (other_id, &other)] {
            (0..world_size).for_each(|rank| cluster.begin(rank, id, call));
        }
        sleep(Duration::from_millis(random.below(150) as u64)).await;
        for rank in 0..world_size {
            cluster.planes[rank].end(id, Disposition::RollBack).await;
            assert!(
                call.memory[rank].bytes() == call.inputs[rank],
                "seed {seed}"
            );
            call.scribble(rank);
            sleep(Duration::from_millis(random.below(20) as u64)).await;
        }
        let mut has_finished = vec![false; world_size];
        while !has_finished.iter().all(|has_finished| *has_finished) {
            let (rank, event) = cluster.any_event().await;
            has_finished[rank] |= event == PlaneEvent::Finished { op: other_id };
            assert!(!matches!(event, PlaneEvent::LaneClosed { .. }), "{event:?}");
        }
        cluster.end(other_id, &other).await;
        sleep(MOMENT).await;
        assert!(
            (0..world_size).all(|rank| call.is_scribble(rank)),
            "seed {seed}"
        );
    }
}
