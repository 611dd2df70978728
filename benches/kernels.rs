//! Reduction kernels against a plain streaming loop over the same memory, and quantization.
//!
//!     cargo bench --bench kernels                    # every type, in cache and from memory
//!     cargo bench --bench kernels -- 'memory/.*f16'  # those whose name matches
//!
//! At the end, whatever was asked for, the two by turns.
//!
//! Throughput is that of one operand: a pass reads twice that and writes it once. `avg` divides. For
//! quantization it is that of the elements: `encode` a share, `pass on` what was received with one added,
//! `finish` likewise with the result written, `decode`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group};
use pccl::kernels::Route;
use pccl::kernels::quantize::{Codec, Combine, Place, Share};
use pccl::kernels::reduce::{InPlace, OutOfPlace, reduce, reduce_into, reduce_on};
use pccl::{DataType, Quantization, ReduceOp, Rounding};

const IN_CACHE: usize = 64 << 10;
const IN_MEMORY: usize = 256 << 20;

struct Buffers {
    out: Vec<u8>,
    accumulator: Vec<u8>,
    incoming: Vec<u8>,
}

impl Buffers {
    /// Floats of any type between 0.5 and 2: an accumulator that passes over them again and
    /// again comes to no number that a processor is slow with.
    fn new(len: usize) -> Self {
        let fill = |salt: u32| {
            (0..len as u32)
                .map(|i| match i % 2 {
                    0 => 0xf0 | (i.wrapping_add(salt).wrapping_mul(2_654_435_761) >> 24) as u8,
                    _ => 0x3f,
                })
                .collect()
        };
        Self {
            out: vec![0; len],
            accumulator: fill(1),
            incoming: fill(2),
        }
    }
}

/// The same for the streaming loop.
struct Words {
    out: Vec<u64>,
    accumulator: Vec<u64>,
    incoming: Vec<u64>,
}

impl Words {
    fn new(len: usize) -> Self {
        Self {
            out: vec![1; len / 8],
            accumulator: vec![2; len / 8],
            incoming: vec![3; len / 8],
        }
    }
}

/// One pass in place and one out of place.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    route: Route,
    (op, data_type, world_size): (ReduceOp, DataType, Option<u32>),
    buffers: &mut Buffers,
) {
    let Buffers {
        out,
        accumulator,
        incoming,
    } = buffers;
    let id = |form| BenchmarkId::new(format!("{data_type} {op} {}", route.name()), form);
    group.bench_function(id("into"), |bencher| {
        bencher.iter(|| {
            let operands = OutOfPlace {
                out: black_box(out),
                accumulator,
                incoming,
            };
            reduce_on(route, op, data_type, world_size, operands);
        });
    });
    group.bench_function(id("in place"), |bencher| {
        bencher.iter(|| {
            let operands = InPlace {
                accumulator: black_box(accumulator),
                incoming,
            };
            reduce_on(route, op, data_type, world_size, operands);
        });
    });
}

/// The yardstick: the same traffic, next to no arithmetic, and what the compiler makes of it.
fn stream_into(words: &mut Words) {
    let inputs = words.accumulator.iter().zip(&words.incoming);
    for (out, (a, b)) in black_box(&mut words.out).iter_mut().zip(inputs) {
        *out = a ^ b;
    }
}

fn stream_in_place(words: &mut Words) {
    let incoming = words.incoming.iter();
    for (a, b) in black_box(&mut words.accumulator).iter_mut().zip(incoming) {
        *a ^= b;
    }
}

fn measure_stream(group: &mut BenchmarkGroup<'_, WallTime>, beside: DataType, words: &mut Words) {
    let id = |form| BenchmarkId::new(format!("stream beside {beside}"), form);
    group.bench_function(id("into"), |bencher| bencher.iter(|| stream_into(words)));
    group.bench_function(id("in place"), |bencher| {
        bencher.iter(|| stream_in_place(words));
    });
}

/// From memory, the streaming loop and the kernel by turns, so that a busy machine is as busy for
/// both. Prints medians in GB/s, and their ratio: the kernels' promise is 0.9 for `f32` and `bf16`.
#[allow(clippy::disallowed_methods, clippy::print_stdout)]
fn by_turns() {
    let mut buffers = Buffers::new(IN_MEMORY);
    let mut words = Words::new(IN_MEMORY);
    let seconds = |pass: &mut dyn FnMut()| {
        let start = Instant::now();
        pass();
        start.elapsed().as_secs_f64()
    };
    println!("sum, 256 MiB, GB/s of one operand: stream, kernel, ratio");
    for data_type in [DataType::F32, DataType::BF16, DataType::F16, DataType::F64] {
        for in_place in [false, true] {
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..21 {
                times[0].push(seconds(&mut || match in_place {
                    false => stream_into(&mut words),
                    true => stream_in_place(&mut words),
                }));
                let Buffers {
                    out,
                    accumulator,
                    incoming,
                } = &mut buffers;
                times[1].push(seconds(&mut || match in_place {
                    false => reduce_into(ReduceOp::Sum, data_type, out, accumulator, incoming),
                    true => reduce(ReduceOp::Sum, data_type, accumulator, incoming),
                }));
            }
            let [stream, kernel] = times.map(|mut times| {
                times.sort_by(f64::total_cmp);
                IN_MEMORY as f64 / times[times.len() / 2] / 1e9
            });
            let form = if in_place { "in place" } else { "into" };
            let ratio = kernel / stream;
            println!("{data_type:>5} {form:8} {stream:6.1} {kernel:6.1} {ratio:6.2}");
        }
    }
}

