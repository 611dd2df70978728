//! The definition of every reduction, in safe loops that the compiler turns into vector code.
//!
//! Elements are loaded from byte arrays, so alignment never matters. Half-precision types go
//! through blocks of `f32` on the stack: converting a block at a time lets `half` use the
//! processor's own conversions.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::types::{DataType, ReduceOp};

/// See [`super::reduce`].
pub(super) fn reduce(op: ReduceOp, data_type: DataType, accumulator: &mut [u8], incoming: &[u8]) {
    match data_type {
        DataType::U8 => reduce_as::<u8, 1>(op, accumulator, incoming),
        DataType::I8 => reduce_as::<i8, 1>(op, accumulator, incoming),
        DataType::I16 => reduce_as::<i16, 2>(op, accumulator, incoming),
        DataType::U16 => reduce_as::<u16, 2>(op, accumulator, incoming),
        DataType::U32 => reduce_as::<u32, 4>(op, accumulator, incoming),
        DataType::I32 => reduce_as::<i32, 4>(op, accumulator, incoming),
        DataType::U64 => reduce_as::<u64, 8>(op, accumulator, incoming),
        DataType::I64 => reduce_as::<i64, 8>(op, accumulator, incoming),
        DataType::F32 => reduce_as::<f32, 4>(op, accumulator, incoming),
        DataType::F64 => reduce_as::<f64, 8>(op, accumulator, incoming),
        DataType::F16 => reduce_half::<f16>(op, accumulator, incoming),
        DataType::BF16 => reduce_half::<bf16>(op, accumulator, incoming),
    }
}

/// The last step of an average: `accumulator = (accumulator + incoming) / world_size`.
pub(super) fn add_and_divide(
    data_type: DataType,
    world_size: u32,
    accumulator: &mut [u8],
    incoming: &[u8],
) {
    macro_rules! average {
        ($t:ty, $bytes:literal) => {
            combine::<$t, $bytes>(accumulator, incoming, |a, b| a.sum(b).divided(world_size))
        };
    }
    match data_type {
        DataType::U8 => average!(u8, 1),
        DataType::I8 => average!(i8, 1),
        DataType::I16 => average!(i16, 2),
        DataType::U16 => average!(u16, 2),
        DataType::U32 => average!(u32, 4),
        DataType::I32 => average!(i32, 4),
        DataType::U64 => average!(u64, 8),
        DataType::I64 => average!(i64, 8),
        DataType::F32 => average!(f32, 4),
        DataType::F64 => average!(f64, 8),
        DataType::F16 => {
            combine_half::<f16>(accumulator, incoming, |a, b| a.sum(b).divided(world_size));
        }
        DataType::BF16 => {
            combine_half::<bf16>(accumulator, incoming, |a, b| a.sum(b).divided(world_size));
        }
    }
}

fn reduce_as<T: Number<N>, const N: usize>(op: ReduceOp, accumulator: &mut [u8], incoming: &[u8]) {
    match op {
        ReduceOp::Sum | ReduceOp::Avg => combine::<T, N>(accumulator, incoming, T::sum),
        ReduceOp::Prod => combine::<T, N>(accumulator, incoming, T::product),
        ReduceOp::Max => combine::<T, N>(accumulator, incoming, T::larger),
        ReduceOp::Min => combine::<T, N>(accumulator, incoming, T::smaller),
    }
}

fn reduce_half<H: Half>(op: ReduceOp, accumulator: &mut [u8], incoming: &[u8]) {
    match op {
        ReduceOp::Sum | ReduceOp::Avg => combine_half::<H>(accumulator, incoming, f32::sum),
        ReduceOp::Prod => combine_half::<H>(accumulator, incoming, f32::product),
        ReduceOp::Max => combine_half::<H>(accumulator, incoming, f32::larger),
        ReduceOp::Min => combine_half::<H>(accumulator, incoming, f32::smaller),
    }
}

#[inline]
fn combine<T: Number<N>, const N: usize>(
    accumulator: &mut [u8],
    incoming: &[u8],
    step: impl Fn(T, T) -> T,
) {
    let (accumulator, _) = accumulator.as_chunks_mut::<N>();
    let (incoming, _) = incoming.as_chunks::<N>();
    for (a, b) in accumulator.iter_mut().zip(incoming) {
        *a = step(T::load(*a), T::load(*b)).store();
    }
}

/// Elements converted at a time: both blocks and their halves stay in the first-level cache.
const BLOCK: usize = 256;

#[inline]
fn combine_half<H: Half>(accumulator: &mut [u8], incoming: &[u8], step: impl Fn(f32, f32) -> f32) {
    let mut halves = [H::ZERO; BLOCK];
    let mut left = [0f32; BLOCK];
    let mut right = [0f32; BLOCK];
    let (accumulator, _) = accumulator.as_chunks_mut::<2>();
    let (incoming, _) = incoming.as_chunks::<2>();
    for (a, b) in accumulator.chunks_mut(BLOCK).zip(incoming.chunks(BLOCK)) {
        let len = a.len().min(b.len());
        let (a, b) = (&mut a[..len], &b[..len]);
        let halves = &mut halves[..len];
        let (left, right) = (&mut left[..len], &mut right[..len]);
        load_halves(halves, a);
        H::widen(halves, left);
        load_halves(halves, b);
        H::widen(halves, right);
        for (x, y) in left.iter_mut().zip(right.iter()) {
            *x = step(*x, *y);
        }
        H::narrow(left, halves);
        for (bytes, half) in a.iter_mut().zip(halves.iter()) {
            *bytes = half.store();
        }
    }
}

