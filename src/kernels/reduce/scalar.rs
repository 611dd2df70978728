//! The definition of every reduction: what one element and another give, to the bit.
//!
//! All of it is free of branches and inlined, so that a loop over it becomes vector code of
//! whatever the loop is compiled for (see `kernels::route`). For that, small integers are divided
//! as floats, with one conversion that is `unsafe` (`by_float!`). The plainest reading of the
//! definition is in the tests beside, and every route is compared with it.

use std::num::NonZeroU32;

use super::operands::Operands;
use crate::kernels::route::Instructions;

/// A type of elements, each `N` bytes in memory and a number to calculate with.
pub(in crate::kernels) trait Element<const N: usize> {
    type Number: Number;
    fn load(bytes: [u8; N]) -> Self::Number;
    /// Of floats only those that the arithmetic below gives, which makes no NaN but the one.
    fn store(number: Self::Number) -> [u8; N];

    /// Combines all elements of `operands` by `step`.
    #[inline(always)]
    fn combine(
        _: impl Instructions,
        operands: impl Operands,
        step: impl Fn(Self::Number, Self::Number) -> Self::Number,
    ) {
        operands.combine::<N>(|a, b| Self::store(step(Self::load(a), Self::load(b))));
    }
}

pub(in crate::kernels) trait Number: Copy {
    fn sum(self, other: Self) -> Self;
    fn product(self, other: Self) -> Self;
    fn larger(self, other: Self) -> Self;
    fn smaller(self, other: Self) -> Self;
    /// `(self + other) / world_size`
    fn average(self, other: Self, world_size: NonZeroU32) -> Self;
}

macro_rules! own_bytes {
    ($($t:ty, $bytes:literal;)*) => {$(
        impl Element<$bytes> for $t {
            type Number = $t;
            #[inline(always)]
            fn load(bytes: [u8; $bytes]) -> $t {
                <$t>::from_ne_bytes(bytes)
            }
            #[inline(always)]
            fn store(number: $t) -> [u8; $bytes] {
                number.to_ne_bytes()
            }
        }
    )*};
}

own_bytes! {
    u8, 1; i8, 1; u16, 2; i16, 2; u32, 4; i32, 4; u64, 8; i64, 8; f32, 4; f64, 8;
}

/// `$float` holds the dividend exactly, and a quotient that is no whole number is off by far less
/// than its distance from the next one: truncation finds the same. Vector units divide it fast.
macro_rules! by_float {
    ($dividend:expr, $world_size:expr, $float:ty, $whole:ty) => {{
        let quotient = <$float>::from($dividend) / $world_size.get() as $float;
        #[allow(
            unsafe_code,
            reason = "`as` saturates, which takes vector code further instructions"
        )]
        // SAFETY: the divisor is at least 1, so the quotient is finite and as small as the
        // dividend, which `$whole` holds.
        unsafe {
            quotient.to_int_unchecked::<$whole>()
        }
    }};
}

macro_rules! by_f32 {
    ($dividend:expr, $world_size:expr) => {
        by_float!($dividend, $world_size, f32, i32)
    };
}

macro_rules! by_f64 {
    ($dividend:expr, $world_size:expr) => {
        by_float!($dividend, $world_size, f64, Self)
    };
}

/// No float is wide enough. A world size fits into both.
macro_rules! by_integer {
    ($dividend:expr, $world_size:expr) => {
        $dividend / Self::from($world_size.get())
    };
}

macro_rules! integer {
    ($($t:ty, $divided:ident;)*) => {$(
        impl Number for $t {
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
            fn average(self, other: Self, world_size: NonZeroU32) -> Self {
                $divided!(self.wrapping_add(other), world_size) as $t
            }
        }
    )*};
}

integer! {
    u8, by_f32;
    i8, by_f32;
    u16, by_f32;
    i16, by_f32;
    u32, by_f64;
    i32, by_f64;
    u64, by_integer;
    i64, by_integer;
}

macro_rules! float {
    ($($t:ty, $nan:literal;)*) => {$(
        impl Number for $t {
            #[inline(always)]
            fn sum(self, other: Self) -> Self {
                one_nan!($t, $nan, self + other)
            }
            #[inline(always)]
            fn product(self, other: Self) -> Self {
                one_nan!($t, $nan, self * other)
            }
            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                // Of two equal operands (zeros of either sign) the second is taken.
                let larger = if self > other { self } else { other };
                if self.is_nan() | other.is_nan() { <$t>::from_bits($nan) } else { larger }
            }
            #[inline(always)]
            fn smaller(self, other: Self) -> Self {
                let smaller = if self < other { self } else { other };
                if self.is_nan() | other.is_nan() { <$t>::from_bits($nan) } else { smaller }
            }
            #[inline(always)]
            fn average(self, other: Self, world_size: NonZeroU32) -> Self {
                one_nan!($t, $nan, (self + other) / (world_size.get() as $t))
            }
        }
    )*};
}

/// Which NaN arithmetic gives differs by processor, and by the order in which the compiler names
/// the operands of an addition.
macro_rules! one_nan {
    ($t:ty, $nan:literal, $result:expr) => {{
        let result: $t = $result;
        if result.is_nan() {
            <$t>::from_bits($nan)
        } else {
            result
        }
    }};
}

float! {
    f32, 0x7fc0_0000;
    f64, 0x7ff8_0000_0000_0000;
}
