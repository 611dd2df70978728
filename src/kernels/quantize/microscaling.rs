//! The microscaling formats of the Open Compute Project (*OCP Microscaling Formats Specification*, 1.0):
//! small floats that share a power of two.
//!
//! The specification leaves the choice of the power to the encoder. Its example takes one that cuts
//! off the largest elements of a block, by up to a quarter; here it is the smallest one that does not.

use std::marker::PhantomData;

use super::format::{Code, Format, Narrow};
use super::real::{Real, largest_magnitude};

/// The scale that stands for a block of NaN.
const SCALE_NAN: u8 = 0xff;

/// The bits of the one NaN.
const NAN: u32 = 0x7fc0_0000;

/// Floats of a sign, `EXPONENT` and `FRACTION` bits: E4M3, E5M2, E2M1.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Microscaling<L, const EXPONENT: u32, const FRACTION: u32>(PhantomData<L>);

impl<L, const EXPONENT: u32, const FRACTION: u32> Microscaling<L, EXPONENT, FRACTION> {
    const BIAS: u32 = (1 << (EXPONENT - 1)) - 1;
    const SIGN: u32 = 1 << (EXPONENT + FRACTION);
    /// The largest number's code: above it are NaN (E4M3) or infinity and NaN (E5M2), or nothing (E2M1).
    const LAST: u32 = match (EXPONENT, FRACTION) {
        (4, 3) => 0x7e,
        (5, 2) => 0x7b,
        _ => Self::SIGN - 1,
    };
    /// The exponent of that number.
    const LAST_EXPONENT: i32 = ((Self::LAST >> FRACTION) as i32) - Self::BIAS as i32;
    /// Its fraction, as that of an `f32`.
    const LAST_FRACTION: u32 = (Self::LAST & ((1 << FRACTION) - 1)) << (23 - FRACTION);
    /// The exponent field of an `f32` that is the smallest normal number.
    const SMALLEST_NORMAL: u32 = 127 + 1 - Self::BIAS;

    /// The number of a code.
    #[inline(always)]
    fn number(code: u32) -> f32 {
        let magnitude = code & (Self::SIGN - 1);
        let fraction = magnitude << (23 - FRACTION);
        let normal = f32::from_bits(fraction + ((127 - Self::BIAS) << 23));
        // An implicit one is put before the fraction, and taken off again.
        let smallest = Self::SMALLEST_NORMAL << 23;
        let subnormal = f32::from_bits(fraction + smallest) - f32::from_bits(smallest);
        let number = if magnitude < 1 << FRACTION {
            subnormal
        } else {
            normal
        };
        let number = match (EXPONENT, FRACTION) {
            (4, 3) if magnitude > Self::LAST => f32::from_bits(NAN),
            (5, 2) if magnitude > Self::LAST + 1 => f32::from_bits(NAN),
            (5, 2) if magnitude > Self::LAST => f32::INFINITY,
            _ => number,
        };
        let sign = (code & Self::SIGN) << (31 - EXPONENT - FRACTION);
        // A NaN has none.
        let sign = if number.is_nan() { 0 } else { sign };
        f32::from_bits(number.to_bits() | sign)
    }
}

#[derive(Clone, Copy)]
pub(super) struct Encoder {
    reciprocal: f32,
    last: u32,
}

impl<L: Narrow + Copy, const EXPONENT: u32, const FRACTION: u32> Format
    for Microscaling<L, EXPONENT, FRACTION>
{
    type Real = f32;
    type Layout = L;
    /// The exponent of the scale, E8M0.
    type Parameters = [u8; 1];
    type Encoder = Encoder;
    type Decoder = f32;

    #[inline(always)]
    fn fit(self, values: &[f32]) -> ([u8; 1], Option<Encoder>) {
        let magnitude = largest_magnitude(values);
        if magnitude >= f32::INFINITY_BITS {
            return ([SCALE_NAN], None);
        }
        let exponent = (magnitude >> 23) as i32 - 127;
        let is_beyond = magnitude & 0x007f_ffff > Self::LAST_FRACTION;
        let exponent = exponent - Self::LAST_EXPONENT + i32::from(is_beyond);
        let exponent = exponent.clamp(-127, 127);
        let scale = power_of_two(exponent);
        let mut last = Self::LAST;
        // Only next to the largest number there is.
        if exponent + Self::LAST_EXPONENT > 127 {
            while !(Self::number(last) * scale).is_number() {
                last -= 1;
            }
        }
        let reciprocal = power_of_two(-exponent);
        let parameters = [(exponent + 127) as u8];
        (parameters, Some(Encoder { reciprocal, last }))
    }

    #[inline(always)]
    fn decoder(self, [exponent]: [u8; 1]) -> Option<f32> {
        (exponent != SCALE_NAN).then(|| power_of_two(i32::from(exponent) - 127))
    }

    /// The last code is looked at for each element, in any case.
    #[inline(always)]
    fn fits(_: Encoder) -> bool {
        true
    }

    #[inline(always)]
    fn encode(encoder: Encoder, value: f32) -> Code<Self> {
        Self::encode_clamped(encoder, value, 0.0)
    }

    /// The element in units of its last place, rounded; a carry goes into the exponent by itself.
    #[inline(always)]
    fn encode_clamped(
        Encoder { reciprocal, last }: Encoder,
        value: f32,
        dither: f32,
    ) -> Code<Self> {
        let scaled = value * reciprocal;
        let exponent = (scaled.magnitude() >> 23).max(Self::SMALLEST_NORMAL);
        let units_per_one = f32::from_bits((127 + 127 + FRACTION - exponent) << 23);
        let units = f32::from_bits(scaled.magnitude()) * units_per_one;
        let units = (units + dither + f32::ROUNDING).to_bits() - f32::ROUNDING.to_bits();
        let code = ((exponent - Self::SMALLEST_NORMAL) << FRACTION) + units;
        let sign = (scaled.to_bits() >> (31 - EXPONENT - FRACTION)) & Self::SIGN;
        L::code(code.min(last) | sign)
    }

    #[inline(always)]
    fn decode(scale: f32, code: Code<Self>) -> f32 {
        Self::number(L::bits(code)) * scale
    }
}

/// From -127, which is subnormal, to 127.
#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    match exponent {
        -127 => f32::from_bits(1 << 22),
        _ => f32::from_bits(((exponent + 127) as u32) << 23),
    }
}
