//! Every route against the plainest reading of the definition, to the bit.

use super::*;
use ::half::{bf16, f16};
use proptest::prelude::*;

/// One element combined by the plainest reading of the definition.
fn naive(op: ReduceOp, data_type: DataType, divide: Option<u32>, a: &[u8], b: &[u8]) -> Vec<u8> {
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
        ($t:ty, $wide:ty, $into:expr, $back:expr, $nan:expr) => {{
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
            let rounded: $t = if combined.is_nan() {
                <$t>::from_bits($nan)
            } else {
                $back(combined)
            };
            rounded.to_ne_bytes().to_vec()
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
        DataType::F16 => float!(f16, f32, f16::to_f32, f16::from_f32, 0x7e00),
        DataType::BF16 => float!(bf16, f32, bf16::to_f32, bf16::from_f32, 0x7fc0),
        DataType::F32 => float!(f32, f32, |x| x, |x: f32| x, 0x7fc0_0000),
        DataType::F64 => float!(f64, f64, |x| x, |x: f64| x, 0x7ff8 << 48),
    }
}

/// Combines on every route, in place and out of place, and compares with the plainest reading.
fn check(op: ReduceOp, data_type: DataType, divide: Option<u32>, a: &[u8], b: &[u8]) {
    let size = data_type.size_bytes();
    let pairs = a.chunks(size).zip(b.chunks(size));
    let expected: Vec<u8> = pairs
        .flat_map(|(a, b)| naive(op, data_type, divide, a, b))
        .collect();
    for route in Route::available() {
        let mut in_place = a.to_vec();
        let operands = InPlace {
            accumulator: &mut in_place,
            incoming: b,
        };
        reduce_on(route, op, data_type, divide, operands);
        let mut out = vec![0xa5; a.len()];
        let operands = OutOfPlace {
            out: &mut out,
            accumulator: a,
            incoming: b,
        };
        reduce_on(route, op, data_type, divide, operands);
        for (form, result) in [("in place", in_place), ("out of place", out)] {
            let Some(at) = (0..expected.len()).find(|&i| expected[i] != result[i]) else {
                continue;
            };
            let element = at / size * size..(at / size + 1) * size;
            panic!(
                "{op} {data_type} / {divide:?} {form} on {}, element {} of {}: {:x?} {:x?} gave {:x?}, not {:x?}",
                route.name(),
                at / size,
                expected.len() / size,
                &a[element.clone()],
                &b[element.clone()],
                &result[element.clone()],
                &expected[element]
            );
        }
    }
}

/// Numbers that the arithmetic could trip over, in the upper bytes of an element: zeros, ones, the
/// smallest, the largest, subnormals, infinities, NaNs with and without their quiet bit.
fn special(data_type: DataType, which: u64) -> u64 {
    let (bits, fraction_bits) = match data_type {
        DataType::F16 => (16, 10),
        DataType::BF16 => (16, 7),
        DataType::F32 => (32, 23),
        DataType::F64 => (64, 52),
        other => (8 * other.size_bytes() as u32, 3),
    };
    let exponent = (1u64 << (bits - 1)) - (1 << fraction_bits);
    let magnitude = match which >> 1 & 15 {
        0 => 0,
        1 => 1,
        2 => (1 << fraction_bits) - 1,
        3 => 1 << fraction_bits,
        4 => exponent - 1,
        5 => exponent,
        6 => exponent | 1,
        7 => exponent | 1 << (fraction_bits - 1),
        8 => exponent | ((1 << fraction_bits) - 1),
        9 => exponent / 2,
        10 => exponent / 2 + 1,
        _ => which >> 5 & (exponent - 1),
    };
    magnitude | (which & 1) << (bits - 1)
}

/// Elements from a seed, half of them special.
fn elements(data_type: DataType, count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::new();
    for _ in 0..count {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let draw = state ^ state >> 32;
        let bits = match draw >> 7 & 1 {
            0 => draw >> 8,
            _ => special(data_type, draw >> 8),
        };
        bytes.extend_from_slice(&bits.to_le_bytes()[..data_type.size_bytes()]);
    }
    bytes
}

#[test]
fn every_route_gives_the_defined_bits_at_every_length_around_a_vector() {
    for data_type in DataType::ALL {
        for op in ReduceOp::ALL {
            for count in (0..=70).chain([127, 128, 129, 255, 257]) {
                let divide = [None, Some(3), Some(8)][count % 3];
                let a = elements(data_type, count, 2 * count as u64);
                let b = elements(data_type, count, 2 * count as u64 + 1);
                check(op, data_type, divide, &a, &b);
            }
        }
    }
}

/// Every product with one, and every third: all subnormals, all roundings to 16 bits of a third.
#[test]
fn every_half_precision_number_is_widened_and_rounded_as_defined() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_ne_bytes).collect();
    for (data_type, one) in [
        (DataType::F16, f16::ONE.to_ne_bytes()),
        (DataType::BF16, bf16::ONE.to_ne_bytes()),
    ] {
        check(ReduceOp::Prod, data_type, None, &all, &one.repeat(1 << 16));
        let zero = [0u8; 2].repeat(1 << 16);
        check(ReduceOp::Avg, data_type, Some(3), &all, &zero);
        check(ReduceOp::Avg, data_type, Some(4), &all, &zero);
        check(ReduceOp::Max, data_type, None, &all, &zero);
        check(ReduceOp::Min, data_type, None, &zero, &all);
    }
}

