//! Combining two buffers of elements: `accumulator = accumulator (+) incoming`.
//!
//! Buffers are plain bytes in the machine's order and may start at any address. The result is a
//! function of the operands and their order alone, bit by bit: block sizes, alignment and the
//! route taken never show in it. That order is the schedule's business.
//!
//! | type | arithmetic |
//! | --- | --- |
//! | integers | wrapping; an average divides the wrapped sum, truncating towards zero |
//! | `f32`, `f64` | the type's own; largest and smallest are NaN if an operand is |
//! | `f16`, `bf16` | `f32` inside a step, rounded once at its end, after the division if there is one |

mod scalar;

use crate::types::{DataType, ReduceOp};

/// Combines `incoming` into `accumulator`: every step of a reduction but the last.
///
/// `Avg` adds; the division belongs to [`reduce_finish`]. Both slices hold the same whole number
/// of elements; what one has beyond the other is left alone. Costs one pass over both.
pub fn reduce(op: ReduceOp, data_type: DataType, accumulator: &mut [u8], incoming: &[u8]) {
    scalar::reduce(op, data_type, accumulator, incoming);
}

/// Combines like [`reduce`] and completes the reduction: `Avg` also divides by `world_size`.
///
/// A `world_size` of 0 counts as 1. Costs one pass over both slices.
pub fn reduce_finish(
    op: ReduceOp,
    data_type: DataType,
    world_size: u32,
    accumulator: &mut [u8],
    incoming: &[u8],
) {
    match op {
        ReduceOp::Avg => {
            scalar::add_and_divide(data_type, world_size.max(1), accumulator, incoming);
        }
        ReduceOp::Sum | ReduceOp::Prod | ReduceOp::Max | ReduceOp::Min => {
            scalar::reduce(op, data_type, accumulator, incoming);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    /// One element combined by the plainest reading of the definition.
    fn naive(
        op: ReduceOp,
        data_type: DataType,
        divide: Option<u32>,
        a: &[u8],
        b: &[u8],
    ) -> Vec<u8> {
        macro_rules! integer {
            ($t:ty) => {{
                let (a, b) = (
                    <$t>::from_ne_bytes(a.try_into().unwrap()),
                    <$t>::from_ne_bytes(b.try_into().unwrap()),
                );
                let combined = match op {
                    ReduceOp::Sum | ReduceOp::Avg => a.wrapping_add(b),
                    ReduceOp::Prod => a.wrapping_mul(b),
                    ReduceOp::Max => a.max(b),
                    ReduceOp::Min => a.min(b),
                };
                match (op, divide) {
                    (ReduceOp::Avg, Some(w)) => ((combined as i128 / i128::from(w)) as $t)
                        .to_ne_bytes()
                        .to_vec(),
                    _ => combined.to_ne_bytes().to_vec(),
                }
            }};
        }
        macro_rules! float {
            ($t:ty, $wide:ty, $into:expr, $back:expr) => {{
                let (a, b): ($wide, $wide) = (
                    $into(<$t>::from_ne_bytes(a.try_into().unwrap())),
                    $into(<$t>::from_ne_bytes(b.try_into().unwrap())),
                );
                let combined = match op {
                    ReduceOp::Sum | ReduceOp::Avg => a + b,
                    ReduceOp::Prod => a * b,
                    _ if a.is_nan() || b.is_nan() => <$wide>::NAN,
                    ReduceOp::Max => {
                        if a > b {
                            a
                        } else {
                            b
                        }
                    }
                    ReduceOp::Min => {
                        if a < b {
                            a
                        } else {
                            b
                        }
                    }
                };
                let combined = match (op, divide) {
                    (ReduceOp::Avg, Some(w)) => combined / (w as $wide),
                    _ => combined,
                };
                $back(combined).to_ne_bytes().to_vec()
            }};
        }
        match data_type {
            DataType::U8 => integer!(u8),
            DataType::I8 => integer!(i8),
            DataType::I16 => integer!(i16),
            DataType::U16 => integer!(u16),
            DataType::U32 => integer!(u32),
            DataType::I32 => integer!(i32),
            DataType::U64 => integer!(u64),
            DataType::I64 => integer!(i64),
            DataType::F16 => float!(f16, f32, f16::to_f32, f16::from_f32),
            DataType::BF16 => float!(bf16, f32, bf16::to_f32, bf16::from_f32),
            DataType::F32 => float!(f32, f32, |x| x, |x: f32| x),
            DataType::F64 => float!(f64, f64, |x| x, |x: f64| x),
        }
    }

    fn is_nan(data_type: DataType, bytes: &[u8]) -> bool {
        match data_type {
            DataType::F16 => f16::from_ne_bytes(bytes.try_into().unwrap()).is_nan(),
            DataType::BF16 => bf16::from_ne_bytes(bytes.try_into().unwrap()).is_nan(),
            DataType::F32 => f32::from_ne_bytes(bytes.try_into().unwrap()).is_nan(),
            DataType::F64 => f64::from_ne_bytes(bytes.try_into().unwrap()).is_nan(),
            _ => false,
        }
    }

    fn check(op: ReduceOp, data_type: DataType, divide: Option<u32>, a: &[u8], b: &[u8]) {
        let mut out = a.to_vec();
        match divide {
            None => reduce(op, data_type, &mut out, b),
            Some(w) => reduce_finish(op, data_type, w, &mut out, b),
        }
        let size = data_type.size_bytes();
        for ((out, a), b) in out.chunks(size).zip(a.chunks(size)).zip(b.chunks(size)) {
            let expected = naive(op, data_type, divide, a, b);
            // Which NaN comes out of an addition is the processor's choice.
            let both_nan = is_nan(data_type, out) && is_nan(data_type, &expected);
            assert!(
                both_nan || out == expected,
                "{op} {data_type} / {divide:?}: {a:?} {b:?} gave {out:?}, not {expected:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_kernel_agrees_with_its_definition(
            op in prop::sample::select(ReduceOp::ALL.to_vec()),
            data_type in prop::sample::select(DataType::ALL.to_vec()),
            divide in prop::option::of(prop_oneof![1u32..20, Just(u32::MAX), any::<u32>().prop_map(|w| w.max(1))]),
            count in prop_oneof![Just(0usize), Just(1), 2usize..700],
            start in 0usize..9,
            bytes in prop::collection::vec(any::<u8>(), 2 * 700 * 8 + 16),
        ) {
            let len = count * data_type.size_bytes();
            let a = &bytes[start..start + len];
            let b = &bytes[8 + 700 * 8..][..len];
            check(op, data_type, divide, a, b);
        }

        #[test]
        fn alignment_never_shows(
            op in prop::sample::select(ReduceOp::ALL.to_vec()),
            data_type in prop::sample::select(DataType::ALL.to_vec()),
            start in 1usize..16,
            bytes in prop::collection::vec(any::<u8>(), 1024),
        ) {
            let (a, b) = bytes.split_at(512);
            let mut aligned = a.to_vec();
            reduce_finish(op, data_type, 3, &mut aligned, b);
            let mut memory = vec![0u8; 512 + start];
            memory[start..].copy_from_slice(a);
            reduce_finish(op, data_type, 3, &mut memory[start..], b);
            prop_assert_eq!(&memory[start..], &aligned[..]);
        }
    }

    #[test]
    fn special_floats_follow_the_definition() {
        let values = [
            0.0f32,
            -0.0,
            1.0,
            -1.0,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            1e-45,
        ];
        for op in ReduceOp::ALL {
            for a in values {
                for b in values {
                    check(
                        op,
                        DataType::F32,
                        Some(3),
                        &a.to_ne_bytes(),
                        &b.to_ne_bytes(),
                    );
                    let (a16, b16) = (f16::from_f32(a), f16::from_f32(b));
                    check(
                        op,
                        DataType::F16,
                        Some(3),
                        &a16.to_ne_bytes(),
                        &b16.to_ne_bytes(),
                    );
                    let (a16, b16) = (bf16::from_f32(a), bf16::from_f32(b));
                    check(
                        op,
                        DataType::BF16,
                        Some(3),
                        &a16.to_ne_bytes(),
                        &b16.to_ne_bytes(),
                    );
                }
            }
        }
    }

    #[test]
    fn a_half_precision_average_may_pass_beyond_the_largest_value() {
        let max = f16::MAX.to_ne_bytes();
        let mut out = max;
        reduce_finish(ReduceOp::Avg, DataType::F16, 2, &mut out, &max);
        assert_eq!(f16::from_ne_bytes(out), f16::MAX);
    }

    #[test]
    fn a_world_larger_than_the_element_type_divides_rightly() {
        let mut out = [200u8];
        reduce_finish(ReduceOp::Avg, DataType::U8, 256, &mut out, &[55]);
        assert_eq!(out, [0]);
        let mut out = (-7i8).to_ne_bytes();
        reduce_finish(ReduceOp::Avg, DataType::I8, 2, &mut out, &[0]);
        assert_eq!(i8::from_ne_bytes(out), -3);
    }

    #[test]
    fn unequal_lengths_leave_the_rest_alone() {
        let mut out = [1u8, 2, 3];
        reduce(ReduceOp::Sum, DataType::U8, &mut out, &[1]);
        assert_eq!(out, [2, 2, 3]);
        reduce(ReduceOp::Sum, DataType::F64, &mut out, &[1]);
        assert_eq!(out, [2, 2, 3]);
    }
}
