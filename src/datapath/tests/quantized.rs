//! Quantized operations: the same bits at every rank, whatever the lanes do, and those that the
//! schedule and the codec give when nothing happens at the same time.

use super::*;
use crate::engine::Run;
use crate::kernels::quantize::{Codec, Combine, Place, Share};
use crate::schedule::all_reduce;
use crate::types::{Quantization, QuantizationPath, QuantizationScheme, Rounding};

/// Elements that are numbers of about the same size.
pub(super) fn elements(
    data_type: DataType,
    len_bytes: usize,
    mut next: impl FnMut() -> u8,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len_bytes {
        let number = (f32::from(next()) * 256.0 + f32::from(next())) / 4096.0 - 7.0;
        match data_type {
            DataType::F16 => bytes.extend(half::f16::from_f32(number).to_ne_bytes()),
            DataType::BF16 => bytes.extend(half::bf16::from_f32(number).to_ne_bytes()),
            DataType::F32 => bytes.extend(number.to_ne_bytes()),
            _ => bytes.extend(f64::from(number).to_ne_bytes()),
        }
    }
    bytes
}

/// What every rank ends with: segment by segment, one rank after the other.
pub(super) fn expected(descriptor: &Descriptor, inputs: &[Vec<u8>]) -> Vec<u8> {
    let world_size = inputs.len();
    let quantization = descriptor.quantization.unwrap();
    let codec = Codec::new(quantization, descriptor.data_type);
    let combine = |finish| Combine {
        op: descriptor.op,
        finish,
    };
    let is_direct = match quantization.path {
        QuantizationPath::Ring => false,
        QuantizationPath::Auto => world_size == 3,
        QuantizationPath::Direct => world_size > 2,
    };
    let schedule = all_reduce(Rank(0), world_size as u32, descriptor);
    let run = Run::new(&schedule, descriptor);
    let mut result = vec![0; descriptor.len_bytes() as usize];
    for chunk in 0..world_size {
        for (segment, range) in (0..).zip(run.segments(chunk)) {
            let len = codec.encoded_len_bytes(range.len());
            let share = |rank: usize| Share {
                input: &inputs[rank][range.clone()],
                residual: None,
            };
            // Only the ring's hop numbers are as easily told.
            let place = |rank: usize, step: usize| Place {
                rank: rank as u32,
                step: step as u32,
                segment,
            };
            let finish = combine(Some(world_size as u32));
            let mut sum = vec![0; len];
            let output = &mut result[range.clone()];
            if is_direct {
                // First those that come forward, the nearest first, then the others.
                let ahead = if chunk % 2 == 0 {
                    world_size / 2
                } else {
                    (world_size - 1) / 2
                };
                let forward = (1..=ahead).map(|hops| (chunk + world_size - hops) % world_size);
                let backward = (1..world_size - ahead).map(|hops| (chunk + hops) % world_size);
                let received: Vec<Vec<u8>> = forward
                    .chain(backward)
                    .map(|rank| {
                        let mut encoded = vec![0; len];
                        codec.encode(share(rank), place(0, 0), &mut encoded);
                        encoded
                    })
                    .collect();
                let received: Vec<&[u8]> = received.iter().map(Vec::as_slice).collect();
                codec.combine(
                    finish,
                    &received,
                    share(chunk),
                    place(0, 0),
                    &mut sum,
                    Some(output),
                );
            } else {
                codec.encode(share(chunk), place(chunk, 0), &mut sum);
                for hop in 1..world_size {
                    let (rank, received) = ((chunk + hop) % world_size, sum.clone());
                    let is_last = hop + 1 == world_size;
                    codec.combine(
                        if is_last { finish } else { combine(None) },
                        &[&received],
                        share(rank),
                        place(rank, hop),
                        &mut sum,
                        is_last.then_some(&mut *output),
                    );
                }
            }
        }
    }
    result
}

