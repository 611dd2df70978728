//! PCCL's two schemes: steps of equal size over the range of a block.

use std::marker::PhantomData;

use super::format::{Format, Layout, Whole};
use super::real::{Real, mean, range};

/// Standard deviations to either side that are kept of a normal block, by bits of a code.
pub(super) fn normal_range(bits: u32) -> f64 {
    match bits {
        ..8 => 2.7,
        8 => 3.9,
        _ => 6.0,
    }
}

/// Whole numbers to either side of zero, as they lie in memory: from `-HALF` to `HALF - 1`.
pub(super) trait Level<R: Real>: Copy {
    const BITS: u32;
    const HALF: f64;
    type Layout: Layout<Code = Self::Bytes>;
    type Bytes: Copy + Default;

    /// Of a whole number in the low bits of a sum with [`Real::ROUNDING`].
    fn of(sum: R) -> Self::Bytes;
    fn number(bytes: Self::Bytes) -> R;
}

macro_rules! level {
    ($real:ty, $t:ty, $bytes:literal, $half:expr) => {
        impl Level<$real> for $t {
            const BITS: u32 = <$t>::BITS;
            const HALF: f64 = $half;
            type Layout = Whole<$bytes>;
            type Bytes = [u8; $bytes];

            #[inline(always)]
            fn of(sum: $real) -> [u8; $bytes] {
                let whole = sum.to_bits().wrapping_sub(<$real>::ROUNDING.to_bits());
                (whole as $t).to_le_bytes()
            }

            #[inline(always)]
            fn number(bytes: [u8; $bytes]) -> $real {
                <$t>::from_le_bytes(bytes) as $real
            }
        }
    };
}

level!(f32, i8, 1, 128.0);
level!(f32, i16, 2, 32_768.0);
level!(f64, i8, 1, 128.0);
level!(f64, i16, 2, 32_768.0);
level!(f64, i32, 4, 2_147_483_648.0);
// As many as `f64` counts exactly, with room for a zero point.
level!(f64, i64, 8, 562_949_953_421_312.0); // 2^49

/// The two numbers of a block, if they are.
#[inline(always)]
fn numbers<R: Real>([first, second]: [R; 2]) -> Option<[R; 2]> {
    (first.is_number() && second.is_number()).then_some([first, second])
}

/// From the smallest element to the largest, counted from the middle between them, so that the
/// widest range does not overflow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MinMax<R, L>(PhantomData<(R, L)>);

#[derive(Clone, Copy)]
pub(super) struct MinMaxEncoder<R> {
    origin: R,
    steps_per_unit: R,
    /// The codes whose elements are numbers.
    first: R,
    last: R,
    fits: bool,
}

impl<R: Real, L: Level<R>> Format for MinMax<R, L> {
    type Real = R;
    type Layout = L::Layout;
    type Encoder = MinMaxEncoder<R>;
    /// Origin and step.
    type Parameters = [R; 2];
    type Decoder = [R; 2];

    #[inline(always)]
    fn fit(self, values: &[R]) -> ([R; 2], Option<Self::Encoder>) {
        let Some((low, high)) = range(values) else {
            return ([R::NAN, R::ZERO], None);
        };
        let (mut first, mut last) = (R::of(-L::HALF), R::of(L::HALF - 1.0));
        if low >= high {
            let encoder = MinMaxEncoder {
                origin: low,
                steps_per_unit: R::ZERO,
                first,
                last,
                fits: true,
            };
            return ([low, R::ZERO], Some(encoder));
        }
        let steps = R::of(2.0 * L::HALF - 1.0);
        let (half, one) = (R::of(0.5), R::of(1.0));
        let mut step = finest(high / steps - low / steps, low, high);
        let middle = low * half + high * half;
        // There are as many codes below the middle as above, and one of them is zero.
        let mut origin = middle + step * half;
        let ends = |origin: R, step: R| [origin + first * step, origin + last * step];
        if ends(origin, step).iter().all(|end| end.is_number()) {
            return Self::fitted(origin, step, first, last, true);
        }
        // Next to the largest number there is. A range as wide as can be is rounded beyond it by a hair.
        step = step * (one - R::FINEST_STEP * half);
        if ends(origin, step).iter().all(|end| end.is_number()) {
            return Self::fitted(origin, step, first, last, false);
        }
        // Elsewhere there is no room for all codes: those that are left reach within a step of it.
        if !origin.is_number() {
            origin = middle;
        }
        let codes_within = |room: R, codes: R, direction: R| {
            let mut codes = (room / step + room / step).least(codes).rounded();
            // The quotient may be rounded up, and be too large by a hair before that.
            for _ in 0..2 {
                if !(origin + direction * codes * step).is_number() {
                    codes = codes - one;
                }
            }
            codes.most(R::ZERO)
        };
        let room = |end: R| R::LARGEST * half + end * half;
        first = -codes_within(room(origin), -first, -one);
        last = codes_within(room(-origin), last, one);
        Self::fitted(origin, step, first, last, false)
    }

    #[inline(always)]
    fn decoder(self, parameters: [R; 2]) -> Option<[R; 2]> {
        numbers(parameters)
    }

    #[inline(always)]
    fn fits(encoder: Self::Encoder) -> bool {
        encoder.fits
    }

    #[inline(always)]
    fn encode(encoder: Self::Encoder, value: R) -> L::Bytes {
        L::of((value - encoder.origin) * encoder.steps_per_unit + R::ROUNDING)
    }

