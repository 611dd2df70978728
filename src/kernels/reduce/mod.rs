//! Combining two buffers of elements: `accumulator (+) incoming`, in place or into a third buffer.
//!
//! Buffers are plain bytes in the machine's order and may start at any address. The result is a
//! function of the operands and their order alone, bit by bit: block sizes, alignment, the route
//! taken and the machine never show in it. That order is the schedule's business.
//!
//! Two parts: what one element and another give (`scalar`, and `half` beside this), and the loops over
//! buffers (`operands`).
//!
//! | type | arithmetic |
//! | --- | --- |
//! | integers | wrapping; an average divides the wrapped sum, truncating towards zero |
//! | `f32`, `f64` | the type's own; largest and smallest are NaN if an operand is, and the right operand if both are equal |
//! | `f16`, `bf16` | `f32` inside a step, rounded once at its end, after the division if there is one |
//! | any float | a result that is NaN is the positive quiet one without payload (`0x7fc00000`, `0x7ff8000000000000`, `0x7e00`, `0x7fc0`), whatever went in |

mod operands;
mod scalar;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::num::NonZeroU32;

use ::half::{bf16, f16};

use super::Route;
use super::half::{self, Half};
use super::route::{Instructions, Pass};
use crate::types::{DataType, ReduceOp};

pub use operands::{InPlace, Operands, OutOfPlace};
pub(in crate::kernels) use scalar::Element;
use scalar::Number;

/// Combines `incoming` into `accumulator`: every step of a reduction but the last.
///
/// `Avg` adds; the division belongs to [`reduce_finish`]. Both slices hold the same whole number
/// of elements; what one has beyond the other is left alone. Costs one pass over both.
pub fn reduce(op: ReduceOp, data_type: DataType, accumulator: &mut [u8], incoming: &[u8]) {
    let operands = InPlace {
        accumulator,
        incoming,
    };
    reduce_on(Route::best(), op, data_type, None, operands);
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
    let operands = InPlace {
        accumulator,
        incoming,
    };
    reduce_on(Route::best(), op, data_type, Some(world_size), operands);
}

/// `out = accumulator (+) incoming`: the bits of [`reduce`] on a copy of `accumulator`, without
/// the pass that the copy would be.
///
/// All three hold the same whole number of elements; what one has beyond another is left alone.
/// What was in `out` does not matter.
pub fn reduce_into(
    op: ReduceOp,
    data_type: DataType,
    out: &mut [u8],
    accumulator: &[u8],
    incoming: &[u8],
) {
    let operands = OutOfPlace {
        out,
        accumulator,
        incoming,
    };
    reduce_on(Route::best(), op, data_type, None, operands);
}

/// [`reduce_finish`] on a copy of `accumulator` in `out`, as [`reduce_into`] is [`reduce`].
pub fn reduce_finish_into(
    op: ReduceOp,
    data_type: DataType,
    world_size: u32,
    out: &mut [u8],
    accumulator: &[u8],
    incoming: &[u8],
) {
    let operands = OutOfPlace {
        out,
        accumulator,
        incoming,
    };
    reduce_on(Route::best(), op, data_type, Some(world_size), operands);
}

/// Any of the above on a route of the caller's choice, for tests and benches. With a `world_size`
/// it completes the reduction.
pub fn reduce_on(
    route: Route,
    op: ReduceOp,
    data_type: DataType,
    world_size: Option<u32>,
    operands: impl Operands,
) {
    let world_size = world_size.map(|size| NonZeroU32::new(size).unwrap_or(NonZeroU32::MIN));
    match data_type {
        DataType::U8 => reduce_as::<u8, 1>(route, op, world_size, operands),
        DataType::I8 => reduce_as::<i8, 1>(route, op, world_size, operands),
        DataType::I16 => reduce_as::<i16, 2>(route, op, world_size, operands),
        DataType::U16 => reduce_as::<u16, 2>(route, op, world_size, operands),
        DataType::U32 => reduce_as::<u32, 4>(route, op, world_size, operands),
        DataType::I32 => reduce_as::<i32, 4>(route, op, world_size, operands),
        DataType::U64 => reduce_as::<u64, 8>(route, op, world_size, operands),
        DataType::I64 => reduce_as::<i64, 8>(route, op, world_size, operands),
        DataType::F32 => reduce_as::<f32, 4>(route, op, world_size, operands),
        DataType::F64 => reduce_as::<f64, 8>(route, op, world_size, operands),
        DataType::F16 => reduce_half::<f16>(route, op, world_size, operands),
        DataType::BF16 => reduce_half::<bf16>(route, op, world_size, operands),
    }
}

fn reduce_as<E: Element<N>, const N: usize>(
    route: Route,
    op: ReduceOp,
    world_size: Option<NonZeroU32>,
    operands: impl Operands,
) {
    match op {
        ReduceOp::Max => combine::<E, N>(route, operands, E::Number::larger),
        ReduceOp::Min => combine::<E, N>(route, operands, E::Number::smaller),
        _ => calculate::<E, N>(route, op, world_size, operands),
    }
}

fn reduce_half<H: Half + Element<2>>(
    route: Route,
    op: ReduceOp,
    world_size: Option<NonZeroU32>,
    operands: impl Operands,
) {
    match op {
        ReduceOp::Max => combine::<u16, 2>(route, operands, half::larger::<H>),
        ReduceOp::Min => combine::<u16, 2>(route, operands, half::smaller::<H>),
        _ => calculate::<H, 2>(route, op, world_size, operands),
    }
}

fn calculate<E: Element<N>, const N: usize>(
    route: Route,
    op: ReduceOp,
    world_size: Option<NonZeroU32>,
    operands: impl Operands,
) {
    match (op, world_size) {
        (ReduceOp::Prod, _) => combine::<E, N>(route, operands, E::Number::product),
        (ReduceOp::Avg, Some(world_size)) => {
            combine::<E, N>(route, operands, |a, b| a.average(b, world_size));
        }
        _ => combine::<E, N>(route, operands, E::Number::sum),
    }
}

/// All elements of `operands` by `step`.
struct Combine<E, O, S, const N: usize> {
    operands: O,
    step: S,
    element: PhantomData<E>,
}

impl<E, O, S, const N: usize> Pass for Combine<E, O, S, N>
where
    E: Element<N>,
    O: Operands,
    S: Fn(E::Number, E::Number) -> E::Number,
{
    type Output = ();

    #[inline(always)]
    fn run(self, instructions: impl Instructions) {
        E::combine(instructions, self.operands, self.step);
    }
}

fn combine<E: Element<N>, const N: usize>(
    route: Route,
    operands: impl Operands,
    step: impl Fn(E::Number, E::Number) -> E::Number,
) {
    route.run(Combine {
        operands,
        step,
        element: PhantomData::<E>,
    });
}
