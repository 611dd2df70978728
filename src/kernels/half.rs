//! Half-precision elements: widened to `f32`, combined, rounded.

use ::half::{bf16, f16};

use super::reduce::{Element, Operands};
use super::route::Instructions;

/// Bits of a half-precision float, in the lower half of a word, to `f32` and back.
///
/// No branches and no tables: integer arithmetic and selects, and for the subnormal numbers of `f16`
/// one addition or subtraction of floats. Loops over these become vector code of any processor.
pub(super) trait Half: Sized {
    const INFINITY: u16;
    const NAN: u16;

    fn widen(bits: u32) -> f32;
    /// To nearest, ties to even.
    fn narrow(number: f32) -> u32;

    /// Combines all elements of `operands` by `step`.
    #[inline(always)]
    fn combine(_: impl Instructions, operands: impl Operands, step: impl Fn(f32, f32) -> f32) {
        combine_pairs::<Self>(operands, step);
    }
}

/// The larger of two elements, without a detour through `f32`.
#[inline(always)]
pub(super) fn larger<H: Half>(a: u16, b: u16) -> u16 {
    ordered::<H>(a, b, order(a) > order(b))
}

#[inline(always)]
pub(super) fn smaller<H: Half>(a: u16, b: u16) -> u16 {
    ordered::<H>(a, b, order(a) < order(b))
}

#[inline(always)]
fn ordered<H: Half>(a: u16, b: u16, take_first: bool) -> u16 {
    let chosen = if take_first { a } else { b };
    let is_nan = |bits: u16| bits & 0x7fff > H::INFINITY;
    if is_nan(a) | is_nan(b) {
        H::NAN
    } else {
        chosen
    }
}

/// Numbers that compare like the elements; the two zeros are equal.
#[inline(always)]
fn order(bits: u16) -> i16 {
    let magnitude = (bits & 0x7fff) as i16;
    if bits > 0x7fff { -magnitude } else { magnitude }
}

/// Two elements at a time in one word: no lane of a vector has to change its place.
#[inline(always)]
pub(super) fn combine_pairs<H: Half>(operands: impl Operands, step: impl Fn(f32, f32) -> f32) {
    let (pairs, last) = operands.split(4);
    pairs.combine::<4>(|a, b| {
        let (a, b) = (u32::from_ne_bytes(a), u32::from_ne_bytes(b));
        let low = step(H::widen(a & 0xffff), H::widen(b & 0xffff));
        let high = step(H::widen(a >> 16), H::widen(b >> 16));
        (H::narrow(low) | H::narrow(high) << 16).to_ne_bytes()
    });
    last.combine::<2>(|a, b| H::store(step(H::load(a), H::load(b))));
}

impl Half for bf16 {
    const INFINITY: u16 = 0x7f80;
    const NAN: u16 = 0x7fc0;

    #[inline(always)]
    fn widen(bits: u32) -> f32 {
        f32::from_bits(bits << 16)
    }

    /// The one NaN needs no care: its lower half is 0, and nothing carries.
    #[inline(always)]
    fn narrow(number: f32) -> u32 {
        let bits = number.to_bits();
        bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16
    }
}

/// What the exponent of an `f16` lacks to that of an `f32`.
const REBIAS: u32 = (127 - 15) << 23;
/// The smallest normal `f16`, as `f32`.
const SMALLEST_NORMAL: u32 = REBIAS + (1 << 23);
/// The power of two that no finite `f16` reaches, as `f32`.
const TOO_LARGE: u32 = (127 + 16) << 23;

impl Half for f16 {
    const INFINITY: u16 = 0x7c00;
    const NAN: u16 = 0x7e00;

    #[inline(always)]
    fn widen(bits: u32) -> f32 {
        let sign = (bits & 0x8000) << 16;
        let shifted = (bits & 0x7fff) << 13;
        let normal = shifted + REBIAS;
        let infinite_or_nan = normal + REBIAS;
        // An implicit one is put before the fraction, and taken off again.
        let subnormal = f32::from_bits(shifted + SMALLEST_NORMAL) - f32::from_bits(SMALLEST_NORMAL);
        let magnitude = if shifted >= 0x7c00 << 13 {
            infinite_or_nan
        } else {
            normal
        };
        let magnitude = if shifted < 0x400 << 13 {
            subnormal.to_bits()
        } else {
            magnitude
        };
        f32::from_bits(sign | magnitude)
    }

    #[inline(always)]
    fn narrow(number: f32) -> u32 {
        let sign = (number.to_bits() >> 16) & 0x8000;
        let magnitude = number.to_bits() & 0x7fff_ffff;
        let odd = (magnitude >> 13) & 1;
        let normal = magnitude.wrapping_sub(REBIAS).wrapping_add(0xfff + odd) >> 13;
        // In the sum, one unit of the subnormals is the last place: the addition rounds to it.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits();
        let subnormal = subnormal.wrapping_sub(0.5f32.to_bits());
        let infinite_or_nan = if magnitude > 0x7f80_0000 {
            0x7e00
        } else {
            0x7c00
        };
        let half = if magnitude >= TOO_LARGE {
            infinite_or_nan
        } else {
            normal
        };
        let half = if magnitude < SMALLEST_NORMAL {
            subnormal
        } else {
            half
        };
        sign | half
    }

    #[inline(always)]
    fn combine(
        instructions: impl Instructions,
        operands: impl Operands,
        step: impl Fn(f32, f32) -> f32,
    ) {
        instructions.combine_f16(operands, step);
    }
}

impl<H: Half> Element<2> for H {
    type Number = f32;

    #[inline(always)]
    fn load(bytes: [u8; 2]) -> f32 {
        H::widen(u16::from_ne_bytes(bytes).into())
    }

    #[inline(always)]
    fn store(number: f32) -> [u8; 2] {
        (H::narrow(number) as u16).to_ne_bytes()
    }

    #[inline(always)]
    fn combine(
        instructions: impl Instructions,
        operands: impl Operands,
        step: impl Fn(f32, f32) -> f32,
    ) {
        <H as Half>::combine(instructions, operands, step);
    }
}
