//! Operations on sound lanes: right, equal everywhere, and nothing left behind.

use super::*;

#[tokio::test]
async fn every_rank_ends_with_the_same_right_bits() {
    for (world_size, lanes) in [(2, 1), (2, 3), (3, 2), (4, 1), (5, 4)] {
        let mut cluster = Cluster::new(world_size, lanes);
        let mut tag = 0;
        for count in [0, 1, world_size as u64 - 1, 257, 100_003, 786_433] {
            for (data_type, op) in [
                (DataType::F32, ReduceOp::Sum),
                (DataType::I8, ReduceOp::Avg),
                (DataType::BF16, ReduceOp::Avg),
                (DataType::U64, ReduceOp::Max),
            ] {
                tag += 1;
                let descriptor = Descriptor {
                    count,
                    data_type,
                    op,
                    quantization: None,
                };
                cluster
                    .reduce(operation(tag, 0), descriptor, tag % 2 == 0)
                    .await;
            }
        }
    }
}

#[tokio::test]
async fn all_types_and_operations_pass() {
    let mut cluster = Cluster::new(3, 2);
    let mut tag = 0;
    for data_type in DataType::ALL {
        for op in ReduceOp::ALL {
            tag += 1;
            let descriptor = Descriptor {
                count: 1001,
                data_type,
                op,
                quantization: None,
            };
            cluster.reduce(operation(tag, 0), descriptor, false).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_operations_share_the_lanes() {
    let mut cluster = Cluster::new(3, 2);
    let counts = [5u64, 400_000, 17, 90_000, 3, 1_000_000];
    let mut calls = Vec::new();
    for (tag, count) in counts.iter().enumerate() {
        let descriptor = sum(*count, DataType::F32);
        calls.push((
            operation(tag as u64, 0),
            Call::new(3, descriptor, tag % 2 == 0),
        ));
    }
    for rank in 0..3 {
        for (id, call) in &calls {
            cluster.begin(rank, *id, call);
        }
    }
    for _ in 0..calls.len() {
        cluster.finished().await;
    }
    for (id, call) in &calls {
        cluster.end(*id, call).await;
    }
}

#[tokio::test]
async fn traffic_is_the_least_possible() {
    let mut cluster = Cluster::new(4, 2);
    let traffic = cluster
        .reduce(operation(1, 0), sum(1 << 20, DataType::F32), false)
        .await;
    // Each of six hops carries a chunk of 1 MiB in four frames, which have a header and a trailer.
    let expected = 6 * (1 << 20) + 6 * 4 * 64;
    assert!(traffic.iter().all(|t| *t
        == Traffic {
            tx_bytes: expected,
            rx_bytes: expected
        }));
}

#[tokio::test]
async fn in_place_a_roll_back_restores_the_input() {
    let mut cluster = Cluster::new(3, 2);
    let call = Call::new(3, sum(800_000, DataType::F32), true);
    let id = operation(1, 0);
    (0..3).for_each(|rank| cluster.begin(rank, id, &call));
    cluster.finished().await;
    for (rank, plane) in cluster.planes.iter().enumerate() {
        plane.end(id, Disposition::RollBack).await;
        assert_eq!(call.memory[rank].bytes(), call.inputs[rank]);
    }
}

#[tokio::test]
async fn nothing_is_left_after_shutdown() {
    let mut cluster = Cluster::new(3, 2);
    cluster
        .reduce(operation(1, 0), sum(100_000, DataType::F64), true)
        .await;
    for plane in &cluster.planes {
        plane.shutdown();
        until(|| Arc::strong_count(plane) == 1).await;
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_not_begun() {
    let cluster = Cluster::unconnected(2);
    let plane = &cluster.planes[0];
    let spec = |count, ring: &[u64]| OperationSpec {
        descriptor: sum(count, DataType::F32),
        rank: Rank(0),
        ring: ring.iter().copied().map(PeerId).collect(),
        buffers: Memory::new(vec![0; 8]).lend_in_place(),
        residual: None,
    };
    let id = operation(1, 0);
    let wrong_length = plane.begin(id, spec(3, &[0, 1]));
    assert_eq!(
        wrong_length,
        Err(BeginError::BufferLength {
            found: 8,
            expected: 12
        })
    );
    assert!(matches!(
        plane.begin(id, spec(2, &[0])),
        Err(BeginError::Ring { .. })
    ));
    assert_eq!(plane.begin(id, spec(2, &[0, 1])), Ok(()));
    assert_eq!(
        plane.begin(id, spec(2, &[0, 1])),
        Err(BeginError::AlreadyBegun)
    );
}