#[tokio::test]
async fn every_scheme_gives_all_ranks_the_same_right_bits() {
    for (world_size, lanes) in [(2, 1), (3, 16), (4, 3), (5, 2), (6, 1), (7, 4), (8, 2)] {
        let mut cluster = Cluster::new(world_size, lanes);
        let mut tag = 0;
        for quantization in Quantization::all() {
            for path in [
                QuantizationPath::Auto,
                QuantizationPath::Ring,
                QuantizationPath::Direct,
            ] {
                tag += 1;
                let count = [1, world_size as u64 - 1, 33, 4_099, 70_001][tag as usize % 5];
                let descriptor = Descriptor {
                    count,
                    data_type: DataType::FLOATS[tag as usize % 4],
                    op: ReduceOp::ALL[tag as usize % 5],
                    quantization: Some(quantization.path(path)),
                };
                cluster
                    .reduce(operation(tag, 0), descriptor, tag % 2 == 0)
                    .await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_operations_run_beside_each_other() {
    for world_size in [2, 3, 4] {
        let mut cluster = Cluster::new(world_size, 4);
        let calls: Vec<_> = Quantization::all()
            .filter(|quantization| quantization.code_bits() <= 8)
            .enumerate()
            .map(|(tag, quantization)| {
                let descriptor = Descriptor {
                    count: 1_000_003,
                    data_type: DataType::F32,
                    op: ReduceOp::Avg,
                    quantization: Some(quantization),
                };
                let call = Call::new(world_size, descriptor, tag % 2 == 0);
                (operation(tag as u64, 0), call)
            })
            .collect();
        for rank in 0..world_size {
            for (id, call) in &calls {
                cluster.begin(rank, *id, call);
            }
        }
        for _ in &calls {
            cluster.finished().await;
        }
        for (id, call) in &calls {
            cluster.end(*id, call).await;
        }
    }
}

/// The noise of an element depends on where it is, never on when it comes.
#[tokio::test]
async fn stochastic_rounding_gives_the_same_bits_at_every_rank() {
    let mut cluster = Cluster::new(4, 3);
    for (tag, quantization) in (0..).zip(Quantization::all()) {
        let descriptor = Descriptor {
            count: 70_001,
            data_type: DataType::F32,
            op: ReduceOp::Sum,
            quantization: Some(quantization.rounding(Rounding::Stochastic { key: 99 })),
        };
        cluster.reduce(operation(tag, 0), descriptor, false).await;
    }
}

#[tokio::test]
async fn what_is_counted_is_what_is_sent() {
    let mut cluster = Cluster::new(2, 1);
    for (tag, quantization) in (0..).zip(Quantization::all()) {
        let descriptor = Descriptor {
            count: 2 * 1000,
            data_type: DataType::F32,
            op: ReduceOp::Sum,
            quantization: Some(quantization),
        };
        let traffic = cluster.reduce(operation(tag, 0), descriptor, false).await;
        // Two frames each way, of 1000 elements: a header, parameters, codes, a trailer.
        let bytes = 2 * (64 + quantization.encoded_len_bytes(DataType::F32, 1000));
        for Traffic { tx_bytes, rx_bytes } in traffic {
            assert_eq!((tx_bytes, rx_bytes), (bytes, bytes), "{quantization}");
        }
    }
    let int4 = Quantization::int4();
    assert_eq!(int4.scheme, QuantizationScheme::Int4);
    assert_eq!(int4.encoded_len_bytes(DataType::F32, 1000), 500 + 8 * 2);
}

#[tokio::test]
async fn in_place_a_roll_back_restores_what_was_to_be_quantized() {
    for path in [QuantizationPath::Ring, QuantizationPath::Direct] {
        let mut cluster = Cluster::new(4, 2);
        let descriptor = Descriptor {
            count: 800_000,
            data_type: DataType::F32,
            op: ReduceOp::Sum,
            quantization: Some(Quantization::int8().path(path)),
        };
        let call = Call::new(4, descriptor, true);
        let id = operation(1, 0);
        (0..4).for_each(|rank| cluster.begin(rank, id, &call));
        cluster.finished().await;
        for (rank, plane) in cluster.planes.iter().enumerate() {
            plane.end(id, Disposition::RollBack).await;
            assert_eq!(call.memory[rank].bytes(), call.inputs[rank]);
        }
    }
}

/// All that a result lacks is in the residuals of the ranks; and what is in them is added the next time.
#[tokio::test]
async fn residuals_hold_what_the_result_lacks() {
    let floats = |bytes: &[u8]| -> Vec<f32> {
        let (elements, _) = bytes.as_chunks::<4>();
        elements
            .iter()
            .map(|element| f32::from_ne_bytes(*element))
            .collect()
    };
    for (world_size, path) in [
        (2, QuantizationPath::Ring),
        (3, QuantizationPath::Direct),
        (4, QuantizationPath::Ring),
        (5, QuantizationPath::Direct),
    ] {
        for (op, scale) in [(ReduceOp::Sum, 1.0), (ReduceOp::Avg, world_size as f64)] {
            let mut cluster = Cluster::new(world_size, 2);
            let descriptor = Descriptor {
                count: 10_007,
                data_type: DataType::F32,
                op,
                quantization: Some(Quantization::int4().path(path)),
            };
            let memory = |byte| -> Vec<Memory> {
                (0..world_size)
                    .map(|_| Memory::new(vec![byte; 4 * 10_007]))
                    .collect()
            };
            let mut residuals = memory(0);
            let mut lacking = vec![0.0f64; 10_007];
            for n in 0..3 {
                let call = Call::new(world_size, descriptor, n % 2 == 0);
                let next = memory(0xff);
                for rank in 0..world_size {
                    let residual = residuals[rank].lend_to(&next[rank], Arc::new(()));
                    let mut spec = call.spec(rank);
                    spec.residual = Some(residual);
                    cluster.planes[rank].begin(operation(1, n), spec).unwrap();
                }
                cluster.all_finished(operation(1, n)).await;
                for plane in &cluster.planes {
                    plane.end(operation(1, n), Disposition::Keep).await;
                }
                let outputs: Vec<Vec<u8>> = (0..world_size).map(|rank| call.output(rank)).collect();
                assert!(outputs.iter().all(|output| *output == outputs[0]));
                let (output, next_residuals) = (
                    floats(&outputs[0]),
                    next.iter()
                        .map(|memory| floats(&memory.bytes()))
                        .collect::<Vec<_>>(),
                );
                let inputs: Vec<Vec<f32>> = call.inputs.iter().map(|input| floats(input)).collect();
                for i in 0..10_007 {
                    let meant =
                        inputs.iter().map(|input| f64::from(input[i])).sum::<f64>() + lacking[i];
                    let held: f64 = next_residuals
                        .iter()
                        .map(|residual| f64::from(residual[i]))
                        .sum();
                    let found = f64::from(output[i]) * scale;
                    assert!(
                        (meant - found - held).abs() < 1e-4,
                        "{path:?} {op} {meant} {found} {held}"
                    );
                    lacking[i] = held;
                }
                assert!(lacking.iter().any(|lacking| lacking.abs() > 0.1));
                residuals = next;
            }
        }
    }
}
