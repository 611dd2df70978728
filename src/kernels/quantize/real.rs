//! The numbers that quantization calculates with.

use std::ops::{Add, Div, Mul, Neg, Sub};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::types::DataType;

/// `f32` or `f64`.
pub(super) trait Real:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + IntoBytes
    + FromBytes
    + Immutable
    + KnownLayout
    + 'static
{
    /// Bits as an unsigned number.
    type Bits: Copy + Ord;

    const DATA_TYPE: DataType;
    const ZERO: Self;
    const NAN: Self;
    /// The largest number there is.
    const LARGEST: Self;
    /// The smallest number whose reciprocal, and that of all smaller steps, stays finite.
    const SMALLEST_STEP: Self;
    /// The smallest step relative to the numbers it counts: counts stay exact, and below
    /// [`Real::ROUNDING`]'s limit.
    const FINEST_STEP: Self;
    /// Added to a number up to 2^22 (2^51), it leaves the nearest whole one, of two the even one,
    /// in the low bits.
    const ROUNDING: Self;
    const ZERO_BITS: Self::Bits;
    /// All magnitudes from here on are infinite or NaN.
    const INFINITY_BITS: Self::Bits;

    fn of(number: f64) -> Self;
    fn of_f32(number: f32) -> Self;
    fn to_f32(self) -> f32;
    fn to_f64(self) -> f64;
    /// The bits without the sign: they compare like magnitudes.
    fn magnitude(self) -> Self::Bits;
    fn square_root(self) -> Self;
    /// See [`range`].
    fn range(values: &[Self]) -> (Self, Self);

    #[inline(always)]
    fn is_number(self) -> bool {
        self.magnitude() < Self::INFINITY_BITS
    }

    #[inline(always)]
    fn rounded(self) -> Self {
        (self + Self::ROUNDING) - Self::ROUNDING
    }

    /// The smaller of two numbers, in one instruction.
    #[inline(always)]
    fn least(self, other: Self) -> Self {
        if self < other { self } else { other }
    }

    #[inline(always)]
    fn most(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

macro_rules! real {
    ($t:ty, $bits:ty, $signed:ty, $data_type:expr, $nan:literal, $infinity:literal, $smallest:literal,
     $finest:literal, $rounding:literal) => {
        impl Real for $t {
            type Bits = $bits;

            const DATA_TYPE: DataType = $data_type;
            const ZERO: Self = 0.0;
            const NAN: Self = <$t>::from_bits($nan);
            const LARGEST: Self = <$t>::MAX;
            const SMALLEST_STEP: Self = <$t>::from_bits($smallest);
            const FINEST_STEP: Self = $finest;
            const ROUNDING: Self = $rounding;
            const ZERO_BITS: $bits = 0;
            const INFINITY_BITS: $bits = $infinity;

            #[inline(always)]
            fn of(number: f64) -> Self {
                number as $t
            }
            #[inline(always)]
            fn of_f32(number: f32) -> Self {
                number as $t
            }
            #[inline(always)]
            fn to_f32(self) -> f32 {
                self as f32
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn magnitude(self) -> $bits {
                self.to_bits() & (<$bits>::MAX >> 1)
            }
            #[inline(always)]
            fn square_root(self) -> Self {
                self.sqrt()
            }
            #[inline(always)]
            fn range(values: &[Self]) -> (Self, Self) {
                let (mut most_signed, mut most, mut least) = (<$signed>::MIN, 0, <$bits>::MAX);
                for value in values {
                    let bits = value.to_bits();
                    most_signed = most_signed.max(bits as $signed);
                    most = most.max(bits);
                    least = least.min(bits);
                }
                let is_negative = |bits: $bits| bits as $signed < 0;
                let (low, high) = match (is_negative(most), is_negative(least)) {
                    (false, _) => (least, most),
                    (true, true) => (most, least),
                    (true, false) => (most, most_signed as $bits),
                };
                (<$t>::from_bits(low), <$t>::from_bits(high))
            }
        }
    };
}

real!(
    f32,
    u32,
    i32,
    DataType::F32,
    0x7fc0_0000,
    0x7f80_0000,
    0x0100_0000,    // 2^-125
    4.768_371_6e-7, // 2^-21
    12_582_912.0    // 1.5 * 2^23
);
real!(
    f64,
    u64,
    i64,
    DataType::F64,
    0x7ff8_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0x0020_0000_0000_0000,       // 2^-1021
    1.776_356_839_400_250_5e-15, // 2^-49
    6_755_399_441_055_744.0      // 1.5 * 2^52
);

/// The smallest and the largest of a block; nothing if it holds a NaN or an infinity.
///
/// Of the bits: integers can be compared in any order, which makes vector code of the plainest loop. As
/// an unsigned number the largest bits are those of the negative number farthest from zero, if there is
/// a negative one; and what is no number is farther out than all that are.
#[inline(always)]
pub(super) fn range<R: Real>(values: &[R]) -> Option<(R, R)> {
    let (low, high) = R::range(values);
    (low.is_number() && high.is_number()).then_some((low, high))
}

/// The largest magnitude of a block.
#[inline(always)]
pub(super) fn largest_magnitude<R: Real>(values: &[R]) -> R::Bits {
    let magnitudes = values.iter().map(|value| value.magnitude());
    magnitudes.fold(R::ZERO_BITS, Ord::max)
}

/// Sums that a loop over a block has in flight at once.
const LANES: usize = 16;

/// The mean of `f(value)` over a block.
#[inline(always)]
pub(super) fn mean<R: Real>(values: &[R], f: impl Fn(R) -> R) -> R {
    let mut sums = [R::ZERO; LANES];
    let (vectors, rest) = values.as_chunks::<LANES>();
    for vector in vectors {
        for (sum, value) in sums.iter_mut().zip(vector) {
            *sum = *sum + f(*value);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum = *sum + f(*value);
    }
    let sum = sums.into_iter().fold(R::ZERO, |sum, lane| sum + lane);
    sum / R::of(values.len() as f64)
}
