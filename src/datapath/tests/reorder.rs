//! Lanes of different paces: segments arrive in any order, in pieces of any size, and the bits are
//! the same every time. Time is virtual, chance comes from seeds.

use super::*;
use crate::types::{Quantization, QuantizationPath};

/// Lanes with paces that differ by a factor of a thousand.
fn joined(world_size: usize, random: &mut Random) -> Cluster {
    let cluster = Cluster::unconnected(world_size);
    for index in 0..cluster.links() {
        for lane in 0..1 + random.below(4) as u16 {
            let way = |random: &mut Random| {
                let piece = [70, 300, 5_000, 40_000][random.below(4)];
                let delay = [0, 1, 4, 10][random.below(4)];
                let room = [piece, 3_000, 64 * 1024, 1 << 20][random.below(4)];
                Way {
                    room,
                    ..Way::random(random.below(1 << 30) as u64, piece, delay)
                }
            };
            cluster.join(index, lane, [way(random), way(random)]);
        }
    }
    cluster
}

#[tokio::test(start_paused = true)]
async fn segments_that_arrive_in_any_order_give_the_same_bits() {
    const KINDS: [(DataType, ReduceOp); 7] = [
        (DataType::F32, ReduceOp::Sum),
        (DataType::F32, ReduceOp::Avg),
        (DataType::BF16, ReduceOp::Avg),
        (DataType::F16, ReduceOp::Prod),
        (DataType::I16, ReduceOp::Sum),
        (DataType::U64, ReduceOp::Max),
        (DataType::I8, ReduceOp::Avg),
    ];
    for seed in 0..120 {
        let random = &mut Random::new(seed);
        let world_size = 2 + random.below(3);
        let mut cluster = joined(world_size, random);
        let calls: Vec<_> = (0..1 + random.below(3))
            .map(|tag| {
                let (data_type, op) = KINDS[random.below(KINDS.len())];
                let bytes = [40, 3_000, 50_000, 400_000, 900_000][random.below(5)];
                let quantizations = [
                    None,
                    Some(Quantization::int4()),
                    Some(Quantization::min_max(DataType::U8)),
                ];
                let quantization = quantizations[random.below(3)];
                let path = [QuantizationPath::Ring, QuantizationPath::Direct][random.below(2)];
                let descriptor = Descriptor {
                    count: (bytes / data_type.size_bytes()) as u64,
                    data_type,
                    op,
                    quantization: quantization
                        .filter(|quantization| quantization.check(data_type).is_ok())
                        .map(|quantization| quantization.path(path)),
                };
                let call = Call::new(world_size, descriptor, random.below(2) == 0);
                (operation(tag as u64, 0), call)
            })
            .collect();
        for (id, call) in &calls {
            for rank in 0..world_size {
                sleep(Duration::from_millis(random.below(30) as u64)).await;
                cluster.begin(rank, *id, call);
            }
        }
        cluster.patience = Duration::from_secs(100_000);
        for _ in &calls {
            cluster.finished().await;
        }
        for (id, call) in &calls {
            cluster.end(*id, call).await;
        }
        cluster.expect_no_lane_closed();
    }
}

#[tokio::test(start_paused = true)]
async fn lanes_that_lag_and_die_at_random_change_no_bit() {
    for seed in 0..60 {
        let random = &mut Random::new(1_000 + seed);
        let world_size = 2 + random.below(3);
        let mut cluster = Cluster::unconnected(world_size);
        cluster.patience = Duration::from_secs(100_000);
        let mut doomed = |cut_within: usize| {
            let how = [How::Reset, How::Eof][random.below(2)];
            let cut = Cut {
                after: random.below(cut_within),
                how,
                loses: random.below(2) == 0,
            };
            Way {
                cut: Some(cut),
                ..Way::random(random.below(1 << 30) as u64, 20_000, 3)
            }
        };
        for index in 0..cluster.links() {
            for lane in 0..2 {
                cluster.join(index, lane, [doomed(300_000), doomed(3_000)]);
            }
        }
        let id = operation(1, 0);
        let mut descriptor = sum(90_000, DataType::F32);
        if seed % 3 > 0 {
            let path = [QuantizationPath::Ring, QuantizationPath::Direct][seed as usize / 3 % 2];
            descriptor.count *= 4;
            descriptor.quantization = Some(Quantization::int8().path(path));
        }
        let call = Call::new(world_size, descriptor, seed % 2 == 0);
        (0..world_size).for_each(|rank| cluster.begin(rank, id, &call));
        let mut finished = 0;
        let mut within = 600_000;
        while finished < world_size {
            match cluster.any_event().await {
                (_, PlaneEvent::Finished { .. }) => finished += 1,
                // One end mends, as the driver does: a lane that is replaced ends quietly.
                (rank, PlaneEvent::LaneClosed { peer, lane, .. })
                    if !cluster.planes[rank].has_lane(peer, lane) =>
                {
                    let index = cluster.link_of(rank, peer);
                    within += 20_000;
                    cluster.join(index, lane, [doomed(within), doomed(within)]);
                }
                _ => {}
            }
        }
        cluster.end(id, &call).await;
    }
}