proptest! {
    #[test]
    fn every_route_agrees_with_the_definition_from_any_start(
        op in prop::sample::select(ReduceOp::ALL.to_vec()),
        data_type in prop::sample::select(DataType::ALL.to_vec()),
        divide in prop::option::of(prop_oneof![1u32..20, Just(u32::MAX), any::<u32>().prop_map(|w| w.max(1))]),
        count in prop_oneof![Just(0usize), Just(1), 2usize..700],
        starts in (0usize..9, 0usize..9),
        seed in any::<u64>(),
    ) {
        let a = elements(data_type, count + 16, seed);
        let b = elements(data_type, count + 16, !seed);
        let len = count * data_type.size_bytes();
        check(op, data_type, divide, &a[starts.0..starts.0 + len], &b[starts.1..starts.1 + len]);
    }

    #[test]
    fn alignment_never_shows(
        op in prop::sample::select(ReduceOp::ALL.to_vec()),
        data_type in prop::sample::select(DataType::ALL.to_vec()),
        start in 1usize..64,
        seed in any::<u64>(),
    ) {
        let count = 512 / data_type.size_bytes();
        let (a, b) = (elements(data_type, count, seed), elements(data_type, count, !seed));
        let mut aligned = a.clone();
        reduce_finish(op, data_type, 3, &mut aligned, &b);
        let mut memory = vec![0u8; 512 + start];
        memory[start..].copy_from_slice(&a);
        reduce_finish(op, data_type, 3, &mut memory[start..], &b);
        prop_assert_eq!(&memory[start..], &aligned[..]);
        reduce_finish_into(op, data_type, 3, &mut memory[start..], &a, &b);
        prop_assert_eq!(&memory[start..], &aligned[..]);
    }
}

#[test]
fn an_average_is_divided_at_the_end_only_out_of_place_too() {
    let (a, b) = (6f32.to_ne_bytes(), 4f32.to_ne_bytes());
    let mut out = [0; 4];
    reduce_into(ReduceOp::Avg, DataType::F32, &mut out, &a, &b);
    assert_eq!(f32::from_ne_bytes(out), 10.0);
    reduce_finish_into(ReduceOp::Avg, DataType::F32, 2, &mut out, &a, &b);
    assert_eq!(f32::from_ne_bytes(out), 5.0);
    reduce_finish_into(ReduceOp::Avg, DataType::F32, 0, &mut out, &a, &b);
    assert_eq!(f32::from_ne_bytes(out), 10.0);
}

#[test]
fn whatever_nan_goes_in_one_comes_out() {
    for op in ReduceOp::ALL {
        for (a, b) in [
            (0xffc0_1234u32, 0x7f80_0001u32),
            (0x7f80_0001, 0x3f80_0000),
            (0x3f80_0000, 0xffff_ffff),
        ] {
            let mut out = a.to_ne_bytes();
            reduce_finish(op, DataType::F32, 2, &mut out, &b.to_ne_bytes());
            assert_eq!(u32::from_ne_bytes(out), 0x7fc0_0000, "{op} {a:x} {b:x}");
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
    for data_type in [DataType::F16, DataType::BF16] {
        let mut out = [0xee; 70];
        reduce_into(ReduceOp::Sum, data_type, &mut out, &[0; 69], &[0; 67]);
        assert_eq!(out[..66], [0; 66]);
        assert_eq!(out[66..], [0xee; 4]);
    }
}
