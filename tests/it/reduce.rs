//! All-reduces of a run that loses nobody: right sums, the same bits everywhere, many at once.

use std::fmt::Debug;
use std::sync::Arc;

use half::{bf16, f16};
use pccl::{
    CollectiveError, Communicator, Element, Reduce, ReduceOp, ReduceOptions, ReduceReport, Tag,
};

use crate::common::{Random, Run, each, ids, meet};

const NAMES: [&str; 3] = ["ada", "ben", "cyd"];
const COUNTS: [usize; 7] = [0, 1, 2, 3, 64, 1025, 30_011];

/// Values, and the definition of every operation on them, one element at a time.
trait Scalar: Element + PartialEq + Debug {
    /// Chosen so that the result depends on no order: whole numbers that stay exact, or integers
    /// that wrap.
    fn value(random: &mut Random) -> Self;
    fn fold(op: ReduceOp, values: &[Self]) -> Self;
}

macro_rules! integer {
    ($($type:ty),*) => {$(
        impl Scalar for $type {
            fn value(random: &mut Random) -> Self {
                random.next() as $type
            }

            fn fold(op: ReduceOp, values: &[Self]) -> Self {
                let sum = || values.iter().fold(0, |a: $type, b| a.wrapping_add(*b));
                match op {
                    ReduceOp::Sum => sum(),
                    ReduceOp::Avg => sum() / values.len() as $type,
                    ReduceOp::Prod => values.iter().fold(1, |a: $type, b| a.wrapping_mul(*b)),
                    ReduceOp::Max => *values.iter().max().unwrap(),
                    ReduceOp::Min => *values.iter().min().unwrap(),
                }
            }
        }
    )*};
}

macro_rules! float {
    ($($type:ty, $wide:ty, $to_wide:expr, $from_wide:expr);*) => {$(
        impl Scalar for $type {
            fn value(random: &mut Random) -> Self {
                $from_wide((random.below(11) as i8 - 5).into())
            }

            fn fold(op: ReduceOp, values: &[Self]) -> Self {
                let wide: Vec<$wide> = values.iter().map(|value| $to_wide(*value)).collect();
                let sum = || wide.iter().sum::<$wide>();
                $from_wide(match op {
                    ReduceOp::Sum => sum(),
                    ReduceOp::Avg => sum() / wide.len() as $wide,
                    ReduceOp::Prod => wide.iter().product(),
                    ReduceOp::Max => wide.iter().copied().fold(<$wide>::MIN, <$wide>::max),
                    ReduceOp::Min => wide.iter().copied().fold(<$wide>::MAX, <$wide>::min),
                })
            }
        }
    )*};
}

integer!(u8, i8, u16, i16, u32, i32, u64, i64);
float!(
    f16, f32, f16::to_f32, f16::from_f32;
    bf16, f32, bf16::to_f32, bf16::from_f32;
    f32, f32, |value| value, |value: f32| value;
    f64, f64, |value| value, |value: f64| value
);

fn inputs<T: Scalar>(seed: u64, rank: usize, count: usize) -> Vec<T> {
    let mut random = Random::new(seed * 31 + rank as u64);
    (0..count).map(|_| T::value(&mut random)).collect()
}

fn expected<T: Scalar>(op: ReduceOp, seed: u64, world: usize, count: usize) -> Vec<T> {
    let all: Vec<Vec<T>> = (0..world).map(|rank| inputs(seed, rank, count)).collect();
    (0..count)
        .map(|index| {
            let values: Vec<T> = all.iter().map(|input| input[index]).collect();
            T::fold(op, &values)
        })
        .collect()
}

fn bits<T: Element>(values: &[T]) -> Vec<u8> {
    zerocopy::IntoBytes::as_bytes(values).to_vec()
}

fn check_type<T: Scalar>(peers: &[Arc<Communicator>]) {
    let world = peers.len();
    each(peers, move |rank, peer| {
        for op in ReduceOp::ALL {
            for count in COUNTS {
                let what = format!("{op} of {count} {} at world {world}", T::DATA_TYPE);
                let seed = count as u64 + op as u64;
                let options = ReduceOptions::new(op);
                let send = inputs::<T>(seed, rank, count);
                // Something else, so that what is not written is noticed.
                let mut recv = inputs::<T>(seed + 1, rank, count);
                let report = peer.all_reduce(&send, &mut recv, &options);
                let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
                check_report(peer, &report, world);
                assert_eq!(recv, expected::<T>(op, seed, world, count), "{what}");
                assert_eq!(
                    send,
                    inputs::<T>(seed, rank, count),
                    "{what}: send is written"
                );

                let mut buffer = send;
                peer.all_reduce_in_place(&mut buffer, &options).unwrap();
                assert_eq!(bits(&buffer), bits(&recv), "{what}, in place");
            }
        }
    });
}

