//! A lane dies at every byte of a small operation, in every way: the result is exact, no segment is
//! applied twice, and nothing hangs. Time is virtual.

use super::*;

/// A lane that dies, in a ring whose other links are sound.
#[derive(Clone, Copy, Debug)]
struct Scene {
    world_size: usize,
    /// The direction in which the bytes are counted: 0 leads from rank 0 to rank 1.
    way: usize,
    /// The link has another lane.
    has_spare: bool,
    /// Elements of each operation, of one byte each.
    counts: [u64; 2],
    in_place: bool,
}

/// What one run of a scene came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Payload bytes applied, for each operation and rank.
    applied: Vec<u64>,
    /// Times the lane was put back.
    mended: usize,
    /// Bytes written to the lane before it was.
    written: usize,
}

/// Runs two operations at once, then a third one. A lane that is known dead at both ends is put back
/// where it was the last; where nothing happens for a while, one end has given it up and dials again.
async fn run(scene: Scene, cut: Option<Cut>) -> Outcome {
    let mut cluster = Cluster::unconnected(scene.world_size);
    let mut ways = [SOUND; 2];
    ways[scene.way].cut = cut;
    let wire = cluster.join(0, 0, ways);
    (1..cluster.links()).for_each(|index| drop(cluster.join(index, 0, [SOUND; 2])));
    if scene.has_spare {
        cluster.join(0, 1, [SOUND; 2]);
    }
    let call = |count, in_place| {
        let data_type = if in_place { DataType::I8 } else { DataType::U8 };
        Call::new(scene.world_size, sum(count, data_type), in_place)
    };
    let calls = [
        (operation(1, 0), call(scene.counts[0], scene.in_place)),
        (operation(2, 0), call(scene.counts[1], !scene.in_place)),
    ];
    for (id, call) in &calls {
        (0..scene.world_size).for_each(|rank| cluster.begin(rank, *id, call));
    }
    let (mut finished, mut closed, mut mended) = (0, 0, 0);
    while finished < calls.len() * scene.world_size {
        let is_down = match timeout(Duration::from_millis(300), cluster.any_event()).await {
            Ok((_, PlaneEvent::Finished { .. })) => {
                finished += 1;
                false
            }
            Ok((_, PlaneEvent::LaneClosed { .. })) => {
                closed += 1;
                closed == 2 && !scene.has_spare
            }
            Err(_) => true,
        };
        if is_down {
            assert_eq!(mended, 0, "{scene:?} {cut:?}");
            mended += 1;
            cluster.join(0, 0, [SOUND; 2]);
        }
    }
    let mut applied = Vec::new();
    for (id, call) in &calls {
        let traffic = cluster.end(*id, call).await;
        applied.extend(traffic.iter().map(|traffic| traffic.rx_bytes));
    }
    let written = wire.written(scene.way);
    cluster.join(0, 0, [SOUND; 2]);
    cluster
        .reduce(operation(3, 0), sum(7, DataType::F64), scene.in_place)
        .await;
    Outcome {
        applied,
        mended,
        written,
    }
}

/// Every byte, every death; the bytes before the cut delivered or lost.
async fn survives_cuts(scene: Scene, offsets: impl Iterator<Item = usize>) {
    let sound = run(scene, None).await;
    for after in offsets.take_while(|after| *after <= sound.written) {
        for how in EVERY_DEATH {
            for loses in [false, true] {
                let cut = Cut { after, how, loses };
                let Outcome {
                    applied, mended, ..
                } = run(scene, Some(cut)).await;
                assert_eq!(applied, sound.applied, "{scene:?} {cut:?}");
                let is_small = scene.counts.iter().sum::<u64>() < 100;
                if is_small && after < sound.written && !scene.has_spare {
                    assert_eq!(mended, 1, "every byte is needed: {scene:?} {cut:?}");
                }
                let is_told = matches!(how, How::Reset | How::Eof);
                if is_told && scene.has_spare {
                    assert_eq!(mended, 0, "the other lane takes over: {scene:?} {cut:?}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_only_lane_of_two_may_die_at_every_byte() {
    for (way, in_place) in [(0, false), (1, true)] {
        let scene = Scene {
            world_size: 2,
            way,
            has_spare: false,
            counts: [5, 2],
            in_place,
        };
        survives_cuts(scene, 0..).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_lane_of_several_may_die_at_every_byte() {
    for (way, in_place) in [(0, true), (1, false)] {
        let scene = Scene {
            world_size: 2,
            way,
            has_spare: true,
            counts: [3, 4],
            in_place,
        };
        survives_cuts(scene, 0..).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_of_a_larger_ring_may_die_at_every_byte() {
    for (world_size, has_spare) in [(3, false), (3, true), (4, false)] {
        let scene = Scene {
            world_size,
            way: 0,
            has_spare,
            counts: [world_size as u64 + 1, 0],
            in_place: has_spare,
        };
        survives_cuts(scene, 0..).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_may_die_at_every_byte_of_a_grant() {
    for has_spare in [false, true] {
        let scene = Scene {
            world_size: 3,
            // Grants go against the data.
            way: 1,
            has_spare,
            counts: [200_000, 1],
            in_place: has_spare,
        };
        survives_cuts(scene, 0..=64).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_may_die_anywhere_in_large_frames() {
    for (has_spare, in_place) in [(false, true), (true, false)] {
        let scene = Scene {
            world_size: 2,
            way: 0,
            has_spare,
            counts: [700_000, 1],
            in_place,
        };
        survives_cuts(scene, (0..).step_by(69_989)).await;
    }
}