#[inline]
fn load_halves<H: Half>(halves: &mut [H], bytes: &[[u8; 2]]) {
    for (half, bytes) in halves.iter_mut().zip(bytes) {
        *half = H::load(*bytes);
    }
}

/// An element type as the loops see it.
trait Number<const N: usize>: Copy {
    fn load(bytes: [u8; N]) -> Self;
    fn store(self) -> [u8; N];
    fn sum(self, other: Self) -> Self;
    fn product(self, other: Self) -> Self;
    fn larger(self, other: Self) -> Self;
    fn smaller(self, other: Self) -> Self;
    fn divided(self, world_size: u32) -> Self;
}

/// `f32` holds the dividend exactly, and a quotient that is no whole number is off by far less
/// than its distance from the next one: truncation finds the same. Vector units divide it fast.
macro_rules! by_float {
    ($dividend:expr, $world_size:expr) => {
        (f32::from($dividend) / $world_size as f32) as i32
    };
}

/// A signed type that holds every dividend and any world size.
macro_rules! by_i64 {
    ($dividend:expr, $world_size:expr) => {
        i64::from($dividend) / i64::from($world_size)
    };
}

macro_rules! by_u64 {
    ($dividend:expr, $world_size:expr) => {
        u64::from($dividend) / u64::from($world_size)
    };
}

macro_rules! integer {
    ($($t:ty, $bytes:literal, $divided:ident;)*) => {$(
        impl Number<$bytes> for $t {
            #[inline(always)]
            fn load(bytes: [u8; $bytes]) -> Self {
                <$t>::from_ne_bytes(bytes)
            }
            #[inline(always)]
            fn store(self) -> [u8; $bytes] {
                self.to_ne_bytes()
            }
            #[inline(always)]
            fn sum(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn product(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                self.max(other)
            }
            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                self.min(other)
            }
            #[inline(always)]
            fn divided(self, world_size: u32) -> Self {
                $divided!(self, world_size) as $t
            }
        }
    )*};
}

integer! {
    u8, 1, by_float;
    i8, 1, by_float;
    u16, 2, by_float;
    i16, 2, by_float;
    u32, 4, by_u64;
    i32, 4, by_i64;
    u64, 8, by_u64;
    i64, 8, by_i64;
}

macro_rules! float {
    ($($t:ty, $bytes:literal;)*) => {$(
        impl Number<$bytes> for $t {
            #[inline(always)]
            fn load(bytes: [u8; $bytes]) -> Self {
                <$t>::from_ne_bytes(bytes)
            }
            #[inline(always)]
            fn store(self) -> [u8; $bytes] {
                self.to_ne_bytes()
            }
            #[inline(always)]
            fn sum(self, other: Self) -> Self {
                self + other
            }
            #[inline(always)]
            fn product(self, other: Self) -> Self {
                self * other
            }
            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                // Comparisons with NaN are false: the second select brings it back. Of two equal
                // operands (zeros of either sign) the second is taken.
                let larger = if self > other { self } else { other };
                if self.is_nan() { <$t>::NAN } else { larger }
            }
            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                let smaller = if self < other { self } else { other };
                if self.is_nan() { <$t>::NAN } else { smaller }
            }
            #[inline(always)]
            fn divided(self, world_size: u32) -> Self {
                self / (world_size as $t)
            }
        }
    )*};
}

float! {
    f32, 4;
    f64, 8;
}

/// A half-precision type with conversions of whole slices of equal length.
trait Half: Copy {
    const ZERO: Self;
    fn load(bytes: [u8; 2]) -> Self;
    fn store(self) -> [u8; 2];
    fn widen(halves: &[Self], singles: &mut [f32]);
    fn narrow(singles: &[f32], halves: &mut [Self]);
}

impl Half for f16 {
    const ZERO: Self = f16::ZERO;
    #[inline(always)]
    fn load(bytes: [u8; 2]) -> Self {
        f16::from_ne_bytes(bytes)
    }
    #[inline(always)]
    fn store(self) -> [u8; 2] {
        self.to_ne_bytes()
    }
    #[inline(always)]
    fn widen(halves: &[Self], singles: &mut [f32]) {
        halves.convert_to_f32_slice(singles);
    }
    #[inline(always)]
    fn narrow(singles: &[f32], halves: &mut [Self]) {
        halves.convert_from_f32_slice(singles);
    }
}

impl Half for bf16 {
    const ZERO: Self = bf16::ZERO;
    #[inline(always)]
    fn load(bytes: [u8; 2]) -> Self {
        bf16::from_ne_bytes(bytes)
    }
    #[inline(always)]
    fn store(self) -> [u8; 2] {
        self.to_ne_bytes()
    }
    // Upper halves of `f32`: without branches, these become vector code of any processor.
    #[inline(always)]
    fn widen(halves: &[Self], singles: &mut [f32]) {
        for (single, half) in singles.iter_mut().zip(halves) {
            *single = f32::from_bits(u32::from(half.to_bits()) << 16);
        }
    }
    #[inline(always)]
    fn narrow(singles: &[f32], halves: &mut [Self]) {
        for (half, single) in halves.iter_mut().zip(singles) {
            let bits = single.to_bits();
            // To nearest, ties to even; a NaN is kept one by its quiet bit.
            let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
            let quiet = bits | 0x40_0000;
            let is_nan = (bits & 0x7fff_ffff) > 0x7f80_0000;
            *half = bf16::from_bits(((if is_nan { quiet } else { rounded }) >> 16) as u16);
        }
    }
}
