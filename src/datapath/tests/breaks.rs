//! Lanes that break, operations that are aborted: no bit changes and memory comes back.

use super::*;

#[tokio::test]
async fn an_abort_midway_gives_the_memory_back_and_spares_the_lanes() {
    let mut cluster = Cluster::new(3, 1);
    // Rank 2 never calls: the others are stuck midway, with frames half sent.
    let call = Call::new(3, sum(1_000_000, DataType::F32), true);
    let id = operation(1, 0);
    (0..2).for_each(|rank| cluster.begin(rank, id, &call));
    settle().await;
    for rank in 0..2 {
        cluster.planes[rank].end(id, Disposition::RollBack).await;
        assert_eq!(call.memory[rank].bytes(), call.inputs[rank]);
        call.take_back(rank);
    }
    cluster.planes[2].note_settled(Tag(1), 0);
    cluster
        .reduce(operation(1, 1), sum(300_000, DataType::I32), true)
        .await;
    cluster.expect_no_lane_closed();
    assert!(cluster.planes.iter().all(|plane| plane.early_bytes() == 0));
}

#[tokio::test]
async fn a_lane_that_breaks_midway_costs_its_unfinished_segments_only() {
    for fuse in [0, 30, 60, 100, 70_000, 300_000, 1_000_001, 1_500_000] {
        let mut cluster = Cluster::unconnected(3);
        for index in 0..3 {
            let fuses = if index == 1 {
                [fuse, usize::MAX]
            } else {
                [usize::MAX; 2]
            };
            cluster.connect_with(index, 0, fuses);
            cluster.connect_with(index, 1, [usize::MAX; 2]);
        }
        let count = 1_500_000;
        cluster
            .reduce(operation(1, 0), sum(count, DataType::F32), fuse % 20 == 0)
            .await;
        let closed = cluster.closed();
        assert!(
            closed
                .iter()
                .all(|(_, lane, left)| (*lane, *left) == (0, 1)),
            "{closed:?}"
        );
        assert_eq!(closed.len(), 2, "both sides tell");
    }
}

#[tokio::test]
async fn the_last_lane_may_break_and_come_back() {
    for fuse in [10, 400_000] {
        let mut cluster = Cluster::unconnected(2);
        cluster.connect_with(0, 0, [fuse, usize::MAX]);
        let call = Call::new(2, sum(1_000_000, DataType::F32), true);
        let id = operation(1, 0);
        (0..2).for_each(|rank| cluster.begin(rank, id, &call));
        cluster.lane_closed(0).await;
        cluster.lane_closed(1).await;
        assert_eq!(cluster.planes[0].lanes(PeerId(1)), 0);
        cluster.connect_with(0, 0, [usize::MAX; 2]);
        cluster.finished().await;
        cluster.end(id, &call).await;
    }
}

#[tokio::test]
async fn a_replaced_lane_ends_quietly() {
    let mut cluster = Cluster::new(2, 1);
    let call = Call::new(2, sum(1_000_000, DataType::F32), false);
    let id = operation(1, 0);
    cluster.begin(0, id, &call);
    cluster.connect_with(0, 0, [usize::MAX; 2]);
    cluster.begin(1, id, &call);
    cluster.finished().await;
    cluster.end(id, &call).await;
    cluster.expect_no_lane_closed();
}

#[tokio::test]
async fn a_spoiled_frame_is_waited_for_again() {
    let mut cluster = Cluster::unconnected(2);
    let call = Call::new(2, sum(20, DataType::U8), false);
    let id = operation(1, 0);
    let mut stream = cluster.raw_lane(0, 9);
    cluster.begin(0, id, &call);
    let mut spoiled = segment_frame(&call, id, 0, 10, 0);
    spoiled[70..].copy_from_slice(&TRAILER_SPOILED);
    stream.write_all(&spoiled).await.unwrap();
    for step in 0..2 {
        let frame = segment_frame(&call, id, step, 10, step as u8 + 1);
        stream.write_all(&frame).await.unwrap();
    }
    expect_ones_added_and_twos_stored(&mut cluster, &call, id).await;
}

#[tokio::test]
async fn a_segment_sent_again_while_its_first_lane_is_stuck_is_not_lost() {
    for first_lane_goes_on in [false, true] {
        let mut cluster = Cluster::unconnected(2);
        let call = Call::new(2, sum(20, DataType::U8), true);
        let id = operation(1, 0);
        let (mut stuck, mut other) = (cluster.raw_lane(0, 8), cluster.raw_lane(0, 9));
        cluster.begin(0, id, &call);
        let frame = segment_frame(&call, id, 0, 10, 1);
        stuck.write_all(&frame[..65]).await.unwrap();
        settle().await;
        other.write_all(&frame).await.unwrap();
        other
            .write_all(&segment_frame(&call, id, 1, 10, 2))
            .await
            .unwrap();
        settle().await;
        if first_lane_goes_on {
            stuck.write_all(&frame[65..]).await.unwrap();
        } else {
            drop(stuck);
        }
        expect_ones_added_and_twos_stored(&mut cluster, &call, id).await;
    }
}

/// Rank 0 of two, over 20 bytes: chunk 1 was combined with ones, chunk 0 is all twos.
async fn expect_ones_added_and_twos_stored(cluster: &mut Cluster, call: &Call, id: OperationId) {
    while cluster.event(0).await != (PlaneEvent::Finished { op: id }) {}
    cluster.planes[0].end(id, Disposition::Keep).await;
    let mut expected = call.inputs[0].clone();
    expected[..10].fill(2);
    expected[10..]
        .iter_mut()
        .for_each(|byte| *byte = byte.wrapping_add(1));
    assert_eq!(call.output(0), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn lanes_that_break_all_the_time_change_no_bit() {
    let mut state = 12345u64;
    let mut random = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % below
    };
    for world_size in [2, 3] {
        let mut cluster = Cluster::unconnected(world_size);
        let links = if world_size == 2 { 1 } else { world_size };
        for index in 0..links {
            (0..2).for_each(|lane| cluster.connect_with(index, lane, [random(2_000_000), 900_000]));
        }
        for n in 0..40 {
            let id = operation(7, n);
            let count = [600_000, 10, 70_000, 1][n as usize % 4];
            let call = Call::new(world_size, sum(count, DataType::F32), n % 8 < 4);
            (0..world_size).for_each(|rank| cluster.begin(rank, id, &call));
            let mut finished = 0;
            while finished < world_size {
                match cluster.any_event().await {
                    (_, PlaneEvent::Finished { .. }) => finished += 1,
                    (rank, PlaneEvent::LaneClosed { peer, lane, .. }) => {
                        let index = cluster.link_of(rank, peer);
                        let fuses = [200 + random(2_000_000), 200 + random(2_000_000)];
                        cluster.connect_with(index, lane, fuses);
                    }
                }
            }
            if n % 5 == 4 {
                for (rank, plane) in cluster.planes.iter().enumerate() {
                    plane.end(id, Disposition::RollBack).await;
                    assert!(call.memory[rank].bytes() == call.inputs[rank]);
                }
            } else {
                cluster.end(id, &call).await;
            }
        }
    }
}