    #[inline(always)]
    fn encode_clamped(encoder: Self::Encoder, value: R, dither: R) -> L::Bytes {
        let steps = (value - encoder.origin) * encoder.steps_per_unit + dither;
        L::of(steps.most(encoder.first).least(encoder.last) + R::ROUNDING)
    }

    #[inline(always)]
    fn decode([origin, step]: [R; 2], code: L::Bytes) -> R {
        origin + L::number(code) * step
    }
}

impl<R: Real, L: Level<R>> MinMax<R, L> {
    #[inline(always)]
    fn fitted(
        origin: R,
        step: R,
        first: R,
        last: R,
        fits: bool,
    ) -> ([R; 2], Option<MinMaxEncoder<R>>) {
        let encoder = MinMaxEncoder {
            origin,
            steps_per_unit: R::of(1.0) / step,
            first,
            last,
            fits,
        };
        ([origin, step], Some(encoder))
    }
}

/// A step so large that elements are counted by it exactly, and that its reciprocal is finite.
#[inline(always)]
fn finest<R: Real>(step: R, low: R, high: R) -> R {
    step.most(high.most(-low) * R::FINEST_STEP)
        .most(R::SMALLEST_STEP)
}

/// Multiples of a scale: zero is among them, if it is in range.
#[derive(Clone, Copy, Debug)]
pub(super) struct ZeroPointScale<R, L> {
    clips: bool,
    types: PhantomData<(R, L)>,
}

impl<R, L> ZeroPointScale<R, L> {
    /// `clips`: a normal block's outliers.
    pub(super) fn new(clips: bool) -> Self {
        let types = PhantomData;
        Self { clips, types }
    }
}

#[derive(Clone, Copy)]
pub(super) struct ZeroPointScaleEncoder<R> {
    steps_per_unit: R,
    /// The multiples that there are codes for.
    first: R,
    last: R,
    /// That of code 0.
    centre: R,
    fits: bool,
}

impl<R: Real, L: Level<R>> Format for ZeroPointScale<R, L> {
    type Real = R;
    type Layout = L::Layout;
    type Encoder = ZeroPointScaleEncoder<R>;
    /// The scale, and the multiple of it that code 0 stands for.
    type Parameters = [R; 2];
    type Decoder = [R; 2];

    #[inline(always)]
    fn fit(self, values: &[R]) -> ([R; 2], Option<Self::Encoder>) {
        let Some((mut low, mut high)) = range(values) else {
            return ([R::NAN, R::ZERO], None);
        };
        let one = R::of(1.0);
        if low >= high {
            // The reciprocal of a tiny scale would be infinite; there is but one code anyway.
            let encoder = ZeroPointScaleEncoder {
                steps_per_unit: R::ZERO,
                first: one,
                last: one,
                centre: one,
                fits: false,
            };
            return ([low, one], Some(encoder));
        }
        let mut fits = true;
        if self.clips {
            (low, high) = clipped(values, low, high, L::BITS);
            fits = false;
        }
        // One less than there are: rounding both ends may take one more.
        let steps = R::of(2.0 * L::HALF - 2.0);
        let scale = finest(high / steps - low / steps, low, high);
        let steps_per_unit = one / scale;
        let mut first = (low * steps_per_unit).rounded();
        let centre = first + R::of(L::HALF);
        // As it is encoded: of two codes equally near, an odd centre turns the even one into the odd one.
        let mut last = (high * steps_per_unit + (R::ROUNDING - centre)) - (R::ROUNDING - centre);
        // The ends of the widest ranges would be rounded to infinity.
        if !(first * scale).is_number() {
            first = first + one;
            fits = false;
        }
        if !(last * scale).is_number() {
            last = last - one;
            fits = false;
        }
        let encoder = ZeroPointScaleEncoder {
            steps_per_unit,
            first,
            last,
            centre,
            fits,
        };
        ([scale, centre], Some(encoder))
    }

    #[inline(always)]
    fn decoder(self, parameters: [R; 2]) -> Option<[R; 2]> {
        numbers(parameters)
    }

    #[inline(always)]
    fn fits(encoder: Self::Encoder) -> bool {
        encoder.fits
    }

    #[inline(always)]
    fn encode(encoder: Self::Encoder, value: R) -> L::Bytes {
        L::of(value * encoder.steps_per_unit + (R::ROUNDING - encoder.centre))
    }

    #[inline(always)]
    fn encode_clamped(encoder: Self::Encoder, value: R, dither: R) -> L::Bytes {
        let steps = value * encoder.steps_per_unit + dither;
        let steps = steps.most(encoder.first).least(encoder.last);
        L::of(steps + (R::ROUNDING - encoder.centre))
    }

    #[inline(always)]
    fn decode([scale, centre]: [R; 2], code: L::Bytes) -> R {
        (L::number(code) + centre) * scale
    }
}

/// The range of a normal block without its outliers; the range itself where its moments overflow.
#[inline(always)]
fn clipped<R: Real>(values: &[R], low: R, high: R, bits: u32) -> (R, R) {
    let center = mean(values, |value| value);
    let variance = mean(values, |value| (value - center) * (value - center));
    let reach = variance.square_root() * R::of(normal_range(bits));
    if !reach.is_number() || !center.is_number() || reach <= R::ZERO {
        return (low, high);
    }
    (low.most(center - reach), high.least(center + reach))
}
