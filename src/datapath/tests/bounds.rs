//! What comes early is kept within bounds, what comes late is dropped, what makes no sense closes
//! its lane.

use super::*;

#[tokio::test]
async fn a_peer_that_begins_late_loses_nothing() {
    for (count, expected_early) in [(1_000_000, EAGER_BYTES), (50_000, 100_000)] {
        let mut cluster = Cluster::new(2, 2);
        let call = Call::new(2, sum(count, DataType::F32), false);
        let id = operation(1, 0);
        cluster.begin(0, id, &call);
        until(|| cluster.planes[1].early_bytes() >= expected_early * 3 / 4).await;
        settle().await;
        assert!(cluster.planes[1].early_bytes() <= EAGER_BYTES);
        assert!(!cluster.planes[0].has_sendable(PeerId(1)));
        cluster.begin(1, id, &call);
        cluster.finished().await;
        cluster.end(id, &call).await;
    }
}

#[tokio::test]
async fn over_a_long_path_a_late_peer_is_sent_the_advance_as_well_and_loses_nothing() {
    let mut cluster = Cluster::new(2, 2);
    cluster.planes[0].note_round_trip(Duration::from_millis(50));
    let large = Call::new(2, sum(12 << 20, DataType::F32), false);
    let other = Call::new(2, sum(1 << 20, DataType::F32), true);
    cluster.begin(0, operation(1, 0), &large);
    until(|| cluster.planes[1].early_bytes() >= ADVANCE_BYTES).await;
    settle().await;
    cluster.begin(0, operation(2, 0), &other);
    until(|| cluster.planes[1].early_bytes() > ADVANCE_BYTES + EAGER_BYTES).await;
    settle().await;
    assert!(cluster.planes[1].early_bytes() <= ADVANCE_BYTES + 2 * EAGER_BYTES);
    assert!(!cluster.planes[0].has_sendable(PeerId(1)));
    cluster.begin(1, operation(2, 0), &other);
    cluster.begin(1, operation(1, 0), &large);
    cluster.all_finished(operation(1, 0)).await;
    cluster.end(operation(1, 0), &large).await;
    cluster.end(operation(2, 0), &other).await;
    cluster.expect_no_lane_closed();
}

#[tokio::test]
async fn a_peer_that_learns_of_the_epoch_late_loses_nothing() {
    let mut cluster = Cluster::unconnected_in(2, None);
    cluster.connect_with(0, 0, [usize::MAX; 2]);
    let call = Call::new(2, sum(30_000, DataType::F32), false);
    let id = operation(1, 0);
    cluster.planes[0].open_epoch(EPOCH);
    cluster.begin(0, id, &call);
    until(|| cluster.planes[1].early_bytes() > 0).await;
    cluster.planes[1].open_epoch(EPOCH);
    cluster.begin(1, id, &call);
    cluster.finished().await;
    cluster.end(id, &call).await;
}

#[tokio::test]
async fn what_comes_too_late_is_dropped_by_number() {
    let mut cluster = Cluster::unconnected(2);
    let (mut stream, plane) = (cluster.raw_lane(0, 99), cluster.planes[0].clone());
    plane.note_settled(Tag(1), 4);
    for id in [
        operation(1, 4),
        operation(1, 0),
        OperationId {
            epoch: Epoch { term: 0, count: 9 },
            tag: Tag(2),
            n: 0,
        },
    ] {
        stream.write_all(&data_frame(id, 1000)).await.unwrap();
    }
    stream
        .write_all(&data_frame(operation(1, 5), 10))
        .await
        .unwrap();
    until(|| plane.early_bytes() > 0).await;
    assert_eq!(plane.early_bytes(), 10, "the next use is kept");
    plane.open_epoch(Epoch { term: 1, count: 2 });
    assert_eq!(plane.early_bytes(), 0);
    cluster.expect_no_lane_closed();
}

