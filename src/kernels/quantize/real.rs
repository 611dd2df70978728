//! The numbers that quantization calculates with.

use std::ops::{Add, Div, Mul, Neg, Sub};

use zerocopy::{FromBytes, Immutable, IntoBytes};

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
    + 'static
{
    /// Bits as an unsigned number.
    type Bits: Copy + Ord;

    const DATA_TYPE: DataType;
    const ZERO: Self;
    const MAX: Self;
    const NAN: Self;
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
    ($t:ty, $bits:ty, $data_type:expr, $nan:literal, $infinity:literal, $smallest:literal,
     $finest:literal, $rounding:literal) => {
        impl Real for $t {
            type Bits = $bits;

            const DATA_TYPE: DataType = $data_type;
            const ZERO: Self = 0.0;
            const MAX: Self = <$t>::MAX;
            const NAN: Self = <$t>::from_bits($nan);
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
        }
    };
}

real!(
    f32,
    u32,
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
    DataType::F64,
    0x7ff8_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0x0020_0000_0000_0000,       // 2^-1021
    1.776_356_839_400_250_5e-15, // 2^-49
    6_755_399_441_055_744.0      // 1.5 * 2^52
);

/// Numbers that a loop over a block has in flight at once: two vectors of the widest kind.
const LANES: usize = 32;

/// The smallest and the largest of a block, and its largest magnitude. NaN is passed over in the
/// former, and seen in the latter.
#[inline(always)]
pub(super) fn range<R: Real>(values: &[R]) -> (R, R, R::Bits) {
    let mut lows = [R::MAX; LANES];
    let mut highs = [-R::MAX; LANES];
    let mut magnitudes = [R::ZERO_BITS; LANES];
    let (vectors, rest) = values.as_chunks::<LANES>();
    for vector in vectors {
        for lane in 0..LANES {
            let value = vector[lane];
            lows[lane] = value.least(lows[lane]);
            highs[lane] = value.most(highs[lane]);
            magnitudes[lane] = magnitudes[lane].max(value.magnitude());
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        lows[lane] = value.least(lows[lane]);
        highs[lane] = value.most(highs[lane]);
        magnitudes[lane] = magnitudes[lane].max(value.magnitude());
    }
    (
        lows.into_iter().fold(R::MAX, R::least),
        highs.into_iter().fold(-R::MAX, R::most),
        magnitudes.into_iter().fold(R::ZERO_BITS, Ord::max),
    )
}

/// The largest magnitude of a block.
#[inline(always)]
pub(super) fn largest_magnitude<R: Real>(values: &[R]) -> R::Bits {
    let mut magnitudes = [R::ZERO_BITS; LANES];
    let (vectors, rest) = values.as_chunks::<LANES>();
    for vector in vectors {
        for lane in 0..LANES {
            magnitudes[lane] = magnitudes[lane].max(vector[lane].magnitude());
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        magnitudes[lane] = magnitudes[lane].max(value.magnitude());
    }
    magnitudes.into_iter().fold(R::ZERO_BITS, Ord::max)
}

/// The mean of `f(value)` over a block.
#[inline(always)]
pub(super) fn mean<R: Real>(values: &[R], f: impl Fn(R) -> R) -> R {
    let mut sums = [R::ZERO; LANES];
    let (vectors, rest) = values.as_chunks::<LANES>();
    for vector in vectors {
        for lane in 0..LANES {
            sums[lane] = sums[lane] + f(vector[lane]);
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        sums[lane] = sums[lane] + f(*value);
    }
    let sum = sums.into_iter().fold(R::ZERO, |sum, lane| sum + lane);
    sum / R::of(values.len() as f64)
}