fn check_report(peer: &Communicator, report: &ReduceReport, world: usize) {
    assert_eq!(report.world_size as usize, world);
    let members: Vec<_> = peer.members().iter().map(|name| name.id).collect();
    assert_eq!(report.contributors, members);
}

fn check_every_type(world: usize) {
    let (_run, peers) = Run::with(&NAMES[..world]);
    check_type::<u8>(&peers);
    check_type::<i8>(&peers);
    check_type::<u16>(&peers);
    check_type::<i16>(&peers);
    check_type::<u32>(&peers);
    check_type::<i32>(&peers);
    check_type::<u64>(&peers);
    check_type::<i64>(&peers);
    check_type::<f16>(&peers);
    check_type::<bf16>(&peers);
    check_type::<f32>(&peers);
    check_type::<f64>(&peers);
}

#[test]
fn every_type_and_operation_gives_what_its_definition_says_between_two() {
    check_every_type(2);
}

#[test]
fn every_type_and_operation_gives_what_its_definition_says_between_three() {
    check_every_type(3);
}

#[test]
fn rounding_depends_on_no_peer_and_in_place_gives_the_same_bits() {
    let (_run, peers) = Run::with(&NAMES);
    let value = |rank: usize, index: usize| {
        let mut random = Random::new((rank * 1_000_003 + index) as u64);
        (random.next() as f64 / u64::MAX as f64 - 0.5) as f32
    };
    let results = each(&peers, move |rank, peer| {
        let send: Vec<f32> = (0..100_003).map(|index| value(rank, index)).collect();
        let mut recv = vec![f32::NAN; send.len()];
        let report = peer
            .all_reduce(&send, &mut recv, &ReduceOptions::avg())
            .unwrap();
        assert!(report.tx_bytes > 0 && report.rx_bytes > 0);
        let mut buffer = send;
        peer.all_reduce_in_place(&mut buffer, &ReduceOptions::avg())
            .unwrap();
        assert_eq!(bits(&buffer), bits(&recv));
        recv
    });
    for other in &results[1..] {
        assert_eq!(bits(&results[0]), bits(other));
    }
    for (index, result) in results[0].iter().enumerate() {
        let exact: f64 = (0..3)
            .map(|rank| f64::from(value(rank, index)))
            .sum::<f64>()
            / 3.0;
        assert!((f64::from(*result) - exact).abs() < 1e-6, "at {index}");
    }
}

#[test]
fn average_of_integers_truncates_towards_zero() {
    let (_run, peers) = Run::with(&NAMES[..2]);
    let results = each(&peers, |rank, peer| {
        let mut buffer = [[-7i32, 7, -1, 1, 0], [0, 0, 0, 0, -3]][rank];
        peer.all_reduce_in_place(&mut buffer, &ReduceOptions::avg())
            .unwrap();
        buffer
    });
    assert_eq!(results, [[-3, 3, 0, 0, -1]; 2]);
}

#[test]
fn a_slice_may_begin_and_end_anywhere() {
    let (_run, peers) = Run::with(&NAMES);
    for (start, len) in [(1, 1), (1, 7), (3, 1021), (5, 65_537)] {
        let results = each(&peers, move |_, peer| {
            let mut buffer = vec![1u8; start + len + 3];
            let range = start..start + len;
            peer.all_reduce_in_place(&mut buffer[range], &ReduceOptions::sum())
                .unwrap();
            buffer
        });
        let mut expected = vec![1u8; start + len + 3];
        expected[start..start + len].fill(3);
        assert!(results.iter().all(|result| *result == expected));
    }
}

#[test]
fn unequal_buffers_are_refused_before_anything_is_sent() {
    let (_run, peers) = Run::with(&NAMES[..2]);
    each(&peers, |_, peer| {
        let error = peer.all_reduce(&[1u8; 3], &mut [0; 4], &ReduceOptions::sum());
        let invalid = matches!(
            error,
            Err(CollectiveError::InvalidArgument { field: "recv", .. })
        );
        assert!(invalid, "{error:?}");
        let mut buffer = [1u8];
        peer.all_reduce_in_place(&mut buffer, &ReduceOptions::sum())
            .unwrap();
        assert_eq!(buffer, [2]);
    });
}