fn kernels(criterion: &mut Criterion) {
    for (place, len) in [("cache", IN_CACHE), ("memory", IN_MEMORY)] {
        let mut group = criterion.benchmark_group(place);
        group.throughput(Throughput::Bytes(len as u64));
        group.sample_size(10);
        group.warm_up_time(Duration::from_millis(300));
        group.measurement_time(Duration::from_secs(1));
        let mut buffers = Buffers::new(len);
        let mut words = Words::new(len);
        for data_type in [
            DataType::F32,
            DataType::BF16,
            DataType::F16,
            DataType::F64,
            DataType::U8,
            DataType::I32,
        ] {
            // Beside each type: what else the machine does is then the same for both.
            measure_stream(&mut group, data_type, &mut words);
            for route in Route::available() {
                let what = (ReduceOp::Sum, data_type, None);
                measure(&mut group, route, what, &mut buffers);
            }
            for (op, world_size) in [(ReduceOp::Max, None), (ReduceOp::Avg, Some(3))] {
                let what = (op, data_type, world_size);
                measure(&mut group, Route::best(), what, &mut buffers);
            }
        }
        group.finish();
    }
}

/// Every scheme, in cache.
fn quantize(criterion: &mut Criterion) {
    const LEN: usize = IN_CACHE;
    let mut group = criterion.benchmark_group("quantize");
    group.throughput(Throughput::Bytes(LEN as u64));
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(700));
    let number = |i: usize| ((i * 2_654_435_761) as u32 as f32 / 4e9) - 0.5;
    let input: Vec<u8> = (0..LEN / 4).flat_map(|i| number(i).to_ne_bytes()).collect();
    let mut output = vec![0; LEN];
    let mut schemes: Vec<(&str, Quantization)> = vec![
        ("min-max u8", Quantization::min_max(DataType::U8)),
        (
            "zero-point u8",
            Quantization::zero_point_scale(DataType::U8),
        ),
        ("min-max u16", Quantization::min_max(DataType::U16)),
        ("int8", Quantization::int8()),
        ("int4", Quantization::int4()),
        ("mx-fp8 e4m3", Quantization::mx_fp8_e4m3()),
        ("mx-fp8 e5m2", Quantization::mx_fp8_e5m2()),
        ("mx-fp4", Quantization::mx_fp4()),
    ];
    let stochastic = Rounding::Stochastic { key: 1 };
    schemes.push(("int8 stochastic", Quantization::int8().rounding(stochastic)));
    for (name, quantization) in schemes {
        for route in Route::available() {
            let codec = Codec::on(route, quantization, DataType::F32);
            let mut encoded = vec![0; codec.encoded_len_bytes(LEN)];
            let share = || Share {
                input: &input,
                residual: None,
            };
            let id = |stage| BenchmarkId::new(format!("{name} {}", route.name()), stage);
            group.bench_function(id("encode"), |bencher| {
                bencher.iter(|| codec.encode(share(), Place::default(), black_box(&mut encoded)));
            });
            let received = encoded.clone();
            let combine = |finish| Combine {
                op: ReduceOp::Sum,
                finish,
            };
            group.bench_function(id("pass on"), |bencher| {
                bencher.iter(|| {
                    let encoded = black_box(&mut encoded);
                    codec.combine(
                        combine(None),
                        &[&received],
                        share(),
                        Place::default(),
                        encoded,
                        None,
                    );
                });
            });
            group.bench_function(id("finish"), |bencher| {
                bencher.iter(|| {
                    let (encoded, output) = (&mut encoded, black_box(&mut output));
                    codec.combine(
                        combine(Some(2)),
                        &[&received],
                        share(),
                        Place::default(),
                        encoded,
                        Some(output),
                    );
                });
            });
            group.bench_function(id("decode"), |bencher| {
                bencher.iter(|| codec.decode(&received, black_box(&mut output)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, kernels, quantize);
fn main() {
    benches();
    if std::env::args().any(|argument| argument == "--bench") {
        by_turns();
    }
    Criterion::default().configure_from_args().final_summary();
}
