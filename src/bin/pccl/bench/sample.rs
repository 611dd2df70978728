//! Inputs that every rank can compute for every other, and the result they must give.
//!
//! An input is a small whole number of *steps*: a step is 1 for integers and 1/8 for floats. Sums
//! of them are exact in every float type for a few peers, so any error is an error.

use pccl::{Element, ReduceOp};

use super::pages::Number;

/// Inputs repeat after this many elements. Prime, so that a chunk that lands at the wrong place
/// meets other values, and small, so that buffers are filled and checked at memory speed.
const TILE: usize = 8191;

/// An element type that the benchmark can fill buffers with and check.
pub(super) trait Sample: Element + Number + Copy + 'static {
    /// The value of `steps` steps.
    fn of_steps(steps: u8) -> Self;
    /// The value as a real number.
    fn as_real(self) -> f64;
    /// What reducing one value per rank must give.
    fn expected(op: ReduceOp, steps_by_rank: &[u8]) -> f64;
}

/// The input of `rank` to the operation with the number `operation`, repeated to `count` elements.
pub(super) fn fill<T: Sample>(buffer: &mut [T], rank: u32, operation: u32) {
    let tile: Vec<T> = (0..TILE.min(buffer.len()))
        .map(|index| T::of_steps(steps(rank, operation, index)))
        .collect();
    for part in buffer.chunks_mut(TILE) {
        part.copy_from_slice(&tile[..part.len()]);
    }
}

/// The largest distance of `result` from what `world` ranks must get.
pub(super) fn max_abs_error<T: Sample>(
    result: &[T],
    op: ReduceOp,
    world: u32,
    operation: u32,
) -> f64 {
    let expected: Vec<f64> = (0..TILE.min(result.len()))
        .map(|index| {
            let inputs: Vec<u8> = (0..world)
                .map(|rank| steps(rank, operation, index))
                .collect();
            T::expected(op, &inputs)
        })
        .collect();
    let mut worst = 0.0_f64;
    for part in result.chunks(TILE) {
        for (value, expected) in part.iter().zip(&expected) {
            let error = (value.as_real() - expected).abs();
            // A NaN must not pass for no error, and JSON has no infinity.
            worst = worst.max(if error.is_finite() { error } else { f64::MAX });
        }
    }
    worst
}

/// 1 to 13, different between ranks, operations and neighbouring elements.
fn steps(rank: u32, operation: u32, index: usize) -> u8 {
    let mixed = index as u64 * 7 + u64::from(rank) * 5 + u64::from(operation) * 3;
    u8::try_from(mixed % 13 + 1).unwrap_or(1)
}

macro_rules! integer_samples {
    ($($type:ty),*) => { $(
        impl Sample for $type {
            fn of_steps(steps: u8) -> Self {
                steps as $type
            }

            fn as_real(self) -> f64 {
                self as f64
            }

            fn expected(op: ReduceOp, steps_by_rank: &[u8]) -> f64 {
                let inputs = steps_by_rank.iter().map(|steps| *steps as $type);
                let sum = || inputs.clone().fold(0, <$type>::wrapping_add);
                let value: $type = match op {
                    ReduceOp::Sum => sum(),
                    ReduceOp::Avg => sum() / steps_by_rank.len().max(1) as $type,
                    ReduceOp::Prod => inputs.fold(1, <$type>::wrapping_mul),
                    ReduceOp::Max => inputs.max().unwrap_or_default(),
                    ReduceOp::Min => inputs.min().unwrap_or_default(),
                };
                value.as_real()
            }
        }
    )* };
}

macro_rules! float_samples {
    ($($type:ty, $to:expr, $from:expr);*) => { $(
        impl Sample for $type {
            fn of_steps(steps: u8) -> Self {
                $from(f32::from(steps) / 8.0)
            }

            fn as_real(self) -> f64 {
                $to(self)
            }

            fn expected(op: ReduceOp, steps_by_rank: &[u8]) -> f64 {
                let inputs = steps_by_rank.iter().map(|steps| f64::from(*steps) / 8.0);
                match op {
                    ReduceOp::Sum => inputs.sum(),
                    ReduceOp::Avg => inputs.sum::<f64>() / steps_by_rank.len().max(1) as f64,
                    ReduceOp::Prod => inputs.product(),
                    ReduceOp::Max => inputs.fold(f64::MIN, f64::max),
                    ReduceOp::Min => inputs.fold(f64::MAX, f64::min),
                }
            }
        }
    )* };
}

integer_samples!(u8, i8, u16, i16, u32, i32, u64, i64);
float_samples!(
    f32, f64::from, f32::from;
    f64, f64::from, f64::from;
    half::f16, half::f16::to_f64, half::f16::from_f32;
    half::bf16, half::bf16::to_f64, half::bf16::from_f32
);

#[cfg(test)]
mod tests {
    use super::*;

    /// Reduces the inputs of `world` ranks one after the other.
    fn summed(world: u32, count: usize) -> Vec<f32> {
        let mut total = vec![0.0; count];
        for rank in 0..world {
            let mut input = vec![0.0; count];
            fill(&mut input, rank, 2);
            for (total, input) in total.iter_mut().zip(&input) {
                *total += input;
            }
        }
        total
    }

    #[test]
    fn a_right_sum_has_no_error() {
        for count in [1, 2, TILE, 3 * TILE + 5] {
            let total = summed(4, count);
            assert_eq!(max_abs_error(&total, ReduceOp::Sum, 4, 2), 0.0);
        }
    }

    #[test]
    fn a_missing_rank_a_shift_and_a_nan_are_errors() {
        let mut total = summed(3, 2 * TILE);
        assert!(max_abs_error(&total, ReduceOp::Sum, 4, 2) > 0.0);
        total.rotate_left(1);
        assert!(max_abs_error(&total, ReduceOp::Sum, 3, 2) > 0.0);
        total.rotate_right(1);
        assert_eq!(max_abs_error(&total, ReduceOp::Sum, 3, 2), 0.0);
        total[TILE + 1] = f32::NAN;
        assert_eq!(max_abs_error(&total, ReduceOp::Sum, 3, 2), f64::MAX);
    }

    #[test]
    fn integers_wrap_and_truncate_as_the_library_says() {
        assert_eq!(u8::expected(ReduceOp::Sum, &[13; 20]), 4.0);
        assert_eq!(i32::expected(ReduceOp::Avg, &[2, 3]), 2.0);
        assert_eq!(u16::expected(ReduceOp::Prod, &[3, 4]), 12.0);
        assert_eq!(i8::expected(ReduceOp::Max, &[3, 4]), 4.0);
    }

    #[test]
    fn steps_are_exact_in_the_short_floats() {
        assert_eq!(half::bf16::of_steps(13).as_real(), 1.625);
        assert_eq!(half::f16::expected(ReduceOp::Sum, &[1, 2]), 0.375);
    }
}
