//! Block-wise integers: multiples of one scale, as many to either side of zero.

use std::marker::PhantomData;

use super::affine::normal_range;
use super::format::{Code, Format, Narrow};
use super::real::{Real, largest_magnitude, mean};

/// Codes in two's complement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symmetric<L> {
    clips: bool,
    layout: PhantomData<L>,
}

impl<L: Narrow> Symmetric<L> {
    /// `clips`: a normal block's outliers.
    pub(super) fn new(clips: bool) -> Self {
        let layout = PhantomData;
        Self { clips, layout }
    }

    /// The number of a code.
    #[inline(always)]
    fn number(code: L::Code) -> f32 {
        let unused = 32 - L::BITS;
        ((L::bits(code) << unused) as i32 >> unused) as f32
    }
}

#[derive(Clone, Copy)]
pub(super) struct Encoder {
    steps_per_unit: f32,
    last: f32,
    fits: bool,
}

impl<L: Narrow + Copy> Format for Symmetric<L> {
    type Real = f32;
    type Layout = L;
    /// The scale, a `bf16`.
    type Parameters = [u8; 2];
    type Encoder = Encoder;
    type Decoder = f32;

    #[inline(always)]
    fn fit(self, values: &[f32]) -> ([u8; 2], Option<Encoder>) {
        let magnitude = largest_magnitude(values);
        if magnitude >= f32::INFINITY_BITS {
            return (bf16(f32::NAN.to_bits()), None);
        }
        let mut largest = f32::from_bits(magnitude);
        let mut fits = true;
        if self.clips {
            fits = false;
            let reach = mean(values, |value| value * value).sqrt() * normal_range(L::BITS) as f32;
            if reach > 0.0 {
                largest = largest.least(reach);
            }
        }
        let mut last = ((1 << (L::BITS - 1)) - 1) as f32;
        let scale = largest / last;
        let scale = if scale > 0.0 {
            scale.most(f32::SMALLEST_STEP)
        } else {
            scale
        };
        // Up, so that the largest is still among the multiples.
        let scale_bits = (scale.to_bits() + 0xffff) & 0xffff_0000;
        let scale = f32::from_bits(scale_bits);
        while !(last * scale).is_number() {
            last -= 1.0;
            fits = false;
        }
        let steps_per_unit = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let encoder = Encoder {
            steps_per_unit,
            last,
            fits,
        };
        (bf16(scale_bits), Some(encoder))
    }

    #[inline(always)]
    fn decoder(self, parameters: [u8; 2]) -> Option<f32> {
        let bits = u16::from_le_bytes(parameters);
        let scale = f32::from_bits(u32::from(bits) << 16);
        scale.is_number().then_some(scale)
    }

    #[inline(always)]
    fn fits(encoder: Encoder) -> bool {
        encoder.fits
    }

    #[inline(always)]
    fn encode(encoder: Encoder, value: f32) -> Code<Self> {
        L::code((value * encoder.steps_per_unit + f32::ROUNDING).to_bits())
    }

    #[inline(always)]
    fn encode_clamped(encoder: Encoder, value: f32, dither: f32) -> Code<Self> {
        let steps = value * encoder.steps_per_unit + dither;
        let steps = steps.most(-encoder.last).least(encoder.last);
        L::code((steps + f32::ROUNDING).to_bits())
    }

    #[inline(always)]
    fn decode(scale: f32, code: Code<Self>) -> f32 {
        Self::number(code) * scale
    }
}

/// The upper half of a float's bits.
#[inline(always)]
fn bf16(bits: u32) -> [u8; 2] {
    ((bits >> 16) as u16).to_le_bytes()
}