#[test]
fn operations_of_one_scope_run_beside_each_other_in_any_order() {
    let (_run, peers) = Run::with(&NAMES);
    each(&peers, |rank, peer| {
        let send = vec![rank as i64; 5000];
        let mut sum = vec![0i64; 5000];
        let mut max = vec![rank as f32; 777];
        let mut min = vec![rank as u8 + 4; 3];
        peer.scope(|scope| {
            // Every peer starts with another one.
            let mut started = Vec::new();
            let (mut sum, mut max, mut min) = (Some(&mut sum), Some(&mut max), Some(&mut min));
            for turn in 0..3 {
                started.push(match (rank + turn) % 3 {
                    0 => {
                        let options = ReduceOptions::sum().tag(Tag(1));
                        scope.all_reduce(&send, sum.take().unwrap(), &options)
                    }
                    1 => {
                        let options = ReduceOptions::max().tag(Tag(2));
                        scope.all_reduce_in_place(max.take().unwrap(), &options)
                    }
                    _ => {
                        let options = ReduceOptions::min().tag(Tag(u64::MAX));
                        scope.all_reduce_in_place(min.take().unwrap(), &options)
                    }
                });
            }
            for reduction in started {
                reduction.wait().unwrap();
            }
        });
        assert!(sum.iter().all(|value| *value == 3));
        assert!(max.iter().all(|value| *value == 2.0));
        assert_eq!(min, [4; 3]);
    });
}

#[test]
fn a_scope_ends_only_after_what_nobody_waited_for() {
    let (_run, peers) = Run::with(&NAMES[..2]);
    each(&peers, |_, peer| {
        let mut buffer = vec![1u32; 100_000];
        peer.scope(|scope| {
            let _ = scope.all_reduce_in_place(&mut buffer, &ReduceOptions::sum());
        });
        assert!(buffer.iter().all(|value| *value == 2));
    });
}

#[test]
fn a_tag_in_flight_is_refused_and_free_again_right_after() {
    let (_run, peers) = Run::with(&NAMES[..2]);
    let options = ReduceOptions::sum().tag(Tag(123));
    each(&peers, move |rank, peer| {
        // The second peer begins only when the first has been refused its second use.
        if rank == 1 {
            peer.are_peers_pending().unwrap();
        }
        let first = peer.start_all_reduce(vec![1u16, 2], &options);
        if rank == 0 {
            let (buffer, second) = peer.start_all_reduce(vec![7u16, 8], &options).wait();
            assert_eq!(second, Err(CollectiveError::TagInUse { tag: Tag(123) }));
            assert_eq!(buffer, [7, 8]);
            peer.are_peers_pending().unwrap();
        }
        let (buffer, report) = first.wait();
        report.unwrap();
        assert_eq!(buffer, [2, 4]);
    });
    each(&peers, move |_, peer| {
        for round in 0..50u64 {
            let mut buffer = [round];
            peer.all_reduce_in_place(&mut buffer, &options).unwrap();
            assert_eq!(buffer, [2 * round]);
        }
    });
}

#[test]
fn an_owned_operation_can_be_waited_for_and_awaited() {
    let (_run, peers) = Run::with(&NAMES);
    each(&peers, |rank, peer| {
        let start = |tag| {
            let options = ReduceOptions::sum().tag(Tag(tag));
            peer.start_all_reduce(vec![rank as f64; 333], &options)
        };
        let (one, two, three) = (start(1), start(2), start(3));
        let (buffer, report) = two.wait();
        assert_eq!(report.unwrap().world_size, 3);
        assert_eq!(buffer, vec![3.0; 333]);
        let both = async { (one.await, three.await) };
        for (buffer, report) in <[_; 2]>::from(pollster::block_on(both)) {
            assert_eq!(report.unwrap().world_size, 3);
            assert_eq!(buffer, vec![3.0; 333]);
        }
    });
}