#[tokio::test]
async fn bytes_that_are_not_frames_close_their_lane_alone() {
    let garbage = vec![7u8; 100];
    let oversized = {
        let segments = (EAGER_BYTES + ADVANCE_BYTES) / EAGER_BYTES;
        let mut frames = vec![data_frame_at(operation(9, 0), segments as u32, 1)];
        let whole = |segment| data_frame_at(operation(9, 0), segment, EAGER_BYTES);
        frames.splice(0..0, (0..segments as u32).map(whole));
        frames.concat()
    };
    let acknowledges_too_much = FrameHeader::bare(FrameKind::Ack, 1).encode().to_vec();
    let mut bad_trailer = data_frame(operation(3, 0), 1);
    *bad_trailer.last_mut().unwrap() = 0;
    for bytes in [garbage, oversized, acknowledges_too_much, bad_trailer] {
        let mut cluster = Cluster::new(2, 1);
        let mut stream = cluster.raw_lane(0, 99);
        // The lane may be closed before all was written.
        stream.write_all(&bytes).await.ok();
        let (lane, lanes_left) = cluster.lane_closed(0).await;
        assert_eq!((lane, lanes_left), (99, 1));
        cluster
            .reduce(operation(1, 0), sum(10, DataType::F32), false)
            .await;
    }
}

#[tokio::test]
async fn a_frame_of_another_rank_or_another_descriptor_is_not_taken() {
    let mut cluster = Cluster::unconnected(3);
    let call = Call::new(3, sum(30, DataType::U8), false);
    let mut stream = cluster.raw_lane(0, 99);
    cluster.begin(0, operation(1, 0), &call);
    // Another digest: dropped, the lane stays.
    stream
        .write_all(&data_frame(operation(1, 0), 10))
        .await
        .unwrap();
    let mut frame = data_frame(operation(1, 0), 10);
    let header = FrameHeader::decode(frame.first_chunk().unwrap()).unwrap();
    let header = FrameHeader {
        digest: sum(30, DataType::U8).digest(),
        ..header
    };
    frame[..60].copy_from_slice(&header.encode());
    // Rank 0 takes step 0 from rank 2, and this lane is rank 1's.
    stream.write_all(&frame).await.unwrap();
    let reason = loop {
        if let PlaneEvent::LaneClosed { end, .. } = cluster.event(0).await {
            break end;
        }
    };
    let LaneEnd::Rejected(reason) = reason else {
        panic!("{reason}")
    };
    assert!(reason.contains("no step 0 comes from rank 1"), "{reason}");
    cluster.planes[0]
        .end(operation(1, 0), Disposition::Keep)
        .await;
    assert_eq!(call.output(0), vec![0; 30], "nothing was written");
}

#[tokio::test(start_paused = true)]
async fn what_is_early_may_come_again_while_its_first_lane_is_stuck() {
    for first_lane_goes_on in [false, true] {
        let mut cluster = Cluster::unconnected(2);
        let call = Call::new(2, sum(2 * EAGER_BYTES as u64, DataType::U8), true);
        let (id, plane) = (operation(1, 0), cluster.planes[0].clone());
        let frame = |step, segment, byte| {
            let frame = segment_frame(&call, id, step, EAGER_BYTES / 4, byte);
            let header = FrameHeader::decode(frame.first_chunk().unwrap()).unwrap();
            let header = FrameHeader { segment, ..header };
            [&header.encode()[..], &frame[60..]].concat()
        };
        let (mut stuck, mut other) = (cluster.raw_lane(0, 8), cluster.raw_lane(0, 9));
        let eager = (0..4).flat_map(|segment| frame(0, segment, 1));
        let eager: Vec<u8> = eager.collect();
        let (come, to_come) = eager.split_at(eager.len() - 100);
        stuck.write_all(come).await.unwrap();
        settle().await;
        assert_eq!(plane.early_bytes(), EAGER_BYTES);
        // Its sender has given the first lane up, and sends again what was not acknowledged.
        other.write_all(&eager).await.unwrap();
        settle().await;
        assert!(plane.has_lane(PeerId(1), 9), "it broke no rule");
        assert_eq!(plane.early_bytes(), EAGER_BYTES);
        if first_lane_goes_on {
            stuck.write_all(to_come).await.unwrap();
        } else {
            drop(stuck);
        }
        settle().await;
        assert_eq!(plane.early_bytes(), EAGER_BYTES);
        cluster.begin(0, id, &call);
        for segment in 0..4 {
            other.write_all(&frame(1, segment, 2)).await.unwrap();
        }
        while cluster.event(0).await != (PlaneEvent::Finished { op: id }) {}
        plane.end(id, Disposition::Keep).await;
        assert_eq!(plane.early_bytes(), 0);
        assert!(call.output(0)[..EAGER_BYTES].iter().all(|byte| *byte == 2));
        let added = call.output(0)[EAGER_BYTES..]
            .iter()
            .zip(&call.inputs[0][EAGER_BYTES..])
            .all(|(output, input)| *output == input.wrapping_add(1));
        assert!(added);
    }
}