#[test]
fn a_dropped_operation_goes_on_for_the_others() {
    let (_run, peers) = Run::with(&NAMES);
    each(&peers, |rank, peer| {
        let options = ReduceOptions::sum().tag(Tag(5));
        if rank == 0 {
            drop(peer.start_all_reduce(vec![100u32; 40_000], &options));
        } else {
            let mut buffer = vec![1u32; 40_000];
            peer.all_reduce_in_place(&mut buffer, &options).unwrap();
            assert!(buffer.iter().all(|value| *value == 102));
        }
        let mut buffer = [1u8];
        peer.all_reduce_in_place(&mut buffer, &ReduceOptions::sum())
            .unwrap();
        assert_eq!(buffer, [3]);
    });
}

fn reduce_many(max_in_flight: [usize; 3]) {
    let (_run, peers) = Run::with(&NAMES);
    each(&peers, move |rank, peer| {
        let send: Vec<Vec<i32>> = (0..20).map(|n| vec![(rank + n) as i32; n * 101]).collect();
        let mut recv = send.clone();
        let mut last = [rank as f32];
        let mut operations: Vec<Reduce<'_>> = send
            .iter()
            .zip(&mut recv)
            .enumerate()
            .map(|(n, (send, recv))| {
                Reduce::new(send, recv, ReduceOptions::sum().tag(Tag(n as u64)))
            })
            .collect();
        operations.push(Reduce::in_place(
            &mut last,
            ReduceOptions::max().tag(Tag(99)),
        ));
        let report = peer
            .all_reduce_many(&mut operations, max_in_flight[rank])
            .unwrap();
        assert_eq!(report.world_size, 3);
        let reports = operations
            .iter()
            .map(|operation| operation.report().unwrap());
        assert_eq!(
            reports.map(|report| report.tx_bytes).sum::<u64>(),
            report.tx_bytes
        );
        drop(operations);
        for (n, recv) in recv.iter().enumerate() {
            assert_eq!(*recv, vec![(3 + 3 * n) as i32; n * 101]);
        }
        assert_eq!(last, [2.0]);
    });
}

#[test]
fn many_operations_one_at_a_time() {
    reduce_many([1, 1, 1]);
}

#[test]
fn many_operations_with_another_limit_at_each_peer() {
    reduce_many([1, 4, 100]);
}

#[test]
fn many_operations_are_checked_before_any_is_begun() {
    let (_run, peers) = Run::with(&NAMES[..2]);
    let (mut a, mut b) = ([1u8], [1u8]);
    let options = ReduceOptions::sum();
    let mut twice = [
        Reduce::in_place(&mut a, options),
        Reduce::in_place(&mut b, options),
    ];
    for (limit, expected) in [(1, "operations"), (0, "max_in_flight")] {
        let error = peers[0].all_reduce_many(&mut twice, limit);
        let Err(CollectiveError::InvalidArgument { field, .. }) = error else {
            panic!("{error:?}")
        };
        assert_eq!(field, expected);
    }
}

#[test]
fn more_operations_than_the_limit_are_refused_and_the_others_commit() {
    let (_run, peers) = Run::with(&NAMES[..2]);
    each(&peers, |rank, peer| {
        if rank == 1 {
            // Nothing commits before the other peer has met its limit.
            peer.are_peers_pending().unwrap();
        }
        let start = |tag| {
            let options = ReduceOptions::sum().tag(Tag(tag));
            peer.start_all_reduce(vec![1u8], &options)
        };
        let in_flight: Vec<_> = (0..256).map(start).collect();
        if rank == 0 {
            let (buffer, one_too_many) = start(256).wait();
            assert_eq!(
                one_too_many,
                Err(CollectiveError::TooManyOperations { limit: 256 })
            );
            assert_eq!(buffer, [1]);
            peer.are_peers_pending().unwrap();
        }
        for reduction in in_flight {
            let (buffer, report) = reduction.wait();
            report.unwrap();
            assert_eq!(buffer, [2]);
        }
    });
}

#[test]
fn contributors_are_the_members_in_ring_order_for_everybody() {
    let (_run, peers) = Run::with(&NAMES);
    meet(&peers);
    let everybody = ids(&peers);
    let reports = each(&peers, |_, peer| {
        let report = peer.all_reduce_in_place(&mut [0f32; 0], &ReduceOptions::sum());
        report.unwrap().contributors
    });
    assert!(
        reports
            .iter()
            .all(|contributors| *contributors == reports[0])
    );
    let mut sorted = reports[0].clone();
    sorted.sort();
    assert_eq!(sorted, everybody);
}
